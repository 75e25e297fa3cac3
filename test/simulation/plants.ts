/**
 * Bugs on purpose: what a run can be given, each of which has to be found. Some are in the simulated
 * database and the stream, which leave out a check; those here stand between two parts of the
 * product and break what one promises to the other.
 */
import type { StartLane } from "../../actors/lane-thread.ts";
import type { AppendResult, Journal } from "../../src/core/journal.ts";
import type { Reply } from "../../src/core/protocol.ts";
import { callerOf } from "./cluster.ts";
import type { Plants, SimulatedDatabase } from "./database.ts";
import type { Process, Scheduler } from "./scheduler.ts";

/**
 * Bugs that a run can be given, to show that it is found. The version key is none of them: behind
 * the fence it changes nothing.
 */
export const PLANTS = [
  "noDurableVerdict",
  "noDurableCommand",
  "noDurableHold",
  "noEpochCheck",
  "noBehindCheck",
  "lookupOutsideTransaction",
  /** A commit is reported before it is one. */
  "replyBeforeCommit",
  /** The relay saves its cursor behind what is published and not acknowledged. */
  "cursorBeforeAck",
  /** Who is refused hears of it late. */
  "rejectionLate",
] as const;

export type Plant = (typeof PLANTS)[number];

/** Those that are the database's. */
export function plantsOf(plant: Plant | undefined): Plants {
  switch (plant) {
    case "noDurableVerdict":
    case "noDurableCommand":
    case "noDurableHold":
    case "noEpochCheck":
    case "noBehindCheck":
    case "lookupOutsideTransaction":
      return { [plant]: true };
    case "replyBeforeCommit":
    case "cursorBeforeAck":
    case "rejectionLate":
    case undefined:
      return {};
    default:
      return plant satisfies never;
  }
}

/** Says "committed" at once and writes a moment later, or never when the lane ends before. */
export function replyBeforeCommit(journal: Journal, thread: Process): Journal {
  let last: Promise<unknown> = Promise.resolve();
  return {
    ...journal,
    append(writes) {
      const copy = structuredClone(writes);
      const before = last;
      last = new Promise<void>((resolve) => {
        thread.after(5, "written late", () => {
          void before.then(() => journal.append(copy)).then(() => resolve());
        });
      });
      return Promise.resolve<AppendResult>({ type: "committed" });
    },
  };
}

/**
 * Claims without waiting for what is under way. By itself the version key and the look-up in the
 * transaction stand behind it, as they should: so it comes with the plant that takes the look-up
 * out of the transaction.
 */
export function claimAtOnce(
  journal: Journal,
  thread: Process,
  database: SimulatedDatabase,
): Journal {
  return {
    ...journal,
    claim: (owner, shards) =>
      database.ask(callerOf(thread), "take shards", (tables, nowMs) => {
        const claimed = new Map<number, number>();
        for (const shard of shards) {
          const row = tables.shards[shard]!;
          if (row.owner !== owner) continue;
          const epoch = row.epoch + 1;
          tables.shards[shard] = { shard, owner, epoch, claimedAtMs: nowMs };
          claimed.set(shard, epoch);
        }
        return claimed;
      }),
  };
}

/** Rejections leave a lane a second late: what its callers see of it is only that. */
export function withLateRejections(start: StartLane, scheduler: Scheduler): StartLane {
  return (plan, listener) => {
    const thread = start(plan, listener);
    return {
      ...thread,
      async run(task) {
        const result = await thread.run(task);
        const { effects } = result;
        if (effects === null) return result;
        const [late, inTime] = split(effects.replies, ({ outcome }) => outcome.type === "rejected");
        if (late.length === 0) return result;
        scheduler.after(1_000, "late rejections", () => {
          const nothing = { messages: [], changes: [], lost: [] };
          listener.notice({ type: "effects", effects: { ...nothing, replies: late } });
        });
        return { ...result, effects: { ...effects, replies: inTime } };
      },
    };
  };
}

function split(replies: readonly Reply[], isLate: (reply: Reply) => boolean): [Reply[], Reply[]] {
  return [replies.filter(isLate), replies.filter((reply) => !isLate(reply))];
}
