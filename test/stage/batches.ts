/**
 * Batches on the real intake, desk and in-process bus, with small owners that answer when a test
 * lets them.
 */
import { expect } from "vitest";

import { buildAnswers } from "../../gateway/answers.ts";
import { buildBatches, type BatchOrigin } from "../../gateway/batch.ts";
import { buildCommandIntake, type TakeIn } from "../../gateway/command-intake.ts";
import { buildCommandDesk } from "../../gateway/commands.ts";
import type { AmountMinor } from "../../src/core/amount.ts";
import { assetOf } from "../../src/assets.ts";
import { buildMemoryBus } from "../../src/bus/memory-bus.ts";
import { buildPostgresReadModel } from "../../src/postgres/read-model.ts";
import type { CommandMessage, Outcome, Reply } from "../../src/core/protocol.ts";
import type { WalletState } from "../../src/core/wallet.ts";

export interface Told {
  readonly ok: boolean;
  readonly statusCode: number;
  readonly data?: { readonly id: string; readonly balance: number; readonly metadata?: object };
  readonly error?: { readonly code: string; readonly message: string; readonly details?: unknown };
  readonly replayed?: boolean;
}

const log = { error: (details: object) => expect.fail(JSON.stringify(details)) };
/** Nothing listens there, and nothing is read. */
const readModel = buildPostgresReadModel({ databaseUrls: ["postgres://nobody@127.0.0.1:1/none"] });

export function walletOf(walletId: string, fields: Partial<WalletState> = {}): WalletState {
  return {
    walletId,
    ownerId: null,
    currency: "USD",
    decimalPlaces: 2,
    balanceMinor: 1_000 as AmountMinor,
    heldMinor: 0 as AmountMinor,
    status: "ACTIVE",
    version: 1,
    metadata: "{}",
    createdAtMs: 0,
    updatedAtMs: 0,
    ...fields,
  };
}

export const done = (message: CommandMessage, fields: Partial<WalletState> = {}): Outcome => ({
  type: "done",
  wallet: walletOf(message.command.walletId, fields),
});

/**
 * Batches, and an owner of all shards that answers at once, or keeps what arrives until it is told
 * to.
 */
export function setUp(
  decide: (message: CommandMessage, nth: number) => Outcome | null = () => null,
  takeIn: TakeIn = buildCommandIntake(assetOf),
) {
  const bus = buildMemoryBus();
  let nowMs = 0;
  const desk = buildCommandDesk({ bus, gatewayId: "g" });
  const answer = buildAnswers({ readModel, log });
  const batches = buildBatches({
    commands: desk,
    takeIn,
    answer,
    log,
    clock: { nowMs: () => nowMs },
  });
  const arrived: CommandMessage[] = [];
  let waiting: CommandMessage[] = [];
  const tell = (message: CommandMessage, outcome: Outcome): void => {
    const replies: Reply[] = [{ inbox: message.inbox, seq: message.seq, outcome }];
    bus.publish(message.inbox, replies);
  };
  bus.subscribe<CommandMessage[]>("coffer.shard.*", (messages) => {
    for (const message of messages) {
      arrived.push(message);
      const outcome = decide(message, arrived.length - 1);
      if (outcome === null) waiting.push(message);
      else tell(message, outcome);
    }
  });
  const origin: BatchOrigin = { correlationId: "order-7", key: undefined, isGone: () => false };
  return {
    batches,
    arrived,
    origin,
    /** Lets everything that is under way arrive. */
    async settle(): Promise<void> {
      for (let turn = 0; turn < 60; turn++) await new Promise((resolve) => setImmediate(resolve));
    },
    /** Answers all that waits, the last first. */
    answerAll(outcomeOf: (message: CommandMessage) => Outcome = done): void {
      const messages = waiting.toReversed();
      waiting = [];
      for (const message of messages) tell(message, outcomeOf(message));
    },
    pass(ms: number): void {
      nowMs += ms;
    },
    async run(commands: readonly unknown[], of: Partial<BatchOrigin> = {}): Promise<Told[]> {
      let text = "";
      for await (const piece of batches.run(commands, { ...origin, ...of })) text += piece;
      return (JSON.parse(text) as { outcomes: Told[] }).outcomes;
    },
  };
}

export const credit = (walletId: string, fields: object = {}) => ({
  type: "credit",
  walletId,
  amount: 1,
  ...fields,
});
export const range = (count: number): number[] =>
  Array.from({ length: count }, (_, index) => index);
