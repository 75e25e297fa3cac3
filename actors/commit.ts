/**
 * One group commit in the making: what it will write, and what may leave the lane once it is
 * written. Actors put both in together, in the turn that decides them, so that no effect can
 * overtake its commit, and a commit that fails takes its effects with it. What did not need the
 * database (a rejection decided on state that another command in here has changed) waits in here
 * too.
 */
import { chainHash } from "../src/chain.ts";
import type { Hold } from "../src/core/hold.ts";
import {
  holdKey,
  type AppendOrder,
  type KnownCommand,
  type KnownVerdict,
  type NewEvent,
  type TracedStep,
  type WalletWrite,
  type Writes,
} from "../src/core/journal.ts";
import type { Change, CommandMessage, Outcome, Reply, ShardMessage } from "../src/core/protocol.ts";
import type { Rejection } from "../src/core/rejection.ts";
import type { CommandRecord } from "../src/core/repeats.ts";
import { apply, type WalletEvent, type WalletState } from "../src/core/wallet.ts";
import type { Damage } from "./damage.ts";
import { commandIn, commandToDecide } from "./messages.ts";

/** A wallet's actor: its state with everything applied that was decided, committed or not. */
export interface Actor {
  readonly walletId: string;
  readonly shard: number;
  /** Null: the wallet does not exist. Meaningless until `loaded`. */
  state: WalletState | null;
  /** Of its last event, committed or not; null: `LoadedWallet.hash`. */
  hash: string | null;
  loaded: boolean;
  /**
   * Its active holds by id, and those that ended in a commit under way or were looked up just now.
   * Null: none.
   */
  holds: Map<string, Hold> | null;
  activeHolds: number;
  /**
   * What arrived before the state was recovered, in order; bounded by `LIMITS.mailboxMessagesMax`.
   */
  mailbox: Item[];
  /**
   * Commits, filling or under way, that contain something of this actor; it stays in memory until
   * there are none.
   */
  uncommitted: number;
  /**
   * A message of it has met what cannot be: until `Commit.unproven` tells whether that is so,
   * nothing else is decided for it.
   */
  mayBeDamaged: boolean;
  lastUsedMs: number;
}

/** Messages of one batch from the host; resolved when all of them have been dealt with. */
export interface Turn {
  open: number;
  done: () => void;
}

/** What the journal, or a commit that is done, says of the id that must happen once. */
export type Known =
  | { readonly type: "command"; readonly command: KnownCommand }
  | { readonly type: "verdict"; readonly verdict: KnownVerdict };

/** A message on its way through the lane. */
export interface Item {
  readonly message: ShardMessage;
  /**
   * Names what must happen once: a command within its wallet, or the verdict on a transfer. Null:
   * repeats need no guard.
   */
  readonly flightKey: string | null;
  /** The batch that waits for it; null for a message between two actors of this lane. */
  readonly turn: Turn | null;
  /** Its outcome, when its command id (`command`, `asked`) or transfer id (`post`) was met. */
  known: Known | null;
  /** It was in a commit whose outcome was unknown: only the journal may say what became of it. */
  inDoubt: boolean;
  /** Its command or transfer id may have an outcome in the journal: look before it is written. */
  mayBeKnown: boolean;
  /** Repeats of the same command or transfer id that arrived while this one was under way. */
  followers: Item[];
  /** The idempotency key for which a creation of a wallet was reserved in this lane. */
  creationKey: string | null;
  /** The journal was asked for the hold that it names, and has none. */
  isHoldMissing: boolean;
  /**
   * Of a question that came from elsewhere: until when it may wait, by this lane's clock. Its
   * command's deadline is by that of the lane that asks, which may be on another machine. Null: the
   * command's deadline is by this lane's own.
   */
  readonly waitsUntilMs: number | null;
}

