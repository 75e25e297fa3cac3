/**
 * One watched wallet: the unbroken sequence of its revisions, shared by all clients that watch it,
 * and where each of them stands. Bus messages and journal pages extend the sequence, repetitions
 * are dropped, and what lies beyond a gap waits. It is only state and its moves, without I/O or
 * time; `wallets.ts` reads the database for it and decides when.
 *
 * A watch is one wallet in one client's stream:
 *
 *     joining --state read, no `from` (snapshot) or one that cannot be replayed (reset)--> live
 *        \-----state read, `from` n--> replaying --reached the sequence--> live
 *     replaying, live --more than feedReplayEventsMax behind (reset)--> live
 *     replaying, live --ahead of a database that has lost commits (reset)--> live
 *     any --end--> ended (final)
 *
 * joining: nothing was sent. replaying: `version` and all after `from` were sent, the journal has
 * what follows. live: `version` is at or ahead of the shared sequence, whose next revisions follow
 * without a gap. ended: nothing is sent.
 */
import { LIMITS } from "../../src/limits.ts";
import type { Change } from "../../src/core/protocol.ts";
import type { StoredEvent } from "../../src/core/read-model.ts";
import type { WalletState } from "../../src/core/wallet.ts";
import { revisionOfChange, revisionOfEvent, revisionOfState, type Revision } from "./frames.ts";
import type { Outbox, Stream } from "./outbox.ts";

export interface Watch extends Stream {
  readonly walletId: string;
  readonly outbox: Outbox;
  /** Last version the client has, when it says so. */
  readonly from: number | null;
  /** The wallet does not exist; the watch has ended already. */
  readonly onMissing: () => void;
  state: "joining" | "replaying" | "live" | "ended";
  /** Last version that was put into the outbox. */
  version: number;
}

/** A watched wallet. */
export interface Topic {
  readonly walletId: string;
  /** The newest revision of the unbroken sequence; null until the first is known. */
  latest: Revision | null;
  /** The journal is known to have at least this version. */
  knownVersion: number;
  readonly joining: Set<Watch>;
  /** In the order in which they were served last: the first has waited longest. */
  readonly replaying: Set<Watch>;
  readonly live: Set<Watch>;
  /** Changes beyond a gap, by version. */
  readonly early: Map<number, Change>;
  /** The end of the sequence since the journal read under way began; null while none is. */
  held: Revision[] | null;
  /** A journal read is queued or under way. */
  isReading: boolean;
  /** The last page was for the gap; the next one is for a replay, if both are needed. */
  wasRepair: boolean;
}

export interface PageWanted {
  readonly fromVersion: number;
  /** For a gap in the sequence, not for a replay. */
  readonly isRepair: boolean;
}

/** Events of a wallet from `fromVersion` on; fewer than a full page end at the journal's end. */
export interface Page extends PageWanted {
  readonly events: readonly StoredEvent[];
}

export function versionOf(topic: Topic): number {
  return topic.latest === null ? -1 : topic.latest.wallet.version;
}

export function newTopic(walletId: string): Topic {
  return {
    walletId,
    latest: null,
    knownVersion: -1,
    joining: new Set(),
    replaying: new Set(),
    live: new Set(),
    early: new Map(),
    held: null,
    isReading: false,
    wasRepair: false,
  };
}

/** The one function that moves a watch. */
export function moveWatch(topic: Topic, watch: Watch, state: Watch["state"]): void {
  if (watch.state !== "ended") topic[watch.state].delete(watch);
  watch.state = state;
  if (state !== "ended") topic[state].add(watch);
}

export function isWatched(topic: Topic): boolean {
  return topic.live.size + topic.replaying.size + topic.joining.size > 0;
}

/** Starts the watch's sequence, or starts it anew, at a revision. */
export function startAt(
  topic: Topic,
  watch: Watch,
  revision: Revision,
  kind: "snapshot" | "reset",
): void {
  watch.version = revision.wallet.version;
  moveWatch(topic, watch, "live");
  watch.outbox.put(watch, revision, kind);
}

export function deliver(watch: Watch, revision: Revision): void {
  const { version } = revision.wallet;
  // A client that joined from a newer read is ahead of the bus and has this already.
  if (version <= watch.version) return;
  if (version !== watch.version + 1) {
    throw new Error(`wallet ${watch.walletId}: version ${version} would follow ${watch.version}`);
  }
  watch.version = version;
  watch.outbox.put(watch, revision, "change");
}

