/**
 * What an actor does with one message: the turn of the actor model, without waiting for anything.
 * It decides with the pure core, puts events and effects into the open commit, and says whether the
 * message is dealt with or waits for that commit. The steps of a transfer are in
 * `transfer-steps.ts`.
 */
import type { CommandMessage, Outcome, ShardMessage } from "../src/core/protocol.ts";
import type { WalletEvent, WalletState } from "../src/core/wallet.ts";
import { foreseen, record, reply, type Actor, type Item } from "./commit.ts";
import {
  answerKnown,
  causeOf,
  decideNow,
  fault,
  follows,
  hasExpired,
  lead,
  reject,
  stepExpire,
  type StepContext,
  type StepResult,
} from "./deciding.ts";
import { commandToDecide } from "./messages.ts";
import type { PendingTransfers } from "./pending-transfers.ts";
import { beginTransfer, stepAsk, stepAsked, stepPost, stepVerdict } from "./transfer-steps.ts";

export function step(context: StepContext, actor: Actor, item: Item): StepResult {
  const { message } = item;
  switch (message.type) {
    case "command":
      return stepCommand(context, actor, item, message);
    case "ask":
      return stepAsk(context, actor, item, message);
    case "asked":
      return stepAsked(context, actor, item, message);
    case "post":
      return stepPost(context, actor, item, message);
    case "verdict":
      return stepVerdict(context, actor, item, message);
    case "expire":
      return stepExpire(context, actor, item, message);
    default:
      return message satisfies never;
  }
}

function stepCommand(
  context: StepContext,
  actor: Actor,
  item: Item,
  message: CommandMessage,
): StepResult {
  if (item.known?.type === "command") return answerKnown(context, message, item.known.command);
  if (follows(context, item)) return "waits";
  if (hasExpired(context, item, message)) {
    const isAwaited = context.nowMs() < message.expiresAtMs;
    return isAwaited ? fault(context, message, "unavailable") : "dealt";
  }
  const { command } = message;
  const decision = decideNow(context, actor, command);
  if (!decision.ok) return reject(context, actor, item, message, decision.rejection);
  const [first] = decision.events;
  if (first?.type === "TransferSent") return beginTransfer(context, actor, item, message, first);
  const commit = lead(context, actor, item);
  if (command.dryRun === true) {
    // Told with this commit, and so only if what it was decided on is true.
    reply(commit, message, doneWith(foreseen(actor, decision.events), first));
    return "waits";
  }
  if (item.mayBeKnown) commit.lookups.push(command);
  const wallet = record(commit, actor, decision.events, causeOf(message));
  reply(commit, message, doneWith(wallet, first));
  return "waits";
}

function doneWith(wallet: WalletState, event: WalletEvent | undefined): Outcome {
  const done = { type: "done", wallet } as const;
  const hold = event !== undefined && "hold" in event ? event.hold : undefined;
  return hold === undefined ? done : { ...done, hold };
}

/** The hold that must be in memory for this message to be dealt with; null when there is none. */
export function holdNeededBy(message: ShardMessage, pending: PendingTransfers): string | null {
  if (message.type === "verdict") {
    const { phase, transfer } = pending.get(message.transferId) ?? {};
    const isNeeded = message.verdict.type === "refused" || transfer?.isHoldFinal === true;
    return phase === "pending" && isNeeded ? transfer!.holdId : null;
  }
  // The journal said that it is active; if the wallet's row says that nothing is held, it was not
  // read along.
  if (message.type === "expire") return message.holdId;
  const body = commandToDecide(message)?.command.body;
  if (body === undefined) return null;
  return body.type === "capture" || body.type === "release" ? body.holdId : null;
}