/** `nowMs` is given for what came from elsewhere, just now. */
export function newItem(message: ShardMessage, turn: Turn | null, nowMs?: number): Item {
  const isQuestion = message.type === "ask" && nowMs !== undefined;
  return {
    message,
    flightKey: flightKeyOf(message),
    turn,
    known: null,
    inDoubt: false,
    mayBeKnown: mayBeKnown(message),
    followers: [],
    creationKey: null,
    isHoldMissing: false,
    waitsUntilMs: isQuestion ? nowMs + message.origin.budgetMs : null,
  };
}

function flightKeyOf(message: ShardMessage): string | null {
  // A dry run has no outcome: it neither waits for the command with its id nor stands in its way.
  if (commandIn(message)?.command.dryRun === true) return null;
  switch (message.type) {
    case "command":
      return `${message.command.walletId} ${message.command.commandId}`;
    case "asked":
      return `${message.walletId} ${message.origin.command.commandId}`;
    case "post":
      return `!${message.step.transferId}`; // no wallet id begins with "!"
    case "ask":
    case "verdict":
    case "expire":
      return null;
    default:
      return message satisfies never;
  }
}

function mayBeKnown(message: ShardMessage): boolean {
  if (commandIn(message)?.command.dryRun === true) return false;
  if (message.type === "post") return message.attempt !== 1;
  const decided = commandToDecide(message);
  return decided !== null && (decided.attempt !== 1 || decided.command.fingerprint !== null);
}

export interface Commit extends Omit<Writes, "fence" | "order" | "wallets" | "holds" | "traced"> {
  readonly items: Item[];
  readonly actors: Set<Actor>;
  readonly wallets: Map<string, WalletWrite>;
  readonly holds: Map<string, { hold: Hold; isNew: boolean }>;
  /** Transfers that begin and end in this commit; nobody drives them. */
  readonly atOnce: Set<string>;
  /** Shards spoken for; the epochs are filled in when the commit is sent. */
  readonly shards: Set<number>;
  readonly replies: Reply[];
  readonly messages: ShardMessage[];
  readonly changes: Change[];
  /** The first message in here with each `Item.flightKey`; repeats are its followers. */
  readonly leaders: Map<string, Item>;
  /**
   * What messages in here have met that cannot be. They write nothing; once it is done, nobody else
   * has written and it is damage.
   */
  readonly unproven: Map<Item, Damage>;
  /** Null: no step in here is traced. */
  traced: TracedStep[] | null;
}

export function newCommit(): Commit {
  return {
    items: [],
    actors: new Set(),
    events: [],
    wallets: new Map(),
    rejections: [],
    lookups: [],
    verdictLookups: [],
    transfers: [],
    verdicts: [],
    settled: [],
    holds: new Map(),
    atOnce: new Set(),
    shards: new Set(),
    replies: [],
    messages: [],
    changes: [],
    leaders: new Map(),
    unproven: new Map(),
    traced: null,
  };
}

/**
 * Makes the item wait for this commit, on behalf of the actor: even with nothing to write, the
 * fence is checked.
 */
export function enlist(commit: Commit, actor: Actor, item: Item): void {
  commit.items.push(item);
  involve(commit, actor);
}

/**
 * The commit depends on the actor's state: its shard is fenced, and the actor stays in memory until
 * the commit is done.
 */
export function involve(commit: Commit, actor: Actor): void {
  commit.shards.add(actor.shard);
  if (commit.actors.has(actor)) return;
  commit.actors.add(actor);
  actor.uncommitted += 1;
}

/** What ties events to their cause. */
export interface Cause {
  /**
   * The id of the caller's command that these events are the outcome of; null for a step of the
   * transfer protocol.
   */
  readonly commandId: string | null;
  readonly fingerprint: string | null;
  readonly isIdProposed: boolean;
  readonly correlationId: string;
  readonly causationId: string;
  readonly description: string | null;
  readonly metadata: string | null;
}

