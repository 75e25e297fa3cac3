/**
 * Own assets on real servers: one definition per code, for ever, whoever comes first and at
 * whichever gateway; known everywhere as soon as it is told; and with several databases, one that
 * is away takes its own assets along and no others, and is never mistaken for an asset that does
 * not exist.
 */
import { afterAll, beforeAll, describe, expect, inject, it, onTestFinished } from "vitest";

import type { Assets } from "../src/assets.ts";
import { withClient } from "../src/database.ts";
import { LIMITS } from "../src/limits.ts";
import { migrateUp } from "../src/postgres/migrate.ts";
import { buildPostgresAssets } from "../src/postgres/assets.ts";
import { ReadUnavailable } from "../src/core/read-model.ts";
import { shardOf } from "../src/core/shard.ts";
import { askJson } from "./stage/json.ts";
import { startCoffer } from "./stage/process.ts";
import { createDatabase, startPostgres } from "./stage/servers.ts";
import { openDatabase } from "./stage/audited-database.ts";
import { EVEN, idIn, ODD, unique } from "./stage/ids.ts";
import { startStack, until, type AnyBody, type Stack } from "./stage/stack.ts";
import { withLimits } from "./stage/lanes.ts";
import { wireTap } from "./stage/wire-tap.ts";

interface AssetBody extends AnyBody {
  readonly decimalPlaces: number;
  readonly isOwn: boolean;
}

const gold = (rest: object = {}) => ({
  code: unique("GOLD"),
  name: "Gold coins",
  decimalPlaces: 0,
  ...rest,
});

/** A code that nobody has used, in one of the shards. */
function codeIn(shards: readonly number[]): string {
  for (;;) {
    const code = unique("A");
    if (shards.includes(shardOf(code))) return code;
  }
}

function isOwn(assets: Assets, code: string): boolean {
  const found = assets.assetOf(code);
  return found !== null && "isOwn" in found && found.isOwn;
}

