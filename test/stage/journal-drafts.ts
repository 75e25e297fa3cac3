/**
 * Commits written by hand, for tests of the journal itself: drafts that are filled event by event,
 * as a lane would, with wallets and transfers to fill them with. Nothing here knows which journal
 * it is for.
 */
import { amountMinor } from "../../src/core/amount.ts";
import { chainHash } from "../../src/chain.ts";
import { moveHold, remainingMinor, type Hold } from "../../src/core/hold.ts";
import {
  holdKey,
  type AppendOrder,
  type AppendResult,
  type Journal,
  type NewEvent,
  type Writes,
} from "../../src/core/journal.ts";
import type { Rejection } from "../../src/core/rejection.ts";
import { shardOf } from "../../src/core/shard.ts";
import type { Transfer, Verdict } from "../../src/core/transfer.ts";
import { apply, type WalletEvent, type WalletState } from "../../src/core/wallet.ts";
import { unique } from "./ids.ts";

export const NOW_MS = Date.UTC(2030, 0, 1, 12, 30, 15, 123);

export type Draft = {
  -readonly [K in keyof Writes]: Writes[K] extends ReadonlyMap<infer Key, infer Value>
    ? Map<Key, Value>
    : Writes[K];
} & { readonly epochs: ReadonlyMap<number, number> };

/** A commit in the making, under these epochs. */
export function draft(epochs: ReadonlyMap<number, number>): Draft {
  return {
    epochs,
    events: [],
    wallets: new Map(),
    rejections: [],
    lookups: [],
    verdictLookups: [],
    transfers: [],
    verdicts: [],
    settled: [],
    holds: new Map(),
    fence: new Map(),
    order: { number: 0, behind: null },
  };
}

export function speakFor(writes: Draft, walletId: string): void {
  const shard = shardOf(walletId);
  writes.fence.set(shard, writes.epochs.get(shard)!);
}

/** Hashes of events made here, by wallet and version: what the next one is chained to. */
const hashes = new Map<string, string>();

/** The event, chained to the one that was made here before it. */
export function chained(row: Omit<NewEvent, "hash">): NewEvent {
  const { walletId, version } = row;
  const hash = chainHash(hashes.get(`${walletId} ${version - 1}`) ?? null, row);
  hashes.set(`${walletId} ${version}`, hash);
  return { ...row, hash };
}

/** Puts one event into the commit, applied to the wallet as the commit or `state` has it. */
export function put(
  writes: Draft,
  walletId: string,
  event: WalletEvent,
  rest: Partial<NewEvent> = {},
  state: WalletState | null = null,
): WalletState {
  const before = writes.wallets.get(walletId);
  const after = apply(walletId, before?.state ?? state, event);
  const baseVersion = before?.baseVersion ?? state?.version ?? -1;
  const { version, balanceMinor, heldMinor, status } = after;
  const row = chained({
    walletId,
    version,
    event,
    balanceMinor,
    heldMinor,
    status,
    commandId: null,
    fingerprint: null,
    isIdProposed: false,
    correlationId: "correlation",
    causationId: "cause",
    description: null,
    metadata: null,
    ...rest,
  });
  writes.events.push(row);
  writes.wallets.set(walletId, { state: after, baseVersion, hash: row.hash });
  if ("hold" in event) {
    const isNew = event.type === "HoldPlaced" || writes.holds.get(holdKey(event.hold))?.isNew;
    writes.holds.set(holdKey(event.hold), { hold: event.hold, isNew: isNew === true });
  }
  const { commandId } = rest;
  if (commandId !== undefined && commandId !== null) writes.lookups.push({ walletId, commandId });
  speakFor(writes, walletId);
  return after;
}

export const CREATED: Extract<WalletEvent, { type: "WalletCreated" }> = {
  type: "WalletCreated",
  ownerId: "owner",
  currency: "USD",
  decimalPlaces: 2,
  metadata: '{"tier": "gold"}',
  occurredAtMs: NOW_MS,
};

