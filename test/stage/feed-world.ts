/**
 * A small world for the tests of the feed: wallets with their full history, committed at once and
 * readable as a read model, a clock whose timers run when a test says so, and clients that remember
 * every frame. The history is made by the real `src/core/wallet.ts`, so frames can be held
 * against what happened. The read model can be slow or away, and what it answers is the truth at some moment
 * while the read was under way, as with a database.
 */
import { setImmediate as nextTurn } from "node:timers/promises";

import { amountMinor } from "../../src/core/amount.ts";
import type { Change } from "../../src/core/protocol.ts";
import type { ReadModel, StoredEvent } from "../../src/core/read-model.ts";
import { apply, type WalletEvent, type WalletState } from "../../src/core/wallet.ts";
import type { FeedSink, FeedTimers } from "../../gateway/feed/feed.ts";

export interface World {
  /** Commits the wallet's next event: its creation, then credits of 0.01. */
  commit(walletId: string, options?: { ownerId?: string; description?: string }): Change;
  version(walletId: string): number;
  /** Loses all behind a version, as a failover to a standby that was behind does. */
  lose(walletId: string, version: number): void;
  /** The wallet right after a version. */
  at(walletId: string, version: number): WalletState;
  readonly readModel: Pick<ReadModel, "walletsById" | "walletIdsOfOwner" | "events">;
  /** Reads that were asked for, by kind. */
  readonly asked: { walletsById: number; walletIdsOfOwner: number; events: number };
  /**
   * How long a read takes, half before and half after the database looks; null: no virtual time at
   * all.
   */
  readDelayMs: number | null;
  isAway: boolean;
}

export interface VirtualTime {
  readonly clock: { nowMs(): number };
  readonly timers: FeedTimers;
  /** Runs what is due, in order, and lets the messages and promises of each moment settle. */
  readonly advance: (ms: number) => Promise<void>;
  /** Timers that are set. */
  readonly timersSet: () => number;
}

const SETTLE_TURNS = 4;

export function buildVirtualTime(): VirtualTime {
  let nowMs = Date.UTC(2026, 0, 1);
  let pending: { atMs: number; task: () => void }[] = [];
  const settle = async (): Promise<void> => {
    // A message needs a turn to be delivered, a read some promises: then nothing happens until time
    // goes on.
    for (let turn = 0; turn < SETTLE_TURNS; turn++) await nextTurn();
  };
  return {
    clock: { nowMs: () => nowMs },
    timers: {
      after(delayMs, task) {
        const timer = { atMs: nowMs + delayMs, task };
        pending.push(timer);
        return () => {
          pending = pending.filter((each) => each !== timer);
        };
      },
    },
    timersSet: () => pending.length,
    async advance(ms) {
      const endMs = nowMs + ms;
      await settle();
      for (;;) {
        const due = pending.filter(({ atMs }) => atMs <= endMs);
        const next = due.toSorted((a, b) => a.atMs - b.atMs)[0];
        if (next === undefined) break;
        pending = pending.filter((each) => each !== next);
        nowMs = Math.max(nowMs, next.atMs);
        next.task();
        await settle();
      }
      nowMs = endMs;
    },
  };
}

interface History {
  readonly states: WalletState[];
  readonly events: StoredEvent[];
}

function nextEvent(history: History | undefined, ownerId: string | null): WalletEvent {
  const occurredAtMs = Date.UTC(2026, 0, 1) + (history?.states.length ?? 0);
  return history === undefined
    ? {
        type: "WalletCreated",
        ownerId,
        currency: "USD",
        decimalPlaces: 2,
        metadata: "{}",
        occurredAtMs,
      }
    : { type: "WalletCredited", amountMinor: amountMinor(1), kind: "CREDIT", occurredAtMs };
}

