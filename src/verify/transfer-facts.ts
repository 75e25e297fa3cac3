/**
 * Gathers what the audit of a transfer judges (`transfer-audit.ts`): record, verdict and events of
 * some transfers, from whichever databases they are in, by key and in two rounds.
 */
import { shardOf } from "../core/shard.ts";
import type { TransferEventRow, TransferFacts, TransferRow, VerdictRow } from "./transfer-audit.ts";
import * as books from "./verify-database.ts";
import type { BooksDatabase } from "./verify-database.ts";

/**
 * Everything about these transfers, in the order of their ids.
 * @param how as of the databases' views, or as of now
 */
export async function gatherFacts(
  databases: readonly BooksDatabase[],
  ids: readonly string[],
  how: "read" | "readNow",
): Promise<TransferFacts[]> {
  const rows = new Map<string, TransferRow>();
  const verdicts = new Map<string, VerdictRow>();
  await Promise.all(
    databases.map((database) =>
      database[how](async (query) => {
        for (const row of await books.transfersById(query, ids)) {
          rows.set(row.transferId, { ...row, database: database.index });
        }
        for (const verdict of await books.verdictsById(query, ids)) {
          verdicts.set(verdict.transferId, verdict);
        }
      }),
    ),
  );
  const facts = ids.map((id) => ({ row: rows.get(id) ?? null, verdict: verdicts.get(id) ?? null }));
  const places = facts.flatMap(({ row, verdict }) => [
    ...(row === null ? [] : [{ walletId: row.fromWalletId, version: row.fromVersion }]),
    ...arrivalOf(row, verdict),
  ]);
  const events = new Map<string, TransferEventRow>();
  const returns: TransferEventRow[] = [];
  await Promise.all(
    databases.map((database) => {
      const here = places.filter(
        ({ walletId }) => shardOf(walletId) % databases.length === database.index,
      );
      return database[how](async (query) => {
        for (const event of await books.eventsAt(query, here)) {
          events.set(`${event.walletId} ${event.version}`, event);
        }
        returns.push(...(await books.returnsById(query, ids)));
      });
    }),
  );
  const eventAt = (place: { walletId: string; version: number } | undefined) =>
    place === undefined ? null : (events.get(`${place.walletId} ${place.version}`) ?? null);
  return facts.map(({ row, verdict }, index) => ({
    transferId: ids[index]!,
    row,
    verdict,
    sent: row === null ? null : eventAt({ walletId: row.fromWalletId, version: row.fromVersion }),
    received: eventAt(arrivalOf(row, verdict)[0]),
    returned: returns.filter(({ transferId }) => transferId === ids[index]),
  }));
}

function arrivalOf(
  row: TransferRow | null,
  verdict: VerdictRow | null,
): Array<{ walletId: string; version: number }> {
  const version = verdict?.toVersion ?? row?.toVersion ?? null;
  const walletId = verdict?.toWalletId ?? row?.toWalletId;
  return version === null || walletId === undefined ? [] : [{ walletId, version }];
}
