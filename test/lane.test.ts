/**
 * What a lane owes its callers while commits are slow, refused, fenced or of unknown outcome: no
 * answer before the outcome is known, each command carried out once, and no rejection decided on a
 * state that never came to be; and what it keeps, which is bounded.
 */
import { describe, expect, it } from "vitest";
import type { AppendResult } from "../src/core/journal.ts";
import { LIMITS } from "../src/limits.ts";
import { ALL_SHARDS, shardOf } from "../src/core/shard.ts";
import { EVEN, idIn } from "./stage/ids.ts";
import {
  begin,
  bookOf,
  database,
  FAILURES,
  gateOf,
  ONE_LANE,
  restage,
  sendHeld,
  stage,
  summaries,
  TWO_LANES,
  useLaneStage,
} from "./stage/lane.ts";
import { commandOf, creation, credit, debit, placing, transfer } from "./stage/staged-commands.ts";
import { onlyOutcome, summaryOf, withLimits, type Asked } from "./stage/lanes.ts";

useLaneStage("lane_test", ONE_LANE);

// --- Group commit --------------------------------------------------------------------------------

describe("commands of one batch", () => {
  it("share one commit, each decided on what the one before made of the wallet", async () => {
    const wallet = await stage.open("a", "10");
    const appends = stage.lane("a").calls.append;
    const asked = await begin(
      credit(wallet, "5"),
      debit(wallet, "15"),
      debit(wallet, "1"),
      credit(wallet, "2"),
    );
    expect(summaries(asked)).toEqual(["done 2", "done 3", "insufficient_funds", "done 4"]);
    expect(stage.lane("a").calls.append).toBe(appends + 1);
  });

  it.each(FAILURES)(
    "are told nothing until the outcome is known, and are carried out once, when it is %s",
    async (fate) => {
      const wallet = await stage.open("a", "10");
      const gate = gateOf();
      const commands = [
        debit(wallet, "10"),
        credit(wallet, "7"),
        debit(wallet, "100"),
        credit(wallet, "3"),
      ];
      const changes = stage.changes.length;

      // Given one commit under way and the next one filled on top of it
      const asked = [...(await begin(commands[0]!)), ...(await begin(...commands.slice(1)))];
      expect(gate.waiting.map(({ events }) => events.length)).toEqual([1]);
      expect(summaries(asked)).toEqual(["no answer", "no answer", "no answer", "no answer"]);

      // When it fails, what was built on it goes down with it, and all is decided again
      await gate.pass(fate);
      expect(stage.changes).toHaveLength(changes);
      await stage.tick();
      await gate.open();
      await stage.settle();

      const first = fate === "unknown, written" ? "replayed 2" : "done 2";
      expect(asked.map((one) => summaryOf(onlyOutcome(one)))).toEqual([
        first,
        "done 3",
        "insufficient_funds",
        "done 4",
      ]);
      expect(await bookOf(wallet, commands)).toEqual({ balance: 10, events: 3 });
    },
  );

  it.each(FAILURES)(
    "reach the feed once each and in order, unless the outcome was told by nobody: %s",
    async (fate) => {
      const wallet = await stage.open("a", "10");
      const gate = gateOf();
      await begin(credit(wallet, "1"));
      await begin(credit(wallet, "1"), credit(wallet, "1"));
      await gate.pass(fate);
      await stage.tick();
      await gate.open();
      await stage.settle();
      const versions = stage.changes.map((change) => change.wallet.version);
      expect(versions).toEqual(fate === "unknown, written" ? [0, 1, 3, 4] : [0, 1, 2, 3, 4]);
    },
  );

  it("that were rejected on a state which never came to be are decided again", async () => {
    // Given all the money on its way out in one commit, and a rejection for lack of it in the next
    const wallet = await stage.open("a", "10");
    const gate = gateOf();
    const first = stage.sendAs(debit(wallet, "10"), { budgetMs: 2_000 });
    await stage.quiet();
    const [second] = await begin(debit(wallet, "10"));
    expect(second!.outcomes).toEqual([]);
    // When the first is refused by the database, and then too late to try again
    await gate.pass("refused");
    await stage.tick(1_600);
    await gate.open();
    // Then the money is there for the second
    expect(onlyOutcome(first)).toEqual({ type: "fault", fault: "unavailable" });
    expect(summaryOf(onlyOutcome(second!))).toBe("done 2");
  });

  it("that depend on an uncommitted creation wait for it, and go down with it", async () => {
    const gate = gateOf();
    const wallet = idIn(ALL_SHARDS);
    const first = stage.sendAs(commandOf(wallet, creation("10")), { budgetMs: 2_000 });
    await stage.quiet();
    const [second] = await begin(debit(wallet, "4"));
    await gate.pass("refused");
    expect(second!.outcomes).toEqual([]);
    await stage.tick(1_600);
    await gate.open();
    expect(summaries([first, second!])).toEqual(["unavailable", "wallet_not_found"]);
  });

  it.each(FAILURES)(
    "of many wallets, some untouched by a commit that is %s, all keep their order",
    async (fate) => {
      const wallets = [await stage.open("a", "10"), await stage.open("a", "10")];
      const gate = gateOf();
      const amounts = ["1", "2", "3", "4"];
      const asked: Asked[] = [];
      for (const amount of amounts)
        asked.push(...(await begin(...wallets.map((id) => credit(id, amount)))));
      await gate.pass(fate);
      await stage.tick();
      await gate.open();
      await stage.settle();
      const rows = await database.query<{ amounts: number[] }>(
        "SELECT array_agg((amount / 100)::int ORDER BY version) AS amounts FROM events WHERE wallet_id = ANY ($1) AND version > 1 GROUP BY wallet_id",
        [wallets],
      );
      expect(rows.map((row) => row.amounts)).toEqual([
        [1, 2, 3, 4],
        [1, 2, 3, 4],
      ]);
      for (const one of asked) onlyOutcome(one);
    },
  );
});

