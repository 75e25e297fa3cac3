/**
 * The wallets of each database apart, behind one face: every database has a queue of reads and a
 * sweep of its own, so that one that is away holds up the feeds of its own wallets and of no
 * others.
 */
import type { BaseLogger } from "pino";

import type { Bus } from "../src/bus.ts";
import type { ReadModel } from "../src/read-model.ts";
import { shardOf } from "../src/shard.ts";
import { buildFeedReads, type FeedReads, type FeedTimers } from "./feed-reads.ts";
import { buildFeedWallets, type FeedWallets } from "./feed-wallets.ts";

export interface FeedDatabases extends Omit<FeedWallets, "sweep"> {
  /** One for each database. */
  readonly sweeps: ReadonlyArray<() => Promise<void>>;
  readonly readFailures: number;
  /** Resolves when no read is under way. */
  drain(): Promise<void>;
}

interface Deps {
  readonly bus: Bus;
  readonly readModel: Pick<ReadModel, "walletsById" | "events">;
  readonly timers: FeedTimers;
  readonly log: Pick<BaseLogger, "warn">;
  /** How many databases the shards are spread over: shard modulo count. */
  readonly databases: number;
}

interface Part {
  readonly reads: FeedReads;
  readonly wallets: FeedWallets;
}

export function buildFeedDatabases({ databases, ...deps }: Deps): FeedDatabases {
  const parts = Array.from({ length: databases }, (): Part => {
    const reads = buildFeedReads(deps);
    return { reads, wallets: buildFeedWallets({ ...deps, reads }) };
  });
  const home = (walletId: string): FeedWallets => parts[shardOf(walletId) % databases]!.wallets;
  const sum = (of: (part: Part) => number): number =>
    parts.reduce((total, part) => total + of(part), 0);

  return {
    watch: (walletId, ...rest) => home(walletId).watch(walletId, ...rest),
    end: (watch) => home(watch.walletId).end(watch),
    resume: (watch) => home(watch.walletId).resume(watch),
    sweeps: parts.map(
      ({ wallets }) =>
        () =>
          wallets.sweep(),
    ),
    get watches() {
      return sum(({ wallets }) => wallets.watches);
    },
    get readFailures() {
      return sum(({ reads }) => reads.failures);
    },
    stats: () => ({
      wallets: sum(({ wallets }) => wallets.stats().wallets),
      watches: sum(({ wallets }) => wallets.stats().watches),
      repairs: sum(({ wallets }) => wallets.stats().repairs),
      resets: sum(({ wallets }) => wallets.stats().resets),
      malformed: sum(({ wallets }) => wallets.stats().malformed),
    }),
    stop() {
      for (const { wallets } of parts) wallets.stop();
    },
    async drain() {
      await Promise.all(parts.map(({ reads }) => reads.drain()));
    },
  };
}
