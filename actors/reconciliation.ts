/**
 * The reconciliation of a host: from time to time it refolds the wallets of the shards that the
 * host serves, piece by piece and slowly (`src/verify/verify.ts` with a pace), beside the work for
 * which the host is there. It hides when that happens and what is known since: a difference stays known
 * until a whole run has found none. What it finds is logged, shown by health and counted; it
 * changes nothing, and a run that fails says so and begins anew later.
 *
 *     waiting --the interval is over--> running --to the end--> waiting, with a result
 *                                          \--a database is away--> waiting, for a moment
 */
import type { Time } from "../src/clock.ts";
import { counted } from "../src/counted.ts";
import type { Difference } from "../src/verify/differences.ts";
import { LIMITS } from "../src/limits.ts";
import { messageOf } from "../src/message-of.ts";
import type { BooksStatus } from "../src/core/protocol.ts";
import { verify, type VerifyReport } from "../src/verify/verify.ts";

export interface ReconciliationDeps {
  /** In the deployment's order. */
  readonly databaseUrls: readonly string[];
  /** From the end of one run to the beginning of the next. */
  readonly intervalMs: number;
  /** Before the first run. */
  readonly firstMs: number;
  /** Events, and transfers, per second at most. */
  readonly rowsPerSecond: number;
  /** Which shards are the host's now. */
  readonly shards: () => readonly number[];
  readonly time: Pick<Time, "nowMs" | "after">;
  readonly log: { info(text: string): void; warn(text: string): void; error(text: string): void };
}

export interface Reconciliation {
  start(): void;
  status(): BooksStatus;
  /**
   * For health: resolves to 0; rejects with what a person should know while differences are known.
   */
  probe(): Promise<number>;
  /** Ends a run under way; resolves when its connections are closed. */
  stop(): Promise<void>;
}

class Stopped extends Error {}

export function buildReconciliation(deps: ReconciliationDeps): Reconciliation {
  const { time, log } = deps;
  let isStopped = false;
  let cancelWait = (): void => undefined;
  let running: Promise<void> | null = null;
  let last: VerifyReport | null = null;
  /** Of the run under way, or of one that did not come to its end. */
  let found = { differences: 0, warnings: 0, wallets: 0, first: null as Difference | null };
  /** The most that a run has found since the last whole one, and did not come to its end. */
  let unfinished = { differences: 0, warnings: 0 };
  let walletsTotal = 0;
  let firstKnown: Difference | null = null;

  function wait(ms: number): Promise<void> {
    return new Promise((resolve) => {
      const cancel = time.after(ms, resolve);
      cancelWait = () => {
        cancel();
        resolve();
      };
    });
  }

  /** Spreads the rows over time. Time that a slow database took is not made up for. */
  function buildPace(): (rows: number) => Promise<void> {
    let dueMs = time.nowMs();
    return async (rows) => {
      dueMs = Math.max(dueMs, time.nowMs()) + (rows / deps.rowsPerSecond) * 1_000;
      // Also without rows: whatever the main thread has to do comes first.
      await wait(Math.max(dueMs - time.nowMs(), 0));
      if (isStopped) throw new Stopped();
    };
  }

  async function run(): Promise<void> {
    unfinished = {
      differences: Math.max(unfinished.differences, found.differences),
      warnings: Math.max(unfinished.warnings, found.warnings),
    };
    found = { differences: 0, warnings: 0, wallets: 0, first: null };
    const base = walletsTotal;
    const report = await verify({
      databaseUrls: deps.databaseUrls,
      pace: { isOurs: (shard) => deps.shards().includes(shard), spend: buildPace() },
      onDifference(difference) {
        if (difference.isWarning) {
          found.warnings += 1;
          log.warn(`books: ${difference.kind}: ${difference.text}`);
          return;
        }
        found.differences += 1;
        firstKnown ??= difference;
        found.first ??= difference;
        log.error(`books: ${difference.kind}: ${difference.text}`);
      },
      onProgress({ wallets }) {
        found.wallets = wallets;
        walletsTotal = base + wallets;
      },
    });
    last = report;
    firstKnown = found.first;
    found = { ...found, differences: 0, warnings: 0 };
    unfinished = { differences: 0, warnings: 0 };
    const { wallets, events, transfers, differences } = report;
    const looked = [counted(wallets, "wallet"), counted(events, "event")];
    const came = `${counted(transfers, "transfer")} reconciled, ${counted(differences, "difference")}`;
    const text = `books: ${looked.join(", ")}, ${came}`;
    if (differences > 0) log.error(text);
    else log.info(text);
  }

  async function loop(): Promise<void> {
    await wait(deps.firstMs);
    while (!isStopped) {
      let pauseMs = deps.intervalMs;
      try {
        running = run();
        await running;
      } catch (error) {
        if (error instanceof Stopped) return;
        log.warn(`books: the reconciliation failed, it begins anew later: ${messageOf(error)}`);
        pauseMs = Math.min(LIMITS.verifyRetryMs, deps.intervalMs);
      } finally {
        running = null;
      }
      await wait(pauseMs);
    }
  }

  function status(): BooksStatus {
    const isRunning = running !== null;
    // All may be true at once: what the last whole run found, and what one has found since without
    // coming to its end, or not yet.
    const known = [last, unfinished, found].filter((each) => each !== null);
    const differences = Math.max(...known.map((each) => each.differences));
    const warnings = Math.max(...known.map((each) => each.warnings));
    return {
      running: isRunning,
      lastRunAt: last?.finishedAt ?? null,
      differences,
      warnings,
      walletsChecked: walletsTotal,
    };
  }

  let looping: Promise<void> = Promise.resolve();
  return {
    start() {
      looping = loop();
    },
    status,
    probe() {
      const { differences } = status();
      if (differences === 0) return Promise.resolve(0);
      const text = firstKnown === null ? "" : `, the first: ${firstKnown.kind}: ${firstKnown.text}`;
      const count = differences === 1 ? "one difference" : `${differences} differences`;
      return Promise.reject(new Error(`${count} in the books${text} npm run verify names all`));
    },
    async stop() {
      isStopped = true;
      cancelWait();
      await looping;
    },
  };
}
