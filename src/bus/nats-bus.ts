/**
 * The bus over NATS: one connection per process, JSON payloads, callbacks straight from the parser.
 * It adds what the `nats` library leaves open. The library drops what is published while it is
 * disconnected and buffers without bound towards a slow server; here both are refused at once, the
 * second by a window of unconfirmed bytes (see `Window`). "Nobody is subscribed" comes from the
 * server: a message with a reply subject and no receiver is answered by a 503 there, which costs
 * nothing while all is well. Where a message went that was under way when the connection broke,
 * nobody knows.
 */
import { setTimeout as sleep } from "node:timers/promises";

import { connect, createInbox, DebugEvents, Events, NatsError } from "nats";
import type { ConnectionOptions, Msg, NatsConnection, Status, Subscription } from "nats";
import type { BaseLogger } from "pino";

import type { Bus, BusHandler, BusState, Unsubscribe } from "../core/bus.ts";
import { LIMITS } from "../limits.ts";
import { messageOf } from "../message-of.ts";
import { buildTransitMap, type TransitMap } from "../transit-map.ts";

export interface NatsBusOptions {
  /**
   * One or several servers of one cluster, comma-separated: `nats://user:password@host:4222`,
   * `tls://token@host`.
   */
  readonly url: string;
  /** Shown by the server for this connection. */
  readonly name: string;
  readonly log: Pick<BaseLogger, "info" | "warn" | "error">;
}

/** Messages since the start, and what is under way now. */
export interface NatsBusStats {
  readonly published: number;
  readonly delivered: number;
  readonly undelivered: number;
  readonly malformed: number;
  readonly reconnects: number;
  readonly inFlightBytes: number;
  readonly waiting: number;
}

export interface NatsBus extends Bus {
  /**
   * The process's connection, for the services API and JetStream. Resolves at the first connect,
   * stays the same through reconnects, closes with the bus's `drain`. Rejects when the bus is
   * drained before it ever connected.
   */
  readonly connection: Promise<NatsConnection>;
  stats(): NatsBusStats;
}

type ServerOptions = Omit<ConnectionOptions, "servers"> & { servers: string[] };

interface BusSubscription {
  readonly subject: string;
  /** A wildcard's subject must be read from each message; an exact one is known. */
  readonly isWildcard: boolean;
  readonly handler: BusHandler<unknown>;
  inNats: Subscription | undefined;
}

/**
 * What was published and not yet confirmed. Every `LIMITS.busConfirmMs` a round trip follows the
 * messages; the server answers in order, so at its PONG everything before it has been read and
 * every 503 for it has arrived. The window bounds both the library's send buffers and the callbacks
 * that wait for a 503, and lets go of them soon.
 */
interface Window {
  bytes: number;
  /** Number of the latest message that waits for a 503. */
  latest: number;
  /** By number, so in the order of publication. */
  waiting: TransitMap<number, () => void>;
  timer: NodeJS.Timeout | undefined;
}

interface Wire {
  readonly connectionOptions: ServerOptions;
  readonly log: NatsBusOptions["log"];
  readonly inbox: string;
  readonly subscriptions: Set<BusSubscription>;
  readonly reconnectListeners: Set<() => void>;
  readonly window: Window;
  readonly counts: Record<keyof Omit<NatsBusStats, "inFlightBytes" | "waiting">, number>;
  readonly mayLog: (trouble: string) => boolean;
  /** Apart, since there are as many as subjects. */
  readonly mayLogDenied: (trouble: string) => boolean;
  state: BusState;
  /** While it is away: what the last attempt to connect met. */
  trouble: string;
  nats: NatsConnection | undefined;
  awaySinceMs: number;
}

/** Protocol bytes of one PUB around subject and payload, roughly. */
const PUBLISH_OVERHEAD_BYTES = 64;
const HEARTBEATS_UNANSWERED_MAX = 2;
const CONNECTION_LOST = "the connection was lost";
const decoder = new TextDecoder("utf-8", { fatal: true });

/**
 * What the library needs to know of the URL; it does not read credentials or `tls:` from it by
 * itself.
 */
export function connectionOptions(url: string): ServerOptions {
  const options: ServerOptions = { servers: [] };
  for (const text of url.split(",")) {
    const trimmed = text.trim();
    const server = new URL(trimmed.includes("://") ? trimmed : `nats://${trimmed}`);
    options.servers.push(`${server.hostname}:${server.port || "4222"}`);
    if (server.protocol === "tls:") options.tls = {};
    const user = decodeURIComponent(server.username);
    if (server.password !== "") {
      options.user = user;
      options.pass = decodeURIComponent(server.password);
    } else if (user !== "") options.token = user;
  }
  return options;
}

