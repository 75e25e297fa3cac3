/**
 * The shards of a lane: for which of them it may speak, and under which epoch. The host says with
 * each tick which are assigned; the journal says which the lane has, by giving it the next epoch of
 * each. What reaches the lane for others is refused there. What to do with actors, transfers and
 * messages of a shard that comes or goes is the lane's part; here is when.
 *
 *     (none)   --assigned--------------> claiming
 *     claiming --claimed---------------> held
 *     claiming --not ours--------------> lost
 *     held     --no longer assigned----> leaving
 *     held     --taken by another owner> lost
 *     leaving  --nothing under way-----> (none)
 *     lost     --a while later---------> (none), or claiming if it is still assigned
 *
 * claiming: its messages wait. held: they are dealt with. leaving, lost: they are refused, so that
 * their senders ask again elsewhere. Invariants: one claim is under way at most; a shard with an
 * epoch here was claimed by this lane, and no commit names an epoch that it did not get from a
 * claim.
 */
import { HistoryLostError, type Journal } from "../src/core/journal.ts";
import { LIMITS } from "../src/limits.ts";
import { messageOf } from "../src/message-of.ts";
import type { Transfer } from "../src/core/transfer.ts";
import type { Commit } from "./commit.ts";

export interface LaneShardsDeps {
  readonly journal: Pick<Journal, "claim" | "loadPendingTransfers">;
  /** The host's name in the shard table. */
  readonly owner: string;
  readonly log: (level: "info" | "warn", text: string) => void;
  readonly crash: (error: unknown) => void;
  /** Whether the database is left alone for a while, after it has refused something. */
  readonly isPaused: () => boolean;
  /** Whether all shards have to be claimed anew before anything is decided. */
  readonly isRecovering: () => boolean;
  /** All that is assigned was claimed; these transfers are all that are pending. */
  readonly recovered: (transfers: readonly Transfer[]) => void;
  /** Further shards were claimed; these transfers of theirs are pending. */
  readonly adopted: (transfers: readonly Transfer[]) => void;
  /** A claim did not work. */
  readonly onFailed: (reason: string) => void;
  /** Another owner has them. */
  readonly onLost: (shards: readonly number[]) => void;
  /** Nothing that the lane knows of them is true any more. */
  readonly forget: (shards: ReadonlySet<number>) => void;
  /** After a recovery: deals with what has waited for it. */
  readonly dealWithBacklog: () => void;
  /** After each claim: deals with what has waited for its shard, and goes on. */
  readonly dealWithWaiting: () => void;
}

export interface LaneShards {
  /** By shard, of those held or leaving. */
  readonly epochs: ReadonlyMap<number, number>;
  /** Whether messages for the shard are dealt with. */
  serves(shard: number): boolean;
  /** Whether messages for a shard that is not served may be kept until it is. */
  awaits(shard: number): boolean;
  /** What the lane shall serve from now on. */
  assign(shards: readonly number[], nowMs: number): void;
  /**
   * Takes the next epoch of all that is assigned; afterwards the journal says what became of
   * everything.
   */
  recover(): void;
  /** The same for shards that were assigned meanwhile; the others go on. */
  adopt(): void;
  /**
   * Lets go of shards that are no longer assigned, as soon as none of these commits has anything of
   * them.
   */
  leave(...commits: ReadonlyArray<Pick<Commit, "shards">>): void;
  served(): number[];
  servesAll(): boolean;
  /** Shards of which something may be under way here: claiming, held or leaving. */
  underWay(): number[];
}

export function buildLaneShards(deps: LaneShardsDeps): LaneShards {
  const { journal } = deps;
  const epochs = new Map<number, number>();
  let assigned = new Set<number>();
  const claiming = new Set<number>();
  const lost = new Set<number>();
  let isClaiming = false;
  let nextLostMs = 0;

  function serves(shard: number): boolean {
    return epochs.has(shard) && assigned.has(shard);
  }

  function assignedShards(): number[] {
    return [...assigned].filter((shard) => !lost.has(shard));
  }

  function claim(
    shards: readonly number[],
    then: (claimed: ReadonlyMap<number, number>, transfers: readonly Transfer[]) => void,
  ): void {
    isClaiming = true;
    claimAndLoad(shards)
      .then(
        ({ claimed, transfers }) => {
          then(claimed, transfers);
          deps.dealWithWaiting();
        },
        (error: unknown) => {
          // The next claim would find the same.
          if (error instanceof HistoryLostError) throw error;
          claiming.clear();
          deps.onFailed(`cannot claim shards: ${messageOf(error)}`);
        },
      )
      .finally(() => {
        isClaiming = false;
      })
      .catch(deps.crash);
  }

  async function claimAndLoad(shards: readonly number[]) {
    if (shards.length === 0) return { claimed: new Map<number, number>(), transfers: [] };
    const claimed = await journal.claim(deps.owner, shards);
    const transfers = await journal.loadPendingTransfers([...claimed.keys()]);
    return { claimed, transfers };
  }

  /** Does not claim shards that another owner has; of these, nothing is known here any more. */
  function drop(shards: readonly number[]): void {
    if (shards.length === 0) return;
    deps.log("warn", `${shards.length} shards belong to another owner now`);
    for (const shard of shards) lost.add(shard);
    deps.onLost(shards);
  }

  function forget(shards: readonly number[]): void {
    for (const shard of shards) epochs.delete(shard);
    deps.forget(new Set(shards));
  }

  return {
    epochs,
    serves,
    awaits: (shard) => assigned.has(shard) && !lost.has(shard),

    assign(shards, nowMs) {
      // With every tick it is told, and seldom is it news.
      const isNews = shards.length !== assigned.size || !shards.every((it) => assigned.has(it));
      if (isNews) assigned = new Set(shards);
      // A shard may be lost and taken again between two ticks, and the next claim knows.
      if (nowMs >= nextLostMs) {
        nextLostMs = nowMs + LIMITS.placementMs;
        lost.clear();
      }
    },

    recover() {
      if (isClaiming || deps.isPaused()) return;
      const shards = assignedShards();
      claim(shards, (claimed, transfers) => {
        // Where the next epoch is not the one after ours, somebody else may have written: what is
        // known here is old.
        const known = [...epochs.keys()];
        forget(known.filter((shard) => claimed.get(shard) !== epochs.get(shard)! + 1));
        for (const [shard, epoch] of claimed) epochs.set(shard, epoch);
        deps.recovered(transfers);
        drop(shards.filter((shard) => !claimed.has(shard)));
        deps.dealWithBacklog();
      });
    },

    adopt() {
      if (isClaiming || deps.isPaused()) return;
      const shards = assignedShards().filter((shard) => !epochs.has(shard));
      if (shards.length === 0) return;
      for (const shard of shards) claiming.add(shard);
      claim(shards, (claimed, transfers) => {
        claiming.clear();
        // Recovering takes all epochs anew, these too.
        if (deps.isRecovering()) return;
        for (const [shard, epoch] of claimed) epochs.set(shard, epoch);
        deps.adopted(transfers);
        drop(shards.filter((shard) => !claimed.has(shard)));
      });
    },

    leave(...commits) {
      const leaving = new Set([...epochs.keys()].filter((shard) => !assigned.has(shard)));
      if (leaving.size === 0) return;
      for (const commit of commits) {
        for (const shard of commit.shards) leaving.delete(shard);
      }
      forget([...leaving]);
    },

    served: () => [...epochs.keys()].filter(serves),
    servesAll: () => [...assigned].every(serves),
    underWay: () => [...epochs.keys(), ...[...claiming].filter((shard) => !epochs.has(shard))],
  };
}
