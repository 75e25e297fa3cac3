/**
 * The HTTP gateway: puts the routes, the OpenAPI document and the health endpoints onto the server of `http-server.ts`. It only
 * wires: what a request means is in the route files, what a command means behind the command desk.
 */
import fastifySwagger from "@fastify/swagger";
import fastifySwaggerUi from "@fastify/swagger-ui";
import type { FastifyBaseLogger, FastifyInstance } from "fastify";

import type { Asset } from "../src/assets.ts";
import type { Bus } from "../src/bus.ts";
import { LIMITS } from "../src/limits.ts";
import type { ReadModel } from "../src/read-model.ts";
import { buildAnswers } from "./answers.ts";
import { buildCommandIntake } from "./command-intake.ts";
import type { CommandDesk } from "./commands.ts";
import { addHealthRoutes, type HealthProbe } from "./health-routes.ts";
import { buildServer } from "./http-server.ts";
import { addReadRoutes } from "./read-routes.ts";
import { addWalletRoutes } from "./wallet-routes.ts";

export interface Assets {
  assetOf(code: string): Asset | null;
  allAssets(): readonly Asset[];
}

export interface GatewayOptions {
  readonly commands: Pick<CommandDesk, "submit" | "pending">;
  readonly readModel: ReadModel;
  readonly bus: Pick<Bus, "state" | "ping">;
  readonly assets: Assets;
  /** Coffer's version, for the OpenAPI document and the health endpoints. */
  readonly version: string;
  readonly log: FastifyBaseLogger;
  /** What commands or readers need besides the database and the bus, such as a host that owns its shards. */
  readonly probes?: readonly HealthProbe[];
  /** What `/health/nats/stats` shows; without it the bus is in-process. */
  readonly busStats?: () => object;
}

/** Makes the gateway; `listen` and `close` are the caller's. More plugins and routes may be registered until then. */
export function buildGateway(options: GatewayOptions): FastifyInstance {
  const { commands, readModel, bus, assets, version, log } = options;
  const app = buildServer(log);
  describeApi(app, version);
  const takeIn = buildCommandIntake((code) => assets.assetOf(code));
  const answer = buildAnswers({ readModel, log });
  // In a plugin, so that they come after the one that collects their schemas.
  void app.register((routes, _options, done) => {
    addWalletRoutes(routes, { commands, takeIn, answer });
    addReadRoutes(routes, { readModel, assets });
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
      }),
    });
    done();
  });
  return app;
}

function describeApi(app: FastifyInstance, version: string): void {
  void app.register(fastifySwagger, {
    openapi: {
      openapi: "3.1.0",
      info: {
        title: "Coffer",
        version,
        description: "A wallet cluster: each wallet is an actor, each answer is durable.",
      },
    },
    refResolver: {
      buildLocalReference({ $id }, _base, _fragment, index) {
        return typeof $id === "string" ? $id : `schema-${index}`;
      },
    },
  });
  void app.register(fastifySwaggerUi, { routePrefix: "/docs" });
  void app.register((routes, _options, done) => {
    routes.get("/", { schema: { hide: true } }, (_request, reply) => reply.redirect("/docs"));
    routes.get("/openapi.json", { schema: { hide: true } }, () => app.swagger());
    done();
  });
}
