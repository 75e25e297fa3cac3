/**
 * The membership port: who says to be alive. It hides Redis (`redis-membership.ts`) from the hosts,
 * and lets a simulator lie. What it tells is a hint, never a permission: it may be late, empty or
 * wrong, and then shards move needlessly or not at all, while the shard table and the journal's
 * fence keep the money right.
 */

export interface Member {
  /**
   * The configured name; what rendezvous hashing looks at, so that a host that comes back gets its
   * shards again.
   */
  readonly hostId: string;
  /** This run of it: what the shard table calls the owner. */
  readonly owner: string;
  /** When this run began, by its own clock; of two runs with one host id the younger counts. */
  readonly startedAtMs: number;
  /** It hands over what it has and wants nothing more. */
  readonly isLeaving: boolean;
}

export interface Membership {
  /**
   * Says that this member is alive, for `LIMITS.heartbeatTtlMs`. Rejects when that is not known to
   * be heard.
   */
  beat(member: Member): Promise<void>;
  /** Everybody whose word has not run out. Rejects when nobody can be asked. */
  read(): Promise<Member[]>;
  /** Takes the member's word back at once. */
  leave(owner: string): Promise<void>;
  close(): Promise<void>;
}
