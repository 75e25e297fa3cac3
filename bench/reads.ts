/**
 * `npm run bench:reads`: asks a database that `bench:seed` has filled what readers ask, by the read
 * model that serves them, and prints how long each question takes here: the first time, then the
 * median and the fastest of the repeats. On a machine that does other work these say little, so
 * beside them is the time that processors gave to a call, in the database's sessions (on Linux,
 * when it runs on this machine; not in its parallel workers) and in this process. docs/queries.md
 * has its table.
 */
import { existsSync, readFileSync } from "node:fs";
import { loadavg } from "node:os";
import { join } from "node:path";

import { exitOnSignals } from "../src/command-line.ts";
import { messageOf } from "../src/message-of.ts";
import { withClient } from "../src/database.ts";
import { startEmbeddedPostgres } from "../src/embedded/embedded-postgres.ts";
import { buildPostgresReadModel } from "../src/postgres/read-model.ts";
import type { ReadModel, WalletFilter } from "../src/core/read-model.ts";
import { parseReadsOptions, READS_USAGE, UsageError } from "./options.ts";
import { seedWalletId } from "./seed-rows.ts";
import { median } from "./statistics.ts";

interface Answer {
  readonly rows: number;
  /** Whether a next page follows. */
  readonly more?: boolean;
}

type Question = readonly [name: string, ask: () => Promise<Answer>];

const HOT = seedWalletId(0);

function questionsOf(reads: ReadModel, newest: number): Question[] {
  const at = Date.UTC(2025, 6, 1);
  const one = async (answer: Promise<object | null>): Promise<Answer> => ({
    rows: (await answer) === null ? 0 : 1,
  });
  const list = async (answer: Promise<readonly object[]>): Promise<Answer> => ({
    rows: (await answer).length,
  });
  const page = async (
    answer: Promise<{ readonly rows: readonly object[]; readonly next: unknown }>,
  ): Promise<Answer> => {
    const { rows, next } = await answer;
    return { rows: rows.length, more: next !== null };
  };
  const search = (name: string, filter: WalletFilter, limit = 50, after: string | null = null) =>
    [name, () => page(reads.wallets(filter, limit, after))] as const;
  const metadata = (key: string, value: string) => ({ metadata: new Map([[key, value]]) });
  const middle = seedWalletId(5);
  return [
    ["wallet at a time, hot", () => one(reads.walletAtTime(HOT, at))],
    ["wallet at a version, hot", () => one(reads.walletAt(HOT, newest >> 1))],
    ["transactions, hot, newest", () => page(reads.transactions(HOT, {}, 50, null))],
    ["transactions, hot, newest 1000", () => page(reads.transactions(HOT, {}, 1_000, null))],
    [
      "transactions, hot, a month by time",
      () => page(reads.transactions(HOT, { fromMs: at, toMs: at + 30 * 86_400_000 }, 50, null)),
    ],
    [
      "transactions, hot, type FUND, old",
      () =>
        page(reads.transactions(HOT, { types: ["WalletCredited"], kind: "FUND" }, 50, newest >> 2)),
    ],
    [
      "transactions, hot, a type that is not there",
      () => page(reads.transactions(HOT, { types: ["TransferReturned"] }, 50, null)),
    ],
    ["events from a version, hot", () => list(reads.events(HOT, newest >> 1, 50))],
    ["events from a version, hot, 1000", () => list(reads.events(HOT, newest >> 1, 1_000))],
    ["transfers, hot", () => page(reads.transfersOf(HOT, null, 50, null))],
    ["transfers, hot, 1000", () => page(reads.transfersOf(HOT, null, 1_000, null))],
    ["transfers, hot, pending", () => page(reads.transfersOf(HOT, "pending", 50, null))],
    [
      "transfers of a payee",
      () => page(reads.transfersOf(seedWalletId(100_003), "posted", 50, null)),
    ],
    ["transfer's entries", () => list(reads.transferEvents(`${HOT}-14`))],
    search("wallets, no filter, middle", {}, 50, middle),
    search("wallets, no filter, middle, 1000", {}, 1_000, middle),
    search("wallets of an owner", { ownerId: "owner-777" }),
    search("wallets, currency", { currency: "EUR" }),
    search("wallets, suspended", { status: "SUSPENDED" }),
    search("wallets, minBalance, common", { minBalance: "1010" }),
    search("wallets, minBalance, none", { minBalance: "9999999" }),
    search("wallets, owner and balance", { ownerId: "owner-777", minBalance: "1" }),
    search("wallets, USD and balance none", { currency: "USD", minBalance: "9999999" }),
    search("wallets, JPY and suspended", { currency: "JPY", status: "SUSPENDED" }),
    search("metadata, one wallet", metadata("ref", "r123456")),
    search("metadata, common (20 %)", metadata("tier", "gold")),
    search("metadata, common (20 %), middle", metadata("tier", "gold"), 50, middle),
    search("metadata, common (20 %), 1000", metadata("tier", "gold"), 1_000),
    search("metadata, a number (1 %)", metadata("level", "42")),
    search("metadata, none", metadata("tier", "platinum")),
    search("metadata, common, and JPY", { ...metadata("tier", "gold"), currency: "JPY" }),
    search("metadata, common, balance none", {
      ...metadata("tier", "gold"),
      minBalance: "9999999",
    }),
    search("q, one wallet", { text: "r123456" }),
    search("q, a name", { text: "alice stone777" }),
    search("q, two common words", { text: "alice gold" }),
    search("q, common word (20 %)", { text: "gold" }),
    search("q, common word (20 %), middle", { text: "gold" }, 50, middle),
    search("q, common word (20 %), 1000", { text: "gold" }, 1_000),
    search("q, every wallet", { text: "seed" }),
    search("q, a number (1 %)", { text: "42" }),
    search("q, many words begin so (1.2 %)", { text: "owner 12" }),
    search("q, many words begin so (r12)", { text: "r12" }),
    search("q, nobody has it", { text: "platinum" }),
    search("q, common, and JPY", { text: "gold", currency: "JPY" }),
    search("q, common, balance none", { text: "gold", minBalance: "9999999" }),
    search("q, every wallet, balance none", { text: "seed", minBalance: "9999999" }),
    ["trial balance", () => list(reads.trialBalance(null))],
    ["trial balance, JPY", () => list(reads.trialBalance("JPY"))],
  ];
}

