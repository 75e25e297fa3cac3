/** Holds the error table, the business rejections and docs/errors.md together. */
import { readFileSync } from "node:fs";
import { describe, expect, it } from "vitest";

import { amountMinor } from "../src/core/amount.ts";
import type { Rejection, RejectionCode } from "../src/core/rejection.ts";
import { apiError, ERRORS, errorBody, faultError, rejectionError, statusOf } from "./errors.ts";
import type { ErrorCode } from "./errors.ts";
import type { FeedErrorCode } from "./feed/frames.ts";

const walletId = "w1";
const currency = "USD";

/** One of each; the type refuses a list that misses a code. */
const rejections: { [Code in RejectionCode]: Extract<Rejection, { code: Code }> } = {
  wallet_not_found: { code: "wallet_not_found", walletId },
  wallet_already_exists: { code: "wallet_already_exists", walletId },
  version_conflict: { code: "version_conflict", walletId, expectedVersion: 3, version: 4 },
  wallet_not_active: { code: "wallet_not_active", walletId, status: "SUSPENDED" },
  wallet_not_empty: {
    code: "wallet_not_empty",
    walletId,
    balanceMinor: amountMinor(1_000),
    heldMinor: amountMinor(200),
    pendingMinor: amountMinor(3),
    currency,
    decimalPlaces: 2,
  },
  hold_not_found: { code: "hold_not_found", walletId, holdId: "h1" },
  hold_not_active: { code: "hold_not_active", walletId, holdId: "h1", status: "EXPIRED" },
  capture_exceeds_hold: {
    code: "capture_exceeds_hold",
    walletId,
    holdId: "h1",
    remainingMinor: amountMinor(1_000),
    requestedMinor: amountMinor(2_500),
    currency,
    decimalPlaces: 2,
  },
  invalid_expiry: { code: "invalid_expiry", walletId, expiresAtMs: 1_000, nowMs: 2_000 },
  too_many_holds: { code: "too_many_holds", walletId, holdsMax: 10_000 },
  metadata_too_large: { code: "metadata_too_large", walletId, bytes: 9_000, bytesMax: 8_192 },
  invalid_amount: { code: "invalid_amount", amount: "0.001", currency, decimalPlaces: 2 },
  amount_out_of_range: { code: "amount_out_of_range", amount: "1", currency, walletId },
  same_wallet: { code: "same_wallet", walletId },
  currency_mismatch: { code: "currency_mismatch", walletId, currency, expectedCurrency: "EUR" },
  owner_mismatch: {
    code: "owner_mismatch",
    walletId: "u1:GOLD",
    ownerId: null,
    expectedOwnerId: "u1",
  },
  asset_not_found: { code: "asset_not_found", currency: "ABC" },
  insufficient_funds: {
    code: "insufficient_funds",
    walletId,
    availableMinor: amountMinor(1_000),
    requestedMinor: amountMinor(2_500),
    currency,
    decimalPlaces: 2,
  },
  idempotency_conflict: { code: "idempotency_conflict", commandId: "key" },
};

const page = readFileSync(new URL("../docs/errors.md", import.meta.url), "utf8");

/** Every code of the feed; the type refuses a list that misses one or has one too many. */
const feedCodes: { [Code in FeedErrorCode]: true } = {
  invalid_json: true,
  validation_failed: true,
  wallet_not_found: true,
  too_many_subscriptions: true,
  rate_limited: true,
};

/** Rows of the page's table: code and status. */
function documented(): Map<string, number> {
  const rows = page.matchAll(/^\| `(\w+)` *\| (\d+) *\| [^|]+ \| [^|]+ \|$/gm);
  return new Map([...rows].map(([, code, status]) => [code!, Number(status)]));
}

describe("the error table", () => {
  it.each(Object.values(rejections))("has a row and a sentence for $code", (rejection) => {
    const error = rejectionError(rejection);
    expect(ERRORS[error.code].status).toBeGreaterThanOrEqual(400);
    expect(error.message).not.toContain("undefined");
    expect(error.details).not.toHaveProperty("code");
  });

  it("is what docs/errors.md lists, code by code", () => {
    const rows = Object.entries(ERRORS).map(([code, { status }]) => [code, status] as const);
    expect(Object.fromEntries(documented())).toEqual(Object.fromEntries(rows));
  });

  it("has the feed's codes beside it on the page, code by code", () => {
    const [, ofFeed = ""] = page.split("## Errors of the feed");
    const codes = [...ofFeed.matchAll(/^\| `(\w+)` *\|/gm)].map(([, code]) => code);
    expect(codes).toEqual(Object.keys(feedCodes));
  });

  it("never gives two kinds of answer one status", () => {
    const codes = Object.keys(ERRORS) as ErrorCode[];
    expect(codes.filter((code) => statusOf(code) === 503)).toEqual([
      "unavailable",
      "overloaded",
      "query_too_slow",
    ]);
    expect(codes.filter((code) => statusOf(code) === 504)).toEqual(["outcome_unknown"]);
  });
});

it("an error tells amounts as decimals, in its sentence and in its details", () => {
  const error = rejectionError(rejections.insufficient_funds);
  expect(error.message).toBe(
    "Wallet w1 has insufficient funds: available 10.00 USD, requested 25.00 USD",
  );
  expect(error.details).toEqual({ walletId, currency, available: 10, requested: 25 });
});

it("an error about a wallet that is not empty says what is in it, each in figures", () => {
  const { message, details } = rejectionError(rejections.wallet_not_empty);
  expect(message).toBe(
    "Wallet w1 cannot be closed: it has a balance of 10.00 USD and 2.00 USD on hold and 0.03 USD in pending transfers",
  );
  expect(details).toEqual({ walletId, currency, balance: 10, held: 2, pending: 0.03 });
});

it("a conflict tells the key under the name that callers know it by", () => {
  const { details } = rejectionError(rejections.idempotency_conflict);
  expect(details).toEqual({ idempotencyKey: "key" });
});

it("an error is the same to the letter for a rejection that was stored and read back", () => {
  for (const rejection of Object.values(rejections)) {
    const readBack = Object.fromEntries(Object.entries(rejection).toReversed()) as Rejection;
    expect(JSON.stringify(rejectionError(readBack))).toBe(
      JSON.stringify(rejectionError(rejection)),
    );
  }
});

it("an unknown outcome tells the id to ask with", () => {
  expect(faultError("unknown", "id-1")).toMatchObject({
    code: "outcome_unknown",
    details: { idempotencyKey: "id-1" },
  });
  expect(faultError("overloaded", "id-1")).not.toHaveProperty("details");
});

it("an error body has a bounded path without the query, and no empty details", () => {
  const body = errorBody(apiError("not_found"), `/${"x".repeat(9_000)}?secret=1`, "c1", 0);
  expect(body).toMatchObject({
    statusCode: 404,
    error: "Not Found",
    code: "not_found",
    timestamp: "1970-01-01T00:00:00.000Z",
    correlationId: "c1",
  });
  expect(body.path).toHaveLength(512);
  expect(body).not.toHaveProperty("details");
});
