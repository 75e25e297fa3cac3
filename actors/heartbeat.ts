/**
 * A host's sign of life in Redis: a key with a time to live, written again before it ends. It says who is alive and nothing about who
 * may write, which only PostgreSQL knows; with Redis away the host serves on and nobody hears its heart.
 */
import { Redis } from "ioredis";
import { LIMITS } from "../src/limits.ts";

export interface HeartbeatOptions {
  readonly redisUrl: string;
  readonly hostId: string;
  /** What the heartbeat tells: JSON data of a few hundred bytes. */
  readonly content: () => object;
  readonly log: { warn(text: string): void };
}

export interface Heartbeat {
  /** Round trip to Redis in milliseconds; rejects when it is away. */
  ping(): Promise<number>;
  /** Takes the sign away and closes. */
  stop(): Promise<void>;
}

/** The key of a host's sign of life. */
export function heartbeatKey(hostId: string): string {
  return `coffer:host:${hostId}`;
}

export function startHeartbeat(options: HeartbeatOptions): Heartbeat {
  const { redisUrl, hostId, content, log } = options;
  const key = heartbeatKey(hostId);
  const redis = new Redis(redisUrl, {
    connectionName: `coffer-${hostId}`,
    commandTimeout: LIMITS.heartbeatMs,
    connectTimeout: LIMITS.heartbeatTtlMs,
    enableOfflineQueue: false,
    maxRetriesPerRequest: 0,
    retryStrategy: () => LIMITS.heartbeatMs,
  });
  let isAway = false;
  redis.on("error", (error: Error) => {
    if (!isAway) log.warn(`Redis is away: ${error.message}`);
    isAway = true;
  });
  redis.on("ready", () => {
    if (isAway) log.warn("Redis is back");
    isAway = false;
    void beat();
  });

  async function beat(): Promise<void> {
    if (redis.status !== "ready") return;
    try {
      await redis.set(key, JSON.stringify(content()), "PX", LIMITS.heartbeatTtlMs);
    } catch (error) {
      log.warn(`a heartbeat was lost: ${String(error)}`);
    }
  }

  const timer = setInterval(() => void beat(), LIMITS.heartbeatMs);
  return {
    async ping() {
      const startedAtMs = performance.now();
      await redis.ping();
      return performance.now() - startedAtMs;
    },
    async stop() {
      clearInterval(timer);
      await redis.del(key).catch(() => undefined);
      redis.disconnect();
    },
  };
}
