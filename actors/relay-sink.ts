/**
 * Where the relay takes events to: the port that the event stream and each webhook implement, and
 * how a sink tells how it stands. A sink gets the events of one shard in their order. Of how many
 * it may have got before the first is known to be delivered is its own word: more than one only if
 * it can promise that after one that is lost, those behind it are lost too.
 */
import type { RelayEvent, Trouble } from "../src/core/relay-store.ts";

export type Delivery =
  | { readonly type: "delivered" }
  /** Not for this sink: it goes past the event, and has given it to nobody. */
  | { readonly type: "passed" }
  /** Not taken: the same event again after the pause, and nothing of its shard before. */
  | { readonly type: "failed"; readonly reason: string; readonly retryInMs: number }
  /** The sink takes nothing now; it says when it is open again. */
  | { readonly type: "closed" };

export interface RelaySink {
  /** Names its cursors. */
  readonly name: string;
  /** For people: the stream, or a webhook's id. */
  readonly label: string;
  /**
   * True: a shard without a cursor begins with its first event. False: without a cursor there is
   * nothing to deliver.
   */
  readonly beginsAtFirst: boolean;
  /** Shards whose events it takes at once, and events read ahead for each. */
  readonly shardsAtOnceMax: number;
  readonly shardRowsMax: number;
  /** Events of one shard that it takes before it has told of the first. */
  readonly windowMax: number;
  /** While it is not open, nothing is read for it. */
  readonly isOpen: boolean;
  /** How it stands, for people: `open`, or what keeps it. */
  readonly state: string;
  /** Begins; calls `onOpen` whenever it has become open. */
  start(onOpen: () => void): void;
  /**
   * Must resolve within a bound, whatever the other side does. `trouble` is what this event met
   * before.
   */
  deliver(event: RelayEvent, trouble: Trouble | null): Promise<Delivery>;
  /**
   * Of a sink that does not begin at the first event: cursors that there must be are not there, so
   * nobody knows what these shards owe it.
   */
  lost?(shards: readonly number[]): void;
  stop(): void;
}
