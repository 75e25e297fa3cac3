/**
 * The hub without sockets, over the in-process bus and a virtual clock. The property lets the bus drop, repeat and reorder
 * at will, the database be slow or away and clients be slow, and demands of each client and wallet what the contract says.
 */
import fc from "fast-check";
import { afterEach, describe, expect, test } from "vitest";

import type { Bus } from "../src/bus.ts";
import { LIMITS } from "../src/limits.ts";
import { buildMemoryBus } from "../src/memory-bus.ts";
import { SUBJECTS, type Change } from "../src/protocol.ts";
import { shardOf } from "../src/shard.ts";
import {
  buildRecordingSink,
  buildVirtualTime,
  buildWorld,
  type BalanceFrame,
  type RecordingSink,
  type ServerFrame,
} from "../test/feed-world.ts";
import { buildFeedHub, type FeedClient, type FeedHub } from "./feed.ts";

const SEED = Number(process.env["FEED_SEED"] ?? Math.trunc(Math.random() * 2 ** 31));

const stops: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const stop of stops.splice(0)) await stop();
});

function buildSetting() {
  const time = buildVirtualTime();
  const world = buildWorld(time.timers);
  const inner = buildMemoryBus();
  const listeners = new Set<() => void>();
  const subscribed = new Map<string, number>();
  const count = (subject: string, by: number): void => {
    subscribed.set(subject, (subscribed.get(subject) ?? 0) + by);
  };
  const bus: Bus = {
    ...inner,
    state: "connected",
    subscribe(subject, handler) {
      count(subject, 1);
      const unsubscribe = inner.subscribe(subject, handler);
      return () => {
        count(subject, -1);
        unsubscribe();
      };
    },
    onReconnect(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
  const warnings: unknown[] = [];
  const log = { warn: (...line: unknown[]) => void warnings.push(line) };
  const hub = buildFeedHub({ bus, readModel: world.readModel, ...time, log });
  const stop = async (): Promise<void> => {
    const drained = hub.drain();
    // Reads under way end in virtual time.
    await time.advance(60_000);
    await drained;
  };
  stops.push(stop);
  const publish = (change: Change): void => {
    const { walletId, ownerId } = change.wallet;
    bus.publish(SUBJECTS.changes(shardOf(walletId)), [change]);
    if (change.type === "WalletCreated" && ownerId !== null) {
      bus.publish(SUBJECTS.owners(shardOf(ownerId)), [change]);
    }
  };
  return {
    ...time,
    world,
    bus,
    hub,
    warnings,
    publish,
    reconnect: () => {
      for (const listener of listeners) listener();
    },
    listenedTo: () => [...subscribed].filter(([, n]) => n > 0).map(([subject]) => subject),
    /** Commits and publishes n changes. */
    change: (walletId: string, times = 1, options: { ownerId?: string } = {}): void => {
      for (let n = 0; n < times; n++) publish(world.commit(walletId, options));
    },
  };
}

function connect(hub: FeedHub): {
  sink: RecordingSink;
  client: FeedClient;
  say: (frame: object) => void;
} {
  const sink = buildRecordingSink();
  const client = hub.connect(sink);
  return { sink, client, say: (frame) => client.receive(JSON.stringify(frame)) };
}

function balances(sink: RecordingSink, walletId?: string): BalanceFrame[] {
  return sink.frames.filter(
    (frame): frame is BalanceFrame =>
      frame.type === "balance" && (walletId === undefined || frame.walletId === walletId),
  );
}

function errors(sink: RecordingSink): Extract<ServerFrame, { type: "error" }>[] {
  return sink.frames.filter((frame) => frame.type === "error");
}

const versions = (frames: readonly BalanceFrame[]): number[] =>
  frames.map(({ version }) => version);

// --- The property ---------------------------------------------------------------------------------------------------------

const WALLETS = ["w0", "w1", "w2"] as const;

const fate = fc.constantFrom("pass", "pass", "pass", "drop", "repeat", "late");
const wallet = fc.constantFrom(...WALLETS);
const clientIndex = fc.constantFrom(0, 1, 2);

const step = fc.oneof(
  { weight: 12, arbitrary: fc.record({ do: fc.constant("change" as const), wallet, fate }) },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant("wait" as const),
      ms: fc.integer({ min: 0, max: 400 }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant("subscribe" as const),
      client: clientIndex,
      wallet,
      from: fc.option(fc.integer({ min: -1, max: 12 })),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant("unsubscribe" as const), client: clientIndex, wallet }),
  },
  {
    weight: 1,
    arbitrary: fc.record({
      do: fc.constant("slow" as const),
      client: clientIndex,
      isSlow: fc.boolean(),
    }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("away" as const), isAway: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("reconnect" as const) }) },
);

type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

/** What a client did, between the frames it got. */
interface Mark {
  readonly type: "did";
  readonly what: "subscribe" | "unsubscribe";
  readonly walletId: string;
  readonly from: number | null;
  readonly versionThen: number;
}