export function credited(minor: number): WalletEvent {
  const amount = amountMinor(minor);
  return { type: "WalletCredited", amountMinor: amount, kind: "CREDIT", occurredAtMs: NOW_MS };
}

export function metadataChanged(metadata: string): WalletEvent {
  return { type: "WalletMetadataChanged", metadata, occurredAtMs: NOW_MS };
}

/** A hold of the wallet, and the event that places it. */
export function holdOf(walletId: string, minor: number, expiresAtMs: number | null = null): Hold {
  return {
    holdId: unique("hold"),
    walletId,
    amountMinor: amountMinor(minor),
    capturedMinor: amountMinor(0),
    status: "ACTIVE",
    kind: "ESCROW",
    reference: 'a "reference"',
    description: null,
    expiresAtMs,
    createdAtMs: NOW_MS,
    capturedAtMs: null,
    releasedAtMs: null,
  };
}

export function placed(hold: Hold): WalletEvent {
  return { type: "HoldPlaced", hold, occurredAtMs: NOW_MS };
}

/** The event of a release, with the hold after it. */
export function released(
  before: Hold,
): Extract<WalletEvent, { type: "HoldReleased" | "HoldExpired" }> {
  const hold = moveHold(before, { type: "released" }, NOW_MS);
  return {
    type: "HoldReleased",
    releasedMinor: remainingMinor(before),
    hold,
    occurredAtMs: NOW_MS,
  };
}

/** The event of a capture of the amount, with the hold after it. */
export function captured(
  before: Hold,
  minor: number,
): Extract<WalletEvent, { type: "HoldCaptured" }> {
  const amount = amountMinor(minor);
  const move = { type: "captured", amountMinor: amount, isFinal: false } as const;
  const hold = moveHold(before, move, NOW_MS);
  const releasedMinor = amountMinor(0);
  return { type: "HoldCaptured", amountMinor: amount, releasedMinor, hold, occurredAtMs: NOW_MS };
}

function moved(
  type: "TransferSent" | "TransferReceived" | "TransferReturned",
  { transferId, amountMinor: amount }: Transfer,
  counterpartyId: string,
): WalletEvent {
  return { type, amountMinor: amount, transferId, counterpartyId, occurredAtMs: NOW_MS };
}

/** A wallet with a balance, created by a command. */
export function putWallet(
  writes: Draft,
  walletId: string,
  minor: number,
  commandId: string,
): WalletState {
  put(writes, walletId, CREATED, { causationId: commandId });
  return put(writes, walletId, credited(minor), { commandId, fingerprint: "input" });
}

/** Puts a credit by a command into the commit. */
export function putCredit(
  writes: Draft,
  state: WalletState,
  minor: number,
  commandId = unique("command"),
): WalletState {
  const rest = { commandId, fingerprint: "input" };
  return put(writes, state.walletId, credited(minor), rest, state);
}

/** Puts a rejection into the commit, looked for as a lane does. */
export function putRejection(
  writes: Draft,
  walletId: string,
  commandId: string,
  isIdProposed = false,
): Rejection {
  const rejection: Rejection = { code: "wallet_already_exists", walletId };
  writes.rejections.push({ walletId, commandId, fingerprint: "input", isIdProposed, rejection });
  writes.lookups.push({ walletId, commandId });
  speakFor(writes, walletId);
  return rejection;
}

export function transferBetween(from: WalletState, toWalletId: string, minor: number): Transfer {
  return {
    transferId: unique("transfer"),
    fromWalletId: from.walletId,
    toWalletId,
    amountMinor: amountMinor(minor),
    currency: "USD",
    decimalPlaces: 2,
    status: "pending",
    fromVersion: from.version + 1,
    toVersion: null,
    rejection: null,
    commandId: unique("command"),
    correlationId: "correlation",
    description: "rent",
    createdAtMs: NOW_MS,
    settledAtMs: null,
    holdId: null,
    isHoldFinal: false,
  };
}

