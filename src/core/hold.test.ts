/**
 * Holds, case by case: what each command makes of a hold and its wallet, every rule it can break
 * and which of two comes first, and what a transfer that comes back does to the hold it came from.
 */
import { describe, expect, it } from "vitest";

import { amountMinor, type AmountMinor } from "./amount.ts";
import { assertHold, isDue, moveHold, remainingMinor, type Hold, type HoldMove } from "./hold.ts";
import { completionEvent, expiryEvent } from "./holding.ts";
import { LIMITS } from "../limits.ts";
import type { RejectionCode } from "./rejection.ts";
import {
  apply,
  decide,
  transferEvent,
  type WalletCommand,
  type WalletEvent,
  type WalletState,
} from "./wallet.ts";

const NOW_MS = 10_000;
const m = amountMinor;

function hold(over: Partial<Hold> = {}): Hold {
  return Object.freeze({
    holdId: "h1",
    walletId: "w1",
    amountMinor: m(10_00),
    capturedMinor: m(0),
    status: "ACTIVE",
    kind: "PAYMENT",
    reference: "order-1",
    description: null,
    expiresAtMs: null,
    createdAtMs: 5_000,
    capturedAtMs: null,
    releasedAtMs: null,
    ...over,
  });
}

/** With 20.00, of which 10.00 are under the hold. */
function wallet(over: Partial<WalletState> = {}): WalletState {
  return Object.freeze({
    walletId: "w1",
    ownerId: null,
    currency: "USD",
    decimalPlaces: 2,
    balanceMinor: m(20_00),
    heldMinor: m(10_00),
    status: "ACTIVE",
    version: 7,
    metadata: "{}",
    createdAtMs: 1_000,
    updatedAtMs: 6_000,
    ...over,
  });
}

type Place = Extract<WalletCommand, { type: "hold" }>;
type Capture = Extract<WalletCommand, { type: "capture" }>;

const place = (amount: string, over: Partial<Place> = {}): Place => ({
  type: "hold",
  holdId: "h2",
  amount,
  kind: "ESCROW",
  reference: null,
  description: "deposit",
  expiresAtMs: null,
  expiresInSeconds: null,
  ...over,
});
const capture = (amount: string | null, over: Partial<Capture> = {}): Capture => {
  return { type: "capture", holdId: "h1", amount, final: false, to: null, ...over };
};
const release: WalletCommand = { type: "release", holdId: "h1" };
const captured = (amount: number, isFinal = false) =>
  ({ type: "captured", amountMinor: m(amount), isFinal }) as const;
const toOther = { transferId: "t1", walletId: "w2" };

interface Given {
  readonly state?: WalletState;
  readonly named?: Hold | null;
  readonly nowMs?: number;
  readonly activeCount?: number;
  readonly expectedVersion?: number;
}

function given({ state = wallet(), named = hold(), ...over }: Given = {}) {
  const { nowMs = NOW_MS, activeCount = 1, expectedVersion = null } = over;
  const at = { nowMs, expectedVersion, pendingOutMinor: m(0), holds: { named, activeCount } };
  return { state, at };
}

/** The one event of a command that must be accepted, and the wallet after it. */
function accept(command: WalletCommand, over: Given = {}) {
  const { state, at } = given(over);
  const decision = decide("w1", state, command, at);
  if (!decision.ok) throw new Error(`rejected: ${decision.rejection.code}`);
  const [event, ...others] = decision.events as [WalletEvent];
  expect(others).toEqual([]);
  const after = apply("w1", state, event);
  if (!("hold" in event)) throw new Error(`${event.type} tells of no hold`);
  return { event, hold: event.hold, after };
}

function rejectionOf(command: WalletCommand, over: Given = {}): RejectionCode | null {
  const { state, at } = given(over);
  const decision = decide("w1", state, command, at);
  return decision.ok ? null : decision.rejection.code;
}

const money = ({ balanceMinor, heldMinor }: WalletState): [number, number] => [
  balanceMinor,
  heldMinor,
];

