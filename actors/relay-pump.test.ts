/** When the relay tries again what a sink has not taken. */
import { expect, it, onTestFinished } from "vitest";

import { systemTime, type Time } from "../src/clock.ts";
import { LIMITS } from "../src/limits.ts";
import type { RelayEvent, Trouble } from "../src/relay-store.ts";
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
