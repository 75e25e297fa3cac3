/**
 * Several databases as one deployment: which belong together, in which places, and all of Coffer on
 * two of them.
 */
import { setTimeout as delay } from "node:timers/promises";
import { afterAll, beforeEach, describe, expect, inject, it, onTestFinished } from "vitest";
import { UnsafeDatabaseError, withClient } from "../src/database.ts";
import { prepareDatabases, prepareWhenThere, watchDeployment } from "../src/deployment.ts";
import { migrateDown, migrateUp, migrationStatus } from "../src/postgres/migrate.ts";
import { shardOf } from "../src/core/shard.ts";
import { verify } from "../src/verify/verify.ts";
import { askJson } from "./stage/json.ts";
import { startCoffer, type CofferProcess } from "./stage/process.ts";
import { freePort } from "./stage/free-port.ts";
import { createDatabase, dropDatabase } from "./stage/servers.ts";
import type { AnyBody } from "./stage/stack.ts";
import { EVEN, idIn, ODD } from "./stage/ids.ts";
import { withLimits } from "./stage/lanes.ts";
import { openWire } from "./stage/wire.ts";

// --- The deployment ------------------------------------------------------------------------------

describe("the deployment", () => {
  const names = ["deployment_a", "deployment_b", "deployment_c"];
  let fresh: string[];

  beforeEach(async () => {
    fresh = await Promise.all(names.map((name) => createDatabase(inject("postgresUrl"), name)));
  });

  afterAll(async () => {
    await Promise.all(names.map((name) => dropDatabase(inject("postgresUrl"), name)));
  });

  const quiet = (): void => undefined;

  async function ask<Row extends object>(url: string, sql: string): Promise<Row[]> {
    return await withClient(url, async (client) => (await client.query<Row>(sql)).rows);
  }

  async function placeOf(url: string): Promise<unknown> {
    const rows = await ask<{ place: string; id: string }>(
      url,
      "SELECT deployment_id AS id, database_index || ' of ' || database_count AS place FROM deployment",
    );
    expect(rows).toHaveLength(1);
    return rows[0];
  }

  const insertWallet = `
    INSERT INTO wallets (wallet_id, shard, currency, decimal_places, balance, held, status, version, metadata, created_at, updated_at)
    VALUES ('w', 0, 'USD', 2, 0, 0, 'ACTIVE', 0, '{}', now(), now())`;

  async function refusalOf(work: Promise<unknown>): Promise<string> {
    const error: unknown = await work.then(
      () => null,
      (reason: unknown) => reason,
    );
    expect(error).toBeInstanceOf(UnsafeDatabaseError);
    return (error as Error).message;
  }

  it("refuses a database that cannot keep every text", async () => {
    const options = "TEMPLATE template0 ENCODING 'LATIN1' LOCALE_PROVIDER libc LOCALE 'C'";
    const url = await createDatabase(inject("postgresUrl"), names[0]!, options);
    expect(await refusalOf(prepareDatabases([url], quiet))).toMatch(
      /deployment_a \(DATABASE_URL\) has the encoding LATIN1, .* ENCODING 'UTF8'/,
    );
  });

  it("race: four processes start at once on new databases, and all agree on the places", async () => {
    const lines: string[] = [];
    const log = (line: string): void => void lines.push(line);
    await Promise.all(Array.from({ length: 4 }, () => prepareDatabases(fresh, log)));
    await prepareDatabases(fresh, log);

    const places = await Promise.all(fresh.map(placeOf));
    const { id } = places[0] as { id: string };
    expect(places).toEqual(["0 of 3", "1 of 3", "2 of 3"].map((place) => ({ id, place })));
    const port = new URL(fresh[0]!).port;
    const ran = lines.filter((line) => line.endsWith("Applied 0002_cluster"));
    expect(ran.toSorted()).toEqual(
      names.map((name) => `127.0.0.1:${port}/${name}: Applied 0002_cluster`),
    );
  });

  it.each([
    ["has seen the other databases as new", "LOCK TABLE wallets"],
    ["is about to write the first place", "LOCK TABLE deployment IN SHARE MODE"],
  ])("race: a start that %s finds all in use by a faster one, and goes on", async (_, lock) => {
    // Given a start that waits for the first database, and has looked at the others
    await Promise.all(fresh.map((url) => migrateUp(url)));
    await withClient(fresh[0]!, async (blocker) => {
      await blocker.query(`BEGIN; ${lock}`);
      const slow = prepareDatabases(fresh, quiet);
      const state = `SELECT (SELECT count(*) FROM pg_locks WHERE NOT granted AND database = (
                              SELECT oid FROM pg_database WHERE datname = 'deployment_a'))::int AS waiting,
                            count(*)::int AS looking
                     FROM pg_stat_activity
                     WHERE datname = ANY ('{deployment_b,deployment_c}') AND backend_type = 'client backend'`;
      // From outside: within a transaction the activity would be that of the first look for ever.
      await expect
        .poll(() => ask(inject("postgresUrl"), state), { interval: 5 })
        .toEqual([{ waiting: 1, looking: 0 }]);

      // When another one, here played by hand, writes all places, and a wallet
      const id = "00000000-0000-4000-8000-000000000000";
      const write = (index: number) => `INSERT INTO deployment VALUES (true, '${id}', ${index}, 3)`;
      await ask(fresh[1]!, write(1));
      await ask(fresh[2]!, write(2));
      await blocker.query(write(0));
      await blocker.query(insertWallet);
      await blocker.query("COMMIT");

      // Then the slow one takes the places as they are
      await slow;
      expect(await placeOf(fresh[0]!)).toEqual({ id, place: "0 of 3" });
    });
  });

  it("ends a first start that was interrupted", async () => {
    await prepareDatabases(fresh, quiet);
    await ask(fresh[0]!, "ALTER TABLE deployment DISABLE TRIGGER ALL; DELETE FROM deployment");
    await prepareDatabases(fresh, quiet);
    expect(await placeOf(fresh[0]!)).toMatchObject({ place: "0 of 3" });
  });

  it("refuses another order, another count and a database of another deployment, by name", async () => {
    const [a, b, c] = fresh as [string, string, string];
    await prepareDatabases([a, b], quiet);
    const { id } = (await placeOf(a)) as { id: string };
    await ask(b, insertWallet);
    const port = new URL(a).port;
    const title =
      "DATABASE_URL must list all databases of one deployment in their order, or wallets would not be found:";

    expect(await refusalOf(prepareDatabases([b, a], quiet))).toBe(
      `${title}\n` +
        `  number 1 of 2, 127.0.0.1:${port}/deployment_b, is number 2 of 2 in deployment ${id}\n` +
        `  number 2 of 2, 127.0.0.1:${port}/deployment_a, is number 1 of 2 in deployment ${id}`,
    );
    expect(await refusalOf(prepareDatabases([a], quiet))).toContain("number 1 of 1");
    const added = await refusalOf(prepareDatabases([a, b, c], quiet));
    expect(added).toContain(`number 3 of 3, 127.0.0.1:${port}/deployment_c, is new`);
    // The other database would be empty where the wallets of this one were
    expect(await refusalOf(prepareDatabases([c, b], quiet))).toContain("deployment_c, is new");
    expect(await ask(c, "SELECT FROM deployment")).toEqual([]);
    expect(await refusalOf(prepareDatabases([a, a], quiet))).toContain("number 2 of 2");

    await ask(c, "INSERT INTO deployment VALUES (true, gen_random_uuid(), 0, 2)");
    await refusalOf(prepareDatabases([c, b], quiet));
    await prepareDatabases([a, b], quiet);
  });

  it("takes a database with wallets of an older version for the only one of its deployment", async () => {
    const [a, b] = fresh as [string, string];
    await migrateUp(a);
    await migrateDown(a, (await migrationStatus(a)).length - 1);
    await ask(a, insertWallet);

    expect(await refusalOf(prepareDatabases([a, b], quiet))).toContain("is number 1 of 1");
    await prepareDatabases([a], quiet);
  });

  it("is waited for by a host, which names once, and without its password, what is away", async () => {
    withLimits({ journalRetryMs: 5, journalRetryMsMax: 5, troubleLogMs: 0 });
    const [a, b] = fresh as [string, string];
    const log: string[] = [];
    const info = (text: string): void => void log.push(text);
    const warn = (text: string): void => void log.push(`warn ${text}`);

    // Given a host that starts while one of its databases is away
    const port = await freePort();
    const away = new URL(b);
    away.host = `127.0.0.1:${port}`;
    expect(away.password).not.toBe("");
    let isPrepared = false;
    const preparing = prepareWhenThere([a, away.href], { info, warn }).then(() => {
      isPrepared = true;
    });
    const warnings = (): string[] => log.filter((line) => line.startsWith("warn "));
    await expect.poll(warnings).not.toEqual([]);

    // When it is away for many tries more, and then there
    await delay(300);
    expect(isPrepared).toBe(false);
    await openWire(b, port);
    await preparing;

    // Then it was named, and by its address only
    const name = `127.0.0.1:${port}/deployment_b`;
    expect(warnings()).toEqual([
      `warn ${name} is away, trying again: connect ECONNREFUSED 127.0.0.1:${port}`,
    ]);
    expect(log.at(-1)).toMatch(new RegExp(`^${name}: Applied `));
    expect(await placeOf(b)).toMatchObject({ place: "1 of 2" });
  });

  it("cannot be changed once it is written down", async () => {
    await prepareDatabases(fresh, quiet);
    await expect(ask(fresh[0]!, "UPDATE deployment SET database_count = 4")).rejects.toThrow(
      "append-only",
    );
  });

  it("is watched by readers until all is certain, and they end when it is another one", async () => {
    withLimits({ deploymentLookMs: 20 });
    const [a, b] = fresh as [string, string];
    const warnings: string[] = [];
    const mismatches: string[] = [];
    const watch = async (databaseUrls: string[]) => {
      const watching = await watchDeployment({
        databaseUrls,
        log: { warn: (text) => void warnings.push(text) },
        onMismatch: (message) => void mismatches.push(message),
      });
      onTestFinished(() => watching.stop());
    };
    // Given readers that came before the first host, one of them with a wrong list, one with a
    // database that is away
    await watch([a, b]);
    await watch([b, a]);
    await watch([a, "postgres://u:secret@127.0.0.1:1/away"]);
    expect(warnings[0]).toMatch(
      /^cannot see yet whether 127.0.0.1:1\/away is in its place: .*ECONNREFUSED/,
    );
    expect(mismatches).toEqual([]);
    expect(await ask(a, "SELECT FROM pg_tables WHERE tablename = 'deployment'")).toEqual([]);

    // When a host comes
    await prepareDatabases([a, b], quiet);

    // Then the wrong list is told, once, and later such readers do not begin
    await expect.poll(() => mismatches).toHaveLength(1);
    await watch([a, b]);
    await refusalOf(watch([b, a]));
    await delay(100);
    expect(mismatches).toHaveLength(1);
    expect(mismatches[0]).toContain("deployment_a, is number 1 of 2");
  });
});

