/**
 * The port of traces: spans of requests and commands that gateway and hosts begin, and spans of a
 * lane's past work. Context travels as the W3C `traceparent`, in headers from outside and in
 * `Command.traceparent` inside, and only for what is sampled: whoever finds none has nothing to do.
 * Without OpenTelemetry's variables nobody has a `Tracing`, and its libraries are not even loaded.
 */
import type { CommitTrace } from "./measures.ts";

export type SpanAttributes = Readonly<Record<string, string | number | boolean>>;

export interface OpenSpan {
  /** For what happens within it. */
  readonly traceparent: string;
  /** Ends it, once. `failure`: why it counts as an error, for a person. */
  end(attributes: SpanAttributes, failure?: string): void;
}

export interface Tracing {
  /**
   * Begins the span of a request from outside, or of a command that goes to its owner. Null when it
   * is not sampled: by the flag of `traceparent`, or without a parent by the sampler that is
   * configured.
   */
  begin(
    kind: "server" | "client",
    name: string,
    traceparent: string | undefined,
    attributes: SpanAttributes,
  ): OpenSpan | null;
  /** What a lane tells of traced commands that it has committed. */
  committed(lane: string, traces: readonly CommitTrace[]): void;
  /** Exports what is left, within `LIMITS.spansFlushMs`. */
  stop(): Promise<void>;
}

export interface TracedProcess {
  readonly version: string;
  readonly hostId: string;
  readonly role: string;
  readonly log: { warn(text: string): void };
}
