/**
 * The service over a real NATS server with two gateways behind it: found by the services API, the
 * same checks and answers as HTTP, errors in headers too, one answer per key whichever way it comes
 * in, and callers in other processes.
 */
import { spawn } from "node:child_process";

import { headers as newHeaders, RequestStrategy, type Msg, type NatsConnection } from "nats";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { NATS_REQUESTS } from "../gateway/routes/command-schemas.ts";
import { LIMITS } from "../src/limits.ts";
import { packageRoot } from "../src/package-root.ts";
import { unique } from "./stage/ids.ts";
import { startStack, until, type AnyBody, type Stack } from "./stage/stack.ts";
import { openStake } from "./stage/write-routes.ts";

const ENDPOINTS = [...Object.keys(NATS_REQUESTS), "batch"];

interface ServiceReply {
  readonly ok: boolean;
  readonly data: AnyBody;
  readonly error: Pick<AnyBody, "code" | "message" | "statusCode" | "details">;
}

let stacks: [Stack, Stack];
let nats: NatsConnection;

beforeAll(async () => {
  const first = await startStack({ overNats: true });
  stacks = [first, await startStack({ besides: first })];
  nats = await first.connectNats();
});

afterAll(async () => {
  await stacks[1].close();
  await stacks[0].close();
});

/** A request with its payload as it is; the message is there for its headers. */
async function send(
  endpoint: string,
  payload: string | Uint8Array,
  headers: Record<string, string> = {},
): Promise<{ message: Msg; reply: ServiceReply }> {
  const given = newHeaders();
  for (const [name, value] of Object.entries(headers)) given.set(name, value);
  const options = { timeout: 5_000, headers: given };
  const message = await nats.request(`wallets.v1.${endpoint}`, payload, options);
  return { message, reply: message.json<ServiceReply>() };
}

const ask = (endpoint: string, body: object, headers?: Record<string, string>) =>
  send(endpoint, JSON.stringify(body), headers);

async function data(endpoint: string, body: object): Promise<AnyBody> {
  const { reply, message } = await ask(endpoint, body);
  expect(reply).toMatchObject({ ok: true, data: {} });
  expect(message.headers?.has("Nats-Service-Error-Code")).not.toBe(true);
  return reply.data;
}

/** The same command by its route. */
function overHttp(stack: Stack, endpoint: string, walletId: string, fields: object, key?: string) {
  const path = `/wallets/${walletId}`;
  const keyed = key !== undefined && { key };
  if (endpoint === "create") return stack.post("/wallets", { walletId, ...fields }, key);
  if (endpoint === "update") return stack.ask("PATCH", path, { json: fields, ...keyed });
  return stack.post(`${path}/${endpoint}`, fields, key);
}

async function collected<T>(iterator: AsyncIterable<T> | Promise<AsyncIterable<T>>): Promise<T[]> {
  const all: T[] = [];
  for await (const one of await iterator) all.push(one);
  return all;
}

const discovery = () => nats.services.client({ maxWait: 500, strategy: RequestStrategy.Timer });

