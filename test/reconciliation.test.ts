/**
 * A host's own reconciliation on real PostgreSQL: it finds what somebody changed in the shards that
 * are the host's and in no others, says so until a whole run has found nothing, keeps to its pace,
 * and lets go of its connections when the host ends.
 */
import { afterAll, beforeAll, beforeEach, expect, it, onTestFinished } from "vitest";
import { buildReconciliation, type Reconciliation } from "../actors/reconciliation.ts";
import { systemTime } from "../src/clock.ts";
import { withClient } from "../src/database.ts";
import { rebuildWallet } from "../src/verify/rebuild.ts";
import { ALL_SHARDS } from "../src/core/shard.ts";
import { EVEN } from "./stage/ids.ts";
import { until } from "./stage/stack.ts";
import { withLimits } from "./stage/lanes.ts";
import { buildWorld, type Copy, type World } from "./stage/books.ts";

let world: World;
let copy: Copy;
let log: string[];

beforeAll(async () => {
  world = await buildWorld("reconciliation");
});
afterAll(() => world.close());
beforeEach(async () => {
  copy = await world.copy();
  onTestFinished(() => copy.close());
  log = [];
});

function start(
  options: {
    shards?: readonly number[];
    rowsPerSecond?: number;
    databaseUrls?: string[];
    intervalMs?: number;
  } = {},
): Reconciliation {
  const write = (level: string) => (text: string) => void log.push(`${level} ${text}`);
  const reconciliation = buildReconciliation({
    databaseUrls: options.databaseUrls ?? copy.urls,
    intervalMs: options.intervalMs ?? 20,
    firstMs: 0,
    rowsPerSecond: options.rowsPerSecond ?? 1_000_000,
    shards: () => options.shards ?? ALL_SHARDS,
    time: systemTime,
    log: { info: write("info"), warn: write("warn"), error: write("error") },
  });
  onTestFinished(() => reconciliation.stop());
  reconciliation.start();
  return reconciliation;
}

/** Nobody waits for so long. */
const FOR_EVER_MS = 24 * 3_600_000;

/** Resolves when a run that began after now has ended. */
async function wholeRun(reconciliation: Reconciliation): Promise<void> {
  for (let run = 0; run < 2; run++) {
    const before = reconciliation.status().lastRunAt;
    await until("a run has ended", () => reconciliation.status().lastRunAt !== before);
  }
}

async function sessions(): Promise<number> {
  const counts = await Promise.all(
    copy.urls.map((url) =>
      withClient(url, async (client) => {
        const text = `SELECT count(*)::int AS count FROM pg_stat_activity
                      WHERE datname = current_database() AND application_name = 'coffer-verify'`;
        return (await client.query<{ count: number }>(text)).rows[0]!.count;
      }),
    ),
  );
  return counts.reduce((sum, count) => sum + count, 0);
}

it("finds nothing wrong with books that are in order", async () => {
  const reconciliation = start();
  await wholeRun(reconciliation);
  expect(reconciliation.status()).toMatchObject({ differences: 0, warnings: 0 });
  expect(reconciliation.status().walletsChecked).toBeGreaterThanOrEqual(6);
  expect(await reconciliation.probe()).toBe(0);
  expect(log[0]).toMatch(
    /^info books: 3 wallets, 18 events, 3 transfers reconciled, 0 differences$/,
  );
});

it("says what it found until it is mended", async () => {
  const reconciliation = start();
  await wholeRun(reconciliation);

  // When a row is changed
  await copy.tamper(0, "UPDATE wallets SET balance = 1 WHERE wallet_id = $1", [world.carl]);
  await wholeRun(reconciliation);

  // Then health has a reason that names it, and the log does
  expect(reconciliation.status().differences).toBe(1);
  const sentence = `wallet_row: Wallet ${world.carl}, version 2: .*balance.*expected 1000, found 1\\.`;
  await expect(reconciliation.probe()).rejects.toThrow(
    new RegExp(`^one difference in the books, the first: ${sentence} npm run verify`),
  );
  expect(log).toContainEqual(expect.stringMatching(new RegExp(`^error books: ${sentence}$`)));

  // And nothing more once it is mended
  await rebuildWallet(copy.urls[0]!, world.carl);
  await wholeRun(reconciliation);
  expect(reconciliation.status().differences).toBe(0);
  expect(await reconciliation.probe()).toBe(0);

  // And what comes later has its own name
  await copy.tamper(1, "UPDATE wallets SET balance = 1 WHERE wallet_id = $1", [world.bert]);
  await wholeRun(reconciliation);
  await expect(reconciliation.probe()).rejects.toThrow(`Wallet ${world.bert}, version 3`);
});

it("tells of a transfer that is pending for long, which is nothing for health", async () => {
  // The books are from a year to come
  withLimits({ transferStuckMs: -Number.MAX_SAFE_INTEGER });
  const reconciliation = start();
  await wholeRun(reconciliation);
  expect(reconciliation.status()).toMatchObject({ differences: 0, warnings: 1 });
  expect(await reconciliation.probe()).toBe(0);
  expect(log).toContainEqual(expect.stringMatching(/^warn books: transfer_stuck: /));
});

