/**
 * What looks like damage and is none, and what is damage and cannot be told at once. The race in
 * the first: a lane was superseded and does not know it, so it puts a wallet as it remembers it
 * beside a hold that the new owner has changed. In the second a commit with something of the wallet
 * is under way when the damage is met.
 */
import { describe, expect, it } from "vitest";
import { LIMITS } from "../src/limits.ts";
import type { Hold } from "../src/core/hold.ts";
import { rebuildWallet } from "../src/verify/rebuild.ts";
import { EVEN } from "./stage/ids.ts";
import {
  begin,
  database,
  gateOf,
  holdRow,
  money,
  openTwo,
  order,
  passTime,
  place,
  restage,
  restart,
  said,
  sendHeld,
  stage,
  summaries,
  TWO_HOSTS,
  useLaneStage,
} from "./stage/lane.ts";
import {
  capture,
  commandOf,
  creation,
  credit,
  debit,
  release,
  transfer,
} from "./stage/staged-commands.ts";

useLaneStage("damage_alarm_test", TWO_HOSTS);

function alarms(): string[] {
  return stage.log.filter((line) => line.includes("is damaged"));
}

// --- No damage -----------------------------------------------------------------------------------

describe("a lane that was superseded and does not know it", () => {
  /** Another host takes over from lane a, which stands still and hears nothing of it. */
  async function supersede(): Promise<void> {
    stage.lane("a").isAlive = false;
    await stage.add({ name: "c", owner: "host-3", shards: EVEN });
  }

  /** The old lane goes on, and gets the messages again. */
  function goOn(): void {
    stage.lane("a").isAlive = true;
  }

  /** The old lane learns the truth from its commit, and tells nobody of damage. */
  async function expectNoAlarm(): Promise<void> {
    expect(alarms()).toEqual([]);
    const old = stage.lane("a");
    expect(old.lost.toSorted((one, other) => one - other)).toEqual(EVEN);
    expect(old.lane.stats()).toMatchObject({ damagedWallets: 0, backlog: 0 });
    expect(stage.log).toContainEqual(expect.stringMatching(/^a warn: epochs of .* were raised/));
    await stage.settle();
  }

  /**
   * The new owner places a hold, and its time comes while the old lane looks for such; its row then.
   */
  async function expireBehind(walletId: string): Promise<string> {
    const placed = await place(walletId, "60", 1_000);
    stage.nowMs += 2_000;
    goOn();
    stage.lane("a").lane.tick(stage.nowMs, EVEN, stage.nowMs);
    await stage.quiet();
    await expectNoAlarm();
    await passTime(1_000);
    return await holdRow(placed);
  }

  it.each(["release", "capture"] as const)(
    "takes no %s of a hold that the new owner has placed for damage",
    async (type) => {
      const walletId = await stage.open("a", "100");
      await supersede();
      const placed = await place(walletId, "60");
      goOn();
      const command = type === "release" ? release(placed) : capture(placed, null);
      expect(await said(command)).toBe("unknown");
      await expectNoAlarm();
      expect(await said(command)).toBe("done 3");
    },
  );

  it("nor with a commit of the wallet under way, and what comes behind is answered", async () => {
    const walletId = await stage.open("a", "100");
    await supersede();
    const placed = await place(walletId, "60");
    goOn();
    const gate = gateOf();
    const commands = [credit(walletId, "1"), release(placed), debit(walletId, "1")];
    const asked = [];
    for (const command of commands) asked.push(...(await begin(command)));
    expect(alarms()).toEqual([]);
    await gate.open();
    await expectNoAlarm();
    expect(summaries(asked)).toEqual(["unknown", "unknown", "unavailable"]);
    for (const [nth, command] of commands.entries()) {
      expect(await said(command)).toBe(`done ${nth + 3}`);
    }
  });

  it("nor the time of such a hold", async () => {
    const walletId = await stage.open("a", "100");
    await supersede();
    expect(await expireBehind(walletId)).toBe("EXPIRED 0");
  });

  it("nor the time of a hold of a wallet that was not there", async () => {
    const walletId = stage.idIn("a");
    expect(await said(credit(walletId, "1"))).toBe("wallet_not_found");
    await supersede();
    expect(await said(commandOf(walletId, creation("100")))).toBe("done 1");
    expect(await expireBehind(walletId)).toBe("EXPIRED 0");
  });

  it("nor a refusal that the new owner has settled", async () => {
    // Given a hold that was captured as a whole, to a payee who does not take it
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const placed = await place(payer, "60");
    await sendHeld(capture(placed, null, { toWalletId: payee }), "post");
    await order(payee, "suspend");
    stage.wire = ({ type }) => (type === "verdict" ? "hold" : "pass");
    await stage.release("post");
    const [late] = stage.held;
    expect(late).toMatchObject({ type: "verdict" });

    // When another host takes over and settles it, and the verdict reaches the old one
    await supersede();
    stage.wire = () => "pass";
    await stage.release();
    await passTime(1_000);
    expect([await money(payer), await holdRow(placed)]).toEqual(["100 60", "ACTIVE 0"]);
    goOn();
    stage.deliver(late!);
    await stage.quiet();

    await expectNoAlarm();
    expect([await money(payer), await holdRow(placed)]).toEqual(["100 60", "ACTIVE 0"]);
  });
});

// --- Damage --------------------------------------------------------------------------------------

