/**
 * The sequences of watched wallets: what the bus loses is found, once for all who watch, and
 * neither a busy wallet nor a long replay keeps anybody out.
 */
import { describe, expect, test } from "vitest";

import { LIMITS } from "../src/limits.ts";
import { SUBJECTS } from "../src/protocol.ts";
import { shardOf } from "../src/shard.ts";
import { balances, buildSetting, connect, errors, versions } from "../test/stage/feed.ts";

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

  test("at the end is found by each sweep, not only by the first that finds something", async () => {
    const { world, advance, sink } = await watchW1();
    for (const found of [
      [0, 1],
      [0, 1, 2],
      [0, 1, 2, 3],
    ]) {
      world.commit("w1");
      await advance(LIMITS.feedSweepMs + LIMITS.feedLagMs + 10);
      expect(versions(balances(sink))).toEqual(found);
    }
  });

  test("during a sweep is found by another one right after it, if the bus was away", async () => {
    // Given a sweep that has read the wallet already
    const { world, reconnect, advance, sink } = await watchW1();
    world.readDelayMs = 100;
    reconnect();
    await advance(60);
    world.commit("w1");
    reconnect();
    await advance(40 + 100 + LIMITS.feedLagMs + 100 + 10);
    expect(versions(balances(sink))).toEqual([0, 1]);
  });

  test("makes no more sweeps than before, however often the bus was away", async () => {
    const { world, reconnect, advance } = await watchW1();
    for (let times = 0; times < 10; times++) {
      reconnect();
      await advance(100);
    }
    const before = world.asked.walletsById;
    await advance(3 * LIMITS.feedSweepMs);
    expect(world.asked.walletsById).toBe(before + 3);
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

describe("what the database loses", () => {
  async function loseOf(from?: number) {
    const setting = buildSetting();
    for (let n = 0; n <= 20; n++) setting.world.commit("w1");
    const { sink, say } = connect(setting.hub);
    say({ type: "subscribe", wallets: ["w1"], ...(from !== undefined && { from: { w1: from } }) });
    await setting.advance(10);
    setting.change("w1", 4);
    await setting.advance(10);
    expect(versions(balances(sink)).at(-1)).toBe(24);
    setting.world.lose("w1", 19);
    return { ...setting, sink };
  }

  test.each([undefined, 3])(
    "is taken back by a reset, and what follows comes (from %s)",
    async (from) => {
      const { world, hub, warnings, change, advance, sink } = await loseOf(from);
      const before = balances(sink).length;
      // Its version was given before.
      change("w1");
      await advance(LIMITS.feedSweepMs + 10);
      change("w1");
      await advance(10);
      const after = balances(sink).slice(before);
      expect(after).toMatchObject([
        {
          version: 20,
          snapshot: true,
          reset: true,
          balance: world.at("w1", 20).balanceMinor / 100,
        },
        { version: 21, snapshot: false, conflated: 0 },
      ]);
      expect([hub.stats().resets, warnings.length]).toEqual([1, 1]);
    },
  );

  test("is not told again to who comes later, not even when that says to have it", async () => {
    const { hub, advance } = await loseOf();
    const { sink, say } = connect(hub);
    say({ type: "subscribe", wallets: ["w1"], from: { w1: 24 } });
    await advance(10);
    expect(balances(sink)).toMatchObject([{ version: 19, snapshot: true, reset: true }]);
  });

  test("is taken back once, though several reads find it and new changes come in between", async () => {
    const { world, hub, reconnect, change, advance, sink } = await loseOf();
    const before = balances(sink).length;
    // Given a sweep, and the read for a newcomer, which begins before the sweep's has arrived
    world.readDelayMs = 100;
    reconnect();
    await advance(50);
    connect(hub).say({ type: "subscribe", wallets: ["w1"] });
    await advance(75);
    expect(balances(sink).slice(before)).toMatchObject([{ version: 19, reset: true }]);
    // When a change comes before the second read has
    change("w1");
    await advance(50);
    expect(versions(balances(sink).slice(before))).toEqual([19, 20]);
    expect(hub.stats().resets).toBe(1);
  });

  test("is no loss when a read was only slow", async () => {
    const { world, hub, change, advance } = buildSetting();
    change("w1", 3);
    const { sink, say } = connect(hub);
    say({ type: "subscribe", wallets: ["w1"] });
    await advance(10);
    world.readDelayMs = 100;
    for (let ms = 0; ms < LIMITS.feedSweepMs + 200; ms += 10) {
      change("w1");
      await advance(10);
    }
    expect(hub.stats().resets).toBe(0);
    expect(versions(balances(sink)).at(-1)).toBe(world.version("w1"));
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

test("a read that had begun when a client subscribed does not speak for its wallet", async () => {
  const { world, hub, advance } = buildSetting();
  world.readDelayMs = 100;
  const early = connect(hub);
  early.say({ type: "subscribe", wallets: ["w1"] });
  // Race: the database has looked, and found nothing; then the wallet is made, and answered
  await advance(60);
  world.commit("w1");
  const late = connect(hub);
  late.say({ type: "subscribe", wallets: ["w1"] });
  await advance(200);
  expect(errors(early.sink)).toMatchObject([{ code: "wallet_not_found" }]);
  expect(errors(late.sink)).toEqual([]);
  expect(balances(late.sink)).toMatchObject([{ version: 0, snapshot: true }]);
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
