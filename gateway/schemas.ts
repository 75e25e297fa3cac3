/**
 * The shapes of everything that goes in and out, written once: they validate HTTP and NATS input, serialise responses and become
 * the OpenAPI document. Unknown fields are refused by name. What a schema cannot say well (canonical amounts, storable text,
 * the depth of metadata) is checked in `command-intake.ts`, which every write passes.
 */
import { Type, type Static, type TProperties, type TSchema } from "typebox";

import { LIMITS } from "../src/limits.ts";

// --- Parts ----------------------------------------------------------------------------------------------------------------

/** Wallet, owner and asset ids. */
export const ID_PATTERN = `^[A-Za-z0-9_.:@-]{1,${LIMITS.idLengthMax}}$`;

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
const NullableId = NullableText;
const NullableInteger = Type.Unsafe<number | null>({ type: ["integer", "null"] });
const NullableNumber = Type.Unsafe<number | null>({ type: ["number", "null"] });
export const NullableTime = NullableText;

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

const HoldStatus = words("ACTIVE", "RELEASED", "EXPIRED", "CAPTURED");
const HoldType = Type.Unsafe<"PAYMENT" | "AUTHORIZATION" | "REFUND" | "ESCROW" | "OTHER">({
  ...words("PAYMENT", "AUTHORIZATION", "REFUND", "ESCROW", "OTHER"),
  description: "What it is for, in your own books; `PAYMENT` when left out",
});
export const WalletStatus = words("ACTIVE", "SUSPENDED", "CLOSED");

// --- Request bodies -------------------------------------------------------------------------------------------------------

export const DryRun = Type.Boolean({
  description:
    "Only say what would happen: the same status and body, with the header `Dry-Run: true`, and nothing is changed, written or recorded. An idempotency key is checked and not used: whatever became of it, the answer is that to a new command. Ids that Coffer would make are others, or null",
});

/** What every command takes. */
const everyCommand = {
  idempotencyKey: Type.Optional(
    Type.String({
      minLength: 1,
      maxLength: LIMITS.keyLengthMax,
      description: "Same as the header `Idempotency-Key`: a repeat gets the first answer again",
    }),
  ),
  description: Type.Optional(Type.String({ maxLength: LIMITS.descriptionLengthMax })),
  metadata: Type.Optional(JsonObject),
  expectedVersion: Type.Optional(
    Type.Integer({ minimum: 0, description: "Refuse unless the wallet is at this version" }),
  ),
  dryRun: Type.Optional(DryRun),
};

function body<Properties extends TProperties>(properties: Properties) {
  return Type.Object({ ...properties, ...everyCommand }, { additionalProperties: false });
}

const createFields = {
  walletId: Type.Optional(Id),
  ownerId: Type.Optional(OwnerId),
  currency: Type.Optional(Currency),
  initialBalance: Type.Optional(
    Type.Unsafe<number | string>({
      type: ["number", "string"],
      description: "0 or a positive decimal, as a number or as text; never rounded",
      examples: [100, "100.00"],
    }),
  ),
};
export const CreateBody = Type.Object(
  {
    ...createFields,
    ...everyCommand,
    expectedVersion: Type.Optional(
      Type.Integer({
        minimum: 0,
        description:
          "Taken like on every write; a wallet that is not there has no version, so a creation with it always gives `wallet_not_found` (or `wallet_already_exists`)",
      }),
    ),
  },
  { additionalProperties: false },
);
export const AmountBody = body({ amount: Amount });
export const FundBody = body({ wallet_id: Id, amount: Amount });
export const TransferBody = body({ toWalletId: Id, amount: Amount });
export const SendBody = body({ senderWalletId: Id, receiverWalletId: Id, amount: Amount });
const stepFields = {
  reason: Type.Optional(
    Type.String({
      maxLength: LIMITS.descriptionLengthMax,
      description: "Another word for `description`, which the event carries; give one of them",
    }),
  ),
};
export const StepBody = Type.Object(
  { ...stepFields, ...everyCommand },
  { additionalProperties: false, examples: [{ reason: "Case 17: the card was reported stolen" }] },
);

