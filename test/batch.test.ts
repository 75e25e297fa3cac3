/**
 * Batches on the real stack, over HTTP and NATS: an outcome for each command in its place, one
 * outcome per key however often and through whatever fault a batch is repeated, and bounds that
 * hold. The faults are those of a batch's life: the process killed in the middle of one, PostgreSQL
 * stopped in the middle, SIGTERM in the middle, a caller who goes away or does not read.
 */
import { connect as connectTcp } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";

import { headers as newHeaders, type NatsConnection } from "nats";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { WebSocket } from "ws";

import { HttpConnection } from "../bench/http-client.ts";
import { LIMITS } from "../src/limits.ts";
import { dataFolder, startCoffer } from "./stage/process.ts";
import { startPostgres } from "./stage/servers.ts";
import { unique } from "./stage/ids.ts";
import { startStack, until, type Stack, type WalletBody } from "./stage/stack.ts";

interface Outcome {
  readonly ok: boolean;
  readonly statusCode: number;
  readonly data: WalletBody & {
    readonly status: string;
    readonly fromWallet?: WalletBody;
    readonly toWallet?: WalletBody;
  };
  readonly error?: { readonly code: string; readonly message: string; readonly details?: object };
  readonly replayed?: boolean;
}
interface BatchBody {
  readonly outcomes: Outcome[];
  readonly shortened?: boolean;
}

type Command = Record<string, unknown> & { readonly type: string };

const range = (count: number): number[] => Array.from({ length: count }, (_, index) => index);

let stack: Stack;
let nats: NatsConnection;

beforeAll(async () => {
  stack = await startStack({ overNats: true });
  nats = await stack.connectNats();
});

afterAll(() => stack.close());

/** Patiently: on a busy machine a large batch takes longer than a single command may. */
async function batch(commands: readonly unknown[], key?: string): Promise<Outcome[]> {
  const connection = new HttpConnection("127.0.0.1", stack.port, 60_000);
  try {
    const fields = key === undefined ? "" : `Idempotency-Key: ${key}\r\n`;
    const { status, body } = await connection.post("/batch", JSON.stringify({ commands }), fields);
    if (status !== 200) throw new Error(`${status} ${body.toString().slice(0, 300)}`);
    const { outcomes } = JSON.parse(body.toString()) as BatchBody;
    expect(outcomes.length).toBe(commands.length);
    return outcomes;
  } finally {
    connection.close();
  }
}

const credit = (walletId: string, fields: object = {}): Command => ({
  type: "credit",
  walletId,
  amount: 1,
  ...fields,
});

/** Wallets with money, made by a batch. */
async function openWallets(prefix: string, count: number, initialBalance = 100): Promise<string[]> {
  const ids = range(count).map((n) => `${prefix}-${n}`);
  const outcomes = await batch(
    ids.map((walletId) => ({ type: "create", walletId, initialBalance })),
  );
  expect(outcomes.every(({ statusCode }) => statusCode === 201)).toBe(true);
  return ids;
}

/** Per asset all accounts sum to zero, in the stack's own database. */
async function sumOfAccounts(of: Pick<Stack, "sql">): Promise<string> {
  const rows = await of.sql<{ sum: string }>("SELECT sum(balance)::text AS sum FROM trial_balance");
  return rows[0]!.sum;
}

