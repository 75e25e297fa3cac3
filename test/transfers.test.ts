/**
 * The transfer protocol on a real database, with every hazard staged: messages between payer and payee that come late, twice or
 * never, lanes that die before and after each commit, wallets that change between two steps. After each test time runs until all
 * is quiet, and the books must be in order: nothing in transit, every transfer settled, every history whole.
 *
 * Replay a failure of the last test: fast-check prints its seed; `FC_SEED=<seed> npx vitest run test/transfers.test.ts -t chance`.
 */
import fc from "fast-check";
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from "vitest";
import type { AppendResult, Writes } from "../src/journal.ts";
import { LIMITS } from "../src/limits.ts";
import type { Command, Outcome, PostMessage, ShardMessage } from "../src/protocol.ts";
import { ALL_SHARDS } from "../src/shard.ts";
import {
  checkBooks,
  commandOf,
  credit,
  debit,
  EVEN,
  NEVER,
  ODD,
  onlyOutcome,
  openDatabase,
  repeated,
  stageLanes,
  summaryOf,
  transfer,
  unique,
  type Asked,
  type LanePlan,
  type Stage,
  type StagedLane,
  type TestDatabase,
} from "./staging.ts";

let database: TestDatabase;
let stage: Stage;

beforeAll(async () => {
  database = await openDatabase("transfers_test");
});

afterAll(async () => {
  await database.close();
});

const ONE_LANE: LanePlan[] = [{ name: "a", owner: "host-1", shards: ALL_SHARDS }];
const TWO_LANES: LanePlan[] = [
  { name: "a", owner: "host-1", shards: EVEN },
  { name: "b", owner: "host-1", shards: ODD },
];
const TWO_HOSTS: LanePlan[] = [
  { name: "a", owner: "host-1", shards: EVEN },
  { name: "b", owner: "host-2", shards: ODD },
];

async function restage(lanes: LanePlan[]): Promise<void> {
  await stage.close();
  stage = await stageLanes({ databaseUrl: database.url, lanes });
}

