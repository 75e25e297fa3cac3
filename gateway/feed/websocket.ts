/**
 * The feed at `GET /ws`: sockets into the hub and frames out. It hides the WebSocket library and
 * what a peer may do to a connection: frames that are too large or binary, silence (pings find the
 * dead), close frames that are never answered. What is slow, too much or wrong inside a frame is
 * the hub's to judge. Compression is off: it would cost each client its own compressor, and a
 * shared frame's text could no longer be sent to all as it is.
 */
import type { IncomingHttpHeaders } from "node:http";
import type { Socket } from "node:net";

import fastifyWebsocket, { type WebSocket } from "@fastify/websocket";
import type { FastifyInstance, FastifyReply, FastifyRequest } from "fastify";

import { isLoopbackName } from "../../src/addresses.ts";
import { LIMITS } from "../../src/limits.ts";
import { apiError } from "../errors.ts";
import type { FeedHub, FeedSink } from "./feed.ts";
import { FEED_PATH, isForFeed, leaveHttp } from "../http-connections.ts";
import { sendError } from "../http-server.ts";

export interface FeedSocketOptions {
  readonly hub: FeedHub;
  /** Pause between two pings to one client; default `LIMITS.feedPingMs`. */
  readonly pingMs?: number;
  /**
   * Origins of pages that may open it, such as `https://shop.example`, besides those of the
   * server's own name and of the machine that the browser is on; `*`: all.
   */
  readonly origins?: readonly string[];
}

/**
 * Frames that one turn of the event loop has caused leave together, as a write to the operating
 * system costs as much as making several of them; past so many bytes they go before, lest a quick
 * client looks slow.
 */
function sinkOf(socket: WebSocket, connection: Socket): FeedSink {
  let isCorked = false;

  function uncork(): void {
    isCorked = false;
    connection.uncork();
  }

  return {
    send(frameText) {
      if (socket.readyState !== socket.OPEN) return;
      if (!isCorked) {
        isCorked = true;
        connection.cork();
        process.nextTick(uncork);
      }
      socket.send(frameText);
      if (connection.writableLength < LIMITS.feedWriteBytes) return;
      connection.uncork();
      connection.cork();
    },
    bufferedBytes: () => socket.bufferedAmount,
    close: (code, reason) => socket.close(code, reason),
  };
}

/**
 * Pings from time to time, each socket on its own beat; one that has not answered by the next ping
 * is dead.
 */
function keepAlive(socket: WebSocket, pingMs: number): void {
  let isAlive = true;
  socket.on("pong", () => {
    isAlive = true;
  });
  const beat = setInterval(() => {
    if (!isAlive) {
      socket.terminate();
      return;
    }
    isAlive = false;
    socket.ping();
  }, pingMs);
  socket.once("close", () => clearInterval(beat));
}

/**
 * All listeners are attached before this returns: a message may arrive in the same read as the
 * upgrade request.
 */
function serve(socket: WebSocket, connection: Socket, hub: FeedHub, pingMs: number): void {
  leaveHttp(connection);
  const client = hub.connect(sinkOf(socket, connection));
  socket.on("message", (data: Buffer, isBinary: boolean) => {
    // `nodebuffer`, the default `binaryType`: a message is always one Buffer, and text is valid
    // UTF-8.
    if (isBinary) client.receiveBinary();
    else client.receive(data.toString());
  });
  socket.once("close", () => client.closed());
  keepAlive(socket, pingMs);
}

/**
 * Browsers open a WebSocket for any page, to any server, and show the page what comes; they say
 * whose page it is. Programs say nothing. A page of the browser's own machine is nobody else's.
 */
function mayWatch({ origin, host }: IncomingHttpHeaders, origins: readonly string[]): boolean {
  if (origin === undefined || origins.includes(origin) || origins.includes("*")) return true;
  if (!URL.canParse(origin)) return false;
  const from = new URL(origin);
  return from.host === host || isLoopbackName(from.hostname);
}

/** What a plain HTTP request to `/ws` gets. */
function refuse(request: FastifyRequest, reply: FastifyReply): FastifyReply {
  reply.header("upgrade", "websocket");
  return sendError(request, reply, apiError("upgrade_required"));
}

/**
 * A plugin that adds `/ws`: `app.register(buildFeedSocket({ hub }))`. Closing the server drains the
 * hub, so that every client gets 1001.
 */
export function buildFeedSocket(options: FeedSocketOptions) {
  const { hub, pingMs = LIMITS.feedPingMs, origins = [] } = options;
  const serverOptions = {
    maxPayload: LIMITS.feedFrameBytesMax,
    perMessageDeflate: false,
    // A peer that does not answer a close frame is destroyed after it.
    closeTimeout: LIMITS.feedCloseMs,
  };
  return async function feedSocket(app: FastifyInstance): Promise<void> {
    await app.register(fastifyWebsocket, {
      options: serverOptions,
      errorHandler: (error, socket, request) => {
        // Broken frames and connections. Where a close frame is due, such as 1009 for one too
        // large, it was sent already.
        request.log.debug({ err: error }, "a feed connection broke");
        socket.close(1011);
      },
      preClose: () => hub.drain(),
    });
    // Without `UpgradableRequest` others may get here, and nobody would ever close their sockets.
    app.server.on("upgrade", (request, socket) => {
      if (!isForFeed(request)) socket.destroy();
    });
    app.route({
      method: "GET",
      url: FEED_PATH,
      schema: { hide: true },
      onRequest: (request, reply, done) => {
        if (mayWatch(request.headers, origins)) done();
        else void sendError(request, reply, apiError("origin_not_allowed"));
      },
      handler: refuse,
      wsHandler: (socket, { raw }) => serve(socket, raw.socket, hub, pingMs),
    });
  };
}
