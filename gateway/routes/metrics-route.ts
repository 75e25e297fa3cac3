/**
 * `GET /metrics`: what this process counts, in Prometheus' text format, on gateways and hosts
 * alike.
 */
import type { FastifyInstance } from "fastify";

import type { Metrics } from "../../src/telemetry/metrics.ts";

export function addMetricsRoute(app: FastifyInstance, metrics: Metrics): void {
  const summary = "What this process counts, for Prometheus";
  const description =
    "In Prometheus' text format. What each metric means, and what is normal, is in docs/operations.md.";
  const text = { "text/plain": { schema: { type: "string" } } };
  const response = { 200: { description: "OK", content: text } };
  app.get(
    "/metrics",
    { schema: { tags: ["health"], summary, description, response }, config: { rateLimit: false } },
    async (_request, reply) => {
      const shown = await metrics.text();
      return reply
        .header("content-type", metrics.contentType)
        .header("cache-control", "no-store")
        .send(shown);
    },
  );
}
