/**
 * The frames of the feed in both directions: what a client may send, checked against schemas
 * compiled once, and the JSON text of what it gets. A change is turned into text once, however many
 * clients watch the wallet: a `Revision` is a wallet at one version with the texts made of it so
 * far, and only a conflated frame is put together anew. A problem with a client's frame is a value
 * with a code and a sentence that names the field; nothing here throws.
 */
import { Type } from "typebox";
import { Compile } from "typebox/schema";

import { toDecimal } from "../../src/core/amount.ts";
import { LIMITS } from "../../src/limits.ts";
import type { Change } from "../../src/core/protocol.ts";
import type { StoredEvent } from "../../src/core/read-model.ts";
import { availableMinor } from "../../src/core/rules.ts";
import type { WalletState } from "../../src/core/wallet.ts";
import { closed, ID_PATTERN } from "../schemas.ts";
import { ruleOf } from "../validation.ts";

const ID_RULE = `must be an id: 1 to ${LIMITS.idLengthMax} characters of letters, digits and - _ . : @`;

const Id = Type.String({ pattern: ID_PATTERN });
const Ids = Type.Optional(Type.Array(Id));

const Unsubscribe = Type.Object(
  { type: Type.Literal("unsubscribe"), wallets: Ids, owners: Ids },
  closed,
);
const Subscribe = Type.Object(
  {
    type: Type.Literal("subscribe"),
    wallets: Ids,
    owners: Ids,
    from: Type.Optional(Type.Record(Id, Type.Integer(), closed)),
  },
  closed,
);

const VALIDATORS = { subscribe: Compile(Subscribe), unsubscribe: Compile(Unsubscribe) } as const;

/** What a client asks for, without repetitions. */
export type ClientFrame = {
  readonly walletIds: ReadonlySet<string>;
  readonly ownerIds: ReadonlySet<string>;
} & (
  | {
      readonly type: "subscribe";
      /** The last version the client has, by wallet id. */
      readonly from: ReadonlyMap<string, number>;
    }
  | { readonly type: "unsubscribe" }
);

export type FeedErrorCode =
  /** The frame is not JSON. */
  | "invalid_json"
  /** The frame is JSON, but not one of the feed's. The message names the field. */
  | "validation_failed"
  | "wallet_not_found"
  /** More than a client, or the gateway, can watch. */
  | "too_many_subscriptions"
  /** Too many frames; the connection is closed. */
  | "rate_limited";

export interface FeedProblem {
  readonly code: FeedErrorCode;
  readonly message: string;
}

export type Parsed =
  | { readonly ok: true; readonly frame: ClientFrame }
  | { readonly ok: false; readonly problem: FeedProblem };

function invalid(message: string): Parsed {
  return { ok: false, problem: { code: "validation_failed", message } };
}

/** `/from/a~1b` as a person writes it: `from.a/b`; `/wallets/2` as `wallets[2]`. */
function fieldName(instancePath: string): string {
  const [first = "", ...rest] = instancePath
    .split("/")
    .slice(1)
    .map((part) => part.replaceAll("~1", "/").replaceAll("~0", "~"));
  return first + rest.map((part) => (first === "from" ? `.${part}` : `[${part}]`)).join("");
}

/** Longest part of a client's own text that an error repeats, in characters. */
const QUOTED_MAX = 150;

function quoted(text: string): string {
  return text.length <= QUOTED_MAX ? text : `${text.slice(0, QUOTED_MAX)}...`;
}

function explain(validator: (typeof VALIDATORS)[keyof typeof VALIDATORS], value: unknown): Parsed {
  const [, [error]] = validator.Errors(value);
  const field = quoted(fieldName(error?.instancePath ?? ""));
  if (error?.keyword === "boolean") {
    return field.startsWith("from.")
      ? invalid(`${field} is not a wallet's id: it ${ID_RULE}`)
      : invalid(`${field} is not a field of this frame`);
  }
  if (error?.keyword === "pattern") return invalid(`${field} ${ID_RULE}`);
  return invalid(`${field} ${error === undefined ? "is not valid" : ruleOf(error)}`);
}

/** Reads one frame of a client. */
export function parseClientFrame(text: string): Parsed {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return { ok: false, problem: { code: "invalid_json", message: "The frame is not JSON" } };
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return invalid("The frame must be a JSON object with a type");
  }
  const { type } = value as { type?: unknown };
  if (type !== "subscribe" && type !== "unsubscribe") {
    return invalid("type must be subscribe or unsubscribe");
  }
  if (!VALIDATORS[type].Check(value)) return explain(VALIDATORS[type], value);
  if (value.wallets === undefined && value.owners === undefined) {
    return invalid("wallets or owners must say what this frame is about");
  }
  const walletIds = new Set(value.wallets);
  const ownerIds = new Set(value.owners);
  if (value.type === "unsubscribe") {
    return { ok: true, frame: { type: value.type, walletIds, ownerIds } };
  }
  // Entries, not look-ups by name: "constructor" and "__proto__" are ids like any other.
  const from = new Map(Object.entries(value.from ?? {}));
  if (ownerIds.size === 0) {
    for (const walletId of from.keys()) {
      if (!walletIds.has(walletId)) return invalid(`from.${walletId} is not one of wallets`);
    }
  }
  return { ok: true, frame: { type: value.type, walletIds, ownerIds, from } };
}

