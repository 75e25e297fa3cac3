/**
 * Differences between what the books say in two places, as `verify` names them: what, where, what
 * it should be and what it is, for a program and in one sentence for a person. A bounded list: the
 * first of each kind are kept, all are counted, so that a database that is wrong in every row costs
 * no more memory than one that is wrong in a hundred. Pure.
 */
import { LIMITS } from "../limits.ts";

/** What each kind means, for a person; docs/operations.md says what to do. */
export const DIFFERENCE_KINDS = {
  event_missing: "versions of a wallet are not contiguous from 0",
  event_unreadable: "a row of events is none that Coffer writes",
  event_impossible: "an event cannot have happened to the wallet as it was",
  event_state: "balance, held or status of an event are not the fold of the events up to it",
  event_account: "an event's system account is not the one of its type",
  hash_missing: "an event without hash after the hash chain began",
  hash_wrong: "an event's hash is not that of its content and of the event before it",
  head_wrong: "the wallet's head of the chain is not the hash of its last event",
  wallet_missing: "a wallet has events and no row",
  wallet_without_events: "a wallet has a row and no events",
  wallet_ahead: "a wallet's row is ahead of its last event: events are gone, or the row is wrong",
  wallet_row: "a field of a wallet's row is not the fold of its events",
  command_twice: "two events of a wallet have one command id",
  command_rejected_too: "a command id has an event and a rejection",
  hold_missing: "a hold that events tell of has no row",
  hold_row: "a field of a hold's row is not what its last event says",
  hold_without_events: "a hold's row that no event tells of",
  hold_sum: "what the wallet has held is not what its active holds have left",
  transfer_missing: "a step of a transfer is there without the transfer's record",
  transfer_sent: "a transfer's record and the payer's TransferSent do not agree",
  transfer_received: "a transfer's verdict and the payee's TransferReceived do not agree",
  transfer_returned: "a transfer's record and the payer's TransferReturned do not agree",
  transfer_status: "a transfer's record and its verdict do not agree",
  transfer_record:
    "a field of a transfer's record is not what the payer's event or the verdict says",
  transfer_place: "a transfer's record is not in its payer's shard",
  verdict_missing: "a transfer is settled, or has arrived, without a verdict",
  position_order: "a wallet's events have their places in another order than their versions",
  position_gap: "the places of a shard's events are not 1, 2, 3 ...",
  trial_balance: "the accounts of an asset do not sum to zero",
  account_totals: "the kept total of an account is not what its events sum to",
  transit: "the money in transit is not that of the transfers under way",
  asset_row: "an own asset is not there, or counts in other units than a wallet of it",
  shard_missing: "a shard has no row in the shard table, so that nobody can serve it",
  guard_off: "a trigger, key or check that guards the books is missing, changed or switched off",
  transfer_stuck: "a transfer is pending for long",
} as const;

export type DifferenceKind = keyof typeof DIFFERENCE_KINDS;

/** Named, but nothing is wrong with the books. */
const WARNINGS: ReadonlySet<DifferenceKind> = new Set<DifferenceKind>(["transfer_stuck"]);

export type DifferenceValue = string | number | boolean | null;

export interface Difference {
  readonly kind: DifferenceKind;
  readonly isWarning: boolean;
  readonly walletId: string | null;
  readonly version: number | null;
  readonly transferId: string | null;
  /** Which column, account or guard; null when the kind says it all. */
  readonly field: string | null;
  readonly expected: DifferenceValue;
  readonly found: DifferenceValue;
  /** The same in one sentence. */
  readonly text: string;
}

export type Found = Pick<Difference, "kind"> &
  Partial<Omit<Difference, "kind" | "isWarning" | "text">>;

/** Takes a difference as soon as it is found. */
export type Name = (found: Found) => void;

export function differenceOf(named: Found): Difference {
  const { kind, walletId = null, version = null, transferId = null } = named;
  const { field = null, expected = null, found = null } = named;
  const place = [
    walletId === null ? null : `wallet ${walletId}`,
    version === null ? null : `version ${version}`,
    transferId === null ? null : `transfer ${transferId}`,
  ].filter((part) => part !== null);
  const head = place.length === 0 ? "the books" : place.join(", ");
  const what = field === null ? DIFFERENCE_KINDS[kind] : `${DIFFERENCE_KINDS[kind]} (${field})`;
  const values = `expected ${shown(expected)}, found ${shown(found)}`;
  const text = `${head[0]!.toUpperCase()}${head.slice(1)}: ${what}; ${values}.`;
  const isWarning = WARNINGS.has(kind);
  return { kind, isWarning, walletId, version, transferId, field, expected, found, text };
}

function shown(value: DifferenceValue): string {
  return value === null ? "nothing" : String(value);
}

/** Equal for the same trouble in the same place, whoever names it. */
export function placeOf(found: Found): string {
  const { kind, walletId = null, version = null, transferId = null, field = null } = found;
  return JSON.stringify([kind, walletId, version, transferId, field]);
}

export interface DifferenceList {
  readonly name: Name;
  /** The first of each kind, in the order in which they were found. */
  readonly named: readonly Difference[];
  /** All that were found, by kind. */
  readonly counts: ReadonlyMap<DifferenceKind, number>;
  /** All but the warnings. */
  readonly differences: number;
  readonly warnings: number;
}

/** @param onNamed is told of each that is kept, at once */
export function buildDifferenceList(
  onNamed: (difference: Difference) => void = () => undefined,
): DifferenceList {
  const named: Difference[] = [];
  const places = new Set<string>();
  const counts = new Map<DifferenceKind, number>();
  const total = (isWarning: boolean): number => {
    let sum = 0;
    for (const [kind, count] of counts) if (WARNINGS.has(kind) === isWarning) sum += count;
    return sum;
  };
  return {
    name(found) {
      const place = placeOf(found);
      // Two checks may meet the same trouble from two sides.
      if (places.has(place)) return;
      const count = (counts.get(found.kind) ?? 0) + 1;
      counts.set(found.kind, count);
      if (count > LIMITS.verifyNamedPerKindMax) return;
      places.add(place);
      const difference = differenceOf(found);
      named.push(difference);
      onNamed(difference);
    },
    named,
    counts,
    get differences() {
      return total(false);
    },
    get warnings() {
      return total(true);
    },
  };
}
