/**
 * Batches on the real intake, desk and in-process bus, with small owners that answer when a test
 * lets them. What matters most: an outcome for each command in its place, no command that begins
 * after it was told `unavailable`, and bounds that hold whatever the batch is.
 */
import { describe, expect, it } from "vitest";

import type { AmountMinor } from "../src/amount.ts";
import { assetOf } from "../src/assets.ts";
import { LIMITS } from "../src/limits.ts";
import { buildMemoryBus } from "../src/memory-bus.ts";
import { buildPostgresReadModel } from "../src/postgres-read-model.ts";
import { ReadUnavailable } from "../src/read-model.ts";
import type { CommandMessage, Outcome, Reply } from "../src/protocol.ts";
import type { WalletState } from "../src/wallet.ts";
import { buildAnswers } from "./answers.ts";
import { batchKeyOf, buildBatches, checkBatch, type BatchOrigin } from "./batch.ts";
import { carryOutBatch, shortestBytes } from "./batch-nats.ts";
import { buildCommandIntake, type TakeIn } from "./command-intake.ts";
import { buildCommandDesk } from "./commands.ts";
import { BATCH_REQUESTS } from "./batch-schemas.ts";

interface Told {
  readonly ok: boolean;
  readonly statusCode: number;
  readonly data?: { readonly id: string; readonly balance: number; readonly metadata?: object };
  readonly error?: { readonly code: string; readonly message: string; readonly details?: unknown };
  readonly replayed?: boolean;
}

const log = { error: (details: object) => expect.fail(JSON.stringify(details)) };
/** Nothing listens there, and nothing is read. */
const readModel = buildPostgresReadModel({ databaseUrls: ["postgres://nobody@127.0.0.1:1/none"] });

function walletOf(walletId: string, fields: Partial<WalletState> = {}): WalletState {
  return {
    walletId,
    ownerId: null,
    currency: "USD",
    decimalPlaces: 2,
    balanceMinor: 1_000 as AmountMinor,
    heldMinor: 0 as AmountMinor,
    status: "ACTIVE",
    version: 1,
    metadata: "{}",
    createdAtMs: 0,
    updatedAtMs: 0,
    ...fields,
  };
}

const done = (message: CommandMessage, fields: Partial<WalletState> = {}): Outcome => ({
  type: "done",
  wallet: walletOf(message.command.walletId, fields),
});

/**
 * Batches, and an owner of all shards that answers at once, or keeps what arrives until it is told
 * to.
 */
function setUp(
  decide: (message: CommandMessage, nth: number) => Outcome | null = () => null,
  takeIn: TakeIn = buildCommandIntake(assetOf),
) {
  const bus = buildMemoryBus();
  let nowMs = 0;
  const desk = buildCommandDesk({ bus, gatewayId: "g" });
  const answer = buildAnswers({ readModel, log });
  const batches = buildBatches({
    commands: desk,
    takeIn,
    answer,
    log,
    clock: { nowMs: () => nowMs },
  });
  const arrived: CommandMessage[] = [];
  let waiting: CommandMessage[] = [];
  const tell = (message: CommandMessage, outcome: Outcome): void => {
    const replies: Reply[] = [{ inbox: message.inbox, seq: message.seq, outcome }];
    bus.publish(message.inbox, replies);
  };
  bus.subscribe<CommandMessage[]>("coffer.shard.*", (messages) => {
    for (const message of messages) {
      arrived.push(message);
      const outcome = decide(message, arrived.length - 1);
      if (outcome === null) waiting.push(message);
      else tell(message, outcome);
    }
  });
  const origin: BatchOrigin = { correlationId: "order-7", key: undefined, isGone: () => false };
  return {
    batches,
    arrived,
    origin,
    /** Lets everything that is under way arrive. */
    async settle(): Promise<void> {
      for (let turn = 0; turn < 60; turn++) await new Promise((resolve) => setImmediate(resolve));
    },
    /** Answers all that waits, the last first. */
    answerAll(outcomeOf: (message: CommandMessage) => Outcome = done): void {
      const messages = waiting.toReversed();
      waiting = [];
      for (const message of messages) tell(message, outcomeOf(message));
    },
    pass(ms: number): void {
      nowMs += ms;
    },
    async run(commands: readonly unknown[], of: Partial<BatchOrigin> = {}): Promise<Told[]> {
      let text = "";
      for await (const piece of batches.run(commands, { ...origin, ...of })) text += piece;
      return (JSON.parse(text) as { outcomes: Told[] }).outcomes;
    },
  };
}

const credit = (walletId: string, fields: object = {}) => ({
  type: "credit",
  walletId,
  amount: 1,
  ...fields,
});
const pay = (walletId: string, toWalletId: string) => ({
  type: "transfer",
  walletId,
  toWalletId,
  amount: 1,
});
const range = (count: number): number[] => Array.from({ length: count }, (_, index) => index);
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

