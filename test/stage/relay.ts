/**
 * What the tests of the relay share: a relay of a stack's events that the test starts and ends by
 * itself, a stream on a NATS of its own, and the question whether what arrived is each event once,
 * each wallet's in order. The stack's own host has no relay and its bus is in the process, so
 * commands go on whatever happens to NATS.
 */
import type { ConsumerMessages, JsMsg } from "nats";
import { onTestFinished } from "vitest";

import { buildRelay, type Relay } from "../../actors/relay.ts";
import { buildStreamSink } from "../../actors/stream-sink.ts";
import { systemTime } from "../../src/clock.ts";
import type { EventBody } from "../../src/event-body.ts";
import { EVENT_STREAM } from "../../src/core/event-stream.ts";
import { buildNatsBus, type NatsBus } from "../../src/bus/nats-bus.ts";
import { buildPostgresRelayStore } from "../../src/postgres/relay.ts";
import { ALL_SHARDS } from "../../src/core/shard.ts";
import { unique } from "./ids.ts";
import { eventually, type Stack } from "./stack.ts";

/** Keeps warnings; nobody reads the rest. */
export function keepWarnings(): {
  warnings: string[];
  log: { info(text: string): void; warn(text: string): void; error(text: string): void };
} {
  const warnings: string[] = [];
  const ignore = (): void => undefined;
  return {
    warnings,
    log: { info: ignore, warn: (text) => void warnings.push(text), error: ignore },
  };
}

/** A relay that owns every shard; without sinks yet. */
export function relayOf(stack: Stack, shards: readonly number[] = ALL_SHARDS): Relay {
  const { log } = keepWarnings();
  const relay = buildRelay({
    stores: [buildPostgresRelayStore(stack.databaseUrl)],
    time: systemTime,
    log,
  });
  onTestFinished(() => relay.stop().catch(() => undefined));
  relay.own(shards);
  return relay;
}

export async function busOf(natsUrl: string): Promise<NatsBus> {
  const { log } = keepWarnings();
  const bus = buildNatsBus({ url: natsUrl, name: "relay-test", log });
  onTestFinished(() => bus.drain());
  await bus.connection;
  return bus;
}

/** For a test that needs it as nobody has had it. */
export async function removeStream(natsUrl: string): Promise<void> {
  const bus = await busOf(natsUrl);
  const manager = await (await bus.connection).jetstreamManager();
  await manager.streams.delete(EVENT_STREAM).catch(() => undefined);
  await bus.drain();
}

/** Adds the event stream; gives its warnings. */
export function addStream(relay: Relay, bus: NatsBus, replicas = 1): string[] {
  const { log, warnings } = keepWarnings();
  const keeping = { maxAgeDays: 1, maxBytes: 0, replicas };
  relay.add(buildStreamSink({ bus, keeping, time: systemTime, log }));
  return warnings;
}

export interface Message {
  readonly subject: string;
  readonly id: string;
  readonly correlationId: string;
  readonly event: EventBody;
  /** When it arrived, milliseconds since 1970. */
  readonly atMs: number;
}

/** Everything that the stream has and gets, in its order. */
export async function follow(natsUrl: string): Promise<Message[]> {
  const bus = await busOf(natsUrl);
  const connection = await bus.connection;
  const jetstream = connection.jetstream({ checkAPI: false });
  const messages: Message[] = [];
  // The stream may still be made, and a cluster that elects a leader answers 503
  const coming = await eventually(async () => {
    const consumer = await jetstream.consumers.get(EVENT_STREAM);
    return await consumer.consume();
  }, 40_000);
  void collect(coming, messages);
  onTestFinished(async () => void (await coming.close()));
  return messages;
}

async function collect(coming: ConsumerMessages, messages: Message[]): Promise<void> {
  for await (const message of coming) messages.push(messageOf(message));
}

function messageOf(message: JsMsg): Message {
  return {
    subject: message.subject,
    id: message.headers?.get("Nats-Msg-Id") ?? "",
    correlationId: message.headers?.get("X-Correlation-Id") ?? "",
    event: message.json<EventBody>(),
    atMs: Date.now(),
  };
}

/** Wallets with so many credits each, from many callers at once. */
export async function write(
  stack: Pick<Stack, "post">,
  wallets: readonly string[],
  creditsEach: number,
): Promise<void> {
  await Promise.all(
    wallets.map(async (walletId) => {
      for (let number = 0; number < creditsEach; number += 1) {
        const { status, text } = await stack.post(`/wallets/${walletId}/credit`, { amount: 1 });
        if (status !== 200) throw new Error(text);
      }
    }),
  );
}

export async function openWallets(stack: Stack, count: number): Promise<string[]> {
  const opened = await Promise.all(
    Array.from({ length: count }, () => stack.open({ walletId: unique("relay") })),
  );
  return opened.map(({ id }) => id);
}

/** Every committed event, by wallet and version. */
export async function committedIds(stack: Pick<Stack, "sql">): Promise<string[]> {
  const rows = await stack.sql<{ id: string }>(
    `SELECT wallet_id || ':' || version AS id FROM events ORDER BY wallet_id COLLATE "C", version`,
  );
  return rows.map(({ id }) => id);
}

/**
 * What is wrong, unless each event was told once or more, none is missing, and the first telling of
 * each is in its wallet's order.
 */
export function problemsOf(
  events: readonly Pick<EventBody, "walletId" | "version">[],
  committed: readonly string[],
): string[] {
  const latest = new Map<string, number>();
  const problems: string[] = [];
  for (const { walletId, version } of events) {
    const before = latest.get(walletId) ?? -1;
    if (version > before + 1) problems.push(`${walletId}:${version} came after version ${before}`);
    latest.set(walletId, Math.max(before, version));
  }
  const told = new Set(events.map(({ walletId, version }) => `${walletId}:${version}`));
  problems.push(...committed.filter((id) => !told.has(id)).map((id) => `${id} was not told`));
  const real = new Set(committed);
  problems.push(...[...told].filter((id) => !real.has(id)).map((id) => `${id} is not committed`));
  return problems;
}