/** By default the payer lives in lane a, the payee in lane b of another host. */
beforeEach(async () => {
  stage = await stageLanes({ databaseUrl: database.url, lanes: TWO_HOSTS });
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

async function balances(...walletIds: string[]): Promise<string> {
  const rows = await database.query<{ balance: number }>(
    `SELECT balance FROM unnest($1::text[]) WITH ORDINALITY ids(wallet_id, n) JOIN wallets USING (wallet_id) ORDER BY n`,
    [walletIds],
  );
  return rows.map(({ balance }) => (balance / 100).toFixed(2)).join(" ");
}

function hold(type: ShardMessage["type"]): void {
  stage.wire = (message) => (message.type === type ? "hold" : "pass");
}

function drop(type: ShardMessage["type"]): void {
  stage.wire = (message) => (message.type === type ? "drop" : "pass");
}

function pass(): void {
  stage.wire = () => "pass";
}

function order(walletId: string, type: "suspend" | "activate" | "close"): Promise<Outcome> {
  return stage.perform(commandOf(walletId, { type }));
}

async function sendHeld(command: Command, type: ShardMessage["type"]): Promise<Asked> {
  hold(type);
  const [asked] = stage.send(command);
  await stage.quiet();
  expect(asked!.outcomes).toEqual([]);
  pass();
  return asked!;
}

async function transferRow(transferId: string): Promise<object | undefined> {
  const [row] = await database.query(
    "SELECT status, rejection FROM transfers WHERE transfer_id = $1",
    [transferId],
  );
  return row;
}

function transferIdOf({ body }: Command): string {
  if (body.type !== "transfer") throw new Error(`${body.type} is no transfer`);
  return body.transferId;
}

// --- Without trouble --------------------------------------------------------------------------------------------------------

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
    expect(await balances(payer, payee)).toBe("70.00 31.00");
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
    expect(await balances(payer, payee)).toBe("70.00 30.00");
  });

  it("lets two transfers cross, each of all that there is", async () => {
    const [one, two] = [await stage.open(payerLane, "10"), await stage.open(payeeLane, "20")];
    const asked = stage.send(transfer(one, two, "10"), transfer(two, one, "20"));
    await stage.quiet();
    expect(asked.map((it) => summaryOf(onlyOutcome(it)))).toEqual(["posted", "posted"]);
    expect(await balances(one, two)).toBe("20.00 10.00");
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
    expect(await balances(payer)).toBe("0.00");
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

// --- Messages that come late, twice or never ----------------------------------------------------------------------------------

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
      expect(await balances(payer, payee)).toBe("100.00 1.00");
      // When the payee would take it, and the same message comes again
      await order(payee, "activate");
      stage.deliver(late);
      await stage.quiet();
      stage.deliver(late, late);
      await stage.settle();
      // Then the first word stands
      expect(await balances(payer, payee)).toBe("100.00 1.00");
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
    expect(await balances(payer, payee)).toBe("70.00 30.00");
  });

  it("that brings the verdict is lost: the payer asks again, and settles once", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    drop("verdict");
    const [asked] = stage.send(transfer(payer, payee, "30"));
    await stage.quiet();
    expect(await balances(payer, payee)).toBe("70.00 30.00");
    expect(asked!.outcomes).toEqual([]);

    pass();
    await stage.tick(LIMITS.transferDriveMs);

    expect(onlyOutcome(asked!)).toMatchObject({
      type: "transferred",
      transfer: { status: "posted", to: null, toWalletId: payee, toVersion: 1 },
    });
    expect(await balances(payer, payee)).toBe("70.00 30.00");
  });

  it("that brings a refusal is lost: the payer asks again, and gets its money back once", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const asked = await sendHeld(transfer(payer, payee, "30"), "post");
    await order(payee, "close");
    drop("verdict");
    await stage.release();
    expect(await balances(payer)).toBe("70.00");
    pass();
    await stage.settle();
    expect(summaryOf(onlyOutcome(asked))).toBe("wallet_not_active");
    expect(await balances(payer)).toBe("100.00");
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
    expect(await balances(payer, payee)).toBe("70.00 30.00");
  });

  it.each([
    ["the same message again", 1, "suspend", "100.00 0.00"],
    ["the gateway's second attempt", 2, "suspend", "100.00 0.00"],
    ["the gateway's second attempt", 2, null, "70.00 30.00"],
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
      expect(await balances(payer, payee)).toBe(expected);
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
    expect(await balances(payer, payee)).toBe("70.00 30.00");
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
      expect(await balances(payer, payee)).toBe("100.00 0.00");
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
    expect(await balances(payer, payee)).toBe("70.00 30.00");
  });
});

// --- Wallets that change between two steps --------------------------------------------------------------------------------------

