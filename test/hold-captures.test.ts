/**
 * Captures that pay a wallet: each is a transfer, which may be refused, come back late, or come
 * twice, while its hold moves on.
 */
import { describe, expect, it } from "vitest";
import type { Writes } from "../src/core/journal.ts";
import {
  database,
  hold,
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
import { capture, release, repeated } from "./stage/staged-commands.ts";
import { NEVER, onlyOutcome, summaryOf } from "./stage/lanes.ts";

useLaneStage("hold_captures_test", TWO_HOSTS);

// --- Captures that pay a wallet ------------------------------------------------------------------

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
    expect([await money(payer), await holdRow(placed)]).toEqual(["100 60", "ACTIVE 0"]);
    expect(await said(capture(placed, null))).toBe("done 3");
  });

  it.each(["suspend", "close"] as const)(
    "goes back under the hold when the payee is made to %s between question and money",
    async (how) => {
      const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
      const placed = await place(payer, "60");
      const asked = await sendHeld(capture(placed, null, { toWalletId: payee }), "post");
      expect([await money(payer), await holdRow(placed)]).toEqual(["40 0", "CAPTURED 60"]);
      await order(payee, how);
      await stage.release();
      expect(summaryOf(onlyOutcome(asked))).toBe("wallet_not_active");
      expect([await money(payer), await holdRow(placed)]).toEqual(["100 60", "ACTIVE 0"]);
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
      if (how === "restarted") await restart();
      else await stage.tick();
      await stage.release();
      await stage.settle();
      expect([await money(payer), await holdRow(placed)]).toEqual(["100 60", "ACTIVE 0"]);
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
    expect([await money(payer), await holdRow(placed)]).toEqual([
      "100 0",
      `${how.toUpperCase()} 0`,
    ]);
  });

  it("that comes back after the hold's time makes it expire then", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const placed = await place(payer, "60", 1_000);
    await sendHeld(capture(placed, null, { toWalletId: payee }), "post");
    await order(payee, "suspend");
    hold("post");
    await passTime(3_000);
    expect(await holdRow(placed)).toBe("CAPTURED 60");
    stage.wire = () => "pass";
    await stage.release();
    await passTime(1_000);
    expect([await money(payer), await holdRow(placed)]).toEqual(["100 0", "EXPIRED 0"]);
  });

  it("comes back to a suspended wallet, and keeps one open that would be closed", async () => {
    const [payer, payee] = [await stage.open("a", "60"), await stage.open("b", null)];
    const placed = await place(payer, "60");
    await sendHeld(capture(placed, null, { toWalletId: payee }), "post");
    expect(summaryOf(await order(payer, "close"))).toBe("wallet_not_empty");
    await order(payee, "suspend");
    await order(payer, "suspend");
    await stage.release();
    expect([await money(payer), await holdRow(placed)]).toEqual(["60 60", "ACTIVE 0"]);
  });

  it("twice with one key pays once, also when the first is pending and its lane has died", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const placed = await place(payer, "60");
    const command = capture(placed, null, { toWalletId: payee });
    await sendHeld(command, "post");
    await restart();
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
    expect([await money(payer), await holdRow(placed)]).toEqual(["75 0", "CAPTURED 25"]);
  });

  it("lets nothing go when the payee refuses", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const placed = await place(payer, "60");
    await sendHeld(capture(placed, "25", { final: true, toWalletId: payee }), "post");
    await order(payee, "suspend");
    await stage.release();
    expect([await money(payer), await holdRow(placed)]).toEqual(["100 60", "ACTIVE 0"]);
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
      expect(await holdRow(placed)).toBe(isCaptured ? "CAPTURED 60" : "RELEASED 25");
    },
  );

  it.each([
    ["39 of 40", "39", false, 61, 59],
    ["all of 40", "40", false, 60, 60],
    ["39 of 40, paid to a wallet,", "39", true, 61, 59],
    ["all of 40, paid to a wallet,", "40", true, 60, 60],
  ] as const)(
    "of %s ends the hold also for an earlier capture that is refused after it",
    async (_what, amount, isPaid, left, takenAtEnd) => {
      const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
      const third = await stage.open("b", null);
      const placed = await place(payer, "60");
      await sendHeld(capture(placed, "20", { toWalletId: payee }), "post");
      await order(payee, "suspend");
      stage.wire = (message) =>
        message.type === "post" && message.walletId === payee ? "hold" : "pass";
      const last = capture(
        placed,
        amount,
        isPaid ? { final: true, toWalletId: third } : { final: true },
      );
      expect(await said(last)).toBe(isPaid ? "posted" : "done 4");
      await stage.tick();
      expect(await holdRow(placed)).toBe(`CAPTURED ${takenAtEnd}`);
      stage.wire = () => "pass";
      await stage.release();
      await stage.settle();
      expect([await money(payer), await holdRow(placed)]).toEqual([
        `${left} 0`,
        `CAPTURED ${takenAtEnd - 20}`,
      ]);
      expect(await said(capture(placed, "1"))).toBe("hold_not_active");
    },
  );

  it("that is refused itself leaves an earlier one its hold", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const placed = await place(payer, "60");
    await sendHeld(capture(placed, "20", { toWalletId: payee }), "post");
    await sendHeld(capture(placed, null, { final: true, toWalletId: payee }), "post");
    await order(payee, "suspend");
    stage.wire = () => "pass";
    await stage.release();
    await stage.settle();
    expect([await money(payer), await holdRow(placed)]).toEqual(["100 60", "ACTIVE 0"]);
  });

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
    expect([await money(payer), await holdRow(placed)]).toEqual(["75 0", "CAPTURED 25"]);
    expect(await money(payee)).toBe("25 0");
    const sql = "SELECT count(*) FROM events WHERE wallet_id = $1 AND type = 'HoldReleased'";
    expect(await database.query(sql, [payer])).toEqual([{ count: 1 }]);
  });
});
