/**
 * What a failed statement proves, by sessions of a real PostgreSQL that fail as they are told. That
 * a server panics over a commit is in database-loss.test.ts.
 */
import pg from "pg";
import { describe, expect, inject, it, onTestFinished } from "vitest";
import { provesAbort } from "../src/commit-outcome.ts";
import { onServer } from "./stage/servers.ts";

async function session(): Promise<pg.Client> {
  const client = new pg.Client({ connectionString: inject("postgresUrl") });
  client.on("error", () => undefined);
  onTestFinished(() => client.end().catch(() => undefined));
  await client.connect();
  return client;
}

async function failure(client: pg.Client, sql: string): Promise<unknown> {
  return await client.query(sql).then(
    () => expect.unreachable(),
    (error: unknown) => error,
  );
}

function raised(client: pg.Client, code: string): Promise<unknown> {
  return failure(client, `DO $$ BEGIN RAISE 'no' USING ERRCODE = '${code}'; END $$`);
}

describe("provesAbort", () => {
  it.each([
    ["a row that must not be", "23505"],
    ["canceled", "57014"],
    ["the disk is full", "53100"],
    ["read-only", "25006"],
    ["a transaction that had failed before", "25P02"],
    ["an ambiguous parameter", "42P08"],
    ["something that the server cannot do", "0A000"],
  ])("is true when the session goes on: %s", async (_what, code) => {
    const client = await session();
    const error = await raised(client, code);
    expect(error).toMatchObject({ code });
    expect(await provesAbort(error, client)).toBe(true);
  });

  it.each([
    ["an operator ends it", "57P01"],
    ["a crash of another session", "57P02"],
    ["idle for too long", "57P05"],
    ["idle for too long in a transaction", "25P03"],
    ["too long in a transaction", "25P04"],
    ["a connection failure", "08006"],
    ["what is in between has lost the server", "08P01"],
  ])("is false when the code says that it ends: %s", async (_what, code) => {
    const client = await session();
    const error = await raised(client, code);
    expect(error).toMatchObject({ code });
    expect(await provesAbort(error, client)).toBe(false);
  });

  it("is false when it ends behind any error", async () => {
    const client = await session();
    const { rows } = await client.query<{ pid: number }>("SELECT pg_backend_pid() AS pid");
    const error = await raised(client, "53100");
    const ended = new Promise<void>((resolve) => client.once("end", resolve));
    await onServer(inject("postgresUrl"), `SELECT pg_terminate_backend(${rows[0]!.pid}, 5000)`);
    await ended;
    expect(await provesAbort(error, client)).toBe(false);
  });

  it("is false when there is no answer", async () => {
    const client = await session();
    const error = await failure(client, "SELECT pg_terminate_backend(pg_backend_pid())");
    expect(await provesAbort(error, client)).toBe(false);
    expect(await provesAbort(new Error("terminated"), await session())).toBe(false);
  });
});
