/**
 * The signature, against figures made with another tool, which URLs a webhook may have, and what
 * becomes of a request: its bytes, its answers, and its connection, which is kept or left.
 */
import dns from "node:dns";
import { once } from "node:events";
import { syncBuiltinESMExports } from "node:module";
import { createServer, type AddressInfo, type LookupFunction, type Socket } from "node:net";
import { setTimeout } from "node:timers/promises";
import { describe, expect, it, onTestFinished, vi } from "vitest";
import { LIMITS } from "./limits.ts";
import {
  buildWebhookSender,
  problemOfUrl,
  signatureOf,
  type WebhookAnswer,
  type WebhookMessage,
} from "./webhook-sender.ts";

it("the signature is the HMAC of time, dot and body", () => {
  // printf '1795286733.{"id":"a:0"}' | openssl dgst -sha256 -hmac whsec_test
  const mac = "bd8ffffa85b460c2c31c1c6692bec0aa22fb89703abb83ea5ca4e60f4f50513d";
  expect(signatureOf("whsec_test", '{"id":"a:0"}', 1_795_286_733)).toBe(`t=1795286733,v1=${mac}`);
});

describe("problemOfUrl", () => {
  it.each([
    ["https://shop.example/hook", null],
    ["http://8.8.8.8/hook", null],
    ["http://notlocalhost/", null],
    ["shop.example", "is not a URL"],
    ["file:///etc/passwd", "must be http or https"],
    ["https://user@shop.example/", "must not have a user or a password"],
    ["https://:secret@shop.example/", "must not have a user or a password"],
    ["http://localhost:3000/", "is a private address; WEBHOOK_PRIVATE=on allows those"],
    ["http://a.localhost/", "is a private address; WEBHOOK_PRIVATE=on allows those"],
    ["http://localhost./", "is a private address; WEBHOOK_PRIVATE=on allows those"],
    ["http://169.254.169.254/latest", "is a private address; WEBHOOK_PRIVATE=on allows those"],
    ["http://[::ffff:127.0.0.1]/", "is a private address; WEBHOOK_PRIVATE=on allows those"],
  ])("of %s is %s", (url, problem) => expect(problemOfUrl(url, false)).toBe(problem));

  it("of a private address is none where they are allowed", () => {
    expect(problemOfUrl("http://127.0.0.1:9000/", true)).toBe(null);
  });
});

interface Receiver {
  readonly url: string;
  /** What each connection has sent so far. */
  readonly received: string[];
  readonly sockets: Socket[];
  /** Resolves when the last connection has ended. */
  untilClosed(): Promise<void>;
}

/** `answer` is called with each request, and with the number of its connection from 0. */
async function startReceiver(
  answer: (socket: Socket, connection: number) => void,
): Promise<Receiver> {
  const received: string[] = [];
  const sockets: Socket[] = [];
  let open = 0;
  const server = createServer((socket) => {
    const connection = sockets.push(socket) - 1;
    received.push("");
    open += 1;
    socket.on("error", () => undefined);
    socket.once("close", () => (open -= 1));
    socket.on("data", (chunk) => {
      received[connection] += chunk.toString("utf8");
      answer(socket, connection);
    });
  });
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
  return {
    url,
    received,
    sockets,
    untilClosed: async () => await expect.poll(() => open).toBe(0),
  };
}

const answering = (status: number, body = ""): string =>
  `HTTP/1.1 ${status} X\r\nContent-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`;

function buildSender({ answerMs = 5_000, allowsPrivate = true } = {}) {
  const sender = buildWebhookSender({ allowsPrivate, answerMs });
  onTestFinished(() => sender.close());
  const send = (url: string, over: Partial<WebhookMessage> = {}): Promise<WebhookAnswer> =>
    sender.send({
      webhookId: "webhook-1",
      url,
      secret: "whsec_test",
      eventId: "a:0",
      eventType: "WalletCreated",
      correlationId: "correlation-1",
      attempt: 1,
      body: "{}",
      ...over,
    });
  return { sender, send };
}

