/** Health checks of a process that has no time. */
import { MessageChannel } from "node:worker_threads";
import Fastify from "fastify";
import { expect, it } from "vitest";

import { buildMemoryBus } from "../../src/bus/memory-bus.ts";
import { LIMITS } from "../../src/limits.ts";
import { addHealthRoutes } from "./health-routes.ts";

/** Answers over a port, whose messages are read when the event loop comes to it. */
function answering(): Promise<number> {
  const { port1, port2 } = new MessageChannel();
  const answer = new Promise<number>((resolve) => {
    port1.once("message", (latencyMs: number) => {
      port1.close();
      resolve(latencyMs);
    });
  });
  port2.postMessage(1);
  return answer;
}

it("an answer that came while the process was busy counts, however late it is read", async () => {
  const app = Fastify();
  addHealthRoutes(app, {
    version: "1.2.3",
    bus: buildMemoryBus(),
    probes: [{ name: "database", isNeededForCommands: true, probe: answering }],
    stats: () => ({}),
  });
  const asked = app.inject("/health/ready");
  // When the loop stands still from the question on
  await new Promise<void>((resolve) => process.nextTick(resolve));
  setImmediate(() => {
    const untilMs = performance.now() + LIMITS.healthCheckMs + 100;
    while (performance.now() < untilMs);
  });
  expect((await asked).json()).toMatchObject({ status: "up" });
});

it("says why the bus is down, to whoever asks for the bus alone, too", async () => {
  // Given a bus whose server is away
  const app = Fastify();
  const ping = () => Promise.reject(new Error("NATS is away: connect ECONNREFUSED 127.0.0.1:1"));
  const bus = { state: "reconnecting" as const, ping };
  addHealthRoutes(app, { version: "1.2.3", bus, probes: [], stats: () => ({}) });
  // When somebody asks for it
  const answer = await app.inject("/health/nats");
  // Then the answer has what the bus says of itself
  expect(answer.statusCode).toBe(503);
  expect(answer.json()).toEqual({
    status: "down",
    connection: "reconnecting",
    latencyMs: null,
    reason: "NATS is away: connect ECONNREFUSED 127.0.0.1:1",
  });
});
