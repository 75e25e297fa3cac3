/**
 * Subscriptions to owners: the wallets there are, those created later, and what happens when a
 * client subscribes to a wallet both ways. The property has clients that come back again and again
 * with what they have, while the bus loses messages and the database is slow or away.
 */
import fc from "fast-check";
import { describe, expect, test } from "vitest";

import { LIMITS } from "../../src/limits.ts";
import { SUBJECTS } from "../../src/core/protocol.ts";
import { shardOf } from "../../src/core/shard.ts";
import { withLimits } from "../../test/stage/lanes.ts";
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

const OWNERS = ["u0", "u1", "u2"] as const;
/** A wallet's last character is its owner's. */
const WALLETS = ["a0", "b0", "a1", "b1", "a2"] as const;

const step = fc.oneof(
  {
    weight: 8,
    arbitrary: fc.record({
      do: fc.constant("change" as const),
      walletId: fc.constantFrom(...WALLETS),
      fate: fc.constantFrom("pass", "pass", "drop", "repeat", "late"),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant("wait" as const),
      ms: fc.integer({ min: 0, max: 200 }),
    }),
  },
  {
    weight: 6,
    arbitrary: fc.record({ do: fc.constant("come" as const), client: fc.constantFrom(0, 1, 2) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("away" as const), isAway: fc.boolean() }) },
  { weight: 1, arbitrary: fc.record({ do: fc.constant("reconnect" as const) }) },
);

type Step = typeof step extends fc.Arbitrary<infer T> ? T : never;

type Setting = ReturnType<typeof buildSetting>;

/** A client that watches all owners, and comes back with what it has. */
function buildRegular({ hub }: Pick<Setting, "hub">) {
  const last = new Map<string, number>();
  const problems: string[] = [];
  let leave = (): void => undefined;

  function take(frame: ServerFrame): void {
    if (frame.type !== "balance") return;
    const { walletId, version, conflated, snapshot } = frame;
    const before = last.get(walletId);
    if (snapshot ? before !== undefined : version - conflated !== (before ?? Number.NaN) + 1) {
      problems.push(`after version ${before} came ${JSON.stringify(frame)}`);
    }
    last.set(walletId, version);
  }

  return {
    last,
    problems,
    come(): void {
      leave();
      const { sink, client, say } = connect(hub);
      sink.send = (text) => take(JSON.parse(text) as ServerFrame);
      leave = () => client.closed();
      say({ type: "subscribe", owners: OWNERS, from: Object.fromEntries(last) });
    },
  };
}

