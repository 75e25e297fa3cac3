-- Up Migration

-- Several hosts: a shard changes hands by compare-and-set in the shard table, and a lane claims only what its host has got.
--
-- take_shards and release_shards need not wait for appends under way, so they take no advisory lock: they only say who may claim.
-- An append that read the fence before such a change may still commit after it. That is harmless, because the new owner reads
-- and writes nothing before its own claim, and the claim waits for every such append. An append that begins after the change meets
-- the next epoch and is refused. Without the lock a host takes over from one whose append hangs, and holds up nobody's appends.
--
-- All three lock their rows in the order of the shards first: two of them that meet wait for each other and never deadlock. Each
-- statement has its own snapshot (READ COMMITTED), so what one waited for is what it then compares with.
DROP FUNCTION claim_shards(text, smallint[], boolean);

-- Takes the next epoch of what the owner holds. The exclusive lock waits for every append under way (each holds it shared until
-- its commit), so that afterwards nothing older can commit and everything older that did is visible.
CREATE FUNCTION claim_shards(p_owner text, p_shards smallint[])
RETURNS TABLE (claimed_shard smallint, claimed_epoch bigint) LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(1668245094);
  PERFORM FROM shards WHERE shard = ANY (p_shards) ORDER BY shard FOR UPDATE;
  RETURN QUERY
    UPDATE shards SET epoch = epoch + 1, claimed_at = now()
    WHERE shard = ANY (p_shards) AND owner = p_owner
    RETURNING shard, epoch;
END $$;

-- Makes p_owner the owner of those shards whose owner is still the one of the same place in p_from (null: nobody).
CREATE FUNCTION take_shards(p_owner text, p_shards smallint[], p_from text[])
RETURNS SETOF smallint LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM shards WHERE shard = ANY (p_shards) ORDER BY shard FOR UPDATE;
  RETURN QUERY
    UPDATE shards s SET owner = p_owner, epoch = s.epoch + 1, claimed_at = now()
    FROM unnest(p_shards, p_from) AS t(shard, owner)
    WHERE s.shard = t.shard AND s.owner IS NOT DISTINCT FROM t.owner
    RETURNING s.shard;
END $$;

-- Gives up those of the shards that p_owner still has. The next epoch here too: nobody writes a shard that nobody owns.
CREATE FUNCTION release_shards(p_owner text, p_shards smallint[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  PERFORM FROM shards WHERE shard = ANY (p_shards) ORDER BY shard FOR UPDATE;
  UPDATE shards SET owner = NULL, epoch = epoch + 1 WHERE shard = ANY (p_shards) AND owner = p_owner;
END $$;

-- Which part of the shards lives in here: those with shard % database_count = database_index. All databases of a deployment share its
-- id. The row is written by the first start and never changes, since the wallets do not move. A database that holds wallets
-- already was the only one of its deployment.
CREATE TABLE deployment (
  is_only_row    boolean     PRIMARY KEY DEFAULT true CHECK (is_only_row),
  deployment_id  uuid        NOT NULL,
  database_index smallint    NOT NULL CHECK (database_index >= 0 AND database_index < database_count),
  database_count smallint    NOT NULL,
  created_at     timestamptz NOT NULL DEFAULT now()
);
INSERT INTO deployment (deployment_id, database_index, database_count)
SELECT gen_random_uuid(), 0, 1 WHERE EXISTS (SELECT FROM wallets);
CREATE TRIGGER deployment_fixed BEFORE UPDATE OR DELETE ON deployment
  FOR EACH ROW EXECUTE FUNCTION refuse_change();

-- Lists of several databases are merged by wallet id, so they all must sort alike, whatever language a database was made for.
DROP VIEW trial_balance;
DROP VIEW ledger_entries;
ALTER TABLE wallets ALTER COLUMN wallet_id TYPE text COLLATE "C";

-- Both views as they were.
CREATE VIEW ledger_entries AS
SELECT e.wallet_id, e.version, e.occurred_at, w.currency, leg.account, leg.amount
FROM events e
JOIN wallets w USING (wallet_id)
CROSS JOIN LATERAL (
  SELECT CASE WHEN e.type IN ('WalletDebited', 'TransferSent') THEN -e.amount ELSE e.amount END AS delta
) d
CROSS JOIN LATERAL (VALUES ('wallet:' || e.wallet_id, d.delta), (e.account, -d.delta)) leg(account, amount)
WHERE e.amount IS NOT NULL;

CREATE VIEW trial_balance AS
SELECT currency, account, sum(amount) AS balance FROM (
  SELECT currency, 'wallets' AS account, balance AS amount FROM wallets
  UNION ALL
  SELECT currency, account, amount FROM ledger_entries WHERE account LIKE 'system:%'
) lines
GROUP BY currency, account;

-- Down Migration

DROP VIEW trial_balance;
DROP VIEW ledger_entries;
ALTER TABLE wallets ALTER COLUMN wallet_id TYPE text COLLATE "default";

CREATE VIEW ledger_entries AS
SELECT e.wallet_id, e.version, e.occurred_at, w.currency, leg.account, leg.amount
FROM events e
JOIN wallets w USING (wallet_id)
CROSS JOIN LATERAL (
  SELECT CASE WHEN e.type IN ('WalletDebited', 'TransferSent') THEN -e.amount ELSE e.amount END AS delta
) d
CROSS JOIN LATERAL (VALUES ('wallet:' || e.wallet_id, d.delta), (e.account, -d.delta)) leg(account, amount)
WHERE e.amount IS NOT NULL;

CREATE VIEW trial_balance AS
SELECT currency, account, sum(amount) AS balance FROM (
  SELECT currency, 'wallets' AS account, balance AS amount FROM wallets
  UNION ALL
  SELECT currency, account, amount FROM ledger_entries WHERE account LIKE 'system:%'
) lines
GROUP BY currency, account;

DROP TABLE deployment;
DROP FUNCTION release_shards, take_shards, claim_shards;

CREATE FUNCTION claim_shards(p_owner text, p_shards smallint[], p_take_over boolean)
RETURNS TABLE (claimed_shard smallint, claimed_epoch bigint) LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(1668245094);
  RETURN QUERY
    UPDATE shards SET owner = p_owner, epoch = epoch + 1, claimed_at = now()
    WHERE shard = ANY (p_shards) AND (p_take_over OR owner = p_owner)
    RETURNING shard, epoch;
END $$;
