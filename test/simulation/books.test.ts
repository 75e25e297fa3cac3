/**
 * The audit itself: a small honest run in two databases, in which it finds nothing, and then
 * everything that a run can get wrong, done to that run one by one, each of which it must find.
 */
import { beforeEach, describe, expect, it } from "vitest";
import { amountMinor } from "../../src/core/amount.ts";
import { frameText, revisionOfChange, revisionOfState } from "../../gateway/feed/frames.ts";
import type { NewEvent } from "../../src/core/journal.ts";
import type { Command, Outcome } from "../../src/core/protocol.ts";
import type { Rejection } from "../../src/core/rejection.ts";
import { ALL_SHARDS, shardOf } from "../../src/core/shard.ts";
import type { WalletEventType, WalletState } from "../../src/core/wallet.ts";
import * as fixtures from "../stage/journal-drafts.ts";
import { EVEN, idIn, ODD } from "../stage/ids.ts";
import * as staging from "../stage/staged-commands.ts";
import { checkHistory } from "../stage/bank-check.ts";
import { checkBooks } from "./books.ts";
import { buildSimulatedDatabase, type EventRow, type SimulatedDatabase } from "./database.ts";
import { buildRecorder, type HistoryEntry, type Recorder } from "./history.ts";

const EPOCHS = new Map(ALL_SHARDS.map((shard) => [shard, 0]));
const UNKNOWN: Outcome = { type: "fault", fault: "unknown" };
const UNAVAILABLE: Outcome = { type: "fault", fault: "unavailable" };

type Writable<T> = { -readonly [K in keyof T]: T[K] };

let databases: SimulatedDatabase[];
let history: Recorder;
let payer: string;
let payee: string;
/** What was sent, by what it is in the run. */
let sent: Record<
  "opening" | "credit" | "posted" | "returned" | "poor" | "absent" | "lost",
  HistoryEntry
>;

beforeEach(async () => {
  databases = ["database-0", "database-1"].map((name) =>
    buildSimulatedDatabase({
      name,
      time: { nowMs: () => 0, after: (_, task) => (queueMicrotask(task), () => undefined) },
      plan: () => ({ requestMs: 0, commitMs: 0, answerMs: 0, fault: null }),
    }),
  );
  history = buildRecorder(() => 0);
  await run();
});

// --- An honest run -------------------------------------------------------------------------------

function tablesOf(walletId: string) {
  return databases[shardOf(walletId) % 2]!.tables;
}

function now(walletId: string): WalletState {
  return tablesOf(walletId).wallets.get(walletId)!;
}

async function commit(
  walletId: string,
  fill: (writes: fixtures.Draft) => void,
): Promise<WalletState> {
  const writes = fixtures.draft(EPOCHS);
  fill(writes);
  const caller = { name: "bank", deliver: (answer: () => void) => answer() };
  const journal = databases[shardOf(walletId) % 2]!.journal(caller);
  expect(await journal.append(writes)).toEqual({ type: "committed" });
  return now(walletId);
}

function idsOf({ commandId, fingerprint }: Command): Partial<NewEvent> {
  return { commandId, fingerprint };
}

async function opened(command: Command): Promise<WalletState> {
  const { walletId } = command;
  return await commit(walletId, (writes) => {
    fixtures.put(writes, walletId, fixtures.CREATED);
    fixtures.put(writes, walletId, fixtures.credited(10_000), idsOf(command));
  });
}

async function credited(command: Command): Promise<WalletState> {
  const { walletId } = command;
  const state = now(walletId);
  return await commit(walletId, (writes) => {
    fixtures.put(writes, walletId, fixtures.credited(100), idsOf(command), state);
  });
}

/** Reserves; then the payee's verdict and the settlement, in the one database and the other. */
async function transferred(command: Command, toWalletId: string): Promise<WalletState> {
  const { walletId, commandId, fingerprint } = command;
  const state = now(walletId);
  const transfer = { ...fixtures.transferBetween(state, toWalletId, 700), commandId };
  const from = await commit(walletId, (writes) => {
    fixtures.putReserve(writes, state, transfer);
    writes.events[0] = fixtures.chained({ ...writes.events[0]!, fingerprint });
  });
  const to = now(toWalletId);
  if (to === undefined) {
    await commit(toWalletId, (writes) => fixtures.putRefusal(writes, transfer));
    return await commit(walletId, (writes) => fixtures.putReturn(writes, transfer, from));
  }
  await commit(toWalletId, (writes) => fixtures.putReceipt(writes, transfer, to));
  await commit(walletId, (writes) => fixtures.putPosted(writes, transfer, to.version + 1));
  return from;
}

