/** The sentences of rejections, as people read them. */
import { describe, expect, it } from "vitest";
import { amountMinor } from "./amount.ts";
import { describe as sentenceOf, type Rejection, type RejectionCode } from "./rejection.ts";
import { notEmpty } from "../../test/stage/wallet-fixtures.ts";

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
      [
        { code: "invalid_expiry", walletId: "w1", expiresAtMs: 5, nowMs: 5 },
        "A hold of wallet w1 must expire in the future, not now",
      ],
      [
        { code: "invalid_expiry", walletId: "w1", expiresAtMs: 0, nowMs: 7_199_999 },
        "A hold of wallet w1 must expire in the future, not 119 minutes ago",
      ],
      [
        { code: "invalid_expiry", walletId: "w1", expiresAtMs: 0, nowMs: 7_200_000 },
        "A hold of wallet w1 must expire in the future, not 2 hours ago",
      ],
      [
        { code: "invalid_expiry", walletId: "w1", expiresAtMs: 0, nowMs: 217_496_397_675 },
        "A hold of wallet w1 must expire in the future, not 2517 days ago",
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