describe("10,000 commands in one request", { timeout: 120_000 }, () => {
  it("each have their outcome in their place, and a repeat gives the same ones without doing anything", async () => {
    // Given wallets, and a batch of all kinds of commands with bad ones among them
    const wallets = await openWallets(unique("mix"), 500);
    const run = unique("run");
    const commands: unknown[] = range(LIMITS.batchCommandsMax).map((n): unknown => {
      const walletId = wallets[n % wallets.length];
      const keyed = { walletId, idempotencyKey: `${run}-${n}` };
      if (n % 10 === 3) return { type: "debit", ...keyed, amount: 1_000_000 };
      if (n % 10 === 5) return { type: "credit", ...keyed, amount: -1 };
      if (n % 10 === 6) {
        return {
          type: "transfer",
          ...keyed,
          toWalletId: wallets[(n + 1) % wallets.length],
          amount: 0.01,
        };
      }
      if (n % 10 === 7) return { type: "debit", ...keyed, amount: 0.5 };
      if (n % 10 === 8) return { type: "update", ...keyed, metadata: { n } };
      return { type: "credit", ...keyed, amount: 2 };
    });
    commands[100] = null;
    commands[200] = { type: "nothing" };

    // When it is sent
    const outcomes = await batch(commands);

    // Then each outcome is that of its command
    const codes = outcomes.map(({ error }) => error?.code ?? "ok");
    const expected = range(commands.length).map((n) => {
      if (n === 100 || n === 200) return "validation_failed";
      return n % 10 === 3 ? "insufficient_funds" : n % 10 === 5 ? "invalid_amount" : "ok";
    });
    expect(codes).toEqual(expected);
    for (const [n, { ok, data }] of outcomes.entries()) {
      const id = n % 10 === 6 ? data.fromWallet?.id : data?.id;
      if (ok) expect(id).toBe(wallets[n % wallets.length]);
    }
    // And the wallets are what their events say, with one event per command of theirs, in the
    // batch's order
    const [before] = await stack.sql<{ events: string }>("SELECT count(*) AS events FROM events");
    expect(await sumOfAccounts(stack)).toBe("0");
    const versions = new Map<string, number>();
    for (const [n, { ok, data }] of outcomes.entries()) {
      if (!ok || n % 10 === 6) continue;
      expect(data.version).toBeGreaterThan(versions.get(data.id) ?? 1);
      versions.set(data.id, data.version);
    }

    // When the whole batch is repeated
    const again = await batch(commands);

    // Then the answers are the same, marked, and nothing has happened
    const [after] = await stack.sql<{ events: string }>("SELECT count(*) AS events FROM events");
    expect(after).toEqual(before);
    for (const [n, outcome] of again.entries()) {
      const { replayed, ...rest } = outcome;
      expect(rest).toEqual(outcomes[n]);
      // What was refused at the door left no trace, so its key was never used.
      const isAtDoor = ["validation_failed", "invalid_amount"].includes(codes[n]!);
      expect(replayed).toBe(isAtDoor ? undefined : true);
    }
    expect(stack.errors).toEqual([]);
  });

  it("go by the batch's own key when they have none", async () => {
    const [walletId] = await openWallets(unique("key"), 1);
    const commands = range(50).map(() => credit(walletId!));
    const key = unique("payday");
    const first = await batch(commands, key);
    const second = await batch(commands, key);
    expect(first.map(({ data }) => data.version)).toEqual(range(50).map((n) => n + 2));
    expect(second).toEqual(first.map((outcome) => ({ ...outcome, replayed: true })));
    const { body } = await stack.get<{ version: number }>(
      `/operations/${encodeURIComponent(`${key}/49`)}?walletId=${walletId}`,
    );
    expect(body.version).toBe(51);
  });

  it("carry the request's correlation id, each with itself as the cause", async () => {
    const [walletId] = await openWallets(unique("corr"), 1);
    const headers = { "x-correlation-id": "order-9" };
    const json = { commands: [credit(walletId!, { idempotencyKey: "k1" }), credit(walletId!)] };
    await stack.ask("POST", "/batch", { json, headers });
    const { body } = await stack.get<
      { metadata: { correlationId: string; causationId: string } }[]
    >(`/wallets/${walletId}/events?fromVersion=2`);
    expect(body.map(({ metadata }) => metadata.correlationId)).toEqual(["order-9", "order-9"]);
    expect(body[0]!.metadata.causationId).toBe("k1");
    expect(body[1]!.metadata.causationId).toMatch(/^[\da-f]{8}-/);
  });

  it("happen in their order: made, funded, paid from, emptied and closed in one batch", async () => {
    const [a, b, c] = [unique("a"), unique("b"), unique("c")];
    const outcomes = await batch([
      { type: "create", walletId: a },
      { type: "fund", walletId: a, amount: 10 },
      { type: "create", walletId: b },
      { type: "transfer", walletId: a, toWalletId: b, amount: 10 },
      { type: "close", walletId: a },
      { type: "create", walletId: c },
      { type: "transfer", walletId: b, toWalletId: c, amount: 10 },
      { type: "suspend", walletId: c },
      { type: "debit", walletId: c, amount: 1 },
    ]);
    expect(outcomes.map(({ error }) => error?.code ?? "ok")).toEqual([
      ...range(8).map(() => "ok"),
      "wallet_not_active",
    ]);
    expect(await stack.wallet(a)).toMatchObject({ status: "CLOSED", balance: 0 });
    expect(await stack.wallet(c)).toMatchObject({ status: "SUSPENDED", balance: 10 });
  });

  it("happen in their order when a wallet pays first and is paid then", async () => {
    // Given a wallet with all that a wallet can have: it has room for more only after it has paid
    const [payee, payer] = [
      (await stack.open()).id,
      (await stack.open({ initialBalance: 500 })).id,
    ];
    for (let round = 1; round <= 5; round++) {
      const full = await stack.open({ initialBalance: 9_999_999_999_999.99 });
      const outcomes = await batch([
        { type: "transfer", walletId: full.id, toWalletId: payee, amount: 100 },
        { type: "transfer", walletId: payer, toWalletId: full.id, amount: 100 },
      ]);
      expect(outcomes.map(({ ok, error }) => (ok ? "ok" : error?.code))).toEqual(["ok", "ok"]);
    }
  });

  it("wait for the transfers before them, on two hot wallets that pay and spend in turns", async () => {
    // Given a payee who spends what he gets, and a payer who gets back what he pays
    const [payer, payee] = [await stack.open({ initialBalance: 30 }), await stack.open()];
    const pay = { type: "transfer", walletId: payer.id, toWalletId: payee.id, amount: 30 };
    const spend = { type: "debit", walletId: payee.id, amount: 1 };
    const earn = { type: "credit", walletId: payer.id, amount: 1 };
    const round = [pay, ...range(30).flatMap(() => [spend, earn])];

    // When that goes on for twenty rounds, then none of them is short of money
    const outcomes = await batch(range(20).flatMap(() => round));
    expect(outcomes.filter(({ ok }) => !ok)).toEqual([]);
    expect(outcomes).toHaveLength(20 * round.length);
    const balances = [
      (await stack.wallet(payer.id)).balance,
      (await stack.wallet(payee.id)).balance,
    ];
    expect(balances).toEqual([30, 0]);
  });

  it("happen in their order too when the first of them waits for an asset that this process has not seen", async () => {
    // Given an asset that somebody has added elsewhere
    const code = unique("GEM");
    const add = "INSERT INTO assets (code, name, decimal_places) VALUES ($1, $1, 0)";
    await stack.sql(add, [code]);
    const [a, b] = [unique("a"), unique("b")];

    // When wallets of it are made, and used in the same batch
    const outcomes = await batch([
      { type: "create", walletId: a, currency: code },
      { type: "credit", walletId: a, amount: 10 },
      { type: "create", walletId: b, currency: code },
      { type: "transfer", walletId: a, toWalletId: b, amount: 4 },
    ]);

    // Then none was overtaken
    expect(outcomes.map(({ error }) => error?.code ?? "ok")).toEqual(range(4).map(() => "ok"));
    expect([(await stack.wallet(a)).balance, (await stack.wallet(b)).balance]).toEqual([6, 4]);
  });

  it("go through the mailbox of one hot wallet, and those who watch it miss nothing", async () => {
    // Given somebody who watches a wallet
    const [walletId] = await openWallets(unique("hot"), 1, 0.01);
    const versions: number[] = [];
    const socket = new WebSocket(`ws://127.0.0.1:${stack.port}/ws`);
    onTestFinished(() => socket.close());
    let isSubscribed = false;
    let last = { version: 1, conflated: 0 };
    socket.on("message", (data: Buffer) => {
      const frame = JSON.parse(data.toString()) as {
        type: string;
        version: number;
        conflated: number;
      };
      isSubscribed ||= frame.type === "subscribed";
      if (frame.type !== "balance") return;
      if (versions.length > 0) expect(frame.version).toBe(last.version + frame.conflated + 1);
      versions.push(frame.version);
      last = frame;
    });
    await new Promise((resolve) => socket.once("open", resolve));
    socket.send(JSON.stringify({ type: "subscribe", wallets: [walletId] }));
    await until("it watches", () => isSubscribed && versions.length === 1);

    // When a batch has nothing but this wallet, asleep in its lane
    let most = 0;
    const watch = setInterval(() => (most = Math.max(most, stack.commands.pending)), 1);
    const outcomes = await batch(range(LIMITS.batchCommandsMax).map(() => credit(walletId!)));
    clearInterval(watch);

    // Then all are carried out, in order, and never more than a window of them at once
    expect(outcomes.map(({ data }) => data?.version)).toEqual(
      range(LIMITS.batchCommandsMax).map((n) => n + 2),
    );
    expect(most).toBeLessThanOrEqual(LIMITS.batchWindowMax);
    expect(most).toBeGreaterThan(0);
    await until("the last change arrives", () => last.version === LIMITS.batchCommandsMax + 1);
  });

  it("leave room for single commands beside many of them", { timeout: 60_000 }, async () => {
    // Given twelve times the commands that may be under way at once
    const wallets = await openWallets(unique("busy"), 200);
    const credits = range(4_000).map((n) => credit(wallets[n % 200]!));
    const beganAtMs = performance.now();
    const run = range(8).map(async () => {
      return [...(await batch(credits)), ...(await batch(credits)), ...(await batch(credits))];
    });
    let isOver = false;
    const all = Promise.all(run).finally(() => (isOver = true));
    const waits: number[] = [];
    let most = 0;
    while (!isOver) {
      const startedAtMs = performance.now();
      const { status } = await stack.post(`/wallets/${wallets[0]}/credit`, { amount: 1 });
      waits.push(performance.now() - startedAtMs);
      most = Math.max(most, stack.commands.pending);
      expect(status).toBe(200);
    }
    const tookMs = performance.now() - beganAtMs;
    expect((await all).flat().every(({ ok }) => ok)).toBe(true);
    // Every batch may keep what it had under way when the next ones came.
    expect(most).toBeLessThanOrEqual(2 * LIMITS.batchesWindowMax + 1);
    expect(waits.length).toBeGreaterThan(3);
    // Whoever waited for all of them would have waited that long
    expect(Math.max(...waits)).toBeLessThan(tookMs / 2);
  });
});

