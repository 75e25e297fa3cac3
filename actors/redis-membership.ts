/**
 * Membership in Redis: each host's word is a key with a time to live, and a set holds the names of
 * all who ever spoke. It says who is alive and nothing about who may write, which only PostgreSQL
 * knows; with Redis away the hosts serve on, and nothing moves. Several deployments may share one:
 * each sees its own hosts only.
 */
import { LIMITS } from "../src/limits.ts";
import { messageOf } from "../src/message-of.ts";
import { openRedis } from "../src/redis.ts";
import type { Member, Membership } from "./membership.ts";

export interface RedisMembershipOptions {
  readonly redisUrl: string;
  /** Shown by Redis for this connection. */
  readonly name: string;
  readonly log: { warn(text: string): void };
  /** Whose hosts they are; null as long as no database has said it. */
  readonly deploymentId: () => string | null;
}

export interface RedisMembership extends Membership {
  /** Round trip in milliseconds; rejects when Redis is away, or refuses what hosts need of it. */
  ping(): Promise<number>;
}

const REFUSES = "Redis refuses what hosts ask of it, so no shard moves";

/** The set of owners. */
const OWNERS_KEY = "coffer:hosts";

/** The key of a host's word, by its owner name. */
function memberKey(owner: string): string {
  return `coffer:host:${owner}`;
}

export function buildRedisMembership(options: RedisMembershipOptions): RedisMembership {
  const { redisUrl, name, log, deploymentId } = options;
  const { redis, awayText } = openRedis({ redisUrl, name, answerMs: LIMITS.redisAnswerMs });
  let isAway = false;
  redis.on("error", () => {
    if (!isAway) log.warn(awayText());
    isAway = true;
  });
  redis.on("ready", () => {
    if (isAway) log.warn("Redis is back");
    isAway = false;
  });

  /**
   * What a Redis that is there does not do: full, a replica, without the permission, or too slow.
   * It answers a ping all the same, and without the words of hosts nobody takes over from anybody.
   */
  const refused = new Map<"beat" | "read", string>();
  async function watched<T>(what: "beat" | "read", work: () => Promise<T>): Promise<T> {
    try {
      const result = await work();
      if (refused.delete(what) && refused.size === 0) {
        log.warn("Redis does again what hosts ask of it");
      }
      return result;
    } catch (error) {
      if (redis.status === "ready") {
        if (refused.size === 0) log.warn(`${REFUSES}: ${messageOf(error)}`);
        refused.set(what, messageOf(error));
      }
      throw error;
    }
  }

  async function beat(member: Member): Promise<void> {
    const text = JSON.stringify({ ...member, deploymentId: deploymentId() ?? undefined });
    const results = await redis
      .multi()
      .set(memberKey(member.owner), text, "PX", LIMITS.heartbeatTtlMs)
      .sadd(OWNERS_KEY, member.owner)
      .exec();
    const failure = results?.find(([error]) => error !== null);
    if (failure !== undefined) throw failure[0]!;
  }

  async function read(): Promise<Member[]> {
    const owners = await redis.smembers(OWNERS_KEY);
    if (owners.length === 0) return [];
    const texts = await redis.mget(owners.map(memberKey));
    const silent = owners.filter((_, index) => texts[index] === null);
    // One that speaks again just now adds itself again with its next word.
    if (silent.length > 0) void redis.srem(OWNERS_KEY, ...silent).catch(() => undefined);
    return texts.flatMap((text) => (text === null ? [] : readMember(text, deploymentId())));
  }

  return {
    beat: (member) => watched("beat", () => beat(member)),

    read: () => watched("read", read),

    async leave(owner) {
      await redis.del(memberKey(owner));
    },

    async ping() {
      if (redis.status !== "ready") throw new Error(awayText());
      const startedAtMs = performance.now();
      await redis.ping();
      const [reason] = refused.values();
      if (reason !== undefined) throw new Error(`${REFUSES}: ${reason}`);
      return performance.now() - startedAtMs;
    },

    close() {
      redis.disconnect();
      return Promise.resolve();
    },
  };
}

/**
 * Nothing, when it is not a member's word, or another deployment's. Hosts of former versions do not
 * say whose they are.
 */
function readMember(text: string, own: string | null): Member[] {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return [];
  }
  const { hostId, owner, startedAtMs, isLeaving, deploymentId } = (value ?? {}) as Partial<
    Member & { deploymentId: unknown }
  >;
  if (own !== null && deploymentId !== undefined && deploymentId !== own) return [];
  if (typeof hostId !== "string" || typeof owner !== "string") return [];
  if (typeof startedAtMs !== "number") return [];
  return [{ hostId, owner, startedAtMs, isLeaving: isLeaving === true }];
}
