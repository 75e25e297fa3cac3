/**
 * Every error that a caller can bring about over HTTP, and what a database that is stuck or a
 * gateway that closes makes of a request.
 */
import { once } from "node:events";
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { describe, expect, it } from "vitest";
import { LIMITS } from "../src/limits.ts";
import { describeAllAnswers, expectProblem, stack, useHttpStage } from "./stage/http.ts";
import { unique } from "./stage/ids.ts";
import { startStack } from "./stage/stack.ts";
import { openStake } from "./stage/write-routes.ts";

useHttpStage();

/** Writes the text, and gives what comes back until the server closes. */
async function answerTo(socket: Socket, text: string): Promise<string> {
  let given = "";
  socket.on("data", (chunk: Buffer) => (given += chunk.toString()));
  socket.write(text);
  await once(socket, "close");
  return given;
}

/** Open connections, made few at a time. */
async function connections(count: number): Promise<Socket[]> {
  const sockets: Socket[] = [];
  while (sockets.length < count) {
    const some = Array.from({ length: Math.min(100, count - sockets.length) }, async () => {
      const socket = connect(stack.port, "127.0.0.1");
      await once(socket, "connect");
      return socket;
    });
    sockets.push(...(await Promise.all(some)));
  }
  return sockets;
}

async function exchange(text: string): Promise<string> {
  const [socket] = await connections(1);
  return answerTo(socket!, text);
}

