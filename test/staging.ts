/**
 * A stage for races: lanes run in the test's own process on a real database, and the test is their
 * clock, their network and, where it wants, their database's faults. Nothing happens by itself:
 * time passes by `tick`, messages between lanes take the fate that `wire` gives them, journal calls
 * go through hooks, and `quiet` waits until all that was set off is done. A lane that is killed
 * keeps what it committed and is never heard of again.
 */
import { setImmediate as turn } from "node:timers/promises";
import pg from "pg";
import { expect, inject, onTestFinished } from "vitest";
import { buildLane, type Lane } from "../actors/lane.ts";
import type { Hold } from "../src/hold.ts";
import type {
  AppendResult,
  DueHold,
  HoldKey,
  Journal,
  LoadedWallets,
  Writes,
} from "../src/journal.ts";
import { chainHashOfRow } from "../src/chain.ts";
import { LIMITS } from "../src/limits.ts";
import { EVENT_COLUMNS } from "../src/postgres-rows.ts";
import type { StoredEvent } from "../src/read-model.ts";
import { buildPostgresJournal } from "../src/postgres-journal.ts";
import { buildPostgresShardTable } from "../src/postgres-shard-table.ts";
import {
  addressee,
  type Change,
  type Command,
  type CommandMessage,
  type Effects,
  type Outcome,
  type ShardMessage,
} from "../src/protocol.ts";
import { ALL_SHARDS, shardOf } from "../src/shard.ts";
import { apply, type WalletCommand, type WalletEvent, type WalletState } from "../src/wallet.ts";
import { createMigratedDatabase } from "./migrated-database.ts";
import { dropDatabase } from "./servers.ts";

export const EVEN = ALL_SHARDS.filter((shard) => shard % 2 === 0);
export const ODD = ALL_SHARDS.filter((shard) => shard % 2 === 1);

// --- Commands ------------------------------------------------------------------------------------

let lastNumber = 0;

/**
 * Before each file: its wallets live in the same shards whatever has run before it in the process.
 */
export function restartNumbers(): void {
  lastNumber = 0;
}

/** Different in every call of a test file, so that its tests can share a database. */
export function unique(prefix: string): string {
  lastNumber += 1;
  return `${prefix}-${lastNumber}`;
}

/** An unused wallet id in one of the shards. */
export function idIn(shards: readonly number[]): string {
  for (;;) {
    const walletId = unique("w");
    if (shards.includes(shardOf(walletId))) return walletId;
  }
}

export function commandOf(
  walletId: string,
  body: WalletCommand,
  rest: Partial<Command> = {},
): Command {
  const commandId = rest.commandId ?? unique("command");
  return {
    commandId,
    fingerprint: `input of ${commandId}`,
    walletId,
    proposedId: false,
    expectedVersion: null,
    description: null,
    metadata: null,
    correlationId: `correlation of ${commandId}`,
    body,
    ...rest,
  };
}

export function creation(
  initialBalance: string | null,
): Extract<WalletCommand, { type: "create" }> {
  const [ownerId, currency, decimalPlaces, metadata] = ["owner", "USD", 2, "{}"] as const;
  return { type: "create", ownerId, currency, decimalPlaces, initialBalance, metadata };
}

export function credit(walletId: string, amount: string, rest: Partial<Command> = {}): Command {
  return commandOf(walletId, { type: "credit", amount, kind: "CREDIT" }, rest);
}

export function debit(walletId: string, amount: string, rest: Partial<Command> = {}): Command {
  return commandOf(walletId, { type: "debit", amount }, rest);
}

export function transfer(
  walletId: string,
  toWalletId: string,
  amount: string,
  rest: Partial<Command> = {},
): Command {
  const transferId = unique("transfer");
  return commandOf(walletId, { type: "transfer", transferId, toWalletId, amount }, rest);
}

type Place = Extract<WalletCommand, { type: "hold" }>;

export function placing(
  walletId: string,
  amount: string,
  over: Partial<Place> = {},
  rest: Partial<Command> = {},
): Command {
  const body: Place = {
    type: "hold",
    holdId: unique("hold"),
    amount,
    kind: "PAYMENT",
    reference: null,
    description: null,
    expiresAtMs: null,
    expiresInSeconds: null,
    ...over,
  };
  return commandOf(walletId, body, rest);
}

