/**
 * The reconciliation: refolds every event with the core's own `apply` and holds the result against
 * the rows of `wallets`, the hash chains, the commands, the transfers with their verdicts, and the
 * trial balance; every difference is named (`differences.ts`). It hides how much there is: events
 * are streamed in chunks, wallets and transfers in pages, and never more than one of each is in
 * memory.
 *
 * By hand (no `pace`) each database is read in one view; traffic goes on. In a host (`pace`) it
 * goes piece by piece, each piece as of one moment, only through the shards that are the host's,
 * and slowly; what needs one view of everything (trial balance, transit, repeated command ids) is
 * left out. What lies in two databases, or in two pieces, may be from two moments: it is read again
 * before it is named.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { auditAssets } from "./asset-audit.ts";
import {
  buildDifferenceList,
  placeOf,
  type Difference,
  type DifferenceKind,
  type Found,
} from "./differences.ts";
import { guardsOff } from "./guards.ts";
import { auditHolds, type StoredHold } from "./hold-audit.ts";
import { LIMITS } from "../limits.ts";
import type { EventRow } from "../postgres/events.ts";
import { ALL_SHARDS, shardOf } from "../core/shard.ts";
import { auditSteps, type Steps } from "./step-audit.ts";
import { auditTransfer, inTransitMinor, type TransferFacts } from "./transfer-audit.ts";
import { gatherFacts } from "./transfer-facts.ts";
import * as books from "./verify-database.ts";
import type { BooksDatabase, Query, WalletPlace } from "./verify-database.ts";
import { auditWallet, type WalletAudit, type WalletRow } from "./wallet-audit.ts";

export interface VerifyOptions {
  /** In the deployment's order. */
  readonly databaseUrls: readonly string[];
  /** Only this wallet, and the transfers in its history. */
  readonly walletId?: string;
  readonly onProgress?: (progress: VerifyProgress) => void;
  /** Told of each difference that the report will name, as soon as it is found. */
  readonly onDifference?: (difference: Difference) => void;
  /** Piece by piece, at low priority. */
  readonly pace?: Pace;
  /** Awaited for every wallet whose row is not what its events make of it. */
  readonly onWalletDiffers?: (walletId: string, database: number) => Promise<void>;
  /** A transfer that is pending for longer is named. Default: `LIMITS.transferStuckMs`. */
  readonly stuckMs?: number;
}

export interface Pace {
  /** Whether wallets of this shard are to be looked at; may change at any time. */
  isOurs(shard: number): boolean;
  /** Called after so many rows; resolves when the next may be read, rejects to end the run. */
  spend(rows: number): Promise<void>;
}

export interface VerifyProgress {
  /** Transfers are their records; verdicts are looked at by themselves, books are databases. */
  readonly stage: "events" | "transfers" | "verdicts" | "books";
  readonly done: number;
  /** As of the beginning; 0 when it is not known. */
  readonly total: number;
  /** Whose audit has ended. */
  readonly wallets: number;
}

export interface VerifyReport {
  readonly startedAt: string;
  readonly finishedAt: string;
  readonly wallets: number;
  readonly events: number;
  readonly transfers: number;
  /** All that were found; `named` has the first of each kind. */
  readonly differences: number;
  readonly warnings: number;
  readonly byKind: Readonly<Partial<Record<DifferenceKind, number>>>;
  readonly named: readonly Difference[];
}

/** Reads only. Rejects when a database cannot be read to the end. */
export async function verify(options: VerifyOptions): Promise<VerifyReport> {
  const startedAt = new Date().toISOString();
  const isOneView = options.pace === undefined;
  const opening = await Promise.allSettled(
    options.databaseUrls.map((url, index) => books.openBooksDatabase(url, index, { isOneView })),
  );
  const databases = opening.flatMap((it) => (it.status === "fulfilled" ? [it.value] : []));
  try {
    const failed = opening.find((it) => it.status === "rejected");
    if (failed !== undefined) throw failed.reason;
    const run = buildRun(options, databases);
    for (const database of databases) await run.setUp(database);
    for (const database of databases) await run.auditEvents(database);
    await run.auditOwnAssets();
    if (options.walletId === undefined) {
      for (const database of databases) await run.auditRowsWithoutEvents(database);
      for (const database of databases) await run.auditHoldsWithoutEvents(database);
      for (const database of databases) await run.auditRecords(database);
      for (const database of databases) await run.auditVerdicts(database);
      if (isOneView) await run.auditTotals();
    }
    const { list, counted } = run;
    return {
      startedAt,
      finishedAt: new Date().toISOString(),
      ...counted,
      differences: list.differences,
      warnings: list.warnings,
      byKind: Object.fromEntries(list.counts),
      named: list.named,
    };
  } finally {
    await Promise.all(databases.map((database) => database.close()));
  }
}

