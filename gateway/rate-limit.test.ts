/**
 * A gateway that counts by itself: what it keeps of its clients is bounded, and none of them gets
 * more than it may by that, nor waits for a Redis that says nothing. With a real one, and without
 * it for a while: `test/rate-limit.test.ts`.
 */
import { once } from "node:events";
import { createServer, type AddressInfo, type Socket } from "node:net";

import Fastify from "fastify";
import { expect, it, onTestFinished } from "vitest";

import { withLimits } from "../test/stage/lanes.ts";
import { ApiException, statusOf } from "./errors.ts";
import { buildRateLimit } from "./rate-limit.ts";

/** Answers a request of a client with its status. */
async function open(
  perSecond: number,
  redisUrl?: string,
  warnings: string[] = [],
): Promise<(client: string) => Promise<number>> {
  const log = { warn: (text: string) => void warnings.push(text) };
  const limit = buildRateLimit({ perSecond, redisUrl, name: "test", log });
  onTestFinished(() => limit.close());
  const app = Fastify();
  limit.limit(app);
  app.setErrorHandler((error, _request, reply) => {
    const code = error instanceof ApiException ? error.apiError.code : "internal_error";
    return reply.code(statusOf(code)).send();
  });
  await app.register((routes, _, done) => {
    routes.get("/", () => "served");
    done();
  });
  return async (client) => {
    const { statusCode } = await app.inject({ url: "/", remoteAddress: client });
    return statusCode;
  };
}

it("counts no more than rateLimitClientsMax clients apart, and all others as one", async () => {
  // Given a window that does not end, and two clients that have come
  withLimits({ rateLimitClientsMax: 2, rateLimitWindowMs: 3_600_000 });
  const ask = await open(2);
  for (const client of ["10.0.0.1", "10.0.0.2"]) expect(await ask(client)).toBe(200);

  // When others come, then they share what one may
  expect(await ask("10.0.0.3")).toBe(200);
  expect(await ask("10.0.0.4")).toBe(200);
  expect(await ask("10.0.0.5")).toBe(429);

  // And those who were first have their own
  expect(await ask("10.0.0.1")).toBe(200);
  expect(await ask("10.0.0.1")).toBe(429);
  expect(await ask("10.0.0.2")).toBe(200);
});

it("lets a client that was refused in again when the window is over", async () => {
  withLimits({ rateLimitWindowMs: 50 });
  const ask = await open(2);
  const askThrice = (): Promise<number[]> =>
    Promise.all(["10.0.0.1", "10.0.0.1", "10.0.0.1"].map(ask));
  await expect.poll(askThrice).toContain(429);
  await expect.poll(() => ask("10.0.0.1")).toBe(200);
});

/**
 * Takes every connection. Says that it is Redis where it is to be `ready`, and nothing more: it
 * hangs, and only remembers how often it was asked for a count.
 */
async function startHangingRedis(isReady: boolean) {
  const sockets = new Set<Socket>();
  const asked = { counts: 0 };
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on("error", () => undefined);
    socket.on("data", (chunk) => {
      const commands = chunk.toString().toLowerCase().split("*").slice(1);
      asked.counts += commands.filter((command) => command.includes("\r\nmulti\r\n")).length;
      if (!isReady || asked.counts > 0) return;
      // Its answer to INFO, behind which the library calls a connection ready.
      for (const command of commands) {
        socket.write(command.includes("\r\ninfo\r\n") ? "$9\r\nloading:0\r\n" : "+OK\r\n");
      }
    });
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  return { asked, sockets, url: `redis://127.0.0.1:${(server.address() as AddressInfo).port}` };
}

it("asks a Redis that hangs with one request, waits for it with no other, and counts them all", async () => {
  // Given a Redis that was there, which may be asked again at once
  withLimits({ rateLimitWindowMs: 3_600_000, rateLimitRedisPauseMs: 0 });
  const { asked, url } = await startHangingRedis(true);
  const warnings: string[] = [];
  const ask = await open(2, url, warnings);
  await expect.poll(async () => (await ask("10.0.0.9"), asked.counts)).toBeGreaterThan(0);

  // When many come at once, then one of them asks it, and each gets what it may
  withLimits({ rateLimitRedisPauseMs: 3_600_000 });
  const before = asked.counts;
  const askAll = (client: string): Promise<number[]> =>
    Promise.all(Array.from({ length: 4 }, () => ask(client)));
  expect((await askAll("10.0.0.1")).toSorted()).toEqual([200, 200, 429, 429]);
  await expect.poll(() => asked.counts).toBe(before + 1);

  // And then nobody does for a while, and the operator was told once
  expect((await askAll("10.0.0.2")).toSorted()).toEqual([200, 200, 429, 429]);
  expect(asked.counts).toBe(before + 1);
  expect(warnings).toHaveLength(1);
});

it("counts by itself at once while its Redis takes connections and says nothing at all", async () => {
  withLimits({ rateLimitWindowMs: 3_600_000 });
  const { sockets, url } = await startHangingRedis(false);
  const warnings: string[] = [];
  const ask = await open(1, url, warnings);
  await expect.poll(() => sockets.size).toBeGreaterThan(0);
  expect(await Promise.all([ask("10.0.0.1"), ask("10.0.0.1"), ask("10.0.0.2")])).toEqual([
    200, 429, 200,
  ]);
  expect(warnings).toEqual([
    expect.stringMatching(/^requests are counted by this gateway alone: Redis is away: \w/),
  ]);
});
