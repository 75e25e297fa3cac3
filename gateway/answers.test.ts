/** What answers are made of, and those that are read back; whole answers are seen through HTTP. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";

import type { Outcome, TransferAnswer } from "../src/core/protocol.ts";
import { ReadUnavailable } from "../src/core/read-model.ts";
import type { WalletState } from "../src/core/wallet.ts";
import { capture, credit, transfer } from "../test/stage/staged-commands.ts";
import { hold, notFound, POSTED, wallet } from "../test/stage/wallet-fixtures.ts";
import {
  buildAnswers,
  captureBody,
  isoTime,
  transferData,
  type AnswersOptions,
} from "./answers.ts";

it("a time is told as a Date tells it", () => {
  const property = fc.property(fc.date({ noInvalidDate: true }), (date) => {
    expect(isoTime(date.getTime())).toBe(date.toISOString());
  });
  fc.assert(property);
});

it("days that are kept in the same place do not get in each other's way", () => {
  const someDay = fc.integer({ min: 0, max: 4e9 });
  const laterDays = fc.integer({ min: -3, max: 3 });
  const property = fc.property(someDay, laterDays, (atSeconds, turns) => {
    const times = [atSeconds, atSeconds + turns * 64 * 86_400, atSeconds].map((at) => at * 1_000);
    expect(times.map(isoTime)).toEqual(times.map((atMs) => new Date(atMs).toISOString()));
  });
  fc.assert(property);
});

describe("an answer that is read back", () => {
  const payer = wallet({ version: 4, balance: 6_00 });
  const payee: WalletState = { ...wallet({ version: 9, balance: 70_00 }), walletId: "w2" };
  const sent: TransferAnswer = {
    transferId: "t1",
    status: "posted",
    from: payer,
    to: null,
    toWalletId: "w2",
    toVersion: 9,
    hold: null,
  };
  const replayed: Outcome = { type: "replayed", walletId: "w1", version: 4, transferId: null };

  /** A gateway's answers over a database that has just these two versions. */
  function answersOver(known: Partial<AnswersOptions["readModel"]> = {}) {
    const lines: object[] = [];
    const versions = new Map([payer, payee].map((it) => [`${it.walletId}:${it.version}`, it]));
    const readModel: AnswersOptions["readModel"] = {
      walletAt: async (walletId, version) => versions.get(`${walletId}:${version}`) ?? null,
      holdAt: async (walletId, version) => (`${walletId}:${version}` === "w1:4" ? hold() : null),
      transfer: async () => POSTED,
      ...known,
    };
    const answer = buildAnswers({ readModel, log: { error: (line) => void lines.push(line) } });
    return { answer, lines };
  }

  it("has the payee as its history says, when the payee was told again and did not come along", async () => {
    const { answer } = answersOver();
    const outcome: Outcome = { type: "transferred", transfer: sent, replayed: true };
    const given = await answer(outcome, transfer("w1", "w2", "4"));
    expect(given).toMatchObject({
      type: "transfer",
      isReplay: true,
      transfer: { from: { id: "w1", balance: 6 }, to: { id: "w2", version: 9, balance: 70 } },
    });
  });

  it("of a dry run has its hold and both wallets, and no transfer", async () => {
    const { answer } = answersOver({ walletAt: async () => null });
    const outcome: Outcome = {
      type: "transferred",
      transfer: { ...sent, to: payee, hold: hold() },
      replayed: false,
    };
    expect(await answer(outcome, { ...capture(hold(), "4"), dryRun: true })).toMatchObject({
      type: "transfer",
      transfer: {
        transferId: null,
        from: { id: "w1" },
        to: { id: "w2", version: 9 },
        hold: { id: "h1", captured: 4 },
      },
      isReplay: false,
    });
  });

  it("leaves the payee out only while the transfer is pending", async () => {
    const { answer } = answersOver({
      transfer: async () => ({ ...POSTED, status: "pending", toVersion: null, holdId: "h1" }),
    });
    const given = await answer({ ...replayed, transferId: "t1" }, capture(hold(), "4"));
    if (given.type !== "transfer") throw new Error(given.type);
    const { from, hold: held } = given.transfer;
    const pending = { transferId: "t1", status: "pending" };
    expect(transferData(given.transfer)).toEqual({ ...pending, fromWallet: from });
    expect(captureBody(given)).toEqual({ hold: held, wallet: from, transfer: pending });
    expect([from.version, held]).toMatchObject([4, { id: "h1", captured: 4, remaining: 1 }]);
  });

  it("of a command that was not about a hold tells of none, whatever the version was about", async () => {
    const { answer } = answersOver();
    expect(await answer(replayed, credit("w1", "1"))).toMatchObject({ type: "wallet" });
    expect(await answer(replayed, capture(hold(), "4"))).toMatchObject({
      type: "hold",
      hold: { id: "h1" },
      wallet: { version: 4 },
      isReplay: true,
    });
    const given = await answer({ ...replayed, transferId: "t1" }, transfer("w1", "w2", "4"));
    expect(given).toMatchObject({ type: "transfer", transfer: { hold: null, to: { id: "w2" } } });
  });

  it("is the refusal again, of a transfer that came back", async () => {
    const { answer } = answersOver({
      transfer: async () => ({ ...POSTED, status: "returned", rejection: notFound }),
    });
    const given = await answer({ ...replayed, transferId: "t1" }, transfer("w1", "w2", "4"));
    expect(given).toMatchObject({
      type: "error",
      error: { code: "wallet_not_found" },
      isReplay: true,
    });
  });

  it.each<[what: string, known: Partial<AnswersOptions["readModel"]>, lines: number]>([
    ["the database is away", { walletAt: async () => Promise.reject(away) }, 0],
    ["a version is missing", { walletAt: async () => null }, 1],
    ["a transfer has no record", { transfer: async () => null }, 1],
  ])("is unknown, and names its key, when %s", async (_, known, told) => {
    const { answer, lines } = answersOver(known);
    const command = transfer("w1", "w2", "4", { commandId: "key-1" });
    expect(await answer({ ...replayed, transferId: "t1" }, command)).toMatchObject({
      type: "error",
      error: { code: "outcome_unknown", details: { idempotencyKey: "key-1" } },
      isReplay: false,
    });
    expect(lines).toHaveLength(told);
  });
});

const away = new ReadUnavailable("unavailable", "the database is away");

it.each([
  [true, "unknown", "unavailable"],
  [true, "overloaded", "overloaded"],
  [false, "unknown", "outcome_unknown"],
  [false, "unavailable", "unavailable"],
] as const)("a dry run (%s) that met %s is told as %s", async (dryRun, fault, code) => {
  const readModel = {} as AnswersOptions["readModel"];
  const answer = buildAnswers({ readModel, log: { error: () => undefined } });
  const command = credit("w1", "1", dryRun ? { dryRun } : {});
  expect(await answer({ type: "fault", fault }, command)).toMatchObject({ error: { code } });
});
