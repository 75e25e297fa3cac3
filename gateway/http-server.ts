/**
 * The HTTP server under the routes: Fastify with Coffer's limits, ids, validation, and the one
 * error body that every refusal shares. It hides the framework's own errors and formats, so that
 * bad input of any kind ends in that body and never in a 500 or a hang. The hot path is kept bare:
 * no logger child and no request line, one synchronous hook per request, and responses through
 * compiled serialisers.
 */
import { isUtf8 } from "node:buffer";
import Fastify, {
  LogController,
  type FastifyBaseLogger,
  type FastifyError,
  type FastifyInstance,
  type FastifyReply,
  type FastifyRequest,
  type FastifyTypeProvider,
  type RawReplyDefaultExpression,
  type RawRequestDefaultExpression,
  type RawServerDefault,
} from "fastify";
import { STATUS_CODES, type IncomingMessage } from "node:http";
import type { Socket } from "node:net";
import type { Static, TSchema } from "typebox";

import { LIMITS } from "../src/limits.ts";
import type { Metrics } from "../src/telemetry/metrics.ts";
import { OutcomeUnknown } from "../src/commit-outcome.ts";
import { ReadUnavailable } from "../src/core/read-model.ts";
import type { Tracing } from "../src/telemetry/tracing.ts";
import { correlationOf } from "./command-intake.ts";
import {
  apiError,
  ApiException,
  bodyNotUtf8,
  bodyTooLarge,
  errorBody,
  readError,
  RETRY_AFTER_SECONDS,
  statusOf,
  validationFailed,
  type ApiError,
} from "./errors.ts";
import { keepConnections, UpgradableRequest } from "./http-connections.ts";
import { countAnswers, traceRequests } from "./request-watch.ts";
import { NAMED_SCHEMAS } from "./schemas.ts";
import { buildSerialisers } from "./serialisers.ts";
import { uuidv7 } from "./uuid.ts";
import { checkOf, readQuery, type InputPart } from "./validation.ts";

/**
 * Types a route's input by its schemas. What goes out is typed where it is made, and cut to its
 * schema by the serialiser.
 */
export interface InputTypes extends FastifyTypeProvider {
  readonly validator: this["schema"] extends TSchema ? Static<this["schema"]> : unknown;
  readonly serializer: unknown;
}

/** Where routes are added. */
export type Routes = FastifyInstance<
  RawServerDefault,
  RawRequestDefaultExpression,
  RawReplyDefaultExpression,
  FastifyBaseLogger,
  InputTypes
>;

export interface ServerOptions {
  /** Without them nothing is counted, or traced. */
  readonly metrics?: Metrics | undefined;
  readonly tracing?: Tracing | null | undefined;
  /** Proxies whose `X-Forwarded-For` names the client. */
  readonly trustProxy?: readonly string[] | undefined;
}

/** A Fastify instance with Coffer's limits, ids, validation and errors, and no routes. */
export function buildServer(log: FastifyBaseLogger, options: ServerOptions = {}): FastifyInstance {
  const { metrics, tracing = null, trustProxy = [] } = options;
  const app: FastifyInstance = Fastify({
    http: {
      IncomingMessage: UpgradableRequest,
      // Node's own refusal of a request without one has no body; that of `breachOf` has.
      requireHostHeader: false,
      connectionsCheckingInterval: LIMITS.httpRequestCheckMs,
      // Of this and the time for the whole request Node takes the longer one for the request.
      headersTimeout: LIMITS.httpRequestMs,
    },
    ...(trustProxy.length > 0 && { trustProxy: [...trustProxy] }),
    loggerInstance: log,
    logController: new LogController({ disableRequestLogging: true }),
    // A child per request would cost more than the request line that it serves; errors are logged
    // with their id by hand.
    childLoggerFactory: (logger) => logger,
    genReqId: ({ headers }) =>
      correlationOf(inAscii(headers["x-correlation-id"]), headers["traceparent"]) ?? uuidv7(),
    bodyLimit: LIMITS.httpBodyBytesMax,
    requestTimeout: LIMITS.httpRequestMs,
    connectionTimeout: LIMITS.httpSocketIdleMs,
    // What closes takes as long as clients may; of the library's own 10 s nobody would hear.
    pluginTimeout: LIMITS.shutdownMs,
    keepAliveTimeout: LIMITS.httpKeepAliveMs,
    forceCloseConnections: "idle",
    // While closing, connections that are open still get Coffer's own answers: reads, and
    // `unavailable` from the drained desk.
    return503OnClosing: false,
    // Long ids must meet their schema, which names them, instead of missing their route. Node
    // bounds the request line.
    routerOptions: { maxParamLength: 65_536 },
    schemaController: { compilersFactory: { buildSerializer: buildSerialisers } },
    frameworkErrors: (error, request, reply) => {
      reply.header("x-correlation-id", request.id);
      void sendError(request, reply, asApiError(error));
    },
    clientErrorHandler: (error, socket) =>
      answerBrokenRequest(error, socket, (code) => metrics?.error(code)),
  });
  app.decorate("metrics", metrics ?? null);
  if (metrics !== undefined) countAnswers(app, metrics);
  app.decorateRequest("traceparent", undefined);
  if (tracing !== null) traceRequests(app, tracing);
  keepConnections(app);
  refuseUnfitRequests(app);
  if (log.level === "debug" || log.level === "trace") {
    app.addHook("onResponse", (request, reply, done) => {
      const { method, url, id } = request;
      log.debug({ method, url, status: reply.statusCode, correlationId: id }, "answered");
      done();
    });
  }
  takeJsonOnly(app);
  app.setValidatorCompiler(({ schema, httpPart }) =>
    compileValidator(schema as TSchema, httpPart as InputPart),
  );
  answerFailures(app, log);
  answerUnknownRoutes(app);
  for (const schema of NAMED_SCHEMAS) app.addSchema(schema);
  return app;
}

