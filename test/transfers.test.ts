/**
 * The transfer protocol on a real database: what it owes its callers without trouble, when messages
 * between payer and payee come late, twice or never, and at deadlines and repeats. Lanes that die
 * are in transfer-crashes.test.ts, all of it by chance in transfer-chance.test.ts.
 */
import { beforeEach, describe, expect, it } from "vitest";
import { LIMITS } from "../src/limits.ts";
import type { PostMessage, ShardMessage } from "../src/core/protocol.ts";
import {
  balances,
  begin,
  database,
  drop,
  gateOf,
  hold,
  ONE_LANE,
  order,
  pass,
  restage,
  sendHeld,
  stage,
  transferIdOf,
  transferRow,
  TWO_HOSTS,
  TWO_LANES,
  useLaneStage,
} from "./stage/lane.ts";
import { commandOf, creation, repeated, transfer } from "./stage/staged-commands.ts";
import { onlyOutcome, summaryOf, withLimits } from "./stage/lanes.ts";

useLaneStage("transfers_test", TWO_HOSTS);

// --- Without trouble -----------------------------------------------------------------------------

describe.each([
  ["in one lane", ONE_LANE],
  ["in two lanes of one host", TWO_LANES],
  ["in two hosts", TWO_HOSTS],
])("between two wallets %s", (_where, lanes) => {
  const [payerLane, payeeLane] = [lanes[0]!.name, lanes.at(-1)!.name];

  beforeEach(() => restage(lanes));

  it("moves the money once, and tells both wallets as they are right after", async () => {
    const payer = await stage.open(payerLane, "100");
    const payee = await stage.open(payeeLane, "1");
    const command = transfer(payer, payee, "30", { description: "rent" });

    const outcome = await stage.perform(command);

    expect(outcome).toMatchObject({
      type: "transferred",
      transfer: {
        transferId: transferIdOf(command),
        status: "posted",
        from: { walletId: payer, balanceMinor: 7_000, version: 2 },
        to: { walletId: payee, balanceMinor: 3_100, version: 2 },
        toVersion: 2,
      },
    });
    const told = stage.changes.map(({ type, wallet }) => `${type} ${wallet.walletId}`);
    expect(told.slice(-2)).toEqual([`TransferSent ${payer}`, `TransferReceived ${payee}`]);
    expect(summaryOf(await stage.perform(repeated(command)))).toBe("replayed 2");
    expect(await balances(payer, payee)).toEqual([70, 31]);
  });

  it("gives a command that comes twice at once one transfer for an answer", async () => {
    const payer = await stage.open(payerLane, "100");
    const payee = await stage.open(payeeLane, null);
    const command = transfer(payer, payee, "30");
    const asked = stage.send(command, repeated(command), command);
    await stage.settle();

    const transferIds = asked.map((one) => {
      const outcome = onlyOutcome(one);
      if (outcome.type === "transferred") return outcome.transfer.transferId;
      return outcome.type === "replayed" ? outcome.transferId : outcome;
    });
    expect(new Set(transferIds).size).toBe(1);
    expect(await balances(payer, payee)).toEqual([70, 30]);
  });

  it("lets two transfers cross, each of all that there is", async () => {
    const [one, two] = [await stage.open(payerLane, "10"), await stage.open(payeeLane, "20")];
    const asked = stage.send(transfer(one, two, "10"), transfer(two, one, "20"));
    await stage.quiet();
    expect(asked.map((it) => summaryOf(onlyOutcome(it)))).toEqual(["posted", "posted"]);
    expect(await balances(one, two)).toEqual([20, 10]);
  });

  it("posts 600 of a thousand transfers when there is money for 600, and rejects the others", async () => {
    const payer = await stage.open(payerLane, "600");
    const payees = await Promise.all([null, null, null].map((none) => stage.open(payeeLane, none)));
    const commands = Array.from({ length: 1_000 }, (_, n) => transfer(payer, payees[n % 3]!, "1"));

    const asked = stage.send(...commands);
    await stage.quiet();

    const counts = new Map<string, number>();
    for (const one of asked) {
      const summary = summaryOf(onlyOutcome(one));
      counts.set(summary, (counts.get(summary) ?? 0) + 1);
    }
    expect(Object.fromEntries(counts)).toEqual({ posted: 600, insufficient_funds: 400 });
    expect(await balances(payer)).toEqual([0]);
  });

  it("rejects a wallet that pays itself, and sends nothing", async () => {
    const payer = await stage.open(payerLane, "100");
    const command = transfer(payer, payer, "1");
    expect(summaryOf(await stage.perform(command))).toBe("same_wallet");
    expect(await stage.perform(repeated(command))).toMatchObject({
      type: "rejected",
      replayed: true,
    });
    expect(stage.sent).toEqual([]);
  });
});