/** Reads one client's log as the contract does; returns the last version of each wallet it watches. */
function judge(
  log: readonly (Mark | ServerFrame)[],
  balanceAt: (walletId: string, version: number) => number,
): Map<string, number> {
  const at = new Map<string, { last: number | null; mark: Mark }>();
  for (const entry of log) {
    if (entry.type === "did") {
      if (entry.what === "unsubscribe") at.delete(entry.walletId);
      else if (entry.from !== null || !at.has(entry.walletId)) {
        at.set(entry.walletId, { last: null, mark: entry });
      }
    } else if (entry.type === "balance") {
      const { walletId, version, conflated } = entry;
      const place = at.get(walletId);
      if (place === undefined) throw new Error(`${walletId}: a frame for nobody`);
      const { from, versionThen } = place.mark;
      const previous = place.last ?? from;
      if (entry.snapshot) {
        if (place.last !== null) throw new Error(`${walletId}: a second snapshot`);
        if (version < versionThen) throw new Error(`${walletId}: older than the subscription`);
        if (conflated !== 0 || entry.change !== null) throw new Error("a snapshot covers nothing");
        const isReset = from !== null;
        if (isReset !== (entry.reset === true)) throw new Error(`${walletId}: reset is wrong`);
        if (isReset && from >= 0 && from <= versionThen) throw new Error("an idle reset");
      } else if (previous === null || version - conflated !== previous + 1) {
        throw new Error(`${walletId}: ${version} (covers ${conflated}) after ${previous}`);
      }
      if (entry.balance !== balanceAt(walletId, version)) throw new Error(`${walletId}: balance`);
      place.last = version;
    }
  }
  return new Map([...at].map(([walletId, { last, mark }]) => [walletId, last ?? mark.from ?? -1]));
}

async function play(steps: readonly Step[], readDelayMs: number): Promise<void> {
  const { world, hub, publish, reconnect, advance } = buildSetting();
  world.readDelayMs = readDelayMs;
  for (const walletId of WALLETS) world.commit(walletId);
  const clients = [0, 1, 2].map(() => {
    const log: (Mark | ServerFrame)[] = [];
    const { sink, say } = connect(hub);
    sink.send = (text) => void log.push(JSON.parse(text) as ServerFrame);
    return { sink, say, log };
  });
  let late: Change[] = [];
  for (const next of steps) {
    switch (next.do) {
      case "change": {
        const change = world.commit(next.wallet);
        if (next.fate === "late") {
          late.push(change);
          break;
        }
        if (next.fate !== "drop") publish(change);
        if (next.fate === "repeat") publish(change);
        for (const each of late) publish(each);
        late = [];
        break;
      }
      case "wait":
        await advance(next.ms);
        break;
      case "subscribe":
      case "unsubscribe": {
        const { log, say } = clients[next.client]!;
        const from = next.do === "subscribe" ? next.from : null;
        const walletId = next.wallet;
        const versionThen = world.version(walletId);
        log.push({ type: "did", what: next.do, walletId, from, versionThen });
        say({
          type: next.do,
          wallets: [walletId],
          ...(from !== null && { from: { [walletId]: from } }),
        });
        break;
      }
      case "slow":
        clients[next.client]!.sink.buffered = next.isSlow ? LIMITS.feedBufferedBytesSoft + 1 : 0;
        break;
      case "away":
        world.isAway = next.isAway;
        break;
      case "reconnect":
        reconnect();
        break;
      default:
        next satisfies never;
    }
  }
  for (const { sink } of clients) sink.buffered = 0;
  world.isAway = false;
  // The longest pause after failures, two sweeps, and the time that a lost change is waited for.
  await advance(LIMITS.feedReadRetryMsMax + 2 * LIMITS.feedSweepMs + 4 * LIMITS.feedLagMs);
  for (const { log, sink } of clients) {
    const ends = judge(log, (walletId, version) => world.at(walletId, version).balanceMinor / 100);
    for (const [walletId, version] of ends) expect(version).toBe(world.version(walletId));
    expect(sink.closedWith).toBeNull();
  }
}

test(`every client sees each wallet's versions without gap or repeat, up to the newest (FEED_SEED=${SEED})`, async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 1, maxLength: 60 }),
      fc.constantFrom(0, 2, 30, 300),
      play,
    ),
    { seed: SEED, numRuns: 250 },
  );
}, 60_000);

// --- Joining --------------------------------------------------------------------------------------------------------------

