/**
 * A lane: the actors of some shards on one thread, their mailboxes, and the group commit they
 * share. Messages come in as batches, effects go out; in between nothing waits but the commit. This
 * file ties the parts together and says when the lane serves; `lane-delivery.ts` brings a message
 * to its actor, `lane-actors.ts` keeps the actors, `steps.ts` is what they do, and
 * `group-commit.ts` makes it durable. When a commit fails, every state it touched, and all that was
 * decided on top, is dropped and its messages are dealt with again, in order. The lane has no clock
 * and no timer: time comes with `tick`, so that a simulator can drive it.
 *
 *     (start), serving --commit outcome unknown, or fenced--> recovering
 *     recovering --shards claimed, pending transfers read---> serving
 *     serving    --commit refused by the database-----------> pausing
 *     pausing    --first tick after the pause---------------> serving
 *
 * serving: messages are decided on arrival. recovering, pausing: they wait in the backlog, each
 * until its deadline; nothing is decided, since nobody knows on what. Invariant: only while it
 * serves is anything in a commit.
 *
 * Which shards it serves comes with each tick, too; `lane-shards.ts` knows what became of each.
 */
import type { AppendResult, Journal } from "../src/core/journal.ts";
import { LIMITS } from "../src/limits.ts";
import { messageOf } from "../src/message-of.ts";
import {
  addressee,
  type CommandMessage,
  type Effects,
  type Outcome,
  type ShardMessage,
} from "../src/core/protocol.ts";
import { shardOf } from "../src/core/shard.ts";
import { newItem, suspected, withKnown, type Commit, type Item, type Turn } from "./commit.ts";
import { buildCreations } from "./creations.ts";
import { buildDamages, Damage } from "./damage.ts";
import type { StepContext } from "./deciding.ts";
import { buildGroupCommit, type AppendFailure } from "./group-commit.ts";
import { buildHoldKeeper } from "./holds.ts";
import { buildLaneActors } from "./lane-actors.ts";
import { buildLaneDelivery } from "./lane-delivery.ts";
import { buildLaneShards } from "./lane-shards.ts";
import { buildPendingTransfers } from "./pending-transfers.ts";
import { driveTransfers, transfersCommitted } from "./transfer-steps.ts";

export interface LaneDeps {
  readonly journal: Journal;
  /** The host's name in the shard table. The lane claims only what this owner holds already. */
  readonly owner: string;
  /**
   * Whether a transfer between two wallets that are both awake here is one commit; without it, it
   * takes the protocol as all others do.
   */
  readonly shortcut: boolean;
  /** In place of the limit of that name; commits in a simulation are small. */
  readonly commitBehindMessagesMin?: number;
  /** Takes effects that no finished batch could carry. */
  readonly emit: (effects: Effects) => void;
  /** "error": somebody has to mend something. */
  readonly log: (level: "info" | "warn" | "error", text: string) => void;
  /** Ends the thread: an invariant is broken and nothing in memory can be trusted. */
  readonly crash: (error: unknown) => void;
}

export interface LaneStats {
  readonly actors: number;
  readonly backlog: number;
  readonly pendingTransfers: number;
  /** Wallets whose rows cannot be, and which wait for somebody to mend them. */
  readonly damagedWallets: number;
  readonly commits: number;
  /**
   * Whether every shard that is assigned to it is held, and nothing waits for the database to come
   * back.
   */
  readonly serving: boolean;
  /** Shards of which something may be under way here: claiming, held or leaving. */
  readonly shards: readonly number[];
}

export interface Lane {
  /**
   * Deals with a batch; resolves when each message is committed, refused or sent on, with all
   * effects that are ready by then. The two times are those of `src/clock.ts`.
   */
  receive(messages: readonly ShardMessage[], nowMs: number, wallMs: number): Promise<Effects>;
  /**
   * Tells the time (expiry, retries, passivation), and all shards that the lane has to serve from
   * now on. Called every `LIMITS.laneTickMs`; until the first time messages wait.
   */
  tick(nowMs: number, shards: readonly number[], wallMs: number): Effects;
  stats(): LaneStats;
}

