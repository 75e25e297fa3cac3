/**
 * Several databases, on a real PostgreSQL: who may write a shard, whatever two hosts do at once; that a database which is away costs its
 * own shards and nothing else; and that readers see one deployment, whichever database a wallet lives in.
 */
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import type pg from "pg";
import {
  afterAll,
  beforeAll,
  beforeEach,
  describe,
  expect,
  inject,
  it,
  onTestFinished,
} from "vitest";
import { amountMinor, ZERO } from "../src/amount.ts";
import { UnsafeDatabaseError, withClient } from "../src/database.ts";
import { prepareDatabases, watchDeployment } from "../src/deployment.ts";
import type { Journal } from "../src/journal.ts";
import { LIMITS } from "../src/limits.ts";
import { migrateDown, migrateUp, migrationStatus } from "../src/migrate.ts";
import { buildPostgresJournal } from "../src/postgres-journal.ts";
import { buildPostgresReadModel, ReadUnavailable } from "../src/postgres-read-model.ts";
import { buildPostgresShardTable } from "../src/postgres-shard-table.ts";
import type { AccountTotal, ReadModel, WalletFilter } from "../src/read-model.ts";
import type { ShardTable } from "../src/shard-table.ts";
import { ALL_SHARDS, shardOf } from "../src/shard.ts";
import type { Transfer } from "../src/transfer.ts";
import { apply, decide, type WalletCommand, type WalletState } from "../src/wallet.ts";
import {
  draft,
  putPosted,
  putReceipt,
  putReserve,
  putWallet,
  transferBetween,
  type Draft,
} from "./journal-fixtures.ts";
import { startCoffer } from "./process.ts";
import { chained } from "./journal-fixtures.ts";
import { createDatabase, dropDatabase } from "./servers.ts";
import type { AnyBody } from "./stack.ts";
import {
  creation,
  EVEN,
  idIn,
  ODD,
  openDatabase,
  unique,
  withLimits,
  type TestDatabase,
} from "./staging.ts";

const T0 = Date.UTC(2026, 0, 2, 3, 4, 5, 678);

/** Shard `s` is in the one at `s % 2`. */
let databases: TestDatabase[];
let urls: string[];

beforeAll(async () => {
  databases = [await openDatabase("databases_even"), await openDatabase("databases_odd")];
  urls = databases.map(({ url }) => url);
});

afterAll(async () => {
  await Promise.all(databases.map((database) => database.close()));
});

