/**
 * The arithmetic of a measurement: percentiles, medians and how figures are written for a reader.
 * Percentiles are by nearest rank, so each one is a latency that a request really had; a median of
 * an even count is the mean of the middle two.
 */

/**
 * The smallest of `ascending` that at least `fraction` (0 to 1) of all values do not exceed; NaN
 * without values.
 */
export function percentile(ascending: ArrayLike<number>, fraction: number): number {
  if (!(fraction >= 0 && fraction <= 1))
    throw new RangeError(`fraction ${fraction} is not in 0..1`);
  const rank = Math.ceil(fraction * ascending.length);
  return ascending[Math.max(rank, 1) - 1] ?? Number.NaN;
}

/** NaN without values. Leaves the input as it is. */
export function median(values: readonly number[]): number {
  const ascending = values.toSorted((a, b) => a - b);
  const middle = ascending.length >> 1;
  const upper = ascending[middle] ?? Number.NaN;
  return ascending.length % 2 === 1 ? upper : ((ascending[middle - 1] ?? Number.NaN) + upper) / 2;
}

const WHOLE = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });

/** `12,345` */
export function formatWhole(value: number): string {
  return Number.isFinite(value) ? WHOLE.format(value) : "-";
}

/** Milliseconds with three significant places and at most two decimals: `0.87`, `12.4`, `1,234`. */
export function formatMs(ms: number): string {
  if (!Number.isFinite(ms)) return "-";
  if (ms >= 100) return formatWhole(ms);
  return ms.toFixed(ms >= 10 ? 1 : 2);
}

/** `22.4x`, `0.45x` */
export function formatRatio(ratio: number): string {
  if (!Number.isFinite(ratio)) return "-";
  return `${ratio.toFixed(ratio >= 10 ? 1 : 2)}x`;
}

/**
 * Rows as text under each other, the first column left-aligned and `leftColumns` of them, the
 * others right-aligned.
 */
export function alignColumns(rows: readonly (readonly string[])[], leftColumns: number): string[] {
  const widths: number[] = [];
  for (const row of rows) {
    row.forEach((cell, i) => (widths[i] = Math.max(widths[i] ?? 0, cell.length)));
  }
  return rows.map((row) =>
    row
      .map((cell, i) =>
        i < leftColumns ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0),
      )
      .join("  ")
      .trimEnd(),
  );
}
