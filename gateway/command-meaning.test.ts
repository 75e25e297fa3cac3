/**
 * What each request means: the command that it becomes, field by field, what is refused of it, and
 * its fingerprint, which is on record as long as keys are kept and so must never change.
 */
import { describe, expect, it } from "vitest";

import { assetOf } from "../src/assets.ts";
import { LIMITS } from "../src/limits.ts";
import type { WalletCommand } from "../src/core/wallet.ts";
import {
  buildCommandIntake,
  isLongerThan,
  type Intake,
  type RequestFields,
  type RequestOrigin,
  type RequestType,
} from "./command-intake.ts";

const takeIn = buildCommandIntake(assetOf);
const keyed: RequestOrigin = { correlationId: "made", isCorrelationNew: true, key: "key-1" };
const unkeyed: RequestOrigin = { ...keyed, key: undefined };
const ID: unknown = expect.stringMatching(/^[\da-f-]{36}$/);

function commandOf(intake: Intake) {
  if (!intake.ok) throw new Error(`refused: ${intake.error.message}`);
  return intake.command;
}

const user = { ownerId: "u1", currency: "USD" };
const created = { ...user, ownerId: null, decimalPlaces: 2, initialBalance: null, metadata: "{}" };
const held = { holdId: ID, reference: null, description: null, expiresAtMs: null };

interface Row {
  readonly asks: RequestType;
  readonly fields: RequestFields;
  readonly body: Record<keyof never, unknown> & Pick<WalletCommand, "type">;
  /** With the key, for wallet "w1"; hold a change against what stands in databases. */
  readonly fingerprint: string;
}

const ROWS: readonly Row[] = [
  {
    asks: "create",
    fields: {},
    body: { type: "create", ...created },
    fingerprint: "rvYz35-1-n2t97HEQyns45",
  },
  {
    asks: "create",
    fields: { ...user, initialBalance: "0.50", metadata: { b: 1, a: null } },
    body: {
      type: "create",
      ...created,
      ownerId: "u1",
      initialBalance: "0.5",
      metadata: '{"a":null,"b":1}',
    },
    fingerprint: "iU6FeQGXSEGrhv4w_Ml_NH",
  },
  {
    asks: "credit",
    fields: { amount: 10, description: "why", metadata: { a: 1 }, expectedVersion: 3 },
    body: { type: "credit", amount: "10", kind: "CREDIT" },
    fingerprint: "CfiWOlNbs0DtcC7HhPxrYi",
  },
  {
    asks: "fund",
    fields: { amount: 10 },
    body: { type: "credit", amount: "10", kind: "FUND" },
    fingerprint: "ok-psnVzyqn5BIpFNWLFrU",
  },
  {
    asks: "debit",
    fields: { amount: 10 },
    body: { type: "debit", amount: "10" },
    fingerprint: "Txnks1wucVXuW-Ij1gXUyh",
  },
  {
    asks: "topup",
    fields: { ...user, amount: 10 },
    body: { type: "credit", amount: "10", kind: "TOPUP", of: { ...user, decimalPlaces: 2 } },
    fingerprint: "3IBfOzRYD7b45Y_dUG4MP_",
  },
  {
    asks: "bonus",
    fields: { ...user, amount: 10 },
    body: { type: "credit", amount: "10", kind: "BONUS", of: { ...user, decimalPlaces: 2 } },
    fingerprint: "FytVY2UEyOK8gWNRwX5uzj",
  },
  {
    asks: "spend",
    fields: { ...user, amount: 10 },
    body: { type: "debit", amount: "10", kind: "SPEND", of: user },
    fingerprint: "bGONqrsTugkaPQKY59_5hr",
  },
  {
    asks: "transfer",
    fields: { amount: 10, toWalletId: "w2" },
    body: { type: "transfer", transferId: ID, toWalletId: "w2", amount: "10" },
    fingerprint: "AR9cJlntKkrMJWJaZVWEPU",
  },
  {
    asks: "hold",
    fields: { amount: 10 },
    body: { type: "hold", ...held, amount: "10", kind: "PAYMENT", expiresInSeconds: null },
    fingerprint: "POb2KRV0MSZ36bQqJewFE9",
  },
  {
    asks: "hold",
    fields: { amount: 10, type: "ESCROW", reference: "r", description: "d", expiresInSeconds: 60 },
    body: {
      type: "hold",
      ...held,
      amount: "10",
      kind: "ESCROW",
      reference: "r",
      description: "d",
      expiresInSeconds: 60,
    },
    fingerprint: "j4WD011Wct2ppbYAwjxScr",
  },
  {
    asks: "hold",
    fields: { amount: 10, expiresAt: "2030-01-01T00:00:00Z" },
    body: {
      type: "hold",
      ...held,
      amount: "10",
      kind: "PAYMENT",
      expiresAtMs: Date.UTC(2030, 0, 1),
      expiresInSeconds: null,
    },
    fingerprint: "hwBNZpB8u5z-1eYE7pQAay",
  },
  {
    asks: "capture",
    fields: { holdId: "h1" },
    body: { type: "capture", holdId: "h1", amount: null, final: false, to: null },
    fingerprint: "m5e00MxrEEIDRXp7hEjPct",
  },
  {
    asks: "capture",
    fields: { holdId: "h1", amount: "4.00", final: true, toWalletId: "w2" },
    body: {
      type: "capture",
      holdId: "h1",
      amount: "4",
      final: true,
      to: { transferId: ID, walletId: "w2" },
    },
    fingerprint: "p9uRVsHMdXMNyisZuzHPSR",
  },
  {
    asks: "release",
    fields: { holdId: "h1" },
    body: { type: "release", holdId: "h1" },
    fingerprint: "_bl0K-I0EaJ9qHkEC_llc9",
  },
  {
    asks: "update",
    fields: { metadata: { tier: "gold", case: null } },
    body: { type: "update", patch: '{"case":null,"tier":"gold"}' },
    fingerprint: "gEgH8f4Wy3Rk7IZ4S5_Bgq",
  },
  {
    asks: "suspend",
    fields: { reason: "stolen" },
    body: { type: "suspend" },
    fingerprint: "Zha-O5y2xjllBdo-4KmeGh",
  },
  {
    asks: "activate",
    fields: {},
    body: { type: "activate" },
    fingerprint: "LgSjCcCPjRNUJUFb8vi269",
  },
  { asks: "close", fields: {}, body: { type: "close" }, fingerprint: "-N513GvS9StbmznYrfnCSY" },
];

