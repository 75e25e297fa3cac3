/** What is counted under which name; live processes are in test/metrics.test.ts. */
import { expect, it } from "vitest";
import { newTally, observe, SECONDS, SIZES, type LaneMeasures } from "./measures.ts";
import { buildMetrics, type Metrics } from "./metrics.ts";
import type { HostStatus, Outcome, RelayStatus } from "../core/protocol.ts";
import type { WalletState } from "../core/wallet.ts";

async function linesOf(metrics: Metrics, name: string): Promise<string[]> {
  return (await metrics.text()).split("\n").filter((line) => line.startsWith(name));
}

const wallet = {} as WalletState;
const transfer = {
  transferId: "t",
  from: wallet,
  to: null,
  toWalletId: "w",
  toVersion: null,
  hold: null,
};
const rejection = { code: "wallet_not_found", walletId: "w" } as const;

it.each<[string, Outcome]>([
  ["done", { type: "done", wallet }],
  ["done", { type: "transferred", transfer: { ...transfer, status: "posted" }, replayed: false }],
  [
    "pending",
    { type: "transferred", transfer: { ...transfer, status: "pending" }, replayed: false },
  ],
  [
    "replayed",
    { type: "transferred", transfer: { ...transfer, status: "pending" }, replayed: true },
  ],
  ["replayed", { type: "replayed", walletId: "w", version: 1, transferId: null }],
  ["rejected", { type: "rejected", rejection, replayed: false }],
  ["replayed", { type: "rejected", rejection, replayed: true }],
  ["unavailable", { type: "fault", fault: "unavailable" }],
  ["overloaded", { type: "fault", fault: "overloaded" }],
  ["unknown", { type: "fault", fault: "unknown" }],
])("a command is counted as %s when its outcome is %j", async (name, outcome) => {
  const metrics = buildMetrics({ role: "gateway", version: "1" });
  metrics.commands.answered("credit", outcome, 2);
  const lines = await linesOf(metrics, "coffer_commands_total{");
  expect(lines.filter((line) => !line.endsWith(" 0"))).toEqual([
    `coffer_commands_total{type="credit",outcome="${name}"} 1`,
  ]);
  // And faults are there from the first command on
  expect(lines).toHaveLength(["unavailable", "overloaded", "unknown"].includes(name) ? 3 : 4);
});

function measuresOf(waitSeconds: number): LaneMeasures {
  const mailboxWait = newTally(SECONDS);
  observe(mailboxWait, SECONDS, waitSeconds);
  const tally = newTally(SECONDS);
  observe(tally, SECONDS, 0.25);
  return {
    mailboxWait,
    commits: { fenced: tally },
    commitEvents: newTally(SIZES),
    recovery: newTally(SECONDS),
    walletsRecovered: 3,
    busyRatio: waitSeconds,
    traces: [],
  };
}

it("what lanes measure adds up over lanes and ticks; how busy they are does not", async () => {
  const metrics = buildMetrics({ role: "host", version: "1" });
  for (const lane of ["lane-0", "lane-1", "lane-0"]) metrics.host.measured(lane, measuresOf(0.5));
  metrics.host.laneLost("lane-1");
  expect(await linesOf(metrics, "coffer_mailbox_wait_seconds_")).toEqual(
    expect.arrayContaining([
      'coffer_mailbox_wait_seconds_bucket{le="0.25"} 0',
      'coffer_mailbox_wait_seconds_bucket{le="0.5"} 3',
      "coffer_mailbox_wait_seconds_sum 1.5",
      "coffer_mailbox_wait_seconds_count 3",
    ]),
  );
  expect(await linesOf(metrics, "coffer_commit_duration_seconds_count")).toEqual([
    'coffer_commit_duration_seconds_count{result="fenced"} 3',
  ]);
  expect(await linesOf(metrics, "coffer_wallets_recovered_total")).toEqual([
    "coffer_wallets_recovered_total 9",
  ]);
  expect(await linesOf(metrics, "coffer_lane_losses_total{")).toEqual([
    'coffer_lane_losses_total{lane="lane-0"} 0',
    'coffer_lane_losses_total{lane="lane-1"} 1',
  ]);
  expect(await linesOf(metrics, "coffer_lane_busy_ratio{")).toEqual([
    'coffer_lane_busy_ratio{lane="lane-0"} 0.5',
    'coffer_lane_busy_ratio{lane="lane-1"} 0.5',
  ]);
});

it("the relay's lag and the reconciliation are shown when there are any", async () => {
  const lane = { name: "lane-0", shards: 1, serving: false, actors: 2, mailboxDepth: 3 };
  const status: HostStatus = {
    hostId: "h",
    owner: "h:1",
    startedAt: "",
    ready: false,
    leaving: false,
    shards: [1, 2],
    lanes: [{ ...lane, outstanding: 4, pendingTransfers: 5, damagedWallets: 6 }],
    relay: [{ sink: "stream", lagEvents: 7, lagMs: 1_500 } as RelayStatus],
    handOffs: [],
  };
  let latest: { differences: number; finishedAtMs: number | null; intervalMs: number };
  latest = { differences: 0, finishedAtMs: null, intervalMs: 60_000 };
  const metrics = buildMetrics({ role: "host", version: "1" });
  metrics.watchHost({
    status: () => status,
    verify: () => latest,
  });
  expect(await linesOf(metrics, "coffer_relay_lag")).toEqual([
    'coffer_relay_lag_events{sink="stream"} 7',
    'coffer_relay_lag_seconds{sink="stream"} 1.5',
  ]);
  const interval = "coffer_verify_interval_seconds 60";
  expect(await linesOf(metrics, "coffer_verify")).toEqual([interval]);
  // What a first run has found is shown before it has ended
  latest = { ...latest, differences: 1 };
  expect(await linesOf(metrics, "coffer_verify")).toEqual([
    "coffer_verify_differences 1",
    interval,
  ]);
  latest = { ...latest, differences: 2, finishedAtMs: 1_500 };
  expect(await linesOf(metrics, "coffer_verify")).toEqual([
    "coffer_verify_differences 2",
    interval,
    "coffer_verify_last_run_timestamp_seconds 1.5",
  ]);
  expect(await linesOf(metrics, "coffer_lane_")).toEqual(
    expect.arrayContaining([
      'coffer_lane_serving{lane="lane-0"} 0',
      'coffer_lane_actors{lane="lane-0"} 2',
      'coffer_lane_mailbox_depth{lane="lane-0"} 3',
      'coffer_lane_outstanding_commands{lane="lane-0"} 4',
    ]),
  );
  expect(await linesOf(metrics, "coffer_transfers_unfinished{")).toEqual([
    'coffer_transfers_unfinished{lane="lane-0"} 5',
  ]);
  expect(await linesOf(metrics, "coffer_wallets_damaged{")).toEqual([
    'coffer_wallets_damaged{lane="lane-0"} 6',
  ]);
  expect(await linesOf(metrics, "coffer_host_shards")).toEqual(["coffer_host_shards 2"]);
});
