/**
 * The wallet: what a command may do to it and what an event did to it. `decide` says yes (events)
 * or no (a rejection), `apply` folds one event into the state; both are pure, with the time as
 * data, so that the actor, the simulator and a full replay agree on every bit. What money touches
 * outside the wallet is named by an account (`system:world`, `system:transit`), never held here.
 *
 *     (none) --WalletCreated--> ACTIVE <--WalletActivated/WalletSuspended--> SUSPENDED
 *                                 |                                            |
 *                                 +---------------WalletClosed-----------------+--> CLOSED (final)
 *
 * ACTIVE: money moves. SUSPENDED: no money in or out, except a transfer that comes back; metadata
 * may change, holds may be released and expire, and what has left already arrives. CLOSED: balance
 * and held are 0, nothing of its own is in transit, and nothing happens to it any more.
 *
 * `activate` says how the wallet shall be: on an active one it is recorded and changes nothing.
 * `suspend` has a reason, and one `activate` ends it: whoever comes second must hear that the
 * wallet is suspended already, so it is refused there. A change of metadata (a merge patch,
 * `metadata.ts`) that changes nothing is recorded too.
 *
 * Rejections, in order of precedence; the first that holds is the answer:
 *   1. same_wallet            payer and payee are one (before any state is looked at)
 *   2. wallet_not_found, wallet_already_exists; and owner_mismatch, currency_mismatch: the wallet
 *      under this id is not the one that is meant
 *   3. version_conflict       `expectedVersion` is not the wallet's version
 *   4. wallet_not_active      money moves, `hold`, `capture` and `suspend` need ACTIVE; `release`,
 *                             `activate`, `close` and `update` anything but CLOSED
 *   5. hold_not_found         the wallet has no such hold
 *   6. hold_not_active        the hold has ended, or its time is over
 *   7. invalid_amount, amount_out_of_range   the amount does not fit the wallet's asset
 *   8. capture_exceeds_hold   more than is left of the hold
 *   9. invalid_expiry         a hold that would have expired before it began
 *  10. insufficient_funds     more than available (balance - held)
 *  11. too_many_holds         the wallet has as many active holds as it may have
 *  12. amount_out_of_range    the balance would leave the range
 *  13. wallet_not_empty       close with a balance, holds or pending transfers out of the wallet
 *  14. metadata_too_large     what the change would make of the metadata
 * `rules.ts` has each of them, `holding.ts` asks those of holds. For a transfer that is the payer's
 * list; then come the payee's rules: wallet_not_found, wallet_not_active, currency_mismatch,
 * amount_out_of_range.
 */
import { inRange, ZERO, type AmountMinor } from "./amount.ts";
import { assertHold, moveHold, remainingMinor } from "./hold.ts";
import { decideCapture, decideHold, decideRelease } from "./holding.ts";
import { mergedMetadata } from "./metadata.ts";
import type { Rejection, WalletStatus } from "./rejection.ts";
import {
  amountFor,
  amountOut,
  checkActive,
  checkEmpty,
  checkIdentity,
  checkMetadata,
  checkRoom,
  no,
  notActive,
  yes,
} from "./rules.ts";
import type {
  Circumstances,
  CreditKind,
  Decision,
  TransferStep,
  WalletCommand,
  WalletEvent,
  WalletState,
} from "./wallet-types.ts";

export type * from "./wallet-types.ts";