describe("on two gateways", () => {
  let stack: Stack;
  let besides: Stack;

  beforeAll(async () => {
    stack = await startStack({ overNats: true });
    besides = await startStack({ besides: stack });
  });

  afterAll(async () => {
    await besides.close();
    await stack.close();
    expect([...stack.errors, ...besides.errors]).toEqual([]);
  });

  const add = (asset: object, on: Stack = stack) => on.post<AssetBody>("/assets", asset);
  const list = async () => (await stack.get<AssetBody[]>("/assets")).body;

  describe("an asset", () => {
    it("is added once; the same again gets the same body, at any gateway", async () => {
      const asset = gold({ decimalPlaces: 3 });
      const first = await add(asset);
      expect([first.status, first.body]).toEqual([201, { ...asset, isOwn: true }]);
      expect(first.headers["idempotent-replayed"]).toBeUndefined();
      for (const on of [stack, besides]) {
        const again = await add(asset, on);
        expect([again.status, again.text]).toEqual([200, first.text]);
        expect(again.headers["idempotent-replayed"]).toBe("true");
      }
    });

    it.each([
      ["another name", { name: "Silver coins" }],
      ["other decimal places", { decimalPlaces: 2 }],
    ])("does not become one with %s", async (_name, change) => {
      const asset = gold();
      await add(asset);
      for (const on of [stack, besides]) {
        const { status, body } = await add({ ...asset, ...change }, on);
        expect([status, body.code]).toEqual([409, "asset_already_exists"]);
        expect(body.message).toContain(`${asset.code} exists as "Gold coins" with 0 decimal`);
        expect(body.details).toEqual({ ...asset, isOwn: true });
      }
      expect(await list()).toContainEqual({ ...asset, isOwn: true });
    });

    it.each([
      ["another code", () => ({ code: unique("SILVER") })],
      ["another name", () => ({ name: "Silver coins" })],
      ["an asset of ISO 4217", () => ({ code: "USD", name: "US Dollar", decimalPlaces: 2 })],
    ])("has its key to itself: with %s it is a conflict", async (_name, change) => {
      // Given one that was added with a key
      const asset = gold();
      const key = unique("k");
      const ask = (json: object, on: Stack) => on.ask<AssetBody>("POST", "/assets", { json, key });
      expect((await ask(asset, stack)).status).toBe(201);
      // Then the same is a repeat and another one is refused, at any gateway, and is not there
      const other = { ...asset, ...change() };
      for (const on of [stack, besides]) {
        expect((await ask(asset, on)).status).toBe(200);
        const { status, body } = await ask(other, on);
        expect([status, body.code]).toEqual([409, "idempotency_conflict"]);
        expect(body.details).toEqual({ idempotencyKey: key });
      }
      const count = "SELECT code FROM assets WHERE code = ANY ($1)";
      expect(await stack.sql(count, [[asset.code, other.code]])).toEqual([{ code: asset.code }]);
    });

    it("of many wishes with one key at once has one winner", async () => {
      const key = unique("k");
      const wishes = Array.from({ length: 10 }, () => gold());
      const answers = await Promise.all(
        wishes.map((json, nth) =>
          (nth % 2 === 0 ? stack : besides).ask<AssetBody>("POST", "/assets", { json, key }),
        ),
      );
      const codes = answers.map(({ status, body }) => (status === 201 ? "added" : body.code));
      expect(codes.toSorted()).toEqual(["added", ...Array<string>(9).fill("idempotency_conflict")]);
    });

    it("of ISO 4217 is there from the start and cannot be defined again", async () => {
      const same = await add({ code: "USD", name: "US Dollar", decimalPlaces: 2 });
      expect([same.status, same.body.isOwn]).toEqual([200, false]);
      const other = await add({ code: "USD", name: "US Dollar", decimalPlaces: 3 });
      expect([other.status, other.body.code]).toEqual([409, "asset_already_exists"]);
      expect(await stack.sql("SELECT * FROM assets WHERE code = 'USD'")).toEqual([]);
    });

    it("is what amounts in its wallets mean, over HTTP and NATS, also where nobody has seen it", async () => {
      const asset = gold({ decimalPlaces: 4 });
      await add(asset);
      const wallet = { currency: asset.code, initialBalance: "0.0001" };
      const made = await besides.post("/wallets", { walletId: unique("w"), ...wallet });
      expect([made.status, made.body.balance]).toEqual([201, 0.0001]);
      const fine = await besides.post(`/wallets/${made.body.id}/credit`, { amount: "0.00001" });
      expect(fine.body.code).toBe("invalid_amount");

      const overNats = gold({ decimalPlaces: 1 });
      await add(overNats);
      const nats = await stack.connectNats();
      const body = { walletId: unique("w"), currency: overNats.code, initialBalance: 0.5 };
      const message = await nats.request("wallets.v1.create", JSON.stringify(body));
      expect(message.json()).toMatchObject({ ok: true, data: { balance: 0.5 } });
      const nowhere = JSON.stringify({ ...body, currency: "NO_SUCH" });
      const refused = await nats.request("wallets.v1.create", nowhere);
      expect(refused.json()).toMatchObject({ ok: false, error: { code: "asset_not_found" } });
    });

    it("is known everywhere as soon as it is told, also to those who ask just then", async () => {
      for (let round = 0; round < 20; round += 1) {
        const asset = gold();
        const early = besides.post("/wallets", { currency: asset.code });
        await add(asset);
        // It may share the question of the early one, which is older than the asset.
        const { status } = await besides.post("/wallets", { currency: asset.code });
        expect(status).toBe(201);
        expect([201, 404]).toContain((await early).status);
      }
    });

    it("is never changed or removed, not even by hand", async () => {
      const { code } = gold();
      await add({ ...gold(), code });
      for (const sql of [
        `UPDATE assets SET decimal_places = 9 WHERE code = '${code}'`,
        `DELETE FROM assets WHERE code = '${code}'`,
        "TRUNCATE assets",
      ]) {
        await expect(stack.sql(sql)).rejects.toThrow("append-only");
      }
    });
  });

  it("all are listed in the order of their codes, own ones marked", async () => {
    const asset = gold();
    await add(asset);
    const all = await list();
    expect(all).toContainEqual({ ...asset, isOwn: true });
    expect(all).toContainEqual({
      code: "JPY",
      name: "Yen",
      decimalPlaces: 0,
      isOwn: false,
    });
    const codes = all.map(({ code }) => code);
    expect(codes).toEqual([...new Set(codes)].toSorted());
  });

  it.each<[string, object, string]>([
    ["no name", { name: undefined }, "name"],
    ["an empty name", { name: "" }, "name"],
    ["a name that is too long", { name: "x".repeat(LIMITS.assetNameLengthMax + 1) }, "name"],
    ["a name that cannot be stored", { name: "a\u0000" }, "name"],
    ["a code with a blank", { code: "GOLD COINS" }, "code"],
    ["a code that is too long", { code: "x".repeat(LIMITS.idLengthMax + 1) }, "code"],
    ["too many decimal places", { decimalPlaces: 10 }, "decimalPlaces"],
    ["fewer than none", { decimalPlaces: -1 }, "decimalPlaces"],
    ["half a place", { decimalPlaces: 1.5 }, "decimalPlaces"],
    ["places as text", { decimalPlaces: "2" }, "decimalPlaces"],
    ["a field that is not known", { issuer: "me" }, "issuer"],
    ["a key that names nothing", { idempotencyKey: "a\u0007" }, "idempotencyKey"],
  ])("%s is refused by name, and nothing is added", async (_name, change, field) => {
    const before = await stack.sql("SELECT count(*) FROM assets");
    const { status, body } = await add({ ...gold(), ...change });
    expect([status, body.details[0]?.field]).toEqual([422, field]);
    expect(await stack.sql("SELECT count(*) FROM assets")).toEqual(before);
  });

  it("two keys that differ are refused, as on every write", async () => {
    const asset = gold();
    const json = { ...asset, idempotencyKey: "one" };
    const { status, body } = await stack.ask("POST", "/assets", { json, key: "another" });
    expect([status, body.details[0]?.field]).toEqual([422, "idempotencyKey"]);
    expect((await add(asset)).status).toBe(201);
  });

  it("of several definitions at the same time one wins, and the others hear of it", async () => {
    for (let round = 0; round < 10; round += 1) {
      const asset = gold();
      const answers = await Promise.all(
        Array.from({ length: 8 }, (_, nth) =>
          add({ ...asset, decimalPlaces: nth % 4 }, nth < 4 ? stack : besides),
        ),
      );
      const made = answers.filter(({ status }) => status === 201);
      expect(made.length).toBe(1);
      const { decimalPlaces } = made[0]!.body;
      for (const [nth, { status }] of answers.entries()) {
        if (answers[nth] === made[0]) continue;
        expect(status).toBe(nth % 4 === decimalPlaces ? 200 : 409);
      }
    }
  });

  it("there is a limit, exact when many come at once, and those who repeat do not meet it", async () => {
    const [{ count }] = (await stack.sql<{ count: string }>("SELECT count(*) FROM assets")) as [
      { count: string },
    ];
    withLimits({ ownAssetsMax: Number(count) + 3 });
    const assets = Array.from({ length: 10 }, () => gold());
    const answers = await Promise.all(
      assets.map((asset, nth) => add(asset, nth % 2 === 0 ? stack : besides)),
    );
    const made = assets.filter((_, nth) => answers[nth]!.status === 201);
    expect(made.length).toBe(3);
    const refused = answers.filter(({ status }) => status === 409);
    expect(refused.map(({ body }) => body.code)).toEqual(
      Array.from({ length: 7 }, () => "asset_limit_reached"),
    );
    expect((await add(made[0]!)).status).toBe(200);
    expect((await add(gold({ dryRun: true }))).body.code).toBe("asset_limit_reached");
  });

  it("whose creation got no answer is told as unknown, and the same wish finds out", async () => {
    const asset = gold();
    await withClient(stack.databaseUrl, async (client) => {
      // Given a creation that waits in the database
      await client.query("SELECT pg_advisory_lock(1668245096)");
      const asked = add(asset);
      const waiting = "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
      await until("it waits", async () => (await stack.sql(waiting)).length > 0);

      // When its connection ends
      await stack.sql(`SELECT pg_terminate_backend(pid) FROM (${waiting}) it`);
      const { status, body } = await asked;
      expect([status, body.code]).toEqual([504, "outcome_unknown"]);
    });
    expect((await add(asset)).status).toBe(201);
  });
});

