/**
 * The shapes that are shared: the parts that requests are made of, and what answers show of
 * wallets, holds, events and transfers. Every shape of the API is written once, here and in
 * `routes/*-schemas.ts`; they validate HTTP and NATS input, serialise responses and become the
 * OpenAPI document. Unknown fields are refused by name. What a schema cannot say well (canonical
 * amounts, storable text, the depth of metadata) is checked in `command-intake.ts`, which every
 * write passes.
 */
import { Type, type Static, type TSchema } from "typebox";

import { LIMITS } from "../src/limits.ts";
import { ERRORS, type ErrorCode } from "./errors.ts";

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
/** A wallet beside the one that the path or the body names first. */
export const OtherWalletId = Type.String({ pattern: ID_PATTERN, examples: ["wallet-2"] });
/** Of what Coffer names itself: transfers, holds, webhooks. */
export const MadeId = Type.String({
  pattern: ID_PATTERN,
  examples: ["01a1fe63-456c-7b6c-a5df-ed7df22ead10"],
});
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

/** Text, or null when there is none, and what it says. */
export function nullableText(description: string) {
  return Type.Unsafe<string | null>({ ...NullableText, description });
}

export function nullableInteger(description: string) {
  return Type.Unsafe<number | null>({ type: ["integer", "null"], description });
}

export function nullableTime(description: string) {
  return Type.Unsafe<string | null>({
    type: ["string", "null"],
    format: "date-time",
    description,
  });
}

/** A closed set of words, as `enum`. */
export function words<const Word extends string>(...allowed: Word[]) {
  return Type.Unsafe<Word>({ type: "string", enum: allowed });
}

/** The field that names a command, as the header `Idempotency-Key` does, and what it says. */
export function optionalKey(description: string, maxLength: number = LIMITS.keyLengthMax) {
  return Type.Optional(Type.String({ minLength: 1, maxLength, description }));
}

/** A named schema (see `NAMED_SCHEMAS`) in its place. */
export function ref<Schema extends TSchema>(schema: Schema) {
  const { $id } = schema as { $id?: string };
  return Type.Unsafe<Static<Schema>>({ $ref: `${$id}#` });
}

const METADATA_BOUNDS = `at most ${LIMITS.metadataBytesMax} bytes and ${LIMITS.metadataDepthMax} levels`;

/** A JSON object of any content, and what it is. */
export function jsonObject(description: string) {
  return Type.Unsafe<{ readonly [key: string]: unknown }>({
    type: "object",
    additionalProperties: true,
    description,
  });
}

export const WalletMetadata = jsonObject(
  `The wallet's own, whatever you need: a JSON object of ${METADATA_BOUNDS}`,
);
/** What a command brings besides, which is not the wallet's. */
export const CommandMetadata = jsonObject(
  `Kept with the event, as its \`data.metadata\`: a JSON object of ${METADATA_BOUNDS}. The wallet's own metadata stays as it is`,
);
export const Description = Type.String({
  maxLength: LIMITS.descriptionLengthMax,
  description: "Why, in your words: kept with the event, and shown in history and feeds",
});

/** What an event says, whatever its size. */
const EventData = jsonObject(
  "What is particular to its type, such as `hold` or `walletMetadata`, and the `metadata` that its command brought",
);

export const Amount = Type.Unsafe<number | string>({
  type: ["number", "string"],
  description:
    "Positive decimal with at most the asset's decimal places, as a number or as text; never rounded",
  examples: [10.5, "10.50"],
});

export const HoldStatus = words("ACTIVE", "RELEASED", "EXPIRED", "CAPTURED");
export const HoldType = described(
  words("PAYMENT", "AUTHORIZATION", "REFUND", "ESCROW", "OTHER"),
  "What it is for, in your own books; `PAYMENT` when left out",
);
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

/** A part, and what it says where it stands. */
export function described<Schema extends TSchema>(part: Schema, description: string) {
  return Type.Unsafe<Static<Schema>>({ ...part, description });
}

export const WalletParams = Type.Object({ walletId: described(Id, "The wallet's id") });
export const NoQuery = Type.Object({}, closed);

export const Moment = Type.String({
  maxLength: 64,
  description: "ISO 8601 date or time; without a zone it is UTC",
  examples: ["2026-01-01T12:00:00Z"],
});

// --- Answers -------------------------------------------------------------------------------------

