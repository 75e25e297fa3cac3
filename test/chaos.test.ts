/**
 * The short form of `npm run chaos`: one round in which every process of a cluster is killed,
 * stopped, frozen or joined by another one while a bank is at work. The seed is printed, and
 * `CHAOS_SEED` takes it back.
 */
import { expect, it } from "vitest";
import { startChaos } from "./chaos/chaos.ts";
import { FAULT_KINDS, planFaults } from "./chaos/faults.ts";
import { COMMAND_KINDS } from "./chaos/teller.ts";

const ROUND_MS = 10_700;
const KINDS = [
  "kill-host",
  "stop-host",
  "pause-host",
  "join-host",
  "kill-gateway",
  "kill-postgres",
  "end-sessions",
  "kill-nats",
  "kill-redis",
] as const;

it("a seed repeats the faults, and every kind comes before one comes again", () => {
  const plan = { seed: 7, durationMs: 60_000 };
  const faults = planFaults(plan);
  expect(planFaults(plan)).toEqual(faults);
  expect(planFaults({ ...plan, seed: 8 })).not.toEqual(faults);
  const first = faults.slice(0, FAULT_KINDS.length).map(({ kind }) => kind);
  expect(new Set(first).size).toBe(FAULT_KINDS.length);
  for (const [index, { atMs }] of faults.entries()) {
    expect(atMs).toBeGreaterThanOrEqual(faults[index - 1]?.atMs ?? 0);
    expect(atMs).toBeLessThan(plan.durationMs);
  }
});

it(
  "whatever dies, freezes or comes back: nothing is lost, doubled, made or reordered, and service resumes",
  { timeout: 180_000 },
  async () => {
    const given = process.env["CHAOS_SEED"];
    const seed = given === undefined ? Date.now() % 1_000_000 : Number(given);
    const lines: string[] = [`CHAOS_SEED=${seed}`];
    const chaos = startChaos({
      seed,
      roundMs: ROUND_MS,
      kinds: KINDS,
      gapMs: [800, 1_200],
      lastsMsMax: 2_500,
      log: (line) => void lines.push(line),
    });
    const report = await chaos.done;
    const { problems, answers, faults, frames, reads, done, batches, dryRuns } = report;
    expect(problems, `${lines.join("\n")}\n`).toEqual([]);
    expect(answers.wrong).toBe(0);
    expect(answers.acknowledged).toBeGreaterThan(200);
    expect(frames).toBeGreaterThan(200);
    expect(reads).toBeGreaterThan(20);
    // Each kind of command was carried out at least once, or it has shown nothing.
    expect([...done.keys()].toSorted()).toEqual([...COMMAND_KINDS].toSorted());
    expect(batches).toBeGreaterThan(10);
    expect(dryRuns).toBeGreaterThan(10);
    expect(report.streamEvents).toBeGreaterThan(200);
    expect(report.expired).toBeGreaterThan(5);
    expect([...faults.keys()].toSorted()).toEqual([...KINDS].toSorted());
    process.stdout.write(
      `chaos, seed ${seed}: ${JSON.stringify(answers)}, ${frames} frames, ${reads} reads\n`,
    );
  },
);
