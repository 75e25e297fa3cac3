/**
 * The watched wallets of a gateway. Each has one unbroken sequence of revisions, shared by all
 * clients that watch it: bus messages extend it, repetitions are dropped, and a gap is filled from
 * the journal once for everybody. A client joins the sequence where the database, read after it
 * subscribed, says the wallet is; or catches up from the journal, page by page at its own pace,
 * while newer changes are held back for it. The bus is listened to only for shards with a watched
 * wallet.
 */
import type { BaseLogger } from "pino";

import type { Bus } from "../../src/core/bus.ts";
import { LIMITS } from "../../src/limits.ts";
import type { FeedCounts } from "../../src/telemetry/metric-sources.ts";
import { SUBJECTS, type Change } from "../../src/core/protocol.ts";
import type { ReadModel, StoredEvent } from "../../src/core/read-model.ts";
import type { WalletState } from "../../src/core/wallet.ts";
import { isChange, revisionOfChange, revisionOfState, type Revision } from "./frames.ts";
import type { Outbox } from "./outbox.ts";
import { buildFeedShards } from "./shards.ts";
import { buildFeedReads, buildStaleReads, type FeedTimers } from "./reads.ts";
import {
  extend,
  isWatched,
  jump,
  keepEarly,
  newTopic,
  nextPage,
  rewind,
  startAt,
  takeEarly,
  takePage,
  moveWatch,
  deliver,
  versionOf,
  type Page,
  type PageWanted,
  type Topic,
  type Watch,
} from "./sequence.ts";

export interface FeedWallets {
  /** Begins a watch; its first frame comes later, never before this returns. */
  watch(walletId: string, outbox: Outbox, from: number | null, onMissing: () => void): Watch;
  end(watch: Watch): void;
  /** The watch's client reads again: a replay that paused for it goes on. */
  resume(watch: Watch): void;
  /**
   * Compares every watched wallet with the database once; what is behind is repaired. Resolves when
   * all were read.
   */
  sweep(): Promise<void>;
  readonly watches: number;
  stats(): FeedWalletCounts;
  /** Stops at once; resolves when no read is under way. */
  drain(): Promise<void>;
}

export type FeedWalletCounts = Pick<
  FeedCounts,
  "wallets" | "watches" | "repairs" | "resets" | "malformed" | "readFailures"
>;

interface Deps {
  readonly bus: Bus;
  readonly readModel: Pick<ReadModel, "walletsById" | "events">;
  readonly timers: FeedTimers;
  readonly log: Pick<BaseLogger, "warn">;
}

interface StateRead {
  readonly topic: Topic;
  /** Of the sequence before the read. */
  readonly version: number;
  /** Who subscribed before the read began, and so can rely on what it finds. */
  readonly joining: readonly Watch[];
  /** What it found; null: there is no such wallet. */
  readonly wallet: WalletState | null;
}

