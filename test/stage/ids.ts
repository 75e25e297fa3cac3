/**
 * Names for what a test makes: new ones in each call, the same ones in each run of a test file. So
 * its tests can share a database, and its wallets live in the same shards every time. What has to
 * be told from things of a file that runs beside it, on the same server, needs a word more.
 */
import { ALL_SHARDS, shardOf } from "../../src/core/shard.ts";

export const EVEN = ALL_SHARDS.filter((shard) => shard % 2 === 0);
export const ODD = ALL_SHARDS.filter((shard) => shard % 2 === 1);

let lastNumber = 0;

/**
 * Before each file: its wallets live in the same shards whatever has run before it in the process.
 */
export function restartNumbers(): void {
  lastNumber = 0;
}

/** Different in every call of a test file. */
export function unique(prefix: string): string {
  lastNumber += 1;
  return `${prefix}-${lastNumber}`;
}

/** An unused wallet id in one of the shards. */
export function idIn(shards: readonly number[]): string {
  for (;;) {
    const walletId = unique("w");
    if (shards.includes(shardOf(walletId))) return walletId;
  }
}
