/**
 * The journal on a real PostgreSQL: what one commit is, and who may not make it. The races are
 * staged with sessions of the test's own that hold the lock which a claim takes alone and every
 * append shares, so that each happens in the order its name tells.
 */
import { Duplex } from "node:stream";
import { setTimeout as delay } from "node:timers/promises";
import type pg from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished, vi } from "vitest";
import type { Journal } from "../src/core/journal.ts";
import { buildPostgresJournal } from "../src/postgres/journal.ts";
import { buildPostgresShardTable } from "../src/postgres/shard-table.ts";
import type { Rejection } from "../src/core/rejection.ts";
import type { ShardTable } from "../src/core/shard-table.ts";
import { ALL_SHARDS, shardOf } from "../src/core/shard.ts";
import type { Transfer } from "../src/core/transfer.ts";
import type { WalletState } from "../src/core/wallet.ts";
import {
  draft as draftUnder,
  CREATED,
  credited,
  metadataChanged,
  NOW_MS,
  put,
  putCredit,
  putReceipt,
  putRefusal,
  putReserve,
  putReturn,
  putWallet,
  transferBetween,
  type Draft,
} from "./stage/journal-drafts.ts";
import { checkBooks, openDatabase, type TestDatabase } from "./stage/audited-database.ts";
import { idIn, unique } from "./stage/ids.ts";
import { withLimits } from "./stage/lanes.ts";
import { wireTap } from "./stage/wire-tap.ts";

const CLAIM_LOCK = 1_668_245_094;
const OWNER = "host-1";

let database: TestDatabase;
let journal: Journal;
let shardTable: ShardTable;
let epochs: Map<number, number>;

beforeAll(async () => {
  database = await openDatabase("journal_test");
  journal = buildPostgresJournal(database.url);
  shardTable = buildPostgresShardTable([database.url]);
});

afterAll(async () => {
  await journal.close();
  await shardTable.close();
  await database.close();
});

beforeEach(async () => {
  epochs = await takeOver(OWNER, ALL_SHARDS);
});

/** Becomes the owner, whoever was, and claims. */
async function takeOver(owner: string, shards: readonly number[]): Promise<Map<number, number>> {
  const owners = await shardTable.read();
  const from = owners.filter(({ shard }) => shards.includes(shard));
  await shardTable.take(owner, new Map(from.map((row) => [row.shard, row.owner])));
  return await journal.claim(owner, shards);
}

// --- Writing commits by hand ---------------------------------------------------------------------

/** A commit in the making, under the epochs of now. */
const draft = (): Draft => draftUnder(epochs);

async function openWallet(minor = 10_000): Promise<WalletState> {
  const writes = draft();
  const state = putWallet(writes, unique("w"), minor, unique("command"));
  expect(await journal.append(writes)).toEqual({ type: "committed" });
  return state;
}

function creditOf(state: WalletState, commandId?: string): Draft {
  const writes = draft();
  putCredit(writes, state, 1, commandId);
  return writes;
}

function reserveOf(from: WalletState, transfer: Transfer): Draft {
  const writes = draft();
  putReserve(writes, from, transfer);
  return writes;
}

function refusalOf(transfer: Transfer): Draft {
  const writes = draft();
  putRefusal(writes, transfer);
  return writes;
}

/** Refused, returned and settled, so that the books are in order. */
async function giveBack(transfer: Transfer): Promise<void> {
  await journal.append(refusalOf(transfer));
  const writes = draft();
  putReturn(writes, transfer, await walletNow(transfer.fromWalletId));
  expect(await journal.append(writes)).toEqual({ type: "committed" });
}

/** A pending transfer of 1.00 to a wallet that does not exist. */
async function reserved(): Promise<Transfer> {
  const payer = await openWallet();
  const transfer = transferBetween(payer, unique("w"), 100);
  expect(await journal.append(reserveOf(payer, transfer))).toEqual({ type: "committed" });
  return transfer;
}

