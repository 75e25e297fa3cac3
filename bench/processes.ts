/**
 * The processes of a benchmark: each system runs as its own, is waited for until it takes requests,
 * and is ended again by `stop`, however the benchmark goes. A system that ends by itself makes the
 * measurement under way fail with the last lines it wrote, not with a row of refused connections.
 * Waits are bounded, and a process that does not end on SIGTERM is killed.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort } from "../test/stage/free-port.ts";
import { HttpConnection } from "./http-client.ts";
import type { RivalPlan, RivalReady } from "./rival-server.ts";
import { messageOf } from "../src/message-of.ts";

const READY_MS_MAX = 60_000;
const STOP_MS_MAX = 20_000;
const LINES_KEPT = 20;

/**
 * Flags that `npm start` gives to Node and that a measurement must have, too; rivals get them as
 * well. Each half of the young generation may have 32 MB instead of 16 (docs/adr/0014).
 */
export const NODE_FLAGS = ["--max-semi-space-size=32"] as const;

export interface RunningSystem {
  port: number;
  /** Throws with the process's last words when it has ended. */
  assertAlive: () => void;
  stop: () => Promise<void>;
}

interface Watched extends Omit<RunningSystem, "port"> {
  child: ChildProcess;
  /** Lines of standard output, as they come, until somebody returns a value for one. */
  firstLine: <T>(read: (line: string) => T | undefined) => Promise<T>;
}

/**
 * `environment` is the whole environment. Standard input stays open: its end tells the process that
 * the benchmark is gone.
 */
function startNode(
  title: string,
  args: readonly string[],
  environment: NodeJS.ProcessEnv,
): Watched {
  const child = spawn(process.execPath, [...NODE_FLAGS, ...args], {
    env: environment,
    stdio: ["pipe", "pipe", "pipe"],
  });
  const lines: string[] = [];
  const output = createInterface({ input: child.stdout });
  const errors = createInterface({ input: child.stderr });
  for (const stream of [output, errors]) {
    stream.on("line", (line) => {
      lines.push(line);
      if (lines.length > LINES_KEPT) lines.shift();
    });
  }
  // The pipe breaks when the process ends, which the exit tells better.
  child.stdin.on("error", () => {});
  let failure: string | undefined;
  child.once("error", (error) => (failure = error.message));
  const exited = new Promise<void>((resolve) => {
    child.once("close", (code, signal) => {
      failure ??= `it ended with ${signal ?? `code ${code}`}`;
      resolve();
    });
  });

  function assertAlive(): void {
    if (failure === undefined) return;
    throw new Error([`${title} does not run: ${failure}`, ...lines].join("\n  "));
  }

  async function stop(): Promise<void> {
    if (failure !== undefined) return;
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), STOP_MS_MAX);
    await exited;
    clearTimeout(timer);
  }

  function firstLine<T>(read: (line: string) => T | undefined): Promise<T> {
    return new Promise((resolve, reject) => {
      const late = () => reject(new Error(`${title} was not ready after ${READY_MS_MAX} ms`));
      const timer = setTimeout(late, READY_MS_MAX);
      output.on("line", (line) => {
        const value = read(line);
        if (value === undefined) return;
        clearTimeout(timer);
        resolve(value);
      });
      void exited.then(() => {
        clearTimeout(timer);
        try {
          assertAlive();
        } catch (error) {
          reject(error);
        }
      });
    });
  }
  return { child, assertAlive, stop, firstLine };
}

/** `serverFile` is the compiled rival-server. */
export async function startRival(serverFile: string, plan: RivalPlan): Promise<RunningSystem> {
  const { PATH } = process.env;
  const watched = startNode(plan.rival, [serverFile, JSON.stringify(plan)], {
    PATH,
    NODE_ENV: "production",
  });
  try {
    const { port } = await watched.firstLine((line) =>
      line.startsWith('{"ready":true') ? (JSON.parse(line) as RivalReady) : undefined,
    );
    return { ...watched, port };
  } catch (error) {
    await watched.stop();
    throw error;
  }
}

export interface CofferStart {
  /** Compiled entry file. */
  mainFile: string;
  databaseUrl: string;
  /** Where CPU profiles go; undefined: none are taken. */
  profileFolder?: string;
  /**
   * Of a process of a cluster: its role and servers. Default: all roles in one process, with every
   * default.
   */
  settings?: Readonly<Record<string, string>>;
}

/**
 * Starts Coffer with its defaults, apart from `settings`, and waits until it serves commands.
 */
export async function startCoffer(start: CofferStart): Promise<RunningSystem> {
  const port = await freePort();
  const { settings = {} } = start;
  const title = `Coffer${settings["HOST_ID"] === undefined ? "" : ` (${settings["HOST_ID"]})`}`;
  const profile =
    start.profileFolder === undefined ? [] : ["--cpu-prof", "--cpu-prof-dir", start.profileFolder];
  const { PATH, LANES } = process.env;
  const parentWatch = new URL("./end-with-parent.js", import.meta.url).href;
  const watched = startNode(title, [...profile, "--import", parentWatch, start.mainFile], {
    PATH,
    ...(LANES === undefined ? {} : { LANES }),
    NODE_ENV: "production",
    DATABASE_URL: start.databaseUrl,
    HOST: "127.0.0.1",
    PORT: String(port),
    LOG_LEVEL: "warn",
    ...settings,
  });
  try {
    await untilReady(port, watched.assertAlive);
    return { ...watched, port };
  } catch (error) {
    await watched.stop();
    throw error;
  }
}

async function untilReady(port: number, assertAlive: () => void): Promise<void> {
  const connection = new HttpConnection("127.0.0.1", port, 5_000);
  const deadlineMs = Date.now() + READY_MS_MAX;
  let last = "no answer yet";
  try {
    while (Date.now() < deadlineMs) {
      assertAlive();
      try {
        const answer = await connection.get("/health/ready");
        if (answer.status === 200) return;
        last = `${answer.status} ${answer.body.toString("utf8").slice(0, 300)}`;
      } catch (error) {
        last = messageOf(error);
      }
      await sleep(100);
    }
  } finally {
    connection.close();
  }
  throw new Error(`Coffer was not ready after ${READY_MS_MAX} ms: ${last}`);
}
