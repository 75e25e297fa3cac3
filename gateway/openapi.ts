/**
 * The OpenAPI document and the pages that show it: what the routes' schemas say, and besides them
 * the names, headers, descriptions and examples that they do not. Here and not in those schemas,
 * since Fastify would check headers that have a schema with every request.
 */
import fastifySwagger from "@fastify/swagger";
import fastifySwaggerUi from "@fastify/swagger-ui";
import type { FastifyInstance } from "fastify";

import { LIMITS } from "../src/limits.ts";
import { BATCH_KEY_LENGTH_MAX } from "./routes/batch-schemas.ts";
import { apiError, errorBody, readError, validationFailed, type ApiError } from "./errors.ts";
import { FEED_PATH } from "./http-connections.ts";

/** To be called before the routes are added, whose schemas it collects. */
export function describeApi(app: FastifyInstance, version: string): void {
  void app.register(fastifySwagger, {
    openapi: {
      openapi: "3.1.0",
      info: {
        title: "Coffer",
        version,
        description: API_DESCRIPTION,
        license: { name: "MIT", identifier: "MIT" },
      },
      servers: [{ url: "/" }],
      // None of its own: see docs/operations.md, "Who must be trusted".
      security: [],
    },
    transformObject: (document) => {
      if ("openapiObject" in document) completeDocument(document.openapiObject as ApiDocument);
      return "openapiObject" in document ? document.openapiObject : document.swaggerObject;
    },
    refResolver: {
      buildLocalReference({ $id }, _base, _fragment, index) {
        return typeof $id === "string" ? $id : `schema-${index}`;
      },
    },
  });
  // Its layout without a bar of the library's own on top.
  const uiConfig = { layout: "BaseLayout" };
  const theme = { title: "Coffer" };
  void app.register(fastifySwaggerUi, { ...NO_FRAMES, routePrefix: "/docs", uiConfig, theme });
  void app.register((routes, _options, done) => {
    routes.get("/", { schema: { hide: true } }, (_request, reply) => reply.redirect("/docs"));
    routes.get("/openapi.json", { schema: { hide: true } }, () => app.swagger());
    done();
  });
}

/** No page of another site may show the document's, and have its buttons pressed. */
const NO_FRAMES = { staticCSP: "frame-ancestors 'none'" };

// --- What the document says besides the schemas --------------------------------------------------

const API_DESCRIPTION = `Wallets that keep balances: each answer is durable, each change is an event.

- **Amounts** are in units of the asset, as JSON numbers or as text (\`25.5\`, \`"25.50"\`), with no more decimals than it has; nothing is rounded.
- **Writes** take an idempotency key, as the header \`Idempotency-Key\` or in the body: send one, and repeat with the same key whatever got no answer, 503 or 504. The first answer comes again, also when it was a no of the wallet (400, 404, 409), with \`Idempotent-Replayed: true\`. \`dryRun: true\` only says what would happen (under \`/api/v1\` \`dry_run\` too; not for webhooks). Unknown fields are refused by their names, and a write has no query: one is refused like an unknown field.
- **Refusals** have one body, \`Error\`: programs read \`code\`, people \`message\`; docs/errors.md lists the codes. Where the operator has set a rate limit, answers have \`X-RateLimit-Limit\`, \`-Remaining\` and \`-Reset\`, and what is over it gets 429 \`rate_limited\`.
- **Lists** come in pages: follow the header \`Link\` until there is none.
- **Callers** are not authenticated here: that is for what stands in front (docs/operations.md).

Live balances come over WebSocket (\`/ws\`, docs/feed.md), the same commands over NATS (\`wallets.v1.*\`, docs/nats.md), and events by JetStream or webhooks (docs/events.md).`;

interface ApiDocument {
  readonly paths: Record<string, Record<string, ApiOperation>>;
}

interface ApiParameter {
  readonly name: string;
  readonly in: string;
  readonly description?: string;
  schema: object;
  example?: unknown;
  style?: string;
  explode?: boolean;
}

