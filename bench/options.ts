/**
 * The command lines of the benchmarks and of the seed. Everything is checked before anything
 * starts: a bad argument is a `UsageError` that says what was given and what is allowed, and the
 * entry files turn it into the usage text and exit code 2.
 */
import { parseArgs } from "node:util";
import { SHAPES, type ShapeName } from "./shapes.ts";
import { listText } from "../src/command-line.ts";
import { messageOf } from "../src/message-of.ts";

export class UsageError extends Error {}

export interface BenchOptions {
  seconds: number;
  rounds: number;
  connections: number;
  shapes: ShapeName[];
  cpuProf: boolean;
  rivals: boolean;
  generator: "auto" | "wrk" | "node";
  poolSize: number;
  /** A PostgreSQL server to use in place of one of our own. */
  databaseUrl?: string;
}

const SHAPE_NAMES = SHAPES.map((shape) => shape.name);

export const BENCH_USAGE = `Usage: npm run bench -- [options]
  --seconds <1-600>        length of one measurement (8); a warm-up of a fourth of that precedes it
  --rounds <1-50>          rounds over all shapes and systems, of which medians are taken (3)
  --connections <1-1000>   connections of the shapes that do not fix it (128)
${listText("  --only <shape,...>       only these:", SHAPE_NAMES, 27)}
  --no-rivals              only Coffer
  --pool-size <1-90>       database connections of the row-lock rival (20)
  --generator <wrk|node>   what makes the load (wrk; the Node generator where wrk cannot be had)
  --cpu-prof               write CPU profiles of Coffer's processes
  --database-url <url>     use this PostgreSQL server (its superuser), not an embedded one
  --help`;

/** Throws `UsageError`; gives `help` when that was asked for. */
export function parseBenchOptions(args: readonly string[]): BenchOptions | "help" {
  const values = parseStrictly(args, {
    seconds: { type: "string", default: "8" },
    rounds: { type: "string", default: "3" },
    connections: { type: "string", default: "128" },
    only: { type: "string" },
    "no-rivals": { type: "boolean", default: false },
    "pool-size": { type: "string", default: "20" },
    generator: { type: "string", default: "auto" },
    "cpu-prof": { type: "boolean", default: false },
    "database-url": { type: "string" },
    help: { type: "boolean", default: false },
  });
  if (values.help) return "help";
  const options: BenchOptions = {
    seconds: wholeIn("--seconds", values.seconds, 1, 600),
    rounds: wholeIn("--rounds", values.rounds, 1, 50),
    connections: wholeIn("--connections", values.connections, 1, 1_000),
    shapes: shapesOf(values.only),
    cpuProf: values["cpu-prof"],
    rivals: !values["no-rivals"],
    generator: generatorOf(values.generator),
    poolSize: wholeIn("--pool-size", values["pool-size"], 1, 90),
  };
  const databaseUrl = values["database-url"];
  if (databaseUrl === undefined) return options;
  urlOf("--database-url", databaseUrl, ["postgres:", "postgresql:"]);
  return { ...options, databaseUrl };
}

export interface LoadOptions {
  url: URL;
  wallets: number;
  operations: number;
  workers: number;
  seed: number;
}

export const LOAD_USAGE = `Usage: npm run bench:load -- [options]
  --url <http://host:port>    the server (http://127.0.0.1:3000)
  --wallets <2-100000>        wallets to create (1000)
  --operations <1-10000000>   credits, debits and transfers together (20000)
  --workers <1-1000>          connections, each with one operation at a time (20)
  --seed <0-4294967295>       repeats the same operations (random)
  --help`;

/** Throws `UsageError`; gives `help` when that was asked for. */
export function parseLoadOptions(args: readonly string[]): LoadOptions | "help" {
  const values = parseStrictly(args, {
    url: { type: "string", default: "http://127.0.0.1:3000" },
    wallets: { type: "string", default: "1000" },
    operations: { type: "string", default: "20000" },
    workers: { type: "string", default: "20" },
    seed: { type: "string" },
    help: { type: "boolean", default: false },
  });
  if (values.help) return "help";
  const url = urlOf("--url", values.url, ["http:"]);
  if (url.pathname !== "/" || url.search !== "") {
    throw new UsageError(`--url must be http://host:port without a path, not "${values.url}"`);
  }
  return {
    url,
    wallets: wholeIn("--wallets", values.wallets, 2, 100_000),
    operations: wholeIn("--operations", values.operations, 1, 10_000_000),
    workers: wholeIn("--workers", values.workers, 1, 1_000),
    seed:
      values.seed === undefined
        ? Math.floor(Math.random() * 2 ** 32)
        : wholeIn("--seed", values.seed, 0, 2 ** 32 - 1),
  };
}

export interface SeedOptions {
  wallets: number;
  events: number;
  dataDir: string;
  /** An empty database to fill in place of an embedded one. */
  databaseUrl?: string;
}

