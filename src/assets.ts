/**
 * The assets that are there from the start: ISO 4217, as a library keeps it. It hides where the
 * table comes from and answers with the one number that money needs, the decimal places. What the
 * library lists beyond the range of amounts is left out.
 */
import { data } from "currency-codes";

import { DECIMAL_PLACES_MAX } from "./amount.ts";

export interface Asset {
  readonly code: string;
  readonly name: string;
  readonly decimalPlaces: number;
}

const assets: ReadonlyMap<string, Asset> = new Map(
  data
    .filter(({ digits }) => Number.isInteger(digits) && digits >= 0 && digits <= DECIMAL_PLACES_MAX)
    .map(({ code, currency, digits }) => [code, { code, name: currency, decimalPlaces: digits }]),
);

/** The asset with exactly this code; codes are case-sensitive, ISO 4217 writes them in capitals. */
export function assetOf(code: string): Asset | null {
  return assets.get(code) ?? null;
}

/** Every asset, in the order of their codes. */
export function allAssets(): Asset[] {
  return [...assets.values()].toSorted((one, other) => (one.code < other.code ? -1 : 1));
}
