/**
 * The simulator at work: many seeds in which nothing may be wrong, the same run for the same seed, and bugs planted on purpose, each of
 * which must be found. A seed that fails here fails everywhere: `npm run simulate -- --seed <n>` shows how.
 */
import { spawn } from "node:child_process";
import { join } from "node:path";
import { describe, expect, test } from "vitest";
import { packageRoot } from "../src/package-root.ts";
import { tellingLines } from "./simulation/simulate.ts";
import { simulate, type Plant } from "./simulation/world.ts";

const SEEDS = 500;
const WITHIN_MS = 300_000;

/** In processes and threads of its own, from `dist/`, as the command line does it. */
function run(...args: readonly string[]): Promise<{ code: number | null; output: string }> {
  const script = join(packageRoot, "dist", "test", "simulation", "simulate.js");
  const child = spawn(process.execPath, [script, ...args], {
    stdio: ["ignore", "pipe", "inherit"],
  });
  let output = "";
  child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  return new Promise((resolve, reject) => {
    child.on("error", reject);
    child.on("close", (code) => resolve({ code, output }));
  });
}

test(
  `nothing is wrong in ${SEEDS} seeds`,
  async () => {
    const { code, output } = await run("--seeds", String(SEEDS));
    expect({ code, output }).toMatchObject({ code: 0 });
  },
  WITHIN_MS,
);

describe("a seed", () => {
  test.each([5, 6])("replays exactly (%i)", async (seed) => {
    const first = await simulate({ seed, trace: true });
    const second = await simulate({ seed, trace: true });
    expect(first.lines.length).toBeGreaterThan(1_000);
    expect(second.lines).toEqual(first.lines);
    expect(second.digest).toBe(first.digest);
    expect((await simulate({ seed })).digest).toBe(first.digest);
  });

  test("that fails tells what was violated, and of whom", async () => {
    const { violations, lines } = await simulate({
      seed: 1,
      plant: "noDurableHold",
      trace: true,
    });
    expect(violations.join("\n")).toContain("wallet-");
    const telling = tellingLines(lines, violations);
    expect(telling.length).toBeGreaterThan(0);
    expect(telling.length).toBeLessThan(lines.length);
  });
});

describe("a planted bug", () => {
  const plants: [plant: Plant, seeds: number][] = [
    ["replyBeforeCommit", 10],
    ["noDurableCommand", 10],
    ["noDurableVerdict", 50],
    ["noDurableHold", 30],
    ["lookupOutsideTransaction", 100],
    ["noEpochCheck", 150],
    ["cursorBeforeAck", 100],
  ];

  test.each(plants)(
    "is found: %s, within %i seeds",
    async (plant, seeds) => {
      const { code, output } = await run("--plant", plant, "--seeds", String(seeds), "--first");
      expect({ code, output }).toMatchObject({
        code: 1,
        output: expect.stringMatching(/^seed \d+: /m) as string,
      });
    },
    WITHIN_MS,
  );
});
