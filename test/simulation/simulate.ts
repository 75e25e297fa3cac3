/**
 * The simulator's command line: one seed, or many on all cores. A seed that fails is run once more
 * with its trace, since every run of a seed is the same, and what the trace says of the wallets,
 * transfers and commands concerned is printed.
 *
 *     npm run simulate -- --seed 42              one seed; --trace <file> keeps all of its trace
 *     npm run simulate -- --seeds 1000           as many, from --from on (default 1)
 *     npm run simulate -- --seeds 50 --plant noDurableVerdict --first
 *                                                until the planted bug is found
 *     npm run simulate -- --seeds 500 --plants   and then each bug, all of which have to be found
 */
import { writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { PLANTS, type Plant } from "./plants.ts";
import { simulate, type RunResult } from "./world.ts";
import { listText } from "../../src/command-line.ts";
import { messageOf } from "../../src/message-of.ts";

/** What one run comes to; without its trace. */
export type Summary = Omit<RunResult, "lines">;

export interface Series {
  readonly from: number;
  readonly seeds: number;
  readonly plant?: Plant | undefined;
  /** Ends the series at the first violation. */
  readonly isFirstEnough?: boolean;
  readonly onRun?: (summary: Summary, done: number) => void;
}

interface Job {
  readonly seed: number;
  readonly plant: Plant | undefined;
}

/**
 * A thread for each core. They stay from one series to the next, since code that has run for a
 * while runs several times as fast.
 */
export interface Crew {
  /**
   * Runs seeds in their order; resolves with what failed, in the same order. One series at a time.
   */
  run(series: Series): Promise<Summary[]>;
  end(): Promise<void>;
}

function gatherCrew(): Crew {
  const workers = Array.from({ length: availableParallelism() }, () => {
    return new Worker(new URL(import.meta.url), { workerData: { simulation: true } });
  });

  function carryOut(worker: Worker, job: Job): Promise<Summary> {
    return new Promise((resolve, reject) => {
      const onExit = (): void => reject(new Error(`the thread ended at seed ${job.seed}`));
      worker.once("error", reject).once("exit", onExit);
      worker.once("message", (summary: Summary) => {
        worker.off("error", reject).off("exit", onExit);
        resolve(summary);
      });
      worker.postMessage(job);
    });
  }

  async function run(series: Series): Promise<Summary[]> {
    const { from, seeds, plant, isFirstEnough = false, onRun } = series;
    const failed: Summary[] = [];
    let next = from;
    let done = 0;
    /** Each takes the next seed when it is done with one, and ends what it has begun. */
    const work = async (worker: Worker): Promise<void> => {
      while (next < from + seeds && !(isFirstEnough && failed.length > 0)) {
        const seed = next;
        next += 1;
        const summary = await carryOut(worker, { seed, plant });
        done += 1;
        if (summary.violations.length > 0) failed.push(summary);
        onRun?.(summary, done);
      }
    };
    await Promise.all(workers.map(work));
    return failed.toSorted((one, other) => one.seed - other.seed);
  }

  return {
    run,
    async end() {
      await Promise.all(workers.map((worker) => worker.terminate()));
    },
  };
}

async function carryOutHere({ seed, plant }: Job): Promise<void> {
  const { lines: _, ...summary } = await simulate({ seed, plant });
  parentPort!.postMessage(summary);
}

// --- The command line ----------------------------------------------------------------------------

const SEEDS_DEFAULT = 100;
const TOLD_LINES_MAX = 160;
const LAST_LINES = 60;
const VIOLATIONS_TOLD_MAX = 8;
/** Failing seeds that are run again for their trace. */
const TRACED_MAX = 3;

/** Lines that name what the violations name; without any, the last ones. */
export function tellingLines(lines: readonly string[], violations: readonly string[]): string[] {
  const named = violations
    .join(" ")
    .match(/\b(wallet-\d+|(?:key|made|dry)-\d+|[\da-f]{8}-[\da-f]{4}-4[\da-f-]{22})\b/g);
  const names = [...new Set(named)].map((name) => new RegExp(`\\b${name}\\b`));
  const told = lines.filter((line) => names.some((name) => name.test(line)));
  return told.length > 0 ? told.slice(-TOLD_LINES_MAX) : lines.slice(-LAST_LINES);
}

/** What was met, each kind on a line of its own, or on several where it is long. */
export function metText(counts: ReadonlyMap<string, number>): string {
  const kinds = new Map<string, string[]>();
  for (const [what, count] of [...counts].toSorted()) {
    const [kind, name] = what.split(": ") as [string, string];
    kinds.set(kind, [...(kinds.get(kind) ?? []), `${name} ${count}`]);
  }
  return [...kinds].map(([kind, names]) => listText(`  ${kind}:`, names, 4)).join("\n");
}

const LINE_LENGTH = 400;

function cut(text: string): string {
  return text.length <= LINE_LENGTH ? text : `${text.slice(0, LINE_LENGTH)}...`;
}

function print(text: string): void {
  process.stdout.write(`${text}\n`);
}

function printViolations({ seed, plan, violations }: Summary): void {
  print(`\nseed ${seed}: ${plan}`);
  for (const violation of violations.slice(0, VIOLATIONS_TOLD_MAX)) print(`  ${violation}`);
  const more = violations.length - VIOLATIONS_TOLD_MAX;
  if (more > 0) print(`  and ${more} more`);
}

async function runOne(seed: number, plant: Plant | undefined, traceFile: string | undefined) {
  const result = await simulate({ seed, plant, trace: true });
  const { violations, lines, digest, events, virtualMs, commands } = result;
  printViolations(result);
  if (traceFile !== undefined) {
    writeFileSync(traceFile, lines.join("\n"));
    print(`the trace, ${lines.length} lines, is in ${traceFile}`);
  } else if (violations.length > 0) {
    print("");
    for (const line of tellingLines(lines, violations)) print(cut(line));
  }
  const verdict = violations.length === 0 ? "nothing is wrong" : "violated";
  const length = `${(virtualMs / 1_000).toFixed(1)} s of virtual time`;
  print(
    `\nseed ${seed}: ${verdict}; ${length}, ${events} events, ${commands} commands, digest ${digest}`,
  );
  return violations.length === 0;
}

async function runMany(crew: Crew, series: Series): Promise<boolean> {
  const { from, seeds, plant } = series;
  const startedAtMs = performance.now();
  const counts = new Map<string, number>();
  let virtualMs = 0;
  let failures = 0;
  let runs = 0;
  const failed = await crew.run({
    ...series,
    onRun(summary, done) {
      runs = done;
      virtualMs += summary.virtualMs;
      for (const [what, count] of summary.counts) {
        counts.set(what, (counts.get(what) ?? 0) + count);
      }
      if (summary.violations.length > 0) {
        failures += 1;
        printViolations(summary);
      }
      if (process.stdout.isTTY) process.stdout.write(`\r${done} of ${seeds}, ${failures} failed `);
      else if (done % 100 === 0) print(`${done} of ${seeds}, ${failures} failed`);
    },
  });
  for (const { seed } of failed.slice(0, TRACED_MAX)) await runOne(seed, plant, undefined);
  const seconds = (performance.now() - startedAtMs) / 1_000;
  print(`\nmet:\n${metText(counts)}`);
  print(
    `${runs} of ${seeds} seeds from ${from}, ${failed.length} failed; ${(virtualMs / 3_600_000).toFixed(1)} h of ` +
      `virtual time in ${seconds.toFixed(0)} s, ${(runs / seconds).toFixed(1)} seeds/s`,
  );
  if (failed.length > 0) print(`failed: ${failed.map(({ seed }) => seed).join(" ")}`);
  return failed.length === 0;
}

/** Each bug in turn, until a seed finds it; how it looks is printed by `--plant`. */
async function runPlants(crew: Crew, { from, seeds }: Series): Promise<boolean> {
  let isEachFound = true;
  for (const plant of PLANTS) {
    const [first] = await crew.run({ from, seeds, plant, isFirstEnough: true });
    if (first === undefined) {
      isEachFound = false;
      print(`planted ${plant}: not found`);
      continue;
    }
    const [line] = first.violations[0]!.split("\n");
    print(`planted ${plant}: found by seed ${first.seed}, ${cut(line!)}`);
  }
  return isEachFound;
}

const USAGE = `Usage: npm run simulate -- [options]
  --seed <number>     one seed, with what went wrong in it
  --trace <file>      with --seed: keeps all of its trace there
  --seeds <count>     as many seeds, on all cores (${SEEDS_DEFAULT})
  --from <number>     the first of them (1)
  --first             ends at the first seed that fails
${listText("  --plant <bug>       plants a bug that has to be found:", PLANTS, 22)}
  --plants            after the seeds: plants each bug, and ends it at the first seed that finds it
  --help`;

interface Settings {
  /** Null: many. */
  readonly seed: number | null;
  readonly seeds: number;
  readonly from: number;
  readonly plant: Plant | undefined;
  readonly isFirstEnough: boolean;
  readonly areAllPlanted: boolean;
  readonly traceFile: string | undefined;
}

function readSettings(): Settings {
  const { values } = parseArgs({
    options: {
      seed: { type: "string" },
      seeds: { type: "string", default: String(SEEDS_DEFAULT) },
      from: { type: "string", default: "1" },
      plant: { type: "string" },
      plants: { type: "boolean", default: false },
      first: { type: "boolean", default: false },
      trace: { type: "string" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    print(USAGE);
    process.exit(0);
  }
  const plant = PLANTS.find((each) => each === values.plant);
  if (values.plant !== undefined && plant === undefined) {
    throw new Error(`--plant takes one of ${PLANTS.join(", ")}, not "${values.plant}"`);
  }
  if (values.trace !== undefined && values.seed === undefined) {
    throw new Error("--trace keeps the trace of one run: say which with --seed");
  }
  if (values.plants && (plant !== undefined || values.seed !== undefined)) {
    throw new Error("--plants comes after many seeds without a bug: leave --seed and --plant out");
  }
  return {
    seed: values.seed === undefined ? null : wholeFrom("--seed", values.seed, 0),
    seeds: wholeFrom("--seeds", values.seeds, 1),
    from: wholeFrom("--from", values.from, 0),
    plant,
    isFirstEnough: values.first,
    areAllPlanted: values.plants,
    traceFile: values.trace,
  };
}

/** A mistyped number must not end as a run of nothing that finds nothing wrong. */
function wholeFrom(name: string, text: string, lowest: number): number {
  const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= lowest) return value;
  throw new Error(`${name} takes a whole number from ${lowest}, not "${text}"`);
}

async function main(): Promise<void> {
  let settings: Settings;
  try {
    settings = readSettings();
  } catch (error) {
    process.stderr.write(`${messageOf(error)}\n${USAGE}\n`);
    process.exitCode = 2;
    return;
  }
  const { seed, plant, traceFile, areAllPlanted, ...series } = settings;
  if (seed !== null) {
    process.exitCode = (await runOne(seed, plant, traceFile)) ? 0 : 1;
    return;
  }
  const crew = gatherCrew();
  const isSound = await runMany(crew, { ...series, plant });
  const areFound = !areAllPlanted || (await runPlants(crew, series));
  await crew.end();
  process.exitCode = isSound && areFound ? 0 : 1;
}

const isOfCrew = (workerData as { simulation?: true } | null)?.simulation === true;
if (!isMainThread && isOfCrew) parentPort!.on("message", (job: Job) => void carryOutHere(job));
else if (process.argv[1]?.endsWith("simulate.js") === true) await main();
