/**
 * Batches on the real intake, desk and in-process bus, with small owners that answer when a test
 * lets them. What matters most: an outcome for each command in its place, no command that begins
 * after it was told `unavailable`, and bounds that hold whatever the batch is.
 */
import { describe, expect, it } from "vitest";

import { assetOf } from "../src/assets.ts";
import { LIMITS } from "../src/limits.ts";
import { ReadUnavailable } from "../src/core/read-model.ts";
import type { CommandMessage, Outcome } from "../src/core/protocol.ts";
import { credit, done, range, setUp, type Told, walletOf } from "../test/stage/batches.ts";
import { batchKeyOf, checkBatch } from "./batch.ts";
import { buildCommandIntake } from "./command-intake.ts";

const pay = (walletId: string, toWalletId: string) => ({
  type: "transfer",
  walletId,
  toWalletId,
  amount: 1,
});
const codes = (outcomes: readonly Told[]) => outcomes.map(({ error }) => error?.code ?? "ok");

describe("the outcomes of a batch", () => {
  it("come in the order of the commands, whatever the order of the answers", async () => {
    const { run, answerAll, settle } = setUp();
    const running = run(range(100).map((n) => credit(`w${n}`)));
    await settle();
    answerAll();
    const outcomes = await running;
    expect(outcomes.map(({ data }) => data?.id)).toEqual(range(100).map((n) => `w${n}`));
    expect(outcomes[7]).toEqual({
      ok: true,
      statusCode: 200,
      data: expect.objectContaining({ id: "w7", balance: 10, metadata: {} }),
    });
  });

  it("are `unavailable` where nobody can say what the asset is, and the others go on", async () => {
    const away = new ReadUnavailable("unavailable", "the database is away");
    const takeIn = buildCommandIntake((code) =>
      code === "GEM" ? Promise.reject(away) : assetOf(code),
    );
    const { run } = setUp((message) => done(message), takeIn);
    const gem = { type: "create", walletId: "w1", currency: "GEM" };
    const outcomes = await run([gem, credit("w2"), gem, gem, credit("w3")]);
    expect(outcomes.map(({ error }) => error?.code ?? "ok")).toEqual([
      "unavailable",
      "ok",
      "unavailable",
      "unavailable",
      "ok",
    ]);
  });

  it("are errors of their own for what does not fit, beside the others", async () => {
    const { run, arrived } = setUp((message) => done(message));
    const outcomes = await run([
      credit("w1"),
      null,
      7,
      [],
      {},
      { type: "steal", walletId: "w1" },
      { type: "__proto__", walletId: "w1" },
      credit("w 1"),
      { type: "credit", amount: 1 },
      credit("w1", { amuont: 2 }),
      credit("w1", { amount: 0 }),
      credit("w1", { amount: Number.POSITIVE_INFINITY }),
      credit("w1", { description: "a\0" }),
      { type: "create", walletId: "w2", currency: "XXZ" },
      credit("w2"),
    ]);
    expect(codes(outcomes)).toEqual([
      "ok",
      ...Array.from({ length: 9 }, () => "validation_failed"),
      "invalid_amount",
      "amount_out_of_range",
      "validation_failed",
      "asset_not_found",
      "ok",
    ]);
    expect(outcomes[9]).toMatchObject({
      ok: false,
      statusCode: 422,
      error: { message: "amuont is not known here", details: [{ field: "amuont" }] },
    });
    expect(outcomes[5]?.error?.message).toContain("type must be one of create, credit, ");
    expect(arrived.length).toBe(2);
  });

  it("tell every type as its route does", async () => {
    const { run, arrived } = setUp((message) => done(message));
    const outcomes = await run([
      { type: "create", walletId: "n", initialBalance: 5 },
      credit("w"),
      { ...credit("w"), type: "debit" },
      { ...credit("w"), type: "fund" },
      { type: "update", walletId: "w", metadata: { a: 1 } },
      { type: "suspend", walletId: "w", reason: "r" },
      { type: "activate", walletId: "w" },
      { type: "close", walletId: "w" },
    ]);
    expect(outcomes.map(({ statusCode }) => statusCode)).toEqual([201, ...range(7).map(() => 200)]);
    const bodies = arrived.map(({ command }) => command.body);
    expect(bodies.filter(({ type }) => type === "credit")).toMatchObject([
      { kind: "CREDIT" },
      { kind: "FUND" },
    ]);
    // Each command has an id of its own, and the request's correlation id.
    expect(new Set(arrived.map(({ command }) => command.commandId)).size).toBe(8);
    expect(new Set(arrived.map(({ command }) => command.correlationId))).toEqual(
      new Set(["order-7"]),
    );
  });

  it("are marked when a key is repeated, and only then", async () => {
    const rejection = { code: "wallet_not_found", walletId: "w" } as const;
    const { run, arrived } = setUp(() => ({ type: "rejected", rejection, replayed: true }));
    const outcomes = await run([credit("w", { idempotencyKey: "k" }), credit("w")]);
    expect(outcomes.map(({ replayed }) => replayed)).toEqual([true, undefined]);
    expect(arrived[0]?.command.commandId).toBe("k");
    const keyed = await run([credit("w", { idempotencyKey: "k" }), credit("w")], { key: "b" });
    expect(keyed.map(({ replayed }) => replayed)).toEqual([true, true]);
    expect(arrived.slice(2).map(({ command }) => command.commandId)).toEqual(["k", "b/1"]);
  });
});

