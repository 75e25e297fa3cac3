/**
 * The unsettled transfers that the payers of a lane coordinate. It hides who waits for which
 * verdict, when a silent payee is asked again, and how much money of a wallet is in transit. All of
 * it can be rebuilt from the journal, except who waits: those callers ask again under their command
 * id.
 *
 *     reserved --commit--> pending --verdict--> settling --commit--> (gone)
 *        \--failed: (gone)    ^--------failed-------/
 *
 * reserved: `TransferSent` is decided and not committed; nothing has left. pending: driven until a
 * verdict comes. settling: the verdict is known (a posted one has been told already), its record is
 * in a commit.
 */
import { amountMinor, ZERO, type AmountMinor } from "../src/core/amount.ts";
import type { Hold } from "../src/core/hold.ts";
import { LIMITS } from "../src/limits.ts";
import type { CommandMessage, PostMessage, TransferAnswer } from "../src/core/protocol.ts";
import { drivePauseMs, type Transfer } from "../src/core/transfer.ts";
import { buildTransitMap } from "../src/transit-map.ts";
import type { WalletState } from "../src/core/wallet.ts";

export interface PendingTransfer {
  readonly transfer: Transfer;
  /** The payer right after `TransferSent`; null when the record was read back. */
  readonly payer: WalletState | null;
  /**
   * The hold that it has captured, at the same moment; null when there is none, or the record was
   * read back.
   */
  readonly hold: Hold | null;
  phase: "reserved" | "pending" | "settling";
  waiters: CommandMessage[];
  /** Whose command made the transfer; everybody else who waits has repeated it. */
  readonly first: CommandMessage | null;
  attempts: number;
  nextDriveMs: number;
}

export interface PendingTransfers {
  readonly size: number;
  get(transferId: string): PendingTransfer | undefined;
  /** Sum in minor units of what is in transit out of the wallet. */
  outOf(walletId: string): AmountMinor;
  reserve(transfer: Transfer, payer: WalletState, hold: Hold | null, waiter: CommandMessage): void;
  /** The reservation's commit failed. */
  forget(transferId: string): void;
  /** The reservation is committed: time to post. */
  committed(transferId: string, nowMs: number): PendingTransfer;
  /** The verdict is in a commit. */
  settling(pending: PendingTransfer): void;
  /** The commit with the verdict failed. */
  unsettled(transferId: string): void;
  /** The commit with the verdict is done; whoever still waits can be answered. */
  settled(transferId: string): PendingTransfer;
  /** Those to ask again now; each is rescheduled, later and later. */
  due(nowMs: number): PendingTransfer[];
  /** Waiters whose deadline is near; they are no longer waiting. */
  impatient(nowMs: number): Array<{ pending: PendingTransfer; waiter: CommandMessage }>;
  /**
   * Replaces everything by what the journal holds, keeping who waits. Returns who waited for what
   * is pending no more: it was settled by a commit of which nobody heard.
   */
  reload(transfers: readonly Transfer[], nowMs: number): CommandMessage[];
  /** Adds what the journal holds of shards that are new here. */
  add(transfers: readonly Transfer[], nowMs: number): void;
  /**
   * Forgets the transfers of payers in shards that others drive from now on; returns who waited for
   * them.
   */
  dropWhere(isLost: (payerWalletId: string) => boolean): CommandMessage[];
}