describe("a wallet that changes between two steps", () => {
  it("was not there when asked: the rejection stands although the wallet was created since", async () => {
    const payer = await stage.open("a", "100");
    const payee = stage.idIn("b");
    const command = transfer(payer, payee, "30");
    const asked = await sendHeld(command, "asked");
    await stage.perform(
      commandOf(payee, {
        type: "create",
        ownerId: null,
        currency: "USD",
        decimalPlaces: 2,
        initialBalance: null,
        metadata: "{}",
      }),
    );
    await stage.release();
    const first = onlyOutcome(asked);
    expect(summaryOf(first)).toBe("wallet_not_found");
    expect(await stage.perform(repeated(command))).toEqual({ ...first, replayed: true });
    expect(summaryOf(await stage.perform(transfer(payer, payee, "30")))).toBe("posted");
  });

  it("is created before the question arrives: it is paid", async () => {
    const payer = await stage.open("a", "100");
    const payee = stage.idIn("b");
    const asked = await sendHeld(transfer(payer, payee, "30"), "ask");
    await stage.perform(
      commandOf(payee, {
        type: "create",
        ownerId: null,
        currency: "USD",
        decimalPlaces: 2,
        initialBalance: null,
        metadata: "{}",
      }),
    );
    await stage.release();
    expect(summaryOf(onlyOutcome(asked))).toBe("posted");
  });

  it.each([
    ["is suspended", (payee: string) => order(payee, "suspend"), "wallet_not_active"],
    ["is closed", (payee: string) => order(payee, "close"), "wallet_not_active"],
    [
      "is filled to the brim",
      (payee: string) => stage.perform(credit(payee, "9999999999999.99")),
      "amount_out_of_range",
    ],
  ])(
    "%s before the money comes: it goes back, and a repeat says the same",
    async (_what, change, code) => {
      const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
      const command = transfer(payer, payee, "30");
      const asked = await sendHeld(command, "post");
      await change(payee);
      await stage.release();

      const outcome = onlyOutcome(asked);
      expect(outcome).toMatchObject({
        type: "rejected",
        rejection: { code, walletId: payee },
        replayed: false,
      });
      expect(await balances(payer)).toBe("100.00");
      // The repeat names the first transfer, whose record keeps the reason
      expect(await stage.perform(repeated(command))).toEqual({
        type: "replayed",
        walletId: payer,
        version: 2,
        transferId: transferIdOf(command),
      });
      const rejection = outcome.type === "rejected" ? outcome.rejection : null;
      expect(await transferRow(transferIdOf(command))).toEqual({ status: "returned", rejection });
    },
  );

  it("is a payer that was suspended meanwhile: it takes its money back all the same", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    await sendHeld(transfer(payer, payee, "30"), "post");
    await order(payer, "suspend");
    await order(payee, "suspend");
    await stage.release();
    expect(await balances(payer, payee)).toBe("100.00 0.00");
    expect(summaryOf(await stage.perform(debit(payer, "1")))).toBe("wallet_not_active");
  });

  it("is a payer that is suspended after it reserved: the money arrives all the same", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const command = transfer(payer, payee, "30");
    const asked = await sendHeld(command, "post");
    await order(payer, "suspend");
    await stage.release();
    expect(summaryOf(onlyOutcome(asked))).toBe("posted");
    expect(await balances(payer, payee)).toBe("70.00 30.00");
    await stage.settle();
    expect(await transferRow(transferIdOf(command))).toEqual({ status: "posted", rejection: null });
    expect(summaryOf(await stage.perform(repeated(command)))).toBe("replayed 2");
  });

  it.each([
    ["a payer", "suspended", "suspend", "wallet_not_active"],
    ["a payee", "suspended", "suspend", "wallet_not_active"],
    ["a payee", "closed", "close", "wallet_not_active"],
  ] as const)(
    "is %s that is %s before the question is asked: rejected, and nothing is in transit",
    async (who, _how, step, code) => {
      const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
      const changed = who === "a payer" ? payer : payee;
      const asked = await sendHeld(transfer(payer, payee, "30"), "ask");
      await order(changed, step);
      await stage.release();
      expect(onlyOutcome(asked)).toMatchObject({
        type: "rejected",
        rejection: { code, walletId: changed },
      });
      expect(stage.sent.filter(({ type }) => type === "post")).toEqual([]);
      expect(await balances(payer, payee)).toBe("100.00 0.00");
    },
  );

  it.each([
    ["suspended", "suspend"],
    ["closed, which needs no money,", "close"],
  ] as const)(
    "is a payer that is %s between the answer and the reservation: rejected",
    async (_how, step) => {
      const [payer, payee] = [await stage.open("a", "30"), await stage.open("b", null)];
      const asked = await sendHeld(transfer(payer, payee, "30"), "asked");
      if (step === "close") await stage.perform(debit(payer, "30"));
      await order(payer, step);
      await stage.release();
      expect(onlyOutcome(asked)).toMatchObject({
        type: "rejected",
        rejection: { code: "wallet_not_active", walletId: payer },
      });
    },
  );

  it("is a payee whose metadata changes between two steps: the money arrives beside it", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const asked = await sendHeld(transfer(payer, payee, "30"), "post");
    const patch = '{"case":17}';
    for (const walletId of [payer, payee]) {
      const changed = await stage.perform(commandOf(walletId, { type: "update", patch }));
      expect(changed).toMatchObject({ type: "done", wallet: { metadata: patch } });
    }
    // Also when both lanes have to read everything back
    for (const name of ["a", "b"]) await stage.replace(name);
    await stage.release();
    const again = stage.sendAs(repeated(asked.message.command), { attempt: 2 });
    await stage.settle();
    expect(summaryOf(onlyOutcome(again))).toMatch(/^replayed 2/);
    expect(await balances(payer, payee)).toBe("70.00 30.00");
  });

  it("is a payer that was filled meanwhile: room is kept for what may come back", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    await sendHeld(transfer(payer, payee, "100"), "post");
    expect(summaryOf(await stage.perform(credit(payer, "9999999999900")))).toBe(
      "amount_out_of_range",
    );
    expect(summaryOf(await stage.perform(credit(payer, "9999999999899.99")))).toBe("done 3");
    await order(payee, "close");
    await stage.release();
    expect(await balances(payer)).toBe("9999999999999.99");
  });

  it("is a payer that would close: not while a transfer is pending", async () => {
    const [payer, payee] = [await stage.open("a", "30"), await stage.open("b", null)];
    await sendHeld(transfer(payer, payee, "30"), "post");
    const why = { code: "wallet_not_empty", balanceMinor: 0, heldMinor: 0, pendingMinor: 3_000 };
    expect(await order(payer, "close")).toMatchObject({ rejection: why });
    // Also when its lane has just read everything back
    await stage.replace("a");
    expect(await order(payer, "close")).toMatchObject({ rejection: why });
    await stage.release();
    expect(summaryOf(await order(payer, "close"))).toBe("done 3");
  });

  it("has spent its money between the question and the reservation: rejected, nothing in transit", async () => {
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
    const asked = await sendHeld(transfer(payer, payee, "30"), "asked");
    await stage.perform(debit(payer, "80"));
    await stage.release();
    expect(summaryOf(onlyOutcome(asked))).toBe("insufficient_funds");
    expect(await balances(payer, payee)).toBe("20.00 0.00");
  });
});

