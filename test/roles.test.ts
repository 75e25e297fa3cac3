/**
 * The roles as real processes: two gateways that serve the whole file, and hosts that come, are
 * superseded and go, over real NATS, Redis and PostgreSQL. A bank is at work through both gateways
 * meanwhile; whatever happens behind them, its callers get an outcome, a 503 (nothing happened) or
 * a 504 (ask again), and the database agrees with each. Which process wrote an event is read from
 * the database, too: the test adds a column that keeps the writing session.
 */
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { afterAll, beforeAll, expect, inject, it, onTestFinished } from "vitest";
import { WebSocket } from "ws";
import { LIMITS } from "../src/limits.ts";
import { expectRightOutcomesAt, openBankAt } from "./stage/bank-at-work.ts";
import { askJson } from "./stage/json.ts";
import { createMigratedDatabase } from "./stage/migrated-database.ts";
import { startCoffer, type CofferProcess, type Environment } from "./stage/process.ts";
import {
  createDatabase,
  dropDatabase,
  startNats,
  startRedis,
  type TestServer,
} from "./stage/servers.ts";
import { until } from "./stage/stack.ts";
import type { Workload } from "./stage/workload.ts";

/** Between SIGTERM and the end of the process, with room for a busy machine. */
const STOP_MS_MAX = LIMITS.shutdownMs;

let nats: TestServer;
let databaseUrl: string;
let sql: pg.Pool;
let gateways: [CofferProcess, CofferProcess];

beforeAll(async () => {
  nats = await startNats();
  databaseUrl = await createMigratedDatabase("roles");
  sql = new pg.Pool({ connectionString: databaseUrl, max: 2 });
  sql.on("error", () => undefined);
  await sql.query("ALTER TABLE events ADD COLUMN writer_pid int DEFAULT pg_backend_pid()");
  const env = { ROLE: "gateway", ...clusterEnv() };
  gateways = await Promise.all([startCoffer(env), startCoffer(env)]);
});

afterAll(async () => {
  await Promise.all((gateways ?? []).map((gateway) => gateway.kill()));
  await sql?.end();
  await dropDatabase(inject("postgresUrl"), "roles");
  await nats?.stop();
});

function clusterEnv(): Environment {
  return { DATABASE_URL: databaseUrl, NATS_URL: nats.url, LOG_LEVEL: "warn" };
}

async function startHost(hostId: string, env: Environment = {}): Promise<CofferProcess> {
  const host = await startCoffer({
    ROLE: "host",
    ...clusterEnv(),
    REDIS_URL: inject("redisUrl"),
    LANES: "2",
    HOST_ID: hostId,
    ...env,
  });
  onTestFinished(async () => void (await host.kill()));
  await host.untilReady();
  return host;
}

const ports = (): number[] => gateways.map(({ port }) => port);

const openBank = (name: string, at = ports()): Promise<Workload> =>
  openBankAt(at, { name, callers: 12, pauseMs: 10 });

const expectRightOutcomes = (bank: Workload): Promise<void> =>
  expectRightOutcomesAt(ports(), databaseUrl, bank);

interface Ownership {
  readonly free: number;
  readonly owners: string[];
  readonly epochs: string[];
}

/** Waits until every shard is this host's. */
async function owns(hostId: string): Promise<void> {
  await until(`${hostId} has every shard`, async () => {
    const { owners, free } = await ownership();
    return free === 0 && owners.length === 1 && owners[0] === hostId;
  });
}

async function ownership(): Promise<Ownership> {
  const { rows } = await sql.query<Ownership>(
    `SELECT count(*) FILTER (WHERE owner IS NULL)::int4 AS free,
            coalesce(array_agg(DISTINCT split_part(owner, ':', 1)) FILTER (WHERE owner IS NOT NULL), '{}') AS owners,
            array_agg(epoch::text ORDER BY shard) AS epochs FROM shards`,
  );
  return rows[0]!;
}

/** Sessions that commit now; with one host, they are its lanes'. */
async function writers(): Promise<number[]> {
  const { rows } = await sql.query<{ pid: number }>(
    `SELECT pid FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'coffer-writer'`,
  );
  return rows.map(({ pid }) => pid);
}

async function eventsBy(pids: readonly number[]): Promise<number> {
  const { rows } = await sql.query<{ count: number }>(
    "SELECT count(*)::int4 AS count FROM events WHERE writer_pid = ANY ($1)",
    [pids],
  );
  return rows[0]!.count;
}

