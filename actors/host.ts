/**
 * A host: owns shards, keeps a thread for each lane, and routes. Main thread only, so it does as
 * little as it can: what the bus brings goes to the lane of its shard, what lanes give back is
 * sorted by destination and sent. Which shards are its own is decided by `ownership.ts`; for one
 * that it does not have (yet, or any more) it says so, and the sender asks again.
 */
import type { Bus, Unsubscribe } from "../src/core/bus.ts";
import type { Time } from "../src/clock.ts";
import { LIMITS } from "../src/limits.ts";
import type { HostMeter } from "../src/telemetry/metrics.ts";
import {
  addressee,
  SUBJECTS,
  type BooksStatus,
  type Change,
  type Effects,
  type HostStatus,
  type Reply,
  type ShardMessage,
} from "../src/core/protocol.ts";
import { ALL_SHARDS, grouped, shardOf } from "../src/core/shard.ts";
import type { ShardTable } from "../src/core/shard-table.ts";
import { buildLaneGate, type LaneGate } from "./lane-gate.ts";
import type { StartLane } from "./lane-thread.ts";
import type { Membership } from "./membership.ts";
import { bytesOf, changeBytes, commandIn, isFor, parts, replyBytes } from "./messages.ts";
import { buildOwnership } from "./ownership.ts";
import type { ShardRelay } from "./relay.ts";

export interface HostDeps {
  readonly bus: Bus;
  readonly shardTable: ShardTable;
  /**
   * Null: this host is the only one; it takes every shard at its start and keeps it until somebody
   * else takes it.
   */
  readonly membership: Membership | null;
  readonly startLane: StartLane;
  /** Takes the events of the host's shards to others; without it they stay in the journal. */
  readonly relay?: ShardRelay;
  /** How many databases the shards are spread over: shard modulo count. */
  readonly databases: number;
  /** Rounded up so that every database has as many lanes as the others. */
  readonly laneCount: number;
  readonly hostId: string;
  /** Names this run in the shard table. */
  readonly owner: string;
  readonly time: Time;
  /** What its reconciliation knows, for its status. */
  readonly books?: () => BooksStatus;
  readonly log: Record<"info" | "warn" | "error" | "fatal", (text: string) => void>;
  /** Without one nothing is measured. */
  readonly meter?: HostMeter;
  /** A lane cannot be kept alive, or its journal has lost commits; the process has to end. */
  readonly onFatal: (reason: string) => void;
}

export interface Host {
  /**
   * Begins to serve; resolves when the lanes run and the first look at the shard table was tried.
   */
  start(): Promise<void>;
  status(): HostStatus;
  /**
   * Whether commands for the wallets of one database at least are carried out; with one database
   * the same as `status().ready`.
   */
  readonly isUsable: boolean;
  /** Takes no more commands, answers those it has, hands its shards over, and ends its threads. */
  drain(): Promise<void>;
}

