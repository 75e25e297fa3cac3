/**
 * `GET /cluster` over the in-process bus, with hosts that answer, stay silent or talk nonsense, and
 * a shard table that can be read, in part or not at all.
 */
import { pino } from "pino";
import { describe, expect, it } from "vitest";

import type { Bus } from "../../src/core/bus.ts";
import { LIMITS } from "../../src/limits.ts";
import { buildMemoryBus } from "../../src/bus/memory-bus.ts";
import { buildPostgresAssets } from "../../src/postgres/assets.ts";
import { buildPostgresReadModel } from "../../src/postgres/read-model.ts";
import { SUBJECTS, type HostStatus } from "../../src/core/protocol.ts";
import type { ShardOwner } from "../../src/core/shard-table.ts";
import { buildAnswers } from "../answers.ts";
import { buildBatches } from "../batch.ts";
import { buildClusterLook, type ClusterRoutesDeps } from "./cluster-routes.ts";
import { buildCommandIntake } from "../command-intake.ts";
import { buildCommandDesk } from "../commands.ts";
import { buildGateway } from "../http.ts";

const ALL = Array.from({ length: LIMITS.shardCount }, (_, shard) => shard);
const EVEN = ALL.filter((shard) => shard % 2 === 0);

function statusOf(owner: string, shards: readonly number[], more: Partial<HostStatus> = {}) {
  const status: HostStatus = {
    hostId: owner.slice(0, owner.indexOf(":")),
    owner,
    startedAt: "2026-01-01T11:00:00.000Z",
    ready: true,
    leaving: false,
    shards,
    lanes: [
      {
        name: "lane 0",
        shards: shards.length,
        serving: true,
        actors: 10,
        mailboxDepth: 3,
        outstanding: 2,
        pendingTransfers: 1,
      },
    ],
    handOffs: [],
    ...more,
  };
  return status;
}

/** Answers every question with this. */
function answerWith(bus: Bus, ...answers: unknown[]): void {
  bus.subscribe<{ inbox: string }>(SUBJECTS.status, ({ inbox }) => {
    for (const answer of answers) bus.publish(inbox, answer);
  });
}

function tableOf(ownerOf: (shard: number) => string | null, shards = ALL): ShardOwner[] {
  return shards.map((shard) => ({
    shard,
    owner: ownerOf(shard),
    epoch: 100 + shard,
    claimedAtMs: Date.parse("2026-01-01T11:30:00.000Z") + shard,
  }));
}

const reading = (rows: ShardOwner[]): ClusterRoutesDeps["shardTable"] => ({
  read: () => Promise.resolve(rows),
});

/** Time stands still, except that waits end soon: long enough for what the bus carries. */
const time: NonNullable<ClusterRoutesDeps["time"]> = {
  wallMs: () => Date.parse("2026-01-01T12:00:00.000Z"),
  after(delayMs, task) {
    const timer = setTimeout(task, delayMs / 20);
    return () => clearTimeout(timer);
  },
};

function look(bus: Bus, shardTable: ClusterRoutesDeps["shardTable"]) {
  return buildClusterLook({ bus, shardTable, gatewayId: "gateway-1", time })();
}

