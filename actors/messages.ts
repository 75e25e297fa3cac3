/**
 * The shape and the weight of what travels between hosts, lanes and gateways: whether a message has
 * the parts that routing needs, which command it carries, how many bytes it takes at most, and how
 * a batch is cut so that each part fits one bus message.
 */
import type { Hold } from "../src/core/hold.ts";
import { LIMITS } from "../src/limits.ts";
import type { Change, CommandMessage, Reply, ShardMessage } from "../src/core/protocol.ts";
import { shardOf } from "../src/core/shard.ts";
import type { WalletCommand, WalletState } from "../src/core/wallet.ts";

/** What a command weighs in a queue besides its texts; an estimate in bytes. */
const COMMAND_BYTES = 512;

/**
 * Whether a message has the parts that routing needs. Whoever may publish on the shards' subjects
 * is trusted with money (docs/operations.md); this only keeps a stray message from ending a lane.
 */
export function isFor(message: ShardMessage, shard: number): boolean {
  if (typeof message !== "object" || message === null) return false;
  switch (message.type) {
    case "command":
      return isCommand(message) && shardOf(message.command.walletId) === shard;
    case "ask":
    case "asked":
      return isCommand(message.origin) && isAddressedTo(message, shard);
    case "post":
      return typeof message.step?.transferId === "string" && isAddressedTo(message, shard);
    case "verdict":
      return typeof message.transferId === "string" && isAddressedTo(message, shard);
    case "expire": // a lane's own, never from outside
    default:
      return false;
  }
}

function isAddressedTo({ walletId }: { walletId: string }, shard: number): boolean {
  return typeof walletId === "string" && shardOf(walletId) === shard;
}

function isCommand(message: CommandMessage): boolean {
  const { inbox, seq, budgetMs, command } = message ?? {};
  return (
    typeof inbox === "string" &&
    typeof seq === "number" &&
    typeof budgetMs === "number" &&
    typeof command?.walletId === "string" &&
    typeof command.commandId === "string" &&
    typeof command.body?.type === "string"
  );
}

/**
 * The command that a message is about before anything is written: the message itself, or the origin
 * of a question or its answer.
 */
export function commandIn(message: ShardMessage): CommandMessage | null {
  if (message.type === "command") return message;
  return message.type === "ask" || message.type === "asked" ? message.origin : null;
}

/** The command that a message lets its wallet decide; a question is put to another wallet. */
export function commandToDecide(message: ShardMessage): CommandMessage | null {
  return message.type === "ask" ? null : commandIn(message);
}

/** Most bytes that one UTF-16 unit of a text takes in a bus message. */
const BYTES_PER_UNIT = 6;

export function bytesOf(message: ShardMessage): number {
  if (message.type === "ask") return bytesOf(message.origin) * 2;
  if (message.type === "asked") {
    return bytesOf(message.origin) * 2 + walletBytes(message.payee ?? null);
  }
  if (message.type === "expire") return COMMAND_BYTES;
  if (message.type === "verdict") return COMMAND_BYTES + walletBytes(message.payee);
  if (message.type === "post") return COMMAND_BYTES + textBytes(message.description);
  const { description, metadata, body } = message.command;
  return COMMAND_BYTES + textBytes(description) + textBytes(metadata) + ownBytes(body);
}

/** Texts of the caller in a command's body. */
function ownBytes(body: WalletCommand): number {
  if (body.type === "create") return textBytes(body.metadata);
  if (body.type === "update") return textBytes(body.patch);
  return body.type === "hold" ? textBytes(body.description) + textBytes(body.reference) : 0;
}

function holdBytes(hold: Hold | null): number {
  if (hold === null) return 0;
  return COMMAND_BYTES + textBytes(hold.description) + textBytes(hold.reference);
}

export function replyBytes({ outcome }: Reply): number {
  if (outcome.type === "done") {
    return walletBytes(outcome.wallet) + holdBytes(outcome.hold ?? null);
  }
  if (outcome.type !== "transferred") return COMMAND_BYTES;
  const { from, to, hold } = outcome.transfer;
  return walletBytes(from) + walletBytes(to) + holdBytes(hold);
}

export function changeBytes({ wallet, description }: Change): number {
  return walletBytes(wallet) + textBytes(description);
}

function walletBytes(wallet: WalletState | null): number {
  return wallet === null ? 0 : COMMAND_BYTES * 2 + textBytes(wallet.metadata);
}

function textBytes(text: string | null): number {
  return text === null ? 0 : text.length * BYTES_PER_UNIT;
}

/** A batch in parts that each fit one bus message. */
export function parts<T>(batch: readonly T[], bytesOfOne: (one: T) => number): T[][] {
  const all: T[][] = [];
  let part: T[] = [];
  let bytes = 0;
  for (const one of batch) {
    const more = bytesOfOne(one);
    if (part.length > 0 && bytes + more > LIMITS.busMessageBytesMax) {
      all.push(part);
      part = [];
      bytes = 0;
    }
    part.push(one);
    bytes += more;
  }
  all.push(part);
  return all;
}