it("looks at the host's own shards, and at no others", async () => {
  await copy.tamper(0, "UPDATE wallets SET balance = 1 WHERE wallet_id = $1", [world.carl]);
  await copy.tamper(1, "UPDATE wallets SET balance = 1 WHERE wallet_id = $1", [world.bert]);
  const reconciliation = start({ shards: EVEN });
  await wholeRun(reconciliation);
  expect(reconciliation.status().differences).toBe(1);
  expect(log.filter((line) => line.includes(world.carl))).not.toEqual([]);
  expect(log.filter((line) => line.includes(world.bert))).toEqual([]);
});

it("keeps to its pace, says at once what it found, and ends in the middle with its host", async () => {
  // Given books that take at least a second at this pace, with something wrong
  await copy.tamper(0, "DELETE FROM wallets WHERE wallet_id = $1", [world.anna]);
  const startedAtMs = performance.now();
  const reconciliation = start({ rowsPerSecond: 10, intervalMs: FOR_EVER_MS });

  // Then what is wrong is known before the run has ended
  await until("it has found something", () => reconciliation.status().differences > 0);
  expect(reconciliation.status()).toMatchObject({ running: true, lastRunAt: null });
  await expect(reconciliation.probe()).rejects.toThrow("wallet_missing");

  // And the run ends with the host, and its connections do
  expect(await sessions()).toBe(2);
  expect(performance.now() - startedAtMs).toBeLessThan(2_000);
  await reconciliation.stop();
  expect(reconciliation.status()).toMatchObject({ running: false, lastRunAt: null });
  expect(await sessions()).toBe(0);

  // And without an end it takes its time: 18 events and 3 transfers
  const patient = start({ rowsPerSecond: 20, intervalMs: FOR_EVER_MS });
  const againAtMs = performance.now();
  await until("the run has ended", () => patient.status().lastRunAt !== null);
  expect(performance.now() - againAtMs).toBeGreaterThan(((18 + 3) / 20) * 1_000 - 50);

  // And ends at once while it waits for its next time
  await until("it waits", () => !patient.status().running);
  await patient.stop();
});

it("still says what it found when its connection is lost on the way", async () => {
  // Given a run at a slow pace that has found something
  withLimits({ verifyRetryMs: 60_000 });
  await copy.tamper(0, "DELETE FROM wallets WHERE wallet_id = $1", [world.anna]);
  const reconciliation = start({ rowsPerSecond: 10 });
  await until("it has found something", () => reconciliation.status().differences > 0);

  // When the databases end its sessions
  for (const url of copy.urls) {
    await withClient(url, (client) =>
      client.query(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND application_name = 'coffer-verify'`),
    );
  }
  await until("the run has failed", () => !reconciliation.status().running);

  // Then the difference stays known
  expect(reconciliation.status()).toMatchObject({ differences: 1, lastRunAt: null });
  await expect(reconciliation.probe()).rejects.toThrow("wallet_missing");

  // Also while the next run has not come to it yet
  await until("it looks anew", () => reconciliation.status().running);
  expect(reconciliation.status()).toMatchObject({ differences: 1, lastRunAt: null });

  // And after runs that came to nothing
  await allowConnections(false);
  const failures = (): number => log.filter((line) => line.startsWith("warn")).length;
  const before = failures();
  await until("runs have failed", () => failures() > before + 2);
  expect(reconciliation.status()).toMatchObject({ differences: 1, lastRunAt: null });

  // Until a whole one has found it mended
  await allowConnections(true);
  await rebuildWallet(copy.urls[0]!, world.anna);
  await until("nothing is wrong", () => reconciliation.status().differences === 0);
  expect(reconciliation.status().lastRunAt).not.toBe(null);
});

/** To the databases; where not, it ends those that are there. */
async function allowConnections(isAllowed: boolean): Promise<void> {
  const server = Object.assign(new URL(copy.urls[0]!), { pathname: "postgres" }).href;
  for (const url of copy.urls) {
    const name = new URL(url).pathname.slice(1);
    await withClient(server, async (client) => {
      await client.query(`ALTER DATABASE ${name} ALLOW_CONNECTIONS ${String(isAllowed)}`);
      if (isAllowed) return;
      await client.query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1",
        [name],
      );
    });
  }
}

it("begins anew when a database was away", async () => {
  withLimits({ verifyRetryMs: 20 });
  const later = copy.urls.map((url) => url.replace("_copy_", "_later_"));
  const reconciliation = start({ databaseUrls: later, intervalMs: FOR_EVER_MS });
  await until(
    "it has failed twice",
    () => log.filter((line) => line.startsWith("warn")).length > 1,
  );
  expect(await reconciliation.probe()).toBe(0);
  for (const [index, url] of copy.urls.entries()) {
    const name = new URL(later[index]!).pathname.slice(1);
    const server = Object.assign(new URL(url), { pathname: "postgres" }).href;
    const template = new URL(url).pathname.slice(1);
    await withClient(server, (client) =>
      client.query(`CREATE DATABASE ${name} TEMPLATE ${template}`),
    );
    onTestFinished(() =>
      withClient(server, async (client) => {
        await client.query(`DROP DATABASE ${name} WITH (FORCE)`);
      }),
    );
  }
  await until("a run has ended", () => reconciliation.status().lastRunAt !== null);
  expect(reconciliation.status().differences).toBe(0);
  await reconciliation.stop();
});
