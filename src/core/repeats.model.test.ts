/**
 * What fits an outcome whose command had no fingerprint, over arbitrary commands.
 *
 * Replay a failure: fast-check prints its seed; `FC_SEED=<seed> npx vitest run
 * src/core/repeats.model.test.ts` runs the same cases.
 */
import fc from "fast-check";
import { expect, it } from "vitest";

import { commandOf, isRecord, NOW_MS, outcomeOf, wallet } from "../../test/stage/repeats.ts";
import { amountMinor, type AmountMinor } from "./amount.ts";
import { canonicalJson } from "./metadata.ts";
import type { Command } from "./protocol.ts";
import { fits, mayHaveBeenTold } from "./repeats.ts";
import { payeeOf, type WalletCommand, type WalletState } from "./wallet.ts";

const seed = process.env["FC_SEED"];
fc.configureGlobal(seed === undefined ? {} : { seed: Number(seed) });

const amount = fc.constantFrom("1", "1.5", "4", "10", "10.00", "10.001", "99", "500");
const name = fc.constantFrom("ann", "bob");
const isTrue = fc.boolean();
const anyBody: fc.Arbitrary<WalletCommand> = fc.oneof(
  fc.record({
    type: fc.constant("create" as const),
    ownerId: fc.option(name),
    currency: fc.constantFrom("USD", "EUR"),
    decimalPlaces: fc.constant(2),
    initialBalance: fc.option(amount),
    metadata: fc.constantFrom("{}", '{"a":1}'),
  }),
  fc.record({
    type: fc.constant("credit" as const),
    amount,
    kind: fc.constantFrom("CREDIT", "FUND"),
  }),
  fc.record({
    type: fc.constant("credit" as const),
    amount,
    kind: fc.constantFrom("TOPUP", "BONUS"),
    of: fc.record({
      ownerId: name,
      currency: fc.constantFrom("USD", "EUR"),
      decimalPlaces: fc.constant(2),
    }),
  }),
  fc.record({ type: fc.constant("debit" as const), amount }),
  fc.record({
    type: fc.constant("debit" as const),
    amount,
    kind: fc.constant("SPEND" as const),
    of: fc.record({ ownerId: name, currency: fc.constant("USD") }),
  }),
  fc.record({
    type: fc.constant("transfer" as const),
    transferId: fc.uuid(),
    toWalletId: fc.constantFrom("u", "v", "w"),
    amount,
  }),
  fc.record({
    type: fc.constant("hold" as const),
    holdId: fc.uuid(),
    amount,
    kind: fc.constantFrom("PAYMENT", "OTHER"),
    reference: fc.option(fc.constant("r")),
    description: fc.constant(null),
    expiresAtMs: fc.option(fc.constantFrom(NOW_MS - 1, NOW_MS + 5_000)),
    expiresInSeconds: fc.constant(null),
  }),
  fc.record({
    type: fc.constant("capture" as const),
    holdId: fc.constantFrom("h", "h", "i"),
    amount: fc.option(amount),
    final: isTrue,
    to: fc.option(fc.record({ transferId: fc.uuid(), walletId: fc.constantFrom("u", "v") })),
  }),
  fc.record({ type: fc.constant("release" as const), holdId: fc.constantFrom("h", "i") }),
  fc.record({
    type: fc.constant("update" as const),
    patch: fc.constantFrom('{"a":2}', '{"a":null}', '{"b":{"c":1}}', "{}"),
  }),
  fc.record({ type: fc.constantFrom("suspend", "activate", "close") }),
);

const anyCommand: fc.Arbitrary<Command> = fc
  .record({
    body: anyBody,
    description: fc.option(fc.constantFrom("one", "two")),
    metadata: fc.option(fc.constantFrom('{"a":1}', '{"a":1.5,"b":["ü"]}')),
    expectedVersion: fc.constantFrom(null, null, null, null, null, 3, 4),
  })
  .map(({ body, metadata, ...rest }) => {
    const isOwn = body.type === "create" || body.type === "update";
    return commandOf(body, { ...rest, metadata: isOwn ? null : metadata });
  });

const anyWallet: fc.Arbitrary<WalletState | null> = fc.option(
  fc
    .record({
      status: fc.constantFrom("ACTIVE", "ACTIVE", "ACTIVE", "SUSPENDED"),
      balanceMinor: fc.constantFrom(1_000, 10_000).map(amountMinor),
      heldMinor: fc.constant<AmountMinor>(amountMinor(1_000)),
    })
    .map(wallet),
  { freq: 6 },
);

/** What must be equal of two commands whose outcomes can be each other's. */
function meaningOf({ body, description, metadata }: Command): string {
  const { type } = body;
  const kind = "kind" in body ? body.kind : null;
  const amounts = type === "create" ? body.initialBalance : "amount" in body ? body.amount : null;
  const minor = amounts === null ? null : Number(amounts);
  const holdId = type === "capture" || type === "release" ? body.holdId : null;
  const json = metadata === null ? null : canonicalJson(JSON.parse(metadata));
  return JSON.stringify([type, kind, minor, payeeOf(body), holdId, description, json]);
}

function must(holds: boolean, text: string): void {
  if (!holds) throw new Error(text);
}

const met = new Map<string, number>();
const meet = (what: string): void => void met.set(what, (met.get(what) ?? 0) + 1);

it("Whatever becomes of a command fits its own repeat", () => {
  fc.assert(
    fc.property(anyCommand, anyWallet, (command, state) => {
      const outcome = outcomeOf(command, state);
      meet(isRecord(outcome) ? outcome.event.type : outcome.code);
      const isFit = isRecord(outcome) ? fits(command, outcome) : mayHaveBeenTold(command, outcome);
      must(isFit, `does not fit ${JSON.stringify(outcome)}`);
    }),
    { numRuns: 5_000 },
  );
  const all = ["WalletCreated", "WalletCredited", "WalletDebited", "TransferSent", "HoldPlaced"];
  all.push("HoldCaptured", "HoldReleased", "WalletMetadataChanged", "WalletSuspended");
  all.push("insufficient_funds", "version_conflict", "hold_not_found", "invalid_amount");
  all.push("owner_mismatch", "wallet_already_exists", "invalid_expiry");
  expect(all.filter((what) => !met.has(what))).toEqual([]);
});

it("What a command has left fits none of another type, amount, payee, hold, description or metadata", () => {
  fc.assert(
    fc.property(anyCommand, anyCommand, anyWallet, (command, another, state) => {
      // Often two that differ in one part only.
      const mixed = { ...command, body: another.body };
      const outcome = outcomeOf(command, state);
      if (!isRecord(outcome)) return;
      for (const other of [another, mixed, { ...another, body: command.body }]) {
        const isAll = [command.body, other.body].some(
          ({ type, ...rest }) => type === "capture" && "amount" in rest && rest.amount === null,
        );
        const isSame = meaningOf(other) === meaningOf(command);
        if (fits(other, outcome)) {
          meet("fits");
          must(isAll || isSame, `${JSON.stringify(other)} fits ${JSON.stringify(outcome)}`);
        } else meet(isSame ? "same in those, and another" : "another");
      }
    }),
    { numRuns: 5_000 },
  );
  expect([met.get("fits"), met.get("another")]).not.toContain(undefined);
});
