/**
 * The rate limit: requests of one client address per second, counted in Redis for all gateways
 * together. It hides that Redis may be away: then each gateway counts by itself, at once and
 * without letting anybody through uncounted or keeping anybody waiting, and asks Redis again a
 * moment later. Windows are fixed, so around their edge a client may get twice its number in a
 * second; a sliding window would cost Redis more for each request than it is worth here.
 */
import fastifyRateLimit from "@fastify/rate-limit";
import type { FastifyInstance } from "fastify";
import type { Redis } from "ioredis";

import { LIMITS } from "../src/limits.ts";
import { messageOf } from "../src/message-of.ts";
import { openRedis } from "../src/redis.ts";
import { ApiException, apiError } from "./errors.ts";

export interface RateLimit {
  /**
   * Counts the requests to all routes that are added afterwards, except those with
   * `config.rateLimit: false`.
   */
  limit(app: FastifyInstance): void;
  /** Whether this gateway counts by itself now. */
  readonly isLocal: boolean;
  close(): Promise<void>;
}

export interface RateLimitOptions {
  readonly perSecond: number;
  /** Undefined: each gateway counts by itself, always. */
  readonly redisUrl: string | undefined;
  /** Shown by Redis for this connection. */
  readonly name: string;
  readonly log: { warn(text: string): void };
}

/** How often a client has come in the window, and how long that window still is. */
interface Count {
  readonly current: number;
  readonly ttl: number;
}

/** The key of a client's count. */
export function rateKey(client: string): string {
  return `coffer:rate:${client}`;
}

export function buildRateLimit(options: RateLimitOptions): RateLimit {
  const { perSecond, redisUrl, name, log } = options;
  const countHere = buildLocalCounts();
  const answerMs = LIMITS.rateLimitRedisMs;
  const connection = redisUrl === undefined ? null : openRedis({ redisUrl, name, answerMs });
  let isLocal = connection === null;
  let askAgainAtMs = 0;

  function local(reason: string): void {
    if (!isLocal) log.warn(`requests are counted by this gateway alone: ${reason}`);
    isLocal = true;
    askAgainAtMs = performance.now() + LIMITS.rateLimitRedisPauseMs;
  }

  async function count(client: string): Promise<Count> {
    const isResting = isLocal && performance.now() < askAgainAtMs;
    if (connection === null || isResting) return countHere(client);
    // While it is not known whether Redis answers, one request asks and the others do not wait for
    // it.
    if (isLocal) askAgainAtMs = performance.now() + LIMITS.rateLimitRedisPauseMs;
    const { redis, awayText } = connection;
    try {
      const found = await countInRedis(redis, client);
      if (isLocal) log.warn("requests are counted by all gateways together again");
      isLocal = false;
      return found;
    } catch (error) {
      // A connection may be lost that the library still calls ready.
      const reason = messageOf(error);
      const isAway = redis.status !== "ready" || reason.includes("enableOfflineQueue");
      local(isAway ? awayText() : reason);
      return countHere(client);
    }
  }

  // A class, since the plugin makes its store by `new`.
  class Store {
    async incr(client: string, done: (error: null, count: Count) => void): Promise<void> {
      done(null, await count(client));
    }

    child(): Store {
      return this;
    }
  }

  return {
    limit(app) {
      void app.register(fastifyRateLimit, {
        max: perSecond,
        timeWindow: LIMITS.rateLimitWindowMs,
        store: Store,
        errorResponseBuilder: () => new ApiException(apiError("rate_limited")),
      });
    },
    get isLocal() {
      return isLocal;
    },
    close() {
      connection?.redis.disconnect();
      return Promise.resolve();
    },
  };
}

/** The first request of a window makes the key, which goes by itself. */
async function countInRedis(redis: Redis, client: string): Promise<Count> {
  const key = rateKey(client);
  const results = await redis
    .multi()
    .set(key, 0, "PX", LIMITS.rateLimitWindowMs, "NX")
    .incr(key)
    .pttl(key)
    .exec();
  const [, current, ttl] = (results ?? []).map(([error, value]) => {
    if (error !== null) throw error;
    return Number(value);
  });
  if (current === undefined || ttl === undefined) throw new Error("Redis gave no count");
  return { current, ttl: Math.max(0, ttl) };
}

/** All clients have the same window, so its end forgets them all at once. */
function buildLocalCounts(): (client: string) => Count {
  const counts = new Map<string, number>();
  let endsAtMs = 0;
  return (client) => {
    const nowMs = performance.now();
    if (nowMs >= endsAtMs) {
      counts.clear();
      endsAtMs = nowMs + LIMITS.rateLimitWindowMs;
    }
    const isNew = !counts.has(client) && counts.size >= LIMITS.rateLimitClientsMax;
    const key = isNew ? "" : client;
    const current = (counts.get(key) ?? 0) + 1;
    counts.set(key, current);
    return { current, ttl: endsAtMs - nowMs };
  };
}
