/**
 * Transfers whose wallets change between two steps, and whose lanes die before and after each of
 * their commits: the money moves once, or comes back.
 */
import { describe, expect, it } from "vitest";
import type { AppendResult, Writes } from "../src/core/journal.ts";
import { EVEN } from "./stage/ids.ts";
import {
  balances,
  drop,
  order,
  pass,
  sendHeld,
  stage,
  transferIdOf,
  transferRow,
  TWO_HOSTS,
  useLaneStage,
} from "./stage/lane.ts";
import { commandOf, creation, credit, debit, repeated, transfer } from "./stage/staged-commands.ts";
import { NEVER, onlyOutcome, summaryOf } from "./stage/lanes.ts";

useLaneStage("transfer_crashes_test", TWO_HOSTS);

// --- Wallets that change between two steps -------------------------------------------------------

describe("a wallet that changes between two steps", () => {
  it("was not there when asked: the rejection stands although the wallet was created since", async () => {
    const payer = await stage.open("a", "100");
    const payee = stage.idIn("b");
    const command = transfer(payer, payee, "30");
    const asked = await sendHeld(command, "asked");
    await stage.perform(commandOf(payee, creation(null)));
    await stage.release();
    const first = onlyOutcome(asked);
    expect(summaryOf(first)).toBe("wallet_not_found");
    expect(await stage.perform(repeated(command))).toEqual({ ...first, replayed: true });
    expect(summaryOf(await stage.perform(transfer(payer, payee, "30")))).toBe("posted");
  });

  it("is created before the question arrives: it is paid", async () => {
    const payer = await stage.open("a", "100");
    const payee = stage.idIn("b");
    const asked = await sendHeld(transfer(payer, payee, "30"), "ask");
    await stage.perform(commandOf(payee, creation(null)));
    await stage.release();
    expect(summaryOf(onlyOutcome(asked))).toBe("posted");
  });

  it.each([
    ["is suspended", (payee: string) => order(payee, "suspend"), "wallet_not_active"],
    ["is closed", (payee: string) => order(payee, "close"), "wallet_not_active"],
    [
      "is filled to the brim",
      (payee: string) => stage.perform(credit(payee, "9999999999999.99")),
      "amount_out_of_range",
    ],
  ])(
    "%s before the money comes: it goes back, and a repeat says the same",
    async (_what, change, code) => {
      const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
      const command = transfer(payer, payee, "30");
      const asked = await sendHeld(command, "post");
      await change(payee);
      await stage.release();

      const outcome = onlyOutcome(asked);
      expect(outcome).toMatchObject({
        type: "rejected",
        rejection: { code, walletId: payee },
        replayed: false,
      });
      expect(await balances(payer)).toEqual([100]);
      // The repeat names the first transfer, whose record keeps the reason
      expect(await stage.perform(repeated(command))).toEqual({
        type: "replayed",
        walletId: payer,
        version: 2,
        transferId: transferIdOf(command),
      });
      const rejection = outcome.type === "rejected" ? outcome.rejection : null;
      expect(await transferRow(transferIdOf(command))).toEqual({ status: "returned", rejection });
    },
  );

  it("is a payer that was suspended meanwhile: it takes its money back all the same", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    await sendHeld(transfer(payer, payee, "30"), "post");
    await order(payer, "suspend");
    await order(payee, "suspend");
    await stage.release();
    expect(await balances(payer, payee)).toEqual([100, 0]);
    expect(summaryOf(await stage.perform(debit(payer, "1")))).toBe("wallet_not_active");
  });

  it("is a payer that is suspended after it reserved: the money arrives all the same", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const command = transfer(payer, payee, "30");
    const asked = await sendHeld(command, "post");
    await order(payer, "suspend");
    await stage.release();
    expect(summaryOf(onlyOutcome(asked))).toBe("posted");
    expect(await balances(payer, payee)).toEqual([70, 30]);
    await stage.settle();
    expect(await transferRow(transferIdOf(command))).toEqual({ status: "posted", rejection: null });
    expect(summaryOf(await stage.perform(repeated(command)))).toBe("replayed 2");
  });

  it.each([
    ["a payer", "suspended", "suspend", "wallet_not_active"],
    ["a payee", "suspended", "suspend", "wallet_not_active"],
    ["a payee", "closed", "close", "wallet_not_active"],
  ] as const)(
    "is %s that is %s before the question is asked: rejected, and nothing is in transit",
    async (who, _how, step, code) => {
      const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
      const changed = who === "a payer" ? payer : payee;
      const asked = await sendHeld(transfer(payer, payee, "30"), "ask");
      await order(changed, step);
      await stage.release();
      expect(onlyOutcome(asked)).toMatchObject({
        type: "rejected",
        rejection: { code, walletId: changed },
      });
      expect(stage.sent.filter(({ type }) => type === "post")).toEqual([]);
      expect(await balances(payer, payee)).toEqual([100, 0]);
    },
  );

  it.each([
    ["suspended", "suspend"],
    ["closed, which needs no money,", "close"],
  ] as const)(
    "is a payer that is %s between the answer and the reservation: rejected",
    async (_how, step) => {
      const [payer, payee] = [await stage.open("a", "30"), await stage.open("b", null)];
      const asked = await sendHeld(transfer(payer, payee, "30"), "asked");
      if (step === "close") await stage.perform(debit(payer, "30"));
      await order(payer, step);
      await stage.release();
      expect(onlyOutcome(asked)).toMatchObject({
        type: "rejected",
        rejection: { code: "wallet_not_active", walletId: payer },
      });
    },
  );

  it("is a payee whose metadata changes between two steps: the money arrives beside it", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const asked = await sendHeld(transfer(payer, payee, "30"), "post");
    const patch = '{"case":17}';
    for (const walletId of [payer, payee]) {
      const changed = await stage.perform(commandOf(walletId, { type: "update", patch }));
      expect(changed).toMatchObject({ type: "done", wallet: { metadata: patch } });
    }
    // Also when both lanes have to read everything back
    for (const name of ["a", "b"]) await stage.replace(name);
    await stage.release();
    const again = stage.sendAs(repeated(asked.message.command), { attempt: 2 });
    await stage.settle();
    expect(summaryOf(onlyOutcome(again))).toMatch(/^replayed 2/);
    expect(await balances(payer, payee)).toEqual([70, 30]);
  });

  it("is a payer that was filled meanwhile: room is kept for what may come back", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    await sendHeld(transfer(payer, payee, "100"), "post");
    expect(summaryOf(await stage.perform(credit(payer, "9999999999900")))).toBe(
      "amount_out_of_range",
    );
    expect(summaryOf(await stage.perform(credit(payer, "9999999999899.99")))).toBe("done 3");
    await order(payee, "close");
    await stage.release();
    expect(await balances(payer)).toEqual([9_999_999_999_999.99]);
  });

  it("is a payer that would close: not while a transfer is pending", async () => {
    const [payer, payee] = [await stage.open("a", "30"), await stage.open("b", null)];
    await sendHeld(transfer(payer, payee, "30"), "post");
    const why = { code: "wallet_not_empty", balanceMinor: 0, heldMinor: 0, pendingMinor: 3_000 };
    expect(await order(payer, "close")).toMatchObject({ rejection: why });
    // Also when its lane has just read everything back
    await stage.replace("a");
    expect(await order(payer, "close")).toMatchObject({ rejection: why });
    await stage.release();
    expect(summaryOf(await order(payer, "close"))).toBe("done 3");
  });

  it("has spent its money between the question and the reservation: rejected, nothing in transit", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const asked = await sendHeld(transfer(payer, payee, "30"), "asked");
    await stage.perform(debit(payer, "80"));
    await stage.release();
    expect(summaryOf(onlyOutcome(asked))).toBe("insufficient_funds");
    expect(await balances(payer, payee)).toEqual([20, 0]);
  });
});

