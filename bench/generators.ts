/**
 * The two load generators behind one function: `wrk`, which costs the cores it shares with the
 * servers very little, and a Node process of our own where wrk cannot be had. A measurement is
 * closed-loop: each connection sends its next request when it has its answer. Throughput counts
 * only answers below 400; all others are errors, as are broken connections and timeouts. wrk
 * corrects its percentiles for coordinated omission, the Node generator does not, so results name
 * the generator and figures of the two are not to be mixed.
 */
import { execFileSync, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { availableParallelism, tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import {
  CREDIT_AMOUNT,
  HOT_WALLET,
  PAYER_WALLET,
  TRANSFER_AMOUNT,
  UNIFORM_WALLETS,
  type Traffic,
  type Way,
} from "./shapes.ts";
import { messageOf } from "../src/message-of.ts";

export type GeneratorName = "wrk" | "node";

export interface LoadPlan {
  port: number;
  traffic: Traffic;
  connections: number;
  seconds: number;
  seed: number;
  /** Undefined: one command in a request, over HTTP. */
  way?: Way;
}

export interface Measurement {
  /** Answers of any status. */
  answers: number;
  /** Answers with a status of 400 or more. */
  refused: number;
  /** Broken connections and timeouts: requests whose outcome is unknown. */
  faults: number;
  elapsedMs: number;
  p50Ms: number;
  p90Ms: number;
  p99Ms: number;
  maxMs: number;
}

/** Answers below 400 per second. */
export function opsPerSecond(measurement: Measurement): number {
  return ((measurement.answers - measurement.refused) / measurement.elapsedMs) * 1_000;
}

/** A measurement that outlasts its seconds by this much hangs, and is ended. */
const OVERTIME_MS_MAX = 30_000;
/** What wrk and the Node generator count as a timeout. */
export const ANSWER_MS_MAX = 10_000;

/**
 * `wrk` if it is on the PATH, or can be installed by root on Debian and its kin; `node` otherwise.
 * Says what it does.
 */
export function chooseGenerator(
  asked: GeneratorName | "auto",
  say: (line: string) => void,
): GeneratorName {
  if (asked === "node") return "node";
  if (isOnPath("wrk")) return "wrk";
  say(
    "The load generator wrk is not on the PATH (Debian, Ubuntu: apt install wrk; macOS: brew install wrk)",
  );
  if (process.getuid?.() === 0 && isOnPath("apt-get")) {
    say("Installing it: apt-get install -y wrk");
    try {
      execFileSync("apt-get", ["install", "-y", "wrk"], { stdio: "ignore", timeout: 180_000 });
    } catch (error) {
      say(`That failed: ${messageOf(error)}`);
    }
    if (isOnPath("wrk")) return "wrk";
  }
  if (asked === "wrk") throw new Error("wrk was asked for and is not there");
  say("Using the Node generator; it takes more of the processor than wrk does");
  return "node";
}

function isOnPath(program: string): boolean {
  const folders = (process.env["PATH"] ?? "").split(delimiter);
  return folders.some((folder) => folder !== "" && existsSync(join(folder, program)));
}

/** The first line of `wrk -v`, or the Node version. */
export function describeGenerator(generator: GeneratorName): string {
  if (generator === "node") return `Node generator, Node ${process.versions.node}`;
  try {
    // wrk prints its version and exits with 1.
    execFileSync("wrk", ["-v"], { encoding: "utf8", stdio: "pipe" });
  } catch (error) {
    const { stdout } = error as { stdout?: string };
    const version = /^wrk (\S+ ?\S*) \[/.exec(stdout ?? "")?.[1];
    if (version !== undefined) return `wrk ${version}`;
  }
  return "wrk";
}

/**
 * `workerFile` is the compiled generator-worker. Rejects when the generator itself fails or
 * `signal` is aborted.
 */
export async function measure(
  generator: GeneratorName,
  workerFile: string,
  plan: LoadPlan,
  signal: AbortSignal,
): Promise<Measurement> {
  if (generator === "node" || plan.way !== undefined) {
    const output = await run(process.execPath, [workerFile, JSON.stringify(plan)], plan, signal);
    return JSON.parse(output) as Measurement;
  }
  const folder = await mkdtemp(join(tmpdir(), "coffer-bench-"));
  try {
    const script = join(folder, "load.lua");
    await writeFile(script, luaOf(plan));
    const threads = Math.min(plan.connections, availableParallelism() >= 8 ? 2 : 1);
    const args = [`-t${threads}`, `-c${plan.connections}`, `-d${plan.seconds}s`];
    args.push(
      "--timeout",
      `${ANSWER_MS_MAX / 1_000}s`,
      "-s",
      script,
      `http://127.0.0.1:${plan.port}`,
    );
    return readWrk(await run("wrk", args, plan, signal));
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/** The line that our script's `done` prints among wrk's own. */
export function readWrk(output: string): Measurement {
  const line = output.split("\n").find((one) => one.startsWith('{"answers":'));
  if (line === undefined) throw new Error(`wrk gave no result:\n${output}`);
  return JSON.parse(line) as Measurement;
}

function run(
  program: string,
  args: readonly string[],
  plan: LoadPlan,
  signal: AbortSignal,
): Promise<string> {
  const overtime = AbortSignal.timeout(plan.seconds * 1_000 + OVERTIME_MS_MAX);
  return new Promise((resolve, reject) => {
    const child = spawn(program, [...args], {
      stdio: ["ignore", "pipe", "pipe"],
      signal: AbortSignal.any([signal, overtime]),
      killSignal: "SIGKILL",
    });
    let output = "";
    let errors = "";
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
    child.stderr.on(
      "data",
      (chunk: Buffer) => (errors = (errors + chunk.toString()).slice(-4_096)),
    );
    child.once("error", (error) => {
      reject(overtime.aborted ? new Error("the load generator did not end in time") : error);
    });
    child.once("close", (code) => {
      if (code === 0) resolve(output);
      else reject(new Error(`the load generator ended with code ${code}\n${errors}`));
    });
  });
}

/**
 * A request is `head(payer or payee) + tail(other wallet)`; ids have one length, so parts made once
 * fit together.
 */
export interface RequestParts {
  /** Path of the wallet that the request is sent to, by wallet id. */
  path: (walletId: string) => string;
  /** JSON body; a transfer's names the payee. */
  body: (payeeId: string) => string;
}

export function partsOf(traffic: Traffic): RequestParts {
  return traffic.type === "credit"
    ? { path: (id) => `/wallets/${id}/credit`, body: () => `{"amount":${CREDIT_AMOUNT}}` }
    : {
        path: (id) => `/wallets/${id}/transfer`,
        body: (payeeId) => `{"toWalletId":"${payeeId}","amount":${TRANSFER_AMOUNT}}`,
      };
}

/** The one wallet that all requests go to, or undefined when each picks its own. */
export function fixedWalletOf(traffic: Traffic): string | undefined {
  if (traffic.type === "credit") return traffic.to === "hot" ? HOT_WALLET : undefined;
  return traffic.from === "payer" ? PAYER_WALLET : undefined;
}

/**
 * The wrk script of a plan. Both parts of each possible request are made before the run, so a
 * request costs one join.
 */
export function luaOf(plan: LoadPlan): string {
  const { path, body } = partsOf(plan.traffic);
  const fixed = fixedWalletOf(plan.traffic);
  const payee = plan.traffic.type === "transfer" ? '" .. id(n) .. "' : "";
  const contentLength = Buffer.byteLength(body(payee === "" ? "" : "bench-00000"));
  const head = `POST ${path(fixed ?? '" .. id(n) .. "')} HTTP/1.1\\r\\nHost: 127.0.0.1:${plan.port}\\r\\n`;
  const framing = `Content-Type: application/json\\r\\nContent-Length: ${contentLength}\\r\\n\\r\\n`;
  const text = body(payee === "" ? "" : "\0")
    .replaceAll('"', '\\"')
    .replace("\0", payee);
  const step =
    fixed === undefined && payee !== ""
      ? `(n - 1 + math.random(${UNIFORM_WALLETS - 1})) % ${UNIFORM_WALLETS} + 1`
      : `math.random(${UNIFORM_WALLETS})`;
  return `local heads, tails, threads = {}, {}, 0
local function id(n) return string.format("bench-%05d", n - 1) end
function setup(thread)
  threads = threads + 1
  thread:set("thread_seed", ${plan.seed} + threads)
end
function init()
  math.randomseed(thread_seed)
  for n = 1, ${UNIFORM_WALLETS} do
    heads[n] = "${head}"
    tails[n] = "${framing}${text}"
  end
end
function request()
  local n = math.random(${UNIFORM_WALLETS})
  return heads[n] .. tails[${step}]
end
function done(summary, latency)
  local e = summary.errors
  io.write(string.format('{"answers":%d,"refused":%d,"faults":%d,"elapsedMs":%.3f,',
    summary.requests, e.status, e.connect + e.read + e.write + e.timeout, summary.duration / 1000))
  io.write(string.format('"p50Ms":%.3f,"p90Ms":%.3f,"p99Ms":%.3f,"maxMs":%.3f}\\n',
    latency:percentile(50) / 1000, latency:percentile(90) / 1000, latency:percentile(99) / 1000,
    latency.max / 1000))
end
`;
}
