/**
 * The watched owners of a gateway: which wallets an owner has, and which are created while somebody
 * watches. The list comes from the database, read after the watch began; creations come over the
 * bus, and since the bus may lose them a sweep reads the lists again and tells what is new. It only
 * names wallets, perhaps more than once; watching them is the caller's part.
 *
 *     waiting --list read--> told      any --end--> ended (final)
 *
 * waiting: a list read from now on is owed. told: the watch has had every wallet in `known`. ended:
 * nothing is told.
 */
import type { Bus } from "../../src/core/bus.ts";
import { LIMITS } from "../../src/limits.ts";
import { SUBJECTS } from "../../src/core/protocol.ts";
import type { ReadModel } from "../../src/core/read-model.ts";
import { isChange } from "./frames.ts";
import { buildFeedShards } from "./shards.ts";
import { buildStaleReads, type FeedReads } from "./reads.ts";

/** One more than a client can watch, so that too many are noticed. */
const LIST_MAX = LIMITS.feedWalletsPerClientMax + 1;

export interface OwnerWatch {
  readonly ownerId: string;
  /** Names wallets of the owner. `isList`: these are all it has (of at most `LIST_MAX`). */
  readonly onWallets: (walletIds: readonly string[], isList: boolean) => void;
  state: "waiting" | "told" | "ended";
}

export interface FeedOwners {
  watch(ownerId: string, onWallets: OwnerWatch["onWallets"]): OwnerWatch;
  end(watch: OwnerWatch): void;
  /** Reads every watched owner's list once. */
  sweep(): Promise<void>;
  readonly owners: number;
  stop(): void;
}

interface OwnerTopic {
  readonly ownerId: string;
  readonly watches: Set<OwnerWatch>;
  /** Wallets that every `told` watch has been told of. */
  readonly known: Set<string>;
}

interface List {
  readonly topic: OwnerTopic;
  readonly waiting: readonly OwnerWatch[];
  readonly walletIds: readonly string[];
}

export function buildFeedOwners(deps: {
  readonly bus: Bus;
  readonly readModel: Pick<ReadModel, "walletIdsOfOwner">;
  readonly reads: FeedReads;
}): FeedOwners {
  const { bus, readModel, reads } = deps;
  const topics = new Map<string, OwnerTopic>();
  const shards = buildFeedShards((shard) => bus.subscribe(SUBJECTS.owners(shard), onCreations));
  /** Owners whose list is owed to somebody. */
  const lists = buildStaleReads({
    reads,
    topicsMax: 1,
    isWatched: (topic: OwnerTopic) => topic.watches.size > 0,
    read: ([topic]) => readList(topic!),
    take: takeList,
  });

  function onCreations(message: unknown): void {
    for (const change of Array.isArray(message) ? (message as unknown[]) : [message]) {
      if (!isChange(change) || change.type !== "WalletCreated") continue;
      const { walletId, ownerId } = change.wallet;
      const topic = ownerId === null ? undefined : topics.get(ownerId);
      if (topic !== undefined && !topic.known.has(walletId)) tell(topic, [walletId]);
    }
  }

  function tell(topic: OwnerTopic, walletIds: readonly string[]): void {
    // Beyond twice the list nobody can watch them all; then some are told again.
    if (topic.known.size < 2 * LIST_MAX)
      for (const walletId of walletIds) topic.known.add(walletId);
    for (const watch of topic.watches) watch.onWallets(walletIds, false);
  }

  /** Reads one list, for the watches that wait for it when the read begins. */
  async function readList(topic: OwnerTopic): Promise<List> {
    const waiting = [...topic.watches].filter((watch) => watch.state === "waiting");
    const walletIds = await readModel.walletIdsOfOwner(topic.ownerId, LIST_MAX);
    return { topic, waiting, walletIds };
  }

  function takeList({ topic, waiting, walletIds }: List): void {
    const fresh = walletIds.filter((walletId) => !topic.known.has(walletId));
    if (fresh.length > 0) tell(topic, fresh);
    for (const watch of waiting) {
      if (watch.state !== "waiting") continue;
      watch.state = "told";
      watch.onWallets(walletIds, true);
    }
  }

  return {
    watch(ownerId, onWallets) {
      let topic = topics.get(ownerId);
      if (topic === undefined) {
        topic = { ownerId, watches: new Set(), known: new Set() };
        topics.set(ownerId, topic);
        shards.listen(ownerId);
      }
      const watch: OwnerWatch = { ownerId, onWallets, state: "waiting" };
      topic.watches.add(watch);
      lists.add(topic);
      lists.queue();
      return watch;
    },
    end(watch) {
      const topic = topics.get(watch.ownerId);
      if (topic === undefined || watch.state === "ended") return;
      watch.state = "ended";
      topic.watches.delete(watch);
      if (topic.watches.size > 0) return;
      topics.delete(topic.ownerId);
      lists.drop(topic);
      shards.unlisten(topic.ownerId);
    },
    async sweep() {
      for (const topic of topics.values()) await reads.run(() => readList(topic), takeList);
    },
    get owners() {
      return topics.size;
    },
    stop() {
      shards.stop();
    },
  };
}
