/**
 * The tables of the simulated database: the rows of `src/migrations` with their keys and checks,
 * and what `append_commit` does to them. It is only state and its moves, without time:
 * `database.ts` says when each transaction begins and commits, and calls in here at its commit
 * point, where everything happens at once or not at all.
 */
import {
  holdKey,
  type AppendResult,
  type KnownCommand,
  type KnownVerdict,
  type NewEvent,
  type NewRejection,
  type NewVerdict,
  type Writes,
} from "../../src/core/journal.ts";
import type { AmountMinor } from "../../src/core/amount.ts";
import { accountOf, dataOf } from "../../src/core/event-row.ts";
import type { Hold } from "../../src/core/hold.ts";
import { recordOf, type EventRow as StoredRow } from "../../src/postgres/events.ts";
import type { StoredEvent } from "../../src/core/read-model.ts";
import type { CommandRecord } from "../../src/core/repeats.ts";
import { ALL_SHARDS, shardOf } from "../../src/core/shard.ts";
import type { ShardOwner } from "../../src/core/shard-table.ts";
import type { Transfer } from "../../src/core/transfer.ts";
import type { WalletEvent, WalletState } from "../../src/core/wallet.ts";
import { copied } from "./copy.ts";
import type { StoredCursor } from "./relay-cursors.ts";

export interface EventRow extends StoredEvent {
  readonly fingerprint: string | null;
  readonly isIdProposed: boolean;
  readonly hash: string;
  readonly shard: number;
  /**
   * Its place among all events of its shard: the journal counts, the table only takes no place
   * twice.
   */
  readonly position: number;
}

/** An event's place, as the journal gives it. */
export type Place = Pick<EventRow, "shard" | "position">;

/**
 * Guards to leave out, so that a simulation can show that it finds what they prevent. Where two
 * guards stand behind each other, as the fence, the version key and the look-up in the transaction
 * do, leaving out one alone may change nothing.
 */
export interface Plants {
  /** An append is taken under any epoch. */
  readonly noEpochCheck?: boolean;
  /**
   * Neither the key of an event nor the base version of a wallet is looked at: the last writer
   * wins.
   */
  readonly noVersionKey?: boolean;
  /**
   * Known ids are looked for when the call is made, not in its transaction, and no key on command
   * ids stands behind that.
   */
  readonly lookupOutsideTransaction?: boolean;
  /** Command ids are not remembered: no look-up finds one, and no key stands behind it. */
  readonly noDurableCommand?: boolean;
  /** Verdicts are not remembered in the same way. */
  readonly noDurableVerdict?: boolean;
  /**
   * What becomes of a hold is written into the wallet and not into the hold: whoever wakes the
   * wallet has it as it was placed.
   */
  readonly noDurableHold?: boolean;
  /** An append is taken although the one that it is behind was not. */
  readonly noBehindCheck?: boolean;
}

export interface Tables {
  readonly shards: ShardOwner[];
  /** In the order of their commits. */
  readonly events: EventRow[];
  readonly eventsOf: Map<string, EventRow[]>;
  /** In the order of their positions. */
  readonly eventsOfShard: Map<number, EventRow[]>;
  /** By wallet and version, and by wallet and command id. */
  readonly byVersion: Map<string, EventRow>;
  readonly byCommand: Map<string, EventRow>;
  readonly rejections: Map<string, NewRejection>;
  readonly wallets: Map<string, WalletState>;
  readonly transfers: Map<string, Transfer>;
  readonly verdicts: Map<string, NewVerdict>;
  /** By `holdKey`. */
  readonly holds: Map<string, Hold>;
  /** How far the relay is, by sink and shard. */
  readonly relayCursors: Map<string, StoredCursor>;
}

export function buildTables(): Tables {
  return {
    shards: ALL_SHARDS.map((shard) => ({ shard, owner: null, epoch: 0, claimedAtMs: 0 })),
    events: [],
    eventsOf: new Map(),
    eventsOfShard: new Map(),
    byVersion: new Map(),
    byCommand: new Map(),
    rejections: new Map(),
    wallets: new Map(),
    transfers: new Map(),
    verdicts: new Map(),
    holds: new Map(),
    relayCursors: new Map(),
  };
}

