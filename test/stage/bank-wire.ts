/**
 * Bank commands on the wire: what a command is as a request over HTTP, over NATS and in a batch,
 * and what an answer of each means for money. It hides paths, subjects and bodies; the ways
 * themselves are with whoever has the connection.
 */
import type { BankAnswer, BookedHold, CheckedCommand } from "./bank-check.ts";

export interface BankCommand extends CheckedCommand {
  readonly kind: Exclude<CheckedCommand["kind"], "create" | "update">;
  /** Of a capture or a release. */
  readonly holdId?: string;
  /** Of a hold that ends by itself. */
  readonly expiresInSeconds?: number;
  /** A capture that lets go of the rest. */
  readonly isFinal?: boolean;
  /** Nothing is to happen. */
  readonly isDry?: boolean;
}

/** The user's asset is a wallet of this name. */
export const GAME_ASSET = "USD";

/** Rejections that a bank can meet; any other one means that something else is wrong. */
export const REJECTIONS: ReadonlySet<string> = new Set([
  "insufficient_funds",
  "version_conflict",
  "wallet_not_found",
  "wallet_not_active",
  "wallet_not_empty",
  "hold_not_active",
  "capture_exceeds_hold",
]);

export function isGame({ kind }: Pick<BankCommand, "kind">): boolean {
  return kind === "topup" || kind === "spend";
}

/** Path and body over HTTP. */
export function httpRequest(command: BankCommand): { path: string; body: object } {
  const { kind, walletId, holdId, key } = command;
  const { amount, ...rest } = fieldsOf(command);
  switch (kind) {
    case "open":
      return { path: "/wallets", body: { walletId, initialBalance: amount, ...rest } };
    case "hold":
      return { path: `/wallets/${walletId}/holds`, body: fieldsOf(command) };
    case "capture":
    case "release":
      return { path: `/wallets/${walletId}/holds/${holdId}/${kind}`, body: fieldsOf(command) };
    case "topup":
    case "spend": {
      const user = walletId.slice(0, -(GAME_ASSET.length + 1));
      const body = { user_id: user, asset_code: GAME_ASSET, amount, reference_id: key };
      const dry = command.isDry === true ? { dry_run: true } : {};
      return { path: `/api/v1/wallets/${kind}`, body: { ...body, ...dry } };
    }
    default:
      return { path: `/wallets/${walletId}/${kind}`, body: fieldsOf(command) };
  }
}

/** The endpoint and the body over NATS; in a batch, the endpoint is the type. */
export function natsRequest(command: BankCommand): { endpoint: string; body: object } {
  const { kind, walletId, holdId } = command;
  const { amount, ...rest } = fieldsOf(command);
  if (isGame(command)) throw new Error(`${kind} goes over HTTP`);
  if (kind === "open") {
    return { endpoint: "create", body: { walletId, initialBalance: amount, ...rest } };
  }
  const named = holdId === undefined ? { walletId } : { walletId, holdId };
  return { endpoint: kind, body: { ...named, ...fieldsOf(command) } };
}

function fieldsOf(command: BankCommand): { amount?: number } {
  const { amountMinor, isAmountOpen, toWalletId, expectedVersion } = command;
  const { expiresInSeconds, isFinal, isDry } = command;
  return {
    ...(amountMinor === 0 || isAmountOpen === true ? {} : { amount: amountMinor / 100 }),
    ...(toWalletId === null ? {} : { toWalletId }),
    ...(expectedVersion === null ? {} : { expectedVersion }),
    ...(expiresInSeconds === undefined ? {} : { expiresInSeconds }),
    ...(isFinal === true ? { final: true } : {}),
    ...(isDry === true ? { dryRun: true } : {}),
  };
}

// --- Answers -------------------------------------------------------------------------------------

interface WalletText {
  readonly version: number;
  readonly balance: number;
}

interface HoldText {
  readonly id: string;
  readonly amount: number;
  readonly captured: number;
  readonly status: string;
}

interface TransferText {
  readonly status: string;
  readonly toWallet?: WalletText;
}

