/**
 * The relay and the event stream on real servers: what a message is, order, and that nothing is
 * lost when JetStream is away, when a relay dies with events under way, when shards change hands
 * and when two believe that they have them. Races are named in the tests.
 */
import { DiscardPolicy } from "nats";
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from "vitest";

import { buildRelay } from "../actors/relay.ts";
import type { Delivery, RelaySink } from "../actors/relay-sink.ts";
import { systemTime } from "../src/clock.ts";
import { eventSubject, EVENT_STREAM, EVENT_SUBJECTS } from "../src/core/event-stream.ts";
import { LIMITS } from "../src/limits.ts";
import { buildPostgresRelayStore } from "../src/postgres/relay.ts";
import type { RelayEvent } from "../src/core/relay-store.ts";
import { ALL_SHARDS } from "../src/core/shard.ts";
import {
  addStream,
  busOf,
  committedIds,
  problemsOf,
  follow,
  openWallets,
  relayOf,
  removeStream,
  write,
} from "./stage/relay.ts";
import { startNats, type TestServer } from "./stage/servers.ts";
import { unique } from "./stage/ids.ts";
import { startStack, until, type EventBody, type Stack } from "./stage/stack.ts";
import { withLimits } from "./stage/lanes.ts";

let nats: TestServer;
let stack: Stack;

beforeAll(async () => {
  nats = await startNats({ jetstream: true });
});
afterAll(() => nats?.stop());

beforeEach(() => removeStream(nats.url));

/** For each test of a group. */
async function openStack(): Promise<() => Promise<void>> {
  stack = await startStack();
  return () => stack.close();
}

/** A bus to the NATS of this file, and who keeps its streams. */
async function openStreams() {
  const bus = await busOf(nats.url);
  return { bus, manager: await (await bus.connection).jetstreamManager() };
}

/** A sink that the test holds: it takes an event when the test says so. */
function heldSink(options: Partial<RelaySink> = {}) {
  const waiting: Array<{ event: RelayEvent; answer: (delivery: Delivery) => void }> = [];
  const taken: RelayEvent[] = [];
  const sink: RelaySink = {
    name: unique("held"),
    label: "held",
    beginsAtFirst: true,
    shardsAtOnceMax: 4,
    shardRowsMax: 8,
    windowMax: 2,
    isOpen: true,
    state: "open",
    start: () => undefined,
    stop: () => undefined,
    deliver: (event) =>
      new Promise((resolve) => {
        const answer = (delivery: Delivery): void => {
          if (delivery.type === "delivered") taken.push(event);
          resolve(delivery);
        };
        waiting.push({ event, answer });
      }),
    ...options,
  };
  return { sink, waiting, taken };
}

async function cursors(sink: string): Promise<number> {
  const [row] = await stack.sql<{ total: number }>(
    "SELECT coalesce(sum(position), 0)::int4 AS total FROM relay_cursors WHERE sink = $1",
    [sink],
  );
  return row!.total;
}

describe("a message of the stream", () => {
  beforeEach(openStack);

  it("is the event as GET gives it, under its wallet's subject, with its id and correlation id", async () => {
    // Given a relay, and a wallet whose id has every kind of character
    const relay = relayOf(stack);
    addStream(relay, await busOf(nats.url));
    const messages = await follow(nats.url);
    const walletId = unique("User.1:gold@shop_A-b");

    // When it is made with money
    await stack.ask("POST", "/wallets", {
      json: { walletId, initialBalance: 12.5, metadata: { tier: "gold" }, description: "first" },
      headers: { "x-correlation-id": "order-17" },
    });
    await until("both events are there", () => messages.length === 2);

    // Then each event is one message
    const { body } = await stack.get<EventBody[]>(`/wallets/${walletId}/events`);
    expect(messages.map(({ event }) => event)).toEqual(body);
    expect(messages.map(({ id }) => id)).toEqual([`${walletId}:0`, `${walletId}:1`]);
    expect(messages.map(({ correlationId }) => correlationId)).toEqual(["order-17", "order-17"]);
    expect(messages.map(({ subject }) => subject)).toEqual(
      ["WalletCreated", "WalletCredited"].map((type) => eventSubject(walletId, type)),
    );
    const [, , encoded = "", type] = messages[0]!.subject.split(".");
    expect(decodeURIComponent(encoded)).toBe(walletId);
    expect(type).toBe("WalletCreated");
  });
});

