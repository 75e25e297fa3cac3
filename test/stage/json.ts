/**
 * One request with JSON to a real server, and its answer with all that a test may look at. For
 * processes, and where the way over a socket matters; the stack of `stack.ts` is asked without one.
 */
import type { AnyBody } from "./stack.ts";

export interface JsonAnswer<Body> {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  readonly body: Body;
}

export interface JsonRequest {
  /** Default: POST with a body, and GET without. */
  readonly method?: string;
  /** The header `Idempotency-Key`. */
  readonly key?: string | undefined;
}

/** Rejects when there is no answer, or none of JSON. */
export async function askJson<Body = AnyBody>(
  url: string,
  json?: unknown,
  { method = json === undefined ? "GET" : "POST", key }: JsonRequest = {},
): Promise<JsonAnswer<Body>> {
  const answer = await fetch(url, {
    method,
    headers: {
      ...(json !== undefined && { "content-type": "application/json" }),
      ...(key !== undefined && { "idempotency-key": key }),
    },
    ...(json !== undefined && { body: JSON.stringify(json) }),
  });
  const text = await answer.text();
  return { status: answer.status, headers: answer.headers, text, body: JSON.parse(text) as Body };
}
