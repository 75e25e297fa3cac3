/**
 * The relay: takes the events of this host's shards from the journal to whoever wants them (the
 * event stream, webhooks). Commits tell it where to look; a slow sweep finds what no commit told
 * of, such as what was committed before a crash. It keeps nothing but positions, so a host that
 * takes a shard over goes on where the last one stopped. It only wires sinks to databases: a pump
 * (`relay-pump.ts`) for each pair does the work, so that one which is away holds up no other.
 */
import type { Time } from "../src/clock.ts";
import { LIMITS } from "../src/limits.ts";
import { messageOf } from "../src/message-of.ts";
import type { RelayStore } from "../src/core/relay-store.ts";
import type { RelayStatus } from "../src/core/protocol.ts";
import { buildPump, type Pump } from "./relay-pump.ts";
import type { RelaySink } from "./relay-sink.ts";

export interface RelayDeps {
  /** In the deployment's order: shard `s` is in the one at `s % stores.length`. */
  readonly stores: readonly RelayStore[];
  readonly time: Time;
  readonly log: { warn(text: string): void };
}

/** What a host tells the relay. */
export interface ShardRelay {
  own(shards: readonly number[]): void;
  disown(shards: readonly number[]): void;
  /** Events of these shards are durable. */
  committed(shards: Iterable<number>): void;
  /**
   * Resolves when everything that can be is delivered and saved, at the latest after `withinMs`.
   */
  settle(withinMs: number): Promise<void>;
  status(): RelayStatus[];
}

export interface Relay extends ShardRelay {
  add(sink: RelaySink): void;
  remove(name: string): Promise<void>;
  /** Delivers no more, saves, and closes the stores. */
  stop(): Promise<void>;
}

export function buildRelay({ stores, time, log }: RelayDeps): Relay {
  const owned = new Set<number>();
  const sinks = new Map<string, { sink: RelaySink; pumps: Pump[] }>();
  const isSweeping = stores.map(() => false);
  let quietUntilMs = 0;
  const stopSweeping = time.every(LIMITS.relaySweepMs, () => {
    for (const index of stores.keys()) void sweep(index);
  });

  function homeOf(index: number, shards: Iterable<number>): number[] {
    return [...shards].filter((shard) => shard % stores.length === index);
  }

  function eachPump(shards: Iterable<number>, tell: (pump: Pump, shards: number[]) => void): void {
    const all = [...shards];
    for (const index of stores.keys()) {
      const here = homeOf(index, all);
      if (here.length === 0) continue;
      for (const { pumps } of sinks.values()) tell(pumps[index]!, here);
    }
  }

  async function sweep(index: number): Promise<void> {
    const shards = homeOf(index, owned);
    if (isSweeping[index] === true || shards.length === 0 || sinks.size === 0) return;
    isSweeping[index] = true;
    try {
      const rows = await stores[index]!.lastPositions(shards);
      const last = new Map(rows.map(({ shard, position }) => [shard, position]));
      for (const { pumps } of sinks.values()) await pumps[index]!.sweep(last);
    } catch (error) {
      if (time.nowMs() < quietUntilMs) return;
      quietUntilMs = time.nowMs() + LIMITS.troubleLogMs;
      log.warn(`the relay cannot see what is committed: ${messageOf(error)}`);
    } finally {
      isSweeping[index] = false;
    }
  }

  return {
    add(sink) {
      const pumps = stores.map((store) => buildPump({ sink, store, time, log }));
      sinks.set(sink.name, { sink, pumps });
      for (const [index, pump] of pumps.entries()) pump.own(homeOf(index, owned));
      sink.start(() => {
        for (const pump of pumps) pump.wake();
      });
    },

    async remove(name) {
      const found = sinks.get(name);
      if (found === undefined) return;
      sinks.delete(name);
      found.sink.stop();
      await Promise.all(found.pumps.map((pump) => pump.stop()));
    },

    own(shards) {
      for (const shard of shards) owned.add(shard);
      eachPump(shards, (pump, here) => pump.own(here));
    },

    disown(shards) {
      for (const shard of shards) owned.delete(shard);
      eachPump(shards, (pump, here) => pump.disown(here));
    },

    committed: (shards) => eachPump(shards, (pump, here) => pump.committed(here)),

    status: () => [...sinks.values()].map(({ sink, pumps }) => statusOf(sink, pumps)),

    async settle(withinMs) {
      const untilMs = time.nowMs() + withinMs;
      const isSettled = (): boolean =>
        [...sinks.values()].every(({ pumps }) => pumps.every((pump) => pump.isSettled));
      while (!isSettled() && time.nowMs() < untilMs) {
        await new Promise<void>((resolve) => time.after(LIMITS.drainPollMs, resolve));
      }
    },

    async stop() {
      stopSweeping();
      for (const { sink } of sinks.values()) sink.stop();
      const pumps = [...sinks.values()].flatMap((each) => each.pumps);
      await Promise.all(pumps.map((pump) => pump.stop()));
      sinks.clear();
      await Promise.all(stores.map((store) => store.close()));
    },
  };
}

function statusOf(sink: RelaySink, pumps: readonly Pump[]): RelayStatus {
  const all = pumps.map((pump) => pump.stats());
  const sum = (count: (stats: (typeof all)[number]) => number): number =>
    all.reduce((total, stats) => total + count(stats), 0);
  return {
    sink: sink.label,
    state: sink.state,
    delivered: sum((stats) => stats.delivered),
    retries: sum((stats) => stats.retries),
    lagEvents: sum((stats) => stats.lagEvents),
    lagMs: Math.max(...all.map(({ lagMs }) => lagMs)),
    failingShards: sum((stats) => stats.failingShards),
    buffered: sum((stats) => stats.buffered),
    reason: all.find(({ reason }) => reason !== null)?.reason ?? null,
  };
}
