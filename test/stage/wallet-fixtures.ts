/**
 * What the wallet's tests are made of: a wallet, the commands in short, and the rejections with all
 * that they name.
 */
import { AMOUNT_MINOR_BOUND, amountMinor } from "../../src/core/amount.ts";
import type { Hold } from "../../src/core/hold.ts";
import { LIMITS } from "../../src/limits.ts";
import {
  describe as sentenceOf,
  type Rejection,
  type WalletStatus,
} from "../../src/core/rejection.ts";
import type { Transfer } from "../../src/core/transfer.ts";
import {
  apply,
  decide,
  type Circumstances,
  type TransferStep,
  type WalletCommand,
  type WalletState,
} from "../../src/core/wallet.ts";

export type Receive = Extract<TransferStep, { type: "receive" }>;

export const NOW_MS = 2_000;
export const FULL = AMOUNT_MINOR_BOUND - 1;

interface Given {
  balance?: number;
  held?: number;
  status?: WalletStatus;
  currency?: string;
  decimalPlaces?: number;
  version?: number;
  metadata?: string;
  updatedAtMs?: number;
}

/**
 * Wallet w1 with 10.00 USD at version 4, unless said otherwise. Frozen: a test that changes its
 * input fails.
 */
export function wallet(given: Given = {}): WalletState {
  return Object.freeze({
    walletId: "w1",
    ownerId: "alice",
    currency: given.currency ?? "USD",
    decimalPlaces: given.decimalPlaces ?? 2,
    balanceMinor: amountMinor(given.balance ?? 10_00),
    heldMinor: amountMinor(given.held ?? 0),
    status: given.status ?? "ACTIVE",
    version: given.version ?? 4,
    metadata: given.metadata ?? "{}",
    createdAtMs: 1_000,
    updatedAtMs: given.updatedAtMs ?? 1_500,
  });
}

/** Hold h1 of w1 over 5.00 USD, of which 4.00 are captured, unless said otherwise. */
export function hold(given: Partial<Hold> = {}): Hold {
  return Object.freeze({
    holdId: "h1",
    walletId: "w1",
    amountMinor: amountMinor(5_00),
    capturedMinor: amountMinor(4_00),
    status: "ACTIVE",
    kind: "PAYMENT",
    reference: null,
    description: null,
    expiresAtMs: null,
    createdAtMs: 1_000,
    capturedAtMs: null,
    releasedAtMs: null,
    ...given,
  });
}

/** The record of t1, by which version 4 of w1 paid 4.00 USD to version 9 of w2. */
export const POSTED: Transfer = Object.freeze({
  transferId: "t1",
  fromWalletId: "w1",
  toWalletId: "w2",
  amountMinor: amountMinor(4_00),
  currency: "USD",
  decimalPlaces: 2,
  status: "posted",
  fromVersion: 4,
  toVersion: 9,
  rejection: null,
  commandId: "key-1",
  correlationId: "order-1",
  description: null,
  createdAtMs: 1_000,
  settledAtMs: 1_000,
  holdId: null,
  isHoldFinal: false,
});

export function at(over: { expectedVersion?: number; pendingOut?: number; nowMs?: number } = {}) {
  return {
    nowMs: over.nowMs ?? NOW_MS,
    expectedVersion: over.expectedVersion ?? null,
    pendingOutMinor: amountMinor(over.pendingOut ?? 0),
  } satisfies Circumstances;
}

export const create = (initialBalance: string | null = null): WalletCommand => ({
  type: "create",
  ownerId: "alice",
  currency: "USD",
  decimalPlaces: 2,
  initialBalance,
  metadata: '{"tier":"gold"}',
});
export const credit = (amount: string): WalletCommand => ({
  type: "credit",
  amount,
  kind: "CREDIT",
});
export const debit = (amount: string): WalletCommand => ({ type: "debit", amount });
export const transfer = (amount: string, toWalletId = "w2"): WalletCommand => ({
  type: "transfer",
  transferId: "t1",
  toWalletId,
  amount,
});
export const suspend: WalletCommand = { type: "suspend" };
export const activate: WalletCommand = { type: "activate" };
export const close: WalletCommand = { type: "close" };
export const update = (patch: object): WalletCommand => ({
  type: "update",
  patch: JSON.stringify(patch),
});
export const receive = (amount: number, over: Partial<Receive> = {}): Receive => ({
  type: "receive",
  transferId: "t1",
  fromWalletId: "w0",
  amountMinor: amountMinor(amount),
  currency: "USD",
  decimalPlaces: 2,
  ...over,
});
export const giveBack = (amount: number): TransferStep => ({
  type: "return",
  transferId: "t1",
  toWalletId: "w2",
  amountMinor: amountMinor(amount),
  hold: null,
});

/** The events of a command that must be accepted, and the wallet after them. */
export function accept(state: WalletState | null, command: WalletCommand, when = at()) {
  const decision = decide("w1", state, command, when);
  if (!decision.ok) throw new Error(`rejected: ${sentenceOf(decision.rejection)}`);
  let after = state;
  for (const event of decision.events) after = apply("w1", after, Object.freeze(event));
  return { events: decision.events, after: after! };
}

export const notActive = (status: WalletStatus): Rejection => ({
  code: "wallet_not_active",
  walletId: "w1",
  status,
});
export const outOfRange = (amount: string): Rejection => ({
  code: "amount_out_of_range",
  amount,
  currency: "USD",
  walletId: "w1",
});
export const invalid = (amount: string, currency = "USD", decimalPlaces = 2): Rejection => ({
  code: "invalid_amount",
  amount,
  currency,
  decimalPlaces,
});
export const insufficient = (available: number, requested: number): Rejection => ({
  code: "insufficient_funds",
  walletId: "w1",
  availableMinor: amountMinor(available),
  requestedMinor: amountMinor(requested),
  currency: "USD",
  decimalPlaces: 2,
});
export const notEmpty = (
  balance: number,
  held: number,
  pending: number,
): Extract<Rejection, { code: "wallet_not_empty" }> => ({
  code: "wallet_not_empty",
  walletId: "w1",
  balanceMinor: amountMinor(balance),
  heldMinor: amountMinor(held),
  pendingMinor: amountMinor(pending),
  currency: "USD",
  decimalPlaces: 2,
});
export const tooLarge = (bytes: number): Rejection => ({
  code: "metadata_too_large",
  walletId: "w1",
  bytes,
  bytesMax: LIMITS.metadataBytesMax,
});
export const sameWallet: Rejection = { code: "same_wallet", walletId: "w1" };
export const notFound: Rejection = { code: "wallet_not_found", walletId: "w1" };
export const exists: Rejection = { code: "wallet_already_exists", walletId: "w1" };
export const conflict = (expectedVersion: number, version: number): Rejection => ({
  code: "version_conflict",
  walletId: "w1",
  expectedVersion,
  version,
});
export const suspended = wallet({ status: "SUSPENDED" });

export type Case = [
  why: string,
  state: WalletState | null,
  command: WalletCommand,
  when: Circumstances,
  rejection: Rejection,
];
