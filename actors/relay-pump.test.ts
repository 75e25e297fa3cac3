/** When the relay looks for events, and when it tries again what a sink has not taken. */
import { expect, it, onTestFinished } from "vitest";

import { systemTime, type Time } from "../src/clock.ts";
import { LIMITS } from "../src/limits.ts";
import type { RelayEvent, Trouble } from "../src/core/relay-store.ts";
import { relaySink, relayStore } from "../test/stage/relay-parts.ts";
import { buildPump } from "./relay-pump.ts";

/** A time that also passes when the test says so, and in which pauses end when it says so. */
function heldTime({ nowMs, wallMs }: Pick<Time, "nowMs" | "wallMs">) {
  let passedMs = 0;
  const waits: Array<{ delayMs: number; task: () => void }> = [];
  const time: Time = {
    ...systemTime,
    nowMs: () => nowMs() + passedMs,
    wallMs: () => wallMs() + passedMs,
    after(delayMs, task) {
      if (delayMs < 1_000) return systemTime.after(delayMs, task);
      waits.push({ delayMs, task });
      return () => undefined;
    },
  };
  const pass = (ms: number): void => {
    passedMs += ms;
  };
  return { time, waits, pass };
}

it("waits no longer than its longest pause for what a host with a clock hours ahead has begun", async () => {
  // Given a cursor that says: not before two hours from now
  const trouble = {
    attempts: 1,
    failingSinceMs: Date.now() + 7_200_000 - 1_000,
    retryAtMs: Date.now() + 7_200_000,
    reason: "answered 500",
  };
  const store = relayStore({
    cursors: () => Promise.resolve([{ shard: 7, position: 0, trouble }]),
  });
  const { time, waits, pass } = heldTime(systemTime);
  const delivered: number[] = [];
  const sink = relaySink({
    deliver(event) {
      delivered.push(event.position);
      return Promise.resolve({ type: "delivered" });
    },
  });
  const log = { warn: () => undefined };
  const pump = buildPump({ sink, store, time, log });
  onTestFinished(() => pump.stop());
  // When this host takes the shard over
  pump.own([7]);
  await expect.poll(() => waits.length).toBe(1);
  expect(delivered).toEqual([]);
  const [wait] = waits;
  expect(wait!.delayMs).toBeLessThanOrEqual(LIMITS.webhookRetryMsMax);
  // Then the pause is over when its timer is
  pass(wait!.delayMs);
  wait!.task();
  await expect.poll(() => delivered).toEqual([1]);
});

it("waits by one time, and writes down and measures by the other", async () => {
  // Given a wall clock that stands elsewhere, and a pause that another host has begun
  const trouble = {
    attempts: 1,
    failingSinceMs: 9_000_000,
    retryAtMs: 9_003_000,
    reason: "answered 500",
  };
  const saved: Array<{ trouble: Trouble | null }> = [];
  const store = relayStore({
    cursors: () => Promise.resolve([{ shard: 7, position: 0, trouble }]),
    oldestBehind: () => Promise.resolve(8_999_000),
    save: (_, cursors) => Promise.resolve(void saved.push(...cursors)),
  });
  const { time, waits, pass } = heldTime({ nowMs: () => 1_000_000, wallMs: () => 9_000_000 });
  const sink = relaySink({
    deliver: () => Promise.resolve({ type: "failed", reason: "answered 503", retryInMs: 2_000 }),
  });
  const pump = buildPump({ sink, store, time, log: { warn: () => undefined } });
  onTestFinished(() => pump.stop());
  pump.own([7]);
  await expect.poll(() => waits.map(({ delayMs }) => delayMs)).toEqual([3_000]);
  // When that pause is over, and the sink fails again
  pass(3_000);
  waits[0]!.task();
  // Then the next one is counted from here
  await expect.poll(() => waits.map(({ delayMs }) => delayMs)).toEqual([3_000, 2_000]);
  await expect
    .poll(() => saved.at(-1)?.trouble)
    .toEqual({
      attempts: 2,
      failingSinceMs: 9_000_000,
      retryAtMs: 9_005_000,
      reason: "answered 503",
    });
  await pump.sweep(new Map([[7, 1]]));
  expect(pump.stats().lagMs).toBe(4_000);
});

it("goes past what a sink does not want, and does not count it as delivered", async () => {
  // Given a sink that wants the second of two events only
  const saved: number[] = [];
  const store = relayStore({
    read: () => Promise.resolve([1, 2].map((position) => ({ shard: 7, position }) as RelayEvent)),
    lastPositions: () => Promise.resolve([{ shard: 7, position: 2 }]),
    save: (_, cursors) => Promise.resolve(void saved.push(...cursors.map((it) => it.position))),
  });
  const sink = relaySink({
    deliver: ({ position }) =>
      Promise.resolve({ type: position === 2 ? "delivered" : "passed" } as const),
  });
  const pump = buildPump({ sink, store, time: systemTime, log: { warn: () => undefined } });
  onTestFinished(() => pump.stop());
  // When the shard is taken over
  pump.own([7]);
  // Then both are behind it, and one was delivered
  await expect.poll(() => saved.at(-1)).toBe(2);
  expect(pump.stats()).toMatchObject({ delivered: 1, lagEvents: 0 });
});

