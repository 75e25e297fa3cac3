/**
 * Request-reply over NATS: the service `wallets` of the NATS services API, with the same bodies,
 * checks, commands and answers as HTTP. It hides that API; a caller finds the endpoints and their
 * schemas with `nats micro ls`. Endpoints share the default queue group, so any number of gateways
 * divide the work, and the command desk bounds what is under way.
 */
import { isUtf8 } from "node:buffer";
import { headers as newHeaders, Match } from "nats";
import type { Msg, MsgHdrs, NatsConnection, ServiceMsg } from "nats";
import type { TSchema } from "typebox";

import { LIMITS } from "../src/limits.ts";
import type { Metrics } from "../src/telemetry/metrics.ts";
import { ReadUnavailable, type ReadModel } from "../src/core/read-model.ts";
import type { OpenSpan, Tracing } from "../src/telemetry/tracing.ts";
import { answerBody, walletBody, type GiveAnswer } from "./answers.ts";
import type { Batches } from "./batch.ts";
import { carryOutBatch } from "./batch-nats.ts";
import {
  correlationOf,
  type RequestFields,
  type RequestOrigin,
  type TakeIn,
} from "./command-intake.ts";
import type { CommandDesk } from "./commands.ts";
import {
  apiError,
  bodyNotUtf8,
  bodyTooLarge,
  readError,
  rejectionError,
  statusOf,
  validationFailed,
  type ApiError,
} from "./errors.ts";
import { BatchBody } from "./routes/batch-schemas.ts";
import { NATS_REQUESTS } from "./routes/command-schemas.ts";
import { uuidv7 } from "./uuid.ts";
import { checkOf, type Check } from "./validation.ts";

export interface WalletServiceOptions {
  readonly connection: NatsConnection;
  readonly commands: Pick<CommandDesk, "submit">;
  readonly readModel: Pick<ReadModel, "wallet">;
  readonly takeIn: TakeIn;
  readonly answer: GiveAnswer;
  readonly batches: Batches;
  readonly version: string;
  readonly log: {
    error(details: object, message: string): void;
    debug?(details: object, message: string): void;
  };
  /** Without them nothing is counted, or traced. */
  readonly metrics?: Metrics | undefined;
  readonly tracing?: Tracing | null | undefined;
}

export interface WalletService {
  /** Takes no further requests; those under way are still answered. */
  stop(): Promise<void>;
}

type EndpointName = keyof typeof NATS_REQUESTS;

interface NatsAnswer {
  readonly data?: unknown;
  /** In place of `data`, as JSON. */
  readonly text?: string;
  readonly error?: ApiError;
  readonly isReplay?: boolean;
  readonly isDryRun?: boolean;
}

type Work = (message: Msg, request: RequestOrigin) => Promise<NatsAnswer>;

const encoder = new TextEncoder();

/**
 * Subjects on which Coffer may publish and callers need not: an answer sent there at a caller's
 * word would be a message of ours to the bus, to the event stream or to JetStream.
 */
const NO_INBOX = /^(?:coffer|wallets)\.|^\$/;

const BAD_HEADERS =
  "The headers of the request cannot be read: a name has no blanks, and a value no line breaks";

/** Makes the service known on the connection; resolves when its endpoints listen. */
export async function buildWalletService(options: WalletServiceOptions): Promise<WalletService> {
  const { connection, version } = options;
  const service = await connection.services.add({
    name: "wallets",
    version,
    description: "Coffer's wallets: commands and reads, with the bodies of the HTTP API",
  });
  const group = service.addGroup("wallets").addGroup("v1");
  function addEndpoint(name: string, schema: TSchema, work: Work): void {
    const count = options.metrics?.endpoint(name);
    group.addEndpoint(name, {
      metadata: { schema: JSON.stringify(schema) },
      handler: (error, message) => {
        // An error tells that the subscription has ended; there is nobody to answer.
        if (error === null) void serve(options, name, message, count, work);
      },
    });
  }
  for (const name of Object.keys(NATS_REQUESTS) as EndpointName[]) {
    const check = checkOf(NATS_REQUESTS[name]);
    addEndpoint(name, NATS_REQUESTS[name], (message, request) =>
      carryOut(options, name, check, message, request),
    );
  }
  addEndpoint("batch", BatchBody, (message, request) => takeBatch(options, message, request));
  return {
    async stop() {
      await service.stop();
    },
  };
}

