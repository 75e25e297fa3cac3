/**
 * Slow clients: conflated past the soft limit, cut off past the hard one, and never anybody else's
 * trouble. What a client has not read is a number that the tests set.
 */
import { describe, expect, test } from "vitest";

import { LIMITS } from "../../src/limits.ts";
import { balances, buildSetting, connect, versions } from "../../test/stage/feed.ts";

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

  test("that goes is no longer looked after", async () => {
    const { hub, change, advance, slow, quick, timersSet } = await watchTwo();
    slow.sink.buffered = LIMITS.feedBufferedBytesSoft + 1;
    change("w1");
    await advance(10);
    expect(hub.stats().slowClients).toBe(1);
    slow.client.closed();
    expect(hub.stats().slowClients).toBe(0);
    quick.client.closed();
    // Its outbox had one
    const timers = timersSet();
    await advance(LIMITS.feedDrainCheckMs);
    expect(timersSet()).toBe(timers - 1);
  });

  test("shares one timer with all who are slow, for as long as one of them is", async () => {
    const { change, advance, slow, quick, timersSet } = await watchTwo();
    const before = timersSet();
    for (const { sink } of [slow, quick]) sink.buffered = LIMITS.feedBufferedBytesSoft + 1;
    for (let times = 0; times < 3; times++) {
      change("w1");
      await advance(LIMITS.feedDrainCheckMs);
      expect(timersSet()).toBe(before + 1);
    }
    for (const { sink } of [slow, quick]) sink.buffered = 0;
    await advance(LIMITS.feedDrainCheckMs);
    expect(timersSet()).toBe(before);
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

  test("that reads nothing is cut off then, however much it says itself", async () => {
    const { hub, change, advance, slow } = await watchTwo();
    slow.sink.buffered = LIMITS.feedBufferedBytesSoft + 1;
    change("w1");
    for (let ms = 0; ms <= LIMITS.feedSlowMs; ms += LIMITS.feedSlowMs / 10) {
      slow.say({ type: "subscribe", wallets: ["w1"] });
      await advance(LIMITS.feedSlowMs / 10);
    }
    expect(slow.sink.closedWith).toMatchObject({ code: 1013 });
    expect(hub.stats()).toMatchObject({ slowClients: 0, tooSlow: 1 });
  });

  test("that is above the limit again by what was kept for it stays slow", async () => {
    const { hub, change, advance, slow } = await watchTwo();
    slow.sink.buffered = LIMITS.feedBufferedBytesSoft + 1;
    change("w1", 2);
    await advance(10);
    slow.sink.buffered = LIMITS.feedBufferedBytesSoft;
    slow.sink.isStuck = true;
    await advance(LIMITS.feedDrainCheckMs);
    expect(versions(balances(slow.sink))).toEqual([1, 2]);
    expect(hub.stats().slowClients).toBe(1);
    change("w1");
    await advance(10);
    expect(versions(balances(slow.sink))).toEqual([1, 2]);
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

  test("is cut off with feedBufferedBytesMax waiting, and not one byte before", async () => {
    const { advance, slow } = await watchTwo();
    for (const [buffered, closedWith] of [
      [LIMITS.feedBufferedBytesMax - 1, null],
      [LIMITS.feedBufferedBytesMax, { code: 1013 }],
    ] as const) {
      slow.sink.buffered = buffered;
      slow.say({ type: "unsubscribe", wallets: ["w1"] });
      await advance(10);
      if (closedWith === null) expect(slow.sink.closedWith).toBeNull();
      else expect(slow.sink.closedWith).toMatchObject(closedWith);
    }
  });

  test("that makes answers pile up is cut off at feedBufferedBytesMax", async () => {
    const { advance, clock, slow } = await watchTwo();
    slow.sink.isStuck = true;
    // As much as its rate allows, with two long answers for each wallet.
    const walletIds = Array.from({ length: 100 }, (_, n) => `${n}`.padStart(128, "x"));
    const startedAtMs = clock.nowMs();
    for (let n = 0; n < 200 && slow.sink.closedWith === null; n++) {
      slow.say({ type: "subscribe", wallets: walletIds });
      await advance(100);
    }
    expect(clock.nowMs() - startedAtMs).toBeLessThan(LIMITS.feedSlowMs);
    expect(slow.sink.closedWith).toMatchObject({ code: 1013 });
    expect(slow.sink.buffered).toBeLessThan(LIMITS.feedBufferedBytesMax + 65_536);
  });

  test("that lost more than is replayed gets the reset in place of the change that waited", async () => {
    const { world, change, advance, slow } = await watchTwo();
    slow.sink.buffered = LIMITS.feedBufferedBytesSoft + 1;
    change("w1", 2);
    await advance(10);
    for (let n = 0; n < LIMITS.feedReplayEventsMax + 1; n++) world.commit("w1");
    change("w1");
    await advance(100);
    slow.sink.buffered = 0;
    await advance(LIMITS.feedDrainCheckMs + 10);
    const last = balances(slow.sink, "w1").at(-1);
    expect(last).toMatchObject({ version: world.version("w1"), snapshot: true, reset: true });
  });
});
