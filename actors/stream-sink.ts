/**
 * The event stream as a sink: each event is one JetStream message, delivered when the stream has
 * acknowledged it. It makes the stream when there is none and leaves one that is there as it is.
 * Whatever goes wrong closes the sink: then nothing is read or published until JetStream has told
 * of the stream again, so a server that is away for long costs no memory and one question now and
 * then. What was published and not acknowledged is published again under the same id, which the
 * stream drops within its duplicate window. What it has dropped is held against what it has: a
 * database that has lost commits gives their ids to others, and these would be missing unseen.
 *
 * Order: events of one shard follow each other without waiting only where what follows a lost one
 * is lost too. That is so on one connection to a server by itself, which takes messages in their
 * order, unless the stream refuses some for their size or number. In a cluster a leader may go with
 * one message and the next leader take the following one, so there each waits for the one before.
 * After a reconnect nothing is published until everything from before has been given up.
 *
 *     closed --the stream is there, with a leader--> open
 *     open   --no acknowledgement, or NATS is away-> closed, and asks again after a pause
 *
 * JetStream tells of a stream also while that takes nothing: full, or its leader without the others
 * and not aware of it yet. So after an event that was not acknowledged, `state` goes on saying why
 * until one is, or until nothing has failed for as long as an acknowledgement may take.
 */
import {
  DiscardPolicy,
  headers,
  nanos,
  NatsError,
  RetentionPolicy,
  StorageType,
  type JetStreamClient,
  type JetStreamManager,
  type StreamInfo,
} from "nats";
import type { Time } from "../src/clock.ts";
import { EVENT_STREAM, EVENT_SUBJECTS, eventSubject } from "../src/core/event-stream.ts";
import { eventBody, eventId, type EventBody, type HoldBody } from "../src/event-body.ts";
import { LIMITS } from "../src/limits.ts";
import type { NatsBus } from "../src/bus/nats-bus.ts";
import type { RelayEvent } from "../src/core/relay-store.ts";
import type { Delivery, RelaySink } from "./relay-sink.ts";

export interface StreamSinkOptions {
  readonly bus: Pick<NatsBus, "connection" | "onReconnect" | "state">;
  /** Of a stream that is made here. */
  readonly keeping: {
    /** 0: no bound. */
    readonly maxAgeDays: number;
    /** 0: no bound. */
    readonly maxBytes: number;
    /** Servers with a copy each, 1 to 5; more than one needs a NATS cluster of as many. */
    readonly replicas: number;
  };
  readonly time: Pick<Time, "after">;
  readonly log: { info(text: string): void; warn(text: string): void };
}

const DAY_MS = 86_400_000;
const ASKING = { checkAPI: false, timeout: LIMITS.relayAckMs };

