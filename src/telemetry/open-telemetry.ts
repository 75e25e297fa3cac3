/**
 * Traces by OpenTelemetry's SDK, exported as OTLP over HTTP. It hides the SDK: no global context,
 * no patching of other libraries, since parents are passed by hand and only for what is sampled.
 * Where to, how much and under which name is read by the SDK from its standard variables. Spans of
 * a lane are made here afterwards, from the times that the lane gives back: a thread of its own
 * needs no second SDK for that.
 */
import {
  ROOT_CONTEXT,
  SpanKind,
  SpanStatusCode,
  TraceFlags,
  diag,
  DiagLogLevel,
  trace,
  type Context,
  type Span,
  type SpanContext,
  type Tracer,
} from "@opentelemetry/api";
import { OTLPTraceExporter } from "@opentelemetry/exporter-trace-otlp-http";
import { detectResources, envDetector, resourceFromAttributes } from "@opentelemetry/resources";
import { BatchSpanProcessor, NodeTracerProvider } from "@opentelemetry/sdk-trace-node";
import { LIMITS } from "../limits.ts";
import { monotonicMs } from "../clock.ts";
import type { CommitTrace } from "./measures.ts";
import { messageOf } from "../message-of.ts";
import type { OpenSpan, TracedProcess, Tracing } from "./tracing.ts";

/**
 * W3C Trace Context: version, trace id, parent id, flags. A later version may have more behind
 * them.
 */
const TRACEPARENT = /^([\da-f]{2})-([\da-f]{32})-([\da-f]{16})-([\da-f]{2})(-|$)/;

/** Null for what is no trace context: then whoever asks begins a trace of its own. */
export function spanContextOf(traceparent: string | undefined): SpanContext | null {
  const parts = traceparent === undefined ? null : TRACEPARENT.exec(traceparent);
  if (parts === null) return null;
  const [, version, traceId = "", spanId = "", flags = "", rest] = parts;
  if (version === "ff" || (version === "00" && rest === "-")) return null;
  const traceFlags = Number.parseInt(flags, 16) & TraceFlags.SAMPLED;
  const context = { traceId, spanId, traceFlags, isRemote: true };
  return /^0+$/.test(traceId) || /^0+$/.test(spanId) ? null : context;
}

export function traceparentOf({ traceId, spanId, traceFlags }: SpanContext): string {
  return `00-${traceId}-${spanId}-${traceFlags.toString(16).padStart(2, "0")}`;
}

function contextOf(parent: SpanContext | null): Context {
  return parent === null ? ROOT_CONTEXT : trace.setSpanContext(ROOT_CONTEXT, parent);
}

export function buildOpenTelemetry({ version, hostId, role, log }: TracedProcess): Tracing {
  tellTroubles(log);
  const own = resourceFromAttributes({
    "service.name": "coffer",
    "service.version": version,
    "service.instance.id": hostId,
    "coffer.role": role,
  });
  const provider = new NodeTracerProvider({
    // OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES win.
    resource: own.merge(detectResources({ detectors: [envDetector] })),
    spanProcessors: [
      new BatchSpanProcessor(new OTLPTraceExporter(), {
        maxQueueSize: LIMITS.spansWaitingMax,
        scheduledDelayMillis: LIMITS.spansPauseMs,
      }),
    ],
  });
  const tracer = provider.getTracer("coffer", version);

  const begin: Tracing["begin"] = (kind, name, traceparent, attributes) => {
    const toWallMs = unixOffsetMs();
    const options = {
      kind: kind === "server" ? SpanKind.SERVER : SpanKind.CLIENT,
      attributes: { ...attributes },
      startTime: monotonicMs() + toWallMs,
    };
    const span = tracer.startSpan(name, options, contextOf(spanContextOf(traceparent)));
    return span.isRecording() ? openSpan(span, toWallMs) : null;
  };

  return {
    begin,
    committed(lane, traces) {
      const toWallMs = unixOffsetMs();
      const commits = new Map<number, CommitTrace[]>();
      for (const each of traces) {
        const of = commits.get(each.commit);
        if (of === undefined) commits.set(each.commit, [each]);
        else of.push(each);
      }
      for (const each of commits.values()) tellCommit(tracer, lane, each, toWallMs);
    },
    async stop() {
      let timer: NodeJS.Timeout | undefined;
      const late = new Promise<void>((resolve) => {
        timer = setTimeout(resolve, LIMITS.spansFlushMs);
      });
      const flushed = provider.shutdown().catch((error: unknown) => {
        log.warn(`the last spans were not exported: ${messageOf(error)}`);
      });
      await Promise.race([flushed, late]);
      clearTimeout(timer);
    },
  };
}