export function buildPendingTransfers(): PendingTransfers {
  let byId = buildTransitMap<string, PendingTransfer>();
  const inTransit = new Map<string, AmountMinor>();

  function shift(transfer: Transfer, sign: 1 | -1): void {
    const { fromWalletId } = transfer;
    const sum = (inTransit.get(fromWalletId) ?? 0) + sign * transfer.amountMinor;
    if (sum === 0) inTransit.delete(fromWalletId);
    else inTransit.set(fromWalletId, amountMinor(sum));
  }

  function must(transferId: string, phase: PendingTransfer["phase"]): PendingTransfer {
    const pending = byId.get(transferId);
    if (pending?.phase !== phase) {
      throw new Error(`transfer ${transferId} is ${pending?.phase ?? "unknown"}, not ${phase}`);
    }
    return pending;
  }

  function readBack(transfer: Transfer, known: PendingTransfer | undefined, nowMs: number): void {
    byId.set(transfer.transferId, {
      transfer,
      payer: known?.payer ?? null,
      hold: known?.hold ?? null,
      phase: "pending",
      waiters: known?.waiters ?? [],
      first: known?.first ?? null,
      attempts: 1, // by whoever wrote the record
      nextDriveMs: nowMs,
    });
    shift(transfer, 1);
  }

  return {
    get size() {
      return byId.size;
    },
    get: (transferId) => byId.get(transferId),
    outOf: (walletId) => inTransit.get(walletId) ?? ZERO,
    reserve(transfer, payer, hold, waiter) {
      if (byId.has(transfer.transferId)) {
        throw new Error(`transfer ${transfer.transferId} is reserved twice`);
      }
      const waiters = [waiter];
      const nextDriveMs = 0;
      byId.set(transfer.transferId, {
        transfer,
        payer,
        hold,
        phase: "reserved",
        waiters,
        first: waiter,
        attempts: 0,
        nextDriveMs,
      });
      shift(transfer, 1);
    },
    forget(transferId) {
      const pending = must(transferId, "reserved");
      byId.delete(transferId);
      shift(pending.transfer, -1);
    },
    committed(transferId, nowMs) {
      const pending = must(transferId, "reserved");
      pending.phase = "pending";
      pending.attempts = 1;
      pending.nextDriveMs = nowMs + drivePauseMs(1);
      return pending;
    },
    settling(pending) {
      must(pending.transfer.transferId, "pending").phase = "settling";
      shift(pending.transfer, -1);
    },
    unsettled(transferId) {
      const pending = must(transferId, "settling");
      pending.phase = "pending";
      shift(pending.transfer, 1);
    },
    settled(transferId) {
      const pending = must(transferId, "settling");
      byId.delete(transferId);
      return pending;
    },
    due(nowMs) {
      const due: PendingTransfer[] = [];
      for (const [, pending] of byId) {
        if (pending.phase !== "pending" || pending.nextDriveMs > nowMs) continue;
        pending.attempts += 1;
        pending.nextDriveMs = nowMs + drivePauseMs(pending.attempts);
        due.push(pending);
      }
      return due;
    },
    impatient(nowMs) {
      const impatient: Array<{ pending: PendingTransfer; waiter: CommandMessage }> = [];
      for (const [, pending] of byId) {
        if (pending.phase !== "pending" || pending.waiters.length === 0) continue;
        const late = pending.waiters.filter(
          (waiter) => waiter.expiresAtMs - LIMITS.transferPendingMarginMs <= nowMs,
        );
        if (late.length === 0) continue;
        pending.waiters = pending.waiters.filter((waiter) => !late.includes(waiter));
        for (const waiter of late) impatient.push({ pending, waiter });
      }
      return impatient;
    },
    reload(transfers, nowMs) {
      const before = byId;
      byId = buildTransitMap();
      inTransit.clear();
      for (const transfer of transfers) readBack(transfer, before.get(transfer.transferId), nowMs);
      const unheard: CommandMessage[] = [];
      for (const [transferId, { waiters }] of before) {
        if (!byId.has(transferId)) unheard.push(...waiters);
      }
      return unheard;
    },
    add(transfers, nowMs) {
      for (const transfer of transfers) {
        if (!byId.has(transfer.transferId)) readBack(transfer, undefined, nowMs);
      }
    },
    dropWhere(isLost) {
      const waiters: CommandMessage[] = [];
      for (const [transferId, pending] of byId) {
        const { fromWalletId } = pending.transfer;
        if (!isLost(fromWalletId)) continue;
        byId.delete(transferId);
        inTransit.delete(fromWalletId);
        waiters.push(...pending.waiters);
      }
      return waiters;
    },
  };
}

/** The message that asks the payee for its verdict. */
export function postOf({ transfer, attempts: attempt, first }: PendingTransfer): PostMessage {
  const traceparent = first?.command.traceparent;
  const { transferId, fromWalletId, amountMinor: amount, currency, decimalPlaces } = transfer;
  return {
    type: "post",
    walletId: transfer.toWalletId,
    attempt,
    step: {
      type: "receive",
      transferId,
      fromWalletId,
      amountMinor: amount,
      currency,
      decimalPlaces,
    },
    commandId: transfer.commandId,
    correlationId: transfer.correlationId,
    description: transfer.description,
    ...(traceparent !== undefined && { traceparent }),
  };
}

/** How the transfer stands, for one who asked for it. */
export function answerOf(
  { transfer, hold }: PendingTransfer,
  payer: WalletState,
  status: TransferAnswer["status"],
  toVersion: number | null,
  payee: WalletState | null,
): TransferAnswer {
  const { transferId, toWalletId } = transfer;
  return { transferId, status, from: payer, to: payee, toWalletId, toVersion, hold };
}
