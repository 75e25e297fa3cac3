/**
 * The database that the process uses: one given by URL, or the embedded PostgreSQL, which is kept alive as long as the process is.
 * An embedded server that dies is started again on the same port and data, so that the rest of Coffer only sees a connection that was
 * lost and comes back.
 */
import pg from "pg";
import { startEmbeddedPostgres, type EmbeddedPostgres } from "./embedded-postgres.ts";
import { LIMITS } from "./limits.ts";

export interface Database {
  readonly url: string;
  /** For the start line: what it is and where, without a password. */
  readonly description: string;
  /** Stops the embedded server; a given one is left alone. */
  stop(): Promise<void>;
}

/** Its message is meant for the person who started Coffer. */
export class UnsafeDatabaseError extends Error {
  override readonly name = "UnsafeDatabaseError";
}

/** @throws UnsafeDatabaseError when the server would acknowledge commits that a power cut can take back. */
export async function assertDurable(databaseUrl: string): Promise<void> {
  const client = new pg.Client({
    connectionString: databaseUrl,
    connectionTimeoutMillis: LIMITS.journalConnectMs,
  });
  await client.connect();
  try {
    const { rows } = await client.query<{ fsync: string }>("SHOW fsync");
    if (rows[0]?.fsync === "on") return;
    throw new UnsafeDatabaseError(
      "DATABASE_URL names a PostgreSQL with fsync off, which can lose acknowledged money; set fsync = on there",
    );
  } finally {
    await client.end();
  }
}

export interface DatabaseLog {
  warn(text: string): void;
  error(text: string): void;
}

/** @throws EmbeddedPostgresError when the embedded server cannot start. */
export async function openDatabase(
  databaseUrl: string | undefined,
  dataDir: string,
  log: DatabaseLog,
): Promise<Database> {
  if (databaseUrl !== undefined) {
    const { host, pathname } = new URL(databaseUrl);
    const description = `PostgreSQL at ${host}${pathname}`;
    return { url: databaseUrl, description, stop: () => Promise.resolve() };
  }
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
        log.error(`the embedded PostgreSQL does not start: ${String(error)}`);
        await new Promise((resolve) => setTimeout(resolve, pauseMs));
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
    url,
    description: `embedded PostgreSQL in ${dataDir}`,
    async stop() {
      isStopping = true;
      await server.stop();
    },
  };
}
