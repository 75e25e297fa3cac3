/**
 * The bus over virtual time: a server in the middle, a connection to it for each process, and all
 * that a NATS may do to a message on the way. Each half of the way keeps the order of its
 * connection, as TCP does, so messages of two senders overtake each other and those of one do not
 * (unless the plan says so: that is harsher than NATS). What is published travels as JSON text.
 * Subscriptions live in the server, as in NATS: they begin when it hears of them and are gone with
 * the connection.
 *
 * A publisher hears that nobody is subscribed only when that is true of every copy: a copy is made
 * after the server has found a subscriber.
 */
import type { Bus, BusHandler, BusState, Unsubscribe } from "../../src/core/bus.ts";
import { LIMITS } from "../../src/limits.ts";
import { matches } from "../../src/bus/memory-bus.ts";
import type { Random } from "./random.ts";
import type { Process, Scheduler } from "./scheduler.ts";

export interface BusFaults {
  /** One way between a process and the server, in milliseconds. */
  delayMs: readonly [from: number, to: number];
  /**
   * How likely a message is held up on the way, and for how long at most; what follows on its
   * connection waits behind it.
   */
  stall: number;
  stallMsMax: number;
  /**
   * How likely a message is lost between the server and one subscriber, or between its publisher
   * and the server.
   */
  drop: number;
  /** How likely a transfer's post, or its verdict, is lost in the same way. */
  dropSteps: number;
  /** How likely a subscriber gets a message again, up to `repeatMsMax` later. */
  repeat: number;
  repeatMsMax: number;
  /**
   * How likely a message overtakes others of its own connection, or falls behind them: harsher than
   * NATS.
   */
  shuffle: number;
}

export const NO_BUS_FAULTS: Readonly<BusFaults> = {
  delayMs: [0.1, 0.5],
  stall: 0,
  stallMsMax: 0,
  drop: 0,
  dropSteps: 0,
  repeat: 0,
  repeatMsMax: 0,
  shuffle: 0,
};

export interface SimulatedBus extends Bus {
  /**
   * Cuts this process off. Until it notices, what it sends and should get is lost without a word.
   */
  cutOff(forMs: number, noticedAfterMs: number): void;
}

export interface Network {
  faults: BusFaults;
  /** As every connection says it of itself; then nothing may be repeated. */
  deliversOnce: boolean;
  connect(process: Process): SimulatedBus;
  /** The server is away: every connection breaks at once, and comes back some time after. */
  outage(forMs: number): void;
  /** Whose subscriptions the server has for a subject, one entry for each. */
  subscribers(subject: string): string[];
  readonly stats: { published: number; delivered: number; lost: number; repeated: number };
}

interface Subscription {
  readonly connection: Connection;
  readonly subject: string;
  readonly pattern: readonly string[] | null;
  readonly handler: BusHandler<unknown>;
  isActive: boolean;
}

interface Connection {
  readonly process: Process;
  readonly subscriptions: Set<Subscription>;
  readonly reconnectListeners: Set<() => void>;
  state: BusState;
  /** Rises when the connection breaks: what was on its way under an older one is lost. */
  generation: number;
  isCutOff: boolean;
  /** When the latest message arrives, each way: no later one arrives before. */
  upMs: number;
  downMs: number;
}

type OnError = (error: unknown, subject: string) => void;

