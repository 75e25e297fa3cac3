/**
 * The rebuild of a wallet's row and of its holds: what it writes, what it refuses to build on, and
 * the race that it is there to win: an actor that has woken from the wrong row, with and without a
 * commit under way.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from "vitest";
import { withClient } from "../src/database.ts";
import type { Hold } from "../src/core/hold.ts";
import { LIMITS } from "../src/limits.ts";
import type { Command } from "../src/core/protocol.ts";
import { rebuildWallet } from "../src/verify/rebuild.ts";
import { ALL_SHARDS } from "../src/core/shard.ts";
import { verify } from "../src/verify/verify.ts";
import { openDatabase, type TestDatabase } from "./stage/audited-database.ts";
import { unique } from "./stage/ids.ts";
import { until } from "./stage/stack.ts";
import { capture, credit, debit, placing, release } from "./stage/staged-commands.ts";
import { stageLanes, type Asked, type Stage } from "./stage/lanes.ts";
import { buildWorld, tamper, type Copy, type World } from "./stage/books.ts";

/**
 * One lane on a database of its own, which the test may leave as damaged as it likes; both end with
 * the test.
 */
async function openStage(name: string): Promise<{ database: TestDatabase; stage: Stage }> {
  const database = await openDatabase(name);
  onTestFinished(() => database.close());
  const lanes = [{ name: "here", owner: "host-1", shards: ALL_SHARDS }];
  const stage = await stageLanes({ databaseUrl: database.url, lanes });
  onTestFinished(() => stage.close());
  return { database, stage };
}

async function fallAsleep(stage: Stage): Promise<void> {
  await stage.tick(LIMITS.actorIdleMs + LIMITS.actorSweepMs);
  expect(stage.lane("here").lane.stats().actors).toBe(0);
}

/** Sends a command whose commit is on its way to the database until it is let go. */
async function onItsWay(
  stage: Stage,
  command: Command,
): Promise<{ asked: Asked; letGo: () => void }> {
  let letGo = (): void => undefined;
  const gate = new Promise<void>((resolve) => (letGo = resolve));
  let hasArrived = false;
  stage.lane("here").hooks.append = async (_writes, apply) => {
    hasArrived = true;
    await gate;
    return await apply();
  };
  const [asked] = stage.send(command);
  await until("the commit is on its way", () => hasArrived);
  return { asked: asked!, letGo };
}

