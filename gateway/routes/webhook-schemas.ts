/**
 * The shapes of webhooks, beside those of `gateway/schemas.ts`: what makes one, and what is told of
 * it.
 */
import { Type, type Static, type TObject } from "typebox";

import { LIMITS } from "../../src/limits.ts";
import type { WalletEventType } from "../../src/core/wallet.ts";
import {
  closed,
  described,
  Id,
  MadeId,
  Moment,
  NullableText,
  nullableText,
  nullableTime,
  optionalKey,
  PRINTABLE_PATTERN,
  TEXT_PATTERN,
  Time,
  words,
} from "../schemas.ts";

/**
 * Every type, so that a filter with a mistake in it is refused; the type of this table refuses one
 * that is missing.
 */
const EVENT_TYPES: { readonly [EventType in WalletEventType]: true } = {
  WalletCreated: true,
  WalletCredited: true,
  WalletDebited: true,
  TransferSent: true,
  TransferReceived: true,
  TransferReturned: true,
  HoldPlaced: true,
  HoldCaptured: true,
  HoldReleased: true,
  HoldExpired: true,
  WalletMetadataChanged: true,
  WalletSuspended: true,
  WalletActivated: true,
  WalletClosed: true,
};

const EventTypeFilter = Type.Array(words(...(Object.keys(EVENT_TYPES) as WalletEventType[])), {
  minItems: 1,
  maxItems: LIMITS.webhookFilterMax,
  description: "Only events of these types; left out: all",
});
const WalletFilter = Type.Array(Id, {
  minItems: 1,
  maxItems: LIMITS.webhookFilterMax,
  description: "Only events of these wallets; left out: all",
});
const Url = Type.String({
  minLength: 1,
  maxLength: LIMITS.webhookUrlLengthMax,
  pattern: PRINTABLE_PATTERN,
  description: "http or https. A private address only where the operator allows it",
  examples: ["https://shop.example/hooks/coffer"],
});

export const WebhookBody = Type.Object(
  {
    url: Url,
    secret: Type.Optional(
      Type.String({
        minLength: 16,
        maxLength: LIMITS.keyLengthMax,
        pattern: PRINTABLE_PATTERN,
        description: "Signs what is sent. Left out: one is made",
      }),
    ),
    events: Type.Optional(EventTypeFilter),
    wallets: Type.Optional(WalletFilter),
    description: Type.Optional(
      Type.String({
        maxLength: LIMITS.descriptionLengthMax,
        pattern: TEXT_PATTERN,
        description: "What it is for, in your words",
      }),
    ),
    from: Type.Optional(
      described(Moment, "Begins with the events since this time; left out: with the next one"),
    ),
    idempotencyKey: optionalKey(
      "Same as the header `Idempotency-Key`: a repeat makes no second webhook",
    ),
  },
  {
    ...closed,
    examples: [
      { url: "https://shop.example/hooks/coffer", events: ["WalletCredited", "TransferReceived"] },
    ],
  },
);
export type WebhookFields = Static<typeof WebhookBody>;

export const ReplayBody = Type.Object(
  {
    from: Type.Optional(
      described(
        Moment,
        "Sends the events since this time (again); left out: goes on where it stands. A later time than that leaves out what lies between",
      ),
    ),
    // Taken as on every POST. A replay done twice begins twice, which its receiver cannot tell from
    // one.
    idempotencyKey: optionalKey(
      "Taken like on every write, and not used: sent twice, it begins twice",
    ),
  },
  { ...closed, examples: [{ from: "2026-01-01T12:00:00Z" }] },
);

export const WebhookParams = Type.Object({
  webhookId: described(MadeId, "The webhook's id, from its answer"),
});

const webhookFields = {
  id: MadeId,
  url: Type.String(),
  events: Type.Unsafe<readonly string[] | null>({
    type: ["array", "null"],
    items: Type.String(),
    description: "Types of events that are sent; null: all",
  }),
  wallets: Type.Unsafe<readonly string[] | null>({
    type: ["array", "null"],
    items: Type.String(),
    description: "Wallets whose events are sent; null: all",
  }),
  description: NullableText,
  status: described(words("ACTIVE", "DISABLED"), "`DISABLED`: nothing is sent until a replay"),
  disabledReason: nullableText("Why it was disabled"),
  disabledAt: nullableTime("When it was disabled"),
  createdAt: Time,
};
const example = {
  id: "01a1fe63-456c-7b6c-a5df-ed7df22ead10",
  url: "https://shop.example/hooks/coffer",
  events: ["WalletCredited", "TransferReceived"],
  wallets: null,
  description: null,
  status: "ACTIVE",
  disabledReason: null,
  disabledAt: null,
  createdAt: "2026-01-01T12:00:00.000Z",
};
const failingFields = {
  shards: Type.Integer({ description: "Shards, of 256, whose events wait for that" }),
  since: Time,
  nextTryAt: Time,
  reason: Type.String(),
};
const Failing = Type.Unsafe<Static<TObject<typeof failingFields>> | null>({
  type: ["object", "null"],
  description: "Events that are not taken and tried again; null when there are none",
  properties: failingFields,
});

export const WebhookSummary = Type.Object(webhookFields, { examples: [example] });
export type WebhookSummaryBody = Static<typeof WebhookSummary>;
export const WebhookPage = Type.Array(WebhookSummary);
export const WebhookDetails = Type.Object(
  { ...webhookFields, failing: Failing },
  {
    examples: [
      {
        ...example,
        failing: {
          shards: 1,
          since: "2026-01-01T12:00:00.000Z",
          nextTryAt: "2026-01-01T12:08:32.000Z",
          reason: "answered 500",
        },
      },
    ],
  },
);
/** The only answer with the secret. */
export const WebhookCreated = Type.Object(
  { ...webhookFields, secret: Type.String({ description: "Told here and never again" }) },
  { examples: [{ ...example, secret: "whsec_3pX0wq5m0c0kzqY8m7oVbG0sTq1x9rJ2bq6d3k1uF4E" }] },
);
