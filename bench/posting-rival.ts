/**
 * What a batch of Coffer is measured beside: a ledger in the database, where one call of an SQL
 * function posts one transfer. In the manner of such ledgers it locks both accounts in the order of
 * their ids, writes the transfer, one entry for each account with the balance before and after, and
 * both new balances. It is meant to be a good one: one round trip per posting, a prepared
 * statement, no foreign key. There is no key to repeat a call by, and no HTTP in front of it.
 */
import { Client } from "pg";

const SCHEMA = `
  CREATE TABLE accounts (
    id bigint PRIMARY KEY,
    currency text NOT NULL,
    balance bigint NOT NULL DEFAULT 0 CHECK (balance >= 0),
    version bigint NOT NULL DEFAULT 0,
    updated_at timestamptz NOT NULL DEFAULT now()
  ) WITH (fillfactor = 70);
  CREATE TABLE transfers (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    from_account bigint NOT NULL,
    to_account bigint NOT NULL,
    amount bigint NOT NULL CHECK (amount > 0),
    created_at timestamptz NOT NULL DEFAULT now()
  );
  CREATE TABLE entries (
    account_id bigint NOT NULL,
    account_version bigint NOT NULL,
    transfer_id bigint NOT NULL,
    amount bigint NOT NULL,
    balance_before bigint NOT NULL,
    balance_after bigint NOT NULL,
    PRIMARY KEY (account_id, account_version)
  );
  CREATE INDEX entries_transfer ON entries (transfer_id);

  CREATE FUNCTION post_transfer(p_from bigint, p_to bigint, p_amount bigint) RETURNS bigint LANGUAGE plpgsql AS $$
  DECLARE
    posted bigint;
    payer accounts;
    payee accounts;
  BEGIN
    PERFORM FROM accounts WHERE id IN (p_from, p_to) ORDER BY id FOR UPDATE;
    INSERT INTO transfers (from_account, to_account, amount) VALUES (p_from, p_to, p_amount) RETURNING id INTO posted;
    UPDATE accounts SET balance = balance - p_amount, version = version + 1, updated_at = now()
      WHERE id = p_from RETURNING * INTO STRICT payer;
    UPDATE accounts SET balance = balance + p_amount, version = version + 1, updated_at = now()
      WHERE id = p_to RETURNING * INTO STRICT payee;
    IF payer.currency <> payee.currency THEN
      RAISE EXCEPTION 'accounts % and % hold different assets', p_from, p_to;
    END IF;
    INSERT INTO entries VALUES
      (p_from, payer.version, posted, -p_amount, payer.balance + p_amount, payer.balance),
      (p_to, payee.version, posted, p_amount, payee.balance - p_amount, payee.balance);
    RETURN posted;
  END $$;`;

/** One posting: payer, payee, minor units. */
export const POST_TRANSFER = { name: "post", text: "SELECT post_transfer($1, $2, $3)" };

/**
 * Makes the ledger in an empty database, with accounts 0 to `accounts - 1` of one balance (minor
 * units).
 */
export async function seedPostingRival(
  databaseUrl: string,
  accounts: number,
  balanceMinor: number,
): Promise<void> {
  const client = new Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    await client.query(SCHEMA);
    await client.query(
      "INSERT INTO accounts (id, currency, balance) SELECT n, 'USD', $2 FROM generate_series(0, $1::int - 1) n",
      [accounts, balanceMinor],
    );
    await client.query("VACUUM ANALYZE accounts");
  } finally {
    await client.end();
  }
}

/**
 * The rival's books must be right, too: entries and balances tell the same, and money is neither
 * lost nor made.
 */
export async function checkPostings(
  databaseUrl: string,
  accounts: number,
  balanceMinor: number,
): Promise<{ ok: boolean; line: string }> {
  const client = new Client({ connectionString: databaseUrl });
  await client.connect();
  try {
    const { rows } = await client.query<{ sum: string; entries: string; strays: string }>(
      `SELECT (SELECT sum(balance) FROM accounts)::text AS sum,
              (SELECT coalesce(sum(amount), 0) FROM entries)::text AS entries,
              (SELECT count(*) FROM accounts a WHERE balance <> $1
                 + coalesce((SELECT sum(amount) FROM entries e WHERE e.account_id = a.id), 0))::text AS strays`,
      [balanceMinor],
    );
    const { sum, entries, strays } = rows[0]!;
    const ok = BigInt(sum) === BigInt(accounts) * BigInt(balanceMinor) && entries === "0";
    return {
      ok: ok && strays === "0",
      line: `postings: balances add up to ${sum}, entries to ${entries}, ${strays} accounts differ from their entries`,
    };
  } finally {
    await client.end();
  }
}
