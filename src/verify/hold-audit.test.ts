import { expect, it } from "vitest";
import { amountMinor } from "../core/amount.ts";
import type { Found } from "./differences.ts";
import { auditHolds, type StoredHold } from "./hold-audit.ts";
import type { Hold } from "../core/hold.ts";
import { LIMITS } from "../limits.ts";
import type { EventRow } from "../postgres/events.ts";
import { shardOf } from "../core/shard.ts";

const PLACED: Hold = {
  walletId: "w1",
  holdId: "h1",
  amountMinor: amountMinor(500),
  capturedMinor: amountMinor(0),
  status: "ACTIVE",
  kind: "PAYMENT",
  reference: "order 17",
  description: null,
  expiresAtMs: null,
  createdAtMs: 1,
  capturedAtMs: null,
  releasedAtMs: null,
};
const PART: Hold = { ...PLACED, capturedMinor: amountMinor(200) };
const OTHER: Hold = { ...PLACED, holdId: "h2", status: "RELEASED", releasedAtMs: 3 };

/** What the latest audit would change. */
let changes: string[] = [];

function audited(
  told: readonly Hold[],
  rows: ReadonlyArray<Hold | StoredHold>,
  heldMinor: number,
): Array<Omit<Found, "walletId">> {
  const found: Array<Omit<Found, "walletId">> = [];
  const audit = auditHolds("w1", ({ walletId, ...one }) => {
    expect(walletId).toBe("w1");
    found.push(one);
  });
  told.forEach((hold, version) => {
    audit.event({ version, data: { hold } } as unknown as EventRow);
  });
  audit.event({ version: told.length, data: null } as unknown as EventRow);
  const shard = shardOf("w1");
  changes = audit
    .end(
      rows.map((row) => ({ shard, ...row })),
      heldMinor,
    )
    .map(({ type, holdId }) => `${holdId} ${type}`);
  return found;
}

it("holds that are what their last events say are in order", () => {
  expect(audited([PLACED, OTHER, PART], [OTHER, PART], 300)).toEqual([]);
  expect(changes).toEqual([]);
});

it.each<
  [
    what: string,
    rows: ReadonlyArray<Hold | StoredHold>,
    heldMinor: number,
    named: ReadonlyArray<Omit<Found, "walletId">>,
    changed: string[],
  ]
>([
  [
    "one that was turned back",
    [OTHER, PLACED],
    300,
    [{ kind: "hold_row", version: 2, field: "h1 captured", expected: 200, found: 0 }],
    ["h1 corrected"],
  ],
  [
    "one with two fields wrong",
    [{ ...PART, kind: "ESCROW", expiresAtMs: 7 }, OTHER],
    300,
    [
      {
        kind: "hold_row",
        version: 2,
        field: "h1 kind",
        expected: "PAYMENT",
        found: "ESCROW",
      },
      { kind: "hold_row", version: 2, field: "h1 expires_at", expected: null, found: 7 },
    ],
    ["h1 corrected"],
  ],
  [
    "one in another shard",
    [{ ...PART, shard: 256 }, OTHER],
    300,
    [
      {
        kind: "hold_row",
        version: 2,
        field: "h1 shard",
        expected: shardOf("w1"),
        found: 256,
      },
    ],
    ["h1 corrected"],
  ],
  [
    "one that is gone",
    [PART],
    300,
    [{ kind: "hold_missing", version: 1, field: "h2", expected: "RELEASED, 500" }],
    ["h2 inserted"],
  ],
  [
    "one from nowhere",
    [PART, OTHER, { ...PLACED, holdId: "h3" }],
    300,
    [{ kind: "hold_without_events", field: "h3", found: "ACTIVE, 500" }],
    ["h3 removed"],
  ],
  [
    "a sum that is another one",
    [PART, OTHER],
    301,
    [{ kind: "hold_sum", expected: 300, found: 301 }],
    [],
  ],
])("%s is named", (_, rows, heldMinor, named, changed) => {
  expect(audited([PLACED, OTHER, PART], rows, heldMinor)).toEqual(named);
  expect(changes).toEqual(changed);
});

it("a wallet with more holds than are remembered is not compared", () => {
  const many = Array.from({ length: LIMITS.verifyHoldsMax + 1 }, (_, n) => ({
    ...PLACED,
    holdId: `h${n}`,
  }));
  expect(audited(many, many.slice(1), 0)).toEqual([]);
  expect(changes).toEqual([]);
  expect(audited(many.slice(1), many.slice(1), 0)).toMatchObject([{ kind: "hold_sum" }]);
});
