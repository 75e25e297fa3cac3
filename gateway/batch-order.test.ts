/**
 * The order within a batch by itself, in the moments between two events that a whole batch never
 * shows.
 */
import { describe, expect, it } from "vitest";
import { buildBatchOrder } from "./batch-order.ts";

/** Two commands of a wallet that waited for a transfer out of it, the first of which may go now. */
async function twoThatWaited() {
  const order = buildBatchOrder();
  const transfer = order.enter("a", "b");
  const first = order.enter("a", null);
  const second = order.enter("a", null);
  transfer.ended();
  await first.before;
  return { order, first, second };
}

describe("behind a command that is under way, another one waits as the table says", () => {
  it.each<[first: [string, string?], second: [string, string?], waits: boolean]>([
    [["a"], ["a"], false],
    [["a"], ["b"], false],
    // Decided after the payer's own, as it is submitted after them; the payee's may still be late.
    [["a"], ["a", "b"], false],
    [["b"], ["a", "b"], true],
    [["a", "b"], ["a"], true],
    [["a", "b"], ["b"], true],
    [["a", "b"], ["c"], false],
    [["a", "b"], ["a", "c"], false],
    [["a", "b"], ["c", "b"], false],
    [["a", "b"], ["a", "b"], false],
    [["a", "b"], ["b", "c"], true],
    [["a", "b"], ["c", "a"], true],
    [["a", "b"], ["b", "a"], true],
    [["a", "b"], ["c", "d"], false],
  ])("%j, then %j: %s", (first, second, waits) => {
    const order = buildBatchOrder();
    order.enter(first[0], first[1] ?? null);
    expect(order.enter(second[0], second[1] ?? null).before !== null).toBe(waits);
  });

  it("until all of its kind are answered, in whatever order", async () => {
    for (const answered of [
      [0, 1, 2],
      [2, 1, 0],
      [1, 0, 2],
    ]) {
      const order = buildBatchOrder();
      const transfers = ["b", "c", "d"].map((payeeId) => order.enter("a", payeeId));
      let isFree = false;
      const waiting = order.enter("a", null).before!.then(() => (isFree = true));
      for (const nth of answered) {
        await new Promise((resolve) => setImmediate(resolve));
        expect(isFree).toBe(false);
        transfers[nth]!.ended();
      }
      await waiting;
    }
  });

  it("also when as many go the other way, and when others of its wallet are answered", () => {
    const order = buildBatchOrder();
    const own = order.enter("a", null);
    order.enter("a", "b");
    order.enter("c", "d").ended();
    order.enter("e", "a");
    own.ended();
    expect(order.enter("a", null).before).not.toBeNull();
  });

  it.each([
    ["into a wallet", "b"],
    ["out of a wallet", "a"],
  ])("also a transfer %s, when all else of it was answered before", (_where, walletId) => {
    const order = buildBatchOrder();
    const own = order.enter(walletId, null);
    order.enter("a", "b");
    own.ended();
    expect(order.enter(walletId, null).before).not.toBeNull();
  });

  it("and a transfer that waits itself keeps no other one out of its wallet waiting", () => {
    const order = buildBatchOrder();
    order.enter("b", null);
    expect(order.enter("a", "b").before).not.toBeNull();
    expect(order.enter("a", "c").before).toBeNull();
  });
});

describe("the order within a batch", () => {
  it("holds between a transfer's answer and the submission of what waited for it", async () => {
    const order = buildBatchOrder();
    const transfer = order.enter("a", "b");
    const first = order.enter("a", null);
    expect(transfer.before).toBeNull();
    expect(first.before).not.toBeNull();
    // The transfer is answered: the first credit may go, but has not gone yet.
    transfer.ended();
    expect(order.enter("b", null).before).toBeNull();
    expect(order.enter("a", null).before).not.toBeNull();
    expect(order.enter("a", "d").before).not.toBeNull();
    await first.before;
  });

  it("submits what waits in its order, each when the one before it was submitted", async () => {
    const order = buildBatchOrder();
    const transfer = order.enter("a", "b");
    const submissions: string[] = [];
    const waits = (name: string, payeeId: string | null) => {
      const turn = order.enter("a", payeeId);
      const submission = turn.before!.then(() => submissions.push(name));
      return { turn, submission };
    };
    const first = waits("first", null);
    const second = waits("second", null);
    const third = waits("a transfer", "c");
    transfer.ended();
    await first.submission;
    // Nobody has said yet that the first has left: it may still be on its way to the desk.
    await new Promise((resolve) => setImmediate(resolve));
    expect(submissions).toEqual(["first"]);
    first.turn.submitted();
    await second.submission;
    second.turn.submitted();
    await third.submission;
    expect(submissions).toEqual(["first", "second", "a transfer"]);
  });

  it("still holds for the second that waits when the first was submitted and answered", async () => {
    const { order, first, second } = await twoThatWaited();
    first.submitted();
    first.ended();
    expect(order.enter("a", null).before).not.toBeNull();
    second.submitted();
  });

  it("goes on behind one that waited and was never submitted", async () => {
    const { order, first, second } = await twoThatWaited();
    first.ended();
    await second.before;
    second.submitted();
    second.ended();
    expect(order.enter("a", null).before).toBeNull();
  });

  it("forgets wallets that have nothing under way", () => {
    const order = buildBatchOrder();
    const transfer = order.enter("a", "b");
    transfer.ended();
    for (const walletId of ["a", "b"]) expect(order.enter(walletId, null).before).toBeNull();
  });
});
