/**
 * Signs of life in a real Redis: who hears whom, and for how long. And in one that is there, answers
 * a ping, and does not do what it is asked: it is full, became a replica, or its user may not.
 * Nothing moves then, and somebody has to learn it.
 */
import { Redis } from "ioredis";
import { afterAll, beforeAll, beforeEach, expect, it, onTestFinished } from "vitest";
import type { Member } from "../actors/membership.ts";
import { LIMITS } from "../src/limits.ts";
import { buildRedisMembership, type RedisMembership } from "../actors/redis-membership.ts";
import { startRedis, type TestServer } from "./stage/servers.ts";
import { until } from "./stage/stack.ts";

const MEMBER: Member = { hostId: "a", owner: "a:1", startedAtMs: 1, isLeaving: false };

let server: TestServer;
let operator: Redis;
let warnings: string[];

beforeAll(async () => {
  server = await startRedis();
  operator = new Redis(server.url);
  await operator.acl("SETUSER", "coffer", "on", ">pass", "~coffer:*", "+@all");
});

beforeEach(async () => {
  warnings = [];
  await operator.flushall();
});

afterAll(async () => {
  operator?.disconnect();
  await server?.stop();
});

async function join(deploymentId: string | null = "one", member = MEMBER) {
  const url = new URL(server.url);
  url.username = "coffer";
  url.password = "pass";
  const membership = buildRedisMembership({
    redisUrl: url.href,
    name: "test",
    log: { warn: (text) => void warnings.push(text) },
    deploymentId: () => deploymentId,
  });
  onTestFinished(() => membership.close());
  await until("Redis answers", async () => (await membership.ping().catch(() => 0)) > 0);
  await membership.beat(member);
  return membership;
}

async function heardBy(membership: RedisMembership): Promise<string[]> {
  return (await membership.read()).map(({ owner }) => owner).toSorted();
}

it("two deployments with one Redis do not see each other's hosts", async () => {
  // Given a host of each, one that no database has said it to yet, and one of a former version
  const one = await join("one", { ...MEMBER, owner: "a:1" });
  const two = await join("two", { ...MEMBER, owner: "a:2" });
  const unsaid = await join(null, { ...MEMBER, owner: "b:0", hostId: "b" });
  const { isLeaving: _, ...former } = { ...MEMBER, owner: "c:0", hostId: "c" };
  await operator.set("coffer:host:c:0", JSON.stringify(former), "PX", LIMITS.heartbeatTtlMs);
  await operator.sadd("coffer:hosts", "c:0");
  // Then who says whose it is, is seen there alone
  expect(await heardBy(one)).toEqual(["a:1", "b:0", "c:0"]);
  expect(await heardBy(two)).toEqual(["a:2", "b:0", "c:0"]);
  expect(await heardBy(unsaid)).toEqual(["a:1", "a:2", "b:0", "c:0"]);
});

it("a host's word is what it said last, and ends in time or when it leaves; nothing stays", async () => {
  // Given three hosts, of which one is leaving
  const leaving = { ...MEMBER, owner: "b:1", hostId: "b", isLeaving: true };
  const membership = await join();
  await membership.beat({ ...leaving, isLeaving: false });
  await membership.beat(leaving);
  await membership.beat({ ...MEMBER, owner: "c:1", hostId: "c" });
  const heard = await membership.read();
  expect(heard.toSorted((x, y) => (x.owner < y.owner ? -1 : 1))).toEqual([
    MEMBER,
    leaving,
    { ...MEMBER, owner: "c:1", hostId: "c" },
  ]);
  // When one leaves and the time of another is over
  const ttlMs = await operator.pttl("coffer:host:a:1");
  expect(ttlMs).toBeGreaterThan(0);
  expect(ttlMs).toBeLessThanOrEqual(LIMITS.heartbeatTtlMs);
  await membership.leave("b:1");
  await operator.pexpire("coffer:host:c:1", 1);
  // Then neither is heard, and Redis forgets their names
  await until("its time is over", async () => !(await heardBy(membership)).includes("c:1"));
  expect(await heardBy(membership)).toEqual(["a:1"]);
  await expect.poll(() => operator.smembers("coffer:hosts")).toEqual(["a:1"]);
});

it("what nobody's host has said keeps nobody from hearing the others", async () => {
  const membership = await join();
  const words = ["", "no JSON", "null", "7", "{}", '{"hostId":"x","owner":7,"startedAtMs":1}'];
  for (const [index, word] of words.entries()) {
    await operator.set(`coffer:host:${index}`, word);
    await operator.sadd("coffer:hosts", String(index));
  }
  await operator.set("coffer:host:x", JSON.stringify({ ...MEMBER, startedAtMs: "now" }));
  await operator.sadd("coffer:hosts", "x");
  expect(await membership.read()).toEqual([MEMBER]);
  await operator.flushall();
  expect(await membership.read()).toEqual([]);
});

it("a word of which Redis takes one half only is not said", async () => {
  const membership = await join();
  await operator.set("coffer:hosts", "no set");
  await expect(membership.beat(MEMBER)).rejects.toThrow("WRONGTYPE");
  await expect(membership.ping()).rejects.toThrow("WRONGTYPE");
});

it.each([
  ["is full", ["CONFIG", "SET", "maxmemory", "1"], ["CONFIG", "SET", "maxmemory", "0"], "OOM"],
  [
    "became a replica",
    ["REPLICAOF", "127.0.0.1", "1"],
    ["REPLICAOF", "NO", "ONE"],
    "write against a read only replica",
  ],
  [
    "lets its user not write",
    ["ACL", "SETUSER", "coffer", "-sadd"],
    ["ACL", "SETUSER", "coffer", "+sadd"],
    "no permissions",
  ],
])("a Redis that %s is told by log and health", async (_what, spoil, mend, reason) => {
  // Given a host's word, and a Redis that takes no more of them
  const membership = await join();
  await operator.call(spoil[0]!, ...spoil.slice(1));
  onTestFinished(async () => void (await operator.call(mend[0]!, ...mend.slice(1))));

  // When the host says again, and once more, that it lives
  await expect(membership.beat(MEMBER)).rejects.toThrow();
  await expect(membership.beat(MEMBER)).rejects.toThrow();

  // Then health says why nothing moves, and the log says it once
  const told = expect.stringContaining(reason) as string;
  await expect(membership.ping()).rejects.toMatchObject({ message: told });
  expect(warnings).toEqual([told]);

  // When Redis takes it again
  await operator.call(mend[0]!, ...mend.slice(1));
  await membership.beat(MEMBER);

  // Then all is well
  expect(await membership.ping()).toBeGreaterThan(0);
  expect(warnings).toEqual([told, "Redis does again what hosts ask of it"]);
});

it("a Redis that does not say who is alive is told, also while it takes words", async () => {
  const membership = await join();
  await operator.acl("SETUSER", "coffer", "-smembers");
  onTestFinished(async () => void (await operator.acl("SETUSER", "coffer", "+smembers")));
  await expect(membership.read()).rejects.toThrow();
  await membership.beat(MEMBER);
  await expect(membership.ping()).rejects.toThrow(/no shard moves: .*smembers/);
});
