/**
 * Whether a command that comes under the id of an earlier one asks for the same. Where the caller
 * gave the id, fingerprints say so. An id that a gateway made has none, since nearly all of them
 * are never seen again and a digest of each input would be paid for nothing; but callers are told
 * it (with an unknown outcome, in histories), and may send it with anything. Then the input is held
 * against what the outcome says of the first one. What an outcome does not keep is not missed: an
 * honest repeat must always fit, or its caller would take a new key and pay twice. Pure.
 */
import { toMinor, type AmountMinor } from "./amount.ts";
import type { Hold } from "./hold.ts";
import { canonicalJson, mergedMetadata } from "./metadata.ts";
import type { Command } from "./protocol.ts";
import type { Rejection } from "./rejection.ts";
import { payeeOf, type WalletCommand, type WalletEvent, type WalletState } from "./wallet.ts";

/** What a command that was carried out has left. */
export interface CommandRecord {
  /** Its last event, and the version that this made. */
  readonly event: WalletEvent;
  readonly version: number;
  readonly description: string | null;
  /** JSON text, or null. */
  readonly metadata: string | null;
  /** What the wallet has been from its creation on. */
  readonly wallet: Pick<WalletState, "ownerId" | "currency" | "decimalPlaces">;
  /** Null unless the command has also made the wallet. */
  readonly creation: { readonly metadata: string; readonly isIdProposed: boolean } | null;
  /** Of a transfer's record. */
  readonly isHoldFinal: boolean;
}

/** Whether a command with this input may have left that. */
export function fits(command: Command, record: CommandRecord): boolean {
  const { description, metadata, expectedVersion } = command;
  const { version, creation } = record;
  if (description !== record.description || !isSameJson(metadata, record.metadata)) return false;
  // Its wallet was at the version that it asked for, and so it was there.
  if (expectedVersion !== null && (creation !== null || expectedVersion !== version - 1)) {
    return false;
  }
  return fitsEvent(command, record);
}

function fitsEvent({ body, proposedId }: Command, record: CommandRecord): boolean {
  const { event, wallet, creation, isHoldFinal } = record;
  const { decimalPlaces } = wallet;
  switch (body.type) {
    case "create": {
      const { ownerId, currency, initialBalance: amount } = body;
      return (
        creation !== null &&
        creation.isIdProposed === proposedId &&
        isSameJson(body.metadata, creation.metadata) &&
        ownerId === wallet.ownerId &&
        currency === wallet.currency &&
        (amount === null
          ? event.type === "WalletCreated"
          : event.type === "WalletCredited" &&
            event.kind === "CREDIT" &&
            isAmount(amount, event.amountMinor, decimalPlaces))
      );
    }
    case "credit":
      return (
        event.type === "WalletCredited" &&
        event.kind === body.kind &&
        isAmount(body.amount, event.amountMinor, decimalPlaces) &&
        (body.of === undefined ? creation === null : isOf(body.of, wallet))
      );
    case "debit":
      return (
        event.type === "WalletDebited" &&
        event.kind === body.kind &&
        isAmount(body.amount, event.amountMinor, decimalPlaces) &&
        (body.of === undefined || isOf(body.of, wallet))
      );
    case "transfer":
      return (
        event.type === "TransferSent" &&
        event.hold === undefined &&
        event.counterpartyId === body.toWalletId &&
        isAmount(body.amount, event.amountMinor, decimalPlaces)
      );
    case "hold":
      return event.type === "HoldPlaced" && fitsHold(body, event.hold, decimalPlaces);
    case "capture":
      if (body.to === null) {
        return event.type === "HoldCaptured" && fitsCapture(body, event, decimalPlaces);
      }
      return (
        event.type === "TransferSent" &&
        event.counterpartyId === body.to.walletId &&
        isHoldFinal === body.final &&
        fitsTaking(body, event, decimalPlaces)
      );
    case "release":
      return event.type === "HoldReleased" && event.hold.holdId === body.holdId;
    case "update":
      // The event has what the patch made of the metadata: a patch that would change it is another.
      return (
        event.type === "WalletMetadataChanged" &&
        isSameJson(mergedMetadata(event.metadata, body.patch), event.metadata)
      );
    case "suspend":
      return event.type === "WalletSuspended";
    case "activate":
      return event.type === "WalletActivated";
    case "close":
      return event.type === "WalletClosed";
    default:
      return body satisfies never;
  }
}

