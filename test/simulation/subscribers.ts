/**
 * The feed's clients: connections to gateways that watch wallets and owners, some from the version
 * they had before, read slowly at times, and come back when their connection ends. What they got is
 * in the history.
 */
import { LIMITS } from "../../src/limits.ts";
import type { Cluster, GatewayMember } from "./cluster.ts";
import type { Recorder } from "./history.ts";
import type { Scheduler } from "./scheduler.ts";

export interface SubscribersDeps {
  readonly scheduler: Scheduler;
  readonly cluster: Cluster;
  readonly recorder: Recorder;
  readonly count: number;
  readonly walletIds: readonly string[];
}

export interface Subscribers {
  start(): void;
  /** From now on they stay, and read whatever comes. */
  readAll(): void;
}

export function buildSubscribers(deps: SubscribersDeps): Subscribers {
  const { scheduler, cluster, recorder, walletIds } = deps;
  const random = scheduler.random.stream("subscribers");
  let mayStall = true;

  /** One client for the whole run, over as many connections as it needs. */
  function live(name: string): void {
    const wanted = random.chance(0.3) ? [...walletIds] : walletIds.filter(() => random.chance(0.5));
    const owners = random.chance(0.4) ? ["owner-a"] : [];
    const seen = new Map<string, number>();

    function again(afterMs: number): void {
      scheduler.after(afterMs, "client connects", () => {
        const up = cluster.gateways.filter(({ state }) => state === "up");
        if (up.length === 0) again(200);
        else connect(random.pick(up));
      });
    }

    function connect(gateway: GatewayMember): void {
      const run = gateway.run!;
      const { process } = run;
      let isOver = false;
      /** When the latest frame reaches the client: none overtakes another. */
      let lastMs = 0;
      let stalledUntilMs = 0;
      /** Wallets of which frames come. */
      const watched = new Set<string>();

      function over(): void {
        if (isOver) return;
        isOver = true;
        run.onEnd.delete(over);
        recorder.unwatched(name);
        again(random.between(10, 500));
      }
      run.onEnd.add(over);

      function toClient(task: () => void): void {
        const atMs = Math.max(scheduler.nowMs + random.between(0.1, 2), lastMs, stalledUntilMs);
        lastMs = atMs;
        scheduler.at(atMs, "frame", () => {
          if (!isOver) task();
        });
      }

      function toGateway(task: () => void): void {
        process.after(random.between(0.1, 2), "client", task);
      }

      function take(text: string): void {
        if (scheduler.isTracing) scheduler.trace(name, `<- ${text}`);
        const frame: { type: string; walletId?: string; version?: number } = recorder.framed(
          name,
          text,
        );
        if (frame.walletId === undefined) return;
        if (frame.version !== undefined) {
          seen.set(frame.walletId, frame.version);
          watched.add(frame.walletId);
        }
        if (frame.type !== "error") return;
        // Not there yet: asked for again a moment later.
        const { walletId } = frame;
        recorder.unwatched(name, walletId);
        watched.delete(walletId);
        scheduler.after(random.between(50, 500), "client asks again", () => {
          // It may have come by its owner meanwhile.
          if (!isOver && !watched.has(walletId)) subscribe([walletId], []);
        });
      }

      function subscribe(wallets: readonly string[], ownerIds: readonly string[]): void {
        const from: Record<string, number> = {};
        for (const walletId of wallets) {
          const version = seen.get(walletId);
          if (version !== undefined && random.chance(0.7)) from[walletId] = version;
          recorder.watched(name, walletId, from[walletId] ?? null);
        }
        const text = JSON.stringify({ type: "subscribe", wallets, owners: ownerIds, from });
        if (scheduler.isTracing) scheduler.trace(name, `-> ${gateway.name} ${text}`);
        toGateway(() => client.receive(text));
      }

      function stall(): void {
        scheduler.after(random.between(200, 4_000), "client stalls", () => {
          if (isOver || !mayStall) return;
          stalledUntilMs = scheduler.nowMs + random.between(50, 1_500);
          stall();
        });
      }

      const isSlow = (): boolean => stalledUntilMs > scheduler.nowMs;
      const client = run.hub.connect({
        send: (text) => toClient(() => take(text)),
        bufferedBytes: () => (isSlow() ? LIMITS.feedBufferedBytesSoft + 1 : 0),
        close(code, reason) {
          if (scheduler.isTracing) process.trace(`closes ${name}: ${code} ${reason}`);
          toGateway(() => client.closed());
          toClient(over);
        },
      });
      if (random.chance(0.4)) stall();
      subscribe(wanted, owners);
      // Some leave and come back.
      if (random.chance(0.3)) {
        scheduler.after(random.between(500, 5_000), "client leaves", () => {
          if (isOver || !mayStall) return;
          toGateway(() => client.closed());
          over();
        });
      }
    }

    again(random.between(0, 2_000));
  }

  return {
    start() {
      for (let number = 1; number <= deps.count; number++) live(`client-${number}`);
    },
    readAll() {
      mayStall = false;
    },
  };
}
