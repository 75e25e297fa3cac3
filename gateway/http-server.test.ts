/**
 * The HTTP server on real connections: how many it takes, what it does with bodies on their way, what
 * it logs of failures, and how it ends, with every answer under way and without waiting for clients.
 */
import { once } from "node:events";
import {
  Agent,
  request,
  type ClientRequest,
  type IncomingMessage,
  type OutgoingHttpHeaders,
} from "node:http";
import { connect, type AddressInfo, type Socket } from "node:net";
import { text } from "node:stream/consumers";
import { setTimeout as sleep } from "node:timers/promises";
import { setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import fastifyWebsocket from "@fastify/websocket";
import { pino } from "pino";
import { beforeEach, describe, expect, it, onTestFinished, vi } from "vitest";
import { OutcomeUnknown } from "../src/commit-outcome.ts";
import { LIMITS } from "../src/limits.ts";
import { withLimits } from "../test/stage/lanes.ts";
import { FEED_PATH, leaveHttp } from "./http-connections.ts";
import { buildServer } from "./http-server.ts";

it.each([
  ["while idle connections may still ask", 50],
  ["after they were ended", LIMITS.httpDrainMs + 250],
])(
  "a client that keeps its connection after the last answer, %s, does not hold up the end",
  async (_, answerMs) => {
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
    await sleep(answerMs);
    answer();
    // Then the client has its answer, and the server ends long before it would let go by itself
    const response = await answered;
    response.resume();
    expect(response.statusCode).toBe(200);
    expect(response.headers.connection).toBe("keep-alive");
    const startedAtMs = performance.now();
    await closed;
    expect(performance.now() - startedAtMs).toBeLessThan(LIMITS.shutdownMs / 4);
  },
);

it("a client that does not take its answer does not hold up the end", async () => {
  // Given a client that has asked for more than the system keeps for it, and reads nothing
  withLimits({ httpClosingMs: 500 });
  const app = buildServer(pino({ level: "silent" }));
  let isAsked = false;
  app.get("/large", () => {
    isAsked = true;
    return Buffer.alloc(64 * 1_048_576);
  });
  await app.listen({ port: 0, host: "127.0.0.1" });
  const { port } = app.server.address() as AddressInfo;
  const socket = connect(port, "127.0.0.1").pause();
  onTestFinished(() => void socket.destroy());
  socket.on("error", () => undefined);
  socket.write("GET /large HTTP/1.1\r\nHost: here\r\n\r\n");
  await vi.waitUntil(() => isAsked, { timeout: 10_000 });
  // When the server closes, for which the library gives it enough time
  expect(app.initialConfig.pluginTimeout).toBeGreaterThan(LIMITS.httpClosingMs);
  const startedAtMs = performance.now();
  await app.close();
  // Then the client had its time, and no more
  const tookMs = performance.now() - startedAtMs;
  expect(tookMs).toBeGreaterThan(450);
  expect(tookMs).toBeLessThan(5_000);
});

it("keeps nothing of connections that are closed", async () => {
  setFlagsFromString("--expose-gc");
  const collectGarbage = runInNewContext("gc") as () => void;
  // Given connections that were used, and are closed
  const app = buildServer(pino({ level: "silent" }));
  onTestFinished(() => app.close());
  const sockets: WeakRef<Socket>[] = [];
  app.server.on("connection", (socket: Socket) => sockets.push(new WeakRef(socket)));
  await app.listen({ port: 0, host: "127.0.0.1" });
  const { port } = app.server.address() as AddressInfo;
  for (let count = 0; count < 5; count += 1) {
    const agent = new Agent({ keepAlive: true });
    const [response] = (await once(
      request({ host: "127.0.0.1", port, agent }).end(),
      "response",
    )) as [IncomingMessage];
    await text(response);
    agent.destroy();
  }
  expect(sockets).toHaveLength(5);
  // Then their memory can be used again
  const left = (): number => {
    collectGarbage();
    return sockets.filter((socket) => socket.deref() !== undefined).length;
  };
  await expect.poll(left).toBe(0);
});

it("a request without an answer does not hold up the end longer than its client may have", async () => {
  // Given a command that never ends
  withLimits({ httpClosingMs: 300 });
  const app = buildServer(pino({ level: "silent" }));
  const asked = new Promise<void>((arrived) => {
    app.get("/endless", () => {
      arrived();
      return new Promise(() => undefined);
    });
  });
  await app.listen({ port: 0, host: "127.0.0.1" });
  const { port } = app.server.address() as AddressInfo;
  const socket = connect(port, "127.0.0.1").resume();
  onTestFinished(() => void socket.destroy());
  socket.write("GET /endless HTTP/1.1\r\nHost: here\r\n\r\n");
  await asked;
  const startedAtMs = performance.now();
  await app.close();
  expect(performance.now() - startedAtMs).toBeGreaterThan(250);
});

it("what waits on a connection that has left HTTP does not hold up the end", async () => {
  // Given a feed whose client reads nothing, with more to read than the system keeps for it
  withLimits({ httpClosingMs: 5_000 });
  const app = buildServer(pino({ level: "silent" }));
  let onTurn = (): unknown => undefined;
  app.addHook("preClose", async () => void onTurn());
  await app.register(fastifyWebsocket);
  const sent = new Promise<Socket>((resolve) => {
    app.get(FEED_PATH, { websocket: true }, (webSocket, { raw }) => {
      leaveHttp(raw.socket);
      webSocket.send(Buffer.alloc(64 * 1_048_576));
      resolve(raw.socket);
    });
  });
  await app.listen({ port: 0, host: "127.0.0.1" });
  const { port } = app.server.address() as AddressInfo;
  const client = connect(port, "127.0.0.1").pause();
  onTestFinished(() => void client.destroy());
  client.on("error", () => undefined);
  const upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13";
  const key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
  client.write(`GET ${FEED_PATH} HTTP/1.1\r\nHost: here\r\n${upgrade}\r\n${key}\r\n\r\n`);
  const socket = await sent;
  expect(socket.writableLength).toBeGreaterThan(0);
  // When the server closes, then what closes the feeds has its turn soon
  onTurn = () => socket.destroy();
  const startedAtMs = performance.now();
  await app.close();
  expect(performance.now() - startedAtMs).toBeLessThan(2_500);
});

it("there are no more connections than may be: who comes past that is not let in", async () => {
  withLimits({ httpConnectionsMax: 2 });
  const app = buildServer(pino({ level: "silent" }));
  onTestFinished(() => app.close());
  app.get("/", () => "done");
  await app.listen({ port: 0, host: "127.0.0.1" });
  const { port } = app.server.address() as AddressInfo;
  async function ask(): Promise<{ socket: Socket; answer: string }> {
    const socket = connect(port, "127.0.0.1");
    onTestFinished(() => void socket.destroy());
    socket.on("error", () => undefined);
    socket.write("GET / HTTP/1.1\r\nHost: here\r\n\r\n");
    const [chunk] = await Promise.race([once(socket, "data"), once(socket, "close")]);
    return { socket, answer: String(chunk).slice(0, 15) };
  }
  const first = await ask();
  const second = await ask();
  expect([first.answer, second.answer]).toEqual(["HTTP/1.1 200 OK", "HTTP/1.1 200 OK"]);
  expect((await ask()).answer).not.toContain("HTTP");
  // And there is room again when one has gone
  first.socket.destroy();
  await vi.waitUntil(async () => (await ask()).answer === "HTTP/1.1 200 OK");
});

it("a client that takes its answer slowly gets all of it before the end", async () => {
  // Given a client that has asked for more than the system keeps for it, and does not read yet
  const app = buildServer(pino({ level: "silent" }));
  let isAsked = false;
  const bytes = 64 * 1_048_576;
  app.get("/large", () => {
    isAsked = true;
    return Buffer.alloc(bytes);
  });
  await app.listen({ port: 0, host: "127.0.0.1" });
  const { port } = app.server.address() as AddressInfo;
  const socket = connect(port, "127.0.0.1").pause();
  onTestFinished(() => void socket.destroy());
  socket.write("GET /large HTTP/1.1\r\nHost: here\r\n\r\n");
  await vi.waitUntil(() => isAsked, { timeout: 10_000 });
  // When the server closes, and the client begins to read after that
  const closed = app.close();
  await sleep(LIMITS.httpDrainMs * 2);
  socket.resume();
  await closed;
  await once(socket, "close");
  // Then it has everything
  expect(socket.bytesRead).toBeGreaterThan(bytes);
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

it("a request that does not come to its end is cut off when its time is over", async () => {
  withLimits({ httpRequestMs: 500, httpRequestCheckMs: 100 });
  const app = buildServer(pino({ level: "silent" }));
  app.post("/", () => "done");
  await app.listen({ port: 0, host: "127.0.0.1" });
  onTestFinished(() => app.close());
  const { port } = app.server.address() as AddressInfo;
  const headers = { "content-type": "application/json", "content-length": 1_000 };
  const asked = request({ host: "127.0.0.1", port, method: "POST", headers, agent: false });
  asked.on("error", () => undefined);
  const trickle = setInterval(() => asked.write("1"), 50);
  onTestFinished(() => clearInterval(trickle));
  const [response] = (await once(asked, "response")) as [IncomingMessage];
  expect(response.statusCode).toBe(408);
}, 5_000);

describe("bodies that are still on their way", () => {
  const LARGE_BYTES = 40_000;
  let port: number;
  let answerSlow: () => void;

  beforeEach(async () => {
    // Given room for two of them
    withLimits({ httpBodiesBytesMax: 100_000, httpBodyBytesMax: 50_000 });
    const app = buildServer(pino({ level: "silent" }));
    const slow = new Promise<void>((resolve) => (answerSlow = resolve));
    app.post("/", () => "done");
    app.post("/larger", { bodyLimit: 90_000 }, () => "done");
    await app.register(fastifyWebsocket);
    app.get(FEED_PATH, { websocket: true }, () => undefined);
    app.post("/slow", async () => {
      await slow;
      return "done";
    });
    await app.listen({ port: 0, host: "127.0.0.1" });
    onTestFinished(() => app.close());
    ({ port } = app.server.address() as AddressInfo);
  });

  function post(path: string, length: OutgoingHttpHeaders): ClientRequest {
    const headers = { "content-type": "application/json", ...length };
    return request({ host: "127.0.0.1", port, method: "POST", path, headers, agent: false });
  }

  const announced = (bytes: number): OutgoingHttpHeaders => ({ "content-length": bytes });
  const inChunks: OutgoingHttpHeaders = { "transfer-encoding": "chunked" };
  const bodyOf = (bytes: number): string => JSON.stringify("x".repeat(bytes - 2));

  /** Sends all of a body and tells what came back. */
  async function send(path: string, bytes: number, length = announced(bytes)) {
    const response = await answerTo(post(path, length).end(bodyOf(bytes)));
    const chunks: string[] = [];
    for await (const chunk of response) chunks.push(String(chunk));
    return { status: response.statusCode, text: chunks.join("") };
  }

  async function answerTo(asked: ClientRequest): Promise<IncomingMessage> {
    const [response] = (await once(asked, "response")) as [IncomingMessage];
    return response;
  }

  it.each([
    ["announced", announced(LARGE_BYTES)],
    ["in chunks", inChunks],
  ])("%s: past the bound a large one is refused, and a small one is not", async (_, length) => {
    // When two stall
    const stalled = [post("/", length), post("/", length)];
    for (const one of stalled) one.on("error", () => undefined).write('"x');
    await vi.waitUntil(async () => (await send("/", LARGE_BYTES)).status === 503);
    // Then what is large finds no room
    const refused = await send("/", LARGE_BYTES);
    expect(JSON.parse(refused.text)).toMatchObject({
      statusCode: 503,
      code: "overloaded",
      message: expect.stringContaining("large bodies"),
    });
    expect(await send("/", LIMITS.httpSmallBodyBytes)).toMatchObject({ status: 200 });
    expect(await send("/", LIMITS.httpBodyBytesMax + 1)).toMatchObject({ status: 413 });
    // And does when one has come to its end, and again when the other is gone
    stalled[0]!.end(bodyOf(LARGE_BYTES).slice(2));
    expect((await answerTo(stalled[0]!)).statusCode).toBe(200);
    expect(await send("/", LARGE_BYTES)).toMatchObject({ status: 200 });
    stalled[1]!.destroy();
    await sleep(50);
    const again = [post("/", length), post("/", length)];
    for (const one of again) one.write('"x');
    await sleep(50);
    const answers = again.map((one) => answerTo(one.end(bodyOf(LARGE_BYTES).slice(2))));
    expect((await Promise.all(answers)).map(({ statusCode }) => statusCode)).toEqual([200, 200]);
  });

  it.each([
    ["a method that takes none", "GET", "/", announced(LARGE_BYTES), 405],
    ["no JSON", "POST", "/", { ...announced(LARGE_BYTES), "content-type": "text/plain" }, 415],
    ["more than may be", "POST", "/", inChunks, 413],
  ])(
    "answered before it has come (%s), a body takes no room once its connection is gone",
    async (_, method, path, more, status) => {
      for (let nth = 0; nth < 4; nth += 1) {
        const headers = { "content-type": "application/json", ...more };
        const asked = request({ host: "127.0.0.1", port, method, path, headers, agent: false });
        asked.on("error", () => undefined).write(bodyOf(status === 413 ? 60_000 : 100));
        const response = await answerTo(asked);
        expect(response.statusCode).toBe(status);
        response.on("error", () => undefined);
        asked.destroy();
        await sleep(20);
      }
      await vi.waitUntil(async () => (await send("/", LARGE_BYTES)).status === 200);
    },
  );

  it("an upgrade to the feed takes no room, whatever it announces", async () => {
    for (let count = 0; count < 3; count += 1) {
      const headers = {
        connection: "Upgrade",
        upgrade: "websocket",
        "sec-websocket-version": "13",
        "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
        ...announced(LARGE_BYTES),
      };
      const asked = request({
        host: "127.0.0.1",
        port,
        path: FEED_PATH,
        headers,
        agent: false,
      }).end();
      const [, socket] = (await once(asked, "upgrade")) as [IncomingMessage, Socket];
      onTestFinished(() => void socket.destroy());
    }
    expect(await send("/", LARGE_BYTES)).toMatchObject({ status: 200 });
  });

  it("what comes in chunks may be as large as its route allows", async () => {
    const asked = post("/larger", inChunks);
    asked.on("error", () => undefined).write('"x');
    // Then another large one finds no room beside it
    await vi.waitUntil(async () => (await send("/", LARGE_BYTES)).status === 503);
    asked.end(bodyOf(60_000).slice(2));
    expect((await answerTo(asked)).statusCode).toBe(200);
  });

  it("what is complete and waits for its answer takes no room", async () => {
    const slow = Array.from({ length: 4 }, () => post("/slow", inChunks).end(bodyOf(LARGE_BYTES)));
    const answers = slow.map(answerTo);
    await vi.waitUntil(async () => (await send("/", LARGE_BYTES)).status === 200);
    answerSlow();
    expect((await Promise.all(answers)).map(({ statusCode }) => statusCode)).toEqual([
      200, 200, 200, 200,
    ]);
  });
});

it.each([
  ["a page of another site, without a body", { "sec-fetch-site": "cross-site" }, 415],
  [
    "a page of another site, as text",
    { "sec-fetch-site": "cross-site", "content-type": "text/plain" },
    415,
  ],
  [
    "a page of another site that was allowed to say JSON",
    { "sec-fetch-site": "cross-site", "content-type": "application/json" },
    200,
  ],
  ["a page of another site, in a browser that tells no more", { origin: "http://a.example" }, 415],
  ["a page without an origin", { origin: "null" }, 415],
  ["a page of its own", { "sec-fetch-site": "same-origin", origin: "http://a.example" }, 200],
  ["a page of its own, in a browser that tells no more", { origin: "http://localhost:80" }, 200],
  ["a page of the same site", { "sec-fetch-site": "same-site", origin: "http://a.example" }, 200],
  ["a person by hand", { "sec-fetch-site": "none" }, 200],
  ["a program", {}, 200],
])("a write that comes from %s", async (_, headers, status) => {
  const app = buildServer(pino({ level: "silent" }));
  onTestFinished(() => app.close());
  let writes = 0;
  app.post("/write", () => {
    writes += 1;
    return "done";
  });
  const answer = await app.inject({ method: "POST", url: "/write", headers });
  expect(answer.statusCode).toBe(status);
  expect(writes).toBe(status === 200 ? 1 : 0);
});

it.each([
  { failure: new Error("no such column"), status: 500, level: "error", said: "a request failed" },
  {
    failure: new OutcomeUnknown("the connection was lost"),
    status: 504,
    level: "warn",
    said: "nobody knows what a request did",
  },
])("$status is logged with its cause and the id that its caller has", async (given) => {
  const lines: string[] = [];
  const app = buildServer(pino({}, { write: (line: string) => void lines.push(line) }));
  onTestFinished(() => app.close());
  app.get("/broken", () => Promise.reject(given.failure));
  const { statusCode, headers } = await app.inject({ url: "/broken" });
  expect(statusCode).toBe(given.status);
  expect(lines.map((line) => JSON.parse(line) as object)).toMatchObject([
    {
      level: pino.levels.values[given.level],
      msg: given.said,
      err: { message: given.failure.message },
      correlationId: headers["x-correlation-id"],
      url: "/broken",
    },
  ]);
});

it("a client that ends its side after a request still gets the answer", async () => {
  // Given a route whose answer takes a moment
  const app = buildServer(pino({ level: "silent" }));
  onTestFinished(() => app.close());
  app.post("/slow", () => sleep(50, "done"));
  await app.listen({ port: 0, host: "127.0.0.1" });
  const { port } = app.server.address() as AddressInfo;
  // When the client says that nothing follows its request
  const socket = connect(port, "127.0.0.1");
  const answer = text(socket);
  socket.end("POST /slow HTTP/1.1\r\nHost: here\r\nContent-Length: 0\r\n\r\n");
  // Then it is answered, and the connection ends behind that
  expect(await answer).toMatch(/^HTTP\/1\.1 200 OK\r\n[^]*\r\n\r\ndone$/);
});
