import { expect, it } from "vitest";
import { HistoryLostError, type Journal } from "../src/journal.ts";
import { buildLaneShards, type LaneShards, type LaneShardsDeps } from "./lane-shards.ts";

const ignored = (): void => undefined;

function shardsOf(
  claim: Journal["claim"],
  told: Partial<Pick<LaneShardsDeps, "crash" | "onFailed">> = {},
): LaneShards {
  return buildLaneShards({
    journal: { claim, loadPendingTransfers: () => Promise.resolve([]) },
    owner: "host:1",
    log: ignored,
    crash: ignored,
    isPaused: () => false,
    isRecovering: () => false,
    recovered: ignored,
    adopted: ignored,
    onFailed: ignored,
    onLost: ignored,
    forget: ignored,
    dealWithBacklog: ignored,
    dealWithWaiting: ignored,
    ...told,
  });
}

it("follows an assignment that has as many shards as the one before, and others", () => {
  const shards = shardsOf(() => Promise.resolve(new Map<number, number>()));
  const awaited = (): number[] => [1, 2, 3].filter((shard) => shards.awaits(shard));
  shards.assign([1, 2], 0);
  expect(awaited()).toEqual([1, 2]);
  shards.assign([3, 1], 100);
  expect(awaited()).toEqual([1, 3]);
  shards.assign([3], 200);
  expect(awaited()).toEqual([3]);
});

it.each(["recover", "adopt"] as const)(
  "does not claim again (%s) where commits are lost, but after any other failure",
  async (claim) => {
    const errors = [new Error("away"), new HistoryLostError("gone")];
    const heard: unknown[] = [];
    const shards = shardsOf(() => Promise.reject(errors[heard.length]!), {
      crash: (error) => heard.push(error),
      onFailed: (reason) => heard.push(reason),
    });
    shards.assign([1], 0);
    for (const count of [1, 2]) {
      shards[claim]();
      await expect.poll(() => heard.length).toBe(count);
      // A claim is over a moment after it was told of
      await new Promise((resolve) => setImmediate(resolve));
    }
    expect(heard).toEqual(["cannot claim shards: away", errors[1]]);
  },
);
