/**
 * The game-economy API from outside, on real servers: the wallet of a user and an asset that is
 * made on first use, once, whoever comes first; one answer per reference, through races between
 * gateways and the death of lanes and of the process; pairs of user and asset that would share a
 * wallet id; and where the money comes from in the ledger.
 */
import { afterAll, beforeAll, describe, expect, inject, it, onTestFinished } from "vitest";

import type { BalanceBody, GameAnswerBody } from "../gateway/routes/game-schemas.ts";
import { LIMITS } from "../src/limits.ts";
import { shardOf } from "../src/core/shard.ts";
import { askJson } from "./stage/json.ts";
import { dataFolder, startCoffer } from "./stage/process.ts";
import { createDatabase, dropDatabase } from "./stage/servers.ts";
import { unique } from "./stage/ids.ts";
import { startStack, type AnyBody, type Reply, type Stack } from "./stage/stack.ts";

type Body = AnyBody & GameAnswerBody;

const GOLD = { code: "GOLD_COINS", name: "Gold coins", decimalPlaces: 0 };

let stack: Stack;
/** A second gateway on the same host. */
let besides: Stack;

beforeAll(async () => {
  stack = await startStack({ overNats: true });
  besides = await startStack({ besides: stack });
  expect((await stack.post("/assets", GOLD)).status).toBe(201);
});

afterAll(async () => {
  await besides.close();
  await stack.close();
  expect([...stack.errors, ...besides.errors]).toEqual([]);
});

type Kind = "topup" | "bonus" | "spend";

const ask = (kind: Kind, body: object, on: Stack = stack) =>
  on.post<Body>(`/api/v1/wallets/${kind}`, body);

const wish = (user: string, amount: number | string = 100, rest: object = {}) => ({
  user_id: user,
  asset_code: GOLD.code,
  amount,
  reference_id: unique("ref"),
  ...rest,
});

const balance = (user: string, query = `?asset_code=${GOLD.code}`) =>
  stack.get<BalanceBody & AnyBody>(`/api/v1/wallets/${user}/balance${query}`);

function expectCode({ status, body }: Reply<Body>, expected: [number, string]): void {
  expect([status, body.code]).toEqual(expected);
}

