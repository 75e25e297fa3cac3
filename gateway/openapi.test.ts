/**
 * The OpenAPI document as a gateway gives it: that it comes from the schemas that validate, and
 * that it says of every path, answer, parameter and field what there is to know.
 */
import { afterAll, expect, it } from "vitest";

import { LIMITS } from "../src/limits.ts";
import { buildMetrics } from "../src/telemetry/metrics.ts";
import type { WebhookStore } from "../src/core/webhooks.ts";
import { loneGatewayOptions } from "../test/stage/lone-gateway.ts";
import { buildGateway } from "./http.ts";
import { OPERATION_IDS } from "./openapi.ts";

const { options, close } = loneGatewayOptions();
const { version } = options;
const app = buildGateway(options);

afterAll(async () => {
  await app.close();
  await close();
});

it("the OpenAPI document comes from the schemas that validate", async () => {
  const spec = (await app.inject({ url: "/openapi.json" })).json() as {
    openapi: string;
    paths: Record<
      string,
      Record<string, { operationId?: string; requestBody?: object; responses: object }>
    >;
    components: { schemas: Record<string, object> };
  };
  expect(spec.openapi).toBe("3.1.0");
  expect(Object.keys(spec.components.schemas)).toEqual(
    expect.arrayContaining(["Wallet", "Event", "Transaction", "Transfer", "Error"]),
  );
  const credit = spec.paths["/wallets/{walletId}/credit"]?.["post"];
  expect(credit?.requestBody).toMatchObject({
    content: { "application/json": { schema: { additionalProperties: false } } },
  });
  expect(Object.keys(credit?.responses ?? {})).toEqual(["200", "4XX", "5XX"]);

  // And every operation has a name of its own
  const operations = Object.values(spec.paths).flatMap((path) => Object.values(path));
  const names = operations.map(({ operationId }) => operationId);
  expect(names).toContain("creditWallet");
  expect(names).not.toContain(undefined);
  expect(new Set(names).size).toBe(names.length);
  expect(new Set(Object.values(OPERATION_IDS)).size).toBe(Object.keys(OPERATION_IDS).length);

  // And every write shows a body that can be sent as it stands
  const writes = Object.values(spec.paths).flatMap((path) => [path["post"], path["patch"]]);
  const bodies = writes.flatMap((write) => (write === undefined ? [] : [write.requestBody]));
  expect(bodies.length).toBeGreaterThan(15);
  for (const body of bodies) {
    const shown = (body as { content: Record<string, object> }).content["application/json"];
    expect(Object.keys(shown ?? {})).toContainEqual(expect.stringMatching(/^examples?$/));
  }

  // And every write that can be tried out says how its answer shows that, also in the game's words
  const dryRunHeader = { 200: { headers: { "Dry-Run": expect.anything() } } };
  expect(credit?.responses).toMatchObject(dryRunHeader);
  expect(spec.paths["/api/v1/wallets/spend"]?.["post"]?.responses).toMatchObject(dryRunHeader);

  // And the feed is there, whose protocol begins with an answer of HTTP
  expect(Object.keys(spec.paths["/ws"]?.["get"]?.responses ?? {})).toContain("101");
});

