/**
 * The audit of one transfer: its record, its verdict and its events, which are in up to two
 * databases, held against each other. Pure: it judges facts that somebody has gathered
 * (`transfer-facts.ts`). Facts from two databases may be from two moments, so what looks wrong may
 * have been under way; `verify.ts` looks again before it is named.
 */
import type { Found, Name } from "./differences.ts";
import { canonicalJson } from "../core/metadata.ts";
import type { Rejection } from "../core/rejection.ts";
import { shardOf } from "../core/shard.ts";
import type { Transfer } from "../core/transfer.ts";

/** The payer's record, and where it was found. */
export type TransferRow = Transfer & { readonly shard: number; readonly database: number };

export interface VerdictRow {
  readonly transferId: string;
  readonly toWalletId: string;
  /** Null: refused. */
  readonly toVersion: number | null;
  readonly rejection: Rejection | null;
  readonly decidedAtMs: number;
}

export interface TransferEventRow {
  readonly walletId: string;
  readonly version: number;
  readonly type: string;
  readonly amountMinor: number | null;
  readonly counterpartyId: string | null;
  readonly transferId: string | null;
  readonly commandId: string | null;
  readonly correlationId: string | null;
  readonly description: string | null;
  readonly holdId: string | null;
  /** Of its wallet; null when that has no row. */
  readonly currency: string | null;
  /** As its wallet was created; null when that event is gone. */
  readonly createdCurrency: string | null;
  readonly createdDecimalPlaces: number | null;
}

/** Fields of a record that the payer's events fix, with the names of their columns. */
const RECORD_FIELDS = [
  ["currency", "currency", "createdCurrency"],
  ["decimal_places", "decimalPlaces", "createdDecimalPlaces"],
  ["command_id", "commandId", "commandId"],
  ["correlation_id", "correlationId", "correlationId"],
  ["description", "description", "description"],
  ["hold_id", "holdId", "holdId"],
] as const;

export interface TransferFacts {
  readonly transferId: string;
  readonly row: TransferRow | null;
  readonly verdict: VerdictRow | null;
  /** What is at the payer's version that the record names. */
  readonly sent: TransferEventRow | null;
  /** What is at the payee's version that the verdict names, or else the record. */
  readonly received: TransferEventRow | null;
  /** Every `TransferReturned` with this id. */
  readonly returned: readonly TransferEventRow[];
}

/** @param databases how many the shards are spread over */
export function auditTransfer(
  facts: TransferFacts,
  at: { readonly databases: number; readonly nowMs: number; readonly stuckMs: number },
  nameIt: Name,
): void {
  const { transferId, row, verdict } = facts;
  const name = (found: Found): void => nameIt({ transferId, ...found });
  if (verdict !== null) auditArrival(facts, verdict, name);
  if (row === null) {
    if (verdict === null) return;
    const found = verdict.toVersion === null ? "a refusal" : "a verdict: posted";
    const walletId = verdict.toWalletId;
    name({ kind: "transfer_missing", walletId, expected: "the payer's record", found });
    return;
  }
  auditPlace(row, at.databases, name);
  auditSent(facts, row, name);
  auditStatus(facts, row, name);
  auditReturns(facts, row, name);
  const pendingMs = at.nowMs - row.createdAtMs;
  const { stuckMs } = at;
  if (row.status === "pending" && pendingMs > stuckMs) {
    const expected = `settled within ${stuckMs / 1_000} s`;
    const found = `pending for ${Math.round(pendingMs / 1_000)} s`;
    name({ kind: "transfer_stuck", walletId: row.fromWalletId, expected, found });
  }
}

/**
 * The money that the transfer has in transit, as these facts show it: taken from the payer, and
 * neither arrived nor returned. Where events are gone, those that came in their place may be of
 * other transfers.
 */
export function inTransitMinor({ transferId, sent, received, returned }: TransferFacts): number {
  const moved = (event: TransferEventRow | null, type: string): number =>
    event?.type === type && event.transferId === transferId ? (event.amountMinor ?? 0) : 0;
  const cameBack = returned.reduce((sum, one) => sum + (one.amountMinor ?? 0), 0);
  return moved(sent, "TransferSent") - moved(received, "TransferReceived") - cameBack;
}

function auditPlace(row: TransferRow, databases: number, name: Name): void {
  const { fromWalletId: walletId } = row;
  const shard = shardOf(walletId);
  if (row.shard !== shard || row.database !== shard % databases) {
    const found = `shard ${row.shard} in database ${row.database + 1}`;
    const expected = `shard ${shard} in database ${(shard % databases) + 1}`;
    name({ kind: "transfer_place", walletId, expected, found });
  }
}

