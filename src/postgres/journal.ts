/**
 * The journal on PostgreSQL. It hides the SQL, the connections (one that appends, and others that
 * read and claim, so that a recovery never waits behind a commit) and the reading of errors: which
 * of them mean "nothing was written", which mean "nobody knows". One append is one call of
 * `append_commit` (and, where there is reason, `put_transfers`, `put_metadata` and `put_holds`) in
 * an implicit transaction, sent whole before the server begins, so that a process that is stopped
 * halfway can hold no lock. One behind another is sent before that one is answered, over the same
 * connection (docs/adr/0014).
 */
import { randomUUID } from "node:crypto";
import pg from "pg";
import { counted } from "../counted.ts";
import type { Hold } from "../core/hold.ts";
import {
  HistoryLostError,
  type AppendOrder,
  type AppendResult,
  type DueHold,
  type Journal,
  type KnownCommand,
  type LoadedWallet,
  type Writes,
} from "../core/journal.ts";
import { LIMITS } from "../limits.ts";
import { buildPool, DURABLE } from "./connection.ts";
import { messageOf } from "../message-of.ts";
import { buildPositions, positionsMemory } from "../core/positions.ts";
import { buildPlaces, type Place } from "../core/places.ts";
import { appendOf, type AppendNames, type AppendRow } from "./append.ts";
import { EVENT_ROW_COLUMNS, recordOf, UnreadableEvent, type EventRow } from "./events.ts";
import { HOLD_COLUMNS, TRANSFER_COLUMNS, WALLET_COLUMNS } from "./rows.ts";
import { provesAbort } from "../commit-outcome.ts";
import { buildWriter } from "./writer.ts";
import type { CommandRecord } from "../core/repeats.ts";
import { ALL_SHARDS } from "../core/shard.ts";
import type { Transfer } from "../core/transfer.ts";
import type { WalletState } from "../core/wallet.ts";

type Known = Extract<AppendResult, { type: "known" }>;