/** `toWalletId`: pays it to a wallet. */
export function capture(
  { walletId, holdId }: HoldKey,
  amount: string | null,
  { final = false, toWalletId }: { final?: boolean; toWalletId?: string } = {},
): Command {
  const to =
    toWalletId === undefined ? null : { transferId: unique("transfer"), walletId: toWalletId };
  return commandOf(walletId, { type: "capture", holdId, amount, final, to });
}

export function release({ walletId, holdId }: HoldKey): Command {
  return commandOf(walletId, { type: "release", holdId });
}

/** What a client sends who asks again under the same key: the gateway makes another transfer id. */
export function repeated(command: Command): Command {
  const { body } = command;
  if (body.type === "transfer") {
    return { ...command, body: { ...body, transferId: unique("transfer") } };
  }
  if (body.type === "hold") return { ...command, body: { ...body, holdId: unique("hold") } };
  if (body.type !== "capture" || body.to === null) return command;
  const to = { ...body.to, transferId: unique("transfer") };
  return { ...command, body: { ...body, to } };
}

/** Puts other bounds in force until the test ends. */
export function withLimits(changed: Partial<Record<keyof typeof LIMITS, number>>): void {
  const before = { ...LIMITS };
  Object.assign(LIMITS, changed);
  onTestFinished(() => void Object.assign(LIMITS, before));
}

// --- The stage -----------------------------------------------------------------------------------

/** What becomes of a message between two lanes. */
export type Fate = "pass" | "drop" | "hold" | "twice";

/** Stand between a lane and its journal; each gets the real call and may make it, or not. */
export interface JournalHooks {
  append?: (writes: Writes, apply: () => Promise<AppendResult>) => Promise<AppendResult>;
  claim?: (claim: () => Promise<Map<number, number>>) => Promise<Map<number, number>>;
  loadWallets?: (
    load: () => Promise<LoadedWallets>,
    walletIds: readonly string[],
  ) => Promise<LoadedWallets>;
  loadCreated?: (load: () => Promise<Map<string, string>>) => Promise<Map<string, string>>;
  loadHolds?: (load: () => Promise<Hold[]>) => Promise<Hold[]>;
  loadDueHolds?: (load: () => Promise<DueHold[]>) => Promise<DueHold[]>;
}

export interface LanePlan {
  readonly name: string;
  readonly owner: string;
  readonly shards: readonly number[];
}

export interface StagedLane extends LanePlan {
  readonly lane: Lane;
  readonly hooks: JournalHooks;
  /** Calls that reached the database. */
  readonly calls: {
    append: number;
    loadWallets: number;
    loadCreated: number;
    loadHolds: number;
    loadDueHolds: number;
  };
  /** Shards it reported as lost. */
  readonly lost: number[];
  isAlive: boolean;
}

/** A command that was sent, and all that was answered to it. */
export interface Asked {
  readonly message: CommandMessage;
  readonly outcomes: Outcome[];
}