function auditSent({ sent, transferId }: TransferFacts, row: TransferRow, name: Name): void {
  const { fromWalletId: walletId, fromVersion: version } = row;
  const expected = said("TransferSent", transferId, row.amountMinor, "to", row.toWalletId);
  const found = saidBy(sent, "to");
  if (found !== expected) name({ kind: "transfer_sent", walletId, version, expected, found });
  else auditRecord(sent!, row, name);
}

function auditRecord(sent: TransferEventRow, row: TransferRow, name: Name): void {
  const { fromWalletId: walletId, fromVersion: version } = row;
  for (const [field, key, told] of RECORD_FIELDS) {
    const [expected, found] = [sent[told], row[key]];
    // A wallet without its first event is named as such.
    const isUnknown = told.startsWith("created") && expected === null;
    if (found === expected || isUnknown) continue;
    name({ kind: "transfer_record", walletId, version, field, expected, found });
  }
}

/** A verdict `posted` says that the money is there. */
function auditArrival(
  { received, row, transferId }: TransferFacts,
  { toWalletId: walletId, toVersion: version }: VerdictRow,
  name: Name,
): void {
  if (version === null) return;
  const amount = row?.amountMinor ?? received?.amountMinor ?? null;
  const from = row?.fromWalletId ?? received?.counterpartyId ?? null;
  const expected = said("TransferReceived", transferId, amount, "from", from);
  const found = saidBy(received, "from");
  if (found !== expected) name({ kind: "transfer_received", walletId, version, expected, found });
}

function auditStatus(facts: TransferFacts, row: TransferRow, name: Name): void {
  const { verdict, received } = facts;
  const { fromWalletId: walletId, toWalletId, fromVersion: version, status } = row;
  if (verdict === null) {
    if (status === "pending") return;
    const isArrived = received?.transferId === facts.transferId;
    const preposition = received?.type === "TransferReceived" ? "from" : "to";
    const found = isArrived ? `${received.type} without a verdict` : saidBy(received, preposition);
    const expected = status === "posted" ? `posted at version ${row.toVersion}` : "refused";
    const place = { walletId: toWalletId, version: row.toVersion };
    name({ kind: "verdict_missing", ...place, expected, found });
    return;
  }
  const kind = "transfer_status";
  if (verdict.toWalletId !== toWalletId) {
    const found = toWalletId;
    name({ kind, walletId, version, field: "to_wallet", expected: verdict.toWalletId, found });
  }
  if (status === "pending") return;
  const expected = verdict.toVersion === null ? "returned" : `posted at ${verdict.toVersion}`;
  const found = status === "returned" ? "returned" : `posted at ${row.toVersion}`;
  if (found !== expected) name({ kind, walletId, version, field: "status", expected, found });
  else auditRejection(verdict, row, name);
}

/** The caller is told the verdict's reason, by the record. */
function auditRejection(verdict: VerdictRow, row: TransferRow, name: Name): void {
  const { fromWalletId: walletId, fromVersion: version } = row;
  const [expected, found] = [verdict, row].map(({ rejection }) => canonicalJson(rejection));
  if (found === expected) return;
  name({
    kind: "transfer_record",
    walletId,
    version,
    field: "rejection",
    expected: expected!,
    found: found!,
  });
}

function auditReturns(facts: TransferFacts, row: TransferRow, name: Name): void {
  const { returned, transferId } = facts;
  const { fromWalletId: walletId, status } = row;
  const wanted = status === "returned" ? 1 : 0;
  const [first] = returned;
  const kind = "transfer_returned";
  if (returned.length !== wanted || first === undefined) {
    if (returned.length === wanted) return;
    const place = { walletId, version: returned.at(-1)?.version ?? null };
    const expected = wanted === 1 ? "one TransferReturned" : `none, it is ${status}`;
    name({ kind, ...place, expected, found: `${returned.length}` });
    return;
  }
  const expected = `${walletId}: ${said("TransferReturned", transferId, row.amountMinor, "to", row.toWalletId)}`;
  const found = `${first.walletId}: ${saidBy(first, "to")}`;
  const { version } = first;
  if (found !== expected) name({ kind, walletId, version, expected, found });
}

/** An event of a transfer in words, so that two can be compared and both be shown. */
function said(
  type: string,
  transferId: string | null,
  amount: number | null,
  preposition: "from" | "to",
  counterpartyId: string | null,
): string {
  return `${type} ${transferId} of ${amount} ${preposition} ${counterpartyId}`;
}

function saidBy(event: TransferEventRow | null, preposition: "from" | "to"): string | null {
  if (event === null) return null;
  const { type, transferId, amountMinor, counterpartyId } = event;
  return said(type, transferId, amountMinor, preposition, counterpartyId);
}
