/**
 * PostgreSQL dies under load, all its processes at once, and comes back on the same port and data.
 * The race: a commit is under way whose outcome nobody can know until the database is there again.
 * Callers wait out a short outage; in a long one they are told that nothing happened (503) or that
 * they have to ask again (504), and never anything else. Coffer itself is not restarted, except where
 * what comes back lacks what was committed.
 */
import { execFileSync } from "node:child_process";
import { chmodSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, it, onTestFinished } from "vitest";
import { LIMITS } from "../src/limits.ts";
import { shardOf } from "../src/core/shard.ts";
import { askJson } from "./stage/json.ts";
import { dataFolder, startCoffer } from "./stage/process.ts";
import { onServer, startPostgres } from "./stage/servers.ts";
import { askOverHttp, buildWorkload, checkBank, checkOverHttp } from "./stage/workload.ts";

it(
  "waits out a short loss of the database, and is honest in a long one",
  { timeout: 60_000 },
  async () => {
    // Given a bank at work on a PostgreSQL of its own
    const postgres = await startPostgres();
    onTestFinished(() => postgres.stop());
    const coffer = await startCoffer({ DATABASE_URL: postgres.url, LOG_LEVEL: "warn" });
    onTestFinished(async () => void (await coffer.kill()));
    await coffer.untilReady();
    const ask = askOverHttp(coffer.port);
    onTestFinished(() => ask.close());
    const bank = buildWorkload({ ask, name: "loss", callers: 12 });
    const troubles = (): number =>
      bank.count("unavailable") + bank.count("unknown") + bank.count("wrong");
    // A transfer whose reserve was committed before may be told as pending at its deadline: that
    // needs no commit any more.
    const acknowledged = (isPending: boolean): number =>
      bank.entries
        .flatMap(({ answers }) => answers)
        .filter((answer) => answer.type === "acknowledged" && answer.isPending === isPending)
        .length;
    await bank.open();
    bank.start();
    await bank.progress(200);

    // When the database is away for a second
    await postgres.kill();
    await sleep(1_000);
    await postgres.restart();

    // Then callers have waited, and nothing else
    await bank.progress(200);
    expect(troubles()).toBe(0);

    // When it is away for longer than a command may take
    await postgres.kill();
    await coffer.untilReady(503);
    await sleep(100);
    const [before, pendingBefore] = [acknowledged(false), acknowledged(true)];
    const create = () =>
      askJson<{ code?: string }>(`${coffer.baseUrl}/wallets`, { walletId: "later" }, { key: "l" });
    const askedMeanwhile = create();
    await sleep(LIMITS.commandDeadlineMs + 500);

    // Then nothing is carried out, and everybody was told so in time
    expect(acknowledged(false)).toBe(before);
    expect(troubles() + acknowledged(true) - pendingBefore).toBeGreaterThanOrEqual(12);
    expect(bank.count("wrong")).toBe(0);

    // And in one process a command that met no database is no case of doubt
    const refused = await askedMeanwhile;
    expect(refused).toMatchObject({ status: 503, body: { code: "unavailable" } });
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);

    // When it is there again, service resumes by itself
    await postgres.restart();
    await coffer.untilReady();
    const created = await create();
    expect(created.status).toBe(201);
    expect(created.headers.get("idempotent-replayed")).toBeNull();
    await bank.progress(200);
    await bank.stop();

    // And what was unknown has one outcome
    await bank.resolve();
    expect(await checkOverHttp(coffer.port, bank)).toEqual([]);
    expect(await checkBank(postgres.url, bank)).toEqual([]);
    expect(await coffer.stop()).toEqual({ code: 0, signal: null });
  },
);

it(
  "starts the embedded database again when it dies, and loses nothing",
  { timeout: 60_000 },
  async () => {
    // Given a bank at work on an embedded database
    const folder = dataFolder();
    onTestFinished(() => folder.remove());
    const coffer = await startCoffer({ DATA_DIR: folder.path, LOG_LEVEL: "warn" });
    onTestFinished(async () => void (await coffer.kill()));
    await coffer.untilReady();
    const ask = askOverHttp(coffer.port);
    onTestFinished(() => ask.close());
    const bank = buildWorkload({ ask, name: "embedded", callers: 12 });
    await bank.open();
    bank.start();
    await bank.progress(200);

    // When only its first process is killed: the others may still finish what they do, also a
    // commit
    const before = folder.postgresPid();
    process.kill(before, "SIGKILL");

    // Then it is started again, the same callers go on, and nobody heard anything wrong
    await bank.progress(300);
    await bank.stop();
    expect(folder.postgresPid()).not.toBe(before);
    await coffer.untilReady();
    await bank.resolve();
    expect(await checkOverHttp(coffer.port, bank)).toEqual([]);
    expect(await checkBank(folder.databaseUrl(), bank)).toEqual([]);
    expect(await coffer.stop()).toEqual({ code: 0, signal: null });
  },
);

