/**
 * The audit of own assets: what a wallet was made to count in against the row of its asset, which
 * never changes. ISO 4217 is no database's: it may take a code away, or bring one that somebody has
 * added before, so a wallet may count as the library does, and a code of that form that nobody
 * knows may have been one. It remembers one wallet for each asset. Reads nothing itself.
 */
import { assetOf } from "../assets.ts";
import type { Name } from "./differences.ts";
import type { WalletState } from "../core/wallet.ts";

type Counted = Pick<WalletState, "walletId" | "currency" | "decimalPlaces">;

export interface AssetAudit {
  /** A wallet as its events say that it was made; null: they do not. */
  wallet(state: Counted | null): void;
  /** Codes of the wallets' assets that may be own ones. */
  readonly codes: readonly string[];
  /** After the last wallet: the own assets with these codes. */
  end(own: ReadonlyArray<{ readonly code: string; readonly decimalPlaces: number }>): void;
}

const LIKE_ISO_4217 = /^[A-Z]{3}$/;

export function auditAssets(name: Name): AssetAudit {
  const seen = new Map<string, Counted>();
  return {
    wallet(state) {
      if (state === null || state.currency === "") return;
      const { walletId, currency, decimalPlaces } = state;
      if (assetOf(currency)?.decimalPlaces === decimalPlaces) return;
      const key = `${currency} ${decimalPlaces}`;
      if (!seen.has(key)) seen.set(key, { walletId, currency, decimalPlaces });
    },
    get codes() {
      return [...new Set([...seen.values()].map(({ currency }) => currency))];
    },
    end(own) {
      const places = new Map(own.map(({ code, decimalPlaces }) => [code, decimalPlaces]));
      for (const { walletId, currency: field, decimalPlaces: expected } of seen.values()) {
        const found = places.get(field) ?? null;
        if (found === expected || (found === null && LIKE_ISO_4217.test(field))) continue;
        name({ kind: "asset_row", walletId, field, expected, found });
      }
    },
  };
}
