/**
 * Draws the bar chart of the results as one SVG text without a library. It brings its own light
 * card as background, so it reads the same on a light and on a dark page. Bars of throughput share
 * one linear scale over all groups, so any two may be compared by eye; latency has its own scale,
 * since there shorter is better. Widths of text are estimates, which is enough: labels stand to the
 * right of their bars with room to spare.
 */
export interface Chart {
  title: string;
  /** The line under the title. */
  subtitle: string;
  /** Lines below the bars, in small print. */
  footer: readonly string[];
  legend: readonly { label: string; color: string }[];
  panels: readonly Panel[];
}

/** Groups that share a scale. */
export interface Panel {
  heading: string;
  groups: readonly { title: string; bars: readonly Bar[] }[];
}

export interface Bar {
  value: number;
  color: string;
  /** Written to the right of the bar; `note` follows it in a quieter colour. */
  label: string;
  note: string;
}

const WIDTH_PX = 880;
const MARGIN_PX = 28;
const TITLES_PX = 232;
const LABELS_PX = 184;
const BARS_PX = WIDTH_PX - 2 * MARGIN_PX - TITLES_PX - LABELS_PX;
const BAR_PX = 16;
const BAR_GAP_PX = 4;
const GROUP_GAP_PX = 18;
const INK = "#1f2328";
const QUIET_INK = "#59636e";
const FONT = "-apple-system, 'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif";

export function drawChart(chart: Chart): string {
  const parts: string[] = [];
  let y = MARGIN_PX + 18;
  parts.push(text(MARGIN_PX, y, chart.title, { size: 20, weight: 600 }));
  y += 22;
  parts.push(text(MARGIN_PX, y, chart.subtitle, { size: 13, fill: QUIET_INK }));
  y += 26;
  const legend = drawLegend(chart.legend, y);
  parts.push(legend.svg);
  y = legend.bottom + 14;
  for (const panel of chart.panels) {
    const drawn = drawPanel(panel, y);
    parts.push(drawn.svg);
    y = drawn.bottom;
  }
  y += 10;
  for (const line of chart.footer) {
    y += 16;
    parts.push(text(MARGIN_PX, y, line, { size: 11, fill: QUIET_INK }));
  }
  const height = y + MARGIN_PX - 6;
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${WIDTH_PX}" height="${height}" viewBox="0 0 ${WIDTH_PX} ${height}" role="img" aria-label="${escape(chart.title)}" font-family="${FONT}">`,
    `<title>${escape(chart.title)}</title>`,
    `<rect x="0.5" y="0.5" width="${WIDTH_PX - 1}" height="${height - 1}" rx="8" fill="#ffffff" stroke="#d1d9e0"/>`,
    ...parts,
    "</svg>\n",
  ].join("\n");
}

/** In as many lines as it takes. */
function drawLegend(legend: Chart["legend"], top: number): { svg: string; bottom: number } {
  let [x, y] = [MARGIN_PX, top];
  const parts = legend.map(({ label, color }) => {
    const width = 18 + label.length * 6.6;
    if (x > MARGIN_PX && x + width > WIDTH_PX - MARGIN_PX) [x, y] = [MARGIN_PX, y + 20];
    const box = `<rect x="${x}" y="${y - 10}" width="12" height="12" rx="2" fill="${color}"/>`;
    const part = box + text(x + 18, y, label, { size: 12 });
    x += width + 24;
    return part;
  });
  return { svg: parts.join("\n"), bottom: y };
}

function drawPanel(panel: Panel, top: number): { svg: string; bottom: number } {
  const parts: string[] = [];
  let y = top + 30;
  parts.push(text(MARGIN_PX + TITLES_PX, y, panel.heading, { size: 12, fill: QUIET_INK }));
  y += 10;
  const values = panel.groups.flatMap((group) => group.bars.map((bar) => bar.value));
  const longest = Math.max(...values.filter(Number.isFinite), Number.MIN_VALUE);
  const axisTop = y;
  for (const group of panel.groups) {
    const groupPx = group.bars.length * (BAR_PX + BAR_GAP_PX) - BAR_GAP_PX;
    const title = { size: 13, weight: 600, anchor: "end" } as const;
    parts.push(text(MARGIN_PX + TITLES_PX - 12, y + groupPx / 2 + 4.5, group.title, title));
    for (const bar of group.bars) {
      parts.push(drawBar(bar, y, longest));
      y += BAR_PX + BAR_GAP_PX;
    }
    y += GROUP_GAP_PX - BAR_GAP_PX;
  }
  const bottom = y - GROUP_GAP_PX;
  const x = MARGIN_PX + TITLES_PX - 0.5;
  parts.push(`<path d="M${x} ${axisTop - 3}V${bottom + 3}" stroke="#d1d9e0"/>`);
  return { svg: parts.join("\n"), bottom };
}

function drawBar(bar: Bar, y: number, longest: number): string {
  const share = Number.isFinite(bar.value) ? bar.value / longest : 0;
  const widthPx = Math.max(1, Math.round(share * BARS_PX * 10) / 10);
  const x = MARGIN_PX + TITLES_PX;
  const note =
    bar.note === "" ? "" : `<tspan dx="8" fill="${QUIET_INK}">${escape(bar.note)}</tspan>`;
  return (
    `<rect class="bar" x="${x}" y="${y}" width="${widthPx}" height="${BAR_PX}" rx="2" fill="${bar.color}"/>` +
    `<text x="${x + widthPx + 8}" y="${y + 12.5}" font-size="12" fill="${INK}">${escape(bar.label)}${note}</text>`
  );
}

interface TextStyle {
  size: number;
  weight?: number;
  fill?: string;
  anchor?: "end";
}

function text(x: number, y: number, content: string, style: TextStyle): string {
  const weight = style.weight === undefined ? "" : ` font-weight="${style.weight}"`;
  const anchor = style.anchor === undefined ? "" : ` text-anchor="${style.anchor}"`;
  return (
    `<text x="${x}" y="${y}" font-size="${style.size}"${weight}${anchor} ` +
    `fill="${style.fill ?? INK}">${escape(content)}</text>`
  );
}

/**
 * Text for element content and attribute values; characters that XML 1.0 cannot hold are dropped.
 */
function escape(content: string): string {
  return content
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;")
    .replace(/[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\u{10000}-\u{10ffff}]/gu, "");
}
