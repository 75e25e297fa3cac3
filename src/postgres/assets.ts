/**
 * All assets: ISO 4217 from the library's table (`src/assets.ts`), and own ones in the databases.
 * An own asset lives in the database of its code's shard, so one that is away takes its own assets
 * along and no others. They are written past the actors: no money is in them, they never change,
 * and the primary key decides a race. A later table may define a code that somebody has added here
 * before: then the own definition stays, since the money of its wallets is counted in it. What was
 * seen once is kept (`asset-cache.ts`), so that a command waits for a database only when it names
 * an asset for the first time.
 */
import type pg from "pg";
import type { BaseLogger } from "pino";

import { buildDefinitionCache } from "./asset-cache.ts";
import {
  allAssets as isoAssets,
  type Asset,
  type AssetCreation,
  type Assets,
  type ListedAsset,
} from "../assets.ts";
import { LIMITS } from "../limits.ts";
import { buildPool, DURABLE } from "./connection.ts";
import { asUnavailable } from "./read-model.ts";
import { OutcomeUnknown, queryToCommit } from "../commit-outcome.ts";
import { ReadUnavailable } from "../core/read-model.ts";
import { shardOf } from "../core/shard.ts";

export interface PostgresAssetsOptions {
  /** In the deployment's order. */
  readonly databaseUrls: readonly string[];
  readonly log?: Pick<BaseLogger, "warn">;
  /** The assets that are there from the start; only tests have others. */
  readonly standard?: readonly Asset[];
}

/** Builds the assets; it connects on demand, so the databases may come later. */
export function buildPostgresAssets(options: PostgresAssetsOptions): Assets {
  const { databaseUrls, log, standard = isoAssets() } = options;
  const stores = databaseUrls.map((databaseUrl) => buildStore(databaseUrl, log));
  const home = (code: string): Store => stores[shardOf(code) % stores.length]!;
  /** By code; an own asset stands in the place of one that came later. */
  const known = new Map<string, ListedAsset>(
    standard.map((asset) => [asset.code, { ...asset, isOwn: false }]),
  );
  let isClosed = false;
  let reviewTimer: NodeJS.Timeout | undefined;
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

  async function reviewOnce(unseen: readonly Store[]): Promise<void> {
    const codes = standard.map(({ code }) => code);
    const away: Store[] = [];
    await Promise.all(
      unseen.map(async (store) => {
        try {
          for (const asset of await store.among(codes)) keepOwn(asset);
        } catch (error) {
          if (!(error instanceof ReadUnavailable)) throw error;
          away.push(store);
        }
      }),
    );
    if (away.length === 0 || isClosed) return;
    reviewTimer = setTimeout(() => {
      reviewOnce(away).catch((error: unknown) =>
        log?.warn({ err: error }, "assets are not reviewed"),
      );
    }, LIMITS.assetReviewMs);
    reviewTimer.unref();
  }

  function keepOwn(asset: ListedAsset): void {
    const { code, name, decimalPlaces } = asset;
    const listed = known.get(code)!;
    known.set(code, asset);
    const differs =
      listed.decimalPlaces === decimalPlaces
        ? "with as many decimal places"
        : `with ${listed.decimalPlaces} decimal places in place of ${decimalPlaces}`;
    log?.warn(
      `asset ${code} was added here as ${JSON.stringify(name)}, and ISO 4217 has it too by now, as ` +
        `${JSON.stringify(listed.name)} ${differs}; it stays what it was, with ${decimalPlaces} decimal places`,
    );
  }

  return {
    assetOf: (code) => known.get(code) ?? own.get(code),
    review: () => reviewOnce(stores),
    async allAssets() {
      const found = (await Promise.all(stores.map((store) => store.all()))).flat();
      const all = new Map([...known, ...found.map((asset) => [asset.code, asset] as const)]);
      return [...all.values()].toSorted((one, other) => (one.code < other.code ? -1 : 1));
    },
    async create(wished, isDryRun, key = null) {
      // A dry run has no use for its key, as with commands.
      if (key !== null && !isDryRun) {
        // Before the asset: whoever dies between has a key whose repeat adds the asset.
        const named = await home(key).name(key, wished);
        if (named === "other") return { type: "key_taken" };
        if (named === "unknown") return { type: "unknown" };
      }
      const there = known.get(wished.code);
      if (there !== undefined) return judged(wished, there);
      const made = await home(wished.code).create(wished, isDryRun);
      if (made === "full" || made === "unknown") return { type: made };
      const { isNew, asset } = made;
      if (!isNew || !isDryRun) own.put(asset.code, asset);
      return isNew ? { type: "created", asset } : judged(wished, asset);
    },
    async close() {
      isClosed = true;
      clearTimeout(reviewTimer);
      await Promise.all(stores.map((store) => store.close()));
    },
  };
}