async function measure(databaseUrl: string, repeats: number, only: string): Promise<void> {
  const reads = buildPostgresReadModel({ databaseUrls: [databaseUrl] });
  try {
    const hot = await reads.wallet(HOT);
    if (hot === null) throw new Error("The database has no wallets of bench:seed.");
    const sizes = await withClient(databaseUrl, (client) =>
      client.query<{ wallets: number; events: string }>(
        `SELECT (SELECT count(*) FROM wallets) AS wallets, (SELECT sum(version + 1) FROM wallets) AS events`,
      ),
    );
    const { wallets, events } = sizes.rows[0]!;
    console.log(`${wallets} wallets, ${events} events; load ${loadavg()[0]!.toFixed(1)}\n`);
    console.log("| question | rows | first | median | fastest | CPU |");
    console.log("| --- | --- | --- | --- | --- | --- |");
    for (const [name, ask] of questionsOf(reads, hot.version)) {
      if (!name.includes(only)) continue;
      const [first, answer] = await timed(ask);
      const times: number[] = [];
      const before = await cpuMs(databaseUrl);
      for (let nth = 0; nth < repeats; nth++) times.push((await timed(ask))[0]);
      times.sort((one, other) => one - other);
      const cpu = ((await cpuMs(databaseUrl)) - before) / repeats;
      const cells = [first, median(times), times[0]!, cpu].map((it) => it.toFixed(1));
      const rows = `${answer.rows}${answer.more === true ? " +" : ""}`;
      console.log(`| ${[name, rows, ...cells].join(" | ")} |`);
    }
    console.log(`\nload ${loadavg()[0]!.toFixed(1)}`);
  } finally {
    await reads.close();
  }
}

/** Time of processors that this process and the readers' sessions of the database have had. */
async function cpuMs(databaseUrl: string): Promise<number> {
  const { rows } = await withClient(databaseUrl, (client) =>
    client.query<{ pid: number }>(
      "SELECT pid FROM pg_stat_activity WHERE application_name = 'coffer-read' AND datname = current_database()",
    ),
  );
  const { user, system } = process.cpuUsage();
  return rows.reduce((sum, { pid }) => sum + cpuMsOf(pid), (user + system) / 1_000);
}

function cpuMsOf(pid: number): number {
  try {
    return Number(readFileSync(`/proc/${pid}/schedstat`, "utf8").split(" ")[0]) / 1e6;
  } catch {
    return Number.NaN;
  }
}

async function timed(ask: () => Promise<Answer>): Promise<[ms: number, answer: Answer]> {
  const startMs = performance.now();
  const answer = await ask();
  return [performance.now() - startMs, answer];
}

async function main(): Promise<void> {
  const options = parseReadsOptions(process.argv.slice(2));
  if (options === "help") {
    console.log(READS_USAGE);
    return;
  }
  exitOnSignals();
  const { repeats, only, databaseUrl, dataDir } = options;
  if (databaseUrl !== undefined) {
    await measure(databaseUrl, repeats, only);
    return;
  }
  // An empty one would be made.
  if (!existsSync(join(dataDir, "postgres", "PG_VERSION"))) {
    throw new Error(`${dataDir} has no database. Fill one with: npm run bench:seed`);
  }
  const server = await startEmbeddedPostgres({ dataDir });
  try {
    await measure(server.url, repeats, only);
  } finally {
    await server.stop();
  }
}

try {
  await main();
} catch (error) {
  console.error(messageOf(error));
  if (error instanceof UsageError) console.error(READS_USAGE);
  process.exitCode = error instanceof UsageError ? 2 : 1;
}
