/**
 * `npm run bench:load`: drives a running server over HTTP with credits, debits and transfers
 * between fresh wallets, then checks from outside that no cent was lost or made: the balances read
 * back must be exactly what the acknowledged operations add up to. Every operation has an
 * idempotency key; only one whose outcome is not known (503, 504, a broken connection) is sent
 * again, under the same key, and those repeats are counted. It exits with 1 when an operation
 * failed or a balance is off.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { exitOnSignals, startProgress } from "../src/command-line.ts";
import { messageOf } from "../src/message-of.ts";
import { HttpConnection } from "./http-client.ts";
import { planLoad, startTally, type LoadPlan, type Operation, type Tally } from "./load-plan.ts";
import { LOAD_USAGE, UsageError, parseLoadOptions, type LoadOptions } from "./options.ts";
import { formatMs, formatWhole, percentile } from "./statistics.ts";
import {
  codeOf,
  createWallets,
  getPatiently,
  inParallel,
  postPatiently,
  readWallets,
  textOf,
  type Outcome,
  type Server,
} from "./wallet-api.ts";

/** How long transfers that were answered as pending may take to settle after the last operation. */
const SETTLE_MS_MAX = 30_000;
const DIFFERENCES_SHOWN = 5;

/** What became of the operations; `failures` counts by code. */
interface Counts {
  succeeded: Record<Operation["type"], number>;
  failures: Map<string, number>;
  repeats: number;
  repeatedOperations: number;
  pending: { transferId: string; operation: Operation }[];
}

interface Run {
  server: Server;
  prefix: string;
  plan: LoadPlan;
  tally: Tally;
  counts: Counts;
  latenciesMs: Float64Array;
  done: number;
}

async function main(options: LoadOptions): Promise<boolean> {
  exitOnSignals();
  const server = serverOf(options.url);
  await assertServes(server, options.url);
  const plan = planLoad(options.wallets, options.operations, options.seed);
  const prefix = `load-${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 6)}`;
  const ids = Array.from({ length: options.wallets }, (_, n) => `${prefix}-${n}`);
  const run: Run = {
    server,
    prefix,
    plan,
    tally: startTally(options.wallets, plan.initialBalanceMinor),
    counts: {
      succeeded: { credit: 0, debit: 0, transfer: 0 },
      failures: new Map(),
      repeats: 0,
      repeatedOperations: 0,
      pending: [],
    },
    latenciesMs: new Float64Array(plan.count),
    done: 0,
  };

  const createdMs = await withProgress("wallets", ids.length, (progress) =>
    createWallets(server, options.workers, ids, plan.initialBalanceMinor, progress),
  );
  const elapsedMs = await withProgress("operations", plan.count, (progress) =>
    inParallel(server, options.workers, plan.count, async (connection, index) => {
      await operate(run, connection, ids, index);
      run.done += 1;
      progress(run.done);
    }),
  );
  const pendingAtEnd = run.counts.pending.length;
  await settle(run);
  const balancesMinor = (await readWallets(server, options.workers, ids)).map(
    (wallet) => wallet.balanceMinor,
  );

  print(`${formatWhole(ids.length)} wallets ${prefix}-* created in ${seconds(createdMs)}`);
  report(run, options, elapsedMs, pendingAtEnd);
  const failed = sumOf(run.counts.failures.values());
  return checkConservation(run, ids, balancesMinor) && failed === 0;
}

/** Carries out one operation and keeps its outcome. */
async function operate(
  run: Run,
  connection: HttpConnection,
  ids: readonly string[],
  index: number,
): Promise<void> {
  const operation = run.plan.operation(index);
  const path = `/wallets/${ids[operation.wallet]}/${operation.type}`;
  const amount = operation.amountMinor / 100;
  const json =
    operation.type === "transfer"
      ? `{"toWalletId":"${ids[operation.payee]}","amount":${amount}}`
      : `{"amount":${amount}}`;
  const startedMs = performance.now();
  const outcome = await postPatiently(connection, path, json, `${run.prefix}-${index}`);
  run.latenciesMs[index] = performance.now() - startedMs;
  keep(run, operation, outcome);
}

function keep({ counts, tally }: Run, operation: Operation, outcome: Outcome): void {
  counts.repeats += outcome.repeats;
  if (outcome.repeats > 0) counts.repeatedOperations += 1;
  if (outcome.type !== "answered") {
    countFailure(counts, `${outcome.type} (${outcome.reason})`);
  } else if (outcome.answer.status === 202) {
    const body = JSON.parse(outcome.answer.body.toString("utf8")) as { transferId: string };
    counts.pending.push({ transferId: body.transferId, operation });
  } else if (outcome.answer.status === 200) {
    counts.succeeded[operation.type] += 1;
    tally.apply(operation);
  } else {
    countFailure(counts, codeOf(outcome.answer));
  }
}

function countFailure(counts: Counts, code: string): void {
  counts.failures.set(code, (counts.failures.get(code) ?? 0) + 1);
}

/**
 * Waits for the verdicts of transfers that were answered as pending, so that the tally knows what
 * they did.
 */