export const Wallet = Type.Object(
  {
    id: Id,
    ownerId: nullableText("Whose it is, by your name for them; null when nobody was named"),
    currency: Currency,
    balance: Type.Number({ description: "All that is in it, in units of its asset" }),
    held: Type.Number({ description: "What its active holds have set aside" }),
    available: Type.Number({ description: "`balance - held`" }),
    status: WalletStatus,
    version: Type.Integer({
      minimum: 0,
      description: "Of its last event: 0 when it is made, one more with each event",
    }),
    metadata: WalletMetadata,
    createdAt: Time,
    updatedAt: described(Time, "When its last event happened"),
  },
  {
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
  },
);
export type WalletBody = Static<typeof Wallet>;

export const Hold = Type.Object(
  {
    id: MadeId,
    walletId: Id,
    amount: Type.Number({ description: "As it was placed" }),
    captured: Type.Number({ description: "Captured so far, transfers under way included" }),
    remaining: Type.Number({ description: "Still held: `amount - captured` while it is active" }),
    status: HoldStatus,
    type: HoldType,
    reference: nullableText("Your own name for it"),
    description: NullableText,
    expiresAt: nullableTime("When it ends by itself; null: never"),
    releasedAt: nullableTime(
      "When it ended for good, and what was left became available: by a release, by expiry, or by a final capture of less than `amount`. While it is null, a capture that its payee refuses puts its part under the hold again",
    ),
    capturedAt: nullableTime("When it became `CAPTURED`"),
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
    version: Type.Integer({ minimum: 0, description: "The wallet's, from this event on" }),
    type: Type.String({ description: "Such as `WalletCredited`; `POST /webhooks` lists them all" }),
    amount: Type.Unsafe<number | null>({
      type: ["number", "null"],
      description: "What moved, without a sign; null when the balance stays",
    }),
    balance: Type.Number({ description: "Balance, held and status right after the event" }),
    held: Type.Number(),
    status: WalletStatus,
    account: nullableText("System account on the other side, such as `system:world`"),
    counterpartyId: nullableText("The other wallet of a transfer"),
    transferId: NullableId,
    description: NullableText,
    data: EventData,
    metadata: Type.Object({
      occurredAt: Time,
      correlationId: Type.String({ description: "Of the request" }),
      causationId: nullableText(
        "Of the command: the caller's idempotency key, or an id made for it",
      ),
    }),
  },
  {
    $id: "Event",
    examples: [
      {
        id: "wallet-1:2",
        walletId: "wallet-1",
        version: 2,
        type: "WalletCredited",
        amount: 25.5,
        balance: 125.5,
        held: 0,
        status: "ACTIVE",
        account: "system:world",
        counterpartyId: null,
        transferId: null,
        description: "refund of order 17",
        data: {},
        metadata: {
          occurredAt: "2026-01-01T12:30:00.000Z",
          correlationId: "01a1fe63-456c-7b6c-a5df-ed7df22ead10",
          causationId: "order-17",
        },
      },
    ],
  },
);

/** Of an entry or a transaction; left out of most. */
export const CapturedHoldId = Type.Optional(
  Type.String({
    description: "The wallet's hold whose money moved, by a capture or back from one",
  }),
);

export const Transaction = Type.Object(
  {
    id: Type.String({ description: "`walletId:version`, as the event that it is" }),
    walletId: Id,
    type: TransactionType,
    amount: Type.Number({ description: "Without a sign: `type` says which way it went" }),
    balanceBefore: Type.Number(),
    balanceAfter: Type.Number(),
    status: described(words("COMPLETED"), "Always: what did not happen is no transaction"),
    description: NullableText,
    reference: Type.String({
      description: "The transfer's id, or the idempotency key, or the id made for the command",
    }),
    holdId: CapturedHoldId,
    createdAt: Time,
  },
  {
    $id: "Transaction",
    examples: [
      {
        id: "wallet-1:2",
        walletId: "wallet-1",
        type: "CREDIT",
        amount: 25.5,
        balanceBefore: 100,
        balanceAfter: 125.5,
        status: "COMPLETED",
        description: "refund of order 17",
        reference: "order-17",
        createdAt: "2026-01-01T12:30:00.000Z",
      },
    ],
  },
);
export type TransactionBody = Static<typeof Transaction>;