describe("a subscription", () => {
  test("begins with the contract's frame as a snapshot, and goes on with every change", async () => {
    const { world, hub, change, advance } = buildSetting();
    world.commit("w1", { ownerId: "u1" });
    world.commit("w1");
    const { sink, say } = connect(hub);
    say({ type: "subscribe", wallets: ["w1"] });
    expect(sink.frames).toEqual([{ type: "subscribed", wallets: ["w1"], owners: [] }]);
    await advance(10);
    change("w1");
    await advance(10);
    const common = { type: "balance", walletId: "w1", ownerId: "u1", held: 0, currency: "USD" };
    expect(sink.frames.slice(1)).toEqual([
      {
        ...common,
        version: 1,
        balance: 0.01,
        available: 0.01,
        status: "ACTIVE",
        change: null,
        snapshot: true,
        conflated: 0,
        occurredAt: "2026-01-01T00:00:00.001Z",
      },
      {
        ...common,
        version: 2,
        balance: 0.02,
        available: 0.02,
        status: "ACTIVE",
        change: { type: "WalletCredited", amount: 0.01, description: null },
        snapshot: false,
        conflated: 0,
        occurredAt: "2026-01-01T00:00:00.002Z",
      },
    ]);
  });

  test("from a version gets what is missing from the journal in pages, then live changes, each once", async () => {
    const { world, hub, change, advance } = buildSetting();
    const pages = 4;
    for (let n = 0; n <= pages * LIMITS.feedReplayPageEvents; n++) world.commit("w1");
    world.readDelayMs = 10;
    const { sink, say } = connect(hub);
    say({ type: "subscribe", wallets: ["w1"], from: { w1: 5 } });
    // Race: changes arrive during each of the reads.
    for (let n = 0; n < 30; n++) {
      await advance(3);
      change("w1");
    }
    await advance(100);
    const last = world.version("w1");
    expect(versions(balances(sink))).toEqual(Array.from({ length: last - 5 }, (_, n) => n + 6));
    expect(world.asked.events).toBeLessThanOrEqual(pages + 1);
    expect(hub.stats()).toMatchObject({ resets: 0, repairs: 0 });
  });

  test("from the newest version waits for the next change without a frame", async () => {
    const { world, hub, change, advance } = buildSetting();
    world.commit("w1");
    const { sink, say } = connect(hub);
    say({ type: "subscribe", wallets: ["w1"], from: { w1: 0 } });
    await advance(10);
    expect(balances(sink)).toEqual([]);
    change("w1");
    await advance(10);
    expect(versions(balances(sink))).toEqual([1]);
  });

  test.each([
    ["ahead of the wallet", 3, 4],
    ["negative", 3, -1],
    ["not a safe integer", 3, 1e300],
    ["too far behind", LIMITS.feedReplayEventsMax + 1, 0],
  ])("from a version that is %s starts anew with a reset", async (_, version, from) => {
    const { world, hub, change, advance } = buildSetting();
    for (let n = 0; n <= version; n++) world.commit("w1");
    const { sink, say } = connect(hub);
    say({ type: "subscribe", wallets: ["w1"], from: { w1: from } });
    await advance(10);
    expect(balances(sink)).toMatchObject([{ version, snapshot: true, reset: true, change: null }]);
    change("w1");
    await advance(10);
    expect(versions(balances(sink))).toEqual([version, version + 1]);
  });

  test("exactly feedReplayEventsMax behind is replayed", async () => {
    const { world, hub, advance } = buildSetting();
    for (let n = 0; n <= LIMITS.feedReplayEventsMax; n++) world.commit("w1");
    const { sink, say } = connect(hub);
    say({ type: "subscribe", wallets: ["w1"], from: { w1: 0 } });
    await advance(1_000);
    expect(balances(sink)).toHaveLength(LIMITS.feedReplayEventsMax);
    expect(balances(sink).every(({ snapshot }) => !snapshot)).toBe(true);
  });

  test("repeated without from changes nothing; with from it starts there again", async () => {
    const { world, hub, change, advance } = buildSetting();
    for (let n = 0; n < 5; n++) world.commit("w1");
    const { sink, say } = connect(hub);
    say({ type: "subscribe", wallets: ["w1", "w1"] });
    await advance(10);
    say({ type: "subscribe", wallets: ["w1"] });
    await advance(10);
    expect(versions(balances(sink))).toEqual([4]);
    expect(sink.frames.filter(({ type }) => type === "subscribed")).toHaveLength(2);
    say({ type: "subscribe", wallets: ["w1"], from: { w1: 1 } });
    await advance(10);
    change("w1");
    await advance(10);
    expect(versions(balances(sink))).toEqual([4, 2, 3, 4, 5]);
    expect(hub.stats()).toMatchObject({ wallets: 1, watches: 1 });
  });

  test("of a wallet that does not exist ends with wallet_not_found, and only for that wallet", async () => {
    const { world, hub, change, advance } = buildSetting();
    world.commit("w1");
    const { sink, say } = connect(hub);
    say({ type: "subscribe", wallets: ["ghost", "w1"] });
    await advance(10);
    const message = "Wallet ghost does not exist";
    expect(errors(sink)).toEqual([
      { type: "error", code: "wallet_not_found", message, walletId: "ghost" },
    ]);
    change("ghost");
    await advance(10);
    expect(balances(sink)).toMatchObject([{ walletId: "w1" }]);
    expect(hub.stats()).toMatchObject({ wallets: 1, watches: 1 });
  });

  test("ends with unsubscribe, also while its journal is being read", async () => {
    const { world, hub, change, advance } = buildSetting();
    for (let n = 0; n < 5; n++) world.commit("w1");
    world.readDelayMs = 20;
    const { sink, say } = connect(hub);
    say({ type: "subscribe", wallets: ["w1"], from: { w1: 1 } });
    await advance(25);
    say({ type: "unsubscribe", wallets: ["w1"] });
    await advance(100);
    change("w1");
    await advance(100);
    expect(sink.frames.map(({ type }) => type)).toEqual(["subscribed", "unsubscribed"]);
    expect(hub.stats()).toMatchObject({ wallets: 0, watches: 0 });
  });

  test("waits for a database that is away, and joins when it is back", async () => {
    const { world, hub, change, advance, warnings } = buildSetting();
    world.commit("w1");
    world.isAway = true;
    const { sink, say } = connect(hub);
    say({ type: "subscribe", wallets: ["w1"] });
    await advance(60_000);
    const failures = hub.stats().readFailures;
    expect(failures).toBeGreaterThan(5);
    expect(failures).toBeLessThan(40);
    // Reads that fail together are one line.
    expect(warnings.length).toBeLessThan(failures);
    world.isAway = false;
    change("w1");
    await advance(LIMITS.feedReadRetryMsMax);
    expect(balances(sink)).toMatchObject([{ version: 1, snapshot: true }]);
    expect(errors(sink)).toEqual([]);
  });
});

