/**
 * What crosses between threads arrives as it left, whatever it is: packed, cloned as a port does,
 * unpacked.
 */
import { describe, expect, it } from "vitest";

import type { AmountMinor } from "../src/core/amount.ts";
import type { LaneMeasures } from "../src/telemetry/measures.ts";
import type { CommandMessage, Effects, Outcome, ShardMessage } from "../src/core/protocol.ts";
import type { WalletState } from "../src/core/wallet.ts";
import {
  packEffects,
  packNotice,
  packResult,
  packTask,
  unpackEffects,
  unpackNotice,
  unpackResult,
  unpackTask,
} from "./lane-packing.ts";
import type { LaneTask } from "./lane-thread.ts";

const minor = (units: number): AmountMinor => units as AmountMinor;

const wallet: WalletState = {
  walletId: "w",
  ownerId: "o",
  currency: "USD",
  decimalPlaces: 2,
  balanceMinor: minor(5),
  heldMinor: minor(3),
  status: "SUSPENDED",
  version: 7,
  metadata: '{"a":1}',
  createdAtMs: 8,
  updatedAtMs: 9,
};

const command = (seq: number, inbox = "coffer.inbox.g"): CommandMessage => ({
  type: "command",
  inbox,
  seq,
  attempt: 2,
  budgetMs: 3,
  expiresAtMs: 4,
  command: {
    commandId: "c",
    fingerprint: "f",
    walletId: "w",
    proposedId: true,
    expectedVersion: 5,
    description: "d",
    metadata: "{}",
    correlationId: "x",
    body: { type: "credit", amount: "1", kind: "FUND" },
  },
});

/** With what most commands do not have. */
const rare = (seq: number, more: object): CommandMessage => {
  const message = command(seq);
  return { ...message, command: { ...message.command, ...more } };
};

const receive = {
  type: "receive",
  transferId: "t",
  fromWalletId: "w",
  amountMinor: minor(1),
  currency: "USD",
  decimalPlaces: 2,
} as const;

const steps: ShardMessage[] = [
  { type: "ask", walletId: "v", step: receive, origin: command(1) },
  {
    type: "asked",
    walletId: "w",
    rejection: { code: "same_wallet", walletId: "w" },
    origin: command(2),
  },
  {
    type: "post",
    walletId: "v",
    attempt: 1,
    step: receive,
    commandId: "c",
    correlationId: "x",
    description: null,
  },
  {
    type: "verdict",
    walletId: "w",
    transferId: "t",
    verdict: { type: "posted", toVersion: 1 },
    payee: wallet,
  },
];

const outcomes: Outcome[] = [
  { type: "done", wallet },
  { type: "done", wallet: { ...wallet, version: 8 } },
  // With something besides the wallet.
  { type: "done", wallet, hold: { holdId: "h" } } as Outcome,
  { type: "replayed", walletId: "w", version: 3, transferId: null },
  { type: "rejected", rejection: { code: "wallet_not_found", walletId: "w" }, replayed: true },
  { type: "fault", fault: "unknown" },
  {
    type: "transferred",
    transfer: {
      transferId: "t",
      status: "posted",
      from: wallet,
      to: null,
      toWalletId: "v",
      toVersion: 2,
      hold: null,
    },
    replayed: false,
  },
];

const effects: Effects = {
  replies: outcomes.map((outcome, seq) => ({ inbox: `inbox-${seq % 2}`, seq, outcome })),
  messages: steps,
  changes: [
    { wallet, type: "WalletCredited", amountMinor: 5, description: "d" },
    {
      wallet: { ...wallet, walletId: "v" },
      type: "WalletSuspended",
      amountMinor: null,
      description: null,
    },
  ],
  lost: [1, 2],
};

describe("what crosses between threads", () => {
  it.each<[string, LaneTask]>([
    [
      "a batch",
      {
        type: "batch",
        arrivals: [
          { atMs: 1, messages: [command(1), ...steps, command(2, "other")] },
          { atMs: 2, messages: [] },
          { atMs: 3, arrivedAtMs: 2.5, messages: [command(3), rare(4, { dryRun: true })] },
          {
            atMs: 4,
            messages: [rare(5, { traceparent: "00-a-b-01" }), rare(6, { correlationId: "c" })],
          },
        ],
      },
    ],
    ["a tick", { type: "tick", shards: [1, 2] }],
    ["the end", { type: "stop" }],
  ])("is %s as it was", (_name, task) => {
    expect(unpackTask(structuredClone(packTask(task)))).toEqual(task);
  });

  it("are effects as they were, with one state where there was one", () => {
    const arrived = unpackEffects(structuredClone(packEffects(effects)));
    expect(arrived).toEqual(effects);
    const [first] = arrived.replies;
    expect(first?.outcome.type === "done" && first.outcome.wallet).toBe(arrived.changes[0]?.wallet);
  });

  it("are results and notices, with effects and without", () => {
    for (const result of [
      { effects, stats: null },
      { effects: null, stats: null },
      { effects, stats: null, measures: { busyRatio: 0.5 } as LaneMeasures },
    ]) {
      expect(unpackResult(structuredClone(packResult(result)))).toEqual(result);
    }
    for (const notice of [
      { type: "effects", effects },
      { type: "log", level: "warn", text: "t" },
      { type: "fatal", reason: "r" },
    ] as const) {
      expect(unpackNotice(structuredClone(packNotice(notice)))).toEqual(notice);
    }
  });
});
