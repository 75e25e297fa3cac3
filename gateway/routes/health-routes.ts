/**
 * The health endpoints: is the process there (`live`), can it serve commands (`ready`), and how
 * does each dependency stand. Probes are bounded in time and shared: however many monitors ask at
 * once, each dependency is probed once.
 */
import type { FastifyInstance } from "fastify";
import { Type, type Static } from "typebox";

import type { Bus } from "../../src/core/bus.ts";
import { LIMITS } from "../../src/limits.ts";
import { messageOf } from "../../src/message-of.ts";
import { RETRY_AFTER_SECONDS } from "../errors.ts";
import { words } from "../schemas.ts";

export interface HealthProbe {
  readonly name: string;
  /** While this one is down, commands cannot be served and the process is not ready. */
  readonly isNeededForCommands: boolean;
  /**
   * Resolves to the latency in milliseconds; rejects, with a reason for people, when the dependency
   * is down.
   */
  probe(): Promise<number>;
}

export interface HealthOptions {
  readonly version: string;
  readonly bus: Pick<Bus, "state" | "ping">;
  readonly probes: readonly HealthProbe[];
  /** What `/health/nats/stats` answers with. */
  readonly stats: () => object;
}

type Check = Static<typeof CheckBody>;
type Health = Pick<Static<typeof HealthBody>, "status" | "checks">;

export function addHealthRoutes(app: FastifyInstance, options: HealthOptions): void {
  const { version, bus, probes, stats } = options;
  const startedAtMs = performance.now();
  let probing: Promise<Health> | undefined;

  function health(): Promise<Health> {
    probing ??= assess(probes).finally(() => {
      probing = undefined;
    });
    return probing;
  }

  for (const path of ["/health", "/health/ready", "/api/v1/health"]) {
    const summary = "Whether commands can be served, and how each dependency stands";
    const also = path === "/health" ? "" : " The same answer as `/health`.";
    const description = `\`up\` and \`degraded\` are 200: commands are served, also while something else is down. \`down\` is 503.${also}`;
    app.get(
      path,
      { schema: { ...schemaOf(summary, HealthBody), description }, config: UNLIMITED },
      async (_request, reply) => {
        const { status, checks } = await health();
        reply.code(status === "down" ? 503 : 200).header("cache-control", "no-store");
        if (status === "down") reply.header("retry-after", RETRY_AFTER_SECONDS);
        const uptimeSeconds = Math.floor((performance.now() - startedAtMs) / 1_000);
        return { status, version, uptimeSeconds, checks };
      },
    );
  }
  const live = schemaOf("Whether the process is there", LiveBody);
  app.get("/health/live", { schema: live, config: UNLIMITED }, () => ({ status: "up" }));
  const nats = schemaOf("The connection to the bus", BusBody);
  app.get("/health/nats", { schema: nats, config: UNLIMITED }, async (_request, reply) => {
    const check = await assessOne(() => bus.ping(LIMITS.healthCheckMs));
    reply.code(check.state === "down" ? 503 : 200).header("cache-control", "no-store");
    if (check.state === "down") reply.header("retry-after", RETRY_AFTER_SECONDS);
    const { state: status, ...rest } = check;
    return { status, connection: bus.state, ...rest };
  });
  const counts = schemaOf("What the bus and the command desk have counted", StatsBody);
  app.get("/health/nats/stats", { schema: counts, config: UNLIMITED }, () => stats());
}

/** Whoever watches is not counted: see `gateway/rate-limit.ts`. */
const UNLIMITED = { rateLimit: false } as const;

const State = words("up", "down");
const Latency = Type.Unsafe<number | null>({
  type: ["number", "null"],
  description: "Null when there was no answer",
});
const Reason = Type.Optional(Type.String({ description: "Why it is down" }));
const CheckBody = Type.Object({ state: State, latencyMs: Latency, reason: Reason });
const HealthBody = Type.Object({
  status: words("up", "degraded", "down"),
  version: Type.String({ description: "Coffer's" }),
  uptimeSeconds: Type.Integer(),
  checks: Type.Unsafe<Record<string, Static<typeof CheckBody>>>({
    type: "object",
    additionalProperties: CheckBody,
    description: "By name, such as `database` and `bus`; docs/operations.md tells of the others",
    examples: [
      { database: { state: "up", latencyMs: 0.64 }, bus: { state: "up", latencyMs: 0.2 } },
    ],
  }),
});
const LiveBody = Type.Object({ status: words("up") });
const BusBody = Type.Object({
  status: State,
  connection: words("connected", "reconnecting", "closed"),
  latencyMs: Latency,
  reason: Reason,
});
const StatsBody = Type.Object(
  {},
  {
    additionalProperties: true,
    description:
      "`bus`: without NATS its `kind` and `state`, over NATS what it has counted; `commandsPending`: commands that wait for their answers; `relay`, of a process with a host: how far each sink of events is, with `lagEvents` and `lagMs`, and in `state` and `reason` what keeps it",
    examples: [
      {
        bus: { kind: "in-process", state: "connected" },
        commandsPending: 12,
        relay: [
          {
            sink: "stream",
            state: "open",
            delivered: 5120,
            retries: 0,
            lagEvents: 0,
            lagMs: 0,
            failingShards: 0,
            buffered: 0,
            reason: null,
          },
        ],
      },
    ],
  },
);

function schemaOf(summary: string, body: object): object {
  const isHealth = body !== LiveBody && body !== StatsBody;
  const response = isHealth ? { 200: body, 503: body } : { 200: body };
  return { tags: ["health"], summary, response };
}

async function assess(probes: readonly HealthProbe[]): Promise<Health> {
  const results = await Promise.all(
    probes.map(async (each) => ({ ...each, check: await assessOne(() => each.probe()) })),
  );
  const failed = results.filter(({ check }) => check.state === "down");
  const isDown = failed.some(({ isNeededForCommands }) => isNeededForCommands);
  return {
    status: isDown ? "down" : failed.length > 0 ? "degraded" : "up",
    checks: Object.fromEntries(results.map(({ name, check }) => [name, check])),
  };
}

async function assessOne(probe: () => Promise<number>): Promise<Check> {
  let timer: NodeJS.Timeout | undefined;
  const timeout = new Promise<never>((_resolve, reject) => {
    const reason = new Error(`no answer within ${LIMITS.healthCheckMs} ms`);
    // In a process that was busy for so long the answer may be there and not read yet.
    timer = setTimeout(() => setImmediate(() => reject(reason)), LIMITS.healthCheckMs);
  });
  try {
    const latencyMs = await Promise.race([probe(), timeout]);
    return { state: "up", latencyMs: Math.round(latencyMs * 100) / 100 };
  } catch (error) {
    const reason = messageOf(error);
    return { state: "down", latencyMs: null, reason };
  } finally {
    clearTimeout(timer);
  }
}
