/**
 * What `bench:seed` writes is what Coffer itself could have written: every history folds and is
 * chained, and the books balance.
 */
import { afterAll, beforeAll, expect, it } from "vitest";

import { chunkValues, planSeed, SEED_CHAIN, SEED_CHUNK, seedWalletId } from "../bench/seed-rows.ts";
import { LIMITS } from "../src/limits.ts";
import { shardOf } from "../src/core/shard.ts";
import { checkBooks, openDatabase, type TestDatabase } from "./stage/audited-database.ts";

let database: TestDatabase;

beforeAll(async () => {
  database = await openDatabase("seed_rows");
});

afterAll(() => database.close());

it.each([
  [2, 4, 1],
  [2, 1_000, 10],
  [4, 8, 1],
  [1_000, 20_000, 1_000],
  [999_998, 10_000_000, 100_000],
])("plans %i wallets with %i events without a gap", (wallets, events, chunkEvents) => {
  const chunks = planSeed(wallets, events, chunkEvents);
  let next = 0;
  let planned = 0;
  for (const chunk of chunks) {
    expect(chunk.first).toBe(next);
    expect(chunk.wallets % 2).toBe(0);
    expect(chunk.eventsEach).toBeGreaterThanOrEqual(2);
    next += chunk.wallets;
    planned += chunk.wallets * chunk.eventsEach;
  }
  expect(next).toBe(wallets);
  // Each wallet but the hot ones has a whole number of events, the same for all
  expect(Math.abs(planned - events)).toBeLessThanOrEqual(Math.max(4, wallets / 2));
});

it("writes histories that fold, transfers with both sides, and books that balance", async () => {
  const lasts = Array<number>(LIMITS.shardCount).fill(0);
  await database.query(SEED_CHAIN);
  for (const chunk of planSeed(220, 6_000, 2_000)) {
    await database.query(SEED_CHUNK, chunkValues(chunk, lasts));
  }

  await checkBooks(database);
  const unchained = await database.query(
    `SELECT e.wallet_id, e.version FROM events e LEFT JOIN wallets w USING (wallet_id, version)
     WHERE e.hash IS NULL OR w.hash <> e.hash`,
  );
  expect(unchained).toEqual([]);
  const wallets = await database.query<{ wallet_id: string; shard: number; status: string }>(
    "SELECT wallet_id, shard, status FROM wallets",
  );
  expect(wallets).toHaveLength(220);
  for (const { wallet_id: walletId, shard } of wallets) expect(shard).toBe(shardOf(walletId));
  expect(wallets.map((wallet) => wallet.wallet_id)).toContain(seedWalletId(219));
  expect(new Set(wallets.map(({ status }) => status))).toEqual(new Set(["ACTIVE", "SUSPENDED"]));
  const kinds = await database.query<{ type: string }>("SELECT DISTINCT type FROM events");
  expect(kinds).toHaveLength(6);
});
