/**
 * What is measured: the shapes of load, the systems that carry each, and what Coffer has to reach
 * beside them. A shape is plain data, so that the wrk script, the Node generator and the check
 * afterwards all work from one description. Every system serves the same wallets under the same
 * paths. Credits and transfers are small against the starting balances: no request of a measurement
 * can fail for lack of money.
 */
export type SystemName =
  | "coffer"
  | "protocol"
  | "rowlock"
  | "empty"
  | "postings"
  | ClusterName
  | BatchName;
/** The same Coffer, with so many commands in a request. */
export type BatchName = "batch-1000" | "batch-10000";
/** Coffer as one gateway and one or two hosts, over NATS. */
export type ClusterName = "one-host" | "two-hosts";
export type ShapeName =
  | "credits"
  | "hot-credits"
  | "transfers"
  | "hot-transfers"
  | "latency"
  | "batch"
  | "cluster";

/**
 * Which requests a generator sends: each one picks its wallet or wallets at random, as far as the
 * traffic leaves a choice.
 */
export type Traffic =
  | { type: "credit"; to: "uniform" | "hot" }
  | { type: "transfer"; from: "uniform" | "payer" };

/**
 * How commands travel where it is not one in a request: in batches, or as calls of a function in
 * the database.
 */
export type Way = { type: "batches"; size: number } | { type: "postings"; databaseUrl: string };

export interface Shape {
  name: ShapeName;
  title: string;
  traffic: Traffic;
  /** Undefined: as many as the command line says. */
  connections?: number;
  /** In the order in which they are shown; Coffer first. */
  systems: readonly SystemName[];
}

/**
 * What batches are held against: the same commands one by one. A cluster: that of one host against
 * one process, that of two against that of one. And the protocol: what a user would pick instead,
 * as Coffer with its defaults is.
 */
export const BASELINES: Readonly<Record<ClusterName | BatchName | "protocol", SystemName>> = {
  protocol: "rowlock",
  "batch-1000": "coffer",
  "batch-10000": "coffer",
  "one-host": "coffer",
  "two-hosts": "one-host",
};

/**
 * Of the Coffer whose transfers all take the two-phase protocol, also those between two wallets of
 * one lane.
 */
export const PROTOCOL_SETTINGS = { TRANSFER_SHORTCUT: "off", HOST_ID: "protocol" } as const;

export const CLUSTER_HOSTS: Readonly<Record<ClusterName, number>> = {
  "one-host": 1,
  "two-hosts": 2,
};

export function isCluster(system: SystemName): system is ClusterName {
  return system in CLUSTER_HOSTS;
}

/** Commands in a request. */
export const BATCH_SIZES: Readonly<Record<BatchName, number>> = {
  "batch-1000": 1_000,
  "batch-10000": 10_000,
};
/**
 * Batches under way at a time. Each client reads its answer and sends the next batch when it has all
 * of it; with two, more than a quarter of both cores had nothing to do meanwhile; with four, an eighth.
 */
export const BATCH_CONNECTIONS = 4;

export function isBatch(system: SystemName): system is BatchName {
  return system in BATCH_SIZES;
}

export const UNIFORM_WALLETS = 10_000;
export const INITIAL_BALANCE = 1_000_000;
export const CREDIT_AMOUNT = 1;
export const TRANSFER_AMOUNT = 0.01;

export const SHAPES: readonly Shape[] = [
  {
    name: "credits",
    title: "credits over 10,000 wallets",
    traffic: { type: "credit", to: "uniform" },
    systems: ["coffer", "rowlock", "empty"],
  },
  {
    name: "hot-credits",
    title: "credits on one hot wallet",
    traffic: { type: "credit", to: "hot" },
    systems: ["coffer", "rowlock"],
  },
  {
    name: "transfers",
    title: "transfers over 10,000 wallets",
    traffic: { type: "transfer", from: "uniform" },
    systems: ["coffer", "protocol", "rowlock"],
  },
  {
    name: "hot-transfers",
    title: "transfers out of one wallet",
    traffic: { type: "transfer", from: "payer" },
    systems: ["coffer", "protocol", "rowlock"],
  },
  {
    name: "latency",
    title: "one credit at a time",
    traffic: { type: "credit", to: "uniform" },
    connections: 1,
    systems: ["coffer", "rowlock", "empty"],
  },
  {
    name: "batch",
    title: "credits over 10,000 wallets, in batches",
    traffic: { type: "credit", to: "uniform" },
    systems: ["coffer", "batch-1000", "batch-10000", "postings"],
  },
  {
    name: "cluster",
    title: "credits over 10,000 wallets, as a cluster",
    traffic: { type: "credit", to: "uniform" },
    systems: ["coffer", "one-host", "two-hosts"],
  },
];