describe("placing", () => {
  it("sets the amount aside and leaves the balance as it is", () => {
    const { event, hold: placed, after } = accept(place("4.5"));
    expect(event.type).toBe("HoldPlaced");
    expect(placed).toEqual({
      holdId: "h2",
      walletId: "w1",
      amountMinor: 4_50,
      capturedMinor: 0,
      status: "ACTIVE",
      kind: "ESCROW",
      reference: null,
      description: "deposit",
      expiresAtMs: null,
      createdAtMs: NOW_MS,
      capturedAtMs: null,
      releasedAtMs: null,
    });
    expect(after).toEqual({
      ...wallet(),
      heldMinor: 14_50,
      version: 8,
      updatedAtMs: NOW_MS,
    });
  });

  it("takes all that is available, and not a cent more", () => {
    expect(money(accept(place("10")).after)).toEqual([20_00, 20_00]);
    expect(rejectionOf(place("10.01"))).toBe("insufficient_funds");
  });

  it("counts seconds from the wallet's clock, which never goes back", () => {
    const inOne = place("1", { expiresInSeconds: 1 });
    expect(accept(inOne).hold.expiresAtMs).toBe(NOW_MS + 1_000);
    const ahead = wallet({ updatedAtMs: 60_000 });
    expect(accept(inOne, { state: ahead }).hold.expiresAtMs).toBe(61_000);
    const at = place("1", { expiresAtMs: 30_000 });
    expect(rejectionOf(at, { state: ahead })).toBe("invalid_expiry");
  });

  it("must expire after it begins", () => {
    expect(rejectionOf(place("1", { expiresAtMs: NOW_MS }))).toBe("invalid_expiry");
    expect(accept(place("1", { expiresAtMs: NOW_MS + 1 })).hold.expiresAtMs).toBe(NOW_MS + 1);
  });

  it("ends at the bound of active holds", () => {
    const activeCount = LIMITS.holdsPerWalletMax;
    expect(rejectionOf(place("1"), { activeCount })).toBe("too_many_holds");
    expect(rejectionOf(place("1"), { activeCount: activeCount - 1 })).toBeNull();
  });
});

describe("a capture", () => {
  it("in part leaves the rest held", () => {
    const { event, hold: after, after: state } = accept(capture("4"));
    expect(event).toMatchObject({ type: "HoldCaptured", amountMinor: 4_00, releasedMinor: 0 });
    expect(after).toEqual(hold({ capturedMinor: m(4_00) }));
    expect(remainingMinor(after)).toBe(6_00);
    expect(money(state)).toEqual([16_00, 6_00]);
  });

  it.each([null, "10"])("of all that is left (%s) ends the hold", (amount) => {
    const { event, hold: after, after: state } = accept(capture(amount));
    expect(event).toMatchObject({ amountMinor: 10_00, releasedMinor: 0 });
    expect(after).toMatchObject({
      status: "CAPTURED",
      capturedMinor: 10_00,
      capturedAtMs: NOW_MS,
      releasedAtMs: null,
    });
    expect(money(state)).toEqual([10_00, 0]);
  });

  it("of what an earlier one has left takes no more than that", () => {
    const named = hold({ capturedMinor: m(7_00) });
    const state = wallet({ balanceMinor: m(13_00), heldMinor: m(3_00) });
    const { hold: after, after: then } = accept(capture(null), { named, state });
    expect(after).toMatchObject({ status: "CAPTURED", capturedMinor: 10_00 });
    expect(money(then)).toEqual([10_00, 0]);
    expect(rejectionOf(capture("3.01"), { named, state })).toBe("capture_exceeds_hold");
  });

  it("that is final makes the rest available", () => {
    const { event, hold: after, after: state } = accept(capture("4", { final: true }));
    expect(event).toMatchObject({ amountMinor: 4_00, releasedMinor: 6_00 });
    expect(after).toMatchObject({
      status: "CAPTURED",
      capturedMinor: 4_00,
      capturedAtMs: NOW_MS,
      releasedAtMs: NOW_MS,
    });
    expect(remainingMinor(after)).toBe(0);
    expect(money(state)).toEqual([16_00, 0]);
  });

  it("paid to a wallet sends a transfer, and keeps the rest until the payee has it, also when final", () => {
    const { event, hold: after, after: state } = accept(capture("4", { to: toOther, final: true }));
    expect(event).toMatchObject({
      type: "TransferSent",
      amountMinor: 4_00,
      transferId: "t1",
      counterpartyId: "w2",
    });
    expect(after).toEqual(hold({ capturedMinor: m(4_00) }));
    expect(money(state)).toEqual([16_00, 6_00]);
    const completed = completionEvent(state, after, m(4_00), NOW_MS)!;
    expect(completed).toMatchObject({
      type: "HoldReleased",
      releasedMinor: 6_00,
      hold: { status: "CAPTURED", capturedMinor: 4_00, releasedAtMs: NOW_MS },
    });
    expect(money(apply("w1", state, completed))).toEqual([16_00, 0]);
  });

  it("whose transfer has arrived releases nothing when the hold has ended meanwhile", () => {
    const sent = moveHold(hold(), captured(4_00), NOW_MS);
    for (const move of [{ type: "released" }, { type: "expired" }, captured(1_00, true)] as const) {
      const ended = moveHold(sent, move, NOW_MS);
      expect(completionEvent(wallet(), ended, m(4_00), NOW_MS + 1)).toBeNull();
    }
  });

  it("of the whole amount ends as any other does, since nothing of the hold can come back", () => {
    const { hold: after } = accept(capture(null, { final: true }));
    expect(after).toEqual(moveHold(hold(), captured(10_00), NOW_MS));
    expect(completionEvent(wallet(), after, m(10_00), NOW_MS)).toBeNull();
  });
});