/** @param memory `positionsMemory` of the database, for all who append there in this process */
export function buildPostgresJournal(databaseUrl: string, memory = positionsMemory()): Journal {
  const statementMs = LIMITS.journalStatementMs;
  /** The server ends a statement by its own bound; past this the server itself is not there. */
  const answerMs = statementMs + LIMITS.journalConnectMs;
  const positions = buildPositions(memory);
  const places = buildPlaces(positions.get);
  /**
   * Shards whose position has to be read over `seenBy`, the writer's connection, before it is
   * written to: behind a new one may be a server that lacks the latest commits.
   */
  const unseen = new Set<number>();
  let seenBy: pg.Client | null = null;
  /** Makes the names of appends this journal's own, whoever has had the session before. */
  const writerId = randomUUID();
  /** Appends without an answer. */
  let underWay = 0;
  /** What the last append waits for that cannot be sent yet; null: all are sent. */
  let lastUnsent: Promise<pg.Client> | null = null;
  const writer = buildWriter(databaseUrl);
  const reader = buildPool(databaseUrl, {
    name: "recovery",
    connectionsMax: LIMITS.recoveryConnectionsMax,
    connectMs: LIMITS.journalConnectMs,
    answerMs,
    // Claims are writes too: an epoch that a crash took back could be given twice.
    settings: [...DURABLE, "jit=off", `statement_timeout=${statementMs}`],
  });

  async function read<Row extends pg.QueryResultRow>(
    name: string,
    text: string,
    values: unknown[],
  ): Promise<Row[]> {
    const result = await reader.query<Row>({ name, text, values });
    return result.rows;
  }

  /** @throws HistoryLostError when one of the shards lacks what was committed. */
  async function readPositions(
    connection: Pick<pg.ClientBase, "query">,
    shards: readonly number[],
  ): Promise<void> {
    if (shards.length === 0) return;
    // Others may commit, and a shard that comes back be claimed, before the answer is here.
    const before = positions.snapshot();
    const query = { text: SELECT_POSITIONS, values: [shards], query_timeout: answerMs };
    const { rows } = await connection.query<Place & { isStandby: boolean }>(query);
    // It may have all commits on its disk, and still be about to bring them in.
    if (rows[0]?.isStandby === true) throw new Error("the database is a standby");
    const short = rows.filter(({ shard, position }) => position < before[shard]!);
    if (short.length > 0) throw new HistoryLostError(lossText(short, before));
    rows.forEach(remember);
  }

  function remember({ shard, position }: Place): void {
    positions.raise(shard, position);
  }

  /**
   * Before an append over a connection, sees that nothing is gone behind it: in no shard of this
   * process, as what is written may follow from what another lane has lost.
   * @throws HistoryLostError when something is.
   */
  async function lookBehind(client: pg.Client): Promise<void> {
    if (client !== seenBy) {
      seenBy = client;
      for (const shard of ALL_SHARDS) unseen.add(shard);
    }
    const shards = [...unseen];
    await readPositions(client, shards);
    for (const shard of shards) unseen.delete(shard);
  }

  /** The connection to append over; null when something has to be awaited first. */
  function readyToAppend(): pg.Client | null {
    const client = writer.current;
    return lastUnsent === null && client === seenBy && unseen.size === 0 ? client : null;
  }

  /** The same once that is done, one append after another. */
  async function untilReady(before: Promise<unknown> | null): Promise<pg.Client> {
    await before?.catch(() => undefined);
    const client = await writer.get();
    await lookBehind(client);
    return client;
  }

  function namesOf({ number, behind }: AppendOrder): AppendNames {
    return {
      own: `${writerId} ${number}`,
      behind: behind === null ? "" : `${writerId} ${behind}`,
    };
  }

  async function append(writes: Writes): Promise<AppendResult> {
    const isBehind = writes.order.behind !== null;
    // What else the caller has to do in this turn would run before what is awaited, and the
    // database would wait for that.
    let client = readyToAppend();
    if (client === null) {
      const unsent = untilReady(lastUnsent);
      lastUnsent = unsent;
      try {
        client = await unsent;
      } catch (error) {
        if (error instanceof HistoryLostError) throw error;
        // Perhaps the question is still under way there.
        writer.drop();
        return { type: "refused", reason: messageOf(error) };
      } finally {
        // From here to the query nothing is awaited, so no later append can overtake it.
        if (lastUnsent === unsent) lastUnsent = null;
      }
    }
    const connection = client;
    const taken = places.take(writes, isBehind);
    const names = namesOf(writes.order);
    const query = appendOf(writes, taken, names);
    let timer: NodeJS.Timeout | undefined;
    try {
      const answer = connection.query<AppendRow>(query);
      // The server begins when it has done those in front.
      const inFront = isBehind ? LIMITS.commitsUnderWayMax - 1 : 0;
      timer = setTimeout(() => writer.drop(connection), answerMs + inFront * statementMs);
      const result = readRow((await answer).rows[0], names.own);
      if (result.type === "committed") taken.forEach(remember);
      return noted(result, writes, connection);
    } catch (error) {
      // Its results keep their order where nothing has to be asked.
      let result = readError(error);
      if (result.type === "refused" && !(await provesAbort(error, connection))) {
        result = { type: "unknown", reason: result.reason };
      }
      const code = error instanceof pg.DatabaseError ? error.code : undefined;
      // A session that began read-only stays so when the server takes writes again, and one that
      // has lost a statement is not asked to prepare it again. Only now: what is in front of it may
      // still be asked what it proves.
      if (code === READ_ONLY || code === NO_STATEMENT) writer.drop(connection);
      return noted(result, writes, connection);
    } finally {
      clearTimeout(timer);
    }
  }

  /** Mostly there is none to be read: only a command whose id a gateway made has no fingerprint. */
  async function withRecords(result: Known): Promise<AppendResult> {
    const bare = result.commands.filter(isBare);
    const keys = bare.flatMap(({ walletId, version }) => [
      { walletId, version: version! },
      { walletId, version: 0 },
    ]);
    let rows: RecordRow[];
    try {
      rows = await read<RecordRow>("records", SELECT_RECORDS, [
        keys.map(({ walletId }) => walletId),
        keys.map(({ version }) => version),
      ]);
    } catch (error) {
      return { type: "refused", reason: messageOf(error) };
    }
    const found = new Map(rows.map((row) => [`${row.walletId} ${row.version}`, row]));
    const commands = result.commands.map((command) => {
      if (!isBare(command)) return command;
      const last = found.get(`${command.walletId} ${command.version!}`);
      const first = found.get(`${command.walletId} 0`);
      return { ...command, record: readRecord(last, first) };
    });
    return { ...result, commands };
  }

  /** Perhaps it was written, or somebody else has: then it is looked before the next one. */
  function noted(result: AppendResult, { fence }: Writes, connection: pg.Client): AppendResult {
    if (result.type === "unknown") writer.drop(connection);
    if (result.type === "unknown" || result.type === "stale") {
      for (const shard of fence.keys()) unseen.add(shard);
    }
    return result;
  }

  return {
    async claim(owner, shards) {
      const rows = await read<{ claimed_shard: number; claimed_epoch: number }>(
        "claim",
        "SELECT claimed_shard, claimed_epoch FROM claim_shards($1, $2)",
        [owner, shards],
      );
      const epochs = new Map(rows.map((row) => [row.claimed_shard, row.claimed_epoch]));
      // Nobody writes these shards from now on but this journal, so from now on it counts.
      await readPositions(reader, [...epochs.keys()]);
      return epochs;
    },

    async loadWallets(walletIds) {
      const rows = await read<StoredWallet>("wallets", SELECT_WALLETS, [walletIds]);
      const wallets = new Map<string, LoadedWallet>(walletIds.map((id) => [id, NO_WALLET]));
      const all: Hold[] = [];
      for (const { holds, hash, ...state } of rows) {
        wallets.set(state.walletId, { state, hash });
        if (holds !== null) all.push(...holds);
      }
      return { wallets, holds: all };
    },

    loadHolds(keys) {
      const walletIds = keys.map(({ walletId }) => walletId);
      const holdIds = keys.map(({ holdId }) => holdId);
      return read<Hold>("holds", SELECT_HOLDS, [walletIds, holdIds]);
    },

    loadDueHolds(shards, atMs, limit, behind) {
      const values = [shards, atMs, limit];
      if (behind === null) return read<DueHold>("due-holds", dueHolds(""), values);
      const { shard, expiresAtUs, walletId, holdId } = behind;
      const place = [shard, expiresAtUs, walletId, holdId];
      return read<DueHold>("due-holds-behind", dueHolds(BEHIND_PLACE), [...values, ...place]);
    },

    async loadCreated(commandIds) {
      const rows = await read<{ command_id: string; wallet_id: string }>(
        "created",
        SELECT_CREATED,
        [commandIds],
      );
      return new Map(rows.map((row) => [row.command_id, row.wallet_id]));
    },

    loadPendingTransfers: (shards) => read<Transfer>("pending", SELECT_PENDING, [shards]),

    async append(writes) {
      underWay += 1;
      try {
        const result = await append(writes);
        // Nothing is awaited for the others, so that results come in the order of their appends.
        const isAsked = result.type === "known" && result.commands.some(isBare);
        return isAsked ? await withRecords(result) : result;
      } finally {
        underWay -= 1;
      }
    },

    async close() {
      // A server that does not answer must not be waited for; what is under way is unknown then.
      if (underWay > 0) writer.drop();
      await Promise.all([writer.close(), reader.end()]);
    },
  };
}

