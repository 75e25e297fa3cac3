/**
 * How history looks from outside, beside the events as they are (`src/event-body.ts`): transactions,
 * ledger entries and transfers, with decimals and ISO times. It holds the one mapping between event
 * types and the transaction types that the API inherits.
 */
import { toDecimal } from "../src/core/amount.ts";
import type { Hold } from "../src/core/hold.ts";
import type { StoredEvent, TransactionFilter } from "../src/core/read-model.ts";
import type { Transfer } from "../src/core/transfer.ts";
import type { WalletEventType } from "../src/core/wallet.ts";
import { isoTime } from "./answers.ts";
import { rejectionError } from "./errors.ts";
import type { LedgerEntryBody } from "./routes/ledger-schemas.ts";
import type { TransactionBody, TransferBody } from "./schemas.ts";

type TransactionType = TransactionBody["type"];

/**
 * Events that move money: their name among transactions, and the sign of their amount in the
 * balance.
 */
const MOVEMENTS: { readonly [Type in WalletEventType]?: { name: TransactionType; sign: 1 | -1 } } =
  {
    WalletCredited: { name: "CREDIT", sign: 1 },
    WalletDebited: { name: "DEBIT", sign: -1 },
    HoldCaptured: { name: "CAPTURE", sign: -1 },
    TransferSent: { name: "TRANSFER_OUT", sign: -1 },
    TransferReceived: { name: "TRANSFER_IN", sign: 1 },
    TransferReturned: { name: "TRANSFER_RETURNED", sign: 1 },
  };

/** What the event did to the wallet's balance; asked of events that move money only. */
function movementOf(event: StoredEvent): { name: TransactionType; deltaMinor: number } {
  const movement = MOVEMENTS[event.type];
  if (movement === undefined || event.amountMinor === null) {
    throw new Error(`${event.type} of wallet ${event.walletId} moved no money`);
  }
  const name = kindOf(event) ?? movement.name;
  return { name, deltaMinor: movement.sign * event.amountMinor };
}

export function transactionBody(event: StoredEvent, decimalPlaces: number): TransactionBody {
  const { walletId, version, balanceMinor } = event;
  const { name, deltaMinor } = movementOf(event);
  return {
    id: `${walletId}:${version}`,
    walletId,
    type: name,
    amount: toDecimal(Math.abs(deltaMinor), decimalPlaces),
    balanceBefore: toDecimal(balanceMinor - deltaMinor, decimalPlaces),
    balanceAfter: toDecimal(balanceMinor, decimalPlaces),
    status: "COMPLETED",
    description: event.description,
    reference: event.transferId ?? event.commandId ?? event.causationId ?? event.correlationId,
    ...ofHold(event),
    createdAt: isoTime(event.occurredAtMs),
  };
}

/** The hold whose money moved, so that a line of a statement leads to what was promised before. */
function ofHold({ data }: StoredEvent): { holdId?: string } {
  const hold = data?.["hold"] as Hold | undefined;
  return hold === undefined ? {} : { holdId: hold.holdId };
}

/** The event as double entry: what the wallet gains, the account on the other side loses. */
export function ledgerEntryBody(
  event: StoredEvent,
  { currency, decimalPlaces }: { readonly currency: string; readonly decimalPlaces: number },
): LedgerEntryBody {
  const { walletId, version, account } = event;
  const { name, deltaMinor } = movementOf(event);
  if (account === null) throw new Error(`event ${walletId}:${version} names no account`);
  return {
    id: `${walletId}:${version}`,
    walletId,
    version,
    type: name,
    currency,
    transferId: event.transferId,
    ...ofHold(event),
    description: event.description,
    occurredAt: isoTime(event.occurredAtMs),
    lines: [
      { account: `wallet:${walletId}`, amount: toDecimal(deltaMinor, decimalPlaces) },
      { account, amount: toDecimal(-deltaMinor, decimalPlaces) },
    ],
  };
}

/** Credits and debits of these kinds have a name of their own among transactions. */
const KINDS = {
  FUND: "WalletCredited",
  TOPUP: "WalletCredited",
  BONUS: "WalletCredited",
  SPEND: "WalletDebited",
} as const satisfies { readonly [Kind in TransactionType]?: "WalletCredited" | "WalletDebited" };

function isKind(name: unknown): name is keyof typeof KINDS {
  return typeof name === "string" && Object.hasOwn(KINDS, name);
}

function kindOf({ type, data }: StoredEvent): TransactionType | null {
  const kind = data?.["kind"];
  return isKind(kind) && KINDS[kind] === type ? kind : null;
}

/** Which events to read for a transaction type; a fund is a credit of a kind, a spend a debit. */
export function transactionFilter(type: TransactionType | undefined): TransactionFilter {
  if (type === undefined) return {};
  if (type === "CREDIT") return { types: ["WalletCredited"], kind: type };
  if (type === "DEBIT") return { types: ["WalletDebited"], kind: type };
  if (isKind(type)) return { types: [KINDS[type]], kind: type };
  const types = (Object.keys(MOVEMENTS) as WalletEventType[]).filter(
    (each) => MOVEMENTS[each]?.name === type,
  );
  return { types };
}

export function transferBody(transfer: Transfer): TransferBody {
  const { rejection, settledAtMs } = transfer;
  const captured = transfer.holdId === null ? {} : { holdId: transfer.holdId };
  const body = {
    transferId: transfer.transferId,
    fromWalletId: transfer.fromWalletId,
    toWalletId: transfer.toWalletId,
    amount: toDecimal(transfer.amountMinor, transfer.decimalPlaces),
    currency: transfer.currency,
    status: transfer.status,
    fromVersion: transfer.fromVersion,
    toVersion: transfer.toVersion,
    description: transfer.description,
    correlationId: transfer.correlationId,
    createdAt: isoTime(transfer.createdAtMs),
    settledAt: settledAtMs === null ? null : isoTime(settledAtMs),
  };
  if (rejection === null) return { ...body, ...captured };
  const { code, message } = rejectionError(rejection);
  return { ...body, ...captured, reason: { code, message } };
}
