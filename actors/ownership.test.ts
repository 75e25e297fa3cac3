/** What a host says of the shards that it takes and gives, in its log and in `GET /cluster`. */
import { expect, it, onTestFinished } from "vitest";
import { systemTime } from "../src/clock.ts";
import { LIMITS } from "../src/limits.ts";
import { ALL_SHARDS } from "../src/core/shard.ts";
import type { ShardTable } from "../src/core/shard-table.ts";
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

/**
 * A host, looking only when it is told to, at a table of four shards and at a Redis that knows the
 * host alone; what it does, in order.
 */
function stage(membership: Membership | null = buildMembership()) {
  const owners = new Map<number, string | null>([0, 1, 2, 3].map((shard) => [shard, null]));
  const calls: string[] = [];
  const looks = new Set<() => void>();
  const waits: Array<() => void> = [];
  let nowMs = 0;
  const say = (what: string) => (shards: readonly number[]) =>
    void calls.push(`${what} ${shards.join(" ")}`);
  const shardTable: ShardTable = {
    read: () =>
      Promise.resolve(
        [...owners].map(([shard, owner]) => ({ shard, owner, epoch: 1, claimedAtMs: 0 })),
      ),
    take(owner, from) {
      const taken = [...from].flatMap(([shard, its]) => (owners.get(shard) === its ? shard : []));
      for (const shard of taken) owners.set(shard, owner);
      return Promise.resolve(taken);
    },
    async release(owner, shards) {
      await turns();
      say("release")(shards);
      for (const shard of shards) if (owners.get(shard) === owner) owners.set(shard, null);
    },
    close: () => Promise.resolve(),
  };
  const ownership: Ownership = buildOwnership({
    shardTable,
    membership,
    self: SELF,
    time: {
      ...systemTime,
      nowMs: () => nowMs,
      every(_, task) {
        looks.add(task);
        return () => void looks.delete(task);
      },
      after: (_, task) => (waits.push(task), () => undefined),
    },
    log: { info: () => undefined, warn: () => undefined },
    isReachable: () => true,
    open: say("open"),
    leave: say("leave"),
    drop: say("drop"),
    announce: say("announce"),
  });
  return {
    ownership,
    owners,
    shardTable,
    looks,
    waits,
    /** What was done since the last time. */
    done: async () => (await turns(), calls.splice(0)),
    look: async () => (ownership.look(), await turns(), calls.splice(0)),
    pass: (ms: number) => void (nowMs += ms),
  };
}

async function turns(): Promise<void> {
  for (let turn = 0; turn < 4; turn++) await new Promise((resolve) => setImmediate(resolve));
}

it.each(["the table", "its lane, and then the table"])(
  "a host that hears from %s that another one has a shard stops with it, and leaves it there",
  async (teller) => {
    // Given a host with all shards, long enough there to be sure of who lives
    const { ownership, owners, done, look, pass } = stage();
    await ownership.start();
    pass(LIMITS.redisSettleMs);
    expect(await look()).toEqual(["open 0 1 2 3"]);
    // When one whom Redis does not know takes one from it
    owners.set(1, "b:1");
    if (teller === "the table") ownership.look();
    else ownership.lost([1, 1]);
    // Then it stops with that one at once
    const drops = teller === "the table" ? ["drop 1"] : ["drop 1", "drop 1"];
    expect(await done()).toEqual(drops);
    expect(ownership.handOffs[0]).toMatchObject({ type: "lost", shards: [1], peer: "b:1" });
    // And does not fight for it, until the other one has been silent for long
    expect([await look(), await look()]).toEqual([[], []]);
    pass(LIMITS.evidenceMs);
    expect(await look()).toEqual(["open 1"]);
  },
);

it("a host serves what the table says it has, and of what it asks for only what it got", async () => {
  // Given a table that gives a host only one of the shards
  const { ownership, owners, shardTable, done, look } = stage();
  const { take } = shardTable;
  shardTable.take = (owner, from) => take(owner, new Map([...from].slice(0, 1)));
  await ownership.start();
  expect(await done()).toEqual(["open 0"]);
  // When it got another one, and the answer was lost
  shardTable.take = () => Promise.reject(new Error("no answer"));
  owners.set(2, SELF.owner);
  // Then it serves that one
  expect(await look()).toEqual(["open 2"]);
  expect(await look()).toEqual([]);
  // And when a lane believes that a shard was lost which the table says is ours, it serves it again
  ownership.lost([2]);
  expect(await done()).toEqual(["drop 2", "open 2"]);
});

it("a host that is alone takes each shard once from another, and what that one gives back", async () => {
  const { ownership, owners, look, done } = stage(null);
  owners.set(3, "b:1");
  await ownership.start();
  expect(await done()).toEqual(["open 0 1 2 3"]);
  owners.set(1, "c:1").set(2, "c:1");
  expect([await look(), await look()]).toEqual([["drop 1 2"], []]);
  // And it keeps the latest of what it has to tell of them
  for (let time = 0; time < LIMITS.handOffsKept; time++) {
    owners.set(2, null);
    expect(await look()).toEqual(time === 0 ? ["open 2"] : ["drop 2", "open 2"]);
  }
  expect(ownership.handOffs).toHaveLength(LIMITS.handOffsKept);
});

it("a host that leaves has left when the table knows, and others hear of it then", async () => {
  // Given a host that leaves, whose lanes have work in all shards, and that just looks around
  const membership = buildMembership();
  const { ownership, owners, looks, done } = stage(membership);
  await ownership.start();
  await done();
  ownership.left([0]);
  expect(await done()).toEqual([]);
  let hasLeft = false;
  void ownership.drain(10_000).then(() => (hasLeft = true));
  expect(await done()).toEqual(["leave 0 1 2 3"]);
  // When its lanes have left most of them, the last one during a look
  ownership.left([0, 1]);
  ownership.left([2]);
  // Then those are free, and only then announced, and it stays for the last one
  expect(await done()).toEqual(["release 0 1", "announce 0 1"]);
  expect(await done()).toEqual(["release 2", "announce 2"]);
  await done();
  expect({ hasLeft, alive: await membership.read() }).toMatchObject({
    hasLeft: false,
    alive: [{ owner: SELF.owner, isLeaving: true }],
  });
  ownership.left([3]);
  await done();
  await done();
  expect(hasLeft).toBe(true);
  expect(await membership.read()).toEqual([]);
  // And nothing of it looks or speaks any more
  expect([...owners.values()]).toEqual([null, null, null, null]);
  expect(looks.size).toBe(0);
});

it("a host whose lanes do not let go leaves in time, and ends the look under way first", async () => {
  // Given a host that leaves while its table is slow
  const membership = buildMembership();
  const { ownership, shardTable, looks, waits, done } = stage(membership);
  await ownership.start();
  const { read } = shardTable;
  let answer = (): void => undefined;
  shardTable.read = () => new Promise((resolve) => (answer = () => resolve(read())));
  let hasLeft = false;
  void ownership.drain(10_000).then(() => (hasLeft = true));
  await done();
  // When its time is over
  for (const end of waits.splice(0)) end();
  await done();
  // Then it beats and looks no more, and has left when what it asked is answered
  expect({ hasLeft, looks: looks.size }).toEqual({ hasLeft: false, looks: 0 });
  answer();
  await done();
  expect(hasLeft).toBe(true);
  expect(await membership.read()).toEqual([]);
});
