/**
 * `npm run chaos`: rounds of faults on a cluster of real processes, with a bank at work, until the
 * time is over or something is wrong. Each fault is a line; a status line shows how the callers
 * fare. Ends with a summary, and with exit code 1, the seed and the outputs of all processes in a
 * folder when a check failed.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { startChaos, type ChaosReport } from "./chaos.ts";
import { FAULT_KINDS, type FaultKind } from "./faults.ts";
import { listText } from "../../src/command-line.ts";
import { messageOf } from "../../src/message-of.ts";

const USAGE = `Usage: npm run chaos -- [options]
  --minutes <0.1-1440>   no further round begins after this time (5)
  --seed <number>        repeats the faults and the commands (from the clock)
  --round <5-600>        seconds of faults in a round (30)
  --hosts <2-9>          hosts (3); --gateways <1-9> (2); --databases <1-4> (1)
  --callers <1-200>      callers with one command at a time each (12)
${listText("  --only <fault,...>     only these:", FAULT_KINDS, 25)}
  --help`;

interface Settings {
  readonly minutes: number;
  readonly seed: number;
  readonly roundSeconds: number;
  readonly hosts: number;
  readonly gateways: number;
  readonly databases: number;
  readonly callers: number;
  readonly kinds: readonly FaultKind[];
}

function readSettings(): Settings {
  const { values } = parseArgs({
    options: {
      minutes: { type: "string", default: "5" },
      seed: { type: "string", default: String(Date.now() % 1_000_000) },
      round: { type: "string", default: "30" },
      hosts: { type: "string", default: "3" },
      gateways: { type: "string", default: "2" },
      databases: { type: "string", default: "1" },
      callers: { type: "string", default: "12" },
      only: { type: "string", default: FAULT_KINDS.join(",") },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    process.stdout.write(`${USAGE}\n`);
    process.exit(0);
  }
  const kinds = values.only.split(",") as FaultKind[];
  const strange = kinds.find((kind) => !FAULT_KINDS.includes(kind));
  if (strange !== undefined) {
    throw new Error(`--only takes faults out of ${FAULT_KINDS.join(", ")}, not "${strange}"`);
  }
  return {
    minutes: numberIn("--minutes", values.minutes, 0.1, 1_440),
    seed: wholeIn("--seed", values.seed, 0, 2 ** 31),
    roundSeconds: numberIn("--round", values.round, 5, 600),
    hosts: wholeIn("--hosts", values.hosts, 2, 9),
    gateways: wholeIn("--gateways", values.gateways, 1, 9),
    databases: wholeIn("--databases", values.databases, 1, 4),
    callers: wholeIn("--callers", values.callers, 1, 200),
    kinds,
  };
}

function numberIn(name: string, text: string, lowest: number, highest: number): number {
  const value = Number(text);
  if (text !== "" && value >= lowest && value <= highest) return value;
  throw new Error(`${name} takes a number from ${lowest} to ${highest}, not "${text}"`);
}

function wholeIn(name: string, text: string, lowest: number, highest: number): number {
  const value = /^\d{1,10}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= lowest && value <= highest) return value;
  throw new Error(`${name} takes a whole number from ${lowest} to ${highest}, not "${text}"`);
}

const STATUS_MS = 500;
/** Without a terminal, a line now and then is enough. */
const STATUS_LINES_MS = 10_000;

async function run(settings: Settings): Promise<ChaosReport> {
  const isTerminal = process.stdout.isTTY;
  const clear = isTerminal ? "\r\u001b[K" : "";
  const { minutes, roundSeconds, ...options } = settings;
  const chaos = startChaos({
    ...options,
    roundMs: roundSeconds * 1_000,
    totalMs: minutes * 60_000,
    log: (line) => void process.stdout.write(`${clear}${line}\n`),
  });
  const status = (): void => {
    const text = statusOf(chaos.report());
    process.stdout.write(isTerminal ? `${clear}${text}` : `              ${text}\n`);
  };
  const timer = setInterval(status, isTerminal ? STATUS_MS : STATUS_LINES_MS);
  try {
    return await chaos.done;
  } finally {
    clearInterval(timer);
    process.stdout.write(clear);
  }
}

function statusOf({ answers, faults, frames, reads }: ChaosReport): string {
  const count = [...faults.values()].reduce((sum, number) => sum + number, 0);
  const { acknowledged, rejected, unavailable, unknown, wrong } = answers;
  return (
    `acknowledged ${acknowledged}, rejected ${rejected}, unavailable ${unavailable}, ` +
    `unknown ${unknown}, wrong ${wrong} | ${reads} reads, ${frames} frames | ${count} faults`
  );
}

function summaryOf(report: ChaosReport, seed: number): string {
  const { problems, rounds, faults, feedConnections, silenceMs, healMs } = report;
  const { commands, batches, dryRuns, done, streamEvents, streamMessages, expired } = report;
  const listed = (counts: ReadonlyMap<string, number>): string =>
    [...counts].map(([kind, count]) => `${kind} ${count}`).join(", ");
  return [
    "",
    `seed ${seed}, ${rounds} round${rounds === 1 ? "" : "s"}`,
    statusOf(report),
    `${commands} commands under keys, ${batches} batches sent, ${dryRuns} dry runs; done: ${listed(done)}`,
    `the stream told ${streamEvents} events in ${streamMessages} messages; ${expired} holds expired`,
    `faults: ${listed(faults)}`,
    `feeds connected ${feedConnections} times; longest time without any acknowledgement ` +
      `${Math.round(silenceMs)} ms; ready again at most ${Math.round(healMs)} ms after the last fault`,
    problems.length === 0
      ? "every check holds: nothing lost, doubled, made or reordered"
      : `WRONG:\n${problems.map((problem) => `  ${problem}`).join("\n")}`,
    "",
  ].join("\n");
}

function keepOutputs({ outputs }: ChaosReport, seed: number): string {
  const folder = join(tmpdir(), `coffer-chaos-${seed}`);
  mkdirSync(folder, { recursive: true });
  for (const [id, output] of outputs) writeFileSync(join(folder, `${id}.log`), output);
  return folder;
}

let settings: Settings;
try {
  settings = readSettings();
} catch (error) {
  process.stderr.write(`${messageOf(error)}\n${USAGE}\n`);
  process.exit(2);
}
// Also for whoever does not wait for the end.
process.stdout.write(`seed ${settings.seed}\n`);
const report = await run(settings);
process.stdout.write(summaryOf(report, settings.seed));
if (report.problems.length > 0) {
  const folder = keepOutputs(report, settings.seed);
  process.stdout.write(`The processes' outputs are in ${folder}\n`);
  process.exitCode = 1;
}