function done(wallet: WalletState): Outcome {
  return { type: "done", wallet };
}

function no(rejection: Rejection): Outcome {
  return { type: "rejected", rejection, replayed: false };
}

function watch(walletId: string): void {
  const { wallets, eventsOf } = tablesOf(walletId);
  const wallet = wallets.get(walletId)!;
  for (const event of eventsOf.get(walletId)!.slice(1)) {
    const { version, balanceMinor, heldMinor, status } = event;
    const state = { ...wallet, version, balanceMinor, heldMinor, status };
    const isFirst = version === 1;
    const revision = isFirst
      ? revisionOfState(state)
      : revisionOfChange({ ...event, wallet: state });
    history.framed("client", frameText(revision, isFirst ? "snapshot" : "change", 0));
  }
}

async function run(): Promise<void> {
  [payer, payee] = [idIn(EVEN), idIn(ODD)];
  const nobody = idIn(ODD);
  const send = (command: Command): HistoryEntry => history.sent(command);
  const opening = send(staging.commandOf(payer, staging.creation("100.00")));
  history.answered(opening, done(await opened(opening.command)));
  const other = send(staging.commandOf(payee, staging.creation("100.00")));
  history.answered(other, done(await opened(other.command)));

  const credit = send(staging.credit(payer, "1.00"));
  history.answered(credit, UNKNOWN);
  const { version } = await credited(credit.command);
  history.answered(
    credit,
    { type: "replayed", walletId: payer, version, transferId: null },
    "body",
  );
  history.answered(
    credit,
    { type: "replayed", walletId: payer, version, transferId: null },
    "body",
  );

  const posted = send(staging.transfer(payer, payee, "7.00"));
  const from = await transferred(posted.command, payee);
  const { transferId } = tablesOf(payer).events.at(-1)!;
  const ends = { transferId: transferId!, from, toWalletId: payee, hold: null };
  const answer = { ...ends, to: now(payee), toVersion: now(payee).version };
  const pending = { ...ends, to: null, toVersion: null, status: "pending" } as const;
  history.answered(posted, { type: "transferred", transfer: pending, replayed: false });
  const transfer = { ...answer, status: "posted" } as const;
  history.answered(posted, { type: "transferred", transfer, replayed: true });

  const returned = send(staging.transfer(payer, nobody, "7.00"));
  await transferred(returned.command, nobody);
  history.answered(returned, no({ code: "wallet_not_found", walletId: nobody }));

  const poor = send(staging.debit(payer, "200.00"));
  const { balanceMinor: availableMinor, currency, decimalPlaces } = now(payer);
  const requestedMinor = amountMinor(20_000);
  const amounts = { availableMinor, requestedMinor, currency, decimalPlaces };
  const rejection: Rejection = { code: "insufficient_funds", walletId: payer, ...amounts };
  await commit(payer, (writes) => {
    fixtures.putRejection(writes, payer, poor.command.commandId);
    const { fingerprint } = poor.command;
    writes.rejections[0] = { ...writes.rejections[0]!, fingerprint, rejection };
  });
  history.answered(poor, no(rejection));

  const absent = send(staging.credit(payer, "1.00"));
  history.answered(absent, UNAVAILABLE);
  const lost = send(staging.credit(payer, "1.00"));
  history.answered(lost, UNKNOWN);
  sent = { opening, credit, posted, returned, poor, absent, lost };
  watch(payer);
}

it("finds nothing in an honest run", () => {
  expect(checkBooks(databases, history)).toEqual([]);
});

it("takes a command for what it became, when its caller never knew", async () => {
  await credited(sent.lost.command);
  history.unwatched("client");
  expect(checkBooks(databases, history)).toEqual([]);
});

