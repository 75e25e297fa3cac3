/**
 * All assets: ISO 4217 from the library's table (`assets.ts`), and own ones in the databases. An own asset lives in the database of
 * its code's shard, so one that is away takes its own assets along and no others. They are written past the actors: no money is in
 * them, they never change, and the primary key decides a race. What was seen once is kept (`asset-cache.ts`), so that a command
 * waits for a database only when it names an asset for the first time.
 */
import pg from "pg";
import type { BaseLogger } from "pino";

import { buildDefinitionCache } from "./asset-cache.ts";
import { allAssets as isoAssets, assetOf as isoAssetOf, type Asset } from "./assets.ts";
import { LIMITS } from "./limits.ts";
import { asUnavailable, ReadUnavailable } from "./postgres-read-model.ts";
import { shardOf } from "./shard.ts";

export interface ListedAsset extends Asset {
  /** Whether somebody added it here. */
  readonly isOwn: boolean;
}

/** What became of a wish for an asset. */
export type AssetCreation =
  | { readonly type: "created"; readonly asset: ListedAsset }
  /** There is one with this very definition. */
  | { readonly type: "known"; readonly asset: ListedAsset }
  /** There is one with another definition; it stays. */
  | { readonly type: "conflict"; readonly asset: ListedAsset }
  /** Its database has as many as it may have. */
  | { readonly type: "full" }
  /** No answer: it may have been added. The same wish finds out. */
  | { readonly type: "unknown" };

export interface Assets {
  /** At once for ISO 4217 and what was seen here before. The promise rejects with `ReadUnavailable` when nobody can say. */
  assetOf(code: string): ListedAsset | Promise<ListedAsset | null>;
  /** Every asset, in the order of their codes. @throws ReadUnavailable when a database is away. */
  allAssets(): Promise<ListedAsset[]>;
  /** @throws ReadUnavailable when its database is away; nothing was added. */
  create(asset: Asset, isDryRun: boolean): Promise<AssetCreation>;
  close(): Promise<void>;
}

export interface PostgresAssetsOptions {
  /** In the deployment's order. */
  readonly databaseUrls: readonly string[];
  readonly log?: Pick<BaseLogger, "warn">;
}

/** Builds the assets; it connects on demand, so the databases may come later. */
export function buildPostgresAssets({ databaseUrls, log }: PostgresAssetsOptions): Assets {
  const stores = databaseUrls.map((databaseUrl) => buildStore(databaseUrl, log));
  const home = (code: string): Store => stores[shardOf(code) % stores.length]!;
  const iso = new Map(isoAssets().map((asset) => [asset.code, { ...asset, isOwn: false }]));
  const own = buildDefinitionCache<ListedAsset>({
    find: (code) => home(code).find(code),
    definitionsMax: LIMITS.assetsKeptMax,
    questionsMax: LIMITS.assetQuestionsMax,
    onTooMany: () => new ReadUnavailable("overloaded", "too many assets are being looked up"),
  });

  function judged(wished: Asset, asset: ListedAsset): AssetCreation {
    const isSame = wished.name === asset.name && wished.decimalPlaces === asset.decimalPlaces;
    return { type: isSame ? "known" : "conflict", asset };
  }

  return {
    assetOf: (code) => iso.get(code) ?? own.get(code),
    async allAssets() {
      const found = (await Promise.all(stores.map((store) => store.all()))).flat();
      const added = found.filter(({ code }) => isoAssetOf(code) === null);
      return [...iso.values(), ...added].toSorted((one, other) => (one.code < other.code ? -1 : 1));
    },
    async create(wished, isDryRun) {
      const standard = iso.get(wished.code);
      if (standard !== undefined) return judged(wished, standard);
      const made = await home(wished.code).create(wished, isDryRun);
      if (made === "full" || made === "unknown") return { type: made };
      const { isNew, asset } = made;
      if (!isNew || !isDryRun) own.put(asset.code, asset);
      return isNew ? { type: "created", asset } : judged(wished, asset);
    },
    async close() {
      await Promise.all(stores.map((store) => store.close()));
    },
  };
}

