import { describe, expect, it } from "vitest";
import { drawChart, type Chart } from "./chart.ts";

/**
 * Reads well-formed XML of the kind a chart is made of, or throws: elements by name with their
 * attributes, and all text.
 */
function readXml(xml: string): {
  elements: { name: string; attributes: string }[];
  texts: string[];
} {
  const elements: { name: string; attributes: string }[] = [];
  const texts: string[] = [];
  const open: string[] = [];
  const token = /<(\/?)([a-z]+)((?:\s[\w:-]+="[^"<]*")*)\s*(\/?)>|([^<]+)/gy;
  for (let match = token.exec(xml); match !== null; match = token.exec(xml)) {
    const [, slash, name = "", attributes = "", selfClosing, text] = match;
    const content = text ?? attributes;
    if (/&(?!(amp|lt|gt|quot);)/.test(content)) throw new Error(`bare ampersand: ${content}`);
    if (text !== undefined) texts.push(text);
    else if (slash === "/") expect(open.pop()).toBe(name);
    else {
      elements.push({ name, attributes });
      if (selfClosing !== "/") open.push(name);
    }
    if (token.lastIndex === xml.length) {
      expect(open).toEqual([]);
      return { elements, texts };
    }
  }
  throw new Error("not well-formed");
}

const chart: Chart = {
  title: 'Operations <per> "second" & more',
  subtitle: "128 connections",
  footer: ["A machine \u0007 with 2 cores", "line 2"],
  legend: [
    { label: "Coffer", color: "#1a7f64" },
    { label: "row lock", color: "#c4722b" },
  ],
  panels: [
    {
      heading: "longer is better",
      groups: [
        {
          title: "credits",
          bars: [
            { value: 12_000, color: "#1a7f64", label: "12,000", note: "" },
            { value: 3_000, color: "#c4722b", label: "3,000", note: "Coffer: 4.00x" },
          ],
        },
        {
          title: "transfers",
          bars: [{ value: 6_000, color: "#1a7f64", label: "6,000", note: "" }],
        },
      ],
    },
    {
      heading: "shorter is better",
      groups: [
        {
          title: "one at a time",
          bars: [
            { value: 0.8, color: "#1a7f64", label: "0.80 ms", note: "p99 2 ms" },
            { value: Number.NaN, color: "#c4722b", label: "-", note: "" },
          ],
        },
      ],
    },
  ],
};

describe("the chart", () => {
  const { elements, texts } = readXml(drawChart(chart));
  const widths = elements
    .filter((element) => element.attributes.includes('class="bar"'))
    .map((element) => Number(/ width="([\d.]+)"/.exec(element.attributes)?.[1]));

  it("is well-formed XML with the text escaped", () => {
    expect(elements[0]?.name).toBe("svg");
    expect(texts).toContain("Operations &lt;per&gt; &quot;second&quot; &amp; more");
    expect(texts).toContain("A machine  with 2 cores");
  });

  it("has every bar, in proportion within its panel", () => {
    expect(widths).toHaveLength(5);
    const [credits, rival, transfers, latency, missing] = widths;
    expect((credits ?? 0) / (rival ?? 0)).toBeCloseTo(4, 1);
    expect((credits ?? 0) / (transfers ?? 0)).toBeCloseTo(2, 1);
    expect(latency).toBe(credits);
    expect(missing).toBe(1);
  });

  it("has every label, note and legend entry", () => {
    const wanted = ["12,000", "3,000", "Coffer: 4.00x", "6,000", "0.80 ms", "p99 2 ms"];
    expect(texts).toEqual(expect.arrayContaining([...wanted, "Coffer", "row lock", "line 2"]));
  });

  it("stays valid without panels", () => {
    expect(() => readXml(drawChart({ ...chart, panels: [] }))).not.toThrow();
  });
});
