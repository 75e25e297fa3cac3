/**
 * What Coffer is measured beside, each as an HTTP server of its own. `empty` is Fastify with a
 * handler that does nothing: the limit of the front. `rowlock` is what teams write today: a pool of
 * connections, and per request one transaction that locks the wallet's row, checks, updates and
 * records. It is meant to be a good one: the wallets of a transfer are locked in id order so that
 * nothing deadlocks, amounts are integers, statements are prepared once per connection, no foreign
 * key is checked, and nothing is logged. It keeps neither idempotency keys nor an event history, so
 * it does less than Coffer.
 */
import Fastify, { type FastifyInstance } from "fastify";
import { Pool, type PoolClient } from "pg";

/** The same Fastify for both: the usual JSON body parsing and no logger. */
function buildFront(): FastifyInstance {
  return Fastify({ logger: false });
}

export function buildEmptyRival(): FastifyInstance {
  const app = buildFront();
  app.post<{ Params: { id: string }; Body: { amount: number } }>("/wallets/:id/credit", (request) =>
    Promise.resolve({ id: request.params.id, amount: request.body.amount }),
  );
  return app;
}

const SCHEMA = `
  CREATE TABLE wallets (
    id text PRIMARY KEY,
    currency text NOT NULL,
    balance bigint NOT NULL CHECK (balance >= 0),
    updated_at timestamptz NOT NULL DEFAULT now()
  );
  CREATE TABLE transactions (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    wallet_id text NOT NULL,
    counterparty_id text,
    type text NOT NULL,
    amount bigint NOT NULL,
    balance_after bigint NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
  );
  CREATE INDEX transactions_wallet_id ON transactions (wallet_id);`;

/**
 * Creates the row-lock rival's tables in an empty database and fills in wallets of one balance each
 * (minor units).
 */
export async function seedRowlockRival(
  databaseUrl: string,
  walletIds: readonly string[],
  balanceMinor: number,
): Promise<void> {
  const pool = new Pool({ connectionString: databaseUrl, max: 1 });
  try {
    await pool.query(SCHEMA);
    await pool.query(
      "INSERT INTO wallets (id, currency, balance) SELECT id, 'USD', $2 FROM unnest($1::text[]) AS id",
      [walletIds, balanceMinor],
    );
    await pool.query("VACUUM ANALYZE wallets");
  } finally {
    await pool.end();
  }
}

interface WalletRow {
  id: string;
  currency: string;
  balance: string;
}

/** An answer with a status of its own; the transaction it is thrown in is rolled back. */
class Refusal extends Error {
  readonly statusCode: number;

  constructor(statusCode: number, message: string) {
    super(message);
    this.statusCode = statusCode;
  }
}

const LOCK_ONE = {
  name: "lock-one",
  text: "SELECT id, currency, balance FROM wallets WHERE id = $1 FOR UPDATE",
};
const LOCK_BOTH = {
  name: "lock-both",
  text: "SELECT id, currency, balance FROM wallets WHERE id IN ($1, $2) ORDER BY id FOR UPDATE",
};
const SET_BALANCE = {
  name: "set-balance",
  text: "UPDATE wallets SET balance = $2, updated_at = now() WHERE id = $1",
};
const RECORD_ONE = {
  name: "record-one",
  text: `INSERT INTO transactions (wallet_id, type, amount, balance_after) VALUES ($1, $2, $3, $4)
         RETURNING id`,
};
const RECORD_BOTH = {
  name: "record-both",
  text: `INSERT INTO transactions (wallet_id, counterparty_id, type, amount, balance_after)
         VALUES ($1, $2, 'TRANSFER_OUT', $3, $4), ($2, $1, 'TRANSFER_IN', $3, $5)
         RETURNING id`,
};

const AMOUNT_BODY = {
  type: "object",
  required: ["amount"],
  properties: { amount: { type: "number", exclusiveMinimum: 0 }, toWalletId: { type: "string" } },
} as const;

/**
 * `poolSize` is the number of its database connections; the caller closes the app, which ends them.
 */