const updateFields = {
  metadata: Type.Unsafe<Static<typeof JsonObject>>({
    ...JsonObject,
    description: `JSON Merge Patch (RFC 7396) for the wallet's metadata: a key is set, null removes it, what is not named stays. Neither it nor the metadata that comes out exceeds ${LIMITS.metadataBytesMax} bytes`,
    examples: [{ tier: "gold", address: { city: "Riga" }, trial: null }],
  }),
};
export const UpdateBody = Type.Object(
  { ...everyCommand, ...updateFields },
  {
    additionalProperties: false,
    examples: [{ metadata: { tier: "gold", trial: null }, description: "upgraded" }],
  },
);

const holdFields = {
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
      description: "The same, counted from now",
      examples: [900],
    }),
  ),
};
const captureFields = {
  amount: Type.Optional(
    Type.Unsafe<number | string>({
      type: ["number", "string"],
      description: "Part of what is left; all of it when left out",
      examples: [10.5, "10.50"],
    }),
  ),
  final: Type.Optional(
    Type.Boolean({ description: "`true`: it is the last capture, and the rest is released" }),
  ),
  toWalletId: Type.Optional(
    Type.String({
      pattern: ID_PATTERN,
      description: "Pay it to this wallet: the capture becomes a transfer",
      examples: ["wallet-2"],
    }),
  ),
};
export const PlaceHoldBody = Type.Object(
  { ...holdFields, ...everyCommand },
  {
    additionalProperties: false,
    examples: [{ amount: 25, type: "PAYMENT", reference: "order-17", expiresInSeconds: 900 }],
  },
);
export const CaptureBody = Type.Object(
  { ...captureFields, ...everyCommand },
  {
    additionalProperties: false,
    examples: [{ amount: 10 }, { amount: 10, final: true, toWalletId: "wallet-2" }],
  },
);
export const ReleaseBody = body({});

/** Over NATS the wallet is named in the body. */
function withWalletId<Properties extends TProperties>(properties: Properties) {
  return body({ walletId: Id, ...properties });
}

export const NATS_REQUESTS = {
  create: CreateBody,
  credit: withWalletId({ amount: Amount }),
  debit: withWalletId({ amount: Amount }),
  transfer: withWalletId({ toWalletId: Id, amount: Amount }),
  hold: withWalletId(holdFields),
  capture: withWalletId({ holdId: Id, ...captureFields }),
  release: withWalletId({ holdId: Id }),
  update: Type.Object({ walletId: Id, ...UpdateBody.properties }, { additionalProperties: false }),
  suspend: withWalletId(stepFields),
  activate: withWalletId(stepFields),
  close: withWalletId(stepFields),
  get: Type.Object({ walletId: Id }, { additionalProperties: false }),
};

// --- Batches --------------------------------------------------------------------------------------------------------------

/** Most bytes of a wallet in an outcome, with all around it, without its own id and its `metadata`. */
const { type: _, ...heldFields } = holdFields;
/** A hold, with a description and a reference of any length. */
const HOLD_BYTES = 512 + 6 * (LIMITS.descriptionLengthMax + LIMITS.keyLengthMax);
const WALLET_BYTES = 384 + 2 * LIMITS.idLengthMax;

/** A command of a batch: its request over NATS, and its type. */
function inBatch<Properties extends TProperties>(
  { properties }: { readonly properties: Properties },
  statusCode: 200 | 201 = 200,
  /** Of its outcome, in the shortest form that there is and without the ids in the command (gateway/batch-nats.ts). */
  outcomeBytesMax: number = WALLET_BYTES,
) {
  const fields = { type: Type.String(), ...properties };
  const schema = Type.Object(fields, { additionalProperties: false });
  return { schema, statusCode, outcomeBytesMax };
}

/** What a batch takes, by `type`, with the status of a yes. */
export const BATCH_REQUESTS = {
  create: inBatch(NATS_REQUESTS.create, 201),
  credit: inBatch(NATS_REQUESTS.credit),
  debit: inBatch(NATS_REQUESTS.debit),
  fund: inBatch(NATS_REQUESTS.credit),
  transfer: inBatch(NATS_REQUESTS.transfer, 200, 2 * WALLET_BYTES),
  hold: inBatch(
    withWalletId({ ...heldFields, holdType: Type.Optional(HoldType) }),
    201,
    HOLD_BYTES,
  ),
  capture: inBatch(NATS_REQUESTS.capture, 200, HOLD_BYTES + 2 * WALLET_BYTES),
  release: inBatch(NATS_REQUESTS.release, 200, HOLD_BYTES + WALLET_BYTES),
  update: inBatch(NATS_REQUESTS.update),
  suspend: inBatch(NATS_REQUESTS.suspend),
  activate: inBatch(NATS_REQUESTS.activate),
  close: inBatch(NATS_REQUESTS.close),
};
export type BatchCommandType = keyof typeof BATCH_REQUESTS;

