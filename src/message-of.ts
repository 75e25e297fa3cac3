/**
 * What was thrown, in words: for a sentence that says what failed, where the stack would tell a
 * person nothing. Anything may be thrown, not only an `Error`. An error of several stands for each
 * of them: where a name has several addresses (`localhost` often has two), none can be reached.
 */
export function messageOf(error: unknown): string {
  if (error instanceof AggregateError && error.errors.length > 0) {
    return [...new Set(error.errors.map(messageOf))].join("; ");
  }
  return error instanceof Error && error.message !== "" ? error.message : String(error);
}