async function walletNow(walletId: string): Promise<WalletState> {
  return (await journal.loadWallets([walletId])).wallets.get(walletId)!.state!;
}

async function versionOf(walletId: string): Promise<number | undefined> {
  return (await journal.loadWallets([walletId])).wallets.get(walletId)?.state?.version;
}

const COUNTS = `
  SELECT (SELECT count(*) FROM events) AS events, (SELECT count(*) FROM wallets) AS wallets,
         (SELECT sum(version) FROM wallets) AS versions, (SELECT count(*) FROM rejections) AS rejections,
         (SELECT count(*) FROM transfers) AS transfers, (SELECT count(*) FROM transfer_verdicts) AS verdicts,
         (SELECT count(*) FROM transfers WHERE status <> 'pending') AS settled`;

/** Runs the work and sees that no table has changed by it. */
async function writingNothing<T>(work: () => Promise<T>): Promise<T> {
  const before = await database.query(COUNTS);
  const result = await work();
  expect(await database.query(COUNTS)).toEqual(before);
  return result;
}

/** Waits until a session waits for the lock of claims and appends. */
async function untilWaiting(): Promise<void> {
  const sql = `SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
               WHERE locktype = 'advisory' AND NOT granted AND datname = current_database()`;
  await expect.poll(() => database.query(sql), { interval: 5 }).toEqual([{ count: 1 }]);
}

/** As a claim does. */
async function holdLock(): Promise<pg.Client> {
  const session = await database.session();
  await session.query("BEGIN");
  await session.query(`SELECT pg_advisory_xact_lock(${CLAIM_LOCK})`);
  return session;
}

// --- One commit ----------------------------------------------------------------------------------

