/**
 * The way of a message through a lane: to its wallet's actor now, or to where it waits until that
 * can be, and how it ends when nobody deals with it. No later message of its wallet overtakes it on
 * this way. The look-ups are beside it: what names a hold that is not in memory (`holds.ts`), or a
 * key whose wallet is not known (`creations.ts`), arrives anew when the journal was asked.
 *
 *     arrived --shard is being claimed--> waiting --claimed----------> arrived
 *     arrived --wallet is not in memory-> mailbox --read-------------> arrived
 *     arrived --commit is full----------> backlog --next turn--------> arrived
 *     arrived --lane does not serve-----> backlog --it serves again--> arrived
 *     waiting, mailbox --lane stops serving--> backlog
 *     arrived --nothing in the way------> stepped --dealt with, or its commit is done--> finished
 *     stepped --met what cannot be, and its commit is done---------> refused--> finished
 *     any but stepped --expired, shard lost, too many wait, damage-> refused--> finished
 *
 * Invariant: between turns at most one of waiting, mailbox and backlog has messages of a wallet. So
 * while the lane does not serve, all is in the backlog, and what came before it stopped is before
 * what comes after.
 */
import { LIMITS } from "../src/limits.ts";
import { addressee, type Fault, type ShardMessage } from "../src/core/protocol.ts";
import { shardOf } from "../src/core/shard.ts";
import { newItem, type Actor, type Commit, type Item } from "./commit.ts";
import type { Creations } from "./creations.ts";
import { Damage, type Damages } from "./damage.ts";
import {
  answerKnown,
  awaitProof,
  deadlineOf,
  follows,
  hasExpired,
  type StepContext,
} from "./deciding.ts";
import type { HoldKeeper } from "./holds.ts";
import type { LaneActors } from "./lane-actors.ts";
import type { LaneShards } from "./lane-shards.ts";
import { commandIn, commandToDecide } from "./messages.ts";
import { holdNeededBy, step } from "./steps.ts";

export interface LaneDeliveryDeps {
  readonly context: StepContext;
  /** Whether messages are dealt with now; if not, they wait. */
  readonly isServing: () => boolean;
  readonly shards: Pick<LaneShards, "serves" | "awaits">;
  readonly actors: LaneActors;
  readonly creations: Creations;
  readonly holdKeeper: HoldKeeper;
  readonly damages: Damages;
}

export interface LaneDelivery {
  /** Messages that wait, not counting those for a wallet or a hold that is being read. */
  readonly backlogSize: number;
  deliver(item: Item): void;
  again(items: readonly Item[]): void;
  /** The same for messages between actors of this lane, once the present turn is over. */
  deliverSoon(items: readonly Item[]): void;
  sendSoon(message: ShardMessage): void;
  /** Delivers what can be by now: what did not fit a commit, and what was to come soon. */
  proceed(): void;
  dealWithWaiting(): void;
  dealWithBacklog(): void;
  /**
   * The lane has stopped serving: these messages were undone, and with all that waits for something
   * else they wait for the lane now, all before what comes later. Each was accepted where it was,
   * so none is refused here: the backlog's bound is for what comes.
   */
  stop(undone: readonly Item[]): void;
  /**
   * The commit is done, and so are its messages; those that have met what cannot be are refused,
   * and the damage is told.
   */
  committed(commit: Pick<Commit, "items" | "unproven">): void;
  /**
   * Does not deal with a message. A caller is told that nothing happened, or that nobody knows, and
   * asks again; what only its coordinator waits for may be dropped, since that one repeats it.
   */
  refuse(item: Item, fault: Fault): void;
  /** Refuses what it is too late for. */
  expire(): void;
  /** Refuses what waits for things of shards of which nothing is known any more. */
  forget(gone: ReadonlySet<number>): void;
}