// --- Lanes that die -----------------------------------------------------------------------------------------------------------

type Hook = (writes: Writes, apply: () => Promise<AppendResult>) => Promise<AppendResult>;

/** Kills the lane at its first commit of this kind: before the database has it, or after. */
function killAt(name: string, isMeant: (writes: Writes) => boolean, isWritten: boolean): void {
  const hook: Hook = async (writes, apply) => {
    if (!isMeant(writes)) return await apply();
    if (isWritten) expect(await apply()).toEqual({ type: "committed" });
    stage.kill(name);
    return await NEVER;
  };
  stage.lane(name).hooks.append = hook;
}

const reserves = (writes: Writes): boolean => writes.transfers.length > 0;
const decides = (writes: Writes): boolean => writes.verdicts.length > 0;
const settles = (writes: Writes): boolean => writes.settled.length > 0;

describe.each([
  ["the payer's lane dies before it has reserved", "a", (): void => killAt("a", reserves, false)],
  [
    "the payer's lane dies after it reserved, before it posts",
    "a",
    (): void => killAt("a", reserves, true),
  ],
  [
    "the payee's lane dies before its verdict is committed",
    "b",
    (): void => killAt("b", decides, false),
  ],
  [
    "the payee's lane dies after its verdict is committed",
    "b",
    (): void => killAt("b", decides, true),
  ],
  ["the payer's lane dies while the verdict is under way", "a", (): void => drop("verdict")],
  ["the payer's lane dies before it has settled", "a", (): void => killAt("a", settles, false)],
  [
    "the payer's lane dies after it settled, before it says so",
    "a",
    (): void => killAt("a", settles, true),
  ],
  ["the payer's lane dies when all is done", "a", (): void => undefined],
] as const)("when %s", (_when, name, prepare) => {
  it.each([
    ["posted", "restarts", undefined],
    ["posted", "is taken over by another host", "host-3"],
    ["refused", "restarts", undefined],
    ["refused", "is taken over by another host", "host-3"],
  ])("a transfer that is to be %s ends so once it %s", async (verdict, _how, owner) => {
    // Given a payee that said yes when asked
    const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", "1")];
    const command = transfer(payer, payee, "30");
    const asked = await sendHeld(command, "asked");
    if (verdict === "refused") await order(payee, "suspend");
    // When the lane dies on the way
    prepare();
    await stage.release();
    await stage.replace(name, owner);
    pass();
    // Then the transfer settles by itself, and the client who asks again learns what became of it
    await stage.settle();
    const again = stage.sendAs(repeated(command), { attempt: 2 });
    await stage.settle();
    const answers = new Set([...asked.outcomes, ...again.outcomes].map(summaryOf));
    expect(await balances(payer, payee)).toBe(verdict === "posted" ? "70.00 31.00" : "100.00 1.00");
    if (verdict === "posted") expect([...answers]).not.toContain("wallet_not_active");
    else expect([...answers]).not.toContain("posted");
    expect(again.outcomes).toHaveLength(1);
  });
});

