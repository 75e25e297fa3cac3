/**
 * The stage of every test that looks at lanes from close by: lanes of one host or two on a real
 * database, with the words that the tests say over and over: a gate that holds commits, messages
 * that are held back or lost, and what the database has of wallets, holds and transfers. Each test
 * file has its own database. After each test time runs until all is quiet, and the books must be in
 * order: nothing in transit, every transfer settled, every history whole.
 */
import { afterAll, afterEach, beforeAll, beforeEach, expect } from "vitest";
import type { Hold } from "../../src/core/hold.ts";
import type { AppendResult, HoldKey, Writes } from "../../src/core/journal.ts";
import { LIMITS } from "../../src/limits.ts";
import type { Command, Outcome, ShardMessage } from "../../src/core/protocol.ts";
import { ALL_SHARDS } from "../../src/core/shard.ts";
import { checkBooks, openDatabase, type TestDatabase } from "./audited-database.ts";
import { EVEN, idIn, ODD } from "./ids.ts";
import { commandOf, creation, placing } from "./staged-commands.ts";
import {
  stageLanes,
  summaryOf,
  type Asked,
  type LanePlan,
  type Stage,
  type StagedLane,
} from "./lanes.ts";

export let database: TestDatabase;
export let stage: Stage;

export const ONE_LANE: LanePlan[] = [{ name: "a", owner: "host-1", shards: ALL_SHARDS }];
export const TWO_LANES: LanePlan[] = [
  { name: "a", owner: "host-1", shards: EVEN },
  { name: "b", owner: "host-1", shards: ODD },
];
/** A payer lives in lane a, a payee in lane b of another host. */
export const TWO_HOSTS: LanePlan[] = [
  { name: "a", owner: "host-1", shards: EVEN },
  { name: "b", owner: "host-2", shards: ODD },
];

/**
 * Sets the stage for each test of a file, on a database of its own.
 *
 * @param shortcut `LaneDeps.shortcut`
 */
export function useLaneStage(
  databaseName: string,
  lanes: readonly LanePlan[],
  shortcut = false,
): void {
  beforeAll(async () => {
    database = await openDatabase(databaseName);
  });

  afterAll(() => database.close());

  beforeEach(async () => {
    stage = await stageLanes({ databaseUrl: database.url, lanes, shortcut });
  });

  afterEach(async () => {
    try {
      for (const { hooks } of stage.living()) {
        delete hooks.append;
        delete hooks.claim;
        delete hooks.loadWallets;
        delete hooks.loadCreated;
      }
      pass();
      await stage.release();
      await stage.settle();
      const open = stage.living().filter(({ openBatches }) => openBatches > 0);
      expect(open.map(({ name }) => name)).toEqual([]);
      await checkBooks(database);
    } finally {
      await stage.close();
    }
  });
}

/** Another stage for the rest of a test. */
export async function restage(lanes: readonly LanePlan[], shortcut = false): Promise<void> {
  await stage.close();
  stage = await stageLanes({ databaseUrl: database.url, lanes, shortcut });
}

/** A lane forgets everything, as after a crash. */
export async function restart(name = "a"): Promise<void> {
  await stage.replace(name);
}

export async function passTime(ms: number): Promise<void> {
  for (let left = ms; left > 0; left -= LIMITS.laneTickMs) await stage.tick();
}

// --- Commands and what is said to them -----------------------------------------------------------

/** Sends and lets the lane decide; the answers may come later. */
export async function begin(...commands: Command[]): Promise<Asked[]> {
  const asked = stage.send(...commands);
  await stage.quiet();
  return asked;
}

export function summaries(asked: readonly Asked[]): string[] {
  return asked.map((one) => summaryOf(one.outcomes[0]));
}

export async function said(command: Command): Promise<string> {
  return summaryOf(await stage.perform(command));
}

export function order(walletId: string, type: "suspend" | "activate" | "close"): Promise<Outcome> {
  return stage.perform(commandOf(walletId, { type }));
}

/** Two wallets of lane a, awake. */
export async function openTwo(): Promise<[payer: string, payee: string]> {
  return [await stage.open("a", "100"), await stage.open("a", "1")];
}

/** A wallet in one of the shards. */
export async function openIn(shards: readonly number[], balance: string): Promise<string> {
  const walletId = idIn(shards);
  expect(summaryOf(await stage.perform(commandOf(walletId, creation(balance))))).toBe("done 1");
  return walletId;
}

/** Places a hold, by default one that never expires. */
export async function place(walletId: string, amount: string, expiresInMs?: number): Promise<Hold> {
  const expiresAtMs = expiresInMs === undefined ? null : stage.nowMs + expiresInMs;
  const outcome = await stage.perform(placing(walletId, amount, { expiresAtMs }));
  if (outcome.type !== "done") throw new Error(`not placed: ${JSON.stringify(outcome)}`);
  return outcome.hold!;
}

export function transferIdOf({ body }: Command): string {
  if (body.type !== "transfer") throw new Error(`${body.type} is no transfer`);
  return body.transferId;
}

