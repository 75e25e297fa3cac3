/**
 * The thread port without threads: real lanes, each a thread of its host's simulated process. Tasks
 * and effects are copied on their way as between threads and take a moment, in order. A thread can
 * end at any moment; then what it was asked fails, nothing of it is heard any more, and an empty
 * one takes its place, as Piscina does it.
 */
import { buildLane, type Lane } from "../../actors/lane.ts";
import {
  stamped,
  type LaneListener,
  type LanePlan,
  type LaneResult,
  type LaneTask,
  type LaneThread,
  type StartLane,
} from "../../actors/lane-thread.ts";
import type { Journal } from "../../src/core/journal.ts";
import { copied } from "./copy.ts";
import type { Random } from "./random.ts";
import type { Process, Scheduler } from "./scheduler.ts";

export interface LanesDeps {
  readonly scheduler: Scheduler;
  /** The host's. */
  readonly process: Process;
  readonly random: Random;
  /** `LaneDeps.shortcut`. */
  readonly shortcut: boolean;
  /** `LaneDeps.commitBehindMessagesMin`. */
  readonly commitBehindMessagesMin: number;
  /** A journal of its own for each thread. */
  readonly openJournal: (plan: LanePlan, thread: Process) => Journal;
  /** An invariant broke in a lane, and its thread ends. */
  readonly onCrash: (error: unknown, thread: Process) => void;
}

export interface SimulatedLanes {
  readonly start: StartLane;
  /** Ends the thread of one lane; no matter which while there are none. */
  killOne(): void;
}

/** One way between two threads; and how long a new thread takes to begin. In milliseconds. */
const CROSSING_MS = [0.02, 0.2] as const;
const START_MS = [20, 150] as const;

interface Running {
  readonly thread: Process;
  readonly lane: Lane;
  readonly journal: Journal;
}

interface Waiting {
  readonly reject: (error: Error) => void;
}

export function buildLanes(deps: LanesDeps): SimulatedLanes {
  const { scheduler, process, random } = deps;
  const ends = new Set<() => void>();

  function start(plan: LanePlan, listener: LaneListener): LaneThread {
    const waiting = new Set<Waiting>();
    let running: Running;
    let incarnation = 0;
    let isEnding = false;
    /** When the latest message arrives, each way: none overtakes another. */
    let lastInMs = 0;
    let lastOutMs = 0;

    function begin(startMs: number): void {
      incarnation += 1;
      const thread = process.thread(`${plan.name}.${incarnation}`);
      const journal = deps.openJournal(plan, thread);
      const lane = buildLane({
        journal,
        owner: plan.owner,
        shortcut: deps.shortcut,
        commitBehindMessagesMin: deps.commitBehindMessagesMin,
        emit: (effects) => {
          const copy = copied(effects);
          out(thread, () => listener.notice({ type: "effects", effects: copy }));
        },
        log: (level, text) => {
          thread.trace(`${level}: ${text}`);
          // Nobody changes rows from outside here, so what a lane takes for damage is a bug.
          if (level === "error") deps.onCrash(new Error(text), thread);
          out(thread, () => listener.notice({ type: "log", level, text }));
        },
        crash: (error) => {
          deps.onCrash(error, thread);
          end(String(error));
        },
      });
      running = { thread, lane, journal };
      lastInMs = scheduler.nowMs + startMs;
    }

    /** To the main thread. What a thread sent before its end still arrives, as with ports. */
    function out(from: Process, task: () => void): void {
      if (!from.isAlive) return;
      lastOutMs = Math.max(scheduler.nowMs + random.between(...CROSSING_MS), lastOutMs);
      process.at(lastOutMs, "from a lane", task);
    }

    function end(reason: string): void {
      const { thread } = running;
      if (!thread.isAlive) return;
      thread.trace(`the thread ends: ${reason}`);
      thread.kill();
      const error = new Error(`the thread of ${plan.name} ended: ${reason}`);
      const failed = [...waiting];
      waiting.clear();
      begin(random.between(...START_MS));
      lastOutMs = Math.max(scheduler.nowMs + random.between(...CROSSING_MS), lastOutMs);
      process.at(lastOutMs, "thread ended", () => {
        if (isEnding) return;
        listener.lost(error.message, true);
        for (const { reject } of failed) reject(error);
      });
    }

    begin(0);
    const killThis = (): void => end("killed");
    ends.add(killThis);
    return {
      run(task) {
        return new Promise((resolve, reject) => {
          const mine: Waiting = { reject };
          waiting.add(mine);
          const copy = copied(task);
          const { thread } = running;
          lastInMs = Math.max(scheduler.nowMs + random.between(...CROSSING_MS), lastInMs);
          thread.at(lastInMs, task.type, () => {
            const { lane, journal } = running;
            perform(lane, journal, copy, thread).then(
              (result) => {
                if (!thread.isAlive) return;
                const answer = copied(result);
                out(thread, () => {
                  if (waiting.delete(mine)) resolve(answer);
                });
              },
              (error: unknown) => {
                deps.onCrash(error, thread);
                end(String(error));
              },
            );
          });
        });
      },
      destroy() {
        isEnding = true;
        ends.delete(killThis);
        running.thread.kill();
        return Promise.resolve();
      },
    };
  }

  return {
    start,
    killOne() {
      if (ends.size > 0) random.pick([...ends])();
    },
  };
}

/** What `actors/lane-worker.ts` does with a task. */
async function perform(
  lane: Lane,
  journal: Journal,
  task: LaneTask,
  { time }: Process,
): Promise<LaneResult> {
  switch (task.type) {
    case "batch": {
      const arrived = stamped(task.arrivals);
      return { effects: await lane.receive(arrived, time.nowMs(), time.wallMs()), stats: null };
    }
    case "tick": {
      const effects = lane.tick(time.nowMs(), task.shards, time.wallMs());
      return { effects, stats: lane.stats() };
    }
    case "stop":
      await journal.close();
      return { effects: null, stats: null };
    default:
      return task satisfies never;
  }
}
