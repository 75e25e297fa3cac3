/**
 * Chaos on real processes: a bank at work over HTTP and NATS, feeds and readers that watch it, and
 * faults that hit whatever is there. It goes in rounds: faults for a while, then everything is
 * healed, the bank must go on by itself, what is unknown is resolved under its key, and the whole
 * record is held against PostgreSQL. Each round has wallets of its own, so that a record stays
 * small enough to be checked and a violation is near its fault. The databases and the event stream
 * are checked as a whole.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { startCluster, type LocalCluster } from "../cluster/local-cluster.ts";
import { isGame, type BankCommand } from "../stage/bank-wire.ts";
import {
  askOverHttp,
  buildWorkload,
  checkBank,
  checkOverHttp,
  type Ask,
  type AskBatch,
  type BankAnswer,
  type Workload,
} from "../stage/workload.ts";
import { checkExpiry, checkVerified } from "./books-check.ts";
import { FAULT_KINDS, inject, planFaults, type FaultKind } from "./faults.ts";
import { recordFeed, type FeedRecorder } from "./feed-recorder.ts";
import { checkObservers } from "./history-check.ts";
import { askOverNats, type NatsAsk } from "./nats-ask.ts";
import { startReader, type Reader } from "./reader.ts";
import { checkStream, type StreamReport } from "./stream-check.ts";
import { buildTeller, COMMAND_KINDS, type Teller } from "./teller.ts";

export interface ChaosOptions {
  readonly seed: number;
  /** Faults of a round begin within this time. */
  readonly roundMs: number;
  /** No further round begins after this time; 0: one round. */
  readonly totalMs?: number;
  readonly hosts?: number;
  readonly gateways?: number;
  readonly databases?: number;
  readonly kinds?: readonly FaultKind[];
  readonly gapMs?: readonly [number, number];
  readonly lastsMsMax?: number;
  readonly callers?: number;
  readonly wallets?: number;
  readonly pauseMs?: number;
  /** A line for each thing that happens, with the milliseconds since the start. */
  readonly log: (line: string) => void;
}

export interface ChaosReport {
  /** What must not be; at best nothing. Names the seed. */
  readonly problems: readonly string[];
  readonly rounds: number;
  readonly answers: Readonly<Record<BankAnswer["type"], number>>;
  readonly faults: ReadonlyMap<FaultKind, number>;
  /** Answers of "done", by kind; those of dry runs have none. */
  readonly done: ReadonlyMap<BankCommand["kind"], number>;
  readonly commands: number;
  /** Sent, repeats included. */
  readonly batches: number;
  readonly dryRuns: number;
  /** Messages of the event stream, and events in the databases, when both were compared last. */
  readonly streamMessages: number;
  readonly streamEvents: number;
  /** Of them: holds that ended by themselves. */
  readonly expired: number;
  readonly frames: number;
  readonly feedConnections: number;
  readonly reads: number;
  /** The longest time in which no caller at all got an acknowledgement. */
  readonly silenceMs: number;
  /** The longest time from the last mended fault until every process said that it is ready. */
  readonly healMs: number;
  /** The ends of the outputs of the cluster's processes; for whoever looks into a problem. */
  readonly outputs: ReadonlyMap<string, string>;
}

export interface Chaos {
  /** Numbers so far. */
  report(): ChaosReport;
  /**
   * Resolves when all rounds are over, the first one with a problem being the last, and the cluster
   * is gone.
   */
  readonly done: Promise<ChaosReport>;
}

const HEAL_MS_MAX = 30_000;
const INITIAL_MINOR = 3_000;
/** Acknowledged commands that prove that the bank goes on. */
const PROGRESS = 100;
const KINDS_MS_MAX = 30_000;
const LOOK_MS = 20;

export function startChaos(options: ChaosOptions): Chaos {
  const startedAtMs = performance.now();
  const tally = buildTally();
  const log = (line: string): void => {
    const atMs = Math.round(performance.now() - startedAtMs).toLocaleString("en-US");
    options.log(`${atMs.padStart(9)} ms  ${line}`);
  };
  return { report: () => tally.report(), done: runRounds(options, tally, log) };
}

