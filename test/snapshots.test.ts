/**
 * Waking a wallet costs one row, however long its history is: the row of `wallets` is its snapshot.
 * A wallet with 100,000 events and one with 10 are put to sleep and woken again and again, by
 * passivation and by a lane that has never seen them; the database says what was read for it, which
 * is the same for both and no event, and the clock says that both take the same time.
 */
import { expect, it, onTestFinished } from "vitest";
import { LIMITS } from "../src/limits.ts";
import { buildPostgresJournal } from "../src/postgres/journal.ts";
import { ALL_SHARDS, shardOf } from "../src/core/shard.ts";
import { verify } from "../src/verify/verify.ts";
import { openDatabase, type TestDatabase } from "./stage/audited-database.ts";
import { until } from "./stage/stack.ts";
import { commandOf, creation, credit } from "./stage/staged-commands.ts";
import { stageLanes, type Stage } from "./stage/lanes.ts";

const MANY = 100_000;
const FEW = 10;
const OTHERS = 500;
const WAKES = 15;
/** Of wakes, for the fastest of all. */
const SERIES_MAX = 20;

/**
 * What the lanes' sessions and the journal's have read of each table, in rows, and of each index,
 * in entries. A session's own counts are certain to be in there when it has ended.
 */
async function readsAtRest(database: TestDatabase): Promise<Map<string, number>> {
  await until("the sessions of lanes have ended", async () => {
    const sessions = await database.query(
      "SELECT FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'coffer%'",
    );
    return sessions.length === 0;
  });
  const rows = await database.query<{ name: string; reads: number }>(
    `SELECT relname AS name, coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0) AS reads
     FROM pg_stat_user_tables
     UNION ALL SELECT indexrelname, idx_tup_read FROM pg_stat_user_indexes`,
  );
  return new Map(rows.map(({ name, reads }) => [name, reads]));
}

/** What `work`, which leaves no session behind, reads of each table and index. */
async function readsOf(
  database: TestDatabase,
  work: () => Promise<void>,
): Promise<Record<string, number>> {
  const before = await readsAtRest(database);
  await work();
  const after = await readsAtRest(database);
  const reads = [...after].map(([name, count]) => [name, count - before.get(name)!] as const);
  return Object.fromEntries(reads.filter(([, count]) => count !== 0));
}

/**
 * Appends credits by the lane itself, a thousand in each batch, until the wallet has so many
 * events.
 */
async function fill(stage: Stage, walletId: string, events: number): Promise<void> {
  for (let left = events - 1; left > 0; left -= 1_000) {
    stage.send(...Array.from({ length: Math.min(left, 1_000) }, () => credit(walletId, "0.01")));
    await stage.quiet();
  }
}

/** Puts the lane's wallets to sleep and wakes this one; returns milliseconds until its answer. */
async function wake(stage: Stage, walletId: string): Promise<number> {
  await stage.tick(LIMITS.actorIdleMs + LIMITS.actorSweepMs);
  expect(stage.lane("here").lane.stats().actors).toBe(0);
  const loads = stage.lane("here").calls.loadWallets;
  // A command that changes nothing, so that only the waking and one small commit are measured.
  const startedAtMs = performance.now();
  const outcome = await stage.perform(credit(walletId, "0"));
  const tookMs = performance.now() - startedAtMs;
  expect(outcome).toMatchObject({ type: "rejected", rejection: { code: "invalid_amount" } });
  expect(stage.lane("here").calls.loadWallets).toBe(loads + 1);
  return tookMs;
}

it(
  `waking a wallet with ${MANY} events costs what waking one with ${FEW} does`,
  { timeout: 180_000 },
  async () => {
    // Given two wallets
    const database = await openDatabase("snapshots");
    onTestFinished(() => database.close());
    const lanes = [{ name: "here", owner: "host-1", shards: ALL_SHARDS }];
    const stage = await stageLanes({ databaseUrl: database.url, lanes });
    const long = await stage.open("here", null);
    const short = await stage.open("here", null);
    // And others, so that a plan that reads them all would show.
    const others = Array.from({ length: OTHERS }, () =>
      commandOf(stage.idIn("here"), creation(null)),
    );
    stage.send(...others);
    await stage.quiet();
    await fill(stage, long, MANY);
    await fill(stage, short, FEW);
    const counts = await database.query(
      "SELECT wallet_id AS id, count(*) AS events FROM events GROUP BY wallet_id ORDER BY events DESC LIMIT 2",
    );
    expect(counts).toEqual([
      { id: long, events: MANY },
      { id: short, events: FEW },
    ]);
    await database.query("VACUUM (ANALYZE) events, wallets");

    // When each is woken many times, in turns, then the fastest of both take the same time, within
    // what two series of the same thing differ by. A busy machine may take more than one series; it
    // makes nothing faster.
    let [longMs, shortMs] = [Infinity, Infinity];
    const areAlike = () => longMs < shortMs * 1.5 + 1 && shortMs < longMs * 1.5 + 1;
    for (let series = 0; series < SERIES_MAX && (series === 0 || !areAlike()); series++) {
      for (let nth = 0; nth < WAKES; nth++) {
        longMs = Math.min(longMs, await wake(stage, long));
        shortMs = Math.min(shortMs, await wake(stage, short));
      }
    }
    console.log(
      `wake to answer: ${longMs.toFixed(2)} ms with ${MANY} events, ${shortMs.toFixed(2)} ms with ${FEW}`,
    );
    expect(longMs).toBeLessThan(shortMs * 1.5 + 1);
    expect(shortMs).toBeLessThan(longMs * 1.5 + 1);
    await stage.close();

    // And a lane that has never seen them reads one row for each waking. All that it reads of
    // events is the last position of each shard: when it takes them, and over the connection that it
    // writes to.
    const filled = new Set([long, short, ...others.map(({ walletId }) => walletId)].map(shardOf));
    for (const walletId of [long, short]) {
      // Of the shards it reads more or less, by what is left of their older rows.
      const {
        shards: _,
        shards_pkey: __,
        ...reads
      } = await readsOf(database, async () => {
        const other = await stageLanes({ databaseUrl: database.url, lanes });
        for (let nth = 0; nth < WAKES; nth++) await wake(other, walletId);
        await other.close();
      });
      expect(reads).toEqual({
        wallets: WAKES,
        wallets_pkey: WAKES,
        events_position: 2 * filled.size,
      });
    }

    // And one that nobody has in memory is read by one row of wallets, and nothing else
    for (const [walletId, balanceMinor] of [
      [long, MANY - 1],
      [short, FEW - 1],
    ] as const) {
      const reads = await readsOf(database, async () => {
        const journal = buildPostgresJournal(database.url);
        const { wallets: loaded } = await journal.loadWallets([walletId]);
        await journal.close();
        const state = { walletId, balanceMinor, version: balanceMinor };
        expect(loaded.get(walletId)).toMatchObject({ state });
      });
      expect(reads).toEqual({ wallets: 1, wallets_pkey: 1 });
    }

    // And the row that it woke from is what all those events make
    expect((await verify({ databaseUrls: [database.url] })).named).toEqual([]);
  },
);
