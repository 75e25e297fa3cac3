/**
 * `GET /metrics` as Prometheus meets it, on real processes: what was sent is counted exactly,
 * gauges move with what they tell of, and the page for operators, the dashboard and what is really
 * there know each other.
 */
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { connect as connectNats } from "nats";
import { afterAll, beforeAll, expect, inject, it, onTestFinished } from "vitest";
import { WebSocket } from "ws";
import { migrateUp } from "../src/postgres/migrate.ts";
import { packageRoot } from "../src/package-root.ts";
import { startCoffer, type CofferProcess } from "./stage/process.ts";
import { scrape, type Scrape } from "./stage/prometheus-text.ts";
import {
  createDatabase,
  dropDatabase,
  startNats,
  startRedis,
  type TestServer,
} from "./stage/servers.ts";
import { until } from "./stage/stack.ts";

let servers: { readonly nats: TestServer; readonly redis: TestServer };
let all: CofferProcess;
let host: CofferProcess;
let gateway: CofferProcess;

beforeAll(async () => {
  // Of its own: other tests' clusters are on the shared ones.
  const [nats, redis] = await Promise.all([startNats(), startRedis()]);
  servers = { nats, redis };
  const urls = await Promise.all(
    ["metrics_all", "metrics_cluster"].map((name) => createDatabase(inject("postgresUrl"), name)),
  );
  const [ownUrl = "", clusterUrl = ""] = urls;
  await migrateUp(clusterUrl, { log: () => undefined });
  const cluster = { DATABASE_URL: clusterUrl, NATS_URL: nats.url, LOG_LEVEL: "warn" };
  all = await startCoffer({ DATABASE_URL: ownUrl, LANES: "2", LOG_LEVEL: "warn" });
  const shared = { ...cluster, REDIS_URL: redis.url };
  host = await startCoffer({ ...shared, ROLE: "host", HOST_ID: "metrics-host" });
  const limit = { REDIS_URL: redis.url, RATE_LIMIT_PER_SECOND: "1000000" };
  gateway = await startCoffer({ ...cluster, ...limit, ROLE: "gateway", HOST_ID: "metrics-gate" });
  await Promise.all([all, host, gateway].map((each) => each.untilReady()));
});

afterAll(async () => {
  await Promise.all([all, host, gateway].map((each) => each?.kill()));
  for (const name of ["metrics_all", "metrics_cluster"]) {
    await dropDatabase(inject("postgresUrl"), name);
  }
  await Promise.all([servers?.nats.stop(), servers?.redis.stop()]);
});

async function send(to: CofferProcess, path: string, json: unknown, key?: string): Promise<number> {
  const answer = await fetch(`${to.baseUrl}${path}`, {
    method: "POST",
    headers: {
      "content-type": "application/json",
      ...(key !== undefined && { "idempotency-key": key }),
    },
    body: typeof json === "string" ? json : JSON.stringify(json),
  });
  await answer.text();
  return answer.status;
}

const CREDIT = { method: "POST", route: "/wallets/:walletId/credit" };
const http = "coffer_http_request_duration_seconds";

