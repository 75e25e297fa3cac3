-- Up Migration

-- Two things about each event that only its one writer can know: its place among the events of its shard, and what came before it.
--
-- position: per shard 1, 2, 3 ... in the order of the commits and without gaps. The lane that holds the shard counts; the fence lets
-- one writer append at a time, and a claim waits for every append under way, so who reads "position > last" of a shard in this
-- order misses nothing that commits late. A sequence would promise neither.
--
-- hash: SHA-256 over the hash of the wallet's previous event and everything the event says (src/chain.ts); wallets.hash is the latest.
-- The trigger refuses changes; the chain tells of those that went around it. Events from before this migration have none.
ALTER TABLE events ADD COLUMN shard smallint, ADD COLUMN position bigint, ADD COLUMN hash bytea;
ALTER TABLE events DISABLE TRIGGER events_append_only;
UPDATE events e SET shard = o.shard, position = o.position
FROM (
  SELECT e.wallet_id, e.version, w.shard,
         row_number() OVER (PARTITION BY w.shard ORDER BY e.occurred_at, e.wallet_id, e.version) AS position
  FROM events e JOIN wallets w USING (wallet_id)
) o
WHERE o.wallet_id = e.wallet_id AND o.version = e.version;
ALTER TABLE events ENABLE TRIGGER events_append_only;
ALTER TABLE events
  ALTER COLUMN shard SET NOT NULL,
  ALTER COLUMN position SET NOT NULL,
  ADD CHECK (position > 0),
  ADD CHECK (octet_length(hash) = 32);
CREATE UNIQUE INDEX events_position ON events (shard, position);

ALTER TABLE wallets ADD COLUMN hash bytea CHECK (octet_length(hash) = 32);

-- Since when every event has a hash.
CREATE TABLE chain (
  is_only_row boolean     PRIMARY KEY DEFAULT true CHECK (is_only_row),
  started_at  timestamptz NOT NULL DEFAULT now()
);
INSERT INTO chain DEFAULT VALUES;
CREATE TRIGGER chain_fixed BEFORE UPDATE OR DELETE ON chain FOR EACH ROW EXECUTE FUNCTION refuse_change();

DROP FUNCTION append_commit;

-- append_commit as it was, with the new columns. One group commit: fence, then ids that must be new, then everything. Returns null when all was written, or else the
-- outcomes that are known already, and then nothing was written. Each statement in here has its own snapshot (READ COMMITTED),
-- so the fence is read after the lock is held: a claim that committed before is seen. The arrays are unnested in the select list,
-- not in FROM: that spares the executor a tuple store (measured: about an eighth of the cost of an event).
CREATE FUNCTION append_commit(
  p_epochs bigint[],
  c_command text[], c_wallet text[],
  e_wallet text[], e_version bigint[], e_type text[], e_amount bigint[], e_balance bigint[], e_held bigint[],
  e_status text[], e_account text[], e_counterparty text[], e_transfer text[], e_command text[],
  e_fingerprint text[], e_occurred_ms double precision[], e_correlation text[], e_causation text[],
  e_description text[], e_data text[],
  w_wallet text[], w_base bigint[], w_version bigint[], w_balance bigint[], w_held bigint[], w_status text[],
  w_updated_ms double precision[],
  t_transfer text[], t_shard smallint[], t_from text[], t_to text[], t_amount bigint[], t_currency text[],
  t_places smallint[], t_from_version bigint[], t_command text[], t_correlation text[], t_description text[],
  t_created_ms double precision[],
  v_transfer text[], v_to text[], v_version bigint[], v_rejection text[], v_decided_ms double precision[],
  s_transfer text[], s_status text[], s_version bigint[], s_rejection text[], s_settled_ms double precision[],
  l_transfer text[], p_created json, p_rejections json,
  e_shard smallint[], e_position bigint[], e_hash text[], w_hash text[],
  p_shards smallint[]
) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
  stale smallint[];
  commands json;
  verdicts json;
  touched bigint;