describe("a batch over NATS", () => {
  const request = { bytes: 1, correlationId: "c", key: undefined };
  const longest = "x".repeat(LIMITS.idLengthMax);
  const fat = JSON.stringify({ a: "ä".repeat(4_000) });

  it("that could have too large a reply is refused before anything begins", async () => {
    const { batches, arrived } = setUp((message) => done(message));
    const commands = range(2_000).map((n) => credit(`w${n}`));
    const payloadBytesMax = shortestBytes(commands, undefined) - 1;
    const answer = await carryOutBatch(batches, {
      ...request,
      body: { commands },
      payloadBytesMax,
    });
    expect(answer).toMatchObject({
      error: {
        code: "payload_too_large",
        message: expect.stringContaining("raise max_payload") as string,
        details: { payloadBytesMax },
      },
    });
    expect(arrived.length).toBe(0);
    const one = { ...request, body: { commands }, payloadBytesMax: payloadBytesMax + 1 };
    expect(await carryOutBatch(batches, one)).toHaveProperty("text");
  });

  it("of the greatest wallets still fits, without their metadata", async () => {
    const greatest: Partial<WalletState> = {
      ownerId: longest,
      currency: longest,
      decimalPlaces: 9,
      balanceMinor: 999_999_999_999_999 as AmountMinor,
      heldMinor: 111_111_111_111_111 as AmountMinor,
      status: "SUSPENDED",
      version: Number.MAX_SAFE_INTEGER,
      metadata: fat,
      createdAtMs: 8e15,
      updatedAtMs: 8e15,
    };
    const { batches } = setUp((message) => done(message, greatest));
    const commands = range(50).map((n) => credit(longest.slice(0, -n - 1)));
    const payloadBytesMax = shortestBytes(commands, undefined);
    const answer = await carryOutBatch(batches, {
      ...request,
      body: { commands },
      payloadBytesMax,
    });
    const text = "text" in answer ? answer.text : "";
    expect(Buffer.byteLength(text) + 512).toBeLessThanOrEqual(payloadBytesMax);
    const { outcomes, shortened } = JSON.parse(text) as { outcomes: Told[]; shortened?: boolean };
    expect(shortened).toBe(true);
    expect(outcomes.every(({ data }) => data !== undefined && !("metadata" in data))).toBe(true);
    // With room for it, all of it is there.
    const whole = await carryOutBatch(batches, {
      ...request,
      body: { commands },
      payloadBytesMax: 1e6,
    });
    const all = JSON.parse("text" in whole ? whole.text : "") as { outcomes: Told[] };
    expect(all).not.toHaveProperty("shortened");
    expect(all.outcomes[0]?.data?.metadata).toEqual(JSON.parse(fat));
  });

  it("of the longest errors still fits, in the codes' own words", async () => {
    const { batches } = setUp(() => ({ type: "fault", fault: "unknown" }));
    const commands = [
      credit("w", { idempotencyKey: "\u2028".repeat(LIMITS.keyLengthMax) }),
      ...range(60).map((n) => credit("w", { [`${"\u0001".repeat(120)}${n}`]: 1 })),
    ];
    // Asked a few times, the desk gives up.
    const payloadBytesMax = shortestBytes(commands, undefined);
    const answer = await carryOutBatch(batches, {
      ...request,
      body: { commands },
      payloadBytesMax,
    });
    const text = "text" in answer ? answer.text : "";
    expect(Buffer.byteLength(text) + 512).toBeLessThanOrEqual(payloadBytesMax);
    const { outcomes } = JSON.parse(text) as { outcomes: Told[] };
    expect(outcomes[0]?.error?.code).toBe("outcome_unknown");
    expect(outcomes[1]?.error).toEqual({
      code: "validation_failed",
      message: "The input is not valid",
    });
  });

  it.each(["\u2028", "🗝"])(
    "of unknown outcomes says with which keys to ask, and fits",
    async (character) => {
      const { batches } = setUp(() => ({ type: "fault", fault: "unknown" }));
      const keys = range(40).map((n) => `${character.repeat(250)}${n}`);
      const commands = keys.map((idempotencyKey) => credit("w", { idempotencyKey }));
      const payloadBytesMax = shortestBytes(commands, undefined);
      const body = { commands };
      const answer = await carryOutBatch(batches, { ...request, body, payloadBytesMax });
      const text = "text" in answer ? answer.text : "";
      expect(Buffer.byteLength(text)).toBeLessThanOrEqual(payloadBytesMax);
      expect((JSON.parse(text) as { outcomes: Told[] }).outcomes[7]?.error?.details).toEqual({
        idempotencyKey: keys[7],
      });
    },
  );

  it("has a bound for every type of command", () => {
    for (const type of Object.keys(BATCH_REQUESTS)) {
      expect(shortestBytes([{ type }], undefined)).toBeGreaterThan(1_024 + 600);
    }
    expect(shortestBytes([null, 1, "x"], undefined)).toBeGreaterThan(1_024);
  });
});
