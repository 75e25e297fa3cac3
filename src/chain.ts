/**
 * The hash chain of a wallet's events. Each event's hash covers everything its row says and the
 * hash of the event before it, so one that is changed, removed, inserted or moved around the
 * triggers of the database breaks the chain at its place, and the head is kept in the wallet's row.
 * It hides the one spelling that both sides hash: the lane when it decides, from memory, and a
 * check, from the rows. What it traded: who can write to both tables can write a whole new chain; a
 * head that is kept elsewhere tells.
 */
import { hash } from "node:crypto";

import { accountOf, dataOf } from "./core/event-row.ts";
import type { NewEvent } from "./core/journal.ts";
import { canonicalJson } from "./core/metadata.ts";
import type { StoredEvent } from "./core/read-model.ts";

/** What the first event is chained to. */
const NOTHING_BEFORE = "0".repeat(64);

/**
 * SHA-256, as 64 hexadecimal digits, of the previous event's hash (null: there is none, or it is
 * from before there were hashes) and this event.
 */
export function chainHash(previous: string | null, event: Omit<NewEvent, "hash">): string {
  const { event: body } = event;
  const data = dataOf(event);
  return digest([
    previous ?? NOTHING_BEFORE,
    event.walletId,
    event.version,
    body.type,
    "amountMinor" in body ? body.amountMinor : null,
    event.balanceMinor,
    event.heldMinor,
    event.status,
    accountOf(body),
    "counterpartyId" in body ? body.counterpartyId : null,
    "transferId" in body ? body.transferId : null,
    event.commandId,
    event.fingerprint,
    body.occurredAtMs,
    event.correlationId,
    event.causationId,
    event.description,
    data === null ? null : canonicalJson(JSON.parse(data)),
  ]);
}

/** The same of an event as it is stored. */
export function chainHashOfRow(
  previous: string | null,
  row: StoredEvent & { readonly fingerprint: string | null },
): string {
  return digest([
    previous ?? NOTHING_BEFORE,
    row.walletId,
    row.version,
    row.type,
    row.amountMinor,
    row.balanceMinor,
    row.heldMinor,
    row.status,
    row.account,
    row.counterpartyId,
    row.transferId,
    row.commandId,
    row.fingerprint,
    row.occurredAtMs,
    row.correlationId,
    row.causationId,
    row.description,
    row.data === null ? null : canonicalJson(row.data),
  ]);
}

function digest(fields: readonly unknown[]): string {
  return hash("sha256", JSON.stringify(fields), "hex");
}
