/**
 * The audit of a wallet's holds: the rows of `holds` against what the events say. An event that
 * moves a hold carries it as it is afterwards, so the last one that names it says what its row must
 * be; and what the active ones have left is what the wallet has held. It remembers every hold of
 * one wallet; of a wallet with more than `LIMITS.verifyHoldsMax` nothing is compared but `held`,
 * which the fold of the wallet does. What differs it also says as changes that would put the rows
 * right. Reads nothing itself.
 */
import type { DifferenceValue, Name } from "./differences.ts";
import type { Hold } from "../core/hold.ts";
import { LIMITS } from "../limits.ts";
import type { EventRow } from "../postgres/events.ts";
import { shardOf } from "../core/shard.ts";

/** A row of `holds`. */
export interface StoredHold extends Hold {
  readonly shard: number;
}

/** What puts one row right; a row that no event tells of has no `hold`. */
export type HoldChange =
  | { readonly type: "inserted" | "corrected"; readonly holdId: string; readonly hold: Hold }
  | { readonly type: "removed"; readonly holdId: string };

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
  /**
   * After the last one: the rows of the wallet's holds, all or more than `LIMITS.verifyHoldsMax`,
   * and what it has held. Returns what would make the rows what the events say; nothing of too
   * many.
   */
  end(rows: readonly StoredHold[], heldMinor: number): HoldChange[];
}

export function auditHolds(walletId: string, name: Name): HoldAudit {
  const told = new Map<string, { hold: Hold; version: number }>();
  let isComplete = true;
  return {
    event({ data, version }) {
      const hold = data?.["hold"] as Hold | undefined;
      if (hold === undefined) return;
      if (told.has(hold.holdId) || told.size < LIMITS.verifyHoldsMax) {
        told.set(hold.holdId, { hold, version });
      } else {
        isComplete = false;
      }
    },
    end(rows, heldMinor) {
      const changes: HoldChange[] = [];
      if (!isComplete || rows.length > LIMITS.verifyHoldsMax) return changes;
      const found = new Map(rows.map((row) => [row.holdId, row]));
      let leftMinor = 0;
      for (const [holdId, { hold, version }] of told) {
        if (hold.status === "ACTIVE") leftMinor += hold.amountMinor - hold.capturedMinor;
        const row = found.get(holdId);
        found.delete(holdId);
        if (row === undefined) {
          const expected = `${hold.status}, ${hold.amountMinor}`;
          name({ kind: "hold_missing", walletId, version, field: holdId, expected });
          changes.push({ type: "inserted", holdId, hold });
          continue;
        }
        const wrong: Array<[string, DifferenceValue, DifferenceValue]> = [];
        for (const [column, key] of FIELDS) {
          const [expected, there]: DifferenceValue[] = [hold[key], row[key]];
          if (there !== expected) wrong.push([column, expected!, there!]);
        }
        // In another shard nobody would see that its time is over.
        const shard = shardOf(walletId);
        if (row.shard !== shard) wrong.push(["shard", shard, row.shard]);
        for (const [column, expected, there] of wrong) {
          const field = `${holdId} ${column}`;
          name({ kind: "hold_row", walletId, version, field, expected, found: there });
        }
        if (wrong.length > 0) changes.push({ type: "corrected", holdId, hold });
      }
      for (const [holdId, { status, amountMinor }] of found) {
        const there = `${status}, ${amountMinor}`;
        name({ kind: "hold_without_events", walletId, field: holdId, found: there });
        changes.push({ type: "removed", holdId });
      }
      if (leftMinor !== heldMinor) {
        name({ kind: "hold_sum", walletId, expected: leftMinor, found: heldMinor });
      }
      return changes;
    },
  };
}
