/**
 * What must hold in the databases themselves once the faults are over, whoever was told what: holds
 * whose time is over have ended by themselves, and the reconciliation finds no difference: folds,
 * hash chains, contiguous positions, holds, transfers and totals.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { verify } from "../../src/verify/verify.ts";
import { query } from "../cluster/local-cluster.ts";

/** From a hold's time, or from the end of the faults, until it is written that it has expired. */
const EXPIRY_MS_MAX = 5_000;
const lookMs = 50;
/** Holds that end later are for another day. */
const soonMs = 60_000;

interface HoldRow {
  readonly wallet_id: string;
  readonly hold_id: string;
  readonly expires_ms: number;
}

/** Waits for the last one; names those that are late. */
export async function checkExpiry(
  databaseUrls: readonly string[],
  mendedAtMs: number,
): Promise<string[]> {
  for (;;) {
    const rows = await Promise.all(
      databaseUrls.map((url) =>
        query<HoldRow>(
          url,
          `SELECT wallet_id, hold_id, extract(epoch FROM expires_at)::float8 * 1000 AS expires_ms
           FROM holds WHERE status = 'ACTIVE' AND expires_at < to_timestamp($1::float8 / 1000)`,
          [Date.now() + soonMs],
        ),
      ),
    );
    const open = rows.flat();
    const nowMs = Date.now();
    const late = open.filter(
      ({ expires_ms }) => nowMs > Math.max(expires_ms, mendedAtMs) + EXPIRY_MS_MAX,
    );
    if (late.length > 0 || open.length === 0) {
      return late.map(
        ({ wallet_id, hold_id, expires_ms }) =>
          `hold ${hold_id} of ${wallet_id} is active ${Math.round(nowMs - expires_ms)} ms after its time`,
      );
    }
    await sleep(lookMs);
  }
}

export async function checkVerified(databaseUrls: readonly string[]): Promise<string[]> {
  const { differences, warnings, named } = await verify({ databaseUrls });
  const count = differences + warnings;
  return count === 0 ? [] : [`verify found ${count}:`, ...named.map(({ text }) => text)];
}