/** What a route can say yes with. */
type Data = Partial<WalletText & HoldText & TransferText> & {
  readonly fromWallet?: WalletText;
  readonly wallet?: WalletText;
  readonly hold?: HoldText;
  readonly transfer?: TransferText;
  readonly transaction_id?: string | null;
};

export interface ErrorText {
  readonly code: string;
  readonly details?: { readonly available?: number };
}

const minor = (decimal: number): number => Math.round(decimal * 100);

function toldHold({ id, amount, captured, status }: HoldText): BookedHold {
  return { holdId: id, amountMinor: minor(amount), capturedMinor: minor(captured), status };
}

/** A yes. `text` is its data as JSON, the same bytes whichever way it takes. */
export function readYes({ kind }: BankCommand, text: string, isReplay: boolean): BankAnswer {
  const data = JSON.parse(text) as Data;
  const known = { type: "acknowledged", isReplay, text } as const;
  const none = { version: null, balanceMinor: null, toVersion: null, isPending: false };
  if (kind === "hold") return { ...known, ...none, hold: toldHold(data as HoldText) };
  if (kind === "topup" || kind === "spend") {
    const version = data.transaction_id?.split(":").at(-1);
    const balanceMinor = minor(data.balance!);
    return {
      ...known,
      ...none,
      version: version === undefined ? null : Number(version),
      balanceMinor,
    };
  }
  const { version, balance } = data.fromWallet ?? data.wallet ?? (data as WalletText);
  const transfer = data.fromWallet === undefined ? data.transfer : (data as TransferText);
  return {
    ...known,
    version,
    balanceMinor: minor(balance),
    toVersion: transfer?.toWallet?.version ?? null,
    isPending: transfer?.status === "pending",
    ...(data.hold !== undefined && { hold: toldHold(data.hold) }),
  };
}

/** Anything but a yes, by its code. */
export function readNo({ isDry }: BankCommand, error: ErrorText): BankAnswer {
  const { code, details } = error;
  if (REJECTIONS.has(code)) {
    const available = details?.available;
    const availableMinor = available === undefined ? null : minor(available);
    return { type: "rejected", code, availableMinor, text: JSON.stringify(details) };
  }
  if (code === "unavailable" || code === "overloaded") return { type: "unavailable", reason: code };
  // Of a dry run everything is known: nothing has happened.
  if (code === "outcome_unknown" && isDry !== true) return { type: "unknown", reason: code };
  return { type: "wrong", reason: JSON.stringify(error) };
}

// --- Batches -------------------------------------------------------------------------------------

export interface BankBatch {
  readonly commands: readonly BankCommand[];
  /** Names the commands by their places; else each brings its own key. */
  readonly key: string | null;
}

/** Sends a command and waits for what comes back; never rejects. `caller` counts from 0. */
export type Ask = (command: BankCommand, caller: number) => Promise<BankAnswer>;

/** The same for several at once; an answer for each. */
export type AskBatch = (batch: BankBatch, caller: number) => Promise<BankAnswer[]>;

/** The key of a batch's command, where the batch has one for all. */
export function keyInBatch(key: string, place: number): string {
  return `${key}/${place}`;
}

export function batchBody({ commands, key }: BankBatch): string {
  return JSON.stringify({
    commands: commands.map((command) => {
      const { endpoint, body } = natsRequest(command);
      return { type: endpoint, ...body, ...(key === null && { idempotencyKey: command.key }) };
    }),
  });
}

interface BatchText {
  readonly outcomes: ReadonlyArray<{
    readonly ok: boolean;
    readonly data?: object;
    readonly error?: ErrorText;
    readonly replayed?: boolean;
  }>;
}

export function readBatch({ commands }: BankBatch, text: string): BankAnswer[] {
  const { outcomes } = JSON.parse(text) as BatchText;
  if (outcomes.length !== commands.length) {
    return commands.map(() => ({ type: "wrong", reason: `${outcomes.length} outcomes` }));
  }
  return outcomes.map(({ ok, data, error, replayed = false }, place) => {
    const command = commands[place]!;
    if (ok && data !== undefined) return readYes(command, JSON.stringify(data), replayed);
    return error === undefined ? { type: "wrong", reason: text } : readNo(command, error);
  });
}
