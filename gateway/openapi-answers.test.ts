/**
 * What the OpenAPI document tells programs that are generated from it, and people who read it at
 * /docs, about answers that are no: one list of codes, a batch whose outcomes can be told apart by
 * type, and examples that can come where they are shown.
 */
import { afterAll, beforeAll, expect, it } from "vitest";

import type { WebhookStore } from "../src/core/webhooks.ts";
import { loneGatewayOptions } from "../test/stage/lone-gateway.ts";
import { ERRORS, readError } from "./errors.ts";
import { buildGateway } from "./http.ts";

const { options, close } = loneGatewayOptions();
const webhooks = { store: {} as WebhookStore, allowsPrivate: false };
const app = buildGateway({ ...options, webhooks });

interface Schema {
  readonly enum?: readonly unknown[];
  readonly $ref?: string;
  readonly anyOf?: readonly Schema[];
  readonly items?: Schema;
  readonly properties?: Record<string, Schema>;
  readonly examples?: readonly unknown[];
}
interface Example {
  readonly statusCode: number;
  readonly path: string;
  readonly code: string;
  readonly message: string;
}
interface Media {
  readonly schema: Schema;
  readonly example?: Example;
}
interface Document {
  readonly paths: Record<
    string,
    Record<string, { readonly responses: Record<string, { content?: Record<string, Media> }> }>
  >;
  readonly components: { readonly schemas: Record<string, Schema> };
}
let document: Document;

beforeAll(async () => {
  await app.ready();
  document = (await app.inject({ url: "/openapi.json" })).json<Document>();
});

afterAll(async () => {
  await app.close();
  await close();
});

const CODE = "#/components/schemas/ErrorCode";

it("every code that an answer can have is in one list, which all that tell a code refer to", () => {
  const { ErrorCode, Error, Transfer } = document.components.schemas;
  expect(ErrorCode?.enum).toEqual(Object.keys(ERRORS));
  expect(Error?.properties?.["code"]?.$ref).toBe(CODE);
  expect(Transfer?.properties?.["reason"]?.properties?.["code"]?.$ref).toBe(CODE);
  const of = document.paths["/operations/{idempotencyKey}"]?.["get"]?.responses["200"];
  const told = of?.content?.["application/json"]?.schema.properties?.["error"];
  expect(told?.properties?.["code"]?.$ref).toBe(CODE);
});

it("the outcomes of a batch are told apart by the value of ok", () => {
  const answered = document.paths["/batch"]?.["post"]?.responses["200"];
  const { outcomes } = answered?.content?.["application/json"]?.schema.properties ?? {};
  const kinds = outcomes?.items?.anyOf?.map(({ properties = {} }) => properties) ?? [];
  expect(kinds.map(({ ok, data }) => [ok?.enum, data !== undefined])).toEqual([
    [[true], true],
    [[false], false],
  ]);
  expect(kinds[1]?.["error"]?.properties?.["code"]?.$ref).toBe(CODE);
});

it("an answer that is no is shown with an error that can come there", () => {
  const ofSchema = document.components.schemas["Error"]?.examples?.[0] as Example;
  const away = readError("unavailable").message;
  const wrong: string[] = [];
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const [method, { responses }] of Object.entries(methods)) {
      for (const status of Object.keys(responses)) {
        const media = responses[status]?.content?.["application/json"];
        if (!/^[45]XX$/.test(status)) {
          // And an answer that is yes with none
          if (media?.example?.statusCode !== undefined) wrong.push(`${method} ${path} ${status}`);
          continue;
        }
        if (media === undefined) continue;
        const { statusCode, code, message, path: asked } = media.example ?? ofSchema;
        const isOfStatus = `${statusCode}`.startsWith(status[0]!);
        const isRead = method === "get";
        const movesMoney = !isRead && !/^\/(assets|webhooks)/.test(path);
        const canCome = movesMoney || code !== "insufficient_funds";
        const saysWhoIsAway = status === "4XX" || (message === away) === isRead;
        const canBeAsked = !asked.includes("{");
        if (isOfStatus && canCome && saysWhoIsAway && canBeAsked) continue;
        wrong.push(`${method} ${asked} ${code}: ${message}`);
      }
    }
  }
  expect(wrong).toEqual([]);
  const exampleOf = (path: string): Example | undefined =>
    document.paths[path]?.["get"]?.responses["4XX"]?.content?.["application/json"]?.example;
  expect(exampleOf("/wallets/{walletId}/events")).toMatchObject({
    code: "validation_failed",
    path: "/wallets/wallet-1/events",
  });
  expect(exampleOf("/ws")).toMatchObject({ code: "upgrade_required", path: "/ws" });
});
