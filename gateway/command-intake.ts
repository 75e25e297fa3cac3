/**
 * Makes a `Command` of a request, the same for every way in: HTTP routes and NATS endpoints bring a
 * body that fits its schema, and get a command or the error to answer with. It hides what schemas
 * cannot say: one spelling for each input (so that `10` and "10.00" are the same command), the
 * idempotency key and its fingerprint, text that PostgreSQL can store, and ids for what the caller
 * left unnamed. It decides nothing about wallets.
 */
import { hash } from "node:crypto";

import { canonicalAmount } from "../src/core/amount.ts";
import type { HoldKind } from "../src/core/hold.ts";
import { LIMITS } from "../src/limits.ts";
import { canonicalMetadata, NOT_STORABLE, UNSTORABLE } from "../src/core/metadata.ts";
import type { Command } from "../src/core/protocol.ts";
import { shardOf } from "../src/core/shard.ts";
import type { WalletCommand } from "../src/core/wallet.ts";
import { rejectionError, validationFailed, type ApiError } from "./errors.ts";
import { NOT_A_TIME, readTime } from "./pages.ts";
import { uuidv7 } from "./uuid.ts";
import { wrongAmount } from "./validation.ts";

export type RequestType =
  | "create"
  | "credit"
  | "fund"
  | "debit"
  | "topup"
  | "bonus"
  | "spend"
  | "transfer"
  | "hold"
  | "capture"
  | "release"
  | "update"
  | "suspend"
  | "activate"
  | "close";

/** Fields of all request bodies, already of the right types. */
export interface RequestFields {
  readonly idempotencyKey?: string;
  readonly description?: string;
  readonly reason?: string;
  readonly metadata?: { readonly [key: string]: unknown };
  readonly expectedVersion?: number;
  readonly dryRun?: boolean;
  readonly amount?: number | string;
  readonly toWalletId?: string;
  readonly ownerId?: string;
  readonly currency?: string;
  readonly initialBalance?: number | string;
  readonly holdId?: string;
  /** Of a hold. */
  readonly type?: HoldKind;
  readonly reference?: string;
  readonly expiresAt?: string;
  readonly expiresInSeconds?: number;
  readonly final?: boolean;
}

/** What a request says besides its body. */
export interface RequestOrigin {
  /** A UUIDv7 made for the request, or the caller's correlation id: see `correlationOf`. */
  readonly correlationId: string;
  /** Whether the gateway made `correlationId`; then it is new, and can name the command too. */
  readonly isCorrelationNew: boolean;
  /** Header `Idempotency-Key`. */
  readonly key: string | undefined;
  /** The span of the request; undefined unless it is traced. */
  readonly traceparent?: string | undefined;
}

interface Refused {
  readonly ok: false;
  readonly error: ApiError;
}

export type Intake =
  | { readonly ok: true; readonly command: Command; readonly isKeyed: boolean }
  | Refused;

interface AssetFacts {
  readonly decimalPlaces: number;
}

/** The assets' decimal places, for commands that may make a wallet. */
export type AssetLookup = (code: string) => AssetFacts | null;
/**
 * Of an asset that is not known here yet, the facts come later; `ReadUnavailable` when they do not
 * come.
 */
export type SlowAssetLookup = (code: string) => AssetFacts | Promise<AssetFacts | null> | null;

type TakeInAs<Taken> = (
  type: RequestType,
  walletId: string | null,
  fields: RequestFields,
  origin: RequestOrigin,
) => Taken;

/** At once, except for a command with an asset that has to be looked up. */
export type TakeIn = TakeInAs<Intake | Promise<Intake>>;

const EXPIRY_TWICE = "says the same as expiresAt: give one of them";
const REASON_TWICE = "is another word for description: give one of them";

function refused(error: ApiError): Refused {
  return { ok: false, error };
}

