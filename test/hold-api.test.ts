/**
 * Holds from outside, over a real stack: every route and NATS endpoint with its answers, refusals
 * and repeats, what feeds, history and ledger show of them, and a real process that is killed while
 * a hold's time runs out.
 */
import type { NatsConnection } from "nats";
import { afterAll, beforeAll, describe, expect, it } from "vitest";
import { WebSocket } from "ws";

import type { HoldBody } from "../gateway/schemas.ts";
import { askJson } from "./stage/json.ts";
import { dataFolder, startCoffer } from "./stage/process.ts";
import { unique } from "./stage/ids.ts";
import { startStack, until, type AnyBody, type Reply, type Stack } from "./stage/stack.ts";

interface EndBody extends AnyBody {
  readonly hold: HoldBody;
  readonly wallet: AnyBody;
  readonly transfer?: { transferId: string; status: string; toWallet?: AnyBody };
}

let stack: Stack;
let nats: NatsConnection;

beforeAll(async () => {
  stack = await startStack({ overNats: true });
  nats = await stack.connectNats();
});

afterAll(async () => {
  expect(stack.errors).toEqual([]);
  await stack.close();
});

async function place(walletId: string, fields: object = { amount: 25 }): Promise<HoldBody> {
  const { status, body, text } = await stack.post<HoldBody>(`/wallets/${walletId}/holds`, fields);
  expect([status, text]).toEqual([201, expect.any(String)]);
  return body;
}

function end(
  { walletId, id }: Pick<HoldBody, "walletId" | "id">,
  how: "capture" | "release",
  fields: object = {},
  key?: string,
): Promise<Reply<EndBody>> {
  return stack.post<EndBody>(`/wallets/${walletId}/holds/${id}/${how}`, fields, key);
}

const funded = () => stack.open({ initialBalance: 100 });

