/**
 * One input, one command: what the intake calls the same, what it calls different, and what it
 * refuses although a schema would take it.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { assetOf } from "../src/assets.ts";
import { LIMITS } from "../src/limits.ts";
import { shardOf } from "../src/core/shard.ts";
import {
  buildCommandIntake,
  correlationOf,
  proposeWalletId,
  type Intake,
  type RequestFields,
  type RequestOrigin,
  type RequestType,
} from "./command-intake.ts";
import { uuidv7 } from "./uuid.ts";

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

  it("are proposed only for creations without one", () => {
    const proposed = (id: string | null, origin: RequestOrigin) =>
      commandOf(takeIn("create", id, {}, origin)).proposedId;
    expect(proposed(null, keyed)).toBe(true);
    expect(proposed("w1", keyed)).toBe(false);
    expect(proposed(null, unkeyed)).toBe(true);
    expect(proposed("w1", unkeyed)).toBe(false);
  });

  it("of creations without a key are UUIDs of version 7 in the shard of the command's name", () => {
    for (const isCorrelationNew of [false, true]) {
      const origin = { ...unkeyed, correlationId: uuidv7(), isCorrelationNew };
      const { commandId, walletId } = commandOf(takeIn("create", null, {}, origin));
      expect(walletId).toMatch(UUID_V7);
      expect(shardOf(walletId)).toBe(shardOf(commandId));
    }
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

  it("is as long as it has characters, of which some are two units of UTF-16", () => {
    const longest = "🗝".repeat(LIMITS.keyLengthMax);
    const intake = takeIn("credit", "w1", { amount, idempotencyKey: longest }, unkeyed);
    expect(commandOf(intake).commandId).toBe(longest);
    const fields = { amount, idempotencyKey: `${longest}k` };
    expect(errorOf(takeIn("credit", "w1", fields, unkeyed)).message).toBe(
      `idempotencyKey must not exceed ${LIMITS.keyLengthMax} characters`,
    );
  });

  it.each(["\ud83d", "\udddd", "a\ud83d b", "\udddd\ud83d"])(
    "that has half a surrogate pair is refused in these words",
    (key) => {
      const intake = takeIn("credit", "w1", { amount, idempotencyKey: key }, unkeyed);
      expect(errorOf(intake).message).toBe(
        "idempotencyKey must not contain halves of surrogate pairs",
      );
    },
  );

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

describe("money of a user", () => {
  const fields = { ownerId: "u1", currency: "USD", amount: "10.00" };

  it.each([
    ["topup", { type: "credit", kind: "TOPUP", of: { decimalPlaces: 2 } }],
    ["bonus", { type: "credit", kind: "BONUS", of: { decimalPlaces: 2 } }],
    ["spend", { type: "debit", kind: "SPEND" }],
  ] as const)("%s is a command of its kind that says whose wallet it means", (type, body) => {
    const command = commandOf(takeIn(type, "u1:USD", fields, keyed));
    expect(command).toMatchObject({ commandId: "key-1", walletId: "u1:USD" });
    expect(command.body).toMatchObject({ ...body, amount: "10" });
    expect(command.body).toMatchObject({ of: { ownerId: "u1", currency: "USD" } });
  });

  it("is another input for another pair that makes the same wallet id, and for another kind", () => {
    const of = (type: RequestType, ownerId: string, currency: string) =>
      fingerprintOf(type, { ownerId, currency, amount: 1 }, "a:b:c");
    const any = buildCommandIntake(() => ({ decimalPlaces: 2 }));
    const pairs = [
      { ownerId: "a", currency: "b:c", amount: 1 },
      { ownerId: "a:b", currency: "c", amount: 1 },
    ];
    const prints = pairs.flatMap((pair) =>
      (["topup", "bonus"] as const).map(
        (type) => commandOf(any(type, "a:b:c", pair, keyed)).fingerprint,
      ),
    );
    prints.push(of("spend", "a", "b:c"), of("spend", "a:b", "c"));
    expect(new Set(prints).size).toBe(6);
  });

  it("in an unknown asset is refused where a wallet could be made, and left to the wallet elsewhere", () => {
    const unknown = { ...fields, currency: "ABC" };
    for (const type of ["topup", "bonus"] as const) {
      expect(errorOf(takeIn(type, "u1:ABC", unknown, keyed)).code).toBe("asset_not_found");
    }
    expect(commandOf(takeIn("spend", "u1:ABC", unknown, keyed)).body.type).toBe("debit");
  });
});

describe("an asset that is not known here yet", () => {
  const slow = buildCommandIntake((code) =>
    code === "USD"
      ? { decimalPlaces: 2 }
      : Promise.resolve(code === "GOLD" ? { decimalPlaces: 0 } : null),
  );
  const create = (currency: string) => slow("create", "w1", { currency }, keyed);

  it("is waited for, and makes the same command", async () => {
    const known = buildCommandIntake(() => ({ decimalPlaces: 0 }));
    const taken = create("GOLD");
    expect(taken).toBeInstanceOf(Promise);
    expect(await taken).toEqual(known("create", "w1", { currency: "GOLD" }, keyed));
    expect(errorOf(await create("SILVER")).code).toBe("asset_not_found");
  });

  it("is nothing that other commands wait for, nor those with a known one, nor refused ones", () => {
    const others = [
      create("USD"),
      slow("credit", "w1", { amount: 1 }, keyed),
      slow("spend", "w1", { amount: 1, ownerId: "u", currency: "GOLD" }, keyed),
      slow("create", "w1", { currency: "GOLD" }, { ...keyed, key: "a\u0007" }),
    ];
    for (const taken of others) expect(taken).not.toBeInstanceOf(Promise);
  });
});

describe("a dry run", () => {
  it("has ids of its own, and no use for the key but to check it", () => {
    const fields = { amount: 1, dryRun: true };
    const { commandId, fingerprint, dryRun } = commandOf(takeIn("credit", "w1", fields, keyed));
    expect([commandId, fingerprint, dryRun]).toEqual(["made", null, true]);
    expect(takeIn("credit", "w1", fields, keyed)).toMatchObject({ isKeyed: false });
    const wrong = takeIn("credit", "w1", fields, { ...keyed, key: "a\u0007" });
    expect(errorOf(wrong).details).toMatchObject([{ field: "Idempotency-Key" }]);
  });

  it("of a keyed creation proposes no id: none is to be found by its key", () => {
    const command = commandOf(takeIn("create", null, { dryRun: true }, keyed));
    expect([command.proposedId, command.dryRun]).toEqual([false, true]);
    expect(command.walletId).toMatch(UUID_V7);
  });

  it("that is false is a command as always, and says nothing of dry runs", () => {
    const command = commandOf(takeIn("credit", "w1", { amount: 1, dryRun: false }, keyed));
    expect(command).not.toHaveProperty("dryRun");
    expect(command.commandId).toBe("key-1");
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
