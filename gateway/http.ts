/**
 * The HTTP gateway: puts the routes, the OpenAPI document and the health endpoints onto the server
 * of `http-server.ts`. What a request means is in the route files, what a command means behind the
 * command desk.
 */
import type { FastifyBaseLogger, FastifyInstance } from "fastify";

import type { Bus } from "../src/core/bus.ts";
import { LIMITS } from "../src/limits.ts";
import type { Metrics } from "../src/telemetry/metrics.ts";
import type { Assets } from "../src/assets.ts";
import type { RelayStatus } from "../src/core/protocol.ts";
import type { ReadModel } from "../src/core/read-model.ts";
import type { Tracing } from "../src/telemetry/tracing.ts";
import type { GiveAnswer } from "./answers.ts";
import { addAssetRoutes } from "./routes/asset-routes.ts";
import type { Batches } from "./batch.ts";
import { addBatchRoute } from "./routes/batch-routes.ts";
import { addClusterRoutes, type ClusterRoutesDeps } from "./routes/cluster-routes.ts";
import type { TakeIn } from "./command-intake.ts";
import type { CommandDesk } from "./commands.ts";
import { addGameRoutes } from "./routes/game-routes.ts";
import { addHealthRoutes, type HealthProbe } from "./routes/health-routes.ts";
import { buildServer, type InputTypes } from "./http-server.ts";
import { addHoldRoutes } from "./routes/hold-routes.ts";
import { addLedgerRoutes } from "./routes/ledger-routes.ts";
import { addMetricsRoute } from "./routes/metrics-route.ts";
import { describeApi } from "./openapi.ts";
import type { RateLimit } from "./rate-limit.ts";
import { addReadRoutes } from "./routes/read-routes.ts";
import { NoQuery } from "./schemas.ts";
import { addWalletRoutes, buildRun } from "./routes/wallet-routes.ts";
import { addWebhookRoutes, type WebhookRoutesDeps } from "./routes/webhook-routes.ts";

export interface GatewayOptions {
  readonly commands: Pick<CommandDesk, "submit" | "pending">;
  readonly takeIn: TakeIn;
  readonly answer: GiveAnswer;
  /** Shared with the NATS service of the process, so that one bound holds for both. */
  readonly batches: Batches;
  readonly readModel: ReadModel;
  readonly bus: Pick<Bus, "state" | "ping">;
  readonly assets: Assets;
  /** Coffer's version, for the OpenAPI document and the health endpoints. */
  readonly version: string;
  readonly log: FastifyBaseLogger;
  /**
   * What commands or readers need besides the database and the bus, such as a host that owns its
   * shards.
   */
  readonly probes?: readonly HealthProbe[];
  /** What `/health/nats/stats` shows; without it the bus is in-process. */
  readonly busStats?: () => object;
  /** What `GET /cluster` looks at; without it there is no such path. */
  readonly cluster?: ClusterRoutesDeps;
  /** What `GET /metrics` shows; without them there is no such path and nothing is counted. */
  readonly metrics?: Metrics;
  readonly tracing?: Tracing | null;
  /** Without one, requests are not counted per client. */
  readonly rateLimit?: RateLimit | null;
  readonly trustProxy?: readonly string[];
  /** Webhooks; without it there are no such paths. */
  readonly webhooks?: WebhookRoutesDeps;
  /**
   * How far the relay of this process's host is; without a host here, it is the hosts that show it.
   */
  readonly relayStatus?: () => readonly RelayStatus[];
}

/**
 * Makes the gateway; `listen` and `close` are the caller's. More plugins and routes may be
 * registered until then.
 */
export function buildGateway(options: GatewayOptions): FastifyInstance {
  const { commands, takeIn, answer, batches, readModel, bus, assets, version, log } = options;
  const { metrics, tracing, rateLimit = null, trustProxy } = options;
  const app = buildServer(log, { metrics, tracing, trustProxy });
  // Before the routes that it counts.
  if (rateLimit !== null) rateLimit.limit(app);
  describeApi(app, version);
  // In a plugin, so that they come after the one that collects their schemas.
  void app.register((plugin, _options, done) => {
    const routes = plugin.withTypeProvider<InputTypes>();
    refuseQueriesOfWrites(plugin);
    const run = buildRun({ commands, takeIn, answer });
    addWalletRoutes(routes, run);
    addBatchRoute(routes, batches);
    addHoldRoutes(routes, run, readModel);
    addGameRoutes(routes, run, readModel);
    addAssetRoutes(routes, assets);
    addReadRoutes(routes, readModel);
    addLedgerRoutes(routes, readModel, assets);
    if (options.cluster !== undefined) addClusterRoutes(routes, options.cluster);
    if (metrics !== undefined) addMetricsRoute(routes, metrics);
    if (options.webhooks !== undefined) addWebhookRoutes(routes, options.webhooks);
    addHealthRoutes(routes, {
      version,
      bus,
      probes: [
        {
          name: "database",
          isNeededForCommands: true,
          probe: () => readModel.ping(),
        },
        {
          name: "bus",
          isNeededForCommands: true,
          probe: () => bus.ping(LIMITS.healthCheckMs),
        },
        ...(options.probes ?? []),
      ],
      stats: () => ({
        bus: options.busStats?.() ?? { kind: "in-process", state: bus.state },
        commandsPending: commands.pending,
        ...(options.relayStatus !== undefined && { relay: options.relayStatus() }),
      }),
    });
    done();
  });
  return app;
}

const READS: ReadonlySet<string> = new Set(["GET", "HEAD"]);

/**
 * What a write is told stands in its body. A `?dryRun=true` that nobody reads would move money,
 * or delete something, so it is refused like an unknown field.
 */
function refuseQueriesOfWrites(app: FastifyInstance): void {
  app.addHook("onRoute", (route) => {
    const isRead = [route.method].flat().every((method) => READS.has(method));
    if (!isRead) route.schema = { querystring: NoQuery, ...route.schema };
  });
}
