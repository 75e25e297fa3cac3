/**
 * The search over wallets, on PostgreSQL. Pages come in the order of ids, whatever is searched for,
 * and no question may look at more than a bounded number of rows. There are three ways to a page:
 *
 * - The walk: wallets in the order of their ids, along the index of an owner, a status or a
 *   currency if one is asked for, and each one is tested. What many wallets have is soon met so,
 *   and dear to read from the indexes of metadata and words, which know no order.
 * - These indexes bring few wallets (`queryCandidatesMax`): take all of them, test the rest of the
 *   filter, sort.
 * - They bring more: what they have among the next wallets of the walk. Pages of this way and of
 *   the walk may be short, or empty, and go on. Their end is fixed before they begin, so that
 *   wallets which arrive meanwhile neither repeat nor hide others.
 *
 * The planner's statistics decide between them: an estimate that is wrong costs time, or a short
 * page, and never a wallet.
 */
import type pg from "pg";
import { boundMinor, DECIMAL_PLACES_MAX } from "../core/amount.ts";
import { LIMITS } from "../limits.ts";
import { WALLET_COLUMNS } from "./rows.ts";
import type { Ask } from "./wallet-reads.ts";
import type { Page, WalletFilter } from "../core/read-model.ts";
import type { WalletState } from "../core/wallet.ts";

/**
 * A condition on `wallets w`; what it compares with becomes parameters of the query that it is put
 * into.
 */
type Condition = (parameter: Parameter) => string;

type Parameter = (value: unknown) => string;

interface Conditions {
  /**
   * Owner, status, currency: each has an index in the order of ids. The first one has the fewest
   * wallets, as a rule.
   */
  readonly equal: readonly Condition[];
  /**
   * On metadata and words, as their indexes answer them. All of them hold for a wallet that fits.
   */
  readonly searched: readonly Condition[];
  /** The same, exactly, as they are tested wallet by wallet. */
  readonly tested: readonly Condition[];
  readonly others: readonly Condition[];
  readonly hasWords: boolean;
}

/**
 * At most `limit` wallets that fit, behind `afterWalletId`; `limit` stays under
 * `LIMITS.queryRowsMax`.
 */
export async function searchWallets(
  ask: Ask,
  filter: WalletFilter,
  limit: number,
  afterWalletId: string | null,
): Promise<Page<WalletState, string>> {
  const conditions = conditionsOf(filter);
  const after = afterWalletId ?? "";
  if (conditions === null) return { rows: [], next: null };
  const { equal, searched, others, hasWords } = conditions;
  const isOrdered = equal.length <= 1 && searched.length === 0 && others.length === 0;
  if (isOrdered) return pageBehind(ask, equal, limit, after, null);

  const chosen = searched.length === 0 ? null : await chooseIndexed(ask, conditions);
  if (chosen !== null) {
    const indexed = [...equal, ...chosen];
    const rest = chosen.length === searched.length ? others : [...others, ...conditions.tested];
    const page = await pageOfFew(ask, indexed, rest, limit, after);
    if (page !== null) return page;
    const last = await boundOf(ask, equal, LIMITS.queryScanRowsMax, after);
    return pageBehind(ask, [...indexed, ...rest], limit, after, last);
  }
  const rowsMax = hasWords ? LIMITS.queryWordRowsMax : LIMITS.queryScanRowsMax;
  const last = await boundOf(ask, equal, Math.min(rowsMax, LIMITS.queryScanRowsMax), after);
  return pageByWalk(ask, conditions, limit, after, last);
}

