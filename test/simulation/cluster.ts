/**
 * The simulated cluster's processes: hosts and gateways made of the real parts, with the simulated
 * ports under them. Each has a name for life and runs that come and go: it starts, leaves in order,
 * or crashes at any moment and comes back as a new run with nothing but its name. Its machine's
 * clock stays with the name.
 *
 *     down --start--> up --leave--> leaving --handed over--> down
 *                      \--crash-------\--crash--> down
 */
import { buildHost, type Host } from "../../actors/host.ts";
import type { StartLane } from "../../actors/lane-thread.ts";
import { buildRelay, type Relay } from "../../actors/relay.ts";
import type { RelaySink } from "../../actors/relay-sink.ts";
import { buildAnswers, type GiveAnswer } from "../../gateway/answers.ts";
import { buildCommandDesk, type CommandDesk } from "../../gateway/commands.ts";
import { buildFeedHub, type FeedHub } from "../../gateway/feed/feed.ts";
import type { Journal, Writes } from "../../src/core/journal.ts";
import type { RelayStore } from "../../src/core/relay-store.ts";
import type { CommandMessage } from "../../src/core/protocol.ts";
import { buildBatchDoor, type BatchDoor } from "./batches.ts";
import { watchCalm } from "./calm.ts";
import type { Network, SimulatedBus } from "./bus.ts";
import { buildSimulatedShardTable, type Caller, type SimulatedDatabase } from "./database.ts";
import { buildSimulatedReads } from "./reads.ts";
import { buildLanes, type SimulatedLanes } from "./lanes.ts";
import type { Registry } from "./membership.ts";
import type { Process, Scheduler } from "./scheduler.ts";

export interface HostMember {
  readonly name: string;
  state: "down" | "up" | "leaving";
  run: HostRun | null;
}

export interface HostRun {
  readonly owner: string;
  readonly process: Process;
  readonly bus: SimulatedBus;
  readonly lanes: SimulatedLanes;
  readonly host: Host;
  readonly relay: Relay;
}

export interface GatewayMember {
  readonly name: string;
  state: "down" | "up" | "leaving";
  run: GatewayRun | null;
}

export interface GatewayRun {
  readonly process: Process;
  readonly bus: SimulatedBus;
  readonly desk: CommandDesk;
  readonly hub: FeedHub;
  readonly giveAnswer: GiveAnswer;
  readonly batches: BatchDoor;
  /** Told when the process is gone, and with it every connection to it. */
  readonly onEnd: Set<() => void>;
}

export interface ClusterDeps {
  readonly scheduler: Scheduler;
  readonly network: Network;
  readonly registry: Registry;
  readonly databases: readonly SimulatedDatabase[];
  readonly hosts: number;
  readonly gateways: number;
  readonly laneCount: number;
  /** One host without membership, as in one process. */
  readonly isAlone: boolean;
  /** Whether messages of one connection keep their order, as they do with NATS. */
  readonly isBusOrdered: boolean;
  /** Stands between a lane and its journal. */
  readonly wrapJournal: (journal: Journal, thread: Process, database: SimulatedDatabase) => Journal;
  /** Stands between a host and its lanes. */
  readonly wrapLanes: (start: StartLane) => StartLane;
  readonly openRelayStore: (process: Process, database: SimulatedDatabase) => RelayStore;
  /** Where the events of a host go. */
  readonly openSink: (process: Process) => RelaySink;
  /** Until then nothing goes wrong. */
  readonly calmUntilMs: number;
  /**
   * Told when a command is not answered in the calm, and when a host asks for somebody to mend
   * something: here nothing is ever broken.
   */
  readonly onProblem: (text: string) => void;
  /** Counts what the run has met. */
  readonly count: (what: string) => void;
}

export interface Cluster {
  readonly hosts: readonly HostMember[];
  readonly gateways: readonly GatewayMember[];
  startHost(member: HostMember): void;
  crashHost(member: HostMember): void;
  /** Returns the process that lives on beside the new one, if there is one. */
  replaceHost(member: HostMember): Process | null;
  leaveHost(member: HostMember): void;
  startGateway(member: GatewayMember): void;
  crashGateway(member: GatewayMember): void;
  leaveGateway(member: GatewayMember): void;
  stepClock(member: HostMember | GatewayMember, byMs: number): void;
  /** Sets its clock right: a hold ends by the clock of its host. */
  rightClock(member: HostMember | GatewayMember): void;
}

