/**
 * Webhooks for tests: an endpoint that answers what the test wants, and webhooks that are removed
 * with the test.
 */
import { createServer, type IncomingHttpHeaders } from "node:http";
import type { AddressInfo } from "node:net";
import { onTestFinished } from "vitest";

import type { EventBody } from "../../src/event-body.ts";
import type { NewWebhook } from "../../src/core/webhooks.ts";
import { unique } from "./ids.ts";
import type { Stack } from "./stack.ts";

export interface Call {
  readonly headers: IncomingHttpHeaders;
  readonly text: string;
  readonly event: EventBody;
}

export type Answer = (call: Call) => number | "nothing" | { status: number; location: string };

/** Takes everything, until it is told otherwise. */
export async function openEndpoint() {
  const calls: Call[] = [];
  const endpoint = { calls, answer: (() => 204) as Answer, holdMs: 0, url: "", underWayMost: 0 };
  let underWay = 0;
  const server = createServer((request, response) => {
    const chunks: Buffer[] = [];
    request.on("data", (chunk: Buffer) => chunks.push(chunk));
    request.once("end", () => {
      underWay += 1;
      endpoint.underWayMost = Math.max(endpoint.underWayMost, underWay);
      response.once("close", () => (underWay -= 1));
      const text = Buffer.concat(chunks).toString();
      const call = { headers: request.headers, text, event: JSON.parse(text) as EventBody };
      calls.push(call);
      const answer = endpoint.answer(call);
      if (answer === "nothing") return;
      setTimeout(() => {
        if (typeof answer === "number") response.writeHead(answer).end("thank you");
        else response.writeHead(answer.status, { location: answer.location }).end();
      }, endpoint.holdMs);
    });
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  onTestFinished(() => {
    server.closeAllConnections();
    server.close();
  });
  endpoint.url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/hook?tenant=7`;
  return endpoint;
}

export const versionsOf = (calls: readonly Call[], walletId: string): number[] =>
  calls.filter(({ event }) => event.walletId === walletId).map(({ event }) => event.version);

export interface WebhookAnswer {
  readonly id: string;
  readonly secret: string;
  readonly status: string;
  readonly disabledReason: string | null;
  readonly failing: { shards: number; reason: string; since: string; nextTryAt: string } | null;
  readonly code: string;
  readonly message: string;
  readonly details: readonly { field: string; message: string }[];
}

/** A webhook for the store alone; nothing is ever sent to it. */
export function newWebhook(over: Partial<NewWebhook> = {}): NewWebhook {
  return {
    webhookId: unique("hook"),
    url: "https://shop.example/hook",
    secret: "whsec_test",
    eventTypes: null,
    walletIds: null,
    description: null,
    idempotencyKey: null,
    fingerprint: null,
    ...over,
  };
}

/** Makes webhooks that go with the test, and looks at them. */
export function webhooksOf(stack: () => Stack) {
  return {
    async makeWebhook(fields: Record<string, unknown>, key?: string) {
      const reply = await stack().post<WebhookAnswer>("/webhooks", fields, key);
      if (reply.status === 201) {
        onTestFinished(async () => {
          await stack().ask("DELETE", `/webhooks/${reply.body.id}`);
        });
      }
      return reply;
    },
    look: async (id: string): Promise<WebhookAnswer> =>
      (await stack().get<WebhookAnswer>(`/webhooks/${id}`)).body,
  };
}
