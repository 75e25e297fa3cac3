/** The two ends of a relay in memory: what unit tests say nothing else about is quiet and works. */
import type { RelaySink } from "../../actors/relay-sink.ts";
import type { RelayEvent, RelayStore } from "../../src/core/relay-store.ts";

/** A credit, as far as a sink that is played needs to know it. */
export const EVENT = {
  walletId: "w1",
  version: 1,
  type: "WalletCredited",
  correlationId: "x",
  amountMinor: 1,
  balanceMinor: 1,
  heldMinor: 0,
  occurredAtMs: 0,
  decimalPlaces: 2,
} as RelayEvent;

/** One event in shard 7, behind a cursor without a trouble. */
export function relayStore(own: Partial<RelayStore> = {}): RelayStore {
  return {
    cursors: () => Promise.resolve([{ shard: 7, position: 0, trouble: null }]),
    read: () => Promise.resolve([{ shard: 7, position: 1 } as RelayEvent]),
    lastPositions: () => Promise.resolve([{ shard: 7, position: 1 }]),
    oldestBehind: () => Promise.resolve(null),
    save: () => Promise.resolve(),
    close: () => Promise.resolve(),
    ...own,
  };
}

/** Takes every event, one at a time. */
export function relaySink(own: Partial<RelaySink> = {}): RelaySink {
  return {
    name: "sink",
    label: "the sink",
    beginsAtFirst: true,
    shardsAtOnceMax: 1,
    shardRowsMax: 8,
    windowMax: 1,
    isOpen: true,
    state: "open",
    start: () => undefined,
    deliver: () => Promise.resolve({ type: "delivered" }),
    stop: () => undefined,
    ...own,
  };
}
