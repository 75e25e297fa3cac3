/**
 * The search over wallets, on PostgreSQL. Pages come in the order of ids, whatever is searched for, and no question may look at more
 * than a bounded number of rows. So there are three ways, by what the filter says:
 *
 * - One condition whose index is in the order of ids (or none): read the page from there.
 * - An index narrows it to few wallets (`queryCandidatesMax`): take all of them, test the rest of the filter, sort.
 * - Nothing does, or what does is common: look at the next `queryScanRowsMax` wallets. Their ids are fixed before they are looked at,
 *   so that wallets which arrive meanwhile neither repeat nor hide others. The page may be short, or empty, and go on.
 */
import { boundMinor, DECIMAL_PLACES_MAX } from "./amount.ts";
import { LIMITS } from "./limits.ts";
import { WALLET_COLUMNS } from "./postgres-rows.ts";
import type { Page, WalletFilter } from "./read-model.ts";
import type { WalletState } from "./wallet.ts";

export interface SearchQuery {
  readonly text: string;
  readonly values: unknown[];
}

export type AskRows = <Row extends object>(query: SearchQuery) => Promise<Row[]>;

/** SQL conditions on `wallets w` and their parameters, in the making. */
interface Conditions {
  readonly values: unknown[];
  /** Those that an index answers. */
  readonly indexed: string[];
  readonly others: string[];
  /** The index of the only condition has the order of ids. */
  readonly isOrdered: boolean;
}

/** At most `limit` wallets that fit, behind `afterWalletId`; `limit` stays under `LIMITS.queryRowsMax`. */
export async function searchWallets(
  ask: AskRows,
  filter: WalletFilter,
  limit: number,
  afterWalletId: string | null,
): Promise<Page<WalletState, string>> {
  const conditions = conditionsOf(filter);
  const after = afterWalletId ?? "";
  if (conditions === null) return { rows: [], next: null };
  if (conditions.isOrdered) return pageBehind(ask, conditions, limit, after, null);
  if (conditions.indexed.length > 0) {
    const page = await pageOfFew(ask, conditions, limit, after);
    if (page !== null) return page;
  }
  const bound = await ask<{ walletId: string }>({
    text: `SELECT wallet_id AS "walletId" FROM wallets WHERE wallet_id > $1 ORDER BY wallet_id OFFSET $2 LIMIT 1`,
    values: [after, LIMITS.queryScanRowsMax - 1],
  });
  return pageBehind(ask, conditions, limit, after, bound[0]?.walletId ?? null);
}

/** Null when no wallet can fit. */
function conditionsOf(filter: WalletFilter): Conditions | null {
  const values: unknown[] = [];
  const indexed: string[] = [];
  const others: string[] = [];
  const parameter = (value: unknown): string => `$${values.push(value)}`;
  const { ownerId, status, currency, minBalance, maxBalance, metadata, text } = filter;
  if (ownerId !== undefined) indexed.push(`w.owner_id = ${parameter(ownerId)}`);
  if (currency !== undefined) indexed.push(`w.currency = ${parameter(currency)}`);
  // The index of the others is partial; the planner must see that they are meant.
  if (status === "ACTIVE") others.push("w.status = 'ACTIVE'");
  else if (status !== undefined) {
    indexed.push(`w.status = ${parameter(status)} AND w.status <> 'ACTIVE'`);
  }
  const isOrdered = indexed.length <= 1;
  for (const [key, value] of metadata ?? []) {
    const spellings = spellingsOf(value).map(
      (json) => `w.metadata @> ${parameter(`{${JSON.stringify(key)}:${json}}`)}::jsonb`,
    );
    indexed.push(`w.metadata <> '{}' AND (${spellings.join(" OR ")})`);
  }
  if (text !== undefined) {
    if (!hasWords(text)) return null;
    indexed.push(
      `wallet_words(w.wallet_id, w.owner_id, w.metadata) @@ words_query(${parameter(text)})`,
    );
  }
  const places = Array.from({ length: DECIMAL_PLACES_MAX + 1 }, (_, nth) => nth);
  if (minBalance !== undefined) {
    const bounds = parameter(places.map((each) => boundMinor(minBalance, each, "up")));
    others.push(`w.balance >= (${bounds}::bigint[])[w.decimal_places + 1]`);
  }
  if (maxBalance !== undefined) {
    const bounds = parameter(places.map((each) => boundMinor(maxBalance, each, "down")));
    others.push(`w.balance <= (${bounds}::bigint[])[w.decimal_places + 1]`);
  }
  const isPlain = metadata === undefined && text === undefined;
  return { values, indexed, others, isOrdered: isOrdered && isPlain && others.length === 0 };
}

