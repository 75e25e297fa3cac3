/**
 * `npm run migrate -- status | up | down [n]`: migrations by hand, on each database that
 * DATABASE_URL lists. Without it, on the embedded PostgreSQL under DATA_DIR, which is started for
 * the duration. A running Coffer holds that folder: `status` asks the server that is there, the
 * others refuse. `down` takes back one migration unless told how many; where there are events it
 * has to be told that it may.
 */
import { exitOnSignals } from "./command-line.ts";
import { maskPasswords, readConfig } from "./config.ts";
import { startEmbeddedPostgres, useEmbeddedPostgres } from "./embedded/embedded-postgres.ts";
import { withClient } from "./database.ts";
import { messageOf } from "./message-of.ts";
import { migrateDown, migrateUp, migrationStatus } from "./postgres/migrate.ts";
import { assertNode } from "./node-version.ts";

type Command =
  | { type: "status" }
  | { type: "up" }
  | { type: "down"; steps: number; isForced: boolean };

const usage = `Usage: npm run migrate -- status | up | down [n] [--force]
  status    what has run and what is pending
  up        run whatever is pending
  down [n]  take back the latest n migrations (1), and with them all that they made room for;
            where there are events only with --force. End every Coffer and make a backup before
The databases: DATABASE_URL (several with commas between them), or else the embedded one under
DATA_DIR (.coffer).`;

const print = (line: string): void => void process.stdout.write(`${line}\n`);

exitOnSignals();
process.exitCode = await main(process.argv.slice(2)).catch((error: unknown) => {
  process.stderr.write(`${messageOf(error)}\n`);
  return 1;
});

async function main(args: string[]): Promise<number> {
  assertNode();
  if (args.includes("--help")) {
    print(usage);
    return 0;
  }
  const command = parse(args);
  if (command === undefined) {
    const problem = args.length === 0 ? "" : `There is no "${args.join(" ")}"\n`;
    process.stderr.write(`${problem}${usage}\n`);
    return 2;
  }
  const { DATABASE_URL, DATA_DIR } = process.env;
  const { databaseUrls, dataDir } = readConfig({ DATABASE_URL, DATA_DIR });
  if (databaseUrls.length > 0) return await runOnEach(command, databaseUrls);
  const server = await (command.type === "status"
    ? useEmbeddedPostgres(dataDir)
    : startEmbeddedPostgres({ dataDir }));
  try {
    print(`Embedded PostgreSQL under ${dataDir}`);
    await run(command, server.url);
  } finally {
    await server.stop();
  }
  return 0;
}

/**
 * One that fails does not keep the others from their turn: all should end up with the same schema.
 */
async function runOnEach(command: Command, databaseUrls: readonly string[]): Promise<number> {
  let exitCode = 0;
  for (const url of databaseUrls) {
    print(maskPasswords(url));
    await run(command, url).catch((error: unknown) => {
      print(`  Failed: ${messageOf(error)}`);
      exitCode = 1;
    });
  }
  return exitCode;
}

function parse(args: string[]): Command | undefined {
  const isForced = args[0] === "down" && args.at(-1) === "--force";
  const [type, count, ...rest] = isForced ? args.slice(0, -1) : args;
  if (rest.length > 0) return undefined;
  if (type === "down" && /^[1-9]\d{0,5}$/.test(count ?? "1")) {
    return { type, steps: Number(count ?? "1"), isForced };
  }
  return (type === "status" || type === "up") && count === undefined ? { type } : undefined;
}

async function run(command: Command, databaseUrl: string): Promise<void> {
  switch (command.type) {
    case "status": {
      for (const { name, appliedAt, known } of await migrationStatus(databaseUrl)) {
        const state = appliedAt === undefined ? "pending" : `applied ${appliedAt.toISOString()}`;
        print(`  ${name}  ${state}${known ? "" : "  (no such file in this version)"}`);
      }
      return;
    }
    case "up": {
      const done = await migrateUp(databaseUrl, { log: (line) => print(`  ${line}`) });
      if (done.length === 0) print("  Nothing to do, the schema is up to date");
      return;
    }
    case "down": {
      if (!command.isForced && (await hasEvents(databaseUrl))) {
        throw new Error(
          "There are events, and what the later migrations made room for would be lost. End every Coffer " +
            "on this database, make a backup, and say --force",
        );
      }
      const log = (line: string): void => print(`  ${line}`);
      const done = await migrateDown(databaseUrl, command.steps, { log });
      if (done.length === 0) print("  Nothing to take back");
      return;
    }
    default:
      command satisfies never;
  }
}

async function hasEvents(databaseUrl: string): Promise<boolean> {
  return await withClient(databaseUrl, async (client) => {
    const table = await client.query<{ is_there: boolean }>(
      "SELECT to_regclass('events') IS NOT NULL AS is_there",
    );
    if (table.rows[0]?.is_there !== true) return false;
    const events = await client.query("SELECT FROM events LIMIT 1");
    return events.rows.length > 0;
  });
}
