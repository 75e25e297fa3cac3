/**
 * One run: a whole cluster drawn from a seed, with callers at work while things go wrong, then the
 * faults end, whatever is open is resolved, the world runs until it is quiet, and everything that
 * was seen and stored is held against the invariants (docs/architecture.md). Not getting quiet in
 * time is a violation like any other: "every transfer settles", "service resumes".
 */
import { isDue, type Hold } from "../../src/core/hold.ts";
import type { Journal } from "../../src/core/journal.ts";
import { LIMITS } from "../../src/limits.ts";
import { SUBJECTS } from "../../src/core/protocol.ts";
import type { Transfer } from "../../src/core/transfer.ts";
import { buildBank, fingerprintOf, type Bank } from "./bank.ts";
import { checkBooks } from "./books.ts";
import { buildNetwork, type Network } from "./bus.ts";
import { buildCluster, callerOf, type Cluster } from "./cluster.ts";
import { checkDryRuns } from "./dry-run-books.ts";
import { buildSimulatedDatabase, type SimulatedDatabase } from "./database.ts";
import {
  databasePlanner,
  drawFaults,
  publisherCrashes,
  unleash,
  type FaultPlan,
} from "./faults.ts";
import { buildRecorder, type History, type Recorder } from "./history.ts";
import {
  claimAtOnce,
  plantsOf,
  replyBeforeCommit,
  withLateRejections,
  type Plant,
} from "./plants.ts";
import { checkRejections } from "./rejections.ts";
import { buildRegistry } from "./membership.ts";
import { checkMemories } from "./memories.ts";
import type { Random } from "./random.ts";
import { aheadOf, checkRelay, relayUnrest } from "./relay-books.ts";
import { buildSimulatedRelayStore } from "./relay-store.ts";
import { buildScheduler, EPOCH_MS, type Scheduler } from "./scheduler.ts";
import { buildStream, type Stream } from "./stream.ts";
import { buildSubscribers } from "./subscribers.ts";

export interface RunOptions {
  readonly seed: number;
  readonly plant?: Plant | undefined;
  readonly trace?: boolean;
}

export interface RunResult {
  readonly seed: number;
  /** What was wrong; nothing, at best. */
  readonly violations: readonly string[];
  /** Equal for two runs of a seed. */
  readonly digest: string;
  readonly events: number;
  readonly virtualMs: number;
  readonly commands: number;
  readonly commits: number;
  readonly lines: readonly string[];
  /** What the run has met, as `kind: what`, and how often. */
  readonly counts: ReadonlyMap<string, number>;
  /** What the seed drew, in words. */
  readonly plan: string;
}

/**
 * From the end of the faults until everything must be settled and told: a caller's patience twice,
 * and a slow re-drive.
 */
const QUIET_WITHIN_MS = 45_000;
const LOOK_MS = 250;
/** From the time of a hold until it must have expired, whoever sleeps. */
const EXPIRES_WITHIN_MS = 2_000;

/** One run at a time: bounds in force are common to all that runs in this thread. */
export async function simulate(options: RunOptions): Promise<RunResult> {
  const scheduler = buildScheduler(options.seed, { trace: options.trace ?? false });
  const before = { ...LIMITS };
  const bounds = drawBounds(scheduler.random.stream("bounds"));
  Object.assign(LIMITS, bounds);
  try {
    return await run(scheduler, options, bounds);
  } finally {
    Object.assign(LIMITS, before);
  }
}

/** Deadlines that faults of a second or two outlast. */
const HASTY = {
  commandDeadlineMs: 1_500,
  commandAttemptMs: 500,
  transferPendingMarginMs: 300,
  commandExpiryMarginMs: 100,
};

/**
 * Tight bounds now and then, so that what they are for is met by a few callers in a few seconds.
 */
