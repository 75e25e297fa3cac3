/**
 * The reading side over the real stack: the past of a wallet at its borders, pages that stay right
 * while rows arrive and however little one page may look at, the search, and the ledger. What is
 * expected is worked out from the answers to the writes.
 */
import { setTimeout as sleep } from "node:timers/promises";

import pg from "pg";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";

import type { LedgerEntryBody, TrialBalanceBody } from "../gateway/routes/ledger-schemas.ts";
import { LIMITS } from "../src/limits.ts";
import { buildPostgresReadModel } from "../src/postgres/read-model.ts";
import { unique } from "./stage/ids.ts";
import {
  startStack,
  until,
  type AnyBody,
  type EventBody,
  type Reply,
  type Stack,
  type TransactionBody,
  type TransferBody,
  type WalletBody,
} from "./stage/stack.ts";
import { withLimits } from "./stage/lanes.ts";
import { openStake } from "./stage/write-routes.ts";

let stack: Stack;

beforeAll(async () => {
  stack = await startStack();
});

afterAll(() => stack.close());

function expectRefusal({ status, body }: Reply<AnyBody>, field: string, words: string): void {
  expect([status, body.code]).toEqual([422, "validation_failed"]);
  expect(body.details[0]).toMatchObject({ field, message: expect.stringContaining(words) });
}

/** All rows behind a path, page by page; `between` runs after each page but the last. */
async function walk<Row>(path: string, between?: () => Promise<unknown>): Promise<Row[]> {
  const rows: Row[] = [];
  for (let next: string | undefined = path, pages = 1; next !== undefined; pages += 1) {
    const { status, body, text, headers }: Reply<Row[]> = await stack.get<Row[]>(next);
    if (status !== 200 || pages > 500) throw new Error(`page ${pages} of ${path}: ${text}`);
    rows.push(...body);
    next = /^<(.*)>; rel="next"$/.exec(String(headers["link"] ?? ""))?.[1];
    if (next !== undefined) await between?.();
  }
  return rows;
}

function idsOf(rows: readonly { id: string }[]): string[] {
  return rows.map(({ id }) => id);
}

/**
 * A wallet as it was answered after each of its versions, each a few milliseconds after the one
 * before.
 */
async function openPast(): Promise<WalletBody[]> {
  const id = unique("past");
  const past: WalletBody[] = [await stack.open({ walletId: id, metadata: { tier: "gold" } })];
  for (const [step, body] of [
    ["credit", { amount: 10 }],
    ["debit", { amount: 2.5 }],
    ["suspend", {}],
    ["activate", {}],
    ["credit", { amount: 1 }],
  ] as const) {
    await sleep(3);
    past.push((await stack.post(`/wallets/${id}/${step}`, body)).body);
  }
  return past;
}

function shifted(time: string, byMs: number): string {
  return new Date(Date.parse(time) + byMs).toISOString();
}

