/**
 * The read model over several databases, made of one for each. A wallet is asked for where its
 * shard lives; what may be in any of them is asked of all at once and merged. Every one gives as
 * many rows as the whole answer may have, in the order of the answer, so a page is right wherever
 * its rows come from, and its last row is where the next page begins. A database that is away fails
 * the questions that need it and no others.
 */
import { LIMITS } from "../limits.ts";
import {
  ReadUnavailable,
  type AccountTotal,
  type Page,
  type ReadModel,
  type StoredEvent,
  type WalletTransfer,
} from "../core/read-model.ts";
import { grouped, shardOf } from "../core/shard.ts";
import type { Transfer } from "../core/transfer.ts";
import type { WalletState } from "../core/wallet.ts";

/**
 * An event of a wallet that sent or received a transfer. The record is in the payer's database,
 * which may be another one.
 */
export interface TransferSide {
  readonly version: number;
  readonly transferId: string;
  readonly fromWalletId: string;
  readonly isPayee: boolean;
  /** Null when it is not in this database. */
  readonly record: Transfer | null;
}

/** A payee's yes to a transfer. */
export interface Arrival {
  readonly transferId: string;
  /** Version of the payee that the money made. */
  readonly toVersion: number;
}

/** What one database can answer by itself. */
export interface ReadPart extends Omit<ReadModel, "transfersOf"> {
  transfersById(transferIds: readonly string[]): Promise<Transfer[]>;
  /** Those of the transfers whose payees are here and have the money. */
  arrivalsById(transferIds: readonly string[]): Promise<Arrival[]>;
  /** As `transfersOf`, with the records that are here. */
  transferSides(
    ...question: Parameters<ReadModel["transfersOf"]>
  ): Promise<Page<TransferSide, number>>;
}

/** @param parts in the deployment's order: shard `s` is in `parts[s % parts.length]` */
export function buildShardedReadModel(parts: readonly ReadPart[]): ReadModel {
  const home = (walletId: string): ReadPart => parts[shardOf(walletId) % parts.length]!;

  async function fromAll<T>(ask: (part: ReadPart) => Promise<T[]>): Promise<T[]> {
    return (await Promise.all(parts.map(ask))).flat();
  }

  /**
   * The transfers as they are: a payer's record is marked a moment after the payee has decided and
   * the caller was told, or much later when the payer's lane has died in between. While the payee's
   * database is away they are as their records say.
   */
  async function asDecided(records: readonly Transfer[]): Promise<Transfer[]> {
    const pending = records.filter(({ status }) => status === "pending");
    const asked = [...grouped(pending, ({ toWalletId }) => home(toWalletId))].map(([part, there]) =>
      part
        .arrivalsById(there.map(({ transferId }) => transferId))
        .catch((error: unknown): Arrival[] => {
          if (error instanceof ReadUnavailable) return [];
          throw error;
        }),
    );
    const arrived = new Map(
      (await Promise.all(asked)).flat().map(({ transferId, toVersion }) => [transferId, toVersion]),
    );
    return records.map((record) => {
      const toVersion = arrived.get(record.transferId);
      return toVersion === undefined ? record : { ...record, status: "posted", toVersion };
    });
  }

  return {
    wallet: (walletId) => home(walletId).wallet(walletId),
    async walletsById(walletIds) {
      if (walletIds.length > LIMITS.queryRowsMax) {
        throw new RangeError(`${walletIds.length} ids are more than ${LIMITS.queryRowsMax}`);
      }
      const idsOf = grouped(walletIds, home);
      const asked = [...idsOf].map(([part, ids]) => part.walletsById(ids));
      return (await Promise.all(asked)).flat();
    },
    walletAtTime: (walletId, atMs) => home(walletId).walletAtTime(walletId, atMs),
    walletAt: (walletId, version) => home(walletId).walletAt(walletId, version),
    async wallets(filter, limit, afterWalletId) {
      const pages = await Promise.all(
        parts.map((part) => part.wallets(filter, limit, afterWalletId)),
      );
      return merged(pages, limit);
    },
    async walletIdsOfOwner(ownerId, limit) {
      const found = await fromAll((part) => part.walletIdsOfOwner(ownerId, limit));
      return found.toSorted().slice(0, Math.min(limit, LIMITS.queryRowsMax));
    },
    events: (walletId, ...rest) => home(walletId).events(walletId, ...rest),
    transactions: (walletId, ...rest) => home(walletId).transactions(walletId, ...rest),
    // Its payer's database has it, and the id does not tell which that is.
    async transfer(transferId) {
      const record = await firstFound(parts.map((part) => part.transfer(transferId)));
      return record === null ? null : (await asDecided([record]))[0]!;
    },
    async transferEvents(transferId) {
      const found = await fromAll((part) => part.transferEvents(transferId));
      return found.toSorted((one, other) => stepOf(one) - stepOf(other));
    },
    // A payee's side names the payer, whose database has the record.
    async transfersOf(walletId, status, ...rest) {
      const { rows, next } = await home(walletId).transferSides(walletId, status, ...rest);
      const sent = rows.filter(({ isPayee }) => !isPayee);
      const here = rows.flatMap(({ record }) => (record === null ? [] : [record]));
      const elsewhere = rows.filter(({ record }) => record === null);
      const sidesOf = grouped(elsewhere, ({ fromWalletId }) => home(fromWalletId));
      const asked = [...sidesOf].map(([part, sides]) =>
        part.transfersById(sides.map(({ transferId }) => transferId)),
      );
      const found = [...here, ...(await Promise.all(asked)).flat()];
      const records = new Map(found.map((record) => [record.transferId, record]));
      const paid = sent.flatMap(({ transferId }) => records.get(transferId) ?? []);
      for (const record of await asDecided(paid)) records.set(record.transferId, record);
      const all = rows.map((side) => asWalletHasIt(side, records));
      const isMeant = ({ transfer }: WalletTransfer): boolean =>
        status === null || transfer.status === status;
      return { rows: all.filter(isMeant), next };
    },
    hold: (walletId, holdId) => home(walletId).hold(walletId, holdId),
    holds: (walletId, ...rest) => home(walletId).holds(walletId, ...rest),
    holdAt: (walletId, version) => home(walletId).holdAt(walletId, version),
    async trialBalance(currency) {
      return addUp(await fromAll((part) => part.trialBalance(currency)));
    },
    async operations(commandId, walletId) {
      if (walletId !== null) return home(walletId).operations(commandId, walletId);
      const found = await fromAll((part) => part.operations(commandId, null));
      return found.slice(0, LIMITS.queryRowsMax);
    },
    // As long as one answers there are wallets to be served, and a gateway that gave up would take
    // those away too.
    ping: () => Promise.any(parts.map((part) => part.ping())).catch(throwFirst),
    async close() {
      await Promise.all(parts.map((part) => part.close()));
    },
  };
}