describe("a batch that is refused as a whole", () => {
  it.each<[string, string | object, number, string]>([
    ["too many commands", { commands: range(LIMITS.batchCommandsMax + 1) }, 422, "commands"],
    ["having no commands", { commands: [] }, 422, "commands"],
    ["a wish to be atomic", { commands: [1], atomic: true }, 422, "atomic does not exist yet"],
    ["an unknown field", { commands: [1], order: 1 }, 422, "order is not known here"],
    ["not being JSON", '{"commands":[', 400, "JSON"],
    ["more bytes than it may have", " ".repeat(LIMITS.batchBodyBytesMax + 1), 413, "8388608 bytes"],
  ])("for %s", async (_name, given, status, words) => {
    const text = typeof given === "string" ? given : JSON.stringify(given);
    const { body } = await stack.ask("POST", "/batch", { text });
    expect(body).toMatchObject({ statusCode: status, path: "/batch" });
    expect(body.message).toContain(words);
  });

  it("for a key that could not name its commands", async () => {
    const key = "k".repeat(LIMITS.keyLengthMax);
    const { body } = await stack.post("/batch", { commands: [credit("w")] }, key);
    expect(body).toMatchObject({ statusCode: 422, details: [{ field: "Idempotency-Key" }] });
  });

  it("for lack of room while others are being sent, and not after them", async () => {
    // Given as many half-sent batches as a process takes
    const large = Math.floor(LIMITS.batchesBytesMax / LIMITS.batchBodyBytesMax);
    const half = range(large).map(() => {
      const socket = connectTcp(stack.port, "127.0.0.1");
      socket.on("error", () => undefined);
      socket.write(
        `POST /batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${LIMITS.batchBodyBytesMax}\r\n\r\n{`,
      );
      return socket;
    });
    onTestFinished(() => half.forEach((socket) => socket.destroy()));
    const [walletId] = [unique("room")];
    const create = { commands: [{ type: "create", walletId }] };
    await until("there is no room", async () => {
      const { status, body, headers } = await stack.post("/batch", { commands: [null] });
      if (status === 503) expect([body.code, headers["retry-after"]]).toEqual(["overloaded", "1"]);
      return status === 503;
    });
    // When one of them goes away
    half[0]!.destroy();
    // Then there is room for another
    await until("there is room", async () => (await stack.post("/batch", create)).status === 200);
    expect((await stack.wallet(walletId)).version).toBe(0);
  });
});

