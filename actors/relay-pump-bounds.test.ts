/**
 * What the relay keeps to while shards come and go, while the journal or the sink takes nothing,
 * and when it ends. Time passes only when a test says so.
 */
import { expect, it } from "vitest";

import type { Time } from "../src/clock.ts";
import { LIMITS } from "../src/limits.ts";
import type { RelayEvent, RelayStore } from "../src/core/relay-store.ts";
import { relaySink, relayStore } from "../test/stage/relay-parts.ts";
import type { Delivery, RelaySink } from "./relay-sink.ts";
import { buildPump } from "./relay-pump.ts";

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Lets everything happen that waits for no time. */
async function settle(): Promise<void> {
  for (let number = 0; number < 20; number += 1) await turn();
}

function heldTime() {
  let nowMs = 0;
  let timers: Array<{ atMs: number; task: () => void }> = [];
  const time: Pick<Time, "nowMs" | "wallMs" | "after"> = {
    nowMs: () => nowMs,
    wallMs: () => nowMs,
    after(delayMs, task) {
      const timer = { atMs: nowMs + delayMs, task };
      timers.push(timer);
      return () => void (timers = timers.filter((other) => other !== timer));
    },
  };
  async function pass(ms: number): Promise<void> {
    nowMs += ms;
    await settle();
    for (;;) {
      const due = timers.filter(({ atMs }) => atMs <= nowMs);
      if (due.length === 0) return;
      timers = timers.filter(({ atMs }) => atMs > nowMs);
      for (const { task } of due) task();
      await settle();
    }
  }
  return { time, pass };
}

/** A door that is open until it is held. */
function door() {
  let open: Promise<void> = Promise.resolve();
  let release = (): void => undefined;
  return {
    through: () => open,
    hold: () => void (open = new Promise((resolve) => (release = resolve))),
    release: () => release(),
  };
}

interface Waiting {
  /** `shard:position` */
  readonly name: string;
  answer(delivery?: Delivery): Promise<void>;
}

/** Shards with as many events each, and a sink that takes one when the test says so. */
function start(events: Record<number, number>, ownSink: Partial<RelaySink> = {}) {
  const { time, pass } = heldTime();
  const [cursorDoor, readDoor] = [door(), door()];
  const reads: number[][] = [];
  const saves: Array<Record<number, number>> = [];
  const kept = new Map<number, number>();
  const store = relayStore({
    async cursors(_, shards) {
      await cursorDoor.through();
      return shards.map((shard) => ({ shard, position: kept.get(shard) ?? 0, trouble: null }));
    },
    lastPositions: () => Promise.resolve([]),
    async read(behind, rowsMax) {
      reads.push(behind.map(({ shard }) => shard));
      const rows = behind.flatMap(({ shard, position }) => {
        const count = Math.min(rowsMax, (events[shard] ?? 0) - position);
        return Array.from({ length: count }, (_, index) => {
          return { shard, position: position + 1 + index } as RelayEvent;
        });
      });
      await readDoor.through();
      await turn();
      return rows;
    },
    save(_, cursors) {
      saves.push(Object.fromEntries(cursors.map(({ shard, position }) => [shard, position])));
      for (const { shard, position } of cursors) kept.set(shard, position);
      return Promise.resolve();
    },
  });
  const waiting: Waiting[] = [];
  const sink: { -readonly [Field in keyof RelaySink]: RelaySink[Field] } = relaySink({
    shardRowsMax: 3,
    deliver: ({ shard, position }) =>
      new Promise((resolve) => {
        waiting.push({
          name: `${shard}:${position}`,
          async answer(delivery = { type: "delivered" }) {
            resolve(delivery);
            await pass(0);
          },
        });
      }),
    ...ownSink,
  });
  const log = { warn: () => undefined };
  return {
    sink,
    pass,
    cursorDoor,
    readDoor,
    reads,
    saves,
    kept,
    events,
    waiting,
    given: () => waiting.map(({ name }) => name),
    /** Replaces a part of the store before the pump is built. */
    build: (own: Partial<RelayStore> = {}) =>
      buildPump({ sink, store: { ...store, ...own }, time, log }),
  };
}

