/**
 * What the OpenAPI document tells programs that are generated from it, and people who read it at
 * /docs, about answers that are no: one list of codes, a batch whose outcomes can be told apart by
 * type, and examples that can come where they are shown.
 */
import { pino } from "pino";
import { afterAll, beforeAll, expect, it } from "vitest";

import { buildMemoryBus } from "../src/memory-bus.ts";
import { buildPostgresAssets } from "../src/postgres-assets.ts";
import { buildPostgresReadModel } from "../src/postgres-read-model.ts";
import type { WebhookStore } from "../src/webhooks.ts";
import { buildAnswers } from "./answers.ts";
import { buildBatches } from "./batch.ts";
import { buildCommandIntake } from "./command-intake.ts";
import { buildCommandDesk } from "./commands.ts";
import { ERRORS } from "./errors.ts";
import { buildGateway } from "./http.ts";

/** Nothing listens there. */
const databaseUrls = ["postgres://nobody@127.0.0.1:1/none"];
const bus = buildMemoryBus();
const commands = buildCommandDesk({ bus, gatewayId: "test" });
const readModel = buildPostgresReadModel({ databaseUrls });
const assets = buildPostgresAssets({ databaseUrls });
const log = pino({ level: "silent" });
const takeIn = buildCommandIntake((code) => assets.assetOf(code));
const answer = buildAnswers({ readModel, log });
const batches = buildBatches({ commands, takeIn, answer, log });
const app = buildGateway({
  bus,
  commands,
  takeIn,
  answer,
  batches,
  readModel,
  assets,
  version: "1.2.3",
  log,
  webhooks: { store: {} as WebhookStore, allowsPrivate: false },
});

interface Schema {
  readonly enum?: readonly unknown[];
  readonly $ref?: string;
  readonly anyOf?: readonly Schema[];
  readonly items?: Schema;
  readonly properties?: Record<string, Schema>;
  readonly examples?: readonly unknown[];
}
interface Media {
  readonly schema: Schema;
  readonly example?: { readonly statusCode: number; readonly path: string; readonly code: string };
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
  await commands.drain();
  await readModel.close();
  await assets.close();
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
  const ofSchema = document.components.schemas["Error"]?.examples?.[0] as Media["example"];
  const wrong: string[] = [];
  for (const [path, methods] of Object.entries(document.paths)) {
    for (const [method, { responses }] of Object.entries(methods)) {
      for (const status of ["4XX", "5XX"]) {
        const media = responses[status]?.content?.["application/json"];
        if (media === undefined) continue;
        const { statusCode, code } = media.example ?? ofSchema!;
        const isOfStatus = `${statusCode}`.startsWith(status[0]!);
        const movesMoney = method !== "get" && !/^\/(assets|webhooks)/.test(path);
        const canCome = movesMoney || code !== "insufficient_funds";
        if (!isOfStatus || !canCome) wrong.push(`${method} ${path} ${code}`);
      }
    }
  }
  expect(wrong).toEqual([]);
  const read = document.paths["/wallets/{walletId}/events"]?.["get"]?.responses["4XX"];
  expect(read?.content?.["application/json"]?.example).toMatchObject({
    code: "validation_failed",
    path: "/wallets/wallet-1/events",
  });
});
