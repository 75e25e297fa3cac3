/**
 * The reading routes. They ask the read model and lay out what it knows; no actor is woken. Lists
 * are pages (`gateway/pages.ts`): one that is not the last has a `Link` to the next.
 */
import { boundMinor } from "../../src/core/amount.ts";
import { eventBody, holdBody } from "../../src/event-body.ts";
import { LIMITS } from "../../src/limits.ts";
import {
  ReadUnavailable,
  type Operation as OperationState,
  type Page,
  type ReadModel,
  type StoredEvent,
  type TransactionFilter,
  type WalletFilter,
} from "../../src/core/read-model.ts";
import type { WalletState } from "../../src/core/wallet.ts";
import { isoTime, walletBody } from "../answers.ts";
import { problemOfKey } from "../command-intake.ts";
import { apiError, ApiException, rejectionError, statusOf } from "../errors.ts";
import { transactionBody, transactionFilter, transferBody } from "../history.ts";
import type { Routes } from "../http-server.ts";
import { idCursor, linkNext, refusedField, rowsOf, timeOf, versionCursor } from "../pages.ts";
import {
  EventPage,
  EventsQuery,
  KeyParams,
  Operation,
  OperationQuery,
  TransactionPage,
  TransactionsQuery,
  TransferPage,
  TransferParams,
  TransfersQuery,
  WalletPage,
  WalletQuery,
  WalletsQuery,
  WalletWithHistory,
} from "./read-schemas.ts";
import {
  NoQuery,
  problems,
  ref,
  Transfer,
  WalletParams,
  type TransactionBody,
} from "../schemas.ts";

export function addReadRoutes(routes: Routes, readModel: ReadModel): void {
  addWalletReads(routes, readModel);
  addHistoryReads(routes, readModel);
  addTransferReads(routes, readModel);
  addOperationRead(routes, readModel);
}

// --- Wallets -------------------------------------------------------------------------------------

const INCLUDES = ["auditTrail", "transactions"] as const;

