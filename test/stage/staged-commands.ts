/**
 * Commands as the gateway's intake makes them, for tests that hand them to lanes themselves: each
 * has an id and a fingerprint of its own, and whatever a test says nothing of is plain.
 */
import type { HoldKey } from "../../src/core/journal.ts";
import type { Command } from "../../src/core/protocol.ts";
import type { WalletCommand } from "../../src/core/wallet.ts";
import { unique } from "./ids.ts";

export function commandOf(
  walletId: string,
  body: WalletCommand,
  rest: Partial<Command> = {},
): Command {
  const commandId = rest.commandId ?? unique("command");
  return {
    commandId,
    fingerprint: `input of ${commandId}`,
    walletId,
    proposedId: false,
    expectedVersion: null,
    description: null,
    metadata: null,
    correlationId: `correlation of ${commandId}`,
    body,
    ...rest,
  };
}

export function creation(
  initialBalance: string | null,
): Extract<WalletCommand, { type: "create" }> {
  const [ownerId, currency, decimalPlaces, metadata] = ["owner", "USD", 2, "{}"] as const;
  return { type: "create", ownerId, currency, decimalPlaces, initialBalance, metadata };
}

export function credit(walletId: string, amount: string, rest: Partial<Command> = {}): Command {
  return commandOf(walletId, { type: "credit", amount, kind: "CREDIT" }, rest);
}

export function debit(walletId: string, amount: string, rest: Partial<Command> = {}): Command {
  return commandOf(walletId, { type: "debit", amount }, rest);
}

export function transfer(
  walletId: string,
  toWalletId: string,
  amount: string,
  rest: Partial<Command> = {},
): Command {
  const transferId = unique("transfer");
  return commandOf(walletId, { type: "transfer", transferId, toWalletId, amount }, rest);
}

type Place = Extract<WalletCommand, { type: "hold" }>;

export function placing(
  walletId: string,
  amount: string,
  over: Partial<Place> = {},
  rest: Partial<Command> = {},
): Command {
  const body: Place = {
    type: "hold",
    holdId: unique("hold"),
    amount,
    kind: "PAYMENT",
    reference: null,
    description: null,
    expiresAtMs: null,
    expiresInSeconds: null,
    ...over,
  };
  return commandOf(walletId, body, rest);
}

/** `toWalletId`: pays it to a wallet. */
export function capture(
  { walletId, holdId }: HoldKey,
  amount: string | null,
  { final = false, toWalletId }: { final?: boolean; toWalletId?: string } = {},
): Command {
  const to =
    toWalletId === undefined ? null : { transferId: unique("transfer"), walletId: toWalletId };
  return commandOf(walletId, { type: "capture", holdId, amount, final, to });
}

export function release({ walletId, holdId }: HoldKey): Command {
  return commandOf(walletId, { type: "release", holdId });
}

/** What a client sends who asks again under the same key: the gateway makes another transfer id. */
export function repeated(command: Command): Command {
  const { body } = command;
  if (body.type === "transfer") {
    return { ...command, body: { ...body, transferId: unique("transfer") } };
  }
  if (body.type === "hold") return { ...command, body: { ...body, holdId: unique("hold") } };
  if (body.type !== "capture" || body.to === null) return command;
  const to = { ...body.to, transferId: unique("transfer") };
  return { ...command, body: { ...body, to } };
}
