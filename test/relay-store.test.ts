/**
 * Where the relay keeps how far it is, on a real database: what is on disk, and what is not taken.
 */
import { beforeAll, describe, expect, it } from "vitest";
import { buildPostgresRelayStore } from "../src/postgres/relay.ts";
import type { RelayStore } from "../src/core/relay-store.ts";
import { ALL_SHARDS, shardOf } from "../src/core/shard.ts";
import { idIn, unique } from "./stage/ids.ts";
import { openWallets, write } from "./stage/relay.ts";
import { startStack, type Stack } from "./stage/stack.ts";

let stack: Stack;
let store: RelayStore;

beforeAll(async () => {
  stack = await startStack();
  store = buildPostgresRelayStore(stack.databaseUrl);
  return async () => {
    await store.close();
    await stack.close();
  };
});

describe("a cursor", () => {
  it("is on disk before anything is delivered, so that nothing is repeated from the first on", async () => {
    const names = Array.from({ length: 10 }, () => unique("sink"));
    const places = async (): Promise<{ written: string; flushed: string }> => {
      const sql = `SELECT pg_current_wal_insert_lsn() - '0/0' AS written, pg_current_wal_flush_lsn() - '0/0' AS flushed`;
      return (await stack.sql<{ written: string; flushed: string }>(sql))[0]!;
    };
    for (const name of names) {
      const before = await places();
      await store.cursors(name, ALL_SHARDS, true);
      const after = await places();
      // More than a row's worth of log for each of the 256, all but nothing of it still in memory
      expect(Number(after.flushed) - Number(before.written)).toBeGreaterThan(256 * 64);
    }
  });

  it("is not saved behind the last event, when the database has lost events", async () => {
    // Given a sink that was told of two events, of which the second is gone
    const [walletId = ""] = await openWallets(stack, 1);
    await write(stack, [walletId], 1);
    const [name, shard] = [unique("sink"), shardOf(walletId)];
    const [last] = await store.lastPositions([shard]);
    await store.cursors(name, [shard], true);
    const save = (position: number): Promise<void> =>
      store.save(name, [{ shard, position, trouble: null }]);
    const saved = async (): Promise<number> =>
      (await store.cursors(name, [shard], true))[0]!.position;

    // Then what it has kept of the second is not saved, what it knows of the first is
    await save(last!.position + 1);
    expect(await saved()).toBe(0);
    await save(last!.position);
    expect(await saved()).toBe(last!.position);
  });

  it("is moved by its own sink only, forward only, and keeps what its event has met", async () => {
    // Given two sinks, and a shard with three events
    const [walletId = ""] = await openWallets(stack, 1);
    await write(stack, [walletId], 2);
    const shard = shardOf(walletId);
    const [last] = await store.lastPositions([shard]);
    const position = last!.position;
    const names = ["a", "b", "c"].map(unique);
    for (const name of names) await store.cursors(name, [shard], true);
    const name = names[1]!;
    const kept = (sink: string) => store.cursors(sink, [shard], false);
    const trouble = {
      attempts: 7,
      failingSinceMs: 1_800_000_000_123,
      retryAtMs: 1_800_000_600_456,
      reason: "answered 500",
    };
    // Also before its first event
    for (const at of [0, position - 1]) {
      await store.save(name, [{ shard, position: at, trouble }]);
      expect(await kept(name)).toEqual([{ shard, position: at, trouble }]);
    }
    await store.save(name, [{ shard, position, trouble: null }]);
    await store.save(name, [{ shard, position: position - 1, trouble }]);
    expect(await kept(name)).toEqual([{ shard, position, trouble: null }]);
    for (const other of [names[0]!, names[2]!]) {
      expect(await kept(other)).toEqual([{ shard, position: 0, trouble: null }]);
    }
    // And one that is not there is neither made nor found, unless that is asked for
    const none = unique("none");
    await store.save(none, [{ shard, position, trouble: null }]);
    expect(await kept(none)).toEqual([]);
    expect(await store.cursors(name, [(shard + 1) % 256], false)).toEqual([]);
  });
});

it("events are read behind each position, so many of each shard, in order", async () => {
  // Given two shards with five events of two wallets each, and others between them
  const [one, other] = [17, 201];
  const wallets = [one, other].map((shard) => [idIn([shard]), idIn([shard])]);
  const before = await store.lastPositions([one, other]);
  const baseOf = (shard: number): number =>
    before.find((place) => place.shard === shard)?.position ?? 0;
  for (const walletId of wallets.flat()) await stack.open({ walletId });
  for (const [first = "", second = ""] of wallets) {
    for (const walletId of [second, first, second]) await write(stack, [walletId], 1);
  }
  const rows = await store.read(
    [
      { shard: other, position: baseOf(other) + 1 },
      { shard: one, position: baseOf(one) + 2 },
    ],
    3,
  );
  const [first, second] = wallets[0]!;
  const [third, fourth] = wallets[1]!;
  expect(
    rows.map(({ shard, position, walletId, version }) => {
      return { place: `${shard}:${position - baseOf(shard)}`, id: `${walletId}:${version}` };
    }),
  ).toEqual([
    { place: `${one}:3`, id: `${second}:1` },
    { place: `${one}:4`, id: `${first}:1` },
    { place: `${one}:5`, id: `${second}:2` },
    { place: `${other}:2`, id: `${fourth}:0` },
    { place: `${other}:3`, id: `${fourth}:1` },
    { place: `${other}:4`, id: `${third}:1` },
  ]);
  expect(new Set(rows.map(({ decimalPlaces }) => decimalPlaces))).toEqual(new Set([2]));
  // And how far behind somebody is, by the oldest of what he has not had
  const last = await store.lastPositions([one, other]);
  expect(last.toSorted((a, b) => a.shard - b.shard)).toEqual(
    [one, other].map((shard) => ({ shard, position: baseOf(shard) + 5 })),
  );
  const behind = [
    { shard: one, position: baseOf(one) + 3 },
    { shard: other, position: baseOf(other) + 4 },
  ];
  const next = rows.find(({ shard, position }) => shard === one && position === baseOf(one) + 4);
  expect(await store.oldestBehind(behind)).toBe(next!.occurredAtMs);
  expect(await store.oldestBehind(last)).toBe(null);
});
