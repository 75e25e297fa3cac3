/**
 * The stage of the lane tests: one lane on a real database, and a gate before it that holds a
 * commit, refuses it, or makes it and says that nobody knows. Each test file has its own database;
 * after each test the books must be in order.
 */
import { afterAll, afterEach, beforeAll, beforeEach, expect } from "vitest";
import type { AppendResult, Writes } from "../src/journal.ts";
import type { Command } from "../src/protocol.ts";
import { ALL_SHARDS } from "../src/shard.ts";
import {
  checkBooks,
  openDatabase,
  stageLanes,
  summaryOf,
  type Asked,
  type Stage,
  type StagedLane,
  type TestDatabase,
} from "./staging.ts";

export let database: TestDatabase;
export let stage: Stage;

/** Another stage for the rest of a test. */
export async function restage(options: Parameters<typeof stageLanes>[0]): Promise<void> {
  await stage.close();
  stage = await stageLanes(options);
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

/** Sends and lets the lane decide; the commit waits at the gate. */
export async function begin(...commands: Command[]): Promise<Asked[]> {
  const asked = stage.send(...commands);
  await stage.quiet();
  return asked;
}

export function summaries(asked: readonly Asked[]): string[] {
  return asked.map((one) => summaryOf(one.outcomes[0]));
}

/** Balance, and how many events the commands made. */
export async function bookOf(walletId: string, commands: readonly Command[] = []): Promise<object> {
  const [row] = await database.query<{ balance: number; version: number }>(
    "SELECT balance / 100.0 AS balance, version FROM wallets WHERE wallet_id = $1",
    [walletId],
  );
  const ids = commands.map(({ commandId }) => commandId);
  const events = await database.query("SELECT FROM events WHERE command_id = ANY ($1)", [ids]);
  return { balance: row!.balance, events: events.length };
}

/** Sets the stage for each test of a file, on a database of its own. */
export function useLaneStage(databaseName: string): void {
  beforeAll(async () => {
    database = await openDatabase(databaseName);
  });

  afterAll(async () => {
    await database.close();
  });

  beforeEach(async () => {
    const lanes = [{ name: "a", owner: "host-1", shards: ALL_SHARDS }];
    stage = await stageLanes({ databaseUrl: database.url, lanes });
  });

  afterEach(async () => {
    try {
      for (const { hooks } of stage.living()) {
        delete hooks.append;
        delete hooks.claim;
        delete hooks.loadWallets;
        delete hooks.loadCreated;
      }
      await stage.settle();
      await checkBooks(database);
    } finally {
      await stage.close();
    }
  });
}