describe.each(ROWS)("$asks with $fields", ({ asks, fields, body, fingerprint }) => {
  it("is this command", () => {
    const command = commandOf(takeIn(asks, "w1", fields, keyed));
    const isOwn = asks === "create" || asks === "update" || fields.metadata === undefined;
    expect(command).toEqual({
      commandId: "key-1",
      fingerprint,
      walletId: "w1",
      proposedId: false,
      expectedVersion: fields.expectedVersion ?? null,
      description: fields.description ?? fields.reason ?? null,
      metadata: isOwn ? null : JSON.stringify(fields.metadata),
      correlationId: "made",
      body,
    });
  });

  it("is the same command as a dry run, but for its name", () => {
    const {
      commandId: _,
      fingerprint: __,
      ...command
    } = commandOf(takeIn(asks, "w1", fields, keyed));
    const dry = commandOf(takeIn(asks, "w1", { ...fields, dryRun: true }, keyed));
    const same = { ...command, body: { ...body }, dryRun: true };
    expect(dry).toEqual({ ...same, commandId: "made", fingerprint: null });
  });
});

it("what a fingerprint covers of a wallet that is proposed is not its id", () => {
  const { fingerprint, walletId } = commandOf(takeIn("create", null, {}, keyed));
  expect(walletId).toEqual(ID);
  expect(fingerprint).toBe("W9RY9nAVOJVccJCvB_WRcK");
});

it("a dry run without a name of its own is given one, and a caller's correlation id is none", () => {
  const origin = { ...unkeyed, correlationId: "mine", isCorrelationNew: false };
  const dry = commandOf(takeIn("close", "w1", { dryRun: true }, origin));
  expect(dry).toMatchObject({ commandId: ID, correlationId: "mine" });
});

it("the span of a request goes along, where there is one", () => {
  const traced = commandOf(takeIn("close", "w1", {}, { ...keyed, traceparent: "00-a-b-01" }));
  expect(traced).toMatchObject({ traceparent: "00-a-b-01" });
  expect(commandOf(takeIn("close", "w1", {}, keyed))).not.toHaveProperty("traceparent");
});

describe("refused by its field is", () => {
  it.each<[field: string, asks: RequestType, fields: RequestFields, message: string]>([
    ["description", "close", { description: "a\0" }, "must not contain"],
    ["reason", "close", { reason: "a\0" }, "must not contain"],
    ["reference", "hold", { amount: 1, reference: "a\0" }, "must not contain"],
    ["expiresAt", "hold", { amount: 1, expiresAt: "soon" }, "must be an ISO 8601 date or time"],
    [
      "expiresInSeconds",
      "hold",
      { amount: 1, expiresAt: "2030-01-01", expiresInSeconds: 1 },
      "says the same as expiresAt: give one of them",
    ],
    ["idempotencyKey", "close", { idempotencyKey: "a\ufffd" }, "must be UTF-8, without U+FFFD"],
    ["idempotencyKey", "close", { idempotencyKey: " a" }, "must not begin or end with a blank"],
    ["idempotencyKey", "close", { idempotencyKey: "a " }, "must not begin or end with a blank"],
  ])("%s of %s %j", (field, asks, fields, message) => {
    const intake = takeIn(asks, "w1", fields, unkeyed);
    expect(intake).toMatchObject({
      ok: false,
      error: {
        code: "validation_failed",
        details: [{ field, message: expect.stringContaining(message) }],
      },
    });
  });

  it.each<[asks: RequestType, fields: RequestFields]>([
    ["credit", { amount: 0 }],
    ["transfer", { amount: 0, toWalletId: "w2" }],
    ["topup", { ...user, amount: 0 }],
    ["spend", { ...user, amount: 0 }],
    ["hold", { amount: 0 }],
    ["capture", { holdId: "h1", amount: 0 }],
  ])("no money: %s", (asks, fields) => {
    const error = { code: "invalid_amount", details: { field: "amount", amount: "0" } };
    expect(takeIn(asks, "w1", fields, unkeyed)).toMatchObject({ ok: false, error });
  });
});

it.each([
  ["abc", 3, false],
  ["abcd", 3, true],
  ["🗝🗝🗝", 3, false],
  ["🗝🗝🗝🗝", 3, true],
  ["a".repeat(2 * LIMITS.keyLengthMax + 1), LIMITS.keyLengthMax, true],
])("whether %s is longer than %i characters: %s", (text, characters, isLonger) => {
  expect(isLongerThan(text, characters)).toBe(isLonger);
});
