/**
 * The command desk: asks the owners of shards to carry out commands, and stays with each until its
 * answer or its deadline. It hides batching (what one event-loop turn brings for a shard travels as
 * one message, at most `LIMITS.commandBatchMax` at once), owners that are away for a moment, lost
 * and repeated messages, and clocks. It is the place where outcomes stay honest: each sending of a
 * command is remembered as one bit, set while that sending may have done something, and only when
 * no bit is set is the answer "nothing happened". One sweep serves all deadlines and pauses; a
 * command costs one entry, one promise and no timer.
 *
 *     queued --flush--> sent --reply--> answered
 *       ^                |
 *       |                +--reached nobody, unavailable, unknown--> paused
 *       +--no reply within commandAttemptMs-----+                     |
 *       +--------------------------pause over-------------------------+
 *
 * queued: waits for the end of this event-loop turn. sent: a reply may come. paused: sent again
 * later. answered: forgotten; from every state, at the latest at the deadline, as `unknown` if a
 * bit is set and else as `unavailable`. A reply to any sending answers, in every state.
 *
 * A host's refusal speaks for the copy that it got. It clears the bit only where there is no other:
 * on a bus that does not deliver once, a superseded host may have received the command beside its
 * owner, or the owner may get it again when it has room, long after the deadline. What such a
 * refusal is good for there is the commands that come next: if it names a shard as full, those for
 * that one, and transfers to it, are `overloaded` here for a moment, before they are sent anywhere.
 */
import type { Bus } from "../src/core/bus.ts";
import type { Time } from "../src/clock.ts";
import { LIMITS } from "../src/limits.ts";
import type { CommandMeter } from "../src/telemetry/metrics.ts";
import { SUBJECTS } from "../src/core/protocol.ts";
import type { Command, CommandMessage, Fault, Outcome, Reply } from "../src/core/protocol.ts";
import { shardOf } from "../src/core/shard.ts";
import { buildTransitMap } from "../src/transit-map.ts";
import { payeeOf } from "../src/core/wallet.ts";

export interface CommandDesk {
  /** Never rejects; answers within `LIMITS.commandDeadlineMs`. */
  submit(command: Command): Promise<Outcome>;
  /** Commands without an answer yet. */
  readonly pending: number;
  /**
   * Refuses new commands as `unavailable`, resolves when all others are answered. Later calls get
   * the same promise.
   */
  drain(): Promise<void>;
}

export interface CommandDeskOptions {
  readonly bus: Bus;
  /** Names this gateway's inbox; different in every process and after every restart. */
  readonly gatewayId: string;
  /** Milliseconds that never go back; from where they count does not matter. */
  readonly clock?: { nowMs(): number };
  /** Default: the system's, whose sweeps come after what the process has received. */
  readonly schedule?: Pick<Time, "soon" | "every">;
  readonly log?: { warn(details: object, message: string): void };
  /** Without one nothing is counted. */
  readonly meter?: CommandMeter;
}

type State = "queued" | "sent" | "paused" | "answered";

interface Entry {
  readonly number: number;
  readonly command: Command;
  readonly shard: number;
  readonly submittedAtMs: number;
  readonly resolve: (outcome: Outcome) => void;
  state: State;
  /** Times it was sent; the sending n, counted from 0, is bit n of `doubt`. */
  sendings: number;
  doubt: number;
  /** Times its owner may have ended over it: sendings without an answer, or answered as unknown. */
  losses: number;
  /** When it was sent last; while paused, when it goes again. */
  atMs: number;
  pauseMs: number;
}

type FaultOutcome = Extract<Outcome, { type: "fault" }>;

/** Sequence numbers carry which command and which sending of it: `number * SENDINGS + sending`. */
const SENDINGS = 32;

const UNAVAILABLE: Outcome = { type: "fault", fault: "unavailable" };
const OVERLOADED: Outcome = { type: "fault", fault: "overloaded" };
const UNKNOWN: Outcome = { type: "fault", fault: "unknown" };

