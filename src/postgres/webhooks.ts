/**
 * The webhooks of a deployment. Their definitions are in the first database; where each stands is
 * in every one, shard by shard, as the relay's cursors of one _run_ of it. A replay is a new run
 * under a new name: its cursors are written everywhere before the definition names it, so a host
 * sees it complete or not at all, and what a host still saves for the run before changes nothing.
 */
import { randomUUID } from "node:crypto";
import pg from "pg";
import { isAway } from "../database.ts";
import { LIMITS } from "../limits.ts";
import { buildPool, DURABLE } from "./connection.ts";
import { messageOf } from "../message-of.ts";
import { milliseconds } from "./rows.ts";
import { OutcomeUnknown, queryToCommit } from "../commit-outcome.ts";
import { ReadUnavailable } from "../core/read-model.ts";
import { ALL_SHARDS } from "../core/shard.ts";
import {
  sinkOf,
  type Beginning,
  type Created,
  type NewWebhook,
  type Webhook,
  type WebhookStore,
} from "../core/webhooks.ts";

/** @param databaseUrls in the deployment's order; connections are made when they are needed */
export function buildPostgresWebhooks(databaseUrls: readonly string[]): WebhookStore {
  const pools = databaseUrls.map((databaseUrl) =>
    buildPool(databaseUrl, {
      name: "webhooks",
      connectionsMax: 1,
      connectMs: LIMITS.journalConnectMs,
      answerMs: LIMITS.relayStatementMs + LIMITS.journalConnectMs,
      settings: [...DURABLE, "jit=off", `statement_timeout=${LIMITS.relayStatementMs}`],
    }),
  );
  const first = pools[0]!;

  async function get(webhookId: string): Promise<Webhook | null> {
    const { rows } = await first.query<Webhook>(`${SELECT} WHERE webhook_id = $1`, [webhookId]);
    return rows[0] ?? null;
  }

  /** In all databases at once; rejects unless all have answered. */
  async function begin(sink: string, beginning: Beginning, before: string | null): Promise<void> {
    await Promise.all(
      pools.map((pool, index) => {
        const shards = ALL_SHARDS.filter((shard) => shard % pools.length === index);
        switch (beginning.type) {
          case "now":
            return pool.query(BEGIN_NOW, [sink, shards]);
          case "time":
            return pool.query(BEGIN_AT, [sink, shards, beginning.atMs]);
          case "here":
            return pool.query(BEGIN_HERE, [sink, shards, before]);
          default:
            return beginning satisfies never;
        }
      }),
    );
  }

  /** Makes, changes or removes a definition. */
  async function write(text: string, values: unknown[]): Promise<pg.QueryResult<Webhook>> {
    return await queryToCommit<Webhook>(first, { text, values });
  }

  /** Cursors that nothing names are only litter: a database that is away keeps its part of it. */
  async function forget(pattern: string): Promise<void> {
    await Promise.allSettled(pools.map((pool) => pool.query(FORGET, [pattern])));
  }

  async function known(webhook: NewWebhook): Promise<Created | null> {
    if (webhook.idempotencyKey === null) return null;
    const { rows } = await first.query<Webhook & { fingerprint: string }>(
      `${SELECT} WHERE idempotency_key = $1`,
      [webhook.idempotencyKey],
    );
    const [row] = rows;
    if (row === undefined) return null;
    if (row.fingerprint !== webhook.fingerprint) return { type: "conflict" };
    return { type: "created", webhook: row, isReplay: true };
  }

  return withFaults({
    async list() {
      const { rows } = await first.query<Webhook>(`${SELECT} ORDER BY created_at, webhook_id`);
      return rows;
    },

    get,

    async trouble(webhook) {
      const asked = await Promise.all(
        pools.map((pool) => pool.query<TroubleRow>(SELECT_TROUBLE, [sinkOf(webhook)])),
      );
      const found = asked.flatMap(({ rows }) => rows).filter(({ shards }) => shards > 0);
      const [oldest] = found.toSorted((one, other) => one.sinceMs - other.sinceMs);
      if (oldest === undefined) return null;
      const { sinceMs, reason } = oldest;
      const shards = found.reduce((sum, row) => sum + row.shards, 0);
      const retryAtMs = Math.min(...found.map((row) => row.retryAtMs));
      return { shards, sinceMs, retryAtMs, reason };
    },

    async create(webhook, beginning) {
      const earlier = await known(webhook);
      if (earlier !== null) return earlier;
      const run = randomUUID();
      await begin(sinkOf({ ...webhook, run }), beginning, null);
      const { rows } = await write(INSERT, [
        webhook.webhookId,
        webhook.url,
        webhook.secret,
        webhook.eventTypes,
        webhook.walletIds,
        webhook.description,
        run,
        webhook.idempotencyKey,
        webhook.fingerprint,
        LIMITS.webhooksMax,
      ]);
      const [made] = rows;
      if (made !== undefined) return { type: "created", webhook: made, isReplay: false };
      await forget(`${sinkOf({ ...webhook, run })}%`);
      // Somebody else may have been faster with this key.
      return (await known(webhook)) ?? { type: "full" };
    },

    async replay(webhookId, beginning) {
      for (let attempt = 1; attempt <= LIMITS.webhookReplayAttemptsMax; attempt++) {
        const before = await get(webhookId);
        if (before === null) return null;
        const run = randomUUID();
        await begin(sinkOf({ webhookId, run }), beginning, sinkOf(before));
        // Whoever ends a run takes its cursors away: what was copied from one that has ended may be
        // none.
        const { rows } = await write(RUN, [webhookId, run, before.run]);
        const [webhook] = rows;
        await forget(`${sinkOf(webhook === undefined ? { webhookId, run } : before)}%`);
        if (webhook !== undefined) return webhook;
      }
      throw new Error(`webhook ${webhookId} is replayed by others all the time`);
    },

    async disable({ webhookId, run }, reason) {
      const { rowCount } = await first.query(DISABLE, [webhookId, run, reason]);
      return rowCount === 1;
    },

    async remove(webhookId) {
      const { rowCount } = await write("DELETE FROM webhooks WHERE webhook_id = $1", [webhookId]);
      // Also when it is the repeat of one whose outcome was not known.
      await forget(`webhook:${webhookId}:%`);
      return rowCount === 1;
    },

    async close() {
      await Promise.all(pools.map((pool) => pool.end()));
    },
  });
}

