/**
 * A connection to Redis on which nobody waits. The library would keep questions until it is
 * connected, and ask some again; here each gets its answer within a bound or fails, and connecting
 * is tried again for ever. Why Redis is away can be told at any time: between two attempts to
 * connect a question only hears that there is no connection.
 */
import { Redis } from "ioredis";
import { LIMITS } from "./limits.ts";

export interface RedisOptions {
  readonly redisUrl: string;
  /** Shown by Redis for this connection. */
  readonly name: string;
  /** Time for one answer, in milliseconds. */
  readonly answerMs: number;
}

export interface RedisConnection {
  readonly redis: Redis;
  /** A sentence for whoever met that Redis is away, with what the last attempt to connect met. */
  awayText(): string;
}

/** Returns at once, and connects when it can. */
export function openRedis({ redisUrl, name, answerMs }: RedisOptions): RedisConnection {
  const redis = new Redis(redisUrl, {
    connectionName: name,
    commandTimeout: answerMs,
    connectTimeout: LIMITS.heartbeatTtlMs,
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    retryStrategy: () => LIMITS.heartbeatMs,
  });
  let lastTrouble = "not connected";
  redis.on("error", (error: Error) => {
    lastTrouble = error.message;
  });
  return { redis, awayText: () => `Redis is away: ${lastTrouble}` };
}
