/**
 * Appends behind one another on a real PostgreSQL that fails in the middle: connections that end,
 * statements that are cut short, answers that never arrive. Whatever the journal says afterwards,
 * the second one is never there without the first, and nobody is told "committed" of what is not.
 * What holds of every journal is in journal-behind.contract.test.ts.
 */
import { setImmediate as turn, setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from "vitest";
import type { Journal } from "../src/core/journal.ts";
import { LIMITS } from "../src/limits.ts";
import { buildPostgresJournal } from "../src/postgres/journal.ts";
import { buildPostgresShardTable } from "../src/postgres/shard-table.ts";
import { ALL_SHARDS, shardOf } from "../src/core/shard.ts";
import type { WalletState } from "../src/core/wallet.ts";
import { checkBooks, openDatabase, type TestDatabase } from "./stage/audited-database.ts";
import { idIn, unique } from "./stage/ids.ts";
import {
  appendAll,
  beginAll,
  creditDraft,
  creditDrafts,
  draft,
  metadataDraft,
  orderBehind,
  putCredit,
  putWallet,
  rejectionDraft,
  type Draft,
} from "./stage/journal-drafts.ts";
import { COMMITTED, lockWallet, OWNER, STALLED_WRITERS, UNDONE, WRITERS } from "./stage/journal.ts";
import { wireTap } from "./stage/wire-tap.ts";

const UNKNOWN = { type: "unknown" };
const REFUSED = { type: "refused" };

let database: TestDatabase;
let journal: Journal;
let epochs: Map<number, number>;

beforeAll(async () => {
  database = await openDatabase("journal_behind_test");
  const shardTable = buildPostgresShardTable([database.url]);
  await shardTable.take(OWNER, new Map(ALL_SHARDS.map((shard) => [shard, null])));
  await shardTable.close();
});

afterAll(() => database.close());

beforeEach(async () => {
  journal = journalAt(database.url);
  epochs = await journal.claim(OWNER, ALL_SHARDS);
  return () => checkBooks(database);
});

function journalAt(url: string): Journal {
  const built = buildPostgresJournal(url);
  onTestFinished(() => built.close());
  return built;
}

/** The server ends its statements by another bound; for what goes wrong, not for a look at it. */
function boundedJournal(
  journalStatementMs: number,
  journalConnectMs: number,
  url: string,
): Journal {
  const usual = { ...LIMITS };
  Object.assign(LIMITS, { journalStatementMs, journalConnectMs });
  try {
    return journalAt(url);
  } finally {
    Object.assign(LIMITS, usual);
  }
}

// --- Writing -------------------------------------------------------------------------------------

/** Two wallets of one shard, the last ones there. */
async function openTwo(): Promise<[WalletState, WalletState]> {
  const shard = shardOf(idIn(ALL_SHARDS));
  const [first, second] = [draft(epochs), draft(epochs)];
  const one = putWallet(first, idIn([shard]), 10_000, unique("command"));
  const two = putWallet(second, idIn([shard]), 10_000, unique("command"));
  expect(await appendAll(journal, first, second)).toEqual([COMMITTED, COMMITTED]);
  return [one, two];
}

const creditOf = (state: WalletState, commandId?: string): Draft =>
  creditDraft(epochs, state, 1, commandId);

const rejectionOf = ({ walletId }: WalletState): Draft => rejectionDraft(epochs, walletId);

// --- What is there -------------------------------------------------------------------------------

async function now({ walletId }: WalletState): Promise<WalletState> {
  return (await journal.loadWallets([walletId])).wallets.get(walletId)!.state!;
}

async function versions(...wallets: readonly WalletState[]): Promise<number[]> {
  return (await Promise.all(wallets.map(now))).map(({ version }) => version);
}

async function rejectionsOf({ walletId }: WalletState): Promise<number> {
  const sql = "SELECT FROM rejections WHERE wallet_id = $1";
  return (await database.query(sql, [walletId])).length;
}

/** Looks at the journal as a lane does that does not know what became of its commits. */
async function claimAgain(): Promise<void> {
  epochs = await journal.claim(OWNER, ALL_SHARDS);
}

/** Two more credits of each wallet are committed, begun at once, and their shard has no gap. */
async function expectToGoOn(...wallets: readonly WalletState[]): Promise<void> {
  for (const wallet of wallets) {
    const both = creditDrafts(epochs, await now(wallet), 2);
    expect(await appendAll(journal, ...both)).toEqual([COMMITTED, COMMITTED]);
  }
  const [row] = await database.query<{ count: number; span: number }>(
    "SELECT count(*), max(position) - min(position) + 1 AS span FROM events WHERE shard = $1",
    [shardOf(wallets[0]!.walletId)],
  );
  expect(row!.span).toBe(row!.count);
}

// --- Faults --------------------------------------------------------------------------------------

const stall = ({ walletId }: WalletState) => lockWallet(database, walletId);

async function untilStalled(): Promise<void> {
  const sql = `SELECT count(*) FROM pg_stat_activity WHERE ${STALLED_WRITERS}`;
  await expect.poll(() => database.query(sql), { interval: 5 }).toEqual([{ count: 1 }]);
}

const CANCEL = `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE ${WRITERS}`;
const END = `SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE ${WRITERS}`;

/** Ends the connection in the middle of an append, so that the journal has noticed. */
async function loseConnection(wallet: WalletState): Promise<void> {
  const goOn = await stall(wallet);
  const lost = journal.append(creditOf(wallet));
  await untilStalled();
  await database.query(END);
  expect(await lost).toMatchObject(UNKNOWN);
  await goOn();
}

// --- The connection ends -------------------------------------------------------------------------

describe("when the connection ends while two appends are under way", () => {
  it("in the middle of the first: neither is told as committed, and neither is there", async () => {
    const [one, two] = await openTwo();
    const goOn = await stall(one);
    const appends = appendAll(journal, creditOf(one), creditOf(two), rejectionOf(two));
    await untilStalled();
    await database.query(END);
    expect(await appends).toMatchObject([UNKNOWN, UNKNOWN, UNKNOWN]);
    await goOn();
    await claimAgain();
    expect([...(await versions(one, two)), await rejectionsOf(two)]).toEqual([1, 1, 0]);
    await expectToGoOn(one, two);
  });

  it("in the middle of the second: the first is there", async () => {
    const [one, two] = await openTwo();
    const goOn = await stall(two);
    const appends = appendAll(journal, creditOf(one), creditOf(two), rejectionOf(one));
    await untilStalled();
    await database.query(END);
    expect(await appends).toMatchObject([COMMITTED, UNKNOWN, UNKNOWN]);
    await goOn();
    await claimAgain();
    expect([...(await versions(one, two)), await rejectionsOf(one)]).toEqual([2, 1, 0]);
    await expectToGoOn(one, two);
  });

  it("unheard, after the first: nobody knows, and the journal has the first alone", async () => {
    const [one, two] = await openTwo();
    const wire = await wireTap(database.url);
    journal = journalAt(wire.url);
    await claimAgain();
    expect(await journal.append(creditOf(one))).toEqual(COMMITTED);
    const goOn = await stall(two);
    const started = await now(one);
    wire.isDeaf = true;
    const appends = appendAll(journal, creditOf(started), creditOf(two), rejectionOf(two));
    await untilStalled();
    await database.query(END);
    expect(await appends).toMatchObject([UNKNOWN, UNKNOWN, UNKNOWN]);
    await goOn();
    wire.isDeaf = false;
    await claimAgain();
    expect([...(await versions(one, two)), await rejectionsOf(two)]).toEqual([3, 1, 0]);
    await expectToGoOn(one, two);
  });

  it("unheard, after both: nobody knows, and the journal has both", async () => {
    const [one, two] = await openTwo();
    const wire = await wireTap(database.url);
    const deaf = boundedJournal(1_000, 500, wire.url);
    expect(await deaf.append(creditOf(one))).toEqual(COMMITTED);
    const started = await now(one);
    wire.isDeaf = true;
    const [first, second] = [unique("command"), unique("command")];
    const both = [creditOf(started, first), creditOf(two, second)];
    expect(await appendAll(deaf, ...both)).toMatchObject([UNKNOWN, UNKNOWN]);
    await claimAgain();
    expect(await versions(one, two)).toEqual([3, 2]);
    // And who asks again under the same ids is told so
    const again = creditOf(await now(one), first);
    putCredit(again, await now(two), 1, second);
    expect(await journal.append(again)).toMatchObject({
      type: "known",
      commands: expect.arrayContaining([
        expect.objectContaining({ commandId: first, version: 3 }),
        expect.objectContaining({ commandId: second, version: 2 }),
      ]),
    });
    await expectToGoOn(one, two);
  });

  it("race: what begins once the first is told is not written over the next connection", async () => {
    // Given a first, and another one that is sent when its connection ends
    const [one, two] = await openTwo();
    const goOn = await stall(one);
    const first = orderBehind(null);
    const second = orderBehind(first);
    const lost = journal.append({ ...creditOf(one), order: first });
    await untilStalled();
    const ended = database.query(END);
    const behind = journal.append({ ...rejectionOf(two), order: second });
    // When one more begins as soon as the first is told, and another one when both are
    const third = lost.then(() =>
      journal.append({ ...rejectionOf(two), order: orderBehind(second) }),
    );
    expect(await Promise.all([lost, behind])).toMatchObject([UNKNOWN, UNKNOWN]);
    const fourth = await journal.append({ ...rejectionOf(two), order: orderBehind(second) });
    // Then they are written as little, and the new connection outlives the end of the old one
    expect(await third).toEqual(UNDONE);
    expect(fourth).toEqual(UNDONE);
    await ended;
    await goOn();
    await claimAgain();
    expect(await rejectionsOf(two)).toBe(0);
    await expectToGoOn(one, two);
  });
});

// --- The connection is being made ----------------------------------------------------------------

describe("while the connection is still being made", () => {
  it("for the first time: appends that begin at once keep their order", async () => {
    const [one, two] = await openTwo();
    journal = journalAt(database.url);
    await claimAgain();
    const answered: number[] = [];
    const begun = beginAll(journal, ...creditDrafts(epochs, one, 2), creditOf(two));
    for (const [index, append] of begun.entries()) void append.then(() => answered.push(index));
    expect(await Promise.all(begun)).toEqual([COMMITTED, COMMITTED, COMMITTED]);
    expect(answered).toEqual([0, 1, 2]);
    await expectToGoOn(one, two);
  });

  it("after a loss: appends that begin at once keep their order, and so do those of later turns", async () => {
    const [one, two] = await openTwo();
    await loseConnection(two);
    await claimAgain();
    const [first, second, third] = creditDrafts(epochs, one, 3) as [Draft, Draft, Draft];
    const before = orderBehind(null);
    const order = orderBehind(before);
    const begun = [
      journal.append({ ...first, order: before }),
      journal.append({ ...second, order }),
    ];
    await turn();
    begun.push(journal.append({ ...third, order: orderBehind(order) }));
    expect(await Promise.all(begun)).toEqual([COMMITTED, COMMITTED, COMMITTED]);
    expect(await versions(one, two)).toEqual([4, 1]);
    await expectToGoOn(one, two);
  });

  it("and nobody listens: none is written, and later ones are", async () => {
    const [one, two] = await openTwo();
    const away = journalAt("postgres://coffer:secret@127.0.0.1:1/coffer");
    const all = [creditOf(one), rejectionOf(two), creditOf(two)];
    expect(await appendAll(away, ...all)).toMatchObject([REFUSED, REFUSED, REFUSED]);
    await expectToGoOn(one, two);
  });

  it("and that fails for the first, but not for the second: that one is undone", async () => {
    const [one, two] = await openTwo();
    const wire = await wireTap(database.url);
    journal = journalAt(wire.url);
    await claimAgain();
    wire.cutsNext = true;
    const results = await appendAll(journal, creditOf(one), creditOf(two));
    expect(results).toMatchObject([REFUSED, UNDONE]);
    expect(await versions(one, two)).toEqual([1, 1]);
    await expectToGoOn(one, two);
  });

  it("or its places read again, as the one before was stale: both keep their order", async () => {
    const [one, two] = await openTwo();
    const successor = journalAt(database.url);
    epochs = await successor.claim(OWNER, ALL_SHARDS);
    const late = creditOf(one);
    expect(await successor.append(creditOf(one))).toEqual(COMMITTED);
    expect(await appendAll(journal, late, rejectionOf(two))).toMatchObject([
      { type: "stale" },
      UNDONE,
    ]);
    expect(await rejectionsOf(two)).toBe(0);
    await expectToGoOn(one, two);
  });
});

// --- A statement fails ---------------------------------------------------------------------------

describe("when the first of two is ended by the server", () => {
  it("as it was cancelled, the second is undone and nothing is written", async () => {
    const [one, two] = await openTwo();
    const goOn = await stall(one);
    const appends = appendAll(journal, creditOf(one), creditOf(two), rejectionOf(two));
    await untilStalled();
    await database.query(CANCEL);
    expect(await appends).toMatchObject([REFUSED, UNDONE, UNDONE]);
    await goOn();
    expect([...(await versions(one, two)), await rejectionsOf(two)]).toEqual([1, 1, 0]);
    await expectToGoOn(one, two);
  });

  it("what begins when the one before both is answered is undone with the second", async () => {
    const [one, two] = await openTwo();
    const goOn = await stall(two);
    const before = orderBehind(null);
    const order = orderBehind(before);
    const first = journal.append({ ...creditOf(one), order: before });
    const second = journal.append({ ...creditOf(two), order });
    expect(await first).toEqual(COMMITTED);
    const third = journal.append({ ...rejectionOf(one), order: orderBehind(order) });
    await untilStalled();
    await database.query(CANCEL);
    expect(await Promise.all([second, third])).toMatchObject([REFUSED, UNDONE]);
    await goOn();
    await expectToGoOn(one, two);
  });

  it("by its bound, the second is undone and nothing is written", async () => {
    const [one, two] = await openTwo();
    const bounded = boundedJournal(500, LIMITS.journalConnectMs, database.url);
    const goOn = await stall(one);
    const results = await appendAll(bounded, creditOf(one), creditOf(two));
    expect(results).toMatchObject([REFUSED, UNDONE]);
    await goOn();
    expect(await versions(one, two)).toEqual([1, 1]);
    await expectToGoOn(one, two);
  });

  it("before it is prepared, the second is refused and nothing is written", async () => {
    // Given a statement that this connection has not prepared, and a server that cannot yet
    const [one, two] = await openTwo();
    const session = await database.session();
    await session.query("BEGIN");
    await session.query("LOCK TABLE pg_proc IN ACCESS EXCLUSIVE MODE");
    onTestFinished(async () => void (await session.query("ROLLBACK")));
    const both = [metadataDraft(epochs, one), metadataDraft(epochs, two)];
    const appends = appendAll(journal, ...both);
    // When the first is cancelled there, the second has nothing to run
    const stalled = `SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE ${STALLED_WRITERS}`;
    const cancel = async (): Promise<unknown[]> => (await session.query(stalled)).rows;
    await expect.poll(cancel, { interval: 5 }).toHaveLength(1);
    const results = await appends;
    await session.query("ROLLBACK");
    expect(results).toMatchObject([
      { type: "refused", reason: expect.stringContaining("57014") },
      { type: "refused", reason: expect.stringContaining("26000") },
    ]);
    // Then both can be written afterwards
    expect(await versions(one, two)).toEqual([1, 1]);
    expect(await appendAll(journal, ...both)).toEqual([COMMITTED, COMMITTED]);
    await expectToGoOn(one, two);
  });
});

it("two that take long one after the other have the time of two", async () => {
  const [one, two] = await openTwo();
  const bounded = boundedJournal(3_000, 100, database.url);
  expect(await bounded.append(creditOf(one))).toEqual(COMMITTED);
  const [first, second] = [await stall(one), await stall(two)];
  const appends = appendAll(bounded, creditOf(await now(one)), creditOf(two));
  // Each is within its own bound, and both together take longer than one may
  for (const goOn of [first, second]) {
    await delay(1_600);
    await goOn();
  }
  expect(await appends).toEqual([COMMITTED, COMMITTED]);
});
