/**
 * Transfers between two wallets that are awake in one lane, which are one commit: what it writes
 * and tells is what the protocol would have written and told, and all that it is not for takes the
 * protocol. What becomes of it when its commit fails is in transfer-shortcut-fates.test.ts. The
 * protocol itself is tested without it, in transfers.test.ts and transfer-crashes.test.ts.
 */
import { describe, expect, it } from "vitest";
import type { Command, CommandMessage } from "../src/core/protocol.ts";
import { EVEN, ODD } from "./stage/ids.ts";
import {
  balances,
  begin,
  BY_PROTOCOL,
  BY_SHORTCUT,
  commitsOf,
  database,
  gateOf,
  ONE_LANE,
  openIn,
  openTwo,
  restage,
  stage,
  summaries,
  transferIdOf,
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
  repeated,
  transfer,
} from "./stage/staged-commands.ts";
import { onlyOutcome, summaryOf, withLimits } from "./stage/lanes.ts";

useLaneStage("transfer_shortcut_test", ONE_LANE, true);

// --- As the protocol -----------------------------------------------------------------------------

/** Everything that is written and told of one transfer, in words that do not depend on its ids. */
async function traceOf(amount: string): Promise<object> {
  const [payer, payee] = await openTwo();
  for (const walletId of [payer, payee]) await stage.perform(placing(walletId, "0.50"));
  const command = transfer(payer, payee, amount, {
    description: 'rent of "May"',
    metadata: '{"case":17}',
  });
  const transferId = transferIdOf(command);
  stage.changes.splice(0);

  const told = await stage.perform(command);
  const again = await stage.perform(repeated(command));

  const written: Record<string, object[]> = {
    events: await database.query(
      `SELECT to_jsonb(e) - '{shard,position,hash}'::text[] AS row FROM events e
       WHERE wallet_id = ANY ($1) AND version > 1 ORDER BY wallet_id = $2, version`,
      [[payer, payee], payee],
    ),
    wallets: await database.query(
      `SELECT to_jsonb(w) - '{shard,hash}'::text[] AS row FROM wallets w WHERE wallet_id = ANY ($1) ORDER BY wallet_id = $2`,
      [[payer, payee], payee],
    ),
    transfers: await database.query(
      "SELECT to_jsonb(t) - 'shard' AS row FROM transfers t WHERE transfer_id = $1",
      [transferId],
    ),
    verdicts: await database.query(
      "SELECT to_jsonb(v) AS row FROM transfer_verdicts v WHERE transfer_id = $1",
      [transferId],
    ),
    rejections: await database.query(
      "SELECT to_jsonb(r) - 'recorded_at' AS row FROM rejections r WHERE wallet_id = $1",
      [payer],
    ),
  };
  const all = JSON.stringify({ written, told, again, changes: stage.changes })
    .replaceAll(payer, "the payer")
    .replaceAll(payee, "the payee")
    .replaceAll(transferId, "the transfer")
    .replaceAll(command.commandId, "the command")
    .replaceAll(/hold-\d+/g, "a hold")
    .replaceAll(/(command|correlation of command)-\d+/g, "the hold's");
  return { written: JSON.parse(all) as object, commits: await commitsOf(command) };
}

