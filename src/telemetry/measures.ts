/**
 * What is measured on the hot path: counts per bucket in plain arrays, so that one observation is
 * an addition and no hashing of labels, and what a lane has measured since its last tick, as data
 * that crosses threads. `metrics.ts` adds it up and shows it to Prometheus. Traded for that: the
 * shape of a histogram is here a second time.
 */
import type { AppendResult } from "../core/journal.ts";

/** Upper bounds of buckets in seconds: from a fraction of an `fsync` to a command's deadline. */
export const SECONDS = [
  0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10,
] as const;

/**
 * Upper bounds of buckets for the size of a batch or a commit, up to `LIMITS.commitMessagesMax`.
 */
export const SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_024, 2_048, 4_096] as const;

/**
 * A histogram in the making. `counts` has one more entry than there are bounds: what is above them
 * all.
 */
export interface Tally {
  readonly counts: number[];
  sum: number;
}

export function newTally(bounds: readonly number[]): Tally {
  return { counts: Array.from({ length: bounds.length + 1 }, () => 0), sum: 0 };
}

/** Counts `value` in the first bucket whose bound it does not exceed, as Prometheus does. */
export function observe(tally: Tally, bounds: readonly number[], value: number): void {
  let index = 0;
  while (index < bounds.length && value > bounds[index]!) index += 1;
  tally.counts[index]! += 1;
  tally.sum += value;
}

/** Adds what another tally with the same bounds has counted. */
export function add(to: Tally, from: Tally): void {
  for (let index = 0; index < to.counts.length; index++) {
    to.counts[index]! += from.counts[index] ?? 0;
  }
  to.sum += from.sum;
}

export function countOf({ counts }: Tally): number {
  return counts.reduce((sum, count) => sum + count, 0);
}

/**
 * A commit that carried a command, or a step of a transfer, which is traced. Times are of
 * `monotonicMs`.
 */
export interface CommitTrace {
  /** Which step of its transfer; left out for a command's own commit. */
  readonly step?: "post" | "settle";
  /** The command's, in the form of the W3C header. */
  readonly traceparent: string;
  readonly commandId: string;
  readonly walletId: string;
  /** When the host took it from the bus; null for a step, which may never have been on it. */
  readonly arrivedAtMs: number | null;
  readonly startedAtMs: number;
  readonly endedAtMs: number;
  /** Which commit of its lane: commands with the same number share it. */
  readonly commit: number;
  readonly events: number;
}

/** What a lane has measured since it was asked last. */
export interface LaneMeasures {
  /**
   * From a command's arrival at the host to the start of the commit that has its outcome, in
   * seconds.
   */
  readonly mailboxWait: Tally;
  /** Seconds of each commit, by its result. */
  readonly commits: { readonly [result in AppendResult["type"]]?: Tally };
  /** Events in one commit, of those that were committed. */
  readonly commitEvents: Tally;
  /** Seconds of each read that woke actors. */
  readonly recovery: Tally;
  readonly walletsRecovered: number;
  /** Share of the time in which the thread was at work, from 0 to 1. */
  readonly busyRatio: number;
  readonly traces: readonly CommitTrace[];
}
