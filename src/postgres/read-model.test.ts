/**
 * The read model on a real PostgreSQL, over histories that the real core decided and the real
 * journal committed: what readers see is what happened. Then the database is killed under it.
 */
import { chmodSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it } from "vitest";

import { draft, put, speakFor } from "../../test/stage/journal-drafts.ts";
import { ZERO } from "../core/amount.ts";
import { startEmbeddedPostgres, type EmbeddedPostgres } from "../embedded/embedded-postgres.ts";
import type { Journal } from "../core/journal.ts";
import { LIMITS } from "../limits.ts";
import { migrateUp } from "./migrate.ts";
import { buildPostgresJournal } from "./journal.ts";
import { buildPostgresReadModel } from "./read-model.ts";
import { NUMBERS } from "./rows.ts";
import { buildPostgresShardTable } from "./shard-table.ts";
import { buildWalletsTogether } from "./wallet-reads.ts";
import { ReadUnavailable, type ReadModel } from "../core/read-model.ts";
import { ALL_SHARDS } from "../core/shard.ts";
import { settle, type Transfer } from "../core/transfer.ts";
import { decide, transferEvent } from "../core/wallet.ts";
import type { TransferStep, WalletCommand, WalletEvent, WalletState } from "../core/wallet.ts";

const settings = { shared_buffers: "16MB", max_connections: "20" };
/** A moment with milliseconds, to see whether they survive. */
const T0 = Date.UTC(2026, 0, 2, 3, 4, 5, 678);

let folder: string;
let server: EmbeddedPostgres;
let journal: Journal;
let reads: ReadModel;
let fence: Map<number, number>;
const wallets = new Map<string, WalletState>();

interface Extra {
  readonly transfers?: Transfer[];
  readonly settled?: Transfer[];
  readonly metadata?: string;
  readonly description?: string;
}

/** Commits events as one command's; returns the wallet after each. */
async function commit(
  walletId: string,
  events: readonly WalletEvent[],
  commandId: string | null,
  extra: Extra = {},
): Promise<WalletState[]> {
  const base = wallets.get(walletId) ?? null;
  const writes = draft(fence);
  const states = events.map((event, nth) => {
    const isLast = nth === events.length - 1;
    const cause = { correlationId: `corr-${commandId}`, causationId: commandId ?? "cause" };
    const { description = null, metadata = null } = extra;
    const rest = { ...cause, commandId: isLast ? commandId : null, description, metadata };
    return put(writes, walletId, event, rest, base);
  });
  writes.transfers.push(...(extra.transfers ?? []));
  writes.settled.push(...(extra.settled ?? []));
  expect(await journal.append(writes)).toEqual({ type: "committed" });
  wallets.set(walletId, states.at(-1)!);
  return states;
}

async function carryOut(
  walletId: string,
  command: WalletCommand,
  commandId: string,
  nowMs: number,
  extra: Extra = {},
): Promise<WalletState[]> {
  const at = { nowMs, expectedVersion: null, pendingOutMinor: ZERO };
  const decision = decide(walletId, wallets.get(walletId) ?? null, command, at);
  if (!decision.ok) throw new Error(decision.rejection.code);
  return commit(walletId, decision.events, commandId, extra);
}

function creation(fields: Partial<Extract<WalletCommand, { type: "create" }>> = {}): WalletCommand {
  return {
    type: "create",
    ownerId: null,
    currency: "USD",
    decimalPlaces: 2,
    initialBalance: null,
    metadata: "{}",
    ...fields,
  };
}

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "coffer-read-model-"));
  chmodSync(folder, 0o755);
  server = await startEmbeddedPostgres({ dataDir: join(folder, "data"), settings });
  await migrateUp(server.url);
  journal = buildPostgresJournal(server.url);
  reads = buildPostgresReadModel({ databaseUrls: [server.url] });
  const shardTable = buildPostgresShardTable([server.url]);
  await shardTable.take("test", new Map(ALL_SHARDS.map((shard) => [shard, null])));
  await shardTable.close();
  fence = await journal.claim("test", ALL_SHARDS);
}, 60_000);

afterAll(async () => {
  await reads.close();
  await journal.close();
  await server.stop();
  rmSync(folder, { recursive: true, force: true });
});