async function play(steps: readonly Step[], readDelayMs: number): Promise<void> {
  const setting = buildSetting();
  const { world, publish, reconnect, advance } = setting;
  world.readDelayMs = readDelayMs;
  const clients = [0, 1, 2].map(() => buildRegular(setting));
  const meet = buildLossyBus(publish);
  for (const next of steps) {
    switch (next.do) {
      case "change":
        meet(world.commit(next.walletId, { ownerId: `u${next.walletId.at(-1)}` }), next.fate);
        break;
      case "wait":
        await advance(next.ms);
        break;
      case "come":
        clients[next.client]!.come();
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
  world.isAway = false;
  for (const { come } of clients) come();
  await advance(LIMITS.feedReadRetryMsMax + 2 * LIMITS.feedSweepMs + 4 * LIMITS.feedLagMs);
  const made = new Set(steps.flatMap((one) => (one.do === "change" ? [one.walletId] : [])));
  for (const { last, problems } of clients) {
    expect(problems).toEqual([]);
    expect(last).toEqual(new Map([...made].map((id) => [id, world.version(id)])));
  }
}

test(`whoever comes back to owners with what it has gets each version once, up to the newest (FEED_SEED=${SEED})`, async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.array(step, { minLength: 1, maxLength: 60 }),
      fc.constantFrom(0, 2, 30, 100),
      play,
    ),
    { seed: SEED, numRuns: 250 },
  );
}, 60_000);

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

  test("begins a wallet anew that was made after the list, whatever the client had of its name", async () => {
    const { hub, change, advance } = buildSetting();
    const { sink, say } = connect(hub);
    say({ type: "subscribe", owners: ["u1"], from: { w1: 7 } });
    await advance(10);
    change("w1", 1, { ownerId: "u1" });
    await advance(10);
    expect(balances(sink)).toMatchObject([{ walletId: "w1", version: 0, snapshot: true }]);
    expect(balances(sink)[0]).not.toHaveProperty("reset");
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

  test("starts a wallet from there once, however often it is named before the client's own list came", async () => {
    const { world, hub, change, advance } = buildSetting();
    for (let n = 0; n < 4; n++) world.commit("a", { ownerId: "u1" });
    world.readDelayMs = 100;
    const first = connect(hub);
    const second = connect(hub);
    first.say({ type: "subscribe", owners: ["u1"] });
    // The first client's list names the wallet to both; the second one's own is the last of these.
    const owners = ["u2", "u3", "u4", "u5", "u6", "u1"];
    second.say({ type: "subscribe", owners, from: { a: 1 } });
    await advance(450);
    expect(versions(balances(second.sink, "a"))).toEqual([2, 3]);
    change("a");
    await advance(2_000);
    expect(versions(balances(second.sink, "a"))).toEqual([2, 3, 4]);
  });

  test("does not go back for a wallet that was watched directly before its owner's list came", async () => {
    const { world, hub, advance } = buildSetting();
    for (let n = 0; n < 4; n++) world.commit("a", { ownerId: "u1" });
    world.readDelayMs = 100;
    const { sink, say } = connect(hub);
    say({ type: "subscribe", owners: ["u2", "u3", "u4", "u1"], from: { a: 1 } });
    say({ type: "subscribe", wallets: ["a"], from: { a: 2 } });
    await advance(2_000);
    expect(versions(balances(sink, "a"))).toEqual([3]);
  });

  test("does not go back for a wallet that the same frame names", async () => {
    const { world, hub, change, advance } = buildSetting();
    for (let n = 0; n < 4; n++) world.commit("a", { ownerId: "u1" });
    world.readDelayMs = 100;
    const { sink, say } = connect(hub);
    // The list that names it again comes last, when the wallet has caught up
    const owners = ["u2", "u3", "u4", "u5", "u6", "u1"];
    say({ type: "subscribe", wallets: ["a"], owners, from: { a: 1 } });
    await advance(1_000);
    change("a");
    await advance(10);
    expect(versions(balances(sink, "a"))).toEqual([2, 3, 4]);
  });

  test("ends with the owner for a wallet that was no longer subscribed to directly", async () => {
    const { world, hub, change, advance } = buildSetting();
    world.commit("a", { ownerId: "u1" });
    const { sink, say } = connect(hub);
    say({ type: "subscribe", wallets: ["a"], owners: ["u1"] });
    await advance(10);
    say({ type: "unsubscribe", wallets: ["a"] });
    say({ type: "unsubscribe", owners: ["u1"] });
    say({ type: "subscribe", owners: ["u1"] });
    await advance(10);
    say({ type: "unsubscribe", owners: ["u1"] });
    change("a");
    await advance(10);
    expect(versions(balances(sink, "a"))).toEqual([0, 0]);
    expect(hub.stats().watches).toBe(0);
  });

  test("gives up the place of a wallet that outlived it, when that ends as well", async () => {
    withLimits({ feedWalletsPerClientMax: 1 });
    const { world, hub, advance } = buildSetting();
    world.commit("a", { ownerId: "u1" });
    world.commit("b");
    const { sink, say } = connect(hub);
    say({ type: "subscribe", wallets: ["a"], owners: ["u1"] });
    await advance(10);
    say({ type: "unsubscribe", owners: ["u1"] });
    say({ type: "unsubscribe", wallets: ["a"] });
    say({ type: "subscribe", wallets: ["b"] });
    await advance(10);
    expect(errors(sink)).toEqual([]);
    expect(versions(balances(sink, "b"))).toEqual([0]);
  });

  test("remembers no more wallets to be silent about than a client may watch", async () => {
    withLimits({ feedWalletsPerClientMax: 3 });
    const { world, hub, advance } = buildSetting();
    for (const walletId of ["a", "b"]) world.commit(walletId, { ownerId: "u1" });
    world.readDelayMs = 100;
    const { sink, say } = connect(hub);
    say({ type: "subscribe", owners: ["u1"] });
    say({ type: "unsubscribe", wallets: ["a", "c", "d", "b"] });
    await advance(1_000);
    expect(balances(sink).map(({ walletId }) => walletId)).toEqual(["b"]);
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

  test("of a client that is gone leaves nothing behind", async () => {
    const { world, hub, advance, listenedTo } = buildSetting();
    world.commit("a", { ownerId: "u1" });
    const { say, client } = connect(hub);
    say({ type: "subscribe", owners: ["u1", "u2"] });
    await advance(10);
    expect(hub.stats()).toMatchObject({ owners: 2, watches: 1, clients: 1 });
    client.closed();
    expect(hub.stats()).toMatchObject({ owners: 0, watches: 0, wallets: 0, clients: 0 });
    expect(listenedTo()).toEqual([]);
  });

  test("that is begun again, and ends, leaves nothing behind", async () => {
    const { hub, advance, listenedTo } = buildSetting();
    const { say } = connect(hub);
    for (let times = 0; times < 3; times++) {
      say({ type: "subscribe", owners: ["u1"] });
      await advance(10);
    }
    say({ type: "unsubscribe", owners: ["u1"] });
    expect(hub.stats().owners).toBe(0);
    expect(listenedTo()).toEqual([]);
  });

  test("to many at once gets every list, without waiting for a sweep", async () => {
    const { world, hub, advance } = buildSetting();
    const owners = Array.from({ length: 4 * LIMITS.feedReadsMax }, (_, n) => `u${n}`);
    for (const ownerId of owners) world.commit(`w-${ownerId}`, { ownerId });
    const { sink, say } = connect(hub);
    say({ type: "subscribe", owners });
    await advance(LIMITS.feedSweepMs / 2);
    expect(balances(sink)).toHaveLength(owners.length);
  });

  test("that ended while its list was read brings nothing any more", async () => {
    const { world, hub, change, advance, listenedTo } = buildSetting();
    world.commit("a", { ownerId: "u1" });
    world.readDelayMs = 100;
    const { sink, say } = connect(hub);
    const other = connect(hub);
    for (const each of [say, other.say]) each({ type: "subscribe", owners: ["u1"] });
    await advance(10);
    say({ type: "unsubscribe", owners: ["u1"] });
    await advance(500);
    change("a");
    await advance(500);
    expect(balances(sink)).toEqual([]);
    expect(versions(balances(other.sink))).toEqual([0, 1]);
    other.say({ type: "unsubscribe", owners: ["u1"] });
    expect([hub.stats().watches, listenedTo()]).toEqual([0, []]);
  });

  test("has its list's read awaited by the hub that is drained", async () => {
    const { world, hub, advance } = buildSetting();
    world.readDelayMs = 100;
    connect(hub).say({ type: "subscribe", owners: ["u1"] });
    await advance(10);
    let isDrained = false;
    const drained = hub.drain().then(() => (isDrained = true));
    await advance(50);
    expect(isDrained).toBe(false);
    await advance(100);
    await drained;
  });

  test("gets its list as soon as a database that was away is back", async () => {
    const { world, hub, advance } = buildSetting();
    world.commit("a", { ownerId: "u1" });
    world.isAway = true;
    const { sink, say } = connect(hub);
    say({ type: "subscribe", owners: ["u1"] });
    await advance(10);
    world.isAway = false;
    await advance(2 * LIMITS.feedReadRetryMs);
    expect(versions(balances(sink))).toEqual([0]);
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

  test.each([
    ["known only from the list", {}],
    ["to start from a version", { from: { a: 0 } }],
    ["watched directly before", { wallets: ["a"] }],
  ])("leaves a wallet silent that was unsubscribed before the list came: %s", async (_, more) => {
    const { world, hub, change, advance } = buildSetting();
    for (const walletId of ["a", "b"]) world.commit(walletId, { ownerId: "u1" });
    const { sink, say } = connect(hub);
    say({ type: "subscribe", owners: ["u1"], ...more });
    say({ type: "unsubscribe", wallets: ["a"] });
    await advance(10);
    change("a");
    await advance(2 * LIMITS.feedSweepMs);
    expect(balances(sink, "a")).toEqual([]);
    expect(versions(balances(sink, "b"))).toEqual([0]);
    say({ type: "subscribe", owners: ["u1"] });
    await advance(10);
    expect(versions(balances(sink, "a"))).toEqual([1]);
  });

  test("hears a wallet that was unsubscribed and subscribed again before the list came", async () => {
    const { world, hub, change, advance } = buildSetting();
    world.commit("a", { ownerId: "u1" });
    const { sink, say } = connect(hub);
    say({ type: "subscribe", owners: ["u1"] });
    say({ type: "unsubscribe", wallets: ["a"] });
    say({ type: "subscribe", wallets: ["a"] });
    await advance(10);
    say({ type: "unsubscribe", owners: ["u1"] });
    expect(versions(balances(sink))).toEqual([0]);
    expect(hub.stats()).toMatchObject({ wallets: 1, watches: 1 });
    // And no longer than it wants to
    say({ type: "unsubscribe", wallets: ["a"] });
    change("a");
    await advance(2 * LIMITS.feedSweepMs);
    expect(versions(balances(sink))).toEqual([0]);
    expect(hub.stats()).toMatchObject({ wallets: 0, watches: 0 });
  });

  test.each([
    ["before the list came, which did not have it", false],
    ["after the list, which did not have it", true],
  ])("hears a wallet that is created after it was unsubscribed %s", async (_, isListThere) => {
    const { hub, change, advance } = buildSetting();
    const { sink, say } = connect(hub);
    say({ type: "subscribe", owners: ["u1"] });
    if (isListThere) await advance(10);
    say({ type: "unsubscribe", wallets: ["a"] });
    await advance(10);
    change("a", 1, { ownerId: "u1" });
    await advance(10);
    expect(versions(balances(sink, "a"))).toEqual([0]);
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

  test("and clients together watch no more wallets than the gateway has room for, until one goes", async () => {
    withLimits({ feedWatchesMax: 3 });
    const { world, hub, advance } = buildSetting();
    for (const walletId of ["a", "b", "c", "d"]) world.commit(walletId, { ownerId: "u1" });
    const first = connect(hub);
    const second = connect(hub);
    first.say({ type: "subscribe", wallets: ["a", "b"] });
    second.say({ type: "subscribe", wallets: ["c", "d"] });
    await advance(10);
    expect(balances(second.sink).map(({ walletId }) => walletId)).toEqual(["c"]);
    const full = {
      code: "too_many_subscriptions",
      message: expect.stringContaining("gateway watches 3"),
    };
    expect(errors(second.sink)).toMatchObject([full]);
    // What is watched already may begin anew
    second.say({ type: "subscribe", wallets: ["c"], from: { c: 0 } });
    expect(errors(second.sink)).toHaveLength(1);
    first.say({ type: "unsubscribe", wallets: ["a"] });
    second.say({ type: "subscribe", wallets: ["d"] });
    await advance(10);
    expect(balances(second.sink, "d")).toHaveLength(1);
    expect(errors(second.sink)).toHaveLength(1);
  });

  test("finds no room for a wallet that it had silenced, when others have taken it meanwhile", async () => {
    withLimits({ feedWatchesMax: 2 });
    const { world, hub, change, advance } = buildSetting();
    for (const walletId of ["a", "b"]) world.commit(walletId, { ownerId: "u1" });
    for (const walletId of ["c", "d"]) world.commit(walletId);
    const { sink, say } = connect(hub);
    say({ type: "subscribe", owners: ["u1"] });
    await advance(10);
    say({ type: "unsubscribe", wallets: ["a", "b"] });
    connect(hub).say({ type: "subscribe", wallets: ["c", "d"] });
    say({ type: "subscribe", wallets: ["a"] });
    await advance(10);
    expect(hub.stats()).toMatchObject({ watches: 2 });
    expect(errors(sink)).toMatchObject([{ code: "too_many_subscriptions" }]);
    change("a");
    await advance(10);
    expect(versions(balances(sink, "a"))).toEqual([0]);
  });
});
