/**
 * The read port: questions about what is committed, asked of the database directly, so no actor is
 * woken to read. It hides PostgreSQL (`postgres/read-model.ts`) from the gateway, and lets a
 * simulator put its own in place. What a reply or a frame has told can be read here, since nothing
 * is told before its commit. Every query is bounded in rows and in time.
 */
import type { AmountMinor } from "./amount.ts";
import type { Hold, HoldStatus } from "./hold.ts";
import type { Rejection, WalletStatus } from "./rejection.ts";
import type { Transfer, TransferStatus } from "./transfer.ts";
import type { CreditKind, WalletEventType, WalletState } from "./wallet.ts";

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

/** Some rows in the order of their keys. */
export interface Page<Row, Key> {
  readonly rows: readonly Row[];
  /**
   * Everything up to this key has been looked at: the next page begins behind it. Null when nothing
   * is behind it.
   */
  readonly next: Key | null;
}

export interface WalletFilter {
  readonly ownerId?: string;
  readonly status?: WalletStatus;
  readonly currency?: string;
  /** Decimals in units of each wallet's asset, both inclusive. */
  readonly minBalance?: string;
  readonly maxBalance?: string;
  /** Top-level keys whose value is this text, or a number or boolean that is written so. */
  readonly metadata?: ReadonlyMap<string, string>;
  /**
   * Words that all are in the id, the owner's id or the metadata's strings and numbers; from three
   * characters on, beginnings do.
   */
  readonly text?: string;
}

export interface TransactionFilter {
  readonly types?: readonly WalletEventType[];
  /** Credits or debits of this kind only; `CREDIT` and `DEBIT` are those that name none. */
  readonly kind?: CreditKind | "DEBIT" | "SPEND";
  /** Inclusive, milliseconds since 1970. */
  readonly fromMs?: number;
  /** Exclusive. */
  readonly toMs?: number;
}

/** A transfer as one of its wallets has it. */
export interface WalletTransfer {
  /** The wallet's version that sent or received it. */
  readonly version: number;
  readonly transfer: Transfer;
}

export interface AccountTotal {
  readonly currency: string;
  readonly decimalPlaces: number;
  /** `wallets`, or a system account. */
  readonly account: string;
  /** A sum over many wallets may leave the safe integers. */
  readonly balanceMinor: bigint;
}

/**
 * Why there is no answer: the database is away, has too many readers already, or the question takes
 * longer than it may.
 */
export type ReadFault = "unavailable" | "overloaded" | "query_too_slow";

/**
 * No answer from the database. Nothing was changed; the same may work later, unless it was too
 * slow.
 */
export class ReadUnavailable extends Error {
  override readonly name = "ReadUnavailable";
  readonly reason: ReadFault;
  constructor(reason: ReadFault, message: string, cause?: unknown) {
    super(message, { cause });
    this.reason = reason;
  }
}

/** Any of these questions may reject with `ReadUnavailable`. */
export interface ReadModel {
  wallet(walletId: string): Promise<WalletState | null>;
  /** The given wallets that exist, in no order. At most `LIMITS.queryRowsMax` ids. */
  walletsById(walletIds: readonly string[]): Promise<WalletState[]>;
  /** The wallet right after its event `version`; null when it has no such version. */
  walletAt(walletId: string, version: number): Promise<WalletState | null>;
  /**
   * The wallet right after its last event at or before a time, milliseconds since 1970; null when
   * it did not exist.
   */
  walletAtTime(walletId: string, atMs: number): Promise<WalletState | null>;
  /**
   * Wallets in the order of their ids, byte by byte, after `afterWalletId`. A page may be short and
   * have a next one.
   */
  wallets(
    filter: WalletFilter,
    limit: number,
    afterWalletId: string | null,
  ): Promise<Page<WalletState, string>>;
  /** In the same order. */
  walletIdsOfOwner(ownerId: string, limit: number): Promise<string[]>;
  /** Events with `version >= fromVersion`, oldest first. */
  events(walletId: string, fromVersion: number, limit: number): Promise<StoredEvent[]>;
  /**
   * Events that moved money, newest first, with `version < beforeVersion` (null: from the newest).
   * A page may be short and have a next one.
   */
  transactions(
    walletId: string,
    filter: TransactionFilter,
    limit: number,
    beforeVersion: number | null,
  ): Promise<Page<StoredEvent, number>>;
  /** One that its payee has is posted, also before its payer's record says so. */
  transfer(transferId: string): Promise<Transfer | null>;
  /**
   * Events of the transfer in all its wallets, in the order of the protocol: sent, received,
   * returned.
   */
  transferEvents(transferId: string): Promise<StoredEvent[]>;
  /**
   * Transfers that the wallet has sent or received, newest first, with the wallet's own `version <
   * beforeVersion` (null: from the newest). One that its payee has is posted, also before its
   * payer's record says so. A page may be short and have a next one.
   */
  transfersOf(
    walletId: string,
    status: TransferStatus | null,
    limit: number,
    beforeVersion: number | null,
  ): Promise<Page<WalletTransfer, number>>;
  /** A hold of the wallet; null when it has no such hold. */
  hold(walletId: string, holdId: string): Promise<Hold | null>;
  /** The wallet's holds, newest first, with `holdId < beforeHoldId` (null: from the newest). */
  holds(
    walletId: string,
    status: HoldStatus | null,
    limit: number,
    beforeHoldId: string | null,
  ): Promise<Page<Hold, string>>;
  /**
   * The hold that the wallet's event `version` was about, right after it; null when it was about
   * none.
   */
  holdAt(walletId: string, version: number): Promise<Hold | null>;
  /** Every wallet's record of a command id; `walletId` narrows it to one. */
  operations(commandId: string, walletId: string | null): Promise<Operation[]>;
  /**
   * Every account's total, of one currency or of all: the wallets' by their balances, the others'
   * by all events. What has been added up is kept, for the next to go on from; it is bounded by a
   * time of its own, and one that ends by it has brought the next nearer.
   */
  trialBalance(currency: string | null): Promise<AccountTotal[]>;
  /** Round trip in milliseconds to the database that answers first; rejects when none does. */
  ping(): Promise<number>;
  close(): Promise<void>;
}
