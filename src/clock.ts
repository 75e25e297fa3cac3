/**
 * Two times. `nowMs` is what everything waits by: timers, deadlines, retries. It advances as fast
 * as time passes, whatever is done to the wall clock, and is the same in all threads of a process,
 * but not in two processes.
 * `wallMs` is what is written down and compared with what callers and other hosts have written:
 * when something happened, and when a hold expires. It follows the wall clock as that is set, also
 * back, so that a host whose clock was wrong is right as soon as its clock is; a wallet's own times
 * never go back, which `core/wallet.ts` sees to.
 */
import { getEnvironmentData, setEnvironmentData } from "node:worker_threads";

/** Threads inherit it from the thread that starts them. */
const ANCHOR = "coffer:clock";

const anchorMs = anchored();

/** Unix milliseconds at `monotonicMs` 0, by the wall clock as the process started. */
function anchored(): number {
  const inherited = getEnvironmentData(ANCHOR);
  if (typeof inherited === "number") return inherited;
  const first = Date.now() - monotonicMs();
  setEnvironmentData(ANCHOR, first);
  return first;
}

/**
 * Milliseconds that never go back, the same for all threads of a process, since some moment before
 * its start.
 */
export function monotonicMs(): number {
  const [seconds, nanoseconds] = process.hrtime();
  return seconds * 1e3 + nanoseconds / 1e6;
}

/**
 * Milliseconds, a whole number, never less than before in this process; since 1970 by the wall
 * clock as the process started.
 */
export function nowMs(): number {
  return Math.floor(anchorMs + monotonicMs());
}

/** Milliseconds since 1970 by the wall clock, a whole number; it may jump, also back. */
export function wallMs(): number {
  return Date.now();
}

/** The time port of everything that waits; a simulator brings its own. */
export interface Time {
  /** For waiting: milliseconds that never go back in one process, and pass as time does. */
  nowMs(): number;
  /** For what is written down: milliseconds since 1970, which jump when the clock is set. */
  wallMs(): number;
  /** Runs the task once, after the callback under way and those already waiting. */
  soon(task: () => void): void;
  /** Runs the task once after the delay, unless the returned function is called before. */
  after(delayMs: number, task: () => void): () => void;
  /** Runs the task every `intervalMs` until the returned function is called. */
  every(intervalMs: number, task: () => void): () => void;
}

export const systemTime: Time = {
  nowMs,
  wallMs,
  soon: (task) => void setImmediate(task),
  after(delayMs, task) {
    const timer = setTimeout(task, delayMs);
    return () => clearTimeout(timer);
  },
  every(intervalMs, task) {
    const timer = setInterval(task, intervalMs);
    return () => clearInterval(timer);
  },
};
