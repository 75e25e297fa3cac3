/**
 * Holds on a real database: what the races are in which people lose money elsewhere, each staged. Captures meet captures, releases and
 * the end of a hold's time; lanes die around captures that pay other wallets; holds expire while everybody sleeps, after a restart, and
 * by the hundreds after an outage. After each test time runs until all is quiet, and the books must be in order, with `held` the sum
 * of what active holds have left.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { Hold } from "../src/hold.ts";
import type { AppendResult, HoldKey, Writes } from "../src/journal.ts";
import { LIMITS } from "../src/limits.ts";
import type { Command, Outcome, ShardMessage } from "../src/protocol.ts";
import {
  capture,
  checkBooks,
  commandOf,
  credit,
  debit,
  EVEN,
  NEVER,
  ODD,
  onlyOutcome,
  openDatabase,
  placing,
  release,
  repeated,
  stageLanes,
  summaryOf,
  withLimits,
  type Asked,
  type LanePlan,
  type Stage,
  type TestDatabase,
} from "./staging.ts";

let database: TestDatabase;
let stage: Stage;

/** A payer lives in lane a, a payee in lane b of another host. */
const LANES: LanePlan[] = [
  { name: "a", owner: "host-1", shards: EVEN },
  { name: "b", owner: "host-2", shards: ODD },
];

