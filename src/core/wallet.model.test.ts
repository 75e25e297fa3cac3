/**
 * Arbitrary walks over several wallets: any commands in any order, transfers whose payees decide
 * and whose payers settle whenever it pleases, suspensions and closures in between, clocks that go
 * back, amounts up to the last minor unit in range. Beside the code runs a model that is written
 * another way: one book of BigInt balances with double entry, and a flat list of rules. After every
 * step the answer, the balances and the invariants of a wallet are compared.
 *
 * Replay a failure: fast-check prints its seed; `FC_SEED=<seed> npx vitest run
 * src/core/wallet.model.test.ts` runs the same cases.
 */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import {
  AMOUNT_MINOR_BOUND,
  amountMinor,
  canonicalAmount,
  formatAmount,
  type AmountMinor,
} from "./amount.ts";
import { canonicalMetadata } from "./metadata.ts";
import { describe as sentenceOf } from "./rejection.ts";
import { settle, type Transfer, type Verdict } from "./transfer.ts";
import {
  ASSETS,
  buildModel,
  IDS,
  OWNERS,
  walks,
  type CommandPlan,
  type Model,
  type Step,
} from "../../test/stage/wallet-model.ts";
import {
  apply,
  checkReceive,
  decide,
  transferEvent,
  type Circumstances,
  type WalletCommand,
  type WalletEvent,
  type WalletState,
} from "./wallet.ts";

const seed = process.env["FC_SEED"];
fc.configureGlobal(seed === undefined ? {} : { seed: Number(seed) });

function must(holds: boolean, text: string): void {
  if (!holds) throw new Error(text);
}

type Sums = Record<"wallets" | "world" | "treasury" | "revenue" | "transit", bigint>;

/** How often each event, rejection and landmark was met, over all walks. */
const met = new Map<string, number>();
const meet = (what: string) => met.set(what, (met.get(what) ?? 0) + 1);

/**
 * The code under test, carried by as little as an actor must add: states, histories and transfers.
 */
function buildWallets() {
  const histories = new Map<string, WalletEvent[]>();
  const states = new Map<string, WalletState>();
  const transfers: Array<{ transfer: Transfer; verdict: Verdict | null }> = [];
  const pending = () => transfers.filter(({ transfer }) => transfer.status === "pending");

  function happen(walletId: string, event: WalletEvent): WalletState {
    const state = Object.freeze(apply(walletId, states.get(walletId) ?? null, event));
    states.set(walletId, state);
    histories.set(walletId, [...(histories.get(walletId) ?? []), Object.freeze(event)]);
    meet(event.type);
    return state;
  }

  function pendingOutMinor(walletId: string): AmountMinor {
    const own = pending().filter(({ transfer }) => transfer.fromWalletId === walletId);
    return amountMinor(own.reduce((sum, { transfer }) => sum + transfer.amountMinor, 0));
  }

  /** Sum per currency of wallets, world and transit, from the states and events alone. */
  function totals(): Map<string, Sums> {
    const sums = new Map<string, Sums>();
    for (const [walletId, { currency, balanceMinor }] of states) {
      const none = { wallets: 0n, world: 0n, treasury: 0n, revenue: 0n, transit: 0n };
      const sum = sums.get(currency) ?? none;
      sums.set(currency, sum);
      sum.wallets += BigInt(balanceMinor);
      for (const event of histories.get(walletId)!) {
        const minor = "amountMinor" in event ? BigInt(event.amountMinor) : 0n;
        if (event.type === "WalletCredited") {
          sum[event.kind === "TOPUP" ? "treasury" : "world"] -= minor;
        }
        if (event.type === "WalletDebited") {
          sum[event.kind === "SPEND" ? "revenue" : "world"] += minor;
        }
        if (event.type === "TransferSent") sum.transit += minor;
        if (event.type === "TransferReceived") sum.transit -= minor;
        if (event.type === "TransferReturned") sum.transit -= minor;
      }
    }
    return sums;
  }

  return { histories, states, transfers, pending, happen, pendingOutMinor, totals };
}

type Wallets = ReturnType<typeof buildWallets>;