describe("the stream", () => {
  beforeEach(openStack);

  it("is made with bounds when it is missing, also when it goes while the relay runs", async () => {
    const bus = await busOf(nats.url);
    const relay = relayOf(stack);
    const warnings = addStream(relay, bus);
    const manager = await (await bus.connection).jetstreamManager();
    const config = async () => (await manager.streams.info(EVENT_STREAM)).config;
    await until("it is there", () => config().then(Boolean, () => false));
    expect(await config()).toMatchObject({
      subjects: [EVENT_SUBJECTS],
      storage: "file",
      max_age: 86_400_000 * 1e6,
      duplicate_window: LIMITS.streamDuplicateWindowMs * 1e6,
    });

    // When somebody removes it
    await manager.streams.delete(EVENT_STREAM);
    const wallets = await openWallets(stack, 3);

    // Then it is made again, and what is committed from then on is in it
    const messages = await follow(nats.url);
    await until("the events are there", () => messages.length === wallets.length);
    expect(warnings).toHaveLength(1);
  });

  it("is left as it is when an operator has made it", async () => {
    const { bus, manager } = await openStreams();
    await manager.streams.add({ name: EVENT_STREAM, subjects: ["wallets.>"], max_msgs: 5_000 });
    const relay = relayOf(stack);
    addStream(relay, bus);
    await openWallets(stack, 1);
    await until("the event is there", () => relay.status()[0]!.delivered === 1);
    const { config } = await manager.streams.info(EVENT_STREAM);
    expect(config).toMatchObject({ subjects: ["wallets.>"], max_msgs: 5_000 });
  });

  it("under its name with other subjects is refused, with one warning that says so", async () => {
    const { bus, manager } = await openStreams();
    await manager.streams.add({ name: EVENT_STREAM, subjects: ["somewhere.else"] });
    const relay = relayOf(stack);
    const warnings = addStream(relay, bus);
    await openWallets(stack, 1);
    await until("it was tried again", () => relay.status()[0]!.lagEvents === 1);
    expect(relay.status()[0]).toMatchObject({ state: "refused", delivered: 0, buffered: 0 });
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain("does not take wallets.events.>");
  });

  it("on a server without JetStream is one warning and a state, and commands go on", async () => {
    const plain = await startNats();
    onTestFinished(() => plain.stop());
    const relay = relayOf(stack);
    const warnings = addStream(relay, await busOf(plain.url));
    await until("it is known", () => relay.status()[0]!.state === "no jetstream");
    const [walletId = ""] = await openWallets(stack, 1);
    await write(stack, [walletId], 3);
    await until("the lag is known", () => relay.status()[0]!.lagEvents === 4);
    await until("its age is known", () => relay.status()[0]!.lagMs > 0);
    expect(relay.status()[0]).toMatchObject({ delivered: 0, buffered: 0 });
    expect(warnings).toHaveLength(1);
    expect(warnings[0]).toContain("no JetStream");
  });

  it("that is full is one warning and a state that stays, however often it is tried", async () => {
    // Given a stream with room for three events
    const { bus, manager } = await openStreams();
    const config = { name: EVENT_STREAM, subjects: [EVENT_SUBJECTS], discard: DiscardPolicy.New };
    await manager.streams.add({ ...config, max_msgs: 3 });
    const relay = relayOf(stack);
    const warnings = addStream(relay, bus);
    const [walletId = ""] = await openWallets(stack, 1);
    await write(stack, [walletId], 5);
    await until("it is full", () => relay.status()[0]!.state === "refused");

    // When it refuses the fourth again and again, and tells of itself as if nothing were wrong
    const { retries } = relay.status()[0]!;
    const states = new Set<string>();
    await until("it was tried again", () => {
      states.add(relay.status()[0]!.state);
      return relay.status()[0]!.retries >= retries + 3;
    });

    // Then that is not taken for the end of the trouble
    expect([...states]).toEqual(["refused"]);
    expect(warnings).toHaveLength(1);

    // And when there is room, the rest follows
    await manager.streams.update(EVENT_STREAM, { ...config, max_msgs: 100 });
    await until("all are told", () => relay.status()[0]!.delivered === 6);
    expect(relay.status()[0]).toMatchObject({ state: "open", lagEvents: 0 });
  });
});

