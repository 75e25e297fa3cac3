/**
 * Three hosts and two gateways as real processes, and a bank at work through both gateways: a host
 * is killed, joins, is told to end, is frozen, and Redis goes away. What callers and the database
 * saw is held against each other at the end of every test, and which process wrote an event is read
 * from the database: a column that the test adds keeps the writing session.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, inject, it } from "vitest";
import { LIMITS } from "../src/limits.ts";
import { shardOf } from "../src/core/shard.ts";
import { query, startCluster, type LocalCluster, type ShardRow } from "./cluster/local-cluster.ts";
import { expectRightOutcomesAt, openBankAt } from "./stage/bank-at-work.ts";
import { askJson } from "./stage/json.ts";
import { createMigratedDatabase } from "./stage/migrated-database.ts";
import { dropDatabase } from "./stage/servers.ts";
import { until } from "./stage/stack.ts";
import type { Workload } from "./stage/workload.ts";

/** From the kill of a host until every wallet answers again. */
const RECOVERY_MS_MAX = 5_000;
/** For a busy machine; with two cores for itself a test takes about ten seconds. */
const TEST_MS_MAX = 90_000;
/**
 * Wallets that are asked, besides the bank's, whether they answer: about eight for each of three
 * hosts.
 */
const PROBES = 24;

let databaseUrl: string;
let cluster: LocalCluster;

beforeAll(async () => {
  databaseUrl = await createMigratedDatabase("cluster");
  await query(databaseUrl, "ALTER TABLE events ADD COLUMN writer_pid int DEFAULT pg_backend_pid()");
  cluster = await startCluster({ databaseUrls: [databaseUrl], env: { LOG_LEVEL: "warn" } });
});

afterAll(async () => {
  await cluster?.stop();
  await dropDatabase(inject("postgresUrl"), "cluster");
});

/**
 * Starts and stops hosts until exactly these run, each with its shards. Quick where a test follows
 * the one before it.
 */
async function given(...hostIds: readonly string[]): Promise<void> {
  for (const host of cluster.hosts) {
    if (host.state === "paused") host.resume();
    const isWanted = hostIds.includes(host.id);
    if (isWanted && host.state !== "running") await host.start();
    if (!isWanted && host.state === "running") await host.stop();
  }
  await cluster.untilPlaced();
}

const ports = (): number[] => cluster.gateways.map(({ port }) => port);

const openBank = (name: string, pauseMs = 20): Promise<Workload> =>
  openBankAt(ports(), { name, callers: 12, wallets: 24, pauseMs });

const expectRightOutcomes = (bank: Workload): Promise<void> =>
  expectRightOutcomesAt(ports(), databaseUrl, bank);

const troubles = (bank: Workload): number =>
  bank.count("unavailable") + bank.count("unknown") + bank.count("wrong");

const shardsOf = (table: readonly ShardRow[], hostId: string): ShardRow[] =>
  table.filter((row) => row.hostId === hostId);

/**
 * Every move costs the same number of epochs, so a shard that went around stands out; one that
 * stayed costs none.
 */
function expectMovedOnce(
  before: readonly ShardRow[],
  after: readonly ShardRow[],
  mustMove: (row: ShardRow) => boolean,
): void {
  const moves = before.filter(mustMove);
  const steps = ({ shard, epoch }: ShardRow): number => after[shard]!.epoch - epoch;
  expect(new Set(moves.map(steps)).size).toBe(1);
  for (const row of before) {
    const { shard, hostId } = row;
    const isMoved = hostId !== after[shard]!.hostId;
    expect({ shard, isMoved }).toEqual({ shard, isMoved: mustMove(row) });
    if (!isMoved) expect({ shard, steps: steps(row) }).toEqual({ shard, steps: 0 });
  }
}

async function post(port: number, path: string, body: object, key: string): Promise<number> {
  return (await askJson(`http://127.0.0.1:${port}${path}`, body, { key })).status;
}

