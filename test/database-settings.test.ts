/**
 * What somebody else sets on Coffer's role or database, or does to it: each is either of no effect
 * on what commits rest on, or told as what it is, and passes by itself when it is taken back.
 */
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";
import type pg from "pg";
import {
  afterAll,
  afterEach,
  beforeAll,
  beforeEach,
  describe,
  expect,
  inject,
  it,
  onTestFinished,
} from "vitest";
import { withClient } from "../src/database.ts";
import { HistoryLostError, type Journal } from "../src/core/journal.ts";
import { buildPostgresJournal } from "../src/postgres/journal.ts";
import { buildPostgresReadModel } from "../src/postgres/read-model.ts";
import { buildPostgresShardTable } from "../src/postgres/shard-table.ts";
import { ALL_SHARDS, shardOf } from "../src/core/shard.ts";
import type { WalletState } from "../src/core/wallet.ts";
import { checkBooks, openDatabase, type TestDatabase } from "./stage/audited-database.ts";
import { idIn, unique } from "./stage/ids.ts";
import { draft, putCredit, putWallet, type Draft } from "./stage/journal-drafts.ts";
import { runCoffer, startCoffer } from "./stage/process.ts";
import { createDatabase, onServer } from "./stage/servers.ts";
import {
  openRefusing,
  openWithStrangeCertificate,
  withoutOptions,
} from "./stage/strange-servers.ts";
import { openWire } from "./stage/wire.ts";

const NAME = "database_settings";
const OWNER = "host-1";
const ROLE = "coffer_plain";

let database: TestDatabase;
/** For a role that may what tables grant it, and is no superuser. */
let plainUrl: string;

beforeAll(async () => {
  database = await openDatabase(NAME);
  await database.query(`DROP ROLE IF EXISTS ${ROLE}`);
  await database.query(`CREATE ROLE ${ROLE} LOGIN PASSWORD 'plain'`);
  await database.query("INSERT INTO deployment VALUES (true, gen_random_uuid(), 0, 1)");
  await database.query(`GRANT ALL ON ALL TABLES IN SCHEMA public TO ${ROLE}`);
  const url = new URL(database.url);
  url.username = ROLE;
  url.password = "plain";
  plainUrl = url.href;
});

afterAll(async () => {
  await database.query(`DROP OWNED BY ${ROLE}`);
  await database.query(`DROP ROLE ${ROLE}`);
  await database.close();
});

afterEach(async () => {
  await database.query(`ALTER DATABASE ${NAME} RESET ALL`);
});

// --- Commits -------------------------------------------------------------------------------------

