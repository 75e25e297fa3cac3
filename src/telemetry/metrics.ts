/**
 * The metrics of one process, for `GET /metrics`: every name, what it means, and the small ports by
 * which gateway and actors count. Names and units follow Prometheus' conventions, all begin with
 * `coffer_`, and docs/operations.md lists each with the question that it answers; a test holds the
 * page, the dashboard and a live answer together. What is on the way of every command is counted in
 * plain numbers; what exists anyhow is in `metric-sources.ts`.
 */
import { collectDefaultMetrics, Registry } from "prom-client";
import type { Bus } from "../core/bus.ts";
import type { Role } from "../config.ts";
import { LIMITS } from "../limits.ts";
import { add, observe, SECONDS, SIZES } from "./measures.ts";
import type { CommitTrace, LaneMeasures, Tally } from "./measures.ts";
import {
  watchBus,
  watchGateway,
  watchHost,
  type GatewaySources,
  type HostSources,
} from "./metric-sources.ts";
import { addCounter, addGauge, addHistogram, newCounts, once, type Labels } from "./prometheus.ts";
import type { NatsBusStats } from "../bus/nats-bus.ts";
import type { Fault, Outcome } from "../core/protocol.ts";

/** What the command desk tells. */
export interface CommandMeter {
  answered(type: string, outcome: Outcome, elapsedMs: number): void;
  /** A command is sent once more. */
  resent(): void;
}

/** What a host and the gates of its lanes tell. */
export interface HostMeter {
  /** A batch of so many messages goes to a lane. */
  batch(messages: number): void;
  measured(lane: string, measures: LaneMeasures): void;
  /** A lane's thread ended. */
  laneLost(lane: string): void;
  shardsMoved(type: "taken" | "handed over" | "lost", shards: number): void;
}

export interface Metrics {
  readonly contentType: string;
  /** In Prometheus' text format. */
  text(): Promise<string>;
  readonly commands: CommandMeter;
  readonly host: HostMeter;
  /**
   * Counts the answers of one HTTP route, by method, or of one NATS endpoint; ask for it once and
   * keep it.
   */
  route(method: string, route: string): (status: number, elapsedMs: number) => void;
  endpoint(name: string): (status: number, elapsedMs: number) => void;
  /** An answer that is an error, by its code in `gateway/errors.ts`. */
  error(code: string): void;
  watchGateway(sources: GatewaySources): void;
  watchHost(sources: HostSources): void;
  /** Looks at the bus from time to time, until the returned function is called. */
  watchBus(bus: Pick<Bus, "state" | "ping">, counts: (() => NatsBusStats) | null): () => void;
}

export function buildMetrics(process: { role: Role; version: string }): Metrics {
  const registry = new Registry();
  collectDefaultMetrics({
    register: registry,
    prefix: "coffer_",
    eventLoopMonitoringPrecision: LIMITS.loopLagSampleMs,
  });
  // Gauges by name of a counter, and no more than the sums of others: `promtool check metrics`
  // takes offence.
  for (const what of ["handles", "requests", "resources"]) {
    registry.removeSingleMetric(`coffer_nodejs_active_${what}_total`);
  }
  addGauge(
    registry,
    "coffer_build_info",
    "Always 1; the labels say what runs",
    () => [{ labels: { ...process }, value: 1 }],
    ["version", "role"],
  );
  let onTraces: HostSources["onTraces"];
  return {
    contentType: registry.contentType,
    text: () => registry.metrics(),
    commands: buildCommandMeter(registry),
    host: buildHostMeter(registry, (lane, traces) => onTraces?.(lane, traces)),
    ...buildAnswerMeter(registry),
    watchGateway: (sources) => watchGateway(registry, sources),
    watchHost(sources) {
      ({ onTraces } = sources);
      watchHost(registry, sources);
    },
    watchBus: (bus, counts) => watchBus(registry, bus, counts),
  };
}

// --- Answers -------------------------------------------------------------------------------------

/** Below this a status is one of HTTP's. */
const STATUS_MAX = 600;

function buildAnswerMeter(registry: Registry): Pick<Metrics, "route" | "endpoint" | "error"> {
  const http = addHistogram(
    registry,
    "coffer_http_request_duration_seconds",
    "HTTP requests from their headers to their last byte, by route and status",
    SECONDS,
  );
  const nats = addHistogram(
    registry,
    "coffer_nats_request_duration_seconds",
    "Requests to the NATS service from their receipt to their answer, by endpoint and status",
    SECONDS,
  );
  const errors = new Map<string, number>([["internal_error", 0]]);
  addCounter(
    registry,
    "coffer_errors_total",
    "Answers over HTTP and NATS that are errors, by code",
    () => Array.from(errors, ([code, value]) => ({ labels: { code }, value })),
    ["code"],
  );
  return {
    route: (method, route) => byStatus(http, { method, route }),
    endpoint: (endpoint) => byStatus(nats, { endpoint }),
    error: (code) => void errors.set(code, (errors.get(code) ?? 0) + 1),
  };
}

function byStatus(histogram: (labels: Labels) => Tally, labels: Labels) {
  const tallies: Tally[] = [];
  return (status: number, elapsedMs: number): void => {
    const index = status < STATUS_MAX ? status : STATUS_MAX;
    const tally = (tallies[index] ??= histogram({ ...labels, status: String(index) }));
    observe(tally, SECONDS, elapsedMs / 1e3);
  };
}

