import { expect, it } from "vitest";

import { LIMITS } from "../src/limits.ts";
import { uuidv7 } from "./uuid.ts";

const ids = Array.from({ length: LIMITS.randomWords * 3 }, uuidv7);

it("an id is a UUIDv7 of now", () => {
  for (const id of ids) {
    expect(id).toMatch(/^[\da-f]{8}-[\da-f]{4}-7[\da-f]{3}-[89ab][\da-f]{3}-[\da-f]{12}$/);
  }
  const madeAtMs = Number.parseInt(uuidv7().replaceAll("-", "").slice(0, 12), 16);
  expect(Math.abs(Date.now() - madeAtMs)).toBeLessThan(60_000);
});

it("ids ascend, and none comes twice", () => {
  expect(ids.toSorted()).toEqual(ids);
  expect(new Set(ids).size).toBe(ids.length);
});

it("their random ends do not come again with the next filling of the pool", () => {
  // Of so many words of 32 bits, two are the same once in a thousand times, and ten never are.
  const ends = new Set(ids.map((id) => id.slice(-8)));
  expect(ends.size).toBeGreaterThan(ids.length - 10);
});
