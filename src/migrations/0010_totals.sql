-- Up Migration

-- One pattern for each word of the text, as `words_query` means it, that misses no wallet.
CREATE FUNCTION words_patterns(p_text text) RETURNS text[] LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT array_agg(
    '(?:^|[\x01-\x2f:-@\[-`{-\x7f]|\\[bfnrt]|\\u00[0-9a-f]{2})' || regexp_replace(word, '[\u03c2\u03c3]', '[\\u03c2\\u03c3]', 'g') ||
    CASE WHEN length(word) < 3 THEN '(?:[\x01-\x2f:-@\[-`{-\x7f]|$)' ELSE '' END)
  FROM public.words_of(p_text) word
$$;

-- Whether a wallet has all words of a text: what `wallet_words(...) @@ words_query(p_text)` says, at a tenth of its cost, so that a search
-- can pass wallets in the order of their ids. One text has what `wallet_words` takes apart, as JSON, and each word is a pattern. Where
-- they could differ `wallet_words` decides: JSON has a letter behind a backslash that may stand for a sign, and of the two small sigmas
-- `lower` takes the one that what surrounds it asks for.
CREATE FUNCTION wallet_has_words(p_wallet_id text, p_owner_id text, p_metadata jsonb, p_text text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT lower((p_wallet_id || ' ' || coalesce(p_owner_id, '') || ' ' ||
           jsonb_path_query_array(p_metadata, 'strict $.** ? (@.type() == "string" || @.type() == "number")')::text
         ) COLLATE "default") ~ ALL (public.words_patterns(p_text))
     AND ((p_text !~ '[\u03a3\u03c2\u03c3]' AND position('\' IN p_metadata::text) = 0) OR
          public.wallet_words(p_wallet_id, p_owner_id, p_metadata) @@ public.words_query(p_text))
$$;

-- What the system accounts of a shard's events up to a position sum to, so that a trial balance need not read them again. Rows for the
-- shards of other databases stay at 0. Nothing of this is written by a commit: `advance_totals` does it for whoever needs the sums.
CREATE TABLE account_checkpoints (
  shard    smallint PRIMARY KEY CHECK (shard BETWEEN 0 AND 255),
  position bigint   NOT NULL DEFAULT 0 CHECK (position >= 0)
);
INSERT INTO account_checkpoints (shard) SELECT generate_series(0, 255);

CREATE TABLE account_totals (
  shard    smallint NOT NULL REFERENCES account_checkpoints,
  currency text     NOT NULL,
  account  text     NOT NULL,
  balance  numeric  NOT NULL,
  PRIMARY KEY (shard, currency, account)
);

-- Adds at most about p_events events to the totals, of shards that are more than p_behind positions ahead of their checkpoint, and tells how
-- many it has added; fewer than all when another call has the rest in hand. A shard's positions come in the order of its commits and
-- without gaps, so those that are seen up to the last are all there will ever be; the count makes sure of it, and a shard with a gap
-- stays where it is. Totals and checkpoint are one transaction. The joins are by key, however many rows the planner expects.
CREATE FUNCTION advance_totals(p_events bigint, p_behind bigint) RETURNS bigint LANGUAGE plpgsql
SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off AS $$
DECLARE
  shards smallint[];
  firsts bigint[];
  lasts bigint[];
  added bigint;
BEGIN
  -- Locked before anything of the events is read: each statement has its own snapshot, and the next one sees all that is counted.
  SELECT array_agg(b.shard), array_agg(b.position) INTO shards, firsts
  FROM (
    SELECT c.shard, c.position FROM account_checkpoints c
    WHERE EXISTS (SELECT FROM events e WHERE e.shard = c.shard AND e.position > c.position + p_behind)
    ORDER BY c.shard FOR UPDATE OF c SKIP LOCKED
  ) b;
  IF shards IS NULL THEN
    RETURN 0;
  END IF;

  SELECT array_agg(w.shard), array_agg(w.first), array_agg(s.last), sum(s.last - w.first)
  INTO shards, firsts, lasts, added
  FROM (SELECT unnest(shards) AS shard, unnest(firsts) AS first) w
  CROSS JOIN LATERAL (
    SELECT max(e.position) AS last, count(*) AS events FROM events e
    WHERE e.shard = w.shard AND e.position > w.first
      AND e.position <= w.first + greatest(1, p_events / cardinality(shards))
  ) s
  WHERE s.events = s.last - w.first;

  INSERT INTO account_totals AS t
  SELECT e.shard, l.currency, l.account, sum(l.amount)
  FROM (SELECT unnest(shards) AS shard, unnest(firsts) AS first, unnest(lasts) AS last) w
  JOIN events e ON e.shard = w.shard AND e.position > w.first AND e.position <= w.last
  JOIN ledger_entries l ON l.wallet_id = e.wallet_id AND l.version = e.version
  WHERE l.account LIKE 'system:%'
  GROUP BY e.shard, l.currency, l.account
  ON CONFLICT (shard, currency, account) DO UPDATE SET balance = t.balance + excluded.balance;

  UPDATE account_checkpoints c SET position = w.last
  FROM (SELECT unnest(shards) AS shard, unnest(lasts) AS last) w
  WHERE c.shard = w.shard;
  RETURN coalesce(added, 0);
END $$;

-- As `trial_balance`, with the totals for the events that are in them. One statement, so one moment: the wallets by their balances, and
-- the system accounts by every event up to the same commit. OFFSET 0 has each shard's new events read by their positions.
CREATE VIEW trial_balance_now AS
SELECT currency, 'wallets' AS account, sum(balance) AS balance FROM wallets GROUP BY currency
UNION ALL
SELECT currency, account, sum(amount) FROM (
  SELECT currency, account, balance AS amount FROM account_totals
  UNION ALL
  SELECT l.currency, l.account, l.amount
  FROM account_checkpoints c
  CROSS JOIN LATERAL (
    SELECT e.wallet_id, e.version FROM events e WHERE e.shard = c.shard AND e.position > c.position OFFSET 0
  ) later
  JOIN ledger_entries l ON l.wallet_id = later.wallet_id AND l.version = later.version
  WHERE l.account LIKE 'system:%'
) lines
GROUP BY currency, account;

-- Down Migration

DROP VIEW trial_balance_now;
DROP FUNCTION advance_totals;
DROP TABLE account_totals, account_checkpoints;
DROP FUNCTION wallet_has_words, words_patterns;
