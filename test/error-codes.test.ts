/**
 * Every code of the error table, brought about from outside: one way to each, by HTTP requests, by
 * raw bytes where no request is meant to be, and by what may happen to the database meanwhile. The
 * list has a type that refuses a code without a way, so a new row of the table needs one here.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { once } from "node:events";
import { connect } from "node:net";
import pg from "pg";
import { afterAll, beforeAll, expect, inject, it, onTestFinished } from "vitest";
import { ERRORS, type ErrorCode } from "../gateway/errors.ts";
import { LIMITS } from "../src/limits.ts";
import { shardOf } from "../src/core/shard.ts";
import { startCoffer } from "./stage/process.ts";
import { createDatabase, dropDatabase } from "./stage/servers.ts";
import { unique } from "./stage/ids.ts";
import { startStack, until, type Stack } from "./stage/stack.ts";

/** Instead of `LIMITS.httpRequestMs`, so that a slow request can be waited for. */
const REQUEST_MS = 500;

/** Instead of `LIMITS.trialBalanceMs`. */
const TRIAL_BALANCE_MS = 500;
const { trialBalanceMs } = LIMITS;

let stack: Stack;

beforeAll(async () => {
  Object.assign(LIMITS, { trialBalanceMs: TRIAL_BALANCE_MS });
  stack = await startStack({
    prepare({ server }) {
      server.requestTimeout = REQUEST_MS;
      server.headersTimeout = REQUEST_MS;
      Object.assign(server, { connectionsCheckingInterval: 100 });
    },
  });
});

afterAll(async () => {
  Object.assign(LIMITS, { trialBalanceMs });
  await stack.close();
});

interface Told {
  readonly status: number;
  readonly body: unknown;
}

async function open(fields: object = {}): Promise<string> {
  return (await stack.open({ initialBalance: 10, ...fields })).id;
}

/** A wallet with 5.00 of its 10.00 on hold. */
async function openHold(): Promise<[string, string]> {
  const walletId = await open();
  const { body } = await stack.post<{ id: string }>(`/wallets/${walletId}/holds`, { amount: 5 });
  return [walletId, body.id];
}

/** Bytes on a socket, and what comes back until the server closes it. */
async function raw(bytes: string): Promise<Told> {
  const socket = connect(stack.port, "127.0.0.1");
  onTestFinished(() => void socket.destroy());
  let text = "";
  socket.on("data", (chunk: Buffer) => (text += chunk.toString()));
  socket.write(bytes);
  await once(socket, "close");
  const status = Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1]);
  return { status, body: JSON.parse(text.slice(text.indexOf("\r\n\r\n"))) as unknown };
}

/** Work while a session holds a table for itself. */
async function whileLocked<T>(table: string, work: () => Promise<T>): Promise<T> {
  const session = new pg.Client({ connectionString: stack.databaseUrl });
  await session.connect();
  try {
    await session.query(`BEGIN; LOCK TABLE ${table} IN ACCESS EXCLUSIVE MODE`);
    return await work();
  } finally {
    await session.end();
  }
}

const credit = (walletId: string, json: object, key?: string) =>
  stack.post(`/wallets/${walletId}/credit`, json, key);