const commandCount = { minItems: 1, maxItems: LIMITS.batchCommandsMax };

/** What a batch is refused for as a whole; each of its commands is checked on its own. */
export const BatchEnvelope = Type.Object(
  { commands: Type.Array(Type.Unknown(), commandCount) },
  { additionalProperties: false },
);

/** The same for the document, with the commands. */
export const BatchBody = Type.Object(
  {
    commands: Type.Array(
      Type.Unsafe<object>({
        anyOf: Object.entries(BATCH_REQUESTS).map(([type, { schema }]) => ({
          ...schema,
          title: type,
          properties: { ...schema.properties, type: words(type) },
        })),
      }),
      {
        ...commandCount,
        description:
          "Fields as in the command's own route, and the wallet's id. One that does not fit has its error as its outcome, and does not stop the others",
      },
    ),
  },
  {
    additionalProperties: false,
    examples: [
      {
        commands: [
          { type: "credit", walletId: "wallet-1", amount: 10, idempotencyKey: "payout-17" },
          { type: "transfer", walletId: "wallet-1", toWalletId: "wallet-2", amount: "2.50" },
          { type: "debit", walletId: "wallet-2", amount: 1_000_000 },
        ],
      },
    ],
  },
);

const AnyData = Type.Unsafe<object>({ type: "object", additionalProperties: true });
const BatchOutcome = Type.Unsafe<object>({
  anyOf: [
    Type.Object({
      ok: Type.Boolean({ description: "true" }),
      statusCode: Type.Integer({ description: "200, 201, or 202 for a pending transfer" }),
      data: Type.Unsafe<object>({ ...AnyData, description: "The body that its route answers" }),
      replayed: Type.Optional(
        Type.Boolean({ description: "`true`: the answer to an earlier command with this key" }),
      ),
    }),
    Type.Object({
      ok: Type.Boolean({ description: "false" }),
      statusCode: Type.Integer(),
      error: Type.Object({
        code: Type.String(),
        message: Type.String(),
        details: Type.Optional(Type.Unknown()),
      }),
      replayed: Type.Optional(Type.Boolean()),
    }),
  ],
});
export const BatchAnswer = Type.Object(
  {
    outcomes: Type.Array(BatchOutcome, { description: "One for each command, in their order" }),
  },
  {
    examples: [
      {
        outcomes: [
          {
            ok: true,
            statusCode: 200,
            data: {
              id: "wallet-1",
              ownerId: "user-1",
              currency: "USD",
              balance: 135.5,
              held: 0,
              available: 135.5,
              status: "ACTIVE",
              version: 3,
              metadata: {},
              createdAt: "2026-01-01T12:00:00.000Z",
              updatedAt: "2026-01-01T12:40:00.000Z",
            },
          },
          {
            ok: false,
            statusCode: 404,
            error: {
              code: "wallet_not_found",
              message: "Wallet wallet-2 does not exist",
              details: { walletId: "wallet-2" },
            },
          },
        ],
      },
    ],
  },
);

// --- Paths and queries ----------------------------------------------------------------------------------------------------

export const WalletParams = Type.Object({ walletId: Id });
export const HoldParams = Type.Object({
  walletId: Id,
  holdId: Type.String({
    pattern: ID_PATTERN,
    examples: ["01a1fe63-456c-7b6c-a5df-ed7df22ead10"],
  }),
});
export const TransferParams = Type.Object({ transferId: Id });
export const KeyParams = Type.Object({
  idempotencyKey: Type.String({ minLength: 1, maxLength: LIMITS.keyLengthMax }),
});

const paging = {
  limit: Type.Optional(
    Type.Integer({ minimum: 1, maximum: LIMITS.pageRowsMax, default: LIMITS.pageRowsDefault }),
  ),
  cursor: Type.Optional(
    Type.String({ maxLength: 512, description: "From the `Link` of the page before" }),
  ),
};
const closed = { additionalProperties: false };

export const Moment = Type.String({
  maxLength: 64,
  description: "ISO 8601 date or time; without a zone it is UTC",
  examples: ["2026-01-01T12:00:00Z"],
});