// --- Input ---------------------------------------------------------------------------------------

/**
 * JSON, or nothing at all, which reads as an object without fields. Bytes that are no UTF-8 would
 * all be read as one character, and two keys that differ in them as one key. `__proto__` is read as
 * a field like any other, as over NATS: the schemas and `canonicalMetadata` refuse it by its name.
 */
function takeJsonOnly(app: FastifyInstance): void {
  const parse = app.getDefaultJsonParser("ignore", "ignore");
  app.removeAllContentTypeParsers();
  app.addContentTypeParser<Buffer>(
    "application/json",
    { parseAs: "buffer" },
    (request, bytes, done) => {
      if (bytes.length === 0) done(null, {});
      else if (isUtf8(bytes)) void parse(request, bytes.toString(), done);
      else done(new ApiException(bodyNotUtf8()));
    },
  );
}

/** What no route should see, whatever it is for. */
function refuseUnfitRequests(app: FastifyInstance): void {
  const hasRoomFor = boundBodies();
  app.addHook("onRequest", (request, reply, done) => {
    reply.header("x-correlation-id", request.id);
    const breach = breachOf(request);
    if (breach !== null) {
      reply.header("connection", "close");
      void sendError(request, reply, breach);
    } else if (!hasRoomFor(request)) {
      void sendError(request, reply, apiError("overloaded", NO_ROOM_FOR_BODY));
    } else if (mayBeForged(request)) {
      void sendError(request, reply, apiError("unsupported_media_type", FROM_ANOTHER_SITE));
    } else if (isEncoded(request)) {
      reply.header("accept-encoding", "identity");
      void sendError(request, reply, apiError("unsupported_media_type", ENCODED));
    } else done();
  });
}

/** What a request breaks of HTTP's own rules that Node's parser lets through. */
function breachOf({ raw, headers }: FastifyRequest): ApiError | null {
  if (headers.host === undefined && raw.httpVersion === "1.1") {
    return apiError("bad_request", "The request has no header Host");
  }
  const { expect } = headers;
  if (expect === undefined || /^100-continue$/i.test(expect)) return null;
  return apiError("expectation_failed");
}

const ENCODED = "The body must not be compressed: the header Content-Encoding may only be identity";

/** Whether a request's body comes in a coding; what has none may say what it likes. */
function isEncoded({ method, headers, is404 }: FastifyRequest): boolean {
  const coding = headers["content-encoding"];
  if (coding === undefined || is404 || method === "GET" || method === "HEAD") return false;
  return !/^(?:identity)?$/i.test(coding);
}

const FROM_ANOTHER_SITE =
  "A request that a browser sends for another site's page must be application/json";

/**
 * Whether any page that somebody looks at may have sent this with their browser, to a Coffer that
 * the page itself does not reach: browsers ask the server before they send JSON for another site,
 * and are not let, but send a POST without a body at once. No script can set the headers by which
 * they tell it. `Sec-Fetch-Site` goes over https and to this machine only, `Origin` with every
 * POST; the latter comes second, since proxies change `Host`.
 */