describe("the service", () => {
  it("is found with its endpoints and their schemas, once for each gateway", async () => {
    const infos = await collected(discovery().info("wallets"));
    expect(infos.length).toBe(2);
    expect(new Set(infos.map(({ id }) => id)).size).toBe(2);
    for (const { name, version, description, endpoints } of infos) {
      expect([name, version]).toEqual(["wallets", "1.2.3"]);
      expect(description).toMatch(/\w/);
      expect(endpoints.map((one) => one.subject).toSorted()).toEqual(
        ENDPOINTS.map((one) => `wallets.v1.${one}`).toSorted(),
      );
      for (const { metadata } of endpoints) {
        expect(JSON.parse(metadata!["schema"]!)).toMatchObject({
          type: "object",
          additionalProperties: false,
        });
      }
    }
    expect((await collected(discovery().ping("wallets"))).length).toBe(2);
  });

  it("carries out every command and reads", async () => {
    const [id, to] = [unique("n"), unique("n")];
    const created = await data("create", { walletId: id, ownerId: "u", initialBalance: "10.00" });
    expect(created).toMatchObject({ id, ownerId: "u", balance: 10, version: 1, status: "ACTIVE" });
    await data("create", { walletId: to });
    expect(await data("credit", { walletId: id, amount: 5 })).toMatchObject({ balance: 15 });
    expect(await data("debit", { walletId: id, amount: 0.5 })).toMatchObject({ balance: 14.5 });
    expect(await data("transfer", { walletId: id, toWalletId: to, amount: 4.5 })).toMatchObject({
      status: "posted",
      fromWallet: { id, balance: 10, version: 4 },
      toWallet: { id: to, balance: 4.5, version: 1 },
    });
    expect(await data("suspend", { walletId: id, reason: "r" })).toMatchObject({ version: 5 });
    const changed = await data("update", { walletId: id, metadata: { a: { b: 1, c: null } } });
    expect(changed).toMatchObject({ status: "SUSPENDED", metadata: { a: { b: 1 } }, version: 6 });
    expect(await data("activate", { walletId: id })).toMatchObject({ status: "ACTIVE" });
    await data("debit", { walletId: id, amount: 10 });
    const closed = await data("close", { walletId: id });
    expect(closed).toMatchObject({ status: "CLOSED", balance: 0, version: 9 });
    expect(closed.metadata).toEqual({ a: { b: 1 } });
    expect(await data("get", { walletId: id })).toEqual(closed);
    for (const stack of stacks) expect(await stack.wallet(id)).toEqual(closed);
    const anonymous = await data("create", {});
    expect(anonymous.id).toMatch(/^[\da-f-]{36}$/);
  });

  it("takes over the caller's correlation id", async () => {
    const { id } = await stacks[0].open();
    await ask("credit", { walletId: id, amount: 1 }, { "x-correlation-id": "order-8" });
    const { body } = await stacks[1].get<{ metadata: object }[]>(
      `/wallets/${id}/events?fromVersion=1`,
    );
    expect(body[0]!.metadata).toMatchObject({ correlationId: "order-8" });
  });

  it("names a refused request by its correlation id, the caller's or a new one", async () => {
    const given = await ask("get", { walletId: "nobody" }, { "x-correlation-id": "order-9" });
    expect(given.message.headers?.get("X-Correlation-Id")).toBe("order-9");
    const { message } = await send("credit", "{");
    expect(message.headers?.get("X-Correlation-Id")).toMatch(/^[\da-f-]{36}$/);
  });

  it("carries out a request to which nobody wants an answer", async () => {
    const { id } = await stacks[0].open();
    nats.publish("wallets.v1.credit", JSON.stringify({ walletId: id, amount: 3 }));
    await until("it is done", async () => (await stacks[0].wallet(id)).version === 1);
    expect((await stacks[0].wallet(id)).balance).toBe(3);
  });
});