describe("wallets", () => {
  it("reads a wallet as it is, and as it was at each version", async () => {
    const metadata = '{"b":1,"aa":{"x":null}}';
    const states = await carryOut(
      "past",
      creation({ ownerId: "o1", initialBalance: "9999999999999.98", metadata }),
      "past-1",
      T0,
    );
    states.push(...(await carryOut("past", { type: "debit", amount: "0.99" }, "past-2", T0 + 1)));
    states.push(...(await carryOut("past", { type: "suspend" }, "past-3", T0 + 2)));
    for (const [nth, patch] of ['{"b":null}', '{"aa":{"x":{"y":2}},"b":3}'].entries()) {
      const [update, step] = [{ type: "update", patch } as const, { type: "activate" } as const];
      states.push(...(await carryOut("past", update, `past-update-${nth}`, T0 + 3)));
      states.push(...(await carryOut("past", step, `past-activate-${nth}`, T0 + 4 + nth)));
    }
    expect(new Set(states.map((state) => state.metadata)).size).toBe(3);
    const read = (wallet: WalletState | null) => ({
      ...wallet,
      metadata: JSON.stringify(JSON.parse(wallet!.metadata)),
    });

    expect(read(await reads.wallet("past"))).toEqual(states.at(-1));
    for (const state of states) {
      expect(read(await reads.walletAt("past", state.version))).toEqual(state);
    }
    expect(await reads.walletAt("past", states.length)).toBeNull();
    expect(await reads.wallet("nobody")).toBeNull();
    expect(await reads.walletAt("nobody", 0)).toBeNull();
  });

  it("reads wallets that are asked for in one turn with one query, each its own", async () => {
    await carryOut("turn-1", creation({ initialBalance: "1" }), "turn-1", T0);
    await carryOut("turn-2", creation({ initialBalance: "2" }), "turn-2", T0);
    const pool = new pg.Pool({ connectionString: server.url, types: NUMBERS });
    let queries = 0;
    const { wallet, walletAt } = buildWalletsTogether(async (query) => {
      queries += 1;
      return (await pool.query(query)).rows;
    });
    const asked = ["turn-2", "nobody", "turn-1", "turn-2"];
    const now = await Promise.all(asked.map(wallet));
    expect(now.map((one) => one?.balanceMinor ?? null)).toEqual([200, null, 100, 200]);
    expect(queries).toBe(1);
    const first = await Promise.all(asked.map((walletId) => walletAt(walletId, 0)));
    expect(first.map((one) => one?.walletId ?? null)).toEqual(["turn-2", null, "turn-1", "turn-2"]);
    expect(first.map((one) => one?.balanceMinor ?? null)).toEqual([0, null, 0, 0]);
    expect(queries).toBe(2);
    // More than fit one query
    const many = Array.from({ length: LIMITS.queryRowsMax + 1 }, (_, n) => `turn-${n}`);
    const found = (await Promise.all(many.map(wallet))).filter((one) => one !== null);
    expect(found.map(({ walletId }) => walletId)).toEqual(["turn-1", "turn-2"]);
    expect(queries).toBe(4);
    // And all fail together
    await pool.end();
    const failed = await Promise.allSettled(asked.map(wallet));
    expect(failed.map(({ status }) => status)).toEqual(asked.map(() => "rejected"));
  });

  it("lists wallets by filter, in the order of ids, page by page", async () => {
    for (const [nth, currency] of ["USD", "EUR", "USD", "USD"].entries()) {
      const walletId = `list-${nth}`;
      await carryOut(walletId, creation({ ownerId: "o2", currency }), `list-${nth}`, T0);
    }
    await carryOut("list-3", { type: "suspend" }, "list-suspend", T0);
    const ids = async (...query: Parameters<ReadModel["wallets"]>) =>
      (await reads.wallets(...query)).rows.map(({ walletId }) => walletId);

    expect(await ids({ ownerId: "o2" }, 10, null)).toEqual([
      "list-0",
      "list-1",
      "list-2",
      "list-3",
    ]);
    expect(await ids({ ownerId: "o2" }, 2, "list-1")).toEqual(["list-2", "list-3"]);
    expect(await ids({ ownerId: "o2", currency: "EUR" }, 10, null)).toEqual(["list-1"]);
    expect(await ids({ ownerId: "o2", status: "SUSPENDED" }, 10, null)).toEqual(["list-3"]);
    expect(await ids({ ownerId: "'; DROP TABLE wallets" }, 10, null)).toEqual([]);
    expect(await reads.walletIdsOfOwner("o2", 3)).toEqual(["list-0", "list-1", "list-2"]);
    const some = await reads.walletsById(["list-1", "list-3", "nobody"]);
    expect(
      some.map(({ walletId }) => walletId).toSorted((one, other) => (one < other ? -1 : 1)),
    ).toEqual(["list-1", "list-3"]);
    await expect(reads.walletsById(Array(LIMITS.queryRowsMax + 1).fill("x"))).rejects.toThrow(
      RangeError,
    );
  });
});

