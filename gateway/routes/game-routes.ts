/**
 * The game-economy API: money of a user in an asset, by the user's and the asset's names. It hides
 * that there is a wallet, `user_id:asset_code`, which the first topup or bonus makes, and lays out
 * the answers in the words that the API inherits. The commands are credits and debits of kinds of
 * their own; their way is that of all others (`buildRun`). Since ids may contain colons, two pairs
 * can make one wallet id: the wallet's actor compares owner and asset, and the readers here do,
 * too.
 */
import type { FastifyReply, FastifyRequest } from "fastify";

import { LIMITS } from "../../src/limits.ts";
import { NOT_STORABLE, UNSTORABLE } from "../../src/core/metadata.ts";
import type { ReadModel } from "../../src/core/read-model.ts";
import type { WalletState } from "../../src/core/wallet.ts";
import { walletBody } from "../answers.ts";
import { problemOfKey, type RequestFields } from "../command-intake.ts";
import { apiError, ApiException } from "../errors.ts";
import {
  BalanceAnswer,
  BalanceQuery,
  BonusBody,
  GameAnswer,
  SpendBody,
  TopUpBody,
  UserParams,
  type BalanceBody,
  type GameAnswerBody,
  type GameBody,
} from "./game-schemas.ts";
import { keyHeader, type Routes } from "../http-server.ts";
import { idCursor, refusedField, rowsOf } from "../pages.ts";
import { existing } from "./read-routes.ts";
import { problems } from "../schemas.ts";
import { mismatch, type Respond, type Run } from "./wallet-routes.ts";

type GameReads = Pick<ReadModel, "wallet" | "wallets">;

const tags = ["game economy"];

const ROUTES = {
  topup: {
    summary: "A user has paid for an asset",
    description:
      "From `system:treasury` to the wallet of the user and the asset, which is made on first use. The asset has to be there: `POST /assets` adds one of your own.",
    body: TopUpBody,
  },
  bonus: {
    summary: "A user is given an asset",
    description:
      "From `system:bonus` to the wallet of the user and the asset, which is made on first use. The asset has to be there: `POST /assets` adds one of your own.",
    body: BonusBody,
  },
  spend: {
    summary: "A user spends an asset",
    description:
      "From the wallet of the user and the asset to `system:revenue`. A user who never got any has no such wallet: `wallet_not_found`.",
    body: SpendBody,
  },
} as const;

export function addGameRoutes(routes: Routes, run: Run, readModel: GameReads): void {
  for (const type of ["topup", "bonus", "spend"] as const) {
    routes.post(
      `/api/v1/wallets/${type}`,
      { schema: { tags, ...ROUTES[type], response: { 200: GameAnswer, ...problems } } },
      (request, reply) => command(run, type, request, reply),
    );
  }
  addBalanceRead(routes, readModel);
}

function command(
  run: Run,
  type: "topup" | "bonus" | "spend",
  request: FastifyRequest,
  reply: FastifyReply,
): Promise<unknown> {
  const body = request.body as GameBody;
  const { user_id: ownerId, asset_code: currency, amount } = body;
  const walletId = walletIdOf(ownerId, currency);
  const reference = referenceOf(body, keyHeader(request));
  const expectedVersion = eitherOf(body, "expected_version", "expectedVersion");
  const dryRun = eitherOf(body, "dry_run", "dryRun");
  const fields: RequestFields = {
    idempotencyKey: reference,
    ownerId,
    currency,
    amount,
    ...(body.description !== undefined && { description: body.description }),
    ...metadataOf(body),
    ...(expectedVersion !== undefined && { expectedVersion }),
    ...(dryRun !== undefined && { dryRun }),
  };
  const respond: Respond = (answer): GameAnswerBody => {
    if (answer.type !== "wallet") return mismatch();
    const { id, version, balance } = answer.wallet;
    return {
      transaction_id: dryRun === true ? null : `${id}:${version}`,
      wallet_id: id,
      user_id: ownerId,
      asset_code: currency,
      amount: Number(amount),
      balance,
      reference_id: reference,
    };
  };
  return run(request, reply, type, walletId, fields, respond);
}

/** @throws ApiException when the two are too long together */
function walletIdOf(userId: string, assetCode: string): string {
  const walletId = `${userId}:${assetCode}`;
  if (walletId.length <= LIMITS.idLengthMax) return walletId;
  const room = LIMITS.idLengthMax - 1;
  throw refusedField("user_id", `and asset_code must not exceed ${room} characters together`);
}

