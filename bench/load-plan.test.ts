import { describe, expect, it } from "vitest";
import { planLoad, startTally } from "./load-plan.ts";

describe("the plan of a load", () => {
  it("is the same for the same seed, and another for another", () => {
    const list = (seed: number) => {
      const plan = planLoad(10, 200, seed);
      return Array.from({ length: plan.count }, (_, i) => plan.operation(i));
    };
    expect(list(7)).toEqual(list(7));
    expect(list(7)).not.toEqual(list(8));
  });

  it("has a third of each type and no transfer to the payer itself", () => {
    const plan = planLoad(2, 30_000, 1);
    const counts = { credit: 0, debit: 0, transfer: 0 };
    for (let i = 0; i < plan.count; i += 1) {
      const { type, wallet, payee, amountMinor } = plan.operation(i);
      counts[type] += 1;
      expect(wallet !== payee && wallet < 2 && payee < 2 && amountMinor > 0).toBe(true);
    }
    for (const count of Object.values(counts)) expect(Math.abs(count - 10_000)).toBeLessThan(400);
  });

  it("gives wallets enough that all money out may come before all money in", () => {
    const plan = planLoad(2, 10_000, 3);
    const left = [plan.initialBalanceMinor, plan.initialBalanceMinor];
    for (let i = 0; i < plan.count; i += 1) {
      const { type, wallet, amountMinor } = plan.operation(i);
      if (type !== "credit") left[wallet] = (left[wallet] ?? 0) - amountMinor;
    }
    expect(Math.min(...left)).toBeGreaterThanOrEqual(0);
    expect(plan.initialBalanceMinor % 100).toBe(0);
    expect(planLoad(1_000, 1_000, 3).initialBalanceMinor).toBe(100_000);
  });

  it("tallies operations, and names each wallet that differs", () => {
    const tally = startTally(3, 1_000);
    tally.apply({ type: "credit", wallet: 0, payee: 1, amountMinor: 5 });
    tally.apply({ type: "debit", wallet: 1, payee: 0, amountMinor: 7 });
    tally.apply({ type: "transfer", wallet: 2, payee: 0, amountMinor: 11 });
    expect(tally.expectedSumMinor()).toBe(2_998);
    expect(tally.differences([1_016, 993, 989])).toEqual([]);
    expect(tally.differences([1_016, 994, 988])).toEqual([
      { wallet: 1, expectedMinor: 993, foundMinor: 994 },
      { wallet: 2, expectedMinor: 989, foundMinor: 988 },
    ]);
  });
});
