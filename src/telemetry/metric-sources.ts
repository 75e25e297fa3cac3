/**
 * Metrics that are read when Prometheus asks, from what exists anyhow: depths, clients, states, and
 * what others count for themselves. Who has them is named here by shape only, so that neither
 * gateway nor actors are known; whoever wires them says where they are.
 */
import type { Registry } from "prom-client";
import type { Bus } from "../core/bus.ts";
import { LIMITS } from "../limits.ts";
import { observe, SECONDS, type CommitTrace } from "./measures.ts";
import { addCounter, addGauge, addHistogram, newCounts, once, type Sample } from "./prometheus.ts";
import type { NatsBusStats } from "../bus/nats-bus.ts";
import type { HostStatus, RelayStatus } from "../core/protocol.ts";

/** What is known of a feed hub. */
export interface FeedCounts {
  readonly clients: number;
  readonly slowClients: number;
  /** Distinct wallets and owners watched, and wallets counted per client. */
  readonly wallets: number;
  readonly owners: number;
  readonly watches: number;
  /**
   * Since the start: journal pages read for gaps, resets, frames that cover several changes,
   * clients cut off as too slow.
   */
  readonly repairs: number;
  readonly resets: number;
  readonly conflatedFrames: number;
  readonly tooSlow: number;
  readonly readFailures: number;
  /** Bus messages that were not changes. */
  readonly malformed: number;
}

export interface GatewaySources {
  readonly commands: { readonly pending: number };
  readonly feed: () => FeedCounts;
  /** Null: there is no rate limit. */
  readonly rateLimit: { readonly isLocal: boolean } | null;
}

export interface HostSources {
  readonly status: () => HostStatus;
  /** Webhooks that are disabled; null before the host has looked. */
  readonly webhooksDisabled?: () => number | null;
  /**
   * The reconciliation: what is known, and when a whole run has ended; null before the first has
   * ended.
   */
  readonly verify?: () => {
    readonly differences: number;
    readonly finishedAtMs: number | null;
    readonly intervalMs: number;
  };
  /** Takes what lanes tell of traced commands. */
  readonly onTraces?: (lane: string, traces: readonly CommitTrace[]) => void;
}

const one = (value: number): Sample[] => [{ value }];

export function watchGateway(
  registry: Registry,
  { commands, feed, rateLimit }: GatewaySources,
): void {
  const gauge = (name: string, help: string, read: () => number): void =>
    addGauge(registry, name, help, () => one(read()));
  const counter = (name: string, help: string, read: () => number): void =>
    addCounter(registry, name, help, () => one(read()));
  gauge("coffer_commands_pending", "Commands without an answer yet", () => commands.pending);
  gauge("coffer_feed_clients", "WebSocket clients", () => feed().clients);
  gauge(
    "coffer_feed_slow_clients",
    "WebSocket clients that get only the newest state of each wallet now",
    () => feed().slowClients,
  );
  gauge("coffer_feed_watched_wallets", "Wallets that clients watch", () => feed().wallets);
  gauge("coffer_feed_watched_owners", "Owners that clients watch", () => feed().owners);
  gauge(
    "coffer_feed_watches",
    "Wallets that are watched, counted per client",
    () => feed().watches,
  );
  counter(
    "coffer_feed_conflated_frames_total",
    "Frames that covered more than their own change, for slow clients",
    () => feed().conflatedFrames,
  );
  counter(
    "coffer_feed_cut_off_total",
    "Clients that were closed because they read too slowly",
    () => feed().tooSlow,
  );
  counter(
    "coffer_feed_repairs_total",
    "Pages of the journal that were read to fill gaps",
    () => feed().repairs,
  );
  counter(
    "coffer_feed_resets_total",
    "Snapshots sent in place of changes that could not be replayed",
    () => feed().resets,
  );
  counter(
    "coffer_feed_read_failures_total",
    "Reads of the database that failed for feeds",
    () => feed().readFailures,
  );
  counter(
    "coffer_feed_malformed_total",
    "Bus messages that were no changes",
    () => feed().malformed,
  );
  addGauge(
    registry,
    "coffer_rate_limit_local",
    "1 while clients are counted by this gateway alone, as Redis is away or not configured",
    () => (rateLimit === null ? [] : one(rateLimit.isLocal ? 1 : 0)),
  );
}

// --- Hosts ---------------------------------------------------------------------------------------

type LaneStatus = HostStatus["lanes"][number];

export function watchHost(registry: Registry, sources: HostSources): void {
  const { status, webhooksDisabled, verify } = sources;
  watchLanes(registry, status);
  addGauge(registry, "coffer_host_ready", "1 while the host serves all that it should", () =>
    one(status().ready ? 1 : 0),
  );
  addGauge(registry, "coffer_host_shards", "Shards that the host serves", () =>
    one(status().shards.length),
  );
  watchRelay(registry, () => status().relay ?? []);
  addGauge(
    registry,
    "coffer_webhooks_disabled",
    "Webhooks of the deployment that get nothing until they are replayed or removed",
    () => {
      const disabled = webhooksDisabled?.() ?? null;
      return disabled === null ? [] : one(disabled);
    },
  );
  watchBooks(registry, verify);
}

