/**
 * The order of one wallet's messages while a lane stops serving and begins again. They wait in
 * several places: with a wallet that is being read, with a shard that is being claimed, and, once a
 * commit has failed, in the lane's backlog. The race in each test: an older message waits in one of
 * the first two when a later one comes to the backlog, and must not be overtaken by it. The last
 * one is the other way round: the older one is in the backlog when its wallet is passivated.
 */
import { describe, expect, it } from "vitest";
import { LIMITS } from "../src/limits.ts";
import { ALL_SHARDS } from "../src/core/shard.ts";
import { EVEN, ODD } from "./stage/ids.ts";
import { begin, gateOf, ONE_LANE, openIn, stage, summaries, useLaneStage } from "./stage/lane.ts";
import { credit } from "./stage/staged-commands.ts";
import { withLimits, type JournalHooks, type StagedLane } from "./stage/lanes.ts";

useLaneStage("lane_order", ONE_LANE);

/** What makes a lane stop serving. */
const STOPS = ["refused", "unknown, written", "unknown, not written"] as const;

/** Holds back what the lane asks of its journal by this call; the returned function lets it go. */
function holdBack(name: "claim" | "loadWallets", { hooks }: StagedLane): () => Promise<void> {
  let open = (): void => undefined;
  const opened = new Promise<void>((resolve) => (open = resolve));
  const held = <T>(call: () => Promise<T>): Promise<T> => opened.then(call);
  Object.assign(hooks, { [name]: held } satisfies JournalHooks);
  return async () => {
    delete hooks[name];
    open();
    await stage.quiet();
  };
}

describe.each(STOPS)("when a commit of another wallet is %s", (fate) => {
  it.each(["while nothing is served", "after that"])(
    "what woke a wallet that is read %s comes first",
    async (when) => {
      // Given a wallet that is being read, with a message that waits for that
      const lane = stage.lane("a");
      const asleep = await stage.open("a", "10");
      await stage.tick(LIMITS.actorIdleMs + LIMITS.actorSweepMs);
      const awake = await stage.open("a", "10");
      const gate = gateOf();
      await begin(credit(awake, "1"));
      const read = holdBack("loadWallets", lane);
      const asked = await begin(credit(asleep, "1"));

      // When the lane stops, another message comes, and the read is done at last
      const claim = holdBack("claim", lane);
      await gate.pass(fate);
      expect(lane.lane.stats().serving).toBe(false);
      asked.push(...(await begin(credit(asleep, "1"))));
      if (when === "while nothing is served") await read();
      asked.push(...(await begin(credit(asleep, "1"))));
      await claim();
      await stage.tick();
      expect(lane.lane.stats().serving).toBe(true);
      await read();
      await gate.open();

      // Then they happen in the order in which they came
      expect(summaries(asked)).toEqual(["done 2", "done 3", "done 4"]);
    },
  );

  it("what waits for its shard to be claimed comes first", async () => {
    // Given a shard that comes back to the lane and is being claimed, with a message that waits
    const lane = stage.lane("a");
    const [here, coming] = [await openIn(EVEN, "10"), await openIn(ODD, "10")];
    Object.assign(lane, { shards: EVEN });
    await stage.tick();
    const gate = gateOf();
    await begin(credit(here, "1"));
    const claim = holdBack("claim", lane);
    Object.assign(lane, { shards: ALL_SHARDS });
    await stage.tick();
    const asked = await begin(credit(coming, "1"));

    // When the lane stops, another message comes, and the claim is done at last
    await gate.pass(fate);
    asked.push(...(await begin(credit(coming, "1"))));
    await claim();
    await stage.tick();
    await gate.open();
    await stage.settle();

    // Then they happen in the order in which they came
    expect(summaries(asked)).toEqual(["done 2", "done 3"]);
  });
});

it("what waits for room in a commit comes first, though its wallet is passivated meanwhile", async () => {
  // Given more wallets in memory than may be, and a message of one that does not fit the commit
  const lane = stage.lane("a");
  const [busy, idle] = [await stage.open("a", "10"), await stage.open("a", "10")];
  withLimits({ actorsBytesMax: LIMITS.actorBytes, commitMessagesMax: 2 });
  const gate = gateOf();
  await begin(credit(busy, "1"));
  await begin(credit(busy, "1"), credit(busy, "1"));
  const asked = await begin(credit(idle, "1"));
  expect(lane.lane.stats()).toMatchObject({ actors: 2, backlog: 1 });

  // When its wallet goes and is read again, another message comes, and then there is room
  const reads = lane.calls.loadWallets;
  const read = holdBack("loadWallets", lane);
  await stage.tick(LIMITS.actorSweepMs);
  asked.push(...(await begin(credit(idle, "1"))));
  await gate.open();
  await read();
  expect(lane.calls.loadWallets).toBe(reads + 1);

  // Then they happen in the order in which they came
  expect(summaries(asked)).toEqual(["done 2", "done 3"]);
});
