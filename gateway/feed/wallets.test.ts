/**
 * The sequences of watched wallets: what the bus loses is found, once for all who watch, and
 * neither a busy wallet nor a long replay keeps anybody out.
 */
import { describe, expect, test } from "vitest";

import { LIMITS } from "../../src/limits.ts";
import { SUBJECTS } from "../../src/core/protocol.ts";
import { shardOf } from "../../src/core/shard.ts";
import { balances, buildSetting, connect, errors, versions } from "../../test/stage/feed.ts";
import { withLimits } from "../../test/stage/lanes.ts";

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

  test("of exactly feedReplayEventsMax changes is told one by one, and of one more by a reset", async () => {
    withLimits({ feedReplayEventsMax: 20 });
    const { world, advance, sink } = await watchW1();
    const aSweep = LIMITS.feedSweepMs + LIMITS.feedLagMs + 100;
    for (let n = 0; n < 20; n++) world.commit("w1");
    await advance(aSweep);
    expect(versions(balances(sink))).toEqual(Array.from({ length: 21 }, (_, n) => n));
    for (let n = 0; n < 21; n++) world.commit("w1");
    await advance(aSweep);
    expect(balances(sink)).toHaveLength(22);
    expect(balances(sink).at(-1)).toMatchObject({ version: 41, snapshot: true, reset: true });
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
    const { bus, hub, warnings, change, advance, sink } = await watchW1();
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
    // Told once: whoever sends junk sends much of it.
    expect(warnings).toHaveLength(1);
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

  test("is told to the operator once in a while, and again when it happens later", async () => {
    const { world, warnings, reconnect, change, advance } = await loseOf();
    reconnect();
    await advance(10);
    expect(warnings).toHaveLength(1);
    for (const [waitMs, told] of [
      [10, 1],
      [LIMITS.troubleLogMs, 2],
    ] as const) {
      await advance(waitMs);
      change("w1", 5);
      await advance(10);
      world.lose("w1", 19);
      reconnect();
      await advance(10);
      expect(warnings).toHaveLength(told);
    }
  });

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

describe("a replay", () => {
  async function begin(versionsBefore: number, readDelayMs: number) {
    const setting = buildSetting();
    for (let n = 0; n <= versionsBefore; n++) setting.world.commit("w1");
    setting.world.readDelayMs = readDelayMs;
    const { sink, client, say } = connect(setting.hub);
    say({ type: "subscribe", wallets: ["w1"], from: { w1: 0 } });
    return { ...setting, sink, client };
  }

  test("that fell too far behind while its client was slow ends in a reset, and goes on from there", async () => {
    withLimits({ feedReplayEventsMax: 1_000 });
    const { hub, change, advance, sink } = await begin(900, 10);
    // Given a client that is slow before the first page comes
    await advance(15);
    sink.buffered = LIMITS.feedBufferedBytesSoft + 1;
    await advance(15);
    expect(versions(balances(sink))).toEqual([1]);
    // When more happens than is replayed, and it reads again
    change("w1", 1_000);
    sink.buffered = 0;
    await advance(LIMITS.feedDrainCheckMs + 100);
    change("w1");
    await advance(10);
    // Then it gets no thousands one by one, but has everything
    const frames = balances(sink);
    expect(frames.at(-2)).toMatchObject({ version: 1_900, snapshot: true, reset: true });
    expect(frames.at(-1)).toMatchObject({ version: 1_901, snapshot: false, conflated: 0 });
    expect(frames).toHaveLength(1 + LIMITS.feedReplayPageEvents + 2);
    expect(hub.stats().resets).toBe(1);
  });

  test.each([
    [0, 0],
    [1, 1],
  ])(
    "of a slow client goes on from exactly feedReplayEventsMax behind: %i more, %i resets",
    async (more, resets) => {
      const behindMax = 1_000;
      withLimits({ feedReplayEventsMax: behindMax });
      const { hub, change, advance, sink } = await begin(900, 10);
      // Given a client that is slow when the first page comes, and has one event of it
      await advance(15);
      sink.buffered = LIMITS.feedBufferedBytesSoft + 1;
      await advance(15);
      // When it is that much behind once it has read the next page
      const last = 1 + LIMITS.feedReplayPageEvents + behindMax + more;
      change("w1", last - 900);
      sink.buffered = 0;
      await advance(LIMITS.feedDrainCheckMs + 1_000);
      expect(hub.stats().resets).toBe(resets);
      expect(balances(sink).at(-1)).toMatchObject({ version: last, snapshot: resets > 0 });
    },
  );

  test("whose client is cut off in the middle of a page leaves nothing behind", async () => {
    const { hub, advance, sink, listenedTo } = await begin(20, 10);
    const other = connect(hub);
    other.say({ type: "subscribe", wallets: ["w1"] });
    await advance(15);
    sink.buffered = LIMITS.feedBufferedBytesMax;
    await advance(15);
    expect(sink.closedWith).toMatchObject({ code: 1013 });
    expect(balances(sink)).toHaveLength(1);
    other.client.closed();
    expect(hub.stats()).toMatchObject({ wallets: 0, watches: 0 });
    expect(listenedTo().filter((subject) => subject === SUBJECTS.changes(shardOf("w1")))).toEqual(
      [],
    );
  });

  test.each([
    // [changes before the replay, pages]: the last page ends right before what came meanwhile ...
    [LIMITS.feedReplayPageEvents, 1],
    // ... or one change earlier
    [LIMITS.feedReplayPageEvents + 1, 2],
  ])("of %i goes on live with what came during its page: %i in all", async (before, pages) => {
    const { world, change, advance, sink } = await begin(before, 100);
    // Given the state is read, and the database has looked for the page
    await advance(100 + 60);
    change("w1");
    await advance(1_000);
    expect(versions(balances(sink))).toEqual(Array.from({ length: before + 1 }, (_, n) => n + 1));
    expect(world.asked.events).toBe(pages);
  });

  test("of what the database has lost meanwhile is asked for in growing pauses, until a sweep tells", async () => {
    const { world, hub, advance, sink } = await begin(20, 10);
    // Given the state is read, and the page is not
    await advance(11);
    world.lose("w1", 0);
    await advance(1_000);
    expect(balances(sink)).toEqual([]);
    expect(world.asked.events).toBeLessThan(8);
    await advance(LIMITS.feedSweepMs + LIMITS.feedReadRetryMsMax);
    expect(balances(sink)).toMatchObject([{ version: 0, snapshot: true, reset: true }]);
    expect(hub.stats().resets).toBe(1);
  });
});

test("a hub that is drained listens to nothing, and none of its timers goes off", async () => {
  const { world, hub, change, reconnect, advance, listenedTo, timersSet } = buildSetting();
  change("w1", 5);
  const { sink, say } = connect(hub);
  say({ type: "subscribe", wallets: ["w1"] });
  await advance(10);
  // Given a loss that was told, a change that may still be on its way, a slow client, and a state
  // to be read
  sink.buffered = LIMITS.feedBufferedBytesSoft + 1;
  world.lose("w1", 2);
  reconnect();
  await advance(1);
  world.commit("w1");
  reconnect();
  await advance(1);
  say({ type: "subscribe", wallets: ["w2"] });
  const before = { ...world.asked };
  await hub.drain();
  expect(timersSet()).toBe(0);
  expect(listenedTo()).toEqual([]);
  await advance(LIMITS.feedSweepMs);
  expect(world.asked).toEqual(before);
});

test("states are read together, but no more of them at a time than feedReadWalletsMax", async () => {
  withLimits({ feedReadWalletsMax: 10 });
  const { world, hub, advance } = buildSetting();
  const walletIds = Array.from({ length: 31 }, (_, n) => `w${n}`);
  for (const walletId of walletIds) world.commit(walletId);
  const { sink, say } = connect(hub);
  say({ type: "subscribe", wallets: walletIds });
  await advance(10);
  expect(balances(sink)).toHaveLength(31);
  expect(world.asked.walletsById).toBe(4);
});
