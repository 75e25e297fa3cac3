/**
 * What an append sends: the statement for what a commit brings, and its columns as the texts of
 * PostgreSQL arrays. It hides the parameters of `append_commit`, `put_transfers`, `put_metadata`
 * and `put_holds` (src/migrations), which it must name in their order. Pure, but for the statements
 * that it keeps; a commit that breaks an invariant is refused by an error before anything is sent.
 */
import { accountOf, dataOf } from "../core/event-row.ts";
import type { KnownCommand, NewVerdict, Writes } from "../core/journal.ts";
import type { Place } from "../core/places.ts";
import type { Rejection } from "../core/rejection.ts";
import { ALL_SHARDS, shardOf } from "../core/shard.ts";
import type { Transfer } from "../core/transfer.ts";
import type { WalletState } from "../core/wallet.ts";

/**
 * The database refuses a stale epoch of the shards that a commit speaks for; that it speaks for all
 * that it writes to is for this side to know.
 */
function checkFence(
  { rejections, transfers, verdicts, settled, fence }: Writes,
  places: readonly Place[],
): void {
  const check = (shard: number): void => {
    if (!fence.has(shard)) throw new Error(`shard ${shard} is written to outside the fence`);
  };
  for (const { shard } of places) check(shard);
  for (const { walletId } of rejections) check(shardOf(walletId));
  for (const { fromWalletId } of transfers) check(shardOf(fromWalletId));
  for (const { fromWalletId } of settled) check(shardOf(fromWalletId));
  for (const { toWalletId } of verdicts) check(shardOf(toWalletId));
  for (const epoch of fence.values()) {
    if (epoch === NOT_FENCED) throw new Error("an epoch that no shard has speaks for one");
  }
}

/** The parameters of `append_commit`, in its order. */
function commitValues(writes: Writes, places: readonly Place[]): unknown[] {
  const { events, lookups, rejections, fence } = writes;
  const created = [...writes.wallets.values()].filter(({ baseVersion }) => baseVersion < 0);
  const bases = basesOf(writes);
  const isFew = fence.size < FEW_SHARDS;
  const spokenFor = [...fence];
  return [
    isFew ? numbers(spokenFor, ([shard]) => shard) : "{}",
    isFew
      ? numbers(spokenFor, ([, epoch]) => epoch)
      : numbers(ALL_SHARDS, (shard) => fence.get(shard) ?? NOT_FENCED),
    texts(lookups, (lookup) => lookup.commandId),
    texts(lookups, (lookup) => lookup.walletId),
    texts(writes.verdictLookups, (transferId) => transferId),
    texts(events, (event) => event.walletId),
    numbers(events, (event) => event.version),
    texts(events, ({ event }) => event.type),
    numbers(events, ({ event }) => ("amountMinor" in event ? event.amountMinor : null)),
    numbers(events, (event) => event.balanceMinor),
    numbers(events, (event) => event.heldMinor),
    texts(events, (event) => event.status),
    texts(events, ({ event }) => accountOf(event)),
    texts(events, ({ event }) => ("counterpartyId" in event ? event.counterpartyId : null)),
    texts(events, ({ event }) => ("transferId" in event ? event.transferId : null)),
    texts(events, (event) => event.commandId),
    texts(events, (event) => event.fingerprint),
    numbers(events, ({ event }) => event.occurredAtMs),
    texts(events, (event) => unlessCommand(event, event.correlationId)),
    texts(events, (event) => unlessCommand(event, event.causationId)),
    texts(events, (event) => event.description),
    texts(events, dataOf),
    numbers(places, ({ shard }) => shard),
    numbers(places, ({ position }) => position),
    texts(events, ({ hash }) => hash),
    numbers(bases, (base) => base),
    rows(created, ({ state, hash }) => ({ ...state, hash, shard: shardOf(state.walletId) })),
    rows(rejections, (rejection) => rejection),
  ];
}

/**
 * For each event the version that its wallet's row must have before the commit, if the event is the
 * wallet's last one in here and the row exists: that row becomes what this event says.
 */
function basesOf({ events, wallets }: Writes): Array<number | null> {
  let changed = 0;
  const bases = events.map(({ walletId, version }) => {
    const wallet = wallets.get(walletId);
    if (wallet?.state.version !== version) return null;
    changed += 1;
    return wallet.baseVersion < 0 ? null : wallet.baseVersion;
  });
  if (changed !== wallets.size) throw new Error("a wallet changes without an event");
  return bases;
}

/**
 * Wallets whose metadata the commit changes, for `put_metadata`; those that it creates bring theirs
 * along. Mostly null.
 */
