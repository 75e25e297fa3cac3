/**
 * A gate before a thread that keeps what it is given: what travels together, how much, and which
 * commands are waited for.
 */
import { expect, it } from "vitest";

import { amountMinor } from "../src/core/amount.ts";
import { systemTime } from "../src/clock.ts";
import { LIMITS } from "../src/limits.ts";
import type {
  AskedMessage,
  AskMessage,
  CommandMessage,
  Effects,
  Fault,
  Reply,
  ShardMessage,
} from "../src/core/protocol.ts";
import { shardOf } from "../src/core/shard.ts";
import { buildLaneGate } from "./lane-gate.ts";
import type { LaneStats } from "./lane.ts";
import type { Arrival, LaneResult, LaneTask } from "./lane-thread.ts";

const command = (seq: number): CommandMessage => ({
  type: "command",
  inbox: "coffer.inbox.g",
  seq,
  attempt: 1,
  budgetMs: 5_000,
  expiresAtMs: 0,
  command: {
    commandId: `c${seq}`,
    fingerprint: null,
    walletId: `w${seq}`,
    proposedId: false,
    expectedVersion: null,
    description: null,
    metadata: null,
    correlationId: "x",
    body: { type: "credit", amount: "1", kind: "CREDIT" },
  },
});

/** A later sending of a command whose first one had this number. */
const again = (first: number, attempt: number): CommandMessage => ({
  ...command(first),
  seq: first + attempt - 1,
  attempt,
});

const ask = (seq: number, expiresAtMs = 6_000): AskMessage => ({
  type: "ask",
  walletId: "payee",
  step: {
    type: "receive",
    transferId: `t${seq}`,
    fromWalletId: `w${seq}`,
    amountMinor: amountMinor(100),
    currency: "USD",
    decimalPlaces: 2,
  },
  origin: { ...command(seq), expiresAtMs },
});

const asked = (seq: number, expiresAtMs = 6_000): AskedMessage => ({
  type: "asked",
  walletId: `w${seq}`,
  rejection: null,
  origin: { ...command(seq), expiresAtMs },
});

const faultOf = (seq: number, fault: Fault): Reply => ({
  inbox: "coffer.inbox.g",
  seq,
  outcome: { type: "fault", fault },
});

const outcomeOf = (seq: number): Reply => ({
  inbox: "coffer.inbox.g",
  seq,
  outcome: { type: "rejected", rejection: { code: "same_wallet", walletId: "w" }, replayed: false },
});

/** What a full gate says: nothing more for the shard of the command's wallet. */
const fullFor = (seq: number): Reply => ({
  inbox: "coffer.inbox.g",
  seq,
  outcome: { type: "fault", fault: "overloaded", fullShard: shardOf(`w${seq}`) },
});

const sending = (...messages: readonly ShardMessage[]): Effects => ({
  replies: [],
  messages: [...messages],
  changes: [],
  lost: [],
});

function buildGate() {
  const batches: (readonly Arrival[])[] = [];
  const replies: Reply[] = [];
  const ends: ((effects: Effects | null) => void)[] = [];
  let nowMs = 1_000;
  let lose = say;
  let emit: (effects: Effects) => void = say;
  const gate = buildLaneGate({
    plan: { name: "lane-0", owner: "h", database: 0 },
    startLane(_plan, listener) {
      lose = () => listener.lost("killed", true);
      emit = (effects) => listener.notice({ type: "effects", effects });
      return {
        run(task: LaneTask) {
          if (task.type === "batch") batches.push(task.arrivals);
          return new Promise<LaneResult>((resolve) => {
            ends.push((effects) => resolve({ effects, stats: null }));
          });
        },
        destroy: () => Promise.resolve(),
      };
    },
    time: { ...systemTime, nowMs: () => nowMs },
    log: { info: say, warn: say, error: say, fatal: say },
    dispatch: () => undefined,
    reply: (more) => void replies.push(...more),
    onLeft: () => undefined,
    onFatal: () => undefined,
  });
  const seqs = (arrivals: readonly Arrival[]): number[] =>
    arrivals.flatMap(({ messages }) => messages.map((one) => (one as CommandMessage).seq));
  const endAll = (effects: Effects | null = null): void => {
    for (const end of ends.splice(0)) end(effects);
  };
  const pass = (ms: number): void => void (nowMs += ms);
  /** One batch comes to the lane, which answers with these effects. */
  const passes = async (message: ShardMessage, effects: Effects | null): Promise<void> => {
    gate.accept([message]);
    await turn();
    endAll(effects);
    await turn();
  };
  return {
    gate,
    batches,
    replies,
    seqs,
    endAll,
    passes,
    pass,
    lose: () => lose(),
    emit: (effects: Effects) => emit(effects),
  };
}

const say = (): void => undefined;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

it("what the bus hands over in one go is one arrival, and what comes later is another", async () => {
  const { gate, batches, seqs } = buildGate();
  gate.accept([command(1)]);
  gate.accept([command(2), command(3)]);
  await turn();
  gate.accept([command(4)]);
  await turn();
  expect(batches.map((arrivals) => arrivals.length)).toEqual([1, 1]);
  expect(batches.map(seqs)).toEqual([[1, 2, 3], [4]]);
});

