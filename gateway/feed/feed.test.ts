/**
 * The feed as a whole, without sockets. The property lets the bus drop, repeat and reorder at will,
 * the database be slow or away and clients be slow, and demands of each client and wallet what the
 * contract says; the others show how a subscription begins and ends.
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { LIMITS } from "../../src/limits.ts";
import { SUBJECTS } from "../../src/core/protocol.ts";
import { shardOf } from "../../src/core/shard.ts";
import {
  balances,
  buildLossyBus,
  buildSetting,
  connect,
  errors,
  versions,
} from "../../test/stage/feed.ts";
import type { ServerFrame } from "../../test/stage/feed-world.ts";

const SEED = Number(process.env["FEED_SEED"] ?? Math.trunc(Math.random() * 2 ** 31));

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

/**
 * Reads one client's log as the contract does; returns the last version of each wallet it watches.
 */
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
  const meet = buildLossyBus(publish);
  for (const next of steps) {
    switch (next.do) {
      case "change":
        meet(world.commit(next.wallet), next.fate);
        break;
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