test("subscriptions of one turn share their reads, and a shard is listened to as long as somebody watches", async () => {
  const { world, hub, advance, listenedTo } = buildSetting();
  const walletIds = Array.from({ length: 400 }, (_, n) => `w${n}`);
  for (const walletId of walletIds) world.commit(walletId);
  const clients = Array.from({ length: 50 }, () => connect(hub));
  for (const { say } of clients) say({ type: "subscribe", wallets: walletIds });
  const shards = new Set(walletIds.map((walletId) => SUBJECTS.changes(shardOf(walletId))));
  expect(new Set(listenedTo())).toEqual(shards);
  await advance(10);
  expect(world.asked.walletsById).toBe(1);
  for (const { sink } of clients) expect(balances(sink)).toHaveLength(400);
  for (const { say } of clients.slice(1)) say({ type: "unsubscribe", wallets: walletIds });
  expect(new Set(listenedTo())).toEqual(shards);
  clients[0]!.client.closed();
  expect(listenedTo()).toEqual([]);
});

// --- Repair ---------------------------------------------------------------------------------------------------------------

describe("what the bus loses", () => {
  async function watchW1() {
    const setting = buildSetting();
    setting.world.commit("w1");
    const others = connect(setting.hub);
    others.say({ type: "subscribe", wallets: ["w1"] });
    const { sink, say } = connect(setting.hub);
    say({ type: "subscribe", wallets: ["w1"] });
    await setting.advance(10);
    return { ...setting, sink };
  }

  test("in between is read from the journal at the next change, once for all who watch", async () => {
    const { world, hub, change, advance, sink } = await watchW1();
    for (let n = 0; n < 10; n++) world.commit("w1");
    change("w1");
    await advance(10);
    expect(versions(balances(sink))).toEqual(Array.from({ length: 12 }, (_, n) => n));
    expect(hub.stats().repairs).toBe(1);
    expect(world.asked.events).toBe(1);
  });

  test("at the end is found by the sweep", async () => {
    const { world, advance, sink } = await watchW1();
    world.commit("w1");
    await advance(LIMITS.feedSweepMs + LIMITS.feedLagMs + 10);
    expect(versions(balances(sink))).toEqual([0, 1]);
  });

  test("while the bus was away is found at its reconnect", async () => {
    const { world, reconnect, advance, sink } = await watchW1();
    world.commit("w1");
    reconnect();
    await advance(LIMITS.feedLagMs + 10);
    expect(versions(balances(sink))).toEqual([0, 1]);
  });

  test("in thousands is not told one by one: a reset", async () => {
    const { world, change, advance, sink } = await watchW1();
    for (let n = 0; n < LIMITS.feedReplayEventsMax; n++) world.commit("w1");
    change("w1");
    await advance(100);
    change("w1");
    await advance(100);
    const last = world.version("w1");
    expect(versions(balances(sink))).toEqual([0, last - 1, last]);
    expect(balances(sink)[1]).toMatchObject({ snapshot: true, reset: true });
  });

  test("is no excuse to read again and again for a version that never was", async () => {
    const { world, publish, change, advance, sink } = await watchW1();
    const real = world.commit("w1");
    publish({ ...real, wallet: { ...real.wallet, version: 900 } });
    await advance(20_000);
    expect(world.asked.events).toBeLessThan(5);
    change("w1");
    await advance(10);
    expect(versions(balances(sink))).toEqual([0, 1, 2]);
  });

  test("or garbles does no harm", async () => {
    const { bus, hub, change, advance, sink } = await watchW1();
    const subject = SUBJECTS.changes(shardOf("w1"));
    for (const junk of [
      null,
      1,
      "x",
      {},
      [null],
      [{ wallet: null }],
      [{ type: "X", wallet: {} }],
    ]) {
      bus.publish(subject, junk);
    }
    change("w1");
    await advance(10);
    expect(versions(balances(sink))).toEqual([0, 1]);
    expect(hub.stats().malformed).toBe(7);
  });
});

test("a busy wallet's newcomers get in although each read is out of date when it arrives", async () => {
  const { world, hub, change, advance } = buildSetting();
  for (let n = 0; n <= 500; n++) world.commit("w1");
  world.readDelayMs = 40;
  const { sink, say } = connect(hub);
  say({ type: "subscribe", wallets: ["w1"], from: { w1: 0 } });
  for (let n = 0; n < 400; n++) {
    change("w1", 2);
    await advance(2);
  }
  // Not at the end only: it must have been live long before.
  expect(balances(sink).at(-1)!.version).toBeGreaterThanOrEqual(world.version("w1") - 2);
  expect(world.asked.events).toBeLessThan(12);
});