export interface Stage {
  nowMs: number;
  /** Decides on each message between two lanes; default: all pass. */
  wire: (message: ShardMessage) => Fate;
  /** Messages that `wire` held, oldest first. */
  readonly held: ShardMessage[];
  /** Every message that left a lane, oldest first. */
  readonly sent: ShardMessage[];
  readonly changes: Change[];
  /** What lanes have logged: `a warn: ...`. */
  readonly log: readonly string[];
  lane(name: string): StagedLane;
  /** Those whose thread has not ended, oldest first. */
  living(): StagedLane[];
  /** One more lane, which takes its shards over; the others are not told. */
  add(plan: LanePlan): Promise<StagedLane>;
  /** An unused wallet id that lives in this lane. */
  idIn(name: string): string;
  /** Makes a wallet in this lane; returns its id. */
  open(name: string, balance: string | null, rest?: Partial<Command>): Promise<string>;
  /**
   * Sends commands to the lanes of their wallets, one batch for each lane; the answers come later.
   */
  send(...commands: readonly Command[]): Asked[];
  /** The same with a budget, in milliseconds, or as a later attempt. */
  sendAs(command: Command, as: { budgetMs?: number; attempt?: number }): Asked;
  /** Sends a command and waits until all is quiet; fails without an answer. */
  perform(command: Command): Promise<Outcome>;
  /** Messages as if they had just arrived. */
  deliver(...messages: readonly ShardMessage[]): void;
  /** Delivers the held messages of this type, or all. */
  release(type?: ShardMessage["type"]): Promise<void>;
  /** Lets time pass for every lane, then waits until all is quiet. */
  tick(ms?: number): Promise<void>;
  /** Waits until nothing moves by itself any more. */
  quiet(): Promise<void>;
  /**
   * Lets time pass, with all faults as they are, until no transfer is pending and no message waits.
   */
  settle(): Promise<void>;
  /** The lane's thread ends here: no call of it returns any more, and nothing reaches it. */
  kill(name: string): void;
  /**
   * A new lane takes the place: for the same owner, or for another one that takes its shards over.
   */
  replace(name: string, owner?: string): Promise<StagedLane>;
  close(): Promise<void>;
}

/** What a call gives to a lane whose thread is gone. */
export const NEVER = new Promise<never>(() => undefined);
const SETTLE_TICKS_MAX = 100;

export interface StagePlan {
  readonly databaseUrl: string;
  readonly lanes: readonly LanePlan[];
  /**
   * `LaneDeps.shortcut`; without it every transfer takes the protocol, whose steps most tests look
   * at.
   */
  readonly shortcut?: boolean;
}

