/**
 * The shapes that are shared: the parts that requests are made of, and what answers show of
 * wallets, holds, events and transfers. Every shape of the API is written once, here and in the
 * `*-schemas.ts` beside; they validate HTTP and NATS input, serialise responses and become the
 * OpenAPI document. Unknown fields are refused by name. What a schema cannot say well (canonical
 * amounts, storable text, the depth of metadata) is checked in `command-intake.ts`, which every
 * write passes.
 */
import { Type, type Static, type TSchema } from "typebox";

import { LIMITS } from "../src/limits.ts";

// --- Parts ---------------------------------------------------------------------------------------

/** Wallet, owner and asset ids. */
export const ID_PATTERN = `^[A-Za-z0-9_.:@-]{1,${LIMITS.idLengthMax}}$`;

/** An event's id is its wallet's with a version, so it may be longer. */
export const TRANSACTION_ID_PATTERN = "^[A-Za-z0-9_.:@-]{1,160}$";
/** Text that PostgreSQL can keep. */
export const TEXT_PATTERN = "^[^\\u0000]*$";
/** As URLs are when they are written out, and secrets. */
export const PRINTABLE_PATTERN = "^[!-~]*$";

/** What each pattern asks for, in words. */
export const PATTERN_RULES: Readonly<Record<string, string>> = {
  [ID_PATTERN]: `must be 1 to ${LIMITS.idLengthMax} characters of letters, digits and - _ . : @`,
  [TRANSACTION_ID_PATTERN]: "must be 1 to 160 characters of letters, digits and - _ . : @",
  [TEXT_PATTERN]: "must not contain the character U+0000",
  [PRINTABLE_PATTERN]: "must be printable ASCII characters without spaces",
};

export const Id = Type.String({ pattern: ID_PATTERN, examples: ["wallet-1"] });
export const OwnerId = Type.String({ pattern: ID_PATTERN, examples: ["user-1"] });
export const Currency = Type.String({
  pattern: ID_PATTERN,
  examples: ["USD"],
  description: "Asset code",
});
export const Time = Type.String({ format: "date-time" });

// Unions with null are type arrays here: `anyOf` would make the serialiser validate every value.
export const NullableText = Type.Unsafe<string | null>({ type: ["string", "null"] });
export const NullableId = NullableText;
const NullableInteger = Type.Unsafe<number | null>({ type: ["integer", "null"] });
const NullableNumber = Type.Unsafe<number | null>({ type: ["number", "null"] });
export const NullableTime = Type.Unsafe<string | null>({
  type: ["string", "null"],
  format: "date-time",
});

/** A closed set of words, as `enum`. */
export function words<const Word extends string>(...allowed: Word[]) {
  return Type.Unsafe<Word>({ type: "string", enum: allowed });
}

/** A named schema (see `NAMED_SCHEMAS`) in its place. */
export function ref<Schema extends TSchema>(schema: Schema) {
  const { $id } = schema as { $id?: string };
  return Type.Unsafe<Static<Schema>>({ $ref: `${$id}#` });
}

export const JsonObject = Type.Unsafe<{ readonly [key: string]: unknown }>({
  type: "object",
  additionalProperties: true,
  description: `JSON object of at most ${LIMITS.metadataBytesMax} bytes`,
});

/** What an event says, whatever its size. */
const EventData = Type.Unsafe<{ readonly [key: string]: unknown }>({
  type: "object",
  additionalProperties: true,
});

export const Amount = Type.Unsafe<number | string>({
  type: ["number", "string"],
  description:
    "Positive decimal with at most the asset's decimal places, as a number or as text; never rounded",
  examples: [10.5, "10.50"],
});

export const HoldStatus = words("ACTIVE", "RELEASED", "EXPIRED", "CAPTURED");
export const HoldType = Type.Unsafe<"PAYMENT" | "AUTHORIZATION" | "REFUND" | "ESCROW" | "OTHER">({
  ...words("PAYMENT", "AUTHORIZATION", "REFUND", "ESCROW", "OTHER"),
  description: "What it is for, in your own books; `PAYMENT` when left out",
});
export const WalletStatus = words("ACTIVE", "SUSPENDED", "CLOSED");

