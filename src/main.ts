/**
 * The entry: reads the settings, makes the parts of the process's role, connects them, and takes
 * them down in the order in which nothing accepted is lost: no new requests, then answers for the
 * old ones, then the lanes, the bus and the database. It only wires, with `main-host.ts` and
 * `main-gateway.ts`; these three are the only files that know both actors and gateway.
 */
import "./pretenuring.ts";
import "./navigator.ts";
import closeWithGrace, { type Options } from "close-with-grace";
import type { FastifyInstance } from "fastify";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Logger } from "pino";
import type { Host } from "../actors/host.ts";
import { ConfigError, readConfig, type Config } from "./config.ts";
import { openDatabases, UnsafeDatabaseError } from "./database.ts";
import { buildBusGuard, type BusGuard } from "./bus/bus-guard.ts";
import { prepareWhenThere, watchDeployment } from "./deployment.ts";
import { EmbeddedPostgresError } from "./embedded/embedded-postgres.ts";
import { LIMITS } from "./limits.ts";
import { listenOnce } from "./listen-once.ts";
import { buildLog } from "./log.ts";
import { buildMemoryBus } from "./bus/memory-bus.ts";
import { buildMetrics } from "./telemetry/metrics.ts";
import type { NatsBus } from "./bus/nats-bus.ts";
import { nodeTrouble } from "./node-version.ts";
import { packageRoot } from "./package-root.ts";
import type { Tracing } from "./telemetry/tracing.ts";
import type { RunningHost } from "./main-host.ts";
import { closeAll, type Closing, type Parts } from "./parts.ts";
import { takeWarnings } from "./warnings.ts";

async function start(config: Config, log: Logger, closing: Closing): Promise<void> {
  // The server listens only when it can serve; that it cannot listen is told before a database is
  // made for nothing.
  await listenOnce(config.port, config.host);
  // Nearly all that there is to load: bad settings are told before that, and a host without a
  // gateway loads none.
  const { buildHostServer, buildRunningHost } = await import("./main-host.ts");
  const parts = await openParts(config, log, closing);
  const guard = openBusGuard(parts);
  if (config.role === "gateway") {
    await joinDeployment(parts, guard);
    announce(parts, null, await listen(await openGateway(parts, null), config));
    return;
  }
  const running = await buildRunningHost(parts);
  let address: string;
  if (config.role === "host") {
    // It tells its health from the first moment, also while it waits for a database.
    address = await listen(buildHostServer(parts, running), config);
    await prepare(parts, guard);
  } else {
    await prepare(parts, guard);
    // Before the shards: who cannot serve must not take them from the one who does.
    address = await listen(await openGateway(parts, running), config);
  }
  await running.host.start();
  running.reconciliation?.start();
  await running.startRelaying();
  announce(parts, running.host, address);
}

/** What both gateways and hosts need; it takes nothing from the bus yet. */
async function openParts(config: Config, log: Logger, closing: Closing): Promise<Parts> {
  const version = versionOf(readFileSync(join(packageRoot, "package.json"), "utf8"));
  const { role } = config;
  const metrics = buildMetrics({ role, version });
  const tracing = await startTracing(config, version, log);
  // Closed last, so that it has the spans of the end, too.
  if (tracing !== null) closing.push({ name: "traces", close: () => tracing.stop() });
  const databases = await openDatabases(config.databaseUrls, config.dataDir, log);
  closing.push({ name: "databases", close: () => databases.stop() });
  const isLimited = role !== "host" && config.rateLimitPerSecond !== undefined;
  const usesRedis = isLimited || role === "host" || (role === "all" && config.natsUrls.length > 0);
  if (config.redisUrl !== undefined && !usesRedis) log.info("REDIS_URL is not used here");
  const natsBus = await openNatsBus(config, log);
  const bus = natsBus ?? buildMemoryBus();
  closing.push({ name: "bus", close: () => bus.drain() });
  const stopWatching = metrics.watchBus(bus, natsBus === null ? null : () => natsBus.stats());
  closing.push({ name: "watching the bus", close: () => Promise.resolve(stopWatching()) });
  const deployment = { id: null };
  return { config, version, log, databases, deployment, bus, natsBus, metrics, tracing, closing };
}

/** Null: nobody else can be on the bus. */
function openBusGuard({ config, bus, natsBus, log, closing }: Parts): BusGuard | null {
  if (natsBus === null) return null;
  const guard = buildBusGuard({
    bus,
    name: config.hostId,
    log,
    onForeign: (reason) => endAtOnce(log, reason),
  });
  closing.push({ name: "bus guard", close: () => Promise.resolve(guard.close()) });
  return guard;
}

