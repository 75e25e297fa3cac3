/**
 * Turns what was measured into what is read: the table and the verdicts on the terminal, the chart,
 * and the result file. Figures of a shape are medians over its rounds, counts are sums. A run that
 * leaves out shapes or rivals, is short, or was profiled is written aside as a local result:
 * `latest.*` and the dated files are whole runs only.
 */
import { mkdir, writeFile } from "node:fs/promises";
import { join } from "node:path";
import type { Bar, Chart } from "./chart.ts";
import { drawChart } from "./chart.ts";
import { opsPerSecond, type Measurement } from "./generators.ts";
import { machineLine, type Commit, type Durability, type Machine } from "./machine.ts";
import type { BenchOptions } from "./options.ts";
import {
  BASELINES,
  SHAPES,
  isBatch,
  isCluster,
  judge,
  ratioTo,
  type Figures,
  type Judgement,
  type ShapeName,
  type ShapeResult,
  type SystemName,
} from "./shapes.ts";
import { alignColumns, formatMs, formatRatio, formatWhole, median } from "./statistics.ts";

export interface MeasuredRound {
  round: number;
  shape: ShapeName;
  system: SystemName;
  measurement: Measurement;
}

export interface Report {
  measuredAt: string;
  commit: Commit;
  machine: Machine;
  durability: Durability;
  options: BenchOptions;
  results: ShapeResult[];
  judgements: Judgement[];
  /** What the check from outside found, line by line. */
  conservation: { ok: boolean; lines: string[] };
  rounds: MeasuredRound[];
}

const WHOLE_RUN = { secondsMin: 5, roundsMin: 3, connections: 128 };

/** Medians per shape and system, in the order of the shapes. */
export function summarise(rounds: readonly MeasuredRound[]): ShapeResult[] {
  const shapes = SHAPES.filter((shape) => rounds.some((one) => one.shape === shape.name));
  return shapes.map((shape) => {
    const figures: ShapeResult["figures"] = {};
    for (const system of shape.systems) {
      const mine = rounds.filter((one) => one.shape === shape.name && one.system === system);
      if (mine.length > 0) figures[system] = figuresOf(mine.map((one) => one.measurement));
    }
    return { shape: shape.name, figures };
  });
}

function figuresOf(measurements: readonly Measurement[]): Figures {
  return {
    opsPerSecond: median(measurements.map(opsPerSecond)),
    p50Ms: median(measurements.map((one) => one.p50Ms)),
    p90Ms: median(measurements.map((one) => one.p90Ms)),
    p99Ms: median(measurements.map((one) => one.p99Ms)),
    errors: measurements.reduce((sum, one) => sum + one.refused + one.faults, 0),
  };
}

/** The table of results, one row per shape and system. */
export function tableOf(results: readonly ShapeResult[]): string[] {
  const rows = [["shape", "system", "ops/s", "compared", "p50 ms", "p90 ms", "p99 ms", "errors"]];
  for (const result of results) {
    let name: string = result.shape;
    for (const [system, figures] of figuresIn(result)) {
      rows.push([
        name,
        system,
        formatWhole(figures.opsPerSecond),
        comparison(result, system),
        formatMs(figures.p50Ms),
        formatMs(figures.p90Ms),
        formatMs(figures.p99Ms),
        figures.errors === 0 ? "0" : `${formatWhole(figures.errors)} !`,
      ]);
      name = "";
    }
  }
  return alignColumns(rows, 2);
}

/** Coffer's throughput beside a rival's; that of its other ways beside what `BASELINES` says. */
function comparison(result: ShapeResult, system: SystemName): string {
  if (system === "coffer") return "";
  if (system === "postings") {
    return `batches: ${formatRatio(ratioTo(result, system, "batch-1000"))}`;
  }
  if (!isCluster(system) && !isBatch(system) && system !== "protocol")
    return `Coffer: ${formatRatio(ratioTo(result, system))}`;
  const baseline = BASELINES[system];
  return `${formatRatio(ratioTo(result, baseline, system))} of ${baseline}`;
}

function figuresIn(result: ShapeResult): [SystemName, Figures][] {
  const systems = SHAPES.find((shape) => shape.name === result.shape)?.systems ?? [];
  return systems.flatMap((system): [SystemName, Figures][] => {
    const figures = result.figures[system];
    return figures === undefined ? [] : [[system, figures]];
  });
}

export function verdictLines(judgements: readonly Judgement[]): string[] {
  const rows = judgements.map(({ shape, target, measured, verdict }) => {
    const figure = target.startsWith("p50")
      ? `${formatMs(measured)} ms`
      : target.endsWith("/s")
        ? `${formatWhole(measured)}/s`
        : formatRatio(measured);
    return [verdict.toUpperCase(), shape, target, verdict === "unmeasured" ? "" : figure];
  });
  return alignColumns(rows, 3);
}

/** Everything a terminal shows at the end. */
export function reportText(report: Report): string {
  const { commit, durability } = report;
  return [
    "",
    ...tableOf(report.results),
    "",
    ...verdictLines(report.judgements),
    "",
    ...report.conservation.lines,
    "",
    machineLine(report.machine),
    `commit ${commit.id}${commit.dirty ? " with local changes" : ""}; ${durabilityLine(durability)}`,
    roundsText(report.options),
  ].join("\n");
}

