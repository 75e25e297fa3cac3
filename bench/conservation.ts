/**
 * The check after a benchmark, from outside: no money was lost or made, and nothing that was
 * acknowledged is missing. The wallets are read back over HTTP. A generator is cut off at the end
 * of its time with requests under way, so of what it sent between `acknowledged` and `acknowledged
 * + undecided` must be there, and never less. Balances tell credits; as each event raises its
 * wallet's version by one, versions tell transfers, which leave the sum of balances as it was.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Client } from "pg";
import type { Measurement } from "./generators.ts";
import {
  CREDIT_AMOUNT,
  HOT_WALLET,
  INITIAL_BALANCE,
  PAYER_WALLET,
  TRANSFER_AMOUNT,
  type Traffic,
} from "./shapes.ts";
import { formatWhole } from "./statistics.ts";
import { readWallets, type Server, type WalletState } from "./wallet-api.ts";

/** Between how many and how many of one kind of operation must have happened. */
export interface Bounds {
  acknowledged: number;
  /** Sent without an answer: cut off at the end of a run, broken off, or answered with an error. */
  undecided: number;
}

export type TrafficKind =
  | "uniform credits"
  | "hot credits"
  | "uniform transfers"
  | "payer transfers";
export type Ledger = Record<TrafficKind, Bounds>;

/** Money in transit at the end of a run has this long to arrive. */
const SETTLE_MS_MAX = 30_000;
const READ_CONNECTIONS = 16;

export function emptyLedger(): Ledger {
  const none = (): Bounds => ({ acknowledged: 0, undecided: 0 });
  return {
    "uniform credits": none(),
    "hot credits": none(),
    "uniform transfers": none(),
    "payer transfers": none(),
  };
}

/** Keeps what one measurement of Coffer, or its warm-up, did. */
export function keep(
  ledger: Ledger,
  traffic: Traffic,
  connections: number,
  measurement: Measurement,
): void {
  const kind: TrafficKind =
    traffic.type === "credit" ? `${traffic.to} credits` : `${traffic.from} transfers`;
  const bounds = ledger[kind];
  bounds.acknowledged += measurement.answers - measurement.refused;
  bounds.undecided += connections + measurement.refused + measurement.faults;
}

export interface Verdict {
  ok: boolean;
  lines: string[];
}

/**
 * `ids` are all wallets, each with the same starting balance: version 1 at the start, since that is
 * a credit.
 */
export async function checkCoffer(
  server: Server,
  ids: readonly string[],
  database: Client,
  ledger: Ledger,
): Promise<Verdict> {
  const deadlineMs = Date.now() + SETTLE_MS_MAX;
  for (;;) {
    const states = await readWallets(server, READ_CONNECTIONS, ids);
    const verdict = judgeWallets(ids, states, ledger);
    const books = await checkBooks(database);
    if ((verdict.ok && books.ok) || Date.now() > deadlineMs) {
      return { ok: verdict.ok && books.ok, lines: [...verdict.lines, ...books.lines] };
    }
    await sleep(1_000);
  }
}

/** Compares what wallets hold with what was sent. Pure; `states` in the order of `ids`. */
export function judgeWallets(
  ids: readonly string[],
  states: readonly WalletState[],
  ledger: Ledger,
): Verdict {
  const creditMinor = Math.round(CREDIT_AMOUNT * 100);
  const transferMinor = Math.round(TRANSFER_AMOUNT * 100);
  let gainedMinor = 0;
  let eventCount = 0;
  for (const state of states) {
    gainedMinor += state.balanceMinor - INITIAL_BALANCE * 100;
    eventCount += state.version - 1;
  }
  const hot = states[ids.indexOf(HOT_WALLET)];
  const payer = states[ids.indexOf(PAYER_WALLET)];
  const hotCredits = ((hot?.balanceMinor ?? Number.NaN) - INITIAL_BALANCE * 100) / creditMinor;
  const payerTransfers =
    (INITIAL_BALANCE * 100 - (payer?.balanceMinor ?? Number.NaN)) / transferMinor;
  const credits = gainedMinor / creditMinor;
  const found: Record<TrafficKind, number> = {
    "uniform credits": credits - hotCredits,
    "hot credits": hotCredits,
    // A credit is one event, a transfer is one at each of its two wallets.
    "uniform transfers": (eventCount - credits) / 2 - payerTransfers,
    "payer transfers": payerTransfers,
  };
  const kinds = Object.entries(ledger) as [TrafficKind, Bounds][];
  const verdicts = kinds.map(([kind, bounds]) => ({ kind, bounds, count: found[kind] }));
  const isWithin = ({ bounds, count }: (typeof verdicts)[number]) =>
    Number.isInteger(count) &&
    count >= bounds.acknowledged &&
    count <= bounds.acknowledged + bounds.undecided;
  return {
    ok: verdicts.every(isWithin),
    lines: verdicts.map((one) => {
      const { acknowledged, undecided } = one.bounds;
      return (
        `${isWithin(one) ? "OK    " : "BROKEN"} ${one.kind}: ${formatWhole(acknowledged)} acknowledged, ` +
        `${Number.isInteger(one.count) ? formatWhole(one.count) : one.count} in the wallets, ` +
        `at most ${formatWhole(acknowledged + undecided)} sent`
      );
    }),
  };
}

/**
 * Coffer's own books, in its database: wallets count there by their balances and system accounts by
 * their events, so that the two check each other. All accounts must add up to zero, and nothing may
 * be left in transit.
 */
async function checkBooks(database: Client): Promise<Verdict> {
  const { rows } = await database.query<{ account: string; balance: string }>(
    "SELECT account, sum(balance)::text AS balance FROM trial_balance GROUP BY account",
  );
  const sumMinor = rows.reduce((sum, row) => sum + BigInt(row.balance), 0n);
  const transitMinor = BigInt(rows.find((row) => row.account === "system:transit")?.balance ?? "0");
  const ok = rows.length > 0 && sumMinor === 0n && transitMinor === 0n;
  const line = `all accounts add up to ${sumMinor}, in transit ${transitMinor}`;
  return { ok, lines: [`${ok ? "OK    " : "BROKEN"} books: ${line}`] };
}
