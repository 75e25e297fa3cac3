/**
 * The read model of a simulated cluster: what its gateways and feeds ask, over all of its
 * databases. Every question sees one moment of each database, and fails as `database.ts` plans it.
 */
import type { Hold } from "../../src/core/hold.ts";
import { LIMITS } from "../../src/limits.ts";
import type { Operation, ReadModel, StoredEvent } from "../../src/core/read-model.ts";
import { shardOf } from "../../src/core/shard.ts";
import type { Caller, SimulatedDatabase } from "./database.ts";
import { metadataAt, type Tables } from "./tables.ts";

/** What gateways and feeds of a simulated cluster ask. */
export type SimulatedReads = Pick<
  ReadModel,
  | "wallet"
  | "walletsById"
  | "walletAt"
  | "walletIdsOfOwner"
  | "events"
  | "transfer"
  | "operations"
  | "holdAt"
>;

/** Reads of all databases; a wallet is where its shard is. */
export function buildSimulatedReads(
  databases: readonly SimulatedDatabase[],
  caller: Caller,
): SimulatedReads {
  const at = (walletId: string): SimulatedDatabase =>
    databases[shardOf(walletId) % databases.length]!;
  async function everywhere<T>(statement: (tables: Tables) => T[]): Promise<T[]> {
    const parts = await Promise.all(
      databases.map((database) => database.ask(caller, "read", statement)),
    );
    return parts.flat();
  }
  return {
    wallet: (walletId) =>
      at(walletId).ask(caller, "read", ({ wallets }) => wallets.get(walletId) ?? null),
    async walletsById(walletIds) {
      if (walletIds.length > LIMITS.queryRowsMax) {
        throw new RangeError(`${walletIds.length} ids are more than ${LIMITS.queryRowsMax}`);
      }
      const parts = databases.map((database) => ({
        database,
        ids: walletIds.filter((walletId) => at(walletId) === database),
      }));
      const found = await Promise.all(
        parts
          .filter(({ ids }) => ids.length > 0)
          .map(({ database, ids }) =>
            database.ask(caller, "read", ({ wallets }) => ids.map((id) => wallets.get(id))),
          ),
      );
      return found.flat().filter((wallet) => wallet !== undefined);
    },
    walletAt: (walletId, version) =>
      at(walletId).ask(caller, "read", (tables) => {
        const wallet = tables.wallets.get(walletId);
        const event = tables.byVersion.get(`${walletId} ${version}`);
        if (wallet === undefined || event === undefined) return null;
        const { balanceMinor, heldMinor, status, occurredAtMs: updatedAtMs } = event;
        const metadata = metadataAt(tables, walletId, version);
        return { ...wallet, balanceMinor, heldMinor, status, version, metadata, updatedAtMs };
      }),
    holdAt: (walletId, version) =>
      at(walletId).ask(caller, "read", ({ byVersion }) => {
        const hold = byVersion.get(`${walletId} ${version}`)?.data?.["hold"];
        return (hold ?? null) as Hold | null;
      }),
    async walletIdsOfOwner(ownerId, limit) {
      const found = await everywhere(({ wallets }) =>
        [...wallets.values()].filter((wallet) => wallet.ownerId === ownerId),
      );
      const walletIds = found.map(({ walletId }) => walletId).toSorted();
      return walletIds.slice(0, Math.min(limit, LIMITS.queryRowsMax));
    },
    events: (walletId, fromVersion, limit) =>
      at(walletId).ask(caller, "read", ({ eventsOf }): StoredEvent[] =>
        (eventsOf.get(walletId) ?? [])
          .filter(({ version }) => version >= fromVersion)
          .slice(0, Math.min(limit, LIMITS.queryRowsMax)),
      ),
    async transfer(transferId) {
      const found = await everywhere(({ transfers }) => {
        const transfer = transfers.get(transferId);
        return transfer === undefined ? [] : [transfer];
      });
      return found[0] ?? null;
    },
    operations: (commandId, walletId) =>
      everywhere(({ events, rejections }): Operation[] => {
        const isIt = (row: { walletId: string; commandId: string | null }): boolean =>
          row.commandId === commandId && (walletId === null || row.walletId === walletId);
        const done = events.filter(isIt).map((event): Operation => {
          const { version, transferId } = event;
          return { commandId, walletId: event.walletId, version, rejection: null, transferId };
        });
        const rejected = [...rejections.values()].filter(isIt).map((row): Operation => {
          const { rejection } = row;
          return { commandId, walletId: row.walletId, version: null, rejection, transferId: null };
        });
        return [...done, ...rejected];
      }),
  };
}
