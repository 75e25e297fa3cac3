/**
 * The feed over real sockets: a Fastify server on a free port, the `ws` client, and bare TCP where
 * a client must misbehave. The hub is the real one with the in-process bus; only the database is
 * the tests' own world.
 */
import { once } from "node:events";
import { connect as connectTcp, type AddressInfo, type Socket } from "node:net";
import { setTimeout as delay } from "node:timers/promises";

import Fastify, { type FastifyInstance } from "fastify";
import { afterEach, describe, expect, test, vi } from "vitest";
import { WebSocket, type ClientOptions } from "ws";

import { LIMITS } from "../../src/limits.ts";
import { buildMemoryBus } from "../../src/bus/memory-bus.ts";
import { SUBJECTS } from "../../src/core/protocol.ts";
import { shardOf } from "../../src/core/shard.ts";
import { buildWorld, type BalanceFrame, type ServerFrame } from "../../test/stage/feed-world.ts";
import { buildFeedHub, type FeedHub, type FeedSink } from "./feed.ts";
import { UpgradableRequest } from "../http-connections.ts";
import { buildFeedSocket } from "./websocket.ts";

interface Server {
  readonly app: FastifyInstance;
  readonly hub: FeedHub;
  readonly port: number;
  readonly url: string;
  /** The connections as the hub sees them, in the order in which they came. */
  readonly sinks: FeedSink[];
  /** Added to the hub's clock, so that half a minute need not be waited for. */
  aheadMs: number;
  /** Commits and publishes n changes. */
  change(walletId: string, times?: number, description?: string): void;
}

const servers: Server[] = [];
const sockets: (WebSocket | Socket)[] = [];

afterEach(async () => {
  for (const socket of sockets.splice(0)) {
    if (socket instanceof WebSocket) socket.terminate();
    else socket.destroy();
  }
  for (const { app } of servers.splice(0)) await app.close();
});

async function start(pingMs?: number, origins: readonly string[] = []): Promise<Server> {
  const world = buildWorld();
  const bus = buildMemoryBus();
  const timers = {
    after(delayMs: number, task: () => void): () => void {
      const timer = setTimeout(task, delayMs);
      return () => clearTimeout(timer);
    },
  };
  const clock = { nowMs: () => Date.now() + server.aheadMs };
  const log = { warn: () => undefined };
  const hub = buildFeedHub({ bus, readModel: world.readModel, clock, timers, log });
  const app = Fastify({ http: { IncomingMessage: UpgradableRequest } });
  app.post("/echo", (request) => ({ body: request.body }));
  const sinks: FeedSink[] = [];
  const connect: FeedHub["connect"] = (sink) => {
    sinks.push(sink);
    return hub.connect(sink);
  };
  const watched: FeedHub = { ...hub, connect };
  void app.register(
    buildFeedSocket({ hub: watched, origins, ...(pingMs !== undefined && { pingMs }) }),
  );
  await app.listen({ port: 0, host: "127.0.0.1" });
  const { port } = app.server.address() as AddressInfo;
  const server: Server = {
    app,
    hub,
    port,
    url: `ws://127.0.0.1:${port}/ws`,
    sinks,
    aheadMs: 0,
    change(walletId, times = 1, description) {
      const changes = Array.from({ length: times }, () =>
        world.commit(walletId, description === undefined ? {} : { description }),
      );
      bus.publish(SUBJECTS.changes(shardOf(walletId)), changes);
    },
  };
  servers.push(server);
  return server;
}

function open(url: string, options: ClientOptions = {}) {
  const socket = new WebSocket(url, options);
  sockets.push(socket);
  const frames: ServerFrame[] = [];
  const closed = once(socket, "close").then(([code, reason]) => ({
    code: code as number,
    reason: String(reason),
  }));
  socket.on("message", (data) =>
    frames.push(JSON.parse((data as Buffer).toString()) as ServerFrame),
  );
  socket.on("error", () => undefined);
  return {
    socket,
    frames,
    closed,
    opened: once(socket, "open"),
    say: (frame: object) => socket.send(JSON.stringify(frame)),
    balances: () => frames.filter((frame): frame is BalanceFrame => frame.type === "balance"),
  };
}

