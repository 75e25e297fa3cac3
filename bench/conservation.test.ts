import { describe, expect, it } from "vitest";
import { emptyLedger, judgeWallets, keep } from "./conservation.ts";
import { HOT_WALLET, INITIAL_BALANCE, PAYER_WALLET, allWallets } from "./shapes.ts";

const measurement = {
  answers: 8_000,
  refused: 0,
  faults: 0,
  elapsedMs: 8_000,
  p50Ms: 1,
  p90Ms: 2,
  p99Ms: 3,
  maxMs: 4,
};

describe("the check of the wallets after a run", () => {
  const ids = allWallets();
  const startMinor = INITIAL_BALANCE * 100;

  /** 5 credits on the hot wallet, 4 on others, 3 transfers by the payer, 2 between others. */
  function afterRun() {
    const states = ids.map(() => ({ balanceMinor: startMinor, version: 1 }));
    const change = (index: number, minor: number) => {
      const state = states[index];
      if (state === undefined) throw new Error("no such wallet");
      state.balanceMinor += minor;
      state.version += 1;
    };
    for (let n = 0; n < 5; n += 1) change(ids.indexOf(HOT_WALLET), 100);
    for (let n = 0; n < 4; n += 1) change(100 + n, 100);
    for (let n = 0; n < 3; n += 1) {
      change(ids.indexOf(PAYER_WALLET), -1);
      change(200 + n, 1);
    }
    for (let n = 0; n < 2; n += 1) {
      change(300 + n, -1);
      change(400 + n, 1);
    }
    return { states, change };
  }

  function ledgerOf(uniform: number, hot: number, transfers: number, payer: number) {
    const ledger = emptyLedger();
    const add = (traffic: Parameters<typeof keep>[1], answers: number) =>
      keep(ledger, traffic, 1, { ...measurement, answers });
    add({ type: "credit", to: "uniform" }, uniform);
    add({ type: "credit", to: "hot" }, hot);
    add({ type: "transfer", from: "uniform" }, transfers);
    add({ type: "transfer", from: "payer" }, payer);
    return ledger;
  }

  it.each([
    { name: "everything acknowledged is there", ledger: ledgerOf(4, 5, 2, 3), ok: true },
    { name: "one more was under way and is there", ledger: ledgerOf(3, 4, 1, 2), ok: true },
    { name: "an acknowledged uniform credit is missing", ledger: ledgerOf(5, 5, 2, 3), ok: false },
    { name: "an acknowledged hot credit is missing", ledger: ledgerOf(4, 6, 2, 3), ok: false },
    { name: "an acknowledged transfer is missing", ledger: ledgerOf(4, 5, 3, 3), ok: false },
    { name: "an acknowledged payment is missing", ledger: ledgerOf(4, 5, 2, 4), ok: false },
    { name: "more happened than was sent", ledger: ledgerOf(2, 5, 2, 3), ok: false },
  ])("$name: $ok", ({ ledger, ok }) => {
    expect(judgeWallets(ids, afterRun().states, ledger).ok).toBe(ok);
  });

  it("sees half a transfer", () => {
    const { states, change } = afterRun();
    change(500, -1);
    expect(judgeWallets(ids, states, ledgerOf(4, 5, 2, 3)).ok).toBe(false);
  });
});