describe("commits", () => {
  let epochs: Map<number, number>;

  beforeEach(async () => {
    await database.query(`UPDATE shards SET owner = '${OWNER}'`);
  });

  /** Connects after what the test has set, and may write everything. */
  async function open(url = database.url): Promise<Journal> {
    const journal = buildPostgresJournal(url);
    onTestFinished(() => journal.close());
    epochs = await journal.claim(OWNER, ALL_SHARDS);
    return journal;
  }

  async function openWallet(journal: Journal, walletId = unique("w")): Promise<WalletState> {
    const writes = draft(epochs);
    const state = putWallet(writes, walletId, 10_000, unique("command"));
    expect(await journal.append(writes)).toEqual({ type: "committed" });
    return state;
  }

  function creditOf(state: WalletState): Draft {
    const writes = draft(epochs);
    putCredit(writes, state, 1);
    return writes;
  }

  it("go to Coffer's own tables, whatever schema stands before them", async () => {
    // Given a copy of a table in a schema that the search path names first
    await database.query("CREATE SCHEMA copies");
    onTestFinished(async () => void (await database.query("DROP SCHEMA copies CASCADE")));
    await database.query("CREATE TABLE copies.wallets (LIKE public.wallets INCLUDING ALL)");
    await database.query(`ALTER DATABASE ${NAME} SET search_path = copies, public`);

    // When a wallet is made and read
    const journal = await open();
    const { walletId } = await openWallet(journal);
    const reads = buildPostgresReadModel({ databaseUrls: [database.url] });
    onTestFinished(() => reads.close());

    // Then the copy has nothing to do with it
    expect(await database.query("SELECT FROM copies.wallets")).toEqual([]);
    expect(await reads.wallet(walletId)).toMatchObject({ walletId });
  });

  it("are durable and fenced, and so is who may make them, whatever is usual there", async () => {
    // Given a database whose sessions commit at ease, and see what was there when they began
    await database.query(`ALTER DATABASE ${NAME} SET synchronous_commit = off`);
    await database.query(
      `ALTER DATABASE ${NAME} SET default_transaction_isolation = 'repeatable read'`,
    );
    await database.query(
      `CREATE TABLE seen AS SELECT '' AS what, '' AS durable, '' AS isolation WHERE false;
       CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
         INSERT INTO public.seen VALUES (TG_ARGV[0], current_setting('synchronous_commit'), current_setting('transaction_isolation'));
         RETURN NULL;
       END $$;
       CREATE TRIGGER seen AFTER UPDATE ON shards EXECUTE FUNCTION see('shards');
       CREATE TRIGGER seen AFTER INSERT ON events EXECUTE FUNCTION see('events')`,
    );
    onTestFinished(async () => {
      await database.query("DROP FUNCTION see CASCADE; DROP TABLE seen");
    });

    // When shards are taken, claimed, written and released
    const table = buildPostgresShardTable([database.url]);
    onTestFinished(() => table.close());
    expect(await table.take(OWNER, new Map([[1, OWNER]]))).toEqual([1]);
    await openWallet(await open());
    await table.release(OWNER, [1]);

    // Then each rests on what it needs
    const needed = { durable: "on", isolation: "read committed" };
    expect(await database.query("SELECT * FROM seen")).toEqual(
      ["shards", "shards", "events", "shards"].map((what) => ({ what, ...needed })),
    );
  });

  it("have an unknown outcome when a transaction's time ends them, and are found", async () => {
    // Given a bound that PostgreSQL counts from the transaction's begin to its end (17 and later)
    await database.query(`ALTER DATABASE ${NAME} SET transaction_timeout = '700ms'`);
    const journal = await open();
    const wallet = await openWallet(journal);

    // When an append waits for longer
    const operator = await holdEvents();
    const result = await journal.append(creditOf(wallet));
    await operator.query("ROLLBACK");

    // Then nobody claims to know, and the same append works after a claim
    expect(result).toMatchObject({ type: "unknown", reason: expect.stringContaining("25P04") });
    epochs = await journal.claim(OWNER, ALL_SHARDS);
    expect(await journal.append(creditOf(wallet))).toEqual({ type: "committed" });
  });

  it("are refused while a privilege is taken away", async () => {
    const journal = await open(plainUrl);
    const wallet = await openWallet(journal);
    await database.query(`REVOKE INSERT ON events FROM ${ROLE}`);
    const result = await journal.append(creditOf(wallet));
    await database.query(`GRANT INSERT ON events TO ${ROLE}`);
    expect(result).toMatchObject({ type: "refused", reason: expect.stringContaining("42501") });
    expect(await journal.append(creditOf(wallet))).toEqual({ type: "committed" });
  });

  it("go on over a new connection when the server may be written to again", async () => {
    // Given a writer that has connected while the database was read-only, which is its session's
    // for good
    const before = await open();
    const wallet = await openWallet(before);
    await database.query(`ALTER DATABASE ${NAME} SET default_transaction_read_only = on`);
    const journal = buildPostgresJournal(database.url);
    onTestFinished(() => journal.close());
    const refused = await journal.append(creditOf(wallet));
    expect(refused).toMatchObject({ type: "refused", reason: expect.stringContaining("25006") });

    // When that is taken back
    await database.query(`ALTER DATABASE ${NAME} RESET default_transaction_read_only`);

    // Then the next append is one of a session that may write
    expect(await journal.append(creditOf(wallet))).toEqual({ type: "committed" });
  });

  it("end, and leave no gap in a shard's places, when the server has lost some", async () => {
    // Given wallets of two shards, and a last commit of the first one
    const journal = await open();
    const first = await openWallet(journal);
    const beside = await openWallet(journal, idIn([shardOf(first.walletId)]));
    const other = await openWallet(journal, idIn([(shardOf(first.walletId) + 1) % 256]));
    expect(await journal.append(creditOf(first))).toEqual({ type: "committed" });

    // When that is gone, as after the loss of a server whose standby was behind
    await loseLast(first);
    await endConnections();

    // Then the journal, of which others remember what is gone, takes nothing more: not in the other
    // shard either, also when it is claimed meanwhile; at its second try if only the first one tells
    // it that its connection is gone
    epochs = await journal.claim(OWNER, [shardOf(other.walletId)]);
    await expect
      .poll(() => journal.append(creditOf(other)).catch((error: unknown) => error))
      .toBeInstanceOf(HistoryLostError);
    await expect(journal.claim(OWNER, ALL_SHARDS)).rejects.toThrow(HistoryLostError);

    // And one that begins anew takes the place of what is gone
    expect(await (await open()).append(creditOf(beside))).toEqual({ type: "committed" });
    await checkBooks(database);
  });

  it("are not missed in a shard that comes back while they are looked for", async () => {
    // Given a shard that another journal has taken, and a look at it whose answer is late
    const relay = await startRelay(database.url);
    const journal = await open(relay.url);
    const gone = await openWallet(journal);
    const kept = await openWallet(journal, idIn([(shardOf(gone.walletId) + 1) % 256]));
    const there = await open();
    await endConnections();
    relay.holdAnswerTo("max(e.position)");
    // The journal must have heard of that
    await delay(200);
    const looking = journal.append(creditOf(kept));
    const look = `SELECT FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle'
                  AND application_name = 'coffer-writer' AND query LIKE '%max(e.position)%'`;
    await expect.poll(() => database.query(look)).toHaveLength(1);

    // When the other one writes there and hands it back, all before the answer
    expect(await there.append(creditOf(gone))).toEqual({ type: "committed" });
    epochs = await journal.claim(OWNER, ALL_SHARDS);
    relay.goOn();

    // Then nothing is taken for lost
    expect(await looking).toMatchObject({ type: "fenced" });
    expect(await journal.append(creditOf(kept))).toEqual({ type: "committed" });
  });

  interface Relay {
    readonly url: string;
    /** From the next question with these words on, its connection's answers wait for `goOn`. */
    holdAnswerTo(words: string): void;
    goOn(): void;
  }

  /** Passes on what goes between a journal and its database. */
  async function startRelay(databaseUrl: string): Promise<Relay> {
    const { hostname, port } = new URL(databaseUrl);
    let words: string | null = null;
    let held: Socket | undefined;
    const server = createServer((client) => {
      const upstream = connect(Number(port), hostname);
      client.on("data", (bytes) => {
        if (words !== null && bytes.includes(words)) {
          words = null;
          held = upstream.pause();
        }
        upstream.write(bytes);
      });
      upstream.on("data", (bytes) => client.write(bytes));
      for (const [one, other] of [
        [client, upstream],
        [upstream, client],
      ] as const) {
        one.on("error", () => undefined).on("close", () => other.destroy());
      }
    });
    await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
    onTestFinished(() => void server.close());
    const url = new URL(databaseUrl);
    url.port = String((server.address() as AddressInfo).port);
    return {
      url: url.href,
      holdAnswerTo: (given) => (words = given),
      goOn: () => held?.resume(),
    };
  }

  /** Takes back the last commit of a wallet, without a trigger. */
  async function loseLast({ walletId, version }: WalletState): Promise<void> {
    const operator = await database.session();
    await operator.query("SET session_replication_role = replica");
    const where = [walletId, version + 1];
    await operator.query("DELETE FROM events WHERE wallet_id = $1 AND version = $2", where);
    await operator.query(
      `UPDATE wallets w SET version = e.version, balance = e.balance, hash = e.hash FROM events e
       WHERE w.wallet_id = $1 AND e.wallet_id = $1 AND e.version = $2 - 1`,
      where,
    );
  }

  async function endConnections(): Promise<void> {
    await database.query(
      `SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
       WHERE datname = current_database() AND application_name LIKE 'coffer-%'`,
    );
  }

  /** An operator's session that keeps appends waiting. */
  async function holdEvents(): Promise<pg.Client> {
    const operator = await database.session();
    await operator.query("SET transaction_timeout = 0");
    await operator.query("BEGIN; LOCK TABLE events");
    return operator;
  }
});