const systemClock = { nowMs: () => performance.now() };
const systemSchedule: Pick<Time, "soon" | "every"> = {
  soon: (task) => void setImmediate(task),
  every(intervalMs, task) {
    // In a process that had no time, timers come before what it has received and not read, and the
    // bus takes a turn of its own to hand that over.
    const soon = (): void => void setImmediate(() => setImmediate(task));
    const timer = setInterval(soon, intervalMs).unref();
    return () => clearInterval(timer);
  },
};

/**
 * Bytes of one command's message around its texts; each UTF-16 unit of a text becomes at most six
 * bytes of JSON.
 */
const MESSAGE_BYTES = 600;
const BYTES_PER_UNIT = 6;

function estimateBytes({
  commandId,
  correlationId,
  walletId,
  description,
  metadata,
  body,
}: Command): number {
  let units = commandId.length + correlationId.length + walletId.length;
  if (description !== null) units += description.length;
  if (metadata !== null) units += metadata.length;
  if (body.type === "create") units += body.metadata.length + (body.ownerId?.length ?? 0);
  if (body.type === "update") units += body.patch.length;
  if (body.type === "transfer") units += body.toWalletId.length;
  // The wallet's id is made of both.
  if ("of" in body && body.of !== undefined) units += walletId.length;
  return MESSAGE_BYTES + units * BYTES_PER_UNIT;
}

