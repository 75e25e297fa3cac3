/**
 * Turns outcomes into what callers get, the same for HTTP and NATS. An answer is a function of a
 * wallet and a version: a fresh outcome brings the wallet along, a replayed one is read back at the
 * version that its command made, so a repeat gets the same body without any stored body. When that
 * read fails, the outcome is known to have happened but cannot be told: `outcome_unknown`.
 */
import { toDecimal } from "../src/core/amount.ts";
import { holdBody } from "../src/event-body.ts";
import type { Command, Outcome } from "../src/core/protocol.ts";
import { ReadUnavailable, type ReadModel } from "../src/core/read-model.ts";
import type { WalletState } from "../src/core/wallet.ts";
import type { RequestType } from "./command-intake.ts";
import { faultError, rejectionError, type ApiError } from "./errors.ts";
import type { HoldBody, WalletBody } from "./schemas.ts";

/**
 * A transfer as both wallets stand right after it; the payee is null while the transfer is pending.
 */
export interface TransferOutcome {
  /** Null: a dry run, which makes no transfer. */
  readonly transferId: string | null;
  readonly status: "posted" | "pending";
  readonly from: WalletBody;
  readonly to: WalletBody | null;
  /** The hold that it has captured, at the payer's moment; null for a transfer of another kind. */
  readonly hold: HoldBody | null;
}

export type Answer = { readonly isReplay: boolean } & (
  | { readonly type: "wallet"; readonly wallet: WalletBody }
  /** The hold that the command was about, and its wallet, right after it. */
  | { readonly type: "hold"; readonly hold: HoldBody; readonly wallet: WalletBody }
  | { readonly type: "transfer"; readonly transfer: TransferOutcome }
  | { readonly type: "error"; readonly error: ApiError }
);

/** An answer that is a yes. */
export type Yes = Exclude<Answer, { type: "error" }>;

export type GiveAnswer = (outcome: Outcome, command: Command) => Answer | Promise<Answer>;

export interface AnswersOptions {
  readonly readModel: Pick<ReadModel, "walletAt" | "holdAt" | "transfer">;
  readonly log: { error(details: object, message: string): void };
}

export function buildAnswers({ readModel, log }: AnswersOptions): GiveAnswer {
  async function stateAt(walletId: string, version: number): Promise<WalletState> {
    const wallet = await readModel.walletAt(walletId, version);
    if (wallet === null) throw new Error(`wallet ${walletId} has no version ${version}`);
    return wallet;
  }

  async function walletAt(walletId: string, version: number): Promise<WalletBody> {
    return walletBody(await stateAt(walletId, version));
  }

  /** The wallet, and the hold if the version was about one. */
  async function withHoldAt(
    walletId: string,
    version: number,
    isAboutHold: boolean,
  ): Promise<{ wallet: WalletBody; hold: HoldBody | null }> {
    const [wallet, hold] = await Promise.all([
      stateAt(walletId, version),
      isAboutHold ? readModel.holdAt(walletId, version) : null,
    ]);
    const { decimalPlaces } = wallet;
    return { wallet: walletBody(wallet), hold: hold && holdBody(hold, decimalPlaces) };
  }

  /** The payee was told again and did not come along: it is what its history says. */
  async function transferred(
    { transfer: answer, replayed: isReplay }: Extract<Outcome, { type: "transferred" }>,
    isDryRun: boolean,
  ): Promise<Answer> {
    const { status, from, to, toWalletId, toVersion, hold } = answer;
    const transferId = isDryRun ? null : answer.transferId;
    const held = hold && holdBody(hold, from.decimalPlaces);
    const payee =
      to !== null
        ? walletBody(to)
        : toVersion === null
          ? null
          : await walletAt(toWalletId, toVersion);
    const transfer = { transferId, status, from: walletBody(from), to: payee, hold: held };
    return { type: "transfer", transfer, isReplay };
  }

  async function replayedTransfer(transferId: string): Promise<Answer> {
    const transfer = await readModel.transfer(transferId);
    if (transfer === null) throw new Error(`transfer ${transferId} has an event and no record`);
    const { fromWalletId, fromVersion, toWalletId, toVersion, status, rejection } = transfer;
    if (status === "returned") {
      return { type: "error", error: rejectionError(rejection!), isReplay: true };
    }
    const [{ wallet: from, hold }, to] = await Promise.all([
      withHoldAt(fromWalletId, fromVersion, transfer.holdId !== null),
      toVersion === null ? null : walletAt(toWalletId, toVersion),
    ]);
    return { type: "transfer", transfer: { transferId, status, from, to, hold }, isReplay: true };
  }

  async function replayed(
    outcome: Extract<Outcome, { type: "replayed" }>,
    isAboutHold: boolean,
  ): Promise<Answer> {
    const { walletId, version, transferId } = outcome;
    if (transferId !== null) return replayedTransfer(transferId);
    const { wallet, hold } = await withHoldAt(walletId, version, isAboutHold);
    return hold === null
      ? { type: "wallet", wallet, isReplay: true }
      : { type: "hold", hold, wallet, isReplay: true };
  }

  function readBack(answer: Promise<Answer>, command: Command): Promise<Answer> {
    const { commandId, correlationId } = command;
    return answer.catch((error: unknown): Answer => {
      if (!(error instanceof ReadUnavailable)) {
        const ids = { commandId, correlationId };
        log.error({ err: error, ...ids }, "a command's answer could not be read back");
      }
      return { type: "error", error: faultError("unknown", commandId), isReplay: false };
    });
  }

  return (outcome, command) => {
    const { body, dryRun } = command;
    switch (outcome.type) {
      case "done": {
        const { wallet: state, hold } = outcome;
        const wallet = walletBody(state);
        if (hold === undefined) return { type: "wallet", wallet, isReplay: false };
        const held = holdBody(hold, state.decimalPlaces);
        return { type: "hold", hold: held, wallet, isReplay: false };
      }
      case "transferred":
        return readBack(transferred(outcome, dryRun === true), command);
      case "replayed":
        return readBack(replayed(outcome, ABOUT_HOLDS.has(body.type)), command);
      case "rejected": {
        const error = rejectionError(outcome.rejection);
        return { type: "error", error, isReplay: outcome.replayed };
      }
      case "fault": {
        // Whatever became of a dry run, nothing happened.
        const fault =
          dryRun === true && outcome.fault === "unknown" ? "unavailable" : outcome.fault;
        return { type: "error", error: faultError(fault, command.commandId), isReplay: false };
      }
      default:
        return outcome satisfies never;
    }
  };
}