/**
 * Answers one request, unless its answer would go where only Coffer may publish: then nothing
 * happens. Never rejects: a connection that is gone by then takes no answer, and its client asks
 * again.
 */
async function serve(
  options: WalletServiceOptions,
  name: string,
  message: ServiceMsg,
  count: ((status: number, elapsedMs: number) => void) | undefined,
  work: Work,
): Promise<void> {
  const { log, metrics } = options;
  if (message.reply !== undefined && NO_INBOX.test(message.reply)) {
    log.debug?.({ endpoint: name, reply: message.reply }, "a NATS request wants its answer there");
    return;
  }
  const startedAtMs = performance.now();
  const headers = headersOf(message);
  const request = requestOf(headers);
  const { correlationId } = request;
  const span = beginSpan(options, name, message.subject, headers, correlationId);
  const about = { endpoint: name, correlationId };
  const problem = problemOf(headers);
  let answer: NatsAnswer;
  try {
    answer =
      problem === null
        ? await work(message, { ...request, traceparent: span?.traceparent })
        : { error: problem };
  } catch (failure) {
    const isAway = failure instanceof ReadUnavailable;
    if (!isAway) log.error({ err: failure, ...about }, "a NATS request failed");
    const error = isAway ? readError(failure.reason) : apiError("internal_error");
    answer = { error };
  }
  const { error } = answer;
  const status = error === undefined ? 200 : statusOf(error.code);
  if (error !== undefined) metrics?.error(error.code);
  count?.(status, performance.now() - startedAtMs);
  const code = error === undefined ? {} : { "coffer.error.code": error.code };
  span?.end({ "coffer.status": status, ...code }, status >= 500 ? error?.code : undefined);
  log.debug?.({ ...about, status }, "answered");
  try {
    respond(message, answer, correlationId);
  } catch (lost) {
    log.error({ err: lost, ...about }, "a NATS request could not be answered");
  }
}

/** Null when they break a rule of NATS: the library reads them only now, and throws. */
function headersOf(message: Msg): MsgHdrs | undefined | null {
  try {
    return message.headers;
  } catch {
    return null;
  }
}

/** Why a request with these headers is not carried out: nobody knows which command it names. */
function problemOf(headers: MsgHdrs | undefined | null): ApiError | null {
  if (headers === null) return apiError("bad_request", BAD_HEADERS);
  const keys = headers?.values("Idempotency-Key", Match.IgnoreCase) ?? [];
  if (keys.length < 2) return null;
  return validationFailed([{ field: "Idempotency-Key", message: "is given twice" }]);
}

/** What a request says in its headers. */
function requestOf(headers: MsgHdrs | undefined | null): RequestOrigin {
  const correlation = correlationOf(
    headerOf(headers, "X-Correlation-Id"),
    headerOf(headers, "traceparent"),
  );
  return {
    correlationId: correlation ?? uuidv7(),
    isCorrelationNew: correlation === null,
    key: headerOf(headers, "Idempotency-Key"),
  };
}

function beginSpan(
  { tracing }: WalletServiceOptions,
  name: string,
  subject: string,
  headers: MsgHdrs | undefined | null,
  correlationId: string,
): OpenSpan | null {
  if (tracing === undefined || tracing === null) return null;
  return tracing.begin("server", `NATS wallets.v1.${name}`, headerOf(headers, "traceparent"), {
    "messaging.system": "nats",
    "messaging.destination.name": subject,
    "coffer.correlation.id": correlationId,
  });
}

