-- Up Migration

-- What each idempotency key of POST /assets was first sent with. It lives in the database of the key's shard, which need not be the
-- asset's, and is written before the asset: a process that dies between leaves a key whose repeat, with the same input, adds the asset.
CREATE TABLE asset_keys (
  idempotency_key text        PRIMARY KEY,
  code            text        NOT NULL,
  name            text        NOT NULL,
  decimal_places  smallint    NOT NULL,
  created_at      timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER asset_keys_append_only BEFORE UPDATE OR DELETE ON asset_keys
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER asset_keys_no_truncate BEFORE TRUNCATE ON asset_keys
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- Down Migration

DROP TABLE asset_keys;