/** `walletId` is null only for a creation that leaves the id to us. */
export function buildCommandIntake(assetOf: AssetLookup): TakeInAs<Intake>;
export function buildCommandIntake(assetOf: SlowAssetLookup): TakeIn;
export function buildCommandIntake(assetOf: SlowAssetLookup): TakeIn {
  return (type, walletId, fields, origin) => {
    const given = keyOf(fields.idempotencyKey, origin.key);
    if (given !== null && typeof given !== "string") return refused(given);
    if (fields.description !== undefined && fields.reason !== undefined) {
      return refused(validationFailed([{ field: "reason", message: REASON_TWICE }]));
    }
    const description = fields.description ?? fields.reason ?? null;
    if (description !== null && UNSTORABLE.test(description)) {
      const field = fields.description === undefined ? "reason" : "description";
      return refused(validationFailed([{ field, message: NOT_STORABLE }]));
    }
    let metadata: string | null = null;
    if (fields.metadata !== undefined) {
      const canonical = canonicalMetadata(fields.metadata);
      if (!canonical.ok) {
        return refused(validationFailed([{ field: "metadata", message: canonical.problem }]));
      }
      metadata = canonical.text;
    }
    const currency = currencyOf(type, fields);
    const asset = currency === null ? null : assetOf(currency);
    if (asset instanceof Promise) {
      return asset.then((found) => buildCommandIntake(() => found)(type, walletId, fields, origin));
    }
    const body = bodyOf(type, fields, metadata, asset);
    if (!body.ok) return body;
    // A dry run has no outcome, so it has no use for a key: its ids say nothing about those of the
    // real command.
    const isDryRun = fields.dryRun === true;
    const key = isDryRun ? null : given;
    const commandId = key ?? (origin.isCorrelationNew ? origin.correlationId : uuidv7());
    const expectedVersion = fields.expectedVersion ?? null;
    const fingerprint =
      key === null
        ? null
        : fingerprintOf(type, walletId, body.command, description, metadata, expectedVersion);
    const command: Command = {
      commandId,
      fingerprint,
      // The id that we made is a UUIDv7 in its own shard. A creation without a key is proposed,
      // too: when its outcome is unknown, the caller is told this id and repeats it as a key.
      walletId: walletId ?? (given === null ? commandId : proposeWalletId(given)),
      proposedId: walletId === null && !isDryRun,
      expectedVersion,
      description,
      // Of these two it is the wallet's own, and in the body.
      metadata: type === "create" || type === "update" ? null : metadata,
      correlationId: origin.correlationId,
      body: body.command,
    };
    if (isDryRun) return { ok: true, command: { ...command, dryRun: true }, isKeyed: false };
    const { traceparent } = origin;
    const traced = traceparent === undefined ? command : { ...command, traceparent };
    return { ok: true, command: traced, isKeyed: key !== null };
  };
}

// --- What the command asks -----------------------------------------------------------------------

type Body = { readonly ok: true; readonly command: WalletCommand } | Refused;

/** The asset that the command cannot do without: where it may make a wallet. */
function currencyOf(type: RequestType, { currency = "USD" }: RequestFields): string | null {
  return type === "create" || type === "topup" || type === "bonus" ? currency : null;
}

function bodyOf(
  type: RequestType,
  fields: RequestFields,
  metadata: string | null,
  asset: AssetFacts | null,
): Body {
  switch (type) {
    case "create":
      return creationOf(fields, metadata, asset);
    case "topup":
    case "bonus":
    case "spend":
      return gameOf(type, fields, asset);
    case "update":
      return { ok: true, command: { type, patch: metadata! } };
    case "suspend":
    case "activate":
    case "close":
      return { ok: true, command: { type } };
    case "hold":
      return holdOf(fields);
    case "capture": {
      const { holdId, toWalletId, amount: wanted, final = false } = fields;
      const canonical = wanted === undefined ? null : canonicalAmount(wanted);
      if (canonical?.ok === false) return refused(wrongAmount("amount", wanted)!);
      const amount = canonical === null ? null : canonical.amount;
      const to = toWalletId === undefined ? null : { transferId: uuidv7(), walletId: toWalletId };
      return { ok: true, command: { type, holdId: holdId!, amount, final, to } };
    }
    case "release":
      return { ok: true, command: { type, holdId: fields.holdId! } };
    case "credit":
    case "fund":
    case "debit":
    case "transfer": {
      const canonical = canonicalAmount(fields.amount);
      if (!canonical.ok) return refused(wrongAmount("amount", fields.amount)!);
      const { amount } = canonical;
      if (type === "credit") return { ok: true, command: { type, amount, kind: "CREDIT" } };
      if (type === "fund") return { ok: true, command: { type: "credit", amount, kind: "FUND" } };
      if (type === "debit") return { ok: true, command: { type, amount } };
      const toWalletId = fields.toWalletId!;
      return { ok: true, command: { type, transferId: uuidv7(), toWalletId, amount } };
    }
    default:
      return type satisfies never;
  }
}