describe("an error", () => {
  const large = "9".repeat(14);
  it.each<[string, number, string, unknown, string?]>([
    ["insufficient_funds", 400, "/wallets/:from/debit", { amount: 1_000.01 }],
    ["invalid_amount", 400, "/wallets/:from/debit", { amount: 0.001 }, "2 decimal places"],
    ["invalid_amount", 400, "/wallets/:from/credit", { amount: -1 }],
    ["amount_out_of_range", 400, "/wallets/:from/credit", { amount: large }],
    ["amount_out_of_range", 400, "/wallets/:from/credit", { amount: "9999999999999.99" }],
    ["same_wallet", 400, "/wallets/:from/transfer", { toWalletId: ":from", amount: 1 }],
    ["wallet_not_found", 404, "/wallets/:from/transfer", { toWalletId: "nobody", amount: 1 }],
    ["wallet_not_found", 404, "/wallets/nobody/credit", { amount: 1 }],
    ["wallet_already_exists", 409, "/wallets", { walletId: ":to" }],
    ["asset_not_found", 404, "/wallets", { currency: "usd" }],
    ["wallet_not_empty", 409, "/wallets/:from/close", {}],
    ["validation_failed", 422, "/wallets/:from/credit", { amount: 1, amuont: 1 }, "amuont"],
    ["not_found", 404, "/nowhere", {}],
    ["method_not_allowed", 405, "/ledger/trial-balance", {}],
  ])("%s is %i at POST %s for %j", async (code, status, path, json, words) => {
    const { from, to } = await openStake(stack);
    const named = (text: string) => text.replace(":from", from).replace(":to", to);
    const input = JSON.parse(named(JSON.stringify(json))) as unknown;
    const reply = await stack.post(named(path), input);
    expectProblem(reply, status, code);
    expect(reply.body.path).toBe(named(path));
    if (words !== undefined) expect(reply.body.message).toContain(words);
    expect((await stack.wallet(from)).balance).toBe(1_000);
  });

  it("about funds names both amounts in words and in numbers", async () => {
    const { id } = await stack.open({ initialBalance: 10 });
    const { body } = await stack.post(`/wallets/${id}/debit`, { amount: 25 });
    expect(body.message).toBe(
      `Wallet ${id} has insufficient funds: available 10.00 USD, requested 25.00 USD`,
    );
    expect(body.details).toEqual({ walletId: id, currency: "USD", available: 10, requested: 25 });
  });

  it("about what is not there is 404 for every kind of reading", async () => {
    for (const path of ["", "/transactions", "/events", "/transfers"]) {
      expectProblem(await stack.get(`/wallets/nobody${path}`), 404, "wallet_not_found");
    }
    const reply = await stack.get("/transfers/none");
    expectProblem(reply, 404, "transfer_not_found");
    expect(reply.body.message).toBe("Transfer none does not exist");
  });

  it("about the message itself has its own status", async () => {
    const path = "/wallets/w/credit";
    const send = (text: string, headers = {}) => stack.ask("POST", path, { text, headers });
    expectProblem(await send("{"), 400, "invalid_json");
    expectProblem(await send("a", { "content-type": "text/plain" }), 415, "unsupported_media_type");
    const tooLong = JSON.stringify({ description: "x".repeat(LIMITS.httpBodyBytesMax) });
    expectProblem(await send(tooLong), 413, "payload_too_large");
    expect(await exchange("NONSENSE\r\n\r\n")).toMatch(/^HTTP\/1.1 400 .*"bad_request"/s);
    const headers = `GET / HTTP/1.1\r\nhost: x\r\nx: ${"y".repeat(17_000)}\r\n\r\n`;
    expect(await exchange(headers)).toMatch(/^HTTP\/1.1 431 .*"headers_too_large"/s);
    expectProblem(await stack.get("/ws"), 426, "upgrade_required");
  });

  it("of a database that is stuck is honest: unavailable, overloaded or unknown, and the key resolves it", async () => {
    const { id } = await stack.open();
    const [key, earlier] = [unique("key"), unique("earlier")];
    const credit = `/wallets/${id}/credit`;
    const { queryWaitingMax, queryConnectionsMax, queryStatementMs } = LIMITS;
    const sockets = await connections(queryWaitingMax + queryConnectionsMax + 50);
    const database = new pg.Client({ connectionString: stack.databaseUrl });
    await database.connect();
    await database.query("BEGIN; LOCK TABLE wallets, events IN ACCESS EXCLUSIVE MODE");
    // The commit of the first is cancelled after as long as a caller waits; those who ask later are
    // in the next one when their time is over.
    const first = stack.post(credit, { amount: 1 }, earlier);
    await sleep(2_000);
    const askedAtMs = performance.now();
    const commands = [stack.post(credit, { amount: 1 }, key), stack.post(credit, { amount: 1 })];
    const reading = `GET /wallets?ownerId=${id} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n`;
    const reads = await Promise.all(sockets.map((socket) => answerTo(socket, reading)));
    expect(performance.now() - askedAtMs).toBeLessThan(queryStatementMs + 3_000);
    for (const text of reads) expect(text).toMatch(/^HTTP\/1.1 503 .*\r\nretry-after: 1\r\n/s);
    const codes = new Set(reads.map((text) => /"code":"(\w+)"/.exec(text)?.[1]));
    expect(codes).toEqual(new Set(["overloaded", "unavailable"]));
    expect([503, 504]).toContain((await first).status);
    const [, unkeyed] = await Promise.all(commands);
    for (const reply of await Promise.all(commands)) expectProblem(reply, 504, "outcome_unknown");
    await database.query("ROLLBACK");
    await database.end();
    const again = await stack.post(credit, { amount: 1 }, key);
    expect(again.status).toBe(200);
    const named = String(unkeyed!.body.details["idempotencyKey"]);
    const others = await Promise.all([named, earlier].map((it) => stack.get(`/operations/${it}`)));
    const done = others.filter(({ status }) => status === 200).length;
    expect((await stack.wallet(id)).balance).toBe(1 + done);
  });

  it("of a gateway that is closing is unavailable, at once", async () => {
    const other = await startStack();
    const { id } = await other.open();
    await other.commands.drain();
    const reply = await other.post(`/wallets/${id}/credit`, { amount: 1 });
    expectProblem(reply, 503, "unavailable");
    expect(reply.headers["retry-after"]).toBe("1");
    await other.close();
  });
});

describeAllAnswers(10);
