/** What the stream's sink says of itself, in virtual time, over a JetStream that the tests play. */
import { DiscardPolicy } from "nats";
import { expect, it } from "vitest";

import { EVENT_STREAM, EVENT_SUBJECTS } from "../src/event-stream.ts";
import { LIMITS } from "../src/limits.ts";
import type { RelayEvent } from "../src/relay-store.ts";
import { buildStreamSink, type StreamSinkOptions } from "./stream-sink.ts";

const TRUST_MS = LIMITS.relayAckMs + LIMITS.relaySweepMs;
const event = {
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
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

interface Ack {
  readonly stream: string;
  readonly seq: number;
}

async function start(cluster?: { leader?: string }) {
  let nowMs = 0;
  let timers: Array<{ atMs: number; task: () => void }> = [];
  let reconnect = (): void => undefined;
  let openings = 0;
  const published: Array<{ take(ack?: Partial<Ack>): void; fail(): void }> = [];
  const lines: string[] = [];
  const config = { subjects: [EVENT_SUBJECTS], discard: DiscardPolicy.Old, max_msg_size: -1 };
  const publish = (): Promise<Ack> =>
    new Promise((resolve, reject) => {
      published.push({
        take: (ack = {}) => resolve({ stream: EVENT_STREAM, seq: 1, ...ack }),
        fail: () => reject(new Error("no answer")),
      });
    });
  const info = { config, ...(cluster !== undefined && { cluster }) };
  const connection = {
    jetstreamManager: () => Promise.resolve({ streams: { info: () => Promise.resolve(info) } }),
    jetstream: () => ({ publish }),
  };
  const bus = {
    state: "connected",
    connection: Promise.resolve(connection),
    onReconnect(listener: () => void) {
      reconnect = listener;
      return () => undefined;
    },
  };
  const sink = buildStreamSink({
    bus: bus as unknown as StreamSinkOptions["bus"],
    keeping: { maxAgeDays: 0, maxBytes: 0, replicas: 1 },
    time: {
      after(delayMs, task) {
        const timer = { atMs: nowMs + delayMs, task };
        timers.push(timer);
        return () => void (timers = timers.filter((other) => other !== timer));
      },
    },
    log: { info: (text) => void lines.push(text), warn: (text) => void lines.push(text) },
  });
  sink.start(() => (openings += 1));
  await turn();
  /** Lets time pass, and what is due happen. */
  async function pass(ms: number): Promise<void> {
    nowMs += ms;
    const due = timers.filter(({ atMs }) => atMs <= nowMs);
    timers = timers.filter(({ atMs }) => atMs > nowMs);
    for (const { task } of due) task();
    await turn();
  }
  /** An event that nobody acknowledges. */
  async function fail(): Promise<void> {
    const delivery = sink.deliver(event, null);
    published.at(-1)!.fail();
    expect(await delivery).toEqual({ type: "closed" });
  }
  return {
    sink,
    published,
    lines,
    pass,
    fail,
    async reconnect() {
      reconnect();
      await turn();
    },
    openings: () => openings,
  };
}

it("says what the trouble was until nothing has failed for as long as an answer may take", async () => {
  const { sink, lines, pass, fail } = await start();
  expect(sink).toMatchObject({ state: "open", isOpen: true });
  await fail();
  expect(sink).toMatchObject({ state: "away", isOpen: false });
  await pass(LIMITS.relayRetryMs);
  expect(sink).toMatchObject({ state: "away", isOpen: true });
  await pass(TRUST_MS - 1);
  expect(sink.state).toBe("away");
  await pass(1);
  expect(sink.state).toBe("open");
  expect(lines).toHaveLength(2);
});

it.each(["another failure", "a reconnect"])(
  "begins to wait for that anew after %s",
  async (what) => {
    const { sink, pass, fail, reconnect } = await start();
    await fail();
    await pass(LIMITS.relayRetryMs);
    await pass(TRUST_MS - 1);
    await (what === "a reconnect" ? reconnect() : fail());
    await pass(1);
    expect(sink.state).toBe("away");
    await pass(LIMITS.relayRetryMs * 2);
    expect(sink).toMatchObject({ state: "away", isOpen: true });
    await pass(TRUST_MS);
    expect(sink.state).toBe("open");
  },
);

it("is open at once when an event is acknowledged, and not by a repeat that has no place", async () => {
  const { sink, published, pass, fail } = await start();
  await fail();
  await pass(LIMITS.relayRetryMs);
  const repeat = sink.deliver(event, null);
  published.at(-1)!.take({ seq: 0 });
  expect(await repeat).toEqual({ type: "closed" });
  expect(sink).toMatchObject({ state: "away", isOpen: false });
  await pass(LIMITS.relayRetryMs * 2);
  const delivery = sink.deliver(event, null);
  published.at(-1)!.take();
  expect(await delivery).toEqual({ type: "delivered" });
  expect(sink.state).toBe("open");
});

it("opens anew after a reconnect, which a failure from before does not end", async () => {
  const { sink, published, reconnect, openings } = await start();
  const before = sink.deliver(event, null);
  await reconnect();
  expect(openings()).toBe(2);
  published[0]!.fail();
  expect(await before).toEqual({ type: "closed" });
  expect(sink).toMatchObject({ state: "open", isOpen: true });
});

it("publishes nothing without a leader, and one event at a time in a cluster", async () => {
  const alone = await start();
  expect(alone.sink.windowMax).toBe(LIMITS.relayWindowMax);
  const led = await start({ leader: "n1" });
  expect(led.sink).toMatchObject({ state: "open", windowMax: 1 });
  const { sink, published, pass, lines } = await start({});
  expect(sink).toMatchObject({ state: "no leader", isOpen: false });
  await pass(LIMITS.relayRetryMs);
  expect(await sink.deliver(event, null)).toEqual({ type: "closed" });
  expect([sink.state, published.length, lines.length]).toEqual(["no leader", 0, 1]);
});

it("says nothing more when it was stopped", async () => {
  const { sink, pass, fail } = await start();
  await fail();
  await pass(LIMITS.relayRetryMs);
  sink.stop();
  await pass(TRUST_MS);
  expect(sink).toMatchObject({ state: "stopped", isOpen: false });
});
