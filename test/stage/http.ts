/**
 * The stage of the HTTP tests: the real stack, of which every answer is kept, to be held against
 * the OpenAPI document at the end of each test file.
 */
import type { TSchema } from "typebox";
import { Compile } from "typebox/schema";
import { afterAll, beforeAll, expect, it } from "vitest";
import { startStack, type AnyBody, type Reply, type Stack } from "./stack.ts";

export let stack: Stack;
/** Every answer to a route of the document. */
const answers: { method: string; route: string; status: number; payload: string }[] = [];

export const ISO_TIME = /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z$/;
export const JSON_TYPE = "application/json; charset=utf-8";

/** Expects the one error body, with this status and code. */
export function expectProblem(reply: Reply<AnyBody>, status: number, code: string): void {
  expect(reply.body).toMatchObject({
    statusCode: status,
    error: expect.any(String),
    code,
    message: expect.stringMatching(/\w/),
    path: expect.any(String),
    timestamp: expect.stringMatching(ISO_TIME),
    correlationId: reply.headers["x-correlation-id"],
  });
  expect(reply.status).toBe(status);
  expect(reply.headers["content-type"]).toBe(JSON_TYPE);
}

/** An error's body without what differs between two askings. */
export function lasting({ text, body }: Reply<AnyBody>): unknown {
  if (body?.code === undefined) return text;
  const { timestamp: _, correlationId: __, ...rest } = body;
  return rest;
}

export interface Operation {
  readonly operationId?: string;
  readonly parameters?: { name: string; in: string; required?: boolean; schema: object }[];
  readonly requestBody?: { content: Record<string, { schema: object }> };
  readonly responses: Record<
    string,
    { description: string; content?: Record<string, { schema: object }> }
  >;
}
interface Document {
  readonly openapi: string;
  readonly info: { title: string; version: string };
  readonly components: { schemas: Record<string, object> };
  readonly paths: Record<string, Record<string, Operation>>;
}
export let document: Document;

export const operations = () =>
  Object.entries(document.paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method, operation })),
  );

/** The schema with every reference resolved and closed to fields that it does not name. */
export function closed(schema: unknown): unknown {
  if (Array.isArray(schema)) return schema.map(closed);
  if (typeof schema !== "object" || schema === null) return schema;
  const { $ref } = schema as { $ref?: string };
  if ($ref !== undefined) {
    const name = /^#\/components\/schemas\/(\w+)$/.exec($ref)?.[1] ?? "";
    expect(Object.keys(document.components.schemas)).toContain(name);
    return closed(document.components.schemas[name]);
  }
  const entries = Object.entries(schema).map(([name, value]) => [name, closed(value)]);
  const isOpen = "properties" in schema && !("additionalProperties" in schema);
  return { ...Object.fromEntries(entries), ...(isOpen && { additionalProperties: false }) };
}

/**
 * What holds of every answer that a file's tests got, of so many kinds at least; to be called last.
 */
export function describeAllAnswers(answersMin: number): void {
  it("fits every answer that these tests got", () => {
    const checks = new Map<string, { Check(value: unknown): boolean }>();
    const misfits: string[] = [];
    for (const { method, route, status, payload } of answers) {
      const path = route.replaceAll(/:(\w+)/g, "{$1}");
      const responses = document.paths[path]?.[method.toLowerCase()]?.responses;
      // Pages about the API and health are no operations with schemas.
      if (responses === undefined || path.includes("health")) continue;
      const row = responses[status] ?? responses[`${Math.floor(status / 100)}XX`];
      const schema = row?.content?.["application/json"]?.schema;
      const name = `${method} ${path} ${status}`;
      if (!checks.has(name)) checks.set(name, Compile(closed(schema ?? { not: {} }) as TSchema));
      if (!checks.get(name)!.Check(JSON.parse(payload))) misfits.push(`${name}: ${payload}`);
    }
    expect(misfits).toEqual([]);
    expect(checks.size).toBeGreaterThanOrEqual(answersMin);
  });

  it("Nothing of all this was an error of Coffer's own", () => {
    expect(stack.errors).toEqual([]);
  });
}

/** A stack for the tests of a file, whose answers are kept. */
export function useHttpStage(): void {
  beforeAll(async () => {
    answers.length = 0;
    stack = await startStack({
      prepare(app) {
        app.addHook("onSend", async (request, reply, payload) => {
          const { url: route } = request.routeOptions;
          if (route === undefined || typeof payload !== "string") return;
          answers.push({ method: request.method, route, status: reply.statusCode, payload });
        });
      },
    });
    document = (await stack.get<Document>("/openapi.json")).body;
  });

  afterAll(() => stack.close());
}
