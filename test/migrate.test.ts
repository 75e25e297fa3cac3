/**
 * Migrations against a real database, with a throwaway folder of SQL files, and once with the real
 * ones.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { afterEach, beforeEach, expect, inject, it } from "vitest";
import { migrateDown, migrateUp, migrationStatus } from "../src/postgres/migrate.ts";
import { packageRoot } from "../src/package-root.ts";
import { createDatabase, dropDatabase } from "./stage/servers.ts";

const name = "migrate_test";
let folder: string;
let url: string;

function write(file: string, up: string, down: string): void {
  writeFileSync(join(folder, file), `-- Up Migration\n${up}\n-- Down Migration\n${down}\n`);
}

/** Of a command; a test that is blocked is out of reach of its own time limit. */
const blockedMsMax = 25_000;

async function tables(): Promise<string[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const { rows } = await client.query<{ relname: string }>(
    "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1",
  );
  await client.end();
  return rows.map(({ relname }) => relname);
}

beforeEach(async () => {
  url = await createDatabase(inject("postgresUrl"), name);
  folder = mkdtempSync(join(tmpdir(), "coffer-migrations-"));
  write("0001_first.sql", "CREATE TABLE first (n int);", "DROP TABLE first;");
  write("0002_second.sql", "SELECT pg_sleep(0.2); CREATE TABLE second ();", "DROP TABLE second;");
  writeFileSync(join(folder, "README.md"), "not a migration");
});

afterEach(async () => {
  rmSync(folder, { recursive: true, force: true });
  await dropDatabase(inject("postgresUrl"), name);
});

it("runs what is pending, once, and says so", async () => {
  const lines: string[] = [];
  const log = (line: string): void => void lines.push(line);
  expect(await migrateUp(url, { folder, log })).toEqual(["0001_first", "0002_second"]);
  expect(lines).toEqual(["Applied 0001_first", "Applied 0002_second"]);
  expect(await migrateUp(url, { folder })).toEqual([]);
  expect(await tables()).toEqual(["first", "migrations", "second"]);
});

it("lets four processes that start at once all succeed", async () => {
  const starts = Array.from({ length: 4 }, () => migrateUp(url, { folder }));
  const ran = (await Promise.all(starts)).map((names) => names.length);
  expect(ran.toSorted((a, b) => a - b)).toEqual([0, 0, 0, 2]);
});

it("takes back the latest steps, latest first", async () => {
  await migrateUp(url, { folder });
  expect(await migrateDown(url, 1, { folder })).toEqual(["0002_second"]);
  expect(await tables()).toEqual(["first", "migrations"]);
  expect(await migrateDown(url, 5, { folder })).toEqual(["0001_first"]);
  await expect(migrateDown(url, 0, { folder })).rejects.toThrow("from 1, got 0");
});

it("shows what has run, what is pending, and what only a newer version knows", async () => {
  expect(await migrationStatus(url, { folder })).toEqual([
    { name: "0001_first", appliedAt: undefined, known: true },
    { name: "0002_second", appliedAt: undefined, known: true },
  ]);
  await migrateUp(url, { folder });
  rmSync(join(folder, "0002_second.sql"));
  write("0003_third.sql", "SELECT 1;", "SELECT 1;");
  const states = await migrationStatus(url, { folder });
  expect(states.map((it) => [it.name, it.appliedAt !== undefined, it.known])).toEqual([
    ["0001_first", true, true],
    ["0003_third", false, true],
    ["0002_second", true, false],
  ]);
  expect(Math.abs(Number(states[0]?.appliedAt) - Date.now())).toBeLessThan(60_000);
});

it("leaves nothing of a run that fails", async () => {
  write("0003_broken.sql", "CREATE TABLE third (); SELECT broken;", "");
  await expect(migrateUp(url, { folder })).rejects.toThrow('column "broken" does not exist');
  expect(await tables()).toEqual(["migrations"]);
});

it("refuses a file slipped in before one that has run", async () => {
  rmSync(join(folder, "0001_first.sql"));
  await migrateUp(url, { folder });
  write("0001_late.sql", "SELECT 1;", "SELECT 1;");
  await expect(migrateUp(url, { folder })).rejects.toThrow("0001_late is preceding");
});

it("takes the real schema up, down to nothing and up again", async () => {
  const names = await migrateUp(url);
  expect(names.length).toBeGreaterThan(0);
  await migrateDown(url, names.length);
  expect(await tables()).toEqual(["migrations"]);
  expect(await migrateUp(url)).toEqual(names);
});