function drawBounds(random: Random): Partial<Record<keyof typeof LIMITS, number>> {
  const idle = random.chance(0.3) ? { actorIdleMs: 150, actorSweepMs: 100 } : {};
  const few = random.chance(0.15) ? { actorsBytesMax: 2_500, actorSweepMs: 100 } : {};
  const commit = random.chance(0.15) ? { commitMessagesMax: 2, laneBatchMessagesMax: 2 } : {};
  const narrow = random.chance(0.25)
    ? { relayShardsAtOnceMax: 1, relayShardRowsMax: 3, relayWindowMax: 2 }
    : {};
  const impatient = random.chance(0.5) ? { relayAckMs: 400 } : {};
  const batch = random.chance(0.5) ? { batchWindowMax: 3, batchStepCommands: 2 } : {};
  const full = random.chance(0.1)
    ? { laneCommandsMax: 2, mailboxMessagesMax: 1, laneBacklogMax: 3, pendingTransfersMax: 2 }
    : {};
  const hasty = random.chance(0.4) ? HASTY : {};
  const holds = random.chance(0.25) ? { holdsPerWalletMax: 3, holdsDueMax: 2 } : {};
  const pieces = random.chance(0.2) ? { busMessageBytesMax: 40_000, commandBatchMax: 2 } : {};
  const queues = { ...commit, ...batch, ...full, ...pieces };
  return { ...idle, ...few, ...narrow, ...impatient, ...hasty, ...holds, ...queues };
}

/**
 * Where a refusal is not told, what found no room is sent again. With room for two in the only host
 * that there is, pauses made for thousands of commands would let too few through before the end.
 */
const SHORT_PAUSES = { commandRetryPauseMsMax: 350, commandShedMs: 400 };

async function run(
  scheduler: Scheduler,
  { seed, plant }: RunOptions,
  bounds: object,
): Promise<RunResult> {
  const random = scheduler.random.stream("world");
  const isAlone = random.chance(0.15);
  const faults = drawFaults(random, isAlone);
  // With one host at a time a command is delivered once, unless the bus repeats it.
  const deliversOnce = isAlone && !faults.kinds.has("lossy bus");
  const isCramped = isAlone && !deliversOnce && "laneCommandsMax" in bounds;
  const pauses = isCramped ? SHORT_PAUSES : {};
  Object.assign(LIMITS, pauses);
  const plan = {
    ...bounds,
    ...pauses,
    hosts: isAlone ? 1 : 2 + random.below(3),
    gateways: 1 + random.below(2),
    databases: random.pick([1, 1, 2]),
    laneCount: 1 + random.below(2),
    callers: 3 + random.below(6),
    wallets: 3 + random.below(6),
    subscribers: random.below(4),
    commands: random.pick([100, 300, 600]),
  };
  const counts = new Map<string, number>();
  const count = (what: string): void => void counts.set(what, (counts.get(what) ?? 0) + 1);
  const recorder = buildRecorder(() => scheduler.nowMs);

  const databases: SimulatedDatabase[] = [];
  const blind = new Map<string, number>();
  const planCall = databasePlanner(scheduler, faults, blind, (caller) => crashCaller(caller));
  for (let index = 0; index < plan.databases; index++) {
    databases.push(
      buildSimulatedDatabase({
        name: `database-${index + 1}`,
        time: {
          nowMs: () => EPOCH_MS + Math.floor(scheduler.nowMs),
          after: (delayMs, task) => scheduler.after(delayMs, "database", task),
        },
        plan: planCall,
        plants: plantsOf(plant),
      }),
    );
  }
  const network = buildNetwork(scheduler, scheduler.random.stream("bus"));
  network.deliversOnce = deliversOnce;
  const registry = buildRegistry(scheduler, scheduler.random.stream("registry"));
  const violations: string[] = [];
  const stream = buildStream({
    scheduler,
    random: scheduler.random.stream("stream"),
    onStored: publisherCrashes(scheduler, faults, (name) => crashCaller(name)),
    count,
    isAckIgnored: plant === "cursorBeforeAck",
  });
  const cluster = buildCluster({
    scheduler,
    network,
    registry,
    databases,
    hosts: plan.hosts,
    gateways: plan.gateways,
    laneCount: plan.laneCount,
    isAlone,
    isBusOrdered: !faults.kinds.has("shuffling bus"),
    openRelayStore: (host, database) =>
      buildSimulatedRelayStore(database, callerOf(host), (cursor) => {
        const ahead = aheadOf(database, cursor, stream);
        if (ahead !== null) violations.push(ahead);
      }),
    openSink: (host) => stream.connect(host),
    wrapJournal(journal, thread, database) {
      if (plant === "replyBeforeCommit") return replyBeforeCommit(journal, thread);
      if (plant === "lookupOutsideTransaction") return claimAtOnce(journal, thread, database);
      return counted(journal, count, (transfers) => bank.reserving(transfers));
    },
    wrapLanes: (start) =>
      plant === "rejectionLate" ? withLateRejections(start, scheduler) : start,
    calmUntilMs: faults.beginMs,
    onProblem: (text) => void violations.push(text),
    count,
  });

  function crashCaller(name: string): void {
    const member = cluster.hosts.find((host) => name.startsWith(`${host.name}.`));
    if (member?.run?.process.name !== name.split("/")[0]) return;
    cluster.crashHost(member!);
    scheduler.after(random.between(20, 4_000), "restart", () => cluster.startHost(member!));
  }

  const bank = buildBank({
    scheduler,
    cluster,
    recorder,
    callers: plan.callers,
    wallets: plan.wallets,
    commands: plan.commands,
    lengthMs: faults.healMs,
    isEmpty: (walletId) =>
      databases.some(({ tables }) => tables.wallets.get(walletId)?.balanceMinor === 0),
    count,
  });
  const subscribers = buildSubscribers({
    scheduler,
    cluster,
    recorder,
    count: plan.subscribers,
    walletIds: bank.walletIds,
  });

  scheduler.trace("world", describePlan(plan, faults));
  for (const gateway of cluster.gateways) cluster.startGateway(gateway);
  for (const host of cluster.hosts) {
    const atMs = random.pick([0, 0, 50, 50, 50, 3_000]);
    scheduler.after(atMs, "start", () => cluster.startHost(host));
  }
  scheduler.after(300, "callers begin", () => {
    bank.start();
    subscribers.start();
  });
  unleash({ scheduler, network, registry, databases, cluster, stream, plan: faults, blind, count });

  // Where our own code lets an error go, a real process would end.
  const broken = (error: unknown): void => scheduler.fail(error);
  process.on("unhandledRejection", broken).on("uncaughtException", broken);
  try {
    await scheduler.run(faults.healMs);
    bank.stop();
    subscribers.readAll();
    const world = { scheduler, network, bank, cluster, databases, recorder, stream, violations };
    await quieten(world);
    violations.push(...(await checkMemories(world)));
    await quieten({ ...world, isResolved: true });
  } catch (error) {
    violations.push(error instanceof Error ? (error.stack ?? error.message) : String(error));
  } finally {
    process.off("unhandledRejection", broken).off("uncaughtException", broken);
  }
  if (violations.length === 0) {
    violations.push(...checkBooks(databases, asRecorded(databases, recorder)));
    violations.push(...checkRejections(databases, recorder));
    violations.push(...checkDryRuns(databases, recorder));
    violations.push(...checkRelay(databases, stream));
  }
  for (const { tables } of databases) {
    for (const { status, holdId } of tables.transfers.values()) {
      count(`${holdId === null ? "transfers" : "captures"}: ${status}`);
    }
    for (const { type, data, transferId } of tables.events) {
      if (type === "WalletClosed") count("wallets: closed");
      const hold = data?.["hold"] as Hold | undefined;
      if (type !== "TransferReturned" || hold === undefined) continue;
      const { isHoldFinal } = tables.transfers.get(transferId!)!;
      count(`${isHoldFinal ? "final captures" : "captures"} returned to a hold: ${hold.status}`);
    }
    for (const { status } of tables.holds.values()) count(`holds: ${status}`);
  }
  return {
    seed,
    violations,
    digest: scheduler.digest,
    events: scheduler.events,
    virtualMs: scheduler.nowMs,
    commands: recorder.entries.length,
    commits: databases.reduce((sum, { tables }) => sum + tables.events.length, 0),
    lines: scheduler.lines,
    counts,
    plan: describePlan(plan, faults),
  };
}

