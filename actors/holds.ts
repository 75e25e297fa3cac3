/**
 * The holds of a lane's wallets, as far as they need the journal: those whose time is over, which
 * nobody else would notice while their wallets sleep, and those that have ended, which actors do
 * not keep. An actor has its active holds in memory, and an ended one until the commit with its end
 * is done; a message that names another one waits here for a look into the journal, with all others
 * that name the same hold, so that nobody decides on what somebody else changes meanwhile.
 *
 *     due:    looking --found some--> a portion under way --all dealt with--> looking
 *     ended:  named --asked--> read --next tick--> forgotten, unless changed
 *
 * A portion is as many `expire` messages as were found. Behind a full one it looks again at once,
 * behind the last one a while later and from the first on. read: the hold is put into the actor,
 * and those who wait for it go on.
 */
import { LIMITS } from "../src/limits.ts";
import { holdKey, type DueHold, type HoldKey, type Journal } from "../src/core/journal.ts";
import type { Hold } from "../src/core/hold.ts";
import { shardOf } from "../src/core/shard.ts";
import { buildTransitMap } from "../src/transit-map.ts";
import { keepHold, newItem, type Actor, type Commit, type Item, type Turn } from "./commit.ts";
import type { Read } from "./lane-actors.ts";

export interface HoldKeeperDeps {
  readonly journal: Pick<Journal, "loadHolds" | "loadDueHolds">;
  readonly actors: ReadonlyMap<string, Actor>;
  readonly nowMs: () => number;
  /** What the times of holds are compared with. */
  readonly wallMs: () => number;
  /** Shards whose messages are dealt with now. */
  readonly servedShards: () => number[];
  /** Deals with messages, as far as that goes, and lets out what came of it. */
  readonly deliver: (items: readonly Item[]) => void;
  readonly read: Read;
}

export interface HoldKeeper {
  /**
   * Makes the message wait if the hold that it names is not in memory, and may be in the journal.
   */
  keepsWaiting(actor: Actor, item: Item, holdId: string | null): boolean;
  /** Asks the journal for what messages wait for. */
  lookUp(): void;
  /** Looks for holds whose time is over, if it is time for that. */
  expire(): void;
  /** Shards are new here: their holds may be due for long. */
  expireSoon(): void;
  /** Lets go of what was looked up and has not changed. */
  tidy(): void;
  /** Lets go of holds that have ended in the commit. */
  committed(commit: Pick<Commit, "holds">): void;
  /** Lets go of waiting messages that are not to be kept. */
  sift(isKept: (item: Item) => boolean): void;
  /** Forgets who waits for holds in shards that others serve now; returns them. */
  forget(shards: ReadonlySet<number>): Item[];
}

interface LookUp extends HoldKey {
  waiting: Item[];
}

