/**
 * The feed hub: live balances for clients, whatever carries their frames. It knows who watches
 * which wallets and owners, answers their frames, and keeps every bound; `wallets.ts` makes the
 * unbroken sequences, `outbox.ts` the pace of each client. The bus may lose and repeat messages and
 * the database may be away for a while: a sweep and every reconnect hold what is watched against
 * the database, so a client misses nothing and is at most late.
 *
 * What a client has of one wallet:
 *
 *     (none) --subscribe to it--> direct --unsubscribe--> (none)
 *     (none) --subscribe to its owner--> by owner --unsubscribe the wallet--> muted
 *     muted --subscribe to either--> watched again
 *
 * direct and by owner may hold at once; unsubscribing the owner ends only the second. Unsubscribing
 * a wallet always silences it: one that came by its owner stays as muted, so that the owner's list
 * does not bring it back.
 */
import type { BaseLogger } from "pino";

import type { Bus } from "../../src/core/bus.ts";
import { LIMITS } from "../../src/limits.ts";
import type { FeedCounts } from "../../src/telemetry/metric-sources.ts";
import type { ReadModel } from "../../src/core/read-model.ts";
import { describe } from "../../src/core/rejection.ts";
import {
  answerText,
  errorText,
  parseClientFrame,
  type ClientFrame,
  type FeedProblem,
} from "./frames.ts";
import { buildOutboxes, type FeedSink, type Outbox } from "./outbox.ts";
import { buildFeedDatabases } from "./databases.ts";
import { buildFeedOwners, type OwnerWatch } from "./owners.ts";
import { buildFeedReads, type FeedTimers } from "./reads.ts";
import type { Watch } from "./sequence.ts";

export type { FeedSink, FeedTimers };

/** A connection as the hub sees it; the transport calls these. */
export interface FeedClient {
  /** A text frame arrived. */
  receive(text: string): void;
  /** A binary frame arrived; it is refused. */
  receiveBinary(): void;
  /**
   * The connection is gone, for whatever reason; nothing is sent after it. Must be called once,
   * also after `close`.
   */
  closed(): void;
}

export interface FeedHub {
  /**
   * Takes a new connection; past `LIMITS.feedClientsMax` it is closed with 1013, after `drain` with
   * 1001.
   */
  connect(sink: FeedSink): FeedClient;
  stats(): FeedCounts;
  /**
   * Closes every connection with 1001 and stops; resolves when no read of the database is under
   * way.
   */
  drain(): Promise<void>;
}

export interface FeedHubDeps {
  readonly bus: Bus;
  readonly readModel: Pick<ReadModel, "walletsById" | "walletIdsOfOwner" | "events">;
  readonly clock: { nowMs(): number };
  readonly timers: FeedTimers;
  readonly log: Pick<BaseLogger, "warn">;
  /** How many databases the shards are spread over: shard modulo count. Default: 1. */
  readonly databases?: number;
}

/** WebSocket close codes. */
const GOING_AWAY = 1001;
const POLICY_VIOLATION = 1008;
const TRY_AGAIN_LATER = 1013;

interface WatchedWallet {
  /** Null: muted. */
  watch: Watch | null;
  isDirect: boolean;
  /** The watched owner that brought it. */
  ownerId: string | null;
}

interface WatchedOwner {
  watch: OwnerWatch;
  /**
   * Versions to start from, until the owner's list has been taken. A wallet that has begun is
   * removed: it may be named again, by another client's list or a creation, and must not go back.
   */
  from: Map<string, number>;
  /** Wallets unsubscribed before the list could say whether they are the owner's. */
  readonly silenced: Set<string>;
  /** The client was told that not all of the owner's wallets fit. */
  isToldFull: boolean;
}

interface Client {
  readonly sink: FeedSink;
  readonly outbox: Outbox;
  readonly wallets: Map<string, WatchedWallet>;
  readonly owners: Map<string, WatchedOwner>;
  isOpen: boolean;
  /** Frames that may still arrive now, and when that was true; below 0 for a frame of many ids. */
  frames: number;
  framesAtMs: number;
}