/** Lets the rest of an answer arrive, and its connection be put aside: turns, not time. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await setTimeout(1);
}

it("a request has the body's bytes, the signature of its second and all names, in UTF-8", async () => {
  const receiver = await startReceiver((socket) => socket.write(answering(200)));
  const { send } = buildSender();
  const body = '{"description":"caf\u00e9 \u20ac \u{1F600}"}';
  const beforeSeconds = Math.floor(Date.now() / 1_000);
  expect(await send(receiver.url, { body, attempt: 3, correlationId: "\u20ac" })).toEqual({
    type: "taken",
  });
  const [head = "", sentBody] = receiver.received[0]!.split("\r\n\r\n");
  expect(sentBody).toBe(body);
  expect(head.split("\r\n")).toEqual(
    expect.arrayContaining([
      "POST / HTTP/1.1",
      "content-type: application/json",
      `content-length: ${Buffer.byteLength(body)}`,
      "coffer-webhook-id: webhook-1",
      "coffer-event-id: a:0",
      "coffer-event-type: WalletCreated",
      "coffer-attempt: 3",
      "x-correlation-id: \u20ac",
    ]),
  );
  const [, signature = "", seconds] = /^coffer-signature: (t=(\d+),.*)$/m.exec(head)!;
  expect(signature).toBe(signatureOf("whsec_test", body, Number(seconds)));
  expect(Number(seconds)).toBeGreaterThanOrEqual(beforeSeconds);
  expect(Number(seconds)).toBeLessThanOrEqual(Math.floor(Date.now() / 1_000));
});

describe("an answer counts by its status", () => {
  const refused = (reason: string): WebhookAnswer => ({ type: "refused", reason });
  const noRedirect = ", and redirects are not followed";
  it.each<[status: number, answer: WebhookAnswer]>([
    [200, { type: "taken" }],
    [204, { type: "taken" }],
    [299, { type: "taken" }],
    [300, refused(`answered 300${noRedirect}`)],
    [302, refused(`answered 302${noRedirect}`)],
    [399, refused(`answered 399${noRedirect}`)],
    [400, refused("answered 400")],
    [409, refused("answered 409")],
    [410, { type: "gone" }],
    [411, refused("answered 411")],
    [500, refused("answered 500")],
  ])("%i", async (status, answer) => {
    const receiver = await startReceiver((socket) => socket.write(answering(status)));
    expect(await buildSender().send(receiver.url)).toEqual(answer);
  });

  it("and 101, which leaves HTTP, is not taken and ends the connection", async () => {
    const receiver = await startReceiver((socket) =>
      socket.write("HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"),
    );
    expect(await buildSender().send(receiver.url)).toEqual(refused("answered 101"));
    await receiver.untilClosed();
  });
});

describe("a receiver that cannot be reached, or says nothing", () => {
  it("is refused when the time is over, and left", async () => {
    const receiver = await startReceiver(() => undefined);
    const { send } = buildSender({ answerMs: 50 });
    const refused = { type: "refused", reason: "no answer within 50 ms" };
    expect(await send(receiver.url)).toEqual(refused);
    await receiver.untilClosed();
  });

  it("is refused with a reason, though a name of several addresses fails without a word", async () => {
    const server = createServer();
    await once(server.listen(0, "localhost"), "listening");
    const { port } = server.address() as AddressInfo;
    await new Promise((resolve) => server.close(resolve));
    const answer = await buildSender().send(`http://localhost:${port}/`);
    expect(answer).toEqual({
      type: "refused",
      reason: expect.stringMatching(/ECONNREFUSED|AggregateError/),
    });
  });

  it("is spoken to by TLS where its URL says https", async () => {
    const receiver = await startReceiver((socket) => socket.destroy());
    const answer = await buildSender().send(receiver.url.replace("http:", "https:"));
    expect(answer).toMatchObject({ type: "refused" });
    expect(receiver.received.map((text) => text.codePointAt(0))).toEqual([22]); // a handshake
  });
});

describe("a connection is kept", () => {
  it("for the next request, whatever short body came with the answer, and until the end", async () => {
    const longest = "x".repeat(LIMITS.webhookAnswerBytesMax);
    const receiver = await startReceiver((socket) => socket.write(answering(200, longest)));
    const { sender, send } = buildSender();
    for (let nth = 0; nth < 3; nth += 1) {
      expect(await send(receiver.url)).toEqual({ type: "taken" });
      await settle();
    }
    expect(receiver.sockets).toHaveLength(1);
    sender.close();
    await receiver.untilClosed();
  });

  it("but not when the body is long, or does not end", async () => {
    const tooLong = "x".repeat(LIMITS.webhookAnswerBytesMax + 1);
    const long = await startReceiver((socket) => {
      socket.write("HTTP/1.1 200 X\r\nContent-Length: 9999999\r\n\r\n" + tooLong);
    });
    expect(await buildSender().send(long.url)).toEqual({ type: "taken" });
    await long.untilClosed();
    const endless = await startReceiver((socket) => {
      socket.write("HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nx");
    });
    expect(await buildSender({ answerMs: 50 }).send(endless.url)).toEqual({ type: "taken" });
    await endless.untilClosed();
  });

  it("and no timer outlives its answer", async () => {
    const answerMs = 59_999;
    const begun = vi.spyOn(globalThis, "setTimeout");
    const ended = vi.spyOn(globalThis, "clearTimeout");
    onTestFinished(() => void vi.restoreAllMocks());
    const receiver = await startReceiver((socket, connection) => {
      if (connection === 0) socket.write(answering(200, "x"));
      else if (connection === 1) socket.destroy();
      else socket.write("HTTP/1.1 101 X\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n");
    });
    const { send } = buildSender({ answerMs });
    expect(await send(receiver.url)).toEqual({ type: "taken" });
    receiver.sockets[0]!.destroy();
    await settle();
    expect(await send(receiver.url)).toMatchObject({ type: "refused" });
    expect(await send(receiver.url)).toMatchObject({ type: "refused", reason: "answered 101" });
    await settle();
    const timers = begun.mock.calls.flatMap(([, delayMs], nth) =>
      delayMs === answerMs ? [begun.mock.results[nth]!.value as NodeJS.Timeout] : [],
    );
    const cleared = new Set(ended.mock.calls.map(([timer]) => timer));
    // One for each request, and one for the body that came with an answer
    expect(timers.map((timer) => cleared.has(timer))).toEqual([true, true, true, true]);
  });
});

describe("a kept connection that has gone stale", () => {
  /** The first request is answered; `then` deals with the second one, and with new connections. */
  async function meet(then: (socket: Socket, connection: number) => void, answerMs = 5_000) {
    let requests = 0;
    const receiver = await startReceiver((socket, connection) => {
      requests += 1;
      if (requests === 1) socket.write(answering(200));
      else then(socket, connection);
    });
    const { send } = buildSender({ answerMs });
    expect(await send(receiver.url)).toEqual({ type: "taken" });
    await settle();
    return { answer: await send(receiver.url), connections: receiver.sockets.length };
  }

  it("says nothing of its receiver: a new one is made", async () => {
    const met = await meet((socket, connection) => {
      if (connection === 0) socket.resetAndDestroy();
      else socket.write(answering(200));
    });
    expect(met).toEqual({ answer: { type: "taken" }, connections: 2 });
  });

  it("is followed by one more only", async () => {
    const met = await meet((socket) => socket.resetAndDestroy());
    expect(met).toMatchObject({ answer: { type: "refused" }, connections: 2 });
  });

  it("is not followed by another stale one, of the many that are kept", async () => {
    // Given two kept connections, both stale by now, and a receiver that takes new ones
    const waiting: Socket[] = [];
    let isStale = false;
    const receiver = await startReceiver((socket, connection) => {
      if (connection > 1) socket.write(answering(200));
      else if (isStale) socket.resetAndDestroy();
      else if (waiting.push(socket) === 2) for (const one of waiting) one.write(answering(200));
    });
    const { send } = buildSender();
    await Promise.all([send(receiver.url), send(receiver.url)]);
    await settle();
    isStale = true;
    expect(await send(receiver.url)).toMatchObject({ type: "refused" });
    expect(receiver.sockets).toHaveLength(2);
  });

  it("is not one that has answered: the event is sent no second time", async () => {
    // Given a receiver that takes the second event, and goes before the body of its answer ends
    let requests = 0;
    const receiver = await startReceiver((socket) => {
      requests += 1;
      const body = requests === 2 ? "HTTP/1.1 200 X\r\nContent-Length: 9\r\n\r\nx" : answering(200);
      socket.write(body);
    });
    const { send } = buildSender();
    await send(receiver.url);
    await settle();
    expect(await send(receiver.url)).toEqual({ type: "taken" });
    receiver.sockets[0]!.resetAndDestroy();
    await settle();
    expect({ requests, connections: receiver.sockets.length }).toEqual({
      requests: 2,
      connections: 1,
    });
  });

  it("is not one whose receiver says nothing", async () => {
    const met = await meet(() => undefined, 50);
    const answer = { type: "refused", reason: "no answer within 50 ms" };
    expect(met).toEqual({ answer, connections: 1 });
  });

  it("nor is a new one, which is not made again", async () => {
    const receiver = await startReceiver((socket) => socket.resetAndDestroy());
    expect(await buildSender().send(receiver.url)).toMatchObject({ type: "refused" });
    expect(receiver.sockets).toHaveLength(1);
  });
});