export const TransactionType = words(
  "CREDIT",
  "FUND",
  "TOPUP",
  "BONUS",
  "DEBIT",
  "SPEND",
  "CAPTURE",
  "TRANSFER_OUT",
  "TRANSFER_IN",
  "TRANSFER_RETURNED",
);

/** A shape without further fields. */
export const closed = { additionalProperties: false };
export const WalletParams = Type.Object({ walletId: Id });
export const NoQuery = Type.Object({}, closed);

export const Moment = Type.String({
  maxLength: 64,
  description: "ISO 8601 date or time; without a zone it is UTC",
  examples: ["2026-01-01T12:00:00Z"],
});

// --- Answers -------------------------------------------------------------------------------------

const walletFields = {
  id: Id,
  ownerId: NullableId,
  currency: Currency,
  balance: Type.Number(),
  held: Type.Number(),
  available: Type.Number({ description: "balance - held" }),
  status: WalletStatus,
  version: Type.Integer({ minimum: 0 }),
  metadata: JsonObject,
  createdAt: Time,
  updatedAt: Time,
};
export const Wallet = Type.Object(walletFields, {
  $id: "Wallet",
  examples: [
    {
      id: "wallet-1",
      ownerId: "user-1",
      currency: "USD",
      balance: 125.5,
      held: 0,
      available: 125.5,
      status: "ACTIVE",
      version: 2,
      metadata: { tier: "gold" },
      createdAt: "2026-01-01T12:00:00.000Z",
      updatedAt: "2026-01-01T12:30:00.000Z",
    },
  ],
});
export type WalletBody = Static<typeof Wallet>;

export const Hold = Type.Object(
  {
    id: Id,
    walletId: Id,
    amount: Type.Number({ description: "As it was placed" }),
    captured: Type.Number({ description: "Captured so far, transfers under way included" }),
    remaining: Type.Number({ description: "Still held: `amount - captured` while it is active" }),
    status: HoldStatus,
    type: HoldType,
    reference: NullableText,
    description: NullableText,
    expiresAt: NullableTime,
    releasedAt: Type.Unsafe<string | null>({
      type: ["string", "null"],
      format: "date-time",
      description:
        "When what was left became available: by a release, by expiry, or since a capture was final",
    }),
    capturedAt: Type.Unsafe<string | null>({
      type: ["string", "null"],
      format: "date-time",
      description: "When it became `CAPTURED`",
    }),
    createdAt: Time,
  },
  {
    $id: "Hold",
    examples: [
      {
        id: "01a1fe63-456c-7b6c-a5df-ed7df22ead10",
        walletId: "wallet-1",
        amount: 25,
        captured: 10,
        remaining: 15,
        status: "ACTIVE",
        type: "PAYMENT",
        reference: "order-17",
        description: null,
        expiresAt: "2026-01-01T12:15:00.000Z",
        releasedAt: null,
        capturedAt: null,
        createdAt: "2026-01-01T12:00:00.000Z",
      },
    ],
  },
);
export type HoldBody = Static<typeof Hold>;

export const Event = Type.Object(
  {
    id: Type.String({ description: "`walletId:version`" }),
    walletId: Id,
    version: Type.Integer({ minimum: 0 }),
    type: Type.String(),
    amount: NullableNumber,
    balance: Type.Number({ description: "Balance, held and status right after the event" }),
    held: Type.Number(),
    status: WalletStatus,
    account: NullableText,
    counterpartyId: NullableId,
    transferId: NullableId,
    description: NullableText,
    data: EventData,
    metadata: Type.Object({
      occurredAt: Time,
      correlationId: Type.String(),
      causationId: NullableText,
    }),
  },
  { $id: "Event" },
);
export type EventBody = Static<typeof Event>;

