/**
 * Ownership: the loop by which one host gets, keeps and gives up shards. It looks who is alive and
 * what the shard table says, asks `placement.ts` what to do, and does it in an order in which no
 * shard has two servants for longer than the fence forgives: give up only what the lane has left,
 * take only what the table says is free. Steps never overlap, so each decides on what the last one
 * did.
 *
 *     (none)   --taken, or the table says so----------------> serving
 *     serving  --placed elsewhere, or this host ends--------> leaving
 *     leaving  --its lane has left it-----------------------> released
 *     released --the table knows----------------------------> (none)
 *     any      --another owner in the table, or lane fenced-> (none)
 *
 * serving: subscribed and assigned to a lane. leaving: refused at the door while the lane finishes.
 * released: nothing of it is under way; the table has to hear of it. A host without membership
 * takes each shard once, when it starts, and never again.
 */
import type { Time } from "../src/clock.ts";
import { LIMITS } from "../src/limits.ts";
import { messageOf } from "../src/message-of.ts";
import type { HostStatus } from "../src/core/protocol.ts";
import type { ShardOwner, ShardTable } from "../src/core/shard-table.ts";
import type { Member, Membership } from "./membership.ts";
import { buildLookout, movesOf, type Moves, type View } from "./placement.ts";

export interface OwnershipDeps {
  readonly shardTable: ShardTable;
  /** Null: no other host is expected. */
  readonly membership: Membership | null;
  readonly self: { readonly hostId: string; readonly owner: string; readonly startedAtMs: number };
  readonly time: Time;
  readonly log: { info(text: string): void; warn(text: string): void };
  /** Whether messages can come here: a host that nobody can reach must not look alive. */
  readonly isReachable: () => boolean;
  /** Begins to serve shards. */
  readonly open: (shards: readonly number[]) => void;
  /** Begins to refuse a shard, and lets its lane finish; `left` has to follow. */
  readonly leave: (shards: readonly number[]) => void;
  /** Stops at once with shards that others have. */
  readonly drop: (shards: readonly number[]) => void;
  /** Shards were released; others should look. */
  readonly announce: (shards: readonly number[]) => void;
}

type HandOff = HostStatus["handOffs"][number];

export interface Ownership {
  /** Resolves after the first look, whatever it saw. */
  start(): Promise<void>;
  /** The lane has nothing of these shards any more. */
  left(shards: readonly number[]): void;
  /** The lane was fenced: these shards are somebody else's. */
  lost(shards: readonly number[]): void;
  /** Something changed: look now. */
  look(): void;
  readonly isLeaving: boolean;
  /** Whether the last look at the shard table saw something. */
  readonly isTableInSight: boolean;
  /** Whether the last look at who is alive saw this host. */
  readonly isInView: boolean;
  readonly handOffs: readonly HandOff[];
  /** Hands everything over; resolves when the table knows, or after `withinMs`. */
  drain(withinMs: number): Promise<void>;
}

type ShardState = "serving" | "leaving" | "released";

