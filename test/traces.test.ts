/**
 * Traces and logs of a gateway and hosts as processes of their own over NATS: a collector of our
 * own takes their spans. One command is one trace, from the caller's `traceparent` to the commit;
 * what the caller does not sample leaves nothing; and a log line of a request has its correlation
 * id and no password.
 */
import { randomBytes } from "node:crypto";
import { connect as connectNats, headers as newHeaders } from "nats";
import pg from "pg";
import { afterAll, beforeAll, expect, inject, it, onTestFinished } from "vitest";
import { placeOf } from "../actors/placement.ts";
import type { ClusterBody } from "../gateway/routes/cluster-schemas.ts";
import { LIMITS } from "../src/limits.ts";
import { ALL_SHARDS, shardOf } from "../src/core/shard.ts";
import { createMigratedDatabase } from "./stage/migrated-database.ts";
import { startCollector, type CollectedSpan, type Collector } from "./stage/otlp-collector.ts";
import { startCoffer, type CofferProcess, type Environment } from "./stage/process.ts";
import {
  createDatabase,
  dropDatabase,
  startNats,
  startRedis,
  type TestServer,
} from "./stage/servers.ts";
import { until } from "./stage/stack.ts";

let servers: { readonly nats: TestServer; readonly redis: TestServer };
let collector: Collector;
let host: CofferProcess;
let gateway: CofferProcess;
let databaseUrl: string;
let hostEnv: Environment;

beforeAll(async () => {
  // Of its own: other tests' clusters are on the shared ones.
  const [nats, redis] = await Promise.all([startNats(), startRedis()]);
  servers = { nats, redis };
  collector = await startCollector();
  databaseUrl = await createMigratedDatabase("traces");
  const env = {
    DATABASE_URL: databaseUrl,
    NATS_URL: nats.url,
    LOG_LEVEL: "debug",
    OTEL_EXPORTER_OTLP_ENDPOINT: collector.url,
  };
  // By the protocol: within one lane a transfer would be one commit, and one span.
  hostEnv = { ...env, REDIS_URL: redis.url, ROLE: "host", TRANSFER_SHORTCUT: "off" };
  host = await startCoffer({ ...hostEnv, HOST_ID: "traced-host" });
  gateway = await startCoffer({ ...env, ROLE: "gateway", HOST_ID: "traced-gateway" });
  await Promise.all([host, gateway].map((each) => each.untilReady()));
  expect((await post("/wallets", { walletId: "t1" })).status).toBe(201);
});

afterAll(async () => {
  await Promise.all([host, gateway].map((each) => each?.kill()));
  await collector?.stop();
  await Promise.all([servers?.nats.stop(), servers?.redis.stop()]);
  await dropDatabase(inject("postgresUrl"), "traces");
});

function post(
  path: string,
  json: unknown,
  headers: Record<string, string> = {},
  to: CofferProcess = gateway,
): Promise<Response> {
  return fetch(`${to.baseUrl}${path}`, {
    method: "POST",
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(json),
  });
}

interface Caller {
  readonly traceId: string;
  readonly spanId: string;
  readonly traceparent: string;
}

function newCaller(flags: "00" | "01" = "01"): Caller {
  const traceId = randomBytes(16).toString("hex");
  const spanId = randomBytes(8).toString("hex");
  return { traceId, spanId, traceparent: `00-${traceId}-${spanId}-${flags}` };
}

/** The trace's spans by name, once all of these are there. */
async function spansOf(traceId: string, names: readonly string[]) {
  const found = new Map<string, CollectedSpan>();
  await until(`spans ${names.join(", ")}`, () => {
    for (const span of collector.spans) if (span.traceId === traceId) found.set(span.name, span);
    return names.every((name) => found.has(name));
  });
  return names.map((name) => found.get(name)!);
}

const LANE = ["mailbox", "commit", "group commit"];

