/**
 * What callers read when the answer is no: one table from code to HTTP status, default sentence and
 * the words of docs/errors.md. Business rejections bring their own sentence and details; faults and
 * refused input get theirs here. HTTP and NATS share the table, so that one mistake has one code on
 * every way in. A test holds the table, the rejections and the page together.
 */
import { STATUS_CODES } from "node:http";

import { toDecimal } from "../src/core/amount.ts";
import { LIMITS } from "../src/limits.ts";
import type { Fault } from "../src/core/protocol.ts";
import { describe, type Rejection, type RejectionCode } from "../src/core/rejection.ts";

interface ErrorRow {
  readonly status: number;
  readonly message: string;
}

const rejections: Record<RejectionCode, ErrorRow> = {
  invalid_amount: { status: 400, message: "The amount is not a positive decimal number" },
  amount_out_of_range: { status: 400, message: "The amount or the balance would be out of range" },
  insufficient_funds: { status: 400, message: "The wallet has insufficient funds" },
  same_wallet: { status: 400, message: "A wallet cannot pay itself" },
  currency_mismatch: { status: 400, message: "The wallets hold different assets" },
  owner_mismatch: { status: 409, message: "The wallet belongs to somebody else" },
  wallet_not_found: { status: 404, message: "The wallet does not exist" },
  asset_not_found: { status: 404, message: "The asset is not known" },
  wallet_already_exists: { status: 409, message: "The wallet exists already" },
  version_conflict: { status: 409, message: "The wallet is at another version" },
  idempotency_conflict: { status: 409, message: "The key was used before with another input" },
  wallet_not_active: { status: 409, message: "The wallet is not active" },
  wallet_not_empty: { status: 409, message: "The wallet is not empty" },
  hold_not_found: { status: 404, message: "The wallet has no such hold" },
  hold_not_active: { status: 409, message: "The hold has ended" },
  capture_exceeds_hold: { status: 400, message: "The hold has less left than that" },
  invalid_expiry: { status: 400, message: "The hold would have expired before it began" },
  too_many_holds: { status: 409, message: "The wallet has as many active holds as it may have" },
  metadata_too_large: { status: 400, message: "The wallet's metadata would be too large" },
};

/** Code -> status and default sentence, for every error that leaves a gateway. */
export const ERRORS = {
  ...rejections,
  bad_request: { status: 400, message: "The request is not proper HTTP" },
  invalid_json: { status: 400, message: "The body is not valid JSON" },
  not_found: { status: 404, message: "There is nothing at this path" },
  asset_already_exists: { status: 409, message: "The asset exists with another definition" },
  asset_limit_reached: { status: 409, message: "There are as many own assets as there may be" },
  transfer_not_found: { status: 404, message: "The transfer does not exist" },
  version_not_found: { status: 404, message: "The wallet has not come to this version yet" },
  transaction_not_found: { status: 404, message: "The transaction does not exist" },
  webhook_not_found: { status: 404, message: "The webhook does not exist" },
  too_many_webhooks: {
    status: 409,
    message: `There are ${LIMITS.webhooksMax} webhooks already; remove one first`,
  },
  operation_not_found: { status: 404, message: "No command with this idempotency key is known" },
  origin_not_allowed: {
    status: 403,
    message: "A page from this origin may not watch; FEED_ORIGINS names those that may",
  },
  method_not_allowed: { status: 405, message: "This path does not take this method" },
  request_timeout: { status: 408, message: "The request did not arrive completely in time" },
  payload_too_large: {
    status: 413,
    message: `The body is larger than ${LIMITS.httpBodyBytesMax} bytes`,
  },
  unsupported_media_type: { status: 415, message: "The body must be application/json" },
  expectation_failed: {
    status: 417,
    message: "The header Expect may only ask for 100-continue",
  },
  validation_failed: { status: 422, message: "The input is not valid" },
  rate_limited: {
    status: 429,
    message: "Too many requests from this address; try again after Retry-After seconds",
  },
  upgrade_required: { status: 426, message: "This path speaks WebSocket" },
  headers_too_large: { status: 431, message: "The request's headers are too large" },
  internal_error: { status: 500, message: "Something is wrong on our side" },
  unavailable: {
    status: 503,
    message:
      "The command cannot be carried out now: this request did nothing; repeat it with the same key",
  },
  overloaded: {
    status: 503,
    message:
      "Too many commands are under way: this request did nothing; repeat it with the same key",
  },
  query_too_slow: {
    status: 503,
    message: "The answer takes the database longer than it may; ask again, or for less",
  },
  outcome_unknown: {
    status: 504,
    message: "It is not known whether the command has happened; ask again with the same key",
  },
} as const satisfies Record<string, ErrorRow>;

export type ErrorCode = keyof typeof ERRORS;

/**
 * Seconds a caller is asked to wait after a 503: a failover's usual length, or a queue's, is about
 * that.
 */
export const RETRY_AFTER_SECONDS = 1;

/**
 * An error before it has a path and a time; a value, since business rejections are no exceptions.
 */
