/**
 * Counts and traces requests, whatever their route: an operator's view from outside. Both hang
 * themselves onto each route as it is made, with the route's own counters at hand, so that a
 * request costs no search for them; a server that is not watched has no hooks at all.
 */
import type { FastifyInstance, FastifyReply, FastifyRequest, RouteOptions } from "fastify";

import type { Metrics } from "../src/telemetry/metrics.ts";
import type { OpenSpan, Tracing } from "../src/telemetry/tracing.ts";

declare module "fastify" {
  interface FastifyInstance {
    metrics: Metrics | null;
  }
  interface FastifyRequest {
    /** The request's span, for what happens within it; undefined unless it is traced. */
    traceparent: string | undefined;
  }
}

type Done = () => void;

/** What no route takes is counted under this name, so that strangers cannot make up labels. */
const NO_ROUTE = "none";

export function countAnswers(app: FastifyInstance, metrics: Metrics): void {
  app.addHook("onRoute", (route) => {
    for (const method of [route.method].flat()) {
      const count = metrics.route(method, route.url);
      append(route, (request, reply, done) => {
        if (request.method === method) count(reply.statusCode, reply.elapsedTime);
        done();
      });
    }
  });
  const byMethod = new Map<string, ReturnType<Metrics["route"]>>();
  // Runs for requests without a route only: see `is404`.
  app.addHook("onResponse", (request, reply, done) => {
    if (request.is404) {
      const { method } = request;
      let count = byMethod.get(method);
      if (count === undefined) byMethod.set(method, (count = metrics.route(method, NO_ROUTE)));
      count(reply.statusCode, reply.elapsedTime);
    }
    done();
  });
}

function append(
  route: RouteOptions,
  hook: (request: FastifyRequest, reply: FastifyReply, done: Done) => void,
): void {
  const { onResponse = [] } = route;
  route.onResponse = [onResponse, hook].flat();
}

/** Health, metrics and the document are looked at all day and lead nowhere. */
const UNTRACED = /^\/($|docs|openapi\.json|metrics|health|api\/v1\/health|ws$)/;

export function traceRequests(app: FastifyInstance, tracing: Tracing): void {
  const spans = new WeakMap<FastifyRequest, OpenSpan>();
  app.addHook("onRoute", (route) => {
    if (UNTRACED.test(route.url)) return;
    const { onRequest = [] } = route;
    const begin = (request: FastifyRequest, _reply: FastifyReply, done: Done): void => {
      const { method, headers, id } = request;
      const traceparent = headers["traceparent"];
      const span = tracing.begin(
        "server",
        `${method} ${route.url}`,
        typeof traceparent === "string" ? traceparent : undefined,
        {
          "http.request.method": method,
          "http.route": route.url,
          "url.path": request.url.split("?", 1)[0]!,
          "coffer.correlation.id": id,
        },
      );
      if (span !== null) {
        request.traceparent = span.traceparent;
        spans.set(request, span);
      }
      done();
    };
    route.onRequest = [begin, onRequest].flat();
    append(route, (request, reply, done) => {
      const { statusCode } = reply;
      const failure = statusCode >= 500 ? `status ${statusCode}` : undefined;
      spans.get(request)?.end({ "http.response.status_code": statusCode }, failure);
      done();
    });
  });
}
