/**
 * What every journal and every shard table owes its users, asked of PostgreSQL and of the simulated
 * one: so that what a simulation finds is true of the real thing. Each race is staged by stopping
 * an append halfway; its name says in which order things happen.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from "vitest";
import { moveHold, type Hold } from "../src/hold.ts";
import type { DueHold, HoldKey, Journal } from "../src/journal.ts";
import { ALL_SHARDS, shardOf } from "../src/shard.ts";
import type { ShardOwner } from "../src/shard-table.ts";
import type { Transfer } from "../src/transfer.ts";
import type { WalletEvent, WalletState } from "../src/wallet.ts";
import {
  captured,
  CREATED,
  credited,
  draft,
  holdOf,
  metadataChanged,
  NOW_MS,
  placed,
  put,
  putCredit,
  putPosted,
  putReceipt,
  putRefusal,
  putRejection,
  putReserve,
  putReturn,
  putWallet,
  released,
  speakFor,
  transferBetween,
  type Draft,
} from "./journal-fixtures.ts";
import { openPostgresGround, openSimulatedGround, type JournalGround } from "./journal-grounds.ts";
import { EVEN, idIn, ODD, unique } from "./staging.ts";

/** Hash of the wallet's last event in a commit. */
function hashIn({ wallets }: Draft, walletId: string): string {
  return wallets.get(walletId)!.hash;
}

const OWNER = "host-1";
const COMMITTED = { type: "committed" };
const STALE = { type: "stale" };

