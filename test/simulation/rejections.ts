/**
 * Whether every "no" was true: it must have been so at some moment between the command's first
 * sending and its answer, by the history of the wallets. Whoever decides on a state that was
 * superseded, or that never came to be, is found here.
 */
import type { Hold } from "../../src/core/hold.ts";
import type { Rejection } from "../../src/core/rejection.ts";
import type { EventRow, SimulatedDatabase } from "./database.ts";
import type { History, HistoryEntry } from "./history.ts";

export function checkRejections(
  databases: readonly SimulatedDatabase[],
  { entries }: History,
): string[] {
  const eventsOf = new Map(databases.flatMap(({ tables }) => [...tables.eventsOf]));
  const problems: string[] = [];
  /** What had been told before anybody sent a command with this id. */
  const before = new Map<string, ReadonlyMap<string, number>>();
  withFloors(entries, (entry, told) => {
    const key = `${entry.command.walletId} ${entry.command.commandId}`;
    const first = before.get(key) ?? new Map(told);
    before.set(key, first);
    problems.push(...problemsOf(entry, eventsOf, told, first));
  });
  return problems;
}

/**
 * Visits each entry with the versions that had been told before it was sent: the least that
 * whoever decided on it must have known.
 */
export function withFloors(
  entries: readonly HistoryEntry[],
  visit: (entry: HistoryEntry, told: ReadonlyMap<string, number>) => void,
): void {
  const told = new Map<string, number>();
  const happenings: { order: number; happen: () => void }[] = [];
  for (const entry of entries) {
    happenings.push({ order: entry.sent.order, happen: () => visit(entry, told) });
    if (entry.command.dryRun === true) continue;
    for (const { order, outcome } of entry.answers) {
      if (outcome.type !== "done") continue;
      const { walletId, version } = outcome.wallet;
      const happen = (): void =>
        void told.set(walletId, Math.max(version, told.get(walletId) ?? -1));
      happenings.push({ order, happen });
    }
  }
  for (const { happen } of happenings.toSorted((one, other) => one.order - other.order)) happen();
}

function problemsOf(
  { command, answers }: HistoryEntry,
  eventsOf: ReadonlyMap<string, readonly EventRow[]>,
  told: ReadonlyMap<string, number>,
  /** The same for a rejection that was another's with its id first. */
  toldBefore: ReadonlyMap<string, number>,
): string[] {
  return answers.flatMap(({ outcome }) => {
    if (outcome.type !== "rejected") return [];
    const { rejection, replayed } = outcome;
    const walletId = "walletId" in rejection ? rejection.walletId : null;
    if (walletId === null) return [];
    const floor = (replayed ? toldBefore : told).get(walletId) ?? -1;
    const all = eventsOf.get(walletId) ?? [];
    const since = all.filter(({ version }) => version >= floor);
    if (couldBe(rejection, floor, since, all)) return [];
    const text = JSON.stringify(rejection);
    return [`${command.commandId}: ${text} was not true when ${walletId}:${floor} had been told`];
  });
}

/**
 * `since`: the wallet's events from the version `floor` on, each with the status and balance after
 * it.
 */
