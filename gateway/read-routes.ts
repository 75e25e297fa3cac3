/**
 * The reading routes. They ask the read model and lay out what it knows; no actor is woken. Lists are pages: a page that is not the
 * last has a `Link` to the next, whose cursor is opaque to callers. The query reads one row more than the page, to know.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";

import type { Asset as AssetState } from "../src/assets.ts";
import { LIMITS } from "../src/limits.ts";
import type { Operation as OperationState, ReadModel } from "../src/read-model.ts";
import type { WalletState } from "../src/wallet.ts";
import { walletBody } from "./answers.ts";
import { problemOfKey } from "./command-intake.ts";
import { apiError, ApiException, rejectionError, statusOf, validationFailed } from "./errors.ts";
import { eventBody, transactionBody, transactionFilter, transferBody } from "./history.ts";
import type { InputTypes } from "./http-server.ts";
import {
  AssetPage,
  EventPage,
  EventsQuery,
  ID_PATTERN,
  KeyParams,
  NoQuery,
  Operation,
  OperationQuery,
  problems,
  ref,
  TransactionPage,
  TransactionsQuery,
  Transfer,
  TransferPage,
  TransferParams,
  TransfersQuery,
  WalletPage,
  WalletParams,
  WalletQuery,
  WalletsQuery,
  WalletWithHistory,
} from "./schemas.ts";

export interface ReadRoutesDeps {
  readonly readModel: ReadModel;
  readonly assets: { allAssets(): readonly AssetState[] };
}

export function addReadRoutes(app: FastifyInstance, deps: ReadRoutesDeps): void {
  addWalletReads(app, deps.readModel);
  addHistoryReads(app, deps.readModel);
  addTransferReads(app, deps.readModel);
  addOperationRead(app, deps.readModel);
  const schema = {
    tags: ["assets"],
    summary: "Known assets",
    querystring: NoQuery,
    response: { 200: AssetPage, ...problems },
  };
  app.get("/assets", { schema }, () => deps.assets.allAssets());
}

// --- Wallets --------------------------------------------------------------------------------------------------------------

const INCLUDES = ["auditTrail", "transactions"] as const;

function addWalletReads(app: FastifyInstance, readModel: ReadModel): void {
  const routes = app.withTypeProvider<InputTypes>();
  const tags = ["wallets"];
  routes.get(
    "/wallets/:walletId",
    {
      schema: {
        tags,
        summary: "A wallet",
        params: WalletParams,
        querystring: WalletQuery,
        response: { 200: WalletWithHistory, ...problems },
      },
    },
    async (request) => {
      const includes = includesOf(request.query.include);
      const wallet = await existing(readModel, request.params.walletId);
      const body = walletBody(wallet);
      if (includes.size === 0) return body;
      const { walletId, version, decimalPlaces } = wallet;
      const rows = LIMITS.includedRows;
      const [events, transactions] = await Promise.all([
        includes.has("auditTrail")
          ? readModel.events(walletId, Math.max(0, version - rows + 1), rows)
          : null,
        includes.has("transactions")
          ? readModel.transactions(walletId, {}, rows, version + 1)
          : null,
      ]);
      return {
        ...body,
        ...(events && { auditTrail: events.map((event) => eventBody(event, decimalPlaces)) }),
        ...(transactions && {
          transactions: transactions.map((it) => transactionBody(it, decimalPlaces)).toReversed(),
        }),
      };
    },
  );
  routes.get(
    "/wallets",
    {
      schema: {
        tags,
        summary: "Wallets, in the order of their ids",
        querystring: WalletsQuery,
        response: { 200: WalletPage, ...problems },
      },
    },
    async (request, reply) => {
      const { limit = LIMITS.pageRowsDefault, cursor, ...filter } = request.query;
      const after = cursor === undefined ? null : readCursor(cursor, IS_ID);
      const rows = await readModel.wallets(filter, limit + 1, after);
      const page = pageOf(request, reply, rows, limit, ({ walletId }) => walletId);
      return page.map(walletBody);
    },
  );
}

function includesOf(include: string | undefined): Set<string> {
  const names = new Set((include ?? "").split(",").filter((name) => name !== ""));
  for (const name of names) {
    if ((INCLUDES as readonly string[]).includes(name)) continue;
    throw refusedField("include", `must be a comma-separated list of ${INCLUDES.join(", ")}`);
  }
  return names;
}

/** @throws ApiException `wallet_not_found` */
async function existing(readModel: ReadModel, walletId: string): Promise<WalletState> {
  const wallet = await readModel.wallet(walletId);
  if (wallet !== null) return wallet;
  throw new ApiException(rejectionError({ code: "wallet_not_found", walletId }));
}

