/**
 * Moves the events of one database's shards to one sink. Each shard goes by itself: its events are
 * read from its cursor on, in pages, and delivered one after another; shards do not wait for each
 * other. At most `shardsAtOnceMax` pages of `shardRowsMax` events are in memory. What is delivered
 * moves the cursor, which is saved a moment later: saved after and never before, so that a crash
 * anywhere repeats and loses nothing. A crash of the database may take a cursor back that it had
 * not written to disk, so they are compared now and then, and saved again: otherwise a shard in
 * which nothing happens any more would be repeated by the next relay that has it.
 *
 *     idle --commit, sweep--> due --page read--> busy --delivered--> idle or due
 *                              ^                   |
 *                              +--pause, open------+ failed or closed
 *
 * After a failure the rest of the page is forgotten and read again. A shard that the host gives up
 * leaves at once: its page is dropped after the event under way.
 */
import type { Time } from "../src/clock.ts";
import { LIMITS } from "../src/limits.ts";
import { messageOf } from "../src/message-of.ts";
import type { RelayStatus } from "../src/core/protocol.ts";
import type { Cursor, RelayEvent, RelayStore, Trouble } from "../src/core/relay-store.ts";
import { grouped } from "../src/core/shard.ts";
import type { Delivery, RelaySink } from "./relay-sink.ts";

export interface PumpDeps {
  readonly sink: RelaySink;
  readonly store: RelayStore;
  readonly time: Pick<Time, "nowMs" | "wallMs" | "after">;
  readonly log: { warn(text: string): void };
}

/** `lagMs` as of the last sweep. */
export type PumpStats = Omit<RelayStatus, "sink" | "state">;

export interface Pump {
  own(shards: readonly number[]): void;
  disown(shards: readonly number[]): void;
  /** These shards have new events. */
  committed(shards: readonly number[]): void;
  /**
   * Told by the sweep: the last position of each shard. Also measures how far behind the sink is.
   */
  sweep(lastPositions: ReadonlyMap<number, number>): Promise<void>;
  /** The sink is open. */
  wake(): void;
  stats(): PumpStats;
  /** Nothing is due that could be delivered now, and every cursor is saved. */
  readonly isSettled: boolean;
  /** Takes up no more events, waits for those under way, saves. */
  stop(): Promise<void>;
}

/** A shard on its way. */
interface Track {
  readonly shard: number;
  position: number;
  /** The highest position known to be in the journal. */
  last: number;
  /** Somebody has told of events that no read has looked for yet. */
  isHinted: boolean;
  isBusy: boolean;
  trouble: Trouble | null;
  /** Not tried again before this, by `Time.nowMs`; 0: at once. */
  notBeforeMs: number;
}

