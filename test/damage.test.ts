/**
 * Rows that somebody has changed or removed past Coffer, under work that a lane takes up by itself
 * at every start: one damaged wallet must not take its lane down for all others. No money moves on
 * what cannot be, the log says which wallet waits, and once its rows are rebuilt, everything goes
 * on as if nothing had happened.
 */
import { describe, expect, it } from "vitest";
import type { Hold } from "../src/core/hold.ts";
import { LIMITS } from "../src/limits.ts";
import { rebuildWallet } from "../src/verify/rebuild.ts";
import { shardOf } from "../src/core/shard.ts";
import { verify } from "../src/verify/verify.ts";
import { EVEN, idIn } from "./stage/ids.ts";
import {
  database,
  holdRow,
  money,
  order,
  passTime,
  place,
  restart,
  said,
  sendHeld,
  stage,
  TWO_HOSTS,
  useLaneStage,
} from "./stage/lane.ts";
import { capture, credit, release, repeated } from "./stage/staged-commands.ts";
import { onlyOutcome, summaryOf } from "./stage/lanes.ts";

useLaneStage("damage_test", TWO_HOSTS);

/** What the lane has told of the wallet, once for each time that it has met it anew. */
function told(walletId: string): string[] {
  return stage.log.filter((line) => line.startsWith(`a error: wallet ${walletId} is damaged`));
}

async function expectOthersServed(others: string): Promise<void> {
  expect(await said(credit(others, "1"))).toMatch(/^done/);
  expect(stage.lane("a").lane.stats()).toMatchObject({ serving: true, damagedWallets: 1 });
}

/** Mends the rows, as `npm run verify -- --rebuild` does, and lets the lane take up what waits. */
async function mend(walletId: string): Promise<void> {
  expect((await verify({ databaseUrls: [database.url], walletId })).differences).toBeGreaterThan(0);
  expect(await rebuildWallet(database.url, walletId)).toMatchObject({ type: "rebuilt" });
  await passTime(LIMITS.transferDriveMsMax);
  await stage.settle();
  expect((await verify({ databaseUrls: [database.url], walletId })).differences).toBe(0);
  await passTime(LIMITS.damageMs);
  expect(stage.lane("a").lane.stats().damagedWallets).toBe(0);
}

async function statusOf(walletId: string): Promise<object[]> {
  return await database.query("SELECT status FROM transfers WHERE from_wallet = $1", [walletId]);
}

describe("a capture to a wallet that waits for its verdict", () => {
  interface Waiting {
    readonly payer: string;
    readonly others: string;
    readonly placed: Hold;
    readonly command: ReturnType<typeof capture>;
  }

  /** The payer's lane has ended, the verdict is on its way, and somebody has damaged the payer. */
  async function damaged(isFinal: boolean, sql: string): Promise<Waiting> {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const others = await stage.open("a", "100");
    const placed = await place(payer, "60");
    const command = capture(placed, "25", { final: isFinal, toWalletId: payee });
    await sendHeld(command, "post");
    if (!isFinal) await order(payee, "suspend");
    await database.query(sql, [payer]);
    await restart();
    await stage.release();
    return { payer, others, placed, command };
  }

  const NO_HOLD = "DELETE FROM holds WHERE wallet_id = $1";
  it.each([
    ["refused, its hold's row gone", false, NO_HOLD],
    ["posted and final, its hold's row gone", true, NO_HOLD],
    ["refused, its wallet's row gone", false, "DELETE FROM wallets WHERE wallet_id = $1"],
    ["posted and final, its wallet's row gone", true, "DELETE FROM wallets WHERE wallet_id = $1"],
    [
      "refused, more of its hold captured than it says",
      false,
      "UPDATE holds SET captured = 100 WHERE wallet_id = $1",
    ],
    [
      "posted and final, with less held than its hold has left",
      true,
      "UPDATE wallets SET held = 1 WHERE wallet_id = $1",
    ],
  ])("%s, is settled when it is mended, and not before", async (_, isFinal, sql) => {
    const { payer, others, placed, command } = await damaged(isFinal, sql);

    // Then it stays pending at each start, and the others are served
    for (let start = 1; start <= 2; start++) {
      await passTime(3_000);
      expect(await statusOf(payer)).toEqual([{ status: "pending" }]);
      expect(told(payer)).toHaveLength(start);
      expect(told(payer)[0]).toContain(`npm run verify -- --wallet ${payer}`);
      await expectOthersServed(others);
      await restart();
    }
    const events = await database.query("SELECT FROM events WHERE wallet_id = $1", [payer]);
    expect(events).toHaveLength(4);

    // And once it is mended, it ends as it would have
    await mend(payer);
    expect(await money(payer)).toBe(isFinal ? "75 0" : "100 60");
    expect(await holdRow(placed)).toBe(isFinal ? "CAPTURED 25" : "ACTIVE 0");
    const again = stage.sendAs(repeated(command), { attempt: 2 });
    await stage.settle();
    expect(summaryOf(onlyOutcome(again))).toBe("replayed 3");
  });
});

