/**
 * The HTTP contract over the real stack: every route with its status, body and headers, every error that a caller can bring about,
 * and one answer per idempotency key, also across a crash of the lanes. Each answer is also held against the OpenAPI document.
 */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

import pg from "pg";
import type { TSchema } from "typebox";
import { Compile } from "typebox/compile";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { LIMITS } from "../src/limits.ts";
import {
  openStake,
  startStack,
  unique,
  until,
  WRITES,
  type AnyBody,
  type EventBody,
  type Reply,
  type Stack,
  type Stake,
  type TransactionBody,
  type TransferBody,
  type WalletBody,
  type WriteRoute,
} from "./stack.ts";

let stack: Stack;
/** Every answer to a route of the document. */
const answers: { method: string; route: string; status: number; payload: string }[] = [];

beforeAll(async () => {
  stack = await startStack({
    prepare(app) {
      app.addHook("onSend", async (request, reply, payload) => {
        const { url: route } = request.routeOptions;
        if (route === undefined || typeof payload !== "string") return;
        answers.push({ method: request.method, route, status: reply.statusCode, payload });
      });
    },
  });
});

afterAll(() => stack.close());

const UUID_V7 = /^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/;
const ISO_TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
const JSON_TYPE = "application/json; charset=utf-8";

/** Expects the one error body, with this status and code. */
function expectProblem(reply: Reply<AnyBody>, status: number, code: string): void {
  expect(reply.body).toMatchObject({
    statusCode: status,
    error: expect.any(String),
    code,
    message: expect.stringMatching(/\w/),
    path: expect.any(String),
    timestamp: expect.stringMatching(ISO_TIME),
    correlationId: reply.headers["x-correlation-id"],
  });
  expect(reply.status).toBe(status);
  expect(reply.headers["content-type"]).toBe(JSON_TYPE);
}

/** An error's body without what differs between two askings. */
function lasting({ text, body }: Reply<AnyBody>): unknown {
  if (body?.code === undefined) return text;
  const { timestamp: _, correlationId: __, ...rest } = body;
  return rest;
}

describe("a wallet", () => {
  it("is created from an empty body in USD under a UUIDv7", async () => {
    const created = await stack.ask("POST", "/wallets");
    expect(created.status).toBe(201);
    expect(created.headers["content-type"]).toBe(JSON_TYPE);
    expect(created.headers["location"]).toBe(`/wallets/${created.body.id}`);
    expect(created.headers["idempotent-replayed"]).toBeUndefined();
    expect(created.body).toEqual({
      id: expect.stringMatching(UUID_V7),
      ownerId: null,
      currency: "USD",
      balance: 0,
      held: 0,
      available: 0,
      status: "ACTIVE",
      version: 0,
      metadata: {},
      createdAt: expect.stringMatching(ISO_TIME),
      updatedAt: created.body.createdAt,
    });
    expect(await stack.wallet(created.body.id)).toEqual(created.body);
  });

  it("is created with an initial balance as two events", async () => {
    const fields = {
      ownerId: "u.1:a@b",
      currency: "KWD",
      metadata: { tier: "gold", n: [1, null] },
    };
    const wallet = await stack.open({ ...fields, initialBalance: "12.345" });
    expect(wallet).toMatchObject({ ...fields, balance: 12.345, available: 12.345, version: 1 });
    const { body } = await stack.get<EventBody[]>(`/wallets/${wallet.id}/events`);
    expect(body.map(({ type, version, amount }) => [type, version, amount])).toEqual([
      ["WalletCreated", 0, null],
      ["WalletCredited", 1, 12.345],
    ]);
  });

  it.each([0, "0", "0.00"])("is created without money for an initial balance of %j", async (it) => {
    expect(await stack.open({ initialBalance: it })).toMatchObject({ balance: 0, version: 0 });
  });

  it("takes money in and out, and adds up decimals exactly", async () => {
    const { id } = await stack.open({ initialBalance: 0.1 });
    const credited = await stack.post(`/wallets/${id}/credit`, { amount: "0.20" });
    expect(credited.status).toBe(200);
    expect(credited.body).toMatchObject({ id, balance: 0.3, available: 0.3, version: 2 });
    const debited = await stack.post(`/wallets/${id}/debit`, { amount: 0.29 });
    expect(debited.body).toMatchObject({ balance: 0.01, version: 3 });
    const funded = await stack.post("/wallets/fund", { wallet_id: id, amount: 1e3 });
    expect(funded.status).toBe(200);
    expect(funded.body).toMatchObject({ balance: 1_000.01, version: 4 });
    expect(await stack.wallet(id)).toEqual(funded.body);
  });

  it("is suspended, activated and closed, and says so", async () => {
    const { id } = await stack.open({ initialBalance: 5 });
    const step = (name: string, json?: unknown) => stack.post(`/wallets/${id}/${name}`, json);
    expect((await step("suspend", { reason: "a check" })).body).toMatchObject({
      status: "SUSPENDED",
    });
    for (const [name, json] of [
      ["credit", { amount: 1 }],
      ["debit", { amount: 1 }],
      ["suspend", {}],
    ] as const) {
      expectProblem(await step(name, json), 409, "wallet_not_active");
    }
    const full = await step("close");
    expectProblem(full, 409, "wallet_not_empty");
    expect(full.body.message).toContain("it has a balance of 5.00 USD");
    const nothing = { held: 0, pending: 0 };
    expect(full.body.details).toEqual({ walletId: id, currency: "USD", balance: 5, ...nothing });
    expect((await step("activate")).body).toMatchObject({ status: "ACTIVE", version: 3 });
    await step("debit", { amount: 5 });
    expect((await step("close")).body).toMatchObject({ status: "CLOSED", balance: 0, version: 5 });
    for (const name of ["activate", "suspend", "close"]) {
      expectProblem(await step(name), 409, "wallet_not_active");
    }
    const { body } = await stack.get<EventBody[]>(`/wallets/${id}/events?fromVersion=2&limit=1`);
    expect(body).toMatchObject([{ type: "WalletSuspended", description: "a check", amount: null }]);
    const transactions = await stack.get<TransactionBody[]>(`/wallets/${id}/transactions`);
    expect(transactions.body.map(({ type }) => type)).toEqual(["DEBIT", "CREDIT"]);
  });

  it("may be closed while it is suspended, and says why when it may not", async () => {
    const { id } = await stack.open({ initialBalance: 5 });
    const step = (name: string, json: unknown = {}) => stack.post(`/wallets/${id}/${name}`, json);
    expect((await step("activate", { reason: "to be sure" })).body).toMatchObject({
      status: "ACTIVE",
      version: 2,
    });
    await step("debit", { amount: 5 });
    await step("suspend");
    const twice = await step("suspend", { reason: "another check" });
    expectProblem(twice, 409, "wallet_not_active");
    expect(twice.body.details).toEqual({ walletId: id, status: "SUSPENDED" });
    const closed = await step("close", { reason: "the end", expectedVersion: 4 });
    expect(closed.body).toMatchObject({ status: "CLOSED", version: 5 });
    for (const [method, path, json] of [
      ["POST", "/credit", { amount: 1 }],
      ["PATCH", "", { metadata: { a: 1 } }],
    ] as const) {
      const refused = await stack.ask(method, `/wallets/${id}${path}`, { json });
      expectProblem(refused, 409, "wallet_not_active");
    }
    expect(await stack.wallet(id)).toEqual(closed.body);
    expectProblem(await stack.post("/wallets", { walletId: id }), 409, "wallet_already_exists");
  });
});

