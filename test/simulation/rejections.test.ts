/** The audit of every "no": which are believed of a wallet with a history, and which are not. */
import { expect, test } from "vitest";
import { amountMinor, ZERO } from "../../src/core/amount.ts";
import type { Command } from "../../src/core/protocol.ts";
import type { Rejection } from "../../src/core/rejection.ts";
import { apply } from "../../src/core/wallet.ts";
import { CREATED } from "../stage/journal-drafts.ts";
import { commandOf } from "../stage/staged-commands.ts";
import type { EventRow, SimulatedDatabase } from "./database.ts";
import { buildRecorder, type HistoryEntry } from "./history.ts";
import { checkRejections } from "./rejections.ts";

type Moment = Partial<Omit<EventRow, "amountMinor">> & { readonly amountMinor?: number };

const EMPTY = apply("w1", null, CREATED);
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

/** A hold as it is from then on; the last argument is its wallet's time and the end of the hold's. */
function held(holdId: string, status: string, [atMs, expiresAtMs]: Times = [0, null]): Moment {
  const hold = { holdId, status, amountMinor: 100, capturedMinor: 0, expiresAtMs };
  const type = status === "ACTIVE" ? "HoldPlaced" : "HoldReleased";
  return { type, occurredAtMs: atMs, data: { hold } };
}

type Times = readonly [atMs: number, expiresAtMs: number | null];

const ASSET = { currency: "USD", decimalPlaces: 2 };
const W1 = { walletId: "w1" } as const;

function notEmpty(balance: number, pending: number): Rejection {
  const minor = { balanceMinor: amountMinor(balance), pendingMinor: amountMinor(pending) };
  return { code: "wallet_not_empty", ...W1, heldMinor: ZERO, ...minor, ...ASSET };
}

function tooPoor(available: number, requested: number): Rejection {
  const minor = { availableMinor: amountMinor(available), requestedMinor: amountMinor(requested) };
  return { code: "insufficient_funds", ...W1, ...minor, ...ASSET };
}

function tooMuch(remaining: number, requested: number): Rejection {
  const minor = { remainingMinor: amountMinor(remaining), requestedMinor: amountMinor(requested) };
  return { code: "capture_exceeds_hold", ...W1, holdId: "a", ...minor, ...ASSET };
}

function holdIs(status: "RELEASED" | "EXPIRED"): Rejection {
  return { code: "hold_not_active", ...W1, holdId: "a", status };
}

function atVersion(version: number): Rejection {
  return { code: "version_conflict", ...W1, expectedVersion: 7, version };
}

/** A wallet's history, from version 0 on. */
function buildStage(moments: readonly Moment[]) {
  const events = moments.map((moment, version) => {
    return { version, balanceMinor: 0, heldMinor: 0, status: "ACTIVE", data: null, ...moment };
  });
  const history = buildRecorder(() => 0);
  const send = (rest: Partial<Command> = {}): HistoryEntry =>
    history.sent(commandOf("w1", { type: "close" }, rest));
  /** Somebody hears that the wallet is at that version. */
  function tell(version: number, rest: Partial<Command> = {}): void {
    const wallet = { ...EMPTY, version };
    history.answered(send(rest), { type: "done", wallet });
  }
  const refuse = (entry: HistoryEntry, rejection: Rejection, replayed = false): void =>
    history.answered(entry, { type: "rejected", rejection, replayed });
  function said(): string[] {
    const tables = { eventsOf: new Map([["w1", events]]) };
    return checkRejections([{ tables } as unknown as SimulatedDatabase], history);
  }
  return { send, tell, refuse, said };
}

/** What is said of this "no" of a wallet with these events. */
function saidOf(rejection: Rejection, moments: readonly Moment[]): string[] {
  const { send, refuse, said } = buildStage(moments);
  refuse(send(), rejection);
  return said();
}

const NOT_TRUE = [expect.stringContaining("was not true when")];

const TWO_MAX = { code: "too_many_holds", ...W1, holdsMax: 2 } as const;
const OUT_OF_RANGE = {
  code: "amount_out_of_range",
  amount: "1.00",
  currency: "USD",
  ...W1,
} as const;
const CURRENCY = { code: "currency_mismatch", ...W1, currency: "USD" } as const;
const OWNER = { code: "owner_mismatch", ...W1, ownerId: "ann" } as const;
const METADATA = { code: "metadata_too_large", ...W1, bytesMax: 8 } as const;
const EXPIRY = { code: "invalid_expiry", ...W1, nowMs: 500 } as const;
const NOT_ACTIVE = { code: "wallet_not_active", ...W1, status: "SUSPENDED" } as const;
const EXISTS = { code: "wallet_already_exists", ...W1 } as const;
const [PLACED, RELEASED] = [held("a", "ACTIVE"), held("a", "RELEASED")];

