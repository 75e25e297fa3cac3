/**
 * The audit of a wallet's holds: the rows of `holds` against what the events say. An event that moves a hold carries it as it is
 * afterwards, so the last one that names it says what its row must be; and what the active ones have left is what the wallet has held. It
 * remembers every hold of one wallet; of a wallet with more than `LIMITS.verifyHoldsMax` nothing is compared but `held`, which the fold
 * of the wallet does. Reads nothing itself.
 */
import type { DifferenceValue, Name } from "./differences.ts";
import { LIMITS } from "./limits.ts";
import type { EventRow } from "./postgres-events.ts";

/** A hold as an event carries it, or as its row has it. */
export interface HoldRow {
  readonly walletId: string;
  readonly holdId: string;
  readonly amountMinor: number;
  readonly capturedMinor: number;
  readonly status: string;
  readonly kind: string;
  readonly reference: string | null;
  readonly description: string | null;
  readonly expiresAtMs: number | null;
  readonly createdAtMs: number;
  readonly capturedAtMs: number | null;
  readonly releasedAtMs: number | null;
}

const FIELDS = [
  ["amount", "amountMinor"],
  ["captured", "capturedMinor"],
  ["status", "status"],
  ["kind", "kind"],
  ["reference", "reference"],
  ["description", "description"],
  ["expires_at", "expiresAtMs"],
  ["created_at", "createdAtMs"],
  ["captured_at", "capturedAtMs"],
  ["released_at", "releasedAtMs"],
] as const;

export interface HoldAudit {
  /** The next event of the wallet, whatever its type. */
  event(row: EventRow): void;
  /** After the last one: the rows of the wallet's holds, all or more than `LIMITS.verifyHoldsMax`, and what it has held. */
  end(rows: readonly HoldRow[], heldMinor: number): void;
}

export function auditHolds(walletId: string, name: Name): HoldAudit {
  const told = new Map<string, { hold: HoldRow; version: number }>();
  let isComplete = true;
  return {
    event({ data, version }) {
      const hold = data?.["hold"] as HoldRow | undefined;
      if (hold === undefined) return;
      if (told.has(hold.holdId) || told.size < LIMITS.verifyHoldsMax) {
        told.set(hold.holdId, { hold, version });
      } else {
        isComplete = false;
      }
    },
    end(rows, heldMinor) {
      if (!isComplete || rows.length > LIMITS.verifyHoldsMax) return;
      const found = new Map(rows.map((row) => [row.holdId, row]));
      let leftMinor = 0;
      for (const [holdId, { hold, version }] of told) {
        if (hold.status === "ACTIVE") leftMinor += hold.amountMinor - hold.capturedMinor;
        const row = found.get(holdId);
        found.delete(holdId);
        if (row === undefined) {
          const expected = `${hold.status}, ${hold.amountMinor}`;
          name({ kind: "hold_missing", walletId, version, field: holdId, expected });
          continue;
        }
        for (const [column, key] of FIELDS) {
          const [expected, there]: DifferenceValue[] = [hold[key], row[key]];
          if (there === expected) continue;
          const field = `${holdId} ${column}`;
          name({ kind: "hold_row", walletId, version, field, expected: expected!, found: there! });
        }
      }
      for (const [holdId, { status, amountMinor }] of found) {
        const there = `${status}, ${amountMinor}`;
        name({ kind: "hold_without_events", walletId, field: holdId, found: there });
      }
      if (leftMinor !== heldMinor) {
        name({ kind: "hold_sum", walletId, expected: leftMinor, found: heldMinor });
      }
    },
  };
}