// --- Starts --------------------------------------------------------------------------------------

it("says why shards cannot be taken where nothing may be written", async () => {
  await database.query(`ALTER DATABASE ${NAME} SET default_transaction_read_only = on`);
  const table = buildPostgresShardTable([database.url]);
  onTestFinished(() => table.close());
  const owners = await table.read();
  const from = new Map(owners.map(({ shard, owner }) => [shard, owner]));
  await expect(table.take("host-2", from)).rejects.toThrow(/cannot be taken: .*read-only/);
});

it("takes as long for a migration as it takes, whatever the role allows a statement", async () => {
  await database.query(`ALTER DATABASE ${NAME} SET statement_timeout = '20ms'`);
  const rows = await withClient(database.url, async (client) => {
    return (await client.query("SELECT pg_sleep(0.1), 1 AS done")).rows;
  });
  expect(rows).toMatchObject([{ done: 1 }]);
});

describe("a new database", () => {
  const url = () => newUrl.href;
  let newUrl: URL;

  beforeEach(async () => {
    newUrl = new URL(plainUrl);
    newUrl.pathname = "/database_settings_new";
    await createDatabase(database.url, "database_settings_new");
  });

  afterEach(async () => {
    await onServer(database.url, "DROP DATABASE database_settings_new WITH (FORCE)");
  });

  it("where the role may make no tables ends the start with what to mend", async () => {
    const { code, output } = await runCoffer({ DATABASE_URL: url() });
    expect(code).toBe(1);
    expect(output).toContain(
      "/database_settings_new (DATABASE_URL) cannot be used: permission denied for schema public",
    );
    expect(output).not.toContain("nobody expected");
  });

  it("where nothing may be written yet is waited for", { timeout: 60_000 }, async () => {
    // Given a database that is read-only, and a start that has heard so
    await onServer(
      database.url,
      `GRANT CREATE ON DATABASE database_settings_new TO ${ROLE};
       ALTER DATABASE database_settings_new OWNER TO ${ROLE};
       ALTER DATABASE database_settings_new SET default_transaction_read_only = on`,
    );
    const wire = await openWire(url());
    const starting = startCoffer({ DATABASE_URL: wire.url, LOG_LEVEL: "warn" });
    await Promise.race([wire.heard("read-only transaction"), starting]);

    // When it is writable again
    await onServer(
      database.url,
      "ALTER DATABASE database_settings_new RESET default_transaction_read_only",
    );

    // Then it serves
    const coffer = await starting;
    onTestFinished(async () => void (await coffer.kill()));
    await coffer.untilReady();
    expect((await coffer.stop()).code).toBe(0);
  });

  it.each([
    ["a wrong password", (it: URL) => (it.password = "wrong"), "password authentication failed"],
    ["TLS where there is none", (it: URL) => (it.search = "sslmode=verify-full"), "SSL"],
    [
      "a certificate in no file",
      (it: URL) => (it.search = "sslmode=verify-full&sslrootcert=/nowhere/ca.pem"),
      "/nowhere/ca.pem",
    ],
  ])("is refused by a gateway with %s, in one line", async (_what, spoil, reason) => {
    spoil(newUrl);
    const { code, output } = await runCoffer({
      ROLE: "gateway",
      DATABASE_URL: url(),
      NATS_URL: "nats://127.0.0.1:1",
    });
    expect(code).toBe(1);
    expect(output).toMatch(new RegExp(`\\(DATABASE_URL\\) cannot be used: .*${reason}`));
    expect(output).not.toContain("nobody expected");
  });
});