it("race: a repeat joins a transfer whose record was read back, and hears of it only when it is settled", async () => {
  const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
  const command = transfer(payer, payee, "30");
  await sendHeld(command, "post");
  // Given that the payer's lane died while the payee had not answered, and that the caller asks again
  const { hooks } = await stage.replace("a");
  const again = stage.sendAs(repeated(command), { attempt: 2 });
  await stage.quiet();
  let isToldEarly = false;
  hooks.append = async (writes, apply) => {
    // Time for an answer that does not wait for this commit
    await new Promise((resolve) => setTimeout(resolve, 20));
    if (writes.settled.length > 0) isToldEarly ||= again.outcomes.length > 0;
    return apply();
  };

  await stage.release();
  await stage.settle();

  expect(isToldEarly).toBe(false);
  expect(summaryOf(onlyOutcome(again))).toBe("replayed 2");
  expect(await balances(payer, payee)).toBe("70.00 30.00");
});

it("race: a payer's lane that was superseded gets the verdict, and only its successor settles", async () => {
  const [payer, payee] = [await stage.open("a", "100"), await stage.open("b", null)];
  await sendHeld(transfer(payer, payee, "30"), "post");
  await order(payee, "suspend");
  // Given a successor that has read the pending transfer, while messages still go to the old lane
  const old = stage.lane("a");
  const successor = await stage.add({ name: "c", owner: "host-3", shards: EVEN });
  expect(successor.lane.stats().pendingTransfers).toBe(1);

  await stage.release();

  expect(old.lost).toHaveLength(EVEN.length);
  expect(await balances(payer)).toBe("70.00");
  await stage.settle();
  expect(await balances(payer)).toBe("100.00");
});

// --- Deadlines and repeats ------------------------------------------------------------------------------------------------------

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
    expect(await balances(payer, payee)).toBe("70.00 30.00");
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
    expect(await balances(payer, payee)).toBe("100.00 0.00");
  });

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
      expect(["70.00 30.00", "40.00 60.00"]).toContain(await balances(payer, payee));
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

// --- By chance --------------------------------------------------------------------------------------------------------------

const THREE_LANES: LanePlan[] = [
  { name: "a", owner: "host-1", shards: ALL_SHARDS.filter((shard) => shard % 3 === 0) },
  { name: "b", owner: "host-1", shards: ALL_SHARDS.filter((shard) => shard % 3 === 1) },
  { name: "c", owner: "host-2", shards: ALL_SHARDS.filter((shard) => shard % 3 === 2) },
];