// --- Lanes that die ------------------------------------------------------------------------------

type Hook = (writes: Writes, apply: () => Promise<AppendResult>) => Promise<AppendResult>;

/** Kills the lane at its first commit of this kind: before the database has it, or after. */
function killAt(name: string, isMeant: (writes: Writes) => boolean, isWritten: boolean): void {
  const hook: Hook = async (writes, apply) => {
    if (!isMeant(writes)) return await apply();
    if (isWritten) expect(await apply()).toEqual({ type: "committed" });
    stage.kill(name);
    return await NEVER;
  };
  stage.lane(name).hooks.append = hook;
}

const reserves = (writes: Writes): boolean => writes.transfers.length > 0;
const decides = (writes: Writes): boolean => writes.verdicts.length > 0;
const settles = (writes: Writes): boolean => writes.settled.length > 0;

describe.each([
  ["the payer's lane dies before it has reserved", "a", (): void => killAt("a", reserves, false)],
  [
    "the payer's lane dies after it reserved, before it posts",
    "a",
    (): void => killAt("a", reserves, true),
  ],
  [
    "the payee's lane dies before its verdict is committed",
    "b",
    (): void => killAt("b", decides, false),
  ],
  [
    "the payee's lane dies after its verdict is committed",
    "b",
    (): void => killAt("b", decides, true),
  ],
  ["the payer's lane dies while the verdict is under way", "a", (): void => drop("verdict")],
  ["the payer's lane dies before it has settled", "a", (): void => killAt("a", settles, false)],
  [
    "the payer's lane dies after it settled, before it says so",
    "a",
    (): void => killAt("a", settles, true),
  ],
  ["the payer's lane dies when all is done", "a", (): void => undefined],
] as const)("when %s", (_when, name, prepare) => {
  it.each([
    ["posted", "restarts", undefined],
    ["posted", "is taken over by another host", "host-3"],
    ["refused", "restarts", undefined],
    ["refused", "is taken over by another host", "host-3"],
  ])("a transfer that is to be %s ends so once it %s", async (verdict, _how, owner) => {
    // Given a payee that said yes when asked
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", "1")];
    const command = transfer(payer, payee, "30");
    const asked = await sendHeld(command, "asked");
    if (verdict === "refused") await order(payee, "suspend");
    // When the lane dies on the way
    prepare();
    await stage.release();
    await stage.replace(name, owner);
    pass();
    // Then the transfer settles by itself, and the client who asks again learns what became of it
    await stage.settle();
    const again = stage.sendAs(repeated(command), { attempt: 2 });
    await stage.settle();
    const answers = new Set([...asked.outcomes, ...again.outcomes].map(summaryOf));
    expect(await balances(payer, payee)).toEqual(verdict === "posted" ? [70, 31] : [100, 1]);
    if (verdict === "posted") expect([...answers]).not.toContain("wallet_not_active");
    else expect([...answers]).not.toContain("posted");
    expect(again.outcomes).toHaveLength(1);
  });
});

