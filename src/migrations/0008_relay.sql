-- Up Migration

-- How far each sink has taken the events of each shard: everything up to the position is delivered, nothing behind it is certain to
-- be. In the database of the shard. A sink is the event stream, or one run of one webhook (a replay begins another run, so that no
-- late save of the run before can undo it). Saved after the delivery, so a crash repeats some events and loses none.
CREATE TABLE relay_cursors (
  sink          text        NOT NULL,
  shard         smallint    NOT NULL CHECK (shard BETWEEN 0 AND 255),
  position      bigint      NOT NULL CHECK (position >= 0),
  -- The event behind the position that is not taken: how often it was tried, since when, when next, and why.
  attempts      int         NOT NULL DEFAULT 0,
  failing_since timestamptz,
  retry_at      timestamptz,
  reason        text,
  PRIMARY KEY (sink, shard),
  CHECK ((attempts = 0) = (failing_since IS NULL))
) WITH (fillfactor = 50);

-- Who wants events by HTTP. Only in the first database of a deployment; the secret is needed to sign, so it is here as it is.
CREATE TABLE webhooks (
  webhook_id      text        PRIMARY KEY,
  url             text        NOT NULL,
  secret          text        NOT NULL,
  event_types     text[],              -- null: all
  wallet_ids      text[],              -- null: all
  description     text,
  status          text        NOT NULL CHECK (status IN ('ACTIVE', 'DISABLED')),
  disabled_reason text,
  disabled_at     timestamptz,
  run             text        NOT NULL,
  idempotency_key text        UNIQUE,
  fingerprint     text,
  created_at      timestamptz NOT NULL DEFAULT now(),
  CHECK ((status = 'DISABLED') = (disabled_at IS NOT NULL))
);

-- The last position of a shard whose event is before a time; 0 when there is none. By bisection, as times of a shard only go back
-- where two hosts' clocks disagree.
CREATE FUNCTION position_before(p_shard smallint, p_at timestamptz) RETURNS bigint LANGUAGE plpgsql STABLE AS $$
DECLARE
  low bigint := 0;
  high bigint;
  middle bigint;
  is_before boolean;
BEGIN
  SELECT coalesce(max(position), 0) + 1 INTO high FROM events WHERE shard = p_shard;
  WHILE high - low > 1 LOOP
    middle := (low + high) / 2;
    SELECT occurred_at < p_at INTO STRICT is_before FROM events WHERE shard = p_shard AND position = middle;
    IF is_before THEN low := middle; ELSE high := middle; END IF;
  END LOOP;
  RETURN low;
END $$;

-- Down Migration

DROP FUNCTION position_before;
DROP TABLE webhooks, relay_cursors;
