/**
 * One PostgreSQL, in memory and in virtual time: the journal and the shard table of a simulated
 * cluster (what it is asked besides is in `reads.ts`). It keeps what their SQL promises: an append
 * shares a lock from its fence check to its commit, a claim takes it alone, everything else happens
 * at the commit point, at once. What it hides is that nothing here is real; what it traded is
 * waiting on single rows: of two transactions with the same key the first to commit wins, where
 * PostgreSQL lets the first to write win. No clock, timer or chance of its own: how long each call
 * takes and how it fails comes from `plan`, so that a seed decides.
 *
 *     called --requestMs--> at the server --lock--> executed
 *            --commitMs--> committed --answerMs--> answered
 *
 * called: nothing has happened. executed: fence and known ids are looked at, locks are held.
 * committed: everybody sees it, whatever becomes of the answer. A call is cut at the next step
 * after the database went away, and its caller then knows what a lost connection tells.
 */
import type { Time } from "../../src/clock.ts";
import type { Hold } from "../../src/core/hold.ts";
import { holdKey, type AppendResult, type DueHold, type Journal } from "../../src/core/journal.ts";
import { buildPlaces } from "../../src/core/places.ts";
import { ReadUnavailable } from "../../src/core/read-model.ts";
import { ALL_SHARDS, shardOf } from "../../src/core/shard.ts";
import type { ShardOwner, ShardTable } from "../../src/core/shard-table.ts";
import type { Transfer } from "../../src/core/transfer.ts";
import { loseUnflushed } from "./relay-cursors.ts";
import {
  buildTables,
  checkFence,
  checkRows,
  conflictOf,
  copyOf,
  lastPositionOf,
  lookUp,
  supersededShards,
  write,
  type EventRow,
  type Plants,
  type Tables,
} from "./tables.ts";

export type { EventRow, Plants, Tables };

export type CallKind =
  | "append"
  | "claim"
  /** Recovery reads: positions, wallets, created, pending transfers, holds. */
  | "load"
  | "read shards"
  | "take shards"
  | "release shards"
  /** The read model. */
  | "read"
  /** The relay's questions, and its cursors. */
  | "relay";

export interface Call {
  readonly kind: CallKind;
  /** Name of the caller. */
  readonly caller: string;
  /** Name of the database. */
  readonly database: string;
}

/** How one call goes. */
export interface CallPlan {
  /** Until the server begins with it. */
  readonly requestMs: number;
  /** Between its statement and its commit; what it has locked stays locked. */
  readonly commitMs: number;
  /** From the commit until its caller has the answer. */
  readonly answerMs: number;
  /**
   * refused: nothing is done, and the caller knows. lost before commit: nothing is done, and the
   * caller does not know. lost after commit: it is done, and the caller does not know. (What only
   * reads, and claims, rejects in each case.)
   */
  readonly fault: null | "refused" | "lost before commit" | "lost after commit";
}

/** Who calls. */
export interface Caller {
  readonly name: string;
  /**
   * Brings an answer to the caller: runs it now, later when the caller stands still, never when it
   * has crashed.
   */
  deliver(answer: () => void): void;
}

export interface DatabaseDeps {
  readonly name: string;
  readonly time: Pick<Time, "nowMs" | "after">;
  /** Asked once for each call, in the order of the calls. */
  readonly plan: (call: Call) => CallPlan;
  readonly plants?: Plants;
}

export interface SimulatedDatabase {
  readonly name: string;
  /** A connection of a lane. */
  journal(caller: Caller): Journal;
  /** One statement, in the way of the call's kind; for the shard table and the read model. */
  ask<T>(
    caller: Caller,
    kind: CallKind,
    statement: (tables: Tables, nowMs: number) => T,
  ): Promise<T>;
  /**
   * A crash, or a cut cable: what is under way and not committed is undone, and every call fails
   * until `comeBack`.
   */
  goAway(): void;
  comeBack(): void;
  readonly isAway: boolean;
  /** What is committed, for auditors. Not to be changed. */
  readonly tables: Tables;
  /** Claims and appends that wait for each other. */
  readonly waiting: number;
}

// --- The lock ------------------------------------------------------------------------------------

type LockMode = "shared" | "alone";

interface Lock {
  /**
   * First come, first served, as PostgreSQL's: who waits to have it alone also holds up those who
   * come to share it.
   */
  take(mode: LockMode): Promise<() => void>;
  readonly waiting: number;
}