async function carryOut(
  options: WalletServiceOptions,
  name: EndpointName,
  check: Check,
  message: Msg,
  request: RequestOrigin,
): Promise<NatsAnswer> {
  const body = parse(message);
  if (!body.ok) return { error: body.error };
  const problem = check(body.value);
  if (problem !== null) return { error: problem };
  const { walletId = null, ...fields } = body.value as RequestFields & { walletId?: string };
  if (name === "get") return read(options, walletId!);
  const isDryRun = fields.dryRun === true;
  const intake = await options.takeIn(name, walletId, fields, request);
  if (!intake.ok) return { error: intake.error, isDryRun };
  const outcome = await options.commands.submit(intake.command);
  const answer = await options.answer(outcome, intake.command);
  const isReplay = answer.isReplay && intake.isKeyed;
  if (answer.type === "error") return { error: answer.error, isReplay, isDryRun };
  return { data: answerBody(name, answer), isReplay, isDryRun };
}

async function read({ readModel }: WalletServiceOptions, walletId: string): Promise<NatsAnswer> {
  const wallet = await readModel.wallet(walletId);
  return wallet === null
    ? { error: rejectionError({ code: "wallet_not_found", walletId }) }
    : { data: walletBody(wallet) };
}

async function takeBatch(
  options: WalletServiceOptions,
  message: Msg,
  { correlationId, key, traceparent }: RequestOrigin,
): Promise<NatsAnswer> {
  const { connection, batches } = options;
  const body = parse(message, LIMITS.batchBodyBytesMax);
  if (!body.ok) return { error: body.error };
  return carryOutBatch(batches, {
    body: body.value,
    bytes: message.data.length,
    payloadBytesMax: connection.info?.max_payload ?? LIMITS.busMessageBytesMax,
    correlationId,
    key,
    traceparent,
  });
}

type Parsed =
  | { readonly ok: true; readonly value: unknown }
  | { readonly ok: false; readonly error: ApiError };

/** The body. Nothing at all is `invalid_json` here, while over HTTP it is a body without fields. */
function parse(message: Msg, bytesMax: number = LIMITS.httpBodyBytesMax): Parsed {
  if (message.data.length > bytesMax) {
    return { ok: false, error: bodyTooLarge(bytesMax) };
  }
  // The library would read all bytes that are no UTF-8 as one character.
  if (!isUtf8(message.data)) return { ok: false, error: bodyNotUtf8() };
  try {
    return { ok: true, value: JSON.parse(message.string()) as unknown };
  } catch {
    return { ok: false, error: apiError("invalid_json") };
  }
}

function headerOf(headers: MsgHdrs | undefined | null, name: string): string | undefined {
  return headers?.has(name, Match.IgnoreCase) === true
    ? headers.get(name, Match.IgnoreCase)
    : undefined;
}

function respond(message: ServiceMsg, answer: NatsAnswer, correlationId: string): void {
  const { data, text, error, isReplay = false, isDryRun = false } = answer;
  const headers = newHeaders();
  if (isReplay) headers.set("Idempotent-Replayed", "true");
  if (isDryRun) headers.set("Dry-Run", "true");
  const mark = isDryRun ? { dryRun: true } : {};
  if (error === undefined) {
    const json = text ?? JSON.stringify(data);
    const dry = isDryRun ? '"dryRun":true,' : "";
    message.respond(encoder.encode(`{"ok":true,${dry}"data":${json}}`), { headers });
    return;
  }
  // So that whoever reports an error can name it, as the body does over HTTP.
  headers.set("X-Correlation-Id", correlationId);
  const { code, message: sentence, details } = error;
  const statusCode = statusOf(code);
  const body = { code, message: sentence, statusCode, ...(details !== undefined && { details }) };
  const payload = encoder.encode(JSON.stringify({ ok: false, ...mark, error: body }));
  message.respondError(statusCode, code, payload, { headers });
}
