/**
 * The audit of one wallet: its events, one after the other from version 0, are folded with the same
 * `apply` that the actor uses, and what each row says is held against the fold; at the end the
 * wallet's own row is. After a difference the fold goes on from what the row says, so that one
 * wrong row is named once and in its place, not in every row behind it. It keeps one state, however
 * long the history is. Reads nothing itself.
 */
import type { AmountMinor } from "../core/amount.ts";
import { chainHashOfRow } from "../chain.ts";
import type { DifferenceKind, DifferenceValue, Found, Name } from "./differences.ts";
import { accountOf } from "../core/event-row.ts";
import { auditHolds, type HoldChange, type StoredHold } from "./hold-audit.ts";
import { messageOf } from "../message-of.ts";
import { eventOf, type EventRow } from "../postgres/events.ts";
import { shardOf } from "../core/shard.ts";
import { apply, type WalletEvent, type WalletState } from "../core/wallet.ts";

/** A row of `wallets`. */
export interface WalletRow extends WalletState {
  readonly shard: number;
  /** Head of the chain, 64 hexadecimal digits. */
  readonly hash: string | null;
}

export interface WalletAudit {
  readonly walletId: string;
  /** The next event of the wallet. */
  event(row: EventRow): void;
  /**
   * After the last one: the wallet's row, as of the same moment (null: there is none), and the rows
   * of its holds (null: not to be compared). Returns what would put the rows of the holds right.
   */
  end(row: WalletRow | null, holds: readonly StoredHold[] | null): HoldChange[];
  /** The fold so far; null before the first event. */
  readonly state: WalletState | null;
  /** Hash of the last event. */
  readonly hash: string | null;
  /** Whether the events themselves are in order, whatever the row says. */
  readonly isSound: boolean;
}

/** Clocks of hosts and of the database may differ by this much, in milliseconds. */
const CLOCKS_MS = 60_000;

/** Fields of a wallet's row that are the fold, with the names of their columns. */
const ROW_FIELDS = [
  ["version", "version"],
  ["balance", "balanceMinor"],
  ["held", "heldMinor"],
  ["status", "status"],
  ["owner_id", "ownerId"],
  ["currency", "currency"],
  ["decimal_places", "decimalPlaces"],
  ["metadata", "metadata"],
  ["created_at", "createdAtMs"],
  ["updated_at", "updatedAtMs"],
] as const;