describe("a refusal", () => {
  /** Each input over both ways in: the HTTP path for the wallet, and the fields of the body. */
  it.each<[endpoint: string, fields: Record<string, unknown>]>([
    ...[
      0,
      -1,
      0.001,
      1e21,
      1e-9,
      "NaN",
      "1e3",
      " 1",
      "",
      null,
      true,
      {},
      [],
      "9".repeat(1_000),
    ].map((amount): [string, Record<string, unknown>] => ["credit", { amount }]),
    ["debit", { amount: 1_000.01 }],
    ["debit", {}],
    ["credit", { amount: 1, amuont: 2 }],
    ["credit", { amount: 1, expectedVersion: 7 }],
    ["credit", { amount: 1, expectedVersion: "1" }],
    ["credit", { amount: 1, description: "a\0" }],
    ["credit", { amount: 1, description: "x".repeat(LIMITS.descriptionLengthMax + 1) }],
    ["credit", { amount: 1, metadata: [] }],
    ["credit", { amount: 1, metadata: { a: "\ud800" } }],
    ["credit", { amount: 1, metadata: { a: "x".repeat(LIMITS.metadataBytesMax) } }],
    ["credit", { amount: 1, idempotencyKey: "" }],
    ["transfer", { toWalletId: "nobody", amount: 1 }],
    ["transfer", { toWalletId: "a b", amount: 1 }],
    ["transfer", { amount: 1 }],
    ["close", {}],
    ["close", { expectedVersion: 0 }],
    ["suspend", { reason: 1 }],
    ["suspend", { reason: "a", description: "b" }],
    ["update", {}],
    ["update", { metadata: null }],
    ["update", { metadata: { a: "\0" } }],
    ["update", { metadata: {}, expectedVersion: 7 }],
    ["update", { metadata: {}, reason: "r" }],
  ])("of %s %j is the same as over HTTP", async (endpoint, fields) => {
    const { from: walletId } = await openStake(stacks[0]);
    const { message, reply } = await ask(endpoint, { walletId, ...fields });
    const { body } = await overHttp(stacks[1], endpoint, walletId, fields);
    const { code, message: sentence, statusCode, details } = body;
    expect(reply).toEqual({
      ok: false,
      error: { code, message: sentence, statusCode, ...(details !== undefined && { details }) },
    });
    expect(statusCode).toBeLessThan(500);
    expect(message.headers?.get("Nats-Service-Error-Code")).toBe(String(statusCode));
    expect(message.headers?.get("Nats-Service-Error")).toBe(code);
    expect(await stacks[0].wallet(walletId)).toMatchObject({ balance: 1_000, version: 1 });
  });

  it.each(ENDPOINTS)("of junk comes at once from %s", async (endpoint) => {
    const nothing = endpoint === "create" ? "[1]" : "{}";
    const junk: [string | Uint8Array, string][] = [
      ...["", "x", "{", "undefined", "NaN", "{}{}"].map((text): [string, string] => [
        text,
        "invalid_json",
      ]),
      [Buffer.from([0xff, 0xfe, 0]), "invalid_json"],
      ...["null", "1", '"w"', "[]", "true", nothing].map((text): [string, string] => [
        text,
        "validation_failed",
      ]),
      ['{"walletId":"a b"}', "validation_failed"],
      ['{"walletId":5}', "validation_failed"],
      ['{"walletId":"w","constructor":1}', "validation_failed"],
      ['{"walletId":"w","__proto__":{"amount":1}}', "validation_failed"],
      [`{"walletId":"${"x".repeat(900_000)}"}`, "validation_failed"],
      ["[".repeat(500_000) + "]".repeat(500_000), "validation_failed"],
      ["[".repeat(1_000_000), "invalid_json"],
    ];
    for (const [payload, code] of junk) {
      const { reply } = await send(endpoint, payload);
      const sent = payload.slice(0, 50);
      expect({ sent, ...reply }).toMatchObject({ sent, ok: false, error: { code } });
      expect(JSON.stringify(reply).length).toBeLessThan(4_000);
    }
  });

  it.each([
    "Idempotency Key: order-1",
    "Idempotency-Key: a\nb",
    "X-Correlation-Id: a\rb",
    "\u00e9: x",
  ])(
    "of headers that cannot be read, %j, comes at once from every endpoint and nothing happens",
    async (line) => {
      const { id } = await stacks[0].open();
      // As clients that check nothing send them.
      const given = Object.assign(newHeaders(), {
        encode: () => Buffer.from(`NATS/1.0\r\n${line}\r\n\r\n`),
      });
      const body = JSON.stringify({ walletId: id, amount: 1 });
      for (const endpoint of ENDPOINTS) {
        const options = { timeout: 5_000, headers: given };
        const message = await nats.request(`wallets.v1.${endpoint}`, body, options);
        expect(message.json<ServiceReply>().error).toMatchObject({
          code: "bad_request",
          statusCode: 400,
          message: expect.stringContaining("headers"),
        });
        expect(message.headers?.get("Nats-Service-Error-Code")).toBe("400");
      }
      expect(await stacks[1].wallet(id)).toMatchObject({ balance: 0, version: 0 });
    },
  );

  it.each([
    "coffer.released",
    "wallets.events.alice.WalletCredited",
    "wallets.v1.get",
    "$JS.API.INFO",
  ])("to answer on %s, where only Coffer may publish, leaves no trace", async (reply) => {
    const { id } = await stacks[0].open();
    const heard: Msg[] = [];
    const listening = nats.subscribe(reply, { callback: (_error, message) => heard.push(message) });
    const body = JSON.stringify({ walletId: id, amount: 1 });
    nats.publish("wallets.v1.credit", body, { reply });
    nats.publish("wallets.v1.batch", JSON.stringify({ commands: [] }), { reply });
    // Requests are taken in their order, by either gateway.
    for (let i = 0; i < 20; i++) await ask("get", { walletId: id });
    expect(await stacks[0].wallet(id)).toMatchObject({ balance: 0, version: 0 });
    const answers = heard.map((message) => message.string()).filter((text) => /"ok":/.test(text));
    expect(answers).toEqual([]);
    listening.unsubscribe();
  });

  it("names the wallet that is not there", async () => {
    const { reply } = await ask("get", { walletId: "nobody" });
    expect(reply.error).toEqual({
      code: "wallet_not_found",
      message: "Wallet nobody does not exist",
      statusCode: 404,
      details: { walletId: "nobody" },
    });
  });
});