/** The last position of a shard; 0 when it has no events. */
export function lastPositionOf({ eventsOfShard }: Tables, shard: number): number {
  return eventsOfShard.get(shard)?.at(-1)?.position ?? 0;
}

/** Two ids as one key; no id of a wallet has a space in it. */
function keyOf(walletId: string, rest: string | number): string {
  return `${walletId} ${rest}`;
}

/** Epoch of a shard that a commit does not speak for. */
const NOT_FENCED = 0;

/** Shards whose epoch is not the one that the writer names. */
export function supersededShards({ shards }: Tables, fence: Writes["fence"]): number[] {
  const superseded: number[] = [];
  for (const [shard, named] of fence) {
    if (named !== NOT_FENCED && named !== shards[shard]!.epoch) superseded.push(shard);
  }
  return superseded.toSorted((one, other) => one - other);
}

/** The outcomes that are known already of the ids that are looked for; null when there are none. */
export function lookUp(
  tables: Tables,
  { lookups, verdictLookups }: Pick<Writes, "lookups" | "verdictLookups">,
  plants: Plants,
): Extract<AppendResult, { type: "known" }> | null {
  const commands: KnownCommand[] = [];
  if (plants.noDurableCommand !== true) {
    for (const { walletId, commandId } of lookups) {
      const event = tables.byCommand.get(keyOf(walletId, commandId));
      if (event !== undefined) {
        const { fingerprint, version, transferId } = event;
        const known = { walletId, commandId, fingerprint, version, transferId, rejection: null };
        const isBare = fingerprint === null;
        commands.push(isBare ? { ...known, record: recordIn(tables, event) } : known);
      }
      const rejected = tables.rejections.get(keyOf(walletId, commandId));
      if (rejected !== undefined) {
        const { fingerprint, rejection } = rejected;
        const [version, transferId] = [null, null];
        commands.push({ walletId, commandId, fingerprint, version, transferId, rejection });
      }
    }
  }
  const verdicts: KnownVerdict[] = [];
  if (plants.noDurableVerdict !== true) {
    for (const transferId of verdictLookups) {
      const known = tables.verdicts.get(transferId);
      if (known !== undefined) verdicts.push({ transferId, verdict: known.verdict });
    }
  }
  return commands.length + verdicts.length === 0 ? null : { type: "known", commands, verdicts };
}

function recordIn(tables: Tables, last: EventRow): CommandRecord {
  const first = tables.byVersion.get(keyOf(last.walletId, 0))!;
  const isHoldFinal = tables.transfers.get(last.transferId ?? "")?.isHoldFinal ?? null;
  return recordOf(readable(last), readable(first), isHoldFinal);
}

function readable(row: EventRow): StoredRow {
  const metadata = row.data?.["walletMetadata"];
  return { ...row, walletMetadata: metadata === undefined ? null : JSON.stringify(metadata) };
}

/**
 * The commit as it is when the call is made: its parameters are sent then, and what becomes of them
 * at the caller's afterwards is nothing to the server.
 */
export function copyOf(writes: Writes): Writes {
  const { events, wallets, rejections, lookups, verdictLookups } = writes;
  const { transfers, verdicts, settled, holds, fence, order } = writes;
  const [ids, rows] = [
    { lookups, verdictLookups },
    { transfers, verdicts, settled, holds },
  ];
  return copied({ events, wallets, rejections, ...ids, ...rows, fence, order });
}

// --- What may not be written ---------------------------------------------------------------------

const MINOR_MAX = 1_000_000_000_000_000;

function check(holds: boolean, table: string, row: object): void {
  if (holds) return;
  throw new Error(`new row of ${table} violates a check constraint: ${JSON.stringify(row)}`);
}

function isMoney({
  balanceMinor,
  heldMinor,
}: {
  balanceMinor: number;
  heldMinor: number;
}): boolean {
  return (
    balanceMinor >= 0 && balanceMinor < MINOR_MAX && heldMinor >= 0 && heldMinor <= balanceMinor
  );
}