test("a busy wallet's gap is closed although changes arrive during the read", async () => {
  const { world, hub, change, advance } = buildSetting();
  world.commit("w1");
  const { sink, say } = connect(hub);
  say({ type: "subscribe", wallets: ["w1"] });
  await advance(10);
  world.readDelayMs = 40;
  world.commit("w1");
  for (let n = 0; n < 200; n++) {
    change("w1");
    await advance(2);
  }
  expect(versions(balances(sink))).toEqual(Array.from({ length: 202 }, (_, n) => n));
  expect(world.asked.events).toBe(1);
});

test("a snapshot is never older than what the database held when the client subscribed", async () => {
  const { world, hub, advance } = buildSetting();
  world.commit("w1");
  connect(hub).say({ type: "subscribe", wallets: ["w1"] });
  await advance(10);
  // Race: answered to the caller, not yet published.
  world.commit("w1");
  const { sink, say } = connect(hub);
  say({ type: "subscribe", wallets: ["w1"] });
  await advance(10);
  expect(versions(balances(sink))).toEqual([1]);
});

test("a long replay does not hold up a short one of the same wallet", async () => {
  const { world, hub, advance } = buildSetting();
  for (let n = 0; n <= 9_000; n++) world.commit("w1");
  world.readDelayMs = 10;
  const long = connect(hub);
  const short = connect(hub);
  long.say({ type: "subscribe", wallets: ["w1"], from: { w1: 0 } });
  short.say({ type: "subscribe", wallets: ["w1"], from: { w1: 8_990 } });
  await advance(35);
  expect(versions(balances(short.sink)).at(-1)).toBe(9_000);
  expect(balances(long.sink).length).toBeLessThan(1_000);
});

// --- Owners ---------------------------------------------------------------------------------------------------------------

describe("an owner's subscription", () => {
  test("covers the wallets there are and those created later", async () => {
    const { world, hub, change, advance } = buildSetting();
    world.commit("a", { ownerId: "u1" });
    world.commit("other", { ownerId: "u2" });
    const { sink, say } = connect(hub);
    say({ type: "subscribe", owners: ["u1"] });
    await advance(10);
    change("b", 1, { ownerId: "u1" });
    change("other");
    await advance(10);
    change("b");
    await advance(10);
    expect(balances(sink).map(({ walletId, version }) => [walletId, version])).toEqual([
      ["a", 0],
      ["b", 0],
      ["b", 1],
    ]);
    expect(balances(sink, "b")[0]!.snapshot).toBe(true);
  });

  test("may begin before the owner has a wallet, and finds one whose creation the bus lost", async () => {
    const { world, hub, advance } = buildSetting();
    const { sink, say } = connect(hub);
    say({ type: "subscribe", owners: ["u1"] });
    await advance(10);
    expect(sink.frames).toEqual([{ type: "subscribed", wallets: [], owners: ["u1"] }]);
    world.commit("a", { ownerId: "u1" });
    await advance(LIMITS.feedSweepMs + 10);
    expect(versions(balances(sink))).toEqual([0]);
  });

  test("starts each wallet from the version the client has", async () => {
    const { world, hub, advance } = buildSetting();
    for (let n = 0; n < 4; n++) world.commit("a", { ownerId: "u1" });
    world.commit("b", { ownerId: "u1" });
    const { sink, say } = connect(hub);
    say({ type: "subscribe", owners: ["u1"], from: { a: 1, elsewhere: 7 } });
    await advance(10);
    expect(versions(balances(sink, "a"))).toEqual([2, 3]);
    expect(balances(sink, "b")).toMatchObject([{ version: 0, snapshot: true }]);
    say({ type: "subscribe", owners: ["u1"], from: { a: 2 } });
    await advance(10);
    expect(versions(balances(sink, "a"))).toEqual([2, 3, 3]);
    expect(balances(sink, "b")).toHaveLength(1);
  });

  test("keeps a wallet silent that the client unsubscribed, until it or the owner is subscribed again", async () => {
    const { world, hub, change, advance } = buildSetting();
    world.commit("a", { ownerId: "u1" });
    const { sink, say } = connect(hub);
    say({ type: "subscribe", owners: ["u1"] });
    await advance(10);
    say({ type: "unsubscribe", wallets: ["a"] });
    change("a");
    await advance(2 * LIMITS.feedSweepMs);
    expect(versions(balances(sink))).toEqual([0]);
    say({ type: "subscribe", wallets: ["a"] });
    await advance(10);
    expect(versions(balances(sink))).toEqual([0, 1]);
    say({ type: "unsubscribe", wallets: ["a"] });
    say({ type: "subscribe", owners: ["u1"] });
    await advance(10);
    expect(versions(balances(sink))).toEqual([0, 1, 1]);
  });

  test("leaves a wallet silent that was unsubscribed while the owner's list was read", async () => {
    const { world, hub, change, advance } = buildSetting();
    world.readDelayMs = 100;
    const { sink, say } = connect(hub);
    say({ type: "subscribe", owners: ["u1"] });
    change("a", 1, { ownerId: "u1" });
    await advance(10);
    say({ type: "unsubscribe", wallets: ["a"] });
    await advance(1_000);
    expect(balances(sink)).toEqual([]);
  });

  test("ends without the wallets that were subscribed to directly", async () => {
    const { world, hub, change, advance, listenedTo } = buildSetting();
    for (const walletId of ["a", "b"]) world.commit(walletId, { ownerId: "u1" });
    const { sink, say } = connect(hub);
    say({ type: "subscribe", wallets: ["a"], owners: ["u1"] });
    await advance(10);
    say({ type: "unsubscribe", owners: ["u1"] });
    change("a");
    change("b");
    change("c", 1, { ownerId: "u1" });
    await advance(LIMITS.feedSweepMs + 10);
    expect(versions(balances(sink, "a"))).toEqual([0, 1]);
    expect(versions(balances(sink, "b"))).toEqual([0]);
    expect(balances(sink, "c")).toEqual([]);
    expect(listenedTo()).toEqual([SUBJECTS.changes(shardOf("a"))]);
  });

  test("with more wallets than fit watches what fits and says so once", async () => {
    const { world, hub, advance } = buildSetting();
    for (let n = 0; n <= LIMITS.feedWalletsPerClientMax; n++) {
      world.commit(`a${n}`, { ownerId: "u1" });
    }
    const { sink, say } = connect(hub);
    say({ type: "subscribe", owners: ["u1"] });
    await advance(3 * LIMITS.feedSweepMs);
    expect(balances(sink)).toHaveLength(LIMITS.feedWalletsPerClientMax);
    expect(errors(sink)).toMatchObject([{ code: "too_many_subscriptions", ownerId: "u1" }]);
  });
});