export const Transaction = Type.Object(
  {
    id: Type.String(),
    walletId: Id,
    type: TransactionType,
    amount: Type.Number(),
    balanceBefore: Type.Number(),
    balanceAfter: Type.Number(),
    status: words("COMPLETED"),
    description: NullableText,
    reference: Type.String({ description: "The transfer's id, or the idempotency key" }),
    createdAt: Time,
  },
  { $id: "Transaction" },
);
export type TransactionBody = Static<typeof Transaction>;

export const WalletWithHistory = Type.Object({
  ...walletFields,
  auditTrail: Type.Optional(Type.Array(ref(Event))),
  transactions: Type.Optional(Type.Array(ref(Transaction))),
});

export const Problem = Type.Object(
  {
    statusCode: Type.Integer(),
    error: Type.String(),
    code: Type.String(),
    message: Type.String(),
    path: Type.String(),
    timestamp: Time,
    correlationId: Type.String(),
    details: Type.Optional(Type.Unknown()),
  },
  { $id: "Error" },
);

const Reason = Type.Object({ code: Type.String(), message: Type.String() });

export const Transfer = Type.Object(
  {
    transferId: Id,
    fromWalletId: Id,
    toWalletId: Id,
    amount: Type.Number(),
    currency: Currency,
    status: words("pending", "posted", "returned"),
    fromVersion: Type.Integer(),
    toVersion: NullableInteger,
    reason: Type.Optional(Reason),
    description: NullableText,
    correlationId: Type.String(),
    createdAt: Time,
    settledAt: NullableTime,
    holdId: Type.Optional(
      Type.String({ description: "The payer's hold that it has captured, when it was a capture" }),
    ),
  },
  { $id: "Transfer" },
);
export type TransferBody = Static<typeof Transfer>;

const TransferProgress = words("posted", "pending");
const NewTransferId = Type.Unsafe<string | null>({
  type: ["string", "null"],
  description: "Null in the answer to a dry run, which makes no transfer",
});
/** The payee is left out while the transfer is pending. */
export const TransferAnswer = Type.Object({
  transferId: NewTransferId,
  status: TransferProgress,
  fromWallet: ref(Wallet),
  toWallet: Type.Optional(ref(Wallet)),
});
export const SendAnswer = Type.Object({
  transferId: NewTransferId,
  status: TransferProgress,
  sender: ref(Wallet),
  receiver: Type.Optional(ref(Wallet)),
});

export const ReleaseAnswer = Type.Object({ hold: ref(Hold), wallet: ref(Wallet) });
/** The payee is left out while the transfer is pending. */
export const CaptureAnswer = Type.Object({
  hold: ref(Hold),
  wallet: ref(Wallet),
  transfer: Type.Optional(
    Type.Object({
      transferId: Id,
      status: TransferProgress,
      toWallet: Type.Optional(ref(Wallet)),
    }),
  ),
});

export const Operation = Type.Object({
  idempotencyKey: Type.String(),
  walletId: Id,
  outcome: words("done", "pending", "rejected"),
  version: NullableInteger,
  transferId: NullableId,
  wallet: Type.Optional(ref(Wallet)),
  hold: Type.Optional(ref(Hold)),
  error: Type.Optional(
    Type.Object({ statusCode: Type.Integer(), code: Type.String(), message: Type.String() }),
  ),
});

export const Asset = Type.Object({
  code: Currency,
  name: Type.String(),
  decimalPlaces: Type.Integer({ minimum: 0, maximum: 9 }),
  isOwn: Type.Boolean({ description: "Added here; the others are ISO 4217" }),
});

// --- Names ---------------------------------------------------------------------------------------

/** Schemas that others refer to by name, for the serialiser and the OpenAPI document. */
export const NAMED_SCHEMAS: readonly TSchema[] = [
  Wallet,
  Hold,
  Event,
  Transaction,
  Transfer,
  Problem,
];

/** The answer of every route when it is no. */
export const problems = { "4xx": ref(Problem), "5xx": ref(Problem) };
