import { describe, expect, it } from "vitest";
import {
  alignColumns,
  formatMs,
  formatRatio,
  formatWhole,
  median,
  percentile,
} from "./statistics.ts";

describe("percentile", () => {
  it.each([
    { values: [7], fraction: 0, expected: 7 },
    { values: [7], fraction: 1, expected: 7 },
    { values: [1, 2, 3, 4], fraction: 0, expected: 1 },
    { values: [1, 2, 3, 4], fraction: 0.25, expected: 1 },
    { values: [1, 2, 3, 4], fraction: 0.26, expected: 2 },
    { values: [1, 2, 3, 4], fraction: 0.5, expected: 2 },
    { values: [1, 2, 3, 4, 5], fraction: 0.5, expected: 3 },
    { values: [1, 2, 3, 4], fraction: 0.99, expected: 4 },
    { values: [1, 2, 3, 4], fraction: 1, expected: 4 },
    { values: [], fraction: 0.5, expected: Number.NaN },
  ])("of $values at $fraction is $expected", ({ values, fraction, expected }) => {
    expect(percentile(values, fraction)).toBe(expected);
  });

  it("takes the 99th of a hundred values for p99", () => {
    const ascending = Float64Array.from({ length: 100 }, (_, i) => i + 1);
    expect(percentile(ascending, 0.99)).toBe(99);
  });

  it.each([-0.1, 1.1, Number.NaN])("refuses the fraction %d", (fraction) => {
    expect(() => percentile([1], fraction)).toThrow(RangeError);
  });
});

describe("median", () => {
  it.each([
    { values: [3, 1, 2], expected: 2 },
    { values: [10, 9, 100, 1], expected: 9.5 },
    { values: [5], expected: 5 },
    { values: [], expected: Number.NaN },
  ])("of $values is $expected", ({ values, expected }) => {
    const before = [...values];
    expect(median(values)).toBe(expected);
    expect(values).toEqual(before);
  });
});

describe("figures for a reader", () => {
  it("have separators, three significant places, and a dash for what was not measured", () => {
    expect([formatWhole(1_234_567.8), formatWhole(0), formatWhole(Number.NaN)]).toEqual([
      "1,234,568",
      "0",
      "-",
    ]);
    expect([0.123, 9.999, 12.34, 1234.5, Number.NaN].map(formatMs)).toEqual([
      "0.12",
      "10.00",
      "12.3",
      "1,235",
      "-",
    ]);
    expect([0.446, 22.44, Number.NaN].map(formatRatio)).toEqual(["0.45x", "22.4x", "-"]);
  });

  it("stand under each other, names to the left and numbers to the right", () => {
    const rows = [
      ["name", "ops/s"],
      ["a", "12,345"],
    ];
    expect(alignColumns(rows, 1)).toEqual(["name   ops/s", "a     12,345"]);
  });
});