/** The payer's event and its record of the transfer. */
export function putReserve(writes: Draft, from: WalletState, transfer: Transfer): WalletState {
  const { commandId, fromWalletId, toWalletId, description } = transfer;
  writes.transfers.push(transfer);
  return put(
    writes,
    fromWalletId,
    moved("TransferSent", transfer, toWalletId),
    { commandId, description },
    from,
  );
}

function putVerdict(
  writes: Draft,
  { transferId, toWalletId }: Transfer,
  verdict: Verdict,
): Verdict {
  writes.verdicts.push({ transferId, toWalletId, verdict, decidedAtMs: NOW_MS });
  writes.verdictLookups.push(transferId);
  speakFor(writes, toWalletId);
  return verdict;
}

function missing(transfer: Transfer): Rejection {
  return { code: "wallet_not_found", walletId: transfer.toWalletId };
}

export function putRefusal(writes: Draft, transfer: Transfer): Verdict {
  return putVerdict(writes, transfer, { type: "refused", rejection: missing(transfer) });
}

/** The payee's event and its verdict. */
export function putReceipt(writes: Draft, transfer: Transfer, payee: WalletState): WalletState {
  const event = moved("TransferReceived", transfer, transfer.fromWalletId);
  const received = put(writes, payee.walletId, event, {}, payee);
  putVerdict(writes, transfer, { type: "posted", toVersion: received.version });
  return received;
}

/** The payer's settlement of a transfer that the payee has taken. */
export function putPosted(writes: Draft, transfer: Transfer, toVersion: number): Transfer {
  const settled: Transfer = { ...transfer, status: "posted", toVersion, settledAtMs: NOW_MS };
  writes.settled.push(settled);
  speakFor(writes, transfer.fromWalletId);
  return settled;
}

/** The payer's settlement of one that the payee has refused, and its event. */
export function putReturn(writes: Draft, transfer: Transfer, payer: WalletState): WalletState {
  const rejection = missing(transfer);
  writes.settled.push({ ...transfer, status: "returned", rejection, settledAtMs: NOW_MS });
  const event = moved("TransferReturned", transfer, transfer.toWalletId);
  return put(writes, payer.walletId, event, {}, payer);
}

// --- Whole drafts --------------------------------------------------------------------------------

type Epochs = ReadonlyMap<number, number>;

export function creditDraft(
  epochs: Epochs,
  state: WalletState,
  minor = 1,
  commandId = unique("command"),
): Draft {
  const writes = draft(epochs);
  putCredit(writes, state, minor, commandId);
  return writes;
}

/** One credit of a wallet after another, each in a draft of its own that builds on the last. */
export function creditDrafts(epochs: Epochs, wallet: WalletState, count: number): Draft[] {
  let state = wallet;
  return Array.from({ length: count }, () => {
    const writes = draft(epochs);
    state = putCredit(writes, state, 1);
    return writes;
  });
}

export function metadataDraft(epochs: Epochs, state: WalletState): Draft {
  const writes = draft(epochs);
  put(writes, state.walletId, metadataChanged('{"tier": "none"}'), {}, state);
  return writes;
}

export function rejectionDraft(epochs: Epochs, walletId: string): Draft {
  const writes = draft(epochs);
  putRejection(writes, walletId, unique("command"));
  return writes;
}

// --- Appends behind one another ------------------------------------------------------------------

let lastNumber = 0;

/** Of an append behind that one, or behind none; no journal has met its number. */
export function orderBehind(before: AppendOrder | null): AppendOrder {
  lastNumber += 1;
  return { number: lastNumber, behind: before?.number ?? null };
}

/** Begins them all in this turn, each behind the one before and the first behind none. */
export function beginAll(
  journal: Pick<Journal, "append">,
  ...all: readonly Draft[]
): Promise<AppendResult>[] {
  let before: AppendOrder | null = null;
  return all.map((writes) => {
    before = orderBehind(before);
    return journal.append({ ...writes, order: before });
  });
}

export function appendAll(
  journal: Pick<Journal, "append">,
  ...all: readonly Draft[]
): Promise<AppendResult[]> {
  return Promise.all(beginAll(journal, ...all));
}
