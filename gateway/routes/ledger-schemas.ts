/** The books as double entry: what the ledger is asked for and answers, and the trial balance. */
import { Type, type Static } from "typebox";

import {
  CapturedHoldId,
  closed,
  Currency,
  Id,
  NullableId,
  NullableText,
  Time,
  TRANSACTION_ID_PATTERN,
  TransactionType,
} from "../schemas.ts";

export const TransactionParams = Type.Object({
  transactionId: Type.String({
    pattern: TRANSACTION_ID_PATTERN,
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
    holdId: CapturedHoldId,
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
        accounts: Type.Array(
          Type.Object({
            account: Type.String({
              description: "A system account, or `wallets` for all of them together",
            }),
            balance: Total,
          }),
        ),
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
