/**
 * The hub's setting for its tests: the in-process bus with a record of who listens, a virtual
 * clock, the tests' own world as the database, and clients that remember their frames. Each test
 * gets its own, by calling `buildSetting` itself; it is drained when the test ends.
 */
import { onTestFinished } from "vitest";

import { buildFeedHub, type FeedClient, type FeedHub } from "../../gateway/feed/feed.ts";
import type { Bus } from "../../src/core/bus.ts";
import { buildMemoryBus } from "../../src/bus/memory-bus.ts";
import { SUBJECTS, type Change } from "../../src/core/protocol.ts";
import { shardOf } from "../../src/core/shard.ts";
import {
  buildRecordingSink,
  buildVirtualTime,
  buildWorld,
  type BalanceFrame,
  type RecordingSink,
  type ServerFrame,
} from "./feed-world.ts";

/** What a bus may do to a change: `late` is to come with the next one. */
export type Fate = "pass" | "drop" | "repeat" | "late";

/** The bus as one that meets each change with its fate. */
export function buildLossyBus(publish: (change: Change) => void) {
  let late: Change[] = [];
  return (change: Change, fate: Fate): void => {
    if (fate === "late") {
      late.push(change);
      return;
    }
    if (fate !== "drop") publish(change);
    if (fate === "repeat") publish(change);
    for (const each of late) publish(each);
    late = [];
  };
}

export function buildSetting() {
  const time = buildVirtualTime();
  const world = buildWorld(time.timers);
  const inner = buildMemoryBus();
  const listeners = new Set<() => void>();
  const subscribed = new Map<string, number>();
  const count = (subject: string, by: number): void => {
    subscribed.set(subject, (subscribed.get(subject) ?? 0) + by);
  };
  const bus: Bus = {
    ...inner,
    state: "connected",
    subscribe(subject, handler) {
      count(subject, 1);
      const unsubscribe = inner.subscribe(subject, handler);
      return () => {
        count(subject, -1);
        unsubscribe();
      };
    },
    onReconnect(listener) {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
  };
  const warnings: unknown[] = [];
  const log = { warn: (...line: unknown[]) => void warnings.push(line) };
  const hub = buildFeedHub({ bus, readModel: world.readModel, ...time, log });
  onTestFinished(async () => {
    const drained = hub.drain();
    // Reads under way end in virtual time.
    await time.advance(60_000);
    await drained;
  });
  const publish = (change: Change): void => {
    const { walletId, ownerId } = change.wallet;
    bus.publish(SUBJECTS.changes(shardOf(walletId)), [change]);
    if (change.type === "WalletCreated" && ownerId !== null) {
      bus.publish(SUBJECTS.owners(shardOf(ownerId)), [change]);
    }
  };
  return {
    ...time,
    world,
    bus,
    hub,
    warnings,
    publish,
    reconnect: () => {
      for (const listener of listeners) listener();
    },
    listenedTo: () => [...subscribed].filter(([, n]) => n > 0).map(([subject]) => subject),
    /** Commits and publishes n changes. */
    change: (walletId: string, times = 1, options: { ownerId?: string } = {}): void => {
      for (let n = 0; n < times; n++) publish(world.commit(walletId, options));
    },
  };
}

export function connect(hub: FeedHub): {
  sink: RecordingSink;
  client: FeedClient;
  say: (frame: object) => void;
} {
  const sink = buildRecordingSink();
  const client = hub.connect(sink);
  return { sink, client, say: (frame) => client.receive(JSON.stringify(frame)) };
}

export function balances(sink: RecordingSink, walletId?: string): BalanceFrame[] {
  return sink.frames.filter(
    (frame): frame is BalanceFrame =>
      frame.type === "balance" && (walletId === undefined || frame.walletId === walletId),
  );
}

export function errors(sink: RecordingSink): Extract<ServerFrame, { type: "error" }>[] {
  return sink.frames.filter((frame) => frame.type === "error");
}

export const versions = (frames: readonly BalanceFrame[]): number[] =>
  frames.map(({ version }) => version);
