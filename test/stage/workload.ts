/**
 * A bank at work: callers that credit, debit and transfer over a few wallets, one hotter than the
 * others, each command under a key of its own, and a record of every answer. When the faults are
 * over, `resolve` repeats what is unknown under the same key until it has an outcome. `checkBank`
 * then holds the record against PostgreSQL (`bank-check.ts`, `bank-truth.ts`). How commands travel
 * is a port: over HTTP here (`bank-wire.ts`), through a command desk where a test brings that. What
 * callers do is one, too.
 *
 *     acknowledged, rejected: outcomes, for ever
 *     unavailable: nothing happened by this sending
 *     unknown: ask again
 */
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { buildCommandIntake } from "../../gateway/command-intake.ts";
import type { CommandDesk } from "../../gateway/commands.ts";
import { assetOf } from "../../src/assets.ts";
import type { Command, Outcome } from "../../src/core/protocol.ts";
import { askOverHttp } from "./bank-http.ts";
import {
  checkEntries,
  checkHistory,
  checkTransfers,
  fateOf,
  type BankAnswer,
  type BookedRejection,
  type BookedTransfer,
  type Books,
  type CheckedEntry,
} from "./bank-check.ts";
import { checkDryRuns, checkHolds, checkReasons, type HoldBooks } from "./bank-truth.ts";
import {
  isGame,
  keyInBatch,
  type Ask,
  type AskBatch,
  type BankBatch,
  type BankCommand,
} from "./bank-wire.ts";

export { askOverHttp };
export type { Ask, AskBatch, BankAnswer, BankCommand };

/** What a caller does next. */
export type Turn =
  | { readonly type: "command"; readonly command: BankCommand }
  /** Its commands get their keys from the batch, or bring their own. */
  | { readonly type: "batch"; readonly commands: readonly BankCommand[]; readonly isKeyed: boolean }
  /** Asks what would happen; then does it under the same key, or does not. */
  | { readonly type: "dry run"; readonly command: BankCommand; readonly isDoneThen: boolean }
  /** Of a command that somebody has sent before. */
  | { readonly type: "repeat"; readonly entry: Entry };

/** What callers know together. */
export interface BankView {
  readonly walletIds: readonly string[];
  readonly entries: readonly Entry[];
  /** An integer from 0, below the bound. */
  below(bound: number): number;
  newKey(): string;
  told(walletId: string): number;
}

export interface Entry extends CheckedEntry {
  readonly command: BankCommand;
  readonly answers: BankAnswer[];
}

export interface WorkloadPlan {
  readonly ask: Ask;
  readonly askBatch?: AskBatch;
  /** Default: credits, debits and transfers, one by one. */
  readonly nextTurn?: (view: BankView) => Turn;
  /** Hears of each answer. */
  readonly onAnswer?: (command: BankCommand, answer: BankAnswer) => void;
  /** Different for each workload on a database. */
  readonly name: string;
  readonly callers?: number;
  readonly wallets?: number;
  readonly initialMinor?: number;
  /** Pause of a caller between two commands. */
  readonly pauseMs?: number;
  /**
   * Repeats the commands, in the order in which callers take them. Default: `WORKLOAD_SEED`, or the
   * time.
   */
  readonly seed?: number;
}

export interface Workload {
  readonly entries: readonly Entry[];
  /** What must have left nothing. */
  readonly dryRuns: readonly Entry[];
  readonly seed: number;
  readonly walletIds: readonly string[];
  /** Opens the wallets; fails unless all are there. */
  open(): Promise<void>;
  /** Sets the callers to work until `stop`. */
  start(): void;
  /** Resolves when every caller has the answer to its last command. */
  stop(): Promise<void>;
  /** Answers of a type so far. */
  count(type: BankAnswer["type"]): number;
  /**
   * The highest version of a wallet that a caller was told of; -1: none. Whoever asks from now on
   * must see at least this one.
   */
  told(walletId: string): number;
  /** Resolves when so many further commands have been acknowledged. */
  progress(acknowledged: number, withinMs?: number): Promise<void>;
  /**
   * Repeats what is unknown or pending until it has an outcome, and every other one that was
   * unavailable.
   */
  resolve(withinMs?: number): Promise<void>;
}

const PAUSE_AFTER_TROUBLE_MS = 100;
/** Then its commands are resolved one by one. */
const BATCH_ATTEMPTS_MAX = 4;

