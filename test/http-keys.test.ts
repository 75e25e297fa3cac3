/** One answer per idempotency key, for every write, also across a crash of the lanes. */
import { describe, expect, it } from "vitest";
import { describeAllAnswers, expectProblem, lasting, stack, useHttpStage } from "./stage/http.ts";
import { unique } from "./stage/ids.ts";
import type { AnyBody, Reply } from "./stage/stack.ts";
import { openStake, WRITES, type Stake, type WriteRoute } from "./stage/write-routes.ts";

useHttpStage();

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

  it("that a gateway made names the input that it was made for, also after a crash", async () => {
    const stake = await prepared();
    const path = write.path(stake);
    const body = write.body(stake);
    const first = await send(path, body);
    expect([first.status, isReplay(first)]).toEqual([write.status, false]);
    const key = String(first.headers["x-correlation-id"]);
    const before = await stack.sql("SELECT count(*) FROM events");
    // Where a change of metadata leads to the same, its event cannot tell it from the other.
    const other = write.name === "update" ? { ...body, metadata: { b: 2 } } : write.other(stake);
    const checked = async () => {
      const again = await send(path, body, key);
      expect([again.text, isReplay(again)]).toEqual([first.text, true]);
      for (const input of [other, { ...body, description: "another" }]) {
        const refused = await send(path, input, key);
        expectProblem(refused, 409, "idempotency_conflict");
        expect(refused.body.details).toEqual({ idempotencyKey: key });
      }
    };
    await checked();
    await stack.crashLanes();
    await checked();
    expect(await stack.sql("SELECT count(*) FROM events")).toEqual(before);
    const operation = await stack.get<{ outcome: string; version: number }>(`/operations/${key}`);
    const wallet = first.body.fromWallet ?? first.body.sender ?? first.body;
    expect(operation.body).toMatchObject({ outcome: "done", version: wallet.version, wallet });
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
    // A creation is refused for the id that is taken, everything else for the wallet that is
    // missing.
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
      outcome: "done",
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

it("A batch's key is not told to be unknown once its commands are: each has its own", async () => {
  const { id: walletId } = await stack.open();
  const { id: other } = await stack.open();
  const key = unique("payday");
  const commands = [walletId, other].map((id) => ({ type: "credit", walletId: id, amount: 1 }));
  expectProblem(await stack.get(`/operations/${key}`), 404, "operation_not_found");
  await stack.post("/batch", { commands }, key);
  for (const query of ["", `?walletId=${other}`]) {
    const told = await stack.get(`/operations/${key}${query}`);
    expectProblem(told, 422, "validation_failed");
    expect(told.body.details[0]).toMatchObject({ field: "idempotencyKey" });
    expect(told.body.message).toContain(`${key}/<n>`);
  }
  const second = await stack.get(`/operations/${encodeURIComponent(`${key}/1`)}`);
  expect(second.body).toMatchObject({ outcome: "done", walletId: other });
});

it("The id of a creation without a key is its key when it is sent again", async () => {
  const body = { ownerId: unique("owner"), initialBalance: 100 };
  const first = await stack.post("/wallets", body);
  const key = String(first.headers["x-correlation-id"]);
  const again = await Promise.all([1, 2].map(() => stack.post("/wallets", body, key)));
  await stack.crashLanes();
  again.push(await stack.post("/wallets", body, key));
  for (const { status, text } of again) expect([status, text]).toEqual([201, first.text]);
  expect((await stack.get(`/wallets?ownerId=${body.ownerId}`)).body).toHaveLength(1);
});

describe("the id of a credit without a key", () => {
  async function credited() {
    const stake = await openStake(stack);
    const input = { amount: 10, metadata: { b: 1.0, a: ["ü"] } };
    const first = await stack.post(`/wallets/${stake.from}/credit`, input);
    const hold = await stack.post(`/wallets/${stake.from}/holds`, { amount: 5 });
    return { ...stake, input, first, key: String(first.headers["x-correlation-id"]), hold };
  }

  it("is a conflict with every other command of its wallet, and keeps its answer", async () => {
    const { from, to, input, first, key, hold } = await credited();
    const held = `/wallets/${from}/holds/${hold.body.id}`;
    const others: Array<[string, object]> = [
      [`/wallets/${from}/debit`, input],
      [`/wallets/${from}/debit`, { amount: 500 }],
      [`/wallets/${from}/credit`, { ...input, amount: 11 }],
      [`/wallets/${from}/credit`, { amount: 10 }],
      [`/wallets/${from}/credit`, { ...input, metadata: { b: 2, a: ["ü"] } }],
      [`/wallets/${from}/credit`, { ...input, expectedVersion: 0 }],
      ["/wallets/fund", { ...input, wallet_id: from }],
      [`/wallets/${from}/transfer`, { ...input, toWalletId: to }],
      ["/wallets/transfer", { ...input, senderWalletId: from, receiverWalletId: to }],
      [`/wallets/${from}/holds`, input],
      [`${held}/capture`, { amount: 5 }],
      [`${held}/capture`, { amount: 5, toWalletId: to }],
      [`${held}/release`, {}],
      ["/wallets", { walletId: from, initialBalance: 10 }],
      [`/wallets/${from}/suspend`, {}],
      [`/wallets/${from}/activate`, {}],
      [`/wallets/${from}/close`, {}],
    ];
    const before = await stack.sql("SELECT count(*) FROM events");
    for (const [path, body] of others) {
      expectProblem(await stack.post(path, body, key), 409, "idempotency_conflict");
    }
    expect(await stack.sql("SELECT count(*) FROM events")).toEqual(before);
    const again = await stack.post(`/wallets/${from}/credit`, input, key);
    expect(again.text).toBe(first.text);
  });

  it("is a conflict in a batch, where its own input gets the first answer", async () => {
    const { from: walletId, input, first, key: idempotencyKey } = await credited();
    const commands = [
      { type: "debit", walletId, amount: 500, idempotencyKey },
      { type: "credit", walletId, ...input, idempotencyKey },
    ];
    for (const command of commands) {
      const { body } = await stack.post<{ outcomes: AnyBody[] }>("/batch", {
        commands: [command],
      });
      const isSame = command.type === "credit";
      expect(body.outcomes[0]).toMatchObject(
        isSame
          ? { ok: true, replayed: true, data: first.body }
          : { ok: false, error: { code: "idempotency_conflict" } },
      );
    }
  });
});

it("The id of a hold, of a capture or of a release without a key names that and nothing else", async () => {
  const { from, to } = await openStake(stack);
  const holds = `/wallets/${from}/holds`;
  const placing = { amount: 50, type: "ESCROW", reference: "r", description: "d" };
  const placed = await stack.post(holds, { ...placing, expiresInSeconds: 600 });
  const one = `${holds}/${placed.body.id}`;
  const other = `${holds}/${(await stack.post(holds, { amount: 50 })).body.id}`;
  const taking = { amount: 20, description: "part" };
  const [taken, paid] = [
    await stack.post(`${one}/capture`, taking),
    await stack.post(`${one}/capture`, { ...taking, toWalletId: to }),
  ];
  const released = await stack.post(`${one}/release`, {});
  type Case = [Reply<AnyBody>, [string, object], Array<[string, object]>];
  const cases: Case[] = [
    [
      placed,
      [holds, { ...placing, expiresInSeconds: 600 }],
      [
        [holds, placing],
        [holds, { ...placing, expiresInSeconds: 601 }],
        [holds, { ...placing, expiresInSeconds: 600, reference: "s" }],
        [holds, { ...placing, expiresInSeconds: 600, type: "OTHER" }],
        [`/wallets/${from}/debit`, { amount: 50, description: "d" }],
      ],
    ],
    [
      taken,
      [`${one}/capture`, taking],
      [
        [`${one}/capture`, { ...taking, amount: 21 }],
        [`${one}/capture`, { ...taking, final: true }],
        [`${one}/capture`, { description: "part" }],
        [`${one}/capture`, { ...taking, toWalletId: to }],
        [`${other}/capture`, taking],
        [`/wallets/${from}/debit`, taking],
      ],
    ],
    [
      paid,
      [`${one}/capture`, { ...taking, toWalletId: to }],
      [
        [`${one}/capture`, taking],
        [`${one}/capture`, { ...taking, toWalletId: to, final: true }],
        [`/wallets/${from}/transfer`, { ...taking, toWalletId: to }],
      ],
    ],
    [released, [`${one}/release`, {}], [[`${other}/release`, {}]]],
  ];
  const before = await stack.sql("SELECT count(*) FROM events");
  const check = async () => {
    for (const [first, [path, input], others] of cases) {
      const key = String(first.headers["x-correlation-id"]);
      const again = await stack.post(path, input, key);
      expect([again.status, again.text]).toEqual([first.status, first.text]);
      for (const [where, what] of others) {
        expectProblem(await stack.post(where, what, key), 409, "idempotency_conflict");
      }
      const operation = await stack.get(`/operations/${key}?walletId=${from}`);
      expect(operation.body).toMatchObject({ idempotencyKey: key, outcome: "done" });
    }
  };
  await check();
  await stack.crashLanes();
  await check();
  expect(await stack.sql("SELECT count(*) FROM events")).toEqual(before);
});

it("The id of a creation without a key and an id names one input", async () => {
  const input = { ownerId: unique("owner"), initialBalance: 100, metadata: { a: 1 } };
  for (const body of [input, { ...input, initialBalance: 0 }]) {
    const first = await stack.post("/wallets", body);
    const key = String(first.headers["x-correlation-id"]);
    const others: Array<[string, object]> = [
      ["/wallets", { ...body, initialBalance: 50 }],
      ["/wallets", { ...body, ownerId: "another" }],
      ["/wallets", { ...body, currency: "EUR" }],
      ["/wallets", { ...body, metadata: { a: 2 } }],
      ["/wallets", { ...body, walletId: first.body.id }],
      [`/wallets/${first.body.id}/credit`, { amount: 100 }],
    ];
    for (const [path, other] of others) {
      expectProblem(await stack.post(path, other, key), 409, "idempotency_conflict");
    }
    const again = await stack.post("/wallets", body, key);
    expect([again.status, again.text]).toEqual([201, first.text]);
  }
});

it("The id of a command on a user's wallet is a conflict with a topup", async () => {
  const user = unique("user");
  const money = { user_id: user, asset_code: "USD", amount: 10 };
  const topup = (more: object) => stack.post("/api/v1/wallets/topup", { ...money, ...more });
  await topup({ reference_id: unique("reference") });
  const credit = await stack.post(`/wallets/${user}:USD/credit`, { amount: 10 });
  const reference = String(credit.headers["x-correlation-id"]);
  expectProblem(await topup({ reference_id: reference }), 409, "idempotency_conflict");
  expect((await stack.wallet(`${user}:USD`)).balance).toBe(20);
});

it("The id of a rejection without a key is a conflict with what it cannot have been said to", async () => {
  const { from, to } = await openStake(stack);
  const debit = `/wallets/${from}/debit`;
  const first = await stack.post(debit, { amount: 5_000 });
  expectProblem(first, 400, "insufficient_funds");
  const key = String(first.headers["x-correlation-id"]);
  expectProblem(await stack.post(debit, { amount: 1 }, key), 409, "idempotency_conflict");
  const credit = await stack.post(`/wallets/${from}/credit`, { amount: 5_000 }, key);
  expectProblem(credit, 409, "idempotency_conflict");
  const again = await stack.post(debit, { amount: 5_000 }, key);
  expect([lasting(again), isRepeat(again)]).toEqual([lasting(first), true]);
  expect((await stack.wallet(to)).version).toBe(0);
});

function isRepeat({ headers }: Reply<AnyBody>): boolean {
  return headers["idempotent-replayed"] === "true";
}

describeAllAnswers(20);
