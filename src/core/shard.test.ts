/**
 * Where wallets live. The pinned shards are the law: a wallet's rows stay in the database of its
 * shard, so a function that gives another number loses wallets.
 *
 * Replay a failure: the message has the seed; `FC_SEED=<seed> npx vitest run src/core/shard`
 * runs the same cases.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";

import { LIMITS } from "../limits.ts";
import { ALL_SHARDS, shardOf } from "./shard.ts";

const given = process.env["FC_SEED"];
const seed = given === undefined ? Date.now() % 2 ** 31 : Number(given);
fc.configureGlobal({ seed });

// Computed once, apart from the code, and never to be changed: these are addresses of money.
it.each([
  ["", 197],
  ["0", 62],
  ["a", 237],
  ["b", 35],
  ["w1", 106],
  ["w2", 53],
  ["wallet-1", 1],
  ["wallet-2", 117],
  ["alice", 81],
  ["bob", 52],
  ["alice:USD", 144],
  ["user-42:GOLD_COINS", 46],
  ["A-Z_0.9:@", 33],
  ["01890a5d-ac96-774b-bcce-b302099a8057", 194],
  ["550e8400-e29b-41d4-a716-446655440000", 11],
  ["x".repeat(128), 35],
])("the shard of %j is %i for ever", (id, shard) => {
  expect(shardOf(id)).toBe(shard);
});

it("counts 256 shards, from 0 to 255", () => {
  expect(LIMITS.shardCount).toBe(256);
  expect(ALL_SHARDS).toHaveLength(256);
  expect(ALL_SHARDS[0]).toBe(0);
  expect(ALL_SHARDS[255]).toBe(255);
  expect(new Set(ALL_SHARDS).size).toBe(256);
});

it("gives every text one of these shards, and the same one each time", () => {
  const units = fc.array(fc.nat({ max: 0xffff }), { maxLength: 150 });
  const texts = units.map((list) => String.fromCharCode(...list));
  fc.assert(
    fc.property(texts, (id) => {
      const shard = shardOf(id);
      expect(Number.isInteger(shard) && shard >= 0 && shard < LIMITS.shardCount).toBe(true);
      expect(shardOf(id)).toBe(shard);
    }),
    { numRuns: 1_000 },
  );
});

describe("spreads", () => {
  const COUNT = 25_600;

  /**
   * Pearson's chi-squared against even shards: about 255, standard deviation 23, when ids fall at
   * random. Such ids pass 400 less than once in ten million times; the numbered ids are always the
   * same ones.
   */
  function chiSquared(ids: readonly string[]): number {
    const counts = new Map<number, number>();
    for (const id of ids) counts.set(shardOf(id), (counts.get(shardOf(id)) ?? 0) + 1);
    const even = ids.length / LIMITS.shardCount;
    return ALL_SHARDS.reduce(
      (sum, shard) => sum + ((counts.get(shard) ?? 0) - even) ** 2 / even,
      0,
    );
  }

  const numbered = (name: (index: number) => string) =>
    Array.from({ length: COUNT }, (_, n) => name(n));

  it.each<[what: string, ids: string[]]>([
    ["bare numbers", numbered((n) => `${n}`)],
    ["short numbered ids", numbered((n) => `w${n}`)],
    ["numbered ids", numbered((n) => `wallet-${n}`)],
    ["numbered ids of one length", numbered((n) => `acct:${`${n}`.padStart(10, "0")}`)],
    ["wallets of numbered users and one asset", numbered((n) => `user-${n}:USD`)],
    ["ids that differ in their first characters", numbered((n) => `${n}-wallet`)],
    [
      "counted UUIDs",
      numbered((n) => `00000000-0000-4000-8000-${n.toString(16).padStart(12, "0")}`),
    ],
  ])("%s evenly", (_what, ids) => {
    expect(chiSquared(ids)).toBeLessThan(340);
  });

  it.each([4, 7] as const)("random UUIDs of version %i evenly", (version) => {
    const ids = fc.sample(fc.noBias(fc.uuid({ version })), { seed, numRuns: 10_000 });
    expect(chiSquared(ids), `FC_SEED=${seed}`).toBeLessThan(400);
  });
});