function couldBe(
  rejection: Rejection,
  floor: number,
  since: readonly EventRow[],
  all: readonly EventRow[],
): boolean {
  switch (rejection.code) {
    case "wallet_not_found":
      return floor === -1;
    case "wallet_already_exists":
      return since.length > 0;
    case "version_conflict":
      return since.some(({ version }) => version === rejection.version);
    case "wallet_not_active":
      return since.some(({ status }) => status === rejection.status);
    case "insufficient_funds":
      return since.some(
        ({ balanceMinor, heldMinor, version }) =>
          balanceMinor - heldMinor === rejection.availableMinor &&
          rejection.availableMinor + overMinor(all, version) < rejection.requestedMinor,
      );
    case "wallet_not_empty":
      return since.some(
        ({ balanceMinor, heldMinor, version }) =>
          balanceMinor === rejection.balanceMinor &&
          heldMinor === rejection.heldMinor &&
          balanceMinor + rejection.pendingMinor > 0 &&
          rejection.pendingMinor <= sentMinor(all, version),
      );
    case "hold_not_found":
      return holdsSince(all, rejection.holdId, -1).every(({ placedAt }) => placedAt > floor);
    case "hold_not_active": {
      const { holdId, status } = rejection;
      // Its time may be over before anybody has written that.
      return holdsSince(all, holdId, floor).some(
        ({ hold }) => hold.status === status || (status === "EXPIRED" && hold.expiresAtMs !== null),
      );
    }
    case "capture_exceeds_hold": {
      const { holdId, remainingMinor, requestedMinor } = rejection;
      return holdsSince(all, holdId, floor).some(
        ({ hold: { amountMinor, capturedMinor } }) =>
          amountMinor - capturedMinor === remainingMinor && remainingMinor < requestedMinor,
      );
    }
    case "invalid_expiry":
      return rejection.expiresAtMs <= rejection.nowMs;
    case "too_many_holds":
      return since.some(({ version }) => activeAt(all, version).length >= rejection.holdsMax);
    case "metadata_too_large":
      return rejection.bytes > rejection.bytesMax;
    case "currency_mismatch":
      return rejection.currency !== rejection.expectedCurrency;
    case "owner_mismatch":
      return rejection.ownerId !== rejection.expectedOwnerId;
    // Nobody asks for so much, or for what there is not.
    case "amount_out_of_range":
    case "asset_not_found":
      return false;
    case "same_wallet":
    case "invalid_amount":
    case "idempotency_conflict":
      return true;
    default:
      return rejection satisfies never;
  }
}

/**
 * What holds had left at the version whose time was over by the wallet's own clock: nobody needs to
 * have ended them for that money to be available.
 */
function overMinor(all: readonly EventRow[], atVersion: number): number {
  const nowMs = all.findLast(({ version }) => version <= atVersion)?.occurredAtMs ?? 0;
  let sum = 0;
  for (const { expiresAtMs, amountMinor, capturedMinor } of activeAt(all, atVersion)) {
    const isOver = expiresAtMs !== null && expiresAtMs <= nowMs;
    if (isOver) sum += amountMinor - capturedMinor;
  }
  return sum;
}

/** The wallet's active holds as they were at that version. */
function activeAt(all: readonly EventRow[], atVersion: number): Hold[] {
  const holds = new Map<string, Hold>();
  for (const { version, data } of all) {
    if (version > atVersion) break;
    const hold = data?.["hold"] as Hold | undefined;
    if (hold !== undefined) holds.set(hold.holdId, hold);
  }
  return [...holds.values()].filter(({ status }) => status === "ACTIVE");
}

/** What has left for other wallets up to that version and has not come back: the most in transit. */
function sentMinor(all: readonly EventRow[], atVersion: number): number {
  let sum = 0;
  for (const { version, type, amountMinor } of all) {
    if (version > atVersion) break;
    if (type === "TransferSent") sum += amountMinor!;
    if (type === "TransferReturned") sum -= amountMinor!;
  }
  return sum;
}

/** A hold as it was at the version `floor` of its wallet, and as each event since has made it. */
function holdsSince(
  all: readonly EventRow[],
  holdId: string,
  floor: number,
): { hold: Hold; placedAt: number }[] {
  const states = all.flatMap(({ version, data }) => {
    const hold = data?.["hold"] as Hold | undefined;
    return hold?.holdId === holdId ? [{ hold, version }] : [];
  });
  const placedAt = states[0]?.version ?? 0;
  const atFloor = states.findLastIndex(({ version }) => version <= floor);
  return states.slice(Math.max(atFloor, 0)).map(({ hold }) => ({ hold, placedAt }));
}
