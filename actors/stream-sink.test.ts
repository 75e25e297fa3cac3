/** What the stream's sink says of itself, in virtual time, over a JetStream that the tests play. */
import { DiscardPolicy, ErrorCode, NatsError } from "nats";
import { describe, expect, it } from "vitest";

import { eventBody } from "../src/event-body.ts";
import { EVENT_STREAM, EVENT_SUBJECTS } from "../src/core/event-stream.ts";
import { LIMITS } from "../src/limits.ts";
import { EVENT } from "../test/stage/relay-parts.ts";
import { buildStreamSink, type StreamSinkOptions } from "./stream-sink.ts";

const TRUST_MS = LIMITS.relayAckMs + LIMITS.relaySweepMs;
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** As JetStream's API says no. */
function refusal(description: string, code: number, errCode: number): NatsError {
  const error = new NatsError(description, String(code));
  error.api_error = { code, err_code: errCode, description };
  return error;
}

interface Ack {
  readonly stream: string;
  readonly seq: number;
  readonly duplicate: boolean;
}

interface StartOptions {
  /** What the stream is like, where it is not as the sink would have made it. */
  readonly config?: object;
  /** Answers instead of JetStream when it is asked of the stream. */
  readonly info?: () => Promise<unknown>;
  readonly keeping?: StreamSinkOptions["keeping"];
}

async function start(cluster?: { leader?: string }, options: StartOptions = {}) {
  let nowMs = 0;
  let timers: Array<{ atMs: number; task: () => void }> = [];
  let reconnect = (): void => undefined;
  let openings = 0;
  let asked = 0;
  const published: Array<{ take(ack?: Partial<Ack>): void; fail(): void }> = [];
  const made: unknown[] = [];
  const lines: string[] = [];
  /** What JetStream tells of a message. */
  const stored: { body: object | Error } = { body: {} };
  const config = {
    subjects: [EVENT_SUBJECTS],
    discard: DiscardPolicy.Old,
    max_msg_size: -1,
    ...options.config,
  };
  const publish = (): Promise<Ack> =>
    new Promise((resolve, reject) => {
      published.push({
        take: (ack = {}) => resolve({ stream: EVENT_STREAM, seq: 1, duplicate: false, ...ack }),
        fail: () => reject(new Error("no answer")),
      });
    });
  const info = { config, ...(cluster !== undefined && { cluster }) };
  const streams = {
    info() {
      asked += 1;
      return options.info?.() ?? Promise.resolve(info);
    },
    add(wanted: unknown) {
      made.push(wanted);
      return Promise.resolve(info);
    },
    getMessage: () =>
      stored.body instanceof Error
        ? Promise.reject(stored.body)
        : Promise.resolve({ json: () => stored.body }),
  };
  const connection = {
    jetstreamManager: () => Promise.resolve({ streams }),
    jetstream: () => ({ publish }),
  };
  const bus = {
    state: "connected",
    connection: Promise.resolve(connection),
    onReconnect(listener: () => void) {
      reconnect = listener;
      return () => undefined;
    },
  };
  const sink = buildStreamSink({
    bus: bus as unknown as StreamSinkOptions["bus"],
    keeping: options.keeping ?? { maxAgeDays: 0, maxBytes: 0, replicas: 1 },
    time: {
      after(delayMs, task) {
        const timer = { atMs: nowMs + delayMs, task };
        timers.push(timer);
        return () => void (timers = timers.filter((other) => other !== timer));
      },
    },
    log: { info: (text) => void lines.push(text), warn: (text) => void lines.push(text) },
  });
  sink.start(() => (openings += 1));
  await turn();
  /** Lets time pass, and what is due happen. */
  async function pass(ms: number): Promise<void> {
    nowMs += ms;
    const due = timers.filter(({ atMs }) => atMs <= nowMs);
    timers = timers.filter(({ atMs }) => atMs > nowMs);
    for (const { task } of due) task();
    await turn();
  }
  /** An event that nobody acknowledges. */
  async function fail(): Promise<void> {
    const delivery = sink.deliver(EVENT, null);
    published.at(-1)!.fail();
    expect(await delivery).toEqual({ type: "closed" });
  }
  return {
    sink,
    bus,
    published,
    made,
    lines,
    stored,
    asked: () => asked,
    pass,
    fail,
    async reconnect() {
      reconnect();
      await turn();
    },
    openings: () => openings,
  };
}