describe("where private addresses are not allowed", () => {
  it("nothing is sent to one that the URL names", async () => {
    const receiver = await startReceiver((socket) => socket.write(answering(200)));
    const { send } = buildSender({ allowsPrivate: false });
    const reason = "the URL is a private address; WEBHOOK_PRIVATE=on allows those";
    expect(await send(receiver.url)).toEqual({ type: "refused", reason });
    expect(receiver.sockets).toHaveLength(0);
  });

  it("nor to one that its name stands for at this moment", async () => {
    // Given a public name whose owner lets it point here
    const receiver = await startReceiver((socket) => socket.write(answering(200)));
    const url = receiver.url.replace("127.0.0.1", "shop.example");
    const { lookup } = dns;
    onTestFinished(() => {
      dns.lookup = lookup;
      syncBuiltinESMExports();
    });
    const here = (...[, options, callback]: Parameters<LookupFunction>): void =>
      options.all === true
        ? callback(null, [{ address: "127.0.0.1", family: 4 }])
        : callback(null, "127.0.0.1", 4);
    dns.lookup = here as typeof dns.lookup;
    syncBuiltinESMExports();
    // Then it is taken where that is allowed, and else not reached
    expect(await buildSender().send(url)).toEqual({ type: "taken" });
    const { send } = buildSender({ allowsPrivate: false });
    const reason = "shop.example is at a private address (see WEBHOOK_PRIVATE)";
    expect(await send(url)).toEqual({ type: "refused", reason });
    expect(receiver.sockets).toHaveLength(1);
  });
});
