/**
 * The rate limit on real gateways with a real Redis: counted together, counted alone while Redis is
 * dead or hangs, never in the way of health and metrics, and told by a 429 that says when to come
 * back. The gateways have no host; what they are asked, none is needed for.
 */
import { Redis } from "ioredis";
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, inject, it, onTestFinished } from "vitest";
import { WebSocket } from "ws";
import { buildRateLimit, rateKey } from "../gateway/rate-limit.ts";
import { LIMITS } from "../src/limits.ts";
import { createMigratedDatabase } from "./stage/migrated-database.ts";
import { startCoffer, type CofferProcess, type Environment } from "./stage/process.ts";
import { scrape } from "./stage/prometheus-text.ts";
import { dropDatabase, startRedis, type TestServer } from "./stage/servers.ts";
import { until } from "./stage/stack.ts";

const PER_SECOND = 20;

let redis: TestServer;
let databaseUrl: string;
let gateways: [CofferProcess, CofferProcess];

beforeAll(async () => {
  redis = await startRedis();
  databaseUrl = await createMigratedDatabase("rate_limit");
  const env = { REDIS_URL: redis.url, TRUST_PROXY: "127.0.0.0/8" };
  gateways = await Promise.all([startGateway(env), startGateway(env)]);
});

afterAll(async () => {
  await Promise.all((gateways ?? []).map((gateway) => gateway.kill()));
  await redis?.stop();
  await dropDatabase(inject("postgresUrl"), "rate_limit");
});

function startGateway(env: Environment): Promise<CofferProcess> {
  return startCoffer({
    ROLE: "gateway",
    DATABASE_URL: databaseUrl,
    NATS_URL: inject("natsUrl"),
    RATE_LIMIT_PER_SECOND: String(PER_SECOND),
    LOG_LEVEL: "warn",
    ...env,
  });
}

let lastClient = 0;

/** An address that nobody had before. */
function newClient(): string {
  lastClient += 1;
  return `10.0.${lastClient >> 8}.${lastClient & 255}`;
}

function ask(gateway: CofferProcess, client: string, path = "/assets"): Promise<Response> {
  return fetch(`${gateway.baseUrl}${path}`, { headers: { "x-forwarded-for": client } });
}

/** Statuses of so many requests at once, to the gateways in turn. */
async function burst(
  to: readonly CofferProcess[],
  client: string,
  count: number,
  path?: string,
): Promise<Record<number, number>> {
  const counts: Record<number, number> = {};
  const requests = Array.from({ length: count }, async (_, index) => {
    const answer = await ask(to[index % to.length]!, client, path);
    await answer.arrayBuffer();
    counts[answer.status] = (counts[answer.status] ?? 0) + 1;
  });
  await Promise.all(requests);
  return counts;
}

/**
 * Bursts of new clients, one after another, until one is answered like this: a burst that outlasts
 * its window counts for two, and one that this machine starves may be counted alone.
 */
async function untilBurst(
  attempt: () => Promise<Record<number, number>>,
  expected: Record<number, number>,
): Promise<void> {
  let last = {};
  await until(`a burst is answered ${JSON.stringify(expected)}`, async () => {
    last = await attempt();
    return JSON.stringify(last) === JSON.stringify(expected);
  }).catch((error: unknown) => {
    throw new Error(`${String(error)}, last ${JSON.stringify(last)}`);
  });
}

const isLocal = async (gateway: CofferProcess): Promise<boolean> =>
  (await scrape(gateway.baseUrl)).value("coffer_rate_limit_local") === 1;

it("counts a client's requests to all gateways together, and answers with 429 past them", async () => {
  // When a client sends twice what it may, to both, then half of it is refused
  const expected = { 200: PER_SECOND, 429: PER_SECOND };
  await untilBurst(() => burst(gateways, newClient(), PER_SECOND * 2), expected);

  // And each refusal is the error that all refusals are, and says when to come back
  const client = newClient();
  let refused!: Response;
  await until("one is refused", async () => {
    await burst([gateways[0]], client, PER_SECOND * 3);
    refused = await ask(gateways[0], client);
    return refused.status === 429;
  });
  expect(Number(refused.headers.get("retry-after"))).toBe(1);
  expect(refused.headers.get("x-correlation-id")).toHaveLength(36);
  expect(await refused.json()).toMatchObject({
    statusCode: 429,
    error: "Too Many Requests",
    code: "rate_limited",
    path: "/assets",
    correlationId: refused.headers.get("x-correlation-id"),
  });

  // And after that it may again, and nobody else was hit meanwhile
  expect((await ask(gateways[0], newClient())).status).toBe(200);
  await sleep(LIMITS.rateLimitWindowMs + 100);
  expect((await ask(gateways[0], client)).status).toBe(200);
});

