/**
 * A database of a test's own, and the audit of what the test has left in it: every asset in
 * balance, every history whole, every transfer settled and told once.
 */
import pg from "pg";
import { expect, inject } from "vitest";
import { chainHashOfRow } from "../../src/chain.ts";
import { EVENT_COLUMNS } from "../../src/postgres/rows.ts";
import type { StoredEvent } from "../../src/core/read-model.ts";
import { apply, type WalletEvent, type WalletState } from "../../src/core/wallet.ts";
import { createMigratedDatabase } from "./migrated-database.ts";
import { dropDatabase } from "./servers.ts";

export interface TestDatabase {
  readonly url: string;
  query<Row extends object>(sql: string, values?: unknown[]): Promise<Row[]>;
  /** A session of its own, for locks. */
  session(): Promise<pg.Client>;
  close(): Promise<void>;
}

/** A fresh database with the schema; `bigint` comes as a number. */
export async function openDatabase(name: string): Promise<TestDatabase> {
  const url = await createMigratedDatabase(name);
  const sessions: pg.Client[] = [];
  async function session(): Promise<pg.Client> {
    const client = new pg.Client({ connectionString: url, application_name: "test" });
    client.setTypeParser(pg.types.builtins.INT8, Number);
    client.setTypeParser(pg.types.builtins.NUMERIC, Number);
    client.on("error", () => undefined);
    await client.connect();
    sessions.push(client);
    return client;
  }
  const auditor = await session();
  return {
    url,
    session,
    async query<Row extends object>(sql: string, values: unknown[] = []) {
      return (await auditor.query<Row>(sql, values)).rows;
    },
    async close() {
      await Promise.all(sessions.map((client) => client.end().catch(() => undefined)));
      await dropDatabase(inject("postgresUrl"), name);
    },
  };
}

interface EventRow {
  walletId: string;
  version: number;
  type: WalletEvent["type"];
  amountMinor: number | null;
  transferId: string | null;
  counterpartyId: string | null;
  data: {
    ownerId: string | null;
    currency: string;
    decimalPlaces: number;
    walletMetadata: object;
    kind?: "FUND";
  } | null;
  occurredAtMs: number;
  after: { balanceMinor: number; heldMinor: number; status: string };
}

const EVENTS = `
  SELECT wallet_id AS "walletId", version, type, amount AS "amountMinor", transfer_id AS "transferId",
         counterparty AS "counterpartyId", data, (extract(epoch FROM occurred_at) * 1000)::float8 AS "occurredAtMs",
         json_build_object('balanceMinor', balance, 'heldMinor', held, 'status', status) AS after
  FROM events ORDER BY wallet_id COLLATE "C", version`;

const WALLETS = `
  SELECT wallet_id AS "walletId", owner_id AS "ownerId", currency, decimal_places::int AS "decimalPlaces",
         balance AS "balanceMinor", held AS "heldMinor", status, version, metadata,
         (extract(epoch FROM created_at) * 1000)::float8 AS "createdAtMs",
         (extract(epoch FROM updated_at) * 1000)::float8 AS "updatedAtMs"
  FROM wallets ORDER BY wallet_id`;