// --- History --------------------------------------------------------------------------------------------------------------

function addHistoryReads(app: FastifyInstance, readModel: ReadModel): void {
  const routes = app.withTypeProvider<InputTypes>();
  const tags = ["history"];
  routes.get(
    "/wallets/:walletId/transactions",
    {
      schema: {
        tags,
        summary: "What moved money, newest first",
        description: "`from` is inclusive, `to` is not. Follow `Link` until there is none.",
        params: WalletParams,
        querystring: TransactionsQuery,
        response: { 200: TransactionPage, ...problems },
      },
    },
    async (request, reply) => {
      const { type, from, to, limit = LIMITS.pageRowsDefault, cursor } = request.query;
      const before = cursor === undefined ? null : Number(readCursor(cursor, IS_VERSION));
      const filter = {
        ...transactionFilter(type),
        ...(from !== undefined && { fromMs: timeOf("from", from) }),
        ...(to !== undefined && { toMs: timeOf("to", to) }),
      };
      const { walletId, decimalPlaces } = await existing(readModel, request.params.walletId);
      const rows = await readModel.transactions(walletId, filter, limit + 1, before);
      const page = pageOf(request, reply, rows, limit, ({ version }) => String(version));
      return page.map((event) => transactionBody(event, decimalPlaces));
    },
  );
  routes.get(
    "/wallets/:walletId/events",
    {
      schema: {
        tags,
        summary: "The wallet's history, oldest first",
        params: WalletParams,
        querystring: EventsQuery,
        response: { 200: EventPage, ...problems },
      },
    },
    async (request, reply) => {
      const { fromVersion = 0, limit = LIMITS.pageRowsDefault } = request.query;
      const { walletId, decimalPlaces } = await existing(readModel, request.params.walletId);
      const rows = await readModel.events(walletId, fromVersion, limit + 1);
      const next = rows[limit];
      if (next !== undefined) linkNext(request, reply, "fromVersion", String(next.version));
      return rows.slice(0, limit).map((event) => eventBody(event, decimalPlaces));
    },
  );
}

// --- Transfers ------------------------------------------------------------------------------------------------------------

function addTransferReads(app: FastifyInstance, readModel: ReadModel): void {
  const routes = app.withTypeProvider<InputTypes>();
  const tags = ["transfers"];
  routes.get(
    "/transfers/:transferId",
    {
      schema: {
        tags,
        summary: "How a transfer stands",
        params: TransferParams,
        querystring: NoQuery,
        response: { 200: ref(Transfer), ...problems },
      },
    },
    async (request) => {
      const { transferId } = request.params;
      const transfer = await readModel.transfer(transferId);
      if (transfer !== null) return transferBody(transfer);
      const message = `Transfer ${transferId} does not exist`;
      throw new ApiException(apiError("transfer_not_found", message, { transferId }));
    },
  );
  routes.get(
    "/wallets/:walletId/transfers",
    {
      schema: {
        tags,
        summary: "Transfers out of the wallet, newest first",
        params: WalletParams,
        querystring: TransfersQuery,
        response: { 200: TransferPage, ...problems },
      },
    },
    async (request) => {
      const { status = null, limit = LIMITS.pageRowsDefault } = request.query;
      const { walletId } = await existing(readModel, request.params.walletId);
      const transfers = await readModel.transfersOf(walletId, status, limit);
      return transfers.map(transferBody);
    },
  );
}

