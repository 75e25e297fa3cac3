/**
 * What every route with a list shares: cursors, the `Link` to the next page, and times in a query.
 * A cursor is the key of the last row that was looked at, opaque to callers, so a page stays right
 * while rows arrive. A page may be shorter than its limit and have a next one: the `Link` alone
 * says whether there is more.
 */
import type { FastifyReply, FastifyRequest } from "fastify";

import type { Page } from "../src/core/read-model.ts";
import { ApiException, validationFailed } from "./errors.ts";
import { ID_PATTERN } from "./schemas.ts";

const IS_ID = new RegExp(ID_PATTERN);
const IS_VERSION = /^\d{1,15}$/;

/** The page's rows; sets a `Link` when there is more. */
export function rowsOf<Row, Key extends string | number>(
  request: FastifyRequest,
  reply: FastifyReply,
  { rows, next }: Page<Row, Key>,
): readonly Row[] {
  if (next !== null) {
    linkNext(request, reply, "cursor", Buffer.from(String(next)).toString("base64url"));
  }
  return rows;
}

/**
 * The same request with one parameter set. Its query is written anew as it was read: a second
 * question mark, or a percent sign that encodes nothing, is part of a value there.
 */
export function linkNext(
  request: FastifyRequest,
  reply: FastifyReply,
  name: string,
  value: string,
): void {
  const [path = ""] = request.url.split("?", 1);
  const parameters = new URLSearchParams();
  for (const [given, wanted] of Object.entries(request.query as object)) {
    parameters.set(given, String(wanted));
  }
  parameters.set(name, value);
  reply.header("link", `<${path}?${parameters.toString()}>; rel="next"`);
}

/** The id behind which a page begins. */
export function idCursor(cursor: string | undefined): string | null {
  return cursor === undefined ? null : readCursor(cursor, IS_ID);
}

/** The version below which a page begins. */
export function versionCursor(cursor: string | undefined): number | null {
  return cursor === undefined ? null : Number(readCursor(cursor, IS_VERSION));
}

/** @throws ApiException for what is no cursor of ours */
function readCursor(cursor: string, expected: RegExp): string {
  const text = Buffer.from(cursor, "base64url").toString();
  const isOurs = Buffer.from(text).toString("base64url") === cursor && expected.test(text);
  if (!isOurs) throw refusedField("cursor", "is not one that a Link header gave");
  return text;
}

const DATE_OR_TIME = /^\d{4}-\d{2}-\d{2}(T\d{2}:\d{2}(:\d{2}(\.\d{1,9})?)?(Z|[+-]\d{2}:\d{2})?)?$/;

/** Milliseconds since 1970; a time without a zone is UTC. */
export function timeOf(field: string, text: string): number {
  const atMs = readTime(text);
  if (atMs !== null) return atMs;
  // A query's + is a blank, which is how an offset such as +02:00 gets lost on its way.
  const hasLostPlus = readTime(text.replace(" ", "+")) !== null;
  throw refusedField(field, hasLostPlus ? `${NOT_A_TIME}; a + in a URL is %2B` : NOT_A_TIME);
}

export const NOT_A_TIME = "must be an ISO 8601 date or time";

/** The same; null when it is no time. */
export function readTime(text: string): number | null {
  const isTime = DATE_OR_TIME.test(text);
  const hasZone = /(Z|[+-]\d{2}:\d{2})$/.test(text.slice(10));
  const atMs = isTime ? Date.parse(text.length === 10 || hasZone ? text : `${text}Z`) : Number.NaN;
  const day = text.slice(0, 10);
  // JavaScript reads February 30 as March 2.
  const isDay = !Number.isNaN(atMs) && new Date(`${day}T00:00:00Z`).toISOString().startsWith(day);
  return isDay ? atMs : null;
}

export function refusedField(field: string, message: string): ApiException {
  return new ApiException(validationFailed([{ field, message }]));
}
