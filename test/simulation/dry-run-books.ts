/**
 * The audit of dry runs: nothing in the books has an id of one, and what it was told would have
 * been so, at a moment no earlier than what had been told before it was asked. Returns sentences;
 * none is best.
 */
import { toMinor } from "../../src/core/amount.ts";
import type { WalletCommand, WalletState } from "../../src/core/wallet.ts";
import type { EventRow, SimulatedDatabase } from "./database.ts";
import type { History, HistoryEntry } from "./history.ts";
import { withFloors } from "./rejections.ts";

type Databases = readonly Pick<SimulatedDatabase, "tables">[];

export function checkDryRuns(databases: Databases, { entries }: History): string[] {
  const eventsOf = new Map(databases.flatMap(({ tables }) => [...tables.eventsOf]));
  const problems = tracesOf(databases, entries);
  withFloors(entries, (entry, told) => {
    if (entry.command.dryRun === true) problems.push(...problemsOf(entry, eventsOf, told));
  });
  return problems;
}

/** Its ids may be nowhere; those of a hold that it names are not its own. */
function tracesOf(databases: Databases, entries: History["entries"]): string[] {
  const ids = new Set(
    entries.flatMap(({ command: { commandId, body, dryRun } }) =>
      dryRun === true ? [commandId, ...ownIds(body)] : [],
    ),
  );
  if (ids.size === 0) return [];
  const problems: string[] = [];
  const look = (id: string | null | undefined): void => {
    if (id !== null && id !== undefined && ids.has(id)) {
      problems.push(`a dry run has left a trace: ${id}`);
    }
  };
  for (const { tables } of databases) {
    for (const { commandId, causationId, correlationId, transferId, data } of tables.events) {
      look(commandId);
      look(causationId);
      look(correlationId);
      look(transferId);
      look((data?.["hold"] as { holdId: string } | undefined)?.holdId);
    }
    for (const { commandId } of tables.rejections.values()) look(commandId);
    for (const { transferId, commandId } of tables.transfers.values()) {
      look(transferId);
      look(commandId);
    }
    for (const transferId of tables.verdicts.keys()) look(transferId);
    for (const { holdId } of tables.holds.values()) look(holdId);
  }
  return problems;
}

function ownIds(body: WalletCommand): string[] {
  if (body.type === "transfer") return [body.transferId];
  if (body.type === "hold") return [body.holdId];
  return body.type === "capture" && body.to !== null ? [body.to.transferId] : [];
}

function problemsOf(
  { command, answers }: HistoryEntry,
  eventsOf: ReadonlyMap<string, readonly EventRow[]>,
  told: ReadonlyMap<string, number>,
): string[] {
  const { commandId, body } = command;
  /** Whether this is the wallet one step behind a state that it had, with so much more. */
  function isNext({ walletId, version, balanceMinor }: WalletState, minor: number | null): boolean {
    const base = version - (body.type === "create" || isFirstUse(body, version) ? version + 1 : 1);
    const before = eventsOf.get(walletId)?.[base];
    if (base < (told.get(walletId) ?? -1) || (base >= 0 && before === undefined)) return false;
    return minor === null || balanceMinor === (before?.balanceMinor ?? 0) + minor;
  }
  return answers.flatMap(({ outcome }) => {
    let isTrue = true;
    if (outcome.type === "replayed") isTrue = false;
    if (outcome.type === "done") {
      const { wallet } = outcome;
      isTrue = isNext(wallet, changeOf(body, wallet));
    }
    if (outcome.type === "transferred") {
      const { transfer, replayed } = outcome;
      const { from, to, status } = transfer;
      const change = changeOf(body, from);
      const isPaid = to !== null && isNext(to, change === null ? null : -change);
      isTrue = !replayed && status === "posted" && isNext(from, change) && isPaid;
    }
    return isTrue ? [] : [`${commandId} was told what would not be: ${JSON.stringify(outcome)}`];
  });
}

/** A wallet that the command would make itself. */
function isFirstUse(body: WalletCommand, version: number): boolean {
  return body.type === "credit" && body.of !== undefined && version === 1;
}

/** What it would do to the balance, in minor units; null where that is not in the command. */
function changeOf(body: WalletCommand, { decimalPlaces }: WalletState): number | null {
  const minorOf = (amount: string): number => {
    const parsed = toMinor(amount, decimalPlaces);
    return parsed.ok ? parsed.minor : Number.NaN;
  };
  switch (body.type) {
    case "create":
      return body.initialBalance === null ? 0 : minorOf(body.initialBalance);
    case "credit":
      return minorOf(body.amount);
    case "debit":
    case "transfer":
      return -minorOf(body.amount);
    case "capture":
      return body.amount === null ? null : -minorOf(body.amount);
    case "hold":
    case "release":
    case "update":
    case "suspend":
    case "activate":
    case "close":
      return 0;
    default:
      return body satisfies never;
  }
}
