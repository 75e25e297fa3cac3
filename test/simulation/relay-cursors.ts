/**
 * The relay's cursors as a simulated database keeps them. PostgreSQL saves them without waiting for
 * the disk, so a database that goes away takes the latest ones back.
 */
import type { Cursor } from "../../src/core/relay-store.ts";

/** Three times PostgreSQL's `wal_writer_delay`, milliseconds: what is older is on the disk. */
export const UNFLUSHED_MS = 600;

/** A cursor, and what a crash of the database would leave of it. */
export interface StoredCursor {
  readonly cursor: Cursor;
  readonly savedAtMs: number;
  readonly flushed: Cursor;
  /**
   * A crash took it back, and nothing has moved it since: its relay, which knows better, saves only
   * what it delivers next.
   */
  readonly isTakenBack: boolean;
}

/** What a crash of the database takes back. */
export function loseUnflushed(relayCursors: Map<string, StoredCursor>, nowMs: number): void {
  for (const [key, { flushed, savedAtMs }] of relayCursors) {
    if (nowMs - savedAtMs > UNFLUSHED_MS) continue;
    relayCursors.set(key, { cursor: flushed, savedAtMs, flushed, isTakenBack: true });
  }
}