describe("a wallet's past", () => {
  it("is what was answered then, by version and by time, up to the millisecond", async () => {
    const past = await openPast();
    const { id } = past[0]!;
    const read = async (query: string) => (await stack.get(`/wallets/${id}?${query}`)).body;
    for (const [version, wallet] of past.entries()) {
      const { updatedAt } = wallet;
      expect(await read(`version=${version}`)).toEqual(wallet);
      expect(await read(`at=${updatedAt}`)).toEqual(wallet);
      expect(await read(`at=${updatedAt.replace("Z", "999Z")}`)).toEqual(wallet);
      const zoned = encodeURIComponent(shifted(updatedAt, 3_600_000).replace("Z", "+01:00"));
      expect(await read(`at=${zoned}`)).toEqual(wallet);
      if (version > 0)
        expect(await read(`at=${shifted(updatedAt, -1)}`)).toEqual(past[version - 1]);
    }
    expect(await read(`at=${new Date().toISOString()}`)).toEqual(past.at(-1));
  });

  it("brings along the latest history of then, and nothing of later", async () => {
    const past = await openPast();
    const { id } = past[0]!;
    for (const version of [0, 2, 4]) {
      const at = past[version]!.updatedAt;
      for (const when of [`version=${version}`, `at=${at}`]) {
        const { body } = await stack.get(`/wallets/${id}?include=auditTrail,transactions&${when}`);
        const { auditTrail, transactions, ...wallet } = body;
        expect(wallet).toEqual(past[version]);
        expect(auditTrail.map((event) => event.version)).toEqual(
          past.slice(0, version + 1).map((each) => each.version),
        );
        expect(transactions.map(({ balanceAfter }) => balanceAfter)).toEqual(
          [[], [10, 7.5], [10, 7.5]][version / 2],
        );
      }
    }
  });

  it("brings along transactions that lie behind more events than a page looks at", async () => {
    const { id } = await stack.open({ initialBalance: 1 });
    await stack.post(`/wallets/${id}/credit`, { amount: 2 });
    for (let n = 0; n < 5; n++) {
      await stack.ask("PATCH", `/wallets/${id}`, { json: { metadata: { n } } });
    }
    for (const queryScanRowsMax of [1, 3]) {
      withLimits({ queryScanRowsMax });
      const { body } = await stack.get(`/wallets/${id}?include=transactions`);
      expect(body.transactions.map(({ amount }) => amount)).toEqual([1, 2]);
    }
    // As far back as so many pages of one event each
    for (const [includedPagesMax, amounts] of [
      [5, []],
      [6, [2]],
      [7, [1, 2]],
    ] as const) {
      withLimits({ queryScanRowsMax: 1, includedPagesMax });
      const { body } = await stack.get(`/wallets/${id}?include=transactions`);
      expect(body.transactions.map(({ amount }) => amount)).toEqual(amounts);
    }
    withLimits({ queryScanRowsMax: 10_000 });
  });

  it("does not reach before its creation, nor into the future", async () => {
    const past = await openPast();
    const { id, createdAt } = past[0]!;
    const early = await stack.get(`/wallets/${id}?at=${shifted(createdAt, -1)}`);
    expect([early.status, early.body.code]).toEqual([404, "wallet_not_found"]);
    expect(early.body.message).toContain(`created at ${createdAt}`);

    const next = await stack.get(`/wallets/${id}?version=${past.length}`);
    expect([next.status, next.body.code]).toEqual([404, "version_not_found"]);
    expect(next.body.details).toMatchObject({ version: past.length - 1 });

    expectRefusal(await stack.get(`/wallets/${id}?at=2999-01-01`), "at", "future");
    const both = await stack.get(`/wallets/${id}?at=${createdAt}&version=0`);
    expectRefusal(both, "version", "together with at");
    for (const query of ["version=0", "at=2026-01-01"]) {
      const nobody = await stack.get(`/wallets/nobody?${query}`);
      expect([nobody.status, nobody.body.code]).toEqual([404, "wallet_not_found"]);
    }
  });

  it("is known for a time that a host's clock gave and this one has not reached", async () => {
    const { id } = await stack.open();
    const ahead = new Date(Date.now() + 60_000).toISOString();
    const { database, end } = await session();
    await database.query("UPDATE wallets SET version = 1, updated_at = $2 WHERE wallet_id = $1", [
      id,
      ahead,
    ]);
    await database.query(
      `INSERT INTO events (wallet_id, version, type, balance, held, status, occurred_at, correlation_id, shard, position)
       VALUES ($1, 1, 'WalletActivated', 0, 0, 'ACTIVE', $2, 'c', 0, 1000000)`,
      [id, ahead],
    );
    await end();
    expect((await stack.get(`/wallets/${id}?at=${ahead}`)).body.version).toBe(1);
    expect((await stack.get(`/wallets/${id}?at=${shifted(ahead, -1)}`)).body.version).toBe(0);
  });
});

async function session(): Promise<{ database: pg.Client; end(): Promise<void> }> {
  const database = new pg.Client({ connectionString: stack.databaseUrl });
  await database.connect();
  let ended: Promise<void> | undefined;
  const end = () => (ended ??= database.end());
  onTestFinished(end);
  return { database, end };
}

/** A wallet with a history of every kind of transaction, and what it paid and was paid. */
async function openBusy(): Promise<{ id: string; other: string }> {
  const { from, to } = await openStake(stack);
  await stack.post(`/wallets/${to}/credit`, { amount: 100 });
  for (let turn = 0; turn < 4; turn++) {
    await stack.post(`/wallets/${from}/transfer`, { toWalletId: to, amount: turn + 1 });
    await stack.post(`/wallets/${from}/debit`, { amount: 1 });
    await stack.post(`/wallets/${to}/transfer`, { toWalletId: from, amount: 0.5 });
    await stack.post("/wallets/fund", { wallet_id: from, amount: 3 });
  }
  const isSettled = async () =>
    (await stack.sql("SELECT FROM transfers WHERE status = 'pending'")).length === 0;
  await until("the transfers are settled", isSettled);
  return { id: from, other: to };
}

