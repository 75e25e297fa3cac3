/**
 * The simulator's command line: one seed, or many on all cores. A seed that fails is run once more with its trace, since every run of a
 * seed is the same, and what the trace says of the wallets, transfers and commands concerned is printed.
 *
 *     npm run simulate -- --seed 42              one seed; --trace <file> keeps all of its trace
 *     npm run simulate -- --seeds 1000           as many, from --from on (default 1)
 *     npm run simulate -- --seeds 50 --plant noDurableVerdict --first     until the planted bug is found
 */
import { writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { parseArgs } from "node:util";
import { isMainThread, parentPort, Worker, workerData } from "node:worker_threads";
import { PLANTS, simulate, type Plant, type RunResult } from "./world.ts";

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

interface Share {
  readonly from: number;
  readonly to: number;
  readonly step: number;
  readonly plant: Plant | undefined;
}

/** Runs seeds on all cores; resolves with what failed, in the order of the seeds. */
export async function runSeries(series: Series): Promise<Summary[]> {
  const { from, seeds, plant, isFirstEnough = false, onRun } = series;
  const step = Math.min(seeds, availableParallelism());
  const failed: Summary[] = [];
  const workers: Worker[] = [];
  let done = 0;
  const ends = Array.from({ length: step }, (_, index) => {
    const share: Share = { from: from + index, to: from + seeds, step, plant };
    const worker = new Worker(new URL(import.meta.url), { workerData: { simulation: share } });
    workers.push(worker);
    worker.on("message", (summary: Summary) => {
      done += 1;
      if (summary.violations.length > 0) failed.push(summary);
      onRun?.(summary, done);
      if (isFirstEnough && failed.length > 0) for (const each of workers) void each.terminate();
    });
    return new Promise<void>((resolve, reject) => {
      worker.on("error", reject);
      worker.on("exit", () => resolve());
    });
  });
  await Promise.all(ends);
  return failed.toSorted((one, other) => one.seed - other.seed);
}

async function runShare({ from, to, step, plant }: Share): Promise<void> {
  for (let seed = from; seed < to; seed += step) {
    const { lines: _, ...summary } = await simulate({ seed, plant });
    parentPort!.postMessage(summary);
  }
}

// --- The command line -----------------------------------------------------------------------------------------------------

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
  print(`\nseed ${seed}: ${verdict}; ${length}, ${events} events, ${commands} commands, ${digest}`);
  return violations.length === 0;
}

async function runMany(series: Series): Promise<boolean> {
  const { from, seeds, plant } = series;
  const startedAtMs = performance.now();
  const counts = new Map<string, number>();
  let virtualMs = 0;
  let failures = 0;
  let runs = 0;
  const failed = await runSeries({
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
  const met = [...counts].toSorted().map(([what, count]) => `${what} ${count}`);
  print(`\nmet: ${met.join(", ")}`);
  print(
    `${runs} of ${seeds} seeds from ${from}, ${failed.length} failed; ${(virtualMs / 3_600_000).toFixed(1)} h of ` +
      `virtual time in ${seconds.toFixed(0)} s, ${(runs / seconds).toFixed(1)} seeds/s`,
  );
  if (failed.length > 0) print(`failed: ${failed.map(({ seed }) => seed).join(" ")}`);
  return failed.length === 0;
}

const USAGE = `Usage: npm run simulate -- [options]
  --seed <number>     one seed, with what went wrong in it
  --trace <file>      with --seed: keeps all of its trace there
  --seeds <count>     as many seeds, on all cores (${SEEDS_DEFAULT})
  --from <number>     the first of them (1)
  --first             ends at the first seed that fails
  --plant <bug>       plants a bug that has to be found: ${PLANTS.join(", ")}
  --help`;

interface Settings {
  /** Null: many. */
  readonly seed: number | null;
  readonly seeds: number;
  readonly from: number;
  readonly plant: Plant | undefined;
  readonly isFirstEnough: boolean;
  readonly traceFile: string | undefined;
}

function readSettings(): Settings {
  const { values } = parseArgs({
    options: {
      seed: { type: "string" },
      seeds: { type: "string", default: String(SEEDS_DEFAULT) },
      from: { type: "string", default: "1" },
      plant: { type: "string" },
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
  return {
    seed: values.seed === undefined ? null : wholeFrom("--seed", values.seed, 0),
    seeds: wholeFrom("--seeds", values.seeds, 1),
    from: wholeFrom("--from", values.from, 0),
    plant,
    isFirstEnough: values.first,
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
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n${USAGE}\n`);
    process.exitCode = 2;
    return;
  }
  const { seed, plant, traceFile, ...series } = settings;
  const isSound =
    seed === null ? await runMany({ ...series, plant }) : await runOne(seed, plant, traceFile);
  process.exitCode = isSound ? 0 : 1;
}

const share = (workerData as { simulation?: Share } | null)?.simulation;
if (!isMainThread && share !== undefined) await runShare(share);
else if (process.argv[1]?.endsWith("simulate.js") === true) await main();
