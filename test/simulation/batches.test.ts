/** The check of a batch's order: what it must find, and what it must let pass. */
import { describe, expect, it } from "vitest";
import type { Command, Outcome } from "../../src/core/protocol.ts";
import * as staging from "../stage/staged-commands.ts";
import { outOfOrder, type Carried } from "./batches.ts";

const WALLET = "wallet-1";

function stateAt(walletId: string, version: number) {
  return { walletId, version } as Extract<Outcome, { type: "done" }>["wallet"];
}

function credit(version: number, submissions = 1): Carried {
  const outcome: Outcome = { type: "done", wallet: stateAt(WALLET, version) };
  return { command: staging.credit(WALLET, "1.00"), submissions, outcome };
}

function transfer(from: string, to: string, version: number, toVersion: number): Carried {
  const ends = { from: stateAt(from, version), to: null, toWalletId: to, toVersion, hold: null };
  const transferred = { transferId: "t", status: "posted", ...ends } as const;
  const outcome: Outcome = { type: "transferred", transfer: transferred, replayed: false };
  return { command: staging.transfer(from, to, "1.00"), submissions: 1, outcome };
}

const never = (): boolean => false;

describe("the order of a batch", () => {
  it.each<[string, Carried[]]>([
    ["commands of one wallet", [credit(3), credit(2)]],
    ["a command behind a transfer out of its wallet", [transfer(WALLET, "x", 3, 1), credit(2)]],
    ["a command behind a transfer into its wallet", [transfer("x", WALLET, 1, 3), credit(2)]],
    ["a transfer behind a command of its payer", [credit(3), transfer(WALLET, "x", 2, 1)]],
    [
      "a transfer behind money for its payer",
      [transfer("x", WALLET, 1, 3), transfer(WALLET, "y", 2, 1)],
    ],
  ])("is broken by %s", (_what, carried) => {
    expect(outOfOrder(carried, never)).toHaveLength(1);
    expect(outOfOrder(carried.toReversed(), never)).toEqual([]);
  });

  it.each<[string, Carried[], (command: Command) => boolean]>([
    [
      "transfers out of one wallet",
      [transfer(WALLET, "x", 3, 1), transfer(WALLET, "y", 2, 1)],
      never,
    ],
    [
      "transfers into one wallet",
      [transfer("x", WALLET, 1, 3), transfer("y", WALLET, 1, 2)],
      never,
    ],
    [
      "a transfer into a wallet behind one out of it",
      [transfer(WALLET, "x", 3, 1), transfer("y", WALLET, 1, 2)],
      never,
    ],
    ["a command that found no room at first", [credit(3, 2), credit(2)], never],
    ["a command that was sent again", [credit(3), credit(2)], () => true],
  ])("is not broken by %s", (_what, carried, wasResent) => {
    expect(outOfOrder(carried, wasResent)).toEqual([]);
  });
});
