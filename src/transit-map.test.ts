import { getHeapStatistics, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fc from "fast-check";
import { expect, test } from "vitest";
import { buildTransitMap, type TransitMap } from "./transit-map.ts";

type Call = { type: "set"; key: number; value: string } | { type: "delete"; key: number };

const key = fc.integer({ min: 0, max: 12 });
const call: fc.Arbitrary<Call> = fc.oneof(
  fc.record({ type: fc.constant("set" as const), key, value: fc.string({ maxLength: 2 }) }),
  fc.record({ type: fc.constant("delete" as const), key }),
);

test("whatever is put in and taken out, it holds what a Map would, in the same order", () => {
  fc.assert(
    fc.property(fc.array(call, { maxLength: 80 }), (calls) => {
      const map = new Map<number, string>();
      const transit = buildTransitMap<number, string>();
      for (const one of calls) {
        if (one.type === "set") {
          map.set(one.key, one.value);
          transit.set(one.key, one.value);
        } else {
          expect(transit.delete(one.key)).toBe(map.delete(one.key));
        }
        expect([...transit]).toEqual([...map]);
        expect(transit.size).toBe(map.size);
        expect(transit.get(one.key)).toBe(map.get(one.key));
        expect(transit.has(one.key)).toBe(map.has(one.key));
      }
    }),
  );
});

test("a walk leaves out what is taken out meanwhile, and meets what is put in", () => {
  const transit = buildTransitMap<string, number>();
  transit.set("a", 1);
  transit.set("b", 2);
  transit.set("c", 3);
  const met: string[] = [];
  for (const [name, value] of transit) {
    met.push(`${name}${value}`);
    if (name !== "a") continue;
    transit.delete("b");
    transit.set("d", 4);
  }
  expect(met).toEqual(["a1", "c3", "d4"]);
});

test("what has passed through is not kept by the tables that were left behind", () => {
  expect(bytesKept(buildTransitMap())).toBeLessThan(4e6);
});

setFlagsFromString("--expose-gc");
/** Fully without options; with any, Node 20 collects the young generation. */
const collect = runInNewContext("gc") as (options?: { type: "minor" }) => void;

/**
 * Passes 20,000 values through, 17 MB in all, and collects nothing but the young generation. A Map
 * keeps 7 to 13 MB of them.
 */
function bytesKept(map: Pick<TransitMap<number, object>, "set" | "delete">): number {
  collect();
  const before = getHeapStatistics().used_heap_size;
  for (let number = 0; number < 20_000; number++) {
    map.set(number, { payload: Array.from({ length: 100 }, () => number) });
    if (number >= 200) map.delete(number - 200);
    if (number % 2_000 === 0) collect({ type: "minor" });
  }
  collect({ type: "minor" });
  return getHeapStatistics().used_heap_size - before;
}
