/**
 * What every step of an actor shares: what it may use of its lane, how a message gets into the open
 * commit or behind the one that has its id, what a decision is made on, and how a caller is told
 * what is known already. `steps.ts` and `transfer-steps.ts` are made of it.
 */
import { expiryEvent, holdsInTheWay } from "../src/core/holding.ts";
import type { KnownCommand } from "../src/core/journal.ts";
import { LIMITS } from "../src/limits.ts";
import { messageOf } from "../src/message-of.ts";
import type {
  Command,
  CommandMessage,
  ExpireMessage,
  Fault,
  Outcome,
  ShardMessage,
} from "../src/core/protocol.ts";
import type { Rejection } from "../src/core/rejection.ts";
import { fits, mayHaveBeenTold } from "../src/core/repeats.ts";
import { decide, type Decision } from "../src/core/wallet.ts";
import {
  enlist,
  foreseen,
  newItem,
  record,
  recordRejection,
  type Actor,
  type Cause,
  type Commit,
  type Item,
} from "./commit.ts";
import { Damage } from "./damage.ts";
import { commandToDecide } from "./messages.ts";
import type { PendingTransfers } from "./pending-transfers.ts";

export interface StepContext {
  /** What deadlines and retries go by; see `src/clock.ts`. */
  nowMs(): number;
  /** What events say when they happened. */
  wallMs(): number;
  /** The commit that is filling now. */
  open(): Commit;
  readonly pending: PendingTransfers;
  /** The first message with this `Item.flightKey` in a commit that fills or is under way. */
  leaderOf(flightKey: string): Item | undefined;
  /**
   * The actor of a payee that the payer's commit may include: awake in this lane. Null: ask it by
   * the protocol.
   */
  payeeHere(walletId: string): Actor | null;
  /**
   * Sends to another wallet's actor, in this lane or elsewhere, now: only for what is durable or
   * binds nobody.
   */
  send(message: ShardMessage): void;
  /** Answers a caller now: only with what is durable, or with a fault. */
  answer(to: CommandMessage, outcome: Outcome): void;
}

/**
 * "dealt": nothing more to do for the message. "waits": it is in the open commit, or follows one
 * that is.
 */
export type StepResult = "dealt" | "waits";

/**
 * Whether the same id is in a commit that fills or is under way; then the item is dealt with after
 * that one, as a repeat.
 */
export function follows(context: StepContext, item: Item): boolean {
  if (item.flightKey === null) return false;
  const leader = context.leaderOf(item.flightKey);
  if (leader === undefined || leader === item) return false;
  leader.followers.push(item);
  return true;
}

export function lead(context: StepContext, actor: Actor, item: Item): Commit {
  const commit = context.open();
  enlist(commit, actor, item);
  if (item.flightKey !== null) commit.leaders.set(item.flightKey, item);
  return commit;
}

/**
 * The answer to a caller's command, as the wallet is now. A hold whose time is over must not be
 * what a no rests on, which sticks to its command, only because nobody has ended it yet: those in
 * the way are ended in the commit that is filling, as if their `expire` messages had just come, and
 * the command is decided behind them. That counts them as messages of the commit, so that nothing
 * else is put into one that is full of them; a wallet has `LIMITS.holdsPerWalletMax` at most. A dry
 * run does so too: their end is none of its own effects.
 */
export function decideNow(context: StepContext, actor: Actor, command: Command): Decision {
  const { walletId } = actor;
  // Again and again: a payee's refusal may have brought back more holds than a wallet may have.
  for (;;) {
    const decision = decideAsItIs(context, actor, command);
    const { state, holds } = actor;
    if (decision.ok || state === null || holds === null) return decision;
    const over = holdsInTheWay(state, holds.values(), decision.rejection, context.wallMs());
    if (over.length === 0) return decision;
    for (const { holdId } of over) {
      const message: ExpireMessage = { type: "expire", walletId, holdId };
      stepExpire(context, actor, newItem(message, null), message);
    }
  }
}

function decideAsItIs(context: StepContext, actor: Actor, command: Command): Decision {
  const { walletId, body, expectedVersion } = command;
  const pendingOutMinor = context.pending.outOf(walletId);
  const at = { nowMs: context.wallMs(), expectedVersion, pendingOutMinor };
  if (body.type !== "hold" && body.type !== "capture" && body.type !== "release") {
    return decide(walletId, actor.state, body, at);
  }
  const named = actor.holds?.get(body.holdId) ?? null;
  const holds = { named, activeCount: actor.activeHolds };
  return soundly(actor, () => {
    const decision = decide(walletId, actor.state, body, { ...at, holds });
    if (decision.ok) foreseen(actor, decision.events);
    return decision;
  });
}

/**
 * A hold's time is over. It may have ended in another way by now, and then there is nothing to do.
 */