export function buildPump({ sink, store, time, log }: PumpDeps): Pump {
  const tracks = new Map<number, Track>();
  const unknown = new Set<number>();
  const unsaved = new Map<number, Cursor>();
  let busy = 0;
  let buffered = 0;
  let delivered = 0;
  let retries = 0;
  let lagMs = 0;
  let isStopped = false;
  let looking: Promise<void> | null = null;
  let isLookDue = false;
  let readPauseMs: number = LIMITS.relayRetryMs;
  let nextLookMs = Infinity;
  let cancelLook = (): void => undefined;
  let saving: Promise<void> | null = null;
  let isSaveDue = false;
  let quietUntilMs = 0;
  let nextCompareMs = time.nowMs() + LIMITS.relayCompareMs;

  // ---- reading ----------------------------------------------------------------------------------

  function lookIn(delayMs: number): void {
    const atMs = time.nowMs() + delayMs;
    if (isStopped || nextLookMs <= atMs) return;
    cancelLook();
    nextLookMs = atMs;
    cancelLook = time.after(delayMs, () => {
      nextLookMs = Infinity;
      look();
    });
  }

  function look(): void {
    if (isStopped) return;
    if (looking !== null) {
      isLookDue = true;
      return;
    }
    isLookDue = false;
    looking = readOn()
      .then(() => {
        readPauseMs = LIMITS.relayRetryMs;
        if (isLookDue) lookIn(0);
      })
      .catch((error: unknown) => {
        warn(`cannot read events for ${sink.label}: ${messageOf(error)}`);
        lookIn(readPauseMs);
        readPauseMs = Math.min(readPauseMs * 2, LIMITS.relayRetryMsMax);
      })
      .finally(() => {
        looking = null;
      });
  }

  async function readOn(): Promise<void> {
    // Also while the sink is closed: how far behind it is must be known.
    if (unknown.size > 0) await load();
    for (;;) {
      const chosen = choose();
      if (chosen.length === 0 || !sink.isOpen || isStopped) return;
      const rows = await read(chosen);
      const pages = grouped(rows, ({ shard }) => shard);
      for (const track of chosen) take(track, pages.get(track.shard) ?? []);
    }
  }

  /** What is told of during the read needs another one, and so does a read that has failed. */
  async function read(chosen: readonly Track[]): Promise<RelayEvent[]> {
    for (const track of chosen) track.isHinted = false;
    try {
      return await store.read(chosen, sink.shardRowsMax);
    } catch (error) {
      for (const track of chosen) track.isHinted = true;
      throw error;
    }
  }

  /** Cursors as the former owner of the shards left them. */
  async function load(): Promise<void> {
    await save();
    const shards = [...unknown];
    const cursors = await store.cursors(sink.name, shards, sink.beginsAtFirst);
    const lasts = await store.lastPositions(shards);
    const lastOf = new Map(lasts.map(({ shard, position }) => [shard, position]));
    for (const { shard, position, trouble } of cursors) {
      if (!unknown.delete(shard)) continue; // given up meanwhile
      const last = Math.max(lastOf.get(shard) ?? 0, position);
      // What was committed since is told to nobody: a read will find it.
      const notBeforeMs = trouble === null ? 0 : time.nowMs() + remainingMs(trouble);
      const isNew = { isHinted: true, isBusy: false, notBeforeMs };
      tracks.set(shard, { shard, position, last, trouble, ...isNew });
    }
    tellLost(shards.filter((shard) => unknown.has(shard)));
  }

  function tellLost(shards: readonly number[]): void {
    if (shards.length > 0) sink.lost?.(shards);
  }

  /**
   * Due shards, those that were taken longest ago first; tells the timer of the next one that
   * waits.
   */
  function choose(): Track[] {
    const nowMs = time.nowMs();
    const chosen: Track[] = [];
    const room = sink.shardsAtOnceMax - busy;
    for (const track of tracks.values()) {
      if (chosen.length >= room) break;
      if (track.isBusy || !isDue(track)) continue;
      const waitMs = track.notBeforeMs - nowMs;
      if (waitMs > 0) lookIn(waitMs);
      else chosen.push(track);
    }
    return chosen;
  }

  function isDue({ isHinted, last, position }: Track): boolean {
    return isHinted || last > position;
  }

  function take(track: Track, rows: readonly RelayEvent[]): void {
    const end = rows.at(-1)?.position ?? track.position;
    const isAll = rows.length < sink.shardRowsMax;
    track.last = isAll ? end : Math.max(track.last, end + 1);
    if (rows.length === 0 || tracks.get(track.shard) !== track) return;
    tracks.delete(track.shard);
    tracks.set(track.shard, track);
    track.isBusy = true;
    busy += 1;
    buffered += rows.length;
    void deliverAll(track, rows).finally(() => {
      track.isBusy = false;
      busy -= 1;
      buffered -= rows.length;
      lookIn(0);
    });
  }

  // ---- delivering -------------------------------------------------------------------------------

  /** In order, `windowMax` at a time; ends when nothing of the page is under way any more. */
  async function deliverAll(track: Track, rows: readonly RelayEvent[]): Promise<void> {
    const underWay: Array<{ row: RelayEvent; delivery: Promise<Delivery> }> = [];
    let isHalted = false;

    async function settleFirst(): Promise<void> {
      const { row, delivery } = underWay.shift()!;
      const result = await delivery;
      // What was delivered behind a failure comes again: the cursor stands before the failure.
      if (!isHalted) isHalted = !settle(track, row, result);
    }

    let next = track.position + 1;
    for (const row of rows) {
      if (isHalted || isStopped || tracks.get(track.shard) !== track) break;
      if (row.position !== next) {
        stall(track, next, row.position);
        break;
      }
      next += 1;
      underWay.push({ row, delivery: deliver(row, track.trouble) });
      while (underWay.length >= sink.windowMax) await settleFirst();
    }
    while (underWay.length > 0) await settleFirst();
  }

  async function deliver(row: RelayEvent, trouble: Trouble | null): Promise<Delivery> {
    try {
      return await sink.deliver(row, trouble);
    } catch (error) {
      return { type: "failed", reason: messageOf(error), retryInMs: LIMITS.relayRetryMsMax };
    }
  }

  /** False: nothing behind this event may be settled. */
  function settle(track: Track, row: RelayEvent, delivery: Delivery): boolean {
    switch (delivery.type) {
      case "delivered":
      case "passed":
        if (delivery.type === "delivered") delivered += 1;
        track.position = row.position;
        track.trouble = null;
        saveSoon(track);
        return true;
      case "failed":
        retries += 1;
        fail(track, delivery.reason, delivery.retryInMs);
        saveSoon(track);
        return false;
      case "closed":
        retries += 1;
        return false;
      default:
        return delivery satisfies never;
    }
  }

  function fail(track: Track, reason: string, retryInMs: number): void {
    const before = track.trouble;
    const wallMs = time.wallMs();
    track.notBeforeMs = time.nowMs() + retryInMs;
    track.trouble = {
      attempts: (before?.attempts ?? 0) + 1,
      failingSinceMs: before?.failingSinceMs ?? wallMs,
      retryAtMs: wallMs + retryInMs,
      reason,
    };
  }

  /**
   * Of the pause that another host began; below 0 when it is over. Its clock may be hours ahead of
   * this one, so no longer than the longest pause that there is.
   */
  function remainingMs({ retryAtMs }: Trouble): number {
    return Math.min(retryAtMs - time.wallMs(), LIMITS.webhookRetryMsMax);
  }

  /**
   * Positions without gaps are what makes the relay complete: it does not go past one that is
   * missing.
   */
  function stall(track: Track, missing: number, found: number): void {
    const reason = `shard ${track.shard} has no event at position ${missing} and one at ${found}`;
    warn(`${sink.label} stops there: ${reason}`);
    fail(track, reason, LIMITS.relayRetryMsMax);
  }

  // ---- cursors ----------------------------------------------------------------------------------

  function saveSoon({ shard, position, trouble }: Track): void {
    unsaved.set(shard, { shard, position, trouble });
    if (isSaveDue) return;
    isSaveDue = true;
    time.after(LIMITS.relaySaveMs, () => {
      isSaveDue = false;
      save().catch(() => undefined);
    });
  }

  /** One statement at a time. What cannot be saved now goes with the next one. */
  async function save(): Promise<void> {
    while (saving !== null) await saving.catch(() => undefined);
    if (unsaved.size === 0) return;
    const cursors = [...unsaved.values()];
    unsaved.clear();
    saving = store
      .save(sink.name, cursors)
      .catch((error: unknown) => {
        for (const cursor of cursors) {
          if (!unsaved.has(cursor.shard)) unsaved.set(cursor.shard, cursor);
        }
        warn(`cannot save how far ${sink.label} is: ${messageOf(error)}`);
        throw error;
      })
      .finally(() => {
        saving = null;
      });
    await saving;
  }

  /**
   * What is known here is what was delivered: a row behind it was taken back, and one that is gone
   * was removed.
   */
  async function compare(): Promise<void> {
    const places = [...tracks.values()].map(({ shard, position }) => ({ shard, position }));
    if (places.length === 0) return;
    const shards = places.map(({ shard }) => shard);
    const cursors = await store.cursors(sink.name, shards, sink.beginsAtFirst);
    const saved = new Map(cursors.map(({ shard, position }) => [shard, position]));
    for (const { shard, position } of places) {
      const track = tracks.get(shard);
      if (track !== undefined && (saved.get(shard) ?? position) < position) saveSoon(track);
    }
    tellLost(shards.filter((shard) => !saved.has(shard) && tracks.has(shard)));
  }

  // ---- the rest ---------------------------------------------------------------------------------

  function warn(text: string): void {
    if (time.nowMs() < quietUntilMs) return;
    quietUntilMs = time.nowMs() + LIMITS.troubleLogMs;
    log.warn(text);
  }

  function lagging(): Track[] {
    return [...tracks.values()].filter(({ last, position }) => last > position);
  }

  return {
    own(shards) {
      for (const shard of shards) if (!tracks.has(shard)) unknown.add(shard);
      lookIn(0);
    },

    disown(shards) {
      for (const shard of shards) {
        unknown.delete(shard);
        tracks.delete(shard);
      }
      save().catch(() => undefined);
    },

    committed(shards) {
      for (const shard of shards) {
        const track = tracks.get(shard);
        if (track !== undefined) track.isHinted = true;
      }
      lookIn(LIMITS.relayGatherMs);
    },

    async sweep(lastPositions) {
      for (const track of tracks.values()) {
        // Never less than before: more may have been read since this was asked.
        track.last = Math.max(lastPositions.get(track.shard) ?? 0, track.last);
      }
      lookIn(0);
      if (unsaved.size > 0) save().catch(() => undefined);
      if (time.nowMs() >= nextCompareMs) {
        await compare();
        nextCompareMs = time.nowMs() + LIMITS.relayCompareMs;
      }
      const behind = lagging().map(({ shard, position }) => ({ shard, position }));
      const oldestAtMs = behind.length === 0 ? null : await store.oldestBehind(behind);
      lagMs = oldestAtMs === null ? 0 : Math.max(0, time.wallMs() - oldestAtMs);
    },

    wake: () => lookIn(0),

    stats() {
      const behind = lagging();
      const failing = [...tracks.values()].filter(({ trouble }) => trouble !== null);
      return {
        delivered,
        retries,
        lagEvents: behind.reduce((sum, { last, position }) => sum + last - position, 0),
        lagMs: behind.length === 0 ? 0 : lagMs,
        failingShards: failing.length,
        reason: failing[0]?.trouble?.reason ?? null,
        buffered,
      };
    },

    get isSettled() {
      const hasDue =
        unknown.size > 0 ||
        [...tracks.values()].some((track) => track.trouble === null && isDue(track));
      return (!sink.isOpen || !hasDue) && busy === 0 && unsaved.size === 0 && saving === null;
    },

    async stop() {
      isStopped = true;
      cancelLook();
      const untilMs = time.nowMs() + LIMITS.relaySettleMs;
      while ((busy > 0 || looking !== null) && time.nowMs() < untilMs) {
        await new Promise<void>((resolve) => time.after(LIMITS.drainPollMs, resolve));
      }
      await save().catch(() => undefined);
    },
  };
}