test.each<[string, Rejection, Moment[]]>([
  ["a balance", notEmpty(500, 0), [CREDITED]],
  ["a transfer under way", notEmpty(0, 500), [CREDITED, SENT]],
  ["as many holds as there may be", TWO_MAX, [PLACED, held("b", "ACTIVE")]],
  ["another currency", { ...CURRENCY, expectedCurrency: "EUR" }, [CREDITED]],
  ["another owner", { ...OWNER, expectedOwnerId: "bob" }, [CREDITED]],
  ["a wallet that is there", EXISTS, [CREDITED]],
  ["a version that was", atVersion(0), [CREDITED, SENT]],
  ["a status that was", NOT_ACTIVE, [{ type: "WalletSuspended", status: "SUSPENDED" }]],
  ["too little", tooPoor(500, 501), [CREDITED]],
  ["a hold that was released", holdIs("RELEASED"), [PLACED, RELEASED]],
  ["a hold that may be over", holdIs("EXPIRED"), [held("a", "ACTIVE", [1, 2])]],
  ["more than the hold has", tooMuch(100, 101), [PLACED]],
  ["an end that is past", { ...EXPIRY, expiresAtMs: 500 }, [CREDITED]],
  ["metadata that is too large", { ...METADATA, bytes: 9 }, [CREDITED]],
])("believed: %s", (_, rejection, moments) => {
  expect(saidOf(rejection, moments)).toEqual([]);
});

test.each<[string, Rejection, Moment[]]>([
  ["nothing is in the way", notEmpty(0, 0), [CREDITED, SENT]],
  ["a transfer that never left is under way", notEmpty(500, 500), [CREDITED]],
  ["one that came back is under way", notEmpty(500, 500), [CREDITED, SENT, RETURNED]],
  ["holds that have ended count", TWO_MAX, [RELEASED, held("b", "ACTIVE")]],
  ["nobody asked for so much", OUT_OF_RANGE, [CREDITED]],
  ["the currency is the same", { ...CURRENCY, expectedCurrency: "USD" }, [CREDITED]],
  ["the owner is the same", { ...OWNER, expectedOwnerId: "ann" }, [CREDITED]],
  ["no wallet is there", EXISTS, []],
  ["there was no such version", atVersion(2), [CREDITED, SENT]],
  ["it was active", NOT_ACTIVE, [CREDITED]],
  ["it had another amount", tooPoor(400, 501), [CREDITED]],
  ["it had enough", tooPoor(500, 500), [CREDITED]],
  ["it had enough with a hold that is over", tooPoor(0, 100), [held("a", "ACTIVE", [2, 2])]],
  ["the hold is active", holdIs("RELEASED"), [PLACED]],
  ["the hold has no end", holdIs("EXPIRED"), [PLACED]],
  ["the hold has so much", tooMuch(100, 100), [PLACED]],
  ["the hold has another amount", tooMuch(90, 101), [PLACED]],
  ["the end is to come", { ...EXPIRY, expiresAtMs: 501 }, [CREDITED]],
  ["the metadata fits", { ...METADATA, bytes: 8 }, [CREDITED]],
])("not believed, as %s", (_, rejection, moments) => {
  expect(saidOf(rejection, moments)).toEqual(NOT_TRUE);
});

const ABSENT = { code: "wallet_not_found", ...W1 } as const;
const NO_HOLD = { code: "hold_not_found", ...W1, holdId: "a" } as const;

test.each<[string, Rejection, told: number, string[]]>([
  ["the balance that it had before", notEmpty(500, 0), 1, NOT_TRUE],
  ["the balance that it has had since", notEmpty(0, 500), 0, []],
  ["that it is not there", ABSENT, 0, NOT_TRUE],
  ["that a hold is not there, which came later", NO_HOLD, 1, []],
  ["that a hold is not there, which was", NO_HOLD, 2, NOT_TRUE],
])("a wallet of which a version was told says %s", (_, rejection, version, said) => {
  const stage = buildStage([CREDITED, SENT, PLACED]);
  stage.tell(version);
  stage.refuse(stage.send(), rejection);
  expect(stage.said()).toEqual(said);
});

test("what a dry run tells of has not happened", () => {
  const stage = buildStage([CREDITED]);
  stage.tell(1, { dryRun: true });
  stage.refuse(stage.send(), notEmpty(500, 0));
  expect(stage.said()).toEqual([]);
});

test.each([
  [true, []],
  [false, NOT_TRUE],
])("a repeat may get the no of its first sending: %s", (replayed, said) => {
  const stage = buildStage([CREDITED, SENT]);
  stage.send({ commandId: "key" });
  stage.tell(1);
  stage.refuse(stage.send({ commandId: "key" }), notEmpty(500, 0), replayed);
  expect(stage.said()).toEqual(said);
});
