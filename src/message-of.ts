/**
 * What was thrown, in its own words: for a sentence that says what failed, where the stack would
 * tell a person nothing. Anything may be thrown, not only an `Error`.
 */
export function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