/** Takes whatever it gets. */
function takeAll(given: string[]): Partial<RelaySink> {
  return {
    deliver({ shard, position }) {
      given.push(`${shard}:${position}`);
      return Promise.resolve({ type: "delivered" });
    },
  };
}

it("does not put off a look for which others have waited, however fast commits follow", async () => {
  const { build, pass, reads } = start({});
  const pump = build();
  pump.own([7]);
  await pass(0);
  expect(reads).toHaveLength(1);
  pump.committed([7]);
  await pass(LIMITS.relayGatherMs - 1);
  pump.committed([7]);
  expect(reads).toHaveLength(1);
  await pass(1);
  expect(reads).toHaveLength(2);
});

it("finds what is committed during a read, or later, and by the sweep what no commit told of", async () => {
  const given: string[] = [];
  const { build, pass, readDoor, events } = start({}, takeAll(given));
  const pump = build();
  // Race: the read has looked, and has not told yet
  readDoor.hold();
  pump.own([7]);
  await pass(0);
  events[7] = 1;
  pump.committed([7]);
  await pass(LIMITS.relayGatherMs);
  readDoor.release();
  await pass(0);
  expect(given).toEqual(["7:1"]);
  events[7] = 2;
  pump.committed([7]);
  await pass(LIMITS.relayGatherMs);
  expect(given).toEqual(["7:1", "7:2"]);
  events[7] = 3;
  await pump.sweep(new Map([[7, 3]]));
  await pass(0);
  expect(given).toEqual(["7:1", "7:2", "7:3"]);
});

it("reads on until nothing is left, though nobody has told how much there is, and no further", async () => {
  const given: string[] = [];
  const { build, pass, reads } = start({ 7: 6 }, takeAll(given));
  const pump = build();
  pump.own([7]);
  await pass(0);
  expect(given).toEqual(["7:1", "7:2", "7:3", "7:4", "7:5", "7:6"]);
  expect(reads).toHaveLength(3);
  expect(pump.stats()).toMatchObject({ lagEvents: 0, buffered: 0 });
});

it("has no more shards at once than its sink takes, and lets none of them wait for ever", async () => {
  // Given three shards with more and more events, and a sink for two of them
  const { build, pass, given, waiting } = start(
    { 1: 9, 2: 9, 3: 9 },
    { shardsAtOnceMax: 2, shardRowsMax: 1 },
  );
  const pump = build();
  pump.own([1, 2, 3]);
  await pass(0);
  expect(given()).toEqual(["1:1", "2:1"]);
  pump.committed([1, 2, 3]);
  await pass(LIMITS.relayGatherMs);
  expect(given()).toEqual(["1:1", "2:1"]);
  expect(pump.stats().buffered).toBe(2);
  // When one is done, the turn is the third's, and then again the one's that waits longest
  for (let index = 0; index < 4; index += 1) await waiting[index]!.answer();
  expect(given()).toEqual(["1:1", "2:1", "3:1", "1:2", "2:2", "3:2"]);
});

it.each(["cursor", "page"])(
  "has nothing to do with a shard that is given up while its %s is being read",
  async (what) => {
    const { build, pass, cursorDoor, readDoor, given } = start({ 7: 3 });
    const held = what === "cursor" ? cursorDoor : readDoor;
    held.hold();
    const pump = build();
    pump.own([7]);
    await pass(0);
    pump.disown([7]);
    held.release();
    await pass(0);
    pump.committed([7]);
    await pump.sweep(new Map([[7, 3]]));
    await pass(LIMITS.relayGatherMs);
    expect(given()).toEqual([]);
  },
);

it("gives one page of a shard only that has gone and come back", async () => {
  // Race: an event is under way while the shard is given up and taken again
  const { build, pass, waiting, given } = start({ 7: 3 }, { shardsAtOnceMax: 4 });
  const pump = build();
  pump.own([7]);
  await pass(0);
  pump.disown([7]);
  pump.own([7]);
  await pass(0);
  expect(given()).toEqual(["7:1", "7:1"]);
  // Then the page from before ends with that event
  await waiting[0]!.answer();
  expect(given()).toEqual(["7:1", "7:1"]);
  await waiting[1]!.answer();
  expect(given()).toEqual(["7:1", "7:1", "7:2"]);
});

