/**
 * A batch over NATS, whose answer is one message of at most the server's `max_payload`. An answer
 * that turns out too large after the commands were carried out would be lost, so the shortest form
 * of it is weighed before any begins: wallets without their metadata, errors in their code's own
 * words. The usual answer is whole; it takes the short form only if it would not fit.
 */
import type { Static } from "typebox";

import { LIMITS } from "../src/limits.ts";
import { batchKeyOf, checkBatch, isBatchCommandType, type Batches } from "./batch.ts";
import { apiError, ERRORS, type ApiError, type ErrorCode } from "./errors.ts";
import { BATCH_REQUESTS, type BatchEnvelope } from "./routes/batch-schemas.ts";

export interface NatsBatch {
  readonly body: unknown;
  readonly bytes: number;
  /** `max_payload` of the server. */
  readonly payloadBytesMax: number;
  readonly correlationId: string;
  readonly key: string | undefined;
  readonly traceparent?: string | undefined;
}

/** What is in a reply besides the outcomes. */
const ENVELOPE_BYTES = 1_024;
/** Most bytes of JSON that one UTF-16 unit of a text takes. */
const BYTES_PER_UNIT = 6;
/** An error in its code's own words, without the key. */
const ERROR_BYTES = 320;
/** Most UTF-16 units of a key: two for each of its characters. */
const KEY_UNITS_MAX = 2 * LIMITS.keyLengthMax;
/** What a batch's key gets behind it for each command. */
const INDEX_LENGTH = 6;

/** Carries a batch out; the answer is JSON, or the error for all of it. */
export async function carryOutBatch(
  batches: Batches,
  { body, bytes, payloadBytesMax, correlationId, key: inHeader, traceparent }: NatsBatch,
): Promise<{ readonly text: string } | { readonly error: ApiError }> {
  const problem = checkBatch(body);
  if (problem !== null) return { error: problem };
  const { commands, idempotencyKey } = body as Static<typeof BatchEnvelope>;
  const key = batchKeyOf(idempotencyKey, inHeader);
  if (typeof key === "object") return { error: key };
  const replyBytes = shortestBytes(commands, key);
  if (replyBytes > payloadBytesMax) return { error: replyTooLarge(replyBytes, payloadBytesMax) };
  const place = batches.enter(bytes);
  if (typeof place === "string") return { error: apiError(place) };
  try {
    const pieces: string[] = [];
    const origin = { correlationId, key, traceparent, isGone: () => false };
    for await (const piece of batches.run(commands, origin)) pieces.push(piece);
    const text = pieces.join("");
    const isFitting = Buffer.byteLength(text) + ENVELOPE_BYTES <= payloadBytesMax;
    return { text: isFitting ? text : shortened(text) };
  } finally {
    place.leave();
  }
}

function replyTooLarge(replyBytes: number, payloadBytesMax: number): ApiError {
  return apiError(
    "payload_too_large",
    `The reply to this batch could take ${replyBytes} bytes, and the NATS server carries ${payloadBytesMax}: ` +
      "nothing was carried out; send fewer commands at once, or raise max_payload of the server",
    { replyBytes, payloadBytesMax },
  );
}

/** No answer in its short form is longer than this, whatever becomes of the commands. */
export function shortestBytes(commands: readonly unknown[], key: string | undefined): number {
  let bytes = ENVELOPE_BYTES;
  for (const command of commands) {
    const { type, walletId, toWalletId, idempotencyKey } = (command ?? {}) as CommandTexts;
    const row = isBatchCommandType(type) ? BATCH_REQUESTS[type] : BATCH_REQUESTS.credit;
    const ids = lengthOf(walletId, LIMITS.idLengthMax) + lengthOf(toWalletId, LIMITS.idLengthMax);
    // An unknown outcome says with which key to ask for it.
    const keyLength = Math.max(
      lengthOf(idempotencyKey, KEY_UNITS_MAX),
      lengthOf(key, KEY_UNITS_MAX) + INDEX_LENGTH,
    );
    bytes += Math.max(row.outcomeBytesMax + ids, ERROR_BYTES + keyLength * BYTES_PER_UNIT);
  }
  return bytes;
}

/** As far as they are texts. */
interface CommandTexts {
  readonly type?: unknown;
  readonly walletId?: unknown;
  readonly toWalletId?: unknown;
  readonly idempotencyKey?: unknown;
}

/** Of an id that the caller leaves to us: a UUID. */
const OWN_ID_LENGTH = 36;

function lengthOf(text: unknown, most: number): number {
  return typeof text === "string" ? Math.min(text.length, most) : OWN_ID_LENGTH;
}

interface Outcome {
  ok: boolean;
  data?: object;
  error?: { code: ErrorCode; message: string; details?: unknown };
}

/** The same outcomes in the short form. */
function shortened(text: string): string {
  const { outcomes } = JSON.parse(text) as { outcomes: Outcome[] };
  for (const { data, error } of outcomes) {
    if (data !== undefined) leaveOutMetadata(data as Record<string, unknown>);
    if (error === undefined) continue;
    error.message = ERRORS[error.code].message;
    if (error.code !== "outcome_unknown") delete error.details;
  }
  return JSON.stringify({ outcomes, shortened: true });
}

/** Of a wallet, and of the wallets in an answer about several. */
function leaveOutMetadata(data: Record<string, unknown>): void {
  delete data["metadata"];
  for (const part of Object.values(data)) {
    if (typeof part === "object" && part !== null)
      leaveOutMetadata(part as Record<string, unknown>);
  }
}
