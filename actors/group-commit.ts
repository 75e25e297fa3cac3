/**
 * The group commit of a lane: the commit that fills, and those that are under way. What actors
 * decide goes into the open one, on top of state that the others may not have made durable yet, so
 * a hot wallet is limited by CPU and not by `fsync`. Mostly one is under way. A large one is sent
 * behind it before its answer is here, or the database would wait while the lane deals with the
 * answer and makes the next one (docs/adr/0014). What was decided on a commit that fails is worth
 * nothing, so all are undone together, and the states of all actors in them are dropped.
 *
 *     open --sent: none is under way, or one and it is large--> under way --committed--> (gone)
 *     open, under way --undone, as one under way failed-------> (gone)
 *
 * Committed: its effects may leave. Undone: its messages are to be dealt with again. Invariants:
 * each commit under way names the one that it is behind, without which the journal does not write
 * it; an actor's state is the committed one plus exactly the events in those under way and in the
 * open one.
 */
import type { AppendResult, Journal } from "../src/core/journal.ts";
import { LIMITS } from "../src/limits.ts";
import { newCommit, outcomeIn, writesOf, type Actor, type Commit, type Item } from "./commit.ts";
import type { PendingTransfers } from "./pending-transfers.ts";
import { transfersUndone } from "./transfer-steps.ts";

export type AppendFailure = Exclude<AppendResult, { type: "committed" }>;

export interface GroupCommitDeps {
  readonly journal: Pick<Journal, "append">;
  readonly pending: PendingTransfers;
  /** By shard, of those that the lane may speak for now. */
  readonly epochs: () => ReadonlyMap<number, number>;
  /** `LIMITS.commitBehindMessagesMin`, which a test may change. */
  readonly behindMessagesMin: () => number;
  /** Its state is not to be trusted. */
  readonly drop: (actor: Actor) => void;
  /** The commit is durable; the messages followed others in it, and can be dealt with. */
  readonly onCommitted: (commit: Commit, followers: readonly Item[]) => void;
  /** The first one under way is not, or nobody knows: all have to be undone. */
  readonly onFailed: (failure: AppendFailure) => void;
  readonly crash: (error: unknown) => void;
}

export interface GroupCommit {
  /** The commit that is filling now. */
  open(): Commit;
  /** Those that were sent and have no outcome yet, in order. */
  underWay(): readonly Commit[];
  /** The first message in all these commits with this `Item.flightKey`. */
  leaderOf(flightKey: string): Item | undefined;
  /** Sends the open commit, if there is something in it and it need not wait. */
  send(): void;
  /**
   * Takes back the commits under way and the open one; returns their messages, in order, to be
   * dealt with again.
   */
  undo(): Item[];
}

export function buildGroupCommit(deps: GroupCommitDeps): GroupCommit {
  let open = newCommit();
  let underWay: Commit[] = [];
  /** What came of commits under way, until it is their turn. */
  const results = new Map<Commit, AppendResult>();
  /** Of the last commit that was sent. */
  let lastNumber = 0;
  /** The last one failed: none is sent behind the next, which may fail as well. */
  let isFailing = false;

  function mayBeSent(): boolean {
    if (open.items.length === 0) return false;
    if (underWay.length === 0) return true;
    if (isFailing || underWay.length >= LIMITS.commitsUnderWayMax) return false;
    return open.items.length >= deps.behindMessagesMin();
  }

  /** In the order in which they were sent; one that was undone meanwhile is nobody's any more. */
  function conclude(commit: Commit, result: AppendResult): void {
    if (!underWay.includes(commit)) return;
    results.set(commit, result);
    for (let first = underWay[0]; first !== undefined; first = underWay[0]) {
      const outcome = results.get(first);
      if (outcome === undefined) return;
      results.delete(first);
      isFailing = outcome.type !== "committed";
      if (outcome.type === "committed") committed(first);
      else deps.onFailed(outcome);
    }
  }

  function committed(commit: Commit): void {
    underWay.shift();
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

    leaderOf(flightKey) {
      let leader = open.leaders.get(flightKey);
      for (const { leaders } of underWay) leader ??= leaders.get(flightKey);
      return leader;
    },

    send() {
      if (!mayBeSent()) return;
      const commit = open;
      const behind = underWay.length === 0 ? null : lastNumber;
      underWay.push(commit);
      open = newCommit();
      deps.journal
        .append(writesOf(commit, deps.epochs(), { number: ++lastNumber, behind }))
        .then((result) => conclude(commit, result))
        .catch(deps.crash);
    },

    undo() {
      const items: Item[] = [];
      for (const commit of [...underWay, open]) {
        for (const actor of commit.actors) deps.drop(actor);
        transfersUndone(deps.pending, commit);
        for (const item of commit.items) {
          const { followers } = item;
          item.followers = [];
          items.push(item, ...followers);
        }
      }
      results.clear();
      underWay = [];
      open = newCommit();
      return items;
    },
  };
}
