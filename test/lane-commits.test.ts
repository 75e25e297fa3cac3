/**
 * A lane with two commits under way: the second is sent before the first is answered, and everybody
 * is still told the truth once, after their own commit, whatever becomes of the first. Here any
 * commit is large enough to go out behind another, unless a test says otherwise. Some tests hold
 * the answers back and keep to what a journal owes: nothing behind a commit that failed is written.
 * Others let a real one fail under two that are on their way to it.
 */
import { beforeEach, describe, expect, it } from "vitest";
import type { AppendResult } from "../src/core/journal.ts";
import type { Command } from "../src/core/protocol.ts";
import { ALL_SHARDS, shardOf } from "../src/core/shard.ts";
import { EVEN, idIn, ODD, unique } from "./stage/ids.ts";
import { putRejection, putWallet, type Draft } from "./stage/journal-drafts.ts";
import {
  appendElsewhere,
  holdAppends,
  lockWallet,
  STALLED_WRITERS,
  type Failure,
  type HeldCommits,
} from "./stage/journal.ts";
import {
  begin,
  bookOf,
  database,
  ONE_LANE,
  openIn,
  openTwo,
  stage,
  summaries,
  useLaneStage,
} from "./stage/lane.ts";
import { onlyOutcome, summaryOf, withLimits, type Asked } from "./stage/lanes.ts";
import { credit, debit } from "./stage/staged-commands.ts";

useLaneStage("lane_commits_test", ONE_LANE);

beforeEach(() => withLimits({ commitBehindMessagesMin: 1 }));

// --- Commits that wait for the test --------------------------------------------------------------

/** With how many of the two that were under way are written all the same. */
const FAILURES: Array<[Failure, number]> = [
  ["refused", 0],
  ["stale", 0],
  ["unknown", 0],
  ["unknown", 1],
  ["unknown", 2],
];

const holdCommits = (): HeldCommits => holdAppends(stage.lane("a").hooks, () => stage.quiet());

/** The lane meets whatever it has to wait for, and all is told. */
async function conclude(commits: HeldCommits): Promise<void> {
  await commits.open();
  await stage.tick(1_000);
  await stage.settle();
}

/** What each was told, once. */
function told(asked: readonly Asked[]): string[] {
  return asked.map((one) => summaryOf(onlyOutcome(one)));
}

// --- When a commit is sent -----------------------------------------------------------------------

