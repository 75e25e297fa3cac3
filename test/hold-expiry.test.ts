/**
 * The end of a hold whose time is over: when it comes, to whom, how many at once, and what it races
 * with.
 */
import { describe, expect, it } from "vitest";
import type { HoldKey } from "../src/core/journal.ts";
import { LIMITS } from "../src/limits.ts";
import { EVEN, idIn } from "./stage/ids.ts";
import {
  begin,
  database,
  FAILURES,
  gateOf,
  holdRow,
  money,
  ONE_LANE,
  order,
  passTime,
  place,
  restage,
  restart,
  said,
  stage,
  TWO_HOSTS,
  useLaneStage,
} from "./stage/lane.ts";
import {
  capture,
  commandOf,
  creation,
  credit,
  debit,
  placing,
  release,
  repeated,
  transfer,
} from "./stage/staged-commands.ts";
import { onlyOutcome, summaryOf, withLimits } from "./stage/lanes.ts";

useLaneStage("hold_expiry_test", TWO_HOSTS);

// --- Expiry --------------------------------------------------------------------------------------

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
    await restart();
    await passTime(4_900);
    expect(await holdRow(placed)).toBe("ACTIVE 0");
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
    expect(await holdRow(placed)).toBe("EXPIRED 0");
    expect(stage.nowMs - startedAtMs).toBeLessThan(2_000);
    // Nobody else was woken
    expect(calls.loadWallets).toBe(1);
  });

  it("comes before anything is decided, when a host whose clock is behind takes over", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60", 600_000);
    // Given a host whose clock is ahead, which writes a later time, and dies before it has expired
    stage.lane("a").clockOffMs = 3_600_000;
    await begin(credit(walletId, "1"));
    stage.kill("a");
    // When another one takes over, by whose clock the hold has minutes left
    await stage.replace("a", "host-3");
    await passTime(1_000);
    expect(await holdRow(placed)).toBe("ACTIVE 0");
    // Then the money is there for the first who wants it
    expect(await said(debit(walletId, "100"))).toBe("done 5");
    expect(await holdRow(placed)).toBe("EXPIRED 0");
    expect(await money(walletId)).toBe("1 0");
  });

  it("comes portion by portion when many are over as the wallet wakes", async () => {
    withLimits({ holdsDueMax: 2 });
    const walletId = await stage.open("a", "100");
    for (let nth = 0; nth < 3; nth++) await place(walletId, "10", 600_000);
    stage.lane("a").clockOffMs = 3_600_000;
    await begin(credit(walletId, "1"));
    stage.kill("a");
    await stage.replace("a", "host-3");
    await passTime(1_000);
    await begin(credit(walletId, "1"));
    const statuses = async (): Promise<string[]> => {
      const sql = "SELECT status FROM holds WHERE wallet_id = $1 ORDER BY status";
      const rows = await database.query<{ status: string }>(sql, [walletId]);
      return rows.map(({ status }) => status);
    };
    expect(await statuses()).toEqual(["ACTIVE", "EXPIRED", "EXPIRED"]);
    await passTime(LIMITS.actorSweepMs * 2);
    expect(await statuses()).toEqual(["EXPIRED", "EXPIRED", "EXPIRED"]);
  });

  it("comes to a wallet at work when its host's clock was ahead for a moment", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60", 600_000);
    const { lane } = stage.lane("a");
    stage.lane("a").clockOffMs = 3_600_000;
    await begin(credit(walletId, "1"));
    stage.lane("a").clockOffMs = 0;
    for (let ms = 0; ms < LIMITS.actorSweepMs + 1_000; ms += 1_000) {
      await passTime(1_000);
      await said(credit(walletId, "1"));
    }
    expect(lane.stats().actors).toBe(1);
    expect(await holdRow(placed)).toBe("EXPIRED 0");
  });

  it("comes to a wallet at work also on a host whose clock is behind the time that it waits by", async () => {
    // Given a hold that is over by its wallet's clock, and has an hour left by its host's
    const host = stage.lane("a");
    host.clockOffMs = -3_600_000;
    const walletId = await stage.open("a", "100");
    const { holdId } = await place(walletId, "60", -3_000_000);
    host.clockOffMs = 0;
    await begin(credit(walletId, "1"));
    host.clockOffMs = -3_600_000;
    // When it goes on
    await passTime(LIMITS.actorSweepMs + 1_000);
    expect(host.lane.stats().actors).toBe(1);
    expect(await holdRow({ walletId, holdId })).toBe("EXPIRED 0");
  });

  it("goes by the wall clock of its host, wherever that stands beside the time that it waits by", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60", 3_600_000);
    stage.lane("a").clockOffMs = 3_590_000;
    await passTime(5_000);
    expect(await holdRow(placed)).toBe("ACTIVE 0");
    stage.lane("a").clockOffMs = 3_600_000;
    await passTime(1_000);
    expect(await holdRow(placed)).toBe("EXPIRED 0");
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

  it("reaches all that are due behind more than a portion of those that cannot end now", async () => {
    withLimits({ holdsDueMax: 5 });
    // Given a wallet whose row is damaged and has more due holds than a portion, before and after
    // another one's by shard
    const ids = [...EVEN.slice(0, 1), ...EVEN.slice(-1)].map((shard) => idIn([shard]));
    const damaged: string[] = [];
    for (const walletId of ids) {
      await stage.perform(commandOf(walletId, creation("100")));
      for (let n = 0; n < 7; n++) await place(walletId, "1", 1_000);
      damaged.push(walletId);
    }
    const walletId = idIn(EVEN.slice(1, -1));
    await stage.perform(commandOf(walletId, creation("100")));
    const placed = await place(walletId, "60", 2_000);
    await restart();
    const held = await database.query("SELECT wallet_id, held FROM wallets");
    await database.query("UPDATE wallets SET held = 0 WHERE wallet_id = ANY ($1)", [damaged]);

    // Then that one's ends in time, again and again after the others were met, and looks do not
    // follow each other without end
    await passTime(4_000);
    expect(await lateness(placed)).toBeLessThan(2_000);
    const before = stage.lane("a").calls.loadDueHolds;
    const next = await place(walletId, "60", 1_000);
    await passTime(3_000);
    expect(await lateness(next)).toBeLessThan(2_000);
    const looks = stage.lane("a").calls.loadDueHolds - before;
    expect(looks).toBeLessThanOrEqual((3_000 / LIMITS.holdExpiryMs + 1) * (14 / 5 + 2));

    // And the others end when their rows are right again
    for (const row of held as Array<{ wallet_id: string; held: number }>) {
      if (!damaged.includes(row.wallet_id)) continue;
      const { wallet_id: id, held: minor } = row;
      await database.query("UPDATE wallets SET held = $2 WHERE wallet_id = $1", [id, minor]);
    }
    await passTime(LIMITS.damagePauseMs + 2_000);
    for (const id of damaged) expect(await money(id)).toBe("100 0");
  });

  it("race: of two lanes that believe to own the shard one writes the end, once", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60", 500);
    const old = stage.lane("a");
    await stage.add({ name: "c", owner: "host-3", shards: EVEN });
    await passTime(2_000);
    expect(old.lost.length).toBeGreaterThan(0);
    expect(await holdRow(placed)).toBe("EXPIRED 0");
    const sql = "SELECT version FROM events WHERE wallet_id = $1 AND type = 'HoldExpired'";
    expect(await database.query(sql, [walletId])).toEqual([{ version: 3 }]);
  });

  it("goes on after a look into the database has failed", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60", 500);
    const { hooks } = stage.lane("a");
    hooks.loadDueHolds = () => Promise.reject(new Error("away"));
    await passTime(2_000);
    expect(await holdRow(placed)).toBe("ACTIVE 0");
    delete hooks.loadDueHolds;
    await passTime(1_000);
    expect(await holdRow(placed)).toBe("EXPIRED 0");
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
    // Time passes while the database has the commit and has not answered: the hold is due in its
    // table
    stage.nowMs += 2_000;
    const { lane, shards } = stage.lane("a");
    lane.tick(stage.nowMs, shards, stage.nowMs);
    await expect.poll(() => stage.lane("a").calls.loadDueHolds).toBe(1);
    goOn();
    delete hooks.append;
    await stage.quiet();
    await passTime(1_000);
    expect(asked!.outcomes.map(summaryOf)).toEqual(["done 3"]);
    expect([await money(walletId), await holdRow(placed)]).toEqual(["40 0", "CAPTURED 60"]);
  });
});