/** Builds the sequences; a read begins only after a wallet's shard is listened to. */
export function buildFeedWallets(deps: Deps): FeedWallets {
  const { bus, readModel, timers, log } = deps;
  const topics = new Map<string, Topic>();
  const shards = buildFeedShards((shard) => bus.subscribe(SUBJECTS.changes(shard), onChanges));
  const counters = { watches: 0, repairs: 0, resets: 0, malformed: 0 };
  const reads = buildFeedReads({ timers, log });
  const states = buildStaleReads({
    reads,
    topicsMax: LIMITS.feedReadWalletsMax,
    isWatched,
    read: readStates,
    take: (found) => found.forEach(takeState),
  });
  /** Topics that the bus may still bring up to date by itself. */
  const suspects = new Set<Topic>();
  const cancels: Record<"states" | "suspects" | "loss", (() => void) | null> = {
    states: null,
    suspects: null,
    loss: null,
  };

  // --- The bus -----------------------------------------------------------------------------------

  function onChanges(message: unknown, subject: string): void {
    for (const change of Array.isArray(message) ? (message as unknown[]) : [message]) {
      if (isChange(change)) takeChange(change);
      else if (counters.malformed++ === 0) {
        log.warn({ subject }, "something that is not a change came over the bus");
      }
    }
  }

  function takeChange(change: Change): void {
    const topic = topics.get(change.wallet.walletId);
    if (topic === undefined) return;
    const { version } = change.wallet;
    topic.knownVersion = Math.max(topic.knownVersion, version);
    if (topic.latest !== null && version <= versionOf(topic)) return;
    if (topic.latest === null || version === versionOf(topic) + 1) {
      extend(topic, revisionOfChange(change));
      takeEarly(topic);
    } else {
      keepEarly(topic, change);
      repair(topic);
    }
  }

  // --- Current states: joins and sweeps ----------------------------------------------------------

  /**
   * Reads the topic's state soon, together with all others that need it in this turn of the event
   * loop.
   */
  function readState(topic: Topic): void {
    states.add(topic);
    cancels.states ??= timers.after(0, () => {
      cancels.states = null;
      states.queue();
    });
  }

  async function readStates(wanted: readonly Topic[]): Promise<StateRead[]> {
    const before = wanted.map((topic) => {
      return { topic, version: versionOf(topic), joining: [...topic.joining] };
    });
    const wallets = await readModel.walletsById(wanted.map(({ walletId }) => walletId));
    const byId = new Map(wallets.map((wallet) => [wallet.walletId, wallet]));
    return before.map((it) => ({ ...it, wallet: byId.get(it.topic.walletId) ?? null }));
  }

  function takeState({ topic, version, joining, wallet }: StateRead): void {
    if (!isWatched(topic)) return;
    if (wallet !== null) compare(topic, version, wallet);
    const { latest } = topic;
    const newest =
      wallet !== null && (latest === null || wallet.version > latest.wallet.version)
        ? revisionOfState(wallet)
        : latest;
    for (const watch of joining) {
      if (watch.state !== "joining") continue;
      if (newest === null) {
        end(watch);
        watch.onMissing();
      } else join(topic, watch, newest);
    }
    readJournal(topic);
  }

  function join(topic: Topic, watch: Watch, newest: Revision): void {
    const { from } = watch;
    const { version } = newest.wallet;
    if (from === null) startAt(topic, watch, newest, "snapshot");
    else if (from < 0 || from > version || version - from > LIMITS.feedReplayEventsMax) {
      reset(topic, watch, newest);
    } else {
      watch.version = from;
      watch.sentVersion = from;
      moveWatch(topic, watch, "replaying");
      catchUp(topic, watch);
    }
  }

  function reset(topic: Topic, watch: Watch, revision: Revision): void {
    counters.resets++;
    startAt(topic, watch, revision, "reset");
  }

  /**
   * Holds the sequence against a state from the database, which is never behind what was published
   * before it was asked: if it is, the database has lost that. Unless another read has found so
   * meanwhile: then the sequence has begun anew already, and may be ahead of this state.
   */
  function compare(topic: Topic, versionBefore: number, wallet: WalletState): void {
    const { version } = wallet;
    if (version < versionBefore && versionBefore <= versionOf(topic)) {
      tellLoss(topic.walletId, version, versionBefore);
      counters.resets += rewind(topic, wallet);
      return;
    }
    topic.knownVersion = Math.max(topic.knownVersion, version);
    const behind = topic.latest === null ? Infinity : version - versionOf(topic);
    if (behind <= 0) return;
    if (topic.live.size > 0 && behind <= LIMITS.feedReplayEventsMax) suspect(topic);
    else counters.resets += jump(topic, wallet);
  }

  /** Once for all that are found soon after each other. */
  function tellLoss(walletId: string, version: number, published: number): void {
    if (cancels.loss !== null) return;
    cancels.loss = timers.after(LIMITS.troubleLogMs, () => {
      cancels.loss = null;
    });
    log.warn(
      { walletId, version, published },
      "the database lacks changes that were published: feeds begin anew with what it has",
    );
  }

  /**
   * The database is ahead of the sequence: mostly the change is on its way, so it gets a little
   * time.
   */
  function suspect(topic: Topic): void {
    suspects.add(topic);
    cancels.suspects ??= timers.after(LIMITS.feedLagMs, () => {
      cancels.suspects = null;
      const due = [...suspects];
      suspects.clear();
      for (const each of due) if (isWatched(each)) repair(each);
    });
  }

  // --- The journal: gaps and replays -------------------------------------------------------------

  /** Fills the gap between the sequence and the version that is known to exist, if there is one. */
  function repair(topic: Topic): void {
    if (topic.knownVersion <= versionOf(topic)) return;
    if (topic.knownVersion - versionOf(topic) > LIMITS.feedReplayEventsMax) readState(topic);
    else readJournal(topic);
  }

  async function readEvents(walletId: string, page: PageWanted): Promise<StoredEvent[]> {
    const { fromVersion, isRepair } = page;
    const events = await readModel.events(walletId, fromVersion, LIMITS.feedReplayPageEvents);
    if (!isRepair && events[0]?.version !== fromVersion) {
      throw new Error(`the journal does not have version ${fromVersion} of wallet ${walletId}`);
    }
    return events;
  }

  function readJournal(topic: Topic): void {
    if (topic.isReading || nextPage(topic) === null) return;
    topic.isReading = true;
    const read = async (): Promise<Page | null> => {
      const page = nextPage(topic);
      if (page === null) return null;
      topic.held = [];
      try {
        return { ...page, events: await readEvents(topic.walletId, page) };
      } catch (error) {
        topic.held = null;
        throw error;
      }
    };
    void reads.run(read, (page) => {
      if (page !== null) takeJournal(topic, page);
      topic.isReading = false;
      topic.held = null;
      readJournal(topic);
    });
  }

  function takeJournal(topic: Topic, page: Page): void {
    if (page.isRepair) counters.repairs++;
    // Whoever was served goes to the end of the queue, so that nobody's replay waits for
    // everybody's.
    for (const watch of takePage(topic, page)) {
      if (watch.state !== "replaying") continue;
      moveWatch(topic, watch, "replaying");
      catchUp(topic, watch);
    }
  }

  /** Lets a replay that reached the sequence, or what is held of its end, go on live. */
  function catchUp(topic: Topic, watch: Watch): void {
    const { latest, held } = topic;
    if (latest === null) return;
    const { version } = latest.wallet;
    if (watch.version >= version) {
      moveWatch(topic, watch, "live");
    } else if (
      held !== null &&
      held[0] !== undefined &&
      held[0].wallet.version <= watch.version + 1
    ) {
      moveWatch(topic, watch, "live");
      for (const revision of held) deliver(watch, revision);
    } else if (version - watch.version > LIMITS.feedReplayEventsMax) reset(topic, watch, latest);
  }

  // --- Watches -----------------------------------------------------------------------------------

  function end(watch: Watch): void {
    const topic = topics.get(watch.walletId);
    if (watch.state === "ended" || topic === undefined) return;
    moveWatch(topic, watch, "ended");
    watch.outbox.forget(watch);
    counters.watches--;
    if (isWatched(topic)) return;
    topics.delete(topic.walletId);
    states.drop(topic);
    suspects.delete(topic);
    shards.unlisten(topic.walletId);
  }

  return {
    watch(walletId, outbox, from, onMissing) {
      let topic = topics.get(walletId);
      if (topic === undefined) {
        topic = newTopic(walletId);
        topics.set(walletId, topic);
        shards.listen(walletId);
      }
      const start = { version: -1, sentVersion: -1, kept: null };
      const watch: Watch = { walletId, outbox, from, onMissing, state: "joining", ...start };
      topic.joining.add(watch);
      counters.watches++;
      readState(topic);
      return watch;
    },
    end,
    resume(watch) {
      const topic = topics.get(watch.walletId);
      if (topic !== undefined && watch.state === "replaying") readJournal(topic);
    },
    async sweep() {
      const walletIds = [...topics.keys()];
      for (let start = 0; start < walletIds.length; start += LIMITS.feedReadWalletsMax) {
        const batch = walletIds.slice(start, start + LIMITS.feedReadWalletsMax);
        const before = new Map<Topic, number>();
        await reads.run(
          () => {
            for (const topic of batch.flatMap((walletId) => topics.get(walletId) ?? [])) {
              before.set(topic, versionOf(topic));
            }
            return readModel.walletsById(batch);
          },
          (wallets) => {
            for (const wallet of wallets) {
              const topic = topics.get(wallet.walletId);
              if (topic === undefined || topic.latest === null) continue;
              // One that was watched anew meanwhile has nothing from before.
              compare(topic, before.get(topic) ?? -1, wallet);
            }
          },
        );
      }
    },
    get watches() {
      return counters.watches;
    },
    stats: () => ({ wallets: topics.size, ...counters, readFailures: reads.failures }),
    drain() {
      cancels.states?.();
      cancels.suspects?.();
      cancels.loss?.();
      shards.stop();
      return reads.drain();
    },
  };
}
