/**
 * What a lane owes its callers while commits are slow, refused, fenced or of unknown outcome: no answer before the outcome is
 * known, each command carried out once, and no rejection decided on a state that never came to be. The database is real; a hook
 * before it holds a commit, refuses it, or makes it and says that nobody knows.
 */
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { AppendResult, Writes } from "../src/journal.ts";
import { LIMITS } from "../src/limits.ts";
import type { Command, Outcome } from "../src/protocol.ts";
import { ALL_SHARDS, shardOf } from "../src/shard.ts";
import {
  checkBooks,
  commandOf,
  creation,
  credit,
  debit,
  EVEN,
  idIn,
  onlyOutcome,
  openDatabase,
  stageLanes,
  summaryOf,
  transfer,
  unique,
  withLimits,
  type Asked,
  type Stage,
  type StagedLane,
  type TestDatabase,
} from "./staging.ts";

let database: TestDatabase;
let stage: Stage;

beforeAll(async () => {
  database = await openDatabase("lane_test");
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

// --- Commits that wait for the test ---------------------------------------------------------------------------------------

type Fate = "committed" | "refused" | "stale" | "unknown, written" | "unknown, not written";

const FAILURES: Fate[] = ["refused", "stale", "unknown, written", "unknown, not written"];

interface Gate {
  /** The commits that wait now, oldest first. */
  readonly waiting: Writes[];
  /** Lets the oldest one meet its fate, and waits until all is quiet. */
  pass(fate: Fate): Promise<void>;
  /** Opens for good. */
  open(): Promise<void>;
}

/** Holds every commit of the lane. */
function gateOf({ hooks }: StagedLane = stage.lane("a")): Gate {
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
async function begin(...commands: Command[]): Promise<Asked[]> {
  const asked = stage.send(...commands);
  await stage.quiet();
  return asked;
}

function summaries(asked: readonly Asked[]): string[] {
  return asked.map((one) => summaryOf(one.outcomes[0]));
}

/** Balance, and how many events the commands made. */
async function bookOf(walletId: string, commands: readonly Command[] = []): Promise<object> {
  const [row] = await database.query<{ balance: number; version: number }>(
    "SELECT balance / 100.0 AS balance, version FROM wallets WHERE wallet_id = $1",
    [walletId],
  );
  const ids = commands.map(({ commandId }) => commandId);
  const events = await database.query("SELECT FROM events WHERE command_id = ANY ($1)", [ids]);
  return { balance: row!.balance, events: events.length };
}

// --- Group commit -----------------------------------------------------------------------------------------------------------

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

// --- A database that is away ------------------------------------------------------------------------------------------------

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

  it("a lane that cannot read a wallet tries again, and answers then", async () => {
    const wallet = await stage.open("a", "10");
    const { hooks } = await stage.replace("a");
    hooks.loadWallets = () => Promise.reject(new Error("away"));
    const asked = await begin(credit(wallet, "1"), debit(wallet, "11"));
    const late = stage.sendAs(credit(wallet, "1"), { budgetMs: 1_000 });
    for (let ticks = 0; ticks < 10; ticks += 1) await stage.tick();
    expect(summaries([...asked, late])).toEqual(["no answer", "no answer", "unavailable"]);
    delete hooks.loadWallets;
    await stage.tick();
    expect(summaries(asked)).toEqual(["done 2", "done 3"]);
  });
});

// --- Shards that are lost -----------------------------------------------------------------------------------------------------

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

// --- Bounds -----------------------------------------------------------------------------------------------------------------

describe("what a lane keeps is bounded", () => {
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
    expect(summaries(asked).filter((it) => it === "overloaded")).toHaveLength(3);
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
    expect(summaries(asked).filter((it) => it === "overloaded")).toHaveLength(3);
    delete hooks.append;
    await stage.settle();
    expect(await bookOf(wallet)).toMatchObject({ balance: 30 });
  });

  it("in one commit: what does not fit goes into the next, in order", async () => {
    withLimits({ commitMessagesMax: 8 });
    const wallet = await stage.open("a", "10");
    const appends = stage.lane("a").calls.append;
    const asked = await begin(...Array.from({ length: 30 }, () => credit(wallet, "1")));
    expect(summaries(asked)).toEqual(Array.from({ length: 30 }, (_, n) => `done ${n + 2}`));
    expect(stage.lane("a").calls.append).toBe(appends + 4);
  });

  it("in transfers under way: past it, overloaded before any money has left", async () => {
    withLimits({ pendingTransfersMax: 2 });
    await stage.close();
    const odd = ALL_SHARDS.filter((shard) => !EVEN.includes(shard));
    stage = await stageLanes({
      databaseUrl: database.url,
      lanes: [
        { name: "a", owner: "host-1", shards: EVEN },
        { name: "b", owner: "host-1", shards: odd },
      ],
    });
    const [payer, payee] = [await stage.open("a", "10"), await stage.open("b", null)];
    stage.wire = ({ type }) => (type === "post" ? "drop" : "pass");
    await begin(transfer(payer, payee, "1"), transfer(payer, payee, "1"));
    const [third] = await begin(transfer(payer, payee, "1"));
    expect(onlyOutcome(third!)).toEqual({ type: "fault", fault: "overloaded" });
    stage.wire = () => "pass";
    await stage.settle();
    expect(await bookOf(payer)).toMatchObject({ balance: 8 });
  });
});