// --- Holds in the way ----------------------------------------------------------------------------

describe("a hold whose time is over and that nobody has ended yet", () => {
  /** A wallet with 100.00, of which each amount is under a hold that has been over for a while. */
  async function withOver(...amounts: string[]): Promise<{ walletId: string; over: HoldKey[] }> {
    // Given a lane whose looks for what is due find nothing, as if thousands were before these
    stage.lane("a").hooks.loadDueHolds = () => Promise.resolve([]);
    const walletId = await stage.open("a", "100");
    const over: HoldKey[] = [];
    for (const amount of amounts) over.push(await place(walletId, amount, 1_000));
    await passTime(1_500);
    expect(await statusesOf(walletId)).toEqual(amounts.map(() => "ACTIVE"));
    return { walletId, over };
  }

  async function statusesOf(walletId: string): Promise<string[]> {
    const sql = "SELECT status FROM holds WHERE wallet_id = $1 ORDER BY amount";
    const rows = await database.query<{ status: string }>(sql, [walletId]);
    return rows.map(({ status }) => status);
  }

  it("is ended for who wants its money, and a repeat gets the same answer", async () => {
    const { walletId, over } = await withOver("60");
    const command = debit(walletId, "100");
    expect(await said(command)).toBe("done 4");
    expect([await money(walletId), await holdRow(over[0]!)]).toEqual(["0 0", "EXPIRED 0"]);
    const again = stage.sendAs(repeated(command), { attempt: 2 });
    await stage.settle();
    expect(summaryOf(onlyOutcome(again))).toBe("replayed 4");
    const sql = "SELECT type, command_id AS id FROM events WHERE wallet_id = $1 AND version > 2";
    expect(await database.query(`${sql} ORDER BY version`, [walletId])).toEqual([
      { type: "HoldExpired", id: null },
      { type: "WalletDebited", id: command.commandId },
    ]);
  });

  it.each(["a", "b"])("is ended for a transfer to a wallet of lane %s", async (lane) => {
    const { walletId } = await withOver("60");
    const toWalletId = await stage.open(lane, null);
    expect(await said(transfer(walletId, toWalletId, "70"))).toBe("posted");
    expect([await money(walletId), await money(toWalletId)]).toEqual(["30 0", "70 0"]);
  });

  it("is ended for a transfer that is one commit", async () => {
    await restage(ONE_LANE, true);
    const { walletId } = await withOver("60");
    const toWalletId = await stage.open("a", null);
    expect(await said(transfer(walletId, toWalletId, "70"))).toBe("posted");
    expect([await money(walletId), await money(toWalletId)]).toEqual(["30 0", "70 0"]);
  });

  it("is ended for another hold, of its money and where there may be no more", async () => {
    const { walletId } = await withOver("60");
    expect(await said(placing(walletId, "100"))).toBe("done 4");
    withLimits({ holdsPerWalletMax: 1 });
    const full = await withOver("60");
    expect(await said(placing(full.walletId, "1"))).toBe("done 4");
    expect(await money(full.walletId)).toBe("100 1");
  });

  it("is ended only where it is in the way, the largest first", async () => {
    const { walletId } = await withOver("1", "10", "20", "30");
    expect(await said(debit(walletId, "39"))).toBe("done 6");
    expect(await said(debit(walletId, "100"))).toBe("insufficient_funds");
    expect(await statusesOf(walletId)).toEqual(["ACTIVE", "ACTIVE", "ACTIVE", "ACTIVE"]);
    expect(await said(debit(walletId, "45"))).toBe("done 9");
    expect(await statusesOf(walletId)).toEqual(["ACTIVE", "ACTIVE", "EXPIRED", "EXPIRED"]);
    expect(await money(walletId)).toBe("16 11");
  });

  it("leaves a wallet as full as it is", async () => {
    const { walletId } = await withOver("60");
    expect(summaryOf(await order(walletId, "close"))).toBe("wallet_not_empty");
    expect(await money(walletId)).toBe("100 60");
  });

  it("is ended for a dry run, which is told what the command is told after it", async () => {
    const { walletId } = await withOver("60");
    const tried = await stage.perform({ ...debit(walletId, "100"), dryRun: true });
    expect(tried).toMatchObject({ wallet: { version: 4, balanceMinor: 0, heldMinor: 0 } });
    expect(await money(walletId)).toBe("100 0");
    expect(await said(debit(walletId, "100"))).toBe("done 4");
  });

  it("is an event between the expected version and the command", async () => {
    const { walletId } = await withOver("60");
    const command = { ...debit(walletId, "100"), expectedVersion: 2 };
    expect(await said(command)).toBe("version_conflict");
    expect(await said({ ...debit(walletId, "100"), expectedVersion: 3 })).toBe("done 4");
  });

  it("stays where its wallet is, for who goes by a clock that is behind", async () => {
    const walletId = await stage.open("a", "100");
    await place(walletId, "60", 1_000);
    await passTime(900);
    expect(await said(debit(walletId, "100"))).toBe("insufficient_funds");
    expect(await money(walletId)).toBe("100 60");
  });

  it.each(FAILURES)("race: and ends once when the commit is %s", async (fate) => {
    const { walletId, over } = await withOver("60");
    const gate = gateOf();
    const [asked] = await begin(debit(walletId, "100"));
    await gate.pass(fate);
    await gate.open();
    await stage.settle();
    expect(summaryOf(onlyOutcome(asked!))).toMatch(/^(done|replayed) 4$/);
    expect([await money(walletId), await holdRow(over[0]!)]).toEqual(["0 0", "EXPIRED 0"]);
  });

  it("race: and whose last capture is in a commit under way gives nothing", async () => {
    stage.lane("a").hooks.loadDueHolds = () => Promise.resolve([]);
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60", 1_000);
    const gate = gateOf();
    const [captured] = await begin(capture(placed, null));
    stage.nowMs += 2_000;
    const [asked] = await begin(debit(walletId, "41"));
    await gate.open();
    await stage.settle();
    expect(summaryOf(onlyOutcome(captured!))).toBe("done 3");
    expect(summaryOf(onlyOutcome(asked!))).toBe("insufficient_funds");
    expect([await money(walletId), await holdRow(placed)]).toEqual(["40 0", "CAPTURED 60"]);
  });

  it("race: is captured and released by nobody behind it, in the same commit", async () => {
    const { walletId, over } = await withOver("30", "60");
    const asked = await begin(
      debit(walletId, "70"),
      capture(over[1]!, "1"),
      release(over[1]!),
      capture(over[0]!, "1"),
    );
    await stage.settle();
    const not = "hold_not_active";
    expect(asked.map((one) => summaryOf(onlyOutcome(one)))).toEqual(["done 5", not, not, not]);
    expect(await money(walletId)).toBe("30 30");
  });

  it("is ended with thousands of others in one commit, and others wait behind that", async () => {
    withLimits({ commitMessagesMax: 100 });
    stage.lane("a").hooks.loadDueHolds = () => Promise.resolve([]);
    const walletId = await stage.open("a", "20");
    const expiresAtMs = stage.nowMs + 1_000_000;
    stage.send(...Array.from({ length: 2_000 }, () => placing(walletId, "0.01", { expiresAtMs })));
    await stage.settle();
    stage.nowMs = expiresAtMs;
    let eventsMost = 0;
    stage.lane("a").hooks.append = (writes, apply) => {
      eventsMost = Math.max(eventsMost, writes.events.length);
      return apply();
    };
    const asked = await begin(debit(walletId, "20"), credit(walletId, "1"));
    await stage.settle();
    expect(asked.map((one) => summaryOf(onlyOutcome(one)))).toEqual(["done 4002", "done 4003"]);
    expect(eventsMost).toBe(2_001);
    expect(await money(walletId)).toBe("1 0");
  });
});