/** Money of a user in an asset; `ownerId` and `currency` are always there. */
function gameOf(
  type: "topup" | "bonus" | "spend",
  fields: RequestFields,
  asset: AssetFacts | null,
): Body {
  const { ownerId = "", currency = "" } = fields;
  if (type !== "spend" && asset === null) {
    return refused(rejectionError({ code: "asset_not_found", currency }));
  }
  const canonical = canonicalAmount(fields.amount);
  if (!canonical.ok) return refused(wrongAmount("amount", fields.amount)!);
  const { amount } = canonical;
  const of = { ownerId, currency };
  if (type === "spend" || asset === null) {
    return { ok: true, command: { type: "debit", amount, kind: "SPEND", of } };
  }
  const { decimalPlaces } = asset;
  const kind = type === "topup" ? "TOPUP" : "BONUS";
  return { ok: true, command: { type: "credit", amount, kind, of: { ...of, decimalPlaces } } };
}

function holdOf(fields: RequestFields): Body {
  const canonical = canonicalAmount(fields.amount);
  if (!canonical.ok) return refused(wrongAmount("amount", fields.amount)!);
  const { type: kind = "PAYMENT", reference = null, expiresAt, expiresInSeconds = null } = fields;
  const wrong = (field: string, message: string) => refused(validationFailed([{ field, message }]));
  if (reference !== null && UNSTORABLE.test(reference)) return wrong("reference", NOT_STORABLE);
  if (expiresAt !== undefined && expiresInSeconds !== null) {
    return wrong("expiresInSeconds", EXPIRY_TWICE);
  }
  const expiresAtMs = expiresAt === undefined ? null : readTime(expiresAt);
  if (expiresAt !== undefined && expiresAtMs === null) return wrong("expiresAt", NOT_A_TIME);
  const description = fields.description ?? null;
  const expiry = { expiresAtMs, expiresInSeconds };
  const { amount } = canonical;
  const holdId = uuidv7();
  return {
    ok: true,
    command: { type: "hold", holdId, amount, kind, reference, description, ...expiry },
  };
}

const NO_MONEY = /^0{1,40}(\.0{1,40})?$/;

function creationOf(
  fields: RequestFields,
  metadata: string | null,
  asset: AssetFacts | null,
): Body {
  const { ownerId = null, currency = "USD", initialBalance = 0 } = fields;
  if (asset === null) return refused(rejectionError({ code: "asset_not_found", currency }));
  let amount: string | null = null;
  // A creation may say that it brings no money; everywhere else zero is a mistake.
  if (
    initialBalance !== 0 &&
    !(typeof initialBalance === "string" && NO_MONEY.test(initialBalance))
  ) {
    const canonical = canonicalAmount(initialBalance);
    if (!canonical.ok) return refused(wrongAmount("initialBalance", initialBalance)!);
    amount = canonical.amount;
  }
  return {
    ok: true,
    command: {
      type: "create",
      ownerId,
      currency,
      decimalPlaces: asset.decimalPlaces,
      initialBalance: amount,
      metadata: metadata ?? "{}",
    },
  };
}

// --- Keys ----------------------------------------------------------------------------------------

const CONTROL = /\p{Cc}/u;
/** No bytes of UTF-8 stand for it, so elsewhere it would be another character. */
const HALF_PAIR = /\p{Surrogate}/u;
/** What bytes that are no UTF-8 are read as, by whoever does not refuse them. */
const REPLACEMENT = "\ufffd";

const DIFFERENT_KEYS = "differs from the header Idempotency-Key";

/**
 * Whether a text has more characters than so many, counted as schemas do: beyond U+FFFF one is two
 * units of UTF-16.
 */
export function isLongerThan(text: string, characters: number): boolean {
  if (text.length <= characters) return false;
  return text.length > 2 * characters || Array.from(text).length > characters;
}

/** Null when the text can name a command, or else why not. */
export function problemOfKey(key: string): string | null {
  if (key.length === 0) return "must not be empty";
  if (isLongerThan(key, LIMITS.keyLengthMax)) {
    return `must not exceed ${LIMITS.keyLengthMax} characters`;
  }
  if (CONTROL.test(key)) return "must not contain control characters";
  if (HALF_PAIR.test(key)) return "must not contain halves of surrogate pairs";
  if (key.includes(REPLACEMENT)) return "must be UTF-8, without U+FFFD";
  // Headers lose them on the way, and then it would be another key.
  return /^ | $/.test(key) ? "must not begin or end with a blank" : null;
}

