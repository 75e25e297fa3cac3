/**
 * The actors of a lane that are in memory. The first message for a wallet makes its actor, asleep;
 * the next `wake` reads the states and active holds of all that sleep at once, and what has waited
 * in their mailboxes is delivered, in order. An actor goes when it was idle for long, when its
 * commit fails, and when its shard goes; nobody is told, since the journal has all that was
 * committed.
 *
 *     (none) --message--> asleep --wake--> being read --found, or not there--> loaded
 *                            ^                 |                                 |
 *                            +---read failed---+   (none) <--passivated, dropped-+
 *
 * In every state it goes when its shard does (forgotten).
 *
 * Invariant: who sleeps is in `sleeping` until a read for it begins; what a read brings is put into
 * the actor that it was made for, or nowhere. Only who is loaded is ever stepped.
 */
import { isDue } from "../src/core/hold.ts";
import type { Journal } from "../src/core/journal.ts";
import { LIMITS } from "../src/limits.ts";
import { keepHold, newItem, type Actor, type Item } from "./commit.ts";

/**
 * Waits for an answer of the journal, and then goes on. What a failed read was for is asked again by
 * who wanted it, so that only `failed` may keep it.
 */
export type Read = <T>(
  what: string,
  asked: Promise<T>,
  answered: (answer: T) => void,
  failed: () => void,
) => void;

export interface LaneActorsDeps {
  readonly journal: Pick<Journal, "loadWallets">;
  /** Deals with one message of a mailbox. */
  readonly deliver: (item: Item) => void;
  /** After all of them: goes on, and lets out what came of it. */
  readonly proceed: () => void;
  readonly read: Read;
}

export interface LaneActors {
  readonly byWalletId: ReadonlyMap<string, Actor>;
  /** Whether some sleep or are being read now. */
  readonly areWaking: boolean;
  /** The wallet's actor; one that sleeps if it was not in memory. */
  actorOf(walletId: string, shard: number): Actor;
  /** One read for all that sleep. */
  wake(): void;
  /** Its state is not to be trusted; the next message reads it again. */
  drop(actor: Actor): void;
  /** Takes the messages out of all mailboxes, those of one wallet in order. */
  emptyMailboxes(): Item[];
  /** Lets go of messages for sleeping actors that are not to be kept. */
  sift(isKept: (item: Item) => boolean): void;
  /**
   * Passivates actors: those idle for long, and where all together are too large, those idle for
   * longest. What has uncommitted state stays. Whose messages wait in the backlog may go: the same
   * turn deals with all of it anew, in order, before a later message can come, so they wait together
   * for the wallet to be read.
   */
  passivate(nowMs: number): void;
  /** Ends overdue holds of wallets whose own time is ahead of this wall clock. */
  expireAhead(wallMs: number): void;
  /**
   * Forgets the actors of shards that others serve now; returns the messages in their mailboxes.
   */
  forget(shards: ReadonlySet<number>): Item[];
}