describe("a release", () => {
  it("makes what is left available, also of a suspended wallet", () => {
    const named = hold({ capturedMinor: m(4_00) });
    const state = wallet({ balanceMinor: m(16_00), heldMinor: m(6_00), status: "SUSPENDED" });
    const { event, hold: after, after: then } = accept(release, { named, state });
    expect(event).toMatchObject({ type: "HoldReleased", releasedMinor: 6_00 });
    expect(after).toMatchObject({ status: "RELEASED", capturedMinor: 4_00, releasedAtMs: NOW_MS });
    expect(money(then)).toEqual([16_00, 0]);
  });
});

describe("expiry", () => {
  const named = hold({ expiresAtMs: 9_000 });

  it("ends a hold at its time and not before, also of a suspended wallet", () => {
    const state = wallet({ status: "SUSPENDED" });
    expect(expiryEvent(state, named, 8_999)).toBeNull();
    const event = expiryEvent(state, named, 9_000)!;
    expect(event).toMatchObject({
      type: "HoldExpired",
      releasedMinor: 10_00,
      hold: { status: "EXPIRED", releasedAtMs: 9_000 },
    });
    expect(money(apply("w1", state, event))).toEqual([20_00, 0]);
  });

  it("happens once, and not to a hold that ended in another way or never expires", () => {
    const ended = moveHold(named, { type: "released" }, NOW_MS);
    expect(expiryEvent(wallet(), ended, NOW_MS)).toBeNull();
    expect(expiryEvent(wallet(), hold(), NOW_MS)).toBeNull();
  });

  it("race: counts for captures and releases before anybody has written it", () => {
    for (const command of [capture("1"), capture(null, { to: toOther }), release]) {
      expect(rejectionOf(command, { named, nowMs: 8_999 })).toBeNull();
      expect(rejectionOf(command, { named, nowMs: 9_000 })).toBe("hold_not_active");
    }
  });

  it("race: a clock that goes back brings no hold back", () => {
    const state = wallet({ updatedAtMs: 9_500 });
    expect(rejectionOf(capture("1"), { named, state, nowMs: 8_000 })).toBe("hold_not_active");
    expect(isDue(named, 9_000)).toBe(true);
  });

  it("says so in the rejection", () => {
    const { state, at } = given({ named });
    const decision = decide("w1", state, release, at);
    const [walletId, holdId] = ["w1", "h1"];
    const rejection = { code: "hold_not_active", walletId, holdId, status: "EXPIRED" };
    expect(decision).toEqual({ ok: false, rejection });
  });
});

