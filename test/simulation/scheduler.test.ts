/**
 * What the simulator stands on: events in order, one at a time, each with all that its promises set
 * off; processes that stop, end and lose their clocks; and the same run for the same seed.
 */
import { describe, expect, test } from "vitest";
import { buildScheduler } from "./scheduler.ts";

describe("virtual time", () => {
  test("runs events in the order of time, and of their making at the same time", async () => {
    const scheduler = buildScheduler(1);
    const seen: string[] = [];
    scheduler.after(5, "", () => seen.push("c"));
    scheduler.after(1, "", () => {
      seen.push("a");
      scheduler.after(0, "", () => seen.push("b2"));
    });
    scheduler.after(1, "", () => seen.push("b1"));
    scheduler.after(2, "", () => seen.push("never"))();
    await scheduler.run(4);
    expect([seen.join(" "), scheduler.nowMs]).toEqual(["a b1 b2", 4]);
    await scheduler.run(4);
    expect([seen.join(" "), scheduler.nowMs]).toEqual(["a b1 b2 c", 8]);
  });

  test("runs what is for one moment in the order of its making, whenever that was", async () => {
    const scheduler = buildScheduler(1);
    const process = scheduler.process("p");
    const momentMs = 1_000 / 3;
    const made: number[] = [];
    const seen: number[] = [];
    for (let nth = 0; nth < 100; nth++) {
      scheduler.after(nth * 0.7, "", () => {
        made.push(nth);
        (nth % 2 === 0 ? scheduler : process).at(momentMs, "", () => seen.push(nth));
      });
    }
    await scheduler.run(1_000);
    expect([made.length, seen]).toEqual([100, made]);
  });

  test.each(["after", "at"] as const)(
    "runs nothing that was put off by `%s` of a process that has ended or stands still",
    async (put) => {
      const scheduler = buildScheduler(1);
      const [ended, paused] = [scheduler.process("ended"), scheduler.process("paused")];
      const seen: string[] = [];
      for (const process of [ended, paused]) process[put](5, "", () => seen.push(process.name));
      ended.kill();
      paused.pause(20);
      await scheduler.run(10);
      expect(seen).toEqual([]);
      await scheduler.run(20);
      expect(seen).toEqual(["paused"]);
    },
  );

  test("runs no event before every promise of the one before is done", async () => {
    const scheduler = buildScheduler(1);
    const seen: string[] = [];
    async function long(name: string, turns: number): Promise<void> {
      for (let turn = 0; turn < turns; turn++) await Promise.resolve();
      seen.push(name);
    }
    scheduler.after(1, "", () => void long("10000 turns", 10_000));
    scheduler.after(1, "", () => void Promise.all([long("10 turns", 10), long("20 turns", 20)]));
    scheduler.after(1, "", () => seen.push("next"));
    await scheduler.run(2);
    expect(seen).toEqual(["10000 turns", "10 turns", "20 turns", "next"]);
  });

  test("rejects with what an event throws, and runs nothing after it", async () => {
    const scheduler = buildScheduler(1);
    let ran = 0;
    scheduler.after(1, "", () => {
      throw new Error("broken");
    });
    scheduler.after(2, "", () => (ran += 1));
    await expect(scheduler.run(10)).rejects.toThrow("broken");
    await expect(scheduler.run(10)).rejects.toThrow("broken");
    expect(ran).toBe(0);
  });
});

describe("a process", () => {
  test("does nothing while it is paused, then what was due, in order, and each interval once", async () => {
    const scheduler = buildScheduler(1);
    const process = scheduler.process("p");
    const thread = process.thread("t");
    const seen: string[] = [];
    process.time.every(10, () => seen.push(`tick ${scheduler.nowMs}`));
    thread.after(12, "", () => seen.push("thread"));
    scheduler.after(5, "", () => process.pause(30));
    await scheduler.run(50);
    expect(seen).toEqual(["tick 35", "thread", "tick 45"]);
  });

  test("never runs again once it was killed, and neither do its threads", async () => {
    const scheduler = buildScheduler(1);
    const process = scheduler.process("p");
    const thread = process.thread("t");
    const other = process.thread("u");
    const seen: string[] = [];
    for (const each of [process, thread, other]) {
      each.time.every(10, () => seen.push(each.name));
    }
    scheduler.after(15, "", () => other.kill());
    scheduler.after(25, "", () => process.kill());
    await scheduler.run(100);
    expect(seen).toEqual(["p", "p/t", "p/u", "p", "p/t"]);
    expect([process.isAlive, thread.isAlive]).toEqual([false, false]);
  });

  test("has a clock that jumps when it is set, and another one that does not", async () => {
    const scheduler = buildScheduler(1);
    const process = scheduler.process("p", -500);
    const readings: number[] = [];
    const startMs = process.time.wallMs();
    const waited: number[] = [];
    process.time.every(100, () => {
      readings.push(process.time.wallMs() - startMs);
      waited.push(process.time.nowMs() - startMs);
    });
    scheduler.after(150, "", () => process.stepClock(60_000));
    scheduler.after(350, "", () => process.stepClock(-1_000));
    scheduler.after(550, "", () => process.stepClock(-500_000));
    await scheduler.run(750);
    expect(readings).toEqual([100, 60_200, 60_300, 59_400, 59_500, -440_400, -440_300]);
    expect(waited).toEqual([100, 200, 300, 400, 500, 600, 700]);
  });
});

test("a seed gives the same run again, another one a different run", async () => {
  async function digestOf(seed: number): Promise<string> {
    const scheduler = buildScheduler(seed);
    const { random } = scheduler;
    const processes = [1, 2, 3].map((number) => scheduler.process(`p${number}`));
    const work = (depth: number): void => {
      if (depth === 0) return;
      const process = random.pick(processes);
      process.after(random.between(0, 10), "", () => work(depth - 1));
      if (random.chance(0.2)) process.pause(random.between(0, 20));
    };
    for (let count = 0; count < 20; count++) work(50);
    await scheduler.run(1_000);
    return scheduler.digest;
  }
  const digests = await Promise.all([digestOf(7), digestOf(7), digestOf(8)]);
  expect(digests[1]).toBe(digests[0]);
  expect(digests[2]).not.toBe(digests[0]);
});
