/**
 * Rebuilds a wallet's row from its events while hosts serve. It hides the three that must not meet: an append under way, an actor that
 * goes on from the wrong row it woke from, and this.
 *
 * The history is folded first, without holding anything up: events never change. Then, in one short transaction: the exclusive lock that
 * every append holds shared (as a claim takes it), so none is under way and none begins; the next epoch of the wallet's shard, so
 * that whichever lane holds it is refused at its next append, claims anew, finds an epoch that is not the one after its own, and
 * forgets every actor of the shard; the few events that came meanwhile; and the row, where it differs. An actor that woke from
 * the wrong row can thus commit nothing any more: its next append names an old epoch, and what it decided is decided again on the
 * rebuilt row. A process that stops in the middle is ended by the server after `LIMITS.rebuildLockMs`.
 *
 * A history that is not in order is not rebuilt from: that would turn a change that somebody made to the events into the balance. Nor
 * is a row whose head of the chain is no hash of the history, since then events may be gone.
 */
import pg from "pg";
import { differenceOf, type Found } from "./differences.ts";
import { LIMITS } from "./limits.ts";
import type { EventRow } from "./postgres-events.ts";
import { NUMBERS } from "./postgres-rows.ts";
import { shardOf } from "./shard.ts";
import { eventsAfter, rowsOf, settingOf, type Query } from "./verify-database.ts";
import { auditWallet, type WalletAudit, type WalletRow } from "./wallet-audit.ts";
import type { WalletState } from "./wallet.ts";

export type Rebuilt =
  /** The row was written; the version it has now. */
  | { readonly type: "rebuilt"; readonly walletId: string; readonly version: number }
  /** The row is what the events make of it, after all. */
  | { readonly type: "unchanged"; readonly walletId: string }
  /** Nothing was written, and why. */
  | { readonly type: "refused"; readonly walletId: string; readonly reason: string };

/** The lock that appends share and claims take alone: `append_commit`, `claim_shards`. */
const APPENDS_LOCK = 1_668_245_094;

/** @param databaseUrl the database that has the wallet's shard */
export async function rebuildWallet(databaseUrl: string, walletId: string): Promise<Rebuilt> {
  const client = new pg.Client({
    connectionString: databaseUrl,
    application_name: "coffer-rebuild",
    connectionTimeoutMillis: LIMITS.migrationConnectMs,
    keepAlive: true,
    options: [
      "-c synchronous_commit=on",
      "-c default_transaction_isolation=read\\ committed",
      `-c idle_in_transaction_session_timeout=${LIMITS.rebuildLockMs}`,
    ].join(" "),
    types: NUMBERS,
  });
  client.on("error", () => undefined);
  await client.connect();
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
        first === undefined ? "it has no events" : `its events are not in order. ${first.text}`;
      return { type: "refused", walletId, reason };
    }
    const [row = null] = await rowsOf(query, [walletId]);
    audit.end(row, null);
    if (found.length === 0) return { type: "unchanged", walletId };
    if (row !== null && !(await isAnchored(query, audit, row))) {
      const reason =
        `its row, at version ${row.version}, was written with another last event than the one there is, at version ` +
        `${audit.state.version}; events may be gone, so restore them from a backup first`;
      return { type: "refused", walletId, reason };
    }
    await write(query, audit.state, audit.hash);
    await query("COMMIT");
    return { type: "rebuilt", walletId, version: audit.state.version };
  } catch (error) {
    if (error instanceof pg.DatabaseError && error.code === LOCK_TIMEOUT) return null;
    throw error;
  } finally {
    // After COMMIT there is nothing to take back, and the server only warns.
    await query("ROLLBACK").catch(() => undefined);
  }
}

const LOCK_TIMEOUT = "55P03";

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
  const shard = shardOf(state.walletId);
  await query("UPDATE shards SET epoch = epoch + 1 WHERE shard = $1", [shard]);
  const { walletId, ownerId, currency, decimalPlaces, balanceMinor, heldMinor } = state;
  const { status, version, metadata, createdAtMs, updatedAtMs } = state;
  const identity = [walletId, shard, ownerId, currency, decimalPlaces];
  const content = [balanceMinor, heldMinor, status, version, metadata, createdAtMs, updatedAtMs];
  await query(UPSERT, [...identity, ...content, hash]);
}

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
