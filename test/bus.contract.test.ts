/**
 * What every bus owes its users, asked of all adapters, the simulator's too, and what only NATS can
 * get wrong: servers that die, hang, come late or carry junk. The NATS half runs against real
 * servers on free ports and stops, kills and restarts them.
 */
import { setTimeout as delay } from "node:timers/promises";
import { describe, expect, test, vi } from "vitest";
import type { Bus } from "../src/core/bus.ts";
import { LIMITS } from "../src/limits.ts";
import { buildMemoryBus } from "../src/bus/memory-bus.ts";
import {
  collect,
  openMemory,
  openNats,
  openSimulated,
  PING_MS,
  settled,
  useBusStage,
} from "./stage/bus.ts";

useBusStage();

const adapters = [
  { adapter: "in-process", once: true, open: async (): Promise<Bus> => openMemory() },
  { adapter: "NATS", once: false, open: async (): Promise<Bus> => openNats() },
  { adapter: "simulated", once: false, open: async (): Promise<Bus> => openSimulated() },
];

describe.each(adapters)("a bus ($adapter)", ({ open, once }) => {
  test(`says that a message comes once: ${once}`, async () => {
    expect((await open()).deliversOnce).toBe(once);
  });

  test("hands a message to every subscriber of its subject and to nobody else", async () => {
    const bus = await open();
    const first = collect(bus, "wallets.1");
    const second = collect(bus, "wallets.1");
    const other = collect(bus, "wallets.2");
    bus.publish("wallets.1", { amount: 1 });
    await settled(bus);
    expect(first).toEqual([{ amount: 1 }]);
    expect(second).toEqual([{ amount: 1 }]);
    expect(other).toEqual([]);
  });

  test("keeps the order of publication per subject", async () => {
    const bus = await open();
    const subjects = ["order.a", "order.b", "order.c"];
    const received = subjects.map((subject) => collect<number>(bus, subject));
    const numbers = Array.from({ length: 2_000 }, (_, index) => index);
    for (const number of numbers) for (const subject of subjects) bus.publish(subject, number);
    await settled(bus);
    for (const messages of received) expect(messages).toEqual(numbers);
  });

  test.each([
    ["null", null],
    ["true", true],
    ["a number", -12.5],
    ["the largest safe integer", Number.MAX_SAFE_INTEGER],
    ["an empty string", ""],
    ["text with every kind of character", 'Zürich 東京 🪙 \u0000 \r\n "PUB x 1"'],
    ["an empty array", []],
    ["an empty object", {}],
    ["something nested", { a: [{ b: { c: [1, "2", null, false, [[]]] } }] }],
    ["many kilobytes", { text: "é".repeat(200_000) }],
  ])("carries %s unchanged", async (_, message) => {
    const bus = await open();
    const received = collect(bus, "shape");
    bus.publish("shape", message);
    await settled(bus);
    expect(received).toEqual([message]);
  });

  test.each([
    ["a.*", ["a.b", "a.c"]],
    ["*.b", ["a.b", "x.b"]],
    ["a.*.c", ["a.b.c"]],
    ["a.>", ["a.b", "a.c", "a.b.c"]],
    [">", ["a", "a.b", "a.c", "a.b.c", "x.b"]],
    ["a", ["a"]],
    ["*", ["a"]],
    ["a.b.c.*", []],
  ])("gives a subscriber of %s the messages of %j", async (pattern, expected) => {
    const bus = await open();
    const subjects: string[] = [];
    bus.subscribe(`w.${pattern}`, (_, subject) => subjects.push(subject));
    for (const subject of ["a", "a.b", "a.c", "a.b.c", "x.b"]) bus.publish(`w.${subject}`, 0);
    await settled(bus);
    expect(subjects).toEqual(expected.map((subject) => `w.${subject}`));
  });

  test("calls no handler before publish returns, not even from a handler", async () => {
    const bus = await open();
    const steps: string[] = [];
    bus.subscribe<number>("step", (number) => {
      steps.push(`${number} in`);
      if (number < 3) bus.publish("step", number + 1);
      steps.push(`${number} out`);
    });
    bus.publish("step", 1);
    steps.push("published");
    await vi.waitFor(() => expect(steps).toHaveLength(7));
    expect(steps).toEqual(["published", "1 in", "1 out", "2 in", "2 out", "3 in", "3 out"]);
  });

  test("hands over nothing after unsubscribe, not even what is under way", async () => {
    const bus = await open();
    const received: unknown[] = [];
    const unsubscribe = bus.subscribe("gone", (message) => received.push(message));
    const stayed = collect(bus, "gone");
    bus.publish("gone", 1);
    unsubscribe();
    unsubscribe();
    bus.publish("gone", 2);
    await settled(bus);
    expect(received).toEqual([]);
    expect(stayed).toEqual([1, 2]);
  });

  test.each(["exact", "*"])(
    "lets a handler end %s subscriptions and begin others",
    async (last) => {
      const bus = await open();
      const late: unknown[] = [];
      const received: unknown[] = [];
      // Whichever comes first ends both: the order among subscribers of one message is not fixed.
      const endBoth = (message: unknown): void => {
        received.push(message);
        for (const unsubscribe of unsubscribes) unsubscribe();
        bus.subscribe(`change.${last}`, (each) => late.push(each));
      };
      const unsubscribes = [
        bus.subscribe(`change.${last}`, endBoth),
        bus.subscribe(`change.${last}`, endBoth),
      ];
      bus.publish("change.exact", 1);
      await settled(bus);
      expect(received).toEqual([1]);
      bus.publish("change.exact", 2);
      await settled(bus);
      expect(received).toEqual([1]);
      expect(late).toEqual([2]);
    },
  );

  test("tells the sender once that nobody is subscribed", async () => {
    const bus = await open();
    const onUndelivered = vi.fn<() => void>();
    bus.publish("nobody", 1, onUndelivered);
    await settled(bus);
    expect(onUndelivered).toHaveBeenCalledTimes(1);
    bus.publish("nobody", 2);
    await settled(bus);
    expect(onUndelivered).toHaveBeenCalledTimes(1);
  });

  test("tells each sender which of its messages nobody took", async () => {
    const bus = await open();
    const taken = collect(bus, "mixed.odd");
    const undelivered: number[] = [];
    for (let number = 0; number < 500; number++) {
      const subject = number % 2 === 1 ? "mixed.odd" : "mixed.even";
      bus.publish(subject, number, () => undelivered.push(number));
    }
    await settled(bus);
    expect(taken).toHaveLength(250);
    expect(undelivered).toEqual(Array.from({ length: 250 }, (_, index) => index * 2));
  });

  test("reports nothing while a wildcard subscriber takes the message", async () => {
    const bus = await open();
    const onUndelivered = vi.fn<() => void>();
    const received = collect(bus, "caught.>");
    bus.publish("caught.by.wildcard", 1, onUndelivered);
    await settled(bus);
    expect(received).toEqual([1]);
    expect(onUndelivered).not.toHaveBeenCalled();
  });

  test("reports a message after the last subscriber of its subject left", async () => {
    const bus = await open();
    const onUndelivered = vi.fn<() => void>();
    const unsubscribe = bus.subscribe("left", () => undefined);
    await settled(bus);
    unsubscribe();
    bus.publish("left", 1, onUndelivered);
    await settled(bus);
    expect(onUndelivered).toHaveBeenCalledTimes(1);
  });

  test("goes on after a handler or a callback threw", async () => {
    const bus = await open();
    bus.subscribe("bad", () => {
      throw new Error("a handler's mistake");
    });
    const received = collect(bus, "bad");
    bus.publish("bad", 1);
    bus.publish("nobody", 1, () => {
      throw new Error("a callback's mistake");
    });
    bus.publish("bad", 2);
    await settled(bus);
    expect(received).toEqual([1, 2]);
    expect(bus.state).toBe("connected");
  });

  test("delivers in drain what was published before, then is closed", async () => {
    const bus = await open();
    const received = collect(bus, "last");
    const onUndelivered = vi.fn<() => void>();
    for (let number = 0; number < 1_000; number++) bus.publish("last", number);
    bus.publish("nobody", 1, onUndelivered);
    const startedAtMs = performance.now();
    const drained = bus.drain();
    expect(bus.state).toBe("closed");
    await drained;
    expect(performance.now() - startedAtMs).toBeLessThan(LIMITS.busDrainMs);
    expect(received).toHaveLength(1_000);
    expect(onUndelivered).toHaveBeenCalledTimes(1);
    expect(bus.state).toBe("closed");
    await expect(bus.ping(PING_MS)).rejects.toThrow();
  });

  test("refuses at once what is published after drain was called, also from handlers", async () => {
    const bus = await open();
    const refused: string[] = [];
    bus.subscribe<number>("late", (number) => {
      if (number === 1) bus.publish("late", 2, () => refused.push("handler"));
      else refused.push("delivered");
    });
    bus.publish("late", 1);
    const drained = bus.drain();
    bus.publish("late", 2, () => refused.push("outside"));
    expect(refused).toEqual(["outside"]);
    await drained;
    expect(refused).toEqual(["outside", "handler"]);
    bus.publish("late", 2, () => refused.push("after"));
    expect(refused).toEqual(["outside", "handler", "after"]);
    bus.publish("late", 2);
    expect(() => bus.subscribe("late", () => undefined)()).not.toThrow();
    await expect(bus.drain()).resolves.toBeUndefined();
  });
});