function command(
  { states, transfers, happen, pendingOutMinor }: Wallets,
  model: Model,
  { on, plan, expects }: Extract<Step, { step: "command" }>,
  nowMs: number,
): void {
  const walletId = IDS[on]!;
  const state = states.get(walletId) ?? null;
  const amountPlan = "amount" in plan ? plan.amount : null;
  const page = plan.type === "create" ? undefined : model.pages.get(walletId);
  const places = page?.places ?? ("asset" in plan ? ASSETS[plan.asset]!.decimalPlaces : undefined);
  const amount = amountPlan === null ? null : model.amountOf(amountPlan, walletId, places ?? 2);
  const version = state?.version ?? 0;
  const expectedVersion = { any: null, current: version, another: version + 1 }[expects];
  const isExpected = expects === "any" ? null : expects === "current";

  const want = model.answer(walletId, plan, amount?.minor, isExpected);
  const at = { nowMs, expectedVersion, pendingOutMinor: pendingOutMinor(walletId) };
  const transferId = `t${transfers.length}`;
  const decision = decide(walletId, state, commandOf(plan, amount?.text, transferId), at);
  expect(decision.ok ? null : decision.rejection.code).toBe(want);
  if (!decision.ok) return void meet(decision.rejection.code);

  if (plan.type === "topup" && state === null) meet("made on first use");
  for (const event of decision.events) {
    const { currency, decimalPlaces, version } = happen(walletId, event);
    if (event.type !== "TransferSent") continue;
    const transfer: Transfer = {
      transferId: event.transferId,
      fromWalletId: walletId,
      toWalletId: event.counterpartyId,
      amountMinor: event.amountMinor,
      currency,
      decimalPlaces,
      status: "pending",
      fromVersion: version,
      toVersion: null,
      rejection: null,
      commandId: transferId,
      correlationId: transferId,
      description: null,
      createdAtMs: event.occurredAtMs,
      settledAtMs: null,
      holdId: null,
      isHoldFinal: false,
    };
    transfers.push({ transfer, verdict: null });
  }
  model.carryOut(walletId, plan, amount?.minor ?? 0n);
}

function commandOf(plan: CommandPlan, text: string | undefined, transferId: string): WalletCommand {
  const amount = text ?? "";
  switch (plan.type) {
    case "create": {
      const { currency, decimalPlaces } = ASSETS[plan.asset]!;
      const given = { ownerId: "o", metadata: "{}", initialBalance: text ?? null };
      return { type: "create", currency, decimalPlaces, ...given };
    }
    case "credit":
      return { type: "credit", amount, kind: "CREDIT" };
    case "debit":
      return { type: "debit", amount };
    case "transfer":
      return { type: "transfer", transferId, toWalletId: IDS[plan.to]!, amount };
    case "topup": {
      const of = { ownerId: OWNERS[plan.owner]!, ...ASSETS[plan.asset]! };
      return { type: "credit", amount, kind: "TOPUP", of };
    }
    case "spend": {
      const { currency } = ASSETS[plan.asset]!;
      const of = { ownerId: OWNERS[plan.owner]!, currency };
      return { type: "debit", amount, kind: "SPEND", of };
    }
    case "update":
      return { type: "update", patch: JSON.stringify(plan.patch) };
    default:
      return { type: plan.type };
  }
}

/** Phase 2 at the payee: the verdict, given once. */
function giveVerdict(wallets: Wallets, model: Model, pick: number, nowMs: number): void {
  const open = wallets.pending().filter(({ verdict }) => verdict === null);
  const entry = open[pick % open.length];
  if (entry === undefined) return;
  const { transfer } = entry;
  const { transferId, fromWalletId, toWalletId, amountMinor, currency, decimalPlaces } = transfer;
  const about = { transferId, fromWalletId, amountMinor, currency, decimalPlaces };
  const step = { type: "receive", ...about } as const;
  const payee = wallets.states.get(toWalletId) ?? null;
  const rejection = checkReceive(toWalletId, payee, step, wallets.pendingOutMinor(toWalletId));
  expect(rejection?.code ?? null).toBe(model.welcome(transfer));
  if (rejection !== null) {
    meet(`refused: ${rejection.code}`);
    entry.verdict = { type: "refused", rejection };
    return;
  }
  const { version } = wallets.happen(toWalletId, transferEvent(payee!, step, nowMs));
  entry.verdict = { type: "posted", toVersion: version };
  model.arrive(transfer);
}

/**
 * Phase 3 at the payer: a refused transfer comes back, whatever happened to the payer meanwhile.
 */
