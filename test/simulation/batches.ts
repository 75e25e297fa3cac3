/**
 * Batches of a simulated gateway: the real `gateway/batch.ts` over its command desk. The bank's
 * commands go in as the bodies that clients write, and each comes out with its outcome; between the
 * two stands an intake that gives the bank's own command back, since ids are drawn from the seed.
 * What the text says of each command is held against the outcome that the desk gave, and the
 * commands of one wallet that were decided by their first sending must have been carried out in
 * their order.
 */
import type { Answer, GiveAnswer } from "../../gateway/answers.ts";
import { buildBatches } from "../../gateway/batch.ts";
import type { CommandDesk } from "../../gateway/commands.ts";
import type { Command, Outcome } from "../../src/core/protocol.ts";
import { payeeOf } from "../../src/core/wallet.ts";
import type { Process } from "./scheduler.ts";

/** What a caller hears of a command; without a body it is not the end of it. */
export interface Reached {
  readonly outcome: Outcome;
  readonly body: string | null;
}

export interface BatchDoor {
  /** One outcome each, in order. Never rejects; never resolves when the process has ended. */
  send(commands: readonly Command[]): Promise<readonly Reached[]>;
  drain(): Promise<void>;
}

export interface BatchDoorDeps {
  readonly process: Process;
  readonly desk: CommandDesk;
  readonly giveAnswer: GiveAnswer;
  readonly log: { error(details: object, message: string): void };
  readonly clock: { nowMs(): number };
  /** Whether a command was sent more than once: then others may have overtaken it. */
  readonly wasResent: (command: Command) => boolean;
  /** Told what is wrong. */
  readonly onProblem: (text: string) => void;
}

/** A command on its way through a batch. */
interface Passenger {
  readonly command: Command;
  submissions: number;
  outcome: Outcome | null;
  answer: Answer | null;
}

const UNAVAILABLE: Reached = { outcome: { type: "fault", fault: "unavailable" }, body: null };

export function buildBatchDoor(deps: BatchDoorDeps): BatchDoor {
  const { process, desk, giveAnswer, log, clock, onProblem } = deps;
  const byTicket = new Map<string, Passenger>();
  const byCommand = new Map<Command, Passenger>();
  let lastTicket = 0;
  const batches = buildBatches({
    commands: {
      submit(command) {
        byCommand.get(command)!.submissions += 1;
        return desk.submit(command);
      },
    },
    takeIn(_type, _walletId, fields) {
      const { command } = byTicket.get(fields.idempotencyKey ?? "")!;
      return { ok: true, command, isKeyed: true };
    },
    answer(outcome, command) {
      const keep = (answer: Answer): Answer => {
        Object.assign(byCommand.get(command)!, { outcome, answer });
        return answer;
      };
      const answer = giveAnswer(outcome, command);
      return answer instanceof Promise ? answer.then(keep) : keep(answer);
    },
    log,
    clock,
    schedule: process.time,
  });

  async function send(commands: readonly Command[]): Promise<readonly Reached[]> {
    const origin = { correlationId: "batch", key: undefined, isGone: () => false };
    const passengers: Passenger[] = [];
    const tickets: string[] = [];
    const bodies = commands.map((command) => {
      lastTicket += 1;
      const ticket = `ticket-${lastTicket}`;
      const passenger = { command, submissions: 0, outcome: null, answer: null };
      passengers.push(passenger);
      tickets.push(ticket);
      byTicket.set(ticket, passenger);
      byCommand.set(command, passenger);
      return { ...requestOf(command), idempotencyKey: ticket };
    });
    let text = "";
    for await (const piece of batches.run(bodies, origin)) text += piece;
    const { outcomes } = JSON.parse(text) as { outcomes: BatchOutcome[] };
    if (outcomes.length !== commands.length) {
      onProblem(`a batch of ${commands.length} commands has ${outcomes.length} outcomes`);
    }
    for (const [index, passenger] of passengers.entries()) {
      const told = outcomes[index];
      if (told === undefined || !isOf(told, passenger)) {
        const { commandId } = passenger.command;
        onProblem(`a batch tells ${JSON.stringify(told)} of ${commandId}`);
      }
      byCommand.delete(passenger.command);
    }
    for (const ticket of tickets) byTicket.delete(ticket);
    for (const problem of outOfOrder(passengers, deps.wasResent)) onProblem(problem);
    return passengers.map(({ outcome, answer }) =>
      outcome === null || answer === null ? UNAVAILABLE : reachedOf(outcome, answer),
    );
  }

  return { send, drain: () => batches.drain() };
}

interface BatchOutcome {
  readonly ok: boolean;
  readonly data?: unknown;
  readonly error?: { readonly code: string };
}

