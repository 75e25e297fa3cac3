/**
 * Signs of life in a real Redis that is there, answers a ping, and does not do what it is asked: it
 * is full, became a replica, or its user may not. Nothing moves then, and somebody has to learn it.
 */
import { Redis } from "ioredis";
import { afterAll, beforeAll, beforeEach, expect, it, onTestFinished } from "vitest";
import type { Member } from "../actors/membership.ts";
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

beforeEach(() => {
  warnings = [];
});

afterAll(async () => {
  operator?.disconnect();
  await server?.stop();
});

async function join(): Promise<RedisMembership> {
  const url = new URL(server.url);
  url.username = "coffer";
  url.password = "pass";
  const membership = buildRedisMembership({
    redisUrl: url.href,
    name: "test",
    log: { warn: (text) => void warnings.push(text) },
    deploymentId: () => "one",
  });
  onTestFinished(() => membership.close());
  await until("Redis answers", async () => (await membership.ping().catch(() => 0)) > 0);
  await membership.beat(MEMBER);
  return membership;
}

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
