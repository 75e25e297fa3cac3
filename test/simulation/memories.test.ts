/** The audit of what lanes remember: which answers of a wallet it believes, and which it tells of. */
import { expect, test } from "vitest";
import { amountMinor, ZERO } from "../../src/core/amount.ts";
import type { Outcome } from "../../src/core/protocol.ts";
import { apply, type WalletState } from "../../src/core/wallet.ts";
import { CREATED } from "../stage/journal-drafts.ts";
import { commandOf } from "../stage/staged-commands.ts";
import { buildRecorder } from "./history.ts";
import { checkMemories } from "./memories.ts";
import { buildScheduler } from "./scheduler.ts";
import { buildTables } from "./tables.ts";

const EMPTY = apply("w1", null, CREATED);
const FULL = { ...EMPTY, balanceMinor: amountMinor(500), heldMinor: amountMinor(200) };
const RICH = { ...EMPTY, balanceMinor: amountMinor(500) };
const CLOSED = { ...EMPTY, status: "CLOSED" } as const;

const DONE: Outcome = { type: "done", wallet: CLOSED };

/** That it is not empty. */
function full(balance: number, held: number, pending = 0): Outcome {
  const [balanceMinor, heldMinor] = [amountMinor(balance), amountMinor(held)];
  const pendingMinor = pending === 0 ? ZERO : amountMinor(pending);
  const content = { balanceMinor, heldMinor, pendingMinor, currency: "USD", decimalPlaces: 2 };
  const rejection = { code: "wallet_not_empty", walletId: "w1", ...content } as const;
  return { type: "rejected", rejection, replayed: false };
}

function notActive(status: WalletState["status"]): Outcome {
  const rejection = { code: "wallet_not_active", walletId: "w1", status } as const;
  return { type: "rejected", rejection, replayed: false };
}

/** What is said of wallets that the journal has, and that answer so when they are asked. */
async function saidOfAll(
  wallets: Map<string, WalletState>,
  ask: (walletId: string) => readonly Outcome[],
): Promise<string[]> {
  const history = buildRecorder(() => 0);
  return await checkMemories({
    scheduler: buildScheduler(1),
    databases: [{ tables: { ...buildTables(), wallets } }],
    bank: {
      isDone: true,
      rehearse(walletId, body) {
        const entry = history.sent(commandOf(walletId, body, { dryRun: true }));
        for (const outcome of ask(walletId)) history.answered(entry, outcome);
        return entry;
      },
    },
  });
}

/** Of one wallet. */
function saidOf(wallet: WalletState, ...outcomes: readonly Outcome[]): Promise<string[]> {
  return saidOfAll(new Map([["w1", wallet]]), () => outcomes);
}

test.each<[string, WalletState, Outcome]>([
  ["an empty wallet could close", EMPTY, DONE],
  ["a wallet with money could not", FULL, full(500, 200)],
  ["a closed one is not active", CLOSED, notActive("CLOSED")],
])("it is as it should be that %s", async (_, wallet, outcome) => {
  expect(await saidOf(wallet, outcome)).toEqual([]);
});

test.each<[string, WalletState, Outcome]>([
  ["cannot be asked", EMPTY, { type: "fault", fault: "unavailable" }],
  ["could close with money", RICH, DONE],
  ["could close again", CLOSED, DONE],
  ["remembers another balance", FULL, full(600, 200)],
  ["remembers another hold", FULL, full(500, 100)],
  ["remembers a transfer that is over", EMPTY, full(0, 0, 300)],
  ["takes itself for closed", EMPTY, notActive("CLOSED")],
])("it is told of a wallet that %s", async (_, wallet, outcome) => {
  expect(await saidOf(wallet, outcome)).toEqual([expect.stringContaining("says of its end")]);
});

test("it is told of a wallet that says nothing, and of the last that one has said", async () => {
  const told = [expect.stringContaining("says of its end")];
  expect(await saidOf(EMPTY)).toEqual(told);
  expect(await saidOf(FULL, full(500, 200), full(600, 200))).toEqual(told);
  expect(await saidOf(FULL, full(600, 200), full(500, 200))).toEqual([]);
});

test.each([200, 0])("a hold may expire while its wallet is asked: %i held", async (held) => {
  const wallets = new Map<string, WalletState>([["w1", FULL]]);
  const said = await saidOfAll(wallets, () => {
    wallets.set("w1", RICH);
    return [full(500, held)];
  });
  expect(said).toEqual([]);
});

test("those are asked that have had the most to do", async () => {
  const wallets = Array.from({ length: 100 }, (_, index) => {
    return { ...EMPTY, walletId: `w${index}`, version: index };
  });
  const asked: string[] = [];
  await saidOfAll(new Map(wallets.map((each) => [each.walletId, each])), (walletId) => {
    asked.push(walletId);
    return [DONE];
  });
  expect(asked[0]).toBe("w99");
  expect(asked.length).toBeLessThan(100);
  expect(asked).toEqual(asked.map((_, index) => `w${99 - index}`));
});