export async function stageLanes({
  databaseUrl,
  lanes,
  shortcut = false,
}: StagePlan): Promise<Stage> {
  const journals: Journal[] = [];
  const shardTable = buildPostgresShardTable([databaseUrl]);
  const byName = new Map<string, StagedLane>();
  const asked = new Map<number, Asked>();
  const outstanding = new Set<Promise<unknown>>();
  const crashes: unknown[] = [];
  const log: string[] = [];
  const held: ShardMessage[] = [];
  const sent: ShardMessage[] = [];
  const changes: Change[] = [];
  let lastSeq = 0;

  // ---- the database side of a lane ----

  function stagedJournal(staged: () => StagedLane, real: Journal): Journal {
    /** Counted while it runs, and without an answer for a lane that was killed meanwhile. */
    async function call<T>(work: () => Promise<T>): Promise<T> {
      if (!staged().isAlive) return await NEVER;
      const running = work();
      const tracked = running.catch(() => undefined).finally(() => outstanding.delete(tracked));
      outstanding.add(tracked);
      try {
        return await running;
      } finally {
        if (!staged().isAlive) await NEVER;
      }
    }
    return {
      claim(owner, shards) {
        const claim = () => call(() => real.claim(owner, shards));
        return staged().hooks.claim?.(claim) ?? claim();
      },
      loadWallets(walletIds) {
        const load = () => {
          staged().calls.loadWallets += 1;
          return call(() => real.loadWallets(walletIds));
        };
        return staged().hooks.loadWallets?.(load, walletIds) ?? load();
      },
      loadCreated(commandIds) {
        const load = () => {
          staged().calls.loadCreated += 1;
          return call(() => real.loadCreated(commandIds));
        };
        return staged().hooks.loadCreated?.(load) ?? load();
      },
      loadHolds(keys) {
        const load = () => {
          staged().calls.loadHolds += 1;
          return call(() => real.loadHolds(keys));
        };
        return staged().hooks.loadHolds?.(load) ?? load();
      },
      loadDueHolds(...question) {
        const load = () => {
          staged().calls.loadDueHolds += 1;
          return call(() => real.loadDueHolds(...question));
        };
        return staged().hooks.loadDueHolds?.(load) ?? load();
      },
      loadPendingTransfers: (shards) => call(() => real.loadPendingTransfers(shards)),
      append(writes) {
        const apply = () => {
          staged().calls.append += 1;
          return call(() => real.append(writes));
        };
        return staged().hooks.append?.(writes, apply) ?? apply();
      },
      close: () => real.close(),
    };
  }

  async function addLane(plan: LanePlan, takeOver: boolean): Promise<StagedLane> {
    const real = buildPostgresJournal(databaseUrl);
    journals.push(real);
    if (takeOver) await takeShards(plan.owner, plan.shards);
    const lane = buildLane({
      journal: stagedJournal(() => staged, real),
      owner: plan.owner,
      shortcut,
      emit: (effects) => dispatch(staged, effects),
      log: (level, text) => void log.push(`${plan.name} ${level}: ${text}`),
      crash: (error) => {
        if (staged.isAlive) crashes.push(error);
      },
    });
    const calls = { append: 0, loadWallets: 0, loadCreated: 0, loadHolds: 0, loadDueHolds: 0 };
    const staged: StagedLane = { ...plan, lane, hooks: {}, calls, lost: [], isAlive: true };
    byName.set(plan.name, staged);
    tickLane(staged);
    await stage.quiet();
    return staged;
  }

  /** Shards that it lost are not assigned again, as its host would see to. */
  function tickLane(staged: StagedLane): void {
    const shards = staged.shards.filter((shard) => !staged.lost.includes(shard));
    dispatch(staged, staged.lane.tick(stage.nowMs, shards));
  }

  /** Whoever had them. */
  async function takeShards(owner: string, shards: readonly number[]): Promise<void> {
    const table = await shardTable.read();
    const from = table.filter(({ shard }) => shards.includes(shard));
    await shardTable.take(owner, new Map(from.map((row) => [row.shard, row.owner])));
  }

  // ---- the network ----

  function dispatch(from: StagedLane, effects: Effects): void {
    if (!from.isAlive) return;
    for (const { seq, outcome } of effects.replies) asked.get(seq)?.outcomes.push(outcome);
    changes.push(...effects.changes);
    from.lost.push(...effects.lost);
    const passing: ShardMessage[] = [];
    for (const message of effects.messages) {
      const copy = structuredClone(message);
      sent.push(copy);
      const fate = stage.wire(copy);
      if (fate === "hold") held.push(copy);
      if (fate === "pass" || fate === "twice") passing.push(copy);
      if (fate === "twice") passing.push(copy);
    }
    if (passing.length > 0) stage.deliver(...passing);
  }

  function laneOf(message: ShardMessage): StagedLane | undefined {
    const shard = shardOf(addressee(message));
    for (const staged of byName.values()) {
      if (staged.isAlive && staged.shards.includes(shard) && !staged.lost.includes(shard)) {
        return staged;
      }
    }
    return undefined;
  }

  function messageOf(command: Command, budgetMs: number, attempt: number): CommandMessage {
    lastSeq += 1;
    const [type, inbox, expiresAtMs] = ["command", "test", 0] as const;
    return { type, inbox, seq: lastSeq, attempt, budgetMs, expiresAtMs, command };
  }

  function sendAll(messages: readonly CommandMessage[]): Asked[] {
    const list = messages.map((message): Asked => ({ message, outcomes: [] }));
    for (const one of list) asked.set(one.message.seq, one);
    stage.deliver(...messages);
    return list;
  }

  const stage: Stage = {
    nowMs: Date.UTC(2030, 0, 1),
    wire: () => "pass",
    held,
    sent,
    changes,
    log,
    lane(name) {
      const staged = byName.get(name);
      if (staged === undefined) throw new Error(`no lane ${name}`);
      return staged;
    },
    living: () => [...byName.values()].filter(({ isAlive }) => isAlive),
    add: (plan) => addLane(plan, true),
    idIn: (name) => idIn(stage.lane(name).shards),
    async open(name, balance, rest = {}) {
      const walletId = stage.idIn(name);
      const outcome = await stage.perform(commandOf(walletId, creation(balance), rest));
      if (outcome.type !== "done") throw new Error(`not created: ${JSON.stringify(outcome)}`);
      return walletId;
    },
    send: (...commands) =>
      sendAll(commands.map((one) => messageOf(one, LIMITS.commandDeadlineMs, 1))),
    sendAs(command, { budgetMs = LIMITS.commandDeadlineMs, attempt = 1 }) {
      return sendAll([messageOf(command, budgetMs, attempt)])[0]!;
    },
    async perform(command) {
      const [one] = stage.send(command);
      await stage.quiet();
      return onlyOutcome(one!);
    },
    deliver(...messages) {
      const batches = new Map<StagedLane, ShardMessage[]>();
      for (const message of messages) {
        const staged = laneOf(message);
        if (staged === undefined) continue;
        const copy = structuredClone(message);
        if (copy.type === "command") copy.expiresAtMs = stage.nowMs + copy.budgetMs;
        batches.set(staged, [...(batches.get(staged) ?? []), copy]);
      }
      for (const [staged, batch] of batches) {
        void staged.lane.receive(batch, stage.nowMs).then((effects) => dispatch(staged, effects));
      }
    },
    async release(type) {
      const released = held.filter((message) => type === undefined || message.type === type);
      const kept = held.filter((message) => !released.includes(message));
      held.splice(0, held.length, ...kept);
      stage.deliver(...released);
      await stage.quiet();
    },
    async tick(ms = LIMITS.laneTickMs) {
      stage.nowMs += ms;
      for (const staged of byName.values()) {
        if (staged.isAlive) tickLane(staged);
      }
      await stage.quiet();
    },
    async quiet() {
      for (let calmTurns = 0; calmTurns < 3; calmTurns += 1) {
        await turn();
        while (outstanding.size > 0) {
          calmTurns = 0;
          await Promise.all(outstanding);
        }
      }
      if (crashes.length > 0) throw crashes[0];
    },
    async settle() {
      // Not by what lanes say of transfers: one that was superseded and does not know it may wait
      // for ever.
      const isBusy = async (): Promise<boolean> => {
        const lanes = stage.living().map(({ lane }) => lane.stats());
        if (lanes.some(({ backlog, serving }) => backlog > 0 || !serving)) return true;
        return (await journals[0]!.loadPendingTransfers(ALL_SHARDS)).length > 0;
      };
      await stage.quiet();
      for (let ticks = 0; await isBusy(); ticks += 1) {
        if (ticks === SETTLE_TICKS_MAX) throw new Error(`does not settle:\n${log.join("\n")}`);
        await stage.tick(500);
      }
    },
    kill(name) {
      stage.lane(name).isAlive = false;
    },
    async replace(name, owner) {
      const before = stage.lane(name);
      stage.kill(name);
      const plan = { name, owner: owner ?? before.owner, shards: before.shards };
      return await addLane(plan, owner !== undefined);
    },
    async close() {
      for (const staged of byName.values()) staged.isAlive = false;
      await Promise.all([...journals, shardTable].map((one) => one.close()));
    },
  };

  for (const plan of lanes) await addLane(plan, true);
  return stage;
}

