/**
 * Subscriptions to owners: the wallets there are, those created later, and what happens when a
 * client subscribes to a wallet both ways.
 */
import { describe, expect, test } from "vitest";

import { LIMITS } from "../src/limits.ts";
import { SUBJECTS } from "../src/protocol.ts";
import { shardOf } from "../src/shard.ts";
import { balances, buildSetting, connect, errors, versions } from "../test/stage/feed.ts";

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
    const { world, hub, advance } = buildSetting();
    world.commit("a", { ownerId: "u1" });
    const { sink, say } = connect(hub);
    say({ type: "subscribe", owners: ["u1"] });
    say({ type: "unsubscribe", wallets: ["a"] });
    say({ type: "subscribe", wallets: ["a"] });
    await advance(10);
    say({ type: "unsubscribe", owners: ["u1"] });
    expect(versions(balances(sink))).toEqual([0]);
    expect(hub.stats()).toMatchObject({ wallets: 1, watches: 1 });
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
