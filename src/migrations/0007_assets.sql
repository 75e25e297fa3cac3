-- Up Migration

-- Own assets, beside ISO 4217. One lives in the database of its code's shard and never changes: amounts in wallets mean what it says.
CREATE TABLE assets (
  code           text        PRIMARY KEY CHECK (code ~ '^[A-Za-z0-9_.:@-]{1,128}$'),
  name           text        NOT NULL CHECK (name <> ''),
  decimal_places smallint    NOT NULL CHECK (decimal_places BETWEEN 0 AND 9),
  created_at     timestamptz NOT NULL DEFAULT now()
);
CREATE TRIGGER assets_append_only BEFORE UPDATE OR DELETE ON assets
  FOR EACH ROW EXECUTE FUNCTION refuse_change();
CREATE TRIGGER assets_no_truncate BEFORE TRUNCATE ON assets
  FOR EACH STATEMENT EXECUTE FUNCTION refuse_change();

-- The asset with this code as it is afterwards, and whether this call has made it; no row when there are p_assets_max others already. One
-- at a time, so that the count is exact; each statement in here has its own snapshot, taken after the lock.
CREATE FUNCTION create_asset(p_code text, p_name text, p_decimal_places smallint, p_assets_max integer, p_is_dry_run boolean)
RETURNS TABLE (is_new boolean, asset_name text, asset_places smallint) LANGUAGE plpgsql AS $$
BEGIN
  PERFORM pg_advisory_xact_lock(1668245096);
  RETURN QUERY SELECT false, a.name, a.decimal_places FROM assets a WHERE a.code = p_code;
  IF FOUND OR (SELECT count(*) FROM assets) >= p_assets_max THEN
    RETURN;
  END IF;
  IF NOT p_is_dry_run THEN
    INSERT INTO assets (code, name, decimal_places) VALUES (p_code, p_name, p_decimal_places);
  END IF;
  RETURN QUERY SELECT true, p_name, p_decimal_places;
END $$;

-- Down Migration

DROP FUNCTION create_asset;
DROP TABLE assets;