describe("what one commit writes, answers and tells of", () => {
  it.each([
    ["a transfer", "30", BY_SHORTCUT, BY_PROTOCOL],
    ["one that the payer has no money for", "99.51", 0, 0],
  ])("is what the protocol does: %s", async (_what, amount, byShortcut, byProtocol) => {
    const atOnce = await traceOf(amount);
    await restage(ONE_LANE);
    const inSteps = await traceOf(amount);

    expect(atOnce).toEqual({ ...inSteps, commits: byShortcut });
    expect(inSteps).toMatchObject({ commits: byProtocol });
  });

  it("has both wallets in the answer and in the feed, as they are right after", async () => {
    const [payer, payee] = await openTwo();
    const command = transfer(payer, payee, "30");
    expect(await stage.perform(command)).toMatchObject({
      type: "transferred",
      replayed: false,
      transfer: {
        transferId: transferIdOf(command),
        status: "posted",
        from: { walletId: payer, balanceMinor: 7_000, version: 2 },
        to: { walletId: payee, balanceMinor: 3_100, version: 2 },
        toWalletId: payee,
        toVersion: 2,
        hold: null,
      },
    });
    const told = stage.changes.slice(-2).map(({ type, wallet }) => [type, wallet.walletId]);
    expect(told).toEqual([
      ["TransferSent", payer],
      ["TransferReceived", payee],
    ]);
    expect(await commitsOf(command)).toBe(BY_SHORTCUT);
    expect(stage.lane("a").lane.stats().pendingTransfers).toBe(0);
  });

  it("has its id looked up with the commit: a repeat costs one, and disturbs nobody", async () => {
    const [payer, payee] = await openTwo();
    const command = transfer(payer, payee, "30");
    await stage.perform(command);
    const { calls } = stage.lane("a");
    const before = { ...calls };
    expect(summaryOf(await stage.perform(repeated(command)))).toBe("replayed 2");
    // And one read: what was decided on the way is dropped
    expect(calls).toEqual({
      ...before,
      append: before.append + 1,
      loadWallets: before.loadWallets + 1,
    });
  });

  it("is told and spent only when it is committed", async () => {
    const [payer, payee] = await openTwo();
    const gate = gateOf();
    const asked = await begin(transfer(payer, payee, "30"), debit(payee, "31"));
    expect(asked.flatMap(({ outcomes }) => outcomes)).toEqual([]);
    await gate.open();
    expect(summaries(asked)).toEqual(["posted", "done 3"]);
  });
});

// --- Refusals ------------------------------------------------------------------------------------

describe("a payee that does not take the money", () => {
  const euros = { ...creation(null), currency: "EUR" };
  it.each<[string, (payee: string) => Command[], string]>([
    ["does not exist", (payee) => [credit(payee, "1")], "wallet_not_found"],
    [
      "is suspended",
      (payee) => [commandOf(payee, creation(null)), commandOf(payee, { type: "suspend" })],
      "wallet_not_active",
    ],
    [
      "is closed",
      (payee) => [commandOf(payee, creation(null)), commandOf(payee, { type: "close" })],
      "wallet_not_active",
    ],
    ["has another asset", (payee) => [commandOf(payee, euros)], "currency_mismatch"],
    ["is full", (payee) => [commandOf(payee, creation("9999999999999.99"))], "amount_out_of_range"],
  ])("since it %s, refuses it for good", async (_why, prepare, code) => {
    const [payer, payee] = [await stage.open("a", "100"), stage.idIn("a")];
    for (const command of prepare(payee)) await stage.perform(command);
    const appends = stage.lane("a").calls.append;
    const command = transfer(payer, payee, "30");

    const outcome = await stage.perform(command);

    const rejection = { code, walletId: payee };
    expect(outcome).toMatchObject({ type: "rejected", rejection, replayed: false });
    expect(stage.lane("a").calls.append).toBe(appends + 1);
    expect(await stage.perform(repeated(command))).toEqual({ ...outcome, replayed: true });
    expect(await balances(payer)).toEqual([100]);
    expect(await commitsOf(command)).toBe(0);
  });

  it.each([
    ["suspended", "suspend", "1", ["done 2", "wallet_not_active"]],
    ["closed", "close", null, ["done 1", "wallet_not_active"]],
  ] as const)(
    "in the commit in which it is %s, refuses it",
    async (_how, type, balance, expected) => {
      const [payer, payee] = [await stage.open("a", "100"), await stage.open("a", balance)];
      const gate = gateOf();
      const asked = await begin(commandOf(payee, { type }), transfer(payer, payee, "30"));
      expect(gate.waiting).toHaveLength(1);
      // Not before that is true: the commit may fail
      expect(asked.flatMap(({ outcomes }) => outcomes)).toEqual([]);
      await gate.open();
      expect(summaries(asked)).toEqual(expected);
    },
  );

  it.each([
    ["suspended", "suspend", ["posted", "done 3"]],
    ["closed", "close", ["posted", "wallet_not_empty"]],
  ] as const)(
    "in the commit in which it is %s afterwards, has it",
    async (_how, type, expected) => {
      const [payer, payee] = await openTwo();
      const asked = await begin(transfer(payer, payee, "30"), commandOf(payee, { type }));
      expect(summaries(asked)).toEqual(expected);
      expect(await balances(payer, payee)).toEqual([70, 31]);
    },
  );

  it("has no room while what it has sent may come back", async () => {
    await restage(TWO_HOSTS, true);
    const payer = await stage.open("a", "100");
    const payee = await stage.open("a", "9999999999999.99");
    const third = await stage.open("b", null);
    stage.wire = (message) => (message.type === "post" ? "hold" : "pass");
    const [sent] = await begin(transfer(payee, third, "50"));
    const late = transfer(payer, payee, "0.01");
    expect(summaryOf(await stage.perform(late))).toBe("amount_out_of_range");
    stage.wire = () => "pass";
    await stage.release();
    await stage.settle();
    expect(summaryOf(onlyOutcome(sent!))).toBe("posted");
    const inTime = transfer(payer, payee, "50");
    expect(summaryOf(await stage.perform(inTime))).toBe("posted");
    expect(await commitsOf(inTime)).toBe(BY_SHORTCUT);
  });

  it("race: is another owner's by now, and takes it there", async () => {
    // Given a lane that does not know that it lost the payee, and remembers it as suspended
    const [payer, payee] = [await openIn(EVEN, "100"), await openIn(ODD, "1")];
    await stage.perform(commandOf(payee, { type: "suspend" }));
    const successor = await stage.add({ name: "b", owner: "host-2", shards: ODD });
    const activate: CommandMessage = {
      type: "command",
      inbox: "nobody",
      seq: -1,
      attempt: 1,
      budgetMs: 5_000,
      expiresAtMs: stage.nowMs + 5_000,
      command: commandOf(payee, { type: "activate" }),
    };
    const { replies } = await successor.lane.receive([activate], stage.nowMs, stage.nowMs);
    expect(replies.map(({ outcome }) => summaryOf(outcome))).toEqual(["done 3"]);

    const command = transfer(payer, payee, "30");
    const [asked] = await begin(command);
    await stage.settle();

    expect(summaryOf(onlyOutcome(asked!))).toBe("posted");
    expect(await commitsOf(command)).toBe(BY_PROTOCOL);
    expect(await balances(payer, payee)).toEqual([70, 31]);
  });
});