describe("nothing is lost", () => {
  beforeEach(openStack);

  it(
    "when JetStream is killed, thousands are written, and it comes back",
    { timeout: 60_000 },
    async () => {
      // Given a relay at work
      const relay = relayOf(stack);
      const bus = await busOf(nats.url);
      addStream(relay, bus);
      const wallets = await openWallets(stack, 40);
      await until("they are told", () => relay.status()[0]!.delivered === 40);

      // When JetStream dies while events are under way, and stays away while more are committed
      const writing = write(stack, wallets, 60);
      await until("some are told", () => relay.status()[0]!.delivered > 200);
      await nats.kill();
      await writing;
      const { delivered } = relay.status()[0]!;
      await until("the lag is known", () => relay.status()[0]!.lagEvents >= 2_440 - delivered);

      // Then the relay keeps nothing in memory and says how far behind it is
      await until("it has given up what was under way", () => relay.status()[0]!.buffered === 0);
      expect(relay.status()[0]!.state).toBe("away");
      await until("its age is known", () => relay.status()[0]!.lagMs > 0);

      // And when JetStream is back, everything follows in order
      await nats.restart();
      const messages = await follow(nats.url);
      await until(
        "all are there",
        () => new Set(messages.map(({ id }) => id)).size === 2_440,
        40_000,
      );
      const events = messages.map(({ event }) => event);
      expect(problemsOf(events, await committedIds(stack))).toEqual([]);
      await until("there is no lag", () => relay.status()[0]!.lagEvents === 0);
      expect(relay.status()[0]).toMatchObject({ state: "open", lagMs: 0 });
    },
  );

  it("when a leader takes an event for a repeat of one that it has not stored: it comes again", async () => {
    // Given a stream that leaves the answers to somebody else: what a leader without the others
    // says to a repeat
    const bus = await busOf(nats.url);
    const connection = await bus.connection;
    const manager = await connection.jetstreamManager();
    await manager.streams.add({ name: EVENT_STREAM, subjects: [EVENT_SUBJECTS], no_ack: true });
    let seq = 0;
    let asked = 0;
    connection.subscribe(EVENT_SUBJECTS, {
      callback: (_error, message) => {
        asked += 1;
        message.respond(JSON.stringify({ stream: EVENT_STREAM, seq, duplicate: true }));
      },
    });
    const relay = relayOf(stack);
    addStream(relay, bus);
    await openWallets(stack, 1);

    // Then that is no delivery
    await until("it was asked again", () => asked >= 3);
    expect(relay.status()[0]).toMatchObject({ delivered: 0, lagEvents: 1 });

    // And when the event has a place, it is
    seq = 1;
    await until("it is told", () => relay.status()[0]!.delivered === 1);
    await until("there is no lag", () => relay.status()[0]!.lagEvents === 0);
  });

  it("when a relay dies between a delivery and its cursor: the next one tells those again", async () => {
    // Given events under way to a sink that has not said that it has them
    const [walletId = ""] = await openWallets(stack, 1);
    await write(stack, [walletId], 9);
    const first = heldSink({ windowMax: 1 });
    const dying = relayOf(stack);
    dying.add(first.sink);
    await until("the first is under way", () => first.waiting.length === 1);
    expect(await cursors(first.sink.name)).toBe(0);

    // When it takes three, and the relay dies before anybody knows of the fourth
    for (let number = 0; number < 3; number += 1) {
      first.waiting[number]!.answer({ type: "delivered" });
      await until("the next is under way", () => first.waiting.length === number + 2);
    }
    await until("three are saved", async () => (await cursors(first.sink.name)) === 3);
    dying.disown(ALL_SHARDS);

    // Then the next relay begins with the fourth, which may have arrived
    const second = heldSink({ name: first.sink.name });
    relayOf(stack).add({ ...second.sink, deliver: takeAll(second.taken) });
    await until("all are told", () => second.taken.length === 7);
    expect(second.taken.map(({ version }) => version)).toEqual([3, 4, 5, 6, 7, 8, 9]);
  });

  it("and nothing is repeated when a crash of the database has taken a cursor back: it is saved again", async () => {
    // Given a shard that is delivered and saved, and in which nothing happens any more
    withLimits({ relayCompareMs: 100 });
    const [walletId = ""] = await openWallets(stack, 1);
    await write(stack, [walletId], 9);
    const first = heldSink();
    const relay = relayOf(stack);
    relay.add({ ...first.sink, deliver: takeAll(first.taken) });
    const { name } = first.sink;
    await until("all are saved", async () => (await cursors(name)) === 10);

    // When its cursor is as it was a moment before, or is not there at all
    for (const sql of [
      "UPDATE relay_cursors SET position = 4 WHERE sink = $1 AND position > 4",
      "DELETE FROM relay_cursors WHERE sink = $1",
    ]) {
      await stack.sql(sql, [name]);
      expect(await cursors(name)).toBeLessThan(10);
      // Then it is where it was, without another event
      await until("it is saved again", async () => (await cursors(name)) === 10);
    }
    await relay.stop();
    const second = heldSink({ name });
    relayOf(stack).add({ ...second.sink, deliver: takeAll(second.taken) });
    await write(stack, [walletId], 1);
    await until("the next event is told", () => second.taken.length > 0);
    expect(first.taken).toHaveLength(10);
    expect(second.taken.map(({ version }) => version)).toEqual([10]);
  });

  it("when an event fails in the middle of those under way: it comes again, and all behind it", async () => {
    // Race: a later event is delivered, an earlier one is not
    const [walletId = ""] = await openWallets(stack, 1);
    await write(stack, [walletId], 5);
    const { sink, waiting } = heldSink({ windowMax: 4 });
    relayOf(stack).add(sink);
    await until("four are under way", () => waiting.length === 4);
    waiting[0]!.answer({ type: "delivered" });
    await until("a fifth is under way", () => waiting.length === 5);
    for (const later of [2, 3, 4]) waiting[later]!.answer({ type: "delivered" });
    waiting[1]!.answer({ type: "failed", reason: "not now", retryInMs: 50 });
    await until(
      "it came again",
      () => waiting.filter(({ event }) => event.version === 1).length === 2,
    );
    await until("one is saved", async () => (await cursors(sink.name)) === 1);
    expect(waiting.slice(-4).map(({ event }) => event.version)).toEqual([1, 2, 3, 4]);
  });

  it("when shards change hands under load", { timeout: 60_000 }, async () => {
    const bus = await busOf(nats.url);
    const [one, other] = [relayOf(stack), relayOf(stack, [])];
    for (const relay of [one, other]) addStream(relay, bus);
    const messages = await follow(nats.url);
    const wallets = await openWallets(stack, 30);
    const writing = write(stack, wallets, 25);
    for (let round = 0; round < 6; round += 1) {
      await new Promise((resolve) => setTimeout(resolve, 150));
      const [from, to] = round % 2 === 0 ? [one, other] : [other, one];
      from.disown(ALL_SHARDS);
      to.own(ALL_SHARDS);
    }
    await writing;
    await until("all are there", () => new Set(messages.map(({ id }) => id)).size === 780, 30_000);
    expect(
      problemsOf(
        messages.map(({ event }) => event),
        await committedIds(stack),
      ),
    ).toEqual([]);
  });

  it("when two relays believe that they have the same shards: the stream drops what comes twice", async () => {
    const bus = await busOf(nats.url);
    for (const relay of [relayOf(stack), relayOf(stack)]) addStream(relay, bus);
    const messages = await follow(nats.url);
    const wallets = await openWallets(stack, 20);
    await write(stack, wallets, 10);
    const committed = await committedIds(stack);
    await until("all are there", () => messages.length >= committed.length);
    await new Promise((resolve) => setTimeout(resolve, LIMITS.relaySweepMs + 200));
    expect(messages).toHaveLength(committed.length);
    expect(
      problemsOf(
        messages.map(({ event }) => event),
        committed,
      ),
    ).toEqual([]);
  });
});

