/** The W3C trace context, as strangers send it, and a collector that takes nothing. */
import { diag } from "@opentelemetry/api";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, it, onTestFinished, vi } from "vitest";
import { startCollector } from "../../test/stage/otlp-collector.ts";
import { monotonicMs } from "../clock.ts";
import { buildOpenTelemetry, spanContextOf, traceparentOf } from "./open-telemetry.ts";

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

it("says in words why the last spans were not exported", async () => {
  // Given a collector that refuses everything
  const collector = createServer((request, response) => {
    request.resume();
    response.writeHead(400).end();
  });
  await new Promise<void>((done) => collector.listen(0, "127.0.0.1", done));
  onTestFinished(() => void collector.close());
  const { port } = collector.address() as AddressInfo;
  vi.stubEnv("OTEL_EXPORTER_OTLP_ENDPOINT", `http://127.0.0.1:${port}`);
  onTestFinished(() => {
    vi.unstubAllEnvs();
    diag.disable();
  });
  const warnings: string[] = [];
  const log = { warn: (text: string) => void warnings.push(text) };
  const tracing = buildOpenTelemetry({ version: "1.2.3", hostId: "host-1", role: "all", log });

  // When the process ends with a span that has not left
  tracing.begin("server", "GET /", undefined, {})?.end({});
  await tracing.stop();

  // Then the log has the reason, without the name of a class
  expect(warnings).toContain("the last spans were not exported: Bad Request");
});

it("spans lie within those around them, though all of it takes less than a millisecond", async () => {
  // Given
  const collector = await startCollector();
  onTestFinished(() => collector.stop());
  vi.stubEnv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url);
  onTestFinished(() => {
    vi.unstubAllEnvs();
    diag.disable();
  });
  const log = { warn: () => undefined };
  const tracing = buildOpenTelemetry({ version: "1.2.3", hostId: "host-1", role: "all", log });

  // When there are 200 requests, each with a command, and that with a commit
  for (let nth = 0; nth < 200; nth++) {
    const request = tracing.begin("server", "request", undefined, {})!;
    const command = tracing.begin("client", "command", request.traceparent, {})!;
    const startedAtMs = monotonicMs();
    busyMs(0.2);
    const times = { arrivedAtMs: startedAtMs, startedAtMs, endedAtMs: monotonicMs() };
    const { traceparent } = command;
    const ids = { walletId: "w", commandId: "c" };
    tracing.committed("lane-0", [{ ...ids, ...times, traceparent, commit: nth, events: 1 }]);
    command.end({});
    request.end({});
  }
  await tracing.stop();

  // Then
  const { spans } = collector;
  const within = (inner: string, outer: string): number => {
    const around = new Map(
      spans.filter(({ name }) => name === outer).map((one) => [one.traceId, one]),
    );
    return spans.filter(({ name, traceId, startNs, endNs }) => {
      const { startNs: from, endNs: to } = around.get(traceId)!;
      return name === inner && startNs >= from && endNs <= to;
    }).length;
  };
  expect(within("command", "request")).toBe(200);
  expect(within("commit", "command")).toBe(200);
});

function busyMs(ms: number): void {
  const untilMs = monotonicMs() + ms;
  while (monotonicMs() < untilMs);
}
