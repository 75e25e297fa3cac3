/**
 * The host's side of one lane: what waits for it, which commands it has, and which shards it is told
 * to serve. It bounds the queue by count and bytes, keeps few batches under way, and answers for a
 * thread that died: whoever waited for it is told that the outcome is unknown and asks again with
 * the same command id. What a gateway asks again while the lane still has it waits here for the
 * answer of the first: a lane that is slow gets no second copy of its work. A command that has left
 * with a question to another lane is not waited for here: whoever refuses it there answers its
 * caller, and it may be lost; the answer brings it back.
 */
import { monotonicMs, type Time } from "../src/clock.ts";
import { LIMITS } from "../src/limits.ts";
import type { HostMeter } from "../src/telemetry/metrics.ts";
import {
  addressee,
  type CommandMessage,
  type Effects,
  type Outcome,
  type Reply,
  type ShardMessage,
} from "../src/core/protocol.ts";
import { shardOf } from "../src/core/shard.ts";
import type { LaneStats } from "./lane.ts";
import type { Arrival, LanePlan, LaneTask, LaneThread, StartLane } from "./lane-thread.ts";
import { bytesOf, commandIn, commandToDecide } from "./messages.ts";

export interface LaneGateDeps {
  readonly plan: LanePlan;
  readonly startLane: StartLane;
  readonly time: Pick<Time, "nowMs" | "after">;
  readonly log: Record<"info" | "warn" | "error" | "fatal", (text: string) => void>;
  readonly meter?: HostMeter | undefined;
  /** Takes what the lane gives back. */
  readonly dispatch: (effects: Effects) => void;
  /** Takes replies that the gate itself gives, of one inbox each time. */
  readonly reply: (replies: readonly Reply[]) => void;
  /** Takes shards that the lane has nothing of any more, after they were unassigned. */
  readonly onLeft: (shards: readonly number[]) => void;
  /** The thread cannot be started, or says that the process has to end. */
  readonly onFatal: (reason: string) => void;
}

export interface LaneGate {
  readonly plan: LanePlan;
  /** Queues what there is room for, and answers for the rest. */
  accept(messages: readonly ShardMessage[]): void;
  /** Tells the lane to serve this shard, too. Messages for it may follow at once. */
  assign(shard: number): void;
  /** Tells the lane to finish with this shard; `onLeft` follows. */
  unassign(shard: number): void;
  /** Tells the lane the time. Called every `LIMITS.laneTickMs`. */
  tick(): void;
  /** As of the last tick; null before the first. */
  readonly stats: LaneStats | null;
  /** Whether the lane serves everything that is assigned to it now. */
  readonly isServing: boolean;
  readonly assigned: ReadonlySet<number>;
  readonly outstanding: number;
  readonly queued: number;
  /** Whether something is queued, under way, or waits for the verdict on a transfer. */
  readonly isBusy: boolean;
  stop(): Promise<void>;
}

const NOTHING_DONE: Outcome = { type: "fault", fault: "unavailable" };

interface OpenArrival extends Arrival {
  readonly messages: ShardMessage[];
}