export const WalletQuery = Type.Object(
  {
    include: Type.Optional(
      Type.String({
        maxLength: 64,
        description: `\`auditTrail\`, \`transactions\` or both, comma-separated: the latest ${LIMITS.includedRows} up to the version shown, oldest first`,
        examples: ["transactions"],
      }),
    ),
    at: Type.Optional(
      Type.String({
        ...Moment,
        description:
          "The wallet as it was at this time: after its last event that is not later. ISO 8601; without a zone it is UTC",
      }),
    ),
    version: Type.Optional(
      Type.Integer({
        minimum: 0,
        description: "The wallet right after this version; not together with `at`",
        examples: [3],
      }),
    ),
  },
  closed,
);

/** Text that PostgreSQL can keep. */
const SearchText = Type.String({ maxLength: LIMITS.keyLengthMax, pattern: "^[^\\u0000]*$" });
const BalanceBound = Type.String({
  maxLength: 64,
  description: "Inclusive, a decimal from 0 in units of each wallet's asset",
  examples: ["10.50"],
});
const METADATA_FILTER = "^metadata\\.[^\\u0000]{1,256}$";
export const WalletsQuery = Type.Object(
  {
    ownerId: Type.Optional(OwnerId),
    status: Type.Optional(WalletStatus),
    currency: Type.Optional(Currency),
    minBalance: Type.Optional(BalanceBound),
    maxBalance: Type.Optional(BalanceBound),
    // For the document; the pattern below is what lets any key in.
    "metadata.<key>": Type.Optional(
      Type.String({
        ...SearchText,
        description:
          "`metadata.tier=gold`: the wallet's metadata has this value under this key, at the top level. A number or `true` also finds the text that is written so",
        examples: ["gold"],
      }),
    ),
    q: Type.Optional(
      Type.String({
        ...SearchText,
        minLength: 1,
        description:
          "Words that must all be in the wallet's id, its owner's id, or the strings and numbers of its metadata; of three characters or more, the beginning of a word will do",
        examples: ["alice gold"],
      }),
    ),
    ...paging,
  },
  { ...closed, patternProperties: { [METADATA_FILTER]: SearchText } },
);

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

export const TransactionsQuery = Type.Object(
  {
    type: Type.Optional(TransactionType),
    from: Type.Optional(Moment),
    to: Type.Optional(Moment),
    ...paging,
  },
  closed,
);
export const EventsQuery = Type.Object(
  { fromVersion: Type.Optional(Type.Integer({ minimum: 0, default: 0 })), limit: paging.limit },
  closed,
);
export const TransfersQuery = Type.Object(
  { status: Type.Optional(words("pending", "posted", "returned")), ...paging },
  closed,
);

export const HoldsQuery = Type.Object({ status: Type.Optional(HoldStatus), ...paging }, closed);

export const TransactionParams = Type.Object({
  transactionId: Type.String({
    pattern: "^[A-Za-z0-9_.:@-]{1,160}$",
    description: "A transaction's or an event's `id`, or a transfer's id",
    examples: ["wallet-1:3"],
  }),
});
export const TrialBalanceQuery = Type.Object({ currency: Type.Optional(Currency) }, closed);

/** An event with money as double entry: two lines that sum to zero. */
const LedgerEntry = Type.Object(
  {
    id: Type.String({ description: "`walletId:version`" }),
    walletId: Id,
    version: Type.Integer({ minimum: 0 }),
    type: TransactionType,
    currency: Currency,
    transferId: NullableId,
    description: NullableText,
    occurredAt: Time,
    lines: Type.Array(
      Type.Object({
        account: Type.String({ description: "`wallet:<id>`, or a system account" }),
        amount: Type.Number({ description: "What the account gains; negative: what it loses" }),
      }),
      { description: "The wallet's line, then the other side's; their sum is 0" },
    ),
  },
  {
    examples: [
      {
        id: "wallet-1:3",
        walletId: "wallet-1",
        version: 3,
        type: "DEBIT",
        currency: "USD",
        transferId: null,
        description: "coffee",
        occurredAt: "2026-01-01T12:00:00.000Z",
        lines: [
          { account: "wallet:wallet-1", amount: -4.5 },
          { account: "system:world", amount: 4.5 },
        ],
      },
    ],
  },
);
export type LedgerEntryBody = Static<typeof LedgerEntry>;
export const LedgerPage = Type.Array(LedgerEntry);
export const LedgerTransaction = Type.Object({
  id: Type.String({ description: "As asked" }),
  transferId: NullableId,
  currency: Currency,
  entries: Type.Array(LedgerEntry, {
    description: "One for an event's id; for a transfer's, those of both wallets so far",
  }),
});

