/**
 * The HTTP gateway without anybody behind it: no host owns a shard, and there is no database. What
 * is refused here is refused by the gateway alone, always with the one error body, and whatever
 * would need the others says so.
 */
import { connect, type AddressInfo } from "node:net";
import { gzipSync } from "node:zlib";
import { pino } from "pino";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { LIMITS } from "../src/limits.ts";
import { buildMemoryBus } from "../src/memory-bus.ts";
import { buildMetrics } from "../src/metrics.ts";
import { buildPostgresAssets } from "../src/postgres-assets.ts";
import { buildPostgresReadModel } from "../src/postgres-read-model.ts";
import type { WebhookStore } from "../src/webhooks.ts";
import { buildAnswers } from "./answers.ts";
import { buildBatches } from "./batch.ts";
import { buildCommandIntake } from "./command-intake.ts";
import { buildCommandDesk } from "./commands.ts";
import { buildGateway } from "./http.ts";
import { OPERATION_IDS } from "./operation-ids.ts";

const bus = buildMemoryBus();
const commands = buildCommandDesk({ bus, gatewayId: "test" });
/** Nothing listens there. */
const databaseUrls = ["postgres://nobody@127.0.0.1:1/none"];
const readModel = buildPostgresReadModel({ databaseUrls });
const assets = buildPostgresAssets({ databaseUrls });
const log = pino({ level: "silent" });
const takeIn = buildCommandIntake((code) => assets.assetOf(code));
const answer = buildAnswers({ readModel, log });
const batches = buildBatches({ commands, takeIn, answer, log });
const version = "1.2.3";
const options = { bus, commands, takeIn, answer, batches, readModel, assets, version, log };
const app = buildGateway(options);
let port: number;

beforeAll(async () => {
  await app.listen({ port: 0, host: "127.0.0.1" });
  port = (app.server.address() as AddressInfo).port;
});

