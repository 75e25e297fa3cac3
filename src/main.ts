/**
 * The entry: reads the settings, makes the parts of the process's role, connects them, and takes them down in the order in which
 * nothing accepted is lost: no new requests, then answers for the old ones, then the lanes, the bus and the database. It only
 * wires; it is the one file that knows both actors and gateway.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import closeWithGrace from "close-with-grace";
import type { FastifyInstance } from "fastify";
import type { Logger } from "pino";
import { uuidv7 } from "uuidv7";
import { randomUUID } from "node:crypto";
import { buildHost, type Host } from "../actors/host.ts";
import { buildPiscinaLanes } from "../actors/piscina-lanes.ts";
import { buildReconciliation, type Reconciliation } from "../actors/reconciliation.ts";
import { buildRelay, type Relay } from "../actors/relay.ts";
import { buildStreamSink } from "../actors/stream-sink.ts";
import { startWebhookSinks } from "../actors/webhook-sinks.ts";
import { buildRedisMembership, type RedisMembership } from "../actors/redis-membership.ts";
import { buildAnswers } from "../gateway/answers.ts";
import { buildBatches } from "../gateway/batch.ts";
import { buildCommandIntake } from "../gateway/command-intake.ts";
import { buildCommandDesk } from "../gateway/commands.ts";
import { buildFeedHub } from "../gateway/feed.ts";
import { addHealthRoutes, type HealthProbe } from "../gateway/health-routes.ts";
import { buildServer } from "../gateway/http-server.ts";
import { buildGateway } from "../gateway/http.ts";
import { addMetricsRoute } from "../gateway/metrics-route.ts";
import { buildWalletService, type WalletService } from "../gateway/nats-service.ts";
import { buildRateLimit, type RateLimit } from "../gateway/rate-limit.ts";
import { traceCommands } from "../gateway/traced-commands.ts";
import { buildFeedSocket } from "../gateway/websocket.ts";
import type { Bus } from "./bus.ts";
import { systemTime } from "./clock.ts";
import { ConfigError, readConfig, type Config } from "./config.ts";
import { isAway, openDatabases, UnsafeDatabaseError, type Databases } from "./database.ts";
import { prepareDatabases, watchDeployment } from "./deployment.ts";
import { EmbeddedPostgresError } from "./embedded-postgres.ts";
import { LIMITS } from "./limits.ts";
import { buildLog } from "./log.ts";
import { buildMemoryBus } from "./memory-bus.ts";
import { buildMetrics, type Metrics } from "./metrics.ts";
import { buildNatsBus, type NatsBus } from "./nats-bus.ts";
import { packageRoot } from "./package-root.ts";
import { buildPostgresAssets } from "./postgres-assets.ts";
import { buildPostgresShardTable } from "./postgres-shard-table.ts";
import { buildPostgresReadModel } from "./postgres-read-model.ts";
import { buildPostgresRelayStore } from "./postgres-relay.ts";
import { buildPostgresWebhooks } from "./postgres-webhooks.ts";
import { SUBJECTS } from "./protocol.ts";
import { startTracing, type Tracing } from "./tracing.ts";
import { buildWebhookSender } from "./webhook-sender.ts";

/** What has to be closed, last opened first. */
type Closing = Array<{ name: string; close: () => Promise<void> }>;

interface Parts {
  readonly config: Config;
  readonly version: string;
  readonly log: Logger;
  readonly databases: Databases;
  readonly bus: Bus;
  /** The same bus, when it is NATS. */
  readonly natsBus: NatsBus | null;
  readonly metrics: Metrics;
  readonly tracing: Tracing | null;
  readonly closing: Closing;
}