beforeAll(async () => {
  database = await openDatabase("holds_test");
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

// --- What the tests say over and over ---------------------------------------------------------------------------------------

/** Places a hold, by default one that never expires. */
async function place(walletId: string, amount: string, expiresInMs?: number): Promise<Hold> {
  const expiresAtMs = expiresInMs === undefined ? null : stage.nowMs + expiresInMs;
  const outcome = await stage.perform(placing(walletId, amount, { expiresAtMs }));
  if (outcome.type !== "done") throw new Error(`not placed: ${JSON.stringify(outcome)}`);
  return outcome.hold!;
}

/** `balance held` of a wallet, as the database has it. */
async function money(walletId: string): Promise<string> {
  const sql = "SELECT balance, held FROM wallets WHERE wallet_id = $1";
  const [row] = await database.query<{ balance: number; held: number }>(sql, [walletId]);
  return `${row!.balance / 100} ${row!.held / 100}`;
}

/** `status captured` of a hold, as the database has it. */
async function rowOf({ walletId, holdId }: HoldKey): Promise<string> {
  const sql = "SELECT status, captured FROM holds WHERE wallet_id = $1 AND hold_id = $2";
  const [row] = await database.query<{ status: string; captured: number }>(sql, [walletId, holdId]);
  return `${row!.status} ${row!.captured / 100}`;
}

function order(walletId: string, type: "suspend" | "activate" | "close"): Promise<Outcome> {
  return stage.perform(commandOf(walletId, { type }));
}

async function said(command: Command): Promise<string> {
  return summaryOf(await stage.perform(command));
}

function hold(type: ShardMessage["type"]): void {
  stage.wire = (message) => (message.type === type ? "hold" : "pass");
}

/** Sends a command whose messages of this type are held back. */
async function sendHeld(command: Command, type: ShardMessage["type"]): Promise<Asked> {
  hold(type);
  const [asked] = stage.send(command);
  await stage.quiet();
  expect(asked!.outcomes).toEqual([]);
  stage.wire = () => "pass";
  return asked!;
}

/** A lane forgets everything, as after a crash. */
async function sleep(name = "a"): Promise<void> {
  await stage.replace(name);
}

async function passTime(ms: number): Promise<void> {
  for (let left = ms; left > 0; left -= LIMITS.laneTickMs) await stage.tick();
}

// --- One wallet --------------------------------------------------------------------------------------------------------------

describe("a hold", () => {
  it("sets money aside, is captured in parts, and ends with the last of them", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60");
    expect(await money(walletId)).toBe("100 60");
    expect(await said(debit(walletId, "40.01"))).toBe("insufficient_funds");
    expect(await said(capture(placed, "25"))).toBe("done 3");
    expect(await money(walletId)).toBe("75 35");
    expect(await said(capture(placed, "35.01"))).toBe("capture_exceeds_hold");
    const last = await stage.perform(capture(placed, null));
    expect(last).toMatchObject({ hold: { status: "CAPTURED", capturedMinor: 60_00 } });
    expect([await money(walletId), await rowOf(placed)]).toEqual(["40 0", "CAPTURED 60"]);
  });

  it("keeps its state over a restart, which costs one read", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60");
    await stage.perform(capture(placed, "25"));
    await sleep();
    expect(await said(capture(placed, "35.01"))).toBe("capture_exceeds_hold");
    expect(await said(capture(placed, "5", { final: true }))).toBe("done 4");
    expect([await money(walletId), await rowOf(placed)]).toEqual(["70 0", "CAPTURED 30"]);
    expect(stage.lane("a").calls).toMatchObject({ loadWallets: 1, loadHolds: 0 });
  });

  it("that has ended, or never was, is looked up once for all who name it, and holds nobody else up", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60");
    await stage.perform(release(placed));
    await stage.tick();
    const { hooks, calls } = stage.lane("a");
    let goOn = (): void => undefined;
    const stopped = new Promise<void>((resolve) => (goOn = resolve));
    hooks.loadHolds = async (load) => {
      await stopped;
      return load();
    };
    const missing = { walletId, holdId: "nothing" };
    const asked = stage.send(
      capture(placed, "1"),
      release(placed),
      capture(placed, null),
      release(missing),
      credit(walletId, "1"),
    );
    await expect.poll(() => asked.at(-1)!.outcomes.length).toBe(1);
    expect(asked.flatMap(({ outcomes }) => outcomes.map(summaryOf))).toEqual(["done 4"]);
    goOn();
    await stage.quiet();
    expect(asked.slice(0, 4).map((one) => summaryOf(onlyOutcome(one)))).toEqual([
      "hold_not_active",
      "hold_not_active",
      "hold_not_active",
      "hold_not_found",
    ]);
    expect(calls.loadHolds).toBe(1);
  });

  it("of another wallet is not found", async () => {
    const [one, two] = [await stage.open("a", "100"), await stage.open("a", "100")];
    const { holdId } = await place(one, "60");
    expect(await said(capture({ walletId: two, holdId }, null))).toBe("hold_not_found");
    expect(await money(one)).toBe("100 60");
  });

  it("is read at once after a look-up failed", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60");
    await stage.perform(release(placed));
    await stage.tick();
    const { hooks } = stage.lane("a");
    hooks.loadHolds = () => Promise.reject(new Error("away"));
    const [asked] = stage.send(release(placed));
    await stage.quiet();
    expect(asked!.outcomes).toEqual([]);
    delete hooks.loadHolds;
    await stage.tick();
    expect(summaryOf(onlyOutcome(asked!))).toBe("hold_not_active");
  });

  it("is bounded in number", async () => {
    withLimits({ holdsPerWalletMax: 2 });
    const walletId = await stage.open("a", "100");
    const first = await place(walletId, "1");
    await place(walletId, "1");
    expect(await said(placing(walletId, "1"))).toBe("too_many_holds");
    await sleep();
    expect(await said(placing(walletId, "1"))).toBe("too_many_holds");
    await stage.perform(release(first));
    expect(await said(placing(walletId, "1"))).toBe("done 5");
  });
});