/** `query_canceled`: by `statement_timeout`. */
const CANCELED = "57014";

/** Databases that do not answer become `ReadUnavailable`. */
function withFaults(store: WebhookStore): WebhookStore {
  async function orUnavailable<T>(asked: Promise<T>): Promise<T> {
    try {
      return await asked;
    } catch (error) {
      const isSlow = error instanceof pg.DatabaseError && error.code === CANCELED;
      if (error instanceof OutcomeUnknown || (!isSlow && !isAway(error))) throw error;
      throw new ReadUnavailable(
        "unavailable",
        `a database gave no answer: ${messageOf(error)}`,
        error,
      );
    }
  }
  return {
    list: () => orUnavailable(store.list()),
    get: (webhookId) => orUnavailable(store.get(webhookId)),
    trouble: (webhook) => orUnavailable(store.trouble(webhook)),
    create: (webhook, beginning) => orUnavailable(store.create(webhook, beginning)),
    replay: (webhookId, beginning) => orUnavailable(store.replay(webhookId, beginning)),
    disable: (webhook, reason) => orUnavailable(store.disable(webhook, reason)),
    remove: (webhookId) => orUnavailable(store.remove(webhookId)),
    close: () => store.close(),
  };
}

interface TroubleRow {
  shards: number;
  sinceMs: number;
  retryAtMs: number;
  reason: string;
}

const COLUMNS = `
  webhook_id AS "webhookId", url, secret, event_types AS "eventTypes", wallet_ids AS "walletIds", description, status,
  disabled_reason AS "disabledReason", ${milliseconds("disabled_at")} AS "disabledAtMs", run, fingerprint,
  ${milliseconds("created_at")} AS "createdAtMs"`;

const SELECT = `SELECT ${COLUMNS} FROM webhooks`;

const INSERT = `
  INSERT INTO webhooks
    (webhook_id, url, secret, event_types, wallet_ids, description, status, run, idempotency_key, fingerprint)
  SELECT $1, $2, $3, $4, $5, $6, 'ACTIVE', $7, $8, $9 WHERE (SELECT count(*) FROM webhooks) < $10
  ON CONFLICT DO NOTHING RETURNING ${COLUMNS}`;

const RUN = `
  UPDATE webhooks SET run = $2, status = 'ACTIVE', disabled_reason = NULL, disabled_at = NULL
  WHERE webhook_id = $1 AND run = $3 RETURNING ${COLUMNS}`;

const DISABLE = `
  UPDATE webhooks SET status = 'DISABLED', disabled_reason = $3, disabled_at = now()
  WHERE webhook_id = $1 AND run = $2 AND status = 'ACTIVE'`;

const BEGIN_NOW = `
  INSERT INTO relay_cursors (sink, shard, position)
  SELECT $1, s.shard, coalesce((SELECT e.position FROM events e WHERE e.shard = s.shard ORDER BY e.position DESC LIMIT 1), 0)
  FROM unnest($2::smallint[]) AS s(shard)`;

const BEGIN_AT = `
  INSERT INTO relay_cursors (sink, shard, position)
  SELECT $1, s.shard, position_before(s.shard, to_timestamp($3::float8 / 1000)) FROM unnest($2::smallint[]) AS s(shard)`;

const BEGIN_HERE = `
  INSERT INTO relay_cursors (sink, shard, position)
  SELECT $1, c.shard, c.position FROM relay_cursors c WHERE c.sink = $3 AND c.shard = ANY ($2::smallint[])`;

const SELECT_TROUBLE = `
  SELECT count(*)::int4 AS shards, ${milliseconds("min(failing_since)")} AS "sinceMs", ${milliseconds("min(retry_at)")} AS "retryAtMs",
         (array_agg(reason ORDER BY failing_since))[1] AS reason
  FROM relay_cursors WHERE sink = $1 AND attempts > 0`;

/** Ids are UUIDs: no character of the pattern means something else. */
const FORGET = "DELETE FROM relay_cursors WHERE sink LIKE $1";
