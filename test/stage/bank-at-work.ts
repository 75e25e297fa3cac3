/** A bank at work over HTTP while a test does something to what serves it, and its judgement. */
import { expect, onTestFinished } from "vitest";
import {
  askOverHttp,
  buildWorkload,
  checkBank,
  checkOverHttp,
  type Workload,
  type WorkloadPlan,
} from "./workload.ts";

/** A bank whose callers take turns with these gateways; at work until the test ends. */
export async function openBankAt(
  ports: readonly number[],
  plan: Omit<WorkloadPlan, "ask">,
): Promise<Workload> {
  const ask = askOverHttp(...ports);
  onTestFinished(() => ask.close());
  const bank = buildWorkload({ ask, ...plan });
  await bank.open();
  bank.start();
  onTestFinished(() => bank.stop());
  await bank.progress(100);
  return bank;
}

/** Every command has one outcome, by its key, and callers, gateways and database agree on it. */
export async function expectRightOutcomesAt(
  ports: readonly number[],
  databaseUrl: string,
  bank: Workload,
): Promise<void> {
  await bank.stop();
  await bank.resolve();
  for (const port of ports) expect(await checkOverHttp(port, bank)).toEqual([]);
  expect(await checkBank(databaseUrl, bank)).toEqual([]);
}
