/**
 * A host: owns shards, keeps a thread for each lane, and routes. Main thread only, so it does as little as it can: what the bus
 * brings in one turn of the event loop goes to each lane as one batch, with few batches under way; what lanes give back is sorted by
 * destination and sent. It bounds what is accepted and not answered. A lane's thread that dies is replaced by Piscina; whoever
 * waited for it is told that the outcome is unknown and asks again with the same command id.
 */
import { randomUUID } from "node:crypto";
import { join } from "node:path";
import { Piscina } from "piscina";
import type { Bus, Unsubscribe } from "../src/bus.ts";
import * as clock from "../src/clock.ts";
import { LIMITS } from "../src/limits.ts";
import { packageRoot } from "../src/package-root.ts";
import { buildPostgresJournal } from "../src/postgres-journal.ts";
import {
  addressee,
  SUBJECTS,
  type Change,
  type CommandMessage,
  type Effects,
  type Fault,
  type Reply,
  type ShardMessage,
} from "../src/protocol.ts";
import { ALL_SHARDS, shardOf } from "../src/shard.ts";
import type { WalletState } from "../src/wallet.ts";
import type { LaneStats } from "./lane.ts";
import type { Arrival, LaneNotice, LaneResult, LaneTask, LaneWorkerData } from "./lane-worker.ts";

export interface HostLog {
  info(text: string): void;
  warn(text: string): void;
  fatal(text: string): void;
}

export interface HostDeps {
  readonly bus: Bus;
  readonly databaseUrl: string;
  readonly hostId: string;
  readonly laneCount: number;
  readonly log: HostLog;
  /** A lane cannot be kept alive; the process has to end. */
  readonly onFatal: (reason: string) => void;
}

export interface HostStats {
  readonly owner: string;
  readonly shards: number;
  readonly lanes: ReadonlyArray<LaneStats & { outstanding: number; queued: number }>;
  /** Whether every lane can serve commands now. */
  readonly ready: boolean;
}

export interface Host {
  /** Takes over all shards and begins to serve; waits for the database as long as it takes, or until `drain`. */
  start(): Promise<void>;
  stats(): HostStats;
  /** Takes no more commands, answers those it has (for at most `LIMITS.commandDeadlineMs`), and ends its threads. */
  drain(): Promise<void>;
  /** The lanes' pools, so that a test can kill a thread. */
  readonly pools: readonly Piscina[];
}

interface LaneHandle {
  readonly pool: Piscina;
  readonly shards: readonly number[];
  queue: Arrival[];
  queuedMessages: number;
  queuedBytes: number;
  batchesUnderWay: number;
  isTicking: boolean;
  isFlushing: boolean;
  /** Commands accepted and not answered: per gateway inbox, the number and when it may be forgotten. */
  outstanding: Map<string, Map<number, number>>;
  outstandingCount: number;
  stats: LaneStats | null;
}

/** What a command weighs in the queue besides its texts; an estimate in bytes. */
const COMMAND_BYTES = 512;

