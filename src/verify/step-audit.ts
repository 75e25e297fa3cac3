/**
 * The audit of events against what their own database says of the commands and transfers that they
 * are steps of: rejections, the payer's records, the payee's verdicts. All of it was written with
 * the events, in one commit and by one clock, and is read as of one moment, so nothing here has to
 * be looked at twice. What both sides of a transfer say together is in `transfer-audit.ts`. Pure.
 */
import type { Found, Name } from "./differences.ts";
import type { EventRow } from "../postgres/events.ts";
import type { TransferRow, VerdictRow } from "./transfer-audit.ts";

type Recorded = Omit<TransferRow, "database">;

/** Events, each wallet's in the order of their versions, with what they have to agree with. */
export interface Steps {
  readonly events: readonly EventRow[];
  readonly rejected: ReadonlyArray<{ walletId: string; commandId: string }>;
  readonly transfers: readonly Recorded[];
  /** Those whose commands have let go of the rest of a hold. */
  readonly completed: readonly Recorded[];
  readonly verdicts: readonly VerdictRow[];
}

export function auditSteps(steps: Steps, name: Name): void {
  const transfers = new Map(steps.transfers.map((one) => [one.transferId, one]));
  const verdicts = new Map(steps.verdicts.map((one) => [one.transferId, one]));
  const rejected = new Set(steps.rejected.map((one) => `${one.walletId} ${one.commandId}`));
  for (const [index, event] of steps.events.entries()) {
    const { walletId, version, transferId, commandId } = event;
    if (commandId !== null && rejected.has(`${walletId} ${commandId}`)) {
      const [expected, found] = ["an event or a rejection", "both"];
      name({ kind: "command_rejected_too", walletId, version, field: commandId, expected, found });
    }
    if (transferId === null) continue;
    const nameHere = (found: Found): void => name({ walletId, version, transferId, ...found });
    const time = timeOf(event, steps.events[index - 1]);
    if (event.type === "TransferReceived") {
      auditReceived(event, verdicts.get(transferId), time, nameHere);
    } else {
      auditSide(event, transfers.get(transferId), time, nameHere);
    }
  }
  auditCompletions(steps, name);
}

/** What was written with an event must say the time at which that was. */
type IsThen = (atMs: number | null) => boolean;

/**
 * A wallet's time stands still while its host's clock is behind it, so only an event that is later
 * than the one before it says what the clock said.
 */
function timeOf({ walletId, occurredAtMs }: EventRow, before: EventRow | undefined): IsThen {
  const isByClock = before?.walletId === walletId && before.occurredAtMs < occurredAtMs;
  return (atMs) => atMs !== null && (isByClock ? atMs === occurredAtMs : atMs <= occurredAtMs);
}

function auditReceived(
  { walletId, version, occurredAtMs }: EventRow,
  verdict: VerdictRow | undefined,
  isThen: IsThen,
  name: Name,
): void {
  if (verdict === undefined) {
    name({ kind: "verdict_missing", expected: `posted at version ${version}` });
    return;
  }
  const kind = "transfer_received";
  const { toWalletId, toVersion, decidedAtMs } = verdict;
  const [arrived, here] = [placeText(toWalletId, toVersion), placeText(walletId, version)];
  if (arrived !== here) name({ kind, expected: `only ${arrived}`, found: here });
  else if (!isThen(decidedAtMs)) {
    name({ kind, field: "decided_at", expected: occurredAtMs, found: decidedAtMs });
  }
}

/** The payer's. */
function auditSide(
  { walletId, version, type, occurredAtMs }: EventRow,
  row: Recorded | undefined,
  isThen: IsThen,
  name: Name,
): void {
  if (row === undefined) {
    name({ kind: "transfer_missing", expected: "the payer's record", found: type });
    return;
  }
  const kind = "transfer_record";
  const { createdAtMs, settledAtMs: found } = row;
  if (type === "TransferReturned") {
    const isWrong = row.status === "returned" && !isThen(found);
    if (isWrong) name({ kind, field: "settled_at", expected: occurredAtMs, found });
    return;
  }
  if (type !== "TransferSent") return;
  const [expected, here] = [
    placeText(row.fromWalletId, row.fromVersion),
    placeText(walletId, version),
  ];
  if (here !== expected) {
    name({ kind: "transfer_sent", expected: `only ${expected}`, found: here });
    return;
  }
  if (createdAtMs !== occurredAtMs) {
    name({ kind, field: "created_at", expected: occurredAtMs, found: createdAtMs });
  }
  if (found !== null && found < occurredAtMs) {
    name({ kind, field: "settled_at", expected: `${occurredAtMs} or later`, found });
  }
}

/**
 * What let go of a hold's rest was a final capture. The other way round nothing follows: former
 * versions had holds go on behind a final one that took the last cent.
 */
function auditCompletions({ completed }: Steps, name: Name): void {
  for (const { transferId, fromWalletId, fromVersion, isHoldFinal: found } of completed) {
    if (found) continue;
    const place = { walletId: fromWalletId, version: fromVersion, transferId };
    name({ kind: "transfer_record", ...place, field: "hold_final", expected: true, found });
  }
}

function placeText(walletId: string, version: number | null): string {
  return version === null ? `nothing at ${walletId}` : `${walletId} at version ${version}`;
}