export function buildStreamSink(options: StreamSinkOptions): RelaySink {
  const { bus, time, log } = options;
  let client: JetStreamClient | null = null;
  let manager: JetStreamManager | null = null;
  let state = "connecting";
  let isOpen = false;
  /** An event was not acknowledged, and none has been since. */
  let isDoubtful = false;
  /** Tells one opening from the next: a failure of the one before must not close this one. */
  let opening = 0;
  let windowMax = 1;
  let isStopped = false;
  let isAsking = false;
  let pauseMs: number = LIMITS.relayRetryMs;
  let cancelRetry = (): void => undefined;
  let cancelTrust = (): void => undefined;
  let stopListening = (): void => undefined;
  let onOpen = (): void => undefined;

  async function open(): Promise<void> {
    if (isStopped || isAsking || isOpen) return;
    isAsking = true;
    try {
      const connection = await bus.connection;
      manager ??= await connection.jetstreamManager(ASKING);
      client ??= connection.jetstream(ASKING);
      if (bus.state !== "connected") throw new Error("NATS is away");
      const { config, cluster } = await findOrMake(manager);
      if (!takesEvents(config.subjects)) {
        throw new Error(
          `the stream ${EVENT_STREAM} is there and does not take ${EVENT_SUBJECTS} (it takes ${config.subjects.join(", ")})`,
        );
      }
      if (isStopped) return;
      if (cluster !== undefined && (cluster.leader ?? "") === "") {
        closeFor(
          "no leader",
          `the stream ${EVENT_STREAM} has no leader, most of its replicas are away`,
        );
        return;
      }
      const refusesNone = config.discard === DiscardPolicy.Old && (config.max_msg_size ?? -1) <= 0;
      windowMax = cluster === undefined && refusesNone ? LIMITS.relayWindowMax : 1;
      isOpen = true;
      opening += 1;
      if (isDoubtful) cancelTrust = time.after(LIMITS.relayAckMs + LIMITS.relaySweepMs, trust);
      else trust();
      onOpen();
    } catch (error) {
      if (!isStopped) closeFor(stateOf(error), explain(error));
    } finally {
      isAsking = false;
    }
  }

  function trust(): void {
    cancelTrust();
    isDoubtful = false;
    if (state !== "open" && state !== "connecting") {
      log.info(`events go to the stream ${EVENT_STREAM} again`);
    }
    state = "open";
  }

  function closeFor(next: string, reason: string): void {
    cancelTrust();
    isOpen = false;
    if (state !== next) log.warn(`events wait in the journal, commands go on: ${reason}`);
    state = next;
    if (isStopped) return;
    cancelRetry();
    cancelRetry = time.after(pauseMs, () => void open());
    pauseMs = Math.min(pauseMs * 2, LIMITS.relayRetryMsMax);
  }

  async function findOrMake(jsm: JetStreamManager): Promise<StreamInfo> {
    try {
      return await jsm.streams.info(EVENT_STREAM);
    } catch (error) {
      if (!isStreamMissing(error)) throw error;
    }
    const { maxAgeDays, maxBytes, replicas } = options.keeping;
    const made = await jsm.streams.add({
      name: EVENT_STREAM,
      description: "Committed events of Coffer's wallets",
      subjects: [EVENT_SUBJECTS],
      storage: StorageType.File,
      retention: RetentionPolicy.Limits,
      discard: DiscardPolicy.Old,
      max_age: nanos(maxAgeDays * DAY_MS),
      max_bytes: maxBytes === 0 ? -1 : maxBytes,
      num_replicas: replicas,
      duplicate_window: nanos(LIMITS.streamDuplicateWindowMs),
    });
    log.info(`made the stream ${EVENT_STREAM} for ${EVENT_SUBJECTS}`);
    return made;
  }

  async function deliver(event: RelayEvent): Promise<Delivery> {
    if (!isOpen || client === null || bus.state !== "connected") {
      if (isOpen) closeFor("away", "NATS is away");
      return { type: "closed" };
    }
    const current = opening;
    const { walletId, type, correlationId, decimalPlaces } = event;
    const header = headers();
    header.set("X-Correlation-Id", correlationId);
    try {
      const body = eventBody(event, decimalPlaces);
      const ack = await client.publish(eventSubject(walletId, type), JSON.stringify(body), {
        msgID: eventId(event),
        headers: header,
        timeout: LIMITS.relayAckMs,
      });
      // Asked here and not of the server, since that header would stay with the message and trip
      // whoever passes it on.
      if (ack.stream !== EVENT_STREAM) throw new Error(`the stream ${ack.stream} took it`);
      // A repeat of what a leader has been given and not stored: it is lost if the leader goes now.
      if (ack.seq < 1) throw new Error("it is a repeat of one that is not stored yet");
      if (ack.duplicate && (await isOfAnother(body, ack.seq))) throw new Error(OTHER_EVENT);
      pauseMs = LIMITS.relayRetryMs;
      if (isDoubtful && isOpen && opening === current) trust();
      return { type: "delivered" };
    } catch (error) {
      if (isOpen && opening === current) {
        isDoubtful = true;
        closeFor(stateOf(error), `${eventId(event)} was not acknowledged: ${explain(error)}`);
      }
      return { type: "closed" };
    }
  }

  /** Whether the message is of another event than the one that was taken for its repeat. */
  async function isOfAnother(body: EventBody, seq: number): Promise<boolean> {
    let stored: Partial<EventBody>;
    try {
      stored = (await manager!.streams.getMessage(EVENT_STREAM, { seq })).json();
    } catch (error) {
      // Gone, or not for us to read: then it is as good as the acknowledgement says. When nobody
      // answers, nothing is known of it, and the event is published again.
      if (apiCode(error) === MESSAGE_NOT_FOUND || isDenied(error)) return false;
      throw error;
    }
    const { metadata, ...rest } = stored;
    return (
      SAME.some((field) => rest[field] !== body[field]) ||
      metadata?.causationId !== body.metadata.causationId ||
      holdIdOf(rest) !== holdIdOf(body)
    );
  }

  return {
    name: "stream",
    label: "stream",
    beginsAtFirst: true,
    shardsAtOnceMax: LIMITS.relayShardsAtOnceMax,
    shardRowsMax: LIMITS.relayShardRowsMax,
    get windowMax() {
      return windowMax;
    },
    get isOpen() {
      return isOpen;
    },
    get state() {
      return state;
    },
    start(listener) {
      onOpen = listener;
      stopListening = bus.onReconnect(() => {
        pauseMs = LIMITS.relayRetryMs;
        cancelTrust();
        isOpen = false;
        if (state === "open") state = "away";
        void open();
      });
      void open();
    },
    deliver,
    stop() {
      isStopped = true;
      isOpen = false;
      state = "stopped";
      cancelRetry();
      cancelTrust();
      stopListening();
    },
  };
}