describe("a batch as a whole", () => {
  it.each<[string, unknown, string]>([
    ["nothing", undefined, "body"],
    ["null", null, "body"],
    ["no commands", {}, "commands"],
    ["an empty list", { commands: [] }, "commands"],
    ["no list", { commands: { 0: credit("w") } }, "commands"],
    ["too many", { commands: range(LIMITS.batchCommandsMax + 1) }, "commands"],
    ["an unknown field", { commands: [1], orders: 1 }, "orders"],
    ["a wish to be atomic", { commands: [1], atomic: true }, "atomic"],
    ["atomic in any form", { commands: [1], atomic: false }, "atomic"],
  ])("is refused for %s by naming it", (_name, body, field) => {
    expect(checkBatch(body)).toMatchObject({
      code: "validation_failed",
      message: expect.stringMatching(`^${field} `) as string,
      details: [{ field }],
    });
  });

  it("says of atomic batches that there are none yet", () => {
    expect(checkBatch({ commands: [1], atomic: true })?.message).toContain("does not exist yet");
  });

  it("with a million commands too many is refused as quickly as with one", () => {
    const [few, many] = [1, 1_000_000].map((tooMany) => {
      const body = { commands: range(LIMITS.batchCommandsMax + tooMany) };
      const { user } = process.cpuUsage();
      expect(checkBatch(body)?.details).toMatchObject([{ field: "commands" }]);
      return process.cpuUsage().user - user;
    });
    expect(many).toBeLessThan(few! + 250_000);
  });

  it("may have as many commands as the limit says", () => {
    expect(checkBatch({ commands: range(LIMITS.batchCommandsMax) })).toBeNull();
  });

  it("takes a key that can name each of its commands", () => {
    expect(batchKeyOf(undefined, undefined)).toBeUndefined();
    const longest = "a".repeat(LIMITS.keyLengthMax - 5);
    expect([batchKeyOf(longest, undefined), batchKeyOf(undefined, longest)]).toEqual([
      longest,
      longest,
    ]);
    expect(batchKeyOf("k", "k")).toBe("k");
    const keys = "🗝".repeat(LIMITS.keyLengthMax - 5);
    expect(batchKeyOf(keys, undefined)).toBe(keys);
  });

  it.each([
    [undefined, "🗝".repeat(252), "Idempotency-Key", "must not exceed 251 characters, as each"],
    [undefined, "\ud83d", "Idempotency-Key", "must not contain halves of surrogate pairs"],
    [undefined, "a".repeat(252), "Idempotency-Key", "must not exceed 251 characters, as each"],
    [undefined, "", "Idempotency-Key", "must not be empty"],
    [undefined, "a\u0007b", "Idempotency-Key", "must not contain control characters"],
    ["a\u0007b", undefined, "idempotencyKey", "must not contain control characters"],
    ["one", "another", "idempotencyKey", "differs from the header Idempotency-Key"],
  ])("refuses the key %j in the body and %j in the header", (inBody, inHeader, field, problem) => {
    expect(batchKeyOf(inBody, inHeader)).toMatchObject({
      code: "validation_failed",
      details: [{ field, message: expect.stringContaining(problem) }],
    });
  });
});

