/**
 * What goes out to one client, at the client's own pace. As long as its unsent bytes stay below a
 * soft limit every frame is sent at once; past it only the newest revision of each wallet is kept,
 * so a slow client costs one reference per wallet and nobody else anything. When the bytes have
 * drained, each wallet gets one frame that says how many changes it covers. A client that never
 * drains is cut off. Slow clients alone are looked at again, all by one timer.
 *
 *     quick --bytes > soft--> slow --bytes <= soft and nothing kept--> quick
 *                               \--bytes >= hard, or > soft for feedSlowMs--> cut (final)
 *
 * quick: nothing is kept, all is with the sink. slow: frames are kept per wallet. cut: nothing is
 * sent any more.
 */
import { LIMITS } from "../../src/limits.ts";
import type { FeedTimers } from "./reads.ts";
import { frameText, type FrameKind, type Revision } from "./frames.ts";

/**
 * The connection, as the transport offers it. None of these may throw or call back before it
 * returns.
 */
export interface FeedSink {
  send(frameText: string): void;
  /** Bytes handed over and not yet with the operating system. */
  bufferedBytes(): number;
  /** Ends the connection with a WebSocket close code. */
  close(code: number, reason: string): void;
}

/** One wallet's place in what a client gets. */
export interface Stream {
  /** Version of the last frame handed to the sink. The next `change` frame covers all after it. */
  sentVersion: number;
  /** The newest revision that could not be sent yet. */
  kept: { revision: Revision; kind: FrameKind } | null;
}

export interface Outbox {
  /** Sends an answer or error at once. */
  say(text: string): void;
  /**
   * Sends or keeps the wallet's next frame. `change` revisions come in version order, without a
   * gap.
   */
  put(stream: Stream, revision: Revision, kind: FrameKind): void;
  /** Drops what is kept of a stream that ended. */
  forget(stream: Stream): void;
  readonly isSlow: boolean;
  /** Sends nothing any more and lets go of everything. Safe to call twice. */
  cut(): void;
}

export interface OutboxEvents {
  /** The client has caught up: what waited for that may go on. */
  readonly onQuick: () => void;
  /** The client must be closed with 1013; the outbox is cut already. */
  readonly onTooSlow: (reason: string) => void;
}

export interface Outboxes {
  open(sink: FeedSink, events: OutboxEvents): Outbox;
  readonly slowClients: number;
  /** Frames that covered more than their own change. */
  readonly conflatedFrames: number;
  stop(): void;
}

interface OpenOutbox {
  readonly sink: FeedSink;
  readonly events: OutboxEvents;
  readonly kept: Set<Stream>;
  state: "quick" | "slow" | "cut";
  /** When the unsent bytes went above the soft limit and stayed there. */
  slowSinceMs: number;
}

export function buildOutboxes(deps: {
  readonly clock: { nowMs(): number };
  readonly timers: FeedTimers;
}): Outboxes {
  const { clock, timers } = deps;
  const slow = new Set<OpenOutbox>();
  let endCheck: (() => void) | null = null;
  let conflatedFrames = 0;

  function turnSlow(outbox: OpenOutbox): void {
    outbox.state = "slow";
    outbox.slowSinceMs = clock.nowMs();
    slow.add(outbox);
    endCheck ??= timers.after(LIMITS.feedDrainCheckMs, checkSlow);
  }

  function cut(outbox: OpenOutbox): void {
    outbox.state = "cut";
    slow.delete(outbox);
    outbox.kept.clear();
  }

  function cutTooSlow(outbox: OpenOutbox, reason: string): void {
    cut(outbox);
    outbox.events.onTooSlow(reason);
  }

  function afterSend(outbox: OpenOutbox): void {
    const bytes = outbox.sink.bufferedBytes();
    if (bytes >= LIMITS.feedBufferedBytesMax) {
      cutTooSlow(outbox, "too slow: too many bytes are waiting");
    } else if (outbox.state === "quick" && bytes > LIMITS.feedBufferedBytesSoft) turnSlow(outbox);
  }

  function send(outbox: OpenOutbox, stream: Stream, revision: Revision, kind: FrameKind): void {
    const { version } = revision.wallet;
    const conflated = kind === "change" ? version - stream.sentVersion - 1 : 0;
    if (conflated > 0) conflatedFrames++;
    stream.sentVersion = version;
    outbox.sink.send(frameText(revision, kind, conflated));
    afterSend(outbox);
  }

  function put(outbox: OpenOutbox, stream: Stream, revision: Revision, kind: FrameKind): void {
    switch (outbox.state) {
      case "cut":
        return;
      case "quick":
        send(outbox, stream, revision, kind);
        return;
      case "slow":
        // A snapshot that was not sent yet stays one and only gets newer: the client needs its
        // start.
        if (kind === "change" && stream.kept !== null) stream.kept.revision = revision;
        else stream.kept = { revision, kind };
        outbox.kept.add(stream);
        return;
      default:
        outbox.state satisfies never;
    }
  }

  /** Sends what is kept until the client is above the soft limit again. */
  function drain(outbox: OpenOutbox): void {
    for (const stream of outbox.kept) {
      if (outbox.state !== "slow") return;
      if (outbox.sink.bufferedBytes() > LIMITS.feedBufferedBytesSoft) return;
      const { kept } = stream;
      stream.kept = null;
      outbox.kept.delete(stream);
      if (kept !== null) send(outbox, stream, kept.revision, kept.kind);
    }
  }

  function checkSlow(): void {
    endCheck = null;
    const nowMs = clock.nowMs();
    for (const outbox of slow) {
      if (outbox.sink.bufferedBytes() > LIMITS.feedBufferedBytesSoft) {
        if (nowMs - outbox.slowSinceMs > LIMITS.feedSlowMs) {
          cutTooSlow(outbox, `too slow: nothing was read for ${LIMITS.feedSlowMs / 1000} s`);
        }
        continue;
      }
      outbox.slowSinceMs = nowMs;
      drain(outbox);
      const isStill = outbox.kept.size > 0;
      if (outbox.state !== "slow" || isStill) continue;
      if (outbox.sink.bufferedBytes() > LIMITS.feedBufferedBytesSoft) continue;
      outbox.state = "quick";
      slow.delete(outbox);
      outbox.events.onQuick();
    }
    if (slow.size > 0) endCheck ??= timers.after(LIMITS.feedDrainCheckMs, checkSlow);
  }

  return {
    open(sink, events) {
      const kept = new Set<Stream>();
      const outbox: OpenOutbox = { sink, events, kept, state: "quick", slowSinceMs: 0 };
      return {
        say(text) {
          if (outbox.state === "cut") return;
          sink.send(text);
          afterSend(outbox);
        },
        put: (stream, revision, kind) => put(outbox, stream, revision, kind),
        forget(stream) {
          stream.kept = null;
          outbox.kept.delete(stream);
        },
        get isSlow() {
          return outbox.state !== "quick";
        },
        cut: () => cut(outbox),
      };
    },
    get slowClients() {
      return slow.size;
    },
    get conflatedFrames() {
      return conflatedFrames;
    },
    stop() {
      endCheck?.();
      endCheck = null;
    },
  };
}
