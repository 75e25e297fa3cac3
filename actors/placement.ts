/**
 * Placement: which host should have which shard, and what one host does about it. Rendezvous
 * hashing (Thaler and Ravishankar, "Using name-based mappings to increase hit rates", 1998) over
 * the hosts that are alive moves only the shards of a host that comes or goes. Every host decides
 * for itself, from what Redis says of the others and what the shard table says of the shards; two
 * that see different things meet in the table's compare-and-set. Pure: time and views come as data.
 *
 *     unseen --heard--> joining --heard for joinSettleMs--> settled
 *     joining, settled --says so--> leaving
 *     joining, settled, leaving --missed for absenceMs--> unseen
 *
 * joining: it may take what is free. settled: others hand over to it what it should have. leaving:
 * it gets nothing more. Only a shard whose owner is unseen is taken from it. Without a view nothing
 * moves; with one that is too young to be trusted only free shards do.
 */
import { LIMITS } from "../src/limits.ts";
import type { ShardOwner } from "../src/core/shard-table.ts";
import type { Member } from "./membership.ts";

/** The host of a shard among these; null when there is none. */
export function placeOf(shard: number, hostIds: Iterable<string>): string | null {
  let best: string | null = null;
  let bestWeight = -1;
  for (const hostId of hostIds) {
    const weight = weightOf(hostId, shard);
    if (weight < bestWeight || (weight === bestWeight && best !== null && hostId < best)) continue;
    best = hostId;
    bestWeight = weight;
  }
  return best;
}

/**
 * FNV-1a over the name, then the 32-bit finalizer of MurmurHash3 over name and shard: names that
 * differ little spread well.
 */
function weightOf(hostId: string, shard: number): number {
  let hash = 0x811c9dc5;
  for (let index = 0; index < hostId.length; index++) {
    hash = Math.imul(hash ^ hostId.charCodeAt(index), 0x01000193);
  }
  hash ^= Math.imul(shard + 1, 0x9e3779b1);
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
  return (hash ^ (hash >>> 16)) >>> 0;
}

/** What a host makes of the signs of life. */
export interface View {
  /** Whether everybody who lives must have been heard by now. */
  readonly isTrusted: boolean;
  /** Owners whose shards nobody takes away. */
  readonly alive: ReadonlySet<string>;
  /** Host ids that may take what is free. */
  readonly present: ReadonlySet<string>;
  /** Host ids to which others hand over what they should have. */
  readonly settled: ReadonlySet<string>;
  /** By host id. */
  readonly owners: ReadonlyMap<string, string>;
  /** A younger run with this host's own id is there: this one has to give way. */
  readonly isSuperseded: boolean;
}

interface Sighting {
  member: Member;
  sinceMs: number;
  latestMs: number;
}

export interface Lookout {
  /**
   * Takes what was read just now, or null when nothing could be; returns the view, or null where
   * this host is not in it.
   */
  observe(members: readonly Member[] | null, nowMs: number): View | null;
}

/**
 * Follows who is alive, for one host: a lapse of Redis, or one wrong answer of it, must not look
 * like a death.
 */
export function buildLookout(self: Pick<Member, "hostId" | "owner" | "startedAtMs">): Lookout {
  const seen = new Map<string, Sighting>();
  /**
   * When everybody who lives has had time to be heard since nobody could be; null: nobody can be
   * now.
   */
  let trustedFromMs: number | null = null;

  function youngest(members: readonly Member[]): Map<string, Member> {
    const byHost = new Map<string, Member>();
    for (const member of members) {
      const other = byHost.get(member.hostId);
      if (other === undefined || isYounger(member, other)) byHost.set(member.hostId, member);
    }
    return byHost;
  }

  return {
    observe(members, nowMs) {
      const heard = members === null ? null : youngest(members);
      const me = heard?.get(self.hostId);
      // A view without this host itself is of somebody who was just switched on, or emptied.
      if (heard === null || me === undefined) {
        trustedFromMs = null;
        return null;
      }
      trustedFromMs ??= nowMs + LIMITS.redisSettleMs;
      for (const [hostId, member] of heard) {
        const sighting = seen.get(hostId);
        if (sighting === undefined) seen.set(hostId, { member, sinceMs: nowMs, latestMs: nowMs });
        else Object.assign(sighting, { member, latestMs: nowMs });
      }
      const isTrusted = nowMs >= trustedFromMs;
      for (const [hostId, { latestMs }] of seen) {
        if (isTrusted && nowMs - latestMs > LIMITS.absenceMs) seen.delete(hostId);
      }
      const isSuperseded = me.owner !== self.owner && isYounger(me, self);
      return { isTrusted, isSuperseded, ...membersIn(seen, self.hostId, nowMs) };
    },
  };
}

function isYounger(
  one: Pick<Member, "owner" | "startedAtMs">,
  other: Pick<Member, "owner" | "startedAtMs">,
): boolean {
  if (one.startedAtMs !== other.startedAtMs) return one.startedAtMs > other.startedAtMs;
  return one.owner > other.owner;
}

function membersIn(seen: ReadonlyMap<string, Sighting>, self: string, nowMs: number) {
  const alive = new Set<string>();
  const present = new Set<string>();
  const settled = new Set<string>();
  const owners = new Map<string, string>();
  for (const [hostId, { member, sinceMs }] of seen) {
    alive.add(member.owner);
    owners.set(hostId, member.owner);
    if (member.isLeaving) continue;
    present.add(hostId);
    if (hostId === self || nowMs - sinceMs >= LIMITS.joinSettleMs) settled.add(hostId);
  }
  return { alive, present, settled, owners };
}

/**
 * What a host should do now: each shard with the owner it is taken from, or with the owner it is
 * meant for; null: from nobody, or for whoever takes it.
 */
export interface Moves {
  readonly take: ReadonlyMap<number, string | null>;
  readonly give: ReadonlyMap<number, string | null>;
}

/** Moves of one host, from its view (null: none to be trusted) and the shard table. */
export function movesOf(
  self: Pick<Member, "hostId" | "owner" | "isLeaving">,
  view: View | null,
  table: readonly ShardOwner[],
): Moves {
  const take = new Map<number, string | null>();
  const give = new Map<number, string | null>();
  const mayTake = view !== null && !self.isLeaving && !view.isSuperseded;
  const places = view?.isTrusted === true ? placesOf(self, view) : null;
  for (const { shard, owner } of table) {
    if (owner === self.owner) {
      const place = places === null ? self.hostId : placeOf(shard, places);
      const isMoving = self.isLeaving || view?.isSuperseded === true || place !== self.hostId;
      if (!isMoving) continue;
      // Who leaves before its view is to be trusted does not know who else there is.
      const heir = view?.owners.get(place ?? "") ?? null;
      give.set(shard, heir === self.owner ? null : heir);
    } else if (mayTake) {
      const isFree = owner === null || (view.isTrusted && !view.alive.has(owner));
      if (isFree && placeOf(shard, view.present) === self.hostId) take.set(shard, owner);
    }
  }
  return { take, give };
}

function placesOf(self: Pick<Member, "hostId" | "isLeaving">, view: View): ReadonlySet<string> {
  if (!self.isLeaving) return view.settled;
  const others = new Set(view.settled);
  others.delete(self.hostId);
  return others;
}