describe.each([
  ["PostgreSQL", openPostgresGround],
  ["the simulated database", openSimulatedGround],
])("%s", (_name, open) => {
  let ground: JournalGround;
  let journal: Journal;
  let other: Journal;
  let epochs: Map<number, number>;

  beforeAll(async () => {
    ground = await open();
    [journal, other] = [ground.journal(), ground.journal()];
  });

  afterAll(() => ground.close());

  beforeEach(async () => {
    await takeOver(OWNER, ALL_SHARDS);
    epochs = await journal.claim(OWNER, ALL_SHARDS);
  });

  // ---- given ----

  async function rowOf(shard: number): Promise<ShardOwner> {
    return (await ground.shardTable.read())[shard]!;
  }

  /** Makes it the owner of these shards, whoever has them. */
  async function takeOver(owner: string, shards: readonly number[]): Promise<void> {
    const rows = await ground.shardTable.read();
    const from = new Map(shards.map((shard) => [shard, rows[shard]!.owner]));
    expect(await ground.shardTable.take(owner, from)).toEqual(shards);
  }

  async function commit(fill: (writes: Draft) => void): Promise<void> {
    const writes = draft(epochs);
    fill(writes);
    expect(await journal.append(writes)).toEqual(COMMITTED);
  }

  async function openWallet(minor = 10_000, walletId = unique("w")): Promise<WalletState> {
    await commit((writes) => putWallet(writes, walletId, minor, unique("command")));
    return await walletNow(walletId);
  }

  async function walletNow(walletId: string): Promise<WalletState> {
    return (await journal.loadWallets([walletId])).wallets.get(walletId)!.state!;
  }

  function creditOf(state: WalletState, minor = 1, commandId = unique("command")): Draft {
    const writes = draft(epochs);
    putCredit(writes, state, minor, commandId);
    return writes;
  }

  /** A pending transfer of 1.00; to a wallet that does not exist, unless one is given. */
  async function reserved(payee?: WalletState): Promise<Transfer> {
    const payer = await openWallet();
    const transfer = transferBetween(payer, payee?.walletId ?? unique("w"), 100);
    await commit((writes) => putReserve(writes, payer, transfer));
    return transfer;
  }

  async function writingNothing<T>(work: () => Promise<T>): Promise<T> {
    const before = await ground.counts();
    const result = await work();
    expect(await ground.counts()).toEqual(before);
    return result;
  }

  /**
   * Stops the next append to the wallet midway, until the returned function is called or the test
   * ends.
   */
  async function stall(walletId: string): Promise<() => Promise<void>> {
    const goOn = await ground.stall(walletId);
    onTestFinished(goOn);
    return goOn;
  }

  async function until(counted: () => Promise<number>, count: number): Promise<void> {
    await expect.poll(counted, { interval: 5 }).toBe(count);
  }

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
    epochs = await superseded.claim(OWNER, ALL_SHARDS);
    expect(await superseded.append(creditOf(wallet))).toEqual(COMMITTED);
    expect(await journal.append(fenced)).toMatchObject({ type: "fenced" });
    epochs = await journal.claim(OWNER, ALL_SHARDS);
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

    it("is looked at before what is known", async () => {
      const wallet = await openWallet();
      const writes = creditOf(wallet);
      expect(await journal.append(writes)).toEqual(COMMITTED);
      await takeOver("host-2", [shardOf(wallet.walletId)]);
      expect(await journal.append(writes)).toMatchObject({ type: "fenced" });
    });
  });

  // ---- what must be new ----

  describe("a command id", () => {
    it("that is known as done is told, and nothing of the commit is written", async () => {
      const [wallet, bystander] = [await openWallet(), await openWallet()];
      const { walletId } = wallet;
      const commandId = unique("command");
      await journal.append(creditOf(wallet, 100, commandId));
      const again = creditOf(await walletNow(walletId), 100, commandId);
      put(again, bystander.walletId, credited(1), {}, bystander);
      const result = await writingNothing(() => journal.append(again));
      const [fingerprint, version] = ["input", 2];
      const known = {
        walletId,
        commandId,
        fingerprint,
        version,
        transferId: null,
        rejection: null,
      };
      expect(result).toEqual({ type: "known", commands: [known], verdicts: [] });
    });

    it("that is known as a transfer is told with the transfer's id", async () => {
      const { fromWalletId: walletId, commandId, transferId } = await reserved();
      const again = creditOf(await walletNow(walletId), 1, commandId);
      const result = await writingNothing(() => journal.append(again));
      expect(result).toMatchObject({ commands: [{ commandId, version: 2, transferId }] });
    });

    it("that is known as rejected is told, to whoever rejects or carries it out now", async () => {
      const wallet = await openWallet();
      const { walletId } = wallet;
      const commandId = unique("command");
      const rejecting = draft(epochs);
      const rejection = putRejection(rejecting, walletId, commandId);
      expect(await journal.append(rejecting)).toEqual(COMMITTED);
      const [fingerprint, version, transferId] = ["input", null, null];
      const known = { walletId, commandId, fingerprint, version, transferId, rejection };
      for (const again of [rejecting, creditOf(wallet, 1, commandId)]) {
        const result = await writingNothing(() => journal.append(again));
        expect(result).toEqual({ type: "known", commands: [known], verdicts: [] });
      }
    });

    it("of another wallet is another command", async () => {
      const [one, two] = [await openWallet(), await openWallet()];
      const commandId = unique("command");
      expect(await journal.append(creditOf(one, 1, commandId))).toEqual(COMMITTED);
      expect(await journal.append(creditOf(two, 1, commandId))).toEqual(COMMITTED);
    });

    type Fill = (writes: Draft, wallet: WalletState, commandId: string) => void;
    const accept: Fill = (writes, wallet, commandId) =>
      void putCredit(writes, wallet, 1, commandId);
    const reject: Fill = (writes, { walletId }, commandId) =>
      void putRejection(writes, walletId, commandId);
    it.each([
      ["carried out", "carried out", accept, accept],
      ["rejected", "carried out", reject, accept],
      ["rejected", "rejected", reject, reject],
    ])(
      "%s before and %s again is stale, where nobody looked for it",
      async (_a, _b, fill, refill) => {
        const wallet = await openWallet();
        const commandId = unique("command");
        await commit((writes) => fill(writes, wallet, commandId));
        const again = draft(epochs);
        refill(again, await walletNow(wallet.walletId), commandId);
        again.lookups.length = 0;
        expect(await writingNothing(() => journal.append(again))).toMatchObject(STALE);
      },
    );

    it("twice in one commit is stale", async () => {
      const wallet = await openWallet();
      const writes = creditOf(wallet, 1, "twice");
      put(writes, wallet.walletId, credited(1), { commandId: "twice" });
      expect(await writingNothing(() => journal.append(writes))).toMatchObject(STALE);
    });
  });

  describe("a verdict", () => {
    it("of refusal is final, when the payee would take the money now", async () => {
      const payee = await openWallet();
      const transfer = await reserved(payee);
      const { transferId } = transfer;
      const refusing = draft(epochs);
      const verdict = putRefusal(refusing, transfer);
      expect(await journal.append(refusing)).toEqual(COMMITTED);
      const posting = draft(epochs);
      putReceipt(posting, transfer, payee);
      const known = { type: "known", commands: [], verdicts: [{ transferId, verdict }] };
      expect(await writingNothing(() => journal.append(posting))).toEqual(known);
      // And where nobody looked for it, its key is in the way
      posting.verdictLookups.length = 0;
      expect(await writingNothing(() => journal.append(posting))).toMatchObject(STALE);
    });

    it("of posting is final, when the payee would refuse now", async () => {
      const payee = await openWallet();
      const transfer = await reserved(payee);
      const { transferId } = transfer;
      const toVersion = payee.version + 1;
      await commit((writes) => putReceipt(writes, transfer, payee));
      const refusing = draft(epochs);
      putRefusal(refusing, transfer);
      const verdict = { type: "posted", toVersion };
      const known = { type: "known", commands: [], verdicts: [{ transferId, verdict }] };
      expect(await writingNothing(() => journal.append(refusing))).toEqual(known);
    });
  });

  describe("a commit is stale", () => {
    it("when a wallet is not at its base version, also without an event in the way", async () => {
      const wallet = await openWallet();
      await journal.append(creditOf(wallet));
      const again = creditOf(wallet);
      expect(await writingNothing(() => journal.append(again))).toMatchObject(STALE);
      again.events.length = 0;
      expect(await writingNothing(() => journal.append(again))).toMatchObject(STALE);
    });

    it("when a wallet exists that was to be created", async () => {
      const { walletId } = await openWallet();
      const writes = draft(epochs);
      putWallet(writes, walletId, 1, unique("command"));
      expect(await writingNothing(() => journal.append(writes))).toMatchObject(STALE);
    });

    it("when a wallet does not exist that was to be changed", async () => {
      const wallet = await openWallet();
      const writes = creditOf({ ...wallet, walletId: unique("w") });
      expect(await writingNothing(() => journal.append(writes))).toMatchObject(STALE);
    });

    it("when a transfer is there already, is settled already, or is not there", async () => {
      const transfer = await reserved();
      const { fromWalletId } = transfer;
      const reserving = draft(epochs);
      const anew = { ...transfer, commandId: unique("command") };
      putReserve(reserving, await walletNow(fromWalletId), anew);
      expect(await writingNothing(() => journal.append(reserving))).toMatchObject(STALE);
      await commit((writes) => putRefusal(writes, transfer));
      const payer = await walletNow(fromWalletId);
      await commit((writes) => putReturn(writes, transfer, payer));
      const now = await walletNow(fromWalletId);
      for (const transferId of [transfer.transferId, unique("transfer")]) {
        const again = draft(epochs);
        putReturn(again, { ...transfer, transferId }, now);
        expect(await writingNothing(() => journal.append(again))).toMatchObject(STALE);
        const posting = draft(epochs);
        putPosted(posting, { ...transfer, transferId }, 1);
        expect(await writingNothing(() => journal.append(posting))).toMatchObject(STALE);
      }
    });

    it("race: of two writers at one version, one commits and the other is stale", async () => {
      // Given two that believe in the same epoch: what the fence would let pass, the key does not
      const wallet = await openWallet();
      const goOn = await stall(wallet.walletId);
      const appends = [journal.append(creditOf(wallet, 5)), other.append(creditOf(wallet, 7))];
      await expect.poll(ground.stalled, { interval: 5 }).toBeGreaterThan(0);
      await goOn();
      const types = (await Promise.all(appends)).map(({ type }) => type);
      expect(types.toSorted()).toEqual(["committed", "stale"]);
      expect((await walletNow(wallet.walletId)).version).toBe(wallet.version + 1);
    });
  });

  // ---- one commit, and reading it back ----

  describe("one commit", () => {
    it("holds everything it was given, and it all reads back", async () => {
      // Given two pending transfers of one payer
      const [payer, payee] = [await openWallet(10_000), await openWallet(500)];
      const kept = transferBetween(payer, payee.walletId, 700);
      await commit((writes) => putReserve(writes, payer, kept));
      const sent = await walletNow(payer.walletId);
      const returned = transferBetween(sent, unique("w"), 300);
      await commit((writes) => putReserve(writes, sent, returned));
      const shard = shardOf(payer.walletId);
      const pending = await journal.loadPendingTransfers([shard]);
      expect(pending).toEqual(expect.arrayContaining([kept, returned]));
      const elsewhere = await journal.loadPendingTransfers([(shard + 1) % 256]);
      expect(elsewhere).not.toEqual(expect.arrayContaining([kept]));
      // When one commit brings a creation, a rejection, a receipt, a refusal and two settlements
      const writes = draft(epochs);
      const newId = unique("w");
      const commandId = unique("command");
      putRefusal(writes, returned);
      const created = putWallet(writes, newId, 1, unique("command"));
      const rejection = putRejection(writes, payee.walletId, commandId);
      const received = putReceipt(writes, kept, payee);
      putPosted(writes, kept, received.version);
      const back = putReturn(writes, returned, await walletNow(payer.walletId));
      expect(await journal.append(writes)).toEqual(COMMITTED);
      // Then all of it is there
      const missingId = unique("w");
      const ids = [newId, payee.walletId, payer.walletId, missingId];
      expect(Object.fromEntries((await journal.loadWallets(ids)).wallets)).toEqual({
        [newId]: { state: created, hash: hashIn(writes, newId) },
        [payee.walletId]: { state: received, hash: hashIn(writes, payee.walletId) },
        [payer.walletId]: { state: back, hash: hashIn(writes, payer.walletId) },
        [missingId]: { state: null, hash: null },
      });
      const left = (await journal.loadPendingTransfers([shard])).map((one) => one.transferId);
      expect(left).not.toContain(kept.transferId);
      expect(left).not.toContain(returned.transferId);
      const asked = await journal.append(creditOf(received, 1, commandId));
      expect(asked).toMatchObject({ commands: [{ commandId, rejection }] });
    });

    describe("that changes metadata", () => {
      async function metadataOf(walletId: string): Promise<unknown> {
        return JSON.parse((await walletNow(walletId)).metadata);
      }

      function changeOf(state: WalletState, metadata: string, commandId: string): Draft {
        const writes = draft(epochs);
        put(writes, state.walletId, metadataChanged(metadata), { commandId }, state);
        return writes;
      }

      it("writes it beside everything else, and once when it changes twice", async () => {
        const [wallet, bystander] = [await openWallet(), await openWallet()];
        await commit((writes) => {
          put(writes, wallet.walletId, metadataChanged('{"a": 1}'), {}, wallet);
          put(writes, wallet.walletId, credited(5));
          put(writes, wallet.walletId, metadataChanged('{"b": {"c": null}}'));
          put(writes, bystander.walletId, credited(5), {}, bystander);
        });
        expect(await walletNow(wallet.walletId)).toMatchObject({
          version: 4,
          balanceMinor: 10_005,
        });
        expect(await metadataOf(wallet.walletId)).toEqual({ b: { c: null } });
        expect(await metadataOf(bystander.walletId)).toEqual({ tier: "gold" });
      });

      it("may be the one that creates the wallet", async () => {
        const walletId = unique("w");
        await commit((writes) => {
          putWallet(writes, walletId, 1, unique("command"));
          put(writes, walletId, metadataChanged('{"a": 1}'));
        });
        expect(await metadataOf(walletId)).toEqual({ a: 1 });
      });

      it("is the only kind that does", async () => {
        const wallet = await openWallet();
        await commit((writes) => putCredit(writes, { ...wallet, metadata: "{}" }, 1));
        expect(await metadataOf(wallet.walletId)).toEqual({ tier: "gold" });
      });

      it("changes nothing when its command is known, or when it is stale", async () => {
        const wallet = await openWallet();
        const commandId = unique("command");
        expect(await journal.append(changeOf(wallet, '{"a": 1}', commandId))).toEqual(COMMITTED);
        const now = await walletNow(wallet.walletId);
        const again = await journal.append(changeOf(now, '{"a": 2}', commandId));
        expect(again).toMatchObject({ type: "known", commands: [{ commandId, version: 2 }] });
        const late = await journal.append(changeOf(wallet, '{"a": 3}', unique("command")));
        expect(late).toMatchObject(STALE);
        expect(await walletNow(wallet.walletId)).toEqual(now);
        expect(await metadataOf(wallet.walletId)).toEqual({ a: 1 });
      });
    });

    describe("that touches holds", () => {
      async function openHold(
        wallet: WalletState,
        minor: number,
        expiresAtMs: number | null = null,
      ): Promise<Hold> {
        const hold = holdOf(wallet.walletId, minor, expiresAtMs);
        await commit((writes) => put(writes, wallet.walletId, placed(hold), {}, wallet));
        return hold;
      }

      async function activeOf(walletId: string): Promise<readonly Hold[]> {
        return (await journal.loadWallets([walletId])).holds;
      }

      const keyOf = ({ walletId, holdId }: Hold) => ({ walletId, holdId });

      it("writes them, and reads the active ones with their wallets, the others by their ids", async () => {
        const [one, bystander] = [await openWallet(), await openWallet()];
        const { walletId } = one;
        const [kept, ended] = [holdOf(walletId, 700, NOW_MS + 5), holdOf(walletId, 500)];
        await commit((writes) => {
          put(writes, walletId, placed(kept), {}, one);
          put(writes, walletId, placed(ended));
        });
        const both = await activeOf(walletId);
        expect(both).toHaveLength(2);
        expect(both).toEqual(expect.arrayContaining([kept, ended]));
        expect(await activeOf(bystander.walletId)).toEqual([]);
        const part = captured(kept, 200);
        const end = released(ended);
        const before = await walletNow(walletId);
        await commit((writes) => {
          put(writes, walletId, part, {}, before);
          put(writes, walletId, end);
          putCredit(writes, bystander, 1);
        });
        expect(await walletNow(walletId)).toMatchObject({ balanceMinor: 9_800, heldMinor: 500 });
        expect(await activeOf(walletId)).toEqual([part.hold]);
        const asked = [
          keyOf(kept),
          keyOf(ended),
          { ...keyOf(ended), walletId: bystander.walletId },
        ];
        const found = await journal.loadHolds(asked);
        expect(found).toHaveLength(2);
        expect(found).toEqual(expect.arrayContaining([part.hold, end.hold]));
      });

      it("may place and end one at once, and change metadata beside it", async () => {
        const wallet = await openWallet();
        const { walletId } = wallet;
        const hold = holdOf(walletId, 700);
        const end = captured(hold, 700);
        await commit((writes) => {
          put(writes, walletId, placed(hold), {}, wallet);
          put(writes, walletId, metadataChanged('{"a": 1}'));
          put(writes, walletId, end);
        });
        expect(await walletNow(walletId)).toMatchObject({ balanceMinor: 9_300, heldMinor: 0 });
        expect(JSON.parse((await walletNow(walletId)).metadata)).toEqual({ a: 1 });
        expect(await journal.loadHolds([keyOf(hold)])).toEqual([end.hold]);
      });

      it("remembers with a transfer which hold it has captured, and whether that was final", async () => {
        const payer = await openWallet();
        const hold = await openHold(payer, 700);
        const now = await walletNow(payer.walletId);
        const transfer: Transfer = {
          ...transferBetween(now, unique("w"), 300),
          holdId: hold.holdId,
          isHoldFinal: true,
        };
        const move = {
          type: "captured",
          amountMinor: transfer.amountMinor,
          isFinal: false,
        } as const;
        await commit((writes) => {
          const { transferId, amountMinor, toWalletId: counterpartyId } = transfer;
          const sent = { transferId, amountMinor, counterpartyId, occurredAtMs: NOW_MS };
          const after = moveHold(hold, move, NOW_MS);
          writes.transfers.push(transfer, transferBetween(now, unique("w"), 1));
          put(writes, payer.walletId, { type: "TransferSent", ...sent, hold: after }, {}, now);
        });
        const pending = await journal.loadPendingTransfers([shardOf(payer.walletId)]);
        expect(pending).toEqual(expect.arrayContaining([transfer]));
        expect(await activeOf(payer.walletId)).toMatchObject([{ capturedMinor: 300 }]);
      });

      it("finds those whose time is over, in these shards, no more than asked for", async () => {
        const wallets = [await openWallet(), await openWallet()];
        const atMs = NOW_MS + 60_000;
        const due = await openHold(wallets[0]!, 100, atMs);
        const [other] = [await openHold(wallets[1]!, 100, atMs)];
        for (const expiresAtMs of [atMs + 1, null]) {
          await openHold(await walletNow(due.walletId), 100, expiresAtMs);
        }
        const ended = await openHold(await walletNow(due.walletId), 100, atMs - 1);
        const before = await walletNow(due.walletId);
        await commit((writes) => put(writes, due.walletId, released(ended), {}, before));
        const shards = [shardOf(due.walletId)];
        expect(shards).not.toContain(shardOf(other.walletId));
        const ours = async (at: number) =>
          (await journal.loadDueHolds(shards, at, 100, null)).filter(
            ({ walletId }) => walletId === due.walletId,
          );
        expect(await ours(atMs - 1)).toEqual([]);
        const place = { shard: shards[0], expiresAtUs: atMs * 1_000 };
        expect(await ours(atMs)).toEqual([{ ...keyOf(due), ...place }]);
        expect(await journal.loadDueHolds(ALL_SHARDS, atMs, 1, null)).toHaveLength(1);
      });

      it("is found in portions, each behind the one before, by shard and then by time", async () => {
        const wallets = [await openWallet()];
        const shard = shardOf(wallets[0]!.walletId);
        while (wallets.length < 2) {
          const other = await openWallet();
          if (shardOf(other.walletId) !== shard) wallets.push(other);
        }
        const [first, second] = wallets.toSorted(
          (one, other) => shardOf(one.walletId) - shardOf(other.walletId),
        );
        const atMs = NOW_MS + 7;
        const placedFor = async (walletId: string, expiresAtMs: number): Promise<HoldKey> =>
          keyOf(await openHold(await walletNow(walletId), 1, expiresAtMs));
        const late = await placedFor(first!.walletId, atMs);
        const early = await placedFor(first!.walletId, atMs - 1);
        const twins = [
          await placedFor(second!.walletId, atMs),
          await placedFor(second!.walletId, atMs),
        ].toSorted((one, other) => (one.holdId < other.holdId ? -1 : 1));
        const shards = [first!, second!].map(({ walletId }) => shardOf(walletId));
        const found: HoldKey[] = [];
        let behind: DueHold | null = null;
        for (;;) {
          const portion: DueHold[] = await journal.loadDueHolds(shards, atMs, 1, behind);
          if (portion.length === 0) break;
          expect(portion).toHaveLength(1);
          behind = portion[0]!;
          const { walletId, holdId } = behind;
          found.push({ walletId, holdId });
        }
        const ours = found.filter(({ walletId }) =>
          wallets.some((wallet) => wallet.walletId === walletId),
        );
        expect(ours).toEqual([early, late, ...twins]);
      });

      it("changes none when its command is known, or when it is stale", async () => {
        const wallet = await openWallet();
        const { walletId } = wallet;
        const hold = await openHold(wallet, 700);
        const now = await walletNow(walletId);
        const commandId = unique("command");
        await commit((writes) => put(writes, walletId, captured(hold, 100), { commandId }, now));
        const kept = await journal.loadHolds([keyOf(hold)]);
        for (const [base, id, type] of [
          [await walletNow(walletId), commandId, "known"],
          [now, unique("command"), "stale"],
        ] as const) {
          const again = draft(epochs);
          put(again, walletId, captured(hold, 300), { commandId: id }, base);
          expect(await journal.append(again)).toMatchObject({ type });
        }
        expect(await journal.loadHolds([keyOf(hold)])).toEqual(kept);
      });

      it("is stale when a hold is there already, or is not there", async () => {
        const wallet = await openWallet();
        const { walletId } = wallet;
        const hold = await openHold(wallet, 700);
        const now = await walletNow(walletId);
        const again = draft(epochs);
        put(again, walletId, placed(hold), {}, now);
        expect(await writingNothing(() => journal.append(again))).toMatchObject(STALE);
        const missing = draft(epochs);
        put(missing, walletId, captured(holdOf(walletId, 700), 1), {}, now);
        expect(await writingNothing(() => journal.append(missing))).toMatchObject(STALE);
        expect(await journal.loadHolds([keyOf(hold)])).toEqual([hold]);
      });

      it.each<[string, Partial<Hold>]>([
        ["more captured than it had", { capturedMinor: 701 as Hold["amountMinor"] }],
        ["an end without its time", { status: "RELEASED" }],
        ["nothing left and no end", { capturedMinor: 700 as Hold["amountMinor"] }],
      ])("is a broken invariant with %s", async (_what, wrong) => {
        const wallet = await openWallet();
        const { walletId } = wallet;
        const writes = draft(epochs);
        const hold = holdOf(walletId, 700);
        put(writes, walletId, placed(hold), {}, wallet);
        writes.holds.set(`${walletId} ${hold.holdId}`, {
          hold: { ...hold, ...wrong },
          isNew: true,
        });
        await writingNothing(() =>
          expect(journal.append(writes)).rejects.toThrow(/check constraint/),
        );
      });
    });

    it("leaves nothing of itself when its last row cannot be written", async () => {
      const wallet = await openWallet();
      const transfer = await reserved();
      const writes = creditOf(wallet);
      putWallet(writes, unique("w"), 1, unique("command"));
      putRejection(writes, wallet.walletId, unique("command"));
      putRefusal(writes, transfer);
      putPosted(writes, { ...transfer, transferId: unique("transfer") }, 1);
      expect(await writingNothing(() => journal.append(writes))).toMatchObject(STALE);
      expect(await walletNow(wallet.walletId)).toEqual(wallet);
    });

    it.each([
      ["an amount of zero", { amount: 0 }],
      ["a balance below zero", { balance: -1 }],
      ["more held than there is", { held: 1_000_000 }],
      ["a balance of 10^15", { balance: 1_000_000_000_000_000 }],
    ])("is a broken invariant and leaves nothing when one row has %s", async (_what, wrong) => {
      const good = await openWallet();
      const writes = creditOf(good);
      putWallet(writes, unique("w"), 100, unique("command"));
      const last = writes.events.at(-1)!;
      const event = { ...last.event, ...("amount" in wrong && { amountMinor: wrong.amount }) };
      writes.events[writes.events.length - 1] = {
        ...last,
        event: event as WalletEvent,
        ...("balance" in wrong && { balanceMinor: wrong.balance }),
        ...("held" in wrong && { heldMinor: wrong.held }),
      };
      await writingNothing(() =>
        expect(journal.append(writes)).rejects.toThrow(/check constraint/),
      );
      expect(await walletNow(good.walletId)).toEqual(good);
    });
  });

  it("finds the wallet that a creation with a proposed id made or was rejected for, by the command id", async () => {
    const [plain, funded, rejected] = [unique("plain"), unique("funded"), unique("rejected")];
    const [plainId, fundedId, rejectedId] = [unique("w"), unique("w"), unique("w")];
    const isIdProposed = true;
    await commit((writes) => {
      const rest = { commandId: plain, causationId: plain, isIdProposed };
      put(writes, plainId, CREATED, rest);
      put(writes, fundedId, CREATED, { causationId: funded, isIdProposed });
      put(writes, fundedId, credited(500), { commandId: funded, isIdProposed });
      putRejection(writes, rejectedId, rejected, isIdProposed);
    });
    // A later credit, a creation with an id of the caller's own, its rejection: none of them is
    // found
    const credit = unique("credit");
    const fundedNow = await walletNow(fundedId);
    await commit((writes) => putCredit(writes, fundedNow, 1, credit));
    const [named, refused] = [unique("named"), unique("refused")];
    await commit((writes) => {
      put(writes, unique("w"), CREATED, { commandId: named, causationId: named });
      putRejection(writes, unique("w"), refused);
    });
    const asked = [plain, funded, rejected, credit, named, refused, "never seen"];
    expect(Object.fromEntries(await journal.loadCreated(asked))).toEqual({
      [plain]: plainId,
      [funded]: fundedId,
      [rejected]: rejectedId,
    });
  });
});