/** The own assets of one database. */
interface Store {
  find(code: string): Promise<ListedAsset | null>;
  all(): Promise<ListedAsset[]>;
  create(
    asset: Asset,
    isDryRun: boolean,
  ): Promise<{ isNew: boolean; asset: ListedAsset } | "full" | "unknown">;
  close(): Promise<void>;
}

const SELECT = `SELECT code, name, decimal_places AS "decimalPlaces", true AS "isOwn" FROM assets`;

function buildStore(databaseUrl: string, log: PostgresAssetsOptions["log"]): Store {
  const pool = new pg.Pool({
    connectionString: databaseUrl,
    application_name: "coffer-assets",
    max: LIMITS.assetConnectionsMax,
    connectionTimeoutMillis: LIMITS.queryStatementMs,
    statement_timeout: LIMITS.queryStatementMs,
    // The server's own timeout answers first; this one is for a server that says nothing at all.
    query_timeout: LIMITS.queryStatementMs + 1_000,
    keepAlive: true,
    options:
      "-c synchronous_commit=on -c default_transaction_isolation=read\\ committed -c jit=off",
  });
  pool.on("error", (error) => log?.warn({ err: error }, "a connection for assets was lost"));
  let closed: Promise<void> | undefined;

  async function connect(): Promise<pg.PoolClient> {
    if (pool.waitingCount >= LIMITS.assetQuestionsMax) {
      throw new ReadUnavailable("overloaded", "too many questions about assets wait");
    }
    return pool.connect().catch((error: unknown) => {
      throw asUnavailable(error, "unavailable");
    });
  }

  /** What fails takes its connection along; it may be in any state. */
  async function run<Row extends pg.QueryResultRow>(query: pg.QueryConfig): Promise<Row[]> {
    const client = await connect();
    let failure: Error | undefined;
    try {
      return (await client.query<Row>(query)).rows;
    } catch (error) {
      failure = error as Error;
      throw error;
    } finally {
      client.release(failure);
    }
  }

  async function read(query: pg.QueryConfig): Promise<ListedAsset[]> {
    try {
      return await run<ListedAsset>(query);
    } catch (error) {
      throw asUnavailable(error, "unavailable");
    }
  }

  return {
    async find(code) {
      const rows = await read({ name: "asset", text: `${SELECT} WHERE code = $1`, values: [code] });
      return rows[0] ?? null;
    },
    all: () => read({ name: "assets", text: `${SELECT} LIMIT ${LIMITS.ownAssetsMax}` }),
    async create({ code, name, decimalPlaces }, isDryRun) {
      try {
        const rows = await run<{ is_new: boolean; asset_name: string; asset_places: number }>({
          text: "SELECT * FROM create_asset($1, $2, $3, $4, $5)",
          values: [code, name, decimalPlaces, LIMITS.ownAssetsMax, isDryRun],
        });
        const [row] = rows;
        if (row === undefined) return "full";
        const { is_new: isNew, asset_name, asset_places } = row;
        const asset = { code, name: asset_name, decimalPlaces: asset_places, isOwn: true };
        return { isNew, asset };
      } catch (error) {
        if (!isDryRun && mayHaveHappened(error)) return "unknown";
        throw asUnavailable(error, "unavailable");
      }
    },
    close() {
      closed ??= pool.end();
      return closed;
    },
  };
}

/**
 * Whether a statement that was sent may have been committed all the same: an error response proves that it was not, except class
 * 57P, which ends the connection; no response proves nothing (PostgreSQL manual, appendix A). `ReadUnavailable`: it was never sent.
 */
function mayHaveHappened(error: unknown): boolean {
  if (error instanceof ReadUnavailable) return false;
  return !(error instanceof pg.DatabaseError) || (error.code ?? "").startsWith("57P");
}