interface ApiOperation {
  operationId?: string;
  readonly tags?: readonly string[];
  readonly summary?: string;
  readonly description?: string;
  parameters?: ApiParameter[];
  readonly requestBody?: {
    required: boolean;
    readonly content: Record<
      string,
      { readonly schema?: { readonly required?: readonly string[]; readonly properties?: object } }
    >;
  };
  readonly responses: Record<string, ApiAnswer>;
}

interface ApiAnswer {
  description: string;
  headers?: object;
  content?: Record<string, { schema?: object; example?: object }>;
}

function header(description: string, type = "string"): object {
  return { description, schema: { type } };
}

const correlation: ApiParameter = {
  name: "X-Correlation-Id",
  in: "header",
  description: `Taken over into the events and echoed; \`traceparent\` does as well. Up to ${LIMITS.keyLengthMax} characters of ASCII; in place of one that does not fit a new one is made`,
  schema: { type: "string" },
};

/** The header `Idempotency-Key` of a write, which does not name a command on every path. */
function keyOf(path: string): ApiParameter {
  const { description, maxLength = LIMITS.keyLengthMax } = KEYS[path] ?? KEY;
  const schema = { type: "string", minLength: 1, maxLength };
  return { name: "Idempotency-Key", in: "header", description, schema };
}

interface KeyWords {
  readonly description: string;
  readonly maxLength?: number;
}

const KEY: KeyWords = {
  description:
    "Names the command within its wallet, of a transfer the payer's: a repeat with the same key gets the first answer again, a refusal too; on another wallet the key names another command. Beyond ASCII its bytes are UTF-8, and it is the same key as in a body",
};
const GAME_KEY: KeyWords = {
  description:
    "`reference_id` is the key, and this another name for it; where both are there they must be the same",
};
const KEYS: Readonly<Record<string, KeyWords>> = {
  "/batch": {
    description:
      "Names the commands that have no key of their own: number n (from 0) is `<key>/<n>`",
    maxLength: BATCH_KEY_LENGTH_MAX,
  },
  "/api/v1/wallets/topup": GAME_KEY,
  "/api/v1/wallets/bonus": GAME_KEY,
  "/api/v1/wallets/spend": GAME_KEY,
  "/assets": { description: "Taken like on every write, and not needed: the code is the key" },
  "/webhooks": { description: "A repeat with the same key makes no second webhook" },
  "/webhooks/{webhookId}/replay": {
    description: "Taken like on every write, and not used: sent twice, a replay begins twice",
  },
};

const replayed = header("`true` when this is the answer to an earlier request with the key");
const dryRun = header("`true` when this is the answer to a dry run, and nothing was changed");
const retryAfter = header("Seconds to wait, with 503 and 429", "integer");
const location = header("Path of what was made; not with a dry run");
const echoed = header(
  "Names the request, in the log and in its events: the caller's own, or a new one",
);
const link = header('`<...>; rel="next"`, unless this is the last page');

/** What a `Link` to the next page sets. */
const NEXT_PARAMETERS = new Set(["cursor", "fromVersion"]);

const DESCRIPTIONS: Readonly<Record<string, string>> = {
  200: "OK",
  201: "Created",
  202: "Accepted: the transfer is pending",
  503: "Not at the moment",
  "4XX": "Refused; nothing happened",
  "5XX": "Not at the moment (503), not known whether it happened (504), or our mistake (500)",
};
/** What a read answers has no outcome that could be unknown. */
const READ_DESCRIPTIONS: Readonly<Record<string, string>> = {
  ...DESCRIPTIONS,
  "4XX": "Refused",
  "5XX": "Not at the moment (503), or our mistake (500)",
};
/** Answers of one path alone. */
const OWN_DESCRIPTIONS: Readonly<Record<string, string>> = {
  "post /assets 200": "It was there already, with this definition",
  [`get ${FEED_PATH} 4XX`]:
    "No upgrade was asked for (426), a page of another origin (403), or too many requests (429)",
};

/**
 * Whether an answer may be one to an earlier request. An asset's is known by its status, a webhook
 * is made once and never refused twice, and a batch's outcomes say so each for itself.
 */
