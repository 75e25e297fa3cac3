/**
 * How a batch flows: what holds it back and what does not, so that neither a slow command nor a
 * large answer nor a look-up costs anything but its own time, and every bound is one.
 */
import { setImmediate as nextTurn } from "node:timers/promises";
import { describe, expect, it } from "vitest";

import { assetOf } from "../src/assets.ts";
import { LIMITS } from "../src/limits.ts";
import type { Command, CommandMessage, Outcome } from "../src/core/protocol.ts";
import { credit, done, range, setUp, type Told, walletOf } from "../test/stage/batches.ts";
import { withLimits } from "../test/stage/lanes.ts";
import { buildAnswers } from "./answers.ts";
import { buildBatches, type BatchesDeps } from "./batch.ts";
import { buildCommandIntake } from "./command-intake.ts";

const log = { error: (details: object) => expect.fail(JSON.stringify(details)) };
const codes = (outcomes: readonly Told[]) => outcomes.map(({ error }) => error?.code ?? "ok");
const pay = { type: "transfer", walletId: "a", toWalletId: "b", amount: 1 };
const gem = (walletId: string) => ({ type: "create", walletId, currency: "GEM" });
const isHeld = ({ command }: CommandMessage): boolean => command.walletId === "slow";

/** An intake for which an own asset is looked up until the test says that it was found. */
function slowAssets() {
  let find!: () => void;
  const isFound = new Promise<void>((resolve) => (find = resolve));
  const takeIn = buildCommandIntake((code) =>
    code === "GEM" ? isFound.then(() => ({ code, name: "Gem", decimalPlaces: 0 })) : assetOf(code),
  );
  return { takeIn, find };
}

const transferred = ({ walletId, body }: Command, status: "posted" | "pending"): Outcome => {
  if (body.type !== "transfer") throw new Error("no transfer");
  const { transferId, toWalletId } = body;
  const to = status === "posted" ? walletOf(toWalletId) : null;
  const toVersion = to === null ? null : 1;
  const sides = { from: walletOf(walletId), to, toWalletId, toVersion, hold: null };
  return { type: "transferred", transfer: { transferId, status, ...sides }, replayed: false };
};

/** Batches that hand their commands to a function in place of the desk. */
function batchesOver(
  carryOut: (command: Command) => Promise<Outcome>,
  deps?: Partial<BatchesDeps>,
) {
  const batches = buildBatches({
    commands: { submit: carryOut },
    takeIn: buildCommandIntake(assetOf),
    answer: (outcome, command) => plain(outcome, command),
    log,
    ...deps,
  });
  return async (commands: readonly unknown[]): Promise<Told[]> => {
    let text = "";
    const origin = { correlationId: "c", key: undefined, isGone: () => false };
    for await (const piece of batches.run(commands, origin)) text += piece;
    return (JSON.parse(text) as { outcomes: Told[] }).outcomes;
  };
}

const nothing = () => Promise.resolve(null);
const readModel = { walletAt: nothing, holdAt: nothing, transfer: nothing };
const plain = buildAnswers({ readModel, log });

describe("a slow command", () => {
  it("holds up the outcomes behind it, and not the commands", async () => {
    // Given a window that is full
    const open: (() => void)[] = [];
    const run = batchesOver(
      ({ walletId }) =>
        new Promise((go) => open.push(() => go({ type: "done", wallet: walletOf(walletId) }))),
    );
    const all = Array.from({ length: LIMITS.batchWindowMax + 500 }, (_, n) => credit(`w${n}`));
    const running = run(all);
    const isFull = () => open.length === LIMITS.batchWindowMax;
    while (!isFull()) await nextTurn();

    // When all but its first command are answered, then what follows begins
    const [first, ...others] = open;
    for (const answer of others) answer();
    for (let turn = 0; turn < 20; turn += 1) await nextTurn();
    expect(open.length).toBe(all.length);

    first!();
    for (const answer of open.slice(LIMITS.batchWindowMax)) answer();
    expect(codes(await running)).toEqual(all.map(() => "ok"));
  });

  it("lets no more text pile up behind it than may, which leaves in pieces, and then the rest goes on", async () => {
    withLimits({ batchUnsentCharsMax: 100_000, batchPieceChars: 10_000 });
    const setting = setUp((it) => (isHeld(it) ? null : done(it)));
    const { batches, origin, arrived, settle, answerAll } = setting;
    const commands = [credit("slow"), ...range(2_999).map((n) => credit(`w${n}`))];
    const pieces: string[] = [];
    const reading = (async () => {
      for await (const piece of batches.run(commands, origin)) pieces.push(piece);
    })();
    await settle();
    const outcomeChars = 150;
    expect(arrived.length).toBeLessThan(100_000 / outcomeChars + LIMITS.batchStepCommands);
    answerAll();
    await reading;
    const { outcomes } = JSON.parse(pieces.join("")) as { outcomes: Told[] };
    expect(codes(outcomes)).toEqual(range(3_000).map(() => "ok"));
    expect(Math.max(...pieces.map(({ length }) => length))).toBeLessThan(11_000);
  });
});

