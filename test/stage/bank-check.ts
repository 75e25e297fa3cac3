/**
 * What callers were told, held against what is in the books, whoever the callers were and wherever
 * the books are kept: PostgreSQL after a workload, or the simulated databases after a run. It folds
 * the events by itself, so that it shares no code with what it judges. Each check returns sentences
 * about what is wrong; none is best. Pure.
 */
import type { WalletEventType } from "../../src/core/wallet.ts";

export interface CheckedCommand {
  /** Its id: the idempotency key, or one that a gateway made. */
  readonly key: string;
  /** `open` is a creation with an initial balance, `create` one without. */
  readonly kind:
    | "open"
    | "create"
    | "credit"
    | "debit"
    | "transfer"
    | "hold"
    | "capture"
    | "release"
    | "update"
    | "suspend"
    | "activate"
    | "close"
    | "topup"
    | "spend";
  readonly walletId: string;
  /**
   * The wallet's id is only proposed: what counts is the one of the first creation with this key.
   */
  readonly isIdProposed?: boolean;
  /** Of a transfer, or of a capture that is one. */
  readonly toWalletId: string | null;
  /** 0 when no money moves. */
  readonly amountMinor: number;
  /** A capture of all that is left, whatever that is. */
  readonly isAmountOpen?: boolean;
  readonly expectedVersion: number | null;
  /**
   * Of the input; null without a caller's key, left out where nobody sends two inputs under one
   * key.
   */
  readonly fingerprint?: string | null;
}

/** A hold right after an event; what a caller is told of it, too. */
export interface BookedHold {
  readonly holdId: string;
  readonly amountMinor: number;
  readonly capturedMinor: number;
  readonly status: string;
}

export type BankAnswer =
  | {
      readonly type: "acknowledged";
      /** Of the wallet, right after the command; null where the way does not tell it. */
      readonly version: number | null;
      /** Null where the way does not tell it. */
      readonly balanceMinor: number | null;
      /** Of a transfer's payee; null while it is pending. */
      readonly toVersion: number | null;
      /** A transfer without verdict: the money has left and not arrived. */
      readonly isPending: boolean;
      readonly isReplay: boolean;
      /** The whole answer; a repeat must be equal. */
      readonly text: string | null;
      /** The hold that it was about, where the way tells it. */
      readonly hold?: BookedHold;
    }
  | {
      readonly type: "rejected";
      readonly code: string;
      /** What an `insufficient_funds` says was available. */
      readonly availableMinor: number | null;
      /** The whole answer; a repeat must be equal. */
      readonly text?: string | null;
    }
  | { readonly type: "unavailable"; readonly reason: string }
  | { readonly type: "unknown"; readonly reason: string }
  /** Nothing that Coffer may answer, whatever happens around it. */
  | { readonly type: "wrong"; readonly reason: string };

export interface CheckedEntry {
  readonly command: CheckedCommand;
  /** In the order in which they came. */
  readonly answers: readonly BankAnswer[];
  /**
   * Versions of the two wallets that somebody had been told of when this was sent first; -1 for
   * none.
   */
  readonly floor: number;
  readonly toFloor: number;
}

export interface BookedEvent {
  readonly walletId: string;
  readonly version: number;
  readonly type: WalletEventType;
  readonly amountMinor: number | null;
  readonly balanceMinor: number;
  /** Where nobody holds anything it may be left out. */
  readonly heldMinor?: number;
  readonly status: string;
  readonly transferId: string | null;
  readonly commandId: string | null;
  readonly fingerprint: string | null;
  /** The hold that it moves; may be left out where nobody asks. */
  readonly hold?: BookedHold | null;
}

export interface BookedRejection {
  readonly walletId: string;
  readonly commandId: string;
  readonly fingerprint: string | null;
  readonly code: string;
}

export interface BookedTransfer {
  readonly transferId: string;
  readonly commandId: string;
  readonly status: string;
  readonly fromWalletId: string;
  readonly fromVersion: number;
  readonly toWalletId: string;
  readonly toVersion: number | null;
  readonly amountMinor: number;
  /** Why it was returned. */
  readonly code: string | null;
  /** The payee's: the version that it made, or why it refused. */
  readonly verdict: { readonly toVersion: number | null; readonly code: string | null } | null;
}

/** What is committed; the events of a wallet in the order of their versions. */
export interface Books {
  readonly events: readonly BookedEvent[];
  readonly rejections: readonly BookedRejection[];
  readonly transfers: readonly BookedTransfer[];
  readonly wallets: ReadonlyArray<{
    readonly walletId: string;
    readonly version: number;
    readonly balanceMinor: number;
    readonly status: string;
  }>;
}

