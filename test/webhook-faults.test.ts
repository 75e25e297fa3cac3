/**
 * The store of webhooks when a database does not answer: its callers are told so and may ask again,
 * while a mistake stays one.
 */
import pg from "pg";
import { afterAll, beforeAll, expect, inject, it, onTestFinished } from "vitest";

import { withClient } from "../src/database.ts";
import { buildPostgresWebhooks } from "../src/postgres/webhooks.ts";
import { OutcomeUnknown } from "../src/commit-outcome.ts";
import { ReadUnavailable } from "../src/core/read-model.ts";
import type { WebhookStore } from "../src/core/webhooks.ts";
import { createMigratedDatabase } from "./stage/migrated-database.ts";
import { createDatabase, dropDatabase, onServer } from "./stage/servers.ts";
import { withLimits } from "./stage/lanes.ts";
import { newWebhook } from "./stage/webhooks.ts";
import { wireTap } from "./stage/wire-tap.ts";

/** Nothing listens there. */
const AWAY = "postgres://nobody@127.0.0.1:1/none";
const EMPTY = "webhook_faults_empty";
const MIGRATED = "webhook_faults";
let emptyUrl: string;
let migratedUrl: string;

beforeAll(async () => {
  emptyUrl = await createDatabase(inject("postgresUrl"), EMPTY);
  migratedUrl = await createMigratedDatabase(MIGRATED);
}, 60_000);

afterAll(async () => {
  await dropDatabase(inject("postgresUrl"), EMPTY);
  await dropDatabase(inject("postgresUrl"), MIGRATED);
});

function openStore(...databaseUrls: string[]): WebhookStore {
  const store = buildPostgresWebhooks(databaseUrls);
  onTestFinished(() => store.close());
  return store;
}

async function cursorsOf(webhookId: string): Promise<number | undefined> {
  const sql = "SELECT count(*)::int AS count FROM relay_cursors WHERE sink LIKE $1";
  const values = [`webhook:${webhookId}:%`];
  return await withClient(migratedUrl, async (client) => {
    return (await client.query<{ count: number }>(sql, values)).rows[0]?.count;
  });
}

const webhook = newWebhook({ webhookId: "hook-1" });

it("every question to a database that is away rejects with ReadUnavailable", async () => {
  const store = openStore(AWAY);
  const kept = {
    ...webhook,
    status: "ACTIVE",
    disabledReason: null,
    disabledAtMs: null,
    run: "1",
    createdAtMs: 0,
  } as const;
  const asked = await Promise.allSettled([
    store.list(),
    store.get("hook-1"),
    store.trouble(kept),
    store.create(webhook, { type: "now" }),
    store.replay("hook-1", { type: "here" }),
    store.disable(kept, "because"),
    store.remove("hook-1"),
  ]);
  for (const answer of asked) {
    expect(answer).toMatchObject({ status: "rejected", reason: { reason: "unavailable" } });
    expect((answer as PromiseRejectedResult).reason).toBeInstanceOf(ReadUnavailable);
  }
});

it("with one of two databases away nothing is made, and what needs the other one works", async () => {
  const store = openStore(migratedUrl, AWAY);
  await expect(store.create(webhook, { type: "now" })).rejects.toThrow(ReadUnavailable);
  expect(await store.list()).toEqual([]);
});

it("a removal needs the first database alone: what another one keeps of it is litter", async () => {
  const { webhookId } = webhook;
  await openStore(migratedUrl).create(webhook, { type: "now" });
  const store = openStore(migratedUrl, AWAY);
  expect(await store.remove(webhookId)).toBe(true);
  expect(await store.list()).toEqual([]);
});

it("a statement that runs into its bound is one that got no answer", async () => {
  withLimits({ relayStatementMs: 200 });
  const store = openStore(migratedUrl);
  const other = new pg.Client({ connectionString: migratedUrl });
  await other.connect();
  onTestFinished(() => other.end());
  await other.query("BEGIN");
  await other.query("LOCK TABLE webhooks IN ACCESS EXCLUSIVE MODE");
  await expect(store.list()).rejects.toThrow(ReadUnavailable);
  await expect(store.list()).rejects.toThrow("statement timeout");
  await other.query("ROLLBACK");
  expect(await store.list()).toEqual([]);
});

it.each([
  ["57P05", OutcomeUnknown],
  ["53100", ReadUnavailable],
])("what fails by %s is told as what it proves", async (code, told) => {
  const store = openStore(migratedUrl);
  const { webhookId } = webhook;
  await store.create(webhook, { type: "now" });
  await onServer(
    migratedUrl,
    `CREATE OR REPLACE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql
     AS $$ BEGIN RAISE 'no' USING ERRCODE = '${code}'; END $$;
     CREATE TRIGGER fail BEFORE INSERT OR UPDATE OR DELETE ON webhooks EXECUTE FUNCTION fail()`,
  );
  onTestFinished(async () => {
    await onServer(migratedUrl, "DROP TRIGGER fail ON webhooks; DELETE FROM webhooks");
  });
  await expect(store.create({ ...webhook, webhookId: "2" }, { type: "now" })).rejects.toThrow(told);
  await expect(store.replay(webhookId, { type: "here" })).rejects.toThrow(told);
  await expect(store.remove(webhookId)).rejects.toThrow(told);
});

it("a removal whose answer is lost may have happened, and one that was never sent has not", async () => {
  const wire = await wireTap(migratedUrl);
  const [store, tapped] = [openStore(migratedUrl), openStore(wire.url)];
  const { webhookId } = webhook;
  await store.create(webhook, { type: "now" });
  wire.cutsNext = true;
  await expect(tapped.remove(webhookId)).rejects.toThrow(ReadUnavailable);
  expect(await tapped.get(webhookId)).toMatchObject({ webhookId });
  wire.cutsAnswers = true;
  await expect(tapped.remove(webhookId)).rejects.toThrow(OutcomeUnknown);
  await expect.poll(() => store.get(webhookId)).toBeNull();
  // And the repeat takes away what it had no time for
  expect(await cursorsOf(webhookId)).toBeGreaterThanOrEqual(256);
  expect(await store.remove(webhookId)).toBe(false);
  expect(await cursorsOf(webhookId)).toBe(0);
});

it("what the database refuses for another reason stays what it was", async () => {
  const store = openStore(emptyUrl);
  const refused = await store.list().catch((error: unknown) => error);
  expect(refused).toBeInstanceOf(pg.DatabaseError);
  expect(refused).toMatchObject({ code: "42P01" });
});