/** The own assets and the keys of one database. */
interface Store {
  find(code: string): Promise<ListedAsset | null>;
  all(): Promise<ListedAsset[]>;
  /** Those with one of these codes. */
  among(codes: readonly string[]): Promise<ListedAsset[]>;
  create(
    asset: Asset,
    isDryRun: boolean,
  ): Promise<{ isNew: boolean; asset: ListedAsset } | "full" | "unknown">;
  /** Whether the key names this asset: from now on, if it has named none. */
  name(key: string, asset: Asset): Promise<"this" | "other" | "unknown">;
  close(): Promise<void>;
}

interface CreatedRow {
  is_new: boolean;
  asset_name: string;
  asset_places: number;
}

const SELECT = `SELECT code, name, decimal_places AS "decimalPlaces", true AS "isOwn" FROM assets`;

const SELECT_KEY = `
  SELECT code = $2 AND name = $3 AND decimal_places = $4 AS "isThis" FROM asset_keys WHERE idempotency_key = $1`;

const INSERT_KEY = `
  INSERT INTO asset_keys (idempotency_key, code, name, decimal_places) VALUES ($1, $2, $3, $4)
  ON CONFLICT DO NOTHING`;

function buildStore(databaseUrl: string, log: PostgresAssetsOptions["log"]): Store {
  const pool = buildPool(databaseUrl, {
    name: "assets",
    connectionsMax: LIMITS.assetConnectionsMax,
    connectMs: LIMITS.queryStatementMs,
    answerMs: LIMITS.queryStatementMs + 1_000,
    settings: [...DURABLE, "jit=off", `statement_timeout=${LIMITS.queryStatementMs}`],
    onLost: (error) => log?.warn(`a connection for assets was lost: ${error.message}`),
  });
  let closed: Promise<void> | undefined;

  function checkRoom(): void {
    if (pool.waitingCount < LIMITS.assetQuestionsMax) return;
    throw new ReadUnavailable("overloaded", "too many questions about assets wait");
  }

  async function read<Row extends pg.QueryResultRow = ListedAsset>(
    query: pg.QueryConfig,
  ): Promise<Row[]> {
    checkRoom();
    try {
      return (await pool.query<Row>(query)).rows;
    } catch (error) {
      throw asUnavailable(error, "unavailable");
    }
  }

  /** "unknown" when it may have been carried out. */
  async function write<Row extends pg.QueryResultRow>(
    query: pg.QueryConfig,
    { code }: Asset,
  ): Promise<Row[] | "unknown"> {
    try {
      return (await queryToCommit<Row>(pool, query)).rows;
    } catch (error) {
      if (!(error instanceof OutcomeUnknown)) throw asUnavailable(error, "unavailable");
      log?.warn(`nobody knows whether asset ${code} was added: ${error.message}`);
      return "unknown";
    }
  }

  return {
    async find(code) {
      const rows = await read({ name: "asset", text: `${SELECT} WHERE code = $1`, values: [code] });
      return rows[0] ?? null;
    },
    all: () => read({ name: "assets", text: `${SELECT} LIMIT ${LIMITS.ownAssetsMax}` }),
    among: (codes) => read({ text: `${SELECT} WHERE code = ANY ($1)`, values: [codes] }),
    async create(wished, isDryRun) {
      checkRoom();
      const { code, name, decimalPlaces } = wished;
      const query = {
        text: "SELECT * FROM create_asset($1, $2, $3, $4, $5)",
        values: [code, name, decimalPlaces, LIMITS.ownAssetsMax, isDryRun],
      };
      const rows = await (isDryRun ? read<CreatedRow>(query) : write<CreatedRow>(query, wished));
      if (rows === "unknown") return rows;
      const [row] = rows;
      if (row === undefined) return "full";
      const { is_new: isNew, asset_name, asset_places } = row;
      const asset = { code, name: asset_name, decimalPlaces: asset_places, isOwn: true };
      return { isNew, asset };
    },
    async name(key, asset) {
      const values = [key, asset.code, asset.name, asset.decimalPlaces];
      const look = async (): Promise<boolean | undefined> =>
        (await read<{ isThis: boolean }>({ text: SELECT_KEY, values }))[0]?.isThis;
      let isThis = await look();
      if (isThis === undefined) {
        checkRoom();
        if ((await write({ text: INSERT_KEY, values }, asset)) === "unknown") return "unknown";
        // Somebody else may have been faster with this key.
        isThis = await look();
      }
      return isThis === false ? "other" : "this";
    },
    close() {
      closed ??= pool.end();
      return closed;
    },
  };
}