/**
 * Of one commit: a span of its own in the first command's trace, and one for each command, which
 * links to it.
 */
function tellCommit(
  tracer: Tracer,
  lane: string,
  traces: readonly CommitTrace[],
  toWallMs: number,
): void {
  const parents = traces.map(({ traceparent }) => spanContextOf(traceparent));
  const { startedAtMs, endedAtMs, events } = traces[0]!;
  const [start, end] = [startedAtMs + toWallMs, endedAtMs + toWallMs];
  const [first, ...others] = parents.filter((parent) => parent !== null);
  if (first === undefined) return;
  const batch = tracer.startSpan(
    "group commit",
    {
      startTime: start,
      attributes: { "coffer.lane": lane, "coffer.commit.events": events },
      links: others.map((context) => ({ context })),
    },
    // A trace of its own might not be sampled, and the links would lead nowhere.
    contextOf(first),
  );
  traces.forEach(({ commandId, walletId, arrivedAtMs, step }, index) => {
    const parent = parents[index] ?? null;
    if (parent === null) return;
    const attributes = {
      "coffer.lane": lane,
      "coffer.wallet.id": walletId,
      "coffer.command.id": commandId,
    };
    const context = contextOf(parent);
    if (arrivedAtMs !== null) {
      const startTime = arrivedAtMs + toWallMs;
      tracer
        .startSpan("mailbox", { kind: SpanKind.SERVER, startTime, attributes }, context)
        .end(start);
    }
    const links = [{ context: batch.spanContext() }];
    const committing = { ...attributes, "coffer.commit.events": events };
    const name = step === undefined ? "commit" : `${step} commit`;
    tracer.startSpan(name, { startTime: start, attributes: committing, links }, context).end(end);
  });
  batch.end(end);
}

/**
 * What makes Unix milliseconds of `monotonicMs`: the same for all spans, so that they lie within
 * each other as they did, though a commit takes less than the whole milliseconds of `Date.now`.
 * Reckoned anew when the clock was set.
 */
let toUnixMs = performance.timeOrigin + performance.now() - monotonicMs();

function unixOffsetMs(): number {
  const latestMs = Date.now() + 0.5 - monotonicMs();
  if (Math.abs(latestMs - toUnixMs) > LIMITS.clockStepMs) toUnixMs = latestMs;
  return toUnixMs;
}

/** A collector that is away is told of now and then, and is no reason for anything else. */
function tellTroubles(log: TracedProcess["log"]): void {
  let quietUntilMs = 0;
  const tell = (text: string): void => {
    if (monotonicMs() < quietUntilMs) return;
    quietUntilMs = monotonicMs() + LIMITS.troubleLogMs;
    log.warn(`traces: ${text}`);
  };
  const nothing = (): void => undefined;
  diag.setLogger(
    { error: tell, warn: tell, info: nothing, debug: nothing, verbose: nothing },
    DiagLogLevel.WARN,
  );
}

function openSpan(span: Span, toWallMs: number): OpenSpan {
  return {
    traceparent: traceparentOf(span.spanContext()),
    end(attributes, failure) {
      span.setAttributes({ ...attributes });
      if (failure !== undefined) {
        span.setStatus({ code: SpanStatusCode.ERROR, message: failure });
      }
      span.end(monotonicMs() + toWallMs);
    },
  };
}
