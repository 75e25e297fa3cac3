/**
 * What the bus over NATS owes beside the contract: its bounds, its options, and what it makes of a
 * server that is in trouble, away, or no NATS at all.
 */
import { connect } from "nats";
import { pino } from "pino";
import { setTimeout as delay } from "node:timers/promises";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { LIMITS } from "../src/limits.ts";
import { buildNatsBus, connectionOptions } from "../src/bus/nats-bus.ts";
import {
  collect,
  opened,
  openNats,
  PING_MS,
  settled,
  shared,
  silent,
  SLACK_MS,
  startScriptedServer,
  useBusStage,
} from "./stage/bus.ts";
import { withLimits } from "./stage/lanes.ts";
import { startNats, type TestServer } from "./stage/servers.ts";

useBusStage();

describe("the NATS bus", () => {
  test("carries messages between processes and reports subjects that nobody has anywhere", async () => {
    const gateway = await openNats();
    const host = await openNats();
    const received = collect(host, "shards.7");
    await settled(host);
    const undelivered: string[] = [];
    gateway.publish("shards.7", { walletId: "w1" }, () => undelivered.push("shards.7"));
    gateway.publish("shards.8", { walletId: "w2" }, () => undelivered.push("shards.8"));
    await settled(gateway);
    await vi.waitFor(() => expect(received).toEqual([{ walletId: "w1" }]));
    expect(undelivered).toEqual(["shards.8"]);
  });

  test("refuses a message that is too large or not JSON, and stays connected", async () => {
    const bus = await openNats();
    const received = collect(bus, "large");
    const onUndelivered = vi.fn<() => void>();
    const cycle: Record<string, unknown> = {};
    cycle["self"] = cycle;
    for (const refused of ["x".repeat(LIMITS.busMessageBytesMax), cycle, 1n, undefined]) {
      onUndelivered.mockClear();
      bus.publish("large", refused, onUndelivered);
      expect(onUndelivered).toHaveBeenCalledTimes(1);
    }
    const largest = "x".repeat(LIMITS.busMessageBytesMax - 2);
    bus.publish("large", largest);
    await settled(bus);
    expect(received).toEqual([largest]);
    expect(bus.state).toBe("connected");
  });

  test("refuses a subject that would break the protocol line", async () => {
    const bus = await openNats();
    const onUndelivered = vi.fn<() => void>();
    for (const subject of ["", "a b", "a\r\nPUB b 1"]) {
      onUndelivered.mockClear();
      bus.publish(subject, 1, onUndelivered);
      expect(onUndelivered).toHaveBeenCalledTimes(1);
      expect(() => bus.subscribe(subject, () => undefined)).toThrow("not a subject");
    }
    await settled(bus);
    expect(bus.state).toBe("connected");
  });

  test("ignores junk that others publish, counts it and logs it once", async () => {
    const lines: string[] = [];
    const log = pino({ level: "warn" }, { write: (line: string) => void lines.push(line) });
    const bus = await openNats(shared.url, log);
    const received = collect(bus, "junk");
    const stranger = await connect({ servers: shared.url });
    await settled(bus);
    const junk = ["", "{", "undefined", "{}x", Buffer.from([0x22, 0xff, 0xfe, 0x22]), "\0"];
    for (const payload of junk) stranger.publish("junk", payload);
    stranger.publish("junk", '{"good":true}');
    await stranger.flush();
    await vi.waitFor(() => expect(received).toEqual([{ good: true }]));
    expect(bus.stats().malformed).toBe(junk.length);
    expect(lines).toHaveLength(1);
    expect(lines[0]).toContain("not JSON");
    await stranger.close();
  });

  test("takes no message on its inbox for news but the server's own", async () => {
    const bus = await openNats();
    const replier = await connect({ servers: shared.url });
    replier.subscribe("replied", {
      callback: (_, message) => {
        message.respond("{}");
        message.respond();
      },
    });
    await replier.flush();
    const onUndelivered = vi.fn<() => void>();
    bus.publish("replied", 1, onUndelivered);
    await settled(bus);
    await replier.flush();
    await settled(bus);
    expect(onUndelivered).not.toHaveBeenCalled();
    await replier.close();
  });

  test("lets go of callbacks and bytes once the server has read them", async () => {
    const bus = await openNats();
    collect(bus, "taken");
    for (let number = 0; number < 100; number++) bus.publish("taken", number, () => undefined);
    expect(bus.stats().waiting).toBe(100);
    expect(bus.stats().inFlightBytes).toBeGreaterThan(100);
    await vi.waitFor(() => expect(bus.stats()).toMatchObject({ waiting: 0, inFlightBytes: 0 }));
    bus.publish("taken", "again", () => undefined);
    await vi.waitFor(() => expect(bus.stats()).toMatchObject({ waiting: 0, inFlightBytes: 0 }));
    expect(bus.stats()).toMatchObject({ published: 101, delivered: 101, undelivered: 0 });
  });

  test("keeps a bounded number of callbacks and publishes the rest without", async () => {
    withLimits({ busWaitingMax: 1_000 });
    const bus = await openNats();
    let undelivered = 0;
    for (let number = 0; number < LIMITS.busWaitingMax + 10; number++) {
      bus.publish("nobody", 0, () => undelivered++);
    }
    expect(bus.stats().waiting).toBe(LIMITS.busWaitingMax);
    await settled(bus);
    expect(undelivered).toBe(LIMITS.busWaitingMax);
  });
});