describe("a wallet with holds", () => {
  it("when suspended, lets them be released and expire, and places and captures none", async () => {
    const walletId = await stage.open("a", "100");
    const [one, two] = [await place(walletId, "10"), await place(walletId, "20", 1_000)];
    await order(walletId, "suspend");
    expect(await said(placing(walletId, "1"))).toBe("wallet_not_active");
    expect(await said(capture(one, "1"))).toBe("wallet_not_active");
    expect(await said(capture(one, "1", { toWalletId: stage.idIn("b") }))).toBe(
      "wallet_not_active",
    );
    expect(await said(release(one))).toBe("done 5");
    await passTime(2_000);
    expect([await money(walletId), await rowOf(two)]).toEqual(["100 0", "EXPIRED 0"]);
  });

  it("is not closed before they have ended", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "100");
    expect(await order(walletId, "close")).toMatchObject({
      rejection: { code: "wallet_not_empty", balanceMinor: 100_00, heldMinor: 100_00 },
    });
    await stage.perform(capture(placed, null));
    expect(summaryOf(await order(walletId, "close"))).toBe("done 4");
    expect(await said(release(placed))).toBe("wallet_not_active");
  });
});

// --- Races ---------------------------------------------------------------------------------------------------------------------

describe("race", () => {
  it("double capture: of two captures of everything one is carried out", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60");
    const asked = stage.send(capture(placed, null), capture(placed, null));
    await stage.quiet();
    expect(asked.map((one) => summaryOf(onlyOutcome(one)))).toEqual(["done 3", "hold_not_active"]);
    expect(await money(walletId)).toBe("40 0");
  });

  it("double capture: the same key twice is one capture, at once, later, and after a restart", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60");
    const command = capture(placed, "20");
    const asked = [...stage.send(command), stage.sendAs(repeated(command), { attempt: 2 })];
    await stage.quiet();
    await sleep();
    asked.push(stage.sendAs(repeated(command), { attempt: 2 }));
    await stage.quiet();
    const answers = asked.map((one) => summaryOf(onlyOutcome(one)));
    expect(answers).toEqual(["done 3", "replayed 3", "replayed 3"]);
    expect(await money(walletId)).toBe("80 40");
  });

  it("double capture: a capture of everything and its repeat, when the hold is no longer in memory", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60");
    const command = capture(placed, null);
    await stage.perform(command);
    await sleep();
    const again = stage.sendAs(repeated(command), { attempt: 2 });
    await stage.quiet();
    expect(summaryOf(onlyOutcome(again))).toBe("replayed 3");
    expect(await money(walletId)).toBe("40 0");
  });

  it("capture against release: whoever comes second finds the hold ended", async () => {
    const walletId = await stage.open("a", "100");
    const [one, two] = [await place(walletId, "30"), await place(walletId, "30")];
    const asked = stage.send(capture(one, null), release(one), release(two), capture(two, null));
    await stage.quiet();
    const [done, late] = [/^done/, "hold_not_active"];
    const wanted = [done, late, done, late].map((each) => expect.stringMatching(each) as string);
    expect(asked.map((each) => summaryOf(onlyOutcome(each)))).toEqual(wanted);
    expect(await money(walletId)).toBe("70 0");
  });

  it("capture against expiry: a millisecond decides, though nobody has written the end yet", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60", 300);
    stage.lane("a").hooks.loadDueHolds = () => Promise.resolve([]);
    await stage.tick(299);
    expect(await said(capture(placed, "10"))).toBe("done 3");
    await stage.tick(1);
    expect(await said(capture(placed, "10"))).toBe("hold_not_active");
    expect(await said(release(placed))).toBe("hold_not_active");
    expect(await rowOf(placed)).toBe("ACTIVE 10");
    delete stage.lane("a").hooks.loadDueHolds;
    await passTime(1_000);
    expect([await money(walletId), await rowOf(placed)]).toEqual(["90 0", "EXPIRED 10"]);
  });

  it("oversold balance: holds and debits together never take more than there is", async () => {
    const walletId = await stage.open("a", "100");
    const commands = Array.from({ length: 20 }, (_, n) =>
      n % 2 === 0 ? placing(walletId, "15") : debit(walletId, "15"),
    );
    const asked = stage.send(...commands);
    await stage.quiet();
    const done = asked.filter((one) => onlyOutcome(one).type === "done");
    expect(done).toHaveLength(6);
    expect(await money(walletId)).toBe("55 45");
  });

  it("a rejected hold does not count", async () => {
    const walletId = await stage.open("a", "100");
    expect(await said(placing(walletId, "100.01"))).toBe("insufficient_funds");
    expect(await said(placing(walletId, "10", { expiresAtMs: stage.nowMs }))).toBe(
      "invalid_expiry",
    );
    expect(await money(walletId)).toBe("100 0");
    expect(await said(placing(walletId, "100"))).toBe("done 2");
  });

  it("a hold whose commit the database refused does not count until it is made again", async () => {
    const walletId = await stage.open("a", "100");
    const { hooks } = stage.lane("a");
    const refused: AppendResult = { type: "refused", reason: "disk full" };
    hooks.append = () => Promise.resolve(refused);
    const asked = stage.sendAs(placing(walletId, "60"), { budgetMs: 3_000 });
    await stage.quiet();
    await passTime(3_000);
    expect(summaryOf(onlyOutcome(asked))).toBe("unavailable");
    delete hooks.append;
    await passTime(2_000);
    expect(await said(placing(walletId, "100"))).toBe("done 2");
  });

  it.each([true, false])(
    "a capture whose commit got lost (%s: it was written) counts once",
    async (isWritten) => {
      const walletId = await stage.open("a", "100");
      const placed = await place(walletId, "60");
      const { hooks } = stage.lane("a");
      hooks.append = async (_writes, apply) => {
        delete hooks.append;
        if (isWritten) await apply();
        return { type: "unknown", reason: "connection lost" };
      };
      const asked = stage.send(capture(placed, null), capture(placed, null));
      await stage.quiet();
      await passTime(1_000);
      const answers = asked.map((one) => summaryOf(onlyOutcome(one)));
      expect(answers).toEqual([isWritten ? "replayed 3" : "done 3", "hold_not_active"]);
      expect(await money(walletId)).toBe("40 0");
    },
  );
});

