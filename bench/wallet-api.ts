/**
 * How the benchmarks talk to Coffer besides the load itself: they make wallets, read them back, and
 * repeat a request whose outcome is unknown under the same key until it is known. Repeats are
 * bounded in number and pause between attempts, and they are reported, so that a run which needed
 * them does not look like one that did not. Amounts are minor units (cents) here.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { HttpConnection, HttpFault, headerOf, type HttpAnswer } from "./http-client.ts";

/**
 * Attempts per request, and the pauses between them: doubled from the first to the longest, about
 * 15 s altogether.
 */
const ATTEMPTS_MAX = 20;
const PAUSE_MS = 25;
const PAUSE_MS_MAX = 1_000;
/** A `Retry-After` above this is not waited for. */
const RETRY_AFTER_MS_MAX = 2_000;

export interface Server {
  host: string;
  port: number;
}

/**
 * - `answered`: the server's answer, also when that is a rejection.
 * - `unavailable`: no attempt was carried out.
 * - `unknown`: an attempt may have been carried out, and asking again did not tell.
 */
export type Outcome =
  | { type: "answered"; answer: HttpAnswer; repeats: number }
  | { type: "unavailable" | "unknown"; reason: string; repeats: number };

/**
 * Posts with an idempotency key; a 503, a 504 or a broken connection is followed by the same
 * request again.
 */
export async function postPatiently(
  connection: HttpConnection,
  path: string,
  json: string,
  key: string,
): Promise<Outcome> {
  const fields = `Idempotency-Key: ${key}\r\n`;
  let mayHaveHappened = false;
  let reason = "";
  for (let attempt = 1; attempt <= ATTEMPTS_MAX; attempt += 1) {
    let pauseMs = Math.min(PAUSE_MS * 2 ** (attempt - 1), PAUSE_MS_MAX);
    try {
      const answer = await connection.post(path, json, fields);
      if (answer.status !== 503 && answer.status !== 504) {
        return { type: "answered", answer, repeats: attempt - 1 };
      }
      mayHaveHappened ||= answer.status === 504;
      reason = codeOf(answer);
      const retryAfterMs = Number(headerOf(answer, "retry-after") ?? 0) * 1_000;
      if (retryAfterMs > pauseMs) pauseMs = Math.min(retryAfterMs, RETRY_AFTER_MS_MAX);
    } catch (error) {
      if (!(error instanceof HttpFault)) throw error;
      mayHaveHappened ||= error.kind !== "unreachable";
      reason = error.message;
    }
    if (attempt < ATTEMPTS_MAX) await sleep(pauseMs);
  }
  return { type: mayHaveHappened ? "unknown" : "unavailable", reason, repeats: ATTEMPTS_MAX - 1 };
}

/**
 * The code of an error answer, such as `insufficient_funds`; its status when the body names none.
 */
export function codeOf(answer: HttpAnswer): string {
  try {
    const { code } = JSON.parse(answer.body.toString("utf8")) as { code?: unknown };
    if (typeof code === "string") return code;
  } catch {
    // Not Coffer's JSON; the status says enough.
  }
  return `status ${answer.status}`;
}

/**
 * Works through 0..count-1 with as many workers as connections, each of which takes the next number
 * when it is done.
 */
export async function inParallel(
  server: Server,
  connections: number,
  count: number,
  work: (connection: HttpConnection, index: number) => Promise<void>,
): Promise<void> {
  let next = 0;
  const workers = Array.from({ length: Math.min(connections, count) }, async () => {
    const connection = new HttpConnection(server.host, server.port);
    try {
      while (next < count) {
        const index = next;
        next += 1;
        await work(connection, index);
      }
    } catch (error) {
      // The others finish what they have under way and take no more.
      next = count;
      throw error;
    } finally {
      connection.close();
    }
  });
  await Promise.all(workers);
}

/** Creates wallets in USD. Throws on the first one that cannot be created. */
export async function createWallets(
  server: Server,
  connections: number,
  ids: readonly string[],
  balanceMinor: number,
  onCreated: (count: number) => void,
): Promise<void> {
  let created = 0;
  await inParallel(server, connections, ids.length, async (connection, index) => {
    const id = ids[index] ?? "";
    const json = JSON.stringify({
      walletId: id,
      currency: "USD",
      initialBalance: balanceMinor / 100,
    });
    const outcome = await postPatiently(connection, "/wallets", json, `create-${id}`);
    if (outcome.type !== "answered") throw new Error(`Wallet ${id}: ${outcome.reason}`);
    if (outcome.answer.status !== 201) {
      throw new Error(`Wallet ${id} was not created: ${textOf(outcome.answer)}`);
    }
    created += 1;
    onCreated(created);
  });
}

export interface WalletState {
  balanceMinor: number;
  version: number;
}

/**
 * Reads wallets back, in the order of `ids`. Throws when one cannot be read, or its balance is not
 * in whole cents.
 */
export async function readWallets(
  server: Server,
  connections: number,
  ids: readonly string[],
): Promise<WalletState[]> {
  const states: WalletState[] = Array.from({ length: ids.length });
  await inParallel(server, connections, ids.length, async (connection, index) => {
    const answer = await getPatiently(connection, `/wallets/${ids[index]}`);
    if (answer.status !== 200) throw new Error(`Wallet ${ids[index]}: ${textOf(answer)}`);
    const body = JSON.parse(answer.body.toString("utf8")) as { balance: number; version: number };
    const balanceMinor = Math.round(body.balance * 100);
    if (balanceMinor / 100 !== body.balance || !Number.isSafeInteger(body.version)) {
      throw new Error(`Wallet ${ids[index]} is not readable: ${textOf(answer)}`);
    }
    states[index] = { balanceMinor, version: body.version };
  });
  return states;
}

/** Reads are free to be repeated; the last fault is the caller's. */
export async function getPatiently(connection: HttpConnection, path: string): Promise<HttpAnswer> {
  for (let attempt = 1; ; attempt += 1) {
    try {
      const answer = await connection.get(path);
      if (attempt === ATTEMPTS_MAX || (answer.status !== 503 && answer.status !== 504))
        return answer;
    } catch (error) {
      if (!(error instanceof HttpFault) || attempt === ATTEMPTS_MAX) throw error;
    }
    await sleep(Math.min(PAUSE_MS * 2 ** (attempt - 1), PAUSE_MS_MAX));
  }
}

/** Status and the beginning of the body, for an error message. */
export function textOf(answer: HttpAnswer): string {
  return `${answer.status} ${answer.body.toString("utf8").slice(0, 300)}`;
}