/** Runs a task again and again with a pause between; `soon` does not wait for the pause to end. */
function buildSweep(timers: FeedTimers, task: () => Promise<void>) {
  let state: "resting" | "running" | "running, again" | "stopped" = "resting";
  let endRest = timers.after(LIMITS.feedSweepMs, run);
  function run(): void {
    state = "running";
    void task().then(() => {
      if (state === "running, again") run();
      else if (state === "running") {
        state = "resting";
        endRest = timers.after(LIMITS.feedSweepMs, run);
      }
    });
  }
  return {
    soon(): void {
      if (state === "running") state = "running, again";
      if (state !== "resting") return;
      endRest();
      run();
    },
    stop(): void {
      state = "stopped";
      endRest();
    },
  };
}

/**
 * Whether one more frame is within the client's rate; a bucket of `feedFramesBurst` that refills
 * steadily.
 */
function mayReceive(client: Client, nowMs: number): boolean {
  const gained = ((nowMs - client.framesAtMs) * LIMITS.feedFramesPerSecond) / 1_000;
  client.frames = Math.min(LIMITS.feedFramesBurst, client.frames + gained);
  client.framesAtMs = nowMs;
  if (client.frames < 1) return false;
  client.frames--;
  return true;
}

/**
 * Takes from the client's rate what a frame costs besides itself, as it is the ids that make work.
 * It is taken whatever is left: who names more than one may watch is told so, and not cut off.
 */
function chargeIds(client: Client, frame: ClientFrame): void {
  // `from` names wallets of the frame, or else of its owners.
  const versions = frame.type === "subscribe" ? frame.from.size : 0;
  const ids = Math.max(frame.walletIds.size, versions) + frame.ownerIds.size;
  client.frames -= Math.max(0, ids / LIMITS.feedIdsPerFrame - 1);
}

