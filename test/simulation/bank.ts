/**
 * The callers of a simulated cluster: each sends a command to a gateway, waits for its answer, and goes on. They work on a few wallets,
 * one of them hot, with keys and without, repeat what they did not hear of, sometimes what they did, and sometimes at two gateways at
 * once. All they saw is in the history. When the faults are over, `resolve` repeats whatever has no outcome, under the same id.
 */
import { createHash } from "node:crypto";
import type { Hold, HoldKind } from "../../src/hold.ts";
import { LIMITS } from "../../src/limits.ts";
import type { Command, Outcome } from "../../src/protocol.ts";
import { shardOf } from "../../src/shard.ts";
import type { WalletCommand, WalletState } from "../../src/wallet.ts";
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
  /** Counts what the run has met. */
  readonly count: (what: string) => void;
}

export interface Bank {
  readonly walletIds: readonly string[];
  start(): void;
  /** Nothing new is begun from now on. */
  stop(): void;
  /** Repeats everything without an outcome until it has one. */
  resolve(): void;
  /** Nobody waits for anything, and every command has its outcome. */
  readonly isDone: boolean;
  /** What is missing for that. */
  open(): string[];
}

const OWNERS = ["owner-a", "owner-b"] as const;
const HOLDS_KNOWN = 20;

interface Reached {
  readonly outcome: Outcome;
  readonly body: string | null;
}