/** Each trouble once in the interval, and no more than so many of them. */
function atMostEvery(
  intervalMs: number,
  troublesMax: number = Infinity,
): (trouble: string) => boolean {
  /** The oldest first. */
  const toldMs = new Map<string, number>();
  return (trouble) => {
    const nowMs = performance.now();
    for (const [told, atMs] of toldMs) {
      if (nowMs - atMs < intervalMs) break;
      toldMs.delete(told);
    }
    if (toldMs.has(trouble) || toldMs.size >= troublesMax) return false;
    toldMs.set(trouble, nowMs);
    return true;
  };
}

/** The library has a code of its own for each trouble, behind which is what the system said. */
function troubleOf(error: unknown): string {
  if (!(error instanceof NatsError)) return messageOf(error);
  return error.chainedError === undefined ? error.code : messageOf(error.chainedError);
}

function assertSubject(subject: string): void {
  // A blank in a subject would be read as another field of the protocol line.
  if (!/^[^\s]+$/.test(subject)) throw new Error(`not a subject: ${JSON.stringify(subject)}`);
}

/**
 * Runs a callback of the bus's user, whose error must not reach the parser: it would end the
 * reading of the connection.
 */
function guarded(wire: Wire, subject: string, callback: () => void): void {
  try {
    callback();
  } catch (error) {
    wire.log.error({ err: error, subject }, "a bus handler threw");
  }
}

function refuse(wire: Wire, subject: string, onUndelivered: (() => void) | undefined): void {
  wire.counts.undelivered++;
  if (onUndelivered !== undefined) guarded(wire, subject, onUndelivered);
}

function publish(
  wire: Wire,
  subject: string,
  message: unknown,
  onUndelivered: (() => void) | undefined,
): void {
  const { nats, window } = wire;
  if (nats === undefined || wire.state !== "connected") return refuse(wire, subject, onUndelivered);
  if (window.bytes >= LIMITS.busInFlightBytesMax) {
    if (wire.mayLog("congested")) {
      wire.log.warn({ inFlightBytes: window.bytes }, "NATS is congested: messages are refused");
    }
    return refuse(wire, subject, onUndelivered);
  }
  try {
    assertSubject(subject);
    const payload = Buffer.from(JSON.stringify(message));
    if (payload.length > LIMITS.busMessageBytesMax) {
      throw new Error(`message of ${payload.length} bytes, at most ${LIMITS.busMessageBytesMax}`);
    }
    if (onUndelivered === undefined || window.waiting.size >= LIMITS.busWaitingMax) {
      nats.publish(subject, payload);
    } else {
      const number = window.latest + 1;
      nats.publish(subject, payload, { reply: `${wire.inbox}.${number}` });
      window.latest = number;
      window.waiting.set(number, onUndelivered);
    }
    wire.counts.published++;
    window.bytes += payload.length + subject.length + PUBLISH_OVERHEAD_BYTES;
  } catch (error) {
    // Too large for us or for this server, not JSON, or the connection closed under us: it did not
    // leave.
    if (wire.mayLog("publish")) wire.log.error({ err: error, subject }, "message not published");
    return refuse(wire, subject, onUndelivered);
  }
  armConfirm(wire);
}

function armConfirm(wire: Wire): void {
  const { window } = wire;
  if (window.timer !== undefined) return;
  window.timer = setTimeout(() => void confirm(wire), LIMITS.busConfirmMs);
  window.timer.unref();
}

async function confirm(wire: Wire): Promise<void> {
  const { nats, window } = wire;
  if (nats === undefined) return;
  const { bytes, latest } = window;
  try {
    await nats.flush();
  } catch {
    return; // The connection broke or closed, and the window was reset; nothing was published since.
  }
  window.bytes -= bytes;
  for (const [number] of window.waiting) {
    if (number > latest) break;
    window.waiting.delete(number);
  }
  window.timer = undefined;
  if (window.bytes > 0) armConfirm(wire);
}

function resetWindow(window: Window): void {
  clearTimeout(window.timer);
  window.timer = undefined;
  window.bytes = 0;
  window.waiting = buildTransitMap();
}

/**
 * The server's answer to a message that nobody received. Nothing else belongs here: handlers of the
 * bus do not reply.
 */
function takeNoResponders(wire: Wire, message: Msg): void {
  if (message.data.length > 0 || message.headers?.code !== 503) return;
  const number = Number(message.subject.slice(wire.inbox.length + 1));
  const onUndelivered = wire.window.waiting.get(number);
  if (onUndelivered === undefined) return;
  wire.window.waiting.delete(number);
  refuse(wire, message.subject, onUndelivered);
}