describe("a user's money", () => {
  it("comes with the first topup, which makes the wallet in one commit", async () => {
    const user = unique("user");
    const body = wish(user, 100, { payment_method: "card", metadata: { order: 7 } });
    const { status, body: given, headers } = await ask("topup", body);
    const id = `${user}:${GOLD.code}`;
    expect(status).toBe(200);
    expect(headers["idempotent-replayed"]).toBeUndefined();
    expect(given).toEqual({
      transaction_id: `${id}:1`,
      wallet_id: id,
      user_id: user,
      asset_code: GOLD.code,
      amount: 100,
      balance: 100,
      reference_id: body.reference_id,
    });
    const events = await stack.sql(
      `SELECT version, type, account, amount, command_id, data, xmin::text FROM events WHERE wallet_id = $1 ORDER BY version`,
      [id],
    );
    expect(events).toMatchObject([
      { version: "0", type: "WalletCreated", command_id: null },
      {
        version: "1",
        type: "WalletCredited",
        account: "system:treasury",
        command_id: body.reference_id,
        data: { kind: "TOPUP", metadata: { order: 7, payment_method: "card" } },
      },
    ]);
    expect(new Set(events.map(({ xmin }) => xmin as string)).size).toBe(1);
    expect(await stack.wallet(id)).toMatchObject({ ownerId: user, currency: GOLD.code });
  });

  it("comes with the first bonus as well, goes by spending, and is told by balance", async () => {
    const user = unique("user");
    await ask("bonus", wish(user, "40", { bonus_type: "daily" }));
    await ask("topup", wish(user, 60, { payment_method: "card" }));
    const spent = await ask("spend", wish(user, 25, { item_id: "sword" }));
    expect(spent.body).toMatchObject({ amount: 25, balance: 75 });
    expect((await balance(user)).body).toEqual({
      user_id: user,
      asset_code: GOLD.code,
      wallet_id: `${user}:${GOLD.code}`,
      balance: 75,
      held: 0,
      available: 75,
      status: "ACTIVE",
    });
    const path = `/wallets/${user}:${GOLD.code}`;
    const events = await stack.get<AnyBody[]>(`${path}/events`);
    expect(events.body.map((event) => (event as unknown as { data: object }).data)).toMatchObject([
      {},
      { kind: "BONUS", metadata: { bonus_type: "daily" } },
      { kind: "TOPUP", metadata: { payment_method: "card" } },
      { kind: "SPEND", metadata: { item_id: "sword" } },
    ]);
  });

  it("is in the books under its kind and its account, and they balance", async () => {
    const code = unique("BOOKS");
    await stack.post("/assets", { ...GOLD, code, decimalPlaces: 2 });
    const [user, asset] = [unique("user"), { asset_code: code }];
    await ask("topup", wish(user, "60.50", asset));
    await ask("bonus", wish(user, 40, asset));
    await ask("spend", wish(user, 25.25, asset));
    const id = `${user}:${code}`;
    await stack.post(`/wallets/${id}/credit`, { amount: 1 });
    await stack.post("/wallets/fund", { wallet_id: id, amount: 2 });
    await stack.post(`/wallets/${id}/debit`, { amount: 3 });

    const typesOf = async (query: string) =>
      (await stack.get<AnyBody["transactions"]>(`/wallets/${id}/transactions${query}`)).body.map(
        ({ type }) => type,
      );
    const all = ["DEBIT", "FUND", "CREDIT", "SPEND", "BONUS", "TOPUP"];
    expect(await typesOf("")).toEqual(all);
    for (const type of all) expect(await typesOf(`?type=${type}`)).toEqual([type]);

    type Entry = { type: string; lines: { account: string; amount: number }[] };
    const ledger = await stack.get<Entry[]>(`/ledger/wallet/${id}?type=SPEND`);
    expect(ledger.body.map(({ lines }) => lines)).toEqual([
      [
        { account: `wallet:${id}`, amount: -25.25 },
        { account: "system:revenue", amount: 25.25 },
      ],
    ]);
    type Sheet = { currencies: { isBalanced: boolean; accounts: object[] }[] };
    const { body } = await stack.get<Sheet>(`/ledger/trial-balance?currency=${code}`);
    expect(body.currencies).toMatchObject([
      {
        isBalanced: true,
        accounts: [
          { account: "system:bonus", balance: "-40.00" },
          { account: "system:revenue", balance: "25.25" },
          { account: "system:treasury", balance: "-60.50" },
          { account: "system:world", balance: "0.00" },
          { account: "wallets", balance: "75.25" },
        ],
      },
    ]);
  });

  it("of every asset is listed, in pages, without wallets that are named otherwise", async () => {
    const user = unique("user");
    await ask("topup", wish(user, 5));
    await ask("topup", wish(user, 6, { asset_code: "EUR" }));
    await ask("topup", wish(user, 7, { asset_code: "USD" }));
    // Theirs, but not by this API; and one whose id begins alike and belongs to somebody else.
    await stack.open({ ownerId: user });
    await stack.open({ walletId: `${user}:other`, ownerId: user });
    await ask("topup", wish(`${user}:x`, 8));
    const list = await stack.get<BalanceBody[]>(`/api/v1/wallets/${user}/balance`);
    const seen = list.body.map((one) => [one.asset_code, one.balance]);
    expect(seen).toEqual([
      ["EUR", 6],
      [GOLD.code, 5],
      ["USD", 7],
    ]);
    const pages: unknown[] = [];
    let next: string | undefined = `/api/v1/wallets/${user}/balance?limit=1`;
    while (next !== undefined) {
      const page: Reply<BalanceBody[]> = await stack.get<BalanceBody[]>(next);
      pages.push(...page.body.map((one) => [one.asset_code, one.balance]));
      next = /<(.*)>/.exec(page.headers["link"]?.toString() ?? "")?.[1];
    }
    expect(pages).toEqual(seen);
    expect((await stack.get(`/api/v1/wallets/${unique("nobody")}/balance`)).body).toEqual([]);
  });
});

