/**
 * Webhooks over HTTP: make, list, look at, remove, and replay. The routes only write down what
 * there is to be; the hosts find it there and send (`actors/webhook-sinks.ts`). Making and
 * replaying need every database for a moment, since each keeps where its shards stand.
 */
import { createHash, randomBytes } from "node:crypto";
import type { FastifyRequest } from "fastify";

import type { Beginning, Webhook, WebhookStore } from "../../src/core/webhooks.ts";
import { problemOfUrl } from "../../src/webhook-sender.ts";
import { isoTime } from "../answers.ts";
import { keyOf } from "../command-intake.ts";
import { apiError, ApiException } from "../errors.ts";
import { keyHeader, type Routes } from "../http-server.ts";
import { refusedField, timeOf } from "../pages.ts";
import { NoQuery, problems } from "../schemas.ts";
import { uuidv7 } from "../uuid.ts";
import { takeNoBody } from "./wallet-routes.ts";
import {
  ReplayBody,
  WebhookBody,
  WebhookCreated,
  WebhookDetails,
  WebhookPage,
  WebhookParams,
  WebhookSummary,
  type WebhookFields,
  type WebhookSummaryBody,
} from "./webhook-schemas.ts";

export interface WebhookRoutesDeps {
  readonly store: WebhookStore;
  /** Whether webhooks may go to private and loopback addresses. */
  readonly allowsPrivate: boolean;
}

const SECRET_BYTES = 32;

export function addWebhookRoutes(routes: Routes, deps: WebhookRoutesDeps): void {
  addMaking(routes, deps);
  addLooking(routes, deps.store);
  addReplay(routes, deps.store);
}

function addMaking(routes: Routes, { store, allowsPrivate }: WebhookRoutesDeps): void {
  const schema = {
    tags: ["webhooks"],
    summary: "Have events sent to a URL",
    description:
      "Every event that is committed from now on (or since `from`) is sent as a signed POST, at least once, in order per wallet, until it is answered with 2xx. docs/events.md tells how to check the signature.",
    body: WebhookBody,
    response: { 201: WebhookCreated, ...problems },
  };
  routes.post("/webhooks", { schema, preValidation: takeNoBody }, async (request, reply) => {
    const { url, secret, events = null, wallets = null, description = null, from } = request.body;
    const problem = problemOfUrl(url, allowsPrivate);
    if (problem !== null) throw refusedField("url", problem);
    const key = keyFrom(request.body, request);
    const created = await store.create(
      {
        webhookId: uuidv7(),
        url,
        secret: secret ?? `whsec_${randomBytes(SECRET_BYTES).toString("base64url")}`,
        eventTypes: events,
        walletIds: wallets,
        description,
        idempotencyKey: key,
        fingerprint: key === null ? null : fingerprintOf(request.body),
      },
      beginningOf(from, "now"),
    );
    switch (created.type) {
      case "conflict": {
        const details = { idempotencyKey: key };
        throw new ApiException(apiError("idempotency_conflict", undefined, details));
      }
      case "full":
        throw new ApiException(apiError("too_many_webhooks"));
      case "created": {
        const { webhook, isReplay } = created;
        if (isReplay) reply.header("idempotent-replayed", "true");
        reply.code(201).header("location", `/webhooks/${webhook.webhookId}`);
        return { ...summaryOf(webhook), secret: webhook.secret };
      }
      default:
        return created satisfies never;
    }
  });
}

function addLooking(routes: Routes, store: WebhookStore): void {
  const tags = ["webhooks"];
  const list = {
    tags,
    summary: "Webhooks, oldest first",
    querystring: NoQuery,
    response: { 200: WebhookPage, ...problems },
  };
  routes.get("/webhooks", { schema: list }, async () => (await store.list()).map(summaryOf));

  const one = {
    tags,
    summary: "A webhook, and what it does not take at the moment",
    params: WebhookParams,
    querystring: NoQuery,
    response: { 200: WebhookDetails, ...problems },
  };
  routes.get("/webhooks/:webhookId", { schema: one }, async (request) => {
    const { webhookId } = request.params;
    const webhook = (await store.get(webhookId)) ?? missing(webhookId);
    const trouble = await store.trouble(webhook);
    const failing =
      trouble === null
        ? null
        : {
            shards: trouble.shards,
            since: isoTime(trouble.sinceMs),
            nextTryAt: isoTime(trouble.retryAtMs),
            reason: trouble.reason,
          };
    return { ...summaryOf(webhook), failing };
  });

  const remove = {
    tags,
    summary: "Remove a webhook",
    description: "Nothing more is sent, but for what is under way, for about a second.",
    params: WebhookParams,
    response: { 204: { type: "null", description: "Removed" }, ...problems },
  };
  routes.delete("/webhooks/:webhookId", { schema: remove }, async (request, reply) => {
    const { webhookId } = request.params;
    if (!(await store.remove(webhookId))) missing(webhookId);
    return reply.code(204).send();
  });
}

function addReplay(routes: Routes, store: WebhookStore): void {
  const schema = {
    tags: ["webhooks"],
    summary: "Send events again, or go on after a webhook was disabled",
    description:
      "Without `from` it goes on where it stands and tries at once what it did not take; nothing is lost. With `from` it sends every event since that time once more.",
    params: WebhookParams,
    body: ReplayBody,
    response: { 200: WebhookSummary, ...problems },
  };
  routes.post(
    "/webhooks/:webhookId/replay",
    { schema, preValidation: takeNoBody },
    async (request) => {
      const { webhookId } = request.params;
      keyFrom(request.body, request);
      const beginning = beginningOf(request.body.from, "here");
      return summaryOf((await store.replay(webhookId, beginning)) ?? missing(webhookId));
    },
  );
}

// --- Parts ---------------------------------------------------------------------------------------

function beginningOf(from: string | undefined, otherwise: "now" | "here"): Beginning {
  return from === undefined ? { type: otherwise } : { type: "time", atMs: timeOf("from", from) };
}

/** @throws ApiException for a key that cannot be one */
function keyFrom(body: { idempotencyKey?: string }, request: FastifyRequest): string | null {
  const key = keyOf(body.idempotencyKey, keyHeader(request));
  if (key !== null && typeof key !== "string") throw new ApiException(key);
  return key;
}

function fingerprintOf(fields: WebhookFields): string {
  const { idempotencyKey: _, ...rest } = fields;
  const sorted = Object.entries(rest).toSorted(([one], [other]) => (one < other ? -1 : 1));
  return createHash("sha256").update(JSON.stringify(sorted)).digest("base64url");
}

function summaryOf(webhook: Webhook): WebhookSummaryBody {
  const { webhookId, url, eventTypes, walletIds, description, status, disabledAtMs } = webhook;
  return {
    id: webhookId,
    url,
    events: eventTypes,
    wallets: walletIds,
    description,
    status,
    disabledReason: webhook.disabledReason,
    disabledAt: disabledAtMs === null ? null : isoTime(disabledAtMs),
    createdAt: isoTime(webhook.createdAtMs),
  };
}

function missing(webhookId: string): never {
  const message = `There is no webhook ${webhookId}`;
  throw new ApiException(apiError("webhook_not_found", message, { webhookId }));
}
