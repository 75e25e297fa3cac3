/**
 * The shard table port: who may write each shard. It hides PostgreSQL (`postgres/shard-table.ts`)
 * from the hosts, and lets a simulator put its own in place. An entry changes only by
 * compare-and-set, so two hosts that both want a shard cannot both get it; and since every change
 * takes the next epoch, whatever the former owner sends afterwards is refused by the journal's
 * fence.
 */

export interface ShardOwner {
  readonly shard: number;
  /** The run of a host, `hostId:run`; null when nobody has the shard. */
  readonly owner: string | null;
  /** Rises by one with every claim; the journal accepts writes only under the latest. */
  readonly epoch: number;
  /** When the owner took it, by the database's clock. */
  readonly claimedAtMs: number;
}

export interface ShardTable {
  /**
   * All shards, in order; those of a database that cannot be reached are left out. Rejects only
   * when none can be reached.
   */
  read(): Promise<ShardOwner[]>;
  /**
   * Makes `owner` the owner of those shards that still have the owner they are listed with; returns
   * these. The others, and those of a database that cannot be reached, are left out. Rejects when
   * every database that was asked refuses it.
   */
  take(owner: string, from: ReadonlyMap<number, string | null>): Promise<number[]>;
  /**
   * Gives up those of the shards that `owner` still has, so that anybody may take them. Rejects
   * when it is not known to be done.
   */
  release(owner: string, shards: readonly number[]): Promise<void>;
  close(): Promise<void>;
}