it("leaves nothing in Redis behind: a client's count goes with its window", async () => {
  const client = newClient();
  await ask(gateways[0], client);
  const eyes = new Redis(redis.url);
  onTestFinished(() => eyes.disconnect());
  const ttlMs = await eyes.pttl(rateKey(client));
  expect(ttlMs).toBeLessThanOrEqual(LIMITS.rateLimitWindowMs);
  expect(ttlMs).not.toBe(-1);
  await sleep(LIMITS.rateLimitWindowMs + 100);
  expect(await eyes.exists(rateKey(client))).toBe(0);
});

it("leaves no connection to Redis behind when it is closed", async () => {
  const name = "rate-limit-closed";
  const log = { warn: () => undefined };
  const limit = buildRateLimit({ perSecond: 1, redisUrl: redis.url, name, log });
  const reader = new Redis(redis.url);
  onTestFinished(() => reader.disconnect());
  const isThere = async (): Promise<boolean> =>
    String(await reader.client("LIST")).includes(`name=${name} `);
  await expect.poll(isThere).toBe(true);
  await limit.close();
  await expect.poll(isThere).toBe(false);
});

it("does not count health and metrics, and counts the opening of a WebSocket once", async () => {
  // Given
  const client = newClient();
  for (const path of ["/health/live", "/metrics"]) {
    const counts = await burst([gateways[0]], client, PER_SECOND + 5, path);
    expect({ path, counts }).toEqual({ path, counts: { 200: PER_SECOND + 5 } });
  }

  // When a client opens as many feeds as it may do requests, and one more, then that one is refused
  const url = `${gateways[0].baseUrl.replace("http", "ws")}/ws`;
  const open = (from: string): Promise<number> =>
    new Promise((resolve, reject) => {
      const socket = new WebSocket(url, { headers: { "x-forwarded-for": from } });
      onTestFinished(() => socket.terminate());
      socket.once("open", () => resolve(101));
      socket.once("unexpected-response", (_request, { statusCode = 0 }) => resolve(statusCode));
      socket.once("error", reject);
    });
  await untilBurst(
    async () => {
      const other = newClient();
      const statuses = await Promise.all(Array.from({ length: PER_SECOND + 1 }, () => open(other)));
      const count = (status: number): number => statuses.filter((it) => it === status).length;
      return { 101: count(101), 429: count(429) };
    },
    { 101: PER_SECOND, 429: 1 },
  );
});

it("believes X-Forwarded-For of the proxies it is told of only", async () => {
  // Given a gateway that trusts nobody, and has no Redis
  const proud = await startGateway({});
  onTestFinished(async () => void (await proud.kill()));

  // When everybody pretends to be somebody else, then they are all one
  await untilBurst(
    async () => {
      await sleep(LIMITS.rateLimitWindowMs + 100);
      const asked = Array.from({ length: PER_SECOND * 2 }, () => ask(proud, newClient()));
      const statuses = (await Promise.all(asked)).map(({ status }) => status);
      const count = (status: number): number => statuses.filter((it) => it === status).length;
      return { 200: count(200), 429: count(429) };
    },
    { 200: PER_SECOND, 429: PER_SECOND },
  );
  expect(await isLocal(proud)).toBe(true);
});

it.each([
  ["is dead", () => redis.kill(), () => redis.restart()],
  [
    "hangs",
    async () => void process.kill(redis.pid, "SIGSTOP"),
    async () => void process.kill(redis.pid, "SIGCONT"),
  ],
])(
  "while Redis %s each gateway counts alone, at once, and together again after",
  async (_, breakIt, mendIt) => {
    // Given
    await untilTogether();

    // When
    await breakIt();
    const mended = { isDone: false };
    onTestFinished(async () => {
      if (!mended.isDone) await mendIt();
    });
    const startedAtMs = performance.now();
    const first = await Promise.all(gateways.map((gateway) => ask(gateway, newClient())));
    expect(first.map(({ status }) => status)).toEqual([200, 200]);
    expect(performance.now() - startedAtMs).toBeLessThan(LIMITS.rateLimitRedisMs + 2_000);
    expect(await Promise.all(gateways.map(isLocal))).toEqual([true, true]);
    for (const gateway of gateways) {
      await expect
        .poll(() => gateway.output)
        .toMatch(/counted by this gateway alone: (Redis is away: |Command timed out)/);
      expect(gateway.output).not.toContain("enableOfflineQueue");
    }

    // Then a client gets what it may from each, and no more: nobody goes uncounted
    const alone = { 200: PER_SECOND * 2, 429: PER_SECOND * 2 };
    await untilBurst(() => burst(gateways, newClient(), PER_SECOND * 4), alone);

    // When Redis is there again, they count together, by themselves
    await mendIt();
    mended.isDone = true;
    await untilTogether();
    const together = { 200: PER_SECOND, 429: PER_SECOND };
    await untilBurst(() => burst(gateways, newClient(), PER_SECOND * 2), together);
  },
);

async function untilTogether(): Promise<void> {
  await until("both gateways count together", async () => {
    await Promise.all(gateways.map((gateway) => ask(gateway, newClient())));
    const local = await Promise.all(gateways.map(isLocal));
    return local.every((it) => !it);
  });
}
