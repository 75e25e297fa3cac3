/**
 * The messages between gateways, hosts and lanes: plain data, unions tagged by `type`, the same on
 * the bus and across threads. Each says who sends it, what its receiver owes, and what answers it.
 * Delivery is at most once and may be delayed or repeated: every receiver must take any message
 * twice, late, and after the thing it asks about has ended. Pure.
 */
import type { Hold } from "./hold.ts";
import type { Rejection } from "./rejection.ts";
import { ALL_SHARDS } from "./shard.ts";
import type { TransferStep, WalletCommand, WalletEventType, WalletState } from "./wallet.ts";
import type { Verdict } from "./transfer.ts";

/**
 * A caller's command with all that travels along. Never changed after the gateway made it; a repeat
 * is equal to the letter.
 */
export interface Command {
  /**
   * Names one outcome for ever, within the wallet: the caller's idempotency key, or an id the
   * gateway made.
   */
  readonly commandId: string;
  /**
   * Digest of the caller's input; null when the gateway made the id. Nearly none of those is ever
   * seen again, and a repeat is held against what the first one has left (`repeats.ts`).
   */
  readonly fingerprint: string | null;
  readonly walletId: string;
  /**
   * A creation without a wallet id: the gateway proposes an id in the shard of the command id, and
   * the shard's owner uses instead the wallet id that the first command with this id got.
   */
  readonly proposedId: boolean;
  readonly expectedVersion: number | null;
  readonly description: string | null;
  /** JSON text of the event's metadata, or null. */
  readonly metadata: string | null;
  readonly correlationId: string;
  /**
   * The span it belongs to, in the form of the W3C header; only while it is traced. Decides
   * nothing.
   */
  readonly traceparent?: string;
  readonly body: WalletCommand;
  /**
   * Only say what would become of it: nothing is written, and its id is nobody's. It stays on every
   * copy and with every question about it.
   */
  readonly dryRun?: true;
}

/**
 * Gateway -> owner of the wallet's shard. The receiver owes one `Reply` to `inbox` within
 * `budgetMs`, except when it is not or no longer the owner: then it may stay silent, and the
 * gateway asks again.
 */
export interface CommandMessage {
  readonly type: "command";
  /** Bus subject of the gateway's inbox. */
  readonly inbox: string;
  /**
   * The gateway's number for this sending of the command; the reply carries it. It counts on with
   * `attempt`: the sending before this one had the number before this one.
   */
  readonly seq: number;
  /**
   * 1 when the command is sent for the first time: then an id that the gateway made cannot be known
   * to anybody yet.
   */
  readonly attempt: number;
  /** Time left for an answer, in milliseconds, when sent. */
  readonly budgetMs: number;
  /**
   * The receiver's clock at which the budget ends; 0 until the receiving host's lane stamps its own
   * copy.
   */
  expiresAtMs: number;
  readonly command: Command;
}

/**
 * Phase 0. Payer's actor -> payee's. Would you take it? Nothing is written; answered by `asked`.
 * The whole command travels along and comes back, so that the payer keeps nothing in memory for an
 * answer that may never come.
 */
export interface AskMessage {
  readonly type: "ask";
  readonly walletId: string;
  readonly step: Extract<TransferStep, { type: "receive" }>;
  readonly origin: CommandMessage;
}

/** Payee's actor -> payer's: the answer to `ask`. The receiver reserves, or rejects the command. */
export interface AskedMessage {
  readonly type: "asked";
  readonly walletId: string;
  readonly rejection: Rejection | null;
  readonly origin: CommandMessage;
  /** Of a dry run that the payee would take: how it would stand then. */
  readonly payee?: WalletState;
}

/**
 * Phase 2. Payer's actor -> payee's, again and again until the verdict is known: decide, durably,
 * once. Answered by `verdict`.
 */
export interface PostMessage {
  readonly type: "post";
  readonly walletId: string;
  /** 1 when it is sent for the first time: then nobody can have given a verdict. */
  readonly attempt: number;
  readonly step: Extract<TransferStep, { type: "receive" }>;
  readonly commandId: string;
  readonly correlationId: string;
  readonly description: string | null;
  /** Of the command that made the transfer, while somebody remembers it: it is on no record. */
  readonly traceparent?: string;
}

