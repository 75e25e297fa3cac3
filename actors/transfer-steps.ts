/**
 * The transfer protocol (`src/core/transfer.ts`) from both sides: ask, asked and reserve, post,
 * verdict and settle; and the shortcut, which does all of it in one commit for a payee that is awake in the
 * payer's lane (docs/adr/0011). Every step may see its message twice or late; the ids under way
 * here, and behind them the journal's unique ids, make that harmless.
 */
import type { KnownCommand } from "../src/core/journal.ts";
import { completionEvent } from "../src/core/holding.ts";
import { LIMITS } from "../src/limits.ts";
import type {
  AskedMessage,
  AskMessage,
  Command,
  CommandMessage,
  Outcome,
  PostMessage,
  TransferAnswer,
  VerdictMessage,
} from "../src/core/protocol.ts";
import { settle, type Transfer, type Verdict } from "../src/core/transfer.ts";
import {
  checkReceive,
  transferEvent,
  type TransferStep,
  type WalletEvent,
  type WalletState,
} from "../src/core/wallet.ts";
import {
  foreseen,
  involve,
  record,
  recordRejection,
  reply,
  traceStep,
  type Actor,
  type Commit,
  type Item,
} from "./commit.ts";
import {
  answerKnown,
  causeOf,
  decideNow,
  fault,
  follows,
  hasExpired,
  lead,
  reject,
  soundly,
  stepCause,
  type StepContext,
  type StepResult,
} from "./deciding.ts";
import {
  answerOf,
  postOf,
  type PendingTransfer,
  type PendingTransfers,
} from "./pending-transfers.ts";

type Receive = Extract<TransferStep, { type: "receive" }>;

type TransferSent = Extract<WalletEvent, { transferId: string }>;

/** In one commit if that can be, and else by asking the payee. */
export function beginTransfer(
  context: StepContext,
  actor: Actor,
  item: Item,
  message: CommandMessage,
  sent: TransferSent,
): StepResult {
  const { command } = message;
  const earlier = reservedBefore(context, command, sent);
  if (earlier !== null) return answerKnown(context, message, earlier);
  const ask = receiveOf(actor, sent);
  const payee = takesShortcut(command) ? context.payeeHere(sent.counterpartyId) : null;
  if (payee !== null) return transferAtOnce(context, actor, item, message, sent, payee, ask);
  // Only before the first message leaves may the caller be told that nothing happened.
  if (context.pending.size >= LIMITS.pendingTransfersMax) {
    return fault(context, message, item.inDoubt ? "unknown" : "overloaded");
  }
  const question = {
    type: "ask",
    walletId: sent.counterpartyId,
    step: ask,
    // What is left of it by now, as the payee's lane may be on a machine with another clock.
    origin: { ...message, budgetMs: message.expiresAtMs - context.nowMs() },
  } as const;
  if (item.inDoubt && command.dryRun !== true) {
    // Whoever refuses the question or its answer says that nothing happened, so that must be so
    // before it leaves.
    const commit = lead(context, actor, item);
    commit.lookups.push(command);
    commit.messages.push(question);
    return "waits";
  }
  context.send(question);
  return "dealt";
}

/**
 * What is known of a command whose earlier copy has reserved the same transfer: it must not be made
 * anew.
 */
function reservedBefore(
  { pending }: StepContext,
  { walletId, commandId, fingerprint }: Command,
  { transferId }: TransferSent,
): KnownCommand | null {
  const earlier = pending.get(transferId);
  if (earlier === undefined) return null;
  const { fromVersion: version } = earlier.transfer;
  return { walletId, commandId, fingerprint, version, transferId, rejection: null };
}

/**
 * Phase 0 at the payee. A yes binds nobody and goes at once; a no must be true, so it waits for
 * what it was decided on, and so does what the payee of a dry run would be.
 */
