/**
 * The read model on PostgreSQL: bounded pools of connections of its own, so that readers cannot
 * starve the write path. It hides SQL, column types and lost connections; a caller sees rows or
 * `ReadUnavailable`. Big integers and times become numbers here and only on these connections. Each
 * query ends by `statement_timeout`, and waiting for a connection is bounded by time and by count,
 * so a slow database answers readers with an error instead of a growing queue.
 */
import pg from "pg";
import type { BaseLogger } from "pino";

import { LIMITS } from "../limits.ts";
import { buildPool } from "./connection.ts";
import type { Hold } from "../core/hold.ts";
import { messageOf } from "../message-of.ts";
import { EVENT_COLUMNS, HOLD_COLUMNS, TRANSFER_COLUMNS, WALLET_AT_COLUMNS } from "./rows.ts";
import { searchWallets, upTo } from "./search.ts";
import {
  ReadUnavailable,
  type AccountTotal,
  type Operation,
  type ReadFault,
  type ReadModel,
  type StoredEvent,
} from "../core/read-model.ts";
import {
  buildShardedReadModel,
  type Arrival,
  type ReadPart,
  type TransferSide,
} from "./sharded-read-model.ts";
import type { Transfer } from "../core/transfer.ts";
import { buildWalletsTogether, type Ask } from "./wallet-reads.ts";
import type { WalletState } from "../core/wallet.ts";

export interface PostgresReadModelOptions {
  /** In the deployment's order: shard `s` is in the one at `s % databaseUrls.length`. */
  readonly databaseUrls: readonly string[];
  readonly log?: Pick<BaseLogger, "warn">;
}

/**
 * SQLSTATEs that speak of the database's condition, not of the query: connection exceptions,
 * insufficient resources, operator intervention (shutdown, statement timeout), system errors.
 */
const CONDITIONS = new Set(["08", "53", "57", "58"]);
/** `undefined_table`: no host has migrated the database yet. */
const NO_TABLES = "42P01";
/** `query_canceled`: by `statement_timeout`, since nobody else cancels. */
const CANCELED = "57014";

/**
 * Pages are small and their rows are found by an index, whatever the statistics say: a scan of a
 * whole table is never the way to one, and compiling a query or starting workers for it takes
 * longer than running it.
 */
const PAGE_SETTINGS = ["enable_seqscan=off", "jit=off", "max_parallel_workers_per_gather=0"];

/**
 * What is new is found by its key, whatever the statistics say; the wallets are read as a whole.
 */
const TOTALS_SETTINGS = ["jit=off", "enable_hashjoin=off", "enable_mergejoin=off"];

/** Builds the read model; it connects on demand, so the databases may come later. */
export function buildPostgresReadModel({ databaseUrls, log }: PostgresReadModelOptions): ReadModel {
  const parts = databaseUrls.map((databaseUrl) => buildPart(databaseUrl, log));
  return buildShardedReadModel(parts);
}

interface PoolBounds {
  readonly connectionsMax: number;
  readonly waitingMax: number;
  readonly waitMs: number;
  readonly statementMs: number;
  readonly settings: readonly string[];
  /**
   * What a statement that runs into its bound means: a page is cheap, so the database is stuck;
   * totals may take too long.
   */
  readonly onTimeout: ReadFault;
}

function buildAsking(
  databaseUrl: string,
  bounds: PoolBounds,
  log: PostgresReadModelOptions["log"],
): { ask: Ask; end(): Promise<void> } {
  const { connectionsMax, waitMs, statementMs } = bounds;
  const pool = buildPool(databaseUrl, {
    name: "read",
    connectionsMax,
    connectMs: waitMs,
    answerMs: statementMs + 1_000,
    settings: [...bounds.settings, `statement_timeout=${statementMs}`],
    onLost: (error) => log?.warn(`a read connection was lost: ${error.message}`),
  });
  return {
    async ask(query) {
      if (pool.waitingCount >= bounds.waitingMax) {
        throw new ReadUnavailable("overloaded", "too many queries wait for the database");
      }
      try {
        return (await pool.query(query)).rows;
      } catch (error) {
        throw asUnavailable(error, bounds.onTimeout);
      }
    },
    end: () => pool.end(),
  };
}

