import { expect, it } from "vitest";
import { shardOf } from "../core/shard.ts";
import { auditTransfer, inTransitMinor, type TransferFacts } from "./transfer-audit.ts";

const MOVED = { transferId: "t", amountMinor: 5, commandId: "c", correlationId: "c" };
const SENT = { ...MOVED, walletId: "a", version: 3, type: "TransferSent", counterpartyId: "b" };
const RECORD = {
  ...MOVED,
  fromWalletId: "a",
  toWalletId: "b",
  fromVersion: 3,
  shard: shardOf("a"),
  database: 0,
};
const VERDICT = { transferId: "t", toWalletId: "b" };
const REJECTION = { code: "wallet_not_active" };

/** What is named of facts of which only those matter that are given. */
function kindsOf(facts: object): string[] {
  const found: string[] = [];
  const whole = { transferId: "t", sent: SENT, received: null, returned: [], ...facts };
  auditTransfer(
    whole as unknown as TransferFacts,
    { databases: 1, nowMs: 0, stuckMs: 1_000 },
    ({ kind }) => {
      found.push(kind);
    },
  );
  return found;
}

it.each([
  [{}, []],
  [{ counterpartyId: "c" }, ["transfer_received"]],
  [{ amountMinor: 4 }, ["transfer_received"]],
  [{ transferId: "u" }, ["transfer_received"]],
  [{ type: "WalletCredited" }, ["transfer_received"]],
])("what arrived is what was sent, by whom and as which transfer: %j", (changed, expected) => {
  const received = { ...MOVED, walletId: "b", version: 2, type: "TransferReceived" };
  const facts = {
    row: { ...RECORD, status: "posted", toVersion: 2, rejection: null },
    verdict: { ...VERDICT, toVersion: 2, rejection: null },
    received: { ...received, counterpartyId: "a", ...changed },
  };
  expect(kindsOf(facts)).toEqual(expected);
});

it.each([
  [{}, []],
  [{ walletId: "c" }, ["transfer_returned"]],
  [{ amountMinor: 4 }, ["transfer_returned"]],
  [{ counterpartyId: "c" }, ["transfer_returned"]],
])("what came back is what was sent, to the payer: %j", (changed, expected) => {
  const facts = {
    row: { ...RECORD, status: "returned", toVersion: null, rejection: REJECTION },
    verdict: { ...VERDICT, toVersion: null, rejection: REJECTION },
    returned: [{ ...SENT, version: 4, type: "TransferReturned", ...changed }],
  };
  expect(kindsOf(facts)).toEqual(expected);
});

it.each([
  [{}, []],
  [{ toVersion: 7 }, ["transfer_status"]],
  [{ status: "returned", toVersion: null }, ["transfer_status", "transfer_returned"]],
])("a record says of its end what the verdict says: %j", (changed, expected) => {
  const received = { ...MOVED, walletId: "b", version: 2, type: "TransferReceived" };
  const facts = {
    row: { ...RECORD, status: "posted", toVersion: 2, rejection: null, ...changed },
    verdict: { ...VERDICT, toVersion: 2, rejection: null },
    received: { ...received, counterpartyId: "a" },
  };
  expect(kindsOf(facts)).toEqual(expected);
});

it.each([
  [{ transferId: "t" }, 0, "TransferReceived without a verdict"],
  [{ transferId: "u" }, 5, "TransferReceived u of 5 from a"],
  [{ transferId: null, type: "WalletCredited" }, 5, "WalletCredited null of 5 to a"],
])(
  "what has come in the place of a payee's event that is gone is not taken for it: %j",
  (changed, transitMinor, found) => {
    const received = { ...MOVED, walletId: "b", version: 2, type: "TransferReceived" };
    const facts = {
      transferId: "t",
      row: { ...RECORD, status: "posted", toVersion: 2, rejection: null, createdAtMs: 0 },
      verdict: null,
      sent: SENT,
      received: { ...received, counterpartyId: "a", ...changed },
      returned: [],
    } as unknown as TransferFacts;
    expect(inTransitMinor(facts)).toBe(transitMinor);
    const named: unknown[] = [];
    auditTransfer(facts, { databases: 1, nowMs: 0, stuckMs: 1_000 }, (one) => named.push(one));
    expect(named).toEqual([expect.objectContaining({ kind: "verdict_missing", found })]);
  },
);

it("money of another transfer, at the version where this one was sent, is not in its transit", () => {
  const facts = { transferId: "t", row: RECORD, verdict: null, received: null, returned: [] };
  const minorOf = (sent: object): number =>
    inTransitMinor({ ...facts, sent } as unknown as TransferFacts);
  expect([minorOf(SENT), minorOf({ ...SENT, transferId: "u" })]).toEqual([5, 0]);
});
