/**
 * One database as a reconciliation reads it: what is asked of it, and as of which moment. By hand
 * all of it is one view, a REPEATABLE READ snapshot that traffic goes on beside; a host takes a new
 * snapshot for every piece, so that vacuum never waits for it. Each database has a connection of
 * its own, away from the pools that serve commands and readers.
 */
import type pg from "pg";
import type { StoredHold } from "./hold-audit.ts";
import { LIMITS } from "../limits.ts";
import { connect, INDEX_PROBES } from "../postgres/connection.ts";
import { EVENT_ROW_COLUMNS, type EventRow } from "../postgres/events.ts";
import { HOLD_COLUMNS, milliseconds, TRANSFER_COLUMNS, WALLET_COLUMNS } from "../postgres/rows.ts";
import type { TransferEventRow, TransferRow, VerdictRow } from "./transfer-audit.ts";
import type { WalletRow } from "./wallet-audit.ts";

export type Query = <Row extends object>(text: string, values?: unknown[]) => Promise<Row[]>;

export interface BooksDatabase {
  /** Its place in the deployment. */
  readonly index: number;
  /** All that one piece of work reads is as of one moment; of several, only in one view. */
  read<T>(work: (query: Query) => Promise<T>): Promise<T>;
  /** As of now, whatever the view is. */
  readNow<T>(work: (query: Query) => Promise<T>): Promise<T>;
  close(): Promise<void>;
}

const BEGIN = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";

/**
 * @param isOneView keeps one snapshot from now until `close`; its statements may take as long as
 * they take
 */
export async function openBooksDatabase(
  url: string,
  index: number,
  { isOneView }: { readonly isOneView: boolean },
): Promise<BooksDatabase> {
  const timeoutMs = isOneView ? 0 : LIMITS.verifyStatementMs;
  const open: pg.Client[] = [];

  async function another(): Promise<pg.Client> {
    const client = await connect(url, {
      name: "verify",
      connectMs: LIMITS.verifyStatementMs,
      settings: [
        // All reads here are by key, but for `FREE_PLANS`.
        ...INDEX_PROBES,
        `statement_timeout=${timeoutMs}`,
        "idle_in_transaction_session_timeout=0",
      ],
    });
    open.push(client);
    return client;
  }

  async function inSnapshot<T>(client: pg.Client, work: (query: Query) => Promise<T>): Promise<T> {
    await client.query(BEGIN);
    try {
      return await work(queryOf(client));
    } finally {
      await client.query("COMMIT");
    }
  }

  const main = await another();
  let now: Promise<pg.Client> | null = null;
  if (isOneView) {
    await main.query(BEGIN);
    // The snapshot is that of the first statement.
    await main.query("SELECT");
  }
  return {
    index,
    read: (work) => (isOneView ? work(queryOf(main)) : inSnapshot(main, work)),
    async readNow(work) {
      now ??= isOneView ? another() : Promise.resolve(main);
      return await inSnapshot(await now, work);
    },
    async close() {
      await now?.catch(() => undefined);
      await Promise.all(open.map((client) => client.end().catch(() => undefined)));
    },
  };
}

function queryOf(client: pg.Client): Query {
  return async <Row extends object>(text: string, values: unknown[] = []): Promise<Row[]> =>
    (await client.query(text, values)).rows as Row[];
}

// --- Wallets and events --------------------------------------------------------------------------

/** A wallet that has events. */
export interface WalletPlace {
  readonly walletId: string;
  readonly lastVersion: number;
}

/**
 * The next wallets that have events; one look into the key for each, however long its history is.
 */
export function wallets(query: Query, after: string, limit: number): Promise<WalletPlace[]> {
  return query<WalletPlace>(PAGE_OF_WALLETS, [after, limit]);
}

const LAST_VERSION = (walletId: string): string =>
  `(SELECT max(l.version) FROM events l WHERE l.wallet_id = ${walletId})`;

