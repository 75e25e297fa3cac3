/**
 * The audit after a run: what is committed in all databases, by itself and against what the clients
 * saw. The rules that hold for every bank are in `test/stage/bank-check.ts`; this file brings a run
 * into their form and adds what only a run can know: the order in which things were told, the
 * feeds, several databases. All transfers must have been given the time to settle, and the feeds
 * the time to catch up. Returns sentences about what is wrong, at best none.
 */
import { toDecimal, toMinor } from "../../src/core/amount.ts";
import { chainHashOfRow } from "../../src/chain.ts";
import type { Command, Outcome } from "../../src/core/protocol.ts";
import { shardOf } from "../../src/core/shard.ts";
import type { WalletState } from "../../src/core/wallet.ts";
import {
  checkEntries,
  checkHistory,
  checkTransfers,
  type BankAnswer,
  type Books,
  type CheckedCommand,
  type CheckedEntry,
} from "../stage/bank-check.ts";
import type { EventRow, SimulatedDatabase } from "./database.ts";
import { checkHolds } from "./hold-books.ts";
import { metadataAfterEach } from "./tables.ts";
import type { Answer, FeedRecord, History, HistoryEntry } from "./history.ts";

type Databases = readonly Pick<SimulatedDatabase, "name" | "tables">[];

/** Everything committed, whichever database it is in. */
interface Ledger {
  readonly wallets: ReadonlyMap<string, WalletState>;
  /** In the order of their versions. */
  readonly eventsOf: ReadonlyMap<string, readonly EventRow[]>;
  /**
   * A wallet's metadata after each of its events, as JSON text: `metadataAt` of all of them, in one
   * pass.
   */
  readonly metadataOf: (walletId: string) => readonly string[];
  readonly books: Books;
}

/** @param databases in the deployment's order: shard modulo count */
export function checkBooks(databases: Databases, { entries, feeds }: History): string[] {
  const ledger = ledgerOf(databases);
  // Dry runs leave nothing here: `dry-run-books.ts` sees to that.
  const history = { entries: entries.filter(({ command }) => command.dryRun !== true), feeds };
  const { books } = ledger;
  return [
    ...checkPlaces(databases),
    ...checkPositions(databases),
    ...checkHistory(books),
    ...checkRows(ledger),
    ...checkTransfers(books),
    ...checkMoney(ledger),
    ...checkHolds(databases, history),
    ...checkEntries(books, entriesOf(ledger, history), { isResolved: false }),
    ...history.entries.flatMap((entry) => checkStates(ledger, entry)),
    ...history.feeds.flatMap((feed) => checkFeed(ledger, feed)),
  ];
}

// --- What is committed ---------------------------------------------------------------------------

function ledgerOf(databases: Databases): Ledger {
  const all = databases.map(({ tables }) => tables);
  const wallets = new Map(all.flatMap((tables) => [...tables.wallets]));
  const eventsOf = new Map(all.flatMap((tables) => [...tables.eventsOf]));
  const verdicts = new Map(all.flatMap((tables) => [...tables.verdicts]));
  const books: Books = {
    events: [...eventsOf.values()].flat(),
    wallets: [...wallets.values()],
    rejections: all
      .flatMap((tables) => [...tables.rejections.values()])
      .map((row) => ({ ...row, code: row.rejection.code })),
    transfers: all
      .flatMap((tables) => [...tables.transfers.values()])
      .map((transfer) => {
        const verdict = verdicts.get(transfer.transferId)?.verdict;
        return {
          ...transfer,
          code: transfer.rejection?.code ?? null,
          verdict:
            verdict === undefined
              ? null
              : verdict.type === "posted"
                ? { toVersion: verdict.toVersion, code: null }
                : { toVersion: null, code: verdict.rejection.code },
        };
      }),
  };
  const metadata = new Map<string, string[]>();
  const metadataOf = (walletId: string): readonly string[] => {
    let texts = metadata.get(walletId);
    if (texts === undefined) {
      metadata.set(walletId, (texts = metadataAfterEach(eventsOf.get(walletId) ?? [])));
    }
    return texts;
  };
  return { wallets, eventsOf, metadataOf, books };
}

/** Each row is in the database of its shard, and each verdict belongs to a transfer. */
function checkPlaces(databases: Databases): string[] {
  const transferIds = new Set(databases.flatMap(({ tables }) => [...tables.transfers.keys()]));
  return databases.flatMap(({ name, tables }, index) => {
    const walletIds = [
      ...tables.wallets.keys(),
      ...tables.eventsOf.keys(),
      ...[...tables.rejections.values()].map(({ walletId }) => walletId),
      ...[...tables.transfers.values()].map(({ fromWalletId }) => fromWalletId),
      ...[...tables.verdicts.values()].map(({ toWalletId }) => toWalletId),
      ...[...tables.holds.values()].map(({ walletId }) => walletId),
    ];
    const strangers = new Set(
      walletIds.filter((walletId) => shardOf(walletId) % databases.length !== index),
    );
    const orphans = [...tables.verdicts.keys()].filter((id) => !transferIds.has(id));
    return [
      ...[...strangers].map((walletId) => `${walletId} does not belong into ${name}`),
      ...orphans.map((transferId) => `${transferId} has a verdict in ${name} and no record`),
    ];
  });
}

