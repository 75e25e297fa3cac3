/**
 * The places that a journal gives to events: in each shard one behind the other, without a gap,
 * also for appends whose predecessors are still under way. Pure, but for what it remembers.
 */
import type { Writes } from "./journal.ts";
import { shardOf } from "./shard.ts";

/** An event's place among all events of its shard. */
export interface Place {
  readonly shard: number;
  readonly position: number;
}

/** @param lastOf position of a shard's last event that is known to be committed; 0: there is none */
export function buildPlaces(lastOf: (shard: number) => number) {
  /** The last positions that appends under way take. */
  const taken = new Map<number, number>();

  return {
    /**
     * The next places, in the order of the events.
     *
     * @param isBehind whether it builds on appends under way; if not, what they took is free again
     */
    take({ events }: Pick<Writes, "events">, isBehind: boolean): Place[] {
      if (!isBehind) taken.clear();
      return events.map(({ walletId }) => {
        const shard = shardOf(walletId);
        const position = Math.max(taken.get(shard) ?? 0, lastOf(shard)) + 1;
        taken.set(shard, position);
        return { shard, position };
      });
    },
  };
}