/** With the command, what an event is; also as former versions wrote it. */
const SAME = ["type", "amount", "balance", "held", "counterpartyId", "transferId"] as const;

/** A command to place a hold that is sent again makes another one, unless it was there. */
function holdIdOf({ data }: Pick<Partial<EventBody>, "data">): string | undefined {
  return (data?.["hold"] as Partial<HoldBody> | undefined)?.id;
}

const OTHER_EVENT =
  "the stream has another event under this id, so the database has lost commits that were " +
  'published, see "Backup" in docs/operations.md';

function takesEvents(subjects: readonly string[]): boolean {
  return subjects.some((subject) => [EVENT_SUBJECTS, "wallets.>", ">"].includes(subject));
}

/** Codes of JetStream's API (nats-server, server/errors.json). */
const MESSAGE_NOT_FOUND = 10_037;
const STREAM_NOT_FOUND = 10_059;
const NOT_ENABLED = new Set([10_039, 10_076]);

function apiCode(error: unknown): number | undefined {
  return error instanceof NatsError ? error.api_error?.err_code : undefined;
}

function isDenied(error: unknown): boolean {
  return error instanceof NatsError && error.isPermissionError();
}

function isStreamMissing(error: unknown): boolean {
  return apiCode(error) === STREAM_NOT_FOUND;
}

/**
 * `away`: nobody answers. `no jetstream`: the server has none. `refused`: JetStream answers, and
 * not as it should.
 */
function stateOf(error: unknown): "away" | "no jetstream" | "refused" {
  const code = apiCode(error);
  if (code !== undefined) return NOT_ENABLED.has(code) ? "no jetstream" : "refused";
  if (!(error instanceof NatsError))
    return /does not take|another event/.test(String(error)) ? "refused" : "away";
  return error.code === "503" ? "no jetstream" : "away";
}

function explain(error: unknown): string {
  const { message } = error as Error;
  const state = stateOf(error);
  if (state === "refused") return `JetStream refuses: ${message}`;
  if (state === "away") return `JetStream does not answer (${message})`;
  return "the NATS server has no JetStream, or no leader for it (start it with --jetstream, or set EVENTS=off)";
}