function settleOne(wallets: Wallets, model: Model, pick: number, nowMs: number): void {
  const decided = wallets.pending().filter(({ verdict }) => verdict !== null);
  const entry = decided[pick % decided.length];
  if (entry === undefined) return;
  const { transfer, verdict } = entry;
  const { transferId, fromWalletId, toWalletId, amountMinor } = transfer;
  const isReturn = verdict!.type === "refused";
  if (isReturn) {
    const payer = wallets.states.get(fromWalletId)!;
    const filled = payer.balanceMinor + wallets.pendingOutMinor(fromWalletId);
    if (payer.status === "SUSPENDED") meet("returned to a suspended payer");
    if (filled === AMOUNT_MINOR_BOUND - 1) meet("returned to a payer without other room");
    const step = { type: "return", transferId, toWalletId, amountMinor, hold: null } as const;
    wallets.happen(fromWalletId, transferEvent(payer, step, nowMs));
  }
  entry.transfer = settle(transfer, verdict!, nowMs);
  meet(entry.transfer.status);
  model.settled(transfer, isReturn);
}

/** What design section 1 promises of wallets, after each step. */
function check(wallets: Wallets, model: Model): void {
  for (const [walletId, state] of wallets.states) {
    const { balanceMinor, heldMinor, status } = state;
    const pendingOut = wallets.pendingOutMinor(walletId);
    const history = wallets.histories.get(walletId)!;
    must(state.version === history.length - 1, `${walletId}: versions are not contiguous`);
    must(balanceMinor >= 0 && balanceMinor < AMOUNT_MINOR_BOUND, `${walletId}: ${balanceMinor}`);
    must(heldMinor >= 0 && heldMinor <= balanceMinor, `${walletId}: held ${heldMinor}`);
    must(balanceMinor + pendingOut < AMOUNT_MINOR_BOUND, `${walletId}: no room for a return`);
    must(BigInt(balanceMinor) === model.balance(walletId), `${walletId}: not the model's balance`);
    must(BigInt(pendingOut) === model.sentBy(walletId), `${walletId}: not the model's transfers`);
    const page = model.pages.get(walletId)!;
    must(state.ownerId === page.ownerId, `${walletId}: not the model's owner`);
    must(state.currency === page.currency, `${walletId}: not the model's asset`);
    must(status === page.status, `${walletId}: not the model's status`);
    const metadata = JSON.stringify(Object.fromEntries([...page.metadata].toSorted()));
    must(state.metadata === metadata, `${walletId}: not the model's metadata`);
    const isEmpty = balanceMinor === 0 && pendingOut === 0;
    must(status !== "CLOSED" || isEmpty, `${walletId}: closed with money`);
  }
  for (const [currency, sums] of wallets.totals()) {
    const { transit } = sums;
    const total = Object.values(sums).reduce((one, other) => one + other);
    must(total === 0n, `${currency}: the sum of all accounts is ${total}`);
    for (const name of ["world", "treasury", "revenue"] as const) {
      must(
        sums[name] === model.balance(`${name}:${currency}`),
        `${currency}: not the ${name} of the model`,
      );
    }
    must(transit === model.balance(`transit:${currency}`), `${currency}: ${transit} in transit`);
    must(transit >= 0n, `${currency}: ${transit} in transit`);
  }
}

/** Refolds what a journal would give back. */
function checkHistory(walletId: string, state: WalletState, history: readonly WalletEvent[]): void {
  const stored = JSON.parse(JSON.stringify(history)) as WalletEvent[];
  const kinds = stored.map(({ type }) => type);
  const times = stored.map(({ occurredAtMs }) => occurredAtMs);
  expect(kinds.indexOf("WalletCreated")).toBe(0);
  expect(kinds.lastIndexOf("WalletCreated")).toBe(0);
  expect(times).toEqual(times.toSorted((a, b) => a - b));
  let folded: WalletState | null = null;
  for (const event of stored) folded = apply(walletId, folded, event);
  expect(folded).toEqual(state);
  expect([state.createdAtMs, state.updatedAtMs]).toEqual([times[0], times.at(-1)]);
  // Closed is final.
  expect([-1, kinds.length - 1]).toContain(kinds.indexOf("WalletClosed"));
}