describe("metadata", () => {
  const patch = (id: string, metadata: unknown, rest: object = {}, key?: string) =>
    stack.ask("PATCH", `/wallets/${id}`, {
      json: { metadata, ...rest },
      ...(key !== undefined && { key }),
    });
  const full = (bytes: number) => "x".repeat(LIMITS.metadataBytesMax - bytes);

  it("is changed by a merge patch: a key is set, null removes it, what is not named stays", async () => {
    const metadata = { tier: "gold", plan: { seats: 3, trial: true }, tags: ["a", "b"] };
    const { id } = await stack.open({ initialBalance: 5, metadata });
    const changed = await patch(id, {
      tier: null,
      plan: { trial: null, seats: 4 },
      tags: ["c"],
      n: 1,
    });
    expect(changed.status).toBe(200);
    expect(changed.body).toMatchObject({ id, balance: 5, status: "ACTIVE", version: 2 });
    expect(changed.body.metadata).toEqual({ plan: { seats: 4 }, tags: ["c"], n: 1 });
    expect(await stack.wallet(id)).toEqual(changed.body);
    const same = await patch(id, {}, { description: "nothing", expectedVersion: 2 });
    expect(same.body).toEqual({ ...changed.body, version: 3, updatedAt: same.body.updatedAt });
    const { body } = await stack.get<EventBody[]>(`/wallets/${id}/events?fromVersion=2`);
    expect(body).toMatchObject([
      {
        type: "WalletMetadataChanged",
        amount: null,
        balance: 5,
        account: null,
        data: { walletMetadata: { plan: { seats: 4 }, tags: ["c"], n: 1 } },
      },
      { version: 3, description: "nothing" },
    ]);
    const transactions = await stack.get<TransactionBody[]>(`/wallets/${id}/transactions`);
    expect(transactions.body.map(({ type }) => type)).toEqual(["CREDIT"]);
  });

  it("changes on a suspended wallet, and outlives money and a crash", async () => {
    const { id } = await stack.open({ initialBalance: 5, metadata: { a: 1 } });
    await stack.post(`/wallets/${id}/suspend`, {});
    expect((await patch(id, { case: 17 })).body).toMatchObject({ status: "SUSPENDED", version: 3 });
    await stack.post(`/wallets/${id}/activate`, {});
    await stack.crashLanes();
    const debited = await stack.post(`/wallets/${id}/debit`, { amount: 1 });
    expect(debited.body.metadata).toEqual({ a: 1, case: 17 });
    expect((await patch(id, { a: 2 })).body.metadata).toEqual({ a: 2, case: 17 });
  });

  it("of an answer is that of its version, when it is asked for again later", async () => {
    const { id } = await stack.open({ initialBalance: 5, metadata: { n: 0 } });
    const steps = Array.from({ length: 6 }, (_, index) => ({ index, key: unique("past") }));
    const ask = ({ index, key }: { index: number; key: string }) =>
      index % 2 === 0
        ? stack.post(`/wallets/${id}/credit`, { amount: 1 }, key)
        : patch(id, { n: index, [`at${index}`]: true, [`at${index - 2}`]: null }, {}, key);
    const first = [];
    for (const step of steps) first.push(await ask(step));
    expect(first.map(({ body }) => body.metadata)).toEqual([
      { n: 0 },
      { n: 1, at1: true },
      { n: 1, at1: true },
      { n: 3, at3: true },
      { n: 3, at3: true },
      { n: 5, at5: true },
    ]);
    for (const isAfterCrash of [false, true]) {
      if (isAfterCrash) await stack.crashLanes();
      for (const [index, step] of steps.entries()) {
        const again = await ask(step);
        expect([again.text, again.headers["idempotent-replayed"]]).toEqual([
          first[index]!.text,
          "true",
        ]);
        const operation = await stack.get<{ wallet: WalletBody }>(`/operations/${step.key}`);
        expect(operation.body.wallet).toEqual(first[index]!.body);
      }
    }
  });

  it("has its bound as it comes out too, and nothing changes past it", async () => {
    const { id } = await stack.open({ metadata: { a: "x".repeat(5_000) } });
    const before = await stack.wallet(id);
    const key = unique("large");
    const refused = await patch(id, { b: full('{"b":""}'.length) }, {}, key);
    expectProblem(refused, 400, "metadata_too_large");
    expect(refused.body.details).toEqual({
      walletId: id,
      bytes: LIMITS.metadataBytesMax + '"a":"",'.length + 5_000,
      bytesMax: LIMITS.metadataBytesMax,
    });
    expect(lasting(await patch(id, { b: full('{"b":""}'.length) }, {}, key))).toEqual(
      lasting(refused),
    );
    expectProblem(await patch(id, { b: full(0) }), 422, "validation_failed");
    expect(await stack.wallet(id)).toEqual(before);
    const both = await patch(id, { a: null, b: full('{"a":null,"b":""}'.length) });
    expect(both.status).toBe(200);
  });

  it("that many change at the same time loses no key", async () => {
    const { id } = await stack.open();
    const names = Array.from({ length: 50 }, (_, index) => `k${index}`);
    const replies = await Promise.all(names.map((name) => patch(id, { [name]: 1 })));
    expect(replies.map(({ status }) => status)).toEqual(names.map(() => 200));
    const { metadata, version } = await stack.wallet(id);
    expect(Object.keys(metadata).toSorted()).toEqual(names.toSorted());
    expect(version).toBe(50);
  });

  it.each([null, [], "x", 1])("cannot be patched with %j", async (metadata) => {
    const { id } = await stack.open();
    const refused = await patch(id, metadata);
    expectProblem(refused, 422, "validation_failed");
    expect(refused.body.details[0]).toMatchObject({ field: "metadata" });
  });
});

