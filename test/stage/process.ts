/**
 * Coffer as a real process for tests: `node dist/src/main.js` with an environment of its own, and
 * the ways in which an operator or a bad day may treat it (SIGTERM, SIGKILL, SIGSTOP). None
 * outlives the test: standard input is a pipe whose end stops the process, an exit handler kills
 * what still runs, and a data folder takes its PostgreSQL along when it is removed, also the orphan
 * that a killed Coffer leaves behind.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { pathToFileURL } from "node:url";
import { packageRoot } from "../../src/package-root.ts";

/**
 * From the spawn to the line that says where it serves; the first start on a folder runs initdb.
 */
const startMsMax = 60_000;
/** Characters of output that are kept. */
const outputCharsMax = 65_536;

const mainFile = join(packageRoot, "dist", "src", "main.js");
const endWithParent = pathToFileURL(join(packageRoot, "dist", "bench", "end-with-parent.js")).href;

export interface Exit {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
}

export interface CofferProcess {
  readonly baseUrl: string;
  readonly port: number;
  readonly pid: number;
  /** The end of what it wrote to both outputs. */
  readonly output: string;
  readonly exited: Promise<Exit>;
  /** Waits until `/health/ready` has this status. */
  untilReady(status?: 200 | 503, withinMs?: number): Promise<void>;
  /** Asks it to end, and waits until it has. */
  stop(): Promise<Exit>;
  /** Ends it at once, wherever it stands. */
  kill(): Promise<Exit>;
  /**
   * Stops it in the middle of whatever it does, as a machine does that swaps or a debugger that
   * breaks.
   */
  pause(): void;
  resume(): void;
}

export type Environment = Readonly<Record<string, string>>;

/** Starts Coffer on a free port, unless `PORT` is given, and waits until it says that it serves. */
export async function startCoffer(env: Environment): Promise<CofferProcess> {
  const { child, exited, output } = launch({ PORT: "0", ...env });
  const deadlineMs = Date.now() + startMsMax;
  let address: RegExpExecArray | null = null;
  let exit: Exit | undefined;
  void exited.then((it) => (exit = it));
  while ((address = /^Coffer serves at (\S+:(\d+)) /m.exec(output())) === null) {
    if (exit !== undefined || Date.now() > deadlineMs) {
      child.kill("SIGKILL");
      throw new Error(`Coffer does not serve:\n${output()}`);
    }
    await sleep(20);
  }
  const [, baseUrl = "", port = ""] = address;
  const end = (signal: NodeJS.Signals): Promise<Exit> => {
    if (exit === undefined) child.kill(signal);
    return exited;
  };
  return {
    baseUrl,
    port: Number(port),
    pid: child.pid!,
    get output() {
      return output();
    },
    exited,
    untilReady: (status = 200, withinMs = 20_000) => untilReady(baseUrl, status, withinMs, output),
    stop: () => end("SIGTERM"),
    kill: () => end("SIGKILL"),
    pause: () => void child.kill("SIGSTOP"),
    resume: () => void child.kill("SIGCONT"),
  };
}

/**
 * Runs Coffer until it ends by itself, or is asked to because something has come about; for starts
 * that never get to serve.
 */
export async function runCoffer(
  env: Environment,
  untilEnded?: () => Promise<void>,
): Promise<Exit & { readonly output: string; readonly elapsedMs: number }> {
  const startedAtMs = performance.now();
  const { child, exited, output } = launch({ PORT: "0", ...env });
  const timer = setTimeout(() => child.kill("SIGKILL"), startMsMax);
  await untilEnded?.().finally(() => child.kill("SIGTERM"));
  const exit = await exited;
  clearTimeout(timer);
  return { ...exit, output: output(), elapsedMs: performance.now() - startedAtMs };
}

/** With the data folder that each was given. */
const running = new Map<ChildProcess, string | undefined>();

