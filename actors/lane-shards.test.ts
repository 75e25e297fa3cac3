import { expect, it } from "vitest";
import { buildLaneShards } from "./lane-shards.ts";

const ignored = (): void => undefined;

it("follows an assignment that has as many shards as the one before, and others", () => {
  const shards = buildLaneShards({
    journal: {
      claim: () => Promise.resolve(new Map<number, number>()),
      loadPendingTransfers: () => Promise.resolve([]),
    },
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
  });
  const awaited = (): number[] => [1, 2, 3].filter((shard) => shards.awaits(shard));
  shards.assign([1, 2], 0);
  expect(awaited()).toEqual([1, 2]);
  shards.assign([3, 1], 100);
  expect(awaited()).toEqual([1, 3]);
  shards.assign([3], 200);
  expect(awaited()).toEqual([3]);
});