describe("a precondition on the version", () => {
  it.each([
    ["unknown, written", "replayed 2"],
    ["unknown, not written", "done 2"],
    ["refused", "done 2"],
    ["stale", "done 2"],
  ] as const)(
    "that held is no conflict with the command's own effect: %s",
    async (fate, expected) => {
      const wallet = await stage.open("a", "10");
      const gate = gateOf();
      const [asked] = await begin(credit(wallet, "1", { expectedVersion: 1 }));
      await gate.pass(fate);
      await stage.tick();
      await gate.open();
      expect(summaryOf(onlyOutcome(asked!))).toBe(expected);
    },
  );

  it("that does not hold is a conflict, and one on speculative state waits for it", async () => {
    const wallet = await stage.open("a", "10");
    const gate = gateOf();
    await begin(credit(wallet, "1"));
    const [late, right] = await begin(
      credit(wallet, "1", { expectedVersion: 1 }),
      credit(wallet, "1", { expectedVersion: 2 }),
    );
    expect(summaries([late!, right!])).toEqual(["no answer", "no answer"]);
    await gate.open();
    expect(summaries([late!, right!])).toEqual(["version_conflict", "done 3"]);
  });
});

// --- A database that is away ---------------------------------------------------------------------

describe("while the database is away", () => {
  const away = (): Promise<AppendResult> => Promise.resolve({ type: "refused", reason: "away" });

  it("commands wait, and are carried out once it is back", async () => {
    const wallet = await stage.open("a", "10");
    stage.lane("a").hooks.append = away;
    const asked = await begin(credit(wallet, "1"), credit(wallet, "2"));
    for (let ticks = 0; ticks < 50; ticks += 1) await stage.tick();
    asked.push(...(await begin(credit(wallet, "4"))));
    expect(summaries(asked)).toEqual(["no answer", "no answer", "no answer"]);
    delete stage.lane("a").hooks.append;
    await stage.settle();
    expect(summaries(asked)).toEqual(["done 2", "done 3", "done 4"]);
  });

  it("commands whose deadline comes near are told that nothing happened, in time, and nothing did", async () => {
    const wallet = await stage.open("a", "10");
    stage.lane("a").hooks.append = away;
    const command = credit(wallet, "1");
    const asked = stage.sendAs(command, { budgetMs: 3_000 });
    const deadlineMs = stage.nowMs + 3_000;
    await stage.quiet();
    while (asked.outcomes.length === 0 && stage.nowMs < deadlineMs + 1_000) await stage.tick();
    expect(onlyOutcome(asked)).toEqual({ type: "fault", fault: "unavailable" });
    expect(stage.nowMs).toBeLessThan(deadlineMs);
    delete stage.lane("a").hooks.append;
    await stage.settle();
    expect(asked.outcomes).toHaveLength(1);
    expect(await bookOf(wallet, [command])).toEqual({ balance: 10, events: 0 });
  });

  it("a lane waits when an outcome is unknown again, and not if a commit has worked between", async () => {
    const wallet = await stage.open("a", "10");
    const { hooks } = stage.lane("a");
    for (const unknowns of [1, 2, 1]) {
      const lines = stage.log.length;
      let left = unknowns;
      hooks.append = (_, apply) => {
        left -= 1;
        return left < 0 ? apply() : Promise.resolve({ type: "unknown", reason: "staged" });
      };
      const asked = await begin(credit(wallet, "1"));
      // No time has passed
      expect(summaries(asked)[0] === "no answer").toBe(unknowns > 1);
      await stage.tick(LIMITS.journalRetryMs);
      await stage.tick();
      expect(summaries(asked)[0]).toMatch(/^done/);
      const told = stage.log.slice(lines).filter((line) => line.includes("is unknown"));
      expect(told).toHaveLength(unknowns);
      expect(told.at(-1)!.includes("trying again in 50 ms")).toBe(unknowns > 1);
    }
  });

  it.each(["unknown, written", "unknown, not written"] as const)(
    "a command whose commit is %s hears nothing false while it takes long to find out",
    async (fate) => {
      const wallet = await stage.open("a", "10");
      const lane = stage.lane("a");
      lane.hooks.claim = () => Promise.reject(new Error("away"));
      const gate = gateOf();
      const command = credit(wallet, "1");
      // Given that it came twice, so that one waits for the other
      const asked = stage.sendAs(command, {});
      stage.deliver(asked.message);
      await stage.quiet();
      await gate.pass(fate);
      const later = stage.sendAs(credit(wallet, "2"), { budgetMs: 3_000 });
      for (let ticks = 0; ticks < 29; ticks += 1) await stage.tick();
      // Then one that never began may say so, and the one in doubt may not
      expect(later.outcomes).toEqual([{ type: "fault", fault: "unavailable" }]);
      expect(asked.outcomes).toEqual([]);

      delete lane.hooks.claim;
      for (let ticks = 0; ticks < 20; ticks += 1) await stage.tick();
      await gate.open();
      await stage.settle();
      expect(asked.outcomes.filter(({ type }) => type === "fault")).toEqual([]);
      expect(asked.outcomes.length).toBeGreaterThan(0);
      expect(await bookOf(wallet, [command])).toEqual({ balance: 11, events: 1 });
    },
  );

  it("a lane that cannot read a wallet says why, tries again, and answers then", async () => {
    const wallet = await stage.open("a", "10");
    const { hooks } = await stage.replace("a");
    hooks.loadWallets = () => Promise.reject(new Error("away"));
    const asked = await begin(credit(wallet, "1"), debit(wallet, "11"));
    const late = stage.sendAs(credit(wallet, "1"), { budgetMs: 1_000 });
    for (let ticks = 0; ticks < 10; ticks += 1) await stage.tick();
    expect(summaries([...asked, late])).toEqual(["no answer", "no answer", "unavailable"]);
    const told = stage.log.filter((line) => line.includes("cannot recover wallets"));
    expect(new Set(told)).toEqual(new Set(["a warn: cannot recover wallets, trying again: away"]));
    delete hooks.loadWallets;
    await stage.tick();
    expect(summaries(asked)).toEqual(["done 2", "done 3"]);
  });
});