describe("an actor that woke from a wrong row", () => {
  let database: TestDatabase;
  let stage: Stage;
  let walletId: string;

  beforeEach(async () => {
    ({ database, stage } = await openStage("rebuild_stage"));
    // Given a wallet of 100.00 whose actor sleeps, and a row that says 877.00
    walletId = await stage.open("here", "100");
    await fallAsleep(stage);
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
    const { asked, letGo } = await onItsWay(stage, credit(walletId, "1"));

    // When the row is rebuilt meanwhile
    expect(await rebuildWallet(database.url, walletId)).toMatchObject({
      type: "rebuilt",
      version: 1,
    });
    letGo();
    await stage.quiet();

    // Then the answer is on top of 100.00
    expect(asked.outcomes).toMatchObject([{ type: "done", wallet: { balanceMinor: 10_100 } }]);
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
    expect(rebuilt).toEqual({
      type: "rebuilt",
      walletId: world.anna,
      version: 10,
      isRowWritten: true,
      holds: [],
    });
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
    await withClient(copy.urls[0]!, async (client) => {
      rows.push(...(await client.query("SELECT ctid, * FROM wallets ORDER BY wallet_id")).rows);
      rows.push(...(await client.query("SELECT shard, epoch FROM shards ORDER BY shard")).rows);
    });
    return rows;
  }
});

describe("holds", () => {
  let database: TestDatabase;
  let stage: Stage;
  let walletId: string;
  let active: Hold;
  let captured: Hold;
  let released: Hold;

  beforeEach(async () => {
    ({ database, stage } = await openStage("rebuild_holds"));
    // Given 100.00, of which 40.00 are held, after 20.00 were captured and 5.00 let go, and nobody
    // awake
    walletId = await stage.open("here", "100");
    const expiresAtMs = stage.nowMs + 3_600_000;
    active = await place("30", { reference: "order 17", description: 'a "table"', expiresAtMs });
    captured = await place("30");
    await stage.perform(capture(captured, "20"));
    released = await place("5");
    await stage.perform(release(released));
    await fallAsleep(stage);
  });

  async function place(amount: string, rest: Parameters<typeof placing>[2] = {}): Promise<Hold> {
    const outcome = await stage.perform(placing(walletId, amount, rest));
    if (outcome.type !== "done") throw new Error(`not placed: ${JSON.stringify(outcome)}`);
    return outcome.hold!;
  }

  const rows = (): Promise<object[]> => database.query("SELECT * FROM holds ORDER BY hold_id");
  const epochs = (): Promise<object[]> =>
    database.query("SELECT shard, epoch FROM shards ORDER BY shard");
  const written = (...holds: object[]): object => {
    const version = 6;
    return { type: "rebuilt", walletId, version, isRowWritten: false, holds };
  };
  /** Rebuilds, and then once more, which finds nothing to do. */
  async function rebuild(): Promise<object> {
    const rebuilt = await rebuildWallet(database.url, walletId);
    const after = await epochs();
    expect(await rebuildWallet(database.url, walletId)).toEqual({ type: "unchanged", walletId });
    expect(await epochs()).toEqual(after);
    return rebuilt;
  }

  it.each<[string, string, () => object]>([
    [
      "that are gone are put back, whatever their status",
      "DELETE FROM holds",
      () => [active, captured, released].map(({ holdId }) => ({ type: "inserted", holdId })),
    ],
    [
      "with every field wrong are corrected",
      `UPDATE holds SET shard = (shard + 1) % 256, amount = 9999, captured = 1, status = 'EXPIRED', kind = 'OTHER',
        reference = 'x', description = 'x', expires_at = now(), created_at = now(), released_at = now(), captured_at = NULL`,
      () => [active, captured, released].map(({ holdId }) => ({ type: "corrected", holdId })),
    ],
    [
      "that nobody placed are removed",
      `INSERT INTO holds (wallet_id, hold_id, shard, amount, captured, status, kind, created_at)
        SELECT wallet_id, 'invented', shard, 1, 0, 'ACTIVE', 'PAYMENT', now() FROM wallets`,
      () => [{ type: "removed", holdId: "invented" }],
    ],
    [
      "in another shard are brought home",
      "UPDATE holds SET shard = (shard + 1) % 256 WHERE status = 'RELEASED'",
      () => [{ type: "corrected", holdId: released.holdId }],
    ],
  ])("%s", async (_, sql, changes) => {
    const before = await rows();
    await database.query(sql);
    expect(await rows()).not.toEqual(before);
    expect((await verify({ databaseUrls: [database.url] })).differences).toBeGreaterThan(0);
    expect(await rebuild()).toEqual(written(...(changes() as object[])));
    expect(await rows()).toEqual(before);
    expect((await verify({ databaseUrls: [database.url] })).named).toEqual([]);
  });

  it("and their wallet's row are rebuilt together", async () => {
    await database.query("UPDATE wallets SET held = 0");
    await database.query("DELETE FROM holds WHERE hold_id = $1", [active.holdId]);
    const holds = [{ type: "inserted", holdId: active.holdId }];
    const both = { type: "rebuilt", walletId, version: 6, isRowWritten: true, holds };
    expect(await rebuild()).toEqual(both);
    expect((await verify({ databaseUrls: [database.url] })).named).toEqual([]);
  });

  it("of a history that is not in order stay as they are", async () => {
    await database.query("UPDATE holds SET captured = 0");
    const before = await rows();
    const sql = `UPDATE events SET data = jsonb_set(data, '{hold,capturedMinor}', '1') WHERE version = 4`;
    await tamper(database.url, sql);
    const refused = await rebuildWallet(database.url, walletId);
    expect(refused).toMatchObject({ type: "refused", reason: expect.stringMatching(/order/) });
    expect(await rows()).toEqual(before);
  });

  it("are known as rebuilt to an actor that woke without one of them, also with a commit on its way", async () => {
    // Given an actor that does not know the hold, and a credit on its way to the database
    await database.query("DELETE FROM holds WHERE hold_id = $1", [active.holdId]);
    expect(await stage.perform(release(active))).toMatchObject({
      rejection: { code: "hold_not_found" },
    });
    const { asked, letGo } = await onItsWay(stage, credit(walletId, "1"));

    // When it is rebuilt meanwhile
    let claims = 0;
    stage.lane("here").hooks.claim = async (claim) => {
      claims += 1;
      return await claim();
    };
    const inserted = { type: "inserted", holdId: active.holdId };
    expect(await rebuildWallet(database.url, walletId)).toEqual(written(inserted));
    letGo();
    await stage.quiet();

    // Then the credit is decided again by an actor that knows it
    expect(asked.outcomes).toMatchObject([{ type: "done", wallet: { balanceMinor: 8_100 } }]);
    expect(claims).toBeGreaterThan(0);
    expect(await stage.perform(release(active))).toMatchObject({
      type: "done",
      wallet: { heldMinor: 1_000 },
    });
    expect((await verify({ databaseUrls: [database.url] })).named).toEqual([]);
  });
});

describe("a wallet that does not exist", () => {
  it("is refused", async () => {
    const database = await openDatabase("rebuild_nobody");
    onTestFinished(() => database.close());
    const walletId = unique("nobody");
    const rebuilt = await rebuildWallet(database.url, walletId);
    expect(rebuilt).toEqual({ type: "refused", walletId, reason: "it has no events" });
  });

  it("and has holds is refused with what removes them, and that does", async () => {
    const database = await openDatabase("rebuild_nobody");
    onTestFinished(() => database.close());
    const walletId = "o'nobody";
    const sql = `INSERT INTO holds (wallet_id, hold_id, shard, amount, captured, status, kind, created_at)
                 SELECT $1, 'h' || n, 0, 5, 0, 'ACTIVE', 'OTHER', now() FROM generate_series(1, 2) n`;
    await database.query(sql, [walletId]);
    const rebuilt = await rebuildWallet(database.url, walletId);
    const reason = expect.stringMatching(/has neither events nor a row, only 2 rows of holds/);
    expect(rebuilt).toMatchObject({ type: "refused", walletId, reason });
    await database.query(/DELETE FROM holds .*$/.exec((rebuilt as { reason: string }).reason)![0]);
    expect((await verify({ databaseUrls: [database.url] })).named).toEqual([]);
  });
});
