/**
 * A wallet's sequence by itself: what is kept beside it is bounded, and never outlives its use.
 */
import { expect, it } from "vitest";

import { LIMITS } from "../src/limits.ts";
import { buildWorld } from "../test/stage/feed-world.ts";
import { revisionOfChange } from "./feed-frames.ts";
import { extend, jump, keepEarly, newTopic, takeEarly, versionOf } from "./feed-sequence.ts";

/** A wallet of which nobody has seen more than its creation, and all changes after that. */
function build(count: number) {
  const world = buildWorld();
  const topic = newTopic("w");
  extend(topic, revisionOfChange(world.commit("w")));
  return { topic, changes: Array.from({ length: count }, () => world.commit("w")) };
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

it("What waited beyond a gap is forgotten when the sequence has gone past it.", () => {
  const { topic, changes } = build(3);
  keepEarly(topic, changes[0]!);
  keepEarly(topic, changes[1]!);
  jump(topic, changes[1]!.wallet);
  takeEarly(topic);
  expect([versionOf(topic), topic.early.size]).toEqual([2, 0]);
});
