/**
 * The queue in which the feeds read the database: a few reads at a time, first come first served. A
 * read that fails is put back and the whole queue rests, longer each time until one succeeds, since
 * a database that is away fails them all. What waits here is bounded by what is watched: callers
 * queue at most one read per wallet, owner or batch, and a queued read decides only when its turn
 * comes what it asks for, so that it takes along all that came up meanwhile.
 */
import type { BaseLogger } from "pino";

import type { Time } from "../../src/clock.ts";
import { LIMITS } from "../../src/limits.ts";

export type FeedTimers = Pick<Time, "after">;

export interface FeedReads {
  /**
   * Reads when its turn comes, again and again until it works, then hands the result to `take`. An
   * error thrown by `take` is not the read's: it is a broken invariant and left uncaught. Resolves
   * after `take`, or when the queue is drained.
   */
  run<T>(read: () => Promise<T>, take: (result: T) => void): Promise<void>;
  readonly failures: number;
  /** Drops what waits, hands over no more results; resolves when no read is under way. */
  drain(): Promise<void>;
}

interface QueuedRead {
  readonly read: () => Promise<unknown>;
  readonly take: (result: unknown) => void;
  readonly end: () => void;
}

export function buildFeedReads(deps: {
  readonly timers: FeedTimers;
  readonly log: Pick<BaseLogger, "warn">;
  /** Reads under way at once. Default: `LIMITS.feedReadsMax`. */
  readonly underWayMax?: number;
}): FeedReads {
  const { timers, log, underWayMax = LIMITS.feedReadsMax } = deps;
  let queue: QueuedRead[] = [];
  let underWay = 0;
  let failures = 0;
  let failuresInRow = 0;
  let isDrained = false;
  let endPause: (() => void) | null = null;
  let idle: (() => void)[] = [];

  function rest(error: unknown): void {
    failures++;
    // Reads that were under way together fail together: one pause for all.
    if (endPause !== null) return;
    const doubledMs = LIMITS.feedReadRetryMs * 2 ** Math.min(failuresInRow++, 20);
    const pauseMs = Math.min(doubledMs, LIMITS.feedReadRetryMsMax);
    log.warn({ err: error, pauseMs }, "the feeds cannot read the database and will try again");
    endPause = timers.after(pauseMs, () => {
      endPause = null;
      pump();
    });
  }

  async function attempt(queued: QueuedRead): Promise<void> {
    let result: unknown;
    let isRead = false;
    try {
      result = await queued.read();
      isRead = true;
      failuresInRow = 0;
    } catch (error) {
      if (!isDrained) rest(error);
    }
    underWay--;
    if (!isDrained) {
      if (isRead) queued.take(result);
      else queue.push(queued);
    }
    if (isRead || isDrained) queued.end();
    if (underWay === 0) {
      const waiting = idle;
      idle = [];
      for (const resolve of waiting) resolve();
    }
    pump();
  }

  function pump(): void {
    while (underWay < underWayMax && endPause === null && !isDrained) {
      const queued = queue.shift();
      if (queued === undefined) return;
      underWay++;
      void attempt(queued);
    }
  }

  return {
    run<T>(read: () => Promise<T>, take: (result: T) => void) {
      return new Promise<void>((end) => {
        if (isDrained) {
          end();
          return;
        }
        queue.push({ read, take: take as (result: unknown) => void, end });
        pump();
      });
    },
    get failures() {
      return failures;
    },
    drain() {
      isDrained = true;
      endPause?.();
      endPause = null;
      for (const queued of queue) queued.end();
      queue = [];
      return underWay === 0 ? Promise.resolve() : new Promise((resolve) => idle.push(resolve));
    },
  };
}

export interface StaleReads<Topic> {
  /** It is to be read anew, by a read that begins from now on. */
  add(topic: Topic): void;
  /** Nobody watches it any more. */
  drop(topic: Topic): void;
  /** Sees that there are reads in the queue for all that is stale. */
  queue(): void;
}

/**
 * Reads what is stale, some of it with each read. A read that waits in the queue takes along what
 * has become stale meanwhile; what a failed one was about is stale again.
 */
export function buildStaleReads<Topic, Result>(deps: {
  readonly reads: FeedReads;
  /** Topics that one read is about, at most. */
  readonly topicsMax: number;
  readonly isWatched: (topic: Topic) => boolean;
  readonly read: (topics: readonly Topic[]) => Promise<Result>;
  readonly take: (result: Result) => void;
}): StaleReads<Topic> {
  const { reads, topicsMax, isWatched, read, take } = deps;
  const stale = new Set<Topic>();
  /** Reads that have not begun. */
  let queued = 0;

  async function readSome(): Promise<Result | null> {
    queued--;
    const topics: Topic[] = [];
    for (const topic of stale) {
      if (topics.length === topicsMax) break;
      stale.delete(topic);
      topics.push(topic);
    }
    if (topics.length === 0) return null;
    try {
      return await read(topics);
    } catch (error) {
      for (const topic of topics) if (isWatched(topic)) stale.add(topic);
      queued++;
      throw error;
    }
  }

  function queue(): void {
    while (queued < Math.min(Math.ceil(stale.size / topicsMax), LIMITS.feedReadsMax)) {
      queued++;
      void reads.run(readSome, (result) => {
        if (result !== null) take(result);
        queue();
      });
    }
  }

  return {
    add: (topic) => void stale.add(topic),
    drop: (topic) => void stale.delete(topic),
    queue,
  };
}