/** The same database by way of a port of ours, which can fall silent or refuse. */
async function openWire(url: string): Promise<{ url: string; hang(): void; close(): void }> {
  const { port, hostname } = new URL(url);
  const sockets = new Set<Socket>();
  let isSilent = false;
  const server = createServer((socket) => {
    const onward = connect(Number(port), hostname);
    for (const [from, to] of [
      [socket, onward],
      [onward, socket],
    ] as const) {
      sockets.add(from);
      from.on("error", () => undefined);
      from.on("close", () => to.destroy());
      from.on("data", (bytes) => {
        if (!isSilent) to.write(bytes);
      });
    }
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  function close(): void {
    server.close();
    for (const socket of sockets) socket.destroy();
  }
  onTestFinished(close);
  const wired = new URL(url);
  wired.host = `127.0.0.1:${(server.address() as AddressInfo).port}`;
  return {
    url: wired.href,
    hang() {
      isSilent = true;
    },
    close,
  };
}

// --- The shard table ------------------------------------------------------------------------------------------------------

describe("the shard table", () => {
  let one: ShardTable;
  let other: ShardTable;

  beforeAll(() => {
    one = buildPostgresShardTable(urls);
    other = buildPostgresShardTable(urls);
  });

  afterAll(async () => {
    await Promise.all([one.close(), other.close()]);
  });

  beforeEach(async () => {
    const free = "UPDATE shards SET owner = NULL";
    await Promise.all(databases.map((database) => database.query(free)));
  });

  const fromNobody = (shards: readonly number[]) => new Map(shards.map((shard) => [shard, null]));

  /** What the table says, by shard. */
  async function rows(shards: readonly number[]) {
    const all = await one.read();
    return shards.map((shard) => all[shard]!);
  }

  async function ownersOf(shards: readonly number[]): Promise<Array<string | null>> {
    return (await rows(shards)).map(({ owner }) => owner);
  }

  /** A session that holds the rows of shards of the first database, as a change under way does. */
  async function holdRows(sql: string): Promise<pg.Client> {
    const session = await databases[0]!.session();
    await session.query("BEGIN");
    await session.query(sql);
    return session;
  }

  /** Waits until so many sessions wait for a row of the first database. */
  async function untilWaiting(count: number): Promise<void> {
    const sql = `SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'`;
    await expect.poll(() => databases[0]!.query(sql), { interval: 5 }).toEqual([{ count }]);
  }

  it("gives each shard from its own database, all in order", async () => {
    // Given rows of the other database's shards that would tell otherwise
    await databases[0]!.query("UPDATE shards SET owner = 'wrong' WHERE shard % 2 = 1");
    await databases[1]!.query("UPDATE shards SET owner = 'wrong' WHERE shard % 2 = 0");

    const before = Date.now();
    await one.take("a", fromNobody([6, 7]));
    const all = await one.read();

    expect(all.map(({ shard }) => shard)).toEqual(ALL_SHARDS);
    expect(all.filter(({ owner }) => owner !== null).map(({ shard }) => shard)).toEqual([6, 7]);
    for (const { claimedAtMs } of await rows([6, 7])) {
      expect(Math.abs(claimedAtMs - before)).toBeLessThan(10_000);
    }
  });

  it("is taken from the listed owner only, with the next epoch, and given up by its owner only", async () => {
    const epochs = (await rows([4, 5, 8])).map(({ epoch }) => epoch);

    expect(await one.take("a", fromNobody([5, 4]))).toEqual([4, 5]);
    const listed = new Map([
      [4, "a"],
      [5, null],
      [8, "a"],
    ]);
    expect(await other.take("b", listed)).toEqual([4]);
    expect(await ownersOf([4, 5, 8])).toEqual(["b", "a", null]);
    expect((await rows([4, 5, 8])).map(({ epoch }, nth) => epoch - epochs[nth]!)).toEqual([
      2, 1, 0,
    ]);

    await one.release("a", [4, 5, 8]);
    expect(await ownersOf([4, 5, 8])).toEqual(["b", null, null]);
    expect(await other.take("b", fromNobody([5]))).toEqual([5]);
    expect(await one.take("a", new Map())).toEqual([]);
    await one.release("a", []);
  });

  it("race: of two hosts that take the same shards at once, each shard gets one", async () => {
    for (let round = 0; round < 10; round++) {
      const from = new Map((await one.read()).map(({ shard, owner }) => [shard, owner]));
      const reversed = new Map([...from].toReversed());

      const [nameA, nameB] = [`a-${round}`, `b-${round}`];
      const [a, b] = await Promise.all([one.take(nameA, from), other.take(nameB, reversed)]);

      expect([...a, ...b].toSorted((x, y) => x - y)).toEqual(ALL_SHARDS);
      const owners = await ownersOf(ALL_SHARDS);
      expect(owners).toEqual(ALL_SHARDS.map((shard) => (a.includes(shard) ? nameA : nameB)));
    }
  });

  it("race: a take that waits for another one compares with what that one left", async () => {
    // Given that somebody takes shard 10 and has not committed
    const rival = await holdRows("SELECT take_shards('rival', '{10}', ARRAY[NULL::text])");

    // When another host takes it from nobody, as it has read it
    const take = one.take("a", fromNobody([10, 12]));
    await untilWaiting(1);
    await rival.query("COMMIT");

    // Then it gets the shard that was free, and no other
    expect(await take).toEqual([12]);
    expect(await ownersOf([10, 12])).toEqual(["rival", "a"]);
  });

  it("race: a claim that waits for a take by somebody else gets nothing", async () => {
    await one.take("a", fromNobody([14]));
    const journal = buildPostgresJournal(urls[0]!);
    onTestFinished(() => journal.close());
    const rival = await holdRows("SELECT take_shards('rival', '{14}', '{a}')");

    const claim = journal.claim("a", [14]);
    await untilWaiting(1);
    await rival.query("COMMIT");

    expect(await claim).toEqual(new Map());
  });

  it.each(["take", "claim", "release"] as const)(
    "race: a %s holds no later shard while it waits for an earlier one, or two would deadlock",
    async (what) => {
      // Given two shards whose rows lie in the table the other way round, and somebody who has the earlier one
      await one.take("a", fromNobody(EVEN));
      const journal = buildPostgresJournal(urls[0]!);
      onTestFinished(() => journal.close());
      const [pair] = await databases[0]!.query<{ low: number; high: number }>(
        `SELECT one.shard AS low, two.shard AS high FROM shards one JOIN shards two ON one.ctid > two.ctid
         WHERE one.shard < two.shard AND one.owner = 'a' AND two.owner = 'a' LIMIT 1`,
      );
      const { low, high } = pair!;
      const lock = (shard: number) => `SELECT FROM shards WHERE shard = ${shard} FOR UPDATE`;
      const rival = await holdRows(lock(low));

      // When a change of both waits for it, and the somebody wants the later one
      const from = new Map([high, low].map((shard) => [shard, "a"]));
      const changes = {
        take: () => one.take("b", from),
        claim: () => journal.claim("a", [high, low]),
        release: () => one.release("a", [high, low]),
      };
      const change = changes[what]();
      await untilWaiting(1);
      await rival.query(lock(high));
      await rival.query("COMMIT");

      // Then both get what they want
      await change;
      const owner = { take: "b", claim: "a", release: null }[what];
      expect(await ownersOf([low, high])).toEqual([owner, owner]);
    },
  );

  it("takes while an append of the former owner is under way; the claim waits for it", async () => {
    await one.take("a", fromNobody([16]));
    const journal = buildPostgresJournal(urls[0]!);
    onTestFinished(() => journal.close());
    const append = await holdRows("SELECT pg_advisory_xact_lock_shared(1668245094)");

    expect(await other.take("b", new Map([[16, "a"]]))).toEqual([16]);
    let isClaimed = false;
    const claim = journal.claim("b", [16]).finally(() => (isClaimed = true));
    await untilWaiting(1);
    expect(isClaimed).toBe(false);

    await append.query("COMMIT");
    expect([...(await claim).keys()]).toEqual([16]);
  });

  it.each(["refuses", "is silent"])("leaves out a database that %s, and no other", async (how) => {
    // Given a table that has been read, and then one of its databases is away
    const wire = await openWire(urls[1]!);
    const table = buildPostgresShardTable([urls[0]!, wire.url]);
    onTestFinished(() => table.close());
    expect((await table.read()).map(({ shard }) => shard)).toEqual(ALL_SHARDS);
    if (how === "refuses") wire.close();
    else wire.hang();

    // Then the other's shards are read, taken and released, soon
    const startedAtMs = performance.now();
    expect((await table.read()).map(({ shard }) => shard)).toEqual(EVEN);
    expect(await table.take("a", fromNobody([20, 21]))).toEqual([20]);
    await table.release("a", [20]);
    expect(performance.now() - startedAtMs).toBeLessThan(5_000);
    expect(await ownersOf([20, 21])).toEqual([null, null]);

    // And nobody is told of a release that may not have happened
    await expect(table.release("a", [20, 21])).rejects.toThrow("may not be released");
  });

  it("serves a database again that comes back", async () => {
    const table = buildPostgresShardTable(urls);
    onTestFinished(() => table.close());
    await table.read();
    await databases[1]!.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
       WHERE datname = current_database() AND application_name = 'coffer-shards'`,
    );
    await expect.poll(() => table.read(), { interval: 50 }).toHaveLength(ALL_SHARDS.length);
    expect(await table.take("a", fromNobody(ODD))).toEqual(ODD);
  });

  it("says so when no database can be read", async () => {
    const away = buildPostgresShardTable([1, 2].map((port) => `postgres://u@127.0.0.1:${port}/x`));
    onTestFinished(() => away.close());
    await expect(away.read()).rejects.toThrow(/ECONNREFUSED/);
    expect(await away.take("a", fromNobody(ALL_SHARDS))).toEqual([]);
    await expect(away.release("a", [1])).rejects.toThrow(/ECONNREFUSED/);
  });
});

// --- Readers --------------------------------------------------------------------------------------------------------------

describe("the read model", () => {
  const names = ["reads_even", "reads_odd"];
  let homes: string[];
  let journals: Journal[];
  let epochs: Array<Map<number, number>>;
  let reads: ReadModel;
  const wallets = new Map<string, WalletState>();

  beforeAll(async () => {
    // One of them is made for English, which sorts neither letters nor signs as the other does
    const english = "TEMPLATE template0 LOCALE_PROVIDER icu ICU_LOCALE 'en-US'";
    await withClient(inject("postgresUrl"), async (client) => {
      for (const [index, name] of names.entries()) {
        await client.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
        await client.query(`CREATE DATABASE ${name} ${index === 1 ? english : ""}`);
      }
    });
    homes = names.map(
      (name) => Object.assign(new URL(inject("postgresUrl")), { pathname: name }).href,
    );
    await prepareDatabases(homes, () => undefined);
    const shardTable = buildPostgresShardTable(homes);
    await shardTable.take("host", new Map(ALL_SHARDS.map((shard) => [shard, null])));
    await shardTable.close();
    journals = homes.map(buildPostgresJournal);
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
    const events = decision.events.map((event, nth) => {
      const state = apply(walletId, after, event);
      after = state;
      return chained({
        walletId,
        version: state.version,
        event,
        balanceMinor: state.balanceMinor,
        heldMinor: state.heldMinor,
        status: state.status,
        commandId: nth === decision.events.length - 1 ? commandId : null,
        fingerprint: null,
        isIdProposed: false,
        correlationId: "correlation",
        causationId: commandId,
        description: null,
        metadata: "{}",
      });
    });
    const place = shardOf(walletId) % 2;
    const result = await journals[place]!.append({
      events,
      wallets: new Map([
        [
          walletId,
          { state: after!, baseVersion: before?.version ?? -1, hash: events.at(-1)!.hash },
        ],
      ]),
      rejections: [],
      lookups: [],
      verdictLookups: [],
      transfers,
      verdicts: [],
      settled: [],
      holds: new Map(),
      fence: epochs[place]!,
    });
    expect(result).toEqual({ type: "committed" });
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
    // Given a payer and a payee, and a transfer that is posted while the payer's record is still pending
    const home = (walletId: string) => shardOf(walletId) % 2;
    const append = async (walletId: string, put: (writes: Draft) => void) => {
      const writes = draft(epochs[home(walletId)]!);
      put(writes);
      const result = await journals[home(walletId)]!.append(writes);
      expect(result).toEqual({ type: "committed" });
    };
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
    expect(await listed(from, "pending")).toHaveLength(1);
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

// --- The deployment -------------------------------------------------------------------------------------------------------

describe("the deployment", () => {
  const names = ["deployment_a", "deployment_b", "deployment_c"];
  let fresh: string[];

  beforeEach(async () => {
    fresh = await Promise.all(names.map((name) => createDatabase(inject("postgresUrl"), name)));
  });

  afterAll(async () => {
    await Promise.all(names.map((name) => dropDatabase(inject("postgresUrl"), name)));
  });

  const quiet = (): void => undefined;

  async function ask<Row extends object>(url: string, sql: string): Promise<Row[]> {
    return await withClient(url, async (client) => (await client.query<Row>(sql)).rows);
  }

  async function placeOf(url: string): Promise<unknown> {
    const rows = await ask<{ place: string; id: string }>(
      url,
      "SELECT deployment_id AS id, database_index || ' of ' || database_count AS place FROM deployment",
    );
    expect(rows).toHaveLength(1);
    return rows[0];
  }

  const insertWallet = `
    INSERT INTO wallets (wallet_id, shard, currency, decimal_places, balance, held, status, version, metadata, created_at, updated_at)
    VALUES ('w', 0, 'USD', 2, 0, 0, 'ACTIVE', 0, '{}', now(), now())`;

  async function refusalOf(work: Promise<unknown>): Promise<string> {
    const error: unknown = await work.then(
      () => null,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(UnsafeDatabaseError);
    return (error as Error).message;
  }

  it("race: four processes start at once on new databases, and all agree on the places", async () => {
    const lines: string[] = [];
    const log = (line: string): void => void lines.push(line);
    await Promise.all(Array.from({ length: 4 }, () => prepareDatabases(fresh, log)));
    await prepareDatabases(fresh, log);

    const places = await Promise.all(fresh.map(placeOf));
    const { id } = places[0] as { id: string };
    expect(places).toEqual(["0 of 3", "1 of 3", "2 of 3"].map((place) => ({ id, place })));
    const port = new URL(fresh[0]!).port;
    const ran = lines.filter((line) => line.endsWith("Applied 0002_cluster"));
    expect(ran.toSorted()).toEqual(
      names.map((name) => `127.0.0.1:${port}/${name}: Applied 0002_cluster`),
    );
  });

  it.each([
    ["has seen the other databases as new", "LOCK TABLE wallets"],
    ["is about to write the first place", "LOCK TABLE deployment IN SHARE MODE"],
  ])("race: a start that %s finds all in use by a faster one, and goes on", async (_, lock) => {
    // Given a start that waits for the first database, and has looked at the others
    await Promise.all(fresh.map((url) => migrateUp(url)));
    await withClient(fresh[0]!, async (blocker) => {
      await blocker.query(`BEGIN; ${lock}`);
      const slow = prepareDatabases(fresh, quiet);
      const state = `SELECT (SELECT count(*) FROM pg_locks WHERE NOT granted)::int AS waiting, count(*)::int AS looking
                     FROM pg_stat_activity WHERE datname = ANY ('{deployment_b,deployment_c}')`;
      await expect
        .poll(async () => (await blocker.query(state)).rows, { interval: 5 })
        .toEqual([{ waiting: 1, looking: 0 }]);

      // When another one, here played by hand, writes all places, and a wallet
      const id = "00000000-0000-4000-8000-000000000000";
      const write = (index: number) => `INSERT INTO deployment VALUES (true, '${id}', ${index}, 3)`;
      await ask(fresh[1]!, write(1));
      await ask(fresh[2]!, write(2));
      await blocker.query(write(0));
      await blocker.query(insertWallet);
      await blocker.query("COMMIT");

      // Then the slow one takes the places as they are
      await slow;
      expect(await placeOf(fresh[0]!)).toEqual({ id, place: "0 of 3" });
    });
  });

  it("ends a first start that was interrupted", async () => {
    await prepareDatabases(fresh, quiet);
    await ask(fresh[0]!, "ALTER TABLE deployment DISABLE TRIGGER ALL; DELETE FROM deployment");
    await prepareDatabases(fresh, quiet);
    expect(await placeOf(fresh[0]!)).toMatchObject({ place: "0 of 3" });
  });

  it("refuses another order, another count and a database of another deployment, by name", async () => {
    const [a, b, c] = fresh as [string, string, string];
    await prepareDatabases([a, b], quiet);
    const { id } = (await placeOf(a)) as { id: string };
    await ask(b, insertWallet);
    const port = new URL(a).port;
    const title =
      "DATABASE_URL must list all databases of one deployment in their order, or wallets would not be found:";

    expect(await refusalOf(prepareDatabases([b, a], quiet))).toBe(
      `${title}\n` +
        `  number 1 of 2, 127.0.0.1:${port}/deployment_b, is number 2 of 2 in deployment ${id}\n` +
        `  number 2 of 2, 127.0.0.1:${port}/deployment_a, is number 1 of 2 in deployment ${id}`,
    );
    expect(await refusalOf(prepareDatabases([a], quiet))).toContain("number 1 of 1");
    const added = await refusalOf(prepareDatabases([a, b, c], quiet));
    expect(added).toContain(`number 3 of 3, 127.0.0.1:${port}/deployment_c, is new`);
    // The other database would be empty where the wallets of this one were
    expect(await refusalOf(prepareDatabases([c, b], quiet))).toContain("deployment_c, is new");
    expect(await ask(c, "SELECT FROM deployment")).toEqual([]);
    expect(await refusalOf(prepareDatabases([a, a], quiet))).toContain("number 2 of 2");

    await ask(c, "INSERT INTO deployment VALUES (true, gen_random_uuid(), 0, 2)");
    await refusalOf(prepareDatabases([c, b], quiet));
    await prepareDatabases([a, b], quiet);
  });

  it("takes a database with wallets of an older version for the only one of its deployment", async () => {
    const [a, b] = fresh as [string, string];
    await migrateUp(a);
    await migrateDown(a, (await migrationStatus(a)).length - 1);
    await ask(a, insertWallet);

    expect(await refusalOf(prepareDatabases([a, b], quiet))).toContain("is number 1 of 1");
    await prepareDatabases([a], quiet);
  });

  it("does not change", async () => {
    await prepareDatabases(fresh, quiet);
    await expect(ask(fresh[0]!, "UPDATE deployment SET database_count = 4")).rejects.toThrow(
      "append-only",
    );
  });

  it("is watched by readers until all is certain, and they end when it is another one", async () => {
    withLimits({ deploymentLookMs: 20 });
    const [a, b] = fresh as [string, string];
    const warnings: string[] = [];
    const mismatches: string[] = [];
    const watch = async (databaseUrls: string[]) => {
      const watching = await watchDeployment({
        databaseUrls,
        log: { warn: (text) => void warnings.push(text) },
        onMismatch: (message) => void mismatches.push(message),
      });
      onTestFinished(() => watching.stop());
    };
    // Given readers that came before the first host, one of them with a wrong list, one with a database that is away
    await watch([a, b]);
    await watch([b, a]);
    await watch([a, "postgres://u:secret@127.0.0.1:1/away"]);
    expect(warnings[0]).toMatch(
      /^cannot see yet whether 127.0.0.1:1\/away is in its place: .*ECONNREFUSED/,
    );
    expect(mismatches).toEqual([]);
    expect(await ask(a, "SELECT FROM pg_tables WHERE tablename = 'deployment'")).toEqual([]);

    // When a host comes
    await prepareDatabases([a, b], quiet);

    // Then the wrong list is told, once, and later such readers do not begin
    await expect.poll(() => mismatches).toHaveLength(1);
    await watch([a, b]);
    await refusalOf(watch([b, a]));
    await delay(100);
    expect(mismatches).toHaveLength(1);
    expect(mismatches[0]).toContain("deployment_a, is number 1 of 2");
  });
});

// --- All of it ------------------------------------------------------------------------------------------------------------

describe("Coffer on two databases", () => {
  const names = ["coffer_even", "coffer_odd"];

  afterAll(async () => {
    await Promise.all(names.map((name) => dropDatabase(inject("postgresUrl"), name)));
  });

  it("moves money between them, shows one list, and goes on with one when the other is away", async () => {
    const [even, odd] = await Promise.all(
      names.map((name) => createDatabase(inject("postgresUrl"), name)),
    );
    const wire = await openWire(odd!);
    const coffer = await startCoffer({
      DATABASE_URL: `${even},${wire.url}`,
      LANES: "2",
      LOG_LEVEL: "fatal",
    });
    onTestFinished(async () => void (await coffer.stop()));
    await coffer.untilReady();
    async function call(path: string, body?: object) {
      const request =
        body === undefined
          ? {}
          : {
              method: "POST",
              headers: { "content-type": "application/json" },
              body: JSON.stringify(body),
            };
      const response = await fetch(`${coffer.baseUrl}${path}`, request);
      return { status: response.status, body: (await response.json()) as AnyBody & AnyBody[] };
    }

    // Given wallets in both
    const walletIds = [idIn(EVEN), idIn(ODD), idIn(EVEN), idIn(ODD)].toSorted();
    for (const walletId of walletIds) {
      expect((await call("/wallets", { walletId, initialBalance: 10 })).status).toBe(201);
    }
    const near = walletIds.find((walletId) => EVEN.includes(shardOf(walletId)))!;
    const far = walletIds.find((walletId) => ODD.includes(shardOf(walletId)))!;

    // When money goes each way
    for (const [from, toWalletId] of [
      [near, far],
      [far, near],
    ]) {
      const sent = await call(`/wallets/${from}/transfer`, { toWalletId, amount: 4 });
      expect(sent).toMatchObject({ status: 200, body: { status: "posted" } });
      // It is answered after the payee's verdict; the payer's record follows
      const stands = async () => (await call(`/transfers/${sent.body.transferId}`)).body.status;
      await expect.poll(stands).toBe("posted");
    }

    // Then each has both transfers, and all entries of each, by way of the two databases
    const paths = [near, far].map((walletId) => `/wallets/${walletId}/transfers?status=posted`);
    const [ofNear, ofFar] = await Promise.all(
      paths.map(async (path) => (await call(path)).body.map(({ transferId }) => transferId)),
    );
    expect(ofNear).toHaveLength(2);
    expect(ofNear).toEqual(ofFar);
    for (const transferId of ofNear!) {
      const { body } = await call(`/ledger/transactions/${transferId}`);
      expect(body).toMatchObject({
        transferId,
        entries: [{ lines: [{}, {}] }, { lines: [{}, {}] }],
      });
    }
    expect((await call("/ledger/trial-balance?currency=USD")).body).toMatchObject({
      currencies: [
        {
          sum: "0.00",
          isBalanced: true,
          accounts: [
            { account: "system:transit", balance: "0.00" },
            { account: "system:world", balance: "-40.00" },
            { account: "wallets", balance: "40.00" },
          ],
        },
      ],
    });

    // And the list has all of them, and the money is all there
    const { body: listed } = await call("/wallets?limit=10");
    expect(listed.map(({ id, balance }) => [id, balance])).toEqual(walletIds.map((id) => [id, 10]));

    // And when one database is away, the wallets of the other are served
    wire.close();
    expect((await call(`/wallets/${near}/credit`, { amount: 1 })).status).toBe(200);
    expect(await call(`/wallets/${near}`)).toMatchObject({ status: 200, body: { balance: 11 } });
    expect((await call(`/wallets/${far}`)).status).toBe(503);
    expect((await call("/wallets")).status).toBe(503);
    await coffer.untilReady();
  });
});