describe("a transfer", () => {
  it.each([
    ["/wallets/:id/transfer", "fromWallet", "toWallet"],
    ["/wallets/transfer", "sender", "receiver"],
  ] as const)("by %s moves the money and can be looked up", async (route, payer, payee) => {
    const { from, to } = await openStake(stack);
    const isOwn = route.includes(":id");
    const body = isOwn ? { toWalletId: to } : { senderWalletId: from, receiverWalletId: to };
    const paid = await stack.post(route.replace(":id", from), {
      ...body,
      amount: 2.5,
      description: "rent",
    });
    expect(paid.status).toBe(200);
    const { transferId } = paid.body;
    expect(paid.body).toEqual({
      transferId: expect.stringMatching(UUID_V7),
      status: "posted",
      [payer]: expect.objectContaining({ id: from, balance: 997.5, version: 2 }),
      [payee]: expect.objectContaining({ id: to, balance: 2.5, version: 1 }),
    });
    const isSettled = async () =>
      (await stack.get(`/transfers/${transferId}`)).body.status === ("posted" as string);
    await until("the transfer is settled", isSettled);
    const { body: transfer } = await stack.get<TransferBody>(`/transfers/${transferId}`);
    expect(transfer).toEqual({
      transferId,
      fromWalletId: from,
      toWalletId: to,
      amount: 2.5,
      currency: "USD",
      status: "posted",
      fromVersion: 2,
      toVersion: 1,
      description: "rent",
      correlationId: paid.headers["x-correlation-id"],
      createdAt: expect.stringMatching(ISO_TIME),
      settledAt: expect.stringMatching(ISO_TIME),
    });
    const list = (query: string) => stack.get(`/wallets/${from}/transfers${query}`);
    expect((await list("")).body).toEqual([transfer]);
    expect((await list("?status=posted&limit=1")).body).toEqual([transfer]);
    expect((await list("?status=returned")).body).toEqual([]);
    const transactionsOf = async (id: string) =>
      (await stack.get<TransactionBody[]>(`/wallets/${id}/transactions?limit=1`)).body[0];
    expect(await transactionsOf(from)).toMatchObject({ type: "TRANSFER_OUT", balanceAfter: 997.5 });
    expect(await transactionsOf(to)).toMatchObject({ type: "TRANSFER_IN", reference: transferId });
  });

  it.each([
    ["that is suspended", "suspend", {}, 409, "wallet_not_active"],
    ["that is closed", "close", {}, 409, "wallet_not_active"],
    ["of another currency", null, { currency: "EUR" }, 400, "currency_mismatch"],
    ["without room", null, { initialBalance: "9999999999999.99" }, 400, "amount_out_of_range"],
  ])("to a wallet %s leaves the payer its money", async (_name, step, fields, status, code) => {
    const { from } = await openStake(stack);
    const { id: to, version } = await stack.open(fields);
    if (step !== null) await stack.post(`/wallets/${to}/${step}`, {});
    const body = { toWalletId: to, amount: 10 };
    expectProblem(await stack.post(`/wallets/${from}/transfer`, body), status, code);
    expect(await stack.wallet(from)).toMatchObject({ balance: 1_000, available: 1_000 });
    expect((await stack.wallet(to)).version).toBe(version + (step === null ? 0 : 1));
  });

  it("gives the same answer to a repeat that follows at once, before it is settled", async () => {
    const { from, to } = await openStake(stack);
    for (let turn = 0; turn < 100; turn++) {
      const key = unique("at-once");
      const pay = () => stack.post(`/wallets/${from}/transfer`, { toWalletId: to, amount: 1 }, key);
      const first = await pay();
      const again = await pay();
      expect([again.status, again.text]).toEqual([200, first.text]);
      expect(again.headers["idempotent-replayed"]).toBe("true");
    }
  });

  it("that meets a payee between two statuses is posted, refused or returned, and no cent is lost", async () => {
    const { from, to } = await openStake(stack);
    let isOver = false;
    const toggling = (async () => {
      for (let turn = 0; !isOver; turn++) {
        await stack.post(`/wallets/${to}/${turn % 2 === 0 ? "suspend" : "activate"}`, {});
      }
    })();
    const keys = Array.from({ length: 300 }, () => unique("toggle"));
    const pay = (key: string) =>
      stack.post(`/wallets/${from}/transfer`, { toWalletId: to, amount: 1 }, key);
    const replies: Reply<AnyBody>[] = [];
    for (let at = 0; at < keys.length; at += 50) {
      replies.push(...(await Promise.all(keys.slice(at, at + 50).map(pay))));
    }
    isOver = true;
    await toggling;
    for (const reply of replies) {
      if (reply.status !== 200) expectProblem(reply, 409, "wallet_not_active");
    }
    const paid = replies.filter(({ status }) => status === 200).length;
    expect(await stack.wallet(from)).toMatchObject({ balance: 1_000 - paid });
    expect(await stack.wallet(to)).toMatchObject({ balance: paid });
    for (const [index, key] of keys.entries()) {
      const again = await pay(key);
      expect(again.headers["idempotent-replayed"]).toBe("true");
      expect(lasting(again)).toEqual(lasting(replies[index]!));
    }
  });
});

