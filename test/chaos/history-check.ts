/**
 * Holds what feeds pushed and readers saw against the journal: every frame and every read is an
 * event that is there, nobody who asks later sees an older wallet than somebody was told of before,
 * and at the end each feed has everything.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { query } from "../cluster/local-cluster.ts";
import type { FeedRecorder } from "./feed-recorder.ts";

/** A change that the bus lost is found by the feed's own comparison with the database. */
const completeMsMax = 15_000;
const problemsMax = 10;

export interface ReadSample {
  readonly walletId: string;
  readonly version: number;
  readonly balance: number;
  readonly held: number;
  /** The highest version that a caller or a feed had been told of before the read was sent. */
  readonly floor: number;
}

interface EventRow {
  readonly wallet_id: string;
  readonly version: number;
  readonly type: string;
  readonly amount: number | null;
  readonly balance: number;
  readonly held: number;
}

/** Events by wallet and version. */
type Journal = ReadonlyMap<string, readonly EventRow[]>;

export async function checkObservers(
  databaseUrls: readonly string[],
  walletIds: readonly string[],
  feeds: readonly FeedRecorder[],
  reads: readonly ReadSample[],
): Promise<string[]> {
  const journal = await readJournal(databaseUrls, walletIds);
  const problems = [...(await checkComplete(journal, feeds)), ...checkReads(journal, reads)];
  for (const feed of feeds) problems.push(...feed.problems, ...checkFrames(journal, feed));
  return problems.slice(0, problemsMax);
}

async function readJournal(
  databaseUrls: readonly string[],
  walletIds: readonly string[],
): Promise<Journal> {
  const journal = new Map<string, EventRow[]>(walletIds.map((walletId) => [walletId, []]));
  for (const url of databaseUrls) {
    const rows = await query<EventRow>(
      url,
      `SELECT wallet_id, version::int4, type, amount::float8, balance::float8, held::float8
       FROM events WHERE wallet_id = ANY ($1) ORDER BY wallet_id, version`,
      [walletIds],
    );
    for (const row of rows) journal.get(row.wallet_id)!.push(row);
  }
  return journal;
}

/** Nothing is written any more, so every feed must reach the last version of each wallet. */
async function checkComplete(journal: Journal, feeds: readonly FeedRecorder[]): Promise<string[]> {
  const missing = (): string[] =>
    feeds.flatMap(({ name, last }) =>
      [...journal]
        .filter(([walletId, events]) => last(walletId) !== events.at(-1)?.version)
        .map(([id, events]) => `feed ${name}: ${id} ends at ${last(id)}, not ${events.length - 1}`),
    );
  const deadlineMs = performance.now() + completeMsMax;
  while (missing().length > 0 && performance.now() < deadlineMs) await sleep(50);
  return missing();
}

function checkFrames(journal: Journal, { name, frames }: FeedRecorder): string[] {
  const problems: string[] = [];
  for (const frame of frames) {
    const { walletId, version, balance, held, change } = frame;
    const event = journal.get(walletId)?.[version];
    const isEvent =
      event !== undefined &&
      event.version === version &&
      event.balance === Math.round(balance * 100) &&
      event.held === Math.round(held * 100) &&
      (change === null ||
        (change.type === event.type &&
          (event.amount ?? 0) === Math.round((change.amount ?? 0) * 100)));
    if (isEvent) continue;
    problems.push(`feed ${name}: ${JSON.stringify(frame)} is no ${JSON.stringify(event)}`);
  }
  return problems;
}

function checkReads(journal: Journal, reads: readonly ReadSample[]): string[] {
  const problems: string[] = [];
  for (const read of reads) {
    const { walletId, version, balance, held, floor } = read;
    const event = journal.get(walletId)?.[version];
    const isEvent =
      event?.balance === Math.round(balance * 100) && event.held === Math.round(held * 100);
    if (version >= floor && isEvent) continue;
    problems.push(`read ${JSON.stringify(read)}, there is ${JSON.stringify(event)}`);
  }
  return problems;
}
