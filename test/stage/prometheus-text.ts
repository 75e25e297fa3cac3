/**
 * Reads Prometheus' text format, strictly: a line that is neither comment nor sample, a sample
 * without a type, or the same sample twice is an error, as it is for Prometheus.
 */
export interface Scrape {
  /** Names by `# TYPE`, with their type. */
  readonly types: ReadonlyMap<string, string>;
  /** The value of a sample, 0 when it is not there. Labels must be all of them, in any order. */
  value(name: string, labels?: Readonly<Record<string, string>>): number;
  /** The sum of all samples of that name that have these labels, and perhaps others. */
  sum(name: string, labels?: Readonly<Record<string, string>>): number;
  has(name: string): boolean;
  /** Bucket bounds and their values, of a histogram's samples with these labels. */
  buckets(name: string, labels?: Readonly<Record<string, string>>): Array<[number, number]>;
}

interface Sample {
  readonly name: string;
  readonly labels: Record<string, string>;
  readonly value: number;
}

const SAMPLE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})? (\S+)$/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"(?:,|$)/g;

function readScrape(text: string): Scrape {
  const types = new Map<string, string>();
  const samples: Sample[] = [];
  const seen = new Set<string>();
  for (const line of text.split("\n")) {
    if (line === "" || line.startsWith("# HELP ")) continue;
    const type = /^# TYPE (\S+) (counter|gauge|histogram|summary)$/.exec(line);
    if (type !== null) {
      if (types.has(type[1]!)) throw new Error(`twice: ${line}`);
      types.set(type[1]!, type[2]!);
      continue;
    }
    const parts = SAMPLE.exec(line);
    if (parts === null) throw new Error(`no sample: ${line}`);
    const [, name = "", labelText = "", valueText = ""] = parts;
    const labels: Record<string, string> = {};
    for (const [, label = "", value = ""] of labelText.matchAll(LABEL)) labels[label] = value;
    if (!types.has(name) && !types.has(name.replace(/_(bucket|sum|count)$/, ""))) {
      throw new Error(`no type: ${line}`);
    }
    const key = keyOf(name, labels);
    if (seen.has(key)) throw new Error(`twice: ${line}`);
    seen.add(key);
    samples.push({ name, labels, value: Number(valueText.replace("+Inf", "Infinity")) });
  }
  const matching = (name: string, labels: Readonly<Record<string, string>>): Sample[] =>
    samples.filter(
      (sample) =>
        sample.name === name &&
        Object.entries(labels).every(([label, value]) => sample.labels[label] === value),
    );
  return {
    types,
    value(name, labels = {}) {
      const found = samples.find((it) => keyOf(it.name, it.labels) === keyOf(name, labels));
      return found?.value ?? 0;
    },
    sum: (name, labels = {}) => matching(name, labels).reduce((sum, { value }) => sum + value, 0),
    has: (name) => samples.some((sample) => sample.name === name),
    buckets: (name, labels = {}) =>
      matching(`${name}_bucket`, labels).map((sample) => [
        Number(sample.labels["le"]!.replace("+Inf", "Infinity")),
        sample.value,
      ]),
  };
}

function keyOf(name: string, labels: Readonly<Record<string, string>>): string {
  const sorted = Object.entries(labels).toSorted(([a], [b]) => (a < b ? -1 : 1));
  return `${name}${JSON.stringify(sorted)}`;
}

export async function scrape(baseUrl: string): Promise<Scrape> {
  const answer = await fetch(`${baseUrl}/metrics`);
  if (answer.status !== 200) throw new Error(`/metrics: ${answer.status} ${await answer.text()}`);
  return readScrape(await answer.text());
}
