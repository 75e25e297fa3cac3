/**
 * The webhooks' HTTP API, and what the sender says and does not say on the wire, whatever the relay
 * has for it.
 */
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";

import { LIMITS } from "../src/limits.ts";
import { buildWebhookSender } from "../src/webhook-sender.ts";
import { unique } from "./stage/ids.ts";
import { startStack, type Stack } from "./stage/stack.ts";
import { openEndpoint, webhooksOf, type WebhookAnswer } from "./stage/webhooks.ts";

let stack: Stack;

beforeAll(async () => {
  stack = await startStack();
});
afterAll(() => stack?.close());

const { makeWebhook, look } = webhooksOf(() => stack);

describe("the API", () => {
  const url = "http://127.0.0.1:9/hook";

  it("makes one webhook per key, and tells its secret to the key alone", async () => {
    const key = unique("key");
    const first = await makeWebhook({ url, events: ["WalletClosed"] }, key);
    const again = await makeWebhook({ events: ["WalletClosed"], url }, key);
    expect(again.headers["idempotent-replayed"]).toBe("true");
    expect(again.body).toEqual(first.body);
    const other = await makeWebhook({ url }, key);
    expect([other.status, other.body.code]).toEqual([409, "idempotency_conflict"]);
    const { body: list } = await stack.get<WebhookAnswer[]>("/webhooks");
    expect(list.filter(({ id }) => id === first.body.id)).toHaveLength(1);
    const seen = JSON.stringify([list, await look(first.body.id)]);
    expect(seen).not.toContain(first.body.secret);
  });

  it.each<[string, Record<string, unknown>, string]>([
    ["no url", {}, "url"],
    ["what is no URL", { url: "shop" }, "url"],
    ["another scheme", { url: "ftp://shop.example/" }, "url"],
    ["a password in the URL", { url: "https://a:b@shop.example/" }, "url"],
    ["a type that there is not", { url, events: ["WalletCredit"] }, "events/0"],
    ["a short secret", { url, secret: "s".repeat(15) }, "secret"],
    ["a long secret", { url, secret: "s".repeat(LIMITS.keyLengthMax + 1) }, "secret"],
    ["a wrong time", { url, from: "yesterday" }, "from"],
    ["an unknown field", { url, owner: "u" }, "owner"],
  ])("refuses %s by name", async (_, fields, field) => {
    const { status, body } = await makeWebhook(fields);
    expect(status).toBe(422);
    expect(body.details[0]!.field).toBe(field);
  });

  it.each([16, LIMITS.keyLengthMax])("takes a secret of %i characters", async (length) => {
    const secret = "s".repeat(length);
    const { status, body } = await makeWebhook({ url, secret });
    expect([status, body.secret]).toEqual([201, secret]);
  });

  it("takes no more than webhooksMax", async () => {
    const { body: before } = await stack.get<WebhookAnswer[]>("/webhooks");
    for (let count = before.length; count < LIMITS.webhooksMax; count += 1) {
      expect((await makeWebhook({ url })).status).toBe(201);
    }
    const full = await makeWebhook({ url });
    expect([full.status, full.body.code]).toEqual([409, "too_many_webhooks"]);
    const rows = await stack.sql<{ sinks: number }>(
      "SELECT count(DISTINCT sink)::int4 AS sinks FROM relay_cursors WHERE sink LIKE 'webhook:%'",
    );
    expect(rows[0]!.sinks).toBe(LIMITS.webhooksMax);
  });
});

/** For the sender alone. */
const MESSAGE = {
  webhookId: "w",
  secret: "s",
  eventId: "e:0",
  eventType: "WalletCreated",
  correlationId: "c",
  attempt: 1,
  body: "{}",
};

it("sends nothing to a private address where they are not allowed, whatever was allowed when the webhook was made", async () => {
  const endpoint = await openEndpoint();
  const sender = buildWebhookSender({ allowsPrivate: false });
  onTestFinished(() => sender.close());
  const answer = await sender.send({ ...MESSAGE, url: endpoint.url });
  expect(answer).toMatchObject({ type: "refused" });
  expect(JSON.stringify(answer)).toContain("private address");
  expect(endpoint.calls).toEqual([]);
});

it("tells of any correlation id that an event can have, in UTF-8", async () => {
  const endpoint = await openEndpoint();
  const sender = buildWebhookSender({ allowsPrivate: true });
  onTestFinished(() => sender.close());
  for (const correlationId of ["order-1", "ordre-é", "注文-1", "\u{1f600}"]) {
    const answer = await sender.send({ ...MESSAGE, url: endpoint.url, correlationId });
    expect(answer).toEqual({ type: "taken" });
    const given = String(endpoint.calls.at(-1)!.headers["x-correlation-id"]);
    expect(Buffer.from(given, "latin1").toString()).toBe(correlationId);
  }
});