export function buildOwnership(deps: OwnershipDeps): Ownership {
  const { shardTable, membership, self, time, log } = deps;
  const states = new Map<number, ShardState>();
  const lookout = buildLookout(self);
  /** Shards that a lane lost to somebody: the table will say to whom. */
  const fenced = new Set<number>();
  /**
   * Owners that took a shard from this host, whatever Redis says of them: until when they count as
   * alive.
   */
  const evidentUntilMs = new Map<string, number>();
  /** Without membership: shards that this host has had. */
  const hadOnce = new Set<number>();
  const handOffs: HandOff[] = [];
  let isLeaving = false;
  let isStopped = false;
  let looking: Promise<void> | null = null;
  let isLookDue = false;
  let isTableInSight = false;
  let isInView = false;
  let hasWarned = false;
  let quietUntilMs = 0;
  let stopBeating = (): void => undefined;
  let stopLooking = (): void => undefined;
  let onEmpty: (() => void) | null = null;

  function inState(state: "leaving" | "released"): number[] {
    const shards: number[] = [];
    for (const [shard, its] of states) if (its === state) shards.push(shard);
    return shards;
  }

  function note(type: HandOff["type"], peers: ReadonlyMap<number, string | null>): void {
    const byPeer = new Map<string | null, number[]>();
    for (const [shard, peer] of peers) byPeer.set(peer, [...(byPeer.get(peer) ?? []), shard]);
    for (const [peer, shards] of byPeer) {
      const isExpected = type !== "lost" && (type !== "taken" || peer === null);
      log[isExpected ? "info" : "warn"](`${shards.length} shards ${type}${withWhom(type, peer)}`);
      handOffs.unshift({ at: new Date(time.wallMs()).toISOString(), shards, type, peer });
    }
    handOffs.length = Math.min(handOffs.length, LIMITS.handOffsKept);
  }

  // ---- the loop ---------------------------------------------------------------------------------

  function look(): void {
    if (isStopped) return;
    if (looking !== null) {
      isLookDue = true;
      return;
    }
    looking = step()
      .catch(tellTrouble)
      .finally(() => {
        looking = null;
        if (!isLookDue) return;
        isLookDue = false;
        look();
      });
  }

  /** A database that refuses does so at every look. */
  function tellTrouble(error: unknown): void {
    if (time.nowMs() < quietUntilMs) return;
    quietUntilMs = time.nowMs() + LIMITS.troubleLogMs;
    log.warn(`ownership: ${messageOf(error)}`);
  }

  async function step(): Promise<void> {
    await releaseLeft();
    const members = membership === null ? null : await membership.read().catch(() => null);
    const view = membership === null ? null : lookout.observe(members, time.nowMs());
    isInView = view !== null;
    const table = await readTable();
    if (table === null) return;
    compare(table);
    const moves =
      membership === null
        ? movesAlone(table)
        : // With what the table has just told of who is alive.
          movesOf({ ...self, isLeaving }, withEvidence(view), table);
    giveUp(moves.give);
    await takeUp(moves.take);
  }

  /**
   * Two hosts that cannot hear each other would otherwise take the same shards from each other all
   * the time.
   */
  function withEvidence(view: View | null): View | null {
    if (view === null) return null;
    for (const [owner, untilMs] of evidentUntilMs) {
      if (time.nowMs() >= untilMs) evidentUntilMs.delete(owner);
    }
    return { ...view, alive: new Set([...view.alive, ...evidentUntilMs.keys()]) };
  }

  async function readTable(): Promise<ShardOwner[] | null> {
    try {
      const table = await shardTable.read();
      isTableInSight = true;
      hasWarned = false;
      return table;
    } catch (error) {
      if (!hasWarned) log.warn(`cannot read the shard table, trying again: ${messageOf(error)}`);
      hasWarned = true;
      isTableInSight = false;
      return null;
    }
  }

  /** What the table says is so, whatever was believed here. */
  function compare(table: readonly ShardOwner[]): void {
    const found: number[] = [];
    const gone = new Map<number, string | null>();
    for (const { shard, owner } of table) {
      const isOurs = owner === self.owner;
      const wasOurs = states.has(shard) || fenced.has(shard);
      if (isOurs && !states.has(shard)) found.push(shard);
      if (!isOurs && wasOurs) gone.set(shard, owner);
    }
    fenced.clear();
    if (gone.size > 0) {
      for (const [shard, owner] of gone) {
        states.delete(shard);
        if (owner !== null) evidentUntilMs.set(owner, time.nowMs() + LIMITS.evidenceMs);
      }
      deps.drop([...gone.keys()]);
      note("lost", gone);
    }
    // A take that worked and was not heard of, or a release that did not work.
    open(found);
  }

  function open(shards: readonly number[]): void {
    if (shards.length === 0) return;
    for (const shard of shards) {
      states.set(shard, "serving");
      hadOnce.add(shard);
    }
    deps.open(shards);
  }

  /**
   * Without others every shard is taken once, from whoever has it: a second host of this kind takes
   * over from the first. What that one gives back is taken again.
   */
  function movesAlone(table: readonly ShardOwner[]): Moves {
    const take = new Map<number, string | null>();
    const give = new Map<number, string | null>();
    for (const { shard, owner } of table) {
      if (isLeaving && owner === self.owner) give.set(shard, null);
      const isFree = owner === null || !hadOnce.has(shard);
      if (!isLeaving && owner !== self.owner && isFree) take.set(shard, owner);
    }
    return { take, give };
  }

  async function takeUp(take: Moves["take"]): Promise<void> {
    if (take.size === 0) return;
    const taken = await shardTable.take(self.owner, take);
    if (taken.length === 0) return;
    note("taken", new Map(taken.map((shard) => [shard, take.get(shard) ?? null])));
    open(taken);
  }

  function giveUp(give: Moves["give"]): void {
    if (give.size === 0) return;
    const underWay = inState("leaving").length + inState("released").length;
    const room = isLeaving ? Infinity : LIMITS.handOffShardsMax - underWay;
    const now = [...give]
      .filter(([shard]) => states.get(shard) === "serving")
      .slice(0, Math.max(0, room));
    if (now.length === 0) return;
    const shards = now.map(([shard]) => shard);
    for (const shard of shards) states.set(shard, "leaving");
    note("handed over", new Map(now));
    deps.leave(shards);
  }

  async function releaseLeft(): Promise<void> {
    const shards = inState("released");
    if (shards.length > 0) {
      try {
        await shardTable.release(self.owner, shards);
        for (const shard of shards) states.delete(shard);
        deps.announce(shards);
      } catch (error) {
        // One database is away; the others' shards must not wait for it. What was released there,
        // the table tells below.
        log.warn(`ownership: ${messageOf(error)}`);
      }
    }
    if (isLeaving && states.size === 0) onEmpty?.();
  }

  // ---- signs of life ----------------------------------------------------------------------------

  /** Without the bus nobody beats, so nobody is in a view of its own, and nothing moves. */
  async function beat(): Promise<void> {
    if (!deps.isReachable()) return;
    const member: Member = { ...self, isLeaving };
    await membership?.beat(member).catch(() => undefined);
  }

  return {
    async start() {
      if (membership !== null) {
        stopBeating = time.every(LIMITS.heartbeatMs, () => void beat());
        await beat();
      }
      const isAlone = membership === null;
      stopLooking = time.every(isAlone ? LIMITS.placementAloneMs : LIMITS.placementMs, look);
      look();
      await looking;
    },

    left(shards) {
      for (const shard of shards)
        if (states.get(shard) === "leaving") states.set(shard, "released");
      look();
    },

    lost(shards) {
      const known = shards.filter((shard) => states.delete(shard));
      for (const shard of known) fenced.add(shard);
      if (known.length === 0) return;
      deps.drop(known);
      look();
    },

    look,
    get isLeaving() {
      return isLeaving;
    },
    get isTableInSight() {
      return isTableInSight;
    },
    get isInView() {
      return isInView;
    },
    handOffs,

    async drain(withinMs) {
      isLeaving = true;
      await beat();
      const isEmpty = new Promise<void>((resolve) => {
        onEmpty = resolve;
        time.after(withinMs, resolve);
      });
      look();
      await isEmpty;
      isStopped = true;
      stopBeating();
      stopLooking();
      await looking;
      await membership?.leave(self.owner).catch(() => undefined);
    },
  };
}

function withWhom(type: HandOff["type"], peer: string | null): string {
  if (type === "handed over") return ` to ${peer ?? "whoever takes them"}`;
  if (peer === null) return "";
  return type === "taken" ? ` from ${peer}` : ` to ${peer}`;
}
