/**
 * Amounts of money. Inside they are integers of the asset's minor unit, branded so that no decimal
 * slips in; outside they are JSON numbers or decimal strings. Everything stays under 10^15 minor
 * units, so that each value survives an IEEE double exactly; what would need rounding is refused,
 * never rounded. Pure: no library, clock or randomness.
 */

declare const minorUnits: unique symbol;

/** An integer count of minor units (cents of USD, yen of JPY), |amount| < 10^15. */
export type AmountMinor = number & { readonly [minorUnits]: true };

/** First amount (exclusive bound, in minor units) that is out of range: 10^15. */
export const AMOUNT_MINOR_BOUND = 1_000_000_000_000_000;

/** Most decimal places an asset may have. */
export const DECIMAL_PLACES_MAX = 9;

/** Most digits that a decimal from outside may have before its point, and after it. */
export const AMOUNT_DIGITS_MAX = 40;

export type AmountProblem = "invalid_amount" | "amount_out_of_range";

export const ZERO = 0 as AmountMinor;

/** Whether an integer of minor units is inside the range that Coffer keeps. */
export function inRange(minor: number): minor is AmountMinor {
  return Number.isSafeInteger(minor) && minor > -AMOUNT_MINOR_BOUND && minor < AMOUNT_MINOR_BOUND;
}

/**
 * Brands an integer that is known to be in range; anything else is a programmer error and throws.
 */
export function amountMinor(minor: number): AmountMinor {
  if (!inRange(minor)) throw new RangeError(`${minor} is not an amount in minor units`);
  return minor;
}

const DECIMAL = new RegExp(`^(\\d{1,${AMOUNT_DIGITS_MAX}})(?:\\.(\\d{1,${AMOUNT_DIGITS_MAX}}))?$`);

/**
 * Writes out the form in which JavaScript prints numbers below 10^-6, such as 1.5e-7. (The other
 * one with an exponent begins at 10^21, far out of range.)
 */
function expandExponent(text: string): string {
  const [digits, places] = text.split("e-") as [string, string];
  return `0.${"0".repeat(Number(places) - 1)}${digits.replace(".", "")}`;
}

/**
 * The one spelling of an amount given from outside: digits, and a fraction without trailing zeros
 * ("10", "0.5"). `input` is a JSON number or a decimal string. Zero, negatives, NaN, signs, blanks
 * and exponents in strings are `invalid_amount`; what no asset can hold (10^15 and more, also
 * infinity) is `amount_out_of_range`. A JSON number has passed through a double when it arrives
 * here, so an amount of more than 15 significant digits must be sent as a string to be refused and
 * not rounded.
 */
export function canonicalAmount(
  input: unknown,
): { ok: true; amount: string } | { ok: false; problem: AmountProblem } {
  if (typeof input === "number") {
    if (!(input > 0)) return { ok: false, problem: "invalid_amount" };
    if (input >= AMOUNT_MINOR_BOUND) return { ok: false, problem: "amount_out_of_range" };
    if (Number.isInteger(input)) return { ok: true, amount: String(input) };
    const text = String(input);
    return canonicalText(text.includes("e") ? expandExponent(text) : text);
  }
  if (typeof input === "string") return canonicalText(input);
  return { ok: false, problem: "invalid_amount" };
}

function canonicalText(
  text: string,
): { ok: true; amount: string } | { ok: false; problem: AmountProblem } {
  const match = DECIMAL.exec(text);
  if (match === null) return { ok: false, problem: "invalid_amount" };
  const whole = match[1]!.replace(/^0+(?=\d)/, "");
  const fraction = (match[2] ?? "").replace(/0+$/, "");
  if (whole === "0" && fraction === "") return { ok: false, problem: "invalid_amount" };
  if (whole.length > 15) return { ok: false, problem: "amount_out_of_range" };
  return { ok: true, amount: fraction === "" ? whole : `${whole}.${fraction}` };
}

/**
 * A canonical amount in minor units of an asset with `decimalPlaces` (0 to 9). More decimals than
 * the asset has are `invalid_amount`; 10^15 minor units and more are `amount_out_of_range`.
 */
export function toMinor(
  amount: string,
  decimalPlaces: number,
): { ok: true; minor: AmountMinor } | { ok: false; problem: AmountProblem } {
  const point = amount.indexOf(".");
  const whole = point < 0 ? amount : amount.slice(0, point);
  const fraction = point < 0 ? "" : amount.slice(point + 1);
  if (fraction.length > decimalPlaces) return { ok: false, problem: "invalid_amount" };
  const minor = Number(whole + fraction.padEnd(decimalPlaces, "0"));
  if (!(minor > 0)) return { ok: false, problem: "invalid_amount" };
  if (!(minor < AMOUNT_MINOR_BOUND)) return { ok: false, problem: "amount_out_of_range" };
  return { ok: true, minor: minor as AmountMinor };
}

/**
 * The decimal text of minor units with all places of the asset: 1000 at 2 places is "10.00". Totals
 * come as big integers.
 */
export function formatAmount(minor: number | bigint, decimalPlaces: number): string {
  const sign = minor < 0 ? "-" : "";
  const digits = String(minor < 0 ? -minor : minor).padStart(decimalPlaces + 1, "0");
  if (decimalPlaces === 0) return sign + digits;
  const point = digits.length - decimalPlaces;
  return `${sign}${digits.slice(0, point)}.${digits.slice(point)}`;
}

/** Powers of ten as exact doubles, by decimal places. */
const POWERS = [1, 10, 100, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9] as const;

/**
 * The JSON number of minor units. Both operands are exact doubles, so IEEE division gives the
 * double nearest to the decimal value, which is the one that prints back as that decimal (at most
 * 15 significant digits).
 */
export function toDecimal(minor: number, decimalPlaces: number): number {
  return minor / POWERS[decimalPlaces]!;
}

/**
 * The bound on a balance that a decimal means for an asset with `decimalPlaces`, in minor units:
 * what has more places than the asset is rounded into the range it bounds (`up` for a lower bound,
 * `down` for an upper one). Past 10^15 it is 10^15, which no balance reaches. Null for what is no
 * plain decimal from 0.
 */
export function boundMinor(
  text: string,
  decimalPlaces: number,
  rounding: "up" | "down",
): number | null {
  const match = DECIMAL.exec(text);
  if (match === null) return null;
  const fraction = match[2] ?? "";
  const kept = BigInt(match[1]! + fraction.slice(0, decimalPlaces).padEnd(decimalPlaces, "0"));
  const isCut = /[1-9]/.test(fraction.slice(decimalPlaces));
  const minor = isCut && rounding === "up" ? kept + 1n : kept;
  return minor < AMOUNT_MINOR_BOUND ? Number(minor) : AMOUNT_MINOR_BOUND;
}