/**
 * Payee's actor -> payer's: the durable verdict. The receiver settles; one for a settled transfer
 * is dropped.
 */
export interface VerdictMessage {
  readonly type: "verdict";
  readonly walletId: string;
  readonly transferId: string;
  readonly verdict: Verdict;
  /**
   * The payee right after `TransferReceived`, when this is the first telling; a repeat has null.
   */
  readonly payee: WalletState | null;
}

/**
 * A lane -> its own actor, never on the bus: the time of this hold is over. Owes nothing; one that
 * comes twice finds it ended.
 */
export interface ExpireMessage {
  readonly type: "expire";
  readonly walletId: string;
  readonly holdId: string;
}

/** What goes to the owner of a wallet's shard, on the subject of that shard. */
export type ShardMessage =
  | CommandMessage
  | AskMessage
  | AskedMessage
  | PostMessage
  | VerdictMessage
  | ExpireMessage;

/** The wallet whose actor a message is for. */
export function addressee(message: ShardMessage): string {
  return message.type === "command" ? message.command.walletId : message.walletId;
}

/** Nothing about the business: the command could not be carried out now. */
export type Fault =
  /** Nothing happened; the shard's owner cannot serve at the moment. */
  | "unavailable"
  /** Nothing happened; a queue is full. */
  | "overloaded"
  /** It may have happened. The same command id resolves it. */
  | "unknown";

/** How a transfer stands when its command is answered. */
export interface TransferAnswer {
  readonly transferId: string;
  readonly status: "posted" | "pending";
  readonly from: WalletState;
  /**
   * The payee right after the transfer; null while pending, or when the verdict was told again:
   * then read it at `toVersion`.
   */
  readonly to: WalletState | null;
  readonly toWalletId: string;
  readonly toVersion: number | null;
  /**
   * The hold that it has captured, right after the money has left; null for a transfer of another
   * kind.
   */
  readonly hold: Hold | null;
}

/** What became of a command. All but `fault` are outcomes: the same id gets the same one again. */
export type Outcome =
  | {
      readonly type: "done";
      readonly wallet: WalletState;
      /** The hold that the command was about, right after it. */
      readonly hold?: Hold;
    }
  | { readonly type: "transferred"; readonly transfer: TransferAnswer; readonly replayed: boolean }
  /**
   * The command had committed before: its answer is the wallet (and transfer) as of this version,
   * to be read back.
   */
  | {
      readonly type: "replayed";
      readonly walletId: string;
      readonly version: number;
      readonly transferId: string | null;
    }
  | { readonly type: "rejected"; readonly rejection: Rejection; readonly replayed: boolean }
  | {
      readonly type: "fault";
      readonly fault: Fault;
      /**
       * With `overloaded`, the shard for which more would find no room now either: the command's
       * own, or its payee's. Left out when something narrower is full: one wallet's mailbox, or
       * the transfers that its lane drives.
       */
      readonly fullShard?: number;
    };

/**
 * Host -> gateway inbox: answers, in the batches their commits made. Owes nothing; one for a
 * forgotten `seq` is dropped.
 */
export interface Reply {
  readonly inbox: string;
  readonly seq: number;
  readonly outcome: Outcome;
}

/** Host -> whoever watches the shard: one committed event with the wallet right after it. */
export interface Change {
  readonly wallet: WalletState;
  readonly type: WalletEventType;
  /** Minor units that moved, or null. */
  readonly amountMinor: number | null;
  readonly description: string | null;
}

/** All that leaves a lane. Everything in it is durable already. */
export interface Effects {
  readonly replies: Reply[];
  readonly messages: ShardMessage[];
  readonly changes: Change[];
  /** Shards that another owner has taken: the host must stop serving them. */
  readonly lost: number[];
}

/**
 * A subject for each shard, made once: of a text that is made anew, the bus has to compute the hash
 * each time that it looks for subscribers.
 */
