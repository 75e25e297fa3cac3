/**
 * Real servers for tests and benches: NATS, Redis and PostgreSQL on free ports of 127.0.0.1 with
 * temporary folders. A server is stopped by `stop()`, or at the latest when this process ends, also
 * by a signal. Binaries come from the PATH; where they are missing, root on Debian or Ubuntu gets
 * them by apt-get, once. A shared server may also be one that already runs, named by TEST_NATS_URL,
 * TEST_REDIS_URL or TEST_DATABASE_URL; it is never stopped, killed or restarted from here.
 */
import { spawn, spawnSync, type ChildProcess } from "node:child_process";
import { accessSync, constants, existsSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import {
  startEmbeddedPostgres,
  type EmbeddedPostgres,
} from "../../src/embedded/embedded-postgres.ts";
import { freePort } from "./free-port.ts";

const readyMsMax = 15_000;
const stopMsMax = 5_000;
const portAttemptsMax = 5;

export interface TestServer {
  readonly url: string;
  readonly port: number;
  /** Of the process that runs now; 0 when none does, or when it is not ours. */
  readonly pid: number;
  /** Ends it, in order if its folder stays, and removes a temporary one. */
  stop(): Promise<void>;
  /** A crash: SIGKILL. Port and data stay for `restart()`. */
  kill(): Promise<void>;
  /** Starts it again on the same port and data, after stopping it if it still runs. */
  restart(): Promise<void>;
}

export interface ServerOptions {
  /** Default: a free one. */
  port?: number;
  /** True when the caller only uses the server: then one that already runs will do. */
  shared?: boolean;
  /**
   * Where its data stays when it has stopped; made if it is missing. Default: a temporary folder
   * that goes with the server.
   */
  folder?: string;
}

/** One server of a NATS cluster. */
interface ClusterMember {
  name: string;
  routePort: number;
  otherRoutePorts: readonly number[];
}

export async function startNats(
  options: ServerOptions & {
    jetstream?: boolean;
    login?: { user: string; pass: string };
    member?: ClusterMember;
  } = {},
): Promise<TestServer> {
  const { member } = options;
  return await startBinary(options, {
    name: "NATS",
    binary: "nats-server",
    variable: "TEST_NATS_URL",
    scheme: "nats",
    args: (port, folder) => [
      "-a",
      "127.0.0.1",
      "-p",
      String(port),
      ...(options.jetstream === true ? ["-js", "-sd", folder] : []),
      ...(options.login ? ["--user", options.login.user, "--pass", options.login.pass] : []),
      ...(member === undefined ? [] : clusterArgs(member)),
    ],
    greeting: "",
    answer: /^INFO \{/,
  });
}

function clusterArgs({ name, routePort, otherRoutePorts }: ClusterMember): string[] {
  const cluster = `nats://127.0.0.1:${routePort}`;
  const routes = otherRoutePorts.map((port) => `nats://127.0.0.1:${port}`).join();
  return ["--name", name, "--cluster_name", "test", "--cluster", cluster, "--routes", routes];
}

/** One JetStream over several servers, each of which is killed and restarted by itself. */
export async function startNatsCluster(size: number): Promise<TestServer[]> {
  const routePorts = await Promise.all(Array.from({ length: size }, () => freePort()));
  return await Promise.all(
    routePorts.map((routePort, index) =>
      startNats({
        jetstream: true,
        member: {
          name: `n${index}`,
          routePort,
          otherRoutePorts: routePorts.filter((other) => other !== routePort),
        },
      }),
    ),
  );
}

export async function startRedis(options: ServerOptions = {}): Promise<TestServer> {
  return await startBinary(options, {
    name: "Redis",
    binary: "redis-server",
    variable: "TEST_REDIS_URL",
    scheme: "redis",
    args: (port, folder) =>
      `--bind 127.0.0.1 --port ${port} --appendonly no`
        .split(" ")
        .concat("--save", "", "--dir", folder),
    greeting: "PING\r\n",
    answer: /^\+PONG/,
  });
}

/** The embedded PostgreSQL in a temporary folder. `kill()` ends the whole process tree. */
export async function startPostgres(
  options: ServerOptions & { settings?: Record<string, string> } = {},
): Promise<TestServer> {
  const running = process.env["TEST_DATABASE_URL"];
  if (options.shared === true && running) return outsideServer("PostgreSQL", running);

  const { folder, removeFolder } = dataFolder("postgres", options);
  const start = (port: number | undefined): Promise<EmbeddedPostgres> =>
    startEmbeddedPostgres({
      dataDir: folder,
      settings: {
        shared_buffers: "128MB",
        max_wal_size: "1GB",
        // PostgreSQL divides it by the number of databases, of which a run makes hundreds.
        autovacuum_naptime: "10min",
        ...options.settings,
      },
      ...(port === undefined ? {} : { port }),
    });
  let server: EmbeddedPostgres | undefined;
  try {
    server = await start(options.port);
    if (options.shared === true) await makeLoginsCheap(server.url);
  } catch (error) {
    await server?.kill();
    removeFolder();
    throw error;
  }
  const { url, port } = server;
  removeFolder.again();
  return {
    url,
    port,
    get pid() {
      return server?.pid ?? 0;
    },
    async stop() {
      // What goes with its folder needs no last checkpoint, which after a whole run takes seconds.
      await (options.folder === undefined ? server?.kill() : server?.stop());
      server = undefined;
      if (options.shared === true) removeFolder.aside();
      else removeFolder();
    },
    async kill() {
      await server?.kill();
      server = undefined;
    },
    async restart() {
      await server?.stop();
      server = await start(port);
    },
  };
}

/**
 * A run logs in some 6,000 times, and each login works through the iterations of SCRAM on both
 * sides: a third of its time. They only make weak passwords hard to guess, and this one is random.
 */
async function makeLoginsCheap(serverUrl: string): Promise<void> {
  const { username, password } = new URL(serverUrl);
  const role = `${pg.escapeIdentifier(username)} PASSWORD ${pg.escapeLiteral(password)}`;
  await onServer(serverUrl, `SET scram_iterations = 1; ALTER ROLE ${role}`);
}

/**
 * Makes a fresh database (an old one of that name goes) on a running server and returns its
 * address.
 */
export async function createDatabase(
  serverUrl: string,
  name: string,
  options = "",
): Promise<string> {
  const create = `CREATE DATABASE ${pg.escapeIdentifier(name)} ${options}`;
  await onServer(serverUrl, dropStatement(name), create);
  const url = new URL(serverUrl);
  url.pathname = `/${encodeURIComponent(name)}`;
  return url.href;
}

/**
 * Ends its sessions, and drops it only where the server stays (TEST_DATABASE_URL). Otherwise it
 * goes with the server's folder: each drop writes a checkpoint, and ext4 makes no file without a look at all
 * inodes that were given up within the last minutes, so that hundreds of drops took a fifth of the
 * whole run.
 */
export async function dropDatabase(serverUrl: string, name: string): Promise<void> {
  await onServer(
    serverUrl,
    process.env["TEST_DATABASE_URL"]
      ? dropStatement(name)
      : `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
         WHERE datname = ${pg.escapeLiteral(name)}`,
  );
}

function dropStatement(name: string): string {
  return `DROP DATABASE IF EXISTS ${pg.escapeIdentifier(name)} WITH (FORCE)`;
}

/** Runs statements one by one in a session of their own. */
export async function onServer(serverUrl: string, ...statements: string[]): Promise<void> {
  const client = new pg.Client({ connectionString: serverUrl, connectionTimeoutMillis: 10_000 });
  client.on("error", () => {});
  await client.connect();
  try {
    for (const sql of statements) await client.query(sql);
  } finally {
    await client.end();
  }
}

// --- Servers that are one binary -----------------------------------------------------------------

interface BinarySpec {
  name: string;
  binary: string;
  variable: string;
  scheme: string;
  args: (port: number, folder: string) => string[];
  /** Sent after connecting; what comes back proves that the server is ready. */
  greeting: string;
  answer: RegExp;
}

async function startBinary(options: ServerOptions, spec: BinarySpec): Promise<TestServer> {
  const running = process.env[spec.variable];
  if (options.shared === true && running) return outsideServer(spec.name, running);
  const binary = provideBinary(spec, options.shared === true);
  const { folder, removeFolder } = dataFolder(spec.binary, options);
  let child: ChildProcess | undefined;
  let port = 0;
  try {
    for (let attempt = 1; child === undefined; attempt += 1) {
      port = options.port ?? (await freePort());
      try {
        child = await spawnReady(binary, spec, port, folder);
      } catch (error) {
        if (options.port !== undefined || attempt >= portAttemptsMax) throw error;
      }
    }
  } catch (error) {
    removeFolder();
    throw error;
  }
  const end = async (signal: NodeJS.Signals): Promise<void> => {
    if (child !== undefined) await endChild(child, signal);
    child = undefined;
  };
  return {
    url: `${spec.scheme}://127.0.0.1:${port}`,
    port,
    get pid() {
      return child?.pid ?? 0;
    },
    async stop() {
      await end("SIGTERM");
      removeFolder();
    },
    kill: () => end("SIGKILL"),
    async restart() {
      await end("SIGTERM");
      child = await spawnReady(binary, spec, port, folder);
    },
  };
}

async function spawnReady(
  binary: string,
  spec: BinarySpec,
  port: number,
  folder: string,
): Promise<ChildProcess> {
  const child = spawn(binary, spec.args(port, folder), {
    cwd: folder,
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const forget = atExit(() => void child.kill("SIGKILL"));
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => (output = (output + chunk.toString()).slice(-2_048)));
  }
  let hasEnded = false;
  child.once("error", (error) => (output += error.message));
  child.once("close", () => {
    hasEnded = true;
    forget();
  });
  const deadlineMs = Date.now() + readyMsMax;
  while (!(await answers(port, spec))) {
    if (hasEnded || Date.now() > deadlineMs) {
      if (!hasEnded) child.kill("SIGKILL");
      throw new Error(`${spec.name} did not start on port ${port}:\n${output.trim()}`);
    }
    await sleep(20);
  }
  // Something else may have answered on the port while our process found it taken.
  await sleep(10);
  if (hasEnded) throw new Error(`${spec.name} ended on port ${port}:\n${output.trim()}`);
  return child;
}

function answers(port: number, spec: BinarySpec): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect({ host: "127.0.0.1", port });
    const finish = (isReady: boolean): void => {
      socket.destroy();
      done(isReady);
    };
    socket.setTimeout(1_000, () => finish(false));
    socket.once("error", () => finish(false));
    socket.once("close", () => finish(false));
    socket.once("connect", () => socket.write(spec.greeting));
    socket.once("data", (chunk) => finish(spec.answer.test(chunk.toString())));
  });
}

