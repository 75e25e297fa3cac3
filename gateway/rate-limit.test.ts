/**
 * A gateway that counts by itself: what it keeps of its clients is bounded, and none of them gets
 * more than it may by that. With Redis, and without it for a while: `test/rate-limit.test.ts`.
 */
import Fastify from "fastify";
import { expect, it } from "vitest";

import { withLimits } from "../test/stage/lanes.ts";
import { ApiException, statusOf } from "./errors.ts";
import { buildRateLimit } from "./rate-limit.ts";

/** Answers a request of a client with its status. */
async function open(perSecond: number): Promise<(client: string) => Promise<number>> {
  const log = { warn: () => undefined };
  const limit = buildRateLimit({ perSecond, redisUrl: undefined, name: "test", log });
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
