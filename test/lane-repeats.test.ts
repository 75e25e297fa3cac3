/**
 * Commands that come twice to a lane: one answer per command id, and one wallet per key of a
 * creation, whatever became of the first.
 */
import { describe, expect, it } from "vitest";
import { LIMITS } from "../src/limits.ts";
import type { Command, Outcome } from "../src/core/protocol.ts";
import { ALL_SHARDS } from "../src/core/shard.ts";
import { idIn, unique } from "./stage/ids.ts";
import {
  begin,
  bookOf,
  database,
  FAILURES,
  gateOf,
  ONE_LANE,
  stage,
  summaries,
  useLaneStage,
} from "./stage/lane.ts";
import { commandOf, creation, credit, debit, repeated, transfer } from "./stage/staged-commands.ts";
import { onlyOutcome, summaryOf, withLimits } from "./stage/lanes.ts";

useLaneStage("lane_repeats_test", ONE_LANE);

// --- One answer per command ----------------------------------------------------------------------

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

  it("that was found to be done is never told as not done, also by a lane that is full", async () => {
    // Given a command that is done, and a lane whose mailboxes hold two messages
    const wallet = await stage.open("a", "10");
    const command = credit(wallet, "1");
    await stage.perform(command);
    withLimits({ mailboxMessagesMax: 2 });

    // When its repeat is found in a commit, is dealt with anew, and finds the mailbox full
    const asked = await begin(credit(wallet, "2"), credit(wallet, "3"), command);
    await stage.quiet();

    // Then nobody says that nothing happened, and the same id tells what did
    expect(summaries(asked)).toEqual(["done 3", "done 4", "unknown"]);
    expect(summaryOf(await stage.perform(command))).toBe("replayed 2");
  });

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

  const repeats: Array<[string, Outcome["type"] | "idempotency_conflict", object]> = [
    ["its own input", "replayed", {}],
    ["another amount", "idempotency_conflict", { body: { ...credit("", "2").body } }],
    ["another type", "idempotency_conflict", { body: debit("", "1").body }],
    ["another description", "idempotency_conflict", { description: "another" }],
    ["other metadata", "idempotency_conflict", { metadata: '{"a":2}' }],
    ["a condition that did not hold", "idempotency_conflict", { expectedVersion: 7 }],
  ];
  it.each(repeats)(
    "that a gateway made is repeated with %s, under way, later and at another host: %s",
    async (_what, expected, rest) => {
      const wallet = await stage.open("a", "10");
      const input = { description: "one", metadata: '{"a": 1}' };
      const first = credit(wallet, "1", { ...input, fingerprint: null });
      const again = { ...first, fingerprint: "input", ...rest };
      const gate = gateOf();
      const [done] = await begin(first);
      const asked = await begin(again, again);
      await gate.open();
      await stage.quiet();
      asked.push(...(await begin(again, again)));
      await stage.replace("a", "host-2");
      asked.push(...(await begin(again)));
      expect(summaryOf(onlyOutcome(done!))).toBe("done 2");
      const summary = expected === "replayed" ? "replayed 2" : expected;
      expect(summaries(asked)).toEqual(asked.map(() => summary));
      expect(await bookOf(wallet, [first])).toEqual({ balance: 11, events: 1 });
    },
  );

  it.each(FAILURES)(
    "that a gateway made is met with another input while its commit is %s: one of the two is done",
    async (fate) => {
      const wallet = await stage.open("a", "10");
      const first = credit(wallet, "1", { fingerprint: null });
      const other = debit(wallet, "5", { commandId: first.commandId });
      const gate = gateOf();
      const asked = await begin(first);
      asked.push(...(await begin(other)));
      await gate.pass(fate);
      await stage.tick();
      await gate.open();
      await stage.settle();
      expect(summaryOf(onlyOutcome(asked[1]!))).toBe("idempotency_conflict");
      expect(await bookOf(wallet, [first])).toEqual({ balance: 11, events: 1 });
    },
  );

  it("that a gateway made has an unknown outcome for its repeat while its rows cannot be read", async () => {
    const wallet = await stage.open("a", "10");
    const first = credit(wallet, "1", { fingerprint: null });
    await stage.perform(first);
    stage.lane("a").hooks.append = async (_writes, apply) => {
      const result = await apply();
      if (result.type !== "known") return result;
      return { ...result, commands: result.commands.map((one) => ({ ...one, record: null })) };
    };
    const again = { ...first, fingerprint: "input" };
    expect(summaryOf(await stage.perform(again))).toBe("unknown");
    delete stage.lane("a").hooks.append;
    expect(summaryOf(await stage.perform(again))).toBe("replayed 2");
  });

  it("that a gateway made for a transfer under way names that transfer alone", async () => {
    const [payer, payee] = [await stage.open("a", "10"), await stage.open("a", "0.01")];
    const first = transfer(payer, payee, "4", { fingerprint: null });
    const keyed = { ...repeated(first), fingerprint: "input" };
    const others = [
      { ...keyed, body: { ...first.body, transferId: unique("transfer"), amount: "5" } as const },
      debit(payer, "4", { commandId: first.commandId }),
    ];
    const gate = gateOf();
    const asked = await begin(first);
    asked.push(...(await begin(keyed, ...others)));
    await gate.open();
    await stage.quiet();
    asked.push(...(await begin(keyed, ...others)));
    await stage.settle();
    const conflicts = ["idempotency_conflict", "idempotency_conflict"];
    const told = summaries(asked);
    expect([told.slice(2, 4), told.slice(5)]).toEqual([conflicts, conflicts]);
    expect(told[4]).toMatch(/^(replayed|posted)/);
    expect(await bookOf(payer, [first])).toEqual({ balance: 6, events: 1 });
  });

  it("means another command at another wallet", async () => {
    const wallets = [await stage.open("a", "10"), await stage.open("a", "10")];
    const commandId = unique("command");
    const asked = await begin(...wallets.map((id) => credit(id, "1", { commandId })));
    expect(summaries(asked)).toEqual(["done 2", "done 2"]);
  });
});

// --- Creations whose wallet id the gateway proposes ----------------------------------------------

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
