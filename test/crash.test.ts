/**
 * The whole process dies: `kill -9` under load, on the embedded PostgreSQL, which stays behind as
 * an orphan with what Coffer had committed and not yet answered. The race of every round: between a
 * commit and its answer the process is gone. The next start finds the orphan, takes over its data,
 * and each caller's key leads to the one outcome.
 */
import { existsSync } from "node:fs";
import { expect, it, onTestFinished } from "vitest";
import { dataFolder, runCoffer, startCoffer } from "./stage/process.ts";
import { askOverHttp, buildWorkload, checkBank, checkOverHttp } from "./stage/workload.ts";

const ROUNDS = 2;

it(
  "loses and repeats nothing when the process is killed under load, twice",
  { timeout: 60_000 },
  async () => {
    // Given a bank at work on an embedded database
    const folder = dataFolder();
    onTestFinished(() => folder.remove());
    const env = { DATA_DIR: folder.path, LANES: "2", LOG_LEVEL: "warn" };
    let coffer = await startCoffer(env);
    onTestFinished(async () => void (await coffer.kill()));
    await coffer.untilReady();
    const { port } = coffer;
    const ask = askOverHttp(port);
    onTestFinished(() => ask.close());
    const bank = buildWorkload({ ask, name: "crash", callers: 12 });
    await bank.open();

    for (let round = 1; round <= ROUNDS; round += 1) {
      bank.start();
      await bank.progress(400);

      // When the process is killed in the middle of it
      const orphan = folder.postgresPid();
      const killed = await coffer.kill();
      expect(killed).toEqual({ code: null, signal: "SIGKILL" });
      expect(existsSync(`/proc/${orphan}`)).toBe(true);

      // Then the next start ends the orphan and serves the same callers
      coffer = await startCoffer({ ...env, PORT: String(port) });
      await coffer.untilReady();
      expect(folder.postgresPid()).not.toBe(orphan);
      await bank.progress(200);
      await bank.stop();
    }

    // And what was unknown has one outcome, by its key
    expect(bank.count("unknown")).toBeGreaterThan(0);
    await bank.resolve();
    expect(await checkOverHttp(port, bank)).toEqual([]);
    expect(await checkBank(folder.databaseUrl(), bank)).toEqual([]);

    // And it still ends in order
    expect(await coffer.stop()).toEqual({ code: 0, signal: null });
  },
);

it("a second start on a folder that is in use names the folder and the process that has it", async () => {
  // Given Coffer on a folder
  const folder = dataFolder();
  onTestFinished(() => folder.remove());
  const coffer = await startCoffer({ DATA_DIR: folder.path });
  onTestFinished(async () => void (await coffer.kill()));

  // When another one starts there
  const second = await runCoffer({ DATA_DIR: folder.path });

  // Then it says so and ends, and the first one goes on
  expect(second.code).toBe(1);
  expect(second.output).toContain(`DATA_DIR ${folder.path} is in use by process ${coffer.pid}`);
  await coffer.untilReady();
});