const PAGE_OF_WALLETS = `
  WITH RECURSIVE ids (wallet_id, n) AS (
    (SELECT e.wallet_id, 1 FROM events e WHERE e.wallet_id > $1 ORDER BY e.wallet_id, e.version LIMIT 1)
    UNION ALL
    SELECT (SELECT e.wallet_id FROM events e WHERE e.wallet_id > ids.wallet_id ORDER BY e.wallet_id, e.version LIMIT 1),
           ids.n + 1
    FROM ids WHERE ids.wallet_id IS NOT NULL AND ids.n < $2
  )
  SELECT wallet_id AS "walletId", ${LAST_VERSION("ids.wallet_id")} AS "lastVersion"
  FROM ids WHERE wallet_id IS NOT NULL ORDER BY n`;

export function placeOfWallet(query: Query, walletId: string): Promise<WalletPlace[]> {
  const text = `SELECT $1::text AS "walletId", ${LAST_VERSION("$1")} AS "lastVersion"`;
  return query<WalletPlace>(text, [walletId]);
}

/** All events of these wallets, each wallet's in the order of their versions. */
export function eventsOf(query: Query, walletIds: readonly string[]): Promise<EventRow[]> {
  const text = `SELECT ${EVENT_ROW_COLUMNS} FROM events e WHERE e.wallet_id = ANY ($1)
                ORDER BY e.wallet_id, e.version`;
  return query<EventRow>(text, [walletIds]);
}

/** The next events of one wallet after a version. */
export function eventsAfter(
  query: Query,
  walletId: string,
  version: number,
  limit: number,
): Promise<EventRow[]> {
  const text = `SELECT ${EVENT_ROW_COLUMNS} FROM events e WHERE e.wallet_id = $1 AND e.version > $2
                ORDER BY e.version LIMIT $3`;
  return query<EventRow>(text, [walletId, version, limit]);
}

export function rowsOf(query: Query, walletIds: readonly string[]): Promise<WalletRow[]> {
  const text = `SELECT ${WALLET_COLUMNS}, w.shard, encode(w.hash, 'hex') AS hash
                FROM wallets w WHERE w.wallet_id = ANY ($1)`;
  return query<WalletRow>(text, [walletIds]);
}

/** The holds of these wallets; at most one more of each than are compared. */
export function holdsOf(query: Query, walletIds: readonly string[]): Promise<StoredHold[]> {
  const text = `SELECT h.* FROM unnest($1::text[]) w (id) CROSS JOIN LATERAL (
                  SELECT ${HOLD_COLUMNS}, h.shard FROM holds h WHERE h.wallet_id = w.id ORDER BY h.hold_id LIMIT $2) h`;
  return query<StoredHold>(text, [walletIds, LIMITS.verifyHoldsMax + 1]);
}

/** The next wallets that have a row, and whether they have events. */
export function rowsAfter(
  query: Query,
  after: string,
  limit: number,
): Promise<Array<{ walletId: string; version: number; hasEvents: boolean }>> {
  const text = `SELECT w.wallet_id AS "walletId", w.version,
                       EXISTS (SELECT FROM events e WHERE e.wallet_id = w.wallet_id COLLATE "default") AS "hasEvents"
                FROM wallets w WHERE w.wallet_id > $1 ORDER BY w.wallet_id LIMIT $2`;
  return query(text, [after, limit]);
}

/** The next wallets that have rows of holds, and whether they have events. */
export function walletsWithHolds(
  query: Query,
  after: string,
  limit: number,
): Promise<Array<{ walletId: string; hasEvents: boolean }>> {
  const next = (than: string): string =>
    `SELECT min(h.wallet_id) FROM holds h WHERE h.wallet_id > ${than}`;
  const text = `WITH RECURSIVE ids (wallet_id, n) AS (
                  SELECT (${next("$1")}), 1
                  UNION ALL
                  SELECT (${next("ids.wallet_id")}), ids.n + 1 FROM ids WHERE ids.wallet_id IS NOT NULL AND ids.n < $2
                )
                SELECT wallet_id AS "walletId", EXISTS (SELECT FROM events e WHERE e.wallet_id = ids.wallet_id) AS "hasEvents"
                FROM ids WHERE wallet_id IS NOT NULL ORDER BY n`;
  return query(text, [after, limit]);
}

