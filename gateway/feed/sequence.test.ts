/**
 * A wallet's sequence by itself: what is kept beside it is bounded, and never outlives its use.
 */
import { expect, it } from "vitest";

import { LIMITS } from "../../src/limits.ts";
import { buildWorld } from "../../test/stage/feed-world.ts";
import { revisionOfChange, revisionOfState } from "./frames.ts";
import type { Outbox } from "./outbox.ts";
import {
  extend,
  jump,
  keepEarly,
  moveWatch,
  newTopic,
  nextPage,
  startAt,
  takeEarly,
  takePage,
  versionOf,
  type Page,
  type Topic,
  type Watch,
} from "./sequence.ts";

/** A wallet of which nobody has seen more than its creation, and all changes after that. */
function build(count: number) {
  const world = buildWorld();
  const topic = newTopic("w");
  extend(topic, revisionOfChange(world.commit("w")));
  const changes = Array.from({ length: count }, () => world.commit("w"));
  const page = async (fromVersion: number, length: number, isRepair: boolean): Promise<Page> => ({
    fromVersion,
    isRepair,
    events: await world.readModel.events("w", fromVersion, length),
  });
  return { topic, changes, page };
}

/** A client that joins, and what it is sent. */
function connect(topic: Topic): { watch: Watch; put: string[] } {
  const put: string[] = [];
  const outbox: Outbox = {
    say: () => undefined,
    put: (_, { wallet }, kind) => void put.push(`${kind} ${wallet.version}`),
    forget: () => undefined,
    isSlow: false,
    cut: () => undefined,
  };
  const watch: Watch = {
    walletId: topic.walletId,
    outbox,
    from: null,
    onMissing: () => undefined,
    state: "joining",
    version: -1,
    sentVersion: -1,
    kept: null,
  };
  topic.joining.add(watch);
  return { watch, put };
}

it("Of changes beyond a gap the newest feedHeldChangesMax are kept.", () => {
  const { topic, changes } = build(LIMITS.feedHeldChangesMax + 10);
  for (const change of changes) keepEarly(topic, change);
  const kept = changes.slice(10).map(({ wallet }) => wallet.version);
  expect([...topic.early.keys()]).toEqual(kept);
});

it("What is held for those who catch up is no more than feedHeldChangesMax.", () => {
  const { topic, changes } = build(2 * LIMITS.feedHeldChangesMax + 10);
  topic.held = [];
  for (const change of changes) {
    extend(topic, revisionOfChange(change));
    expect(topic.held.length).toBeLessThanOrEqual(LIMITS.feedHeldChangesMax);
    expect(topic.held.at(-1)?.wallet).toBe(change.wallet);
  }
});

it("A sequence that is taken up elsewhere holds nothing of before, and takes what waited for it.", () => {
  const { topic, changes } = build(5);
  const [one, , , four, five] = changes;
  topic.held = [];
  extend(topic, revisionOfChange(one!));
  keepEarly(topic, five!);
  jump(topic, four!.wallet);
  expect(versionOf(topic)).toBe(5);
  expect(topic.held.map(({ wallet }) => wallet.version)).toEqual([5]);
  expect(topic.early.size).toBe(0);
});

it("Who has the state already at which a sequence is taken up is told nothing of it again.", () => {
  const world = buildWorld();
  const topic = newTopic("w");
  const behind = connect(topic);
  extend(topic, revisionOfChange(world.commit("w")));
  const { wallet } = world.commit("w");
  // Its client joined by a newer read of the database than the bus has told
  const ahead = connect(topic);
  startAt(topic, ahead.watch, revisionOfState(wallet), "snapshot");
  startAt(topic, behind.watch, topic.latest!, "snapshot");
  expect(jump(topic, wallet)).toBe(1);
  expect(behind.put).toEqual(["snapshot 0", "reset 1"]);
  expect(ahead.put).toEqual(["snapshot 1"]);
});

it("A gap and a replay that need the journal at once get its pages in turn.", () => {
  const world = buildWorld();
  const topic = newTopic("w");
  const replaying = connect(topic).watch;
  const live = connect(topic).watch;
  extend(topic, revisionOfChange(world.commit("w")));
  startAt(topic, live, topic.latest!, "snapshot");
  moveWatch(topic, replaying, "replaying");
  // The bus has told of more than came
  topic.knownVersion = 9;
  const wanted: (boolean | undefined)[] = [];
  for (let turn = 0; turn < 4; turn++) {
    const page = nextPage(topic);
    wanted.push(page?.isRepair);
    topic.wasRepair = page!.isRepair;
  }
  expect(wanted).toEqual([true, false, true, false]);
});

it("A page that ends before what the bus has told leaves the rest to another one.", async () => {
  const { topic, changes, page } = build(5);
  startAt(topic, connect(topic).watch, topic.latest!, "snapshot");
  keepEarly(topic, changes[4]!);
  topic.knownVersion = 5;
  takePage(topic, await page(1, 1, true));
  expect(nextPage(topic)).toEqual({ fromVersion: 2, isRepair: true });
});

it("A page for a replay does not make a gap forgotten.", async () => {
  const { topic, page } = build(5);
  startAt(topic, connect(topic).watch, topic.latest!, "snapshot");
  topic.knownVersion = 5;
  takePage(topic, await page(0, 1, false));
  expect(nextPage(topic)).toEqual({ fromVersion: 1, isRepair: true });
});

it("What waited beyond a gap is forgotten when the sequence has gone past it.", () => {
  const { topic, changes } = build(3);
  keepEarly(topic, changes[0]!);
  keepEarly(topic, changes[1]!);
  jump(topic, changes[1]!.wallet);
  takeEarly(topic);
  expect([versionOf(topic), topic.early.size]).toEqual([2, 0]);
});