export function buildCluster(deps: ClusterDeps): Cluster {
  const { scheduler, network, registry, databases } = deps;
  const random = scheduler.random.stream("cluster");
  const skews = new Map<string, number>();
  const runs = new Map<string, number>();

  function begin(name: string): Process {
    const run = (runs.get(name) ?? 0) + 1;
    runs.set(name, run);
    if (!skews.has(name)) skews.set(name, random.between(-800, 800));
    return scheduler.process(`${name}.${run}`, skews.get(name));
  }

  function logOf(process: Process) {
    return {
      info(text: string) {
        const handOff = /shards (taken|handed over|lost)/.exec(text);
        if (handOff !== null) deps.count(`shards: ${handOff[1]!}`);
        process.trace(text);
      },
      warn: (text: string) => process.trace(text),
      error(text: string) {
        process.trace(text);
        deps.onProblem(`${process.name} calls for somebody: ${text}`);
      },
      fatal(text: string) {
        process.trace(`FATAL ${text}`);
      },
    };
  }

  // --- Hosts ---

  function startHost(member: HostMember): void {
    if (member.state !== "down") return;
    const process = begin(member.name);
    process.trace("starts");
    const owner = `${member.name}:${random.uuid()}`;
    const bus = network.connect(process);
    const lanes = buildLanes({
      scheduler,
      process,
      random: random.stream(process.name),
      // Hosts with and without it work together.
      shortcut: random.stream(`shortcut of ${process.name}`).chance(0.5),
      // Commits are small here: one behind another whenever there is anything, seldom, or never.
      commitBehindMessagesMin: random.stream(`commits of ${process.name}`).pick([1, 3, Infinity]),
      openJournal(plan, thread) {
        const database = databases[plan.database]!;
        const journal = database.journal(callerOf(thread));
        return withCleanWrites(deps.wrapJournal(journal, thread, database));
      },
      onCrash(error, thread) {
        thread.trace(`an invariant is broken: ${String(error)}`);
        scheduler.fail(new BrokenInvariant(thread.name, error));
      },
    });
    const log = logOf(process);
    const stores = databases.map((database) => deps.openRelayStore(process, database));
    const relay = buildRelay({ stores, time: process.time, log });
    const host = buildHost({
      bus,
      relay,
      shardTable: buildSimulatedShardTable(databases, callerOf(process)),
      membership: deps.isAlone ? null : registry.connect(process),
      startLane: deps.wrapLanes(lanes.start),
      databases: databases.length,
      laneCount: deps.laneCount,
      hostId: member.name,
      owner,
      time: process.time,
      log,
      onFatal() {
        process.trace("ends, since a lane cannot be kept alive");
        if (member.run?.process === process) crashHost(member);
        else process.kill();
      },
    });
    member.run = { owner, process, bus, lanes, host, relay };
    member.state = "up";
    // In the process, so that what it does first is part of it, too.
    process.after(0, "start", () => {
      void host.start();
      relay.add(deps.openSink(process));
    });
  }

  function crashHost(member: HostMember): void {
    if (member.run === null) return;
    member.run.process.trace("crashes");
    member.run.process.kill();
    member.run = null;
    member.state = "down";
  }

  /**
   * Another run begins under the same name while the one before still lives: that one is nobody's
   * any more.
   */
  function replaceHost(member: HostMember): Process | null {
    const former = member.run?.process ?? null;
    former?.trace("has a successor under its name");
    member.run = null;
    member.state = "down";
    startHost(member);
    return former;
  }

  function leaveHost(member: HostMember): void {
    const { run } = member;
    if (run === null || member.state !== "up") return;
    member.state = "leaving";
    run.process.trace("is told to leave");
    run.process.after(0, "leave", () => {
      void run.host
        .drain()
        .then(() => run.relay.stop())
        .then(() => run.bus.drain())
        .then(() => {
          run.process.trace("has left");
          run.process.kill();
          if (member.run !== run) return;
          member.run = null;
          member.state = "down";
        });
    });
  }

  // --- Gateways ---

  function startGateway(member: GatewayMember): void {
    if (member.state !== "down") return;
    const process = begin(member.name);
    process.trace("starts");
    const bus = network.connect(process);
    const readModel = buildSimulatedReads(databases, callerOf(process));
    const clock = { nowMs: () => scheduler.nowMs };
    const log = {
      warn: (_details: object, text: string) => process.trace(text),
      error: (details: { err?: unknown }, text: string) => {
        process.trace(`ERROR ${text}: ${String(details.err)}`);
        scheduler.fail(new BrokenInvariant(process.name, details.err));
      },
    };
    /** Commands that the desk has sent again. */
    const resent = new Set<string>();
    const { calmUntilMs: untilMs, onProblem } = deps;
    const calm = watchCalm({ bus, scheduler, untilMs, onProblem });
    const desk = buildCommandDesk({
      bus: {
        ...bus,
        subscribe: calm.subscribe,
        get state() {
          return bus.state;
        },
        publish(subject, message, onUndelivered) {
          for (const { attempt, command } of message as readonly CommandMessage[]) {
            if (attempt > 1) resent.add(command.commandId);
          }
          calm.publish(subject, message, onUndelivered);
        },
      },
      gatewayId: `${member.name}-${runs.get(member.name)}`,
      clock,
      schedule: process.time,
      log,
    });
    const hub = buildFeedHub({
      bus,
      readModel,
      databases: databases.length,
      clock,
      timers: process.time,
      log: log as never,
    });
    const giveAnswer = buildAnswers({ readModel, log });
    const batches = buildBatchDoor({
      process,
      desk,
      giveAnswer,
      log,
      clock,
      wasResent: ({ commandId }) => !deps.isBusOrdered || resent.has(commandId),
      onProblem: (text) => scheduler.fail(new BrokenInvariant(process.name, text)),
    });
    member.run = { process, bus, desk, hub, giveAnswer, batches, onEnd: new Set() };
    member.state = "up";
  }

  function crashGateway(member: GatewayMember): void {
    if (member.run === null) return;
    member.run.process.trace("crashes");
    endGateway(member, member.run);
  }

  function endGateway(member: GatewayMember, run: GatewayRun): void {
    run.process.kill();
    for (const listener of run.onEnd) listener();
    if (member.run !== run) return;
    member.run = null;
    member.state = "down";
  }

  function leaveGateway(member: GatewayMember): void {
    const { run } = member;
    if (run === null || member.state !== "up") return;
    member.state = "leaving";
    run.process.trace("is told to leave");
    run.process.after(0, "leave", () => {
      void run.batches
        .drain()
        .then(() => Promise.all([run.desk.drain(), run.hub.drain()]))
        .then(() => run.bus.drain())
        .then(() => endGateway(member, run));
    });
  }

  function stepClock(member: HostMember | GatewayMember, byMs: number): void {
    skews.set(member.name, (skews.get(member.name) ?? 0) + byMs);
    member.run?.process.trace(`its clock is set by ${byMs.toFixed(0)} ms`);
    member.run?.process.stepClock(byMs);
  }

  return {
    hosts: names("host", deps.hosts).map((name) => ({ name, state: "down", run: null })),
    gateways: names("gateway", deps.gateways).map((name) => ({ name, state: "down", run: null })),
    startHost,
    crashHost,
    replaceHost,
    leaveHost,
    startGateway,
    crashGateway,
    leaveGateway,
    stepClock,
    rightClock(member) {
      const skewMs = skews.get(member.name);
      if (skewMs !== undefined) stepClock(member, -skewMs);
    },
  };
}

/** Our own code found that something is not as it must be. */
class BrokenInvariant extends Error {
  override readonly name = "BrokenInvariant";
  constructor(where: string, error: unknown) {
    super(`${where}: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
  }
}

function names(prefix: string, count: number): string[] {
  return Array.from({ length: count }, (_, index) => `${prefix}-${index + 1}`);
}

export function callerOf(process: Process): Caller {
  return {
    name: process.name,
    deliver: (answer) => void process.after(0, "database answers", answer),
  };
}

/** A lane hands over its whole commit, of which only this is for the journal. */
function withCleanWrites(journal: Journal): Journal {
  return {
    ...journal,
    append(writes) {
      const { events, wallets, rejections, lookups, verdictLookups } = writes;
      const { transfers, verdicts, settled, holds, fence, order } = writes;
      const clean: Writes = {
        events,
        wallets,
        rejections,
        lookups: lookups.map(({ walletId, commandId }) => ({ walletId, commandId })),
        verdictLookups,
        transfers,
        verdicts,
        settled,
        holds,
        fence,
        order,
      };
      return journal.append(clean);
    },
  };
}
