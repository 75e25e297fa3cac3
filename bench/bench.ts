/**
 * `npm run bench`: measures Coffer beside what a user would pick instead. One PostgreSQL serves
 * all; Coffer and each rival run as processes of their own with databases of their own, and only
 * the one that is measured has work. Rounds go over all shapes and systems, and each round begins
 * with another system, so that what one leaves behind for the database to tidy up does not always
 * hit the same neighbour. Coffer as a cluster is measured beside itself in one process, and
 * transfers also with the two-phase protocol alone. Afterwards the money is counted. It exits with
 * 1 when money is off or Coffer answered with errors; a missed target is shown, but is no error of
 * the run.
 */
import { existsSync } from "node:fs";
import { mkdir, readdir, rm } from "node:fs/promises";
import { dirname, join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { Client } from "pg";
import { startEmbeddedPostgres } from "../src/embedded/embedded-postgres.ts";
import { messageOf } from "../src/message-of.ts";
import { startCluster } from "./cluster.ts";
import { checkCoffer, emptyLedger, keep, type Ledger } from "./conservation.ts";
import {
  chooseGenerator,
  describeGenerator,
  fixedWalletOf,
  measure,
  opsPerSecond,
  partsOf,
  type GeneratorName,
  type LoadPlan,
} from "./generators.ts";
import { HttpConnection } from "./http-client.ts";
import { describeCommit, describeDurability, describeMachine } from "./machine.ts";
import { BENCH_USAGE, UsageError, parseBenchOptions, type BenchOptions } from "./options.ts";
import { startCoffer, startRival, type RunningSystem } from "./processes.ts";
import { judgeRounds, reportText, writeReport, type MeasuredRound } from "./report.ts";
import { checkPostings, seedPostingRival } from "./posting-rival.ts";
import {
  BATCH_CONNECTIONS,
  BATCH_SIZES,
  CLUSTER_HOSTS,
  INITIAL_BALANCE,
  PROTOCOL_SETTINGS,
  SHAPES,
  UNIFORM_WALLETS,
  allWallets,
  isBatch,
  isCluster,
  uniformWallet,
  type Way,
} from "./shapes.ts";
import type { Shape, SystemName } from "./shapes.ts";
import { formatMs, formatWhole } from "./statistics.ts";
import { createWallets, textOf } from "./wallet-api.ts";

const SEED_CONNECTIONS = 32;
/** Rest between two measurements, so that the last one's commits and connections are gone. */
const REST_MS = 500;
const WARM_UP_FRACTION = 0.25;

const compiledFolder = dirname(fileURLToPath(import.meta.url));
const projectFolder = folderWithPackage(compiledFolder);
const resultsFolder = join(projectFolder, "bench", "results");

/** Things to undo at the end, last first. */
type CleanUps = (() => Promise<unknown>)[];

interface Bench {
  options: BenchOptions;
  generator: GeneratorName;
  systems: Partial<Record<SystemName, RunningSystem>>;
  /** What each set-up of Coffer has to account for in the end. */
  books: Map<SystemName, Books>;
  /** Of the rival that has no server of its own. */
  postingsUrl?: string;
  signal: AbortSignal;
}

interface Books {
  port: number;
  database: Client;
  ledger: Ledger;
}

async function main(options: BenchOptions, signal: AbortSignal, cleanUps: CleanUps) {
  const mainFile = join(compiledFolder, "..", "src", "main.js");
  if (!existsSync(mainFile)) throw new Error(`${mainFile} is missing: run npm run build first`);
  const generator = chooseGenerator(options.generator, say);
  const serverUrl = await startPostgres(options, cleanUps);
  const profileFolder = join(resultsFolder, "local", `profile-${Date.now()}`);
  if (options.cpuProf) await mkdir(profileFolder, { recursive: true });
  const profile = options.cpuProf ? { profileFolder } : {};
  const shapes = SHAPES.filter((shape) => options.shapes.includes(shape.name));
  const bench: Bench = { options, generator, systems: {}, books: new Map(), signal };

  const databaseUrl = await createDatabase(serverUrl, "bench_coffer", cleanUps);
  const coffer = await startCoffer({ mainFile, databaseUrl, ...profile });
  cleanUps.push(coffer.stop);
  const database = await addCoffer(bench, "coffer", coffer, databaseUrl, cleanUps);
  const machine = await describeMachine(database, describeGenerator(generator));
  const durability = await describeDurability(database);
  if (shapes.some(({ systems }) => systems.includes("protocol"))) {
    const url = await createDatabase(serverUrl, "bench_protocol", cleanUps);
    const settings = PROTOCOL_SETTINGS;
    const running = await startCoffer({ mainFile, databaseUrl: url, settings, ...profile });
    cleanUps.push(running.stop);
    await addCoffer(bench, "protocol", running, url, cleanUps);
  }
  if (options.rivals && shapes.some(({ systems }) => systems.includes("rowlock"))) {
    Object.assign(bench.systems, await startRivals(options, serverUrl, cleanUps));
  }
  if (options.rivals && shapes.some(({ systems }) => systems.includes("postings"))) {
    bench.postingsUrl = await createDatabase(serverUrl, "bench_postings", cleanUps);
    await seedPostingRival(bench.postingsUrl, UNIFORM_WALLETS, INITIAL_BALANCE * 100);
  }
  const isForClusters = ({ systems }: Shape) => systems.some(isCluster);
  const rounds = await runRounds(
    bench,
    shapes.filter((shape) => !isForClusters(shape)),
  );
  // Clusters come last: their hosts never quite rest, which would disturb the others.
  if (shapes.some(isForClusters)) {
    if (await startClusters(bench, { mainFile, ...profile }, serverUrl, cleanUps)) {
      rounds.push(...(await runRounds(bench, shapes.filter(isForClusters))));
    }
  }
  say("counting the money");
  const conservation = await checkBooks(bench.books);
  if (bench.postingsUrl !== undefined) {
    const rival = await checkPostings(bench.postingsUrl, UNIFORM_WALLETS, INITIAL_BALANCE * 100);
    conservation.ok &&= rival.ok;
    conservation.lines.push(`${rival.ok ? "OK    " : "BROKEN"} ${rival.line}`);
  }
  if (options.cpuProf) {
    for (const { stop } of Object.values(bench.systems)) await stop();
    const profiles = (await readdir(profileFolder)).map((name) => join(profileFolder, name));
    say(["CPU profiles of Coffer:", ...profiles].join("\n  "));
  }
  const report = {
    measuredAt: new Date().toISOString(),
    commit: describeCommit(projectFolder),
    machine,
    durability,
    // Without the address of the server, which holds a password, and with what was really measured.
    options: {
      ...withoutDatabaseUrl(options),
      shapes: shapes
        .map(({ name }) => name)
        .filter((name) => rounds.some((it) => it.shape === name)),
    },
    ...judgeRounds(rounds),
    conservation,
    rounds,
  };
  console.log(reportText(report));
  const files = await writeReport(report, resultsFolder);
  console.log(["", "Written:", ...files].join("\n  "));
  const errors = report.results.some(({ figures }) =>
    (Object.keys(figures) as SystemName[]).some(
      (system) =>
        (isBatch(system) || bench.books.has(system)) && (figures[system]?.errors ?? 0) > 0,
    ),
  );
  return conservation.ok && !errors;
}

/** Fills a set-up of Coffer with its wallets and opens its books. */
async function addCoffer(
  bench: Bench,
  system: SystemName,
  running: RunningSystem,
  databaseUrl: string,
  cleanUps: CleanUps,
): Promise<Client> {
  const database = new Client({ connectionString: databaseUrl });
  await database.connect();
  cleanUps.push(() => database.end());
  const wallets = allWallets();
  say(`creating ${formatWhole(wallets.length)} wallets (${system})`);
  const server = { host: "127.0.0.1", port: running.port };
  await createWallets(server, SEED_CONNECTIONS, wallets, INITIAL_BALANCE * 100, () =>
    bench.signal.throwIfAborted(),
  );
  bench.systems[system] = running;
  bench.books.set(system, { port: running.port, database, ledger: emptyLedger() });
  return database;
}

/**
 * Where they cannot be started, as without NATS and Redis, the run goes on without them, and is no
 * whole run.
 */
async function startClusters(
  bench: Bench,
  start: { mainFile: string; profileFolder?: string },
  serverUrl: string,
  cleanUps: CleanUps,
): Promise<boolean> {
  for (const system of ["one-host", "two-hosts"] as const) {
    say(`starting a cluster: ${system}`);
    const name = `bench_${system.replace("-", "_")}`;
    const databaseUrl = await createDatabase(serverUrl, name, cleanUps);
    try {
      const running = await startCluster(system, CLUSTER_HOSTS[system], { ...start, databaseUrl });
      cleanUps.push(running.stop);
      await addCoffer(bench, system, running, databaseUrl, cleanUps);
    } catch (error) {
      bench.signal.throwIfAborted();
      if (bench.options.shapes.length === 1) throw error;
      say(`the cluster is left out: ${messageOf(error)}`);
      return false;
    }
  }
  return true;
}

async function checkBooks(books: Bench["books"]): Promise<{ ok: boolean; lines: string[] }> {
  const wallets = allWallets();
  const whole = { ok: true, lines: [] as string[] };
  for (const [system, { port, database, ledger }] of books) {
    const verdict = await checkCoffer({ host: "127.0.0.1", port }, wallets, database, ledger);
    whole.ok &&= verdict.ok;
    const title = books.size > 1 ? `${system.padEnd(9)}  ` : "";
    whole.lines.push(...verdict.lines.map((line) => title + line));
  }
  return whole;
}

async function startPostgres(options: BenchOptions, cleanUps: CleanUps): Promise<string> {
  if (options.databaseUrl !== undefined) return options.databaseUrl;
  say("starting PostgreSQL");
  // Under the project, since a folder for temporary files may be in memory, where a commit costs
  // nothing. Always the same one: should a benchmark be killed, the next finds the PostgreSQL that
  // it left running, and stops it.
  const dataDir = join(projectFolder, ".coffer", "bench");
  const postgres = await startEmbeddedPostgres({ dataDir });
  cleanUps.push(() => rm(dataDir, { recursive: true, force: true }), postgres.stop);
  return postgres.url;
}

/** Makes an empty database anew and gives its URL; it is dropped at the end. */
async function createDatabase(serverUrl: string, name: string, cleanUps: CleanUps) {
  const client = new Client({ connectionString: serverUrl });
  await client.connect();
  await client.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
  await client.query(`CREATE DATABASE ${name}`);
  cleanUps.push(async () => {
    await client.query(`DROP DATABASE IF EXISTS ${name} WITH (FORCE)`);
    await client.end();
  });
  const url = new URL(serverUrl);
  url.pathname = `/${name}`;
  return url.href;
}

async function startRivals(options: BenchOptions, serverUrl: string, cleanUps: CleanUps) {
  const serverFile = join(compiledFolder, "rival-server.js");
  const databaseUrl = await createDatabase(serverUrl, "bench_rowlock", cleanUps);
  const { poolSize } = options;
  const rowlock = await startRival(serverFile, { rival: "rowlock", databaseUrl, poolSize });
  cleanUps.push(rowlock.stop);
  const empty = await startRival(serverFile, { rival: "empty" });
  cleanUps.push(empty.stop);
  return { rowlock, empty };
}

async function runRounds(bench: Bench, shapes: readonly Shape[]): Promise<MeasuredRound[]> {
  const rounds: MeasuredRound[] = [];
  for (let round = 1; round <= bench.options.rounds; round += 1) {
    for (const shape of shapes) {
      const present = shape.systems.filter(
        (system) =>
          runningFor(bench, system) !== undefined ||
          (system === "postings" && bench.postingsUrl !== undefined),
      );
      const first = (round - 1) % present.length;
      for (const system of [...present.slice(first), ...present.slice(0, first)]) {
        rounds.push(await runOne(bench, round, shape, system));
        await sleep(REST_MS);
      }
    }
  }
  return rounds;
}

/** Batches go to the same Coffer as everything else. */
function runningFor(bench: Bench, system: SystemName): RunningSystem | undefined {
  return bench.systems[isBatch(system) ? "coffer" : system];
}

function wayOf({ postingsUrl }: Bench, system: SystemName): Way | undefined {
  if (isBatch(system)) return { type: "batches", size: BATCH_SIZES[system] };
  if (system !== "postings" || postingsUrl === undefined) return undefined;
  return { type: "postings", databaseUrl: postingsUrl };
}

async function runOne(
  bench: Bench,
  round: number,
  shape: Shape,
  system: SystemName,
): Promise<MeasuredRound> {
  const running = runningFor(bench, system);
  const way = wayOf(bench, system);
  if (running === undefined && way === undefined) throw new Error(`${system} does not run`);
  const { seconds, rounds, poolSize } = bench.options;
  const connections = isBatch(system)
    ? BATCH_CONNECTIONS
    : system === "postings"
      ? poolSize
      : (shape.connections ?? bench.options.connections);
  const underWay = isBatch(system) ? connections * BATCH_SIZES[system] : connections;
  const plan: LoadPlan = {
    port: running?.port ?? 0,
    ...(way !== undefined && { way }),
    traffic: shape.traffic,
    connections,
    seconds,
    seed: Math.floor(Math.random() * 1_000_000),
  };
  const warmUp = { ...plan, seconds: Math.max(1, Math.round(seconds * WARM_UP_FRACTION)) };
  const title = `round ${round}/${rounds}  ${shape.name.padEnd(13)}  ${system.padEnd(11)}`;
  const generatorFile = way === undefined ? "generator-worker.js" : "batch-generator.js";
  const workerFile = join(compiledFolder, generatorFile);
  const ledger = bench.books.get(isBatch(system) ? "coffer" : system)?.ledger;
  const live = showElapsed(title, warmUp.seconds + seconds);
  try {
    const warmed = await measure(bench.generator, workerFile, warmUp, bench.signal);
    if (ledger !== undefined) keep(ledger, shape.traffic, underWay, warmed);
    const measurement = await measure(bench.generator, workerFile, plan, bench.signal);
    if (ledger !== undefined) keep(ledger, shape.traffic, underWay, measurement);
    running?.assertAlive();
    const errors = measurement.refused + measurement.faults;
    live.end(
      `${formatWhole(opsPerSecond(measurement)).padStart(8)} ops/s  p50 ${formatMs(measurement.p50Ms)} ` +
        `p99 ${formatMs(measurement.p99Ms)} ms` +
        (errors === 0 ? "" : `  ${formatWhole(errors)} errors: ${await probe(plan)}`),
    );
    return { round, shape: shape.name, system, measurement };
  } catch (error) {
    live.end("failed");
    running?.assertAlive();
    throw error;
  }
}

/**
 * Sends one request of the plan and says what came back: generators count errors, but do not read
 * them.
 */
async function probe(plan: LoadPlan): Promise<string> {
  const connection = new HttpConnection("127.0.0.1", plan.port, 5_000);
  const { path, body } = partsOf(plan.traffic);
  try {
    const wallet = fixedWalletOf(plan.traffic) ?? uniformWallet(1);
    const answer = await connection.post(path(wallet), body(uniformWallet(2)));
    return `one more such request is answered ${textOf(answer)}`;
  } catch (error) {
    return messageOf(error);
  } finally {
    connection.close();
  }
}

/**
 * A line that counts up on a terminal and is replaced at the end; elsewhere only the line at the
 * end.
 */
function showElapsed(title: string, totalSeconds: number): { end: (text: string) => void } {
  if (!process.stderr.isTTY) return { end: (text) => say(`${title}  ${text}`) };
  const startMs = performance.now();
  const show = () => {
    const elapsedSeconds = (performance.now() - startMs) / 1_000;
    process.stderr.write(`\r\x1b[K${title}  ${elapsedSeconds.toFixed(1)} of ${totalSeconds} s`);
  };
  show();
  const timer = setInterval(show, 200);
  return {
    end(text) {
      clearInterval(timer);
      process.stderr.write(`\r\x1b[K${title}  ${text}\n`);
    },
  };
}

function withoutDatabaseUrl(options: BenchOptions): BenchOptions {
  const { databaseUrl: _, ...others } = options;
  return others;
}

function folderWithPackage(folder: string): string {
  if (existsSync(join(folder, "package.json"))) return folder;
  const parent = dirname(folder);
  if (parent === folder) throw new Error("package.json is not above this file");
  return folderWithPackage(parent);
}

function say(line: string): void {
  console.error(line);
}

/** Runs with everything undone at the end, also on Ctrl-C. Gives the exit code. */
async function runAndCleanUp(options: BenchOptions): Promise<number> {
  const aborter = new AbortController();
  const abort = () => aborter.abort(new Error("interrupted"));
  process.once("SIGINT", abort).once("SIGTERM", abort);
  const cleanUps: CleanUps = [];
  try {
    return (await main(options, aborter.signal, cleanUps)) ? 0 : 1;
  } catch (error) {
    say(aborter.signal.aborted ? "interrupted" : messageOf(error));
    return aborter.signal.aborted ? 130 : 1;
  } finally {
    for (const cleanUp of cleanUps.toReversed()) {
      await cleanUp().catch((error: unknown) => say(messageOf(error)));
    }
  }
}

// A reader of our output that went away must not keep us from cleaning up.
process.stdout.on("error", () => {});
process.stderr.on("error", () => {});
try {
  const options = parseBenchOptions(process.argv.slice(2));
  if (options === "help") console.log(BENCH_USAGE);
  else process.exitCode = await runAndCleanUp(options);
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  console.error(error.message);
  console.error(BENCH_USAGE);
  process.exitCode = 2;
}