/** Says yes or no to a caller's command; see the precedence above. */
export function decide(
  walletId: string,
  state: WalletState | null,
  command: WalletCommand,
  at: Circumstances,
): Decision {
  if (payeeOf(command) === walletId) return no({ code: "same_wallet", walletId });
  if (command.type === "create") return decideCreate(walletId, state, command, at);
  if (command.type === "credit" || command.type === "debit") {
    if (state === null) return decideFirstUse(walletId, command, at);
    const stranger = command.of === undefined ? null : checkIdentity(state, command.of);
    if (stranger !== null) return no(stranger);
  }
  if (state === null) return no({ code: "wallet_not_found", walletId });
  if (at.expectedVersion !== null && at.expectedVersion !== state.version) {
    const { expectedVersion } = at;
    return no({ code: "version_conflict", walletId, expectedVersion, version: state.version });
  }
  const occurredAtMs = Math.max(at.nowMs, state.updatedAtMs);
  switch (command.type) {
    case "credit": {
      const problem = checkActive(state);
      if (problem !== null) return no(problem);
      const amount = amountFor(state, command.amount);
      if (typeof amount !== "number") return no(amount);
      const tooLarge = checkRoom(state, amount, at.pendingOutMinor);
      if (tooLarge !== null) return no(tooLarge);
      return yes({ type: "WalletCredited", amountMinor: amount, kind: command.kind, occurredAtMs });
    }
    case "debit": {
      const amount = amountOut(state, command.amount);
      if (typeof amount !== "number") return no(amount);
      const debited = { type: "WalletDebited", amountMinor: amount, occurredAtMs } as const;
      return yes(command.kind === undefined ? debited : { ...debited, kind: command.kind });
    }
    case "transfer": {
      const amountMinor = amountOut(state, command.amount);
      if (typeof amountMinor !== "number") return no(amountMinor);
      const { transferId, toWalletId: counterpartyId } = command;
      return yes({ type: "TransferSent", amountMinor, transferId, counterpartyId, occurredAtMs });
    }
    case "hold":
      return decideHold(state, command, at, occurredAtMs);
    case "capture":
      return decideCapture(state, command, at, occurredAtMs);
    case "release":
      return decideRelease(state, command, at, occurredAtMs);
    case "update": {
      if (state.status === "CLOSED") return no(notActive(state));
      const metadata = mergedMetadata(state.metadata, command.patch);
      const tooLarge = checkMetadata(walletId, metadata);
      if (tooLarge !== null) return no(tooLarge);
      return yes({ type: "WalletMetadataChanged", metadata, occurredAtMs });
    }
    case "suspend":
      if (state.status !== "ACTIVE") return no(notActive(state));
      return yes({ type: "WalletSuspended", occurredAtMs });
    case "activate":
      if (state.status === "CLOSED") return no(notActive(state));
      return yes({ type: "WalletActivated", occurredAtMs });
    case "close": {
      if (state.status === "CLOSED") return no(notActive(state));
      const notEmpty = checkEmpty(state, at.pendingOutMinor);
      if (notEmpty !== null) return no(notEmpty);
      return yes({ type: "WalletClosed", occurredAtMs });
    }
    default:
      return command satisfies never;
  }
}

function decideCreate(
  walletId: string,
  state: WalletState | null,
  command: Extract<WalletCommand, { type: "create" }>,
  at: Circumstances,
  kind: CreditKind = "CREDIT",
): Decision {
  if (state !== null) return no({ code: "wallet_already_exists", walletId });
  if (at.expectedVersion !== null) return no({ code: "wallet_not_found", walletId });
  const { ownerId, currency, decimalPlaces, metadata } = command;
  const occurredAtMs = at.nowMs;
  const created: WalletEvent = {
    type: "WalletCreated",
    ownerId,
    currency,
    decimalPlaces,
    metadata,
    occurredAtMs,
  };
  if (command.initialBalance === null) return yes(created);
  const amount = amountFor({ walletId, currency, decimalPlaces }, command.initialBalance);
  if (typeof amount !== "number") return no(amount);
  return yes(created, {
    type: "WalletCredited",
    amountMinor: amount,
    kind,
    occurredAtMs,
  });
}

/**
 * Money for a wallet that is not there: a credit that says whose it is makes it, in the same
 * breath.
 */
function decideFirstUse(
  walletId: string,
  command: Extract<WalletCommand, { type: "credit" | "debit" }>,
  at: Circumstances,
): Decision {
  if (command.type === "debit" || command.of === undefined) {
    return no({ code: "wallet_not_found", walletId });
  }
  const { amount: initialBalance, kind, of } = command;
  const { ownerId, currency, decimalPlaces } = of;
  const identity = { ownerId, currency, decimalPlaces, metadata: "{}" };
  return decideCreate(walletId, null, { type: "create", ...identity, initialBalance }, at, kind);
}

/** Whom the command would pay; null when nobody. */
export function payeeOf(command: WalletCommand): string | null {
  if (command.type === "transfer") return command.toWalletId;
  return command.type === "capture" && command.to !== null ? command.to.walletId : null;
}

/**
 * Would this wallet take the transfer? The payee's rules, asked before money leaves the payer
 * (binding nobody) and again when it arrives (final). Null is yes.
 */
export function checkReceive(
  walletId: string,
  state: WalletState | null,
  step: Extract<TransferStep, { type: "receive" }>,
  pendingOutMinor: AmountMinor,
): Rejection | null {
  if (state === null) return { code: "wallet_not_found", walletId };
  if (state.status !== "ACTIVE") return notActive(state);
  if (state.currency !== step.currency || state.decimalPlaces !== step.decimalPlaces) {
    const { currency } = state;
    return { code: "currency_mismatch", walletId, currency, expectedCurrency: step.currency };
  }
  return checkRoom(state, step.amountMinor, pendingOutMinor);
}

/**
 * The event of a transfer step that the protocol has settled on; a return is always taken, also by
 * a suspended payer.
 */
export function transferEvent(
  state: WalletState,
  step: TransferStep,
  nowMs: number,
): Extract<WalletEvent, { transferId: string }> {
  const { transferId, amountMinor } = step;
  const occurredAtMs = Math.max(nowMs, state.updatedAtMs);
  return step.type === "receive"
    ? {
        type: "TransferReceived",
        transferId,
        amountMinor,
        counterpartyId: step.fromWalletId,
        occurredAtMs,
      }
    : {
        type: "TransferReturned",
        transferId,
        amountMinor,
        counterpartyId: step.toWalletId,
        ...(step.hold !== null && {
          hold: moveHold(step.hold, { type: "returned", amountMinor }, occurredAtMs),
        }),
        occurredAtMs,
      };
}

