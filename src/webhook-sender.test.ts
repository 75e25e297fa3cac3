/**
 * The signature, against figures made with another tool, which URLs a webhook may have, and an
 * answer that is none of HTTP.
 */
import { once } from "node:events";
import { createServer, type AddressInfo } from "node:net";
import { describe, expect, it, onTestFinished } from "vitest";
import { buildWebhookSender, problemOfUrl, signatureOf } from "./webhook-sender.ts";

it("the signature is the HMAC of time, dot and body", () => {
  // printf '1795286733.{"id":"a:0"}' | openssl dgst -sha256 -hmac whsec_test
  const mac = "bd8ffffa85b460c2c31c1c6692bec0aa22fb89703abb83ea5ca4e60f4f50513d";
  expect(signatureOf("whsec_test", '{"id":"a:0"}', 1_795_286_733)).toBe(`t=1795286733,v1=${mac}`);
});

describe("problemOfUrl", () => {
  it.each([
    ["https://shop.example/hook", null],
    ["http://8.8.8.8/hook", null],
    ["shop.example", "is not a URL"],
    ["file:///etc/passwd", "must be http or https"],
    ["https://user@shop.example/", "must not have a user or a password"],
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

it("an answer that changes the protocol is not taken", async () => {
  const answer = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n";
  const server = createServer((socket) => {
    socket.on("error", () => undefined);
    socket.once("data", () => socket.write(answer));
  });
  const sender = buildWebhookSender({ allowsPrivate: true, answerMs: 1_000 });
  onTestFinished(() => {
    sender.close();
    server.close();
  });
  await once(server.listen(0, "127.0.0.1"), "listening");
  const { port } = server.address() as AddressInfo;
  const sent = await sender.send({
    webhookId: "webhook-1",
    url: `http://127.0.0.1:${port}/`,
    secret: "whsec_test",
    eventId: "a:0",
    eventType: "WalletCreated",
    correlationId: "correlation-1",
    attempt: 1,
    body: "{}",
  });
  expect(sent).toEqual({ type: "refused", reason: "answered 101" });
});