// --- Shards that are lost ------------------------------------------------------------------------

describe("a lane that was superseded", () => {
  it("stops answering for what it lost, says so, and serves the rest", async () => {
    const lost = idIn(EVEN);
    const kept = idIn(ALL_SHARDS.filter((shard) => !EVEN.includes(shard)));
    await begin(commandOf(lost, creation("10")), commandOf(kept, creation("10")));
    const old = stage.lane("a");
    await stage.add({ name: "b", owner: "host-2", shards: EVEN });

    // When both kinds are in one commit of the old lane
    const commands = [debit(lost, "1"), debit(kept, "1"), debit(lost, "100")];
    const asked = await begin(...commands);

    expect(summaries(asked)).toEqual(["unknown", "done 2", "unknown"]);
    // Its claim told it of everything that it lost, not only of what this commit touched
    expect(old.lost.toSorted((one, other) => one - other)).toEqual(EVEN);
    expect(EVEN).toContain(shardOf(lost));
    // And who asks again is heard by the new owner
    expect(summaries(await begin(...commands))).toEqual([
      "done 2",
      "replayed 2",
      "insufficient_funds",
    ]);
    expect(asked.map(({ outcomes }) => outcomes.length)).toEqual([1, 1, 1]);
  });

  it("race: it was superseded between decision and commit, and not even its rejection is told", async () => {
    const wallet = idIn(EVEN);
    await begin(commandOf(wallet, creation("10")));
    const gate = gateOf();
    const asked = await begin(debit(wallet, "100"));
    await stage.add({ name: "b", owner: "host-2", shards: EVEN });
    await gate.pass("committed");
    expect(summaries(asked)).toEqual(["unknown"]);
    expect(await database.query("SELECT FROM rejections WHERE wallet_id = $1", [wallet])).toEqual(
      [],
    );
  });

  it("race: it does not know the outcome, and finds itself superseded when it claims again", async () => {
    const [lost, kept] = [idIn(EVEN), idIn(ALL_SHARDS.filter((shard) => !EVEN.includes(shard)))];
    await begin(commandOf(lost, creation("10")), commandOf(kept, creation("10")));
    const gate = gateOf();
    const asked = await begin(credit(lost, "1"), credit(kept, "1"));
    await stage.add({ name: "b", owner: "host-2", shards: EVEN });
    await gate.pass("unknown, not written");
    await gate.open();
    expect(stage.lane("a").lost).toEqual(EVEN);
    expect(summaries(asked)).toEqual(["unknown", "done 2"]);
  });

  it("claims nothing that another owner holds", async () => {
    const old = stage.lane("a");
    await stage.add({ name: "b", owner: "host-2", shards: ALL_SHARDS });
    stage.kill("b");
    const again = await stage.replace("a");
    expect(old.isAlive).toBe(false);
    expect(again.lost).toEqual(ALL_SHARDS);
  });
});

