/**
 * Bad input over the real stack: whatever arrives, it is refused in words with a 4xx, soon, and no balance moves. Tables for what
 * people and programs get wrong, raw sockets for what is no HTTP at all, and a fuzz of random requests whose seed is in its name
 * (`FC_SEED` takes it back). After each test every wallet is as it was, and at the end the server still serves.
 */
import assert from "node:assert/strict";
import { connect } from "node:net";

import fc from "fast-check";
import { afterAll, afterEach, beforeAll, describe, expect, it } from "vitest";

import { ERRORS, isErrorCode } from "../gateway/errors.ts";
import { LIMITS } from "../src/limits.ts";
import {
  openStake,
  startStack,
  unique,
  WRITES,
  type AskOptions,
  type Stack,
  type Stake,
  type WriteRoute,
} from "./stack.ts";

/** A refusal is due within this time, in milliseconds. */
const REFUSAL_MS_MAX = 2_000;
/** Instead of `LIMITS.httpRequestMs`, so that slow requests can be waited for. */
const REQUEST_MS = 800;

let stack: Stack;
let stake: Stake;
let before: unknown;

/** Everything that must not change. */
function balances(): Promise<unknown> {
  return stack.sql("SELECT wallet_id, balance, status, version FROM wallets ORDER BY wallet_id");
}

beforeAll(async () => {
  stack = await startStack({
    prepare({ server }) {
      server.requestTimeout = REQUEST_MS;
      server.headersTimeout = REQUEST_MS;
      Object.assign(server, { connectionsCheckingInterval: 100 });
    },
  });
  stake = await openStake(stack);
  before = await balances();
});

afterEach(async () => {
  assert.deepEqual(await balances(), before);
});

afterAll(() => stack.close());

type Expected = readonly [status: number, code: string, field?: string];
type Row = readonly [expected: Expected, options: AskOptions];

/** What is wrong with the refusal of one request; null when it is as it has to be. */
async function wrongIn(
  [status, code, field]: Expected,
  method: string,
  path: string,
  options: AskOptions,
): Promise<string | null> {
  const startedAtMs = performance.now();
  const { status: given, headers, text, body } = await stack.ask(method, path, options);
  const tookMs = performance.now() - startedAtMs;
  const details = JSON.stringify([body?.details]);
  const isNamed =
    field === undefined ||
    (details.includes(JSON.stringify(field).slice(1, -1)) && body.message.includes(field));
  const isRight =
    given === status &&
    body?.code === code &&
    body.statusCode === status &&
    /\w/.test(body.message) &&
    body.correlationId === headers["x-correlation-id"] &&
    text.length < 4_000 &&
    tookMs < REFUSAL_MS_MAX &&
    isNamed;
  if (isRight) return null;
  const sent = (options.text ?? JSON.stringify(options)).slice(0, 200);
  const wanted = [status, code, field].join(" ");
  return `${method} ${path.slice(0, 100)} ${sent}: ${given} ${text.slice(0, 300)}, not ${wanted}`;
}

/** All that is wrong in a table of requests by one way to write. */
async function wrongInWrites(
  write: WriteRoute,
  rows: readonly Row[],
  path = write.path(stake),
): Promise<string[]> {
  const wrong: string[] = [];
  for (const [expected, options] of rows) {
    const problem = await wrongIn(expected, write.method, path, options);
    if (problem !== null) wrong.push(problem);
  }
  return wrong;
}

const invalid = [422, "validation_failed"] as const;

/** The write's body with one field given as JSON text, which may be what no value serialises to. */
function bodyWith(write: WriteRoute, field: string, jsonText: string): string {
  const body = { ...write.body(stake), [field]: "@@" };
  return JSON.stringify(body).replace(`"@@"`, () => jsonText);
}

/** Texts without blanks, written as words. */
const words = (text: string) => text.split(" ");

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
  ].map((text) => [`the body ${text}`, [400, "invalid_json"] as const, { text }] as const),
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

describe("a path that is not percent-encoded", () => {
  const paths = ["%", "%zz", "%ff", "%C3", "%u0041", "a%"].flatMap((id) => [
    `/wallets/${id}`,
    `/wallets/${id}/credit`,
    `/operations/${id}`,
  ]);

  it.each(paths)("is refused: %s", async (path) => {
    for (const method of ["GET", "POST"]) {
      const { status, body } = await stack.ask(method, path);
      expect([status, body.code, body.details[0]?.field]).toEqual([...invalid, "path"]);
    }
  });

  it("is answered with its correlation id like any other", async () => {
    const { headers, body } = await stack.ask("GET", "/wallets/%", {
      headers: { "x-correlation-id": "mine" },
    });
    expect([headers["x-correlation-id"], body.correlationId]).toEqual(["mine", "mine"]);
  });
});