it("takes the same command of two callers for one", async () => {
  const again = history.sent(sent.credit.command);
  const version = 2;
  history.answered(again, { type: "replayed", walletId: payer, version, transferId: null }, "body");
  expect(checkBooks(databases, history)).toEqual([]);
});

it("takes another input under a key that is taken for a conflict", async () => {
  const { commandId } = sent.credit.command;
  const other = history.sent(staging.credit(payer, "5.00", { commandId, fingerprint: "other" }));
  history.answered(other, no({ code: "idempotency_conflict", commandId }));
  expect(checkBooks(databases, history)).toEqual([]);
});

// --- What may happen to a wallet that is not active ----------------------------------------------

/** What may happen to a suspended wallet; to a closed one nothing may. */
const WHILE_SUSPENDED: readonly WalletEventType[] = [
  "TransferReturned",
  "HoldReleased",
  "HoldExpired",
  "WalletMetadataChanged",
  "WalletActivated",
  "WalletClosed",
];
const NEVER_THEN: readonly WalletEventType[] = [
  "WalletCreated",
  "WalletCredited",
  "WalletDebited",
  "TransferSent",
  "TransferReceived",
  "HoldPlaced",
  "HoldCaptured",
  "WalletSuspended",
];

function wrongAfter(turn: "WalletSuspended" | "WalletClosed", type: WalletEventType): string[] {
  const before = turn === "WalletClosed" ? "CLOSED" : "SUSPENDED";
  const turned: Partial<Record<WalletEventType, string>> = {
    WalletActivated: "ACTIVE",
    WalletClosed: "CLOSED",
    WalletCreated: "ACTIVE",
    WalletSuspended: "SUSPENDED",
  };
  const rest = { walletId: "w", amountMinor: null, balanceMinor: 0, transferId: null };
  const ids = { commandId: null, fingerprint: null };
  const history: [WalletEventType, string][] = [
    ["WalletCreated", "ACTIVE"],
    [turn, before],
    [type, turned[type] ?? before],
  ];
  const events = history.map(([each, status], version) => {
    return { ...rest, ...ids, version, type: each, status };
  });
  const { status } = events[2]!;
  const wallets = [{ walletId: "w", version: 2, balanceMinor: 0, status }];
  const problems = checkHistory({ events, wallets, rejections: [], transfers: [] });
  return problems.filter((problem) => problem.startsWith("w:"));
}

it.each(WHILE_SUSPENDED)("lets a suspended wallet have %s, and a closed one not", (type) => {
  expect(wrongAfter("WalletSuspended", type)).toEqual([]);
  expect(wrongAfter("WalletClosed", type)).toEqual([expect.stringContaining("does not follow")]);
});

it.each(NEVER_THEN)("finds %s of a suspended wallet, and of a closed one", (type) => {
  expect(wrongAfter("WalletSuspended", type)).toEqual([expect.stringContaining("does not follow")]);
  expect(wrongAfter("WalletClosed", type)).toEqual([expect.stringContaining("does not follow")]);
});

// --- Everything that can be wrong ----------------------------------------------------------------

function edit<Key, Row>(rows: Map<Key, Row>, key: Key, change: Partial<Row>): void {
  rows.set(key, { ...rows.get(key)!, ...change });
}

function editEvent(walletId: string, version: number, change: Partial<EventRow>): void {
  Object.assign(tablesOf(walletId).eventsOf.get(walletId)![version]!, change);
}

function editFrame(index: number, change: object): void {
  Object.assign(history.feeds[0]!.frames[index]!.frame, change);
}

function lastTransfer(): string {
  return [...tablesOf(payer).transfers.keys()].at(-1)!;
}

function wallet(version: number): WalletState {
  const { balanceMinor } = tablesOf(payer).eventsOf.get(payer)![version]!;
  return { ...now(payer), version, balanceMinor };
}

/** Puts a rejection beside the event. */
function rejectToo({ commandId, fingerprint }: Command): void {
  const rejection: Rejection = { code: "wallet_not_found", walletId: payer };
  const row = { walletId: payer, commandId, fingerprint, isIdProposed: false, rejection };
  tablesOf(payer).rejections.set("beside", row);
}