describe("a hold over HTTP", () => {
  it("is in nobody's way from its time on", async () => {
    // Five moments, so that no look for what is due comes right behind all of them
    const placed = await Promise.all(
      [1_000, 1_130, 1_260, 1_390, 1_520].map(async (ms) => {
        const { id } = await funded();
        const expiresAt = new Date(Date.now() + ms).toISOString();
        return await place(id, { amount: 100, expiresAt });
      }),
    );
    for (const { id, walletId, expiresAt } of placed) {
      const leftMs = Date.parse(expiresAt!) - Date.now();
      await new Promise((resolve) => setTimeout(resolve, Math.max(0, leftMs) + 5));
      const fields = { amount: 100, dryRun: true };
      expect((await stack.post(`/wallets/${walletId}/debit`, fields)).status).toBe(200);
      const key = unique("key");
      const spent = await stack.post(`/wallets/${walletId}/debit`, { amount: 100 }, key);
      expect([spent.status, spent.body]).toMatchObject([200, { balance: 0, held: 0, version: 4 }]);
      const again = await stack.post(`/wallets/${walletId}/debit`, { amount: 100 }, key);
      expect([again.status, again.text]).toEqual([200, spent.text]);
      const { body } = await stack.get(`/wallets/${walletId}/holds/${id}`);
      expect(body).toMatchObject({ status: "EXPIRED", remaining: 0 });
    }
  });

  it("that is only tried out leads to no place where it would be", async () => {
    const { id } = await funded();
    const tried = await stack.post<HoldBody>(`/wallets/${id}/holds`, { amount: 1, dryRun: true });
    expect([tried.status, tried.headers["dry-run"]]).toEqual([201, "true"]);
    expect(tried.headers["location"]).toBeUndefined();
    expect((await stack.get(`/wallets/${id}/holds/${tried.body.id}`)).status).toBe(404);
  });

  it("is placed, read, captured in part, and finally", async () => {
    const { id } = await funded();
    const fields = {
      amount: "25.00",
      type: "ESCROW",
      reference: "order-17",
      description: "deposit",
    };
    const reply = await stack.post<HoldBody>(`/wallets/${id}/holds`, {
      ...fields,
      expiresInSeconds: 900,
      metadata: { shop: 3 },
    });
    const hold = reply.body;
    expect(reply.status).toBe(201);
    expect(reply.headers["location"]).toBe(`/wallets/${id}/holds/${hold.id}`);
    expect(hold).toEqual({
      ...fields,
      id: expect.stringMatching(/^[\da-f-]{36}$/) as string,
      walletId: id,
      amount: 25,
      captured: 0,
      remaining: 25,
      status: "ACTIVE",
      expiresAt: new Date(Date.parse(hold.createdAt) + 900_000).toISOString(),
      releasedAt: null,
      capturedAt: null,
      createdAt: expect.any(String) as string,
    });
    expect((await stack.get<HoldBody>(`/wallets/${id}/holds/${hold.id}`)).body).toEqual(hold);
    const part = await end(hold, "capture", { amount: 10 });
    expect(part.status).toBe(200);
    expect(part.body).toEqual({
      hold: { ...hold, captured: 10, remaining: 15 },
      wallet: await stack.wallet(id),
    });
    expect(part.body.wallet).toMatchObject({ balance: 90, held: 15, available: 75, version: 3 });
    const last = await end(hold, "capture", { amount: 5, final: true });
    const { capturedAt, releasedAt } = last.body.hold;
    expect(last.body.hold).toEqual({
      ...hold,
      captured: 15,
      remaining: 0,
      status: "CAPTURED",
      capturedAt,
      releasedAt,
    });
    expect(capturedAt).not.toBeNull();
    expect(releasedAt).toBe(capturedAt);
    expect(last.body.wallet).toMatchObject({ balance: 85, held: 0, available: 85 });
    expect((await end(hold, "release")).body).toMatchObject({
      statusCode: 409,
      code: "hold_not_active",
      message: `Hold ${hold.id} of wallet ${id} is captured, not active`,
      details: { walletId: id, holdId: hold.id, status: "CAPTURED" },
    });
  });

  it("without a body is captured as a whole, or released", async () => {
    const { id } = await funded();
    const [one, two] = [await place(id), await place(id, { amount: 5 })];
    const path = `/wallets/${id}/holds`;
    const captured = await stack.ask<EndBody>("POST", `${path}/${one.id}/capture`);
    expect(captured.body).toMatchObject({ hold: { status: "CAPTURED" }, wallet: { balance: 75 } });
    const released = await stack.ask<EndBody>("POST", `${path}/${two.id}/release`);
    expect(released.body).toMatchObject({
      hold: { status: "RELEASED", remaining: 0, captured: 0 },
      wallet: { balance: 75, held: 0 },
    });
  });

  it.each(["hold", "capture", "pay", "release"] as const)(
    "%s with a key is answered the same again, and another input is a conflict",
    async (what) => {
      const [{ id }, { id: payee }] = [await funded(), await stack.open()];
      const hold = await place(id);
      const key = unique("key");
      const send = (amount: number): Promise<Reply<EndBody>> => {
        if (what === "hold") {
          return stack.post(`/wallets/${id}/holds`, { amount, expiresInSeconds: 60 }, key);
        }
        if (what === "release")
          return end(hold, what, amount === 10 ? {} : { description: "x" }, key);
        return end(hold, "capture", { amount, ...(what === "pay" && { toWalletId: payee }) }, key);
      };
      const first = await send(10);
      expect(first.headers["idempotent-replayed"]).toBeUndefined();
      await stack.post(`/wallets/${id}/credit`, { amount: 1 });
      if (what !== "release") await end(hold, "release");
      const again = await send(10);
      expect(again.headers["idempotent-replayed"]).toBe("true");
      expect([again.status, again.body]).toEqual([first.status, first.body]);
      expect((await send(11)).body.code).toBe("idempotency_conflict");
      const operation = await stack.get<EndBody>(`/operations/${key}?walletId=${id}`);
      expect(operation.body).toMatchObject({
        outcome: "done",
        hold: what === "hold" ? first.body : first.body.hold,
      });
    },
  );

  it("is paid to a wallet, with the rest let go when it is final", async () => {
    const [{ id }, { id: payee }] = [await funded(), await stack.open()];
    const hold = await place(id);
    const { status, body } = await end(hold, "capture", {
      amount: 10,
      toWalletId: payee,
      final: true,
    });
    expect(status).toBe(200);
    expect(body).toMatchObject({
      hold: { captured: 10, remaining: 15, status: "ACTIVE" },
      wallet: { balance: 90, held: 15 },
      transfer: { status: "posted", toWallet: { id: payee, balance: 10 } },
    });
    await until("the rest is let go", async () => (await stack.wallet(id)).held === 0);
    const { body: after } = await stack.get<HoldBody>(`/wallets/${id}/holds/${hold.id}`);
    expect(after).toMatchObject({ status: "CAPTURED", captured: 10, remaining: 0 });
    const transfer = await stack.get(`/transfers/${body.transfer!.transferId}`);
    expect(transfer.body).toMatchObject({ holdId: hold.id, amount: 10, status: "posted" });
    // The payer's line names the hold, the payee's does not: it is none of the payee's
    const { body: lines } = await stack.get<{ entries: { walletId: string; holdId?: string }[] }>(
      `/ledger/transactions/${body.transfer!.transferId}`,
    );
    expect(lines.entries.map(({ walletId, holdId }) => [walletId, holdId])).toEqual([
      [id, hold.id],
      [payee, undefined],
    ]);
    const nobody = await end(await place(id), "capture", { toWalletId: unique("nobody") });
    expect(nobody.body.code).toBe("wallet_not_found");
  });

  it("is listed newest first, by status, page by page", async () => {
    const { id } = await funded();
    const holds: HoldBody[] = [];
    for (let n = 0; n < 5; n++) holds.push(await place(id, { amount: n + 1 }));
    await end(holds[1]!, "release");
    const newest = holds.map((each) => each.id).toReversed();
    const idsAt = async (path: string): Promise<[string[], string | undefined]> => {
      const { body, headers } = await stack.get<HoldBody[]>(path);
      return [body.map((hold) => hold.id), headers["link"] as string | undefined];
    };
    expect(await idsAt(`/wallets/${id}/holds`)).toEqual([newest, undefined]);
    const found: string[] = [];
    let path: string | undefined = `/wallets/${id}/holds?limit=2&status=ACTIVE`;
    while (path !== undefined) {
      const [ids, link] = await idsAt(path);
      found.push(...ids);
      path = /<([^>]+)>/.exec(link ?? "")?.[1];
    }
    expect(found).toEqual(newest.filter((each) => each !== holds[1]!.id));
    expect(await idsAt(`/wallets/${id}/holds?status=EXPIRED`)).toEqual([[], undefined]);
  });

  it.each<[what: string, fields: object, status: number, code: string]>([
    ["no amount", {}, 422, "validation_failed"],
    ["a wrong amount", { amount: -1 }, 400, "invalid_amount"],
    ["too many decimals", { amount: 0.001 }, 400, "invalid_amount"],
    ["too much", { amount: 100.01 }, 400, "insufficient_funds"],
    ["another type", { amount: 1, type: "GIFT" }, 422, "validation_failed"],
    [
      "two ends",
      { amount: 1, expiresAt: "2040-01-01", expiresInSeconds: 1 },
      422,
      "validation_failed",
    ],
    ["no time", { amount: 1, expiresAt: "2040-02-30" }, 422, "validation_failed"],
    ["no seconds", { amount: 1, expiresInSeconds: 0 }, 422, "validation_failed"],
    ["a time in the past", { amount: 1, expiresAt: "2020-01-01T00:00:00Z" }, 400, "invalid_expiry"],
    ["an unstorable reference", { amount: 1, reference: "a\0" }, 422, "validation_failed"],
    ["an unknown field", { amount: 1, expires: 1 }, 422, "validation_failed"],
  ])("with %s is refused, and nothing is held", async (_what, fields, status, code) => {
    const { id } = await funded();
    const { body } = await stack.post(`/wallets/${id}/holds`, fields);
    expect(body).toMatchObject({ statusCode: status, code });
    expect(await stack.wallet(id)).toMatchObject({ held: 0, version: 1 });
  });

  it("that is not there is not found", async () => {
    const { id } = await funded();
    const missing = { walletId: id, id: "nothing" };
    const elsewhere = { walletId: unique("nobody"), id: "nothing" };
    const path = ({ walletId, id: holdId }: typeof missing) =>
      `/wallets/${walletId}/holds/${holdId}`;
    const codes = await Promise.all([
      stack.get(path(missing)),
      end(missing, "capture"),
      end(missing, "release"),
      stack.get(path(elsewhere)),
      end(elsewhere, "capture"),
      stack.get(`/wallets/${elsewhere.walletId}/holds`),
    ]);
    expect(codes.map(({ body }) => `${body.statusCode} ${body.code}`)).toEqual([
      ...Array.from({ length: 3 }, () => "404 hold_not_found"),
      ...Array.from({ length: 3 }, () => "404 wallet_not_found"),
    ]);
    const tooMuch = await end(await place(id), "capture", { amount: 25.01 });
    expect(tooMuch.body).toMatchObject({
      statusCode: 400,
      code: "capture_exceeds_hold",
      details: { remaining: 25, requested: 25.01, currency: "USD" },
    });
  });
});

