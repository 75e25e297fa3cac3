/**
 * The order within a batch by itself, in the moments between two events that a whole batch never
 * shows.
 */
import { describe, expect, it } from "vitest";
import { buildBatchOrder } from "./batch-order.ts";

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

  it("forgets wallets that have nothing under way", () => {
    const order = buildBatchOrder();
    const transfer = order.enter("a", "b");
    transfer.ended();
    for (const walletId of ["a", "b"]) expect(order.enter(walletId, null).before).toBeNull();
  });
});