// --- What takes the protocol ---------------------------------------------------------------------

describe("the protocol is taken", () => {
  it("by a transfer to a wallet that sleeps, and not by the next one", async () => {
    const [payer, payee] = await openTwo();
    await stage.replace("a");
    await stage.perform(credit(payer, "1"));
    const commands = [transfer(payer, payee, "30"), transfer(payer, payee, "30")];
    for (const command of commands) {
      expect(summaryOf(await stage.perform(command))).toBe("posted");
      await stage.settle();
    }
    expect(await commitsOf(commands[0]!)).toBe(BY_PROTOCOL);
    expect(await commitsOf(commands[1]!)).toBe(BY_SHORTCUT);
  });

  it("by a transfer to a wallet that is being read", async () => {
    const [payer, payee] = await openTwo();
    const { hooks } = await stage.replace("a");
    await stage.perform(credit(payer, "1"));
    let read = (): void => undefined;
    hooks.loadWallets = async (load) => {
      await new Promise<void>((resolve) => void (read = resolve));
      return await load();
    };
    const command = transfer(payer, payee, "30");
    const asked = await begin(credit(payee, "1"), command);
    expect(asked.flatMap(({ outcomes }) => outcomes)).toEqual([]);
    read();
    await stage.settle();
    expect(summaries(asked)).toEqual(["done 2", "posted"]);
    expect(await commitsOf(command)).toBe(BY_PROTOCOL);
  });

  it("by a transfer to a wallet of another lane", async () => {
    await restage(TWO_HOSTS, true);
    const command = transfer(await stage.open("a", "100"), await stage.open("b", "1"), "30");
    expect(summaryOf(await stage.perform(command))).toBe("posted");
    await stage.settle();
    expect(await commitsOf(command)).toBe(BY_PROTOCOL);
  });

  it("by a transfer to a wallet whose shard the lane has to give up", async () => {
    const [payer, payee] = [await openIn(EVEN, "100"), await openIn(ODD, "1")];
    // Given a commit that keeps the payee here although its shard is assigned elsewhere
    const gate = gateOf();
    const [before] = await begin(credit(payee, "1"));
    const { lane } = stage.lane("a");
    lane.tick(stage.nowMs, EVEN, stage.nowMs);
    const command = transfer(payer, payee, "30");
    stage.wire = () => "hold";
    const [asked] = await begin(command);
    expect(stage.held.map(({ type }) => type)).toEqual(["ask"]);
    await gate.open();
    // The shard comes back
    await stage.tick();
    stage.wire = () => "pass";
    await stage.release();
    await stage.settle();
    expect(summaries([before!, asked!])).toEqual(["done 2", "posted"]);
    expect(await commitsOf(command)).toBe(BY_PROTOCOL);
  });

  it.each([false, true])("by a capture that pays a wallet (final: %s)", async (final) => {
    const [payer, payee] = await openTwo();
    const held = placing(payer, "40");
    await stage.perform(held);
    const holdId = held.body.type === "hold" ? held.body.holdId : "";
    const command = capture({ walletId: payer, holdId }, "30", { final, toWalletId: payee });
    expect(summaryOf(await stage.perform(command))).toBe("posted");
    await stage.settle();
    expect(await commitsOf(command)).toBe(BY_PROTOCOL);
    const [row] = await database.query("SELECT balance, held FROM wallets WHERE wallet_id = $1", [
      payer,
    ]);
    expect(row).toEqual({ balance: 7_000, held: final ? 0 : 1_000 });
  });

  it("by every transfer where the shortcut is off", async () => {
    await restage(ONE_LANE);
    const [payer, payee] = await openTwo();
    const command = transfer(payer, payee, "30");
    await stage.perform(command);
    await stage.settle();
    expect(await commitsOf(command)).toBe(BY_PROTOCOL);
  });

  it("by a dry run, which writes nothing", async () => {
    const [payer, payee] = await openTwo();
    const command = transfer(payer, payee, "30", { dryRun: true });
    expect(await stage.perform(command)).toMatchObject({
      transfer: { status: "posted", from: { balanceMinor: 7_000 }, to: { balanceMinor: 3_100 } },
    });
    expect(await commitsOf(command)).toBe(0);
    expect(await balances(payer, payee)).toEqual([100, 1]);
  });
});

