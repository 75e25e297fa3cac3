/** What a decision ends before it may say no. */
import { expect, it } from "vitest";
import { amountMinor, ZERO } from "../src/core/amount.ts";
import type { Hold } from "../src/core/hold.ts";
import type { Command } from "../src/core/protocol.ts";
import { withLimits } from "../test/stage/lanes.ts";
import { newCommit, type Actor } from "./commit.ts";
import { decideNow, type StepContext } from "./deciding.ts";

it("a wallet with more holds than it may have, all over, has room for another one", () => {
  // Given a wallet that may have two: the third came back from a payee that refused it
  withLimits({ holdsPerWalletMax: 2 });
  const holds = ["a", "b", "c"].map((holdId): [string, Hold] => [
    holdId,
    {
      holdId,
      walletId: "w",
      amountMinor: amountMinor(100),
      capturedMinor: ZERO,
      status: "ACTIVE",
      kind: "PAYMENT",
      reference: null,
      description: null,
      expiresAtMs: 5_000,
      createdAtMs: 2_000,
      capturedAtMs: null,
      releasedAtMs: null,
    },
  ]);
  const actor: Actor = {
    walletId: "w",
    shard: 0,
    state: {
      walletId: "w",
      ownerId: null,
      currency: "USD",
      decimalPlaces: 2,
      balanceMinor: amountMinor(1_000),
      heldMinor: amountMinor(300),
      status: "ACTIVE",
      version: 9,
      metadata: "{}",
      createdAtMs: 1_000,
      updatedAtMs: 3_000,
    },
    hash: null,
    loaded: true,
    holds: new Map(holds),
    activeHolds: 3,
    mailbox: [],
    uncommitted: 0,
    mayBeDamaged: false,
    lastUsedMs: 0,
  };
  const commit = newCommit();
  const context = {
    nowMs: () => 0,
    wallMs: () => 6_000,
    open: () => commit,
    pending: { outOf: () => ZERO },
  } as unknown as StepContext;
  const command: Command = {
    commandId: "k",
    fingerprint: "f",
    walletId: "w",
    proposedId: false,
    expectedVersion: null,
    description: null,
    metadata: null,
    correlationId: "k",
    body: {
      type: "hold",
      holdId: "n",
      amount: "1",
      kind: "PAYMENT",
      reference: null,
      description: null,
      expiresAtMs: null,
      expiresInSeconds: null,
    },
  };

  // When it is asked for one more
  const decision = decideNow(context, actor, command);

  // Then it ends as many as it takes
  expect(decision.ok).toBe(true);
  expect(commit.events.map(({ event }) => event.type)).toEqual(["HoldExpired", "HoldExpired"]);
});
