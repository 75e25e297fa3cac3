/**
 * A host, wired: its lanes, the shards that it takes, the relay of its events, its reconciliation,
 * and the server that tells its health. One of the three files that know actors and gateway
 * (`main.ts`).
 */
import type { FastifyInstance } from "fastify";
import { randomUUID } from "node:crypto";
import type { Logger } from "pino";
import { buildHost, type Host } from "../actors/host.ts";
import { buildPiscinaLanes } from "../actors/piscina-lanes.ts";
import { buildReconciliation, type Reconciliation } from "../actors/reconciliation.ts";
import type { RedisMembership } from "../actors/redis-membership.ts";
import { buildRelay, type Relay } from "../actors/relay.ts";
import { startWebhookSinks, type WebhookSinks } from "../actors/webhook-sinks.ts";
import { addHealthRoutes, type HealthProbe } from "../gateway/routes/health-routes.ts";
import { buildServer } from "../gateway/http-server.ts";
import { addMetricsRoute } from "../gateway/routes/metrics-route.ts";
import { systemTime } from "./clock.ts";
import { databaseName, type Config } from "./config.ts";
import { LIMITS } from "./limits.ts";
import { messageOf } from "./message-of.ts";
import { buildPostgresRelayStore } from "./postgres/relay.ts";
import { buildPostgresShardTable, type PostgresShardTable } from "./postgres/shard-table.ts";
import { buildPostgresWebhooks } from "./postgres/webhooks.ts";
import type { HostStatus } from "./core/protocol.ts";
import { buildWebhookSender } from "./webhook-sender.ts";
import type { Parts } from "./parts.ts";

export interface RunningHost {
  readonly host: Host;
  readonly shardTable: PostgresShardTable;
  /** Null: the host is alone. */
  readonly membership: RedisMembership | null;
  /** Null: switched off. */
  readonly reconciliation: Reconciliation | null;
  /** Called when the databases have their tables. */
  readonly startRelaying: () => Promise<void>;
}

/** As much of a host as its health is read from. */
export interface HealthOfHost extends Pick<Host, "isUsable"> {
  status(): {
    readonly shards: readonly number[];
    readonly lanes: ReadonlyArray<
      Pick<HostStatus["lanes"][number], "name" | "serving" | "damagedWallets">
    >;
  };
}

/** As much of a running host. */
export interface HealthOfRunning {
  readonly host: HealthOfHost;
  readonly membership: Pick<RedisMembership, "ping"> | null;
  readonly reconciliation: Pick<Reconciliation, "probe"> | null;
}

export async function buildRunningHost(parts: Parts): Promise<RunningHost> {
  const { config, databases, bus, natsBus, metrics, log, closing } = parts;
  const { hostId, redisUrl, lanes: laneCount } = config;
  const databaseUrls = databases.urls;
  const shardTable = buildPostgresShardTable(databaseUrls);
  closing.push({ name: "shard table", close: () => shardTable.close() });
  // Only over NATS can there be other hosts to share with.
  const isMember = redisUrl !== undefined && natsBus !== null;
  const membership = isMember ? await joinByRedis(redisUrl, parts) : null;
  if (membership !== null) closing.push({ name: "membership", close: () => membership.close() });
  const reconciliation = buildReconciliationOf(config, databaseUrls, () => host, log);
  const { relay, startRelaying, webhooksDisabled } = buildRelaying(parts);
  const host = buildHost({
    relay,
    bus,
    shardTable,
    membership,
    startLane: buildPiscinaLanes(databaseUrls, config.transferShortcut).start,
    databases: databaseUrls.length,
    laneCount,
    hostId,
    owner: `${hostId}:${randomUUID()}`,
    time: systemTime,
    ...(reconciliation !== null && { books: () => reconciliation.status() }),
    log,
    meter: metrics.host,
    onFatal(reason) {
      log.fatal(reason);
      process.exit(1);
    },
  });
  closing.push({ name: "host", close: () => host.drain() });
  if (reconciliation !== null) {
    closing.push({ name: "reconciliation", close: () => reconciliation.stop() });
  }
  watchHost(parts, host, reconciliation, webhooksDisabled);
  return { host, shardTable, membership, reconciliation, startRelaying };
}

