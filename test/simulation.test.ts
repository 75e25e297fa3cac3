/**
 * The simulator at work: many seeds in which nothing may be wrong, the same run for the same seed,
 * and bugs planted on purpose, each of which must be found. A seed that fails here fails
 * everywhere: `npm run simulate -- --seed <n>` shows how. Seeds and bugs are run by one command, as
 * code that has run for a while runs several times as fast; what it says of each is looked at one
 * by one.
 */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { beforeAll, describe, expect, test } from "vitest";
import { packageRoot } from "../src/package-root.ts";
import { metText, tellingLines } from "./simulation/simulate.ts";
import { PLANTS, type Plant } from "./simulation/plants.ts";
import { simulate, type RunResult } from "./simulation/world.ts";

const SEEDS = 500;
const WITHIN_MS = 300_000;

interface Ended {
  readonly code: number | null;
  readonly output: string;
}

/** In processes and threads of its own, from `dist/`, as the command line does it. */
function run(...args: readonly string[]): Promise<Ended> {
  const script = join(packageRoot, "dist", "test", "simulation", "simulate.js");
  const child = spawn(process.execPath, [script, ...args], {
    stdio: ["ignore", "pipe", "inherit"],
    timeout: 2 * WITHIN_MS,
  });
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, output }));
  });
}

describe("many seeds, and then each bug", () => {
  /** Every bug there is, and how many seeds it may take at most. */
  const plants: Readonly<Record<Plant, number>> = {
    replyBeforeCommit: 10,
    noDurableCommand: 10,
    noDurableVerdict: 50,
    noDurableHold: 30,
    lookupOutsideTransaction: 100,
    noEpochCheck: 150,
    noBehindCheck: 150,
    cursorBeforeAck: 100,
    rejectionLate: 20,
  };
  let ended: Ended;

  beforeAll(async () => {
    ended = await run("--seeds", String(SEEDS), "--plants");
    // As long for the seeds as for all the bugs.
  }, 2 * WITHIN_MS);

  test(`nothing is wrong in ${SEEDS} seeds`, () => {
    expect(ended.output).toContain(`\n${SEEDS} of ${SEEDS} seeds from 1, 0 failed; `);
    expect(ended).toMatchObject({ code: 0 });
  });

  test.each(Object.entries(plants))(
    "a planted bug is found: %s, within %i seeds",
    (plant, within) => {
      const pattern = new RegExp(`^planted ${plant}: found by seed (\\d+), .+`, "m");
      expect(ended.output).toMatch(pattern);
      const found = pattern.exec(ended.output);
      expect(Number(found![1])).toBeLessThanOrEqual(within);
    },
  );

  test("what was met is told kind by kind, in lines that can be read", () => {
    const [, met] = /^met:\n((?: {2}.+\n)+)\d+ of /m.exec(ended.output)!;
    const lines = met!.trimEnd().split("\n");
    expect(Math.max(...lines.map((line) => line.length))).toBeLessThanOrEqual(100);
    expect(met).toMatch(/^ {2}answers: (?:\w+ \d+,\s+)*done \d{4,}/m);
    const kinds = lines.flatMap((line) => /^ {2}(\S.*?):/.exec(line)?.[1] ?? []);
    expect(kinds).toEqual(expect.arrayContaining(["answers", "appends", "faults", "transfers"]));
    expect(new Set(kinds).size).toBe(kinds.length);
  });

  test("each bug that can be planted has its turn", () => {
    expect(PLANTS.toSorted()).toEqual(Object.keys(plants).toSorted());
  });
});

test("what was met is a line for each kind, at most 100 columns wide", () => {
  const far = Array.from({ length: 12 }, (_, nth): [string, number] => [`faults: far ${nth}`, 5]);
  const text = metText(new Map([["holds: ACTIVE", 1], ...far, ["answers: done", 4065]]));
  expect(text.split("\n")).toEqual([
    "  answers: done 4065",
    "  faults: far 0 5, far 1 5, far 10 5, far 11 5, far 2 5, far 3 5, far 4 5, far 5 5, far 6 5,",
    "    far 7 5, far 8 5, far 9 5",
    "  holds: ACTIVE 1",
  ]);
});

describe("a seed", () => {
  async function firstFailing(plant: Plant): Promise<RunResult> {
    for (let seed = 1; seed <= 8; seed++) {
      const result = await simulate({ seed, plant, trace: true });
      if (result.violations.length > 0) return result;
    }
    throw new Error(`no seed has found ${plant}`);
  }

  test.each([5, 6])("replays exactly (%i)", async (seed) => {
    const first = await simulate({ seed, trace: true });
    const second = await simulate({ seed, trace: true });
    expect(first.lines.length).toBeGreaterThan(1_000);
    expect(second.lines).toEqual(first.lines);
    expect(second.digest).toBe(first.digest);
    expect((await simulate({ seed })).digest).toBe(first.digest);
  });

  test("that fails tells what was violated, and of whom", async () => {
    const { violations, lines } = await firstFailing("replyBeforeCommit");
    expect(violations.join("\n")).toContain("wallet-");
    const telling = tellingLines(lines, violations);
    expect(telling.length).toBeGreaterThan(0);
    expect(telling.length).toBeLessThan(lines.length);
  });

  test("that fails ends the command line with 1, their numbers and traces", async () => {
    const { code, output } = await run("--seeds", "8", "--plant", "noDurableCommand", "--first");
    expect(code).toBe(1);
    expect(output).toMatch(/^seed \d: \{.+\n {2}\S/m);
    expect(output).toMatch(/^ +\d+\.\d\d {2}\S+ +.*wallet-\d/m);
    expect(output).toMatch(/^failed: \d( \d)*$/m);
  });
});