export function buildFeedHub(deps: FeedHubDeps): FeedHub {
  const { bus, readModel, clock, timers, log, databases = 1 } = deps;
  const outboxes = buildOutboxes({ clock, timers });
  const feedWallets = buildFeedDatabases({ bus, readModel, timers, log, databases });
  // An owner's wallets may live in any database, so a list waits for all of them, in a queue where
  // no wallet waits.
  const listReads = buildFeedReads({ timers, log, underWayMax: LIMITS.feedListReadsMax });
  const feedOwners = buildFeedOwners({ bus, readModel, reads: listReads });
  const clients = new Set<Client>();
  let isDrained = false;
  let tooSlow = 0;

  const sweeps = [
    ...feedWallets.sweeps.map((sweep) => buildSweep(timers, sweep)),
    buildSweep(timers, () => feedOwners.sweep()),
  ];
  const stopReconnect = bus.onReconnect(() => {
    for (const sweep of sweeps) sweep.soon();
  });

  // --- Clients -----------------------------------------------------------------------------------

  function open(sink: FeedSink): Client {
    const outbox = outboxes.open(sink, {
      onQuick: () => {
        for (const { watch } of client.wallets.values()) {
          if (watch !== null) feedWallets.resume(watch);
        }
      },
      onTooSlow: (reason) => {
        tooSlow++;
        close(client, TRY_AGAIN_LATER, reason);
      },
    });
    const client: Client = {
      sink,
      outbox,
      wallets: new Map(),
      owners: new Map(),
      isOpen: true,
      frames: LIMITS.feedFramesBurst,
      framesAtMs: clock.nowMs(),
    };
    return client;
  }

  /** Lets go of all that a client has; it still counts until its connection is gone. */
  function release(client: Client): void {
    client.isOpen = false;
    client.outbox.cut();
    for (const { watch } of client.wallets.values()) if (watch !== null) feedWallets.end(watch);
    for (const { watch } of client.owners.values()) feedOwners.end(watch);
    client.wallets.clear();
    client.owners.clear();
  }

  function close(client: Client, code: number, reason: string): void {
    if (!client.isOpen) return;
    release(client);
    client.sink.close(code, reason);
  }

  function complain(client: Client, problem: FeedProblem, about: Parameters<typeof errorText>[1]) {
    if (client.isOpen) client.outbox.say(errorText(problem, about));
  }

  // --- Subscriptions -----------------------------------------------------------------------------

  /** Begins to watch, or to watch again from a version; false when there is no room. */
  function watchWallet(
    client: Client,
    walletId: string,
    by: { from: number | undefined; ownerId: string | null },
  ): boolean {
    const known = client.wallets.get(walletId);
    if (known === undefined && client.wallets.size >= LIMITS.feedWalletsPerClientMax) return false;
    const entry = known ?? { watch: null, isDirect: false, ownerId: null };
    if (entry.watch === null && feedWallets.watches >= LIMITS.feedWatchesMax) return false;
    if (by.ownerId === null) {
      entry.isDirect = true;
      for (const { silenced } of client.owners.values()) silenced.delete(walletId);
    } else entry.ownerId = by.ownerId;
    client.wallets.set(walletId, entry);
    const former = entry.watch;
    if (former !== null && by.from === undefined) return true;
    entry.watch = feedWallets.watch(walletId, client.outbox, by.from ?? null, () => {
      client.wallets.delete(walletId);
      const message = describe({ code: "wallet_not_found", walletId });
      complain(client, { code: "wallet_not_found", message }, { walletId });
    });
    // After the new one began, so that the wallet's sequence is not given up in between.
    if (former !== null) feedWallets.end(former);
    for (const owner of client.owners.values()) owner.from.delete(walletId);
    return true;
  }

  function takeOwnersWallets(
    client: Client,
    owner: WatchedOwner,
    walletIds: readonly string[],
    isList: boolean,
  ): void {
    const { ownerId } = owner.watch;
    let missed = 0;
    for (const walletId of walletIds) {
      const from = owner.from.get(walletId);
      const known = client.wallets.get(walletId);
      // Muted by the client, or told before.
      if (known !== undefined && known.ownerId === ownerId && from === undefined) continue;
      if (owner.silenced.has(walletId)) {
        if (client.wallets.size < LIMITS.feedWalletsPerClientMax) {
          client.wallets.set(walletId, { watch: null, isDirect: false, ownerId });
        }
        continue;
      }
      if (!watchWallet(client, walletId, { from, ownerId })) missed++;
    }
    if (isList) {
      // Not emptied: it may be that of other owners of the frame, whose lists are still to come.
      owner.from = new Map();
      owner.silenced.clear();
    }
    if (missed === 0 || owner.isToldFull) return;
    owner.isToldFull = true;
    const message = `Not all wallets of owner ${ownerId} are watched: ${noRoom()}`;
    complain(client, { code: "too_many_subscriptions", message }, { ownerId });
  }

  function noRoom(): string {
    return feedWallets.watches >= LIMITS.feedWatchesMax
      ? `this gateway watches ${LIMITS.feedWatchesMax} wallets, its most`
      : `a connection may watch ${LIMITS.feedWalletsPerClientMax} wallets`;
  }

  /** Begins to watch the owner, or reads its list again; false when there is no room. */
  function watchOwner(client: Client, ownerId: string, from: Map<string, number>): boolean {
    const known = client.owners.get(ownerId);
    if (known === undefined && client.owners.size >= LIMITS.feedOwnersPerClientMax) return false;
    for (const [walletId, entry] of client.wallets) {
      if (entry.ownerId === ownerId && entry.watch === null) client.wallets.delete(walletId);
    }
    const watch = feedOwners.watch(ownerId, (walletIds, isList) => {
      takeOwnersWallets(client, owner, walletIds, isList);
    });
    const owner: WatchedOwner = { watch, from, silenced: new Set(), isToldFull: false };
    client.owners.set(ownerId, owner);
    if (known !== undefined) feedOwners.end(known.watch);
    return true;
  }

  function subscribe(client: Client, frame: Extract<ClientFrame, { type: "subscribe" }>): void {
    const { from } = frame;
    const accept = (ids: ReadonlySet<string>, take: (id: string) => boolean) =>
      [...ids].filter((id) => take(id));
    const wallets = accept(frame.walletIds, (walletId) =>
      watchWallet(client, walletId, { from: from.get(walletId), ownerId: null }),
    );
    const listed = new Map([...from].filter(([walletId]) => !frame.walletIds.has(walletId)));
    const owners = accept(frame.ownerIds, (ownerId) => watchOwner(client, ownerId, listed));
    client.outbox.say(answerText("subscribed", wallets, owners));
    const walletsMissed = frame.walletIds.size - wallets.length;
    if (walletsMissed > 0) {
      const message = `${walletsMissed} of ${frame.walletIds.size} wallets are not watched: ${noRoom()}`;
      complain(client, { code: "too_many_subscriptions", message }, {});
    }
    const ownersMissed = frame.ownerIds.size - owners.length;
    if (ownersMissed > 0) {
      const message = `${ownersMissed} of ${frame.ownerIds.size} owners are not watched: a connection may watch ${LIMITS.feedOwnersPerClientMax}`;
      complain(client, { code: "too_many_subscriptions", message }, {});
    }
  }

  function unsubscribe(client: Client, frame: Extract<ClientFrame, { type: "unsubscribe" }>): void {
    for (const ownerId of frame.ownerIds) {
      const owner = client.owners.get(ownerId);
      if (owner === undefined) continue;
      feedOwners.end(owner.watch);
      client.owners.delete(ownerId);
      for (const [walletId, entry] of client.wallets) {
        if (entry.ownerId !== ownerId) continue;
        entry.ownerId = null;
        if (entry.isDirect) continue;
        if (entry.watch !== null) feedWallets.end(entry.watch);
        client.wallets.delete(walletId);
      }
    }
    for (const walletId of frame.walletIds) {
      for (const { watch, silenced } of client.owners.values()) {
        const isListOwed = watch.state === "waiting";
        if (isListOwed && silenced.size < LIMITS.feedWalletsPerClientMax) silenced.add(walletId);
      }
      const entry = client.wallets.get(walletId);
      if (entry === undefined) continue;
      if (entry.watch !== null) feedWallets.end(entry.watch);
      entry.watch = null;
      entry.isDirect = false;
      if (entry.ownerId === null) client.wallets.delete(walletId);
    }
    client.outbox.say(answerText("unsubscribed", [...frame.walletIds], [...frame.ownerIds]));
  }

  // --- Frames ------------------------------------------------------------------------------------

  /** Whether the client's frame is to be looked at. */
  function admit(client: Client): boolean {
    if (!client.isOpen) return false;
    if (mayReceive(client, clock.nowMs())) return true;
    const message = `More than ${LIMITS.feedFramesPerSecond} frames per second, where each ${LIMITS.feedIdsPerFrame} ids of one count as a frame`;
    complain(client, { code: "rate_limited", message }, {});
    close(client, POLICY_VIOLATION, "rate limited");
    return false;
  }

  function receive(client: Client, text: string): void {
    if (!admit(client)) return;
    const parsed = parseClientFrame(text);
    if (!parsed.ok) return complain(client, parsed.problem, {});
    chargeIds(client, parsed.frame);
    if (parsed.frame.type === "subscribe") subscribe(client, parsed.frame);
    else unsubscribe(client, parsed.frame);
  }

  return {
    connect(sink) {
      const client = open(sink);
      if (isDrained) close(client, GOING_AWAY, "shutting down");
      else if (clients.size >= LIMITS.feedClientsMax) {
        close(client, TRY_AGAIN_LATER, "too many connections");
      } else clients.add(client);
      return {
        receive: (text) => receive(client, text),
        receiveBinary() {
          if (!admit(client)) return;
          const message = "The frame is binary; frames are JSON text";
          complain(client, { code: "validation_failed", message }, {});
        },
        closed() {
          release(client);
          clients.delete(client);
        },
      };
    },
    stats() {
      const { readFailures, ...counts } = feedWallets.stats();
      return {
        ...counts,
        clients: clients.size,
        slowClients: outboxes.slowClients,
        conflatedFrames: outboxes.conflatedFrames,
        owners: feedOwners.owners,
        tooSlow,
        readFailures: readFailures + listReads.failures,
      };
    },
    async drain() {
      isDrained = true;
      stopReconnect();
      for (const sweep of sweeps) sweep.stop();
      for (const client of clients) close(client, GOING_AWAY, "shutting down");
      feedOwners.stop();
      outboxes.stop();
      await Promise.all([feedWallets.drain(), listReads.drain()]);
    },
  };
}