// --- Clocks --------------------------------------------------------------------------------------

describe("a transfer happens when the wall clocks of its hosts say so", () => {
  const hour = 3_600_000;
  /** Hours after the beginning that the database has for a transfer, its verdict and its events. */
  async function hoursOf(transferId: string, startMs: number): Promise<Record<string, number>> {
    const rows = await database.query<{ what: string; at: Date }>(
      `SELECT 'begun' AS what, created_at AS at FROM transfers WHERE transfer_id = $1
       UNION ALL SELECT 'settled', settled_at FROM transfers WHERE transfer_id = $1
       UNION ALL SELECT 'decided', decided_at FROM transfer_verdicts WHERE transfer_id = $1
       UNION ALL SELECT type, occurred_at FROM events WHERE transfer_id = $1`,
      [transferId],
    );
    return Object.fromEntries(
      rows.map(({ what, at }) => [what, Math.floor((Number(at) - startMs) / hour)]),
    );
  }

  it.each([
    ["posted", { TransferReceived: 3 }],
    ["returned", { TransferReturned: 2 }],
  ])("in two hosts, and it is %s", async (status, last) => {
    const startMs = stage.nowMs;
    const payer = await stage.open("a", "100");
    const payee = await stage.open("b", "1");
    const [command, tried] = [transfer(payer, payee, "30"), transfer(payer, payee, "30")];
    stage.lane("a").clockOffMs = hour;
    stage.lane("b").clockOffMs = 3 * hour;
    const dryRun = await stage.perform({ ...tried, fingerprint: null, dryRun: true });
    expect(dryRun).toMatchObject({ transfer: { to: { updatedAtMs: stage.nowMs + 3 * hour } } });
    const asked = await sendHeld(command, "post");
    if (status === "returned") await order(payee, "suspend");
    stage.wire = (message) => (message.type === "verdict" ? "hold" : "pass");
    await stage.release("post");
    pass();
    stage.lane("a").clockOffMs = 2 * hour;
    await stage.release("verdict");
    await stage.tick();
    expect(asked.outcomes).toHaveLength(1);
    expect(await hoursOf(transferIdOf(command), startMs)).toEqual({
      begun: 1,
      TransferSent: 1,
      decided: 3,
      settled: 2,
      ...last,
    });
  });

  it("in one commit", async () => {
    await restage(ONE_LANE, true);
    const startMs = stage.nowMs;
    const payer = await stage.open("a", "100");
    const payee = await stage.open("a", "1");
    stage.lane("a").clockOffMs = hour;
    const command = transfer(payer, payee, "30");
    await stage.perform(command);
    expect(await hoursOf(transferIdOf(command), startMs)).toEqual({
      begun: 1,
      TransferSent: 1,
      decided: 1,
      settled: 1,
      TransferReceived: 1,
    });
  });
});

// --- Messages that come late, twice or never -----------------------------------------------------

