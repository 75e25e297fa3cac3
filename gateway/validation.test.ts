/** What the schemas refuse, and whether the refusal names the field and says why. */
import { Type, type TSchema } from "typebox";
import { describe, expect, it } from "vitest";

import { LIMITS } from "../src/limits.ts";
import * as batchSchemas from "./routes/batch-schemas.ts";
import * as commandSchemas from "./routes/command-schemas.ts";
import { AmountBody, CreateBody, ReleaseBody } from "./routes/command-schemas.ts";
import * as gameSchemas from "./routes/game-schemas.ts";
import * as ledgerSchemas from "./routes/ledger-schemas.ts";
import { TransactionParams } from "./routes/ledger-schemas.ts";
import * as readSchemas from "./routes/read-schemas.ts";
import { WalletsQuery } from "./routes/read-schemas.ts";
import { PATTERN_RULES, WalletParams } from "./schemas.ts";
import { checkOf, readQuery, wrongAmount } from "./validation.ts";
import * as webhookSchemas from "./routes/webhook-schemas.ts";
import { WebhookBody } from "./routes/webhook-schemas.ts";

const amount = 1;

describe("a body", () => {
  const check = checkOf(AmountBody);

  it.each([
    { amount: 1 },
    { amount: "1.50", description: "", metadata: {}, expectedVersion: 0, idempotencyKey: "k" },
    { amount: -1 },
    { amount: "abc" },
  ])("%j has the right shape, whatever its amount is worth", (body) => {
    expect(check(body)).toBeNull();
  });

  it.each<[unknown, string, string]>([
    [{}, "amount", "is required"],
    [{ amount: null }, "amount", "must be a number or a string"],
    [{ amount: true }, "amount", "must be a number or a string"],
    [{ amount: {} }, "amount", "must be a number or a string"],
    [{ amount, amuont: 1 }, "amuont", "is not known here"],
    [JSON.parse('{"amount":1,"__proto__":{}}'), "__proto__", "is not known here"],
    [{ amount, description: 1 }, "description", "must be a string"],
    [
      { amount, description: "x".repeat(1_025) },
      "description",
      "must not have more than 1024 characters",
    ],
    [{ amount, metadata: [] }, "metadata", "must be an object"],
    [{ amount, metadata: null }, "metadata", "must be an object"],
    [{ amount, expectedVersion: "1" }, "expectedVersion", "must be a whole number"],
    [{ amount, expectedVersion: 1.5 }, "expectedVersion", "must be a whole number"],
    [{ amount, expectedVersion: -1 }, "expectedVersion", "must be at least 0"],
    [[], "body", "must be an object"],
    [null, "body", "must be an object"],
    [{ amount, dryRun: "true" }, "dryRun", "must be true or false"],
    [{ amount, idempotencyKey: "" }, "idempotencyKey", "must not be empty"],
    ["x", "body", "must be an object"],
  ])("%j is refused by naming %s", (body, field, message) => {
    const error = check(body);
    expect(error?.code).toBe("validation_failed");
    expect(error?.details).toEqual([{ field, message }]);
    expect(error?.message).toBe(`${field} ${message}`);
  });

  it("is refused as an amount when a number is beyond a double", () => {
    expect(check(JSON.parse('{"amount":1e400}'))).toMatchObject({ code: "amount_out_of_range" });
    expect(checkOf(CreateBody)(JSON.parse('{"initialBalance":1e400}'))).toMatchObject({
      code: "amount_out_of_range",
      details: { field: "initialBalance" },
    });
    expect(check(JSON.parse('{"amount":1e400,"foo":1}'))).toMatchObject({
      code: "validation_failed",
      details: [{ field: "foo" }],
    });
  });

  it.each<[string, string, string | undefined]>([
    // What the caller wrote is lost by then; "Infinity" is not it.
    ["1e400", "is out of range: amounts stay under 10^15 minor units", undefined],
    ["-1e400", "is not a positive decimal number", undefined],
    ["1e30", "1e+30 is out of range: amounts stay under 10^15 minor units", "1e+30"],
    ["0", "0 is not a positive decimal number", "0"],
    ["1e-50", "1e-50 has more than 40 digits before or after the decimal point", "1e-50"],
    ['"1e3"', '"1e3" is not a positive decimal number', "1e3"],
    [
      `"${"9".repeat(41)}"`,
      `"${"9".repeat(41)}" has more than 40 digits before or after the decimal point`,
      "9".repeat(41),
    ],
    [
      `"0.${"1".repeat(70)}"`,
      `"0.${"1".repeat(62)}" and so on has more than 40 digits before or after the decimal point`,
      `0.${"1".repeat(62)}`,
    ],
    [`"${"0".repeat(41)}"`, `"${"0".repeat(41)}" is not a positive decimal number`, "0".repeat(41)],
  ])("with the amount %s says what is wrong with it", (json, problem, shown) => {
    const error = wrongAmount("amount", JSON.parse(json));
    expect(error?.message).toBe(`amount ${problem}`);
    expect(error?.details).toEqual({
      field: "amount",
      ...(shown !== undefined && { amount: shown }),
    });
  });

  it.each([
    [ReleaseBody, { amount: 5 }, "amount"],
    [ReleaseBody, { amount: 0 }, "amount"],
    [CreateBody, { amount: 5 }, "amount"],
    [AmountBody, { amount, initialBalance: 5 }, "initialBalance"],
  ])("without a place for an amount names it as unknown: %#", (schema: TSchema, body, field) => {
    expect(checkOf(schema)(body)).toMatchObject({
      code: "validation_failed",
      message: `${field} is not known here`,
      details: [{ field, message: "is not known here" }],
    });
  });

  it("gets a bounded list of its mistakes", () => {
    const unknown = Object.fromEntries(Array.from({ length: 500 }, (_, nth) => [`f${nth}`, 1]));
    const error = check({ amount, ["x".repeat(9_000)]: 1, ...unknown });
    expect(error?.details).toHaveLength(LIMITS.validationProblemsMax);
    expect(error?.details).toContainEqual({ field: "f0", message: "is not known here" });
    expect(JSON.stringify(error).length).toBeLessThan(2_000);
  });

  it("is refused soon, however many fields it has", () => {
    const unknown = Array.from({ length: 200_000 }, (_, nth) => `"f${nth}":1`).join(",");
    const beginMs = performance.now();
    const body: unknown = JSON.parse(`{${unknown},"__proto__":1,"amount":1e400}`);
    const parsedMs = performance.now();
    const error = check(body);
    // Looking at each of them takes several times as long as reading them.
    expect(performance.now() - parsedMs).toBeLessThan(2 * (parsedMs - beginMs));
    expect(error?.details).toEqual(
      Array.from({ length: LIMITS.validationProblemsMax }, (_, nth) => ({
        field: `f${nth}`,
        message: "is not known here",
      })),
    );
  });
});