function isOf({ ok, error }: BatchOutcome, { answer }: Passenger): boolean {
  // What was never submitted has no answer.
  if (answer === null) return !ok && error?.code === "unavailable";
  return answer.type === "error" ? !ok && error?.code === answer.error.code : ok;
}

/** What a caller makes of an answer. */
export function reachedOf(outcome: Outcome, answer: Answer): Reached {
  if (answer.type !== "error") {
    const isPending = answer.type === "transfer" && answer.transfer.status === "pending";
    const { isReplay: _, ...body } = answer;
    return { outcome, body: isPending ? null : JSON.stringify(body) };
  }
  const { error } = answer;
  if (outcome.type === "fault") return { outcome, body: null };
  // The read back failed: it is an outcome, and the caller does not hear which.
  if (error.code === "outcome_unknown") {
    return { outcome: { type: "fault", fault: "unknown" }, body: null };
  }
  return { outcome, body: JSON.stringify(error) };
}

/** Whether a batch takes commands of this kind. */
export function fitsBatch({ body }: Command): boolean {
  return !((body.type === "credit" || body.type === "debit") && body.of !== undefined);
}

/** The command as a client writes it. */
function requestOf({ walletId, proposedId, body, expectedVersion, dryRun }: Command): object {
  const whose = {
    ...(!proposedId && { walletId }),
    ...(expectedVersion !== null && { expectedVersion }),
    ...(dryRun === true && { dryRun }),
  };
  switch (body.type) {
    case "create": {
      const { ownerId, currency, initialBalance } = body;
      const given = {
        ...(ownerId !== null && { ownerId }),
        ...(initialBalance !== null && { initialBalance }),
      };
      return { type: body.type, ...whose, currency, ...given };
    }
    case "credit":
      return { type: body.kind === "FUND" ? "fund" : "credit", ...whose, amount: body.amount };
    case "debit":
      return { type: body.type, ...whose, amount: body.amount };
    case "transfer":
      return { type: body.type, ...whose, amount: body.amount, toWalletId: body.toWalletId };
    case "hold":
      return { type: body.type, ...whose, amount: body.amount, holdType: body.kind };
    case "capture": {
      const { holdId, amount, final, to } = body;
      const given = {
        ...(amount !== null && { amount }),
        ...(to !== null && { toWalletId: to.walletId }),
      };
      return { type: body.type, ...whose, holdId, final, ...given };
    }
    case "release":
      return { type: body.type, ...whose, holdId: body.holdId };
    case "update":
      return { type: body.type, ...whose, metadata: JSON.parse(body.patch) as object };
    case "suspend":
    case "activate":
    case "close":
      return { type: body.type, ...whose };
    default:
      return body satisfies never;
  }
}

// --- Their order ---------------------------------------------------------------------------------

/** What `outOfOrder` goes by. */
export type Carried = Pick<Passenger, "command" | "submissions" | "outcome">;

/** A place that a command of the batch has in the history of a wallet. */
interface Step {
  readonly commandId: string;
  readonly version: number;
  readonly side: Side;
}

type Side = "own" | "out" | "into";

/**
 * Transfers out of a wallet may change places, so may those into it, and one into it may overtake
 * one out of it.
 */
function mustPrecede(before: Side, after: Side): boolean {
  return before !== after ? before !== "out" || after !== "into" : before === "own";
}

/**
 * Which of them were carried out before another that stood before them, though each was sent once.
 */
export function outOfOrder(
  passengers: readonly Carried[],
  wasResent: (command: Command) => boolean,
): string[] {
  const problems: string[] = [];
  const latest = new Map<string, Step[]>();
  for (const { command, submissions, outcome } of passengers) {
    if (submissions !== 1 || outcome === null || wasResent(command)) continue;
    for (const [walletId, step] of stepsOf(command, outcome)) {
      const before = latest.get(walletId) ?? [];
      const late = before.find(
        ({ version, side }) => version > step.version && mustPrecede(side, step.side),
      );
      if (late !== undefined) {
        problems.push(
          `in a batch ${step.commandId} made ${walletId}:${step.version}, and ${late.commandId} before it :${late.version}`,
        );
      }
      latest.set(walletId, [...before, step]);
    }
  }
  return problems;
}

function stepsOf({ commandId, body }: Command, outcome: Outcome): [string, Step][] {
  if (outcome.type === "done") {
    const { walletId, version } = outcome.wallet;
    return [[walletId, { commandId, version, side: "own" }]];
  }
  if (outcome.type !== "transferred" || outcome.replayed) return [];
  const { from, toVersion } = outcome.transfer;
  const out: Step = { commandId, version: from.version, side: "out" };
  const payeeId = payeeOf(body);
  if (payeeId === null || toVersion === null) return [[from.walletId, out]];
  return [
    [from.walletId, out],
    [payeeId, { commandId, version: toVersion, side: "into" }],
  ];
}
