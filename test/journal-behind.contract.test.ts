/**
 * What every journal owes to an append that begins while another one is under way, asked of
 * PostgreSQL and of the simulated one: it may build on what the first one writes, it is committed
 * after it, and never without it. Who begins an append says which one it is behind. Here up to three
 * are under way at once, although a lane has two: nothing in the port depends on the number.
 */
import { setImmediate as turn } from "node:timers/promises";
import { describe, expect, it } from "vitest";
import { shardOf } from "../src/core/shard.ts";
import type { WalletState } from "../src/core/wallet.ts";
import { EVEN, idIn, ODD, unique } from "./stage/ids.ts";
import {
  appendAll,
  beginAll,
  credited,
  draft,
  orderBehind,
  put,
  putCredit,
  putRefusal,
  putRejection,
  putReserve,
  putReturn,
  putWallet,
  transferBetween,
  type Draft,
} from "./stage/journal-drafts.ts";
import {
  claimAll,
  COMMITTED,
  creditOf,
  creditsOf,
  describeJournals,
  epochs,
  ground,
  journal,
  openWallet,
  other,
  stall,
  takeOver,
  UNDONE,
  until,
  walletNow,
  writingNothing,
} from "./stage/journal.ts";

/** Nothing of this process happens meanwhile, and answers of the server lie in the socket. */
function standStill(): void {
  const endMs = Date.now() + 200;
  while (Date.now() < endMs);
}

/** Wallets that live in one shard and are the last ones there. */
async function openTogether(count: number, shards: readonly number[]): Promise<WalletState[]> {
  const shard = shardOf(idIn(shards));
  const wallets: WalletState[] = [];
  while (wallets.length < count) wallets.push(await openWallet(10_000, idIn([shard])));
  return wallets;
}

/** Expects the places of all their events to follow each other without a gap. */
async function expectNoGap(wallets: readonly WalletState[]): Promise<void> {
  const all: number[] = [];
  for (const { walletId } of wallets) all.push(...(await ground.places(walletId)));
  all.sort((one, two) => one - two);
  expect(all).toEqual(all.map((_, index) => all[0]! + index));
}

/** A credit with an answer of its own that is not "committed", for each way to fail. */
type Fail = (wallet: WalletState) => Promise<Draft>;
const FAILING: Array<[string, Fail]> = [
  [
    "known",
    async (wallet) => {
      const commandId = unique("command");
      expect(await journal.append(creditOf(wallet, 1, commandId))).toEqual(COMMITTED);
      return creditOf(await walletNow(wallet.walletId), 1, commandId);
    },
  ],
  [
    "stale",
    async (wallet) => {
      expect(await journal.append(creditOf(wallet))).toEqual(COMMITTED);
      return creditOf(wallet);
    },
  ],
  [
    "fenced",
    async (wallet) => {
      await takeOver("host-2", [shardOf(wallet.walletId)]);
      return creditOf(wallet);
    },
  ],
];

/** Writes that nothing but the order protects: they build on no state of what is before them. */
type Fill = (writes: Draft, wallet: WalletState) => unknown;
const INDEPENDENT: Array<[string, Fill]> = [
  ["a credit of another wallet", (writes, wallet) => putCredit(writes, wallet, 1)],
  ["a rejection", (writes, { walletId }) => putRejection(writes, walletId, unique("command"))],
  [
    "a creation",
    (writes, { walletId }) => putWallet(writes, idIn([shardOf(walletId)]), 1, unique("command")),
  ],
];