describe("with several databases", () => {
  it("each asset lives in the database of its code's shard", async () => {
    const databases = [await openDatabase("assets_even"), await openDatabase("assets_odd")];
    const assets = buildPostgresAssets({ databaseUrls: databases.map(({ url }) => url) });
    onTestFinished(async () => {
      await assets.close();
      await Promise.all(databases.map((database) => database.close()));
    });
    const codes = [codeIn(EVEN), codeIn(ODD)];
    for (const code of codes) {
      expect(await assets.create(gold({ code }), false)).toMatchObject({ type: "created" });
    }
    for (const [nth, database] of databases.entries()) {
      expect(await database.query("SELECT code FROM assets")).toEqual([{ code: codes[nth] }]);
    }
    const own = (await assets.allAssets()).filter(({ isOwn }) => isOwn);
    expect(own.map(({ code }) => code)).toEqual(codes.toSorted());
    // A key that named one names no other, in whichever database that would be
    const key = unique("k");
    const [first, other] = [gold({ code: codeIn(EVEN) }), gold({ code: codeIn(ODD) })];
    expect(await assets.create(first, false, key)).toMatchObject({ type: "created" });
    expect(await assets.create(other, false, key)).toEqual({ type: "key_taken" });
    expect(await assets.create(first, false, key)).toMatchObject({ type: "known" });
    // A creation is seen at once where it was made
    expect(assets.assetOf(codes[1]!)).toMatchObject({ code: codes[1] });
  });

  it(
    "one that is away takes its assets along and no others, and they are unavailable, not unknown",
    { timeout: 90_000 },
    async () => {
      // Given a deployment whose second database is on a server of its own, and an asset in it that
      // no gateway has seen
      const even = await openDatabase("assets_away");
      onTestFinished(() => even.close());
      const server = await startPostgres();
      onTestFinished(() => server.stop());
      await migrateUp(server.url);
      const [seen, unseen, inEven] = [codeIn(ODD), codeIn(ODD), codeIn(EVEN)];
      const databaseUrls = [even.url, server.url];
      const assets = buildPostgresAssets({ databaseUrls });
      onTestFinished(() => assets.close());
      await assets.create(gold({ code: unseen }), false);
      const coffer = await startCoffer({ DATABASE_URL: databaseUrls.join(","), LANES: "2" });
      onTestFinished(async () => void (await coffer.kill()));
      await coffer.untilReady();
      const ask = async (path: string, json?: object) => {
        const { status, body } = await askJson(`${coffer.baseUrl}${path}`, json);
        return [status, body.code ?? null] as const;
      };
      const open = (currency: string) => ask("/wallets", { walletId: idIn(EVEN), currency });
      const books = (currency: string) => ask(`/ledger/trial-balance?currency=${currency}`);
      for (const code of [seen, inEven]) {
        expect((await ask("/assets", gold({ code })))[0]).toBe(201);
      }

      // When that server dies
      await server.kill();

      // Then what was seen, ISO 4217 and the other database's assets can be used for wallets in the
      // other database
      for (const code of [seen, inEven, "USD"]) expect(await open(code)).toEqual([201, null]);
      expect((await ask("/assets", gold({ code: codeIn(EVEN) })))[0]).toBe(201);
      expect(await open(codeIn(EVEN))).toEqual([404, "asset_not_found"]);
      // And what lives there is unavailable, whether it exists or not
      for (const code of [unseen, codeIn(ODD)]) {
        expect(await open(code)).toEqual([503, "unavailable"]);
        const topup = { user_id: "u", asset_code: code, amount: 1, reference_id: "r" };
        expect(await ask("/api/v1/wallets/topup", topup)).toEqual([503, "unavailable"]);
      }
      expect(await ask("/assets", gold({ code: codeIn(ODD) }))).toEqual([503, "unavailable"]);
      expect(await ask("/assets")).toEqual([503, "unavailable"]);
      // And books, which take all databases, say of no asset that it does not exist
      for (const code of ["USD", seen, unseen, inEven, codeIn(ODD), codeIn(EVEN)]) {
        expect((await books(code))[0]).toBe(503);
      }

      // When a process starts meanwhile, it is not kept waiting by what may be there
      const warnings: unknown[] = [];
      const late = buildPostgresAssets({
        databaseUrls,
        log: { warn: (text: unknown) => void warnings.push(text) },
        standard: [{ code: unseen, name: "Late", decimalPlaces: 3 }],
      });
      onTestFinished(() => late.close());
      await late.review();
      expect(late.assetOf(unseen)).toMatchObject({ decimalPlaces: 3 });

      // When it is there again, so are they
      await server.restart();
      await until("the asset is found", async () => (await open(unseen))[0] === 201);
      await until("it is its own again", () => warnings.some((it) => String(it).includes(unseen)));
      expect(late.assetOf(unseen)).toMatchObject({ decimalPlaces: 0, isOwn: true });
      expect(await open(codeIn(ODD))).toEqual([404, "asset_not_found"]);
      expect((await ask("/assets"))[0]).toBe(200);
      const unused = codeIn(ODD);
      await assets.create(gold({ code: unused }), false);
      for (const code of [unseen, unused]) expect(await books(code)).toEqual([200, null]);
      for (const code of [codeIn(EVEN), codeIn(ODD)]) {
        expect(await books(code)).toEqual([404, "asset_not_found"]);
      }
    },
  );

  it.each([
    ["57P05", { type: "unknown" }],
    ["53100", "unavailable"],
  ])("a creation that fails by %s is told as what it proves", async (code, created) => {
    const database = await openDatabase(`assets_fail_${code.toLowerCase()}`);
    onTestFinished(() => database.close());
    const assets = buildPostgresAssets({ databaseUrls: [database.url] });
    onTestFinished(() => assets.close());
    await database.query(`
      CREATE OR REPLACE FUNCTION create_asset(p_code text, p_name text, p_decimal_places smallint,
                                              p_assets_max integer, p_is_dry_run boolean)
      RETURNS TABLE (is_new boolean, asset_name text, asset_places smallint) LANGUAGE plpgsql
      AS $$ BEGIN RAISE 'no' USING ERRCODE = '${code}'; END $$`);
    const create = (isDryRun: boolean): Promise<unknown> =>
      assets.create(gold(), isDryRun).catch(({ reason }: ReadUnavailable) => reason);
    expect(await create(false)).toEqual(created);
    expect(await create(true)).toBe("unavailable");
  });

  it("a connection that is lost while it is asked leaves the outcome unknown, and harms nobody", async () => {
    const database = await openDatabase("assets_cut");
    onTestFinished(() => database.close());
    const wire = await wireTap(database.url);
    const assets = buildPostgresAssets({ databaseUrls: [wire.url] });
    onTestFinished(() => assets.close());
    const asset = gold();
    expect(await assets.create(asset, true)).toMatchObject({ type: "created" });
    wire.cutsAnswers = true;
    expect(await assets.create(asset, false)).toEqual({ type: "unknown" });
    await expect(assets.create(asset, false)).rejects.toThrow(ReadUnavailable);
    wire.cutsAnswers = false;
    const again = await assets.create(asset, false);
    expect(again).toMatchObject({ type: "known", asset });
    // And likewise of its key, which is written before
    const next = gold();
    expect(await assets.create(next, true, "k")).toMatchObject({ type: "created" });
    wire.cutsAnswers = true;
    await expect(assets.create(next, false, "k")).rejects.toThrow(ReadUnavailable);
    wire.cutsAnswers = false;
    expect(await assets.create(next, false, "k")).toMatchObject({ type: "created" });
  });

  it("one that cannot be logged in to is not taken for one that may have made it", async () => {
    const url = new URL(inject("postgresUrl"));
    url.pathname = "/there_is_none";
    const assets = buildPostgresAssets({ databaseUrls: [url.href] });
    onTestFinished(() => assets.close());
    await expect(assets.create(gold(), false)).rejects.toThrow("does not exist");
  });

  it("may be asked for before a host has made the tables: unavailable until then", async () => {
    const databaseUrl = await createDatabase(inject("postgresUrl"), "assets_without_tables");
    const own = codeIn(EVEN);
    const standard = [{ code: own, name: "Early", decimalPlaces: 3 }];
    const assets = buildPostgresAssets({ databaseUrls: [databaseUrl], standard });
    onTestFinished(() => assets.close());

    // When a gateway is the first to start
    await assets.review();

    // Then it waits
    await expect(assets.allAssets()).rejects.toThrow(ReadUnavailable);
    expect(assets.assetOf(own)).toMatchObject({ decimalPlaces: 3 });
    // Until there are tables, and what is in them
    await migrateUp(databaseUrl);
    const sql = "INSERT INTO assets (code, name, decimal_places) VALUES ($1, 'Own', 0)";
    await withClient(databaseUrl, (client) => client.query(sql, [own]));
    await until("it is its own", () => isOwn(assets, own));
  });

  it("own ones whose codes ISO 4217 defines later stay what they are, and the log says so", async () => {
    const databases = [await openDatabase("assets_even"), await openDatabase("assets_odd")];
    const databaseUrls = databases.map(({ url }) => url);
    const before = buildPostgresAssets({ databaseUrls });
    onTestFinished(async () => {
      await before.close();
      await Promise.all(databases.map((database) => database.close()));
    });
    // Given two own assets, and one more with nothing to do with it
    const [other, same, free] = [codeIn(EVEN), codeIn(ODD), codeIn(EVEN)];
    for (const code of [other, same, free]) await before.create(gold({ code }), false);

    // When a library's table defines two of the codes, one of them with other decimal places
    const standard = [
      { code: other, name: "Other Gold", decimalPlaces: 2 },
      { code: same, name: "Same Gold", decimalPlaces: 0 },
      { code: "EUR", name: "Euro", decimalPlaces: 2 },
    ];
    const warnings: unknown[] = [];
    const log = { warn: (text: unknown) => void warnings.push(text) };
    const after = buildPostgresAssets({ databaseUrls, log, standard });
    onTestFinished(() => after.close());
    await after.review();

    // Then money of theirs means what it meant
    for (const code of [other, same]) {
      expect(after.assetOf(code)).toEqual({ ...gold({ code }), isOwn: true });
    }
    expect(after.assetOf("EUR")).toMatchObject({ decimalPlaces: 2, isOwn: false });
    expect(await after.allAssets()).toEqual(
      [
        ...[other, same, free].map((code) => ({ ...gold({ code }), isOwn: true })),
        { code: "EUR", name: "Euro", decimalPlaces: 2, isOwn: false },
      ].toSorted((one, next) => (one.code < next.code ? -1 : 1)),
    );
    expect(await after.create(gold({ code: other }), false)).toMatchObject({ type: "known" });
    expect(await after.create(standard[0]!, false)).toMatchObject({ type: "conflict" });
    expect(warnings).toHaveLength(2);
    const told = warnings.map(String).toSorted().join("\n");
    expect(told).toContain(
      `asset ${other} was added here as "Gold coins", and ISO 4217 has it too by now, as "Other Gold" with 2 decimal places in place of 0; it stays what it was, with 0 decimal places`,
    );
    expect(told).toContain(`asset ${same} was added here`);
  });

  it("that cannot be reached at all is no answer, and known assets need none", async () => {
    const assets = buildPostgresAssets({ databaseUrls: ["postgres://nobody@127.0.0.1:1/none"] });
    onTestFinished(() => assets.close());
    expect(assets.assetOf("EUR")).toMatchObject({ decimalPlaces: 2, isOwn: false });
    await expect(assets.assetOf("GOLD")).rejects.toThrow(ReadUnavailable);
    await expect(assets.create(gold(), false)).rejects.toThrow(ReadUnavailable);
  });
});
