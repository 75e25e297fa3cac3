/**
 * The consumer of docs/examples, run as the file it is: it takes every event in order, comes back
 * to where it was after a crash, and puts what it cannot take under the dead-letter subject, once,
 * with the reason.
 */
import { spawn, type ChildProcess } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { afterAll, beforeAll, expect, it, onTestFinished } from "vitest";

import { packageRoot } from "../src/package-root.ts";
import { addStream, busOf, openWallets, relayOf, write } from "./stage/relay.ts";
import { startNats, type TestServer } from "./stage/servers.ts";
import { startStack, until, type EventBody, type Stack } from "./stage/stack.ts";

const example = join(packageRoot, "docs", "examples", "consumer.mjs");

let nats: TestServer;
let stack: Stack;
/** Coffer's own setting, as it may be: two ways to the server, with a login. */
let natsUrl: string;

beforeAll(async () => {
  nats = await startNats({ jetstream: true, login: { user: "shop", pass: "p@ss" } });
  const way = `nats://shop:p%40ss@127.0.0.1:${nats.port}`;
  natsUrl = `${way}, ${way.replace("127.0.0.1", "localhost")}`;
  stack = await startStack();
});
afterAll(async () => {
  await stack?.close();
  await nats?.stop();
});

function startConsumer(handler?: string, url = natsUrl): ChildProcess & { text(): string } {
  const args = [example, "invoices", ...(handler === undefined ? [] : [handler])];
  const child = spawn(process.execPath, args, {
    env: {
      ...process.env,
      NATS_URL: url,
      ATTEMPTS_MAX: "3",
      PAUSE_MS: "50",
      ACK_WAIT_MS: "2000",
    },
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on("data", (chunk: Buffer) => (output += chunk.toString()));
  }
  onTestFinished(() => void child.kill("SIGKILL"));
  return Object.assign(child, { text: () => output });
}

it(
  "takes every event in order, survives a crash, and puts aside what it cannot take",
  { timeout: 60_000 },
  async () => {
    // Given a handler that writes down what it gets and cannot take one event, and one that kills
    // the process the first time
    const folder = mkdtempSync(join(tmpdir(), "coffer-consumer-"));
    onTestFinished(() => rmSync(folder, { recursive: true, force: true }));
    const book = join(folder, "book.txt");
    const handler = join(folder, "handler.mjs");
    writeFileSync(book, "");
    writeFileSync(
      handler,
      `import { appendFileSync, existsSync, writeFileSync } from "node:fs";
     export async function handle(event) {
       const fatal = ${JSON.stringify(join(folder, "fatal"))};
       if (event.description === "fatal" && !existsSync(fatal)) { writeFileSync(fatal, ""); process.kill(process.pid, "SIGKILL"); await new Promise(() => {}); }
       appendFileSync(${JSON.stringify(book)}, (event.description === "poison" ? "refused " : "taken ") + event.id + "\\n");
       if (event.description === "poison") throw new Error("I do not know this kind of thing");
     }`,
    );
    const relay = relayOf(stack);
    addStream(relay, await busOf(natsUrl));
    await until("the stream is there", () => relay.status()[0]!.state === "open");
    const [walletId = ""] = await openWallets(stack, 1);
    await write(stack, [walletId], 2);
    await stack.post(`/wallets/${walletId}/credit`, { amount: 1, description: "poison" });
    await stack.post(`/wallets/${walletId}/credit`, { amount: 1, description: "fatal" });
    await write(stack, [walletId], 1);

    // When it runs until its end, and is started again
    const first = startConsumer(handler);
    await new Promise((resolve) => first.once("exit", resolve));
    expect(first.signalCode).toBe("SIGKILL");
    const second = startConsumer(handler);
    const lines = (): string[] => readFileSync(book, "utf8").trim().split("\n");
    // The one that was under way comes again after the consumer's ack_wait
    await until("all are taken", () => lines().at(-1) === `taken ${walletId}:5`, 45_000);

    // Then each was taken, in order, and the one that it could not take was tried three times
    expect(lines()).toEqual([
      ...[0, 1, 2].map((version) => `taken ${walletId}:${version}`),
      ...[3, 3, 3].map((version) => `refused ${walletId}:${version}`),
      ...[4, 5].map((version) => `taken ${walletId}:${version}`),
    ]);

    // And it is under the dead-letter subject
    const connection = await (await busOf(natsUrl)).connection;
    const manager = await connection.jetstreamManager();
    expect((await manager.streams.info("WALLET_DEAD")).state.messages).toBe(1);
    const dead = await manager.streams.getMessage("WALLET_DEAD", {
      last_by_subj: "wallets.dead.invoices",
    });
    expect(dead.json<EventBody>()).toMatchObject({ id: `${walletId}:3`, description: "poison" });
    expect(dead.header.get("Coffer-Dead-Reason")).toBe("I do not know this kind of thing");
    expect(dead.header.get("Coffer-Dead-Subject")).toBe(
      `wallets.events.${walletId}.WalletCredited`,
    );

    // And it ends in order, with nothing left to take
    second.kill("SIGTERM");
    const code = await new Promise((resolve) => second.once("exit", resolve));
    expect([code, second.text()]).toEqual([0, expect.stringContaining("invoices takes events")]);
    const { num_pending, num_ack_pending } = await manager.consumers.info(
      "WALLET_EVENTS",
      "invoices",
    );
    expect({ num_pending, num_ack_pending }).toEqual({ num_pending: 0, num_ack_pending: 0 });
  },
);

it.each([
  ["a wrong password", () => natsUrl.replaceAll("p%40ss", "secret"), /Authorization Violation/],
  ["no server", () => "nats://127.0.0.1:1", /ECONNREFUSED/],
])("says in one line that it cannot connect: %s", async (_what, url, reason) => {
  const consumer = startConsumer(undefined, url());
  const code = await new Promise((resolve) => consumer.once("close", resolve));
  expect([code, consumer.text().split("\n")]).toEqual([
    1,
    [expect.stringMatching(/^invoices cannot connect to NATS at 127\.0\.0\.1:\d+/), ""],
  ]);
  expect(consumer.text()).toMatch(reason);
  expect(consumer.text()).not.toContain("secret");
});