function stored(state: WalletState, event: WalletEvent, description: string | null): StoredEvent {
  const { walletId, version, balanceMinor, heldMinor, status, updatedAtMs } = state;
  return {
    walletId,
    version,
    type: event.type,
    amountMinor: "amountMinor" in event ? event.amountMinor : null,
    balanceMinor,
    heldMinor,
    status,
    account: null,
    counterpartyId: null,
    transferId: null,
    commandId: null,
    correlationId: "",
    causationId: null,
    description,
    data: null,
    occurredAtMs: updatedAtMs,
  };
}

export function buildWorld(timers?: FeedTimers): World {
  const histories = new Map<string, History>();
  const asked = { walletsById: 0, walletIdsOfOwner: 0, events: 0 };
  const half = (): Promise<void> =>
    world.readDelayMs === null || timers === undefined
      ? Promise.resolve()
      : new Promise((resolve) => {
          timers.after(world.readDelayMs! / 2, resolve);
        });
  const read = async <T>(kind: keyof typeof asked, look: () => T): Promise<T> => {
    asked[kind]++;
    await half();
    if (world.isAway) throw new Error("the database is away");
    const result = look();
    await half();
    return result;
  };
  const world: World = {
    readDelayMs: null,
    isAway: false,
    asked,
    commit(walletId, options = {}) {
      const { ownerId = null, description = null } = options;
      const history = histories.get(walletId);
      const event = nextEvent(history, ownerId);
      const wallet = apply(walletId, history?.states.at(-1) ?? null, event);
      const storedEvent = stored(wallet, event, description);
      if (history === undefined) {
        histories.set(walletId, { states: [wallet], events: [storedEvent] });
      } else {
        history.states.push(wallet);
        history.events.push(storedEvent);
      }
      const { type, amountMinor: amount } = storedEvent;
      return { wallet, type, amountMinor: amount, description };
    },
    version: (walletId) => (histories.get(walletId)?.states.length ?? 0) - 1,
    lose(walletId, version) {
      const { states, events } = histories.get(walletId)!;
      states.length = events.length = version + 1;
    },
    at: (walletId, version) => histories.get(walletId)!.states[version]!,
    readModel: {
      walletsById: (walletIds) =>
        read("walletsById", () =>
          walletIds.flatMap((walletId) => histories.get(walletId)?.states.at(-1) ?? []),
        ),
      walletIdsOfOwner: (ownerId, limit) =>
        read("walletIdsOfOwner", () =>
          [...histories]
            .filter(([, { states }]) => states[0]!.ownerId === ownerId)
            .map(([walletId]) => walletId)
            .slice(0, limit),
        ),
      events: (walletId, fromVersion, limit) =>
        read(
          "events",
          () => histories.get(walletId)?.events.slice(fromVersion, fromVersion + limit) ?? [],
        ),
    },
  };
  return world;
}

export interface BalanceFrame {
  readonly type: "balance";
  readonly walletId: string;
  readonly version: number;
  readonly balance: number;
  readonly change: { type: string; amount: number | null; description: string | null } | null;
  readonly snapshot: boolean;
  readonly reset?: true;
  readonly conflated: number;
}

export type ServerFrame =
  | BalanceFrame
  | { readonly type: "subscribed" | "unsubscribed"; wallets: string[]; owners: string[] }
  | {
      readonly type: "error";
      readonly code: string;
      readonly message: string;
      readonly walletId?: string;
      readonly ownerId?: string;
    };

export interface RecordingSink extends FeedSink {
  readonly frames: ServerFrame[];
  closedWith: { code: number; reason: string } | null;
  /** What the client has not read, as the hub sees it. */
  buffered: number;
  /** Whether what is sent stays in the buffer. */
  isStuck: boolean;
}

export function buildRecordingSink(): RecordingSink {
  const sink: RecordingSink = {
    frames: [],
    closedWith: null,
    buffered: 0,
    isStuck: false,
    send(frameText) {
      sink.frames.push(JSON.parse(frameText) as ServerFrame);
      if (sink.isStuck) sink.buffered += frameText.length;
    },
    bufferedBytes: () => sink.buffered,
    close(code, reason) {
      sink.closedWith ??= { code, reason };
    },
  };
  return sink;
}
