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
import { connect, type NatsConnection } from "nats";
import pg from "pg";
import { pino, type Logger } from "pino";
import { uuidv7 } from "uuidv7";
import { inject } from "vitest";

import { buildHost, type Host, type HostDeps } from "../../actors/host.ts";
import { buildPiscinaLanes, type PiscinaLanes } from "../../actors/piscina-lanes.ts";
import { buildAnswers } from "../../gateway/answers.ts";
import { buildBatches } from "../../gateway/batch.ts";
import { buildCommandIntake } from "../../gateway/command-intake.ts";
import { buildCommandDesk, type CommandDesk } from "../../gateway/commands.ts";
import { buildFeedHub, type FeedHub } from "../../gateway/feed/feed.ts";
import { buildGateway } from "../../gateway/http.ts";
import { buildWalletService } from "../../gateway/nats-service.ts";
import type { TransactionBody, TransferBody, WalletBody } from "../../gateway/schemas.ts";
import { buildFeedSocket } from "../../gateway/feed/websocket.ts";
import type { Bus } from "../../src/core/bus.ts";
import { buildMemoryBus } from "../../src/bus/memory-bus.ts";
import { buildNatsBus, type NatsBus } from "../../src/bus/nats-bus.ts";
import { systemTime } from "../../src/clock.ts";
import type { EventBody } from "../../src/event-body.ts";
import { buildPostgresAssets } from "../../src/postgres/assets.ts";
import { buildPostgresShardTable } from "../../src/postgres/shard-table.ts";
import { buildPostgresReadModel } from "../../src/postgres/read-model.ts";
import { buildPostgresWebhooks } from "../../src/postgres/webhooks.ts";
import { unique } from "./ids.ts";
import { createMigratedDatabase } from "./migrated-database.ts";
import { dropDatabase, startNats, type TestServer } from "./servers.ts";

export interface StackOptions {
  /** The bus is a NATS server of the stack's own; without it, in-process. */
  readonly overNats?: boolean;
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
  /** The server of its bus, for a test to end; null in-process. */
  readonly natsServer: TestServer | null;
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
  /** A client of its NATS server, closed with the stack. */
  connectNats(): Promise<NatsConnection>;
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

/** A host that is alone on its database, not started. `shortcut`: `LaneDeps.shortcut` (true). */
export function buildTestHost(
  options: Pick<HostDeps, "bus" | "laneCount" | "log" | "onFatal"> & {
    databaseUrl: string;
    shortcut?: boolean;
  },
): TestHost {
  const { databaseUrl, shortcut = true, ...deps } = options;
  const lanes = buildPiscinaLanes([databaseUrl], shortcut);
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

/** Asks again while the answer is an error; gives the answer, or after so long the last error. */
export async function eventually<T>(
  ask: () => Promise<T>,
  timeoutMs: number = READY_MS_MAX,
): Promise<T> {
  const deadlineMs = performance.now() + timeoutMs;
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (performance.now() > deadlineMs) throw error;
    }
    await sleep(10);
  }
}

type Closing = Array<() => Promise<unknown>>;

async function openDatabase(besides: Stack | undefined, closing: Closing): Promise<string> {
  if (besides !== undefined) return besides.databaseUrl;
  const name = `${unique("stack").replaceAll("-", "_")}_${process.pid}`;
  const databaseUrl = await createMigratedDatabase(name);
  closing.push(() => dropDatabase(inject("postgresUrl"), name));
  return databaseUrl;
}

async function openNats(
  { overNats = false, besides }: StackOptions,
  closing: Closing,
): Promise<TestServer | null> {
  if (!overNats) return besides?.natsServer ?? null;
  const server = await startNats();
  closing.push(() => server.stop());
  return server;
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
  const errors: string[] = [];
  const log = keepErrors(errors);
  const databaseUrl = await openDatabase(besides, closing);
  const natsServer = await openNats(options, closing);
  const natsBus =
    natsServer === null ? null : buildNatsBus({ url: natsServer.url, name: "test", log });
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
    natsServer,
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
    async connectNats() {
      const connection = await connect({ servers: natsServer!.url });
      closing.push(() => connection.close());
      return connection;
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
  const answering = { commands, takeIn, answer, batches, readModel };
  const app = buildGateway({
    ...answering,
    bus,
    assets,
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
      ...answering,
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
