/**
 * The shard table on PostgreSQL: the row of a shard is in the database that holds the shard's
 * wallets, so that the journal's fence and the owner it fences are in one place. It hides how many
 * databases there are. Each is asked by itself and with short bounds, so that one which is away
 * costs its own shards and no more than a few looks at the table.
 */
import pg from "pg";
import { LIMITS } from "../limits.ts";
import { buildPool, DURABLE } from "./connection.ts";
import { messageOf } from "../message-of.ts";
import type { ShardOwner, ShardTable } from "../core/shard-table.ts";

export interface PostgresShardTable extends ShardTable {
  /** Asks one of the databases whether it is there; resolves to the latency in milliseconds. */
  ping(database: number): Promise<number>;
}

/**
 * @param databaseUrls in the deployment's order: shard `s` is in the one at `s %
 * databaseUrls.length`
 */
export function buildPostgresShardTable(databaseUrls: readonly string[]): PostgresShardTable {
  const statementMs = LIMITS.shardTableMs;
  const pools = databaseUrls.map((databaseUrl) =>
    buildPool(databaseUrl, {
      name: "shards",
      connectionsMax: LIMITS.shardTableConnectionsMax,
      connectMs: statementMs,
      // The server's own bound answers first, and then it is known that nothing was changed.
      answerMs: statementMs + LIMITS.placementMs,
      settings: [...DURABLE, `statement_timeout=${statementMs}`],
    }),
  );

  return {
    async read() {
      const asked = await Promise.allSettled(
        pools.map((pool, index) => pool.query<ShardOwner>(SELECT_SHARDS, [index, pools.length])),
      );
      const answers = asked.filter((answer) => answer.status === "fulfilled");
      if (answers.length === 0) throw new Error(reasonOf(asked));
      const owners = answers.flatMap(({ value }) => value.rows);
      return owners.toSorted((one, other) => one.shard - other.shard);
    },

    async take(owner, from) {
      const asked = await Promise.allSettled(
        byDatabase([...from.keys()], pools.length).map(async ({ index, shards }) => {
          const values = [owner, shards, shards.map((shard) => from.get(shard))];
          return await pools[index]!.query<{ shard: number }>(TAKE, values);
        }),
      );
      const answers = asked.filter((answer) => answer.status === "fulfilled");
      // A server that answers `read` and not this does not write: nothing else would tell of it.
      if (answers.length === 0 && asked.some(isRefused)) {
        throw new Error(`shards cannot be taken: ${reasonOf(asked)}`);
      }
      const taken = answers.flatMap(({ value }) => value.rows.map(({ shard }) => shard));
      return taken.toSorted((one, other) => one - other);
    },

    async release(owner, shards) {
      const asked = await Promise.allSettled(
        byDatabase(shards, pools.length).map(({ index, shards: here }) =>
          pools[index]!.query(RELEASE, [owner, here]),
        ),
      );
      if (asked.some(({ status }) => status === "rejected")) {
        throw new Error(`shards may not be released: ${reasonOf(asked)}`);
      }
    },

    async ping(database) {
      const startedAtMs = performance.now();
      await pools[database]!.query("SELECT 1");
      return performance.now() - startedAtMs;
    },

    async close() {
      await Promise.all(pools.map((pool) => pool.end()));
    },
  };
}

const SELECT_SHARDS = `
  SELECT shard, owner, epoch, (extract(epoch FROM claimed_at) * 1000)::float8 AS "claimedAtMs"
  FROM shards WHERE shard % $2::int = $1::int`;
const TAKE = "SELECT take_shards($1, $2, $3) AS shard";
const RELEASE = "SELECT release_shards($1, $2)";

/** The shards of each database that has some of them. */
function byDatabase(
  shards: readonly number[],
  databases: number,
): Array<{ index: number; shards: number[] }> {
  return Array.from({ length: databases }, (_, index) => ({
    index,
    shards: shards.filter((shard) => shard % databases === index),
  })).filter((part) => part.shards.length > 0);
}

function isRefused(answer: PromiseSettledResult<unknown>): boolean {
  return answer.status === "rejected" && answer.reason instanceof pg.DatabaseError;
}

function reasonOf(asked: ReadonlyArray<PromiseSettledResult<unknown>>): string {
  const failed = asked.filter((answer) => answer.status === "rejected");
  return failed.map(({ reason }) => messageOf(reason)).join("; ");
}