/** An append that waits for what chance makes of it. */
interface WaitingAppend {
  readonly staged: StagedLane;
  readonly apply: () => Promise<AppendResult>;
  readonly resolve: (result: AppendResult | Promise<AppendResult>) => void;
}

/**
 * Plays one script: every message and every append waits until a number of the script picks it and says what becomes of it. One
 * thing happens at a time, so the same script plays the same way again.
 */
async function play(
  commands: readonly Command[],
  script: readonly number[],
): Promise<Map<Command, Asked[]>> {
  const asked = new Map<Command, Asked[]>(commands.map((command) => [command, []]));
  let appends: WaitingAppend[] = [];
  let isCalm = false;

  function watch(staged: StagedLane): void {
    staged.hooks.append = (_writes, apply) =>
      isCalm ? apply() : new Promise((resolve) => void appends.push({ staged, apply, resolve }));
  }

  function ask(command: Command): void {
    const before = asked.get(command)!;
    const isAnother = before.length % 2 === 1;
    const attempt = before.length + 1;
    before.push(stage.sendAs(isAnother ? repeated(command) : command, { attempt }));
  }

  function isAnswered(command: Command): boolean {
    return asked
      .get(command)!
      .some(({ outcomes }) => outcomes.some(({ type }) => type !== "fault"));
  }

  async function message(fate: number, at: number): Promise<void> {
    const [one] = stage.held.splice(at % stage.held.length, 1);
    if (fate < 8) stage.deliver(one!);
    if (fate === 8) {
      stage.held.push(one!);
      stage.deliver(one!);
    }
  }

  async function append(fate: number, at: number): Promise<void> {
    const [{ staged, apply, resolve }] = appends.splice(at % appends.length, 1) as [WaitingAppend];
    const unknown: AppendResult = { type: "unknown", reason: "chance" };
    if (fate < 5) resolve(apply());
    if (fate === 5) resolve({ type: "refused", reason: "chance" });
    if (fate === 6) resolve(unknown);
    if (fate === 7) resolve(apply().then(() => unknown));
    if (fate === 8) await apply();
    if (fate >= 8) await restart(staged, at);
  }

  async function restart(staged: StagedLane, at: number): Promise<void> {
    appends = appends.filter((waiting) => waiting.staged !== staged);
    const owner = at % 3 === 0 ? unique("host") : undefined;
    watch(await stage.replace(staged.name, owner));
  }

  /** Another host takes shards over while their lane goes on. */
  async function usurp({ shards }: StagedLane): Promise<void> {
    watch(await stage.add({ name: unique("lane"), owner: unique("host"), shards }));
  }

  stage.wire = () => "hold";
  for (const staged of stage.living()) watch(staged);
  let next = 0;
  for (const number of script) {
    const [fate, at] = [number % 10, Math.floor(number / 100)];
    const kind = Math.floor(number / 10) % 10;
    const lanes = stage.living();
    if (kind < 4 && stage.held.length > 0) await message(fate, at);
    else if (kind < 7 && appends.length > 0) await append(fate, at);
    else if (kind === 7 && fate === 0) await restart(lanes[at % lanes.length]!, at);
    else if (kind === 7 && fate === 1 && lanes.length < 6) await usurp(lanes[at % lanes.length]!);
    else if (kind === 8) await stage.tick(100 + (at % 7) * 100);
    else if (next < commands.length) ask(commands[next++]!);
    else ask(commands[at % commands.length]!);
    await stage.quiet();
  }

  // The faults stop; whoever has no answer asks again
  isCalm = true;
  stage.wire = () => "pass";
  for (const { apply, resolve } of appends) resolve(apply());
  await stage.release();
  for (let rounds = 0; rounds < 20 && !commands.every(isAnswered); rounds += 1) {
    await stage.settle();
    for (const command of commands) if (!isAnswered(command)) ask(command);
    await stage.settle();
  }
  return asked;
}