function metadataRows({ events, wallets }: Writes): string | null {
  const changed = new Set<WalletState>();
  for (const { event, walletId } of events) {
    if (event.type !== "WalletMetadataChanged") continue;
    const wallet = wallets.get(walletId);
    if (wallet !== undefined && wallet.baseVersion >= 0) changed.add(wallet.state);
  }
  return rows([...changed], ({ walletId, metadata }) => ({ walletId, metadata }));
}

/**
 * Holds that the commit places or changes, and transfers that capture from one, for `put_holds`.
 * Mostly null.
 */
function holdRows({ holds, transfers }: Writes): string | null {
  if (holds.size === 0) return null;
  const placed: object[] = [];
  const changed: object[] = [];
  for (const { hold, isNew } of holds.values()) {
    if (isNew) placed.push({ ...hold, shard: shardOf(hold.walletId) });
    else changed.push(hold);
  }
  const capturing = transfers.filter(({ holdId }) => holdId !== null);
  const marks = capturing.map(({ transferId, holdId, isHoldFinal }) => {
    return { transferId, holdId, isHoldFinal };
  });
  return JSON.stringify({ placed, changed, transfers: marks });
}

/**
 * The parameters of `put_transfers`, in its order; null when the commit has nothing to do with any.
 */
function transferValues({ transfers, verdicts, settled }: Writes): unknown[] | null {
  if (transfers.length + verdicts.length + settled.length === 0) return null;
  // Posted in the commit in which it begins: its record is written once, as it is at the end.
  const atOnce = new Map<string, Transfer>();
  const later: Transfer[] = [];
  const begun = new Set(transfers.map(({ transferId }) => transferId));
  for (const transfer of settled) {
    const { transferId, status } = transfer;
    // Only once: a second end of it finds no pending transfer.
    if (status === "posted" && begun.delete(transferId)) atOnce.set(transferId, transfer);
    else later.push(transfer);
  }
  return [
    ...recordValues(transfers.map((transfer) => atOnce.get(transfer.transferId) ?? transfer)),
    ...verdictValues(verdicts),
    ...settledValues(later),
  ];
}

function recordValues(transfers: readonly Transfer[]): unknown[] {
  return [
    texts(transfers, (transfer) => transfer.transferId),
    numbers(transfers, (transfer) => shardOf(transfer.fromWalletId)),
    texts(transfers, (transfer) => transfer.fromWalletId),
    texts(transfers, (transfer) => transfer.toWalletId),
    numbers(transfers, (transfer) => transfer.amountMinor),
    texts(transfers, (transfer) => transfer.currency),
    numbers(transfers, (transfer) => transfer.decimalPlaces),
    numbers(transfers, (transfer) => transfer.fromVersion),
    numbers(transfers, (transfer) => transfer.toVersion),
    texts(transfers, (transfer) => transfer.commandId),
    texts(transfers, (transfer) => unlessCommand(transfer, transfer.correlationId)),
    texts(transfers, (transfer) => transfer.description),
    numbers(transfers, (transfer) => transfer.createdAtMs),
    numbers(transfers, (transfer) => transfer.settledAtMs),
  ];
}

function verdictValues(verdicts: readonly NewVerdict[]): unknown[] {
  return [
    texts(verdicts, (one) => one.transferId),
    texts(verdicts, (one) => one.toWalletId),
    numbers(verdicts, ({ verdict }) => (verdict.type === "posted" ? verdict.toVersion : null)),
    texts(verdicts, ({ verdict }) =>
      verdict.type === "refused" ? JSON.stringify(verdict.rejection) : null,
    ),
    numbers(verdicts, (one) => one.decidedAtMs),
  ];
}

function settledValues(settled: readonly Transfer[]): unknown[] {
  return [
    texts(settled, (transfer) => transfer.transferId),
    texts(settled, (transfer) => transfer.status),
    numbers(settled, (transfer) => transfer.toVersion),
    texts(settled, ({ rejection }) => (rejection === null ? null : JSON.stringify(rejection))),
    numbers(settled, (transfer) => transfer.settledAtMs),
  ];
}

/** Epoch of a shard that a commit does not speak for; no shard has it. */
const NOT_FENCED = 0;

/**
 * From so many shards on the epochs of all are passed, one place each, and the database reads all
 * of its own.
 */
const FEW_SHARDS = 48;

/**
 * A PostgreSQL array literal: half the client's cost of passing the array, measured at 64 rows of
 * 17 columns. Nothing but nulls is an empty one. Joined, as a text that grows item by item leaves
 * three objects of garbage for each.
 */
