/**
 * The callers of a simulated cluster: each sends a command to a gateway, or several as a batch,
 * waits for the answer, and goes on. They work on a few wallets, one of them hot, with keys and
 * without, repeat what they did not hear of, sometimes what they did, and sometimes at two gateways
 * at once; some ask first what would become of it, and some take the id that a gateway has made for
 * one command as the key of another. Others act at the worst moment: they suspend or
 * close a payee while money is leaving for it, and release the hold that pays. All they saw is in
 * the history. When the faults are over, `resolve` repeats whatever has no outcome, under the same
 * id.
 */
import { createHash } from "node:crypto";
import type { Hold, HoldKind } from "../../src/core/hold.ts";
import { LIMITS } from "../../src/limits.ts";
import type { Command, Outcome } from "../../src/core/protocol.ts";
import { shardOf } from "../../src/core/shard.ts";
import type { Transfer } from "../../src/core/transfer.ts";
import type { CreditKind, WalletCommand, WalletState } from "../../src/core/wallet.ts";
import { fitsBatch, reachedOf, type Reached } from "./batches.ts";
import type { Cluster, GatewayMember, GatewayRun } from "./cluster.ts";
import type { HistoryEntry, Recorder } from "./history.ts";
import { EPOCH_MS, type Scheduler } from "./scheduler.ts";

export interface BankDeps {
  readonly scheduler: Scheduler;
  readonly cluster: Cluster;
  readonly recorder: Recorder;
  readonly callers: number;
  readonly wallets: number;
  /** About how many commands they send, and in how many milliseconds. */
  readonly commands: number;
  readonly lengthMs: number;
  /** Whether the wallet is there and could be closed now. */
  readonly isEmpty: (walletId: string) => boolean;
  /** Counts what the run has met. */
  readonly count: (what: string) => void;
}

export interface Bank {
  readonly walletIds: readonly string[];
  start(): void;
  /** Told when money is about to leave; somebody may be in its way. */
  reserving(transfers: readonly Transfer[]): void;
  /** Nothing new is begun from now on. */
  stop(): void;
  /** Repeats everything without an outcome until it has one. */
  resolve(): void;
  /** Asks what would become of a command, until there is an answer to that. */
  rehearse(walletId: string, body: WalletCommand): HistoryEntry;
  /** Nobody waits for anything, and every command has its outcome. */
  readonly isDone: boolean;
  /** What is missing for that. */
  open(): string[];
}

const OWNERS = ["owner-a", "owner-b"] as const;
const HOLDS_KNOWN = 20;
/** Users and assets of the game economy. The last two make one wallet id. */
const USERS = [
  ["ann", "GOLD"],
  ["bob", "GOLD"],
  ["ann:x", "GOLD"],
  ["ann", "x:GOLD"],
] as const;

