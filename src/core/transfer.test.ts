/**
 * The record of a transfer at its payer's side: every step out of every state, and the pauses
 * between two attempts to get a verdict.
 *
 * Replay a failure: fast-check prints its seed; `FC_SEED=<seed> npx vitest run
 * src/core/transfer.test.ts` runs the same cases.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { amountMinor } from "./amount.ts";
import { LIMITS } from "../limits.ts";
import { drivePauseMs, settle, type Transfer, type Verdict } from "./transfer.ts";

const seed = process.env["FC_SEED"];
fc.configureGlobal(seed === undefined ? {} : { seed: Number(seed) });

const pending: Transfer = Object.freeze({
  transferId: "t1",
  fromWalletId: "payer",
  toWalletId: "payee",
  amountMinor: amountMinor(25_00),
  currency: "USD",
  decimalPlaces: 2,
  status: "pending",
  fromVersion: 3,
  toVersion: null,
  rejection: null,
  commandId: "c1",
  correlationId: "r1",
  description: "rent",
  createdAtMs: 1_000,
  settledAtMs: null,
  holdId: null,
  isHoldFinal: false,
});

const posted: Verdict = { type: "posted", toVersion: 8 };
const rejection = { code: "wallet_not_found", walletId: "payee" } as const;
const refused: Verdict = { type: "refused", rejection };

describe("settle", () => {
  it("given a pending transfer, when the payee has taken it, then it is posted at the payee's version", () => {
    expect(settle(pending, posted, 2_000)).toEqual({
      ...pending,
      status: "posted",
      toVersion: 8,
      settledAtMs: 2_000,
    });
  });

  it("given a pending transfer, when the payee has refused it, then it is returned and says why", () => {
    expect(settle(pending, refused, 2_000)).toEqual({
      ...pending,
      status: "returned",
      rejection,
      settledAtMs: 2_000,
    });
  });

  it.each([
    ["posted", "posted", posted, posted],
    ["posted", "refused", posted, refused],
    ["returned", "posted", refused, posted],
    ["returned", "refused", refused, refused],
  ])(
    "given a %s transfer, when it is %s (again), then it throws",
    (status, _then, first, second) => {
      const settled = settle(pending, first, 2_000);
      expect(() => settle(settled, second, 3_000)).toThrow(`transfer t1 is ${status} already`);
    },
  );

  it.each([
    [999, 1_000],
    [1_000, 1_000],
    [1_001, 1_001],
  ])(
    "at %i ms by a clock that may have gone back, it is settled at %i ms",
    (nowMs, settledAtMs) => {
      expect(settle(pending, posted, nowMs).settledAtMs).toBe(settledAtMs);
      expect(settle(pending, refused, nowMs).settledAtMs).toBe(settledAtMs);
    },
  );
});

describe("the pause before the next attempt", () => {
  it("doubles from the first bound to the longest", () => {
    let expectedMs: number = LIMITS.transferDriveMs;
    for (let attempts = 1; attempts <= 64; attempts++) {
      expect(drivePauseMs(attempts)).toBe(expectedMs);
      expectedMs = Math.min(expectedMs + expectedMs, LIMITS.transferDriveMsMax);
    }
  });

  it("stays within both bounds and never shrinks, however many attempts there were", () => {
    const counts = fc.oneof(
      fc.integer({ min: 1, max: 64 }),
      fc.integer({ min: 1, max: Number.MAX_SAFE_INTEGER - 1 }),
    );
    fc.assert(
      fc.property(counts, (attempts) => {
        const pauseMs = drivePauseMs(attempts);
        expect(pauseMs).toBeGreaterThanOrEqual(LIMITS.transferDriveMs);
        expect(pauseMs).toBeLessThanOrEqual(LIMITS.transferDriveMsMax);
        expect(drivePauseMs(attempts + 1)).toBeGreaterThanOrEqual(pauseMs);
      }),
    );
  });
});