export function buildLaneDelivery(deps: LaneDeliveryDeps): LaneDelivery {
  const { context, isServing, shards, actors, creations, holdKeeper, damages } = deps;
  /** Messages for shards that are being claimed. */
  let waiting: Item[] = [];
  let backlog: Item[] = [];
  let soon: Item[] = [];

  function deliver(item: Item): void {
    if (!isServing()) return defer(item);
    const { message } = item;
    const walletId = addressee(message);
    const shard = shardOf(walletId);
    if (!shards.serves(shard)) {
      const isAwaited = shards.awaits(shard);
      if (!isAwaited) refuse(item, "unavailable");
      else if (waiting.length < LIMITS.laneBacklogMax) waiting.push(item);
      else refuse(item, "overloaded", shard);
      return;
    }
    if (message.type === "command" && message.command.proposedId && item.creationKey === null) {
      const found = creations.enter(item, message);
      if (found !== null) deliver(found);
      return;
    }
    const nowMs = context.nowMs();
    if (damages.waits(walletId, nowMs)) return refuseUnlessKnown(item);
    const actor = actors.actorOf(walletId, shard);
    actor.lastUsedMs = nowMs;
    if (!actor.loaded) {
      if (actor.mailbox.length < LIMITS.mailboxMessagesMax) actor.mailbox.push(item);
      else refuse(item, "overloaded");
    } else if (context.open().items.length >= LIMITS.commitMessagesMax || backlog.length > 0) {
      // Also when there is room again: no message of a wallet overtakes another one of it.
      defer(item);
    } else if (actor.mayBeDamaged && item.known === null) {
      // As in the pause that follows if it is; but who repeats what is under way hears of that.
      if (!follows(context, item)) refuse(item, "unavailable");
    } else stepNow(actor, item);
  }

  function defer(item: Item): void {
    if (backlog.length < LIMITS.laneBacklogMax) backlog.push(item);
    else refuse(item, "overloaded", shardOf(addressee(item.message)));
  }

  function stepNow(actor: Actor, item: Item): void {
    if (holdKeeper.keepsWaiting(actor, item, holdNeededBy(item.message, context.pending))) return;
    try {
      if (step(context, actor, item) === "dealt") finish(item);
    } catch (error) {
      if (!(error instanceof Damage)) throw error;
      awaitProof(context, actor, item, error);
    }
  }

  /** What was decided before the damage was met is told, for which nobody looks at the wallet. */
  function refuseUnlessKnown(item: Item): void {
    const command = commandToDecide(item.message);
    if (item.known?.type !== "command" || command === null) return refuse(item, "unavailable");
    answerKnown(context, command, item.known.command);
    finish(item);
  }

  /** The fence has held since it was met: nobody else has written what it rests on. */
  function believe(damage: Damage, item: Item): void {
    damages.met(damage, context.nowMs());
    // Read again next time: it may be mended by then, and nothing is appended that would tell of
    // it. Nothing of it is uncommitted, since nothing was decided for it behind this.
    const actor = actors.byWalletId.get(damage.walletId);
    if (actor?.mayBeDamaged === true) actors.drop(actor);
    refuse(item, "unavailable");
  }

  function refuse(item: Item, fault: Fault, fullShard?: number): void {
    const { message } = item;
    const command = commandIn(message);
    // Past its deadline nobody waits for the answer, and another owner may have given it.
    if (command !== null && context.nowMs() < deadlineOf(item, command)) {
      // What has an outcome must not be told as if nothing had happened.
      const isOpen = !item.inDoubt && item.known === null;
      const refusal = { fault, ...(fullShard !== undefined && { fullShard }) };
      context.answer(command, { type: "fault", ...(isOpen ? refusal : { fault: "unknown" }) });
    }
    finish(item);
  }

  function finish(item: Item): void {
    creations.finished(item);
    const { turn } = item;
    if (turn === null) return;
    turn.open -= 1;
    if (turn.open === 0) turn.done();
  }

  function again(items: readonly Item[]): void {
    for (const item of items) deliver(item);
  }

  function takeWaiting(): Item[] {
    const items = waiting;
    waiting = [];
    return items;
  }

  function dealWithBacklog(): void {
    const items = backlog;
    backlog = [];
    again(items);
  }

  function keepUnlessExpired(item: Item): boolean {
    // A question and its answer, too: their caller waits no longer than for the command itself. An
    // earlier one of the same command may have done something; a refusal speaks for this sending.
    const command = commandIn(item.message);
    if (command === null || !hasExpired(context, item, command)) return true;
    refuse(item, "unavailable");
    return false;
  }

  return {
    get backlogSize() {
      return backlog.length + waiting.length;
    },
    deliver,
    again,
    deliverSoon(items) {
      for (const item of items) soon.push(item);
    },
    sendSoon: (message) => void soon.push(newItem(message, null)),
    proceed() {
      if (backlog.length > 0 && isServing()) dealWithBacklog();
      while (soon.length > 0) {
        const items = soon;
        soon = [];
        again(items);
      }
    },
    dealWithWaiting: () => again(takeWaiting()),
    dealWithBacklog,
    stop(undone) {
      backlog = [...undone, ...backlog, ...actors.emptyMailboxes(), ...takeWaiting()];
    },
    committed({ items, unproven }) {
      for (const item of items) {
        const damage = unproven.get(item);
        if (damage === undefined) finish(item);
        else believe(damage, item);
      }
    },
    refuse,
    expire() {
      if (backlog.length > 0) backlog = backlog.filter(keepUnlessExpired);
      if (waiting.length > 0) waiting = waiting.filter(keepUnlessExpired);
      actors.sift(keepUnlessExpired);
      creations.sift(keepUnlessExpired);
      holdKeeper.sift(keepUnlessExpired);
    },
    forget(gone) {
      const unheard = [actors.forget(gone), creations.forget(gone), holdKeeper.forget(gone)];
      for (const item of unheard.flat()) refuse(item, "unavailable");
      for (const item of backlog) {
        if (gone.has(shardOf(addressee(item.message)))) creations.reenter(item);
      }
    },
  };
}