it("takes a shard up at once that comes while it reads others", async () => {
  // Given a read under way
  const reads: Array<() => void> = [];
  const asked: number[] = [];
  const store = relayStore({
    cursors(_, shards) {
      asked.push(...shards);
      return Promise.resolve(shards.map((shard) => ({ shard, position: 0, trouble: null })));
    },
    read: () => new Promise((resolve) => void reads.push(() => resolve([]))),
    lastPositions: () => Promise.resolve([]),
  });
  const pump = buildPump({
    sink: relaySink(),
    store,
    time: systemTime,
    log: { warn: () => undefined },
  });
  onTestFinished(async () => {
    for (const end of reads) end();
    await pump.stop();
  });
  pump.own([7]);
  await expect.poll(() => reads.length).toBe(1);
  // When the host gets another shard, and the read ends
  pump.own([8]);
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(asked).toEqual([7]);
  reads[0]!();
  // Then no sweep is needed to begin with it
  await expect.poll(() => asked).toEqual([7, 8]);
});

/** Five events of shard 7, of which a read gives those behind the cursor. */
function journalOf(positions: readonly number[]) {
  const saved: Array<{ position: number; attempts: number }> = [];
  const store = relayStore({
    read: ([cursor], rows) =>
      Promise.resolve(
        positions
          .filter((position) => position > cursor!.position)
          .slice(0, rows)
          .map((position) => ({ shard: 7, position }) as RelayEvent),
      ),
    lastPositions: () => Promise.resolve([{ shard: 7, position: positions.at(-1)! }]),
    save: (_, cursors) =>
      Promise.resolve(
        void saved.push(
          ...cursors.map(({ position, trouble }) => ({
            position,
            attempts: trouble?.attempts ?? 0,
          })),
        ),
      ),
  });
  return { store, saved };
}

it("gives what stands behind a failure again, and saves no cursor beyond it", async () => {
  // Given a sink that takes three events at once, and fails the second at first
  const { store, saved } = journalOf([1, 2, 3, 4, 5]);
  const given: number[] = [];
  const sink = relaySink({
    windowMax: 3,
    deliver({ position }) {
      given.push(position);
      const isFirst = given.filter((one) => one === position).length === 1;
      return Promise.resolve(
        position === 2 && isFirst
          ? { type: "failed", reason: "full", retryInMs: 2 * LIMITS.relaySaveMs }
          : { type: "delivered" },
      );
    },
  });
  const pump = buildPump({ sink, store, time: systemTime, log: { warn: () => undefined } });
  onTestFinished(() => pump.stop());
  // When it delivers all
  pump.own([7]);
  await expect.poll(() => saved.at(-1)?.position).toBe(5);
  // Then the first stays delivered, and all behind it come in their order once more
  const again = given.lastIndexOf(2);
  expect(given.slice(again)).toEqual([2, 3, 4, 5]);
  expect(given.slice(0, again)).toEqual([1, 2, 3, 4]);
  expect(saved).toEqual([
    { position: 1, attempts: 1 },
    { position: 5, attempts: 0 },
  ]);
  expect(pump.stats()).toMatchObject({ retries: 1, lagEvents: 0, failingShards: 0, buffered: 0 });
});

it("has one page of a shard under way, and ends it after the event under way when it is given up", async () => {
  // Given a sink that has not taken the first event yet, and has room for more shards
  const { store, saved } = journalOf([1, 2, 3, 4, 5]);
  const given: number[] = [];
  const takes: Array<() => void> = [];
  const sink = relaySink({
    shardsAtOnceMax: 3,
    shardRowsMax: 3,
    deliver({ position }) {
      given.push(position);
      return new Promise((resolve) => void takes.push(() => resolve({ type: "delivered" })));
    },
  });
  const pump = buildPump({ sink, store, time: systemTime, log: { warn: () => undefined } });
  pump.own([7]);
  await expect.poll(() => given).toEqual([1]);
  // When it hears of more, and may have the shard already
  pump.committed([7]);
  pump.own([7]);
  await new Promise((resolve) => setTimeout(resolve, 5 * LIMITS.relayGatherMs));
  // Then the page under way stays the only one
  expect(given).toEqual([1]);
  expect(pump.stats().buffered).toBe(3);
  takes[0]!();
  await expect.poll(() => given).toEqual([1, 2]);
  // When the shard is given up, and the event under way is taken
  pump.disown([7]);
  takes[1]!();
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(given).toEqual([1, 2]);
  await pump.stop();
  // Then nothing of it follows, and what was taken is saved
  expect(given).toEqual([1, 2]);
  expect(saved.at(-1)).toEqual({ position: 2, attempts: 0 });
  expect(pump.stats()).toMatchObject({ delivered: 2, buffered: 0 });
});

it("does not go past a position that is missing", async () => {
  const { store, saved } = journalOf([1, 3]);
  const given: number[] = [];
  const sink = relaySink({
    deliver({ position }) {
      given.push(position);
      return Promise.resolve({ type: "delivered" });
    },
  });
  const told: string[] = [];
  const log = { warn: (text: string) => void told.push(text) };
  const pump = buildPump({ sink, store, time: systemTime, log });
  onTestFinished(() => pump.stop());
  pump.own([7]);
  await expect.poll(() => pump.stats().reason).toMatch("no event at position 2 and one at 3");
  await expect.poll(() => saved.at(-1)?.position).toBe(1);
  expect(given).toEqual([1]);
  expect(told).toHaveLength(1);
});
