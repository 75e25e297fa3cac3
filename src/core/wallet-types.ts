/**
 * What a wallet is, what it may be asked, and what it answers: types alone, no code. They stand by
 * themselves because the rules (`rules.ts`, `holding.ts`) need them as well as `decide`, which asks
 * those rules; nothing imports in a circle. `wallet.ts` passes them on, and everybody else takes
 * them from there.
 */
import type { AmountMinor } from "./amount.ts";
import type { Hold, HoldKind } from "./hold.ts";
import type { Rejection, WalletStatus } from "./rejection.ts";

export interface WalletState {
  readonly walletId: string;
  readonly ownerId: string | null;
  readonly currency: string;
  /** Decimal places of the asset, fixed at creation. */
  readonly decimalPlaces: number;
  readonly balanceMinor: AmountMinor;
  /** Part of the balance that holds have set aside; 0 <= held <= balance. */
  readonly heldMinor: AmountMinor;
  readonly status: WalletStatus;
  readonly version: number;
  /** JSON text of the caller's metadata object; nothing is decided by what is inside. */
  readonly metadata: string;
  readonly createdAtMs: number;
  readonly updatedAtMs: number;
}

/** What a credit is for: it names the transaction, and the system account that pays. */
export type CreditKind = "CREDIT" | "FUND" | "TOPUP" | "BONUS";

/**
 * Whose wallet of which asset a command means, when the wallet's id is made of the two. Several
 * pairs may make the same id.
 */
export interface UserWallet {
  readonly ownerId: string;
  readonly currency: string;
}

/**
 * What a command asks of one wallet. Amounts are canonical decimal text (`canonicalAmount`), since
 * only the wallet knows its asset.
 */
export type WalletCommand =
  | {
      readonly type: "create";
      readonly ownerId: string | null;
      readonly currency: string;
      readonly decimalPlaces: number;
      readonly initialBalance: string | null;
      readonly metadata: string;
    }
  | {
      readonly type: "credit";
      readonly amount: string;
      readonly kind: CreditKind;
      /** The wallet must be this one; if it is not there, the credit makes it. */
      readonly of?: UserWallet & { readonly decimalPlaces: number };
    }
  | {
      readonly type: "debit";
      readonly amount: string;
      readonly kind?: "SPEND";
      readonly of?: UserWallet;
    }
  | {
      readonly type: "transfer";
      readonly transferId: string;
      readonly toWalletId: string;
      readonly amount: string;
    }
  | {
      readonly type: "hold";
      readonly holdId: string;
      readonly amount: string;
      readonly kind: HoldKind;
      readonly reference: string | null;
      readonly description: string | null;
      /**
       * One of them, or neither. Seconds are counted from the wallet's clock, so that a repeat says
       * the same.
       */
      readonly expiresAtMs: number | null;
      readonly expiresInSeconds: number | null;
    }
  | {
      readonly type: "capture";
      readonly holdId: string;
      /** Null: all that is left. */
      readonly amount: string | null;
      /** Let go of what is left then. */
      readonly final: boolean;
      /** Whom to pay; null: the money leaves the system. */
      readonly to: { readonly transferId: string; readonly walletId: string } | null;
    }
  | { readonly type: "release"; readonly holdId: string }
  /** JSON text of a merge patch for the metadata, as `canonicalMetadata` writes it. */
  | { readonly type: "update"; readonly patch: string }
  | { readonly type: "suspend" }
  | { readonly type: "activate" }
  | { readonly type: "close" };

/**
 * Steps of the transfer protocol at the payee and back at the payer (transfer.ts); never sent by a
 * caller.
 */
export type TransferStep =
  | {
      readonly type: "receive";
      readonly transferId: string;
      readonly fromWalletId: string;
      readonly amountMinor: AmountMinor;
      readonly currency: string;
      readonly decimalPlaces: number;
    }
  | {
      readonly type: "return";
      readonly transferId: string;
      readonly toWalletId: string;
      readonly amountMinor: AmountMinor;
      /**
       * The hold that the transfer has captured, as it is now; null when it was of another kind.
       */
      readonly hold: Hold | null;
    };

interface EventBase {
  readonly occurredAtMs: number;
}

export type WalletEvent = EventBase &
  (
    | {
        readonly type: "WalletCreated";
        readonly ownerId: string | null;
        readonly currency: string;
        readonly decimalPlaces: number;
        readonly metadata: string;
      }
    | {
        readonly type: "WalletCredited";
        readonly amountMinor: AmountMinor;
        readonly kind: CreditKind;
      }
    | {
        readonly type: "WalletDebited";
        readonly amountMinor: AmountMinor;
        readonly kind?: "SPEND";
      }
    | {
        readonly type: "TransferSent" | "TransferReceived" | "TransferReturned";
        readonly amountMinor: AmountMinor;
        readonly transferId: string;
        /**
         * The other wallet: the payee of a sent or returned transfer, the payer of a received one.
         */
        readonly counterpartyId: string;
        /** The payer's hold that it has captured, as it is after the event. */
        readonly hold?: Hold;
      }
    | {
        readonly type: "HoldPlaced";
        readonly hold: Hold;
      }
    | {
        readonly type: "HoldCaptured";
        readonly amountMinor: AmountMinor;
        /** What was left and is available again, since the capture was final. */
        readonly releasedMinor: AmountMinor;
        /** As it is after the event. */
        readonly hold: Hold;
      }
    | {
        readonly type: "HoldReleased" | "HoldExpired";
        readonly releasedMinor: AmountMinor;
        readonly hold: Hold;
      }
    | {
        readonly type: "WalletMetadataChanged";
        /** All of it, as it is from now on. */
        readonly metadata: string;
      }
    | { readonly type: "WalletSuspended" | "WalletActivated" | "WalletClosed" }
  );

export type WalletEventType = WalletEvent["type"];

/** What `decide` needs to know besides the state. */
export interface Circumstances {
  /**
   * The actor's clock, milliseconds since 1970; events never go back behind the wallet's last one.
   */
  readonly nowMs: number;
  /** Precondition of the caller: the version the wallet must have. */
  readonly expectedVersion: number | null;
  /**
   * Sum of the transfers out of this wallet without a settled verdict: money that may come back.
   */
  readonly pendingOutMinor: AmountMinor;
  /** Left out where the command is none about holds. */
  readonly holds?: {
    /** The hold that the command names, as it is; null when the wallet has no such hold. */
    readonly named: Hold | null;
    /** How many of the wallet's holds are active. */
    readonly activeCount: number;
  };
}

export type Decision =
  | { readonly ok: true; readonly events: readonly WalletEvent[] }
  | { readonly ok: false; readonly rejection: Rejection };
