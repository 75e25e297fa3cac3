/**
 * The wallets of each database apart, behind one face: every database has a queue of reads and a
 * sweep of its own, so that one that is away holds up the feeds of its own wallets and of no
 * others.
 */
import type { BaseLogger } from "pino";

import type { Bus } from "../../src/core/bus.ts";
import type { ReadModel } from "../../src/core/read-model.ts";
import { shardOf } from "../../src/core/shard.ts";
import type { FeedTimers } from "./reads.ts";
import { buildFeedWallets, type FeedWalletCounts, type FeedWallets } from "./wallets.ts";

export interface FeedDatabases extends Omit<FeedWallets, "sweep"> {
  /** One for each database. */
  readonly sweeps: ReadonlyArray<() => Promise<void>>;
}

interface Deps {
  readonly bus: Bus;
  readonly readModel: Pick<ReadModel, "walletsById" | "events">;
  readonly timers: FeedTimers;
  readonly log: Pick<BaseLogger, "warn">;
  /** How many databases the shards are spread over: shard modulo count. */
  readonly databases: number;
}

export function buildFeedDatabases({ databases, ...deps }: Deps): FeedDatabases {
  const parts = Array.from({ length: databases }, () => buildFeedWallets(deps));
  const home = (walletId: string): FeedWallets => parts[shardOf(walletId) % databases]!;

  return {
    watch: (walletId, ...rest) => home(walletId).watch(walletId, ...rest),
    end: (watch) => home(watch.walletId).end(watch),
    resume: (watch) => home(watch.walletId).resume(watch),
    sweeps: parts.map((part) => () => part.sweep()),
    get watches() {
      return parts.reduce((total, { watches }) => total + watches, 0);
    },
    stats() {
      const counts = parts.map((part) => part.stats());
      const sum = (name: keyof FeedWalletCounts): number =>
        counts.reduce((total, count) => total + count[name], 0);
      return {
        wallets: sum("wallets"),
        watches: sum("watches"),
        repairs: sum("repairs"),
        resets: sum("resets"),
        malformed: sum("malformed"),
        readFailures: sum("readFailures"),
      };
    },
    async drain() {
      await Promise.all(parts.map((part) => part.drain()));
    },
  };
}
