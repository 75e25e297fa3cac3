/** What fits an outcome whose command had no fingerprint, as a table over the commands. */
import { describe, expect, it } from "vitest";

import { commandOf, HOLDING, NOW_MS, outcomeOf, wallet } from "../../test/stage/repeats.ts";
import { amountMinor, ZERO } from "./amount.ts";
import type { Rejection } from "./rejection.ts";
import { fits, mayHaveBeenTold, type CommandRecord } from "./repeats.ts";
import { checkReceive, type WalletCommand, type WalletState } from "./wallet.ts";

type Of<Type extends WalletCommand["type"]> = Extract<WalletCommand, { type: Type }>;

const create: Of<"create"> = {
  type: "create",
  ownerId: "ann",
  currency: "USD",
  decimalPlaces: 2,
  initialBalance: "5",
  metadata: '{"a":1}',
};
const credit: Of<"credit"> = { type: "credit", amount: "10", kind: "CREDIT" };
const asset = { ownerId: "ann", currency: "USD" };
const topup: Of<"credit"> = {
  type: "credit",
  amount: "5",
  kind: "TOPUP",
  of: { ...asset, decimalPlaces: 2 },
};
const debit: Of<"debit"> = { type: "debit", amount: "10" };
const spend: Of<"debit"> = { ...debit, kind: "SPEND", of: asset };
const transfer: Of<"transfer"> = {
  type: "transfer",
  transferId: "t",
  toWalletId: "v",
  amount: "10",
};
const hold: Of<"hold"> = {
  type: "hold",
  holdId: "new",
  amount: "10",
  kind: "ESCROW",
  reference: "r",
  description: "d",
  expiresAtMs: null,
  expiresInSeconds: 60,
};
const capture: Of<"capture"> = {
  type: "capture",
  holdId: "h",
  amount: "10",
  final: false,
  to: null,
};
const paid: Of<"capture"> = { ...capture, to: { transferId: "t", walletId: "v" } };
const release: Of<"release"> = { type: "release", holdId: "h" };
const update: Of<"update"> = { type: "update", patch: '{"a":null,"b":{"c":2}}' };
const [suspend, activate, close] = (["suspend", "activate", "close"] as const).map((type) => ({
  type,
})) as [WalletCommand, WalletCommand, WalletCommand];

interface Row {
  readonly does: string;
  readonly first: WalletCommand;
  /** As the wallet is before; `HOLDING` where nothing is said. */
  readonly on?: WalletState | null;
  /** The same, as far as its event can tell. */
  readonly same?: readonly WalletCommand[];
  readonly others: readonly WalletCommand[];
}

const TABLE: readonly Row[] = [
  {
    does: "create",
    first: create,
    on: null,
    same: [
      { ...create, initialBalance: "5.00" },
      { ...create, metadata: '{ "a": 1 }' },
    ],
    others: [
      { ...create, ownerId: null },
      { ...create, currency: "EUR" },
      { ...create, initialBalance: null },
      { ...create, initialBalance: "6" },
      { ...create, metadata: "{}" },
      { ...credit, amount: "5" },
      topup,
    ],
  },
  {
    does: "create without money",
    first: { ...create, initialBalance: null },
    on: null,
    others: [create, activate, update],
  },
  {
    does: "credit",
    first: credit,
    on: wallet({ version: 0 }),
    same: [{ ...credit, amount: "10.00" }],
    others: [
      { ...credit, amount: "10.01" },
      { ...credit, amount: "10.001" },
      { ...credit, kind: "FUND" },
      { ...topup, amount: "10" },
      { ...create, initialBalance: "10" },
      debit,
    ],
  },
  {
    does: "first topup",
    first: topup,
    on: null,
    others: [
      { ...topup, kind: "BONUS" },
      { ...topup, of: { ...topup.of!, ownerId: "bob" } },
      { ...topup, of: { ...topup.of!, currency: "x:USD" } },
      { ...create, metadata: "{}" },
      { ...credit, amount: "5" },
    ],
  },
  { does: "later topup", first: topup, others: [{ ...topup, amount: "6" }, credit] },
  {
    does: "debit",
    first: debit,
    others: [{ ...debit, amount: "1" }, spend, credit, transfer, capture, hold],
  },
  { does: "spend", first: spend, others: [debit, { ...spend, of: { ...asset, ownerId: "bob" } }] },
  {
    does: "transfer",
    first: transfer,
    same: [{ ...transfer, transferId: "another" }],
    others: [{ ...transfer, amount: "1" }, { ...transfer, toWalletId: "u" }, debit, paid],
  },
  {
    does: "hold",
    first: hold,
    same: [
      { ...hold, holdId: "another" },
      { ...hold, expiresInSeconds: null, expiresAtMs: NOW_MS + 60_000 },
    ],
    others: [
      { ...hold, amount: "1" },
      { ...hold, kind: "OTHER" },
      { ...hold, reference: null },
      { ...hold, description: null },
      { ...hold, expiresInSeconds: 61 },
      { ...hold, expiresInSeconds: null },
      debit,
      capture,
    ],
  },
  {
    does: "capture of all that is left",
    first: { ...capture, amount: null },
    same: [capture, { ...capture, amount: null, final: true }],
    others: [{ ...capture, amount: "9" }, { ...capture, holdId: "i" }, paid, debit, release],
  },
  {
    does: "final capture of all that is left",
    first: { ...capture, amount: null, final: true },
    same: [{ ...capture, final: true }],
    // What comes back of the other half goes to the wallet, or under the hold.
    others: [capture, { ...capture, amount: null }],
  },
  {
    does: "capture of a part",
    first: { ...capture, amount: "4" },
    others: [
      { ...capture, amount: null },
      { ...capture, amount: "4", final: true },
      { ...paid, amount: "4" },
    ],
  },
  {
    does: "final capture",
    first: { ...capture, amount: "4", final: true },
    others: [
      { ...capture, amount: "4" },
      { ...capture, amount: null, final: true },
      { ...paid, amount: "4", final: true },
    ],
  },
  {
    does: "capture for a wallet",
    first: { ...paid, amount: "4" },
    same: [{ ...paid, amount: "4", to: { transferId: "another", walletId: "v" } }],
    others: [
      { ...paid, amount: null },
      { ...paid, amount: "4", final: true },
      { ...paid, amount: "4", to: { transferId: "t", walletId: "u" } },
      { ...paid, amount: "4", holdId: "i" },
      { ...capture, amount: "4" },
      { ...transfer, amount: "4" },
    ],
  },
  { does: "release", first: release, others: [{ ...release, holdId: "i" }, capture] },
  {
    does: "update",
    first: update,
    // They would leave the same metadata.
    same: [{ ...update, patch: '{"b":{"c":2}}' }],
    others: [{ ...update, patch: '{"b":{"c":3}}' }, { ...update, patch: '{"a":1}' }, activate],
  },
  { does: "suspend", first: suspend, others: [activate, close, update] },
  { does: "activate", first: activate, others: [suspend, close, debit] },
  {
    does: "close",
    first: close,
    on: wallet({ balanceMinor: ZERO }),
    others: [suspend, activate],
  },
];

