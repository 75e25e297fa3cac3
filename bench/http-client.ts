/**
 * A minimal HTTP/1.1 client for load: one keep-alive TCP connection, one request on it at a time. A
 * load generator shares its cores with the server it measures, so the client does only what the
 * measurement needs: it writes one string per request and looks at the status and the length of the
 * answer; headers stay one text until somebody asks for one, and bodies stay bytes. It follows no
 * redirects, speaks no TLS and never repeats a request by itself. What went wrong is told as one of
 * the `HttpFault` kinds, because "nothing was sent" and "the answer is unknown" are different
 * things for money.
 */
import { connect, type Socket } from "node:net";

/**
 * Bytes of an answer's header block and body; past either the answer is a protocol fault, and
 * nothing grows without end.
 */
const HEADER_BYTES_MAX = 65_536;
const BODY_BYTES_MAX = 67_108_864;
/** Bytes of a chunk's size line, with its extensions. */
const CHUNK_LINE_BYTES_MAX = 4_096;
const NO_BYTES = Buffer.alloc(0);

export interface HttpAnswer {
  status: number;
  /** The header block as text: status line and fields, without the empty line that ends it. */
  head: string;
  body: Buffer;
}

/**
 * - `unreachable`: no connection, so nothing was sent.
 * - `lost`: the connection ended after the request was written and before the answer was complete:
 *   the outcome is unknown.
 * - `timeout`: no byte came for the connection's `timeoutMs`: the outcome is unknown.
 * - `protocol`: what came back is not HTTP/1.1 as this client reads it: the outcome is unknown.
 */
export type HttpFaultKind = "unreachable" | "lost" | "timeout" | "protocol";

export class HttpFault extends Error {
  readonly kind: HttpFaultKind;

  constructor(kind: HttpFaultKind, message: string) {
    super(message);
    this.name = "HttpFault";
    this.kind = kind;
  }
}

/** A field of an answer by its lower-case name, or undefined. The first one counts. */
export function headerOf(answer: HttpAnswer, name: string): string | undefined {
  return fieldOf(answer.head, answer.head.toLowerCase(), name);
}

function fieldOf(head: string, headLower: string, name: string): string | undefined {
  const at = headLower.indexOf(`\r\n${name}:`);
  if (at < 0) return undefined;
  const from = at + name.length + 3;
  const to = head.indexOf("\r\n", from);
  return head.slice(from, to < 0 ? head.length : to).trim();
}

/**
 * How the end of the body under way is found; `none` between two answers, while a header block is
 * awaited.
 */
type Framing =
  | { type: "none" }
  | { type: "length"; bytes: number }
  | { type: "chunked"; parts: Buffer[]; bytes: number }
  | { type: "until-close" };

/**
 * Turns the bytes of one connection into answers.
 *
 *     header block --> length --------> answer
 *                  \-> chunked -------> answer
 *                  \-> until close --(finish)--> answer
 *
 * Packets may be split and joined anywhere. `push` gives at most one answer, since only one request
 * is under way; bytes past it are a protocol fault.
 */
export class AnswerParser {
  #bytes: Buffer = NO_BYTES;
  #framing: Framing = { type: "none" };
  #status = 0;
  #head = "";
  /** True when the connection cannot carry another request after the answer just given. */
  closing = false;