describe("a commit behind another one", () => {
  it("reaches the journal before the first one is answered", async () => {
    const wallet = await stage.open("a", "10");
    const { calls, hooks } = stage.lane("a");
    const before = calls.append;
    let answer = (): void => undefined;
    const held = new Promise<void>((resolve) => (answer = resolve));
    hooks.append = (_writes, apply) => apply().then((result) => held.then(() => result));
    // When the first is committed, and nobody has said so yet
    const asked = [...(await begin(credit(wallet, "1"))), ...(await begin(credit(wallet, "2")))];
    // Then the second is, too, and none is told
    expect(calls.append).toBe(before + 2);
    expect(await bookOf(wallet)).toMatchObject({ balance: 13 });
    expect(summaries(asked)).toEqual(["no answer", "no answer"]);
    answer();
    await stage.quiet();
    expect(told(asked)).toEqual(["done 2", "done 3"]);
  });

  it("is the last for now: a third waits and fills, and each is told after its own commit", async () => {
    const wallet = await stage.open("a", "10");
    const commits = holdCommits();
    const changes = stage.changes.length;
    const asked = [...(await begin(credit(wallet, "1"))), ...(await begin(debit(wallet, "20")))];
    asked.push(...(await begin(credit(wallet, "1"))), ...(await begin(debit(wallet, "12"))));
    expect(commits.sizes).toEqual([1, 1]);
    await commits.pass();
    expect(commits.sizes).toEqual([1, 2]);
    expect(summaries(asked)).toEqual(["done 2", ...Array<string>(3).fill("no answer")]);
    expect(stage.changes).toHaveLength(changes + 1);
    await commits.pass();
    expect(summaries(asked).slice(1)).toEqual(["insufficient_funds", "no answer", "no answer"]);
    await commits.pass();
    expect(told(asked)).toEqual(["done 2", "insufficient_funds", "done 3", "done 4"]);
    const versions = stage.changes.slice(changes).map((change) => change.wallet.version);
    expect(versions).toEqual([2, 3, 4]);
  });

  it("has followers: a repeat gets the answer, and nothing is asked of the journal for it", async () => {
    const [wallet, other] = await openTwo();
    const commits = holdCommits();
    const [done, rejected] = [credit(other, "5"), debit(other, "500")];
    await begin(credit(wallet, "1"));
    const asked = [...(await begin(done, rejected)), ...(await begin(done, rejected))];
    await commits.pass();
    expect(commits.sizes).toEqual([2]);
    expect(summaries(asked)).toEqual(Array<string>(4).fill("no answer"));
    await commits.pass();
    const no = "insufficient_funds";
    expect(told(asked)).toEqual(["done 2", no, "replayed 2", no]);
  });

  it("race: its answer comes before the first one's, and still leaves after it", async () => {
    const [one, two] = await openTwo();
    const commits = holdCommits();
    const changes = stage.changes.length;
    const asked = [...(await begin(credit(one, "1"))), ...(await begin(credit(two, "1")))];
    const seen: string[][] = [];
    await commits.passBackwards(() => void seen.push(summaries(asked)));
    expect(seen).toEqual([
      ["no answer", "no answer"],
      ["done 2", "done 2"],
    ]);
    const wallets = stage.changes.slice(changes).map((change) => change.wallet.walletId);
    expect(wallets).toEqual([one, two]);
  });

  it.each([1, 2, 255])("waits while it is small: %i of 256 messages", async (count) => {
    withLimits({ commitBehindMessagesMin: 256 });
    const wallet = await stage.open("a", "10");
    const commits = holdCommits();
    const credits = Array.from({ length: count }, () => credit(wallet, "1"));
    const asked = [...(await begin(credit(wallet, "1"))), ...(await begin(...credits))];
    expect(commits.sizes).toEqual([1]);
    // And time does not make it larger
    await stage.tick();
    expect(commits.sizes).toEqual([1]);
    // When one more comes, or the first is answered, it goes
    if (count === 255) asked.push(...(await begin(credit(wallet, "1"))));
    else await commits.pass();
    expect(commits.sizes.at(-1)).toBe(count === 255 ? 256 : count);
    await commits.open();
    expect(told(asked)).toEqual(asked.map((_, index) => `done ${index + 2}`));
  });
});

// --- The first one fails -------------------------------------------------------------------------

describe.each(FAILURES)("when the first of two is %s, and %i are written", (type, written) => {
  it("each command of both, and of the one that fills, is carried out once and told once", async () => {
    // Given all the money out with the first, and a second decided on that, also of another wallet
    const [wallet, other] = await openTwo();
    const commits = holdCommits();
    const commands = [debit(wallet, "100"), debit(wallet, "1"), credit(other, "7")] as const;
    const last = [credit(wallet, "3"), credit(other, "1")];
    const asked = [
      ...(await begin(commands[0])),
      ...(await begin(commands[1], commands[2])),
      ...(await begin(...last)),
    ];
    expect(commits.sizes).toEqual([1, 2]);
    const changes = stage.changes.length;
    // When the first fails
    await commits.fail(type, written);
    expect(stage.changes).toHaveLength(changes);
    await conclude(commits);
    // Then all is as if there had been one after the other
    expect(told(asked)).toEqual([
      written > 0 ? "replayed 2" : "done 2",
      "insufficient_funds",
      written > 1 ? "replayed 2" : "done 2",
      "done 3",
      "done 3",
    ]);
    expect(await bookOf(wallet, commands)).toEqual({ balance: 3, events: 2 });
    expect(await bookOf(other, last)).toEqual({ balance: 9, events: 2 });
    // And there may be two under way again
    const next = holdCommits();
    asked.push(...(await begin(credit(wallet, "1"))), ...(await begin(credit(other, "1"))));
    expect(next.sizes).toEqual([1, 1]);
    await next.open();
    expect(told(asked).slice(-2)).toEqual(["done 4", "done 4"]);
  });

  it("a repeat of what is in the second follows it, and gets the same answer", async () => {
    const [wallet, other] = await openTwo();
    const commits = holdCommits();
    const commands = [credit(other, "5"), debit(other, "500")];
    await begin(credit(wallet, "1"));
    const asked = [...(await begin(...commands)), ...(await begin(...commands))];
    await commits.fail(type, written);
    asked.push(...(await begin(...commands)));
    await conclude(commits);
    const [first, no] = [written > 1 ? "replayed 2" : "done 2", "insufficient_funds"];
    expect(told(asked)).toEqual([first, no, "replayed 2", no, "replayed 2", no]);
    expect(await bookOf(other, commands)).toEqual({ balance: 6, events: 1 });
  });
});

