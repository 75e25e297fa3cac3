/**
 * The reconciliation beside a bank at work: no false alarm, whichever moment its views are from, in
 * one database and in two; and a row that somebody changed is rebuilt from its events under load,
 * without an update being lost and without the actor that woke from the wrong row going on.
 */
import pg from "pg";
import { expect, inject, it, onTestFinished } from "vitest";
import { rebuildWallet } from "../src/verify/rebuild.ts";
import { shardOf } from "../src/core/shard.ts";
import { verify } from "../src/verify/verify.ts";
import { askJson } from "./stage/json.ts";
import { startCoffer, type CofferProcess } from "./stage/process.ts";
import { createDatabase, dropDatabase } from "./stage/servers.ts";
import { askOverHttp, buildWorkload, checkBank, type Workload } from "./stage/workload.ts";

async function openDatabases(...names: readonly string[]): Promise<string[]> {
  const urls: string[] = [];
  for (const name of names) {
    urls.push(await createDatabase(inject("postgresUrl"), name));
    onTestFinished(() => dropDatabase(inject("postgresUrl"), name));
  }
  return urls;
}

async function startBank(
  urls: readonly string[],
  plan: { name: string; callers?: number; wallets?: number },
  env: Record<string, string> = {},
): Promise<{ coffer: CofferProcess; bank: Workload }> {
  const coffer = await startCoffer({ DATABASE_URL: urls.join(","), LOG_LEVEL: "warn", ...env });
  onTestFinished(async () => void (await coffer.kill()));
  await coffer.untilReady();
  const ask = askOverHttp(coffer.port);
  onTestFinished(() => ask.close());
  const bank = buildWorkload({ ask, ...plan });
  await bank.open();
  bank.start();
  return { coffer, bank };
}

async function sql<Row>(url: string, text: string, values: unknown[] = []): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query(text, values)).rows as Row[];
  } finally {
    await client.end();
  }
}

it.each([
  ["one database", 1],
  ["two databases", 2],
])("finds no difference while a bank is at work in %s", { timeout: 90_000 }, async (_, count) => {
  // Given a bank at work, mostly on transfers between few wallets
  const names = Array.from({ length: count }, (_none, index) => `verify_traffic_${count}_${index}`);
  const urls = await openDatabases(...names);
  const { coffer, bank } = await startBank(urls, { name: "traffic", callers: 16, wallets: 12 });
  await bank.progress(300);

  // When the books are reconciled again and again, in one view and piece by piece
  for (let run = 0; run < 4; run++) {
    const report = await verify({ databaseUrls: urls });
    expect(report.named).toEqual([]);
    const pace = { isOurs: () => true, spend: () => Promise.resolve() };
    const pieces = await verify({ databaseUrls: urls, pace });
    expect(pieces.named).toEqual([]);
    expect(pieces.wallets).toBe(12);
    expect(pieces.events).toBeGreaterThan(report.events);
    expect(report.transfers).toBeGreaterThan(50);
  }

  // Then the bank was at work all the while, and its books are in order at the end, too
  await bank.progress(100);
  await bank.stop();
  await bank.resolve();
  expect(await checkBank(urls, bank)).toEqual([]);
  expect((await verify({ databaseUrls: urls })).named).toEqual([]);
  expect(await coffer.stop()).toEqual({ code: 0, signal: null });
});

it("rebuilds rows while their wallets are written to, and loses nothing", async () => {
  // Given a bank at work
  const [url = ""] = await openDatabases("verify_rebuild");
  const { coffer, bank } = await startBank([url], { name: "rebuild", callers: 12, wallets: 300 });
  await bank.progress(200);
  // One of each shard: a rebuild puts the shard's actors to sleep, and one that wakes from a wrong
  // row writes what is wrong.
  const inShards = new Map(bank.walletIds.map((walletId) => [shardOf(walletId), walletId]));

  const epochOf = async (walletId: string): Promise<number> => {
    const text = "SELECT epoch FROM shards WHERE shard = $1";
    const [row] = await sql<{ epoch: string }>(url, text, [shardOf(walletId)]);
    return Number(row!.epoch);
  };

  // When rows are changed under their actors, and rebuilt with the bank at work
  let rebuilt = 0;
  for (const walletId of [...inShards.values()].slice(0, 20)) {
    // Its actor is awake
    const path = `/wallets/${walletId}/credit`;
    const { status } = await askJson(coffer.baseUrl + path, { amount: 1, dryRun: true });
    expect([200, 409]).toContain(status);
    await sql(url, "UPDATE wallets SET balance = balance + 777 WHERE wallet_id = $1", [walletId]);
    const epoch = await epochOf(walletId);
    const result = await rebuildWallet(url, walletId);
    // An actor that is awake may have written its row in between, with what it knows.
    expect(result).not.toHaveProperty("reason");
    if (result.type !== "rebuilt") continue;
    rebuilt += 1;
    // The commit that meets the rebuild puts all to sleep that are in it, whatever their shards: not
    // the next wallet, whose row would be wrong by then.
    await expect.poll(() => epochOf(walletId)).toBeGreaterThan(epoch + 1);
  }
  expect(rebuilt).toBeGreaterThan(0);

  // Then no answer was wrong, nothing was lost, and the books are in order
  await bank.stop();
  await bank.resolve();
  expect(await checkBank(url, bank)).toEqual([]);
  expect((await verify({ databaseUrls: [url] })).named).toEqual([]);
  expect(await coffer.stop()).toEqual({ code: 0, signal: null });
}, 90_000);