function buildLock(): Lock {
  const queue: { mode: LockMode; grant: () => void }[] = [];
  let sharers = 0;
  let isAlone = false;

  function pump(): void {
    for (let next = queue[0]; next !== undefined; next = queue[0]) {
      if (isAlone || (next.mode === "alone" && sharers > 0)) return;
      queue.shift();
      if (next.mode === "alone") isAlone = true;
      else sharers += 1;
      next.grant();
    }
  }

  return {
    take(mode) {
      const release = (): void => {
        if (mode === "alone") isAlone = false;
        else sharers -= 1;
        pump();
      };
      return new Promise((resolve) => {
        queue.push({ mode, grant: () => resolve(release) });
        pump();
      });
    },
    get waiting() {
      return queue.length;
    },
  };
}

// --- The database --------------------------------------------------------------------------------

/** What its caller gets of a call. */
type Ended<T> =
  | { readonly type: "answered"; readonly value: T }
  | { readonly type: "refused" | "lost"; readonly reason: string };

interface Transaction<T> {
  readonly kind: CallKind;
  /** The server begins with it when this is over. */
  readonly after?: Promise<unknown>;
  /** The server is done with it, one way or the other. */
  readonly onOver?: () => void;
  /** Its statement; returns what its commit does. */
  execute(): () => T;
}

const LOCK_OF: Partial<Record<CallKind, LockMode>> = { append: "shared", claim: "alone" };

