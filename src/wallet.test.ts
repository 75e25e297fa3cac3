/**
 * The wallet by example: what each command does and what each event leaves behind, every rejection and which of two comes first,
 * every command in every status, and the sentences that people read. The arbitrary walks are in wallet.model.test.ts.
 */
import { describe, expect, it } from "vitest";

import { AMOUNT_MINOR_BOUND, amountMinor } from "./amount.ts";
import type { Hold } from "./hold.ts";
import { LIMITS } from "./limits.ts";
import {
  describe as sentenceOf,
  type Rejection,
  type RejectionCode,
  type WalletStatus,
} from "./rejection.ts";
import {
  apply,
  availableMinor,
  checkReceive,
  decide,
  transferEvent,
  type Circumstances,
  type TransferStep,
  type WalletCommand,
  type WalletEvent,
  type WalletState,
} from "./wallet.ts";

type Receive = Extract<TransferStep, { type: "receive" }>;

const NOW_MS = 2_000;
const FULL = AMOUNT_MINOR_BOUND - 1;

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

/** Wallet w1 with 10.00 USD at version 4, unless said otherwise. Frozen: a test that changes its input fails. */
function wallet(given: Given = {}): WalletState {
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

function at(over: { expectedVersion?: number; pendingOut?: number; nowMs?: number } = {}) {
  return {
    nowMs: over.nowMs ?? NOW_MS,
    expectedVersion: over.expectedVersion ?? null,
    pendingOutMinor: amountMinor(over.pendingOut ?? 0),
  } satisfies Circumstances;
}

const create = (initialBalance: string | null = null): WalletCommand => ({
  type: "create",
  ownerId: "alice",
  currency: "USD",
  decimalPlaces: 2,
  initialBalance,
  metadata: '{"tier":"gold"}',
});
const credit = (amount: string): WalletCommand => ({ type: "credit", amount, kind: "CREDIT" });
const debit = (amount: string): WalletCommand => ({ type: "debit", amount });
const transfer = (amount: string, toWalletId = "w2"): WalletCommand => ({
  type: "transfer",
  transferId: "t1",
  toWalletId,
  amount,
});
const suspend: WalletCommand = { type: "suspend" };
const activate: WalletCommand = { type: "activate" };
const close: WalletCommand = { type: "close" };
const update = (patch: object): WalletCommand => ({ type: "update", patch: JSON.stringify(patch) });
const receive = (amount: number, over: Partial<Receive> = {}): Receive => ({
  type: "receive",
  transferId: "t1",
  fromWalletId: "w0",
  amountMinor: amountMinor(amount),
  currency: "USD",
  decimalPlaces: 2,
  ...over,
});
const giveBack = (amount: number): TransferStep => ({
  type: "return",
  transferId: "t1",
  toWalletId: "w2",
  amountMinor: amountMinor(amount),
  hold: null,
});

/** The events of a command that must be accepted, and the wallet after them. */
function accept(state: WalletState | null, command: WalletCommand, when = at()) {
  const decision = decide("w1", state, command, when);
  if (!decision.ok) throw new Error(`rejected: ${sentenceOf(decision.rejection)}`);
  let after = state;
  for (const event of decision.events) after = apply("w1", after, Object.freeze(event));
  return { events: decision.events, after: after! };
}

describe("a command that is accepted", () => {
  it("given no wallet, when it is created, then it is active, empty and at version 0", () => {
    const { events, after } = accept(null, create());
    expect(events).toEqual([
      {
        type: "WalletCreated",
        ownerId: "alice",
        currency: "USD",
        decimalPlaces: 2,
        metadata: '{"tier":"gold"}',
        occurredAtMs: NOW_MS,
      },
    ]);
    expect(after).toEqual({
      walletId: "w1",
      ownerId: "alice",
      currency: "USD",
      decimalPlaces: 2,
      balanceMinor: 0,
      heldMinor: 0,
      status: "ACTIVE",
      version: 0,
      metadata: '{"tier":"gold"}',
      createdAtMs: NOW_MS,
      updatedAtMs: NOW_MS,
    });
  });

  it("given no wallet, when it is created with money, then WalletCreated is 0 and WalletCredited is 1", () => {
    const { events, after } = accept(null, create("25.5"));
    expect(events.map(({ type }) => type)).toEqual(["WalletCreated", "WalletCredited"]);
    expect(events[1]).toEqual({
      type: "WalletCredited",
      amountMinor: 25_50,
      kind: "CREDIT",
      occurredAtMs: NOW_MS,
    });
    expect(after).toMatchObject({ version: 1, balanceMinor: 25_50, status: "ACTIVE" });
  });

  it("given no owner, when it is created, then it has none", () => {
    const { after } = accept(null, { ...create(), ownerId: null } as WalletCommand);
    expect(after.ownerId).toBeNull();
  });

  it.each(["CREDIT", "FUND"] as const)(
    "given 10.00, when 2.50 are credited as %s, then it has 12.50",
    (kind) => {
      const { events, after } = accept(wallet(), { type: "credit", amount: "2.5", kind });
      expect(events).toEqual([
        { type: "WalletCredited", amountMinor: 2_50, kind, occurredAtMs: NOW_MS },
      ]);
      expect(after).toEqual({
        ...wallet(),
        balanceMinor: 12_50,
        version: 5,
        updatedAtMs: NOW_MS,
      });
    },
  );

  it("given 10.00, when 2.50 are debited, then it has 7.50", () => {
    const { events, after } = accept(wallet(), debit("2.5"));
    expect(events).toEqual([{ type: "WalletDebited", amountMinor: 2_50, occurredAtMs: NOW_MS }]);
    expect(after).toEqual({ ...wallet(), balanceMinor: 7_50, version: 5, updatedAtMs: NOW_MS });
  });

  it("given 10.00, when 2.50 are sent to another wallet, then it has 7.50 and the event names the payee", () => {
    const { events, after } = accept(wallet(), transfer("2.5"));
    expect(events).toEqual([
      {
        type: "TransferSent",
        amountMinor: 2_50,
        transferId: "t1",
        counterpartyId: "w2",
        occurredAtMs: NOW_MS,
      },
    ]);
    expect(after).toEqual({ ...wallet(), balanceMinor: 7_50, version: 5, updatedAtMs: NOW_MS });
  });

  it.each([
    ["suspended", wallet(), suspend, "WalletSuspended", "SUSPENDED"],
    ["activated", wallet({ status: "SUSPENDED" }), activate, "WalletActivated", "ACTIVE"],
    ["activated", wallet(), activate, "WalletActivated", "ACTIVE"],
    ["closed", wallet({ balance: 0 }), close, "WalletClosed", "CLOSED"],
    ["closed", wallet({ balance: 0, status: "SUSPENDED" }), close, "WalletClosed", "CLOSED"],
  ] as const)(
    "when it is %s, then only its status, version and time change (%#)",
    (_how, state, command, type, status) => {
      const { events, after } = accept(state, command);
      expect(events).toEqual([{ type, occurredAtMs: NOW_MS }]);
      expect(after).toEqual({ ...state, status, version: 5, updatedAtMs: NOW_MS });
    },
  );

  it.each([
    ["sets a key", { a: 1 }, '{"a":1,"tier":"gold","plan":{"seats":3,"trial":true}}'],
    ["takes a key away", { tier: null }, '{"plan":{"seats":3,"trial":true}}'],
    [
      "changes an object key by key",
      { plan: { trial: null } },
      '{"plan":{"seats":3},"tier":"gold"}',
    ],
    ["takes all away", { tier: null, plan: null }, "{}"],
    ["says nothing", {}, '{"plan":{"seats":3,"trial":true},"tier":"gold"}'],
  ])(
    "when a patch of the metadata %s, then only it, the version and the time change",
    (_what, patch, metadata) => {
      // As the database gives it back: with blanks.
      const given = '{"plan": {"seats": 3, "trial": true}, "tier": "gold"}';
      for (const status of ["ACTIVE", "SUSPENDED"] as const) {
        const state = wallet({ status, held: 1_00, metadata: given });
        const { events, after } = accept(state, update(patch));
        const { type, ...rest } = events[0]!;
        expect({ type, ...rest }).toMatchObject({
          type: "WalletMetadataChanged",
          occurredAtMs: NOW_MS,
        });
        expect(JSON.parse(after.metadata)).toEqual(JSON.parse(metadata));
        const unchanged = { ...state, metadata: after.metadata };
        expect(after).toEqual({ ...unchanged, version: 5, updatedAtMs: NOW_MS });
      }
    },
  );

  it("when the metadata grows to the last byte in bounds, then it fits", () => {
    const room = LIMITS.metadataBytesMax - '{"a":"","b":1}'.length;
    const { after } = accept(wallet({ metadata: '{"b": 1}' }), update({ a: "x".repeat(room) }));
    expect(after.metadata).toHaveLength(LIMITS.metadataBytesMax);
  });

  it.each([
    ["all that is there", wallet(), debit("10"), 0],
    ["all that is available", wallet({ held: 4_00 }), debit("6"), 4_00],
    ["all that is available", wallet({ held: 4_00 }), transfer("6"), 4_00],
  ])("when %s leaves, then nothing stands in its way (%#)", (_what, state, command, left) => {
    const { after } = accept(state, command);
    expect(after.balanceMinor).toBe(left);
    expect(availableMinor(after)).toBe(0);
  });

  it.each([
    ["the balance", credit("9999999999989.99"), at()],
    ["the balance and what may come back", credit("9999999999988.99"), at({ pendingOut: 100 })],
  ])(
    "when a credit takes %s to the last minor unit in range, then it fits",
    (_what, command, when) => {
      const { after } = accept(wallet(), command, when);
      expect(after.balanceMinor + when.pendingOutMinor).toBe(FULL);
    },
  );

  it("given the version that the caller expects, when a command comes, then it is carried out", () => {
    expect(accept(wallet(), credit("1"), at({ expectedVersion: 4 })).after.version).toBe(5);
    const created = wallet({ version: 0 });
    expect(accept(created, credit("1"), at({ expectedVersion: 0 })).after.version).toBe(1);
  });

  it.each([credit("1"), debit("1"), transfer("1"), update({ a: 1 }), suspend, activate])(
    "given a clock that went back, when $type comes, then its event is not older than the last one",
    (command) => {
      const { events, after } = accept(wallet(), command, at({ nowMs: 1_499 }));
      expect(events[0]!.occurredAtMs).toBe(1_500);
      expect(after.updatedAtMs).toBe(1_500);
    },
  );
});

/** Commands for a user's wallet of an asset, by default that of the wallet w1. */
const theirs = { ownerId: "alice", currency: "USD", decimalPlaces: 2 };
const topup = (amount: string, of: object = {}): WalletCommand => ({
  type: "credit",
  amount,
  kind: "TOPUP",
  of: { ...theirs, ...of },
});
const spend = (amount: string, of: object = {}): WalletCommand => ({
  type: "debit",
  amount,
  kind: "SPEND",
  of: { ownerId: "alice", currency: "USD", ...of },
});

describe("money of a user in an asset", () => {
  it.each(["TOPUP", "BONUS"] as const)(
    "given no wallet, when %s comes, then the wallet is made with it, as the user's and of the asset",
    (kind) => {
      const command = { type: "credit", amount: "2.50", kind, of: theirs } as const;
      const { events, after } = accept(null, command);
      expect(events).toEqual([
        { type: "WalletCreated", ...theirs, metadata: "{}", occurredAtMs: NOW_MS },
        { type: "WalletCredited", amountMinor: 2_50, kind, occurredAtMs: NOW_MS },
      ]);
      expect(after).toMatchObject({ ...theirs, balanceMinor: 2_50, version: 1, status: "ACTIVE" });
    },
  );

  it("given the wallet, then a topup and a spend are events of their kinds and nothing else", () => {
    const given = wallet();
    const { events, after } = accept(given, topup("1"));
    expect(events).toMatchObject([{ type: "WalletCredited", kind: "TOPUP", amountMinor: 1_00 }]);
    const spent = accept(after, spend("3"));
    expect(spent.events).toMatchObject([{ type: "WalletDebited", kind: "SPEND" }]);
    expect(spent.after).toMatchObject({ balanceMinor: 8_00, version: 6 });
    expect(accept(given, debit("1")).events[0]).not.toHaveProperty("kind");
  });

  const mismatch = (ownerId: string): Rejection => ({
    code: "owner_mismatch",
    walletId: "w1",
    ownerId: "alice",
    expectedOwnerId: ownerId,
  });
  const otherAsset: Rejection = {
    code: "currency_mismatch",
    walletId: "w1",
    currency: "USD",
    expectedCurrency: "GOLD",
  };
  it.each<Case>([
    ["no wallet to spend from", null, spend("1"), at(), notFound],
    ["a version of no wallet", null, topup("1"), at({ expectedVersion: 0 }), notFound],
    ["too many decimals for the first", null, topup("0.001"), at(), invalid("0.001")],
    ["somebody else's, in", wallet(), topup("1", { ownerId: "bob" }), at(), mismatch("bob")],
    ["somebody else's, out", wallet(), spend("1", { ownerId: "bob" }), at(), mismatch("bob")],
    ["of another asset, in", wallet(), topup("1", { currency: "GOLD" }), at(), otherAsset],
    ["of another asset, out", wallet(), spend("1", { currency: "GOLD" }), at(), otherAsset],
    [
      "somebody else's before of another asset",
      wallet(),
      topup("1", { ownerId: "bob", currency: "GOLD" }),
      at(),
      mismatch("bob"),
    ],
    [
      "of another asset before at another version",
      wallet(),
      spend("1", { currency: "GOLD" }),
      at({ expectedVersion: 9 }),
      otherAsset,
    ],
    [
      "of another asset before suspended",
      suspended,
      topup("1", { currency: "GOLD" }),
      at(),
      otherAsset,
    ],
    ["suspended", suspended, topup("1"), at(), notActive("SUSPENDED")],
  ])("is refused: %s", (_why, state, command, when, rejection) => {
    expect(decide("w1", state, command, when)).toEqual({ ok: false, rejection });
  });
});

describe("a transfer that arrives or comes back", () => {
  it("given an active payee, when 2.50 arrive, then it has them and the event names the payer", () => {
    const state = wallet();
    expect(checkReceive("w1", state, receive(2_50), amountMinor(0))).toBeNull();
    const event = transferEvent(state, receive(2_50), NOW_MS);
    expect(event).toEqual({
      type: "TransferReceived",
      transferId: "t1",
      amountMinor: 2_50,
      counterpartyId: "w0",
      occurredAtMs: NOW_MS,
    });
    const after = { ...state, balanceMinor: 12_50, version: 5, updatedAtMs: NOW_MS };
    expect(apply("w1", state, event)).toEqual(after);
  });

  it.each(["ACTIVE", "SUSPENDED"] as const)(
    "given a payer that is %s by now, when 2.50 come back, then it has them and the event names the payee",
    (status) => {
      const state = wallet({ status });
      const event = transferEvent(state, giveBack(2_50), NOW_MS);
      expect(event).toEqual({
        type: "TransferReturned",
        transferId: "t1",
        amountMinor: 2_50,
        counterpartyId: "w2",
        occurredAtMs: NOW_MS,
      });
      const after = { ...state, balanceMinor: 12_50, version: 5, updatedAtMs: NOW_MS };
      expect(apply("w1", state, event)).toEqual(after);
    },
  );

  it("given money in transit, when a credit would take its place, then it is refused and the return fits", () => {
    // Full; one unit is on its way out; while it is, nobody else may have its room.
    const sent = accept(wallet({ balance: FULL }), transfer("0.01")).after;
    const pendingOut = at({ pendingOut: 1 });
    expect(decide("w1", sent, credit("0.01"), pendingOut).ok).toBe(false);
    expect(checkReceive("w1", sent, receive(1), pendingOut.pendingOutMinor)).not.toBeNull();
    expect(apply("w1", sent, transferEvent(sent, giveBack(1), NOW_MS)).balanceMinor).toBe(FULL);
  });

  it.each([receive(1), giveBack(1)])(
    "given a clock that went back, when $type comes, then its event is not older than the last one",
    (step) => {
      expect(transferEvent(wallet(), step, 1_499).occurredAtMs).toBe(1_500);
    },
  );
});

type Case = [
  why: string,
  state: WalletState | null,
  command: WalletCommand,
  when: Circumstances,
  rejection: Rejection,
];

const notActive = (status: WalletStatus): Rejection => ({
  code: "wallet_not_active",
  walletId: "w1",
  status,
});
const outOfRange = (amount: string): Rejection => ({
  code: "amount_out_of_range",
  amount,
  currency: "USD",
  walletId: "w1",
});
const invalid = (amount: string, currency = "USD", decimalPlaces = 2): Rejection => ({
  code: "invalid_amount",
  amount,
  currency,
  decimalPlaces,
});
const insufficient = (available: number, requested: number): Rejection => ({
  code: "insufficient_funds",
  walletId: "w1",
  availableMinor: amountMinor(available),
  requestedMinor: amountMinor(requested),
  currency: "USD",
  decimalPlaces: 2,
});
const notEmpty = (
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
const tooLarge = (bytes: number): Rejection => ({
  code: "metadata_too_large",
  walletId: "w1",
  bytes,
  bytesMax: LIMITS.metadataBytesMax,
});
const sameWallet: Rejection = { code: "same_wallet", walletId: "w1" };
const notFound: Rejection = { code: "wallet_not_found", walletId: "w1" };
const exists: Rejection = { code: "wallet_already_exists", walletId: "w1" };
const conflict = (expectedVersion: number, version: number): Rejection => ({
  code: "version_conflict",
  walletId: "w1",
  expectedVersion,
  version,
});
const suspended = wallet({ status: "SUSPENDED" });

describe("a command is rejected", () => {
  it.each<Case>([
    ["a transfer to itself", wallet(), transfer("1", "w1"), at(), sameWallet],
    ["a credit to nobody", null, credit("1"), at(), notFound],
    ["a wallet that exists", wallet(), create(), at(), exists],
    ["a closed wallet exists too", wallet({ status: "CLOSED" }), create(), at(), exists],
    [
      "an older version expected",
      wallet(),
      credit("1"),
      at({ expectedVersion: 3 }),
      conflict(3, 4),
    ],
    ["a later version expected", wallet(), debit("1"), at({ expectedVersion: 5 }), conflict(5, 4)],
    ["version 0 expected", wallet(), close, at({ expectedVersion: 0 }), conflict(0, 4)],
    ["suspended", suspended, credit("1"), at(), notActive("SUSPENDED")],
    ["closed", wallet({ status: "CLOSED", balance: 0 }), debit("1"), at(), notActive("CLOSED")],
    ["too many decimals in", wallet(), credit("0.001"), at(), invalid("0.001")],
    ["too many decimals out", wallet(), debit("0.001"), at(), invalid("0.001")],
    ["too many decimals sent", wallet(), transfer("0.001"), at(), invalid("0.001")],
    ["too many decimals to begin with", null, create("0.001"), at(), invalid("0.001")],
    [
      "decimals of an asset without",
      wallet({ currency: "JPY", decimalPlaces: 0 }),
      credit("0.5"),
      at(),
      invalid("0.5", "JPY", 0),
    ],
    ["10^15 in", wallet(), credit("10000000000000"), at(), outOfRange("10000000000000")],
    ["10^15 out", wallet(), debit("10000000000000"), at(), outOfRange("10000000000000")],
    ["10^15 sent", wallet(), transfer("10000000000000"), at(), outOfRange("10000000000000")],
    ["10^15 to begin with", null, create("10000000000000"), at(), outOfRange("10000000000000")],
    ["more than the balance", wallet(), debit("10.01"), at(), insufficient(10_00, 10_01)],
    ["more than is not held", wallet({ held: 1 }), debit("10"), at(), insufficient(9_99, 10_00)],
    ["more sent than there is", wallet(), transfer("10.01"), at(), insufficient(10_00, 10_01)],
    [
      "what is in transit is gone",
      wallet(),
      debit("10.01"),
      at({ pendingOut: 99 }),
      insufficient(10_00, 10_01),
    ],
    ["no room for one unit", wallet({ balance: FULL }), credit("0.01"), at(), outOfRange("0.01")],
    [
      "no room but for a return",
      wallet({ balance: FULL - 1 }),
      credit("0.01"),
      at({ pendingOut: 1 }),
      outOfRange("0.01"),
    ],
    ["suspended twice", suspended, suspend, at(), notActive("SUSPENDED")],
    [
      "metadata of a closed wallet",
      wallet({ status: "CLOSED", balance: 0 }),
      update({}),
      at(),
      notActive("CLOSED"),
    ],
    ["close with a balance", wallet({ balance: 1 }), close, at(), notEmpty(1, 0, 0)],
    [
      "close with a balance, suspended",
      wallet({ balance: 1, status: "SUSPENDED" }),
      close,
      at(),
      notEmpty(1, 0, 0),
    ],
    ["close with a hold", wallet({ balance: 2, held: 2 }), close, at(), notEmpty(2, 2, 0)],
    [
      "close with a transfer under way",
      wallet({ balance: 0 }),
      close,
      at({ pendingOut: 1 }),
      notEmpty(0, 0, 1),
    ],
    [
      "close with all of it",
      wallet({ balance: 3, held: 2 }),
      close,
      at({ pendingOut: 1 }),
      notEmpty(3, 2, 1),
    ],
    [
      "metadata past the last byte in bounds, by what is there already",
      wallet({ metadata: '{"b": 1}' }),
      update({ a: "x".repeat(LIMITS.metadataBytesMax - '{"a":"","b":1}'.length + 1) }),
      at(),
      tooLarge(LIMITS.metadataBytesMax + 1),
    ],
    [
      "metadata past it in bytes, not in characters",
      wallet(),
      update({ a: "€".repeat(LIMITS.metadataBytesMax / 3 + 1) }),
      at(),
      tooLarge(Buffer.byteLength(`{"a":""}`) + 3 * Math.floor(LIMITS.metadataBytesMax / 3 + 1)),
    ],
  ])("%s (%#)", (_why, state, command, when, rejection) => {
    expect(decide("w1", state, command, when)).toEqual({ ok: false, rejection });
  });

  it.each<[why: string, state: WalletState | null, step: Receive, pendingOut: number, Rejection]>([
    ["no payee", null, receive(1), 0, notFound],
    ["a suspended payee", suspended, receive(1), 0, notActive("SUSPENDED")],
    [
      "a closed payee",
      wallet({ status: "CLOSED", balance: 0 }),
      receive(1),
      0,
      notActive("CLOSED"),
    ],
    [
      "another asset",
      wallet(),
      receive(1, { currency: "EUR" }),
      0,
      { code: "currency_mismatch", walletId: "w1", currency: "USD", expectedCurrency: "EUR" },
    ],
    [
      "the same asset with other decimal places",
      wallet(),
      receive(1, { decimalPlaces: 3 }),
      0,
      { code: "currency_mismatch", walletId: "w1", currency: "USD", expectedCurrency: "USD" },
    ],
    ["no room", wallet({ balance: FULL }), receive(1), 0, outOfRange("0.01")],
    ["no room but for a return", wallet({ balance: FULL - 1 }), receive(1), 1, outOfRange("0.01")],
  ])("a payee refuses: %s", (_why, state, step, pendingOut, rejection) => {
    expect(checkReceive("w1", state, step, amountMinor(pendingOut))).toEqual(rejection);
  });
});

/**
 * The order of precedence in wallet.ts, pair by pair. Money out meets 7 and never 8, money in the other way round, and close
 * has no amount: those pairs cannot hold both, so the next rule that can is taken.
 */
describe("of two reasons the first in the order of precedence is the answer", () => {
  const wrongVersion = at({ expectedVersion: 9 });
  const full = wallet({ balance: FULL });
  const big = "10000000000000";
  const huge = update({ a: "x".repeat(LIMITS.metadataBytesMax) });

  it.each<Case>([
    ["1 before 2: itself, and no such wallet", null, transfer("1", "w1"), at(), sameWallet],
    [
      "1 before 3: itself, and another version",
      wallet(),
      transfer("1", "w1"),
      wrongVersion,
      sameWallet,
    ],
    ["1 before 4: itself, and suspended", suspended, transfer("1", "w1"), at(), sameWallet],
    [
      "1 before 6: itself, and too many decimals",
      wallet(),
      transfer("0.001", "w1"),
      at(),
      sameWallet,
    ],
    ["1 before 7: itself, and not enough", wallet(), transfer("99", "w1"), at(), sameWallet],
    ["2 before 3: no wallet, and a version", null, credit("1"), wrongVersion, notFound],
    ["2 before 3: exists, and another version", wallet(), create(), wrongVersion, exists],
    [
      "2 before 3: to be created, and a version",
      null,
      create(),
      at({ expectedVersion: 0 }),
      notFound,
    ],
    ["2 before 6: exists, and too many decimals", wallet(), create("0.001"), at(), exists],
    ["2 before 6: no wallet, and too many decimals", null, debit("0.001"), at(), notFound],
    [
      "3 before 4: another version, and suspended",
      suspended,
      debit("1"),
      wrongVersion,
      conflict(9, 4),
    ],
    [
      "3 before 4: another version, and the step not allowed",
      suspended,
      suspend,
      wrongVersion,
      conflict(9, 4),
    ],
    [
      "3 before 6: another version, and too many decimals",
      wallet(),
      credit("0.001"),
      wrongVersion,
      conflict(9, 4),
    ],
    ["3 before 9: another version, and a balance", wallet(), close, wrongVersion, conflict(9, 4)],
    ["2 before 3: no wallet to change, and a version", null, update({}), wrongVersion, notFound],
    [
      "3 before 4: another version, and closed for changes",
      wallet({ status: "CLOSED", balance: 0 }),
      update({}),
      wrongVersion,
      conflict(9, 4),
    ],
    ["3 before 10: another version, and too much", wallet(), huge, wrongVersion, conflict(9, 4)],
    [
      "4 before 10: closed, and too much",
      wallet({ status: "CLOSED", balance: 0 }),
      huge,
      at(),
      notActive("CLOSED"),
    ],
    [
      "4 before 6: suspended, and too many decimals",
      suspended,
      credit("0.001"),
      at(),
      notActive("SUSPENDED"),
    ],
    ["4 before 6: suspended, and 10^15", suspended, transfer(big), at(), notActive("SUSPENDED")],
    ["4 before 7: suspended, and not enough", suspended, debit("99"), at(), notActive("SUSPENDED")],
    [
      "4 before 8: suspended, and full",
      wallet({ balance: FULL, status: "SUSPENDED" }),
      credit("1"),
      at(),
      notActive("SUSPENDED"),
    ],
    // A closed wallet is empty; this one is broken to have both reasons.
    [
      "4 before 9: closed, and a balance",
      wallet({ status: "CLOSED" }),
      close,
      at(),
      notActive("CLOSED"),
    ],
    [
      "6 before 7: too many decimals, and not enough",
      wallet({ balance: 0 }),
      debit("10.001"),
      at(),
      invalid("10.001"),
    ],
    [
      "6 before 7: 10^15, and not enough",
      wallet({ balance: 0 }),
      transfer(big),
      at(),
      outOfRange(big),
    ],
    ["6 before 8: too many decimals, and full", full, credit("1.001"), at(), invalid("1.001")],
    [
      "6 before 6: too many decimals, and 10^15",
      wallet(),
      credit(`${big}.001`),
      at(),
      invalid(`${big}.001`),
    ],
  ])("%s", (_why, state, command, when, rejection) => {
    expect(decide("w1", state, command, when)).toEqual({ ok: false, rejection });
  });

  it.each<[string, WalletState | null, Receive, Rejection]>([
    ["2 before 5: no payee, whatever the asset", null, receive(1, { currency: "EUR" }), notFound],
    [
      "4 before 5: suspended, and another asset",
      suspended,
      receive(1, { currency: "EUR" }),
      notActive("SUSPENDED"),
    ],
    [
      "4 before 8: suspended, and full",
      wallet({ balance: FULL, status: "SUSPENDED" }),
      receive(1),
      notActive("SUSPENDED"),
    ],
    [
      "5 before 6: another asset, which has the decimals that this one has not",
      wallet({ currency: "JPY", decimalPlaces: 0 }),
      receive(50),
      { code: "currency_mismatch", walletId: "w1", currency: "JPY", expectedCurrency: "USD" },
    ],
    [
      "5 before 8: another asset, and full",
      full,
      receive(1, { currency: "EUR" }),
      { code: "currency_mismatch", walletId: "w1", currency: "USD", expectedCurrency: "EUR" },
    ],
  ])("at the payee, %s", (_why, state, step, rejection) => {
    expect(checkReceive("w1", state, step, amountMinor(0))).toEqual(rejection);
  });
});

describe("every command in every status", () => {
  type Answer = WalletEvent["type"] | RejectionCode;
  const states: Array<WalletState | null> = [
    null,
    wallet({ balance: 0 }),
    wallet({ balance: 0, status: "SUSPENDED" }),
    wallet({ balance: 0, status: "CLOSED" }),
  ];
  const funded = [null, wallet(), suspended, states[3]!];

  const commands: Record<WalletCommand["type"], WalletCommand> = {
    create: create(),
    credit: credit("1"),
    debit: debit("1"),
    transfer: transfer("1"),
    hold: {
      type: "hold",
      holdId: "h2",
      amount: "1",
      kind: "PAYMENT",
      reference: null,
      description: null,
      expiresAtMs: null,
      expiresInSeconds: null,
    },
    capture: { type: "capture", holdId: "h1", amount: "1", final: false, to: null },
    release: { type: "release", holdId: "h1" },
    update: update({ a: 1 }),
    suspend,
    activate,
    close,
  };

  const named: Hold = {
    holdId: "h1",
    walletId: "w1",
    amountMinor: amountMinor(1_00),
    capturedMinor: amountMinor(0),
    status: "ACTIVE",
    kind: "PAYMENT",
    reference: null,
    description: null,
    expiresAtMs: null,
    createdAtMs: 1_000,
    capturedAtMs: null,
    releasedAtMs: null,
  };

  it.each<[WalletCommand["type"], none: Answer, active: Answer, suspended: Answer, closed: Answer]>(
    [
      [
        "create",
        "WalletCreated",
        "wallet_already_exists",
        "wallet_already_exists",
        "wallet_already_exists",
      ],
      ["credit", "wallet_not_found", "WalletCredited", "wallet_not_active", "wallet_not_active"],
      ["debit", "wallet_not_found", "WalletDebited", "wallet_not_active", "wallet_not_active"],
      ["transfer", "wallet_not_found", "TransferSent", "wallet_not_active", "wallet_not_active"],
      ["hold", "wallet_not_found", "HoldPlaced", "wallet_not_active", "wallet_not_active"],
      ["capture", "wallet_not_found", "HoldCaptured", "wallet_not_active", "wallet_not_active"],
      ["release", "wallet_not_found", "HoldReleased", "HoldReleased", "wallet_not_active"],
      [
        "update",
        "wallet_not_found",
        "WalletMetadataChanged",
        "WalletMetadataChanged",
        "wallet_not_active",
      ],
      ["suspend", "wallet_not_found", "WalletSuspended", "wallet_not_active", "wallet_not_active"],
      ["activate", "wallet_not_found", "WalletActivated", "WalletActivated", "wallet_not_active"],
      ["close", "wallet_not_found", "WalletClosed", "WalletClosed", "wallet_not_active"],
    ],
  )("%s: none %s, active %s, suspended %s, closed %s", (type, ...answers) => {
    const given = type === "close" ? states : funded;
    const got = given.map((state): Answer => {
      const decision = decide("w1", state, commands[type], {
        ...at(),
        holds: { named, activeCount: 1 },
      });
      return decision.ok ? decision.events[0]!.type : decision.rejection.code;
    });
    expect(got).toEqual(answers);
  });

  it("a transfer is received when active only", () => {
    const got = states.map((state) => checkReceive("w1", state, receive(1), amountMinor(0))?.code);
    const no = "wallet_not_active";
    expect(got).toEqual(["wallet_not_found", undefined, no, no]);
  });
});

describe("an event that breaks an invariant throws", () => {
  const occurredAtMs = NOW_MS;
  const moved = (type: "WalletDebited" | "TransferSent" | "WalletCredited", amount: number) =>
    ({
      type,
      amountMinor: amountMinor(amount),
      kind: "CREDIT",
      transferId: "t1",
      counterpartyId: "w2",
      occurredAtMs,
    }) as WalletEvent;
  const created = accept(null, create()).events[0]!;

  it.each<[why: string, state: WalletState | null, event: WalletEvent, message: string]>([
    ["created twice", wallet(), created, "wallet w1 was created twice"],
    [
      "no creation",
      null,
      moved("WalletCredited", 1),
      "wallet w1 does not begin with WalletCreated",
    ],
    ["below 0", wallet(), moved("WalletDebited", 10_01), "would have balance -1"],
    ["below 0 by a transfer", wallet(), moved("TransferSent", 10_01), "would have balance -1"],
    [
      "below what is held",
      wallet({ held: 5_00 }),
      moved("WalletDebited", 5_01),
      "would have balance 499",
    ],
    [
      "past the range",
      wallet({ balance: FULL }),
      moved("WalletCredited", 1),
      `balance ${FULL + 1}`,
    ],
    [
      "past the range by a return",
      wallet({ balance: FULL }),
      transferEvent(wallet(), giveBack(1), NOW_MS),
      `balance ${FULL + 1}`,
    ],
  ])("%s", (_why, state, event, message) => {
    expect(() => apply("w1", state, event)).toThrow(message);
  });
});

describe("the sentence of a rejection", () => {
  // By code, so that a new rejection without its sentences does not compile.
  const sentences: {
    [Code in RejectionCode]: Array<[Extract<Rejection, { code: Code }>, string]>;
  } = {
    wallet_not_found: [[{ code: "wallet_not_found", walletId: "w1" }, "Wallet w1 does not exist"]],
    wallet_already_exists: [
      [{ code: "wallet_already_exists", walletId: "w1" }, "Wallet w1 exists already"],
    ],
    version_conflict: [
      [
        { code: "version_conflict", walletId: "w1", expectedVersion: 3, version: 4 },
        "Wallet w1 is at version 4, expected 3",
      ],
    ],
    wallet_not_active: [
      [
        { code: "wallet_not_active", walletId: "w1", status: "SUSPENDED" },
        "Wallet w1 is suspended, not active",
      ],
      [
        { code: "wallet_not_active", walletId: "w1", status: "CLOSED" },
        "Wallet w1 is closed, not active",
      ],
    ],
    wallet_not_empty: [
      [notEmpty(12_50, 0, 0), "Wallet w1 cannot be closed: it has a balance of 12.50 USD"],
      [notEmpty(0, 0, 7), "Wallet w1 cannot be closed: it has 0.07 USD in pending transfers"],
      [
        notEmpty(12_50, 2_00, 7),
        "Wallet w1 cannot be closed: it has a balance of 12.50 USD and 2.00 USD on hold and 0.07 USD in pending transfers",
      ],
    ],
    hold_not_found: [
      [{ code: "hold_not_found", walletId: "w1", holdId: "h1" }, "Wallet w1 has no hold h1"],
    ],
    hold_not_active: [
      [
        { code: "hold_not_active", walletId: "w1", holdId: "h1", status: "EXPIRED" },
        "Hold h1 of wallet w1 is expired, not active",
      ],
    ],
    capture_exceeds_hold: [
      [
        {
          code: "capture_exceeds_hold",
          walletId: "w1",
          holdId: "h1",
          remainingMinor: amountMinor(10_00),
          requestedMinor: amountMinor(25_00),
          currency: "USD",
          decimalPlaces: 2,
        },
        "Hold h1 of wallet w1 has 10.00 USD left, requested 25.00 USD",
      ],
    ],
    invalid_expiry: [
      [
        { code: "invalid_expiry", walletId: "w1", expiresAtMs: 0, nowMs: 60_500 },
        "A hold of wallet w1 must expire in the future, not 60.5 s ago",
      ],
    ],
    too_many_holds: [
      [
        { code: "too_many_holds", walletId: "w1", holdsMax: 10_000 },
        "Wallet w1 has 10000 active holds, as many as it may have",
      ],
    ],
    metadata_too_large: [
      [
        { code: "metadata_too_large", walletId: "w1", bytes: 9_000, bytesMax: 8_192 },
        "The metadata of wallet w1 would have 9000 bytes as JSON, more than 8192",
      ],
    ],
    owner_mismatch: [
      [
        { code: "owner_mismatch", walletId: "a:b:c", ownerId: "a:b", expectedOwnerId: "a" },
        "Wallet a:b:c belongs to a:b, not to a",
      ],
      [
        { code: "owner_mismatch", walletId: "a:b", ownerId: null, expectedOwnerId: "a" },
        "Wallet a:b belongs to nobody, not to a",
      ],
    ],
    invalid_amount: [
      [
        { code: "invalid_amount", amount: "0.001", currency: "USD", decimalPlaces: 2 },
        "0.001 is not an amount of USD, which has 2 decimal places",
      ],
    ],
    amount_out_of_range: [
      [
        { code: "amount_out_of_range", amount: "10000000000000", currency: "USD", walletId: "w1" },
        "10000000000000 USD is out of range for wallet w1: amounts and balances stay under 10^15 minor units",
      ],
    ],
    same_wallet: [[{ code: "same_wallet", walletId: "w1" }, "Wallet w1 cannot pay itself"]],
    currency_mismatch: [
      [
        { code: "currency_mismatch", walletId: "w1", currency: "USD", expectedCurrency: "EUR" },
        "Wallet w1 holds USD, not EUR",
      ],
    ],
    asset_not_found: [[{ code: "asset_not_found", currency: "GOLD" }, "GOLD is not a known asset"]],
    insufficient_funds: [
      [
        {
          code: "insufficient_funds",
          walletId: "wallet-1",
          availableMinor: amountMinor(10_00),
          requestedMinor: amountMinor(25_00),
          currency: "USD",
          decimalPlaces: 2,
        },
        "Wallet wallet-1 has insufficient funds: available 10.00 USD, requested 25.00 USD",
      ],
      [
        {
          code: "insufficient_funds",
          walletId: "w1",
          availableMinor: amountMinor(0),
          requestedMinor: amountMinor(7),
          currency: "JPY",
          decimalPlaces: 0,
        },
        "Wallet w1 has insufficient funds: available 0 JPY, requested 7 JPY",
      ],
    ],
    idempotency_conflict: [
      [
        { code: "idempotency_conflict", commandId: "k1" },
        "Idempotency key k1 was used before with another input",
      ],
    ],
  };

  it.each<[RejectionCode, Array<[Rejection, string]>]>(
    Object.entries(sentences) as Array<[RejectionCode, Array<[Rejection, string]>]>,
  )("for %s is one that a person understands", (_code, examples) => {
    for (const [rejection, sentence] of examples) expect(sentenceOf(rejection)).toBe(sentence);
  });
});