describe.each(TABLE)("what $does has left", ({ first, on = HOLDING, same = [], others }) => {
  const given = { description: "why", metadata: on === null ? null : '{"a":1}' };
  const left = outcomeOf(commandOf(first, given), on) as CommandRecord;

  const isFit = (body: WalletCommand): boolean => fits(commandOf(body, given), left);

  it("fits its own input and what says the same", () => {
    expect([first, ...same].filter((body) => !isFit(body))).toEqual([]);
  });

  it("fits no other", () => {
    expect(others.filter(isFit)).toEqual([]);
    for (const over of [
      { description: null },
      { description: "another" },
      { metadata: '{"a":2}' },
      { expectedVersion: left.version },
      // Of what it has made nobody can have known a version.
      ...(left.creation === null ? [] : [{ expectedVersion: left.version - 1 }]),
    ]) {
      expect(fits(commandOf(first, { ...given, ...over }), left)).toBe(false);
    }
  });
});

it("What a creation without an id has left fits no creation with one", () => {
  const left = outcomeOf(commandOf(create, { proposedId: true }), null) as CommandRecord;
  expect(fits(commandOf(create, { proposedId: true }), left)).toBe(true);
  expect(fits(commandOf(create), left)).toBe(false);
});

it("A condition that held fits; whether there was one, the event does not keep", () => {
  const left = outcomeOf(commandOf(credit, { expectedVersion: 4 }), wallet()) as CommandRecord;
  for (const expectedVersion of [4, null]) {
    expect(fits(commandOf(credit, { expectedVersion }), left)).toBe(true);
  }
});

it("What a payee has refused may have been told to its transfer, and to nothing without a payee", () => {
  const payee = wallet({ walletId: "v", balanceMinor: amountMinor(10 ** 15 - 1) });
  const ask = { type: "receive", transferId: "t", fromWalletId: "w" } as const;
  const step = { ...ask, amountMinor: amountMinor(1_000), currency: "USD", decimalPlaces: 2 };
  const refusals = [
    checkReceive("v", null, step, ZERO),
    checkReceive("v", { ...payee, status: "CLOSED" }, step, ZERO),
    checkReceive("v", { ...payee, currency: "EUR" }, step, ZERO),
    checkReceive("v", payee, step, ZERO),
  ];
  for (const refusal of refusals) {
    const isTold = (body: WalletCommand): boolean => mayHaveBeenTold(commandOf(body), refusal!);
    const all = [transfer, paid, { ...paid, amount: null }, credit, spend, close];
    expect(all.map(isTold)).toEqual([true, true, true, false, false, false]);
  }
});

const ASKED = {
  create,
  credit,
  topup,
  debit,
  spend,
  transfer,
  hold,
  capture,
  captureAll: { ...capture, amount: null },
  paid,
  release,
  update,
  suspend,
  activate,
  close,
} satisfies Record<string, WalletCommand>;
type Name = keyof typeof ASKED;