// --- Outcomes ------------------------------------------------------------------------------------

/** The one answer to a command; more, or none, fail. */
export function onlyOutcome({ message, outcomes }: Asked): Outcome {
  if (outcomes.length === 1) return outcomes[0]!;
  throw new Error(`${message.command.commandId} has ${JSON.stringify(outcomes)} for an answer`);
}

/** What is said of a rejection in short. */
export function summaryOf(outcome: Outcome | undefined): string {
  switch (outcome?.type) {
    case undefined:
      return "no answer";
    case "done":
      return `done ${outcome.wallet.version}`;
    case "transferred":
      return outcome.transfer.status;
    case "replayed":
      return `replayed ${outcome.version}`;
    case "rejected":
      return outcome.rejection.code;
    case "fault":
      return outcome.fault;
    default:
      return outcome satisfies never;
  }
}

// --- The database, as an auditor sees it ---------------------------------------------------------

export interface TestDatabase {
  readonly url: string;
  query<Row extends object>(sql: string, values?: unknown[]): Promise<Row[]>;
  /** A session of its own, for locks. */
  session(): Promise<pg.Client>;
  close(): Promise<void>;
}

/** A fresh database with the schema; `bigint` comes as a number. */
export async function openDatabase(name: string): Promise<TestDatabase> {
  const url = await createMigratedDatabase(name);
  const sessions: pg.Client[] = [];
  async function session(): Promise<pg.Client> {
    const client = new pg.Client({ connectionString: url, application_name: "test" });
    client.setTypeParser(pg.types.builtins.INT8, Number);
    client.setTypeParser(pg.types.builtins.NUMERIC, Number);
    client.on("error", () => undefined);
    await client.connect();
    sessions.push(client);
    return client;
  }
  const auditor = await session();
  return {
    url,
    session,
    async query<Row extends object>(sql: string, values: unknown[] = []) {
      return (await auditor.query<Row>(sql, values)).rows;
    },
    async close() {
      await Promise.all(sessions.map((client) => client.end().catch(() => undefined)));
      await dropDatabase(inject("postgresUrl"), name);
    },
  };
}

