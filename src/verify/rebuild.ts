/**
 * Rebuilds a wallet's row, and the rows of its holds, from its events while hosts serve. It hides
 * the three that must not meet: an append under way, an actor that goes on from the wrong row it
 * woke from, and this.
 *
 * The history is folded first, without holding anything up: events never change. Then, in one short
 * transaction: the exclusive lock that every append holds shared (as a claim takes it), so none is
 * under way and none begins; the next epoch of the wallet's shard, so that whichever lane holds it
 * is refused at its next append, claims anew, finds an epoch that is not the one after its own, and
 * forgets every actor of the shard; the few events that came meanwhile; and the rows, where they
 * differ. An actor that woke from a wrong row can thus commit nothing any more: its next append
 * names an old epoch, and what it decided is decided again on the rebuilt row. A process that stops
 * in the middle is ended by the server after `LIMITS.rebuildLockMs`.
 *
 * A history that is not in order is not rebuilt from: that would turn a change that somebody made
 * to the events into the balance. Nor is a row whose head of the chain is no hash of the history,
 * since then events may be gone. Of a wallet with more holds than `LIMITS.verifyHoldsMax` the holds
 * stay as they are, since nothing compares them.
 */
import pg from "pg";
import { counted } from "../counted.ts";
import { differenceOf, type Found } from "./differences.ts";
import type { HoldChange } from "./hold-audit.ts";
import { LIMITS } from "../limits.ts";
import type { EventRow } from "../postgres/events.ts";
import { connect, DURABLE } from "../postgres/connection.ts";
import { shardOf } from "../core/shard.ts";
import { eventsAfter, holdsOf, rowsOf, settingOf, type Query } from "./verify-database.ts";
import { auditWallet, type WalletAudit, type WalletRow } from "./wallet-audit.ts";
import type { WalletState } from "../core/wallet.ts";

export type Rebuilt =
  /** Rows were written: the wallet's own, or those of holds, as of this version. */
  | {
      readonly type: "rebuilt";
      readonly walletId: string;
      readonly version: number;
      readonly isRowWritten: boolean;
      /** Rows of holds that were missing, wrong, or told of by no event. */
      readonly holds: ReadonlyArray<Pick<HoldChange, "type" | "holdId">>;
    }
  /** The rows are what the events make of them, after all. */
  | { readonly type: "unchanged"; readonly walletId: string }
  /** Nothing was written, and why. */
  | { readonly type: "refused"; readonly walletId: string; readonly reason: string };

/** The lock that appends share and claims take alone: `append_commit`, `claim_shards`. */
const APPENDS_LOCK = 1_668_245_094;

/** @param databaseUrl the database that has the wallet's shard */
export async function rebuildWallet(databaseUrl: string, walletId: string): Promise<Rebuilt> {
  const client = await connect(databaseUrl, {
    name: "rebuild",
    connectMs: LIMITS.migrationConnectMs,
    settings: [...DURABLE, `idle_in_transaction_session_timeout=${LIMITS.rebuildLockMs}`],
  });
  try {
    const query: Query = async <Row extends object>(text: string, values: unknown[] = []) =>
      (await client.query(text, values)).rows as Row[];
    for (let attempt = 1; ; attempt++) {
      const rebuilt = await tryRebuild(query, walletId);
      if (rebuilt !== null) return rebuilt;
      if (attempt >= LIMITS.rebuildAttemptsMax) {
        return { type: "refused", walletId, reason: "it is written to faster than it is read" };
      }
    }
  } finally {
    await client.end().catch(() => undefined);
  }
}

/** Null: too much was appended meanwhile, or an append held the lock for too long. */
async function tryRebuild(query: Query, walletId: string): Promise<Rebuilt | null> {
  const { chainStartedMs } = await settingOf(query);
  const found: Found[] = [];
  const audit = auditWallet(walletId, chainStartedMs, (one) => void found.push(one));
  const take = (events: readonly EventRow[]): void => {
    for (const event of events) audit.event(event);
  };
  const tailMax = LIMITS.rebuildTailEventsMax;
  for (;;) {
    const events = await readOn(query, audit, LIMITS.verifyChunkEvents);
    take(events);
    if (events.length < tailMax) break;
  }
  await query("BEGIN");
  try {
    await query(`SET LOCAL lock_timeout = ${LIMITS.rebuildLockMs}`);
    await query(`SET LOCAL statement_timeout = ${LIMITS.rebuildLockMs}`);
    await query("SELECT pg_advisory_xact_lock($1::bigint)", [APPENDS_LOCK]);
    const tail = await readOn(query, audit, tailMax);
    if (tail.length === tailMax) return null;
    take(tail);
    if (!audit.isSound || audit.state === null) {
      const [first] = found.map(differenceOf);
      const reason =
        first === undefined
          ? await whyNoEvents(query, walletId)
          : `its events are not in order. ${first.text}`;
      return { type: "refused", walletId, reason };
    }
    const [row = null] = await rowsOf(query, [walletId]);
    const changes = audit.end(row, await holdsOf(query, [walletId]));
    if (found.length === 0) return { type: "unchanged", walletId };
    const sum = found.find(({ kind }) => kind === "hold_sum");
    if (sum !== undefined) {
      const reason = `its events do not agree on its holds. ${differenceOf(sum).text}`;
      return { type: "refused", walletId, reason };
    }
    if (row !== null && !(await isAnchored(query, audit, row))) {
      const reason =
        `its row, at version ${row.version}, was written with another last event than the one there is, at version ` +
        `${audit.state.version}; events may be gone, so restore them from a backup first`;
      return { type: "refused", walletId, reason };
    }
    const isRowWritten = found.some(({ kind }) => !kind.startsWith("hold_"));
    const shard = shardOf(walletId);
    await query("UPDATE shards SET epoch = epoch + 1 WHERE shard = $1", [shard]);
    if (isRowWritten) await write(query, audit.state, audit.hash);
    await change(query, walletId, changes);
    await query("COMMIT");
    const holds = changes.map(({ type, holdId }) => ({ type, holdId }));
    return { type: "rebuilt", walletId, version: audit.state.version, isRowWritten, holds };
  } catch (error) {
    if (error instanceof pg.DatabaseError && error.code === LOCK_TIMEOUT) return null;
    throw error;
  } finally {
    // After COMMIT there is nothing to take back, and the server only warns.
    await query("ROLLBACK").catch(() => undefined);
  }
}