/** @param chainStartedMs from when on every event has a hash */
export function auditWallet(walletId: string, chainStartedMs: number, name: Name): WalletAudit {
  let state: WalletState | null = null;
  let hash: string | null = null;
  let isSound = true;
  let lastPosition = 0;
  const holdAudit = auditHolds(walletId, name);

  function wrong(version: number, found: Found): void {
    isSound = false;
    name({ walletId, version, ...found });
  }

  function audited(row: EventRow): void {
    const { version } = row;
    const nextVersion = state === null ? 0 : state.version + 1;
    if (version !== nextVersion) {
      const field = version === nextVersion + 1 ? null : `to version ${version - 1}`;
      wrong(nextVersion, { kind: "event_missing", field, expected: nextVersion, found: version });
    }
    let event: WalletEvent | null = null;
    try {
      event = eventOf(row);
    } catch (error) {
      wrong(version, { kind: "event_unreadable", found: messageOf(error) });
    }
    const folded = event === null || version !== nextVersion ? null : fold(event, row);
    if (event !== null) compareAccount(event, row);
    compareState(folded, row);
    auditHash(row);
    auditPosition(row);
    holdAudit.event(row);
    // From what the row says on, whatever was expected.
    const { balanceMinor, heldMinor, status, occurredAtMs: updatedAtMs } = row;
    const base = folded ?? state ?? unknownWallet(walletId, event);
    const metadata = event !== null && "metadata" in event ? event.metadata : base.metadata;
    state = { ...base, version, balanceMinor, heldMinor, status, updatedAtMs, metadata };
  }

  function fold(event: WalletEvent, { version }: EventRow): WalletState | null {
    try {
      return apply(walletId, state, event);
    } catch (error) {
      wrong(version, { kind: "event_impossible", field: event.type, found: messageOf(error) });
      return null;
    }
  }

  function compareAccount(event: WalletEvent, { version, account }: EventRow): void {
    const expected = accountOf(event);
    if (account !== expected) wrong(version, { kind: "event_account", expected, found: account });
  }

  function compareState(folded: WalletState | null, row: EventRow): void {
    const { version } = row;
    const kind = "event_state";
    const shard = shardOf(walletId);
    if (row.shard !== shard) {
      wrong(version, { kind, field: "shard", expected: shard, found: row.shard });
    }
    if (folded === null) return;
    const fields = [
      ["balance", folded.balanceMinor, row.balanceMinor],
      ["held", folded.heldMinor, row.heldMinor],
      ["status", folded.status, row.status],
    ] as const;
    for (const [field, expected, found] of fields) {
      if (found !== expected) wrong(version, { kind, field, expected, found });
    }
  }

  /** Readers in the order of places must meet the wallet's events in that of their versions. */
  function auditPosition({ version, position, shard }: EventRow): void {
    // One in another shard is named as such.
    if (shard !== shardOf(walletId)) return;
    if (position <= lastPosition) {
      const expected = `behind ${lastPosition}`;
      name({ kind: "position_order", walletId, version, expected, found: position });
    }
    lastPosition = position;
  }

  function auditHash(row: EventRow): void {
    const { version } = row;
    if (row.hash === null) {
      // Only from the first event on, and only from before there were hashes.
      const isOld = hash === null && row.occurredAtMs < chainStartedMs + CLOCKS_MS;
      if (!isOld) wrong(version, { kind: "hash_missing", expected: "a hash", found: null });
      hash = null;
      return;
    }
    const expected = chainHashOfRow(hash, row);
    if (row.hash !== expected) wrong(version, { kind: "hash_wrong", expected, found: row.hash });
    hash = row.hash;
  }

  return {
    walletId,
    event: audited,
    end(row, holds) {
      const differs = (kind: DifferenceKind, rest: Partial<Found>): void =>
        name({ kind, walletId, ...rest });
      const changes = holds === null ? [] : holdAudit.end(holds, state?.heldMinor ?? 0);
      if (row === null) {
        if (state !== null) {
          differs("wallet_missing", { expected: `a row at version ${state.version}`, found: null });
        }
        return changes;
      }
      const shard = shardOf(walletId);
      if (row.shard !== shard) {
        differs("wallet_row", { field: "shard", expected: shard, found: row.shard });
      }
      if (state === null) {
        differs("wallet_without_events", { expected: "events", found: `a row at ${row.version}` });
        return changes;
      }
      const { version } = state;
      // With versions apart nothing else can agree, and would only hide what matters.
      if (row.version > version) {
        differs("wallet_ahead", { version: row.version, expected: version, found: row.version });
      } else {
        compareRow(row, state, differs);
      }
      if (row.hash !== hash) differs("head_wrong", { version, expected: hash, found: row.hash });
      return changes;
    },
    get state() {
      return state;
    },
    get hash() {
      return hash;
    },
    get isSound() {
      return isSound;
    },
  };
}

function compareRow(
  row: WalletRow,
  state: WalletState,
  differs: (kind: DifferenceKind, rest: Partial<Found>) => void,
): void {
  for (const [field, key] of ROW_FIELDS) {
    const [expected, found]: DifferenceValue[] = [state[key], row[key]];
    if (found === expected) continue;
    differs("wallet_row", { version: state.version, field, expected: expected!, found: found! });
  }
}

/** Stands for a wallet whose beginning is gone, so that the rest of it can be folded. */
function unknownWallet(walletId: string, event: WalletEvent | null): WalletState {
  const created = event?.type === "WalletCreated" ? event : null;
  return {
    walletId,
    ownerId: created?.ownerId ?? null,
    currency: created?.currency ?? "",
    decimalPlaces: created?.decimalPlaces ?? 0,
    balanceMinor: 0 as AmountMinor,
    heldMinor: 0 as AmountMinor,
    status: "ACTIVE",
    version: -1,
    metadata: "{}",
    createdAtMs: event?.occurredAtMs ?? 0,
    updatedAtMs: 0,
  };
}
