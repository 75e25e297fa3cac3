/**
 * The bus inside one process: what the default role `all` and most tests use. A message is handed
 * over by reference, never serialised, so it costs a queue entry; the price is that no receiver may
 * change it and that its size goes unchecked. What one callback publishes is delivered together
 * right after it, in the order of publication, so that no stage waits for the rest of the
 * event-loop turn; what handlers publish waits for the next turn, so chatter cannot starve sockets
 * and timers.
 */
import type { Bus, BusHandler, BusState, Unsubscribe } from "../core/bus.ts";
import { LIMITS } from "../limits.ts";

interface Subscription {
  readonly handler: BusHandler<unknown>;
  readonly pattern: readonly string[];
  active: boolean;
}

interface QueuedMessage {
  readonly subject: string;
  readonly message: unknown;
  readonly onUndelivered: (() => void) | undefined;
}

export interface MemoryBusOptions {
  /**
   * Told what a handler threw; the other subscribers still get the message. Without it the error
   * becomes an uncaught exception: every sender is our own code, so a throwing handler is a broken
   * invariant.
   */
  readonly onError?: (error: unknown, subject: string) => void;
}

/**
 * Lists are replaced, never changed, so that a delivery under way can walk one while handlers
 * subscribe.
 */
interface Directory {
  readonly exact: Map<string, readonly Subscription[]>;
  wildcard: readonly Subscription[];
}

const NOBODY: readonly Subscription[] = [];

/** Whether a subject is one of those that the pattern names, both by their tokens. */
export function matches(pattern: readonly string[], tokens: readonly string[]): boolean {
  for (let index = 0; index < pattern.length; index++) {
    const want = pattern[index];
    if (index >= tokens.length) return false;
    if (want === ">") return true;
    if (want !== "*" && want !== tokens[index]) return false;
  }
  return pattern.length === tokens.length;
}

function addSubscription(
  directory: Directory,
  subject: string,
  handler: BusHandler<unknown>,
): Unsubscribe {
  const pattern = subject.split(".");
  const subscription: Subscription = { handler, pattern, active: true };
  const isWildcard = pattern.includes("*") || pattern.includes(">");
  const others = (list: readonly Subscription[]) => list.filter((each) => each !== subscription);
  if (isWildcard) directory.wildcard = [...directory.wildcard, subscription];
  else {
    directory.exact.set(subject, [...(directory.exact.get(subject) ?? NOBODY), subscription]);
  }
  return () => {
    subscription.active = false;
    if (isWildcard) {
      directory.wildcard = others(directory.wildcard);
      return;
    }
    const rest = others(directory.exact.get(subject) ?? NOBODY);
    if (rest.length > 0) directory.exact.set(subject, rest);
    else directory.exact.delete(subject);
  };
}

function subscribersOf({ exact, wildcard }: Directory, subject: string): readonly Subscription[] {
  const named = exact.get(subject) ?? NOBODY;
  if (wildcard.length === 0) return named;
  const tokens = subject.split(".");
  return [...named, ...wildcard.filter(({ pattern }) => matches(pattern, tokens))];
}

function deliver(
  directory: Directory,
  { subject, message, onUndelivered }: QueuedMessage,
  onError: (error: unknown, subject: string) => void,
): void {
  let isReached = false;
  for (const subscription of subscribersOf(directory, subject)) {
    if (!subscription.active) continue;
    isReached = true;
    try {
      subscription.handler(message, subject);
    } catch (error) {
      onError(error, subject);
    }
  }
  if (isReached || onUndelivered === undefined) return;
  try {
    onUndelivered();
  } catch (error) {
    onError(error, subject);
  }
}

function throwLater(error: unknown): void {
  queueMicrotask(() => {
    throw error;
  });
}

/**
 * Holds at most `LIMITS.busQueueMessagesMax` messages; past it `onUndelivered` is called at once.
 */
export function buildMemoryBus(options: MemoryBusOptions = {}): Bus {
  const onError = options.onError ?? throwLater;
  const directory: Directory = { exact: new Map(), wildcard: NOBODY };
  let state: BusState = "connected";
  let queue: QueuedMessage[] = [];
  let drained: Promise<void> | undefined;

  let isDelivering = false;

  function deliverAll(): void {
    const batch = queue;
    queue = [];
    isDelivering = true;
    for (const queued of batch) deliver(directory, queued, onError);
    isDelivering = false;
  }

  /**
   * What a handler publishes waits for the next turn of the event loop, all else only for the end
   * of its callback.
   */
  function schedule(): void {
    if (isDelivering) setImmediate(deliverAll);
    else queueMicrotask(deliverAll);
  }

  return {
    publish(subject, message, onUndelivered) {
      if (state === "closed" || queue.length >= LIMITS.busQueueMessagesMax) {
        onUndelivered?.();
        return;
      }
      if (queue.push({ subject, message, onUndelivered }) === 1) schedule();
    },
    subscribe<M>(subject: string, handler: BusHandler<M>) {
      return addSubscription(directory, subject, handler as BusHandler<unknown>);
    },
    onReconnect: () => () => undefined,
    get state() {
      return state;
    },
    deliversOnce: true,
    async ping() {
      if (state === "closed") throw new Error("the bus is closed");
      const startedAtMs = performance.now();
      await new Promise((resolve) => setImmediate(resolve));
      return performance.now() - startedAtMs;
    },
    drain() {
      state = "closed";
      // Immediates run in order: this one comes after the delivery of everything that was accepted.
      drained ??= new Promise((resolve) => setImmediate(resolve));
      return drained;
    },
  };
}
