/**
 * Fresh databases with the schema, copied from the one that the global setup has migrated: half of
 * what migrating each anew takes. Where migrating is what a test is about, it makes its database by
 * `createDatabase`.
 */
import { inject } from "vitest";
import { createDatabase } from "./servers.ts";

declare module "vitest" {
  export interface ProvidedContext {
    /** Name of a database on the shared PostgreSQL that nobody connects to. */
    migratedDatabase: string;
  }
}

/** Makes it on the shared PostgreSQL (an old one of that name goes) and returns its address. */
export async function createMigratedDatabase(name: string): Promise<string> {
  const template = `TEMPLATE "${inject("migratedDatabase")}"`;
  return await createDatabase(inject("postgresUrl"), name, template);
}