/**
 * Applies the events to the actor's state (speculatively, until the commit is done) and puts them
 * into the commit. Returns the state after the last one.
 */
export function record(
  commit: Commit,
  actor: Actor,
  events: readonly WalletEvent[],
  cause: Cause,
): WalletState {
  const { walletId } = actor;
  const baseVersion = actor.state === null ? -1 : actor.state.version;
  let state = actor.state;
  for (let index = 0; index < events.length; index++) {
    const event = events[index]!;
    const isLast = index === events.length - 1;
    state = apply(walletId, state, event);
    const row = {
      walletId,
      version: state.version,
      event,
      balanceMinor: state.balanceMinor,
      heldMinor: state.heldMinor,
      status: state.status,
      commandId: isLast ? cause.commandId : null,
      fingerprint: isLast ? cause.fingerprint : null,
      isIdProposed: cause.isIdProposed,
      correlationId: cause.correlationId,
      causationId: cause.causationId,
      description: cause.description,
      metadata: cause.metadata,
      hash: "",
    };
    // Filled in, as a spread with the hash beside it would cost more than all the rest of the row:
    // V8 makes a new hidden class for each, and whoever reads the row looks its fields up anew.
    row.hash = chainHash(actor.hash, row);
    actor.hash = row.hash;
    commit.events.push(row);
    commit.changes.push({
      wallet: state,
      type: event.type,
      amountMinor: "amountMinor" in event ? event.amountMinor : null,
      description: cause.description,
    });
    if ("hold" in event) recordHold(commit, actor, event.hold, event.type === "HoldPlaced");
  }
  const { hash } = actor;
  if (state === null || hash === null) throw new Error(`nothing to record for ${walletId}`);
  const entry = commit.wallets.get(walletId);
  commit.wallets.set(walletId, { state, baseVersion: entry?.baseVersion ?? baseVersion, hash });
  actor.state = state;
  return state;
}

/**
 * The state that the events would leave, for who only asks: nothing is applied and nothing goes
 * into a commit.
 */
export function foreseen(actor: Actor, events: readonly WalletEvent[]): WalletState {
  let { state } = actor;
  for (const event of events) state = apply(actor.walletId, state, event);
  if (state === null) throw new Error(`nothing is foreseen for wallet ${actor.walletId}`);
  return state;
}

function recordHold(commit: Commit, actor: Actor, hold: Hold, isPlaced: boolean): void {
  keepHold(actor, hold);
  const key = holdKey(hold);
  const isNew = isPlaced || commit.holds.get(key)?.isNew === true;
  commit.holds.set(key, { hold, isNew });
}

/** Puts a hold into the actor's memory, in place of what it was. */
export function keepHold(actor: Actor, hold: Hold): void {
  actor.holds ??= new Map();
  if (actor.holds.get(hold.holdId)?.status === "ACTIVE") actor.activeHolds -= 1;
  if (hold.status === "ACTIVE") actor.activeHolds += 1;
  actor.holds.set(hold.holdId, hold);
}

/**
 * Puts a rejection into the commit: recorded under its command id, and told once it is. Its id is
 * always looked for: an event and a rejection with the same id would not collide by themselves.
 * That of a dry run is told and not recorded.
 */
export function recordRejection(
  commit: Commit,
  command: CommandMessage,
  rejection: Rejection,
): void {
  const { walletId, commandId, fingerprint, proposedId: isIdProposed } = command.command;
  if (command.command.dryRun !== true) {
    commit.rejections.push({ walletId, commandId, fingerprint, isIdProposed, rejection });
    commit.lookups.push({ walletId, commandId });
  }
  reply(commit, command, { type: "rejected", rejection, replayed: false });
}

export function reply(commit: Commit, to: CommandMessage, outcome: Outcome): void {
  commit.replies.push({ inbox: to.inbox, seq: to.seq, outcome });
}

