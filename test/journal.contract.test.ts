/**
 * What every journal owes its users, asked of PostgreSQL and of the simulated one, so that what a
 * simulation finds is true of the real thing: what must be new in a commit, and that it is there as
 * a whole or not at all. Who may write is in journal-writers.contract.test.ts, what becomes of
 * holds in journal-holds.contract.test.ts.
 */
import { describe, expect, it } from "vitest";
import { shardOf } from "../src/core/shard.ts";
import type { WalletEvent, WalletState } from "../src/core/wallet.ts";
import { unique } from "./stage/ids.ts";
import {
  CREATED,
  credited,
  draft,
  metadataChanged,
  put,
  putCredit,
  putPosted,
  putReceipt,
  putRefusal,
  putRejection,
  putReserve,
  putReturn,
  putWallet,
  speakFor,
  transferBetween,
  type Draft,
} from "./stage/journal-drafts.ts";
import {
  commit,
  COMMITTED,
  creditOf,
  describeJournals,
  epochs,
  ground,
  journal,
  openWallet,
  other,
  reserved,
  STALE,
  stall,
  walletNow,
  writingNothing,
} from "./stage/journal.ts";

/** Hash of the wallet's last event in a commit. */
function hashIn({ wallets }: Draft, walletId: string): string {
  return wallets.get(walletId)!.hash;
}

describeJournals("journal_contract", () => {
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

    it.each([
      ["looked for", true],
      ["not looked for", false],
    ])("that another wallet has rejected is new here, %s", async (_how, isLookedFor) => {
      const [one, other] = [await openWallet(), await openWallet()];
      const commandId = unique("command");
      await commit((writes) => putRejection(writes, one.walletId, commandId));
      const writes = creditOf(other, 100, commandId);
      if (!isLookedFor) writes.lookups = [];
      expect(await journal.append(writes)).toEqual(COMMITTED);
    });

    it("that is known without a fingerprint is told with what its command has left", async () => {
      const wallet = await openWallet();
      const { walletId, ownerId, currency, decimalPlaces } = wallet;
      const commandId = unique("command");
      const rest = { commandId, fingerprint: null };
      const [description, metadata] = ["one", '{"a":1.5,"b":["ü"]}'];
      const event = credited(100);
      await commit((writes) => {
        put(writes, walletId, event, { ...rest, description, metadata }, wallet);
      });
      const again = creditOf(await walletNow(walletId), 100, commandId);
      const result = await writingNothing(() => journal.append(again));
      expect(result).toMatchObject({
        commands: [
          {
            fingerprint: null,
            record: {
              event,
              version: 2,
              description,
              metadata: JSON.stringify(JSON.parse(metadata)),
              wallet: { ownerId, currency, decimalPlaces },
              creation: null,
              isHoldFinal: false,
            },
          },
        ],
      });
    });

    it("that is known as a creation without a fingerprint is told with what it has made", async () => {
      const [walletId, commandId] = [unique("w"), unique("command")];
      await commit((writes) => {
        put(writes, walletId, CREATED, { causationId: commandId, isIdProposed: true });
        put(writes, walletId, credited(5), { commandId, causationId: commandId });
      });
      const again = creditOf(await walletNow(walletId), 5, commandId);
      const result = await writingNothing(() => journal.append(again));
      const creation = { isIdProposed: true };
      expect(result).toMatchObject({ commands: [{ version: 1, record: { creation } }] });
    });

    it("that is known as a transfer without a fingerprint is told with its event and record", async () => {
      const { fromWalletId: walletId, ...transfer } = await reserved();
      const again = creditOf(await walletNow(walletId), 1, transfer.commandId);
      const result = await writingNothing(() => journal.append(again));
      const { transferId, toWalletId: counterpartyId, amountMinor } = transfer;
      const event = { type: "TransferSent", transferId, counterpartyId, amountMinor };
      expect(result).toMatchObject({ commands: [{ record: { event, isHoldFinal: false } }] });
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
      const ahead = creditOf({ ...wallet, version: wallet.version + 2 });
      expect(await writingNothing(() => journal.append(ahead))).toMatchObject(STALE);
    });

    it("when a transfer ends twice in the commit in which it begins", async () => {
      const [payer, payee] = [await openWallet(), await openWallet()];
      const transfer = transferBetween(payer, payee.walletId, 100);
      const writes = draft(epochs);
      putReserve(writes, payer, transfer);
      putReceipt(writes, transfer, payee);
      putPosted(writes, transfer, payee.version + 1);
      putPosted(writes, transfer, payee.version + 1);
      expect(await writingNothing(() => journal.append(writes))).toMatchObject(STALE);
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

    it("is a broken invariant and leaves nothing when a wallet changes without an event", async () => {
      const [good, bare] = [await openWallet(), await openWallet()];
      const writes = creditOf(good);
      writes.wallets.set(bare.walletId, creditOf(bare).wallets.get(bare.walletId)!);
      speakFor(writes, bare.walletId);
      await writingNothing(() =>
        expect(journal.append(writes)).rejects.toThrow(/changes without an event/),
      );
      expect(await walletNow(bare.walletId)).toEqual(bare);
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