it("history, ledger and feed show what happened to a hold", async () => {
  const { id } = await funded();
  const socket = new WebSocket(`${stack.url.replace("http", "ws")}/ws`);
  const frames: { version: number; held: number; change: { type: string } | null }[] = [];
  socket.on("message", (data: Buffer) => {
    const frame = JSON.parse(data.toString()) as (typeof frames)[number] & { type: string };
    if (frame.type === "balance") frames.push(frame);
  });
  await new Promise((resolve) => socket.on("open", resolve));
  socket.send(JSON.stringify({ type: "subscribe", wallets: [id], from: { [id]: 1 } }));
  const hold = await place(id, { amount: 25, expiresInSeconds: 1 });
  await end(hold, "capture", { amount: 10, description: "first part" });
  await until("the hold expires by itself", async () => (await stack.wallet(id)).held === 0, 3_000);
  await until("the feed has told", () => frames.length === 3);
  socket.close();
  const told = frames.map(({ version, held, change }) => `${version} ${change?.type} ${held}`);
  expect(told).toEqual(["2 HoldPlaced 25", "3 HoldCaptured 15", "4 HoldExpired 0"]);
  const { body: events } = await stack.get<{ type: string; data: Record<string, unknown> }[]>(
    `/wallets/${id}/events?fromVersion=2`,
  );
  expect(events.map(({ type }) => type)).toEqual(["HoldPlaced", "HoldCaptured", "HoldExpired"]);
  expect(events[0]!.data).toEqual({ hold });
  expect(events[2]!.data).toMatchObject({
    released: 15,
    hold: { id: hold.id, status: "EXPIRED", captured: 10, remaining: 0 },
  });
  const { body: transactions } = await stack.get<object[]>(
    `/wallets/${id}/transactions?type=CAPTURE`,
  );
  expect(transactions).toMatchObject([
    { type: "CAPTURE", amount: 10, balanceBefore: 100, balanceAfter: 90, holdId: hold.id },
  ]);
  const { body: entries } = await stack.get<object[]>(`/ledger/wallet/${id}?type=CAPTURE`);
  expect(entries).toMatchObject([
    {
      holdId: hold.id,
      lines: [
        { account: `wallet:${id}`, amount: -10 },
        { account: "system:world", amount: 10 },
      ],
    },
  ]);
  const { body: balance } = await stack.get<{ currencies: { isBalanced: boolean }[] }>(
    "/ledger/trial-balance",
  );
  expect(balance.currencies.map(({ isBalanced }) => isBalanced)).toEqual([true]);
});