export function buildHost(deps: HostDeps): Host {
  const { bus, log } = deps;
  const owner = `${deps.hostId}:${randomUUID()}`;
  const lanes: LaneHandle[] = [];
  const laneOfShard = new Map<number, LaneHandle>();
  const subscriptions = new Map<number, Unsubscribe>();
  let ticker: NodeJS.Timeout | undefined;
  let isDraining = false;

  // ---- in: bus -> lane ----------------------------------------------------------------------------------------------

  function accept(messages: readonly ShardMessage[], shard: number): void {
    const lane = laneOfShard.get(shard);
    if (lane === undefined || !Array.isArray(messages)) return;
    const atMs = clock.nowMs();
    const taken: ShardMessage[] = [];
    for (const message of messages) {
      if (!isFor(message, shard)) {
        log.warn(`something that is no message for shard ${shard} arrived there`);
        continue;
      }
      if (message.type === "command" && isUnderWay(lane, message.inbox, message.seq)) continue;
      const bytes = bytesOf(message);
      const isFull =
        (message.type === "command" && lane.outstandingCount >= LIMITS.laneCommandsMax) ||
        lane.queuedMessages >= LIMITS.laneBacklogMax ||
        lane.queuedBytes + bytes > LIMITS.laneBytesMax;
      if (isFull) {
        refuse(message, "overloaded");
        continue;
      }
      lane.queuedBytes += bytes;
      lane.queuedMessages += 1;
      if (message.type === "command")
        expect(lane, message.inbox, message.seq, atMs + message.budgetMs);
      taken.push(message);
    }
    if (taken.length === 0) return;
    lane.queue.push({ atMs, messages: taken });
    schedule(lane);
  }

  function refuse(message: ShardMessage, fault: Fault): void {
    if (message.type !== "command") return;
    const { inbox, seq } = message;
    const replies: Reply[] = [{ inbox, seq, outcome: { type: "fault", fault } }];
    bus.publish(inbox, replies);
  }

  /** As soon as the bus has handed over what it has, so that all of that travels together. */
  function schedule(lane: LaneHandle): void {
    if (lane.isFlushing || lane.batchesUnderWay >= LIMITS.laneBatchesMax) return;
    lane.isFlushing = true;
    queueMicrotask(() => {
      lane.isFlushing = false;
      flush(lane);
    });
  }

  function flush(lane: LaneHandle): void {
    while (lane.queue.length > 0 && lane.batchesUnderWay < LIMITS.laneBatchesMax) {
      const arrivals: Arrival[] = [];
      let count = 0;
      while (lane.queue.length > 0 && count < LIMITS.laneBatchMessagesMax) {
        const arrival = lane.queue.shift()!;
        count += arrival.messages.length;
        arrivals.push(arrival);
        for (const message of arrival.messages) lane.queuedBytes -= bytesOf(message);
      }
      lane.queuedMessages -= count;
      lane.batchesUnderWay += 1;
      void run(lane, { type: "batch", arrivals }).finally(() => {
        lane.batchesUnderWay -= 1;
        schedule(lane);
      });
    }
  }

  async function run(lane: LaneHandle, task: LaneTask): Promise<void> {
    try {
      const { effects, stats } = (await lane.pool.run(task)) as LaneResult;
      if (stats !== null) lane.stats = stats;
      if (effects !== null) dispatch(lane, effects);
    } catch (error) {
      laneLost(lane, error);
    }
  }

  // ---- out: lane -> bus ---------------------------------------------------------------------------------------------

  function dispatch(lane: LaneHandle, effects: Effects): void {
    const { replies, messages, changes, lost } = effects;
    if (replies.length > 0) {
      for (const { inbox, seq } of replies) forget(lane, inbox, seq);
      for (const [inbox, batch] of grouped(replies, (one) => one.inbox)) {
        for (const part of parts(batch, replyBytes)) bus.publish(inbox, part);
      }
    }
    if (messages.length > 0) {
      for (const [shard, batch] of grouped(messages, (one) => shardOf(addressee(one)))) {
        if (laneOfShard.has(shard)) accept(batch, shard);
        else for (const part of parts(batch, bytesOf)) bus.publish(SUBJECTS.shard(shard), part);
      }
    }
    if (changes.length > 0) announce(changes);
    for (const shard of lost) release(shard);
  }

  function announce(changes: readonly Change[]): void {
    for (const [shard, batch] of grouped(changes, (one) => shardOf(one.wallet.walletId))) {
      for (const part of parts(batch, changeBytes)) bus.publish(SUBJECTS.changes(shard), part);
    }
    for (const change of changes) {
      const { ownerId } = change.wallet;
      if (change.type !== "WalletCreated" || ownerId === null) continue;
      bus.publish(SUBJECTS.owners(shardOf(ownerId)), [change]);
    }
  }

  function release(shard: number): void {
    subscriptions.get(shard)?.();
    subscriptions.delete(shard);
    laneOfShard.delete(shard);
  }

  // ---- outstanding commands -----------------------------------------------------------------------------------------

  function expect(lane: LaneHandle, inbox: string, seq: number, untilMs: number): void {
    let numbers = lane.outstanding.get(inbox);
    if (numbers === undefined) lane.outstanding.set(inbox, (numbers = new Map<number, number>()));
    lane.outstandingCount += 1;
    numbers.set(seq, untilMs);
  }

  /** A copy of a command that the bus repeated must not be answered beside the one that is under way. */
  function isUnderWay(lane: LaneHandle, inbox: string, seq: number): boolean {
    return lane.outstanding.get(inbox)?.has(seq) === true;
  }

  function forget(lane: LaneHandle, inbox: string, seq: number): void {
    if (lane.outstanding.get(inbox)?.delete(seq) === true) lane.outstandingCount -= 1;
  }

  /** Forgets commands whose callers have given up; they are older at the front. */
  function forgetExpired(lane: LaneHandle, nowMs: number): void {
    for (const [inbox, numbers] of lane.outstanding) {
      for (const [seq, untilMs] of numbers) {
        if (untilMs + LIMITS.commandAttemptMs > nowMs) break;
        forget(lane, inbox, seq);
      }
      if (numbers.size === 0) lane.outstanding.delete(inbox);
    }
  }

  /** The thread is gone, and with it everything it had not committed; Piscina starts another. */
  function laneLost(lane: LaneHandle, error: unknown): void {
    if (isDraining) return;
    if (lane.pool.threads.length === 0) {
      deps.onFatal(`a lane cannot be started: ${String(error)}`);
      return;
    }
    if (lane.outstandingCount > 0) {
      log.warn(`a lane ended (${String(error)}); ${lane.outstandingCount} outcomes are unknown`);
    }
    const { outstanding } = lane;
    lane.outstanding = new Map();
    lane.outstandingCount = 0;
    for (const [inbox, numbers] of outstanding) {
      const replies = Array.from(numbers.keys(), (seq): Reply => {
        return { inbox, seq, outcome: { type: "fault", fault: "unknown" } };
      });
      bus.publish(inbox, replies);
    }
  }

  // ---- life ---------------------------------------------------------------------------------------------------------

  function startLane(index: number): LaneHandle {
    const shards = ALL_SHARDS.filter((shard) => shard % deps.laneCount === index);
    const name = `lane-${index}`;
    const workerData: LaneWorkerData = { databaseUrl: deps.databaseUrl, owner, shards, name };
    const pool = new Piscina({
      // A thread needs JavaScript, also when this file itself runs as TypeScript.
      filename: join(packageRoot, "dist", "actors", "lane-worker.js"),
      workerData,
      minThreads: 1,
      maxThreads: 1,
      concurrentTasksPerWorker: LIMITS.laneBatchesMax + 8,
      atomics: "disabled",
      recordTiming: false,
      idleTimeout: Infinity,
    });
    const lane: LaneHandle = {
      pool,
      shards,
      queue: [],
      queuedMessages: 0,
      queuedBytes: 0,
      batchesUnderWay: 0,
      isTicking: false,
      isFlushing: false,
      outstanding: new Map(),
      outstandingCount: 0,
      stats: null,
    };
    pool.on("message", (notice: LaneNotice) => {
      if (notice.type === "effects") dispatch(lane, notice.effects);
      else log[notice.level](`${name}: ${notice.text}`);
    });
    pool.on("error", (error: unknown) => laneLost(lane, error));
    for (const shard of shards) laneOfShard.set(shard, lane);
    return lane;
  }

  async function takeOver(): Promise<void> {
    const journal = buildPostgresJournal(deps.databaseUrl);
    try {
      for (let pauseMs: number = LIMITS.journalRetryMs; !isDraining;) {
        try {
          await journal.claim(owner, ALL_SHARDS, true);
          return;
        } catch (error) {
          log.warn(`cannot take over shards, trying again in ${pauseMs} ms: ${String(error)}`);
          await new Promise((resolve) => setTimeout(resolve, pauseMs));
          pauseMs = Math.min(pauseMs * 2, LIMITS.journalRetryMsMax);
        }
      }
    } finally {
      await journal.close();
    }
  }

  function tickAll(): void {
    const nowMs = clock.nowMs();
    for (const lane of lanes) {
      forgetExpired(lane, nowMs);
      if (lane.isTicking) continue;
      lane.isTicking = true;
      void run(lane, { type: "tick" }).finally(() => {
        lane.isTicking = false;
      });
    }
  }

  return {
    get pools() {
      return lanes.map((lane) => lane.pool);
    },

    async start() {
      await takeOver();
      if (isDraining) return;
      for (let index = 0; index < deps.laneCount; index++) lanes.push(startLane(index));
      tickAll();
      ticker = setInterval(tickAll, LIMITS.laneTickMs);
      for (const shard of ALL_SHARDS) {
        const unsubscribe = bus.subscribe<readonly ShardMessage[]>(
          SUBJECTS.shard(shard),
          (messages) => accept(messages, shard),
        );
        subscriptions.set(shard, unsubscribe);
      }
    },

    stats: () => ({
      owner,
      shards: subscriptions.size,
      lanes: lanes.map((lane) => ({
        ...(lane.stats ?? NO_STATS),
        outstanding: lane.outstandingCount,
        queued: lane.queuedMessages,
      })),
      ready:
        !isDraining &&
        subscriptions.size === ALL_SHARDS.length &&
        lanes.every((lane) => lane.stats !== null && lane.stats.serving),
    }),

    async drain() {
      isDraining = true;
      for (const shard of ALL_SHARDS) {
        subscriptions.get(shard)?.();
        subscriptions.delete(shard);
      }
      const untilMs = clock.nowMs() + LIMITS.commandDeadlineMs;
      const isBusy = (): boolean =>
        lanes.some(
          ({ queue, batchesUnderWay, outstandingCount, stats }) =>
            queue.length > 0 ||
            batchesUnderWay > 0 ||
            (outstandingCount > 0 && stats !== null && stats.pendingTransfers > 0),
        );
      while (isBusy() && clock.nowMs() < untilMs) {
        await new Promise((resolve) => setTimeout(resolve, LIMITS.laneTickMs / 10));
      }
      clearInterval(ticker);
      await Promise.all(
        lanes.map(async (lane) => {
          await lane.pool.run({ type: "stop" } satisfies LaneTask).catch(() => undefined);
          await lane.pool.destroy();
        }),
      );
    },
  };
}

