/**
 * Shards that leave a lane and come back, on a real database. The race in each: another host served
 * them meanwhile, and this lane still remembers what was before: states of wallets, a creation
 * under its key, a command of unknown outcome, messages that waited. The fence keeps stale writes
 * out; these tests hold that stale memory gives no false answers either.
 */
import { describe, expect, it } from "vitest";
import type { AppendResult } from "../src/core/journal.ts";
import type { PostMessage } from "../src/core/protocol.ts";
import { ALL_SHARDS } from "../src/core/shard.ts";
import { idIn, unique } from "./stage/ids.ts";
import { balances, database, stage, useLaneStage } from "./stage/lane.ts";
import { commandOf, creation, credit, debit, repeated, transfer } from "./stage/staged-commands.ts";
import { summaryOf } from "./stage/lanes.ts";

useLaneStage("lane_moves", [{ name: "here", owner: "host-1", shards: ALL_SHARDS }]);

// --- Steps of a move -----------------------------------------------------------------------------

/** Tells the lane with its next tick that these are its shards. */
function assign(name: string, shards: readonly number[]): void {
  const staged = stage.lane(name);
  Object.assign(staged, { shards });
  staged.lost.length = 0;
}

/** Another host takes everything and serves. */
async function moveAway(): Promise<void> {
  await stage.add({ name: "there", owner: "host-2", shards: ALL_SHARDS });
}

/** The other host ends in order, and this one has all again. */
async function moveBack(): Promise<void> {
  await database.query("SELECT release_shards('host-2', $1)", [ALL_SHARDS]);
  const nobody = ALL_SHARDS.map(() => null);
  await database.query("SELECT take_shards('host-1', $1, $2)", [ALL_SHARDS, nobody]);
  assign("there", []);
  assign("here", ALL_SHARDS);
}

/** Holds back the next commit of the lane here until its fate is known. */
function holdCommit() {
  const { hooks } = stage.lane("here");
  const held: Array<(fate: "sent" | "lost") => void> = [];
  hooks.append = (_writes, apply) =>
    new Promise<AppendResult>((resolve, reject) => {
      held.push((fate) => {
        if (fate === "sent") apply().then(resolve, reject);
        else resolve({ type: "unknown", reason: "the connection was lost" });
      });
    });
  return async (fate: "sent" | "lost"): Promise<void> => {
    delete hooks.append;
    held.shift()!(fate);
    await stage.quiet();
  };
}

/**
 * The lane here meets a commit of unknown outcome, and cannot claim while it is told that it has no
 * shards.
 */
async function loseSight(walletId: string): Promise<void> {
  const conclude = holdCommit();
  stage.send(credit(walletId, "1"));
  await stage.quiet();
  const { hooks } = stage.lane("here");
  hooks.claim = () => Promise.reject(new Error("cut off"));
  await conclude("lost");
  delete hooks.claim;
  assign("here", []);
  await stage.tick();
}

async function open(shard: number, balance: string): Promise<string> {
  const walletId = idIn([shard]);
  await stage.perform(commandOf(walletId, creation(balance)));
  return walletId;
}

async function resume(): Promise<void> {
  await stage.tick(3_000);
  await stage.tick();
}

// --- What was known before -----------------------------------------------------------------------

describe("no rejection is decided on a state from before", () => {
  it("when the shard left while the lane could not claim", async () => {
    const [wallet, other] = [await open(77, "10"), await open(78, "10")];
    await loseSight(other);
    await moveAway();
    expect(summaryOf(await stage.perform(credit(wallet, "100")))).toBe("done 2");
    await moveBack();
    await resume();
    expect(stage.lane("here").lane.stats().serving).toBe(true);
    expect(summaryOf(await stage.perform(debit(wallet, "50")))).toBe("done 3");
  });

  it("when the shard was to leave after a commit that failed", async () => {
    const [wallet, other] = [await open(77, "10"), await open(77, "10")];
    const conclude = holdCommit();
    stage.send(credit(other, "1"));
    await stage.quiet();
    assign("here", []);
    await stage.tick();
    await conclude("lost");
    await moveAway();
    expect(summaryOf(await stage.perform(credit(wallet, "100")))).toBe("done 2");
    await moveBack();
    await resume();
    expect(summaryOf(await stage.perform(debit(wallet, "50")))).toBe("done 3");
  });

  it("when a payee was made meanwhile", async () => {
    const [payer, other] = [await open(77, "10"), await open(78, "10")];
    const payee = idIn([90]);
    expect(summaryOf(await stage.perform(credit(payee, "1")))).toBe("wallet_not_found");
    await loseSight(other);
    await moveAway();
    expect(summaryOf(await stage.perform(commandOf(payee, creation("1"))))).toBe("done 1");
    await moveBack();
    await resume();
    expect(summaryOf(await stage.perform(transfer(payer, payee, "5")))).toBe("posted");
  });

  it("when the lane hears of the move only from the fence", async () => {
    const [wallet, other] = [await open(77, "10"), await open(78, "10")];
    await moveAway();
    assign("here", []); // for the routing of messages; the lane gets no tick
    expect(summaryOf(await stage.perform(credit(wallet, "100")))).toBe("done 2");
    await moveBack();
    expect(summaryOf(await stage.perform(credit(other, "1")))).toBe("done 2");
    expect(summaryOf(await stage.perform(debit(wallet, "50")))).toBe("done 3");
  });
});

