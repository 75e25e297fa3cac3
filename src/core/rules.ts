/**
 * The rules of a wallet, one by one. Each looks at the state and at what is asked, and is null, or
 * the amount, or the rejection with all that its message needs. Which of them are asked, and in
 * which order, is up to `decide` (`wallet.ts`, which has the precedence) and to the decisions on
 * holds (`holding.ts`). Pure.
 */
import { formatAmount, inRange, toMinor, type AmountMinor } from "./amount.ts";
import { LIMITS } from "../limits.ts";
import { metadataBytes } from "./metadata.ts";
import type { Rejection } from "./rejection.ts";
import type { Decision, UserWallet, WalletEvent, WalletState } from "./wallet-types.ts";

export function no(rejection: Rejection): Decision {
  return { ok: false, rejection };
}

export function yes(...events: WalletEvent[]): Decision {
  return { ok: true, events };
}

/** What a caller may still spend, in minor units. */
export function availableMinor(state: WalletState): AmountMinor {
  return (state.balanceMinor - state.heldMinor) as AmountMinor;
}

export function notActive(state: WalletState): Rejection {
  return { code: "wallet_not_active", walletId: state.walletId, status: state.status };
}

export function checkIdentity(state: WalletState, of: UserWallet): Rejection | null {
  const { walletId, ownerId, currency } = state;
  if (ownerId !== of.ownerId) {
    return { code: "owner_mismatch", walletId, ownerId, expectedOwnerId: of.ownerId };
  }
  if (currency === of.currency) return null;
  return { code: "currency_mismatch", walletId, currency, expectedCurrency: of.currency };
}

export function checkActive(state: WalletState): Rejection | null {
  return state.status === "ACTIVE" ? null : notActive(state);
}

export function amountFor(
  wallet: Pick<WalletState, "walletId" | "currency" | "decimalPlaces">,
  amount: string,
): AmountMinor | Rejection {
  const { walletId, currency, decimalPlaces } = wallet;
  const parsed = toMinor(amount, decimalPlaces);
  if (parsed.ok) return parsed.minor;
  return parsed.problem === "invalid_amount"
    ? { code: "invalid_amount", amount, currency, decimalPlaces }
    : { code: "amount_out_of_range", amount, currency, walletId };
}

/** The amount of money that leaves: active, fits the asset, and is available. */
export function amountOut(state: WalletState, amount: string): AmountMinor | Rejection {
  const problem = checkActive(state);
  if (problem !== null) return problem;
  const requestedMinor = amountFor(state, amount);
  if (typeof requestedMinor !== "number") return requestedMinor;
  return checkAvailable(state, requestedMinor) ?? requestedMinor;
}

export function checkAvailable(state: WalletState, requestedMinor: AmountMinor): Rejection | null {
  const available = availableMinor(state);
  if (requestedMinor <= available) return null;
  const { walletId, currency, decimalPlaces } = state;
  return {
    code: "insufficient_funds",
    walletId,
    availableMinor: available,
    requestedMinor,
    currency,
    decimalPlaces,
  };
}

/**
 * Room for more money. What may still come back from pending transfers counts too: a return is
 * always taken.
 */
export function checkRoom(
  state: WalletState,
  amount: AmountMinor,
  pendingOutMinor: AmountMinor,
): Rejection | null {
  if (inRange(state.balanceMinor + pendingOutMinor + amount)) return null;
  const { walletId, currency, decimalPlaces } = state;
  return {
    code: "amount_out_of_range",
    amount: formatAmount(amount, decimalPlaces),
    currency,
    walletId,
  };
}

/** `pendingMinor`: what may still come back from transfers under way, and would find no wallet. */
export function checkEmpty(state: WalletState, pendingMinor: AmountMinor): Rejection | null {
  const { walletId, balanceMinor, heldMinor, currency, decimalPlaces } = state;
  if (balanceMinor === 0 && heldMinor === 0 && pendingMinor === 0) return null;
  const content = { balanceMinor, heldMinor, pendingMinor, currency, decimalPlaces };
  return { code: "wallet_not_empty", walletId, ...content };
}

export function checkMetadata(walletId: string, metadata: string): Rejection | null {
  const bytes = metadataBytes(metadata);
  const bytesMax = LIMITS.metadataBytesMax;
  return bytes <= bytesMax ? null : { code: "metadata_too_large", walletId, bytes, bytesMax };
}