export function buildBank(deps: BankDeps): Bank {
  const { scheduler, cluster, recorder } = deps;
  const random = scheduler.random.stream("bank");
  /** Longer than a gateway may take. */
  const patienceMs = LIMITS.commandDeadlineMs + 3_000;
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
  const pauseMsMax = (2 * deps.lengthMs * deps.callers) / (0.6 * deps.commands);
  let lastNumber = 0;
  let busy = 0;
  let isStopping = false;

  // --- One request and its answer ---

  function ask(gateway: GatewayMember, command: Command): Promise<Reached | null> {
    const { run } = gateway;
    if (run === null || gateway.state !== "up") return Promise.resolve(null);
    return new Promise((resolve) => {
      const settle = (reached: Reached | null): void => {
        end();
        run.onEnd.delete(onEnd);
        resolve(reached);
      };
      const onEnd = (): void => {
        scheduler.after(random.between(0.1, 1), "connection lost", () => settle(null));
      };
      const end = scheduler.after(patienceMs, "caller gives up", () => settle(null));
      run.onEnd.add(onEnd);
      run.process.after(random.between(0.1, 1), "request", () => {
        void answerAt(run, command).then((reached) =>
          scheduler.after(random.between(0.1, 1), "response", () => settle(reached)),
        );
      });
    });
  }

  /** In the gateway: what its routes do with a command. */
  async function answerAt(run: GatewayRun, command: Command): Promise<Reached> {
    const outcome = await run.desk.submit(command);
    const answer = await run.giveAnswer(outcome, command);
    if (answer.type !== "error") {
      const isPending = answer.type === "transfer" && answer.transfer.status === "pending";
      const { isReplay: _, ...body } = answer;
      return { outcome, body: isPending ? null : JSON.stringify(body) };
    }
    const { error } = answer;
    if (outcome.type === "fault") return { outcome, body: null };
    // The read back failed: it is an outcome, and the caller does not hear which.
    if (error.code === "outcome_unknown") {
      return { outcome: { type: "fault", fault: "unknown" }, body: null };
    }
    return { outcome, body: JSON.stringify(error) };
  }

  function somewhere(): GatewayMember {
    const up = cluster.gateways.filter(({ state }) => state === "up");
    return random.pick(up.length > 0 ? up : cluster.gateways);
  }

  /** Sends it once; returns whether it has an outcome now. */
  async function send(entry: HistoryEntry): Promise<boolean> {
    const gateway = somewhere();
    const number = (attempts.get(entry) ?? 0) + 1;
    attempts.set(entry, number);
    const command = number === 1 ? entry.command : repeated(entry.command);
    const { commandId, walletId } = command;
    const isTold = scheduler.isTracing;
    if (isTold) {
      const { type } = command.body;
      const rest = JSON.stringify({ ...command.body, type: undefined, metadata: undefined });
      scheduler.trace("bank", `${commandId} #${number} ${type} ${walletId} ${rest.slice(0, 200)}`);
    }
    const reached = await ask(gateway, command);
    if (isTold) {
      scheduler.trace("bank", `${commandId} #${number} = ${summaryOf(reached)}`);
    }
    if (reached === null) return isSettled(entry);
    recorder.answered(entry, reached.outcome, reached.body);
    deps.count(`answer: ${kindOf(reached.outcome)}`);
    learn(reached.outcome);
    return isSettled(entry);
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

  function begin(
    walletId: string,
    body: WalletCommand,
    given: Partial<Command> = {},
  ): HistoryEntry {
    lastNumber += 1;
    const isKeyed = given.proposedId === true || random.chance(0.75);
    const commandId = `${isKeyed ? "key" : "made"}-${lastNumber}`;
    const command: Command = {
      commandId,
      fingerprint: null,
      walletId,
      proposedId: false,
      expectedVersion: null,
      description: random.chance(0.1) ? `about ${commandId}` : null,
      metadata: random.chance(0.05) ? `{"number": ${lastNumber}}` : null,
      correlationId: `trace-${lastNumber}`,
      body,
      ...given,
    };
    const whole = { ...command, fingerprint: isKeyed ? fingerprintOf(command) : null };
    return recorder.sent(whole);
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

  /** Places holds, and captures and releases those that were told of, also ended ones, some of them at the moment they expire. */
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
    const part = 1 + random.below(hold.amountMinor);
    const payee = random.pick(walletIds);
    const body = {
      type: "capture",
      holdId: random.chance(0.02) ? random.uuid() : holdId,
      amount: random.chance(0.4) ? null : String(part / 100),
      final: random.chance(0.3),
      to: random.chance(0.5) ? { transferId: random.uuid(), walletId: payee } : null,
    } as const;
    return begin(holder, body);
  }

  /** Few keys, so that changes meet: some set one, some take one away, some fill the wallet's metadata up to its bound. */
  function update(): WalletCommand {
    const name = random.pick(["a", "b", "note"]);
    const value = random.pick<unknown>([null, lastNumber, { a: lastNumber }, "x".repeat(5_000)]);
    return { type: "update", patch: JSON.stringify({ [name]: value }) };
  }

  function create(): HistoryEntry {
    if (unopened.length > 0 && random.chance(0.5)) return opening(unopened.pop()!);
    if (random.chance(0.2)) return opening(random.pick(walletIds));
    const commandId = `key-${lastNumber + 1}`;
    const entry = begin(proposal(commandId), creation(), { proposedId: true });
    if (entry.command.commandId !== commandId) throw new Error("the key is not the proposed one");
    return entry;
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
      await carryOut(nextEntry());
    }
  }

  /** As impatient clients do: again when nothing certain came back, sometimes twice at once. */
  async function carryOut(entry: HistoryEntry): Promise<void> {
    // Whoever has no key cannot repeat what was not answered yet.
    const isTwice = entry.command.fingerprint !== null && random.chance(0.05);
    const both = isTwice ? [send(entry), send(entry)] : [send(entry)];
    const settled = await Promise.all(both);
    for (let again = 0; again < 4 && !isSettled(entry) && !isStopping; again++) {
      if (random.chance(0.3)) return;
      await wait(random.between(1, 400));
      await send(entry);
    }
    if (settled.includes(true) && random.chance(0.05)) await send(entry);
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
    resolve() {
      for (const entry of recorder.entries) {
        // What is certainly absent may stay so: half of it is not asked again.
        const isAbsent = entry.answers.length === attempts.get(entry) && entry.answers.every(isNo);
        if (isSettled(entry) || (isAbsent && random.chance(0.5))) continue;
        busyWith(resolveOne(entry));
      }
    },
    get isDone() {
      return busy === 0;
    },
    open() {
      return recorder.entries
        .filter((entry) => !isSettled(entry))
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