it("counts what was sent, exactly: by type and outcome, code, route and stage", async () => {
  // Given a process that has done nothing
  const before = await scrape(all.baseUrl);
  expect(before.sum("coffer_commands_total")).toBe(0);
  expect(before.sum("coffer_errors_total")).toBe(0);

  // When it carries out what it can, and refuses the rest
  expect(await send(all, "/wallets", { walletId: "m1" })).toBe(201);
  const credits = Array.from({ length: 25 }, () => send(all, "/wallets/m1/credit", { amount: 2 }));
  expect(new Set(await Promise.all(credits))).toEqual(new Set([200]));
  const made = 26;
  const keyed = (): Promise<number> => send(all, "/wallets/m1/debit", { amount: 1 }, "key-1");
  expect([await keyed(), await keyed(), await keyed()]).toEqual([200, 200, 200]);
  for (let time = 0; time < 2; time++) {
    expect(await send(all, "/wallets/m1/debit", { amount: 1_000 })).toBe(400);
  }
  expect(await send(all, "/wallets/nobody/credit", { amount: 1 })).toBe(404);
  expect(await send(all, "/wallets/m1/credit", { amuont: 1 })).toBe(422);
  expect(await send(all, "/wallets/m1/credit", "{")).toBe(400);
  expect((await fetch(`${all.baseUrl}/nowhere`)).status).toBe(404);
  expect((await fetch(`${all.baseUrl}/nowhere-else`)).status).toBe(404);
  expect((await fetch(`${all.baseUrl}/wallets/m1`)).status).toBe(200);

  // Then commands are counted by what became of them; what was refused at the door is none
  let after = before;
  await until("the lanes have told what they measured", async () => {
    after = await scrape(all.baseUrl);
    const areCommitted = after.value("coffer_commit_events_sum") >= made + 1;
    return areCommitted && after.value("coffer_wallets_recovered_total") >= 2;
  });
  const commands = (type: string, outcome: string): number =>
    after.value("coffer_commands_total", { type, outcome });
  expect(commands("create", "done")).toBe(1);
  expect(commands("credit", "done")).toBe(25);
  expect(commands("credit", "rejected")).toBe(1);
  expect(commands("debit", "done")).toBe(1);
  expect(commands("debit", "replayed")).toBe(2);
  expect(commands("debit", "rejected")).toBe(2);
  expect(after.sum("coffer_commands_total")).toBe(32);

  // And errors by their code
  const codes = {
    insufficient_funds: 2,
    wallet_not_found: 1,
    validation_failed: 1,
    invalid_json: 1,
    not_found: 2,
  };
  const counted = Object.keys(codes).map((code) => [
    code,
    after.value("coffer_errors_total", { code }),
  ]);
  expect(Object.fromEntries(counted)).toEqual(codes);
  expect(after.sum("coffer_errors_total")).toBe(7);

  // And requests by route and status; strangers' paths are one route
  expect(after.value(`${http}_count`, { ...CREDIT, status: "200" })).toBe(25);
  expect(after.value(`${http}_count`, { ...CREDIT, status: "404" })).toBe(1);
  expect(after.value(`${http}_count`, { ...CREDIT, status: "422" })).toBe(1);
  expect(after.value(`${http}_count`, { ...CREDIT, status: "400" })).toBe(1);
  expect(after.value(`${http}_count`, { method: "GET", route: "none", status: "404" })).toBe(2);
  const read = { method: "GET", route: "/wallets/:walletId", status: "200" };
  expect(after.value(`${http}_count`, read)).toBe(1);

  // And the stages: each command once, each event once, each stage within the one around it
  expect(after.value("coffer_command_duration_seconds_count", { type: "credit" })).toBe(26);
  expect(after.value("coffer_commit_events_sum")).toBe(made + 1);
  const commits = after.sum("coffer_commit_duration_seconds_count", { result: "committed" });
  expect(after.value("coffer_commit_events_count")).toBe(commits);
  const waited = after.value("coffer_mailbox_wait_seconds_count");
  expect(waited).toBeGreaterThanOrEqual(made + 1);
  // Two rejections of a wallet that is there are recorded; one of a wallet that is not may be.
  expect(waited).toBeLessThanOrEqual(made + 1 + 3);
  const waitSeconds = after.value("coffer_mailbox_wait_seconds_sum");
  expect(waitSeconds).toBeGreaterThan(0);
  expect(waitSeconds).toBeLessThan(after.sum("coffer_command_duration_seconds_sum"));
  expect(after.sum("coffer_command_duration_seconds_sum")).toBeLessThan(after.sum(`${http}_sum`));
  expect(
    after.value("coffer_commit_duration_seconds_sum", { result: "committed" }),
  ).toBeGreaterThan(0);
  // Both wallets, and again what a repeat made the lane look up.
  expect(after.value("coffer_wallets_recovered_total")).toBeGreaterThanOrEqual(2);
  expect(after.value("coffer_recovery_duration_seconds_count")).toBeGreaterThanOrEqual(2);
});

it("histograms add up as Prometheus expects", async () => {
  const found = await scrape(all.baseUrl);
  const histograms = [...found.types].filter(([, type]) => type === "histogram");
  expect(histograms.length).toBeGreaterThan(5);
  const buckets = found.buckets(http, { ...CREDIT, status: "200" });
  expect(buckets.length).toBeGreaterThan(10);
  const bounds = buckets.map(([bound]) => bound);
  const counts = buckets.map(([, count]) => count);
  expect(bounds).toEqual(bounds.toSorted((a, b) => a - b));
  expect(counts).toEqual(counts.toSorted((a, b) => a - b));
  expect(bounds.at(-1)).toBe(Infinity);
  expect(counts.at(-1)).toBe(found.value(`${http}_count`, { ...CREDIT, status: "200" }));
});