describe("one commit", () => {
  it("holds everything it was given, and it all reads back", async () => {
    // Given two pending transfers of one payer
    const [payer, payee] = [await openWallet(10_000), await openWallet(500)];
    const kept = transferBetween(payer, payee.walletId, 700);
    await journal.append(reserveOf(payer, kept));
    const sent = await walletNow(payer.walletId);
    const returned = transferBetween(sent, unique("w"), 300);
    await journal.append(reserveOf(sent, returned));
    const shard = shardOf(payer.walletId);
    expect(await journal.loadPendingTransfers([shard])).toEqual(
      expect.arrayContaining([kept, returned]),
    );
    expect(await journal.loadPendingTransfers([(shard + 1) % 256])).toEqual([]);

    // When one commit brings a creation, a rejection, a receipt, a refusal and two settlements
    const writes = refusalOf(returned);
    const newId = unique("w");
    const created = putWallet(writes, newId, 1, unique("command"));
    const { walletId } = payee;
    const rejection: Rejection = { code: "wallet_already_exists", walletId };
    const commandId = unique("command");
    writes.rejections.push({
      walletId,
      commandId,
      fingerprint: "input",
      isIdProposed: false,
      rejection,
    });
    writes.lookups.push({ walletId, commandId });
    const received = putReceipt(writes, kept, payee);
    const { version: toVersion } = received;
    writes.settled.push({ ...kept, status: "posted", toVersion, settledAtMs: NOW_MS + 1 });
    putReturn(writes, returned, await walletNow(payer.walletId));
    expect(await journal.append(writes)).toEqual({ type: "committed" });

    // Then all of it is there, and the books are in order
    const missingId = unique("w");
    const { wallets: states } = await journal.loadWallets([newId, walletId, missingId]);
    expect(Object.fromEntries([...states].map(([id, { state }]) => [id, state]))).toEqual({
      [newId]: created,
      [walletId]: received,
      [missingId]: null,
    });
    expect(await journal.loadPendingTransfers([shard])).toEqual([]);
    const sql = "SELECT rejection FROM rejections WHERE command_id = $1";
    expect(await database.query(sql, [commandId])).toEqual([{ rejection }]);
    await checkBooks(database);
  });

  it("keeps texts of every kind to the letter", async () => {
    const texts = [
      "quotes \" and ' and `",
      'back\\slashes \\" \\n \\',
      "a backslash \\ alone",
      "line\nbreaks\r\n\tand tabs",
      "emoji 🪙💶 and Ünïcödé, العربية",
      "{",
      "}",
      "{}",
      "NULL",
      "null",
      '"NULL"',
      "a,b",
      "",
      " ",
      "$1; DROP TABLE events; --",
      "\u0001\u001f\u007f",
    ];
    const wallet = await openWallet();
    const writes = draft();
    let state: WalletState | null = wallet;
    const sent = texts.map((text) => {
      const metadata = JSON.stringify({ text, [`key ${text}`]: [text, null] });
      const commandId = `${text} ${unique("command")}`;
      const rest = { description: text, fingerprint: text, correlationId: text, causationId: text };
      put(writes, wallet.walletId, credited(1), { ...rest, metadata, commandId }, state);
      state = null;
      return { ...rest, commandId, metadata: JSON.parse(metadata) as object };
    });

    expect(await journal.append(writes)).toEqual({ type: "committed" });

    const rows = await database.query(
      `SELECT description, fingerprint, correlation_id AS "correlationId", causation_id AS "causationId",
              command_id AS "commandId", data->'metadata' AS metadata
       FROM events WHERE wallet_id = $1 AND version > 1 ORDER BY version`,
      [wallet.walletId],
    );
    expect(rows).toEqual(sent);
    // And in what is written by other ways: a transfer, a rejection, a creation
    const all = texts.join();
    const { walletId } = wallet;
    const current = await walletNow(walletId);
    const transfer = { ...transferBetween(current, unique("w"), 1), description: all };
    const commandId = unique("command");
    const again = creditOf(current, commandId);
    const others = reserveOf(current, transfer);
    const rejection: Rejection = { code: "idempotency_conflict", commandId: all };
    others.rejections.push({
      walletId,
      commandId,
      fingerprint: null,
      isIdProposed: false,
      rejection,
    });
    const newId = unique("w");
    put(others, newId, { ...CREATED, ownerId: all });
    expect(await journal.append(others)).toEqual({ type: "committed" });
    expect(await journal.loadPendingTransfers([shardOf(walletId)])).toEqual([transfer]);
    expect((await walletNow(newId)).ownerId).toBe(all);
    expect(await journal.append(again)).toMatchObject({ commands: [{ rejection }] });
    await giveBack(transfer);
  });

  it("is on its way before whoever appends goes on, over a connection that is there", async () => {
    const wallet = await openWallet();
    const written = vi.spyOn(Duplex.prototype, "write");
    onTestFinished(() => written.mockRestore());
    const answer = journal.append(creditOf(wallet));
    // Whatever else runs in this turn of the loop, the database need not wait for it.
    expect(written).toHaveBeenCalled();
    expect(await answer).toEqual({ type: "committed" });
  });

  it("changes the metadata of a wallet that has nothing but its creation", async () => {
    const created = draft();
    const walletId = unique("w");
    const state = put(created, walletId, CREATED);
    expect(await journal.append(created)).toEqual({ type: "committed" });
    const writes = draft();
    put(writes, walletId, metadataChanged('{"tier": "none"}'), {}, state);
    expect(await journal.append(writes)).toEqual({ type: "committed" });
    expect(await walletNow(walletId)).toMatchObject({ version: 1, metadata: '{"tier": "none"}' });
  });

  it("keeps numbers up to the bound exactly", async () => {
    const largest = 999_999_999_999_999;
    const wallet = await openWallet(largest - 1);
    expect(await journal.append(creditOf(wallet))).toEqual({ type: "committed" });
    const state = await walletNow(wallet.walletId);
    expect(state).toMatchObject({ balanceMinor: largest, version: 2, createdAtMs: NOW_MS });
    const rows = await database.query(
      "SELECT balance::text, amount::text FROM events WHERE wallet_id = $1 AND version > 0 ORDER BY version",
      [wallet.walletId],
    );
    expect(rows).toEqual([
      { balance: "999999999999998", amount: "999999999999998" },
      { balance: "999999999999999", amount: "1" },
    ]);
  });
});

