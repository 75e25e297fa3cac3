/**
 * The time that lanes and hosts go by: the wall clock, except that it never goes back. When the
 * wall clock is set back by more than a moment, this one runs on from where it was, so that timers,
 * deadlines and retries go on; small corrections are absorbed by standing still.
 */

/** A wall clock that is set back by less than this stands still instead; milliseconds. */
const STEP_MS = 2_000;

let latestMs = 0;
let latestAt = 0;

/** Milliseconds since 1970, a whole number, never less than before in this thread. */
export function nowMs(): number {
  const wallMs = Date.now();
  const at = performance.now();
  const isSetBack = wallMs < latestMs - STEP_MS;
  const elapsedMs = Math.floor(at - latestAt);
  const next = isSetBack ? latestMs + elapsedMs : Math.max(latestMs, wallMs);
  // Standing still on the fraction of a millisecond keeps the remainder for the next call.
  if (next !== latestMs || !isSetBack) latestAt = at;
  latestMs = next;
  return latestMs;
}

/** The time port of everything that waits; a simulator brings its own. */
export interface Time {
  /** Milliseconds since the epoch that never go back in one process. */
  nowMs(): number;
  /** Runs the task once, after the callback under way and those already waiting. */
  soon(task: () => void): void;
  /** Runs the task once after the delay, unless the returned function is called before. */
  after(delayMs: number, task: () => void): () => void;
  /** Runs the task every `intervalMs` until the returned function is called. */
  every(intervalMs: number, task: () => void): () => void;
}

export const systemTime: Time = {
  nowMs,
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