interface EventRow {
  walletId: string;
  version: number;
  type: WalletEvent["type"];
  amountMinor: number | null;
  transferId: string | null;
  counterpartyId: string | null;
  data: {
    ownerId: string | null;
    currency: string;
    decimalPlaces: number;
    walletMetadata: object;
    kind?: "FUND";
  } | null;
  occurredAtMs: number;
  after: { balanceMinor: number; heldMinor: number; status: string };
}

const EVENTS = `
  SELECT wallet_id AS "walletId", version, type, amount AS "amountMinor", transfer_id AS "transferId",
         counterparty AS "counterpartyId", data, (extract(epoch FROM occurred_at) * 1000)::float8 AS "occurredAtMs",
         json_build_object('balanceMinor', balance, 'heldMinor', held, 'status', status) AS after
  FROM events ORDER BY wallet_id COLLATE "C", version`;

const WALLETS = `
  SELECT wallet_id AS "walletId", owner_id AS "ownerId", currency, decimal_places::int AS "decimalPlaces",
         balance AS "balanceMinor", held AS "heldMinor", status, version, metadata,
         (extract(epoch FROM created_at) * 1000)::float8 AS "createdAtMs",
         (extract(epoch FROM updated_at) * 1000)::float8 AS "updatedAtMs"
  FROM wallets ORDER BY wallet_id`;

/** Each of these finds what must not be there. */
const VIOLATIONS = {
  "an asset whose accounts do not sum to zero": `
    SELECT currency, sum(balance) FROM trial_balance GROUP BY currency HAVING sum(balance) <> 0`,
  "a transfer that is not settled": `SELECT transfer_id FROM transfers WHERE status = 'pending'`,
  "money in transit": `SELECT * FROM trial_balance WHERE account = 'system:transit' AND balance <> 0`,
  "a transfer and a verdict that differ": `
    SELECT t.transfer_id, t.status FROM transfers t LEFT JOIN transfer_verdicts v USING (transfer_id)
    WHERE v.transfer_id IS NULL OR t.to_version IS DISTINCT FROM v.to_version
       OR t.rejection IS DISTINCT FROM v.rejection OR t.to_wallet <> v.to_wallet`,
  "a transfer without exactly its two events": `
    SELECT t.transfer_id, t.status, e.events FROM transfers t LEFT JOIN (
      SELECT transfer_id, array_agg(type || ' ' || wallet_id || ' ' || amount ORDER BY type DESC) AS events
      FROM events WHERE transfer_id IS NOT NULL GROUP BY transfer_id
    ) e USING (transfer_id)
    WHERE t.status <> 'pending' AND e.events IS DISTINCT FROM ARRAY[
      'TransferSent ' || t.from_wallet || ' ' || t.amount,
      CASE t.status WHEN 'posted' THEN 'TransferReceived ' || t.to_wallet
                    ELSE 'TransferReturned ' || t.from_wallet END || ' ' || t.amount]`,
  "an event of a transfer without a record": `
    SELECT e.transfer_id FROM events e LEFT JOIN transfers t USING (transfer_id)
    WHERE e.transfer_id IS NOT NULL AND t.transfer_id IS NULL`,
  "a command that was both accepted and rejected": `
    SELECT command_id FROM rejections JOIN events USING (command_id, wallet_id)`,
  "a shard whose positions have gaps": `
    SELECT shard, count(*), max(position) FROM events GROUP BY shard HAVING count(*) <> max(position)`,
  "a position before one of an earlier version": `
    SELECT e.wallet_id, e.version FROM events e JOIN events f ON f.wallet_id = e.wallet_id AND f.version = e.version + 1
    WHERE f.shard <> e.shard OR f.position <= e.position`,
  "a wallet without its last event's hash": `
    SELECT w.wallet_id FROM wallets w LEFT JOIN events e ON e.wallet_id = w.wallet_id AND e.version = w.version
    WHERE w.hash IS DISTINCT FROM e.hash`,
  "a wallet whose holds have not left what it holds": `
    SELECT w.wallet_id, w.held, sum(h.amount - h.captured) FROM wallets w
    LEFT JOIN holds h ON h.wallet_id = w.wallet_id AND h.status = 'ACTIVE'
    GROUP BY w.wallet_id HAVING w.held <> coalesce(sum(h.amount - h.captured), 0)`,
  "a hold that is not what its last event says": `
    SELECT h.hold_id, h.status, h.captured, e.hold FROM holds h
    LEFT JOIN LATERAL (
      SELECT e.data -> 'hold' AS hold FROM events e
      WHERE e.wallet_id = h.wallet_id AND e.data #>> '{hold,holdId}' = h.hold_id ORDER BY e.version DESC LIMIT 1
    ) e ON true
    WHERE e.hold ->> 'status' IS DISTINCT FROM h.status OR (e.hold ->> 'capturedMinor')::bigint IS DISTINCT FROM h.captured`,
  "a transfer whose hold its event does not name": `
    SELECT t.transfer_id, t.hold_id FROM transfers t
    JOIN events e ON e.wallet_id = t.from_wallet AND e.version = t.from_version
    WHERE t.hold_id IS DISTINCT FROM e.data #>> '{hold,holdId}'`,
};

