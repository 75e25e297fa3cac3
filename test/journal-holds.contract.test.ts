/**
 * Holds in a journal, by the contract that PostgreSQL and the simulated one keep alike: written
 * with the commit that touches them, read back with their wallets, found when their time is over.
 */
import { describe, expect, it } from "vitest";
import { moveHold, type Hold } from "../src/core/hold.ts";
import type { DueHold, HoldKey } from "../src/core/journal.ts";
import { ALL_SHARDS, shardOf } from "../src/core/shard.ts";
import type { Transfer } from "../src/core/transfer.ts";
import type { WalletState } from "../src/core/wallet.ts";
import { unique } from "./stage/ids.ts";
import {
  captured,
  draft,
  holdOf,
  metadataChanged,
  NOW_MS,
  placed,
  put,
  putCredit,
  released,
  transferBetween,
} from "./stage/journal-drafts.ts";
import {
  commit,
  describeJournals,
  epochs,
  journal,
  openWallet,
  STALE,
  walletNow,
  writingNothing,
} from "./stage/journal.ts";

describeJournals("journal_holds", () => {
  describe("one commit", () => {
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
  });
});
