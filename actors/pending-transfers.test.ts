/** What a lane believes to be in transit out of a wallet, and who waits, whatever becomes of it. */
import { expect, it } from "vitest";

import { amountMinor } from "../src/core/amount.ts";
import type { CommandMessage } from "../src/core/protocol.ts";
import type { Transfer } from "../src/core/transfer.ts";
import type { WalletState } from "../src/core/wallet.ts";
import { buildPendingTransfers, type PendingTransfers } from "./pending-transfers.ts";

const PAYER = { walletId: "payer", version: 1 } as WalletState;

const transferOf = (transferId: string, minor: number): Transfer =>
  ({ transferId, fromWalletId: "payer", amountMinor: amountMinor(minor) }) as Transfer;

const waiterOf = (seq: number): CommandMessage => ({ seq, expiresAtMs: 10_000 }) as CommandMessage;

const [FIRST, SECOND] = [transferOf("t1", 300), transferOf("t2", 200)];

function reserve(pending: PendingTransfers, transfer: Transfer, seq: number): void {
  pending.reserve(transfer, PAYER, null, waiterOf(seq));
}

it("money is in transit from its reservation until the verdict is in a commit", () => {
  const pending = buildPendingTransfers();
  const out: number[] = [];
  const note = (): void => void out.push(pending.outOf("payer"));
  reserve(pending, FIRST, 1);
  note();
  reserve(pending, SECOND, 2);
  note();
  pending.committed("t1", 0);
  pending.settling(pending.get("t1")!);
  note();
  pending.unsettled("t1");
  note();
  pending.settling(pending.get("t1")!);
  pending.settled("t1");
  note();
  // The commit of the other reservation fails.
  pending.forget("t2");
  note();
  expect(out).toEqual([300, 500, 200, 500, 200, 0]);
  expect(pending.size).toBe(0);
});

it("what goes with its shard and comes back is counted once", () => {
  const pending = buildPendingTransfers();
  reserve(pending, FIRST, 1);
  pending.committed("t1", 0);
  expect(pending.dropWhere((walletId) => walletId === "payer")).toEqual([waiterOf(1)]);
  expect([pending.size, pending.outOf("payer")]).toEqual([0, 0]);
  pending.add([FIRST], 100);
  pending.add([FIRST], 200);
  expect([pending.size, pending.outOf("payer")]).toEqual([1, 300]);
  pending.settling(pending.get("t1")!);
  expect(pending.outOf("payer")).toBe(0);
});

it("what is read back keeps who waits, and who waited for what is settled is given back", () => {
  const pending = buildPendingTransfers();
  reserve(pending, FIRST, 1);
  reserve(pending, SECOND, 2);
  pending.committed("t1", 0);
  pending.committed("t2", 0);
  expect(pending.reload([SECOND], 100)).toEqual([waiterOf(1)]);
  expect(pending.get("t2")?.waiters).toEqual([waiterOf(2)]);
  expect([pending.size, pending.outOf("payer")]).toEqual([1, 200]);
  expect(pending.due(100).map(({ transfer }) => transfer.transferId)).toEqual(["t2"]);
});