function buildPart(databaseUrl: string, log: PostgresReadModelOptions["log"]): ReadPart {
  const { ask, ...pages } = buildAsking(
    databaseUrl,
    {
      connectionsMax: LIMITS.queryConnectionsMax,
      waitingMax: LIMITS.queryWaitingMax,
      waitMs: LIMITS.queryWaitMs,
      statementMs: LIMITS.queryStatementMs,
      settings: PAGE_SETTINGS,
      onTimeout: "unavailable",
    },
    log,
  );
  // One at a time and on its own, so that it holds up no page.
  const totals = buildAsking(
    databaseUrl,
    {
      connectionsMax: 1,
      waitingMax: LIMITS.trialBalancesWaitingMax,
      // Totals may be advanced during the first half of the time, and are added up in the second.
      waitMs: LIMITS.queryStatementMs,
      statementMs: LIMITS.trialBalanceMs / 2,
      settings: TOTALS_SETTINGS,
      onTimeout: "query_too_slow",
    },
    log,
  );
  // Whoever asks whether the database is there does not wait behind readers, however many. A check
  // that gives up before a busy process has connected leaves the connection to the next one.
  const health = buildAsking(
    databaseUrl,
    {
      connectionsMax: 1,
      waitingMax: LIMITS.healthWaitingMax,
      waitMs: LIMITS.journalConnectMs,
      statementMs: LIMITS.healthCheckMs,
      settings: PAGE_SETTINGS,
      onTimeout: "unavailable",
    },
    log,
  );
  let closed: Promise<void> | undefined;
  return {
    ...buildWalletReads(ask),
    ...buildHistoryReads(ask),
    ...buildTransferReads(ask),
    ...buildHoldReads(ask),
    trialBalance: (currency) => trialBalance(totals.ask, currency),
    async ping() {
      const startedAtMs = performance.now();
      await health.ask({ text: "SELECT 1" });
      return performance.now() - startedAtMs;
    },
    close() {
      closed ??= Promise.all([pages.end(), totals.end(), health.end()]).then(() => undefined);
      return closed;
    },
  };
}

export function asUnavailable(error: unknown, onTimeout: ReadFault): unknown {
  // A `DatabaseError` comes from the server; everything else (refused, reset, timed out) from the
  // way to it.
  const message = messageOf(error);
  if (error instanceof pg.DatabaseError && !CONDITIONS.has(error.code?.slice(0, 2) ?? "")) {
    if (error.code !== NO_TABLES) return error;
    return new ReadUnavailable("unavailable", `the database has no tables yet: ${message}`, error);
  }
  const isTimeout = error instanceof pg.DatabaseError && error.code === CANCELED;
  const reason = isTimeout ? onTimeout : "unavailable";
  return new ReadUnavailable(reason, `the database gave no answer: ${message}`, error);
}

function bounded(rows: number): number {
  return Math.max(0, Math.min(rows, LIMITS.queryRowsMax));
}

/** Rows of a page, so that one more can be read to see whether another page follows. */
function boundedPage(rows: number): number {
  return Math.max(0, Math.min(rows, LIMITS.queryRowsMax - 1));
}

// --- Wallets -------------------------------------------------------------------------------------

type WalletReads = Pick<
  ReadModel,
  "wallet" | "walletsById" | "walletAt" | "walletAtTime" | "wallets" | "walletIdsOfOwner"
>;

