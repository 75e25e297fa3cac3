/**
 * What a client may send and how much of it: every bad frame has an answer that names its fault,
 * every bound says that it was met, and no frame does harm to the connection, except too many.
 */
import fc from "fast-check";
import { expect, test } from "vitest";

import { LIMITS } from "../../src/limits.ts";
import { balances, buildSetting, connect, errors, versions } from "../../test/stage/feed.ts";

const SEED = Number(process.env["FEED_SEED"] ?? Math.trunc(Math.random() * 2 ** 31));

test.each([
  ["", "invalid_json", "The frame is not JSON"],
  ["{", "invalid_json", "The frame is not JSON"],
  ["null", "validation_failed", "The frame must be a JSON object"],
  ["[]", "validation_failed", "The frame must be a JSON object"],
  ["{}", "validation_failed", "type must be subscribe or unsubscribe"],
  ['{"type":"balance"}', "validation_failed", "type must be subscribe or unsubscribe"],
  ['{"type":"constructor"}', "validation_failed", "type must be subscribe or unsubscribe"],
  ['{"type":"subscribe"}', "validation_failed", "wallets or owners must say"],
  ['{"type":"subscribe","wallets":"w1"}', "validation_failed", "wallets must be a list"],
  ['{"type":"subscribe","wallets":["w1",7]}', "validation_failed", "wallets[1] must be a string"],
  ['{"type":"subscribe","wallets":["a b"]}', "validation_failed", "wallets[0] must be an id"],
  ['{"type":"subscribe","wallets":[""]}', "validation_failed", "wallets[0] must be an id"],
  ['{"type":"subscribe","owners":["é"]}', "validation_failed", "owners[0] must be an id"],
  [
    JSON.stringify({ type: "subscribe", wallets: ["x".repeat(LIMITS.idLengthMax + 1)] }),
    "validation_failed",
    "wallets[0] must be an id",
  ],
  ['{"type":"subscribe","wallet":["w1"]}', "validation_failed", "wallet is not a field"],
  ['{"type":"subscribe","wallets":["w1"],"from":7}', "validation_failed", "from must be an object"],
  [
    '{"type":"subscribe","wallets":["w1"],"from":{"w1":"7"}}',
    "validation_failed",
    "from.w1 must be a whole number",
  ],
  [
    '{"type":"subscribe","wallets":["w1"],"from":{"w1":1.5}}',
    "validation_failed",
    "from.w1 must be a whole number",
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

test("however long a client was silent, it has earned no more than feedFramesBurst frames", async () => {
  const { hub, advance } = buildSetting();
  const { sink, client } = connect(hub);
  await advance(60_000);
  for (let n = 0; n < LIMITS.feedFramesBurst; n++) client.receive("x");
  expect(sink.closedWith).toBeNull();
  client.receive("x");
  expect(sink.closedWith).toMatchObject({ code: 1008 });
});

test("many ids in a frame count as many frames, over the whole list at once too", async () => {
  const { hub, advance } = buildSetting();
  const wallets = Array.from({ length: LIMITS.feedWalletsPerClientMax }, (_, n) => `w${n}`);
  const owners = Array.from({ length: LIMITS.feedOwnersPerClientMax }, (_, n) => `u${n}`);
  const from = Object.fromEntries(wallets.map((walletId) => [walletId, 1]));
  const all = { type: "subscribe", wallets, owners, from };
  const one = connect(hub);
  // All that a client may watch, twice: it has come back, and begins anew.
  one.say(all);
  one.say({ type: "unsubscribe", wallets, owners: [] });
  expect(one.sink.closedWith).toBeNull();
  for (let times = 0; times < 3; times++) one.say(all);
  expect(one.sink.closedWith).toMatchObject({ code: 1008 });
  expect(errors(one.sink).at(-1)).toMatchObject({ code: "rate_limited" });
  // Steadily it may name so many each second, in frames of any size.
  const other = connect(hub);
  for (let second = 0; second < 10; second++) {
    other.say({ type: "subscribe", wallets });
    await advance(1_000);
  }
  for (let n = 0; n < LIMITS.feedFramesPerSecond; n++) {
    other.say({ type: "subscribe", wallets: wallets.slice(n * 10, n * 10 + 10) });
  }
  expect(other.sink.closedWith).toBeNull();
});

test("wallets that owners bring count by their versions to start from", () => {
  const { hub } = buildSetting();
  const { sink, say } = connect(hub);
  const from = Object.fromEntries(Array.from({ length: 1_000 }, (_, n) => [`w${n}`, 1]));
  for (let times = 0; times < 4; times++) say({ type: "subscribe", owners: ["u1"], from });
  expect(sink.closedWith).toMatchObject({ code: 1008 });
});

test("owners in a frame count as its wallets do", () => {
  const { hub } = buildSetting();
  const { sink, say } = connect(hub);
  const owners = Array.from({ length: LIMITS.feedIdsPerFrame * 100 }, (_, n) => `u${n}`);
  const burst = Math.ceil(LIMITS.feedFramesBurst / 100);
  for (let times = 0; times < burst; times++) say({ type: "unsubscribe", owners });
  expect(sink.closedWith).toBeNull();
  say({ type: "unsubscribe", owners });
  expect(sink.closedWith).toMatchObject({ code: 1008 });
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

test.each([
  ["runs", true],
  ["rests", false],
])("a hub that is drained while its sweep %s has no timer left", async (_state, isRunning) => {
  const { world, hub, reconnect, advance, timersSet } = buildSetting();
  world.commit("w1");
  const { say } = connect(hub);
  say({ type: "subscribe", wallets: ["w1"], owners: ["u1"] });
  await advance(10);
  expect(timersSet()).toBeGreaterThan(0);
  world.readDelayMs = 40;
  if (isRunning) reconnect();
  const drained = hub.drain();
  world.readDelayMs = null;
  await advance(100);
  await drained;
  expect(timersSet()).toBe(0);
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