export const SEED_USAGE = `Usage: npm run bench:seed -- [options]
  --wallets <2-10000000>      wallets to make, an even number (100000)
  --events <4-1000000000>     their events together, at least two for each (1000000)
  --data-dir <folder>         of the embedded PostgreSQL (.coffer-seed)
  --database-url <url>        fill this empty database, not an embedded one
  --help`;

/** Throws `UsageError`; gives `help` when that was asked for. */
export function parseSeedOptions(args: readonly string[]): SeedOptions | "help" {
  const values = parseStrictly(args, {
    wallets: { type: "string", default: "100000" },
    events: { type: "string", default: "1000000" },
    "data-dir": { type: "string", default: ".coffer-seed" },
    "database-url": { type: "string" },
    help: { type: "boolean", default: false },
  });
  if (values.help) return "help";
  const wallets = wholeIn("--wallets", values.wallets, 2, 10_000_000);
  if (wallets % 2 === 1) {
    throw new UsageError(`--wallets must be even, since they pay each other, not ${wallets}`);
  }
  const events = wholeIn("--events", values.events, 2 * wallets, 1_000_000_000);
  const options: SeedOptions = { wallets, events, dataDir: values["data-dir"] };
  const databaseUrl = values["database-url"];
  if (databaseUrl === undefined) return options;
  urlOf("--database-url", databaseUrl, ["postgres:", "postgresql:"]);
  return { ...options, databaseUrl };
}

export interface ReadsOptions {
  repeats: number;
  /** Part of a question's name. */
  only: string;
  dataDir: string;
  /** The database that was filled, in place of an embedded one. */
  databaseUrl?: string;
}

export const READS_USAGE = `Usage: npm run bench:reads -- [options]
  --repeats <2-1000>          calls of each question after the first (11)
  --only <text>               questions whose name has this text
  --data-dir <folder>         of the embedded PostgreSQL that bench:seed has filled (.coffer-seed)
  --database-url <url>        the database that it has filled, in place of an embedded one
  --help`;

/** Throws `UsageError`; gives `help` when that was asked for. */
export function parseReadsOptions(args: readonly string[]): ReadsOptions | "help" {
  const values = parseStrictly(args, {
    repeats: { type: "string", default: "11" },
    only: { type: "string", default: "" },
    "data-dir": { type: "string", default: ".coffer-seed" },
    "database-url": { type: "string" },
    help: { type: "boolean", default: false },
  });
  if (values.help) return "help";
  const repeats = wholeIn("--repeats", values.repeats, 2, 1_000);
  const options: ReadsOptions = { repeats, only: values.only, dataDir: values["data-dir"] };
  const databaseUrl = values["database-url"];
  if (databaseUrl === undefined) return options;
  urlOf("--database-url", databaseUrl, ["postgres:", "postgresql:"]);
  return { ...options, databaseUrl };
}

export const MEMORY_USAGE = `Usage: node --expose-gc dist/bench/memory.js [options]
  --wallets <1-10000000>      wallets to touch once each (100000)
  --help
Exit code: 0 their memory comes back, 1 it does not.`;

/** Throws `UsageError`; gives `help` when that was asked for. */
export function parseMemoryOptions(args: readonly string[]): { wallets: number } | "help" {
  const values = parseStrictly(args, {
    wallets: { type: "string", default: "100000" },
    help: { type: "boolean", default: false },
  });
  if (values.help) return "help";
  return { wallets: wholeIn("--wallets", values.wallets, 1, 10_000_000) };
}

type ArgumentTable = NonNullable<NonNullable<Parameters<typeof parseArgs>[0]>["options"]>;

function parseStrictly<const T extends ArgumentTable>(args: readonly string[], options: T) {
  try {
    return parseArgs({ args: [...args], options, strict: true, allowPositionals: false }).values;
  } catch (error) {
    throw new UsageError(messageOf(error));
  }
}

function wholeIn(name: string, text: string, min: number, max: number): number {
  const value = /^\d{1,12}$/.test(text) ? Number(text) : Number.NaN;
  if (value >= min && value <= max) return value;
  throw new UsageError(`${name} must be a whole number from ${min} to ${max}, not "${text}"`);
}

function shapesOf(only: string | undefined): ShapeName[] {
  const known = SHAPE_NAMES;
  if (only === undefined) return known;
  const asked = only.split(",").map((name) => name.trim());
  const strange = asked.find((name) => !known.some((one) => one === name));
  if (strange !== undefined) {
    throw new UsageError(`--only takes shapes out of ${known.join(", ")}, not "${strange}"`);
  }
  return known.filter((name) => asked.includes(name));
}

function generatorOf(text: string): BenchOptions["generator"] {
  if (text === "auto" || text === "wrk" || text === "node") return text;
  throw new UsageError(`--generator must be wrk or node, not "${text}"`);
}

function urlOf(name: string, text: string, protocols: readonly string[]): URL {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (url !== undefined && protocols.includes(url.protocol)) return url;
  throw new UsageError(`${name} must be a URL with ${protocols.join(" or ")}//, not "${text}"`);
}
