/** Serialisers are shared by schemas of the same text, and by nothing else. */
import { expect, it } from "vitest";

import { buildSerialisers } from "./serialisers.ts";

const NAMED = { One: { $id: "One", type: "object", properties: { a: { type: "string" } } } };
const OTHER = { One: { $id: "One", type: "object", properties: { b: { type: "string" } } } };
const route = (schema: object, httpStatus = "200") => ({
  method: "GET",
  url: "/",
  httpStatus,
  schema,
});
const value = { a: "x", b: "y" };

it("a schema is compiled once, for all routes and servers that have it", () => {
  const serialiser = buildSerialisers(NAMED)(route({ $ref: "One#" }));
  expect(serialiser(value)).toBe('{"a":"x"}');
  expect(buildSerialisers(NAMED)(route({ $ref: "One#" }, "404"))).toBe(serialiser);
});

it("another schema is another one, and so is the same where its names mean something else", () => {
  const build = buildSerialisers(NAMED);
  expect(build(route({ type: "array", items: { $ref: "One#" } }))([value])).toBe('[{"a":"x"}]');
  expect(build(route({ $ref: "One#" }))(value)).toBe('{"a":"x"}');
  expect(buildSerialisers(OTHER)(route({ $ref: "One#" }))(value)).toBe('{"b":"y"}');
});