describe("the NATS bus and a server in trouble", () => {
  let server: TestServer;

  beforeEach(async () => {
    server = await startNats();
  });

  afterEach(async () => {
    await server.kill(); // A stopped process does not hear SIGTERM.
    await server.stop();
  });

  test("notices that the server died, refuses meanwhile, and takes up its subscriptions again", async () => {
    const bus = await openNats(server.url);
    const received = collect(bus, "survivor");
    const onReconnect = vi.fn<() => void>();
    const forgotten = vi.fn<() => void>();
    bus.onReconnect(onReconnect);
    bus.onReconnect(forgotten)();
    bus.publish("survivor", 1);
    await settled(bus);

    await server.kill();
    await vi.waitFor(() => expect(bus.state).toBe("reconnecting"), { timeout: 2_000 });
    const onUndelivered = vi.fn<() => void>();
    bus.publish("survivor", 2, onUndelivered);
    expect(onUndelivered).toHaveBeenCalledTimes(1);
    await expect(bus.ping(PING_MS)).rejects.toThrow("NATS is away: the connection was lost");
    const begunMeanwhile = collect(bus, "meanwhile");
    const endedMeanwhile: unknown[] = [];
    bus.subscribe("meanwhile", (message) => endedMeanwhile.push(message))();
    await delay(LIMITS.busReconnectMs * 15); // Longer than the library would try by itself.
    expect(bus.state).toBe("reconnecting");
    expect(onReconnect).not.toHaveBeenCalled();

    await server.restart();
    await vi.waitFor(() => expect(bus.state).toBe("connected"), { timeout: 5_000 });
    expect(onReconnect).toHaveBeenCalledTimes(1);
    expect(forgotten).not.toHaveBeenCalled();
    bus.publish("survivor", 3);
    bus.publish("meanwhile", 4);
    bus.publish("nobody", 5, onUndelivered);
    await settled(bus);
    expect(received).toEqual([1, 3]);
    expect(begunMeanwhile).toEqual([4]);
    expect(endedMeanwhile).toEqual([]);
    expect(onUndelivered).toHaveBeenCalledTimes(2);
    expect(bus.stats().reconnects).toBe(1);
  }, 15_000);

  test("waits for a server that starts later, with the subscriptions made meanwhile", async () => {
    await server.kill();
    const lines: string[] = [];
    const log = pino({ level: "warn" }, { write: (line: string) => void lines.push(line) });
    const bus = buildNatsBus({ url: server.url, name: "test", log });
    opened.push(bus);
    const received = collect(bus, "early");
    const ended: unknown[] = [];
    bus.subscribe("early", (message) => ended.push(message))();
    const onUndelivered = vi.fn<() => void>();
    const onReconnect = vi.fn<() => void>();
    bus.onReconnect(onReconnect);
    expect(bus.state).toBe("reconnecting");
    bus.publish("early", 1, onUndelivered);
    expect(onUndelivered).toHaveBeenCalledTimes(1);
    await delay(LIMITS.busReconnectMs * 3);
    expect(bus.state).toBe("reconnecting");
    expect(lines).toHaveLength(1);
    expect(lines[0]).toContain("NATS is away, trying again: connect ECONNREFUSED");
    await expect(bus.ping(PING_MS)).rejects.toThrow("NATS is away: connect ECONNREFUSED");

    await server.restart();
    await bus.connection;
    expect(bus.state).toBe("connected");
    bus.publish("early", 2);
    await settled(bus);
    expect(received).toEqual([2]);
    expect(ended).toEqual([]);
    expect(onReconnect).not.toHaveBeenCalled();
  });

  test("stops waiting for the first connect when it is drained", async () => {
    const { url } = server;
    await server.kill();
    const bus = buildNatsBus({ url, name: "test", log: silent });
    await delay(50);
    const startedAtMs = performance.now();
    await bus.drain();
    await expect(bus.connection).rejects.toThrow("drained before it connected");
    expect(bus.state).toBe("closed");
    expect(performance.now() - startedAtMs).toBeLessThan(SLACK_MS);
  });

  test("closes a connection that comes about after drain", async () => {
    const scripted = await startScriptedServer();
    const bus = buildNatsBus({ url: scripted.url, name: "test", log: silent });
    await bus.drain();
    await expect(bus.connection).rejects.toThrow("drained before it connected");
    await vi.waitFor(() => expect(scripted.received()).toContain("PING"));
    await vi.waitFor(() => expect(scripted.isClientGone()).toBe(true));
    expect(bus.state).toBe("closed");
  });

  test("drains at once while the server is away, and gives up reconnecting", async () => {
    const bus = await openNats(server.url);
    const connection = await bus.connection;
    await server.kill();
    await vi.waitFor(() => expect(bus.state).toBe("reconnecting"));
    const startedAtMs = performance.now();
    await bus.drain();
    expect(performance.now() - startedAtMs).toBeLessThan(SLACK_MS);
    expect(bus.state).toBe("closed");
    await server.restart();
    await delay(LIMITS.busReconnectMs * 3);
    expect(bus.state).toBe("closed");
    expect(connection.isClosed()).toBe(true);
  });

  test("drains within its bound while the server hangs", async () => {
    const bus = await openNats(server.url);
    bus.subscribe("hung", () => undefined);
    await settled(bus);
    process.kill(server.pid, "SIGSTOP");
    bus.publish("hung", 1);
    const startedAtMs = performance.now();
    await bus.drain();
    expect(performance.now() - startedAtMs).toBeLessThan(LIMITS.busDrainMs + SLACK_MS);
    expect((await bus.connection).isClosed()).toBe(true);
  });

  test("refuses messages at once when the server hangs and the window is full, then recovers", async () => {
    const bus = await openNats(server.url);
    const received = collect<string>(bus, "congested");
    await settled(bus);
    process.kill(server.pid, "SIGSTOP");
    const message = "x".repeat(LIMITS.busMessageBytesMax - 2);
    const onUndelivered = vi.fn<() => void>();
    const fitCount = Math.ceil(LIMITS.busInFlightBytesMax / LIMITS.busMessageBytesMax);
    for (let number = 0; number < fitCount; number++) {
      bus.publish("congested", message, onUndelivered);
    }
    expect(onUndelivered).not.toHaveBeenCalled();
    bus.publish("congested", message, onUndelivered);
    expect(onUndelivered).toHaveBeenCalledTimes(1);
    await expect(bus.ping(100)).rejects.toThrow("no answer from NATS in 100 ms");
    process.kill(server.pid, "SIGCONT");
    await vi.waitFor(() => expect(received).toHaveLength(fitCount), { timeout: 5_000 });
    await vi.waitFor(() => expect(bus.stats().inFlightBytes).toBe(0));
    bus.publish("congested", "again");
    await settled(bus);
    expect(received.at(-1)).toBe("again");
  });

  test("lets go only of what was published before the round trip that confirms it", async () => {
    const scripted = await startScriptedServer();
    const bus = await openNats(scripted.url);
    const onUndelivered = vi.fn<() => void>();
    bus.publish("first", 1, () => undefined);
    await vi.waitFor(() => expect(scripted.received()).toMatch(/PUB first [^]*PING\r\n$/));
    bus.publish("second", 2, onUndelivered);
    expect(bus.stats().waiting).toBe(2);
    const bothBytes = bus.stats().inFlightBytes;
    scripted.send("PONG\r\n");
    await vi.waitFor(() => expect(bus.stats().waiting).toBe(1));
    expect(bus.stats().inFlightBytes).toBeGreaterThan(bothBytes / 3);
    expect(bus.stats().inFlightBytes).toBeLessThan(bothBytes);
    await vi.waitFor(() => expect(scripted.received()).toMatch(/PUB second [^]*PING\r\n$/));
    const inbox = /PUB second (\S+) /.exec(scripted.received())?.[1];
    scripted.send(`HMSG ${inbox} 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\nPONG\r\n`);
    await vi.waitFor(() => expect(bus.stats()).toMatchObject({ waiting: 0, inFlightBytes: 0 }));
    expect(onUndelivered).toHaveBeenCalledTimes(1);
  });

  test("hears once that nobody is subscribed, however often, and only from the server", async () => {
    withLimits({ busDrainMs: 50 }); // This server would answer no drain.
    const scripted = await startScriptedServer();
    const bus = await openNats(scripted.url);
    const heard: string[] = [];
    for (const name of ["first", "second"]) bus.publish(name, 1, () => heard.push(name));
    await vi.waitFor(() => expect(scripted.received()).toMatch(/PUB second [^]*PING\r\n$/));
    const inboxOf = (name: string): string =>
      new RegExp(`PUB ${name} (\\S+) `).exec(scripted.received())?.[1] ?? "";
    const none = `HMSG ${inboxOf("first")} 1 16 16\r\nNATS/1.0 503\r\n\r\n\r\n`;
    // A receiver's own words, with something in them
    const other = `HMSG ${inboxOf("second")} 1 16 17\r\nNATS/1.0 503\r\n\r\nx\r\n`;
    scripted.send(`${none}${none}${other}PONG\r\n`);
    await vi.waitFor(() => expect(bus.stats().waiting).toBe(0));
    expect(heard).toEqual(["first"]);
    expect(bus.stats().undelivered).toBe(1);
  });

  test("takes a server that hangs for away after three heartbeats", async () => {
    const bus = await openNats(server.url);
    process.kill(server.pid, "SIGSTOP");
    bus.publish("hung", 1, () => undefined);
    expect(bus.stats().waiting).toBe(1);
    const timeout = LIMITS.busHeartbeatMs * 3 + SLACK_MS;
    await vi.waitFor(() => expect(bus.state).toBe("reconnecting"), { timeout });
    expect(bus.stats()).toMatchObject({ waiting: 0, inFlightBytes: 0 });
    process.kill(server.pid, "SIGCONT");
    await vi.waitFor(() => expect(bus.state).toBe("connected"), { timeout: 5_000 });
  }, 15_000);

  test("is closed when somebody closes the connection it shares", async () => {
    const bus = await openNats();
    await (await bus.connection).close();
    await vi.waitFor(() => expect(bus.state).toBe("closed"));
    const onUndelivered = vi.fn<() => void>();
    bus.publish("closed", 1, onUndelivered);
    expect(onUndelivered).toHaveBeenCalledTimes(1);
    expect(() => bus.subscribe("closed", () => undefined)()).not.toThrow();
  });

  test("reconnects after its credentials were refused for a while, and says so once", async () => {
    const scripted = await startScriptedServer();
    const lines: string[] = [];
    const log = pino({ level: "error" }, { write: (line: string) => void lines.push(line) });
    const bus = buildNatsBus({ url: scripted.url, name: "test", log });
    opened.push(bus);
    await bus.connection;
    const attempts = () => scripted.received().split("CONNECT ").length - 1;
    scripted.greetWith("-ERR 'Authorization Violation'\r\n");
    scripted.drop();
    await vi.waitFor(() => expect(attempts()).toBeGreaterThan(4), { timeout: 5_000 });
    expect(bus.state).toBe("reconnecting");
    await vi.waitFor(() =>
      expect(bus.ping(PING_MS)).rejects.toThrow("NATS is away: AUTHORIZATION_VIOLATION"),
    );
    expect(lines).toHaveLength(1);
    expect(lines[0]).toContain("NATS error: AUTHORIZATION_VIOLATION");
    scripted.greetWith("PONG\r\n");
    await vi.waitFor(() => expect(bus.state).toBe("connected"), { timeout: 2_000 });
  });

  test("names each subject that it may not use once, and not without end", async () => {
    withLimits({ busDeniedLogMax: 3 });
    const scripted = await startScriptedServer();
    const lines: string[] = [];
    const log = pino({ level: "error" }, { write: (line: string) => void lines.push(line) });
    await openNats(scripted.url, log);
    const deny = (operation: string, subject: string): void =>
      void scripted.send(`-ERR 'Permissions Violation for ${operation} "${subject}"'\r\n`);
    // When several are denied, some of them again, and then something else goes wrong
    for (const subject of ["a", "b", "a", "b"]) deny("Publish to", subject);
    for (const subject of ["a", "c", "d"]) deny("Subscription to", subject);
    scripted.send("-ERR 'User Authentication Expired'\r\n");
    // Then each was named once up to the bound, which is for denied subjects only
    await vi.waitFor(() => expect(lines.join("")).toContain("AUTHENTICATION_EXPIRED"));
    expect(lines.flatMap((line) => JSON.parse(line).permission ?? [])).toEqual([
      { operation: "publish", subject: "a" },
      { operation: "publish", subject: "b" },
      { operation: "subscription", subject: "a" },
    ]);
  });

  test("says user and password of the URL, and keeps trying when they are wrong", async () => {
    const scripted = await startScriptedServer("-ERR 'Authorization Violation'\r\n");
    const lines: string[] = [];
    const log = pino({ level: "warn" }, { write: (line: string) => void lines.push(line) });
    const url = scripted.url.replace("//", "//coffer:p%40ss@");
    const bus = buildNatsBus({ url, name: "test", log });
    opened.push(bus);
    const attempts = () => scripted.received().split('"user":"coffer","pass":"p@ss"').length - 1;
    await vi.waitFor(() => expect(attempts()).toBeGreaterThan(3), { timeout: 5_000 });
    expect(bus.state).toBe("reconnecting");
    expect(lines).toHaveLength(1);
    expect(lines[0]).toContain("NATS is away, trying again: AUTHORIZATION_VIOLATION");
    await expect(bus.ping(PING_MS)).rejects.toThrow("NATS is away: AUTHORIZATION_VIOLATION");
    expect(lines[0]).not.toContain("p@ss");
  });
});

test.each([
  ["nats://127.0.0.1:4223", { servers: ["127.0.0.1:4223"] }],
  ["localhost", { servers: ["localhost:4222"] }],
  ["nats://a, nats://b:1 ,[::1]:2", { servers: ["a:4222", "b:1", "[::1]:2"] }],
  ["nats://user:pa%3Ass@a", { servers: ["a:4222"], user: "user", pass: "pa:ss" }],
  ["tls://secret@a", { servers: ["a:4222"], tls: {}, token: "secret" }],
])("reads the connection options from %s", (url, expected) => {
  expect(connectionOptions(url)).toEqual(expected);
});

test("throws at once when the URL is not one", () => {
  expect(() => buildNatsBus({ url: "nats://a:b:c", name: "test", log: silent })).toThrow();
});
