/**
 * The HTTP contract over the real stack: wallets, their metadata and transfers, every write with
 * its status, body and headers. Keys are in http-keys.test.ts, errors in http-errors.test.ts, reads
 * and the document in http-reads.test.ts.
 */
import { describe, expect, it } from "vitest";
import { LIMITS } from "../src/limits.ts";
import {
  describeAllAnswers,
  expectProblem,
  ISO_TIME,
  JSON_TYPE,
  lasting,
  stack,
  useHttpStage,
} from "./stage/http.ts";
import { unique } from "./stage/ids.ts";
import {
  until,
  type AnyBody,
  type EventBody,
  type Reply,
  type TransactionBody,
  type TransferBody,
  type WalletBody,
} from "./stage/stack.ts";
import { openStake } from "./stage/write-routes.ts";

useHttpStage();

const UUID_V7 = /^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/;

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
    // It is posted as soon as the payee has the money, and settled a moment later.
    const isSettled = async () =>
      (await stack.get<TransferBody>(`/transfers/${transferId}`)).body.settledAt !== null;
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

describeAllAnswers(20);