// --- Actors that sleep ------------------------------------------------------------------------------------------------------

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

  it("leaves before its time when there are too many", async () => {
    withLimits({ actorsMax: 3 });
    const wallets: string[] = [];
    for (let count = 0; count < 6; count += 1) {
      wallets.push(await stage.open("a", "10"));
      await stage.tick();
    }
    await stage.tick();
    expect(stage.lane("a").lane.stats().actors).toBe(3);
    expect(summaries(await begin(...wallets.map((id) => debit(id, "10"))))).toEqual(
      wallets.map(() => "done 2"),
    );
  });
});

// --- One answer per command ---------------------------------------------------------------------------------------------------

describe("a command id", () => {
  it("that was rejected is rejected to the letter for ever, whatever the wallet is like since", async () => {
    const wallet = await stage.open("a", "10");
    const command = debit(wallet, "25.50");
    const first = await stage.perform(command);
    expect(first).toEqual({
      type: "rejected",
      replayed: false,
      rejection: {
        code: "insufficient_funds",
        walletId: wallet,
        availableMinor: 1_000,
        requestedMinor: 2_550,
        currency: "USD",
        decimalPlaces: 2,
      },
    });
    await stage.perform(credit(wallet, "100"));
    expect(await stage.perform(command)).toEqual({ ...first, replayed: true });
    await stage.tick(LIMITS.actorIdleMs * 2);
    expect(await stage.perform(command)).toEqual({ ...first, replayed: true });
    await stage.replace("a", "host-2");
    expect(await stage.perform(command)).toEqual({ ...first, replayed: true });
  });

  it.each([
    ["with another input", "other", "idempotency_conflict"],
    ["with the same input", "same", "replayed 2"],
  ])(
    "comes twice in one batch, again later and at another host, %s",
    async (_what, fingerprint, expected) => {
      const wallet = await stage.open("a", "10");
      const command = credit(wallet, "1", { fingerprint: "same" });
      const again = { ...command, fingerprint };
      expect(summaries(await begin(command, again, again))).toEqual(["done 2", expected, expected]);
      expect(summaries(await begin(again))).toEqual([expected]);
      await stage.replace("a", "host-2");
      expect(summaries(await begin(again))).toEqual([expected]);
      expect(await bookOf(wallet, [command])).toEqual({ balance: 11, events: 1 });
    },
  );

  it("that a gateway made is carried out once, even when its one message comes twice", async () => {
    const wallet = await stage.open("a", "10");
    const done = credit(wallet, "1", { fingerprint: null });
    const rejected = debit(wallet, "15", { fingerprint: null });
    const asked = await begin(done, rejected, done);
    asked.push(...(await begin(done)));
    await stage.perform(credit(wallet, "100"));
    asked.push(...(await begin(rejected)));
    expect(summaries(asked)).toEqual([
      "done 2",
      "insufficient_funds",
      "replayed 2",
      "replayed 2",
      "insufficient_funds",
    ]);
    expect(await bookOf(wallet, [done, rejected])).toEqual({ balance: 111, events: 1 });
  });

  it("means another command at another wallet", async () => {
    const wallets = [await stage.open("a", "10"), await stage.open("a", "10")];
    const commandId = unique("command");
    const asked = await begin(...wallets.map((id) => credit(id, "1", { commandId })));
    expect(summaries(asked)).toEqual(["done 2", "done 2"]);
  });
});

// --- Creations whose wallet id the gateway proposes -----------------------------------------------------------------------------

