/**
 * The finer truths about a bank, beside `bank-check.ts`: what is held is what the active holds have
 * left, every "no" was so at some moment after the command was sent, and a dry run told what would
 * have been and left nothing. It replays the events by rules of its own. Pure.
 */
import type { BookedEvent, BookedHold, Books, CheckedEntry } from "./bank-check.ts";
import type { BankCommand } from "./bank-wire.ts";

export interface HoldEvent extends BookedEvent {
  readonly heldMinor: number;
  readonly hold: (BookedHold & { readonly expiresAtMs: number | null }) | null;
  /** What it let go of. */
  readonly releasedMinor: number | null;
  readonly occurredAtMs: number;
}

export interface HoldBooks extends Books {
  readonly events: readonly HoldEvent[];
  readonly holds: ReadonlyArray<BookedHold & { readonly walletId: string }>;
}

interface BankEntry extends CheckedEntry {
  readonly command: BankCommand;
}

type Histories = ReadonlyMap<string, readonly HoldEvent[]>;

function historiesOf(events: readonly HoldEvent[]): Histories {
  const histories = new Map<string, HoldEvent[]>();
  for (const event of events) {
    const history = histories.get(event.walletId);
    if (history === undefined) histories.set(event.walletId, [event]);
    else history.push(event);
  }
  return histories;
}

// --- Holds ---------------------------------------------------------------------------------------

/** A hold as its events make it. */
interface Fold {
  readonly amountMinor: number;
  readonly expiresAtMs: number | null;
  capturedMinor: number;
  status: string;
  /** What was left has been let go: what comes back goes to the wallet. */
  isOver: boolean;
}

const leftOf = ({ status, amountMinor, capturedMinor }: Fold): number =>
  status === "ACTIVE" ? amountMinor - capturedMinor : 0;

/**
 * Each hold is what its events say, each wallet's `held` is what its active ones have left, and
 * each command met the hold that it named.
 */
export function checkHolds({ events, holds }: HoldBooks, entries: readonly BankEntry[]): string[] {
  const problems: string[] = [];
  const folds = new Map<string, Fold>();
  const finals = new Set<string | null>(
    entries.filter(({ command }) => command.isFinal === true).map(({ command }) => command.key),
  );
  for (const [walletId, history] of historiesOf(events)) {
    const own = new Map<string, Fold>();
    for (const event of history) {
      const problem = event.hold === null ? foldless(event) : fold(own, event, event.hold, finals);
      const heldMinor = [...own.values()].reduce((sum, one) => sum + leftOf(one), 0);
      const isSum = heldMinor === event.heldMinor;
      if (problem === null && isSum) continue;
      problems.push(
        `${walletId}:${event.version} ${event.type} ${problem ?? `holds ${event.heldMinor}, not ${heldMinor}`}`,
      );
      break;
    }
    for (const [holdId, one] of own) folds.set(`${walletId} ${holdId}`, one);
  }
  for (const { walletId, holdId, amountMinor, capturedMinor, status } of holds) {
    const key = `${walletId} ${holdId}`;
    const one = folds.get(key);
    folds.delete(key);
    const isSame =
      one?.status === status &&
      one.capturedMinor === capturedMinor &&
      one.amountMinor === amountMinor;
    if (!isSame) problems.push(`hold ${key} is ${status}, its events ${JSON.stringify(one)}`);
  }
  for (const key of folds.keys()) problems.push(`hold ${key} has events and no row`);
  const holdOf = new Map(events.map(({ commandId, hold }) => [commandId, hold?.holdId]));
  for (const { command } of entries) {
    const { key, holdId } = command;
    if (holdId === undefined || !holdOf.has(key) || holdOf.get(key) === holdId) continue;
    problems.push(`${JSON.stringify(command)} met hold ${holdOf.get(key)}`);
  }
  return problems;
}

function foldless({ type }: HoldEvent): string | null {
  return type.startsWith("Hold") ? "tells of no hold" : null;
}