describe("the window", () => {
  it("bounds what one batch has under way, on one hot wallet too, and moves on", async () => {
    const { run, arrived, settle, answerAll } = setUp();
    const running = run(range(5_000).map(() => credit("hot")));
    await settle();
    expect(arrived.length).toBe(LIMITS.batchWindowMax);
    answerAll();
    await settle();
    expect(arrived.length).toBe(2 * LIMITS.batchWindowMax);
    answerAll();
    await settle();
    answerAll();
    expect(codes(await running)).toEqual(range(5_000).map(() => "ok"));
    // All that went through a window went in the batch's order.
    const numbers = arrived.map(({ seq }) => seq);
    expect(numbers).toEqual(numbers.toSorted((a, b) => a - b));
  });

  it("is shared by all batches of a process", async () => {
    const { run, arrived, settle, answerAll } = setUp();
    const all = range(12).map(() => run(range(1_000).map((n) => credit(`w${n}`))));
    await settle();
    // Whoever came first began with more than its share is now.
    const most = LIMITS.batchesWindowMax * (1 + 1 / 2 + 1 / 3 + 1 / 4);
    expect(arrived.length).toBeLessThanOrEqual(most);
    expect(arrived.length).toBeGreaterThan(LIMITS.batchesWindowMax / 2);
    for (let turn = 0; turn < 40; turn++) {
      answerAll();
      await settle();
    }
    expect((await Promise.all(all)).flat().every(({ ok }) => ok)).toBe(true);
  });

  it("stays where it is while nobody reads the outcomes", async () => {
    const { batches, origin, arrived, settle } = setUp((message) => done(message));
    const pieces = batches.run(
      range(5_000).map((n) => credit(`w${n}`)),
      origin,
    );
    await pieces.next();
    await pieces.next();
    await settle();
    const begun = arrived.length;
    expect(begun).toBeLessThanOrEqual(LIMITS.batchWindowMax);
    await settle();
    expect(arrived.length).toBe(begun);
    while ((await pieces.next()).done !== true) continue;
    expect(arrived.length).toBe(5_000);
  });
});

describe("what there is no room for", () => {
  it("waits in the batch and is carried out", async () => {
    const { run, arrived } = setUp((message, nth) =>
      nth < 300 ? { type: "fault", fault: "overloaded" } : done(message),
    );
    expect(codes(await run(range(200).map((n) => credit(`w${n}`))))).toEqual(
      range(200).map(() => "ok"),
    );
    expect(arrived.length).toBe(500);
    // The same command, since nothing happened.
    expect(new Set(arrived.map(({ command }) => command.commandId)).size).toBe(200);
  });

  it("is told so when the batch has no more time", async () => {
    const { run, pass } = setUp(() => {
      pass(LIMITS.batchDeadlineMs / 4);
      return { type: "fault", fault: "overloaded" };
    });
    expect(codes(await run([credit("w"), credit("v")]))).toEqual(["overloaded", "overloaded"]);
  });

  it("is a batch beyond the number or the bytes that a process holds", () => {
    const { batches } = setUp();
    const places = range(LIMITS.batchesMax).map(() => batches.enter(1));
    expect(batches.enter(1)).toBe("overloaded");
    for (const place of places) if (typeof place === "object") [1, 2].map(() => place.leave());
    const large = range(LIMITS.batchesBytesMax / LIMITS.batchBodyBytesMax).map(() =>
      batches.enter(LIMITS.batchBodyBytesMax),
    );
    expect(large.every((place) => typeof place === "object")).toBe(true);
    expect(batches.enter(1)).toBe("overloaded");
    if (typeof large[0] === "object") large[0].leave();
    expect(batches.enter(LIMITS.batchBodyBytesMax)).toBeTypeOf("object");
  });
});