function buildRun(options: VerifyOptions, databases: readonly BooksDatabase[]) {
  const { pace } = options;
  const list = buildDifferenceList(options.onDifference);
  const assets = auditAssets(list.name);
  const counted = { wallets: 0, events: 0, transfers: 0 };
  const done = { transfers: 0, verdicts: 0, books: 0 };
  const expected = { events: 0, transfers: 0, verdicts: 0, books: databases.length };
  const settings: books.Setting[] = [];
  /** By currency: what transfers under way explain of the money in transit. */
  const transit = new Map<string, bigint>();
  const chunkEvents = pace === undefined ? LIMITS.verifyChunkEvents : LIMITS.verifyPacedChunkEvents;
  /** Whether all facts of a transfer are as of one moment. */
  const isOneMoment = databases.length === 1 && pace === undefined;
  const isOurs = (walletId: string): boolean => pace?.isOurs(shardOf(walletId)) ?? true;

  function tell(stage: VerifyProgress["stage"]): void {
    const { events, wallets } = counted;
    const soFar = { events, ...done };
    options.onProgress?.({ stage, done: soFar[stage], total: expected[stage], wallets });
  }

  async function setUp(database: BooksDatabase): Promise<void> {
    const setting = await database.read(books.settingOf);
    settings.push(setting);
    for (const found of await database.read(guardsOff)) list.name(found);
    const there = new Set(await database.read(books.shardsOf));
    for (const shard of ALL_SHARDS) {
      if (shard % databases.length !== database.index || there.has(shard)) continue;
      list.name({ kind: "shard_missing", field: `shard ${shard}`, expected: "a row" });
    }
    if (pace !== undefined || options.walletId !== undefined) return;
    const { events, transfers, verdicts } = await database.read(books.counts);
    expected.events += events;
    expected.transfers += transfers;
    expected.verdicts += verdicts;
  }

  /** In the order of a key, from the first to the last, with a pause between two pages. */
  async function eachPage<Row>(
    database: BooksDatabase,
    readBehind: (query: Query, after: string, limit: number) => Promise<Row[]>,
    keyOf: (row: Row) => string,
    audit: (page: readonly Row[]) => Promise<void>,
  ): Promise<void> {
    const limit = LIMITS.verifyPageRows;
    for (let after = ""; ;) {
      const page = await database.read((query) => readBehind(query, after, limit));
      await audit(page);
      if (page.length < limit) return;
      after = keyOf(page.at(-1)!);
      await pace?.spend(0);
    }
  }

  // ---- events and wallets -----------------------------------------------------------------------

  async function auditEvents(database: BooksDatabase): Promise<void> {
    tell("events");
    const { walletId } = options;
    if (walletId !== undefined) {
      if (shardOf(walletId) % databases.length !== database.index) return;
      await auditPage(
        database,
        await database.read((query) => books.placeOfWallet(query, walletId)),
      );
      return;
    }
    await eachPage(database, books.wallets, walletIdOf, (page) =>
      auditPage(
        database,
        page.filter((place) => isOurs(place.walletId)),
      ),
    );
  }

  /** Wallets with few events together in one read, one with many in several. */
  async function auditPage(database: BooksDatabase, page: readonly WalletPlace[]): Promise<void> {
    let small: string[] = [];
    let room = chunkEvents;
    const flush = async (): Promise<void> => {
      const walletIds = small;
      small = [];
      room = chunkEvents;
      if (walletIds.length > 0) await auditSmall(database, walletIds);
    };
    for (const { walletId, lastVersion } of page) {
      if (lastVersion >= chunkEvents) {
        await auditLarge(database, walletId);
        continue;
      }
      if (lastVersion >= room) await flush();
      small.push(walletId);
      room -= lastVersion + 1;
    }
    await flush();
  }

  function begin(database: BooksDatabase, walletId: string): Audited {
    let differs = false;
    const { chainStartedMs } = settings[database.index]!;
    const audit = auditWallet(walletId, chainStartedMs, (found) => {
      differs = true;
      list.name(found);
    });
    return {
      audit,
      async end(row, holds) {
        differs = false;
        audit.end(row, holds);
        assets.wallet(audit.state);
        counted.wallets += 1;
        if (differs) await options.onWalletDiffers?.(walletId, database.index);
      },
    };
  }

  async function auditSmall(database: BooksDatabase, walletIds: readonly string[]): Promise<void> {
    const chunk = await readChunk(database, walletIds, (query) => books.eventsOf(query, walletIds));
    const rows = new Map(chunk.rows.map((row) => [row.walletId, row]));
    const events = new Map<string, EventRow[]>(walletIds.map((walletId) => [walletId, []]));
    for (const event of chunk.events) events.get(event.walletId)!.push(event);
    const holds = new Map<string, StoredHold[]>(walletIds.map((walletId) => [walletId, []]));
    for (const hold of chunk.holds ?? []) holds.get(hold.walletId)!.push(hold);
    for (const walletId of walletIds) {
      const { audit, end } = begin(database, walletId);
      for (const event of events.get(walletId)!) audit.event(event);
      await end(rows.get(walletId) ?? null, holds.get(walletId)!);
    }
    await finish(chunk);
  }

  /** Events never change, so only the last chunk and the row have to be of one moment. */
  async function auditLarge(database: BooksDatabase, walletId: string): Promise<void> {
    const { audit, end } = begin(database, walletId);
    for (let after = -1; ;) {
      const readEvents = (query: Query) => books.eventsAfter(query, walletId, after, chunkEvents);
      const chunk = await readChunk(database, [walletId], readEvents, chunkEvents);
      for (const event of chunk.events) audit.event(event);
      const isLast = chunk.events.length < chunkEvents;
      after = chunk.events.at(-1)?.version ?? after;
      if (isLast) await end(chunk.rows[0] ?? null, chunk.holds);
      await finish(chunk);
      if (isLast) return;
    }
  }

  /**
   * Events, with what else in their database they have to agree with.
   * @param limit of the read; where it has brought fewer, no more follow
   */
  function readChunk(
    database: BooksDatabase,
    walletIds: readonly string[],
    readEvents: (query: Query) => Promise<EventRow[]>,
    limit = Infinity,
  ): Promise<Chunk> {
    return database.read(async (query) => {
      const events = await readEvents(query);
      const rows = await books.rowsOf(query, walletIds);
      // They have to be of one moment with the last event of their wallets, and many of one wallet
      // are read once.
      const isWhole = events.length < limit;
      const holds = isWhole ? await books.holdsOf(query, walletIds) : null;
      const rejected = await books.rejectedOf(query, events);
      const ids = events.flatMap(({ transferId }) => transferId ?? []);
      const transfers = ids.length === 0 ? [] : await books.transfersById(query, ids);
      const completed = await books.completedBy(query, events);
      const verdicts = ids.length === 0 ? [] : await books.verdictsById(query, ids);
      return { events, rows, holds, rejected, transfers, completed, verdicts };
    });
  }

  async function finish(chunk: Chunk): Promise<void> {
    auditSteps(chunk, list.name);
    counted.events += chunk.events.length;
    tell("events");
    if (options.walletId !== undefined) {
      const ids = new Set(chunk.events.flatMap(({ transferId }) => transferId ?? []));
      await auditTransfers([...ids]);
      // Each has one of these in the wallet; what came back may have left in an earlier chunk.
      const isBegin = ({ type }: EventRow) =>
        type === "TransferSent" || type === "TransferReceived";
      counted.transfers += chunk.events.filter(isBegin).length;
    }
    await pace?.spend(chunk.events.length);
  }

  async function auditRowsWithoutEvents(database: BooksDatabase): Promise<void> {
    await eachPage(database, books.rowsAfter, walletIdOf, async (page) => {
      for (const { walletId, version, hasEvents } of page) {
        if (hasEvents || !isOurs(walletId)) continue;
        const found = `a row at version ${version}`;
        list.name({ kind: "wallet_without_events", walletId, expected: "events", found });
        await options.onWalletDiffers?.(walletId, database.index);
      }
    });
  }

  async function auditHoldsWithoutEvents(database: BooksDatabase): Promise<void> {
    await eachPage(database, books.walletsWithHolds, walletIdOf, async (page) => {
      for (const { walletId, hasEvents } of page) {
        if (hasEvents || !isOurs(walletId)) continue;
        const holds = await database.read((query) => books.holdsOf(query, [walletId]));
        auditHolds(walletId, list.name).end(holds, 0);
        await options.onWalletDiffers?.(walletId, database.index);
      }
    });
  }

  /** As of now: an asset is there before its first wallet, and stays as it is. */
  async function auditOwnAssets(): Promise<void> {
    const { codes } = assets;
    if (codes.length === 0) return;
    const own = databases.map(({ readNow, index }) =>
      readNow((query) =>
        books.assetsOf(
          query,
          codes.filter((code) => shardOf(code) % databases.length === index),
        ),
      ),
    );
    assets.end((await Promise.all(own)).flat());
  }

  // ---- transfers --------------------------------------------------------------------------------

  async function auditKeys(
    database: BooksDatabase,
    of: "transfers" | "verdicts",
    audit: (ids: readonly string[]) => Promise<void>,
  ): Promise<void> {
    tell(of);
    const readBehind = (query: Query, after: string, limit: number) =>
      books.transferKeys(query, of, after, limit);
    await eachPage(
      database,
      readBehind,
      ({ id }) => id,
      async (page) => {
        const ours = page.filter(({ walletId }) => isOurs(walletId));
        for (let from = 0; from < ours.length; from += chunkEvents) {
          const part = ours.slice(from, from + chunkEvents).map(({ id }) => id);
          await audit(part);
          await pace?.spend(part.length);
        }
        done[of] += page.length;
        tell(of);
      },
    );
  }

  function auditRecords(database: BooksDatabase): Promise<void> {
    return auditKeys(database, "transfers", async (ids) => {
      await auditTransfers(ids);
      counted.transfers += ids.length;
    });
  }

  /** Those without a record; the others were looked at with it. */
  function auditVerdicts(database: BooksDatabase): Promise<void> {
    return auditKeys(database, "verdicts", async (ids) => {
      const recorded = await Promise.all(
        databases.map((each) => each.read((query) => books.transfersById(query, ids))),
      );
      const known = new Set(recorded.flat().map(({ transferId }) => transferId));
      await auditTransfers(ids.filter((id) => !known.has(id)));
    });
  }

  async function auditTransfers(ids: readonly string[]): Promise<void> {
    if (ids.length === 0) return;
    const facts = await gatherFacts(databases, ids, "read");
    for (const each of facts) explain(each);
    let found = judge(facts);
    for (let look = 0; found.size > 0 && !isOneMoment && look < LIMITS.verifyRechecks; look++) {
      await sleep(LIMITS.verifyRecheckMs);
      const suspects = new Set([...found.values()].map(({ transferId }) => transferId!));
      const again = judge(await gatherFacts(databases, [...suspects], "readNow"));
      // What it was has moved on; what has come since is looked at as often.
      found = new Map([...again].filter(([place]) => found.has(place)));
    }
    for (const each of found.values()) list.name(each);
  }

  /** Differences by place. Warnings are named at once, since they are about a record alone. */
  function judge(facts: readonly TransferFacts[]): Map<string, Found> {
    const found = new Map<string, Found>();
    const { stuckMs = LIMITS.transferStuckMs } = options;
    for (const each of facts) {
      const { nowMs } = settings[each.row?.database ?? 0]!;
      auditTransfer(each, { databases: databases.length, nowMs, stuckMs }, (one) => {
        if (one.kind === "transfer_stuck") list.name(one);
        else found.set(placeOf(one), one);
      });
    }
    return found;
  }

  function explain(facts: TransferFacts): void {
    const currency = facts.row?.currency ?? facts.received?.currency ?? null;
    const minor = inTransitMinor(facts);
    if (currency === null || minor === 0) return;
    transit.set(currency, (transit.get(currency) ?? 0n) + BigInt(minor));
  }

  // ---- totals -----------------------------------------------------------------------------------

  async function auditTotals(): Promise<void> {
    tell("books");
    const sums = new Map<string, bigint>();
    const inTransit = new Map<string, bigint>();
    for (const database of databases) {
      const { accounts, kept, repeated, gaps } = await database.read(books.totals);
      done.books += 1;
      tell("books");
      for (const { currency, account, balance } of accounts) {
        const minor = BigInt(balance);
        sums.set(currency, (sums.get(currency) ?? 0n) + minor);
        if (account !== "system:transit") continue;
        inTransit.set(currency, (inTransit.get(currency) ?? 0n) + minor);
      }
      for (const { currency, account, expected, found } of kept) {
        const field = `${currency} ${account} in database ${database.index + 1}`;
        list.name({ kind: "account_totals", field, expected, found });
      }
      for (const { walletId, commandId: field, count } of repeated) {
        list.name({ kind: "command_twice", walletId, field, expected: 1, found: count });
      }
      for (const { shard, events, position } of gaps) {
        const field = `shard ${shard}`;
        list.name({ kind: "position_gap", field, expected: position, found: events });
      }
    }
    for (const [field, sum] of sums) {
      if (sum !== 0n) list.name({ kind: "trial_balance", field, expected: 0, found: `${sum}` });
    }
    for (const field of new Set([...inTransit.keys(), ...transit.keys()])) {
      const expected = `${transit.get(field) ?? 0n}`;
      const found = `${inTransit.get(field) ?? 0n}`;
      if (found !== expected) list.name({ kind: "transit", field, expected, found });
    }
  }

  return {
    list,
    counted,
    setUp,
    auditEvents,
    auditRowsWithoutEvents,
    auditHoldsWithoutEvents,
    auditOwnAssets,
    auditRecords,
    auditVerdicts,
    auditTotals,
  };
}

function walletIdOf({ walletId }: { readonly walletId: string }): string {
  return walletId;
}

interface Audited {
  readonly audit: WalletAudit;
  end(row: WalletRow | null, holds: readonly StoredHold[] | null): Promise<void>;
}

interface Chunk extends Steps {
  /** Null: more events follow. */
  readonly holds: readonly StoredHold[] | null;
  readonly rows: readonly WalletRow[];
}
