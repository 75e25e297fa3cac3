/**
 * A stage for races: lanes run in the test's own process on a real database, and the test is their
 * clock, their network and, where it wants, their database's faults. Nothing happens by itself:
 * time passes by `tick`, messages between lanes take the fate that `wire` gives them, journal calls
 * go through hooks, and `quiet` waits until all that was set off is done. A lane that is killed
 * keeps what it committed and is never heard of again.
 */
import { setImmediate as turn } from "node:timers/promises";
import { onTestFinished } from "vitest";
import { buildLane, type Lane } from "../../actors/lane.ts";
import type { Hold } from "../../src/core/hold.ts";
import type {
  AppendResult,
  DueHold,
  Journal,
  LoadedWallets,
  Writes,
} from "../../src/core/journal.ts";
import { LIMITS } from "../../src/limits.ts";
import { buildPostgresJournal } from "../../src/postgres/journal.ts";
import { buildPostgresShardTable } from "../../src/postgres/shard-table.ts";
import {
  addressee,
  type Change,
  type Command,
  type CommandMessage,
  type Effects,
  type Outcome,
  type ShardMessage,
} from "../../src/core/protocol.ts";
import { ALL_SHARDS, shardOf } from "../../src/core/shard.ts";
import { idIn } from "./ids.ts";
import { commandOf, creation } from "./staged-commands.ts";

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
  /** Batches that it has not given back: a host hands over `LIMITS.laneBatchesMax` and no more. */
  openBatches: number;
  /** How far the wall clock of its host is off, in milliseconds; events are stamped by that one. */
  clockOffMs: number;
  /** How far the time that it waits by is ahead of the others'. */
  aheadMs: number;
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
    const staged: StagedLane = {
      ...plan,
      lane,
      hooks: {},
      calls,
      lost: [],
      isAlive: true,
      openBatches: 0,
      clockOffMs: 0,
      aheadMs: 0,
    };
    byName.set(plan.name, staged);
    tickLane(staged);
    await stage.quiet();
    return staged;
  }

  function timesOf({ aheadMs, clockOffMs }: StagedLane): [nowMs: number, wallMs: number] {
    return [stage.nowMs + aheadMs, stage.nowMs + clockOffMs];
  }

  /** Shards that it lost are not assigned again, as its host would see to. */
  function tickLane(staged: StagedLane): void {
    const shards = staged.shards.filter((shard) => !staged.lost.includes(shard));
    const [nowMs, wallMs] = timesOf(staged);
    dispatch(staged, staged.lane.tick(nowMs, shards, wallMs));
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
        if (copy.type === "command") copy.expiresAtMs = timesOf(staged)[0] + copy.budgetMs;
        batches.set(staged, [...(batches.get(staged) ?? []), copy]);
      }
      for (const [staged, batch] of batches) {
        staged.openBatches += 1;
        void staged.lane.receive(batch, ...timesOf(staged)).then((effects) => {
          staged.openBatches -= 1;
          dispatch(staged, effects);
        });
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