function take(wire: Wire, subscription: BusSubscription, message: Msg): void {
  const subject = subscription.isWildcard ? message.subject : subscription.subject;
  let value: unknown;
  try {
    value = JSON.parse(decoder.decode(message.data));
  } catch (error) {
    wire.counts.malformed++;
    if (wire.mayLog("malformed")) {
      const { malformed } = wire.counts;
      wire.log.warn({ err: error, subject, malformed }, "a message is not JSON, it is ignored");
    }
    return;
  }
  wire.counts.delivered++;
  guarded(wire, subject, () => subscription.handler(value, subject));
}

function subscribeInNats(wire: Wire, nats: NatsConnection, subscription: BusSubscription): void {
  const { subject } = subscription;
  subscription.inNats = nats.subscribe(subject, {
    callback: (error, message) => {
      if (error === null) take(wire, subscription, message);
      else wire.log.error({ err: error, subject }, "NATS refused a subscription");
    },
  });
}

function subscribe(wire: Wire, subject: string, handler: BusHandler<unknown>): Unsubscribe {
  assertSubject(subject);
  const tokens = subject.split(".");
  const isWildcard = tokens.includes("*") || tokens.includes(">");
  const subscription: BusSubscription = {
    subject,
    isWildcard,
    handler,
    inNats: undefined,
  };
  if (wire.state === "closed") return () => undefined;
  wire.subscriptions.add(subscription);
  // Before the first connect it only waits; later the library itself subscribes again at every
  // reconnect.
  if (wire.nats?.isClosed() === false) subscribeInNats(wire, wire.nats, subscription);
  return () => {
    // The library hands over nothing more from here on, not even what it has read already.
    if (!wire.subscriptions.delete(subscription)) return;
    subscription.inNats?.unsubscribe();
  };
}

/**
 * Follows the connection for its whole life. Only changes of state count: the library may repeat a
 * status.
 */
async function followStatus(wire: Wire, nats: NatsConnection): Promise<void> {
  for await (const status of nats.status()) {
    if (wire.state === "closed") return;
    if (status.type === Events.Disconnect && wire.state === "connected") {
      wire.state = "reconnecting";
      wire.trouble = CONNECTION_LOST;
      wire.awaySinceMs = performance.now();
      resetWindow(wire.window);
      wire.log.warn({ server: status.data }, "NATS is away, reconnecting");
    } else if (status.type === Events.Reconnect && wire.state === "reconnecting") {
      wire.state = "connected";
      wire.counts.reconnects++;
      const awayMs = Math.round(performance.now() - wire.awaySinceMs);
      wire.log.info({ server: status.data, awayMs }, "NATS is back");
      for (const listener of wire.reconnectListeners) guarded(wire, "reconnect", listener);
    } else if (status.type === DebugEvents.Reconnecting) {
      wire.trouble = CONNECTION_LOST;
    } else if (status.type === Events.Error) {
      takeError(wire, status);
    }
  }
}

/** A login that is refused comes with each attempt to connect, a denied subject with each message. */
function takeError(wire: Wire, { data, permissionContext: permission }: Status): void {
  const code = typeof data === "string" ? data : "UNKNOWN";
  if (permission === undefined) {
    wire.trouble = code;
    if (!wire.mayLog(`error ${code}`)) return;
  } else if (!wire.mayLogDenied(`${permission.operation} ${permission.subject}`)) return;
  wire.log.error({ code, permission }, `NATS error: ${code}`);
}

/** Tries for ever. Rejects only when the signal is aborted. */
async function dial(wire: Wire, signal: AbortSignal): Promise<NatsConnection> {
  const { servers } = wire.connectionOptions;
  for (;;) {
    signal.throwIfAborted();
    try {
      // Not `waitOnFirstConnect`: it cannot be cancelled and never says why it fails. Without it
      // the library forgets a server that was down just now, but the others of its cluster name it
      // again.
      return await connect({
        ...wire.connectionOptions,
        servers: [...servers],
        timeout: LIMITS.busConnectMs,
        maxReconnectAttempts: -1,
        reconnectTimeWait: LIMITS.busReconnectMs,
        pingInterval: LIMITS.busHeartbeatMs,
        maxPingOut: HEARTBEATS_UNANSWERED_MAX,
        ignoreAuthErrorAbort: true,
      });
    } catch (error) {
      wire.trouble = troubleOf(error);
      if (wire.mayLog("connect")) {
        wire.log.warn({ servers }, `NATS is away, trying again: ${wire.trouble}`);
      }
      await sleep(LIMITS.busReconnectMs, undefined, { signal });
    }
  }
}