// --- All of it -----------------------------------------------------------------------------------

interface Health {
  readonly status: string;
  readonly checks: Record<string, { readonly state: string; readonly reason?: string }>;
}

async function healthOf(coffer: CofferProcess): Promise<Health & { code: number }> {
  const response = await fetch(`${coffer.baseUrl}/health/ready`);
  return { code: response.status, ...((await response.json()) as Health) };
}

describe("Coffer on two databases", () => {
  const names = ["coffer_even", "coffer_odd"];

  afterAll(async () => {
    await Promise.all(names.map((name) => dropDatabase(inject("postgresUrl"), name)));
  });

  it("moves money between them, shows one list, and goes on with one when the other is away", async () => {
    const [even, odd] = await Promise.all(
      names.map((name) => createDatabase(inject("postgresUrl"), name)),
    );
    const wire = await openWire(odd!);
    const coffer = await startCoffer({
      DATABASE_URL: `${even},${wire.url}`,
      LANES: "2",
      LOG_LEVEL: "fatal",
    });
    onTestFinished(async () => void (await coffer.stop()));
    await coffer.untilReady();
    const call = (path: string, body?: object) =>
      askJson<AnyBody & AnyBody[]>(`${coffer.baseUrl}${path}`, body);

    // Given wallets in both
    const walletIds = [idIn(EVEN), idIn(ODD), idIn(EVEN), idIn(ODD)].toSorted();
    for (const walletId of walletIds) {
      expect((await call("/wallets", { walletId, initialBalance: 10 })).status).toBe(201);
    }
    const near = walletIds.find((walletId) => EVEN.includes(shardOf(walletId)))!;
    const far = walletIds.find((walletId) => ODD.includes(shardOf(walletId)))!;

    // When money goes each way
    for (const [from, toWalletId] of [
      [near, far],
      [far, near],
    ]) {
      const sent = await call(`/wallets/${from}/transfer`, { toWalletId, amount: 4 });
      expect(sent).toMatchObject({ status: 200, body: { status: "posted" } });
      // It is answered after the payee's verdict; the payer's record follows
      const stands = async () => (await call(`/transfers/${sent.body.transferId}`)).body.status;
      await expect.poll(stands).toBe("posted");
    }

    // Then each has both transfers, and all entries of each, by way of the two databases
    const paths = [near, far].map((walletId) => `/wallets/${walletId}/transfers?status=posted`);
    const [ofNear, ofFar] = await Promise.all(
      paths.map(async (path) => (await call(path)).body.map(({ transferId }) => transferId)),
    );
    expect(ofNear).toHaveLength(2);
    expect(ofNear).toEqual(ofFar);
    for (const transferId of ofNear!) {
      const { body } = await call(`/ledger/transactions/${transferId}`);
      expect(body).toMatchObject({
        transferId,
        entries: [{ lines: [{}, {}] }, { lines: [{}, {}] }],
      });
    }
    expect((await call("/ledger/trial-balance?currency=USD")).body).toMatchObject({
      currencies: [
        {
          sum: "0.00",
          isBalanced: true,
          accounts: [
            { account: "system:transit", balance: "0.00" },
            { account: "system:world", balance: "-40.00" },
            { account: "wallets", balance: "40.00" },
          ],
        },
      ],
    });

    // And the list has all of them, and the money is all there
    const { body: listed } = await call("/wallets?limit=10");
    expect(listed.map(({ id, balance }) => [id, balance])).toEqual(walletIds.map((id) => [id, 10]));

    // And its health has each database
    const up = { state: "up" };
    const all = { "database-1": up, "database-2": up, lanes: up };
    expect(await healthOf(coffer)).toMatchObject({ code: 200, status: "up", checks: all });

    // And when one database is away, the wallets of the other are served
    wire.close();
    expect((await call(`/wallets/${near}/credit`, { amount: 1 })).status).toBe(200);
    expect(await call(`/wallets/${near}`)).toMatchObject({ status: 200, body: { balance: 11 } });
    expect((await call(`/wallets/${far}`)).status).toBe(503);
    expect((await call("/wallets")).status).toBe(503);
    await coffer.untilReady();

    // And it is told which one is away, also when its lane has noticed
    const lost = call(`/wallets/${far}/credit`, { amount: 1 });
    lost.catch(() => undefined); // it has 10 s, and its answer is not waited for
    await expect.poll(async () => (await healthOf(coffer)).checks["lanes"]?.state).toBe("down");
    const { code, status, checks } = await healthOf(coffer);
    expect([code, status]).toEqual([200, "degraded"]);
    expect(checks).toMatchObject({ database: up, host: up, bus: up, "database-1": up });
    const { host, pathname } = new URL(wire.url);
    expect(checks["database-2"]).toMatchObject({ state: "down", latencyMs: null });
    expect(checks["database-2"]!.reason).toMatch(new RegExp(`^${host}${pathname}: .`));
    expect(checks["lanes"]!.reason).toBe("lane-1 cannot serve now");
    expect((await call(`/wallets/${near}/credit`, { amount: 1 })).status).toBe(200);
    // A stop would give that command its time
    await coffer.kill();
  });

  it("of which one was restored to an older state names what is half, and what is left pending arrives once", async () => {
    // Given wallets in both, and a copy of one database from before two transfers between them
    const [even, odd] = await Promise.all(
      names.map((name) => createDatabase(inject("postgresUrl"), name)),
    );
    const start = async (...urls: string[]) => {
      const env = { DATABASE_URL: urls.join(), LANES: "2", LOG_LEVEL: "fatal" };
      const coffer = await startCoffer(env);
      onTestFinished(async () => void (await coffer.kill()));
      await coffer.untilReady();
      const call = (path: string, body?: object) => askJson(`${coffer.baseUrl}${path}`, body);
      const send = async (from: string, toWalletId: string, amount: number) => {
        const { body } = await call(`/wallets/${from}/transfer`, { toWalletId, amount });
        // It is answered after the payee's verdict; the payer's record follows
        const stands = async () => (await call(`/transfers/${body.transferId}`)).body.status;
        await expect.poll(stands).toBe("posted");
        return body.transferId;
      };
      return { coffer, call, send };
    };
    const [near, far] = [idIn(EVEN), idIn(ODD)];
    const first = await start(even!, odd!);
    for (const walletId of [near, far]) {
      await first.call("/wallets", { walletId, initialBalance: 10 });
    }
    await first.coffer.stop();
    onTestFinished(() => dropDatabase(inject("postgresUrl"), "coffer_older"));
    const older = await createDatabase(
      inject("postgresUrl"),
      "coffer_older",
      `TEMPLATE ${names[1]}`,
    );
    const second = await start(even!, odd!);
    const toFar = await second.send(near, far, 4);
    const toNear = await second.send(far, near, 3);
    await second.coffer.stop();

    // When the copy takes the place of what it was copied from, and other events their places
    const third = await start(even!, older);
    const later = await third.send(near, far, 2);
    await third.coffer.stop();

    // Then each side that is gone is named, and nothing else
    const databaseUrls = [even!, older];
    const report = await verify({ databaseUrls });
    expect(report.byKind).toEqual({ verdict_missing: 1, transfer_missing: 1 });
    expect(report.named).toEqual(
      expect.arrayContaining([
        expect.objectContaining({
          transferId: toFar,
          found: `TransferReceived ${later} of 200 from ${near}`,
        }),
        expect.objectContaining({ transferId: toNear, found: "a verdict: posted" }),
      ]),
    );

    // And when what the payer has sent is pending again (docs/operations.md), it arrives once
    await withClient(even!, (client) =>
      client.query(
        "UPDATE transfers SET status = 'pending', to_version = NULL, settled_at = NULL WHERE transfer_id = $1",
        [toFar],
      ),
    );
    const fourth = await start(even!, older);
    const stands = async () => (await fourth.call(`/transfers/${toFar}`)).body.status;
    await expect.poll(stands, { timeout: 10_000 }).toBe("posted");
    expect((await fourth.call(`/wallets/${far}`)).body).toMatchObject({ balance: 16, version: 3 });
    expect((await verify({ databaseUrls })).byKind).toEqual({ transfer_missing: 1 });
    expect(await fourth.coffer.stop()).toEqual({ code: 0, signal: null });
  });
});
