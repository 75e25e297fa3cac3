/** What a host says of the shards that it takes and gives, in its log and in `GET /cluster`. */
import { expect, it, onTestFinished } from "vitest";
import { systemTime } from "../src/clock.ts";
import { LIMITS } from "../src/limits.ts";
import { ALL_SHARDS } from "../src/shard.ts";
import type { ShardTable } from "../src/shard-table.ts";
import type { Member, Membership } from "./membership.ts";
import { buildOwnership, type Ownership } from "./ownership.ts";

const SELF = { hostId: "a", owner: "a:1", startedAtMs: 0 };

function buildTable(): ShardTable {
  const owners = new Map<number, string | null>(ALL_SHARDS.map((shard) => [shard, null]));
  return {
    read: () =>
      Promise.resolve(
        [...owners].map(([shard, owner]) => ({ shard, owner, epoch: 1, claimedAtMs: 0 })),
      ),
    take(owner, from) {
      for (const shard of from.keys()) owners.set(shard, owner);
      return Promise.resolve([...from.keys()]);
    },
    release(_, shards) {
      for (const shard of shards) owners.set(shard, null);
      return Promise.resolve();
    },
    close: () => Promise.resolve(),
  };
}

function buildMembership(): Membership {
  const members = new Map<string, Member>();
  return {
    beat: (member) => Promise.resolve(void members.set(member.owner, member)),
    read: () => Promise.resolve([...members.values()]),
    leave: (owner) => Promise.resolve(void members.delete(owner)),
    close: () => Promise.resolve(),
  };
}

it.each<[string, Membership | null]>([
  ["within moments of its start, before it knows who else there is,", buildMembership()],
  ["that is alone", null],
])("a host that leaves %s does not say that somebody got its shards", async (_, membership) => {
  // Given a host that has just taken all shards
  const log: string[] = [];
  const ignored = (): void => undefined;
  const ownership: Ownership = buildOwnership({
    shardTable: buildTable(),
    membership,
    self: SELF,
    time: systemTime,
    log: { info: (text) => void log.push(text), warn: (text) => void log.push(`warn ${text}`) },
    isReachable: () => true,
    open: ignored,
    leave: (shards) => setImmediate(() => ownership.left(shards)),
    drop: ignored,
    announce: (shards) => void log.push(`announced ${shards.length}`),
  });
  await ownership.start();

  // When it leaves
  await ownership.drain(10_000);

  // Then they are free, for whoever takes them
  expect(log).toEqual([
    "256 shards taken",
    "256 shards handed over to whoever takes them",
    "announced 256",
  ]);
  const [latest] = ownership.handOffs;
  expect(latest).toMatchObject({ type: "handed over", shards: ALL_SHARDS, peer: null });
});

it("a host that cannot take shards says so once in a while, not at every look", async () => {
  // Given a table that is not to be written to
  const log: string[] = [];
  const ignored = (): void => undefined;
  const ownership: Ownership = buildOwnership({
    shardTable: { ...buildTable(), take: () => Promise.reject(new Error("read-only")) },
    membership: null,
    self: SELF,
    time: systemTime,
    log: { info: ignored, warn: (text) => void log.push(text) },
    isReachable: () => true,
    open: ignored,
    leave: ignored,
    drop: ignored,
    announce: ignored,
  });

  // When it looks again and again
  await ownership.start();
  for (let looks = 0; looks < 3; looks += 1) {
    ownership.look();
    await new Promise((resolve) => setImmediate(resolve));
  }
  await ownership.drain(0);

  // Then
  expect(log).toEqual(["ownership: read-only"]);
});

it("a host hands over no more shards at a time than the limit says, then the next ones", async () => {
  // Given a host that has all shards, and another one that has been there for long
  const membership = buildMembership();
  let nowMs = 0;
  const left: number[][] = [];
  const ownership: Ownership = buildOwnership({
    shardTable: buildTable(),
    membership,
    self: SELF,
    time: { ...systemTime, nowMs: () => nowMs },
    log: { info: () => undefined, warn: () => undefined },
    isReachable: () => true,
    open: () => undefined,
    leave: (shards) => void left.push([...shards]),
    drop: () => undefined,
    announce: () => undefined,
  });
  await ownership.start();
  onTestFinished(() => ownership.drain(0));
  async function lookAgain(): Promise<void> {
    ownership.look();
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
  await membership.beat({ hostId: "b", owner: "b:1", startedAtMs: 0, isLeaving: false });
  await lookAgain();
  nowMs += LIMITS.redisSettleMs + LIMITS.joinSettleMs;

  // When it looks again and again, and its lanes are not done with the first ones
  await lookAgain();
  await lookAgain();

  // Then nobody waits for more than these
  expect(left.map(({ length }) => length)).toEqual([LIMITS.handOffShardsMax]);

  // And when they are done, the next ones follow
  ownership.left(left[0]!);
  await lookAgain();
  await lookAgain();
  expect(left.map(({ length }) => length)).toEqual([
    LIMITS.handOffShardsMax,
    LIMITS.handOffShardsMax,
  ]);
});

it("a host is in view while it hears itself among those who are alive", async () => {
  // Given a host whose Redis can be away, and can have forgotten everybody
  const membership = buildMembership();
  let read: Membership["read"] = () => membership.read();
  const ownership: Ownership = buildOwnership({
    shardTable: buildTable(),
    membership: { ...membership, read: () => read() },
    self: SELF,
    time: systemTime,
    log: { info: () => undefined, warn: () => undefined },
    isReachable: () => true,
    open: () => undefined,
    leave: () => undefined,
    drop: () => undefined,
    announce: () => undefined,
  });
  expect(ownership.isInView).toBe(false);
  await ownership.start();
  onTestFinished(() => ownership.drain(0));
  for (const [reads, isInView] of [
    [() => membership.read(), true],
    [() => Promise.reject(new Error("away")), false],
    [() => membership.read(), true],
    [() => Promise.resolve([]), false],
  ] as const) {
    read = reads;
    ownership.look();
    await expect.poll(() => ownership.isInView).toBe(isInView);
  }
});
