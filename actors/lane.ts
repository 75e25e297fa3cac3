/**
 * A lane: the actors of some shards on one thread, their mailboxes, and the group commit they
 * share. Messages come in as batches, effects go out; in between nothing waits but the commit.
 * While one commit is under way the next one fills, on top of the speculative state, so a hot
 * wallet is limited by CPU and not by `fsync`. When a commit fails, every state it touched, and all
 * that was decided on top, is dropped and its messages are dealt with again, in order. The lane has
 * no clock and no timer: time comes with `tick`, so that a simulator can drive it.
 *
 *     (start), serving --commit outcome unknown, or fenced--> recovering
 *     recovering --shards claimed, pending transfers read---> serving
 *     serving    --commit refused by the database-----------> pausing
 *     pausing    --first tick after the pause---------------> serving
 *
 * serving: messages are decided on arrival. recovering, pausing: they wait in the backlog, each
 * until its deadline; nothing is decided, since nobody knows on what. Invariant: at most one commit
 * is under way, and an actor's state is the committed one plus exactly the events in that commit
 * and in the open one.
 *
 * Which shards it serves comes with each tick, too; `lane-shards.ts` knows what became of each.
 * `lane-actors.ts` keeps the actors.
 */
import type { AppendResult, Journal } from "../src/journal.ts";
import { LIMITS } from "../src/limits.ts";
import {
  addressee,
  type CommandMessage,
  type Effects,
  type Fault,
  type Outcome,
  type ShardMessage,
} from "../src/protocol.ts";
import { shardOf } from "../src/shard.ts";
import type { Transfer } from "../src/transfer.ts";
import {
  newCommit,
  newItem,
  outcomeIn,
  suspected,
  withKnown,
  writesOf,
  type Actor,
  type Item,
  type Turn,
} from "./commit.ts";
import { buildCreations } from "./creations.ts";
import { buildDamages, Damage } from "./damage.ts";
import { isExpired, type StepContext } from "./deciding.ts";
import { buildHoldKeeper } from "./holds.ts";
import { buildLaneActors, type ReadFailure } from "./lane-actors.ts";
import { buildLaneShards } from "./lane-shards.ts";
import { answerOf, buildPendingTransfers, postOf } from "./pending-transfers.ts";
import { holdNeededBy, step } from "./steps.ts";
import { settledOutcome } from "./transfer-steps.ts";

export interface LaneDeps {
  readonly journal: Journal;
  /** The host's name in the shard table. The lane claims only what this owner holds already. */
  readonly owner: string;
  /**
   * Whether a transfer between two wallets that are both awake here is one commit; without it, it
   * takes the protocol as all others do.
   */
  readonly shortcut: boolean;
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
  readonly events: number;
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
   * effects that are ready by then.
   */
  receive(messages: readonly ShardMessage[], nowMs: number): Promise<Effects>;
  /**
   * Tells the time (expiry, retries, passivation), and all shards that the lane has to serve from
   * now on. Called every `LIMITS.laneTickMs`; until the first time messages wait.
   */
  tick(nowMs: number, shards: readonly number[]): Effects;
  stats(): LaneStats;
}