/**
 * One page out of one page of each database: what lies behind the nearest end of a page may not be
 * all there is. Ids are ASCII, so this order is that of the databases.
 */
function merged(
  pages: readonly Page<WalletState, string>[],
  limit: number,
): Page<WalletState, string> {
  const ends = pages.flatMap(({ next }) => (next === null ? [] : [next])).toSorted();
  const end = ends[0] ?? null;
  const sure = pages
    .flatMap(({ rows }) => rows)
    .filter(({ walletId }) => end === null || walletId <= end)
    .toSorted((one, other) => (one.walletId < other.walletId ? -1 : 1));
  const page = sure.slice(0, Math.min(limit, LIMITS.queryRowsMax - 1));
  return { rows: page, next: page.length < sure.length ? page.at(-1)!.walletId : end };
}

const STEPS = ["TransferSent", "TransferReceived", "TransferReturned"];

function stepOf({ type }: StoredEvent): number {
  return STEPS.indexOf(type);
}

/** The payee's event is the verdict: it stands before the payer's record is marked. */
function asWalletHasIt(
  { version, transferId, isPayee }: TransferSide,
  records: ReadonlyMap<string, Transfer>,
): WalletTransfer {
  const record = records.get(transferId);
  if (record === undefined) throw new Error(`transfer ${transferId} has an event and no record`);
  const isAhead = isPayee && record.status === "pending";
  const transfer: Transfer = isAhead ? { ...record, status: "posted", toVersion: version } : record;
  return { version, transfer };
}

/**
 * Totals of several databases as one; each of them sums to zero, and money between two of them is
 * in `system:transit` of both.
 */
function addUp(totals: readonly AccountTotal[]): AccountTotal[] {
  const sums = new Map<string, AccountTotal>();
  for (const total of totals) {
    const key = `${total.currency} ${total.account}`;
    const balanceMinor = (sums.get(key)?.balanceMinor ?? 0n) + total.balanceMinor;
    sums.set(key, { ...total, balanceMinor });
  }
  return [...sums.entries()]
    .toSorted(([one], [other]) => (one < other ? -1 : 1))
    .map(([, it]) => it);
}

const NOT_HERE = Symbol("not here");

/**
 * The first answer that is not null, without waiting for the others. Null is certain only when all
 * have said so.
 */
async function firstFound<T>(answers: ReadonlyArray<Promise<T | null>>): Promise<T | null> {
  const found = answers.map(async (answer) => {
    const value = await answer;
    if (value === null) throw NOT_HERE;
    return value;
  });
  try {
    return await Promise.any(found);
  } catch (error) {
    const { errors } = error as AggregateError;
    const failure: unknown = errors.find((it) => it !== NOT_HERE);
    if (failure !== undefined) throw failure;
    return null;
  }
}

function throwFirst(error: unknown): never {
  throw (error as AggregateError).errors[0];
}