/** Wallets that nobody else uses, enough of them that every host has some. */
async function openProbes(name: string): Promise<string[]> {
  const probes = Array.from({ length: PROBES }, (_, index) => `probe-${name}-${index}`);
  const { port } = cluster.gateways[0]!;
  const opened = await Promise.all(
    probes.map((walletId) => post(port, "/wallets", { walletId }, `open-${walletId}`)),
  );
  expect(new Set(opened)).toEqual(new Set([201]));
  const table = await cluster.shards();
  const owners = new Set(probes.map((walletId) => table[shardOf(walletId)]!.hostId));
  expect(owners.size).toBe(cluster.hosts.filter(({ state }) => state === "running").length);
  return probes;
}

/**
 * Milliseconds until the wallet takes a credit, asked like a caller who repeats the same key after
 * 503 and 504.
 */
async function answersAfterMs(walletId: string, port: number): Promise<number> {
  const startedAtMs = performance.now();
  const key = `answer-${walletId}`;
  for (;;) {
    const status = await post(port, `/wallets/${walletId}/credit`, { amount: 1 }, key);
    if (status === 200) return performance.now() - startedAtMs;
    expect([503, 504]).toContain(status);
    await sleep(50);
  }
}

/** Sessions that commit now. */
async function writers(): Promise<number[]> {
  const rows = await query<{ pid: number }>(
    databaseUrl,
    `SELECT pid FROM pg_stat_activity
     WHERE datname = current_database() AND application_name = 'coffer-writer'`,
  );
  return rows.map(({ pid }) => pid);
}

async function eventsBy(pids: readonly number[]): Promise<number> {
  const rows = await query<{ count: number }>(
    databaseUrl,
    "SELECT count(*)::int4 AS count FROM events WHERE writer_pid = ANY ($1)",
    [pids],
  );
  return rows[0]!.count;
}

it(
  "a host is killed under load: every wallet answers again within 5 s, and nothing is lost or doubled",
  { timeout: TEST_MS_MAX },
  async () => {
    // Given three hosts, a bank at work, and wallets of every host that have just been asked
    await given("host-1", "host-2", "host-3");
    const bank = await openBank("killed");
    const probes = await openProbes("killed");
    const before = await cluster.shards();
    const victim = cluster.hosts[1]!;
    expect(shardsOf(before, victim.id).length).toBeGreaterThan(30);

    // When one host of three is killed; the race: its commits, replies and messages are on their
    // way
    const ports = cluster.gateways.map(({ port }) => port);
    await victim.kill();
    const recoveries = await Promise.all(
      probes.map((walletId, index) => answersAfterMs(walletId, ports[index % ports.length]!)),
    );

    // Then every wallet has answered in time, those of the others at once
    const slowestMs = Math.round(Math.max(...recoveries));
    process.stdout.write(`after kill -9 of a host every wallet answered within ${slowestMs} ms\n`);
    expect(slowestMs).toBeLessThan(RECOVERY_MS_MAX);

    // And only the dead host's shards have moved
    expectMovedOnce(before, await cluster.shards(), ({ hostId }) => hostId === victim.id);

    // And callers saw outcomes, 503 and 504, and the database agrees with each
    await bank.progress(200);
    expect(bank.count("wrong")).toBe(0);
    await expectRightOutcomes(bank);
  },
);

it(
  "a host joins under load: a third of the shards move, each once, and no caller sees an error",
  { timeout: TEST_MS_MAX },
  async () => {
    // Given two hosts, and a bank at work
    const joining = cluster.hosts[1]!;
    await given("host-1", "host-3");
    const bank = await openBank("joining");
    const before = await cluster.shards();

    // When a third one joins; the race: commands arrive for every shard while it moves
    const startedAtMs = performance.now();
    await joining.start();
    await cluster.untilPlaced();
    const elapsedMs = Math.round(performance.now() - startedAtMs);

    // Then it has about a third of the shards, which moved once, and no others did
    const after = await cluster.shards();
    const moved = shardsOf(after, joining.id).length;
    process.stdout.write(`a host joined: ${moved} shards moved within ${elapsedMs} ms\n`);
    expect(moved).toBeGreaterThan(256 / 6);
    expect(moved).toBeLessThan(256 / 2);
    expectMovedOnce(before, after, ({ shard }) => after[shard]!.hostId === joining.id);

    // And callers have noticed nothing
    await bank.progress(200);
    expect(troubles(bank)).toBe(0);
    await expectRightOutcomes(bank);
  },
);