describe("a message between payer and payee", () => {
  it.each([1, 2])(
    "that posts, late and after a refusal, makes no money (attempt %i)",
    async (attempt) => {
      // Given a payee that was suspended when the money came, so that it went back
      const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", "1")];
      const asked = await sendHeld(transfer(payer, payee, "30"), "post");
      const late = { ...(stage.held[0] as PostMessage), attempt };
      await order(payee, "suspend");
      await stage.release();
      expect(summaryOf(onlyOutcome(asked))).toBe("wallet_not_active");
      expect(await balances(payer, payee)).toEqual([100, 1]);
      // When the payee would take it, and the same message comes again
      await order(payee, "activate");
      stage.deliver(late);
      await stage.quiet();
      stage.deliver(late, late);
      await stage.settle();
      // Then the first word stands
      expect(await balances(payer, payee)).toEqual([100, 1]);
      expect(stage.sent.at(-1)).toMatchObject({ type: "verdict", verdict: { type: "refused" } });
    },
  );

  it.each([
    ["in one batch", "at once"],
    ["while the first is being committed", "during"],
    ["after the payee's lane was replaced", "later"],
  ])("that posts, twice %s, pays once", async (_when, when) => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const asked = await sendHeld(transfer(payer, payee, "30"), "post");
    const post = stage.held[0]!;
    if (when === "at once") stage.deliver(post, post, post);
    else stage.deliver(post);
    if (when === "during") {
      stage.lane("b").hooks.append = async (_writes, apply) => {
        stage.deliver(post);
        return await apply();
      };
    }
    await stage.quiet();
    delete stage.lane("b").hooks.append;
    if (when === "later") await stage.replace("b");
    stage.deliver(post);
    await stage.release();
    expect(summaryOf(onlyOutcome(asked))).toBe("posted");
    expect(await balances(payer, payee)).toEqual([70, 30]);
  });

  it("that brings the verdict is lost: the payer asks again, and settles once", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    drop("verdict");
    const [asked] = stage.send(transfer(payer, payee, "30"));
    await stage.quiet();
    expect(await balances(payer, payee)).toEqual([70, 30]);
    expect(asked!.outcomes).toEqual([]);

    pass();
    await stage.tick(LIMITS.transferDriveMs);

    expect(onlyOutcome(asked!)).toMatchObject({
      type: "transferred",
      transfer: { status: "posted", to: null, toWalletId: payee, toVersion: 1 },
    });
    expect(await balances(payer, payee)).toEqual([70, 30]);
  });

  it("that brings a refusal is lost: the payer asks again, and gets its money back once", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const asked = await sendHeld(transfer(payer, payee, "30"), "post");
    await order(payee, "close");
    drop("verdict");
    await stage.release();
    expect(await balances(payer)).toEqual([70]);
    pass();
    await stage.settle();
    expect(summaryOf(onlyOutcome(asked))).toBe("wallet_not_active");
    expect(await balances(payer)).toEqual([100]);
  });

  it("that reserves comes twice, and once more after the end: the money leaves once", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const asked = await sendHeld(transfer(payer, payee, "30"), "asked");
    const reserve = stage.held[0]!;
    stage.deliver(reserve, reserve);
    await stage.release();
    stage.deliver(reserve);
    await stage.quiet();
    expect(new Set(asked.outcomes.map((it) => it.type))).toEqual(
      new Set(["transferred", "replayed"]),
    );
    expect(await balances(payer, payee)).toEqual([70, 30]);
  });

  it.each([
    ["the same message again", 1, "suspend", [100, 0]],
    ["the gateway's second attempt", 2, "suspend", [100, 0]],
    ["the gateway's second attempt", 2, null, [70, 30]],
  ] as const)(
    "of a transfer that is pending already, %s (attempt %i), leaves it to be settled",
    async (_what, attempt, change, expected) => {
      const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
      const asked = await sendHeld(transfer(payer, payee, "30"), "post");
      stage.deliver({ ...asked.message, attempt });
      await stage.quiet();
      if (change !== null) await order(payee, change);
      await stage.release();
      await stage.settle();
      expect(await balances(payer, payee)).toEqual(expected);
      expect(new Set(asked.outcomes.map(summaryOf)).size).toBe(1);
    },
  );

  it("that brings the verdict comes twice, late, and for a transfer nobody knows: nothing moves", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const asked = await sendHeld(transfer(payer, payee, "30"), "verdict");
    const [verdict] = stage.held;
    stage.deliver(verdict!, verdict!);
    await stage.release();
    const { version } = (
      await database.query<{ version: number }>(
        "SELECT version FROM wallets WHERE wallet_id = $1",
        [payer],
      )
    )[0]!;
    const rejection = { code: "wallet_not_found", walletId: payee } as const;
    const refused = { ...verdict!, verdict: { type: "refused", rejection } } as ShardMessage;
    stage.deliver(verdict!, refused, { ...refused, transferId: "unheard of" } as ShardMessage);
    await stage.settle();
    expect(asked.outcomes).toHaveLength(1);
    expect(await balances(payer, payee)).toEqual([70, 30]);
    expect(version).toBe(2);
  });

  it.each(["ask", "asked"] as const)(
    "of type %s is lost: nothing has happened, and a repeat begins anew",
    async (type) => {
      const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
      const command = transfer(payer, payee, "30");
      drop(type);
      const [asked] = stage.send(command);
      await stage.quiet();
      expect(asked!.outcomes).toEqual([]);
      expect(await balances(payer, payee)).toEqual([100, 0]);
      pass();
      const again = stage.sendAs(command, { attempt: 2 });
      await stage.quiet();
      expect(summaryOf(onlyOutcome(again))).toBe("posted");
    },
  );

  it("of every type comes twice: money moves once, answers agree", async () => {
    stage.wire = () => "twice";
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const commands = [
      transfer(payer, payee, "30"),
      transfer(payee, payer, "50"),
      transfer(payer, "nobody", "1"),
    ];
    const asked = stage.send(...commands, ...commands);
    await stage.settle();
    expect(asked.map((one) => summaryOf(one.outcomes[0]))).toEqual(
      expect.arrayContaining(["posted", "insufficient_funds", "wallet_not_found"]),
    );
    expect(await balances(payer, payee)).toEqual([70, 30]);
  });
});

