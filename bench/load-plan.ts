/**
 * The operations of one `bench:load` run, drawn from a seed before the first is sent, and what the
 * wallets must hold after it. The plan is known in advance so that the starting balance can be
 * chosen such that no debit or transfer can fail, in whatever order the workers get to them.
 * Operations are columns of typed arrays: ten million of them take 130 MB. Amounts are minor units
 * (cents).
 */
export type OperationType = "credit" | "debit" | "transfer";

const TYPES: readonly OperationType[] = ["credit", "debit", "transfer"];
const AMOUNT_MINOR_MAX = 500;
const INITIAL_BALANCE_MINOR_MIN = 100_000;

export interface Operation {
  type: OperationType;
  /** Index of the wallet that is credited or debited, or pays. */
  wallet: number;
  /**
   * Index of the payee; another wallet than `wallet`. Meaningless unless the type is `transfer`.
   */
  payee: number;
  amountMinor: number;
}

export interface LoadPlan {
  count: number;
  /** What each wallet starts with. */
  initialBalanceMinor: number;
  operation: (index: number) => Operation;
}

/**
 * A third each of credits, debits and transfers at random. The same arguments give the same plan.
 */
export function planLoad(wallets: number, count: number, seed: number): LoadPlan {
  const random = mulberry32(seed);
  const below = (bound: number) => Math.floor(random() * bound);
  const types = new Uint8Array(count);
  const from = new Uint32Array(count);
  const to = new Uint32Array(count);
  const amounts = new Uint16Array(count);
  const outgoingMinor = new Float64Array(wallets);
  for (let i = 0; i < count; i += 1) {
    const type = below(TYPES.length);
    const wallet = below(wallets);
    const amountMinor = 1 + below(AMOUNT_MINOR_MAX);
    types[i] = type;
    from[i] = wallet;
    to[i] = (wallet + 1 + below(wallets - 1)) % wallets;
    amounts[i] = amountMinor;
    if (TYPES[type] !== "credit")
      outgoingMinor[wallet] = (outgoingMinor[wallet] ?? 0) + amountMinor;
  }
  let needMinor = INITIAL_BALANCE_MINOR_MIN;
  for (const sumMinor of outgoingMinor) needMinor = Math.max(needMinor, sumMinor);
  return {
    count,
    initialBalanceMinor: Math.ceil(needMinor / 100) * 100,
    operation: (index) => ({
      type: TYPES[types[index] ?? 0] ?? "credit",
      wallet: from[index] ?? 0,
      payee: to[index] ?? 0,
      amountMinor: amounts[index] ?? 0,
    }),
  };
}

/**
 * Tommy Ettinger's mulberry32: small, seeded and even enough to pick wallets. Gives values in [0,
 * 1).
 */
function mulberry32(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/**
 * What each wallet must hold, kept beside the run from the outside: only what was acknowledged
 * changes it.
 */
export interface Tally {
  apply: (operation: Operation) => void;
  /**
   * Differences between what is there and what must be there; empty when all is well.
   * `balancesMinor` by wallet index.
   */
  differences: (balancesMinor: readonly number[]) => Difference[];
  expectedSumMinor: () => number;
}

export interface Difference {
  wallet: number;
  expectedMinor: number;
  foundMinor: number;
}

export function startTally(wallets: number, initialBalanceMinor: number): Tally {
  const expected = new Float64Array(wallets).fill(initialBalanceMinor);
  const add = (wallet: number, amountMinor: number) => {
    expected[wallet] = (expected[wallet] ?? 0) + amountMinor;
  };
  return {
    apply({ type, wallet, payee, amountMinor }) {
      add(wallet, type === "credit" ? amountMinor : -amountMinor);
      if (type === "transfer") add(payee, amountMinor);
    },
    differences: (balancesMinor) =>
      [...expected].flatMap((expectedMinor, wallet) => {
        const foundMinor = balancesMinor[wallet] ?? Number.NaN;
        return foundMinor === expectedMinor ? [] : [{ wallet, expectedMinor, foundMinor }];
      }),
    expectedSumMinor: () => expected.reduce((sum, one) => sum + one, 0),
  };
}
