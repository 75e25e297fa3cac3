/**
 * The read model on PostgreSQL: bounded pools of connections of its own, so that readers cannot starve the write path. It hides
 * SQL, column types and lost connections; a caller sees rows or `ReadUnavailable`. Big integers and times become numbers here
 * and only on these connections. Each query ends by `statement_timeout`, and waiting for a connection is bounded by time and by
 * count, so a slow database answers readers with an error instead of a growing queue.
 */
import pg from "pg";
import type { BaseLogger } from "pino";

import { LIMITS } from "./limits.ts";
import {
  EVENT_COLUMNS,
  NUMBERS,
  TRANSFER_COLUMNS,
  WALLET_AT_COLUMNS,
  WALLET_COLUMNS,
} from "./postgres-rows.ts";
import type { Operation, ReadModel, StoredEvent, WalletFilter } from "./read-model.ts";
import { buildShardedReadModel } from "./sharded-read-model.ts";
import type { Transfer } from "./transfer.ts";
import type { WalletState } from "./wallet.ts";

export interface PostgresReadModelOptions {
  /** In the deployment's order: shard `s` is in the one at `s % databaseUrls.length`. */
  readonly databaseUrls: readonly string[];
  readonly log?: Pick<BaseLogger, "warn">;
}

/** No answer from the database: it is away, too slow, or has too many readers already. Nothing was changed; the same may work later. */
export class ReadUnavailable extends Error {
  override readonly name = "ReadUnavailable";
  readonly reason: "unavailable" | "overloaded";
  constructor(reason: "unavailable" | "overloaded", message: string, cause?: unknown) {
    super(message, { cause });
    this.reason = reason;
  }
}

/**
 * SQLSTATEs that speak of the database's condition, not of the query: connection exceptions, insufficient resources,
 * operator intervention (shutdown, statement timeout), system errors.
 */
const CONDITIONS = new Set(["08", "53", "57", "58"]);

type Ask = <Row extends pg.QueryResultRow>(query: pg.QueryConfig) => Promise<Row[]>;

/** Builds the read model; it connects on demand, so the databases may come later. */
export function buildPostgresReadModel({ databaseUrls, log }: PostgresReadModelOptions): ReadModel {
  const parts = databaseUrls.map((databaseUrl) => buildPart(databaseUrl, log));
  return parts.length === 1 ? parts[0]! : buildShardedReadModel(parts);
}

function buildPart(databaseUrl: string, log: PostgresReadModelOptions["log"]): ReadModel {
  const pool = new pg.Pool({
    connectionString: databaseUrl,
    application_name: "coffer-read",
    max: LIMITS.queryConnectionsMax,
    connectionTimeoutMillis: LIMITS.queryStatementMs,
    statement_timeout: LIMITS.queryStatementMs,
    // The server's own timeout answers first; this one is for a server that says nothing at all.
    query_timeout: LIMITS.queryStatementMs + 1_000,
    keepAlive: true,
    types: NUMBERS,
  });
  // An idle connection that PostgreSQL closed; the pool has dropped it and opens another one when needed.
  pool.on("error", (error) => log?.warn({ err: error }, "a read connection was lost"));

  const ask: Ask = async (query) => {
    if (pool.waitingCount >= LIMITS.queryWaitingMax) {
      throw new ReadUnavailable("overloaded", "too many queries wait for the database");
    }
    try {
      return (await pool.query(query)).rows;
    } catch (error) {
      throw asUnavailable(error);
    }
  };
  let closed: Promise<void> | undefined;
  return {
    ...buildWalletReads(ask),
    ...buildHistoryReads(ask),
    ...buildTransferReads(ask),
    async ping() {
      const startedAtMs = performance.now();
      await ask({ text: "SELECT 1" });
      return performance.now() - startedAtMs;
    },
    close() {
      closed ??= pool.end();
      return closed;
    },
  };
}

function asUnavailable(error: unknown): unknown {
  // A `DatabaseError` comes from the server; everything else (refused, reset, timed out) from the way to it.
  if (error instanceof pg.DatabaseError && !CONDITIONS.has(error.code?.slice(0, 2) ?? "")) {
    return error;
  }
  const message = error instanceof Error ? error.message : String(error);
  return new ReadUnavailable("unavailable", `the database gave no answer: ${message}`, error);
}

function bounded(rows: number): number {
  return Math.max(0, Math.min(rows, LIMITS.queryRowsMax));
}

// --- Wallets --------------------------------------------------------------------------------------------------------------

type WalletReads = Pick<
  ReadModel,
  "wallet" | "walletsById" | "walletAt" | "wallets" | "walletIdsOfOwner"