/** The key that a request gives in its body, its header, or both; null when it gives none. */
export function keyOf(
  inBody: string | undefined,
  inHeader: string | undefined,
  problemOf: (key: string) => string | null = problemOfKey,
): string | null | ApiError {
  if (inBody === undefined && inHeader === undefined) return null;
  if (inBody !== undefined && inHeader !== undefined && inBody !== inHeader) {
    return validationFailed([{ field: "idempotencyKey", message: DIFFERENT_KEYS }]);
  }
  const key = (inHeader ?? inBody)!;
  const message = problemOf(key);
  const field = inHeader === undefined ? "idempotencyKey" : "Idempotency-Key";
  return message === null ? key : validationFailed([{ field, message }]);
}

/**
 * Characters of a fingerprint: 132 bits of SHA-256 in base64url, too many for two inputs to meet.
 */
const FINGERPRINT_LENGTH = 22;

/**
 * Digest of what the caller asked for, in one canonical spelling. Ids the gateway made (the
 * transfer's, the hold's, a proposed wallet's) and the correlation id are not part of it: a repeat
 * has others.
 */
function fingerprintOf(
  type: RequestType,
  walletId: string | null,
  command: WalletCommand,
  description: string | null,
  metadata: string | null,
  expectedVersion: number | null,
): string {
  const meaning: unknown[] = [type, walletId, description, expectedVersion];
  if (command.type === "create") {
    // No metadata and an empty object are the same input.
    meaning.push(command.ownerId, command.currency, command.initialBalance, command.metadata);
    return digestOf(meaning);
  }
  meaning.push(metadata);
  if (command.type === "transfer") {
    meaning.push(command.toWalletId, command.amount);
  } else if (command.type === "credit" || command.type === "debit") {
    meaning.push(command.amount);
    // Two pairs may make one wallet id, and must not get each other's answers.
    if (command.of !== undefined) meaning.push(command.of.ownerId, command.of.currency);
  } else if (command.type === "hold") {
    const { amount, kind, reference, expiresAtMs, expiresInSeconds } = command;
    meaning.push(amount, kind, reference, expiresAtMs, expiresInSeconds);
  } else if (command.type === "capture") {
    meaning.push(command.holdId, command.amount, command.final, command.to?.walletId ?? null);
  } else if (command.type === "release") meaning.push(command.holdId);
  return digestOf(meaning);
}

function digestOf(meaning: readonly unknown[]): string {
  return hash("sha256", JSON.stringify(meaning), "base64url").slice(0, FINGERPRINT_LENGTH);
}

/**
 * A new wallet id in the key's shard. The first command with a key decides the wallet's id; its
 * repeats bring other proposals, and must reach the same owner to be recognised. The last 16 of a
 * UUIDv7's random bits are tried in turn, from where they are: all 256 shards lie within a few
 * hundred steps.
 */
export function proposeWalletId(key: string): string {
  const shard = shardOf(key);
  for (;;) {
    const id = uuidv7();
    const head = id.slice(0, -4);
    const tail = Number.parseInt(id.slice(-4), 16);
    for (let step = 0; step <= 0xffff; step++) {
      const candidate = head + ((tail + step) & 0xffff).toString(16).padStart(4, "0");
      if (shardOf(candidate) === shard) return candidate;
    }
  }
}

// --- Correlation ---------------------------------------------------------------------------------

/** W3C Trace Context: version, trace id, parent id, flags. */
const TRACEPARENT = /^[\da-f]{2}-([\da-f]{32})-[\da-f]{16}-[\da-f]{2}/;
const NO_TRACE = "0".repeat(32);

/**
 * The correlation id that the caller brought: `X-Correlation-Id`, or the trace id of `traceparent`.
 * Null when there is none that can be kept; an unfit one is ignored, since it names nothing that
 * money depends on.
 */
export function correlationOf(header: unknown, traceparent: unknown): string | null {
  if (typeof header === "string" && problemOfKey(header) === null) return header;
  if (typeof traceparent !== "string") return null;
  const traceId = TRACEPARENT.exec(traceparent)?.[1];
  return traceId === undefined || traceId === NO_TRACE ? null : traceId;
}
