/**
 * The command desk on the real in-process bus, with small owners that answer, refuse or stay
 * silent, and a clock that the test moves. The bus may also keep to itself what becomes of a
 * message, as one does that lost it.
 */
import { buildCommandDesk } from "../../gateway/commands.ts";
import type { Bus } from "../../src/core/bus.ts";
import { buildMemoryBus } from "../../src/bus/memory-bus.ts";
import type { CommandMeter } from "../../src/telemetry/metrics.ts";
import { SUBJECTS } from "../../src/core/protocol.ts";
import type { Command, CommandMessage, Fault, Outcome, Reply } from "../../src/core/protocol.ts";
import { shardOf } from "../../src/core/shard.ts";

export function commandFor(walletId: string, commandId = `c-${walletId}`): Command {
  return {
    commandId,
    fingerprint: null,
    walletId,
    proposedId: false,
    expectedVersion: null,
    description: null,
    metadata: null,
    correlationId: "corr",
    body: { type: "credit", amount: "1", kind: "CREDIT" },
  };
}

export const rejected: Outcome = {
  type: "rejected",
  rejection: { code: "wallet_not_found", walletId: "w" },
  replayed: false,
};
export const faultOf = (fault: Fault): Outcome => ({ type: "fault", fault });
/** Of an owner that has no room for anything more of the shard. */
export const fullFor = (walletId: string): Outcome => ({
  type: "fault",
  fault: "overloaded",
  fullShard: shardOf(walletId),
});

/** A desk, the bus under it, and hands on its clock. */
export function setUp({
  deliversOnce = true,
  meter,
}: { deliversOnce?: boolean; meter?: CommandMeter } = {}) {
  const listeners = new Set<() => void>();
  /** What the bus could say of the commands that it lost; while null it loses none. */
  let lost: (() => void)[] | null = null;
  const inner = buildMemoryBus();
  const bus: Bus = {
    ...inner,
    deliversOnce,
    publish(subject, message, onUndelivered) {
      if (lost === null || onUndelivered === undefined) {
        return inner.publish(subject, message, onUndelivered);
      }
      lost.push(onUndelivered);
    },
    onReconnect(listener) {
      listeners.add(listener);
      return () => void listeners.delete(listener);
    },
  };
  let nowMs = 1_000;
  let sweep = (): void => undefined;
  let isSweeping = true;
  const desk = buildCommandDesk({
    bus,
    gatewayId: "g1",
    clock: { nowMs: () => nowMs },
    ...(meter !== undefined && { meter }),
    schedule: {
      soon: (task) => void setImmediate(task),
      every(_intervalMs, task) {
        sweep = task;
        return () => {
          isSweeping = false;
        };
      },
    },
  });
  /** Lets everything that is under way on the bus arrive. */
  async function settle(): Promise<void> {
    for (let turn = 0; turn < 6; turn++) await new Promise((resolve) => setImmediate(resolve));
  }
  async function pass(ms: number): Promise<void> {
    nowMs += ms;
    sweep();
    await settle();
  }
  /** Subscribes an owner of all shards; `null` is silence. */
  function own(answer: (message: CommandMessage, delivery: number) => Outcome | null) {
    const batches: CommandMessage[][] = [];
    const deliveries: CommandMessage[] = [];
    const unsubscribe = bus.subscribe<CommandMessage[]>("coffer.shard.*", (batch) => {
      batches.push(batch);
      for (const message of batch) {
        deliveries.push(message);
        const outcome = answer(message, deliveries.length);
        if (outcome !== null) reply(message.seq, outcome);
      }
    });
    return { batches, deliveries, unsubscribe };
  }
  function reply(seq: number, outcome: Outcome): void {
    bus.publish(SUBJECTS.inbox("g1"), [{ inbox: "", seq, outcome } satisfies Reply]);
  }
  /** Loses what is sent from now on until the returned function is called, which says of what. */
  function lose(): () => (() => void)[] {
    const since: (() => void)[] = [];
    lost = since;
    return () => {
      lost = null;
      return since;
    };
  }
  async function reconnect(): Promise<void> {
    for (const listener of listeners) listener();
    await settle();
  }
  return {
    bus,
    desk,
    settle,
    pass,
    own,
    reply,
    lose,
    reconnect,
    isSweeping: () => isSweeping,
    listens: () => listeners.size,
  };
}

/** What a promise has come to, without waiting for it. */
export async function peek(promise: Promise<Outcome>): Promise<Outcome | "open"> {
  return Promise.race([promise, Promise.resolve("open" as const)]);
}