/** Prepares the databases of a host, and sees that nobody else's are served on this bus. */
async function prepare(parts: Parts, guard: BusGuard | null): Promise<void> {
  const deploymentId = await prepareWhenThere(parts.databases.urls, parts.log);
  parts.deployment.id = deploymentId;
  await guard?.join(deploymentId);
}

/** The same for a gateway alone, which writes nothing and need not wait for its databases. */
async function joinDeployment(parts: Parts, guard: BusGuard | null): Promise<void> {
  const { databases, log, closing } = parts;
  let joined: Promise<void> | undefined;
  const watching = await watchDeployment({
    databaseUrls: databases.urls,
    log,
    onMismatch: (message) => endAtOnce(log, message),
    onKnown: (deploymentId) => {
      joined = guard?.join(deploymentId);
    },
  });
  closing.push({ name: "deployment", close: () => Promise.resolve(watching.stop()) });
  await joined;
}

async function openGateway(parts: Parts, running: RunningHost | null): Promise<FastifyInstance> {
  const { startGateway } = await import("./main-gateway.ts");
  return await startGateway(parts, running);
}

function listen(server: FastifyInstance, { port, host }: Config): Promise<string> {
  return server.listen({ port, host, backlog: LIMITS.httpBacklog });
}

function endAtOnce(log: Logger, reason: string): never {
  log.fatal(reason);
  process.exit(1);
}

function versionOf(packageJson: string): string {
  return (JSON.parse(packageJson) as { version: string }).version;
}

/**
 * At once, also while no server is there: it connects when it can, and health says so meanwhile.
 */
async function openNatsBus({ natsUrls, hostId }: Config, log: Logger): Promise<NatsBus | null> {
  if (natsUrls.length === 0) return null;
  const { buildNatsBus } = await import("./bus/nats-bus.ts");
  return buildNatsBus({ url: natsUrls.join(","), name: `coffer-${hostId}`, log });
}

/** OpenTelemetry reads its own variables: `OTEL_EXPORTER_OTLP_ENDPOINT` and so on. */
async function startTracing(
  { isTraced, hostId, role }: Config,
  version: string,
  log: Logger,
): Promise<Tracing | null> {
  if (!isTraced) return null;
  const { buildOpenTelemetry } = await import("./telemetry/open-telemetry.ts");
  return buildOpenTelemetry({ version, hostId, role, log });
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

function fail(text: string): never {
  process.stderr.write(`${text}\n`);
  process.exit(1);
}

/**
 * What ends the process comes twice under npm, which passes on what it was told: the terminal tells
 * Ctrl-C to every process, and a supervisor often tells all of a service. So does the end of a
 * terminal: its shell says it, and the system once the shell is gone. The copy must not cut the end
 * short; whoever asks again after that means it.
 */
function onEndSignal(end: (signal: string) => void): void {
  let firstMs: number | undefined;
  for (const signal of END_SIGNALS) {
    process.on(signal, () => {
      if (firstMs === undefined) {
        firstMs = performance.now();
        end(signal);
      } else if (performance.now() - firstMs > LIMITS.endCopyMs) process.exit(1);
    });
  }
}

const END_SIGNALS = ["SIGINT", "SIGTERM", "SIGHUP"] as const;

/**
 * What the process itself has done: heard by JavaScript, which cannot run there, they come again for
 * ever (Node's documentation of signal events), and a process that should be gone takes a whole core.
 */
const FAULTS = ["SIGILL", "SIGTRAP", "SIGABRT", "SIGBUS", "SIGFPE", "SIGSEGV"] as const;

const finishing = (signal: string): string => `${signal}: finishing what was accepted`;

async function main(): Promise<void> {
  const trouble = nodeTrouble(process.versions.node);
  if (trouble !== null) fail(trouble);
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
  takeWarnings((text) => log.warn(text));
  const closing: Closing = [];
  let isEnding = false;
  const skip = [...END_SIGNALS, ...FAULTS];
  const options: Options = { delay: LIMITS.shutdownMs, logger: false, skip };
  const grace = closeWithGrace(options, async ({ err, signal }) => {
    isEnding = true;
    if (err) log.fatal({ err }, "an error that nobody expected ends the process");
    else if (signal !== undefined) log.info(finishing(signal));
    await closeAll(closing, log);
  });
  onEndSignal((signal) => {
    if (isEnding) return;
    log.info(finishing(signal));
    grace.close();
  });
  try {
    await start(config, log, closing);
  } catch (error) {
    isEnding = true;
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