it(
  "says that nobody knows when the server panics over a commit, and the key resolves it",
  { timeout: 60_000 },
  async () => {
    // Given a wallet, and a server that can begin no new segment of its log
    const folder = dataFolder();
    onTestFinished(() => folder.remove());
    const postgres = await startPostgres({
      folder: folder.path,
      settings: { autovacuum: "off", bgwriter_delay: "10s", wal_writer_delay: "10s" },
    });
    onTestFinished(() => postgres.stop());
    const coffer = await startCoffer({ DATABASE_URL: postgres.url, LOG_LEVEL: "warn" });
    onTestFinished(async () => void (await coffer.kill()));
    await coffer.untilReady();
    const post = postTo(coffer.baseUrl);
    await post("/wallets", { walletId: "w", currency: "EUR" });
    const log = join(folder.path, "postgres", "pg_wal");
    onTestFinished(() => chmodSync(log, 0o700));
    chmodSync(log, 0o500);
    await onServer(postgres.url, "SELECT pg_switch_wal()");

    // When a commit begins one
    const credit = { amount: 5, idempotencyKey: "k" };
    const answer = await post("/wallets/w/credit", credit);

    // Then it is not said that nothing happened: Coffer cannot know what is in the log
    expect(coffer.output).toMatch(/the outcome of a commit is unknown.*xlogtemp.*Permission/);
    expect(answer).toMatchObject({ statusCode: 504, code: "outcome_unknown" });

    // And when the server is there again it has happened once
    await postgres.kill();
    chmodSync(log, 0o700);
    await postgres.restart();
    await coffer.untilReady();
    expect(await post("/wallets/w/credit", credit)).toMatchObject({ balance: 5, version: 1 });
    expect(await coffer.stop()).toEqual({ code: 0, signal: null });
  },
);

it(
  "ends when the database comes back without what was committed",
  { timeout: 60_000 },
  async () => {
    // Given a wallet with 5, and a backup from before 7 more
    const folder = dataFolder();
    const backup = dataFolder();
    onTestFinished(() => backup.remove());
    onTestFinished(() => folder.remove());
    const postgres = await startPostgres({
      folder: folder.path,
      settings: { wal_level: "replica" },
    });
    onTestFinished(() => postgres.stop());
    // Lanes of one process know what the others have committed
    const env = { DATABASE_URL: postgres.url, LANES: "2", LOG_LEVEL: "warn" };
    const coffer = await startCoffer(env);
    onTestFinished(async () => void (await coffer.kill()));
    await coffer.untilReady();
    const post = postTo(coffer.baseUrl);
    await post("/wallets", { walletId: "lost", currency: "EUR" });
    expect(await post("/wallets/lost/credit", { amount: 5 })).toMatchObject({ balance: 5 });
    await postgres.stop();
    copy(folder.path, backup.path);
    await postgres.restart();
    expect(await post("/wallets/lost/credit", { amount: 7 })).toMatchObject({ balance: 12 });

    // When the backup is what comes back: first as a standby, which may still bring in what it lacks
    await postgres.kill();
    rmSync(join(folder.path, "postgres"), { recursive: true });
    copy(backup.path, folder.path);
    const signal = join(folder.path, "postgres", "standby.signal");
    writeFileSync(signal, "");
    await postgres.restart();
    const walletId = inAnotherLane("lost");
    const attempts = [post("/wallets", { walletId, currency: "EUR" }).catch(() => undefined)];

    // Then everybody waits
    await expect.poll(() => coffer.output).toContain("the database is a standby");
    expect(coffer.output).not.toContain("lacks events");

    // When it is what it is, and a lane that has lost nothing is written to
    rmSync(signal);
    await postgres.restart();
    attempts.push(post("/wallets", { walletId, currency: "EUR" }).catch(() => undefined));

    // Then nothing is served from memory any more
    expect(await coffer.exited).toEqual({ code: 1, signal: null });
    await Promise.all(attempts);
    expect(coffer.output).toContain("lacks events that were committed (1 event of 1 shard)");

    // And the next start goes on from what is there
    const next = await startCoffer(env);
    onTestFinished(async () => void (await next.kill()));
    await next.untilReady();
    const postToNext = postTo(next.baseUrl);
    expect(await postToNext("/wallets/lost/credit", { amount: 1 })).toMatchObject({ balance: 6 });
    expect(await next.stop()).toEqual({ code: 0, signal: null });
  },
);

/** Of two, which have every other shard each. */
function inAnotherLane(walletId: string): string {
  const isOther = (id: string): boolean => shardOf(id) % 2 !== shardOf(walletId) % 2;
  return ["other-1", "other-2", "other-3", "other-4", "other-5", "other-6"].find(isOther)!;
}

/** The cluster, and whose it is: as root, PostgreSQL has a user of its own. */
function copy(from: string, to: string): void {
  execFileSync("cp", ["-a", join(from, "postgres"), to]);
}

function postTo(baseUrl: string): (path: string, body: object) => Promise<unknown> {
  return async (path, body) => (await askJson(`${baseUrl}${path}`, body)).body;
}
