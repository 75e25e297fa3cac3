/**
 * The Node load generator as a process of its own, for machines without wrk: as many keep-alive
 * connections as the plan says, each sending its next request when it has its answer, until the
 * time is over. It prints its measurement as one line of JSON. Requests under way at the end are
 * awaited, but not counted, like wrk does.
 */
import { ANSWER_MS_MAX, fixedWalletOf, partsOf } from "./generators.ts";
import type { LoadPlan, Measurement } from "./generators.ts";
import { HttpConnection } from "./http-client.ts";
import { UNIFORM_WALLETS, uniformWallet } from "./shapes.ts";
import { percentile } from "./statistics.ts";

const argument = process.argv[2];
if (argument === undefined)
  throw new Error("the generator is started by the benchmark, with a plan");
const plan = JSON.parse(argument) as LoadPlan;
const wallets = Array.from({ length: UNIFORM_WALLETS }, (_, n) => uniformWallet(n));
const parts = partsOf(plan.traffic);
const fixed = fixedWalletOf(plan.traffic);
const paths = fixed === undefined ? wallets.map(parts.path) : [parts.path(fixed)];
const bodies = plan.traffic.type === "transfer" ? wallets.map(parts.body) : [parts.body("")];

const latenciesMs: number[] = [];
let refused = 0;
let faults = 0;

async function drive(connection: HttpConnection, endMs: number): Promise<void> {
  for (;;) {
    const from = Math.floor(Math.random() * paths.length);
    // With as many payers as payees the two must differ; otherwise any body will do.
    const offset = paths.length === bodies.length && bodies.length > 1 ? 1 : 0;
    const step = offset + Math.floor(Math.random() * (bodies.length - offset));
    const body = bodies[(offset * from + step) % bodies.length];
    const startedMs = performance.now();
    try {
      const answer = await connection.post(paths[from] ?? "", body ?? "");
      const nowMs = performance.now();
      if (nowMs > endMs) return;
      latenciesMs.push(nowMs - startedMs);
      if (answer.status >= 400) refused += 1;
    } catch {
      faults += 1;
      if (performance.now() > endMs) return;
    }
  }
}

const connections = Array.from(
  { length: plan.connections },
  () => new HttpConnection("127.0.0.1", plan.port, ANSWER_MS_MAX),
);
const startMs = performance.now();
const elapsedMs = plan.seconds * 1_000;
await Promise.all(connections.map((connection) => drive(connection, startMs + elapsedMs)));
for (const connection of connections) connection.close();

const ascending = Float64Array.from(latenciesMs).sort();
const measurement: Measurement = {
  answers: latenciesMs.length,
  refused,
  faults,
  elapsedMs,
  p50Ms: percentile(ascending, 0.5),
  p90Ms: percentile(ascending, 0.9),
  p99Ms: percentile(ascending, 0.99),
  maxMs: percentile(ascending, 1),
};
console.log(JSON.stringify(measurement));
