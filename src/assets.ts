/**
 * The assets that are there from the start: ISO 4217, as a library keeps it. It hides where the
 * table comes from and answers with the one number that money needs, the decimal places. What the
 * library lists beyond the range of amounts is left out. Also the port by which a gateway asks for
 * these and for own ones, without knowing where those are kept (`postgres/assets.ts`).
 */
import { data } from "currency-codes";

import { DECIMAL_PLACES_MAX } from "./core/amount.ts";

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

// --- With own ones ------------------------------------------------------------------------------

export interface ListedAsset extends Asset {
  /** Whether somebody added it here. */
  readonly isOwn: boolean;
}

/** What became of a wish for an asset. */
export type AssetCreation =
  | { readonly type: "created"; readonly asset: ListedAsset }
  /** There is one with this very definition. */
  | { readonly type: "known"; readonly asset: ListedAsset }
  /** There is one with another definition; it stays. */
  | { readonly type: "conflict"; readonly asset: ListedAsset }
  /** The key was sent with another definition before; nothing was added. */
  | { readonly type: "key_taken" }
  /** Its database has as many as it may have. */
  | { readonly type: "full" }
  /** No answer: it may have been added. The same wish finds out. */
  | { readonly type: "unknown" };

export interface Assets {
  /**
   * At once for ISO 4217 and what was seen here before. The promise rejects with `ReadUnavailable`
   * when nobody can say.
   */
  assetOf(code: string): ListedAsset | Promise<ListedAsset | null>;
  /** Every asset, in the order of their codes. @throws ReadUnavailable when a database is away. */
  allAssets(): Promise<ListedAsset[]>;
  /**
   * Finds the own assets that the table defines too by now, says so in the log, and keeps to them.
   * Resolves after the first look; what a database that is away has is looked for again until it is
   * known.
   */
  review(): Promise<void>;
  /**
   * @param key the caller's, which names this one wish from here on
   * @throws ReadUnavailable when its database or the key's is away; nothing was added.
   */
  create(asset: Asset, isDryRun: boolean, key?: string | null): Promise<AssetCreation>;
  close(): Promise<void>;
}