export function buildLane(deps: LaneDeps): Lane {
  const { journal } = deps;
  const pending = buildPendingTransfers();
  const inFlight = new Map<string, Item>();
  const creations = buildCreations();
  const damages = buildDamages((text) => deps.log("error", text));
  /** Messages for shards that are being claimed. */
  let waiting: Item[] = [];

  let mode: "serving" | "recovering" | "pausing" = "recovering";
  let open = newCommit();
  let underWay: ReturnType<typeof newCommit> | null = null;
  let local: Item[] = [];
  let backlog: Item[] = [];
  let outbox = emptyEffects();
  let nowMs = 0;
  let nextSweepMs = 0;
  let pauseMs = 0;
  let resumeAtMs = 0;
  let staleCommits = 0;
  let isReadFailing = false;
  let commits = 0;
  let events = 0;

  const context: StepContext = {
    nowMs: () => nowMs,
    open: () => open,
    pending,
    inFlight,
    send(message) {
      if (shards.serves(shardOf(addressee(message)))) local.push(newItem(message, null));
      else outbox.messages.push(message);
    },
    payeeHere(walletId) {
      const actor = deps.shortcut ? actors.byWalletId.get(walletId) : undefined;
      if (actor?.loaded !== true || !shards.serves(actor.shard)) return null;
      if (damages.waits(walletId, nowMs)) return null;
      actor.lastUsedMs = nowMs;
      return actor;
    },
    answer,
  };

  const onRead = (failure: ReadFailure | null): void =>
    failure === null ? readWorked() : readFailed(failure.what, failure.error);

  const actors = buildLaneActors({ journal, deliver, proceed, onRead, crash: deps.crash });

  const holdKeeper = buildHoldKeeper({
    journal,
    actors: actors.byWalletId,
    nowMs: () => nowMs,
    servedShards: () => shards.served(),
    deliver(items) {
      again(items);
      proceed();
    },
    onRead,
    crash: deps.crash,
  });

  const shards = buildLaneShards({
    journal,
    owner: deps.owner,
    log: deps.log,
    crash: deps.crash,
    isPaused: () => nowMs < resumeAtMs,
    isRecovering: () => mode === "recovering",
    recovered(transfers) {
      pending.reload(transfers, nowMs);
      holdKeeper.expireSoon();
      mode = "serving";
      pauseMs = 0;
    },
    adopted(transfers) {
      pending.add(transfers, nowMs);
      holdKeeper.expireSoon();
    },
    onFailed: pause,
    onLost: (gone) => append(outbox.lost, gone),
    forget,
    dealWithBacklog: () => again(takeBacklog()),
    dealWithWaiting() {
      again(takeWaiting());
      proceed();
    },
  });

  function answer({ inbox, seq }: CommandMessage, outcome: Outcome): void {
    outbox.replies.push({ inbox, seq, outcome });
  }

  function takeOutbox(): Effects {
    const effects = outbox;
    outbox = emptyEffects();
    return effects;
  }

  // ---- mailboxes --------------------------------------------------------------------------------

  function deliver(item: Item): void {
    if (mode !== "serving") return defer(item);
    const { message } = item;
    const walletId = addressee(message);
    const shard = shardOf(walletId);
    if (!shards.serves(shard)) {
      const isAwaited = shards.awaits(shard);
      if (isAwaited && waiting.length < LIMITS.laneBacklogMax) waiting.push(item);
      else refuse(item, isAwaited ? "overloaded" : "unavailable");
      return;
    }
    if (message.type === "command" && message.command.proposedId && item.creationKey === null) {
      const found = creations.enter(item, message);
      if (found !== null) deliver(found);
      return;
    }
    if (damages.waits(walletId, nowMs)) return refuse(item, "unavailable");
    const actor = actors.actorOf(walletId, shard);
    actor.lastUsedMs = nowMs;
    if (!actor.loaded) {
      if (actor.mailbox.length < LIMITS.mailboxMessagesMax) actor.mailbox.push(item);
      else refuse(item, "overloaded");
    } else if (open.items.length >= LIMITS.commitMessagesMax || backlog.length > 0) {
      // Also when there is room again: no message of a wallet overtakes another one of it.
      defer(item);
    } else stepNow(actor, item);
  }

  function defer(item: Item): void {
    if (backlog.length < LIMITS.laneBacklogMax) backlog.push(item);
    else refuse(item, "overloaded");
  }

  function stepNow(actor: Actor, item: Item): void {
    if (holdKeeper.keepsWaiting(actor, item, holdNeededBy(item.message, pending))) return;
    try {
      if (step(context, actor, item) === "dealt") finish(item);
    } catch (error) {
      if (!(error instanceof Damage)) throw error;
      damages.met(error, nowMs);
      // Read again next time: it may be mended by then, and nothing is appended that would tell of
      // it.
      if (actor.uncommitted === 0) actors.drop(actor);
      refuse(item, "unavailable");
    }
  }

  /**
   * Does not deal with a message. A caller is told that nothing happened, or that nobody knows, and
   * asks again; what only its coordinator waits for may be dropped, since that one repeats it.
   */
  function refuse(item: Item, fault: Fault): void {
    const { message } = item;
    const origin = message.type === "ask" || message.type === "asked" ? message.origin : message;
    // Past its deadline nobody waits for the answer, and another owner may have given it.
    if (origin.type === "command" && nowMs < origin.expiresAtMs) {
      answer(origin, { type: "fault", fault: item.inDoubt ? "unknown" : fault });
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

  // ---- recovery of actors -----------------------------------------------------------------------

  /** One read for all wallets that were woken, and one for creations to be resolved. */
  function wake(): void {
    if (mode !== "serving") return;
    resolveCreations();
    holdKeeper.lookUp();
    actors.wake();
  }

  /** Tried again at once, so it is told once until it works. */
  function readFailed(what: string, error: unknown): void {
    if (!isReadFailing) deps.log("warn", `cannot ${what}, trying again: ${String(error)}`);
    isReadFailing = true;
  }

  function readWorked(): void {
    isReadFailing = false;
  }

  function resolveCreations(): void {
    const lookup = creations.lookup();
    if (lookup === null) return;
    journal
      .loadCreated(lookup.keys)
      .then(
        (created) => {
          readWorked();
          again(lookup.resolve(created));
          proceed();
        },
        (error: unknown) => {
          readFailed("look up creations", error);
          lookup.retry();
        },
      )
      .catch(deps.crash);
  }

  // ---- group commit -----------------------------------------------------------------------------

  /** After anything happened: deal with messages between actors here, wake, commit. */
  function advance(): void {
    if (mode === "serving" && backlog.length > 0) again(takeBacklog());
    while (local.length > 0) {
      const batch = local;
      local = [];
      for (const item of batch) deliver(item);
    }
    wake();
    if (mode === "serving" && underWay === null && open.items.length > 0) send();
  }

  /** The same, and lets the effects out that no batch carries. */
  function proceed(): void {
    advance();
    if (hasEffects(outbox)) deps.emit(takeOutbox());
  }

  function send(): void {
    const commit = open;
    underWay = commit;
    open = newCommit();
    journal
      .append(writesOf(commit, shards.epochs))
      .then((result) => conclude(commit, result))
      .catch(deps.crash);
  }

  function conclude(commit: ReturnType<typeof newCommit>, result: AppendResult): void {
    switch (result.type) {
      case "committed":
        committed(commit);
        break;
      case "known":
        again(withKnown(undo(), result.commands, result.verdicts));
        break;
      case "fenced": {
        // Somebody raised the epoch, perhaps this owner: the next claim tells what is still ours.
        // Until then the messages may be with another owner too, so nobody is told that nothing
        // happened.
        deps.log("warn", `epochs of ${result.shards.length} shards were raised, claiming again`);
        mode = "recovering";
        const items = suspected(undo());
        for (const item of items) item.inDoubt = true;
        backlog = [...items, ...backlog];
        shards.recover();
        break;
      }
      case "stale":
        staleCommits += 1;
        deps.log("warn", `a commit met another writer's rows: ${result.reason}`);
        if (staleCommits <= LIMITS.staleCommitsMax) again(suspected(undo()));
        else withoutWallet(result);
        break;
      case "refused":
        mode = "pausing";
        pause(`the database refused a commit: ${result.reason}`);
        backlog = [...undo(), ...backlog];
        break;
      case "unknown": {
        deps.log("warn", `the outcome of a commit is unknown, claiming again: ${result.reason}`);
        const doubtful = new Set(commit.items.flatMap((item) => [item, ...item.followers]));
        mode = "recovering";
        const items = undo();
        for (const item of suspected(items)) if (doubtful.has(item)) item.inDoubt = true;
        backlog = [...items, ...backlog];
        shards.recover();
        break;
      }
      default:
        result satisfies never;
    }
    proceed();
  }

  /**
   * Nobody else writes here, and yet an event is in the way each time: the wallet's row is older
   * than its events.
   */
  function withoutWallet({ reason, walletId }: Extract<AppendResult, { type: "stale" }>): void {
    if (walletId === undefined) throw new Error(`stale again: ${reason}`);
    staleCommits = 0;
    damages.met(new Damage(walletId, "its row is older than its last event"), nowMs);
    for (const item of suspected(undo())) {
      if (addressee(item.message) === walletId) refuse(item, "unavailable");
      else deliver(item);
    }
  }

  function committed(commit: ReturnType<typeof newCommit>): void {
    underWay = null;
    staleCommits = 0;
    pauseMs = 0;
    commits += 1;
    events += commit.events.length;
    for (const actor of commit.actors) actor.uncommitted -= 1;
    holdKeeper.committed(commit);
    const isDriven = ({ transferId }: Transfer): boolean => !commit.atOnce.has(transferId);
    for (const { transferId } of commit.transfers.filter(isDriven)) {
      context.send(postOf(pending.committed(transferId, nowMs)));
    }
    for (const settled of commit.settled.filter(isDriven)) {
      const transfer = pending.settled(settled.transferId);
      for (const waiter of transfer.waiters) {
        answer(waiter, settledOutcome(transfer, settled, waiter));
      }
    }
    append(outbox.replies, commit.replies);
    append(outbox.changes, commit.changes);
    for (const message of commit.messages) context.send(message);
    for (const item of commit.items) {
      if (item.flightKey !== null) inFlight.delete(item.flightKey);
      for (const follower of item.followers) {
        follower.known = outcomeIn(commit, follower.message);
        // Then it was only looked for, and there was none.
        if (follower.known === null) follower.inDoubt = false;
        local.push(follower);
      }
      finish(item);
    }
  }

  /**
   * Takes back both the commit under way and the open one; returns their items, in order, to be
   * dealt with again.
   */
  function undo(): Item[] {
    const items: Item[] = [];
    for (const commit of [underWay, open]) {
      if (commit === null) continue;
      for (const actor of commit.actors) actors.drop(actor);
      const isDriven = ({ transferId }: Transfer): boolean => !commit.atOnce.has(transferId);
      for (const { transferId } of commit.transfers.filter(isDriven)) pending.forget(transferId);
      for (const { transferId } of commit.settled.filter(isDriven)) pending.unsettled(transferId);
      for (const item of commit.items) {
        const { followers } = item;
        item.followers = [];
        items.push(item, ...followers);
      }
    }
    inFlight.clear();
    underWay = null;
    open = newCommit();
    return items;
  }

  function again(items: readonly Item[]): void {
    for (const item of items) deliver(item);
  }

  // ---- what waits, and what is given up ---------------------------------------------------------

  /** Nothing is tried for a while, longer each time until something works. */
  function pause(reason: string): void {
    pauseMs = Math.min(Math.max(pauseMs * 2, LIMITS.journalRetryMs), LIMITS.journalRetryMsMax);
    resumeAtMs = nowMs + pauseMs;
    deps.log("warn", `${reason}; trying again in ${pauseMs} ms`);
  }

  function takeBacklog(): Item[] {
    const items = backlog;
    backlog = [];
    return items;
  }

  function takeWaiting(): Item[] {
    const items = waiting;
    waiting = [];
    return items;
  }

  /** Forgets all that is known of shards; who waits is sent to their next owner. */
  function forget(gone: ReadonlySet<number>): void {
    const isGone = (walletId: string): boolean => gone.has(shardOf(walletId));
    for (const waiter of pending.dropWhere(isGone)) {
      answer(waiter, { type: "fault", fault: "unknown" });
    }
    for (const item of actors.forget(gone)) refuse(item, "unavailable");
    for (const item of [...creations.forget(gone), ...holdKeeper.forget(gone)]) {
      refuse(item, "unavailable");
    }
    for (const item of backlog) if (isGone(addressee(item.message))) creations.reenter(item);
  }

  // ---- time -------------------------------------------------------------------------------------

  function expire(): void {
    if (backlog.length > 0) backlog = backlog.filter(keepUnlessExpired);
    if (waiting.length > 0) waiting = waiting.filter(keepUnlessExpired);
    actors.sift(keepUnlessExpired);
    creations.sift(keepUnlessExpired);
    holdKeeper.sift(keepUnlessExpired);
  }

  function keepUnlessExpired(item: Item): boolean {
    const { message, inDoubt } = item;
    if (message.type !== "command") return true;
    if (inDoubt ? nowMs < message.expiresAtMs : !isExpired(message, nowMs)) return true;
    refuse(item, "unavailable");
    return false;
  }

  function driveTransfers(): void {
    for (const late of pending.due(nowMs)) context.send(postOf(late));
    for (const { pending: transfer, waiter } of pending.impatient(nowMs)) {
      const { transferId, fromWalletId: walletId, fromVersion: version } = transfer.transfer;
      if (transfer.payer === null) {
        answer(waiter, { type: "replayed", walletId, version, transferId });
        continue;
      }
      const pendingAnswer = answerOf(transfer, transfer.payer, "pending", null, null);
      const replayed = waiter !== transfer.first;
      answer(waiter, { type: "transferred", transfer: pendingAnswer, replayed });
    }
  }

  return {
    receive(messages, atMs) {
      nowMs = atMs;
      return new Promise((resolve) => {
        // One more than there are messages, so that the batch carries what its last message caused
        // at once.
        const turn: Turn = { open: messages.length + 1, done: () => resolve(takeOutbox()) };
        for (const message of messages) deliver(newItem(message, turn));
        advance();
        turn.open -= 1;
        if (turn.open === 0) turn.done();
        else if (hasEffects(outbox)) deps.emit(takeOutbox());
      });
    },

    tick(atMs, assigned) {
      nowMs = atMs;
      shards.assign(assigned, nowMs);
      expire();
      if (mode === "recovering") shards.recover();
      if (mode === "pausing" && nowMs >= resumeAtMs) mode = "serving";
      if (mode === "serving") {
        // Some of their shards may have gone to another host before they were claimed.
        again(takeWaiting());
        shards.leave(open, underWay);
        shards.adopt();
      }
      driveTransfers();
      holdKeeper.tidy();
      damages.tidy(nowMs);
      if (mode === "serving") holdKeeper.expire();
      if (nowMs >= nextSweepMs || actors.byWalletId.size > LIMITS.actorsMax) {
        nextSweepMs = nowMs + LIMITS.actorSweepMs;
        actors.passivate(nowMs);
      }
      advance();
      return takeOutbox();
    },

    stats: () => ({
      actors: actors.byWalletId.size,
      backlog: backlog.length + waiting.length,
      pendingTransfers: pending.size,
      damagedWallets: damages.count,
      commits,
      events,
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
