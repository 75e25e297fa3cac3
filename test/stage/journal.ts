/**
 * The stage of the journal's contract: a journal with its shard table, PostgreSQL's or the
 * simulated one, a writer that owns every shard, another one beside it, and commits that a test
 * fills by hand. Besides, what tests of appends behind one another share that look at PostgreSQL or
 * at a lane: rows that are locked, a wire to cut, commits that are held.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished } from "vitest";
import type { AppendResult, Journal, Writes } from "../../src/core/journal.ts";
import { buildPostgresJournal } from "../../src/postgres/journal.ts";
import type { ShardOwner } from "../../src/core/shard-table.ts";
import { ALL_SHARDS } from "../../src/core/shard.ts";
import type { Transfer } from "../../src/core/transfer.ts";
import type { WalletState } from "../../src/core/wallet.ts";
import type { TestDatabase } from "./audited-database.ts";
import { unique } from "./ids.ts";
import {
  creditDraft,
  creditDrafts,
  draft,
  putReserve,
  putWallet,
  transferBetween,
  type Draft,
} from "./journal-drafts.ts";
import { openPostgresGround, openSimulatedGround, type JournalGround } from "./journals.ts";
import type { JournalHooks } from "./lanes.ts";

export const OWNER = "host-1";
export const COMMITTED = { type: "committed" };
export const STALE = { type: "stale" };
export const UNDONE = { type: "undone" };

export let ground: JournalGround;
export let journal: Journal;
/** Of another lane. */
export let other: Journal;
/** What `OWNER` has claimed for the test. */
export let epochs: Map<number, number>;

/** The tests of a file, for each of the two journals. */
export function describeJournals(databaseName: string, tests: () => void): void {
  describe.each([
    ["PostgreSQL", () => openPostgresGround(databaseName)],
    ["the simulated database", openSimulatedGround],
  ])("%s", (_name, open) => {
    beforeAll(async () => {
      ground = await open();
      [journal, other] = [ground.journal(), ground.journal()];
    });

    afterAll(() => ground.close());

    beforeEach(async () => {
      await takeOver(OWNER, ALL_SHARDS);
      await claimAll();
    });

    tests();
  });
}

/** `OWNER` writes under new epochs from now on. */
export async function claimAll(by: Journal = journal): Promise<void> {
  epochs = await by.claim(OWNER, ALL_SHARDS);
}

export async function rowOf(shard: number): Promise<ShardOwner> {
  return (await ground.shardTable.read())[shard]!;
}

/** Makes it the owner of these shards, whoever has them. */
export async function takeOver(owner: string, shards: readonly number[]): Promise<void> {
  const rows = await ground.shardTable.read();
  const from = new Map(shards.map((shard) => [shard, rows[shard]!.owner]));
  expect(await ground.shardTable.take(owner, from)).toEqual(shards);
}

export async function commit(fill: (writes: Draft) => void): Promise<void> {
  const writes = draft(epochs);
  fill(writes);
  expect(await journal.append(writes)).toEqual(COMMITTED);
}

export async function openWallet(minor = 10_000, walletId = unique("w")): Promise<WalletState> {
  await commit((writes) => putWallet(writes, walletId, minor, unique("command")));
  return await walletNow(walletId);
}

export async function walletNow(walletId: string): Promise<WalletState> {
  return (await journal.loadWallets([walletId])).wallets.get(walletId)!.state!;
}

export function creditOf(state: WalletState, minor?: number, commandId?: string): Draft {
  return creditDraft(epochs, state, minor, commandId);
}

/** One credit after another, each in a draft of its own. */
export function creditsOf(wallet: WalletState, count: number): Draft[] {
  return creditDrafts(epochs, wallet, count);
}

/** A pending transfer of 1.00; to a wallet that does not exist, unless one is given. */
export async function reserved(payee?: WalletState): Promise<Transfer> {
  const payer = await openWallet();
  const transfer = transferBetween(payer, payee?.walletId ?? unique("w"), 100);
  await commit((writes) => putReserve(writes, payer, transfer));
  return transfer;
}

export async function writingNothing<T>(work: () => Promise<T>): Promise<T> {
  const before = await ground.counts();
  const result = await work();
  expect(await ground.counts()).toEqual(before);
  return result;
}