/** What the answers prove about a command. */
export function fateOf({
  answers,
}: Pick<CheckedEntry, "answers">):
  | "acknowledged"
  | "pending"
  | "rejected"
  | "absent"
  | "unresolved" {
  const outcome = answers.findLast(({ type }) => type === "acknowledged" || type === "rejected");
  if (outcome?.type === "acknowledged") return outcome.isPending ? "pending" : "acknowledged";
  if (outcome !== undefined) return "rejected";
  return answers.every(({ type }) => type === "unavailable") ? "absent" : "unresolved";
}

function groupBy<Row>(
  rows: readonly Row[],
  keyOf: (row: Row) => string | null,
): Map<string, Row[]> {
  const groups = new Map<string, Row[]>();
  for (const row of rows) {
    const key = keyOf(row);
    if (key === null) continue;
    const group = groups.get(key);
    if (group === undefined) groups.set(key, [row]);
    else group.push(row);
  }
  return groups;
}

// --- The fold ------------------------------------------------------------------------------------

const SIGNS: Readonly<Record<WalletEventType, number>> = {
  WalletCreated: 0,
  WalletCredited: 1,
  WalletDebited: -1,
  TransferSent: -1,
  TransferReceived: 1,
  TransferReturned: 1,
  HoldPlaced: 0,
  HoldCaptured: -1,
  HoldReleased: 0,
  HoldExpired: 0,
  WalletMetadataChanged: 0,
  WalletSuspended: 0,
  WalletActivated: 0,
  WalletClosed: 0,
};

const STATUSES: Partial<Record<WalletEventType, string>> = {
  WalletCreated: "ACTIVE",
  WalletSuspended: "SUSPENDED",
  WalletActivated: "ACTIVE",
  WalletClosed: "CLOSED",
};

/** What may happen to a suspended wallet: no money moves, but what comes back is always taken. */
const WHILE_SUSPENDED: ReadonlySet<WalletEventType> = new Set<WalletEventType>([
  "TransferReturned",
  "HoldReleased",
  "HoldExpired",
  "WalletMetadataChanged",
  "WalletActivated",
  "WalletClosed",
]);

/** Nothing happens to a closed wallet. */
function mayHappen(type: WalletEventType, status: string): boolean {
  if (type === "WalletCreated") return status === "none";
  if (status === "SUSPENDED") return WHILE_SUSPENDED.has(type);
  return status === "ACTIVE";
}

/**
 * Versions are contiguous, each event's balance and status are the fold up to it, and the wallet's
 * row is the fold of all.
 */
export function checkHistory({ events, wallets }: Books): string[] {
  const problems: string[] = [];
  const folded = new Map<string, { version: number; balanceMinor: number; status: string }>();
  for (const { walletId, version, type, amountMinor, balanceMinor, status } of events) {
    const before = folded.get(walletId) ?? { version: -1, balanceMinor: 0, status: "none" };
    const now = {
      version: before.version + 1,
      balanceMinor: before.balanceMinor + SIGNS[type] * (amountMinor ?? 0),
      status: STATUSES[type] ?? before.status,
    };
    folded.set(walletId, now);
    const isFold =
      now.version === version && now.balanceMinor === balanceMinor && now.status === status;
    if (!isFold || balanceMinor < 0 || !mayHappen(type, before.status)) {
      problems.push(`${walletId}:${version} ${type} does not follow: ${JSON.stringify(now)}`);
    }
  }
  for (const { walletId, version, balanceMinor, status } of wallets) {
    const fold = folded.get(walletId);
    folded.delete(walletId);
    const row = { version, balanceMinor, status };
    if (JSON.stringify(fold) === JSON.stringify(row)) continue;
    problems.push(`${walletId} is ${JSON.stringify(row)}, its events ${JSON.stringify(fold)}`);
  }
  for (const walletId of folded.keys()) problems.push(`${walletId} has events and no row`);
  return problems;
}

/**
 * Each transfer is settled as the payee said, with exactly its two events; and no event belongs to
 * none.
 */
export function checkTransfers({ events, transfers }: Books): string[] {
  const problems: string[] = [];
  const byTransfer = groupBy(events, ({ transferId }) => transferId);
  for (const transfer of transfers) {
    const { transferId, status, fromWalletId, fromVersion, toWalletId, toVersion } = transfer;
    const { amountMinor, code, verdict } = transfer;
    const found = (byTransfer.get(transferId) ?? []).map(
      (one) => `${one.type} ${one.walletId} ${one.amountMinor}`,
    );
    byTransfer.delete(transferId);
    const end =
      status === "posted" ? `TransferReceived ${toWalletId}` : `TransferReturned ${fromWalletId}`;
    const wanted = [`TransferSent ${fromWalletId} ${amountMinor}`, `${end} ${amountMinor}`];
    const hasItsEvents = found.toSorted().join() === wanted.toSorted().join();
    const isAgreed = verdict !== null && verdict.toVersion === toVersion && verdict.code === code;
    const isSettled = status === (toVersion === null ? "returned" : "posted");
    if (isSettled && hasItsEvents && isAgreed) continue;
    const what = isSettled ? "is not in order" : "is never settled";
    problems.push(
      `${transferId} of ${fromWalletId}:${fromVersion} ${what}: ${JSON.stringify(transfer)}; ${found.join()}`,
    );
  }
  for (const transferId of byTransfer.keys()) problems.push(`${transferId} has no record`);
  return problems;
}