// --- Operations -----------------------------------------------------------------------------------------------------------

function addOperationRead(app: FastifyInstance, readModel: ReadModel): void {
  const routes = app.withTypeProvider<InputTypes>();
  routes.get(
    "/operations/:idempotencyKey",
    {
      schema: {
        tags: ["operations"],
        summary: "What became of a command",
        description: "Keys belong to wallets: name the wallet when several used the same key.",
        params: KeyParams,
        querystring: OperationQuery,
        response: { 200: Operation, ...problems },
      },
    },
    async (request) => {
      const { idempotencyKey } = request.params;
      const problem = problemOfKey(idempotencyKey);
      if (problem !== null) throw refusedField("idempotencyKey", problem);
      const { walletId = null } = request.query;
      const found = await readModel.operations(idempotencyKey, walletId);
      const [operation] = found;
      if (operation === undefined) {
        const message = `No command with the idempotency key ${idempotencyKey} is known`;
        throw new ApiException(apiError("operation_not_found", message, { idempotencyKey }));
      }
      if (found.length > 1) {
        throw refusedField("walletId", "is required: several wallets used this key");
      }
      return operationBody(operation, readModel);
    },
  );
}

async function operationBody(operation: OperationState, readModel: ReadModel) {
  const { commandId, walletId, version, rejection, transferId } = operation;
  const base = { idempotencyKey: commandId, walletId, version, transferId };
  const transfer = transferId === null ? null : await readModel.transfer(transferId);
  const refusal = rejection ?? transfer?.rejection ?? null;
  if (refusal !== null) {
    const { code, message } = rejectionError(refusal);
    return {
      ...base,
      outcome: "rejected" as const,
      error: { statusCode: statusOf(code), code, message },
    };
  }
  const outcome = transfer?.status === "pending" ? ("pending" as const) : ("done" as const);
  const wallet = version === null ? null : await readModel.walletAt(walletId, version);
  return { ...base, outcome, ...(wallet && { wallet: walletBody(wallet) }) };
}

// --- Pages ----------------------------------------------------------------------------------------------------------------

const IS_ID = new RegExp(ID_PATTERN);
const IS_VERSION = /^\d{1,15}$/;

/** The page, and a `Link` to the next when there is a row too many. */
function pageOf<Row>(
  request: FastifyRequest,
  reply: FastifyReply,
  rows: readonly Row[],
  limit: number,
  cursorOf: (last: Row) => string,
): readonly Row[] {
  if (rows.length <= limit) return rows;
  const page = rows.slice(0, limit);
  const cursor = Buffer.from(cursorOf(page.at(-1)!)).toString("base64url");
  linkNext(request, reply, "cursor", cursor);
  return page;
}

/** The same request with one parameter set. */
function linkNext(request: FastifyRequest, reply: FastifyReply, name: string, value: string): void {
  const [path = "", query = ""] = request.url.split("?", 2);
  const parameters = new URLSearchParams(query);
  parameters.set(name, value);
  reply.header("link", `<${path}?${parameters.toString()}>; rel="next"`);
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
function timeOf(field: string, text: string): number {
  const isTime = DATE_OR_TIME.test(text);
  const hasZone = /(Z|[+-]\d{2}:\d{2})$/.test(text.slice(10));
  const atMs = isTime ? Date.parse(text.length === 10 || hasZone ? text : `${text}Z`) : Number.NaN;
  const day = text.slice(0, 10);
  // JavaScript reads February 30 as March 2.
  const isDay = !Number.isNaN(atMs) && new Date(`${day}T00:00:00Z`).toISOString().startsWith(day);
  if (!isDay) throw refusedField(field, "must be an ISO 8601 date or time");
  return atMs;
}

function refusedField(field: string, message: string): ApiException {
  return new ApiException(validationFailed([{ field, message }]));
}
