/**
 * Who may write, by the contract of every journal and shard table, asked of PostgreSQL and of the
 * simulated one: shards with one owner each, claims that wait for what is under way, and the fence
 * that keeps everybody else out. Each race is staged by stopping an append halfway; its name says
 * in which order things happen.
 */
import { describe, expect, it } from "vitest";
import { ALL_SHARDS, shardOf } from "../src/core/shard.ts";
import type { WalletState } from "../src/core/wallet.ts";
import { EVEN, idIn, ODD, unique } from "./stage/ids.ts";
import {
  credited,
  draft,
  put,
  putPosted,
  putRefusal,
  putRejection,
  putReserve,
  speakFor,
  transferBetween,
  type Draft,
} from "./stage/journal-drafts.ts";
import {
  claimAll,
  COMMITTED,
  creditOf,
  describeJournals,
  epochs,
  ground,
  journal,
  openWallet,
  other,
  OWNER,
  rowOf,
  STALE,
  stall,
  takeOver,
  until,
  walletNow,
  writingNothing,
} from "./stage/journal.ts";

describeJournals("journal_writers", () => {
  // ---- the shard table ----

  describe("the shard table", () => {
    it("lists every shard in order, each with its owner and epoch", async () => {
      const rows = await ground.shardTable.read();
      expect(rows.map(({ shard }) => shard)).toEqual(ALL_SHARDS);
      expect(new Map(rows.map(({ shard, epoch }) => [shard, epoch]))).toEqual(epochs);
      expect(new Set(rows.map(({ owner }) => owner))).toEqual(new Set([OWNER]));
    });

    it("gives those shards that have the owner they are listed with, under the next epoch", async () => {
      await takeOver("host-2", [18]);
      const from = new Map([
        [17, OWNER],
        [18, OWNER],
        [19, null],
      ]);
      expect(await ground.shardTable.take("host-3", from)).toEqual([17]);
      const epoch = epochs.get(17)! + 1;
      expect(await rowOf(17)).toMatchObject({ shard: 17, owner: "host-3", epoch });
      expect(await rowOf(18)).toMatchObject({ owner: "host-2", epoch: epochs.get(18)! + 1 });
      expect(await rowOf(19)).toMatchObject({ owner: OWNER, epoch: epochs.get(19) });
    });

    it("frees what the owner has, under the next epoch, and nothing else", async () => {
      await takeOver("host-2", [18]);
      const { claimedAtMs } = await rowOf(17);
      await ground.shardTable.release(OWNER, [17, 18]);
      const epoch = epochs.get(17)! + 1;
      expect(await rowOf(17)).toEqual({ shard: 17, owner: null, epoch, claimedAtMs });
      expect(await rowOf(18)).toMatchObject({ owner: "host-2" });
      expect(await ground.shardTable.take("host-3", new Map([[17, null]]))).toEqual([17]);
    });

    it("race: of two that want the same free shards, each is taken once", async () => {
      const wanted = [20, 21, 22];
      await ground.shardTable.release(OWNER, wanted);
      const from = new Map(wanted.map((shard) => [shard, null]));
      const [one, two] = await Promise.all(
        ["host-2", "host-3"].map((owner) => ground.shardTable.take(owner, from)),
      );
      expect([...one!, ...two!].toSorted()).toEqual(wanted);
      for (const shard of one!) expect(await rowOf(shard)).toMatchObject({ owner: "host-2" });
      for (const shard of two!) expect(await rowOf(shard)).toMatchObject({ owner: "host-3" });
    });
  });

  // ---- places ----

  it("numbers the events of a shard without gaps, whoever writes, fails or is fenced in between", async () => {
    const wallet = await openWallet();
    const { walletId } = wallet;
    const [first, second] = await ground.places(walletId);
    expect(second).toBe(first! + 1);
    // Given another writer that claims, writes, and is superseded again
    const superseded = ground.journal();
    const fenced = creditOf(wallet);
    await claimAll(superseded);
    expect(await superseded.append(creditOf(wallet))).toEqual(COMMITTED);
    expect(await journal.append(fenced)).toMatchObject({ type: "fenced" });
    await claimAll();
    // When one append is stale and the next one is not
    expect(await journal.append(creditOf(wallet))).toMatchObject(STALE);
    expect(await journal.append(creditOf({ ...wallet, version: 2 }))).toEqual(COMMITTED);
    // Then each has the place behind the one before
    expect(await ground.places(walletId)).toEqual([0, 1, 2, 3].map((step) => first! + step));
  });

  // ---- claims and the fence ----

  describe("a claim", () => {
    it("takes the next epoch of what the owner holds, and leaves out the rest", async () => {
      await takeOver("host-2", [18]);
      await ground.shardTable.release(OWNER, [19]);
      const claimed = await journal.claim(OWNER, [17, 18, 19]);
      expect(claimed).toEqual(new Map([[17, epochs.get(17)! + 1]]));
      expect(await rowOf(17)).toMatchObject({ owner: OWNER, epoch: epochs.get(17)! + 1 });
      expect(await rowOf(18)).toMatchObject({ owner: "host-2", epoch: epochs.get(18)! + 1 });
    });

    it("race: waits for an append under way and sees what it wrote; an append that comes meanwhile is refused", async () => {
      // Given an append past its fence check
      const wallet = await openWallet();
      const shard = shardOf(wallet.walletId);
      const goOn = await stall(wallet.walletId);
      const append = journal.append(creditOf(wallet));
      await until(ground.stalled, 1);
      // When the shard changes hands, which waits for nobody, and its new owner claims it, which
      // does
      await takeOver("host-2", [shard]);
      let isClaimed = false;
      const claim = other.claim("host-2", [shard]).then((claimed) => {
        isClaimed = true;
        return claimed;
      });
      await until(ground.waiting, 1);
      const late = ground.journal();
      const lateAppend = late.append(creditOf(wallet));
      await until(ground.waiting, 2);
      expect(isClaimed).toBe(false);
      await goOn();
      // Then the append is committed, the claim comes after it, and the late append meets the new
      // epoch
      expect(await append).toEqual(COMMITTED);
      expect(await claim).toEqual(new Map([[shard, epochs.get(shard)! + 2]]));
      expect((await walletNow(wallet.walletId)).version).toBe(wallet.version + 1);
      expect(await lateAppend).toEqual({ type: "fenced", shards: [shard] });
    });

    it("race: does not hold up those who write other shards after it", async () => {
      const [one, two] = [
        await openWallet(10_000, idIn(EVEN)),
        await openWallet(10_000, idIn(ODD)),
      ];
      const goOn = await stall(one.walletId);
      const append = journal.append(creditOf(one));
      await until(ground.stalled, 1);
      expect(await other.append(creditOf(two))).toEqual(COMMITTED);
      await goOn();
      expect(await append).toEqual(COMMITTED);
    });
  });

  describe("the fence", () => {
    it("refuses a superseded epoch and names the shards that were lost, no others", async () => {
      const [lost, kept] = [await openWallet(), await openWallet()];
      const writes = creditOf(lost);
      put(writes, kept.walletId, credited(1), {}, kept);
      const shard = shardOf(lost.walletId);
      expect(shardOf(kept.walletId)).not.toBe(shard);
      await takeOver("host-2", [shard]);
      const result = await writingNothing(() => journal.append(writes));
      expect(result).toEqual({ type: "fenced", shards: [shard] });
    });

    it.each([
      ["taken", (shard: number) => takeOver("host-2", [shard])],
      ["released", (shard: number) => ground.shardTable.release(OWNER, [shard])],
      ["claimed again", (shard: number) => journal.claim(OWNER, [shard])],
    ])("refuses a writer with nothing to write, when its shard was %s", async (_how, change) => {
      const { walletId } = await openWallet();
      const writes = draft(epochs);
      speakFor(writes, walletId);
      expect(await journal.append(writes)).toEqual(COMMITTED);
      await change(shardOf(walletId));
      expect(await journal.append(writes)).toEqual({ type: "fenced", shards: [shardOf(walletId)] });
    });

    it.each<[string, (writes: Draft, wallet: WalletState) => void]>([
      ["an event", (writes, wallet) => put(writes, wallet.walletId, credited(1), {}, wallet)],
      ["a rejection", (writes, { walletId }) => putRejection(writes, walletId, unique("command"))],
      [
        "a transfer",
        (writes, wallet) => putReserve(writes, wallet, transferBetween(wallet, unique("w"), 1)),
      ],
      [
        "a verdict",
        (writes, wallet) => putRefusal(writes, transferBetween(wallet, wallet.walletId, 1)),
      ],
      [
        "the end of a transfer",
        (writes, wallet) => putPosted(writes, transferBetween(wallet, unique("w"), 1), 1),
      ],
    ])(
      "stands around all that is written: %s outside it is a broken invariant",
      async (_what, write) => {
        const wallet = await openWallet();
        const writes = draft(epochs);
        write(writes, wallet);
        writes.fence.delete(shardOf(wallet.walletId));
        await writingNothing(() =>
          expect(journal.append(writes)).rejects.toThrow(/outside the fence/),
        );
      },
    );

    // As an owner has it after the database has lost the claim that gave it
    it.each([1, 200])("refuses an epoch that is still to come, of %i shards", async (count) => {
      const wallet = await openWallet();
      const shard = shardOf(wallet.walletId);
      const writes = creditOf(wallet);
      for (const each of ALL_SHARDS.slice(0, count)) writes.fence.set(each, epochs.get(each)!);
      writes.fence.set(shard, epochs.get(shard)! + 1);
      const result = await writingNothing(() => journal.append(writes));
      expect(result).toEqual({ type: "fenced", shards: [shard] });
    });

    it("is looked at before what is known", async () => {
      const wallet = await openWallet();
      const writes = creditOf(wallet);
      expect(await journal.append(writes)).toEqual(COMMITTED);
      await takeOver("host-2", [shardOf(wallet.walletId)]);
      expect(await journal.append(writes)).toMatchObject({ type: "fenced" });
    });
  });
});
