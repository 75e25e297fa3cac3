/**
 * One input, one command: what the intake calls the same, what it calls different, and what it refuses although a schema
 * would take it.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { assetOf } from "../src/assets.ts";
import { LIMITS } from "../src/limits.ts";
import { shardOf } from "../src/shard.ts";
import {
  buildCommandIntake,
  correlationOf,
  proposeWalletId,
  type Intake,
  type RequestFields,
  type RequestOrigin,
  type RequestType,
} from "./command-intake.ts";

const takeIn = buildCommandIntake(assetOf);
const unkeyed: RequestOrigin = { correlationId: "made", isCorrelationNew: true, key: undefined };
const keyed: RequestOrigin = { ...unkeyed, key: "key-1" };
const UUID_V7 = /^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/;

function commandOf(intake: Intake) {
  if (!intake.ok) throw new Error(`refused: ${intake.error.message}`);
  return intake.command;
}

function errorOf(intake: Intake) {
  if (intake.ok) throw new Error("not refused");
  return intake.error;
}

function fingerprintOf(type: RequestType, fields: RequestFields, walletId: string | null = "w1") {
  return commandOf(takeIn(type, walletId, fields, keyed)).fingerprint;
}

describe("the fingerprint", () => {
  it.each<[string, RequestFields, RequestFields]>([
    ["10 and 10.00", { amount: 10 }, { amount: "10.00" }],
    ["0.5 and 00.50", { amount: 0.5 }, { amount: "00.50" }],
    [
      "keys in another order",
      { amount: 1, metadata: { a: 1, b: 2 } },
      { amount: 1, metadata: { b: 2, a: 1 } },
    ],
  ])("is the same for %s", (_name, one, other) => {
    expect(fingerprintOf("credit", one)).toBe(fingerprintOf("credit", other));
  });

  it("is the same for repeats of transfers and creations, whose ids the gateway makes anew", () => {
    const transfer = { amount: 1, toWalletId: "w2" };
    expect(fingerprintOf("transfer", transfer)).toBe(fingerprintOf("transfer", transfer));
    expect(fingerprintOf("create", {}, null)).toBe(fingerprintOf("create", {}, null));
    expect(fingerprintOf("create", { currency: "USD", initialBalance: "0.00" }, null)).toBe(
      fingerprintOf("create", {}, null),
    );
  });

  it("is another for every other input", () => {
    const amount = 1;
    const inputs: [RequestType, RequestFields, string?][] = [
      ["credit", { amount }],
      ["credit", { amount }, "w2"],
      ["credit", { amount: 2 }],
      ["credit", { amount, description: "x" }],
      ["credit", { amount, metadata: {} }],
      ["credit", { amount, metadata: { a: "1" } }],
      ["credit", { amount, metadata: { a: 1 } }],
      ["credit", { amount, expectedVersion: 0 }],
      ["fund", { amount }],
      ["debit", { amount }],
      ["transfer", { amount, toWalletId: "w2" }],
      ["transfer", { amount, toWalletId: "w3" }],
      ["update", { metadata: {} }],
      ["update", { metadata: { a: null } }],
      ["update", { metadata: { a: 1 } }],
      ["suspend", {}],
      ["suspend", { reason: "x" }],
      ["activate", {}],
      ["close", {}],
      ["create", {}],
      ["create", { ownerId: "u1" }],
      ["create", { currency: "EUR" }],
      ["create", { initialBalance: 1 }],
    ];
    const fingerprints = inputs.map((input) => fingerprintOf(...input));
    expect(new Set(fingerprints).size).toBe(inputs.length);
  });

  it("is left out when the caller gave no key", () => {
    const command = commandOf(takeIn("credit", "w1", { amount: 1 }, unkeyed));
    expect(command).toMatchObject({ commandId: "made", fingerprint: null, correlationId: "made" });
  });
});

describe("ids", () => {
  it("do not take the caller's correlation id for a command's name", () => {
    const origin = { ...unkeyed, correlationId: "mine", isCorrelationNew: false };
    const { commandId, correlationId } = commandOf(takeIn("credit", "w1", { amount: 1 }, origin));
    expect(correlationId).toBe("mine");
    expect(commandId).toMatch(UUID_V7);
  });

  it("of keyed creations are proposed in the key's shard, and stay UUIDs of version 7", () => {
    fc.assert(
      fc.property(fc.string({ minLength: 1, maxLength: LIMITS.keyLengthMax }), (key) => {
        const id = proposeWalletId(key);
        expect(id).toMatch(UUID_V7);
        expect(shardOf(id)).toBe(shardOf(key));
      }),
    );
    expect(proposeWalletId("key")).not.toBe(proposeWalletId("key"));
  });

  it("are proposed only for keyed creations without one", () => {
    const proposed = (id: string | null, origin: RequestOrigin) =>
      commandOf(takeIn("create", id, {}, origin)).proposedId;
    expect(proposed(null, keyed)).toBe(true);
    expect(proposed("w1", keyed)).toBe(false);
    expect(proposed(null, unkeyed)).toBe(false);
  });
});

describe("the idempotency key", () => {
  const amount = 1;
  it("may stand in the header, in the body, or in both", () => {
    for (const [inHeader, inBody] of [
      ["k", undefined],
      [undefined, "k"],
      ["k", "k"],
    ] as const) {
      const fields = inBody === undefined ? { amount } : { amount, idempotencyKey: inBody };
      const intake = takeIn("credit", "w1", fields, { ...unkeyed, key: inHeader });
      expect(intake).toMatchObject({ ok: true, isKeyed: true, command: { commandId: "k" } });
    }
  });

  it.each([
    ["two different keys", "k1", "k2"],
    ["an empty one", "", undefined],
    ["one that is too long", "k".repeat(LIMITS.keyLengthMax + 1), undefined],
    ["control characters", undefined, "a\u0007b"],
    ["NUL", undefined, "a\0"],
    ["half a surrogate pair", undefined, "\ud800"],
  ])("must not be %s", (_name, inHeader, inBody) => {
    const fields = inBody === undefined ? { amount } : { amount, idempotencyKey: inBody };
    const intake = takeIn("credit", "w1", fields, { ...unkeyed, key: inHeader });
    expect(errorOf(intake).code).toBe("validation_failed");
  });
});

describe("amounts", () => {
  it.each([
    [0, "invalid_amount"],
    [-1, "invalid_amount"],
    ["NaN", "invalid_amount"],
    ["", "invalid_amount"],
    ["1e3", "invalid_amount"],
    [1e21, "amount_out_of_range"],
    [Number.POSITIVE_INFINITY, "amount_out_of_range"],
  ])("%j is refused as %s", (amount, code) => {
    expect(errorOf(takeIn("credit", "w1", { amount }, unkeyed)).code).toBe(code);
    const initialBalance = amount === 0 ? "-0.5" : amount;
    expect(errorOf(takeIn("create", "w1", { initialBalance }, unkeyed)).code).toBe(code);
  });

  it("of an unknown asset are refused by the asset", () => {
    const intake = takeIn("create", "w1", { currency: "ABC", initialBalance: 1 }, unkeyed);
    expect(errorOf(intake).code).toBe("asset_not_found");
  });
});

describe("metadata", () => {
  it.each([
    ["NUL", { a: "\0" }],
    ["NUL in a key", { "\0": 1 }],
    ["half a surrogate pair", { a: ["\udc00"] }],
    ["Infinity", JSON.parse('{"a":1e999}') as Record<string, unknown>],
    ["__proto__", JSON.parse('{"a":{"__proto__":1}}') as Record<string, unknown>],
    ["too many bytes", { a: "ü".repeat(LIMITS.metadataBytesMax / 2) }],
    ["too many levels", JSON.parse(`${'{"a":'.repeat(100_000)}1${"}".repeat(100_000)}`) as object],
  ])("must not contain %s", (_name, metadata) => {
    const intake = takeIn("credit", "w1", { amount: 1, metadata: { ...metadata } }, unkeyed);
    expect(errorOf(intake)).toMatchObject({ code: "validation_failed" });
    expect(errorOf(intake).message).toMatch(/^metadata must not /);
  });
});

describe("a change of metadata", () => {
  it("is the command's own: a merge patch in canonical text, with its nulls", () => {
    const metadata = { bb: { z: null, a: 1 }, a: null };
    const command = commandOf(takeIn("update", "w1", { metadata, expectedVersion: 3 }, keyed));
    expect(command.body).toEqual({ type: "update", patch: '{"a":null,"bb":{"a":1,"z":null}}' });
    expect(command).toMatchObject({ metadata: null, expectedVersion: 3 });
  });
});

it("a reason is the description of a step, and cannot stand beside another one", () => {
  expect(commandOf(takeIn("close", "w1", { reason: "x" }, keyed)).description).toBe("x");
  const both = takeIn("close", "w1", { reason: "x", description: "x" }, keyed);
  expect(errorOf(both)).toMatchObject({
    code: "validation_failed",
    details: [{ field: "reason" }],
  });
});

it("a description must be storable", () => {
  const intake = takeIn("suspend", "w1", { reason: "a\0b" }, unkeyed);
  expect(errorOf(intake).details).toMatchObject([{ field: "reason" }]);
});

describe("the correlation id", () => {
  const trace = "4bf92f3577b34da6a3ce929d0e0e4736";
  it.each([
    ["mine", undefined, "mine"],
    ["mine", `00-${trace}-00f067aa0ba902b7-01`, "mine"],
    [undefined, `00-${trace}-00f067aa0ba902b7-01`, trace],
    [undefined, `00-${"0".repeat(32)}-00f067aa0ba902b7-01`, null],
    [undefined, "junk", null],
    ["", undefined, null],
    ["x".repeat(LIMITS.keyLengthMax + 1), undefined, null],
    [["two"], undefined, null],
    [undefined, undefined, null],
  ])("of X-Correlation-Id %j and traceparent %j is %j", (header, traceparent, expected) => {
    expect(correlationOf(header, traceparent)).toBe(expected);
  });
});
