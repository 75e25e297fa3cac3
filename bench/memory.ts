/**
 * `node --expose-gc dist/bench/memory.js`: does a process that has touched very many
 * wallets give their memory back? It starts Coffer with all roles and a database of its own, warms
 * it up with requests to few wallets, then touches each of many wallets once, and each time waits
 * until idle actors are gone, 5 minutes and some seconds. What counts is the resident set (from
 * /proc, so only on Linux) after the many against the one after the few: garbage and buffers are in
 * both, actors only in what is left over. With `--expose-gc` the server's threads are asked to
 * collect at the end, which tells garbage from what is held. The same file is preloaded into the
 * server, where all it does is answer that.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { isMainThread, BroadcastChannel } from "node:worker_threads";
import { exitOnSignals } from "../src/command-line.ts";
import { messageOf } from "../src/message-of.ts";
import { startEmbeddedPostgres } from "../src/embedded/embedded-postgres.ts";
import { LIMITS } from "../src/limits.ts";
import { freePort } from "../test/stage/free-port.ts";
import { HttpConnection } from "./http-client.ts";
import { NODE_FLAGS } from "./processes.ts";
import { MEMORY_USAGE, parseMemoryOptions, UsageError } from "./options.ts";
import { createWallets, inParallel, postPatiently, textOf, type Server } from "./wallet-api.ts";

const FEW_WALLETS = 100;
const CONNECTIONS = 64;
const READY_MS_MAX = 60_000;
const STOP_MS_MAX = 20_000;
/** How much larger the resident set may stay, in MiB. */
const KEPT_MIB_MAX = 50;
/** Time for the threads to collect and answer. */
const PROBE_MS = 1_500;
/** Past the idle time: a sweep, a tick, and some room. */
const PASSIVATED_MS = LIMITS.actorIdleMs + LIMITS.actorSweepMs + 4_000;

// --- In the server's threads ---------------------------------------------------------------------

interface ThreadMemory {
  thread: string;
  heapUsedMiB: number;
  heapTotalMiB: number;
  externalMiB: number;
}

/** What the benchmark asks: tell what the thread has, or collect its garbage first. */
type Probe = "tell" | "collect";

/** Each thread answers each probe with a line on standard error. */
function answerProbes(): void {
  const channel = new BroadcastChannel("coffer-memory");
  const answer = (probe: Probe): void => {
    if (probe === "collect") globalThis.gc?.();
    const { heapUsed, heapTotal, external } = process.memoryUsage();
    const memory: ThreadMemory = {
      thread: isMainThread ? "main" : "lane",
      heapUsedMiB: mebibytes(heapUsed),
      heapTotalMiB: mebibytes(heapTotal),
      externalMiB: mebibytes(external),
    };
    writeSync(2, `${JSON.stringify(memory)}\n`);
  };
  if (isMainThread) {
    process.on("message", (probe: Probe) => {
      channel.postMessage(probe);
      answer(probe);
    });
    process.channel?.unref();
  } else {
    channel.addEventListener("message", (event) => answer((event as Event & { data: Probe }).data));
  }
  channel.unref();
}

function mebibytes(bytes: number): number {
  return Math.round(bytes / 1_048_576);
}

// --- The measurement -----------------------------------------------------------------------------

interface Coffer extends Server {
  child: ChildProcess;
  threads: ThreadMemory[];
}

async function startServer(databaseUrl: string): Promise<Coffer> {
  const port = await freePort();
  const here = import.meta.url;
  const preloads = [new URL("./end-with-parent.js", here).href, here];
  const child = spawn(
    process.execPath,
    [
      ...process.execArgv,
      ...NODE_FLAGS,
      ...preloads.flatMap((file) => ["--import", file]),
      fileURLToPath(new URL("../src/main.js", here)),
    ],
    {
      env: {
        PATH: process.env["PATH"],
        LANES: process.env["LANES"],
        NODE_ENV: "production",
        DATABASE_URL: databaseUrl,
        PORT: String(port),
        LOG_LEVEL: "warn",
      },
      stdio: ["pipe", "ignore", "pipe", "ipc"],
    },
  );
  const coffer: Coffer = { host: "127.0.0.1", port, child, threads: [] };
  createInterface({ input: child.stderr! }).on("line", (line) => {
    if (line.startsWith('{"thread"')) coffer.threads.push(JSON.parse(line) as ThreadMemory);
    else process.stderr.write(`${line}\n`);
  });
  await untilReady(coffer);
  return coffer;
}

async function untilReady({ host, port, child }: Coffer): Promise<void> {
  const connection = new HttpConnection(host, port, 5_000);
  const deadlineMs = Date.now() + READY_MS_MAX;
  while (Date.now() < deadlineMs && child.exitCode === null) {
    const answer = await connection.get("/health/ready").catch(() => undefined);
    if (answer?.status === 200) {
      connection.close();
      return;
    }
    await sleep(100);
  }
  throw new Error("Coffer was not ready in time");
}

