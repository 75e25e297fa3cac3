/**
 * The journal port: durable events, wallets, transfers and outcomes of the shards that one writer
 * owns. It hides PostgreSQL (`postgres/journal.ts`) from the actors, and lets a simulator put its
 * own in place. One `append` is one commit: all of it or nothing, and only while the writer still
 * holds the epoch of every shard it touches.
 */
import type { Hold } from "./hold.ts";
import type { Rejection, WalletStatus } from "./rejection.ts";
import type { CommandRecord } from "./repeats.ts";
import type { Transfer, Verdict } from "./transfer.ts";
import type { WalletEvent, WalletState } from "./wallet.ts";

/** An event about to be committed, with what the wallet is right after it. */
export interface NewEvent {
  readonly walletId: string;
  readonly version: number;
  readonly event: WalletEvent;
  readonly balanceMinor: number;
  readonly heldMinor: number;
  readonly status: WalletStatus;
  /** On the last event of a caller's command: its id, which must be new within the wallet. */
  readonly commandId: string | null;
  readonly fingerprint: string | null;
  /** A creation whose wallet id was proposed: `loadCreated` finds it by its command id alone. */
  readonly isIdProposed: boolean;
  readonly correlationId: string;
  /** The command that caused it. */
  readonly causationId: string;
  readonly description: string | null;
  /** JSON text, or null. */
  readonly metadata: string | null;
  /** Of this event and, through it, of all before it: `src/chain.ts`. */
  readonly hash: string;
}

/** A wallet that a commit changes; its last event in there brings it to its version. */
export interface WalletWrite {
  /** After the commit. */
  readonly state: WalletState;
  /** Its version before the commit; -1: it did not exist. */
  readonly baseVersion: number;
  /** Hash of its last event. */
  readonly hash: string;
}

export interface LoadedWallet {
  /** Null: it does not exist. */
  readonly state: WalletState | null;
  /** Hash of its last event; null: of an event from before there were hashes, or of none. */
  readonly hash: string | null;
}

/** A command id within its wallet. */
export interface CommandKey {
  readonly walletId: string;
  readonly commandId: string;
}

export interface NewRejection {
  readonly walletId: string;
  readonly commandId: string;
  readonly fingerprint: string | null;
  /** A creation whose wallet id was proposed: `loadCreated` finds it by its command id alone. */
  readonly isIdProposed: boolean;
  readonly rejection: Rejection;
}

export interface NewVerdict {
  readonly transferId: string;
  readonly toWalletId: string;
  readonly verdict: Verdict;
  readonly decidedAtMs: number;
}

/** A step of a traced transfer that a commit carries; its command's own commit needs none. */
export interface TracedStep {
  readonly step: "post" | "settle";
  /** Whose actor takes the step. */
  readonly walletId: string;
  readonly commandId: string;
  readonly traceparent: string;
}

/** How an append stands to others of the same journal. */
export interface AppendOrder {
  /** Names it, different from all others of the journal; 0 for one that none will be behind. */
  readonly number: number;
  /**
   * The append that was begun right before it, and on which it builds: it is committed after that
   * one, and only if that one is. Null: on none that is under way.
   */
  readonly behind: number | null;
}

/** The content of one commit. */
export interface Writes {
  readonly events: NewEvent[];
  readonly wallets: ReadonlyMap<string, WalletWrite>;
  readonly rejections: NewRejection[];
  /**
   * Command ids to look for first: all that may have an outcome already. One left out must be new,
   * or nothing is written.
   */
  readonly lookups: CommandKey[];
  /** Transfer ids whose verdict may be given already, in the same way. */
  readonly verdictLookups: string[];
  readonly transfers: Transfer[];
  readonly verdicts: NewVerdict[];
  /** Transfers that reached their end. */
  readonly settled: Transfer[];
  /** Holds that the commit places or changes, each as it is afterwards, by `holdKey`. */
  readonly holds: ReadonlyMap<string, { hold: Hold; isNew: boolean }>;
  /**
   * The epoch at which the writer holds each shard that the commit touches or merely speaks for.
   */
  readonly fence: ReadonlyMap<number, number>;
  readonly order: AppendOrder;
  /** For who takes the time of commits; nothing of it is written. */
  readonly traced?: readonly TracedStep[] | null;
}

/** A hold within its wallet. */
export interface HoldKey {
  readonly walletId: string;
  readonly holdId: string;
}