function mayBeForged({ method, headers, is404 }: FastifyRequest): boolean {
  if (method !== "POST" || is404) return false;
  if (/^application\/json\b/i.test(headers["content-type"] ?? "")) return false;
  const { origin, host, "sec-fetch-site": site } = headers;
  if (site !== undefined) return site === "cross-site";
  return origin !== undefined && origin.replace(/^https?:\/\//, "") !== host;
}

const NO_ROOM_FOR_BODY =
  "Too many large bodies are on their way: this request did nothing; repeat it with the same key";

/**
 * Bounds what all clients together have sent of bodies that are not complete: slow clients with
 * many large ones would otherwise fill the memory. Small ones are bounded by how many connections
 * there are, and one that would be too large is refused by its length. The bytes are given back
 * when the body is complete or its connection gone: Node tells the request of the latter only until
 * it is answered, and some are answered before their body has come (405, 413, 415, 429).
 */
function boundBodies(): (request: FastifyRequest) => boolean {
  let bytesUnderWay = 0;
  return ({ raw, routeOptions: { bodyLimit } }) => {
    // Of what an upgrade to the feed announces nothing is read.
    if ((raw as UpgradableRequest).upgrade === true) return true;
    const length = raw.headers["content-length"];
    if (length === undefined && raw.headers["transfer-encoding"] === undefined) return true;
    const bytes = length === undefined ? bodyLimit : Number(length);
    if (bytes <= LIMITS.httpSmallBodyBytes || bytes > bodyLimit) return true;
    if (bytesUnderWay + bytes > LIMITS.httpBodiesBytesMax) return false;
    bytesUnderWay += bytes;
    const { socket } = raw;
    // Requests that come in one piece have a listener each until the turn ends.
    socket.setMaxListeners(0);
    const giveBack = (): void => {
      bytesUnderWay -= bytes;
      raw.off("close", giveBack);
      socket.off("close", giveBack);
    };
    // Comes when the body is complete, long before the answer.
    raw.once("close", giveBack);
    socket.once("close", giveBack);
    return true;
  };
}

type Validated = true | { value: unknown } | { error: ApiException };

function compileValidator(schema: TSchema, part: InputPart): (value: unknown) => Validated {
  const check = checkOf(schema, part);
  const isQuery = part === "querystring";
  return (given) => {
    const value = isQuery ? readQuery(schema, given) : given;
    const error = check(value);
    if (error !== null) return { error: new ApiException(error) };
    return isQuery ? { value } : true;
  };
}

// --- Errors --------------------------------------------------------------------------------------

/** Answers with the error body that all refusals share. */
export function sendError(
  request: FastifyRequest,
  reply: FastifyReply,
  error: ApiError,
): FastifyReply {
  const status = statusOf(error.code);
  request.server.metrics?.error(error.code);
  if (status === 503) reply.header("retry-after", RETRY_AFTER_SECONDS);
  return reply.code(status).send(errorBody(error, request.url, request.id, Date.now()));
}

/** Routes and plugins throw; callers get the one body, and the log what a person has to look at. */
function answerFailures(app: FastifyInstance, log: FastifyBaseLogger): void {
  app.setErrorHandler((error: FastifyError, request, reply) => {
    const isTooLarge = error.code === "FST_ERR_CTP_BODY_TOO_LARGE";
    const known = isTooLarge ? bodyTooLarge(request.routeOptions.bodyLimit) : asApiError(error);
    const context = { err: error, correlationId: request.id, url: request.url };
    if (known.code === "internal_error") log.error(context, "a request failed");
    else if (error instanceof OutcomeUnknown) log.warn(context, "nobody knows what a request did");
    return sendError(request, reply, known);
  });
}

/** Of what is no command, and may have no key. */
const IT_MAY_HAVE = "It is not known whether this has happened: look before you send it again";

function asApiError(error: Error & { code?: string; statusCode?: number }): ApiError {
  if (error instanceof ApiException) return error.apiError;
  if (error instanceof ReadUnavailable) return readError(error.reason);
  if (error instanceof OutcomeUnknown) return apiError("outcome_unknown", IT_MAY_HAVE);
  switch (error.code) {
    case "FST_ERR_CTP_INVALID_JSON_BODY":
      return apiError("invalid_json");
    case "FST_ERR_CTP_BODY_TOO_LARGE":
      return apiError("payload_too_large");
    case "FST_ERR_CTP_INVALID_MEDIA_TYPE":
      return apiError("unsupported_media_type");
    case "FST_ERR_BAD_URL":
      return validationFailed([{ field: "path", message: "is not properly percent-encoded" }]);
    case "FST_ERR_MAX_PARAM_LENGTH":
      return validationFailed([{ field: "path", message: "is too long" }]);
    default: {
      const { statusCode = 500 } = error;
      return statusCode >= 400 && statusCode < 500
        ? apiError("bad_request", error.message)
        : apiError("internal_error");
    }
  }
}

/**
 * 404, or 405 when the path exists for other methods; their list goes into `Allow`, which also
 * answers OPTIONS.
 */
function answerUnknownRoutes(app: FastifyInstance): void {
  const methods = new Map<string, Set<string>>();
  app.addHook("onRoute", ({ url, method }) => {
    const known = methods.get(url) ?? new Set();
    for (const name of [method].flat()) known.add(name);
    methods.set(url, known);
  });
  let patterns: { pattern: RegExp; allowed: Set<string> }[] | undefined;
  const answer = (request: FastifyRequest, reply: FastifyReply): FastifyReply => {
    patterns ??= [...methods].map(([url, allowed]) => ({ pattern: patternOf(url), allowed }));
    const path = request.url.split("?", 1)[0]!;
    const allowed = patterns
      .filter(({ pattern }) => pattern.test(path))
      .flatMap(({ allowed }) => Array.from(allowed));
    // A route that takes the method has looked, as for a file.
    if (allowed.length === 0 || allowed.includes(request.method)) {
      return sendError(request, reply, apiError("not_found", `There is nothing at this path`));
    }
    reply.header("allow", [...new Set([...allowed, "OPTIONS"])].toSorted().join(", "));
    if (request.method === "OPTIONS") return reply.code(204).send();
    const message = `This path does not take ${request.method}`;
    return sendError(request, reply, apiError("method_not_allowed", message));
  };
  // Before the body is read, which may be wrong in itself.
  app.addHook("onRequest", (request, reply, done) => {
    if (request.is404) void answer(request, reply);
    else done();
  });
  app.setNotFoundHandler(answer);
}

function patternOf(url: string): RegExp {
  const escaped = url.replaceAll(/[.+?^${}()|[\]\\]/g, String.raw`\$&`);
  return new RegExp(`^${escaped.replaceAll(/:\w+/g, "[^/]+").replaceAll("*", ".*")}$`);
}

/** What Node could not read as a request: there is no request object, only the socket. */
function answerBrokenRequest(
  error: Error & { code?: string },
  socket: Socket,
  count: (code: string) => void,
): void {
  if (error.code === "ECONNRESET" || socket.destroyed || !socket.writable) {
    socket.destroy();
    return;
  }
  const reason = ((): ApiError => {
    if (error.code === "HPE_HEADER_OVERFLOW") return apiError("headers_too_large");
    if (error.code === "ERR_HTTP_REQUEST_TIMEOUT") return apiError("request_timeout");
    return apiError("bad_request");
  })();
  count(reason.code);
  const status = statusOf(reason.code);
  const body = JSON.stringify(errorBody(reason, "", uuidv7(), Date.now()));
  const head = [
    `HTTP/1.1 ${status} ${STATUS_CODES[status]}`,
    "content-type: application/json; charset=utf-8",
    `content-length: ${Buffer.byteLength(body)}`,
    "connection: close",
  ];
  socket.end(`${head.join("\r\n")}\r\n\r\n${body}`, () => socket.destroy());
}

/** Whether the request brought a correlation id of its own (also an unfit one). */
export function bringsCorrelation({ headers }: IncomingMessage): boolean {
  return headers["x-correlation-id"] !== undefined || headers["traceparent"] !== undefined;
}

const BEYOND_ASCII = /[^\0-\x7f]/;

/**
 * The header, unless it goes beyond ASCII: Node reads its bytes as Latin-1 and may write them back
 * as UTF-8, so the caller would get another correlation id than it sent.
 */
function inAscii(header: unknown): unknown {
  return typeof header === "string" && BEYOND_ASCII.test(header) ? undefined : header;
}

/**
 * The header `Idempotency-Key`, as the text that the same key is in a body, over NATS and in a
 * path: Node reads the bytes of a header as Latin-1, while everywhere else they are UTF-8.
 * @throws ApiException for bytes that are not, and for two keys
 */
export function keyHeader({ headers, raw }: FastifyRequest): string | undefined {
  const key = headers["idempotency-key"] as string | undefined;
  if (key === undefined) return key;
  // Node joins several into one text, which would be a key that nobody sent.
  if (key.includes(", ") && timesGiven(raw, "idempotency-key") > 1) refuseKey("is given twice");
  if (!BEYOND_ASCII.test(key)) return key;
  const bytes = Buffer.from(key, "latin1");
  return isUtf8(bytes) ? bytes.toString() : refuseKey("must be UTF-8");
}

function timesGiven({ rawHeaders }: IncomingMessage, name: string): number {
  return rawHeaders.filter((text, at) => at % 2 === 0 && text.toLowerCase() === name).length;
}

function refuseKey(message: string): never {
  throw new ApiException(validationFailed([{ field: "Idempotency-Key", message }]));
}