describe("reading", () => {
  it("a wallet can bring its latest events and transactions along, oldest first", async () => {
    const { id } = await stack.open({ initialBalance: 1 });
    for (let n = 2; n <= 25; n++) await stack.post(`/wallets/${id}/credit`, { amount: n });
    const { body } = await stack.get(`/wallets/${id}?include=auditTrail,transactions`);
    const { auditTrail, transactions, ...wallet } = body;
    expect(wallet).toEqual(await stack.wallet(id));
    expect(auditTrail.map(({ version }) => version)).toEqual(
      Array.from({ length: LIMITS.includedRows }, (_, index) => 6 + index),
    );
    expect(transactions.map(({ amount }) => amount)).toEqual(
      auditTrail.map(({ amount }) => amount),
    );
    const one = (await stack.get(`/wallets/${id}?include=transactions`)).body;
    expect([one.auditTrail, one.transactions?.length]).toEqual([undefined, 20]);
    const unknown = await stack.get(`/wallets/${id}?include=holds`);
    expectProblem(unknown, 422, "validation_failed");
    expect(unknown.body.details[0]).toMatchObject({ field: "include" });
  });

  it("a list follows its links to the end and filters", async () => {
    const ownerId = unique("owner");
    const currencies = ["USD", "USD", "EUR", "USD", "USD"];
    const wallets = [];
    for (const currency of currencies) wallets.push(await stack.open({ ownerId, currency }));
    await stack.post(`/wallets/${wallets[3]!.id}/suspend`, {});
    const pages: string[][] = [];
    let next: string | undefined = `/wallets?ownerId=${ownerId}&limit=2`;
    while (next !== undefined) {
      const page: Reply<WalletBody[]> = await stack.get<WalletBody[]>(next);
      pages.push(page.body.map(({ id }) => id));
      next = /^<(.*)>; rel="next"$/.exec(String(page.headers["link"] ?? ""))?.[1];
    }
    const ids = wallets.map(({ id }) => id).toSorted();
    expect(pages).toEqual([ids.slice(0, 2), ids.slice(2, 4), ids.slice(4)]);
    const filtered = async (query: string) =>
      (await stack.get<WalletBody[]>(`/wallets?ownerId=${ownerId}&${query}`)).body.length;
    expect(await filtered("currency=EUR")).toBe(1);
    expect(await filtered("status=SUSPENDED")).toBe(1);
    expect(await filtered("status=ACTIVE&currency=USD")).toBe(3);
    expect(await filtered("status=CLOSED")).toBe(0);
    const full = await stack.get<WalletBody[]>(`/wallets?ownerId=${ownerId}&limit=5`);
    expect([full.body.length, full.headers["link"]]).toEqual([5, undefined]);
  });

  it("transactions come newest first, by type, by time and in pages", async () => {
    const { from, to } = await openStake(stack);
    await stack.post(`/wallets/${from}/debit`, { amount: 100 }, "the-debit");
    await sleep(5);
    const funded = await stack.post("/wallets/fund", { wallet_id: from, amount: 50 });
    await stack.post(`/wallets/${from}/transfer`, { toWalletId: to, amount: 1 });
    const read = async (query: string) =>
      (await stack.get<TransactionBody[]>(`/wallets/${from}/transactions${query}`)).body;
    const all = await read("");
    expect(all.map(({ type }) => type)).toEqual(["TRANSFER_OUT", "FUND", "DEBIT", "CREDIT"]);
    expect(all[2]).toEqual({
      id: `${from}:2`,
      walletId: from,
      type: "DEBIT",
      amount: 100,
      balanceBefore: 1_000,
      balanceAfter: 900,
      status: "COMPLETED",
      description: null,
      reference: "the-debit",
      createdAt: expect.stringMatching(ISO_TIME),
    });
    for (const { type, id } of all) {
      expect((await read(`?type=${type}`)).map((one) => one.id)).toEqual([id]);
    }
    const { updatedAt } = funded.body;
    expect((await read(`?from=${updatedAt}`)).map(({ type }) => type)).toContain("FUND");
    expect((await read(`?to=${updatedAt}`)).map(({ type }) => type)).toEqual(["DEBIT", "CREDIT"]);
    const page = await stack.get<TransactionBody[]>(`/wallets/${from}/transactions?limit=3`);
    const link = /<(.*)>/.exec(String(page.headers["link"]))![1]!;
    expect([...page.body, ...(await stack.get<TransactionBody[]>(link)).body]).toEqual(all);
  });

  it("events carry the wallet after each, their cause and their correlation", async () => {
    const { id } = await stack.open();
    const headers = { "x-correlation-id": "order-7" };
    const credited = await stack.ask("POST", `/wallets/${id}/credit`, {
      json: { amount: 3, description: "a gift", metadata: { from: "me" } },
      key: "key-7",
      headers,
    });
    expect(credited.headers["x-correlation-id"]).toBe("order-7");
    const { body } = await stack.get<EventBody[]>(`/wallets/${id}/events?fromVersion=1`);
    expect(body).toMatchObject([
      {
        id: `${id}:1`,
        walletId: id,
        version: 1,
        type: "WalletCredited",
        amount: 3,
        balance: 3,
        held: 0,
        status: "ACTIVE",
        account: "system:world",
        counterpartyId: null,
        transferId: null,
        description: "a gift",
        metadata: { correlationId: "order-7", causationId: "key-7" },
      },
    ]);
    expect(JSON.stringify(body[0]!.data)).toContain(`{"from":"me"}`);
    const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const traced = await stack.ask("POST", `/wallets/${id}/debit`, {
      json: { amount: 1 },
      headers: { traceparent },
    });
    expect(traced.headers["x-correlation-id"]).toBe("0af7651916cd43dd8448eb211c80319c");
    const page = await stack.get<EventBody[]>(`/wallets/${id}/events?limit=2`);
    const link = /<(.*)>; rel="next"/.exec(String(page.headers["link"]))![1]!;
    const [last] = (await stack.get<EventBody[]>(link)).body;
    expect(last).toMatchObject({
      type: "WalletDebited",
      metadata: { correlationId: "0af7651916cd43dd8448eb211c80319c" },
    });
  });

  it("assets are those of ISO 4217 with their decimal places", async () => {
    const { body } = await stack.get<{ code: string; decimalPlaces: number }[]>("/assets");
    const places = (code: string) => body.find((asset) => asset.code === code)?.decimalPlaces;
    expect(["USD", "JPY", "KWD", "XXX-no"].map(places)).toEqual([2, 0, 3, undefined]);
  });

  it.each(["/health", "/health/ready", "/api/v1/health"])("%s tells of each part", async (path) => {
    const { status, body, headers } = await stack.get<{ checks: object }>(path);
    const up = { state: "up", latencyMs: expect.any(Number) };
    expect(body).toMatchObject({ status: "up", checks: { database: up, bus: up, host: up } });
    expect([status, headers["cache-control"]]).toEqual([200, "no-store"]);
  });

  it("the process's own health and the bus's have their paths", async () => {
    expect((await stack.get("/health/live")).body).toEqual({ status: "up" });
    expect((await stack.get("/health/nats")).body).toMatchObject({ connection: "connected" });
    expect((await stack.get("/health/nats/stats")).body).toMatchObject({
      bus: { kind: "in-process" },
      commandsPending: 0,
    });
  });
});

