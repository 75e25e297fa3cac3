/**
 * The buses that the tests open and close: in one process, on a real NATS, on a server that says
 * what the test wants, and simulated.
 */
import { once } from "node:events";
import { createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { pino } from "pino";
import { afterAll, afterEach, beforeAll } from "vitest";
import type { Bus } from "../../src/core/bus.ts";
import { buildMemoryBus } from "../../src/bus/memory-bus.ts";
import { buildNatsBus, type NatsBus } from "../../src/bus/nats-bus.ts";
import { startNats, type TestServer } from "./servers.ts";
import { buildNetwork } from "../simulation/bus.ts";
import { buildScheduler } from "../simulation/scheduler.ts";

export const silent = pino({ level: "silent" });
export const PING_MS = 2_000;
/** Scheduling noise on top of a bound. */
export const SLACK_MS = 500;

let scriptedServer: Server | undefined;

/**
 * Speaks just enough NATS to let a client connect, or refuses it with another greeting; from then
 * on it answers only what the test sends.
 */
export async function startScriptedServer(firstGreeting = "PONG\r\n") {
  let greeting = firstGreeting;
  let received = "";
  let client: Socket | undefined;
  const server = createServer((socket) => {
    client = socket;
    socket.write('INFO {"version":"2.9.10","headers":true,"max_payload":1048576}\r\n');
    socket.once("data", () => socket.write(greeting));
    socket.on("data", (chunk) => (received += chunk.toString()));
    socket.on("error", () => undefined);
  }).listen(0, "127.0.0.1");
  scriptedServer = server;
  await once(server, "listening");
  return {
    url: `nats://127.0.0.1:${(server.address() as AddressInfo).port}`,
    received: () => received,
    send: (text: string) => client?.write(text),
    isClientGone: () => client?.closed === true,
    drop: () => client?.destroy(),
    greetWith: (text: string) => {
      greeting = text;
    },
  };
}

/**
 * Everything published on this bus before has been delivered to its own subscribers, or reported as
 * undelivered.
 */
export async function settled(bus: Bus): Promise<void> {
  // A busy machine takes seconds for the 65,000 messages of one test; how fast is not asked here.
  await bus.ping(20_000);
}

export function collect<M>(bus: Bus, subject: string): M[] {
  const messages: M[] = [];
  bus.subscribe<M>(subject, (message) => messages.push(message));
  return messages;
}

export let shared: TestServer;
export const opened: Bus[] = [];

export async function openNats(url = shared.url, log = silent): Promise<NatsBus> {
  const bus = buildNatsBus({ url, name: "test", log });
  opened.push(bus);
  await bus.connection;
  return bus;
}

export function openMemory(): Bus {
  const bus = buildMemoryBus({ onError: () => undefined });
  opened.push(bus);
  return bus;
}

/** Without faults, and with virtual time that passes by itself until the bus is closed. */
export function openSimulated(): Bus {
  const scheduler = buildScheduler(1);
  const network = buildNetwork(scheduler, scheduler.random, () => undefined);
  const bus = network.connect(scheduler.process("test"));
  opened.push(bus);
  async function pass(closingMs: number): Promise<void> {
    await scheduler.run(1);
    const leftMs = bus.state === "closed" ? closingMs - 1 : closingMs;
    if (leftMs > 0) setImmediate(() => void pass(leftMs));
  }
  void pass(100);
  return bus;
}

/** A NATS server for the tests of a file; each of them closes what it has opened. */
export function useBusStage(): void {
  beforeAll(async () => {
    shared = await startNats();
  });

  afterEach(async () => {
    await Promise.all(opened.splice(0).map(async (bus) => bus.drain()));
    scriptedServer?.close();
    scriptedServer = undefined;
  });

  afterAll(async () => {
    await shared.stop();
  });
}
