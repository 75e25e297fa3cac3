/** What reads are asked for, by path and query, and what only they answer. */

import { Type } from "typebox";
import { LIMITS } from "../../src/limits.ts";
import {
  Asset,
  closed,
  Code,
  Currency,
  described,
  Event,
  Hold,
  HoldStatus,
  Id,
  MadeId,
  Moment,
  nullableInteger,
  nullableText,
  OwnerId,
  ref,
  TEXT_PATTERN,
  Transaction,
  TransactionType,
  Transfer,
  TransferStatus,
  Wallet,
  WalletParams,
  WalletStatus,
  words,
} from "../schemas.ts";

export const paging = {
  limit: Type.Optional(
    Type.Integer({
      minimum: 1,
      maximum: LIMITS.pageRowsMax,
      default: LIMITS.pageRowsDefault,
      description: "Rows of a page, at most",
    }),
  ),
  cursor: Type.Optional(
    Type.String({ maxLength: 512, description: "From the `Link` of the page before" }),
  ),
};

export const HoldParams = Type.Object({
  ...WalletParams.properties,
  holdId: described(MadeId, "The hold's id, from the answer that placed it"),
});
export const TransferParams = Type.Object({
  transferId: described(MadeId, "The transfer's id, from its answer"),
});
export const KeyParams = Type.Object({
  idempotencyKey: Type.String({
    minLength: 1,
    maxLength: LIMITS.keyLengthMax,
    description:
      "The key that was sent with the command, or `details.idempotencyKey` of an `outcome_unknown`; percent-encoded, as all of a path",
    examples: ["payout-17"],
  }),
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
      described(
        Moment,
        "The wallet as it was at this time: after its last event that is not later. ISO 8601, such as `2026-01-01T12:00:00Z`; without a zone it is UTC",
      ),
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

const SearchText = Type.String({ maxLength: LIMITS.keyLengthMax, pattern: TEXT_PATTERN });
const BalanceBound = Type.String({
  maxLength: 64,
  description: "Inclusive, a decimal from 0 in units of each wallet's asset, such as `10.50`",
  examples: ["10.50"],
});
const METADATA_FILTER = "^metadata\\.[^\\u0000]{1,256}$";
export const WalletsQuery = Type.Object(
  {
    ownerId: Type.Optional(described(OwnerId, "Only wallets of this owner")),
    status: Type.Optional(described(WalletStatus, "Only wallets that are so now")),
    currency: Type.Optional(described(Currency, "Only wallets of this asset, by its code")),
    minBalance: Type.Optional(BalanceBound),
    maxBalance: Type.Optional(BalanceBound),
    // For the document; the pattern below is what lets any key in.
    "metadata.<key>": Type.Optional(
      described(
        SearchText,
        '`metadata.tier=gold`: the wallet\'s metadata has this value under this key, at the top level. A number or `true` also finds the text that is written so. For a form it is an object with such names: `{ "metadata.tier": "gold" }`',
      ),
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

const From = described(
  Moment,
  "From this time on, inclusive: an ISO 8601 date or time; without a zone it is UTC",
);
const To = described(
  Moment,
  "Before this time, which is not included; written like `from`, and not before it",
);
export const TransactionsQuery = Type.Object(
  {
    type: Type.Optional(described(TransactionType, "Only what is of this type")),
    from: Type.Optional(From),
    to: Type.Optional(To),
    ...paging,
  },
  closed,
);
export const EventsQuery = Type.Object(
  {
    fromVersion: Type.Optional(
      Type.Integer({ minimum: 0, default: 0, description: "The first version of the page" }),
    ),
    limit: paging.limit,
  },
  closed,
);
export const TransfersQuery = Type.Object(
  { status: Type.Optional(TransferStatus), ...paging },
  closed,
);

export const HoldsQuery = Type.Object(
  { status: Type.Optional(described(HoldStatus, "Only holds that are so now")), ...paging },
  closed,
);

export const OperationQuery = Type.Object(
  {
    walletId: Type.Optional(
      described(
        Id,
        "The wallet of the command, of a transfer the payer's; needed when several wallets used the key",
      ),
    ),
  },
  closed,
);

// --- Answers -------------------------------------------------------------------------------------

export const WalletWithHistory = Type.Object({
  ...Wallet.properties,
  auditTrail: Type.Optional(Type.Array(ref(Event))),
  transactions: Type.Optional(Type.Array(ref(Transaction))),
});

export const Operation = Type.Object({
  idempotencyKey: Type.String(),
  walletId: Id,
  outcome: described(
    words("done", "pending", "rejected"),
    "`pending`: a transfer that the payee has not decided yet",
  ),
  version: nullableInteger("To which the command brought the wallet; null when it wrote nothing"),
  transferId: nullableText("Of a transfer, or of a capture that pays a wallet"),
  wallet: Type.Optional(ref(Wallet)),
  hold: Type.Optional(ref(Hold)),
  error: Type.Optional(
    Type.Object(
      { statusCode: Type.Integer(), code: Code, message: Type.String() },
      { description: "Why it was rejected" },
    ),
  ),
});

export const WalletPage = Type.Array(ref(Wallet));
export const EventPage = Type.Array(ref(Event));
export const TransactionPage = Type.Array(ref(Transaction));
export const TransferPage = Type.Array(ref(Transfer));
export const HoldPage = Type.Array(ref(Hold));
export const AssetPage = Type.Array(Asset);
