-- Up Migration

-- Holds as they are now, written with the events that change them: what an actor reads when it wakes, and what readers see. A wallet's
-- `held` is the sum of what its active ones have left.
CREATE TABLE holds (
  wallet_id   text        NOT NULL,
  hold_id     text        NOT NULL,
  shard       smallint    NOT NULL,
  amount      bigint      NOT NULL CHECK (amount > 0 AND amount < 1000000000000000),
  captured    bigint      NOT NULL CHECK (captured >= 0 AND captured <= amount),
  status      text        NOT NULL CHECK (status IN ('ACTIVE', 'RELEASED', 'EXPIRED', 'CAPTURED')),
  kind        text        NOT NULL CHECK (kind IN ('PAYMENT', 'AUTHORIZATION', 'REFUND', 'ESCROW', 'OTHER')),
  reference   text,
  description text,
  expires_at  timestamptz,
  created_at  timestamptz NOT NULL,
  captured_at timestamptz,
  released_at timestamptz,
  PRIMARY KEY (wallet_id, hold_id),
  CHECK (status <> 'ACTIVE' OR (captured < amount AND released_at IS NULL)),
  CHECK ((status = 'CAPTURED') = (captured_at IS NOT NULL)),
  CHECK (status NOT IN ('RELEASED', 'EXPIRED') OR released_at IS NOT NULL)
) WITH (fillfactor = 80);
CREATE INDEX holds_status ON holds (wallet_id, status, hold_id);
-- Whose time is over: asked twice a second by every lane. A partial capture leaves it as it is.
CREATE INDEX holds_due ON holds (shard, expires_at) WHERE status = 'ACTIVE' AND expires_at IS NOT NULL;

-- A transfer that captures: of which hold, and whether the rest is let go once it is posted.
ALTER TABLE transfers ADD COLUMN hold_id text, ADD COLUMN hold_final boolean NOT NULL DEFAULT false,
  ADD CHECK (hold_id IS NOT NULL OR NOT hold_final);

-- Holds, for commits that touch any: put_holds(append_commit(...), ...), one statement and one transaction, as put_metadata. The wallets'
-- rows are locked and at their base versions by then, so nobody else changes their holds.
CREATE FUNCTION put_holds(p_known json, p_holds json) RETURNS json LANGUAGE plpgsql AS $$
DECLARE
  touched bigint;
  wanted bigint;
BEGIN
  IF p_known IS NOT NULL THEN
    RETURN p_known;
  END IF;

  INSERT INTO holds
  SELECT h."walletId", h."holdId", h.shard, h."amountMinor", h."capturedMinor", h.status, h.kind, h.reference, h.description,
         to_timestamp(h."expiresAtMs" / 1000), to_timestamp(h."createdAtMs" / 1000),
         to_timestamp(h."capturedAtMs" / 1000), to_timestamp(h."releasedAtMs" / 1000)
  FROM json_to_recordset(p_holds -> 'placed') h(
    "walletId" text, "holdId" text, shard smallint, "amountMinor" bigint, "capturedMinor" bigint, status text, kind text,
    reference text, description text, "expiresAtMs" double precision, "createdAtMs" double precision,
    "capturedAtMs" double precision, "releasedAtMs" double precision);

  UPDATE holds h
  SET captured = c."capturedMinor", status = c.status, captured_at = to_timestamp(c."capturedAtMs" / 1000),
      released_at = to_timestamp(c."releasedAtMs" / 1000)
  FROM json_to_recordset(p_holds -> 'changed') c(
    "walletId" text, "holdId" text, "capturedMinor" bigint, status text, "capturedAtMs" double precision,
    "releasedAtMs" double precision)
  WHERE h.wallet_id = c."walletId" AND h.hold_id = c."holdId";
  GET DIAGNOSTICS touched = ROW_COUNT;
  wanted := json_array_length(p_holds -> 'changed');
  IF touched <> wanted THEN
    RAISE EXCEPTION '% of % holds are not there', wanted - touched, wanted USING ERRCODE = 'CF002';
  END IF;

  UPDATE transfers t SET hold_id = c."holdId", hold_final = c."isHoldFinal"
  FROM json_to_recordset(p_holds -> 'transfers') c("transferId" text, "holdId" text, "isHoldFinal" boolean)
  WHERE t.transfer_id = c."transferId";
  GET DIAGNOSTICS touched = ROW_COUNT;
  wanted := json_array_length(p_holds -> 'transfers');
  IF touched <> wanted THEN
    RAISE EXCEPTION '% of % transfers are not there', wanted - touched, wanted USING ERRCODE = 'CF002';
  END IF;
  RETURN NULL;
END $$;

-- As in 0001, with one more event that takes money out.
CREATE OR REPLACE VIEW ledger_entries AS
SELECT e.wallet_id, e.version, e.occurred_at, w.currency, leg.account, leg.amount
FROM events e
JOIN wallets w USING (wallet_id)
CROSS JOIN LATERAL (
  SELECT CASE WHEN e.type IN ('WalletDebited', 'TransferSent', 'HoldCaptured') THEN -e.amount ELSE e.amount END AS delta
) d
CROSS JOIN LATERAL (VALUES ('wallet:' || e.wallet_id, d.delta), (e.account, -d.delta)) leg(account, amount)
WHERE e.amount IS NOT NULL;

-- Down Migration

CREATE OR REPLACE VIEW ledger_entries AS
SELECT e.wallet_id, e.version, e.occurred_at, w.currency, leg.account, leg.amount
FROM events e
JOIN wallets w USING (wallet_id)
CROSS JOIN LATERAL (
  SELECT CASE WHEN e.type IN ('WalletDebited', 'TransferSent') THEN -e.amount ELSE e.amount END AS delta
) d
CROSS JOIN LATERAL (VALUES ('wallet:' || e.wallet_id, d.delta), (e.account, -d.delta)) leg(account, amount)
WHERE e.amount IS NOT NULL;
DROP FUNCTION put_holds;
ALTER TABLE transfers DROP COLUMN hold_id, DROP COLUMN hold_final;
DROP TABLE holds;