/** What was said to be available. */
function editAvailable(minor: number): void {
  const { outcome } = sent.poor.answers[0]!;
  Object.assign((outcome as { rejection: object }).rejection, { availableMinor: minor });
}

/** Answers a command once more. */
function tell(entry: HistoryEntry, outcome: Outcome, body: string | null = null): void {
  history.answered(entry, outcome, body);
}

describe("finds", () => {
  it.each<[string, RegExp, () => unknown]>([
    // The books by themselves
    [
      "money out of nothing",
      /is .*its events/,
      () => edit(tablesOf(payer).wallets, payer, { balanceMinor: amountMinor(1) }),
    ],
    [
      "books that do not balance",
      /do not balance/,
      () => edit(tablesOf(payer).wallets, payer, { balanceMinor: amountMinor(1) }),
    ],
    [
      "money on another account",
      /is booked on/,
      () => editEvent(payer, 1, { account: "system:transit" }),
    ],
    [
      "money in transit",
      /do not balance/,
      () => editEvent(payer, 1, { account: "system:transit" }),
    ],
    [
      "a version left out",
      /does not follow/,
      () => tablesOf(payer).eventsOf.get(payer)!.splice(2, 1),
    ],
    [
      "a balance that is not the fold",
      /does not follow/,
      () => editEvent(payer, 2, { balanceMinor: amountMinor(5) }),
    ],
    [
      "a status that is not the fold",
      /does not follow/,
      () => editEvent(payer, 2, { status: "SUSPENDED" }),
    ],
    [
      "a wallet without its last event",
      /is .*its events/,
      () => tablesOf(payer).eventsOf.get(payer)!.pop(),
    ],
    ["events without a wallet", /events and no row/, () => tablesOf(payer).wallets.delete(payer)],
    [
      "another owner",
      /is not what its events made/,
      () => edit(tablesOf(payer).wallets, payer, { ownerId: "other" }),
    ],
    [
      "metadata that no event brought",
      /is not what its events made/,
      () => edit(tablesOf(payer).wallets, payer, { metadata: '{"tier":"blue"}' }),
    ],
    [
      "a place in the shard left out",
      /is at 9 of shard/,
      () => editEvent(payer, 2, { position: 9 }),
    ],
    [
      "a top-up that nobody's treasury paid",
      /is booked on system:world/,
      () => editEvent(payer, 2, { data: { kind: "TOPUP" } }),
    ],
    ["a clock that goes back", /is before/, () => editEvent(payer, 2, { occurredAtMs: 0 })],
    ["a row in another database", /does not belong/, () => (databases = databases.toReversed())],
    // Transfers
    [
      "a transfer that is not settled",
      /never settled/,
      () => edit(tablesOf(payer).transfers, lastTransfer(), { status: "pending" }),
    ],
    ["a transfer without verdict", /not in order/, () => databases[1]!.tables.verdicts.clear()],
    [
      "a transfer whose verdict differs",
      /not in order/,
      () =>
        edit(databases[1]!.tables.verdicts, lastTransfer(), {
          verdict: { type: "posted", toVersion: 1 },
        }),
    ],
    [
      "a verdict without a transfer",
      /has a verdict in .* and no record/,
      () => tablesOf(payer).transfers.clear(),
    ],
    [
      "an event of no transfer",
      /transfer-\d+ has no record/,
      () => tablesOf(payer).transfers.clear(),
    ],
    [
      "money that went and did not arrive",
      /not in order/,
      () => editEvent(payee, 2, { type: "WalletCredited", transferId: null }),
    ],
    [
      "money that arrived elsewhere",
      /not in order|came elsewhere/,
      () => editEvent(payee, 2, { walletId: "elsewhere" }),
    ],
    // What callers were told
    [
      "an acknowledged command that is not there",
      /not there/,
      () => tell(sent.lost, done(wallet(1))),
    ],
    [
      "a command that is there twice",
      /there 2 times/,
      () =>
        editEvent(payer, 4, {
          commandId: sent.credit.command.commandId,
          fingerprint: sent.credit.command.fingerprint,
        }),
    ],
    [
      "a command that nobody sent",
      /nobody sent/,
      () => editEvent(payer, 2, { commandId: "stranger" }),
    ],
    ["another version than was told", /told as/, () => tell(sent.credit, done(wallet(1)))],
    [
      "another balance than was told",
      /another balance/,
      () => tell(sent.credit, done({ ...wallet(2), balanceMinor: amountMinor(1) })),
    ],
    [
      "a state that never was",
      /was told/,
      () => tell(sent.opening, done({ ...wallet(1), status: "CLOSED" })),
    ],
    [
      "metadata that the wallet did not have",
      /was told/,
      () => tell(sent.opening, done({ ...wallet(1), metadata: "{}" })),
    ],
    [
      "a repeat that is answered differently",
      /differently/,
      () =>
        tell(
          sent.credit,
          { type: "replayed", walletId: payer, version: 2, transferId: null },
          "other",
        ),
    ],
    [
      "a repeat with another's transfer",
      /was told/,
      () =>
        tell(sent.credit, { type: "replayed", walletId: payer, version: 2, transferId: "other" }),
    ],
    [
      "an effect of what was unavailable",
      /unavailable, and is there/,
      () => credited(sent.absent.command),
    ],
    [
      "another amount than was sent",
      /became/,
      () => editEvent(payer, 2, { amountMinor: amountMinor(5) }),
    ],
    [
      "an ignored condition",
      /condition/,
      () => ((sent.credit.command as Writable<Command>).expectedVersion = 7),
    ],
    [
      "a rejected command that is there",
      /rejected, and is there/,
      () => tell(sent.credit, no({ code: "wallet_not_found", walletId: payer })),
    ],
    [
      "a rejection for another reason",
      /rejected for/,
      () => tell(sent.poor, no({ code: "wallet_not_found", walletId: payer })),
    ],
    [
      "a rejection that differs from the first",
      /rejected differently/,
      () => tell(sent.returned, no({ code: "wallet_not_found", walletId: "x" })),
    ],
    [
      "a rejection that left no record",
      /without a record/,
      () => tablesOf(payer).rejections.clear(),
    ],
    ["a rejection by a balance that never was", /wrong reason/, () => editAvailable(1)],
    ["a rejection by a balance of long ago", /wrong reason/, () => editAvailable(10_000)],
    ["an outcome of both kinds", /accepted and rejected/, () => rejectToo(sent.credit.command)],
    [
      "a pending transfer told as posted",
      /is returned/,
      () =>
        tell(sent.returned, {
          type: "transferred",
          replayed: false,
          transfer: {
            transferId: lastTransfer(),
            status: "posted",
            from: wallet(4),
            to: null,
            toWalletId: "x",
            toVersion: null,
            hold: null,
          },
        }),
    ],
    [
      "a conflict where there is none",
      /not in conflict/,
      () => tell(sent.credit, no({ code: "idempotency_conflict", commandId: "x" })),
    ],
    [
      "another input's outcome",
      /another one's/,
      () => ((sent.credit.command as Writable<Command>).fingerprint = "other"),
    ],
    [
      "a version before one that was told",
      /had been told/,
      () => ((sent.credit as Writable<HistoryEntry>).sent = { atMs: 0, order: 1_000 }),
    ],
    // What feeds were told
    [
      "a frame left out",
      /leaves something out/,
      () => (history.feeds[0]!.frames as unknown[]).splice(2, 1),
    ],
    [
      "a frame twice",
      /leaves something out/,
      () => (history.feeds[0]!.frames as unknown[]).splice(2, 0, history.feeds[0]!.frames[2]),
    ],
    ["a frame that is not true", /not what the journal has/, () => editFrame(2, { balance: 1 })],
    [
      "a frame of another change",
      /another change/,
      () => editFrame(2, { change: { type: "WalletClosed", amount: null } }),
    ],
    [
      "a count of conflated changes that is wrong",
      /leaves something out/,
      () => editFrame(2, { conflated: 1 }),
    ],
    ["a start in the middle", /begins again/, () => editFrame(2, { change: null, snapshot: true })],
    ["a feed that ends early", /up to/, () => (history.feeds[0]!.frames as unknown[]).pop()],
  ])("%s", async (_what, problem, spoil) => {
    await spoil();
    expect(checkBooks(databases, history).join("\n")).toMatch(problem);
  });
});