async function runRounds(
  options: ChaosOptions,
  tally: Tally,
  log: (line: string) => void,
): Promise<ChaosReport> {
  const { seed, totalMs = 0, hosts = 3, gateways = 2, databases = 1 } = options;
  const startedAtMs = performance.now();
  const cluster = await startCluster({
    hosts,
    gateways,
    databases,
    onDeath({ id, output }, exit) {
      tally.problems.push(`${id} died by itself: ${JSON.stringify(exit)}\n${tailOf(output)}`);
    },
  });
  log(`${hosts} hosts, ${gateways} gateways and ${databases} database(s) run; seed ${seed}`);
  let nats: NatsAsk | undefined;
  try {
    nats = await askOverNats(cluster.nats.url);
    do {
      tally.rounds += 1;
      await runRound({ ...options, seed: seed + tally.rounds - 1 }, cluster, nats, tally, log);
    } while (tally.problems.length === 0 && performance.now() - startedAtMs < totalMs);
  } catch (error) {
    tally.problems.push(error instanceof Error ? (error.stack ?? error.message) : String(error));
  } finally {
    for (const { id, output } of [...cluster.hosts, ...cluster.gateways]) {
      tally.outputs.set(id, output);
    }
    await nats?.close();
    await cluster.stop();
  }
  log("everything has ended");
  if (tally.problems.length > 0) {
    const own = seed + tally.rounds - 1;
    tally.problems.unshift(`in round ${tally.rounds}, which seed ${own} begins with`);
  }
  return tally.report();
}

async function runRound(
  options: ChaosOptions,
  cluster: LocalCluster,
  nats: NatsAsk,
  tally: Tally,
  log: (line: string) => void,
): Promise<void> {
  const { seed, roundMs, kinds = FAULT_KINDS, gapMs, lastsMsMax } = options;
  const { callers = 12, wallets = 24, pauseMs = 20 } = options;
  const ports = cluster.gateways.map(({ port }) => port);
  const http = askOverHttp(...ports);
  const name = `round-${tally.rounds}`;
  // Caller by caller: the gateways in turn, then NATS.
  const ways = ports.length + 1;
  const isOverNats = (caller: number): boolean => caller % ways === ports.length;
  const ask: Ask = (command, caller) =>
    isOverNats(caller) && !isGame(command) ? nats(command, caller) : http(command, caller);
  const askBatch: AskBatch = (batch, caller) => {
    tally.batches += 1;
    return isOverNats(caller) ? nats.batch(batch, caller) : http.batch(batch, caller);
  };
  const teller = buildTeller(name, INITIAL_MINOR);
  const bank = buildWorkload({
    ask,
    askBatch,
    nextTurn: teller.nextTurn,
    onAnswer(command, answer) {
      teller.learn(command, answer);
      tally.count(command, answer);
    },
    name,
    callers,
    wallets,
    pauseMs,
    seed,
    initialMinor: INITIAL_MINOR,
  });
  const feeds: FeedRecorder[] = [];
  const readers: Reader[] = [];
  try {
    await bank.open();
    for (const [index, port] of ports.entries()) {
      const { walletIds } = bank;
      const places = { port, walletIds };
      feeds.push(recordFeed({ ...places, name: `start-${index + 1}`, isFromStart: true }));
      const dropEveryMs = 2_900 + index * 1_300;
      feeds.push(
        recordFeed({ ...places, name: `restless-${index + 1}`, isFromStart: false, dropEveryMs }),
      );
    }
    for (const port of ports) readers.push(startReader({ port, bank, feeds }));
    tally.begin(feeds, readers);
    bank.start();
    await bank.progress(PROGRESS);
    log(`${name}: ${callers} callers at work on ${wallets} wallets; faults begin`);
    const faults = planFaults({
      seed,
      durationMs: roundMs,
      kinds,
      ...(gapMs === undefined ? {} : { gapMs }),
      ...(lastsMsMax === undefined ? {} : { lastsMsMax }),
    });
    await inject({ cluster, faults, log, onFault: (kind) => tally.fault(kind) });
    const mendedAtMs = Date.now();
    await cluster.untilReady(HEAL_MS_MAX);
    const healMs = Date.now() - mendedAtMs;
    tally.healMs = Math.max(tally.healMs, healMs);
    log(`${name}: all mended, and all ready after ${Math.round(healMs)} ms`);
    await bank.progress(PROGRESS);
    await untilEachKind(teller);
    await bank.stop();
    await bank.resolve();
    tally.commands += bank.entries.length;
    tally.problems.push(...(await check(cluster, bank, feeds, readers, mendedAtMs)));
    const stream = await checkStream(cluster.nats.url, cluster.databaseUrls);
    tally.problems.push(...stream.problems);
    tally.stream = stream;
    log(
      `${name}: ${bank.entries.length} commands and ${stream.events} events checked, ` +
        `${tally.problems.length} problems`,
    );
  } finally {
    tally.end();
    await bank.stop();
    for (const reader of readers) await reader.stop();
    for (const feed of feeds) feed.close();
    http.close();
  }
}

