/**
 * The reconciliation on real PostgreSQL: books in order are found in order, also in two databases;
 * and whatever somebody does to the rows around the triggers is named, in its place and nothing
 * besides.
 */
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { shardOf } from "../src/core/shard.ts";
import { verify, type VerifyReport } from "../src/verify/verify.ts";
import { buildWorld, placesIn, type World } from "./stage/books.ts";
import { withLimits } from "./stage/lanes.ts";

let world: World;

beforeAll(async () => {
  world = await buildWorld("verify");
});

afterAll(() => world.close());

const placesOf = (report: VerifyReport): string[] => placesIn(world, report);

describe("books in order", () => {
  it("are found in order, and everything was looked at", async () => {
    const report = await verify({ databaseUrls: world.urls });
    expect(placesOf(report)).toEqual([]);
    expect(report).toMatchObject({ wallets: 3, events: 18, transfers: 3, differences: 0 });
  });

  it("are counted as what they are, from nothing to all of each", async () => {
    const told: string[] = [];
    await verify({
      databaseUrls: world.urls,
      onProgress: ({ stage, done, total }) => told.push(`${stage} ${done}/${total}`),
    });
    expect([...new Set(told)].filter((each) => !each.startsWith("events"))).toEqual([
      "transfers 0/3",
      "transfers 2/3",
      "transfers 3/3",
      "verdicts 0/2",
      "verdicts 2/2",
      "books 0/2",
      "books 1/2",
      "books 2/2",
    ]);
    expect(told[0]).toBe("events 0/18");
    expect(told.findLast((each) => each.startsWith("events"))).toBe("events 18/18");
  });

  it("are found in order wallet by wallet", async () => {
    const report = await verify({ databaseUrls: world.urls, walletId: world.anna });
    expect(placesOf(report)).toEqual([]);
    expect(report).toMatchObject({ wallets: 1, events: 11, transfers: 2 });
  });
});

interface Tampering {
  readonly what: string;
  readonly database?: number;
  sql(world: World): [string, unknown[]?];
  readonly expected: readonly string[];
}