async function endChild(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return;
  const ended = new Promise<void>((done) => child.once("exit", () => done()));
  child.kill(signal);
  const timer = setTimeout(() => child.kill("SIGKILL"), stopMsMax);
  await ended;
  clearTimeout(timer);
}

function outsideServer(name: string, url: string): TestServer {
  const refuse = async (): Promise<void> => {
    throw new Error(`This ${name} was running before the tests; they must not stop it`);
  };
  return {
    url,
    port: Number(new URL(url).port),
    pid: 0,
    stop: async () => {},
    kill: refuse,
    restart: refuse,
  };
}

// --- Finding and installing ----------------------------------------------------------------------

function provideBinary(spec: BinarySpec, isShared: boolean): string {
  const found = findBinary(spec.binary);
  if (found !== undefined) return found;
  const isInstallable = process.getuid?.() === 0 && findBinary("apt-get") !== undefined;
  if (isInstallable) install();
  const installed = findBinary(spec.binary);
  if (installed !== undefined) return installed;
  throw new Error(
    `${spec.name} is needed, and ${spec.binary} is not on the PATH. Any one of these helps:\n` +
      `  - install it: apt-get install nats-server redis-server, or brew install nats-server redis\n` +
      `  - run this as root on Debian or Ubuntu: then it is installed by itself` +
      (isInstallable ? " (tried just now, and failed)" : "") +
      // Where it is killed and started again, one that runs already is of no use.
      (isShared ? `\n  - set ${spec.variable} to a running one` : ""),
  );
}

