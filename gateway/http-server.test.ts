/** How the HTTP server ends: with every answer under way, and without waiting for clients. */
import { once } from "node:events";
import { Agent, request, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import { pino } from "pino";
import { expect, it, onTestFinished, vi } from "vitest";
import { LIMITS } from "../src/limits.ts";
import { buildServer } from "./http-server.ts";

it("a client that keeps its connection after the last answer does not hold up the end", async () => {
  // Given a request under way, over a connection that its client means to keep
  const app = buildServer(pino({ level: "silent" }));
  const agent = new Agent({ keepAlive: true });
  onTestFinished(() => agent.destroy());
  let answer = (): void => undefined;
  const asked = new Promise<void>((arrived) => {
    app.get("/slow", async () => {
      arrived();
      await new Promise<void>((resolve) => (answer = resolve));
      return "done";
    });
  });
  await app.listen({ port: 0, host: "127.0.0.1" });
  const { port } = app.server.address() as AddressInfo;
  const answered = new Promise<IncomingMessage>((resolve, reject) => {
    request({ host: "127.0.0.1", port, path: "/slow", agent }, resolve).on("error", reject).end();
  });
  await asked;
  // When the server is told to close, and the answer leaves after that
  const closed = app.close();
  await new Promise((resolve) => setTimeout(resolve, 50));
  answer();
  // Then the client has its answer, and the server ends long before it would let go by itself
  const response = await answered;
  response.resume();
  expect(response.statusCode).toBe(200);
  expect(response.headers.connection).toBe("keep-alive");
  const startedAtMs = performance.now();
  await closed;
  expect(performance.now() - startedAtMs).toBeLessThan(LIMITS.shutdownMs / 4);
});

it("clients that go on asking lose no answer: each is told to close its connection", async () => {
  // Given clients that ask again and again, each over a connection of its own
  const app = buildServer(pino({ level: "silent" }));
  app.get("/", () => "done");
  await app.listen({ port: 0, host: "127.0.0.1" });
  const { port } = app.server.address() as AddressInfo;
  const connected = new Set<Agent>();
  const ends = Array.from({ length: 20 }, async () => {
    const agent = new Agent({ keepAlive: true, maxSockets: 1 });
    onTestFinished(() => agent.destroy());
    for (;;) {
      const response = await new Promise<IncomingMessage>((resolve, reject) => {
        request({ host: "127.0.0.1", port, path: "/", agent }, resolve).on("error", reject).end();
      });
      response.resume();
      await once(response, "end");
      connected.add(agent);
      if (response.headers.connection === "close") return response.statusCode;
    }
  });
  await vi.waitUntil(() => connected.size === 20, { timeout: 10_000 });
  // When the server closes
  await app.close();
  // Then each request was answered, also those that were on their way
  expect(await Promise.all(ends)).toEqual(ends.map(() => 200));
});
