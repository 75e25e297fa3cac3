import { describe, expect, it } from "vitest";
import { parseBenchOptions } from "./options.ts";
import { isWholeRun, summarise, tableOf, verdictLines, type MeasuredRound } from "./report.ts";
import { judge, type ShapeName } from "./shapes.ts";

const measurement = {
  answers: 8_000,
  refused: 0,
  faults: 0,
  elapsedMs: 8_000,
  p50Ms: 1,
  p90Ms: 2,
  p99Ms: 3,
  maxMs: 4,
};

function rounds(
  system: "coffer" | "protocol" | "rowlock",
  answers: readonly number[],
  refused = 0,
  shape: ShapeName = "credits",
): MeasuredRound[] {
  return answers.map((count, i) => ({
    round: i + 1,
    shape,
    system,
    measurement: { ...measurement, answers: count, refused },
  }));
}

describe("the verdicts", () => {
  it("compare medians with the targets", () => {
    const results = summarise([
      ...rounds("coffer", [8_000, 56_000, 160_000]),
      ...rounds("rowlock", [8_000, 8_000, 800]),
    ]);
    expect(results[0]?.figures.coffer?.opsPerSecond).toBe(7_000);
    const [toRowlock, toEmpty, hot] = judge(results);
    expect(toRowlock).toMatchObject({ measured: 7, verdict: "pass" });
    expect([toEmpty?.verdict, hot?.verdict]).toEqual(["unmeasured", "unmeasured"]);
    expect(tableOf(results)).toHaveLength(3);
    expect(verdictLines(judge(results))[0]).toMatch(/^PASS .*7.00x$/);
  });

  it("fail a shape in which Coffer answered with errors, and count only successes as operations", () => {
    const results = summarise([...rounds("coffer", [80_000], 40_000), ...rounds("rowlock", [800])]);
    expect(results[0]?.figures.coffer).toMatchObject({ opsPerSecond: 5_000, errors: 40_000 });
    expect(judge(results)[0]).toMatchObject({ measured: 50, verdict: "fail" });
    expect(tableOf(results)[1]).toContain("40,000 !");
  });

  it.each([
    ["transfers", 3.5, [35_000, 34_000]],
    ["hot-transfers", 7, [70_000, 69_000]],
  ] as const)(
    "of %s are of the two-phase protocol, whatever the default does",
    (shape, atLeast, answers) => {
      for (const [index, verdict] of (["pass", "fail"] as const).entries()) {
        const results = summarise([
          // Faster and slower than the target asks for: neither counts
          ...rounds("coffer", [index === 0 ? 8_000 : 800_000], 0, shape),
          ...rounds("protocol", [answers[index]!], 0, shape),
          ...rounds("rowlock", [10_000], 0, shape),
        ]);
        const [own, ...others] = judge(results).filter((one) => one.shape === shape);
        expect(own).toMatchObject({ target: `protocol at least ${atLeast} x rowlock`, verdict });
        expect(others).toEqual([]);
        const table = tableOf(results).join("\n");
        expect(table).toContain(`${(answers[index]! / 10_000).toFixed(2)}x of rowlock`);
        expect(table).toContain(index === 0 ? "Coffer: 0.80x" : "Coffer: 80.0x");
      }
    },
  );

  it("only whole runs stand as the project's figures", () => {
    const whole = (...args: string[]) => {
      const options = parseBenchOptions(args);
      return options !== "help" && isWholeRun(options);
    };
    expect(whole()).toBe(true);
    expect(whole("--only", "credits")).toBe(false);
    expect(whole("--seconds", "1")).toBe(false);
    expect(whole("--no-rivals")).toBe(false);
    expect(whole("--cpu-prof")).toBe(false);
  });
});
