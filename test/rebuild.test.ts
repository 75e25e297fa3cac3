/**
 * The rebuild of a wallet's row: what it writes, what it refuses to build on, and the race that it is there to win: an actor that has
 * woken from the wrong row, with and without a commit under way.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from "vitest";
import { LIMITS } from "../src/limits.ts";
import { rebuildWallet } from "../src/rebuild.ts";
import { ALL_SHARDS } from "../src/shard.ts";
import { verify } from "../src/verify.ts";
import {
  credit,
  debit,
  openDatabase,
  stageLanes,
  unique,
  type Stage,
  type TestDatabase,
} from "./staging.ts";
import { until } from "./stack.ts";
import { buildWorld, type Copy, type World } from "./verify-world.ts";

describe("an actor that woke from a wrong row", () => {
  let database: TestDatabase;
  let stage: Stage;
  let walletId: string;

  beforeEach(async () => {
    database = await openDatabase("rebuild_stage");
    onTestFinished(() => database.close());
    const lanes = [{ name: "here", owner: "host-1", shards: ALL_SHARDS }];
    stage = await stageLanes({ databaseUrl: database.url, lanes });
    onTestFinished(() => stage.close());
    // Given a wallet of 100.00 whose actor sleeps, and a row that says 877.00
    walletId = await stage.open("here", "100");
    await stage.tick(LIMITS.actorIdleMs + LIMITS.actorSweepMs);
    expect(stage.lane("here").lane.stats().actors).toBe(0);
    await database.query("UPDATE wallets SET balance = balance + 77700 WHERE wallet_id = $1", [
      walletId,
    ]);
  });

  async function expectInOrder(balanceMinor: number): Promise<void> {
    const report = await verify({ databaseUrls: [database.url] });
    expect(report.named).toEqual([]);
    const rows = await database.query("SELECT balance FROM wallets WHERE wallet_id = $1", [
      walletId,
    ]);
    expect(rows).toEqual([{ balance: balanceMinor }]);
  }

  it("cannot commit what it had decided: it is decided again on the rebuilt row", async () => {
    // Given a credit, decided on 877.00, on its way to the database
    let letGo = (): void => undefined;
    const gate = new Promise<void>((resolve) => (letGo = resolve));
    let hasArrived = false;
    stage.lane("here").hooks.append = async (_writes, apply) => {
      hasArrived = true;
      await gate;
      return await apply();
    };
    const [asked] = stage.send(credit(walletId, "1"));
    await until("the commit is on its way", () => hasArrived);

    // When the row is rebuilt meanwhile
    expect(await rebuildWallet(database.url, walletId)).toMatchObject({
      type: "rebuilt",
      version: 1,
    });
    letGo();
    await stage.quiet();

    // Then the answer is on top of 100.00
    expect(asked!.outcomes).toMatchObject([{ type: "done", wallet: { balanceMinor: 10_100 } }]);
    await expectInOrder(10_100);
  });

  it("knows the rebuilt row at its next command", async () => {
    // Given an actor that was woken by a command that it rejected
    const rejected = await stage.perform(debit(walletId, "1000"));
    expect(rejected).toMatchObject({
      rejection: { code: "insufficient_funds", availableMinor: 87_700 },
    });

    // When the row is rebuilt
    expect(await rebuildWallet(database.url, walletId)).toMatchObject({ type: "rebuilt" });

    // Then it does not give away what was never there
    const outcome = await stage.perform(debit(walletId, "500"));
    expect(outcome).toMatchObject({
      rejection: { code: "insufficient_funds", availableMinor: 10_000 },
    });
    expect(await stage.perform(debit(walletId, "40"))).toMatchObject({ type: "done" });
    await expectInOrder(6_000);
  });

  it("is named, if it commits before anybody rebuilds, and nothing is built on that", async () => {
    await stage.perform(credit(walletId, "1"));
    const report = await verify({ databaseUrls: [database.url], walletId });
    expect(report.named).toMatchObject([
      {
        kind: "event_state",
        walletId,
        version: 2,
        field: "balance",
        expected: 10_100,
        found: 87_800,
      },
    ]);
    expect(await rebuildWallet(database.url, walletId)).toMatchObject({ type: "refused" });
  });
});

describe("a row", () => {
  let world: World;
  let copy: Copy;

  beforeAll(async () => {
    world = await buildWorld(`rebuild_${process.pid}`);
  });
  afterAll(() => world.close());
  beforeEach(async () => {
    copy = await world.copy();
    onTestFinished(() => copy.close());
  });

  const named = async (): Promise<string[]> =>
    (await verify({ databaseUrls: copy.urls })).named.map(({ kind }) => kind);

  it.each([
    [
      "with every field wrong",
      `balance = 1, held = 1, status = 'SUSPENDED', owner_id = NULL, currency = 'EUR',
        decimal_places = 3, metadata = '{}', created_at = now(), updated_at = now(), shard = 3, hash = NULL`,
    ],
    [
      "from an earlier version",
      `version = 7, balance = 10600, updated_at = created_at,
        hash = (SELECT hash FROM events e WHERE e.wallet_id = wallets.wallet_id AND version = 7)`,
    ],
    ["whose version alone is ahead", "version = 99"],
  ])("%s is rebuilt", async (_, changes) => {
    await copy.tamper(0, `UPDATE wallets SET ${changes} WHERE wallet_id = $1`, [world.anna]);
    expect(await named()).not.toEqual([]);
    const rebuilt = await rebuildWallet(copy.urls[0]!, world.anna);
    expect(rebuilt).toEqual({ type: "rebuilt", walletId: world.anna, version: 10 });
    expect(await named()).toEqual([]);
  });

  it("that is gone is rebuilt, with the metadata of the last change", async () => {
    await copy.tamper(0, "DELETE FROM wallets WHERE wallet_id = $1", [world.carl]);
    expect(await rebuildWallet(copy.urls[0]!, world.carl)).toMatchObject({
      type: "rebuilt",
      version: 2,
    });
    expect(await named()).toEqual([]);
  });

  it("that is right stays untouched, and its shard keeps its epoch", async () => {
    const before = await fingerprint();
    expect(await rebuildWallet(copy.urls[0]!, world.anna)).toEqual({
      type: "unchanged",
      walletId: world.anna,
    });
    expect(await fingerprint()).toEqual(before);
  });

  it.each([
    [
      "whose last event is gone",
      "DELETE FROM events WHERE wallet_id = $1 AND version = 2",
      /events may be gone/,
    ],
    [
      "whose last event is another one",
      `UPDATE events SET description = 'x', hash = sha256('x') WHERE wallet_id = $1
        AND version = 2`,
      /not in order/,
    ],
    [
      "with an event that was changed",
      "UPDATE events SET amount = 5 WHERE wallet_id = $1 AND version = 1",
      /not in order/,
    ],
    ["without events", "DELETE FROM events WHERE wallet_id = $1", /no events/],
  ])("%s is not built on that", async (_, sql, reason) => {
    await copy.tamper(0, sql, [world.carl]);
    await copy.tamper(0, "UPDATE wallets SET balance = 5 WHERE wallet_id = $1", [world.carl]);
    const before = await fingerprint();
    const rebuilt = await rebuildWallet(copy.urls[0]!, world.carl);
    expect(rebuilt).toMatchObject({
      type: "refused",
      reason: expect.stringMatching(reason) as string,
    });
    expect(await fingerprint()).toEqual(before);
  });

  /** The rows of wallets with where they are on disk, and the epochs. */
  async function fingerprint(): Promise<object> {
    const rows: unknown[] = [];
    const { withClient } = await import("../src/database.ts");
    await withClient(copy.urls[0]!, async (client) => {
      rows.push(...(await client.query("SELECT ctid, * FROM wallets ORDER BY wallet_id")).rows);
      rows.push(...(await client.query("SELECT shard, epoch FROM shards ORDER BY shard")).rows);
    });
    return rows;
  }
});

describe("a wallet that does not exist", () => {
  it("is refused", async () => {
    const database = await openDatabase("rebuild_nobody");
    onTestFinished(() => database.close());
    const walletId = unique("nobody");
    const rebuilt = await rebuildWallet(database.url, walletId);
    expect(rebuilt).toEqual({ type: "refused", walletId, reason: "it has no events" });
  });
});
