/**
 * Bank commands over NATS request-reply. What a lost connection means for money is decided here: a
 * request that was on its way is unknown, one that was never sent is unavailable, and neither waits
 * for the library's own timeout.
 */
import { connect, headers, NatsError, type NatsConnection } from "nats";
import {
  batchBody,
  natsRequest,
  readBatch,
  readNo,
  readYes,
  type BankBatch,
  type BankCommand,
  type ErrorText,
} from "../stage/bank-wire.ts";
import type { Ask, AskBatch, BankAnswer } from "../stage/workload.ts";

/** Longer than a command's deadline: who gives up earlier sees nothing of honest answers. */
const silenceMsMax = 20_000;
/** A batch may begin commands for 30 s. */
const batchSilenceMsMax = 50_000;
const reconnectMs = 100;

const encoder = new TextEncoder();

export type NatsAsk = Ask & { readonly batch: AskBatch; close(): Promise<void> };

/** A connection that comes back for ever. */
export async function askOverNats(url: string): Promise<NatsAsk> {
  const connection = await connect({
    servers: url,
    name: "chaos",
    maxReconnectAttempts: -1,
    reconnectTimeWait: reconnectMs,
    reconnectJitter: 0,
    pingInterval: 1_000,
    maxPingOut: 3,
  });
  let isConnected = true;
  /** Those who wait for an answer of the connection as it is now. */
  const waiting = new Set<() => void>();
  void (async () => {
    for await (const { type } of connection.status()) {
      if (type === "disconnect") {
        isConnected = false;
        for (const giveUp of waiting) giveUp();
      }
      if (type === "reconnect") isConnected = true;
    }
  })();

  async function unlessLost(asking: () => Promise<Told>): Promise<Told> {
    if (!isConnected) {
      return { fault: { type: "unavailable", reason: "no connection to NATS" } };
    }
    let giveUp = (): void => undefined;
    const lost = new Promise<Told>((done) => {
      const fault = { type: "unknown", reason: "the connection to NATS was lost" } as const;
      giveUp = () => done({ fault });
    });
    waiting.add(giveUp);
    try {
      return await Promise.race([asking(), lost]);
    } finally {
      waiting.delete(giveUp);
    }
  }

  const ask: Ask = async (command) => {
    const { endpoint, body } = natsRequest(command);
    const text = JSON.stringify(body);
    const told = await unlessLost(() =>
      request(connection, endpoint, text, command.key, silenceMsMax),
    );
    return "fault" in told ? told.fault : readReply(command, told);
  };
  const batch: AskBatch = async (commands) => {
    const text = batchBody(commands);
    const told = await unlessLost(() =>
      request(connection, "batch", text, commands.key, batchSilenceMsMax),
    );
    return "fault" in told
      ? commands.commands.map(() => told.fault)
      : readBatchReply(commands, told);
  };
  return Object.assign(ask, { batch, close: () => connection.close() });
}

interface Reply {
  readonly text: string;
  readonly isReplay: boolean;
}

type Told = Reply | { readonly fault: BankAnswer };

async function request(
  connection: NatsConnection,
  endpoint: string,
  body: string,
  key: string | null,
  timeout: number,
): Promise<Told> {
  const fields = headers();
  if (key !== null) fields.set("Idempotency-Key", key);
  try {
    const message = await connection.request(`wallets.v1.${endpoint}`, encoder.encode(body), {
      timeout,
      headers: fields,
    });
    const isReplay = message.headers?.get("Idempotent-Replayed") === "true";
    return { text: message.string(), isReplay };
  } catch (error) {
    if (!(error instanceof NatsError)) throw error;
    // Nobody listens: then nobody has heard it either.
    if (error.code === "503") {
      return { fault: { type: "unavailable", reason: "no gateway listens" } };
    }
    // NATS is no witness: it may have lost the request or the answer, also while this connection
    // stood.
    return { fault: { type: "unknown", reason: `${error.code} ${error.message}` } };
  }
}

interface ReplyText {
  readonly ok: boolean;
  readonly dryRun?: boolean;
  readonly data?: object;
  readonly error?: ErrorText;
}

function readReply(command: BankCommand, { text, isReplay }: Reply): BankAnswer {
  const { ok, dryRun = false, data, error } = JSON.parse(text) as ReplyText;
  if (ok && data !== undefined && dryRun === (command.isDry === true)) {
    // The same bytes as the body over HTTP: a repeat must be equal whichever way it takes.
    return readYes(command, JSON.stringify(data), isReplay);
  }
  return error === undefined ? { type: "wrong", reason: text } : readNo(command, error);
}

function readBatchReply(batch: BankBatch, { text }: Reply): BankAnswer[] {
  const { ok, data, error } = JSON.parse(text) as ReplyText;
  if (ok && data !== undefined) return readBatch(batch, JSON.stringify(data));
  const isRefused = error?.code === "unavailable" || error?.code === "overloaded";
  return batch.commands.map(() => ({ type: isRefused ? "unavailable" : "wrong", reason: text }));
}
