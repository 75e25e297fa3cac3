/**
 * What the webhooks' routes write down and tell, over a store that remembers what it was asked. With
 * databases and endpoints: `test/webhooks-api.test.ts`, `test/webhooks.test.ts`.
 */
import { afterAll, describe, expect, it } from "vitest";

import type { NewWebhook, Webhook, WebhookStore } from "../../src/core/webhooks.ts";
import { loneGatewayOptions } from "../../test/stage/lone-gateway.ts";
import { buildGateway } from "../http.ts";

const { options, close } = loneGatewayOptions();
afterAll(close);

const url = "https://shop.example/hook";

const disabled: Webhook = {
  webhookId: "01a1fe63-456c-7b6c-a5df-ed7df22ead10",
  url,
  secret: "whsec_of-nobody-else",
  eventTypes: ["WalletClosed"],
  walletIds: ["w1"],
  description: "closings",
  status: "DISABLED",
  disabledReason: "answered 410",
  disabledAtMs: Date.UTC(2026, 0, 2),
  run: "1",
  createdAtMs: Date.UTC(2026, 0, 1),
};

/** Nothing is there, and what is made is remembered with its beginning. */
function over(known: Partial<WebhookStore> = {}, allowsPrivate = false) {
  const made: [webhook: NewWebhook, beginning: object][] = [];
  const store: WebhookStore = {
    list: async () => [],
    get: async () => null,
    trouble: async () => null,
    async create(webhook, beginning) {
      made.push([webhook, beginning]);
      return { type: "created", webhook: { ...disabled, ...webhook }, isReplay: false };
    },
    replay: async () => null,
    disable: async () => false,
    remove: async () => false,
    close: async () => undefined,
    ...known,
  };
  const app = buildGateway({ ...options, webhooks: { store, allowsPrivate } });
  const ask = async (
    method: "GET" | "POST" | "DELETE",
    path: string,
    payload?: object,
    key = "",
  ) => {
    const headers = key === "" ? {} : { "idempotency-key": key };
    const answer = await app.inject({ method, url: path, headers, ...(payload && { payload }) });
    const body = answer.body === "" ? {} : answer.json<Record<string, unknown>>();
    return { status: answer.statusCode, code: body["code"], body };
  };
  return { made, ask };
}

describe("a webhook to a private address", () => {
  const hosts = ["127.0.0.1", "10.1.2.3", "[::1]", "localhost", "shop.localhost"];

  it.each(hosts)("%s is not made where they are not allowed", async (host) => {
    const { made, ask } = over();
    const { status, body } = await ask("POST", "/webhooks", { url: `http://${host}:9/hook` });
    expect([status, body["details"]]).toMatchObject([422, [{ field: "url" }]]);
    expect(made).toEqual([]);
  });

  it("is made where they are", async () => {
    const { made, ask } = over({}, true);
    expect((await ask("POST", "/webhooks", { url: "http://127.0.0.1:9/hook" })).status).toBe(201);
    expect(made).toHaveLength(1);
  });
});

it("a key names the same webhook in the header and in the body, and its fields in any order", async () => {
  const { made, ask } = over();
  const fields = { url, events: ["WalletClosed"] };
  await ask("POST", "/webhooks", fields, "key-1");
  await ask("POST", "/webhooks", { events: ["WalletClosed"], idempotencyKey: "key-1", url });
  await ask("POST", "/webhooks", { ...fields, wallets: ["w1"] }, "key-1");
  const [first, again, other] = made.map(([webhook]) => webhook);
  expect([first, again]).toMatchObject([
    { idempotencyKey: "key-1", eventTypes: ["WalletClosed"], walletIds: null },
    { idempotencyKey: "key-1", fingerprint: first?.fingerprint },
  ]);
  expect(other?.fingerprint).not.toBe(first?.fingerprint);
  await ask("POST", "/webhooks", fields);
  expect(made.at(-1)?.[0]).toMatchObject({ idempotencyKey: null, fingerprint: null });
});

it("a webhook begins with the next event, or where it is told to", async () => {
  const { made, ask } = over();
  await ask("POST", "/webhooks", { url });
  await ask("POST", "/webhooks", { url, from: "2026-01-01T00:00:00Z" });
  expect(made.map(([, beginning]) => beginning)).toEqual([
    { type: "now" },
    { type: "time", atMs: Date.UTC(2026, 0, 1) },
  ]);
});

it.each([
  ["GET", ""],
  ["DELETE", ""],
  ["POST", "/replay"],
] as const)("%s of a webhook that there is not%s is not found", async (method, path) => {
  const { ask } = over();
  const answer = await ask(method, `/webhooks/${disabled.webhookId}${path}`);
  expect(answer).toMatchObject({ status: 404, code: "webhook_not_found" });
});

it("a webhook is told with all that was asked for, why it was disabled, and what it does not take", async () => {
  const trouble = {
    shards: 3,
    sinceMs: Date.UTC(2026, 0, 3),
    retryAtMs: Date.UTC(2026, 0, 4),
    reason: "answered 500",
  };
  const { ask } = over({ get: async () => disabled, trouble: async () => trouble });
  const { body } = await ask("GET", `/webhooks/${disabled.webhookId}`);
  expect(body).toEqual({
    id: disabled.webhookId,
    url,
    events: ["WalletClosed"],
    wallets: ["w1"],
    description: "closings",
    status: "DISABLED",
    disabledReason: "answered 410",
    disabledAt: "2026-01-02T00:00:00.000Z",
    createdAt: "2026-01-01T00:00:00.000Z",
    failing: {
      shards: 3,
      since: "2026-01-03T00:00:00.000Z",
      nextTryAt: "2026-01-04T00:00:00.000Z",
      reason: "answered 500",
    },
  });
});

it("a replay goes on where it stands, or begins where it is told to, and takes no key that is none", async () => {
  const beginnings: object[] = [];
  const { ask } = over({
    async replay(_, beginning) {
      beginnings.push(beginning);
      return disabled;
    },
  });
  const path = `/webhooks/${disabled.webhookId}/replay`;
  expect((await ask("POST", path)).body).toMatchObject({ id: disabled.webhookId });
  await ask("POST", path, { from: "2026-01-01T00:00:00Z" });
  expect(beginnings).toEqual([{ type: "here" }, { type: "time", atMs: Date.UTC(2026, 0, 1) }]);
  const refused = await ask("POST", path, { idempotencyKey: "key-2" }, "key-1");
  expect(refused).toMatchObject({ status: 422, code: "validation_failed" });
  expect(beginnings).toHaveLength(2);
});
