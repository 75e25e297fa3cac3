/**
 * Holds the event stream against the journal: a consumer reads all of it from its first message on,
 * after NATS has been killed and frozen. Every committed event must have been told, in its wallet's
 * order without a gap when repeats are left out, as it is in the journal, and nothing else. The
 * relay may still be on its way: what is missing is waited for.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { connect, type ConsumerMessages } from "nats";
import { EVENT_STREAM, eventSubject } from "../../src/core/event-stream.ts";
import type { EventBody } from "../../src/event-body.ts";
import { query } from "../cluster/local-cluster.ts";

/** The relay asks a stream that was away again after a growing pause. */
const completeMsMax = 30_000;
const lookMs = 50;
const problemsMax = 10;

export interface StreamReport {
  readonly problems: readonly string[];
  /** Messages of the stream, repeats included. */
  readonly messages: number;
  readonly events: number;
  /** Of them: holds that ended by themselves. */
  readonly expired: number;
}

interface EventRow {
  readonly wallet_id: string;
  readonly version: number;
  readonly type: string;
  readonly amount: number | null;
  readonly balance: number;
  readonly held: number;
}

export async function checkStream(
  natsUrl: string,
  databaseUrls: readonly string[],
): Promise<StreamReport> {
  const connection = await connect({ servers: natsUrl, name: "chaos-stream" });
  let coming: ConsumerMessages | undefined;
  try {
    const consumer = await connection.jetstream().consumers.get(EVENT_STREAM);
    coming = await consumer.consume({ max_messages: 1_000 });
    const reading = buildReading();
    void (async (messages: ConsumerMessages) => {
      for await (const message of messages) {
        const id = message.headers?.get("Nats-Msg-Id") ?? "";
        reading.take(message.subject, id, message.json<EventBody>());
      }
    })(coming);
    const committed = await readCommitted(databaseUrls);
    const deadlineMs = performance.now() + completeMsMax;
    while (reading.missing(committed).length > 0 && performance.now() < deadlineMs) {
      await sleep(lookMs);
    }
    // What was told meanwhile may be newer than the first look.
    const all = await readCommitted(databaseUrls);
    const missing = reading.missing(committed).map((id) => `the stream misses ${id}`);
    const problems = [...missing, ...reading.problems, ...reading.compare(all)];
    return {
      problems: problems.slice(0, problemsMax),
      messages: reading.count(),
      events: committed.size,
      expired: [...committed.values()].filter(({ type }) => type === "HoldExpired").length,
    };
  } finally {
    await coming?.close();
    await connection.close();
  }
}

/** By wallet and version. */
type Committed = ReadonlyMap<string, EventRow>;

async function readCommitted(databaseUrls: readonly string[]): Promise<Committed> {
  const committed = new Map<string, EventRow>();
  for (const url of databaseUrls) {
    const rows = await query<EventRow>(
      url,
      `SELECT wallet_id, version::int4, type, amount::float8, balance::float8, held::float8 FROM events`,
    );
    for (const row of rows) committed.set(`${row.wallet_id}:${row.version}`, row);
  }
  return committed;
}

interface Reading {
  readonly problems: readonly string[];
  take(subject: string, id: string, body: EventBody): void;
  count(): number;
  missing(committed: Committed): string[];
  /** What was told and is not so. */
  compare(committed: Committed): string[];
}

function buildReading(): Reading {
  const problems: string[] = [];
  const told = new Map<string, string>();
  const latest = new Map<string, number>();
  let messages = 0;

  return {
    problems,
    take(subject, id, body) {
      messages += 1;
      const { walletId, version, type, amount, balance, held } = body;
      if (id !== `${walletId}:${version}` || subject !== eventSubject(walletId, type)) {
        problems.push(`the stream tells ${id} on ${subject}: ${JSON.stringify(body)}`);
      }
      const text = JSON.stringify([type, minor(amount), minor(balance), minor(held)]);
      const before = told.get(id);
      if (before !== undefined) {
        if (before !== text) problems.push(`the stream tells ${id} in two ways`);
        return;
      }
      told.set(id, text);
      const last = latest.get(walletId) ?? -1;
      if (version !== last + 1) problems.push(`the stream tells ${id} after version ${last}`);
      latest.set(walletId, version);
    },
    count: () => messages,
    missing: (committed) => [...committed.keys()].filter((id) => !told.has(id)),
    compare(committed) {
      const wrong: string[] = [];
      for (const [id, text] of told) {
        const row = committed.get(id);
        const real = row && JSON.stringify([row.type, row.amount, row.balance, row.held]);
        if (real !== text) wrong.push(`the stream tells ${id} as ${text}, it is ${real}`);
      }
      return wrong;
    },
  };
}

/** The workload's asset has two decimal places. */
function minor(decimal: number | null): number | null {
  return decimal === null ? null : Math.round(decimal * 100);
}