it("says what the trouble was until nothing has failed for as long as an answer may take", async () => {
  const { sink, lines, pass, fail } = await start();
  expect(sink).toMatchObject({ state: "open", isOpen: true });
  await fail();
  expect(sink).toMatchObject({ state: "away", isOpen: false });
  await pass(LIMITS.relayRetryMs);
  expect(sink).toMatchObject({ state: "away", isOpen: true });
  await pass(TRUST_MS - 1);
  expect(sink.state).toBe("away");
  await pass(1);
  expect(sink.state).toBe("open");
  expect(lines).toHaveLength(2);
});

it.each(["another failure", "a reconnect"])(
  "begins to wait for that anew after %s",
  async (what) => {
    const { sink, pass, fail, reconnect } = await start();
    await fail();
    await pass(LIMITS.relayRetryMs);
    await pass(TRUST_MS - 1);
    await (what === "a reconnect" ? reconnect() : fail());
    await pass(1);
    expect(sink.state).toBe("away");
    await pass(LIMITS.relayRetryMs * 2);
    expect(sink).toMatchObject({ state: "away", isOpen: true });
    await pass(TRUST_MS);
    expect(sink.state).toBe("open");
  },
);

it("is open at once when an event is acknowledged, and not by a repeat that has no place", async () => {
  const { sink, published, pass, fail } = await start();
  await fail();
  await pass(LIMITS.relayRetryMs);
  const repeat = sink.deliver(EVENT, null);
  published.at(-1)!.take({ seq: 0 });
  expect(await repeat).toEqual({ type: "closed" });
  expect(sink).toMatchObject({ state: "away", isOpen: false });
  await pass(LIMITS.relayRetryMs * 2);
  const delivery = sink.deliver(EVENT, null);
  published.at(-1)!.take();
  expect(await delivery).toEqual({ type: "delivered" });
  expect(sink.state).toBe("open");
});

it("opens anew after a reconnect, which a failure from before does not end", async () => {
  const { sink, published, reconnect, openings } = await start();
  const before = sink.deliver(EVENT, null);
  await reconnect();
  expect(openings()).toBe(2);
  published[0]!.fail();
  expect(await before).toEqual({ type: "closed" });
  expect(sink).toMatchObject({ state: "open", isOpen: true });
});

it("publishes nothing without a leader, and one event at a time in a cluster", async () => {
  const alone = await start();
  expect(alone.sink.windowMax).toBe(LIMITS.relayWindowMax);
  const led = await start({ leader: "n1" });
  expect(led.sink).toMatchObject({ state: "open", windowMax: 1 });
  const { sink, published, pass, lines } = await start({});
  expect(sink).toMatchObject({ state: "no leader", isOpen: false });
  await pass(LIMITS.relayRetryMs);
  expect(await sink.deliver(EVENT, null)).toEqual({ type: "closed" });
  expect([sink.state, published.length, lines.length]).toEqual(["no leader", 0, 1]);
});

describe("a message that JetStream drops as a repeat", () => {
  async function repeat(body: object | Error) {
    const setting = await start();
    setting.stored.body = body;
    const delivery = setting.sink.deliver(EVENT, null);
    setting.published.at(-1)!.take({ duplicate: true });
    return { ...setting, delivery: await delivery };
  }
  const own = eventBody(EVENT, EVENT.decimalPlaces);

  it.each([
    ["the same event", own],
    ["nothing there any more", refusal("no message found", 404, 10_037)],
    ["no permission to read it", new NatsError("denied", ErrorCode.PermissionsViolation)],
  ])("is delivered if there is %s", async (_what, body) => {
    const { sink, delivery } = await repeat(body);
    expect(delivery).toEqual({ type: "delivered" });
    expect(sink.state).toBe("open");
  });

  it.each([
    ["does not answer", new NatsError("timeout", ErrorCode.Timeout), "away"],
    ["cannot say", refusal("temporarily unavailable", 503, 10_008), "refused"],
    ["has no stream any more", refusal("stream not found", 404, 10_059), "refused"],
  ])("comes again while JetStream %s", async (_what, error, state) => {
    const { sink, delivery, stored, published, pass } = await repeat(error);
    expect(delivery).toEqual({ type: "closed" });
    expect(sink).toMatchObject({ state, isOpen: false });

    await pass(LIMITS.relayRetryMs);
    stored.body = own;
    const again = sink.deliver(EVENT, null);
    published.at(-1)!.take({ duplicate: true });
    expect(await again).toEqual({ type: "delivered" });
    expect(sink.state).toBe("open");
  });

  it.each([
    ["type", { ...own, type: "WalletDebited" }],
    ["amount", { ...own, amount: 7 }],
    ["balance", { ...own, balance: 7 }],
    ["held", { ...own, held: 7 }],
    ["counterparty", { ...own, counterpartyId: "w2" }],
    ["transfer", { ...own, transferId: "t2" }],
    ["command", { ...own, metadata: { ...own.metadata, causationId: "k2" } }],
    ["hold of the same command", { ...own, data: { hold: { id: "h2" } } }],
    ["body", {}],
  ])("waits, and says why, if there is one with another %s", async (_field, body) => {
    const { sink, delivery, lines, published, pass } = await repeat(body);
    expect(delivery).toEqual({ type: "closed" });
    expect(sink).toMatchObject({ state: "refused", isOpen: false });
    expect(lines).toEqual([expect.stringMatching(/w1:1 .*the database has lost commits/)]);

    // Until JetStream has forgotten the id.
    await pass(LIMITS.relayRetryMs);
    const again = sink.deliver(EVENT, null);
    published.at(-1)!.take();
    expect(await again).toEqual({ type: "delivered" });
    expect(sink.state).toBe("open");
  });
});