it("begins a shard that comes back with what it has delivered, also when that is not saved yet", async () => {
  const { build, pass, waiting, given, kept } = start({ 7: 3 });
  const saving = door();
  const pump = build({
    async save(_, cursors) {
      await saving.through();
      for (const { shard, position } of cursors) kept.set(shard, position);
    },
  });
  pump.own([7]);
  await pass(0);
  await waiting[0]!.answer();
  saving.hold();
  pump.disown([7]);
  await waiting[1]!.answer();
  pump.own([7]);
  await pass(0);
  saving.release();
  await pass(0);
  expect(given()).toEqual(["7:1", "7:2", "7:3"]);
});

it("reads nothing while the sink is closed, and then gives again all behind what it has taken", async () => {
  // Given a sink that takes three events at once
  const { sink, build, pass, reads, kept, given, waiting } = start({ 7: 5 }, { windowMax: 3 });
  const pump = build();
  pump.own([7]);
  await pass(0);
  expect(given()).toEqual(["7:1", "7:2", "7:3"]);
  // When it closes at the second, and says of the third that it has it
  await waiting[0]!.answer();
  sink.isOpen = false;
  await waiting[1]!.answer({ type: "closed" });
  await waiting[2]!.answer();
  // Then that is not believed, and nothing more is read, whoever tells of more
  await pump.sweep(new Map([[7, 5]]));
  pump.committed([7]);
  await pass(LIMITS.relaySaveMs);
  expect(kept.get(7)).toBe(1);
  expect(reads).toHaveLength(1);
  expect(pump.stats()).toMatchObject({ lagEvents: 4, buffered: 0, failingShards: 0 });
  expect(pump.isSettled).toBe(true);
  // And when it is open again, they come once more, in order
  sink.isOpen = true;
  pump.wake();
  await pass(0);
  expect(given().slice(3)).toEqual(["7:2", "7:3", "7:4"]);
});

it("tries an event again after the longest pause when its sink throws", async () => {
  const given: string[] = [];
  const { sink, build, pass } = start({ 7: 2 }, takeAll(given));
  const { deliver } = sink;
  sink.deliver = () => Promise.reject(new Error("a mistake"));
  const pump = build();
  pump.own([7]);
  await pass(0);
  expect(pump.stats()).toMatchObject({ delivered: 0, failingShards: 1, reason: "a mistake" });
  sink.deliver = deliver;
  await pass(LIMITS.relayRetryMsMax - 1);
  expect(given).toEqual([]);
  await pass(1);
  expect(given).toEqual(["7:1", "7:2"]);
});

it("asks a journal that does not answer again in growing pauses, of itself", async () => {
  const given: string[] = [];
  const { build, pass, events } = start({ 7: 1 }, takeAll(given));
  let isAway = true;
  let asked = 0;
  const pump = build({
    read(behind) {
      asked += 1;
      if (isAway) return Promise.reject(new Error("away"));
      const rows = behind.filter(({ position }) => position < events[7]!);
      return Promise.resolve(
        rows.map(({ shard, position }) => ({ shard, position: position + 1 }) as RelayEvent),
      );
    },
  });
  async function fails(pausesMs: readonly number[]): Promise<void> {
    for (const pauseMs of pausesMs) {
      const before = asked;
      await pass(pauseMs - 1);
      expect(asked).toBe(before);
      await pass(1);
      expect(asked).toBe(before + 1);
    }
  }
  const growing = [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000];
  expect([growing[0], growing.at(-1)]).toEqual([LIMITS.relayRetryMs, LIMITS.relayRetryMsMax]);
  pump.own([7]);
  await pass(0);
  await fails(growing);
  isAway = false;
  await pass(LIMITS.relayRetryMsMax);
  expect(given).toEqual(["7:1"]);
  // And from the first pause again, when it has answered meanwhile
  isAway = true;
  events[7] = 2;
  pump.committed([7]);
  await pass(LIMITS.relayGatherMs);
  await fails(growing.slice(0, 3));
});

