/**
 * Questions about what is committed, asked of PostgreSQL directly: no actor is woken to read. What a reply or a frame has told can
 * be read here, since nothing is told before its commit. Every query is bounded in rows and in time.
 */
import type { AmountMinor } from "./amount.ts";
import type { Rejection, WalletStatus } from "./rejection.ts";
import type { Transfer, TransferStatus } from "./transfer.ts";
import type { WalletEventType, WalletState } from "./wallet.ts";

/** An event as it was committed. */
export interface StoredEvent {
  readonly walletId: string;
  readonly version: number;
  readonly type: WalletEventType;
  readonly amountMinor: AmountMinor | null;
  /** Balance, held and status right after the event. */
  readonly balanceMinor: AmountMinor;
  readonly heldMinor: AmountMinor;
  readonly status: WalletStatus;
  /** The system account on the other side, such as `system:world`; null when no money moved. */
  readonly account: string | null;
  /** The other wallet of a transfer. */
  readonly counterpartyId: string | null;
  readonly transferId: string | null;
  readonly commandId: string | null;
  readonly correlationId: string;
  readonly causationId: string | null;
  readonly description: string | null;
  readonly data: { readonly [key: string]: unknown } | null;
  readonly occurredAtMs: number;
}

/** What became of a command id within a wallet. */
export interface Operation {
  readonly commandId: string;
  readonly walletId: string;
  /** Version that the command produced; null when it was rejected. */
  readonly version: number | null;
  readonly rejection: Rejection | null;
  readonly transferId: string | null;
}

export interface WalletFilter {
  readonly ownerId?: string;
  readonly status?: WalletStatus;
  readonly currency?: string;
}

export interface TransactionFilter {
  readonly types?: readonly WalletEventType[];
  /** Credits of this kind only. */
  readonly kind?: "CREDIT" | "FUND";
  /** Inclusive, milliseconds since 1970. */
  readonly fromMs?: number;
  /** Exclusive. */
  readonly toMs?: number;
}

export interface ReadModel {
  wallet(walletId: string): Promise<WalletState | null>;
  /** The given wallets that exist, in no order. At most `LIMITS.queryRowsMax` ids. */
  walletsById(walletIds: readonly string[]): Promise<WalletState[]>;
  /** The wallet right after its event `version`; null when it has no such version. */
  walletAt(walletId: string, version: number): Promise<WalletState | null>;
  /** Wallets in the order of their ids, byte by byte, after `afterWalletId`. */
  wallets(
    filter: WalletFilter,
    limit: number,
    afterWalletId: string | null,
  ): Promise<WalletState[]>;
  /** In the same order. */
  walletIdsOfOwner(ownerId: string, limit: number): Promise<string[]>;
  /** Events with `version >= fromVersion`, oldest first. */
  events(walletId: string, fromVersion: number, limit: number): Promise<StoredEvent[]>;
  /** Events that moved money, newest first, with `version < beforeVersion` (null: from the newest). */
  transactions(
    walletId: string,
    filter: TransactionFilter,
    limit: number,
    beforeVersion: number | null,
  ): Promise<StoredEvent[]>;
  transfer(transferId: string): Promise<Transfer | null>;
  /** Transfers out of the wallet, newest first. */
  transfersOf(walletId: string, status: TransferStatus | null, limit: number): Promise<Transfer[]>;
  /** Every wallet's record of a command id; `walletId` narrows it to one. */
  operations(commandId: string, walletId: string | null): Promise<Operation[]>;
  /** Round trip in milliseconds to the database that answers first; rejects when none does. */
  ping(): Promise<number>;
  close(): Promise<void>;
}
