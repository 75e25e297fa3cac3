/**
 * The trial balance and the totals that it goes on from: right at every moment while wallets are
 * written, while others advance the totals, after one that died in the middle, and over a gap. What
 * it must say comes from the view that reads every event.
 */
import pg from "pg";
import { afterAll, beforeAll, expect, it, onTestFinished } from "vitest";

import { buildPostgresReadModel } from "../src/postgres/read-model.ts";
import type { AccountTotal } from "../src/core/read-model.ts";
import { startStack, type Stack } from "./stage/stack.ts";
import { withLimits } from "./stage/lanes.ts";
import { openStake } from "./stage/write-routes.ts";

let stack: Stack;

beforeAll(async () => {
  stack = await startStack();
});

afterAll(() => stack.close());

type Sums = Record<string, string>;

function sumsOf(totals: readonly AccountTotal[]): Sums {
  const sums = totals.map(
    (it) => [`${it.currency} ${it.account}`, String(it.balanceMinor)] as const,
  );
  return Object.fromEntries(sums.toSorted());
}

async function everyEvent(): Promise<Sums> {
  const rows = await stack.sql<{ name: string; sum: string }>(
    "SELECT currency || ' ' || account AS name, balance::text AS sum FROM trial_balance",
  );
  return Object.fromEntries(rows.map(({ name, sum }) => [name, sum] as const).toSorted());
}

function buildReads() {
  const reads = buildPostgresReadModel({ databaseUrls: [stack.databaseUrl] });
  onTestFinished(() => reads.close());
  return reads;
}

async function session(): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: stack.databaseUrl });
  // One that is ended from the other side.
  client.on("error", () => undefined);
  await client.connect();
  onTestFinished(() => client.end().catch(() => undefined));
  return client;
}

async function positions(): Promise<Record<"counted" | "written", number>> {
  const [row] = await stack.sql<{ counted: number; written: number }>(
    `SELECT (SELECT sum(position)::int FROM account_checkpoints) AS counted,
            (SELECT count(*)::int FROM events) AS written`,
  );
  return row!;
}

/** Writes of every kind that moves money, some of them refused, in two assets. */
async function trade(turns: number): Promise<void> {
  const { from, to } = await openStake(stack);
  const yen = await stack.open({ currency: "JPY", initialBalance: 1_000 });
  for (let turn = 0; turn < turns; turn++) {
    await Promise.all([
      stack.post(`/wallets/${from}/transfer`, { toWalletId: to, amount: 1 }),
      stack.post(`/wallets/${from}/transfer`, { toWalletId: "nobody", amount: 2 }),
      stack.post(`/wallets/${yen.id}/debit`, { amount: 3 }),
      stack.post("/wallets/fund", { wallet_id: to, amount: 4 }),
    ]);
  }
}

it("adds each event once, whatever the steps, and leaves few to be read again", async () => {
  await trade(5);
  const reads = buildReads();
  for (const [totalsStepEvents, totalsBehindMax] of [
    [1, 5],
    [7, 2],
    [100_000, 0],
  ] as const) {
    withLimits({ totalsStepEvents, totalsBehindMax });
    await trade(2);
    const expected = await everyEvent();
    expect(sumsOf(await reads.trialBalance(null))).toEqual(expected);
    expect(sumsOf(await reads.trialBalance("JPY"))).toEqual(
      Object.fromEntries(Object.entries(expected).filter(([name]) => name.startsWith("JPY"))),
    );
    const { counted, written } = await positions();
    expect(counted).toBeGreaterThan(0);
    expect(written - counted).toBeLessThanOrEqual(totalsBehindMax * 256);
  }
  const { counted, written } = await positions();
  expect(counted).toBe(written);
});

it("balances at every moment of concurrent writes, while several advance the totals", async () => {
  withLimits({ totalsStepEvents: 5, totalsBehindMax: 0 });
  const all = [buildReads(), buildReads(), buildReads()];
  let isWriting = true;
  let answers = 0;
  const writers = Promise.all([trade(25), trade(25), trade(25)]).finally(() => (isWriting = false));
  const readers = all.map(async (reads) => {
    while (isWriting) {
      const totals = await reads.trialBalance(null);
      const sums: Record<string, bigint> = {};
      for (const { currency, balanceMinor } of totals) {
        sums[currency] = (sums[currency] ?? 0n) + balanceMinor;
      }
      expect(Object.values(sums).filter((sum) => sum !== 0n)).toEqual([]);
      answers += 1;
    }
  });
  await Promise.all([writers, ...readers]);
  expect(answers).toBeGreaterThan(5);

  const expected = await everyEvent();
  for (const reads of all) expect(sumsOf(await reads.trialBalance(null))).toEqual(expected);
  const { counted, written } = await positions();
  expect(counted).toBe(written);
});