describe("a server that does not get what Coffer sets for its sessions", () => {
  const nats = inject("natsUrl");

  it.each([
    ["all", {}],
    ["gateway", { NATS_URL: nats }],
  ])("is refused by the role %s, whose commits might not last", async (role, more) => {
    // Given a role whose commits are answered before they are on the disk, behind a pooler
    await database.query(`ALTER ROLE ${ROLE} SET synchronous_commit = off`);
    onTestFinished(async () => void (await database.query(`ALTER ROLE ${ROLE} RESET ALL`)));
    const wire = await openWire(plainUrl, 0, withoutOptions);

    // When Coffer starts
    const { code, output } = await runCoffer({ ROLE: role, DATABASE_URL: wire.url, ...more });

    // Then it says why it does not, and nothing else
    expect(output).toMatch(
      /\(DATABASE_URL\) does not get what Coffer sets for its sessions, .*\n$/,
    );
    expect(output).not.toContain("nobody expected");
    expect(code).toBe(1);
  });

  it("is refused too when it says so itself", async () => {
    const address = await openRefusing("08P01", "unsupported startup parameter: options");
    const { code, output } = await runCoffer({ DATABASE_URL: `postgres://a:b@${address}/c` });
    expect(output).toContain(
      `${address}/c (DATABASE_URL) cannot be used: unsupported startup parameter: options`,
    );
    expect(code).toBe(1);
  });
});

it("a certificate of an unknown authority ends the start with what to mend", async () => {
  const address = await openWithStrangeCertificate();
  const url = `postgres://a:b@${address}/c?sslmode=verify-full`;
  const { code, output } = await runCoffer({ DATABASE_URL: url });
  expect(output).toContain(
    `${address}/c (DATABASE_URL) cannot be used: unable to verify the first certificate`,
  );
  expect(output).not.toContain("nobody expected");
  expect(code).toBe(1);
});

it("waits at its start while others have all connections", { timeout: 60_000 }, async () => {
  // Given a role that gets no connection, and a start that has heard so
  await database.query(`ALTER ROLE ${ROLE} CONNECTION LIMIT 0`);
  const wire = await openWire(plainUrl);
  const starting = startCoffer({ DATABASE_URL: wire.url, LOG_LEVEL: "warn" });
  await Promise.race([wire.heard("too many connections"), starting]);

  // When there is room again after a while
  await delay(1_500);
  await database.query(`ALTER ROLE ${ROLE} CONNECTION LIMIT 50`);

  // Then it serves, and has told what it waited for
  const coffer = await starting;
  onTestFinished(async () => void (await coffer.kill()));
  await coffer.untilReady();
  const told = `${new URL(wire.url).host}/${NAME} is away, trying again: too many connections`;
  expect(coffer.output).toContain(told);
  expect(await coffer.stop()).toEqual({ code: 0, signal: null });
});