describe("a caller of a batch", () => {
  it("who goes away leaves what began, and no more begins", { timeout: 30_000 }, async () => {
    const [walletId] = await openWallets(unique("gone"), 1, 0.01);
    const payload = JSON.stringify({ commands: range(10_000).map(() => credit(walletId!)) });
    const socket = connectTcp(stack.port, "127.0.0.1");
    socket.write(
      `POST /batch HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ${payload.length}\r\n\r\n${payload}`,
    );
    await new Promise((resolve) => socket.once("data", resolve));
    socket.destroy();
    await until("nothing is under way", () => stack.commands.pending === 0);
    await sleep(100);
    const { version } = await stack.wallet(walletId!);
    expect(version).toBeGreaterThan(1);
    expect(version).toBeLessThan(9_000);
    await sleep(200);
    expect((await stack.wallet(walletId!)).version).toBe(version);
    expect(stack.errors).toEqual([]);
  });
});

describe("over NATS", () => {
  async function ask(body: object, headers: Record<string, string> = {}) {
    const given = newHeaders();
    for (const [name, value] of Object.entries(headers)) given.set(name, value);
    const message = await nats.request("wallets.v1.batch", JSON.stringify(body), {
      timeout: 20_000,
      headers: given,
    });
    const reply = message.json<{
      ok: boolean;
      data: BatchBody;
      error: NonNullable<Outcome["error"]>;
    }>();
    return { message, ...reply };
  }

  it("a batch is the same, and shares its keys with HTTP", async () => {
    const wallets = await openWallets(unique("nats"), 20);
    const commands = range(1_000).map((n) =>
      n % 10 === 9 ? { type: "debit", walletId: "nobody", amount: 1 } : credit(wallets[n % 20]!),
    );
    const key = unique("over-nats");
    const { ok, data } = await ask(
      { commands },
      { "Idempotency-Key": key, "X-Correlation-Id": "c-1" },
    );
    expect(ok).toBe(true);
    expect(data.outcomes.map(({ statusCode }) => statusCode)).toEqual(
      range(1_000).map((n) => (n % 10 === 9 ? 404 : 200)),
    );
    const again = await batch(commands, key);
    expect(again).toEqual(data.outcomes.map((outcome) => ({ ...outcome, replayed: true })));
    const { body } = await stack.get<{ metadata: { correlationId: string } }[]>(
      `/wallets/${wallets[0]}/events?fromVersion=2&limit=1`,
    );
    expect(body[0]!.metadata.correlationId).toBe("c-1");
  });

  it("a batch whose reply the server could not carry is refused before anything begins", async () => {
    const [walletId] = await openWallets(unique("big"), 1);
    const commands = range(10_000).map(() => credit(walletId!));
    const { message, ok, error } = await ask({ commands });
    expect([ok, error.code]).toEqual([false, "payload_too_large"]);
    expect(error.message).toContain("raise max_payload");
    expect(message.headers?.get("Nats-Service-Error-Code")).toBe("413");
    expect((await stack.wallet(walletId!)).version).toBe(1);
  });

  it("a batch of wallets with much metadata has its reply without it rather than none", async () => {
    const [walletId] = await openWallets(unique("fat"), 1);
    await stack.ask("PATCH", `/wallets/${walletId}`, {
      json: { metadata: { a: "x".repeat(8_000) } },
    });
    const { data } = await ask({ commands: range(500).map(() => credit(walletId!)) });
    expect(data.shortened).toBe(true);
    expect(data.outcomes.at(-1)?.data).toMatchObject({ id: walletId, version: 502, balance: 600 });
    expect(data.outcomes.at(-1)?.data).not.toHaveProperty("metadata");
  });

  it("a batch is refused as a whole for what HTTP refuses", async () => {
    expect((await ask({ commands: [] })).error.code).toBe("validation_failed");
    expect((await ask({ commands: [1], atomic: true })).error.message).toContain(
      "does not exist yet",
    );
  });
});