describe("what is refused", () => {
  it("spending from a wallet that is not there, or more than is there", async () => {
    const user = unique("user");
    expectCode(await ask("spend", wish(user, 1)), [404, "wallet_not_found"]);
    expect((await balance(user)).status).toBe(404);
    await ask("topup", wish(user, 10));
    expectCode(await ask("spend", wish(user, 11)), [400, "insufficient_funds"]);
    expect((await balance(user)).body.balance).toBe(10);
  });

  it("an unknown asset, too fine an amount, and a wallet that is suspended", async () => {
    const user = unique("user");
    const unknown = await ask("topup", wish(user, 1, { asset_code: "NO_SUCH" }));
    expectCode(unknown, [404, "asset_not_found"]);
    expectCode(await ask("bonus", wish(user, 0.5)), [400, "invalid_amount"]);
    expect((await balance(user)).status).toBe(404);
    await ask("topup", wish(user, 10));
    await stack.post(`/wallets/${user}:${GOLD.code}/suspend`, {});
    for (const kind of ["topup", "bonus", "spend"] as const) {
      expectCode(await ask(kind, wish(user, 1)), [409, "wallet_not_active"]);
    }
  });

  it("a wallet under this id that holds another asset, or is not the user's", async () => {
    const user = unique("user");
    const walletId = `${user}:${GOLD.code}`;
    await stack.open({ walletId, ownerId: user, currency: "USD", initialBalance: 50 });
    for (const kind of ["topup", "bonus", "spend"] as const) {
      expectCode(await ask(kind, wish(user, 1)), [400, "currency_mismatch"]);
    }
    const other = unique("user");
    await stack.open({ walletId: `${other}:USD`, currency: "USD", initialBalance: 50 });
    for (const kind of ["topup", "bonus", "spend"] as const) {
      const refused = await ask(kind, wish(other, 1, { asset_code: "USD" }));
      expectCode(refused, [409, "owner_mismatch"]);
    }
    for (const id of [walletId, `${other}:USD`]) expect((await stack.wallet(id)).balance).toBe(50);
    const told = [await balance(user), await balance(other, "?asset_code=USD")];
    expect(told.map(({ status, body }) => [status, body.code, body.message])).toEqual([
      [404, "wallet_not_found", `User ${user} has no ${GOLD.code}: ${walletId} is a wallet of USD`],
      [404, "wallet_not_found", `User ${other} has no USD: the wallet ${other}:USD is not theirs`],
    ]);
  });

  it("two pairs of user and asset that make one wallet id do not meet in it, not even by reference", async () => {
    const [user, tail] = [unique("user"), unique("T")];
    const pairs = [
      { user_id: `${user}:x`, asset_code: tail },
      { user_id: user, asset_code: `x:${tail}` },
    ];
    for (const { asset_code } of pairs) await stack.post("/assets", { ...GOLD, code: asset_code });
    const reference = unique("shared");
    const [first, second] = pairs.map((pair) => ({ ...pair, amount: 9, reference_id: reference }));
    expect((await ask("topup", first!)).status).toBe(200);
    expectCode(await ask("topup", second!), [409, "idempotency_conflict"]);
    const anew = { ...second!, reference_id: unique("ref") };
    expectCode(await ask("topup", anew), [409, "owner_mismatch"]);
    expectCode(await ask("spend", { ...anew, reference_id: unique("ref") }), [
      409,
      "owner_mismatch",
    ]);
    expect((await stack.wallet(`${user}:x:${tail}`)).balance).toBe(9);
  });

  it.each<[string, Kind, object, string]>([
    ["an unknown field", "topup", { bonus_type: "x" }, "bonus_type"],
    ["another key beside it", "topup", { idempotencyKey: "x" }, "idempotencyKey"],
    ["two versions", "spend", { expected_version: 1, expectedVersion: 2 }, "expectedVersion"],
    ["a dry run that is none", "bonus", { dry_run: true, dryRun: false }, "dryRun"],
    ["an empty key", "bonus", { reference_id: undefined, idempotencyKey: "" }, "idempotencyKey"],
    [
      "a key with a control character",
      "bonus",
      { reference_id: undefined, idempotencyKey: "a\u0007" },
      "idempotencyKey",
    ],
    ["no reference", "spend", { reference_id: undefined }, "reference_id"],
    ["an empty reference", "spend", { reference_id: "" }, "reference_id"],
    ["a reference with a control character", "bonus", { reference_id: "a\u0000" }, "reference_id"],
    ["a user that is no id", "topup", { user_id: "a b" }, "user_id"],
    ["a user and an asset too long together", "topup", { user_id: "u".repeat(118) }, "user_id"],
    ["a label twice", "spend", { item_id: "a", metadata: { item_id: "b" } }, "item_id"],
    ["a label that cannot be stored", "topup", { payment_method: "a\u0000" }, "payment_method"],
    ["metadata that cannot be stored", "spend", { metadata: { a: "\u0000" } }, "metadata"],
    ["a version that is none", "spend", { expected_version: -1 }, "expected_version"],
  ])("%s is refused by name", async (_name, kind, rest, field) => {
    const { status, body } = await ask(kind, { ...wish("user-1"), ...rest });
    expect([status, body.code, body.details[0]?.field]).toEqual([422, "validation_failed", field]);
  });

  it("the longest user and asset that fit are taken", async () => {
    const user = unique("u").padEnd(LIMITS.idLengthMax - 1 - GOLD.code.length, "x");
    const { status, body } = await ask("topup", wish(user));
    expect([status, body.wallet_id.length]).toEqual([200, LIMITS.idLengthMax]);
    expect((await balance(user)).body.balance).toBe(100);
  });

  it("a header that names another key", async () => {
    const answer = await stack.post<Body>("/api/v1/wallets/topup", wish("user-1"), "other");
    expect([answer.status, answer.body.details[0]?.field]).toEqual([422, "reference_id"]);
  });
});