describe("a command whose asset is looked up", () => {
  it("is overtaken by nothing, and holds up nothing once it has begun", async () => {
    const { takeIn, find } = slowAssets();
    const { run, arrived, settle, answerAll } = setUp(() => null, takeIn);
    const running = run([gem("w"), credit("w"), credit("v")]);
    await settle();
    expect(arrived).toEqual([]);
    find();
    await settle();
    expect(arrived.map(({ command: { body } }) => body.type)).toEqual([
      "create",
      "credit",
      "credit",
    ]);
    answerAll();
    expect(codes(await running)).toEqual(["ok", "ok", "ok"]);
  });

  it("has a place in the window, and gives back no more than one", async () => {
    const { takeIn, find } = slowAssets();
    find();
    const { run, arrived, settle, answerAll } = setUp(() => null, takeIn);
    const count = LIMITS.batchWindowMax + 200;
    const running = run([
      ...range(100).map((n) => gem(`g${n}`)),
      ...range(count).map((n) => credit(`w${n}`)),
    ]);
    for (let times = 0; times < 5; times += 1) await settle();
    expect(arrived.length).toBe(LIMITS.batchWindowMax);
    for (let times = 0; times < 3; times += 1) {
      answerAll();
      await settle();
    }
    expect((await running).every(({ ok }) => ok)).toBe(true);
  });

  it("does not begin when the batch's time is over by then", async () => {
    const { takeIn, find } = slowAssets();
    const { run, arrived, settle, pass } = setUp(() => null, takeIn);
    const running = run([gem("w"), credit("v")]);
    await settle();
    pass(LIMITS.batchDeadlineMs);
    find();
    expect(codes(await running)).toEqual(["unavailable", "unavailable"]);
    expect(arrived).toEqual([]);
  });
});

describe("a transfer in a batch", () => {
  it("that is not settled in time is pending: 202, as by itself", async () => {
    const { run } = setUp(({ command }) => transferred(command, "pending"));
    expect(await run([pay])).toMatchObject([
      { ok: true, statusCode: 202, data: { status: "pending", fromWallet: { id: "a" } } },
    ]);
  });

  it("lets nothing that waited for it begin when the batch's time is over", async () => {
    const { run, arrived, settle, pass, answerAll } = setUp();
    const running = run([pay, credit("b")]);
    await settle();
    pass(LIMITS.batchDeadlineMs);
    answerAll(({ command }) => transferred(command, "posted"));
    expect(codes(await running)).toEqual(["ok", "unavailable"]);
    expect(arrived.length).toBe(1);
  });

  it("is read back with as many others as may be, and all of them are", async () => {
    let underWay = 0;
    let most = 0;
    const run = batchesOver((command) => Promise.resolve(transferred(command, "posted")), {
      async answer(outcome, command) {
        most = Math.max(most, (underWay += 1));
        await nextTurn();
        underWay -= 1;
        return plain(outcome, command);
      },
    });
    const commands = range(3 * LIMITS.batchesReadsMax).map((n) => ({
      ...pay,
      toWalletId: `w${n}`,
    }));
    expect(codes(await run(commands))).toEqual(commands.map(() => "ok"));
    expect(most).toBe(LIMITS.batchesReadsMax);
  });
});

it("What there is no room for is tried again after pauses of at most commandRetryPauseMsMax.", async () => {
  let nowMs = 0;
  const pauses: number[] = [];
  const run = batchesOver(() => Promise.resolve({ type: "fault", fault: "overloaded" }), {
    clock: { nowMs: () => nowMs },
    schedule: {
      soon: (task) => void setImmediate(task),
      after(ms, task) {
        pauses.push(ms);
        nowMs += ms;
        setImmediate(task);
        return () => undefined;
      },
    },
  });
  expect(codes(await run([credit("w")]))).toEqual(["overloaded"]);
  expect(Math.max(...pauses)).toBe(LIMITS.commandRetryPauseMsMax);
  expect(nowMs).toBeLessThan(LIMITS.batchDeadlineMs + LIMITS.commandRetryPauseMsMax);
});

it("The end of the process waits for every batch, not only for the first that is over.", async () => {
  const { batches, run, settle, answerAll } = setUp((it) => (isHeld(it) ? null : done(it)));
  const slow = run([credit("slow")]);
  await settle();
  const quick = run([credit("w")]);
  let isQuiet = false;
  void batches.drain().then(() => (isQuiet = true));
  await quick;
  await settle();
  expect(isQuiet).toBe(false);
  answerAll();
  await slow;
  await settle();
  expect(isQuiet).toBe(true);
});
