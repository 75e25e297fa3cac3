/**
 * The bus carries small JSON messages between gateways and hosts. It hides whether they share a
 * process (`bus/memory-bus.ts`) or a NATS server (`bus/nats-bus.ts`). It is lossy by design: a
 * message may vanish, or arrive twice, and nobody may build correctness on it; that comes from
 * PostgreSQL and command ids. That no second copy comes may be believed only of a bus that says so
 * (`deliversOnce`). It traded request-reply for one-way messages plus an inbox, because a reply
 * then travels in whatever batch its commit makes, not alone (docs/adr/0003-one-way-bus.md).
 */

/**
 * Called once per message, in the order of arrival per subject; must not throw, must not block and
 * must not change the message, which in one process is the sender's own object. NATS carries what
 * others publish there, too: check its shape.
 */
export type BusHandler<M> = (message: M, subject: string) => void;

/** Ends a subscription; after it returns no further message is handed over. Safe to call twice. */
export type Unsubscribe = () => void;

/** `reconnecting` also before the first connect; `closed` from the call of `drain` on. */
export type BusState = "connected" | "reconnecting" | "closed";

export interface Bus {
  /**
   * Sends one JSON value to every subscriber of the subject, this process included. Never throws,
   * never blocks, and calls no handler before it returns. The message must not be changed
   * afterwards. `onUndelivered` is called at most once, when the bus knows that the message reached
   * nobody: there is no subscriber, the connection is away or congested, the bus is drained, or
   * (NATS) the message is larger than `LIMITS.busMessageBytesMax`. It may be called before
   * `publish` returns. It not being called proves nothing.
   */
  publish(subject: string, message: unknown, onUndelivered?: () => void): void;

  /** Subscribes to a subject; `*` matches one token and `>` the rest, as in NATS. */
  subscribe<M>(subject: string, handler: BusHandler<M>): Unsubscribe;

  /**
   * Called after each reconnect, not at the first connect: whatever was published meanwhile may be
   * lost.
   */
  onReconnect(listener: () => void): Unsubscribe;

  readonly state: BusState;

  /**
   * Whether a message to one receiver arrives at most once, and nowhere else, as in one process.
   * Then what the receiver says of it goes for all of it; otherwise another copy may arrive
   * elsewhere, or later, and nobody can say when it no longer does.
   */
  readonly deliversOnce: boolean;

  /**
   * Round trip to the bus in milliseconds; rejects at once while it is away, and after `timeoutMs`
   * without an answer.
   */
  ping(timeoutMs: number): Promise<number>;

  /**
   * Refuses new messages at once, delivers what was published before, then closes. Resolves within
   * `LIMITS.busDrainMs`, whatever the server does. Later calls get the same promise.
   */
  drain(): Promise<void>;
}