function lossText(short: readonly Place[], known: readonly number[]): string {
  const lost = short.reduce((sum, { shard, position }) => sum + known[shard]! - position, 0);
  return (
    `the database lacks events that were committed (${counted(lost, "event")} of ` +
    `${counted(short.length, "shard")}): a standby that was behind has taken over, or an older ` +
    'state was restored; see "PostgreSQL in trouble" in docs/operations.md'
  );
}

function readRow(row: AppendRow | undefined, own: string): AppendResult {
  // The answer to something else, or to nothing, proves nothing.
  if (row === undefined || (row.known === null && row.written !== own)) {
    return { type: "unknown", reason: "the answer is not that of the append" };
  }
  const { known } = row;
  if (known === null) return { type: "committed" };
  if (known === "undone") return { type: "undone" };
  const verdicts = known.verdicts.map(({ transferId, toVersion, rejection }) => ({
    transferId,
    verdict:
      rejection === null
        ? { type: "posted" as const, toVersion: toVersion! }
        : { type: "refused" as const, rejection },
  }));
  return { type: "known", commands: known.commands, verdicts };
}

/** It was carried out, and only its rows say what it asked for. */
function isBare({ fingerprint, version }: KnownCommand): boolean {
  return fingerprint === null && version !== null;
}

function readRecord(
  last: RecordRow | undefined,
  first: RecordRow | undefined,
): CommandRecord | null {
  if (last === undefined || first === undefined) return null;
  try {
    return recordOf(last, first, last.isHoldFinal);
  } catch (error) {
    if (error instanceof UnreadableEvent) return null;
    throw error;
  }
}

/**
 * What an error of the append statement means (PostgreSQL manual, appendix A). `fenced` and `stale`
 * are raised before anything could be committed; whether `refused` proves that nothing was, the
 * session is to be asked.
 */
