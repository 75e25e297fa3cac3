/**
 * What `bench:seed` writes: wallets in pairs that pay each other, as a function of their numbers
 * alone, so that PostgreSQL makes the events itself and the same sizes give the same rows. Wallet
 * 2p and 2p + 1 have equally many events at the same times. Version 0 creates, 1 opens with 1,000;
 * then, by the version's last digit, 4 is a transfer from the even one and 9 from the odd one, of
 * the same amount within ten versions, 3 and 8 are debits, 6 is a fund and the rest are credits
 * that are worth more than the debits, so that no balance falls under zero. One pair of a hundred
 * ends suspended.
 */
import { shardOf } from "../src/core/shard.ts";

/** Part of all events that the first pair has: the hot wallets. */
const HOT_SHARE = 0.1;

export interface SeedChunk {
  /** Number of the first wallet; even. */
  readonly first: number;
  readonly wallets: number;
  /** Events of each wallet. */
  readonly eventsEach: number;
}

/**
 * Chunks of about `chunkEvents` events, which make exactly `wallets` (even) and about `events`
 * together, at least two for each wallet.
 */
export function planSeed(wallets: number, events: number, chunkEvents: number): SeedChunk[] {
  const hotShare = wallets === 2 ? 1 : HOT_SHARE;
  const hotEach = Math.max(2, Math.floor((events * hotShare) / 2));
  const chunks: SeedChunk[] = [{ first: 0, wallets: 2, eventsEach: hotEach }];
  const rest = wallets - 2;
  if (rest === 0) return chunks;
  const eventsEach = Math.max(2, Math.round((events - 2 * hotEach) / rest));
  const step = Math.max(2, Math.floor(chunkEvents / eventsEach / 2) * 2);
  for (let first = 2; first < wallets; first += step) {
    chunks.push({ first, wallets: Math.min(step, wallets - first), eventsEach });
  }
  return chunks;
}

export function seedWalletId(number: number): string {
  return `seed-${number}`;
}

/**
 * Parameters of `SEED_CHUNK`. @param lasts the last position of each shard; counted on for the next
 * chunk
 */
export function chunkValues({ first, wallets, eventsEach }: SeedChunk, lasts: number[]): unknown[] {
  const numbers = Array.from({ length: wallets }, (_, nth) => first + nth);
  const shards = numbers.map((number) => shardOf(seedWalletId(number)));
  const values = [numbers, shards, eventsEach, [...lasts]];
  for (const shard of shards) lasts[shard]! += eventsEach;
  return values;
}

/**
 * Each wallet's hash chain, as `src/chain.ts` spells it, over all but the previous hash. Once for a
 * connection, before `SEED_CHUNK`.
 */
export const SEED_CHAIN = `
CREATE FUNCTION pg_temp.chain_step(previous text, fields text) RETURNS text IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
  RETURN encode(sha256(convert_to('["' || previous || '",' || fields || ']', 'UTF8')), 'hex');
END $$;
CREATE AGGREGATE pg_temp.chain(text) (SFUNC = pg_temp.chain_step, STYPE = text, INITCOND = '${"0".repeat(64)}');
CREATE FUNCTION pg_temp.word(value text) RETURNS text IMMUTABLE LANGUAGE sql
RETURN coalesce('"' || value || '"', 'null')`;

/**
 * $1 numbers, $2 shards of the wallets, $3 events of each, $4 the last position of each shard so
 * far. Events go in by time, so that those of one wallet lie apart as they do in life. Needs
 * `SEED_CHAIN`.
 */