function describePlan(plan: object, { kinds, beginMs, healMs }: FaultPlan): string {
  const faults = kinds.size === 0 ? "no faults" : [...kinds].join(", ");
  return `${JSON.stringify(plan)} ${beginMs} to ${healMs.toFixed(0)} ms: ${faults}`;
}

// --- After the faults ----------------------------------------------------------------------------

interface Quietening {
  readonly scheduler: Scheduler;
  readonly network: Network;
  readonly bank: Bank;
  readonly cluster: Cluster;
  readonly databases: readonly SimulatedDatabase[];
  readonly recorder: Recorder;
  readonly stream: Stream;
  readonly violations: string[];
  /** Callers have got what was open already. */
  readonly isResolved?: true;
}

/** Lets callers finish, resolves what is open, and waits until nothing is left to do or to tell. */
async function quieten(world: Quietening): Promise<void> {
  const { scheduler, bank, violations } = world;
  const untilMs = scheduler.nowMs + QUIET_WITHIN_MS;
  let isResolving = world.isResolved === true;
  for (;;) {
    await scheduler.run(LOOK_MS);
    if (bank.isDone && !isResolving) {
      isResolving = true;
      bank.resolve();
      continue;
    }
    const isOver = scheduler.nowMs >= untilMs;
    if (!isResolving && !isOver) continue;
    const unrest = unrestOf(world);
    if (isResolving && unrest.length === 0) return;
    if (!isOver) continue;
    violations.push(`it does not get quiet: ${unrest.slice(0, 8).join("; ")}`);
    return;
  }
}