/** A handshake and whatever follows it, in one write. */
function rawClient(port: number, after: Buffer | string): Socket {
  const socket = connectTcp(port, "127.0.0.1");
  sockets.push(socket);
  socket.on("error", () => undefined);
  const head = [
    "GET /ws HTTP/1.1",
    "Host: localhost",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
  ];
  socket.write(Buffer.concat([Buffer.from(`${head.join("\r\n")}\r\n\r\n`), Buffer.from(after)]));
  return socket;
}

/** A short masked text frame with a mask of zeros. */
function textFrame(text: string): Buffer {
  const payload = Buffer.from(text);
  return Buffer.concat([Buffer.from([0x81, 0x80 | payload.length, 0, 0, 0, 0]), payload]);
}

async function eventually(check: () => void): Promise<void> {
  await vi.waitFor(check, { timeout: 5_000, interval: 10 });
}

test("frames of one turn are written together, and however many, a quick client gets each", async () => {
  const server = await start();
  let writes = 0;
  server.app.server.on("connection", (connection: Socket) => {
    for (const name of ["_write", "_writev"] as const) {
      const write = connection[name] as (...given: unknown[]) => void;
      const counted = (...given: unknown[]): void => {
        writes += 1;
        write.apply(connection, given);
      };
      Object.assign(connection, { [name]: counted });
    }
  });
  server.change("w1");
  const client = open(server.url);
  await client.opened;
  client.say({ type: "subscribe", wallets: ["w1"] });
  await eventually(() => expect(client.balances()).toHaveLength(1));
  writes = 0;
  server.change("w1", 100);
  await eventually(() => expect(client.balances()).toHaveLength(101));
  expect(writes).toBe(1);
  // More than what makes a client slow
  writes = 0;
  server.change("w1", 300, "x".repeat(1_024));
  await eventually(() => expect(client.balances().at(-1)!.version).toBe(400));
  expect(client.balances()).toHaveLength(401);
  expect(writes).toBeLessThan(10);
});

test("a subscription gets a snapshot and then each change", async () => {
  const server = await start();
  server.change("w1");
  const client = open(server.url);
  await client.opened;
  client.say({ type: "subscribe", wallets: ["w1"] });
  await eventually(() => expect(client.frames).toHaveLength(2));
  server.change("w1", 2);
  await eventually(() => expect(client.frames).toHaveLength(4));
  expect(client.frames[0]).toEqual({ type: "subscribed", wallets: ["w1"], owners: [] });
  expect(client.balances().map(({ version, snapshot }) => [version, snapshot])).toEqual([
    [0, true],
    [1, false],
    [2, false],
  ]);
});

test("a message in the same packet as the handshake is not lost", async () => {
  const server = await start();
  server.change("w1");
  const socket = rawClient(server.port, textFrame('{"type":"subscribe","wallets":["w1"]}'));
  let got = "";
  socket.on("data", (data: Buffer) => {
    got += data.toString("latin1");
  });
  await eventually(() => expect(got).toContain('"snapshot":true'));
  expect(got).not.toContain("permessage-deflate");
});

test("messages sent right on open are all taken, in order", async () => {
  const server = await start();
  server.change("w1");
  const client = open(server.url);
  client.socket.on("open", () => {
    client.socket.send("no JSON");
    client.say({ type: "subscribe", wallets: ["w1"] });
    client.say({ type: "unsubscribe", wallets: ["w1"] });
  });
  await eventually(() => expect(client.frames).toHaveLength(3));
  expect(client.frames.map(({ type }) => type)).toEqual(["error", "subscribed", "unsubscribed"]);
});

test("a binary frame is refused and the client lives on", async () => {
  const server = await start();
  server.change("w1");
  const client = open(server.url);
  await client.opened;
  const frame = JSON.stringify({ type: "subscribe", wallets: ["w1"] });
  client.socket.send(Buffer.from(frame));
  client.socket.send(frame);
  await eventually(() => expect(client.frames).toHaveLength(3));
  expect(client.frames).toMatchObject([
    { type: "error", code: "validation_failed" },
    { type: "subscribed" },
    { type: "balance" },
  ]);
});

test("a frame of feedFrameBytesMax is read; a larger one closes the connection with 1009", async () => {
  const server = await start();
  const client = open(server.url);
  await client.opened;
  client.socket.send("x".repeat(LIMITS.feedFrameBytesMax));
  await eventually(() => expect(client.frames).toHaveLength(1));
  client.socket.send("x".repeat(LIMITS.feedFrameBytesMax + 1));
  expect(await client.closed).toMatchObject({ code: 1009 });
  await eventually(() => expect(server.hub.stats().clients).toBe(0));
});