function addWalletReads(routes: Routes, readModel: ReadModel): void {
  const tags = ["wallets"];
  routes.get(
    "/wallets/:walletId",
    {
      schema: {
        tags,
        summary: "A wallet, now or in the past",
        description:
          "Without `at` and `version` as it is now. A version that it has not come to is `version_not_found`, a time before it was made `wallet_not_found`.",
        params: WalletParams,
        querystring: WalletQuery,
        response: { 200: WalletWithHistory, ...problems },
      },
    },
    async (request) => {
      const { include, at, version: wanted } = request.query;
      const includes = includesOf(include);
      const wallet = await walletAsOf(readModel, request.params.walletId, at, wanted);
      const body = walletBody(wallet);
      if (includes.size === 0) return body;
      const { walletId, version, decimalPlaces } = wallet;
      const rows = Math.min(LIMITS.includedRows, version + 1);
      const [events, transactions] = await Promise.all([
        includes.has("auditTrail") ? readModel.events(walletId, version - rows + 1, rows) : null,
        includes.has("transactions") ? latestTransactions(readModel, walletId, version) : null,
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
        description:
          "All conditions must hold. A page may be shorter than its limit, even empty, and have a next one: follow `Link` until there is none.",
        querystring: WalletsQuery,
        response: { 200: WalletPage, ...problems },
      },
    },
    async (request, reply) => {
      const { limit = LIMITS.pageRowsDefault, cursor, ...conditions } = request.query;
      const page = await readModel.wallets(searchOf(conditions), limit, idCursor(cursor));
      return rowsOf(request, reply, page).map(walletBody);
    },
  );
}

/**
 * Newest first, up to a version. A page is short when holds or metadata changed in all events that
 * it looks at; the wallet has no `Link` to go on by, so what lies behind them is looked for here.
 */
async function latestTransactions(
  readModel: Pick<ReadModel, "transactions">,
  walletId: string,
  version: number,
): Promise<StoredEvent[]> {
  const found: StoredEvent[] = [];
  let before: number | null = version + 1;
  for (let pages = 0; before !== null && pages < LIMITS.includedPagesMax; pages += 1) {
    const missing = LIMITS.includedRows - found.length;
    if (missing === 0) break;
    const page: Page<StoredEvent, number> = await readModel.transactions(
      walletId,
      {},
      missing,
      before,
    );
    found.push(...page.rows);
    before = page.next;
  }
  return found;
}

function includesOf(include: string | undefined): Set<string> {
  const names = new Set((include ?? "").split(",").filter((name) => name !== ""));
  for (const name of names) {
    if ((INCLUDES as readonly string[]).includes(name)) continue;
    throw refusedField("include", `must be a comma-separated list of ${INCLUDES.join(", ")}`);
  }
  return names;
}

/** The wallet at a time, at a version, or now. */
async function walletAsOf(
  readModel: ReadModel,
  walletId: string,
  at: string | undefined,
  version: number | undefined,
): Promise<WalletState> {
  if (at === undefined && version === undefined) return existing(readModel, walletId);
  if (at === undefined) {
    const wallet = await readModel.walletAt(walletId, version!);
    if (wallet !== null) return wallet;
    const { version: newest } = await existing(readModel, walletId);
    const message = `Wallet ${walletId} has no version ${version} yet: it is at version ${newest}`;
    const details = { walletId, version: newest, requestedVersion: version };
    throw new ApiException(apiError("version_not_found", message, details));
  }
  if (version !== undefined) throw refusedField("version", "cannot be given together with at");
  const atMs = timeOf("at", at);
  // Read before the past is, so that an event which commits meanwhile is no future.
  const now = await existing(readModel, walletId);
  // A host's clock may be ahead of this one; its last event is past all the same.
  if (atMs > Math.max(Date.now(), now.updatedAtMs)) throw refusedField("at", "is in the future");
  const wallet = await readModel.walletAtTime(walletId, atMs);
  if (wallet !== null) return wallet;
  const message = `Wallet ${walletId} did not exist at ${isoTime(atMs)}: it was created at ${isoTime(now.createdAtMs)}`;
  throw new ApiException(apiError("wallet_not_found", message, { walletId }));
}

const METADATA_PREFIX = "metadata.";

/** The filter of a query whose names and types have been checked. */
function searchOf(conditions: Readonly<Record<string, string>>): WalletFilter {
  const { q, ...rest }: Record<string, string> = conditions;
  const names = Object.keys(rest).filter((name) => name.startsWith(METADATA_PREFIX));
  if (names.length > LIMITS.metadataFiltersMax) {
    throw refusedField(names.at(-1)!, `is one more than ${LIMITS.metadataFiltersMax} of metadata`);
  }
  const metadata = new Map(names.map((name) => [name.slice(METADATA_PREFIX.length), rest[name]!]));
  for (const name of names) delete rest[name];
  const filter: WalletFilter = {
    ...rest,
    ...(q !== undefined && { text: q }),
    ...(names.length > 0 && { metadata }),
  };
  const { minBalance, maxBalance } = filter;
  for (const [field, bound] of Object.entries({ minBalance, maxBalance })) {
    if (bound === undefined || boundMinor(bound, 0, "up") !== null) continue;
    throw refusedField(field, "must be a decimal number from 0, without sign or exponent");
  }
  return filter;
}

/** @throws ApiException `wallet_not_found` */
export async function existing(
  readModel: Pick<ReadModel, "wallet">,
  walletId: string,
): Promise<WalletState> {
  const wallet = await readModel.wallet(walletId);
  if (wallet !== null) return wallet;
  throw new ApiException(rejectionError({ code: "wallet_not_found", walletId }));
}

// --- History -------------------------------------------------------------------------------------

function addHistoryReads(routes: Routes, readModel: ReadModel): void {
  const tags = ["history"];
  routes.get(
    "/wallets/:walletId/transactions",
    {
      schema: {
        tags,
        summary: "What moved money, newest first",
        description:
          "`from` is inclusive, `to` is not. A page may be short: follow `Link` until there is none.",
        params: WalletParams,
        querystring: TransactionsQuery,
        response: { 200: TransactionPage, ...problems },
      },
    },
    async (request, reply) => {
      const { limit = LIMITS.pageRowsDefault, cursor, ...conditions } = request.query;
      const before = versionCursor(cursor);
      const filter = filterOf(conditions);
      const { walletId, decimalPlaces } = await existing(readModel, request.params.walletId);
      const page = await readModel.transactions(walletId, filter, limit, before);
      return rowsOf(request, reply, page).map((event) => transactionBody(event, decimalPlaces));
    },
  );
  routes.get(
    "/wallets/:walletId/events",
    {
      schema: {
        tags,
        summary: "The wallet's history, oldest first",
        description:
          "Every event from `fromVersion` on, in pages: follow `Link` until there is none.",
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

/** Which events a query asks for, by type and by time. */
export function filterOf(conditions: {
  readonly type?: TransactionBody["type"] | undefined;
  readonly from?: string | undefined;
  readonly to?: string | undefined;
}): TransactionFilter {
  const { type, from, to } = conditions;
  const fromMs = from === undefined ? undefined : timeOf("from", from);
  const toMs = to === undefined ? undefined : timeOf("to", to);
  if (fromMs !== undefined && toMs !== undefined && fromMs > toMs) {
    throw refusedField("to", "must not be before from");
  }
  return {
    ...transactionFilter(type),
    ...(fromMs !== undefined && { fromMs }),
    ...(toMs !== undefined && { toMs }),
  };
}

// --- Transfers -----------------------------------------------------------------------------------

function addTransferReads(routes: Routes, readModel: ReadModel): void {
  const tags = ["transfers"];
  routes.get(
    "/transfers/:transferId",
    {
      schema: {
        tags,
        summary: "How a transfer stands",
        description: "By the `transferId` of its answer, also while it is pending.",
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
        summary: "Transfers that the wallet has sent or received, newest first",
        description:
          "By the wallet's own history: one that it received is `posted` as soon as it has the money. One that it refused moved nothing here and is listed by its payer only.",
        params: WalletParams,
        querystring: TransfersQuery,
        response: { 200: TransferPage, ...problems },
      },
    },
    async (request, reply) => {
      const { status = null, limit = LIMITS.pageRowsDefault, cursor } = request.query;
      const before = versionCursor(cursor);
      const { walletId } = await existing(readModel, request.params.walletId);
      const page = await readModel.transfersOf(walletId, status, limit, before);
      return rowsOf(request, reply, page).map(({ transfer }) => transferBody(transfer));
    },
  );
}

// --- Operations ----------------------------------------------------------------------------------

/** Whether any wallet has seen the key; no, where a database that might know is away. */
async function isKnown(readModel: ReadModel, key: string): Promise<boolean> {
  try {
    return (await readModel.operations(key, null)).length > 0;
  } catch (error) {
    if (error instanceof ReadUnavailable) return false;
    throw error;
  }
}

function addOperationRead(routes: Routes, readModel: ReadModel): void {
  routes.get(
    "/operations/:idempotencyKey",
    {
      schema: {
        tags: ["operations"],
        summary: "What became of a command",
        description:
          "For a command whose answer was lost, or was `outcome_unknown`. Keys belong to wallets: name the wallet when several used the same key. `operation_not_found` says that no wallet has seen the key: nothing has happened, unless the command is still on its way. A batch's key names none of its commands: ask for each by its own, which is `<key>/<n>` (in a path `<key>%2F<n>`) where it was given no other. As soon as `<key>/0` is known, the batch's key is `validation_failed` here, and says so.",
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
        const first = `${idempotencyKey}/0`;
        if (await isKnown(readModel, first)) {
          throw refusedField(
            "idempotencyKey",
            `names no command of its own, but ${first} does, as the first of a batch: ask for each by ${idempotencyKey}/<n>, from 0`,
          );
        }
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
  if (version === null) return { ...base, outcome };
  const [wallet, hold] = await Promise.all([
    readModel.walletAt(walletId, version),
    readModel.holdAt(walletId, version),
  ]);
  if (wallet === null) return { ...base, outcome };
  const { decimalPlaces } = wallet;
  return {
    ...base,
    outcome,
    wallet: walletBody(wallet),
    ...(hold && { hold: holdBody(hold, decimalPlaces) }),
  };
}
