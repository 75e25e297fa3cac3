/**
 * The audit of the relay after a run: the stream has every committed event at least once and
 * nothing else, each wallet's in the order of its versions when repeats are left out, an event that
 * came again came with the same body; and no cursor was ever ahead of it.
 */
import type { ShardPosition } from "../../src/core/relay-store.ts";
import type { SimulatedDatabase } from "./database.ts";
import type { Stream } from "./stream.ts";
import { lastPositionOf } from "./tables.ts";

type Databases = readonly Pick<SimulatedDatabase, "tables">[];

/** What is not in the stream of the events that a cursor has behind it; null when nothing. */
export function aheadOf(
  { tables: { eventsOfShard } }: Pick<SimulatedDatabase, "tables">,
  { shard, position }: ShardPosition,
  stream: Pick<Stream, "has">,
): string | null {
  const events = eventsOfShard.get(shard) ?? [];
  const missing = events.find((event) => event.position <= position && !stream.has(event));
  if (missing === undefined) return null;
  const { walletId, version } = missing;
  return `the cursor of shard ${shard} is at ${position}, and ${walletId}:${version} is not in the stream`;
}

/** What the relay has still to do, now that nothing new happens. */
export function relayUnrest(databases: Databases, stream: Pick<Stream, "has">): string[] {
  return databases.flatMap(({ tables }) =>
    [...tables.eventsOfShard].flatMap(([shard, events]) => {
      const last = lastPositionOf(tables, shard);
      const { cursor, isTakenBack = false } = tables.relayCursors.get(`stream ${shard}`) ?? {};
      const position = cursor?.position ?? 0;
      const isDone = isTakenBack ? stream.has(events.at(-1)!) : position === last;
      return isDone ? [] : [`the relay of shard ${shard} is at ${position} of ${last}`];
    }),
  );
}

export function checkRelay(
  databases: Databases,
  stream: Pick<Stream, "messages" | "has">,
): string[] {
  const problems: string[] = [];
  for (const database of databases) {
    const { tables } = database;
    for (const event of tables.events) {
      const { walletId, version } = event;
      if (!stream.has(event)) problems.push(`${walletId}:${version} never came to the stream`);
    }
    for (const { cursor } of tables.relayCursors.values()) {
      const ahead = aheadOf(database, cursor, stream);
      if (ahead !== null) problems.push(ahead);
    }
  }
  const written = new Set(
    databases.flatMap(({ tables }) => [...tables.byVersion.keys()].map(String)),
  );
  const texts = new Map<string, string>();
  const latest = new Map<string, number>();
  for (const { id, walletId, version, text } of stream.messages) {
    if (!written.has(`${walletId} ${version}`)) problems.push(`${id} is in the stream only`);
    const first = texts.get(id);
    if (first !== undefined) {
      if (first !== text) problems.push(`${id} came again, with another body`);
      continue;
    }
    texts.set(id, text);
    const before = latest.get(walletId) ?? -1;
    if (version !== before + 1) problems.push(`${id} came to the stream after ${before}`);
    latest.set(walletId, version);
  }
  return problems;
}