// --- Who may write -------------------------------------------------------------------------------

describe("the fence", () => {
  it.each([1, 47, 48, 200])("names what was superseded of %i shards", async (count) => {
    const wallets: WalletState[] = [];
    const writes = draft();
    for (const shard of ALL_SHARDS.slice(0, count)) {
      wallets.push(putWallet(writes, idIn([shard]), 5, unique("command")));
    }
    expect(await journal.append(writes)).toEqual({ type: "committed" });
    const again = draft();
    for (const wallet of wallets) put(again, wallet.walletId, credited(1), {}, wallet);

    // When another one of this owner's journals has claimed the last of them
    const last = count - 1;
    const raised = await journalFor(database.url).claim(OWNER, [last]);
    expect(await journal.append(again)).toEqual({ type: "fenced", shards: [last] });

    // Then under its new epoch nothing stands in the way
    epochs = new Map([...epochs, ...raised]);
    again.fence.set(last, raised.get(last)!);
    expect(await journal.append(again)).toEqual({ type: "committed" });
  });

  it.each([1, 200])(
    "is none where it names an epoch that nobody has, of %i shards",
    async (count) => {
      const wallet = await openWallet();
      const writes = creditOf(wallet);
      for (const shard of ALL_SHARDS.slice(0, count)) writes.fence.set(shard, epochs.get(shard)!);
      writes.fence.set(shardOf(wallet.walletId), 0);
      await writingNothing(() => expect(journal.append(writes)).rejects.toThrow(/no shard has/));
    },
  );

  it("race: an append that waits for a claim which fails is committed", async () => {
    const wallet = await openWallet();
    const claim = await holdLock();
    await claim.query("UPDATE shards SET epoch = epoch + 1");
    const append = journal.append(creditOf(wallet));
    await untilWaiting();
    await claim.query("ROLLBACK");
    expect(await append).toEqual({ type: "committed" });
  });
});

function journalFor(url: string): Journal {
  const built = buildPostgresJournal(url);
  onTestFinished(() => built.close());
  return built;
}

describe("the place of an event among those of its shard", () => {
  async function places(walletId: string): Promise<number[]> {
    const sql = "SELECT position FROM events WHERE wallet_id = $1 ORDER BY version";
    const rows = await database.query<{ position: number }>(sql, [walletId]);
    return rows.map(({ position }) => position);
  }

  it("is counted on without a gap by whoever holds the shard", async () => {
    const first = await openWallet();
    const start = (await places(first.walletId))[1]!;
    const walletId = idIn([shardOf(first.walletId)]);

    // Given one more by this owner, and then another owner
    let state = put(draft(), first.walletId, credited(1), {}, first);
    expect(await journal.append(creditOf(first))).toEqual({ type: "committed" });
    const successor = journalFor(database.url);
    epochs = await successor.claim(OWNER, ALL_SHARDS);

    // When the next one writes several of two wallets of the shard in one commit
    const writes = draft();
    putWallet(writes, walletId, 5, unique("command"));
    state = put(writes, first.walletId, credited(1), {}, state);
    put(writes, first.walletId, credited(1));
    expect(await successor.append(writes)).toEqual({ type: "committed" });

    // Then each has the next place
    expect(await places(walletId)).toEqual([start + 2, start + 3]);
    expect((await places(first.walletId)).slice(2)).toEqual([start + 1, start + 4, start + 5]);

    // And who counted before, and comes back without a claim, is refused once and then counts right
    const late = creditOf(await walletNow(first.walletId));
    expect(await journal.append(late)).toMatchObject({ type: "stale" });
    expect(await journal.append(late)).toEqual({ type: "committed" });
    expect((await places(first.walletId)).at(-1)).toBe(start + 6);
    await checkBooks(database);
  });
});