afterAll(async () => {
  await app.close();
  await commands.drain();
  await readModel.close();
  await assets.close();
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
      readModel: { ...readModel, wallets: () => Promise.resolve({ rows: [], next: "w1" }) },
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

it("the OpenAPI document comes from the schemas that validate", async () => {
  const spec = (await ask("/openapi.json")).body as unknown as {
    openapi: string;
    paths: Record<
      string,
      Record<string, { operationId?: string; requestBody?: object; responses: object }>
    >;
    components: { schemas: Record<string, object> };
  };
  expect(spec.openapi).toBe("3.1.0");
  expect(Object.keys(spec.components.schemas)).toEqual(
    expect.arrayContaining(["Wallet", "Event", "Transaction", "Transfer", "Error"]),
  );
  const credit = spec.paths["/wallets/{walletId}/credit"]?.["post"];
  expect(credit?.requestBody).toMatchObject({
    content: { "application/json": { schema: { additionalProperties: false } } },
  });
  expect(Object.keys(credit?.responses ?? {})).toEqual(["200", "4XX", "5XX"]);

  // And every operation has a name of its own
  const operations = Object.values(spec.paths).flatMap((path) => Object.values(path));
  const names = operations.map(({ operationId }) => operationId);
  expect(names).toContain("creditWallet");
  expect(names).not.toContain(undefined);
  expect(new Set(names).size).toBe(names.length);
  expect(new Set(Object.values(OPERATION_IDS)).size).toBe(Object.keys(OPERATION_IDS).length);

  // And every write shows a body that can be sent as it stands
  const writes = Object.values(spec.paths).flatMap((path) => [path["post"], path["patch"]]);
  const bodies = writes.flatMap((write) => (write === undefined ? [] : [write.requestBody]));
  expect(bodies.length).toBeGreaterThan(15);
  for (const body of bodies) {
    const shown = (body as { content: Record<string, object> }).content["application/json"];
    expect(Object.keys(shown ?? {})).toContainEqual(expect.stringMatching(/^examples?$/));
  }

  // And every write that can be tried out says how its answer shows that, also in the game's words
  const dryRunHeader = { 200: { headers: { "Dry-Run": expect.anything() } } };
  expect(credit?.responses).toMatchObject(dryRunHeader);
  expect(spec.paths["/api/v1/wallets/spend"]?.["post"]?.responses).toMatchObject(dryRunHeader);

  // And the feed is there, whose protocol begins with an answer of HTTP
  expect(Object.keys(spec.paths["/ws"]?.["get"]?.responses ?? {})).toContain("101");
});

it("the OpenAPI document says of each answer which headers and kind of body it has", async () => {
  const metrics = buildMetrics({ role: "gateway", version });
  const described = buildGateway({ ...options, metrics });
  await described.ready();
  const spec = (await described.inject({ url: "/openapi.json" })).json<{
    paths: Record<string, Record<string, { responses: Record<string, Answer> }>>;
    components: { schemas: Record<string, { properties: object }> };
    security: unknown[];
  }>();
  interface Answer {
    description: string;
    headers?: Record<string, object>;
    content?: Record<string, object>;
  }
  const all = Object.entries(spec.paths).flatMap(([path, operations]) =>
    Object.entries(operations).flatMap(([method, { responses }]) =>
      Object.entries(responses).map(([status, answer]) => ({
        name: `${method} ${path} ${status}`,
        description: answer.description,
        headers: Object.keys(answer.headers ?? {}),
        content: Object.keys(answer.content ?? {}),
      })),
    ),
  );
  const having = (header: string): string[] =>
    all.filter(({ headers }) => headers.includes(header)).map(({ name }) => name);

  // All that is HTTP is named
  const others = all.filter(({ headers }) => !headers.includes("X-Correlation-Id"));
  expect(others.map(({ name }) => name)).toEqual(["get /ws 101"]);
  expect((await described.inject({ url: "/assets" })).headers["x-correlation-id"]).toMatch(/\w/);
  // What may be the answer to an earlier request says so, and nothing else
  const replays = having("Idempotent-Replayed");
  expect(replays).toEqual(expect.arrayContaining(["post /wallets 201", "post /wallets 4XX"]));
  expect(replays.filter((name) => name.startsWith("post /assets"))).toEqual(["post /assets 200"]);
  expect(replays.filter((name) => /^get|\/batch| 5XX$/.test(name))).toEqual([]);
  // What is made can be found, if it has a path
  expect(having("Location").toSorted()).toEqual([
    "post /wallets 201",
    "post /wallets/{walletId}/holds 201",
  ]);
  // No read has an outcome that could be unknown
  const reads = all.filter(({ name }) => name.startsWith("get "));
  expect(reads.filter(({ description }) => description.includes("504"))).toEqual([]);
  const plain = reads.find(({ name }) => name === "get /ws 4XX");
  expect(plain?.description).toContain("426");
  // Metrics are no JSON
  const shown = all.find(({ name }) => name === "get /metrics 200");
  expect(shown?.content).toEqual(["text/plain"]);
  const page = await described.inject({ url: "/metrics" });
  expect(page.headers["content-type"]).toMatch(/^text\/plain;/);
  expect(page.body).toContain("coffer_build_info{");
  // A time that may be missing is a time
  const time = { type: ["string", "null"], format: "date-time" };
  expect(spec.components.schemas["Hold"]?.properties).toMatchObject({
    expiresAt: time,
    releasedAt: time,
    capturedAt: time,
  });
  // And nobody is asked who he is
  expect(spec.security).toEqual([]);
  await described.close();
});

it("the OpenAPI document has parameters that can be sent as they are filled in", async () => {
  const { paths } = (await ask("/openapi.json")).body as unknown as {
    paths: Record<string, Record<string, { parameters?: Parameter[] }>>;
  };
  interface Parameter {
    readonly name: string;
    readonly in: string;
  }
  const operations = Object.values(paths).flatMap((path) => Object.values(path));
  const all = operations.flatMap(({ parameters = [] }) => parameters);
  // The documentation fills in what is an example: filters that nobody asked for
  const ofQueries = all.filter((parameter) => parameter.in === "query");
  expect(ofQueries.length).toBeGreaterThan(20);
  expect(ofQueries.filter((it) => "example" in it || "examples" in it)).toEqual([]);
  // But what a path cannot be without has one
  const ofPaths = all.filter((parameter) => parameter.in === "path");
  expect(ofPaths.length).toBeGreaterThan(20);
  expect(ofPaths.filter((it) => !("example" in it))).toEqual([]);
  // And the filters of metadata have the names that the caller gives them
  expect(ofQueries.find(({ name }) => name === "metadata.<key>")).toMatchObject({
    style: "form",
    explode: true,
    schema: { type: "object", additionalProperties: { type: "string" }, default: {} },
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

it("the OpenAPI document says what a key is on each path, and which answers are a path's own", async () => {
  const webhooks = { store: {} as WebhookStore, allowsPrivate: false };
  const described = buildGateway({ ...options, webhooks });
  await described.ready();
  const { paths } = (await described.inject({ url: "/openapi.json" })).json<{
    paths: Record<string, Record<string, Operation>>;
  }>();
  interface Operation {
    parameters?: { name: string; description: string; schema: object }[];
    responses: Record<string, { description: string; headers?: object }>;
  }
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      name: `${method} ${path}`,
      operation,
    })),
  );
  const keys = new Map<string, { description: string; schema: object }[]>();
  for (const { name, operation } of operations) {
    for (const parameter of operation.parameters ?? []) {
      if (parameter.name !== "Idempotency-Key") continue;
      keys.set(name, [...(keys.get(name) ?? []), parameter]);
    }
  }
  const told = (name: string): string => keys.get(name)?.[0]?.description ?? "";
  expect(told("post /wallets")).toContain("gets the first answer again");
  expect(told("post /batch")).toContain("`<key>/<n>`");
  expect(keys.get("post /batch")?.[0]?.schema).toMatchObject({
    maxLength: LIMITS.keyLengthMax - 5,
  });
  for (const path of ["topup", "bonus", "spend"]) {
    expect(told(`post /api/v1/wallets/${path}`)).toContain("`reference_id` is the key");
  }
  expect(told("post /assets")).toContain("the code is the key");
  expect(told("post /webhooks")).toContain("no second webhook");
  expect(told("post /webhooks/{webhookId}/replay")).toContain("not used");
  expect(paths["/assets"]?.["post"]?.responses["200"]?.description).toContain("there already");
  expect(paths["/webhooks/{webhookId}"]?.["delete"]?.responses["4XX"]?.description).toContain(
    "nothing happened",
  );
  const replayed = operations
    .filter(({ name }) => name.includes("/webhooks"))
    .flatMap(({ name, operation }) =>
      Object.entries(operation.responses)
        .filter(([, { headers = {} }]) => "Idempotent-Replayed" in headers)
        .map(([status]) => `${name} ${status}`),
    );
  expect(replayed).toEqual(["post /webhooks 201"]);
  // An example that is not filled in is still there, and the filters are bounded as the server does
  const ofList = paths["/wallets"]?.["get"]?.parameters ?? [];
  const schemaOf = (name: string) => ofList.find((it) => it.name === name)?.schema;
  expect(schemaOf("minBalance")).toMatchObject({ examples: ["10.50"] });
  expect(schemaOf("metadata.<key>")).toMatchObject({
    propertyNames: { pattern: "^metadata\\." },
    maxProperties: LIMITS.metadataFiltersMax,
  });
  await described.close();
});

it("the OpenAPI document says of every parameter and every field of a body what it is", async () => {
  const webhooks = { store: {} as WebhookStore, allowsPrivate: false };
  const described = buildGateway({
    ...options,
    webhooks,
    metrics: buildMetrics({ role: "gateway", version }),
  });
  await described.ready();
  interface Described {
    readonly description?: string;
    readonly properties?: Record<string, Described>;
    readonly items?: Described;
    readonly anyOf?: readonly Described[];
    readonly title?: string;
  }
  interface Operation {
    readonly parameters?: (Described & { name: string })[];
    readonly requestBody?: { content: Record<string, { schema: Described }> };
  }
  const { paths } = (await described.inject({ url: "/openapi.json" })).json<{
    paths: Record<string, Record<string, Operation>>;
  }>();
  await described.close();
  const silent: string[] = [];
  const look = (place: string, { properties = {}, items, anyOf = [] }: Described): void => {
    for (const [name, field] of Object.entries(properties)) {
      if ((field.description ?? "") === "") silent.push(`${place} ${name}`);
      look(`${place} ${name}`, field);
    }
    if (items !== undefined) look(place, items);
    for (const one of anyOf) look(`${place} ${one.title ?? ""}`, one);
  };
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, { parameters = [], requestBody }] of Object.entries(methods)) {
      for (const { name, description = "" } of parameters) {
        if (description === "") silent.push(`${method} ${path} ${name}`);
      }
      const schema = requestBody?.content["application/json"]?.schema;
      if (schema !== undefined) look(`${method} ${path}`, schema);
    }
  }
  expect(silent).toEqual([]);
});