// --- Bad frames and bounds ------------------------------------------------------------------------------------------------

test.each([
  ["", "invalid_json", "The frame is not JSON"],
  ["{", "invalid_json", "The frame is not JSON"],
  ["null", "validation_failed", "The frame must be a JSON object"],
  ["[]", "validation_failed", "The frame must be a JSON object"],
  ["{}", "validation_failed", "type must be subscribe or unsubscribe"],
  ['{"type":"balance"}', "validation_failed", "type must be subscribe or unsubscribe"],
  ['{"type":"constructor"}', "validation_failed", "type must be subscribe or unsubscribe"],
  ['{"type":"subscribe"}', "validation_failed", "wallets or owners must say"],
  ['{"type":"subscribe","wallets":"w1"}', "validation_failed", "wallets must be array"],
  ['{"type":"subscribe","wallets":["w1",7]}', "validation_failed", "wallets[1] must be string"],
  ['{"type":"subscribe","wallets":["a b"]}', "validation_failed", "wallets[0] must be an id"],
  ['{"type":"subscribe","wallets":[""]}', "validation_failed", "wallets[0] must be an id"],
  ['{"type":"subscribe","owners":["é"]}', "validation_failed", "owners[0] must be an id"],
  [
    JSON.stringify({ type: "subscribe", wallets: ["x".repeat(LIMITS.idLengthMax + 1)] }),
    "validation_failed",
    "wallets[0] must be an id",
  ],
  ['{"type":"subscribe","wallet":["w1"]}', "validation_failed", "wallet is not a field"],
  ['{"type":"subscribe","wallets":["w1"],"from":7}', "validation_failed", "from must be object"],
  [
    '{"type":"subscribe","wallets":["w1"],"from":{"w1":"7"}}',
    "validation_failed",
    "from.w1 must be integer",
  ],
  [
    '{"type":"subscribe","wallets":["w1"],"from":{"w1":1.5}}',
    "validation_failed",
    "from.w1 must be integer",
  ],
  [
    '{"type":"subscribe","wallets":["w1"],"from":{"a b":1}}',
    "validation_failed",
    "from.a b is not a wallet's id",
  ],
  [
    '{"type":"subscribe","wallets":["w1"],"from":{"w2":1}}',
    "validation_failed",
    "from.w2 is not one of wallets",
  ],
  ['{"type":"unsubscribe","wallets":[],"from":{}}', "validation_failed", "from is not a field"],
])("the frame %s is answered with %s and the client lives on", async (text, code, message) => {
  const { world, hub, advance } = buildSetting();
  world.commit("w1");
  const { sink, client, say } = connect(hub);
  client.receive(text);
  expect(sink.frames).toMatchObject([
    { type: "error", code, message: expect.stringContaining(message) as unknown },
  ]);
  say({ type: "subscribe", wallets: ["w1"] });
  await advance(10);
  expect(versions(balances(sink))).toEqual([0]);
  expect(sink.closedWith).toBeNull();
});

test("any text at all is answered with one error frame or taken", () => {
  const { hub } = buildSetting();
  fc.assert(
    fc.property(fc.oneof(fc.string(), fc.json()), (text) => {
      const { sink, client } = connect(hub);
      client.receive(text);
      client.closed();
      expect(sink.frames).toHaveLength(1);
      expect(sink.closedWith).toBeNull();
    }),
    { seed: SEED },
  );
});

test("ids that are names of JavaScript's own are ids like any other", async () => {
  const { world, hub, advance } = buildSetting();
  const walletIds = ["constructor", "__proto__", "toString"];
  for (const walletId of walletIds) world.commit(walletId);
  for (const walletId of walletIds) world.commit(walletId);
  const { sink, client, say } = connect(hub);
  say({ type: "subscribe", wallets: ["constructor", "toString"] });
  client.receive('{"type":"subscribe","wallets":["__proto__"],"from":{"__proto__":0}}');
  await advance(10);
  const begun = new Map(balances(sink).map(({ walletId, snapshot }) => [walletId, snapshot]));
  expect(begun).toEqual(
    new Map([
      ["constructor", true],
      ["toString", true],
      ["__proto__", false],
    ]),
  );
});