export function stepExpire(
  context: StepContext,
  actor: Actor,
  item: Item,
  { holdId }: ExpireMessage,
): StepResult {
  const { state } = actor;
  if (state === null) throw new Damage(actor.walletId, `it has hold ${holdId} and no row`);
  const hold = actor.holds?.get(holdId);
  if (hold === undefined) return "dealt";
  const event = soundly(actor, () => {
    const expired = expiryEvent(state, hold, context.wallMs());
    if (expired !== null) foreseen(actor, [expired]);
    return expired;
  });
  if (event === null) return "dealt";
  const { description } = hold;
  const cause = stepCause({ correlationId: holdId, commandId: holdId, description });
  record(lead(context, actor, item), actor, [event], cause);
  return "waits";
}

/**
 * Decides what rests on more than one row, before anything of it is in a commit: a wallet with its
 * holds, or with a transfer's record. Each row was written with the others, so what cannot be was
 * changed from outside, and one wallet's damage must not end the lane.
 */
export function soundly<T>({ walletId }: Actor, decided: () => T): T {
  try {
    return decided();
  } catch (error) {
    throw new Damage(walletId, messageOf(error));
  }
}

/**
 * What cannot be is believed like a rejection: with a commit that begins after it was met. An owner
 * that was superseded may have a wallet in memory and a hold that its successor has changed since;
 * nothing is damaged then, and the fence refuses its commit. The actor goes with that, as with any
 * commit that fails, and the message is dealt with anew.
 */
export function awaitProof(context: StepContext, actor: Actor, item: Item, damage: Damage): void {
  const commit = lead(context, actor, item);
  commit.unproven.set(item, damage);
  actor.mayBeDamaged = true;
  // Who repeats it waits for it, and takes from this commit whether it had happened before.
  const decided = commandToDecide(item.message);
  if (item.mayBeKnown && decided !== null) commit.lookups.push(decided.command);
}

/** The answer to a command whose outcome is in the journal already. */
export function answerKnown(
  context: StepContext,
  to: CommandMessage,
  known: KnownCommand,
): StepResult {
  const { commandId } = to.command;
  const isSame = isRepeat(to.command, known);
  // Of rows that cannot be read, nobody can say what was asked for.
  if (isSame === null) return fault(context, to, "unknown");
  if (!isSame) {
    const rejection: Rejection = { code: "idempotency_conflict", commandId };
    context.answer(to, { type: "rejected", rejection, replayed: false });
    return "dealt";
  }
  if (known.rejection !== null) {
    context.answer(to, { type: "rejected", rejection: known.rejection, replayed: true });
    return "dealt";
  }
  const { walletId, version, transferId } = known;
  if (version === null) throw new Error(`command ${commandId} is known without an outcome`);
  const pending = transferId === null ? undefined : context.pending.get(transferId);
  if (pending !== undefined) {
    pending.waiters.push(to);
    return "dealt";
  }
  context.answer(to, { type: "replayed", walletId, version, transferId });
  return "dealt";
}

/**
 * Whether the command asks for what was asked for when its id was met first; null when that cannot
 * be told.
 */
function isRepeat(command: Command, known: KnownCommand): boolean | null {
  const { fingerprint, rejection, record = null } = known;
  if (fingerprint !== null) return fingerprint === command.fingerprint;
  // The gateway that made the id sends it again.
  if (command.fingerprint === null) return true;
  if (rejection !== null) return mayHaveBeenTold(command, rejection);
  return record === null ? null : fits(command, record);
}

export function reject(
  context: StepContext,
  actor: Actor,
  item: Item,
  message: CommandMessage,
  rejection: Rejection,
): StepResult {
  recordRejection(lead(context, actor, item), message, rejection);
  return "waits";
}

/**
 * Expired; but of what may have been committed, only the journal can tell, as long as somebody
 * waits. Later it must not begin.
 */
export function hasExpired(context: StepContext, item: Item, message: CommandMessage): boolean {
  // Too late to begin, while there is still time to say so.
  const marginMs = item.inDoubt ? 0 : LIMITS.commandExpiryMarginMs;
  return context.nowMs() >= deadlineOf(item, message) - marginMs;
}

/** When its caller gives up, by this lane's clock. */
export function deadlineOf({ waitsUntilMs }: Item, message: CommandMessage): number {
  return waitsUntilMs ?? message.expiresAtMs;
}

export function fault(context: StepContext, message: CommandMessage, which: Fault): StepResult {
  context.answer(message, { type: "fault", fault: which });
  return "dealt";
}

export function causeOf({ command }: CommandMessage): Cause {
  return {
    commandId: command.commandId,
    fingerprint: command.fingerprint,
    isIdProposed: command.proposedId,
    correlationId: command.correlationId,
    causationId: command.commandId,
    description: command.description,
    metadata: command.metadata,
  };
}

export function stepCause(of: {
  correlationId: string;
  commandId: string;
  description: string | null;
}): Cause {
  return {
    commandId: null,
    fingerprint: null,
    isIdProposed: false,
    correlationId: of.correlationId,
    causationId: of.commandId,
    description: of.description,
    metadata: null,
  };
}