describe("the tables themselves", () => {
  it.each([
    "UPDATE events SET amount = amount + 1",
    "DELETE FROM events WHERE version = 0",
    "TRUNCATE events",
    "UPDATE transfer_verdicts SET to_wallet = 'other'",
    "DELETE FROM transfer_verdicts",
    "TRUNCATE transfer_verdicts",
  ])("are append-only: %s is refused", async (sql) => {
    await giveBack(await reserved());
    await writingNothing(() => expect(database.query(sql)).rejects.toThrow(/append-only/));
  });

  const INSERT_EVENT = `
    INSERT INTO events (wallet_id, version, type, balance, held, status, occurred_at, correlation_id, amount, account,
                        shard, position)
    VALUES ('checked', $1, 'WalletCredited', $2, $3, 'ACTIVE', now(), '', $4, $5, 0, 1000000000)`;
  it.each([
    ["a negative version", [-1, 0, 0, 1, "system:world"]],
    ["a negative balance", [1, -1, 0, 1, "system:world"]],
    ["a balance of 10^15", [1, "1000000000000000", 0, 1, "system:world"]],
    ["more held than the balance", [1, 5, 6, 1, "system:world"]],
    ["an amount of 10^15", [1, 0, 0, "1000000000000000", "system:world"]],
    ["an amount below zero", [1, 0, 0, -1, "system:world"]],
    ["an amount without the other side", [1, 0, 0, 1, null]],
  ])("refuse an event with %s", async (_what, values) => {
    await expect(database.query(INSERT_EVENT, values)).rejects.toThrow(/violates check constraint/);
  });

  it.each([
    "balance = -1",
    "balance = 1000000000000000",
    "held = balance + 1",
    "status = 'FROZEN'",
    "status = 'CLOSED'",
    "version = -1",
    "decimal_places = 10",
  ])("refuse a wallet with %s", async (assignment) => {
    const { walletId } = await openWallet();
    const sql = `UPDATE wallets SET ${assignment} WHERE wallet_id = $1`;
    await expect(database.query(sql, [walletId])).rejects.toThrow(/violates check constraint/);
  });

  it.each([
    "to_wallet = from_wallet",
    "amount = 0",
    "status = 'lost'",
    "status = 'posted'",
    "status = 'returned'",
    "settled_at = now()",
    "status = 'posted', settled_at = now(), to_version = 1, rejection = '{}'",
  ])("refuse a pending transfer with %s", async (assignment) => {
    const transfer = await reserved();
    const sql = `UPDATE transfers SET ${assignment} WHERE transfer_id = $1`;
    await expect(database.query(sql, [transfer.transferId])).rejects.toThrow(/check constraint/);
    await giveBack(transfer);
  });

  it("refuse a verdict that is both or neither, and a second one", async () => {
    const sql = `INSERT INTO transfer_verdicts VALUES ('verdict', 'w', $1, $2, now())`;
    await expect(database.query(sql, [1, "{}"])).rejects.toThrow(/check constraint/);
    await expect(database.query(sql, [null, null])).rejects.toThrow(/check constraint/);
    const session = await database.session();
    await session.query("BEGIN");
    await session.query(sql, [1, null]);
    await expect(session.query(sql, [null, "{}"])).rejects.toThrow(/duplicate key/);
    await session.query("ROLLBACK");
  });

  it("show in the trial balance that a wallet was changed behind the journal's back", async () => {
    const { walletId } = await openWallet(500);
    const sum = "SELECT sum(balance) FROM trial_balance";
    expect(await database.query(sum)).toEqual([{ sum: 0 }]);
    const change = "UPDATE wallets SET balance = balance + $2 WHERE wallet_id = $1";
    await database.query(change, [walletId, 1]);
    expect(await database.query(sum)).toEqual([{ sum: 1 }]);
    await expect(checkBooks(database)).rejects.toThrow();
    await database.query(change, [walletId, -1]);
    expect(await database.query(sum)).toEqual([{ sum: 0 }]);
  });
});