function unrestOf(world: Quietening): string[] {
  const { scheduler, network, bank, cluster, databases, recorder, stream } = world;
  const unrest: string[] = [];
  if (!bank.isDone) unrest.push(...bank.open().map((entry) => `${entry} has no outcome`), "busy");
  const served = new Map<number, string>();
  const atWork: string[] = [];
  for (const { name, run } of cluster.hosts) {
    const status = run?.host.status();
    if (status?.ready !== true) unrest.push(`${name} is not ready`);
    else if (status.shards.length > 0) atWork.push(run!.process.name);
    for (const shard of status?.shards ?? []) {
      if (served.has(shard)) unrest.push(`${name} and ${served.get(shard)} serve shard ${shard}`);
      served.set(shard, name);
      unrest.push(...strangersAt(network, SUBJECTS.shard(shard), [run!.process.name]));
    }
    for (const lane of status?.lanes ?? []) {
      const { pendingTransfers, mailboxDepth, outstanding, actors } = lane;
      const awake = LIMITS.actorIdleMs < LOOK_MS ? actors : 0;
      if (pendingTransfers + mailboxDepth + outstanding + awake === 0) continue;
      unrest.push(`${name} ${lane.name} has ${JSON.stringify(lane)}`);
    }
  }
  unrest.push(...strangersAt(network, SUBJECTS.serving, atWork));
  if (served.size < 256) unrest.push(`${256 - served.size} shards are served by nobody`);
  const heads = new Map<string, number>();
  for (const { tables } of databases) {
    for (const { transferId, status } of tables.transfers.values()) {
      if (status === "pending") unrest.push(`transfer ${transferId} is pending`);
    }
    for (const { walletId, version } of tables.wallets.values()) heads.set(walletId, version);
    const nowMs = EPOCH_MS + scheduler.nowMs;
    for (const hold of tables.holds.values()) {
      if (isDue(hold, nowMs - EXPIRES_WITHIN_MS)) unrest.push(`hold ${hold.holdId} is not expired`);
    }
  }
  unrest.push(...relayUnrest(databases, stream));
  for (const { subscriber, walletId, from, frames, isOpen } of recorder.feeds) {
    const head = heads.get(walletId);
    const latest = frames.at(-1)?.frame.version ?? from;
    if (!isOpen || head === undefined || latest === head) continue;
    unrest.push(`${subscriber} has ${walletId}:${latest ?? "nothing"}, not ${head}`);
  }
  return unrest;
}

/**
 * A subscription that outlives what it was for says "not here" to every command, beside the answer
 * of whoever is there.
 */
function strangersAt(network: Network, subject: string, wanted: readonly string[]): string[] {
  const found = network.subscribers(subject).toSorted().join(", ");
  const right = wanted.toSorted().join(", ");
  return found === right ? [] : [`${subject} is heard by ${found || "nobody"}, not by ${right}`];
}

/**
 * A command without a key carries no fingerprint at first, and has one when its caller repeats it
 * under the id that it was told. Either may be the one that was written.
 */
function asRecorded(
  databases: readonly SimulatedDatabase[],
  { entries, feeds }: Recorder,
): History {
  const written = new Map<string, string | null>();
  for (const { tables } of databases) {
    for (const row of [...tables.events, ...tables.rejections.values()]) {
      if (row.commandId !== null) written.set(row.commandId, row.fingerprint);
    }
  }
  return {
    feeds,
    entries: entries.map((entry) => {
      const { command } = entry;
      const fingerprint = written.get(command.commandId);
      const isRepeats = command.fingerprint === null && fingerprint === fingerprintOf(command);
      return isRepeats ? { ...entry, command: { ...command, fingerprint } } : entry;
    }),
  };
}

function counted(
  journal: Journal,
  count: (what: string) => void,
  onReserve: (transfers: readonly Transfer[]) => void,
): Journal {
  return {
    ...journal,
    async append(writes) {
      if (writes.transfers.length > 0) onReserve(writes.transfers);
      const result = await journal.append(writes);
      count(`appends: ${result.type}`);
      return result;
    },
  };
}
