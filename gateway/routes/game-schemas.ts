/**
 * The shapes of the game-economy API and of own assets: the parts are those of
 * `gateway/schemas.ts`, the names are in snake_case where the API inherits them. Like there, unknown fields are refused by
 * name.
 */
import { Type, type Static, type TProperties } from "typebox";

import { LIMITS } from "../../src/limits.ts";
import { DryRun, everyCommand } from "./command-schemas.ts";
import {
  Amount,
  Asset,
  closed,
  Currency,
  described,
  Id,
  nullableText,
  optionalKey,
  OwnerId,
  WalletStatus,
} from "../schemas.ts";
import { paging } from "./read-schemas.ts";

const AssetCode = Type.String({ ...Currency, examples: ["GOLD_COINS"] });

// --- Assets --------------------------------------------------------------------------------------

export const CreateAssetBody = Type.Object(
  {
    code: AssetCode,
    name: Type.String({
      minLength: 1,
      maxLength: LIMITS.assetNameLengthMax,
      description: "What people call it",
      examples: ["Gold coins"],
    }),
    decimalPlaces: Type.Integer({
      minimum: 0,
      maximum: 9,
      description: "Digits behind the decimal point of its amounts; 0: whole ones only",
    }),
    idempotencyKey: optionalKey(
      "Taken like on every write, and not needed to ask again: the same definition is added once in any case",
    ),
    dryRun: Type.Optional(DryRun),
  },
  { ...closed, examples: [{ code: "GOLD_COINS", name: "Gold coins", decimalPlaces: 0 }] },
);

export const CreatedAsset = Type.Object(Asset.properties, {
  examples: [{ code: "GOLD_COINS", name: "Gold coins", decimalPlaces: 0, isOwn: true }],
});

// --- The game economy ----------------------------------------------------------------------------

const Label = Type.String({
  minLength: 1,
  maxLength: LIMITS.keyLengthMax,
  description: "Kept with the event under this name, in its `data.metadata`",
});

const AtVersion = Type.Integer({
  minimum: 0,
  description: "Refuse unless the wallet is there and at this version; both names mean the same",
});

/** With the names that are this API's own, and those that all other writes have. */
const gameFields = {
  ...everyCommand,
  user_id: described(
    OwnerId,
    `Owner of the wallet \`user_id:asset_code\`, an id that has ${LIMITS.idLengthMax} characters at most`,
  ),
  asset_code: described(AssetCode, "Of ISO 4217, or one that `POST /assets` has added"),
  amount: Amount,
  reference_id: Type.Optional(
    Type.String({
      minLength: 1,
      maxLength: LIMITS.keyLengthMax,
      description:
        "Names the command within the wallet, as an idempotency key does: a repeat gets the first answer again, a refusal too. It must be there under this name, as `idempotencyKey` or as the header `Idempotency-Key`",
      examples: ["order-1001"],
    }),
  ),
  idempotencyKey: optionalKey(
    "Another name for `reference_id`; when both are there they must be the same",
  ),
  expected_version: Type.Optional(AtVersion),
  expectedVersion: Type.Optional(AtVersion),
  dry_run: Type.Optional(DryRun),
};

function gameBody<Properties extends TProperties>(properties: Properties, example: object) {
  const common = { user_id: "user-1", asset_code: "GOLD_COINS", amount: 100 };
  return Type.Object(
    { ...gameFields, ...properties },
    { ...closed, examples: [{ ...common, ...example }] },
  );
}

export const TopUpBody = gameBody(
  { payment_method: Type.Optional(Label) },
  { reference_id: "payment-7", payment_method: "card" },
);
export const BonusBody = gameBody(
  { bonus_type: Type.Optional(Label) },
  { reference_id: "daily-2026-01-01", bonus_type: "daily_login" },
);
export const SpendBody = gameBody(
  { item_id: Type.Optional(Label) },
  { reference_id: "order-1001", item_id: "sword-3" },
);
export type GameBody = Static<typeof TopUpBody> &
  Static<typeof BonusBody> &
  Static<typeof SpendBody>;

export const GameAnswer = Type.Object(
  {
    transaction_id: nullableText(
      "`wallet_id:version`; null in the answer to a dry run, which makes no transaction",
    ),
    wallet_id: Id,
    user_id: OwnerId,
    asset_code: Currency,
    amount: Type.Number({ description: "As asked" }),
    balance: Type.Number({ description: "The wallet's, right after it" }),
    reference_id: Type.String(),
  },
  {
    examples: [
      {
        transaction_id: "user-1:GOLD_COINS:1",
        wallet_id: "user-1:GOLD_COINS",
        user_id: "user-1",
        asset_code: "GOLD_COINS",
        amount: 100,
        balance: 100,
        reference_id: "payment-7",
      },
    ],
  },
);
export type GameAnswerBody = Static<typeof GameAnswer>;

export const UserParams = Type.Object({
  user_id: described(OwnerId, "The user, as their topups name them"),
});
export const BalanceQuery = Type.Object(
  {
    asset_code: Type.Optional(
      described(AssetCode, "Only this asset: one balance in place of the list"),
    ),
    limit: Type.Optional(
      Type.Integer({
        minimum: 1,
        maximum: LIMITS.pageRowsMax,
        default: LIMITS.pageRowsMax,
        description: "Balances of a page, at most",
      }),
    ),
    cursor: paging.cursor,
  },
  closed,
);

const Balance = Type.Object(
  {
    user_id: OwnerId,
    asset_code: Currency,
    wallet_id: Id,
    balance: Type.Number(),
    held: Type.Number(),
    available: Type.Number({ description: "`balance - held`" }),
    status: WalletStatus,
  },
  {
    examples: [
      {
        user_id: "user-1",
        asset_code: "GOLD_COINS",
        wallet_id: "user-1:GOLD_COINS",
        balance: 100,
        held: 0,
        available: 100,
        status: "ACTIVE",
      },
    ],
  },
);
export type BalanceBody = Static<typeof Balance>;
export const BalanceAnswer = Type.Union([Balance, Type.Array(Balance)], {
  description: "With `asset_code` one balance; without it all of the user's, in the order of ids",
});
