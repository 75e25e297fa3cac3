/**
 * A whole cluster on this machine: PostgreSQL, NATS with JetStream and Redis, hosts and gateways,
 * each a real process that can be killed, stopped, paused and started again by name. It hides
 * ports, data folders and the order in which things start and end. Every member keeps its port for
 * life, so that clients find it again; ports come from below the range of the kernel's own, because
 * there a connection of somebody else could take a dead member's port, or a client's reach itself.
 * Nothing outlives `stop()`, or this process.
 *
 *     stopped --start--> running --pause--> paused --resume--> running
 *        ^                 |  |               |
 *        +---- stop -------+  +----- kill ----+--> killed --start--> running     (by itself: died)
 */
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { placeOf } from "../../actors/placement.ts";
import { listenOnce } from "../../src/listen-once.ts";
import { startCoffer, type CofferProcess, type Environment, type Exit } from "../stage/process.ts";
import {
  startNats,
  startPostgres,
  startRedis,
  type ServerOptions,
  type TestServer,
} from "../stage/servers.ts";

export interface ClusterOptions {
  readonly hosts?: number;
  readonly gateways?: number;
  /** PostgreSQL servers that the shards are spread over. */
  readonly databases?: number;
  /** Databases that are there already; then no PostgreSQL is started. */
  readonly databaseUrls?: readonly string[];
  /** Lanes of each host; at least one for each database. */
  readonly lanes?: number;
  /** Keeps the servers' data; what is found there is used. Default: temporary folders. */
  readonly dataDir?: string;
  /** Port of the first gateway, the others follow. Default: free ones. */
  readonly firstPort?: number;
  /** For every host and gateway, over what the cluster sets. */
  readonly env?: Environment;
  /** Hears of each member that ends without being told to. */
  readonly onDeath?: (member: Member, exit: Exit) => void;
}

export type MemberState = "running" | "paused" | "stopped" | "killed" | "died";

/** A host or a gateway, through all its lives. */
export interface Member {
  readonly id: string;
  readonly role: "host" | "gateway";
  readonly port: number;
  readonly baseUrl: string;
  /** 0 when it does not run. */
  readonly pid: number;
  readonly state: MemberState;
  /** The end of what all its lives wrote. */
  readonly output: string;
  /** Starts it, and waits until it serves HTTP; `untilReady` tells when it has work. */
  start(): Promise<void>;
  untilReady(status?: 200 | 503, withinMs?: number): Promise<void>;
  /** SIGTERM; wakes it first if it is paused. */
  stop(): Promise<Exit>;
  /** SIGKILL. */
  kill(): Promise<Exit>;
  /** SIGSTOP: it keeps its connections and does nothing. */
  pause(): void;
  resume(): void;
}

export interface ShardRow {
  readonly shard: number;
  /** Host id; null when nobody has the shard. */
  readonly hostId: string | null;
  /** One run of the host. */
  readonly owner: string | null;
  readonly epoch: number;
}

export interface LocalCluster {
  /** Empty when the databases were given. */
  readonly postgres: readonly TestServer[];
  readonly nats: TestServer;
  readonly redis: TestServer;
  readonly databaseUrls: readonly string[];
  readonly hosts: readonly Member[];
  readonly gateways: readonly Member[];
  /** A further host, started: waits until it serves HTTP, not until it has shards. */
  addHost(hostId?: string): Promise<Member>;
  /** The same, not started. */
  newHost(hostId?: string): Promise<Member>;
  startHost(hostId: string): Promise<void>;
  /** Host or gateway. Throws when there is none of that name. */
  member(id: string): Member;
  /** What the databases say about who may write. */
  shards(): Promise<ShardRow[]>;
  /** Waits until every gateway and running host is ready. */
  untilReady(withinMs?: number): Promise<void>;
  /**
   * Waits until every shard is with the running host that placement wants for it, so that nothing
   * moves any more.
   */
  untilPlaced(withinMs?: number): Promise<void>;
  /** Ends everything, gateways first. May be called again. */
  stop(): Promise<void>;
}

/** Characters of output that are kept of a member's former lives. */
const outputCharsMax = 200_000;

/** Starts it all; every gateway and host is ready when this resolves. */
export async function startCluster(options: ClusterOptions = {}): Promise<LocalCluster> {
  const servers = await startServers(options);
  const cluster = buildCluster(options, servers);
  try {
    // All at once, as an orchestrator starts them: one of the hosts makes the schema.
    await Promise.all([...cluster.hosts, ...cluster.gateways].map((member) => member.start()));
    await cluster.untilReady();
  } catch (error) {
    await cluster.stop();
    throw error;
  }
  return cluster;
}

interface Servers {
  readonly postgres: readonly TestServer[];
  readonly nats: TestServer;
  readonly redis: TestServer;
  readonly hostPorts: readonly number[];
  readonly gatewayPorts: readonly number[];
}