export function buildHost(deps: HostDeps): Host {
  const { bus, log, time, owner, hostId, meter, relay } = deps;
  const startedAtMs = time.wallMs();
  const lanes: LaneGate[] = [];
  const lanesPerDatabase = Math.ceil(deps.laneCount / deps.databases);
  /** Shards whose messages are taken. */
  const serving = new Set<number>();
  /** Subscribed: serving, or refused so that senders hear at once that they have to ask again. */
  const subscriptions = new Map<number, Unsubscribe>();
  let stopServing: Unsubscribe | null = null;
  let hasStarted = false;
  let isDraining = false;
  let stopTicking = (): void => undefined;
  let stopListening = (): void => undefined;

  const ownership = buildOwnership({
    shardTable: deps.shardTable,
    membership: deps.membership,
    self: { hostId, owner, startedAtMs },
    time,
    log,
    isReachable: () => bus.state === "connected",
    open,
    leave: refuseFrom,
    drop(shards) {
      meter?.shardsMoved("lost", shards.length);
      refuseFrom(shards);
      unsubscribeSoon(shards);
    },
    announce(shards) {
      meter?.shardsMoved("handed over", shards.length);
      bus.publish(SUBJECTS.released, shards);
      unsubscribeSoon(shards);
    },
  });

  function laneOf(shard: number): LaneGate {
    const database = shard % deps.databases;
    const index = Math.floor(shard / deps.databases) % lanesPerDatabase;
    return lanes[database * lanesPerDatabase + index]!;
  }

  // ---- shards -----------------------------------------------------------------------------------

  function open(shards: readonly number[]): void {
    meter?.shardsMoved("taken", shards.length);
    for (const shard of shards) {
      serving.add(shard);
      laneOf(shard).assign(shard);
    }
    // The lanes hear of their shards before the first message for one can arrive.
    for (const lane of new Set(shards.map(laneOf))) lane.tick();
    for (const shard of shards) {
      if (subscriptions.has(shard)) continue;
      const take = (messages: readonly ShardMessage[]): void => accept(messages, shard);
      subscriptions.set(shard, bus.subscribe(SUBJECTS.shard(shard), take));
    }
    stopServing ??= bus.subscribe(SUBJECTS.serving, () => undefined);
    relay?.own(shards);
  }

  function refuseFrom(shards: readonly number[]): void {
    for (const shard of shards) {
      serving.delete(shard);
      laneOf(shard).unassign(shard);
    }
    for (const lane of new Set(shards.map(laneOf))) lane.tick();
    if (serving.size === 0) {
      stopServing?.();
      stopServing = null;
    }
    relay?.disown(shards);
  }

  /** Not before the next owner is subscribed: until then somebody has to say "not here". */
  function unsubscribeSoon(shards: readonly number[]): void {
    time.after(LIMITS.handOffLingerMs, () => {
      for (const shard of shards) {
        if (serving.has(shard)) continue;
        subscriptions.get(shard)?.();
        subscriptions.delete(shard);
      }
    });
  }

  // ---- in: bus -> lane --------------------------------------------------------------------------

  function accept(messages: readonly ShardMessage[], shard: number): void {
    if (!Array.isArray(messages)) return;
    const isSound = (message: ShardMessage): boolean => isFor(message, shard);
    // Mostly all are, and most lists have one: a filtered one would have room for sixteen more.
    const sound = messages.every(isSound) ? messages : messages.filter(isSound);
    if (sound.length < messages.length) {
      log.warn(`something that is no message for shard ${shard} arrived there`);
    }
    if (!serving.has(shard)) return refuse(sound);
    if (!isDraining) return laneOf(shard).accept(sound);
    // What is under way may end here; nothing new begins.
    const isNew = ({ type }: ShardMessage): boolean => type === "command" || type === "ask";
    refuse(sound.filter(isNew));
    laneOf(shard).accept(sound.filter((message) => !isNew(message)));
  }

  /** Tells whoever waits to ask again; a step that its coordinator repeats may be dropped. */
  function refuse(messages: readonly ShardMessage[]): void {
    const replies: Reply[] = [];
    for (const message of messages) {
      const command = commandIn(message);
      if (command === null) continue;
      const { inbox, seq } = command;
      replies.push({ inbox, seq, outcome: { type: "fault", fault: "unavailable" } });
    }
    reply(replies);
  }

  // ---- out: lane -> bus -------------------------------------------------------------------------

  function dispatch({ replies, messages, changes, lost }: Effects): void {
    if (replies.length > 0) reply(replies);
    if (messages.length > 0) {
      for (const [shard, batch] of grouped(messages, (one) => shardOf(addressee(one)))) {
        if (serving.has(shard)) laneOf(shard).accept(batch);
        else sendOut(shard, batch);
      }
    }
    if (changes.length > 0) announce(changes);
    if (lost.length > 0) ownership.lost(lost);
  }

  function reply(replies: readonly Reply[]): void {
    for (const [inbox, batch] of grouped(replies, (one) => one.inbox)) {
      for (const part of parts(batch, replyBytes)) bus.publish(inbox, part);
    }
  }

  function sendOut(shard: number, messages: readonly ShardMessage[]): void {
    for (const part of parts(messages, bytesOf)) {
      bus.publish(SUBJECTS.shard(shard), part, () => refuse(part));
    }
  }

  function announce(changes: readonly Change[]): void {
    const byShard = grouped(changes, (one) => shardOf(one.wallet.walletId));
    relay?.committed(byShard.keys());
    for (const [shard, batch] of byShard) {
      for (const part of parts(batch, changeBytes)) bus.publish(SUBJECTS.changes(shard), part);
    }
    for (const change of changes) {
      const { ownerId } = change.wallet;
      if (change.type !== "WalletCreated" || ownerId === null) continue;
      bus.publish(SUBJECTS.owners(shardOf(ownerId)), [change]);
    }
  }

  // ---- life -------------------------------------------------------------------------------------

  function startLane(index: number): LaneGate {
    const database = Math.floor(index / lanesPerDatabase);
    return buildLaneGate({
      plan: { name: `lane-${index}`, owner, database },
      startLane: deps.startLane,
      time,
      log,
      meter,
      dispatch,
      reply,
      onLeft: (shards) => ownership.left(shards),
      onFatal: deps.onFatal,
    });
  }

  /** What hosts say to each other, and what gateways ask them. */
  function listen(): void {
    const unsubscribes = [
      bus.subscribe(SUBJECTS.released, () => ownership.look()),
      bus.subscribe<{ inbox?: unknown }>(SUBJECTS.status, (question) => {
        const inbox = question?.inbox;
        if (typeof inbox === "string" && SUBJECTS.isInbox(inbox)) bus.publish(inbox, status());
      }),
    ];
    stopListening = () => {
      for (const unsubscribe of unsubscribes) unsubscribe();
    };
  }

  /** All but the lanes. */
  function isInPlace(): boolean {
    // Without a shard it is of use to nobody as long as it cannot take one.
    const isComplete =
      deps.membership === null
        ? serving.size === ALL_SHARDS.length
        : serving.size > 0 || ownership.isInView;
    return hasStarted && !isDraining && isComplete && ownership.isTableInSight;
  }

  function isReady(): boolean {
    return isInPlace() && lanes.every((lane) => lane.isServing);
  }

  /** As long as there are wallets to be served, a host that gave up would take those away too. */
  function isUsable(): boolean {
    const failing = new Set<number>();
    for (const { plan, isServing } of lanes) if (!isServing) failing.add(plan.database);
    return isInPlace() && failing.size < deps.databases;
  }

  function status(): HostStatus {
    return {
      hostId,
      owner,
      startedAt: new Date(startedAtMs).toISOString(),
      ready: isReady(),
      leaving: ownership.isLeaving,
      shards: [...serving].toSorted((a, b) => a - b),
      lanes: lanes.map(({ plan, assigned, isServing, stats, queued, outstanding }) => ({
        name: plan.name,
        shards: assigned.size,
        serving: isServing,
        actors: stats?.actors ?? 0,
        mailboxDepth: queued + (stats?.backlog ?? 0),
        outstanding,
        pendingTransfers: stats?.pendingTransfers ?? 0,
        damagedWallets: stats?.damagedWallets ?? 0,
      })),
      ...(deps.books !== undefined && { books: deps.books() }),
      relay: relay?.status() ?? [],
      handOffs: ownership.handOffs,
    };
  }

  /** Resolves when nothing is under way, at the latest after `withinMs`. */
  function quiet(withinMs: number): Promise<void> {
    const untilMs = time.nowMs() + withinMs;
    return new Promise((resolve) => {
      const look = (): void => {
        const isBusy = lanes.some((lane) => lane.isBusy);
        if (isBusy && time.nowMs() < untilMs) time.after(LIMITS.drainPollMs, look);
        else resolve();
      };
      look();
    });
  }

  return {
    async start() {
      for (let index = 0; index < lanesPerDatabase * deps.databases; index++) {
        lanes.push(startLane(index));
      }
      const tickAll = (): void => {
        for (const lane of lanes) lane.tick();
      };
      tickAll();
      stopTicking = time.every(LIMITS.laneTickMs, tickAll);
      listen();
      await ownership.start();
      hasStarted = true;
    },

    status,

    get isUsable() {
      return isUsable();
    },

    async drain() {
      isDraining = true;
      const isAlone = deps.membership === null;
      await quiet(isAlone ? LIMITS.commandDeadlineMs : LIMITS.handOffQuietMs);
      // Among others the successor goes on at once; alone, the last events would wait for the next
      // start.
      if (isAlone) await relay?.settle(LIMITS.relaySettleMs);
      await ownership.drain(LIMITS.handOffMs);
      stopTicking();
      stopListening();
      await Promise.all(lanes.map((lane) => lane.stop()));
      // Long enough for whoever still asks here to hear that the shards have moved.
      if (!isAlone)
        await new Promise<void>((resolve) => time.after(LIMITS.handOffLingerMs, resolve));
      for (const unsubscribe of subscriptions.values()) unsubscribe();
    },
  };
}
