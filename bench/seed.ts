/**
 * `npm run bench:seed`: fills an empty database with wallets and their whole histories, to measure
 * readers on. PostgreSQL makes the rows (`seed-rows.ts`) chunk by chunk, its own view says whether
 * the books balance, and all of it is one transaction: the indexes are dropped before and made
 * after, which takes half the time, and who ends it early finds the database as it was.
 */
import type pg from "pg";
import { exitOnSignals, startProgress } from "../src/command-line.ts";
import { withClient } from "../src/database.ts";
import { prepareDatabases } from "../src/deployment.ts";
import { startEmbeddedPostgres } from "../src/embedded/embedded-postgres.ts";
import { LIMITS } from "../src/limits.ts";
import { messageOf } from "../src/message-of.ts";
import { parseSeedOptions, SEED_USAGE, UsageError } from "./options.ts";
import { chunkValues, planSeed, SEED_CHAIN, SEED_CHUNK } from "./seed-rows.ts";
import { formatWhole } from "./statistics.ts";

/** Events of one statement: its sort fits into memory, and the bar moves. */
const CHUNK_EVENTS = 100_000;

async function fill(databaseUrl: string, wallets: number, events: number): Promise<void> {
  await prepareDatabases([databaseUrl], (line) => console.log(line));
  await withClient(databaseUrl, async (client) => {
    const { rows } = await client.query("SELECT FROM wallets LIMIT 1");
    if (rows.length > 0) throw new Error("The database has wallets already; give an empty one.");
    const startMs = performance.now();
    // What a crash would lose is seeded again.
    await client.query(
      "SET synchronous_commit = off; SET jit = off; SET work_mem = '128MB'; SET maintenance_work_mem = '512MB'",
    );
    await client.query(SEED_CHAIN);
    await client.query("BEGIN");
    const indexes = await dropIndexes(client);
    const written = await write(client, wallets, events);
    for (const { name, ddl } of indexes) {
      console.log(`Making ${name} ...`);
      await client.query(ddl);
    }
    await client.query("COMMIT");
    const tookMs = performance.now() - startMs;
    console.log("Gathering statistics ...");
    await client.query("VACUUM (ANALYZE) wallets, events, transfers, transfer_verdicts");
    const rate = formatWhole((written / tookMs) * 1_000);
    console.log(
      `${formatWhole(wallets)} wallets seed-* with ${formatWhole(written)} events in ${(tookMs / 1_000).toFixed(1)} s, ${rate} events/s`,
    );
    await assertBalanced(client);
  });
}

/** Drops the indexes of what is filled, and tells how to make them again. */
async function dropIndexes(client: pg.Client): Promise<{ name: string; ddl: string }[]> {
  const { rows } = await client.query<{ name: string; ddl: string; gone: string }>(
    `SELECT c.relname AS name,
            CASE WHEN o.oid IS NULL THEN pg_get_indexdef(c.oid)
                 ELSE format('ALTER TABLE %s ADD CONSTRAINT %I %s', t.relname, c.relname, pg_get_constraintdef(o.oid)) END AS ddl,
            CASE WHEN o.oid IS NULL THEN format('DROP INDEX %I', c.relname)
                 ELSE format('ALTER TABLE %s DROP CONSTRAINT %I', t.relname, c.relname) END AS gone
     FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_class t ON t.oid = i.indrelid
     LEFT JOIN pg_constraint o ON o.conindid = c.oid AND o.contype IN ('p', 'u')
     WHERE t.oid IN ('wallets'::regclass, 'events'::regclass, 'transfers'::regclass, 'transfer_verdicts'::regclass)
     ORDER BY c.relname`,
  );
  for (const { gone } of rows) await client.query(gone);
  return rows;
}

/** Returns the number of events. */
async function write(client: pg.Client, wallets: number, events: number): Promise<number> {
  const chunks = planSeed(wallets, events, CHUNK_EVENTS);
  const lasts = Array<number>(LIMITS.shardCount).fill(0);
  const sizeOf = (chunk: (typeof chunks)[number]): number => chunk.wallets * chunk.eventsEach;
  const total = chunks.reduce((sum, chunk) => sum + sizeOf(chunk), 0);
  const progress = startProgress("events", total, { unit: "events" });
  let done = 0;
  try {
    for (const chunk of chunks) {
      await client.query({ name: "seed", text: SEED_CHUNK, values: chunkValues(chunk, lasts) });
      progress.show((done += sizeOf(chunk)));
    }
  } finally {
    progress.stop();
  }
  return total;
}

async function assertBalanced(client: pg.Client): Promise<void> {
  const { rows } = await client.query<{ currency: string; sum: string }>(
    "SELECT currency, sum(balance) FROM trial_balance GROUP BY currency ORDER BY currency",
  );
  const wrong = rows.filter(({ sum }) => Number(sum) !== 0);
  if (wrong.length > 0) throw new Error(`The books do not balance: ${JSON.stringify(wrong)}`);
  console.log(`The books balance in ${rows.map(({ currency }) => currency).join(", ")}.`);
}

async function main(): Promise<void> {
  const options = parseSeedOptions(process.argv.slice(2));
  if (options === "help") {
    console.log(SEED_USAGE);
    return;
  }
  exitOnSignals();
  const { wallets, events, databaseUrl, dataDir } = options;
  if (databaseUrl !== undefined) {
    await fill(databaseUrl, wallets, events);
    return;
  }
  const server = await startEmbeddedPostgres({ dataDir });
  try {
    await fill(server.url, wallets, events);
    console.log(`Serve it with: DATA_DIR=${dataDir} npm start`);
  } finally {
    await server.stop();
  }
}

try {
  await main();
} catch (error) {
  console.error(messageOf(error));
  if (error instanceof UsageError) console.error(SEED_USAGE);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