const ABOUT_HOLDS: ReadonlySet<Command["body"]["type"]> = new Set(["hold", "capture", "release"]);

/** The body of a yes to a command of this type, the same on every way in. */
export function answerBody(type: RequestType, answer: Yes): object {
  switch (answer.type) {
    case "wallet":
      return answer.wallet;
    case "hold":
      return type === "hold" ? answer.hold : captureBody(answer);
    case "transfer":
      return type === "capture" ? captureBody(answer) : transferData(answer.transfer);
    default:
      return answer satisfies never;
  }
}

/** The answer to a transfer; the payee is left out while the transfer is pending. */
export function transferData({ transferId, status, from, to }: TransferOutcome): object {
  return { transferId, status, fromWallet: from, ...(to !== null && { toWallet: to }) };
}

/** The answer to a capture or a release; the payee is left out while its transfer is pending. */
export function captureBody(answer: Extract<Answer, { type: "hold" | "transfer" }>): object {
  if (answer.type === "hold") return { hold: answer.hold, wallet: answer.wallet };
  const { hold, from, transferId, status, to } = answer.transfer;
  const transfer = { transferId, status, ...(to !== null && { toWallet: to }) };
  return { hold, wallet: from, transfer };
}

const NO_METADATA: { readonly [key: string]: unknown } = Object.freeze({});

/** A wallet as callers see it: decimals, ISO times, metadata as an object. */
export function walletBody(wallet: WalletState): WalletBody {
  const { balanceMinor, heldMinor, decimalPlaces, metadata } = wallet;
  return {
    id: wallet.walletId,
    ownerId: wallet.ownerId,
    currency: wallet.currency,
    balance: toDecimal(balanceMinor, decimalPlaces),
    held: toDecimal(heldMinor, decimalPlaces),
    available: toDecimal(balanceMinor - heldMinor, decimalPlaces),
    status: wallet.status,
    version: wallet.version,
    metadata: metadata === "{}" ? NO_METADATA : (JSON.parse(metadata) as WalletBody["metadata"]),
    createdAt: isoTime(wallet.createdAtMs),
    updatedAt: isoTime(wallet.updatedAtMs),
  };
}

const DAY_MS = 86_400_000;
/** `2026-01-01T` of days that were asked for, each at its number modulo so many. */
const dates = Array.from({ length: 64 }, () => ({ day: Number.NaN, text: "" }));
const padded = (length: number, digits: number): readonly string[] =>
  Array.from({ length }, (_, value) => String(value).padStart(digits, "0"));
const MINUTES = padded(24, 2).flatMap((hour) =>
  padded(60, 2).map((minute) => `${hour}:${minute}:`),
);
const SECONDS = padded(60, 2).map((second) => `${second}.`);
const MILLISECONDS = padded(1_000, 3).map((ms) => `${ms}Z`);

/**
 * ISO 8601 in UTC with milliseconds. Each wallet in an answer has two times, often of two days:
 * dates that were made are kept, and the rest is looked up.
 */
export function isoTime(atMs: number): string {
  const day = Math.floor(atMs / DAY_MS);
  const date = dates[Math.abs(day) % dates.length]!;
  if (date.day !== day) {
    const text = new Date(atMs).toISOString();
    date.day = day;
    date.text = text.slice(0, text.indexOf("T") + 1);
  }
  const inDayMs = Math.floor(atMs - day * DAY_MS);
  const minute = MINUTES[Math.floor(inDayMs / 60_000)]!;
  const second = SECONDS[Math.floor(inDayMs / 1_000) % 60]!;
  return date.text + minute + second + MILLISECONDS[inDayMs % 1_000]!;
}
