/**
 * The audit of holds after a run: every event that touches one is replayed by rules of its own,
 * sharing no code with what it judges, and at each step the wallet's `held` must be what its active
 * holds have left. Then the rows must be what the events made, nothing may be open whose time is
 * over, and every hold that a caller was told of must have been so. Returns sentences; none is
 * best.
 */
import type { Hold } from "../../src/core/hold.ts";
import { LIMITS } from "../../src/limits.ts";
import type { EventRow, SimulatedDatabase } from "./database.ts";
import type { History } from "./history.ts";

type Databases = readonly Pick<SimulatedDatabase, "tables">[];

/** A hold as its events tell it. */
interface Entry {
  readonly amount: number;
  readonly expiresAtMs: number | null;
  captured: number;
  status: string;
  /** It has ended for good, so nothing comes back under it. */
  isOver: boolean;
}

const leftOf = ({ status, amount, captured }: Entry): number =>
  status === "ACTIVE" ? amount - captured : 0;

export function checkHolds(databases: Databases, { entries }: History): string[] {
  const problems: string[] = [];
  const eventsOf = new Map(databases.flatMap(({ tables }) => [...tables.eventsOf]));
  const finals = new Set(
    databases.flatMap(({ tables }) =>
      [...tables.transfers.values()]
        .filter(({ isHoldFinal, status }) => isHoldFinal && status === "posted")
        .map(({ holdId }) => holdId),
    ),
  );
  const finalIds = new Set(
    entries
      .filter(({ command: { body } }) => body.type === "capture" && body.final)
      .map(({ command }) => command.commandId),
  );
  const holdOf = new Map(
    databases.flatMap(({ tables }) =>
      [...tables.transfers.values()].map(({ transferId, holdId }) => [transferId, holdId] as const),
    ),
  );
  const folded = new Map<string, Entry>();
  for (const [walletId, events] of eventsOf) {
    const own = new Map<string, Entry>();
    for (const event of events) {
      const problem =
        fold(own, event, finals, finalIds, holdOf) ??
        (sumOf(own) === event.heldMinor ? null : `holds have ${sumOf(own)} left`);
      if (problem === null) continue;
      problems.push(`${walletId}:${event.version} ${event.type}: ${problem}`);
      break;
    }
    for (const [holdId, entry] of own) folded.set(`${walletId} ${holdId}`, entry);
  }
  for (const { tables } of databases) {
    problems.push(...checkRows(tables.holds, folded, finals));
  }
  for (const { command, answers } of entries) {
    for (const { outcome } of answers) {
      const told =
        outcome.type === "done"
          ? { wallet: outcome.wallet, hold: outcome.hold ?? null }
          : outcome.type === "transferred"
            ? { wallet: outcome.transfer.from, hold: outcome.transfer.hold }
            : null;
      if (told === null) continue;
      const { walletId, version } = told.wallet;
      const was = eventsOf.get(walletId)?.[version]?.data?.["hold"] ?? null;
      if (spelled(was) === spelled(told.hold)) continue;
      problems.push(`${command.commandId} was told ${spelled(told.hold)}, it was ${spelled(was)}`);
    }
  }
  return problems;
}

function sumOf(own: ReadonlyMap<string, Entry>): number {
  return [...own.values()].reduce((sum, entry) => sum + leftOf(entry), 0);
}

function spelled(hold: unknown): string {
  return JSON.stringify(Object.entries(hold ?? {}).toSorted(([a], [b]) => (a < b ? -1 : 1)));
}

/**
 * What is wrong with the event, or null; the entry is as the event makes it. `finals`: the holds
 * that a final capture has paid to a wallet; `finalIds`: the commands that are final captures.
 */