describe("a fault in the middle of a batch", { timeout: 90_000 }, () => {
  /** Sends a batch and gives its outcomes, or null when the connection broke. */
  async function sendTo(port: number, commands: readonly unknown[]): Promise<Outcome[] | null> {
    const connection = new HttpConnection("127.0.0.1", port, 60_000);
    try {
      const answer = await connection.post("/batch", JSON.stringify({ commands }));
      return (JSON.parse(answer.body.toString()) as BatchBody).outcomes;
    } catch {
      return null;
    } finally {
      connection.close();
    }
  }

  async function versionAt(port: number, walletId: string): Promise<number> {
    const connection = new HttpConnection("127.0.0.1", port, 5_000);
    try {
      const answer = await connection.get(`/wallets/${walletId}`);
      return (JSON.parse(answer.body.toString()) as WalletBody).version ?? 0;
    } finally {
      connection.close();
    }
  }

  const create = (walletId: string) => ({ type: "create", walletId });
  const keyed = (walletId: string, count: number) =>
    range(count).map((n) => credit(walletId, { idempotencyKey: `k-${n}` }));

  it("kill -9: the batch repeated by its keys has happened once", async () => {
    // Given a batch that is half done
    const folder = dataFolder();
    onTestFinished(() => folder.remove());
    let coffer = await startCoffer({ DATA_DIR: folder.path });
    onTestFinished(async () => void (await coffer.kill()));
    await coffer.untilReady();
    const { port } = coffer;
    await sendTo(port, [create("w")]);
    const commands = keyed("w", 10_000);
    const broken = sendTo(port, commands);
    await until("it is in the middle", async () => (await versionAt(port, "w")) > 1_000);

    // When the process is killed, and the batch sent again to the next one
    await coffer.kill();
    expect(await broken).toBeNull();
    coffer = await startCoffer({ DATA_DIR: folder.path, PORT: String(port) });
    await coffer.untilReady();
    const outcomes = await sendTo(port, commands);

    // Then each command has one outcome, those of before the crash marked as repeats
    expect(outcomes!.filter(({ ok }) => !ok)).toEqual([]);
    expect(await versionAt(port, "w")).toBe(10_000);
    const replays = outcomes!.filter(({ replayed }) => replayed === true).length;
    expect(replays).toBeGreaterThan(1_000);
    expect(replays).toBeLessThan(10_000);
    expect(new Set(outcomes!.map(({ data }) => data.version)).size).toBe(10_000);
  });

  it("PostgreSQL away: waited out for a moment, told honestly when it lasts", async () => {
    const postgres = await startPostgres();
    onTestFinished(() => postgres.stop());
    const coffer = await startCoffer({ DATABASE_URL: postgres.url });
    onTestFinished(async () => void (await coffer.kill()));
    await coffer.untilReady();
    const { port } = coffer;
    await sendTo(port, [create("w"), create("v")]);

    // When PostgreSQL dies in the middle of a batch and is back after a second
    const running = sendTo(port, keyed("w", 10_000));
    await until("it is in the middle", async () => (await versionAt(port, "w")) > 500);
    await postgres.kill();
    await sleep(1_000);
    await postgres.restart();

    // Then all of it happens, once
    expect((await running)!.every(({ ok }) => ok)).toBe(true);
    expect(await versionAt(port, "w")).toBe(10_000);

    // When it stays away
    const longer = sendTo(port, keyed("v", 10_000));
    await until("it is in the middle", async () => (await versionAt(port, "v")) > 500);
    await postgres.kill();
    const outcomes = await longer;

    // Then every command is told that it happened, that it did not, or that nobody knows
    const counts: Record<string, number> = {};
    for (const { ok, error } of outcomes!) {
      const code = ok ? "ok" : error!.code;
      counts[code] = (counts[code] ?? 0) + 1;
    }
    expect(Object.keys(counts).toSorted().join(" ")).toMatch(/^ok( outcome_unknown)? unavailable$/);
    await postgres.restart();
    await coffer.untilReady();
    const version = await versionAt(port, "v");
    expect(version).toBeGreaterThanOrEqual(counts["ok"]!);
    expect(version).toBeLessThanOrEqual(counts["ok"]! + (counts["outcome_unknown"] ?? 0));

    // And the same keys bring the rest
    expect((await sendTo(port, keyed("v", 10_000)))!.every(({ ok }) => ok)).toBe(true);
    expect(await versionAt(port, "v")).toBe(10_000);
    expect(await coffer.stop()).toEqual({ code: 0, signal: null });
  });

  it("SIGTERM: what began is answered, the rest is unavailable and did not happen", async () => {
    const folder = dataFolder();
    onTestFinished(() => folder.remove());
    let coffer = await startCoffer({ DATA_DIR: folder.path });
    onTestFinished(async () => void (await coffer.kill()));
    await coffer.untilReady();
    const { port } = coffer;
    await sendTo(port, [create("w")]);
    const running = sendTo(port, keyed("w", 10_000));
    await until("it is in the middle", async () => (await versionAt(port, "w")) > 1_000);
    const exit = await coffer.stop();
    const outcomes = await running;
    expect(exit).toEqual({ code: 0, signal: null });
    const done = outcomes!.filter(({ ok }) => ok).length;
    expect(done).toBeGreaterThan(1_000);
    expect(done).toBeLessThan(10_000);
    expect(outcomes!.slice(0, done).every(({ ok }) => ok)).toBe(true);
    expect(new Set(outcomes!.slice(done).map(({ error }) => error?.code))).toEqual(
      new Set(["unavailable"]),
    );
    coffer = await startCoffer({ DATA_DIR: folder.path, PORT: String(port) });
    await coffer.untilReady();
    expect(await versionAt(port, "w")).toBe(done);
  });
});