function roundsText({ rounds, seconds }: BenchOptions): string {
  return rounds === 1 ? `one round of ${seconds} s` : `medians of ${rounds} rounds of ${seconds} s`;
}

function durabilityLine(durability: Durability): string {
  return (
    `fsync ${durability.fsync}, synchronous_commit ${durability.synchronousCommit}, ` +
    `full_page_writes ${durability.fullPageWrites}, a small commit takes ${formatMs(durability.commitMs)} ms`
  );
}

const COLORS: Record<SystemName, string> = {
  coffer: "#1a7f64",
  protocol: "#3a6ea5",
  rowlock: "#c4722b",
  empty: "#9aa4af",
  "batch-1000": "#12634e",
  "batch-10000": "#0b4a3a",
  postings: "#8a5a9e",
  "one-host": "#4f9f8b",
  "two-hosts": "#8cc0b3",
};
const LABELS: Record<SystemName, string> = {
  coffer: "Coffer",
  protocol: "Coffer: every transfer by the two-phase protocol",
  rowlock: "row lock per request (Fastify + pg)",
  empty: "empty Fastify handler, no database",
  "batch-1000": "Coffer: 1,000 commands in a request",
  "batch-10000": "Coffer: 10,000 commands in a request",
  postings: "SQL function, one transfer per call (pg, no HTTP)",
  "one-host": "Coffer: a gateway and a host over NATS",
  "two-hosts": "Coffer: a gateway and two hosts over NATS",
};

function chartOf(report: Report): Chart {
  const { results, options } = report;
  const titleOf = (name: ShapeName) => SHAPES.find((shape) => shape.name === name)?.title ?? name;
  const groups = results
    .filter((result) => result.shape !== "latency")
    .map((result) => ({
      title: titleOf(result.shape),
      bars: figuresIn(result).map(([system, figures]): Bar =>
        throughputBar(result, system, figures),
      ),
    }));
  const latency = results
    .filter((result) => result.shape === "latency")
    .map((result) => ({
      title: titleOf(result.shape),
      bars: figuresIn(result).map(([system, figures]): Bar => ({
        value: figures.p50Ms,
        color: COLORS[system],
        label: `${formatMs(figures.p50Ms)} ms`,
        note: `p99 ${formatMs(figures.p99Ms)} ms${errorNote(figures)}`,
      })),
    }));
  const systems = (Object.keys(LABELS) as SystemName[]).filter((system) =>
    results.some((result) => result.figures[system] !== undefined),
  );
  const panels = [
    { heading: "operations per second, longer is better", groups },
    { heading: "latency p50 over one connection, shorter is better", groups: latency },
  ];
  const { commit, durability, measuredAt } = report;
  return {
    title: "Durable wallet operations per second",
    subtitle: `${options.connections} connections over HTTP, ${roundsText(options)}`,
    footer: [
      machineLine(report.machine),
      `PostgreSQL: ${durabilityLine(durability)}`,
      `${measuredAt.slice(0, 10)}, commit ${commit.id}${commit.dirty ? " with local changes" : ""}`,
    ],
    legend: systems.map((system) => ({ label: LABELS[system], color: COLORS[system] })),
    panels: panels.filter((panel) => panel.groups.length > 0),
  };
}

function throughputBar(result: ShapeResult, system: SystemName, figures: Figures): Bar {
  return {
    value: figures.opsPerSecond,
    color: COLORS[system],
    label: formatWhole(figures.opsPerSecond),
    note: comparison(result, system) + errorNote(figures),
  };
}

function errorNote(figures: Figures): string {
  return figures.errors === 0 ? "" : ` (${formatWhole(figures.errors)} errors)`;
}

/** True for a run that may stand as the project's figures. */
export function isWholeRun(options: BenchOptions): boolean {
  return (
    options.rivals &&
    !options.cpuProf &&
    options.shapes.length === SHAPES.length &&
    options.seconds >= WHOLE_RUN.secondsMin &&
    options.rounds >= WHOLE_RUN.roundsMin &&
    options.connections === WHOLE_RUN.connections
  );
}

/** Writes the result files and gives the folder's files that were written. */
export async function writeReport(report: Report, resultsFolder: string): Promise<string[]> {
  const folder = isWholeRun(report.options) ? resultsFolder : join(resultsFolder, "local");
  await mkdir(folder, { recursive: true });
  const json = `${JSON.stringify(report, null, 2)}\n`;
  const dated = `${report.measuredAt.slice(0, 10)}-${report.commit.id}.json`;
  const files: [string, string][] = [
    [dated, json],
    ["latest.json", json],
    ["latest.svg", drawChart(chartOf(report))],
  ];
  for (const [name, content] of files) await writeFile(join(folder, name), content);
  return files.map(([name]) => join(folder, name));
}

export function judgeRounds(
  rounds: readonly MeasuredRound[],
): Pick<Report, "results" | "judgements"> {
  const results = summarise(rounds);
  return { results, judgements: judge(results) };
}