it("loses nothing and adds nothing twice when an advance dies, and answers while it is open", async () => {
  withLimits({ totalsStepEvents: 1_000, totalsBehindMax: 0 });
  await trade(3);
  const expected = await everyEvent();
  const before = await positions();
  const dying = await session();
  await dying.query("BEGIN");
  const { rows } = await dying.query("SELECT advance_totals(1000, 0)::int AS added");
  expect(rows).toEqual([{ added: before.written - before.counted }]);

  // It has every shard that is behind in hand: others pass by, and add up by themselves.
  const reads = buildReads();
  expect(sumsOf(await reads.trialBalance(null))).toEqual(expected);
  expect(await positions()).toEqual(before);

  const { rows: backends } = await dying.query("SELECT pg_backend_pid() AS pid");
  await stack.sql(`SELECT pg_terminate_backend(${backends[0].pid}, 5000)`);
  expect(await positions()).toEqual(before);
  expect(sumsOf(await reads.trialBalance(null))).toEqual(expected);
  expect(await positions()).toEqual({ counted: before.written, written: before.written });
});

it("does not count past a place that is empty, and still adds what is behind it", async () => {
  withLimits({ totalsStepEvents: 1_000, totalsBehindMax: 0 });
  const reads = buildReads();
  await trade(1);
  await reads.trialBalance(null);
  const { id } = await stack.open({ initialBalance: 10 });
  const [last] = await stack.sql<{ shard: number; position: number }>(
    `SELECT shard, position::int AS position FROM events WHERE wallet_id = '${id}' AND version = 1`,
  );
  const { shard, position } = last!;
  const credit = (version: number, place: number, balance: number) =>
    stack.sql(
      `INSERT INTO events (wallet_id, version, type, amount, account, balance, held, status, occurred_at, correlation_id, shard, position)
       VALUES ('${id}', ${version}, 'WalletCredited', 5, 'system:world', ${balance}, 0, 'ACTIVE', now(), 'c', ${shard}, ${place})`,
    );
  await credit(2, position + 2, 1_005);
  await stack.sql(`UPDATE wallets SET version = 2, balance = 1005 WHERE wallet_id = '${id}'`);
  expect(sumsOf(await reads.trialBalance(null))).toEqual(await everyEvent());
  const checkpoint = async () =>
    (
      await stack.sql<{ position: number }>(
        `SELECT position::int AS position FROM account_checkpoints WHERE shard = ${shard}`,
      )
    )[0]!.position;
  expect(await checkpoint()).toBeLessThanOrEqual(position);

  await credit(3, position + 1, 1_010);
  await stack.sql(`UPDATE wallets SET version = 3, balance = 1010 WHERE wallet_id = '${id}'`);
  expect(sumsOf(await reads.trialBalance(null))).toEqual(await everyEvent());
  expect(await checkpoint()).toBe(position + 2);
});

it("goes on where it was when there was more to add than there was time", async () => {
  await stack.sql("TRUNCATE account_totals");
  await stack.sql("UPDATE account_checkpoints SET position = 0");
  withLimits({ totalsStepEvents: 1, totalsBehindMax: 0, trialBalanceMs: 2_000 });
  const hurried = buildReads();
  withLimits({ trialBalanceMs: 1 });
  await expect(hurried.trialBalance(null)).rejects.toMatchObject({ reason: "query_too_slow" });
  const { counted } = await positions();
  expect(counted).toBeGreaterThan(0);
  await hurried.trialBalance(null).catch(() => undefined);
  expect((await positions()).counted).toBeGreaterThan(counted);

  withLimits({ totalsStepEvents: 100_000, trialBalanceMs: 50_000 });
  expect(sumsOf(await buildReads().trialBalance(null))).toEqual(await everyEvent());
});

it("tells of money that a wallet has and no event brought", async () => {
  const { id } = await stack.open({ initialBalance: 10 });
  const reads = buildReads();
  const before = sumsOf(await reads.trialBalance("USD"));
  await stack.sql(`UPDATE wallets SET balance = balance + 1 WHERE wallet_id = '${id}'`);
  const after = sumsOf(await reads.trialBalance("USD"));
  expect(BigInt(after["USD wallets"]!)).toBe(BigInt(before["USD wallets"]!) + 1n);
  expect(after["USD system:world"]).toBe(before["USD system:world"]);
  await stack.sql(`UPDATE wallets SET balance = balance - 1 WHERE wallet_id = '${id}'`);
});