describe.each(WRITES)("an idempotency key on $name", (write: WriteRoute) => {
  /** A wallet to be activated has to be suspended first. */
  async function prepared(): Promise<Stake> {
    const stake = await openStake(stack);
    if (write.name === "activate") await stack.post(`/wallets/${stake.empty}/suspend`, {});
    return stake;
  }
  const send = (path: string, json: unknown, key?: string) =>
    stack.ask(write.method, path, { json, ...(key !== undefined && { key }) });
  const isReplay = ({ headers }: Reply<AnyBody>) => headers["idempotent-replayed"] === "true";

  it("gives the first answer again, however the same input is spelled and after a crash", async () => {
    const stake = await prepared();
    const path = write.path(stake);
    const body = write.body(stake);
    const key = unique("key");
    const first = await send(path, body, key);
    expect([first.status, isReplay(first)]).toEqual([write.status, false]);
    const before = await stack.sql("SELECT count(*) FROM events");
    const spelled = write.amount === null ? body : { ...body, [write.amount]: "10.00" };
    const reordered = Object.fromEntries(Object.entries(spelled).toReversed());
    const repeats = async () => [
      await send(path, body, key),
      await send(path, { ...reordered, idempotencyKey: key }),
      await send(path, { ...body, idempotencyKey: key }, key),
    ];
    const asked = await repeats();
    await stack.crashLanes();
    asked.push(...(await repeats()));
    for (const again of asked) {
      expect(again.text).toBe(first.text);
      expect([again.status, isReplay(again)]).toEqual([write.status, true]);
    }
    expect(await stack.sql("SELECT count(*) FROM events")).toEqual(before);
  });

  it("is a conflict with another input, and keeps its first answer", async () => {
    const stake = await prepared();
    const path = write.path(stake);
    const key = unique("key");
    const first = await send(path, write.body(stake), key);
    const fields = { ...write.body(stake), description: "another" };
    for (const other of [write.other(stake), fields, { ...fields, expectedVersion: 0 }]) {
      const refused = await send(path, other, key);
      expectProblem(refused, 409, "idempotency_conflict");
      expect(refused.body.message).toContain(key);
    }
    const again = await send(path, write.body(stake), key);
    expect([again.text, isReplay(again)]).toEqual([first.text, true]);
  });

  it("takes effect once for twenty requests at the same time", async () => {
    const stake = await prepared();
    const key = unique("key");
    const replies = await Promise.all(
      Array.from({ length: 20 }, () => send(write.path(stake), write.body(stake), key)),
    );
    expect(new Set(replies.map(({ text }) => text)).size).toBe(1);
    expect(replies.filter((reply) => !isReplay(reply)).length).toBeLessThanOrEqual(1);
    const commands = "SELECT count(*)::int AS n FROM events WHERE command_id = $1";
    expect(await stack.sql(commands, [key])).toEqual([{ n: 1 }]);
  });

  it("keeps a rejection, also when it would be a yes by now", async () => {
    const stake = await openStake(stack);
    const names = { from: unique("late"), to: unique("late"), empty: unique("late") };
    const absent = write.name === "create" ? stake : names;
    const target = write.target(absent);
    // A creation is refused for the id that is taken, everything else for the wallet that is missing.
    const body = { ...write.body(absent), ...(write.name === "create" && { walletId: stake.to }) };
    const key = unique("key");
    const refused = await send(write.path(absent), body, key);
    const code = write.name === "create" ? "wallet_already_exists" : "wallet_not_found";
    expectProblem(refused, write.name === "create" ? 409 : 404, code);
    expect(isReplay(refused)).toBe(false);
    if (write.name !== "create") await stack.open({ walletId: target, initialBalance: 100 });
    const again = await send(write.path(absent), body, key);
    expect(lasting(again)).toEqual(lasting(refused));
    expect([again.status, isReplay(again)]).toEqual([refused.status, true]);
    const operation = await stack.get<{ outcome: string; error: { code: string } }>(
      `/operations/${key}`,
    );
    expect(operation.body).toMatchObject({ outcome: "rejected", error: { code } });
  });

  it("tells by /operations what became of the command", async () => {
    const stake = await prepared();
    const key = `${unique("key")}/ü ?`;
    const path = `/operations/${encodeURIComponent(key)}`;
    expectProblem(await stack.get(path), 404, "operation_not_found");
    const done = await send(write.path(stake), { ...write.body(stake), idempotencyKey: key });
    const walletId = write.target(stake);
    const wallet = done.body.fromWallet ?? done.body.sender ?? done.body;
    const operation = await stack.get<{ outcome: string }>(`${path}?walletId=${walletId}`);
    expect(operation.body).toMatchObject({
      idempotencyKey: key,
      walletId,
      outcome: expect.stringMatching(/^(done|pending)$/),
      version: wallet.version,
      wallet,
    });
  });

  it("is not needed for a precondition, which lets one of many through", async () => {
    const stake = await prepared();
    const target = write.target(stake);
    const version = write.name === "create" ? 7 : (await stack.wallet(target)).version;
    const ask = (expectedVersion: number) =>
      send(write.path(stake), { ...write.body(stake), expectedVersion });
    if (write.name === "create") {
      expectProblem(await ask(version), 404, "wallet_not_found");
      expectProblem(await stack.get(`/wallets/${target}`), 404, "wallet_not_found");
      return;
    }
    const late = await ask(version + 1);
    expectProblem(late, 409, "version_conflict");
    expect(late.body.details).toMatchObject({ expectedVersion: version + 1, version });
    const replies = await Promise.all(Array.from({ length: 10 }, () => ask(version)));
    const statuses = replies.map(({ status }) => status).toSorted((a, b) => a - b);
    expect(statuses).toEqual([200, ...Array.from({ length: 9 }, () => 409)]);
    expect((await stack.wallet(target)).version).toBe(version + 1);
  });
});