/** Which of these command ids of wallets are recorded as rejected. */
export function rejectedOf(
  query: Query,
  events: readonly EventRow[],
): Promise<Array<{ walletId: string; commandId: string }>> {
  const commands = events.filter(({ commandId }) => commandId !== null);
  if (commands.length === 0) return Promise.resolve([]);
  const text = `SELECT r.wallet_id AS "walletId", r.command_id AS "commandId"
                FROM unnest($1::text[], $2::text[]) c (command_id, wallet_id) JOIN rejections r USING (command_id, wallet_id)`;
  const values = [commands.map((one) => one.commandId), commands.map((one) => one.walletId)];
  return query(text, values);
}

// --- Transfers -----------------------------------------------------------------------------------

export interface TransferKey {
  readonly id: string;
  /** Of the wallet whose database the row is in. */
  readonly walletId: string;
}

/** The next records, or verdicts, in the order of their ids. */
export function transferKeys(
  query: Query,
  of: "transfers" | "verdicts",
  after: string,
  limit: number,
): Promise<TransferKey[]> {
  const [table, column] =
    of === "transfers" ? ["transfers", "from_wallet"] : ["transfer_verdicts", "to_wallet"];
  const text = `SELECT transfer_id AS id, ${column} AS "walletId" FROM ${table}
                WHERE transfer_id > $1 ORDER BY transfer_id LIMIT $2`;
  return query<TransferKey>(text, [after, limit]);
}

export function transfersById(
  query: Query,
  ids: readonly string[],
): Promise<Array<Omit<TransferRow, "database">>> {
  const text = `SELECT ${TRANSFER_COLUMNS}, t.shard FROM transfers t WHERE t.transfer_id = ANY ($1)`;
  return query(text, [ids]);
}

/** The transfers of the commands that these events let go of the rest of a hold for. */
export function completedBy(
  query: Query,
  events: readonly EventRow[],
): Promise<Array<Omit<TransferRow, "database">>> {
  // A release by command has that command's id.
  const ends = events.filter(
    ({ type, commandId }) => type === "HoldReleased" && commandId === null,
  );
  if (ends.length === 0) return Promise.resolve([]);
  const text = `SELECT ${TRANSFER_COLUMNS}, t.shard FROM unnest($1::text[], $2::text[]) c (command_id, wallet_id)
                JOIN events e USING (command_id, wallet_id) JOIN transfers t ON t.transfer_id = e.transfer_id`;
  return query(text, [ends.map((one) => one.causationId), ends.map((one) => one.walletId)]);
}

export function verdictsById(query: Query, ids: readonly string[]): Promise<VerdictRow[]> {
  const text = `SELECT transfer_id AS "transferId", to_wallet AS "toWalletId", to_version AS "toVersion", rejection,
                       ${milliseconds("decided_at")} AS "decidedAtMs"
                FROM transfer_verdicts WHERE transfer_id = ANY ($1)`;
  return query<VerdictRow>(text, [ids]);
}

const TRANSFER_EVENT = `
  SELECT e.wallet_id AS "walletId", e.version, e.type, e.amount AS "amountMinor", e.counterparty AS "counterpartyId",
         e.transfer_id AS "transferId", e.command_id AS "commandId", coalesce(e.correlation_id, e.command_id) AS "correlationId",
         e.description, e.data #>> '{hold,holdId}' AS "holdId", w.currency, c.data ->> 'currency' AS "createdCurrency",
         (c.data ->> 'decimalPlaces')::int AS "createdDecimalPlaces"`;
const ITS_WALLET = `LEFT JOIN wallets w ON w.wallet_id = e.wallet_id COLLATE "C"
                    LEFT JOIN events c ON c.wallet_id = e.wallet_id AND c.version = 0`;

/** Whatever event is at these places. */
export function eventsAt(
  query: Query,
  places: ReadonlyArray<{ readonly walletId: string; readonly version: number }>,
): Promise<TransferEventRow[]> {
  if (places.length === 0) return Promise.resolve([]);
  const text = `${TRANSFER_EVENT} FROM unnest($1::text[], $2::bigint[]) k (wallet_id, version)
                JOIN events e USING (wallet_id, version) ${ITS_WALLET}`;
  const values = [places.map((place) => place.walletId), places.map((place) => place.version)];
  return query<TransferEventRow>(text, values);
}