describe("a query", () => {
  const cursor = (text: string) => Buffer.from(text).toString("base64url");
  const limits = words("0 -1 1001 abc NaN Infinity 1.5 1e2 0x10 %201 99999999999999999999");
  it.each([
    ...limits.concat("").flatMap((limit) => [
      ["/wallets", `limit=${limit}`, "limit"],
      [":id/events", `limit=${limit}`, "limit"],
    ]),
    ["/wallets", "limit=1&limit=2", "limit"],
    ["/wallets", "limit[]=1", "limit[]"],
    ["/wallets", "unknown=1", "unknown"],
    ["/wallets", "constructor=1", "constructor"],
    ["/wallets", "__proto__=1", "__proto__"],
    ["/wallets", "status=active", "status"],
    ["/wallets", "ownerId=a%20b", "ownerId"],
    ["/wallets", "ownerId=a&ownerId=b", "ownerId"],
    ["/wallets", "currency=%00", "currency"],
    ["/wallets", "cursor=", "cursor"],
    ["/wallets", "cursor=%00", "cursor"],
    ["/wallets", "cursor=!!", "cursor"],
    ["/wallets", `cursor=${cursor("a b")}`, "cursor"],
    ["/wallets", `cursor=${cursor("\0")}`, "cursor"],
    ["/wallets", `cursor=${"x".repeat(513)}`, "cursor"],
    [":id", "include=holds", "include"],
    [":id", "include=auditTrail;transactions", "include"],
    [":id", `include=${"auditTrail,".repeat(100)}`, "include"],
    [":id", "limit=1", "limit"],
    [":id", "version=-1", "version"],
    [":id", "version=1e3", "version"],
    [":id", "version=", "version"],
    [":id", "version=0&at=2026-01-01", "version"],
    [":id", "at=now", "at"],
    [":id", "at=2026-02-30", "at"],
    [":id", "at=2999-01-01T00:00:00Z", "at"],
    [":id", "at=2026-01-01T00:00:00.0000000001Z", "at"],
    [":id", "at=1700000000000", "at"],
    ...words("-1 1e3 1.5e-3 NaN Infinity 1, .5 1. 0x10 %2B1 %201").flatMap((bound) => [
      ["/wallets", `minBalance=${bound}`, "minBalance"],
      ["/wallets", `maxBalance=${bound}`, "maxBalance"],
    ]),
    ["/wallets", "minBalance=", "minBalance"],
    ["/wallets", `maxBalance=${"9".repeat(65)}`, "maxBalance"],
    ["/wallets", "minBalance=1&minBalance=2", "minBalance"],
    ["/wallets", "q=", "q"],
    ["/wallets", "q=%00", "q"],
    ["/wallets", "q=a&q=b", "q"],
    ["/wallets", `q=${"x".repeat(257)}`, "q"],
    ["/wallets", "metadata=x", "metadata"],
    ["/wallets", "metadata.=x", "metadata."],
    ["/wallets", "metadata[tier]=x", "metadata[tier]"],
    ["/wallets", "metadata.tier=%00", "metadata.tier"],
    ["/wallets", "metadata.tier=a&metadata.tier=b", "metadata.tier"],
    ["/wallets", `metadata.tier=${"x".repeat(257)}`, "metadata.tier"],
    [
      "/wallets",
      Array.from({ length: LIMITS.metadataFiltersMax + 1 }, (_, n) => `metadata.${n}=1`).join("&"),
      `metadata.${LIMITS.metadataFiltersMax}`,
    ],
    [":id/transfers", "cursor=!!", "cursor"],
    [":id/transfers", `cursor=${cursor("a")}`, "cursor"],
    ["/ledger/wallet/a%20b", "", "walletId"],
    ["/ledger/wallet/w", "type=WalletCredited", "type"],
    ["/ledger/wallet/w", "from=now", "from"],
    ["/ledger/wallet/w", `cursor=${cursor("-1")}`, "cursor"],
    ["/ledger/wallet/w", "status=posted", "status"],
    ["/ledger/transactions/a%20b", "", "transactionId"],
    ["/ledger/transactions/a", "limit=1", "limit"],
    ["/ledger/trial-balance", "currency=%00", "currency"],
    ["/ledger/trial-balance", "limit=1", "limit"],
    [":id/transactions", "type=credit", "type"],
    [":id/transactions", "from=yesterday", "from"],
    [":id/transactions", "from=", "from"],
    [":id/transactions", "from=1e9", "from"],
    [":id/transactions", "to=2026-13-01", "to"],
    [":id/transactions", "to=2026-02-30", "to"],
    [":id/transactions", "to=2026-01-01T25:00:00Z", "to"],
    [":id/transactions", "to=2026-01-01T00:00:00%2B99:00", "to"],
    [":id/transactions", `cursor=${cursor("-1")}`, "cursor"],
    [":id/transactions", `cursor=${cursor("1e3")}`, "cursor"],
    [":id/transactions", `cursor=${cursor("9".repeat(16))}`, "cursor"],
    [":id/events", "fromVersion=-1", "fromVersion"],
    [":id/events", "fromVersion=1.5", "fromVersion"],
    [":id/events", "fromVersion=99999999999999999999", "fromVersion"],
    [":id/transfers", "status=POSTED", "status"],
    ["/assets", "x=1", "x"],
    ["/transfers/a%20b", "", "transferId"],
    ["/operations/a%00", "", "idempotencyKey"],
    [`/operations/${"x".repeat(257)}`, "", "idempotencyKey"],
    ["/operations/a", "walletId=%20", "walletId"],
  ] as [string, string, string][])(
    "of GET %s?%s is refused by the name %s",
    async (route, query, field) => {
      const path = route.replace(":id", `/wallets/${stake.from}`);
      expect(await wrongIn([...invalid, field], "GET", `${path}?${query}`, {})).toBeNull();
    },
  );
});