// --- Bounds --------------------------------------------------------------------------------------

describe("what a lane keeps is bounded", () => {
  /** Of each that found no room, the shard for which there is none at all. */
  const fullShards = (asked: readonly Asked[]): (number | null)[] =>
    asked.flatMap(({ outcomes: [outcome] }) =>
      outcome?.type === "fault" && outcome.fault === "overloaded"
        ? [outcome.fullShard ?? null]
        : [],
    );

  it("in the mailbox of a wallet that is being read: past it, overloaded at once", async () => {
    withLimits({ mailboxMessagesMax: 20 });
    const wallet = await stage.open("a", "10");
    const { hooks } = await stage.replace("a");
    let proceed: (() => void) | undefined;
    hooks.loadWallets = async (load) => {
      await new Promise<void>((resolve) => (proceed = resolve));
      return await load();
    };
    const asked = await begin(...Array.from({ length: 23 }, () => credit(wallet, "1")));
    expect(fullShards(asked)).toEqual([null, null, null]);
    delete hooks.loadWallets;
    proceed?.();
    await stage.quiet();
    expect(summaries(asked).filter((it) => it.startsWith("done"))).toHaveLength(20);
    expect(await bookOf(wallet)).toMatchObject({ balance: 30 });
  });

  it("in the backlog while the database is away: past it, overloaded at once", async () => {
    withLimits({ laneBacklogMax: 20 });
    const wallet = await stage.open("a", "10");
    const { hooks } = stage.lane("a");
    hooks.append = () => Promise.resolve({ type: "refused", reason: "away" });
    const asked = await begin(...Array.from({ length: 5 }, () => credit(wallet, "1")));
    asked.push(...(await begin(...Array.from({ length: 18 }, () => credit(wallet, "1")))));
    const full = shardOf(wallet);
    expect(fullShards(asked)).toEqual([full, full, full]);
    delete hooks.append;
    await stage.settle();
    expect(await bookOf(wallet)).toMatchObject({ balance: 30 });
  });

  it("before a shard is claimed: past it, overloaded at once", async () => {
    const lane = stage.lane("a");
    Object.assign(lane, { shards: EVEN });
    await stage.tick();
    const coming = idIn(ALL_SHARDS.filter((shard) => !EVEN.includes(shard)));
    withLimits({ laneBacklogMax: 2 });
    lane.hooks.claim = () => Promise.reject(new Error("away"));
    Object.assign(lane, { shards: ALL_SHARDS });
    await stage.tick();
    const asked = await begin(...Array.from({ length: 3 }, () => credit(coming, "1")));
    expect(fullShards(asked)).toEqual([shardOf(coming)]);
    delete lane.hooks.claim;
    await stage.settle();
    const told = summaries(asked).toSorted();
    expect(told).toEqual(["overloaded", "wallet_not_found", "wallet_not_found"]);
  });

  it("at the payee: past it, the transfer is overloaded, and only the payee's shard is full", async () => {
    await restage(TWO_LANES);
    const [payer, payee] = [await stage.open("a", "10"), await stage.open("b", null)];
    const asked = await sendHeld(transfer(payer, payee, "1"), "ask");
    withLimits({ laneBacklogMax: 2 });
    const { hooks } = stage.lane("b");
    hooks.append = () => Promise.resolve({ type: "refused", reason: "away" });
    await begin(...Array.from({ length: 2 }, () => credit(payee, "1")));
    await stage.release();
    expect(fullShards([asked])).toEqual([shardOf(payee)]);
    delete hooks.append;
    await stage.settle();
    expect([await bookOf(payer), await bookOf(payee)]).toMatchObject([
      { balance: 10 },
      { balance: 2 },
    ]);
  });

  it("in one commit: what does not fit goes into the next, in order", async () => {
    withLimits({ commitMessagesMax: 8 });
    const wallet = await stage.open("a", "10");
    const appends = stage.lane("a").calls.append;
    const asked = await begin(...Array.from({ length: 30 }, () => credit(wallet, "1")));
    expect(summaries(asked)).toEqual(Array.from({ length: 30 }, (_, n) => `done ${n + 2}`));
    expect(stage.lane("a").calls.append).toBe(appends + 4);
  });

  it("in one commit: what comes later does not overtake what did not fit", async () => {
    withLimits({ commitMessagesMax: 2 });
    const wallet = await stage.open("a", "10");
    const gate = gateOf();
    // Given more than fits into the commit under way, and room in the one that fills
    const early = await begin(...Array.from({ length: 5 }, () => credit(wallet, "1")));
    const late = await begin(credit(wallet, "1"));
    await gate.open();
    expect(summaries([...early, ...late])).toEqual([2, 3, 4, 5, 6, 7].map((it) => `done ${it}`));
  });

  it("in one commit: nor does what comes later overtake what woke the wallet", async () => {
    withLimits({ commitMessagesMax: 2 });
    const [awake, asleep] = [await stage.open("a", "10"), await stage.open("a", "10")];
    await stage.tick(LIMITS.actorIdleMs + LIMITS.actorSweepMs);
    await begin(credit(awake, "1"));
    // Given a wallet that is being read while the commit that fills has no room
    const gate = gateOf();
    let read = (): void => undefined;
    const { hooks } = stage.lane("a");
    hooks.loadWallets = async (load) => {
      await new Promise<void>((resolve) => (read = resolve));
      return load();
    };
    const [first] = await begin(credit(asleep, "1"));
    await begin(credit(awake, "1"), credit(awake, "1"));
    await begin(credit(awake, "1"), credit(awake, "1"));
    const [second] = await begin(credit(asleep, "1"));
    delete hooks.loadWallets;
    read();
    await stage.quiet();
    await gate.open();
    expect(summaries([first!, second!])).toEqual(["done 2", "done 3"]);
  });

  it("in transfers under way: past it, overloaded before any money has left", async () => {
    withLimits({ pendingTransfersMax: 2 });
    await restage(TWO_LANES);
    const [payer, payee] = [await stage.open("a", "10"), await stage.open("b", null)];
    stage.wire = ({ type }) => (type === "post" ? "drop" : "pass");
    await begin(transfer(payer, payee, "1"), transfer(payer, payee, "1"));
    const [third] = await begin(transfer(payer, payee, "1"));
    expect(fullShards([third!])).toEqual([null]);
    stage.wire = () => "pass";
    await stage.settle();
    expect(await bookOf(payer)).toMatchObject({ balance: 8 });
  });
});

