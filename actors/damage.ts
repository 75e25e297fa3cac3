/**
 * Wallets whose rows cannot be: somebody has changed or removed one past Coffer, and what they say
 * together breaks a rule that every commit keeps. What would have to be decided on them is not
 * decided, so no money moves: a caller is told that nothing happened, a transfer stays pending and
 * a hold active, and both are tried again by whoever drives them. For a while after each such
 * meeting the wallet gets no message at all, since what else is decided on wrong rows becomes wrong
 * events. All other wallets of the lane go on. This is not for programmer errors: a step says
 * `Damage` before it has put anything into a commit, and whatever else it throws ends the lane.
 *
 * A lane that was superseded and does not know it meets the same in rows that are right: a wallet
 * as it remembers it, beside a hold that the new owner has changed. So it is believed only with a
 * commit that begins behind it (`awaitProof` in `deciding.ts`), whose fence says that nobody else has
 * written; until then the actor decides nothing (`Actor.mayBeDamaged`).
 *
 *     (none) --met, and believed: told once--> known --not met for `LIMITS.damageMs`--> (none)
 *                                              | ^
 *                                              +-+ met again, and believed
 */
import { LIMITS } from "../src/limits.ts";

/** Nothing was decided for the wallet, and nothing of the message is in a commit. */
export class Damage extends Error {
  readonly walletId: string;
  constructor(walletId: string, reason: string) {
    super(reason);
    this.walletId = walletId;
  }
}

export interface Damages {
  /** Wallets that were met lately and not mended yet, as far as is known here. */
  readonly count: number;
  /** Only once it is known that nobody but this lane writes the wallet's shard. */
  met(damage: Damage, nowMs: number): void;
  /** Whether it was met just now: nothing is decided for it. */
  waits(walletId: string, nowMs: number): boolean;
  /** Forgets what has not been met for a while. */
  tidy(nowMs: number): void;
}

export function buildDamages(tell: (text: string) => void): Damages {
  /** When each was met last. */
  const known = new Map<string, number>();
  return {
    get count() {
      return known.size;
    },
    met({ walletId, message }, nowMs) {
      const isNew = !known.has(walletId);
      if (isNew && known.size >= LIMITS.damagedWalletsMax) return;
      known.set(walletId, nowMs);
      if (!isNew) return;
      tell(
        `wallet ${walletId} is damaged, and waits until it is mended: ${message}; ` +
          `npm run verify -- --wallet ${walletId} --rebuild mends it, or says what to do`,
      );
    },
    waits(walletId, nowMs) {
      const metMs = known.size === 0 ? undefined : known.get(walletId);
      return metMs !== undefined && nowMs - metMs < LIMITS.damagePauseMs;
    },
    tidy(nowMs) {
      if (known.size === 0) return;
      for (const [walletId, metMs] of known) {
        if (nowMs - metMs >= LIMITS.damageMs) known.delete(walletId);
      }
    },
  };
}
