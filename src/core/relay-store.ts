/**
 * The relay's port to one database: the events of shards behind a position, in order, and how far
 * each sink has come. It hides PostgreSQL (`postgres/relay.ts`) from the relay, and lets a
 * simulator put its own in place. Reading by position is exact: a shard's one writer numbers its
 * events 1, 2, 3 in the order of their commits, so what is behind a position and not there yet has
 * not committed. A crash of the database may take a cursor back, but one that was made stays.
 */
import type { StoredEvent } from "./read-model.ts";

/** An event with its place in its shard, and what its amounts are counted in. */
export interface RelayEvent extends StoredEvent {
  readonly shard: number;
  readonly position: number;
  readonly decimalPlaces: number;
}

export interface ShardPosition {
  readonly shard: number;
  readonly position: number;
}

/** The event behind a cursor is not taken. */
export interface Trouble {
  /** Times that it was tried. */
  readonly attempts: number;
  readonly failingSinceMs: number;
  readonly retryAtMs: number;
  readonly reason: string;
}

/** Everything up to the position is delivered. */
export interface Cursor extends ShardPosition {
  readonly trouble: Trouble | null;
}

export interface RelayStore {
  /**
   * The sink's cursors that there are. With `begin`, those that miss are made first, at position 0.
   */
  cursors(sink: string, shards: readonly number[], begin: boolean): Promise<Cursor[]>;
  /** Up to `rowsPerShard` events behind each position, by shard and then by position. */
  read(behind: readonly ShardPosition[], rowsPerShard: number): Promise<RelayEvent[]>;
  /** The last position of each shard that has events. */
  lastPositions(shards: readonly number[]): Promise<ShardPosition[]>;
  /**
   * When the oldest of the events behind these positions occurred, milliseconds since 1970; null
   * when there are none.
   */
  oldestBehind(behind: readonly ShardPosition[]): Promise<number | null>;
  /** Moves cursors that exist, and only forward. */
  save(sink: string, cursors: readonly Cursor[]): Promise<void>;
  close(): Promise<void>;
}