function readError(error: unknown): AppendResult {
  const { message } = error as Error;
  if (!(error instanceof pg.DatabaseError)) return { type: "unknown", reason: message };
  const code = error.code ?? "";
  const reason = `${code} ${message}`;
  if (code === "CF001") {
    return { type: "fenced", shards: (error.detail ?? "").split(",").map(Number) };
  }
  // Another writer's row is in the way: a wallet's version, a command id, a wallet that was created
  // meanwhile.
  if (code === "CF002" || code === "23505") {
    const walletId =
      error.constraint === "events_pkey" ? VERSION_KEY.exec(error.detail ?? "") : null;
    return walletId === null
      ? { type: "stale", reason }
      : { type: "stale", reason, walletId: walletId[1]! };
  }
  // Serialization and deadlock (40), resources (53), not now (55), cancelled or ended (57), a
  // timeout that ends the session or a server that is read-only after a failover (25), a privilege
  // taken away (42501), I/O (58), the way to it (08); in front of it, what was to prepare its
  // statement has failed (26000).
  if (/^(40|53|55|57|58|08|25006|25P0[34]|26000|42501)/.test(code)) {
    return { type: "refused", reason };
  }
  throw error;
}

/** `read_only_sql_transaction`. */
const READ_ONLY = "25006";
/** `invalid_sql_statement_name`. */
const NO_STATEMENT = "26000";

/** In the detail of an error, whatever the server's language. No id has a space in it. */
const VERSION_KEY = /\(wallet_id, version\)=\((\S+), \d+\)/;

type StoredWallet = WalletState & { readonly hash: string | null; readonly holds: Hold[] | null };

const NO_WALLET: LoadedWallet = { state: null, hash: null };

/**
 * With the active holds, in the same moment; whoever has nothing held has none, and does not pay
 * for the look.
 */
const SELECT_WALLETS = `
  SELECT ${WALLET_COLUMNS}, encode(w.hash, 'hex') AS hash,
         CASE WHEN w.held > 0 THEN (
           SELECT json_agg(a) FROM (
             SELECT ${HOLD_COLUMNS} FROM holds h WHERE h.wallet_id = w.wallet_id AND h.status = 'ACTIVE') a
         ) END AS holds
  FROM wallets w WHERE w.wallet_id = ANY ($1)`;

const SELECT_POSITIONS = `
  SELECT s.shard, coalesce((SELECT max(e.position) FROM events e WHERE e.shard = s.shard), 0) AS position,
         pg_is_in_recovery() AS "isStandby"
  FROM unnest($1::smallint[]) s(shard)`;

const SELECT_HOLDS = `
  SELECT ${HOLD_COLUMNS} FROM unnest($1::text[], $2::text[]) k(wallet_id, hold_id)
  JOIN holds h ON h.wallet_id = k.wallet_id AND h.hold_id = k.hold_id`;

/**
 * Along `holds_due`, so that a portion costs what it has in it, however many are due: 5 ms for 512
 * of 100,000.
 */
const dueHolds = (behind: string): string => `
  SELECT wallet_id AS "walletId", hold_id AS "holdId", shard,
         (extract(epoch FROM expires_at) * 1000000)::bigint AS "expiresAtUs" FROM holds
  WHERE status = 'ACTIVE' AND expires_at IS NOT NULL AND shard = ANY ($1) AND expires_at <= to_timestamp($2::float8 / 1000)
        ${behind}
  ORDER BY shard, expires_at, wallet_id COLLATE "C", hold_id COLLATE "C" LIMIT $3`;

const BEHIND_PLACE = `AND (shard, expires_at, wallet_id COLLATE "C", hold_id COLLATE "C") >
                          ($4::smallint, to_timestamp($5::float8 / 1000000), $6, $7)`;

const SELECT_CREATED = `
  SELECT e.command_id, e.wallet_id FROM events e JOIN events c ON c.wallet_id = e.wallet_id AND c.version = 0
  WHERE e.command_id = ANY ($1) AND coalesce(c.causation_id, c.command_id) = e.command_id
    AND c.data -> 'isIdProposed' = 'true'
  UNION ALL
  SELECT command_id, wallet_id FROM rejections WHERE command_id = ANY ($1) AND is_id_proposed`;

type RecordRow = EventRow & { readonly isHoldFinal: boolean | null };

/** Together, as one may be asked for twice. */
const SELECT_RECORDS = `
  SELECT ${EVENT_ROW_COLUMNS}, t.hold_final AS "isHoldFinal"
  FROM (SELECT DISTINCT * FROM unnest($1::text[], $2::bigint[]) k(wallet_id, version)) k
  JOIN events e ON e.wallet_id = k.wallet_id AND e.version = k.version
  LEFT JOIN transfers t ON t.transfer_id = e.transfer_id AND e.type = 'TransferSent'`;

const SELECT_PENDING = `
  SELECT ${TRANSFER_COLUMNS} FROM transfers t WHERE t.status = 'pending' AND t.shard = ANY ($1)`;
