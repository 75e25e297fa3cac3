/**
 * An event as everybody outside gets it: the same JSON from `GET /wallets/:id/events`, on the event
 * stream and in a webhook, with decimals and ISO times. In `src`, since the gateway answers with it
 * and the relay publishes it.
 */
import { toDecimal } from "./core/amount.ts";
import { remainingMinor, type Hold, type HoldKind, type HoldStatus } from "./core/hold.ts";
import type { StoredEvent } from "./core/read-model.ts";
import type { WalletStatus } from "./core/rejection.ts";

export interface EventBody {
  /** `walletId:version`: names the event for ever. */
  readonly id: string;
  readonly walletId: string;
  readonly version: number;
  readonly type: string;
  readonly amount: number | null;
  /** Balance, held and status right after the event. */
  readonly balance: number;
  readonly held: number;
  readonly status: WalletStatus;
  readonly account: string | null;
  readonly counterpartyId: string | null;
  readonly transferId: string | null;
  readonly description: string | null;
  readonly data: { readonly [key: string]: unknown };
  readonly metadata: {
    readonly occurredAt: string;
    readonly correlationId: string;
    readonly causationId: string | null;
  };
}

export function eventBody(event: StoredEvent, decimalPlaces: number): EventBody {
  const { walletId, version, amountMinor } = event;
  return {
    id: eventId(event),
    walletId,
    version,
    type: event.type,
    amount: amountMinor === null ? null : toDecimal(amountMinor, decimalPlaces),
    balance: toDecimal(event.balanceMinor, decimalPlaces),
    held: toDecimal(event.heldMinor, decimalPlaces),
    status: event.status,
    account: event.account,
    counterpartyId: event.counterpartyId,
    transferId: event.transferId,
    description: event.description,
    data: dataBody(event.data ?? {}, decimalPlaces),
    metadata: {
      occurredAt: new Date(event.occurredAtMs).toISOString(),
      correlationId: event.correlationId,
      causationId: event.causationId ?? event.commandId,
    },
  };
}

/** The data of an event with amounts as decimals, like everywhere outside. */
function dataBody(
  data: NonNullable<StoredEvent["data"]>,
  decimalPlaces: number,
): EventBody["data"] {
  const { hold, releasedMinor, ...rest } = data;
  if (hold === undefined) return data;
  return {
    ...rest,
    ...(releasedMinor !== undefined && {
      released: toDecimal(Number(releasedMinor), decimalPlaces),
    }),
    hold: holdBody(hold as Hold, decimalPlaces),
  };
}

export interface HoldBody {
  readonly id: string;
  readonly walletId: string;
  readonly amount: number;
  readonly captured: number;
  readonly remaining: number;
  readonly status: HoldStatus;
  readonly type: HoldKind;
  readonly reference: string | null;
  readonly description: string | null;
  readonly expiresAt: string | null;
  readonly releasedAt: string | null;
  readonly capturedAt: string | null;
  readonly createdAt: string;
}

/** A hold as callers see it: decimals and ISO times. */
export function holdBody(hold: Hold, decimalPlaces: number): HoldBody {
  const { amountMinor, capturedMinor, expiresAtMs, releasedAtMs, capturedAtMs } = hold;
  const isoTime = (atMs: number): string => new Date(atMs).toISOString();
  const timeOf = (atMs: number | null): string | null => (atMs === null ? null : isoTime(atMs));
  return {
    id: hold.holdId,
    walletId: hold.walletId,
    amount: toDecimal(amountMinor, decimalPlaces),
    captured: toDecimal(capturedMinor, decimalPlaces),
    remaining: toDecimal(remainingMinor(hold), decimalPlaces),
    status: hold.status,
    type: hold.kind,
    reference: hold.reference,
    description: hold.description,
    expiresAt: timeOf(expiresAtMs),
    releasedAt: timeOf(releasedAtMs),
    capturedAt: timeOf(capturedAtMs),
    createdAt: isoTime(hold.createdAtMs),
  };
}

/** Names an event for ever, also where it is told twice. */
export function eventId({ walletId, version }: Pick<StoredEvent, "walletId" | "version">): string {
  return `${walletId}:${version}`;
}
