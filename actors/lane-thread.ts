/**
 * The thread port: what a host asks of a lane, as plain data that crosses threads.
 * `piscina-lanes.ts` runs each lane on a thread of its own; a simulator runs them in its own. A
 * thread may end at any moment and be replaced by an empty one: the host is told, and says again
 * with every tick which shards the lane has to serve.
 */
import type { LaneMeasures } from "../src/telemetry/measures.ts";
import type { Effects, ShardMessage } from "../src/core/protocol.ts";
import type { LaneStats } from "./lane.ts";

/** Messages that arrived at the host together. */
export interface Arrival {
  readonly atMs: number;
  /** The same moment by `monotonicMs`, when the host is measured. */
  readonly arrivedAtMs?: number;
  readonly messages: readonly ShardMessage[];
}

/**
 * The messages in their order, each command with the moment at which it is over; they are the
 * copies that crossed, so nobody else sees the change.
 */
export function stamped(arrivals: readonly Arrival[]): ShardMessage[] {
  const stampedMessages: ShardMessage[] = [];
  for (const { atMs, messages } of arrivals) {
    for (const message of messages) {
      if (message.type === "command") message.expiresAtMs = atMs + message.budgetMs;
      stampedMessages.push(message);
    }
  }
  return stampedMessages;
}

/**
 * Host -> lane, one per run. Answered by `LaneResult`; a run that fails means that the thread is
 * gone.
 */
export type LaneTask =
  | { readonly type: "batch"; readonly arrivals: readonly Arrival[] }
  /** Time passes. `shards`: all that the lane has to serve from now on. */
  | { readonly type: "tick"; readonly shards: readonly number[] }
  | { readonly type: "stop" };

export interface LaneResult {
  readonly effects: Effects | null;
  /** With a tick. */
  readonly stats: LaneStats | null;
  /** With a tick and the stop, of a thread that measures itself. */
  readonly measures?: LaneMeasures;
}

/** Lane -> host, outside any run. */
export type LaneNotice =
  | { readonly type: "effects"; readonly effects: Effects }
  /** Another thread would be of no use: the process has to end. */
  | { readonly type: "fatal"; readonly reason: string }
  | {
      readonly type: "log";
      readonly level: "info" | "warn" | "error" | "fatal";
      readonly text: string;
    };

export interface LaneThread {
  /**
   * Tasks reach the lane in the order of the calls. Rejects when the thread ended before it
   * answered.
   */
  run(task: LaneTask): Promise<LaneResult>;
  /** Ends the thread, whatever it does. */
  destroy(): Promise<void>;
}

export interface LanePlan {
  readonly name: string;
  /** The host's name in the shard table. */
  readonly owner: string;
  /**
   * Which of the databases has the lane's shards: its index in DATABASE_URL. A lane serves shards
   * of one database only.
   */
  readonly database: number;
}

export interface LaneListener {
  notice(notice: LaneNotice): void;
  /** The thread ended and an empty one takes its place (`isReplaced`), or none can be started. */
  lost(reason: string, isReplaced: boolean): void;
}

export type StartLane = (plan: LanePlan, listener: LaneListener) => LaneThread;