describe("a hold whose time is over", () => {
  it("of a wallet of which nothing else is there is told with a way that leads somewhere", async () => {
    const [walletId, others] = [idIn(EVEN), await stage.open("a", "100")];
    await database.query(
      `INSERT INTO holds (wallet_id, hold_id, shard, amount, captured, status, kind, created_at, expires_at)
       VALUES ($1, 'h1', $2, 5, 0, 'ACTIVE', 'OTHER', 'epoch', 'epoch')`,
      [walletId, shardOf(walletId)],
    );
    await passTime(3_000);
    expect(told(walletId)).toEqual([
      expect.stringContaining(
        `npm run verify -- --wallet ${walletId} --rebuild mends it, or says what to do`,
      ),
    ]);
    await expectOthersServed(others);
    await database.query("DELETE FROM holds WHERE wallet_id = $1", [walletId]);
  });

  it.each([
    ["with less held than it has left", "UPDATE wallets SET held = 1 WHERE wallet_id = $1"],
    ["with nothing held", "UPDATE wallets SET held = 0 WHERE wallet_id = $1"],
    ["whose wallet's row is gone", "DELETE FROM wallets WHERE wallet_id = $1"],
    [
      "whose wallet's row is older than its events",
      `UPDATE wallets w SET version = e.version, balance = e.balance, held = e.held, hash = e.hash, updated_at = e.occurred_at
       FROM events e WHERE w.wallet_id = $1 AND e.wallet_id = w.wallet_id AND e.version = 2`,
    ],
  ])("%s, expires when it is mended, and not before", async (_, sql) => {
    const [walletId, others] = [await stage.open("a", "100"), await stage.open("a", "100")];
    const placed = await place(walletId, "60", 5_000);
    await stage.perform(credit(walletId, "5"));
    stage.kill("a");
    await database.query(sql, [walletId]);
    stage.nowMs += 10_000;
    await stage.replace("a");

    await passTime(3_000);
    expect(await holdRow(placed)).toBe("ACTIVE 0");
    expect(told(walletId)).toHaveLength(1);
    await expectOthersServed(others);

    await mend(walletId);
    expect(await holdRow(placed)).toBe("EXPIRED 0");
    expect(await money(walletId)).toBe("105 0");
  });
});

describe("a command to a damaged wallet", () => {
  it.each(["release", "capture"] as const)(
    "to %s a hold of which less is held than it has left, has done nothing",
    async (type) => {
      const [walletId, others] = [await stage.open("a", "100"), await stage.open("a", "100")];
      const placed = await place(walletId, "60");
      await database.query("UPDATE wallets SET held = 1 WHERE wallet_id = $1", [walletId]);
      await restart();
      const command = type === "release" ? release(placed) : capture(placed, null);
      expect(await stage.perform(command)).toEqual({ type: "fault", fault: "unavailable" });
      expect(told(walletId)).toHaveLength(1);
      await expectOthersServed(others);
      await mend(walletId);
      expect(await said(command)).toBe("done 3");
    },
  );
});