describe("history", () => {
  it("reads events with what they carried, and transactions newest first", async () => {
    await carryOut("hist", creation({ initialBalance: "10" }), "hist-1", T0);
    const fund: WalletCommand = { type: "credit", amount: "1.50", kind: "FUND" };
    await carryOut("hist", fund, "hist-2", T0 + 10, { metadata: '{"a":1}', description: "gift" });
    await carryOut("hist", { type: "suspend" }, "hist-3", T0 + 20);
    await carryOut("hist", { type: "activate" }, "hist-4", T0 + 30);
    await carryOut("hist", { type: "debit", amount: "2" }, "hist-5", T0 + 40);

    const events = await reads.events("hist", 0, 10);
    expect(events.map(({ version }) => version)).toEqual([0, 1, 2, 3, 4, 5]);
    expect(events[0]).toMatchObject({
      type: "WalletCreated",
      commandId: null,
      causationId: "hist-1",
    });
    expect(events[2]).toEqual({
      walletId: "hist",
      version: 2,
      type: "WalletCredited",
      amountMinor: 150,
      balanceMinor: 1_150,
      heldMinor: 0,
      status: "ACTIVE",
      account: "system:world",
      counterpartyId: null,
      transferId: null,
      commandId: "hist-2",
      correlationId: "corr-hist-2",
      causationId: "hist-2",
      description: "gift",
      data: { kind: "FUND", metadata: { a: 1 } },
      occurredAtMs: T0 + 10,
    });
    expect((await reads.events("hist", 4, 1)).map(({ version }) => version)).toEqual([4]);

    const versions = async (...query: Parameters<ReadModel["transactions"]>) =>
      (await reads.transactions(...query)).rows.map(({ version }) => version);
    expect(await versions("hist", {}, 10, null)).toEqual([5, 2, 1]);
    expect(await versions("hist", {}, 1, 5)).toEqual([2]);
    expect(await versions("hist", { types: ["WalletDebited"] }, 10, null)).toEqual([5]);
    expect(await versions("hist", { fromMs: T0 + 10, toMs: T0 + 40 }, 10, null)).toEqual([2]);
  });

  it("knows what became of command ids, in each wallet that used them", async () => {
    await carryOut("op-1", creation(), "shared", T0);
    await carryOut("op-2", creation(), "shared", T0);
    const rejection = { code: "wallet_not_found", walletId: "op-3" } as const;
    const writes = draft(fence);
    const base = { walletId: "op-3", commandId: "shared", fingerprint: "f", isIdProposed: false };
    writes.rejections.push({ ...base, rejection });
    speakFor(writes, "op-3");
    await journal.append(writes);
    const all = await reads.operations("shared", null);
    expect(all).toHaveLength(3);
    const nothing = { rejection: null, transferId: null };
    expect(await reads.operations("shared", "op-2")).toEqual([
      { commandId: "shared", walletId: "op-2", version: 0, ...nothing },
    ]);
    expect(await reads.operations("shared", "op-3")).toEqual([
      { commandId: "shared", walletId: "op-3", version: null, rejection, transferId: null },
    ]);
    expect(await reads.operations("never", null)).toEqual([]);
  });
});

describe("transfers", () => {
  it("reads each as it stands, and a wallet's newest first", async () => {
    await carryOut("payer", creation({ initialBalance: "10" }), "payer-1", T0);
    const send = async (transferId: string, nowMs: number) => {
      const command = { type: "transfer", transferId, toWalletId: "payee", amount: "3" } as const;
      const at = { nowMs, expectedVersion: null, pendingOutMinor: ZERO };
      const decision = decide("payer", wallets.get("payer")!, command, at);
      if (!decision.ok) throw new Error(decision.rejection.code);
      const pending: Transfer = {
        transferId,
        fromWalletId: "payer",
        toWalletId: "payee",
        amountMinor: 300 as Transfer["amountMinor"],
        currency: "USD",
        decimalPlaces: 2,
        status: "pending",
        fromVersion: wallets.get("payer")!.version + 1,
        toVersion: null,
        rejection: null,
        commandId: `c-${transferId}`,
        correlationId: "corr",
        description: "rent",
        createdAtMs: nowMs,
        settledAtMs: null,
        holdId: null,
        isHoldFinal: false,
      };
      await commit("payer", decision.events, pending.commandId, { transfers: [pending] });
      return pending;
    };
    const first = await send("t1", T0 + 1);
    const second = await send("t2", T0 + 2);
    const rejection = { code: "wallet_not_found", walletId: "payee" } as const;
    const returned = settle(first, { type: "refused", rejection }, T0 + 3);
    const step: TransferStep = {
      type: "return",
      transferId: "t1",
      toWalletId: "payee",
      amountMinor: first.amountMinor,
      hold: null,
    };
    const comeBack = transferEvent(wallets.get("payer")!, step, T0 + 3);
    await commit("payer", [comeBack], null, { settled: [returned] });

    expect(await reads.transfer("t1")).toEqual(returned);
    expect(await reads.transfer("t2")).toEqual(second);
    expect(await reads.transfer("t3")).toBeNull();
    const listed = async (...query: Parameters<ReadModel["transfersOf"]>) =>
      (await reads.transfersOf(...query)).rows.map(({ transfer }) => transfer);
    expect(await listed("payer", null, 10, null)).toEqual([second, returned]);
    expect(await listed("payer", "returned", 10, null)).toEqual([returned]);
    expect(await listed("payee", null, 10, null)).toEqual([]);
    const [out, back] = [second, returned].map(({ fromVersion }) => fromVersion);
    const events = await reads.transferEvents("t1");
    expect(events.map(({ type, version }) => [type, version])).toEqual([
      ["TransferSent", back],
      ["TransferReturned", out! + 1],
    ]);
  });
});