/** Walks and checks; returns how many times it has checked. */
function walk(steps: readonly Step[]): number {
  const wallets = buildWallets();
  const model = buildModel();
  let nowMs = 1_000_000;
  let checks = 0;
  for (const step of steps) {
    nowMs += step.elapsedMs;
    if (step.step === "command") command(wallets, model, step, nowMs);
    else if (step.step === "verdict") giveVerdict(wallets, model, step.pick, nowMs);
    else settleOne(wallets, model, step.pick, nowMs);
    check(wallets, model);
    checks += 1;
  }
  // Whatever is still under way can always be brought to its end.
  while (wallets.pending().length > 0) {
    giveVerdict(wallets, model, 0, nowMs);
    settleOne(wallets, model, 0, nowMs);
    check(wallets, model);
    checks += 1;
  }
  for (const sum of wallets.totals().values()) expect(sum.transit).toBe(0n);
  for (const [walletId, state] of wallets.states) {
    checkHistory(walletId, state, wallets.histories.get(walletId)!);
  }
  return checks;
}

/** What walks must meet, or they prove little. */
const LANDMARKS = [
  "WalletCreated",
  "WalletCredited",
  "WalletDebited",
  "TransferSent",
  "TransferReceived",
  "TransferReturned",
  "WalletMetadataChanged",
  "WalletSuspended",
  "WalletActivated",
  "WalletClosed",
  "same_wallet",
  "wallet_already_exists",
  "wallet_not_found",
  "version_conflict",
  "wallet_not_active",
  "invalid_amount",
  "amount_out_of_range",
  "insufficient_funds",
  "owner_mismatch",
  "currency_mismatch",
  "made on first use",
  "wallet_not_empty",
  "metadata_too_large",
  "refused: wallet_not_found",
  "refused: wallet_not_active",
  "refused: currency_mismatch",
  "refused: amount_out_of_range",
  "posted",
  "returned",
  "returned to a suspended payer",
  "returned to a payer without other room",
];

it("on any walk over several wallets every answer is the model's, and no invariant breaks", () => {
  fc.assert(
    fc.property(walks, (steps) => {
      expect(walk(steps)).toBeGreaterThanOrEqual(steps.length);
    }),
    { numRuns: 300 },
  );
  expect(LANDMARKS.filter((landmark) => (met.get(landmark) ?? 0) < 2)).toEqual([]);
});