describe("an idempotency key", () => {
  it.each(["credit", "debit", "transfer", "create", "update", "suspend", "activate", "close"])(
    "of %s gives the first answer again, also over HTTP and after a crash",
    async (endpoint) => {
      const { from, to, empty } = await openStake(stacks[0]);
      const isStep = ["suspend", "activate", "close"].includes(endpoint);
      const walletId = endpoint === "create" ? unique("n") : isStep ? empty : from;
      const fields = {
        ...(["credit", "debit", "transfer"].includes(endpoint) && { amount: 10 }),
        ...(endpoint === "update" && { metadata: { a: 1, b: null } }),
        ...(endpoint === "transfer" && { toWalletId: to }),
      };
      const key = unique("key");
      const first = await ask(endpoint, { walletId, ...fields }, { "Idempotency-Key": key });
      expect(first.reply).toMatchObject({ ok: true });
      expect(first.message.headers?.get("Idempotent-Replayed") ?? "").toBe("");
      await stacks[0].crashLanes();
      const body = { walletId, ...fields, idempotencyKey: key };
      for (const headers of [{}, { "idempotency-key": key }]) {
        const { message, reply } = await ask(endpoint, body, headers);
        expect(reply).toEqual(first.reply);
        expect(message.headers?.get("Idempotent-Replayed")).toBe("true");
      }
      const http = await overHttp(stacks[1], endpoint, walletId, fields, key);
      expect(http.body).toEqual(first.reply.data);
      expect(http.headers["idempotent-replayed"]).toBe("true");
      const other = await ask(endpoint, { ...body, description: "another" });
      expect(other.reply.error.code).toBe("idempotency_conflict");
    },
  );

  it("that a gateway made is a conflict with another input, also over HTTP and after a crash", async () => {
    const { id: walletId } = await stacks[0].open({ initialBalance: 100 });
    const fields = { amount: 10, description: "ten" };
    const first = await ask("credit", { walletId, ...fields });
    const { body } = await stacks[1].get<{ reference: string }[]>(
      `/wallets/${walletId}/transactions?limit=1`,
    );
    const idempotencyKey = body[0]!.reference;
    for (const isCrashing of [false, true]) {
      if (isCrashing) await stacks[0].crashLanes();
      for (const [endpoint, input] of [
        ["debit", fields],
        ["credit", { ...fields, amount: 11 }],
        ["hold", fields],
      ] as const) {
        const { reply } = await ask(endpoint, { walletId, ...input, idempotencyKey });
        expect(reply.error).toMatchObject({ code: "idempotency_conflict", statusCode: 409 });
      }
      const again = await ask("credit", { walletId, ...fields, idempotencyKey });
      expect(again.reply).toEqual(first.reply);
      const http = await overHttp(stacks[1], "credit", walletId, fields, idempotencyKey);
      expect(http.body).toEqual(first.reply.data);
      const other = await overHttp(stacks[1], "debit", walletId, fields, idempotencyKey);
      expect([other.status, other.body.code]).toEqual([409, "idempotency_conflict"]);
    }
  });

  it("takes effect once, however many ask at the same time at two gateways", async () => {
    const { id } = await stacks[0].open();
    const key = unique("key");
    const body = { walletId: id, amount: 1, idempotencyKey: key };
    const replies = await Promise.all([
      ...Array.from({ length: 20 }, async () => (await ask("credit", body)).reply.data),
      ...stacks.map(
        async (one) => (await one.post(`/wallets/${id}/credit`, { amount: 1 }, key)).body,
      ),
    ]);
    for (const reply of replies) expect(reply).toMatchObject({ balance: 1, version: 1 });
    expect(await stacks[0].wallet(id)).toMatchObject({ balance: 1, version: 1 });
  });

  it("that differs between header and body is refused", async () => {
    const body = { walletId: "w", amount: 1, idempotencyKey: "one" };
    const { reply } = await ask("credit", body, { "Idempotency-Key": "two" });
    expect(reply.error).toMatchObject({ code: "validation_failed", statusCode: 422 });
    expect(reply.error.message).toContain("idempotencyKey");
  });
});