BEGIN
  PERFORM pg_advisory_xact_lock_shared(1668245094);

  -- Few shards are looked up, many are cheaper to read all: measured, the two meet at about fifty.
  IF cardinality(p_shards) < 48 THEN
    SELECT array_agg(s.shard) INTO stale FROM shards s
    WHERE s.shard = ANY (p_shards) AND p_epochs[s.shard + 1] <> s.epoch;
  ELSE
    SELECT array_agg(s.shard) INTO stale FROM shards s
    WHERE p_epochs[s.shard + 1] <> 0 AND p_epochs[s.shard + 1] <> s.epoch;
  END IF;
  IF stale IS NOT NULL THEN
    RAISE EXCEPTION 'stale epoch' USING ERRCODE = 'CF001', DETAIL = array_to_string(stale, ',');
  END IF;

  IF c_command <> '{}' THEN
    SELECT json_agg(k) INTO commands FROM (
      SELECT e.wallet_id AS "walletId", e.command_id AS "commandId", e.fingerprint, e.version,
             e.transfer_id AS "transferId", NULL::jsonb AS rejection
      FROM unnest(c_command, c_wallet) c(command_id, wallet_id)
      JOIN events e ON e.command_id = c.command_id AND e.wallet_id = c.wallet_id
      UNION ALL
      SELECT r.wallet_id, r.command_id, r.fingerprint, NULL, NULL, r.rejection
      FROM unnest(c_command, c_wallet) c(command_id, wallet_id)
      JOIN rejections r ON r.command_id = c.command_id AND r.wallet_id = c.wallet_id
    ) k;
  END IF;
  IF l_transfer <> '{}' THEN
    SELECT json_agg(k) INTO verdicts FROM (
      SELECT v.transfer_id AS "transferId", v.to_version AS "toVersion", v.rejection
      FROM unnest(l_transfer) l(transfer_id) JOIN transfer_verdicts v USING (transfer_id)
    ) k;
  END IF;
  IF commands IS NOT NULL OR verdicts IS NOT NULL THEN
    RETURN json_build_object('commands', coalesce(commands, '[]'), 'verdicts', coalesce(verdicts, '[]'));
  END IF;

  -- An id that was not looked for must not have been rejected either.
  IF EXISTS (
    SELECT FROM (SELECT unnest(e_command) AS command_id, unnest(e_wallet) AS wallet_id) e
    JOIN rejections r USING (command_id, wallet_id)
  ) THEN
    RAISE EXCEPTION 'a command was rejected before' USING ERRCODE = 'CF002';
  END IF;

  INSERT INTO events
  SELECT wallet_id, version, type, amount, balance, held, status, account, counterparty, transfer_id, command_id,
         fingerprint, to_timestamp(occurred_ms / 1000), correlation_id, causation_id, description, data::jsonb,
         shard, position, decode(hash, 'hex')
  FROM (
    SELECT unnest(e_wallet) AS wallet_id, unnest(e_version) AS version, unnest(e_type) AS type,
           unnest(e_amount) AS amount, unnest(e_balance) AS balance, unnest(e_held) AS held,
           unnest(e_status) AS status, unnest(e_account) AS account, unnest(e_counterparty) AS counterparty,
           unnest(e_transfer) AS transfer_id, unnest(e_command) AS command_id, unnest(e_fingerprint) AS fingerprint,
           unnest(e_occurred_ms) AS occurred_ms, unnest(e_correlation) AS correlation_id,
           unnest(e_causation) AS causation_id, unnest(e_description) AS description, unnest(e_data) AS data, unnest(e_shard) AS shard,
           unnest(e_position) AS position, unnest(e_hash) AS hash
  ) e;

  UPDATE wallets w
  SET version = u.version, balance = u.balance, held = u.held, status = u.status,
      updated_at = to_timestamp(u.updated_ms / 1000), hash = decode(u.hash, 'hex')
  FROM (
    SELECT unnest(w_wallet) AS wallet_id, unnest(w_base) AS base, unnest(w_version) AS version,
           unnest(w_balance) AS balance, unnest(w_held) AS held, unnest(w_status) AS status,
           unnest(w_updated_ms) AS updated_ms, unnest(w_hash) AS hash
  ) u
  WHERE w.wallet_id = u.wallet_id AND w.version = u.base;
  GET DIAGNOSTICS touched = ROW_COUNT;
  IF touched <> cardinality(w_wallet) THEN
    RAISE EXCEPTION '% of % wallets are not at their base version', cardinality(w_wallet) - touched,
      cardinality(w_wallet) USING ERRCODE = 'CF002';
  END IF;

  IF p_created IS NOT NULL THEN
    INSERT INTO wallets
    SELECT c."walletId", c.shard, c."ownerId", c.currency, c."decimalPlaces", c."balanceMinor", c."heldMinor", c.status,
           c.version, c.metadata::jsonb, to_timestamp(c."createdAtMs" / 1000), to_timestamp(c."updatedAtMs" / 1000),
           decode(c.hash, 'hex')
    FROM json_to_recordset(p_created) c(
      "walletId" text, shard smallint, "ownerId" text, currency text, "decimalPlaces" smallint, "balanceMinor" bigint,
      "heldMinor" bigint, status text, version bigint, metadata text, "createdAtMs" double precision,
      "updatedAtMs" double precision, hash text);
  END IF;

  IF p_rejections IS NOT NULL THEN
    INSERT INTO rejections (command_id, wallet_id, fingerprint, is_id_proposed, rejection)
    SELECT r."commandId", r."walletId", r.fingerprint, r."isIdProposed", r.rejection
    FROM json_to_recordset(p_rejections)
      r("commandId" text, "walletId" text, fingerprint text, "isIdProposed" boolean, rejection jsonb);
  END IF;

  IF t_transfer <> '{}' THEN
    INSERT INTO transfers
    SELECT t.transfer_id, t.shard, t.from_wallet, t.to_wallet, t.amount, t.currency, t.decimal_places, 'pending',
           t.from_version, NULL, NULL, t.command_id, t.correlation_id, t.description,
           to_timestamp(t.created_ms / 1000), NULL
    FROM (
      SELECT unnest(t_transfer) AS transfer_id, unnest(t_shard) AS shard, unnest(t_from) AS from_wallet,
             unnest(t_to) AS to_wallet, unnest(t_amount) AS amount, unnest(t_currency) AS currency,
             unnest(t_places) AS decimal_places, unnest(t_from_version) AS from_version,
             unnest(t_command) AS command_id, unnest(t_correlation) AS correlation_id,
             unnest(t_description) AS description, unnest(t_created_ms) AS created_ms
    ) t;
  END IF;

  IF v_transfer <> '{}' THEN
    INSERT INTO transfer_verdicts
    SELECT v.transfer_id, v.to_wallet, v.to_version, v.rejection::jsonb, to_timestamp(v.decided_ms / 1000)
    FROM (
      SELECT unnest(v_transfer) AS transfer_id, unnest(v_to) AS to_wallet, unnest(v_version) AS to_version,
             unnest(v_rejection) AS rejection, unnest(v_decided_ms) AS decided_ms
    ) v;
  END IF;

  -- Pending is asked as "not settled", or else the partial index on pending rows would be scanned once per row.
  IF s_transfer <> '{}' THEN
    UPDATE transfers t
    SET status = s.status, to_version = s.to_version, rejection = s.rejection::jsonb,
        settled_at = to_timestamp(s.settled_ms / 1000)
    FROM (
      SELECT unnest(s_transfer) AS transfer_id, unnest(s_status) AS status, unnest(s_version) AS to_version,
             unnest(s_rejection) AS rejection, unnest(s_settled_ms) AS settled_ms
    ) s
    WHERE t.transfer_id = s.transfer_id AND t.settled_at IS NULL;
    GET DIAGNOSTICS touched = ROW_COUNT;
    IF touched <> cardinality(s_transfer) THEN
      RAISE EXCEPTION '% of % transfers were not pending', cardinality(s_transfer) - touched,
        cardinality(s_transfer) USING ERRCODE = 'CF002';
    END IF;
  END IF;

  RETURN NULL;