async function post(
  { baseUrl }: CofferProcess,
  path: string,
  body: object,
  key?: string,
): Promise<{ status: number; retryAfter: string | null; body: Record<string, unknown> }> {
  const answer = await askJson<Record<string, unknown>>(`${baseUrl}${path}`, body, { key });
  return { ...answer, retryAfter: answer.headers.get("retry-after") };
}

it("a gateway without any host says so: 503 with Retry-After, at the deadline", async () => {
  // Given gateways, and no host

  // When callers ask through both
  const startedAtMs = performance.now();
  const asked = Promise.all(
    Array.from({ length: 8 }, async (_, index) => {
      const path = `/wallets/nobody-${index}/credit`;
      const answer = await post(gateways[index % 2]!, path, { amount: 1 }, `nobody-${index}`);
      return { ...answer, elapsedMs: performance.now() - startedAtMs };
    }),
  );

  // Then the gateways are there, and not ready
  for (const gateway of gateways) {
    await gateway.untilReady(503);
    expect((await fetch(`${gateway.baseUrl}/health/live`)).status).toBe(200);
  }

  // And each caller waited for an owner as long as a command may take, and hears that nothing
  // happened
  for (const { status, retryAfter, body, elapsedMs } of await asked) {
    expect(body).toMatchObject({ statusCode: 503, code: "unavailable" });
    expect(status).toBe(503);
    expect(Number(retryAfter)).toBeGreaterThan(0);
    expect(elapsedMs).toBeGreaterThan(LIMITS.commandDeadlineMs - 100);
    expect(elapsedMs).toBeLessThan(LIMITS.commandDeadlineMs + 3_000);
  }
});

it("a host that has no shards and sees no Redis is not ready, nor are the gateways", async () => {
  // Given a host that nobody tells who else is alive
  const closed = await startRedis();
  await closed.stop();
  const host = await startCoffer({
    ROLE: "host",
    ...clusterEnv(),
    REDIS_URL: closed.url,
    HOST_ID: "host-blind",
  });
  onTestFinished(async () => void (await host.kill()));

  // Then nothing says that commands can be served
  await Promise.all([host, ...gateways].map((one) => one.untilReady(503)));
  const body = (await (await fetch(`${host.baseUrl}/health`)).json()) as {
    checks: Record<string, { state: string; reason?: string }>;
  };
  expect(body.checks).toMatchObject({
    database: { state: "up" },
    redis: { state: "down", reason: expect.stringContaining("ECONNREFUSED") },
  });
  expect((await host.stop()).code).toBe(0);
});

it("what is written through one gateway is read, repeated and watched through the other", async () => {
  // Given a host, and a client of the feed at the second gateway
  await startHost("one");
  const [first, second] = gateways;
  await Promise.all([first.untilReady(), second.untilReady()]);
  const opened = await post(first, "/wallets", { walletId: "both", initialBalance: 10 });
  expect(opened.status).toBe(201);
  const frames: Array<Record<string, unknown>> = [];
  const socket = new WebSocket(`ws://127.0.0.1:${second.port}/ws`);
  onTestFinished(() => socket.terminate());
  socket.on("message", (data: Buffer) => {
    frames.push(JSON.parse(data.toString()) as Record<string, unknown>);
  });
  socket.on("open", () => socket.send('{"type":"subscribe","wallets":["both"]}'));
  await until("the snapshot is there", () => frames.some(({ snapshot }) => snapshot === true));

  // When the first gateway takes a command
  const credited = await post(first, "/wallets/both/credit", { amount: 5 }, "both-1");

  // Then the other one reads it, knows it by its key, and has pushed it
  expect(credited.body).toMatchObject({ id: "both", balance: 15, version: 2 });
  const read = await fetch(`${second.baseUrl}/wallets/both`);
  expect(await read.json()).toEqual(credited.body);
  const repeated = await post(second, "/wallets/both/credit", { amount: 5 }, "both-1");
  expect(repeated.body).toEqual(credited.body);
  await until("the change is there", () => frames.some(({ version }) => version === 2));
  const changes = frames.filter(({ type, snapshot }) => type === "balance" && snapshot === false);
  expect(changes).toMatchObject([{ walletId: "both", version: 2, balance: 15 }]);
});