export function buildLaneActors(deps: LaneActorsDeps): LaneActors {
  const actors = new Map<string, Actor>();
  let sleeping = new Set<Actor>();
  let reads = 0;

  /**
   * How long an actor may be idle now: less than the limit when all are too large, so much less
   * that an eighth of the bound becomes free. Who was used within a tick stays.
   */
  function idleMsAllowed(nowMs: number): number {
    const bytesByIdleTicks = new Float64Array(
      Math.ceil(LIMITS.actorIdleMs / LIMITS.laneTickMs) + 1,
    );
    let bytes = 0;
    for (const actor of actors.values()) {
      const ticks = Math.floor((nowMs - actor.lastUsedMs) / LIMITS.laneTickMs);
      bytesByIdleTicks[Math.min(ticks, bytesByIdleTicks.length - 1)]! += bytesOf(actor);
      bytes += bytesOf(actor);
    }
    if (bytes <= LIMITS.actorsBytesMax) return LIMITS.actorIdleMs;
    let ticks = 0;
    let room = (LIMITS.actorsBytesMax / 8) * 7;
    while ((room -= bytesByIdleTicks[ticks]!) >= 0) ticks += 1;
    return Math.min(Math.max(ticks, 1) * LIMITS.laneTickMs, LIMITS.actorIdleMs);
  }

  return {
    byWalletId: actors,

    get areWaking() {
      return sleeping.size + reads > 0;
    },

    actorOf(walletId, shard) {
      let actor = actors.get(walletId);
      if (actor === undefined) {
        actor = newActor(walletId, shard);
        actors.set(walletId, actor);
        sleeping.add(actor);
      }
      return actor;
    },

    wake() {
      if (sleeping.size === 0) return;
      const woken = sleeping;
      sleeping = new Set();
      const walletIds = Array.from(woken, (actor) => actor.walletId);
      reads += 1;
      deps.read(
        "recover wallets",
        deps.journal.loadWallets(walletIds),
        ({ wallets, holds }) => {
          reads -= 1;
          for (const hold of holds) {
            const actor = actors.get(hold.walletId);
            if (actor !== undefined && woken.has(actor)) keepHold(actor, hold);
          }
          for (const actor of woken) {
            if (actors.get(actor.walletId) !== actor) continue;
            const { state, hash } = wallets.get(actor.walletId)!;
            actor.state = state;
            actor.hash = hash;
            actor.loaded = true;
            for (const item of overdue(actor)) deps.deliver(item);
            const { mailbox } = actor;
            actor.mailbox = [];
            for (const item of mailbox) deps.deliver(item);
          }
          deps.proceed();
        },
        () => {
          reads -= 1;
          for (const actor of woken) {
            if (actors.get(actor.walletId) === actor) sleeping.add(actor);
          }
        },
      );
    },

    drop(actor) {
      actors.delete(actor.walletId);
    },

    emptyMailboxes() {
      const items: Item[] = [];
      for (const actor of actors.values()) {
        if (actor.mailbox.length === 0) continue;
        for (const item of actor.mailbox) items.push(item);
        actor.mailbox = [];
      }
      return items;
    },

    sift(isKept) {
      for (const actor of sleeping) actor.mailbox = actor.mailbox.filter(isKept);
    },

    passivate(nowMs) {
      const idleMsMax = idleMsAllowed(nowMs);
      for (const actor of actors.values()) {
        if (!actor.loaded || actor.uncommitted > 0 || actor.mailbox.length > 0) continue;
        if (nowMs - actor.lastUsedMs >= idleMsMax) actors.delete(actor.walletId);
      }
    },

    expireAhead(wallMs) {
      const ahead: Actor[] = [];
      for (const actor of actors.values()) {
        const { loaded, state, holds } = actor;
        if (loaded && holds !== null && state !== null && state.updatedAtMs > wallMs) {
          ahead.push(actor);
        }
      }
      for (const actor of ahead) for (const item of overdue(actor)) deps.deliver(item);
    },

    forget(shards) {
      const items: Item[] = [];
      for (const actor of actors.values()) {
        if (!shards.has(actor.shard)) continue;
        actors.delete(actor.walletId);
        sleeping.delete(actor);
        items.push(...actor.mailbox);
      }
      return items;
    },
  };
}

/**
 * Messages that end holds whose time is over by the wallet's own time, for before anything is
 * decided on them. `holds.ts` looks for due holds by this host's clock, which may be behind that of
 * a host that had the wallet. At most `LIMITS.holdsDueMax`; `expireAhead` brings the others.
 */
function overdue({ walletId, state, holds }: Actor): Item[] {
  if (state === null || holds === null) return [];
  const due = Array.from(holds.values()).filter((hold) => isDue(hold, state.updatedAtMs));
  return due
    .slice(0, LIMITS.holdsDueMax)
    .map(({ holdId }) => newItem({ type: "expire", walletId, holdId }, null));
}

/** What an actor takes of the heap, roughly. */
function bytesOf({ state, holds }: Actor): number {
  return LIMITS.actorBytes + (state?.metadata.length ?? 0) + (holds?.size ?? 0) * LIMITS.holdBytes;
}

function newActor(walletId: string, shard: number): Actor {
  return {
    walletId,
    shard,
    state: null,
    hash: null,
    loaded: false,
    holds: null,
    activeHolds: 0,
    mailbox: [],
    uncommitted: 0,
    mayBeDamaged: false,
    lastUsedMs: 0,
  };
}