describe("pages", () => {
  const lists = (id: string) => [
    `/wallets/${id}/transactions?`,
    `/wallets/${id}/transactions?type=DEBIT`,
    `/wallets/${id}/transactions?type=FUND&from=2020-01-01`,
    `/wallets/${id}/transfers?status=posted`,
    `/wallets/${id}/transfers?`,
    `/ledger/wallet/${id}?type=TRANSFER_IN`,
    `/ledger/wallet/${id}?`,
  ];
  type ListRow = { readonly id?: string; readonly transferId: string };
  const key = (row: ListRow) => row.id ?? row.transferId;

  it("newest first have no row twice and miss none, while rows arrive", async () => {
    const { id, other } = await openBusy();
    for (const path of lists(id)) {
      const before = (await walk<ListRow>(`${path}&limit=100`)).map(key);
      expect(before.length).toBeGreaterThanOrEqual(4);
      for (const limit of [2, 5]) {
        // A few are enough to move every border
        let left = 4;
        const grow = async () => {
          if (left-- <= 0) return;
          await stack.post(`/wallets/${id}/debit`, { amount: 0.01 });
          await stack.post(`/wallets/${other}/transfer`, { toWalletId: id, amount: 0.01 });
        };
        const now = (await walk<ListRow>(`${path}&limit=100`)).map(key);
        const read = await walk<ListRow>(`${path}&limit=${limit}`, grow);
        expect(read.map(key)).toEqual(now);
      }
    }
  });

  it("are the same however few events one page may look at", async () => {
    const { id } = await openBusy();
    for (const path of lists(id)) {
      const all = await walk(`${path}&limit=100`);
      for (const queryScanRowsMax of [1, 2, 7, 1_000]) {
        withLimits({ queryScanRowsMax });
        for (const limit of [1, 2, 100]) expect(await walk(`${path}&limit=${limit}`)).toEqual(all);
      }
      withLimits({ queryScanRowsMax: 10_000 });
    }
  });

  it("end at the times asked for, the first included, the last not", async () => {
    const past = await openPast();
    const { id } = past[0]!;
    const all = await walk<TransactionBody>(`/wallets/${id}/transactions`);
    const times = past.map(({ updatedAt }) => updatedAt);
    for (const from of times) {
      // One that ends before it begins is refused
      for (const to of times.filter((time) => time >= from)) {
        const expected = all.filter(({ createdAt }) => createdAt >= from && createdAt < to);
        for (const path of [`/wallets/${id}/transactions`, `/ledger/wallet/${id}`]) {
          const found = await walk<TransactionBody>(`${path}?from=${from}&to=${to}&limit=1`);
          expect(idsOf(found)).toEqual(idsOf(expected));
        }
      }
    }
    expect(await walk(`/wallets/${id}/transactions?to=2020-01-01`)).toEqual([]);
    expect(await walk(`/wallets/${id}/transactions?from=2999-01-01`)).toEqual([]);
  });

  it("of events go on where they ended, from any version", async () => {
    const { id } = await openBusy();
    const versions = async (query: string) =>
      (await walk<EventBody>(`/wallets/${id}/events?${query}`)).map(({ version }) => version);
    const all = await versions("limit=1000");
    expect(all).toEqual(all.map((_, nth) => nth));
    expect(await versions("limit=3&fromVersion=2")).toEqual(all.slice(2));
    expect(await versions(`fromVersion=${all.length}`)).toEqual([]);
  });
});

