/**
 * `GET /cluster`: who serves what. Two sources are merged. The shard table says who may write each
 * shard and is the authority; the hosts say over the bus what they do now, each in one message, and
 * one that is silent is listed as not answering. Either source may be away: then its part is null,
 * with a reason, and the other is shown. However many ask at once, the hosts are asked once.
 */
import type { FastifyInstance } from "fastify";
import { Compile } from "typebox/schema";

import type { Bus } from "../../src/core/bus.ts";
import { systemTime, type Time } from "../../src/clock.ts";
import { LIMITS } from "../../src/limits.ts";
import { messageOf } from "../../src/message-of.ts";
import { SUBJECTS, type HostStatus } from "../../src/core/protocol.ts";
import { ALL_SHARDS } from "../../src/core/shard.ts";
import type { ShardOwner, ShardTable } from "../../src/core/shard-table.ts";
import {
  Cluster,
  HostStatusMessage,
  type ClusterBody,
  type ClusterHostBody,
} from "./cluster-schemas.ts";
import { NoQuery, problems } from "../schemas.ts";

export interface ClusterRoutesDeps {
  readonly bus: Pick<Bus, "publish" | "subscribe" | "state">;
  readonly shardTable: Pick<ShardTable, "read">;
  /** Names the inboxes for the hosts' answers, as it does the one for replies. */
  readonly gatewayId: string;
  readonly time?: Pick<Time, "wallMs" | "after">;
}

export function addClusterRoutes(app: FastifyInstance, deps: ClusterRoutesDeps): void {
  const look = buildClusterLook(deps);
  const schema = {
    tags: ["cluster"],
    summary: "Hosts, shards, lanes, epochs, mailbox depths and the latest hand-offs",
    description: `Hosts have ${LIMITS.clusterAnswerMs} ms to answer, so the answer takes that long.`,
    querystring: NoQuery,
    response: { 200: Cluster, ...problems },
  };
  app.get("/cluster", { schema }, (_request, reply) => {
    reply.header("cache-control", "no-store");
    return look();
  });
}

/** Never rejects; answers within `LIMITS.clusterTableMs`. Calls while one is under way share it. */
export function buildClusterLook(deps: ClusterRoutesDeps): () => Promise<ClusterBody> {
  const { bus, gatewayId, time = systemTime } = deps;
  let looks = 0;
  let underWay: Promise<ClusterBody> | undefined;

  async function look(): Promise<ClusterBody> {
    looks += 1;
    // An inbox for each look, so that a late answer to one is not taken for an answer to the next.
    const inbox = SUBJECTS.inbox(`${gatewayId}-status-${looks}`);
    const [statuses, table] = await Promise.all([
      askHosts(bus, inbox, time),
      readTable(deps.shardTable, time),
    ]);
    return {
      at: new Date(time.wallMs()).toISOString(),
      gateway: { id: gatewayId, bus: bus.state },
      ...mergeCluster(statuses, table),
    };
  }

  return () => {
    underWay ??= look().finally(() => {
      underWay = undefined;
    });
    return underWay;
  };
}

// --- The two sources -----------------------------------------------------------------------------

const hostStatus = Compile(HostStatusMessage);

/**
 * By owner, so that a repeated answer counts once. More hosts than shards cannot own anything:
 * further ones are not listed.
 */
function askHosts(
  bus: ClusterRoutesDeps["bus"],
  inbox: string,
  time: Pick<Time, "after">,
): Promise<Map<string, HostStatus>> {
  const statuses = new Map<string, HostStatus>();
  return new Promise((resolve) => {
    const unsubscribe = bus.subscribe<unknown>(inbox, (message) => {
      if (statuses.size >= LIMITS.shardCount || !hostStatus.Check(message)) return;
      statuses.set(message.owner, message);
    });
    const end = (): void => {
      cancel();
      unsubscribe();
      resolve(statuses);
    };
    const cancel = time.after(LIMITS.clusterAnswerMs, end);
    bus.publish(SUBJECTS.status, { inbox }, end);
  });
}

type TableView =
  | { readonly rows: readonly ShardOwner[] }
  | { readonly rows: null; readonly reason: string };

function readTable(
  shardTable: Pick<ShardTable, "read">,
  time: Pick<Time, "after">,
): Promise<TableView> {
  return new Promise((resolve) => {
    const late = `the shard table was not read within ${LIMITS.clusterTableMs} ms`;
    const cancel = time.after(LIMITS.clusterTableMs, () => resolve({ rows: null, reason: late }));
    shardTable
      .read()
      .then(
        (rows) => resolve({ rows }),
        (error: unknown) => {
          const reason = `the shard table cannot be read: ${messageOf(error)}`;
          resolve({ rows: null, reason });
        },
      )
      .finally(cancel);
  });
}

