/**
 * Readers over several databases see one deployment, in one order, whichever database a wallet
 * lives in, and say so when one is away.
 */
import { afterAll, beforeAll, describe, expect, inject, it, onTestFinished } from "vitest";
import { amountMinor, ZERO } from "../src/core/amount.ts";
import { prepareDatabases } from "../src/deployment.ts";
import type { Journal } from "../src/core/journal.ts";
import { LIMITS } from "../src/limits.ts";
import { buildPostgresJournal } from "../src/postgres/journal.ts";
import { buildPostgresReadModel } from "../src/postgres/read-model.ts";
import { buildPostgresShardTable } from "../src/postgres/shard-table.ts";
import {
  ReadUnavailable,
  type AccountTotal,
  type ReadModel,
  type WalletFilter,
} from "../src/core/read-model.ts";
import { ALL_SHARDS, shardOf } from "../src/core/shard.ts";
import type { Transfer } from "../src/core/transfer.ts";
import { decide, type WalletCommand, type WalletState } from "../src/core/wallet.ts";
import {
  draft,
  put,
  putPosted,
  putReceipt,
  putRefusal,
  putReserve,
  putReturn,
  putWallet,
  transferBetween,
  type Draft,
} from "./stage/journal-drafts.ts";
import { createDatabase, dropDatabase } from "./stage/servers.ts";
import { EVEN, idIn, ODD, unique } from "./stage/ids.ts";
import { creation } from "./stage/staged-commands.ts";
import { withLimits } from "./stage/lanes.ts";
import { openWire } from "./stage/wire.ts";

const T0 = Date.UTC(2026, 0, 2, 3, 4, 5, 678);

// --- Readers -------------------------------------------------------------------------------------

