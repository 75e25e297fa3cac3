/**
 * Bank commands over NATS request-reply. What a lost connection means for money is decided here: a request that was on its way is
 * unknown, one that was never sent is unavailable, and neither waits for the library's own timeout.
 */
import { connect, headers, NatsError, type NatsConnection } from "nats";
import { REJECTIONS, type Ask, type BankAnswer, type BankCommand } from "../workload.ts";

/** Longer than a command's deadline: who gives up earlier sees nothing of honest answers. */
const silenceMsMax = 20_000;
const reconnectMs = 100;

const encoder = new TextEncoder();

export type NatsAsk = Ask & { close(): Promise<void> };

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

  const ask: Ask = async (command) => {
    if (!isConnected) return { type: "unavailable", reason: "no connection to NATS" };
    let giveUp = (): void => undefined;
    const lost = new Promise<BankAnswer>((done) => {
      giveUp = () => done({ type: "unknown", reason: "the connection to NATS was lost" });
    });
    waiting.add(giveUp);
    try {
      return await Promise.race([askOnce(connection, command), lost]);
    } finally {
      waiting.delete(giveUp);
    }
  };
  return Object.assign(ask, { close: () => connection.close() });
}

async function askOnce(connection: NatsConnection, command: BankCommand): Promise<BankAnswer> {
  const { key, kind, walletId, toWalletId, amountMinor, expectedVersion } = command;
  const amount = amountMinor / 100;
  const body = {
    walletId,
    ...(kind === "open" ? { initialBalance: amount } : { amount }),
    ...(toWalletId === null ? {} : { toWalletId }),
    ...(expectedVersion === null ? {} : { expectedVersion }),
  };
  const fields = headers();
  fields.set("Idempotency-Key", key);
  const subject = `wallets.v1.${kind === "open" ? "create" : kind}`;
  try {
    const message = await connection.request(subject, encoder.encode(JSON.stringify(body)), {
      timeout: silenceMsMax,
      headers: fields,
    });
    return readReply(message.string(), message.headers?.get("Idempotent-Replayed") === "true");
  } catch (error) {
    if (!(error instanceof NatsError)) throw error;
    // Nobody listens: then nobody has heard it either.
    if (error.code === "503") return { type: "unavailable", reason: "no gateway listens" };
    // NATS is no witness: it may have lost the request or the answer, also while this connection stood.
    return { type: "unknown", reason: `${error.code} ${error.message}` };
  }
}

interface WalletText {
  readonly version: number;
  readonly balance: number;
}

interface ReplyText {
  readonly ok: boolean;
  readonly data?: Partial<WalletText> & {
    readonly fromWallet?: WalletText;
    readonly toWallet?: WalletText;
    readonly status?: string;
  };
  readonly error?: {
    readonly code: string;
    readonly statusCode: number;
    readonly details?: { readonly available?: number };
  };
}

function readReply(text: string, isReplay: boolean): BankAnswer {
  const { ok, data, error } = JSON.parse(text) as ReplyText;
  if (ok && data !== undefined) {
    const { version, balance } = data.fromWallet ?? (data as WalletText);
    return {
      type: "acknowledged",
      version,
      balanceMinor: Math.round(balance * 100),
      toVersion: data.toWallet?.version ?? null,
      isPending: data.fromWallet !== undefined && data.status === "pending",
      isReplay,
      // The same bytes as the body over HTTP: a repeat must be equal whichever way it takes.
      text: JSON.stringify(data),
    };
  }
  if (error === undefined) return { type: "wrong", reason: text };
  const { code, details } = error;
  if (REJECTIONS.has(code)) {
    const { available } = details ?? {};
    const availableMinor = available === undefined ? null : Math.round(available * 100);
    return { type: "rejected", code, availableMinor };
  }
  if (code === "unavailable" || code === "overloaded") return { type: "unavailable", reason: code };
  if (code === "outcome_unknown") return { type: "unknown", reason: code };
  return { type: "wrong", reason: text };
}