export function returnsById(query: Query, ids: readonly string[]): Promise<TransferEventRow[]> {
  const text = `${TRANSFER_EVENT} FROM events e ${ITS_WALLET}
                WHERE e.transfer_id = ANY ($1) AND e.type = 'TransferReturned' ORDER BY e.version`;
  return query<TransferEventRow>(text, [ids]);
}

// --- All of it -----------------------------------------------------------------------------------

/** The planner may do as it likes for statements that read everything. */
const FREE_PLANS = `
  SELECT set_config(name, 'on', true) FROM unnest('{enable_hashjoin,enable_mergejoin,enable_seqscan}'::text[]) name`;

export interface Totals {
  readonly accounts: ReadonlyArray<{ currency: string; account: string; balance: string }>;
  /** What `GET /ledger/trial-balance` says otherwise, as it goes on from kept totals. */
  readonly kept: ReadonlyArray<{
    currency: string;
    account: string;
    expected: string;
    found: string;
  }>;
  /** Command ids that events of one wallet share. */
  readonly repeated: ReadonlyArray<{ walletId: string; commandId: string; count: number }>;
  /** Shards whose positions are not 1, 2, 3 ... */
  readonly gaps: ReadonlyArray<{ shard: number; events: number; position: number }>;
}

export async function totals(query: Query): Promise<Totals> {
  await query(FREE_PLANS);
  const accounts = await query<Totals["accounts"][number]>(
    "SELECT currency, account, sum(balance)::text AS balance FROM trial_balance GROUP BY currency, account",
  );
  const kept = await query<Totals["kept"][number]>(
    `SELECT currency, account, coalesce(b.balance, 0)::text AS expected, coalesce(n.balance, 0)::text AS found
     FROM trial_balance b FULL JOIN trial_balance_now n USING (currency, account)
     WHERE coalesce(b.balance, 0) <> coalesce(n.balance, 0) ORDER BY currency, account`,
  );
  const repeated = await query<Totals["repeated"][number]>(
    `SELECT wallet_id AS "walletId", command_id AS "commandId", count(*) AS count FROM events
     WHERE command_id IS NOT NULL GROUP BY command_id, wallet_id HAVING count(*) > 1 LIMIT $1`,
    [LIMITS.verifyNamedPerKindMax],
  );
  const gaps = await query<Totals["gaps"][number]>(
    `SELECT shard, count(*) AS events, max(position) AS position FROM events
     GROUP BY shard HAVING count(*) <> max(position) ORDER BY shard`,
  );
  return { accounts, kept, repeated, gaps };
}

export interface Counts {
  readonly events: number;
  readonly transfers: number;
  readonly verdicts: number;
}

/** How much there is to do. */
export async function counts(query: Query): Promise<Counts> {
  await query(FREE_PLANS);
  const [row] = await query<Counts>(
    `SELECT (SELECT coalesce(sum(version + 1), 0)::bigint FROM wallets) AS events,
            (SELECT count(*) FROM transfers) AS transfers,
            (SELECT count(*) FROM transfer_verdicts) AS verdicts`,
  );
  return row!;
}

export interface Setting {
  /** Every event from then on has a hash. */
  readonly chainStartedMs: number;
  /** The database's clock. */
  readonly nowMs: number;
}

export async function settingOf(query: Query): Promise<Setting> {
  const [setting] = await query<Setting>(
    `SELECT (SELECT extract(epoch FROM started_at) * 1000 FROM chain)::float8 AS "chainStartedMs",
            (extract(epoch FROM clock_timestamp()) * 1000)::float8 AS "nowMs"`,
  );
  return setting!;
}

/** Those that have a row in the shard table. */
export async function shardsOf(query: Query): Promise<number[]> {
  const rows = await query<{ shard: number }>("SELECT shard FROM shards");
  return rows.map(({ shard }) => shard);
}

/** The own assets among these codes, of those that live in this database. */
export function assetsOf(
  query: Query,
  codes: readonly string[],
): Promise<Array<{ code: string; decimalPlaces: number }>> {
  const text = `SELECT code, decimal_places AS "decimalPlaces" FROM assets WHERE code = ANY ($1)`;
  return query(text, [codes]);
}