function launch(env: Environment): {
  child: ChildProcess;
  exited: Promise<Exit>;
  output: () => string;
} {
  const { PATH = "" } = process.env;
  const child = spawn(process.execPath, ["--import", endWithParent, mainFile], {
    env: { PATH, NODE_ENV: "production", LANES: "1", ...env },
    stdio: ["pipe", "pipe", "pipe"],
    // A group of its own: Ctrl-C in a terminal is for whoever started it, who then ends everything
    // in order.
    detached: true,
  });
  running.set(child, env["DATA_DIR"]);
  const forget = atExit(() => void child.kill("SIGKILL"));
  let text = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => {
      text = (text + chunk.toString()).slice(-outputCharsMax);
    });
  }
  const exited = new Promise<Exit>((done) => {
    child.once("error", (error) => {
      text += error.message;
      done({ code: null, signal: null });
    });
    // Not `exit`: what it wrote last must have been read.
    child.once("close", (code, signal) => done({ code, signal }));
  });
  void exited.then(() => {
    running.delete(child);
    forget();
  });
  return { child, exited, output: () => text };
}

async function untilReady(
  baseUrl: string,
  status: 200 | 503,
  withinMs: number,
  output: () => string,
): Promise<void> {
  const deadlineMs = Date.now() + withinMs;
  let last = "no answer";
  while (Date.now() < deadlineMs) {
    try {
      const answer = await fetch(`${baseUrl}/health/ready`, {
        signal: AbortSignal.timeout(5_000),
        headers: { connection: "close" },
      });
      last = `${answer.status} ${await answer.text()}`;
      if (answer.status === status) return;
    } catch (error) {
      last = String(error);
    }
    await sleep(25);
  }
  throw new Error(`not ${status} within ${withinMs} ms, last ${last}\n${output()}`);
}

// --- Data folders --------------------------------------------------------------------------------

export interface DataFolder {
  readonly path: string;
  /** Process id of the embedded PostgreSQL that is recorded in there; 0: none. */
  postgresPid(): number;
  /** Address of the embedded PostgreSQL that runs in there now, Coffer's or the orphan of one. */
  databaseUrl(): string;
  /** Ends the Coffer and the PostgreSQL that may still run in there, and removes everything. */
  remove(): Promise<void>;
}

export function dataFolder(): DataFolder {
  const path = mkdtempSync(join(tmpdir(), "coffer-data-"));
  const cluster = join(path, "postgres");
  const pidLines = (): string[] => {
    const file = join(cluster, "postmaster.pid");
    return existsSync(file) ? readFileSync(file, "utf8").split("\n") : [];
  };
  const postgresPid = (): number => Number(pidLines()[0] ?? 0);
  /** PostgreSQL gets an immediate shutdown: the postmaster takes its children along. */
  const endAll = (): void => {
    for (const [child, folder] of running) if (folder === path) child.kill("SIGKILL");
    const pid = postgresPid();
    if (isPostgresOf(pid, cluster)) process.kill(pid, "SIGQUIT");
  };
  const removeNow = (): void => {
    rmSync(path, { recursive: true, force: true, maxRetries: 10, retryDelay: 50 });
  };
  const forget = atExit(() => {
    endAll();
    removeNow();
  });
  return {
    path,
    postgresPid,
    databaseUrl() {
      const password = readFileSync(join(cluster, "coffer.password"), "utf8").trim();
      return `postgres://coffer:${password}@127.0.0.1:${pidLines()[3]}/coffer`;
    },
    async remove() {
      const pid = postgresPid();
      endAll();
      for (let tries = 0; tries < 500 && isPostgresOf(pid, cluster); tries += 1) await sleep(10);
      removeNow();
      forget();
    },
  };
}

/** The number in the file may belong to a stranger by now. */
function isPostgresOf(pid: number, cluster: string): boolean {
  try {
    return pid > 0 && readFileSync(`/proc/${pid}/cmdline`, "utf8").includes(cluster);
  } catch {
    return false;
  }
}

// --- Nothing left behind -------------------------------------------------------------------------

const cleanups = new Set<() => void>();

process.on("exit", () => {
  for (const cleanup of cleanups) cleanup();
});

function atExit(cleanup: () => void): () => void {
  cleanups.add(cleanup);
  return () => void cleanups.delete(cleanup);
}
