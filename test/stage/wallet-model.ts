/**
 * A model of wallets for tests, as naive as can be: pages of a book in whole cents, with every rule
 * spelled out anew; and the arbitrary walks over commands, transfers and time on which the code is
 * compared with it.
 */
import fc from "fast-check";
import type { RejectionCode } from "../../src/core/rejection.ts";
import type { Transfer } from "../../src/core/transfer.ts";

const BOUND = 10n ** 15n;

/**
 * What a step of a walk asks for. Amounts may depend on how the wallet stands, so that walks meet
 * the edges.
 */
type AmountPlan =
  | { is: "exactly"; minor: bigint }
  | { is: "all that is available, plus"; minor: bigint }
  | { is: "all that there is room for, plus"; minor: bigint }
  | { is: "too fine" };

export type CommandPlan =
  | { type: "create"; asset: number; amount: AmountPlan | null }
  | { type: "credit" | "debit"; amount: AmountPlan }
  /** Money of a user in an asset: of the wallet that is theirs, which the first topup makes. */
  | { type: "topup" | "spend"; owner: number; asset: number; amount: AmountPlan }
  | { type: "transfer"; to: number; amount: AmountPlan }
  | { type: "update"; patch: Record<string, string | null> }
  | { type: "suspend" | "activate" | "close" };

export type Step = { elapsedMs: number } & (
  | { step: "command"; on: number; plan: CommandPlan; expects: "any" | "current" | "another" }
  /** The payee of one of the transfers under way gives its verdict. */
  | { step: "verdict"; pick: number }
  /** The payer of one of the transfers with a verdict settles it. */
  | { step: "settle"; pick: number }
);

export const IDS = ["a", "b", "c", "d", "e"] as const;
/** Wallets that are created belong to the first. */
export const OWNERS = ["o", "p"] as const;
export const ASSETS = [
  { currency: "USD", decimalPlaces: 2 },
  { currency: "GOLD", decimalPlaces: 0 },
  { currency: "EUR", decimalPlaces: 2 },
] as const;

const amountPlan: fc.Arbitrary<AmountPlan> = fc.oneof(
  { weight: 4, arbitrary: exactly(fc.bigInt(1n, 1_000n)) },
  { weight: 2, arbitrary: exactly(fc.bigInt(BOUND / 4n, BOUND / 2n)) },
  { weight: 2, arbitrary: exactly(fc.bigInt(BOUND - 3n, BOUND + 1n)) },
  { weight: 1, arbitrary: exactly(fc.bigInt(1n, BOUND - 1n)) },
  { weight: 4, arbitrary: near("all that is available, plus") },
  { weight: 4, arbitrary: near("all that there is room for, plus") },
  { weight: 1, arbitrary: fc.constant({ is: "too fine" as const }) },
);

function exactly(minor: fc.Arbitrary<bigint>): fc.Arbitrary<AmountPlan> {
  return minor.map((minor) => ({ is: "exactly", minor }));
}

function near(
  is: "all that is available, plus" | "all that there is room for, plus",
): fc.Arbitrary<AmountPlan> {
  return fc.constantFrom(0n, 0n, -1n, 1n).map((minor) => ({ is, minor }));
}

const commandPlan: fc.Arbitrary<CommandPlan> = fc.oneof(
  {
    weight: 2,
    arbitrary: fc.record({
      type: fc.constant("create" as const),
      asset: fc.constantFrom(0, 0, 0, 0, 1, 2),
      amount: fc.option(amountPlan),
    }),
  },
  {
    weight: 5,
    arbitrary: fc.record({ type: fc.constantFrom("credit", "debit"), amount: amountPlan }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      type: fc.constantFrom("topup", "topup", "spend"),
      owner: fc.constantFrom(0, 0, 0, 1),
      asset: fc.constantFrom(0, 0, 0, 1),
      amount: amountPlan,
    }),
  },
  {
    weight: 8,
    arbitrary: fc.record({
      type: fc.constant("transfer" as const),
      to: fc.nat(IDS.length - 1),
      amount: amountPlan,
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      type: fc.constant("update" as const),
      // Two of the long ones do not fit beside each other.
      patch: fc.dictionary(
        fc.constantFrom("a", "b", "cc"),
        fc.oneof(fc.constantFrom("1", "2", null), fc.constant("x".repeat(5_000))),
      ),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({
      type: fc.constantFrom("suspend", "suspend", "activate", "activate", "activate", "close"),
    }),
  },
);

const elapsedMs = fc.integer({ min: -1_000, max: 2_000 });
const anyStep: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 6,
    arbitrary: fc.record({
      elapsedMs,
      step: fc.constant("command" as const),
      on: fc.nat(IDS.length - 1),
      plan: commandPlan,
      expects: fc.constantFrom("any", "any", "any", "any", "current", "another"),
    }),
  },
  {
    weight: 3,
    arbitrary: fc.record({
      elapsedMs,
      step: fc.constantFrom("verdict", "settle"),
      pick: fc.nat(99),
    }),
  },
);