/** Each shard's events are numbered 1, 2, 3 in the order of their commits. */
function checkPositions(databases: Databases): string[] {
  return databases.flatMap(({ tables }) => {
    const last = new Map<number, number>();
    return tables.events.flatMap(({ walletId, version, shard, position }) => {
      const before = last.get(shard) ?? 0;
      last.set(shard, position);
      const isNext = shard === shardOf(walletId) && position === before + 1;
      const place = `at ${position} of shard ${shard}`;
      return isNext ? [] : [`${walletId}:${version} is ${place}, behind ${before}`];
    });
  });
}

/**
 * What the fold of versions, balances and statuses leaves open: who and what the wallet is, its
 * metadata, and when.
 */
function checkRows({ wallets, eventsOf, metadataOf }: Ledger): string[] {
  const problems: string[] = [];
  for (const wallet of wallets.values()) {
    const { walletId, ownerId, currency, decimalPlaces, metadata } = wallet;
    const events = eventsOf.get(walletId) ?? [];
    const [first, last] = [events[0], events.at(-1)];
    const made = JSON.stringify({ ownerId, currency, decimalPlaces });
    const { isIdProposed: _, metadata: __, walletMetadata: ___, ...data } = first?.data ?? {};
    const isAsMade = made === JSON.stringify(data) && wallet.createdAtMs === first?.occurredAtMs;
    const isAsChanged = spelled(metadata) === metadataOf(walletId)[wallet.version];
    if (
      !isAsMade ||
      !isAsChanged ||
      wallet.updatedAtMs !== last?.occurredAtMs ||
      wallet.heldMinor !== last.heldMinor
    ) {
      problems.push(`${walletId} is not what its events made: ${JSON.stringify(wallet)}`);
    }
    let hash: string | null = null;
    for (const event of events) {
      hash = chainHashOfRow(hash, event);
      if (event.hash !== hash) problems.push(`${walletId}:${event.version} breaks the hash chain`);
    }
    for (const [index, { version, type, occurredAtMs, account, data }] of events.entries()) {
      const wanted = accountFor(type, data?.["kind"]);
      if (account !== wanted) problems.push(`${walletId}:${version} is booked on ${account}`);
      if (index > 0 && occurredAtMs < events[index - 1]!.occurredAtMs) {
        problems.push(`${walletId}:${version} is before the one before it`);
      }
    }
  }
  return problems;
}

/** The account on the other side of an event's money, by its kind. */
function accountFor(type: string, kind: unknown): string | null {
  if (type.startsWith("Transfer")) return "system:transit";
  if (!["WalletCredited", "WalletDebited", "HoldCaptured"].includes(type)) return null;
  if (kind === "TOPUP") return "system:treasury";
  if (kind === "BONUS") return "system:bonus";
  return kind === "SPEND" ? "system:revenue" : "system:world";
}

/**
 * Per asset, the wallets' rows and the system accounts' events sum to zero, and nothing is in
 * transit. The first is a check since rows and events are written separately; the second since the
 * two ends of a transfer are.
 */
function checkMoney({ wallets, eventsOf }: Ledger): string[] {
  const accounts = new Map<string, Map<string, number>>();
  const book = (currency: string, account: string, minor: number): void => {
    const ofAsset = accounts.get(currency) ?? new Map<string, number>();
    accounts.set(currency, ofAsset.set(account, (ofAsset.get(account) ?? 0) + minor));
  };
  for (const { walletId, currency, balanceMinor } of wallets.values()) {
    book(currency, "wallets", balanceMinor);
    for (const { type, amountMinor, account } of eventsOf.get(walletId) ?? []) {
      const isOut = ["WalletDebited", "TransferSent", "HoldCaptured"].includes(type);
      if (account !== null) book(currency, account, isOut ? amountMinor! : -amountMinor!);
    }
  }
  return [...accounts].flatMap(([currency, ofAsset]) => {
    const sum = [...ofAsset.values()].reduce((total, minor) => total + minor, 0);
    const transit = ofAsset.get("system:transit") ?? 0;
    const lines = JSON.stringify([...ofAsset]);
    return sum === 0 && transit === 0 ? [] : [`the books of ${currency} do not balance: ${lines}`];
  });
}

// --- What clients were told ----------------------------------------------------------------------