/**
 * The wallet that takes all credits of `hot-credits`, and the one that pays all transfers of
 * `hot-transfers`.
 */
export const HOT_WALLET = "bench-hot";
export const PAYER_WALLET = "bench-payer";

/** Ids have one length, so that a request's parts can be made once and joined at random. */
export function uniformWallet(n: number): string {
  return `bench-${String(n).padStart(5, "0")}`;
}

export function allWallets(): string[] {
  const uniform = Array.from({ length: UNIFORM_WALLETS }, (_, n) => uniformWallet(n));
  return [HOT_WALLET, PAYER_WALLET, ...uniform];
}

/** What one system did in one shape: medians over the rounds, counts summed. */
export interface Figures {
  opsPerSecond: number;
  p50Ms: number;
  p90Ms: number;
  p99Ms: number;
  errors: number;
}

export interface ShapeResult {
  shape: ShapeName;
  figures: Partial<Record<SystemName, Figures>>;
}

export interface Judgement {
  shape: ShapeName;
  target: string;
  measured: number;
  /** `unmeasured`: the shape or its rival was left out of this run. */
  verdict: "pass" | "fail" | "unmeasured";
}

/** `system` is Coffer in one process unless said otherwise. */
type Target =
  | {
      shape: ShapeName;
      type: "ratio";
      system?: SystemName;
      rival: SystemName;
      atLeast: number;
    }
  | { shape: ShapeName; type: "rate"; system: SystemName; atLeast: number }
  | { shape: ShapeName; type: "p50"; belowMs: number };

const TARGETS: readonly Target[] = [
  { shape: "credits", type: "ratio", rival: "rowlock", atLeast: 7 },
  { shape: "credits", type: "ratio", rival: "empty", atLeast: 0.4 },
  { shape: "hot-credits", type: "ratio", rival: "rowlock", atLeast: 22 },
  { shape: "transfers", type: "ratio", system: "protocol", rival: "rowlock", atLeast: 3.5 },
  { shape: "hot-transfers", type: "ratio", system: "protocol", rival: "rowlock", atLeast: 7 },
  { shape: "latency", type: "p50", belowMs: 1.5 },
  { shape: "batch", type: "rate", system: "batch-1000", atLeast: 40_000 },
  { shape: "cluster", type: "ratio", system: "two-hosts", rival: "one-host", atLeast: 0.85 },
];

/**
 * The throughput of Coffer, or of `system`, as a multiple of a rival's; NaN when either is missing.
 */
export function ratioTo(
  result: ShapeResult | undefined,
  rival: SystemName,
  system: SystemName = "coffer",
): number {
  const own = result?.figures[system]?.opsPerSecond ?? Number.NaN;
  return own / (result?.figures[rival]?.opsPerSecond ?? Number.NaN);
}

/**
 * Holds the results against the targets. A shape in which Coffer answered with errors fails,
 * however fast it was.
 */
export function judge(results: readonly ShapeResult[]): Judgement[] {
  return TARGETS.map((target) => {
    const result = results.find((one) => one.shape === target.shape);
    const system = (target.type === "p50" ? undefined : target.system) ?? "coffer";
    const own = result?.figures[system];
    const { measured, reached, text } = compare(target, result, system);
    const verdict = Number.isNaN(measured)
      ? "unmeasured"
      : reached && own?.errors === 0
        ? "pass"
        : "fail";
    return { shape: target.shape, target: text, measured, verdict };
  });
}

function compare(target: Target, result: ShapeResult | undefined, system: SystemName) {
  const own = result?.figures[system];
  switch (target.type) {
    case "ratio": {
      const { rival, atLeast } = target;
      const measured = ratioTo(result, rival, system);
      const text = `${system === "coffer" ? "" : `${system} `}at least ${atLeast} x ${rival}`;
      return { measured, reached: measured >= atLeast, text };
    }
    case "rate": {
      const measured = own?.opsPerSecond ?? Number.NaN;
      const text = `at least ${target.atLeast.toLocaleString("en")} durable credits/s`;
      return { measured, reached: measured >= target.atLeast, text: `${system} ${text}` };
    }
    case "p50": {
      const measured = own?.p50Ms ?? Number.NaN;
      return {
        measured,
        reached: measured < target.belowMs,
        text: `p50 below ${target.belowMs} ms`,
      };
    }
    default:
      return target satisfies never;
  }
}