/** What the database says became of a command, and what was said of it, in the same words. */
async function outcomeOf({ commandId, walletId }: Command): Promise<string[]> {
  const rows = await database.query<{ version: number | null; code: string | null }>(
    `SELECT e.version, t.rejection->>'code' AS code FROM events e LEFT JOIN transfers t USING (transfer_id)
     WHERE e.command_id = $1 AND e.wallet_id = $2
     UNION ALL SELECT NULL, rejection->>'code' FROM rejections WHERE command_id = $1 AND wallet_id = $2`,
    [commandId, walletId],
  );
  return rows.map(({ version, code }) => `${version ?? "no version"}, ${code ?? "carried out"}`);
}

function fits(outcome: Outcome, [truth]: string[]): boolean {
  switch (outcome.type) {
    case "done":
      return truth === `${outcome.wallet.version}, carried out`;
    case "transferred": {
      const { status, from } = outcome.transfer;
      const isSame = truth === `${from.version}, carried out`;
      return isSame || (status === "pending" && truth!.startsWith(`${from.version},`));
    }
    case "replayed":
      return truth!.startsWith(`${outcome.version},`);
    case "rejected":
      return truth!.endsWith(`, ${outcome.rejection.code}`);
    case "fault":
      return true;
    default:
      return outcome satisfies never;
  }
}

/** Plays begun within this time, at most 40 of them. */
const CHANCE_MS = 12_000;

const seed = process.env["FC_SEED"];

it(
  "keeps the books whatever happens by chance, and gives each command one outcome",
  { timeout: 60_000 },
  async () => {
    const step = fc.record({
      kind: fc.constantFrom(
        "transfer",
        "transfer",
        "transfer",
        "credit",
        "debit",
        "update",
        "suspend",
        "activate",
        "close",
      ),
      from: fc.nat(3),
      to: fc.nat(3),
      amount: fc.integer({ min: 1, max: 60 }).map(String),
    });
    const scripts = fc.array(fc.nat(9_999), { minLength: 20, maxLength: 120, size: "max" });
    const untilMs = Date.now() + CHANCE_MS;
    const steps = fc.array(step, { minLength: 2, maxLength: 8, size: "max" });
    await fc.assert(
      fc.asyncProperty(steps, scripts, async (plan, script) => {
        // Not fast-check's own limit, which leaves the last play running on a stage that is closed.
        if (Date.now() > untilMs) return;
        await restage(THREE_LANES);
        const wallets: string[] = [];
        for (const name of ["a", "a", "b", "c"]) wallets.push(await stage.open(name, "100"));
        const commands = plan.map(({ kind, from, to, amount }): Command => {
          const walletId = wallets[from]!;
          if (kind === "transfer") return transfer(walletId, wallets[to]!, amount);
          if (kind === "credit") return credit(walletId, amount);
          if (kind === "debit") return debit(walletId, amount);
          if (kind === "update") {
            const patch = JSON.stringify({ [`of ${to}`]: from === to ? null : amount });
            return commandOf(walletId, { type: "update", patch });
          }
          return commandOf(walletId, { type: kind });
        });

        const asked = await play(commands, script);

        await stage.settle();
        await checkBooks(database);
        for (const [command, list] of asked) {
          const truth = await outcomeOf(command);
          const said = list.flatMap(({ outcomes }) => outcomes);
          expect(truth).toHaveLength(1);
          expect(said.some(({ type }) => type !== "fault")).toBe(true);
          const lies = said.filter((outcome) => !fits(outcome, truth));
          expect({ truth, lies }).toEqual({ truth, lies: [] });
        }
      }),
      {
        numRuns: 40,
        ...(seed === undefined ? {} : { seed: Number(seed) }),
      },
    );
  },
);