function isTrouble({ type }: BankAnswer): boolean {
  return type === "unavailable" || type === "unknown";
}

export function buildWorkload(plan: WorkloadPlan): Workload {
  const { ask, name, callers = 8, wallets = 8, initialMinor = 3_000, pauseMs = 2 } = plan;
  const given = process.env["WORKLOAD_SEED"];
  const seed = plan.seed ?? (given === undefined ? Date.now() % 2 ** 31 : Number(given));
  const random = randomFrom(seed);
  const below = (bound: number): number => Math.floor(random() * bound);
  const walletIds = Array.from({ length: wallets }, (_, index) => `${name}-${index}`);
  const entries: Entry[] = [];
  const dryRuns: Entry[] = [];
  /** Highest version of each wallet that somebody was told of. */
  const told = new Map<string, number>();
  const counts = { acknowledged: 0, rejected: 0, unavailable: 0, unknown: 0, wrong: 0 };
  let working: Promise<unknown> | undefined;
  let isStopping = false;

  function enter(command: BankCommand, into = entries): Entry {
    const floor = told.get(command.walletId) ?? -1;
    const toFloor = told.get(command.toWalletId ?? "") ?? -1;
    const entry = { command, answers: [], floor, toFloor };
    into.push(entry);
    return entry;
  }

  async function send(entry: Entry, caller: number): Promise<BankAnswer> {
    return take(entry, await ask(entry.command, caller));
  }

  function take({ command, answers }: Entry, answer: BankAnswer): BankAnswer {
    answers.push(answer);
    plan.onAnswer?.(command, answer);
    // What a dry run tells never comes to be.
    if (command.isDry === true) return answer;
    counts[answer.type] += 1;
    if (answer.type === "acknowledged") {
      if (answer.version !== null) raise(command.walletId, answer.version);
      if (answer.toVersion !== null) raise(command.toWalletId!, answer.toVersion);
    }
    return answer;
  }

  /** As a whole, and as a whole again while a command of it has no outcome. */
  async function sendBatch(batch: BankBatch, caller: number): Promise<void> {
    const batchEntries = batch.commands.map((command) => enter(command));
    for (let attempt = 1; attempt <= BATCH_ATTEMPTS_MAX; attempt += 1) {
      const answers = await plan.askBatch!(batch, caller);
      for (const [place, answer] of answers.entries()) take(batchEntries[place]!, answer);
      const isOver = batchEntries.every((entry) => {
        const fate = fateOf(entry);
        return fate === "acknowledged" || fate === "rejected";
      });
      if (isOver || isStopping) return;
      await sleep(PAUSE_AFTER_TROUBLE_MS);
    }
  }

  /** Says whether there was trouble. */
  async function takeTurn(turn: Turn, caller: number): Promise<boolean> {
    switch (turn.type) {
      case "command":
        return isTrouble(await send(enter(turn.command), caller));
      case "repeat":
        return isTrouble(await send(turn.entry, caller));
      case "dry run": {
        const { command, isDoneThen } = turn;
        const answer = await send(enter({ ...command, isDry: true }, dryRuns), caller);
        if (!isDoneThen) return isTrouble(answer);
        return isTrouble(await send(enter(command), caller));
      }
      case "batch": {
        const key = turn.isKeyed ? newKey() : null;
        const named = (command: BankCommand, place: number): BankCommand =>
          key === null ? command : { ...command, key: keyInBatch(key, place) };
        await sendBatch({ key, commands: turn.commands.map(named) }, caller);
        return false;
      }
      default:
        return turn satisfies never;
    }
  }

  function raise(walletId: string, version: number): void {
    told.set(walletId, Math.max(told.get(walletId) ?? -1, version));
  }

  function newKey(): string {
    return `${name}-${entries.length}-${below(2 ** 31)}`;
  }

  const view: BankView = {
    walletIds,
    entries,
    below,
    newKey,
    told: (walletId) => told.get(walletId) ?? -1,
  };

  function nextCommand(): BankCommand {
    const payer = below(3) === 0 ? 0 : below(wallets);
    const walletId = walletIds[payer]!;
    const kind = (["credit", "debit", "transfer", "transfer"] as const)[below(4)]!;
    const payee = (payer + 1 + below(wallets - 1)) % wallets;
    return {
      key: newKey(),
      kind,
      walletId,
      toWalletId: kind === "transfer" ? walletIds[payee]! : null,
      amountMinor: 1 + below(kind === "debit" ? initialMinor * 0.7 : initialMinor * 0.6),
      expectedVersion: below(8) === 0 ? (told.get(walletId) ?? null) : null,
    };
  }

  async function work(caller: number): Promise<void> {
    while (!isStopping) {
      const turn = plan.nextTurn?.(view) ?? { type: "command", command: nextCommand() };
      await sleep((await takeTurn(turn, caller)) ? PAUSE_AFTER_TROUBLE_MS : pauseMs);
    }
  }

  return {
    entries,
    dryRuns,
    seed,
    walletIds,
    async open() {
      for (const walletId of walletIds) {
        const key = `open-${walletId}`;
        const amountMinor = initialMinor;
        const parts = { kind: "open", toWalletId: null, expectedVersion: null } as const;
        const answer = await send(enter({ key, walletId, amountMinor, ...parts }), 0);
        if (answer.type !== "acknowledged") throw new Error(JSON.stringify(answer));
      }
    },
    start() {
      isStopping = false;
      working = Promise.all(Array.from({ length: callers }, (_, caller) => work(caller)));
    },
    async stop() {
      isStopping = true;
      await working;
    },
    count: (type) => counts[type],
    told: (walletId) => told.get(walletId) ?? -1,
    async progress(acknowledged, withinMs = 20_000) {
      const goal = counts.acknowledged + acknowledged;
      const deadlineMs = Date.now() + withinMs;
      while (counts.acknowledged < goal) {
        if (Date.now() > deadlineMs) throw new Error(`no progress: ${JSON.stringify(counts)}`);
        await sleep(10);
      }
    },
    async resolve(withinMs = 30_000) {
      const deadlineMs = Date.now() + withinMs;
      const open = entries.filter((entry, index) => {
        const fate = fateOf(entry);
        return (
          fate === "unresolved" || fate === "pending" || (fate === "absent" && index % 2 === 0)
        );
      });
      const resolveAs = async (caller: number): Promise<void> => {
        for (let entry = open.pop(); entry !== undefined; entry = open.pop()) {
          for (;;) {
            // By another way than the first time, where there are several.
            const { type } = await send(entry, caller + 1);
            if (type === "wrong") break;
            const fate = fateOf(entry);
            if (fate === "acknowledged" || fate === "rejected" || Date.now() > deadlineMs) break;
            await sleep(PAUSE_AFTER_TROUBLE_MS);
          }
        }
      };
      await Promise.all(Array.from({ length: callers }, (_, caller) => resolveAs(caller)));
    },
  };
}

