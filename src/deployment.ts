/**
 * What makes several databases one deployment. Wallets are spread over the databases by their place
 * in the list, so a list in another order, with one more or with one of another deployment would
 * lose sight of wallets, or make some twice. Each database therefore keeps the deployment's id, its
 * own place and the count, written by the first start and never changed. A process that finds its
 * list to be another one ends and says which database belongs where.
 */
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { databaseName } from "./config.ts";
import { assertFit, isAway, UnsafeDatabaseError, withClient } from "./database.ts";
import { LIMITS } from "./limits.ts";
import { messageOf } from "./message-of.ts";
import { migrateUp } from "./postgres/migrate.ts";

/** What a database says about itself. */
interface Sight {
  /** Null: it has no place yet. */
  readonly place: Place | null;
  /** Whether wallets live in it. */
  readonly isUsed: boolean;
}

interface Place {
  readonly deploymentId: string;
  readonly index: number;
  readonly count: number;
}

/**
 * For a process with a host, before anything is written: sees that commits are durable and texts
 * kept, brings every database to this version's schema, and gives or checks its place. Any number of
 * processes may do so at once.
 * @throws UnsafeDatabaseError when a database must not be used, or not in this place.
 */
export async function prepareDatabases(
  databaseUrls: readonly string[],
  log: (line: string) => void,
  warn = log,
): Promise<string> {
  for (const url of databaseUrls) {
    const ofDatabase = (line: string): string => `${databaseName(url)}: ${line}`;
    try {
      await assertFit(url);
      await migrateUp(url, {
        log: (line) => log(ofDatabase(line)),
        warn: (line) => warn(ofDatabase(line)),
      });
    } catch (error) {
      throw asUnfit(url, error);
    }
  }
  let sights = await lookAtAll(databaseUrls, look);
  assertPlaces(databaseUrls, sights);
  for (const [index, url] of databaseUrls.entries()) {
    if (sights[index]!.place !== null) continue;
    const values = [deploymentOf(sights), index, databaseUrls.length];
    await withClient(url, (client) => client.query(INSERT, values));
    // Perhaps another process was faster. Before the next one is written it must be certain that
    // both mean the same.
    sights = await lookAtAll(databaseUrls, look);
    assertPlaces(databaseUrls, sights);
  }
  return deploymentOf(sights)!;
}

/**
 * What only whoever wrote the address can mend: user, password, database, privileges (PostgreSQL
 * manual, appendix A).
 */
const UNFIT = new Set(["28000", "28P01", "3D000", "42501"]);

/** The same error, or what it says for the person who wrote the address. */
function asUnfit(databaseUrl: string, error: unknown): unknown {
  const isUnfit =
    (error instanceof pg.DatabaseError && UNFIT.has(error.code ?? "")) ||
    (error instanceof Error && isOfConnecting(error));
  if (!isUnfit) return error;
  const name = databaseName(databaseUrl);
  return new UnsafeDatabaseError(`${name} (DATABASE_URL) cannot be used: ${messageOf(error)}`);
}

/**
 * TLS that the server does not speak, its certificate (the codes of Node's manual, "X509
 * certificate error codes"), or a file that the address names.
 */
const OF_CONNECTING =
  /^(ENOENT|EACCES|ERR_TLS_.+|.*CERT.*|UNABLE_TO_.+|INVALID_CA|INVALID_PURPOSE|PATH_LENGTH_EXCEEDED|HOSTNAME_MISMATCH)$/;

/** Also settings that a pooler does not pass on, in PgBouncer's words. */
function isOfConnecting(error: Error): boolean {
  const code = "code" in error ? String(error.code) : "";
  return /SSL|unsupported startup parameter/.test(error.message) || OF_CONNECTING.test(code);
}

/**
 * A database may be away when a host starts, as it may later: the host waits, and says for which.
 * Resolves to the deployment's id.
 * @throws UnsafeDatabaseError when a database must not be used, or not in this place.
 */
export async function prepareWhenThere(
  databaseUrls: readonly string[],
  log: { info(text: string): void; warn(text: string): void },
): Promise<string> {
  let quietUntilMs = 0;
  for (let pauseMs: number = LIMITS.journalRetryMs; ; pauseMs = nextPauseMs(pauseMs)) {
    try {
      return await prepareDatabases(
        databaseUrls,
        (line) => log.info(line),
        (line) => log.warn(line),
      );
    } catch (error) {
      if (!isAway(error)) throw error;
      const waited = await Promise.all(databaseUrls.map((url) => untilThere(url, log)));
      if (!waited.includes(true) && performance.now() >= quietUntilMs) {
        quietUntilMs = performance.now() + LIMITS.troubleLogMs;
        log.warn(`the databases could not be prepared, trying again: ${messageOf(error)}`);
      }
    }
    await sleep(pauseMs);
  }
}

/** Resolves to whether the database was away; what else is wrong with it is not told here. */
async function untilThere(
  databaseUrl: string,
  log: { warn(text: string): void },
): Promise<boolean> {
  let wasAway = false;
  for (let pauseMs: number = LIMITS.journalRetryMs; ; pauseMs = nextPauseMs(pauseMs)) {
    try {
      await withClient(databaseUrl, (client) => client.query(IS_THERE));
      return wasAway;
    } catch (error) {
      if (!isAway(error)) return wasAway;
      if (!wasAway) {
        log.warn(`${databaseName(databaseUrl)} is away, trying again: ${messageOf(error)}`);
      }
      wasAway = true;
    }
    await sleep(pauseMs);
  }
}

