/**
 * The stage of the transfer tests: payer and payee in lanes of two hosts on a real database,
 * messages between them that the test holds or drops, and the words that the tests say over and
 * over. Each test file has its own database. After each test time runs until all is quiet, and the
 * books must be in order: nothing in transit, every transfer settled, every history whole.
 */
import { afterAll, afterEach, beforeAll, beforeEach, expect } from "vitest";
import type { Command, Outcome, ShardMessage } from "../src/protocol.ts";
import { ALL_SHARDS } from "../src/shard.ts";
import {
  checkBooks,
  commandOf,
  EVEN,
  ODD,
  openDatabase,
  stageLanes,
  type Asked,
  type LanePlan,
  type Stage,
  type TestDatabase,
} from "./staging.ts";

export let database: TestDatabase;
export let stage: Stage;

export const ONE_LANE: LanePlan[] = [{ name: "a", owner: "host-1", shards: ALL_SHARDS }];
export const TWO_LANES: LanePlan[] = [
  { name: "a", owner: "host-1", shards: EVEN },
  { name: "b", owner: "host-1", shards: ODD },
];
export const TWO_HOSTS: LanePlan[] = [
  { name: "a", owner: "host-1", shards: EVEN },
  { name: "b", owner: "host-2", shards: ODD },
];

/** @param shortcut `LaneDeps.shortcut` */
export async function restage(lanes: LanePlan[], shortcut = false): Promise<void> {
  await stage.close();
  stage = await stageLanes({ databaseUrl: database.url, lanes, shortcut });
}

// --- What the tests say over and over ------------------------------------------------------------

export async function balances(...walletIds: string[]): Promise<string> {
  const rows = await database.query<{ balance: number }>(
    `SELECT balance FROM unnest($1::text[]) WITH ORDINALITY ids(wallet_id, n) JOIN wallets USING (wallet_id) ORDER BY n`,
    [walletIds],
  );
  return rows.map(({ balance }) => (balance / 100).toFixed(2)).join(" ");
}

export function hold(type: ShardMessage["type"]): void {
  stage.wire = (message) => (message.type === type ? "hold" : "pass");
}

export function drop(type: ShardMessage["type"]): void {
  stage.wire = (message) => (message.type === type ? "drop" : "pass");
}

export function pass(): void {
  stage.wire = () => "pass";
}

export function order(walletId: string, type: "suspend" | "activate" | "close"): Promise<Outcome> {
  return stage.perform(commandOf(walletId, { type }));
}

export async function sendHeld(command: Command, type: ShardMessage["type"]): Promise<Asked> {
  hold(type);
  const [asked] = stage.send(command);
  await stage.quiet();
  expect(asked!.outcomes).toEqual([]);
  pass();
  return asked!;
}

export async function transferRow(transferId: string): Promise<object | undefined> {
  const [row] = await database.query(
    "SELECT status, rejection FROM transfers WHERE transfer_id = $1",
    [transferId],
  );
  return row;
}

export function transferIdOf({ body }: Command): string {
  if (body.type !== "transfer") throw new Error(`${body.type} is no transfer`);
  return body.transferId;
}

/** Sets the stage for each test of a file, on a database of its own. */
export function useTransferStage(databaseName: string): void {
  beforeAll(async () => {
    database = await openDatabase(databaseName);
  });

  afterAll(async () => {
    await database.close();
  });

  /** By default the payer lives in lane a, the payee in lane b of another host. */
  beforeEach(async () => {
    stage = await stageLanes({ databaseUrl: database.url, lanes: TWO_HOSTS });
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