/**
 * Stops the next append to the wallet midway, until the returned function is called or the test
 * ends.
 */
export async function stall(walletId: string): Promise<() => Promise<void>> {
  const goOn = await ground.stall(walletId);
  onTestFinished(goOn);
  return goOn;
}

export async function until(counted: () => Promise<number>, count: number): Promise<void> {
  await expect.poll(counted, { interval: 5 }).toBe(count);
}

// --- Beside the contract: PostgreSQL from below --------------------------------------------------

export const WRITERS = "datname = current_database() AND application_name = 'coffer-writer'";
/** Appends that wait for a row. */
export const STALLED_WRITERS = `${WRITERS} AND wait_event_type = 'Lock'`;

/** The same as `stall`, on any database. */
export async function lockWallet(
  database: TestDatabase,
  walletId: string,
): Promise<() => Promise<void>> {
  const session = await database.session();
  await session.query("BEGIN");
  await session.query("SELECT FROM wallets WHERE wallet_id = $1 FOR UPDATE", [walletId]);
  const goOn = async (): Promise<void> => void (await session.query("ROLLBACK"));
  onTestFinished(goOn);
  return goOn;
}

/** Another writer's commit, made under whatever epochs the shards have. */
export async function appendElsewhere(
  database: TestDatabase,
  fill: (writes: Draft) => unknown,
): Promise<void> {
  const rows = await database.query<{ shard: number; epoch: number }>("SELECT * FROM shards");
  const writes = draft(new Map(rows.map(({ shard, epoch }) => [shard, epoch])));
  fill(writes);
  const elsewhere = buildPostgresJournal(database.url);
  expect(await elsewhere.append(writes)).toEqual(COMMITTED);
  await elsewhere.close();
}

// --- Beside the contract: commits that wait for the test -----------------------------------------

export type Failure = "refused" | "stale" | "unknown" | "undone" | "known";

function failure(type: Failure): AppendResult {
  switch (type) {
    case "undone":
      return { type };
    case "known":
      return { type, commands: [], verdicts: [] };
    default:
      return { type, reason: "staged" };
  }
}

export type HeldCommits = ReturnType<typeof holdAppends>;

/** Holds what a lane sends; `quiet` waits until it has nothing more to do. */
export function holdAppends(hooks: JournalHooks, quiet: () => Promise<void>) {
  type Held = {
    writes: Writes;
    apply: () => Promise<AppendResult>;
    answer: (_: AppendResult) => void;
  };
  const waiting: Held[] = [];
  hooks.append = (writes, apply) =>
    new Promise((answer) => void waiting.push({ writes, apply, answer }));

  async function written(count: number): Promise<void> {
    for (const { apply } of waiting.slice(0, count)) {
      expect(await apply()).toEqual({ type: "committed" });
    }
  }

  return {
    /** How many messages' outcomes are in each of the commits that wait, oldest first. */
    get sizes() {
      return waiting.map(({ writes }) => writes.events.length + writes.rejections.length);
    },
    /** The oldest one is committed. */
    async pass(): Promise<void> {
      await written(1);
      waiting.shift()!.answer({ type: "committed" });
      await quiet();
    },
    /** The oldest one fails, and what is behind it with it. */
    async fail(type: Failure, count: number): Promise<void> {
      await written(count);
      const [first, ...rest] = waiting.splice(0);
      first!.answer(failure(type));
      await quiet();
      // They are nobody's any more, and the lane may have sent others meanwhile.
      const behind = failure(type === "unknown" ? type : "undone");
      for (const { answer } of rest) answer(behind);
      await quiet();
    },
    /** All are committed, and the answers arrive last one first. */
    async passBackwards(look: () => void): Promise<void> {
      await written(waiting.length);
      for (const { answer } of waiting.splice(0).toReversed()) {
        answer({ type: "committed" });
        await quiet();
        look();
      }
    },
    /** The journal has its way from now on. */
    async open(): Promise<void> {
      delete hooks.append;
      for (const { apply, answer } of waiting.splice(0)) void apply().then(answer);
      await quiet();
    },
  };
}