/** Builds the desk and subscribes its inbox. */
export function buildCommandDesk(options: CommandDeskOptions): CommandDesk {
  const { bus, gatewayId, clock = systemClock, schedule = systemSchedule, log, meter } = options;
  const inbox = SUBJECTS.inbox(gatewayId);
  /** By number: in the order of submission, which is the order of deadlines. */
  const entries = buildTransitMap<number, Entry>();
  /** What this turn has to send, by shard. */
  let outboxes = new Map<number, Entry[]>();
  /** Until when new commands for a shard are refused at the door, as its owner had no room. */
  const fullUntilMs = new Map<number, number>();
  let paused: Entry[] = [];
  let lastNumber = 0;
  /** Commands in the outboxes. */
  let queued = 0;
  let drained: Promise<void> | undefined;
  let onEmpty: (() => void) | undefined;

  // One executor for all promises: a closure per command would be the desk's largest allocation.
  let resolveNext: (outcome: Outcome) => void;
  const executor = (resolve: (outcome: Outcome) => void): void => {
    resolveNext = resolve;
  };

  // --- Sending ---

  function enqueue(entry: Entry): void {
    entry.state = "queued";
    const { shard } = entry;
    const outbox = outboxes.get(shard);
    // Mostly there is one: a list that begins with it has no room for sixteen more.
    if (outbox === undefined) outboxes.set(shard, [entry]);
    else outbox.push(entry);
    queued += 1;
    if (queued >= LIMITS.commandBatchMax) flush();
    else if (queued === 1) schedule.soon(flush);
  }

  function flush(): void {
    queued = 0;
    const nowMs = clock.nowMs();
    const filled = outboxes;
    outboxes = new Map();
    for (const [shard, outbox] of filled) {
      // What was answered meanwhile stays here.
      send(shard, outbox.every(isQueued) ? outbox : outbox.filter(isQueued), nowMs);
    }
  }

  function send(shard: number, batch: readonly Entry[], nowMs: number): void {
    let from = 0;
    let bytes = 0;
    for (let index = 0; index < batch.length; index++) {
      const more = estimateBytes(batch[index]!.command);
      if (bytes + more > LIMITS.busMessageBytesMax) {
        publish(shard, batch.slice(from, index), nowMs);
        from = index;
        bytes = 0;
      }
      bytes += more;
    }
    publish(shard, from === 0 ? batch : batch.slice(from), nowMs);
  }

  function messageOf(entry: Entry, nowMs: number): CommandMessage {
    const sending = entry.sendings;
    entry.state = "sent";
    entry.sendings = sending + 1;
    entry.doubt |= 1 << sending;
    entry.atMs = nowMs;
    return {
      type: "command",
      inbox,
      seq: entry.number * SENDINGS + sending,
      attempt: sending + 1,
      budgetMs: Math.max(0, Math.round(entry.submittedAtMs + LIMITS.commandDeadlineMs - nowMs)),
      expiresAtMs: 0,
      command: entry.command,
    };
  }

  function publish(shard: number, batch: readonly Entry[], nowMs: number): void {
    if (batch.length === 0) return;
    const messages = batch.map((entry) => messageOf(entry, nowMs));
    bus.publish(SUBJECTS.shard(shard), messages, () => {
      for (let index = 0; index < batch.length; index++) {
        takeBack(batch[index]!, messages[index]!.seq % SENDINGS);
      }
    });
  }

  /** This sending reached nobody. */
  function takeBack(entry: Entry, sending: number): void {
    ruleOut(entry, sending);
    // An older sending's fate says nothing about a newer one that is under way.
    if (entry.state === "sent" && sending === entry.sendings - 1) pause(entry);
  }

  function ruleOut(entry: Entry, sending: number): void {
    entry.doubt &= ~(1 << sending);
  }

  function pause(entry: Entry): void {
    entry.state = "paused";
    entry.atMs = clock.nowMs() + entry.pauseMs;
    entry.pauseMs = Math.min(entry.pauseMs * 2, LIMITS.commandRetryPauseMsMax);
    paused.push(entry);
  }

  // --- Answers ---

  function answer(entry: Entry, outcome: Outcome): void {
    entry.state = "answered";
    entries.delete(entry.number);
    meter?.answered(entry.command.body.type, outcome, clock.nowMs() - entry.submittedAtMs);
    entry.resolve(outcome);
    if (entries.size === 0) onEmpty?.();
  }

  function takeReplies(replies: readonly Reply[]): void {
    if (!Array.isArray(replies)) {
      log?.warn({ inbox }, "something that is no list of replies arrived in the inbox");
      return;
    }
    for (const reply of replies) {
      if (isReply(reply)) takeReply(reply);
    }
  }

  function takeReply({ seq, outcome }: Reply): void {
    const entry = entries.get(Math.floor(seq / SENDINGS));
    if (entry === undefined) return;
    const sending = seq % SENDINGS;
    if (sending >= entry.sendings) return;
    if (outcome.type === "fault") takeFault(entry, sending, outcome);
    else answer(entry, outcome);
  }

  function takeFault(entry: Entry, sending: number, { fault, fullShard }: FaultOutcome): void {
    const isLatest = sending === entry.sendings - 1;
    if (fault === "unknown") entry.losses += 1;
    else if (bus.deliversOnce) ruleOut(entry, sending);
    else if (fault === "overloaded" && fullShard !== undefined) {
      fullUntilMs.set(fullShard, clock.nowMs() + LIMITS.commandShedMs);
    }
    if (entry.doubt === 0 && fault === "overloaded") {
      answer(entry, OVERLOADED);
    } else if (entry.state === "sent" && isLatest) {
      pause(entry);
    }
  }

  // --- Time ---

  function sweep(): void {
    const nowMs = clock.nowMs();
    for (const [, entry] of entries) {
      const ageMs = nowMs - entry.submittedAtMs;
      // All that follow are younger, so none of them can be late either.
      if (ageMs < LIMITS.commandAttemptMs) break;
      if (ageMs >= LIMITS.commandDeadlineMs) giveUp(entry);
      else if (entry.state === "sent" && nowMs - entry.atMs >= LIMITS.commandAttemptMs) {
        entry.losses += 1;
        again(entry);
      }
    }
    if (paused.length === 0) return;
    const waiting = paused;
    paused = [];
    for (const entry of waiting) {
      if (entry.state !== "paused") continue;
      if (nowMs < entry.atMs) paused.push(entry);
      else again(entry);
    }
  }

  function again(entry: Entry): void {
    if (entry.losses >= LIMITS.commandLossesMax) {
      // It may be the command itself that brings its owners down.
      giveUp(entry);
    } else if (entry.sendings < LIMITS.commandSendsMax) {
      meter?.resent();
      enqueue(entry);
    } else {
      entry.state = "sent";
    }
  }

  function giveUp(entry: Entry): void {
    answer(entry, entry.doubt === 0 ? UNAVAILABLE : UNKNOWN);
  }

  /** Its wallet's shard or its payee's is full; a repeat that its payer could answer waits, too. */
  function meetsFullShard(shard: number, { body }: Command): boolean {
    if (isFull(shard)) return true;
    const payee = payeeOf(body);
    return payee !== null && isFull(shardOf(payee));
  }

  function isFull(shard: number): boolean {
    const untilMs = fullUntilMs.get(shard);
    if (untilMs === undefined) return false;
    if (clock.nowMs() < untilMs) return true;
    fullUntilMs.delete(shard);
    return false;
  }

  /** Refuses at the door what never becomes an entry. */
  function refuse({ body }: Command, outcome: Outcome): Promise<Outcome> {
    meter?.answered(body.type, outcome, 0);
    return Promise.resolve(outcome);
  }

  // --- The desk's own life ---

  const stopSweeping = schedule.every(LIMITS.commandSweepMs, sweep);
  const unsubscribe = bus.subscribe<readonly Reply[]>(inbox, takeReplies);
  // Replies and commands may have been lost while the bus was away; the same ids again are
  // harmless.
  const unlisten = bus.onReconnect(() => {
    for (const [, entry] of entries) if (entry.state === "sent") again(entry);
  });

  function close(): void {
    stopSweeping();
    unsubscribe();
    unlisten();
  }

  return {
    submit(command) {
      if (drained !== undefined) return refuse(command, UNAVAILABLE);
      if (entries.size >= LIMITS.gatewayCommandsMax) return refuse(command, OVERLOADED);
      const shard = shardOf(command.walletId);
      if (fullUntilMs.size > 0 && meetsFullShard(shard, command))
        return refuse(command, OVERLOADED);
      const promise = new Promise<Outcome>(executor);
      const entry: Entry = {
        number: ++lastNumber,
        command,
        shard,
        submittedAtMs: clock.nowMs(),
        resolve: resolveNext,
        state: "queued",
        sendings: 0,
        doubt: 0,
        losses: 0,
        atMs: 0,
        pauseMs: LIMITS.commandRetryPauseMs,
      };
      entries.set(entry.number, entry);
      enqueue(entry);
      return promise;
    },
    get pending() {
      return entries.size;
    },
    drain() {
      drained ??= (
        entries.size === 0
          ? Promise.resolve()
          : new Promise<void>((resolve) => {
              onEmpty = resolve;
            })
      ).then(close);
      return drained;
    },
  };
}

function isQueued({ state }: Entry): boolean {
  return state === "queued";
}

const FAULTS = new Set<unknown>(["unavailable", "overloaded", "unknown"] satisfies Fault[]);

/** NATS carries what anybody publishes; a reply that lacks its parts must not stop the others. */
function isReply(reply: unknown): reply is Reply {
  if (!isObject(reply) || !Number.isSafeInteger(reply["seq"])) return false;
  const outcome = reply["outcome"];
  if (!isObject(outcome)) return false;
  switch (outcome["type"] as Outcome["type"]) {
    case "done":
      return isObject(outcome["wallet"]);
    case "transferred":
      return isObject(outcome["transfer"]);
    case "replayed":
      return typeof outcome["walletId"] === "string" && Number.isSafeInteger(outcome["version"]);
    case "rejected":
      return isObject(outcome["rejection"]);
    case "fault":
      return FAULTS.has(outcome["fault"]) && isShardOrNone(outcome["fullShard"]);
    default:
      return false;
  }
}

function isShardOrNone(value: unknown): boolean {
  if (value === undefined) return true;
  return Number.isInteger(value) && Number(value) >= 0 && Number(value) < LIMITS.shardCount;
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null;
}
