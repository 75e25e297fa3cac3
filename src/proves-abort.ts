import pg from "pg";

/**
 * Whether the answer to a statement that commits by itself proves that it did not. An error
 * response does: its implicit transaction was aborted. Not so class 57P, 25P03 and 25P04, which end
 * the connection, and whatever is worse than an ERROR: a server that panics while it flushes a
 * commit's record may find it again when it recovers. No response proves nothing. (PostgreSQL
 * manual, appendix A; section 54.8: severities. They are in the server's language: of one that does
 * not speak English nothing is taken as proven.)
 */
export function provesAbort(error: unknown): error is pg.DatabaseError {
  return (
    error instanceof pg.DatabaseError &&
    error.severity === "ERROR" &&
    !/^(57P|08|25P0[34])/.test(error.code ?? "")
  );
}
