/**
 * The stage of the hold tests: payers in one lane, payees in another one's, on a real database, and
 * the words that the tests say over and over. Each test file has its own database; after each test
 * time runs until all is quiet, and the books must be in order.
 */
import { afterAll, afterEach, beforeAll, beforeEach, expect } from "vitest";
import type { Hold } from "../src/hold.ts";
import type { HoldKey } from "../src/journal.ts";
import { LIMITS } from "../src/limits.ts";
import type { Command, Outcome, ShardMessage } from "../src/protocol.ts";
import {
  checkBooks,
  commandOf,
  EVEN,
  ODD,
  openDatabase,
  placing,
  stageLanes,
  summaryOf,
  type Asked,
  type LanePlan,
  type Stage,
  type TestDatabase,
} from "./staging.ts";

export let database: TestDatabase;
export let stage: Stage;

/** A payer lives in lane a, a payee in lane b of another host. */
const LANES: LanePlan[] = [
  { name: "a", owner: "host-1", shards: EVEN },
  { name: "b", owner: "host-2", shards: ODD },
];

// --- What the tests say over and over ------------------------------------------------------------

/** Places a hold, by default one that never expires. */
export async function place(walletId: string, amount: string, expiresInMs?: number): Promise<Hold> {
  const expiresAtMs = expiresInMs === undefined ? null : stage.nowMs + expiresInMs;
  const outcome = await stage.perform(placing(walletId, amount, { expiresAtMs }));
  if (outcome.type !== "done") throw new Error(`not placed: ${JSON.stringify(outcome)}`);
  return outcome.hold!;
}

/** `balance held` of a wallet, as the database has it. */
export async function money(walletId: string): Promise<string> {
  const sql = "SELECT balance, held FROM wallets WHERE wallet_id = $1";
  const [row] = await database.query<{ balance: number; held: number }>(sql, [walletId]);
  return `${row!.balance / 100} ${row!.held / 100}`;
}

/** `status captured` of a hold, as the database has it. */
export async function rowOf({ walletId, holdId }: HoldKey): Promise<string> {
  const sql = "SELECT status, captured FROM holds WHERE wallet_id = $1 AND hold_id = $2";
  const [row] = await database.query<{ status: string; captured: number }>(sql, [walletId, holdId]);
  return `${row!.status} ${row!.captured / 100}`;
}

export function order(walletId: string, type: "suspend" | "activate" | "close"): Promise<Outcome> {
  return stage.perform(commandOf(walletId, { type }));
}

export async function said(command: Command): Promise<string> {
  return summaryOf(await stage.perform(command));
}

export function hold(type: ShardMessage["type"]): void {
  stage.wire = (message) => (message.type === type ? "hold" : "pass");
}

/** Sends a command whose messages of this type are held back. */
export async function sendHeld(command: Command, type: ShardMessage["type"]): Promise<Asked> {
  hold(type);
  const [asked] = stage.send(command);
  await stage.quiet();
  expect(asked!.outcomes).toEqual([]);
  stage.wire = () => "pass";
  return asked!;
}

/** A lane forgets everything, as after a crash. */
export async function sleep(name = "a"): Promise<void> {
  await stage.replace(name);
}

export async function passTime(ms: number): Promise<void> {
  for (let left = ms; left > 0; left -= LIMITS.laneTickMs) await stage.tick();
}

/** Sets the stage for each test of a file, on a database of its own. */
export function useHoldStage(databaseName: string): void {
  beforeAll(async () => {
    database = await openDatabase(databaseName);
  });

  afterAll(() => database.close());

  beforeEach(async () => {
    stage = await stageLanes({ databaseUrl: database.url, lanes: LANES });
  });

  afterEach(async () => {
    try {
      stage.wire = () => "pass";
      await stage.release();
      await stage.settle();
      await checkBooks(database);
    } finally {
      await stage.close();
    }
  });
}
