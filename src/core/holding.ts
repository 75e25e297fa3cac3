/**
 * What a wallet says to commands about its holds, and what becomes of a hold by itself. The order
 * in which the rules are asked is the precedence of `wallet.ts`, where `decide` comes from and
 * `apply` folds what is said yes to; how one hold moves is in `hold.ts`. The time of a hold runs by
 * its wallet's clock, so that a repeat says the same and nobody has to be told that it is over.
 * Pure.
 */
import { ZERO, type AmountMinor } from "./amount.ts";
import {
  hasEnded,
  isDue,
  isWhole,
  moveHold,
  remainingMinor,
  type Hold,
  type HoldMove,
} from "./hold.ts";
import { LIMITS } from "../limits.ts";
import type { Rejection } from "./rejection.ts";
import { amountFor, checkActive, checkAvailable, no, notActive, yes } from "./rules.ts";
import type {
  Circumstances,
  Decision,
  WalletCommand,
  WalletEvent,
  WalletState,
} from "./wallet-types.ts";

export function decideHold(
  state: WalletState,
  command: Extract<WalletCommand, { type: "hold" }>,
  at: Circumstances,
  occurredAtMs: number,
): Decision {
  const problem = checkActive(state);
  if (problem !== null) return no(problem);
  const amountMinor = amountFor(state, command.amount);
  if (typeof amountMinor !== "number") return no(amountMinor);
  const { walletId } = state;
  const { holdId, kind, reference, description, expiresInSeconds } = command;
  const expiresAtMs =
    expiresInSeconds === null ? command.expiresAtMs : occurredAtMs + expiresInSeconds * 1_000;
  if (expiresAtMs !== null && expiresAtMs <= occurredAtMs) {
    return no({ code: "invalid_expiry", walletId, expiresAtMs, nowMs: occurredAtMs });
  }
  const tooMuch = checkAvailable(state, amountMinor);
  if (tooMuch !== null) return no(tooMuch);
  const holdsMax = LIMITS.holdsPerWalletMax;
  if ((at.holds?.activeCount ?? 0) >= holdsMax) {
    return no({ code: "too_many_holds", walletId, holdsMax });
  }
  const hold: Hold = {
    holdId,
    walletId,
    amountMinor,
    capturedMinor: ZERO,
    status: "ACTIVE",
    kind,
    reference,
    description,
    expiresAtMs,
    createdAtMs: occurredAtMs,
    capturedAtMs: null,
    releasedAtMs: null,
  };
  return yes({ type: "HoldPlaced", hold, occurredAtMs });
}

export function decideCapture(
  state: WalletState,
  command: Extract<WalletCommand, { type: "capture" }>,
  at: Circumstances,
  occurredAtMs: number,
): Decision {
  const problem = checkActive(state);
  if (problem !== null) return no(problem);
  const found = namedHold(state, command.holdId, at, occurredAtMs);
  if ("code" in found) return no(found);
  const leftMinor = remainingMinor(found);
  const amountMinor = command.amount === null ? leftMinor : amountFor(state, command.amount);
  if (typeof amountMinor !== "number") return no(amountMinor);
  if (amountMinor > leftMinor) {
    const { walletId, currency, decimalPlaces } = state;
    const amounts = { remainingMinor: leftMinor, requestedMinor: amountMinor };
    const asset = { currency, decimalPlaces };
    return no({
      code: "capture_exceeds_hold",
      walletId,
      holdId: found.holdId,
      ...amounts,
      ...asset,
    });
  }
  if (command.to !== null) {
    // The rest of a final one stays held until the payee has taken the money: it may still be
    // refused.
    const hold = moveHold(found, { type: "captured", amountMinor, isFinal: false }, occurredAtMs);
    const { transferId, walletId: counterpartyId } = command.to;
    const sent = { amountMinor, transferId, counterpartyId, hold };
    return yes({ type: "TransferSent", ...sent, occurredAtMs });
  }
  const isFinal = command.final;
  const hold = moveHold(found, { type: "captured", amountMinor, isFinal }, occurredAtMs);
  const releasedMinor = isFinal ? ((leftMinor - amountMinor) as AmountMinor) : ZERO;
  return yes({ type: "HoldCaptured", amountMinor, releasedMinor, hold, occurredAtMs });
}

