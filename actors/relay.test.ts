/** Which shards the relay takes to a sink, from which database, and until when. */
import { expect, it, onTestFinished } from "vitest";

import { systemTime } from "../src/clock.ts";
import type { RelayEvent } from "../src/core/relay-store.ts";
import { relaySink, relayStore } from "../test/stage/relay-parts.ts";
import { buildRelay } from "./relay.ts";

/** A deployment of two databases, whose shards have one event each. */
function start() {
  const asked: number[][] = [[], []];
  const reads: number[][] = [[], []];
  let closed = 0;
  const stores = asked.map((shards, index) =>
    relayStore({
      cursors(_, wanted) {
        shards.push(...wanted);
        return Promise.resolve(wanted.map((shard) => ({ shard, position: 0, trouble: null })));
      },
      lastPositions: () => Promise.resolve([]),
      read(behind) {
        reads[index]!.push(...behind.map(({ shard }) => shard));
        const rows = behind.filter(({ position }) => position === 0);
        return Promise.resolve(rows.map(({ shard }) => ({ shard, position: 1 }) as RelayEvent));
      },
      close: () => Promise.resolve(void (closed += 1)),
    }),
  );
  // Without its sweep, which would find by itself what the relay was told of
  const time = { ...systemTime, every: () => () => undefined };
  const relay = buildRelay({ stores, time, log: { warn: () => undefined } });
  onTestFinished(() => relay.stop());
  return { relay, asked, reads, closed: () => closed };
}

/** Notes the shards of the events that it is given, and takes one when the test says so. */
function heldSink() {
  const given: number[] = [];
  const stage = { take: (): void => undefined, stops: 0 };
  const sink = relaySink({
    deliver({ shard }) {
      given.push(shard);
      return new Promise((resolve) => (stage.take = () => resolve({ type: "delivered" })));
    },
    stop: () => (stage.stops += 1),
  });
  return { sink, given, stage };
}

it("takes to a sink that comes later the shards that are owned then, each from its database", async () => {
  const { relay, asked } = start();
  relay.own([4, 5, 6, 7]);
  relay.disown([4, 5]);
  const given: number[] = [];
  const sink = relaySink({
    deliver({ shard }) {
      given.push(shard);
      return Promise.resolve({ type: "delivered" });
    },
  });
  relay.add(sink);
  await expect.poll(() => given.toSorted()).toEqual([6, 7]);
  expect(asked).toEqual([[6], [7]]);
});

it("takes nothing more to a sink that is removed, and waits for what is under way", async () => {
  const { relay } = start();
  relay.own([6, 8]);
  const { sink, given, stage } = heldSink();
  relay.add(sink);
  await expect.poll(() => given).toEqual([6]);
  let isRemoved = false;
  const removing = relay.remove(sink.name).then(() => (isRemoved = true));
  await new Promise((resolve) => setImmediate(resolve));
  expect([relay.status(), stage.stops, isRemoved]).toEqual([[], 1, false]);
  stage.take();
  await removing;
  relay.own([10]);
  relay.committed([6, 8, 10]);
  await relay.settle(1_000);
  expect([given, stage.stops]).toEqual([[6], 1]);
});

it("takes shards on and gives them up while it is at work", async () => {
  const { relay, reads } = start();
  const given: number[] = [];
  const sink = relaySink({
    deliver({ shard }) {
      given.push(shard);
      return Promise.resolve({ type: "delivered" });
    },
  });
  relay.add(sink);
  relay.own([6, 7]);
  await expect.poll(() => given.toSorted()).toEqual([6, 7]);
  await relay.settle(1_000);
  relay.disown([6]);
  const before = reads.map(({ length }) => length);
  relay.committed([6, 7]);
  await relay.settle(1_000);
  expect(reads.map((shards, index) => shards.slice(before[index]))).toEqual([[], [7]]);
});

it("goes on when a sink says that it is open", async () => {
  const { relay } = start();
  const given: number[] = [];
  let isOpen = false;
  let open = (): void => undefined;
  const sink = Object.defineProperty(
    relaySink({
      deliver({ shard }) {
        given.push(shard);
        return Promise.resolve({ type: "delivered" });
      },
      start: (onOpen) => void (open = onOpen),
    }),
    "isOpen",
    { get: () => isOpen },
  );
  relay.own([6]);
  relay.add(sink);
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(given).toEqual([]);
  isOpen = true;
  open();
  await expect.poll(() => given).toEqual([6]);
});

it("ends its sinks, waits for what is under way, and then closes its databases", async () => {
  const { relay, closed } = start();
  const { sink, given, stage } = heldSink();
  relay.own([6]);
  relay.add(sink);
  await expect.poll(() => given).toEqual([6]);
  await relay.settle(20); // which that event does not let happen
  const ending = relay.stop();
  await new Promise((resolve) => setImmediate(resolve));
  expect([stage.stops, closed()]).toEqual([1, 0]);
  stage.take();
  await ending;
  expect(closed()).toBe(2);
});
