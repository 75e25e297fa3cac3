/**
 * Books written by hand for tests of the reconciliation: a few wallets in two databases with every
 * kind of event, a transfer that was posted, one that was returned and one that is under way.
 * `copy` makes a fresh database of one of them or of each, so that a test may do to it what somebody
 * with a superuser's password may.
 */
import pg from "pg";
import { inject } from "vitest";
import { prepareDatabases } from "../../src/deployment.ts";
import type { Journal } from "../../src/core/journal.ts";
import { buildPostgresJournal } from "../../src/postgres/journal.ts";
import { buildPostgresShardTable } from "../../src/postgres/shard-table.ts";
import { shardOf } from "../../src/core/shard.ts";
import type { Transfer } from "../../src/core/transfer.ts";
import type { VerifyReport } from "../../src/verify/verify.ts";
import type { WalletState } from "../../src/core/wallet.ts";
import {
  draft,
  put,
  putCredit,
  putPosted,
  putReceipt,
  putRefusal,
  putRejection,
  putReserve,
  putReturn,
  putWallet,
  metadataChanged,
  transferBetween,
  type Draft,
} from "./journal-drafts.ts";
import { createDatabase, dropDatabase } from "./servers.ts";
import { EVEN, idIn, ODD } from "./ids.ts";

export interface Copy {
  readonly urls: readonly string[];
  /** On one of the databases, without its triggers, as a superuser may. */
  tamper(database: number, sql: string, values?: unknown[]): Promise<void>;
  close(): Promise<void>;
}

export interface World {
  /** Versions 0 to 10, in the first database; versions 2 to 7 are credits of 100. */
  readonly anna: string;
  /** In the second; version 2 is the arrival of `posted`, version 3 sends `pending`. */
  readonly bert: string;
  /** In the first; version 2 changes metadata. */
  readonly carl: string;
  /** Does not exist. */
  readonly nobody: string;
  /** Anna's version 8 to Bert. */
  readonly posted: Transfer;
  /** Anna's version 9 to nobody, back as version 10. */
  readonly returned: Transfer;
  /** Bert's version 3 to Carl. */
  readonly pending: Transfer;
  /** A command of Carl's that was rejected. */
  readonly rejected: string;
  /** As they were written: for reading, by tests that close what they open. */
  readonly urls: readonly string[];
  /** @param database the one that is copied; the other one is then the world's own. Default: both. */
  copy(database?: number): Promise<Copy>;
  close(): Promise<void>;
}

let lastCopy = 0;

export async function buildWorld(name: string): Promise<World> {
  const names = [`${name}_even`, `${name}_odd`];
  const server = inject("postgresUrl");
  const urls: string[] = [];
  for (const each of names) urls.push(await createDatabase(server, each));
  await prepareDatabases(urls, () => undefined);
  const story = await write(urls);
  return {
    ...story,
    urls,
    async copy(database) {
      lastCopy += 1;
      const urlsOfCopy = urls.slice();
      const copies: string[] = [];
      for (const [index, original] of names.entries()) {
        if (database !== undefined && index !== database) continue;
        const copy = `${original}_copy_${lastCopy}`;
        urlsOfCopy[index] = await createDatabase(server, copy, `TEMPLATE ${original}`);
        copies.push(copy);
      }
      return {
        urls: urlsOfCopy,
        async tamper(at, sql, values) {
          if (urlsOfCopy[at] === urls[at]) throw new Error("this would change every test's books");
          await tamper(urlsOfCopy[at]!, sql, values);
        },
        async close() {
          for (const copy of copies) await dropDatabase(server, copy);
        },
      };
    },
    async close() {
      for (const each of names) await dropDatabase(server, each);
    },
  };
}

export async function ask<Row extends object>(
  url: string,
  sql: string,
  values: unknown[] = [],
): Promise<Row[]> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    return (await client.query<Row>(sql, values)).rows;
  } finally {
    await client.end();
  }
}

/** As a superuser may: no trigger fires. */
export async function tamper(url: string, sql: string, values: unknown[] = []): Promise<void> {
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  try {
    await client.query("SET session_replication_role = replica");
    await client.query(sql, values);
  } finally {
    await client.end();
  }
}

