-- Up Migration

-- A commit costs the database less, with the same rows and the same checks (ADR 1 has the figures):
--
-- - A wallet's row after a commit is what its last event in there says, so it is not passed a second time: `e_base` is on that event,
--   and names the version that the row must have had before. It is null on all other events, and on those of new wallets.
-- - Transfers have a function of their own, put_transfers, as metadata and holds have.
-- - A transfer that begins and ends in one commit is written once.
-- - A column in which everything is null comes as an empty array: unnest fills the shorter ones with nulls.
--
-- The former append_commit, of other parameters, stays: hosts of the version before go on with it until they are replaced.

-- One group commit: fence, then ids that must be new, then everything. Returns null when all was written, or else the outcomes that
-- are known already, and then nothing was written. Each statement in here has its own snapshot (READ COMMITTED), so the fence is read
-- after the lock is held: a claim that committed before is seen. The arrays are unnested in the select list, not in FROM: that spares
-- the executor a tuple store (measured: about an eighth of the cost of an event).
--
-- p_shards, p_epochs: what the writer believes to hold, in the same order; or no shards, and an epoch for each one from 0 (0: not spoken
-- for).
CREATE FUNCTION append_commit(
  p_shards smallint[], p_epochs bigint[],
  c_command text[], c_wallet text[], l_transfer text[],
  e_wallet text[], e_version bigint[], e_type text[], e_amount bigint[], e_balance bigint[], e_held bigint[],
  e_status text[], e_account text[], e_counterparty text[], e_transfer text[], e_command text[],
  e_fingerprint text[], e_occurred_ms double precision[], e_correlation text[], e_causation text[],
  e_description text[], e_data text[], e_shard smallint[], e_position bigint[], e_hash text[], e_base bigint[],
  p_created json, p_rejections json
) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
  stale smallint[];
  commands json;
  verdicts json;
  touched bigint;
BEGIN
  PERFORM pg_advisory_xact_lock_shared(1668245094);

  -- Few shards are looked up, many are cheaper to read all: measured, the two meet at about fifty.
  IF p_shards <> '{}' THEN
    SELECT array_agg(f.shard) INTO stale
    FROM (SELECT unnest(p_shards) AS shard, unnest(p_epochs) AS epoch) f
    WHERE NOT EXISTS (SELECT FROM shards s WHERE s.shard = f.shard AND s.epoch = f.epoch);
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

  -- An id that was not looked for must not have been rejected either. The first question has nearly always a short answer.
  IF EXISTS (SELECT FROM rejections r WHERE r.command_id = ANY (e_command)) AND EXISTS (
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
      updated_at = to_timestamp(u.occurred_ms / 1000), hash = decode(u.hash, 'hex')
  FROM (
    SELECT unnest(e_base) AS base, unnest(e_wallet) AS wallet_id, unnest(e_version) AS version,
           unnest(e_balance) AS balance, unnest(e_held) AS held, unnest(e_status) AS status,
           unnest(e_occurred_ms) AS occurred_ms, unnest(e_hash) AS hash
  ) u
  WHERE u.base IS NOT NULL AND w.wallet_id = u.wallet_id AND w.version = u.base;
  GET DIAGNOSTICS touched = ROW_COUNT;
  IF touched <> cardinality(array_remove(e_base, NULL)) THEN
    RAISE EXCEPTION '% of % wallets are not at their base version', cardinality(array_remove(e_base, NULL)) - touched,
      cardinality(array_remove(e_base, NULL)) USING ERRCODE = 'CF002';
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
  RETURN NULL;
END $$;

-- The records, verdicts and ends of transfers, for commits that have any: put_transfers(append_commit(...), ...), one statement and one
-- transaction, as put_metadata. Takes what append_commit has returned: when that is not null, nothing was written, and nothing is here.
-- `t_to_version` and `t_settled_ms` are of transfers that are posted in the commit that they begin in.
CREATE FUNCTION put_transfers(
  p_known json,
  t_transfer text[], t_shard smallint[], t_from text[], t_to text[], t_amount bigint[], t_currency text[],
  t_places smallint[], t_from_version bigint[], t_to_version bigint[], t_command text[], t_correlation text[],
  t_description text[], t_created_ms double precision[], t_settled_ms double precision[],
  v_transfer text[], v_to text[], v_version bigint[], v_rejection text[], v_decided_ms double precision[],
  s_transfer text[], s_status text[], s_version bigint[], s_rejection text[], s_settled_ms double precision[]
) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
  touched bigint;
BEGIN
  IF p_known IS NOT NULL THEN
    RETURN p_known;
  END IF;

  IF t_transfer <> '{}' THEN
    INSERT INTO transfers (transfer_id, shard, from_wallet, to_wallet, amount, currency, decimal_places, status,
                           from_version, to_version, command_id, correlation_id, description, created_at, settled_at)
    SELECT transfer_id, shard, from_wallet, to_wallet, amount, currency, decimal_places,
           CASE WHEN settled_ms IS NULL THEN 'pending' ELSE 'posted' END, from_version, to_version, command_id,
           correlation_id, description, to_timestamp(created_ms / 1000), to_timestamp(settled_ms / 1000)
    FROM (
      SELECT unnest(t_transfer) AS transfer_id, unnest(t_shard) AS shard, unnest(t_from) AS from_wallet,
             unnest(t_to) AS to_wallet, unnest(t_amount) AS amount, unnest(t_currency) AS currency,
             unnest(t_places) AS decimal_places, unnest(t_from_version) AS from_version,
             unnest(t_to_version) AS to_version, unnest(t_command) AS command_id,
             unnest(t_correlation) AS correlation_id, unnest(t_description) AS description,
             unnest(t_created_ms) AS created_ms, unnest(t_settled_ms) AS settled_ms
    ) t;
  END IF;

  IF v_transfer <> '{}' THEN
    INSERT INTO transfer_verdicts (transfer_id, to_wallet, to_version, rejection, decided_at)
    SELECT transfer_id, to_wallet, to_version, rejection::jsonb, to_timestamp(decided_ms / 1000)
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

DROP FUNCTION put_transfers;
DROP FUNCTION append_commit(smallint[], bigint[], text[], text[], text[], text[], bigint[], text[], bigint[], bigint[], bigint[], text[], text[], text[], text[], text[], text[], double precision[], text[], text[], text[], text[], smallint[], bigint[], text[], bigint[], json, json);
