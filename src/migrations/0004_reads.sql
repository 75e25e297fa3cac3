-- Up Migration

-- What readers search by. No index here has a column that money moves (balance, held, version, updated_at), so updates of a wallet
-- stay heap-only; metadata, status, owner and currency change never or by a person's hand. docs/queries.md has the plans.

-- The words of a text, in small letters; ASCII signs, blanks and control characters part them. Cut at 64 characters: longer ones are
-- found by their beginning. The collation is named, since wallet_id brings "C" along, which knows no letters beyond ASCII.
CREATE FUNCTION words_of(p_text text) RETURNS SETOF text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT left(word, 64) FROM regexp_split_to_table(lower(p_text COLLATE "default"), '[\x01-\x2f:-@\[-`{-\x7f]+') word WHERE word <> ''
$$;

-- By which words a wallet is found: those of its id, its owner's id, and the strings and numbers in its metadata, however deep. The
-- cost tells the planner to ask the index rather than to call it per row.
CREATE FUNCTION wallet_words(p_wallet_id text, p_owner_id text, p_metadata jsonb) RETURNS tsvector
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE COST 10000 AS $$
BEGIN
  RETURN (
    SELECT array_to_tsvector(coalesce(array_agg(DISTINCT word), '{}'))
    FROM (
      SELECT p_wallet_id AS said
      UNION ALL SELECT p_owner_id
      UNION ALL SELECT value #>> '{}' FROM jsonb_path_query(p_metadata, 'strict $.**') value
      WHERE jsonb_typeof(value) IN ('string', 'number')
    ) texts, public.words_of(said) word
  );
END $$;

-- Every word of the text must be there; one of three characters or more may be the beginning of a longer one. Null: no words.
CREATE FUNCTION words_query(p_text text) RETURNS tsquery LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
  SELECT string_agg('''' || word || '''' || CASE WHEN length(word) < 3 THEN '' ELSE ':*' END, ' & ')::tsquery
  FROM public.words_of(p_text) word
$$;

CREATE INDEX wallets_words ON wallets USING gin (wallet_words(wallet_id, owner_id, metadata))
  WITH (gin_pending_list_limit = 256);
CREATE INDEX wallets_metadata ON wallets USING gin (metadata jsonb_path_ops)
  WITH (gin_pending_list_limit = 256) WHERE metadata <> '{}';
CREATE INDEX wallets_currency ON wallets (currency, wallet_id);
CREATE INDEX wallets_not_active ON wallets (status, wallet_id) WHERE status <> 'ACTIVE';

-- A transfer's other two events are found by its record and by its verdict; the return has no such place. Few transfers return.
CREATE INDEX events_returned ON events (transfer_id) WHERE type = 'TransferReturned';

-- Version of the wallet's last event at or before a time; -1 before its creation, null without a wallet. By bisection: a wallet's
-- times never go back, so no index on them is needed, and a million events take twenty probes of the key.
CREATE FUNCTION version_at(p_wallet_id text, p_at timestamptz) RETURNS bigint LANGUAGE plpgsql STABLE PARALLEL SAFE AS $$
DECLARE
  low bigint := -1;
  high bigint;
  middle bigint;
  is_before boolean;
BEGIN
  SELECT version + 1 INTO high FROM wallets WHERE wallet_id = p_wallet_id;
  WHILE high - low > 1 LOOP
    middle := (low + high) / 2;
    SELECT occurred_at <= p_at INTO STRICT is_before FROM events WHERE wallet_id = p_wallet_id AND version = middle;
    IF is_before THEN low := middle; ELSE high := middle; END IF;
  END LOOP;
  RETURN CASE WHEN high IS NULL THEN NULL ELSE low END;
END $$;

-- Down Migration

DROP FUNCTION version_at;
DROP INDEX events_returned, wallets_not_active, wallets_currency, wallets_metadata, wallets_words;
DROP FUNCTION words_query, wallet_words, words_of;
