/** Health checks of a process that has no time. */
import { MessageChannel } from "node:worker_threads";
import Fastify from "fastify";
import { expect, it } from "vitest";

import { buildMemoryBus } from "../src/memory-bus.ts";
import { LIMITS } from "../src/limits.ts";
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
