/** Which shards are listened to: from the first of their ids on until the last is gone. */
import { expect, it } from "vitest";

import { shardOf } from "../../src/core/shard.ts";
import { buildFeedShards } from "./shards.ts";

/** Ids by their shard, so that some share one. */
const first = "wallet-0";
const sameShard = idWhere((shard) => shard === shardOf(first));
const otherShard = idWhere((shard) => shard !== shardOf(first));

function idWhere(fits: (shard: number) => boolean): string {
  for (let nth = 1; ; nth++) if (fits(shardOf(`wallet-${nth}`))) return `wallet-${nth}`;
}

function open() {
  const listened: number[] = [];
  const shards = buildFeedShards((shard) => {
    listened.push(shard);
    return () => void listened.splice(listened.indexOf(shard), 1);
  });
  return { shards, listened };
}

it("two ids of one shard share a subscription, which ends with the second of them", () => {
  const { shards, listened } = open();
  shards.listen(first);
  shards.listen(sameShard);
  expect(listened).toEqual([shardOf(first)]);
  shards.unlisten(first);
  expect(listened).toEqual([shardOf(first)]);
  shards.unlisten(sameShard);
  expect(listened).toEqual([]);
  shards.listen(first);
  expect(listened).toEqual([shardOf(first)]);
});

it("ids of two shards have a subscription each", () => {
  const { shards, listened } = open();
  shards.listen(first);
  shards.listen(otherShard);
  expect(listened).toEqual([shardOf(first), shardOf(otherShard)]);
  shards.unlisten(first);
  expect(listened).toEqual([shardOf(otherShard)]);
});

it("stopping ends every subscription, and what is unlistened after that ends none twice", () => {
  const { shards, listened } = open();
  shards.listen(first);
  shards.listen(otherShard);
  shards.stop();
  expect(listened).toEqual([]);
  listened.push(-1);
  shards.unlisten(first);
  expect(listened).toEqual([-1]);
});