const WAYS: { readonly [Code in ErrorCode]: () => Promise<Told> } = {
  // What the wallet says
  invalid_amount: async () => credit(await open(), { amount: 0.001 }),
  amount_out_of_range: async () => credit(await open(), { amount: 1e15 }),
  insufficient_funds: async () => stack.post(`/wallets/${await open()}/debit`, { amount: 10.01 }),
  async same_wallet() {
    const walletId = await open();
    return stack.post(`/wallets/${walletId}/transfer`, { toWalletId: walletId, amount: 1 });
  },
  async currency_mismatch() {
    const toWalletId = await open({ currency: "EUR" });
    return stack.post(`/wallets/${await open()}/transfer`, { toWalletId, amount: 1 });
  },
  wallet_not_found: () => stack.get("/wallets/nobody"),
  asset_not_found: () => stack.post("/wallets", { currency: "NOTHING" }),
  wallet_already_exists: async () => stack.post("/wallets", { walletId: await open() }),
  version_conflict: async () => credit(await open(), { amount: 1, expectedVersion: 0 }),
  async idempotency_conflict() {
    const [walletId, key] = [await open(), unique("key")];
    await credit(walletId, { amount: 1 }, key);
    return credit(walletId, { amount: 2 }, key);
  },
  async wallet_not_active() {
    const walletId = await open();
    await stack.post(`/wallets/${walletId}/suspend`, {});
    return credit(walletId, { amount: 1 });
  },
  wallet_not_empty: async () => stack.post(`/wallets/${await open()}/close`, {}),
  async metadata_too_large() {
    const half = "x".repeat(LIMITS.metadataBytesMax / 2);
    const walletId = await open({ metadata: { first: half } });
    return stack.ask("PATCH", `/wallets/${walletId}`, { json: { metadata: { second: half } } });
  },
  async owner_mismatch() {
    // Two pairs of user and asset can make the same id
    const topUp = (user_id: string, asset_code: string) => {
      const reference_id = unique("reference");
      return stack.post("/api/v1/wallets/topup", { user_id, asset_code, amount: 1, reference_id });
    };
    await stack.post("/assets", { code: "GOLD:USD", name: "Gold in USD", decimalPlaces: 2 });
    await topUp("user", "GOLD:USD");
    return topUp("user:GOLD", "USD");
  },
  hold_not_found: async () => stack.post(`/wallets/${await open()}/holds/nothing/release`, {}),
  async hold_not_active() {
    const [walletId, holdId] = await openHold();
    await stack.post(`/wallets/${walletId}/holds/${holdId}/release`, {});
    return stack.post(`/wallets/${walletId}/holds/${holdId}/capture`, {});
  },
  async capture_exceeds_hold() {
    const [walletId, holdId] = await openHold();
    return stack.post(`/wallets/${walletId}/holds/${holdId}/capture`, { amount: 5.01 });
  },
  async invalid_expiry() {
    const expiresAt = new Date(Date.now() - 1_000).toISOString();
    return stack.post(`/wallets/${await open()}/holds`, { amount: 5, expiresAt });
  },
  async too_many_holds() {
    // Written by hand, since ten thousand commands take their time
    const walletId = unique("full");
    const values = [walletId, shardOf(walletId), LIMITS.holdsPerWalletMax];
    await stack.sql(
      `INSERT INTO wallets (wallet_id, shard, currency, decimal_places, balance, held, status, version, metadata, created_at, updated_at)
       VALUES ($1, $2, 'USD', 2, 2 * $3, $3, 'ACTIVE', $3, '{}', now(), now())`,
      values,
    );
    await stack.sql(
      `INSERT INTO holds (wallet_id, hold_id, shard, amount, captured, status, kind, created_at)
       SELECT $1, 'h' || n, $2, 1, 0, 'ACTIVE', 'OTHER', now() FROM generate_series(1, $3) n`,
      values,
    );
    return stack.post(`/wallets/${walletId}/holds`, { amount: 0.01 });
  },
  webhook_not_found: () => stack.get("/webhooks/01a1ff6d-8a51-74e5-a869-a872964453a8"),
  async too_many_webhooks() {
    const url = "http://127.0.0.1:9/never";
    for (let count = 0; count < LIMITS.webhooksMax; count++) await stack.post("/webhooks", { url });
    return stack.post("/webhooks", { url });
  },
  asset_already_exists: () =>
    stack.post("/assets", { code: "USD", name: "Mine", decimalPlaces: 2 }),
  async asset_limit_reached() {
    await stack.sql(
      `INSERT INTO assets (code, name, decimal_places) SELECT 'A' || n, 'Asset', 2 FROM generate_series(1, $1) n`,
      [LIMITS.ownAssetsMax],
    );
    return stack.post("/assets", { code: "ONE_MORE", name: "One more", decimalPlaces: 2 });
  },

  // What the door says
  bad_request: () => raw("NONSENSE\r\n\r\n"),
  invalid_json: () => stack.ask("POST", "/wallets", { text: "{" }),
  not_found: () => stack.get("/nothing"),
  method_not_allowed: () => stack.ask("DELETE", "/wallets/some"),
  request_timeout: () => raw("POST /wallets HTTP/1.1\r\nhost: x\r\n"),
  payload_too_large: () =>
    stack.ask("POST", "/wallets", { text: `"${"x".repeat(LIMITS.httpBodyBytesMax)}"` }),
  unsupported_media_type: () =>
    stack.ask("POST", "/wallets", { text: "<x/>", headers: { "content-type": "text/xml" } }),
  expectation_failed: () => raw("GET /wallets HTTP/1.1\r\nhost: x\r\nexpect: more\r\n\r\n"),
  validation_failed: () => stack.post("/wallets", { wallet: "unknown field" }),
  async rate_limited() {
    const name = unique("limited").replaceAll("-", "_");
    const databaseUrl = await createDatabase(inject("postgresUrl"), name);
    onTestFinished(() => dropDatabase(inject("postgresUrl"), name));
    const coffer = await startCoffer({ DATABASE_URL: databaseUrl, RATE_LIMIT_PER_SECOND: "1" });
    onTestFinished(async () => void (await coffer.kill()));
    const asked = Array.from({ length: 8 }, () => fetch(`${coffer.baseUrl}/assets`));
    const refused = (await Promise.all(asked)).find(({ status }) => status !== 200)!;
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
    return { status: refused.status, body: await refused.json() };
  },
  upgrade_required: () => stack.get("/ws"),
  origin_not_allowed: () =>
    stack.ask("GET", "/ws", { headers: { origin: "https://shop.example" } }),
  headers_too_large: () =>
    raw(`GET / HTTP/1.1\r\nhost: x\r\nx-long: ${"x".repeat(40_000)}\r\n\r\n`),

  // What readers do not find
  transfer_not_found: () => stack.get("/transfers/nothing"),
  version_not_found: async () => stack.get(`/wallets/${await open()}?version=9`),
  transaction_not_found: () => stack.get("/ledger/transactions/nothing"),
  operation_not_found: () => stack.get("/operations/nothing"),

  // What befalls the database
  async overloaded() {
    const walletId = await open();
    const readers = LIMITS.queryWaitingMax + LIMITS.queryConnectionsMax + 50;
    return whileLocked("events", async () => {
      const asked = Array.from({ length: readers }, async () => {
        const answer = await fetch(`${stack.url}/wallets/${walletId}/events`);
        const body = (await answer.json()) as { code: string };
        if (body.code !== "overloaded") throw new Error(body.code);
        return { status: answer.status, body };
      });
      const first = await Promise.any(asked);
      void Promise.allSettled(asked);
      return first;
    });
  },
  query_too_slow: () => whileLocked("events", () => stack.get("/ledger/trial-balance")),
  async outcome_unknown() {
    const walletId = await open();
    return whileLocked("rejections", () => credit(walletId, { amount: 1 }, unique("key")));
  },
  async unavailable() {
    const walletId = await open();
    const admin = new pg.Client({ connectionString: inject("postgresUrl") });
    await admin.connect();
    const name = new URL(stack.databaseUrl).pathname.slice(1);
    const allow = (is: boolean) => admin.query(`ALTER DATABASE ${name} ALLOW_CONNECTIONS ${is}`);
    onTestFinished(async () => {
      await allow(true);
      await admin.end();
    });
    await allow(false);
    await admin.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
       WHERE datname = $1 AND application_name IN ('coffer-writer', 'coffer-recovery')`,
      [name],
    );
    // A command that is sent over a connection that has just ended may have happened, for all that
    // its sender knows.
    await until("the connections are gone", async () => {
      const sql = `SELECT FROM pg_stat_activity WHERE datname = $1 AND application_name = 'coffer-writer'`;
      return (await admin.query(sql, [name])).rowCount === 0;
    });
    await sleep(200); // and the lane has noticed
    return credit(walletId, { amount: 1 });
  },
  async internal_error() {
    await stack.sql("ALTER TABLE transfer_verdicts RENAME COLUMN to_version TO damaged");
    onTestFinished(async () => {
      await stack.sql("ALTER TABLE transfer_verdicts RENAME COLUMN damaged TO to_version");
    });
    return stack.get("/ledger/transactions/any");
  },
};

it.each(Object.entries(WAYS))(
  "%s is met from outside, with its own status",
  { timeout: 40_000 },
  async (code, way) => {
    const { status, body } = await way();
    expect(body).toMatchObject({ code, statusCode: ERRORS[code as ErrorCode].status });
    expect(status).toBe(ERRORS[code as ErrorCode].status);
  },
);
