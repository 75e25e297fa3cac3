/**
 * What tests of repeats are made of: a wallet with a hold, commands without a fingerprint, and what
 * becomes of each, decided, written as a row and read back.
 */
import { amountMinor, ZERO } from "../../src/core/amount.ts";
import { accountOf, dataOf } from "../../src/core/event-row.ts";
import type { Hold } from "../../src/core/hold.ts";
import { recordOf, type EventRow } from "../../src/postgres/events.ts";
import type { Command } from "../../src/core/protocol.ts";
import type { Rejection } from "../../src/core/rejection.ts";
import type { CommandRecord } from "../../src/core/repeats.ts";
import {
  apply,
  decide,
  type WalletCommand,
  type WalletEvent,
  type WalletState,
} from "../../src/core/wallet.ts";

export const NOW_MS = 10_000;

const CREATED: WalletEvent = {
  type: "WalletCreated",
  ownerId: "ann",
  currency: "USD",
  decimalPlaces: 2,
  metadata: '{"a":1}',
  occurredAtMs: 1_000,
};

export function wallet(over: Partial<WalletState> = {}): WalletState {
  const state = apply("w", null, CREATED);
  return { ...state, balanceMinor: amountMinor(10_000), version: 4, ...over };
}

/** Half of it is captured. */
const HOLD: Hold = {
  holdId: "h",
  walletId: "w",
  amountMinor: amountMinor(2_000),
  capturedMinor: amountMinor(1_000),
  status: "ACTIVE",
  kind: "PAYMENT",
  reference: null,
  description: null,
  expiresAtMs: null,
  createdAtMs: 2_000,
  capturedAtMs: null,
  releasedAtMs: null,
};

export const HOLDING = wallet({ heldMinor: amountMinor(1_000) });

export function commandOf(body: WalletCommand, over: Partial<Command> = {}): Command {
  return {
    commandId: "made",
    fingerprint: null,
    walletId: "w",
    proposedId: false,
    expectedVersion: null,
    description: null,
    metadata: null,
    correlationId: "made",
    body,
    ...over,
  };
}

/** What becomes of it: the rejection, or its record as somebody reads it who was not there. */
export function outcomeOf(command: Command, state: WalletState | null): Rejection | CommandRecord {
  const { body, expectedVersion } = command;
  const named = "holdId" in body && body.holdId === HOLD.holdId ? HOLD : null;
  const holds = { named, activeCount: 1 };
  const at = { nowMs: NOW_MS, expectedVersion, pendingOutMinor: ZERO, holds };
  const decision = decide("w", state, body, at);
  if (!decision.ok) return decision.rejection;
  const rows: EventRow[] = state === null ? [] : [rowOf(commandOf(body), state, CREATED, "first")];
  let after = state;
  for (const event of decision.events) {
    after = apply("w", after, event);
    rows.push(rowOf(command, after, event, event === decision.events.at(-1) ? "made" : null));
  }
  const isHoldFinal = body.type === "capture" && body.to !== null ? body.final : null;
  return recordOf(rows.at(-1)!, rows[0]!, isHoldFinal);
}

function rowOf(
  { metadata, description, proposedId: isIdProposed }: Command,
  { version, balanceMinor, heldMinor, status }: WalletState,
  event: WalletEvent,
  commandId: string | null,
): EventRow {
  const json = dataOf({ event, metadata, isIdProposed });
  const data = json === null ? null : (JSON.parse(json) as NonNullable<EventRow["data"]>);
  const brought = data?.["walletMetadata"];
  return {
    walletId: "w",
    version: event === CREATED ? 0 : version,
    type: event.type,
    amountMinor: "amountMinor" in event ? event.amountMinor : null,
    balanceMinor,
    heldMinor,
    status,
    account: accountOf(event),
    counterpartyId: "counterpartyId" in event ? event.counterpartyId : null,
    transferId: "transferId" in event ? event.transferId : null,
    commandId,
    correlationId: "made",
    causationId: event === CREATED ? "first" : "made",
    description,
    data,
    occurredAtMs: event.occurredAtMs,
    // As PostgreSQL spells it.
    walletMetadata: brought === undefined ? null : JSON.stringify(brought, null, 1),
    fingerprint: null,
    shard: 0,
    position: 1,
    hash: null,
  };
}

export function isRecord(outcome: Rejection | CommandRecord): outcome is CommandRecord {
  return "event" in outcome;
}
