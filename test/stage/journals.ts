/**
 * The two journals that the contract is asked of: PostgreSQL, and the simulated one. Each ground
 * can stop an append between its fence check and its commit, and tell who waits for whom, so that a
 * race happens in the order its test names.
 */
import type { Journal } from "../../src/core/journal.ts";
import { buildPostgresJournal } from "../../src/postgres/journal.ts";
import { buildPostgresShardTable } from "../../src/postgres/shard-table.ts";
import type { ShardTable } from "../../src/core/shard-table.ts";
import { buildSimulatedDatabase, buildSimulatedShardTable } from "../simulation/database.ts";
import { openDatabase } from "./audited-database.ts";

export interface JournalGround {
  /** Connections of another lane with each call. */
  journal(): Journal;
  readonly shardTable: ShardTable;
  /**
   * Stops the next append that writes this wallet after its fence check and before its commit,
   * until the returned function is called.
   */
  stall(walletId: string): Promise<() => Promise<void>>;
  /** Appends that are stopped so. */
  stalled(): Promise<number>;
  /** Claims and appends that wait for each other. */
  waiting(): Promise<number>;
  /** How much there is of everything. */
  counts(): Promise<object>;
  /**
   * The places of a wallet's events among all events of its shard, in the order of their versions.
   */
  places(walletId: string): Promise<number[]>;
  close(): Promise<void>;
}

const COUNTS = `
  SELECT (SELECT count(*) FROM events) AS events, (SELECT count(*) FROM wallets) AS wallets,
         (SELECT sum(version) FROM wallets) AS versions, (SELECT count(*) FROM rejections) AS rejections,
         (SELECT count(*) FROM transfers) AS transfers, (SELECT count(*) FROM transfer_verdicts) AS verdicts,
         (SELECT count(*) FROM transfers WHERE status <> 'pending') AS settled`;
/** Who waits for the advisory lock of claims and appends, and which append waits for a row. */
const WAITING = `
  SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
  WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()`;
const STALLED = `
  SELECT count(*) FROM pg_stat_activity
  WHERE datname = current_database() AND wait_event_type = 'Lock' AND wait_event <> 'advisory'`;

export async function openPostgresGround(databaseName: string): Promise<JournalGround> {
  const database = await openDatabase(databaseName);
  const shardTable = buildPostgresShardTable([database.url]);
  const journals: Journal[] = [];
  const count = async (sql: string): Promise<number> =>
    (await database.query<{ count: number }>(sql))[0]!.count;
  return {
    journal() {
      const journal = buildPostgresJournal(database.url);
      journals.push(journal);
      return journal;
    },
    shardTable,
    async stall(walletId) {
      const session = await database.session();
      await session.query("BEGIN");
      await session.query("SELECT FROM wallets WHERE wallet_id = $1 FOR UPDATE", [walletId]);
      return async () => void (await session.query("ROLLBACK"));
    },
    stalled: () => count(STALLED),
    waiting: () => count(WAITING),
    counts: () => database.query(COUNTS),
    async places(walletId) {
      const sql = "SELECT position::int FROM events WHERE wallet_id = $1 ORDER BY version";
      const rows = await database.query<{ position: number }>(sql, [walletId]);
      return rows.map(({ position }) => position);
    },
    async close() {
      await Promise.all([shardTable, ...journals].map((each) => each.close()));
      await database.close();
    },
  };
}

const STALL_MS = 1;

/** Time does not pass: what takes none happens as soon as it can, what takes any is stopped. */
export function openSimulatedGround(): Promise<JournalGround> {
  const stopped: (() => void)[] = [];
  let isStalling = false;
  const database = buildSimulatedDatabase({
    name: "simulated",
    time: {
      nowMs: () => 0,
      after(delayMs, task) {
        if (delayMs === 0) queueMicrotask(task);
        else stopped.push(task);
        return () => undefined;
      },
    },
    plan({ kind }) {
      const commitMs = isStalling && kind === "append" ? STALL_MS : 0;
      if (commitMs > 0) isStalling = false;
      return { requestMs: 0, commitMs, answerMs: 0, fault: null };
    },
  });
  const caller = { name: "test", deliver: (answer: () => void) => answer() };
  const { wallets, events, eventsOf, rejections, transfers, verdicts } = database.tables;
  return Promise.resolve({
    journal: () => database.journal(caller),
    shardTable: buildSimulatedShardTable([database], caller),
    stall() {
      isStalling = true;
      return Promise.resolve(() => {
        isStalling = false;
        for (const task of stopped.splice(0)) task();
        return Promise.resolve();
      });
    },
    stalled: () => Promise.resolve(stopped.length),
    waiting: () => Promise.resolve(database.waiting),
    counts: () =>
      Promise.resolve({
        events: events.length,
        wallets: wallets.size,
        versions: [...wallets.values()].reduce((sum, { version }) => sum + version, 0),
        rejections: rejections.size,
        transfers: transfers.size,
        verdicts: verdicts.size,
        settled: [...transfers.values()].filter(({ status }) => status !== "pending").length,
      }),
    places: (walletId) =>
      Promise.resolve((eventsOf.get(walletId) ?? []).map(({ position }) => position)),
    close: () => Promise.resolve(),
  });
}
