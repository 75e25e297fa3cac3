/** The W3C trace context, as strangers send it. */
import { expect, it } from "vitest";
import { spanContextOf, traceparentOf } from "./open-telemetry.ts";

const traceId = "0af7651916cd43dd8448eb211c80319c";
const spanId = "b7ad6b7169203331";

it.each([
  [`00-${traceId}-${spanId}-01`, 1],
  [`00-${traceId}-${spanId}-00`, 0],
  [`00-${traceId}-${spanId}-ff`, 1],
  // A later version may say more.
  [`01-${traceId}-${spanId}-01-more`, 1],
])("%s is one", (text, traceFlags) => {
  const context = spanContextOf(text);
  expect(context).toEqual({ traceId, spanId, traceFlags, isRemote: true });
  expect(traceparentOf(context!)).toBe(`00-${traceId}-${spanId}-0${traceFlags}`);
});

it.each([
  undefined,
  "",
  "00",
  `00-${traceId}-${spanId}`,
  `00-${traceId}-${spanId}-1`,
  `00-${traceId}-${spanId}-01-more`,
  `ff-${traceId}-${spanId}-01`,
  `00-${traceId.toUpperCase()}-${spanId}-01`,
  `00-${"0".repeat(32)}-${spanId}-01`,
  `00-${traceId}-${"0".repeat(16)}-01`,
])("%s is none", (text) => {
  expect(spanContextOf(text)).toBeNull();
});