function buildWalletReads(ask: Ask): WalletReads {
  return {
    ...buildWalletsTogether(ask),
    async walletAtTime(walletId, atMs) {
      const rows = await ask<WalletState>({
        name: "wallet-at-time",
        text: `SELECT ${WALLET_AT_COLUMNS} FROM events e JOIN wallets w USING (wallet_id)
               WHERE e.wallet_id = $1 AND e.version = version_at($1, to_timestamp($2::float8 / 1000))`,
        values: [walletId, atMs],
      });
      return rows[0] ?? null;
    },
    wallets: (filter, limit, afterWalletId) =>
      searchWallets(ask, filter, boundedPage(limit), afterWalletId),
    async walletIdsOfOwner(ownerId, limit) {
      const rows = await ask<{ walletId: string }>({
        text: `SELECT wallet_id AS "walletId" FROM wallets WHERE owner_id = $1 ORDER BY wallet_id LIMIT $2`,
        values: [ownerId, bounded(limit)],
      });
      return rows.map(({ walletId }) => walletId);
    },
  };
}

// --- History -------------------------------------------------------------------------------------

type HistoryReads = Pick<ReadModel, "events" | "transactions" | "operations">;

function buildHistoryReads(ask: Ask): HistoryReads {
  return {
    events(walletId, fromVersion, limit): Promise<StoredEvent[]> {
      return ask<StoredEvent>({
        name: "events",
        text: `SELECT ${EVENT_COLUMNS} FROM events e WHERE e.wallet_id = $1 AND e.version >= $2
               ORDER BY e.version LIMIT $3`,
        values: [walletId, fromVersion, bounded(limit)],
      });
    },
    async transactions(walletId, filter, limit, beforeVersion) {
      const range = await rangeOf(ask, walletId, beforeVersion, filter);
      if (range === null) return { rows: [], next: null };
      const rows = boundedPage(limit);
      // One text for all filters, so that one prepared statement serves them; each filter that is
      // absent is null.
      const found = await ask<StoredEvent>({
        name: "transactions",
        text: `SELECT ${EVENT_COLUMNS} FROM events e
               WHERE e.wallet_id = $1 AND e.version BETWEEN $2 AND $3 AND e.amount IS NOT NULL
                 AND ($4::text[] IS NULL OR e.type = ANY ($4))
                 AND ($5::text IS NULL OR $5 = coalesce(e.data ->> 'kind', CASE e.type WHEN 'WalletDebited' THEN 'DEBIT' ELSE 'CREDIT' END))
               ORDER BY e.version DESC LIMIT $6`,
        values: [
          walletId,
          range.low,
          range.high,
          filter.types ?? null,
          filter.kind ?? null,
          rows + 1,
        ],
      });
      return upTo(found, rows, ({ version }) => version, range.next);
    },
    async operations(commandId, walletId) {
      return ask<Operation>({
        name: "operations",
        text: `SELECT command_id AS "commandId", wallet_id AS "walletId", version, NULL::jsonb AS rejection,
                      transfer_id AS "transferId"
               FROM events WHERE command_id = $1 AND ($2::text IS NULL OR wallet_id = $2)
               UNION ALL
               SELECT command_id, wallet_id, NULL, rejection, NULL
               FROM rejections WHERE command_id = $1 AND ($2::text IS NULL OR wallet_id = $2)
               LIMIT $3`,
        values: [commandId, walletId, LIMITS.queryRowsMax],
      });
    },
  };
}

interface VersionRange {
  readonly low: number;
  readonly high: number;
  /** Where to go on below it; null when it reaches down to the last one asked for. */
  readonly next: number | null;
}

/**
 * The versions to look at for one page: below `beforeVersion`, within the times, and no more than a
 * page may look at. Null when there are none. Versions below the newest never change, so a page
 * stays what it was while events arrive.
 */
async function rangeOf(
  ask: Ask,
  walletId: string,
  beforeVersion: number | null,
  { fromMs, toMs }: { readonly fromMs?: number; readonly toMs?: number },
): Promise<VersionRange | null> {
  const rows = await ask<{ newest: number; before: number | null; until: number | null }>({
    name: "version-range",
    text: `SELECT version AS newest,
                  CASE WHEN $2::float8 IS NOT NULL THEN version_at($1, to_timestamp($2 / 1000) - interval '1 microsecond') END AS before,
                  CASE WHEN $3::float8 IS NOT NULL THEN version_at($1, to_timestamp($3 / 1000) - interval '1 microsecond') END AS until
           FROM wallets WHERE wallet_id = $1`,
    values: [walletId, fromMs ?? null, toMs ?? null],
  });
  const [found] = rows;
  if (found === undefined) return null;
  const { newest, before, until } = found;
  const high = Math.min(newest, until ?? newest, (beforeVersion ?? newest + 1) - 1);
  const lowest = before === null ? 0 : before + 1;
  if (high < lowest) return null;
  const low = Math.max(lowest, high - LIMITS.queryScanRowsMax + 1);
  return { low, high, next: low > lowest ? low : null };
}

