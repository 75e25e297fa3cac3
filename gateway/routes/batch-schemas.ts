/**
 * What a batch takes and answers: the commands of NATS by their type, each with the status of its
 * yes and the most bytes of its outcome.
 */
import { Type, type TProperties } from "typebox";

import { LIMITS } from "../../src/limits.ts";
import { holdFields, NATS_REQUESTS, withWalletId } from "./command-schemas.ts";
import { closed, Code, described, HoldType, jsonObject, optionalKey, words } from "../schemas.ts";

const { type: _, ...heldFields } = holdFields;
/** A hold, with a description and a reference of any length. */
const HOLD_BYTES = 512 + 6 * (LIMITS.descriptionLengthMax + LIMITS.keyLengthMax);
/**
 * Most bytes of a wallet in an outcome, with all around it, without its own id and its `metadata`.
 */
const WALLET_BYTES = 384 + 2 * LIMITS.idLengthMax;

/** A command of a batch: its request over NATS, and its type. */
function inBatch<Properties extends TProperties>(
  { properties }: { readonly properties: Properties },
  statusCode: 200 | 201 = 200,
  /**
   * Of its outcome, in the shortest form that there is and without the ids in the command
   * (gateway/batch-nats.ts).
   */
  outcomeBytesMax: number = WALLET_BYTES,
) {
  const fields = { type: Type.String(), ...properties };
  const schema = Type.Object(fields, closed);
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

/** A batch's key leaves room for the place of each command behind it. */
export const BATCH_KEY_LENGTH_MAX = LIMITS.keyLengthMax - `/${LIMITS.batchCommandsMax - 1}`.length;
const BatchKey = optionalKey(
  "Same as the header `Idempotency-Key`: names the commands that have no key of their own",
  BATCH_KEY_LENGTH_MAX,
);

const commandCount = { minItems: 1, maxItems: LIMITS.batchCommandsMax };

/** What a batch is refused for as a whole; each of its commands is checked on its own. */
export const BatchEnvelope = Type.Object(
  { commands: Type.Array(Type.Unknown(), commandCount), idempotencyKey: BatchKey },
  closed,
);

/** The same for the document, with the commands. */
export const BatchBody = Type.Object(
  {
    commands: Type.Array(
      Type.Unsafe<object>({
        anyOf: Object.entries(BATCH_REQUESTS).map(([type, { schema }]) => ({
          ...schema,
          title: type,
          properties: { ...schema.properties, type: described(words(type), "Which command it is") },
        })),
      }),
      {
        ...commandCount,
        description:
          "Fields as in the command's own route, and the ids in its path; `fund` has `walletId` here, and a hold's own type is `holdType`. One that does not fit has its error as its outcome, and does not stop the others",
      },
    ),
    idempotencyKey: BatchKey,
  },
  {
    ...closed,
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

const BatchOutcome = Type.Unsafe<object>({
  anyOf: [
    Type.Object({
      ok: Type.Literal(true, { description: "It was carried out" }),
      statusCode: Type.Integer({ description: "200, 201, or 202 for a pending transfer" }),
      data: jsonObject("The body that its route answers"),
      replayed: Type.Optional(
        Type.Boolean({ description: "`true`: the answer to an earlier command with this key" }),
      ),
    }),
    Type.Object({
      ok: Type.Literal(false, { description: "It was refused, or could not be carried out" }),
      statusCode: Type.Integer({ description: "That its route would answer with" }),
      error: Type.Object({
        code: Code,
        message: Type.String(),
        details: Type.Optional(Type.Unknown({ description: "As in `Error`" })),
      }),
      replayed: Type.Optional(
        Type.Boolean({ description: "`true`: the refusal of an earlier command with this key" }),
      ),
    }),
  ],
});

/** The wallet `wallet-n` of `user-n`, as the example shows it. */
function walletShown(nth: number, balance: number, version: number) {
  return {
    id: `wallet-${nth}`,
    ownerId: `user-${nth}`,
    currency: "USD",
    balance,
    held: 0,
    available: balance,
    status: "ACTIVE",
    version,
    metadata: {},
    createdAt: "2026-01-01T12:00:00.000Z",
    updatedAt: "2026-01-01T12:40:00.000Z",
  };
}

/** The example answers that of `BatchBody`, command by command. */
export const BatchAnswer = Type.Object(
  {
    outcomes: Type.Array(BatchOutcome, { description: "One for each command, in their order" }),
  },
  {
    examples: [
      {
        outcomes: [
          { ok: true, statusCode: 200, data: walletShown(1, 135.5, 3) },
          {
            ok: true,
            statusCode: 200,
            data: {
              transferId: "01a1fe63-456c-7b6c-a5df-ed7df22ead10",
              status: "posted",
              fromWallet: walletShown(1, 133, 4),
              toWallet: walletShown(2, 2.5, 1),
            },
          },
          {
            ok: false,
            statusCode: 400,
            error: {
              code: "insufficient_funds",
              message:
                "Wallet wallet-2 has insufficient funds: available 2.50 USD, requested 1000000.00 USD",
              details: {
                walletId: "wallet-2",
                currency: "USD",
                available: 2.5,
                requested: 1_000_000,
              },
            },
          },
        ],
      },
    ],
  },
);
