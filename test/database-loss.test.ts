/**
 * PostgreSQL dies under load, all its processes at once, and comes back on the same port and data.
 * The race: a commit is under way whose outcome nobody can know until the database is there again.
 * Callers wait out a short outage; in a long one they are told that nothing happened (503) or that
 * they have to ask again (504), and never anything else. Coffer itself is not restarted.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { expect, it, onTestFinished } from "vitest";
import { LIMITS } from "../src/limits.ts";
import { dataFolder, startCoffer } from "./stage/process.ts";
import { startPostgres } from "./stage/servers.ts";
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
    await sleep(LIMITS.commandDeadlineMs + 500);

    // Then nothing is carried out, and everybody was told so in time
    expect(acknowledged(false)).toBe(before);
    expect(troubles() + acknowledged(true) - pendingBefore).toBeGreaterThanOrEqual(12);
    expect(bank.count("wrong")).toBe(0);

    // When it is there again, service resumes by itself
    await postgres.restart();
    await coffer.untilReady();
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