describe("a transfer that comes back", () => {
  const back = (state: WalletState, of: Hold, amount: number) => {
    const step = { type: "return", transferId: "t1", toWalletId: "w2", hold: of } as const;
    const event = transferEvent(state, { ...step, amountMinor: m(amount) }, NOW_MS + 1);
    return { after: apply("w1", state, event), hold: event.hold! };
  };

  it.each([null, "4"])("goes under the hold again, as if nothing had happened (%s)", (amount) => {
    const sent = accept(capture(amount, { to: toOther }));
    const returned = back(sent.after, sent.hold, amount === null ? 10_00 : 4_00);
    expect(returned.hold).toEqual(hold());
    expect(money(returned.after)).toEqual([20_00, 10_00]);
  });

  it.each<[string, HoldMove]>([
    ["released", { type: "released" }],
    ["expired", { type: "expired" }],
    ["captured by a final capture", captured(1_00, true)],
    ["captured by a final capture to the last cent", captured(6_00, true)],
    ["completed by another transfer", { type: "completed" }],
  ])("goes to the wallet when the hold was %s meanwhile", (_how, move) => {
    const sent = accept(capture("4", { to: toOther }));
    const ended = moveHold(sent.hold, move, NOW_MS);
    const state = { ...sent.after, heldMinor: m(0) };
    const returned = back(state, ended, 4_00);
    expect(money(returned.after)).toEqual([20_00, 0]);
    expect(returned.hold).toEqual({ ...ended, capturedMinor: ended.capturedMinor - 4_00 });
  });

  it("opens a hold again that other captures have emptied, for its own part", () => {
    const sent = accept(capture("4", { to: toOther }));
    const emptied = accept(capture(null), { state: sent.after, named: sent.hold });
    expect(emptied.hold.status).toBe("CAPTURED");
    const returned = back(emptied.after, emptied.hold, 4_00);
    expect(returned.hold).toMatchObject({ status: "ACTIVE", capturedMinor: 6_00 });
    expect(money(returned.after)).toEqual([14_00, 4_00]);
  });

  it("goes to the wallet also when the final capture that took the rest was a transfer", () => {
    const sent = accept(capture("4", { to: toOther }));
    const last = accept(capture(null, { to: { ...toOther, transferId: "t2" }, final: true }), {
      state: sent.after,
      named: sent.hold,
    });
    expect(last.hold).toMatchObject({ status: "CAPTURED", releasedAtMs: null });
    // Refused, it would have put the hold back as it was; arrived, it has ended it.
    expect(back(last.after, last.hold, 6_00).hold).toEqual(sent.hold);
    const ended = completionEvent(last.after, last.hold, m(6_00), NOW_MS + 1)!;
    expect(ended).toMatchObject({
      type: "HoldReleased",
      releasedMinor: 0,
      hold: { status: "CAPTURED", capturedAtMs: NOW_MS, releasedAtMs: NOW_MS + 1 },
    });
    const returned = back(apply("w1", last.after, ended), (ended as { hold: Hold }).hold, 4_00);
    expect(returned.hold).toMatchObject({ status: "CAPTURED", capturedMinor: 6_00 });
    expect(money(returned.after)).toEqual([14_00, 0]);
  });

  it("opens a hold again that an earlier version captured to the last cent, final or not", () => {
    const old = hold({ capturedMinor: m(10_00), status: "CAPTURED", capturedAtMs: NOW_MS });
    const state = wallet({ balanceMinor: m(10_00), heldMinor: m(0) });
    expect(back(state, old, 4_00).hold).toMatchObject({ status: "ACTIVE", capturedMinor: 6_00 });
  });

  it("lets a hold that is open again expire at its time", () => {
    const named = hold({ expiresAtMs: NOW_MS + 1 });
    const sent = accept(capture(null, { to: toOther }), { named });
    expect(expiryEvent(sent.after, sent.hold, NOW_MS + 1)).toBeNull();
    const returned = back(sent.after, sent.hold, 10_00);
    const event = expiryEvent(returned.after, returned.hold, NOW_MS + 1)!;
    expect(money(apply("w1", returned.after, event))).toEqual([20_00, 0]);
  });
});

describe("of two reasons to refuse, the first in the list is told", () => {
  const suspended = wallet({ status: "SUSPENDED" });
  const released = moveHold(hold(), { type: "released" }, 6_000);
  const toSelf = { transferId: "t1", walletId: "w1" };
  it.each<[RejectionCode, WalletCommand, Given]>([
    ["same_wallet", capture("1", { to: toSelf }), { expectedVersion: 3 }],
    ["version_conflict", capture("1"), { expectedVersion: 3, state: suspended }],
    ["wallet_not_active", capture("1"), { state: suspended, named: null }],
    ["wallet_not_active", place("0.001"), { state: suspended }],
    ["wallet_not_active", release, { state: wallet({ status: "CLOSED" }), named: null }],
    ["hold_not_found", capture("0.001"), { named: null }],
    ["hold_not_found", release, { named: null, state: suspended }],
    ["hold_not_active", capture("0.001"), { named: released }],
    ["hold_not_active", release, { named: released }],
    ["invalid_amount", capture("0.001"), {}],
    ["amount_out_of_range", capture("10000000000000"), {}],
    ["capture_exceeds_hold", capture("10.01"), {}],
    ["invalid_amount", place("0.001", { expiresAtMs: 1 }), {}],
    ["invalid_expiry", place("11", { expiresAtMs: 1 }), {}],
    ["insufficient_funds", place("11"), { activeCount: LIMITS.holdsPerWalletMax }],
  ])("%s", (code, command, over) => {
    expect(rejectionOf(command, over)).toBe(code);
  });

  it("is not_found for a wallet that does not exist", () => {
    const { at } = given();
    for (const command of [place("1"), capture("1"), release]) {
      const decision = decide("w1", null, command, at);
      expect(decision).toMatchObject({ rejection: { code: "wallet_not_found" } });
    }
  });
});