function isAmount(minor: number): boolean {
  return minor > 0 && minor < MINOR_MAX;
}

/** The checks of the schema. What breaks one is a programmer's error, not a fault. */
export function checkRows(writes: Writes): void {
  for (const row of writes.events) {
    const amount = amountOf(row.event);
    check(row.version >= 0 && isMoney(row), "events", row);
    check(amount === null || isAmount(amount), "events", row);
  }
  const latest = new Map(writes.events.map((event) => [event.walletId, event]));
  for (const { state } of writes.wallets.values()) {
    const event = latest.get(state.walletId);
    if (event?.version !== state.version) throw new Error("a wallet changes without an event");
    check(event.balanceMinor === state.balanceMinor, "wallets", state);
    check(event.heldMinor === state.heldMinor && event.status === state.status, "wallets", state);
    check(state.version >= 0 && isMoney(state), "wallets", state);
    check(state.decimalPlaces >= 0 && state.decimalPlaces <= 9, "wallets", state);
    check(["ACTIVE", "SUSPENDED", "CLOSED"].includes(state.status), "wallets", state);
    check(state.status !== "CLOSED" || state.balanceMinor === 0, "wallets", state);
  }
  for (const { hold } of writes.holds.values()) {
    const { amountMinor, capturedMinor, status, capturedAtMs, releasedAtMs } = hold;
    const isEnded = status === "RELEASED" || status === "EXPIRED";
    check(isAmount(amountMinor) && capturedMinor >= 0, "holds", hold);
    check(capturedMinor <= amountMinor, "holds", hold);
    check(status !== "ACTIVE" || capturedMinor < amountMinor, "holds", hold);
    check(status !== "ACTIVE" || releasedAtMs === null, "holds", hold);
    check((status === "CAPTURED") === (capturedAtMs !== null), "holds", hold);
    check(!isEnded || releasedAtMs !== null, "holds", hold);
  }
  for (const row of writes.transfers) {
    check(row.holdId !== null || !row.isHoldFinal, "transfers", row);
    check(row.fromWalletId !== row.toWalletId && isAmount(row.amountMinor), "transfers", row);
  }
  for (const row of writes.settled) {
    check(row.status !== "pending" && row.settledAtMs !== null, "transfers", row);
    check((row.status === "posted") === (row.toVersion !== null), "transfers", row);
    check((row.status === "returned") === (row.rejection !== null), "transfers", row);
  }
}

/**
 * Every shard that is written to must be fenced, since a row outside the fence is one that a
 * superseded owner could write.
 */
export function checkFence(writes: Writes): void {
  const walletIds = new Set<string>();
  for (const { walletId } of writes.events) walletIds.add(walletId);
  for (const walletId of writes.wallets.keys()) walletIds.add(walletId);
  for (const { walletId } of writes.rejections) walletIds.add(walletId);
  for (const { fromWalletId } of writes.transfers) walletIds.add(fromWalletId);
  for (const { fromWalletId } of writes.settled) walletIds.add(fromWalletId);
  for (const { toWalletId } of writes.verdicts) walletIds.add(toWalletId);
  for (const { hold } of writes.holds.values()) walletIds.add(hold.walletId);
  for (const walletId of walletIds) {
    if (!writes.fence.has(shardOf(walletId))) {
      throw new Error(`shard ${shardOf(walletId)} is written to outside the fence`);
    }
  }
}

/** What is in the way of the commit, in one sentence; null when nothing is. */
export function conflictOf(
  tables: Tables,
  writes: Writes,
  places: readonly Place[],
  plants: Plants,
): string | null {
  return (
    positionConflict(tables, places, plants) ??
    commandConflict(tables, writes, plants) ??
    versionConflict(tables, writes, plants) ??
    transferConflict(tables, writes, plants) ??
    holdConflict(tables, writes)
  );
}

/** The first key that is there already, or that the batch has twice. */
function duplicate(keys: Iterable<string>, isThere: (key: string) => boolean): string | null {
  const seen = new Set<string>();
  for (const key of keys) {
    if (seen.has(key) || isThere(key)) return key;
    seen.add(key);
  }
  return null;
}

