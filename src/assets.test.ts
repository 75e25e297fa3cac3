/** The ISO 4217 table through our eyes: the decimal places that decide what an amount means. */
import { expect, it } from "vitest";

import { DECIMAL_PLACES_MAX } from "./core/amount.ts";
import { allAssets, assetOf } from "./assets.ts";

it.each([
  ["USD", 2],
  ["EUR", 2],
  ["JPY", 0],
  ["KWD", 3],
  ["CLF", 4],
])("%s has %i decimal places", (code, decimalPlaces) => {
  expect(assetOf(code)).toMatchObject({ code, decimalPlaces });
});

it.each(["usd", "", "ABC", "__proto__", "constructor", "USD "])("%j is no asset", (code) => {
  expect(assetOf(code)).toBeNull();
});

it("lists every asset once, in order, each with decimal places that amounts can have", () => {
  const codes = allAssets().map(({ code }) => code);
  expect(codes).toEqual([...new Set(codes)].toSorted());
  expect(codes.length).toBeGreaterThan(150);
  for (const { name, decimalPlaces } of allAssets()) {
    expect(name).not.toBe("");
    expect(decimalPlaces).toBeLessThanOrEqual(DECIMAL_PLACES_MAX);
  }
});