// --- What was told -------------------------------------------------------------------------------

const EVENT_OF: Readonly<Record<CheckedCommand["kind"], WalletEventType>> = {
  open: "WalletCredited",
  create: "WalletCreated",
  credit: "WalletCredited",
  debit: "WalletDebited",
  transfer: "TransferSent",
  hold: "HoldPlaced",
  capture: "HoldCaptured",
  release: "HoldReleased",
  update: "WalletMetadataChanged",
  suspend: "WalletSuspended",
  activate: "WalletActivated",
  close: "WalletClosed",
  topup: "WalletCredited",
  spend: "WalletDebited",
};

type Must = (holds: boolean, text: string) => void;

/** The books, by what an entry asks for. */
interface Index {
  readonly events: ReadonlyMap<string, readonly BookedEvent[]>;
  readonly rejections: ReadonlyMap<string, readonly BookedRejection[]>;
  readonly transfers: ReadonlyMap<string, BookedTransfer>;
  readonly arrivals: ReadonlyMap<string, readonly BookedEvent[]>;
  readonly histories: ReadonlyMap<string, readonly BookedEvent[]>;
}

/**
 * Every answer is true: what was acknowledged is there once, as it was told and after all that was
 * told before it was sent; what was rejected or unavailable is not there; and nothing is there that
 * nobody sent. Where the callers went on until each command had its outcome, `isResolved` says so,
 * and a command without one is a problem too.
 */
export function checkEntries(
  books: Books,
  entries: readonly CheckedEntry[],
  { isResolved }: { isResolved: boolean },
): string[] {
  const { events, rejections, transfers } = books;
  const index: Index = {
    events: groupBy(events, ({ commandId }) => commandId),
    rejections: groupBy(rejections, ({ commandId }) => commandId),
    transfers: new Map(transfers.map((transfer) => [transfer.transferId, transfer])),
    arrivals: groupBy(events, (one) => (one.type === "TransferReceived" ? one.transferId : null)),
    histories: groupBy(events, ({ walletId }) => walletId),
  };
  const problems = entries.flatMap((entry) => checkEntry(entry, index, isResolved));
  const sent = new Set(entries.map(({ command }) => command.key));
  for (const key of new Set([...index.events.keys(), ...index.rejections.keys()])) {
    if (!sent.has(key)) problems.push(`nobody sent ${key}`);
  }
  return problems;
}

function checkEntry(entry: CheckedEntry, index: Index, isResolved: boolean): string[] {
  const { command, answers } = entry;
  const problems: string[] = [];
  const must: Must = (holds, text) => {
    if (!holds) problems.push(`${JSON.stringify(command)}: ${text}; ${JSON.stringify(answers)}`);
  };
  const isIts = (row: { walletId: string }): boolean =>
    command.isIdProposed === true || row.walletId === command.walletId;
  const events = (index.events.get(command.key) ?? []).filter(isIts);
  const rejections = (index.rejections.get(command.key) ?? []).filter(isIts);
  must(events.length <= 1, `is there ${events.length} times`);
  must(events.length === 0 || rejections.length === 0, "was accepted and rejected");
  for (const answer of answers) must(answer.type !== "wrong", "was answered wrongly");
  const fate = fateOf(entry);
  must(!isResolved || (fate !== "pending" && fate !== "unresolved"), `stays ${fate}`);

  const { fingerprint } = command;
  const outcome = events[0] ?? rejections[0];
  const isOthers =
    outcome !== undefined && fingerprint !== undefined && outcome.fingerprint !== fingerprint;
  for (const answer of answers) {
    if (answer.type === "acknowledged") must(!isOthers, "was told another one's outcome");
    if (answer.type !== "rejected") continue;
    // Of a rejection without a fingerprint it says only who cannot have been told it.
    if (isOthers && outcome.fingerprint === null && answer.code === rejections[0]?.code) continue;
    must(
      (answer.code === "idempotency_conflict") === isOthers,
      `is ${isOthers ? "" : "not "}in conflict`,
    );
  }
  if (isOthers) return problems;

  must(
    fate !== "absent" || answers.length === 0 || outcome === undefined,
    "was unavailable, and is there",
  );
  const [event] = events;
  if (event !== undefined) checkEvent(entry, event, index, must);
  checkAcknowledgements(entry, event, index, must);
  checkRejections(entry, { event, recorded: rejections[0] }, index, must);
  return problems;
}