export function buildBank(deps: BankDeps): Bank {
  const { scheduler, cluster, recorder } = deps;
  const random = scheduler.random.stream("bank");
  /** Longer than a gateway may take. */
  const patienceMs = LIMITS.commandDeadlineMs + 3_000;
  const batchPatienceMs = patienceMs + LIMITS.batchDeadlineMs;
  const walletIds = Array.from({ length: deps.wallets }, (_, index) => `wallet-${index}`);
  /** Those that nobody has opened at the beginning: some commands meet nothing. */
  const unopened = walletIds.slice(1).filter(() => random.chance(0.15));
  /** Proposed ones, as their callers came to know them. */
  const others: string[] = [];
  /** Highest version that somebody was told of. */
  const told = new Map<string, number>();
  const attempts = new Map<HistoryEntry, number>();
  /** Holds that somebody was told of; the latest ones. */
  const holds: Hold[] = [];
  /** Wallets come and go while transfers are on their way. */
  const isRestless = random.chance(0.2);
  const isHolding = random.chance(0.5);
  const isSpiteful = random.chance(0.5);
  const isPlaying = random.chance(0.4);
  const isBatching = random.chance(0.4);
  const isFounding = random.chance(0.2);
  const pauseMsMax = (2 * deps.lengthMs * deps.callers) / (0.6 * deps.commands);
  let lastNumber = 0;
  let busy = 0;
  let isStopping = false;

  // --- One request and its answer ---

  /** What the gateway answers; null when nothing is heard of it. */
  function ask<T>(
    { run, state }: GatewayMember,
    withinMs: number,
    work: (run: GatewayRun) => Promise<T>,
  ): Promise<T | null> {
    if (run === null || state !== "up") return Promise.resolve(null);
    return new Promise((resolve) => {
      const settle = (reached: T | null): void => {
        end();
        run.onEnd.delete(onEnd);
        resolve(reached);
      };
      const onEnd = (): void => {
        scheduler.after(random.between(0.1, 1), "connection lost", () => settle(null));
      };
      const end = scheduler.after(withinMs, "caller gives up", () => settle(null));
      run.onEnd.add(onEnd);
      run.process.after(random.between(0.1, 1), "request", () => {
        void work(run).then((reached) =>
          scheduler.after(random.between(0.1, 1), "response", () => settle(reached)),
        );
      });
    });
  }

  /** In the gateway: what its routes do with a command. */
  async function answerAt(run: GatewayRun, command: Command): Promise<Reached> {
    const outcome = await run.desk.submit(command);
    return reachedOf(outcome, await run.giveAnswer(outcome, command));
  }

  function somewhere(): GatewayMember {
    const up = cluster.gateways.filter(({ state }) => state === "up");
    return random.pick(up.length > 0 ? up : cluster.gateways);
  }

  /** Sends it once; returns whether it has an outcome now. */
  async function send(entry: HistoryEntry): Promise<boolean> {
    const gateway = somewhere();
    const command = nextCommand(entry);
    const reached = await ask(gateway, patienceMs, (run) => answerAt(run, command));
    heard(entry, reached);
    return isSettled(entry);
  }

  /** Sends all of them as one batch. */
  async function sendBatch(entries: readonly HistoryEntry[]): Promise<void> {
    const gateway = somewhere();
    const commands = entries.map(nextCommand);
    deps.count("batches: sent");
    const all = await ask(gateway, batchPatienceMs, (run) => run.batches.send(commands));
    for (const [index, entry] of entries.entries()) heard(entry, all?.[index] ?? null);
  }

  function nextCommand(entry: HistoryEntry): Command {
    const number = (attempts.get(entry) ?? 0) + 1;
    attempts.set(entry, number);
    const command = number === 1 ? entry.command : repeated(entry.command);
    if (scheduler.isTracing) {
      const { commandId, walletId } = command;
      const { type } = command.body;
      const rest = JSON.stringify({ ...command.body, type: undefined, metadata: undefined });
      scheduler.trace("bank", `${commandId} #${number} ${type} ${walletId} ${rest.slice(0, 200)}`);
    }
    return command;
  }

  function heard(entry: HistoryEntry, reached: Reached | null): void {
    const { commandId, dryRun } = entry.command;
    if (scheduler.isTracing) scheduler.trace("bank", `${commandId} = ${summaryOf(reached)}`);
    if (reached === null) return;
    recorder.answered(entry, reached.outcome, reached.body);
    deps.count(`${dryRun === true ? "dry runs" : "answers"}: ${kindOf(reached.outcome)}`);
    if (dryRun !== true) learn(reached.outcome);
  }

  function learn(outcome: Outcome): void {
    const see = ({ walletId, version }: WalletState): void => {
      if (!walletIds.includes(walletId) && !others.includes(walletId)) others.push(walletId);
      told.set(walletId, Math.max(version, told.get(walletId) ?? -1));
    };
    if (outcome.type === "done") see(outcome.wallet);
    if (outcome.type === "transferred") see(outcome.transfer.from);
    const hold = outcome.type === "done" ? outcome.hold : undefined;
    if (hold?.status !== "ACTIVE") return;
    if (holds.length === HOLDS_KNOWN) holds.shift();
    holds.push(hold);
    if (!isSpiteful || hold.expiresAtMs === null) return;
    if (random.chance(0.5)) captureLate(hold);
    if (outcome.type === "done" && random.chance(0.5)) spendLate(outcome.wallet, hold);
  }

  /** What a gateway makes of the same request: the same id, and new ids where it makes them. */
  function repeated(command: Command): Command {
    const { body, commandId } = command;
    const fingerprint = command.fingerprint ?? fingerprintOf(command);
    const walletId = command.proposedId ? proposal(commandId) : command.walletId;
    return { ...command, fingerprint, walletId, body: renamed(body) };
  }

  function renamed(body: WalletCommand): WalletCommand {
    if (body.type === "transfer") return { ...body, transferId: random.uuid() };
    if (body.type === "hold") return { ...body, holdId: random.uuid() };
    if (body.type !== "capture" || body.to === null) return body;
    return { ...body, to: { ...body.to, transferId: random.uuid() } };
  }

  // --- Callers ---

  function begin(...of: Parameters<typeof commandFor>): HistoryEntry {
    return recorder.sent(commandFor(...of));
  }

  function commandFor(
    /** Null: an id is proposed. */
    walletId: string | null,
    body: WalletCommand,
    given: Partial<Command> = {},
  ): Command {
    lastNumber += 1;
    const isKeyed = random.chance(0.75);
    const commandId = `${isKeyed ? "key" : "made"}-${lastNumber}`;
    const command: Command = {
      commandId,
      fingerprint: null,
      walletId: walletId ?? proposal(commandId),
      proposedId: false,
      expectedVersion: null,
      description: random.chance(0.1) ? `about ${commandId}` : null,
      metadata: random.chance(0.05) ? `{"number": ${lastNumber}}` : null,
      correlationId: `trace-${lastNumber}`,
      body,
      ...given,
    };
    return { ...command, fingerprint: isKeyed ? fingerprintOf(command) : null };
  }

  function nextEntry(): HistoryEntry {
    const kind = random.below(100);
    const hot = random.chance(0.35) ? walletIds[0]! : random.pick(walletIds);
    const walletId = others.length > 0 && random.chance(0.1) ? random.pick(others) : hot;
    // Large ones meet empty wallets.
    const amount = (1 + random.below(random.pick([3_000, 30_000]))) / 100;
    const known = told.get(walletId);
    const expectedVersion = known !== undefined && random.chance(0.1) ? known : null;
    if (isRestless && random.chance(0.35)) {
      const restless = random.pick(walletIds.slice(1));
      return begin(restless, { type: random.pick(["suspend", "activate", "activate", "close"]) });
    }
    if (isHolding && random.chance(0.4)) return aboutHold(walletId, amount, expectedVersion);
    if (isPlaying && random.chance(0.15)) return play(String(amount));
    if (isFounding && random.chance(0.15)) return begin(null, creation(), { proposedId: true });
    if (kind < 50) {
      const drawn = random.pick(walletIds);
      const isSelf = drawn === walletId && random.chance(0.9);
      const toWalletId = isSelf ? walletIds.find((each) => each !== walletId)! : drawn;
      const transferId = random.uuid();
      const body = { type: "transfer", transferId, toWalletId, amount: String(amount) } as const;
      return begin(walletId, body, { expectedVersion });
    }
    if (kind < 70) {
      return begin(walletId, { type: "debit", amount: String(amount) }, { expectedVersion });
    }
    if (kind < 90) {
      const creditKind = random.chance(0.2) ? "FUND" : "CREDIT";
      const body = { type: "credit", amount: String(amount), kind: creditKind } as const;
      return begin(walletId, body, { expectedVersion });
    }
    if (kind < 92) return create();
    if (kind < 94) return begin(walletId, update(), { expectedVersion, metadata: null });
    // Never the hot one: too much would end there.
    const side = random.pick(walletIds.slice(1));
    if (kind < 95) return begin(side, { type: "suspend" });
    if (kind < 99 || unopened.includes(side)) return begin(side, { type: "activate" });
    return begin(side, { type: "close" });
  }

  /**
   * Places holds, and captures and releases those that were told of, also ended ones, some of them
   * at the moment they expire.
   */
  function aboutHold(
    walletId: string,
    amount: number,
    expectedVersion: number | null,
  ): HistoryEntry {
    const isPlacing = holds.length === 0 || random.chance(0.35);
    if (isPlacing) {
      const expiry = random.below(4);
      const body = {
        type: "hold",
        holdId: random.uuid(),
        amount: String(amount),
        kind: random.pick<HoldKind>(["PAYMENT", "ESCROW", "OTHER"]),
        reference: random.chance(0.3) ? `order-${lastNumber}` : null,
        description: null,
        expiresAtMs:
          expiry === 0 ? EPOCH_MS + Math.floor(scheduler.nowMs) + random.below(6_000) - 200 : null,
        expiresInSeconds: expiry === 1 ? 1 + random.below(8) : null,
      } as const;
      return begin(walletId, body, { expectedVersion });
    }
    const hold = random.pick(holds);
    const { holdId, walletId: holder } = hold;
    if (random.chance(0.2)) return begin(holder, { type: "release", holdId });
    return capture(hold, random.chance(isSpiteful ? 0.8 : 0.5));
  }

  function capture(hold: Hold, isPaying: boolean): HistoryEntry {
    const part = 1 + random.below(hold.amountMinor);
    const payee = random.pick(walletIds);
    const body = {
      type: "capture",
      holdId: random.chance(0.02) ? random.uuid() : hold.holdId,
      amount: random.chance(0.4) ? null : String(part / 100),
      final: random.chance(0.3),
      to: isPaying ? { transferId: random.uuid(), walletId: payee } : null,
    } as const;
    return begin(hold.walletId, body);
  }

  /** So late that the hold is over when the money comes back, if that takes a moment. */
  function captureLate(hold: Hold): void {
    const leftMs = hold.expiresAtMs! - EPOCH_MS - scheduler.nowMs;
    const waitMs = Math.max(0, leftMs - random.pick([30, 300, 900]) * random.next());
    scheduler.after(waitMs, "late capture", () => {
      if (!isStopping) busyWith(carryOut(capture(hold, true)));
    });
  }

  /**
   * Wants what is available and what was held as soon as the hold is over, when nobody may have
   * ended it; behind something else, so that the wallet's own clock says that it is over.
   */
  function spendLate({ walletId, balanceMinor, heldMinor }: WalletState, hold: Hold): void {
    const leftMs = hold.expiresAtMs! - EPOCH_MS - scheduler.nowMs;
    const minor = balanceMinor - heldMinor + hold.amountMinor;
    scheduler.after(Math.max(0, leftMs) + 500 * random.next(), "late spending", () => {
      if (isStopping) return;
      const credit = begin(walletId, { type: "credit", amount: "0.01", kind: "CREDIT" });
      const debit = begin(walletId, { type: "debit", amount: String(minor / 100) });
      busyWith(carryOut(credit).then(() => carryOut(debit)));
    });
  }

  /** Money of a user in an asset: the first makes the wallet. */
  function play(amount: string): HistoryEntry {
    const [ownerId, currency] = random.pick(USERS);
    const walletId = `${ownerId}:${currency}`;
    const of = { ownerId, currency };
    if (random.chance(0.3)) return begin(walletId, { type: "debit", amount, kind: "SPEND", of });
    const kind = random.pick<CreditKind>(["TOPUP", "TOPUP", "BONUS"]);
    return begin(walletId, { type: "credit", amount, kind, of: { ...of, decimalPlaces: 2 } });
  }

  /** The same, only to hear what would become of it. */
  function rehearsal(command: Command): HistoryEntry {
    lastNumber += 1;
    const name = `dry-${lastNumber}`;
    const walletId = command.proposedId ? random.uuid() : command.walletId;
    const ids = { commandId: name, correlationId: name, fingerprint: null, proposedId: false };
    return recorder.sent({
      ...command,
      ...ids,
      walletId,
      body: renamed(command.body),
      dryRun: true,
    });
  }

  /**
   * Few keys, so that changes meet: some set one, some take one away, some fill the wallet's
   * metadata up to its bound.
   */
  function update(): WalletCommand {
    const name = random.pick(["a", "b", "note"]);
    const value = random.pick<unknown>([null, lastNumber, { a: lastNumber }, "x".repeat(5_000)]);
    return { type: "update", patch: JSON.stringify({ [name]: value }) };
  }

  function create(): HistoryEntry {
    if (unopened.length > 0 && random.chance(0.5)) return opening(unopened.pop()!);
    if (random.chance(0.2)) return opening(random.pick(walletIds));
    return begin(null, creation(), { proposedId: true });
  }

  function opening(walletId: string): HistoryEntry {
    return begin(walletId, creation());
  }

  function creation(): WalletCommand {
    return {
      type: "create",
      ownerId: random.chance(0.8) ? random.pick(OWNERS) : null,
      currency: random.chance(0.06) ? "EUR" : "USD",
      decimalPlaces: 2,
      initialBalance: random.chance(0.8) ? String(random.below(500) + 1) : null,
      metadata: random.chance(0.1) ? '{"a": 1}' : "{}",
    };
  }

  /** In the shard of the key, as `proposeWalletId` makes them. */
  function proposal(key: string): string {
    for (;;) {
      const id = random.uuid();
      if (shardOf(id) === shardOf(key)) return id;
    }
  }

  async function work(): Promise<void> {
    while (!isStopping && recorder.entries.length < deps.commands * 2) {
      // Sometimes one after the other, then again nothing for a while.
      const isBurst = random.chance(0.4);
      await wait(random.between(0, isBurst ? 10 : pauseMsMax));
      if (isStopping) return;
      if (isBatching && random.chance(0.1)) await carryOutMany();
      else {
        const entry = nextEntry();
        if (random.chance(0.05)) await send(rehearsal(entry.command));
        await carryOut(entry);
      }
    }
  }

  /** Many at once; some of them twice, and some only to hear what would become of them. */
  async function carryOutMany(): Promise<void> {
    const entries: HistoryEntry[] = [];
    for (let left = 2 + random.below(14); left > 0; left--) {
      const entry = nextEntry();
      if (random.chance(0.05)) entries.push(rehearsal(entry.command));
      entries.push(entry);
      if (entry.command.fingerprint !== null && random.chance(0.03)) entries.push(entry);
    }
    const fitting = entries.filter(({ command }) => fitsBatch(command));
    const others = entries.filter((entry) => !fitting.includes(entry));
    await Promise.all([sendBatch(fitting), ...others.map(carryOut)]);
  }

  // --- Those who are in the way ---

  function reserving(transfers: readonly Transfer[]): void {
    if (!isSpiteful || isStopping) return;
    for (const transfer of transfers) {
      if (random.chance(transfer.holdId === null ? 0.12 : 0.6)) busyWith(thwart(transfer));
    }
  }

  /** What ends a hold while a capture of it is under way: its release, or the last capture. */
  function endOf(holdId: string): WalletCommand {
    if (random.chance(0.5)) return { type: "release", holdId };
    return { type: "capture", holdId, amount: null, final: true, to: null };
  }

  /** Makes the payee refuse, if it comes in time, and lets it go on after a while. */
  async function thwart({ fromWalletId, toWalletId, holdId }: Transfer): Promise<void> {
    const isClosing = toWalletId !== walletIds[0] && deps.isEmpty(toWalletId);
    const ending = send(begin(toWalletId, { type: isClosing ? "close" : "suspend" }));
    const isEnding = holdId !== null && random.chance(0.6);
    await Promise.all([ending, isEnding ? send(begin(fromWalletId, endOf(holdId))) : null]);
    await wait(random.pick([200, 3_000]) * random.next());
    if (!isClosing) await carryOut(begin(toWalletId, { type: "activate" }));
  }

  /** As impatient clients do: again when nothing certain came back, sometimes twice at once. */
  async function carryOut(entry: HistoryEntry): Promise<void> {
    // Whoever has no key cannot repeat what was not answered yet.
    const { fingerprint, proposedId } = entry.command;
    const isTwice = fingerprint !== null && random.chance(proposedId ? 0.5 : 0.05);
    const both = isTwice ? [send(entry), send(entry)] : [send(entry)];
    const settled = await Promise.all(both);
    for (let again = 0; again < 4 && !isSettled(entry) && !isStopping; again++) {
      if (random.chance(0.3)) return;
      await wait(random.between(1, 400));
      await send(entry);
    }
    if (settled.includes(true) && random.chance(0.1)) await send(entry);
    if (entry.answers.length > 0) await misuse(entry);
  }

  /** The id of a command without a key is told with its answer, and is taken for another one. */
  async function misuse({ command }: HistoryEntry): Promise<void> {
    const { fingerprint, proposedId, dryRun } = command;
    if (fingerprint !== null || proposedId || dryRun === true || !random.chance(0.15)) return;
    const other = { ...command, body: anotherThan(command.body) };
    await send(recorder.sent({ ...other, fingerprint: fingerprintOf(other) }));
    deps.count("made ids: taken for another command");
  }

  /** Not what the first one can have left. */
  function anotherThan(body: WalletCommand): WalletCommand {
    const amount = "777.77";
    if ("amount" in body && random.chance(0.5)) return renamed({ ...body, amount });
    if (body.type !== "debit") return { type: "debit", amount };
    return { type: "credit", amount, kind: "CREDIT" };
  }

  async function resolveOne(entry: HistoryEntry): Promise<void> {
    while (!(await send(entry))) await wait(100);
  }

  function wait(ms: number): Promise<void> {
    return new Promise((resolve) => void scheduler.after(ms, "caller waits", resolve));
  }

  function busyWith(work: Promise<void>): void {
    busy += 1;
    work.then(
      () => (busy -= 1),
      (error: unknown) => scheduler.fail(error),
    );
  }

  return {
    walletIds,
    start() {
      for (const walletId of walletIds) {
        if (!unopened.includes(walletId)) busyWith(carryOut(opening(walletId)));
      }
      for (let caller = 0; caller < deps.callers; caller++) busyWith(work());
    },
    stop() {
      isStopping = true;
    },
    reserving,
    resolve() {
      for (const entry of recorder.entries) {
        if (entry.command.dryRun === true) continue;
        // What is certainly absent may stay so: half of it is not asked again.
        const isAbsent = entry.answers.length === attempts.get(entry) && entry.answers.every(isNo);
        if (isSettled(entry) || (isAbsent && random.chance(0.5))) continue;
        busyWith(resolveOne(entry));
      }
    },
    rehearse(walletId, body) {
      const entry = rehearsal(commandFor(walletId, body));
      busyWith(resolveOne(entry));
      return entry;
    },
    get isDone() {
      return busy === 0;
    },
    open() {
      return recorder.entries
        .filter((entry) => entry.command.dryRun !== true && !isSettled(entry))
        .map(({ command }) => `${command.commandId} ${command.body.type} ${command.walletId}`);
    },
  };
}