describe("damage that is met while something of the wallet is under way", () => {
  interface Met {
    readonly walletId: string;
    readonly placed: Hold;
  }

  async function damaged(): Promise<Met> {
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60");
    await database.query("UPDATE wallets SET held = 1 WHERE wallet_id = $1", [walletId]);
    await restart();
    return { walletId, placed };
  }

  async function mend(walletId: string): Promise<void> {
    expect(await rebuildWallet(database.url, walletId)).toMatchObject({ type: "rebuilt" });
    await passTime(LIMITS.damagePauseMs);
  }

  it("is told behind that, and nothing is decided for the wallet meanwhile", async () => {
    const { walletId, placed } = await damaged();
    const gate = gateOf();
    const first = debit(walletId, "1000");
    const commands = [release(placed), credit(walletId, "1")];
    const asked = await begin(first);
    asked.push(...(await begin(...commands)));
    expect(alarms()).toEqual([]);

    // Who repeats what is under way hears what becomes of it
    const repeats = [
      stage.sendAs(first, { attempt: 2 }),
      stage.sendAs(commands[0]!, { attempt: 2 }),
    ];
    await stage.quiet();
    await gate.pass("committed");
    expect(summaries([...asked, ...repeats])).toEqual([
      "insufficient_funds",
      "no answer",
      "unavailable",
      "insufficient_funds",
      "no answer",
    ]);
    await gate.open();
    expect(summaries([...asked, ...repeats])).toEqual([
      "insufficient_funds",
      "unavailable",
      "unavailable",
      "insufficient_funds",
      "unavailable",
    ]);
    expect(alarms()).toHaveLength(1);
    expect(stage.lane("a").lane.stats()).toMatchObject({ damagedWallets: 1, serving: true });
    expect(await said(credit(walletId, "1"))).toBe("unavailable");

    await mend(walletId);
    expect(await said(commands[0]!)).toBe("done 3");
    expect(await money(walletId)).toBe("100 0");
  });

  it("does not hide what was decided before it in the same commit", async () => {
    const { walletId, placed } = await damaged();
    const gate = gateOf();
    await begin(debit(walletId, "2000"));
    const before = debit(walletId, "1000");
    const asked = await begin(before, release(placed));
    asked.push(stage.sendAs(before, { attempt: 2 }));
    await stage.quiet();
    await gate.open();
    const no = "insufficient_funds";
    expect(summaries(asked)).toEqual([no, "unavailable", no]);
    expect(alarms()).toHaveLength(1);
    await mend(walletId);
    expect(await said(release(placed))).toBe("done 3");
  });

  it.each(["refused", "stale", "unknown, written", "unknown, not written"] as const)(
    "is told once, also when the commit that shall prove it is %s",
    async (fate) => {
      const { walletId, placed } = await damaged();
      const gate = gateOf();
      const asked = await begin(release(placed));
      await gate.pass(fate);
      expect(alarms()).toEqual([]);
      await gate.open();
      await passTime(1_000);
      expect(alarms()).toHaveLength(1);
      const isInDoubt = fate.startsWith("unknown");
      expect(summaries(asked)).toEqual([isInDoubt ? "unknown" : "unavailable"]);
      await mend(walletId);
      expect(await said(release(placed))).toBe("done 3");
    },
  );

  it("is no reason to take a repeat for one that never happened", async () => {
    // Given a release that is written and nobody knows, and rows that are damaged behind it
    const walletId = await stage.open("a", "100");
    const placed = await place(walletId, "60");
    const lane = stage.lane("a");
    lane.hooks.claim = () => Promise.reject(new Error("away"));
    const gate = gateOf();
    const command = release(placed);
    const asked = await begin(command);
    await gate.pass("unknown, written");
    const sql = "UPDATE holds SET status = 'ACTIVE', released_at = NULL WHERE wallet_id = $1";
    await database.query(sql, [walletId]);

    // When it comes once more, and is met by damage
    const again = stage.sendAs(command, { attempt: 2 });
    delete lane.hooks.claim;
    await passTime(1_000);
    await gate.open();
    await passTime(1_000);

    // Then both hear that it has happened
    expect(summaries([...asked, again])).toEqual(["replayed 3", "replayed 3"]);
    await mend(walletId);
  });

  it("keeps a transfer out of the wallet, also one that is a single commit", async () => {
    await restage(TWO_HOSTS, true);
    const { walletId, placed } = await damaged();
    const payer = await stage.open("a", "100");
    expect(await said(debit(walletId, "1000"))).toBe("insufficient_funds"); // it is awake
    const gate = gateOf();
    await begin(credit(payer, "1"));
    const asked = await begin(release(placed), transfer(payer, walletId, "5"));
    await gate.open();
    expect(summaries(asked)).toEqual(["unavailable", "unavailable"]);
    await mend(walletId);
    expect(await said(transfer(payer, walletId, "5"))).toBe("posted");
  });

  it("does not hinder the other wallets of the lane", async () => {
    const { placed } = await damaged();
    const [one, other] = await openTwo();
    const gate = gateOf();
    await begin(credit(one, "1"));
    const asked = await begin(release(placed), credit(one, "1"), credit(other, "1"));
    asked.push(...(await begin(credit(other, "1"))));
    expect(gate.waiting).toHaveLength(1);
    await gate.pass("committed");
    // All in one commit
    expect(gate.waiting.map(({ events }) => events.length)).toEqual([3]);
    await gate.open();
    expect(summaries(asked)).toEqual(["unavailable", "done 3", "done 2", "done 3"]);
    await mend(placed.walletId);
  });
});
