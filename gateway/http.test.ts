/**
 * The HTTP gateway without anybody behind it: no host owns a shard, and there is no database. What
 * is refused here is refused by the gateway alone, always with the one error body, and whatever
 * would need the others says so.
 */
import { connect, type AddressInfo } from "node:net";
import { gzipSync } from "node:zlib";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { LIMITS } from "../src/limits.ts";
import { loneGatewayOptions } from "../test/stage/lone-gateway.ts";
import { buildGateway } from "./http.ts";

const { options, close } = loneGatewayOptions();
const app = buildGateway(options);
let port: number;

beforeAll(async () => {
  await app.listen({ port: 0, host: "127.0.0.1" });
  port = (app.server.address() as AddressInfo).port;
});

afterAll(async () => {
  await app.close();
  await close();
});

interface Request {
  readonly method?: "QUERY" | "GET" | "POST" | "PATCH" | "PUT" | "DELETE" | "OPTIONS" | "HEAD";
  readonly headers?: Record<string, string>;
  readonly payload?: string;
}

async function ask(url: string, request: Request = {}) {
  const response = await app.inject({ url, method: "GET", ...request });
  const isJson = response.headers["content-type"]?.toString().startsWith("application/json");
  const body = isJson === true && response.body !== "" ? response.json<Body>() : undefined;
  return { status: response.statusCode, headers: response.headers, body };
}

interface Body {
  readonly statusCode: number;
  readonly code: string;
  readonly message: string;
  readonly correlationId: string;
  readonly details?: { field: string }[];
}

const json = { "content-type": "application/json" };
const post = (payload: string, headers: Record<string, string> = json): Request => ({
  method: "POST",
  payload,
  headers,
});

describe("a link to the next page", () => {
  it("keeps the whole query, whatever stands in its values", async () => {
    // Never closed: that would end the batches it shares, and it listens nowhere.
    const pages = buildGateway({
      ...options,
      readModel: { ...options.readModel, wallets: () => Promise.resolve({ rows: [], next: "w1" }) },
    });
    const { headers } = await pages.inject("/wallets?metadata.note=is+it?&q=a?b&limit=3");
    const next = /^<(.*)>; rel="next"$/.exec(String(headers["link"]))?.[1];
    const { searchParams } = new URL(next!, "http://localhost");
    expect(Object.fromEntries(searchParams)).toEqual({
      "metadata.note": "is it?",
      q: "a?b",
      limit: "3",
      cursor: Buffer.from("w1").toString("base64url"),
    });
  });
});

describe("a body", () => {
  it.each<[string, Request, number, string]>([
    ["broken JSON", post('{"amount":'), 400, "invalid_json"],
    ["a field __proto__", post('{"amount":1,"__proto__":{"a":1}}'), 422, "validation_failed"],
    [
      "a hidden __proto__",
      post('{"amount":1,"metadata":{"\\u005f_proto__":1}}'),
      422,
      "validation_failed",
    ],
    ["nothing", post(""), 422, "validation_failed"],
    ["nothing at all", { method: "POST" }, 422, "validation_failed"],
    ["a list", post("[]"), 422, "validation_failed"],
    ["null", post("null"), 422, "validation_failed"],
    [
      "a form",
      post("a=1", { "content-type": "application/x-www-form-urlencoded" }),
      415,
      "unsupported_media_type",
    ],
    ["text", post("hi", { "content-type": "text/plain" }), 415, "unsupported_media_type"],
    ["no type", post("{}", {}), 415, "unsupported_media_type"],
    [
      "too many bytes",
      post(`{"amount":1,"description":"${"x".repeat(LIMITS.httpBodyBytesMax)}"}`),
      413,
      "payload_too_large",
    ],
    ["an unknown field", post('{"amount":1,"amuont":1}'), 422, "validation_failed"],
    ["no amount of money", post('{"amount":0}'), 400, "invalid_amount"],
    ["too large an amount", post('{"amount":1e400}'), 400, "amount_out_of_range"],
    ["an amount of no number", post('{"amount":true}'), 422, "validation_failed"],
  ])("of %s is refused", async (_name, request, status, code) => {
    const { status: given, body } = await ask("/wallets/w1/credit", request);
    expect(body).toMatchObject({ statusCode: status, code, path: "/wallets/w1/credit" });
    expect(given).toBe(status);
  });
});

