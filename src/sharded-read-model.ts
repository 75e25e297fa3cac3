/**
 * The read model over several databases, made of one for each. A wallet is asked for where its shard lives; what may be in any of them
 * is asked of all at once and merged. Every one gives as many rows as the whole answer may have, in the order of the answer, so a page
 * is right wherever its rows come from, and its last row is where the next page begins. A database that is away fails the questions
 * that need it and no others.
 */
import { LIMITS } from "./limits.ts";
import type { ReadModel } from "./read-model.ts";
import { shardOf } from "./shard.ts";

/** @param parts in the deployment's order: shard `s` is in `parts[s % parts.length]` */
export function buildShardedReadModel(parts: readonly ReadModel[]): ReadModel {
  const home = (walletId: string): ReadModel => parts[shardOf(walletId) % parts.length]!;

  async function fromAll<T>(ask: (part: ReadModel) => Promise<T[]>): Promise<T[]> {
    return (await Promise.all(parts.map(ask))).flat();
  }

  return {
    wallet: (walletId) => home(walletId).wallet(walletId),
    async walletsById(walletIds) {
      if (walletIds.length > LIMITS.queryRowsMax) {
        throw new RangeError(`${walletIds.length} ids are more than ${LIMITS.queryRowsMax}`);
      }
      const idsOf = new Map<ReadModel, string[]>();
      for (const walletId of walletIds) {
        const ids = idsOf.get(home(walletId));
        if (ids === undefined) idsOf.set(home(walletId), [walletId]);
        else ids.push(walletId);
      }
      const asked = [...idsOf].map(([part, ids]) => part.walletsById(ids));
      return (await Promise.all(asked)).flat();
    },
    walletAt: (walletId, version) => home(walletId).walletAt(walletId, version),
    async wallets(filter, limit, afterWalletId) {
      const found = await fromAll((part) => part.wallets(filter, limit, afterWalletId));
      return firstOf(found, limit, ({ walletId }) => walletId);
    },
    async walletIdsOfOwner(ownerId, limit) {
      const found = await fromAll((part) => part.walletIdsOfOwner(ownerId, limit));
      return firstOf(found, limit, (walletId) => walletId);
    },
    events: (walletId, ...rest) => home(walletId).events(walletId, ...rest),
    transactions: (walletId, ...rest) => home(walletId).transactions(walletId, ...rest),
    // Its payer's database has it, and the id does not tell which that is.
    transfer: (transferId) => firstFound(parts.map((part) => part.transfer(transferId))),
    transfersOf: (walletId, ...rest) => home(walletId).transfersOf(walletId, ...rest),
    async operations(commandId, walletId) {
      if (walletId !== null) return home(walletId).operations(commandId, walletId);
      const found = await fromAll((part) => part.operations(commandId, null));
      return found.slice(0, LIMITS.queryRowsMax);
    },
    // As long as one answers there are wallets to be served, and a gateway that gave up would take those away too.
    ping: () => Promise.any(parts.map((part) => part.ping())).catch(throwFirst),
    async close() {
      await Promise.all(parts.map((part) => part.close()));
    },
  };
}

/** In the order of the databases: ids are ASCII and sorted by it. What is behind the bound of one part may not be in order. */
function firstOf<T>(rows: readonly T[], limit: number, idOf: (row: T) => string): T[] {
  const sorted = rows.toSorted((one, other) => (idOf(one) < idOf(other) ? -1 : 1));
  return sorted.slice(0, Math.min(limit, LIMITS.queryRowsMax));
}

const NOT_HERE = Symbol("not here");

/** The first answer that is not null, without waiting for the others. Null is certain only when all have said so. */
async function firstFound<T>(answers: ReadonlyArray<Promise<T | null>>): Promise<T | null> {
  const found = answers.map(async (answer) => {
    const value = await answer;
    if (value === null) throw NOT_HERE;
    return value;
  });
  try {
    return await Promise.any(found);
  } catch (error) {
    const { errors } = error as AggregateError;
    const failure: unknown = errors.find((it) => it !== NOT_HERE);
    if (failure !== undefined) throw failure;
    return null;
  }
}

function throwFirst(error: unknown): never {
  throw (error as AggregateError).errors[0];
}
