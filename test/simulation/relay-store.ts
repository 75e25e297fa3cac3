/**
 * What the relay asks of a simulated database, as `src/postgres/relay.ts` asks it of PostgreSQL.
 * A cursor that a crash has taken back (`relay-cursors.ts`) makes the relay repeat, and lose
 * nothing.
 */
import type { RelayEvent, RelayStore, ShardPosition } from "../../src/core/relay-store.ts";
import type { Caller, SimulatedDatabase } from "./database.ts";
import { UNFLUSHED_MS } from "./relay-cursors.ts";
import { lastPositionOf, type EventRow, type Tables } from "./tables.ts";

/** @param onSaved told of every cursor that a save has moved, when it is committed */
export function buildSimulatedRelayStore(
  { ask }: Pick<SimulatedDatabase, "ask">,
  caller: Caller,
  onSaved: (cursor: ShardPosition) => void,
): RelayStore {
  return {
    async cursors(sink, shards, begin) {
      if (begin) {
        await ask(caller, "relay", ({ relayCursors }, nowMs) => {
          for (const shard of shards) {
            const key = keyOf(sink, shard);
            if (relayCursors.has(key)) continue;
            const cursor = { shard, position: 0, trouble: null };
            relayCursors.set(key, {
              cursor,
              savedAtMs: nowMs,
              flushed: cursor,
              isTakenBack: false,
            });
          }
        });
      }
      return await ask(caller, "relay", ({ relayCursors }) =>
        shards
          .map((shard) => relayCursors.get(keyOf(sink, shard))?.cursor)
          .filter((cursor) => cursor !== undefined),
      );
    },
    read: (behind, rowsPerShard) =>
      ask(caller, "relay", (tables) =>
        behind.flatMap((place): RelayEvent[] =>
          eventsBehind(tables, place, rowsPerShard).map((event) => {
            const { decimalPlaces } = tables.wallets.get(event.walletId)!;
            return { ...event, decimalPlaces };
          }),
        ),
      ),
    lastPositions: (shards) =>
      ask(caller, "relay", (tables) =>
        shards
          .filter((shard) => tables.eventsOfShard.has(shard))
          .map((shard) => ({ shard, position: lastPositionOf(tables, shard) })),
      ),
    oldestBehind: (behind) =>
      ask(caller, "relay", (tables) => {
        const times = behind
          .flatMap((place) => eventsBehind(tables, place, 1))
          .map(({ occurredAtMs }) => occurredAtMs);
        return times.length === 0 ? null : Math.min(...times);
      }),
    save: (sink, cursors) =>
      ask(caller, "relay", ({ relayCursors }, nowMs) => {
        for (const cursor of cursors) {
          const key = keyOf(sink, cursor.shard);
          const before = relayCursors.get(key);
          if (before === undefined || before.cursor.position > cursor.position) continue;
          const isOnDisk = nowMs - before.savedAtMs > UNFLUSHED_MS;
          const flushed = isOnDisk ? before.cursor : before.flushed;
          relayCursors.set(key, { cursor, savedAtMs: nowMs, flushed, isTakenBack: false });
          onSaved(cursor);
        }
      }),
    close: () => Promise.resolve(),
  };
}

/** A sink's name has no space in it. */
function keyOf(sink: string, shard: number): string {
  return `${sink} ${shard}`;
}

/** In the order of their positions. */
function eventsBehind(
  { eventsOfShard }: Tables,
  { shard, position }: ShardPosition,
  limit: number,
): EventRow[] {
  const events = eventsOfShard.get(shard);
  if (events === undefined) return [];
  const last = events.findLastIndex((event) => event.position <= position);
  return events.slice(last + 1, last + 1 + limit);
}