type Placing = Extract<WalletCommand, { type: "hold" }>;
type Capture = Extract<WalletCommand, { type: "capture" }>;
type Captured = Extract<WalletEvent, { type: "HoldCaptured" }>;

function fitsHold(
  { amount, kind, reference, description, expiresAtMs, expiresInSeconds }: Placing,
  hold: Hold,
  decimalPlaces: number,
): boolean {
  const expiry =
    expiresInSeconds === null ? expiresAtMs : hold.createdAtMs + expiresInSeconds * 1_000;
  return (
    isAmount(amount, hold.amountMinor, decimalPlaces) &&
    hold.kind === kind &&
    hold.reference === reference &&
    hold.description === description &&
    hold.expiresAtMs === expiry
  );
}

function fitsCapture(body: Capture, event: Captured, decimalPlaces: number): boolean {
  if (!fitsTaking(body, event, decimalPlaces)) return false;
  const { status, releasedAtMs } = event.hold;
  // A final one has ended the hold also where nothing was left; former versions did not write that.
  return body.final ? status !== "ACTIVE" : releasedAtMs === null;
}

/** The amount is of this hold; without one it was all that there was left. */
function fitsTaking(
  { holdId, amount }: Capture,
  { hold, amountMinor }: { readonly hold?: Hold; readonly amountMinor: AmountMinor },
  decimalPlaces: number,
): boolean {
  if (hold?.holdId !== holdId) return false;
  if (amount !== null) return isAmount(amount, amountMinor, decimalPlaces);
  return hold.capturedMinor === hold.amountMinor;
}

function isAmount(amount: string, minor: AmountMinor, decimalPlaces: number): boolean {
  const parsed = toMinor(amount, decimalPlaces);
  return parsed.ok && parsed.minor === minor;
}

function isOf(
  { ownerId, currency }: { readonly ownerId: string; readonly currency: string },
  wallet: CommandRecord["wallet"],
): boolean {
  return ownerId === wallet.ownerId && currency === wallet.currency;
}

/** Metadata, however it is spelled. */
function isSameJson(one: string | null, other: string | null): boolean {
  if (one === other) return true;
  if (one === null || other === null) return false;
  return canonicalJson(JSON.parse(one)) === canonicalJson(JSON.parse(other));
}

/**
 * Whether a command with this input may have been told that. A rejection keeps less of the input
 * than an event; but nothing has happened, and that is what it says.
 */
export function mayHaveBeenTold(command: Command, no: Rejection): boolean {
  const { body, walletId, expectedVersion } = command;
  // Of its own wallet, or its payee's.
  if ("walletId" in no && no.walletId !== walletId && no.walletId !== payeeOf(body)) return false;
  const amount =
    body.type === "create" ? body.initialBalance : "amount" in body ? body.amount : null;
  const isThat = (minor: AmountMinor, decimalPlaces: number): boolean =>
    amount !== null && isAmount(amount, minor, decimalPlaces);
  const { type } = body;
  switch (no.code) {
    case "wallet_not_found":
      return type !== "create" || expectedVersion !== null;
    case "wallet_already_exists":
      return type === "create";
    case "version_conflict":
      return expectedVersion === no.expectedVersion;
    case "wallet_not_active":
      return type !== "create";
    case "wallet_not_empty":
      return type === "close";
    case "hold_not_found":
    case "hold_not_active":
      return (type === "capture" || type === "release") && body.holdId === no.holdId;
    case "capture_exceeds_hold":
      return (
        type === "capture" &&
        body.holdId === no.holdId &&
        isThat(no.requestedMinor, no.decimalPlaces)
      );
    case "invalid_expiry":
      return type === "hold" && (body.expiresAtMs === null || body.expiresAtMs === no.expiresAtMs);
    case "too_many_holds":
      return type === "hold";
    case "metadata_too_large":
      return type === "update";
    case "invalid_amount":
      return amount === no.amount;
    case "amount_out_of_range":
      // Of a capture without one it is what was left of the hold.
      return amount !== null || type === "capture";
    case "same_wallet":
    case "currency_mismatch":
      return payeeOf(body) !== null || ("of" in body && body.of !== undefined);
    case "owner_mismatch":
      return "of" in body && body.of?.ownerId === no.expectedOwnerId;
    case "insufficient_funds":
      return (
        (type === "debit" || type === "transfer" || type === "hold") &&
        isThat(no.requestedMinor, no.decimalPlaces)
      );
    // Of the gateway, and on no record.
    case "asset_not_found":
    case "idempotency_conflict":
      return true;
    default:
      return no satisfies never;
  }
}