export function buildRowlockRival(databaseUrl: string, poolSize: number): FastifyInstance {
  const app = buildFront();
  const pool = new Pool({ connectionString: databaseUrl, max: poolSize });
  pool.on("error", (error) => console.error(`idle connection lost: ${error.message}`));
  app.addHook("onClose", () => pool.end());
  const options = { schema: { body: AMOUNT_BODY } };

  interface Change {
    Params: { id: string };
    Body: { amount: number };
  }
  app.post<Change>("/wallets/:id/credit", options, (request) =>
    inTransaction(pool, (client) => change(client, request.params.id, request.body.amount, 1)),
  );
  app.post<Change>("/wallets/:id/debit", options, (request) =>
    inTransaction(pool, (client) => change(client, request.params.id, request.body.amount, -1)),
  );
  app.post<{ Params: { id: string }; Body: { amount: number; toWalletId: string } }>(
    "/wallets/:id/transfer",
    { schema: { body: { ...AMOUNT_BODY, required: ["amount", "toWalletId"] } } },
    (request) =>
      inTransaction(pool, (client) =>
        transfer(client, request.params.id, request.body.toWalletId, request.body.amount),
      ),
  );
  return app;
}

async function inTransaction<T>(pool: Pool, work: (client: PoolClient) => Promise<T>): Promise<T> {
  const client = await pool.connect();
  let broken: Error | undefined;
  try {
    await client.query("BEGIN");
    const result = await work(client);
    await client.query("COMMIT");
    return result;
  } catch (error) {
    await client.query("ROLLBACK").catch((rollbackError: Error) => (broken = rollbackError));
    throw error;
  } finally {
    client.release(broken);
  }
}

async function change(client: PoolClient, id: string, amount: number, sign: 1 | -1) {
  const amountMinor = Math.round(amount * 100);
  const locked = await client.query<WalletRow>({ ...LOCK_ONE, values: [id] });
  const wallet = locked.rows[0];
  if (wallet === undefined) throw new Refusal(404, `Wallet ${id} not found`);
  const balanceMinor = Number(wallet.balance) + sign * amountMinor;
  if (balanceMinor < 0) throw new Refusal(400, `Wallet ${id} has insufficient funds`);
  await client.query({ ...SET_BALANCE, values: [id, balanceMinor] });
  const type = sign === 1 ? "CREDIT" : "DEBIT";
  const recorded = await client.query<{ id: string }>({
    ...RECORD_ONE,
    values: [id, type, amountMinor, balanceMinor],
  });
  const transactionId = recorded.rows[0]?.id;
  return { id, currency: wallet.currency, balance: balanceMinor / 100, transactionId };
}

async function transfer(client: PoolClient, fromId: string, toId: string, amount: number) {
  if (fromId === toId) throw new Refusal(400, "Payer and payee are the same wallet");
  const amountMinor = Math.round(amount * 100);
  const locked = await client.query<WalletRow>({ ...LOCK_BOTH, values: [fromId, toId] });
  const from = locked.rows.find((row) => row.id === fromId);
  const to = locked.rows.find((row) => row.id === toId);
  if (from === undefined) throw new Refusal(404, `Wallet ${fromId} not found`);
  if (to === undefined) throw new Refusal(404, `Wallet ${toId} not found`);
  const fromMinor = Number(from.balance) - amountMinor;
  const toMinor = Number(to.balance) + amountMinor;
  if (fromMinor < 0) throw new Refusal(400, `Wallet ${fromId} has insufficient funds`);
  await client.query({ ...SET_BALANCE, values: [fromId, fromMinor] });
  await client.query({ ...SET_BALANCE, values: [toId, toMinor] });
  const recorded = await client.query<{ id: string }>({
    ...RECORD_BOTH,
    values: [fromId, toId, amountMinor, fromMinor, toMinor],
  });
  return {
    transferId: recorded.rows[0]?.id,
    fromWallet: { id: fromId, currency: from.currency, balance: fromMinor / 100 },
    toWallet: { id: toId, currency: to.currency, balance: toMinor / 100 },
  };
}