// --- Merging -------------------------------------------------------------------------------------

/** What one run of a host has by the shard table. */
interface Holding {
  readonly shards: number[];
  epoch: number;
  claimedAtMs: number;
}

/** Pure: the page's parts, hosts in the order of their names. */
function mergeCluster(
  statuses: ReadonlyMap<string, HostStatus>,
  table: TableView,
): Pick<ClusterBody, "shards" | "shardsReason" | "hosts"> {
  const holdings = table.rows === null ? null : holdingsOf(table.rows);
  const owners = new Set([...statuses.keys(), ...(holdings?.keys() ?? [])]);
  const hosts = Array.from(owners, (owner) => {
    const holding = holdings === null ? null : (holdings.get(owner) ?? NOTHING);
    return hostBody(owner, statuses.get(owner), holding);
  });
  return {
    shards: table.rows === null ? null : countShards(table.rows),
    shardsReason: table.rows === null ? table.reason : null,
    hosts: hosts.toSorted(
      (one, other) => compare(one.hostId, other.hostId) || compare(one.owner, other.owner),
    ),
  };
}

const NOTHING: Holding = { shards: [], epoch: 0, claimedAtMs: 0 };

function holdingsOf(rows: readonly ShardOwner[]): Map<string, Holding> {
  const holdings = new Map<string, Holding>();
  for (const { shard, owner, epoch, claimedAtMs } of rows) {
    if (owner === null) continue;
    const holding = holdings.get(owner) ?? { shards: [], epoch: 0, claimedAtMs: 0 };
    holding.shards.push(shard);
    holding.epoch = Math.max(holding.epoch, epoch);
    holding.claimedAtMs = Math.max(holding.claimedAtMs, claimedAtMs);
    holdings.set(owner, holding);
  }
  return holdings;
}

function countShards(rows: readonly ShardOwner[]): NonNullable<ClusterBody["shards"]> {
  const known = new Set(rows.map(({ shard }) => shard));
  const ownedBy = (isOwned: boolean) =>
    rows.filter(({ owner }) => (owner !== null) === isOwned).map(({ shard }) => shard);
  return {
    total: LIMITS.shardCount,
    owned: shardSet(ownedBy(true)),
    orphaned: shardSet(ownedBy(false)),
    unknown: shardSet(ALL_SHARDS.filter((shard) => !known.has(shard))),
  };
}

function hostBody(
  owner: string,
  status: HostStatus | undefined,
  holding: Holding | null,
): ClusterHostBody {
  const hasShards = holding !== null && holding.shards.length > 0;
  return {
    hostId: status?.hostId ?? hostIdOf(owner),
    owner,
    answering: status !== undefined,
    startedAt: status?.startedAt ?? null,
    ready: status?.ready ?? null,
    leaving: status?.leaving ?? null,
    owned: holding === null ? null : shardSet(holding.shards),
    served: status === undefined ? null : shardSet(status.shards),
    epoch: hasShards ? holding.epoch : null,
    claimedAt: hasShards ? new Date(holding.claimedAtMs).toISOString() : null,
    lanes: status === undefined ? [] : status.lanes.map((lane) => ({ ...lane })),
    books: status?.books ?? null,
    handOffs: (status?.handOffs ?? []).map(({ at, type, shards, peer }) => ({
      at,
      type,
      shards: shardSet(shards),
      peer,
    })),
  };
}

/** An owner is `hostId:run`. */
export function hostIdOf(owner: string): string {
  const end = owner.lastIndexOf(":");
  return end > 0 ? owner.slice(0, end) : owner;
}

function shardSet(shards: readonly number[]): { count: number; list: string } {
  const ascending = [...new Set(shards)].toSorted((one, other) => one - other);
  const ranges: { first: number; last: number }[] = [];
  for (const shard of ascending) {
    const latest = ranges.at(-1);
    if (latest !== undefined && latest.last === shard - 1) latest.last = shard;
    else ranges.push({ first: shard, last: shard });
  }
  const list = ranges.map(({ first, last }) => (first === last ? `${first}` : `${first}-${last}`));
  return { count: ascending.length, list: list.join(",") };
}

function compare(one: string, other: string): number {
  return one < other ? -1 : one > other ? 1 : 0;
}