// --- Actors that sleep ---------------------------------------------------------------------------

describe("an actor", () => {
  it("leaves when idle, and costs one read when woken, with all others of its batch", async () => {
    const wallets = [await stage.open("a", "10"), await stage.open("a", "10")];
    const { lane, calls } = stage.lane("a");
    expect(lane.stats().actors).toBe(2);
    await stage.tick(LIMITS.actorIdleMs - LIMITS.actorSweepMs);
    expect(lane.stats().actors).toBe(2);
    await stage.tick(LIMITS.actorSweepMs);
    expect(lane.stats().actors).toBe(0);

    const before = calls.loadWallets;
    const asked = await begin(...wallets.map((id) => credit(id, "1")), credit(wallets[0]!, "1"));

    expect(summaries(asked)).toEqual(["done 2", "done 2", "done 3"]);
    expect(calls.loadWallets).toBe(before + 1);
    await begin(...wallets.map((id) => credit(id, "1")));
    expect(calls.loadWallets).toBe(before + 1);
  });

  it("stays while it has something uncommitted, however long that takes", async () => {
    const wallet = await stage.open("a", "10");
    const { lane, calls } = stage.lane("a");
    const gate = gateOf();
    const asked = await begin(debit(wallet, "10"));
    const reads = calls.loadWallets;
    await stage.tick(LIMITS.actorIdleMs * 2);
    expect(lane.stats().actors).toBe(1);
    asked.push(...(await begin(debit(wallet, "10"))));
    await gate.open();
    expect(summaries(asked)).toEqual(["done 2", "insufficient_funds"]);
    expect(calls.loadWallets).toBe(reads);
  });

  it("leaves before its time when all are too large: who was used last stays", async () => {
    const sweepMs = LIMITS.actorSweepMs;
    withLimits({ actorsBytesMax: 8.5 * LIMITS.actorBytes, actorSweepMs: LIMITS.laneTickMs });
    await stage.tick(sweepMs);
    const wallets: string[] = [];
    for (let count = 0; count < 9; count += 1) {
      wallets.push(await stage.open("a", "10"));
      // The first is used again and again
      if (count > 0) await begin(credit(wallets[0]!, "1"));
      expect(stage.lane("a").lane.stats().actors).toBe(count + 1);
      await stage.tick();
    }
    // An eighth more than had to has left
    const { lane, calls } = stage.lane("a");
    expect(lane.stats().actors).toBe(7);
    const reads = calls.loadWallets;
    const [first, gone1, gone2, ...stayed] = wallets;
    await begin(...[first!, ...stayed].map((id) => credit(id, "1")));
    expect(calls.loadWallets).toBe(reads);
    expect(summaries(await begin(debit(gone1!, "10"), debit(gone2!, "10")))).toEqual([
      "done 2",
      "done 2",
    ]);
    expect(calls.loadWallets).toBe(reads + 1);
  });

  it("that was used within a tick stays, though all are too large", async () => {
    const wallets = [await stage.open("a", "10"), await stage.open("a", "10")];
    withLimits({ actorsBytesMax: LIMITS.actorBytes });
    await stage.tick(LIMITS.actorSweepMs - 1);
    await begin(...wallets.map((id) => credit(id, "1")));
    await stage.tick(1);
    expect(stage.lane("a").lane.stats().actors).toBe(2);
    await stage.tick(LIMITS.actorSweepMs);
    expect(stage.lane("a").lane.stats().actors).toBe(0);
  });

  it("counts with its metadata and its holds", async () => {
    const metadata = JSON.stringify({ text: "x".repeat(LIMITS.holdBytes) });
    const patch = commandOf(await stage.open("a", "10"), { type: "update", patch: metadata });
    await begin(patch, placing(await stage.open("a", "10"), "1"));
    withLimits({ actorsBytesMax: 2 * LIMITS.actorBytes + 2 * LIMITS.holdBytes });
    await stage.tick(LIMITS.actorSweepMs);
    expect(stage.lane("a").lane.stats().actors).toBe(0);
  });
});