export function buildLaneGate(deps: LaneGateDeps): LaneGate {
  const { plan, time, log, meter } = deps;
  const assigned = new Set<number>();
  const leaving = new Set<number>();
  /** Commands that the lane has: per gateway inbox, the number and when it may be forgotten. */
  let outstanding = new Map<string, Map<number, number>>();
  let outstandingCount = 0;
  /** Later sendings of these, which the lane does not get: per inbox, by the number that it has. */
  const repeats = new Map<string, Map<number, number[]>>();
  const queue: Arrival[] = [];
  /** The last one in the queue, as long as more may arrive together with it. */
  let arriving: OpenArrival | null = null;
  let queuedMessages = 0;
  let queuedBytes = 0;
  let batchesUnderWay = 0;
  let ticking: "no" | "yes" | "again" = "no";
  let isFlushing = false;
  let isStopping = false;
  let stats: LaneStats | null = null;
  /** The lane has not yet said how it stands with all that is assigned. */
  let isNewsDue = true;

  const thread: LaneThread = deps.startLane(plan, {
    notice(notice) {
      if (notice.type === "effects") giveBack(notice.effects);
      else if (notice.type === "fatal") deps.onFatal(`${plan.name}: ${notice.reason}`);
      else log[notice.level](`${plan.name}: ${notice.text}`);
    },
    lost: threadLost,
  });

  // ---- queue ------------------------------------------------------------------------------------

  function accept(messages: readonly ShardMessage[]): void {
    for (const message of messages) {
      // Too late: the lane would drop it without a word, and nothing would end the wait for it.
      if (message.type === "asked" && time.nowMs() >= message.origin.expiresAtMs) continue;
      // Nobody waits for the command of a question until the answer brings it back.
      const command = commandToDecide(message);
      // A copy of a command that the bus repeated must not be answered beside the one that is under
      // way.
      if (command !== null && outstanding.get(command.inbox)?.has(command.seq) === true) continue;
      if (message.type === "command" && message.attempt > 1 && isRepeat(message)) continue;
      const bytes = bytesOf(message);
      const isFull =
        (command !== null && outstandingCount >= LIMITS.laneCommandsMax) ||
        queuedMessages >= LIMITS.laneBacklogMax ||
        queuedBytes + bytes > LIMITS.laneBytesMax;
      if (isFull) {
        refuse(message);
        continue;
      }
      queuedBytes += bytes;
      queuedMessages += 1;
      arriving ??= beginArrival();
      if (command !== null) expect(command, endOf(message, command, arriving.atMs));
      arriving.messages.push(message);
      // Arrivals stay whole, so their size is how far a batch may go beyond its own.
      if (arriving.messages.length >= LIMITS.commandBatchMax) arriving = null;
    }
  }

  /**
   * The bus has a message for each shard, so that what it hands over in one go is mostly of one
   * command each; together they cost one look at the clocks and one list.
   */
  function beginArrival(): OpenArrival {
    const atMs = time.nowMs();
    const arrival: OpenArrival =
      meter === undefined
        ? { atMs, messages: [] }
        : { atMs, messages: [], arrivedAtMs: monotonicMs() };
    queue.push(arrival);
    schedule();
    return arrival;
  }

  /** What only its coordinator waits for may be dropped, since that one repeats it. */
  function refuse(message: ShardMessage): void {
    const command = commandIn(message);
    if (command === null) return;
    const { inbox, seq, budgetMs } = command;
    // Past its deadline nobody waits, and another owner may have answered. A command has none yet,
    // as its lane sets it, an answer was looked at already, and a question's is by the clock of the
    // lane that asks: what was left of it when it was sent is what counts here.
    if (message.type === "ask" && budgetMs <= 0) return;
    const fullShard = shardOf(addressee(message));
    deps.reply([{ inbox, seq, outcome: { type: "fault", fault: "overloaded", fullShard } }]);
  }

  /** As soon as the bus has handed over what it has, so that all of that travels together. */
  function schedule(): void {
    if (isFlushing) return;
    isFlushing = true;
    queueMicrotask(() => {
      isFlushing = false;
      arriving = null;
      flush();
    });
  }

  function flush(): void {
    while (queue.length > 0 && batchesUnderWay < LIMITS.laneBatchesMax) {
      const arrivals: Arrival[] = [];
      let count = 0;
      while (queue.length > 0 && count < LIMITS.laneBatchMessagesMax) {
        const arrival = queue.shift()!;
        count += arrival.messages.length;
        arrivals.push(arrival);
        for (const message of arrival.messages) queuedBytes -= bytesOf(message);
      }
      queuedMessages -= count;
      batchesUnderWay += 1;
      meter?.batch(count);
      void run({ type: "batch", arrivals }).finally(() => {
        batchesUnderWay -= 1;
        schedule();
      });
    }
  }

  /** Never rejects: a thread that ended is told of by `lost`. */
  async function run(task: LaneTask): Promise<void> {
    try {
      const result = await thread.run(task);
      if (result.effects !== null) giveBack(result.effects);
      if (result.stats !== null) takeStats(result.stats, task);
      if (result.measures !== undefined) meter?.measured(plan.name, result.measures);
    } catch {
      // Nothing came back.
    }
  }

  // ---- shards and time --------------------------------------------------------------------------

  function tick(): void {
    if (ticking !== "no") {
      ticking = "again";
      return;
    }
    ticking = "yes";
    forgetExpired(time.nowMs());
    void run({ type: "tick", shards: [...assigned] }).finally(() => {
      const isDue = ticking === "again";
      ticking = "no";
      if (isStopping) return;
      if (isDue) tick();
      else if (leaving.size > 0) time.after(LIMITS.drainPollMs, tick);
    });
  }

  function takeStats(latest: LaneStats, task: LaneTask): void {
    stats = latest;
    if (task.type !== "tick") return;
    const told = new Set(task.shards);
    isNewsDue = [...assigned].some((shard) => !told.has(shard));
    if (leaving.size === 0) return;
    const left = [...leaving].filter((shard) => !told.has(shard) && !latest.shards.includes(shard));
    if (left.length === 0) return;
    for (const shard of left) leaving.delete(shard);
    deps.onLeft(left);
  }

  // ---- outstanding commands ---------------------------------------------------------------------

  function expect({ inbox, seq }: CommandMessage, untilMs: number): void {
    let numbers = outstanding.get(inbox);
    if (numbers === undefined) outstanding.set(inbox, (numbers = new Map<number, number>()));
    outstandingCount += 1;
    numbers.set(seq, untilMs);
  }

  /** When its caller gives up; a command that comes back has had part of its time already. */
  function endOf(message: ShardMessage, command: CommandMessage, atMs: number): number {
    const endMs = atMs + command.budgetMs;
    return message.type === "asked" ? Math.min(endMs, command.expiresAtMs) : endMs;
  }

  /**
   * Whether the lane has an earlier sending of this command. Then its answer is this one's, too: a
   * lane that is slow would only become slower by what its callers ask twice.
   */
  function isRepeat({ inbox, seq, attempt }: CommandMessage): boolean {
    const numbers = outstanding.get(inbox);
    if (numbers === undefined) return false;
    const first = seq - Math.min(attempt, LIMITS.commandSendsMax) + 1;
    for (let earlier = first; earlier < seq; earlier++) {
      if (!numbers.has(earlier)) continue;
      const ofInbox = repeats.get(inbox) ?? new Map<number, number[]>();
      repeats.set(inbox, ofInbox);
      const later = ofInbox.get(earlier);
      if (later === undefined) ofInbox.set(earlier, [seq]);
      else if (!later.includes(seq)) later.push(seq);
      return true;
    }
    return false;
  }

  function takeRepeats(inbox: string, seq: number): readonly number[] {
    const ofInbox = repeats.get(inbox);
    const later = ofInbox?.get(seq);
    if (ofInbox === undefined || later === undefined) return [];
    ofInbox.delete(seq);
    if (ofInbox.size === 0) repeats.delete(inbox);
    return later;
  }

  /**
   * A sending that the lane did not get has done nothing, whatever became of the one that it had.
   * An outcome needs no second word.
   */
  function answerRepeats(inbox: string, seq: number, outcome: Outcome): void {
    if (repeats.size === 0) return;
    const later = takeRepeats(inbox, seq);
    if (later.length === 0 || outcome.type !== "fault") return;
    const theirs = outcome.fault === "unknown" ? NOTHING_DONE : outcome;
    deps.reply(later.map((number): Reply => ({ inbox, seq: number, outcome: theirs })));
  }

  /** A reply ends what it answers, and a question or its answer takes its command along. */
  function giveBack(effects: Effects): void {
    for (const { inbox, seq } of effects.replies) forget(inbox, seq);
    for (const message of effects.messages) {
      const command = commandIn(message);
      if (command !== null) forget(command.inbox, command.seq);
    }
    deps.dispatch(effects);
    if (repeats.size === 0) return;
    for (const { inbox, seq, outcome } of effects.replies) answerRepeats(inbox, seq, outcome);
    for (const message of effects.messages) {
      const command = commandIn(message);
      // It may be lost on its way; what is sent again meanwhile goes beside it.
      if (command !== null) answerRepeats(command.inbox, command.seq, NOTHING_DONE);
    }
  }

  function forget(inbox: string, seq: number): void {
    if (outstanding.get(inbox)?.delete(seq) === true) outstandingCount -= 1;
  }

  /**
   * Forgets commands whose callers have given up. They are older at the front, but for some that
   * came back: those wait for the ones in front of them, at most a command's time.
   */
  function forgetExpired(nowMs: number): void {
    for (const [inbox, numbers] of outstanding) {
      for (const [seq, untilMs] of numbers) {
        if (untilMs + LIMITS.commandAttemptMs > nowMs) break;
        forget(inbox, seq);
        takeRepeats(inbox, seq);
      }
      if (numbers.size === 0) outstanding.delete(inbox);
    }
  }

  /** The thread is gone, and with it everything it had not committed. */
  function threadLost(reason: string, isReplaced: boolean): void {
    if (isStopping) return;
    meter?.laneLost(plan.name);
    if (!isReplaced) {
      deps.onFatal(`${plan.name} cannot be started: ${reason}`);
      return;
    }
    if (outstandingCount > 0) {
      log.warn(`${plan.name} ended (${reason}); ${outstandingCount} outcomes are unknown`);
    }
    const unanswered = outstanding;
    outstanding = new Map();
    outstandingCount = 0;
    for (const [inbox, numbers] of unanswered) {
      const replies = Array.from(numbers.keys(), (seq): Reply => {
        return { inbox, seq, outcome: { type: "fault", fault: "unknown" } };
      });
      if (replies.length > 0) deps.reply(replies);
      for (const { seq, outcome } of replies) answerRepeats(inbox, seq, outcome);
    }
    // The new thread knows nothing of its shards.
    isNewsDue = true;
    tick();
  }

  return {
    plan,
    accept,
    assign(shard) {
      leaving.delete(shard);
      assigned.add(shard);
      isNewsDue = true;
    },
    unassign(shard) {
      if (assigned.delete(shard)) leaving.add(shard);
    },
    tick,
    get stats() {
      return stats;
    },
    get isServing() {
      return !isNewsDue && stats?.serving === true;
    },
    assigned,
    get outstanding() {
      return outstandingCount;
    },
    get queued() {
      return queuedMessages;
    },
    get isBusy() {
      const isWaiting = outstandingCount > 0 && (stats?.pendingTransfers ?? 0) > 0;
      return queue.length > 0 || batchesUnderWay > 0 || isWaiting;
    },
    async stop() {
      isStopping = true;
      await run({ type: "stop" });
      await thread.destroy();
    },
  };
}