it("A key of a creation without an id names one wallet, and a key belongs to its wallet", async () => {
  const key = unique("key");
  const create = () => stack.post("/wallets", { initialBalance: 1 }, key);
  const [first, ...others] = await Promise.all(Array.from({ length: 20 }, create));
  await stack.crashLanes();
  others.push(await create());
  for (const other of others) expect(other.text).toBe(first!.text);
  expectProblem(
    await stack.post("/wallets", { initialBalance: 2 }, key),
    409,
    "idempotency_conflict",
  );
  const wallets = [await stack.open(), await stack.open()];
  for (const { id } of wallets) {
    expect((await stack.post(`/wallets/${id}/credit`, { amount: 1 }, "shared")).status).toBe(200);
  }
  const ambiguous = await stack.get("/operations/shared");
  expectProblem(ambiguous, 422, "validation_failed");
  expect(ambiguous.body.details[0]).toMatchObject({ field: "walletId" });
});

/** Writes the text, and gives what comes back until the server closes. */
async function answerTo(socket: Socket, text: string): Promise<string> {
  let given = "";
  socket.on("data", (chunk: Buffer) => (given += chunk.toString()));
  socket.write(text);
  await once(socket, "close");
  return given;
}

/** Open connections, made few at a time. */
async function connections(count: number): Promise<Socket[]> {
  const sockets: Socket[] = [];
  while (sockets.length < count) {
    const some = Array.from({ length: Math.min(100, count - sockets.length) }, async () => {
      const socket = connect(stack.port, "127.0.0.1");
      await once(socket, "connect");
      return socket;
    });
    sockets.push(...(await Promise.all(some)));
  }
  return sockets;
}