function takeAll(taken: RelayEvent[]): RelaySink["deliver"] {
  return (event) => {
    taken.push(event);
    return Promise.resolve({ type: "delivered" });
  };
}

describe("memory and waiting are bounded", () => {
  beforeEach(openStack);

  it("a sink that takes nothing gets its pages and no more, and holds up no other", async () => {
    const wallets = await openWallets(stack, 40);
    await write(stack, wallets, 20);
    const { sink, waiting, taken } = heldSink();
    const quick: RelayEvent[] = [];
    const relay = relayOf(stack);
    relay.add(sink);
    relay.add({ ...heldSink().sink, deliver: takeAll(quick) });
    await until("the other has all", () => quick.length === 840);
    const bound = sink.shardsAtOnceMax * sink.shardRowsMax;
    expect(relay.status()[0]!.buffered).toBe(bound);
    expect(waiting).toHaveLength(sink.shardsAtOnceMax * sink.windowMax);

    // And it gets everything, when it takes it
    let most = 0;
    for (let index = 0; taken.length < 840; index += 1) {
      await until("another is under way", () => waiting.length > index);
      most = Math.max(most, relay.status()[0]!.buffered);
      waiting[index]!.answer({ type: "delivered" });
    }
    expect(most).toBeLessThanOrEqual(bound);
    expect(problemsOf(taken, await committedIds(stack))).toEqual([]);
  });

  it("a shard with a gap in its positions stops there, and says so", async () => {
    // Given an event that is not at its place: what no writer of ours can do
    const [walletId = ""] = await openWallets(stack, 1);
    await write(stack, [walletId], 3);
    const move = (by: number): Promise<unknown> =>
      stack.sql(
        `WITH off AS (SELECT set_config('session_replication_role', 'replica', true))
         UPDATE events SET position = position + ${by} FROM off WHERE wallet_id = $1 AND version = 3`,
        [walletId],
      );
    await move(1);
    const taken: RelayEvent[] = [];
    const relay = relayOf(stack);
    relay.add({ ...heldSink().sink, deliver: takeAll(taken) });
    await until("it has stopped", () => relay.status()[0]!.failingShards === 1);
    expect(taken.map(({ version }) => version)).toEqual([0, 1, 2]);
    expect(relay.status()[0]!.reason).toContain("no event at position 4 and one at 5");

    // When the missing one is there
    await move(-1);

    // Then it goes on
    await until("all are told", () => taken.length === 4, LIMITS.relayRetryMsMax + 5_000);
    expect(taken.map(({ version }) => version)).toEqual([0, 1, 2, 3]);
  });

  it("a database that is away holds up only its own shards", async () => {
    const wallets = await openWallets(stack, 20);
    const taken: RelayEvent[] = [];
    const relay = buildRelay({
      stores: [stack.databaseUrl, "postgres://nobody@127.0.0.1:1/none"].map(
        buildPostgresRelayStore,
      ),
      time: systemTime,
      log: { warn: () => undefined },
    });
    onTestFinished(() => relay.stop());
    relay.own(ALL_SHARDS);
    relay.add({ ...heldSink().sink, deliver: takeAll(taken) });
    const rows = await stack.sql<{ here: number }>(
      "SELECT count(*)::int4 AS here FROM wallets WHERE shard % 2 = 0 AND wallet_id = ANY ($1)",
      [wallets],
    );
    await until("those of the other are told", () => taken.length === rows[0]!.here);
    expect(taken.every(({ shard }) => shard % 2 === 0)).toBe(true);
  });
});