describe("what is broken throws", () => {
  const events: [string, WalletEvent | (() => unknown)][] = [
    ["more held than there is", { type: "HoldPlaced", hold: hold({ amountMinor: m(30_00) }) }],
    [
      "more captured than held",
      { type: "HoldCaptured", amountMinor: m(10_01), releasedMinor: m(0), hold: hold() },
    ],
    ["more released than held", { type: "HoldReleased", releasedMinor: m(10_01), hold: hold() }],
    ["a hold of nothing", { type: "HoldPlaced", hold: hold({ amountMinor: m(0) }) }],
    [
      "an active hold without a rest",
      { type: "HoldPlaced", hold: hold({ capturedMinor: m(10_00) }) },
    ],
  ].map(([what, event]) => [
    what as string,
    { ...(event as object), occurredAtMs: NOW_MS } as WalletEvent,
  ]);
  it.each(events)("%s", (_what, event) => {
    expect(() => apply("w1", wallet(), event as WalletEvent)).toThrow(/would have|cannot be/);
  });

  const ended = moveHold(hold(), { type: "expired" }, NOW_MS);
  const moves: HoldMove[] = [
    { type: "captured", amountMinor: m(1), isFinal: false },
    { type: "completed" },
    { type: "released" },
    { type: "expired" },
  ];
  it.each(moves)("$type after the end", (move) => {
    expect(() => moveHold(ended, move, NOW_MS)).toThrow(/is EXPIRED/);
  });

  it.each<HoldMove>([
    { type: "captured", amountMinor: m(1), isFinal: false },
    { type: "released" },
    { type: "expired" },
  ])("$type of one that captures have emptied", (move) => {
    const emptied = hold({ capturedMinor: m(10_00), status: "CAPTURED", capturedAtMs: NOW_MS });
    expect(() => moveHold(emptied, move, NOW_MS)).toThrow("is CAPTURED and cannot be");
  });

  const released = { status: "RELEASED", releasedAtMs: NOW_MS } as const;
  const captured = { status: "CAPTURED", capturedAtMs: NOW_MS } as const;
  it.each<[why: string, over: Partial<Hold>]>([
    ["nothing was held", { ...released, amountMinor: m(0) }],
    ["less than nothing was captured", { capturedMinor: m(-1) }],
    ["active, and nothing is left", { capturedMinor: m(10_00) }],
    ["ended, and more was captured than held", { ...released, capturedMinor: m(10_01) }],
    ["captured at no time", { status: "CAPTURED", capturedMinor: m(10_00) }],
    ["captured at a time, but not captured", { ...released, capturedAtMs: NOW_MS }],
    ["active, and ended", { releasedAtMs: NOW_MS }],
    ["released at no time", { status: "RELEASED" }],
    ["expired at no time", { status: "EXPIRED" }],
    ["captured in part, and the rest was not let go", { ...captured, capturedMinor: m(9_99) }],
  ])("a hold of which %s", (_why, over) => {
    expect(() => assertHold(hold(over))).toThrow("hold h1 cannot be");
  });

  it("more captured than left, more back than captured", () => {
    const move = (type: "captured" | "returned", amount: AmountMinor) => () =>
      moveHold(hold(), { type, amountMinor: amount, isFinal: true }, NOW_MS);
    expect(move("captured", m(10_01))).toThrow("left to capture");
    expect(move("returned", m(1))).toThrow("more than was captured");
    expect(() => assertHold(hold())).not.toThrow();
  });
});
