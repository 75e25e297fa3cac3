/**
 * The precondition `expectedVersion`, on every write and every way in: at the wallet's version it
 * lets the command through, at another one nothing happens, and of many who act on the same version
 * one wins.
 */
import type { NatsConnection } from "nats";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";

import type { NATS_REQUESTS } from "../gateway/routes/command-schemas.ts";
import { startStack, type AnyBody, type Stack } from "./stage/stack.ts";
import { openStake, WRITES, type Stake } from "./stage/write-routes.ts";

let stack: Stack;
let nats: NatsConnection;
let stake: Stake;

beforeAll(async () => {
  stack = await startStack({ overNats: true });
  nats = await stack.connectNats();
});

afterAll(async () => {
  await stack.close();
  expect(stack.errors).toEqual([]);
});

beforeEach(async () => {
  stake = await openStake(stack);
});

const onWallets = WRITES.filter(({ name }) => name !== "create");

describe("over HTTP", () => {
  it.each(onWallets)(
    "$name happens at the version that it expects, and at no other",
    async (route) => {
      const [path, walletId] = [route.path(stake), route.target(stake)];
      const before = await stack.wallet(walletId);
      const ask = (expectedVersion: number) =>
        stack.ask(route.method, path, { json: { ...route.body(stake), expectedVersion } });
      for (const wrong of [before.version + 1, before.version + 7]) {
        const { status, body } = await ask(wrong);
        expect([status, body.code]).toEqual([409, "version_conflict"]);
        expect(body.details).toEqual({ walletId, expectedVersion: wrong, version: before.version });
      }
      expect(await stack.wallet(walletId)).toEqual(before);
      expect((await ask(before.version)).status).toBe(200);
      expect((await stack.wallet(walletId)).version).toBe(before.version + 1);
      const stale = await ask(before.version);
      expect([stale.status, stale.body.code]).toEqual([409, "version_conflict"]);
    },
  );

  it.each(onWallets)("of many who $name at one version, one wins", async (route) => {
    const [path, walletId] = [route.path(stake), route.target(stake)];
    const { version: expectedVersion } = await stack.wallet(walletId);
    const json = { ...route.body(stake), expectedVersion };
    const answers = await Promise.all(
      Array.from({ length: 12 }, () => stack.ask(route.method, path, { json })),
    );
    const statuses = answers.map(({ status }) => status);
    expect(statuses.filter((status) => status === 200).length).toBe(1);
    expect(statuses.filter((status) => status === 409).length).toBe(11);
  });

  it("a creation with it never makes a wallet: what is not there has no version", async () => {
    const body = { walletId: `${stake.to}-new`, expectedVersion: 0 };
    expect((await stack.post("/wallets", body)).body.code).toBe("wallet_not_found");
    const taken = await stack.post("/wallets", { ...body, walletId: stake.to });
    expect(taken.body.code).toBe("wallet_already_exists");
  });

  it.each(WRITES)("$name refuses what is no version", async (route) => {
    for (const expectedVersion of [-1, 0.5, "1", null]) {
      const json = { ...route.body(stake), expectedVersion };
      const { status, body } = await stack.ask(route.method, route.path(stake), { json });
      expect([status, body.details[0]?.field]).toEqual([422, "expectedVersion"]);
    }
  });
});

/** What each endpoint needs, if it can; the type refuses a table that misses one. */
const BODIES: {
  [Name in keyof typeof NATS_REQUESTS]: ((stake: Stake) => object | Promise<object>) | null;
} = {
  create: null,
  get: null,
  credit: ({ from }) => ({ walletId: from, amount: 10 }),
  debit: ({ from }) => ({ walletId: from, amount: 10 }),
  transfer: ({ from, to }) => ({ walletId: from, toWalletId: to, amount: 10 }),
  update: ({ from }) => ({ walletId: from, metadata: { a: 1 } }),
  suspend: ({ empty }) => ({ walletId: empty }),
  activate: ({ empty }) => ({ walletId: empty }),
  close: ({ empty }) => ({ walletId: empty }),
  hold: ({ from }) => ({ walletId: from, amount: 10 }),
  capture: async ({ from }) => ({ walletId: from, holdId: await holdOn(from) }),
  release: async ({ from }) => ({ walletId: from, holdId: await holdOn(from) }),
};

async function holdOn(walletId: string): Promise<string> {
  const { body } = await stack.post<{ id: string }>(`/wallets/${walletId}/holds`, { amount: 10 });
  return body.id;
}

describe("over NATS", () => {
  it.each([
    ["create", "wallet_not_found"],
    ["get", "validation_failed"],
  ])("%s has no version to expect", async (name, code) => {
    const json = JSON.stringify({ walletId: `${stake.to}-new`, expectedVersion: 0 });
    const message = await nats.request(`wallets.v1.${name}`, json, { timeout: 5_000 });
    expect(message.json()).toMatchObject({ ok: false, error: { code } });
  });

  const onVersions = Object.entries(BODIES).flatMap(([name, of]) =>
    of === null ? [] : [[name, of] as const],
  );
  it.each(onVersions)(
    "%s happens at the version that it expects, and at no other",
    async (name, of) => {
      const body = (await of(stake)) as { walletId: string };
      const before = await stack.wallet(body.walletId);
      const ask = async (expectedVersion: number) => {
        const json = JSON.stringify({ ...body, expectedVersion });
        const message = await nats.request(`wallets.v1.${name}`, json, { timeout: 5_000 });
        return message.json<{ ok: boolean; error?: Pick<AnyBody, "code" | "statusCode"> }>();
      };
      const refused = await ask(before.version + 1);
      expect(refused).toMatchObject({
        ok: false,
        error: { code: "version_conflict", statusCode: 409 },
      });
      expect(await stack.wallet(body.walletId)).toEqual(before);
      expect((await ask(before.version)).ok).toBe(true);
      expect((await stack.wallet(body.walletId)).version).toBe(before.version + 1);
    },
  );
});