describe("two gateways", () => {
  const requestsServed = async () =>
    (await collected(discovery().stats("wallets"))).map(({ endpoints }) =>
      endpoints!.reduce((sum, { num_requests: count }) => sum + count, 0),
    );

  it("share the work: each request is served once, by one of them", async () => {
    const { id } = await stacks[0].open();
    const before = await requestsServed();
    await Promise.all(
      Array.from({ length: 300 }, () => data("credit", { walletId: id, amount: 1 })),
    );
    expect(await stacks[1].wallet(id)).toMatchObject({ balance: 300, version: 300 });
    const after = await requestsServed();
    expect(after.length).toBe(2);
    const sum = (counts: number[]) => counts.reduce((total, count) => total + count, 0);
    expect(sum(after) - sum(before)).toBe(300);
    for (const count of after) expect(count).toBeGreaterThan(50);
  });

  it("serve callers of other processes", async () => {
    const { id } = await stacks[0].open();
    const script = `
      import { connect } from "nats";
      const nats = await connect({ servers: process.argv[1] });
      const body = JSON.stringify({ walletId: process.argv[2], amount: "1.50" });
      const { data } = (await nats.request("wallets.v1.credit", body, { timeout: 5000 })).json();
      console.log(JSON.stringify(data));
      await nats.close();`;
    const child = spawn(
      process.execPath,
      ["--input-type=module", "-e", script, stacks[0].natsServer!.url, id],
      {
        cwd: packageRoot,
        stdio: ["ignore", "pipe", "inherit"],
      },
    );
    let output = "";
    child.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
    const code = await new Promise((resolve) => child.once("close", resolve));
    expect(code).toBe(0);
    expect(JSON.parse(output)).toEqual(await stacks[0].wallet(id));
    expect((await stacks[0].wallet(id)).balance).toBe(1.5);
  });

  it("lose no request when one of them leaves", async () => {
    const third = await startStack({ besides: stacks[0] });
    const { id } = await stacks[0].open();
    const asking = Promise.all(
      Array.from({ length: 500 }, () => ask("credit", { walletId: id, amount: 1 })),
    );
    await third.close();
    for (const { reply } of await asking) expect(reply).toMatchObject({ ok: true });
    expect((await stacks[0].wallet(id)).balance).toBe(500);
    expect((await collected(discovery().ping("wallets"))).length).toBe(2);
  });
});

it("None of all this was an error of Coffer's own", () => {
  expect(stacks.map(({ errors }) => errors)).toEqual([[], []]);
});