async function settle(run: Run): Promise<void> {
  const deadlineMs = Date.now() + SETTLE_MS_MAX;
  const { pending } = run.counts;
  await inParallel(run.server, 8, pending.length, async (connection, index) => {
    const entry = pending[index];
    if (entry === undefined) return;
    let status = "pending";
    while (status === "pending" && Date.now() < deadlineMs) {
      const answer = await getPatiently(connection, `/transfers/${entry.transferId}`);
      status =
        answer.status === 200
          ? (JSON.parse(answer.body.toString("utf8")) as { status: string }).status
          : codeOf(answer);
      if (status === "pending") await sleep(100);
    }
    if (status === "posted") {
      run.counts.succeeded.transfer += 1;
      run.tally.apply(entry.operation);
    } else {
      countFailure(run.counts, `transfer ${status}`);
    }
  });
}

function report(run: Run, options: LoadOptions, elapsedMs: number, pendingAtEnd: number): void {
  const { counts, plan } = run;
  const { credit, debit, transfer } = counts.succeeded;
  const failed = sumOf(counts.failures.values());
  print(
    `${formatWhole(plan.count)} operations, ${options.workers} workers, --seed ${options.seed}`,
    `  succeeded  ${formatWhole(credit + debit + transfer)}: ${formatWhole(credit)} credits, ` +
      `${formatWhole(debit)} debits, ${formatWhole(transfer)} transfers`,
    `  failed     ${formatWhole(failed)}`,
    ...[...counts.failures].map(([code, count]) => `             ${formatWhole(count)} ${code}`),
  );
  if (counts.repeats > 0) {
    print(
      `  repeated   ${formatWhole(counts.repeatedOperations)} operations after 503, 504 or a broken connection, ` +
        `${formatWhole(counts.repeats)} times altogether`,
    );
  }
  if (pendingAtEnd > 0) print(`  pending    ${formatWhole(pendingAtEnd)} transfers, awaited`);
  const ascending = run.latenciesMs.toSorted();
  const at = (fraction: number) => formatMs(percentile(ascending, fraction));
  print(
    `  elapsed    ${seconds(elapsedMs)}, ${formatWhole((plan.count / elapsedMs) * 1_000)} ops/s`,
    `  latency    p50 ${at(0.5)}, p95 ${at(0.95)}, p99 ${at(0.99)}, max ${at(1)} ms`,
  );
}

/**
 * Sum of all balances = initial balances + credits - debits, and each wallet by itself as its
 * operations say.
 */
function checkConservation(
  { tally }: Run,
  ids: readonly string[],
  balancesMinor: readonly number[],
): boolean {
  const foundMinor = sumOf(balancesMinor);
  const expectedMinor = tally.expectedSumMinor();
  const differences = tally.differences(balancesMinor);
  if (differences.length === 0) {
    print(
      `Conservation: OK, ${formatWhole(ids.length)} balances are as expected, in all ${money(foundMinor)} USD`,
    );
    return true;
  }
  print(
    `Conservation: BROKEN, sum ${money(foundMinor)} USD, expected ${money(expectedMinor)}, ` +
      `difference ${money(foundMinor - expectedMinor)}; ${formatWhole(differences.length)} wallets differ`,
    ...differences
      .slice(0, DIFFERENCES_SHOWN)
      .map(
        (one) =>
          `  ${ids[one.wallet]} has ${money(one.foundMinor)}, expected ${money(one.expectedMinor)}`,
      ),
  );
  return false;
}

/** Times `work` and shows how far it is. */
async function withProgress(
  what: string,
  total: number,
  work: (progress: (done: number) => void) => Promise<void>,
): Promise<number> {
  const startMs = performance.now();
  const progress = startProgress(what, total, { unit: "ops" });
  try {
    await work(progress.show);
    return performance.now() - startMs;
  } finally {
    progress.stop();
  }
}

/**
 * Throws a message for the person who started this when the server is away, not ready, or something
 * else.
 */
async function assertServes(server: Server, url: URL): Promise<void> {
  const connection = new HttpConnection(server.host, server.port, 5_000);
  const answer = await connection.get("/health/ready").catch((error: unknown) => {
    throw new Error(
      `No server answers at ${url.origin} (${messageOf(error)}). ` +
        "Start one with: npm start, or name another with --url",
      { cause: error },
    );
  });
  connection.close();
  if (answer.status !== 200) {
    throw new Error(`The server at ${url.origin} is not ready: ${textOf(answer)}`);
  }
}

function serverOf(url: URL): Server {
  return {
    host: url.hostname.replace(/^\[(.*)\]$/, "$1"),
    port: url.port === "" ? 80 : Number(url.port),
  };
}

function sumOf(values: Iterable<number>): number {
  let sum = 0;
  for (const value of values) sum += value;
  return sum;
}

const MONEY = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2 });

function money(minor: number): string {
  return MONEY.format(minor / 100);
}

function seconds(ms: number): string {
  return `${(ms / 1_000).toFixed(2)} s`;
}

function print(...lines: string[]): void {
  for (const line of lines) console.log(line);
}

try {
  const options = parseLoadOptions(process.argv.slice(2));
  if (options === "help") print(LOAD_USAGE);
  else process.exitCode = (await main(options)) ? 0 : 1;
} catch (error) {
  console.error(messageOf(error));
  if (error instanceof UsageError) console.error(LOAD_USAGE);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
