/**
 * The real stack in the test's own process: bus, host with its lanes as threads, command desk, read
 * model, feed and gateway on a fresh, migrated database, wired as in `src/main-gateway.ts` and
 * taken down in the same order. Nothing is replaced; a test speaks to it over HTTP, WebSocket or
 * NATS, and may reach for its parts to break them. Several stacks may share a database and a NATS
 * server: one with a host, others as further gateways. What the stack logs as an error is kept, so
 * that a test can say there was nothing.
 */
import { Agent, request, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";

import type { FastifyInstance } from "fastify";
import pg from "pg";
import { pino, type Logger } from "pino";
import { uuidv7 } from "uuidv7";
import { inject } from "vitest";

import { buildHost, type Host, type HostDeps } from "../actors/host.ts";
import { buildPiscinaLanes, type PiscinaLanes } from "../actors/piscina-lanes.ts";
import { buildAnswers } from "../gateway/answers.ts";
import { buildBatches } from "../gateway/batch.ts";
import { buildCommandIntake } from "../gateway/command-intake.ts";
import { buildCommandDesk, type CommandDesk } from "../gateway/commands.ts";
import { buildFeedHub, type FeedHub } from "../gateway/feed.ts";
import { buildGateway } from "../gateway/http.ts";
import { buildWalletService } from "../gateway/nats-service.ts";
import type { EventBody, TransactionBody, TransferBody, WalletBody } from "../gateway/schemas.ts";
import { buildFeedSocket } from "../gateway/websocket.ts";
import type { Bus } from "../src/bus.ts";
import { buildMemoryBus } from "../src/memory-bus.ts";
import { buildNatsBus, type NatsBus } from "../src/nats-bus.ts";
import { systemTime } from "../src/clock.ts";
import { buildPostgresAssets } from "../src/postgres-assets.ts";
import { buildPostgresShardTable } from "../src/postgres-shard-table.ts";
import { buildPostgresReadModel } from "../src/postgres-read-model.ts";
import { buildPostgresWebhooks } from "../src/postgres-webhooks.ts";
import { createMigratedDatabase } from "./migrated-database.ts";
import { dropDatabase } from "./servers.ts";

export interface StackOptions {
  /** The bus is NATS; without it, in-process. */
  readonly natsUrl?: string;
  /** A gateway beside the host of another stack, whose database and NATS it shares. */
  readonly besides?: Stack;
  /** Lanes of the host; two, so that wallets meet across threads. */
  readonly laneCount?: number;
  /** Called before any route is there, so that it may add hooks. */
  readonly prepare?: (app: FastifyInstance) => void;
}

export interface Stack {
  /** `http://127.0.0.1:port` */
  readonly url: string;
  readonly port: number;
  readonly databaseUrl: string;
  readonly natsUrl: string | undefined;
  readonly app: FastifyInstance;
  readonly bus: Bus;
  readonly host: Host | null;
  readonly hub: FeedHub;
  readonly commands: CommandDesk;
  /** Messages that were logged as errors or worse. */
  readonly errors: string[];
  /** One request over HTTP, its path sent as it is. */
  ask<Body = AnyBody>(method: string, path: string, options?: AskOptions): Promise<Reply<Body>>;
  post<Body = AnyBody>(path: string, json: unknown, key?: string): Promise<Reply<Body>>;
  get<Body = AnyBody>(path: string): Promise<Reply<Body>>;
  /** Makes a wallet under a new id. */
  open(fields?: Record<string, unknown>): Promise<WalletBody>;
  wallet(walletId: string): Promise<WalletBody>;
  /** SQL on the stack's database, over a connection of its own. */
  sql<Row extends pg.QueryResultRow>(text: string, values?: unknown[]): Promise<Row[]>;
  /** Ends every lane's thread, as a crash would. Others come by themselves. */
  crashLanes(): Promise<void>;
  close(): Promise<void>;
}

export interface AskOptions {
  /** Sent as JSON. */
  readonly json?: unknown;
  /** Sent as it is; with the type `application/json` unless the headers name another one. */
  readonly text?: string;
  readonly key?: string;
  readonly headers?: Record<string, string>;
}

export interface Reply<Body> {
  readonly status: number;
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  /** The body as JSON; undefined when it is not JSON. */
  readonly body: Body;
}

export interface FieldDetail {
  readonly field: string;
  readonly message: string;
}

/** What any route may answer with; a test looks at the fields it expects. */
export interface AnyBody extends WalletBody {
  readonly statusCode: number;
  readonly code: string;
  readonly message: string;
  readonly path: string;
  readonly timestamp: string;
  readonly correlationId: string;
  readonly details: readonly FieldDetail[] & { readonly [key: string]: unknown };
  readonly transferId: string;
  readonly fromWallet: WalletBody;
  readonly toWallet: WalletBody;
  readonly sender: WalletBody;
  readonly receiver: WalletBody;
  readonly auditTrail: EventBody[];
  readonly transactions: TransactionBody[];
}

export type { EventBody, TransactionBody, TransferBody, WalletBody };

/** An answer is late after this long: past every deadline of a command and of a reader. */
const ANSWER_MS_MAX = 15_000;
const READY_MS_MAX = 15_000;

let lastNumber = 0;

/**
 * Before each file: its wallets live in the same shards whatever has run before it in the process.
 */
export function restartNumbers(): void {
  lastNumber = 0;
}

/** Different in every call, in every process. */
export function unique(prefix: string): string {
  lastNumber += 1;
  return `${prefix}-${process.pid}-${lastNumber}`;
}

/** A log that keeps the messages of errors, and nothing else. */
function keepErrors(errors: string[]): Logger {
  const sink = new Writable({
    write(chunk: Buffer, _encoding, done) {
      for (const line of chunk.toString().split("\n").filter(Boolean)) {
        const { msg, err } = JSON.parse(line) as { msg: string; err?: { message: string } };
        errors.push(err === undefined ? msg : `${msg}: ${err.message}`);
      }
      done();
    },
  });
  return pino({ level: "error", base: null }, sink);
}

export interface TestHost {
  readonly host: Host;
  readonly lanes: PiscinaLanes;
  close(): Promise<void>;
}

/** A host that is alone on its database, not started yet. */
export function buildTestHost(
  options: Pick<HostDeps, "bus" | "laneCount" | "log" | "onFatal"> & { databaseUrl: string },
): TestHost {
  const { databaseUrl, ...deps } = options;
  const lanes = buildPiscinaLanes([databaseUrl], true);
  const shardTable = buildPostgresShardTable([databaseUrl]);
  const host = buildHost({
    ...deps,
    shardTable,
    membership: null,
    startLane: lanes.start,
    databases: 1,
    hostId: "test",
    owner: unique("test"),
    time: systemTime,
  });
  return {
    host,
    lanes,
    async close() {
      await host.drain();
      await shardTable.close();
    },
  };
}

async function startHost(
  bus: Bus,
  databaseUrl: string,
  laneCount: number,
  log: Logger,
  closing: Closing,
): Promise<TestHost> {
  const onFatal = (reason: string): void => log.fatal(reason);
  const running = buildTestHost({ bus, databaseUrl, laneCount, log, onFatal });
  closing.push(() => running.close());
  await running.host.start();
  await until("the lanes serve", () => running.host.status().ready);
  return running;
}

/** Waits for a condition, looking again every few milliseconds; fails by name. */
export async function until(
  what: string,
  holds: () => boolean | Promise<boolean>,
  timeoutMs = READY_MS_MAX,
): Promise<void> {
  const deadlineMs = performance.now() + timeoutMs;
  while (!(await holds())) {
    if (performance.now() > deadlineMs) throw new Error(`not within ${timeoutMs} ms: ${what}`);
    await sleep(10);
  }
}

type Closing = Array<() => Promise<unknown>>;

async function openDatabase(besides: Stack | undefined, closing: Closing): Promise<string> {
  if (besides !== undefined) return besides.databaseUrl;
  const name = unique("stack").replaceAll("-", "_");
  const databaseUrl = await createMigratedDatabase(name);
  closing.push(() => dropDatabase(inject("postgresUrl"), name));
  return databaseUrl;
}

/** Starts the stack; it serves when this returns. */
export async function startStack(options: StackOptions = {}): Promise<Stack> {
  const closing: Closing = [];
  try {
    return await start(options, closing);
  } catch (error) {
    await closeAll(closing);
    throw error;
  }
}

async function closeAll(closing: Closing): Promise<void> {
  for (const close of closing.splice(0).toReversed()) await close();
}

async function start(options: StackOptions, closing: Closing): Promise<Stack> {
  const { besides, laneCount = 2 } = options;
  const natsUrl = options.natsUrl ?? besides?.natsUrl;
  const errors: string[] = [];
  const log = keepErrors(errors);
  const databaseUrl = await openDatabase(besides, closing);
  const natsBus = natsUrl === undefined ? null : buildNatsBus({ url: natsUrl, name: "test", log });
  const bus = natsBus ?? buildMemoryBus();
  closing.push(() => bus.drain());
  await natsBus?.connection;
  const running =
    besides === undefined ? await startHost(bus, databaseUrl, laneCount, log, closing) : null;
  const host = running?.host ?? null;
  const gateway = await startGateway({ options, databaseUrl, bus, natsBus, host, log, closing });
  const { port } = gateway.app.server.address() as AddressInfo;
  const url = `http://127.0.0.1:${port}`;
  const pool = new pg.Pool({ connectionString: databaseUrl, max: 2 });
  const agent = new Agent({ keepAlive: true, maxSockets: 256 });
  closing.push(
    () => pool.end(),
    async () => agent.destroy(),
  );
  const ask: Stack["ask"] = (method, path, options = {}) =>
    send(port, agent, method, path, options);
  let closed: Promise<void> | undefined;
  return {
    url,
    port,
    databaseUrl,
    natsUrl,
    bus,
    host,
    ...gateway,
    errors,
    ask,
    post: (path, json, key) => ask("POST", path, { json, ...(key !== undefined && { key }) }),
    get: (path) => ask("GET", path),
    async open(fields = {}) {
      const { status, body, text } = await ask<WalletBody>("POST", "/wallets", {
        json: { walletId: unique("w"), ...fields },
      });
      if (status !== 201) throw new Error(`no wallet was made: ${text}`);
      return body;
    },
    async wallet(walletId) {
      const { status, body, text } = await ask<WalletBody>("GET", `/wallets/${walletId}`);
      if (status !== 200) throw new Error(`wallet ${walletId} cannot be read: ${text}`);
      return body;
    },
    async sql<Row extends pg.QueryResultRow>(text: string, values: unknown[] = []) {
      return (await pool.query<Row>(text, values)).rows;
    },
    async crashLanes() {
      await Promise.all(running!.lanes.pools.map(({ threads }) => threads[0]!.terminate()));
    },
    close() {
      closed ??= closeAll(closing);
      return closed;
    },
  };
}

interface GatewayParts {
  readonly options: StackOptions;
  readonly databaseUrl: string;
  readonly bus: Bus;
  readonly natsBus: NatsBus | null;
  readonly host: Host | null;
  readonly log: Logger;
  readonly closing: Closing;
}

async function startGateway(parts: GatewayParts): Promise<Pick<Stack, "app" | "hub" | "commands">> {
  const { databaseUrl, bus, natsBus, host, log, closing } = parts;
  const version = "1.2.3";
  const readModel = buildPostgresReadModel({ databaseUrls: [databaseUrl], log });
  closing.push(() => readModel.close());
  const assets = buildPostgresAssets({ databaseUrls: [databaseUrl], log });
  closing.push(() => assets.close());
  const webhooks = buildPostgresWebhooks([databaseUrl]);
  closing.push(() => webhooks.close());
  const commands = buildCommandDesk({ bus, gatewayId: `test-${uuidv7()}`, log });
  closing.push(() => commands.drain());
  const hub = buildFeedHub({
    bus,
    readModel,
    clock: { nowMs: () => performance.now() },
    timers: {
      after(delayMs, task) {
        const timer = setTimeout(task, delayMs);
        return () => clearTimeout(timer);
      },
    },
    log,
  });
  const probe = async (): Promise<number> => {
    if (!host!.status().ready) throw new Error("the lanes do not serve now");
    return 0;
  };
  const takeIn = buildCommandIntake((code) => assets.assetOf(code));
  const answer = buildAnswers({ readModel, log });
  const batches = buildBatches({ commands, takeIn, answer, log });
  const app = buildGateway({
    commands,
    readModel,
    bus,
    assets,
    batches,
    webhooks: { store: webhooks, allowsPrivate: true },
    version,
    log,
    probes: host === null ? [] : [{ name: "host", isNeededForCommands: true, probe }],
    ...(natsBus !== null && { busStats: () => natsBus.stats() }),
  });
  parts.options.prepare?.(app);
  await app.register(buildFeedSocket({ hub }));
  closing.push(
    () => batches.drain(),
    () => app.close(),
    () => hub.drain(),
  );
  if (natsBus !== null) {
    const service = await buildWalletService({
      connection: await natsBus.connection,
      commands,
      readModel,
      takeIn,
      answer,
      batches,
      version,
      log,
    });
    closing.push(() => service.stop());
  }
  closing.push(async () => void batches.drain());
  await app.listen({ port: 0, host: "127.0.0.1" });
  return { app, hub, commands };
}

function send<Body>(
  port: number,
  agent: Agent,
  method: string,
  path: string,
  { json, text, key, headers = {} }: AskOptions,
): Promise<Reply<Body>> {
  const payload = text ?? (json === undefined ? undefined : JSON.stringify(json));
  return new Promise((resolve, reject) => {
    const asked = request(
      {
        host: "127.0.0.1",
        port,
        agent,
        method,
        path,
        timeout: ANSWER_MS_MAX,
        headers: {
          ...(payload !== undefined && {
            "content-type": "application/json",
            "content-length": Buffer.byteLength(payload),
          }),
          ...(key !== undefined && { "idempotency-key": key }),
          ...headers,
        },
      },
      (response) => {
        const chunks: Buffer[] = [];
        response.on("data", (chunk: Buffer) => chunks.push(chunk));
        response.once("error", reject);
        response.once("end", () => {
          const { statusCode = 0, headers: given } = response;
          const answer = Buffer.concat(chunks).toString();
          const isJson = given["content-type"]?.startsWith("application/json") === true;
          const body = (isJson && answer !== "" ? JSON.parse(answer) : undefined) as Body;
          resolve({ status: statusCode, headers: given, text: answer, body });
        });
      },
    );
    asked.once("error", reject);
    asked.once("timeout", () => {
      asked.destroy(new Error(`${method} ${path}: no answer within ${ANSWER_MS_MAX} ms`));
    });
    asked.end(payload);
  });
}

// --- The writing routes --------------------------------------------------------------------------

/**
 * The wallets that a write is about: `from` has money, `to` can take it, `empty` has none and may
 * be closed.
 */
export interface Stake {
  readonly from: string;
  readonly to: string;
  readonly empty: string;
}

export async function openStake(stack: Stack): Promise<Stake> {
  const [from, to, empty] = await Promise.all([
    stack.open({ initialBalance: 1_000 }),
    stack.open(),
    stack.open(),
  ]);
  return { from: from.id, to: to.id, empty: empty.id };
}

export interface WriteRoute {
  readonly name: string;
  readonly method: "POST" | "PATCH";
  path(stake: Stake): string;
  /** The wallet that decides. */
  target(stake: Stake): string;
  /** A body that fits. */
  body(stake: Stake): Record<string, unknown>;
  /** Another input for the same key. */
  other(stake: Stake): Record<string, unknown>;
  /** Its field for money, if it has one. */
  readonly amount: "amount" | "initialBalance" | null;
  /** Its fields for ids. */
  readonly ids: readonly string[];
  /**
   * Fields without which it cannot be; they are no part of `everyCommand`, or are more than that
   * here.
   */
  readonly required: readonly string[];
  readonly status: 200 | 201;
}

const amountBody = () => ({ amount: 10, description: "ten" });
const otherAmount = () => ({ amount: 11, description: "ten" });

/** A route of the wallet `from` with an amount. */
const amountRoute = (name: string): WriteRoute => ({
  name,
  method: "POST",
  path: ({ from }) => `/wallets/${from}/${name}`,
  target: ({ from }) => from,
  body: amountBody,
  other: otherAmount,
  amount: "amount",
  ids: [],
  required: ["amount"],
  status: 200,
});
const statusRoute = (name: string): WriteRoute => ({
  ...amountRoute(name),
  path: ({ empty }) => `/wallets/${empty}/${name}`,
  target: ({ empty }) => empty,
  body: () => ({ description: "a reason" }),
  other: () => ({ description: "another reason" }),
  amount: null,
  required: [],
});

/** Every route that writes. */
export const WRITES: readonly WriteRoute[] = [
  {
    ...amountRoute("create"),
    path: () => "/wallets",
    target: ({ to }) => `${to}-new`,
    body: ({ to }) => ({ walletId: `${to}-new`, initialBalance: 10, metadata: { b: 1, a: [2] } }),
    other: ({ to }) => ({ walletId: `${to}-new`, initialBalance: 11, metadata: { b: 1, a: [2] } }),
    amount: "initialBalance",
    ids: ["walletId", "ownerId", "currency"],
    required: [],
    status: 201,
  },
  amountRoute("credit"),
  amountRoute("debit"),
  {
    ...amountRoute("fund"),
    path: () => "/wallets/fund",
    body: ({ from }) => ({ wallet_id: from, ...amountBody() }),
    other: ({ from }) => ({ wallet_id: from, ...otherAmount() }),
    ids: ["wallet_id"],
    required: ["wallet_id", "amount"],
  },
  {
    ...amountRoute("transfer"),
    body: ({ to }) => ({ toWalletId: to, ...amountBody() }),
    other: ({ to }) => ({ toWalletId: to, ...otherAmount() }),
    ids: ["toWalletId"],
    required: ["toWalletId", "amount"],
  },
  {
    ...amountRoute("send"),
    path: () => "/wallets/transfer",
    body: ({ from, to }) => ({ senderWalletId: from, receiverWalletId: to, ...amountBody() }),
    other: ({ from, to }) => ({ senderWalletId: from, receiverWalletId: to, ...otherAmount() }),
    ids: ["senderWalletId", "receiverWalletId"],
    required: ["senderWalletId", "receiverWalletId", "amount"],
  },
  {
    ...amountRoute("update"),
    method: "PATCH",
    path: ({ from }) => `/wallets/${from}`,
    body: () => ({ metadata: { b: { c: 1 }, a: null }, description: "ten" }),
    other: () => ({ metadata: { b: { c: 1 } }, description: "ten" }),
    amount: null,
    required: ["metadata"],
  },
  statusRoute("suspend"),
  statusRoute("activate"),
  statusRoute("close"),
];
