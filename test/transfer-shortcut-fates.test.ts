/**
 * Transfers that are one commit, when that commit fails, is of unknown outcome, or ends with its
 * lane: the money moves once, and whoever asks again hears of that one time.
 */
import { describe, expect, it } from "vitest";
import { EVEN, ODD } from "./stage/ids.ts";
import {
  balances,
  begin,
  BY_PROTOCOL,
  BY_SHORTCUT,
  commitsOf,
  FAILURES,
  gateOf,
  ONE_LANE,
  openIn,
  openTwo,
  stage,
  summaries,
  useLaneStage,
} from "./stage/lane.ts";
import { repeated, transfer } from "./stage/staged-commands.ts";
import { NEVER, onlyOutcome, summaryOf, withLimits } from "./stage/lanes.ts";

useLaneStage("transfer_shortcut_fates_test", ONE_LANE, true);

describe("a transfer whose commit has a fate", () => {
  const KEYS = [
    ["with a key", {}],
    ["without one", { fingerprint: null }],
  ] as const;

  it.each(FAILURES.flatMap((fate) => KEYS.map(([how, rest]) => [fate, how, rest] as const)))(
    "%s, %s, moves all the money once",
    async (fate, _how, rest) => {
      const [payer, payee] = await openTwo();
      const gate = gateOf();
      const command = transfer(payer, payee, "100", { ...rest, expectedVersion: 1 });
      const [asked] = await begin(command);
      await gate.pass(fate);
      await gate.open();
      await stage.settle();

      const isWritten = fate === "unknown, written";
      expect(summaryOf(onlyOutcome(asked!))).toBe(isWritten ? "replayed 2" : "posted");
      expect(await balances(payer, payee)).toEqual([0, 101]);
    },
  );

  it.each(FAILURES)("%s, takes along those that were built on it", async (fate) => {
    const [one, two] = await openTwo();
    const three = await stage.open("a", null);
    const gate = gateOf();
    const asked = await begin(transfer(one, two, "100"), transfer(two, three, "101"));
    const [last] = await begin(transfer(three, one, "101"));
    await gate.pass(fate);
    await gate.open();
    await stage.settle();

    const said = summaries([...asked, last!]);
    // What was not written is decided anew, and not in the same order: the wallets are read back
    // first.
    for (const summary of said) expect(summary).toMatch(/posted|replayed|insufficient_funds/);
    const sum = (await balances(one, two, three)).reduce((total, balance) => total + balance, 0);
    expect(sum).toBe(101);
    if (fate === "unknown, written") {
      expect(said.slice(0, 2)).toEqual(["replayed 2", "replayed 3"]);
    }
  });

  it.each(FAILURES)("%s, is repeated under its key meanwhile: one transfer", async (fate) => {
    const [payer, payee] = await openTwo();
    const gate = gateOf();
    const command = transfer(payer, payee, "30");
    const other = { ...transfer(payer, payee, "40"), commandId: command.commandId };
    const asked = await begin(command, repeated(command), repeated(command), other);
    await gate.pass(fate);
    await gate.open();
    await stage.settle();

    const outcomes = asked.map(onlyOutcome);
    const said = outcomes.map(summaryOf);
    expect(said.slice(0, 3).filter((one) => !/^(posted|replayed 2)$/.test(one))).toEqual([]);
    const first = outcomes.filter((one) => one.type === "transferred" && !one.replayed);
    expect(first).toHaveLength(fate === "unknown, written" ? 0 : 1);
    expect(said[3]).toBe("idempotency_conflict");
    expect(await balances(payer, payee)).toEqual([70, 31]);
    expect(summaryOf(await stage.perform(repeated(command)))).toBe("replayed 2");
  });

  it("unknown, is looked for once before its payee is asked, for all that repeat it", async () => {
    const [payer, payee] = await openTwo();
    const gate = gateOf();
    const command = transfer(payer, payee, "30");
    const asked = await begin(command, repeated(command), repeated(command));
    await gate.pass("unknown, not written");
    let looks = 0;
    for (let [commit] = gate.waiting; commit !== undefined; [commit] = gate.waiting) {
      if (commit.lookups.length > 0 && commit.events.length === 0) looks += 1;
      await gate.pass("committed");
    }
    expect(looks).toBe(1);
    expect(new Set(summaries(asked))).toEqual(new Set(["posted"]));
  });

  it.each([
    ["written", true, "replayed 2", [70, 31]],
    ["not written", false, "overloaded", [100, 1]],
  ] as const)(
    "unknown, %s, is told as what it is although the payee is elsewhere by then and refuses the question",
    async (_how, isWritten, told, expected) => {
      const [payer, payee] = [await openIn(EVEN, "100"), await openIn(ODD, "1")];
      const { hooks } = stage.lane("a");
      let resume = (): void => undefined;
      hooks.append = async (_writes, apply) => {
        if (isWritten) expect(await apply()).toEqual({ type: "committed" });
        await new Promise<void>((resolve) => void (resume = resolve));
        return { type: "unknown", reason: "staged" };
      };
      const [asked] = await begin(transfer(payer, payee, "30", { fingerprint: null }));
      delete hooks.append;
      await stage.add({ name: "b", owner: "host-2", shards: ODD });
      stage.wire = () => "hold";
      resume();
      await stage.quiet();
      withLimits({ mailboxMessagesMax: 0 });
      await stage.release();

      expect(summaryOf(onlyOutcome(asked!))).toBe(told);
      expect(await balances(payer, payee)).toEqual(expected);
      stage.wire = () => "pass";
    },
  );

  it.each([
    ["written", "replayed 2"],
    ["not written", "posted"],
  ] as const)(
    "unknown, %s, ends by the protocol when the payee is elsewhere by then",
    async (how, told) => {
      const [payer, payee] = [await openIn(EVEN, "100"), await openIn(ODD, "1")];
      const { hooks } = stage.lane("a");
      let resume = (): void => undefined;
      hooks.append = async (_writes, apply) => {
        if (how === "written") expect(await apply()).toEqual({ type: "committed" });
        await new Promise<void>((resolve) => void (resume = resolve));
        return { type: "unknown", reason: "staged" };
      };
      const command = transfer(payer, payee, "30", { fingerprint: null });
      const [asked] = await begin(command);
      delete hooks.append;
      await stage.add({ name: "b", owner: "host-2", shards: ODD });
      resume();
      await stage.settle();

      expect(summaryOf(onlyOutcome(asked!))).toBe(told);
      expect(await commitsOf(command)).toBe(how === "written" ? BY_SHORTCUT : BY_PROTOCOL);
      expect(await balances(payer, payee)).toEqual([70, 31]);
    },
  );

  it.each([
    ["before", false, "posted"],
    ["after", true, "replayed 2"],
  ] as const)(
    "is killed with its lane %s the commit: one transfer",
    async (_when, isWritten, told) => {
      const [payer, payee] = await openTwo();
      stage.lane("a").hooks.append = async (_writes, apply) => {
        if (isWritten) expect(await apply()).toEqual({ type: "committed" });
        stage.kill("a");
        return await NEVER;
      };
      const command = transfer(payer, payee, "30");
      const [lost] = await begin(command);
      const { lane } = await stage.replace("a");
      expect(lane.stats().pendingTransfers).toBe(0);
      const again = stage.sendAs(command, { attempt: 2 });
      await stage.settle();

      expect(lost!.outcomes).toEqual([]);
      expect(summaryOf(onlyOutcome(again))).toBe(told);
      expect(await balances(payer, payee)).toEqual([70, 31]);
      expect(summaryOf(await stage.perform(repeated(command)))).toBe("replayed 2");
    },
  );
});