// --- Commands ------------------------------------------------------------------------------------

/**
 * What became of a command, for an operator: a repeat that got its first answer again is no new
 * work.
 */
function outcomeOf(outcome: Outcome): string {
  switch (outcome.type) {
    case "done":
      return "done";
    case "transferred":
      if (outcome.replayed) return "replayed";
      return outcome.transfer.status === "pending" ? "pending" : "done";
    case "replayed":
      return "replayed";
    case "rejected":
      return outcome.replayed ? "replayed" : "rejected";
    case "fault":
      return outcome.fault;
    default:
      return outcome satisfies never;
  }
}

function buildCommandMeter(registry: Registry): CommandMeter {
  const histogram = addHistogram(
    registry,
    "coffer_command_duration_seconds",
    "Commands from the gateway's desk over the bus to a commit and back, by type",
    SECONDS,
  );
  interface Kind {
    readonly tally: Tally;
    readonly outcomes: Map<string, number>;
  }
  const kinds = new Map<string, Kind>();
  let resent = 0;
  addCounter(
    registry,
    "coffer_commands_total",
    "Commands that were answered, by type and outcome",
    () =>
      [...kinds].flatMap(([type, { outcomes }]) =>
        Array.from(outcomes, ([outcome, value]) => ({ labels: { type, outcome }, value })),
      ),
    ["type", "outcome"],
  );
  addCounter(
    registry,
    "coffer_command_resends_total",
    "Times a command was sent again, as its shard's owner was away or gave no answer",
    () => [{ value: resent }],
  );
  return {
    answered(type, outcome, elapsedMs) {
      let kind = kinds.get(type);
      if (kind === undefined) {
        // Faults from 0 on: a counter that begins with its first one shows no increase.
        const faults = ["unavailable", "overloaded", "unknown"] satisfies Fault[];
        kind = { tally: histogram({ type }), outcomes: new Map(faults.map((each) => [each, 0])) };
        kinds.set(type, kind);
      }
      observe(kind.tally, SECONDS, elapsedMs / 1e3);
      const name = outcomeOf(outcome);
      kind.outcomes.set(name, (kind.outcomes.get(name) ?? 0) + 1);
    },
    resent() {
      resent += 1;
    },
  };
}

// --- Hosts ---------------------------------------------------------------------------------------

function buildHostMeter(
  registry: Registry,
  takeTraces: (lane: string, traces: readonly CommitTrace[]) => void,
): HostMeter {
  const histogram = (
    name: string,
    help: string,
    bounds: readonly number[],
  ): ((labels?: Labels) => Tally) => addHistogram(registry, name, help, bounds);
  const batches = once(
    histogram("coffer_lane_batch_messages", "Messages that go to a lane together", SIZES),
  );
  const waits = once(
    histogram(
      "coffer_mailbox_wait_seconds",
      "Commands from their arrival at the host to the start of the commit that has their outcome",
      SECONDS,
    ),
  );
  const commits = byLabel(
    histogram("coffer_commit_duration_seconds", "Commits to PostgreSQL, by result", SECONDS),
    "result",
  );
  const events = once(
    histogram("coffer_commit_events", "Events in one commit that succeeded", SIZES),
  );
  const recoveries = once(
    histogram("coffer_recovery_duration_seconds", "Reads that wake actors", SECONDS),
  );
  const counts = {
    recovered: newCounts(registry, "coffer_wallets_recovered_total", "Wallets read to wake actors"),
    lost: newCounts(registry, "coffer_lane_losses_total", "Threads of lanes that ended", "lane"),
    moved: newCounts(registry, "coffer_shards_moved_total", "Shards that came or went", "type"),
  };
  const busyRatios = new Map<string, number>();
  addGauge(
    registry,
    "coffer_lane_busy_ratio",
    "Share of time in which the lane's thread was at work, as of its last tick",
    () => Array.from(busyRatios, ([lane, value]) => ({ labels: { lane }, value })),
    ["lane"],
  );
  return {
    batch: (messages) => observe(batches(), SIZES, messages),
    measured(lane, measures) {
      add(waits(), measures.mailboxWait);
      add(events(), measures.commitEvents);
      add(recoveries(), measures.recovery);
      for (const [result, tally] of Object.entries(measures.commits)) add(commits(result), tally);
      if (measures.walletsRecovered > 0) counts.recovered("", measures.walletsRecovered);
      // From 0 on: a counter that begins with its first loss shows no increase.
      if (!busyRatios.has(lane)) counts.lost(lane, 0);
      busyRatios.set(lane, measures.busyRatio);
      if (measures.traces.length > 0) takeTraces(lane, measures.traces);
    },
    laneLost: (lane) => counts.lost(lane, 1),
    shardsMoved(type, shards) {
      for (const each of ["taken", "handed over", "lost"]) {
        counts.moved(each, each === type ? shards : 0);
      }
    },
  };
}

function byLabel(histogram: (labels: Labels) => Tally, label: string): (value: string) => Tally {
  const tallies = new Map<string, Tally>();
  return (value) => {
    let tally = tallies.get(value);
    if (tally === undefined) tallies.set(value, (tally = histogram({ [label]: value })));
    return tally;
  };
}