const NO_STATS: LaneStats = {
  actors: 0,
  backlog: 0,
  pendingTransfers: 0,
  commits: 0,
  events: 0,
  serving: false,
};

/**
 * Whether a message has the parts that routing needs. Whoever may publish on the shards' subjects is trusted with money
 * (docs/operations.md); this only keeps a stray message from ending a lane.
 */
function isFor(message: ShardMessage, shard: number): boolean {
  if (typeof message !== "object" || message === null) return false;
  switch (message.type) {
    case "command":
      return isCommand(message) && shardOf(message.command.walletId) === shard;
    case "ask":
    case "asked":
      return isCommand(message.origin) && isAddressedTo(message, shard);
    case "post":
      return typeof message.step?.transferId === "string" && isAddressedTo(message, shard);
    case "verdict":
      return typeof message.transferId === "string" && isAddressedTo(message, shard);
    default:
      return false;
  }
}

function isAddressedTo({ walletId }: { walletId: string }, shard: number): boolean {
  return typeof walletId === "string" && shardOf(walletId) === shard;
}

function isCommand(message: CommandMessage): boolean {
  const { inbox, seq, budgetMs, command } = message ?? {};
  return (
    typeof inbox === "string" &&
    typeof seq === "number" &&
    typeof budgetMs === "number" &&
    typeof command?.walletId === "string" &&
    typeof command.commandId === "string" &&
    typeof command.body?.type === "string"
  );
}