// --- A database that fails -----------------------------------------------------------------------

describe("when the database fails", () => {
  it("does not know the outcome when its connection is ended during the append, and goes on with another", async () => {
    const wallet = await openWallet();
    const held = await holdLock();
    const append = journal.append(creditOf(wallet));
    await untilWaiting();
    await database.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
       WHERE datname = current_database() AND application_name = 'coffer-writer' AND wait_event_type = 'Lock'`,
    );
    expect(await append).toMatchObject({ type: "unknown" });
    await held.query("ROLLBACK");
    expect(await versionOf(wallet.walletId)).toBe(wallet.version);
    expect(await journal.append(creditOf(wallet))).toEqual({ type: "committed" });
  });

  it("goes on after its connections were ended while idle", async () => {
    const wallet = await openWallet();
    await database.query(
      `SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity
       WHERE datname = current_database() AND application_name LIKE 'coffer-%'`,
    );
    await delay(20);
    expect(await journal.append(creditOf(wallet))).toEqual({ type: "committed" });
    expect(await versionOf(wallet.walletId)).toBe(wallet.version + 1);
  });

  it("has written nothing when the append is cancelled, and may try again", async () => {
    const wallet = await openWallet();
    const held = await holdLock();
    const append = journal.append(creditOf(wallet));
    await untilWaiting();
    await database.query(
      `SELECT pg_cancel_backend(pid) FROM pg_stat_activity
       WHERE datname = current_database() AND application_name = 'coffer-writer' AND wait_event_type = 'Lock'`,
    );
    expect(await append).toMatchObject({ type: "refused" });
    await held.query("ROLLBACK");
    expect(await versionOf(wallet.walletId)).toBe(wallet.version);
  });

  it("ends a statement by its bound, and has written nothing", async () => {
    withLimits({ journalStatementMs: 200 });
    const bounded = journalFor(database.url);
    const wallet = await openWallet();
    const held = await holdLock();
    const result = await bounded.append(creditOf(wallet));
    expect(result).toMatchObject({ type: "refused" });
    await held.query("ROLLBACK");
    await delay(50);
    expect(await versionOf(wallet.walletId)).toBe(wallet.version);
    expect(await bounded.append(creditOf(wallet))).toEqual({ type: "committed" });
  });

  it("refuses when nobody listens there", async () => {
    const wallet = await openWallet();
    const away = journalFor("postgres://coffer:secret@127.0.0.1:1/coffer");
    expect(await away.append(creditOf(wallet))).toMatchObject({ type: "refused" });
    await expect(away.claim(OWNER, [1])).rejects.toThrow(/ECONNREFUSED/);
  });

  it.each([
    ["the connection is cut", true],
    ["the server falls silent", false],
  ])("does not know the outcome when it commits and %s before it says so", async (_what, cut) => {
    withLimits({ journalStatementMs: 300, journalConnectMs: 300 });
    const wire = await wireTap(database.url);
    const tapped = journalFor(wire.url);
    const wallet = await openWallet();
    const commandId = unique("command");
    const other = await openWallet();
    epochs = await tapped.claim(OWNER, ALL_SHARDS);
    expect(await tapped.append(creditOf(other))).toEqual({ type: "committed" });

    wire[cut ? "cutsAnswers" : "isDeaf"] = true;
    const result = await tapped.append(creditOf(wallet, commandId));

    // Then only the journal can tell, and it does: the append is there
    expect(result).toMatchObject({ type: "unknown" });
    wire.isDeaf = wire.cutsAnswers = false;
    await tapped.claim(OWNER, ALL_SHARDS).then((claimed) => (epochs = claimed));
    expect(await versionOf(wallet.walletId)).toBe(wallet.version + 1);
    const again = await tapped.append(creditOf(wallet, commandId));
    expect(again).toMatchObject({ type: "known", commands: [{ commandId, version: 2 }] });
  });
});
