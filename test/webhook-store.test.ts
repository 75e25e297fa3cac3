/**
 * The store of webhooks over two databases: where each keeps how far a webhook is, what is told of
 * it, and what two gateways do at the same moment.
 */
import pg from "pg";
import { afterAll, beforeAll, expect, inject, it, onTestFinished } from "vitest";

import { buildPostgresWebhooks } from "../src/postgres/webhooks.ts";
import { ALL_SHARDS } from "../src/core/shard.ts";
import { sinkOf, type WebhookStore } from "../src/core/webhooks.ts";
import { EVEN, ODD, unique } from "./stage/ids.ts";
import { createMigratedDatabase } from "./stage/migrated-database.ts";
import { dropDatabase } from "./stage/servers.ts";
import { newWebhook } from "./stage/webhooks.ts";

const names = ["first", "second"].map((part) => `webhook_store_${part}_${process.pid}`);
let urls: string[];
let clients: pg.Client[];
let store: WebhookStore;

beforeAll(async () => {
  urls = await Promise.all(names.map(createMigratedDatabase));
  clients = urls.map((connectionString) => new pg.Client({ connectionString }));
  for (const client of clients) await client.connect();
  store = buildPostgresWebhooks(urls);
}, 60_000);

afterAll(async () => {
  await store.close();
  for (const client of clients) await client.end();
  for (const name of names) await dropDatabase(inject("postgresUrl"), name);
});

async function make() {
  const made = await store.create(newWebhook(), { type: "now" });
  if (made.type !== "created") throw new Error(made.type);
  onTestFinished(async () => void (await store.remove(made.webhook.webhookId)));
  return made.webhook;
}

interface CursorRow {
  shard: number;
  position: string;
}

/** The cursors of a sink, by database. */
async function cursorsOf(sink: string): Promise<CursorRow[][]> {
  const sql = "SELECT shard, position FROM relay_cursors WHERE sink = $1 ORDER BY shard";
  return await Promise.all(
    clients.map(async (client) => (await client.query<CursorRow>(sql, [sink])).rows),
  );
}

const shardsOf = (rows: CursorRow[][]): number[][] =>
  rows.map((own) => own.map(({ shard }) => shard));

it("each database has the places of its own shards, and a replay takes them over from there", async () => {
  const before = await make();
  expect(shardsOf(await cursorsOf(sinkOf(before)))).toEqual([EVEN, ODD]);
  for (const client of clients) {
    const sql = "UPDATE relay_cursors SET position = 1000 + shard WHERE sink = $1";
    await client.query(sql, [sinkOf(before)]);
  }
  const after = await store.replay(before.webhookId, { type: "here" });
  const places = (await cursorsOf(sinkOf(after!))).flat();
  expect(places.map(({ shard, position }) => Number(position) - shard)).toEqual(
    ALL_SHARDS.map(() => 1_000),
  );
  expect((await cursorsOf(sinkOf(before))).flat()).toEqual([]);
  // From a time, they are those of the time
  const again = await store.replay(before.webhookId, { type: "time", atMs: Date.now() });
  const rows = await cursorsOf(sinkOf(again!));
  expect(shardsOf(rows)).toEqual([EVEN, ODD]);
  expect(new Set(rows.flat().map(({ position }) => position))).toEqual(new Set(["0"]));
});

it("what it does not take is told of over all databases, with the oldest reason", async () => {
  const webhook = await make();
  expect(await store.trouble(webhook)).toBe(null);
  const fail = (index: number, shard: number, sinceMs: number, retryMs: number): Promise<unknown> =>
    clients[index]!.query(
      `UPDATE relay_cursors SET attempts = 2, reason = $2, failing_since = to_timestamp($3::float8 / 1000),
              retry_at = to_timestamp($4::float8 / 1000)
       WHERE sink = $1 AND shard = $5`,
      [sinkOf(webhook), `because of ${shard}`, sinceMs, retryMs, shard],
    );
  await fail(1, 7, 5_000, 90_000);
  const alone = { shards: 1, sinceMs: 5_000, retryAtMs: 90_000, reason: "because of 7" };
  expect(await store.trouble(webhook)).toEqual(alone);
  await fail(0, 8, 4_000, 95_000);
  await fail(1, 9, 3_000, 99_000);
  await fail(0, 10, 6_000, 80_000);
  expect(await store.trouble(webhook)).toEqual({
    shards: 4,
    sinceMs: 3_000,
    retryAtMs: 80_000,
    reason: "because of 9",
  });
});

it("is ended once, with the first reason, and not in the name of another run", async () => {
  const webhook = await make();
  expect(await store.disable({ ...webhook, run: "another" }, "a late host")).toBe(false);
  expect(await store.get(webhook.webhookId)).toMatchObject({ status: "ACTIVE" });
  expect(await store.disable(webhook, "the first")).toBe(true);
  expect(await store.disable(webhook, "the second")).toBe(false);
  expect(await store.get(webhook.webhookId)).toMatchObject({
    status: "DISABLED",
    disabledReason: "the first",
  });
});

it("is one when two gateways make it under one key at the same moment, and leaves no litter", async () => {
  // Race: both have found nothing under the key, and both have written their cursors
  const other = buildPostgresWebhooks(urls);
  onTestFinished(() => other.close());
  const key = { idempotencyKey: unique("key"), fingerprint: "the same" };
  const client = clients[0]!;
  await client.query("BEGIN; LOCK TABLE relay_cursors");
  const making = [store, other].map((each) => each.create(newWebhook(key), { type: "now" }));
  await expect
    .poll(async () => {
      const sql = `SELECT FROM pg_locks WHERE NOT granted AND relation = 'relay_cursors'::regclass
                   AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`;
      return (await client.query(sql)).rowCount;
    })
    .toBe(2);
  await client.query("COMMIT");
  const made = await Promise.all(making);
  expect(made.map((one) => one.type === "created" && one.isReplay).toSorted()).toEqual([
    false,
    true,
  ]);
  const [first, second] = made.map((one) => (one.type === "created" ? one.webhook : null));
  expect(first).toMatchObject({ webhookId: second!.webhookId, run: second!.run });
  expect(shardsOf(await cursorsOf(sinkOf(first!)))).toEqual([EVEN, ODD]);
  const all = await client.query("SELECT DISTINCT sink FROM relay_cursors");
  expect(all.rows).toEqual([{ sink: sinkOf(first!) }]);
  await store.remove(first!.webhookId);
  expect((await cursorsOf(sinkOf(first!))).flat()).toEqual([]);
});