/**
 * Folds one event. An event that breaks an invariant is a programmer error and throws: the lane
 * must not go on.
 */
export function apply(
  walletId: string,
  state: WalletState | null,
  event: WalletEvent,
): WalletState {
  if (event.type === "WalletCreated") {
    if (state !== null) throw new Error(`wallet ${walletId} was created twice`);
    return {
      walletId,
      ownerId: event.ownerId,
      currency: event.currency,
      decimalPlaces: event.decimalPlaces,
      balanceMinor: ZERO,
      heldMinor: ZERO,
      status: "ACTIVE",
      version: 0,
      metadata: event.metadata,
      createdAtMs: event.occurredAtMs,
      updatedAtMs: event.occurredAtMs,
    };
  }
  if (state === null) throw new Error(`wallet ${walletId} does not begin with WalletCreated`);
  if (state.status === "CLOSED") throw new Error(`wallet ${walletId} is closed for ever`);
  if (event.occurredAtMs < state.updatedAtMs) {
    throw new Error(`the clock of wallet ${walletId} went back`);
  }
  switch (event.type) {
    case "WalletCredited":
      return moved(state, event.amountMinor, 0, event.occurredAtMs);
    case "WalletDebited":
      return moved(state, -event.amountMinor, 0, event.occurredAtMs);
    case "TransferSent":
    case "TransferReceived":
    case "TransferReturned":
    case "HoldPlaced":
    case "HoldCaptured":
    case "HoldReleased":
    case "HoldExpired":
      return movedHeld(state, event);
    case "WalletMetadataChanged": {
      const { metadata, occurredAtMs: updatedAtMs } = event;
      return { ...state, metadata, version: state.version + 1, updatedAtMs };
    }
    case "WalletSuspended":
      return turned(state, "SUSPENDED", event.occurredAtMs);
    case "WalletActivated":
      return turned(state, "ACTIVE", event.occurredAtMs);
    case "WalletClosed":
      if (state.balanceMinor !== 0) throw new Error(`wallet ${walletId} is closed with money`);
      return turned(state, "CLOSED", event.occurredAtMs);
    default:
      return event satisfies never;
  }
}

/** What may touch holds: events of their own, and transfers that have captured from one. */
function movedHeld(
  state: WalletState,
  event: Extract<WalletEvent, { type: `Hold${string}` } | { transferId: string }>,
): WalletState {
  const { hold, occurredAtMs } = event;
  if (hold !== undefined) assertHold(hold);
  switch (event.type) {
    case "TransferReceived":
      return moved(state, event.amountMinor, 0, occurredAtMs);
    case "TransferSent": {
      const delta = -event.amountMinor;
      return moved(state, delta, hold === undefined ? 0 : delta, occurredAtMs);
    }
    case "TransferReturned": {
      const delta = event.amountMinor;
      return moved(state, delta, hold?.status === "ACTIVE" ? delta : 0, occurredAtMs);
    }
    case "HoldPlaced":
      return moved(state, 0, remainingMinor(event.hold), occurredAtMs);
    case "HoldCaptured": {
      const { amountMinor, releasedMinor } = event;
      return moved(state, -amountMinor, -(amountMinor + releasedMinor), occurredAtMs);
    }
    case "HoldReleased":
    case "HoldExpired":
      return moved(state, 0, -event.releasedMinor, occurredAtMs);
    default:
      return event satisfies never;
  }
}

function moved(
  state: WalletState,
  deltaMinor: number,
  heldDeltaMinor: number,
  occurredAtMs: number,
): WalletState {
  const balanceMinor = state.balanceMinor + deltaMinor;
  const heldMinor = state.heldMinor + heldDeltaMinor;
  if (!inRange(balanceMinor) || !inRange(heldMinor) || heldMinor < 0 || balanceMinor < heldMinor) {
    throw new Error(
      `wallet ${state.walletId} would have balance ${balanceMinor} and ${heldMinor} held`,
    );
  }
  // Written out, not spread: this is the hottest allocation of a lane, and one shape keeps it
  // monomorphic.
  return {
    walletId: state.walletId,
    ownerId: state.ownerId,
    currency: state.currency,
    decimalPlaces: state.decimalPlaces,
    balanceMinor,
    heldMinor,
    status: state.status,
    version: state.version + 1,
    metadata: state.metadata,
    createdAtMs: state.createdAtMs,
    updatedAtMs: occurredAtMs,
  };
}

function turned(state: WalletState, status: WalletStatus, occurredAtMs: number): WalletState {
  return { ...state, status, version: state.version + 1, updatedAtMs: occurredAtMs };
}
