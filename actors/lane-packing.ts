/**
 * How tasks and effects cross between the host's thread and a lane's. The structured clone writes
 * the name of each property of each object and looks it up again on the other side, which costs
 * several times what the values do; so commands, wallets, replies and changes, which are nearly all
 * that crosses, go as rows. What is rare goes as it is. Both sides are this file, so nothing
 * outside knows. What comes out of rows is written out, not spread: an object that a spread has
 * made has a hidden class of its own, and all code behind it looks each field up anew.
 */
import type {
  Change,
  Command,
  CommandMessage,
  Effects,
  Outcome,
  Reply,
  ShardMessage,
} from "../src/core/protocol.ts";
import type { WalletState } from "../src/core/wallet.ts";
import type { Arrival, LaneNotice, LaneResult, LaneTask } from "./lane-thread.ts";

/** Fails to compile when a type has a field that its row does not have. */
type Complete<T, Keys extends keyof T> = Exclude<keyof T, Keys> extends never ? true : never;

// --- Commands ------------------------------------------------------------------------------------

type CommandRow = readonly [
  inbox: number,
  seq: number,
  attempt: number,
  budgetMs: number,
  expiresAtMs: number,
  commandId: string,
  fingerprint: string | null,
  walletId: string,
  proposedId: boolean,
  expectedVersion: number | null,
  description: string | null,
  metadata: string | null,
  /** By its number, as a batch's commands share it; null: the same as `commandId`. */
  correlation: number | null,
  body: Command["body"],
  /** Last, since most have none of them. */
  rest?: Pick<Command, "dryRun" | "traceparent">,
];
true satisfies Complete<
  CommandMessage,
  "type" | "inbox" | "seq" | "attempt" | "budgetMs" | "expiresAtMs" | "command"
>;
true satisfies Complete<
  Command,
  | "commandId"
  | "fingerprint"
  | "walletId"
  | "proposedId"
  | "expectedVersion"
  | "description"
  | "metadata"
  | "correlationId"
  | "body"
  | "dryRun"
  | "traceparent"
>;

/** Place of `rest` in a row. */
const REST = 14;

/** Texts that many rows share, by number. */
interface Texts {
  readonly list: string[];
  readonly numbers: Map<string, number>;
}

function newTexts(): Texts {
  return { list: [], numbers: new Map() };
}

function numberOf({ list, numbers }: Texts, text: string): number {
  let number = numbers.get(text);
  if (number === undefined) {
    number = list.push(text) - 1;
    numbers.set(text, number);
  }
  return number;
}

function commandRow(texts: Texts, message: CommandMessage): CommandRow {
  const { inbox, seq, attempt, budgetMs, expiresAtMs, command } = message;
  const { dryRun, traceparent } = command;
  const row: CommandRow = [
    numberOf(texts, inbox),
    seq,
    attempt,
    budgetMs,
    expiresAtMs,
    command.commandId,
    command.fingerprint,
    command.walletId,
    command.proposedId,
    command.expectedVersion,
    command.description,
    command.metadata,
    command.correlationId === command.commandId ? null : numberOf(texts, command.correlationId),
    command.body,
  ];
  if (dryRun === undefined && traceparent === undefined) return row;
  const rest = {
    ...(dryRun !== undefined && { dryRun }),
    ...(traceparent !== undefined && { traceparent }),
  };
  return [...row.slice(0, REST), rest] as unknown as CommandRow;
}

function commandOf(texts: readonly string[], row: CommandRow): CommandMessage {
  const command: Command = {
    commandId: row[5],
    fingerprint: row[6],
    walletId: row[7],
    proposedId: row[8],
    expectedVersion: row[9],
    description: row[10],
    metadata: row[11],
    correlationId: row[12] === null ? row[5] : texts[row[12]]!,
    body: row[13],
  };
  const rest = row[REST];
  return {
    type: "command",
    inbox: texts[row[0]]!,
    seq: row[1],
    attempt: row[2],
    budgetMs: row[3],
    expiresAtMs: row[4],
    command: rest === undefined ? command : { ...command, ...rest },
  };
}