export function buildLane(deps: LaneDeps): Lane {
  const { journal, crash } = deps;
  let mode: "serving" | "recovering" | "pausing" = "recovering";
  let outbox = emptyEffects();
  let nowMs = 0;
  let wallMs = 0;
  let nextSweepMs = 0;
  let pauseMs = 0;
  let resumeAtMs = 0;
  let staleCommits = 0;
  /** Commits whose outcome was unknown since the last one that was committed. */
  let unknownCommits = 0;
  let isReadFailing = false;
  let commits = 0;

  // ---- the parts --------------------------------------------------------------------------------

  const pending = buildPendingTransfers();
  const damages = buildDamages((text) => deps.log("error", text));
  const reading = { journal, read };

  const groupCommit = buildGroupCommit({
    journal,
    pending,
    epochs: () => shards.epochs,
    behindMessagesMin: () => deps.commitBehindMessagesMin ?? LIMITS.commitBehindMessagesMin,
    drop: (actor) => actors.drop(actor),
    onCommitted: committed,
    onFailed: failed,
    crash,
  });

  const context: StepContext = {
    nowMs: () => nowMs,
    wallMs: () => wallMs,
    open: groupCommit.open,
    pending,
    leaderOf: groupCommit.leaderOf,
    send(message) {
      if (shards.serves(shardOf(addressee(message)))) delivery.sendSoon(message);
      else outbox.messages.push(message);
    },
    payeeHere(walletId) {
      const actor = deps.shortcut ? actors.byWalletId.get(walletId) : undefined;
      if (actor?.loaded !== true || !shards.serves(actor.shard)) return null;
      if (actor.mayBeDamaged || damages.waits(walletId, nowMs)) return null;
      actor.lastUsedMs = nowMs;
      return actor;
    },
    answer,
  };

  const actors = buildLaneActors({
    ...reading,
    deliver: (item) => delivery.deliver(item),
    proceed,
  });
  const creations = buildCreations({ ...reading, deliver: deliverAndProceed });
  const holdKeeper = buildHoldKeeper({
    ...reading,
    actors: actors.byWalletId,
    nowMs: () => nowMs,
    wallMs: () => wallMs,
    servedShards: () => shards.served(),
    deliver: deliverAndProceed,
  });

  const shards = buildLaneShards({
    journal,
    owner: deps.owner,
    log: deps.log,
    crash,
    isPaused: () => nowMs < resumeAtMs,
    isRecovering: () => mode === "recovering",
    recovered(transfers) {
      // The commit that settled it was not heard of; whoever asks again finds the record.
      for (const waiter of pending.reload(transfers, nowMs)) {
        answer(waiter, { type: "fault", fault: "unknown" });
      }
      holdKeeper.expireSoon();
      mode = "serving";
      // That claims work says nothing of commits.
      if (unknownCommits === 0) pauseMs = 0;
    },
    adopted(transfers) {
      pending.add(transfers, nowMs);
      holdKeeper.expireSoon();
    },
    onFailed: pause,
    onLost: (gone) => append(outbox.lost, gone),
    forget,
    dealWithBacklog: () => delivery.dealWithBacklog(),
    dealWithWaiting() {
      delivery.dealWithWaiting();
      proceed();
    },
  });

  const delivery = buildLaneDelivery({
    context,
    isServing: () => mode === "serving",
    shards,
    actors,
    creations,
    holdKeeper,
    damages,
  });

  // ---- going on, and what leaves ----------------------------------------------------------------

  /** After anything happened: deal with what can be by now, wake, commit. */
  function advance(): void {
    delivery.proceed();
    if (mode !== "serving") return;
    // One read for all wallets that were woken, one for creations to be resolved, one for holds.
    creations.lookUp();
    holdKeeper.lookUp();
    actors.wake();
    groupCommit.send();
  }

  /** The same, and lets the effects out that no batch carries. */
  function proceed(): void {
    advance();
    if (hasEffects(outbox)) deps.emit(takeOutbox());
  }

  function deliverAndProceed(items: readonly Item[]): void {
    delivery.again(items);
    proceed();
  }

  function answer({ inbox, seq }: CommandMessage, outcome: Outcome): void {
    outbox.replies.push({ inbox, seq, outcome });
  }

  function takeOutbox(): Effects {
    const effects = outbox;
    outbox = emptyEffects();
    return effects;
  }

  /** Failed reads are tried again at once, so it is told once until one works. */
  function read<T>(
    what: string,
    asked: Promise<T>,
    answered: (answer: T) => void,
    failed: () => void,
  ): void {
    asked
      .then(
        (answer) => {
          isReadFailing = false;
          answered(answer);
        },
        (error: unknown) => {
          if (!isReadFailing) deps.log("warn", `cannot ${what}, trying again: ${messageOf(error)}`);
          isReadFailing = true;
          failed();
        },
      )
      .catch(crash);
  }

  // ---- what became of a commit ------------------------------------------------------------------

  function committed(commit: Commit, followers: readonly Item[]): void {
    staleCommits = 0;
    unknownCommits = 0;
    pauseMs = 0;
    commits += 1;
    holdKeeper.committed(commit);
    transfersCommitted(context, commit);
    append(outbox.replies, commit.replies);
    append(outbox.changes, commit.changes);
    for (const message of commit.messages) context.send(message);
    delivery.deliverSoon(followers);
    // Each may be the last of its batch, which then takes all that has to leave.
    delivery.committed(commit);
    proceed();
  }

  function failed(failure: AppendFailure): void {
    switch (failure.type) {
      case "known":
        delivery.again(withKnown(groupCommit.undo(), failure.commands, failure.verdicts));
        break;
      case "undone":
        // The connection was made anew in front of it.
        delivery.again(suspected(groupCommit.undo()));
        break;
      case "fenced": {
        // Somebody raised the epoch, perhaps this owner: the next claim tells what is still ours.
        // Until then the messages may be with another owner too, so nobody is told that nothing
        // happened.
        deps.log("warn", `epochs of ${failure.shards.length} shards were raised, claiming again`);
        const items = suspected(groupCommit.undo());
        for (const item of items) item.inDoubt = true;
        recover(items);
        break;
      }
      case "stale":
        staleCommits += 1;
        deps.log("warn", `a commit met another writer's rows: ${failure.reason}`);
        if (staleCommits <= LIMITS.staleCommitsMax) delivery.again(suspected(groupCommit.undo()));
        else withoutWallet(failure);
        break;
      case "refused":
        mode = "pausing";
        pause(`the database refused a commit: ${failure.reason}`);
        delivery.stop(groupCommit.undo());
        break;
      case "unknown": {
        const reason = `the outcome of a commit is unknown, claiming again: ${failure.reason}`;
        // A session may end at any time. What ends each at its commit is left alone for a while.
        unknownCommits += 1;
        if (unknownCommits === 1) deps.log("warn", reason);
        else pause(reason);
        // What was behind it may have been written too, after it.
        const sent = groupCommit.underWay().flatMap(({ items }) => items);
        const doubtful = new Set(sent.flatMap((item) => [item, ...item.followers]));
        const items = suspected(groupCommit.undo());
        for (const item of items) if (doubtful.has(item)) item.inDoubt = true;
        recover(items);
        break;
      }
      default:
        failure satisfies never;
    }
    proceed();
  }

  /** Only claims tell what is still ours, and what became of what is in doubt. */
  function recover(undone: readonly Item[]): void {
    mode = "recovering";
    delivery.stop(undone);
    shards.recover();
  }

  /** Nothing is tried for a while, longer each time until it works. */
  function pause(reason: string): void {
    pauseMs = Math.min(Math.max(pauseMs * 2, LIMITS.journalRetryMs), LIMITS.journalRetryMsMax);
    resumeAtMs = nowMs + pauseMs;
    deps.log("warn", `${reason}; trying again in ${pauseMs} ms`);
  }

  /**
   * Nobody else writes here, and yet an event is in the way each time: the wallet's row is older
   * than its events.
   */
  function withoutWallet({ reason, walletId }: Extract<AppendResult, { type: "stale" }>): void {
    if (walletId === undefined) throw new Error(`stale again: ${reason}`);
    staleCommits = 0;
    damages.met(new Damage(walletId, "its row is older than its last event"), nowMs);
    for (const item of suspected(groupCommit.undo())) {
      if (addressee(item.message) === walletId) delivery.refuse(item, "unavailable");
      else delivery.deliver(item);
    }
  }

  /** Forgets all that is known of shards; who waits is sent to their next owner. */
  function forget(gone: ReadonlySet<number>): void {
    for (const waiter of pending.dropWhere((walletId) => gone.has(shardOf(walletId)))) {
      answer(waiter, { type: "fault", fault: "unknown" });
    }
    delivery.forget(gone);
  }

  return {
    receive(messages, atMs, atWallMs) {
      nowMs = atMs;
      wallMs = atWallMs;
      return new Promise((resolve) => {
        // One more than there are messages, so that the batch carries what its last message caused
        // at once.
        const turn: Turn = { open: messages.length + 1, done: () => resolve(takeOutbox()) };
        for (const message of messages) delivery.deliver(newItem(message, turn, atMs));
        advance();
        turn.open -= 1;
        if (turn.open === 0) turn.done();
        else if (hasEffects(outbox)) deps.emit(takeOutbox());
      });
    },

    tick(atMs, assigned, atWallMs) {
      nowMs = atMs;
      wallMs = atWallMs;
      shards.assign(assigned, nowMs);
      delivery.expire();
      if (mode === "recovering") shards.recover();
      if (mode === "pausing" && nowMs >= resumeAtMs) mode = "serving";
      if (mode === "serving") {
        // Some of their shards may have gone to another host before they were claimed.
        delivery.dealWithWaiting();
        shards.leave(groupCommit.open(), ...groupCommit.underWay());
        shards.adopt();
      }
      driveTransfers(context);
      holdKeeper.tidy();
      damages.tidy(nowMs);
      if (mode === "serving") holdKeeper.expire();
      if (nowMs >= nextSweepMs) {
        nextSweepMs = nowMs + LIMITS.actorSweepMs;
        actors.passivate(nowMs);
        if (mode === "serving") actors.expireAhead(wallMs);
      }
      advance();
      return takeOutbox();
    },

    stats: () => ({
      actors: actors.byWalletId.size,
      backlog: delivery.backlogSize,
      pendingTransfers: pending.size,
      damagedWallets: damages.count,
      commits,
      serving: mode === "serving" && shards.servesAll() && !(isReadFailing && actors.areWaking),
      shards: shards.underWay(),
    }),
  };
}

function emptyEffects(): Effects {
  return { replies: [], messages: [], changes: [], lost: [] };
}

function hasEffects({ replies, messages, changes, lost }: Effects): boolean {
  return replies.length + messages.length + changes.length + lost.length > 0;
}

function append<T>(to: T[], from: readonly T[]): void {
  for (const one of from) to.push(one);
}