const NUMBER_OR_FLAG = /^(-?(0|[1-9]\d{0,30})(\.\d{1,30})?|true|false)$/;

/** How a metadata value that is given as text may be written in JSON. */
function spellingsOf(value: string): string[] {
  const asText = JSON.stringify(value);
  return NUMBER_OR_FLAG.test(value) ? [asText, value] : [asText];
}

/** Whether `words_of` finds any: ASCII letters and digits, and all beyond ASCII, are parts of words. */
function hasWords(text: string): boolean {
  return /[A-Za-z0-9\u0080-\uffff]/.test(text);
}

/** The page when the index brings few wallets; null when it brings too many to sort. */
async function pageOfFew(
  ask: AskRows,
  { values, indexed, others }: Conditions,
  limit: number,
  after: string,
): Promise<Page<WalletState, string> | null> {
  const max = LIMITS.queryCandidatesMax;
  const at = values.length;
  // Not ordered in there: the planner would rather walk all wallets in that order, hoping to meet enough that fit.
  const rows = await ask<{ candidates: number } & WalletState>({
    text: `WITH found AS MATERIALIZED (
             SELECT * FROM wallets w WHERE ${indexed.join(" AND ")} LIMIT $${at + 1}
           ), total AS MATERIALIZED (SELECT count(*)::int AS candidates FROM found)
           SELECT candidates, page.* FROM total LEFT JOIN LATERAL (
             SELECT ${WALLET_COLUMNS} FROM found w
             WHERE ${[`candidates < $${at + 1}`, `w.wallet_id > $${at + 2}`, ...others].join(" AND ")}
             ORDER BY w.wallet_id LIMIT $${at + 3}
           ) page ON true
           ORDER BY page."walletId"`,
    values: [...values, max + 1, after, limit + 1],
  });
  if (rows[0]!.candidates > max) return null;
  const found = rows.flatMap((row) => {
    const { candidates: _, ...wallet } = row;
    return row.walletId === null ? [] : [wallet];
  });
  return upTo(found, limit, ({ walletId }) => walletId, null);
}

/** The page among the wallets behind `after`, up to `last` when one is given. */
async function pageBehind(
  ask: AskRows,
  { values, indexed, others }: Conditions,
  limit: number,
  after: string,
  last: string | null,
): Promise<Page<WalletState, string>> {
  const at = values.length;
  const range = [
    `w.wallet_id > $${at + 1}`,
    ...(last === null ? [] : [`w.wallet_id <= $${at + 3}`]),
  ];
  const rows = await ask<WalletState>({
    text: `SELECT ${WALLET_COLUMNS} FROM wallets w WHERE ${[...range, ...indexed, ...others].join(" AND ")}
           ORDER BY w.wallet_id LIMIT $${at + 2}`,
    values: [...values, after, limit + 1, ...(last === null ? [] : [last])],
  });
  return upTo(rows, limit, ({ walletId }) => walletId, last);
}

/** A page of at most `limit` of the rows; `seen` is how far the looking went, null when to the end. */
export function upTo<Row, Key>(
  rows: readonly Row[],
  limit: number,
  keyOf: (row: Row) => Key,
  seen: Key | null,
): Page<Row, Key> {
  if (rows.length <= limit) return { rows, next: seen };
  const page = rows.slice(0, limit);
  return { rows: page, next: keyOf(page.at(-1)!) };
}