type Story = Omit<World, "urls" | "copy" | "close">;

async function write(urls: readonly string[]): Promise<Story> {
  const shardTable = buildPostgresShardTable(urls);
  const journals = urls.map((url) => buildPostgresJournal(url));
  const epochs = new Map<number, number>();
  try {
    await shardTable.take("host", new Map([...EVEN, ...ODD].map((shard) => [shard, null])));
    for (const [index, journal] of journals.entries()) {
      for (const [shard, epoch] of await journal.claim("host", index === 0 ? EVEN : ODD)) {
        epochs.set(shard, epoch);
      }
    }
    return await tellStory(journals, epochs);
  } finally {
    await shardTable.close();
    await Promise.all(journals.map((journal) => journal.close()));
  }
}

async function tellStory(
  journals: readonly Journal[],
  epochs: ReadonlyMap<number, number>,
): Promise<Story> {
  async function commit<T>(walletId: string, fill: (writes: Draft) => T): Promise<T> {
    const writes = draft(epochs);
    const result = fill(writes);
    const appended = await journals[shardOf(walletId) % 2]!.append(writes);
    if (appended.type !== "committed") throw new Error(JSON.stringify(appended));
    return result;
  }
  const anna = idIn(EVEN);
  const carl = idIn(EVEN.filter((shard) => shard !== shardOf(anna)));
  const [bert, nobody] = [idIn(ODD), idIn(ODD)];

  let annas: WalletState = await commit(anna, (one) => putWallet(one, anna, 10_000, "open-anna"));
  for (let version = 2; version <= 7; version++) {
    annas = await commit(anna, (one) => putCredit(one, annas, 100, `credit-${version}`));
  }
  let berts = await commit(bert, (one) => putWallet(one, bert, 5_000, "open-bert"));
  await commit(carl, (one) => {
    const created = putWallet(one, carl, 1_000, "open-carl");
    return put(one, carl, metadataChanged('{"tier":"lead"}'), { commandId: "patch" }, created);
  });
  const rejected = "rejected-carl";
  await commit(carl, (one) => putRejection(one, carl, rejected));

  const posted = transferBetween(annas, bert, 300);
  annas = await commit(anna, (one) => putReserve(one, annas, posted));
  berts = await commit(bert, (one) => putReceipt(one, posted, berts));
  await commit(anna, (one) => putPosted(one, posted, berts.version));

  const returned = transferBetween(annas, nobody, 400);
  annas = await commit(anna, (one) => putReserve(one, annas, returned));
  await commit(nobody, (one) => putRefusal(one, returned));
  await commit(anna, (one) => putReturn(one, returned, annas));

  const pending = transferBetween(berts, carl, 500);
  await commit(bert, (one) => putReserve(one, berts, pending));
  return { anna, bert, carl, nobody, posted, returned, pending, rejected };
}

/** What was named, short: `kind wallet:version transfer (field)`, in any order. */
export function placesIn(world: World, { named }: VerifyReport): string[] {
  const { anna, bert, carl, nobody, posted, returned, pending } = world;
  const names = new Map([
    [anna, "anna"],
    [bert, "bert"],
    [carl, "carl"],
    [nobody, "nobody"],
    [posted.transferId, "posted"],
    [returned.transferId, "returned"],
    [pending.transferId, "pending"],
  ]);
  const shards = new Map(
    Object.entries({ anna, bert, carl }).map(([name, id]) => [`shard ${shardOf(id)}`, name]),
  );
  const told = (field: string): string => {
    const name = shards.get(field);
    return name === undefined ? field : `shard of ${name}`;
  };
  return named
    .map(({ kind, walletId, version, transferId, field }) =>
      [
        kind,
        ...(walletId === null ? [] : [`${names.get(walletId) ?? walletId}:${version ?? ""}`]),
        ...(transferId === null ? [] : [names.get(transferId) ?? transferId]),
        ...(field === null ? [] : [`(${told(field)})`]),
      ].join(" "),
    )
    .toSorted();
}