export interface ApiError {
  readonly code: ErrorCode;
  readonly message: string;
  readonly details?: unknown;
}

/** An `ApiError` as an exception, where a framework or a deep call leaves no other way out. */
export class ApiException extends Error {
  override readonly name = "ApiException";
  readonly apiError: ApiError;
  constructor(apiError: ApiError) {
    super(apiError.message);
    this.apiError = apiError;
  }
}

/**
 * A path in an error body is cut after so many characters; it may be anything that fits into a
 * request line.
 */
const PATH_LENGTH_MAX = 512;

export function statusOf(code: ErrorCode): number {
  return ERRORS[code].status;
}

export function apiError(code: ErrorCode, message?: string, details?: unknown): ApiError {
  const sentence = message ?? ERRORS[code].message;
  return details === undefined ? { code, message: sentence } : { code, message: sentence, details };
}

export function bodyTooLarge(bytesMax: number): ApiError {
  return apiError("payload_too_large", `The body is larger than ${bytesMax} bytes`);
}

export function bodyNotUtf8(): ApiError {
  return apiError("invalid_json", "The body is not UTF-8");
}

/**
 * Names what is wrong with a field of the input; `field` is its path, such as `metadata` or
 * `commands/3/amount`.
 */
export interface FieldProblem {
  readonly field: string;
  readonly message: string;
}

export function validationFailed(problems: readonly FieldProblem[]): ApiError {
  const first = problems[0];
  const others = problems.length > 1 ? ` (and ${problems.length - 1} more)` : "";
  const message = first === undefined ? undefined : `${first.field} ${first.message}${others}`;
  return apiError("validation_failed", message, problems);
}

export function rejectionError(rejection: Rejection): ApiError {
  return { code: rejection.code, message: describe(rejection), details: detailsOf(rejection) };
}

/**
 * The facts behind the sentence; amounts as decimals, like everywhere outside. In the order of
 * their names, since a rejection that was read back has another order than a fresh one, and a
 * repeat gets the same body.
 */
function detailsOf(rejection: Rejection): unknown {
  if (rejection.code === "insufficient_funds") {
    const { walletId, availableMinor, requestedMinor, currency, decimalPlaces } = rejection;
    const available = toDecimal(availableMinor, decimalPlaces);
    return { walletId, currency, available, requested: toDecimal(requestedMinor, decimalPlaces) };
  }
  if (rejection.code === "capture_exceeds_hold") {
    const { walletId, holdId, remainingMinor, requestedMinor, currency, decimalPlaces } = rejection;
    const remaining = toDecimal(remainingMinor, decimalPlaces);
    const requested = toDecimal(requestedMinor, decimalPlaces);
    return { walletId, holdId, currency, remaining, requested };
  }
  if (rejection.code === "invalid_expiry") {
    const { walletId, expiresAtMs, nowMs } = rejection;
    const iso = (atMs: number): string => new Date(atMs).toISOString();
    return { walletId, expiresAt: iso(expiresAtMs), now: iso(nowMs) };
  }
  if (rejection.code === "wallet_not_empty") {
    const { walletId, balanceMinor, heldMinor, pendingMinor, currency, decimalPlaces } = rejection;
    const decimal = (minor: number): number => toDecimal(minor, decimalPlaces);
    const [balance, held, pending] = [balanceMinor, heldMinor, pendingMinor].map(decimal);
    return { walletId, currency, balance, held, pending };
  }
  // The caller's word for it; ours is the command id.
  if (rejection.code === "idempotency_conflict") return { idempotencyKey: rejection.commandId };
  const { code: _, ...facts } = rejection;
  const byName = Object.entries(facts).toSorted(([one], [other]) => (one < other ? -1 : 1));
  return Object.fromEntries(byName);
}

/**
 * A fault as an error. The command id goes along when the outcome is unknown: with it the caller
 * can ask `GET /operations/:idempotencyKey`, also when the gateway made the id.
 */
export function faultError(fault: Fault, commandId: string): ApiError {
  if (fault !== "unknown") return apiError(fault);
  return apiError("outcome_unknown", undefined, { idempotencyKey: commandId });
}

/**
 * A read that the database did not answer: there is no key to repeat it with, and nothing that
 * could have happened.
 */
export function readError(reason: "unavailable" | "overloaded" | "query_too_slow"): ApiError {
  if (reason === "query_too_slow") return apiError(reason);
  return apiError(reason, "The database gives no answer at the moment; try again");
}

/** The body of every refusal over HTTP, the schema `Error`. */
export function errorBody(error: ApiError, url: string, correlationId: string, nowMs: number) {
  const statusCode = statusOf(error.code);
  const queryAt = url.indexOf("?");
  const path = (queryAt < 0 ? url : url.slice(0, queryAt)).slice(0, PATH_LENGTH_MAX);
  const body = {
    statusCode,
    error: STATUS_CODES[statusCode] ?? "Error",
    code: error.code,
    message: error.message,
    path,
    timestamp: new Date(nowMs).toISOString(),
    correlationId,
  };
  return error.details === undefined ? body : { ...body, details: error.details };
}