test("a client with too many wallets or owners keeps what fits and is told about the rest", async () => {
  const { world, hub, advance } = buildSetting();
  const { sink, say } = connect(hub);
  const walletIds = Array.from({ length: LIMITS.feedWalletsPerClientMax + 2 }, (_, n) => `w${n}`);
  for (const walletId of walletIds) world.commit(walletId);
  const ownerIds = Array.from({ length: LIMITS.feedOwnersPerClientMax + 1 }, (_, n) => `u${n}`);
  say({ type: "subscribe", wallets: walletIds, owners: ownerIds });
  await advance(10);
  expect(sink.frames[0]).toEqual({
    type: "subscribed",
    wallets: walletIds.slice(0, -2),
    owners: ownerIds.slice(0, -1),
  });
  expect(errors(sink).map(({ code, message }) => [code, message.slice(0, 12)])).toEqual([
    ["too_many_subscriptions", "2 of 1002 wa"],
    ["too_many_subscriptions", "1 of 101 own"],
  ]);
  say({ type: "unsubscribe", wallets: ["w0"] });
  say({ type: "subscribe", wallets: ["w1001"] });
  await advance(10);
  expect(versions(balances(sink, "w1001"))).toEqual([0]);
});

test("a client that sends too fast is closed with 1008; a second's pause earns a second's frames", async () => {
  const { hub, advance } = buildSetting();
  const { sink, client } = connect(hub);
  const junk = (times: number): void => {
    for (let n = 0; n < times; n++) client.receive("x");
  };
  junk(LIMITS.feedFramesBurst);
  await advance(1_000);
  junk(LIMITS.feedFramesPerSecond);
  expect(sink.closedWith).toBeNull();
  junk(2);
  expect(sink.closedWith).toMatchObject({ code: 1008 });
  expect(errors(sink).at(-1)).toMatchObject({ code: "rate_limited" });
  const told = sink.frames.length;
  junk(5);
  expect(sink.frames).toHaveLength(told);
});

test("a full gateway closes newcomers with 1013, until a connection is gone", () => {
  const { hub } = buildSetting();
  const clients = Array.from({ length: LIMITS.feedClientsMax }, () => connect(hub));
  const late = connect(hub);
  expect(late.sink.closedWith).toMatchObject({ code: 1013 });
  late.client.receive('{"type":"subscribe","wallets":["w1"]}');
  late.client.closed();
  expect(late.sink.frames).toEqual([]);
  clients[0]!.client.closed();
  expect(connect(hub).sink.closedWith).toBeNull();
  expect(hub.stats().clients).toBe(LIMITS.feedClientsMax);
});

test("a drained hub closes everybody with 1001, listens to nothing and reads no more", async () => {
  const { world, hub, change, advance, listenedTo } = buildSetting();
  world.commit("w1");
  const { sink, say } = connect(hub);
  say({ type: "subscribe", wallets: ["w1"], owners: ["u1"] });
  await advance(10);
  await hub.drain();
  expect(sink.closedWith).toMatchObject({ code: 1001 });
  expect(listenedTo()).toEqual([]);
  const { asked, frames } = { asked: { ...world.asked }, frames: sink.frames.length };
  change("w1");
  await advance(30_000);
  expect(world.asked).toEqual(asked);
  expect(sink.frames).toHaveLength(frames);
  expect(connect(hub).sink.closedWith).toMatchObject({ code: 1001 });
});

// --- Slow clients ---------------------------------------------------------------------------------------------------------