it("what comes later is another arrival also while the lane has all that it may have", async () => {
  const { gate, batches, seqs, endAll } = buildGate();
  for (let seq = 1; seq <= LIMITS.laneBatchesMax + 2; seq++) {
    gate.accept([command(seq)]);
    await turn();
  }
  expect(batches.map(seqs)).toEqual([[1], [2], [3], [4]]);
  endAll();
  await turn();
  expect(batches[4]?.map(({ messages }) => messages.length)).toEqual([1, 1]);
  expect(seqs(batches[4]!)).toEqual([5, 6]);
});

it("a flood is cut into batches of their size, in order, and what has no room is refused", async () => {
  const { gate, batches, replies, seqs, endAll } = buildGate();
  const count = LIMITS.laneCommandsMax + 1;
  for (let seq = 1; seq <= count; seq++) gate.accept([command(seq)]);
  while (gate.queued > 0) {
    await turn();
    endAll();
  }
  expect(replies).toEqual([fullFor(count)]);
  const most = LIMITS.laneBatchMessagesMax + LIMITS.commandBatchMax;
  expect(Math.max(...batches.map((arrivals) => seqs(arrivals).length))).toBeLessThan(most);
  expect(batches.flatMap(seqs)).toEqual(Array.from({ length: count - 1 }, (_, index) => index + 1));
});

it("a command leaves with the question to another lane, whatever becomes of it there", async () => {
  const { gate, replies, passes, lose } = buildGate();
  await passes(command(1), null);
  expect(gate.outstanding).toBe(1);
  gate.accept([command(1)]);
  expect(gate.queued).toBe(0);
  await passes(command(2), sending(ask(1), ask(2)));
  expect(gate.outstanding).toBe(0);
  lose();
  expect(replies).toEqual([]);
});

it.each([
  { first: "overloaded", later: "overloaded" },
  { first: "unavailable", later: "unavailable" },
  { first: "unknown", later: "unavailable" },
] as const)(
  "what is asked again while the lane has it is not passed on; $first of the first ends it, too",
  async ({ first, later }) => {
    // Given a command that the lane has, when its gateway sends it again
    const { gate, batches, replies, seqs, passes } = buildGate();
    await passes(command(64), null);
    gate.accept([again(64, 2)]);
    gate.accept([again(64, 3), again(64, 3)]);
    expect(gate).toMatchObject({ outstanding: 1, queued: 0 });
    expect(replies).toEqual([]);
    // Then each sending has a word of its own, as a gateway goes by what became of all of them
    await passes(command(96), { ...sending(), replies: [faultOf(64, first)] });
    expect(replies).toEqual([faultOf(65, later), faultOf(66, later)]);
    // And the next one is passed on again
    await passes(again(64, 4), null);
    expect(batches.map(seqs)).toEqual([[64], [96], [67]]);
    // And who had a word gets no second one
    await passes(command(64), { ...sending(), replies: [faultOf(64, first)] });
    expect(replies).toHaveLength(2);
  },
);

it("what only looks like it is passed on: another command's number, and another gateway's", () => {
  const { gate } = buildGate();
  gate.accept([command(63), command(64)]);
  gate.accept([{ ...again(64, 2), inbox: "coffer.inbox.other" }]);
  expect(gate).toMatchObject({ outstanding: 3, queued: 3 });
  // Of a command whose first sending is not here, beside the last one of the command before it
  gate.accept([again(96, 2), again(128, 2)]);
  gate.accept([command(95)]);
  gate.accept([again(96, 3)]);
  expect(gate.queued).toBe(6);
  gate.accept([{ ...command(64 + LIMITS.commandSendsMax), attempt: 1_000_000 }]);
  expect(gate.queued).toBe(7);
});

it("what was asked again is forgotten with its first, when its caller has long given up", async () => {
  const { gate, replies, passes, pass, emit } = buildGate();
  await passes(command(64), null);
  gate.accept([again(64, 2)]);
  pass(5_000 + LIMITS.commandAttemptMs);
  gate.tick();
  expect(gate.outstanding).toBe(0);
  emit({ ...sending(), replies: [faultOf(64, "unavailable")] });
  expect(replies).toEqual([]);
});

it("an outcome ends what was asked again with no second word", async () => {
  const { gate, replies, passes } = buildGate();
  await passes(command(64), null);
  gate.accept([again(64, 2)]);
  await passes(command(96), { ...sending(), replies: [outcomeOf(64)] });
  expect(replies).toEqual([]);
  gate.accept([again(64, 3)]);
  expect(gate.queued).toBe(1);
});

it("what is asked again has done nothing when the first leaves with a question, or is lost", async () => {
  const { gate, replies, passes, lose } = buildGate();
  await passes(command(64), null);
  gate.accept([again(64, 2)]);
  await passes(command(96), sending(ask(64)));
  expect(replies).toEqual([faultOf(65, "unavailable")]);
  gate.accept([again(96, 2)]);
  lose();
  expect(replies.slice(1)).toEqual([faultOf(96, "unknown"), faultOf(97, "unavailable")]);
});

