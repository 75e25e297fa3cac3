import { expect, it } from "vitest";
import { amountMinor } from "./core/amount.ts";
import { chainHash, chainHashOfRow } from "./chain.ts";
import { accountOf, dataOf } from "./core/event-row.ts";
import type { NewEvent } from "./core/journal.ts";
import type { StoredEvent } from "./core/read-model.ts";
import type { WalletEvent } from "./core/wallet.ts";

const occurredAtMs = Date.UTC(2030, 0, 1, 12, 30, 15, 123);
const PREVIOUS = "ab".repeat(32);

const EVENTS: readonly WalletEvent[] = [
  {
    type: "WalletCreated",
    ownerId: "u1",
    currency: "USD",
    decimalPlaces: 2,
    metadata: '{"b":{"c":[1e21,"\u00e9",{}]},"aa":null}',
    occurredAtMs,
  },
  { type: "WalletCredited", amountMinor: amountMinor(5), kind: "FUND", occurredAtMs },
  { type: "WalletDebited", amountMinor: amountMinor(5), occurredAtMs },
  {
    type: "TransferSent",
    amountMinor: amountMinor(5),
    transferId: "t1",
    counterpartyId: "w2",
    occurredAtMs,
  },
  { type: "WalletMetadataChanged", metadata: '{"tier":"gold"}', occurredAtMs },
  { type: "WalletSuspended", occurredAtMs },
];

function newEvent(event: WalletEvent): Omit<NewEvent, "hash"> {
  return {
    walletId: "w1",
    version: 7,
    event,
    balanceMinor: 100,
    heldMinor: 10,
    status: "ACTIVE",
    commandId: "key",
    fingerprint: "print",
    isIdProposed: false,
    correlationId: "key",
    causationId: "key",
    description: 'a "word"',
    metadata: '{"z":1,"a":2}',
  };
}

/** As PostgreSQL gives it back. */
function rowOf(of: Omit<NewEvent, "hash">): StoredEvent & { fingerprint: string | null } {
  const { event, isIdProposed: _, metadata: __, ...rest } = of;
  const data = dataOf(of);
  return {
    ...rest,
    balanceMinor: amountMinor(of.balanceMinor),
    heldMinor: amountMinor(of.heldMinor),
    type: event.type,
    amountMinor: "amountMinor" in event ? event.amountMinor : null,
    account: accountOf(event),
    counterpartyId: "counterpartyId" in event ? event.counterpartyId : null,
    transferId: "transferId" in event ? event.transferId : null,
    data: data === null ? null : (JSON.parse(data) as StoredEvent["data"]),
    occurredAtMs: event.occurredAtMs,
  };
}

it.each(EVENTS.map((event) => [event.type, event] as const))(
  "%s has the same hash when it is decided and when it is read back",
  (_type, event) => {
    const made = newEvent(event);
    expect(chainHash(PREVIOUS, made)).toMatch(/^[\da-f]{64}$/);
    expect(chainHashOfRow(PREVIOUS, rowOf(made))).toBe(chainHash(PREVIOUS, made));
    expect(chainHashOfRow(null, rowOf(made))).not.toBe(chainHash(PREVIOUS, made));
  },
);

it("is chained to zeros where nothing is before it, and says null where there is no data", () => {
  const made = { ...newEvent(EVENTS[5]!), metadata: null };
  expect(dataOf(made)).toBe(null);
  const hash = chainHash(null, made);
  expect(chainHash("0".repeat(64), made)).toBe(hash);
  expect(chainHashOfRow(null, rowOf(made))).toBe(hash);
  expect(hash).toBe("a4688fb717043f4c917eaf7104c392156976123f0dc60563efe28e58eb3bbaa9");
});

it("each field of a row is in its hash", () => {
  const row = rowOf(newEvent(EVENTS[3]!));
  const hash = chainHashOfRow(PREVIOUS, row);
  for (const [field, value] of Object.entries(row)) {
    const other =
      typeof value === "number" ? value + 1 : typeof value === "string" ? `${value}x` : {};
    const changed = { field, hash: chainHashOfRow(PREVIOUS, { ...row, [field]: other }) };
    expect(changed).not.toEqual({ field, hash });
  }
});

it("the order of keys in the data is not, since jsonb has one of its own", () => {
  const row = rowOf(newEvent(EVENTS[1]!));
  const turned = { ...row, data: Object.fromEntries(Object.entries(row.data!).toReversed()) };
  expect(chainHashOfRow(null, turned)).toBe(chainHashOfRow(null, row));
});

it("is the same for ever, since what is stored is checked against it", () => {
  const [created, sent] = [EVENTS[0]!, EVENTS[3]!];
  expect(chainHash(null, newEvent(sent))).toBe(
    "6c1d6c24a367d823cc7f1f7aefe58f2d970133d583561f69f1e9250bf4653485",
  );
  expect(chainHash(PREVIOUS, newEvent(created))).toBe(
    "09fa8778b86a42ebae9444e5b8c05bad2a0b3c851a150b1c998839b064d5841e",
  );
});