/** Null when no wallet can fit. */
function conditionsOf(filter: WalletFilter): Conditions | null {
  const { ownerId, status, currency, minBalance, maxBalance, metadata, text } = filter;
  const equal: Condition[] = [];
  const others: Condition[] = [];
  const searched: Condition[] = [];
  const tested: Condition[] = [];
  if (ownerId !== undefined) equal.push((parameter) => `w.owner_id = ${parameter(ownerId)}`);
  // The index of the others is partial; the planner must see that they are meant.
  if (status === "ACTIVE") others.push(() => "w.status = 'ACTIVE'");
  else if (status !== undefined) {
    equal.push((parameter) => `w.status = ${parameter(status)} AND w.status <> 'ACTIVE'`);
  }
  if (currency !== undefined) equal.push((parameter) => `w.currency = ${parameter(currency)}`);
  for (const [key, value] of metadata ?? []) {
    const has: Condition = (parameter) => {
      const spellings = spellingsOf(value).map(
        (json) => `w.metadata @> ${parameter(`{${JSON.stringify(key)}:${json}}`)}::jsonb`,
      );
      return `(${spellings.join(" OR ")})`;
    };
    tested.push(has);
    searched.push((parameter) => `w.metadata <> '{}' AND ${has(parameter)}`);
  }
  if (text !== undefined) {
    const parts = partsOf(text);
    if (parts.length === 0) return null;
    const words = "w.wallet_id, w.owner_id, w.metadata";
    tested.push((parameter) => `wallet_has_words(${words}, ${parameter(text)})`);
    for (const part of parts) {
      searched.push((parameter) => `wallet_words(${words}) @@ words_query(${parameter(part)})`);
    }
  }
  const places = Array.from({ length: DECIMAL_PLACES_MAX + 1 }, (_, nth) => nth);
  for (const [bound, sign, direction] of [
    [minBalance, ">=", "up"],
    [maxBalance, "<=", "down"],
  ] as const) {
    if (bound === undefined) continue;
    const bounds = places.map((each) => boundMinor(bound, each, direction));
    others.push(
      (parameter) => `w.balance ${sign} (${parameter(bounds)}::bigint[])[w.decimal_places + 1]`,
    );
  }
  return { equal, searched, tested, others, hasWords: text !== undefined };
}

function query(build: (parameter: Parameter) => string): pg.QueryConfig {
  const values: unknown[] = [];
  return { text: build((value) => `$${values.push(value)}`), values };
}

function allOf(conditions: readonly Condition[], parameter: Parameter): string {
  if (conditions.length === 0) return "true";
  return conditions.map((condition) => condition(parameter)).join(" AND ");
}

/**
 * The words of the text, to be looked for one by one; empty when it has none. What is behind the
 * first few stays together.
 */
function partsOf(text: string): string[] {
  // As `words_of` does: ASCII letters and digits, and all beyond ASCII, are parts of words.
  const words = text.split(/[^A-Za-z0-9\u0080-\u{10ffff}]+/u).filter((word) => word !== "");
  // How a sigma is written in small depends on what is around it.
  if (words.length > 0 && /[\u03a3\u03c2\u03c3]/.test(text)) return [text];
  const unique = [...new Set(words)];
  const max = LIMITS.queryWordsApart;
  if (unique.length <= max) return unique;
  return [...unique.slice(0, max - 1), unique.slice(max - 1).join(" ")];
}

const NUMBER_OR_FLAG = /^(-?(0|[1-9]\d{0,30})(\.\d{1,30})?|true|false)$/;

/** How a metadata value that is given as text may be written in JSON. */
function spellingsOf(value: string): string[] {
  const asText = JSON.stringify(value);
  return NUMBER_OR_FLAG.test(value) ? [asText, value] : [asText];
}

interface EstimatedPlan {
  readonly "Plan Rows": number;
  readonly Plans?: readonly EstimatedPlan[];
}

/**
 * How many wallets fit each of the lists of conditions, by the planner's statistics; nothing else
 * is read for it.
 */
async function estimate(ask: Ask, lists: ReadonlyArray<readonly Condition[]>): Promise<number[]> {
  const rows = await ask<{ "QUERY PLAN": readonly [{ readonly Plan: EstimatedPlan }] }>(
    query((parameter) => {
      const counts = lists.map((list) => `SELECT FROM wallets w WHERE ${allOf(list, parameter)}`);
      return `EXPLAIN (FORMAT JSON) ${counts.join(" UNION ALL ")}`;
    }),
  );
  return (rows[0]?.["QUERY PLAN"][0].Plan.Plans ?? []).map((plan) => plan["Plan Rows"]);
}

/**
 * The conditions to ask the indexes, or null to walk: when a walk meets enough wallets that fit, or
 * passes few altogether. A condition that many wallets meet is left to the test of what the others
 * bring, unless there is no other. The statistics know of metadata's values what a hundred wallets
 * tell, so one of these must not do.
 */
async function chooseIndexed(
  ask: Ask,
  { equal, searched }: Conditions,
): Promise<readonly Condition[] | null> {
  const lists = [[...equal, ...searched], equal.slice(0, 1), ...searched.map((one) => [one])];
  const [fitting, passed, ...each] = await estimate(ask, lists);
  if (fitting === undefined || passed === undefined) return searched;
  if (passed <= LIMITS.queryWordRowsMax || fitting * LIMITS.queryCommonShare >= passed) return null;
  const rare = searched.filter((_, nth) => each[nth]! <= LIMITS.queryIndexRowsMax);
  return rare.length === 0 ? searched : rare;
}