function findBinary(name: string): string | undefined {
  const folders = (process.env["PATH"] ?? "").split(delimiter).filter((it) => it !== "");
  for (const folder of [...folders, "/usr/sbin", "/usr/local/sbin", "/usr/local/bin"]) {
    try {
      accessSync(join(folder, name), constants.X_OK);
      return join(folder, name);
    } catch {
      // Not in this folder.
    }
  }
  return undefined;
}

/** Under a file lock: whoever comes second finds the binaries there and installs nothing. */
function install(): void {
  process.stderr.write("Installing nats-server and redis-server with apt-get\n");
  const script =
    "PATH=$PATH:/usr/sbin; command -v nats-server && command -v redis-server && exit 0; " +
    "apt-get update && apt-get install -y --no-install-recommends nats-server redis-server";
  const lock = join(tmpdir(), "coffer-tests-install.lock");
  const { status, stdout, stderr } = spawnSync("flock", [lock, "sh", "-c", script], {
    encoding: "utf8",
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
    timeout: 300_000,
  });
  if (status !== 0) process.stderr.write(`${(stdout + stderr).slice(-2_000)}\n`);
}

// --- Nothing left behind -------------------------------------------------------------------------

const cleanups = new Set<() => void>();
const exitSignals = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;
let areSignalsHandled = false;

