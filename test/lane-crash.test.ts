/**
 * A lane's thread dies under load: it is ended from outside, it throws where nobody catches, or a
 * command breaks it. The race: the thread had sent a commit and is gone before it could tell.
 * Piscina starts another thread, which claims the shards anew; the command desk sends the same ids
 * again, and callers end with the one outcome. Host and desk are real, in this process, on a real
 * database.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { afterAll, beforeAll, expect, inject, it, onTestFinished } from "vitest";
import { buildCommandDesk, type CommandDesk } from "../gateway/commands.ts";
import { buildMemoryBus } from "../src/bus/memory-bus.ts";
import type { Command } from "../src/core/protocol.ts";
import { createMigratedDatabase } from "./stage/migrated-database.ts";
import { dropDatabase } from "./stage/servers.ts";
import { buildTestHost, until, type TestHost } from "./stage/stack.ts";
import { askDesk, buildWorkload, checkBank, commandOf, type Workload } from "./stage/workload.ts";

let databaseUrl: string;
let running: TestHost;
let desk: CommandDesk;
/** What the host said, and what it would have ended the process for. */
const log: string[] = [];

beforeAll(async () => {
  databaseUrl = await createMigratedDatabase("lane_crash");
  const bus = buildMemoryBus();
  const keep = (text: string): void => void log.push(text);
  running = buildTestHost({
    bus,
    databaseUrl,
    laneCount: 2,
    log: { info: keep, warn: keep, error: keep, fatal: keep },
    onFatal: (reason) => log.push(`FATAL ${reason}`),
  });
  await running.host.start();
  desk = buildCommandDesk({ bus, gatewayId: "gateway" });
});

afterAll(async () => {
  await desk.drain();
  await running.close();
  await dropDatabase(inject("postgresUrl"), "lane_crash");
});

/** A bank at work on the host with its two lanes. */
async function openBank(name: string): Promise<Workload> {
  const bank = buildWorkload({ ask: askDesk(desk), name, callers: 16, wallets: 12 });
  await bank.open();
  bank.start();
  onTestFinished(() => bank.stop());
  await bank.progress(50);
  return bank;
}

async function expectRightOutcomes(bank: Workload): Promise<void> {
  await bank.progress(50);
  await bank.stop();
  await bank.resolve();
  expect(bank.count("wrong")).toBe(0);
  expect(await checkBank(databaseUrl, bank)).toEqual([]);
  expect(log.filter((line) => line.startsWith("FATAL"))).toEqual([]);
}

const KILLS = 8;

it("callers end with the one outcome when threads are killed between commit and reply", async () => {
  // Given a bank at work
  const bank = await openBank("killed");

  // When one thread after the other is killed, a little later in its work each time
  for (let kill = 0; kill < KILLS; kill += 1) {
    const [thread] = running.lanes.pools[kill % 2]!.threads;
    await sleep(kill);
    await thread!.terminate();
    await bank.progress(40);
  }

  // Then every command happened once or not at all, as its caller was told, without the caller
  // asking twice
  const told = log.filter((line) => line.includes("outcomes are unknown"));
  expect(told).not.toEqual([]);
  for (const line of told) {
    expect(line).toMatch(
      /^lane-[01] ended \(worker exited with code: 1\); \d+ outcomes are unknown$/,
    );
  }
  expect(bank.count("unknown")).toBe(0);
  await expectRightOutcomes(bank);
});

it("a thread that throws where nobody catches takes no command with it", async () => {
  // Given a bank at work
  const bank = await openBank("uncaught");

  // When each thread gets a message that its runtime cannot read, which ends in an uncaught error
  for (const pool of running.lanes.pools) {
    const [thread] = pool.threads;
    const gone = new Promise((resolve) => thread!.once("exit", resolve));
    thread!.postMessage({});
    await gone;
    await bank.progress(40);
  }

  // Then the next threads serve, and every command has its outcome
  await expectRightOutcomes(bank);
  await until("the lanes serve", () => running.host.status().ready);
  expect(bank.count("wrong")).toBe(0);
});

it("a command that ends every thread it meets is given up as unknown, and the others go on", async () => {
  // Given a bank at work
  const bank = await openBank("poison");
  const { command } = bank.entries[0]!;

  // When a command comes that no lane survives
  const poison = { ...commandOf(command), commandId: "poison", body: { type: "no such command" } };
  const outcome = await desk.submit(poison as unknown as Command);

  // Then it is sent a few times and not for ever, and it is not claimed that nothing happened
  expect(outcome).toEqual({ type: "fault", fault: "unknown" });
  await expectRightOutcomes(bank);
});
