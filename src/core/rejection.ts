/**
 * Business answers of "no". A rejection is a value, never thrown: nothing happened, and it says
 * why. It is stored as its code and details, so that a repeat gets the same answer, and its
 * sentence is made here, so that HTTP and NATS say the same words. Pure.
 */
import { formatAmount, type AmountMinor } from "./amount.ts";
import type { HoldStatus } from "./hold.ts";

export type WalletStatus = "ACTIVE" | "SUSPENDED" | "CLOSED";

export type Rejection =
  | { code: "wallet_not_found"; walletId: string }
  | { code: "wallet_already_exists"; walletId: string }
  | { code: "version_conflict"; walletId: string; expectedVersion: number; version: number }
  | { code: "wallet_not_active"; walletId: string; status: WalletStatus }
  | {
      code: "wallet_not_empty";
      walletId: string;
      balanceMinor: AmountMinor;
      /** Part of the balance. */
      heldMinor: AmountMinor;
      /** Of transfers out of the wallet that are under way: it may come back. */
      pendingMinor: AmountMinor;
      currency: string;
      decimalPlaces: number;
    }
  | { code: "hold_not_found"; walletId: string; holdId: string }
  | { code: "hold_not_active"; walletId: string; holdId: string; status: HoldStatus }
  | {
      code: "capture_exceeds_hold";
      walletId: string;
      holdId: string;
      remainingMinor: AmountMinor;
      requestedMinor: AmountMinor;
      currency: string;
      decimalPlaces: number;
    }
  /** `nowMs` is the wallet's clock. */
  | { code: "invalid_expiry"; walletId: string; expiresAtMs: number; nowMs: number }
  | { code: "too_many_holds"; walletId: string; holdsMax: number }
  | { code: "metadata_too_large"; walletId: string; bytes: number; bytesMax: number }
  | { code: "invalid_amount"; amount: string; currency: string; decimalPlaces: number }
  | { code: "amount_out_of_range"; amount: string; currency: string; walletId: string }
  | { code: "same_wallet"; walletId: string }
  | { code: "currency_mismatch"; walletId: string; currency: string; expectedCurrency: string }
  | { code: "owner_mismatch"; walletId: string; ownerId: string | null; expectedOwnerId: string }
  | { code: "asset_not_found"; currency: string }
  | {
      code: "insufficient_funds";
      walletId: string;
      availableMinor: AmountMinor;
      requestedMinor: AmountMinor;
      currency: string;
      decimalPlaces: number;
    }
  | { code: "idempotency_conflict"; commandId: string };

export type RejectionCode = Rejection["code"];

/** The sentence a person reads. */
export function describe(rejection: Rejection): string {
  switch (rejection.code) {
    case "wallet_not_found":
      return `Wallet ${rejection.walletId} does not exist`;
    case "wallet_already_exists":
      return `Wallet ${rejection.walletId} exists already`;
    case "version_conflict":
      return `Wallet ${rejection.walletId} is at version ${rejection.version}, expected ${rejection.expectedVersion}`;
    case "wallet_not_active":
      return `Wallet ${rejection.walletId} is ${rejection.status.toLowerCase()}, not active`;
    case "wallet_not_empty":
      return `Wallet ${rejection.walletId} cannot be closed: it has ${contentOf(rejection)}`;
    case "hold_not_found":
      return `Wallet ${rejection.walletId} has no hold ${rejection.holdId}`;
    case "hold_not_active":
      return `Hold ${rejection.holdId} of wallet ${rejection.walletId} is ${rejection.status.toLowerCase()}, not active`;
    case "capture_exceeds_hold": {
      const { walletId, holdId } = rejection;
      const remaining = money(rejection.remainingMinor, rejection);
      const requested = money(rejection.requestedMinor, rejection);
      return `Hold ${holdId} of wallet ${walletId} has ${remaining} left, requested ${requested}`;
    }
    case "invalid_expiry":
      return `A hold of wallet ${rejection.walletId} must expire in the future, not ${agoOf(rejection.nowMs - rejection.expiresAtMs)}`;
    case "too_many_holds":
      return `Wallet ${rejection.walletId} has ${rejection.holdsMax} active holds, as many as it may have`;
    case "metadata_too_large":
      return `The metadata of wallet ${rejection.walletId} would have ${rejection.bytes} bytes as JSON, more than ${rejection.bytesMax}`;
    case "invalid_amount":
      return `${rejection.amount} is not an amount of ${rejection.currency}, which has ${rejection.decimalPlaces} decimal places`;
    case "amount_out_of_range":
      return `${rejection.amount} ${rejection.currency} is out of range for wallet ${rejection.walletId}: amounts and balances stay under 10^15 minor units`;
    case "same_wallet":
      return `Wallet ${rejection.walletId} cannot pay itself`;
    case "currency_mismatch":
      return `Wallet ${rejection.walletId} holds ${rejection.currency}, not ${rejection.expectedCurrency}`;
    case "owner_mismatch": {
      const { walletId, ownerId, expectedOwnerId } = rejection;
      const owner = ownerId === null ? "nobody" : ownerId;
      return `Wallet ${walletId} belongs to ${owner}, not to ${expectedOwnerId}`;
    }
    case "asset_not_found":
      return `${rejection.currency} is not a known asset`;
    case "insufficient_funds": {
      const available = money(rejection.availableMinor, rejection);
      const requested = money(rejection.requestedMinor, rejection);
      return `Wallet ${rejection.walletId} has insufficient funds: available ${available}, requested ${requested}`;
    }
    case "idempotency_conflict":
      return `Idempotency key ${rejection.commandId} was used before with another input`;
    default:
      return rejection satisfies never;
  }
}

function money(minor: AmountMinor, of: { currency: string; decimalPlaces: number }): string {
  return `${formatAmount(minor, of.decimalPlaces)} ${of.currency}`;
}

const UNITS = [
  ["days", 86_400_000],
  ["hours", 3_600_000],
  ["minutes", 60_000],
] as const;

/** In the largest unit of which it is two or more; exact in seconds. */
function agoOf(ms: number): string {
  if (ms === 0) return "now";
  const found = UNITS.find(([, unitMs]) => ms >= 2 * unitMs);
  return found === undefined
    ? `${ms / 1_000} s ago`
    : `${Math.floor(ms / found[1])} ${found[0]} ago`;
}

/** What is in a wallet that is not empty, in words. */
function contentOf(rejection: Extract<Rejection, { code: "wallet_not_empty" }>): string {
  const { balanceMinor, heldMinor, pendingMinor } = rejection;
  const parts: string[] = [];
  if (balanceMinor !== 0) parts.push(`a balance of ${money(balanceMinor, rejection)}`);
  if (heldMinor !== 0) parts.push(`${money(heldMinor, rejection)} on hold`);
  if (pendingMinor !== 0) parts.push(`${money(pendingMinor, rejection)} in pending transfers`);
  return parts.join(" and ");
}