/** One entry for each command, by the first who sent it, with the answers of all who did. */
function merged(entries: readonly HistoryEntry[]): HistoryEntry[] {
  const byCommand = new Map<string, HistoryEntry>();
  for (const entry of entries) {
    const { commandId, walletId, proposedId, fingerprint } = entry.command;
    const key = JSON.stringify([commandId, proposedId ? null : walletId, fingerprint]);
    const first = byCommand.get(key);
    const answers = [...(first?.answers ?? []), ...entry.answers];
    answers.sort((one, other) => one.order - other.order);
    byCommand.set(key, { ...(first ?? entry), answers });
  }
  return [...byCommand.values()];
}

/**
 * The entries in the form of the common check, each with what somebody had been told before it was
 * sent.
 */
function entriesOf(ledger: Ledger, history: History): CheckedEntry[] {
  const { feeds } = history;
  const entries = merged(history.entries);
  const told = new Map<string, number>();
  const tell = (walletId: string, version: number | null): void => {
    if (version !== null) told.set(walletId, Math.max(told.get(walletId) ?? -1, version));
  };
  const floors = new Map<HistoryEntry, { floor: number; toFloor: number }>();
  const happenings: { order: number; happen: () => void }[] = [];
  for (const entry of entries) {
    const { command, sent, answers } = entry;
    const happen = (): void => {
      const toFloor = told.get(payeeOf(command) ?? "") ?? -1;
      floors.set(entry, { floor: told.get(command.walletId) ?? -1, toFloor });
    };
    happenings.push({ order: sent.order, happen });
    for (const { order, outcome } of answers) {
      happenings.push({
        order,
        happen: () => versionsIn(outcome).forEach(([walletId, version]) => tell(walletId, version)),
      });
    }
  }
  for (const { walletId, frames } of feeds) {
    for (const { order, frame } of frames) {
      happenings.push({ order, happen: () => tell(walletId, frame.version) });
    }
  }
  for (const { happen } of happenings.toSorted((one, other) => one.order - other.order)) happen();
  return entries.map((entry) => ({
    command: commandOf(ledger, entry.command),
    answers: entry.answers.map(answerOf),
    ...floors.get(entry)!,
  }));
}

function payeeOf({ body }: Command): string | null {
  if (body.type === "transfer") return body.toWalletId;
  return body.type === "capture" ? (body.to?.walletId ?? null) : null;
}

function versionsIn(outcome: Outcome): [string, number | null][] {
  switch (outcome.type) {
    case "done":
      return [[outcome.wallet.walletId, outcome.wallet.version]];
    case "transferred": {
      const { from, toWalletId, toVersion } = outcome.transfer;
      return [
        [from.walletId, from.version],
        [toWalletId, toVersion],
      ];
    }
    case "replayed":
      return [[outcome.walletId, outcome.version]];
    case "rejected":
    case "fault":
      return [];
    default:
      return outcome satisfies never;
  }
}

function commandOf({ wallets }: Ledger, command: Command): CheckedCommand {
  const { commandId: key, walletId, body, expectedVersion, fingerprint } = command;
  const isOpen = body.type === "create" && body.initialBalance !== null;
  const amount =
    body.type === "create" ? body.initialBalance : "amount" in body ? body.amount : null;
  const places = body.type === "create" ? body.decimalPlaces : wallets.get(walletId)?.decimalPlaces;
  // An amount that does not fit the asset is rejected; none of its minor units can be anywhere.
  const parsed = toMinor(amount ?? "0", places ?? 0);
  return {
    key,
    kind: isOpen ? "open" : body.type,
    walletId,
    isIdProposed: command.proposedId,
    toWalletId: payeeOf(command),
    amountMinor: amount === null ? 0 : parsed.ok ? parsed.minor : Number.NaN,
    isAmountOpen: body.type === "capture" && body.amount === null,
    expectedVersion,
    fingerprint,
  };
}

function answerOf({ outcome, body: text }: Answer): BankAnswer {
  const known = { type: "acknowledged", toVersion: null, isPending: false, text } as const;
  switch (outcome.type) {
    case "done": {
      const { version, balanceMinor } = outcome.wallet;
      return { ...known, version, balanceMinor, isReplay: false };
    }
    case "transferred": {
      const { from, toVersion, status } = outcome.transfer;
      const { version, balanceMinor } = from;
      const isPending = status === "pending";
      return { ...known, version, balanceMinor, toVersion, isPending, isReplay: outcome.replayed };
    }
    case "replayed": {
      // Of a transfer it says only that the money has left; the rest is read back.
      const isPending = outcome.transferId !== null;
      return { ...known, version: outcome.version, balanceMinor: null, isPending, isReplay: true };
    }
    case "rejected": {
      const { rejection } = outcome;
      const availableMinor = "availableMinor" in rejection ? rejection.availableMinor : null;
      const all = JSON.stringify(rejection);
      return { type: "rejected", code: rejection.code, availableMinor, text: all };
    }
    case "fault":
      return {
        type: outcome.fault === "unknown" ? "unknown" : "unavailable",
        reason: outcome.fault,
      };
    default:
      return outcome satisfies never;
  }
}