// --- Expiry ----------------------------------------------------------------------------------------------------------------------

describe("expiry", () => {
  /** Milliseconds by the wallet's clock from the hold's time to its end. */
  async function lateness({ walletId, holdId }: HoldKey): Promise<number> {
    const sql = `SELECT (extract(epoch FROM released_at - expires_at) * 1000)::float8 AS late
                 FROM holds WHERE wallet_id = $1 AND hold_id = $2 AND status = 'EXPIRED'`;
    const [row] = await database.query<{ late: number }>(sql, [walletId, holdId]);
    return row?.late ?? Number.POSITIVE_INFINITY;
  }

  it("comes within 2 s of its time, and not before, to a wallet that nobody touches", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60", 5_000);
    await sleep();
    await passTime(4_900);
    expect(await rowOf(placed)).toBe("ACTIVE 0");
    await passTime(2_000);
    expect(await lateness(placed)).toBeLessThan(2_000);
    expect(await money(walletId)).toBe("100 0");
    expect(stage.changes.at(-1)).toMatchObject({
      type: "HoldExpired",
      amountMinor: null,
      wallet: { walletId, heldMinor: 0, version: 3 },
    });
  });

  it.each([
    ["a restart", undefined],
    ["a take-over", "host-3"],
  ])("comes within 2 s after %s, when its time was meanwhile", async (_what, owner) => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60", 1_000);
    stage.kill("a");
    stage.nowMs += 600_000;
    const startedAtMs = stage.nowMs;
    const { calls } = await stage.replace("a", owner);
    await passTime(500);
    expect(await rowOf(placed)).toBe("EXPIRED 0");
    expect(stage.nowMs - startedAtMs).toBeLessThan(2_000);
    // Nobody else was woken
    expect(calls.loadWallets).toBe(1);
  });

  it("is no flood after an outage: hundreds are worked off portion by portion, with one read at a time", async () => {
    withLimits({ holdsDueMax: 50 });
    const walletIds = await Promise.all(Array.from({ length: 40 }, () => stage.open("a", "100")));
    const commands = Array.from({ length: 400 }, (_, n) =>
      placing(walletIds[n % 40]!, "1", { expiresAtMs: stage.nowMs + 1_000 + n }),
    );
    stage.send(...commands);
    await stage.quiet();
    stage.kill("a");
    stage.nowMs += 3_600_000;
    const successor = await stage.replace("a");
    const { hooks, calls } = successor;
    let [reads, readsMost, eventsMost] = [0, 0, 0];
    hooks.loadDueHolds = async (load) => {
      reads += 1;
      readsMost = Math.max(readsMost, reads);
      const due = await load().finally(() => (reads -= 1));
      expect(due.length).toBeLessThanOrEqual(50);
      return due;
    };
    hooks.append = (writes, apply) => {
      eventsMost = Math.max(eventsMost, writes.events.length);
      return apply();
    };
    await passTime(2_000);
    const sql = "SELECT status, count(*) FROM holds WHERE wallet_id = ANY ($1) GROUP BY status";
    expect(await database.query(sql, [walletIds])).toEqual([{ status: "EXPIRED", count: 400 }]);
    expect(readsMost).toBe(1);
    expect(eventsMost).toBeLessThanOrEqual(50);
    expect(calls.loadDueHolds).toBeLessThan(8 + 1 + 2_000 / LIMITS.holdExpiryMs + 2);
    const extra = await database.query(
      "SELECT FROM events WHERE type = 'HoldExpired' AND wallet_id = ANY ($1)",
      [walletIds],
    );
    expect(extra).toHaveLength(400);
  });

  it("race: of two lanes that believe to own the shard one writes the end, once", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60", 500);
    const old = stage.lane("a");
    await stage.add({ name: "c", owner: "host-3", shards: EVEN });
    await passTime(2_000);
    expect(old.lost.length).toBeGreaterThan(0);
    expect(await rowOf(placed)).toBe("EXPIRED 0");
    const sql = "SELECT version FROM events WHERE wallet_id = $1 AND type = 'HoldExpired'";
    expect(await database.query(sql, [walletId])).toEqual([{ version: 3 }]);
  });

  it("goes on after a look into the database has failed", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60", 500);
    const { hooks } = stage.lane("a");
    hooks.loadDueHolds = () => Promise.reject(new Error("away"));
    await passTime(2_000);
    expect(await rowOf(placed)).toBe("ACTIVE 0");
    delete hooks.loadDueHolds;
    await passTime(1_000);
    expect(await rowOf(placed)).toBe("EXPIRED 0");
  });

  it("race: loses against a capture that is in a commit under way", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60", 1_000);
    const { hooks } = stage.lane("a");
    let goOn = (): void => undefined;
    const stopped = new Promise<void>((resolve) => (goOn = resolve));
    hooks.append = async (_writes, apply) => {
      await stopped;
      return apply();
    };
    const [asked] = stage.send(capture(placed, null));
    // Time passes while the database has the commit and has not answered: the hold is due in its table
    stage.nowMs += 2_000;
    const { lane, shards } = stage.lane("a");
    lane.tick(stage.nowMs, shards);
    await expect.poll(() => stage.lane("a").calls.loadDueHolds).toBe(1);
    goOn();
    delete hooks.append;
    await stage.quiet();
    await passTime(1_000);
    expect(asked!.outcomes.map(summaryOf)).toEqual(["done 3"]);
    expect([await money(walletId), await rowOf(placed)]).toEqual(["40 0", "CAPTURED 60"]);
  });
});