/** A hold whose time is over, with its place among all such holds: shard, time, ids. */
export interface DueHold extends HoldKey {
  /** As its row has it. */
  readonly shard: number;
  /** Microseconds since 1970: exactly what the row has. */
  readonly expiresAtUs: number;
}

/** The two ids as one; no id has a space in it. */
export function holdKey({ walletId, holdId }: HoldKey): string {
  return `${walletId} ${holdId}`;
}

/** Wallets as they are, all read at one moment. */
export interface LoadedWallets {
  /** By id. */
  readonly wallets: Map<string, LoadedWallet>;
  /** Their active holds. */
  readonly holds: readonly Hold[];
}

/** What the journal knows of a command id within a wallet. */
export interface KnownCommand {
  readonly walletId: string;
  readonly commandId: string;
  readonly fingerprint: string | null;
  /** The version it made, or null when it was rejected. */
  readonly version: number | null;
  readonly transferId: string | null;
  readonly rejection: Rejection | null;
  /**
   * What the command has left, for repeats to be held against. Only of one that was carried out and
   * has no fingerprint; null when its rows cannot be read.
   */
  readonly record?: CommandRecord | null;
}

export interface KnownVerdict {
  readonly transferId: string;
  readonly verdict: Verdict;
}

export type AppendResult =
  | { readonly type: "committed" }
  /** Nothing was written: these command ids or transfer ids have their outcome already. */
  | {
      readonly type: "known";
      readonly commands: readonly KnownCommand[];
      readonly verdicts: readonly KnownVerdict[];
    }
  /** Nothing was written: another writer has taken these shards. */
  | { readonly type: "fenced"; readonly shards: readonly number[] }
  /**
   * Nothing was written: the database refused for now (shutting down, disk full, deadlock); the
   * same may work later.
   */
  | { readonly type: "refused"; readonly reason: string }
  /** Nothing was written: what it was behind was not committed, or nobody can tell any more. */
  | { readonly type: "undone" }
  /**
   * A wallet was not at its base version, or an id was not new after all: reload and decide again.
   * `walletId`: whose next version is an event already.
   */
  | { readonly type: "stale"; readonly reason: string; readonly walletId?: string }
  /** The connection was lost: it may have been written. Claim the shards again, then look. */
  | { readonly type: "unknown"; readonly reason: string };

/**
 * Events are missing that were committed: a standby that was behind has taken over, or an older
 * state was restored. What the process remembers of wallets, transfers, subscribers and streams is
 * of a history that is no more, so the process has to end.
 */
export class HistoryLostError extends Error {
  override readonly name = "HistoryLostError";
}

export interface Journal {
  /**
   * Takes the next epoch of those `shards` that `owner` holds in the shard table, after waiting for
   * every append under way. Returns the epochs; a shard missing in the answer belongs to somebody
   * else. When it returns, no append with an older epoch of these shards can commit any more, and
   * every one that did is visible.
   * @throws HistoryLostError when events are missing that this journal has committed or seen.
   */
  claim(owner: string, shards: readonly number[]): Promise<Map<number, number>>;

  /** Each of the wallets, and their active holds. */
  loadWallets(walletIds: readonly string[]): Promise<LoadedWallets>;

  /** Holds by their ids, active or not; one that does not exist is left out. */
  loadHolds(keys: readonly HoldKey[]): Promise<Hold[]>;

  /**
   * Active holds of wallets in these shards that expire at `atMs` or before, in the order of their
   * places, from behind one of them (null: from the first) and no more than `limit`.
   */
  loadDueHolds(
    shards: readonly number[],
    atMs: number,
    limit: number,
    behind: DueHold | null,
  ): Promise<DueHold[]>;

  /**
   * Wallets that creations with a proposed id and these command ids made, or were rejected for, by
   * command id.
   */
  loadCreated(commandIds: readonly string[]): Promise<Map<string, string>>;

  /** All pending transfers whose payer lives in these shards. */
  loadPendingTransfers(shards: readonly number[]): Promise<Transfer[]>;

  /**
   * Commits. What builds on an append under way says so in its `order`; no more than
   * `LIMITS.commitsUnderWayMax` may be under way like that. One that does not may begin when all
   * others are answered, or one of them has failed and what is behind that one counts no more.
   * Never rejects for an outcome listed above; any other rejection of the promise is a broken
   * invariant.
   * @throws HistoryLostError when events are missing that were committed; nothing was written.
   */
  append(writes: Writes): Promise<AppendResult>;

  close(): Promise<void>;
}