describe("a batch that has to end", () => {
  it.each<[string, (setting: ReturnType<typeof setUp>) => void]>([
    ["its time is over", ({ pass }) => pass(LIMITS.batchDeadlineMs)],
    ["the process ends", ({ batches }) => void batches.drain()],
  ])("answers what began and begins nothing more when %s", async (_name, end) => {
    const setting = setUp();
    const { run, arrived, settle, answerAll } = setting;
    const running = run(range(5_000).map((n) => credit(`w${n}`)));
    await settle();
    end(setting);
    answerAll();
    const outcomes = await running;
    expect(arrived.length).toBe(LIMITS.batchWindowMax);
    expect(codes(outcomes)).toEqual(
      range(5_000).map((n) => (n < LIMITS.batchWindowMax ? "ok" : "unavailable")),
    );
    expect(outcomes.at(-1)?.statusCode).toBe(503);
  });

  it("lets nobody in after that, and is waited for", async () => {
    const { batches, run, settle, answerAll } = setUp();
    const running = run([credit("w")]);
    await settle();
    let isQuiet = false;
    void batches.drain().then(() => (isQuiet = true));
    expect(batches.enter(1)).toBe("unavailable");
    await settle();
    expect(isQuiet).toBe(false);
    answerAll();
    await running;
    await settle();
    expect(isQuiet).toBe(true);
  });

  it("begins nothing more for a caller who is gone", async () => {
    let isGone = false;
    const { run, arrived, settle, answerAll } = setUp();
    const running = run(
      range(5_000).map((n) => credit(`w${n}`)),
      { isGone: () => isGone },
    );
    await settle();
    isGone = true;
    answerAll();
    await running;
    expect(arrived.length).toBe(LIMITS.batchWindowMax);
  });
});

describe("the order within a batch", () => {
  const posted = (message: CommandMessage): Outcome => {
    const { walletId, body } = message.command;
    if (body.type !== "transfer") return done(message);
    const { transferId, toWalletId } = body;
    const [from, to] = [walletOf(walletId), walletOf(toWalletId)];
    const transfer = {
      transferId,
      status: "posted",
      from,
      to,
      toWalletId,
      toVersion: 1,
      hold: null,
    } as const;
    return { type: "transferred", transfer, replayed: false };
  };
  /** Which of the commands are under way together, round by round. */
  async function rounds(commands: readonly unknown[]): Promise<string[]> {
    const { run, arrived, settle, answerAll } = setUp();
    const running = run(commands);
    const all: string[] = [];
    for (let from = 0; from < commands.length; from = arrived.length) {
      await settle();
      const together = arrived.slice(from).map(({ command }) => {
        const to = "toWalletId" in command.body ? `>${command.body.toWalletId}` : "";
        return `${command.walletId}${to}`;
      });
      if (together.length === 0) break;
      all.push(together.toSorted().join(" "));
      answerAll(posted);
    }
    const outcomes = await running;
    expect(codes(outcomes)).toEqual(commands.map(() => "ok"));
    return all;
  }

  it("makes what follows a transfer wait for it, on both wallets, and nothing else", async () => {
    expect(await rounds([pay("a", "b"), credit("a"), credit("b"), credit("c")])).toEqual([
      "a>b c",
      "a b",
    ]);
  });

  it("lets a transfer wait for its payee's making, and for money on its way to its payer", async () => {
    expect(await rounds([credit("b"), pay("a", "b"), pay("b", "c"), pay("c", "d")])).toEqual([
      "b",
      "a>b",
      "b>c",
      "c>d",
    ]);
  });

  it("lets a transfer wait for those that its payee pays before it, and for no others of theirs", async () => {
    const commands = [pay("b", "c"), pay("b", "d"), pay("a", "b"), pay("e", "c"), pay("f", "b")];
    expect(await rounds(commands)).toEqual(["b>c b>d e>c", "a>b f>b"]);
  });

  it("keeps what waits in order behind what waits, and lets it go together", async () => {
    expect(await rounds([pay("a", "b"), credit("a"), pay("a", "c"), credit("a")])).toEqual([
      "a>b",
      "a a>c",
      "a",
    ]);
    const hot = [pay("a", "b"), credit("a"), credit("a"), credit("a"), credit("b"), credit("b")];
    expect(await rounds([...hot, ...hot])).toEqual(["a>b", "a a a b b", "a>b", "a a a b b"]);
  });

  it("lets transfers out of one wallet, or into one, go side by side", async () => {
    expect(await rounds([pay("a", "b"), pay("a", "c"), pay("d", "b"), credit("e")])).toEqual([
      "a>b a>c d>b e",
    ]);
  });

  it("asks nothing of a batch without transfers", async () => {
    expect(await rounds([credit("a"), credit("a"), credit("b")])).toEqual(["a a b"]);
  });
});