function fold(
  own: Map<string, Entry>,
  { type, data, amountMinor, transferId, occurredAtMs, commandId }: EventRow,
  finals: ReadonlySet<string | null>,
  finalIds: ReadonlySet<string>,
  holdOf: ReadonlyMap<string, string | null>,
): string | null {
  const hold = (data?.["hold"] ?? null) as Hold | null;
  const mustHave = transferId === null ? type.startsWith("Hold") : (holdOf.get(transferId) ?? null);
  if (hold === null) {
    const isMissing = type !== "TransferReceived" && Boolean(mustHave);
    return isMissing ? "tells of no hold" : null;
  }
  if (transferId !== null && mustHave !== hold.holdId) return "tells of another hold";
  if (type === "HoldPlaced") {
    if (own.has(hold.holdId)) return "is placed twice";
    const { amountMinor: amount, expiresAtMs } = hold;
    if (expiresAtMs !== null && expiresAtMs <= occurredAtMs) return "was over when it began";
    const active = [...own.values()].filter(({ status }) => status === "ACTIVE").length;
    if (active >= LIMITS.holdsPerWalletMax) return `is one more than the ${active} there may be`;
    own.set(hold.holdId, { amount, expiresAtMs, captured: 0, status: "ACTIVE", isOver: false });
    return null;
  }
  const entry = own.get(hold.holdId);
  if (entry === undefined) return "is about a hold that was never placed";
  const isLate = entry.expiresAtMs !== null && occurredAtMs >= entry.expiresAtMs;
  const released = Number(data?.["releasedMinor"] ?? 0);
  const left = leftOf(entry);
  if (type === "TransferReturned") {
    entry.captured -= amountMinor!;
    if (!entry.isOver) entry.status = "ACTIVE";
  } else {
    // A final capture that is paid to a wallet ends the hold when it arrives, also an empty one.
    const isEnd = type === "HoldReleased" && hold.status === "CAPTURED" && !entry.isOver;
    if (entry.status !== "ACTIVE" && !(isEnd && entry.status === "CAPTURED")) {
      return `happens to a hold that is ${entry.status}`;
    }
    if (type === "HoldCaptured" || type === "TransferSent") {
      if (isLate) return "captures after the hold's time";
      if (amountMinor! > left) return `captures more than the ${left} that are left`;
      if (released !== 0 && released !== left - amountMinor!) return `releases ${released}`;
      entry.captured += amountMinor!;
      if (amountMinor === left || released > 0) entry.status = "CAPTURED";
    } else {
      if (released !== left) return `releases ${released} of ${left}`;
      if (type === "HoldExpired" && !isLate) return "expires before its time";
      if (type === "HoldReleased" && hold.status === "RELEASED" && isLate) return "releases late";
      if (hold.status === "CAPTURED" && !finals.has(hold.holdId)) return "ends without a capture";
      entry.status = hold.status;
    }
    const isFinal = type === "HoldCaptured" && finalIds.has(commandId ?? "");
    entry.isOver = isFinal || released > 0 || type === "HoldReleased" || type === "HoldExpired";
  }
  const isAsTold = hold.status === entry.status && hold.capturedMinor === entry.captured;
  return isAsTold ? null : `tells ${JSON.stringify(hold)}, not ${JSON.stringify(entry)}`;
}

function checkRows(
  rows: ReadonlyMap<string, Hold>,
  folded: ReadonlyMap<string, Entry>,
  finals: ReadonlySet<string | null>,
): string[] {
  const problems: string[] = [];
  for (const [key, { holdId, status, capturedMinor, amountMinor, expiresAtMs }] of rows) {
    if (status === "ACTIVE" && finals.has(holdId)) {
      problems.push(`hold ${key} is ACTIVE behind a final capture that has arrived`);
    }
    const entry = folded.get(key);
    const isSame =
      entry?.status === status &&
      entry.captured === capturedMinor &&
      entry.amount === amountMinor &&
      entry.expiresAtMs === expiresAtMs;
    if (!isSame) problems.push(`hold ${key} is ${status} of ${capturedMinor} in its row`);
  }
  return problems;
}
