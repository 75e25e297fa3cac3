/**
 * Amounts at the border and back. The tables fix what is taken, what is refused and with which
 * code; the properties compare with exact integer arithmetic (BigInt) over the whole range and
 * every number of decimal places.
 *
 * Replay a failure: fast-check prints its seed; `FC_SEED=<seed> npx vitest run src/core/amount`
 * runs the same cases.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";

import {
  AMOUNT_MINOR_BOUND,
  amountMinor,
  canonicalAmount,
  DECIMAL_PLACES_MAX,
  formatAmount,
  inRange,
  toDecimal,
  toMinor,
  type AmountProblem,
  boundMinor,
} from "./amount.ts";

const seed = process.env["FC_SEED"];
fc.configureGlobal({ numRuns: 2_000, ...(seed === undefined ? {} : { seed: Number(seed) }) });

const PLACES = Array.from({ length: DECIMAL_PLACES_MAX + 1 }, (_, places) => places);

describe("canonicalAmount", () => {
  it.each<[input: number | string, amount: string]>([
    [1, "1"],
    [10, "10"],
    [0.5, "0.5"],
    [10.25, "10.25"],
    [0.001, "0.001"],
    [1e-6, "0.000001"],
    [1e-7, "0.0000001"],
    [1.5e-7, "0.00000015"],
    [1.25e-9, "0.00000000125"],
    [1e-40, `0.${"0".repeat(39)}1`],
    [1e14, "100000000000000"],
    [999_999_999_999_999, "999999999999999"],
    [999_999_999_999_999.9, "999999999999999.9"],
    [0.1 + 0.2, "0.30000000000000004"],
    ["1", "1"],
    ["10", "10"],
    ["0.5", "0.5"],
    ["0.10", "0.1"],
    ["00.10", "0.1"],
    ["007", "7"],
    ["5.000", "5"],
    ["100", "100"],
    ["0.000000001", "0.000000001"],
    ["999999999999999.999999999", "999999999999999.999999999"],
    [`${"0".repeat(39)}1`, "1"],
    [`1.${"0".repeat(40)}`, "1"],
    [`0.${"0".repeat(39)}1`, `0.${"0".repeat(39)}1`],
  ])("spells %j as %j", (input, amount) => {
    expect(canonicalAmount(input)).toEqual({ ok: true, amount });
  });

  it.each<[why: string, input: unknown]>([
    ["zero", 0],
    ["negative zero", -0],
    ["a negative number", -1],
    ["a negative fraction", -0.01],
    ["NaN", Number.NaN],
    ["minus infinity", -Infinity],
    ["the smallest double", Number.MIN_VALUE],
    ["a number with more than 40 decimals", 1e-41],
    ["zero as text", "0"],
    ["zero with decimals as text", "0.00"],
    ["several zeros as text", "000"],
    ["a sign", "-1"],
    ["a plus", "+1"],
    ["NaN as text", "NaN"],
    ["infinity as text", "Infinity"],
    ["an exponent as text", "1e3"],
    ["a negative exponent as text", "1e-3"],
    ["hexadecimal", "0x10"],
    ["a leading blank", " 1"],
    ["a trailing blank", "1 "],
    ["a trailing newline", "1\n"],
    ["a blank inside", "1 000"],
    ["a thousands separator", "1,000"],
    ["a decimal comma", "1,5"],
    ["an underscore", "1_000"],
    ["no fraction after the point", "1."],
    ["no digit before the point", ".5"],
    ["only a point", "."],
    ["two points", "1.2.3"],
    ["an empty text", ""],
    ["a full-width digit", "１"],
    ["an Arabic-Indic digit", "١"],
    ["a superscript", "1²"],
    ["a NUL", "1\u0000"],
    ["a currency", "1 USD"],
    ["a bigint suffix", "1n"],
    ["more than 40 zeros before the digit", `${"0".repeat(40)}1`],
    ["more than 40 decimals", `0.${"0".repeat(40)}1`],
    ["a million digits", "1".repeat(1_000_000)],
    ["null", null],
    ["undefined", undefined],
    ["true", true],
    ["an object", {}],
    ["an object that turns into a number", { valueOf: () => 1, toString: () => "1" }],
    ["a boxed number", Object(1)],
    ["an empty array", []],
    ["an array of a number", [1]],
    ["a bigint", 1n],
    ["a symbol", Symbol("1")],
  ])("refuses %s as an invalid amount", (_why, input) => {
    expect(canonicalAmount(input)).toEqual({ ok: false, problem: "invalid_amount" });
  });

  it.each<[input: unknown]>([
    [AMOUNT_MINOR_BOUND],
    [1e15 + 0.5],
    [1e21],
    [Number.MAX_SAFE_INTEGER],
    [Number.MAX_VALUE],
    ["1000000000000000"],
    ["1000000000000000.5"],
    ["0001000000000000000"],
    ["9".repeat(40)],
  ])("refuses %j as out of range for any asset", (input) => {
    expect(canonicalAmount(input)).toEqual({ ok: false, problem: "amount_out_of_range" });
  });

  it("refuses infinity, which is what JSON makes of 1e999", () => {
    expect(canonicalAmount(JSON.parse("1e999")).ok).toBe(false);
  });
});

describe("boundMinor", () => {
  it.each<[text: string, places: number, up: number | null, down: number | null]>([
    ["0", 2, 0, 0],
    ["10", 2, 1_000, 1_000],
    ["10.5", 0, 11, 10],
    ["10.005", 2, 1_001, 1_000],
    ["10.010000", 2, 1_001, 1_001],
    [`0.${"0".repeat(39)}1`, 9, 1, 0],
    ["9999999999999.99", 2, 999_999_999_999_999, 999_999_999_999_999],
    ["9999999999999.991", 2, AMOUNT_MINOR_BOUND, 999_999_999_999_999],
    ["9".repeat(40), 9, AMOUNT_MINOR_BOUND, AMOUNT_MINOR_BOUND],
    ["", 2, null, null],
    ["-1", 2, null, null],
    ["+1", 2, null, null],
    ["1e3", 2, null, null],
    ["1.", 2, null, null],
    [".5", 2, null, null],
    ["1 ", 2, null, null],
    ["9".repeat(41), 2, null, null],
  ])("of %j at %i places is %j from below and %j from above", (text, places, up, down) => {
    expect(boundMinor(text, places, "up")).toBe(up);
    expect(boundMinor(text, places, "down")).toBe(down);
  });
});

describe("toMinor", () => {
  const invalid: AmountProblem = "invalid_amount";
  const range: AmountProblem = "amount_out_of_range";

  // One column per number of decimal places, 0 to 9.
  it.each<[amount: string, ...byPlaces: Array<number | AmountProblem>]>([
    ["1", 1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9],
    ["0.5", invalid, 5, 50, 500, 5e3, 5e4, 5e5, 5e6, 5e7, 5e8],
    ["10.25", invalid, invalid, 1025, 10250, 102500, 1025e3, 1025e4, 1025e5, 1025e6, 1025e7],
    ["0.001", invalid, invalid, invalid, 1, 10, 100, 1e3, 1e4, 1e5, 1e6],
    ["0.000000001", ...Array<AmountProblem>(9).fill(invalid), 1],
    ["0.0000000001", ...Array<AmountProblem>(10).fill(invalid)],
    ["999999999999999", 999999999999999, ...Array<AmountProblem>(9).fill(range)],
    ["99999999999999.9", invalid, 999999999999999, ...Array<AmountProblem>(8).fill(range)],
    ["999999.999999999", ...Array<AmountProblem>(9).fill(invalid), 999999999999999],
    ["1000000", 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, range],
    ["999999999999999.5", invalid, ...Array<AmountProblem>(9).fill(range)],
    ["0.30000000000000004", ...Array<AmountProblem>(10).fill(invalid)],
    // Not canonical, and refused all the same.
    ["0", ...Array<AmountProblem>(10).fill(invalid)],
    ["9".repeat(40), ...Array<AmountProblem>(10).fill(range)],
  ])("reads %s at 0 to 9 places", (amount, ...byPlaces) => {
    expect(byPlaces).toHaveLength(PLACES.length);
    for (const places of PLACES) {
      const want = byPlaces[places];
      expect(toMinor(amount, places), `${places} places`).toEqual(
        typeof want === "number" ? { ok: true, minor: want } : { ok: false, problem: want },
      );
    }
  });
});

it.each<[minor: number, places: number, text: string, decimal: number]>([
  [0, 0, "0", 0],
  [0, 2, "0.00", 0],
  [1, 0, "1", 1],
  [1, 2, "0.01", 0.01],
  [10, 2, "0.10", 0.1],
  [99, 2, "0.99", 0.99],
  [100, 2, "1.00", 1],
  [1000, 2, "10.00", 10],
  [123, 3, "0.123", 0.123],
  [-1, 2, "-0.01", -0.01],
  [-1000, 2, "-10.00", -10],
  [-7, 0, "-7", -7],
  [1, 9, "0.000000001", 1e-9],
  [999_999_999_999_999, 0, "999999999999999", 999_999_999_999_999],
  [999_999_999_999_999, 2, "9999999999999.99", 9_999_999_999_999.99],
  [999_999_999_999_999, 9, "999999.999999999", 999_999.999999999],
  [-999_999_999_999_999, 9, "-999999.999999999", -999_999.999999999],
])(
  "%d minor units at %i places are the text %s and the number %d",
  (minor, places, text, decimal) => {
    expect(formatAmount(minor, places)).toBe(text);
    expect(toDecimal(minor, places)).toBe(decimal);
  },
);

it("writes negative zero without a sign", () => {
  expect(formatAmount(-0, 2)).toBe("0.00");
  expect(JSON.stringify(toDecimal(-0, 2))).toBe("0");
});

describe("the range", () => {
  it.each([0, 1, -1, AMOUNT_MINOR_BOUND - 1, 1 - AMOUNT_MINOR_BOUND])("holds %d", (minor) => {
    expect(inRange(minor)).toBe(true);
    expect(amountMinor(minor)).toBe(minor);
  });

  it.each([AMOUNT_MINOR_BOUND, -AMOUNT_MINOR_BOUND, 0.5, Number.NaN, Infinity, -Infinity, 2 ** 53])(
    "does not hold %d, and to brand it is a programmer error",
    (minor) => {
      expect(inRange(minor)).toBe(false);
      expect(() => amountMinor(minor)).toThrow(RangeError);
    },
  );
});

describe("for every amount", () => {
  const places = fc.integer({ min: 0, max: DECIMAL_PLACES_MAX });
  const bound = AMOUNT_MINOR_BOUND - 1;
  /** 1 to 10^15 - 1: uniform, by number of digits, next to both ends, and round numbers. */
  const minorUnits = fc.oneof(
    fc.integer({ min: 1, max: bound }),
    fc.integer({ min: 1, max: 999 }),
    fc.integer({ min: bound - 999, max: bound }),
    fc
      .tuple(fc.integer({ min: 1, max: 15 }), fc.nat({ max: bound }))
      .map(([digits, number]) => (number % 10 ** digits) + 1)
      .filter((minor) => minor <= bound),
    fc
      .tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 0, max: 14 }))
      .map(([digit, zeros]) => digit * 10 ** zeros),
  );
  const digits = (lengthMax: number) =>
    fc
      .array(fc.constantFrom(..."00123456789999".split("")), { minLength: 1, maxLength: lengthMax })
      .map((list) => list.join(""));
  const decimalText = fc.oneof(
    fc.tuple(digits(18), fc.option(digits(12))),
    fc.tuple(digits(8), fc.option(digits(9))),
    fc.tuple(digits(40), fc.option(digits(40))),
  );

  function minorOf(input: unknown, places: number): number | AmountProblem {
    const canonical = canonicalAmount(input);
    if (!canonical.ok) return canonical.problem;
    const read = toMinor(canonical.amount, places);
    return read.ok ? read.minor : read.problem;
  }

  it("the JSON number and the text of minor units both read back as the same minor units", () => {
    fc.assert(
      fc.property(minorUnits, places, (minor, places) => {
        expect(minorOf(JSON.parse(JSON.stringify(toDecimal(minor, places))), places)).toBe(minor);
        expect(minorOf(formatAmount(minor, places), places)).toBe(minor);
      }),
    );
  });

  it("the JSON number prints back exactly as the decimal text", () => {
    fc.assert(
      fc.property(minorUnits, places, (minor, places) => {
        // formatAmount works on digits, without a division; its canonical spelling is the exact
        // decimal.
        const exact = canonicalAmount(formatAmount(minor, places));
        expect(canonicalAmount(toDecimal(minor, places))).toEqual(exact);
        expect(toDecimal(-minor, places)).toBe(-toDecimal(minor, places));
        expect(formatAmount(-minor, places)).toBe(`-${formatAmount(minor, places)}`);
      }),
    );
  });

  it("the canonical spelling is its own canonical spelling", () => {
    const inputs = fc.oneof(
      decimalText.map(([whole, fraction]) => (fraction === null ? whole : `${whole}.${fraction}`)),
      fc.double({ min: 0, max: 1e16, noNaN: true }),
      fc.double(),
    );
    fc.assert(
      fc.property(inputs, (input) => {
        const first = canonicalAmount(input);
        if (!first.ok) return;
        expect(first.amount).toMatch(/^(0|[1-9]\d*)(\.\d*[1-9])?$/);
        expect(canonicalAmount(first.amount)).toEqual(first);
      }),
    );
  });

  it("a text is read exactly or refused, never rounded", () => {
    fc.assert(
      fc.property(decimalText, places, ([whole, fraction], places) => {
        const written = fraction === null ? whole : `${whole}.${fraction}`;
        const decimals = (fraction ?? "").replace(/0+$/, "");
        const spare = decimals.length - places;
        // The value in the finest unit written, and the bound in the same unit.
        const value = BigInt(whole + decimals);
        const unit = 10n ** BigInt(decimals.length);
        const bound = BigInt(AMOUNT_MINOR_BOUND);
        let want: number | AmountProblem;
        if (value === 0n) want = "invalid_amount";
        else if (value >= bound * unit) want = "amount_out_of_range";
        else if (spare > 0) want = "invalid_amount";
        else {
          const minor = value * 10n ** BigInt(-spare);
          want = minor < bound ? Number(minor) : "amount_out_of_range";
        }
        expect(minorOf(written, places)).toBe(want);
      }),
    );
  });

  it("a number is spelled as exactly that number or refused, never rounded", () => {
    const numbers = fc.oneof(
      fc.double(),
      fc.double({ min: 0, max: 1e15 }),
      fc.double({ min: 0, max: 1e-5 }),
      fc.tuple(minorUnits, places).map(([minor, places]) => minor / 10 ** places),
    );
    fc.assert(
      fc.property(numbers, (number) => {
        const canonical = canonicalAmount(number);
        if (canonical.ok) expect(Number(canonical.amount)).toBe(number);
        else if (number >= AMOUNT_MINOR_BOUND) {
          expect(canonical.problem).toBe("amount_out_of_range");
        } else {
          expect(canonical.problem).toBe("invalid_amount");
          // Every positive number down to 10^-20 has a spelling of at most 40 decimals.
          expect(number > 1e-20).toBe(false);
        }
      }),
    );
  });

  it("no input at all makes canonicalAmount throw", () => {
    fc.assert(
      fc.property(fc.anything(), (input) => {
        expect(typeof canonicalAmount(input).ok).toBe("boolean");
      }),
    );
  });
});