/** Every code by its name, so that generated clients have a type to switch on. */
const ProblemCode = Type.Unsafe<ErrorCode>({
  $id: "ErrorCode",
  ...words(...(Object.keys(ERRORS) as ErrorCode[])),
  description:
    "What programs read. docs/errors.md says when each comes and what to do; later versions may have more",
});

export const Code = ref(ProblemCode);

const Problem = Type.Object(
  {
    statusCode: Type.Integer({ description: "The HTTP status" }),
    error: Type.String({ description: "The status in words" }),
    code: Code,
    message: Type.String({ description: "A sentence for people, which may change" }),
    path: Type.String({ description: "Of the request, without its query" }),
    timestamp: Time,
    correlationId: Type.String({ description: "Names the request in the log" }),
    details: Type.Optional(
      Type.Unknown({
        description:
          "The facts behind the sentence, by code; for `validation_failed` a list with `field` and `message` of each mistake",
      }),
    ),
  },
  {
    $id: "Error",
    examples: [
      {
        statusCode: 400,
        error: "Bad Request",
        code: "insufficient_funds",
        message: "Wallet wallet-1 has insufficient funds: available 10.00 USD, requested 25.00 USD",
        path: "/wallets/wallet-1/debit",
        timestamp: "2026-01-01T12:00:00.000Z",
        correlationId: "01a1fe63-456c-7b6c-a5df-ed7df22ead10",
        details: { walletId: "wallet-1", currency: "USD", available: 10, requested: 25 },
      },
    ],
  },
);

export const TransferStatus = described(
  words("pending", "posted", "returned"),
  "`pending`: the money has left, and the payee has not decided; `posted`: it has arrived; `returned`: the payee refused it, and the payer has it again",
);

export const Transfer = Type.Object(
  {
    transferId: MadeId,
    fromWalletId: Id,
    toWalletId: OtherWalletId,
    amount: Type.Number(),
    currency: Currency,
    status: TransferStatus,
    fromVersion: Type.Integer({ description: "The payer's version when the money left" }),
    toVersion: nullableInteger("The payee's version when it arrived; null until then"),
    reason: Type.Optional(
      Type.Object(
        { code: Code, message: Type.String() },
        { description: "Why the payee refused it, of one that is `returned`" },
      ),
    ),
    description: NullableText,
    correlationId: Type.String(),
    createdAt: Time,
    settledAt: nullableTime("When its end was recorded at the payer"),
    holdId: Type.Optional(
      Type.String({ description: "The payer's hold that it has captured, when it was a capture" }),
    ),
  },
  {
    $id: "Transfer",
    examples: [
      {
        transferId: "01a1fe63-456c-7b6c-a5df-ed7df22ead10",
        fromWalletId: "wallet-1",
        toWalletId: "wallet-2",
        amount: 40,
        currency: "USD",
        status: "posted",
        fromVersion: 3,
        toVersion: 1,
        description: null,
        correlationId: "01a1fe63-456c-7b6c-a5df-ed7d1f0c2b11",
        createdAt: "2026-01-01T12:40:00.000Z",
        settledAt: "2026-01-01T12:40:00.004Z",
      },
    ],
  },
);
export type TransferBody = Static<typeof Transfer>;

/** What answers say of a transfer that has just begun; the payee is left out while it is pending. */
const begun = {
  transferId: nullableText("Null in the answer to a dry run, which makes no transfer"),
  status: described(
    words("posted", "pending"),
    "`pending` (202): the payee has not decided yet, and is left out here",
  ),
};
export const TransferAnswer = Type.Object({
  ...begun,
  fromWallet: ref(Wallet),
  toWallet: Type.Optional(ref(Wallet)),
});
export const SendAnswer = Type.Object({
  ...begun,
  sender: ref(Wallet),
  receiver: Type.Optional(ref(Wallet)),
});

export const ReleaseAnswer = Type.Object({ hold: ref(Hold), wallet: ref(Wallet) });
export const CaptureAnswer = Type.Object({
  hold: ref(Hold),
  wallet: ref(Wallet),
  transfer: Type.Optional(
    Type.Object(
      { ...begun, toWallet: Type.Optional(ref(Wallet)) },
      { description: "Of a capture with `toWalletId`" },
    ),
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
  ProblemCode,
  Problem,
];

/** The answer of every route when it is no. */
export const problems = { "4xx": ref(Problem), "5xx": ref(Problem) };
