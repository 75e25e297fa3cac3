/**
 * A gateway, wired: the command desk, reads, feed, HTTP and the NATS service, on whatever bus there
 * is. With a host in the same process it shows that one's health, too. One of the three files that
 * know actors and gateway (`main.ts`).
 */
import type { FastifyInstance } from "fastify";
import { buildAnswers } from "../gateway/answers.ts";
import { buildBatches } from "../gateway/batch.ts";
import { buildCommandIntake } from "../gateway/command-intake.ts";
import { buildCommandDesk } from "../gateway/commands.ts";
import { buildFeedHub } from "../gateway/feed/feed.ts";
import type { HealthProbe } from "../gateway/routes/health-routes.ts";
import { buildGateway } from "../gateway/http.ts";
import type { WalletService, WalletServiceOptions } from "../gateway/nats-service.ts";
import type { RateLimit } from "../gateway/rate-limit.ts";
import { traceCommands } from "../gateway/traced-commands.ts";
import { uuidv7 } from "../gateway/uuid.ts";
import { buildFeedSocket } from "../gateway/feed/websocket.ts";
import type { Bus } from "./core/bus.ts";
import { systemTime } from "./clock.ts";
import { LIMITS } from "./limits.ts";
import { buildPostgresAssets } from "./postgres/assets.ts";
import { buildPostgresReadModel } from "./postgres/read-model.ts";
import { buildPostgresShardTable } from "./postgres/shard-table.ts";
import { buildPostgresWebhooks } from "./postgres/webhooks.ts";
import { SUBJECTS } from "./core/protocol.ts";
import { databaseProbes, hostProbes, type RunningHost } from "./main-host.ts";
import type { NatsBus } from "./bus/nats-bus.ts";
import type { Parts } from "./parts.ts";

export async function startGateway(
  parts: Parts,
  running: RunningHost | null,
): Promise<FastifyInstance> {
  const { config, databases, bus, natsBus, version, metrics, tracing, log, closing } = parts;
  const readModel = buildPostgresReadModel({ databaseUrls: databases.urls, log });
  closing.push({ name: "reads", close: () => readModel.close() });
  const shardTable = buildPostgresShardTable(databases.urls);
  closing.push({ name: "reads of the shard table", close: () => shardTable.close() });
  const gatewayId = `${config.hostId}-${uuidv7()}`;
  const desk = buildCommandDesk({ bus, gatewayId, log, meter: metrics.commands });
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
  await assets.review();
  const rateLimit = await openRateLimit(parts);
  metrics.watchGateway({ commands, feed: () => hub.stats(), rateLimit });
  const takeIn = buildCommandIntake((code) => assets.assetOf(code));
  const answer = buildAnswers({ readModel, log });
  const batches = buildBatches({ commands, takeIn, answer, log, metrics });
  const answering = { commands, takeIn, answer, batches, readModel };
  const webhooks = buildPostgresWebhooks(databases.urls);
  closing.push({ name: "webhooks of the gateway", close: () => webhooks.close() });
  const server = buildGateway({
    ...answering,
    bus,
    assets,
    cluster: { bus, shardTable, gatewayId },
    webhooks: { store: webhooks, allowsPrivate: config.webhookPrivate },
    version,
    log,
    metrics,
    tracing,
    rateLimit,
    trustProxy: config.trustProxy,
    probes: [
      ...databaseProbes(databases.urls, shardTable, running?.host ?? null),
      ...(running === null ? [ownerProbe(bus)] : hostProbes(running)),
    ],
    ...(natsBus === null ? {} : { busStats: () => natsBus.stats() }),
    ...(running === null ? {} : { relayStatus: () => running.host.status().relay ?? [] }),
  });
  await server.register(buildFeedSocket({ hub, origins: config.feedOrigins }));
  closing.push({ name: "batches", close: () => batches.drain() });
  closing.push({ name: "http", close: () => server.close() });
  closing.push({ name: "feed", close: () => hub.drain() });
  if (natsBus !== null) {
    const close = openService(natsBus, { ...parts, ...answering });
    closing.push({ name: "service", close });
  }
  // First of all: what has begun gets the time that is left.
  closing.push({ name: "batches", close: () => Promise.resolve(void batches.drain()) });
  return server;
}

/** Takes requests over NATS as soon as that is there; returns how to stop. */
function openService(
  natsBus: NatsBus,
  options: Omit<WalletServiceOptions, "connection">,
): () => Promise<void> {
  let started: WalletService | null = null;
  let isEnding = false;
  const start = async (): Promise<WalletService> => {
    const { buildWalletService } = await import("../gateway/nats-service.ts");
    return await buildWalletService({ ...options, connection: await natsBus.connection });
  };
  start().then(
    (it) => {
      started = it;
    },
    (error: unknown) => {
      // With the bus, while it waited for NATS.
      if (!isEnding) options.log.error({ err: error }, "the NATS service did not start");
    },
  );
  // One that waits for NATS takes no requests; it ends with the bus, which is closed after it.
  return async () => {
    isEnding = true;
    await started?.stop();
  };
}

/** Loaded where requests are limited, as its Redis client takes a tenth of the start. */
async function openRateLimit({ config, log, closing }: Parts): Promise<RateLimit | null> {
  const { rateLimitPerSecond: perSecond, redisUrl, hostId } = config;
  if (perSecond === undefined) return null;
  const { buildRateLimit } = await import("../gateway/rate-limit.ts");
  const rateLimit = buildRateLimit({ perSecond, redisUrl, name: `coffer-${hostId}-rate`, log });
  closing.push({ name: "rate limit", close: () => rateLimit.close() });
  return rateLimit;
}

/** A gateway without a host of its own: is anybody there to take commands? */
function ownerProbe(bus: Bus): HealthProbe {
  return {
    name: "host",
    isNeededForCommands: true,
    probe: async () => {
      const startedAtMs = performance.now();
      let isMissing = false;
      // Nobody answers there, but the bus knows whether it arrived.
      bus.publish(SUBJECTS.serving, {}, () => {
        isMissing = true;
      });
      await bus.ping(LIMITS.healthCheckMs);
      if (isMissing) throw new Error("no host serves this gateway's commands");
      return performance.now() - startedAtMs;
    },
  };
}
