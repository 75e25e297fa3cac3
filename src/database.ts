/**
 * The databases that the process uses: those given by URL, or the embedded PostgreSQL, which is
 * kept alive as long as the process is. An embedded server that dies is started again on the same
 * port and data, so that the rest of Coffer only sees a connection that was lost and comes back.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type pg from "pg";
import { databaseName } from "./config.ts";
import { startEmbeddedPostgres, type EmbeddedPostgres } from "./embedded/embedded-postgres.ts";
import { LIMITS } from "./limits.ts";
import { messageOf } from "./message-of.ts";
import { connect } from "./postgres/connection.ts";

export interface Databases {
  /** Shard `s` lives in the one at `s % urls.length`. */
  readonly urls: readonly string[];
  /** For the start line: what they are and where, without a password. */
  readonly description: string;
  /** Stops the embedded server; given ones are left alone. */
  stop(): Promise<void>;
}

/** Its message is meant for the person who started Coffer. */
export class UnsafeDatabaseError extends Error {
  override readonly name = "UnsafeDatabaseError";
}

/**
 * @throws UnsafeDatabaseError when the server would acknowledge commits that a power cut can take
 * back, or cannot keep every text: one word that it has no letters for would fail each commit that
 * it is in, and with it the lane.
 */
export async function assertFit(databaseUrl: string): Promise<void> {
  const { rows } = await withClient(databaseUrl, (client) =>
    client.query<{ fsync: string; encoding: string }>(
      "SELECT current_setting('fsync') AS fsync, current_setting('server_encoding') AS encoding",
    ),
  );
  const { fsync, encoding } = rows[0]!;
  if (fsync !== "on") {
    throw new UnsafeDatabaseError(
      `${databaseName(databaseUrl)} (DATABASE_URL) has fsync off, which can lose acknowledged money; set fsync = on there`,
    );
  }
  if (!ENCODINGS.has(encoding)) {
    throw new UnsafeDatabaseError(
      `${databaseName(databaseUrl)} (DATABASE_URL) has the encoding ${encoding}, which cannot keep every text; make the database with ENCODING 'UTF8'`,
    );
  }
}

/** The latter keeps whatever bytes it is given. */
const ENCODINGS = new Set(["UTF8", "SQL_ASCII"]);

/** A setting that nothing but the options of a connection gives. */
const MARK = "coffer.session";

const SELECT_MARK = {
  text: `SELECT current_setting('${MARK}', true) AS mark`,
  query_timeout: LIMITS.migrationConnectMs,
};

/**
 * What commits and the fence rest on (`synchronous_commit`, the isolation, bounds) comes with the
 * options of each connection. A pooler may leave them out and say nothing.
 */
async function assertSettable(client: pg.Client, databaseUrl: string): Promise<void> {
  const { rows } = await client.query<{ mark: string | null }>(SELECT_MARK);
  if (rows[0]?.mark === "on") return;
  throw new UnsafeDatabaseError(
    `${databaseName(databaseUrl)} (DATABASE_URL) does not get what Coffer sets for its sessions, so acknowledged money could be lost: something between, such as PgBouncer with ignore_startup_parameters, leaves it out; name PostgreSQL itself`,
  );
}

/**
 * A connection for work at the start or by hand, which is closed at its end.
 * @throws UnsafeDatabaseError when its settings do not reach the server.
 */
export async function withClient<T>(
  databaseUrl: string,
  work: (client: pg.Client) => Promise<T>,
): Promise<T> {
  const client = await connect(databaseUrl, {
    name: "migrate",
    connectMs: LIMITS.migrationConnectMs,
    // What it is for has its own bounds, or takes as long as it takes, like a migration.
    settings: ["statement_timeout=0", `${MARK}=on`],
  });
  try {
    await assertSettable(client, databaseUrl);
    return await work(client);
  } finally {
    await client.end().catch(() => {});
  }
}

const AWAY =
  /^(ECONN[A-Z]+|ETIMEDOUT|EHOSTUNREACH|ENETUNREACH|ENOTFOUND|EAI_AGAIN|EPIPE|08...|25006|53...|55P03|57...)$/;

/**
 * Whether an error says that the server cannot be talked to now, or cannot do it now: no connection
 * (a system error, class 08 or the driver's own words), starting, stopping or canceled (class 57),
 * no connections or room left (class 53), locked (55P03) or read-only (25006; PostgreSQL manual,
 * appendix A).
 */
export function isAway(error: unknown): boolean {
  if (!(error instanceof Error)) return false;
  const code = "code" in error ? String(error.code) : "";
  return AWAY.test(code) || /timeout|terminated/.test(error.message);
}

export interface DatabaseLog {
  warn(text: string): void;
  error(text: string): void;
}

/**
 * Given databases are not touched yet. The embedded one, when none is given, is started.
 * @throws EmbeddedPostgresError when the embedded server cannot start.
 */
export async function openDatabases(
  databaseUrls: readonly string[],
  dataDir: string,
  log: DatabaseLog,
): Promise<Databases> {
  if (databaseUrls.length === 0) return await openEmbedded(dataDir, log);
  const names = databaseUrls.map(databaseName).join(", ");
  const description = `PostgreSQL at ${names}`;
  return { urls: databaseUrls, description, stop: () => Promise.resolve() };
}

async function openEmbedded(dataDir: string, log: DatabaseLog): Promise<Databases> {
  let server = await startEmbeddedPostgres({ dataDir });
  const { url, port } = server;
  let isStopping = false;

  async function revive(): Promise<void> {
    for (let pauseMs: number = LIMITS.journalRetryMs; !isStopping;) {
      try {
        await server.stop();
        server = await startEmbeddedPostgres({ dataDir, port });
        watch(server);
        log.warn("the embedded PostgreSQL runs again");
        return;
      } catch (error) {
        log.error(`the embedded PostgreSQL does not start: ${messageOf(error)}`);
        await sleep(pauseMs);
        pauseMs = Math.min(pauseMs * 2, LIMITS.journalRetryMsMax);
      }
    }
  }

  function watch({ exited }: EmbeddedPostgres): void {
    void exited.then(({ code, signal, expected }) => {
      if (expected || isStopping) return;
      log.error(`the embedded PostgreSQL ended (${signal ?? `code ${code}`}), starting it again`);
      void revive();
    });
  }

  watch(server);
  return {
    urls: [url],
    description: `embedded PostgreSQL in ${dataDir}`,
    async stop() {
      isStopping = true;
      await server.stop();
    },
  };
}