it("a credit over HTTP is one trace: request, command, mailbox, commit, in two processes", async () => {
  // When
  const caller = newCaller();
  const answer = await post(
    "/wallets/t1/credit",
    { amount: 5 },
    { traceparent: caller.traceparent },
  );
  expect(answer.status).toBe(200);

  // Then each span is the child of the one around it
  const names = ["POST /wallets/:walletId/credit", "command credit", ...LANE];
  const [request, command, mailbox, commit, group] = await spansOf(caller.traceId, names);
  expect(request).toMatchObject({ parentSpanId: caller.spanId, kind: 2, isError: false });
  expect(command).toMatchObject({ parentSpanId: request!.spanId, kind: 3 });
  expect(mailbox).toMatchObject({ parentSpanId: command!.spanId, kind: 2 });
  expect(commit).toMatchObject({ parentSpanId: command!.spanId });
  expect(commit!.links).toMatchObject([{ traceId: group!.traceId, spanId: group!.spanId }]);

  // And says where it was, of what
  expect(request!.resource).toMatchObject({
    "service.name": "coffer",
    "service.instance.id": "traced-gateway",
    "coffer.role": "gateway",
  });
  expect(commit!.resource).toMatchObject({ "service.instance.id": "traced-host" });
  expect(request!.attributes).toMatchObject({
    "http.response.status_code": "200",
    "coffer.correlation.id": caller.traceId,
  });
  for (const span of [command!, mailbox!, commit!]) {
    expect(span.attributes["coffer.wallet.id"]).toBe("t1");
    expect(span.attributes["coffer.command.id"]).toBe(command!.attributes["coffer.command.id"]);
  }
  expect(command!.attributes["coffer.outcome"]).toBe("done");
  expect(commit!.attributes["coffer.lane"]).toBe("lane-0");

  // And when: mailbox, then commit, within the command; the processes share this machine's clock,
  // to a few milliseconds
  expect(mailbox!.endNs).toBe(commit!.startNs);
  expect(commit!.endNs).toBeGreaterThan(commit!.startNs);
  const few = 20_000_000n;
  expect(mailbox!.startNs).toBeGreaterThan(command!.startNs - few);
  expect(commit!.endNs).toBeLessThan(command!.endNs + few);
  expect(request!.startNs).toBeLessThanOrEqual(command!.startNs);
  expect(request!.endNs).toBeGreaterThanOrEqual(command!.endNs);
});

it("a credit over NATS is one, too, with its headers", async () => {
  // When
  const nats = await connectNats({ servers: servers.nats.url });
  onTestFinished(() => nats.close());
  const caller = newCaller();
  const headers = newHeaders();
  headers.set("traceparent", caller.traceparent);
  headers.set("X-Correlation-Id", "from-nats-1");
  const body = JSON.stringify({ walletId: "t1", amount: 1 });
  await nats.request("wallets.v1.credit", body, { headers, timeout: 10_000 });

  // Then
  const names = ["NATS wallets.v1.credit", "command credit", ...LANE];
  const [request, command, , commit] = await spansOf(caller.traceId, names);
  expect(request).toMatchObject({ parentSpanId: caller.spanId, kind: 2 });
  expect(request!.attributes).toMatchObject({
    "messaging.system": "nats",
    "coffer.correlation.id": "from-nats-1",
  });
  expect(commit!.parentSpanId).toBe(command!.spanId);

  // And the same id is in the wallet's history and in the log
  const events = await fetch(`${gateway.baseUrl}/wallets/t1/events?limit=100`);
  expect(await events.text()).toContain('"correlationId":"from-nats-1"');
  expect(gateway.output).toMatch(/"endpoint":"credit","correlationId":"from-nats-1","status":200/);
});

it("what is rejected is no failure, and has a commit when it is recorded", async () => {
  // When
  const caller = newCaller();
  const { traceparent } = caller;
  const answer = await post("/wallets/t1/debit", { amount: 1_000_000 }, { traceparent });
  expect(answer.status).toBe(400);

  // Then
  const [request, command] = await spansOf(caller.traceId, [
    "POST /wallets/:walletId/debit",
    "command debit",
    "commit",
  ]);
  expect(command!.attributes["coffer.rejection"]).toBe("insufficient_funds");
  expect([request!.isError, command!.isError]).toEqual([false, false]);
});

/**
 * Sends, and expects the caller's trace to have the three commits, in the order of the protocol,
 * each on its side.
 */