describe("the names that these fields have on every other write", () => {
  it.each(["topup", "bonus", "spend"] as const)(
    "mean the same on %s, whichever of them are there",
    async (kind) => {
      const user = unique("user");
      if (kind === "spend") await ask("topup", wish(user, 100));
      const { reference_id: key, ...rest } = wish(user, 10);
      const first = await ask(kind, { ...rest, idempotencyKey: key });
      expect([first.status, first.body.reference_id]).toEqual([200, key]);
      const path = `/api/v1/wallets/${kind}`;
      for (const again of [
        await ask(kind, { ...rest, reference_id: key }),
        await ask(kind, { ...rest, reference_id: key, idempotencyKey: key }, besides),
        await stack.post<Body>(path, rest, key),
        await stack.post<Body>(path, { ...rest, idempotencyKey: key }, key),
      ]) {
        expect(again.text).toBe(first.text);
        expect(again.headers["idempotent-replayed"]).toBe("true");
      }
    },
  );

  it("guard and try out alike, and a repeat may spell the version the other way", async () => {
    const user = unique("user");
    await ask("topup", wish(user, 10));
    const refused = await ask("spend", wish(user, 1, { expectedVersion: 7 }));
    expectCode(refused, [409, "version_conflict"]);
    const told = await ask("spend", wish(user, 1, { dryRun: true }));
    expect([told.status, told.headers["dry-run"]]).toEqual([200, "true"]);
    expect(told.body.transaction_id).toBeNull();
    expect((await balance(user)).body.balance).toBe(10);
    const body = wish(user, 1);
    const real = await ask("spend", { ...body, expectedVersion: 1 });
    const again = await ask("spend", { ...body, expected_version: 1, expectedVersion: 1 });
    expect([real.status, again.text]).toEqual([200, real.text]);
    expect((await balance(user)).body.balance).toBe(9);
  });

  it("differ from the header like the reference does", async () => {
    const { reference_id: key, ...rest } = wish(unique("user"));
    const body = { ...rest, idempotencyKey: key };
    const answer = await stack.post<Body>("/api/v1/wallets/topup", body, "other");
    expect([answer.status, answer.body.details[0]?.field]).toEqual([422, "idempotencyKey"]);
  });
});