describe("the in-process bus", () => {
  test("hands over the sender's own object, whatever its size", async () => {
    const bus = openMemory();
    const received = collect(bus, "reference");
    const message = { text: "x".repeat(LIMITS.busMessageBytesMax * 2) };
    bus.publish("reference", message);
    await settled(bus);
    expect(received[0]).toBe(message);
  });

  test("refuses at once what exceeds its queue, and takes more after the turn", async () => {
    const bus = openMemory();
    const received = collect(bus, "full");
    const onUndelivered = vi.fn<() => void>();
    for (let number = 0; number < LIMITS.busQueueMessagesMax; number++) {
      bus.publish("full", number, onUndelivered);
    }
    expect(onUndelivered).not.toHaveBeenCalled();
    bus.publish("full", -1, onUndelivered);
    expect(onUndelivered).toHaveBeenCalledTimes(1);
    await settled(bus);
    bus.publish("full", "again", onUndelivered);
    await settled(bus);
    expect(received).toHaveLength(LIMITS.busQueueMessagesMax + 1);
    expect(received.at(-1)).toBe("again");
    expect(onUndelivered).toHaveBeenCalledTimes(1);
  });

  test("lets timers run between messages that beget messages", async () => {
    const bus = openMemory();
    let isStopped = false;
    bus.subscribe("chatter", () => {
      if (!isStopped) bus.publish("chatter", 0);
    });
    bus.publish("chatter", 0);
    await delay(5);
    isStopped = true;
    expect(bus.state).toBe("connected");
  });

  test("delivers in drain also what a handler published before it", async () => {
    const bus = openMemory();
    const received = collect(bus, "second");
    const receivedInDrain = new Promise((resolve) => {
      bus.subscribe("first", () => {
        bus.publish("second", 2);
        void bus.drain().then(() => resolve([...received]));
      });
    });
    bus.publish("first", 1);
    expect(await receivedInDrain).toEqual([2]);
  });

  test("delivers at the end of the callback that published, each time", async () => {
    const bus = openMemory();
    const received = collect(bus, "soon");
    for (const number of [1, 2, 3]) {
      bus.publish("soon", number);
      // A microtask, hence before any timer or socket
      await Promise.resolve();
      expect(received.at(-1)).toBe(number);
    }
  });

  test("tells onError what a handler threw and on which subject", async () => {
    const onError = vi.fn<(error: unknown, subject: string) => void>();
    const bus = buildMemoryBus({ onError });
    const mistake = new Error("a handler's mistake");
    bus.subscribe("bad", () => {
      throw mistake;
    });
    bus.publish("bad", 1);
    await bus.drain();
    expect(onError.mock.calls).toEqual([[mistake, "bad"]]);
  });
});