function numbers<T>(items: readonly T[], value: (item: T) => number | null): string {
  let isNothing = true;
  const column = items.map((item) => {
    const number = value(item);
    if (number === null) return "NULL";
    isNothing = false;
    return number;
  });
  return isNothing ? "{}" : `{${column.join(",")}}`;
}

const NEEDS_ESCAPE = /["\\]/;

function texts<T>(items: readonly T[], value: (item: T) => string | null): string {
  let nulls = 0;
  const column = items.map((item) => {
    const text = value(item);
    if (text === null) nulls += 1;
    return text !== null && NEEDS_ESCAPE.test(text) ? text.replace(/["\\]/g, "\\$&") : text;
  });
  if (nulls === items.length) return "{}";
  if (nulls === 0) return `{"${column.join('","')}"}`;
  return `{${column.map((text) => (text === null ? "NULL" : `"${text}"`)).join(",")}}`;
}

function rows<T>(items: readonly T[], row: (item: T) => object): string | null {
  return items.length === 0 ? null : JSON.stringify(items.map(row));
}

/** An id that repeats the command id is left out of the row. */
function unlessCommand(of: { commandId: string | null }, id: string): string | null {
  return id === of.commandId ? null : id;
}

/** A statement that the writer's connection prepares once. */
interface Statement {
  readonly name: string;
  readonly text: string;
}

/** As the driver takes it. */
export interface AppendQuery extends Statement {
  readonly values: unknown[];
}

/** What the database says to it. */
export interface AppendRow {
  /** Null: all was written; then `written` is the append's own name. */
  readonly known: KnownJson | "undone" | null;
  readonly written: string | null;
}

/** What was known already, and nothing was written. */
interface KnownJson {
  readonly commands: readonly KnownCommand[];
  readonly verdicts: ReadonlyArray<{
    readonly transferId: string;
    readonly toVersion: number | null;
    readonly rejection: Rejection | null;
  }>;
}

/** What an append and the one that it is behind are called in their session. */
export interface AppendNames {
  readonly own: string;
  /** Empty: it is behind none. */
  readonly behind: string;
}

/** By name, which says what the commit brings; there are eight. */
const statements = new Map<string, Statement>();

/**
 * The statement for what the commit brings, and its parameters. Transfers, metadata and holds have
 * functions of their own, around `append_commit`, so that commits without them do not pay for them.
 */
export function appendOf(
  writes: Writes,
  places: readonly Place[],
  { own, behind }: AppendNames,
): AppendQuery {
  checkFence(writes, places);
  const values: unknown[] = [behind, own];
  const first = values.length + 1;
  values.push(...commitValues(writes, places));
  const commit = values.length;
  const parts: Array<{ name: string; count: number }> = [];
  let name = "append";
  const add = (part: string, more: readonly unknown[]): void => {
    parts.push({ name: part, count: more.length });
    values.push(...more);
    name += `-${part}`;
  };
  const transfers = transferValues(writes);
  const metadata = metadataRows(writes);
  const holds = holdRows(writes);
  if (transfers !== null) add("transfers", transfers);
  if (metadata !== null) add("metadata", [metadata]);
  if (holds !== null) add("holds", [holds]);
  let statement = statements.get(name);
  if (statement === undefined) {
    let next = commit + 1;
    let call = `append_commit(${placeholders(first, commit - first + 1)})`;
    for (const part of parts) {
      call = `put_${part.name}(${call}, ${placeholders(next, part.count)})`;
      next += part.count;
    }
    statement = { name, text: unlessUndone(call) };
    statements.set(name, statement);
  }
  return { name, text: statement.text, values };
}

/**
 * The call, unless what it is behind (`$1`; empty: nothing) was not committed. The session
 * remembers the last append (`$2`) that has written, in a setting that a rollback takes back with
 * everything else; a new session remembers none. `OFFSET 0`: called once, though used twice.
 */
function unlessUndone(call: string): string {
  return `
    SELECT known,
           CASE WHEN known IS NULL THEN set_config('coffer.last_append', $2, false) END AS written
    FROM (
      SELECT CASE WHEN $1 = '' OR current_setting('coffer.last_append', true) = $1 THEN ${call}
                  ELSE '"undone"' END AS known
      OFFSET 0
    ) append`;
}

/** `$1, $2, $3`: so many from `first` on. */
function placeholders(first: number, count: number): string {
  return Array.from({ length: count }, (_, index) => `$${first + index}`).join(", ");
}
