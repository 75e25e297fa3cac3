/**
 * A command desk whose traced commands get a span of their own, from the desk to the answer: what
 * is in there and not in the lane's spans is the bus. Commands that are not traced pass through as
 * they are.
 */
import type { Command, Outcome } from "../src/core/protocol.ts";
import type { OpenSpan, Tracing } from "../src/telemetry/tracing.ts";
import type { CommandDesk } from "./commands.ts";

export function traceCommands(desk: CommandDesk, tracing: Tracing): CommandDesk {
  async function submit(command: Command): Promise<Outcome> {
    const { walletId, commandId, correlationId, body } = command;
    const span = tracing.begin("client", `command ${body.type}`, command.traceparent, {
      "coffer.wallet.id": walletId,
      "coffer.command.id": commandId,
      "coffer.correlation.id": correlationId,
    });
    if (span === null) return desk.submit(command);
    const outcome = await desk.submit({ ...command, traceparent: span.traceparent });
    end(span, outcome);
    return outcome;
  }

  return {
    submit: (command) =>
      command.traceparent === undefined ? desk.submit(command) : submit(command),
    get pending() {
      return desk.pending;
    },
    drain: () => desk.drain(),
  };
}

/** A rejection is an answer; only a fault is a failure. */
function end(span: OpenSpan, outcome: Outcome): void {
  const attributes = { "coffer.outcome": outcome.type };
  if (outcome.type === "rejected") {
    span.end({ ...attributes, "coffer.rejection": outcome.rejection.code });
  } else if (outcome.type === "fault") {
    span.end({ ...attributes, "coffer.fault": outcome.fault }, outcome.fault);
  } else span.end(attributes);
}
