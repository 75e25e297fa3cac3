/**
 * How an event becomes a row: the account on the other side of its money, and its data. It is in
 * one place because three must agree to the letter: the statement that writes the row, the hash
 * that the row is chained by, and whoever checks both later. Pure.
 */
import type { NewEvent } from "./journal.ts";
import type { WalletEvent } from "./wallet.ts";

/** The system account on the other side of a money event. */
export function accountOf(event: WalletEvent): string | null {
  switch (event.type) {
    case "WalletCredited":
      if (event.kind === "TOPUP") return "system:treasury";
      return event.kind === "BONUS" ? "system:bonus" : "system:world";
    case "WalletDebited":
      return event.kind === "SPEND" ? "system:revenue" : "system:world";
    case "HoldCaptured":
      return "system:world";
    case "TransferSent":
    case "TransferReceived":
    case "TransferReturned":
      return "system:transit";
    case "WalletCreated":
    case "WalletMetadataChanged":
    case "WalletSuspended":
    case "WalletActivated":
    case "WalletClosed":
    case "HoldPlaced":
    case "HoldReleased":
    case "HoldExpired":
      return null;
    default:
      return event satisfies never;
  }
}

/**
 * JSON text of what is particular to an event's type, with the caller's metadata; null when there
 * is nothing to say.
 */
export function dataOf({
  event,
  metadata,
  isIdProposed,
}: Pick<NewEvent, "event" | "metadata" | "isIdProposed">): string | null {
  const parts: string[] = [];
  if (event.type === "WalletCreated") {
    const { ownerId, currency, decimalPlaces } = event;
    parts.push(JSON.stringify({ ownerId, currency, decimalPlaces }).slice(1, -1));
    if (isIdProposed) parts.push(`"isIdProposed":true`);
    parts.push(`"walletMetadata":${event.metadata}`);
  }
  if (event.type === "WalletMetadataChanged") parts.push(`"walletMetadata":${event.metadata}`);
  if (event.type === "WalletCredited" && event.kind !== "CREDIT") {
    parts.push(`"kind":"${event.kind}"`);
  }
  if (event.type === "WalletDebited" && event.kind !== undefined) {
    parts.push(`"kind":"${event.kind}"`);
  }
  if ("releasedMinor" in event) parts.push(`"releasedMinor":${event.releasedMinor}`);
  if ("hold" in event) parts.push(`"hold":${JSON.stringify(event.hold)}`);
  if (metadata !== null) parts.push(`"metadata":${metadata}`);
  return parts.length === 0 ? null : `{${parts.join(",")}}`;
}
