/**
 * What a host says of its health, by itself: each trouble has its own check, in words for whoever
 * looks, and only those without which no command is served make the process not ready.
 */
import { expect, it } from "vitest";

import {
  databaseProbes,
  hostProbes,
  watchHost,
  type HealthOfHost,
  type HealthOfRunning,
} from "./main-host.ts";
import { buildMetrics } from "./telemetry/metrics.ts";
import type { HostStatus } from "./core/protocol.ts";

type Lane = ReturnType<HealthOfHost["status"]>["lanes"][number];

const ok: Lane = { name: "lane-1", serving: true };

/** A host in some state. */
function hostIn({
  isUsable = true,
  shards = [7],
  lanes = [ok],
}: {
  isUsable?: boolean;
  shards?: readonly number[];
  lanes?: readonly Lane[];
} = {}): HealthOfHost {
  return { isUsable, status: () => ({ shards, lanes }) };
}

const pinged = (answer: () => Promise<number>) => ({ ping: answer, probe: answer });

function probesOf(host: HealthOfHost, around: Partial<HealthOfRunning> = {}) {
  return hostProbes({ membership: null, reconciliation: null, ...around, host });
}

/** Each check that is down, with its reason. */
async function troubles(probes: ReturnType<typeof hostProbes>): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const { name, probe } of probes) {
    await probe().catch((error: unknown) => (found[name] = (error as Error).message));
  }
  return found;
}

it("has a check for each of its parts, and is ready without Redis and with books that differ", () => {
  const part = pinged(() => Promise.resolve(3));
  const probes = probesOf(hostIn(), { membership: part, reconciliation: part });
  expect(probes.map(({ name, isNeededForCommands }) => [name, isNeededForCommands])).toEqual([
    ["host", true],
    ["wallets", false],
    ["redis", false],
    ["books", false],
  ]);
  expect(probesOf(hostIn()).map(({ name }) => name)).toEqual(["host", "wallets"]);
});

it("has no trouble to tell of while there is none", async () => {
  const part = pinged(() => Promise.resolve(3));
  const probes = probesOf(hostIn(), { membership: part, reconciliation: part });
  expect(await troubles(probes)).toEqual({});
});

it("tells why no command is served: it has no shards, or its lanes do not serve", async () => {
  expect(await troubles(probesOf(hostIn({ isUsable: false })))).toEqual({
    host: "the lanes do not serve now",
  });
  expect(await troubles(probesOf(hostIn({ isUsable: false, shards: [] })))).toEqual({
    host: "no shards, and none to be had now",
  });
});

it.each([
  [[1], /^one wallet is damaged: .* --rebuild /],
  [[2, undefined, 3], /^5 wallets are damaged: /],
])("tells of damaged wallets in all its lanes: %j", async (counts, reason) => {
  const lanes = counts.map((damagedWallets) => ({
    ...ok,
    ...(damagedWallets !== undefined && { damagedWallets }),
  }));
  expect(await troubles(probesOf(hostIn({ lanes })))).toEqual({
    wallets: expect.stringMatching(reason) as string,
  });
});

it("tells what Redis and the books have to say", async () => {
  const membership = pinged(() => Promise.reject(new Error("Redis is away")));
  const reconciliation = pinged(() => Promise.reject(new Error("one difference in the books")));
  expect(await troubles(probesOf(hostIn(), { membership, reconciliation }))).toEqual({
    redis: "Redis is away",
    books: "one difference in the books",
  });
});

it("tells which of several databases is away, without its password, and which lanes have noticed", async () => {
  const urls = ["postgres://me:secret@one/coffer", "postgres://me:secret@two:5433/coffer"];
  const ping = (index?: number): Promise<number> =>
    index === 1 ? Promise.reject(new Error("connection refused")) : Promise.resolve(2);
  const lanes = [ok, { ...ok, name: "lane-2", serving: false }];
  const probes = databaseProbes(urls, { ping }, hostIn({ lanes }));
  expect(probes.map(({ isNeededForCommands }) => isNeededForCommands)).not.toContain(true);
  expect(await troubles(probes)).toEqual({
    "database-2": "two:5433/coffer: connection refused",
    lanes: "lane-2 cannot serve now",
  });
  // A gateway has no lanes, and one database is the host's own check
  const names = (of: ReturnType<typeof databaseProbes>) => of.map(({ name }) => name);
  expect(names(databaseProbes(urls, { ping }, null))).toEqual(["database-1", "database-2"]);
  expect(await troubles(databaseProbes(urls, { ping }, hostIn()))).not.toHaveProperty("lanes");
  expect(databaseProbes(urls.slice(1), { ping }, hostIn())).toEqual([]);
});

it("has in its metrics, in seconds, when its books were last gone through and how far its relay is", async () => {
  const metrics = buildMetrics({ role: "host", version: "1" });
  const config = { verifyIntervalMinutes: 60 };
  const status: HostStatus = {
    hostId: "host-1",
    owner: "host-1:1",
    startedAt: "1970-01-01T00:00:00.000Z",
    ready: true,
    leaving: false,
    shards: [],
    lanes: [],
    relay: [
      {
        sink: "stream",
        state: "open",
        delivered: 0,
        retries: 0,
        lagEvents: 7,
        lagMs: 1_500,
        failingShards: 0,
        buffered: 0,
        reason: null,
      },
    ],
    handOffs: [],
  };
  const books = {
    running: false,
    lastRunAt: "1970-01-01T00:02:00.000Z",
    differences: 2,
    warnings: 0,
    walletsChecked: 3,
  };
  watchHost(
    { config, metrics, tracing: null },
    { status: () => status },
    { status: () => books },
    () => 4,
  );
  const text = await metrics.text();
  for (const line of [
    "coffer_verify_differences 2",
    "coffer_verify_last_run_timestamp_seconds 120",
    "coffer_verify_interval_seconds 3600",
    'coffer_relay_lag_seconds{sink="stream"} 1.5',
    "coffer_webhooks_disabled 4",
  ]) {
    expect(text.split("\n")).toContain(line);
  }
});