it("the OpenAPI document says of each answer which headers and kind of body it has", async () => {
  const metrics = buildMetrics({ role: "gateway", version });
  const described = buildGateway({ ...options, metrics });
  await described.ready();
  const spec = (await described.inject({ url: "/openapi.json" })).json<{
    paths: Record<string, Record<string, { responses: Record<string, Answer> }>>;
    components: { schemas: Record<string, { properties: object }> };
    security: unknown[];
  }>();
  interface Answer {
    description: string;
    headers?: Record<string, object>;
    content?: Record<string, object>;
  }
  const all = Object.entries(spec.paths).flatMap(([path, operations]) =>
    Object.entries(operations).flatMap(([method, { responses }]) =>
      Object.entries(responses).map(([status, answer]) => ({
        name: `${method} ${path} ${status}`,
        description: answer.description,
        headers: Object.keys(answer.headers ?? {}),
        content: Object.keys(answer.content ?? {}),
      })),
    ),
  );
  const having = (header: string): string[] =>
    all.filter(({ headers }) => headers.includes(header)).map(({ name }) => name);

  // All that is HTTP is named
  const others = all.filter(({ headers }) => !headers.includes("X-Correlation-Id"));
  expect(others.map(({ name }) => name)).toEqual(["get /ws 101"]);
  expect((await described.inject({ url: "/assets" })).headers["x-correlation-id"]).toMatch(/\w/);
  // What may be the answer to an earlier request says so, and nothing else
  const replays = having("Idempotent-Replayed");
  expect(replays).toEqual(expect.arrayContaining(["post /wallets 201", "post /wallets 4XX"]));
  expect(replays.filter((name) => name.startsWith("post /assets"))).toEqual(["post /assets 200"]);
  expect(replays.filter((name) => /^get|\/batch| 5XX$/.test(name))).toEqual([]);
  // What is made can be found, if it has a path
  expect(having("Location").toSorted()).toEqual([
    "post /wallets 201",
    "post /wallets/{walletId}/holds 201",
  ]);
  // No read has an outcome that could be unknown
  const reads = all.filter(({ name }) => name.startsWith("get "));
  expect(reads.filter(({ description }) => description.includes("504"))).toEqual([]);
  const plain = reads.find(({ name }) => name === "get /ws 4XX");
  expect(plain?.description).toContain("426");
  // Metrics are no JSON
  const shown = all.find(({ name }) => name === "get /metrics 200");
  expect(shown?.content).toEqual(["text/plain"]);
  const page = await described.inject({ url: "/metrics" });
  expect(page.headers["content-type"]).toMatch(/^text\/plain;/);
  expect(page.body).toContain("coffer_build_info{");
  // A time that may be missing is a time
  const time = { type: ["string", "null"], format: "date-time" };
  expect(spec.components.schemas["Hold"]?.properties).toMatchObject({
    expiresAt: time,
    releasedAt: time,
    capturedAt: time,
  });
  // And nobody is asked who he is
  expect(spec.security).toEqual([]);
  await described.close();
});

it("the OpenAPI document has parameters that can be sent as they are filled in", async () => {
  const { paths } = (await app.inject({ url: "/openapi.json" })).json() as {
    paths: Record<string, Record<string, { parameters?: Parameter[] }>>;
  };
  interface Parameter {
    readonly name: string;
    readonly in: string;
  }
  const operations = Object.values(paths).flatMap((path) => Object.values(path));
  const all = operations.flatMap(({ parameters = [] }) => parameters);
  // The documentation fills in what is an example: filters that nobody asked for
  const ofQueries = all.filter((parameter) => parameter.in === "query");
  expect(ofQueries.length).toBeGreaterThan(20);
  expect(ofQueries.filter((it) => "example" in it || "examples" in it)).toEqual([]);
  // But what a path cannot be without has one
  const ofPaths = all.filter((parameter) => parameter.in === "path");
  expect(ofPaths.length).toBeGreaterThan(20);
  expect(ofPaths.filter((it) => !("example" in it))).toEqual([]);
  // And the filters of metadata have the names that the caller gives them
  expect(ofQueries.find(({ name }) => name === "metadata.<key>")).toMatchObject({
    style: "form",
    explode: true,
    schema: { type: "object", additionalProperties: { type: "string" }, default: {} },
  });
});