async function startServers(options: ClusterOptions): Promise<Servers> {
  const { hosts = 3, gateways = 2, databases = 1, databaseUrls, dataDir, firstPort } = options;
  const place = async (name: string): Promise<ServerOptions> => ({
    port: await freePort(),
    ...(dataDir === undefined ? {} : { folder: join(dataDir, name) }),
  });
  const count = databaseUrls === undefined ? databases : 0;
  const names = Array.from({ length: count }, (_, index) => `postgres-${index + 1}`);
  const started = await Promise.allSettled([
    startNats({ jetstream: true, ...(await place("nats")) }),
    startRedis(await place("redis")),
    ...names.map(async (name) => await startPostgres(await place(name))),
  ]);
  const failed = started.find((it) => it.status === "rejected");
  const servers = started.flatMap((it) => (it.status === "fulfilled" ? [it.value] : []));
  if (failed !== undefined) {
    await Promise.all(servers.map((server) => server.stop()));
    throw failed.reason;
  }
  const [nats, redis, ...postgres] = servers;
  const hostPorts = await Promise.all(Array.from({ length: hosts }, freePort));
  const gatewayPorts = await Promise.all(
    Array.from({ length: gateways }, async (_, index) =>
      firstPort === undefined ? await freePort() : firstPort + index,
    ),
  );
  return { postgres, nats: nats!, redis: redis!, hostPorts, gatewayPorts };
}

function buildCluster(options: ClusterOptions, servers: Servers): LocalCluster {
  const { lanes = 1, env = {}, onDeath } = options;
  const { postgres, nats, redis, hostPorts, gatewayPorts } = servers;
  const databaseUrls = options.databaseUrls ?? postgres.map(({ url }) => url);
  const newMember = (role: Member["role"], id: string, port: number): Member => {
    const settings: Environment = {
      ROLE: role,
      HOST_ID: id,
      PORT: String(port),
      DATABASE_URL: databaseUrls.join(","),
      NATS_URL: nats.url,
      LOG_LEVEL: "info",
      ...(role === "host" && {
        REDIS_URL: redis.url,
        LANES: String(Math.max(lanes, databaseUrls.length)),
      }),
      ...env,
    };
    return buildMember(role, id, port, settings, onDeath);
  };
  const table = openShardTable(databaseUrls);
  const hosts = hostPorts.map((port, index) => newMember("host", `host-${index + 1}`, port));
  const gateways = gatewayPorts.map((port, index) =>
    newMember("gateway", `gateway-${index + 1}`, port),
  );
  let stopping: Promise<void> | undefined;

  function member(id: string): Member {
    const members = [...hosts, ...gateways];
    const found = members.find((one) => one.id === id);
    if (found !== undefined) return found;
    throw new Error(`there is no ${id}, only ${members.map((one) => one.id).join(", ")}`);
  }

  async function newHost(hostId?: string): Promise<Member> {
    const numbers = hosts.map(({ id }) => Number(/^host-(\d+)$/.exec(id)?.[1] ?? 0));
    const id = hostId ?? `host-${Math.max(0, ...numbers) + 1}`;
    if (hosts.some((host) => host.id === id)) throw new Error(`${id} is there already`);
    const host = newMember("host", id, await freePort());
    hosts.push(host);
    return host;
  }

  async function stop(): Promise<void> {
    await Promise.all(gateways.map((gateway) => gateway.stop()));
    await Promise.all(hosts.map((host) => host.stop()));
    await table.close();
    await Promise.all([redis, nats, ...postgres].map((server) => server.stop()));
  }

  return {
    postgres,
    nats,
    redis,
    databaseUrls,
    hosts,
    gateways,
    async addHost(hostId) {
      const host = await newHost(hostId);
      await host.start();
      return host;
    },
    newHost,
    startHost: (hostId) => member(hostId).start(),
    member,
    shards: () => table.read(),
    async untilReady(withinMs) {
      const running = [...hosts, ...gateways].filter(({ state }) => state === "running");
      await Promise.all(running.map((one) => one.untilReady(200, withinMs)));
    },
    untilPlaced: (withinMs = 20_000) =>
      untilPlaced(
        () => table.read(),
        () => hosts.filter(({ state }) => state === "running").map(({ id }) => id),
        withinMs,
      ),
    stop() {
      stopping ??= stop();
      return stopping;
    },
  };
}

const lookMs = 50;
/**
 * A lane claims what its host has taken; that is over when the table has not changed for this long.
 */
const stillMs = 500;

async function untilPlaced(
  read: () => Promise<ShardRow[]>,
  running: () => string[],
  withinMs: number,
): Promise<void> {
  const deadlineMs = performance.now() + withinMs;
  let last = "";
  let changedAtMs = 0;
  for (;;) {
    const hostIds = running();
    const rows = await read().catch(() => []);
    const strays = rows.filter(({ shard, hostId }) => hostId !== placeOf(shard, hostIds));
    const nowMs = performance.now();
    const text = JSON.stringify(rows);
    if (text !== last) changedAtMs = nowMs;
    last = text;
    if (rows.length > 0 && strays.length === 0 && nowMs - changedAtMs >= stillMs) return;
    if (nowMs > deadlineMs) {
      const [stray] = strays;
      throw new Error(
        `not placed after ${withinMs} ms: ${strays.length}, ${JSON.stringify(stray)}`,
      );
    }
    await sleep(lookMs);
  }
}