describe("a method", () => {
  const paths = () =>
    words(
      `/ /wallets /wallets/${stake.from} /wallets/${stake.from}/credit /assets /wallets/fund /health /openapi.json /ws /nowhere * // /%`,
    );

  it.each(words("PUT DELETE OPTIONS TRACE HEAD PROPFIND SEARCH"))(
    "%s is answered everywhere, and changes nothing",
    async (method) => {
      for (const path of paths()) {
        const { status, headers, text } = await stack.ask(method, path);
        const isAllowSaid = status !== 405 || /^[A-Z]/.test(headers["allow"] ?? "");
        const isSilent = method !== "HEAD" || text === "";
        const isRight = status < 500 && isAllowSaid && isSilent;
        expect([method, path, status, isRight]).toEqual([method, path, status, true]);
      }
    },
  );
});

/** Writes raw bytes; what came back when the server closed, or null when it did neither in time. */
function raw(
  pieces: readonly (string | Buffer)[],
  waitMs = REFUSAL_MS_MAX,
): Promise<string | null> {
  return new Promise((resolve) => {
    let given = "";
    const socket = connect(stack.port, "127.0.0.1", () => {
      for (const piece of pieces)
        socket.write(typeof piece === "string" ? Buffer.from(piece, "latin1") : piece);
    });
    const timer = setTimeout(() => {
      socket.destroy();
      resolve(given === "" ? null : given);
    }, waitMs);
    socket.on("data", (chunk: Buffer) => (given += chunk.toString()));
    socket.on("error", () => undefined);
    socket.once("close", () => {
      clearTimeout(timer);
      resolve(given);
    });
  });
}