describe("a reference", () => {
  it("names one command for ever: the same answer again, at any gateway", async () => {
    const user = unique("user");
    const wishes: Array<[Kind, object]> = [
      ["topup", wish(user, 50, { payment_method: "card" })],
      ["bonus", wish(user, 5)],
      ["spend", wish(user, 20)],
      ["spend", wish(user, 2_000)],
    ];
    const first: Reply<Body>[] = [];
    for (const [kind, body] of wishes) first.push(await ask(kind, body));
    for (const [nth, [kind, body]] of wishes.entries()) {
      const again = await ask(kind, body, besides);
      const { timestamp: _, correlationId: __, ...then } = first[nth]!.body;
      expect(again.body).toMatchObject(then);
      expect(again.headers["idempotent-replayed"]).toBe("true");
    }
    expect((await balance(user)).body.balance).toBe(35);
  });

  it.each<[string, Kind, object]>([
    ["amount", "topup", { amount: 51 }],
    ["kind", "bonus", {}],
    ["label", "topup", { payment_method: "cash" }],
    ["description", "topup", { description: "x" }],
  ])("with another %s is a conflict", async (_what, kind, change) => {
    const body = wish(unique("user"), 50);
    await ask("topup", body);
    const answer = await ask(kind, { ...body, ...change });
    expect([answer.status, answer.body.code]).toEqual([409, "idempotency_conflict"]);
  });

  it("is the wallet's: another user may have the same", async () => {
    const [one, other] = [wish(unique("user")), wish(unique("user"))];
    await ask("topup", one);
    const answer = await ask("topup", { ...other, reference_id: one.reference_id });
    expect([answer.status, answer.headers["idempotent-replayed"]]).toEqual([200, undefined]);
  });

  it("finds its outcome again after every lane has crashed in the middle", async () => {
    const users = Array.from({ length: 8 }, () => unique("crash"));
    const wishes = users.flatMap((user) => [wish(user, 10), wish(user, 7)]);
    const asked = Promise.all(wishes.map((body) => ask("topup", body)));
    await stack.crashLanes();
    const first = await asked;
    expect(first.map(({ status }) => status)).toEqual(wishes.map(() => 200));
    await stack.crashLanes();
    for (const [nth, body] of wishes.entries()) {
      const again = await ask("topup", body, besides);
      expect(again.text).toBe(first[nth]!.text);
      expect(again.headers["idempotent-replayed"]).toBe("true");
    }
    for (const user of users) expect((await balance(user)).body.balance).toBe(17);
    stack.errors.length = 0;
    besides.errors.length = 0;
  });
});

describe("at the same time", () => {
  it("two gateways' first uses make one wallet, and both their amounts are in it", async () => {
    for (let round = 0; round < 10; round += 1) {
      const user = unique("race");
      const answers = await Promise.all(
        [stack, besides, stack, besides].map((on, nth) =>
          ask(nth < 2 ? "topup" : "bonus", wish(user, 10 ** nth), on),
        ),
      );
      expect(answers.map(({ status }) => status)).toEqual([200, 200, 200, 200]);
      const versions = answers.map(({ body }) => body.transaction_id!.split(":").at(-1));
      expect(versions.toSorted()).toEqual(["1", "2", "3", "4"]);
      expect((await balance(user)).body.balance).toBe(1_111);
    }
  });

  it("the same reference at two gateways takes effect once", async () => {
    const body = wish(unique("race"), 10);
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, nth) => ask("topup", body, nth % 2 === 0 ? stack : besides)),
    );
    expect(new Set(answers.map(({ text }) => text)).size).toBe(1);
    const fresh = answers.filter(({ headers }) => headers["idempotent-replayed"] === undefined);
    expect(fresh.length).toBe(1);
    expect((await balance(body.user_id)).body.balance).toBe(10);
  });

  it("a first use and a creation of the wallet by hand leave one of the two, and no money astray", async () => {
    for (let round = 0; round < 10; round += 1) {
      const user = unique("race");
      const walletId = `${user}:${GOLD.code}`;
      const [made, given] = await Promise.all([
        stack.post("/wallets", { walletId, ownerId: user, currency: "USD" }),
        ask("topup", wish(user, 10), besides),
      ]);
      const outcome = [made.status, given.status].join();
      expect(["201,400", "409,200"]).toContain(outcome);
      expect((await stack.wallet(walletId)).balance).toBe(outcome === "409,200" ? 10 : 0);
    }
  });

  it("spending under load never takes more than there is, and the books balance", async () => {
    const user = unique("rush");
    await ask("topup", wish(user, 100));
    const answers = await Promise.all(
      Array.from({ length: 60 }, (_, nth) =>
        ask("spend", wish(user, 3), nth % 2 === 0 ? stack : besides),
      ),
    );
    const spent = answers.filter(({ status }) => status === 200).length;
    expect(spent).toBe(33);
    expect((await balance(user)).body.balance).toBe(1);
    const sums = await stack.sql(
      "SELECT currency FROM trial_balance GROUP BY currency HAVING sum(balance) <> 0",
    );
    expect(sums).toEqual([]);
  });
});