/** Its client is loaded where there is a Redis, as it takes a tenth of the start. */
async function joinByRedis(
  redisUrl: string,
  { config, deployment, log }: Parts,
): Promise<RedisMembership> {
  const { buildRedisMembership } = await import("../actors/redis-membership.ts");
  return buildRedisMembership({
    redisUrl,
    name: `coffer-${config.hostId}`,
    log,
    deploymentId: () => deployment.id,
  });
}

function buildReconciliationOf(
  { verifyIntervalMinutes, verifyRowsPerSecond: rowsPerSecond }: Config,
  databaseUrls: readonly string[],
  host: () => Host,
  log: Logger,
): Reconciliation | null {
  if (verifyIntervalMinutes === 0) return null;
  const intervalMs = verifyIntervalMinutes * 60_000;
  const firstMs = Math.min(LIMITS.verifyFirstMs, intervalMs);
  const shards = (): readonly number[] => host().status().shards;
  const time = systemTime;
  return buildReconciliation({
    databaseUrls,
    intervalMs,
    firstMs,
    rowsPerSecond,
    shards,
    time,
    log,
  });
}

/**
 * Differences are for people: commands are served all the same, and going down would help nobody.
 */
function booksProbe(reconciliation: HealthOfRunning["reconciliation"]): HealthProbe[] {
  if (reconciliation === null) return [];
  return [{ name: "books", isNeededForCommands: false, probe: () => reconciliation.probe() }];
}

/**
 * Where events go. The relay ends after the host, so that what is committed last is delivered too.
 */
function buildRelaying(parts: Parts): Pick<RunningHost, "startRelaying"> & {
  readonly relay: Relay;
  readonly webhooksDisabled: () => number | null;
} {
  const { config, databases, natsBus, log, closing } = parts;
  const store = buildPostgresWebhooks(databases.urls);
  const sender = buildWebhookSender({ allowsPrivate: config.webhookPrivate });
  const relay = buildRelay({
    stores: databases.urls.map(buildPostgresRelayStore),
    time: systemTime,
    log,
  });
  closing.push(
    { name: "webhooks", close: () => store.close() },
    { name: "webhook connections", close: () => Promise.resolve(sender.close()) },
    { name: "relay", close: () => relay.stop() },
  );
  let sinks: WebhookSinks | null = null;
  return {
    relay,
    webhooksDisabled: () => sinks?.disabled ?? null,
    async startRelaying() {
      if (natsBus !== null && config.events) {
        const { buildStreamSink } = await import("../actors/stream-sink.ts");
        const keeping = {
          maxAgeDays: config.eventsMaxAgeDays,
          maxBytes: config.eventsMaxBytes,
          replicas: config.eventsReplicas,
        };
        relay.add(buildStreamSink({ bus: natsBus, keeping, time: systemTime, log }));
      }
      const { random } = Math;
      const started = startWebhookSinks({ relay, store, sender, time: systemTime, random, log });
      sinks = started;
      closing.push({ name: "webhook sinks", close: () => Promise.resolve(started.stop()) });
    },
  };
}

/** What a host's part of `/metrics` is read from. */
export function watchHost(
  {
    config,
    metrics,
    tracing,
  }: Pick<Parts, "metrics" | "tracing"> & {
    readonly config: Pick<Config, "verifyIntervalMinutes">;
  },
  host: Pick<Host, "status">,
  reconciliation: Pick<Reconciliation, "status"> | null,
  webhooksDisabled: () => number | null,
): void {
  metrics.watchHost({
    status: () => host.status(),
    webhooksDisabled,
    ...(reconciliation !== null && {
      verify() {
        const { differences, lastRunAt } = reconciliation.status();
        const finishedAtMs = lastRunAt === null ? null : Date.parse(lastRunAt);
        return { differences, finishedAtMs, intervalMs: config.verifyIntervalMinutes * 60_000 };
      },
    }),
    ...(tracing !== null && { onTraces: (lane, traces) => tracing.committed(lane, traces) }),
  });
}

