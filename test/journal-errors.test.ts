/**
 * What an append makes of the errors of a real PostgreSQL: which of them leave nothing behind, which
 * leave that open, and which nobody knows how to go on from. A trigger raises them, at the first
 * event that a commit inserts.
 */
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from "vitest";
import type { Journal } from "../src/core/journal.ts";
import { buildPostgresJournal } from "../src/postgres/journal.ts";
import { ALL_SHARDS } from "../src/core/shard.ts";
import type { WalletState } from "../src/core/wallet.ts";
import { openDatabase, type TestDatabase } from "./stage/audited-database.ts";
import { unique } from "./stage/ids.ts";
import { creditDraft, draft, putWallet } from "./stage/journal-drafts.ts";

const OWNER = "host-1";
const COMMITTED = { type: "committed" };

let database: TestDatabase;
let journal: Journal;
let epochs: Map<number, number>;
let wallet: WalletState;

beforeAll(async () => {
  database = await openDatabase("journal_errors");
  await database.query(`UPDATE shards SET owner = '${OWNER}'`);
});

afterAll(() => database.close());

beforeEach(async () => {
  journal = buildPostgresJournal(database.url);
  onTestFinished(() => journal.close());
  epochs = await journal.claim(OWNER, ALL_SHARDS);
  const writes = draft(epochs);
  wallet = putWallet(writes, unique("w"), 10_000, unique("command"));
  expect(await journal.append(writes)).toEqual(COMMITTED);
});

/** Does it at each event that is inserted, until the returned function is called. */
async function atEachEvent(statement: string): Promise<() => Promise<void>> {
  await database.query(
    `CREATE FUNCTION disturb() RETURNS trigger LANGUAGE plpgsql AS
     $$ BEGIN ${statement}; RETURN new; END $$`,
  );
  await database.query(
    "CREATE TRIGGER disturbed BEFORE INSERT ON events FOR EACH ROW EXECUTE FUNCTION disturb()",
  );
  const end = async (): Promise<void> => {
    await database.query("DROP TRIGGER IF EXISTS disturbed ON events");
    await database.query("DROP FUNCTION IF EXISTS disturb");
  };
  onTestFinished(end);
  return end;
}

describe("an append that fails", () => {
  it.each([
    ["40001", "refused"],
    ["40P01", "refused"],
    ["42501", "refused"],
    ["53100", "refused"],
    ["53300", "refused"],
    ["55P03", "refused"],
    ["57014", "refused"],
    ["58030", "refused"],
    ["25006", "refused"],
    ["26000", "refused"],
    ["08006", "unknown"],
    ["25P03", "unknown"],
    ["25P04", "unknown"],
    ["57P01", "unknown"],
    ["CF002", "stale"],
    ["23505", "stale"],
  ])("with %s is %s, and the same one works afterwards", async (code, type) => {
    const writes = creditDraft(epochs, wallet);
    const end = await atEachEvent(`RAISE 'no' USING ERRCODE = '${code}'`);
    const result = await journal.append(writes);
    expect(result).toEqual({ type, reason: `${code} no` });
    await end();
    expect(await journal.append(writes)).toEqual(COMMITTED);
  });

  it.each(["42P01", "XX000", "22003"])("with %s is nothing to go on from", async (code) => {
    await atEachEvent(`RAISE 'no' USING ERRCODE = '${code}'`);
    const append = journal.append(creditDraft(epochs, wallet));
    await expect(append).rejects.toMatchObject({ code });
  });
});

it("goes on over a new connection when the session has lost its statements", async () => {
  // Given an append in whose session somebody forgets all that was prepared, as poolers do
  const end = await atEachEvent("EXECUTE 'DEALLOCATE ALL'");
  const first = creditDraft(epochs, wallet);
  expect(await journal.append(first)).toEqual(COMMITTED);
  await end();
  const { state } = (await journal.loadWallets([wallet.walletId])).wallets.get(wallet.walletId)!;
  const second = creditDraft(epochs, state!);

  // When the next one finds nothing to run, then that has written nothing
  expect(await journal.append(second)).toMatchObject({
    type: "refused",
    reason: expect.stringMatching(/^26000 /) as string,
  });
  // And the one after it works
  expect(await journal.append(second)).toEqual(COMMITTED);
});