export function stepAsk(
  context: StepContext,
  actor: Actor,
  item: Item,
  message: AskMessage,
): StepResult {
  const { step: ask, origin } = message;
  const pendingOutMinor = context.pending.outOf(actor.walletId);
  const rejection = checkReceive(actor.walletId, actor.state, ask, pendingOutMinor);
  const asked: AskedMessage = {
    type: "asked",
    walletId: origin.command.walletId,
    rejection,
    origin,
  };
  const isDryRun = origin.command.dryRun === true;
  if (rejection === null && !isDryRun) {
    context.send(asked);
    return "dealt";
  }
  const commit = lead(context, actor, item);
  if (rejection === null && actor.state !== null) {
    const payee = foreseen(actor, [transferEvent(actor.state, ask, context.wallMs())]);
    commit.messages.push({ ...asked, payee });
    return "waits";
  }
  commit.messages.push(asked);
  return "waits";
}

/**
 * Phase 1 at the payer: reserve. Time has passed since the first look, so everything is decided
 * again.
 */
export function stepAsked(
  context: StepContext,
  actor: Actor,
  item: Item,
  message: AskedMessage,
): StepResult {
  const { origin } = message;
  const { command } = origin;
  if (item.known?.type === "command") return answerKnown(context, origin, item.known.command);
  // Silently: an earlier ask of the same command may have been answered in time.
  if (hasExpired(context, item, origin)) return "dealt";
  if (follows(context, item)) return "waits";
  if (message.rejection !== null) return reject(context, actor, item, origin, message.rejection);
  const decision = decideNow(context, actor, command);
  if (!decision.ok) return reject(context, actor, item, origin, decision.rejection);
  const event = decision.events[0]!;
  if (event.type !== "TransferSent") throw new Error(`a transfer decided ${event.type}`);
  if (command.dryRun === true) return answerDryTransfer(context, actor, item, message, event);
  // It committed unheard, and its record was read back.
  const earlier = reservedBefore(context, command, event);
  if (earlier !== null) return answerKnown(context, origin, earlier);
  const commit = lead(context, actor, item);
  if (item.mayBeKnown) commit.lookups.push(command);
  const payer = record(commit, actor, decision.events, causeOf(origin));
  const transfer = transferOf(command, payer, event);
  commit.transfers.push(transfer);
  context.pending.reserve(transfer, payer, event.hold ?? null, origin);
  return "waits";
}

/** What the payee is asked to take. */
function receiveOf(payer: Actor, { transferId, amountMinor }: TransferSent): Receive {
  const { currency, decimalPlaces } = payer.state!;
  const of = { transferId, fromWalletId: payer.walletId, amountMinor, currency, decimalPlaces };
  return { type: "receive", ...of };
}

/** The record of a transfer that has just been reserved; `payer` is as `sent` left it. */
function transferOf(command: Command, payer: WalletState, sent: TransferSent): Transfer {
  return {
    transferId: sent.transferId,
    fromWalletId: payer.walletId,
    toWalletId: sent.counterpartyId,
    amountMinor: sent.amountMinor,
    currency: payer.currency,
    decimalPlaces: payer.decimalPlaces,
    status: "pending",
    fromVersion: payer.version,
    toVersion: null,
    rejection: null,
    commandId: command.commandId,
    correlationId: command.correlationId,
    description: command.description,
    createdAtMs: sent.occurredAtMs,
    settledAtMs: null,
    holdId: sent.hold?.holdId ?? null,
    isHoldFinal: command.body.type === "capture" && command.body.final,
  };
}

/** Captures and dry runs have more to do than the shortcut does; they are rare. */
function takesShortcut({ body, dryRun }: Command): boolean {
  return body.type === "transfer" && dryRun !== true;
}

/**
 * All phases in one commit, for a payee that is awake in the payer's lane: it writes what the
 * protocol would have written, and the money is never in transit for anybody else. There is nothing
 * to drive afterwards: the commit happens whole or not at all, and a repeat is found by the command
 * id.
 */