function subjectOfEach(kind: string): (shard: number) => string {
  const subjects = ALL_SHARDS.map((shard) => `coffer.${kind}.${shard}`);
  return (shard) => subjects[shard]!;
}

export const SUBJECTS = {
  /** Commands and transfer steps for a shard: an array of `ShardMessage`, to its owner only. */
  shard: subjectOfEach("shard"),
  /** Replies to one gateway: an array of `Reply`. */
  inbox: (gatewayId: string): string => `coffer.inbox.${gatewayId}`,
  isInbox: (subject: string): boolean => /^coffer\.inbox\.[^\s.*>]+$/.test(subject),
  /** Changes of a shard's wallets: an array of `Change`. */
  changes: subjectOfEach("changes"),
  /**
   * Hosts tell each other that shards can be taken; the message is their list. Only a hint to look
   * at the shard table now.
   */
  released: "coffer.released",
  /**
   * A question to all hosts for their `HostStatus`: `{ inbox }`, answered there by a single
   * `HostStatus` each. `{}` asks nothing.
   */
  status: "coffer.status",
  /** Everybody's word of its deployment; see `bus/bus-guard.ts`. */
  deployment: "coffer.deployment",
  /** Subscribed to by hosts that have shards; whoever publishes there learns whether one is. */
  serving: "coffer.serving",
  /** Creations of wallets of an owner, by the shard of the owner's id: an array of `Change`. */
  owners: subjectOfEach("owners"),
} as const;

/** What a host knows of the books of its shards, by its own reconciliation. */
export interface BooksStatus {
  readonly running: boolean;
  /** End of the last whole run; null: there was none yet. */
  readonly lastRunAt: string | null;
  /** As of the last whole run, or more if the one under way has found more. */
  readonly differences: number;
  readonly warnings: number;
  /** Since the host began, in all runs. */
  readonly walletsChecked: number;
}

/**
 * How far a host's relay is with one of those that events go to; of the shards that the host has.
 */
export interface RelayStatus {
  /** `stream`, or `webhook:<id>`. */
  readonly sink: string;
  /** `open`, or what keeps it. */
  readonly state: string;
  /** Events since the host's start, and deliveries that failed. */
  readonly delivered: number;
  readonly retries: number;
  /**
   * Events committed and not delivered, and the age of the oldest as of the last second; 0 when
   * there are none.
   */
  readonly lagEvents: number;
  readonly lagMs: number;
  /** Shards whose next event failed and is tried again. */
  readonly failingShards: number;
  /** Events in memory. */
  readonly buffered: number;
  /** Why an event failed, when one has. */
  readonly reason: string | null;
}

/** Host -> whoever asked on `SUBJECTS.status`: what this host has and does now. */
export interface HostStatus {
  readonly hostId: string;
  /** This run of it, as in the shard table. */
  readonly owner: string;
  readonly startedAt: string;
  readonly ready: boolean;
  readonly leaving: boolean;
  /** Shards it serves now. */
  readonly shards: readonly number[];
  readonly lanes: ReadonlyArray<{
    readonly name: string;
    readonly shards: number;
    readonly serving: boolean;
    readonly actors: number;
    /**
     * Messages that wait: in the host's queue, and in the lane for a commit, a wallet or the
     * database.
     */
    readonly mailboxDepth: number;
    /** Commands accepted and not answered, but for those away with a question to another lane. */
    readonly outstanding: number;
    readonly pendingTransfers: number;
    /** Wallets whose rows cannot be; a host of another version may not say. */
    readonly damagedWallets?: number;
  }>;
  /** Left out by a host that does not reconcile. */
  readonly books?: BooksStatus;
  /** A host of another version may not say. */
  readonly relay?: readonly RelayStatus[];
  /** Latest first. */
  readonly handOffs: ReadonlyArray<{
    readonly at: string;
    readonly shards: readonly number[];
    readonly type: "taken" | "handed over" | "lost";
    /** Who had them before (taken), or should take them (handed over); null when not known. */
    readonly peer: string | null;
  }>;
}
