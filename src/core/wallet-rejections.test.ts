/**
 * Every rejection of a wallet, and which of two comes first: the precedence in the head of
 * wallet.ts.
 */
import { describe, expect, it } from "vitest";
import { amountMinor } from "./amount.ts";
import { LIMITS } from "../limits.ts";
import type { Rejection } from "./rejection.ts";
import {
  at,
  close,
  conflict,
  create,
  credit,
  debit,
  exists,
  FULL,
  insufficient,
  invalid,
  notActive,
  notEmpty,
  notFound,
  outOfRange,
  receive,
  sameWallet,
  suspend,
  suspended,
  tooLarge,
  transfer,
  update,
  wallet,
  type Case,
  type Receive,
} from "../../test/stage/wallet-fixtures.ts";
import { checkReceive, decide, type WalletState } from "./wallet.ts";

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
 * The order of precedence in wallet.ts, pair by pair. Money out meets 7 and never 8, money in the
 * other way round, and close has no amount: those pairs cannot hold both, so the next rule that can
 * is taken.
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