>;

function buildWalletReads(ask: Ask): WalletReads {
  return {
    async wallet(walletId) {
      const rows = await ask<WalletState>({
        name: "wallet",
        text: `SELECT ${WALLET_COLUMNS} FROM wallets w WHERE wallet_id = $1`,
        values: [walletId],
      });
      return rows[0] ?? null;
    },
    async walletsById(walletIds) {
      if (walletIds.length > LIMITS.queryRowsMax) {
        throw new RangeError(`${walletIds.length} ids are more than ${LIMITS.queryRowsMax}`);
      }
      return ask<WalletState>({
        name: "wallets-by-id",
        text: `SELECT ${WALLET_COLUMNS} FROM wallets w WHERE wallet_id = ANY ($1)`,
        values: [walletIds],
      });
    },
    async walletAt(walletId, version) {
      const rows = await ask<WalletState>({
        name: "wallet-at",
        text: `SELECT ${WALLET_AT_COLUMNS} FROM events e JOIN wallets w USING (wallet_id)
               WHERE e.wallet_id = $1 AND e.version = $2`,
        values: [walletId, version],
      });
      return rows[0] ?? null;
    },
    wallets(filter, limit, afterWalletId) {
      const { conditions, values } = walletConditions(filter, afterWalletId);
      values.push(bounded(limit));
      return ask<WalletState>({
        text: `SELECT ${WALLET_COLUMNS} FROM wallets w WHERE ${conditions.join(" AND ")}
               ORDER BY w.wallet_id LIMIT $${values.length}`,
        values,
      });
    },
    async walletIdsOfOwner(ownerId, limit) {
      const rows = await ask<{ walletId: string }>({
        text: `SELECT wallet_id AS "walletId" FROM wallets WHERE owner_id = $1 ORDER BY wallet_id LIMIT $2`,
        values: [ownerId, bounded(limit)],
      });
      return rows.map(({ walletId }) => walletId);
    },
  };
}

function walletConditions(
  filter: WalletFilter,
  afterWalletId: string | null,
): { conditions: string[]; values: unknown[] } {
  const conditions = ["true"];
  const values: unknown[] = [];
  const and = (value: unknown, condition: (parameter: string) => string): void => {
    if (value === undefined || value === null) return;
    values.push(value);
    conditions.push(condition(`$${values.length}`));
  };
  and(filter.ownerId, (parameter) => `w.owner_id = ${parameter}`);
  and(filter.status, (parameter) => `w.status = ${parameter}`);
  and(filter.currency, (parameter) => `w.currency = ${parameter}`);
  and(afterWalletId, (parameter) => `w.wallet_id > ${parameter}`);
  return { conditions, values };
}

// --- History --------------------------------------------------------------------------------------------------------------

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
    transactions(walletId, filter, limit, beforeVersion): Promise<StoredEvent[]> {
      // One text for all filters, so that one prepared statement serves them; each filter that is absent is null.
      return ask<StoredEvent>({
        name: "transactions",
        text: `SELECT ${EVENT_COLUMNS} FROM events e
               WHERE e.wallet_id = $1 AND e.amount IS NOT NULL
                 AND ($2::text[] IS NULL OR e.type = ANY ($2))
                 AND ($3::float8 IS NULL OR e.occurred_at >= to_timestamp($3 / 1000))
                 AND ($4::float8 IS NULL OR e.occurred_at < to_timestamp($4 / 1000))
                 AND ($5::bigint IS NULL OR e.version < $5)
                 AND ($6::text IS NULL OR coalesce(e.data ->> 'kind', 'CREDIT') = $6)
               ORDER BY e.version DESC LIMIT $7`,
        values: [
          walletId,
          filter.types ?? null,
          filter.fromMs ?? null,
          filter.toMs ?? null,
          beforeVersion,
          filter.kind ?? null,
          bounded(limit),
        ],
      });
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

// --- Transfers ------------------------------------------------------------------------------------------------------------

type TransferReads = Pick<ReadModel, "transfer" | "transfersOf">;

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
    transfersOf(walletId, status, limit): Promise<Transfer[]> {
      // By way of the payer's events: their key gives the order, and the transfers need no index by wallet.
      return ask<Transfer>({
        name: "transfers-of",
        text: `SELECT ${TRANSFER_COLUMNS} FROM events e JOIN transfers t ON t.transfer_id = e.transfer_id
               WHERE e.wallet_id = $1 AND e.type = 'TransferSent' AND ($2::text IS NULL OR t.status = $2)
               ORDER BY e.version DESC LIMIT $3`,
        values: [walletId, status, bounded(limit)],
      });
    },
  };
}
