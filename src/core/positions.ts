/**
 * The highest position of each shard that anybody in this process has committed or seen in one
 * database: the last one of a shard that is ours. Kept in memory that threads share, so that each
 * lane knows what the others have committed before anything that follows from it can arrive, and a
 * thread that takes a dead one's place knows it, too.
 */
import { ALL_SHARDS } from "./shard.ts";

export interface Positions {
  /** 0: none is known. */
  get(shard: number): number;
  /** Never lowers it, whoever else raises it meanwhile. */
  raise(shard: number, position: number): void;
  /** By shard, as they are now. */
  snapshot(): readonly number[];
}

/** What `buildPositions` takes, of one database. */
export function positionsMemory(): SharedArrayBuffer {
  return new SharedArrayBuffer(ALL_SHARDS.length * BigInt64Array.BYTES_PER_ELEMENT);
}

export function buildPositions(memory: SharedArrayBuffer): Positions {
  const cells = new BigInt64Array(memory);
  return {
    get: (shard) => Number(Atomics.load(cells, shard)),
    raise(shard, position) {
      const next = BigInt(position);
      let last = Atomics.load(cells, shard);
      while (last < next) last = Atomics.compareExchange(cells, shard, last, next);
    },
    snapshot: () => ALL_SHARDS.map((shard) => Number(Atomics.load(cells, shard))),
  };
}
