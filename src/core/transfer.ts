/**
 * A transfer between two wallets, as its payer's side records it. Two phases, no locks: the payer
 * reserves (its event and this record commit together), the payee decides once and for ever (its
 * verdict commits with its event), the payer settles. Until then the money is in `system:transit`.
 * The idea is two-phase commit with the payee's durable verdict in the place of a vote, as in Gray
 * & Lamport, "Consensus on Transaction Commit" (2006), section 2. Pure.
 *
 *     (asked) --reserve: TransferSent--> pending --verdict posted---> posted
 *                                           \-----verdict refused--> returned
 *
 * pending: the amount is in transit and this record is driven until a verdict is known. posted: the
 * payee has the money. returned: the payer has it back (`TransferReturned`). Both are final.
 */
import type { AmountMinor } from "./amount.ts";
import { LIMITS } from "../limits.ts";
import type { Rejection } from "./rejection.ts";

export type TransferStatus = "pending" | "posted" | "returned";

export interface Transfer {
  readonly transferId: string;
  readonly fromWalletId: string;
  readonly toWalletId: string;
  readonly amountMinor: AmountMinor;
  readonly currency: string;
  readonly decimalPlaces: number;
  readonly status: TransferStatus;
  /** Version of the payer that `TransferSent` made. */
  readonly fromVersion: number;
  /** Version of the payee that `TransferReceived` made; null unless posted. */
  readonly toVersion: number | null;
  /** Why the payee refused; null unless returned. */
  readonly rejection: Rejection | null;
  readonly commandId: string;
  readonly correlationId: string;
  readonly description: string | null;
  readonly createdAtMs: number;
  readonly settledAtMs: number | null;
  /** The payer's hold that it has captured; null for a transfer of another kind. */
  readonly holdId: string | null;
  /** Whether the rest of the hold is let go once it is posted. */
  readonly isHoldFinal: boolean;
}

/** The payee's final word on a transfer id. The first one stands; every later ask gets it again. */
export type Verdict =
  | { readonly type: "posted"; readonly toVersion: number }
  | { readonly type: "refused"; readonly rejection: Rejection };

/**
 * Moves a pending transfer to its end. Settling one that is not pending is a programmer error and
 * throws.
 */
export function settle(transfer: Transfer, verdict: Verdict, nowMs: number): Transfer {
  if (transfer.status !== "pending") {
    throw new Error(`transfer ${transfer.transferId} is ${transfer.status} already`);
  }
  const settledAtMs = Math.max(nowMs, transfer.createdAtMs);
  return verdict.type === "posted"
    ? { ...transfer, status: "posted", toVersion: verdict.toVersion, settledAtMs }
    : { ...transfer, status: "returned", rejection: verdict.rejection, settledAtMs };
}

/**
 * Pause in milliseconds before attempt n + 1 (n >= 1) to get the verdict of a pending transfer:
 * doubling, up to a bound.
 */
export function drivePauseMs(attempts: number): number {
  const doubled = LIMITS.transferDriveMs * 2 ** Math.min(attempts - 1, 20);
  return Math.min(doubled, LIMITS.transferDriveMsMax);
}