it("gauges move with what they tell of", async () => {
  // Given
  const read = (): Promise<Scrape> => scrape(all.baseUrl);
  expect(await read().then((it) => it.sum("coffer_feed_clients"))).toBe(0);
  expect(await read().then((it) => it.value("coffer_host_shards"))).toBe(256);
  expect(await read().then((it) => it.sum("coffer_lane_serving"))).toBe(2);

  // When somebody watches two wallets, one of which is used
  const socket = new WebSocket(`${all.baseUrl.replace("http", "ws")}/ws`);
  onTestFinished(() => socket.terminate());
  await new Promise((resolve) => socket.once("open", resolve));
  await send(all, "/wallets", { walletId: "m2" });
  socket.send(JSON.stringify({ type: "subscribe", wallets: ["m1", "m2"] }));

  // Then it shows
  await until("two wallets are watched", async () => {
    const found = await read();
    return (
      found.value("coffer_feed_clients") === 1 && found.value("coffer_feed_watched_wallets") === 2
    );
  });
  await until("its actor is there", async () => (await read()).sum("coffer_lane_actors") >= 1);
  await until("the probe has been to the bus", async () => {
    return (await read()).value("coffer_bus_round_trip_seconds_count") >= 1;
  });
  socket.close();
  await until("nobody watches", async () => {
    const found = await read();
    return found.value("coffer_feed_clients") === 0 && found.value("coffer_feed_watches") === 0;
  });

  // And an upgrade is no request that took as long as its connection
  const upgrades = (await read()).sum(`${http}_sum`, { route: "/ws" });
  expect(upgrades).toBeLessThan(0.5);
});

it("a host has its own part, and so has a gateway, also of the NATS service", async () => {
  // When
  expect(await send(gateway, "/wallets", { walletId: "c1", initialBalance: 5 })).toBe(201);
  const nats = await connectNats({ servers: servers.nats.url });
  onTestFinished(() => nats.close());
  const ask = async (name: string, body: object): Promise<string> =>
    (await nats.request(`wallets.v1.${name}`, JSON.stringify(body), { timeout: 10_000 })).string();
  const answers = await Promise.all([
    ...Array.from({ length: 4 }, () => ask("credit", { walletId: "c1", amount: 1 })),
    ask("debit", { walletId: "c1", amount: 100 }),
  ]);
  expect(answers.filter((text) => text.includes('"ok":true'))).toHaveLength(4);

  // Then
  const atGateway = await scrape(gateway.baseUrl);
  const endpoint = (name: string, status: string): number =>
    atGateway.value("coffer_nats_request_duration_seconds_count", { endpoint: name, status });
  expect([endpoint("credit", "200"), endpoint("debit", "400")]).toEqual([4, 1]);
  expect(atGateway.value("coffer_errors_total", { code: "insufficient_funds" })).toBe(1);
  expect(atGateway.value("coffer_commands_total", { type: "credit", outcome: "done" })).toBe(4);
  expect(atGateway.value("coffer_rate_limit_local")).toBe(0);
  expect(atGateway.value("coffer_bus_published_total")).toBeGreaterThan(0);
  await until("the host's lane has told", async () => {
    const atHost = await scrape(host.baseUrl);
    return atHost.value("coffer_commit_events_sum") === 6;
  });
  const atHost = await scrape(host.baseUrl);
  expect(atHost.value("coffer_host_ready")).toBe(1);
  expect(atHost.value("coffer_shards_moved_total", { type: "taken" })).toBe(256);
  expect(atHost.value("coffer_build_info", { role: "host", version: packageVersion() })).toBe(1);
  expect(atHost.has("coffer_commands_total")).toBe(false);
});

function packageVersion(): string {
  return (JSON.parse(readFileSync(join(packageRoot, "package.json"), "utf8")) as Version).version;
}

interface Version {
  readonly version: string;
}

interface Dashboard {
  readonly uid: string;
  readonly panels: ReadonlyArray<{
    readonly id: number;
    readonly type: string;
    readonly title: string;
    readonly description?: string;
    readonly gridPos: { readonly x: number; readonly w: number };
    readonly targets?: ReadonlyArray<{ readonly expr: string; readonly refId: string }>;
  }>;
}

/** Metric names in a text, without what histograms add to them. */
function namesIn(text: string, known: ReadonlySet<string>): Set<string> {
  const names = text.match(/\bcoffer_[a-z0-9_]+/g) ?? [];
  return new Set(
    names.map((name) => {
      const base = name.replace(/_(bucket|sum|count)$/, "");
      return !known.has(name) && known.has(base) ? base : name;
    }),
  );
}