const IS_THERE = { text: "SELECT 1", query_timeout: LIMITS.migrationConnectMs };

function nextPauseMs(pauseMs: number): number {
  return Math.min(pauseMs * 2, LIMITS.journalRetryMsMax);
}

export interface WatchOptions {
  readonly databaseUrls: readonly string[];
  readonly log: { warn(text: string): void };
  /** Called once, as soon as a database says which deployment this is. */
  readonly onKnown?: (deploymentId: string) => void;
  /** A later look found the list to be wrong; the process must end. */
  readonly onMismatch: (message: string) => void;
}

/**
 * For a process that only reads: looks at once, and again until every database was there and had
 * its place. Writes nothing, and waits for a database that is away no longer than it takes to know,
 * `LIMITS.migrationConnectMs`.
 * @throws UnsafeDatabaseError when the first look finds the list to be wrong, or an address in it.
 */
export async function watchDeployment(options: WatchOptions): Promise<{ stop(): void }> {
  const { databaseUrls, log, onMismatch } = options;
  let { onKnown } = options;
  let timer: NodeJS.Timeout | undefined;
  let isStopped = false;

  let isFirst = true;

  const missOf = (url: string) => (error: unknown) => {
    const told = asUnfit(url, error);
    if (isFirst && told instanceof UnsafeDatabaseError) throw told;
    log.warn(`cannot see yet whether ${databaseName(url)} is in its place: ${messageOf(error)}`);
    return null;
  };

  async function check(): Promise<void> {
    const sights = await lookAtAll(databaseUrls, (url) => look(url).catch(missOf(url)));
    isFirst = false;
    assertPlaces(databaseUrls, sights);
    const deploymentId = deploymentOf(sights);
    if (deploymentId !== null) {
      onKnown?.(deploymentId);
      onKnown = undefined;
    }
    const isCertain = sights.every((sight) => sight !== null && sight.place !== null);
    if (!isCertain && !isStopped) timer = setTimeout(again, LIMITS.deploymentLookMs);
  }

  function again(): void {
    check().catch((error: unknown) => {
      if (!isStopped) onMismatch(messageOf(error));
    });
  }

  await check();
  return {
    stop() {
      isStopped = true;
      clearTimeout(timer);
    },
  };
}

/**
 * All databases, at once. A place is always written before the first wallet, so a database without
 * a place beside one with wallets is a wrong one; unless its place was written between two looks,
 * hence the second look.
 */
async function lookAtAll<Seen extends Sight | null>(
  databaseUrls: readonly string[],
  lookAt: (url: string) => Promise<Seen>,
): Promise<Seen[]> {
  const seen = await Promise.all(databaseUrls.map(lookAt));
  if (!seen.some((sight) => sight?.isUsed)) return seen;
  return await Promise.all(
    seen.map(async (sight, index) =>
      sight !== null && sight.place === null ? await lookAt(databaseUrls[index]!) : sight,
    ),
  );
}

async function look(databaseUrl: string): Promise<Sight> {
  try {
    const { rows } = await withClient(databaseUrl, (client) => client.query<SightRow>(SELECT));
    const { id, index, count, used } = rows[0]!;
    return { place: id === null ? null : { deploymentId: id, index, count }, isUsed: used };
  } catch (error) {
    if (error instanceof pg.DatabaseError && error.code === UNDEFINED_TABLE) {
      return { place: null, isUsed: false };
    }
    throw error;
  }
}

const UNDEFINED_TABLE = "42P01";

interface SightRow {
  id: string | null;
  index: number;
  count: number;
  used: boolean;
}

const SELECT = {
  text: `SELECT deployment_id AS id, database_index AS index, database_count AS count, EXISTS (SELECT FROM wallets) AS used
         FROM (SELECT) one LEFT JOIN deployment ON true`,
  query_timeout: LIMITS.migrationConnectMs,
};

const INSERT = `
  INSERT INTO deployment (deployment_id, database_index, database_count)
  VALUES (coalesce($1::uuid, gen_random_uuid()), $2, $3) ON CONFLICT DO NOTHING`;

function deploymentOf(sights: ReadonlyArray<Sight | null>): string | null {
  const places = sights.map((sight) => sight?.place ?? null);
  return places.find((place) => place !== null)?.deploymentId ?? null;
}

function assertPlaces(databaseUrls: readonly string[], sights: ReadonlyArray<Sight | null>): void {
  const count = databaseUrls.length;
  const deploymentId = deploymentOf(sights);
  const isUsed = sights.some((sight) => sight?.isUsed);
  const isRight = sights.every((sight, index) => {
    if (sight === null) return true;
    if (sight.place === null) return !isUsed;
    const { place } = sight;
    return place.index === index && place.count === count && place.deploymentId === deploymentId;
  });
  if (isRight) return;
  const lines = databaseUrls.map(
    (url, index) =>
      `\n  number ${index + 1} of ${count}, ${databaseName(url)}, ${describe(sights[index]!)}`,
  );
  throw new UnsafeDatabaseError(
    `DATABASE_URL must list all databases of one deployment in their order, or wallets would not be found:${lines.join("")}`,
  );
}

function describe(sight: Sight | null): string {
  if (sight === null) return "cannot be reached";
  if (sight.place === null) return "is new";
  const { index, count, deploymentId } = sight.place;
  return `is number ${index + 1} of ${count} in deployment ${deploymentId}`;
}
