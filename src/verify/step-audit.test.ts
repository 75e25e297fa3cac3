import { expect, it } from "vitest";
import type { Found } from "./differences.ts";
import type { EventRow } from "../postgres/events.ts";
import { auditSteps, type Steps } from "./step-audit.ts";

const NONE: Steps = { events: [], rejected: [], transfers: [], completed: [], verdicts: [] };

type Event = Partial<EventRow> & Pick<EventRow, "walletId" | "version" | "occurredAtMs">;

function named(steps: { [K in keyof Steps]?: ReadonlyArray<Partial<Steps[K][number]>> }): string[] {
  const found: string[] = [];
  auditSteps({ ...NONE, ...steps } as Steps, ({ kind, walletId, version, field }: Found) => {
    found.push(
      [kind, `${walletId}:${version}`, ...((field ?? null) === null ? [] : [field])].join(" "),
    );
  });
  return found;
}

const event = (rest: Event): Partial<EventRow> => ({ transferId: null, commandId: null, ...rest });
const arrival = (occurredAtMs: number): Partial<EventRow> =>
  event({ walletId: "w", version: 2, type: "TransferReceived", transferId: "t", occurredAtMs });
const arrived = (decidedAtMs: number) => ({
  verdicts: [{ transferId: "t", toWalletId: "w", toVersion: 2, decidedAtMs }],
});

// A wallet's time stands still while the clock of its host is behind it, and the verdict's does not.
it.each<[what: string, before: Partial<EventRow>, decidedAtMs: number, expected: string[]]>([
  ["at the time of an event by the clock", event(at("w", 90)), 100, []],
  ["earlier than that", event(at("w", 90)), 99, ["transfer_received w:2 decided_at"]],
  ["later than that", event(at("w", 90)), 101, ["transfer_received w:2 decided_at"]],
  ["while the wallet's time stood still", event(at("w", 100)), 99, []],
  ["at that time", event(at("w", 100)), 100, []],
  ["later than that time", event(at("w", 100)), 101, ["transfer_received w:2 decided_at"]],
  ["behind another wallet's event, whose time says nothing", event(at("v", 90)), 99, []],
])("a verdict %s", (_what, before, decidedAtMs, expected) => {
  expect(named({ events: [before, arrival(100)], ...arrived(decidedAtMs) })).toEqual(expected);
});

function at(walletId: string, occurredAtMs: number): Event {
  return { walletId, version: 1, type: "WalletCredited", occurredAtMs };
}

it("a command id is rejected for its own wallet only", () => {
  const events = [event({ ...at("w", 1), commandId: "c" })];
  expect(named({ events, rejected: [{ walletId: "v", commandId: "c" }] })).toEqual([]);
  expect(named({ events, rejected: [{ walletId: "w", commandId: "c" }] })).toEqual([
    "command_rejected_too w:1 c",
  ]);
});