describe("a socket", () => {
  const post = (headers: string, body = "") => [
    `POST /wallets/${stake.from}/credit HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n${headers}\r\n${body}`,
  ];

  it.each<[string, () => (string | Buffer)[]]>([
    ["random bytes", () => [Buffer.from(Array.from({ length: 4_096 }, (_, i) => (i * 167) % 256))]],
    ["a TLS hello", () => [Buffer.from("16030100c8010000c40303", "hex"), Buffer.alloc(200)]],
    ["HTTP/2", () => ["PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"]],
    ["HTTP/9", () => ["GET / HTTP/9.9\r\nhost: x\r\n\r\n"]],
    ["no host", () => ["GET /health/live HTTP/1.1\r\n\r\n"]],
    ["two lengths", () => post("content-length: 12\r\ncontent-length: 13\r\n", '{"amount":1}')],
    ["a length below zero", () => post("content-length: -1\r\n", '{"amount":1}')],
    [
      "a length and chunks",
      () => post("content-length: 5\r\ntransfer-encoding: chunked\r\n", "0\r\n\r\n"),
    ],
    ["chunks of no size", () => post("transfer-encoding: chunked\r\n", "xyz\r\n{}\r\n0\r\n\r\n")],
    ["an unknown coding", () => post("transfer-encoding: gzip\r\n", "x")],
    ["a header with a NUL", () => post("x: a\0b\r\ncontent-length: 2\r\n", "{}")],
    ["a path beyond ASCII", () => ["GET /wallets/\xff\xfe HTTP/1.1\r\nhost: x\r\n\r\n"]],
    ["a path with a blank", () => ["GET /wallets/a b HTTP/1.1\r\nhost: x\r\n\r\n"]],
    ["an unknown method", () => ["FOO / HTTP/1.1\r\nhost: x\r\n\r\n"]],
    ["large headers", () => [`GET / HTTP/1.1\r\nhost: x\r\nx: ${"y".repeat(20_000)}\r\n\r\n`]],
    ["a large path", () => [`GET /${"y".repeat(20_000)} HTTP/1.1\r\nhost: x\r\n\r\n`]],
    ["an expectation", () => post("expect: a miracle\r\ncontent-length: 12\r\n", '{"amount":0}')],
  ])("with %s is refused and closed", async (_name, pieces) => {
    const given = await raw(pieces());
    expect(given).not.toBeNull();
    if (given !== "") expect(given).toMatch(/^HTTP\/1\.1 4\d\d /);
  });

  it.each<[string, () => string[]]>([
    ["half a header", () => ["POST /wallets HTTP/1.1\r\nhost: x\r\ncont"]],
    ["half a body", () => post("content-length: 100\r\n", '{"amount":')],
    ["half a chunk", () => post("transfer-encoding: chunked\r\n", '5\r\n{"a')],
  ])("that sends %s and no more is told that its time is over", async (_name, pieces) => {
    const given = await raw(pieces());
    expect(given).toMatch(/^HTTP\/1\.1 408 .*"code":"request_timeout"/s);
  });

  it("that sends its request byte by byte is served like any other", async () => {
    const [head] = post("content-length: 12\r\nconnection: close\r\n", '{"amount":0}');
    const given = await raw(head!.split(""));
    expect(given).toMatch(/^HTTP\/1\.1 400 .*"code":"invalid_amount"/s);
  });

  it("that goes away in the middle of many requests harms nobody", async () => {
    const leave = async (at: number) =>
      raw([post("content-length: 100\r\n", "{")[0]!.slice(0, at)], 20);
    await Promise.all(Array.from({ length: 100 }, (_, index) => leave(index * 2 + 1)));
    expect((await stack.get("/health/ready")).status).toBe(200);
  });

  it("that sends its key behind 2,000 other headers is heard with its key", async () => {
    const headers = `${"a: b\r\n".repeat(2_050)}idempotency-key: \r\nconnection: close\r\n`;
    const given = await raw(post(`content-length: 12\r\n${headers}`, '{"amount":0}'));
    expect(given).toMatch(/^HTTP\/1\.1 422 .*Idempotency-Key must not be empty/s);
  });

  it("that offers HTTP/2 is answered in HTTP/1.1, as if it had not", async () => {
    const offer =
      "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n";
    const given = await raw(post(`${offer}content-length: 12\r\n`, '{"amount":0}'), 500);
    expect(given).toMatch(/^HTTP\/1\.1 400 .*"code":"invalid_amount"/s);
  });
});

// --- Fuzz -----------------------------------------------------------------------------------------------------------------

const seed = Number(process.env["FC_SEED"] ?? Math.trunc(Math.random() * 2 ** 31));

const values = fc.oneof(
  {
    weight: 2,
    arbitrary: fc.constantFrom<unknown>(0, -1, 0.5, 1, "1", "1e3", 1e21, "", null, [], {}),
  },
  { weight: 2, arbitrary: fc.jsonValue() },
  { weight: 1, arbitrary: fc.string({ unit: "binary" }) },
);