export function buildSimulatedDatabase(deps: DatabaseDeps): SimulatedDatabase {
  const { name, time, plants = {} } = deps;
  const tables = buildTables();
  let lock = buildLock();
  let isAway = false;
  /** Rises whenever the database goes away: what began before is cut. */
  let incarnation = 0;

  const lost = { type: "lost", reason: `the connection to ${name} was lost` } as const;

  function pause(ms: number): Promise<void> {
    return new Promise((resolve) => {
      time.after(ms, resolve);
    });
  }

  async function serve<T>(plan: CallPlan, transaction: Transaction<T>): Promise<Ended<T>> {
    const began = incarnation;
    const ended = await carryOut(plan, transaction).finally(transaction.onOver);
    if (ended.type !== "answered") return ended;
    await pause(plan.answerMs);
    return incarnation !== began || plan.fault === "lost after commit" ? lost : ended;
  }

  async function carryOut<T>(
    plan: CallPlan,
    { kind, after, execute }: Transaction<T>,
  ): Promise<Ended<T>> {
    const began = incarnation;
    const isNobodyThere = isAway;
    await pause(plan.requestMs);
    await after;
    if (isNobodyThere) return { type: "refused", reason: `nobody listens at ${name}` };
    if (incarnation !== began) return lost;
    if (plan.fault === "refused") return { type: "refused", reason: `${name} refuses for now` };
    const mode = LOCK_OF[kind];
    const release = mode === undefined ? undefined : await lock.take(mode);
    let value: T;
    try {
      if (incarnation !== began) return lost;
      const commit = execute();
      await pause(plan.commitMs);
      if (incarnation !== began || plan.fault === "lost before commit") return lost;
      value = commit();
    } finally {
      release?.();
    }
    return { type: "answered", value };
  }

  function call<T>(caller: Caller, transaction: Transaction<T>): Promise<Ended<T>> {
    const plan = deps.plan({ kind: transaction.kind, caller: caller.name, database: name });
    return new Promise((resolve, reject) => {
      serve(plan, transaction).then(
        (ended) => caller.deliver(() => resolve(ended)),
        (error: unknown) => caller.deliver(() => reject(error)),
      );
    });
  }

  async function ask<T>(
    caller: Caller,
    kind: CallKind,
    statement: (tables: Tables, nowMs: number) => T,
  ): Promise<T> {
    const execute = () => () => statement(tables, time.nowMs());
    const ended = await call(caller, { kind, execute });
    if (ended.type === "answered") return ended.value;
    throw new ReadUnavailable("unavailable", ended.reason);
  }

  function journal(caller: Caller): Journal {
    /**
     * As the real journal counts: from what it read when it claimed, or read again when it was in
     * doubt.
     */
    const lastPositions = new Map<number, number>();
    const givenPlaces = buildPlaces((shard) => lastPositions.get(shard) ?? 0);
    /** One append after another: to be sent, and at the server. */
    let lastUnsent = Promise.resolve();
    let lastOver = Promise.resolve();
    /** The last append that has written, as its session remembers it. */
    let lastWritten: number | null = null;

    async function loadPositions(shards: readonly number[]): Promise<void> {
      if (shards.length === 0) return;
      const positions = await ask(caller, "load", () =>
        shards.map((shard) => lastPositionOf(tables, shard)),
      );
      for (const [index, shard] of shards.entries()) lastPositions.set(shard, positions[index]!);
    }

    async function beSure(shards: readonly number[], before: Promise<void>): Promise<void> {
      await before.catch(() => undefined);
      await loadPositions(shards.filter((shard) => !lastPositions.has(shard)));
    }

    return {
      async claim(owner, shards) {
        const epochs = await ask(caller, "claim", (_, claimedAtMs) => {
          const isHeld = (row: ShardOwner): boolean => row.owner === owner;
          const rows = changeShards(tables, shards, isHeld, { claimedAtMs });
          return new Map(rows.map(({ shard, epoch }) => [shard, epoch]));
        });
        await loadPositions([...epochs.keys()]);
        return epochs;
      },
      loadWallets: (walletIds) =>
        ask(caller, "load", ({ wallets, eventsOf, holds }) => ({
          wallets: new Map(
            walletIds.map((id) => {
              const hash = eventsOf.get(id)?.at(-1)?.hash ?? null;
              return [id, { state: wallets.get(id) ?? null, hash }];
            }),
          ),
          holds: [...holds.values()].filter(
            ({ walletId, status }) => status === "ACTIVE" && walletIds.includes(walletId),
          ),
        })),
      loadHolds: (keys) =>
        ask(caller, "load", ({ holds }) =>
          keys.map((key) => holds.get(holdKey(key))).filter((hold) => hold !== undefined),
        ),
      loadDueHolds: (shards, atMs, limit, behind) =>
        ask(caller, "load", ({ holds }) => {
          const isOver = ({ status, expiresAtMs }: Hold): boolean =>
            status === "ACTIVE" && expiresAtMs !== null && expiresAtMs <= atMs;
          const over = [...holds.values()].filter(isOver);
          if (over.length === 0) return [];
          const asked = new Set(shards);
          const mine = over.filter(({ walletId }) => asked.has(shardOf(walletId)));
          const due = mine.map(({ walletId, holdId, expiresAtMs }) => {
            return {
              walletId,
              holdId,
              shard: shardOf(walletId),
              expiresAtUs: expiresAtMs! * 1_000,
            };
          });
          const inOrder = due.toSorted(comparePlaces);
          const from = inOrder.findIndex(
            (one) => behind === null || comparePlaces(one, behind) > 0,
          );
          return from < 0 ? [] : inOrder.slice(from, from + limit);
        }),
      loadCreated: (commandIds) => ask(caller, "load", () => createdBy(tables, commandIds)),
      loadPendingTransfers: (shards) => ask(caller, "load", () => pendingOf(tables, shards)),
      async append(given) {
        const { number, behind } = given.order;
        lastUnsent = beSure([...given.fence.keys()], lastUnsent);
        try {
          await lastUnsent;
        } catch (error) {
          return { type: "refused", reason: String(error) };
        }
        const writes = copyOf(given);
        const places = givenPlaces.take(writes, behind !== null);
        const after = lastOver;
        let onOver = (): void => undefined;
        lastOver = new Promise((resolve) => (onOver = resolve));
        const early =
          plants.lookupOutsideTransaction === true ? lookUp(tables, writes, plants) : undefined;
        const ended = await call(caller, {
          kind: "append",
          after,
          onOver,
          execute(): () => AppendResult {
            const isUndone = behind !== null && behind !== lastWritten;
            if (isUndone && plants.noBehindCheck !== true) return () => ({ type: "undone" });
            const shards =
              plants.noEpochCheck === true ? [] : supersededShards(tables, writes.fence);
            if (shards.length > 0) return () => ({ type: "fenced", shards });
            const known = early === undefined ? lookUp(tables, writes, plants) : early;
            if (known !== null) return () => known;
            checkRows(writes);
            checkFence(writes);
            return () => {
              const reason = conflictOf(tables, writes, places, plants);
              if (reason !== null) return { type: "stale", reason };
              write(tables, writes, places, plants);
              lastWritten = number;
              return { type: "committed" };
            };
          },
        });
        const result = resultOf(ended);
        if (result.type === "committed") {
          for (const { shard, position } of places) {
            lastPositions.set(shard, Math.max(position, lastPositions.get(shard) ?? 0));
          }
        }
        // The next one goes over a new session.
        if (result.type === "unknown") lastWritten = null;
        // Perhaps it was written, or somebody else has: it looks before the next one.
        if (result.type === "unknown" || result.type === "stale") {
          for (const shard of writes.fence.keys()) lastPositions.delete(shard);
        }
        return result;
      },
      close: () => Promise.resolve(),
    };
  }

  return {
    name,
    journal,
    ask,
    goAway() {
      isAway = true;
      incarnation += 1;
      loseUnflushed(tables.relayCursors, time.nowMs());
      // Those who hold or wait for the old one find out that they are cut.
      lock = buildLock();
    },
    comeBack() {
      isAway = false;
    },
    get isAway() {
      return isAway;
    },
    tables,
    get waiting() {
      return lock.waiting;
    },
  };
}