describe("a database that goes away", () => {
  // On a busy machine the database or this process may get no processor for longer than a reader
  // waits for a connection; no refusal here comes of that wait.
  let reads: ReadModel;

  beforeAll(() => {
    const { queryWaitMs } = LIMITS;
    Object.assign(LIMITS, { queryWaitMs: 20_000 });
    reads = buildPostgresReadModel({ databaseUrls: [server.url] });
    Object.assign(LIMITS, { queryWaitMs });
  });
  afterAll(() => reads.close());

  it("is told as such, refuses nobody for ever, and serves again after its restart", async () => {
    expect(await reads.ping()).toBeGreaterThan(0);
    const { port } = server;
    await server.kill();
    for (let nth = 0; nth < 3; nth++) {
      const error: unknown = await reads.wallet("past").catch((reason: unknown) => reason);
      expect(error).toBeInstanceOf(ReadUnavailable);
      expect((error as ReadUnavailable).reason).toBe("unavailable");
    }
    server = await startEmbeddedPostgres({ dataDir: join(folder, "data"), port, settings });
    expect((await reads.wallet("past"))?.walletId).toBe("past");
  }, 30_000);

  it("is spared when too many readers wait for it already", async () => {
    const readers = LIMITS.queryWaitingMax + LIMITS.queryConnectionsMax * 3;
    const results = await Promise.allSettled(
      Array.from({ length: readers }, () => reads.walletIdsOfOwner("o1", 1)),
    );
    const refused = results.filter((result) => result.status === "rejected");
    expect(refused.length).toBeGreaterThan(0);
    for (const { reason } of refused) expect((reason as ReadUnavailable).reason).toBe("overloaded");
    expect((await reads.wallet("past"))?.walletId).toBe("past");
  });

  it("says that it is there while more readers wait for it than may", async () => {
    // Given readers that nobody can answer, on every connection and in the whole queue
    const session = new pg.Client({ connectionString: server.url });
    await session.connect();
    await session.query("BEGIN; LOCK TABLE wallets IN ACCESS EXCLUSIVE MODE");
    const readers = LIMITS.queryWaitingMax + LIMITS.queryConnectionsMax * 3;
    const waiting = Promise.allSettled(
      Array.from({ length: readers }, () => reads.walletIdsOfOwner("o1", 1)),
    );
    try {
      // Then a health check hears of the database, not of them
      expect(await reads.ping()).toBeLessThan(LIMITS.healthCheckMs);
    } finally {
      await session.end();
    }
    const results = await waiting;
    expect(results.some(({ status }) => status === "rejected")).toBe(true);
  });

  it("is asked whether it is there over one connection, which ends with the readers'", async () => {
    const session = new pg.Client({ connectionString: server.url });
    await session.connect();
    const count = async (): Promise<number> => {
      const connections = "FROM pg_stat_activity WHERE application_name = 'coffer-read'";
      const { rows } = await session.query<{ n: number }>(
        `SELECT count(*)::int4 AS n ${connections}`,
      );
      return rows[0]!.n;
    };
    const others = await count();
    const own = buildPostgresReadModel({ databaseUrls: [server.url] });
    try {
      await Promise.all(Array.from({ length: LIMITS.healthWaitingMax }, () => own.ping()));
      expect(await count()).toBe(others + 1);
      await own.close();
      await expect.poll(count).toBe(others);
    } finally {
      await session.end();
    }
  });
});
