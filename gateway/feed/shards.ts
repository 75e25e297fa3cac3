/**
 * Which shards a gateway listens to: those with something that is watched, each by one subscription
 * however many watch, so that the bus brings a gateway nothing that nobody there wants.
 */
import type { Unsubscribe } from "../../src/core/bus.ts";
import { shardOf } from "../../src/core/shard.ts";

export interface FeedShards {
  /** Once for each id that begins to be watched. */
  listen(id: string): void;
  /** Once for each that no longer is. */
  unlisten(id: string): void;
  stop(): void;
}

/** @param subscribe called for a shard when the first of its ids is watched */
export function buildFeedShards(subscribe: (shard: number) => Unsubscribe): FeedShards {
  const shards = new Map<number, { count: number; unsubscribe: Unsubscribe }>();
  return {
    listen(id) {
      const shard = shardOf(id);
      const listened = shards.get(shard);
      if (listened !== undefined) listened.count++;
      else shards.set(shard, { count: 1, unsubscribe: subscribe(shard) });
    },
    unlisten(id) {
      const shard = shardOf(id);
      const listened = shards.get(shard);
      if (listened === undefined || --listened.count > 0) return;
      listened.unsubscribe();
      shards.delete(shard);
    },
    stop() {
      for (const { unsubscribe } of shards.values()) unsubscribe();
      shards.clear();
    },
  };
}