it("goes through all databases of a list by hand, says which each line is about, and that one failed", () => {
  const away = "postgres://u:secret@127.0.0.1:1/away";
  const cli = join(packageRoot, "dist", "src", "migrate-cli.js");
  const migrateBy = (command: string) =>
    spawnSync(process.execPath, [cli, command], {
      encoding: "utf8",
      env: { ...process.env, DATABASE_URL: `${away},${url}` },
      timeout: blockedMsMax,
    });
  const { port } = new URL(url);

  const up = migrateBy("up");
  expect(up.status).toBe(1);
  const lines = up.stdout.trimEnd().split("\n");
  expect(lines.slice(0, 2)).toEqual([
    "postgres://u:***@127.0.0.1:1/away",
    "  Failed: connect ECONNREFUSED 127.0.0.1:1",
  ]);
  expect(lines[2]).toMatch(new RegExp(`^postgres://.*@127.0.0.1:${port}/${name}$`));
  const files = readdirSync(join(packageRoot, "src", "migrations"))
    .filter((file) => file.endsWith(".sql"))
    .map((file) => file.replace(".sql", ""))
    .toSorted();
  const last = files.at(-1)!;
  expect(lines.slice(3)).toEqual(files.map((file) => `  Applied ${file}`));

  expect(migrateBy("status").stdout).toMatch(new RegExp(`${last} {2}applied .*\\n$`));
  expect(migrateBy("down").stdout).toMatch(new RegExp(` {2}Took back ${last}\\n$`));
});

it("takes nothing back by hand where there are events, unless it is told that it may", async () => {
  await migrateUp(url);
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  await client.query(
    `INSERT INTO events (wallet_id, version, type, balance, held, status, occurred_at, shard, position)
     VALUES ('w', 0, 'WalletCreated', 0, 0, 'ACTIVE', now(), 1, 1)`,
  );
  await client.end();
  const cli = join(packageRoot, "dist", "src", "migrate-cli.js");
  const migrateBy = (...command: string[]) =>
    spawnSync(process.execPath, [cli, ...command], {
      encoding: "utf8",
      env: { ...process.env, DATABASE_URL: url },
      timeout: blockedMsMax,
    });
  const before = await tables();
  const refused = migrateBy("down", "100");
  expect(refused.status).toBe(1);
  expect(refused.stdout).toContain("Failed: There are events");
  expect(refused.stdout).toContain("say --force");
  expect(await tables()).toEqual(before);
  expect(migrateBy("down", "1", "--force").stdout).toContain("Took back");
  expect(migrateBy("up", "--force").status).toBe(2);
});

it("says by hand what it does not know, beside how it is used", () => {
  const cli = join(packageRoot, "dist", "src", "migrate-cli.js");
  const { status, stderr } = spawnSync(process.execPath, [cli, "sideways", "2"], {
    encoding: "utf8",
    timeout: blockedMsMax,
  });
  expect(status).toBe(2);
  expect(stderr).toMatch(
    /^There is no "sideways 2"\nUsage: npm run migrate -- status \| up \| down/,
  );
});

it("gives events from before they had places their places, and no hash", async () => {
  const client = new pg.Client({ connectionString: url });
  await migrateUp(url, { log: () => undefined });
  const applied = (await migrationStatus(url)).filter(({ appliedAt }) => appliedAt !== undefined);
  const steps = applied.length - applied.findIndex(({ name: file }) => file === "0006_stream");
  await migrateDown(url, steps);
  await client.connect();
  try {
    await client.query(`
      INSERT INTO wallets (wallet_id, shard, currency, decimal_places, balance, held, status, version, metadata, created_at, updated_at)
      SELECT id, shard, 'USD', 2, 3, 0, 'ACTIVE', 3, '{}', now(), now()
      FROM (VALUES ('a', 7), ('b', 7), ('c', 8)) w(id, shard);
      INSERT INTO events (wallet_id, version, type, balance, held, status, occurred_at)
      SELECT id, v, 'WalletCreated', 0, 0, 'ACTIVE', '2030-01-01'::timestamptz + v * interval '1 s'
      FROM (VALUES ('a'), ('b'), ('c')) w(id), generate_series(0, 3) v`);
    await migrateUp(url, { log: () => undefined });
    const { rows } = await client.query(
      `SELECT shard, array_agg(wallet_id || version ORDER BY position) AS events,
              array_agg(position ORDER BY position)::int[] AS positions, count(hash)::int AS hashes
       FROM events GROUP BY shard ORDER BY shard`,
    );
    expect(rows).toEqual([
      {
        shard: 7,
        events: ["a0", "b0", "a1", "b1", "a2", "b2", "a3", "b3"],
        positions: [1, 2, 3, 4, 5, 6, 7, 8],
        hashes: 0,
      },
      { shard: 8, events: ["c0", "c1", "c2", "c3"], positions: [1, 2, 3, 4], hashes: 0 },
    ]);
    // And the append-only trigger is in force again
    await expect(client.query("UPDATE events SET position = position + 100")).rejects.toThrow(
      /append-only/,
    );
  } finally {
    await client.end();
  }
});
