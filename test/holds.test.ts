/**
 * Holds of one wallet on a real database: placed, captured, released, over restarts and in races.
 */
import { describe, expect, it } from "vitest";
import type { AppendResult } from "../src/core/journal.ts";
import {
  holdRow,
  money,
  order,
  passTime,
  place,
  restart,
  said,
  stage,
  TWO_HOSTS,
  useLaneStage,
} from "./stage/lane.ts";
import { capture, credit, debit, placing, release, repeated } from "./stage/staged-commands.ts";
import { onlyOutcome, summaryOf, withLimits } from "./stage/lanes.ts";

useLaneStage("holds_test", TWO_HOSTS);

// --- One wallet ----------------------------------------------------------------------------------

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
    expect([await money(walletId), await holdRow(placed)]).toEqual(["40 0", "CAPTURED 60"]);
  });

  it("keeps its state over a restart, which costs one read", async () => {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60");
    await stage.perform(capture(placed, "25"));
    await restart();
    expect(await said(capture(placed, "35.01"))).toBe("capture_exceeds_hold");
    expect(await said(capture(placed, "5", { final: true }))).toBe("done 4");
    expect([await money(walletId), await holdRow(placed)]).toEqual(["70 0", "CAPTURED 30"]);
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

  it("past the number that a wallet may have is rejected", async () => {
    withLimits({ holdsPerWalletMax: 2 });
    const walletId = await stage.open("a", "100");
    const first = await place(walletId, "1");
    await place(walletId, "1");
    expect(await said(placing(walletId, "1"))).toBe("too_many_holds");
    await restart();
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
    expect([await money(walletId), await holdRow(two)]).toEqual(["100 0", "EXPIRED 0"]);
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

// --- Races ---------------------------------------------------------------------------------------

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
    await restart();
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
    await restart();
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
    expect(await holdRow(placed)).toBe("ACTIVE 10");
    delete stage.lane("a").hooks.loadDueHolds;
    await passTime(1_000);
    expect([await money(walletId), await holdRow(placed)]).toEqual(["90 0", "EXPIRED 10"]);
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