/** Most bytes that one UTF-16 unit of a text takes in a bus message. */
const BYTES_PER_UNIT = 6;

function bytesOf(message: ShardMessage): number {
  if (message.type === "ask" || message.type === "asked") return bytesOf(message.origin) * 2;
  if (message.type === "verdict") return COMMAND_BYTES + walletBytes(message.payee);
  if (message.type === "post") return COMMAND_BYTES + textBytes(message.description);
  const { description, metadata, body } = message.command;
  const own = body.type === "create" ? textBytes(body.metadata) : 0;
  return COMMAND_BYTES + textBytes(description) + textBytes(metadata) + own;
}

function replyBytes({ outcome }: Reply): number {
  if (outcome.type === "done") return walletBytes(outcome.wallet);
  if (outcome.type !== "transferred") return COMMAND_BYTES;
  return walletBytes(outcome.transfer.from) + walletBytes(outcome.transfer.to);
}

function changeBytes({ wallet, description }: Change): number {
  return walletBytes(wallet) + textBytes(description);
}

function walletBytes(wallet: WalletState | null): number {
  return wallet === null ? 0 : COMMAND_BYTES * 2 + textBytes(wallet.metadata);
}

function textBytes(text: string | null): number {
  return text === null ? 0 : text.length * BYTES_PER_UNIT;
}

/** A batch in parts that each fit one bus message. */
function parts<T>(batch: readonly T[], bytesOfOne: (one: T) => number): T[][] {
  const all: T[][] = [];
  let part: T[] = [];
  let bytes = 0;
  for (const one of batch) {
    const more = bytesOfOne(one);
    if (part.length > 0 && bytes + more > LIMITS.busMessageBytesMax) {
      all.push(part);
      part = [];
      bytes = 0;
    }
    part.push(one);
    bytes += more;
  }
  all.push(part);
  return all;
}

function grouped<T, K>(items: readonly T[], key: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>();
  for (const item of items) {
    const name = key(item);
    const group = groups.get(name);
    if (group === undefined) groups.set(name, [item]);
    else group.push(item);
  }
  return groups;
}
