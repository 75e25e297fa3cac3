import { once } from "node:events";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { createServer as createHttpServer } from "node:http";
import fc from "fast-check";
import { afterEach, describe, expect, it } from "vitest";
import { AnswerParser, HttpConnection, headerOf, type HttpAnswer } from "./http-client.ts";

const closing: (() => void)[] = [];
afterEach(() => {
  for (const close of closing.splice(0)) close();
});

async function listen(server: Server, timeoutMs = 2_000): Promise<HttpConnection> {
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const connection = new HttpConnection(
    "127.0.0.1",
    (server.address() as AddressInfo).port,
    timeoutMs,
  );
  closing.push(
    () => connection.close(),
    () => server.close(),
  );
  return connection;
}

/** A server that answers each packet it gets, whatever it says. */
function rawServer(answer: (socket: Socket, request: number) => void): Server {
  let requests = 0;
  return createServer((socket) => {
    socket.on("error", () => {});
    closing.push(() => socket.destroy());
    socket.on("data", () => answer(socket, (requests += 1)));
  });
}

const textOf = (answer: HttpAnswer) => answer.body.toString("utf8");

describe("a connection to a real HTTP server", () => {
  it("posts and gets over one kept-alive connection, and reads headers", async () => {
    let sockets = 0;
    const server = createHttpServer((request, response) => {
      const parts: Buffer[] = [];
      request.on("data", (part: Buffer) => parts.push(part));
      request.on("end", () => {
        response.setHeader("X-Key", request.headers["idempotency-key"] ?? "none");
        const body = Buffer.concat(parts).toString();
        response.writeHead(201, { "content-length": Buffer.byteLength(body) });
        response.end(body);
      });
    });
    server.on("connection", () => (sockets += 1));
    const connection = await listen(server);

    const posted = await connection.post("/a", '{"name":"Zoë"}', "Idempotency-Key: k1\r\n");
    const got = await connection.get("/b");

    expect([posted.status, textOf(posted), headerOf(posted, "x-key")]).toEqual([
      201,
      '{"name":"Zoë"}',
      "k1",
    ]);
    expect([got.status, textOf(got), headerOf(got, "x-key")]).toEqual([201, "", "none"]);
    expect(headerOf(got, "retry-after")).toBeUndefined();
    expect(sockets).toBe(1);
  });

  it("reads a chunked body written in pieces", async () => {
    const server = createHttpServer((_, response) => {
      response.write("one ");
      setTimeout(() => response.write("two "), 5);
      setTimeout(() => response.end("three"), 10);
    });
    const connection = await listen(server);
    expect(textOf(await connection.get("/"))).toBe("one two three");
    expect(textOf(await connection.get("/"))).toBe("one two three");
  });

  it("connects again when the server says it closes", async () => {
    let sockets = 0;
    const server = createHttpServer((_, response) => {
      response.setHeader("connection", "close");
      response.end("bye");
    });
    server.on("connection", () => (sockets += 1));
    const connection = await listen(server);
    expect(textOf(await connection.get("/"))).toBe("bye");
    expect(textOf(await connection.get("/"))).toBe("bye");
    expect(sockets).toBe(2);
  });

  it("reads 204 without a body, and the next answer after it", async () => {
    let requests = 0;
    const server = createHttpServer((_, response) => {
      requests += 1;
      response.statusCode = requests === 1 ? 204 : 200;
      response.end();
    });
    const connection = await listen(server);
    expect((await connection.get("/")).status).toBe(204);
    expect((await connection.get("/")).status).toBe(200);
  });
});

