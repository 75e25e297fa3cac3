/**
 * The group commit of a lane: the commit that fills, and the one that is under way. What actors
 * decide goes into the open one, on top of state that the other one may not have made durable yet,
 * so a hot wallet is limited by CPU and not by `fsync`. What was decided on a commit that fails is
 * worth nothing, so both are undone together, and the states of all actors in them are dropped.
 *
 *     open --sent, as soon as none is under way--> under way --committed--> (gone)
 *     open, under way --undone, as the one under way failed--> (gone)
 *
 * Committed: its effects may leave. Undone: its messages are to be dealt with again. Invariant: at
 * most one commit is under way, and an actor's state is the committed one plus exactly the events
 * in that commit and in the open one.
 */
import type { AppendResult, Journal } from "../src/journal.ts";
import { newCommit, outcomeIn, writesOf, type Actor, type Commit, type Item } from "./commit.ts";
import type { PendingTransfers } from "./pending-transfers.ts";
import { transfersUndone } from "./transfer-steps.ts";

export type AppendFailure = Exclude<AppendResult, { type: "committed" }>;

export interface GroupCommitDeps {
  readonly journal: Pick<Journal, "append">;
  readonly pending: PendingTransfers;
  /** By shard, of those that the lane may speak for now. */
  readonly epochs: () => ReadonlyMap<number, number>;
  /** Its state is not to be trusted. */
  readonly drop: (actor: Actor) => void;
  /** The commit is durable; the messages followed others in it, and can be dealt with. */
  readonly onCommitted: (commit: Commit, followers: readonly Item[]) => void;
  /** It is not, or nobody knows: it has to be undone. */
  readonly onFailed: (commit: Commit, failure: AppendFailure) => void;
  readonly crash: (error: unknown) => void;
}

export interface GroupCommit {
  /** The commit that is filling now. */
  open(): Commit;
  underWay(): Commit | null;
  /** The first message in the two commits with this `Item.flightKey`. */
  leaderOf(flightKey: string): Item | undefined;
  /** Sends the open commit, if there is something in it and none is under way. */
  send(): void;
  /**
   * Takes back both the commit under way and the open one; returns their messages, in order, to be
   * dealt with again.
   */
  undo(): Item[];
}

export function buildGroupCommit(deps: GroupCommitDeps): GroupCommit {
  let open = newCommit();
  let underWay: Commit | null = null;

  function conclude(commit: Commit, result: AppendResult): void {
    if (result.type === "committed") committed(commit);
    else deps.onFailed(commit, result);
  }

  function committed(commit: Commit): void {
    underWay = null;
    for (const actor of commit.actors) actor.uncommitted -= 1;
    const followers: Item[] = [];
    for (const item of commit.items) {
      for (const follower of item.followers) {
        follower.known = outcomeIn(commit, follower.message);
        // Then it was only looked for, and there was none.
        if (follower.known === null) follower.inDoubt = false;
        followers.push(follower);
      }
    }
    deps.onCommitted(commit, followers);
  }

  return {
    open: () => open,
    underWay: () => underWay,
    leaderOf: (flightKey) => open.leaders.get(flightKey) ?? underWay?.leaders.get(flightKey),

    send() {
      if (underWay !== null || open.items.length === 0) return;
      const commit = open;
      underWay = commit;
      open = newCommit();
      deps.journal
        .append(writesOf(commit, deps.epochs()))
        .then((result) => conclude(commit, result))
        .catch(deps.crash);
    },

    undo() {
      const items: Item[] = [];
      for (const commit of [underWay, open]) {
        if (commit === null) continue;
        for (const actor of commit.actors) deps.drop(actor);
        transfersUndone(deps.pending, commit);
        for (const item of commit.items) {
          const { followers } = item;
          item.followers = [];
          items.push(item, ...followers);
        }
      }
      underWay = null;
      open = newCommit();
      return items;
    },
  };
}