test("text that is not UTF-8 closes the connection with 1007", async () => {
  const server = await start();
  const client = open(server.url);
  await client.opened;
  client.socket.send(Buffer.from([0xff, 0xfe]), { binary: false });
  expect(await client.closed).toMatchObject({ code: 1007 });
});

describe("a page", () => {
  test.each([
    ["http://localhost:5173", [], 101],
    ["http://127.0.0.1", [], 101],
    ["http://[::1]:8080", [], 101],
    ["https://shop.example", ["https://shop.example"], 101],
    ["https://shop.example", ["*"], 101],
    ["https://shop.example", [], 403],
    ["https://shop.example", ["https://other.example"], 403],
    ["http://shop.example", ["https://shop.example"], 403],
    ["http://127.0.0.1.shop.example", [], 403],
    ["http://localhost.shop.example", [], 403],
    ["null", [], 403],
    ["", [], 403],
  ])("from %j may watch where %j may: %i", async (origin, origins, status) => {
    const server = await start(undefined, origins);
    const socket = new WebSocket(server.url, { headers: { origin } });
    socket.on("error", () => undefined);
    sockets.push(socket);
    const answered = new Promise<number | undefined>((resolve) => {
      socket.once("upgrade", (reply) => resolve(reply.statusCode));
      socket.once("unexpected-response", (_, reply) => resolve(reply.statusCode));
    });
    expect(await answered).toBe(status);
    await eventually(() => expect(server.hub.stats().clients).toBe(status === 101 ? 1 : 0));
  });

  test("of the server's own name may watch", async () => {
    const server = await start();
    const own = { origin: "https://wallets.example", host: "wallets.example" };
    await open(server.url, { headers: own }).opened;
    expect(server.hub.stats().clients).toBe(1);
  });
});

test("a feed may be opened with a query, which is for those who stand in front", async () => {
  const server = await start();
  await open(`${server.url}?token=secret`).opened;
  expect(server.hub.stats().clients).toBe(1);
});

describe("pings", () => {
  test("are sent, and a client that answers stays", async () => {
    const server = await start(40);
    const client = open(server.url);
    await client.opened;
    let pings = 0;
    client.socket.on("ping", () => pings++);
    await eventually(() => expect(pings).toBeGreaterThan(5));
    expect(client.socket.readyState).toBe(WebSocket.OPEN);
    expect(server.hub.stats().clients).toBe(1);
  });

  test("that go unanswered end the connection", async () => {
    const server = await start(40);
    const client = open(server.url, { autoPong: false });
    await client.opened;
    expect(await client.closed).toMatchObject({ code: 1006 });
    await eventually(() => expect(server.hub.stats().clients).toBe(0));
  });
});

test("A connection that is gone leaves no timer behind.", async () => {
  const { url } = await start();
  const timers = () => process.getActiveResourcesInfo().filter((kind) => kind === "Timeout").length;
  const clients = Array.from({ length: 20 }, () => open(url));
  await Promise.all(clients.map(({ opened }) => opened));
  const most = timers();
  expect(most).toBeGreaterThanOrEqual(20);
  for (const { socket } of clients) socket.terminate();
  await eventually(() => expect(timers()).toBeLessThan(most - 10));
});

test("two hundred clients of one wallet all get every change", async () => {
  const server = await start();
  server.change("hot");
  const clients = Array.from({ length: 200 }, () => open(server.url));
  await Promise.all(clients.map(({ opened }) => opened));
  for (const { say } of clients) say({ type: "subscribe", wallets: ["hot"] });
  await eventually(() => {
    for (const { balances } of clients) expect(balances()).toHaveLength(1);
  });
  for (let n = 0; n < 20; n++) {
    server.change("hot", 5);
    await delay(1);
  }
  await eventually(() => {
    for (const { balances } of clients) expect(balances()).toHaveLength(101);
  });
  const versions = Array.from({ length: 101 }, (_, n) => n);
  for (const { balances } of clients) {
    expect(balances().map(({ version }) => version)).toEqual(versions);
  }
  for (const { socket } of clients) socket.close();
  await eventually(() => {
    expect(server.hub.stats()).toMatchObject({ clients: 0, wallets: 0, watches: 0 });
  });
});