// --- Captures that pay a wallet ------------------------------------------------------------------------------------------------

describe("a capture paid to a wallet", () => {
  it("is a transfer, and answers with the hold as it was when the money left", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const placed = await place(payer, "60");
    const outcome = await stage.perform(capture(placed, "25", { toWalletId: payee }));
    expect(outcome).toMatchObject({
      type: "transferred",
      replayed: false,
      transfer: {
        status: "posted",
        from: { balanceMinor: 75_00, heldMinor: 35_00 },
        to: { balanceMinor: 25_00 },
        hold: { holdId: placed.holdId, status: "ACTIVE", capturedMinor: 25_00 },
      },
    });
    expect(await said(capture(placed, "1", { toWalletId: payer }))).toBe("same_wallet");
  });

  it("leaves no trace when the payee says no to the first question", async () => {
    const payer = await stage.open("a", "100");
    const placed = await place(payer, "60");
    const nobody = stage.idIn("b");
    expect(await said(capture(placed, null, { toWalletId: nobody }))).toBe("wallet_not_found");
    expect([await money(payer), await rowOf(placed)]).toEqual(["100 60", "ACTIVE 0"]);
    expect(await said(capture(placed, null))).toBe("done 3");
  });

  it.each(["suspend", "close"] as const)(
    "goes back under the hold when the payee is made to %s between question and money",
    async (how) => {
      const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
      const placed = await place(payer, "60");
      const asked = await sendHeld(capture(placed, null, { toWalletId: payee }), "post");
      expect([await money(payer), await rowOf(placed)]).toEqual(["40 0", "CAPTURED 60"]);
      await order(payee, how);
      await stage.release();
      expect(summaryOf(onlyOutcome(asked))).toBe("wallet_not_active");
      expect([await money(payer), await rowOf(placed)]).toEqual(["100 60", "ACTIVE 0"]);
      expect(await said(capture(placed, "60"))).toBe("done 5");
    },
  );

  it.each(["restarted", "asleep no more"] as const)(
    "goes back under a hold that is not in memory (%s)",
    async (how) => {
      const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
      const placed = await place(payer, "60");
      await sendHeld(capture(placed, null, { toWalletId: payee }), "post");
      await order(payee, "suspend");
      if (how === "restarted") await sleep();
      else await stage.tick();
      await stage.release();
      await stage.settle();
      expect([await money(payer), await rowOf(placed)]).toEqual(["100 60", "ACTIVE 0"]);
      expect(await said(capture(placed, "60"))).toBe("done 5");
    },
  );

  it.each([
    ["released", 0],
    ["expired", 1_000],
  ] as const)("goes to the wallet when the hold was %s meanwhile", async (how, expiresInMs) => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const placed = await place(payer, "60", how === "expired" ? expiresInMs : undefined);
    await sendHeld(capture(placed, "20", { toWalletId: payee }), "post");
    await order(payee, "suspend");
    hold("post");
    if (how === "released") await stage.perform(release(placed));
    else await passTime(2_000);
    expect(await money(payer)).toBe("80 0");
    stage.wire = () => "pass";
    await stage.release();
    await stage.settle();
    expect([await money(payer), await rowOf(placed)]).toEqual(["100 0", `${how.toUpperCase()} 0`]);
  });

  it("that comes back after the hold's time makes it expire then", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const placed = await place(payer, "60", 1_000);
    await sendHeld(capture(placed, null, { toWalletId: payee }), "post");
    await order(payee, "suspend");
    hold("post");
    await passTime(3_000);
    expect(await rowOf(placed)).toBe("CAPTURED 60");
    stage.wire = () => "pass";
    await stage.release();
    await passTime(1_000);
    expect([await money(payer), await rowOf(placed)]).toEqual(["100 0", "EXPIRED 0"]);
  });

  it("comes back to a suspended wallet, and keeps one open that would be closed", async () => {
    const [payer, payee] = [await stage.open("a", "60"), await stage.open("b", null)];
    const placed = await place(payer, "60");
    await sendHeld(capture(placed, null, { toWalletId: payee }), "post");
    expect(summaryOf(await order(payer, "close"))).toBe("wallet_not_empty");
    await order(payee, "suspend");
    await order(payer, "suspend");
    await stage.release();
    expect([await money(payer), await rowOf(placed)]).toEqual(["60 60", "ACTIVE 0"]);
  });

  it("twice with one key pays once, also when the first is pending and its lane has died", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const placed = await place(payer, "60");
    const command = capture(placed, null, { toWalletId: payee });
    await sendHeld(command, "post");
    await sleep();
    const again = stage.sendAs(repeated(command), { attempt: 2 });
    await stage.quiet();
    await stage.release();
    await stage.settle();
    expect(summaryOf(onlyOutcome(again))).toBe("replayed 3");
    expect([await money(payer), await money(payee)]).toEqual(["40 0", "60 0"]);
  });

  it("race: two at once, both of everything, pay once", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const placed = await place(payer, "60");
    const both = [1, 2].map(() => capture(placed, null, { toWalletId: payee }));
    const asked = stage.send(...both);
    await stage.quiet();
    const answers = asked.map((one) => summaryOf(onlyOutcome(one))).toSorted();
    expect(answers).toEqual(["hold_not_active", "posted"]);
    expect([await money(payer), await money(payee)]).toEqual(["40 0", "60 0"]);
  });
});

