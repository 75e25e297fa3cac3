/**
 * Every route that writes, as a table: for tests of what holds of each of them, such as its keys,
 * its precondition and its refusals.
 */
import type { Stack } from "./stack.ts";

/**
 * The wallets that a write is about: `from` has money, `to` can take it, `empty` has none and may
 * be closed.
 */
export interface Stake {
  readonly from: string;
  readonly to: string;
  readonly empty: string;
}

export async function openStake(stack: Stack): Promise<Stake> {
  const [from, to, empty] = await Promise.all([
    stack.open({ initialBalance: 1_000 }),
    stack.open(),
    stack.open(),
  ]);
  return { from: from.id, to: to.id, empty: empty.id };
}

export interface WriteRoute {
  readonly name: string;
  readonly method: "POST" | "PATCH";
  path(stake: Stake): string;
  /** The wallet that decides. */
  target(stake: Stake): string;
  /** A body that fits. */
  body(stake: Stake): Record<string, unknown>;
  /** Another input for the same key. */
  other(stake: Stake): Record<string, unknown>;
  /** Its field for money, if it has one. */
  readonly amount: "amount" | "initialBalance" | null;
  /** Its fields for ids. */
  readonly ids: readonly string[];
  /**
   * Fields without which it cannot be; they are no part of `everyCommand`, or are more than that
   * here.
   */
  readonly required: readonly string[];
  readonly status: 200 | 201;
}

const amountBody = () => ({ amount: 10, description: "ten" });
const otherAmount = () => ({ amount: 11, description: "ten" });

/** A route of the wallet `from` with an amount. */
const amountRoute = (name: string): WriteRoute => ({
  name,
  method: "POST",
  path: ({ from }) => `/wallets/${from}/${name}`,
  target: ({ from }) => from,
  body: amountBody,
  other: otherAmount,
  amount: "amount",
  ids: [],
  required: ["amount"],
  status: 200,
});
const statusRoute = (name: string): WriteRoute => ({
  ...amountRoute(name),
  path: ({ empty }) => `/wallets/${empty}/${name}`,
  target: ({ empty }) => empty,
  body: () => ({ description: "a reason" }),
  other: () => ({ description: "another reason" }),
  amount: null,
  required: [],
});

/** Every route that writes. */
export const WRITES: readonly WriteRoute[] = [
  {
    ...amountRoute("create"),
    path: () => "/wallets",
    target: ({ to }) => `${to}-new`,
    body: ({ to }) => ({ walletId: `${to}-new`, initialBalance: 10, metadata: { b: 1, a: [2] } }),
    other: ({ to }) => ({ walletId: `${to}-new`, initialBalance: 11, metadata: { b: 1, a: [2] } }),
    amount: "initialBalance",
    ids: ["walletId", "ownerId", "currency"],
    required: [],
    status: 201,
  },
  amountRoute("credit"),
  amountRoute("debit"),
  {
    ...amountRoute("fund"),
    path: () => "/wallets/fund",
    body: ({ from }) => ({ wallet_id: from, ...amountBody() }),
    other: ({ from }) => ({ wallet_id: from, ...otherAmount() }),
    ids: ["wallet_id"],
    required: ["wallet_id", "amount"],
  },
  {
    ...amountRoute("transfer"),
    body: ({ to }) => ({ toWalletId: to, ...amountBody() }),
    other: ({ to }) => ({ toWalletId: to, ...otherAmount() }),
    ids: ["toWalletId"],
    required: ["toWalletId", "amount"],
  },
  {
    ...amountRoute("send"),
    path: () => "/wallets/transfer",
    body: ({ from, to }) => ({ senderWalletId: from, receiverWalletId: to, ...amountBody() }),
    other: ({ from, to }) => ({ senderWalletId: from, receiverWalletId: to, ...otherAmount() }),
    ids: ["senderWalletId", "receiverWalletId"],
    required: ["senderWalletId", "receiverWalletId", "amount"],
  },
  {
    ...amountRoute("update"),
    method: "PATCH",
    path: ({ from }) => `/wallets/${from}`,
    body: () => ({ metadata: { b: { c: 1 }, a: null }, description: "ten" }),
    other: () => ({ metadata: { b: { c: 1 } }, description: "ten" }),
    amount: null,
    required: ["metadata"],
  },
  statusRoute("suspend"),
  statusRoute("activate"),
  statusRoute("close"),
];
