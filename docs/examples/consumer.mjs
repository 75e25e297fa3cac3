/**
 * A consumer of Coffer's events, to copy from:
 *
 *     NATS_URL=nats://127.0.0.1:4222 node docs/examples/consumer.mjs invoices ./my-handler.mjs
 *
 * The handler is a module with `export async function handle(event)`; without one, events are
 * printed. An event is acknowledged when `handle` has returned. When it throws, the event comes
 * again after a pause; after ATTEMPTS_MAX it goes to the dead-letter subject
 * `wallets.dead.<consumer>`, with the reason, so that one bad event does not hold up the others for
 * ever.
 *
 * Events come at least once: `handle` must be able to get the same event again. Keep, with what you
 * write, the last version of each wallet, and ignore an event whose version is not higher.
 */
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { AckPolicy, connect, DeliverPolicy, headers, nanos } from "nats";

const [, , name = "example", handlerFile] = process.argv;
const ATTEMPTS_MAX = Number(process.env.ATTEMPTS_MAX ?? 5);
const PAUSE_MS = Number(process.env.PAUSE_MS ?? 1_000);
/** Longer than `handle` may take: an event that is not acknowledged within it comes again. */
const ACK_WAIT_MS = Number(process.env.ACK_WAIT_MS ?? 30_000);
const DAY_MS = 86_400_000;

const { handle } =
  handlerFile === undefined
    ? { handle: (event) => console.log(JSON.stringify(event)) }
    : await import(pathToFileURL(resolve(handlerFile)));

// Coffer's own NATS_URL will do: servers with commas, `nats://user:password@host:4222`,
// `nats://token@host`, `tls://host`. The library reads no more of an address than host and port.
const urls = (process.env.NATS_URL ?? "nats://127.0.0.1:4222")
  .split(",")
  .map((url) => new URL(url.trim()));
const servers = urls.map(({ hostname, port }) => `${hostname}:${port || 4222}`);
const [user, pass] = [urls[0].username, urls[0].password].map(decodeURIComponent);
const login = pass !== "" ? { user, pass } : user !== "" ? { token: user } : {};
const connection = await connect({
  servers,
  ...login,
  ...(urls[0].protocol === "tls:" && { tls: {} }),
  ...(process.env.INBOX_PREFIX && { inboxPrefix: process.env.INBOX_PREFIX }),
  name,
  maxReconnectAttempts: -1,
}).catch((error) => {
  // Whoever restarts this process tries again; later the library does it by itself.
  const reason = error.chainedError?.message ?? error.message;
  console.error(`${name} cannot connect to NATS at ${servers.join(", ")}: ${reason}`);
  process.exit(1);
});
const manager = await connection.jetstreamManager();
const jetstream = connection.jetstream();

// Where events go that cannot be taken; somebody has to look at it now and then.
await manager.streams
  .add({
    name: "WALLET_DEAD",
    subjects: ["wallets.dead.>"],
    max_age: nanos(90 * DAY_MS),
    duplicate_window: nanos(2 * 60_000),
  })
  .catch((error) => {
    // 10058: it is there, with other settings, which are somebody's.
    if (error.api_error?.err_code !== 10_058) throw error;
  });

// The server keeps how far this consumer is, under its name. One event at a time keeps the order of
// each wallet, also when one has to come again. `max_deliver` stays unbounded: past a bound the
// server would drop an event without a word.
await manager.consumers.add("WALLET_EVENTS", {
  durable_name: name,
  ack_policy: AckPolicy.Explicit,
  ack_wait: nanos(ACK_WAIT_MS),
  max_ack_pending: 1,
  deliver_policy: DeliverPolicy.All,
  filter_subject: process.env.SUBJECT ?? "wallets.events.>",
});

async function take(message) {
  const attempt = message.info.redeliveryCount;
  try {
    // More than that: it has ended this process each time.
    if (attempt > ATTEMPTS_MAX) throw new Error("this consumer did not survive it");
    await handle(message.json());
    // Waits until the server has it: an acknowledgement that is lost would bring the event again.
    await message.ackAck();
  } catch (error) {
    console.error(`${message.headers?.get("Nats-Msg-Id")} attempt ${attempt}: ${error.message}`);
    if (attempt < ATTEMPTS_MAX) message.nak(PAUSE_MS);
    else await bury(message, error);
  }
}

/**
 * First the dead letter, then the end of the event here: a crash in between makes a second letter,
 * not none.
 */
async function bury(message, error) {
  const id = message.headers?.get("Nats-Msg-Id") ?? `${message.seq}`;
  const dead = headers();
  dead.set("X-Correlation-Id", message.headers?.get("X-Correlation-Id") ?? "");
  dead.set("Coffer-Dead-Subject", message.subject);
  dead.set("Coffer-Dead-Reason", error.message.replaceAll(/[^ -~]/g, "?").slice(0, 1_000));
  await jetstream.publish(`wallets.dead.${name}`, message.data, {
    headers: dead,
    msgID: `${name}:${id}`,
  });
  message.term();
}

const consumer = await jetstream.consumers.get("WALLET_EVENTS", name);
const messages = await consumer.consume({ max_messages: 100 });
for (const signal of ["SIGTERM", "SIGINT"]) process.once(signal, () => void messages.close());
console.error(`${name} takes events`);

for await (const message of messages) {
  // What fails here (NATS away, say) comes again by itself after `ack_wait`.
  await take(message).catch((error) => console.error(`not now: ${error.message}`));
}
await connection.drain();