it("a lane that is full does not refuse what it has and is asked again", () => {
  const { gate, replies } = buildGate();
  for (let seq = 1; seq <= LIMITS.laneCommandsMax; seq++) gate.accept([command(seq)]);
  gate.accept([again(LIMITS.laneCommandsMax, 2)]);
  expect(replies).toEqual([]);
});

it("effects that no batch brings back end what they answer as well", async () => {
  const { gate, passes, emit } = buildGate();
  await passes(command(1), null);
  await passes(command(2), null);
  emit({ ...sending(ask(2)), replies: [faultOf(1, "overloaded")] });
  expect(gate.outstanding).toBe(0);
});

it("the lane that is asked does not wait for the question's command either", async () => {
  const { gate, passes } = buildGate();
  await passes(ask(1), null);
  expect(gate.outstanding).toBe(0);
});

it("a command that comes back with the answer is waited for again, until it is answered", async () => {
  const { gate, replies, passes, lose } = buildGate();
  await passes(command(1), sending(ask(1)));
  await passes(asked(1), null);
  gate.accept([asked(1), command(1)]);
  expect([gate.outstanding, gate.queued]).toEqual([1, 0]);
  lose();
  expect(replies).toEqual([faultOf(1, "unknown")]);
  expect(gate.outstanding).toBe(0);
  const reply = faultOf(1, "overloaded");
  await passes(asked(1), { ...sending(), replies: [reply] });
  expect(gate.outstanding).toBe(0);
});

it("a command that comes back when its time is over is not waited for", async () => {
  const { gate, passes, pass } = buildGate();
  await passes(command(1), sending(ask(1)));
  pass(5_000);
  gate.accept([asked(1)]);
  expect([gate.outstanding, gate.queued]).toEqual([0, 0]);
});

it("a command that comes back late is waited for no longer than its caller waits", async () => {
  const { gate, passes, pass, endAll } = buildGate();
  await passes(command(1), sending(ask(1)));
  pass(4_900);
  await passes(asked(1), null);
  pass(LIMITS.commandAttemptMs);
  gate.tick();
  expect(gate.outstanding).toBe(1);
  endAll();
  await turn();
  pass(100);
  gate.tick();
  expect(gate.outstanding).toBe(0);
});

it("a command that comes back to a lane that is full is refused like any other", async () => {
  const { gate, replies, passes } = buildGate();
  await passes(command(1), sending(ask(1)));
  for (let seq = 2; seq <= LIMITS.laneCommandsMax + 1; seq++) gate.accept([command(seq)]);
  gate.accept([asked(1)]);
  expect(gate.outstanding).toBe(LIMITS.laneCommandsMax);
  expect(replies).toEqual([fullFor(1)]);
});

it("a question that finds no room is refused, as long as somebody waits: the payee's shard is full", () => {
  const { gate, replies, pass } = buildGate();
  for (let seq = 1; seq <= LIMITS.laneBacklogMax; seq++) gate.accept([ask(seq)]);
  expect(replies).toEqual([]);
  gate.accept([ask(0)]);
  const outcome = { type: "fault", fault: "overloaded", fullShard: shardOf("payee") };
  expect(replies).toEqual([{ inbox: "coffer.inbox.g", seq: 0, outcome }]);
  // Also when this host's clock is far ahead of the one that asks: what is left of it counts
  pass(3_600_000);
  gate.accept([ask(0)]);
  expect(replies).toHaveLength(2);
  const { origin, ...late } = ask(0);
  gate.accept([{ ...late, origin: { ...origin, budgetMs: 0 } }]);
  expect(replies).toHaveLength(2);
});

it("a shard that was left is told once, and one that comes back meanwhile never", async () => {
  const left: number[] = [];
  const timers: (() => void)[] = [];
  let held: readonly number[] = [];
  const gate = buildLaneGate({
    plan: { name: "lane-0", owner: "h", database: 0 },
    startLane: () => ({
      run: () =>
        Promise.resolve({ effects: null, stats: { shards: held } as unknown as LaneStats }),
      destroy: () => Promise.resolve(),
    }),
    time: { ...systemTime, after: (_, task) => (timers.push(task), () => undefined) },
    log: { info: say, warn: say, error: say, fatal: say },
    dispatch: () => undefined,
    reply: () => undefined,
    onLeft: (shards) => void left.push(...shards),
    onFatal: () => undefined,
  });
  const ticks = async (): Promise<void> => {
    gate.tick();
    await turn();
  };
  gate.assign(1);
  gate.assign(2);
  held = [1, 2];
  await ticks();
  gate.unassign(1);
  gate.unassign(2);
  await ticks();
  // Looks again soon, as the lane still has something of both
  expect([left, timers.splice(0).length]).toEqual([[], 1]);
  gate.assign(2);
  held = [2];
  await ticks();
  await ticks();
  expect([left, timers]).toEqual([[1], []]);
});
