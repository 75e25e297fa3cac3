/**
 * A relay of events in the order of their commits, as a projection or the event stream needs it: it reads a database again and again,
 * from where it was, and must see every event exactly once, each wallet's in order. Rows get their positions before they
 * commit, so a later position may be there first: the right way is by transaction, below the oldest one that is still under way.
 */
import type { EventRow, SimulatedDatabase } from "./database.ts";
import type { Random } from "./random.ts";
import type { Scheduler } from "./scheduler.ts";

export interface Relay {
  /** What is wrong with what it saw, now that nothing is under way. */
  problems(): string[];
}

/** Longest pause between two looks, in milliseconds. */
const LOOK_MS_MAX = 30;

export function startRelay(
  scheduler: Scheduler,
  random: Random,
  database: SimulatedDatabase,
  isByPosition: boolean,
): Relay {
  const seen: EventRow[] = [];
  let lastPosition = 0;
  let lastXid = 0;
  /** Rows of `tables.events`, which is in the order of commits, that are behind it. */
  let passed = 0;
  const waiting: EventRow[] = [];

  function lookByPosition(): void {
    const { events } = database.tables;
    if (events.length === passed) return;
    passed = events.length;
    for (const row of database.readEvents(lastPosition)) {
      seen.push(row);
      lastPosition = row.position;
    }
  }

  function lookByTransaction(): void {
    const { events } = database.tables;
    for (; passed < events.length; passed++) waiting.push(events[passed]!);
    const xmin = database.snapshotXmin();
    const ready = waiting.filter(({ xid }) => xid < xmin);
    if (ready.length === 0) return;
    waiting.splice(0, waiting.length, ...waiting.filter(({ xid }) => xid >= xmin));
    ready.sort((one, other) => one.xid - other.xid || one.position - other.position);
    // By its own cursor, as the query does it: what is not beyond it would never be read.
    seen.push(...ready.filter(({ xid }) => xid > lastXid));
    lastXid = ready.at(-1)!.xid;
  }

  function look(): void {
    if (!database.isAway) {
      if (isByPosition) lookByPosition();
      else lookByTransaction();
    }
    scheduler.after(random.between(1, LOOK_MS_MAX), "relay", look);
  }
  scheduler.after(0, "relay", look);

  return {
    problems() {
      const problems: string[] = [];
      const { events } = database.tables;
      const told = new Set(seen);
      for (const row of events) {
        if (!told.has(row)) {
          problems.push(`the relay of ${database.name} missed ${row.walletId}:${row.version}`);
        }
      }
      if (seen.length > told.size) problems.push(`the relay told ${seen.length - told.size} twice`);
      const versions = new Map<string, number>();
      for (const { walletId, version } of seen) {
        if (version < (versions.get(walletId) ?? -1)) {
          problems.push(`the relay told ${walletId}:${version} too late`);
        }
        versions.set(walletId, version);
      }
      return problems;
    },
  };
}