/** What is wrong with the event, or null. `finals`: the commands that are final captures. */
function fold(
  own: Map<string, Fold>,
  event: HoldEvent,
  hold: NonNullable<HoldEvent["hold"]>,
  finals: ReadonlySet<string | null>,
): string | null {
  const { type, occurredAtMs } = event;
  const { holdId } = hold;
  if (type === "HoldPlaced") {
    if (own.has(holdId)) return "is placed twice";
    const { amountMinor, expiresAtMs } = hold;
    own.set(holdId, {
      amountMinor,
      expiresAtMs,
      capturedMinor: 0,
      status: "ACTIVE",
      isOver: false,
    });
    return amountMinor > 0 && hold.status === "ACTIVE" && hold.capturedMinor === 0
      ? null
      : "begins otherwise";
  }
  const one = own.get(holdId);
  if (one === undefined) return "is about a hold that was never placed";
  const isLate = one.expiresAtMs !== null && occurredAtMs >= one.expiresAtMs;
  const amountMinor = event.amountMinor ?? 0;
  const releasedMinor = event.releasedMinor ?? 0;
  const left = leftOf(one);
  switch (type) {
    case "HoldCaptured":
    case "TransferSent":
      if (one.status !== "ACTIVE" || isLate) return `captures a hold that has ended`;
      if (amountMinor > left) return `captures more than ${left}`;
      if (releasedMinor !== 0 && releasedMinor !== left - amountMinor)
        return "releases another sum";
      one.capturedMinor += amountMinor;
      // Paid to a wallet it ends the hold when it arrives.
      one.isOver = releasedMinor > 0 || (type === "HoldCaptured" && finals.has(event.commandId));
      if (amountMinor === left || one.isOver) one.status = "CAPTURED";
      break;
    case "TransferReturned":
      one.capturedMinor -= amountMinor;
      if (!one.isOver) one.status = "ACTIVE";
      break;
    case "HoldReleased":
    case "HoldExpired":
      if (one.isOver || (one.status !== "ACTIVE" && hold.status !== "CAPTURED")) {
        return "ends what has ended";
      }
      if (releasedMinor !== left) return `releases ${releasedMinor} of ${left}`;
      if (type === "HoldExpired" && !isLate) return "expires before its time";
      if (type === "HoldExpired") one.status = "EXPIRED";
      else one.status = hold.status === "CAPTURED" ? "CAPTURED" : "RELEASED";
      one.isOver = true;
      break;
    default:
      return "has nothing to do with holds";
  }
  const isAsTold = hold.status === one.status && hold.capturedMinor === one.capturedMinor;
  return isAsTold ? null : `tells ${JSON.stringify(hold)}, not ${JSON.stringify(one)}`;
}

// --- Noes ----------------------------------------------------------------------------------------

/**
 * Every "no" says something that was so, no older than what had been told before the command was
 * sent first.
 */
export function checkReasons({ events }: HoldBooks, entries: readonly BankEntry[]): string[] {
  const histories = historiesOf(events);
  const problems: string[] = [];
  for (const { command, answers, floor, toFloor } of entries) {
    for (const answer of answers) {
      if (answer.type !== "rejected") continue;
      // Where the way tells only the code, there is nothing to compare.
      const details = readDetails(answer.text ?? null);
      if (details === null) continue;
      const own = details.walletId === command.walletId ? floor : toFloor;
      const history = histories.get(details.walletId) ?? [];
      if (couldBe(answer.code, details, history, own)) continue;
      problems.push(`${JSON.stringify(command)} got an untrue ${answer.code} ${answer.text}`);
    }
  }
  return problems;
}

/** What the noes of a bank say. */
interface Details {
  readonly walletId: string;
  readonly available: number;
  readonly requested: number;
  readonly remaining: number;
  readonly balance: number;
  readonly held: number;
  /** Of those about holds. */
  readonly holdId?: string;
  readonly status: string;
  readonly version: number;
}

