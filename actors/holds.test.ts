/** The holds that a lane's actors keep: which are let go of, and which due ones are ended when. */
import { expect, it } from "vitest";

import { amountMinor } from "../src/core/amount.ts";
import type { Hold } from "../src/core/hold.ts";
import { holdKey, type DueHold } from "../src/core/journal.ts";
import { LIMITS } from "../src/limits.ts";
import type { ExpireMessage } from "../src/core/protocol.ts";
import type { WalletState } from "../src/core/wallet.ts";
import { keepHold, newItem, type Actor, type Item } from "./commit.ts";
import { buildHoldKeeper } from "./holds.ts";

function holdOf(holdId: string, status: Hold["status"]): Hold {
  const [amount, captured] = [amountMinor(100), amountMinor(0)];
  const of = { holdId, walletId: "w1", amountMinor: amount, capturedMinor: captured, status };
  return { ...of, expiresAtMs: null } as Hold;
}

const dueOf = (index: number): DueHold => {
  return { walletId: "w1", holdId: `h${index}`, shard: 0, expiresAtUs: index };
};

function buildStage(inJournal: readonly Hold[] = [], due: readonly DueHold[] = []) {
  const actor = {
    walletId: "w1",
    state: { walletId: "w1" } as WalletState,
    loaded: true,
    holds: null,
    activeHolds: 0,
  } as Actor;
  const delivered: Item[] = [];
  const asked: (DueHold | null)[] = [];
  let nowMs = 0;
  const keeper = buildHoldKeeper({
    journal: {
      loadHolds: () => Promise.resolve([...inJournal]),
      loadDueHolds(_shards, _atMs, limit, behind) {
        asked.push(behind);
        const from = behind === null ? 0 : due.indexOf(behind) + 1;
        return Promise.resolve(due.slice(from, from + limit));
      },
    },
    actors: new Map([["w1", actor]]),
    nowMs: () => nowMs,
    wallMs: () => nowMs,
    servedShards: () => [0],
    deliver: (items) => void delivered.push(...items),
    read: (_what, asked, answered) => void asked.then(answered),
  });
  const pass = (ms: number): void => void (nowMs += ms);
  return { actor, keeper, delivered, asked, pass };
}

const expiry = (holdId: string): Item => newItem({ type: "expire", walletId: "w1", holdId }, null);

const turn = async (): Promise<void> => await new Promise((resolve) => setImmediate(resolve));

it("a hold that has ended leaves its actor with the commit, and an active one stays", () => {
  const { actor, keeper } = buildStage();
  const holds = [holdOf("over", "CAPTURED"), holdOf("open", "ACTIVE")];
  for (const hold of holds) keepHold(actor, hold);
  const rows = holds.map((hold) => [holdKey(hold), { hold, isNew: false }] as const);
  keeper.committed({ holds: new Map(rows) });
  expect([...actor.holds!.keys()]).toEqual(["open"]);
});

it("a hold that has changed since the commit was made stays", () => {
  const { actor, keeper } = buildStage();
  const ended = holdOf("h1", "CAPTURED");
  const back = holdOf("h1", "ACTIVE");
  keepHold(actor, back);
  keeper.committed({ holds: new Map([[holdKey(ended), { hold: ended, isNew: false }]]) });
  expect(actor.holds!.get("h1")).toBe(back);
});

it("one that was looked up is there for who waits, and gone with the next tick", async () => {
  const hold = holdOf("h1", "RELEASED");
  const { actor, keeper, delivered } = buildStage([hold]);
  const [first, second] = [expiry("h1"), expiry("h2")];
  expect(keeper.keepsWaiting(actor, first, "h1")).toBe(true);
  expect(keeper.keepsWaiting(actor, second, "h2")).toBe(true);
  keeper.lookUp();
  await turn();
  expect(delivered).toEqual([first, second]);
  expect([first.isHoldMissing, second.isHoldMissing]).toEqual([false, true]);
  expect(keeper.keepsWaiting(actor, first, "h1")).toBe(false);
  keeper.tidy();
  expect(actor.holds!.size).toBe(0);
  // Nothing is kept of it: should it come again, it is not touched.
  keepHold(actor, hold);
  keeper.tidy();
  expect(actor.holds!.get("h1")).toBe(hold);
});

it("one look for due holds is under way at a time, however long it takes", async () => {
  const { keeper, asked, pass } = buildStage();
  keeper.expire();
  pass(10 * LIMITS.holdExpiryMs);
  keeper.expire();
  await turn();
  expect(asked).toHaveLength(1);
  keeper.expire();
  expect(asked).toHaveLength(2);
});

it("due holds are ended a portion at a time, each behind the one before", async () => {
  const due = Array.from({ length: LIMITS.holdsDueMax + 1 }, (_, index) => dueOf(index));
  const { keeper, delivered, asked, pass } = buildStage([], due);
  const look = async (): Promise<number> => {
    keeper.expire();
    await turn();
    return delivered.length;
  };
  expect(await look()).toBe(LIMITS.holdsDueMax);
  // Not while the portion is under way, whose last message is not dealt with yet.
  const portion = delivered.splice(0);
  expect((portion[0]!.message as ExpireMessage).holdId).toBe("h0");
  for (const { turn: of } of portion.slice(1)) of!.open -= 1;
  expect(await look()).toBe(0);
  portion[0]!.turn!.open -= 1;
  portion[0]!.turn!.done();
  expect(await look()).toBe(1);
  expect(asked).toEqual([null, due[LIMITS.holdsDueMax - 1]]);
  // Behind the last portion it waits a while, and begins with the first.
  const [last] = delivered.splice(0);
  last!.turn!.done();
  expect(await look()).toBe(0);
  pass(LIMITS.holdExpiryMs);
  await look();
  expect(asked).toHaveLength(3);
  expect(asked[2]).toBeNull();
});
