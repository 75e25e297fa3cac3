/**
 * The audits of the relay and of dry runs: nothing is found in an honest run, and each thing that
 * can be wrong with it is.
 */
import { beforeEach, describe, expect, it } from "vitest";
import type { Command, Outcome } from "../../src/core/protocol.ts";
import { ALL_SHARDS } from "../../src/core/shard.ts";
import type { WalletState } from "../../src/core/wallet.ts";
import * as fixtures from "../stage/journal-drafts.ts";
import { unique } from "../stage/ids.ts";
import * as staging from "../stage/staged-commands.ts";
import { buildSimulatedDatabase, type SimulatedDatabase } from "./database.ts";
import { checkDryRuns } from "./dry-run-books.ts";
import { buildRecorder, type Recorder } from "./history.ts";
import { aheadOf, checkRelay, relayUnrest } from "./relay-books.ts";
import type { StreamMessage } from "./stream.ts";

let database: SimulatedDatabase;
let wallet: WalletState;
let shard: number;
let messages: StreamMessage[];
let stream: {
  messages: StreamMessage[];
  has(event: { walletId: string; version: number }): boolean;
};

async function append(fill: (writes: fixtures.Draft) => void): Promise<void> {
  const writes = fixtures.draft(new Map(ALL_SHARDS.map((each) => [each, 0])));
  fill(writes);
  const caller = { name: "bank", deliver: (answer: () => void) => answer() };
  expect(await database.journal(caller).append(writes)).toEqual({ type: "committed" });
}

function putCursor(position: number, isTakenBack = false): void {
  const cursor = { shard, position, trouble: null };
  const stored = { cursor, savedAtMs: 0, flushed: cursor, isTakenBack };
  database.tables.relayCursors.set(`stream ${shard}`, stored);
}

beforeEach(async () => {
  database = buildSimulatedDatabase({
    name: "database-0",
    time: { nowMs: () => 0, after: (_, task) => (queueMicrotask(task), () => undefined) },
    plan: () => ({ requestMs: 0, commitMs: 0, answerMs: 0, fault: null }),
  });
  const walletId = unique("w");
  await append((writes) => fixtures.putWallet(writes, walletId, 10_000, "opening"));
  wallet = database.tables.wallets.get(walletId)!;
  await append((writes) => fixtures.putCredit(writes, wallet, 100, "credit"));
  messages = database.tables.events.map(({ version }) => {
    return { id: `${walletId}:${version}`, walletId, version, text: `body ${version}` };
  });
  stream = {
    messages,
    has: (event) => messages.some(({ id }) => id === `${event.walletId}:${event.version}`),
  };
  shard = database.tables.events[0]!.shard;
  putCursor(3);
});

describe("the audit of the relay", () => {
  it("finds nothing in an honest run, also when what was told comes again", () => {
    messages.push({ ...messages[0]! });
    expect(checkRelay([database], stream)).toEqual([]);
    expect(relayUnrest([database], stream)).toEqual([]);
  });

  it.each<[string, RegExp, () => unknown]>([
    ["an event that never came", /never came/, () => messages.pop()],
    ["a cursor ahead of the stream", /is not in the stream/, () => messages.pop()],
    [
      "an event out of its order",
      /came to the stream after -1/,
      () => messages.push(messages.shift()!),
    ],
    ["another body", /another body/, () => messages.push({ ...messages[0]!, text: "other" })],
    [
      "an event of nobody",
      /in the stream only/,
      () => messages.push({ id: "x:0", walletId: "x", version: 0, text: "" }),
    ],
  ])("finds %s", (_what, problem, spoil) => {
    spoil();
    expect(checkRelay([database], stream).join("\n")).toMatch(problem);
  });

  it("sees a cursor ahead only when something behind it is missing", () => {
    messages.pop();
    expect(aheadOf(database, { shard, position: 2 }, stream)).toBeNull();
    expect(aheadOf(database, { shard, position: 3 }, stream)).toMatch(/at 3, and .*:2 is not/);
  });

  it("waits for a cursor that is behind, unless a crash took it back and all is told", () => {
    putCursor(1);
    expect(relayUnrest([database], stream)).toMatchObject([
      `the relay of shard ${shard} is at 1 of 3`,
    ]);
    putCursor(1, true);
    expect(relayUnrest([database], stream)).toEqual([]);
    messages.pop();
    expect(relayUnrest([database], stream)).toHaveLength(1);
  });
});

describe("the audit of dry runs", () => {
  let history: Recorder;
  let credit: Command;

  function asked(command: Command, outcome: Outcome): string {
    history.answered(history.sent({ ...command, dryRun: true }), outcome);
    return checkDryRuns([database], history).join("\n");
  }

  function wouldBe(version: number, balanceMinor: number): Outcome {
    return { type: "done", wallet: { ...wallet, version, balanceMinor: balanceMinor as never } };
  }

  beforeEach(() => {
    history = buildRecorder(() => 0);
    credit = staging.credit(wallet.walletId, "1.00");
  });

  it("takes what would have been so, now or before", () => {
    expect(asked(credit, wouldBe(2, 10_100))).toBe("");
    expect(asked(credit, wouldBe(3, 10_200))).toBe("");
  });

  it("finds another balance, a version of no moment, and one of long ago", () => {
    expect(asked(credit, wouldBe(2, 10_101))).toMatch(/would not be/);
    expect(asked(credit, wouldBe(9, 10_100))).toMatch(/would not be/);
    history = buildRecorder(() => 0);
    const { walletId } = wallet;
    const told = history.sent(staging.credit(walletId, "1.00"));
    history.answered(told, { type: "done", wallet: { ...wallet, version: 2 } });
    expect(asked(credit, wouldBe(2, 10_100))).toMatch(/would not be/);
  });

  it("finds an answer that only a real command can have", () => {
    const replayed = {
      type: "replayed",
      walletId: wallet.walletId,
      version: 2,
      transferId: null,
    } as const;
    expect(asked(credit, replayed)).toMatch(/would not be/);
  });

  it("finds a trace", () => {
    expect(asked({ ...credit, commandId: "credit" }, wouldBe(3, 10_200))).toMatch(
      /a trace: credit/,
    );
  });
});
