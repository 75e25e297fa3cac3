import { describe, expect, it } from "vitest";
import { HistoryLostError, type Journal } from "../src/core/journal.ts";
import { LIMITS } from "../src/limits.ts";
import type { Transfer } from "../src/core/transfer.ts";
import { buildLaneShards, type LaneShards, type LaneShardsDeps } from "./lane-shards.ts";

const ignored = (): void => undefined;

/** A claim is over some steps after it was answered, all of which come before this. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

function shardsOf(claim: Journal["claim"], told: Partial<LaneShardsDeps> = {}): LaneShards {
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
      await settled();
      if (count === 1) expect(shards.underWay()).toEqual([]);
    }
    expect(heard).toEqual(["cannot claim shards: away", errors[1]]);
  },
);

it.each([
  ["recover", ["recovered", "lost", "backlog", "waiting"]],
  ["adopt", ["adopted", "lost", "waiting"]],
] as const)(
  "tells what is pending in what it has got (%s), before what has waited for it",
  async (claim, expected) => {
    const heard: string[] = [];
    const pending = [{ transferId: "t1" }] as unknown as Transfer[];
    const take = (what: string) => (given: unknown) => {
      heard.push(what);
      expect(given).toBe(pending);
    };
    const shards = shardsOf(ignored as never, {
      journal: {
        claim: () => Promise.resolve(new Map([[1, 1]])),
        loadPendingTransfers: (of) => Promise.resolve(of.join() === "1" ? pending : []),
      },
      recovered: take("recovered"),
      adopted: take("adopted"),
      onLost: () => heard.push("lost"),
      dealWithBacklog: () => heard.push("backlog"),
      dealWithWaiting: () => heard.push("waiting"),
    });
    shards.assign([1, 2], 0);
    shards[claim]();
    await settled();
    expect(heard).toEqual(expected);
  },
);

describe("shards that another owner has", () => {
  /** A lane that holds 1 and 2, each under epoch 5; what the next claims give, and what was told. */
  async function given() {
    let next = new Map([
      [1, 5],
      [2, 5],
    ]);
    const asked: number[][] = [];
    const heard: Array<[what: string, shards: number[]]> = [];
    const shards = shardsOf(
      (_owner, wanted) => {
        asked.push([...wanted]);
        return Promise.resolve(new Map([...next].filter(([shard]) => wanted.includes(shard))));
      },
      {
        onLost: (lost) => heard.push(["lost", [...lost]]),
        forget: (forgotten) => heard.push(["forgotten", [...forgotten]]),
      },
    );
    shards.assign([1, 2], 0);
    shards.recover();
    await settled();
    expect(shards.served()).toEqual([1, 2]);
    heard.length = 0;
    asked.length = 0;
    const gives = (claims: Record<number, number>): void => {
      next = new Map(Object.entries(claims).map(([shard, epoch]) => [Number(shard), epoch]));
    };
    return { shards, gives, asked, heard };
  }

  it("are forgotten, told, neither served nor awaited, and claimed again only a while later", async () => {
    // Given that somebody has taken 2
    const { shards, gives, asked, heard } = await given();
    gives({ 1: 6 });
    shards.recover();
    await settled();

    // Then nothing that is known of it counts, and its messages go back to their senders
    expect(heard).toEqual([
      ["forgotten", [2]],
      ["lost", [2]],
    ]);
    expect([...shards.epochs]).toEqual([[1, 6]]);
    expect([1, 2].map((shard) => shards.awaits(shard))).toEqual([true, false]);
    expect(shards.servesAll()).toBe(false);

    // And whoever still assigns it does not have it claimed with every tick
    shards.assign([1, 2], LIMITS.placementMs - 1);
    shards.adopt();
    await settled();
    expect(asked).toEqual([[1, 2]]);
    shards.assign([1, 2], LIMITS.placementMs);
    gives({ 2: 9 });
    shards.adopt();
    await settled();
    expect(asked).toEqual([[1, 2], [2]]);
    expect(shards.epochs.get(2)).toBe(9);
  });

  it("and that were not there when they were first claimed are told, too", async () => {
    const { shards, gives, asked, heard } = await given();
    shards.assign([1, 2, 3], 1);
    gives({});
    shards.adopt();
    await settled();
    expect(asked).toEqual([[3]]);
    expect(heard).toEqual([["lost", [3]]]);
    expect(shards.awaits(3)).toBe(false);
    expect(shards.underWay()).toEqual([1, 2]);
  });

  it("meanwhile are forgotten where the next epoch is not the one after ours", async () => {
    // Given that 1 went to somebody and came back, and 2 did not
    const { shards, gives, heard } = await given();
    gives({ 1: 7, 2: 6 });
    shards.recover();
    await settled();
    expect(heard).toEqual([["forgotten", [1]]]);
    expect([...shards.epochs]).toEqual([
      [2, 6],
      [1, 7],
    ]);
  });
});

it("a shard that is no longer assigned leaves once no commit has anything of it, and is forgotten", async () => {
  // Given
  const forgotten: number[][] = [];
  const shards = shardsOf(
    (_owner, wanted) => Promise.resolve(new Map(wanted.map((it) => [it, 1]))),
    {
      forget: (all) => forgotten.push([...all]),
    },
  );
  shards.assign([1, 2, 3], 0);
  shards.recover();
  await settled();
  forgotten.length = 0;

  // When two are no longer assigned, of which one is in a commit
  shards.assign([1], 1);
  shards.leave({ shards: new Set([2]) }, { shards: new Set([1]) });

  // Then the other one goes, and neither is served
  expect(forgotten).toEqual([[3]]);
  expect([...shards.epochs.keys()]).toEqual([1, 2]);
  expect(shards.served()).toEqual([1]);
  expect(shards.underWay()).toEqual([1, 2]);
  shards.leave();
  expect(forgotten).toEqual([[3], [2]]);
  expect([...shards.epochs.keys()]).toEqual([1]);
});

it("one claim is under way at most, and none while the database is left alone", async () => {
  const answers: Array<(claimed: Map<number, number>) => void> = [];
  let isPaused = true;
  const shards = shardsOf(() => new Promise((resolve) => answers.push(resolve)), {
    isPaused: () => isPaused,
  });
  shards.assign([1], 0);
  shards.recover();
  shards.adopt();
  expect(answers).toHaveLength(0);
  isPaused = false;
  shards.adopt();
  expect(shards.underWay()).toEqual([1]);
  shards.adopt();
  shards.recover();
  expect(answers).toHaveLength(1);
  answers[0]!(new Map([[1, 1]]));
  await settled();
  shards.recover();
  expect(answers).toHaveLength(2);
});

it("what was adopted while everything has to be claimed anew does not count", async () => {
  const adopted: unknown[] = [];
  let isRecovering = false;
  const shards = shardsOf(() => Promise.resolve(new Map([[1, 1]])), {
    isRecovering: () => isRecovering,
    adopted: (transfers) => adopted.push(transfers),
  });
  shards.assign([1], 0);
  shards.adopt();
  isRecovering = true;
  await settled();
  expect([shards.epochs.size, shards.serves(1), adopted, shards.underWay()]).toEqual([
    0,
    false,
    [],
    [],
  ]);
});