async function connectFirst(wire: Wire, signal: AbortSignal): Promise<NatsConnection> {
  const nats = await dial(wire, signal);
  if (signal.aborted) {
    await nats.close();
    throw signal.reason;
  }
  wire.nats = nats;
  nats.subscribe(`${wire.inbox}.*`, {
    callback: (error, message) => {
      if (error === null) takeNoResponders(wire, message);
      else wire.log.error({ err: error }, "NATS refused the inbox, undelivered goes unnoticed");
    },
  });
  for (const subscription of wire.subscriptions) subscribeInNats(wire, nats, subscription);
  wire.state = "connected";
  void followStatus(wire, nats);
  void nats.closed().then((error) => {
    if (wire.state !== "closed") wire.log.error({ err: error }, "the NATS connection was closed");
    wire.state = "closed";
    resetWindow(wire.window);
  });
  const maxPayloadBytes = nats.info?.max_payload ?? 0;
  if (maxPayloadBytes < LIMITS.busMessageBytesMax) {
    wire.log.warn({ maxPayloadBytes }, "this NATS server refuses messages that Coffer may send");
  }
  wire.log.info({ server: nats.getServer() }, "connected to NATS");
  return nats;
}

async function drain(wire: Wire, abort: AbortController): Promise<void> {
  const wasConnected = wire.state === "connected";
  wire.state = "closed";
  abort.abort(new Error("the bus was drained before it connected"));
  const { nats } = wire;
  if (nats !== undefined) {
    // The library's drain never ends while the server is away or hangs; its close does not wait for
    // the server.
    if (wasConnected) await within(LIMITS.busDrainMs, nats.drain()).catch(() => undefined);
    await nats.close();
  }
  wire.subscriptions.clear();
  wire.reconnectListeners.clear();
  resetWindow(wire.window);
}

async function within<T>(timeoutMs: number, promise: Promise<T>): Promise<T> {
  let timer: NodeJS.Timeout | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(
      () => reject(new Error(`no answer from NATS in ${timeoutMs} ms`)),
      timeoutMs,
    );
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

async function ping(wire: Wire, timeoutMs: number): Promise<number> {
  if (wire.nats === undefined || wire.state !== "connected") {
    throw new Error(`NATS is away: ${wire.trouble}`);
  }
  const startedAtMs = performance.now();
  await within(timeoutMs, wire.nats.flush());
  return performance.now() - startedAtMs;
}

/**
 * Returns at once; the bus is `reconnecting` until the first connect and takes subscriptions
 * meanwhile. Throws when the URL is not one.
 */
export function buildNatsBus(options: NatsBusOptions): NatsBus {
  const wire: Wire = {
    connectionOptions: { ...connectionOptions(options.url), name: options.name },
    log: options.log,
    inbox: createInbox(),
    subscriptions: new Set(),
    reconnectListeners: new Set(),
    window: { bytes: 0, latest: 0, waiting: buildTransitMap(), timer: undefined },
    counts: { published: 0, delivered: 0, undelivered: 0, malformed: 0, reconnects: 0 },
    mayLog: atMostEvery(LIMITS.troubleLogMs),
    mayLogDenied: atMostEvery(LIMITS.troubleLogMs, LIMITS.busDeniedLogMax),
    state: "reconnecting",
    trouble: "not connected",
    nats: undefined,
    awaySinceMs: performance.now(),
  };
  const abort = new AbortController();
  const aborted = new Promise<never>((_, reject) => {
    abort.signal.addEventListener("abort", () => reject(abort.signal.reason as Error));
  });
  const connection = Promise.race([aborted, connectFirst(wire, abort.signal)]);
  connection.catch(() => undefined); // Not everybody waits for it.
  let drained: Promise<void> | undefined;
  return {
    connection,
    publish: (subject, message, onUndelivered) => publish(wire, subject, message, onUndelivered),
    subscribe<M>(subject: string, handler: BusHandler<M>) {
      return subscribe(wire, subject, handler as BusHandler<unknown>);
    },
    onReconnect(listener) {
      wire.reconnectListeners.add(listener);
      return () => void wire.reconnectListeners.delete(listener);
    },
    get state() {
      return wire.state;
    },
    // Two hosts may be subscribed to one shard for a moment, and what lies between may repeat.
    deliversOnce: false,
    stats: () => ({
      ...wire.counts,
      inFlightBytes: wire.window.bytes,
      waiting: wire.window.waiting.size,
    }),
    ping: (timeoutMs) => ping(wire, timeoutMs),
    drain() {
      drained ??= drain(wire, abort);
      return drained;
    },
  };
}
