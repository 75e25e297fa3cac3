/** Creations without a wallet id: which one a key's messages reach, and when it is forgotten. */
import { expect, it } from "vitest";

import type { CommandMessage } from "../src/core/protocol.ts";
import { shardOf } from "../src/core/shard.ts";
import { newItem, type Item } from "./commit.ts";
import { buildCreations } from "./creations.ts";

const walletOf = (item: Item): string => (item.message as CommandMessage).command.walletId;

function buildStage() {
  const asked: string[] = [];
  const delivered: Item[] = [];
  const creations = buildCreations({
    journal: {
      loadCreated(keys) {
        asked.push(...keys);
        return Promise.resolve(new Map());
      },
    },
    deliver: (items) => void delivered.push(...items),
    read: (_what, asked, answered) => void asked.then(answered),
  });
  function enter(walletId: string, item = itemFor(walletId)): Item | null {
    return creations.enter(item, item.message as CommandMessage);
  }
  /** What the journal has answered for. */
  async function resolved(): Promise<Item[]> {
    creations.lookUp();
    await Promise.resolve().then(() => Promise.resolve());
    return delivered.splice(0);
  }
  return { creations, asked, enter, resolved };
}

function itemFor(walletId: string): Item {
  const command = { commandId: "key", walletId, proposedId: true, fingerprint: "f" };
  return newItem({ type: "command", attempt: 1, command } as CommandMessage, null);
}

it("all with a key reach the first one's wallet, for which the journal is asked once", async () => {
  const { asked, enter, resolved } = buildStage();
  expect([enter("w1"), enter("w2")]).toEqual([null, null]);
  expect((await resolved()).map(walletOf)).toEqual(["w1", "w1"]);
  expect(walletOf(enter("w3")!)).toBe("w1");
  expect(asked).toEqual(["key"]);
});

it("a key is forgotten with its last message, and no sooner", async () => {
  const { creations, asked, enter, resolved } = buildStage();
  enter("w1");
  enter("w2");
  const [first, second] = await resolved();
  creations.finished(first!);
  expect(walletOf(enter("w3")!)).toBe("w1");
  creations.finished(second!);
  creations.finished(second!);
  expect(enter("w4")).toBeNull();
  expect((await resolved()).map(walletOf)).toEqual(["w4"]);
  expect(asked).toEqual(["key", "key"]);
});

it("one that will enter again is no longer counted, and asks anew behind the last one", async () => {
  const { creations, asked, enter, resolved } = buildStage();
  enter("w1");
  const [item] = await resolved();
  creations.reenter(item!);
  expect(item!.creationKey).toBeNull();
  expect(enter("w1", item)).toBeNull();
  expect((await resolved()).map(walletOf)).toEqual(["w1"]);
  expect(asked).toEqual(["key", "key"]);
});

it("who waits is given back when its shard goes", async () => {
  const { creations, enter, resolved } = buildStage();
  enter("w1");
  const [waiting] = creations.forget(new Set([shardOf("w1")]));
  expect(walletOf(waiting!)).toBe("w1");
  creations.finished(waiting!);
  expect(await resolved()).toEqual([]);
});
