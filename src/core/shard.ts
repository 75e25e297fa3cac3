/**
 * Where a wallet lives. The key space has 256 fixed shards; a host owns shards and one of its lanes
 * serves each. The function must never change: a wallet's rows stay where its shard's database is.
 * Pure.
 */
import { LIMITS } from "../limits.ts";

/**
 * Shard of an id, 0 to 255: 32-bit FNV-1a over UTF-16 units, high and low bytes folded together.
 */
export function shardOf(id: string): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < id.length; index++) {
    hash ^= id.charCodeAt(index);
    hash = Math.imul(hash, 0x01000193);
  }
  return ((hash >>> 24) ^ (hash >>> 16) ^ (hash >>> 8) ^ hash) & (LIMITS.shardCount - 1);
}

/** Every shard, in order. */
export const ALL_SHARDS: readonly number[] = Array.from(
  { length: LIMITS.shardCount },
  (_, shard) => shard,
);

/** Items that belong together, such as those of one shard, each group in the order of the items. */
export function grouped<T, K>(items: readonly T[], key: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>();
  for (const item of items) {
    const name = key(item);
    const group = groups.get(name);
    if (group === undefined) groups.set(name, [item]);
    else group.push(item);
  }
  return groups;
}