/** Extends the sequence by its next revision. */
export function extend(topic: Topic, revision: Revision): void {
  topic.latest = revision;
  if (topic.held !== null) {
    // Past the bound what is held starts anew; who needed the rest reads the journal again.
    if (topic.held.length >= LIMITS.feedHeldChangesMax) topic.held = [];
    topic.held.push(revision);
  }
  for (const watch of topic.live) deliver(watch, revision);
}

/** Takes what waited beyond a gap that is closed now. */
export function takeEarly(topic: Topic): void {
  if (topic.early.size === 0) return;
  for (;;) {
    const next = topic.early.get(versionOf(topic) + 1);
    if (next === undefined) break;
    extend(topic, revisionOfChange(next));
  }
  const version = versionOf(topic);
  for (const early of topic.early.keys()) if (early <= version) topic.early.delete(early);
}

export function keepEarly(topic: Topic, change: Change): void {
  topic.early.set(change.wallet.version, change);
  if (topic.early.size <= LIMITS.feedHeldChangesMax) return;
  // The oldest goes: the journal will have it by the time it is read.
  const [oldest] = topic.early.keys();
  if (oldest !== undefined) topic.early.delete(oldest);
}

/**
 * Starts the sequence at a state from the database, or takes it up again there. Live watches that
 * miss what is left out get the state as a reset; returns how many.
 */
export function jump(topic: Topic, wallet: WalletState): number {
  const revision = revisionOfState(wallet);
  topic.latest = revision;
  if (topic.held !== null) topic.held = [];
  const behind = [...topic.live].filter((watch) => watch.version < wallet.version);
  for (const watch of behind) startAt(topic, watch, revision, "reset");
  takeEarly(topic);
  return behind.length;
}

/**
 * Takes the sequence back to a state from a database that has lost what was published since:
 * whoever was sent some of it gets the state as a reset; returns how many.
 */
export function rewind(topic: Topic, wallet: WalletState): number {
  const revision = revisionOfState(wallet);
  topic.latest = revision;
  topic.knownVersion = wallet.version;
  topic.early.clear();
  // A read under way begins behind what there is.
  if (topic.held !== null) topic.held = [];
  const ahead = [...topic.live, ...topic.replaying].filter(
    (watch) => watch.state === "live" || watch.version >= wallet.version,
  );
  for (const watch of ahead) startAt(topic, watch, revision, "reset");
  return ahead.length;
}

/** The journal page for which a read is due, or null. */
export function nextPage(topic: Topic): PageWanted | null {
  if (topic.latest === null) return null;
  const isBehind = topic.live.size > 0 && topic.knownVersion > versionOf(topic);
  let replay: Watch | null = null;
  for (const watch of topic.replaying) {
    // A slow client's replay rests; the journal keeps what it has not read.
    if (watch.outbox.isSlow) continue;
    replay = watch;
    break;
  }
  if (isBehind && (replay === null || !topic.wasRepair)) {
    return { fromVersion: versionOf(topic) + 1, isRepair: true };
  }
  return replay === null ? null : { fromVersion: replay.version + 1, isRepair: false };
}

/**
 * Gives a page of the journal to the replays it serves, and to the sequence what it lacks; returns
 * the replays served.
 */
export function takePage(topic: Topic, page: Page): Set<Watch> {
  const served = new Set<Watch>();
  const { latest } = topic;
  if (latest === null) return served;
  topic.wasRepair = page.isRepair;
  for (const event of page.events) {
    const revision = revisionOfEvent(latest.wallet, event);
    for (const watch of topic.replaying) {
      if (event.version !== watch.version + 1 || watch.outbox.isSlow) continue;
      served.add(watch);
      deliver(watch, revision);
    }
    if (event.version === versionOf(topic) + 1) extend(topic, revision);
  }
  takeEarly(topic);
  if (page.isRepair && page.events.length < LIMITS.feedReplayPageEvents) {
    // What the bus told is in the journal. A version that is not there was never true; else each
    // read gets further.
    if (page.events.length === 0) topic.early.clear();
    topic.knownVersion = Math.max(versionOf(topic), ...topic.early.keys());
  }
  return served;
}