describe("the read model", () => {
  const names = ["reads_even", "reads_odd"];
  let homes: string[];
  let journals: Journal[];
  let epochs: Array<Map<number, number>>;
  let reads: ReadModel;
  const wallets = new Map<string, WalletState>();

  const home = (walletId: string): number => shardOf(walletId) % 2;

  /** One commit in the wallet's database. */
  async function append(walletId: string, fill: (writes: Draft) => void): Promise<void> {
    const writes = draft(epochs[home(walletId)]!);
    fill(writes);
    expect(await journals[home(walletId)]!.append(writes)).toEqual({ type: "committed" });
  }

  beforeAll(async () => {
    // One of them is made for English, which sorts neither letters nor signs as the other does
    const english = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'";
    homes = await Promise.all(
      names.map((name, index) =>
        createDatabase(inject("postgresUrl"), name, index === 1 ? english : ""),
      ),
    );
    await prepareDatabases(homes, () => undefined);
    const shardTable = buildPostgresShardTable(homes);
    await shardTable.take("host", new Map(ALL_SHARDS.map((shard) => [shard, null])));
    await shardTable.close();
    journals = homes.map((url) => buildPostgresJournal(url));
    epochs = [await journals[0]!.claim("host", EVEN), await journals[1]!.claim("host", ODD)];
    reads = buildPostgresReadModel({ databaseUrls: homes });
    for (const [nth, walletId] of LISTED.entries()) {
      await openWallet(walletId, nth % 3 === 0 ? "o" : "p");
    }
  });

  afterAll(async () => {
    await reads.close();
    await Promise.all(journals.map((journal) => journal.close()));
    await Promise.all(names.map((name) => dropDatabase(inject("postgresUrl"), name)));
  });

  /** Ids that languages sort in other ways than bytes do, in both databases. */
  const LISTED = ["a", "B", "a-1", "a.1", "a_1", "a:1", "a1", "A1", "@a", "Z", "z"].flatMap(
    (id) => [id, `${id}-x`, `${id}Y`, `${id}_0`],
  );
  const SORTED = LISTED.toSorted();

  /** Commits the events of one command to the wallet's database. */
  async function commit(
    walletId: string,
    command: WalletCommand,
    commandId: string,
    transfers: Transfer[] = [],
  ): Promise<WalletState> {
    const before = wallets.get(walletId) ?? null;
    const at = { nowMs: Date.now(), expectedVersion: null, pendingOutMinor: ZERO };
    const decision = decide(walletId, before, command, at);
    if (!decision.ok) throw new Error(decision.rejection.code);
    let after = before;
    await append(walletId, (writes) => {
      for (const [nth, event] of decision.events.entries()) {
        const isLast = nth === decision.events.length - 1;
        const cause = { commandId: isLast ? commandId : null, causationId: commandId };
        after = put(writes, walletId, event, { ...cause, metadata: "{}" }, before);
      }
      writes.transfers.push(...transfers);
    });
    wallets.set(walletId, after!);
    return after!;
  }

  async function openWallet(walletId: string, ownerId: string): Promise<WalletState> {
    return await commit(walletId, { ...creation("10"), ownerId }, `open ${walletId}`);
  }

  /** A pending transfer out of a new wallet in one of the shards. */
  async function openTransfer(shards: readonly number[]): Promise<Transfer> {
    const fromWalletId = idIn(shards);
    const { version } = await openWallet(fromWalletId, "q");
    const transferId = unique("transfer");
    const body = { type: "transfer", transferId, toWalletId: "a", amount: "3" } as const;
    const transfer: Transfer = {
      transferId,
      fromWalletId,
      toWalletId: "a",
      amountMinor: amountMinor(300),
      currency: "USD",
      decimalPlaces: 2,
      status: "pending",
      fromVersion: version + 1,
      toVersion: null,
      rejection: null,
      commandId: `of ${transferId}`,
      correlationId: "correlation",
      description: null,
      createdAtMs: T0,
      settledAtMs: null,
      holdId: null,
      isHoldFinal: false,
    };
    await commit(fromWalletId, body, transfer.commandId, [transfer]);
    return transfer;
  }

  const idsOf = (found: readonly WalletState[]): string[] => found.map(({ walletId }) => walletId);

  /** All pages of a search, one after another. */
  async function search(filter: WalletFilter, limit: number): Promise<string[][]> {
    const pages: string[][] = [];
    for (let after: string | null = null; ;) {
      const { rows, next } = await reads.wallets(filter, limit, after);
      expect(rows.length).toBeLessThanOrEqual(limit);
      pages.push(idsOf(rows));
      if (next === null) return pages;
      expect(next > (after ?? "")).toBe(true);
      after = next;
    }
  }

  it.each([1, 2, 3, 7, 43, 44, 45])(
    "lists the wallets of both databases in pages of %i, none twice and none left out",
    async (limit) => {
      for (const ownerId of ["o", "p"]) {
        const expected = SORTED.filter((walletId) => wallets.get(walletId)?.ownerId === ownerId);
        expect((await search({ ownerId }, limit)).flat()).toEqual(expected);
        expect(await reads.walletIdsOfOwner(ownerId, limit)).toEqual(expected.slice(0, limit));
      }
      expect(new Set(LISTED.map((walletId) => shardOf(walletId) % 2)).size).toBe(2);
    },
  );

  it("gives no more rows than one database may, since those behind could miss some", async () => {
    withLimits({ queryRowsMax: 5 });
    expect(idsOf((await reads.wallets({ ownerId: "p" }, 100, null)).rows)).toEqual(
      SORTED.filter((walletId) => wallets.get(walletId)?.ownerId === "p").slice(0, 4),
    );
  });

  it.each([
    ["no filter", {}],
    ["a balance", { minBalance: "10" }],
    ["a balance that none has", { minBalance: "10.01" }],
    ["a status", { status: "ACTIVE" }],
    ["an owner and a balance", { ownerId: "o", maxBalance: "10" }],
    ["a currency and a balance", { currency: "USD", maxBalance: "10.00" }],
    ["a word", { text: "a", ownerId: "p" }],
    ["a beginning", { text: "Zyx" }],
  ] as [string, WalletFilter][])(
    "finds the same by %s, however few rows a page may look at",
    async (_name, filter) => {
      const all = (await search(filter, 100)).flat();
      expect(all).toEqual(
        (await search({}, 100)).flat().filter((walletId) => fits(wallets.get(walletId)!, filter)),
      );
      for (const queryScanRowsMax of [1, 2, 5, 1_000]) {
        for (const queryCandidatesMax of [1, 10]) {
          withLimits({ queryScanRowsMax, queryCandidatesMax });
          for (const limit of [1, 3, 50]) expect((await search(filter, limit)).flat()).toEqual(all);
        }
      }
    },
  );

  /** The filter's meaning, once more. */
  function fits(wallet: WalletState, filter: WalletFilter): boolean {
    const words = `${wallet.walletId} ${wallet.ownerId}`.toLowerCase().split(/[^a-z0-9]+/);
    const asked = filter.text?.toLowerCase();
    return (
      (filter.ownerId === undefined || wallet.ownerId === filter.ownerId) &&
      wallet.balanceMinor >= Number(filter.minBalance ?? 0) * 100 &&
      wallet.balanceMinor <= Number(filter.maxBalance ?? 1e9) * 100 &&
      (asked === undefined ||
        words.some((word) => (asked.length < 3 ? word === asked : word.startsWith(asked))))
    );
  }

  it.each([
    ["one database", EVEN, EVEN],
    ["two databases", EVEN, ODD],
    ["two databases, the other way", ODD, EVEN],
  ])("shows a transfer to payer and payee, and all its entries, in %s", async (_, near, far) => {
    // Given a payer and a payee, and a transfer that is posted while the payer's record is still
    // pending
    const [from, to] = [idIn(near), idIn(far)];
    const balancesBefore = await reads.trialBalance("USD");
    let payer!: WalletState;
    let payee!: WalletState;
    await append(from, (writes) => (payer = putWallet(writes, from, 1_000, unique("c"))));
    await append(to, (writes) => (payee = putWallet(writes, to, 0 + 500, unique("c"))));
    const transfer = transferBetween(payer, to, 300);
    const { transferId } = transfer;
    await append(from, (writes) => (payer = putReserve(writes, payer, transfer)));
    const listed = async (walletId: string, status: Transfer["status"] | null = null) =>
      (await reads.transfersOf(walletId, status, 10, null)).rows;

    // Then only the payer has it
    expect(await listed(from)).toEqual([{ version: 2, transfer }]);
    expect(await listed(to)).toEqual([]);
    expect((await reads.transferEvents(transferId)).map(({ type }) => type)).toEqual([
      "TransferSent",
    ]);

    // When the payee has taken it
    await append(to, (writes) => (payee = putReceipt(writes, transfer, payee)));
    const received = { ...transfer, status: "posted", toVersion: 2 };
    expect(await listed(to)).toEqual([{ version: 2, transfer: received }]);
    expect(await listed(to, "posted")).toHaveLength(1);
    expect(await listed(to, "pending")).toEqual([]);
    expect(await listed(from, "pending")).toEqual([]);
    expect(await listed(from, "posted")).toEqual([{ version: 2, transfer: received }]);
    expect(await listed(from)).toEqual([{ version: 2, transfer: received }]);
    expect(await reads.transfer(transferId)).toEqual(received);
    const events = await reads.transferEvents(transferId);
    expect(events.map(({ type, walletId, version }) => [type, walletId, version])).toEqual([
      ["TransferSent", from, 2],
      ["TransferReceived", to, 2],
    ]);

    // And when the payer has settled, both show the record
    let settled!: Transfer;
    await append(from, (writes) => (settled = putPosted(writes, transfer, 2)));
    for (const walletId of [from, to]) {
      expect(await listed(walletId, "posted")).toEqual([{ version: 2, transfer: settled }]);
    }

    // And the totals of both databases are one, and zero
    const after = await reads.trialBalance("USD");
    const balanceOf = (totals: AccountTotal[], account: string) =>
      totals.find((total) => total.account === account)?.balanceMinor ?? 0n;
    for (const [account, change] of [
      ["wallets", 1_500n],
      ["system:world", -1_500n],
      ["system:transit", 0n],
    ] as const) {
      expect(balanceOf(after, account) - balanceOf(balancesBefore, account)).toBe(change);
    }
    expect(after.reduce((sum, { balanceMinor }) => sum + balanceMinor, 0n)).toBe(0n);
    expect(new Set(after.map(({ account }) => account)).size).toBe(after.length);
  });

  it.each([
    ["one database", EVEN, EVEN],
    ["two databases", EVEN, ODD],
  ])(
    "does not show a transfer as posted that its payee has refused, in %s",
    async (_, near, far) => {
      // Given a payee's no, of which the payer has not heard
      const [from, to] = [idIn(near), idIn(far)];
      let payer!: WalletState;
      await append(from, (writes) => (payer = putWallet(writes, from, 1_000, unique("c"))));
      const transfer = transferBetween(payer, to, 300);
      await append(from, (writes) => (payer = putReserve(writes, payer, transfer)));
      await append(to, (writes) => void putRefusal(writes, transfer));
      const listed = async (status: Transfer["status"] | null) =>
        (await reads.transfersOf(from, status, 10, null)).rows;

      // Then it is as the payer's record says
      expect(await reads.transfer(transfer.transferId)).toEqual(transfer);
      expect(await listed(null)).toEqual([{ version: 2, transfer }]);
      expect(await listed("pending")).toEqual([{ version: 2, transfer }]);
      expect(await listed("posted")).toEqual([]);

      // And returned when the payer has its money again
      await append(from, (writes) => (payer = putReturn(writes, transfer, payer)));
      expect(await reads.transfer(transfer.transferId)).toMatchObject({ status: "returned" });
      expect(await listed("posted")).toEqual([]);
      expect(await listed("returned")).toMatchObject([{ version: 2 }]);
      const events = await reads.transferEvents(transfer.transferId);
      expect(events.map(({ type, version }) => [type, version])).toEqual([
        ["TransferSent", 2],
        ["TransferReturned", 3],
      ]);
    },
  );

  it("asks a wallet's own database for it and its history", async () => {
    for (const walletId of ["a", "B", "a-1", "a.1"]) {
      expect(await reads.wallet(walletId)).toEqual(wallets.get(walletId));
      expect(await reads.walletAt(walletId, 0)).toMatchObject({ walletId, version: 0 });
      expect(await reads.events(walletId, 1, 5)).toMatchObject([{ walletId, version: 1 }]);
      expect((await reads.transactions(walletId, {}, 5, null)).rows).toHaveLength(1);
      expect(await reads.walletAtTime(walletId, T0)).toBeNull();
      expect(await reads.walletAtTime(walletId, Date.now())).toEqual(wallets.get(walletId));
      expect(await reads.operations(`open ${walletId}`, walletId)).toHaveLength(1);
    }
    expect(await reads.wallet("nobody")).toBeNull();
    const some = [...LISTED, "nobody"];
    expect(idsOf(await reads.walletsById(some)).toSorted()).toEqual(SORTED);
    expect(await reads.walletsById([])).toEqual([]);
    const tooMany = Array.from({ length: LIMITS.queryRowsMax + 1 }, (_, nth) => `w${nth}`);
    await expect(reads.walletsById(tooMany)).rejects.toThrow(RangeError);
  });

  it("finds a transfer in whichever database its payer is, and commands in all", async () => {
    for (const shards of [EVEN, ODD]) {
      const transfer = await openTransfer(shards);
      expect(await reads.transfer(transfer.transferId)).toEqual(transfer);
      const { rows } = await reads.transfersOf(transfer.fromWalletId, "pending", 5, null);
      expect(rows.map((row) => row.transfer)).toEqual([transfer]);
    }
    expect(await reads.transfer("nobody's")).toBeNull();

    const users = [idIn(EVEN), idIn(ODD)];
    for (const walletId of users) await commit(walletId, creation(null), "shared");
    const found = await reads.operations("shared", null);
    expect(found.map(({ walletId }) => walletId).toSorted()).toEqual(users.toSorted());
    withLimits({ queryRowsMax: 1 });
    expect(await reads.operations("shared", null)).toHaveLength(1);
  });

  it("answers what does not need the database that is away, and says so for the rest", async () => {
    // Given a wallet and a transfer in each, and then one database is away
    const [near, far] = [await openTransfer(EVEN), await openTransfer(ODD)];
    const wire = await openWire(homes[1]!);
    const partial = buildPostgresReadModel({ databaseUrls: [homes[0]!, wire.url] });
    onTestFinished(() => partial.close());
    expect(await partial.wallet(far.fromWalletId)).not.toBeNull();
    wire.close();

    expect(await partial.wallet(near.fromWalletId)).not.toBeNull();
    expect(await partial.walletsById([near.fromWalletId])).toHaveLength(1);
    expect(await partial.transfer(near.transferId)).toEqual(near);
    expect(await partial.operations(near.commandId, near.fromWalletId)).toHaveLength(1);
    expect(await partial.ping()).toBeGreaterThan(0);
    const unanswered = [
      () => partial.wallet(far.fromWalletId),
      () => partial.walletsById([near.fromWalletId, far.fromWalletId]),
      () => partial.transfer(far.transferId),
      // Nobody knows whether there is one
      () => partial.transfer("nobody's"),
      () => partial.wallets({}, 1, null),
      () => partial.walletIdsOfOwner("o", 1),
      () => partial.transferEvents(near.transferId),
      () => partial.trialBalance(null),
      () => partial.operations(near.commandId, null),
    ];
    for (const ask of unanswered) await expect(ask()).rejects.toThrow(ReadUnavailable);

    const away = buildPostgresReadModel({ databaseUrls: [wire.url, wire.url] });
    onTestFinished(() => away.close());
    await expect(away.ping()).rejects.toThrow(ReadUnavailable);
  });
});
