/**
 * The wallet by example: what each command does and what each event leaves behind, every command in
 * every status. Its rejections are in wallet-rejections.test.ts, the arbitrary walks in
 * wallet.model.test.ts.
 */
import { describe, expect, it } from "vitest";
import { amountMinor } from "./amount.ts";
import { LIMITS } from "../limits.ts";
import type { Rejection, RejectionCode } from "./rejection.ts";
import { availableMinor } from "./rules.ts";
import {
  accept,
  activate,
  at,
  close,
  create,
  credit,
  debit,
  FULL,
  giveBack,
  hold,
  invalid,
  notActive,
  notFound,
  NOW_MS,
  receive,
  suspend,
  suspended,
  transfer,
  update,
  wallet,
  type Case,
} from "../../test/stage/wallet-fixtures.ts";
import {
  apply,
  checkReceive,
  decide,
  transferEvent,
  type WalletCommand,
  type WalletEvent,
  type WalletState,
} from "./wallet.ts";

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

  const named = hold({ amountMinor: amountMinor(1_00), capturedMinor: amountMinor(0) });

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
    [
      "after the end",
      wallet({ balance: 0, status: "CLOSED" }),
      moved("WalletCredited", 1),
      "wallet w1 is closed for ever",
    ],
    [
      "closed with money",
      wallet(),
      { type: "WalletClosed", occurredAtMs },
      "wallet w1 is closed with money",
    ],
    [
      "before the one before it",
      wallet(),
      { type: "WalletSuspended", occurredAtMs: wallet().updatedAtMs - 1 },
      "the clock of wallet w1 went back",
    ],
  ])("%s", (_why, state, event, message) => {
    expect(() => apply("w1", state, event)).toThrow(message);
  });
});