// --- Beside the protocol -------------------------------------------------------------------------

it.each([
  ["the gateway's second attempt", (command: Command) => command, 2],
  ["a repeat under the key", repeated, 1],
] as const)(
  "race: %s finds the payee awake, in the commit that settles what the first one began: it is settled",
  async (_what, again, attempt) => {
    // Given a payee that slept when the first attempt came, whose verdict is in a commit under way
    const [payer, payee] = await openTwo();
    await stage.replace("a");
    await stage.perform(credit(payer, "1"));
    const gate = gateOf();
    const command = transfer(payer, payee, "30");
    const [first] = await begin(command);
    await gate.pass("committed");
    expect(gate.waiting.map(({ verdicts }) => verdicts.length)).toEqual([1]);
    // When the command comes again into the next commit, and the verdict comes there too
    const second = stage.sendAs(again(command), { attempt });
    await stage.quiet();
    await begin(credit(payer, "1"));
    await gate.pass("committed");
    await gate.open();
    await stage.settle();

    expect(summaryOf(onlyOutcome(first!))).toBe("posted");
    expect(summaryOf(onlyOutcome(second))).toMatch(/posted|replayed 3/);
    expect(stage.lane("a").lane.stats().pendingTransfers).toBe(0);
    expect(await balances(payer, payee)).toEqual([72, 31]);
  },
);

it("uses what is not in transit, while another transfer of the payer is pending by the protocol", async () => {
  await restage(TWO_HOSTS, true);
  const [payer, near] = await openTwo();
  const far = await stage.open("b", null);
  stage.wire = (message) => (message.type === "post" ? "hold" : "pass");
  const [pending] = await begin(transfer(payer, far, "60"));
  const said = [];
  for (const amount of ["41", "40"])
    said.push(summaryOf(await stage.perform(transfer(payer, near, amount))));
  expect(said).toEqual(["insufficient_funds", "posted"]);
  const close = await stage.perform(commandOf(payer, { type: "close" }));
  expect(close).toMatchObject({ rejection: { code: "wallet_not_empty", pendingMinor: 6_000 } });
  // The payee refuses, so the money comes back to a payer that has paid at once meanwhile
  await stage.perform(commandOf(far, { type: "suspend" }));
  stage.wire = () => "pass";
  await stage.release();
  await stage.settle();
  expect(summaryOf(onlyOutcome(pending!))).toBe("wallet_not_active");
  expect(await balances(payer, near)).toEqual([60, 41]);
});

