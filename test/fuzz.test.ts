/**
 * Random requests, of which most are wrong: each is answered in time, changes no money that it may
 * not, and none is an error of Coffer's own.
 *
 * Replay a failure: the test's name has the seed; `FC_SEED=<seed> npx vitest run --project
 * integration test/fuzz.test.ts`.
 */
import fc from "fast-check";
import { expect, it } from "vitest";
import { ERRORS } from "../gateway/errors.ts";
import {
  describeTheEnd,
  keepBalances,
  REFUSAL_MS_MAX,
  stack,
  stake,
  useBadInputStage,
  words,
} from "./stage/bad-input.ts";
import type { AskOptions } from "./stage/stack.ts";

useBadInputStage();

// --- Fuzz ----------------------------------------------------------------------------------------

const seed = Number(process.env["FC_SEED"] ?? Math.trunc(Math.random() * 2 ** 31));

const values = fc.oneof(
  {
    weight: 2,
    arbitrary: fc.constantFrom<unknown>(0, -1, 0.5, 1, "1", "1e3", 1e21, "", null, [], {}),
  },
  { weight: 2, arbitrary: fc.jsonValue() },
  { weight: 1, arbitrary: fc.string({ unit: "binary" }) },
);

function requests(): fc.Arbitrary<{ method: string; path: string; options: AskOptions }> {
  const ids = fc.oneof(
    { weight: 3, arbitrary: fc.constantFrom(stake.from, stake.to, stake.empty) },
    { weight: 1, arbitrary: fc.string({ unit: "binary" }).map(encodeURIComponent) },
  );
  const tails = words(
    "/credit /debit /transfer /suspend /activate /close /transactions /events /transfers /holds /x",
  ).concat("");
  const paths = fc.oneof(
    {
      weight: 4,
      arbitrary: fc
        .tuple(ids, fc.constantFrom(...tails))
        .map(([id, tail]) => `/wallets/${id}${tail}`),
    },
    {
      weight: 2,
      arbitrary: fc.constantFrom("/wallets", "/wallets/fund", "/wallets/transfer", "/assets"),
    },
    { weight: 1, arbitrary: ids.map((id) => `/operations/${id}`) },
    { weight: 1, arbitrary: fc.webPath().map((path) => `/${path}`) },
  );
  const names = fc.constantFrom(
    ...words(
      "amount toWalletId wallet_id senderWalletId receiverWalletId walletId initialBalance currency ownerId description metadata expectedVersion idempotencyKey reason limit cursor from type status include",
    ),
  );
  const fields = fc.array(
    fc.tuple(
      fc.oneof({ weight: 6, arbitrary: names }, { weight: 1, arbitrary: fc.string() }),
      fc.oneof({ weight: 2, arbitrary: values }, { weight: 1, arbitrary: ids }),
    ),
    { maxLength: 5 },
  );
  const queries = fc.oneof(
    { weight: 3, arbitrary: fc.constant("") },
    { weight: 1, arbitrary: fc.webQueryParameters() },
    {
      weight: 1,
      arbitrary: fc
        .tuple(names, fc.string({ unit: "binary" }))
        .map(([name, value]) => `${name}=${encodeURIComponent(value)}`),
    },
  );
  const texts = fc.oneof(
    { weight: 6, arbitrary: fields.map((pairs) => JSON.stringify(Object.fromEntries(pairs))) },
    { weight: 1, arbitrary: fc.json() },
    { weight: 1, arbitrary: fc.string({ unit: "binary" }) },
  );
  const methods = fc.constantFrom(...words("POST POST POST POST PATCH GET GET PUT DELETE HEAD"));
  return fc
    .record({ method: methods, path: paths, query: queries, text: texts })
    .map(({ method, path, query, text }) => ({
      method,
      path: query === "" ? path : `${path}?${query}`,
      options: method === "GET" || method === "HEAD" ? {} : { text },
    }));
}

/** What comes of one random request. */
async function expectHarmless(method: string, path: string, options: AskOptions): Promise<void> {
  const sumBefore = await sumOfBalances();
  const startedAtMs = performance.now();
  const { status, body, text } = await stack.ask(method, path, options);
  expect(performance.now() - startedAtMs).toBeLessThan(REFUSAL_MS_MAX);
  expect([status, text]).toEqual([Math.min(status, 499), text]);
  if (status < 400) return;
  expect(await sumOfBalances()).toBe(sumBefore);
  if (method === "HEAD") return;
  const statuses = new Map(Object.entries(ERRORS).map(([code, error]) => [code, error.status]));
  expect(statuses.get(body.code) ?? body.code).toBe(status);
}

async function sumOfBalances(): Promise<string> {
  const [row] = await stack.sql<{ sum: string }>("SELECT sum(balance)::text FROM wallets");
  return row!.sum;
}

it(`Random requests never break anything (FC_SEED=${seed})`, async () => {
  let taken = 0;
  try {
    const property = fc.asyncProperty(requests(), async ({ method, path, options }) => {
      await expectHarmless(method, path, options);
      taken++;
    });
    await fc.assert(property, { seed, numRuns: 1_500, endOnFailure: true });
    const sums = "SELECT sum(balance)::int AS sum FROM trial_balance GROUP BY currency";
    for (const { sum } of await stack.sql<{ sum: number }>(sums)) expect(sum).toBe(0);
  } finally {
    // What was taken rightly is no harm.
    await keepBalances();
  }
  expect(taken).toBe(1_500);
});

describeTheEnd();