it.each(["and does not hear of it", "and hears of it while its commit is under way"])(
  "one key makes one wallet when its shard leaves the lane and comes back, %s",
  async (how) => {
    // Given a keyed creation whose commit is slow
    const key = unique("key");
    const rest = { commandId: key, proposedId: true };
    const make = () => commandOf(idIn([77]), creation("10"), rest);
    const conclude = holdCommit();
    stage.send(make());
    await stage.quiet();

    // When the other host carries out the client's repeat, and the shard comes back before the
    // commit arrives
    const isHeard = how.startsWith("and hears");
    await moveAway();
    assign("here", []);
    if (isHeard) stage.lane("here").lane.tick(stage.nowMs, [], stage.nowMs);
    expect(summaryOf(await stage.perform(make()))).toBe("done 1");
    await moveBack();
    if (isHeard) stage.lane("here").lane.tick(stage.nowMs, ALL_SHARDS, stage.nowMs);
    await conclude("sent");
    await resume();

    // Then there is one wallet
    const sql = "SELECT wallet_id FROM events WHERE command_id = $1";
    expect(await database.query(sql, [key])).toHaveLength(1);
  },
);

it("a command of unknown outcome does not begin after its caller has given up", async () => {
  // Given a command that never reached the database, which stays away for long
  const wallet = await stage.open("here", "10");
  const { hooks } = stage.lane("here");
  hooks.append = () => Promise.resolve({ type: "unknown", reason: "the connection was lost" });
  hooks.claim = () => Promise.reject(new Error("away"));
  const command = debit(wallet, "10");
  stage.send(command);
  await stage.quiet();
  for (let minutes = 0; minutes < 10; minutes += 1) await stage.tick(60_000);

  // When the database is there again
  delete hooks.append;
  delete hooks.claim;
  await resume();
  await stage.settle();

  // Then nothing happens to the wallet any more
  const sql = "SELECT version FROM events WHERE command_id = $1";
  expect(await database.query(sql, [command.commandId])).toEqual([]);
});

it.each(["in order", "and the lane hears it from the fence"])(
  "who waits for a transfer hears at once that its payer's shard has left, %s",
  async (how) => {
    // Given a pending transfer whose payee, in another host, is never reached, and two who wait
    const [payer, payee] = [await open(77, "10"), await open(78, "1")];
    const others = ALL_SHARDS.filter((shard) => shard !== 78);
    assign("here", others);
    await stage.add({ name: "payee's", owner: "host-2", shards: [78] });
    stage.wire = ({ type }) => (type === "post" ? "drop" : "pass");
    const command = transfer(payer, payee, "4");
    const asked = [...stage.send(command), ...stage.send(repeated(command))];
    await stage.quiet();
    expect(asked.flatMap(({ outcomes }) => outcomes)).toEqual([]);
    expect(stage.lane("here").lane.stats().pendingTransfers).toBe(1);

    // When the payer's shard goes to a third one
    const withoutPayer = others.filter((shard) => shard !== 77);
    if (how === "in order") assign("here", withoutPayer);
    await stage.add({ name: "next", owner: "host-3", shards: [77] });
    if (how === "in order") await stage.tick();
    else stage.send(credit(payer, "1"));
    await stage.quiet();

    // Then nobody here can tell any more what becomes of it, and whoever asks again is told there
    expect(asked.map(({ outcomes }) => outcomes.map(summaryOf))).toEqual([
      ["unknown"],
      ["unknown"],
    ]);
    assign("here", withoutPayer);
    stage.wire = () => "pass";
    await stage.settle();
    expect(summaryOf(await stage.perform(repeated(command)))).toBe("replayed 2");
    expect(await balances(payer, payee)).toEqual([6, 5]);
  },
);

it("what waits for a shard that is never claimed is let go", async () => {
  // Given a step of a transfer for a shard whose claim fails
  const staged = stage.lane("here");
  const rest = ALL_SHARDS.filter((shard) => shard !== 77);
  assign("here", rest);
  await stage.tick();
  staged.hooks.claim = () => Promise.reject(new Error("away"));
  assign("here", ALL_SHARDS);
  await stage.tick();
  const post: PostMessage = {
    type: "post",
    walletId: idIn([77]),
    attempt: 1,
    step: {
      type: "receive",
      transferId: unique("transfer"),
      fromWalletId: idIn(rest),
      amountMinor: 100 as never,
      currency: "USD",
      decimalPlaces: 2,
    },
    commandId: unique("command"),
    correlationId: "moves",
    description: null,
  };
  let isDone = false;
  void staged.lane.receive([post], stage.nowMs, stage.nowMs).then(() => {
    isDone = true;
  });

  // When another host gets the shard
  delete staged.hooks.claim;
  assign("here", rest);
  await resume();

  // Then the batch is not held up by it
  expect(isDone).toBe(true);
  expect(staged.lane.stats()).toMatchObject({ backlog: 0, serving: true });
});
