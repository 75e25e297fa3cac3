/**
 * The connections under the HTTP server: what Node does by itself with them and should not. They
 * stay open for a client that has said all it wants to say, are let go without cutting off a
 * request, and leave HTTP only for the feed.
 */
import type { FastifyInstance } from "fastify";
import { IncomingMessage, type Server } from "node:http";
import { Server as NetServer, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";

import { LIMITS } from "../src/limits.ts";

/** What Node's server does by itself with connections and headers, and should not. */
export function keepConnections(app: FastifyInstance): void {
  const { server } = app;
  // Node would silently drop what is behind the 2,000th header; 16 KiB bound them all.
  server.maxHeadersCount = 0;
  // Likewise for what a request expects.
  server.on("checkExpectation", (request, response) => {
    server.emit("request", request, response);
  });
  // A client that has said all it wants to say may still listen: without this Node ends its
  // connection at once, and a command that is under way would be carried out without an answer.
  (server as Server & { httpAllowHalfOpen: boolean }).httpAllowHalfOpen = true;
  server.maxConnections = LIMITS.httpConnectionsMax;
  const sockets = new Set<Socket>();
  server.on("connection", (socket: Socket) => {
    sockets.add(socket);
    socket.once("close", () => sockets.delete(socket));
  });
  app.addHook("preClose", () => letGo(server, sockets));
}

/**
 * Ends connections without cutting off a request. From here on none is taken, and every answer says
 * that its connection closes; what comes over those that are open still gets one. An idle
 * connection is ended after that, and one whose answer was under way soon after it: its client may
 * mean to keep it, and all that closes after the server would wait for that. Nor does it wait for a
 * client that does not take its answer.
 */
async function letGo(server: Server, sockets: ReadonlySet<Socket>): Promise<void> {
  const endMs = performance.now() + LIMITS.httpClosingMs;
  server.keepAliveTimeout = LIMITS.httpClosingKeepAliveMs;
  const end = setTimeout(() => server.closeAllConnections(), LIMITS.httpClosingMs).unref();
  server.once("close", () => clearTimeout(end));
  // Takes no new connection; HTTP's own close would end the idle ones at once.
  NetServer.prototype.close.call(server);
  const open = await promisify(server.getConnections.bind(server))();
  if (open > 0) await sleep(LIMITS.httpDrainMs);
  // Node takes a connection for idle as soon as its answer is written, also while that waits here
  // for a client that reads slowly, and would cut it off.
  const isUnsent = (): boolean =>
    Array.from(sockets).some((socket) => socket.writableLength > 0 && !upgraded.has(socket));
  while (isUnsent() && performance.now() < endMs) await sleep(LIMITS.drainPollMs);
}

// --- Upgrades ------------------------------------------------------------------------------------

/** Connections that speak HTTP no more: what waits on them is not an answer. */
const upgraded = new WeakSet<Socket>();

/** To be called for each connection that another protocol takes over. */
export function leaveHttp(connection: Socket): void {
  upgraded.add(connection);
}

/** Where the feed is: the only path whose upgrades are taken. */
export const FEED_PATH = "/ws";

/**
 * Requests of a server that has a feed: `Fastify({ http: { IncomingMessage: UpgradableRequest }
 * })`. As soon as somebody listens for upgrades, Node takes every request with an `Upgrade` header
 * out of HTTP: its body is not read and its connection has no timeout. HTTP clients send such
 * headers to offer HTTP/2 (Java's does by default), so here only the feed's are upgrades and all
 * others are plain requests, as RFC 9110, section 7.8, allows. A class because Node asks for one.
 */
export class UpgradableRequest extends IncomingMessage {
  #isUpgrade: unknown = null;

  get upgrade(): unknown {
    if (this.method === "CONNECT") return this.#isUpgrade;
    return this.#isUpgrade === true && isForFeed(this);
  }

  // Node's parser writes it, and so does the constructor of the base class, before this class has
  // fields.
  set upgrade(value: unknown) {
    if (#isUpgrade in this) this.#isUpgrade = value;
  }
}

/** Whether the request asks to speak WebSocket with the feed. */
export function isForFeed(request: IncomingMessage): boolean {
  const path = request.url?.split("?", 1)[0];
  return path === FEED_PATH && request.headers.upgrade?.toLowerCase() === "websocket";
}