describeJournals("journal_behind_contract", () => {
  // ---- what goes well ----

  describe("appends that begin at once", () => {
    it.each([2, 3])(
      "are all committed, in order, where each builds on the one before: %i",
      async (count) => {
        const [wallet, last] = await openTogether(2, EVEN);
        const answered: number[] = [];
        const begun = beginAll(journal, ...creditsOf(wallet!, count));
        for (const [index, append] of begun.entries()) void append.then(() => answered.push(index));
        expect(await Promise.all(begun)).toEqual(begun.map(() => COMMITTED));
        expect(answered).toEqual([...Array(count).keys()]);
        expect(await walletNow(wallet!.walletId)).toMatchObject({
          version: 1 + count,
          balanceMinor: 10_000 + count,
        });
        // And what comes later goes on behind the last of them
        expect(await journal.append(creditOf(last!))).toEqual(COMMITTED);
        await expectNoGap([wallet!, last!]);
        expect((await ground.places(last!.walletId)).at(-1)).toBe(
          (await ground.places(wallet!.walletId)).at(-1)! + 1,
        );
      },
    );

    it("of several wallets of one shard get places without a gap, in the order of the appends", async () => {
      const wallets = await openTogether(3, EVEN);
      const [one, two, three] = wallets as [WalletState, WalletState, WalletState];
      const second = draft(epochs);
      putCredit(second, three, 1);
      put(second, three.walletId, credited(2));
      putCredit(second, two, 1);
      expect(
        await appendAll(journal, creditOf(one), second, ...creditsOf({ ...one, version: 2 }, 1)),
      ).toEqual([COMMITTED, COMMITTED, COMMITTED]);
      await expectNoGap(wallets);
      const first = (await ground.places(one.walletId))[2]!;
      expect(await ground.places(one.walletId)).toContain(first + 4);
      expect((await ground.places(three.walletId)).slice(2)).toEqual([first + 1, first + 2]);
      expect((await ground.places(two.walletId)).slice(2)).toEqual([first + 3]);
    });

    it("may build on all that is written before them: a new wallet, a transfer, an outcome", async () => {
      // Given one that makes a wallet and reserves the money of a transfer
      const [payer, commandId] = [await openWallet(), unique("command")];
      const [first, second, third] = [draft(epochs), draft(epochs), draft(epochs)];
      const transfer = transferBetween(payer, unique("w"), 100);
      const created = putWallet(first, unique("w"), 5, commandId);
      const sent = putReserve(first, payer, transfer);
      // When one behind it credits the wallet and gives the money back, and another one creates it
      // again
      putCredit(second, created, 1);
      putRefusal(second, transfer);
      putReturn(second, transfer, sent);
      putRejection(third, created.walletId, commandId);
      const results = await appendAll(journal, first, second, third);
      // Then they find what they need
      expect(results.slice(0, 2)).toEqual([COMMITTED, COMMITTED]);
      expect(results[2]).toMatchObject({ type: "known", commands: [{ commandId, version: 1 }] });
      expect(await walletNow(created.walletId)).toMatchObject({ version: 2, balanceMinor: 6 });
      expect(await walletNow(payer.walletId)).toMatchObject({ version: 3, balanceMinor: 10_000 });
    });

    it("race: the second one waits for the first, however long that takes", async () => {
      const [slow, quick] = [await openWallet(), await openWallet()];
      const goOn = await stall(slow.walletId);
      const answered: string[] = [];
      const [first, second] = beginAll(journal, creditOf(slow), creditOf(quick));
      void first!.then(() => answered.push("first"));
      void second!.then(() => answered.push("second"));
      await until(ground.stalled, 1);
      expect(answered).toEqual([]);
      expect(await walletNow(quick.walletId)).toEqual(quick);
      await goOn();
      expect(await Promise.all([first, second])).toEqual([COMMITTED, COMMITTED]);
      expect(answered).toEqual(["first", "second"]);
    });
  });

  describe("what an append names as the one in front of it", () => {
    it("may be answered already, if nothing was written since", async () => {
      const wallets = await openTogether(2, EVEN);
      const [one, two] = wallets as [WalletState, WalletState];
      const first = orderBehind(null);
      expect(await journal.append({ ...creditOf(one), order: first })).toEqual(COMMITTED);
      expect(await journal.append({ ...creditOf(two), order: orderBehind(first) })).toEqual(
        COMMITTED,
      );
      await expectNoGap(wallets);
    });

    it("has to be the last that wrote here, or it is undone and writes nothing", async () => {
      const [one, two] = await openTogether(2, EVEN);
      const first = orderBehind(null);
      expect(await journal.append({ ...creditOf(one!), order: first })).toEqual(COMMITTED);
      expect(await journal.append({ ...creditOf(two!), order: orderBehind(null) })).toEqual(
        COMMITTED,
      );
      const now = await walletNow(one!.walletId);
      const late = () => journal.append({ ...creditOf(now), order: orderBehind(first) });
      expect(await writingNothing(late)).toEqual(UNDONE);
      // And one apart from all others counts as well
      const last = orderBehind(null);
      expect(await journal.append({ ...creditOf(now), order: last })).toEqual(COMMITTED);
      expect(await journal.append(creditOf(await walletNow(two!.walletId)))).toEqual(COMMITTED);
      const behindLast = creditOf(await walletNow(one!.walletId));
      const later = () => journal.append({ ...behindLast, order: orderBehind(last) });
      expect(await writingNothing(later)).toEqual(UNDONE);
    });

    it("has to be of the same lane", async () => {
      const [one, two] = [await openWallet(10_000, idIn(EVEN)), await openWallet()];
      const first = orderBehind(null);
      expect(await other.append({ ...creditOf(one), order: first })).toEqual(COMMITTED);
      const behind = () => journal.append({ ...creditOf(two), order: orderBehind(first) });
      expect(await writingNothing(behind)).toEqual(UNDONE);
    });
  });

  // ---- the first one fails ----

  describe.each(FAILING)("when the first one is %s", (type, fail) => {
    it.each(INDEPENDENT)("%s behind it is undone, and nothing is written", async (_what, fill) => {
      // Given one that fails, although a bystander in it could be written
      const failing = await openWallet(10_000, idIn(EVEN));
      const first = await fail(failing);
      const wallets = await openTogether(2, ODD);
      const [bystander, behind] = wallets as [WalletState, WalletState];
      putCredit(first, bystander, 1);
      const second = draft(epochs);
      fill(second, behind);
      // When the other begins at once
      const results = await writingNothing(() => appendAll(journal, first, second));
      // Then neither is there, and what is next has the next places, also the same again
      expect(results).toMatchObject([{ type }, UNDONE]);
      expect(await journal.append(creditOf(bystander))).toEqual(COMMITTED);
      expect(await journal.append(second)).toEqual(COMMITTED);
      const now = await walletNow(behind.walletId);
      expect(await journal.append(creditOf(now))).toEqual(COMMITTED);
      const ids = second.events.map(({ walletId }) => walletId);
      const all = [...new Set([...wallets.map(({ walletId }) => walletId), ...ids])];
      await expectNoGap(await Promise.all(all.map(walletNow)));
    });

    it("nothing that builds on it is written, nor what is behind that", async () => {
      const failing = await openWallet(10_000, idIn(EVEN));
      const first = await fail(failing);
      const wallets = await openTogether(2, ODD);
      const [shared, last] = wallets as [WalletState, WalletState];
      const middle = draft(epochs);
      putCredit(middle, putCredit(first, shared, 1), 1);
      const appends = [first, middle, creditOf(last)];
      const results = await writingNothing(() => appendAll(journal, ...appends));
      expect(results).toMatchObject([{ type }, ...appends.slice(1).map(() => UNDONE)]);
      // And the next ones may begin at once again
      expect(await appendAll(journal, ...creditsOf(shared, 2), creditOf(last))).toEqual([
        COMMITTED,
        COMMITTED,
        COMMITTED,
      ]);
      await expectNoGap(wallets);
    });

    it("what begins after the answer is written, unless it says that it is behind", async () => {
      const failing = await openWallet(10_000, idIn(EVEN));
      const first = await fail(failing);
      const [wallet] = await openTogether(1, ODD);
      const failed = orderBehind(null);
      expect(await journal.append({ ...first, order: failed })).toMatchObject({ type });
      const behind = () => journal.append({ ...creditOf(wallet!), order: orderBehind(failed) });
      expect(await writingNothing(behind)).toEqual(UNDONE);
      expect(await journal.append({ ...creditOf(wallet!), order: orderBehind(null) })).toEqual(
        COMMITTED,
      );
      await expectNoGap([wallet!]);
    });

    it("race: what begins behind nothing, with a dead one unanswered, has the next place", async () => {
      // Given a dead one behind it that took places
      const failing = await openWallet(10_000, idIn(EVEN));
      const first = await fail(failing);
      const wallets = await openTogether(2, ODD);
      const [dead, alive] = wallets as [WalletState, WalletState];
      putCredit(first, dead, 1);
      // When another one begins as soon as the first is told, and before the second is
      const said: string[] = [];
      const [failed, undone] = beginAll(journal, first, creditOf(dead));
      const third = failed!.then((result) => {
        said.push(result.type, "third begins");
        return journal.append({ ...creditOf(alive), order: orderBehind(null) });
      });
      void undone!.then((result) => said.push(result.type));
      // Then it is committed, behind what is there
      expect(await third).toEqual(COMMITTED);
      expect(said).toEqual([type, "third begins", "undone"]);
      expect(await walletNow(dead.walletId)).toEqual(dead);
      expect(await journal.append({ ...creditOf(dead), order: orderBehind(null) })).toEqual(
        COMMITTED,
      );
      await expectNoGap(wallets);
    });

    it("another lane's append is committed, whatever it writes", async () => {
      const failing = await openWallet(10_000, idIn(EVEN));
      const [mine] = await openTogether(1, ODD);
      const [theirs] = await openTogether(1, ODD);
      await claimAll(other);
      const first = await fail(failing);
      const [failed, undone] = beginAll(journal, first, creditOf(mine!));
      expect(await other.append(creditOf(theirs!))).toEqual(COMMITTED);
      expect(await Promise.all([failed, undone])).toMatchObject([{ type }, UNDONE]);
      await expectNoGap([theirs!]);
    });
  });

  // ---- the second one fails ----

  describe.each(FAILING)("when the second one is %s", (type, fail) => {
    it("the first is committed, and the next one has the next place", async () => {
      const failing = await openWallet(10_000, idIn(EVEN));
      const second = await fail(failing);
      const wallets = await openTogether(3, ODD);
      const [before, bystander, after] = wallets as [WalletState, WalletState, WalletState];
      putCredit(second, bystander, 1);
      const results = await appendAll(journal, creditOf(before), second, creditOf(after));
      expect(results).toMatchObject([COMMITTED, { type }, UNDONE]);
      expect((await walletNow(before.walletId)).version).toBe(before.version + 1);
      expect(await walletNow(bystander.walletId)).toEqual(bystander);
      expect(await walletNow(after.walletId)).toEqual(after);
      expect(await appendAll(journal, creditOf(after), creditOf(bystander))).toEqual([
        COMMITTED,
        COMMITTED,
      ]);
      await expectNoGap(wallets);
    });

    it.each(INDEPENDENT)(
      "race: it has failed and is not told yet, and %s is undone",
      async (_what, fill) => {
        // Given both answered at once
        const failing = await openWallet(10_000, idIn(EVEN));
        const second = await fail(failing);
        const wallets = await openTogether(2, ODD);
        const [before, after] = wallets as [WalletState, WalletState];
        const third = draft(epochs);
        fill(third, after);
        const one = orderBehind(null);
        const two = orderBehind(one);
        // When the next begins behind the second, in the moment between the two answers
        const said: string[] = [];
        const first = journal.append({ ...creditOf(before), order: one }).then((result) => {
          said.push(result.type, "third begins");
          return journal.append({ ...third, order: orderBehind(two) });
        });
        const told = journal.append({ ...second, order: two });
        void told.then((result) => said.push(result.type));
        await turn();
        standStill();
        // Then it is not written, or its command would be known
        expect(await first).toEqual(UNDONE);
        expect(said).toEqual(["committed", "third begins", type]);
        expect(await journal.append({ ...third, order: orderBehind(null) })).toEqual(COMMITTED);
      },
    );
  });

  // ---- others ----

  it("race: another lane goes on while one append and the next one behind it are stopped", async () => {
    const [slow, behind] = [await openWallet(10_000, idIn(EVEN)), await openWallet()];
    const free = await openWallet(10_000, idIn(ODD));
    await claimAll(other);
    const goOn = await stall(slow.walletId);
    const stopped = appendAll(journal, creditOf(slow), creditOf(behind));
    await until(ground.stalled, 1);
    expect(await appendAll(other, ...creditsOf(free, 2))).toEqual([COMMITTED, COMMITTED]);
    await goOn();
    expect(await stopped).toEqual([COMMITTED, COMMITTED]);
  });

  it("race: a claim comes between the two, sees the first, and leaves nothing of the second", async () => {
    // Given an append past its fence check, and another one behind it
    const wallet = await openWallet();
    const shard = shardOf(wallet.walletId);
    const goOn = await stall(wallet.walletId);
    const appends = appendAll(journal, ...creditsOf(wallet, 2));
    await until(ground.stalled, 1);
    // When a new owner claims the shard
    await takeOver("host-2", [shard]);
    const claim = other.claim("host-2", [shard]);
    await until(ground.waiting, 1);
    await goOn();
    // Then it has all that will ever be written under the old epoch
    expect(await claim).toEqual(new Map([[shard, epochs.get(shard)! + 2]]));
    expect((await walletNow(wallet.walletId)).version).toBe(wallet.version + 1);
    expect(await appends).toEqual([COMMITTED, { type: "fenced", shards: [shard] }]);
    expect((await walletNow(wallet.walletId)).version).toBe(wallet.version + 1);
  });
});