describe("a final capture paid to a wallet", () => {
  it("lets the rest go once the payee has the money", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const placed = await place(payer, "60");
    const command = capture(placed, "25", { final: true, toWalletId: payee });
    const asked = await sendHeld(command, "post");
    expect(await money(payer)).toBe("75 35");
    await stage.release();
    expect(summaryOf(onlyOutcome(asked))).toBe("posted");
    expect([await money(payer), await rowOf(placed)]).toEqual(["75 0", "CAPTURED 25"]);
  });

  it("lets nothing go when the payee refuses", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const placed = await place(payer, "60");
    await sendHeld(capture(placed, "25", { final: true, toWalletId: payee }), "post");
    await order(payee, "suspend");
    await stage.release();
    expect([await money(payer), await rowOf(placed)]).toEqual(["100 60", "ACTIVE 0"]);
  });

  it.each(["captured", "released"] as const)(
    "lets nothing go twice when the rest was %s meanwhile",
    async (how) => {
      const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
      const placed = await place(payer, "60");
      await sendHeld(capture(placed, "25", { final: true, toWalletId: payee }), "post");
      await stage.perform(how === "captured" ? capture(placed, null) : release(placed));
      await stage.tick();
      await stage.release();
      await stage.settle();
      const isCaptured = how === "captured";
      expect(await money(payer)).toBe(isCaptured ? "40 0" : "75 0");
      expect(await rowOf(placed)).toBe(isCaptured ? "CAPTURED 60" : "RELEASED 25");
    },
  );

  const settles = (writes: Writes): boolean => writes.settled.length > 0;
  const reserves = (writes: Writes): boolean => writes.transfers.length > 0;
  it.each([
    ["after it has reserved", reserves, true],
    ["before it has settled", settles, false],
    ["after it has settled", settles, true],
  ] as const)("does the same when the payer's lane dies %s", async (_when, isMeant, isWritten) => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const placed = await place(payer, "60");
    const command = capture(placed, "25", { final: true, toWalletId: payee });
    stage.lane("a").hooks.append = async (writes, apply) => {
      if (!isMeant(writes)) return await apply();
      if (isWritten) expect(await apply()).toEqual({ type: "committed" });
      stage.kill("a");
      return await NEVER;
    };
    stage.send(command);
    await stage.quiet();
    await stage.replace("a", "host-3");
    await stage.settle();
    const again = stage.sendAs(repeated(command), { attempt: 2 });
    await stage.settle();
    expect(summaryOf(onlyOutcome(again))).toBe("replayed 3");
    expect([await money(payer), await rowOf(placed)]).toEqual(["75 0", "CAPTURED 25"]);
    expect(await money(payee)).toBe("25 0");
    const sql = "SELECT count(*) FROM events WHERE wallet_id = $1 AND type = 'HoldReleased'";
    expect(await database.query(sql, [payer])).toEqual([{ count: 1 }]);
  });
});