function transferAtOnce(
  context: StepContext,
  actor: Actor,
  item: Item,
  message: CommandMessage,
  sent: TransferSent,
  payee: Actor,
  ask: Receive,
): StepResult {
  const { command } = message;
  const commit = lead(context, actor, item);
  // Also a refusal must be true of the payee.
  involve(commit, payee);
  const pendingOutMinor = context.pending.outOf(payee.walletId);
  const rejection = checkReceive(payee.walletId, payee.state, ask, pendingOutMinor);
  if (rejection !== null || payee.state === null) {
    if (rejection === null)
      throw new Error(`wallet ${payee.walletId} takes money without existing`);
    recordRejection(commit, message, rejection);
    return "waits";
  }
  if (item.mayBeKnown) commit.lookups.push(command);
  const atMs = context.wallMs();
  const from = record(commit, actor, [sent], causeOf(message));
  const transfer = transferOf(command, from, sent);
  const { transferId, toWalletId } = transfer;
  const received = transferEvent(payee.state, ask, atMs);
  const to = record(commit, payee, [received], stepCause(transfer));
  const verdict: Verdict = { type: "posted", toVersion: to.version };
  commit.transfers.push(transfer);
  commit.verdicts.push({ transferId, toWalletId, verdict, decidedAtMs: atMs });
  commit.settled.push(settle(transfer, verdict, atMs));
  commit.atOnce.add(transferId);
  const answer: TransferAnswer = {
    transferId,
    status: "posted",
    from,
    to,
    toWalletId,
    toVersion: to.version,
    hold: null,
  };
  reply(commit, message, { type: "transferred", transfer: answer, replayed: false });
  return "waits";
}

/**
 * Where a dry run of a transfer ends: how both wallets would stand. No record is made, so no step
 * ever follows.
 */
function answerDryTransfer(
  context: StepContext,
  actor: Actor,
  item: Item,
  { origin, payee }: AskedMessage,
  event: Extract<WalletEvent, { transferId: string }>,
): StepResult {
  // Its host does not know of dry runs; the gateway asks again, and then says that nothing
  // happened.
  if (payee === undefined) return "dealt";
  const { transferId, counterpartyId: toWalletId } = event;
  const sides = { from: foreseen(actor, [event]), to: payee, toWalletId, toVersion: payee.version };
  const hold = event.hold ?? null;
  const transfer = { transferId, status: "posted", ...sides, hold } as const;
  reply(lead(context, actor, item), origin, { type: "transferred", transfer, replayed: false });
  return "waits";
}

/** Phase 2 at the payee: the verdict, once and for ever. */
export function stepPost(
  context: StepContext,
  actor: Actor,
  item: Item,
  message: PostMessage,
): StepResult {
  const { step: post } = message;
  if (item.known?.type === "verdict") {
    context.send(verdictOf(post, item.known.verdict.verdict, null));
    return "dealt";
  }
  if (follows(context, item)) return "waits";
  const pendingOutMinor = context.pending.outOf(actor.walletId);
  const rejection = checkReceive(actor.walletId, actor.state, post, pendingOutMinor);
  const commit = lead(context, actor, item);
  const { transferId } = post;
  if (item.mayBeKnown) commit.verdictLookups.push(transferId);
  traceStep(commit, "post", actor, message.commandId, message.traceparent);
  let verdict: Verdict;
  if (rejection === null && actor.state !== null) {
    const event = transferEvent(actor.state, post, context.wallMs());
    const payee = record(commit, actor, [event], stepCause(message));
    verdict = { type: "posted", toVersion: payee.version };
    commit.messages.push(verdictOf(post, verdict, payee));
  } else if (rejection !== null) {
    verdict = { type: "refused", rejection };
    commit.messages.push(verdictOf(post, verdict, null));
  } else {
    throw new Error(`wallet ${actor.walletId} accepts transfer ${transferId} without existing`);
  }
  const decidedAtMs = context.wallMs();
  commit.verdicts.push({ transferId, toWalletId: actor.walletId, verdict, decidedAtMs });
  return "waits";
}

/**
 * Phase 3 at the payer: settle. A posted verdict is durable at the payee, so its caller is answered
 * now.
 */
export function stepVerdict(
  context: StepContext,
  actor: Actor,
  item: Item,
  message: VerdictMessage,
): StepResult {
  const { verdict } = message;
  const pending = context.pending.get(message.transferId);
  if (pending?.phase !== "pending") return "dealt";
  const { transfer } = pending;
  const event = soundly(actor, () => settlingEvent(actor, transfer, verdict, context.wallMs()));
  const commit = lead(context, actor, item);
  context.pending.settling(pending);
  traceStep(commit, "settle", actor, transfer.commandId, pending.first?.command.traceparent);
  if (event !== null) record(commit, actor, [event], stepCause(transfer));
  const settled = settle(transfer, verdict, context.wallMs());
  commit.settled.push(settled);
  // Who was refused hears of it with the return, and who needs the record read back when it is
  // settled: `settledOutcome`.
  if (verdict.type === "refused" || pending.payer === null) return "waits";
  const answer = answerOf(pending, pending.payer, "posted", verdict.toVersion, message.payee);
  for (const waiter of pending.waiters) {
    const replayed = waiter !== pending.first;
    context.answer(waiter, { type: "transferred", transfer: answer, replayed });
  }
  pending.waiters = [];
  return "waits";
}

