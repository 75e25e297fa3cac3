/**
 * The list of what guards the books, `src/migrations/guards.json`: it is what a freshly migrated
 * schema has. After a migration that changes any, this makes it anew:
 * `npx vitest run --project integration test/guards.test.ts -u`.
 */
import { expect, it, onTestFinished } from "vitest";
import { guardsFile, guardsOf, guardsOff } from "../src/verify/guards.ts";
import { openDatabase, type TestDatabase } from "./stage/audited-database.ts";

async function freshDatabase(): Promise<TestDatabase> {
  const database = await openDatabase("guards_test");
  onTestFinished(() => database.close());
  return database;
}

it("is what the migrations make", async () => {
  const { query } = await freshDatabase();
  const guards = [...(await guardsOf(query))].filter(([name]) => !name.includes("migrations_pkey"));
  const sorted = guards.toSorted(([one], [other]) => (one < other ? -1 : 1));
  const text = JSON.stringify(Object.fromEntries(sorted), null, 2);
  await expect(`${text}\n`).toMatchFileSnapshot(guardsFile);
});

it("is met by checks that were read back from what PostgreSQL says of them, as by a restore", async () => {
  const { query } = await freshDatabase();
  const checks = await query<{ change: string }>(
    `SELECT format('ALTER TABLE %1$s DROP CONSTRAINT %2$I, ADD CONSTRAINT %2$I %3$s', conrelid::regclass, conname,
                   pg_get_constraintdef(oid)) AS change
     FROM pg_constraint WHERE contype = 'c' AND connamespace = 'public'::regnamespace`,
  );
  for (const { change } of checks) await query(change);
  expect(checks.length).toBeGreaterThan(20);
  expect(await guardsOff(query)).toEqual([]);
});

it("is met by an index that is stored in another way", async () => {
  const { query } = await freshDatabase();
  await query("ALTER INDEX events_command SET (fillfactor = 70)");
  await query("REINDEX TABLE events");
  expect(await guardsOff(query)).toEqual([]);
});

it("is not met by a check that was taken away and came back for new rows only", async () => {
  const { query } = await freshDatabase();
  const [check] = await query<{ name: string; table: string; definition: string }>(
    `SELECT conname AS name, conrelid::regclass::text AS "table", pg_get_constraintdef(oid) AS definition
     FROM pg_constraint WHERE contype = 'c' AND connamespace = 'public'::regnamespace
     ORDER BY conname LIMIT 1`,
  );
  const { name, table, definition } = check!;
  await query(`ALTER TABLE ${table} DROP CONSTRAINT ${name}`);
  const field = `check ${name} on ${table}`;
  const off = { kind: "guard_off", field, expected: definition };
  expect(await guardsOff(query)).toEqual([{ ...off, found: null }]);
  await query(`ALTER TABLE ${table} ADD CONSTRAINT ${name} ${definition} NOT VALID`);
  expect(await guardsOff(query)).toEqual([{ ...off, found: `${definition} NOT VALID` }]);
  await query(`ALTER TABLE ${table} VALIDATE CONSTRAINT ${name}`);
  expect(await guardsOff(query)).toEqual([]);
});