// --- Tasks: host -> lane -------------------------------------------------------------------------

true satisfies Complete<Arrival, "atMs" | "arrivedAtMs" | "messages">;

interface PackedBatch {
  readonly type: "packed";
  readonly texts: readonly string[];
  /** When they arrived, and how many messages each arrival has. */
  readonly atMs: readonly number[];
  readonly counts: readonly number[];
  /** `arrivedAtMs` of each, when the host is measured. */
  readonly arrivedAtMs: readonly (number | undefined)[];
  readonly messages: ReadonlyArray<CommandRow | ShardMessage>;
}

export type PackedTask = PackedBatch | Exclude<LaneTask, { type: "batch" }>;

export function packTask(task: LaneTask): PackedTask {
  if (task.type !== "batch") return task;
  const texts = newTexts();
  const messages: (CommandRow | ShardMessage)[] = [];
  for (const arrival of task.arrivals) {
    for (const message of arrival.messages) {
      messages.push(message.type === "command" ? commandRow(texts, message) : message);
    }
  }
  return {
    type: "packed",
    texts: texts.list,
    atMs: task.arrivals.map(({ atMs }) => atMs),
    counts: task.arrivals.map((arrival) => arrival.messages.length),
    arrivedAtMs: task.arrivals.map((arrival) => arrival.arrivedAtMs),
    messages,
  };
}

export function unpackTask(task: PackedTask): LaneTask {
  if (task.type !== "packed") return task;
  const { texts, atMs, counts } = task;
  let from = 0;
  const arrivals = counts.map((count, index): Arrival => {
    const messages = task.messages
      .slice(from, from + count)
      .map((message) => (isRow(message) ? commandOf(texts, message) : message));
    from += count;
    const arrivedAtMs = task.arrivedAtMs[index];
    return arrivedAtMs === undefined
      ? { atMs: atMs[index]!, messages }
      : { atMs: atMs[index]!, messages, arrivedAtMs };
  });
  return { type: "batch", arrivals };
}

function isRow<Row extends readonly unknown[]>(packed: Row | object): packed is Row {
  return Array.isArray(packed);
}

// --- Wallets -------------------------------------------------------------------------------------

type WalletRow = readonly [
  walletId: string,
  ownerId: string | null,
  currency: string,
  decimalPlaces: number,
  balanceMinor: WalletState["balanceMinor"],
  heldMinor: WalletState["heldMinor"],
  status: WalletState["status"],
  version: number,
  metadata: string,
  createdAtMs: number,
  updatedAtMs: number,
];
true satisfies Complete<
  WalletState,
  | "walletId"
  | "ownerId"
  | "currency"
  | "decimalPlaces"
  | "balanceMinor"
  | "heldMinor"
  | "status"
  | "version"
  | "metadata"
  | "createdAtMs"
  | "updatedAtMs"
>;

function walletRow(wallet: WalletState): WalletRow {
  return [
    wallet.walletId,
    wallet.ownerId,
    wallet.currency,
    wallet.decimalPlaces,
    wallet.balanceMinor,
    wallet.heldMinor,
    wallet.status,
    wallet.version,
    wallet.metadata,
    wallet.createdAtMs,
    wallet.updatedAtMs,
  ];
}

function walletOf(row: WalletRow): WalletState {
  return {
    walletId: row[0],
    ownerId: row[1],
    currency: row[2],
    decimalPlaces: row[3],
    balanceMinor: row[4],
    heldMinor: row[5],
    status: row[6],
    version: row[7],
    metadata: row[8],
    createdAtMs: row[9],
    updatedAtMs: row[10],
  };
}

// --- Effects: lane -> host -----------------------------------------------------------------------

