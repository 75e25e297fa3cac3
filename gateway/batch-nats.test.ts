/**
 * Batches over NATS: whatever is answered fits into one message of the server, and what might not
 * is refused before anything begins.
 */
import { describe, expect, it } from "vitest";

import type { AmountMinor } from "../src/core/amount.ts";
import { LIMITS } from "../src/limits.ts";
import type { WalletState } from "../src/core/wallet.ts";
import { credit, done, range, setUp, type Told, walletOf } from "../test/stage/batches.ts";
import type { Batches } from "./batch.ts";
import { carryOutBatch, shortestBytes } from "./batch-nats.ts";
import { BATCH_REQUESTS } from "./routes/batch-schemas.ts";

describe("a batch over NATS", () => {
  const request = { bytes: 1, correlationId: "c", key: undefined };
  const longest = "x".repeat(LIMITS.idLengthMax);
  const fat = JSON.stringify({ a: "ä".repeat(4_000) });

  async function textOf(
    batches: Batches,
    commands: readonly unknown[],
    payloadBytesMax: number,
  ): Promise<string> {
    const answer = await carryOutBatch(batches, {
      ...request,
      body: { commands },
      payloadBytesMax,
    });
    return "text" in answer ? answer.text : "";
  }

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
    const text = await textOf(batches, commands, payloadBytesMax);
    expect(Buffer.byteLength(text) + 512).toBeLessThanOrEqual(payloadBytesMax);
    const { outcomes, shortened } = JSON.parse(text) as { outcomes: Told[]; shortened?: boolean };
    expect(shortened).toBe(true);
    expect(outcomes.every(({ data }) => data !== undefined && !("metadata" in data))).toBe(true);
    // With room for it, all of it is there.
    const all = JSON.parse(await textOf(batches, commands, 1e6)) as { outcomes: Told[] };
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
    const text = await textOf(batches, commands, payloadBytesMax);
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
      const text = await textOf(batches, commands, payloadBytesMax);
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

  it("is measured in bytes as they are sent, and its transfers are short without both wallets' metadata", async () => {
    const pay = (n: number) => ({
      type: "transfer",
      walletId: `a${n}`,
      toWalletId: "b",
      amount: 1,
    });
    const { batches } = setUp(({ command: { walletId, body } }) => {
      if (body.type !== "transfer") throw new Error("no transfer");
      const { transferId, toWalletId } = body;
      const from = walletOf(walletId, { metadata: fat });
      const to = walletOf(toWalletId, { metadata: fat });
      const sides = { from, to, toWalletId, toVersion: 1, hold: null };
      const transfer = { transferId, status: "posted", ...sides } as const;
      return { type: "transferred", transfer, replayed: false };
    });
    const commands = range(30).map(pay);
    const payloadBytesMax = shortestBytes(commands, undefined);
    const text = await textOf(batches, commands, 10_000_000);
    expect(text).not.toContain("shortened");
    const bytes = Buffer.byteLength(text);
    expect(bytes).toBeGreaterThan(text.length + 1_024);
    for (const most of [payloadBytesMax, text.length + 1_024, bytes]) {
      const short = await textOf(batches, commands, most);
      expect(short).toContain('"shortened":true');
      expect(short).not.toContain("metadata");
    }
  });

  it("has room by its bytes while it lasts, and gives it back", async () => {
    const { batches, settle, answerAll } = setUp();
    const most = { ...request, body: { commands: [credit("w")] }, payloadBytesMax: 100_000 };
    const large = { ...most, bytes: LIMITS.batchesBytesMax };
    for (let times = 0; times <= LIMITS.batchesMax; times += 1) {
      const running = carryOutBatch(batches, large);
      expect(await carryOutBatch(batches, most)).toMatchObject({ error: { code: "overloaded" } });
      await settle();
      answerAll();
      expect(await running).toHaveProperty("text");
    }
  });
});
