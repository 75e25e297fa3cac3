/** A process whose wall clock is wrong for a while, and is set right while it serves. */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { Worker } from "node:worker_threads";
import { expect, it, onTestFinished } from "vitest";

import { nowMs } from "../src/clock.ts";
import { packageRoot } from "../src/package-root.ts";
import { askJson } from "./stage/json.ts";
import { dataFolder, startCoffer } from "./stage/process.ts";

const DAY_MS = 86_400_000;

interface Answer {
  readonly status: number;
  readonly body: Record<string, string> & { readonly uptimeSeconds: number };
}

/** Coffer, in all threads, with a wall clock that the test sets. */
async function startWithClock() {
  const folder = mkdtempSync(join(tmpdir(), "coffer-clock-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  const offFile = join(folder, "off");
  const setClock = (byMs: number): void => writeFileSync(offFile, `${byMs}`);
  setClock(0);
  const code = `
    import { readFileSync } from "node:fs";
    const realNow = Date.now;
    let offMs = 0;
    const look = () => { offMs = Number(readFileSync(${JSON.stringify(offFile)}, "utf8") || offMs); };
    look();
    setInterval(look, 10).unref();
    Date.now = () => realNow() + offMs;`;
  const preload = join(folder, "clock.mjs");
  writeFileSync(preload, code);
  const data = dataFolder();
  onTestFinished(() => data.remove());
  const coffer = await startCoffer({
    DATA_DIR: data.path,
    NODE_OPTIONS: `--import ${pathToFileURL(preload).href}`,
  });
  onTestFinished(async () => void (await coffer.stop()));
  await coffer.untilReady();
  async function ask(method: string, path: string, body?: object): Promise<Answer> {
    return await askJson<Answer["body"]>(`${coffer.baseUrl}${path}`, body, { method });
  }
  return { ask, setClock };
}

it("is right again as soon as its clock is", async () => {
  const { ask, setClock } = await startWithClock();
  await ask("POST", "/wallets", { walletId: "untouched", initialBalance: 100 });
  await ask("POST", "/wallets", { walletId: "early" });
  // Given a clock that is a day ahead
  setClock(DAY_MS);
  const ahead = (): Promise<Answer> => ask("POST", "/wallets", {});
  await expect
    .poll(async () => Date.parse((await ahead()).body["createdAt"]!))
    .toBeGreaterThan(Date.now() + DAY_MS / 2);
  const credited = await ask("POST", "/wallets/early/credit", { amount: 1 });
  expect(Date.parse(credited.body["updatedAt"]!)).toBeGreaterThan(Date.now() + DAY_MS / 2);
  // When it is set right
  setClock(0);
  // Then events have the right time, and a hold gets the time that it asks for
  await expect
    .poll(async () => Date.parse((await ahead()).body["createdAt"]!))
    .toBeLessThan(Date.now() + 60_000);
  const expiresAt = new Date(Date.now() + 3_600_000).toISOString();
  const placed = await ask("POST", "/wallets/untouched/holds", { amount: 10, expiresAt });
  expect(placed).toMatchObject({ status: 201, body: { status: "ACTIVE", expiresAt } });
  const short = await ask("POST", "/wallets/untouched/holds", { amount: 5, expiresInSeconds: 1 });
  const path = `/wallets/untouched/holds/${short.body["id"]}`;
  await expect.poll(async () => (await ask("GET", path)).body["status"]).toBe("EXPIRED");
  expect((await ask("GET", `/wallets/untouched/holds/${placed.body["id"]}`)).body).toMatchObject({
    status: "ACTIVE",
  });
});

it("goes on when its clock is set back or stands still, and says how long it runs", async () => {
  const { ask, setClock } = await startWithClock();
  await ask("POST", "/wallets", { walletId: "w1", initialBalance: 100 });
  await ask("POST", "/wallets", { walletId: "w2" });
  setClock(-DAY_MS);
  await expect
    .poll(async () => Date.parse((await ask("POST", "/wallets", {})).body["createdAt"]!))
    .toBeLessThan(Date.now() - DAY_MS / 2);
  const moved = await ask("POST", "/wallets/w1/transfer", { toWalletId: "w2", amount: 10 });
  expect(moved).toMatchObject({ status: 200, body: { status: "posted" } });
  expect((await ask("GET", "/health")).body.uptimeSeconds).toBeGreaterThanOrEqual(0);
});

it("waits by one time in all threads, also in one that starts after the clock was set", async () => {
  const beforeMs = nowMs();
  const clock = pathToFileURL(join(packageRoot, "dist", "src", "clock.js")).href;
  const code = `Date.now = () => 0;
    const { parentPort } = require("node:worker_threads");
    import(${JSON.stringify(clock)}).then(({ nowMs }) => parentPort.postMessage(nowMs()));`;
  const thread = new Worker(code, { eval: true });
  const thereMs = await new Promise<number>((resolve, reject) => {
    thread.once("message", resolve);
    thread.once("error", reject);
  });
  expect(thereMs).toBeGreaterThanOrEqual(beforeMs);
  expect(thereMs).toBeLessThanOrEqual(nowMs());
});