describe("the merged view", () => {
  it("shows what the table and each host's own answer say", async () => {
    const bus = buildMemoryBus();
    const taken = {
      at: "2026-01-01T11:30:00.000Z",
      shards: [4, 2, 3],
      type: "taken",
      peer: "host-b:1",
    } as const;
    answerWith(
      bus,
      statusOf("host-b:1", [1]),
      statusOf("host-a:1", EVEN, { handOffs: [taken], leaving: true }),
    );
    const table = tableOf((shard) => (shard % 2 === 0 ? "host-a:1" : "host-b:1"));
    const cluster = await look(bus, reading(table));
    expect(cluster.at).toBe("2026-01-01T12:00:00.000Z");
    expect(cluster.gateway).toEqual({ id: "gateway-1", bus: "connected" });
    expect(cluster.shardsReason).toBeNull();
    expect(cluster.shards).toEqual({
      total: 256,
      owned: { count: 256, list: "0-255" },
      orphaned: { count: 0, list: "" },
      unknown: { count: 0, list: "" },
    });
    expect(cluster.hosts.map(({ hostId }) => hostId)).toEqual(["host-a", "host-b"]);
    expect(cluster.hosts[0]).toMatchObject({
      owner: "host-a:1",
      answering: true,
      ready: true,
      leaving: true,
      owned: { count: 128 },
      served: { count: 128 },
      epoch: 354,
      claimedAt: "2026-01-01T11:30:00.254Z",
      lanes: [{ name: "lane 0", mailboxDepth: 3, outstanding: 2, pendingTransfers: 1 }],
      handOffs: [{ type: "taken", shards: { count: 3, list: "2-4" }, peer: "host-b:1" }],
    });
    expect(cluster.hosts[1]).toMatchObject({ owned: { count: 128 }, served: { list: "1" } });
  });

  it("lists a host that owns shards and is silent, and counts shards without an owner", async () => {
    const bus = buildMemoryBus();
    answerWith(bus, statusOf("host-a:1", [0, 1, 2]));
    const table = tableOf((shard) => (shard < 3 ? "host-a:1" : shard < 200 ? "dead:host:2" : null));
    const { shards, hosts } = await look(bus, reading(table));
    expect(shards?.owned).toEqual({ count: 200, list: "0-199" });
    expect(shards?.orphaned).toEqual({ count: 56, list: "200-255" });
    expect(hosts).toHaveLength(2);
    expect(hosts[0]).toEqual({
      hostId: "dead:host",
      owner: "dead:host:2",
      answering: false,
      startedAt: null,
      ready: null,
      leaving: null,
      owned: { count: 197, list: "3-199" },
      served: null,
      epoch: 299,
      claimedAt: "2026-01-01T11:30:00.199Z",
      lanes: [],
      books: null,
      handOffs: [],
    });
  });

  it("tells what a host knows of its books", async () => {
    const bus = buildMemoryBus();
    const lastRunAt = "2026-01-01T11:58:12.250Z";
    const counts = { differences: 2, warnings: 1, walletsChecked: 5_120 };
    const books = { running: true, lastRunAt, ...counts };
    answerWith(bus, statusOf("host-a:1", ALL, { books }));
    const { hosts } = await look(bus, reading(tableOf(() => "host-a:1")));
    expect(hosts).toMatchObject([{ owner: "host-a:1", books }]);
  });

  it("tells two runs of one HOST_ID apart", async () => {
    const bus = buildMemoryBus();
    answerWith(bus, statusOf("host-a:1", []), statusOf("host-a:2", ALL));
    const { hosts } = await look(bus, reading(tableOf(() => "host-a:2")));
    expect(hosts.map(({ owner, owned, served }) => [owner, owned?.count, served?.count])).toEqual([
      ["host-a:1", 0, 0],
      ["host-a:2", 256, 256],
    ]);
  });

  it("says which shards are in a database that cannot be reached", async () => {
    const bus = buildMemoryBus();
    const { shards } = await look(bus, reading(tableOf(() => "host-a:1", EVEN)));
    expect(shards?.owned.count).toBe(128);
    expect(shards?.orphaned.count).toBe(0);
    expect(shards?.unknown.count).toBe(128);
    expect(shards?.unknown.list.startsWith("1,3,5,")).toBe(true);
  });

  it("shows the hosts while the shard table cannot be read", async () => {
    const bus = buildMemoryBus();
    answerWith(bus, statusOf("host-a:1", ALL));
    const refused = { read: () => Promise.reject(new Error("connection refused")) };
    const cluster = await look(bus, refused);
    expect(cluster.shards).toBeNull();
    expect(cluster.shardsReason).toBe("the shard table cannot be read: connection refused");
    expect(cluster.hosts).toHaveLength(1);
    expect(cluster.hosts[0]).toMatchObject({ owned: null, epoch: null, served: { count: 256 } });
  });

  it("does not wait for a shard table that hangs", async () => {
    const cluster = await look(buildMemoryBus(), { read: () => new Promise(() => undefined) });
    expect(cluster.shards).toBeNull();
    expect(cluster.shardsReason).toMatch(/was not read within \d+ ms/);
  });

  it("ends the wait at once when no host is there to be asked", async () => {
    const never = { ...time, after: () => () => undefined };
    const cluster = await buildClusterLook({
      bus: buildMemoryBus(),
      shardTable: reading(tableOf(() => null)),
      gatewayId: "gateway-1",
      time: never,
    })();
    expect(cluster.hosts).toEqual([]);
    expect(cluster.shards?.orphaned.count).toBe(256);
  });
});