describe("a wallet's transfers", () => {
  it("are those it paid and those it was paid; a refused one is its payer's alone", async () => {
    const { id, other } = await openBusy();
    const list = (walletId: string, query = "") =>
      walk<TransferBody>(`/wallets/${walletId}/transfers?limit=3&${query}`);
    const ofOne = await list(id);
    expect(ofOne).toHaveLength(8);
    expect(ofOne.filter(({ fromWalletId }) => fromWalletId === id)).toHaveLength(4);
    expect(ofOne.filter(({ toWalletId }) => toWalletId === id)).toHaveLength(4);
    const byId = (transfers: TransferBody[]) =>
      transfers.toSorted((one, two) => (one.transferId < two.transferId ? -1 : 1));
    expect(byId(await list(other))).toEqual(byId(ofOne));
    for (const transfer of ofOne) {
      expect((await stack.get(`/transfers/${transfer.transferId}`)).body).toEqual(transfer);
    }
    for (const status of ["pending", "returned"]) {
      expect(await list(id, `status=${status}`)).toEqual([]);
    }
  });
});

const walked = { queryCommonShare: 1e9, queryWordRowsMax: 2_000 };
const indexed = { queryCommonShare: 0, queryWordRowsMax: 0, queryIndexRowsMax: 30_000 };
const few = { queryCandidatesMax: 2_000, queryScanRowsMax: 10_000 };

/**
 * Limits under which a search walks in short steps, asks the indexes at once, in short steps, and
 * for the rarest of its words.
 */
const WAYS = [
  { ...walked, ...few, queryScanRowsMax: 4 },
  { ...indexed, ...few },
  { ...indexed, queryCandidatesMax: 1, queryScanRowsMax: 4 },
  { ...indexed, ...few, queryIndexRowsMax: 3 },
];

