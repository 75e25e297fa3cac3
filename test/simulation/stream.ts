/**
 * The event stream without a NATS: messages in the order in which they were stored, and the sink of
 * each host that publishes there, as `actors/stream-sink.ts` behaves towards the relay. What is
 * published may be lost on its way or be late, its acknowledgement may be lost, and the stream may
 * be away for long. It keeps what the real sink relies on: on one connection to one server what
 * follows a lost message is lost too; without that, as in a cluster, a shard's messages wait for
 * each other. What a process has sent is on its way whatever becomes of the process.
 *
 *     closed --the stream is there-----------------> open
 *     open   --no acknowledgement, or it is away---> closed, and asks again after a pause
 */
import type { Delivery, RelaySink } from "../../actors/relay-sink.ts";
import { eventBody, eventId } from "../../src/event-body.ts";
import { LIMITS } from "../../src/limits.ts";
import type { RelayEvent } from "../../src/core/relay-store.ts";
import type { Random } from "./random.ts";
import type { Process, Scheduler } from "./scheduler.ts";

export interface StreamFaults {
  /** How likely a message is lost before it is stored, and an acknowledgement after that. */
  lose: number;
  loseAck: number;
  /** How likely a message is late, and by how much at most, in milliseconds. */
  stall: number;
  stallMsMax: number;
}

export const NO_STREAM_FAULTS: Readonly<StreamFaults> = {
  lose: 0,
  loseAck: 0,
  stall: 0,
  stallMsMax: 0,
};

export interface StreamMessage {
  /** Of the event; a message that comes again has the same. */
  readonly id: string;
  readonly walletId: string;
  readonly version: number;
  /** Its body. */
  readonly text: string;
}

export interface Stream {
  faults: StreamFaults;
  connect(process: Process): RelaySink;
  outage(forMs: number): void;
  /** All that is stored, in its order. */
  readonly messages: readonly StreamMessage[];
  has(event: Pick<RelayEvent, "walletId" | "version">): boolean;
}

export interface StreamDeps {
  readonly scheduler: Scheduler;
  readonly random: Random;
  /** Told when something is stored, of whoever published it. */
  readonly onStored: (publisher: Process) => void;
  readonly count: (what: string) => void;
  /** A planted bug: what is published counts as delivered. */
  readonly isAckIgnored: boolean;
}

/** One way to the stream, in milliseconds. */
const WAY_MS = [0.1, 0.6] as const;

export function buildStream(deps: StreamDeps): Stream {
  const { scheduler, random, count } = deps;
  /** A stream that somebody made without it, or with a short one, keeps what comes again. */
  const dropsRepeats = random.chance(0.6);
  /** One server, whose connections keep their order; otherwise a cluster. */
  const isOrdered = random.chance(0.6);
  const messages: StreamMessage[] = [];
  const known = new Set<string>();
  /**
   * Events that are in it, as they were asked for: what is stored stays, so each is looked up once.
   */
  const stored = new WeakSet<object>();
  let awayUntilMs = 0;
  /** Rises with each outage: what was on its way is lost. */
  let incarnation = 0;

  function store(message: StreamMessage): void {
    const isRepeat = known.has(message.id);
    if (isRepeat) count("stream: repeat");
    if (isRepeat && dropsRepeats) return;
    known.add(message.id);
    messages.push(message);
  }

  function connect(process: Process): RelaySink {
    let isOpen = false;
    let isStopped = false;
    /** Tells one opening from the next: a failure of the one before must not close this one. */
    let opening = 0;
    let pauseMs: number = LIMITS.relayRetryMs;
    let onOpen = (): void => undefined;
    /** The connection lost something, so nothing behind it arrives. */
    let line = { isBroken: false };
    let upMs = 0;

    function retry(): void {
      process.after(pauseMs, "stream", open);
      pauseMs = Math.min(pauseMs * 2, LIMITS.relayRetryMsMax);
    }

    function open(): void {
      if (isStopped || isOpen) return;
      if (scheduler.nowMs < awayUntilMs) return retry();
      if (line.isBroken) line = { isBroken: false };
      isOpen = true;
      opening += 1;
      onOpen();
    }

    function close(current: number): void {
      if (isStopped || !isOpen || opening !== current) return;
      isOpen = false;
      count("stream: closed");
      retry();
    }

    /** When a message arrives; null when it never does. */
    function arrivalMs(): number | null {
      const { lose, stall, stallMsMax } = stream.faults;
      const isLost = lose > 0 && random.chance(lose);
      if (isLost) {
        count("stream: lost");
        if (!isOrdered) return null;
        line.isBroken = true;
      }
      if (line.isBroken) return null;
      const isLate = stall > 0 && random.chance(stall);
      const ownMs =
        scheduler.nowMs + random.between(...WAY_MS) + (isLate ? random.between(0, stallMsMax) : 0);
      if (!isOrdered) return ownMs;
      upMs = Math.max(ownMs, upMs);
      return upMs;
    }

    function publish(event: RelayEvent, onAck: () => void): void {
      const { walletId, version, decimalPlaces } = event;
      const text = JSON.stringify(eventBody(event, decimalPlaces));
      const message = { id: eventId(event), walletId, version, text };
      const atMs = arrivalMs();
      if (atMs === null) return;
      const sent = { line, incarnation };
      scheduler.at(atMs, "publish", () => {
        if (sent.line.isBroken || sent.incarnation !== incarnation) return;
        store(message);
        scheduler.note(version);
        deps.onStored(process);
        if (stream.faults.loseAck > 0 && random.chance(stream.faults.loseAck)) {
          count("stream: acknowledgement lost");
          return;
        }
        process.after(random.between(...WAY_MS), "acknowledged", () => {
          // It comes on the connection that the outage has ended.
          if (sent.incarnation === incarnation) onAck();
        });
      });
    }

    function deliver(event: RelayEvent): Promise<Delivery> {
      if (isOpen && scheduler.nowMs < awayUntilMs) close(opening);
      if (!isOpen) return Promise.resolve({ type: "closed" });
      const current = opening;
      return new Promise((resolve) => {
        const end = process.after(LIMITS.relayAckMs, "no acknowledgement", () => {
          resolve({ type: "closed" });
          close(current);
        });
        publish(event, () => {
          end();
          pauseMs = LIMITS.relayRetryMs;
          resolve({ type: "delivered" });
        });
        if (deps.isAckIgnored) resolve({ type: "delivered" });
      });
    }

    return {
      name: "stream",
      label: "stream",
      beginsAtFirst: true,
      shardsAtOnceMax: LIMITS.relayShardsAtOnceMax,
      shardRowsMax: LIMITS.relayShardRowsMax,
      windowMax: isOrdered ? LIMITS.relayWindowMax : 1,
      get isOpen() {
        return isOpen;
      },
      get state() {
        return isOpen ? "open" : "away";
      },
      start(listener) {
        onOpen = listener;
        open();
      },
      deliver,
      stop() {
        isStopped = true;
        isOpen = false;
      },
    };
  }

  const stream: Stream = {
    faults: { ...NO_STREAM_FAULTS },
    connect,
    outage(forMs) {
      awayUntilMs = Math.max(awayUntilMs, scheduler.nowMs + forMs);
      incarnation += 1;
    },
    messages,
    has(event) {
      if (stored.has(event)) return true;
      const isStored = known.has(eventId(event));
      if (isStored) stored.add(event);
      return isStored;
    },
  };
  return stream;
}
