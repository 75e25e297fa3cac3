/**
 * The stage of the journal's contract: a journal with its shard table, PostgreSQL's or the
 * simulated one, a writer that owns every shard, another one beside it, and commits that a test
 * fills by hand.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, onTestFinished } from "vitest";
import type { Journal } from "../../src/journal.ts";
import type { ShardOwner } from "../../src/shard-table.ts";
import { ALL_SHARDS } from "../../src/shard.ts";
import type { Transfer } from "../../src/transfer.ts";
import type { WalletState } from "../../src/wallet.ts";
import { unique } from "./ids.ts";
import {
  draft,
  putCredit,
  putReserve,
  putWallet,
  transferBetween,
  type Draft,
} from "./journal-drafts.ts";
import { openPostgresGround, openSimulatedGround, type JournalGround } from "./journals.ts";

export const OWNER = "host-1";
export const COMMITTED = { type: "committed" };
export const STALE = { type: "stale" };

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

export function creditOf(state: WalletState, minor = 1, commandId = unique("command")): Draft {
  const writes = draft(epochs);
  putCredit(writes, state, minor, commandId);
  return writes;
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
