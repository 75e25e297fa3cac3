/**
 * What prom-client does not offer: histograms of tallies that were counted elsewhere (on the hot
 * path without its hashing of labels, or on another thread), and counters and gauges that are read
 * when Prometheus asks. It hides the library's classes, so that `metrics.ts` is a list of names and
 * meanings.
 */
import { Counter, Gauge, type Histogram, type Registry } from "prom-client";
import { countOf, newTally, type Tally } from "./measures.ts";

export type Labels = Readonly<Record<string, string>>;

/** One value of a metric. */
export interface Sample {
  readonly labels?: Labels;
  readonly value: number;
}

interface NamedSample extends Sample {
  readonly metricName: string;
}

/**
 * A histogram whose tallies others fill; it only shows them. Ask for each set of labels once and
 * keep the tally.
 */
export function addHistogram(
  registry: Registry,
  name: string,
  help: string,
  bounds: readonly number[],
): (labels?: Labels) => Tally {
  const children: Array<{ labels: Labels; tally: Tally }> = [];
  const type = "histogram";
  const aggregator = "sum";
  const metric = {
    name,
    help,
    type,
    aggregator,
    reset() {
      children.length = 0;
    },
    get() {
      const values = children.flatMap(({ labels, tally }) =>
        samplesOf(name, labels, bounds, tally),
      );
      return Promise.resolve({ name, help, type, aggregator, values });
    },
  };
  // The registry asks a metric for its name and its values only.
  registry.registerMetric(metric as unknown as Histogram);
  return (labels = {}) => {
    const tally = newTally(bounds);
    children.push({ labels, tally });
    return tally;
  };
}

/** Buckets add up: each counts all that is not above its bound. */
function samplesOf(
  name: string,
  labels: Labels,
  bounds: readonly number[],
  tally: Tally,
): NamedSample[] {
  let below = 0;
  const buckets = bounds.map((bound, index): NamedSample => {
    below += tally.counts[index]!;
    return { metricName: `${name}_bucket`, labels: { ...labels, le: String(bound) }, value: below };
  });
  const count = countOf(tally);
  return [
    ...buckets,
    { metricName: `${name}_bucket`, labels: { ...labels, le: "+Inf" }, value: count },
    { metricName: `${name}_sum`, labels, value: tally.sum },
    { metricName: `${name}_count`, labels, value: count },
  ];
}

/** A gauge that is read when Prometheus asks. */
export function addGauge(
  registry: Registry,
  name: string,
  help: string,
  read: () => readonly Sample[],
  labelNames: readonly string[] = [],
): void {
  const gauge: Gauge = new Gauge({
    name,
    help,
    labelNames: [...labelNames],
    registers: [registry],
    collect() {
      const samples = read();
      gauge.reset();
      // Without labels a reset leaves a 0, which would say something.
      if (samples.length === 0 && labelNames.length === 0) gauge.remove();
      for (const { labels = {}, value } of samples) gauge.set({ ...labels }, value);
    },
  });
}

/** A counter that somebody else counts, and that is read when Prometheus asks. */
export function addCounter(
  registry: Registry,
  name: string,
  help: string,
  read: () => readonly Sample[],
  labelNames: readonly string[] = [],
): void {
  const counter: Counter = new Counter({
    name,
    help,
    labelNames: [...labelNames],
    registers: [registry],
    collect() {
      counter.reset();
      for (const { labels = {}, value } of read()) counter.inc({ ...labels }, value);
    },
  });
}

/**
 * The one tally of a histogram without labels; it is not shown before there is something to show.
 */
export function once(histogram: (labels?: Labels) => Tally): () => Tally {
  let tally: Tally | undefined;
  return () => (tally ??= histogram());
}

/** A counter that is counted up by the value of its label, if it has one. */
export function newCounts(
  registry: Registry,
  name: string,
  help: string,
  label?: string,
): (value: string, by: number) => void {
  const counts = new Map<string, number>();
  const read = () =>
    Array.from(counts, ([value, count]) => ({
      ...(label !== undefined && { labels: { [label]: value } }),
      value: count,
    }));
  addCounter(registry, name, help, read, label === undefined ? [] : [label]);
  return (value, by) => void counts.set(value, (counts.get(value) ?? 0) + by);
}
