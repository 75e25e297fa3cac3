/**
 * Single wallets, as they are and as they were, read together: what one turn of the event loop asks
 * for becomes one query. A query for each would cost more than all else of a read, and a batch that
 * is repeated asks for thousands at once, which would fill the pool that all readers share. A
 * failure fails those that were asked together.
 */
import type pg from "pg";

import { LIMITS } from "../limits.ts";
import { WALLET_AT_COLUMNS, WALLET_COLUMNS } from "./rows.ts";
import type { WalletState } from "../core/wallet.ts";

const SELECT_WALLET = `SELECT ${WALLET_COLUMNS} FROM wallets w WHERE wallet_id = $1`;
const SELECT_WALLETS = `SELECT ${WALLET_COLUMNS} FROM wallets w WHERE wallet_id = ANY ($1)`;

const SELECT_WALLETS_AT = `
  SELECT a.place, ${WALLET_AT_COLUMNS}
  FROM unnest($1::text[], $2::bigint[]) WITH ORDINALITY a(wallet_id, version, place)
  JOIN events e ON e.wallet_id = a.wallet_id AND e.version = a.version
  JOIN wallets w ON w.wallet_id = e.wallet_id`;

export type Ask = <Row extends pg.QueryResultRow>(query: pg.QueryConfig) => Promise<Row[]>;

export interface WalletsTogether {
  /** Null when there is none. */
  wallet(walletId: string): Promise<WalletState | null>;
  /** At most `LIMITS.queryRowsMax` of them, in one query of their own. */
  walletsById(walletIds: readonly string[]): Promise<WalletState[]>;
  /** The wallet as it was right after a version; null when it has not come to it. */
  walletAt(walletId: string, version: number): Promise<WalletState | null>;
}

export function buildWalletsTogether(ask: Ask): WalletsTogether {
  const walletsById = (walletIds: readonly string[]): Promise<WalletState[]> =>
    ask<WalletState>({ name: "wallets-by-id", text: SELECT_WALLETS, values: [walletIds] });

  // Alone, a wallet is found a fifth faster by its id than among many.
  const oneWallet = (walletId: string): Promise<WalletState[]> =>
    ask<WalletState>({ name: "wallet", text: SELECT_WALLET, values: [walletId] });

  const wallet = together(async (walletIds: readonly string[]) => {
    const ids = [...new Set(walletIds)];
    const wallets = await (ids.length === 1 ? oneWallet(ids[0]!) : walletsById(ids));
    const found = new Map(wallets.map((one) => [one.walletId, one]));
    return walletIds.map((walletId) => found.get(walletId) ?? null);
  });

  const walletAt = together(async (asked: readonly { walletId: string; version: number }[]) => {
    const walletIds = asked.map(({ walletId }) => walletId);
    const versions = asked.map(({ version }) => version);
    const rows = await ask<WalletState & { place: number }>({
      name: "wallets-at",
      text: SELECT_WALLETS_AT,
      values: [walletIds, versions],
    });
    const found = new Map(rows.map(({ place, ...was }) => [place, was]));
    return asked.map((_, index) => found.get(index + 1) ?? null);
  });

  return {
    wallet,
    walletsById,
    walletAt: (walletId, version) => walletAt({ walletId, version }),
  };
}

/** @param read answers questions, at most `LIMITS.queryRowsMax`, in their order */
function together<Question, Answer>(
  read: (questions: readonly Question[]) => Promise<Answer[]>,
): (question: Question) => Promise<Answer> {
  interface Asked {
    readonly question: Question;
    readonly resolve: (answer: Answer) => void;
    readonly reject: (reason: unknown) => void;
  }
  let asked: Asked[] = [];

  function flush(): void {
    const all = asked;
    asked = [];
    for (let from = 0; from < all.length; from += LIMITS.queryRowsMax) {
      void answer(all.slice(from, from + LIMITS.queryRowsMax));
    }
  }

  async function answer(some: readonly Asked[]): Promise<void> {
    try {
      const answers = await read(some.map(({ question }) => question));
      for (const [index, { resolve }] of some.entries()) resolve(answers[index]!);
    } catch (error) {
      for (const { reject } of some) reject(error);
    }
  }

  return (question) =>
    new Promise((resolve, reject) => {
      if (asked.push({ question, resolve, reject }) === 1) setImmediate(flush);
    });
}