function mayBeReplay({ tags = [] }: ApiOperation, status: string): boolean {
  if (tags.includes("batches")) return false;
  if (tags.includes("assets")) return status === "200";
  if (tags.includes("webhooks")) return status === "201";
  return status !== "5XX";
}

/**
 * The example of an answer that is no, where the one of the schema `Error` (a wallet's, to a write)
 * cannot come.
 */
function errorExample(
  method: string,
  path: string,
  status: string,
  { tags = [] }: ApiOperation,
): object | undefined {
  const isRead = method === "get";
  if (status === "5XX") {
    return errorShown(isRead ? readError("unavailable") : apiError("unavailable"), path);
  }
  const hasOther = isRead || tags.includes("assets") || tags.includes("webhooks");
  if (status !== "4XX" || !hasOther) return undefined;
  if (path === FEED_PATH) return errorShown(apiError("upgrade_required"), path);
  // Every path refuses what it does not know.
  return errorShown(validationFailed([{ field: "colour", message: "is not known here" }]), path);
}

const MADE_ID_SHOWN = "01a1fe63-456c-7b6c-a5df-ed7df22ead10";

function errorShown(error: ApiError, path: string): object {
  const shown = path.replace("{walletId}", "wallet-1").replaceAll(/\{\w+\}/g, MADE_ID_SHOWN);
  return errorBody(error, shown, MADE_ID_SHOWN, Date.UTC(2026, 0, 1, 12));
}

const METADATA_FILTERS = "metadata.<key>";

/**
 * A query's parameters as "Try it out" of the documentation can send them: an example there would
 * be filled in, and all filters at once find nothing. The filters of metadata have names of the
 * caller's, so they are an object whose fields are parameters.
 */
function completeQuery(parameters: readonly ApiParameter[]): void {
  for (const parameter of parameters) {
    if (parameter.in !== "query") continue;
    if (parameter.example !== undefined) {
      parameter.schema = { ...parameter.schema, examples: [parameter.example] };
      delete parameter.example;
    }
    if (parameter.name !== METADATA_FILTERS) continue;
    parameter.schema = {
      type: "object",
      additionalProperties: parameter.schema,
      propertyNames: { pattern: String.raw`^metadata\.` },
      maxProperties: LIMITS.metadataFiltersMax,
      default: {},
      examples: [{ "metadata.tier": "gold" }],
    };
    Object.assign(parameter, { style: "form", explode: true });
  }
}

/** The feed's route has no schema of its own, since what it answers with is no HTTP. */
function feedOperation(): ApiOperation {
  const schema = { $ref: "#/components/schemas/Error" };
  return {
    tags: ["feed"],
    summary: "Balance changes as they are committed, over WebSocket",
    description:
      'After the upgrade the client sends frames such as `{ "type": "subscribe", "wallets": ["wallet-1"] }`; docs/feed.md has them all.',
    responses: {
      101: { description: "Speaks WebSocket from here on; frames are JSON" },
      "4XX": { description: "", content: { "application/json": { schema } } },
      "5XX": { description: "", content: { "application/json": { schema } } },
    },
  };
}

