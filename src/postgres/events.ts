/**
 * Back from a row of `events` to the event that was committed: the other direction of what
 * `postgres/journal.ts` writes. Whoever refolds a history reads it by this, so that the core's own
 * `apply` judges what the database has. A row that no version of Coffer has written throws
 * `UnreadableEvent`; nothing is guessed.
 */
import type { AmountMinor } from "../core/amount.ts";
import type { Hold } from "../core/hold.ts";
import { EVENT_COLUMNS } from "./rows.ts";
import type { StoredEvent } from "../core/read-model.ts";
import type { CommandRecord } from "../core/repeats.ts";
import type { CreditKind, WalletEvent } from "../core/wallet.ts";

/**
 * A row of `events`, with the wallet's metadata as PostgreSQL spells it: comparable with that of
 * its row.
 */
export interface EventRow extends StoredEvent {
  readonly walletMetadata: string | null;
  readonly fingerprint: string | null;
  readonly shard: number;
  /** Its place among the shard's events. */
  readonly position: number;
  /** 64 hexadecimal digits; null: from before there were hashes. */
  readonly hash: string | null;
}

/** An `EventRow`, from `events e`. */
export const EVENT_ROW_COLUMNS = `
  ${EVENT_COLUMNS}, (e.data -> 'walletMetadata')::text AS "walletMetadata", e.fingerprint, e.shard, e.position,
  encode(e.hash, 'hex') AS hash`;

export class UnreadableEvent extends Error {
  override readonly name = "UnreadableEvent";
}

/**
 * @throws UnreadableEvent when the row lacks what its type needs, or has no type that this version
 * knows.
 */
export function eventOf(row: EventRow): WalletEvent {
  const { type, occurredAtMs } = row;
  switch (type) {
    case "WalletCreated": {
      const { ownerId, currency, decimalPlaces } = (row.data ?? {}) as Partial<CreationData>;
      return {
        type,
        ownerId: ownerId ?? null,
        currency: needed(row, "currency", currency),
        decimalPlaces: needed(row, "decimalPlaces", decimalPlaces),
        metadata: needed(row, "walletMetadata", row.walletMetadata),
        occurredAtMs,
      };
    }
    case "WalletCredited": {
      const kind = (row.data?.["kind"] ?? "CREDIT") as CreditKind;
      return { type, amountMinor: amountOf(row), kind, occurredAtMs };
    }
    case "WalletDebited": {
      const debited = { type, amountMinor: amountOf(row), occurredAtMs };
      const kind = row.data?.["kind"];
      return kind === undefined ? debited : { ...debited, kind: kind as "SPEND" };
    }
    case "TransferSent":
    case "TransferReceived":
    case "TransferReturned": {
      const transferId = needed(row, "transfer_id", row.transferId);
      const counterpartyId = needed(row, "counterparty", row.counterpartyId);
      const moved = { type, amountMinor: amountOf(row), transferId, counterpartyId, occurredAtMs };
      const hold = row.data?.["hold"];
      return hold === undefined ? moved : { ...moved, hold: hold as Hold };
    }
    case "HoldPlaced":
      return { type, hold: holdOf(row), occurredAtMs };
    case "HoldCaptured": {
      const [amountMinor, releasedMinor] = [amountOf(row), releasedOf(row)];
      return { type, amountMinor, releasedMinor, hold: holdOf(row), occurredAtMs };
    }
    case "HoldReleased":
    case "HoldExpired":
      return { type, releasedMinor: releasedOf(row), hold: holdOf(row), occurredAtMs };
    case "WalletMetadataChanged": {
      const metadata = needed(row, "walletMetadata", row.walletMetadata);
      return { type, metadata, occurredAtMs };
    }
    case "WalletSuspended":
    case "WalletActivated":
    case "WalletClosed":
      return { type, occurredAtMs };
    default:
      throw new UnreadableEvent(
        `${type satisfies never as string} is no type that this version knows`,
      );
  }
}

/**
 * What a command has left, from its last event and the first one of its wallet.
 * @param isHoldFinal of its transfer's record; null when it has none
 * @throws UnreadableEvent as `eventOf`
 */
export function recordOf(
  last: EventRow,
  first: EventRow,
  isHoldFinal: boolean | null,
): CommandRecord {
  const created = eventOf(first);
  if (created.type !== "WalletCreated") throw new UnreadableEvent(`${first.type} at version 0`);
  const metadata = last.data?.["metadata"];
  const isIdProposed = first.data?.["isIdProposed"] === true;
  return {
    event: eventOf(last),
    version: last.version,
    description: last.description,
    metadata: metadata === undefined ? null : JSON.stringify(metadata),
    wallet: created,
    creation:
      first.causationId === last.commandId ? { metadata: created.metadata, isIdProposed } : null,
    isHoldFinal: isHoldFinal ?? false,
  };
}

interface CreationData {
  readonly ownerId: string | null;
  readonly currency: string;
  readonly decimalPlaces: number;
}

function amountOf(row: EventRow): AmountMinor {
  return needed(row, "amount", row.amountMinor);
}

function holdOf(row: EventRow): Hold {
  return needed(row, "hold", row.data?.["hold"] as Hold | undefined);
}

function releasedOf(row: EventRow): AmountMinor {
  return needed(row, "releasedMinor", row.data?.["releasedMinor"] as AmountMinor | undefined);
}

function needed<T>({ type }: EventRow, name: string, value: T | null | undefined): T {
  if (value === null || value === undefined) throw new UnreadableEvent(`${type} without ${name}`);
  return value;
}
