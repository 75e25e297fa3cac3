/**
 * Bad input over the real stack: whatever arrives, it is refused in words with a 4xx, soon, and no
 * balance moves. Here are tables for what people and programs get wrong in the bodies of writes;
 * bad-requests.test.ts has the rest of a request, down to raw sockets, and fuzz.test.ts random
 * ones. After each test every wallet is as it was, and at the end the server still serves.
 */
import { describe, expect, it } from "vitest";
import { LIMITS } from "../src/limits.ts";
import {
  describeTheEnd,
  invalid,
  stack,
  stake,
  useBadInputStage,
  words,
  wrongInWrites,
  type Expected,
  type Row,
} from "./stage/bad-input.ts";
import type { AskOptions } from "./stage/stack.ts";
import { WRITES, type WriteRoute } from "./stage/write-routes.ts";

useBadInputStage();

/** The write's body with one field given as JSON text, which may be what no value serialises to. */
function bodyWith(write: WriteRoute, field: string, jsonText: string): string {
  const body = { ...write.body(stake), [field]: "@@" };
  return JSON.stringify(body).replace(`"@@"`, () => jsonText);
}

const AMOUNTS: readonly (readonly [jsonText: string, Expected])[] = [
  ...words(
    `0 -0 -1 0.001 1e-9 1e-400 0.30000000000000004 "NaN" "Infinity" "1e3" "" "-1" "+1" "0x10" "1,5" "1." ".5" "1.0.0" "1_000" "１" "٣" "1\\u0000" "0" "0.00"`,
  )
    .concat('" 1"', '"1 "', JSON.stringify("9".repeat(41)), JSON.stringify("1".repeat(500_000)))
    .concat(JSON.stringify(`0.${"0".repeat(39)}1`))
    .map((text) => [text, [400, "invalid_amount"]] as const),
  ...words('1e21 1e400 1e15 999999999999999 10000000000000 "10000000000000"')
    .concat(JSON.stringify("9".repeat(40)))
    .map((text) => [text, [400, "amount_out_of_range"]] as const),
  ...words('null true false {} [] [1] {"amount":1}').map((text) => [text, invalid] as const),
];

const BAD_IDS = words(
  `"" "a/b" "../x" "%00" "a\\u0000" "a\\nb" "ü" "💶" "\\ud800" "a,b" "*" 1 null true {} [] ["w"]`,
).concat(
  ['" "', '" w"', '"w "', '"a b"'],
  JSON.stringify("x".repeat(LIMITS.idLengthMax + 1)),
  JSON.stringify("x".repeat(300_000)),
);

const nested = (depth: number) => `${'{"a":'.repeat(depth)}1${"}".repeat(depth)}`;

const COMMON: readonly (readonly [field: string, jsonText: string])[] = [
  ...["1", "null", "[]", "{}", "true", '"a\\u0000b"', '"\\ud800"', '"a\\udc00"'].map(
    (text) => ["description", text] as const,
  ),
  ["description", JSON.stringify("x".repeat(LIMITS.descriptionLengthMax + 1))],
  ...["1", '"x"', "null", "[]", "true"].map((text) => ["metadata", text] as const),
  ...['{"a":"\\u0000"}', '{"\\u0000":1}', '{"a":["\\ud800"]}', '{"\\udfff":1}', '{"a":1e400}'].map(
    (text) => ["metadata", text] as const,
  ),
  ["metadata", JSON.stringify({ a: "x".repeat(LIMITS.metadataBytesMax) })],
  ["metadata", JSON.stringify({ a: "€".repeat(LIMITS.metadataBytesMax / 3) })],
  ["metadata", nested(LIMITS.metadataDepthMax + 1)],
  ["metadata", nested(100_000)],
  ["metadata", `{"a":${"[".repeat(200_000)}${"]".repeat(200_000)}}`],
  ...["-1", "1.5", '"0"', "null", "true", "[]", "1e400"].map(
    (text) => ["expectedVersion", text] as const,
  ),
  ...['""', "1", "null", '"a\\u0000"', '"a\\u007f"', '"a\\nb"', '"\\ud800"'].map(
    (text) => ["idempotencyKey", text] as const,
  ),
  ["idempotencyKey", JSON.stringify("x".repeat(LIMITS.keyLengthMax + 1))],
];

const MESSAGES: readonly (readonly [name: string, Expected, AskOptions])[] = [
  ...["[]", "[{}]", '"x"', "1", "null", "true"].map(
    (text) => [`the body ${text}`, invalid, { text }] as const,
  ),
  ...["{", '{"amount":1,}', "{'amount':1}", "{}{}", "NaN", "\0", '{"a":"\n"}', "undefined"].map(
    (text) => [`the broken body ${text}`, [400, "invalid_json"] as const, { text }] as const,
  ),
  ...[
    '{"__proto__":{"amount":1}}',
    '{"metadata":{"__proto__":1}}',
    '{"metadata":{"\\u005f_proto__":{}}}',
    '{"constructor":{"prototype":{"amount":1}}}',
  ].map((text) => [`the body ${text}`, invalid, { text }] as const),
  ["a list in 400,000 lists", invalid, { text: "[".repeat(400_000) + "]".repeat(400_000) }],
  ["400,000 open lists", [400, "invalid_json"], { text: "[".repeat(400_000) }],
  ["2 MB", [413, "payload_too_large"], { text: `{"description":"${"x".repeat(2_000_000)}"}` }],
  ...words(
    "text/plain application/x-www-form-urlencoded multipart/form-data;boundary=x application/xml application/jsonx application/json-patch+json json /",
  )
    .concat("")
    .map(
      (type) =>
        [
          `the type "${type}"`,
          [415, "unsupported_media_type"] as const,
          { text: '{"amount":1}', headers: { "content-type": type } },
        ] as const,
    ),
];

