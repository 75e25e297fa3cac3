/** Tallies, and what Prometheus reads of them. */
import { Registry } from "prom-client";
import { describe, expect, it } from "vitest";
import { monotonicMs } from "../clock.ts";
import { add, countOf, newTally, observe, SECONDS, SIZES } from "./measures.ts";
import { addCounter, addGauge, addHistogram, type Sample } from "./prometheus.ts";

describe("a tally", () => {
  it.each([
    [0, 0],
    [1, 0],
    [1.1, 1],
    [2, 1],
    [4, 2],
    [4.1, 3],
    [1e9, 3],
  ])("counts %d in the first bucket whose bound it does not exceed", (value, index) => {
    const tally = newTally([1, 2, 4]);
    observe(tally, [1, 2, 4], value);
    expect(tally.counts.indexOf(1)).toBe(index);
    expect([countOf(tally), tally.sum]).toEqual([1, value]);
  });

  it("takes over what another one has counted", () => {
    const [all, part] = [newTally(SIZES), newTally(SIZES)];
    for (const value of [1, 3, 5_000]) observe(part, SIZES, value);
    add(all, part);
    add(all, part);
    expect(countOf(all)).toBe(6);
    expect(all.sum).toBe(2 * 5_004);
    expect(all.counts.at(-1)).toBe(2);
  });

  it("has buckets in order, up to a command's deadline and a full commit", () => {
    for (const bounds of [SECONDS, SIZES]) {
      expect([...bounds]).toEqual([...bounds].toSorted((a, b) => a - b));
    }
    expect(SECONDS.at(-1)).toBe(10);
    expect(SIZES.at(-1)).toBe(4_096);
  });
});

describe("for Prometheus", () => {
  it("buckets add up, with the labels of their child", async () => {
    const registry = new Registry();
    const child = addHistogram(registry, "h_seconds", "Help", [1, 2]);
    const tally = child({ route: '/a "b"' });
    for (const value of [0.5, 1.5, 1.75, 9]) observe(tally, [1, 2], value);
    expect((await registry.metrics()).trim().split("\n")).toEqual([
      "# HELP h_seconds Help",
      "# TYPE h_seconds histogram",
      'h_seconds_bucket{route="/a \\"b\\"",le="1"} 1',
      'h_seconds_bucket{route="/a \\"b\\"",le="2"} 3',
      'h_seconds_bucket{route="/a \\"b\\"",le="+Inf"} 4',
      'h_seconds_sum{route="/a \\"b\\""} 12.75',
      'h_seconds_count{route="/a \\"b\\""} 4',
    ]);
  });

  it("gauges and counters are read anew each time, and what is gone is gone", async () => {
    const registry = new Registry();
    let samples: Sample[] = [{ labels: { lane: "1" }, value: 5 }];
    let known: Sample[] = [];
    addGauge(registry, "g", "Help", () => samples, ["lane"]);
    addGauge(registry, "k", "Help", () => known);
    addCounter(registry, "c_total", "Help", () => samples, ["lane"]);
    const values = async (): Promise<string[]> =>
      (await registry.metrics()).split("\n").filter((line) => /^\w/.test(line));
    expect(await values()).toEqual(['g{lane="1"} 5', 'c_total{lane="1"} 5']);
    samples = [{ labels: { lane: "2" }, value: 7 }];
    known = [{ value: 0 }];
    expect(await values()).toEqual(['g{lane="2"} 7', "k 0", 'c_total{lane="2"} 7']);
  });
});

it("monotonic time is in milliseconds and does not go back", () => {
  const [first, startedAt] = [monotonicMs(), performance.now()];
  let last = first;
  while (performance.now() - startedAt < 20) {
    const now = monotonicMs();
    expect(now).toBeGreaterThanOrEqual(last);
    last = now;
  }
  const elapsedMs = performance.now() - startedAt;
  const measuredMs = monotonicMs() - first;
  expect(measuredMs).toBeGreaterThanOrEqual(elapsedMs - 1);
  expect(measuredMs).toBeLessThan(elapsedMs + 2_000);
});
