/**
 * The queue of the feeds' reads by itself: how it rests while the database is away, and how it ends.
 */
import { expect, it } from "vitest";

import { LIMITS } from "../../src/limits.ts";
import { buildVirtualTime } from "../../test/stage/feed-world.ts";
import { buildFeedReads } from "./reads.ts";

const log = { warn: () => undefined };
const away = () => Promise.reject(new Error("away"));

it("Pauses double up to feedReadRetryMsMax, and begin anew once a read has worked.", async () => {
  const { timers, clock, advance } = buildVirtualTime();
  const reads = buildFeedReads({ timers, log });
  let isAway = true;
  const askedAtMs: number[] = [];
  const read = () => {
    askedAtMs.push(clock.nowMs());
    return isAway ? away() : Promise.resolve();
  };
  const pauses = () => askedAtMs.slice(1).map((ms, nth) => ms - askedAtMs[nth]!);
  void reads.run(read, () => undefined);
  await advance(60_000);
  expect(pauses().slice(0, 3)).toEqual([1, 2, 4].map((times) => times * LIMITS.feedReadRetryMs));
  expect(Math.max(...pauses())).toBe(LIMITS.feedReadRetryMsMax);
  isAway = false;
  await advance(LIMITS.feedReadRetryMsMax);
  isAway = true;
  askedAtMs.length = 0;
  void reads.run(read, () => undefined);
  await advance(LIMITS.feedReadRetryMs);
  expect(pauses()).toEqual([LIMITS.feedReadRetryMs]);
  await reads.drain();
});

it("The end waits for all that is under way, hands nothing over, and leaves nobody waiting.", async () => {
  const { timers, advance, timersSet } = buildVirtualTime();
  const reads = buildFeedReads({ timers, log, underWayMax: 2 });
  const taken: string[] = [];
  const ended: string[] = [];
  const reading = (name: string, ms: number, isAway = false) =>
    void reads
      .run(
        () => new Promise<void>((go) => timers.after(ms, go)).then(() => (isAway ? away() : name)),
        () => void taken.push(name),
      )
      .then(() => ended.push(name));
  reading("one", 10);
  reading("another, which fails", 20, true);
  reading("one that waits", 10);
  let isDrained = false;
  void reads.drain().then(() => (isDrained = true));
  await advance(15);
  expect(isDrained).toBe(false);
  await advance(10);
  expect(isDrained).toBe(true);
  expect(ended.toSorted()).toEqual(["another, which fails", "one", "one that waits"]);
  expect([taken, timersSet(), reads.failures]).toEqual([[], 0, 0]);
});