it("a field inside another one is named with its way there, as long as that is told", () => {
  const inner = Type.Object({ ["n".repeat(200)]: Type.String() });
  const check = checkOf(Type.Object({ "out/er~": inner }));
  const field = `out/er~/${"n".repeat(120)}`;
  expect(check({ "out/er~": {} })?.details).toEqual([{ field, message: "is required" }]);
});

describe("ids", () => {
  const check = checkOf(WalletParams, "params");
  it.each(["w1", "user-1:USD", "a_b.c:d@e", "x".repeat(128), "__proto__"])(
    "take %j",
    (walletId) => {
      expect(check({ walletId })).toBeNull();
    },
  );
  it.each(["", " ", "a b", "a/b", "\0", "ü", "x".repeat(129), "a\n", "a*", "a>"])(
    "refuse %j",
    (walletId) => {
      expect(check({ walletId })?.message).toBe(
        "walletId must be 1 to 128 characters of letters, digits and - _ . : @",
      );
      expect(checkOf(CreateBody)({ walletId })?.details).toMatchObject([{ field: "walletId" }]);
    },
  );
});

describe("a query", () => {
  const check = checkOf(WalletsQuery, "querystring");
  const ask = (query: string) => {
    const parameters: Record<string, unknown> = {};
    for (const [name, value] of new URLSearchParams(query)) {
      parameters[name] = name in parameters ? [parameters[name], value] : value;
    }
    const read = readQuery(WalletsQuery, parameters);
    return { read, error: check(read) };
  };

  it("has its integers read and its texts left alone", () => {
    const { read, error } = ask("limit=7&ownerId=42");
    expect(error).toBeNull();
    expect(read).toEqual({ limit: 7, ownerId: "42" });
  });

  it.each([
    ["limit=0", "limit", "must be at least 1"],
    ["limit=-1", "limit", "must be at least 1"],
    ["limit=1001", "limit", "must be at most 1000"],
    ["limit=1e2", "limit", "must be a whole number"],
    ["limit=", "limit", "must be a whole number"],
    ["limit=1&limit=2", "limit", "is given twice"],
    ["ownerId=a&ownerId=b", "ownerId", "is given twice"],
    ["q=", "q", "must not be empty"],
    ["status=active", "status", "must be one of ACTIVE, SUSPENDED, CLOSED"],
    ["foo=1", "foo", "is not known here"],
    ["q=a%00", "q", "must not contain the character U+0000"],
    ["metadata.tier=%00", "metadata.tier", "must not contain the character U+0000"],
  ])("%s is refused by naming %s", (query, field, message) => {
    expect(ask(query).error?.details).toEqual([{ field, message }]);
  });
});

describe("a pattern", () => {
  it.each([
    [
      TransactionParams,
      { transactionId: "a b" },
      "must be 1 to 160 characters of letters, digits and - _ . : @",
    ],
    [
      WebhookBody,
      { url: "https://shop.example/a b" },
      "must be printable ASCII characters without spaces",
    ],
    [
      WebhookBody,
      { url: "https://shop.example/", description: "\0" },
      "must not contain the character U+0000",
    ],
  ])("is told in words: %#", (schema: TSchema, value, message) => {
    expect(checkOf(schema)(value)?.details).toMatchObject([{ message }]);
  });

  it("has words wherever a request may meet one", () => {
    const requests = [
      readSchemas,
      commandSchemas,
      ledgerSchemas,
      webhookSchemas,
      gameSchemas,
      batchSchemas,
    ];
    const found = JSON.stringify(requests).matchAll(/"pattern":("(?:[^"\\]|\\.)*")/g);
    const patterns = new Set([...found].map(([, pattern]) => JSON.parse(pattern!) as string));
    expect(patterns.size).toBeGreaterThan(3);
    expect([...patterns].filter((pattern) => !(pattern in PATTERN_RULES))).toEqual([]);
  });
});