it(
  "a host that gets SIGTERM under load hands over: no caller sees an error",
  { timeout: TEST_MS_MAX },
  async () => {
    // Given three hosts, and a bank at work
    await given("host-1", "host-2", "host-3");
    const bank = await openBank("leaving");
    const leaving = cluster.hosts[0]!;
    const owned = shardsOf(await cluster.shards(), leaving.id).length;

    // When one host of three is told to end; the race: commands arrive for every shard while it
    // moves
    const startedAtMs = performance.now();
    expect(await leaving.stop()).toEqual({ code: 0, signal: null });
    const elapsedMs = Math.round(performance.now() - startedAtMs);

    // Then it has ended in time, and its shards are with the others
    process.stdout.write(`SIGTERM: ${owned} shards handed over, ended after ${elapsedMs} ms\n`);
    expect(elapsedMs).toBeLessThan(LIMITS.shutdownMs);
    await cluster.untilPlaced();

    // And callers have noticed nothing
    await bank.progress(200);
    expect(troubles(bank)).toBe(0);
    await expectRightOutcomes(bank);
  },
);

it(
  "without Redis nothing moves and service goes on, also when it comes back empty",
  { timeout: TEST_MS_MAX },
  async () => {
    // Given two hosts, and a bank at work: at its ease, as there is no moment to race with, only
    // seconds in which nothing may happen
    await given("host-2", "host-3");
    const bank = await openBank("heartless", 100);
    const before = await cluster.shards();

    // When Redis is away for longer than a sign of life lasts
    await cluster.redis.kill();
    await sleep(LIMITS.heartbeatTtlMs + LIMITS.absenceMs + 500);
    await bank.progress(100);
    expect(await cluster.shards()).toEqual(before);

    // And comes back without any
    await cluster.redis.restart();
    await sleep(LIMITS.redisSettleMs + LIMITS.absenceMs);

    // Then no shard has moved, and callers have noticed nothing
    await bank.progress(100);
    expect(await cluster.shards()).toEqual(before);
    expect(troubles(bank)).toBe(0);
    await expectRightOutcomes(bank);
  },
);

it(
  "a frozen host loses its shards, writes nothing when it wakes, and takes its place again",
  { timeout: TEST_MS_MAX },
  async () => {
    // Given a bank at work, and a host whose sessions are known
    await given("host-2", "host-3");
    const others = await writers();
    const frozen = cluster.hosts[0]!;
    await given("host-1", "host-2", "host-3");
    const bank = await openBank("frozen");
    const own = (await writers()).filter((pid) => !others.includes(pid));
    expect(await eventsBy(own)).toBeGreaterThan(0);

    // When it freezes in the middle of whatever it does, for longer than its sign of life lasts
    frozen.pause();
    await until("its shards are with others", async () => {
      const table = await cluster.shards();
      return shardsOf(table, frozen.id).length === 0;
    });
    const wrote = await eventsBy(own);
    await bank.progress(100);

    // And wakes with all that was sent to it meanwhile
    frozen.resume();
    await sleep(LIMITS.joinSettleMs / 4);

    // Then it has written nothing under its old claims
    const table = await cluster.shards();
    if (shardsOf(table, frozen.id).length === 0) expect(await eventsBy(own)).toBe(wrote);

    // And it takes its place again, in the same run, and every caller has the one outcome
    await cluster.untilPlaced();
    await frozen.untilReady();
    await bank.progress(200);
    expect(bank.count("wrong")).toBe(0);
    await expectRightOutcomes(bank);
  },
);

it(
  "after all that the cluster ends in order, and no process has met an error that it did not expect",
  { timeout: TEST_MS_MAX },
  async () => {
    const members = [...cluster.gateways, ...cluster.hosts];
    const running = members.filter(({ state }) => state === "running");
    for (const member of running) expect(await member.stop()).toEqual({ code: 0, signal: null });
    for (const { output } of members) expect(output).not.toMatch(/"level":(50|60)/);
  },
);
