/**
 * The time that lanes and hosts go by: the wall clock, except that it never goes back. When the wall clock is set back by more than
 * a moment, this one runs on from where it was, so that timers, deadlines and retries go on; small corrections are
 * absorbed by standing still.
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