describe("a slow client", () => {
  async function watchTwo() {
    const setting = buildSetting();
    for (const walletId of ["w1", "w2"]) setting.world.commit(walletId);
    const quick = connect(setting.hub);
    const slow = connect(setting.hub);
    for (const { say } of [quick, slow]) say({ type: "subscribe", wallets: ["w1", "w2"] });
    await setting.advance(10);
    slow.sink.frames.length = 0;
    quick.sink.frames.length = 0;
    return { ...setting, quick, slow };
  }

  test("gets one frame per wallet when it has drained, which says how many changes it covers", async () => {
    const { hub, change, advance, quick, slow } = await watchTwo();
    slow.sink.buffered = LIMITS.feedBufferedBytesSoft + 1;
    change("w1", 5);
    change("w2", 1);
    await advance(1_000);
    // The one that showed that the client is slow was sent.
    expect(versions(balances(slow.sink))).toEqual([1]);
    expect(balances(quick.sink)).toHaveLength(6);
    expect(hub.stats().slowClients).toBe(1);
    slow.sink.buffered = 0;
    await advance(LIMITS.feedDrainCheckMs);
    expect(balances(slow.sink).slice(1)).toMatchObject([
      { walletId: "w1", version: 5, conflated: 3, balance: 0.05, change: { amount: 0.01 } },
      { walletId: "w2", version: 1, conflated: 0 },
    ]);
    change("w1");
    await advance(10);
    expect(balances(slow.sink).at(-1)).toMatchObject({ version: 6, conflated: 0 });
    expect(hub.stats()).toMatchObject({ slowClients: 0, conflatedFrames: 1 });
  });

  test("that drains for a moment only gets as much as fits, and the rest later", async () => {
    const { change, advance, slow } = await watchTwo();
    slow.sink.buffered = LIMITS.feedBufferedBytesSoft + 1;
    change("w1");
    change("w2", 3);
    change("w1", 2);
    await advance(100);
    slow.sink.buffered = LIMITS.feedBufferedBytesSoft;
    slow.sink.isStuck = true;
    await advance(LIMITS.feedDrainCheckMs);
    expect(balances(slow.sink)).toHaveLength(2);
    slow.sink.buffered = 0;
    await advance(LIMITS.feedDrainCheckMs);
    expect(versions(balances(slow.sink, "w1"))).toEqual([1, 3]);
    expect(versions(balances(slow.sink, "w2"))).toEqual([3]);
  });

  test("still begins with a snapshot, of the newest state", async () => {
    const { world, change, advance, slow } = await watchTwo();
    world.commit("w3");
    slow.sink.buffered = LIMITS.feedBufferedBytesSoft + 1;
    change("w1");
    slow.say({ type: "subscribe", wallets: ["w3"] });
    await advance(10);
    change("w3", 4);
    await advance(10);
    slow.sink.buffered = 0;
    await advance(LIMITS.feedDrainCheckMs);
    expect(balances(slow.sink, "w3")).toMatchObject([{ version: 4, snapshot: true, conflated: 0 }]);
  });

  test("has its replay wait for it, without conflation", async () => {
    const { world, advance, slow } = await watchTwo();
    for (let n = 0; n <= 2_000; n++) world.commit("w3");
    slow.say({ type: "subscribe", wallets: ["w3"], from: { w3: 0 } });
    slow.sink.isStuck = true;
    for (let n = 0; n < 40; n++) {
      await advance(LIMITS.feedDrainCheckMs);
      const { buffered } = slow.sink;
      expect(buffered).toBeLessThan(LIMITS.feedBufferedBytesSoft + 1_000);
      slow.sink.buffered = 0;
    }
    expect(versions(balances(slow.sink, "w3"))).toEqual(
      Array.from({ length: 2_000 }, (_, n) => n + 1),
    );
    expect(world.asked.events).toBeLessThan(20);
  });

  test("that reads nothing is cut off after feedSlowMs, and nobody else notices", async () => {
    const { world, hub, change, advance, quick, slow } = await watchTwo();
    slow.sink.isStuck = true;
    slow.sink.buffered = LIMITS.feedBufferedBytesSoft + 1;
    const rounds = LIMITS.feedSlowMs / 1_000;
    for (let n = 0; n < rounds; n++) {
      change("w1", 10);
      await advance(1_000);
    }
    expect(slow.sink.closedWith).toBeNull();
    // Bounded: one frame went out, and one per wallet is kept.
    expect(balances(slow.sink)).toHaveLength(1);
    await advance(1_000);
    expect(slow.sink.closedWith).toMatchObject({ code: 1013 });
    expect(versions(balances(quick.sink))).toEqual(
      Array.from({ length: world.version("w1") }, (_, n) => n + 1),
    );
    expect(quick.sink.closedWith).toBeNull();
    expect(hub.stats()).toMatchObject({ slowClients: 0, tooSlow: 1, watches: 2 });
  });

  test("that drains now and then is served for ever", async () => {
    const { change, advance, slow } = await watchTwo();
    slow.sink.isStuck = true;
    slow.sink.buffered = LIMITS.feedBufferedBytesSoft + 1;
    for (let n = 0; n < 10; n++) {
      change("w1", 2);
      change("w2", 2);
      await advance(LIMITS.feedSlowMs / 2);
      // Room for one frame: it is above the limit again at once.
      slow.sink.buffered = LIMITS.feedBufferedBytesSoft;
      await advance(LIMITS.feedDrainCheckMs);
    }
    expect(slow.sink.closedWith).toBeNull();
    expect(balances(slow.sink)).toHaveLength(11);
  });

  test("gets nothing more of a wallet that it unsubscribed meanwhile", async () => {
    const { change, advance, slow } = await watchTwo();
    slow.sink.buffered = LIMITS.feedBufferedBytesSoft + 1;
    change("w1", 5);
    await advance(10);
    slow.say({ type: "unsubscribe", wallets: ["w1"] });
    slow.sink.buffered = 0;
    await advance(LIMITS.feedDrainCheckMs);
    expect(versions(balances(slow.sink))).toEqual([1]);
  });

  test("that makes answers pile up is cut off at feedBufferedBytesMax", async () => {
    const { advance, slow } = await watchTwo();
    slow.sink.isStuck = true;
    const walletIds = Array.from({ length: 600 }, (_, n) => `w${n}-${"x".repeat(90)}`);
    for (let n = 0; n < 200 && slow.sink.closedWith === null; n++) {
      slow.say({ type: "unsubscribe", wallets: walletIds });
      await advance(10);
    }
    expect(slow.sink.closedWith).toMatchObject({ code: 1013 });
    expect(slow.sink.buffered).toBeLessThan(LIMITS.feedBufferedBytesMax + 65_536);
  });
});
