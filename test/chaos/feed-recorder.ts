/**
 * A client of the feed that writes down what it gets, and comes back with `from` after every loss.
 * It holds each frame against the one before: versions of a wallet follow each other without a gap
 * and without a repeat, whatever connection they came over. What the frames say is held against the
 * journal by `history-check.ts`.
 *
 *     connecting --open--> subscribed --close--> pausing --> connecting ...      (until `close`)
 */
import { WebSocket } from "ws";

const reconnectMs = 100;
const problemsMax = 10;

export interface FeedFrame {
  readonly walletId: string;
  readonly version: number;
  readonly balance: number;
  readonly held: number;
  readonly change: { readonly type: string; readonly amount: number | null } | null;
  readonly snapshot: boolean;
  readonly reset?: boolean;
  /** Versions directly before this one that it stands for as well. */
  readonly conflated: number;
}

export interface FeedRecorderOptions {
  readonly name: string;
  readonly port: number;
  readonly walletIds: readonly string[];
  /** Asks for everything from version 1 on; else it starts with a snapshot of each wallet. */
  readonly isFromStart: boolean;
  /** Drops its own connection after this long, again and again. Default: never. */
  readonly dropEveryMs?: number;
}

export interface FeedRecorder {
  readonly name: string;
  readonly frames: readonly FeedFrame[];
  /** Gaps, repeats, frames that nobody asked for. */
  readonly problems: readonly string[];
  /** Connections so far. */
  readonly connections: number;
  /** The newest version of a wallet it has; undefined: none yet. */
  last(walletId: string): number | undefined;
  close(): void;
}

export function recordFeed(options: FeedRecorderOptions): FeedRecorder {
  const { name, port, walletIds, isFromStart, dropEveryMs } = options;
  const frames: FeedFrame[] = [];
  const problems: string[] = [];
  const last = new Map<string, number>(isFromStart ? walletIds.map((id) => [id, 0]) : []);
  let connections = 0;
  let isClosed = false;
  let socket: WebSocket | undefined;
  let timer: NodeJS.Timeout | undefined;
  const dropping =
    dropEveryMs === undefined ? undefined : setInterval(() => socket?.terminate(), dropEveryMs);

  function complain(text: string): void {
    if (problems.length < problemsMax) problems.push(`feed ${name}: ${text}`);
  }

  function open(): void {
    const opened = new WebSocket(`ws://127.0.0.1:${port}/ws`, { handshakeTimeout: 5_000 });
    socket = opened;
    connections += 1;
    opened.on("open", () => {
      const from = Object.fromEntries(last);
      opened.send(JSON.stringify({ type: "subscribe", wallets: walletIds, from }));
    });
    opened.on("message", (data: Buffer) => take(JSON.parse(data.toString()) as Incoming));
    // A gateway that is away; `close` follows.
    opened.on("error", () => undefined);
    opened.on("close", () => {
      if (!isClosed) timer = setTimeout(open, reconnectMs);
    });
  }

  function take(incoming: Incoming): void {
    if (incoming.type === "subscribed") return;
    if (incoming.type !== "balance") {
      complain(`got ${JSON.stringify(incoming)}`);
      return;
    }
    const { type: _, ...frame } = incoming;
    const { walletId, version, snapshot, conflated } = frame;
    const before = last.get(walletId);
    if (snapshot ? before !== undefined : version - conflated !== (before ?? Number.NaN) + 1) {
      complain(`after version ${before} came ${JSON.stringify(frame)}`);
    }
    last.set(walletId, version);
    frames.push(frame);
  }

  open();
  return {
    name,
    frames,
    problems,
    get connections() {
      return connections;
    },
    last: (walletId) => last.get(walletId),
    close() {
      isClosed = true;
      clearInterval(dropping);
      clearTimeout(timer);
      socket?.terminate();
    },
  };
}

type Incoming =
  | ({ readonly type: "balance" } & FeedFrame)
  | { readonly type: "subscribed" }
  | Other;

/** An error, or what the contract does not know. */
interface Other {
  readonly type: "error";
}