function commandConflict(tables: Tables, writes: Writes, plants: Plants): string | null {
  if (plants.lookupOutsideTransaction === true || plants.noDurableCommand === true) return null;
  const accepted = writes.events
    .filter(({ commandId }) => commandId !== null)
    .map(({ walletId, commandId }) => keyOf(walletId, commandId!));
  const done = duplicate(
    accepted,
    (key) => tables.byCommand.has(key) || tables.rejections.has(key),
  );
  if (done !== null) return `command ${done} has its outcome already`;
  // As in PostgreSQL, an event with the same id is not in the way of a rejection: who rejects must
  // have looked for the id.
  const rejected = writes.rejections.map(({ walletId, commandId }) => keyOf(walletId, commandId));
  const again = duplicate(rejected, (key) => tables.rejections.has(key));
  return again === null ? null : `command ${again} was rejected before`;
}

/**
 * This key stands behind the fence and the look-up: with either left out it goes too, or it would
 * hide what they are for.
 */
function positionConflict(
  tables: Tables,
  places: readonly Place[],
  { noEpochCheck, noVersionKey, lookupOutsideTransaction }: Plants,
): string | null {
  if (noEpochCheck || noVersionKey || lookupOutsideTransaction) return null;
  const taken = places.find(({ shard, position }) => {
    // Whoever counts right is behind the last one, so this ends at once.
    const before = tables.eventsOfShard.get(shard)?.findLast((event) => event.position <= position);
    return before?.position === position;
  });
  return taken === undefined ? null : `position ${taken.position} of shard ${taken.shard} exists`;
}

function versionConflict(tables: Tables, writes: Writes, plants: Plants): string | null {
  if (plants.noVersionKey === true) return null;
  const versions = writes.events.map(({ walletId, version }) => keyOf(walletId, version));
  const taken = duplicate(versions, (key) => tables.byVersion.has(key));
  if (taken !== null) return `version ${taken} exists`;
  for (const [walletId, { baseVersion }] of writes.wallets) {
    const version = tables.wallets.get(walletId)?.version ?? -1;
    if (version !== Math.max(baseVersion, -1)) {
      return `wallet ${walletId} is at version ${version}, not ${baseVersion}`;
    }
  }
  return null;
}

function holdConflict(tables: Tables, { holds }: Writes): string | null {
  for (const [key, { isNew }] of holds) {
    if (tables.holds.has(key) === isNew) return `hold ${key} is ${isNew ? "" : "not "}there`;
  }
  return null;
}

function transferConflict(tables: Tables, writes: Writes, plants: Plants): string | null {
  const idOf = ({ transferId }: { transferId: string }): string => transferId;
  const begun = duplicate(writes.transfers.map(idOf), (id) => tables.transfers.has(id));
  if (begun !== null) return `transfer ${begun} exists`;
  if (plants.noDurableVerdict !== true) {
    const decided = duplicate(writes.verdicts.map(idOf), (id) => tables.verdicts.has(id));
    if (decided !== null) return `transfer ${decided} has its verdict already`;
  }
  const isBegunHere = new Set(writes.transfers.map(idOf));
  const ended = duplicate(
    writes.settled.map(idOf),
    (id) => !isBegunHere.has(id) && tables.transfers.get(id)?.status !== "pending",
  );
  return ended === null ? null : `transfer ${ended} is not pending`;
}

// --- Writing -------------------------------------------------------------------------------------

