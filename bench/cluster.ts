/**
 * Coffer as a cluster for the benchmark: one gateway and some hosts, each a process, with a NATS
 * and a Redis of their own on the same machine and the benchmark's PostgreSQL. It waits until every
 * host has its share of the shards, so that no hand-off falls into a measurement. The gateway's
 * port is the system's.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { startNats, startRedis } from "../test/stage/servers.ts";
import { HttpConnection } from "./http-client.ts";
import { startCoffer, type CofferStart, type RunningSystem } from "./processes.ts";

const SPREAD_MS_MAX = 60_000;
const POLL_MS = 250;

export async function startCluster(
  name: string,
  hostCount: number,
  start: Omit<CofferStart, "settings">,
): Promise<RunningSystem> {
  /** Last first, so the gateway ends before its hosts and the hosts before their servers. */
  const stops: (() => Promise<void>)[] = [];
  const stop = async (): Promise<void> => {
    for (const each of stops.splice(0).toReversed()) await each();
  };
  try {
    const nats = await startNats();
    stops.push(nats.stop);
    const redis = await startRedis();
    stops.push(redis.stop);
    const startOne = async (role: "host" | "gateway", number: number): Promise<RunningSystem> => {
      const settings = {
        ROLE: role,
        HOST_ID: `${name}-${role}-${number}`,
        NATS_URL: nats.url,
        REDIS_URL: redis.url,
      };
      const running = await startCoffer({ ...start, settings });
      stops.push(running.stop);
      return running;
    };
    const hosts: RunningSystem[] = [];
    for (let number = 1; number <= hostCount; number += 1) {
      hosts.push(await startOne("host", number));
    }
    const gateway = await startOne("gateway", 1);
    const assertAlive = (): void => {
      for (const each of [gateway, ...hosts]) each.assertAlive();
    };
    await untilSpread(gateway.port, hostCount, assertAlive);
    return { port: gateway.port, assertAlive, stop };
  } catch (error) {
    await stop();
    throw error;
  }
}

interface ClusterView {
  readonly shards: { readonly orphaned: { readonly count: number } } | null;
  readonly hosts: readonly {
    readonly owned: { readonly count: number } | null;
    readonly served: { readonly count: number } | null;
  }[];
}

/** Every shard has an owner that serves it, and every host has some. */
async function untilSpread(port: number, hostCount: number, assertAlive: () => void) {
  const connection = new HttpConnection("127.0.0.1", port, 5_000);
  const deadlineMs = Date.now() + SPREAD_MS_MAX;
  let last = "no answer yet";
  try {
    while (Date.now() < deadlineMs) {
      assertAlive();
      const answer = await connection.get("/cluster");
      last = answer.body.toString("utf8");
      if (answer.status === 200 && isSpread(JSON.parse(last) as ClusterView, hostCount)) return;
      await sleep(POLL_MS);
    }
  } finally {
    connection.close();
  }
  const shown = last.slice(0, 1_000);
  throw new Error(`the shards were not spread after ${SPREAD_MS_MAX} ms: ${shown}`);
}

function isSpread({ shards, hosts }: ClusterView, hostCount: number): boolean {
  return (
    shards?.orphaned.count === 0 &&
    hosts.length === hostCount &&
    hosts.every(({ owned, served }) => {
      const count = owned?.count ?? 0;
      return count > 0 && served?.count === count;
    })
  );
}