describe("a keyed creation without a wallet id", () => {
  const shards = [77];

  /** The same request, each time with another id proposed. */
  function creationOf(commandId: string): Command {
    return commandOf(idIn(shards), creation("10"), { commandId, proposedId: true });
  }

  function walletIdOf(outcome: Outcome | undefined): string {
    if (outcome?.type === "done") return outcome.wallet.walletId;
    if (outcome?.type === "replayed") return outcome.walletId;
    throw new Error(`no wallet: ${summaryOf(outcome)}`);
  }

  async function created(commandId: string): Promise<string[]> {
    const rows = await database.query<{ id: string }>(
      "SELECT wallet_id AS id FROM events WHERE command_id = $1",
      [commandId],
    );
    return rows.map(({ id }) => id);
  }

  it("makes one wallet, at once, later, and at another host", async () => {
    const key = unique("key");
    const asked = await begin(creationOf(key), creationOf(key));
    asked.push(...(await begin(creationOf(key))));
    await stage.replace("a", "host-2");
    asked.push(...(await begin(creationOf(key), creationOf(key))));
    const ids = asked.map((one) => walletIdOf(onlyOutcome(one)));
    expect(new Set(ids)).toEqual(new Set([asked[0]!.message.command.walletId]));
    expect(await created(key)).toHaveLength(1);
  });

  it.each(FAILURES)(
    "makes one wallet when its commit is %s and the same key comes meanwhile",
    async (fate) => {
      const key = unique("key");
      const gate = gateOf();
      const asked = await begin(creationOf(key));
      asked.push(...(await begin(creationOf(key))));
      await gate.pass(fate);
      asked.push(...(await begin(creationOf(key))));
      await stage.tick();
      await gate.open();
      await stage.settle();
      expect(new Set(asked.map((one) => walletIdOf(onlyOutcome(one)))).size).toBe(1);
      expect(await created(key)).toHaveLength(1);
    },
  );

  it.each(["0", "z"])(
    "is found again when the same key also created a wallet whose id begins with %s",
    async (prefix) => {
      const key = unique("key");
      const [first] = await begin(creationOf(key));
      for (const where of [shards, ALL_SHARDS]) {
        const named = prefix + idIn(where);
        await begin(commandOf(named, creation("10"), { commandId: key }));
      }
      const [again] = await begin(creationOf(key));
      expect(summaryOf(onlyOutcome(again!))).toBe("replayed 1");
      expect(walletIdOf(onlyOutcome(again!))).toBe(walletIdOf(onlyOutcome(first!)));
      expect(await created(key)).toHaveLength(3);
    },
  );

  it("that was rejected stays rejected, and another input under its key is a conflict", async () => {
    const key = unique("key");
    function request(amount: string): Command {
      const fingerprint = amount;
      return commandOf(idIn(shards), creation(amount), {
        commandId: key,
        fingerprint,
        proposedId: true,
      });
    }
    const [first] = await begin(request("10.555"));
    const [again] = await begin(request("10.555"));
    const [other] = await begin(request("10.55"));
    const rejections = [first, again, other].map((one) => onlyOutcome(one!));
    expect(rejections).toMatchObject([
      { type: "rejected", replayed: false, rejection: { code: "invalid_amount" } },
      { type: "rejected", replayed: true, rejection: { code: "invalid_amount" } },
      { type: "rejected", rejection: { code: "idempotency_conflict" } },
    ]);
    expect(await created(key)).toEqual([]);
  });

  it("race: the second one's lookup is slow, and answers after the first has committed", async () => {
    const key = unique("key");
    const lookups: Array<() => void> = [];
    stage.lane("a").hooks.loadCreated = async (load) => {
      const found = await load();
      await new Promise<void>((resolve) => lookups.push(resolve));
      return found;
    };
    const [first] = await begin(creationOf(key));
    const [second] = await begin(creationOf(key));
    delete stage.lane("a").hooks.loadCreated;
    lookups[0]!();
    await stage.quiet();
    expect(summaryOf(onlyOutcome(first!))).toBe("done 1");
    for (const answer of lookups.slice(1)) answer();
    await stage.quiet();
    expect(await created(key)).toEqual([walletIdOf(first!.outcomes[0])]);
    expect(walletIdOf(onlyOutcome(second!))).toBe(walletIdOf(first!.outcomes[0]));
  });

  it("race: a repeat that came too late ends while the first is being committed, and a third one comes", async () => {
    const key = unique("key");
    const gate = gateOf();
    const [first] = await begin(creationOf(key));
    stage.sendAs(creationOf(key), { budgetMs: 0 });
    await stage.quiet();
    const [third] = await begin(creationOf(key));
    await gate.open();
    expect(await created(key)).toEqual([walletIdOf(first!.outcomes[0])]);
    expect(walletIdOf(onlyOutcome(third!))).toBe(walletIdOf(first!.outcomes[0]));
  });
});
