/**
 * Brings a database to the schema this version needs: numbered SQL files under `src/migrations`,
 * run by node-pg-migrate. A run holds the library's advisory lock and waits for another one's, so
 * processes that start together all succeed, and all pending files are one SQL transaction: a
 * failed run leaves the database as it was. Order is checked, because a file slipped in before one
 * that has run would make two databases of the same version differ.
 */
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import type pg from "pg";
import { withClient } from "../database.ts";
import { packageRoot } from "../package-root.ts";

const migrationsTable = "migrations";

export interface MigrateOptions {
  /** Takes lines about what is done; nothing is printed without it. */
  log?: (line: string) => void;
  /** Takes what somebody should look at; `log` does without it. */
  warn?: (line: string) => void;
  /** Folder of the SQL files; only tests have another. */
  folder?: string;
}

export interface MigrationState {
  /** The file's name without `.sql`. */
  name: string;
  /** Undefined: still to be run. */
  appliedAt: Date | undefined;
  /** False when the database has it and this version has no such file: a newer Coffer was here. */
  known: boolean;
}

/** Runs whatever is pending. Returns the names of what it ran, in order. */
export async function migrateUp(
  databaseUrl: string,
  options: MigrateOptions = {},
): Promise<string[]> {
  // All files and no others, in their order: there is nothing to run or to refuse, and nothing to
  // wait for.
  const states = await migrationStatus(databaseUrl, options);
  const newer = states.filter(({ known }) => !known).map(({ name }) => name);
  if (newer.length > 0) {
    const { log, warn = log } = options;
    warn?.(
      `A newer version has been here, with migrations that this one has not: ${newer.join(", ")}`,
    );
  }
  if (newer.length === 0 && states.every(({ appliedAt }) => appliedAt !== undefined)) return [];
  return await migrate(databaseUrl, "up", undefined, options);
}

/** Takes back the latest `steps` migrations, latest first. Returns their names. */
export async function migrateDown(
  databaseUrl: string,
  steps: number,
  options: MigrateOptions = {},
): Promise<string[]> {
  if (!Number.isSafeInteger(steps) || steps < 1) {
    throw new RangeError(`steps must be a whole number from 1, got ${steps}`);
  }
  return await migrate(databaseUrl, "down", steps, options);
}

/** Every migration that a file or the database knows, in order; changes nothing. */
export async function migrationStatus(
  databaseUrl: string,
  options: MigrateOptions = {},
): Promise<MigrationState[]> {
  const names = await migrationNames(options.folder);
  const applied = await withClient(databaseUrl, async (client) => {
    const table = await client.query<{ found: boolean }>(
      "SELECT to_regclass($1) IS NOT NULL AS found",
      [`public.${migrationsTable}`],
    );
    if (table.rows[0]?.found !== true) return [];
    const rows = await client.query<{ name: string; runOn: Date }>(
      `SELECT name, run_on AT TIME ZONE current_setting('TimeZone') AS "runOn"
         FROM public.${migrationsTable} ORDER BY run_on, id`,
    );
    return rows.rows;
  });
  const runOnOf = new Map(applied.map(({ name, runOn }) => [name, runOn]));
  const unknown = applied.filter(({ name }) => !names.includes(name));
  return [
    ...names.map((name) => ({ name, appliedAt: runOnOf.get(name), known: true })),
    ...unknown.map(({ name, runOn }) => ({ name, appliedAt: runOn, known: false })),
  ];
}

async function migrate(
  databaseUrl: string,
  direction: "up" | "down",
  count: number | undefined,
  { log, folder = migrationsFolder }: MigrateOptions,
): Promise<string[]> {
  const tell = (line: string): void => log?.(line);
  const quiet = { debug: tell, info: () => {}, warn: tell, error: tell };
  // Loaded when there is something to run: it is a tenth of what a process loads to start.
  const { runner } = await import("node-pg-migrate");
  const done = await withClient(databaseUrl, (client) => {
    const said = rememberErrors(client);
    return runner({
      dbClient: client,
      dir: folder,
      ignorePattern: String.raw`(?!.*\.sql$).*`,
      migrationsTable,
      schema: "public",
      direction,
      ...(count === undefined ? {} : { count }),
      singleTransaction: true,
      advisoryLockMode: "wait",
      logger: quiet,
    }).catch((error: unknown) => {
      throw said.first ?? error;
    });
  });
  for (const { name } of done) {
    tell(direction === "up" ? `Applied ${name}` : `Took back ${name}`);
  }
  return done.map(({ name }) => name);
}

/**
 * The library tells of a failure at its own table in words of its own, without the database's code,
 * by which others know whether to wait.
 */
function rememberErrors(client: pg.Client): { first: Error | undefined } {
  const said: { first: Error | undefined } = { first: undefined };
  const query = client.query.bind(client) as (...args: unknown[]) => Promise<unknown>;
  const remembering = (...args: unknown[]): Promise<unknown> =>
    query(...args).catch((error: Error) => {
      said.first ??= error;
      throw error;
    });
  Object.assign(client, { query: remembering });
  return said;
}

const migrationsFolder = join(packageRoot, "src", "migrations");

async function migrationNames(folder = migrationsFolder): Promise<string[]> {
  const files = await readdir(folder);
  const sql = files.filter((name) => name.endsWith(".sql") && !name.startsWith("."));
  return sql.map((name) => name.slice(0, -".sql".length)).toSorted();
}