function watchLanes(registry: Registry, status: HostSources["status"]): void {
  const ofLanes = (name: string, help: string, read: (lane: LaneStatus) => number): void =>
    addGauge(
      registry,
      name,
      help,
      () => status().lanes.map((lane) => ({ labels: { lane: lane.name }, value: read(lane) })),
      ["lane"],
    );
  ofLanes("coffer_lane_serving", "1 while the lane serves all its shards", ({ serving }) =>
    serving ? 1 : 0,
  );
  ofLanes("coffer_lane_actors", "Actors in memory", ({ actors }) => actors);
  ofLanes(
    "coffer_lane_mailbox_depth",
    "Messages that wait for the lane, for a commit, a wallet or the database",
    ({ mailboxDepth }) => mailboxDepth,
  );
  ofLanes(
    "coffer_lane_outstanding_commands",
    "Commands accepted and not answered, but for those away with a question to another lane",
    ({ outstanding }) => outstanding,
  );
  ofLanes(
    "coffer_transfers_unfinished",
    "Transfers that are reserved and not settled",
    ({ pendingTransfers }) => pendingTransfers,
  );
  ofLanes(
    "coffer_wallets_damaged",
    "Wallets whose rows cannot be, and which wait to be mended",
    ({ damagedWallets }) => damagedWallets ?? 0,
  );
}

function watchRelay(registry: Registry, relay: () => readonly RelayStatus[]): void {
  const ofSinks = (name: string, help: string, read: (sink: RelayStatus) => number): void =>
    addGauge(
      registry,
      name,
      help,
      () => relay().map((status) => ({ labels: { sink: status.sink }, value: read(status) })),
      ["sink"],
    );
  ofSinks(
    "coffer_relay_lag_events",
    "Committed events that a sink of the event relay has not got yet",
    ({ lagEvents }) => lagEvents,
  );
  ofSinks(
    "coffer_relay_lag_seconds",
    "Age of the oldest committed event that a sink of the event relay has not got yet",
    ({ lagMs }) => lagMs / 1_000,
  );
}

/** @param verify undefined where there are no reconciliations */
function watchBooks(registry: Registry, verify: HostSources["verify"]): void {
  addGauge(
    registry,
    "coffer_verify_differences",
    "Differences between events and state that reconciliations have found, until one finds none",
    () => {
      const latest = verify?.();
      if (latest === undefined) return [];
      // None is certain only after a whole run; one is as soon as it is found.
      const { differences, finishedAtMs } = latest;
      return finishedAtMs === null && differences === 0 ? [] : one(differences);
    },
  );
  addGauge(
    registry,
    "coffer_verify_interval_seconds",
    "Pause between two reconciliations; absent where there are none",
    () => (verify === undefined ? [] : one(verify().intervalMs / 1e3)),
  );
  addGauge(
    registry,
    "coffer_verify_last_run_timestamp_seconds",
    "When the latest reconciliation ended, in seconds since 1970",
    () => {
      const finishedAtMs = verify?.().finishedAtMs ?? null;
      return finishedAtMs === null ? [] : one(finishedAtMs / 1e3);
    },
  );
}

// --- The bus -------------------------------------------------------------------------------------

export function watchBus(
  registry: Registry,
  bus: Pick<Bus, "state" | "ping">,
  counts: (() => NatsBusStats) | null,
): () => void {
  const roundTrips = once(
    addHistogram(
      registry,
      "coffer_bus_round_trip_seconds",
      "Round trips to the bus and back, tried from time to time",
      SECONDS,
    ),
  );
  const failed = newCounts(
    registry,
    "coffer_bus_probe_failures_total",
    "Round trips to the bus that got no answer",
  );
  addGauge(registry, "coffer_bus_connected", "1 while the bus is there", () =>
    one(bus.state === "connected" ? 1 : 0),
  );
  if (counts !== null) {
    const counter = (name: string, help: string, read: (counts: NatsBusStats) => number): void =>
      addCounter(registry, name, help, () => one(read(counts())));
    counter("coffer_bus_published_total", "Bus messages sent", (it) => it.published);
    counter("coffer_bus_delivered_total", "Bus messages received", (it) => it.delivered);
    counter(
      "coffer_bus_undelivered_total",
      "Bus messages that are known to have reached nobody",
      (it) => it.undelivered,
    );
    counter("coffer_bus_malformed_total", "Bus messages that were not JSON", (it) => it.malformed);
    counter("coffer_bus_reconnects_total", "Times NATS was there again", (it) => it.reconnects);
    addGauge(
      registry,
      "coffer_bus_in_flight_bytes",
      "Bytes handed to NATS that no round trip has confirmed yet",
      () => one(counts().inFlightBytes),
    );
  }
  const probe = (): void =>
    void bus.ping(LIMITS.healthCheckMs).then(
      (elapsedMs) => observe(roundTrips(), SECONDS, elapsedMs / 1e3),
      () => failed("", 1),
    );
  const timer = setInterval(probe, LIMITS.busProbeMs).unref();
  return () => clearInterval(timer);
}