async function start(config: Config, log: Logger, closing: Closing): Promise<void> {
  const version = versionOf(readFileSync(join(packageRoot, "package.json"), "utf8"));
  const { hostId, role } = config;
  const metrics = buildMetrics({ role, version });
  const tracing = config.isTraced ? await startTracing({ version, hostId, role, log }) : null;
  // Closed last, so that it has the spans of the end, too.
  if (tracing !== null) closing.push({ name: "traces", close: () => tracing.stop() });
  const databases = await openDatabases(config.databaseUrls, config.dataDir, log);
  closing.push({ name: "databases", close: () => databases.stop() });
  const fatal = (reason: string): never => {
    log.fatal(reason);
    process.exit(1);
  };
  const isLimited = config.role !== "host" && config.rateLimitPerSecond !== undefined;
  const usesRedis =
    isLimited || config.role === "host" || (config.role === "all" && config.natsUrls.length > 0);
  if (config.redisUrl !== undefined && !usesRedis) log.info("REDIS_URL is not used here");
  const natsBus = openNatsBus(config, log);
  const bus = natsBus ?? buildMemoryBus();
  closing.push({ name: "bus", close: () => bus.drain() });
  const stopWatching = metrics.watchBus(bus, natsBus === null ? null : () => natsBus.stats());
  closing.push({ name: "watching the bus", close: () => Promise.resolve(stopWatching()) });
  const parts: Parts = {
    config,
    version,
    log,
    databases,
    bus,
    natsBus,
    metrics,
    tracing,
    closing,
  };
  const listen = (server: FastifyInstance): Promise<string> =>
    server.listen({ port: config.port, host: config.host });

  if (config.role === "gateway") {
    const databaseUrls = databases.urls;
    const watching = await watchDeployment({ databaseUrls, log, onMismatch: fatal });
    closing.push({ name: "deployment", close: () => Promise.resolve(watching.stop()) });
    announce(parts, null, await listen(await startGateway(parts, null)));
    return;
  }
  const running = buildRunningHost(parts);
  if (config.role === "host") {
    // It tells its health from the first moment, also while it waits for a database.
    const address = await listen(buildHostServer(parts, running));
    await prepareWhenThere(databases.urls, log);
    await running.host.start();
    running.reconciliation?.start();
    running.startRelaying();
    announce(parts, running.host, address);
    return;
  }
  await prepareWhenThere(databases.urls, log);
  await running.host.start();
  running.reconciliation?.start();
  running.startRelaying();
  announce(parts, running.host, await listen(await startGateway(parts, running)));
}

/** A database may be away when a host starts, as it may later: the host waits, and says so. */
async function prepareWhenThere(databaseUrls: readonly string[], log: Logger): Promise<void> {
  let quietUntilMs = 0;
  for (let pauseMs: number = LIMITS.journalRetryMs; ;) {
    try {
      await prepareDatabases(databaseUrls, (line) => log.info(line));
      return;
    } catch (error) {
      if (!isAway(error)) throw error;
      if (performance.now() >= quietUntilMs) {
        log.warn(`a database is away, trying again: ${String(error)}`);
        quietUntilMs = performance.now() + LIMITS.busTroubleLogMs;
      }
    }
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
    pauseMs = Math.min(pauseMs * 2, LIMITS.journalRetryMsMax);
  }
}

function versionOf(packageJson: string): string {
  return (JSON.parse(packageJson) as { version: string }).version;
}

/** At once, also while no server is there: it connects when it can, and health says so meanwhile. */
function openNatsBus({ natsUrls, hostId }: Config, log: Logger): NatsBus | null {
  if (natsUrls.length === 0) return null;
  return buildNatsBus({ url: natsUrls.join(","), name: `coffer-${hostId}`, log });
}

interface RunningHost {
  readonly host: Host;
  /** Null: the host is alone. */
  readonly membership: RedisMembership | null;
  /** Null: switched off. */
  readonly reconciliation: Reconciliation | null;
  /** Called when the databases have their tables. */
  readonly startRelaying: () => void;
}