export const SEED_CHUNK = `
WITH pairs AS MATERIALIZED (
  SELECT n, shard, n / 2 AS p, n % 2 AS side, 'seed-' || n AS wallet_id,
         'seed-' || (n + 1 - 2 * (n % 2)) AS other_id, 'owner-' || n / 4 AS owner_id,
         CASE WHEN n / 2 % 50 = 1 THEN 'JPY' WHEN n / 2 % 10 = 2 THEN 'EUR' ELSE 'USD' END AS currency,
         CASE WHEN n / 2 % 50 = 1 THEN 0 ELSE 2 END AS places,
         format('{"ref":"r%s","name":"%s %s%s","tier":"%s","level":%s}', n,
                (ARRAY['Alice', 'Bob', 'Carol', 'Dave', 'Erin', 'Frank', 'Grace'])[1 + n % 7],
                (ARRAY['Moore', 'Stone', 'Rivers', 'Hill', 'Woods'])[1 + n / 7 % 5], n % 9973,
                (ARRAY['bronze', 'bronze', 'bronze', 'silver', 'gold'])[1 + n % 5], n % 100) AS metadata
  FROM unnest($1::int[], $2::smallint[]) t(n, shard)
), steps AS (
  SELECT w.*, v,
         CASE WHEN v = 0 THEN 'WalletCreated'
              WHEN v > 1 AND v = $3 - 1 AND p % 100 = 7 THEN 'WalletSuspended'
              WHEN v = 1 THEN 'WalletCredited'
              WHEN v % 10 IN (3, 8) THEN 'WalletDebited'
              WHEN v % 10 = 4 + 5 * side THEN 'TransferSent'
              WHEN v % 10 IN (4, 9) THEN 'TransferReceived'
              ELSE 'WalletCredited' END AS type,
         1735689600000 + v::bigint * 31536000000 / $3 + p % 1000 AS occurred_ms
  FROM pairs w CROSS JOIN generate_series(0, $3::int - 1) v
), amounts AS (
  SELECT *, CASE WHEN type IN ('WalletCreated', 'WalletSuspended') THEN NULL
                 WHEN v = 1 THEN 100000
                 WHEN type = 'WalletDebited' THEN 50 + (n::bigint * 7 + v * 13) % 200
                 WHEN type LIKE 'Transfer%' THEN 100 + (p::bigint * 7 + v / 10 * 13) % 900
                 ELSE 100 + (n::bigint * 11 + v * 17) % 900 END AS amount
  FROM steps
), folded AS (
  SELECT *, to_timestamp(occurred_ms / 1000.0) AS occurred_at,
         CASE WHEN type LIKE 'Transfer%' THEN 'system:transit' WHEN amount > 0 THEN 'system:world' END AS account,
         CASE WHEN type LIKE 'Transfer%' THEN other_id END AS counterparty,
         CASE WHEN v = 0 THEN format('{"ownerId":"%s","currency":"%s","decimalPlaces":%s,"walletMetadata":%s}', owner_id, currency,
                                     places, metadata)
              WHEN v % 10 = 6 AND type = 'WalletCredited' THEN '{"kind":"FUND"}' END AS data,
         coalesce(sum(CASE WHEN type IN ('WalletDebited', 'TransferSent') THEN -amount ELSE amount END)
                       OVER (PARTITION BY n ORDER BY v), 0)::bigint AS balance,
         CASE WHEN type = 'WalletSuspended' THEN 'SUSPENDED' ELSE 'ACTIVE' END AS status,
         CASE WHEN type LIKE 'Transfer%' THEN 'seed-' || p || '-' || v END AS transfer_id,
         CASE WHEN v > 0 AND type <> 'TransferReceived' THEN 'seed-' || n || '-' || v END AS command_id,
         CASE WHEN v = 0 THEN 'seed-' || n || '-1'
              WHEN type = 'TransferReceived' THEN 'seed-' || (n + 1 - 2 * side) || '-' || v END AS cause_id
  FROM amounts
), chained AS MATERIALIZED (
  SELECT *, decode(pg_temp.chain(concat_ws(',',
           pg_temp.word(wallet_id), v, pg_temp.word(type), coalesce(amount::text, 'null'), balance, 0, pg_temp.word(status),
           pg_temp.word(account), pg_temp.word(counterparty), pg_temp.word(transfer_id), pg_temp.word(command_id), 'null',
           occurred_ms, pg_temp.word(coalesce(cause_id, command_id)), pg_temp.word(coalesce(cause_id, command_id)), 'null',
           coalesce(to_json(data)::text, 'null')))
           OVER (PARTITION BY n ORDER BY v), 'hex') AS hash
  FROM folded
), wrote_events AS (
  INSERT INTO events
  SELECT wallet_id, v, type, amount, balance, 0, status, account, counterparty, transfer_id, command_id, NULL, occurred_at,
         cause_id, cause_id, NULL, data::jsonb, shard,
         ($4::bigint[])[shard + 1] + row_number() OVER (PARTITION BY shard ORDER BY v, n), hash
  FROM chained ORDER BY v, n
), wrote_transfers AS (
  INSERT INTO transfers
  SELECT transfer_id, shard, wallet_id, other_id, amount, currency, places, 'posted', v, v, NULL, command_id, NULL, NULL,
         occurred_at, occurred_at
  FROM chained WHERE type = 'TransferSent' ORDER BY v, n
), wrote_verdicts AS (
  INSERT INTO transfer_verdicts
  SELECT transfer_id, wallet_id, v, NULL, occurred_at FROM chained WHERE type = 'TransferReceived' ORDER BY v, n
)
INSERT INTO wallets
SELECT f.wallet_id, f.shard, f.owner_id, f.currency, f.places, f.balance, 0, f.status, f.v, f.metadata::jsonb, c.occurred_at,
       f.occurred_at, f.hash
FROM chained f JOIN chained c ON c.n = f.n AND c.v = 0 WHERE f.v = $3 - 1 ORDER BY f.n`;