export function decideRelease(
  state: WalletState,
  command: Extract<WalletCommand, { type: "release" }>,
  at: Circumstances,
  occurredAtMs: number,
): Decision {
  if (state.status === "CLOSED") return no(notActive(state));
  const found = namedHold(state, command.holdId, at, occurredAtMs);
  if ("code" in found) return no(found);
  return yes(endHold(found, { type: "released" }, occurredAtMs));
}

/**
 * The hold that a command names, if money of it can still move; by the wallet's clock, since nobody
 * may have written its end yet.
 */
function namedHold(
  { walletId }: WalletState,
  holdId: string,
  { holds }: Circumstances,
  atMs: number,
): Hold | Rejection {
  const hold = holds?.named ?? null;
  if (hold === null) return { code: "hold_not_found", walletId, holdId };
  const status = isDue(hold, atMs) ? "EXPIRED" : hold.status;
  return status === "ACTIVE" ? hold : { code: "hold_not_active", walletId, holdId, status };
}

function endHold(
  before: Hold,
  move: Extract<HoldMove, { type: "released" | "expired" | "completed" }>,
  occurredAtMs: number,
): WalletEvent {
  const type = move.type === "expired" ? "HoldExpired" : "HoldReleased";
  const hold = moveHold(before, move, occurredAtMs);
  return { type, releasedMinor: remainingMinor(before), hold, occurredAtMs };
}

/**
 * What happens to a hold whose time is over, by the wallet's clock; null when it is not, or when it
 * has ended.
 */
export function expiryEvent(state: WalletState, hold: Hold, nowMs: number): WalletEvent | null {
  const occurredAtMs = Math.max(nowMs, state.updatedAtMs);
  return isDue(hold, occurredAtMs) ? endHold(hold, { type: "expired" }, occurredAtMs) : null;
}

/**
 * The holds that must end before the wallet may say no for want of what they hold: of those whose
 * time is over as few as give it the amount, the largest first, or room for one more hold. None
 * where it would say no all the same. A wallet with a hold is not empty, over or not, since what is
 * held is part of its balance.
 */
export function holdsInTheWay(
  state: WalletState,
  holds: Iterable<Hold>,
  rejection: Rejection,
  nowMs: number,
): Hold[] {
  const { code } = rejection;
  if (code !== "insufficient_funds" && code !== "too_many_holds") return [];
  const atMs = Math.max(nowMs, state.updatedAtMs);
  const over: Hold[] = [];
  for (const hold of holds) if (isDue(hold, atMs)) over.push(hold);
  if (code === "too_many_holds") return over.slice(0, 1);
  const missingMinor = rejection.requestedMinor - rejection.availableMinor;
  const overMinor = over.reduce((sum, hold) => sum + remainingMinor(hold), 0);
  if (overMinor < missingMinor) return [];
  over.sort((one, other) => remainingMinor(other) - remainingMinor(one));
  let givenMinor = 0;
  const stays = over.findIndex((hold) => {
    const isEnough = givenMinor >= missingMinor;
    givenMinor += remainingMinor(hold);
    return isEnough;
  });
  return stays === -1 ? over : over.slice(0, stays);
}

/**
 * What a final capture does to the hold once its payee has the money; null when it has ended
 * meanwhile, or needs no end. Where nothing is left it releases 0, for the sake of what may come
 * back.
 */
export function completionEvent(
  state: WalletState,
  hold: Hold,
  capturedMinor: AmountMinor,
  nowMs: number,
): WalletEvent | null {
  if (hasEnded(hold) || isWhole(hold, capturedMinor)) return null;
  return endHold(hold, { type: "completed" }, Math.max(nowMs, state.updatedAtMs));
}