describe("on any input of their types", () => {
  const text = fc.oneof(
    fc.string(),
    fc.stringMatching(/^-?[0-9]{0,20}\.?[0-9]{0,12}$/),
    fc.constantFrom("", ".", "NaN", "Infinity", "-1", "1e999", "__proto__", "9".repeat(400)),
  );
  const minor = fc.oneof(
    fc.integer({ min: 0, max: AMOUNT_MINOR_BOUND - 1 }),
    fc.constantFrom(0, 1, AMOUNT_MINOR_BOUND - 1),
  );
  const decimalPlaces = fc.integer({ min: 0, max: 9 });
  const currency = fc.constantFrom("USD", "GOLD");
  const timeMs = fc.integer({ min: 0, max: 10 ** 13 });
  const version = fc.integer({ min: 0, max: 3 });
  const metadata = fc
    .dictionary(text, fc.jsonValue())
    .map((given) => canonicalMetadata(given))
    .filter((given) => given.ok)
    .map((given) => given.text);
  /** Any wallet and what it has in transit: held <= balance, and room for what may come back. */
  const standing = fc
    .record({
      parts: fc.tuple(minor, minor, minor),
      status: fc.constantFrom("ACTIVE", "ACTIVE", "ACTIVE", "SUSPENDED", "CLOSED"),
      ownerId: fc.option(text),
      currency,
      decimalPlaces,
      version,
      metadata,
      times: fc.tuple(timeMs, timeMs),
    })
    .map(({ parts, times, ...rest }) => {
      // Three cuts of the range: held, not held, in transit.
      const [held, balance, filled] = parts.toSorted((a, b) => a - b) as [number, number, number];
      const [createdAtMs, updatedAtMs] = times.toSorted((a, b) => a - b) as [number, number];
      const isClosed = rest.status === "CLOSED";
      const state: WalletState = Object.freeze({
        ...rest,
        walletId: "a",
        balanceMinor: amountMinor(isClosed ? 0 : balance),
        heldMinor: amountMinor(isClosed ? 0 : held),
        createdAtMs,
        updatedAtMs,
      });
      return { state, pendingOutMinor: amountMinor(isClosed ? 0 : filled - balance) };
    });
  const anyCommand = (amount: fc.Arbitrary<string>): fc.Arbitrary<WalletCommand> =>
    fc.oneof(
      fc.record({
        type: fc.constant("create" as const),
        ownerId: fc.option(text),
        currency: text,
        decimalPlaces,
        initialBalance: fc.option(amount),
        metadata: text,
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
        of: fc.record({ ownerId: text, currency, decimalPlaces }),
      }),
      fc.record({
        type: fc.constant("debit" as const),
        amount,
        kind: fc.constant("SPEND" as const),
        of: fc.record({ ownerId: text, currency }),
      }),
      fc.record({ type: fc.constant("debit" as const), amount }),
      fc.record({
        type: fc.constant("transfer" as const),
        transferId: text,
        toWalletId: fc.oneof(fc.constant("a"), text),
        amount,
      }),
      fc.record({ type: fc.constant("update" as const), patch: metadata }),
      fc.record({ type: fc.constantFrom("suspend", "activate", "close") }),
    );
  const circumstances = (pendingOutMinor: AmountMinor): fc.Arbitrary<Circumstances> =>
    fc.record({
      nowMs: timeMs,
      expectedVersion: fc.option(version, { freq: 2 }),
      pendingOutMinor: fc.constant(pendingOutMinor),
    });
  const situation = fc.option(standing, { freq: 8 }).chain((given) =>
    circumstances(given?.pendingOutMinor ?? amountMinor(0)).map((at) => ({
      state: given?.state ?? null,
      at,
    })),
  );

  it("decide answers with events or with a rejection that has a sentence, and never throws", () => {
    fc.assert(
      fc.property(situation, anyCommand(text), ({ state, at }, body) => {
        const decision = decide("a", state, body, at);
        if (decision.ok) expect(decision.events.length).toBeGreaterThan(0);
        else expect(sentenceOf(decision.rejection)).not.toMatch(/undefined|\[object/);
      }),
      { numRuns: 2_000 },
    );
  });

  it("what decide says yes to, apply takes, when the amounts are canonical", () => {
    const wellFormed = situation.chain((given) => {
      const { balanceMinor = 0, heldMinor = 0, decimalPlaces = 2 } = given.state ?? {};
      // Next to what is available, what is there, and what there is room for.
      const edges = [balanceMinor - heldMinor, balanceMinor, AMOUNT_MINOR_BOUND - balanceMinor];
      const near = fc.tuple(fc.constantFrom(...edges), fc.constantFrom(-1, 0, 1));
      const amount = fc
        .oneof(
          minor,
          near.map(([edge, delta]) => edge + delta),
          near.map(([edge, delta]) => edge + delta - given.at.pendingOutMinor),
        )
        .map((minor) => canonicalAmount(formatAmount(Math.max(minor, 1), decimalPlaces)))
        .map((answer) => (answer.ok ? answer.amount : "1"));
      return fc.tuple(fc.constant(given), anyCommand(amount));
    });
    fc.assert(
      fc.property(wellFormed, ([{ state, at }, body]) => {
        const decision = decide("a", state, body, at);
        if (!decision.ok) return;
        let after = state;
        for (const event of decision.events) {
          const before = after;
          after = apply("a", before, event);
          expect(after.version).toBe(before === null ? 0 : before.version + 1);
          expect(after.updatedAtMs).toBeGreaterThanOrEqual(before?.updatedAtMs ?? 0);
          if ("amountMinor" in event) {
            expect(event.amountMinor).toBeGreaterThan(0);
            const delta = after.balanceMinor - before!.balanceMinor;
            expect(Math.abs(delta)).toBe(event.amountMinor);
          }
        }
      }),
      { numRuns: 2_000 },
    );
  });

  it("checkReceive answers and never throws, and what it takes fits, together with all that may come back", () => {
    const step = fc.record({
      type: fc.constant("receive" as const),
      transferId: text,
      fromWalletId: text,
      amountMinor: minor.map((minor) => amountMinor(Math.max(minor, 1))),
      currency,
      decimalPlaces: fc.constantFrom(0, 2),
    });
    fc.assert(
      fc.property(situation, step, ({ state, at }, step) => {
        const rejection = checkReceive("a", state, step, at.pendingOutMinor);
        if (rejection !== null) {
          expect(sentenceOf(rejection)).not.toMatch(/undefined|\[object/);
          return;
        }
        const received = apply("a", state, transferEvent(state!, step, at.nowMs));
        const amount = at.pendingOutMinor;
        if (amount === 0) return;
        const back = {
          type: "return",
          transferId: "t",
          toWalletId: "b",
          amountMinor: amount,
          hold: null,
        } as const;
        const returned = apply("a", received, transferEvent(received, back, at.nowMs));
        expect(returned.balanceMinor).toBe(state!.balanceMinor + step.amountMinor + amount);
      }),
      { numRuns: 2_000 },
    );
  });
});