describe("what arrives in the inbox", () => {
  const good = statusOf("host-a:1", [1]);
  it.each<[string, unknown]>([
    ["nothing", null],
    ["text", "host"],
    ["a list", [good]],
    ["a host without a name", { ...good, hostId: undefined }],
    ["a name that would move a terminal's cursor", { ...good, hostId: "\u001B[2J" }],
    ["a name without end", { ...good, owner: "x".repeat(10_000) }],
    ["a shard that is none", { ...good, shards: [256] }],
    ["more shards than there are", { ...good, shards: Array(257).fill(1) }],
    ["a lane without figures", { ...good, lanes: [{ name: "lane 0" }] }],
    ["a time that is none", { ...good, startedAt: "yesterday" }],
    ["books without a time", { ...good, books: { running: false, lastRunAt: "today" } }],
    ["a hand-off of another type", { ...good, handOffs: [{ type: "stolen" }] }],
  ])("is ignored when it is %s", async (_what, message) => {
    const bus = buildMemoryBus();
    answerWith(bus, message, statusOf("host-b:1", [2]));
    const { hosts } = await look(bus, reading(tableOf(() => null)));
    expect(hosts.map(({ owner }) => owner)).toEqual(["host-b:1"]);
  });

  it("counts a host that answers twice once, and no more hosts than there are shards", async () => {
    const bus = buildMemoryBus();
    const crowd = Array.from({ length: 300 }, (_, n) => statusOf(`host-${n}:1`, []));
    answerWith(bus, statusOf("host-0:1", [7]), ...crowd);
    const { hosts } = await look(bus, reading(tableOf(() => null)));
    expect(hosts).toHaveLength(LIMITS.shardCount);
  });

  it("does not take a late answer for an answer to the next question", async () => {
    const bus = buildMemoryBus();
    const inboxes: string[] = [];
    bus.subscribe<{ inbox: string }>(SUBJECTS.status, ({ inbox }) => inboxes.push(inbox));
    const ask = buildClusterLook({
      bus,
      shardTable: reading(tableOf(() => null)),
      gatewayId: "gateway-1",
      time,
    });
    await ask();
    const second = ask();
    bus.publish(inboxes[0]!, statusOf("host-a:1", [1]));
    expect((await second).hosts).toEqual([]);
    expect(new Set(inboxes).size).toBe(2);
  });
});

describe("GET /cluster", () => {
  it("asks the hosts once for all who ask at the same time, and is in the document", async () => {
    const bus = buildMemoryBus();
    let questions = 0;
    bus.subscribe<{ inbox: string }>(SUBJECTS.status, ({ inbox }) => {
      questions += 1;
      bus.publish(inbox, statusOf("host-a:1", ALL));
    });
    const commands = buildCommandDesk({ bus, gatewayId: "gateway-1" });
    const databaseUrls = ["postgres://nobody@127.0.0.1:1/none"];
    const readModel = buildPostgresReadModel({ databaseUrls });
    const shardTable = reading(tableOf(() => "host-a:1"));
    const assets = buildPostgresAssets({ databaseUrls });
    const log = pino({ level: "silent" });
    const takeIn = buildCommandIntake((code) => assets.assetOf(code));
    const answer = buildAnswers({ readModel, log });
    const app = buildGateway({
      bus,
      commands,
      takeIn,
      answer,
      batches: buildBatches({ commands, takeIn, answer, log }),
      readModel,
      assets,
      version: "1.2.3",
      log,
      cluster: { bus, shardTable, gatewayId: "gateway-1", time },
    });
    try {
      await app.ready();
      const answers = await Promise.all([1, 2, 3].map(() => app.inject({ url: "/cluster" })));
      for (const { statusCode, headers } of answers) {
        expect(statusCode).toBe(200);
        expect(headers["cache-control"]).toBe("no-store");
      }
      expect(questions).toBe(1);
      expect(answers[0]!.json()).toMatchObject({
        shards: { total: 256, owned: { count: 256, list: "0-255" } },
        shardsReason: null,
        hosts: [{ hostId: "host-a", answering: true, lanes: [{ serving: true }], handOffs: [] }],
      });
      expect((await app.inject({ url: "/cluster?verbose=1" })).statusCode).toBe(422);
      const { paths } = (await app.inject({ url: "/openapi.json" })).json<Document>();
      const media = paths["/cluster"]!.get.responses["200"].content["application/json"];
      expect(media?.example).toMatchObject({ shards: { total: 256 }, hosts: [{ ready: true }] });
    } finally {
      await app.close();
      await commands.drain();
      await readModel.close();
    }
  });
});

interface Document {
  readonly paths: Record<
    string,
    { get: { responses: { 200: { content: Record<string, { example: object }> } } } }
  >;
}