END $$;

-- Down Migration

DROP FUNCTION append_commit;
DROP TABLE chain;
ALTER TABLE wallets DROP COLUMN hash;
DROP INDEX events_position;
ALTER TABLE events DROP COLUMN shard, DROP COLUMN position, DROP COLUMN hash;

-- One group commit: fence, then ids that must be new, then everything. Returns null when all was written, or else the
-- outcomes that are known already, and then nothing was written. Each statement in here has its own snapshot (READ COMMITTED),
-- so the fence is read after the lock is held: a claim that committed before is seen. The arrays are unnested in the select list,
-- not in FROM: that spares the executor a tuple store (measured: about an eighth of the cost of an event).
CREATE FUNCTION append_commit(
  p_epochs bigint[],
  c_command text[], c_wallet text[],
  e_wallet text[], e_version bigint[], e_type text[], e_amount bigint[], e_balance bigint[], e_held bigint[],
  e_status text[], e_account text[], e_counterparty text[], e_transfer text[], e_command text[],
  e_fingerprint text[], e_occurred_ms double precision[], e_correlation text[], e_causation text[],
  e_description text[], e_data text[],
  w_wallet text[], w_base bigint[], w_version bigint[], w_balance bigint[], w_held bigint[], w_status text[],
  w_updated_ms double precision[],
  t_transfer text[], t_shard smallint[], t_from text[], t_to text[], t_amount bigint[], t_currency text[],
  t_places smallint[], t_from_version bigint[], t_command text[], t_correlation text[], t_description text[],
  t_created_ms double precision[],
  v_transfer text[], v_to text[], v_version bigint[], v_rejection text[], v_decided_ms double precision[],
  s_transfer text[], s_status text[], s_version bigint[], s_rejection text[], s_settled_ms double precision[],
  l_transfer text[], p_created json, p_rejections json
) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
  stale smallint[];
  commands json;
  verdicts json;
  touched bigint;
