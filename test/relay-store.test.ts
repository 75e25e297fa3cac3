/**
 * Where the relay keeps how far it is, on a real database: what is on disk, and what is not taken.
 */
import { beforeAll, describe, expect, it } from "vitest";
import { buildPostgresRelayStore } from "../src/postgres-relay.ts";
import type { RelayStore } from "../src/relay-store.ts";
import { ALL_SHARDS, shardOf } from "../src/shard.ts";
import { unique } from "./stage/ids.ts";
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
});