/**
 * What names the command, under one of its three names or the same under several. What is wrong
 * with it is told under the name that it has: of a reference here, else by the intake.
 */
function referenceOf(
  { reference_id: reference, idempotencyKey }: GameBody,
  header: string | undefined,
): string {
  if (reference === undefined) {
    const key = idempotencyKey ?? header;
    if (key === undefined) throw refusedField("reference_id", "is required");
    return key;
  }
  const problem = problemOfKey(reference);
  if (problem !== null) throw refusedField("reference_id", problem);
  if (idempotencyKey !== undefined && idempotencyKey !== reference) {
    throw refusedField("idempotencyKey", "differs from reference_id");
  }
  if (header !== undefined && header !== reference) {
    throw refusedField("reference_id", "differs from the header Idempotency-Key");
  }
  return reference;
}

/** A field under its name here, or under the one that it has on all other writes. */
function eitherOf<Name extends keyof GameBody, Other extends keyof GameBody>(
  body: GameBody,
  name: Name,
  other: Other,
): GameBody[Name] | GameBody[Other] {
  const [given, alike]: unknown[] = [body[name], body[other]];
  if (given !== undefined && alike !== undefined && given !== alike) {
    throw refusedField(other, `differs from ${name}`);
  }
  return body[name] ?? body[other];
}

const LABELS = ["payment_method", "bonus_type", "item_id"] as const;

function metadataOf(body: GameBody): Pick<RequestFields, "metadata"> {
  const labels: Record<string, string> = {};
  for (const name of LABELS) {
    const label = body[name];
    if (label === undefined) continue;
    if (UNSTORABLE.test(label)) throw refusedField(name, NOT_STORABLE);
    if (body.metadata !== undefined && Object.hasOwn(body.metadata, name)) {
      throw refusedField(name, "is in metadata too: give one of them");
    }
    labels[name] = label;
  }
  if (body.metadata === undefined && Object.keys(labels).length === 0) return {};
  return { metadata: { ...body.metadata, ...labels } };
}

// --- Balances ------------------------------------------------------------------------------------

function addBalanceRead(routes: Routes, readModel: GameReads): void {
  routes.get(
    "/api/v1/wallets/:user_id/balance",
    {
      schema: {
        tags,
        summary: "What a user has, of one asset or of all",
        description:
          "Without `asset_code` a list, empty for a user who never had anything; a page may be short: follow `Link` until there is none. With it one balance, or `wallet_not_found` when the user never had any of it.",
        params: UserParams,
        querystring: BalanceQuery,
        response: { 200: BalanceAnswer, ...problems },
      },
    },
    async (request, reply): Promise<BalanceBody | BalanceBody[]> => {
      const { user_id: userId } = request.params;
      const { asset_code: assetCode, limit = LIMITS.pageRowsMax, cursor } = request.query;
      if (assetCode !== undefined) return balanceOf(readModel, userId, assetCode);
      const after = idCursor(cursor);
      // In the order of ids: all that begin with the user's name and a colon are side by side,
      // behind this.
      const prefix = `${userId}:`;
      const from = after === null || after < prefix ? prefix : after;
      const page = await readModel.wallets({ ownerId: userId }, limit, from);
      const next = page.next?.startsWith(prefix) === true ? page.next : null;
      const rows = rowsOf(request, reply, { ...page, next });
      return rows.filter((wallet) => isOf(wallet, userId)).map(balanceBody);
    },
  );
}

async function balanceOf(
  readModel: GameReads,
  userId: string,
  assetCode: string,
): Promise<BalanceBody> {
  const walletId = walletIdOf(userId, assetCode);
  const wallet = await existing(readModel, walletId);
  if (wallet.currency === assetCode && isOf(wallet, userId)) return balanceBody(wallet);
  const found =
    wallet.ownerId === userId
      ? `${walletId} is a wallet of ${wallet.currency}`
      : `the wallet ${walletId} is not theirs`;
  const message = `User ${userId} has no ${assetCode}: ${found}`;
  throw new ApiException(apiError("wallet_not_found", message, { walletId }));
}

function isOf({ walletId, ownerId, currency }: WalletState, userId: string): boolean {
  return ownerId === userId && walletId === `${userId}:${currency}`;
}

function balanceBody(wallet: WalletState): BalanceBody {
  const { id, ownerId, currency, balance, held, available, status } = walletBody(wallet);
  const identity = { user_id: ownerId!, asset_code: currency, wallet_id: id };
  return { ...identity, balance, held, available, status };
}