// --- Messages between lanes ----------------------------------------------------------------------

export function hold(type: ShardMessage["type"]): void {
  stage.wire = (message) => (message.type === type ? "hold" : "pass");
}

export function drop(type: ShardMessage["type"]): void {
  stage.wire = (message) => (message.type === type ? "drop" : "pass");
}

export function pass(): void {
  stage.wire = () => "pass";
}

/** Sends a command whose messages of this type are held back. */
export async function sendHeld(command: Command, type: ShardMessage["type"]): Promise<Asked> {
  hold(type);
  const [asked] = await begin(command);
  expect(asked!.outcomes).toEqual([]);
  pass();
  return asked!;
}

// --- Commits that wait for the test --------------------------------------------------------------

type Fate = "committed" | "refused" | "stale" | "unknown, written" | "unknown, not written";

export const FAILURES: Fate[] = ["refused", "stale", "unknown, written", "unknown, not written"];

interface Gate {
  /** The commits that wait now, oldest first. */
  readonly waiting: Writes[];
  /** Lets the oldest one meet its fate, and waits until all is quiet. */
  pass(fate: Fate): Promise<void>;
  /** Opens for good. */
  open(): Promise<void>;
}

/** Holds every commit of the lane. */
export function gateOf({ hooks }: StagedLane = stage.lane("a")): Gate {
  const waiting: Array<{ writes: Writes; meet: (fate: Fate) => void }> = [];
  hooks.append = (writes, apply) =>
    new Promise((resolve, reject) => {
      const meet = (fate: Fate): void => void become(fate, apply).then(resolve, reject);
      waiting.push({ writes, meet });
    });
  return {
    get waiting() {
      return waiting.map(({ writes }) => writes);
    },
    async pass(fate) {
      waiting.shift()!.meet(fate);
      await stage.quiet();
    },
    async open() {
      delete hooks.append;
      for (const { meet } of waiting.splice(0)) meet("committed");
      await stage.quiet();
    },
  };
}

async function become(fate: Fate, apply: () => Promise<AppendResult>): Promise<AppendResult> {
  const reason = "staged";
  switch (fate) {
    case "committed":
      return await apply();
    case "refused":
    case "stale":
      return { type: fate, reason };
    case "unknown, written":
      expect(await apply()).toEqual({ type: "committed" });
      return { type: "unknown", reason };
    case "unknown, not written":
      return { type: "unknown", reason };
    default:
      return fate satisfies never;
  }
}

// --- What the database has -----------------------------------------------------------------------

export async function balances(...walletIds: string[]): Promise<number[]> {
  const rows = await database.query<{ balance: number }>(
    `SELECT balance / 100.0 AS balance FROM unnest($1::text[]) WITH ORDINALITY ids(wallet_id, n)
     JOIN wallets USING (wallet_id) ORDER BY n`,
    [walletIds],
  );
  return rows.map(({ balance }) => balance);
}

/** Balance, and how many events the commands made. */
export async function bookOf(walletId: string, commands: readonly Command[] = []): Promise<object> {
  const [balance] = await balances(walletId);
  const ids = commands.map(({ commandId }) => commandId);
  const events = await database.query("SELECT FROM events WHERE command_id = ANY ($1)", [ids]);
  return { balance, events: events.length };
}

/** `balance held` of a wallet. */
export async function money(walletId: string): Promise<string> {
  const sql = "SELECT balance, held FROM wallets WHERE wallet_id = $1";
  const [row] = await database.query<{ balance: number; held: number }>(sql, [walletId]);
  return `${row!.balance / 100} ${row!.held / 100}`;
}

/** `status captured` of a hold. */
export async function holdRow({ walletId, holdId }: HoldKey): Promise<string> {
  const sql = "SELECT status, captured FROM holds WHERE wallet_id = $1 AND hold_id = $2";
  const [row] = await database.query<{ status: string; captured: number }>(sql, [walletId, holdId]);
  return `${row!.status} ${row!.captured / 100}`;
}

export async function transferRow(transferId: string): Promise<object | undefined> {
  const [row] = await database.query(
    "SELECT status, rejection FROM transfers WHERE transfer_id = $1",
    [transferId],
  );
  return row;
}

/** In how many commits a transfer is written: by the shortcut, and by the protocol. */
export const BY_SHORTCUT = 1;
export const BY_PROTOCOL = 3;

/** In how many commits the rows of a transfer were written. */
export async function commitsOf(command: Command): Promise<number> {
  const { body } = command;
  const transferId = body.type === "capture" ? body.to!.transferId : transferIdOf(command);
  const rows = await database.query(
    `SELECT xmin::text FROM events WHERE transfer_id = $1 UNION SELECT xmin::text FROM transfers WHERE transfer_id = $1
     UNION SELECT xmin::text FROM transfer_verdicts WHERE transfer_id = $1`,
    [transferId],
  );
  return rows.length;
}