function buildRunningHost(parts: Parts): RunningHost {
  const { config, databases, bus, natsBus, metrics, log, closing } = parts;
  const { hostId, redisUrl, lanes: laneCount } = config;
  const databaseUrls = databases.urls;
  const shardTable = buildPostgresShardTable(databaseUrls);
  closing.push({ name: "shard table", close: () => shardTable.close() });
  // Only over NATS can there be other hosts to share with.
  const isMember = redisUrl !== undefined && natsBus !== null;
  const membership = isMember
    ? buildRedisMembership({ redisUrl, name: `coffer-${hostId}`, log })
    : null;
  if (membership !== null) closing.push({ name: "membership", close: () => membership.close() });
  const reconciliation = buildReconciliationOf(config, databaseUrls, () => host, log);
  const { relay, startRelaying } = buildRelaying(parts);
  const host = buildHost({
    relay,
    bus,
    shardTable,
    membership,
    startLane: buildPiscinaLanes(databaseUrls).start,
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
  watchHost(parts, host, reconciliation);
  return { host, membership, reconciliation, startRelaying };
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

/** Differences are for people: commands are served all the same, and going down would help nobody. */
function booksProbe(reconciliation: Reconciliation | null): HealthProbe[] {
  if (reconciliation === null) return [];
  return [{ name: "books", isNeededForCommands: false, probe: () => reconciliation.probe() }];
}

/** Where events go. The relay ends after the host, so that what is committed last is delivered too. */
function buildRelaying(parts: Parts): { relay: Relay; startRelaying: () => void } {
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
  return {
    relay,
    startRelaying() {
      if (natsBus !== null && config.events) {
        const { eventsMaxAgeDays: maxAgeDays, eventsMaxBytes: maxBytes } = config;
        relay.add(buildStreamSink({ bus: natsBus, maxAgeDays, maxBytes, time: systemTime, log }));
      }
      const { random } = Math;
      const sinks = startWebhookSinks({ relay, store, sender, time: systemTime, random, log });
      closing.push({ name: "webhook sinks", close: () => Promise.resolve(sinks.stop()) });
    },
  };
}

/** What a host's part of `/metrics` is read from. */
function watchHost(
  { metrics, tracing }: Parts,
  host: Host,
  reconciliation: Reconciliation | null,
): void {
  metrics.watchHost({
    status: () => host.status(),
    relay: () =>
      (host.status().relay ?? []).map(({ sink: name, lagEvents, lagMs }) => {
        return { name, lagEvents, lagSeconds: lagMs / 1_000 };
      }),
    verify() {
      const { differences, lastRunAt } = reconciliation?.status() ?? { lastRunAt: null };
      if (lastRunAt === null || differences === undefined) return null;
      return { differences, finishedAtMs: Date.parse(lastRunAt) };
    },
    ...(tracing !== null && { onTraces: (lane, traces) => tracing.committed(lane, traces) }),
  });
}

function hostProbe(host: Host): HealthProbe {
  return {
    name: "host",
    isNeededForCommands: true,
    probe: () =>
      host.status().ready
        ? Promise.resolve(0)
        : Promise.reject(new Error("the lanes do not serve now")),
  };
}

/** A gateway without a host of its own: is anybody there to take commands? */
function ownerProbe(bus: Bus): HealthProbe {
  return {
    name: "host",
    isNeededForCommands: true,
    probe: async () => {
      const startedAtMs = performance.now();
      let isMissing = false;
      // A question that names no inbox is answered by nobody, but the bus knows whether it arrived.
      bus.publish(SUBJECTS.status, {}, () => {
        isMissing = true;
      });
      await bus.ping(LIMITS.healthCheckMs);
      if (isMissing) throw new Error("no host serves this gateway's commands");
      return performance.now() - startedAtMs;
    },
  };
}

/** A host serves its health, so that an orchestrator can watch it; commands come over the bus. */
function buildHostServer(parts: Parts, running: RunningHost): FastifyInstance {
  const { bus, natsBus, version, metrics, log, closing } = parts;
  const { host, membership, reconciliation } = running;
  const server = buildServer(log, { metrics });
  addMetricsRoute(server, metrics);
  addHealthRoutes(server, {
    version,
    bus,
    probes: [
      hostProbe(host),
      { name: "bus", isNeededForCommands: true, probe: () => bus.ping(LIMITS.healthCheckMs) },
      ...redisProbe(membership),
      ...booksProbe(reconciliation),
    ],
    stats: () => ({ bus: natsBus?.stats() ?? {}, host: host.status() }),
  });
  closing.push({ name: "health", close: () => server.close() });
  return server;
}

/** Without Redis shards stay where they are, and commands are served. */
function redisProbe(membership: RedisMembership | null): HealthProbe[] {
  if (membership === null) return [];
  return [{ name: "redis", isNeededForCommands: false, probe: () => membership.ping() }];
}

async function startGateway(parts: Parts, running: RunningHost | null): Promise<FastifyInstance> {
  const { config, databases, bus, natsBus, version, metrics, tracing, log, closing } = parts;
  const readModel = buildPostgresReadModel({ databaseUrls: databases.urls, log });
  closing.push({ name: "reads", close: () => readModel.close() });
  const shardTable = buildPostgresShardTable(databases.urls);
  closing.push({ name: "reads of the shard table", close: () => shardTable.close() });
  const gatewayId = `${config.hostId}-${uuidv7()}`;
  const hasSoleHost = natsBus === null;
  const desk = buildCommandDesk({ bus, gatewayId, log, hasSoleHost, meter: metrics.commands });
  const commands = tracing === null ? desk : traceCommands(desk, tracing);
  closing.push({ name: "commands", close: () => commands.drain() });
  const hub = buildFeedHub({
    bus,
    databases: databases.urls.length,
    readModel,
    clock: { nowMs: () => performance.now() },
    timers: systemTime,
    log,
  });
  const assets = buildPostgresAssets({ databaseUrls: databases.urls, log });
  closing.push({ name: "assets", close: () => assets.close() });
  const rateLimit = openRateLimit(parts);
  metrics.watchGateway({ commands, feed: () => hub.stats(), rateLimit });
  const takeIn = buildCommandIntake((code) => assets.assetOf(code));
  const answer = buildAnswers({ readModel, log });
  const batches = buildBatches({ commands, takeIn, answer, log, metrics });
  const webhooks = buildPostgresWebhooks(databases.urls);
  closing.push({ name: "webhooks of the gateway", close: () => webhooks.close() });
  const server = buildGateway({
    commands,
    readModel,
    bus,
    assets,
    batches,
    cluster: { bus, shardTable, gatewayId },
    webhooks: { store: webhooks, allowsPrivate: config.webhookPrivate },
    version,
    log,
    metrics,
    tracing,
    rateLimit,
    trustProxy: config.trustProxy,
    probes:
      running === null
        ? [ownerProbe(bus)]
        : [
            hostProbe(running.host),
            ...redisProbe(running.membership),
            ...booksProbe(running.reconciliation),
          ],
    ...(natsBus === null ? {} : { busStats: () => natsBus.stats() }),
    ...(running === null ? {} : { relayStatus: () => running.host.status().relay ?? [] }),
  });
  await server.register(buildFeedSocket({ hub }));
  closing.push({ name: "batches", close: () => batches.drain() });
  closing.push({ name: "http", close: () => server.close() });
  closing.push({ name: "feed", close: () => hub.drain() });
  if (natsBus !== null) {
    const service = natsBus.connection.then((connection) => {
      const watch = { metrics, tracing, log };
      const answering = { readModel, takeIn, answer, batches };
      return buildWalletService({ connection, commands, version, ...answering, ...watch });
    });
    let started: WalletService | null = null;
    service.then(
      (it) => {
        started = it;
      },
      (error: unknown) => log.error({ err: error }, "the NATS service did not start"),
    );
    // One that waits for NATS takes no requests; it ends with the bus, which is closed after it.
    closing.push({ name: "service", close: async () => started?.stop() });
  }
  // First of all: what has begun gets the time that is left.
  closing.push({ name: "batches", close: () => Promise.resolve(void batches.drain()) });
  return server;
}

function openRateLimit({ config, log, closing }: Parts): RateLimit | null {
  const { rateLimitPerSecond: perSecond, redisUrl, hostId } = config;
  if (perSecond === undefined) return null;
  const rateLimit = buildRateLimit({ perSecond, redisUrl, name: `coffer-${hostId}-rate`, log });
  closing.push({ name: "rate limit", close: () => rateLimit.close() });
  return rateLimit;
}

/** The line a person reads. */
function announce({ config, databases, natsBus }: Parts, host: Host | null, address: string): void {
  const facts = [
    `Coffer serves at ${address}`,
    `role ${config.role}`,
    databases.description,
    natsBus === null ? "bus in-process" : "bus NATS",
  ];
  // Not as configured: rounded up to a multiple of the databases.
  const lanes = host?.status().lanes.length ?? 0;
  if (lanes > 0) facts.push(`${lanes} lane${lanes > 1 ? "s" : ""}`);
  if (config.role !== "host") facts.push(`docs at ${address}/docs`);
  process.stdout.write(`${facts.join(" | ")}\n`);
}

/** Closes everything, last opened first; what fails to close does not keep the rest open. */
async function closeAll(closing: Closing, log: Logger): Promise<void> {
  for (const { name, close } of closing.splice(0).toReversed()) {
    await close().catch((error: unknown) => log.error({ err: error }, `${name} did not close`));
  }
}

function fail(text: string): never {
  process.stderr.write(`${text}\n`);
  process.exit(1);
}

async function main(): Promise<void> {
  if (process.argv.length > 2) {
    fail(
      `Coffer takes no arguments, not "${process.argv.slice(2).join(" ")}": its settings are environment variables, ` +
        "such as PORT=4000 npm start; docs/operations.md lists them",
    );
  }
  let config: Config;
  try {
    config = readConfig(process.env);
  } catch (error) {
    if (error instanceof ConfigError) fail(error.message);
    throw error;
  }
  const log = buildLog({ level: config.logLevel, hostId: config.hostId });
  const closing: Closing = [];
  closeWithGrace({ delay: LIMITS.shutdownMs, logger: false }, async ({ err, signal }) => {
    if (err) log.fatal({ err }, "an error that nobody expected ends the process");
    else if (signal !== undefined) log.info(`${signal}: finishing what was accepted`);
    await closeAll(closing, log);
  });
  try {
    await start(config, log, closing);
  } catch (error) {
    await closeAll(closing, log);
    if (error instanceof EmbeddedPostgresError || error instanceof UnsafeDatabaseError) {
      fail(error.message);
    }
    if (error instanceof Error && "code" in error && error.code === "EADDRINUSE") {
      fail(`PORT ${config.port} on ${config.host} is in use; stop what uses it, or set PORT`);
    }
    const syscall = error instanceof Error && "syscall" in error ? error.syscall : undefined;
    const isHostUnknown =
      error instanceof Error && "hostname" in error && error.hostname === config.host;
    if (error instanceof Error && (syscall === "listen" || isHostUnknown)) {
      fail(`HOST ${config.host}, PORT ${config.port}: cannot listen there (${error.message})`);
    }
    throw error;
  }
}

await main();
