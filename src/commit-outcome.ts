/**
 * What is known when a statement that commits by itself has failed: that it did nothing, or that
 * nobody can tell. The journal asks it of its appends; all that is written past the actors (assets,
 * webhooks) goes through here as a whole.
 */
import pg from "pg";
import { messageOf } from "./message-of.ts";

/** Nobody knows whether what was asked for has happened. */
export class OutcomeUnknown extends Error {
  override readonly name = "OutcomeUnknown";
}

/**
 * Whether the failure of a statement that commits by itself proves that it did not commit. An error
 * response does, if the session goes on behind it: its implicit transaction was aborted. A server
 * that panics while it flushes a commit's record answers with an error too, ends, and may find the
 * record again when it recovers. The session is asked, since the driver has the severity of an
 * error only in the server's language. Nothing is proven by what ends the session in any case
 * (class 57P, 25P03, 25P04), nor by what something in between says that has lost the server and may
 * have another one by now (class 08), nor by no answer.
 *
 * @param client over which the statement was sent; how long it may be silent is its owner's to say
 */
export async function provesAbort(error: unknown, client: pg.ClientBase): Promise<boolean> {
  if (!(error instanceof pg.DatabaseError)) return false;
  if (/^(57P|08|25P0[34])/.test(error.code ?? "")) return false;
  try {
    await client.query("SELECT 1");
    return true;
  } catch {
    return false;
  }
}

/**
 * Runs a statement that commits by itself. What fails takes its connection along.
 * @throws OutcomeUnknown when it may have been sent, and its failure does not prove that it did
 *   nothing
 */
export async function queryToCommit<Row extends pg.QueryResultRow>(
  pool: pg.Pool,
  query: pg.QueryConfig,
): Promise<pg.QueryResult<Row>> {
  const client = await pool.connect();
  let failure: Error | undefined;
  // The pool listens to those that nobody has, and one that is lost unheard would end the process.
  const onLost = (): void => undefined;
  client.on("error", onLost);
  try {
    return await client.query<Row>(query);
  } catch (error) {
    const isAborted = await provesAbort(error, client);
    failure = isAborted ? (error as Error) : new OutcomeUnknown(messageOf(error), { cause: error });
    throw failure;
  } finally {
    client.release(failure);
    client.removeListener("error", onLost);
  }
}