it("NATS takes holds, captures and releases with the same answers", async () => {
  const [{ id }, { id: payee }] = [await funded(), await stack.open()];
  const ask = async (name: string, fields: object) => {
    const message = await nats.request(
      `wallets.v1.${name}`,
      JSON.stringify({ walletId: id, ...fields }),
      { timeout: 5_000 },
    );
    return message.json<{ ok: boolean; data: EndBody & HoldBody; error: { code: string } }>();
  };
  const { data: hold } = await ask("hold", { amount: 25, reference: "order-1" });
  expect(hold).toMatchObject({ walletId: id, amount: 25, status: "ACTIVE", reference: "order-1" });
  const part = await ask("capture", { holdId: hold.id, amount: 5 });
  expect(part.data).toEqual({
    hold: { ...hold, captured: 5, remaining: 20 },
    wallet: await stack.wallet(id),
  });
  const paid = await ask("capture", { holdId: hold.id, amount: 5, toWalletId: payee });
  expect(paid.data).toMatchObject({
    hold: { captured: 10 },
    wallet: { balance: 90 },
    transfer: { status: "posted", toWallet: { id: payee, balance: 5 } },
  });
  const released = await ask("release", { holdId: hold.id });
  expect(released.data).toMatchObject({ hold: { status: "RELEASED" }, wallet: { held: 0 } });
  expect(await ask("release", { holdId: hold.id })).toMatchObject({
    ok: false,
    error: { code: "hold_not_active" },
  });
  expect(await ask("capture", {})).toMatchObject({ error: { code: "validation_failed" } });
});

it("a hold whose time runs out while the process is dead expires within 2 s of its restart", async () => {
  const folder = dataFolder();
  let coffer = await startCoffer({ DATA_DIR: folder.path });
  try {
    const send = async (path: string, json?: object): Promise<HoldBody> =>
      (await askJson<HoldBody>(`${coffer.baseUrl}${path}`, json)).body;
    await coffer.untilReady();
    await send("/wallets", { walletId: "w", initialBalance: 100 });
    const hold = await send("/wallets/w/holds", { amount: 60, expiresInSeconds: 2 });
    expect(hold.status).toBe("ACTIVE");
    await coffer.kill();
    await until("its time is over", () => Date.now() >= Date.parse(hold.expiresAt!));
    coffer = await startCoffer({ DATA_DIR: folder.path });
    await coffer.untilReady();
    const isOver = async () => (await send(`/wallets/w/holds/${hold.id}`)).status === "EXPIRED";
    await until("it has expired", isOver, 2_000);
    expect(await send("/wallets/w")).toMatchObject({ balance: 100, held: 0, version: 3 });
  } finally {
    await coffer.stop();
    await folder.remove();
  }
}, 120_000);