export function buildHoldKeeper(deps: HoldKeeperDeps): HoldKeeper {
  const { journal, actors } = deps;
  const lookUps = buildTransitMap<string, LookUp>();
  let unasked = new Set<LookUp>();
  let lookedUp: Array<{ actor: Actor; hold: Hold }> = [];
  let nextExpiryMs = 0;
  let isLooking = false;
  let isPortionUnderWay = false;
  /**
   * The end of the latest portion; what could not be ended in it must not be in the way of what is
   * due behind it.
   */
  let behind: DueHold | null = null;

  function resolve(asked: ReadonlySet<LookUp>, holds: readonly Hold[]): void {
    const found = new Map(holds.map((hold) => [holdKey(hold), hold]));
    const items: Item[] = [];
    for (const lookUp of asked) {
      const key = holdKey(lookUp);
      // Forgotten meanwhile, and perhaps asked again: what was read then may be old.
      if (lookUps.get(key) !== lookUp) continue;
      lookUps.delete(key);
      items.push(...lookUp.waiting);
      const hold = found.get(key);
      if (hold === undefined) {
        for (const item of lookUp.waiting) item.isHoldMissing = true;
        continue;
      }
      // An actor that was dropped meanwhile has what is active, and its messages wait again for
      // what is not.
      const actor = actors.get(lookUp.walletId);
      if (actor?.loaded !== true || actor.holds?.has(lookUp.holdId) === true) continue;
      keepHold(actor, hold);
      lookedUp.push({ actor, hold });
    }
    deps.deliver(items);
  }

  function putUnderWay(due: readonly DueHold[]): void {
    behind = due.length < LIMITS.holdsDueMax ? null : due.at(-1)!;
    if (behind !== null) nextExpiryMs = 0;
    if (due.length === 0) return;
    isPortionUnderWay = true;
    const turn: Turn = { open: due.length, done: () => void (isPortionUnderWay = false) };
    deps.deliver(
      due.map(({ walletId, holdId }) => newItem({ type: "expire", walletId, holdId }, turn)),
    );
  }

  return {
    keepsWaiting(actor, item, holdId) {
      if (holdId === null || item.known !== null || item.isHoldMissing) return false;
      if (actor.state === null || actor.holds?.has(holdId) === true) return false;
      const { walletId } = actor;
      const key = holdKey({ walletId, holdId });
      let lookUp = lookUps.get(key);
      if (lookUp === undefined) {
        lookUp = { walletId, holdId, waiting: [] };
        lookUps.set(key, lookUp);
        unasked.add(lookUp);
      }
      lookUp.waiting.push(item);
      return true;
    },

    lookUp() {
      if (unasked.size === 0) return;
      const asked = unasked;
      unasked = new Set();
      const keys = Array.from(asked, ({ walletId, holdId }) => ({ walletId, holdId }));
      deps.read(
        "look up holds",
        journal.loadHolds(keys),
        (holds) => resolve(asked, holds),
        () => {
          for (const one of asked) if (lookUps.get(holdKey(one)) === one) unasked.add(one);
        },
      );
    },

    expire() {
      const nowMs = deps.nowMs();
      if (isLooking || isPortionUnderWay || nowMs < nextExpiryMs) return;
      const shards = deps.servedShards();
      if (shards.length === 0) return;
      isLooking = true;
      nextExpiryMs = nowMs + LIMITS.holdExpiryMs;
      deps.read(
        "look for holds that expire",
        journal.loadDueHolds(shards, deps.wallMs(), LIMITS.holdsDueMax, behind),
        (due) => {
          isLooking = false;
          putUnderWay(due);
        },
        () => {
          isLooking = false;
        },
      );
    },

    expireSoon() {
      nextExpiryMs = 0;
      behind = null;
    },

    tidy() {
      if (lookedUp.length === 0) return;
      for (const { actor, hold } of lookedUp) dropHold(actor, hold);
      lookedUp = [];
    },

    committed({ holds }) {
      for (const { hold } of holds.values()) {
        const actor = actors.get(hold.walletId);
        if (actor !== undefined) dropHold(actor, hold);
      }
    },

    sift(isKept) {
      for (const [key, lookUp] of lookUps) {
        lookUp.waiting = lookUp.waiting.filter(isKept);
        if (lookUp.waiting.length > 0) continue;
        lookUps.delete(key);
        unasked.delete(lookUp);
      }
    },

    forget(shards) {
      const items: Item[] = [];
      for (const [key, lookUp] of lookUps) {
        if (!shards.has(shardOf(lookUp.walletId))) continue;
        lookUps.delete(key);
        unasked.delete(lookUp);
        items.push(...lookUp.waiting);
      }
      return items;
    },
  };
}

/** Lets go of a hold that has ended, if it still is as it is known to the journal. */
function dropHold(actor: Actor, hold: Hold): void {
  if (hold.status === "ACTIVE" || actor.holds?.get(hold.holdId) !== hold) return;
  actor.holds.delete(hold.holdId);
}
