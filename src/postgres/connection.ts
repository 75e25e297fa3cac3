/**
 * How every connection to a database is set up, one by itself or many in a pool. It hides what all
 * of them need: Coffer's own schema first whatever the role's path says, a name by which an
 * operator finds them, numbers for big integers, and an ear for their loss, which unheard would end
 * the process. Settings travel as options of the connection, so they hold from its first statement
 * on.
 */
import pg from "pg";
import { NUMBERS } from "./rows.ts";

/** Of connections that write: what was answered is on the disk, and sees what others committed. */
export const DURABLE = [
  "synchronous_commit=on",
  "default_transaction_isolation=read\\ committed",
] as const;

/**
 * Joins and look-ups against large tables must be index probes whatever the statistics say: a plan
 * made while the tables were empty would otherwise scan them for as long as the connection lives.
 */
export const INDEX_PROBES = [
  "enable_hashjoin=off",
  "enable_mergejoin=off",
  "enable_bitmapscan=off",
  "enable_seqscan=off",
  "jit=off",
] as const;

export interface ConnectionOptions {
  /** What it is for: `coffer-<name>` in `pg_stat_activity`. */
  readonly name: string;
  readonly connectMs: number;
  /** Of its session, such as `jit=off`. */
  readonly settings: readonly string[];
}

export function connectionConfig(
  databaseUrl: string,
  { name, connectMs, settings }: ConnectionOptions,
): pg.ClientConfig {
  return {
    connectionString: databaseUrl,
    application_name: `coffer-${name}`,
    connectionTimeoutMillis: connectMs,
    keepAlive: true,
    options: ["search_path=public", ...settings].map((setting) => `-c ${setting}`).join(" "),
    types: NUMBERS,
  };
}

/** Its loss fails the query under way, and the next. */
export async function connect(databaseUrl: string, options: ConnectionOptions): Promise<pg.Client> {
  const client = new pg.Client(connectionConfig(databaseUrl, options));
  client.on("error", () => undefined);
  await client.connect();
  return client;
}

export interface PoolOptions extends ConnectionOptions {
  readonly connectionsMax: number;
  /**
   * For a server that says nothing at all: longer than the server's own bound of a statement, which
   * has to answer first.
   */
  readonly answerMs: number;
  /** An idle connection was lost; the pool makes another when one is needed. */
  readonly onLost?: (error: Error) => void;
}

/** Connects when it is asked, so the database may come later. */
export function buildPool(databaseUrl: string, options: PoolOptions): pg.Pool {
  const { connectionsMax, answerMs, onLost = () => undefined } = options;
  const pool = new pg.Pool({
    ...connectionConfig(databaseUrl, options),
    max: connectionsMax,
    query_timeout: answerMs,
  });
  pool.on("error", onLost);
  return pool;
}