async function expectWholeTransfer(
  request: { readonly path: string; readonly json: object; readonly name: string },
  [payer, payee]: readonly [string, string],
  [payersHost, payeesHost]: readonly [string, string],
): Promise<string> {
  const caller = newCaller();
  const { traceId, traceparent } = caller;
  // Its own correlation id, since that one is stored.
  const headers = { traceparent, "x-correlation-id": `of-${payer}-${payee}` };
  const sent = await post(request.path, request.json, headers);
  expect(sent.status).toBe(200);

  const names = [`command ${request.name}`, "commit", "post commit", "settle commit"];
  const [command, ...commits] = await spansOf(traceId, names);
  const [reserve, received, settled] = commits;
  const wallets = commits.map((span) => span.attributes["coffer.wallet.id"]);
  expect(wallets).toEqual([payer, payee, payer]);
  const hosts = commits.map((span) => span.resource["service.instance.id"]);
  expect(hosts).toEqual([payersHost, payeesHost, payersHost]);
  const commandId = command!.attributes["coffer.command.id"];
  for (const span of commits) {
    expect(span).toMatchObject({ parentSpanId: command!.spanId, isError: false });
    expect(span.attributes["coffer.command.id"]).toBe(commandId);
    expect(span.links).toHaveLength(1);
  }
  expect(received!.startNs).toBeGreaterThanOrEqual(reserve!.endNs);
  expect(settled!.startNs).toBeGreaterThanOrEqual(received!.endNs);
  return traceId;
}

it("a transfer is one trace with three commits: the payer's, the payee's, and the settling", async () => {
  // Given
  expect((await post("/wallets", { walletId: "t2" })).status).toBe(201);
  const hosts = ["traced-host", "traced-host"] as const;
  const transfer = {
    path: "/wallets/t1/transfer",
    json: { toWalletId: "t2", amount: 1 },
    name: "transfer",
  };

  // Then, and nothing of the trace is in the database
  const traceId = await expectWholeTransfer(transfer, ["t1", "t2"], hosts);
  const database = new pg.Client({ connectionString: databaseUrl });
  await database.connect();
  onTestFinished(() => database.end());
  for (const table of ["events", "transfers", "transfer_verdicts"]) {
    const sql = `SELECT count(*)::int AS count, coalesce(bool_or(row::text LIKE $1), false) AS found FROM ${table} row`;
    const { rows } = await database.query<{ count: number; found: boolean }>(sql, [`%${traceId}%`]);
    expect(rows[0]!.count).toBeGreaterThan(0);
    expect(rows[0]!.found).toBe(false);
  }
});

it("a capture that pays a wallet is one, too", async () => {
  const reservation = { amount: 3, type: "ESCROW" };
  const placed = await post("/wallets/t1/holds", reservation);
  expect(placed.status).toBe(201);
  const { id } = (await placed.json()) as { id: string };
  const path = `/wallets/t1/holds/${id}/capture`;
  const capture = { path, json: { amount: 2, final: true, toWalletId: "t2" }, name: "capture" };
  await expectWholeTransfer(capture, ["t1", "t2"], ["traced-host", "traced-host"]);
});

it("between two hosts it still is one trace, and one that nobody samples leaves no span", async () => {
  // Given a second host, and a wallet on each
  const second = await startCoffer({ ...hostEnv, HOST_ID: "second-host" });
  onTestFinished(async () => void (await second.stop()));
  const hosts = ["traced-host", "second-host"];
  const its = ALL_SHARDS.filter((shard) => placeOf(shard, hosts) === "second-host").length;
  await until("the second host serves its share", async () => {
    const cluster = (await (await fetch(`${gateway.baseUrl}/cluster`)).json()) as ClusterBody;
    const { served, owned } = cluster.hosts.find(({ hostId }) => hostId === "second-host") ?? {};
    return served?.count === its && owned?.count === its;
  });
  const walletOn = async (hostId: string): Promise<string> => {
    let number = 0;
    let walletId: string;
    do walletId = `w-${number++}`;
    while (placeOf(shardOf(walletId), hosts) !== hostId);
    expect((await post("/wallets", { walletId, initialBalance: 9 })).status).toBe(201);
    return walletId;
  };
  const payer = await walletOn("second-host");
  const payee = await walletOn("traced-host");

  // When somebody does not sample, and somebody does
  const path = `/wallets/${payer}/transfer`;
  const json = { toWalletId: payee, amount: 1 };
  const silent = newCaller("00");
  const quietly = await post(path, json, { traceparent: silent.traceparent });
  expect(quietly.status).toBe(200);
  const transfer = { path, json, name: "transfer" };
  await expectWholeTransfer(transfer, [payer, payee], ["second-host", "traced-host"]);

  // Then
  expect(collector.spans.filter(({ traceId }) => traceId === silent.traceId)).toEqual([]);
});