function runCleanups(): void {
  for (const cleanup of cleanups) cleanup();
}

/**
 * Always the last of the exit handlers, so that a folder goes after the server that writes into it.
 */
function atExit(cleanup: () => void): () => void {
  cleanups.add(cleanup);
  process.off("exit", runCleanups);
  process.on("exit", runCleanups);
  if (!areSignalsHandled) {
    areSignalsHandled = true;
    for (const [signal, code] of Object.entries(exitSignals)) {
      // Where somebody else listens too, ending the process is up to them; the exit handler
      // follows.
      const onSignal = (): void => {
        if (process.listenerCount(signal) === 1) process.exit(code);
      };
      process.on(signal, onSignal);
    }
  }
  return () => void cleanups.delete(cleanup);
}

interface RemoveFolder {
  (): void;
  /** The same by a process of its own, which nobody waits for: a run's databases take seconds. */
  aside(): void;
  /** Moves the removal behind exit handlers that were added since. */
  again(): void;
}

function dataFolder(
  name: string,
  { folder }: ServerOptions,
): { folder: string; removeFolder: RemoveFolder } {
  if (folder === undefined) return temporaryFolder(name);
  mkdirSync(folder, { recursive: true });
  const keep = (): void => undefined;
  return { folder, removeFolder: Object.assign(keep, { aside: keep, again: keep }) };
}

function temporaryFolder(name: string): { folder: string; removeFolder: RemoveFolder } {
  const folder = mkdtempSync(join(tmpdir(), `coffer-${name}-`));
  const remove = (): void => {
    if (existsSync(folder)) rmSync(folder, { recursive: true, force: true, maxRetries: 5 });
  };
  let forget = atExit(remove);
  const now = (): void => {
    forget();
    remove();
  };
  const again = (): void => {
    forget();
    forget = atExit(remove);
  };
  const aside = (): void => {
    forget();
    spawn("rm", ["-rf", folder], { detached: true, stdio: "ignore" }).unref();
  };
  return { folder, removeFolder: Object.assign(now, { aside, again }) };
}