/** Each of these finds what must not be there. */
const VIOLATIONS = {
  "an asset whose accounts do not sum to zero": `
    SELECT currency, sum(balance) FROM trial_balance GROUP BY currency HAVING sum(balance) <> 0`,
  "a transfer that is not settled": `SELECT transfer_id FROM transfers WHERE status = 'pending'`,
  "money in transit": `SELECT * FROM trial_balance WHERE account = 'system:transit' AND balance <> 0`,
  "a transfer and a verdict that differ": `
    SELECT t.transfer_id, t.status FROM transfers t LEFT JOIN transfer_verdicts v USING (transfer_id)
    WHERE v.transfer_id IS NULL OR t.to_version IS DISTINCT FROM v.to_version
       OR t.rejection IS DISTINCT FROM v.rejection OR t.to_wallet <> v.to_wallet`,
  "a transfer without exactly its two events": `
    SELECT t.transfer_id, t.status, e.events FROM transfers t LEFT JOIN (
      SELECT transfer_id, array_agg(type || ' ' || wallet_id || ' ' || amount ORDER BY type DESC) AS events
      FROM events WHERE transfer_id IS NOT NULL GROUP BY transfer_id
    ) e USING (transfer_id)
    WHERE t.status <> 'pending' AND e.events IS DISTINCT FROM ARRAY[
      'TransferSent ' || t.from_wallet || ' ' || t.amount,
      CASE t.status WHEN 'posted' THEN 'TransferReceived ' || t.to_wallet
                    ELSE 'TransferReturned ' || t.from_wallet END || ' ' || t.amount]`,
  "an event of a transfer without a record": `
    SELECT e.transfer_id FROM events e LEFT JOIN transfers t USING (transfer_id)
    WHERE e.transfer_id IS NOT NULL AND t.transfer_id IS NULL`,
  "a command that was both accepted and rejected": `
    SELECT command_id FROM rejections JOIN events USING (command_id, wallet_id)`,
  "a shard whose positions have gaps": `
    SELECT shard, count(*), max(position) FROM events GROUP BY shard HAVING count(*) <> max(position)`,
  "a position before one of an earlier version": `
    SELECT e.wallet_id, e.version FROM events e JOIN events f ON f.wallet_id = e.wallet_id AND f.version = e.version + 1
    WHERE f.shard <> e.shard OR f.position <= e.position`,
  "a wallet without its last event's hash": `
    SELECT w.wallet_id FROM wallets w LEFT JOIN events e ON e.wallet_id = w.wallet_id AND e.version = w.version
    WHERE w.hash IS DISTINCT FROM e.hash`,
  "a wallet whose holds have not left what it holds": `
    SELECT w.wallet_id, w.held, sum(h.amount - h.captured) FROM wallets w
    LEFT JOIN holds h ON h.wallet_id = w.wallet_id AND h.status = 'ACTIVE'
    GROUP BY w.wallet_id HAVING w.held <> coalesce(sum(h.amount - h.captured), 0)`,
  "a hold that is not what its last event says": `
    SELECT h.hold_id, h.status, h.captured, e.hold FROM holds h
    LEFT JOIN LATERAL (
      SELECT e.data -> 'hold' AS hold FROM events e
      WHERE e.wallet_id = h.wallet_id AND e.data #>> '{hold,holdId}' = h.hold_id ORDER BY e.version DESC LIMIT 1
    ) e ON true
    WHERE e.hold ->> 'status' IS DISTINCT FROM h.status OR (e.hold ->> 'capturedMinor')::bigint IS DISTINCT FROM h.captured`,
  "a transfer whose hold its event does not name": `
    SELECT t.transfer_id, t.hold_id FROM transfers t
    JOIN events e ON e.wallet_id = t.from_wallet AND e.version = t.from_version
    WHERE t.hold_id IS DISTINCT FROM e.data #>> '{hold,holdId}'`,
};

const CHAIN = `
  SELECT ${EVENT_COLUMNS}, e.fingerprint, encode(e.hash, 'hex') AS hash FROM events e ORDER BY e.wallet_id COLLATE "C", e.version`;

const reported = new WeakMap<TestDatabase, Set<string>>();

/**
 * Conservation, one history, settled transfers, one outcome per command: over everything in the
 * database. What one test left behind is held against it alone, and not against those after it.
 */
export async function checkBooks(database: TestDatabase): Promise<void> {
  const known = reported.get(database) ?? new Set();
  reported.set(database, known);
  const found: string[] = [];
  for (const [what, sql] of Object.entries(VIOLATIONS)) {
    for (const row of await database.query(sql)) found.push(`${what}: ${JSON.stringify(row)}`);
  }
  const news = found.filter((violation) => !known.has(violation));
  for (const violation of news) known.add(violation);
  expect(news.join("\n")).toBe("");

  const hashes = new Map<string, string>();
  const rows = await database.query<
    StoredEvent & { fingerprint: string | null; hash: string | null }
  >(CHAIN);
  for (const { hash, ...row } of rows) {
    const { walletId, version } = row;
    // From before there were hashes; none may be missing after one that is there.
    if (hash === null && !hashes.has(walletId)) continue;
    const is = chainHashOfRow(hashes.get(walletId) ?? null, row);
    if (is !== hash) expect.fail(`${walletId}:${version} breaks the hash chain`);
    hashes.set(walletId, is);
  }

  const folded = new Map<string, WalletState>();
  for (const row of await database.query<EventRow>(EVENTS)) {
    const { walletId, version, after, data, ...rest } = row;
    const metadata = JSON.stringify(data?.walletMetadata);
    const event = { kind: "CREDIT", ...rest, ...data, metadata } as unknown as WalletEvent;
    const state = apply(walletId, folded.get(walletId) ?? null, event);
    // Compared by hand first: an expectation for each of thousands of events takes seconds.
    const isEqual =
      state.balanceMinor === after.balanceMinor &&
      state.heldMinor === after.heldMinor &&
      state.status === after.status;
    if (!isEqual || state.version !== version) expect({ version, ...after }).toEqual(state);
    folded.set(walletId, state);
  }
  const wallets = await database.query<{ metadata: object }>(WALLETS);
  const refolded = [...folded.values()].map((state) => ({
    ...state,
    metadata: JSON.parse(state.metadata) as object,
  }));
  expect(wallets).toEqual(refolded);
}