// --- Deadlines and repeats -----------------------------------------------------------------------

describe("a command for a transfer", () => {
  it("is answered as pending before its deadline while the payee cannot be reached, and settles later", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const command = transfer(payer, payee, "30");
    drop("post");
    const asked = stage.sendAs(command, { budgetMs: 5_000 });
    const deadlineMs = stage.nowMs + 5_000;
    await stage.quiet();
    while (asked.outcomes.length === 0 && stage.nowMs < deadlineMs) await stage.tick();

    expect(onlyOutcome(asked)).toMatchObject({
      type: "transferred",
      transfer: { status: "pending", from: { balanceMinor: 7_000 }, to: null, toVersion: null },
    });
    expect(stage.nowMs).toBeLessThan(deadlineMs);
    expect(await transferRow(transferIdOf(command))).toMatchObject({ status: "pending" });

    // One who asks again waits too, also at a lane that knows the transfer only from the journal
    await stage.replace("a");
    const again = stage.sendAs(repeated(command), { budgetMs: 5_000, attempt: 2 });
    await stage.quiet();
    expect(again.outcomes).toEqual([]);
    while (again.outcomes.length === 0) await stage.tick();
    expect(summaryOf(onlyOutcome(again))).toBe("replayed 2");
    expect(stage.nowMs).toBeLessThan(deadlineMs + 5_000);

    pass();
    await stage.settle();
    expect(await balances(payer, payee)).toEqual([70, 30]);
    expect(asked.outcomes).toHaveLength(1);
  });

  it("asks a silent payee less and less often", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    drop("post");
    stage.send(transfer(payer, payee, "30"));
    await stage.quiet();
    const startMs = stage.nowMs;
    const timesMs: number[] = [];
    stage.wire = (message) => {
      if (message.type === "post") timesMs.push(stage.nowMs - startMs);
      return "drop";
    };
    for (let ticks = 0; ticks < 300; ticks += 1) await stage.tick();
    expect(timesMs).toEqual([500, 1_500, 3_500, 7_500, 15_500, 25_500]);
  });

  it("that begins too late for its caller does not begin", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    hold("asked");
    const asked = stage.sendAs(transfer(payer, payee, "30"), { budgetMs: 3_000 });
    await stage.quiet();
    await stage.tick(3_000);
    await stage.release();
    await stage.tick();
    expect(asked.outcomes).toEqual([]);
    expect(await balances(payer, payee)).toEqual([100, 0]);
  });

  it("whose question waits for a lane with another time waits as long as anywhere", async () => {
    // Given a payee's lane on a host whose time is minutes ahead, and whose next commit is full
    withLimits({ commitMessagesMax: 1 });
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const lane = stage.lane("b");
    lane.aheadMs = 300_000;
    await stage.tick();
    const gate = gateOf(lane);
    const ids = [stage.idIn("b"), stage.idIn("b")];
    await begin(...ids.map((walletId) => commandOf(walletId, creation(null))));
    const [asked] = await begin(transfer(payer, payee, "30"));
    // When time passes
    for (let ticks = 0; ticks < 5; ticks += 1) await stage.tick();
    expect(lane.lane.stats()).toMatchObject({ backlog: 1 });
    // Then it is answered as soon as there is room
    await gate.open();
    await stage.settle();
    expect(summaryOf(onlyOutcome(asked!))).toBe("posted");
    expect(await balances(payer, payee)).toEqual([70, 30]);
  });

  it("whose question waits for a lane with another time is refused in time there, too", async () => {
    // Given such a lane, which cannot be sure of its last commit, and a payer that wakes slowly
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const lane = stage.lane("b");
    lane.aheadMs = 300_000;
    lane.hooks.append = () => Promise.resolve({ type: "unknown", reason: "staged" });
    lane.hooks.claim = () => Promise.reject(new Error("away"));
    await begin(commandOf(stage.idIn("b"), creation(null)));
    await stage.tick(LIMITS.actorIdleMs + LIMITS.actorSweepMs);
    let wake = (): void => undefined;
    const { hooks } = stage.lane("a");
    hooks.loadWallets = async (load) => {
      await new Promise<void>((resolve) => (wake = resolve));
      return load();
    };
    const deadlineMs = stage.nowMs + LIMITS.commandDeadlineMs;
    const [asked] = await begin(transfer(payer, payee, "30"));
    await stage.tick(LIMITS.commandAttemptMs);
    delete hooks.loadWallets;
    wake();
    await stage.quiet();
    // When time passes
    while (asked!.outcomes.length === 0 && stage.nowMs < deadlineMs) await stage.tick();
    // Then the caller hears that nothing happened
    expect(onlyOutcome(asked!)).toEqual({ type: "fault", fault: "unavailable" });
    expect(stage.nowMs).toBeLessThan(deadlineMs);
  });

  it.each([
    ["question waits for the payee's lane", "b", "ask"],
    ["answer waits for the payer's lane", "a", "asked"],
  ] as const)(
    "whose %s to serve again is refused in time, and makes room",
    async (_what, name, type) => {
      // Given a lane that cannot find out what became of a commit
      const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
      const asked = await sendHeld(transfer(payer, payee, "30"), type);
      const deadlineMs = stage.nowMs + LIMITS.commandDeadlineMs;
      const lane = stage.lane(name);
      lane.hooks.append = () => Promise.resolve({ type: "unknown", reason: "staged" });
      lane.hooks.claim = () => Promise.reject(new Error("away"));
      await begin(commandOf(stage.idIn(name), creation(null)));
      expect(lane.lane.stats()).toMatchObject({ serving: false, backlog: 1 });

      // When the message reaches it, and time passes
      await stage.release();
      expect(lane.lane.stats().backlog).toBe(2);
      while (asked.outcomes.length === 0 && stage.nowMs < deadlineMs) await stage.tick();

      // Then the caller hears that nothing happened, and nothing does
      expect(onlyOutcome(asked)).toEqual({ type: "fault", fault: "unavailable" });
      expect(stage.nowMs).toBeLessThan(deadlineMs);
      await stage.tick(LIMITS.commandDeadlineMs);
      expect(lane.lane.stats().backlog).toBe(0);
      delete lane.hooks.append;
      delete lane.hooks.claim;
      await stage.settle();
      expect(await balances(payer, payee)).toEqual([100, 0]);
    },
  );

  it.each(["unknown, written", "unknown, not written"] as const)(
    "whose reservation is %s is never said not to have happened",
    async (fate) => {
      const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
      const lane = stage.lane("a");
      lane.hooks.claim = () => Promise.reject(new Error("away"));
      const gate = gateOf(lane);
      const [asked] = await begin(transfer(payer, payee, "30"));
      await gate.pass(fate);
      for (let ticks = 0; ticks < LIMITS.commandDeadlineMs / LIMITS.laneTickMs; ticks++) {
        expect(lane.lane.stats().backlog).toBe(1);
        await stage.tick();
      }
      expect(asked!.outcomes).toEqual([]);
      expect(lane.lane.stats().backlog).toBe(0);
      await gate.open();
      delete lane.hooks.claim;
      await stage.settle();
      expect(await balances(payer, payee)).toEqual(
        fate === "unknown, written" ? [70, 30] : [100, 0],
      );
    },
  );

  it.each([
    ["while it is asked about", "asked"],
    ["while it is pending", "post"],
    ["when it is settled", null],
  ] as const)(
    "that carries another input under the same id is a conflict %s",
    async (_when, type) => {
      const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
      const command = transfer(payer, payee, "30");
      const other = { ...transfer(payer, payee, "60"), commandId: command.commandId };
      if (type === null) await stage.perform(command);
      else await sendHeld(command, type);
      const [conflict] = stage.send(other);
      await stage.release();
      await stage.settle();
      const summaries = [summaryOf(conflict!.outcomes[0])];
      if (type === "asked") summaries.push(summaryOf(await stage.perform(repeated(command))));
      // Whichever reserved first is the command; the other one is the conflict
      expect(summaries).toContain("idempotency_conflict");
      expect([
        [70, 30],
        [40, 60],
      ]).toContainEqual(await balances(payer, payee));
    },
  );

  it("that has another asset than its payee is rejected, and a repeat is rejected alike", async () => {
    const payer = await stage.open("a", "100");
    const payee = stage.idIn("b");
    await stage.perform(
      commandOf(payee, {
        type: "create",
        ownerId: null,
        currency: "JPY",
        decimalPlaces: 0,
        initialBalance: null,
        metadata: "{}",
      }),
    );
    const command = transfer(payer, payee, "30");
    const first = await stage.perform(command);
    expect(first).toMatchObject({
      rejection: {
        code: "currency_mismatch",
        walletId: payee,
        currency: "JPY",
        expectedCurrency: "USD",
      },
    });
    await stage.replace("a");
    expect(await stage.perform(repeated(command))).toEqual({ ...first, replayed: true });
  });
});