  /**
   * Takes the next packet; gives the answer it completes. Throws `HttpFault` of kind `protocol`.
   */
  push(packet: Buffer): HttpAnswer | undefined {
    this.#bytes = this.#bytes.length === 0 ? packet : Buffer.concat([this.#bytes, packet]);
    while (this.#framing.type === "none") {
      if (!this.#readHead()) return undefined;
    }
    const body = this.#readBody();
    if (body === undefined) return undefined;
    if (this.#bytes.length > 0) throw new HttpFault("protocol", "bytes after the answer");
    return this.#answer(body);
  }

  /** The connection has ended; gives the answer when its end was the end of the body. */
  finish(): HttpAnswer | undefined {
    if (this.#framing.type !== "until-close") return undefined;
    const body = this.#bytes;
    this.#bytes = NO_BYTES;
    return this.#answer(body);
  }

  #answer(body: Buffer): HttpAnswer {
    this.#framing = { type: "none" };
    return { status: this.#status, head: this.#head, body };
  }

  /**
   * Reads one header block if it is complete. An interim answer (1xx) is skipped: the framing stays
   * `none`.
   */
  #readHead(): boolean {
    const end = this.#bytes.indexOf("\r\n\r\n");
    if (end < 0 ? this.#bytes.length > HEADER_BYTES_MAX : end > HEADER_BYTES_MAX) {
      throw new HttpFault("protocol", `header block over ${HEADER_BYTES_MAX} bytes`);
    }
    if (end < 0) return false;
    const head = this.#bytes.toString("latin1", 0, end);
    this.#bytes = this.#bytes.subarray(end + 4);
    const status = Number(head.slice(9, 12));
    if (!head.startsWith("HTTP/1.") || !(status >= 100 && status <= 599)) {
      throw new HttpFault(
        "protocol",
        `not an HTTP/1.1 answer: ${JSON.stringify(head.slice(0, 40))}`,
      );
    }
    if (status < 200) return this.#bytes.length > 0;
    this.#status = status;
    this.#head = head;
    this.#framing = this.#framingOf(head, status);
    return true;
  }

  #framingOf(head: string, status: number): Framing {
    const lower = head.toLowerCase();
    const connection = fieldOf(head, lower, "connection")?.toLowerCase();
    this.closing = connection === "close" || (head[7] === "0" && connection !== "keep-alive");
    if (status === 204 || status === 304) return { type: "length", bytes: 0 };
    const coding = fieldOf(head, lower, "transfer-encoding");
    if (coding !== undefined) {
      if (coding.toLowerCase() !== "chunked") throw new HttpFault("protocol", `coding ${coding}`);
      return { type: "chunked", parts: [], bytes: 0 };
    }
    const length = fieldOf(head, lower, "content-length");
    if (length === undefined) {
      this.closing = true;
      return { type: "until-close" };
    }
    const bytes = /^\d+$/.test(length) ? Number(length) : Number.NaN;
    if (!(bytes <= BODY_BYTES_MAX)) throw new HttpFault("protocol", `content-length ${length}`);
    return { type: "length", bytes };
  }

  #readBody(): Buffer | undefined {
    const framing = this.#framing;
    switch (framing.type) {
      case "none":
        return undefined;
      case "length": {
        if (this.#bytes.length < framing.bytes) return undefined;
        const body = this.#bytes.subarray(0, framing.bytes);
        this.#bytes = this.#bytes.subarray(framing.bytes);
        return body;
      }
      case "until-close":
        if (this.#bytes.length > BODY_BYTES_MAX) throw new HttpFault("protocol", "body too long");
        return undefined;
      case "chunked":
        return this.#readChunks(framing);
      default:
        return framing satisfies never;
    }
  }

  /**
   * Takes whole chunks from the bytes; a chunk that is not complete stays there for the next
   * packet.
   */
  #readChunks(framing: { parts: Buffer[]; bytes: number }): Buffer | undefined {
    for (;;) {
      const lineEnd = this.#bytes.indexOf("\r\n");
      if (
        lineEnd < 0 ? this.#bytes.length > CHUNK_LINE_BYTES_MAX : lineEnd > CHUNK_LINE_BYTES_MAX
      ) {
        throw new HttpFault("protocol", "chunk size line too long");
      }
      if (lineEnd < 0) return undefined;
      const sizeText = this.#bytes.toString("latin1", 0, lineEnd).split(";", 1)[0]?.trim() ?? "";
      const bytes = /^[0-9a-f]{1,8}$/i.test(sizeText) ? Number.parseInt(sizeText, 16) : Number.NaN;
      if (!(framing.bytes + bytes <= BODY_BYTES_MAX)) {
        throw new HttpFault("protocol", `chunk size ${JSON.stringify(sizeText.slice(0, 20))}`);
      }
      if (bytes === 0) return this.#readTrailer(lineEnd, framing.parts);
      const from = lineEnd + 2;
      if (this.#bytes.length < from + bytes + 2) return undefined;
      if (this.#bytes[from + bytes] !== 13 || this.#bytes[from + bytes + 1] !== 10) {
        throw new HttpFault("protocol", "chunk longer than its size");
      }
      framing.parts.push(this.#bytes.subarray(from, from + bytes));
      framing.bytes += bytes;
      this.#bytes = this.#bytes.subarray(from + bytes + 2);
    }
  }

  /** After the last chunk: trailer fields, which nobody here reads, and an empty line. */
  #readTrailer(lastLineEnd: number, parts: Buffer[]): Buffer | undefined {
    const end = this.#bytes.indexOf("\r\n\r\n", lastLineEnd);
    if (end < 0) {
      if (this.#bytes.length > HEADER_BYTES_MAX)
        throw new HttpFault("protocol", "trailer too long");
      return undefined;
    }
    this.#bytes = this.#bytes.subarray(end + 4);
    return parts.length === 1 ? parts[0] : Buffer.concat(parts);
  }
}

interface Waiting {
  parser: AnswerParser;
  resolve: (answer: HttpAnswer) => void;
  reject: (fault: HttpFault) => void;
}

/**
 * One connection to `host:port`. It connects with the first request and again after the server
 * closed it.
 */
export class HttpConnection {
  readonly #host: string;
  readonly #port: number;
  readonly #timeoutMs: number;
  readonly #hostField: string;
  #socket: Socket | undefined;
  #connected = false;
  #waiting: Waiting | undefined;

  /**
   * `timeoutMs` bounds how long the server may stay silent, while connecting as well as while
   * answering.
   */
  constructor(host: string, port: number, timeoutMs = 15_000) {
    this.#host = host;
    this.#port = port;
    this.#timeoutMs = timeoutMs;
    const name = host.includes(":") ? `[${host}]` : host;
    this.#hostField = ` HTTP/1.1\r\nHost: ${name}:${port}\r\n`;
  }

  get(path: string): Promise<HttpAnswer> {
    return this.send(`GET ${path}${this.#hostField}\r\n`);
  }

  /**
   * Posts JSON text. `fields` are further header lines, each with its CRLF. Rejects with
   * `HttpFault`.
   */
  post(path: string, json: string, fields = ""): Promise<HttpAnswer> {
    const bytes = Buffer.byteLength(json);
    const framing = `Content-Type: application/json\r\nContent-Length: ${bytes}\r\n\r\n`;
    return this.send(`POST ${path}${this.#hostField}${fields}${framing}${json}`);
  }

  /**
   * Sends one whole request as text and awaits its answer. Asking while an answer is awaited is the
   * caller's error.
   */
  send(request: string): Promise<HttpAnswer> {
    if (this.#waiting !== undefined) throw new Error("a request is already under way");
    return new Promise((resolve, reject) => {
      this.#waiting = { parser: new AnswerParser(), resolve, reject };
      this.#socket ??= this.#open();
      this.#socket.write(request);
    });
  }

  close(): void {
    this.#fail("lost", "closed by the caller");
  }

  #open(): Socket {
    const socket = connect({ host: this.#host, port: this.#port, noDelay: true });
    this.#connected = false;
    socket.setTimeout(this.#timeoutMs);
    socket.on("connect", () => {
      this.#connected = true;
    });
    socket.on("data", (packet) => {
      if (socket === this.#socket) this.#take(packet);
    });
    socket.on("end", () => {
      if (socket === this.#socket) this.#ended();
    });
    socket.on("timeout", () => {
      if (socket !== this.#socket || this.#waiting === undefined) return;
      if (this.#connected) this.#fail("timeout", `no byte for ${this.#timeoutMs} ms`);
      else this.#fail("unreachable", `no connection within ${this.#timeoutMs} ms`);
    });
    socket.on("error", (error) => {
      if (socket === this.#socket)
        this.#fail(this.#connected ? "lost" : "unreachable", error.message);
    });
    socket.on("close", () => {
      if (socket === this.#socket) this.#fail("lost", "connection closed");
    });
    return socket;
  }

  #take(packet: Buffer): void {
    const waiting = this.#waiting;
    if (waiting === undefined) {
      this.#fail("protocol", "bytes without a request");
      return;
    }
    try {
      const answer = waiting.parser.push(packet);
      if (answer !== undefined) this.#answered(waiting, answer);
    } catch (error) {
      if (!(error instanceof HttpFault)) throw error;
      this.#fail(error.kind, error.message);
    }
  }

  #answered(waiting: Waiting, answer: HttpAnswer): void {
    this.#waiting = undefined;
    if (waiting.parser.closing) this.#drop();
    waiting.resolve(answer);
  }

  #ended(): void {
    const waiting = this.#waiting;
    const answer = waiting?.parser.finish();
    if (waiting !== undefined && answer !== undefined) this.#answered(waiting, answer);
    else this.#fail("lost", "the server closed the connection");
  }

  #fail(kind: HttpFaultKind, message: string): void {
    const waiting = this.#waiting;
    this.#waiting = undefined;
    this.#drop();
    waiting?.reject(new HttpFault(kind, `${this.#host}:${this.#port}: ${message}`));
  }

  #drop(): void {
    this.#socket?.destroy();
    this.#socket = undefined;
  }
}