const CHAIN = `
  SELECT ${EVENT_COLUMNS}, e.fingerprint, encode(e.hash, 'hex') AS hash FROM events e ORDER BY e.wallet_id COLLATE "C", e.version`;

const reported = new WeakMap<TestDatabase, Set<string>>();

/**
 * Conservation, one history, settled transfers, one outcome per command: over everything in the
 * database. What one test left behind is held against it alone, and not against those after it.
 */
export async function checkBooks(database: TestDatabase): Promise<void> {
  const known = reported.get(database) ?? new Set();
  reported.set(database, known);
  const found: string[] = [];
  for (const [what, sql] of Object.entries(VIOLATIONS)) {
    for (const row of await database.query(sql)) found.push(`${what}: ${JSON.stringify(row)}`);
  }
  const news = found.filter((violation) => !known.has(violation));
  for (const violation of news) known.add(violation);
  expect(news.join("\n")).toBe("");

  const hashes = new Map<string, string>();
  const rows = await database.query<
    StoredEvent & { fingerprint: string | null; hash: string | null }
  >(CHAIN);
  for (const { hash, ...row } of rows) {
    const { walletId, version } = row;
    // From before there were hashes; none may be missing after one that is there.
    if (hash === null && !hashes.has(walletId)) continue;
    const is = chainHashOfRow(hashes.get(walletId) ?? null, row);
    if (is !== hash) expect.fail(`${walletId}:${version} breaks the hash chain`);
    hashes.set(walletId, is);
  }

  const folded = new Map<string, WalletState>();
  for (const row of await database.query<EventRow>(EVENTS)) {
    const { walletId, version, after, data, ...rest } = row;
    const metadata = JSON.stringify(data?.walletMetadata);
    const event = { kind: "CREDIT", ...rest, ...data, metadata } as unknown as WalletEvent;
    const state = apply(walletId, folded.get(walletId) ?? null, event);
    // Compared by hand first: an expectation for each of thousands of events takes seconds.
    const isEqual =
      state.balanceMinor === after.balanceMinor &&
      state.heldMinor === after.heldMinor &&
      state.status === after.status;
    if (!isEqual || state.version !== version) expect({ version, ...after }).toEqual(state);
    folded.set(walletId, state);
  }
  const wallets = await database.query<{ metadata: object }>(WALLETS);
  const refolded = [...folded.values()].map((state) => ({
    ...state,
    metadata: JSON.parse(state.metadata) as object,
  }));
  expect(wallets).toEqual(refolded);
}