describe("a content coding", () => {
  const coded = (coding: string): Request =>
    post('{"amount":0}', { ...json, "content-encoding": coding });

  it.each(["gzip", "br", "x-unheard-of", "gzip, identity", "gzip, gzip"])(
    "such as %s is refused by the name of its header, whatever the body",
    async (coding) => {
      const { status, body, headers } = await ask("/wallets/w1/credit", coded(coding));
      expect([status, body?.code]).toEqual([415, "unsupported_media_type"]);
      expect(body?.message).toContain("Content-Encoding");
      expect(headers["accept-encoding"]).toBe("identity");
      const compressed = gzipSync('{"amount":0}') as unknown as string;
      const batch = { ...coded(coding), payload: compressed };
      expect((await ask("/batch", batch)).body).toMatchObject({ statusCode: 415 });
    },
  );

  it.each(["identity", "Identity", ""])("that is none, %j, is taken", async (coding) => {
    const { body } = await ask("/wallets/w1/credit", coded(coding));
    expect(body).toMatchObject({ statusCode: 400, code: "invalid_amount" });
  });

  it("of a request without a body, or to no path, is passed over", async () => {
    const headers = { "content-encoding": "gzip" };
    expect((await ask("/health/live", { headers })).status).toBe(200);
    expect((await ask("/nowhere", coded("gzip"))).status).toBe(404);
  });
});

it.each([
  ['{"amount":1,"__proto__":{"a":1}}', "__proto__", "is not known here"],
  ['{"amount":1,"constructor":{"prototype":{"a":1}}}', "constructor", "is not known here"],
  ['{"amount":1,"metadata":{"__proto__":{}}}', "metadata", "must not contain the key __proto__"],
])(
  "the body %s is refused by naming %s, and changes no prototype",
  async (text, field, message) => {
    const { body } = await ask("/wallets/w1/credit", post(text));
    expect(body?.details).toEqual([{ field, message }]);
    expect({}).not.toHaveProperty("a");
  },
);

describe("a path", () => {
  it.each(["a%20b", "%00", "a%2Fb", "%E2%82%AC", "%zz", "%", "x".repeat(129), "x".repeat(9_000)])(
    "with the id %s is refused by naming the field",
    async (id) => {
      const { status, body } = await ask(`/wallets/${id}`);
      expect([status, body?.code]).toEqual([422, "validation_failed"]);
      expect(body?.details?.[0]?.field).toMatch(/^(walletId|path)$/);
    },
  );

  it("that leads nowhere is 404, and one for other methods 405 with their names", async () => {
    expect((await ask("/nowhere?x=1")).body).toMatchObject({ code: "not_found", path: "/nowhere" });
    const { status, headers, body } = await ask("/wallets/w1", { method: "DELETE" });
    expect([status, body?.code, headers["allow"]]).toEqual([
      405,
      "method_not_allowed",
      "GET, HEAD, OPTIONS, PATCH",
    ]);
    expect((await ask("/docs/static/nowhere.js")).body).toMatchObject({ code: "not_found" });
    // Whatever else is wrong with such a request
    const text = { headers: { "content-type": "text/plain" }, payload: "hi" };
    for (const request of [
      { method: "QUERY" },
      { method: "QUERY", ...text },
      { method: "PUT", ...text },
      { method: "PUT", headers: json, payload: "{" },
    ] as Request[]) {
      const answer = await ask("/wallets", request);
      expect([answer.status, answer.headers["allow"]]).toEqual([405, "GET, HEAD, OPTIONS, POST"]);
      expect((await ask("/nowhere", request)).body).toMatchObject({ code: "not_found" });
    }
    const options = await ask("/wallets", { method: "OPTIONS" });
    expect([options.status, options.headers["allow"]]).toEqual([204, "GET, HEAD, OPTIONS, POST"]);
  });
});

describe("a query", () => {
  it.each([
    ["/wallets?limit=0", "limit"],
    ["/wallets?limit=1&limit=2", "limit"],
    ["/wallets?foo=1", "foo"],
    ["/wallets?__proto__=1", "__proto__"],
    ["/wallets?cursor=%00", "cursor"],
    ["/wallets?cursor=ISEh", "cursor"],
    ["/wallets/w1?include=everything", "include"],
    ["/wallets/w1/transactions?from=yesterday", "from"],
    ["/wallets/w1/transactions?cursor=eA", "cursor"],
    ["/operations/k%07", "idempotencyKey"],
  ])("%s is refused by naming the field", async (url, field) => {
    const { status, body } = await ask(url);
    expect([status, body?.details?.[0]?.field]).toEqual([422, field]);
  });
});

const spend = { user_id: "u1", asset_code: "USD", reference_id: "r1", amount: 1 };
it.each([
  ["POST", "/wallets/w1/debit?dryRun=true", { amount: 1 }, "dryRun"],
  ["POST", "/batch?dryRun=true", { commands: [{}] }, "dryRun"],
  ["POST", "/api/v1/wallets/spend?dry_run=true", spend, "dry_run"],
  ["PATCH", "/wallets/w1?expectedVersion=3", { metadata: {} }, "expectedVersion"],
] as const)("%s %s is refused: a write is told by its body", async (method, url, body, field) => {
  const answer = await ask(url, { method, payload: JSON.stringify(body), headers: json });
  expect([answer.status, answer.body?.details]).toEqual([
    422,
    [{ field, message: "is not known here" }],
  ]);
});