it.each<[Failure, number]>([...FAILURES.slice(0, -1), ["undone", 0]])(
  "when the second of two is %s, and %i are written, the first stays told and it is carried out once",
  async (type, written) => {
    const [wallet, other] = await openTwo();
    const commits = holdCommits();
    const first = await begin(debit(wallet, "100"));
    const second = await begin(debit(wallet, "1"), credit(other, "1"));
    await commits.pass();
    expect(told(first)).toEqual(["done 2"]);
    await commits.fail(type, written);
    await conclude(commits);
    const credited = written > 0 ? "replayed 2" : "done 2";
    expect(told([...first, ...second])).toEqual(["done 2", "insufficient_funds", credited]);
    expect(await bookOf(other)).toMatchObject({ balance: 2 });
  },
);

it.each<Failure>(["known", "stale"])(
  "after one that is %s no other is sent behind the next, until one is committed",
  async (type) => {
    const wallet = await stage.open("a", "10");
    const commits = holdCommits();
    const asked: Asked[] = [];
    const more = async (): Promise<void> => {
      asked.push(...(await begin(credit(wallet, "1"))));
    };
    for (let count = 0; count < 2; count += 1) await more();
    // Given one that fails again and again
    for (let count = 0; count < 2; count += 1) {
      await commits.fail(type, 0);
      expect(commits.sizes).toEqual([2 + count]);
      await more();
      expect(commits.sizes).toEqual([2 + count]);
    }
    // When it is committed there may be two again
    await commits.pass();
    expect(commits.sizes).toEqual([1]);
    await more();
    expect(commits.sizes).toEqual([1, 1]);
    await commits.open();
    expect(told(asked)).toEqual(asked.map((_, index) => `done ${index + 2}`));
  },
);

it("race: nobody knows, and the second's deadline comes near first: it is not told as not done", async () => {
  // Given three that are soon too late, one of them not sent yet, and a lane that cannot claim
  const [wallet, other] = await openTwo();
  const commits = holdCommits();
  const { hooks } = stage.lane("a");
  hooks.claim = () => Promise.reject(new Error("away"));
  const commands = [credit(wallet, "1"), credit(other, "1"), credit(other, "1")];
  const asked = commands.map((command) => stage.sendAs(command, { budgetMs: 3_000 }));
  await commits.fail("unknown", 2);
  for (let ticks = 0; ticks < 29; ticks += 1) await stage.tick();
  expect(summaries(asked)).toEqual(["no answer", "no answer", "unavailable"]);
  delete hooks.claim;
  await conclude(commits);
  expect(await bookOf(other, commands)).toEqual({ balance: 2, events: 2 });
});

// --- A real journal, with both on their way ------------------------------------------------------

/** Another writer's commit, made in the belief that it holds the lane's epochs. */
const writeElsewhere = (fill: (writes: Draft) => unknown): Promise<void> =>
  appendElsewhere(database, fill);

/** Strikes an append in its middle, where it waits for the wallet's row. */
async function strike(walletId: string, blow: string): Promise<() => Promise<void>> {
  const goOn = await lockWallet(database, walletId);
  const struck = `SELECT pg_${blow}_backend(pid) FROM pg_stat_activity WHERE ${STALLED_WRITERS}`;
  return async () => {
    await expect.poll(() => database.query(struck), { interval: 5 }).toHaveLength(1);
    await goOn();
  };
}

type Cause = (walletId: string, first: Command) => Promise<void | (() => Promise<void>)>;
const CAUSES: Array<[string, Cause, string[], object]> = [
  [
    "known: its command was rejected elsewhere",
    (id, { commandId }) => writeElsewhere((writes) => putRejection(writes, id, commandId)),
    ["wallet_already_exists", "done 2", "done 2"],
    { balance: 60 },
  ],
  [
    "stale: another writer's event is in its place",
    (id) => writeElsewhere((writes) => putWallet(writes, idIn([shardOf(id)]), 1, unique("c"))),
    ["done 2", "insufficient_funds", "done 2"],
    { balance: 0 },
  ],
  [
    "fenced: another owner has its shard",
    async () => void (await stage.add({ name: "b", owner: "host-2", shards: EVEN })),
    ["unknown", "unknown", "done 2"],
    { balance: 100 },
  ],
  [
    "refused: it was cancelled",
    (id) => strike(id, "cancel"),
    ["done 2", "insufficient_funds", "done 2"],
    { balance: 0 },
  ],
  [
    "unknown: the connection ended in the middle of it",
    (id) => strike(id, "terminate"),
    ["done 2", "insufficient_funds", "done 2"],
    { balance: 0 },
  ],
];