/** Writes all of it; `conflictOf` has found nothing before. */
export function write(
  tables: Tables,
  writes: Writes,
  places: readonly Place[],
  plants: Plants,
): void {
  writes.events.forEach((event, index) => {
    const { shard, position } = places[index]!;
    putEvent(tables, { ...storedOf(event), shard, position });
  });
  const changes = writes.events.filter(({ event }) => event.type === "WalletMetadataChanged");
  const changesMetadata = new Set(changes.map(({ walletId }) => walletId));
  for (const [walletId, { state }] of writes.wallets) {
    const before = tables.wallets.get(walletId);
    // What an update never touches stays as the wallet was made, and its metadata unless an event
    // changes it.
    const { ownerId, currency, decimalPlaces, createdAtMs } = before ?? state;
    const { metadata } = changesMetadata.has(walletId) ? state : (before ?? state);
    const made = { ownerId, currency, decimalPlaces, metadata, createdAtMs };
    tables.wallets.set(walletId, { ...state, ...made });
  }
  for (const row of writes.rejections) {
    tables.rejections.set(keyOf(row.walletId, row.commandId), row);
  }
  for (const row of writes.transfers) tables.transfers.set(row.transferId, row);
  for (const row of writes.verdicts) tables.verdicts.set(row.transferId, row);
  for (const { hold, isNew } of writes.holds.values()) {
    if (isNew || plants.noDurableHold !== true) tables.holds.set(holdKey(hold), hold);
  }
  for (const { transferId, status, toVersion, rejection, settledAtMs } of writes.settled) {
    const before = tables.transfers.get(transferId)!;
    const end = { status, toVersion, rejection, settledAtMs };
    tables.transfers.set(transferId, { ...before, ...end });
  }
}

function putEvent(tables: Tables, row: EventRow): void {
  const { walletId, version, commandId, shard } = row;
  tables.events.push(row);
  tables.byVersion.set(keyOf(walletId, version), row);
  if (commandId !== null) tables.byCommand.set(keyOf(walletId, commandId), row);
  putInOrder(tables.eventsOf, walletId, row, (event) => event.version);
  putInOrder(tables.eventsOfShard, shard, row, (event) => event.position);
}

function putInOrder<Key>(
  groups: Map<Key, EventRow[]>,
  key: Key,
  row: EventRow,
  placeOf: (row: EventRow) => number,
): void {
  const group = groups.get(key);
  if (group === undefined) groups.set(key, [row]);
  else {
    group.push(row);
    if (placeOf(group.at(-2)!) > placeOf(row)) {
      group.sort((one, other) => placeOf(one) - placeOf(other));
    }
  }
}

function storedOf(of: NewEvent): Omit<EventRow, "shard" | "position"> {
  const { walletId, version, event, status, commandId, fingerprint, isIdProposed } = of;
  const data = dataOf(of);
  return {
    walletId,
    version,
    type: event.type,
    amountMinor: amountOf(event),
    balanceMinor: of.balanceMinor as AmountMinor,
    heldMinor: of.heldMinor as AmountMinor,
    status,
    account: accountOf(event),
    counterpartyId: "counterpartyId" in event ? event.counterpartyId : null,
    transferId: "transferId" in event ? event.transferId : null,
    commandId,
    correlationId: of.correlationId,
    causationId: of.causationId,
    description: of.description,
    data: data === null ? null : (JSON.parse(data) as EventRow["data"]),
    occurredAtMs: event.occurredAtMs,
    fingerprint,
    isIdProposed,
    hash: of.hash,
  };
}

function amountOf(event: WalletEvent): AmountMinor | null {
  return "amountMinor" in event ? event.amountMinor : null;
}

/**
 * The metadata after each of these events, as `metadataAt` has it. They are all of one wallet's, in
 * the order of their versions.
 */
export function metadataAfterEach(events: readonly EventRow[]): string[] {
  let latest = JSON.stringify(undefined);
  return events.map(({ data }) => {
    const brought = data?.["walletMetadata"];
    if (brought !== undefined) latest = JSON.stringify(brought);
    return latest;
  });
}

/**
 * The metadata after an event of the wallet, as JSON text: that of the latest event up to it that
 * brings any.
 */
export function metadataAt(
  { eventsOf }: { readonly eventsOf: ReadonlyMap<string, readonly EventRow[]> },
  walletId: string,
  version: number,
): string {
  const events = eventsOf.get(walletId) ?? [];
  const bringer = events.findLast(
    (event) => event.version <= version && event.data?.["walletMetadata"] !== undefined,
  );
  return JSON.stringify(bringer?.data?.["walletMetadata"]);
}