it("expected_version guards, and a wallet that is not there has none", async () => {
  const user = unique("user");
  const first = await ask("topup", wish(user, 1, { expected_version: 0 }));
  expectCode(first, [404, "wallet_not_found"]);
  await ask("topup", wish(user, 10));
  for (const kind of ["topup", "bonus", "spend"] as const) {
    expectCode(await ask(kind, wish(user, 1, { expected_version: 0 })), [409, "version_conflict"]);
  }
  const { body } = await ask("spend", wish(user, 1, { expected_version: 1 }));
  expect(body.balance).toBe(9);
});

it.each(["topup", "bonus", "spend"] as const)(
  "a dry run of %s tells what the same command then does, without a transaction",
  async (kind) => {
    const user = unique("user");
    if (kind === "spend") await ask("topup", wish(user, 50));
    const events = () => stack.sql("SELECT count(*) FROM events");
    const before = await events();
    const body = wish(user, 10);
    const told = await ask(kind, { ...body, dry_run: true });
    expect([told.status, told.headers["dry-run"]]).toEqual([200, "true"]);
    expect(told.body.transaction_id).toBeNull();
    expect(await events()).toEqual(before);
    const real = await ask(kind, body);
    expect(real.headers["idempotent-replayed"]).toBeUndefined();
    expect({ ...real.body, transaction_id: null }).toEqual(told.body);
  },
);

describe("a process of its own", () => {
  it("killed and started again answers by reference what it had answered", async () => {
    const folder = dataFolder();
    onTestFinished(() => folder.remove());
    const env = { DATA_DIR: folder.path, LOG_LEVEL: "warn" };
    let coffer = await startCoffer(env);
    onTestFinished(async () => void (await coffer.kill()));
    await coffer.untilReady();
    const send = async (path: string, body: object) => {
      const { headers, text } = await askJson(`${coffer.baseUrl}${path}`, body);
      return { replayed: headers.get("idempotent-replayed"), text };
    };
    await send("/assets", GOLD);
    const wishes = ["a", "b", "c"].map((user) => wish(user, 10));
    const first = await Promise.all(wishes.map((body) => send("/api/v1/wallets/topup", body)));
    await coffer.kill();
    coffer = await startCoffer(env);
    await coffer.untilReady();
    for (const [nth, body] of wishes.entries()) {
      const again = await send("/api/v1/wallets/topup", body);
      expect(again).toEqual({ replayed: "true", text: first[nth]!.text });
    }
    // The asset is there too, and its definition is the one that it had
    expect((await send("/assets", GOLD)).replayed).toBe("true");
  }, 60_000);

  it("over several databases keeps each wallet where its shard lives, and lists all of a user's", async () => {
    const names = ["game_even", "game_odd"];
    const urls: string[] = [];
    for (const name of names) {
      urls.push(await createDatabase(inject("postgresUrl"), name));
      onTestFinished(() => dropDatabase(inject("postgresUrl"), name));
    }
    const coffer = await startCoffer({ DATABASE_URL: urls.join(","), LANES: "2" });
    onTestFinished(async () => void (await coffer.kill()));
    await coffer.untilReady();
    const post = (path: string, body: object) =>
      fetch(`${coffer.baseUrl}${path}`, {
        method: "POST",
        body: JSON.stringify(body),
        headers: { "content-type": "application/json" },
      });
    const codes = ["AA", "BB", "CC", "DD", "EE", "FF"];
    expect(new Set(codes.map((code) => shardOf(code) % 2)).size).toBe(2);
    for (const code of codes) {
      expect((await post("/assets", { ...GOLD, code })).status).toBe(201);
      const { status } = await post("/api/v1/wallets/topup", wish("u", 3, { asset_code: code }));
      expect(status).toBe(200);
    }
    const answer = await fetch(`${coffer.baseUrl}/api/v1/wallets/u/balance`);
    const list = (await answer.json()) as BalanceBody[];
    expect(list.map((one) => [one.asset_code, one.balance])).toEqual(codes.map((one) => [one, 3]));
    expect(new Set(list.map((one) => shardOf(one.wallet_id) % 2)).size).toBe(2);
  }, 60_000);
});