type ReplyRow = readonly [inbox: number, seq: number, outcome: number | Outcome];
type ChangeRow = readonly [
  wallet: number,
  type: Change["type"],
  amountMinor: number | null,
  description: string | null,
];
true satisfies Complete<Reply, "inbox" | "seq" | "outcome">;
true satisfies Complete<Change, "wallet" | "type" | "amountMinor" | "description">;

/** A reply that is done and a change of the same wallet share its row, as they shared its state. */
export interface PackedEffects {
  readonly texts: readonly string[];
  readonly wallets: readonly WalletRow[];
  readonly replies: readonly ReplyRow[];
  readonly changes: readonly ChangeRow[];
  readonly messages: ShardMessage[];
  readonly lost: number[];
}
true satisfies Complete<Effects, "replies" | "changes" | "messages" | "lost">;

export function packEffects({ replies, changes, messages, lost }: Effects): PackedEffects {
  const texts = newTexts();
  const wallets: WalletRow[] = [];
  const numbers = new Map<WalletState, number>();
  const numberOfWallet = (wallet: WalletState): number => {
    let number = numbers.get(wallet);
    if (number === undefined) {
      number = wallets.push(walletRow(wallet)) - 1;
      numbers.set(wallet, number);
    }
    return number;
  };
  return {
    replies: replies.map(({ inbox, seq, outcome }) => [
      numberOf(texts, inbox),
      seq,
      isBare(outcome) ? numberOfWallet(outcome.wallet) : outcome,
    ]),
    changes: changes.map(({ wallet, type, amountMinor, description }) => [
      numberOfWallet(wallet),
      type,
      amountMinor,
      description,
    ]),
    texts: texts.list,
    wallets,
    messages,
    lost,
  };
}

type Done = Extract<Outcome, { type: "done" }>;
true satisfies Complete<Done, "type" | "wallet" | "hold">;

/** Done, and nothing to say but the wallet. */
function isBare(outcome: Outcome): outcome is Done {
  return outcome.type === "done" && outcome.hold === undefined;
}

export function unpackEffects(packed: PackedEffects): Effects {
  const { texts, messages, lost } = packed;
  const wallets = packed.wallets.map(walletOf);
  return {
    replies: packed.replies.map(([inbox, seq, outcome]) => ({
      inbox: texts[inbox]!,
      seq,
      outcome: typeof outcome === "number" ? { type: "done", wallet: wallets[outcome]! } : outcome,
    })),
    changes: packed.changes.map(([wallet, type, amountMinor, description]) => ({
      wallet: wallets[wallet]!,
      type,
      amountMinor,
      description,
    })),
    messages,
    lost,
  };
}

// --- Results and notices -------------------------------------------------------------------------

export interface PackedResult extends Omit<LaneResult, "effects"> {
  /** Null: there are none, or they were taken out. */
  effects: PackedEffects | null;
}
export type PackedNotice =
  | { readonly type: "effects"; readonly effects: PackedEffects }
  | Exclude<LaneNotice, { type: "effects" }>;

true satisfies Complete<LaneResult, "effects" | "stats" | "measures">;
true satisfies Complete<Extract<LaneNotice, { type: "effects" }>, "type" | "effects">;

export function packResult({ effects, stats, measures }: LaneResult): PackedResult {
  const packed = effects === null ? null : packEffects(effects);
  return measures === undefined ? { effects: packed, stats } : { effects: packed, stats, measures };
}

export function unpackResult({ effects: packed, stats, measures }: PackedResult): LaneResult {
  const effects = packed === null ? null : unpackEffects(packed);
  return measures === undefined ? { effects, stats } : { effects, stats, measures };
}

export function packNotice(notice: LaneNotice): PackedNotice {
  return notice.type === "effects"
    ? { type: "effects", effects: packEffects(notice.effects) }
    : notice;
}

export function unpackNotice(notice: PackedNotice): LaneNotice {
  return notice.type === "effects"
    ? { type: "effects", effects: unpackEffects(notice.effects) }
    : notice;
}
