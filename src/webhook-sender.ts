/**
 * Sends one event to one webhook: a signed POST, bounded in time, whose answer counts by its status
 * alone. The signature is the scheme that Stripe documents for its `Stripe-Signature` header
 * (docs.stripe.com/webhooks, "Verify webhook signatures manually"): HMAC-SHA-256 with the webhook's
 * secret over the time of sending, a dot and the body, so that neither can be changed and an old
 * request cannot be sent again later. Redirects are not followed: the secret's owner named this URL
 * and no other.
 */
import { createHmac } from "node:crypto";
import { Agent as HttpAgent, request as httpRequest, type IncomingMessage } from "node:http";
import { Agent as HttpsAgent, request as httpsRequest } from "node:https";
import { isPublicAddress, literalAddress, lookupPublic } from "./addresses.ts";
import { LIMITS } from "./limits.ts";

export interface WebhookMessage {
  readonly webhookId: string;
  readonly url: string;
  readonly secret: string;
  readonly eventId: string;
  readonly eventType: string;
  readonly correlationId: string;
  /** 1 for the first try. */
  readonly attempt: number;
  readonly body: string;
}

export type WebhookAnswer =
  | { readonly type: "taken" }
  | { readonly type: "refused"; readonly reason: string }
  /** 410: the receiver wants no more. */
  | { readonly type: "gone" };

export interface WebhookSender {
  /**
   * Never rejects; answers within `answerMs`, or twice that when a kept connection has gone stale.
   */
  send(message: WebhookMessage): Promise<WebhookAnswer>;
  close(): void;
}

export interface WebhookSenderOptions {
  /** Whether private and loopback addresses are allowed. */
  readonly allowsPrivate: boolean;
  readonly answerMs?: number;
}

/** `t=<unix seconds>,v1=<hex>` */
export function signatureOf(secret: string, body: string, unixSeconds: number): string {
  const mac = createHmac("sha256", secret).update(`${unixSeconds}.${body}`).digest("hex");
  return `t=${unixSeconds},v1=${mac}`;
}

/** Why this cannot be a webhook's URL; null when it can. */
export function problemOfUrl(text: string, allowsPrivate: boolean): string | null {
  if (!URL.canParse(text)) return "is not a URL";
  const url = new URL(text);
  if (url.protocol !== "http:" && url.protocol !== "https:") return "must be http or https";
  if (url.username !== "" || url.password !== "") return "must not have a user or a password";
  if (allowsPrivate) return null;
  const address = literalAddress(url);
  const isLocal =
    address === null ? /(^|\.)localhost\.?$/i.test(url.hostname) : !isPublicAddress(address);
  return isLocal ? "is a private address; WEBHOOK_PRIVATE=on allows those" : null;
}

export function buildWebhookSender(options: WebhookSenderOptions): WebhookSender {
  const { allowsPrivate, answerMs = LIMITS.webhookAnswerMs } = options;
  const agentOptions = { keepAlive: true, maxFreeSockets: LIMITS.webhookShardsAtOnceMax };
  const http = new HttpAgent(agentOptions);
  const https = new HttpsAgent(agentOptions);

  function attempt(message: WebhookMessage, isRepeat: boolean): Promise<WebhookAnswer> {
    return new Promise((resolve) => {
      const url = new URL(message.url);
      const isHttps = url.protocol === "https:";
      const request = (isHttps ? httpsRequest : httpRequest)(url, {
        method: "POST",
        agent: isHttps ? https : http,
        headers: headersOf(message),
        ...(allowsPrivate ? {} : { lookup: lookupPublic }),
      });
      const timer = setTimeout(() => {
        request.destroy(new Error(`no answer within ${answerMs} ms`));
      }, answerMs);
      // What becomes of the connection when there is an answer says nothing of the event.
      let isOver = false;
      const end = (): void => {
        isOver = true;
        clearTimeout(timer);
      };
      request.on("error", (error: Error & { code?: string }) => {
        if (isOver) return;
        end();
        // An idle connection that the receiver was just closing says nothing about the receiver.
        const wasStale = request.reusedSocket && error.code === "ECONNRESET";
        if (wasStale && !isRepeat) resolve(attempt(message, true));
        else resolve({ type: "refused", reason: error.message || String(error) });
      });
      // An answer 101 leaves HTTP, and Node would end its connection without a word to us.
      request.once("upgrade", (response, socket) => {
        end();
        socket.destroy();
        resolve(readStatus(response.statusCode ?? 0));
      });
      request.once("response", (response) => {
        end();
        discard(response, answerMs);
        resolve(readStatus(response.statusCode ?? 0));
      });
      // As bytes: Node would write the headers before a text in that text's encoding.
      request.end(Buffer.from(message.body));
    });
  }

  return {
    send(message) {
      // Again at each sending: the setting may have changed since the webhook was made.
      const problem = problemOfUrl(message.url, allowsPrivate);
      if (problem === null) return attempt(message, false);
      return Promise.resolve({ type: "refused", reason: `the URL ${problem}` });
    },
    close() {
      http.destroy();
      https.destroy();
    },
  };
}

/** The UTF-8 of a text as Node takes it for a header: one character a byte, and no other ones. */
function latin1Of(text: string): string {
  return Buffer.from(text).toString("latin1");
}

function headersOf(message: WebhookMessage): Record<string, string | number> {
  const { secret, body } = message;
  return {
    "content-type": "application/json",
    "content-length": Buffer.byteLength(body),
    "user-agent": "Coffer",
    "coffer-signature": signatureOf(secret, body, Math.floor(Date.now() / 1_000)),
    "coffer-webhook-id": message.webhookId,
    "coffer-event-id": message.eventId,
    "coffer-event-type": message.eventType,
    "coffer-attempt": message.attempt,
    "x-correlation-id": latin1Of(message.correlationId),
  };
}

function readStatus(status: number): WebhookAnswer {
  if (status >= 200 && status < 300) return { type: "taken" };
  if (status === 410) return { type: "gone" };
  const hint = status >= 300 && status < 400 ? ", and redirects are not followed" : "";
  return { type: "refused", reason: `answered ${status}${hint}` };
}

/**
 * Reads a short body away, so that the connection can be used again; a long or slow one costs the
 * connection.
 */
function discard(response: IncomingMessage, withinMs: number): void {
  let bytes = 0;
  const timer = setTimeout(() => response.destroy(), withinMs);
  response.on("data", (chunk: Buffer) => {
    bytes += chunk.length;
    if (bytes > LIMITS.webhookAnswerBytesMax) response.destroy();
  });
  response.once("close", () => clearTimeout(timer));
  response.on("error", () => undefined); // the status has been read
}