test("a client that never reads is cut off with all its memory, while another gets everything", async () => {
  const server = await start();
  server.change("w1");
  const reader = open(server.url);
  await reader.opened;
  reader.say({ type: "subscribe", wallets: ["w1"] });
  const deaf = rawClient(server.port, textFrame('{"type":"subscribe","wallets":["w1"]}'));
  deaf.pause();
  await eventually(() => expect(server.hub.stats().watches).toBe(2));
  await eventually(() => expect(reader.balances()).toHaveLength(1));
  // The system's own buffers take some megabytes before the hub sees that nobody reads.
  let sent = 1;
  for (; sent < 30_000 && server.hub.stats().slowClients === 0; sent += 50) {
    server.change("w1", 50, "x".repeat(1_000));
    await eventually(() => expect(reader.balances().at(-1)!.version).toBe(sent + 49));
  }
  expect(server.hub.stats().slowClients).toBe(1);
  server.change("w1", 2_000, "x".repeat(1_000));
  sent += 2_000;
  const [, deafSink] = server.sinks;
  expect(deafSink!.bufferedBytes()).toBeLessThan(2 * LIMITS.feedBufferedBytesSoft);
  server.aheadMs = LIMITS.feedSlowMs + 1;
  await eventually(() => {
    expect(server.hub.stats()).toMatchObject({ slowClients: 0, tooSlow: 1, watches: 1 });
  });
  // It answers no close frame either: its socket goes after feedCloseMs.
  await eventually(() => expect(server.hub.stats().clients).toBe(1));
  await eventually(() => expect(deafSink!.bufferedBytes()).toBe(0));
  server.change("w1");
  await eventually(() => expect(reader.balances().at(-1)!.version).toBe(sent));
  const covered = reader.balances().reduce((sum, { conflated }) => sum + conflated + 1, 0);
  expect(covered).toBe(sent + 1);
}, 30_000);

test("closing the server closes every client with 1001, also one that does not answer", async () => {
  const server = await start();
  const client = open(server.url);
  await client.opened;
  const deaf = rawClient(server.port, "");
  await eventually(() => expect(server.hub.stats().clients).toBe(2));
  deaf.pause();
  const startedAtMs = performance.now();
  await server.app.close();
  expect(performance.now() - startedAtMs).toBeLessThan(LIMITS.feedCloseMs + 1_000);
  expect(await client.closed).toEqual({ code: 1001, reason: "shutting down" });
  await eventually(() => expect(server.hub.stats().clients).toBe(0));
});

// --- Plain HTTP beside the feed ------------------------------------------------------------------

test("a plain request to /ws is told to upgrade, and its query stays out of the answer", async () => {
  const { app } = await start();
  const response = await app.inject("/ws?token=secret");
  expect(response.statusCode).toBe(426);
  expect(response.headers["upgrade"]).toBe("websocket");
  expect(response.json()).toMatchObject({ statusCode: 426, code: "upgrade_required", path: "/ws" });
});

test.each([
  ["an offer of HTTP/2", "h2c", "POST /echo", 200],
  ["an upgrade to WebSocket elsewhere", "websocket", "POST /echo", 200],
  ["an upgrade to WebSocket at no path", "websocket", "GET /nothing", 404],
])(
  "%s is a plain request, body and kept connection included",
  async (_, protocol, line, status) => {
    const server = await start();
    const socket = connectTcp(server.port, "127.0.0.1");
    sockets.push(socket);
    let got = "";
    socket.on("data", (data: Buffer) => {
      got += data.toString();
    });
    const body = line.startsWith("POST") ? '{"a":1}' : "";
    const request = [
      `${line} HTTP/1.1`,
      "Host: localhost",
      "Connection: Upgrade, HTTP2-Settings",
      "HTTP2-Settings: AAMAAABkAAQAAP__",
      `Upgrade: ${protocol}`,
      "Sec-WebSocket-Version: 13",
      "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
      ...(body === "" ? [] : ["Content-Type: application/json", `Content-Length: ${body.length}`]),
    ];
    for (let n = 1; n <= 2; n++) {
      socket.write(`${request.join("\r\n")}\r\n\r\n${body}`);
      await eventually(() => {
        expect(got.split(`HTTP/1.1 ${status}`)).toHaveLength(n + 1);
        expect(got.split('{"body":{"a":1}}')).toHaveLength(status === 200 ? n + 1 : 1);
      });
    }
  },
);