// --- Transfers and the ledger --------------------------------------------------------------------

type TransferReads = Pick<
  ReadPart,
  "transfer" | "transfersById" | "arrivalsById" | "transferEvents" | "transferSides"
>;

function buildTransferReads(ask: Ask): TransferReads {
  return {
    async transfer(transferId): Promise<Transfer | null> {
      const rows = await ask<Transfer>({
        name: "transfer",
        text: `SELECT ${TRANSFER_COLUMNS} FROM transfers t WHERE t.transfer_id = $1`,
        values: [transferId],
      });
      return rows[0] ?? null;
    },
    transfersById(transferIds): Promise<Transfer[]> {
      return ask<Transfer>({
        name: "transfers-by-id",
        text: `SELECT ${TRANSFER_COLUMNS} FROM transfers t WHERE t.transfer_id = ANY ($1)`,
        values: [transferIds],
      });
    },
    arrivalsById(transferIds): Promise<Arrival[]> {
      return ask<Arrival>({
        name: "arrivals-by-id",
        text: `SELECT transfer_id AS "transferId", to_version AS "toVersion" FROM transfer_verdicts
               WHERE transfer_id = ANY ($1) AND to_version IS NOT NULL`,
        values: [transferIds],
      });
    },
    transferEvents(transferId): Promise<StoredEvent[]> {
      return ask<StoredEvent>({
        name: "transfer-events",
        text: `SELECT ${EVENT_COLUMNS} FROM transfers t
                 JOIN events e ON e.wallet_id = t.from_wallet AND e.version = t.from_version WHERE t.transfer_id = $1
               UNION ALL
               SELECT ${EVENT_COLUMNS} FROM transfer_verdicts v
                 JOIN events e ON e.wallet_id = v.to_wallet AND e.version = v.to_version WHERE v.transfer_id = $1
               UNION ALL
               SELECT ${EVENT_COLUMNS} FROM events e WHERE e.transfer_id = $1 AND e.type = 'TransferReturned'`,
        values: [transferId],
      });
    },
    async transferSides(walletId, status, limit, beforeVersion) {
      const range = await rangeOf(ask, walletId, beforeVersion, {});
      if (range === null) return { rows: [], next: null };
      const rows = boundedPage(limit);
      // By way of the wallet's events: their key gives the order, and the transfers need no index
      // by wallet. The records are looked up for the rows of the page alone; one that is not here
      // is in the payer's database.
      const found = await ask<TransferRow>({
        name: "transfer-sides",
        text: `SELECT s.version, s.type = 'TransferReceived' AS "isPayee", s.transfer_id AS "sideTransferId",
                      CASE s.type WHEN 'TransferSent' THEN s.wallet_id ELSE s.counterparty END AS "payerWalletId", record.*
               FROM (
                 SELECT e.wallet_id, e.version, e.type, e.transfer_id, e.counterparty FROM events e
                 WHERE e.wallet_id = $1 AND e.version BETWEEN $2 AND $3 AND e.type IN ('TransferSent', 'TransferReceived')
                   AND ($4::text IS NULL OR CASE e.type WHEN 'TransferSent'
                          THEN (SELECT t.status FROM transfers t WHERE t.transfer_id = e.transfer_id) ELSE 'posted' END
                          -- What is marked as pending may have arrived: whoever asks looks at that.
                          IN ($4, CASE $4 WHEN 'posted' THEN 'pending' END))
                 ORDER BY e.version DESC LIMIT $5
               ) s LEFT JOIN LATERAL (
                 SELECT ${TRANSFER_COLUMNS} FROM transfers t WHERE t.transfer_id = s.transfer_id LIMIT 1
               ) record ON true
               ORDER BY s.version DESC`,
        values: [walletId, range.low, range.high, status, rows + 1],
      });
      const page = upTo(found, rows, ({ version }) => version, range.next);
      return { rows: page.rows.map(sideOf), next: page.next };
    },
  };
}