const NAMES = Object.keys(ASKED) as Name[];
const NOT_CREATE = NAMES.filter((name) => name !== "create");
const OF_A_HOLD: Name[] = ["capture", "captureAll", "paid", "release"];
const OF_TEN: Name[] = ["credit", "debit", "spend", "transfer", "hold", "capture", "paid"];
const [ten, nine] = [amountMinor(10_00), amountMinor(9_00)];
const usd = { currency: "USD", decimalPlaces: 2 };
const of = { walletId: "w", ...usd };
const short = { code: "insufficient_funds", ...of, availableMinor: ZERO } as const;
const excess = { code: "capture_exceeds_hold", ...of, remainingMinor: nine } as const;
const another = { code: "owner_mismatch", walletId: "w", ownerId: "eve" } as const;

it.each<[why: string, told: Rejection, names: readonly Name[]]>([
  ["no wallet", { code: "wallet_not_found", walletId: "w" }, NOT_CREATE],
  ["none of another id", { code: "wallet_not_found", walletId: "x" }, []],
  ["a wallet already", { code: "wallet_already_exists", walletId: "w" }, ["create"]],
  [
    "another version",
    { code: "version_conflict", walletId: "w", expectedVersion: 3, version: 4 },
    [],
  ],
  [
    "a wallet that is not active",
    { code: "wallet_not_active", walletId: "w", status: "CLOSED" },
    NOT_CREATE,
  ],
  [
    "a wallet that is not empty",
    { code: "wallet_not_empty", ...of, balanceMinor: ten, heldMinor: ZERO, pendingMinor: ZERO },
    ["close"],
  ],
  ["no hold", { code: "hold_not_found", walletId: "w", holdId: "h" }, OF_A_HOLD],
  ["no other hold", { code: "hold_not_found", walletId: "w", holdId: "i" }, []],
  [
    "a hold that has ended",
    { code: "hold_not_active", walletId: "w", holdId: "h", status: "EXPIRED" },
    OF_A_HOLD,
  ],
  ["more than the hold", { ...excess, holdId: "h", requestedMinor: ten }, ["capture", "paid"]],
  ["more than another hold", { ...excess, holdId: "i", requestedMinor: ten }, []],
  ["another amount than the hold", { ...excess, holdId: "h", requestedMinor: nine }, []],
  [
    "an expiry in the past",
    { code: "invalid_expiry", walletId: "w", expiresAtMs: 1, nowMs: NOW_MS },
    ["hold"],
  ],
  ["too many holds", { code: "too_many_holds", walletId: "w", holdsMax: 1 }, ["hold"]],
  [
    "too much metadata",
    { code: "metadata_too_large", walletId: "w", bytes: 2, bytesMax: 1 },
    ["update"],
  ],
  ["an amount that does not fit", { code: "invalid_amount", amount: "10", ...usd }, OF_TEN],
  [
    "an amount out of range",
    { code: "amount_out_of_range", amount: "10", currency: "USD", walletId: "w" },
    [...OF_TEN, "create", "topup", "captureAll"],
  ],
  [
    "one wallet as payer and payee",
    { code: "same_wallet", walletId: "w" },
    ["transfer", "paid", "topup", "spend"],
  ],
  ["another owner than its own", { ...another, expectedOwnerId: "ann" }, ["topup", "spend"]],
  ["another owner than others'", { ...another, expectedOwnerId: "bob" }, []],
  ["too little money", { ...short, requestedMinor: ten }, ["debit", "spend", "transfer", "hold"]],
  ["too little for another amount", { ...short, requestedMinor: nine }, []],
])("Of %s may have been told whoever could have asked for it", (_why, told, names) => {
  const isTold = (name: Name): boolean => mayHaveBeenTold(commandOf(ASKED[name]), told);
  expect(NAMES.filter(isTold)).toEqual(NAMES.filter((name) => names.includes(name)));
});

it("Of a condition may have been told who set it, and a creation that set any of no wallet", () => {
  const conflict = { code: "version_conflict", walletId: "w", version: 4 } as const;
  for (const expectedVersion of [3, 5]) {
    const command = commandOf(credit, { expectedVersion: 3 });
    const isTold = mayHaveBeenTold(command, { ...conflict, expectedVersion });
    expect(isTold).toBe(expectedVersion === 3);
  }
  const creation = commandOf(create, { expectedVersion: 3 });
  expect(mayHaveBeenTold(creation, { code: "wallet_not_found", walletId: "w" })).toBe(true);
});

it("Of the time at which a hold ends may have been told who named it, or a span", () => {
  const past = { code: "invalid_expiry", walletId: "w", expiresAtMs: 1, nowMs: NOW_MS } as const;
  const told = [1, 2, null].map((expiresAtMs) => {
    return mayHaveBeenTold(commandOf({ ...hold, expiresAtMs }), past);
  });
  expect(told).toEqual([true, false, true]);
});