describe("a connection to a server that misbehaves", () => {
  it("takes the end of the connection as the end of a body without a length", async () => {
    const connection = await listen(
      rawServer((socket) => socket.end("HTTP/1.1 200 OK\r\n\r\nuntil the end")),
    );
    expect(textOf(await connection.get("/"))).toBe("until the end");
  });

  it("tells a connection lost in the middle of an answer from one never made", async () => {
    const connection = await listen(
      rawServer((socket) => socket.end("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")),
    );
    await expect(connection.get("/")).rejects.toMatchObject({ kind: "lost" });

    const server = createServer();
    const nowhere = await listen(server);
    await new Promise((resolve) => server.close(resolve));
    await expect(nowhere.get("/")).rejects.toMatchObject({ kind: "unreachable" });
  });

  it("reports a reset as lost and then works again", async () => {
    const connection = await listen(
      rawServer((socket, request) => {
        if (request === 1) socket.resetAndDestroy();
        else socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
      }),
    );
    await expect(connection.get("/")).rejects.toMatchObject({ kind: "lost" });
    expect(textOf(await connection.get("/"))).toBe("ok");
  });

  it("notices that an idle connection was closed, and opens another", async () => {
    let closed: Promise<unknown> | undefined;
    const connection = await listen(
      rawServer((socket) => {
        closed ??= once(socket, "close");
        socket.write("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        setTimeout(() => socket.end(), 5);
      }),
    );
    await connection.get("/");
    // The server's side is closed when the client has closed its own.
    await closed;
    expect(textOf(await connection.get("/"))).toBe("ok");
  });

  it("gives up on a silent server after its timeout", async () => {
    const connection = await listen(
      rawServer(() => {}),
      50,
    );
    await expect(connection.get("/")).rejects.toMatchObject({ kind: "timeout" });
  });

  it.each([
    ["not HTTP", "220 mail.example ESMTP\r\n\r\n"],
    ["a length that is no number", "HTTP/1.1 200 OK\r\nContent-Length: 1e3\r\n\r\n"],
    ["a negative length", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"],
    [
      "a chunk size that is no number",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    ],
    [
      "a chunk longer than its size",
      "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nabc",
    ],
    ["bytes after the answer", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nab"],
    ["an endless header", `HTTP/1.1 200 OK\r\nX: ${"x".repeat(70_000)}`],
  ])("refuses %s", async (_, bytes) => {
    const connection = await listen(rawServer((socket) => socket.write(bytes)));
    await expect(connection.get("/")).rejects.toMatchObject({ kind: "protocol" });
  });

  it("does not take a second request while one is under way", async () => {
    const connection = await listen(rawServer(() => {}));
    const first = connection.get("/");
    expect(() => connection.get("/")).toThrow("already under way");
    connection.close();
    await expect(first).rejects.toMatchObject({ kind: "lost" });
  });
});

describe("the parser", () => {
  const body = Buffer.from("zwölf Münzen");
  const chunked = (sizes: readonly number[]) => {
    const parts: Buffer[] = [Buffer.from("HTTP/1.1 200 OK\r\ntransfer-encoding: Chunked\r\n\r\n")];
    let at = 0;
    for (const size of [...sizes, body.length]) {
      const piece = body.subarray(at, at + size);
      at += piece.length;
      if (piece.length === 0) break;
      parts.push(Buffer.from(`${piece.length.toString(16)};x=y\r\n`), piece, Buffer.from("\r\n"));
    }
    return Buffer.concat([...parts, Buffer.from("0\r\nTrailer: 1\r\n\r\n")]);
  };

  it("gives the same answer wherever packets are split", () => {
    const withLength = Buffer.concat([
      Buffer.from(
        `HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: ${body.length}\r\n\r\n`,
      ),
      body,
    ]);
    fc.assert(
      fc.property(
        fc.boolean(),
        fc.array(fc.integer({ min: 1, max: 9 }), { maxLength: 4 }),
        fc.array(fc.nat({ max: 120 }), { maxLength: 12 }),
        (isChunked, sizes, cuts) => {
          const bytes = isChunked ? chunked(sizes) : withLength;
          const places = [...cuts.filter((cut) => cut < bytes.length), bytes.length];
          places.sort((a, b) => a - b);
          const parser = new AnswerParser();
          const answers: HttpAnswer[] = [];
          let from = 0;
          for (const to of places) {
            const answer = parser.push(bytes.subarray(from, to));
            from = to;
            if (answer !== undefined) answers.push(answer);
          }
          expect(answers.map(textOf)).toEqual([body.toString()]);
          expect(answers[0]?.status).toBe(200);
        },
      ),
    );
  });

  it.each([
    ["HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false],
    ["HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: Close\r\n\r\n", true],
    ["HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", true],
    ["HTTP/1.0 200 OK\r\nContent-Length: 0\r\nConnection: keep-alive\r\n\r\n", false],
  ])("knows whether the connection can go on after %j", (text, isClosing) => {
    const parser = new AnswerParser();
    expect(parser.push(Buffer.from(text))?.status).toBe(200);
    expect(parser.closing).toBe(isClosing);
  });
});
