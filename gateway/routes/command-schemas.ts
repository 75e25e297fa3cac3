/**
 * What commands take: the bodies of their routes, and the same over NATS, where the wallet is named
 * in the body.
 */
import { Type, type TProperties } from "typebox";

import { LIMITS } from "../../src/limits.ts";
import {
  Amount,
  closed,
  CommandMetadata,
  Currency,
  described,
  Description,
  HoldType,
  Id,
  ID_PATTERN,
  jsonObject,
  MadeId,
  optionalKey,
  OtherWalletId,
  OwnerId,
  WalletMetadata,
} from "../schemas.ts";

export const DryRun = Type.Boolean({
  description:
    "Only say what would happen: the same status and body, with the header `Dry-Run: true` (in a batch without a mark), and nothing is changed, written or recorded. An idempotency key is checked and not used: whatever became of it, the answer is that to a new command. Ids that Coffer would make are others, or null",
});

/** What every command takes. */
export const everyCommand = {
  idempotencyKey: optionalKey(
    "Same as the header `Idempotency-Key`: a repeat gets the first answer again, a refusal too",
  ),
  description: Type.Optional(Description),
  metadata: Type.Optional(CommandMetadata),
  expectedVersion: Type.Optional(
    Type.Integer({
      minimum: 0,
      description:
        "Refuse (`version_conflict`) unless the wallet, of a transfer the payer's, is at this version",
    }),
  ),
  dryRun: Type.Optional(DryRun),
};

const Payee = described(OtherWalletId, "The wallet that is paid");
const HoldId = described(MadeId, "The hold's id, from the answer that placed it");

/** Without an example, "Try it out" of the documentation would fill in every field there is. */
function body<Properties extends TProperties>(properties: Properties, ...examples: object[]) {
  return Type.Object(
    { ...properties, ...everyCommand },
    { ...closed, ...(examples.length > 0 && { examples }) },
  );
}

const createFields = {
  walletId: Type.Optional(
    described(
      Id,
      "A UUIDv7 when left out. `.` and `..` are ids too, but clients and proxies take them out of a path",
    ),
  ),
  ownerId: Type.Optional(
    described(OwnerId, "Whose it is, by your name for them; nobody's when left out"),
  ),
  currency: Type.Optional(described(Currency, "Asset code (`GET /assets`); `USD` when left out")),
  initialBalance: Type.Optional(
    Type.Unsafe<number | string>({
      type: ["number", "string"],
      description:
        "0 or a positive decimal, as a number or as text; never rounded. 0 when left out; anything else is credited at once, so the wallet is at version 1",
      examples: [100, "100.00"],
    }),
  ),
};
export const CreateBody = Type.Object(
  {
    ...createFields,
    ...everyCommand,
    metadata: Type.Optional(WalletMetadata),
    expectedVersion: Type.Optional(
      Type.Integer({
        minimum: 0,
        description:
          "Taken like on every write; a wallet that is not there has no version, so a creation with it always gives `wallet_not_found` (or `wallet_already_exists`)",
      }),
    ),
  },
  {
    ...closed,
    examples: [
      { walletId: "wallet-1", ownerId: "user-1", currency: "USD", initialBalance: 100 },
      { walletId: "wallet-2" },
    ],
  },
);
export const AmountBody = body({ amount: Amount }, { amount: 10.5, description: "Order 17" });
export const FundBody = body(
  { wallet_id: described(Id, "The wallet that gets the money"), amount: Amount },
  { wallet_id: "wallet-1", amount: 10.5 },
);
export const TransferRequestBody = body(
  { toWalletId: Payee, amount: Amount },
  { toWalletId: "wallet-2", amount: 10.5 },
);
export const SendBody = body(
  {
    senderWalletId: described(Id, "The wallet that pays"),
    receiverWalletId: Payee,
    amount: Amount,
  },
  { senderWalletId: "wallet-1", receiverWalletId: "wallet-2", amount: 10.5 },
);
const stepFields = {
  reason: Type.Optional(
    described(
      Description,
      "Another word for `description`, which the event carries; give one of them",
    ),
  ),
};
export const StepBody = body(stepFields, { reason: "Case 17" });

const updateFields = {
  metadata: {
    ...jsonObject(
      `JSON Merge Patch (RFC 7396) for the wallet's metadata: a key is set, null removes it, what is not named stays. Neither it nor the metadata that comes out exceeds ${LIMITS.metadataBytesMax} bytes`,
    ),
    examples: [{ tier: "gold", address: { city: "Riga" }, trial: null }],
  },
};
export const UpdateBody = Type.Object(
  { ...everyCommand, ...updateFields },
  {
    ...closed,
    examples: [{ metadata: { tier: "gold", trial: null }, description: "upgraded" }],
  },
);

export const holdFields = {
  amount: Amount,
  type: Type.Optional(HoldType),
  reference: Type.Optional(
    Type.String({
      maxLength: LIMITS.holdReferenceLengthMax,
      description: "Your own name for it, such as an order's number",
      examples: ["order-17"],
    }),
  ),
  expiresAt: Type.Optional(
    Type.String({
      maxLength: 64,
      description:
        "When it ends by itself: an ISO 8601 time in the future, without a zone in UTC. Neither this nor `expiresInSeconds`: never",
      examples: ["2030-01-01T12:00:00Z"],
    }),
  ),
  expiresInSeconds: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: LIMITS.holdSecondsMax,
      description: "The same, counted from now; give one of the two",
      examples: [900],
    }),
  ),
};
const captureFields = {
  amount: Type.Optional(
    described(
      Amount,
      "Positive decimal, as everywhere: part of what is left; all of it when left out",
    ),
  ),
  final: Type.Optional(
    Type.Boolean({
      description:
        "`true`: it is the last capture, and the rest is released, with what earlier ones bring back later; `false` when left out, and the rest stays held",
    }),
  ),
  toWalletId: Type.Optional(
    Type.String({
      pattern: ID_PATTERN,
      description: "Pay it to this wallet: the capture becomes a transfer",
      examples: ["wallet-2"],
    }),
  ),
};
export const PlaceHoldBody = body(holdFields, {
  amount: 25,
  type: "PAYMENT",
  reference: "order-17",
  expiresInSeconds: 900,
});
export const CaptureBody = body(
  captureFields,
  { amount: 10 },
  { amount: 10, final: true, toWalletId: "wallet-2" },
);
export const ReleaseBody = body({}, { description: "Order 17 was cancelled" });

const WalletId = described(Id, "The wallet of the command, of a transfer the payer's");

/** Over NATS the wallet is named in the body. */
export function withWalletId<Properties extends TProperties>(properties: Properties) {
  return body({ walletId: WalletId, ...properties });
}

export const NATS_REQUESTS = {
  create: CreateBody,
  credit: withWalletId({ amount: Amount }),
  debit: withWalletId({ amount: Amount }),
  transfer: withWalletId({ toWalletId: Payee, amount: Amount }),
  hold: withWalletId(holdFields),
  capture: withWalletId({ holdId: HoldId, ...captureFields }),
  release: withWalletId({ holdId: HoldId }),
  update: Type.Object({ walletId: WalletId, ...UpdateBody.properties }, closed),
  suspend: withWalletId(stepFields),
  activate: withWalletId(stepFields),
  close: withWalletId(stepFields),
  get: Type.Object({ walletId: WalletId }, closed),
};
