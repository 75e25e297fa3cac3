/** The subject of an event, for ids with every character that an id may have. */
import { expect, it } from "vitest";
import { eventSubject } from "./event-stream.ts";

it.each([
  ["alice", "wallets.events.alice.WalletCredited"],
  ["a.b..c", "wallets.events.a%2Eb%2E%2Ec.WalletCredited"],
  ["user@shop:GOLD_coins-1", "wallets.events.user@shop:GOLD_coins-1.WalletCredited"],
])("of %s has four tokens, and the id can be read from it", (walletId, subject) => {
  expect(eventSubject(walletId, "WalletCredited")).toBe(subject);
  const tokens = subject.split(".");
  expect(tokens).toHaveLength(4);
  expect(decodeURIComponent(tokens[2]!)).toBe(walletId);
});
