/**
 * Wallets as they were, read together: what one turn of the event loop asks for becomes one query.
 * A batch that is repeated asks for thousands at once, and one query each would fill the pool that
 * all readers share. A failure fails those that were asked together.
 */
import type pg from "pg";

import { LIMITS } from "./limits.ts";
import { WALLET_AT_COLUMNS } from "./postgres-rows.ts";
import type { WalletState } from "./wallet.ts";

const SELECT_WALLETS_AT = `
  SELECT a.place, ${WALLET_AT_COLUMNS}
  FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY a(wallet_id, version, place)
  JOIN events e ON e.wallet_id = a.wallet_id AND e.version = a.version
  JOIN wallets w ON w.wallet_id = e.wallet_id`;

type Ask = <Row extends pg.QueryResultRow>(query: pg.QueryConfig) => Promise<Row[]>;

interface Asked {
  readonly walletId: string;
  readonly version: number;
  readonly resolve: (wallet: WalletState | null) => void;
  readonly reject: (reason: unknown) => void;
}

/** Gives a wallet as it was right after a version; null when it has not come to it. */
export function buildWalletsAt(
  ask: Ask,
): (walletId: string, version: number) => Promise<WalletState | null> {
  let asked: Asked[] = [];

  function flush(): void {
    const all = asked;
    asked = [];
    for (let from = 0; from < all.length; from += LIMITS.queryRowsMax) {
      void read(all.slice(from, from + LIMITS.queryRowsMax));
    }
  }

  async function read(together: readonly Asked[]): Promise<void> {
    const walletIds = together.map(({ walletId }) => walletId);
    const versions = together.map(({ version }) => version);
    try {
      const rows = await ask<WalletState & { place: number }>({
        name: "wallets-at",
        text: SELECT_WALLETS_AT,
        values: [walletIds, versions],
      });
      const found = new Map(rows.map(({ place, ...wallet }) => [place, wallet]));
      for (const [index, { resolve }] of together.entries()) resolve(found.get(index + 1) ?? null);
    } catch (error) {
      for (const { reject } of together) reject(error);
    }
  }

  return (walletId, version) =>
    new Promise((resolve, reject) => {
      if (asked.push({ walletId, version, resolve, reject }) === 1) setImmediate(flush);
    });
}
