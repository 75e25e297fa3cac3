/**
 * What the clients of a run saw: every command they sent, every answer they got, every frame of
 * their feeds, each with its moment. Moments are counted besides being timed, since in virtual time
 * much happens within one millisecond: of two things that one client saw, the one with the lower
 * order came first. Nothing in here knows the cluster; `books.ts` judges by it.
 */
import type { Command, Outcome } from "../../src/core/protocol.ts";
import type { BalanceFrame as FeedBalanceFrame, ServerFrame } from "../stage/feed-world.ts";
import { copied } from "./copy.ts";

export interface Moment {
  readonly atMs: number;
  /** Counts everything recorded in the run, from 0. */
  readonly order: number;
}

export interface Answer extends Moment {
  readonly outcome: Outcome;
  /**
   * The answer as the caller gets it, read back where a repeat needs that; null when nobody made
   * it. All repeats must be equal.
   */
  readonly body: string | null;
}

/** One command of one caller, with all its repeats: they are the same command under the same id. */
export interface HistoryEntry {
  readonly command: Command;
  /** When it was sent first. */
  readonly sent: Moment;
  /** In the order in which they came. */
  readonly answers: readonly Answer[];
}

/** A `balance` frame as the client reads it; amounts are decimal. */
export type BalanceFrame = FeedBalanceFrame & { readonly held: number; readonly status: string };

/** One wallet in the stream of one connection, from its subscription to its end. */
export interface FeedRecord {
  readonly subscriber: string;
  readonly walletId: string;
  /** The version that the client said it had, or null. */
  readonly from: number | null;
  readonly frames: readonly (Moment & { readonly frame: BalanceFrame })[];
  /**
   * Until it is closed it must get everything; when the run ends it has the wallet's last version.
   */
  readonly isOpen: boolean;
}

export interface History {
  readonly entries: readonly HistoryEntry[];
  readonly feeds: readonly FeedRecord[];
}

export interface Recorder extends History {
  /** A command goes out for the first time. */
  sent(command: Command): HistoryEntry;
  answered(entry: HistoryEntry, outcome: Outcome, body?: string | null): void;
  /** A connection begins to watch a wallet; one that watched it already begins anew. */
  watched(subscriber: string, walletId: string, from?: number | null): void;
  /**
   * A text frame came; returns it as read. Those that are not balances are left out. A wallet that
   * comes by its owner needs no `watched`.
   */
  framed(
    subscriber: string,
    text: string,
  ): BalanceFrame | Exclude<ServerFrame, { type: "balance" }>;
  /** The connection is gone, or watches this wallet no longer. */
  unwatched(subscriber: string, walletId?: string): void;
}

type Writable<T> = { -readonly [K in keyof T]: T[K] };

export function buildRecorder(nowMs: () => number): Recorder {
  const entries: HistoryEntry[] = [];
  const feeds: Writable<FeedRecord>[] = [];
  /** Open ones by subscriber, by wallet. */
  const open = new Map<string, Map<string, Writable<FeedRecord>>>();
  let happenings = 0;

  function moment(): Moment {
    const order = happenings;
    happenings += 1;
    return { atMs: nowMs(), order };
  }

  function close(subscriber: string, walletId: string): void {
    const record = open.get(subscriber)?.get(walletId);
    if (record === undefined) return;
    record.isOpen = false;
    open.get(subscriber)!.delete(walletId);
  }

  function watch(subscriber: string, walletId: string, from: number | null): Writable<FeedRecord> {
    close(subscriber, walletId);
    const record = { subscriber, walletId, from, frames: [], isOpen: true };
    feeds.push(record);
    const wallets = open.get(subscriber) ?? new Map<string, Writable<FeedRecord>>();
    open.set(subscriber, wallets.set(walletId, record));
    return record;
  }

  return {
    entries,
    feeds,
    sent(command) {
      const entry: HistoryEntry = { command, sent: moment(), answers: [] };
      entries.push(entry);
      return entry;
    },
    answered(entry, outcome, body = null) {
      (entry.answers as Answer[]).push({ ...moment(), outcome: copied(outcome), body });
    },
    watched(subscriber, walletId, from = null) {
      watch(subscriber, walletId, from);
    },
    framed(subscriber, text) {
      const frame = JSON.parse(text) as BalanceFrame | Exclude<ServerFrame, { type: "balance" }>;
      // The hub watches no longer what does not exist.
      if (frame.type === "error" && frame.code === "wallet_not_found") {
        close(subscriber, frame.walletId ?? "");
      }
      if (frame.type !== "balance") return frame;
      const { walletId } = frame;
      const record = open.get(subscriber)?.get(walletId) ?? watch(subscriber, walletId, null);
      (record.frames as (Moment & { frame: BalanceFrame })[]).push({ ...moment(), frame });
      return frame;
    },
    unwatched(subscriber, walletId) {
      const walletIds =
        walletId === undefined ? [...(open.get(subscriber)?.keys() ?? [])] : [walletId];
      for (const each of walletIds) close(subscriber, each);
    },
  };
}