async function exchange(text: string): Promise<string> {
  const [socket] = await connections(1);
  return answerTo(socket!, text);
}

describe("an error", () => {
  const large = "9".repeat(14);
  it.each<[string, number, string, unknown, string?]>([
    ["insufficient_funds", 400, "/wallets/:from/debit", { amount: 1_000.01 }],
    ["invalid_amount", 400, "/wallets/:from/debit", { amount: 0.001 }, "2 decimal places"],
    ["invalid_amount", 400, "/wallets/:from/credit", { amount: -1 }],
    ["amount_out_of_range", 400, "/wallets/:from/credit", { amount: large }],
    ["amount_out_of_range", 400, "/wallets/:from/credit", { amount: "9999999999999.99" }],
    ["same_wallet", 400, "/wallets/:from/transfer", { toWalletId: ":from", amount: 1 }],
    ["wallet_not_found", 404, "/wallets/:from/transfer", { toWalletId: "nobody", amount: 1 }],
    ["wallet_not_found", 404, "/wallets/nobody/credit", { amount: 1 }],
    ["wallet_already_exists", 409, "/wallets", { walletId: ":to" }],
    ["asset_not_found", 404, "/wallets", { currency: "usd" }],
    ["wallet_not_empty", 409, "/wallets/:from/close", {}],
    ["validation_failed", 422, "/wallets/:from/credit", { amount: 1, amuont: 1 }, "amuont"],
    ["not_found", 404, "/nowhere", {}],
    ["method_not_allowed", 405, "/ledger/trial-balance", {}],
  ])("%s is %i at POST %s for %j", async (code, status, path, json, words) => {
    const { from, to } = await openStake(stack);
    const named = (text: string) => text.replace(":from", from).replace(":to", to);
    const input = JSON.parse(named(JSON.stringify(json))) as unknown;
    const reply = await stack.post(named(path), input);
    expectProblem(reply, status, code);
    expect(reply.body.path).toBe(named(path));
    if (words !== undefined) expect(reply.body.message).toContain(words);
    expect((await stack.wallet(from)).balance).toBe(1_000);
  });

  it("about funds names both amounts in words and in numbers", async () => {
    const { id } = await stack.open({ initialBalance: 10 });
    const { body } = await stack.post(`/wallets/${id}/debit`, { amount: 25 });
    expect(body.message).toBe(
      `Wallet ${id} has insufficient funds: available 10.00 USD, requested 25.00 USD`,
    );
    expect(body.details).toEqual({ walletId: id, currency: "USD", available: 10, requested: 25 });
  });

  it("about what is not there is 404 for every kind of reading", async () => {
    for (const path of ["", "/transactions", "/events", "/transfers"]) {
      expectProblem(await stack.get(`/wallets/nobody${path}`), 404, "wallet_not_found");
    }
    const reply = await stack.get("/transfers/none");
    expectProblem(reply, 404, "transfer_not_found");
    expect(reply.body.message).toBe("Transfer none does not exist");
  });

  it("about the message itself has its own status", async () => {
    const path = "/wallets/w/credit";
    const send = (text: string, headers = {}) => stack.ask("POST", path, { text, headers });
    expectProblem(await send("{"), 400, "invalid_json");
    expectProblem(await send("a", { "content-type": "text/plain" }), 415, "unsupported_media_type");
    const tooLong = JSON.stringify({ description: "x".repeat(LIMITS.httpBodyBytesMax) });
    expectProblem(await send(tooLong), 413, "payload_too_large");
    expect(await exchange("NONSENSE\r\n\r\n")).toMatch(/^HTTP\/1.1 400 .*"bad_request"/s);
    const headers = `GET / HTTP/1.1\r\nhost: x\r\nx: ${"y".repeat(17_000)}\r\n\r\n`;
    expect(await exchange(headers)).toMatch(/^HTTP\/1.1 431 .*"headers_too_large"/s);
    expectProblem(await stack.get("/ws"), 426, "upgrade_required");
  });

  it("of a database that is stuck is honest: unavailable, overloaded or unknown, and the key resolves it", async () => {
    const { id } = await stack.open();
    const key = unique("key");
    const credit = `/wallets/${id}/credit`;
    const { queryWaitingMax, queryConnectionsMax, queryStatementMs } = LIMITS;
    const sockets = await connections(queryWaitingMax + queryConnectionsMax + 50);
    const database = new pg.Client({ connectionString: stack.databaseUrl });
    await database.connect();
    await database.query("BEGIN; LOCK TABLE wallets, events IN ACCESS EXCLUSIVE MODE");
    const askedAtMs = performance.now();
    const commands = [stack.post(credit, { amount: 1 }, key), stack.post(credit, { amount: 1 })];
    const reading = `GET /wallets/${id} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`;
    const reads = await Promise.all(sockets.map((socket) => answerTo(socket, reading)));
    expect(performance.now() - askedAtMs).toBeLessThan(queryStatementMs + 3_000);
    for (const text of reads) expect(text).toMatch(/^HTTP\/1.1 503 .*\r\nretry-after: 1\r\n/s);
    const codes = new Set(reads.map((text) => /"code":"(\w+)"/.exec(text)?.[1]));
    expect(codes).toEqual(new Set(["overloaded", "unavailable"]));
    const [, unkeyed] = await Promise.all(commands);
    for (const reply of await Promise.all(commands)) expectProblem(reply, 504, "outcome_unknown");
    await database.query("ROLLBACK");
    await database.end();
    const again = await stack.post(credit, { amount: 1 }, key);
    expect(again.status).toBe(200);
    const named = String(unkeyed!.body.details["idempotencyKey"]);
    const isDone = (await stack.get(`/operations/${named}`)).status === 200;
    expect((await stack.wallet(id)).balance).toBe(isDone ? 2 : 1);
  });

  it("of a gateway that is closing is unavailable, at once", async () => {
    const other = await startStack();
    const { id } = await other.open();
    await other.commands.drain();
    const reply = await other.post(`/wallets/${id}/credit`, { amount: 1 });
    expectProblem(reply, 503, "unavailable");
    expect(reply.headers["retry-after"]).toBe("1");
    await other.close();
  });
});