/** Mulberry32: numbers in [0, 1) that a seed repeats. */
export function randomFrom(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

// --- Through a command desk ----------------------------------------------------------------------

export type Desk = Pick<CommandDesk, "submit">;

const takeIn = buildCommandIntake(assetOf);
const decimal = (amountMinor: number): string => (amountMinor / 100).toFixed(2);

/**
 * What a gateway makes of the command; a repeat is another one with the same key and fingerprint.
 */
export function commandOf(command: BankCommand): Command {
  const { key, kind, walletId, toWalletId, amountMinor, expectedVersion } = command;
  if (kind === "hold" || kind === "capture" || kind === "release" || isGame(command)) {
    throw new Error(`${kind} goes over HTTP or NATS`);
  }
  const amount = decimal(amountMinor);
  const intake = takeIn(
    kind === "open" ? "create" : kind,
    walletId,
    {
      ...(kind === "open" ? { initialBalance: amount } : { amount }),
      ...(toWalletId === null ? {} : { toWalletId }),
      ...(expectedVersion === null ? {} : { expectedVersion }),
    },
    { correlationId: key, isCorrelationNew: false, key },
  );
  if (!intake.ok) throw new Error(intake.error.message);
  return intake.command;
}

export function askDesk(desk: Desk): Ask {
  return async (command) => readOutcome(await desk.submit(commandOf(command)));
}

/** Here a "no" is not held against the books, so these must do. */
const REJECTIONS: ReadonlySet<string> = new Set(["insufficient_funds", "version_conflict"]);

function readOutcome(outcome: Outcome): BankAnswer {
  const known = { type: "acknowledged", isReplay: false, isPending: false, text: null } as const;
  switch (outcome.type) {
    case "done": {
      const { version, balanceMinor } = outcome.wallet;
      return { ...known, version, balanceMinor, toVersion: null };
    }
    case "transferred": {
      const { from, toVersion, status } = outcome.transfer;
      const { version, balanceMinor } = from;
      return { ...known, version, balanceMinor, toVersion, isPending: status === "pending" };
    }
    case "replayed":
      return {
        ...known,
        version: outcome.version,
        balanceMinor: null,
        toVersion: null,
        isReplay: true,
      };
    case "rejected": {
      const { rejection } = outcome;
      const { code } = rejection;
      if (!REJECTIONS.has(code)) return { type: "wrong", reason: JSON.stringify(rejection) };
      const availableMinor = "availableMinor" in rejection ? rejection.availableMinor : null;
      return { type: "rejected", code, availableMinor };
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

// --- The check -----------------------------------------------------------------------------------

/** A transfer whose verdict was lost is driven again after this long at most, and that again. */
const settleMsMax = 25_000;

/** The rows of all databases together. */
type Read = <Row extends object>(sql: string, ...values: unknown[]) => Promise<Row[]>;

/**
 * Holds what callers were told against what is in the database, or in several that the shards are
 * spread over. Returns what is wrong, at best nothing.
 */
export async function checkBank(
  databaseUrls: string | readonly string[],
  { entries, dryRuns = [], seed }: Pick<Workload, "entries" | "seed"> & Partial<Workload>,
): Promise<string[]> {
  const clients = [databaseUrls].flat().map((url) => new pg.Client({ connectionString: url }));
  for (const client of clients) client.on("error", () => undefined);
  const read: Read = async (sql, ...values) => {
    const results = await Promise.all(clients.map((client) => client.query(sql, values)));
    return results.flatMap(({ rows }) => rows as never[]);
  };
  try {
    await Promise.all(clients.map((client) => client.connect()));
    await untilSettled(read);
    const books = await readBooks(read, [...entries, ...dryRuns]);
    const problems = [
      ...checkHistory(books),
      ...checkTransfers(books),
      ...(await checkMoney(read, books, entries)),
      ...checkEntries(books, entries, { isResolved: true }),
      ...checkHolds(books, entries),
      ...checkReasons(books, entries),
      ...checkDryRuns(books, dryRuns),
    ];
    if (problems.length > 0) problems.unshift(`WORKLOAD_SEED=${seed}`);
    return problems.slice(0, 20);
  } finally {
    await Promise.all(clients.map((client) => client.end()));
  }
}

async function untilSettled(read: Read): Promise<void> {
  const deadlineMs = Date.now() + settleMsMax;
  const pending = "SELECT FROM transfers WHERE status = 'pending' LIMIT 1";
  while ((await read(pending)).length > 0 && Date.now() < deadlineMs) await sleep(50);
}

async function readBooks(read: Read, entries: readonly Entry[]): Promise<HoldBooks> {
  const named = entries.flatMap(({ command }) => [command.walletId, command.toWalletId]);
  const walletIds = [...new Set(named.filter((walletId) => walletId !== null))];
  const [events, rejections, transfers, verdicts, wallets, holds] = [
    await read<HoldBooks["events"][number]>(
      `SELECT wallet_id AS "walletId", version::int4, type, amount::float8 AS "amountMinor",
              balance::float8 AS "balanceMinor", held::float8 AS "heldMinor", status, transfer_id AS "transferId",
              command_id AS "commandId", fingerprint, data -> 'hold' AS hold,
              (data ->> 'releasedMinor')::float8 AS "releasedMinor",
              extract(epoch FROM occurred_at)::float8 * 1000 AS "occurredAtMs"
       FROM events WHERE wallet_id = ANY ($1) ORDER BY wallet_id, version`,
      walletIds,
    ),
    await read<BookedRejection>(
      `SELECT wallet_id AS "walletId", command_id AS "commandId", fingerprint, rejection ->> 'code' AS code
       FROM rejections WHERE wallet_id = ANY ($1)`,
      walletIds,
    ),
    await read<Omit<BookedTransfer, "verdict">>(
      `SELECT transfer_id AS "transferId", command_id AS "commandId", status, from_wallet AS "fromWalletId",
              from_version::int4 AS "fromVersion", to_wallet AS "toWalletId", to_version::int4 AS "toVersion",
              amount::float8 AS "amountMinor", rejection ->> 'code' AS code
       FROM transfers WHERE from_wallet = ANY ($1)`,
      walletIds,
    ),
    // With the payee, maybe in another database.
    await read<VerdictRow>(
      `SELECT transfer_id AS "transferId", to_version::int4 AS "toVersion", rejection ->> 'code' AS code
       FROM transfer_verdicts WHERE to_wallet = ANY ($1)`,
      walletIds,
    ),
    await read<Books["wallets"][number]>(
      `SELECT wallet_id AS "walletId", version::int4, balance::float8 AS "balanceMinor", status
       FROM wallets WHERE wallet_id = ANY ($1)`,
      walletIds,
    ),
    await read<HoldBooks["holds"][number]>(
      `SELECT wallet_id AS "walletId", hold_id AS "holdId", amount::float8 AS "amountMinor",
              captured::float8 AS "capturedMinor", status
       FROM holds WHERE wallet_id = ANY ($1)`,
      walletIds,
    ),
  ];
  const verdictOf = new Map(
    verdicts.map(({ transferId, toVersion, code }) => [transferId, { toVersion, code }]),
  );
  const judged = transfers.map((one) => ({
    ...one,
    verdict: verdictOf.get(one.transferId) ?? null,
  }));
  return { events, rejections, transfers: judged, wallets, holds };
}

interface VerdictRow {
  readonly transferId: string;
  readonly toVersion: number | null;
  readonly code: string | null;
}

const MONEY_OUT: ReadonlySet<BankCommand["kind"]> = new Set(["debit", "spend", "capture"]);

/**
 * All accounts sum to zero, nothing is in transit, and the wallets hold what was put in and not
 * taken out.
 */
async function checkMoney(
  read: Read,
  { wallets, events }: Books,
  entries: readonly Entry[],
): Promise<string[]> {
  const rows = await read<{ currency: string; sum: number; transit: number }>(
    `SELECT currency, sum(balance)::float8 AS sum,
            coalesce(sum(balance) FILTER (WHERE account = 'system:transit'), 0)::float8 AS transit
     FROM trial_balance GROUP BY currency`,
  );
  const problems: string[] = [];
  // With several databases, only all of them together balance.
  for (const currency of new Set(rows.map((row) => row.currency))) {
    const own = rows.filter((row) => row.currency === currency);
    const sum = own.reduce((total, row) => total + row.sum, 0);
    const transit = own.reduce((total, row) => total + row.transit, 0);
    if (sum === 0 && transit === 0) continue;
    problems.push(`the books do not balance: ${JSON.stringify({ currency, sum, transit })}`);
  }
  const amounts = new Map(events.map((one) => [one.commandId, one.amountMinor ?? 0]));
  let expected = 0;
  for (const entry of entries) {
    const { key, kind, toWalletId } = entry.command;
    if (fateOf(entry) !== "acknowledged" || toWalletId !== null) continue;
    const amountMinor = amounts.get(key) ?? 0;
    expected += MONEY_OUT.has(kind) ? -amountMinor : amountMinor;
  }
  const held = wallets.reduce((sum, { balanceMinor }) => sum + balanceMinor, 0);
  if (held !== expected) problems.push(`the wallets hold ${held}, callers were told ${expected}`);
  return problems;
}

const sampleMax = 60;

/**
 * The same from outside, for a sample: the operation is known by its key, and a repeat gets the
 * first answer again.
 */
export async function checkOverHttp(port: number, { entries }: Workload): Promise<string[]> {
  const problems: string[] = [];
  const ask = askOverHttp(port);
  const every = Math.max(1, Math.floor(entries.length / sampleMax));
  for (const entry of entries.filter((_, index) => index % every === 0)) {
    const { command, answers } = entry;
    const fate = fateOf(entry);
    const path = `/operations/${encodeURIComponent(command.key)}?walletId=${command.walletId}`;
    const operation = await fetch(`http://127.0.0.1:${port}${path}`);
    const text = await operation.text();
    const outcome = operation.ok ? (JSON.parse(text) as { outcome: string }).outcome : null;
    const told = { acknowledged: "done", rejected: "rejected", absent: null }[fate as "absent"];
    if (outcome !== told) problems.push(`${command.key} is ${fate}, known as ${text}`);
    if (fate !== "acknowledged" && fate !== "rejected") continue;
    const repeat = await ask(command, 0);
    answers.push(repeat);
    if (repeat.type === "acknowledged" && !repeat.isReplay) problems.push(`${command.key} again`);
    if (repeat.type !== fate) problems.push(`${command.key} is ${fate}, repeated ${repeat.type}`);
  }
  ask.close();
  return problems;
}
