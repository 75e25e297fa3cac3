/**
 * What guards the books in a database by itself: triggers and their functions, unique keys, checks
 * and foreign keys. `migrations/guards.json` has them as a freshly migrated schema has them, by
 * name and with PostgreSQL's own words for what they do; `test/guards.test.ts` makes that list, so
 * that nobody writes a second one. What somebody has added besides is nobody's business here.
 */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import type { Found } from "./differences.ts";
import { packageRoot } from "../package-root.ts";
import type { Query } from "./verify-database.ts";

export const guardsFile = join(packageRoot, "src", "migrations", "guards.json");

/**
 * Of an index not how it is stored, and of a function not how its lines are broken. That what was
 * there before was never checked, PostgreSQL says in its words for a check or foreign key.
 */
const GUARDS = `
  SELECT 'trigger ' || t.tgname || ' on ' || c.relname AS name, pg_get_triggerdef(t.oid) AS definition,
         t.tgenabled = 'A' OR t.tgenabled = 'O' AND current_setting('session_replication_role') <> 'replica' AS "isOn"
  FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
  WHERE c.relnamespace = 'public'::regnamespace AND NOT t.tgisinternal
  UNION ALL
  SELECT 'function ' || proname, regexp_replace(prosrc, '\\s+', ' ', 'g'), true FROM pg_proc
  WHERE pronamespace = 'public'::regnamespace AND prorettype = 'trigger'::regtype
  UNION ALL
  SELECT 'unique index ' || c.relname, regexp_replace(pg_get_indexdef(c.oid), ' WITH \\([^)]*\\)', ''), i.indisvalid
  FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
  WHERE c.relnamespace = 'public'::regnamespace AND i.indisunique
  UNION ALL
  SELECT CASE o.contype WHEN 'c' THEN 'check ' ELSE 'foreign key ' END || o.conname || ' on ' || c.relname,
         pg_get_constraintdef(o.oid), true
  FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid
  WHERE c.relnamespace = 'public'::regnamespace AND o.contype IN ('c', 'f')`;

interface Guard {
  readonly name: string;
  readonly definition: string;
  readonly isOn: boolean;
}

/** The guards of the database, by name, each with what it does. */
export async function guardsOf(query: Query): Promise<Map<string, string>> {
  const guards = await query<Guard>(GUARDS);
  return new Map(
    guards.map(({ name, definition, isOn }) => [
      name,
      isOn ? definition : `${definition}, switched off`,
    ]),
  );
}

/** Those that are missing, changed or switched off. */
export async function guardsOff(query: Query): Promise<Found[]> {
  const there = await guardsOf(query);
  const needed = JSON.parse(readFileSync(guardsFile, "utf8")) as Record<string, string>;
  return Object.entries(needed).flatMap(([field, expected]) => {
    const found = there.get(field) ?? null;
    return found === expected ? [] : { kind: "guard_off", field, expected, found };
  });
}