/** What a process with a host says of it, whoever shows it. */
export function hostProbes({ host, membership, reconciliation }: HealthOfRunning): HealthProbe[] {
  return [
    hostProbe(host),
    walletsProbe(host),
    ...redisProbe(membership),
    ...booksProbe(reconciliation),
  ];
}

function hostProbe(host: HealthOfHost): HealthProbe {
  return {
    name: "host",
    isNeededForCommands: true,
    probe() {
      if (host.isUsable) return Promise.resolve(0);
      const hasShards = host.status().shards.length > 0;
      const reason = hasShards ? "the lanes do not serve now" : "no shards, and none to be had now";
      return Promise.reject(new Error(reason));
    },
  };
}

/**
 * Each of several databases by itself. One that is away takes its own wallets along and no others,
 * so the process goes on serving: who looks at its health learns which one, and that the lanes of a
 * host have noticed.
 */
export function databaseProbes(
  databaseUrls: readonly string[],
  shardTable: Pick<PostgresShardTable, "ping">,
  host: HealthOfHost | null,
): HealthProbe[] {
  if (databaseUrls.length === 1) return [];
  const probes = databaseUrls.map((url, index): HealthProbe => {
    const probe = async (): Promise<number> => {
      try {
        return await shardTable.ping(index);
      } catch (error) {
        const reason = messageOf(error);
        throw new Error(`${databaseName(url)}: ${reason}`, { cause: error });
      }
    };
    return { name: `database-${index + 1}`, isNeededForCommands: false, probe };
  });
  return host === null ? probes : [...probes, lanesProbe(host)];
}

/** Of a host's only one: what the lanes do without it, `host` tells. */
function databaseProbe(shardTable: Pick<PostgresShardTable, "ping">): HealthProbe {
  return { name: "database", isNeededForCommands: false, probe: () => shardTable.ping(0) };
}

function lanesProbe(host: HealthOfHost): HealthProbe {
  const probe = async (): Promise<number> => {
    const idle = host.status().lanes.filter(({ serving }) => !serving);
    if (idle.length === 0) return 0;
    throw new Error(`${idle.map(({ name }) => name).join(", ")} cannot serve now`);
  };
  return { name: "lanes", isNeededForCommands: false, probe };
}

/** One damaged wallet waits to be mended, and all others are served. */
function walletsProbe(host: HealthOfHost): HealthProbe {
  return {
    name: "wallets",
    isNeededForCommands: false,
    probe() {
      const { lanes } = host.status();
      const damaged = lanes.reduce((sum, lane) => sum + (lane.damagedWallets ?? 0), 0);
      if (damaged === 0) return Promise.resolve(0);
      const count = damaged === 1 ? "one wallet is" : `${damaged} wallets are`;
      return Promise.reject(
        new Error(
          `${count} damaged: the log names each, npm run verify -- --rebuild mends it or says what to do`,
        ),
      );
    },
  };
}

/** Without Redis shards stay where they are, and commands are served. */
function redisProbe(membership: HealthOfRunning["membership"]): HealthProbe[] {
  if (membership === null) return [];
  return [{ name: "redis", isNeededForCommands: false, probe: () => membership.ping() }];
}

/** A host serves its health, so that an orchestrator can watch it; commands come over the bus. */
export function buildHostServer(parts: Parts, running: RunningHost): FastifyInstance {
  const { databases, bus, natsBus, version, metrics, log, closing } = parts;
  const { host, shardTable } = running;
  const server = buildServer(log, { metrics });
  addMetricsRoute(server, metrics);
  addHealthRoutes(server, {
    version,
    bus,
    probes: [
      { name: "bus", isNeededForCommands: true, probe: () => bus.ping(LIMITS.healthCheckMs) },
      ...(databases.urls.length === 1 ? [databaseProbe(shardTable)] : []),
      ...databaseProbes(databases.urls, shardTable, host),
      ...hostProbes(running),
    ],
    stats: () => ({ bus: natsBus?.stats() ?? {}, host: host.status() }),
  });
  closing.push({ name: "health", close: () => server.close() });
  return server;
}
