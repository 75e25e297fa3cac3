/**
 * The whole process dies: `kill -9` under load, on the embedded PostgreSQL, which stays behind as
 * an orphan with what Coffer had committed and not yet answered. The race of every round: between a
 * commit and its answer the process is gone. The next start finds the orphan, takes over its data,
 * and each caller's key leads to the one outcome.
 */
import { spawn } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import { packageRoot } from "../src/package-root.ts";
import { dataFolder, runCoffer, startCoffer } from "./stage/process.ts";
import { until } from "./stage/stack.ts";
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

it("leaves nothing behind when its terminal is closed, where its log went", async () => {
  // Given one that was started in a terminal
  const folder = dataFolder();
  onTestFinished(() => folder.remove());
  const command = `exec '${process.execPath}' '${join(packageRoot, "dist", "src", "main.js")}'`;
  const terminal = spawn("script", ["-qec", command, "/dev/null"], {
    env: { ...process.env, PORT: "0", LANES: "1", DATA_DIR: folder.path, NODE_ENV: "production" },
    stdio: ["pipe", "pipe", "ignore"],
  });
  onTestFinished(() => void terminal.kill("SIGKILL"));
  let output = "";
  terminal.stdout.on("data", (chunk: Buffer) => (output += chunk.toString()));
  await until("it serves", () => output.includes("Coffer serves"), 30_000);
  const lock = join(folder.path, "coffer.pid");
  const pid = Number.parseInt(readFileSync(lock, "utf8"), 10);
  onTestFinished(() => void (isRunning(pid) && process.kill(pid, "SIGKILL")));

  // When that is closed
  terminal.kill("SIGKILL");

  // Then it ends, and takes its PostgreSQL along
  await until("it has ended", () => !isRunning(pid));
  expect([existsSync(lock), folder.postgresPid()]).toEqual([false, 0]);
});

/** Also false of one that has ended and that nobody has asked about. */
function isRunning(pid: number): boolean {
  const file = `/proc/${pid}/stat`;
  return existsSync(file) && !/\) [ZX] /.test(readFileSync(file, "utf8"));
}
