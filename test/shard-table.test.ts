/**
 * The shard table over several databases: who may write a shard, whatever two hosts do at once, and
 * that a database which is away costs its own shards and nothing else.
 */
import type pg from "pg";
import { afterAll, beforeAll, beforeEach, describe, expect, it, onTestFinished } from "vitest";
import { buildPostgresJournal } from "../src/postgres/journal.ts";
import { buildPostgresShardTable } from "../src/postgres/shard-table.ts";
import type { ShardTable } from "../src/core/shard-table.ts";
import { ALL_SHARDS } from "../src/core/shard.ts";
import { openDatabase, type TestDatabase } from "./stage/audited-database.ts";
import { EVEN, ODD } from "./stage/ids.ts";
import { openWire } from "./stage/wire.ts";

/** Shard `s` is in the one at `s % 2`. */
let databases: TestDatabase[];
let urls: string[];

beforeAll(async () => {
  databases = [await openDatabase("databases_even"), await openDatabase("databases_odd")];
  urls = databases.map(({ url }) => url);
});

afterAll(async () => {
  await Promise.all(databases.map((database) => database.close()));
});

// --- The shard table -----------------------------------------------------------------------------

describe("the shard table", () => {
  let one: ShardTable;
  let other: ShardTable;

  beforeAll(() => {
    one = buildPostgresShardTable(urls);
    other = buildPostgresShardTable(urls);
  });

  afterAll(async () => {
    await Promise.all([one.close(), other.close()]);
  });

  beforeEach(async () => {
    const free = "UPDATE shards SET owner = NULL";
    await Promise.all(databases.map((database) => database.query(free)));
  });

  const fromNobody = (shards: readonly number[]) => new Map(shards.map((shard) => [shard, null]));

  /** What the table says, by shard. */
  async function rows(shards: readonly number[]) {
    const all = await one.read();
    return shards.map((shard) => all[shard]!);
  }

  async function ownersOf(shards: readonly number[]): Promise<Array<string | null>> {
    return (await rows(shards)).map(({ owner }) => owner);
  }

  /** A session that holds the rows of shards of the first database, as a change under way does. */
  async function holdRows(sql: string): Promise<pg.Client> {
    const session = await databases[0]!.session();
    await session.query("BEGIN");
    await session.query(sql);
    return session;
  }

  /** Waits until so many sessions wait for a row of the first database. */
  async function untilWaiting(count: number): Promise<void> {
    const sql = `SELECT count(*) FROM pg_stat_activity
                 WHERE datname = current_database() AND wait_event_type = 'Lock'`;
    await expect.poll(() => databases[0]!.query(sql), { interval: 5 }).toEqual([{ count }]);
  }

  it("gives each shard from its own database, all in order", async () => {
    // Given rows of the other database's shards that would tell otherwise
    await databases[0]!.query("UPDATE shards SET owner = 'wrong' WHERE shard % 2 = 1");
    await databases[1]!.query("UPDATE shards SET owner = 'wrong' WHERE shard % 2 = 0");

    const before = Date.now();
    await one.take("a", fromNobody([6, 7]));
    const all = await one.read();

    expect(all.map(({ shard }) => shard)).toEqual(ALL_SHARDS);
    expect(all.filter(({ owner }) => owner !== null).map(({ shard }) => shard)).toEqual([6, 7]);
    for (const { claimedAtMs } of await rows([6, 7])) {
      expect(Math.abs(claimedAtMs - before)).toBeLessThan(10_000);
    }
  });

  it("is taken from the listed owner only, with the next epoch, and given up by its owner only", async () => {
    const epochs = (await rows([4, 5, 8])).map(({ epoch }) => epoch);

    expect(await one.take("a", fromNobody([5, 4]))).toEqual([4, 5]);
    const listed = new Map([
      [4, "a"],
      [5, null],
      [8, "a"],
    ]);
    expect(await other.take("b", listed)).toEqual([4]);
    expect(await ownersOf([4, 5, 8])).toEqual(["b", "a", null]);
    expect((await rows([4, 5, 8])).map(({ epoch }, nth) => epoch - epochs[nth]!)).toEqual([
      2, 1, 0,
    ]);

    await one.release("a", [4, 5, 8]);
    expect(await ownersOf([4, 5, 8])).toEqual(["b", null, null]);
    expect(await other.take("b", fromNobody([5]))).toEqual([5]);
    expect(await one.take("a", new Map())).toEqual([]);
    await one.release("a", []);
  });

  it("race: of two hosts that take the same shards at once, each shard gets one", async () => {
    for (let round = 0; round < 10; round++) {
      const from = new Map((await one.read()).map(({ shard, owner }) => [shard, owner]));
      const reversed = new Map([...from].toReversed());

      const [nameA, nameB] = [`a-${round}`, `b-${round}`];
      const [a, b] = await Promise.all([one.take(nameA, from), other.take(nameB, reversed)]);

      expect([...a, ...b].toSorted((x, y) => x - y)).toEqual(ALL_SHARDS);
      const owners = await ownersOf(ALL_SHARDS);
      expect(owners).toEqual(ALL_SHARDS.map((shard) => (a.includes(shard) ? nameA : nameB)));
    }
  });

  it("race: a take that waits for another one compares with what that one left", async () => {
    // Given that somebody takes shard 10 and has not committed
    const rival = await holdRows("SELECT take_shards('rival', '{10}', ARRAY[NULL::text])");

    // When another host takes it from nobody, as it has read it
    const take = one.take("a", fromNobody([10, 12]));
    await untilWaiting(1);
    await rival.query("COMMIT");

    // Then it gets the shard that was free, and no other
    expect(await take).toEqual([12]);
    expect(await ownersOf([10, 12])).toEqual(["rival", "a"]);
  });

  it("race: a claim that waits for a take by somebody else gets nothing", async () => {
    await one.take("a", fromNobody([14]));
    const journal = buildPostgresJournal(urls[0]!);
    onTestFinished(() => journal.close());
    const rival = await holdRows("SELECT take_shards('rival', '{14}', '{a}')");

    const claim = journal.claim("a", [14]);
    await untilWaiting(1);
    await rival.query("COMMIT");

    expect(await claim).toEqual(new Map());
  });

  it.each(["take", "claim", "release"] as const)(
    "race: a %s holds no later shard while it waits for an earlier one, or two would deadlock",
    async (what) => {
      // Given two shards whose rows lie in the table the other way round, and somebody who has the
      // earlier one
      await one.take("a", fromNobody(EVEN));
      const journal = buildPostgresJournal(urls[0]!);
      onTestFinished(() => journal.close());
      const [pair] = await databases[0]!.query<{ low: number; high: number }>(
        `SELECT one.shard AS low, two.shard AS high FROM shards one JOIN shards two ON one.ctid > two.ctid
         WHERE one.shard < two.shard AND one.owner = 'a' AND two.owner = 'a' LIMIT 1`,
      );
      const { low, high } = pair!;
      const lock = (shard: number) => `SELECT FROM shards WHERE shard = ${shard} FOR UPDATE`;
      const rival = await holdRows(lock(low));

      // When a change of both waits for it, and the somebody wants the later one
      const from = new Map([high, low].map((shard) => [shard, "a"]));
      const changes = {
        take: () => one.take("b", from),
        claim: () => journal.claim("a", [high, low]),
        release: () => one.release("a", [high, low]),
      };
      const change = changes[what]();
      await untilWaiting(1);
      await rival.query(lock(high));
      await rival.query("COMMIT");

      // Then both get what they want
      await change;
      const owner = { take: "b", claim: "a", release: null }[what];
      expect(await ownersOf([low, high])).toEqual([owner, owner]);
    },
  );

  it("takes while an append of the former owner is under way; the claim waits for it", async () => {
    await one.take("a", fromNobody([16]));
    const journal = buildPostgresJournal(urls[0]!);
    onTestFinished(() => journal.close());
    const append = await holdRows("SELECT pg_advisory_xact_lock_shared(1668245094)");

    expect(await other.take("b", new Map([[16, "a"]]))).toEqual([16]);
    let isClaimed = false;
    const claim = journal.claim("b", [16]).finally(() => (isClaimed = true));
    await untilWaiting(1);
    expect(isClaimed).toBe(false);

    await append.query("COMMIT");
    expect([...(await claim).keys()]).toEqual([16]);
  });

  it.each(["refuses", "is silent"])("leaves out a database that %s, and no other", async (how) => {
    // Given a table that has been read, and then one of its databases is away
    const wire = await openWire(urls[1]!);
    const table = buildPostgresShardTable([urls[0]!, wire.url]);
    onTestFinished(() => table.close());
    expect((await table.read()).map(({ shard }) => shard)).toEqual(ALL_SHARDS);
    if (how === "refuses") wire.close();
    else wire.hang();

    // Then the other's shards are read, taken and released, soon
    const startedAtMs = performance.now();
    expect((await table.read()).map(({ shard }) => shard)).toEqual(EVEN);
    expect(await table.take("a", fromNobody([20, 21]))).toEqual([20]);
    await table.release("a", [20]);
    expect(performance.now() - startedAtMs).toBeLessThan(5_000);
    expect(await ownersOf([20, 21])).toEqual([null, null]);

    // And nobody is told of a release that may not have happened
    await expect(table.release("a", [20, 21])).rejects.toThrow("may not be released");
  });

  it("takes what it can where one database refuses, and says why where it can take nothing", async () => {
    // Given a database that answers and may not be written to
    const readOnly = `DATABASE ${new URL(urls[1]!).pathname.slice(1)} SET default_transaction_read_only`;
    await databases[0]!.query(`ALTER ${readOnly} = on`);
    onTestFinished(async () => void (await databases[0]!.query(`ALTER ${readOnly} = off`)));
    const table = buildPostgresShardTable(urls);
    onTestFinished(() => table.close());

    // Then the other one's shards are taken, and whoever took them is told
    expect(await table.take("a", fromNobody([22, 23]))).toEqual([22]);
    const owners = (await table.read()).map(({ owner }) => owner);
    expect([owners[22], owners[23]]).toEqual(["a", null]);
    await expect(table.take("a", fromNobody([23]))).rejects.toThrow(/cannot be taken: .*read-only/);

    // And where one refuses and the other is away, the refusal is told
    const away = buildPostgresShardTable(["postgres://u@127.0.0.1:1/x", urls[1]!]);
    onTestFinished(() => away.close());
    await expect(away.take("a", fromNobody([22, 23]))).rejects.toThrow(/read-only/);
  });

  it("serves a database again that comes back", async () => {
    const table = buildPostgresShardTable(urls);
    onTestFinished(() => table.close());
    await table.read();
    await databases[1]!.query(
      `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
       WHERE datname = current_database() AND application_name = 'coffer-shards'`,
    );
    await expect.poll(() => table.read(), { interval: 50 }).toHaveLength(ALL_SHARDS.length);
    expect(await table.take("a", fromNobody(ODD))).toEqual(ODD);
  });

  it("says so when no database can be read", async () => {
    const away = buildPostgresShardTable([1, 2].map((port) => `postgres://u@127.0.0.1:${port}/x`));
    onTestFinished(() => away.close());
    await expect(away.read()).rejects.toThrow(/ECONNREFUSED/);
    expect(await away.take("a", fromNobody(ALL_SHARDS))).toEqual([]);
    await expect(away.release("a", [1])).rejects.toThrow(/ECONNREFUSED/);
  });
});