const Total = Type.String({
  description: "Exact decimal, as text, since a sum over many wallets may be larger than a number",
  examples: ["125.50"],
});
export const TrialBalance = Type.Object(
  {
    asOf: Time,
    currencies: Type.Array(
      Type.Object({
        currency: Currency,
        sum: Type.String({ description: "Of all accounts: zero, or the books are wrong" }),
        isBalanced: Type.Boolean(),
        accounts: Type.Array(Type.Object({ account: Type.String(), balance: Total })),
      }),
    ),
  },
  {
    examples: [
      {
        asOf: "2026-01-01T12:00:00.000Z",
        currencies: [
          {
            currency: "USD",
            sum: "0.00",
            isBalanced: true,
            accounts: [
              { account: "system:transit", balance: "0.00" },
              { account: "system:world", balance: "-125.50" },
              { account: "wallets", balance: "125.50" },
            ],
          },
        ],
      },
    ],
  },
);
export type TrialBalanceBody = Static<typeof TrialBalance>;
export const OperationQuery = Type.Object({ walletId: Type.Optional(Id) }, closed);
export const NoQuery = Type.Object({}, closed);

// --- Answers --------------------------------------------------------------------------------------------------------------

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
      description:
        "When what was left became available: by a release, by expiry, or since a capture was final",
    }),
    capturedAt: Type.Unsafe<string | null>({
      type: ["string", "null"],
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

// --- The cluster ----------------------------------------------------------------------------------------------------------

const NullableFlag = Type.Unsafe<boolean | null>({ type: ["boolean", "null"] });
const Count = Type.Integer({ minimum: 0 });

/** Shards, counted and as ranges. */
export const ShardSet = Type.Object({
  count: Count,
  list: Type.String({ description: "Ranges in ascending order, `0-127,130`; empty for none" }),
});

const ClusterLane = Type.Object({
  name: Type.String(),
  shards: Count,
  serving: Type.Boolean({ description: "False while it starts, or its database is away" }),
  actors: Type.Integer({ minimum: 0, description: "Wallets in memory" }),
  mailboxDepth: Type.Integer({ minimum: 0, description: "Messages that wait" }),
  outstanding: Type.Integer({ minimum: 0, description: "Commands accepted and not answered" }),
  pendingTransfers: Count,
});

const HandOff = Type.Object({
  at: Time,
  type: words("taken", "handed over", "lost"),
  shards: ShardSet,
  peer: Type.Unsafe<string | null>({
    type: ["string", "null"],
    description: "Who had them before (taken), or should take them (handed over)",
  }),
});

const Books = Type.Object({
  running: Type.Boolean({ description: "Whether a reconciliation is under way" }),
  lastRunAt: Type.Union([Time, Type.Null()], { description: "End of the last whole one" }),
  differences: Type.Integer({ minimum: 0, description: "More than 0: see `npm run verify`" }),
  warnings: Count,
  walletsChecked: Type.Integer({ minimum: 0, description: "Since the host began" }),
});

const ClusterHost = Type.Object({
  hostId: Type.String({ description: "Its `HOST_ID`" }),
  owner: Type.String({ description: "This run of it, as the shard table names it" }),
  answering: Type.Boolean({ description: "Whether it answered this gateway's question in time" }),
  startedAt: NullableTime,
  ready: NullableFlag,
  leaving: NullableFlag,
  owned: Type.Union([ShardSet, Type.Null()], {
    description: "By the shard table, which decides; null while it cannot be read",
  }),
  served: Type.Union([ShardSet, Type.Null()], {
    description: "As the host says; during a hand-off it differs from `owned`",
  }),
  epoch: Type.Unsafe<number | null>({
    type: ["integer", "null"],
    description: "The highest epoch of its shards",
  }),
  claimedAt: Type.Unsafe<string | null>({
    type: ["string", "null"],
    description: "When it took a shard last, by the database's clock",
  }),
  lanes: Type.Array(ClusterLane),
  books: Type.Union([Books, Type.Null()], {
    description: "What its reconciliation knows; null when it has none, or did not answer",
  }),
  handOffs: Type.Array(HandOff, { description: "Latest first" }),
});
export type ClusterHostBody = Static<typeof ClusterHost>;

export const Cluster = Type.Object(
  {
    at: Time,
    gateway: Type.Object({
      id: Type.String(),
      bus: words("connected", "reconnecting", "closed"),
    }),
    shards: Type.Union(
      [
        Type.Object({
          total: Count,
          owned: ShardSet,
          orphaned: Type.Unsafe<Static<typeof ShardSet>>({
            ...ShardSet,
            description: "Without an owner: commands for them wait",
          }),
          unknown: Type.Unsafe<Static<typeof ShardSet>>({
            ...ShardSet,
            description: "In a database that cannot be reached",
          }),
        }),
        Type.Null(),
      ],
      { description: "Null while the shard table cannot be read" },
    ),
    shardsReason: Type.Unsafe<string | null>({
      type: ["string", "null"],
      description: "Why `shards` is null",
    }),
    hosts: Type.Array(ClusterHost, {
      description: "Those that answered, and those that own shards and did not",
    }),
  },
  {
    examples: [
      {
        at: "2026-01-01T12:00:00.000Z",
        gateway: { id: "gateway-1-01a1fe63-456c-7b6c-a5df-ed7df22ead10", bus: "connected" },
        shards: {
          total: 256,
          owned: { count: 256, list: "0-255" },
          orphaned: { count: 0, list: "" },
          unknown: { count: 0, list: "" },
        },
        shardsReason: null,
        hosts: [
          {
            hostId: "host-1",
            owner: "host-1:7d1f3c52-0c53-4d0f-9f0e-0a8e3f1f2c11",
            answering: true,
            startedAt: "2026-01-01T11:00:00.000Z",
            ready: true,
            leaving: false,
            owned: { count: 256, list: "0-255" },
            served: { count: 256, list: "0-255" },
            epoch: 3,
            claimedAt: "2026-01-01T11:00:02.500Z",
            lanes: [
              {
                name: "lane-0",
                shards: 256,
                serving: true,
                actors: 5120,
                mailboxDepth: 4,
                outstanding: 12,
                pendingTransfers: 0,
              },
            ],
            books: {
              running: false,
              lastRunAt: "2026-01-01T11:58:12.250Z",
              differences: 0,
              warnings: 0,
              walletsChecked: 51_200,
            },
            handOffs: [
              {
                at: "2026-01-01T11:00:02.500Z",
                type: "taken",
                shards: { count: 128, list: "0-127" },
                peer: "host-2:1c9e6a34-6b1e-4a43-8c5a-5d1f0f3b7a90",
              },
            ],
          },
        ],
      },
    ],
  },
);
export type ClusterBody = Static<typeof Cluster>;

/** What a host may answer on the bus (`HostStatus` of src/protocol.ts): NATS carries what anybody publishes. */
const shardList = Type.Array(Type.Integer({ minimum: 0, maximum: LIMITS.shardCount - 1 }), {
  maxItems: LIMITS.shardCount,
});
/** Printable, since terminals show it. */
const ShortText = Type.String({ maxLength: LIMITS.keyLengthMax, pattern: "^[ -~]*$" });
export const HostStatusMessage = Type.Object({
  hostId: ShortText,
  owner: ShortText,
  startedAt: Time,
  ready: Type.Boolean(),
  leaving: Type.Boolean(),
  shards: shardList,
  lanes: Type.Array(
    Type.Object({ ...ClusterLane.properties, name: ShortText, serving: Type.Boolean() }),
    { maxItems: LIMITS.shardCount },
  ),
  books: Type.Optional(Books),
  handOffs: Type.Array(
    Type.Object({
      at: Time,
      type: words("taken", "handed over", "lost"),
      shards: shardList,
      peer: Type.Union([ShortText, Type.Null()]),
    }),
    { maxItems: LIMITS.handOffsKept },
  ),
});

// --- Pages ----------------------------------------------------------------------------------------------------------------

export const WalletPage = Type.Array(ref(Wallet));
export const EventPage = Type.Array(ref(Event));
export const TransactionPage = Type.Array(ref(Transaction));
export const TransferPage = Type.Array(ref(Transfer));
export const HoldPage = Type.Array(ref(Hold));
export const AssetPage = Type.Array(Asset);

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