describe.each(WRITES.filter(({ amount }) => amount !== null))("the amount of $name", (write) => {
  it("is refused by its field when it is wrong", async () => {
    const field = write.amount!;
    const nothing = new Set(words('0 -0 1e-400 "0" "0.00"'));
    const rows = AMOUNTS.filter(
      ([jsonText]) => field !== "initialBalance" || !nothing.has(jsonText),
    ).map(([jsonText, expected]): Row => [expected, { text: bodyWith(write, field, jsonText) }]);
    expect(await wrongInWrites(write, rows)).toEqual([]);
  });
});

describe.each(WRITES)("$name", (write) => {
  const wrongIn = (rows: readonly Row[]) => wrongInWrites(write, rows);

  it("refuses every wrong id by its field", async () => {
    const rows = write.ids.flatMap((field) =>
      BAD_IDS.map((text): Row => [[...invalid, field], { text: bodyWith(write, field, text) }]),
    );
    expect(await wrongIn(rows)).toEqual([]);
  });

  it("refuses a field that it does not know by its name", async () => {
    const names = ["amuont", "balance", "constructor", "toString", "hasOwnProperty", "ü", "a b"];
    const rows = names.map((name): Row => {
      return [[...invalid, name], { json: { ...write.body(stake), [name]: 1 } }];
    });
    expect(await wrongIn(rows)).toEqual([]);
  });

  it("refuses an input without a field that it needs", async () => {
    const { required } = write;
    const rows = required.map((field): Row => {
      const { [field]: _, ...json } = write.body(stake);
      return [[...invalid, field], { json }];
    });
    for (const field of required.slice(0, 1)) {
      rows.push([[...invalid, field], { text: "" }], [[...invalid, field], { json: {} }]);
      rows.push([[...invalid, "body"], {}]);
    }
    expect(await wrongIn(rows)).toEqual([]);
  });

  it("refuses every wrong value of what all writes take, by its field", async () => {
    const rows = COMMON.map(([field, jsonText]): Row => {
      return [[...invalid, field], { text: bodyWith(write, field, jsonText) }];
    });
    if (["suspend", "activate", "close"].includes(write.name)) {
      rows.push([[...invalid, "reason"], { json: { reason: "a", description: "a" } }]);
    }
    if (write.amount === null) {
      rows.push([[...invalid, "reason"], { text: bodyWith(write, "reason", '"a\\u0000"') }]);
    }
    expect(await wrongIn(rows)).toEqual([]);
  });

  it("refuses a key that differs between header and body, or does not fit", async () => {
    const json = write.body(stake);
    const rows = ["", "x".repeat(LIMITS.keyLengthMax + 1), "a\tb"].map((key): Row => {
      return [[...invalid, "Idempotency-Key"], { json, key }];
    });
    const both = { json: { ...json, idempotencyKey: "one" }, key: "two" };
    expect(await wrongIn([...rows, [[...invalid, "idempotencyKey"], both]])).toEqual([]);
  });

  it("refuses a version that the wallet is not at", async () => {
    const isNew = write.name === "create";
    const expected: Expected = isNew ? [404, "wallet_not_found"] : [409, "version_conflict"];
    const rows = [999, Number.MAX_SAFE_INTEGER, 1e20].map((expectedVersion): Row => {
      return [expected, { json: { ...write.body(stake), expectedVersion } }];
    });
    expect(await wrongIn(rows)).toEqual([]);
  });

  it.each(MESSAGES)("refuses %s", async (_name, expected, options) => {
    expect(await wrongIn([[expected, options]])).toEqual([]);
  });
});

const isOfWallet = (write: WriteRoute) =>
  /^\/wallets\/x(\/|$)/.test(write.path({ from: "x", to: "x", empty: "x" }));

describe.each(WRITES.filter(isOfWallet))("the path of $name", (write) => {
  const pathOf = (id: string) => write.path(stake).replace(/\/wallets\/[^/]+/, `/wallets/${id}`);

  it.each(
    words("%20 %00 a%20b ..%2f.. %2e%2e%2f %C3%BC %E2%82%AC a%2Fb w%0a + * a,b ~ '").concat(
      "x".repeat(LIMITS.idLengthMax + 1),
      "x".repeat(10_000),
    ),
  )("is refused with the id %s", async (id) => {
    const row: Row = [[...invalid, "walletId"], { json: write.body(stake) }];
    expect(await wrongInWrites(write, [row], pathOf(id))).toEqual([]);
  });

  it.each(["", "..", "../wallets/w", "./w", "/w"])("leads nowhere with the id %j", async (id) => {
    const { status, body } = await stack.ask(write.method, pathOf(id), { json: write.body(stake) });
    expect([404, 405, 422]).toContain(status);
    expect(body.statusCode).toBe(status);
  });
});

describeTheEnd();