/** Adds names, headers, descriptions and which bodies may be left out. */
function completeDocument({ paths }: ApiDocument): void {
  paths[FEED_PATH] = { get: feedOperation() };
  for (const [path, operations] of Object.entries(paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const operationId = OPERATION_IDS[`${method} ${path}`];
      if (operationId !== undefined) operation.operationId = operationId;
      const takesKey = method === "post" || method === "patch";
      const descriptions = method === "get" ? READ_DESCRIPTIONS : DESCRIPTIONS;
      // An asset has no path of its own.
      const hasLocation = operation.tags?.includes("assets") !== true;
      const hasNext = operation.parameters?.some(({ name }) => NEXT_PARAMETERS.has(name)) === true;
      if (takesKey) {
        operation.parameters = [...(operation.parameters ?? []), keyOf(path), correlation];
      }
      completeQuery(operation.parameters ?? []);
      const { requestBody } = operation;
      const bodySchema = requestBody?.content["application/json"]?.schema;
      const fields = bodySchema?.required ?? [];
      const { properties = {} } = bodySchema ?? {};
      const hasDryRun = "dryRun" in properties;
      if (requestBody !== undefined) requestBody.required = fields.length > 0;
      for (const [status, response] of Object.entries(operation.responses)) {
        const isPage = hasNext && status === "200";
        response.description =
          OWN_DESCRIPTIONS[`${method} ${path} ${status}`] ??
          descriptions[status] ??
          response.description;
        const headers = {
          ...(status !== "101" && { "X-Correlation-Id": echoed }),
          ...(hasLocation && status === "201" && { Location: location }),
          ...(takesKey && mayBeReplay(operation, status) && { "Idempotent-Replayed": replayed }),
          ...(hasDryRun && { "Dry-Run": dryRun }),
          ...(/^[45]/.test(status) && { "Retry-After": retryAfter }),
          ...(isPage && { Link: link }),
        };
        if (Object.keys(headers).length > 0) response.headers = headers;
        const example = errorExample(method, path, status, operation);
        const json = response.content?.["application/json"];
        if (example !== undefined && json !== undefined) json.example = example;
      }
    }
  }
}

/**
 * What generated clients call the operations of the HTTP API. These names are part of the contract:
 * one is never changed, and none is given twice.
 */
export const OPERATION_IDS: Readonly<Record<string, string>> = {
  "post /wallets": "createWallet",
  "get /wallets": "listWallets",
  "post /wallets/fund": "fundWallet",
  "post /wallets/{walletId}/credit": "creditWallet",
  "post /wallets/{walletId}/debit": "debitWallet",
  "post /wallets/{walletId}/suspend": "suspendWallet",
  "post /wallets/{walletId}/activate": "activateWallet",
  "post /wallets/{walletId}/close": "closeWallet",
  "patch /wallets/{walletId}": "updateWallet",
  "get /wallets/{walletId}": "getWallet",
  "post /wallets/{walletId}/transfer": "transferFromWallet",
  "post /wallets/transfer": "transferBetweenWallets",
  "post /batch": "runBatch",
  "post /wallets/{walletId}/holds": "placeHold",
  "get /wallets/{walletId}/holds": "listHolds",
  "get /wallets/{walletId}/holds/{holdId}": "getHold",
  "post /wallets/{walletId}/holds/{holdId}/capture": "captureHold",
  "post /wallets/{walletId}/holds/{holdId}/release": "releaseHold",
  "post /api/v1/wallets/topup": "topup",
  "post /api/v1/wallets/bonus": "bonus",
  "post /api/v1/wallets/spend": "spend",
  "get /api/v1/wallets/{user_id}/balance": "getUserBalance",
  "get /assets": "listAssets",
  "post /assets": "addAsset",
  "get /wallets/{walletId}/transactions": "listTransactions",
  "get /wallets/{walletId}/events": "listEvents",
  "get /wallets/{walletId}/transfers": "listTransfers",
  "get /transfers/{transferId}": "getTransfer",
  "get /operations/{idempotencyKey}": "getOperation",
  "get /ledger/wallet/{walletId}": "listLedgerEntries",
  "get /ledger/transactions/{transactionId}": "getLedgerTransaction",
  "get /ledger/trial-balance": "getTrialBalance",
  "get /cluster": "getCluster",
  "get /metrics": "getMetrics",
  "post /webhooks": "createWebhook",
  "get /webhooks": "listWebhooks",
  "get /webhooks/{webhookId}": "getWebhook",
  "delete /webhooks/{webhookId}": "deleteWebhook",
  "post /webhooks/{webhookId}/replay": "replayWebhook",
  "get /health": "getHealth",
  "get /health/ready": "getReadiness",
  "get /health/live": "getLiveness",
  "get /health/nats": "getBusHealth",
  "get /health/nats/stats": "getBusStats",
  "get /api/v1/health": "getHealthV1",
  "get /ws": "openFeed",
};
