/**
 * What the reading routes make of a read model's answers that are hard to come by: transfers that
 * came back, keys that one database knows and another cannot tell of. The rest is seen through real
 * databases: `test/reads.test.ts`.
 */
import { afterAll, describe, expect, it } from "vitest";

import { ReadUnavailable, type Operation, type ReadModel } from "../../src/core/read-model.ts";
import { loneGatewayOptions } from "../../test/stage/lone-gateway.ts";
import { hold, notFound, POSTED, wallet } from "../../test/stage/wallet-fixtures.ts";
import { buildGateway } from "../http.ts";

const { options, close } = loneGatewayOptions();
afterAll(close);

const away = new ReadUnavailable("unavailable", "the database is away");

const sent: Operation = {
  commandId: "key-1",
  walletId: "w1",
  version: 4,
  rejection: null,
  transferId: "t1",
};

/** What a gateway answers over a read model that knows one operation, unless said otherwise. */
async function get(path: string, known: Partial<ReadModel> = {}) {
  const readModel = {
    ...options.readModel,
    operations: async (key: string) => (key === "key-1" ? [sent] : []),
    transfer: async () => POSTED,
    walletAt: async () => wallet(),
    holdAt: async () => null,
    wallet: async () => null,
    ...known,
  } satisfies ReadModel;
  const app = buildGateway({ ...options, readModel });
  const answer = await app.inject({ url: path });
  await app.close();
  return { status: answer.statusCode, body: answer.json<Record<string, unknown>>() };
}

describe("what became of a transfer's command", () => {
  const returned = { ...POSTED, status: "returned" as const, toVersion: null };
  it.each<[what: string, known: Partial<ReadModel>, told: object]>([
    ["done", {}, { outcome: "done", wallet: { id: "w1", version: 4 } }],
    [
      "pending, while it is",
      { transfer: async () => ({ ...POSTED, status: "pending", toVersion: null }) },
      { outcome: "pending", wallet: { version: 4 } },
    ],
    [
      "a refusal, when its money came back",
      { transfer: async () => ({ ...returned, rejection: notFound }) },
      { outcome: "rejected", error: { code: "wallet_not_found", statusCode: 404 } },
    ],
    [
      "a refusal, when it never began",
      {
        operations: async () => [{ ...sent, version: null, transferId: null, rejection: notFound }],
        transfer: () => Promise.reject(new Error("there is none")),
      },
      { outcome: "rejected", error: { code: "wallet_not_found" }, transferId: null },
    ],
  ])("is %s", async (_, known, told) => {
    const { status, body } = await get("/operations/key-1", known);
    expect([status, body]).toMatchObject([200, { idempotencyKey: "key-1", ...told }]);
    expect("wallet" in body).toBe(body["outcome"] !== "rejected");
  });
});

it("what became of a hold's command brings the hold as it was then", async () => {
  const { body } = await get("/operations/key-1", {
    operations: async () => [{ ...sent, transferId: null }],
    holdAt: async (_, version) => (version === 4 ? hold() : null),
  });
  expect(body).toMatchObject({ outcome: "done", hold: { id: "h1", captured: 4, remaining: 1 } });
});

describe("a key that no wallet has seen", () => {
  it("is told to be unknown, though it cannot be known whether it is a batch's", async () => {
    const operations = async (key: string) => (key === "k" ? [] : Promise.reject(away));
    const { status, body } = await get("/operations/k", { operations });
    expect([status, body["code"]]).toEqual([404, "operation_not_found"]);
  });

  it("is not told to be unknown, when it cannot be known", async () => {
    const { status, body } = await get("/operations/k", {
      operations: () => Promise.reject(away),
    });
    expect([status, body["code"]]).toEqual([503, "unavailable"]);
  });
});

it.each(["transfers", "transactions", "events"])(
  "%s of a wallet that there is not are not found, rather than none",
  async (list) => {
    const { status, body } = await get(`/wallets/nobody/${list}`, {
      transfersOf: async () => ({ rows: [], next: null }),
      transactions: async () => ({ rows: [], next: null }),
      events: async () => [],
    });
    expect([status, body["code"]]).toEqual([404, "wallet_not_found"]);
  },
);