it("a batch without a query comes to its commands", async () => {
  const { status, body } = await ask("/batch", post('{"commands":[{}]}'));
  expect([status, body]).toMatchObject([200, { outcomes: [{ ok: false, statusCode: 422 }] }]);
});

describe("the correlation id", () => {
  it("is the caller's, echoed also on errors", async () => {
    const headers = { "x-correlation-id": "mine" };
    const { headers: given, body } = await ask("/nowhere", { headers });
    expect([given["x-correlation-id"], body?.correlationId]).toEqual(["mine", "mine"]);
  });

  it("is a new one when the caller's cannot be kept", async () => {
    const headers = { "x-correlation-id": "x".repeat(LIMITS.keyLengthMax + 1) };
    expect((await ask("/nowhere", { headers })).body?.correlationId).toHaveLength(36);
  });

  it("is a new one when the caller's would come back in other bytes", async () => {
    const headers = { "x-correlation-id": Buffer.from("order-ü").toString("latin1") };
    const { headers: given, body } = await ask("/nowhere", { headers });
    expect(given["x-correlation-id"]).toMatch(/^[\da-f-]{36}$/);
    expect(body?.correlationId).toBe(given["x-correlation-id"]);
  });
});

describe("without a database", () => {
  it("reads are unavailable, and say when to come back", async () => {
    const { status, headers, body } = await ask("/wallets/w1");
    expect([status, body?.code, headers["retry-after"]]).toEqual([503, "unavailable", "1"]);
  });

  it("the process is alive and not ready, and names what is missing", async () => {
    expect((await ask("/health/live")).status).toBe(200);
    for (const url of ["/health", "/health/ready", "/api/v1/health"]) {
      const { status, body } = await ask(url);
      expect(status).toBe(503);
      expect(body).toMatchObject({
        status: "down",
        version: "1.2.3",
        checks: { database: { state: "down" }, bus: { state: "up" } },
      });
    }
    expect((await ask("/health/nats")).body).toMatchObject({ status: "up" });
    expect((await ask("/health/nats/stats")).body).toMatchObject({ bus: { kind: "in-process" } });
  });

  it("what needs none is answered", async () => {
    expect((await ask("/docs")).status).toBe(200);
  });
});

it("the dry run of a capture that pays a wallet names no transfer", async () => {
  const wallet = {
    id: "w1",
    ownerId: null,
    currency: "USD",
    balance: 1,
    held: 0,
    available: 1,
    status: "ACTIVE" as const,
    version: 3,
    metadata: {},
    createdAt: "2026-01-01T12:00:00.000Z",
    updatedAt: "2026-01-01T12:00:00.000Z",
  };
  const transfer = { transferId: null, status: "posted" as const, from: wallet, to: wallet };
  const trying = buildGateway({
    ...options,
    commands: { pending: 0, submit: () => Promise.resolve({ type: "fault", fault: "unknown" }) },
    answer: () => ({ type: "transfer", transfer: { ...transfer, hold: null }, isReplay: false }),
  });
  const url = "/wallets/w1/holds/h1/capture";
  const response = await trying.inject({ url, ...post('{"toWalletId":"w2","dryRun":true}') });
  expect(response.json()).toMatchObject({ transfer: { transferId: null, status: "posted" } });
  await trying.close();
});

describe("what is no HTTP", () => {
  async function send(bytes: string): Promise<string> {
    const socket = connect(port, "127.0.0.1");
    let answer = "";
    socket.on("data", (chunk) => (answer += chunk.toString()));
    socket.on("error", () => undefined);
    socket.write(bytes);
    await new Promise((resolve) => socket.once("close", resolve));
    return answer;
  }

  it.each([
    ["a broken request line", "HELLO\r\n\r\n", 400, "bad_request"],
    ["a broken header", "GET / HTTP/1.1\r\nno colon here\r\n\r\n", 400, "bad_request"],
    [
      "two lengths",
      "POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nx",
      400,
      "bad_request",
    ],
    ["no host", "GET /health/live HTTP/1.1\r\n\r\n", 400, "bad_request"],
    [
      "an expectation that nobody meets",
      "POST /wallets/w1/credit HTTP/1.1\r\nhost: x\r\nexpect: banana\r\ncontent-length: 12\r\n\r\n",
      417,
      "expectation_failed",
    ],
    [
      "too many header bytes",
      `GET / HTTP/1.1\r\nhost: x\r\na: ${"x".repeat(20_000)}\r\n\r\n`,
      431,
      "headers_too_large",
    ],
  ])(
    "such as %s gets the error body and a closed connection",
    async (_name, bytes, status, code) => {
      const [head, body] = (await send(bytes)).split("\r\n\r\n");
      expect(head).toContain(`HTTP/1.1 ${status} `);
      expect(head).toContain("connection: close");
      expect(JSON.parse(body!)).toMatchObject({ statusCode: status, code });
    },
  );
});