async function stopServer({ child }: Coffer): Promise<void> {
  if (child.exitCode !== null) return;
  const exited = new Promise((resolve) => child.once("exit", resolve));
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), STOP_MS_MAX);
  await exited;
  clearTimeout(timer);
}

/** Resident set now and at its highest, in MiB. */
function residentOf({ child }: Coffer): { nowMiB: number; peakMiB: number } {
  const status = readFileSync(`/proc/${child.pid}/status`, "utf8");
  const read = (name: string): number => {
    const kibibytes = new RegExp(`^${name}:\\s+(\\d+) kB$`, "m").exec(status)?.[1];
    return Math.round(Number(kibibytes) / 1_024);
  };
  return { nowMiB: read("VmRSS"), peakMiB: read("VmHWM") };
}

async function actorsOf(coffer: Coffer): Promise<number> {
  const connection = new HttpConnection(coffer.host, coffer.port);
  try {
    const metrics = (await connection.get("/metrics")).body.toString("utf8");
    const ofLanes = metrics.matchAll(/^coffer_lane_actors\{.*\} (\d+)$/gm);
    return Array.from(ofLanes).reduce((sum, [, actors]) => sum + Number(actors), 0);
  } finally {
    connection.close();
  }
}

/** Prints the state of the process and of its threads; returns the resident set in MiB. */
async function say(coffer: Coffer, what: string, probe: Probe = "tell"): Promise<number> {
  coffer.threads.length = 0;
  coffer.child.send(probe);
  await sleep(PROBE_MS);
  const { nowMiB, peakMiB } = residentOf(coffer);
  const actors = await actorsOf(coffer);
  const threads = coffer.threads
    .map((one) => `${one.thread} ${one.heapUsedMiB}/${one.heapTotalMiB}+${one.externalMiB}`)
    .toSorted();
  const texts = [`${String(nowMiB).padStart(4)} MiB`, `highest ${peakMiB}`, `actors ${actors}`];
  process.stdout.write(`${what.padEnd(36)} ${texts.concat(threads).join(", ")}\n`);
  return nowMiB;
}

async function creditFew(coffer: Coffer, ids: readonly string[], count: number): Promise<void> {
  await inParallel(coffer, CONNECTIONS, count, async (connection, index) => {
    const path = `/wallets/${ids[index % ids.length]}/credit`;
    const outcome = await postPatiently(connection, path, '{"amount":0.01}', `few-${index}`);
    if (outcome.type !== "answered") throw new Error(outcome.reason);
    if (outcome.answer.status !== 200) throw new Error(textOf(outcome.answer));
  });
}

async function measure(coffer: Coffer, wallets: number): Promise<boolean> {
  const few = Array.from({ length: FEW_WALLETS }, (_, n) => `few-${n}`);
  const many = Array.from({ length: wallets }, (_, n) => `many-${n}`);
  process.stdout.write("resident set; of each thread: heap used/reserved + external, in MiB\n");
  await say(coffer, "started");
  await createWallets(coffer, CONNECTIONS, few, 0, () => undefined);
  await creditFew(coffer, few, wallets);
  await say(coffer, `${wallets} requests to ${FEW_WALLETS} wallets`);
  await sleep(PASSIVATED_MS);
  const beforeMiB = await say(coffer, "before: idle after them");
  await createWallets(coffer, CONNECTIONS, many, 0, () => undefined);
  await say(coffer, `${wallets} wallets touched once`);
  await sleep(PASSIVATED_MS);
  const afterMiB = await say(coffer, "after: idle after them");
  if (globalThis.gc !== undefined) await say(coffer, "garbage collected", "collect");
  const keptMiB = afterMiB - beforeMiB;
  const isWell = keptMiB <= KEPT_MIB_MAX;
  const verdict = isWell ? "within" : "above";
  process.stdout.write(`${keptMiB} MiB stay, ${verdict} the ${KEPT_MIB_MAX} MiB allowed\n`);
  return isWell;
}

async function main(): Promise<void> {
  const options = parseMemoryOptions(process.argv.slice(2));
  if (options === "help") {
    console.log(MEMORY_USAGE);
    return;
  }
  exitOnSignals();
  const dataDir = mkdtempSync(join(tmpdir(), "coffer-memory-"));
  const removeData = (): void => rmSync(dataDir, { recursive: true, force: true });
  process.on("exit", removeData);
  try {
    const postgres = await startEmbeddedPostgres({ dataDir });
    // Behind the exit handler that stops PostgreSQL.
    process.off("exit", removeData).on("exit", removeData);
    try {
      const coffer = await startServer(postgres.url);
      try {
        process.exitCode = (await measure(coffer, options.wallets)) ? 0 : 1;
      } finally {
        await stopServer(coffer);
      }
    } finally {
      await postgres.stop();
    }
  } finally {
    removeData();
  }
}

async function mainOrComplain(): Promise<void> {
  try {
    await main();
  } catch (error) {
    console.error(messageOf(error));
    if (error instanceof UsageError) console.error(MEMORY_USAGE);
    process.exitCode = error instanceof UsageError ? 2 : 1;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) await mainOrComplain();
else answerProbes();