function resultOf(ended: Ended<AppendResult>): AppendResult {
  if (ended.type === "answered") return ended.value;
  return { type: ended.type === "lost" ? "unknown" : "refused", reason: ended.reason };
}

// --- Statements ----------------------------------------------------------------------------------

/** Changes those rows that are meant, and takes their next epoch; returns the new ones. */
function changeShards(
  tables: Tables,
  shards: Iterable<number>,
  isMeant: (row: ShardOwner) => boolean,
  change: Partial<ShardOwner>,
): ShardOwner[] {
  const before = [...new Set(shards)].map((shard) => tables.shards[shard]!).filter(isMeant);
  return before.map((row) => {
    const after = { ...row, ...change, epoch: row.epoch + 1 };
    tables.shards[row.shard] = after;
    return after;
  });
}

/**
 * A creation with a proposed id carries its command id on its last event, and as the cause of its
 * first.
 */
function createdBy(tables: Tables, commandIds: readonly string[]): Map<string, string> {
  const found = new Map<string, string>();
  const asked = new Set(commandIds);
  for (const { walletId, commandId } of tables.events) {
    if (commandId === null || !asked.has(commandId)) continue;
    const [first] = tables.eventsOf.get(walletId)!;
    if (first?.isIdProposed === true && first.causationId === commandId) {
      found.set(commandId, walletId);
    }
  }
  for (const { walletId, commandId, isIdProposed } of tables.rejections.values()) {
    if (isIdProposed && asked.has(commandId)) found.set(commandId, walletId);
  }
  return found;
}

function pendingOf(tables: Tables, shards: readonly number[]): Transfer[] {
  const asked = new Set(shards);
  return [...tables.transfers.values()].filter(
    ({ status, fromWalletId }) => status === "pending" && asked.has(shardOf(fromWalletId)),
  );
}

// --- The shard table -----------------------------------------------------------------------------

/** The shard table of all databases: shard modulo count. */
export function buildSimulatedShardTable(
  databases: readonly SimulatedDatabase[],
  caller: Caller,
): ShardTable {
  /** Asks each database for its part of the shards; what became of each. */
  function each<T>(
    shards: Iterable<number>,
    work: (database: SimulatedDatabase, shards: number[]) => Promise<T>,
  ): Promise<PromiseSettledResult<T>[]> {
    const all = [...shards];
    const parts = databases.map((database, index) => {
      const part = all.filter((shard) => shard % databases.length === index);
      return { database, part };
    });
    const asked = parts.filter(({ part }) => part.length > 0);
    return Promise.allSettled(asked.map(({ database, part }) => work(database, part)));
  }

  return {
    async read() {
      const answers = await each(ALL_SHARDS, (database, part) =>
        database.ask(caller, "read shards", ({ shards }) => part.map((shard) => shards[shard]!)),
      );
      if (answers.every(({ status }) => status === "rejected")) throw firstReason(answers);
      return valuesOf(answers);
    },
    async take(owner, from) {
      const answers = await each(from.keys(), (database, part) =>
        database.ask(caller, "take shards", (tables, claimedAtMs) => {
          const isAsListed = (row: ShardOwner): boolean => row.owner === from.get(row.shard);
          return changeShards(tables, part, isAsListed, { owner, claimedAtMs });
        }),
      );
      return valuesOf(answers).map(({ shard }) => shard);
    },
    async release(owner, shards) {
      const answers = await each(shards, (database, part) =>
        database.ask(caller, "release shards", (tables) => {
          const isHeld = (row: ShardOwner): boolean => row.owner === owner;
          changeShards(tables, part, isHeld, { owner: null });
        }),
      );
      if (answers.some(({ status }) => status === "rejected")) throw firstReason(answers);
    },
    close: () => Promise.resolve(),
  };
}

/** The rows of those databases that answered, in the order of the shards. */
function valuesOf(answers: readonly PromiseSettledResult<ShardOwner[]>[]): ShardOwner[] {
  const byShard: Array<ShardOwner | undefined> = [];
  for (const answer of answers) {
    if (answer.status === "fulfilled") for (const row of answer.value) byShard[row.shard] = row;
  }
  return byShard.filter((row) => row !== undefined);
}

function firstReason(answers: readonly PromiseSettledResult<unknown>[]): unknown {
  return answers.find((answer) => answer.status === "rejected")?.reason;
}

function comparePlaces(one: DueHold, other: DueHold): number {
  const differences = [one.shard - other.shard, one.expiresAtUs - other.expiresAtUs];
  const [oneKey, otherKey] = [holdKey(one), holdKey(other)];
  return differences.find((each) => each !== 0) ?? (oneKey < otherKey ? -1 : +(oneKey > otherKey));
}
