/** A gate before a thread that keeps what it is given: what travels together, and how much. */
import { expect, it } from "vitest";

import { systemTime } from "../src/clock.ts";
import { LIMITS } from "../src/limits.ts";
import type { CommandMessage, Reply } from "../src/protocol.ts";
import { buildLaneGate } from "./lane-gate.ts";
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

function buildGate() {
  const batches: (readonly Arrival[])[] = [];
  const replies: Reply[] = [];
  const ends: (() => void)[] = [];
  const gate = buildLaneGate({
    plan: { name: "lane-0", owner: "h", database: 0 },
    startLane: () => ({
      run(task: LaneTask) {
        if (task.type === "batch") batches.push(task.arrivals);
        return new Promise<LaneResult>((resolve) => {
          ends.push(() => resolve({ effects: null, stats: null }));
        });
      },
      destroy: () => Promise.resolve(),
    }),
    time: systemTime,
    log: { info: say, warn: say, error: say, fatal: say },
    dispatch: () => undefined,
    reply: (more) => void replies.push(...more),
    onLeft: () => undefined,
    onFatal: () => undefined,
  });
  const seqs = (arrivals: readonly Arrival[]): number[] =>
    arrivals.flatMap(({ messages }) => messages.map((one) => (one as CommandMessage).seq));
  const endAll = (): void => {
    for (const end of ends.splice(0)) end();
  };
  return { gate, batches, replies, seqs, endAll };
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
  expect(replies).toEqual([
    { inbox: "coffer.inbox.g", seq: count, outcome: { type: "fault", fault: "overloaded" } },
  ]);
  const most = LIMITS.laneBatchMessagesMax + LIMITS.commandBatchMax;
  expect(Math.max(...batches.map((arrivals) => seqs(arrivals).length))).toBeLessThan(most);
  expect(batches.flatMap(seqs)).toEqual(Array.from({ length: count - 1 }, (_, index) => index + 1));
});