/** The event is what the command asked for, in its place. */
function checkEvent(entry: CheckedEntry, event: BookedEvent, index: Index, must: Must): void {
  const { command, floor, toFloor } = entry;
  const { kind, toWalletId, expectedVersion } = command;
  const type = toWalletId === null ? EVENT_OF[kind] : "TransferSent";
  // What a hold sets aside stays in the wallet.
  const wanted = kind === "hold" ? 0 : command.amountMinor;
  const amountMinor = event.amountMinor ?? 0;
  must(
    event.type === type && (command.isAmountOpen === true || amountMinor === wanted),
    `became ${JSON.stringify(event)}`,
  );
  must(expectedVersion === null || event.version === expectedVersion + 1, "ignored its condition");
  must(event.version > floor, `is at ${event.version}, after ${floor} had been told`);
  if (toWalletId === null) return;
  const transfer = index.transfers.get(event.transferId ?? "");
  const isRecorded =
    transfer?.commandId === command.key && transfer.toWalletId === command.toWalletId;
  must(isRecorded, `is recorded as ${JSON.stringify(transfer)}`);
  const arrivals = index.arrivals.get(event.transferId ?? "") ?? [];
  must(
    arrivals.length === (transfer?.status === "posted" ? 1 : 0),
    `came ${arrivals.length} times`,
  );
  const [arrival] = arrivals;
  if (arrival === undefined) return;
  const { walletId, version } = arrival;
  must(walletId === command.toWalletId && arrival.amountMinor === amountMinor, "came elsewhere");
  must(version > toFloor, `came at ${version}, after ${toFloor} had been told`);
}

function checkAcknowledgements(
  { answers }: CheckedEntry,
  event: BookedEvent | undefined,
  index: Index,
  must: Must,
): void {
  const transfer = index.transfers.get(event?.transferId ?? "");
  const texts = new Set<string>();
  for (const answer of answers) {
    if (answer.type !== "acknowledged") continue;
    const { version, balanceMinor, toVersion, isPending, text } = answer;
    must(event !== undefined, "was acknowledged, and is not there");
    must(
      version === null || version === event?.version,
      `was told as ${version}, is ${event?.version}`,
    );
    must(balanceMinor === null || balanceMinor === event?.balanceMinor, "was told another balance");
    must(toVersion === null || toVersion === transfer?.toVersion, "was told another arrival");
    must(isSameHold(answer.hold, event?.hold), `was told another hold than ${toText(event?.hold)}`);
    if (isPending) continue;
    must(transfer === undefined || transfer.status === "posted", `is ${transfer?.status}`);
    if (text !== null) texts.add(text);
  }
  must(texts.size <= 1, "was answered differently when it was repeated");
}

function isSameHold(told: BookedHold | undefined, booked: BookedHold | null | undefined): boolean {
  return told === undefined || toText(told) === toText(booked);
}

function toText(hold: BookedHold | null | undefined): string {
  if (hold === null || hold === undefined) return "none";
  const { holdId, amountMinor, capturedMinor, status } = hold;
  return JSON.stringify({ holdId, amountMinor, capturedMinor, status });
}

/**
 * A rejected command left nothing, except a transfer that went and came back. Available must be a
 * balance that the wallet really had, no older than what had been told before: what was decided on
 * state that never came to be, or was long gone, is no truth.
 */
function checkRejections(
  { command, answers, floor }: CheckedEntry,
  { event, recorded }: { event: BookedEvent | undefined; recorded: BookedRejection | undefined },
  index: Index,
  must: Must,
): void {
  const transfer = index.transfers.get(event?.transferId ?? "");
  const isKept = command.fingerprint !== null;
  const texts = new Set<string>();
  for (const answer of answers) {
    if (answer.type !== "rejected") continue;
    const { code, availableMinor, text } = answer;
    texts.add(text ?? `${code} ${availableMinor}`);
    if (event === undefined)
      must(recorded !== undefined || !isKept, "was rejected without a record");
    else must(transfer?.status === "returned", "was rejected, and is there");
    const stored = event === undefined ? recorded?.code : transfer?.code;
    must(stored === undefined || stored === code, `was rejected for ${stored}`);
    if (availableMinor === null) continue;
    const wasThere = index.histories
      .get(command.walletId)
      ?.some(({ version, balanceMinor, heldMinor = 0 }) => {
        return balanceMinor - heldMinor === availableMinor && version >= floor;
      });
    must(
      wasThere === true && availableMinor < command.amountMinor,
      "was rejected for a wrong reason",
    );
  }
  must(texts.size <= 1, "was rejected differently when it was repeated");
}