it(
  "a host whose Redis does not know the other takes over under load: the race is between its claim and the other's commits",
  { timeout: 60_000 },
  async () => {
    // Given a bank at work on one host
    const redis = await startRedis();
    onTestFinished(() => redis.stop());
    const first = await startHost("elder", { REDIS_URL: redis.url });
    await owns("elder");
    const bank = await openBank("takeover");
    const before = await ownership();
    const firstWriters = await writers();

    // When a second one starts that hears of nobody, as if the first were dead
    const second = await startHost("younger");

    // Then all shards are its own, and claimed: one epoch by taking each, the next by the claim
    // that waits for appends under way
    await owns("younger");
    await second.untilReady();
    await until("every shard is claimed", async () => {
      const { epochs } = await ownership();
      return epochs.every((epoch, shard) => BigInt(epoch) >= BigInt(before.epochs[shard]!) + 2n);
    });
    const firstWrote = await eventsBy(firstWriters);

    // And the first one stops serving, by itself, says why, and has written nothing since; without
    // Redis it takes nothing back
    await redis.kill();
    await bank.progress(200);
    expect(first.output).toMatch(/shards lost|belong to another owner/);
    expect(firstWrote).toBeGreaterThan(0);
    expect(await eventsBy(firstWriters)).toBe(firstWrote);
    expect((await ownership()).owners).toEqual(["younger"]);

    // And every caller has the one outcome, also when the first one gets them back
    expect(await second.stop()).toEqual({ code: 0, signal: null });
    await redis.restart();
    await owns("elder");
    await bank.progress(100);
    await expectRightOutcomes(bank);
  },
);

it(
  "NATS dies under load and comes back: callers are told the truth, and all resume by themselves",
  { timeout: 60_000 },
  async () => {
    // Given a bank at work
    const host = await startHost("patient");
    const bank = await openBank("nats");
    const troubles = (): number => bank.count("unavailable") + bank.count("unknown");

    // When NATS is away for longer than a command may take; the race: commands and replies are on
    // their way
    await nats.kill();
    await Promise.all([...gateways, host].map((each) => each.untilReady(503)));
    await sleep(100);
    const acknowledged = bank.count("acknowledged");
    await sleep(LIMITS.commandDeadlineMs + 500);

    // Then nothing is acknowledged, and each caller was told that nothing happened, or to ask again
    expect(bank.count("acknowledged")).toBe(acknowledged);
    expect(troubles()).toBeGreaterThanOrEqual(12);
    expect(bank.count("wrong")).toBe(0);

    // When it is there again, the same processes go on
    await nats.restart();
    await Promise.all([...gateways, host].map((each) => each.untilReady()));
    await bank.progress(200);

    // And what was unknown has one outcome
    await expectRightOutcomes(bank);
    expect(await host.stop()).toEqual({ code: 0, signal: null });
  },
);

it(
  "the all-in-one process gets SIGTERM under load: what it accepted is answered, and durable",
  { timeout: 60_000 },
  async () => {
    // Given a bank at work on one process with everything
    const ownUrl = await createDatabase(inject("postgresUrl"), "roles_all");
    onTestFinished(() => dropDatabase(inject("postgresUrl"), "roles_all"));
    const env = { DATABASE_URL: ownUrl, LANES: "2", LOG_LEVEL: "warn" };
    const coffer = await startCoffer(env);
    onTestFinished(async () => void (await coffer.kill()));
    await coffer.untilReady();
    const { port } = coffer;
    const bank = await openBank("all", [port]);

    // When it is told to end; the race: requests arrive, and commands commit, while it closes
    const startedAtMs = performance.now();
    expect(await coffer.stop()).toEqual({ code: 0, signal: null });
    expect(performance.now() - startedAtMs).toBeLessThan(STOP_MS_MAX);
    expect(bank.count("wrong")).toBe(0);

    // Then the next one, on the same port, serves the same callers, and nothing is lost or done
    // twice
    const next = await startCoffer({ ...env, PORT: String(port) });
    onTestFinished(async () => void (await next.kill()));
    await next.untilReady();
    await bank.progress(200);
    await expectRightOutcomesAt([port], ownUrl, bank);
  },
);

it("gateways end in order, too, after all that they went through without a restart", async () => {
  // When both are told to end
  const exits = await Promise.all(gateways.map((gateway) => gateway.stop()));

  // Then they do, and none has met an error that it did not expect
  for (const exit of exits) expect(exit).toEqual({ code: 0, signal: null });
  for (const { output } of gateways) expect(output).not.toMatch(/"level":(50|60)/);
});