it("a webhook that is disabled shows, though it has no lag any more", async () => {
  // Given a receiver that wants no more
  const receiver = createServer((_, response) => void response.writeHead(410).end());
  await new Promise<void>((listening) => receiver.listen(0, "127.0.0.1", listening));
  onTestFinished(() => void receiver.close());
  const { port } = receiver.address() as AddressInfo;
  const made = await fetch(`${all.baseUrl}/webhooks`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ url: `http://127.0.0.1:${port}/`, from: new Date(0).toISOString() }),
  });
  expect(made.status).toBe(201);
  const { id } = (await made.json()) as { id: string };

  // When it gets an event
  await send(all, "/wallets", { walletId: "metrics-hooked", initialBalance: 1 });

  // Then it is counted, until it is removed
  const disabled = async (): Promise<number> =>
    (await scrape(all.baseUrl)).value("coffer_webhooks_disabled");
  await until("it is counted", async () => (await disabled()) === 1);
  await fetch(`${all.baseUrl}/webhooks/${id}`, { method: "DELETE" });
  await until("it is counted no more", async () => (await disabled()) === 0);
});

it("docs/operations.md, the dashboard and the alerts know every metric, and none that is not there", async () => {
  // Given all that gateways and hosts show
  const scrapes = await Promise.all([all, host, gateway].map((each) => scrape(each.baseUrl)));
  const live = new Set(scrapes.flatMap(({ types }) => [...types.keys()]));
  expect([...live].filter((name) => !name.startsWith("coffer_"))).toEqual([]);

  // Then the page lists each
  const page = readFileSync(join(packageRoot, "docs", "operations.md"), "utf8");
  expect([...live].filter((name) => !namesIn(page, live).has(name))).toEqual([]);
  expect([...namesIn(page, live)].filter((name) => !live.has(name))).toEqual([]);

  // And the dashboard shows all that are Coffer's own
  const text = readFileSync(join(packageRoot, "docs", "grafana", "coffer.json"), "utf8");
  const { uid, panels } = JSON.parse(text) as Dashboard;
  const exprs = panels.flatMap(({ targets = [] }) => targets.map(({ expr }) => expr)).join("\n");
  const shown = namesIn(exprs, live);
  expect([...shown].filter((name) => !live.has(name))).toEqual([]);
  const own = [...live].filter((name) => !/^coffer_(process|nodejs)_/.test(name));
  expect(own.filter((name) => !shown.has(name))).toEqual([]);

  // And alerts ask only for what is there, or what Prometheus adds
  const alerts = readFileSync(join(packageRoot, "docs", "grafana", "alerts.yml"), "utf8");
  const asked = namesIn(alerts, live);
  expect(asked.size).toBeGreaterThan(5);
  expect([...asked].filter((name) => !live.has(name))).toEqual([]);

  // And no gauge bears a counter's name, nor the other way round
  const types = new Map(scrapes.flatMap((each) => [...each.types]));
  const misnamed = [...types].filter(
    ([name, type]) => name.endsWith("_total") !== (type === "counter"),
  );
  expect(misnamed).toEqual([]);

  // And it is one that Grafana takes: ids of panels and letters of queries are theirs alone, and
  // panels fit the grid
  expect(uid).toBe("coffer");
  expect(new Set(panels.map(({ id }) => id)).size).toBe(panels.length);
  const unfit = panels.filter(({ type, description = "", gridPos, targets = [] }) => {
    const isFitting =
      gridPos.x + gridPos.w <= 24 &&
      new Set(targets.map(({ refId }) => refId)).size === targets.length &&
      targets.every(({ expr }) => isBalanced(expr));
    const saysAndShows = type === "row" || (targets.length > 0 && /\w/.test(description));
    return !isFitting || !saysAndShows;
  });
  expect(unfit).toEqual([]);
});

/** Whether brackets of all kinds close in order; PromQL's own parser is not at hand. */
function isBalanced(expr: string): boolean {
  const open: string[] = [];
  for (const sign of expr.replaceAll(/"[^"]*"/g, "")) {
    if ("([{".includes(sign)) open.push(sign);
    const partner = { ")": "(", "]": "[", "}": "{" }[sign];
    if (partner !== undefined && open.pop() !== partner) return false;
  }
  return open.length === 0;
}
