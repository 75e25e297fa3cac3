/**
 * The load of the shape `batch`, as a process of its own: batches of credits over HTTP, each
 * connection sending its next one when it has all outcomes of the last; or postings, one call per
 * transaction over a pool of database clients. It prints its measurement as one line of JSON.
 * Commands are what it counts, also those refused inside a batch; times are those of requests. What
 * is under way at the end is awaited, but not counted.
 */
import { Client } from "pg";
import type { LoadPlan, Measurement } from "./generators.ts";
import { HttpConnection, type HttpAnswer } from "./http-client.ts";
import { POST_TRANSFER } from "./posting-rival.ts";
import { CREDIT_AMOUNT, UNIFORM_WALLETS, uniformWallet, type Way } from "./shapes.ts";
import { percentile } from "./statistics.ts";

/** One command of a batch may take its deadline, and wait its turn before that. */
const ANSWER_MS_MAX = 60_000;
/** Bodies made before the run, so that making them costs the run nothing. */
const BODIES = 16;

interface Tally {
  answers: number;
  refused: number;
  faults: number;
  latenciesMs: number[];
}

const argument = process.argv[2];
if (argument === undefined)
  throw new Error("the generator is started by the benchmark, with a plan");
const plan = JSON.parse(argument) as LoadPlan & { way: Way };
const tally: Tally = { answers: 0, refused: 0, faults: 0, latenciesMs: [] };
const work = plan.way.type === "batches" ? buildBatches(plan.way.size) : await buildPostings();
const startMs = performance.now();
/** When the last request that counts was answered: a batch may take a good part of the run. */
let lastMs = startMs;
await Promise.all(work.drivers.map((send) => drive(send, startMs + plan.seconds * 1_000)));
await work.close();
const ascending = Float64Array.from(tally.latenciesMs).sort();
const measurement: Measurement = {
  answers: tally.answers,
  refused: tally.refused,
  faults: tally.faults,
  elapsedMs: Math.max(1, lastMs - startMs),
  p50Ms: percentile(ascending, 0.5),
  p90Ms: percentile(ascending, 0.9),
  p99Ms: percentile(ascending, 0.99),
  maxMs: percentile(ascending, 1),
};
console.log(JSON.stringify(measurement));

/**
 * Commands that one request carried, and how many of them were refused; throws when nobody knows.
 */
type Send = () => Promise<{ commands: number; refused: number }>;

async function drive(send: Send, endMs: number): Promise<void> {
  while (performance.now() < endMs) {
    const startedMs = performance.now();
    try {
      const { commands, refused } = await send();
      const nowMs = performance.now();
      if (nowMs > endMs) return;
      lastMs = nowMs;
      tally.latenciesMs.push(nowMs - startedMs);
      tally.answers += commands;
      tally.refused += refused;
    } catch {
      tally.faults += plan.way.type === "batches" ? plan.way.size : 1;
    }
  }
}

function anyWallet(): number {
  return Math.floor(Math.random() * UNIFORM_WALLETS);
}

function buildBatches(size: number): { drivers: Send[]; close: () => Promise<void> } {
  const credit = () =>
    `{"type":"credit","walletId":"${uniformWallet(anyWallet())}","amount":${CREDIT_AMOUNT}}`;
  const bodies = Array.from({ length: BODIES }, () => {
    return `{"commands":[${Array.from({ length: size }, credit).join(",")}]}`;
  });
  const connections = Array.from(
    { length: plan.connections },
    () => new HttpConnection("127.0.0.1", plan.port, ANSWER_MS_MAX),
  );
  return {
    drivers: connections.map((connection) => async () => {
      const body = bodies[Math.floor(Math.random() * BODIES)] ?? "";
      const answer = await connection.post("/batch", body);
      return { commands: size, refused: refusedIn(answer, size) };
    }),
    close: async () => connections.forEach((connection) => connection.close()),
  };
}

/** Counted without reading the whole as JSON, which would cost the cores that are measured. */
function refusedIn({ status, body }: HttpAnswer, size: number): number {
  if (status !== 200) return size;
  let done = 0;
  for (let at = body.indexOf('{"ok":true,'); at >= 0; at = body.indexOf('{"ok":true,', at + 1))
    done += 1;
  return size - done;
}

async function buildPostings(): Promise<{ drivers: Send[]; close: () => Promise<void> }> {
  const connectionString = plan.way.type === "postings" ? plan.way.databaseUrl : "";
  const clients = Array.from({ length: plan.connections }, () => new Client({ connectionString }));
  await Promise.all(clients.map((client) => client.connect()));
  return {
    drivers: clients.map((client) => async () => {
      const from = anyWallet();
      const to = (from + 1 + Math.floor(Math.random() * (UNIFORM_WALLETS - 1))) % UNIFORM_WALLETS;
      await client.query({ ...POST_TRANSFER, values: [from, to, 1] });
      return { commands: 1, refused: 0 };
    }),
    close: async () => void (await Promise.all(clients.map((client) => client.end()))),
  };
}