interface ShardTable {
  read(): Promise<ShardRow[]>;
  close(): Promise<void>;
}

/**
 * Each database tells of the shards that live there, over a connection that is kept: whoever waits
 * for the table looks many times a second, and to connect costs both sides more than to ask. One
 * that breaks is replaced with the next look.
 */
function openShardTable(databaseUrls: readonly string[]): ShardTable {
  const count = databaseUrls.length;
  const pools = databaseUrls.map((connectionString) => {
    const pool = new pg.Pool({ connectionString, max: 1, ...PATIENCE });
    return pool.on("error", () => undefined);
  });
  return {
    async read() {
      const tables = await Promise.all(
        pools.map(async (pool, database) => {
          const { rows } = await pool.query<ShardRow>(
            `SELECT shard, owner, nullif(split_part(owner, ':', 1), '') AS "hostId", epoch::float8 FROM shards`,
          );
          return rows.filter(({ shard }) => shard % count === database);
        }),
      );
      return tables.flat().toSorted((one, other) => one.shard - other.shard);
    },
    close: async () => void (await Promise.all(pools.map((pool) => pool.end()))),
  };
}

function buildMember(
  role: Member["role"],
  id: string,
  port: number,
  env: Environment,
  onDeath: ClusterOptions["onDeath"],
): Member {
  let coffer: CofferProcess | undefined;
  let state: MemberState = "stopped";
  let former = "";
  let starting: Promise<void> | undefined;

  async function start(): Promise<void> {
    const started = await startCoffer(env);
    coffer = started;
    state = "running";
    void started.exited.then((exit) => {
      former = (former + started.output).slice(-outputCharsMax);
      if (coffer !== started) return;
      coffer = undefined;
      if (state === "stopped" || state === "killed") return;
      state = "died";
      onDeath?.(member, exit);
    });
  }

  async function end(how: "stop" | "kill"): Promise<Exit> {
    // A start under way is awaited: what it brings would stay behind.
    await starting?.catch(() => undefined);
    const ending = coffer;
    if (ending === undefined) return { code: null, signal: null };
    const wasPaused = state === "paused";
    state = how === "stop" ? "stopped" : "killed";
    if (how === "kill") return await ending.kill();
    const stopping = ending.stop();
    if (wasPaused) ending.resume();
    return await stopping;
  }

  const member: Member = {
    id,
    role,
    port,
    baseUrl: `http://127.0.0.1:${port}`,
    get pid() {
      return coffer?.pid ?? 0;
    },
    get state() {
      return state;
    },
    get output() {
      return former + (coffer?.output ?? "");
    },
    async start() {
      if (starting !== undefined) return await starting;
      if (coffer !== undefined) throw new Error(`${id} runs already`);
      starting = start();
      try {
        await starting;
      } finally {
        starting = undefined;
      }
    },
    async untilReady(status, withinMs) {
      if (coffer === undefined) throw new Error(`${id} does not run`);
      await coffer.untilReady(status, withinMs);
    },
    stop: () => end("stop"),
    kill: () => end("kill"),
    pause() {
      if (state !== "running") throw new Error(`${id} is ${state}, it cannot be paused`);
      state = "paused";
      coffer!.pause();
    },
    resume() {
      if (state !== "paused") throw new Error(`${id} is ${state}, it cannot be resumed`);
      state = "running";
      coffer!.resume();
    },
  };
  return member;
}

const PATIENCE = { connectionTimeoutMillis: 10_000, query_timeout: 10_000 };

/** One statement over a connection of its own: the databases of a cluster come and go. */
export async function query<Row extends pg.QueryResultRow>(
  databaseUrl: string,
  sql: string,
  values: unknown[] = [],
): Promise<Row[]> {
  const client = new pg.Client({ connectionString: databaseUrl, ...PATIENCE });
  client.on("error", () => undefined);
  await client.connect();
  try {
    return (await client.query<Row>(sql, values)).rows;
  } finally {
    await client.end();
  }
}

// --- Ports ---------------------------------------------------------------------------------------

const portMin = 20_000;
const portMax = 32_000;
const portAttemptsMax = 100;
/** Given away by this process: what is dead for a while keeps its port. */
const taken = new Set<number>();

async function freePort(): Promise<number> {
  for (let attempt = 1; attempt <= portAttemptsMax; attempt += 1) {
    const port = portMin + Math.floor(Math.random() * (portMax - portMin));
    if (taken.has(port) || !(await isFree(port))) continue;
    taken.add(port);
    return port;
  }
  throw new Error(`no free port from ${portMin} to ${portMax} in ${portAttemptsMax} attempts`);
}

function isFree(port: number): Promise<boolean> {
  return listenOnce(port, "127.0.0.1").then(
    () => true,
    () => false,
  );
}
