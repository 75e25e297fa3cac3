/**
 * The stage of the tests of bad input: one stack, whose balances must be the same after each test,
 * and what is right about the refusal of a request: its status, its code, the field that it names,
 * its size, and its time.
 */
import assert from "node:assert/strict";
import { afterAll, afterEach, beforeAll, expect, it } from "vitest";
import { unique } from "./ids.ts";
import { startStack, type AskOptions, type Stack } from "./stack.ts";
import { openStake, type Stake, type WriteRoute } from "./write-routes.ts";

/** A refusal is due within this time, in milliseconds. */
export const REFUSAL_MS_MAX = 2_000;
/** Instead of `LIMITS.httpRequestMs`, so that slow requests can be waited for. */
const REQUEST_MS = 800;

export let stack: Stack;
export let stake: Stake;
let before: unknown;

/** Everything that must not change. */
function balances(): Promise<unknown> {
  return stack.sql("SELECT wallet_id, balance, status, version FROM wallets ORDER BY wallet_id");
}

export type Expected = readonly [status: number, code: string, field?: string];
export type Row = readonly [expected: Expected, options: AskOptions];

/** What is wrong with the refusal of one request; null when it is as it has to be. */
export async function wrongIn(
  [status, code, field]: Expected,
  method: string,
  path: string,
  options: AskOptions,
): Promise<string | null> {
  const startedAtMs = performance.now();
  const { status: given, headers, text, body } = await stack.ask(method, path, options);
  const tookMs = performance.now() - startedAtMs;
  const details = JSON.stringify([body?.details]);
  const isNamed =
    field === undefined ||
    (details.includes(JSON.stringify(field).slice(1, -1)) && body.message.includes(field));
  const isRight =
    given === status &&
    body?.code === code &&
    body.statusCode === status &&
    /\w/.test(body.message) &&
    body.correlationId === headers["x-correlation-id"] &&
    text.length < 4_000 &&
    tookMs < REFUSAL_MS_MAX &&
    isNamed;
  if (isRight) return null;
  const sent = (options.text ?? JSON.stringify(options)).slice(0, 200);
  const wanted = [status, code, field].join(" ");
  return `${method} ${path.slice(0, 100)} ${sent}: ${given} ${text.slice(0, 300)}, not ${wanted}`;
}

/** All that is wrong in a table of requests by one way to write. */
export async function wrongInWrites(
  write: WriteRoute,
  rows: readonly Row[],
  path = write.path(stake),
): Promise<string[]> {
  const wrong: string[] = [];
  for (const [expected, options] of rows) {
    const problem = await wrongIn(expected, write.method, path, options);
    if (problem !== null) wrong.push(problem);
  }
  return wrong;
}

export const invalid = [422, "validation_failed"] as const;

/** Texts without blanks, written as words. */
export const words = (text: string) => text.split(" ");

/** From now on these are the balances that must not change. */
export async function keepBalances(): Promise<void> {
  before = await balances();
}

/** A stack for the tests of a file; none of them may change a balance. */
export function useBadInputStage(): void {
  beforeAll(async () => {
    stack = await startStack({
      prepare({ server }) {
        server.requestTimeout = REQUEST_MS;
        server.headersTimeout = REQUEST_MS;
        Object.assign(server, { connectionsCheckingInterval: 100 });
      },
    });
    stake = await openStake(stack);
    before = await balances();
  });

  afterEach(async () => {
    assert.deepEqual(await balances(), before);
  });

  afterAll(() => stack.close());
}

/** What holds after all tests of a file; to be called last. */
export function describeTheEnd(): void {
  it("The server serves after all that, and none of it was an error of its own", async () => {
    expect(stack.errors).toEqual([]);
    expect((await stack.get("/health/ready")).status).toBe(200);
    const key = unique("key");
    const reply = await stack.post("/wallets", { walletId: unique("w"), initialBalance: 3 }, key);
    expect([reply.status, reply.body.balance]).toEqual([201, 3]);
    await keepBalances();
  });
}