describe("the document", () => {
  interface Operation {
    readonly parameters?: { name: string; in: string; required?: boolean; schema: object }[];
    readonly requestBody?: { content: Record<string, { schema: object }> };
    readonly responses: Record<
      string,
      { description: string; content?: Record<string, { schema: object }> }
    >;
  }
  interface Document {
    readonly openapi: string;
    readonly info: { title: string; version: string };
    readonly components: { schemas: Record<string, object> };
    readonly paths: Record<string, Record<string, Operation>>;
  }
  let document: Document;

  beforeAll(async () => {
    document = (await stack.get<Document>("/openapi.json")).body;
  });

  const operations = () =>
    Object.entries(document.paths).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
    );

  /** The schema with every reference resolved and closed to fields that it does not name. */
  function closed(schema: unknown): unknown {
    if (Array.isArray(schema)) return schema.map(closed);
    if (typeof schema !== "object" || schema === null) return schema;
    const { $ref } = schema as { $ref?: string };
    if ($ref !== undefined) {
      const name = /^#\/components\/schemas\/(\w+)$/.exec($ref)?.[1] ?? "";
      expect(Object.keys(document.components.schemas)).toContain(name);
      return closed(document.components.schemas[name]);
    }
    const entries = Object.entries(schema).map(([name, value]) => [name, closed(value)]);
    const isOpen = "properties" in schema && !("additionalProperties" in schema);
    return { ...Object.fromEntries(entries), ...(isOpen && { additionalProperties: false }) };
  }

  it("is OpenAPI 3.1 and describes every operation with its parameters and answers", () => {
    expect(document.openapi).toMatch(/^3\.1\.\d$/);
    expect(document.info).toMatchObject({ title: "Coffer", version: "1.2.3" });
    const routes = operations().map(({ method, path }) => `${method} ${path}`);
    expect(routes).toContain("post /wallets/{walletId}/transfer");
    for (const { path, method, operation } of operations()) {
      const where = `${method} ${path}`;
      const inPath = [...path.matchAll(/\{(\w+)\}/g)].map(([, name]) => name);
      const described = (operation.parameters ?? []).filter((one) => one.in === "path");
      expect([where, ...described.map(({ name }) => name)]).toEqual([where, ...inPath]);
      for (const parameter of operation.parameters ?? []) closed(parameter.schema);
      for (const { schema } of Object.values(operation.requestBody?.content ?? {})) closed(schema);
      expect(JSON.stringify(operation)).not.toContain(`"nullable"`);
      for (const { description } of Object.values(operation.responses)) {
        expect(description).toMatch(/\w/);
      }
    }
  });

  it("has a schema for every answer of every operation", () => {
    const without = operations().filter(({ operation }) =>
      Object.values(operation.responses).some(({ content }) => content === undefined),
    );
    expect(without.map(({ method, path }) => `${method} ${path}`)).toEqual([]);
  });

  it("fits every answer that these tests got", () => {
    const checks = new Map<string, { Check(value: unknown): boolean }>();
    const misfits: string[] = [];
    for (const { method, route, status, payload } of answers) {
      const path = route.replaceAll(/:(\w+)/g, "{$1}");
      const responses = document.paths[path]?.[method.toLowerCase()]?.responses;
      // Pages about the API and health are no operations with schemas.
      if (responses === undefined || path.includes("health")) continue;
      const row = responses[status] ?? responses[`${Math.floor(status / 100)}XX`];
      const schema = row?.content?.["application/json"]?.schema;
      const name = `${method} ${path} ${status}`;
      if (!checks.has(name)) checks.set(name, Compile(closed(schema ?? { not: {} }) as TSchema));
      if (!checks.get(name)!.Check(JSON.parse(payload))) misfits.push(`${name}: ${payload}`);
    }
    expect(misfits).toEqual([]);
    expect(checks.size).toBeGreaterThan(40);
  });

  it("can be read as a page at /docs", async () => {
    const page = await stack.ask("GET", "/docs/");
    expect([page.status, page.headers["content-type"]]).toEqual([200, "text/html; charset=utf-8"]);
    expect((await stack.get("/docs")).status).toBeLessThan(400);
  });
});

it("Nothing of all this was an error of Coffer's own", () => {
  expect(stack.errors).toEqual([]);
});