// --- Holds ---------------------------------------------------------------------------------------

function buildHoldReads(ask: Ask): Pick<ReadModel, "hold" | "holds" | "holdAt"> {
  return {
    async hold(walletId, holdId) {
      const rows = await ask<Hold>({
        name: "hold",
        text: `SELECT ${HOLD_COLUMNS} FROM holds h WHERE h.wallet_id = $1 AND h.hold_id = $2`,
        values: [walletId, holdId],
      });
      return rows[0] ?? null;
    },
    async holds(walletId, status, limit, beforeHoldId) {
      const rows = boundedPage(limit);
      // Ids are UUIDv7: their order is that of the holds. Two texts, so that each has its index.
      const found = await ask<Hold>({
        name: status === null ? "holds" : "holds-by-status",
        text: `SELECT ${HOLD_COLUMNS} FROM holds h
               WHERE h.wallet_id = $1 AND ($2::text IS NULL OR h.hold_id < $2)
                 ${status === null ? "" : "AND h.status = $4"}
               ORDER BY h.hold_id DESC LIMIT $3`,
        values: [walletId, beforeHoldId, rows + 1, ...(status === null ? [] : [status])],
      });
      return upTo(found, rows, ({ holdId }) => holdId, null);
    },
    async holdAt(walletId, version) {
      const rows = await ask<{ hold: Hold | null }>({
        name: "hold-at",
        text: `SELECT data -> 'hold' AS hold FROM events WHERE wallet_id = $1 AND version = $2`,
        values: [walletId, version],
      });
      return rows[0]?.hold ?? null;
    },
  };
}

type TransferRow = Pick<TransferSide, "version" | "isPayee"> & {
  readonly sideTransferId: string;
  readonly payerWalletId: string;
} & (Transfer | { readonly [Key in keyof Transfer]: null });

function sideOf({
  version,
  isPayee,
  sideTransferId,
  payerWalletId,
  ...found
}: TransferRow): TransferSide {
  const record = found.transferId === null ? null : found;
  return { version, isPayee, transferId: sideTransferId, fromWalletId: payerWalletId, record };
}

/**
 * The totals cover every event up to their checkpoint, and whoever asks moves that on first, in
 * steps of their own: one that is cut short leaves less to the next. The answer is one statement,
 * hence of one moment, and right wherever the checkpoint is.
 */
async function trialBalance(ask: Ask, currency: string | null): Promise<AccountTotal[]> {
  const endsAtMs = performance.now() + LIMITS.trialBalanceMs / 2;
  for (;;) {
    const [step] = await ask<{ events: number }>({
      text: "SELECT advance_totals($1, $2) AS events",
      values: [LIMITS.totalsStepEvents, LIMITS.totalsBehindMax],
    });
    if (step === undefined || step.events === 0) break;
    if (performance.now() > endsAtMs) {
      const message = "the totals are further than they were, and not at the end";
      throw new ReadUnavailable("query_too_slow", message);
    }
  }
  const rows = await ask<Omit<AccountTotal, "balanceMinor"> & { balanceMinor: string }>({
    text: `SELECT t.currency, t.account, t.balance::text AS "balanceMinor",
                  (SELECT w.decimal_places FROM wallets w WHERE w.currency = t.currency LIMIT 1) AS "decimalPlaces"
           FROM trial_balance_now t ${currency === null ? "" : "WHERE t.currency = $1"}`,
    values: currency === null ? [] : [currency],
  });
  return rows.map((row) => ({ ...row, balanceMinor: BigInt(row.balanceMinor) }));
}