/** Said that nothing happened. */
function isNo({ outcome }: { outcome: Outcome }): boolean {
  return outcome.type === "fault" && outcome.fault !== "unknown";
}

/** Whether somebody was told how it ended; a pending transfer has not ended. */
function isSettled({ answers }: HistoryEntry): boolean {
  return answers.some(({ outcome, body }) => outcome.type !== "fault" && body !== null);
}

/** Digest of what the caller asked for, without what a gateway makes up. */
export function fingerprintOf({ walletId, proposedId, body, expectedVersion }: Command): string {
  const {
    transferId: _,
    holdId,
    to,
    ...input
  } = { transferId: null, holdId: "", to: null, ...body };
  const named = body.type === "hold" ? null : [holdId, to?.walletId ?? null];
  const meaning = JSON.stringify([proposedId ? null : walletId, expectedVersion, input, named]);
  return createHash("sha256").update(meaning).digest("base64url").slice(0, 22);
}

function kindOf(outcome: Outcome): string {
  if (outcome.type === "fault") return outcome.fault;
  if (outcome.type === "rejected") return outcome.rejection.code;
  return outcome.type === "transferred" ? outcome.transfer.status : outcome.type;
}

function summaryOf(reached: Reached | null): string {
  if (reached === null) return "no answer";
  const { outcome } = reached;
  switch (outcome.type) {
    case "done":
      return `done ${outcome.wallet.walletId} v${outcome.wallet.version}`;
    case "transferred":
      return `${outcome.transfer.status} v${outcome.transfer.from.version}`;
    case "replayed":
      return `replayed v${outcome.version}`;
    case "rejected":
      return `rejected ${JSON.stringify(outcome.rejection)}`;
    case "fault":
      return outcome.fault;
    default:
      return outcome satisfies never;
  }
}
