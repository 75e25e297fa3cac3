/**
 * The audit of what lanes remember: when all is quiet, each wallet is asked by a dry run whether it
 * could close. Its answer tells what its actor believes to have, to hold and to have on the way,
 * and that must be what the journal has, with nothing on the way. A lane that has kept or forgotten
 * something is found here, which nobody would have noticed before the next command.
 */
import type { Outcome } from "../../src/core/protocol.ts";
import type { WalletState } from "../../src/core/wallet.ts";
import type { Bank } from "./bank.ts";
import type { SimulatedDatabase } from "./database.ts";
import type { Scheduler } from "./scheduler.ts";

/** Wallets that are asked: those that have had the most to do. */
const ASKED_MAX = 12;
const WITHIN_MS = 10_000;
const LOOK_MS = 20;

export interface Memories {
  readonly scheduler: Scheduler;
  readonly bank: Pick<Bank, "rehearse" | "isDone">;
  readonly databases: readonly Pick<SimulatedDatabase, "tables">[];
}

/** Returns sentences about what is wrong; none is best. */
export async function checkMemories({ scheduler, bank, databases }: Memories): Promise<string[]> {
  const wallets = databases.flatMap(({ tables }) => [...tables.wallets.values()]);
  const asked = wallets
    .toSorted((one, other) => other.version - one.version)
    .slice(0, ASKED_MAX)
    .map((wallet) => ({ wallet, told: bank.rehearse(wallet.walletId, { type: "close" }) }));
  const untilMs = scheduler.nowMs + WITHIN_MS;
  while (!bank.isDone && scheduler.nowMs < untilMs) await scheduler.run(LOOK_MS);
  return asked.flatMap(({ wallet, told: { answers } }) => {
    const outcome = answers.at(-1)?.outcome;
    // A hold may have expired in between.
    const states = [wallet, ...databases.map(({ tables }) => tables.wallets.get(wallet.walletId))];
    const isSo = states.some((state) => state && outcome && isTrue(state, outcome));
    return isSo ? [] : [`${JSON.stringify(wallet)} says of its end: ${JSON.stringify(outcome)}`];
  });
}

function isTrue({ status, balanceMinor, heldMinor }: WalletState, outcome: Outcome): boolean {
  if (outcome.type === "done") return status !== "CLOSED" && balanceMinor + heldMinor === 0;
  if (outcome.type !== "rejected") return false;
  const { rejection } = outcome;
  if (rejection.code === "wallet_not_active") return status === "CLOSED";
  return (
    rejection.code === "wallet_not_empty" &&
    rejection.balanceMinor === balanceMinor &&
    rejection.heldMinor === heldMinor &&
    rejection.pendingMinor === 0
  );
}
