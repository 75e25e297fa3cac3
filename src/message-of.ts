/**
 * What was thrown, in words: for a sentence that says what failed, where the stack would tell a
 * person nothing. Anything may be thrown, not only an `Error`. An error of several stands for each
 * of them: where a name has several addresses (`localhost` often has two), none can be reached; and
 * of a transaction Redis itself says only that it was discarded.
 */
export function messageOf(error: unknown): string {
  const several = errorsIn(error);
  if (several.length > 0) return [...new Set(several.map(messageOf))].join("; ");
  return error instanceof Error && error.message !== "" ? error.message : String(error);
}

function errorsIn(error: unknown): readonly unknown[] {
  if (error instanceof AggregateError) return error.errors as unknown[];
  const isOfRedis = error instanceof Error && "previousErrors" in error;
  return isOfRedis && Array.isArray(error.previousErrors) ? error.previousErrors : [];
}
