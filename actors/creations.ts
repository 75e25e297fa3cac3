/**
 * Creations without a wallet id, while they are under way in a lane. The gateway proposes a wallet
 * id each time, and all that carry one key (the caller's, or a command id that a gateway made and
 * the caller repeats) must reach the wallet that the first of them made: here, if that one is under
 * way, or by the journal. Every proposal for a key lies in the key's shard, so one lane sees them
 * all.
 *
 *     (none) --first with the key--> unresolved --journal asked--> resolved
 *     resolved --last one done--> (none)
 *
 * unresolved: all with the key wait. resolved: they go to the wallet id that the journal has for
 * the key, or, if it has none, to the first proposal.
 */
import type { Journal } from "../src/core/journal.ts";
import type { CommandMessage } from "../src/core/protocol.ts";
import { shardOf } from "../src/core/shard.ts";
import { newItem, type Item } from "./commit.ts";
import type { Read } from "./lane-actors.ts";

export interface CreationsDeps {
  readonly journal: Pick<Journal, "loadCreated">;
  /** Deals with messages, as far as that goes, and lets out what came of it. */
  readonly deliver: (items: readonly Item[]) => void;
  readonly read: Read;
}

interface Creation {
  readonly key: string;
  readonly shard: number;
  /** Null until the journal was asked. */
  walletId: string | null;
  /** Items with the key that are not finished; with the last one the entry goes. */
  users: number;
  waiting: Item[];
}

export interface Creations {
  /** The item for the wallet that it has to reach, or null: then it waits. */
  enter(item: Item, message: CommandMessage): Item | null;
  /** Asks the journal for the keys that messages wait for. */
  lookUp(): void;
  /** The item was dealt with, or refused. */
  finished(item: Item): void;
  /** The item will enter again: only the journal knows by now which wallet its key made. */
  reenter(item: Item): void;
  /** Lets go of waiting items that are not to be kept. */
  sift(isKept: (item: Item) => boolean): void;
  /** Forgets creations in shards that others serve now; returns who waited. */
  forget(shards: ReadonlySet<number>): Item[];
}

export function buildCreations(deps: CreationsDeps): Creations {
  const byKey = new Map<string, Creation>();
  let unresolved = new Set<Creation>();

  /**
   * An answer for an entry that has gone meanwhile is of no use, even when the key is here again.
   */
  function isCurrent(creation: Creation): boolean {
    return byKey.get(creation.key) === creation;
  }

  /** By key, the wallet ids that the journal knows. */
  function resolve(asked: ReadonlySet<Creation>, created: ReadonlyMap<string, string>): void {
    const items: Item[] = [];
    for (const creation of asked) {
      if (!isCurrent(creation)) continue;
      const { waiting } = creation;
      creation.waiting = [];
      for (const item of waiting) {
        const { command } = item.message as CommandMessage;
        creation.walletId ??= created.get(creation.key) ?? command.walletId;
        items.push(redirected(item, creation.walletId));
      }
    }
    deps.deliver(items);
  }

  function finished({ creationKey }: Item): void {
    const creation = creationKey === null ? undefined : byKey.get(creationKey);
    if (creation === undefined) return;
    creation.users -= 1;
    if (creation.users === 0) byKey.delete(creation.key);
  }

  return {
    finished,
    reenter(item) {
      finished(item);
      item.creationKey = null;
    },
    enter(item, message) {
      const { commandId: key, walletId } = message.command;
      let creation = byKey.get(key);
      if (creation === undefined) {
        creation = { key, shard: shardOf(walletId), walletId: null, users: 0, waiting: [] };
        byKey.set(key, creation);
        unresolved.add(creation);
      }
      creation.users += 1;
      item.creationKey = key;
      if (creation.walletId !== null) return redirected(item, creation.walletId);
      creation.waiting.push(item);
      return null;
    },

    lookUp() {
      if (unresolved.size === 0) return;
      const asked = unresolved;
      unresolved = new Set();
      deps.read(
        "look up creations",
        deps.journal.loadCreated(Array.from(asked, ({ key }) => key)),
        (created) => resolve(asked, created),
        () => {
          for (const creation of asked) if (isCurrent(creation)) unresolved.add(creation);
        },
      );
    },

    sift(isKept) {
      for (const creation of byKey.values()) creation.waiting = creation.waiting.filter(isKept);
    },

    forget(shards) {
      const items: Item[] = [];
      for (const creation of byKey.values()) {
        if (!shards.has(creation.shard)) continue;
        items.push(...creation.waiting);
        creation.waiting = [];
      }
      return items;
    },
  };
}

function redirected(item: Item, walletId: string): Item {
  const message = item.message as CommandMessage;
  const command = { ...message.command, walletId };
  const { creationKey, inDoubt } = item;
  return { ...newItem({ ...message, command }, item.turn), creationKey, inDoubt };
}
