/**
 * `npm run verify` as an operator has it: as a process, on databases by URL and on the embedded
 * one, while Coffer runs there and when it does not; what it prints, and how it exits.
 */
import { spawn } from "node:child_process";
import { appendFile } from "node:fs/promises";
import { join } from "node:path";
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from "vitest";
import { NODE_NEEDED } from "../src/node-version.ts";
import { packageRoot } from "../src/package-root.ts";
import type { VerifyReport } from "../src/verify/verify.ts";
import { askJson } from "./stage/json.ts";
import { dataFolder, startCoffer } from "./stage/process.ts";
import { openDatabase } from "./stage/audited-database.ts";
import { until } from "./stage/stack.ts";
import { buildWorld, type Copy, type World } from "./stage/books.ts";

interface Run {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

function npmRunVerify(env: Record<string, string>, ...args: readonly string[]): Promise<Run> {
  return npmRun("verify", env, ...args);
}

function npmRun(
  script: "verify" | "migrate",
  env: Record<string, string>,
  ...args: readonly string[]
): Promise<Run> {
  return runOf(spawnEntry(`src/${script}-cli.js`, env, ...args));
}

function spawnEntry(file: string, env: Record<string, string>, ...args: readonly string[]) {
  const { PATH = "" } = process.env;
  return spawn(process.execPath, [join(packageRoot, "dist", file), ...args], {
    env: { PATH, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
}

function runOf(child: ReturnType<typeof spawnEntry>): Promise<Run> {
  let [out, err] = ["", ""];
  child.stdout.on("data", (chunk: Buffer) => (out += chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => (err += chunk.toString()));
  return new Promise((resolve) => child.once("close", (code) => resolve({ code, out, err })));
}

describe("on databases by URL", () => {
  let world: World;
  let copy: Copy;
  let env: Record<string, string>;

  beforeAll(async () => {
    world = await buildWorld("verify_cli");
  });
  afterAll(() => world.close());
  beforeEach(async () => {
    copy = await world.copy();
    onTestFinished(() => copy.close());
    env = { DATABASE_URL: copy.urls.join(",") };
  });

  it("says that nothing is wrong, and exits with 0", async () => {
    const { code, out, err } = await npmRunVerify(env);
    expect(out).toMatch(/^3 wallets, 18 events, 3 transfers in [\d.]+ s: no difference$/m);
    expect(code).toBe(0);
    // Without a terminal the bars are lines, on standard error.
    expect(err).toBe("events     18/18\ntransfers  3/3\nverdicts   2/2\nbooks      2/2\n");
  });

  it("names every difference, for people and for programs, and exits with 1", async () => {
    await copy.tamper(0, "UPDATE wallets SET balance = 1 WHERE wallet_id = $1", [world.carl]);
    const { code, out } = await npmRunVerify(env, "--wallet", world.carl);
    expect(out).toContain(`wallet_row: Wallet ${world.carl}, version 2: `);
    expect(out).toMatch(
      /expected 1000, found 1\.\n1 wallet, 3 events, 0 transfers .*: 1 difference$/m,
    );
    expect(code).toBe(1);

    const json = await npmRunVerify(env, "--json");
    const report = JSON.parse(json.out) as VerifyReport;
    expect(json.code).toBe(1);
    expect(json.err).toBe("");
    expect(report.byKind).toEqual({ wallet_row: 1, trial_balance: 1 });
    expect(report.named).toContainEqual(
      expect.objectContaining({ kind: "wallet_row", walletId: world.carl, field: "balance" }),
    );
  });

  it("rebuilds what can be rebuilt, says what cannot, and exits by what is left", async () => {
    await copy.tamper(0, "UPDATE wallets SET balance = 1 WHERE wallet_id = $1", [world.carl]);
    const { code, out } = await npmRunVerify(env, "--rebuild");
    expect(out).toContain(`Rebuilt wallet ${world.carl} at version 2.`);
    expect(out).toMatch(/After the rebuild:\n3 wallets.*no difference$/m);
    expect(code).toBe(0);

    await copy.tamper(0, "DELETE FROM events WHERE wallet_id = $1 AND version = 2", [world.carl]);
    const refused = await npmRunVerify(env, "--rebuild");
    expect(refused.out).toContain(`Did not rebuild wallet ${world.carl}: `);
    expect(refused.out).not.toContain("After the rebuild");
    expect(refused.code).toBe(1);
  });

  it("says once of each wallet without events that it was not rebuilt, and what to do", async () => {
    const sql = `DELETE FROM events WHERE wallet_id = '${world.carl}';
      INSERT INTO holds (wallet_id, hold_id, shard, amount, captured, status, kind, created_at)
      SELECT id, 'h1', 0, 5, 0, 'ACTIVE', 'OTHER', now() FROM unnest('{nobody,${world.carl}}'::text[]) id`;
    await copy.tamper(0, sql);
    const { code, out } = await npmRunVerify(env, "--rebuild");
    const refusals = out.split("\n").filter((line) => line.startsWith("Did not rebuild"));
    expect(refusals).toEqual([
      expect.stringContaining(`wallet ${world.carl}: it has a row at version 2 and no events`),
      expect.stringContaining("wallet nobody: it has neither events nor a row"),
    ]);
    expect(code).toBe(1);
  });

  it.each([
    ["an option that it does not know", () => ({}), ["--all"], /Unknown option '--all'/],
    [
      "a database that is away",
      () => ({ DATABASE_URL: `${copy.urls[0]},postgres://nobody@127.0.0.1:1/none` }),
      [],
      /^127\.0\.0\.1:1\/none: connect ECONNREFUSED 127\.0\.0\.1:1\n$/,
    ],
    [
      "databases in another order",
      () => ({ DATABASE_URL: copy.urls.toReversed().join(",") }),
      [],
      /DATABASE_URL must list all databases/,
    ],
    [
      "a database without a schema",
      () => ({ DATABASE_URL: copy.urls[0]!.replace(/[^/]+$/, "postgres") }),
      [],
      /has not the schema of this version, 0001_journal is missing/,
    ],
    [
      "a wallet that does not exist",
      () => ({}),
      ["--wallet", "nobody"],
      /There is no wallet nobody$/m,
    ],
    [
      "a folder without a database",
      () => ({ DATABASE_URL: "", DATA_DIR: "/tmp/coffer-none" }),
      [],
      /has no database/,
    ],
  ])("could not look: %s", async (_, given, args, message) => {
    const { code, err, out } = await npmRunVerify({ ...env, ...given() }, ...args);
    expect(err).toMatch(message);
    expect(out).toBe("");
    expect(code).toBe(2);
  });
});

it(
  "mends a damaged wallet for a Coffer that runs, which has told of it and served all others",
  { timeout: 90_000 },
  async () => {
    const database = await openDatabase("verify_damage");
    onTestFinished(() => database.close());
    const env = { DATABASE_URL: database.url };
    const coffer = await startCoffer({ ...env, LOG_LEVEL: "warn", VERIFY_INTERVAL_MINUTES: "0" });
    onTestFinished(async () => void (await coffer.kill()));
    await coffer.untilReady();
    const ask = async <Body>(path: string, body?: object): Promise<Body> =>
      (await askJson<Body>(`${coffer.baseUrl}${path}`, body)).body;
    type Health = { status: string; checks: { wallets: { state: string; reason?: string } } };
    const health = () => ask<Health>("/health");
    for (const walletId of ["w1", "w2"]) await ask("/wallets", { walletId, initialBalance: 5 });
    // Given a hold that ends in a moment, and somebody who has let go of the money by hand
    const hold = await ask<{ id: string }>("/wallets/w1/holds", { amount: 2, expiresInSeconds: 1 });
    await database.query("UPDATE wallets SET held = 0");
    // Whoever has woken before does not look again
    await database.query("UPDATE shards SET epoch = epoch + 1");

    await expect.poll(async () => (await health()).status, { timeout: 20_000 }).toBe("degraded");
    expect((await health()).checks.wallets).toMatchObject({
      state: "down",
      reason: expect.stringMatching(
        /^one wallet is damaged.* --rebuild mends .*says what/,
      ) as string,
    });
    expect(coffer.output).toContain("wallet w1 is damaged");
    expect(await ask("/wallets/w2/credit", { amount: 1 })).toMatchObject({ balance: 6 });
    const metrics = await (await fetch(`${coffer.baseUrl}/metrics`)).text();
    expect(metrics).toMatch(/^coffer_wallets_damaged\{lane="[^"]+"\} 1$/m);
    const cluster = await ask<{ hosts: Array<{ lanes: Array<{ damagedWallets: number }> }> }>(
      "/cluster",
    );
    expect(cluster.hosts[0]?.lanes.reduce((sum, lane) => sum + lane.damagedWallets, 0)).toBe(1);

    // When it is mended
    await database.query("DELETE FROM holds");
    const mended = await npmRunVerify(env, "--wallet", "w1", "--rebuild");
    expect(mended.out).toContain("Rebuilt wallet w1 at version 2.\n");
    expect(mended.out).toContain(`Rebuilt hold ${hold.id} of wallet w1: inserted.\n`);
    expect(mended.code).toBe(0);

    // Then the hold ends
    const expired = async () =>
      (await ask<{ status: string }>(`/wallets/w1/holds/${hold.id}`)).status;
    await expect.poll(expired, { timeout: 20_000 }).toBe("EXPIRED");
    expect(await npmRunVerify(env)).toMatchObject({ code: 0 });
    expect(await coffer.stop()).toEqual({ code: 0, signal: null });
  },
);

it.each(["--help", "status --help", "down --help 2"])(
  "migrate %s says how it is used",
  async (text) => {
    const { code, out, err } = await npmRun("migrate", {}, ...text.split(" "));
    expect(out).toMatch(/^Usage: npm run migrate -- status \| up \| down/);
    expect({ code, err }).toEqual({ code: 0, err: "" });
  },
);

it.each([
  ["--walet", /^Unknown option '--walet'/],
  ["w1", /^Unexpected argument 'w1'/],
])("refuses %s, says how it is used, and exits with 2", async (argument, problem) => {
  const { code, err } = await npmRunVerify({}, argument);
  expect(err).toMatch(problem);
  expect(err).toContain("\nUsage: npm run verify -- [options]\n");
  expect(code).toBe(2);
});

it(
  "finds the embedded database, beside a Coffer that runs on it and without one",
  { timeout: 90_000 },
  async () => {
    const folder = dataFolder();
    onTestFinished(() => folder.remove());
    const env = { DATA_DIR: folder.path };
    const coffer = await startCoffer({ ...env, LOG_LEVEL: "warn" });
    onTestFinished(async () => void (await coffer.kill()));
    await coffer.untilReady();
    const wallet = { walletId: "w1", initialBalance: 5 };
    expect((await askJson(`${coffer.baseUrl}/wallets`, wallet)).status).toBe(201);

    const summary = /^1 wallet, 2 events, 0 transfers in [\d.]+ s: no difference$/m;
    const beside = await npmRunVerify(env);
    expect(beside.out).toMatch(summary);
    expect(beside.code).toBe(0);
    const status = await npmRun("migrate", env, "status");
    expect(status.out).toMatch(/^ {2}0001_journal {2}applied /m);
    expect(status.code).toBe(0);
    const up = await npmRun("migrate", env, "up");
    expect(up.err).toMatch(/ is in use by process \d+; stop it, or set DATA_DIR/);
    expect(up.code).toBe(1);
    // It was a visitor: the server is still there for the one at work.
    expect((await fetch(`${coffer.baseUrl}/wallets/w1`)).status).toBe(200);

    expect(await coffer.stop()).toEqual({ code: 0, signal: null });
    expect(folder.postgresPid()).toBe(0);
    const alone = await npmRunVerify(env);
    expect(alone.out).toMatch(summary);
    expect(alone.code).toBe(0);
    expect(folder.postgresPid()).toBe(0);
  },
);

const inUrl = (code: string): string => `data:text/javascript,${encodeURIComponent(code)}`;

it.each([
  ["verify", 2],
  ["migrate", 1],
] as const)("%s says on a Node that is too old which one it needs", async (script, code) => {
  // Given one that calls itself older, and cannot load what imports a later Node's functions
  const hooks = `export async function resolve(specifier, context, next) {
    if (specifier.endsWith("/chain.js")) throw new SyntaxError("no export named 'hash'");
    return next(specifier, context);
  }`;
  const old = `import { register } from "node:module";
    register(${JSON.stringify(inUrl(hooks))});
    Object.defineProperty(process, "versions", { value: { ...process.versions, node: "18.20.8" } });`;
  // Then that is all it says
  expect(await npmRun(script, { NODE_OPTIONS: `--import=${inUrl(old)}` }, "up")).toEqual({
    code,
    out: "",
    err: `Coffer needs Node ${NODE_NEEDED} or later, and this is 18.20.8\n`,
  });
});

it(
  "leaves no PostgreSQL behind when Ctrl-C or a signal ends it in the middle",
  { timeout: 90_000 },
  async () => {
    // Given a database where no connection comes about in time, so that nothing is ever done
    const folder = dataFolder();
    onTestFinished(() => folder.remove());
    const env = { DATA_DIR: folder.path };
    expect(await npmRun("migrate", env, "up")).toMatchObject({ code: 0 });
    const settings = join(folder.path, "postgres", "postgresql.auto.conf");
    await appendFile(settings, "post_auth_delay = 60\n");
    for (const [file, signal, code, ...args] of [
      ["src/verify-cli.js", "SIGINT", 130],
      ["src/migrate-cli.js", "SIGTERM", 143, "up"],
      ["bench/reads.js", "SIGHUP", 129, "--data-dir", folder.path],
      ["bench/seed.js", "SIGINT", 130, "--data-dir", folder.path],
    ] as const) {
      // When it is interrupted while its PostgreSQL runs
      const child = spawnEntry(file, env, ...args);
      const run = runOf(child);
      await until("PostgreSQL runs", () => folder.postgresPid() > 0);
      child.kill(signal);
      // Then both have ended
      expect({ file, ...(await run) }).toEqual({ file, code, out: "", err: "" });
      expect([file, folder.postgresPid()]).toEqual([file, 0]);
    }
  },
);