describe("the search", () => {
  const tag = unique("tag").replaceAll("-", "");
  const made: WalletBody[] = [];

  beforeAll(async () => {
    for (const [id, currency, balance, metadata] of [
      ["a", "USD", "10.00", { tier: "gold", level: 7, name: "Ålice O'Neil" }],
      ["b", "USD", "10.01", { tier: "gold", level: "7", tags: ["vip", "Ålicia"] }],
      ["c", "JPY", "10", { tier: "silver", "a.b": "x y", vip: true }],
      ["d", "JPY", "11", { tier: { gold: "deep" } }],
      ["e", "KWD", "9.999", {}],
      ["f", "USD", "0", { quoted: `"\\'%_`, big: 12345678901234 }],
    ] as const) {
      const walletId = `${tag}-${id}`;
      const fields = { walletId, currency, initialBalance: balance, metadata, ownerId: `o.${tag}` };
      made.push(await stack.open(fields));
    }
    await stack.post(`/wallets/${tag}-d/suspend`, {});
  });

  const letters = async (query: string) =>
    idsOf(await walk<WalletBody>(`/wallets?ownerId=o.${tag}&${query}`))
      .map((id) => id.at(-1))
      .join("");

  it.each([
    ["minBalance=10", "abcd"],
    ["minBalance=10.001", "bd"],
    ["minBalance=10.01&maxBalance=10.5", "b"],
    ["maxBalance=9.9999", "ef"],
    ["maxBalance=9.9989", "f"],
    ["maxBalance=0", "f"],
    ["minBalance=0", "abcdef"],
    ["minBalance=11&maxBalance=10", ""],
    [`minBalance=${"9".repeat(40)}`, ""],
    [`maxBalance=${"9".repeat(40)}.5`, "abcdef"],
    ["metadata.tier=gold", "ab"],
    ["metadata.tier=Gold", ""],
    ["metadata.level=7", "ab"],
    ["metadata.tier=gold&metadata.level=7&minBalance=10.01", "b"],
    ["metadata.a.b=x%20y", "c"],
    ["metadata.vip=true", "c"],
    ["metadata.vip=1", ""],
    [`metadata.quoted=${encodeURIComponent(`"\\'%_`)}`, "f"],
    ["metadata.none=", ""],
    ["q=gold", "ab"],
    ["q=GOL", "ab"],
    ["q=go", ""],
    ["q=o%27neil", "a"],
    ["q=neil%20gold", "a"],
    ["q=neil%20silver", ""],
    [`q=${encodeURIComponent("Ålic")}`, "ab"],
    ["q=vip", "b"],
    ["q=7%20gold", "ab"],
    ["q=1234567", "f"],
    [`q=${tag}-c`, "c"],
    [`q=${tag}`, "abcdef"],
    ["q=x", "c"],
    ["q=%26%21%28%27%3A%2A", ""],
    ["q=%25", ""],
    ["status=SUSPENDED&q=deep", "d"],
    ["status=ACTIVE&currency=JPY", "c"],
    ["currency=JPY&status=SUSPENDED&minBalance=11", "d"],
  ])("by %s finds the wallets %j, however it is carried out", async (query, expected) => {
    for (const limit of [1, 2, 100])
      expect(await letters(`${query}&limit=${limit}`)).toBe(expected);
    for (const way of WAYS) {
      withLimits(way);
      for (const limit of [1, 100]) expect(await letters(`${query}&limit=${limit}`)).toBe(expected);
    }
  });

  it("takes each of its ways, and finds the same among all wallets", async () => {
    await stack.sql("ANALYZE wallets");
    const queries = ["q=gold", `q=${tag}%20gold`, `q=${tag}&metadata.level=7`, `q=${tag}%20neil`];
    for (const query of queries) {
      const expected = idsOf(await walk<WalletBody>(`/wallets?${query}&limit=100`));
      expect(expected.length).toBeGreaterThan(0);
      for (const way of WAYS) {
        withLimits({ ...way, queryScanRowsMax: way.queryScanRowsMax * 5 });
        for (const limit of [3, 100]) {
          const found = await walk<WalletBody>(`/wallets?${query}&limit=${limit}`);
          expect([query, way, idsOf(found)]).toEqual([query, way, expected]);
        }
      }
    }
  });

  it("misses no wallet and shows none twice while others arrive", async () => {
    const steps = { queryScanRowsMax: 2, queryCandidatesMax: 1 };
    for (const [query, way] of [
      ["minBalance=0", walked],
      [`q=${tag}&minBalance=0`, walked],
      [`q=${tag}&minBalance=0`, indexed],
      ["metadata.tier=gold", walked],
      ["metadata.tier=gold", indexed],
    ] as const) {
      withLimits({ ...way, ...steps });
      const before = idsOf(await walk<WalletBody>(`/wallets?${query}&limit=100`));
      let arrived = 0;
      const grow = async () => {
        // Before, among and behind the rest.
        const nth = arrived++;
        const walletId = `${["0", tag, "zz"][nth % 3]}-${unique("late")}`;
        if (nth < 30) await stack.open({ walletId, metadata: { tier: "gold", tag } });
      };
      const read = idsOf(await walk<WalletBody>(`/wallets?${query}&limit=1`, grow));
      expect(new Set(read).size).toBe(read.length);
      expect(read).toEqual(read.toSorted());
      expect(read.filter((id) => before.includes(id))).toEqual(before);
    }
  });

  it("rests on no index of a column that money moves, so updates stay heap-only", async () => {
    const columns = await stack.sql<{ name: string; index: string }>(
      `SELECT DISTINCT a.attname AS name, d.objid::regclass::text AS index
       FROM pg_depend d JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
       WHERE d.classid = 'pg_class'::regclass AND d.refobjid = 'wallets'::regclass
         AND d.objid IN (SELECT indexrelid FROM pg_index)`,
    );
    expect(columns.length).toBeGreaterThan(5);
    const moving = new Set(["balance", "held", "version", "updated_at"]);
    expect(columns.filter(({ name }) => moving.has(name))).toEqual([]);
  });
});

describe("the ledger", () => {
  const sumOf = ({ lines }: LedgerEntryBody) =>
    lines.reduce((sum, { amount }) => sum + Math.round(amount * 1e6), 0);

  it("has two lines for each transaction, which sum to zero and to the balance", async () => {
    const { id } = await openBusy();
    const entries = await walk<LedgerEntryBody>(`/ledger/wallet/${id}?limit=4`);
    const transactions = await walk<TransactionBody>(`/wallets/${id}/transactions?limit=100`);
    expect(idsOf(entries)).toEqual(idsOf(transactions));
    let balance = 0;
    for (const entry of entries) {
      const [own, other] = entry.lines;
      expect(sumOf(entry)).toBe(0);
      expect(own!.account).toBe(`wallet:${id}`);
      expect(other!.account).toBe(
        entry.type.startsWith("TRANSFER") ? "system:transit" : "system:world",
      );
      balance += own!.amount;
    }
    expect(balance).toBeCloseTo((await stack.wallet(id)).balance, 6);
  });

  it("finds one entry by an event's id, and all of a transfer by its", async () => {
    const { id, other } = await openBusy();
    const [transfer] = await walk<TransferBody>(`/wallets/${id}/transfers?limit=100`);
    const { transferId, fromWalletId, toWalletId, amount, fromVersion, toVersion } = transfer!;
    expect([fromWalletId, toWalletId]).toEqual([other, id]);
    const read = async (it: string) =>
      (await stack.get<AnyBody & { entries: LedgerEntryBody[] }>(`/ledger/transactions/${it}`))
        .body;
    const whole = await read(transferId);
    expect(whole).toMatchObject({ id: transferId, transferId, currency: "USD" });
    expect(whole.entries.map(({ id, lines }) => [id, ...lines.map((line) => line.amount)])).toEqual(
      [
        [`${fromWalletId}:${fromVersion}`, -amount, amount],
        [`${toWalletId}:${toVersion}`, amount, -amount],
      ],
    );
    const half = await read(`${toWalletId}:${toVersion}`);
    expect(half.entries).toEqual([whole.entries[1]]);
    expect((await read(`${id}:1`)).entries).toMatchObject([{ type: "CREDIT", transferId: null }]);
    for (const none of [`${id}:0`, `${id}:99999`, "nothing", "nobody:1"]) {
      expect(await read(none)).toMatchObject({ statusCode: 404, code: "transaction_not_found" });
    }
  });

  it("sums to zero in every currency, and is the wallets' balances", async () => {
    await openBusy();
    const read = async (query = "") =>
      (await stack.get<TrialBalanceBody>(`/ledger/trial-balance${query}`)).body;
    const { currencies } = await read();
    expect(currencies.map(({ currency }) => currency)).toContain("KWD");
    for (const { sum, isBalanced } of currencies) {
      expect([Number(sum), isBalanced]).toEqual([0, true]);
    }
    const usd = currencies.find(({ currency }) => currency === "USD")!;
    expect((await read("?currency=USD")).currencies).toEqual([usd]);
    const [{ total }] = (await stack.sql(
      "SELECT (sum(balance) / 100)::numeric(20, 2)::text AS total FROM wallets WHERE currency = 'USD'",
    )) as [{ total: string }];
    expect(usd.accounts).toEqual([
      { account: "system:transit", balance: "0.00" },
      { account: "system:world", balance: `-${total}` },
      { account: "wallets", balance: total },
    ]);
  });

  it("of one currency is empty where no wallet has it, and not found where it is none", async () => {
    await stack.open({ currency: "CHF" });
    const asked = (currency: string) =>
      stack.get<AnyBody & TrialBalanceBody>(`/ledger/trial-balance?currency=${currency}`);
    const known = await asked("XAF");
    expect([known.status, known.body.currencies]).toEqual([200, []]);
    const empty = await asked("CHF");
    expect(empty.body.currencies).toMatchObject([{ currency: "CHF", sum: "0.00" }]);
    for (const unknown of ["XYZ", "chf"]) {
      const { status, body } = await asked(unknown);
      expect([status, body]).toMatchObject([
        404,
        { code: "asset_not_found", path: "/ledger/trial-balance", details: { currency: unknown } },
      ]);
    }
  });

  it("says so when the books take longer than they may, and reads pages meanwhile", async () => {
    withLimits({ trialBalanceMs: 500, trialBalancesWaitingMax: 1 });
    const reads = buildPostgresReadModel({ databaseUrls: [stack.databaseUrl] });
    onTestFinished(() => reads.close());
    const { database, end } = await session();
    await database.query("BEGIN; LOCK TABLE events IN ACCESS EXCLUSIVE MODE");
    const asked = await Promise.allSettled([1, 2, 3].map(() => reads.trialBalance(null)));
    const reasons = asked.map((it) =>
      it.status === "rejected" ? String(it.reason.reason) : "none",
    );
    expect(reasons.toSorted()).toEqual(["overloaded", "query_too_slow", expect.any(String)]);
    expect(await reads.wallets({}, 1, null)).toMatchObject({ rows: [{}] });
    await end();
    expect(await reads.trialBalance(null)).not.toEqual([]);
  });
});

it("Nothing of all this was an error of Coffer's own", () => {
  expect(stack.errors).toEqual([]);
  expect(LIMITS.queryScanRowsMax).toBe(10_000);
});