/** A wallet right after one of its versions, and the texts made of it so far. */
export interface Revision {
  readonly wallet: WalletState;
  /** What made the version; null when only the state is known, which is enough for a snapshot. */
  readonly change: Omit<Change, "wallet"> | null;
  changeText: string | null;
  snapshotText: string | null;
}

/**
 * What a frame is to its receiver. `change`: the versions after the last frame, up to this one.
 * `snapshot`: the start of a sequence. `reset`: a start that leaves out versions which the client
 * had asked for.
 */
export type FrameKind = "change" | "snapshot" | "reset";

export function revisionOfState(wallet: WalletState): Revision {
  return { wallet, change: null, changeText: null, snapshotText: null };
}

export function revisionOfChange(change: Change): Revision {
  return { wallet: change.wallet, change, changeText: null, snapshotText: null };
}

/**
 * `wallet` may be any version of the event's wallet: what an event does not carry never changes (or
 * is not in a frame).
 */
export function revisionOfEvent(wallet: WalletState, event: StoredEvent): Revision {
  const { version, balanceMinor, heldMinor, status, occurredAtMs: updatedAtMs } = event;
  return {
    wallet: { ...wallet, version, balanceMinor, heldMinor, status, updatedAtMs },
    change: event,
    changeText: null,
    snapshotText: null,
  };
}

function balanceText(
  wallet: WalletState,
  change: Omit<Change, "wallet"> | null,
  conflated: number,
  isReset: boolean,
): string {
  const { walletId, ownerId, currency, decimalPlaces, status, version } = wallet;
  const decimal = (minor: number): number => toDecimal(minor, decimalPlaces);
  return JSON.stringify({
    type: "balance",
    walletId,
    ownerId,
    version,
    balance: decimal(wallet.balanceMinor),
    held: decimal(wallet.heldMinor),
    available: decimal(availableMinor(wallet)),
    currency,
    status,
    change: change && {
      type: change.type,
      amount: change.amountMinor === null ? null : decimal(change.amountMinor),
      description: change.description,
    },
    snapshot: change === null,
    ...(isReset && { reset: true }),
    conflated,
    occurredAt: new Date(wallet.updatedAtMs).toISOString(),
  });
}

/** Text of the frame; `conflated` is how many changes besides its own a `change` frame covers. */
export function frameText(revision: Revision, kind: FrameKind, conflated: number): string {
  const { wallet, change } = revision;
  if (kind === "reset") return balanceText(wallet, null, 0, true);
  if (kind === "snapshot") {
    revision.snapshotText ??= balanceText(wallet, null, 0, false);
    return revision.snapshotText;
  }
  if (change === null) throw new Error(`wallet ${wallet.walletId}: no change to tell`);
  if (conflated > 0) return balanceText(wallet, change, conflated, false);
  revision.changeText ??= balanceText(wallet, change, 0, false);
  return revision.changeText;
}

export function answerText(
  type: "subscribed" | "unsubscribed",
  wallets: readonly string[],
  owners: readonly string[],
): string {
  return JSON.stringify({ type, wallets, owners });
}

/** `walletId` or `ownerId` when the error is about one. */
export function errorText(
  problem: FeedProblem,
  about: { walletId?: string; ownerId?: string } = {},
): string {
  const { code, message } = problem;
  return JSON.stringify({ type: "error", code, message, ...about });
}

/** Whether an element of a bus message is a change: others may publish there too. */
export function isChange(value: unknown): value is Change {
  if (typeof value !== "object" || value === null) return false;
  const { wallet, type } = value as Partial<Record<keyof Change, unknown>>;
  if (typeof type !== "string" || typeof wallet !== "object" || wallet === null) return false;
  const state = wallet as Partial<Record<keyof WalletState, unknown>>;
  return (
    typeof state.walletId === "string" &&
    Number.isSafeInteger(state.version) &&
    (state.version as number) >= 0 &&
    Number.isSafeInteger(state.balanceMinor) &&
    Number.isSafeInteger(state.heldMinor) &&
    typeof state.decimalPlaces === "number" &&
    typeof state.currency === "string" &&
    typeof state.status === "string" &&
    Number.isFinite(state.updatedAtMs)
  );
}