it("race: a repeat joins a transfer whose record was read back, and hears of it only when it is settled", async () => {
  const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
  const command = transfer(payer, payee, "30");
  await sendHeld(command, "post");
  // Given that the payer's lane died while the payee had not answered, and that the caller asks
  // again
  const { hooks } = await stage.replace("a");
  const again = stage.sendAs(repeated(command), { attempt: 2 });
  await stage.quiet();
  let isToldEarly = false;
  hooks.append = async (writes, apply) => {
    // Time for an answer that does not wait for this commit
    await new Promise((resolve) => setTimeout(resolve, 20));
    if (writes.settled.length > 0) isToldEarly ||= again.outcomes.length > 0;
    return apply();
  };

  await stage.release();
  await stage.settle();

  expect(isToldEarly).toBe(false);
  expect(summaryOf(onlyOutcome(again))).toBe("replayed 2");
  expect(await balances(payer, payee)).toEqual([70, 30]);
});

it("race: a payer's lane that was superseded gets the verdict, and only its successor settles", async () => {
  const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
  await sendHeld(transfer(payer, payee, "30"), "post");
  await order(payee, "suspend");
  // Given a successor that has read the pending transfer, while messages still go to the old lane
  const old = stage.lane("a");
  const successor = await stage.add({ name: "c", owner: "host-3", shards: EVEN });
  expect(successor.lane.stats().pendingTransfers).toBe(1);

  await stage.release();

  expect(old.lost).toHaveLength(EVEN.length);
  expect(await balances(payer)).toEqual([70]);
  await stage.settle();
  expect(await balances(payer)).toEqual([100]);
});