/** The page when the indexes bring few wallets; null when they bring too many to sort. */
async function pageOfFew(
  ask: Ask,
  indexed: readonly Condition[],
  rest: readonly Condition[],
  limit: number,
  after: string,
): Promise<Page<WalletState, string> | null> {
  const max = LIMITS.queryCandidatesMax;
  // Not ordered in there: the planner would rather walk all wallets in that order, hoping to meet
  // enough that fit.
  const rows = await ask<{ candidates: number } & WalletState>(
    query(
      (parameter) => `
        WITH found AS MATERIALIZED (
          SELECT w.* FROM wallets w WHERE ${allOf(indexed, parameter)} LIMIT ${parameter(max + 1)}
        ), total AS MATERIALIZED (SELECT count(*)::int AS candidates FROM found),
        page AS MATERIALIZED (
          SELECT w.wallet_id FROM found w
          WHERE (SELECT candidates FROM total) <= ${parameter(max)}
            AND ${allOf([behind(after, null), ...rest], parameter)}
          ORDER BY w.wallet_id LIMIT ${parameter(limit + 1)}
        )
        SELECT candidates, wallet.* FROM total LEFT JOIN page ON true LEFT JOIN LATERAL (
          SELECT ${WALLET_COLUMNS} FROM wallets w WHERE w.wallet_id = page.wallet_id LIMIT 1
        ) wallet ON true
        ORDER BY page.wallet_id`,
    ),
  );
  if (rows[0]!.candidates > max) return null;
  const found = rows.flatMap((row) => {
    const { candidates: _, ...wallet } = row;
    return row.walletId === null ? [] : [wallet];
  });
  return upTo(found, limit, ({ walletId }) => walletId, null);
}

/**
 * The last of the `rowsMax` wallets that a page behind `after` may look at; null when there are
 * fewer.
 */
async function boundOf(
  ask: Ask,
  equal: readonly Condition[],
  rowsMax: number,
  after: string,
): Promise<string | null> {
  const rows = await ask<{ walletId: string }>(
    query(
      (parameter) => `
        SELECT w.wallet_id AS "walletId" FROM wallets w
        WHERE ${allOf([...equal.slice(0, 1), behind(after, null)], parameter)}
        ORDER BY w.wallet_id OFFSET ${parameter(rowsMax - 1)} LIMIT 1`,
    ),
  );
  return rows[0]?.walletId ?? null;
}

/** Behind `after`, up to `last` when one is given. */
function behind(after: string, last: string | null): Condition {
  return (parameter) =>
    `w.wallet_id > ${parameter(after)}${last === null ? "" : ` AND w.wallet_id <= ${parameter(last)}`}`;
}

/** The page among the wallets behind `after`, up to `last`, by whichever index. */
async function pageBehind(
  ask: Ask,
  conditions: readonly Condition[],
  limit: number,
  after: string,
  last: string | null,
): Promise<Page<WalletState, string>> {
  const rows = await ask<WalletState>(
    query(
      (parameter) => `
        SELECT ${WALLET_COLUMNS} FROM wallets w
        WHERE ${allOf([behind(after, last), ...conditions], parameter)}
        ORDER BY w.wallet_id LIMIT ${parameter(limit + 1)}`,
    ),
  );
  return upTo(rows, limit, ({ walletId }) => walletId, last);
}

/** The same by testing one after the other. */
async function pageByWalk(
  ask: Ask,
  { equal, tested, others }: Conditions,
  limit: number,
  after: string,
  last: string | null,
): Promise<Page<WalletState, string>> {
  const range = [behind(after, last), ...equal.slice(0, 1)];
  const tests = [...equal.slice(1), ...others, ...tested];
  // OFFSET 0 keeps the tests out of there: the planner would look for them in the indexes that have
  // no order.
  const rows = await ask<WalletState>(
    query(
      (parameter) => `
        SELECT ${WALLET_COLUMNS}
        FROM (SELECT * FROM wallets w WHERE ${allOf(range, parameter)} ORDER BY w.wallet_id OFFSET 0) w
        WHERE ${allOf(tests, parameter)} ORDER BY w.wallet_id LIMIT ${parameter(limit + 1)}`,
    ),
  );
  return upTo(rows, limit, ({ walletId }) => walletId, last);
}

/**
 * A page of at most `limit` of the rows; `seen` is how far the looking went, null when to the end.
 */
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