function requests(): fc.Arbitrary<{ method: string; path: string; options: AskOptions }> {
  const ids = fc.oneof(
    { weight: 3, arbitrary: fc.constantFrom(stake.from, stake.to, stake.empty) },
    { weight: 1, arbitrary: fc.string({ unit: "binary" }).map(encodeURIComponent) },
  );
  const tails = words(
    "/credit /debit /transfer /suspend /activate /close /transactions /events /transfers /holds /x",
  ).concat("");
  const paths = fc.oneof(
    {
      weight: 4,
      arbitrary: fc
        .tuple(ids, fc.constantFrom(...tails))
        .map(([id, tail]) => `/wallets/${id}${tail}`),
    },
    {
      weight: 2,
      arbitrary: fc.constantFrom("/wallets", "/wallets/fund", "/wallets/transfer", "/assets"),
    },
    { weight: 1, arbitrary: ids.map((id) => `/operations/${id}`) },
    { weight: 1, arbitrary: fc.webPath().map((path) => `/${path}`) },
  );
  const names = fc.constantFrom(
    ...words(
      "amount toWalletId wallet_id senderWalletId receiverWalletId walletId initialBalance currency ownerId description metadata expectedVersion idempotencyKey reason limit cursor from type status include",
    ),
  );
  const fields = fc.array(
    fc.tuple(
      fc.oneof({ weight: 6, arbitrary: names }, { weight: 1, arbitrary: fc.string() }),
      fc.oneof({ weight: 2, arbitrary: values }, { weight: 1, arbitrary: ids }),
    ),
    { maxLength: 5 },
  );
  const queries = fc.oneof(
    { weight: 3, arbitrary: fc.constant("") },
    { weight: 1, arbitrary: fc.webQueryParameters() },
    {
      weight: 1,
      arbitrary: fc
        .tuple(names, fc.string({ unit: "binary" }))
        .map(([name, value]) => `${name}=${encodeURIComponent(value)}`),
    },
  );
  const texts = fc.oneof(
    { weight: 6, arbitrary: fields.map((pairs) => JSON.stringify(Object.fromEntries(pairs))) },
    { weight: 1, arbitrary: fc.json() },
    { weight: 1, arbitrary: fc.string({ unit: "binary" }) },
  );
  const methods = fc.constantFrom(...words("POST POST POST POST PATCH GET GET PUT DELETE HEAD"));
  return fc
    .record({ method: methods, path: paths, query: queries, text: texts })
    .map(({ method, path, query, text }) => ({
      method,
      path: query === "" ? path : `${path}?${query}`,
      options: method === "GET" || method === "HEAD" ? {} : { text },
    }));
}

/** What comes of one random request. */
async function expectHarmless(method: string, path: string, options: AskOptions): Promise<void> {
  const sumBefore = await sumOfBalances();
  const startedAtMs = performance.now();
  const { status, body, text } = await stack.ask(method, path, options);
  expect(performance.now() - startedAtMs).toBeLessThan(REFUSAL_MS_MAX);
  expect([status, text]).toEqual([Math.min(status, 499), text]);
  if (status < 400) return;
  expect(await sumOfBalances()).toBe(sumBefore);
  if (method === "HEAD") return;
  expect(isErrorCode(body.code) ? ERRORS[body.code].status : body.code).toBe(status);
}

async function sumOfBalances(): Promise<string> {
  const [row] = await stack.sql<{ sum: string }>("SELECT sum(balance)::text FROM wallets");
  return row!.sum;
}

it(`Random requests never break anything (FC_SEED=${seed})`, async () => {
  let taken = 0;
  try {
    const property = fc.asyncProperty(requests(), async ({ method, path, options }) => {
      await expectHarmless(method, path, options);
      taken++;
    });
    await fc.assert(property, { seed, numRuns: 1_500, endOnFailure: true });
    const sums = "SELECT sum(balance)::int AS sum FROM trial_balance GROUP BY currency";
    for (const { sum } of await stack.sql<{ sum: number }>(sums)) expect(sum).toBe(0);
  } finally {
    // What was taken rightly is no harm.
    before = await balances();
  }
  expect(taken).toBe(1_500);
});

it("The server serves after all that, and none of it was an error of its own", async () => {
  expect(stack.errors).toEqual([]);
  expect((await stack.get("/health/ready")).status).toBe(200);
  const key = unique("key");
  const reply = await stack.post("/wallets", { walletId: unique("w"), initialBalance: 3 }, key);
  expect([reply.status, reply.body.balance]).toEqual([201, 3]);
  before = await balances();
});
