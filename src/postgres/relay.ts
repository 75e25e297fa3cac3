/**
 * The relay's store on PostgreSQL. It hides the SQL. Cursors are saved without waiting for the
 * disk: one that a crash takes back makes the relay repeat, never lose. Only making one waits: a
 * save moves none that is not there, and a shard whose cursor was taken back as a whole would be
 * repeated from its first event.
 */
import type pg from "pg";
import { LIMITS } from "../limits.ts";
import { buildPool } from "./connection.ts";
import { EVENT_COLUMNS, milliseconds } from "./rows.ts";
import type { Cursor, RelayEvent, RelayStore, ShardPosition } from "../core/relay-store.ts";

/** Connects when it is asked. Every question rejects when the database does not answer it. */
export function buildPostgresRelayStore(databaseUrl: string): RelayStore {
  const pool = buildPool(databaseUrl, {
    name: "relay",
    connectionsMax: LIMITS.relayConnectionsMax,
    connectMs: LIMITS.journalConnectMs,
    answerMs: LIMITS.relayStatementMs + LIMITS.journalConnectMs,
    settings: [
      "synchronous_commit=off",
      "enable_seqscan=off",
      "enable_hashjoin=off",
      "enable_mergejoin=off",
      "jit=off",
      `statement_timeout=${LIMITS.relayStatementMs}`,
    ],
  });

  async function ask<Row extends pg.QueryResultRow>(
    name: string,
    text: string,
    values: unknown[],
  ): Promise<Row[]> {
    return (await pool.query<Row>({ name, text, values })).rows;
  }

  return {
    async cursors(sink, shards, begin) {
      if (begin) await ask("relay-begin", BEGIN, [sink, shards]);
      const rows = await ask<CursorRow>("relay-cursors", SELECT_CURSORS, [sink, shards]);
      return rows.map(cursorOf);
    },
    read: (behind, rowsPerShard) =>
      ask<RelayEvent>("relay-read", SELECT_BEHIND, [...columns(behind), rowsPerShard]),
    lastPositions: (shards) => ask<ShardPosition>("relay-last", SELECT_LAST, [shards]),
    async oldestBehind(behind) {
      const rows = await ask<{ atMs: number | null }>(
        "relay-oldest",
        SELECT_OLDEST,
        columns(behind),
      );
      return rows[0]?.atMs ?? null;
    },
    async save(sink, cursors) {
      const troubles = cursors.map(({ trouble }) => trouble);
      await ask("relay-save", SAVE, [
        sink,
        ...columns(cursors),
        troubles.map((trouble) => trouble?.attempts ?? 0),
        troubles.map((trouble) => trouble?.failingSinceMs ?? null),
        troubles.map((trouble) => trouble?.retryAtMs ?? null),
        troubles.map((trouble) => trouble?.reason ?? null),
      ]);
    },
    close: () => pool.end(),
  };
}

function columns(positions: readonly ShardPosition[]): [number[], number[]] {
  return [positions.map(({ shard }) => shard), positions.map(({ position }) => position)];
}

interface CursorRow {
  shard: number;
  position: number;
  attempts: number;
  failingSinceMs: number | null;
  retryAtMs: number | null;
  reason: string | null;
}

function cursorOf({ shard, position, attempts, ...row }: CursorRow): Cursor {
  if (row.failingSinceMs === null) return { shard, position, trouble: null };
  const { failingSinceMs, retryAtMs, reason } = row;
  const trouble = {
    attempts,
    failingSinceMs,
    retryAtMs: retryAtMs ?? 0,
    reason: reason ?? "unknown",
  };
  return { shard, position, trouble };
}

/** The setting is that of this statement's transaction alone. */
const BEGIN = `
  WITH durable AS MATERIALIZED (SELECT set_config('synchronous_commit', 'on', true))
  INSERT INTO relay_cursors (sink, shard, position) SELECT $1, shard, 0 FROM durable, unnest($2::smallint[]) AS t(shard)
  ON CONFLICT DO NOTHING`;

const SELECT_CURSORS = `
  SELECT shard, position, attempts, ${milliseconds("failing_since")} AS "failingSinceMs",
         ${milliseconds("retry_at")} AS "retryAtMs", reason
  FROM relay_cursors WHERE sink = $1 AND shard = ANY ($2::smallint[])`;

const SELECT_BEHIND = `
  SELECT ${EVENT_COLUMNS}, e.shard, e.position, w.decimal_places AS "decimalPlaces"
  FROM unnest($1::smallint[], $2::bigint[]) AS c(shard, position)
  CROSS JOIN LATERAL (
    SELECT * FROM events e WHERE e.shard = c.shard AND e.position > c.position ORDER BY e.position LIMIT $3
  ) e
  JOIN wallets w ON w.wallet_id = e.wallet_id
  ORDER BY e.shard, e.position`;

const SELECT_LAST = `
  SELECT c.shard, e.position FROM unnest($1::smallint[]) AS c(shard)
  CROSS JOIN LATERAL (
    SELECT e.position FROM events e WHERE e.shard = c.shard ORDER BY e.position DESC LIMIT 1
  ) e`;

const SELECT_OLDEST = `
  SELECT ${milliseconds("min(e.occurred_at)")} AS "atMs" FROM unnest($1::smallint[], $2::bigint[]) AS c(shard, position)
  CROSS JOIN LATERAL (
    SELECT e.occurred_at FROM events e WHERE e.shard = c.shard AND e.position > c.position ORDER BY e.position LIMIT 1
  ) e`;

/** Never behind the last event: after a loss, those that come in their places must be relayed. */
const SAVE = `
  UPDATE relay_cursors c
  SET position = s.position, attempts = s.attempts, failing_since = to_timestamp(s.failing_ms / 1000),
      retry_at = to_timestamp(s.retry_ms / 1000), reason = s.reason
  FROM (
    SELECT unnest($2::smallint[]) AS shard, unnest($3::bigint[]) AS position, unnest($4::int[]) AS attempts,
           unnest($5::float8[]) AS failing_ms, unnest($6::float8[]) AS retry_ms, unnest($7::text[]) AS reason
  ) s
  WHERE c.sink = $1 AND c.shard = s.shard AND c.position <= s.position
    AND (s.position = 0 OR EXISTS (SELECT FROM events e WHERE e.shard = s.shard AND e.position = s.position))`;
