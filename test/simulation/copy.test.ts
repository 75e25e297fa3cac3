/**
 * The copy that crosses between simulated threads: what it takes over, what it must not share, and
 * what it refuses.
 */
import { expect, test } from "vitest";
import { copied } from "./copy.ts";

const plain = {
  text: "a",
  nothing: null,
  missing: undefined,
  big: 5n,
  list: [1, [2, { deep: [3] }], null],
  byKey: new Map<unknown, unknown>([
    ["a", { amount: 1 }],
    [2, new Set([{ member: true }])],
  ]),
};

test("a copy is what structuredClone makes, with its fields in the same order", () => {
  const copy = copied(plain);
  expect(copy).toStrictEqual(structuredClone(plain));
  expect(Object.keys(copy)).toEqual(Object.keys(plain));
});

test("nothing of a copy is shared, at any depth", () => {
  const shared = new Set<object>();
  const gather = (value: unknown, into: (found: object) => void): void => {
    if (typeof value !== "object" || value === null) return;
    into(value);
    const parts =
      value instanceof Map
        ? [...value].flat()
        : value instanceof Set
          ? [...value]
          : Object.values(value);
    for (const part of parts) gather(part, into);
  };
  const copy = copied(plain);
  gather(plain, (found) => shared.add(found));
  expect(shared.size).toBe(9);
  const kept: object[] = [];
  gather(copy, (found) => shared.has(found) && kept.push(found));
  expect(kept).toEqual([]);
});

test.each([
  ["a function", { deep: [() => 1] }],
  ["a symbol", { deep: Symbol("a") }],
  ["an instance of a class", new URL("http://localhost")],
  ["a date", new Map([[1, new Date(0)]])],
  ["an error", [new Error("a")]],
  ["a promise", new Set([Promise.resolve()])],
])("%s does not cross", (_what, given) => {
  expect(() => copied<unknown>(given)).toThrow(TypeError);
});
