-- Up Migration

-- The metadata of wallets that exist, for commits that change it: put_metadata(append_commit(...), ...), one statement and one
-- transaction. A function of its own, so that all other commits are as they were; only these touch the column, so only they could
-- end heap-only updates if it ever had an index. Takes what append_commit has returned: when that is not null, nothing was written,
-- and nothing is here. The rows are locked and at their base versions by then.
CREATE FUNCTION put_metadata(p_known json, p_metadata json) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
  touched bigint;
BEGIN
  IF p_known IS NOT NULL THEN
    RETURN p_known;
  END IF;
  UPDATE wallets w SET metadata = m.metadata::jsonb
  FROM json_to_recordset(p_metadata) m("walletId" text, metadata text)
  WHERE w.wallet_id = m."walletId";
  GET DIAGNOSTICS touched = ROW_COUNT;
  IF touched <> json_array_length(p_metadata) THEN
    RAISE EXCEPTION '% of % wallets are not there', json_array_length(p_metadata) - touched,
      json_array_length(p_metadata) USING ERRCODE = 'CF002';
  END IF;
  RETURN NULL;
END $$;

-- Which metadata a wallet had at a version, without a walk through its history.
CREATE INDEX events_metadata ON events (wallet_id, version) WHERE type = 'WalletMetadataChanged';

-- Down Migration

DROP INDEX events_metadata;
DROP FUNCTION put_metadata;
