/** Each field of an event and of a hold as they leave: every value here differs from its neighbours. */
import { expect, it } from "vitest";

import { amountMinor } from "./core/amount.ts";
import { eventBody, holdBody } from "./event-body.ts";
import type { Hold } from "./core/hold.ts";
import type { StoredEvent } from "./core/read-model.ts";

const hold: Hold = {
  holdId: "h1",
  walletId: "w1",
  amountMinor: amountMinor(5_000),
  capturedMinor: amountMinor(1_500),
  status: "ACTIVE",
  kind: "ESCROW",
  reference: "order-7",
  description: "a deposit",
  expiresAtMs: Date.UTC(2026, 0, 4),
  createdAtMs: Date.UTC(2026, 0, 1),
  capturedAtMs: Date.UTC(2026, 0, 2),
  releasedAtMs: Date.UTC(2026, 0, 3),
};

const told = {
  id: "h1",
  walletId: "w1",
  amount: 5,
  captured: 1.5,
  remaining: 3.5,
  status: "ACTIVE",
  type: "ESCROW",
  reference: "order-7",
  description: "a deposit",
  expiresAt: "2026-01-04T00:00:00.000Z",
  releasedAt: "2026-01-03T00:00:00.000Z",
  capturedAt: "2026-01-02T00:00:00.000Z",
  createdAt: "2026-01-01T00:00:00.000Z",
};

const event: StoredEvent = {
  walletId: "w1",
  version: 12,
  type: "TransferSent",
  amountMinor: amountMinor(250),
  balanceMinor: amountMinor(98_765),
  heldMinor: amountMinor(4_321),
  status: "SUSPENDED",
  account: "system:transit",
  counterpartyId: "w2",
  transferId: "t1",
  commandId: "key-1",
  correlationId: "order-1",
  causationId: "cause-1",
  description: "rent",
  data: { hold, releasedMinor: 3_500, metadata: { a: 1 } },
  occurredAtMs: Date.UTC(2026, 0, 5, 6, 7, 8, 9),
};

it("a hold has all its amounts in units of the asset, and its times", () => {
  expect(holdBody(hold, 3)).toEqual(told);
  const untimed = { expiresAtMs: null, capturedAtMs: null, releasedAtMs: null };
  const untold = { expiresAt: null, capturedAt: null, releasedAt: null };
  expect(holdBody({ ...hold, ...untimed }, 3)).toEqual({ ...told, ...untold });
});

it("an event has all that was committed, with decimals and times", () => {
  expect(eventBody(event, 3)).toEqual({
    id: "w1:12",
    walletId: "w1",
    version: 12,
    type: "TransferSent",
    amount: 0.25,
    balance: 98.765,
    held: 4.321,
    status: "SUSPENDED",
    account: "system:transit",
    counterpartyId: "w2",
    transferId: "t1",
    description: "rent",
    data: { hold: told, released: 3.5, metadata: { a: 1 } },
    metadata: {
      occurredAt: "2026-01-05T06:07:08.009Z",
      correlationId: "order-1",
      causationId: "cause-1",
    },
  });
});

it("an event that no other caused names its command as its cause", () => {
  const { metadata } = eventBody({ ...event, causationId: null }, 3);
  expect(metadata.causationId).toBe("key-1");
});

it("an event without money, data or a release has none", () => {
  expect(eventBody({ ...event, amountMinor: null, data: null }, 3)).toMatchObject({
    amount: null,
    data: {},
  });
  expect(eventBody({ ...event, data: { hold } }, 3).data).toEqual({ hold: told });
  expect(eventBody({ ...event, data: { metadata: {} } }, 3).data).toEqual({ metadata: {} });
});
