/** What is read over HTTP, with its pages and filters, and the OpenAPI document itself. */
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { LIMITS } from "../src/limits.ts";
import {
  closed,
  describeAllAnswers,
  document,
  expectProblem,
  ISO_TIME,
  operations,
  stack,
  useHttpStage,
  type Operation,
} from "./stage/http.ts";
import { unique } from "./stage/ids.ts";
import type { EventBody, Reply, TransactionBody, WalletBody } from "./stage/stack.ts";
import { openStake } from "./stage/write-routes.ts";

useHttpStage();

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

  it.each([
    ["a question mark", "note=who?&metadata.n=1", { note: "who?" }],
    ["a question mark in a name", "who?=n&metadata.n=1", { "who?": "n" }],
    ["a percent sign that encodes nothing", "note=%ff&metadata.n=1", { note: "%ff" }],
    ["a blank and a plus", "note=a+%2B&metadata.n=1", { note: "a +" }],
  ])("a link keeps filters that have %s", async (_what, query, metadata) => {
    const ownerId = unique("owner");
    const ids = [];
    for (let n = 0; n < 3; n++) {
      ids.push((await stack.open({ ownerId, metadata: { ...metadata, n: 1 } })).id);
    }
    await stack.open({ ownerId, metadata: { n: 1 } });
    const found: string[] = [];
    let next: string | undefined = `/wallets?metadata.${query}&limit=1&ownerId=${ownerId}`;
    while (next !== undefined) {
      const page: Reply<WalletBody[]> = await stack.get<WalletBody[]>(next);
      found.push(...page.body.map(({ id }) => id));
      next = /^<(.*)>; rel="next"$/.exec(String(page.headers["link"] ?? ""))?.[1];
    }
    expect(found).toEqual(ids.toSorted());
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

  it("the lines of each period lead from its opening balance to its closing one", async () => {
    const { from: id, to: payee } = await openStake(stack);
    const times: string[] = [];
    for (const amount of [5, 7, 11, 13]) {
      await sleep(3);
      const { body } = await stack.post(`/wallets/${id}/debit`, { amount });
      times.push(body.updatedAt);
      await stack.post(`/wallets/${id}/transfer`, { toWalletId: payee, amount: amount * 2 });
    }
    const before = (time: string) => new Date(Date.parse(time) - 1).toISOString();
    const balanceAt = async (time: string) =>
      (await stack.get<WalletBody>(`/wallets/${id}?at=${time}`)).body.balance;
    const read = async (begin: string, end: string) => {
      const query = `from=${begin}&to=${end}`;
      return (await stack.get<TransactionBody[]>(`/wallets/${id}/transactions?${query}`)).body;
    };
    let lines = 0;
    for (const [n, begin] of times.entries()) {
      const end = times[n + 1];
      if (end === undefined) break;
      const period = (await read(begin, end)).toReversed();
      lines += period.length;
      expect(period[0]?.balanceBefore).toBe(await balanceAt(before(begin)));
      expect(period.at(-1)?.balanceAfter).toBe(await balanceAt(before(end)));
      const chain = period.slice(1).map(({ balanceBefore }) => balanceBefore);
      expect(chain).toEqual(period.slice(0, -1).map(({ balanceAfter }) => balanceAfter));
    }
    // No line is in two periods, and none is in neither
    expect(lines).toBe((await read(times[0]!, times.at(-1)!)).length);
    expect(lines).toBe(6);
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

describe("the document", () => {
  it("is OpenAPI 3.1 and describes every operation with its parameters and answers", () => {
    expect(document.openapi).toMatch(/^3\.1\.\d$/);
    expect(document.info).toMatchObject({ title: "Coffer", version: "1.2.3" });
    const routes = operations().map(({ method, path }) => `${method} ${path}`);
    expect(routes).toContain("post /wallets/{walletId}/transfer");
    for (const { path, method, operation } of operations()) {
      const where = `${method} ${path}`;
      expect([where, operation.operationId]).toEqual([where, expect.stringMatching(/^[a-z]\w+$/)]);
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
      // 204 is an answer without a body, and 101 the last that is HTTP.
      Object.entries(operation.responses).some(
        ([status, { content }]) => !["101", "204"].includes(status) && content === undefined,
      ),
    );
    expect(without.map(({ method, path }) => `${method} ${path}`)).toEqual([]);
  });

  it("has the header of a dry run where the body has the field, and nowhere else", () => {
    const having = (what: (operation: Operation) => boolean): string[] =>
      operations()
        .filter(({ operation }) => what(operation))
        .map(({ method, path }) => `${method} ${path}`);
    const told = having(({ responses }) => JSON.stringify(responses).includes('"Dry-Run"'));
    const asked = having(({ requestBody }) =>
      /"dry_?[rR]un":/.test(JSON.stringify(requestBody?.content["application/json"] ?? {})),
    );
    expect(told).toEqual(asked.filter((name) => name !== "post /batch"));
    expect(told).toContain("post /wallets/{walletId}/credit");
    expect(having(() => true)).toContain("post /webhooks");
  });

  it("can be read as a page at /docs", async () => {
    const page = await stack.ask("GET", "/docs/");
    expect([page.status, page.headers["content-type"]]).toEqual([200, "text/html; charset=utf-8"]);
    expect((await stack.get("/docs")).status).toBeLessThan(400);
  });
});

describeAllAnswers(10);