it("a caller who does not sample gets an answer and leaves no span; nonsense begins a new trace", async () => {
  // When
  const silent = newCaller("00");
  const loud = newCaller();
  for (const { traceparent } of [silent, loud]) {
    expect((await post("/wallets/t1/credit", { amount: 1 }, { traceparent })).status).toBe(200);
  }
  const nonsense = { traceparent: `00-${"0".repeat(32)}-${"1".repeat(16)}-01` };
  expect((await post("/wallets/t1/credit", { amount: 1 }, nonsense)).status).toBe(200);

  // Then, when the later one is all there
  await spansOf(loud.traceId, ["command credit", ...LANE]);
  expect(collector.spans.filter(({ traceId }) => traceId === silent.traceId)).toEqual([]);
  expect(collector.spans.filter(({ traceId }) => /^0+$/.test(traceId))).toEqual([]);
  // And neither health nor metrics are ever told of.
  expect(collector.spans.filter(({ name }) => /health|metrics/.test(name))).toEqual([]);
});

const SLOW = { timeout: 90_000 };

it(
  "the last spans are exported when a process ends, and a collector that is away harms nobody",
  SLOW,
  async () => {
    // Given a process whose collector is there until it is not
    const own = await startCollector();
    const name = "traces_all";
    const ownUrl = await createDatabase(inject("postgresUrl"), name);
    onTestFinished(() => dropDatabase(inject("postgresUrl"), name));
    const env = { DATABASE_URL: ownUrl, LOG_LEVEL: "warn", OTEL_EXPORTER_OTLP_ENDPOINT: own.url };
    const coffer = await startCoffer(env);
    onTestFinished(async () => void (await coffer.kill()));
    await coffer.untilReady();

    // When it ends right after its last command
    const caller = newCaller();
    const { traceparent } = caller;
    expect((await post("/wallets", { walletId: "x" }, { traceparent }, coffer)).status).toBe(201);
    expect(await coffer.stop()).toEqual({ code: 0, signal: null });

    // Then its spans are there
    const names = own.spans
      .filter(({ traceId }) => traceId === caller.traceId)
      .map((it) => it.name);
    expect(names.toSorted()).toEqual(
      ["POST /wallets", "command create", "commit", "group commit", "mailbox"].toSorted(),
    );

    // And without a collector the next one serves, and ends in time
    await own.stop();
    const next = await startCoffer(env);
    onTestFinished(async () => void (await next.kill()));
    await next.untilReady();
    expect((await post("/wallets/x/credit", { amount: 1 }, {}, next)).status).toBe(200);
    const startedAtMs = performance.now();
    expect(await next.stop()).toEqual({ code: 0, signal: null });
    expect(performance.now() - startedAtMs).toBeLessThan(LIMITS.spansFlushMs + 5_000);
  },
);

it("log lines are JSON, name their process, and have no password in any of them", async () => {
  // Given addresses with passwords that lead nowhere
  const secret = "hush-hush";
  const env = {
    ROLE: "gateway",
    DATABASE_URL: `postgres://coffer:${secret}@127.0.0.1:1/coffer?password=${secret}`,
    NATS_URL: `nats://user:${secret}@127.0.0.1:1,nats://${secret}@127.0.0.1:2`,
    REDIS_URL: `redis://:${secret}@127.0.0.1:1`,
    RATE_LIMIT_PER_SECOND: "1000",
    LOG_LEVEL: "trace",
    HOST_ID: "discreet",
  };
  const coffer = await startCoffer(env);
  onTestFinished(async () => void (await coffer.kill()));

  // When it is asked, and cannot answer
  const headers = { "x-correlation-id": "who-asked" };
  expect((await fetch(`${coffer.baseUrl}/wallets/w`, { headers })).status).toBe(503);
  await coffer.untilReady(503);
  await until("the request is logged", () => coffer.output.includes("who-asked"));
  expect(await coffer.stop()).toEqual({ code: 0, signal: null });

  // Then
  expect(coffer.output).not.toContain(secret);
  const lines = coffer.output.split("\n").filter((line) => line.startsWith("{"));
  expect(lines.length).toBeGreaterThan(3);
  for (const line of lines) expect(JSON.parse(line)).toMatchObject({ hostId: "discreet" });
  expect(lines.join("\n")).toMatch(/"status":503,"correlationId":"who-asked"/);
});