it.each(CAUSES)(
  "race: with the second behind it, the first is %s",
  async (_what, cause, said, book) => {
    const [wallet, other] = [await openIn(EVEN, "100"), await openIn(ODD, "1")];
    const first = debit(wallet, "100", { fingerprint: "input" });
    const happens = await cause(wallet, first);
    const appends = stage.lane("a").calls.append;
    // When both go out in one turn, the second decided on what the first did
    const asked = [...stage.send(first), ...stage.send(debit(wallet, "40"), credit(other, "7"))];
    expect(stage.lane("a").calls.append).toBe(appends + 2);
    await happens?.();
    await stage.quiet();
    await stage.tick(1_000);
    await stage.settle();
    // Then nobody is told of what was not written
    expect(told(asked)).toEqual(said);
    expect(await bookOf(wallet)).toMatchObject(book);
    expect(await bookOf(other)).toMatchObject({ balance: 8 });
  },
);

it("race: a third is sent when the first is told, and the second has failed and is not told yet", async () => {
  // Given a second that meets its own rejection, and a keyed debit decided on what it did
  const [wallet, other] = [await openIn(EVEN, "100"), await openIn(ODD, "1")];
  const [elsewhere, keyed] = ["100", "70"].map((it) => debit(wallet, it, { fingerprint: "input" }));
  await writeElsewhere((writes) => putRejection(writes, wallet, elsewhere!.commandId));
  const { calls, hooks } = stage.lane("a");
  const sent = calls.append;
  // When both answers are here before the lane hears the first
  const answers: Array<Promise<AppendResult>> = [];
  let arrived = (): void => undefined;
  const both = new Promise<void>((resolve) => (arrived = resolve));
  hooks.append = (_writes, apply) => {
    const answer = apply();
    if (answers.push(answer) === 2) void Promise.all(answers).then(arrived);
    return answers.length > 2 ? answer : both.then(() => answer);
  };
  const asked = [...stage.send(credit(other, "1")), ...stage.send(elsewhere!)];
  asked.push(...stage.send(keyed!, credit(other, "5")));
  expect(calls.append).toBe(sent + 2);
  await stage.quiet();
  // Then the third was on its way as well, came to nothing, and was decided again
  expect(await Promise.all(answers)).toMatchObject(
    ["committed", "known", "undone", "committed"].map((type) => ({ type })),
  );
  expect(told(asked)).toEqual(["done 2", "wallet_already_exists", "done 2", "done 3"]);
  expect(await bookOf(wallet, [keyed!])).toEqual({ balance: 30, events: 1 });
  expect(await bookOf(other)).toMatchObject({ balance: 7 });
  const sql = "SELECT FROM rejections WHERE command_id = $1";
  expect(await database.query(sql, [keyed!.commandId])).toEqual([]);
});

// --- Shards that leave ---------------------------------------------------------------------------

it("a shard that leaves is let go when no commit under way has anything of it", async () => {
  const [one, two] = [await openIn([75], "1"), await openIn([76], "1")];
  const three = await openIn([77], "1");
  const leaving = new Set([75, 76, 77]);
  const staged = stage.lane("a");
  const held = (): number[] =>
    staged.lane
      .stats()
      .shards.filter((it) => leaving.has(it))
      .toSorted();
  const commits = holdCommits();
  // Given 75 and 76 in the first commit, 76 and 77 in the second
  const asked = await begin(credit(one, "1"), credit(two, "1"));
  asked.push(...(await begin(credit(two, "1"), credit(three, "1"))));
  Object.assign(staged, { shards: ALL_SHARDS.filter((shard) => !leaving.has(shard)) });
  await stage.tick();
  expect(held()).toEqual([75, 76, 77]);
  await commits.pass();
  await stage.tick();
  expect(held()).toEqual([76, 77]);
  await commits.pass();
  await stage.tick();
  expect(held()).toEqual([]);
  expect(told(asked)).toEqual(["done 2", "done 2", "done 3", "done 2"]);
});