it("leaves alone what either wallet holds", async () => {
  const [payer, payee] = await openTwo();
  for (const walletId of [payer, payee]) await stage.perform(placing(walletId, "1"));
  expect(summaryOf(await stage.perform(transfer(payer, payee, "99.01")))).toBe(
    "insufficient_funds",
  );
  expect(summaryOf(await stage.perform(transfer(payer, payee, "99")))).toBe("posted");
  expect(summaryOf(await stage.perform(transfer(payee, payer, "99.01")))).toBe(
    "insufficient_funds",
  );
  expect(summaryOf(await stage.perform(transfer(payee, payer, "99")))).toBe("posted");
});

// --- Many in one commit --------------------------------------------------------------------------

describe("in one commit", () => {
  it("a wallet is created and paid", async () => {
    const [payer, payee] = [await stage.open("a", "100"), stage.idIn("a")];
    // Awake, and not there
    await stage.perform(credit(payee, "1"));
    const command = transfer(payer, payee, "30");
    const commits = stage.lane("a").lane.stats().commits;
    const asked = await begin(commandOf(payee, creation(null)), command);
    expect(summaries(asked)).toEqual(["done 0", "posted"]);
    expect(stage.lane("a").lane.stats().commits).toBe(commits + 1);
    expect(await commitsOf(command)).toBe(BY_SHORTCUT);
    expect(await balances(payee)).toEqual([30]);
  });

  it("transfers cross, each of all that there is", async () => {
    const [one, two] = [await stage.open("a", "10"), await stage.open("a", "20")];
    const commits = stage.lane("a").lane.stats().commits;
    const asked = await begin(
      transfer(one, two, "10"),
      transfer(two, one, "30"),
      transfer(one, two, "30"),
    );
    expect(summaries(asked)).toEqual(["posted", "posted", "posted"]);
    expect(stage.lane("a").lane.stats().commits).toBe(commits + 1);
    expect(await balances(one, two)).toEqual([0, 30]);
  });

  it("a wallet pays all that it has and is closed", async () => {
    const [payer, payee] = await openTwo();
    const asked = await begin(transfer(payer, payee, "100"), commandOf(payer, { type: "close" }));
    expect(summaries(asked)).toEqual(["posted", "done 3"]);
  });

  it("600 of a thousand transfers are posted when there is money for 600", async () => {
    const payer = await stage.open("a", "600");
    const payees = await Promise.all([1, 2, 3].map(() => stage.open("a", null)));
    const commits = stage.lane("a").lane.stats().commits;
    const commands = Array.from({ length: 1_000 }, (_, n) => transfer(payer, payees[n % 3]!, "1"));

    const asked = await begin(...commands);

    const said = asked.map(onlyOutcome).map(summaryOf);
    expect(said.filter((one) => one === "posted")).toHaveLength(600);
    expect(said.filter((one) => one === "insufficient_funds")).toHaveLength(400);
    expect(stage.lane("a").lane.stats().commits).toBe(commits + 1);
    expect(await balances(payer, ...payees)).toEqual([0, 200, 200, 200]);
  });

  it("no more transfers are taken than messages fit; the others go into the next", async () => {
    withLimits({ commitMessagesMax: 10 });
    const [payer, payee] = await openTwo();
    const gate = gateOf();
    const asked = await begin(...Array.from({ length: 30 }, () => transfer(payer, payee, "1")));
    const sizes: number[] = [];
    while (gate.waiting.length > 0) {
      sizes.push(gate.waiting[0]!.transfers.length);
      await gate.pass("committed");
    }
    expect(sizes).toEqual([10, 10, 10]);
    expect(new Set(summaries(asked))).toEqual(new Set(["posted"]));
  });
});

it("a wallet that is only ever paid stays awake for it", async () => {
  withLimits({ actorIdleMs: 1_000, actorSweepMs: 100 });
  const [payer, payee] = await openTwo();
  const commands = Array.from({ length: 4 }, () => transfer(payer, payee, "1"));
  for (const command of commands) {
    await stage.tick(800);
    await stage.perform(command);
  }
  for (const command of commands) expect(await commitsOf(command)).toBe(BY_SHORTCUT);
});