/**
 * What the verdict does to the payer: the money comes back, or a final capture ends its hold.
 * Throws when the payer's rows do not allow that.
 */
function settlingEvent(
  actor: Actor,
  transfer: Transfer,
  verdict: Verdict,
  nowMs: number,
): WalletEvent | null {
  const { transferId, toWalletId, amountMinor, holdId, isHoldFinal } = transfer;
  const { state } = actor;
  if (state === null) throw new Error(`transfer ${transferId} is pending and its payer has no row`);
  const hold = holdId === null ? null : (actor.holds?.get(holdId) ?? null);
  const mustKnow = verdict.type === "refused" || isHoldFinal;
  if (holdId !== null && hold === null && mustKnow) {
    throw new Error(`transfer ${transferId} has captured hold ${holdId}, which does not exist`);
  }
  let event: WalletEvent | null = null;
  if (verdict.type === "refused") {
    const step = { type: "return", transferId, toWalletId, amountMinor, hold } as const;
    event = transferEvent(state, step, nowMs);
  } else if (hold !== null && isHoldFinal) {
    event = completionEvent(state, hold, amountMinor, nowMs);
  }
  if (event !== null) foreseen(actor, [event]);
  return event;
}

/** What is reserved is posted now, and who still waits for what is settled is answered. */
export function transfersCommitted(context: StepContext, commit: Commit): void {
  const { pending } = context;
  for (const { transferId } of commit.transfers) {
    if (commit.atOnce.has(transferId)) continue;
    context.send(postOf(pending.committed(transferId, context.nowMs())));
  }
  for (const settled of commit.settled) {
    if (commit.atOnce.has(settled.transferId)) continue;
    const transfer = pending.settled(settled.transferId);
    for (const waiter of transfer.waiters) {
      context.answer(waiter, settledOutcome(transfer, settled, waiter));
    }
  }
}

/** Takes back what the commit made of transfers: none is reserved by it, and none is settled. */
export function transfersUndone(pending: PendingTransfers, commit: Commit): void {
  for (const { transferId } of commit.transfers) {
    if (!commit.atOnce.has(transferId)) pending.forget(transferId);
  }
  for (const { transferId } of commit.settled) {
    if (!commit.atOnce.has(transferId)) pending.unsettled(transferId);
  }
}

/** Asks silent payees again, and tells callers whose deadline is near that it is pending. */
export function driveTransfers(context: StepContext): void {
  const { pending } = context;
  const nowMs = context.nowMs();
  for (const late of pending.due(nowMs)) context.send(postOf(late));
  for (const { pending: transfer, waiter } of pending.impatient(nowMs)) {
    if (transfer.payer === null) {
      context.answer(waiter, replayOf(transfer.transfer));
      continue;
    }
    const answer = answerOf(transfer, transfer.payer, "pending", null, null);
    const replayed = waiter !== transfer.first;
    context.answer(waiter, { type: "transferred", transfer: answer, replayed });
  }
}

/** What somebody who waits for a transfer is told once its record is settled. */
function settledOutcome(
  { transfer, first }: PendingTransfer,
  settled: Transfer,
  to: CommandMessage,
): Outcome {
  const { rejection } = settled;
  if (rejection === null) return replayOf(transfer);
  return { type: "rejected", rejection, replayed: to !== first };
}

function replayOf(transfer: Transfer): Outcome {
  const { fromWalletId: walletId, fromVersion: version, transferId } = transfer;
  return { type: "replayed", walletId, version, transferId };
}

function verdictOf(
  post: Receive,
  verdict: Verdict,
  payee: VerdictMessage["payee"],
): VerdictMessage {
  const { fromWalletId: walletId, transferId } = post;
  return { type: "verdict", walletId, transferId, verdict, payee };
}
