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
