/**
 * A hold: part of a wallet's balance set aside for a payment that may come, in part, at once, or
 * never. It is placed, captured (the money leaves, in one or several parts), and ends with the rest
 * available again. This file knows one hold and how it moves; when it may is in `holding.ts`, and
 * what that does to the wallet in `wallet.ts`. Pure.
 *
 *     (none) --placed--> ACTIVE --captured, nothing is left--> CAPTURED
 *                          | ^ \--captured in part--> ACTIVE      |
 *                          | \---returned------------------------/|
 *                          |                                      |
 *                          +--captured or completed: final--------+--> CAPTURED, ended
 *                          +--released------------------------------> RELEASED
 *                          +--expired-------------------------------> EXPIRED
 *
 * ACTIVE: `amount - captured` (never 0) is held. Else nothing is held. CAPTURED without an end:
 * captures have taken all, and what comes back of them (returned: one paid to a wallet that refused
 * it) goes under the hold again, as if it had not left. RELEASED, EXPIRED, CAPTURED and ended are
 * for good, as `releasedAtMs` says: what comes back then goes to the wallet.
 *
 * A final capture ends the hold whether it leaves a rest or not: to the outside at once, paid to a
 * wallet when it has arrived (completed); refused, it has never been. One of the whole amount needs
 * no end, since no other capture is left to come back. Only one that is ACTIVE can be released or
 * expire, so what returns after the hold's time makes it ACTIVE, and then it expires. Invariant:
 * the sum of what a wallet's active holds have left is its `held`.
 */
import { amountMinor, ZERO, type AmountMinor } from "./amount.ts";

export type HoldStatus = "ACTIVE" | "RELEASED" | "EXPIRED" | "CAPTURED";

/** What the caller says it is for; nothing is decided by it. The API calls it `type`. */
export type HoldKind = "PAYMENT" | "AUTHORIZATION" | "REFUND" | "ESCROW" | "OTHER";

export interface Hold {
  readonly holdId: string;
  readonly walletId: string;
  /** As it was placed, in minor units of the wallet's asset. */
  readonly amountMinor: AmountMinor;
  /** What has been captured of it, transfers under way included. */
  readonly capturedMinor: AmountMinor;
  readonly status: HoldStatus;
  readonly kind: HoldKind;
  /** The caller's own name for it. */
  readonly reference: string | null;
  readonly description: string | null;
  /** From this moment on, by its wallet's clock, it can be neither captured nor released. */
  readonly expiresAtMs: number | null;
  readonly createdAtMs: number;
  /** When it became CAPTURED. */
  readonly capturedAtMs: number | null;
  /**
   * When it ended for good, and what was left of it, if anything, became available: by a release,
   * by expiry, or by a final capture of less than the amount. Null: what comes back goes under it.
   */
  readonly releasedAtMs: number | null;
}

/** What can happen to a hold. */
export type HoldMove =
  /** The money leaves; `isFinal` ends the hold. */
  | { readonly type: "captured"; readonly amountMinor: AmountMinor; readonly isFinal: boolean }
  /** A transfer that had captured so much of it was refused by its payee. */
  | { readonly type: "returned"; readonly amountMinor: AmountMinor }
  /** The transfer of a final capture has arrived, and ends the hold. */
  | { readonly type: "completed" }
  | { readonly type: "released" }
  | { readonly type: "expired" };

/** What is still held, in minor units; never 0 while the hold is active. */
export function remainingMinor({ status, amountMinor: amount, capturedMinor }: Hold): AmountMinor {
  return status === "ACTIVE" ? amountMinor(amount - capturedMinor) : ZERO;
}

/** Whether its time is over, though nobody may have written that down yet. */
export function isDue({ status, expiresAtMs }: Hold, atMs: number): boolean {
  return status === "ACTIVE" && expiresAtMs !== null && atMs >= expiresAtMs;
}

/** Whether it is over for good: nothing comes back under it. */
export function hasEnded({ releasedAtMs }: Hold): boolean {
  return releasedAtMs !== null;
}

/** Whether the capture is all there is to capture, so that no other one can come back. */
export function isWhole({ amountMinor: amount }: Hold, capturedMinor: AmountMinor): boolean {
  return capturedMinor === amount;
}

/** Moves a hold. A move that its state does not allow is a programmer error and throws. */
export function moveHold(hold: Hold, move: HoldMove, atMs: number): Hold {
  if (move.type === "returned") return returned(hold, move.amountMinor);
  const canBe = move.type === "completed" ? !hasEnded(hold) : hold.status === "ACTIVE";
  if (!canBe) {
    throw new Error(`hold ${hold.holdId} is ${hold.status} and cannot be ${move.type}`);
  }
  switch (move.type) {
    case "captured": {
      const { amountMinor: amount, isFinal } = move;
      const left = remainingMinor(hold) - amount;
      if (left < 0) throw new Error(`hold ${hold.holdId} has not ${amount} left to capture`);
      const capturedMinor = amountMinor(hold.capturedMinor + amount);
      if (left > 0 && !isFinal) return { ...hold, capturedMinor };
      const releasedAtMs = isFinal && !isWhole(hold, amount) ? atMs : null;
      return { ...hold, capturedMinor, status: "CAPTURED", capturedAtMs: atMs, releasedAtMs };
    }
    case "completed":
      return {
        ...hold,
        status: "CAPTURED",
        capturedAtMs: hold.capturedAtMs ?? atMs,
        releasedAtMs: atMs,
      };
    case "released":
      return { ...hold, status: "RELEASED", releasedAtMs: atMs };
    case "expired":
      return { ...hold, status: "EXPIRED", releasedAtMs: atMs };
    default:
      return move satisfies never;
  }
}

function returned(hold: Hold, amount: AmountMinor): Hold {
  const left = hold.capturedMinor - amount;
  if (left < 0) throw new Error(`hold ${hold.holdId} gets back more than was captured`);
  const capturedMinor = amountMinor(left);
  if (hasEnded(hold)) return { ...hold, capturedMinor };
  return { ...hold, capturedMinor, status: "ACTIVE", capturedAtMs: null };
}

/** Throws for a hold that cannot be: every event that carries one is looked at. */
export function assertHold(hold: Hold): void {
  const { holdId, amountMinor: amount, capturedMinor, status, capturedAtMs, releasedAtMs } = hold;
  const isActive = status === "ACTIVE";
  const isCaptured = status === "CAPTURED";
  const isSound =
    amount > 0 &&
    capturedMinor >= 0 &&
    (isActive ? capturedMinor < amount : capturedMinor <= amount) &&
    isCaptured === (capturedAtMs !== null) &&
    (isActive ? releasedAtMs === null : isCaptured || releasedAtMs !== null) &&
    // Captured as a whole, or the rest was let go.
    (!isCaptured || releasedAtMs !== null || capturedMinor === amount);
  if (!isSound) throw new Error(`hold ${holdId} cannot be: ${JSON.stringify(hold)}`);
}