/**
 * Every wallet that was told is one that the journal has, to the last field; and a repeat names its
 * own transfer.
 */
function checkStates(ledger: Ledger, { command, answers }: HistoryEntry): string[] {
  const problems: string[] = [];
  for (const { outcome } of answers) {
    const states: (WalletState | null)[] = [];
    if (outcome.type === "done") states.push(outcome.wallet);
    if (outcome.type === "transferred") states.push(outcome.transfer.from, outcome.transfer.to);
    for (const state of states) {
      if (state === null) continue;
      const { walletId, version } = state;
      const was = stateAt(ledger, walletId, version);
      if (was !== null && isSame(was, state)) continue;
      if (JSON.stringify(was && ordered(was)) === JSON.stringify(ordered(state))) continue;
      problems.push(
        `${command.commandId} was told ${walletId}:${version} as ${JSON.stringify(state)}`,
      );
    }
    if (outcome.type !== "replayed") continue;
    const event = ledger.eventsOf.get(outcome.walletId)?.[outcome.version];
    const isIts = event?.commandId === command.commandId && event.transferId === outcome.transferId;
    if (!isIts) problems.push(`${command.commandId} was told ${JSON.stringify(outcome)}`);
  }
  return problems;
}

function stateAt(ledger: Ledger, walletId: string, version: number): WalletState | null {
  const { wallets, eventsOf, metadataOf } = ledger;
  const [wallet, event] = [wallets.get(walletId), eventsOf.get(walletId)?.[version]];
  if (wallet === undefined || event === undefined) return null;
  const { balanceMinor, heldMinor, status, occurredAtMs: updatedAtMs } = event;
  const metadata = metadataOf(walletId)[version]!;
  return { ...wallet, version, balanceMinor, heldMinor, status, metadata, updatedAtMs };
}

/** JSON text without blanks: what the core writes has none, what a client writes may. */
function spelled(json: string): string {
  return JSON.stringify(JSON.parse(json));
}

/**
 * The same fields with the same values, to the letter; two that differ in spelling only may still
 * be one.
 */
function isSame(one: WalletState, other: WalletState): boolean {
  const names = Object.keys(one) as (keyof WalletState)[];
  if (names.length !== Object.keys(other).length) return false;
  return names.every((name) => Object.hasOwn(other, name) && one[name] === other[name]);
}

/** Its fields in one order, to be compared as text. */
function ordered({ metadata, ...state }: WalletState): object {
  const fields = { ...state, metadata: spelled(metadata) };
  return Object.fromEntries(
    Object.entries(fields).toSorted(([one], [other]) => (one < other ? -1 : 1)),
  );
}

// --- What feeds were told ------------------------------------------------------------------------

/**
 * From its start each wallet comes version by version, as it was, to its end; only a reset may
 * leave something out.
 */
function checkFeed(ledger: Ledger, feed: FeedRecord): string[] {
  const { subscriber, walletId, from, frames, isOpen } = feed;
  const events = ledger.eventsOf.get(walletId) ?? [];
  const places = ledger.wallets.get(walletId)?.decimalPlaces ?? 0;
  const problems: string[] = [];
  let last = from;
  for (const [index, { frame }] of frames.entries()) {
    const { version, balance, held, status, change, conflated, snapshot } = frame;
    const must = (holds: boolean, text: string): void => {
      if (holds) return;
      problems.push(`${subscriber} after ${walletId}:${last}: ${text}: ${JSON.stringify(frame)}`);
    };
    const event = events[version];
    const isTrue =
      event !== undefined &&
      balance === toDecimal(event.balanceMinor, places) &&
      held === toDecimal(event.heldMinor, places) &&
      status === event.status;
    must(isTrue, "is not what the journal has");
    if (change === null) {
      const isStart = index === 0 && from === null;
      must(snapshot && (isStart || frame.reset === true), "begins again without a reason");
      must(index === 0 || version >= (last ?? -1), "goes back");
    } else {
      const amount = event?.amountMinor ?? null;
      const decimal = amount === null ? null : toDecimal(amount, places);
      must(last !== null && version === last + 1 + conflated, "leaves something out");
      must(change.type === event?.type && change.amount === decimal, "is another change");
    }
    last = version;
  }
  const newest = events.length - 1;
  if (isOpen && newest >= 0 && last !== newest) {
    problems.push(`${subscriber} has ${walletId} up to ${last} of ${newest}`);
  }
  return problems;
}