it("says nothing more when it was stopped", async () => {
  const { sink, pass, fail } = await start();
  await fail();
  await pass(LIMITS.relayRetryMs);
  sink.stop();
  await pass(TRUST_MS);
  expect(sink).toMatchObject({ state: "stopped", isOpen: false });
});

it.each([
  ["refuses what is too many for it", { discard: DiscardPolicy.New }],
  ["refuses what is too large for it", { max_msg_size: 1_000 }],
])("publishes one event at a time where the stream %s", async (_, config) => {
  const { sink } = await start(undefined, { config });
  expect(sink).toMatchObject({ isOpen: true, windowMax: 1 });
});

it.each([
  [["wallets.>"], true],
  [["other", ">"], true],
  [["wallets.events.*"], false],
])("a stream of %j is one for events: %s", async (subjects, takes) => {
  const { sink } = await start(undefined, { config: { subjects } });
  expect(sink).toMatchObject({ isOpen: takes, state: takes ? "open" : "refused" });
});

it("makes a stream that keeps everything, within the bounds that it was given", async () => {
  const missing = (): Promise<never> => Promise.reject(refusal("stream not found", 404, 10_059));
  const keeping = { maxAgeDays: 2, maxBytes: 5_000, replicas: 3 };
  const { made, sink } = await start(undefined, { info: missing, keeping });
  expect(sink.isOpen).toBe(true);
  expect(made).toMatchObject([
    {
      name: EVENT_STREAM,
      subjects: [EVENT_SUBJECTS],
      storage: "file",
      retention: "limits",
      discard: "old",
      max_age: 172_800_000 * 1e6,
      max_bytes: 5_000,
      num_replicas: 3,
      duplicate_window: LIMITS.streamDuplicateWindowMs * 1e6,
    },
  ]);
});

it("asks again in growing pauses, and makes no stream while nobody says that there is none", async () => {
  const info = (): Promise<never> => Promise.reject(new Error("timeout"));
  const { sink, made, asked, pass, reconnect } = await start(undefined, { info });
  expect([asked(), sink.isOpen]).toEqual([1, false]);
  for (const pauseMs of [100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]) {
    const before = asked();
    await pass(pauseMs - 1);
    expect(asked()).toBe(before);
    await pass(1);
    expect(asked()).toBe(before + 1);
  }
  // And at once when NATS is there again, from the first pause on
  const before = asked();
  await reconnect();
  await pass(LIMITS.relayRetryMs);
  expect(asked()).toBe(before + 2);
  expect(made).toEqual([]);
  // But not when it was stopped
  sink.stop();
  await pass(LIMITS.relayRetryMsMax);
  expect(asked()).toBe(before + 2);
});

it("does not believe another stream that says it has an event", async () => {
  const { sink, published } = await start();
  const delivery = sink.deliver(EVENT, null);
  published[0]!.take({ stream: "SOMETHING_ELSE" });
  expect(await delivery).toEqual({ type: "closed" });
  expect(sink.isOpen).toBe(false);
});

it("publishes nothing while NATS is away, and is closed by that", async () => {
  const { sink, bus, published, asked, pass } = await start();
  bus.state = "reconnecting";
  expect(await sink.deliver(EVENT, null)).toEqual({ type: "closed" });
  expect([published.length, sink.isOpen, sink.state]).toEqual([0, false, "away"]);
  await pass(LIMITS.relayRetryMs);
  expect([asked(), sink.isOpen]).toEqual([1, false]);
});