const TAMPERINGS: readonly Tampering[] = [
  {
    what: "an event's amount",
    sql: ({ anna }) => [
      "UPDATE events SET amount = amount + 1 WHERE wallet_id = $1 AND version = 3",
      [anna],
    ],
    expected: ["event_state anna:3 (balance)", "hash_wrong anna:3", "trial_balance (USD)"],
  },
  {
    what: "an event's amount and balance",
    sql: ({ anna }) => [
      "UPDATE events SET amount = amount + 1, balance = balance + 1 WHERE wallet_id = $1 AND version = 3",
      [anna],
    ],
    expected: ["event_state anna:4 (balance)", "hash_wrong anna:3", "trial_balance (USD)"],
  },
  {
    what: "what an event says was held",
    sql: ({ anna }) => ["UPDATE events SET held = 1 WHERE wallet_id = $1 AND version = 3", [anna]],
    expected: ["event_state anna:3 (held)", "event_state anna:4 (held)", "hash_wrong anna:3"],
  },
  {
    what: "an event's status",
    sql: ({ anna }) => [
      "UPDATE events SET status = 'SUSPENDED' WHERE wallet_id = $1 AND version = 3",
      [anna],
    ],
    expected: ["event_state anna:3 (status)", "event_state anna:4 (status)", "hash_wrong anna:3"],
  },
  {
    what: "an event's shard",
    sql: ({ anna, bert }) => [
      "UPDATE events SET shard = $2 WHERE wallet_id = $1 AND version = 3",
      [anna, shardOf(bert)],
    ],
    expected: [
      "event_state anna:3 (shard)",
      "position_gap (shard of anna)",
      "position_gap (shard of bert)",
    ],
  },
  {
    what: "an event that cannot have happened",
    sql: ({ anna }) => [
      "UPDATE events SET type = 'WalletClosed', amount = NULL, account = NULL WHERE wallet_id = $1 AND version = 3",
      [anna],
    ],
    expected: [
      "event_impossible anna:3 (WalletClosed)",
      "hash_wrong anna:3",
      "trial_balance (USD)",
    ],
  },
  {
    what: "a description",
    sql: ({ anna }) => [
      "UPDATE events SET description = 'rent' WHERE wallet_id = $1 AND version = 3",
      [anna],
    ],
    expected: ["hash_wrong anna:3"],
  },
  {
    what: "an account",
    sql: ({ anna }) => [
      "UPDATE events SET account = 'system:bonus' WHERE wallet_id = $1 AND version = 3",
      [anna],
    ],
    expected: ["event_account anna:3", "hash_wrong anna:3"],
  },
  {
    what: "a type that nobody writes",
    sql: ({ anna }) => [
      "UPDATE events SET type = 'WalletRobbed' WHERE wallet_id = $1 AND version = 3",
      [anna],
    ],
    expected: ["event_unreadable anna:3", "hash_wrong anna:3"],
  },
  {
    what: "the last event gone",
    sql: ({ carl }) => ["DELETE FROM events WHERE wallet_id = $1 AND version = 2", [carl]],
    expected: ["head_wrong carl:1", "wallet_ahead carl:2"],
  },
  {
    what: "an event in the middle gone",
    sql: ({ anna }) => ["DELETE FROM events WHERE wallet_id = $1 AND version = 4", [anna]],
    expected: [
      "event_missing anna:4",
      "hash_wrong anna:5",
      "position_gap (shard of anna)",
      "trial_balance (USD)",
    ],
  },
  {
    what: "the first event gone",
    sql: ({ anna }) => ["DELETE FROM events WHERE wallet_id = $1 AND version = 0", [anna]],
    expected: [
      "event_missing anna:0",
      "hash_wrong anna:1",
      "position_gap (shard of anna)",
      "wallet_row anna:10 (currency)",
      "wallet_row anna:10 (decimal_places)",
      "wallet_row anna:10 (metadata)",
      "wallet_row anna:10 (owner_id)",
    ],
  },
  {
    what: "an event put behind the last",
    sql: ({ carl }) => [
      `INSERT INTO events (wallet_id, version, type, amount, balance, held, status, account, occurred_at, shard, position)
       SELECT wallet_id, 3, 'WalletCredited', 50, balance + 50, 0, status, 'system:world', occurred_at, shard, position + 1000
       FROM events WHERE wallet_id = $1 AND version = 2`,
      [carl],
    ],
    expected: [
      "hash_missing carl:3",
      "head_wrong carl:3",
      "position_gap (shard of carl)",
      "trial_balance (USD)",
      "wallet_row carl:3 (balance)",
      "wallet_row carl:3 (version)",
    ],
  },
  {
    what: "two events in each other's place",
    sql: ({ anna }) => [
      `UPDATE events e SET amount = o.amount, balance = o.balance, command_id = o.command_id || '-', hash = o.hash
       FROM events o WHERE e.wallet_id = $1 AND o.wallet_id = $1
         AND (e.version, o.version) IN ((3, 4), (4, 3))`,
      [anna],
    ],
    expected: [
      "event_state anna:3 (balance)",
      "event_state anna:4 (balance)",
      "event_state anna:5 (balance)",
      "hash_wrong anna:3",
      "hash_wrong anna:4",
      "hash_wrong anna:5",
    ],
  },
  {
    what: "a hash gone",
    sql: ({ anna }) => [
      "UPDATE events SET hash = NULL WHERE wallet_id = $1 AND version = 3",
      [anna],
    ],
    expected: ["hash_missing anna:3", "hash_wrong anna:4"],
  },
  {
    what: "the first hash gone",
    sql: ({ anna }) => [
      "UPDATE events SET hash = NULL WHERE wallet_id = $1 AND version = 0",
      [anna],
    ],
    expected: ["hash_missing anna:0", "hash_wrong anna:1"],
  },
  {
    what: "a hash gone behind others, and said to be from before there were any",
    sql: ({ anna }) => [
      `UPDATE chain SET started_at = '2100-01-01';
       UPDATE events SET hash = NULL WHERE wallet_id = '${anna}' AND version = 3`,
    ],
    expected: ["hash_missing anna:3", "hash_wrong anna:4"],
  },
  {
    what: "what a wallet has held",
    sql: ({ anna }) => ["UPDATE wallets SET held = 1 WHERE wallet_id = $1", [anna]],
    expected: ["wallet_row anna:10 (held)"],
  },
  {
    what: "a wallet's balance",
    sql: ({ anna }) => ["UPDATE wallets SET balance = balance + 1 WHERE wallet_id = $1", [anna]],
    expected: ["trial_balance (USD)", "wallet_row anna:10 (balance)"],
  },
  {
    what: "a wallet's owner, asset, metadata and times",
    sql: ({ anna }) => [
      `UPDATE wallets SET owner_id = 'thief', currency = 'EUR', metadata = '{}', created_at = created_at - interval '1 s',
         updated_at = updated_at + interval '1 s', status = 'SUSPENDED', decimal_places = 3 WHERE wallet_id = $1`,
      [anna],
    ],
    expected: [
      "transit (EUR)",
      "transit (USD)",
      "wallet_row anna:10 (created_at)",
      "wallet_row anna:10 (currency)",
      "wallet_row anna:10 (decimal_places)",
      "wallet_row anna:10 (metadata)",
      "wallet_row anna:10 (owner_id)",
      "wallet_row anna:10 (status)",
      "wallet_row anna:10 (updated_at)",
    ],
  },
  {
    what: "a wallet's version",
    sql: ({ carl }) => ["UPDATE wallets SET version = 1 WHERE wallet_id = $1", [carl]],
    expected: ["wallet_row carl:2 (version)"],
  },
  {
    what: "a wallet's shard and head",
    sql: ({ carl }) => [
      "UPDATE wallets SET shard = (shard + 2) % 256, hash = sha256('') WHERE wallet_id = $1",
      [carl],
    ],
    expected: ["head_wrong carl:2", "wallet_row carl: (shard)"],
  },
  {
    what: "a wallet's row gone",
    sql: ({ carl }) => ["DELETE FROM wallets WHERE wallet_id = $1", [carl]],
    expected: ["wallet_missing carl:"],
  },
  {
    what: "a wallet's events gone",
    sql: ({ carl }) => ["DELETE FROM events WHERE wallet_id = $1", [carl]],
    expected: ["trial_balance (USD)", "wallet_without_events carl:"],
  },
  {
    what: "a command accepted and rejected",
    sql: ({ carl, rejected }) => [
      "UPDATE rejections SET command_id = 'patch' WHERE wallet_id = $1 AND command_id = $2",
      [carl, rejected],
    ],
    expected: ["command_rejected_too carl:2 (patch)"],
  },
  {
    what: "a transfer posted that was returned",
    sql: ({ returned }) => [
      "UPDATE transfers SET status = 'posted', to_version = 0, rejection = NULL WHERE transfer_id = $1",
      [returned.transferId],
    ],
    expected: ["transfer_returned anna:10 returned", "transfer_status anna:9 returned (status)"],
  },
  {
    what: "a transfer returned that was posted",
    sql: ({ posted }) => [
      `UPDATE transfers SET status = 'returned', to_version = NULL, rejection = '{"code": "wallet_not_found"}' WHERE transfer_id = $1`,
      [posted.transferId],
    ],
    expected: ["transfer_returned anna: posted", "transfer_status anna:8 posted (status)"],
  },
  {
    what: "a transfer settled that is under way",
    database: 1,
    sql: ({ pending }) => [
      "UPDATE transfers SET status = 'posted', to_version = 3, settled_at = created_at WHERE transfer_id = $1",
      [pending.transferId],
    ],
    expected: ["verdict_missing carl:3 pending"],
  },
  {
    what: "a transfer's amount",
    sql: ({ posted }) => [
      "UPDATE transfers SET amount = 301 WHERE transfer_id = $1",
      [posted.transferId],
    ],
    expected: ["transfer_received bert:2 posted", "transfer_sent anna:8 posted"],
  },
  {
    what: "a transfer's payee",
    sql: ({ posted, carl }) => [
      "UPDATE transfers SET to_wallet = $2 WHERE transfer_id = $1",
      [posted.transferId, carl],
    ],
    expected: ["transfer_sent anna:8 posted", "transfer_status anna:8 posted (to_wallet)"],
  },
  {
    what: "a transfer's shard",
    sql: ({ posted }) => [
      "UPDATE transfers SET shard = (shard + 2) % 256 WHERE transfer_id = $1",
      [posted.transferId],
    ],
    expected: ["transfer_place anna: posted"],
  },
  {
    what: "a transfer's record gone",
    sql: ({ posted }) => ["DELETE FROM transfers WHERE transfer_id = $1", [posted.transferId]],
    expected: ["transfer_missing anna:8 posted", "transfer_missing bert: posted", "transit (USD)"],
  },
  {
    what: "a verdict gone",
    database: 1,
    sql: ({ posted }) => [
      "DELETE FROM transfer_verdicts WHERE transfer_id = $1",
      [posted.transferId],
    ],
    expected: ["verdict_missing bert:2 posted"],
  },
  {
    what: "a refusal gone",
    database: 1,
    sql: ({ returned }) => [
      "DELETE FROM transfer_verdicts WHERE transfer_id = $1",
      [returned.transferId],
    ],
    expected: ["verdict_missing nobody: returned"],
  },
  {
    what: "a verdict from nowhere",
    database: 1,
    sql: ({ bert }) => [
      "INSERT INTO transfer_verdicts VALUES ('forged', $1, 1, NULL, now())",
      [bert],
    ],
    expected: ["transfer_missing bert: forged", "transfer_received bert:1 forged"],
  },
  {
    what: "the payee's event gone",
    database: 1,
    sql: ({ bert }) => ["DELETE FROM events WHERE wallet_id = $1 AND version = 2", [bert]],
    expected: [
      "event_missing bert:2",
      "hash_wrong bert:3",
      "position_gap (shard of bert)",
      "transfer_received bert:2 posted",
      "trial_balance (USD)",
    ],
  },
  {
    what: "what a transfer's record says besides",
    sql: ({ posted }) => [
      `UPDATE transfers SET currency = 'EUR', decimal_places = 0, command_id = 'c', correlation_id = 'd', description = 'e',
         hold_id = 'f' WHERE transfer_id = $1`,
      [posted.transferId],
    ],
    expected: [
      "transfer_record anna:8 posted (command_id)",
      "transfer_record anna:8 posted (correlation_id)",
      "transfer_record anna:8 posted (currency)",
      "transfer_record anna:8 posted (decimal_places)",
      "transfer_record anna:8 posted (description)",
      "transfer_record anna:8 posted (hold_id)",
    ],
  },
  {
    what: "why a transfer was refused",
    database: 1,
    sql: ({ returned }) => [
      `UPDATE transfer_verdicts SET rejection = '{"code": "wallet_not_active"}' WHERE transfer_id = $1`,
      [returned.transferId],
    ],
    expected: ["transfer_record anna:9 returned (rejection)"],
  },
  {
    what: "a hold of a wallet that nobody knows",
    sql: ({ nobody }) => [
      `INSERT INTO holds (wallet_id, hold_id, shard, amount, captured, status, kind, created_at)
       VALUES ($1, 'h1', 0, 5, 0, 'ACTIVE', 'OTHER', now())`,
      [nobody],
    ],
    expected: ["hold_without_events nobody: (h1)"],
  },
  {
    what: "two events in each other's place among their shard's",
    sql: ({ anna }) => [
      `ALTER TABLE events DROP CONSTRAINT events_position_check;
       UPDATE events SET position = -position WHERE wallet_id = '${anna}' AND version IN (3, 4);
       UPDATE events e SET position = -o.position FROM (SELECT version, position FROM events WHERE wallet_id = '${anna}') o
       WHERE e.wallet_id = '${anna}' AND (e.version, o.version) IN ((3, 4), (4, 3))`,
    ],
    expected: ["guard_off (check events_position_check on events)", "position_order anna:4"],
  },
  {
    what: "the totals that a trial balance goes on from",
    sql: () => [
      "SELECT advance_totals(1000, 0); UPDATE account_totals SET balance = balance + 1 WHERE account = 'system:world'",
    ],
    expected: ["account_totals (USD system:world in database 1)"],
  },
  {
    what: "when transfers began and were settled",
    sql: ({ posted, pending }) => [
      `UPDATE transfers SET created_at = created_at - interval '1 s' WHERE transfer_id = '${posted.transferId}';
       UPDATE transfers SET settled_at = settled_at - interval '1 s' WHERE transfer_id <> '${pending.transferId}'`,
    ],
    expected: [
      "transfer_record anna:8 posted (created_at)",
      "transfer_record anna:8 posted (settled_at)",
      "transfer_record anna:9 returned (settled_at)",
    ],
  },
  {
    what: "when a payee decided",
    database: 1,
    sql: ({ posted }) => [
      "UPDATE transfer_verdicts SET decided_at = decided_at + interval '1 s' WHERE transfer_id = $1",
      [posted.transferId],
    ],
    expected: ["transfer_received bert:2 posted (decided_at)"],
  },
  {
    what: "a shard's row gone",
    sql: ({ anna, bert }) => [
      // The other database's shard has a row here that nobody reads.
      "DELETE FROM shards WHERE shard IN ($1, $2)",
      [shardOf(anna), shardOf(bert)],
    ],
    expected: ["shard_missing (shard of anna)"],
  },
  {
    what: "a trigger's function that refuses nothing",
    sql: () => [
      `CREATE OR REPLACE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS
       $$ BEGIN RETURN coalesce(new, old); END $$`,
    ],
    expected: ["guard_off (function refuse_change)"],
  },
  {
    what: "an index over other columns, and one that is no longer unique",
    sql: () => [
      `DROP INDEX events_command; CREATE UNIQUE INDEX events_command ON events (wallet_id, version, command_id);
       DROP INDEX events_position; CREATE INDEX events_position ON events (shard, position)`,
    ],
    expected: [
      "guard_off (unique index events_command)",
      "guard_off (unique index events_position)",
    ],
  },
  {
    what: "checks and keys gone",
    sql: () => [
      `ALTER TABLE events DROP CONSTRAINT events_balance_check;
       ALTER TABLE wallets DROP CONSTRAINT wallets_check;
       ALTER TABLE wallets ADD CONSTRAINT wallets_check CHECK (held >= 0 AND held <= balance) NOT VALID;
       ALTER TABLE transfers DROP CONSTRAINT transfers_amount_check;
       ALTER TABLE transfers ADD CONSTRAINT transfers_amount_check CHECK (amount > -5);
       ALTER TABLE holds DROP CONSTRAINT holds_pkey;
       ALTER TABLE assets DROP CONSTRAINT assets_pkey;
       ALTER TABLE shards DROP CONSTRAINT shards_pkey`,
    ],
    expected: [
      "guard_off (check events_balance_check on events)",
      "guard_off (check transfers_amount_check on transfers)",
      "guard_off (check wallets_check on wallets)",
      "guard_off (unique index assets_pkey)",
      "guard_off (unique index holds_pkey)",
      "guard_off (unique index shards_pkey)",
    ],
  },
  {
    what: "triggers that fire for some only, or never",
    sql: () => [
      `DROP TRIGGER events_append_only ON events;
       CREATE TRIGGER events_append_only BEFORE DELETE ON events FOR EACH ROW EXECUTE FUNCTION refuse_change();
       DROP TRIGGER verdicts_append_only ON transfer_verdicts;
       CREATE TRIGGER verdicts_append_only BEFORE UPDATE OR DELETE ON transfer_verdicts
         FOR EACH ROW WHEN (false) EXECUTE FUNCTION refuse_change();
       ALTER TABLE chain DISABLE TRIGGER chain_fixed`,
    ],
    expected: [
      "guard_off (trigger chain_fixed on chain)",
      "guard_off (trigger events_append_only on events)",
      "guard_off (trigger verdicts_append_only on transfer_verdicts)",
    ],
  },
  {
    what: "a database whose sessions fire no triggers",
    sql: () => [
      "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET session_replication_role = replica', current_database()); END $$",
    ],
    expected: [
      "guard_off (trigger asset_keys_append_only on asset_keys)",
      "guard_off (trigger asset_keys_no_truncate on asset_keys)",
      "guard_off (trigger assets_append_only on assets)",
      "guard_off (trigger assets_no_truncate on assets)",
      "guard_off (trigger chain_fixed on chain)",
      "guard_off (trigger deployment_fixed on deployment)",
      "guard_off (trigger events_append_only on events)",
      "guard_off (trigger events_no_truncate on events)",
      "guard_off (trigger verdicts_append_only on transfer_verdicts)",
      "guard_off (trigger verdicts_no_truncate on transfer_verdicts)",
    ],
  },
  {
    what: "a trigger that is off",
    sql: () => ["ALTER TABLE events DISABLE TRIGGER events_append_only"],
    expected: ["guard_off (trigger events_append_only on events)"],
  },
  {
    what: "one command id twice",
    sql: ({ anna }) => [
      "DROP INDEX events_command; UPDATE events SET command_id = 'credit-2' WHERE wallet_id = '" +
        `${anna}' AND version = 3`,
    ],
    expected: [
      "command_twice anna: (credit-2)",
      "guard_off (unique index events_command)",
      "hash_wrong anna:3",
    ],
  },
];

describe("what somebody did around the triggers is named", () => {
  it.each(TAMPERINGS)("$what", async ({ database = 0, sql, expected }) => {
    // Nobody writes meanwhile.
    withLimits({ verifyRecheckMs: 10 });
    const copy = await world.copy(database);
    onTestFinished(() => copy.close());
    await copy.tamper(database, ...sql(world));
    const report = await verify({ databaseUrls: copy.urls });
    expect(placesOf(report)).toEqual(expected);
    expect(report.differences).toBe(report.named.length);
  });
});

it("a transfer that is pending for long is named, and is no difference", async () => {
  // These books are from a year to come.
  const report = await verify({ databaseUrls: world.urls, stuckMs: -Number.MAX_SAFE_INTEGER });
  expect(placesOf(report)).toEqual(["transfer_stuck bert: pending"]);
  expect(report).toMatchObject({ differences: 0, warnings: 1 });
});