/** Most walks begin with wallets under all ids but the last, one of them of another asset. */
const opening: fc.Arbitrary<Step[]> = fc
  .tuple(
    fc.constantFrom(1, 2),
    fc.array(fc.option(amountPlan), { minLength: IDS.length - 1, maxLength: IDS.length - 1 }),
  )
  .map(([other, amounts]) =>
    amounts.map((amount, on) => ({
      elapsedMs: 1,
      step: "command",
      on,
      plan: { type: "create", asset: on === 3 ? other : 0, amount },
      expects: "any",
    })),
  );

/**
 * Without the generator's bias to small values, which would keep walks short and on the first
 * wallet.
 */
export const walks = fc.noBias(
  fc
    .tuple(
      fc.oneof(
        { weight: 9, arbitrary: opening },
        { weight: 1, arbitrary: fc.constant<Step[]>([]) },
      ),
      fc.array(anyStep, { minLength: 1, maxLength: 60, size: "max" }),
    )
    .map(([first, rest]) => first.concat(rest)),
);

interface Page {
  readonly ownerId: string;
  readonly currency: string;
  readonly places: number;
  status: "ACTIVE" | "SUSPENDED" | "CLOSED";
  readonly metadata: Map<string, string>;
}

/** The model: what wallets must do, said as a book of balances and a list of rules. */
export function buildModel() {
  const pages = new Map<string, Page>();
  /** By account: a wallet's id, `world:<currency>` or `transit:<currency>`. */
  const book = new Map<string, bigint>();
  /** By payer: what it has sent and not settled, so what may still come back for all it knows. */
  const unsettled = new Map<string, bigint>();
  const balance = (account: string) => book.get(account) ?? 0n;
  const sentBy = (walletId: string) => unsettled.get(walletId) ?? 0n;
  const roomOf = (walletId: string) => BOUND - 1n - balance(walletId) - sentBy(walletId);

  function post(from: string, to: string, minor: bigint): void {
    book.set(from, balance(from) - minor);
    book.set(to, balance(to) + minor);
  }

  /** An amount as a caller writes it; `minor` is null when the asset has not that many decimals. */
  function amountOf(plan: AmountPlan, walletId: string, places: number) {
    if (plan.is === "too fine") return { text: `0.${"0".repeat(places)}1`, minor: null };
    let { minor } = plan;
    if (plan.is === "all that is available, plus") minor += balance(walletId);
    if (plan.is === "all that there is room for, plus") minor += roomOf(walletId);
    if (minor < 1n) minor = 1n;
    const one = 10n ** BigInt(places);
    const cents = minor % one;
    const fraction = cents === 0n ? "" : `.${`${cents + one}`.slice(1).replace(/0+$/, "")}`;
    return { text: `${minor / one}${fraction}`, minor };
  }

  /** The first rule that a command breaks, or null. `minor` is undefined when it has no amount. */
  function answer(
    walletId: string,
    plan: CommandPlan,
    minor: bigint | null | undefined,
    isExpected: boolean | null,
  ): RejectionCode | null {
    const page = pages.get(walletId);
    const { type } = plan;
    // The first topup creates, and so it breaks a creation's rules, as far as they can be broken.
    const isCreate = type === "create" || (type === "topup" && page === undefined);
    const isTheirs = type === "topup" || type === "spend";
    const [owner, asset] = isTheirs ? [OWNERS[plan.owner], ASSETS[plan.asset]!.currency] : [];
    const isOut = type === "debit" || type === "transfer" || type === "spend";
    const isIn = type === "credit" || type === "topup";
    const mayBeSuspended = type === "activate" || type === "close" || type === "update";
    const isAllowed = mayBeSuspended ? page?.status !== "CLOSED" : page?.status === "ACTIVE";
    const hasMoney = balance(walletId) > 0n || sentBy(walletId) > 0n;
    const rules: Array<[RejectionCode, isBroken: boolean]> = [
      ["same_wallet", type === "transfer" && IDS[plan.to] === walletId],
      ["wallet_already_exists", isCreate && page !== undefined],
      ["wallet_not_found", isCreate ? isExpected !== null : page === undefined],
      ["owner_mismatch", isTheirs && page !== undefined && page.ownerId !== owner],
      ["currency_mismatch", isTheirs && page !== undefined && page.currency !== asset],
      ["version_conflict", isExpected === false],
      ["wallet_not_active", !isCreate && !isAllowed],
      ["invalid_amount", minor === null],
      ["amount_out_of_range", (minor ?? 0n) >= BOUND],
      ["insufficient_funds", isOut && (minor ?? 0n) > balance(walletId)],
      ["amount_out_of_range", isIn && (minor ?? 0n) > roomOf(walletId)],
      ["wallet_not_empty", type === "close" && hasMoney],
      ["metadata_too_large", type === "update" && sizeOf(patched(page, plan.patch)) > 8_192],
    ];
    return rules.find(([, isBroken]) => isBroken)?.[0] ?? null;
  }

  /**
   * The metadata that a page would have; none of the walks nests objects, which
   * `src/core/metadata.test.ts` does.
   */
  function patched(
    page: Page | undefined,
    patch: Record<string, string | null>,
  ): Map<string, string> {
    const after = new Map(page?.metadata);
    for (const [name, value] of Object.entries(patch)) {
      after.delete(name);
      if (value !== null) after.set(name, value);
    }
    return after;
  }

  function sizeOf(metadata: Map<string, string>): number {
    return JSON.stringify(Object.fromEntries(metadata)).length;
  }

  /** The same for the payee of a transfer. */
  function welcome({ toWalletId, currency, amountMinor }: Transfer): RejectionCode | null {
    const page = pages.get(toWalletId);
    if (page === undefined) return "wallet_not_found";
    if (page.status !== "ACTIVE") return "wallet_not_active";
    if (page.currency !== currency) return "currency_mismatch";
    return BigInt(amountMinor) > roomOf(toWalletId) ? "amount_out_of_range" : null;
  }

  /** A command that breaks no rule. */
  function carryOut(walletId: string, plan: CommandPlan, minor: bigint): void {
    if (plan.type === "create" || (plan.type === "topup" && !pages.has(walletId))) {
      const { currency, decimalPlaces } = ASSETS[plan.asset]!;
      const ownerId = OWNERS["owner" in plan ? plan.owner : 0]!;
      const page = { ownerId, currency, places: decimalPlaces, status: "ACTIVE" } as const;
      pages.set(walletId, { ...page, metadata: new Map<string, string>() });
    }
    const page = pages.get(walletId)!;
    if (plan.type === "create") post(`world:${page.currency}`, walletId, minor);
    else if (plan.type === "credit") post(`world:${page.currency}`, walletId, minor);
    else if (plan.type === "debit") post(walletId, `world:${page.currency}`, minor);
    else if (plan.type === "topup") post(`treasury:${page.currency}`, walletId, minor);
    else if (plan.type === "spend") post(walletId, `revenue:${page.currency}`, minor);
    else if (plan.type === "transfer") {
      post(walletId, `transit:${page.currency}`, minor);
      unsettled.set(walletId, sentBy(walletId) + minor);
    } else if (plan.type === "update") {
      pages.set(walletId, { ...page, metadata: patched(page, plan.patch) });
    } else if (plan.type === "suspend") page.status = "SUSPENDED";
    else page.status = plan.type === "activate" ? "ACTIVE" : "CLOSED";
  }

  function arrive({ toWalletId, currency, amountMinor }: Transfer): void {
    post(`transit:${currency}`, toWalletId, BigInt(amountMinor));
  }

  function settled({ fromWalletId, currency, amountMinor }: Transfer, isReturn: boolean): void {
    const minor = BigInt(amountMinor);
    unsettled.set(fromWalletId, sentBy(fromWalletId) - minor);
    if (isReturn) post(`transit:${currency}`, fromWalletId, minor);
  }

  return { pages, balance, sentBy, amountOf, answer, welcome, carryOut, arrive, settled };
}

export type Model = ReturnType<typeof buildModel>;