/** Notes a step of a transfer whose command is traced. */
export function traceStep(
  commit: Commit,
  step: TracedStep["step"],
  { walletId }: Actor,
  commandId: string,
  traceparent: string | undefined,
): void {
  if (traceparent === undefined) return;
  commit.traced ??= [];
  commit.traced.push({ step, walletId, commandId, traceparent });
}

/** The commit as the journal takes it, under the epochs that the lane holds now. */
export function writesOf(
  commit: Commit,
  epochs: ReadonlyMap<number, number>,
  order: AppendOrder,
): Writes {
  const fence = new Map<number, number>();
  // A shard that was lost meanwhile has no epoch; -1 is never a shard's epoch, so the journal
  // refuses.
  for (const shard of commit.shards) fence.set(shard, epochs.get(shard) ?? -1);
  return {
    events: commit.events,
    wallets: commit.wallets,
    rejections: commit.rejections,
    lookups: commit.lookups,
    verdictLookups: commit.verdictLookups,
    transfers: commit.transfers,
    verdicts: commit.verdicts,
    settled: commit.settled,
    holds: commit.holds,
    fence,
    order,
    traced: commit.traced,
  };
}

/**
 * Whatever these commands are, somebody may have written their outcome: from now on they are looked
 * for.
 */
export function suspected(items: Item[]): Item[] {
  for (const item of items) item.mayBeKnown = true;
  return items;
}

export function withKnown(
  items: Item[],
  commands: readonly KnownCommand[],
  verdicts: readonly KnownVerdict[],
): Item[] {
  const byKey = new Map<string, Known>();
  for (const command of commands) {
    byKey.set(`${command.walletId} ${command.commandId}`, { type: "command", command });
  }
  for (const verdict of verdicts) {
    byKey.set(`!${verdict.transferId}`, { type: "verdict", verdict });
  }
  for (const item of items) item.known = byKey.get(item.flightKey ?? "") ?? item.known;
  return items;
}

/** What a commit that is done means for a repeat of one of its command or transfer ids. */
export function outcomeIn(commit: Commit, message: ShardMessage): Known | null {
  if (message.type === "post") {
    const { transferId } = message.step;
    const verdict = commit.verdicts.find((one) => one.transferId === transferId);
    return verdict === undefined ? null : { type: "verdict", verdict };
  }
  const decided = commandToDecide(message);
  if (decided === null) return null;
  const { walletId, commandId } = decided.command;
  const event = commit.events.find(
    (one) => one.commandId === commandId && one.walletId === walletId,
  );
  if (event !== undefined) {
    const { fingerprint, version } = event;
    const transferId = "transferId" in event.event ? event.event.transferId : null;
    const command = { walletId, commandId, fingerprint, version, transferId, rejection: null };
    if (fingerprint !== null) return { type: "command", command };
    return { type: "command", command: { ...command, record: recordIn(commit, event) } };
  }
  const no = commit.rejections.find(
    (one) => one.commandId === commandId && one.walletId === walletId,
  );
  if (no === undefined) return null;
  const { fingerprint, rejection } = no;
  const none = { version: null, transferId: null };
  return { type: "command", command: { walletId, commandId, fingerprint, ...none, rejection } };
}

/** What the command has left whose last event this is. */
function recordIn({ events, wallets, transfers }: Commit, last: NewEvent): CommandRecord {
  const { walletId, commandId, event, version, description, metadata, isIdProposed } = last;
  const first = events.find((one) => one.walletId === walletId && one.version === 0);
  const created = first?.causationId === commandId ? first.event : undefined;
  const transferId = "transferId" in event ? event.transferId : null;
  return {
    event,
    version,
    description,
    metadata,
    wallet: wallets.get(walletId)!.state,
    creation:
      created?.type === "WalletCreated" ? { metadata: created.metadata, isIdProposed } : null,
    isHoldFinal: transfers.find((one) => one.transferId === transferId)?.isHoldFinal ?? false,
  };
}
