/** The audit of every "no": which are believed of a wallet with a history, and which are not. */
import { expect, test } from "vitest";
import { amountMinor, ZERO } from "../../src/amount.ts";
import type { Rejection } from "../../src/rejection.ts";
import { commandOf } from "../stage/staged-commands.ts";
import type { EventRow, SimulatedDatabase } from "./database.ts";
import { buildRecorder } from "./history.ts";
import { checkRejections } from "./rejections.ts";

type Moment = Partial<Omit<EventRow, "amountMinor">> & { readonly amountMinor?: number };

const CREDITED = {
  type: "WalletCredited",
  amountMinor: 500,
  balanceMinor: amountMinor(500),
} as const;
const SENT = { type: "TransferSent", amountMinor: 500, balanceMinor: ZERO } as const;
const RETURNED = {
  type: "TransferReturned",
  amountMinor: 500,
  balanceMinor: amountMinor(500),
} as const;

function held(holdId: string, status: string): Moment {
  const hold = { holdId, status, amountMinor: 100, capturedMinor: 0, expiresAtMs: null };
  return { type: status === "ACTIVE" ? "HoldPlaced" : "HoldReleased", data: { hold } };
}

function notEmpty(balance: number, pending: number): Rejection {
  const minor = { balanceMinor: amountMinor(balance), pendingMinor: amountMinor(pending) };
  const asset = { currency: "USD", decimalPlaces: 2 };
  return { code: "wallet_not_empty", walletId: "w1", heldMinor: ZERO, ...minor, ...asset };
}

/** What is said of this "no" of a wallet with these events. */
function saidOf(rejection: Rejection, ...moments: readonly Moment[]): string[] {
  const events = moments.map((moment, version) => {
    return { version, balanceMinor: 0, heldMinor: 0, status: "ACTIVE", data: null, ...moment };
  });
  const tables = { eventsOf: new Map([["w1", events]]) };
  const history = buildRecorder(() => 0);
  const entry = history.sent(commandOf("w1", { type: "close" }));
  history.answered(entry, { type: "rejected", rejection, replayed: false });
  return checkRejections([{ tables } as unknown as SimulatedDatabase], history);
}

const TWO_MAX = { code: "too_many_holds", walletId: "w1", holdsMax: 2 } as const;
const OUT_OF_RANGE = { code: "amount_out_of_range", amount: "1.00", currency: "USD" } as const;
const MISMATCH = { code: "currency_mismatch", walletId: "w1", currency: "USD" } as const;

test.each<[string, Rejection, Moment[]]>([
  ["a balance", notEmpty(500, 0), [CREDITED]],
  ["a transfer under way", notEmpty(0, 500), [CREDITED, SENT]],
  ["as many holds as there may be", TWO_MAX, [held("a", "ACTIVE"), held("b", "ACTIVE")]],
  ["another currency", { ...MISMATCH, expectedCurrency: "EUR" }, [CREDITED]],
])("believed: %s", (_, rejection, moments) => {
  expect(saidOf(rejection, ...moments)).toEqual([]);
});

test.each<[string, Rejection, Moment[]]>([
  ["nothing is in the way", notEmpty(0, 0), [CREDITED, SENT]],
  ["a transfer that never left is under way", notEmpty(500, 500), [CREDITED]],
  ["one that came back is under way", notEmpty(500, 500), [CREDITED, SENT, RETURNED]],
  ["holds that have ended count", TWO_MAX, [held("a", "RELEASED"), held("b", "ACTIVE")]],
  ["nobody asked for so much", { ...OUT_OF_RANGE, walletId: "w1" }, [CREDITED]],
  ["the currency is the same", { ...MISMATCH, expectedCurrency: "USD" }, [CREDITED]],
])("not believed, as %s", (_, rejection, moments) => {
  expect(saidOf(rejection, ...moments)).toEqual([expect.stringContaining("was not true when")]);
});