it("the OpenAPI document says what a key is on each path, and which answers are a path's own", async () => {
  const webhooks = { store: {} as WebhookStore, allowsPrivate: false };
  const described = buildGateway({ ...options, webhooks });
  await described.ready();
  const { paths } = (await described.inject({ url: "/openapi.json" })).json<{
    paths: Record<string, Record<string, Operation>>;
  }>();
  interface Operation {
    parameters?: { name: string; description: string; schema: object }[];
    responses: Record<string, { description: string; headers?: object }>;
  }
  const operations = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({
      name: `${method} ${path}`,
      operation,
    })),
  );
  const keys = new Map<string, { description: string; schema: object }[]>();
  for (const { name, operation } of operations) {
    for (const parameter of operation.parameters ?? []) {
      if (parameter.name !== "Idempotency-Key") continue;
      keys.set(name, [...(keys.get(name) ?? []), parameter]);
    }
  }
  const told = (name: string): string => keys.get(name)?.[0]?.description ?? "";
  expect(told("post /wallets")).toContain("gets the first answer again");
  expect(told("post /batch")).toContain("`<key>/<n>`");
  expect(keys.get("post /batch")?.[0]?.schema).toMatchObject({
    maxLength: LIMITS.keyLengthMax - 5,
  });
  for (const path of ["topup", "bonus", "spend"]) {
    expect(told(`post /api/v1/wallets/${path}`)).toContain("`reference_id` is the key");
  }
  expect(told("post /assets")).toContain("the code is the key");
  expect(told("post /webhooks")).toContain("no second webhook");
  expect(told("post /webhooks/{webhookId}/replay")).toContain("not used");
  expect(paths["/assets"]?.["post"]?.responses["200"]?.description).toContain("there already");
  expect(paths["/webhooks/{webhookId}"]?.["delete"]?.responses["4XX"]?.description).toContain(
    "nothing happened",
  );
  const replayed = operations
    .filter(({ name }) => name.includes("/webhooks"))
    .flatMap(({ name, operation }) =>
      Object.entries(operation.responses)
        .filter(([, { headers = {} }]) => "Idempotent-Replayed" in headers)
        .map(([status]) => `${name} ${status}`),
    );
  expect(replayed).toEqual(["post /webhooks 201"]);
  // An example that is not filled in is still there, and the filters are bounded as the server does
  const ofList = paths["/wallets"]?.["get"]?.parameters ?? [];
  const schemaOf = (name: string) => ofList.find((it) => it.name === name)?.schema;
  expect(schemaOf("minBalance")).toMatchObject({ examples: ["10.50"] });
  expect(schemaOf("metadata.<key>")).toMatchObject({
    propertyNames: { pattern: "^metadata\\." },
    maxProperties: LIMITS.metadataFiltersMax,
  });
  await described.close();
});

it("the OpenAPI document says of every parameter and every field of a body what it is", async () => {
  const webhooks = { store: {} as WebhookStore, allowsPrivate: false };
  const described = buildGateway({
    ...options,
    webhooks,
    metrics: buildMetrics({ role: "gateway", version }),
  });
  await described.ready();
  interface Described {
    readonly description?: string;
    readonly properties?: Record<string, Described>;
    readonly items?: Described;
    readonly anyOf?: readonly Described[];
    readonly title?: string;
  }
  interface Operation {
    readonly parameters?: (Described & { name: string })[];
    readonly requestBody?: { content: Record<string, { schema: Described }> };
  }
  const { paths } = (await described.inject({ url: "/openapi.json" })).json<{
    paths: Record<string, Record<string, Operation>>;
  }>();
  await described.close();
  const silent: string[] = [];
  const look = (place: string, { properties = {}, items, anyOf = [] }: Described): void => {
    for (const [name, field] of Object.entries(properties)) {
      if ((field.description ?? "") === "") silent.push(`${place} ${name}`);
      look(`${place} ${name}`, field);
    }
    if (items !== undefined) look(place, items);
    for (const one of anyOf) look(`${place} ${one.title ?? ""}`, one);
  };
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, { parameters = [], requestBody }] of Object.entries(methods)) {
      for (const { name, description = "" } of parameters) {
        if (description === "") silent.push(`${method} ${path} ${name}`);
      }
      const schema = requestBody?.content["application/json"]?.schema;
      if (schema !== undefined) look(`${method} ${path}`, schema);
    }
  }
  expect(silent).toEqual([]);
});
