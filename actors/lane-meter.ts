/**
 * The stopwatch of a lane: a journal around the journal that takes the time of commits and reads,
 * and a note of when each command arrived. It stands beside the lane, which has no clock, and runs
 * on the lane's thread, so that the main thread gets sums with every tick instead of a message per
 * command. A note lives as long as the batch that brought it, and a transfer's until its commit or
 * its deadline, so notes are bounded like what is under way.
 */
import type { AppendResult, Journal, Writes } from "../src/core/journal.ts";
import { LIMITS } from "../src/limits.ts";
import { monotonicMs } from "../src/clock.ts";
import {
  newTally,
  observe,
  SECONDS,
  SIZES,
  type CommitTrace,
  type LaneMeasures,
  type Tally,
} from "../src/telemetry/measures.ts";
import type { Command } from "../src/core/protocol.ts";
import { buildTransitMap } from "../src/transit-map.ts";
import { payeeOf } from "../src/core/wallet.ts";
import type { Arrival } from "./lane-thread.ts";

export interface LaneMeter {
  /** The same journal, with its time taken. */
  readonly journal: Journal;
  /** Notes when the commands of a batch arrived. */
  arrived(arrivals: readonly Arrival[]): void;
  /** The batch is dealt with; what it left without a commit needs none. */
  dealt(arrivals: readonly Arrival[]): void;
  /** What was measured since the last call. */
  take(): LaneMeasures;
}

interface Note {
  readonly arrivedAtMs: number;
  readonly command: Command;
}

type Measuring = {
  -readonly [name in keyof LaneMeasures]: LaneMeasures[name];
} & {
  readonly commits: { [result in AppendResult["type"]]?: Tally };
  readonly traces: CommitTrace[];
};

function newMeasures(): Measuring {
  return {
    mailboxWait: newTally(SECONDS),
    commits: {},
    commitEvents: newTally(SIZES),
    recovery: newTally(SECONDS),
    walletsRecovered: 0,
    busyRatio: 0,
    traces: [],
  };
}

export function buildLaneMeter(journal: Journal): LaneMeter {
  /**
   * By command id; of two wallets with the same id the later one counts, which is rare and only
   * measured.
   */
  const notes = buildTransitMap<string, Note>();
  let measures = newMeasures();
  let commits = 0;
  let utilization = performance.eventLoopUtilization();

  /**
   * Notes of what a commit carries, taken right after the append was asked for: it need not wait
   * for that, and a batch may be dealt with before its commit is done.
   */
  function notesOf({ events, rejections }: Writes): Note[] {
    const carried: Note[] = [];
    for (const list of [events, rejections]) {
      for (const { commandId } of list) {
        const note = commandId === null ? undefined : notes.get(commandId);
        if (note !== undefined) carried.push(note);
      }
    }
    return carried;
  }

  function committed(
    carried: readonly Note[],
    { events: { length: events }, traced }: Writes,
    startedAtMs: number,
  ): void {
    commits += 1;
    observe(measures.commitEvents, SIZES, events);
    const endedAtMs = monotonicMs();
    for (const { arrivedAtMs, command } of carried) {
      const { traceparent, walletId, commandId } = command;
      notes.delete(commandId);
      observe(measures.mailboxWait, SECONDS, Math.max(0, startedAtMs - arrivedAtMs) / 1e3);
      if (traceparent === undefined || measures.traces.length >= LIMITS.laneTracesMax) continue;
      const times = { arrivedAtMs, startedAtMs, endedAtMs };
      measures.traces.push({ traceparent, walletId, commandId, ...times, commit: commits, events });
    }
    for (const step of traced ?? []) {
      if (measures.traces.length >= LIMITS.laneTracesMax) return;
      const times = { arrivedAtMs: null, startedAtMs, endedAtMs };
      measures.traces.push({ ...step, ...times, commit: commits, events });
    }
  }

  /** Notes of transfers that came to nothing; they are older at the front. */
  function forgetOld(): void {
    const bornBeforeMs = monotonicMs() - LIMITS.commandDeadlineMs;
    for (const [commandId, { arrivedAtMs }] of notes) {
      if (arrivedAtMs > bornBeforeMs) break;
      notes.delete(commandId);
    }
  }

  return {
    journal: {
      ...journal,
      async loadWallets(walletIds) {
        const startedAtMs = monotonicMs();
        const wallets = await journal.loadWallets(walletIds);
        observe(measures.recovery, SECONDS, (monotonicMs() - startedAtMs) / 1e3);
        measures.walletsRecovered += walletIds.length;
        return wallets;
      },
      async append(writes) {
        const startedAtMs = monotonicMs();
        const answer = journal.append(writes);
        const carried = notesOf(writes);
        const result = await answer;
        const tally = (measures.commits[result.type] ??= newTally(SECONDS));
        observe(tally, SECONDS, (monotonicMs() - startedAtMs) / 1e3);
        if (result.type === "committed") committed(carried, writes, startedAtMs);
        return result;
      },
    },

    arrived(arrivals) {
      for (const { arrivedAtMs, messages } of arrivals) {
        if (arrivedAtMs === undefined) continue;
        for (const message of messages) {
          if (message.type !== "command") continue;
          const { command } = message;
          notes.set(command.commandId, { arrivedAtMs, command });
        }
      }
    },

    dealt(arrivals) {
      for (const { messages } of arrivals) {
        for (const message of messages) {
          if (message.type !== "command") continue;
          const { commandId, body } = message.command;
          // A transfer has only asked the payee by now.
          if (payeeOf(body) === null) notes.delete(commandId);
        }
      }
    },

    take() {
      forgetOld();
      const taken = measures;
      measures = newMeasures();
      const latest = performance.eventLoopUtilization();
      taken.busyRatio = performance.eventLoopUtilization(latest, utilization).utilization;
      utilization = latest;
      return taken;
    },
  };
}