BEGIN
  PERFORM pg_advisory_xact_lock_shared(1668245094);

  SELECT array_agg(s.shard) INTO stale FROM shards s
  WHERE p_epochs[s.shard + 1] <> 0 AND p_epochs[s.shard + 1] <> s.epoch;
  IF stale IS NOT NULL THEN
    RAISE EXCEPTION 'stale epoch' USING ERRCODE = 'CF001', DETAIL = array_to_string(stale, ',');
  END IF;

  IF c_command <> '{}' THEN
    SELECT json_agg(k) INTO commands FROM (
      SELECT e.wallet_id AS "walletId", e.command_id AS "commandId", e.fingerprint, e.version,
             e.transfer_id AS "transferId", NULL::jsonb AS rejection
      FROM unnest(c_command, c_wallet) c(command_id, wallet_id)
      JOIN events e ON e.command_id = c.command_id AND e.wallet_id = c.wallet_id
      UNION ALL
      SELECT r.wallet_id, r.command_id, r.fingerprint, NULL, NULL, r.rejection
      FROM unnest(c_command, c_wallet) c(command_id, wallet_id)
      JOIN rejections r ON r.command_id = c.command_id AND r.wallet_id = c.wallet_id
    ) k;
  END IF;
  IF l_transfer <> '{}' THEN
    SELECT json_agg(k) INTO verdicts FROM (
      SELECT v.transfer_id AS "transferId", v.to_version AS "toVersion", v.rejection
      FROM unnest(l_transfer) l(transfer_id) JOIN transfer_verdicts v USING (transfer_id)
    ) k;
  END IF;
  IF commands IS NOT NULL OR verdicts IS NOT NULL THEN
    RETURN json_build_object('commands', coalesce(commands, '[]'), 'verdicts', coalesce(verdicts, '[]'));
  END IF;

  -- An id that was not looked for must not have been rejected either.
  IF EXISTS (
    SELECT FROM (SELECT unnest(e_command) AS command_id, unnest(e_wallet) AS wallet_id) e
    JOIN rejections r USING (command_id, wallet_id)
  ) THEN
    RAISE EXCEPTION 'a command was rejected before' USING ERRCODE = 'CF002';
  END IF;

  INSERT INTO events
  SELECT wallet_id, version, type, amount, balance, held, status, account, counterparty, transfer_id, command_id,
         fingerprint, to_timestamp(occurred_ms / 1000), correlation_id, causation_id, description, data::jsonb
  FROM (
    SELECT unnest(e_wallet) AS wallet_id, unnest(e_version) AS version, unnest(e_type) AS type,
           unnest(e_amount) AS amount, unnest(e_balance) AS balance, unnest(e_held) AS held,
           unnest(e_status) AS status, unnest(e_account) AS account, unnest(e_counterparty) AS counterparty,
           unnest(e_transfer) AS transfer_id, unnest(e_command) AS command_id, unnest(e_fingerprint) AS fingerprint,
           unnest(e_occurred_ms) AS occurred_ms, unnest(e_correlation) AS correlation_id,
           unnest(e_causation) AS causation_id, unnest(e_description) AS description, unnest(e_data) AS data
  ) e;

  UPDATE wallets w
  SET version = u.version, balance = u.balance, held = u.held, status = u.status,
      updated_at = to_timestamp(u.updated_ms / 1000)
  FROM (
    SELECT unnest(w_wallet) AS wallet_id, unnest(w_base) AS base, unnest(w_version) AS version,
           unnest(w_balance) AS balance, unnest(w_held) AS held, unnest(w_status) AS status,
           unnest(w_updated_ms) AS updated_ms
  ) u
  WHERE w.wallet_id = u.wallet_id AND w.version = u.base;
  GET DIAGNOSTICS touched = ROW_COUNT;
  IF touched <> cardinality(w_wallet) THEN
    RAISE EXCEPTION '% of % wallets are not at their base version', cardinality(w_wallet) - touched,
      cardinality(w_wallet) USING ERRCODE = 'CF002';
  END IF;

  IF p_created IS NOT NULL THEN
    INSERT INTO wallets
    SELECT c."walletId", c.shard, c."ownerId", c.currency, c."decimalPlaces", c."balanceMinor", c."heldMinor", c.status,
           c.version, c.metadata::jsonb, to_timestamp(c."createdAtMs" / 1000), to_timestamp(c."updatedAtMs" / 1000)
    FROM json_to_recordset(p_created) c(
      "walletId" text, shard smallint, "ownerId" text, currency text, "decimalPlaces" smallint, "balanceMinor" bigint,
      "heldMinor" bigint, status text, version bigint, metadata text, "createdAtMs" double precision,
      "updatedAtMs" double precision);
  END IF;

  IF p_rejections IS NOT NULL THEN
    INSERT INTO rejections (command_id, wallet_id, fingerprint, is_id_proposed, rejection)
    SELECT r."commandId", r."walletId", r.fingerprint, r."isIdProposed", r.rejection
    FROM json_to_recordset(p_rejections)
      r("commandId" text, "walletId" text, fingerprint text, "isIdProposed" boolean, rejection jsonb);
  END IF;

  IF t_transfer <> '{}' THEN
    INSERT INTO transfers
    SELECT t.transfer_id, t.shard, t.from_wallet, t.to_wallet, t.amount, t.currency, t.decimal_places, 'pending',
           t.from_version, NULL, NULL, t.command_id, t.correlation_id, t.description,
           to_timestamp(t.created_ms / 1000), NULL
    FROM (
      SELECT unnest(t_transfer) AS transfer_id, unnest(t_shard) AS shard, unnest(t_from) AS from_wallet,
             unnest(t_to) AS to_wallet, unnest(t_amount) AS amount, unnest(t_currency) AS currency,
             unnest(t_places) AS decimal_places, unnest(t_from_version) AS from_version,
             unnest(t_command) AS command_id, unnest(t_correlation) AS correlation_id,
             unnest(t_description) AS description, unnest(t_created_ms) AS created_ms
    ) t;
  END IF;

  IF v_transfer <> '{}' THEN
    INSERT INTO transfer_verdicts
    SELECT v.transfer_id, v.to_wallet, v.to_version, v.rejection::jsonb, to_timestamp(v.decided_ms / 1000)
    FROM (
      SELECT unnest(v_transfer) AS transfer_id, unnest(v_to) AS to_wallet, unnest(v_version) AS to_version,
             unnest(v_rejection) AS rejection, unnest(v_decided_ms) AS decided_ms
    ) v;
  END IF;

  -- Pending is asked as "not settled", or else the partial index on pending rows would be scanned once per row.
  IF s_transfer <> '{}' THEN
    UPDATE transfers t
    SET status = s.status, to_version = s.to_version, rejection = s.rejection::jsonb,
        settled_at = to_timestamp(s.settled_ms / 1000)
    FROM (
      SELECT unnest(s_transfer) AS transfer_id, unnest(s_status) AS status, unnest(s_version) AS to_version,
             unnest(s_rejection) AS rejection, unnest(s_settled_ms) AS settled_ms
    ) s
    WHERE t.transfer_id = s.transfer_id AND t.settled_at IS NULL;
    GET DIAGNOSTICS touched = ROW_COUNT;
    IF touched <> cardinality(s_transfer) THEN
      RAISE EXCEPTION '% of % transfers were not pending', cardinality(s_transfer) - touched,
        cardinality(s_transfer) USING ERRCODE = 'CF002';
    END IF;
  END IF;

  RETURN NULL;
END $$;