/** A round in which some kind of command was never carried out has shown nothing about it. */
async function untilEachKind({ done }: Teller): Promise<void> {
  const deadlineMs = performance.now() + KINDS_MS_MAX;
  for (;;) {
    const missing = COMMAND_KINDS.filter((kind) => !done.has(kind));
    if (missing.length === 0) return;
    if (performance.now() > deadlineMs) throw new Error(`never done: ${missing.join(", ")}`);
    await sleep(LOOK_MS);
  }
}

async function check(
  cluster: LocalCluster,
  bank: Workload,
  feeds: readonly FeedRecorder[],
  readers: readonly Reader[],
  mendedAtMs: number,
): Promise<string[]> {
  await Promise.all(readers.map((reader) => reader.stop()));
  const { databaseUrls, gateways, hosts } = cluster;
  const problems: string[] = await checkExpiry(databaseUrls, mendedAtMs);
  for (const { port } of gateways) problems.push(...(await checkOverHttp(port, bank)));
  problems.push(...(await checkBank(databaseUrls, bank)));
  problems.push(...(await checkVerified(databaseUrls)));
  const reads = readers.flatMap((reader) => reader.samples);
  problems.push(...readers.flatMap((reader) => reader.problems));
  problems.push(...(await checkObservers(databaseUrls, bank.walletIds, feeds, reads)));
  for (const { id, output } of [...hosts, ...gateways]) {
    const fatal = output.split("\n").find((line) => line.includes('"level":60'));
    if (fatal !== undefined) problems.push(`${id} wrote ${fatal}`);
  }
  return problems;
}

// --- Numbers -------------------------------------------------------------------------------------

interface Tally {
  readonly problems: string[];
  readonly outputs: Map<string, string>;
  rounds: number;
  healMs: number;
  commands: number;
  batches: number;
  stream: Omit<StreamReport, "problems">;
  /** What watches now; its numbers are added when the round ends. */
  begin(feeds: readonly FeedRecorder[], readers: readonly Reader[]): void;
  end(): void;
  fault(kind: FaultKind): void;
  count(command: BankCommand, answer: BankAnswer): void;
  report(): ChaosReport;
}

/** Counts over all rounds. */
function buildTally(): Tally {
  const answers = { acknowledged: 0, rejected: 0, unavailable: 0, unknown: 0, wrong: 0 };
  const faults = new Map<FaultKind, number>();
  const done = new Map<BankCommand["kind"], number>();
  let dryRuns = 0;
  const seen = { frames: 0, feedConnections: 0, reads: 0 };
  let feedsNow: readonly FeedRecorder[] = [];
  let readersNow: readonly Reader[] = [];
  let silenceMs = 0;
  /** Null between rounds, when nobody asks. */
  let acknowledgedAtMs: number | null = null;

  function seenSoFar(): typeof seen {
    const sum = (numbers: readonly number[]): number =>
      numbers.reduce((total, number) => total + number, 0);
    return {
      frames: seen.frames + sum(feedsNow.map(({ frames }) => frames.length)),
      feedConnections: seen.feedConnections + sum(feedsNow.map(({ connections }) => connections)),
      reads: seen.reads + sum(readersNow.map(({ answered }) => answered)),
    };
  }

  const tally: Tally = {
    problems: [],
    outputs: new Map(),
    rounds: 0,
    healMs: 0,
    commands: 0,
    batches: 0,
    stream: { messages: 0, events: 0, expired: 0 },
    begin(feeds, readers) {
      feedsNow = feeds;
      readersNow = readers;
      acknowledgedAtMs = performance.now();
    },
    end() {
      Object.assign(seen, seenSoFar());
      feedsNow = [];
      readersNow = [];
      acknowledgedAtMs = null;
    },
    fault: (kind) => void faults.set(kind, (faults.get(kind) ?? 0) + 1),
    count({ kind, isDry }, answer) {
      if (isDry === true) {
        dryRuns += 1;
        return;
      }
      answers[answer.type] += 1;
      if (answer.type !== "acknowledged") return;
      done.set(kind, (done.get(kind) ?? 0) + 1);
      if (acknowledgedAtMs !== null) {
        const nowMs = performance.now();
        silenceMs = Math.max(silenceMs, nowMs - acknowledgedAtMs);
        acknowledgedAtMs = nowMs;
      }
    },
    report: () => ({
      problems: tally.problems,
      rounds: tally.rounds,
      answers,
      faults,
      done,
      commands: tally.commands,
      batches: tally.batches,
      dryRuns,
      streamMessages: tally.stream.messages,
      streamEvents: tally.stream.events,
      expired: tally.stream.expired,
      ...seenSoFar(),
      silenceMs,
      healMs: tally.healMs,
      outputs: tally.outputs,
    }),
  };
  return tally;
}

function tailOf(output: string): string {
  return output.trimEnd().split("\n").slice(-10).join("\n");
}