function readDetails(text: string | null): Details | null {
  return text === null ? null : (JSON.parse(text) as Details);
}

const minor = (decimal: number): number => Math.round(decimal * 100);

function couldBe(
  code: string,
  details: Details,
  history: readonly HoldEvent[],
  floor: number,
): boolean {
  const since = history.filter(({ version }) => version >= floor);
  const holds =
    details.holdId === undefined
      ? []
      : history.flatMap(({ hold }) =>
          hold !== null && hold.holdId === details.holdId ? [hold] : [],
        );
  switch (code) {
    case "wallet_not_found":
      return floor === -1;
    case "wallet_not_active":
      return since.some(({ status }) => status === details.status) && details.status !== "ACTIVE";
    case "insufficient_funds":
      return since.some(
        ({ balanceMinor, heldMinor }) => balanceMinor - heldMinor === minor(details.available),
      );
    case "version_conflict":
      return since.some(({ version }) => version === details.version);
    case "wallet_not_empty":
      return since.some(
        ({ balanceMinor, heldMinor }) =>
          balanceMinor === minor(details.balance) && heldMinor === minor(details.held),
      );
    case "hold_not_active":
      // Its time may be over before anybody has written that.
      return holds.some(
        ({ status, expiresAtMs }) =>
          status === details.status || (details.status === "EXPIRED" && expiresAtMs !== null),
      );
    case "capture_exceeds_hold":
      return holds.some(
        ({ amountMinor, capturedMinor }) =>
          amountMinor - capturedMinor === minor(details.remaining) &&
          details.remaining < details.requested,
      );
    default:
      return false;
  }
}

// --- Dry runs ------------------------------------------------------------------------------------

/** By how much the balance of the wallet would change. */
function deltaOf({ kind, amountMinor }: BankCommand): number {
  switch (kind) {
    case "open":
    case "credit":
    case "topup":
      return amountMinor;
    case "debit":
    case "transfer":
    case "spend":
    case "capture":
      return -amountMinor;
    case "hold":
    case "release":
    case "suspend":
    case "activate":
    case "close":
      return 0;
    default:
      return kind satisfies never;
  }
}

/**
 * What a dry run said would follow on a state that was there. That it left nothing is found by who
 * sent what: no event and no rejection may be there that nobody sent (`checkEntries`), and a wallet
 * that only dry runs have named is none.
 */
export function checkDryRuns(books: HoldBooks, dryRuns: readonly BankEntry[]): string[] {
  const histories = historiesOf(books.events);
  const problems = checkReasons(books, dryRuns);
  for (const { command, answers, floor } of dryRuns) {
    const history = histories.get(command.walletId) ?? [];
    for (const answer of answers) {
      const wrong = (what: string): void =>
        void problems.push(`dry ${JSON.stringify(command)} ${what}: ${JSON.stringify(answer)}`);
      if (answer.type === "wrong") wrong("was answered wrongly");
      if (answer.type !== "acknowledged") continue;
      if (answer.isReplay) wrong("was remembered");
      if (answer.balanceMinor === null) continue;
      if (answer.version === null) {
        // The way tells no version: some state since then must do.
        const since = history.filter(({ version }) => version >= floor);
        const bases = [...since.map(({ balanceMinor }) => balanceMinor), ...(floor < 0 ? [0] : [])];
        const couldFollow = bases.some((base) => base + deltaOf(command) === answer.balanceMinor);
        if (!couldFollow) wrong("does not follow on what was there");
        continue;
      }
      const before = answer.version - (command.kind === "open" ? 2 : 1);
      const base = before < 0 ? 0 : history[before]?.balanceMinor;
      const wanted = base === undefined ? undefined : base + deltaOf(command);
      const isAmountOpen = command.isAmountOpen === true;
      if (before < floor || (!isAmountOpen && wanted !== answer.balanceMinor)) {
        wrong(`does not follow on ${wanted} after version ${floor}`);
      }
    }
  }
  return problems;
}