export function buildNetwork(
  scheduler: Scheduler,
  random: Random,
  onError: OnError = (error) => scheduler.fail(error),
): Network {
  const connections = new Set<Connection>();
  const exact = new Map<string, Set<Subscription>>();
  const wildcard = new Set<Subscription>();
  const stats = { published: 0, delivered: 0, lost: 0, repeated: 0 };
  let awayUntilMs = 0;

  // --- The two halves of the way ---

  function delay(): number {
    const { delayMs, stall, stallMsMax } = network.faults;
    const own = random.between(delayMs[0], delayMs[1]);
    return stall > 0 && random.chance(stall) ? own + random.between(0, stallMsMax) : own;
  }

  function isShuffled(): boolean {
    return network.faults.shuffle > 0 && random.chance(network.faults.shuffle);
  }

  function isLost(): boolean {
    return network.faults.drop > 0 && random.chance(network.faults.drop);
  }

  function isStepLost(message: unknown): boolean {
    const { dropSteps } = network.faults;
    if (dropSteps === 0 || !Array.isArray(message)) return false;
    const isStep = ({ type }: { type?: unknown }): boolean => type === "post" || type === "verdict";
    return message.some(isStep) && random.chance(dropSteps);
  }

  /** To the server: nobody's process, so it runs also when the sender has ended meanwhile. */
  function up(connection: Connection, what: string, task: () => void): void {
    const { generation } = connection;
    let atMs = scheduler.nowMs + delay();
    if (!isShuffled()) atMs = connection.upMs = Math.max(atMs, connection.upMs);
    scheduler.at(atMs, what, () => {
      if (connection.generation === generation && !connection.isCutOff) task();
    });
  }

  /** From the server: runs in the process of the connection. */
  function down(connection: Connection, what: string, task: () => void): void {
    const { generation } = connection;
    let atMs = scheduler.nowMs + delay();
    if (!isShuffled()) atMs = connection.downMs = Math.max(atMs, connection.downMs);
    connection.process.at(atMs, what, () => {
      if (connection.generation === generation && !connection.isCutOff) task();
    });
  }

  // --- The server ---

  function add(subscription: Subscription): void {
    if (!subscription.isActive) return;
    if (subscription.pattern !== null) {
      wildcard.add(subscription);
      return;
    }
    const { subject } = subscription;
    let same = exact.get(subject);
    if (same === undefined) exact.set(subject, (same = new Set()));
    same.add(subscription);
  }

  function remove(subscription: Subscription): void {
    wildcard.delete(subscription);
    const same = exact.get(subscription.subject);
    if (same?.delete(subscription) === true && same.size === 0) exact.delete(subscription.subject);
  }

  function subscribersOf(subject: string): Subscription[] {
    const found: Subscription[] = [];
    const consider = (subscription: Subscription): void => {
      // The server notices at once that a process has ended: its kernel closes the connection.
      if (subscription.connection.process.isAlive) found.push(subscription);
      else remove(subscription);
    };
    for (const subscription of exact.get(subject) ?? []) consider(subscription);
    if (wildcard.size > 0) {
      const tokens = subject.split(".");
      for (const subscription of wildcard) {
        if (matches(subscription.pattern!, tokens)) consider(subscription);
      }
    }
    return found;
  }

  function route(from: Connection, subject: string, text: string, onUndelivered?: () => void) {
    const subscribers = subscribersOf(subject);
    if (subscribers.length === 0) {
      trace(from, `nobody is subscribed to ${subject}`);
      if (onUndelivered !== undefined) {
        down(from, "no responders", () => guarded(onUndelivered, subject));
      }
      return;
    }
    for (const subscription of subscribers) {
      if (isLost()) {
        stats.lost += 1;
        trace(subscription.connection, `lost on the way here: ${subject}`);
        continue;
      }
      deliver(subscription, subject, text);
      const { repeat, repeatMsMax } = network.faults;
      if (repeat > 0 && random.chance(repeat)) {
        if (network.deliversOnce) throw new Error("a bus that delivers once must not repeat");
        stats.repeated += 1;
        scheduler.after(random.between(0, repeatMsMax), "repeat", () =>
          deliver(subscription, subject, text),
        );
      }
    }
  }

  function deliver(subscription: Subscription, subject: string, text: string): void {
    const { connection, handler } = subscription;
    down(connection, "message", () => {
      if (!subscription.isActive) return;
      stats.delivered += 1;
      scheduler.note(text.length);
      if (scheduler.isTracing && isTold(subject)) trace(connection, `<- ${subject} ${text}`);
      guarded(() => handler(JSON.parse(text), subject), subject);
    });
  }

  function guarded(task: () => void, subject: string): void {
    try {
      task();
    } catch (error) {
      onError(error, subject);
    }
  }

  function trace(connection: Connection, text: string): void {
    if (scheduler.isTracing) connection.process.trace(text);
  }

  // --- Connections that break ---

  /** Also what the process has ended without the server's hearing of it. */
  function forget(connection: Connection): void {
    for (const subscription of [...wildcard, ...[...exact.values()].flatMap((some) => [...some])]) {
      if (subscription.connection === connection) remove(subscription);
    }
  }

  function lose(connection: Connection): void {
    if (connection.state !== "connected") return;
    connection.state = "reconnecting";
    connection.generation += 1;
    forget(connection);
    trace(connection, "the bus is away");
    connection.process.after(LIMITS.busReconnectMs * random.between(0.5, 1.5), "reconnect", () =>
      reconnect(connection),
    );
  }

  function reconnect(connection: Connection): void {
    if (connection.state !== "reconnecting") return;
    if (scheduler.nowMs < awayUntilMs || connection.isCutOff) {
      connection.process.after(LIMITS.busReconnectMs, "reconnect", () => reconnect(connection));
      return;
    }
    connection.state = "connected";
    connection.upMs = connection.downMs = scheduler.nowMs;
    trace(connection, "the bus is back");
    for (const subscription of connection.subscriptions) {
      up(connection, "subscribe", () => add(subscription));
    }
    for (const listener of connection.reconnectListeners) listener();
  }

  // --- The port ---

  function buildBus(connection: Connection): SimulatedBus {
    let drained: Promise<void> | undefined;
    /**
     * Up and down again, behind everything before: then all that was published before is dealt
     * with.
     */
    const roundTrip = (then: () => void): void =>
      up(connection, "ping", () => down(connection, "pong", then));

    return {
      publish(subject, message, onUndelivered) {
        const text = JSON.stringify(message) as string | undefined;
        if (
          connection.state !== "connected" ||
          text === undefined ||
          text.length > LIMITS.busMessageBytesMax
        ) {
          onUndelivered?.();
          return;
        }
        stats.published += 1;
        scheduler.note(text.length);
        if (scheduler.isTracing && isTold(subject)) trace(connection, `-> ${subject} ${text}`);
        if (isLost() || isStepLost(message)) {
          stats.lost += 1;
          trace(connection, `lost on its way: ${subject}`);
          return;
        }
        up(connection, "publish", () => route(connection, subject, text, onUndelivered));
      },
      subscribe<M>(subject: string, handler: BusHandler<M>): Unsubscribe {
        if (connection.state === "closed") return () => undefined;
        const tokens = subject.split(".");
        const isPattern = tokens.includes("*") || tokens.includes(">");
        const subscription: Subscription = {
          connection,
          subject,
          pattern: isPattern ? tokens : null,
          handler: handler as BusHandler<unknown>,
          isActive: true,
        };
        connection.subscriptions.add(subscription);
        if (connection.state === "connected") {
          up(connection, "subscribe", () => add(subscription));
        }
        return () => {
          if (!subscription.isActive) return;
          subscription.isActive = false;
          connection.subscriptions.delete(subscription);
          up(connection, "unsubscribe", () => remove(subscription));
        };
      },
      onReconnect(listener) {
        connection.reconnectListeners.add(listener);
        return () => void connection.reconnectListeners.delete(listener);
      },
      get state() {
        return connection.state;
      },
      deliversOnce: network.deliversOnce,
      ping(timeoutMs) {
        if (connection.state !== "connected") return Promise.reject(new Error("the bus is away"));
        const startedAtMs = scheduler.nowMs;
        return new Promise((resolve, reject) => {
          const end = connection.process.after(timeoutMs, "ping timeout", () =>
            reject(new Error(`no answer from the bus in ${timeoutMs} ms`)),
          );
          roundTrip(() => {
            end();
            resolve(scheduler.nowMs - startedAtMs);
          });
        });
      },
      drain() {
        drained ??= new Promise((resolve) => {
          const isConnected = connection.state === "connected";
          connection.state = "closed";
          const close = (): void => {
            connection.generation += 1;
            for (const subscription of connection.subscriptions) {
              subscription.isActive = false;
              remove(subscription);
            }
            connections.delete(connection);
            resolve();
          };
          if (!isConnected) {
            close();
            return;
          }
          connection.process.after(LIMITS.busDrainMs, "drain timeout", close);
          roundTrip(close);
        });
        return drained;
      },
      cutOff(forMs, noticedAfterMs) {
        if (connection.state === "closed") return;
        connection.isCutOff = true;
        trace(connection, `cut off for ${forMs.toFixed(0)} ms`);
        const notice = (): void => {
          if (connection.isCutOff) lose(connection);
        };
        scheduler.after(forMs, "cut off ends", () => {
          // What was lost meanwhile is missing in the stream of bytes: no connection lives through
          // that.
          connection.process.after(0, "cut off noticed", () => {
            notice();
            connection.isCutOff = false;
          });
        });
        connection.process.after(noticedAfterMs, "cut off noticed", notice);
      },
    };
  }

  const network: Network = {
    faults: { ...NO_BUS_FAULTS },
    deliversOnce: false,
    stats,
    subscribers: (subject) =>
      subscribersOf(subject).map(({ connection }) => connection.process.name),
    connect(process) {
      const connection: Connection = {
        process,
        subscriptions: new Set(),
        reconnectListeners: new Set(),
        state: "connected",
        generation: 0,
        isCutOff: false,
        upMs: 0,
        downMs: 0,
      };
      connections.add(connection);
      if (scheduler.nowMs < awayUntilMs) lose(connection);
      return buildBus(connection);
    },
    outage(forMs) {
      awayUntilMs = Math.max(awayUntilMs, scheduler.nowMs + forMs);
      for (const connection of connections) {
        if (!connection.process.isAlive) connections.delete(connection);
        else connection.process.after(0, "connection lost", () => lose(connection));
      }
    },
  };
  return network;
}

/** What every process hears all the time would fill the trace. */
function isTold(subject: string): boolean {
  return !subject.startsWith("coffer.changes.") && !subject.startsWith("coffer.owners.");
}