const LOCK_TIMEOUT = "55P03";

/**
 * Of a wallet that has none. What is left of it may be all that tells of money, or nothing at all:
 * that only a backup can tell, so a person has to remove it.
 */
async function whyNoEvents(query: Query, walletId: string): Promise<string> {
  const [row] = await rowsOf(query, [walletId]);
  if (row !== undefined) {
    return `it has a row at version ${row.version} and no events; restore them from a backup`;
  }
  const holds = await holdsOf(query, [walletId]);
  if (holds.length === 0) return "it has no events";
  return (
    `it has neither events nor a row, only ${counted(holds.length, "row")} of holds; if a backup has the wallet, restore it, ` +
    `and if none does, DELETE FROM holds WHERE wallet_id = ${pg.escapeLiteral(walletId)}`
  );
}

function readOn(
  query: Query,
  { state, walletId }: WalletAudit,
  limit: number,
): Promise<EventRow[]> {
  return eventsAfter(query, walletId, state?.version ?? -1, limit);
}

/** Whether the history has the event that the row was last written with. */
async function isAnchored(query: Query, audit: WalletAudit, row: WalletRow): Promise<boolean> {
  if (row.hash === null) return row.version <= audit.state!.version;
  if (row.hash === audit.hash) return true;
  const [event] = await eventsAfter(query, row.walletId, row.version - 1, 1);
  return event?.version === row.version && event.hash === row.hash;
}

async function write(query: Query, state: WalletState, hash: string | null): Promise<void> {
  const { walletId, ownerId, currency, decimalPlaces, balanceMinor, heldMinor } = state;
  const { status, version, metadata, createdAtMs, updatedAtMs } = state;
  const identity = [walletId, shardOf(walletId), ownerId, currency, decimalPlaces];
  const content = [balanceMinor, heldMinor, status, version, metadata, createdAtMs, updatedAtMs];
  await query(UPSERT, [...identity, ...content, hash]);
}

async function change(
  query: Query,
  walletId: string,
  changes: readonly HoldChange[],
): Promise<void> {
  const shard = shardOf(walletId);
  const put = changes.flatMap((one) => (one.type === "removed" ? [] : { ...one.hold, shard }));
  if (put.length > 0) await query(UPSERT_HOLDS, [JSON.stringify(put)]);
  const gone = changes.flatMap(({ type, holdId }) => (type === "removed" ? holdId : []));
  if (gone.length > 0) await query(DELETE_HOLDS, [walletId, gone]);
}

const DELETE_HOLDS = "DELETE FROM holds WHERE wallet_id = $1 AND hold_id = ANY ($2)";

const UPSERT_HOLDS = `
  INSERT INTO holds (wallet_id, hold_id, shard, amount, captured, status, kind, reference, description, expires_at, created_at,
                     captured_at, released_at)
  SELECT h."walletId", h."holdId", h.shard, h."amountMinor", h."capturedMinor", h.status, h.kind, h.reference, h.description,
         to_timestamp(h."expiresAtMs" / 1000), to_timestamp(h."createdAtMs" / 1000),
         to_timestamp(h."capturedAtMs" / 1000), to_timestamp(h."releasedAtMs" / 1000)
  FROM json_to_recordset($1) h(
    "walletId" text, "holdId" text, shard smallint, "amountMinor" bigint, "capturedMinor" bigint, status text, kind text,
    reference text, description text, "expiresAtMs" float8, "createdAtMs" float8, "capturedAtMs" float8, "releasedAtMs" float8)
  ON CONFLICT (wallet_id, hold_id) DO UPDATE
  SET shard = excluded.shard, amount = excluded.amount, captured = excluded.captured, status = excluded.status,
      kind = excluded.kind, reference = excluded.reference, description = excluded.description,
      expires_at = excluded.expires_at, created_at = excluded.created_at, captured_at = excluded.captured_at,
      released_at = excluded.released_at`;

const UPSERT = `
  INSERT INTO wallets (wallet_id, shard, owner_id, currency, decimal_places, balance, held, status, version, metadata,
                       created_at, updated_at, hash)
  VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10::jsonb, to_timestamp($11::float8 / 1000), to_timestamp($12::float8 / 1000),
          decode($13, 'hex'))
  ON CONFLICT (wallet_id) DO UPDATE
  SET shard = excluded.shard, owner_id = excluded.owner_id, currency = excluded.currency,
      decimal_places = excluded.decimal_places, balance = excluded.balance, held = excluded.held,
      status = excluded.status, version = excluded.version, metadata = excluded.metadata,
      created_at = excluded.created_at, updated_at = excluded.updated_at, hash = excluded.hash`;