it("saves one statement at a time, and with the next one what could not be saved", async () => {
  const { build, pass, waiting } = start({ 7: 9 }, { shardRowsMax: 8 });
  const calls: number[] = [];
  const saving = door();
  let isAway = true;
  const pump = build({
    async save(_, cursors) {
      calls.push(...cursors.map(({ position }) => position));
      await saving.through();
      if (isAway) throw new Error("away");
    },
  });
  pump.own([7]);
  await pass(0);
  // Given a save under way
  saving.hold();
  await waiting[0]!.answer();
  await pass(LIMITS.relaySaveMs);
  expect(calls).toEqual([1]);
  // When the next one is due meanwhile, and the first one fails
  await waiting[1]!.answer();
  await pass(LIMITS.relaySaveMs);
  expect(calls).toEqual([1]);
  saving.release();
  await pass(0);
  // Then what is newer stays, and the sweep saves it, though nothing more is delivered
  expect(calls).toEqual([1, 2]);
  await pump.sweep(new Map());
  await pass(0);
  expect(calls).toEqual([1, 2, 2]);
  isAway = false;
  await pump.sweep(new Map());
  await pass(0);
  await pump.sweep(new Map());
  await pass(LIMITS.relaySaveMs);
  expect(calls).toEqual([1, 2, 2, 2]);
});

it("is settled when nothing is under way, due, or unsaved, but for what fails", async () => {
  const { build, pass, waiting, kept } = start({ 7: 2 });
  const saving = door();
  const pump = build({
    async save(_, cursors) {
      await saving.through();
      for (const { shard, position } of cursors) kept.set(shard, position);
    },
  });
  expect(pump.isSettled).toBe(true);
  pump.own([7]);
  expect(pump.isSettled).toBe(false);
  await pass(0);
  expect(pump.isSettled).toBe(false); // under way
  await waiting[0]!.answer();
  await waiting[1]!.answer();
  expect(pump.isSettled).toBe(false); // unsaved
  saving.hold();
  await pass(LIMITS.relaySaveMs);
  expect(pump.isSettled).toBe(false); // being saved
  saving.release();
  await pass(0);
  expect(pump.isSettled).toBe(true);
  await pump.sweep(new Map([[7, 3]]));
  expect(pump.isSettled).toBe(false); // due
});

it("is settled with an event that fails: that may go on for days", async () => {
  const { build, pass, waiting } = start({ 7: 1 });
  const pump = build();
  pump.own([7]);
  await pass(0);
  await waiting[0]!.answer({ type: "failed", reason: "full", retryInMs: 60_000 });
  await pass(LIMITS.relaySaveMs);
  expect(pump.isSettled).toBe(true);
});

/** A pump that is told to stop, and whether it has ended. */
async function stopping(pump: { stop(): Promise<void> }): Promise<() => boolean> {
  let hasEnded = false;
  void pump.stop().then(() => (hasEnded = true));
  await settle();
  return () => hasEnded;
}

it("ends after the event under way, and saves it", async () => {
  const { build, pass, waiting, given, kept } = start({ 7: 3 });
  const pump = build();
  pump.own([7]);
  await pass(0);
  const hasEnded = await stopping(pump);
  expect(hasEnded()).toBe(false);
  await waiting[0]!.answer();
  await pass(LIMITS.drainPollMs);
  expect([hasEnded(), given(), kept.get(7)]).toEqual([true, ["7:1"], 1]);
});

it("ends after the read under way, without what that has brought", async () => {
  const { build, pass, readDoor, given, reads } = start({ 7: 3 }, { shardsAtOnceMax: 4 });
  const pump = build();
  readDoor.hold();
  pump.own([7, 8]);
  await pass(0);
  pump.committed([8]);
  const hasEnded = await stopping(pump);
  expect(hasEnded()).toBe(false);
  readDoor.release();
  await pass(LIMITS.drainPollMs);
  expect([hasEnded(), given(), reads]).toEqual([true, [], [[7, 8]]]);
  // And looks no more, whoever tells of more
  pump.committed([7]);
  await pass(LIMITS.relayGatherMs);
  expect(reads).toHaveLength(1);
});

it("ends within its bound, though the sink does not answer", async () => {
  const { build, pass } = start({ 7: 3 });
  const pump = build();
  pump.own([7]);
  await pass(0);
  const hasEnded = await stopping(pump);
  await pass(LIMITS.relaySettleMs - 1);
  expect(hasEnded()).toBe(false);
  await pass(LIMITS.drainPollMs);
  expect(hasEnded()).toBe(true);
});
