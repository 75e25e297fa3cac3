/**
 * Which webhooks the relay is given, and what a webhook's sink makes of the answers: how many
 * events at once, how long it waits, and when it ends. Time passes only when a test says so.
 */
import { expect, it } from "vitest";

import type { Time } from "../src/clock.ts";
import { LIMITS } from "../src/limits.ts";
import type { RelayEvent, Trouble } from "../src/core/relay-store.ts";
import type { Webhook } from "../src/core/webhooks.ts";
import type { WebhookAnswer, WebhookMessage } from "../src/webhook-sender.ts";
import { EVENT } from "../test/stage/relay-parts.ts";
import type { RelaySink } from "./relay-sink.ts";
import { startWebhookSinks } from "./webhook-sinks.ts";

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
const WALL_MS = 1_800_000_000_000;
const refused: WebhookAnswer = { type: "refused", reason: "answered 500" };

function webhookOf(webhookId: string, over: Partial<Webhook> = {}): Webhook {
  return {
    webhookId,
    url: "https://shop.example/hook",
    secret: "whsec_test",
    eventTypes: null,
    walletIds: null,
    description: null,
    status: "ACTIVE",
    disabledReason: null,
    disabledAtMs: null,
    run: "run-1",
    createdAtMs: 0,
    ...over,
  };
}

function troubleOf(attempts: number, failingMs = 0): Trouble {
  return { attempts, failingSinceMs: WALL_MS - failingMs, retryAtMs: WALL_MS, reason: "before" };
}

/** Webhooks as the test has them, and an endpoint that answers what the test wants. */
async function start(first: Webhook[], random = 0) {
  let nowMs = 0;
  let timers: Array<{ atMs: number; task: () => void }> = [];
  const time: Pick<Time, "nowMs" | "wallMs" | "after"> = {
    nowMs: () => nowMs,
    wallMs: () => WALL_MS,
    after(delayMs, task) {
      const timer = { atMs: nowMs + delayMs, task };
      timers.push(timer);
      return () => void (timers = timers.filter((other) => other !== timer));
    },
  };
  const stage = {
    webhooks: first,
    answer: { type: "taken" } as WebhookAnswer,
    /** Whether the database writes down that a webhook is disabled. */
    disable: (): Promise<boolean> => Promise.resolve(true),
    list: (): Promise<Webhook[]> => Promise.resolve(stage.webhooks),
  };
  const running = new Map<string, RelaySink>();
  const added: string[] = [];
  const sent: WebhookMessage[] = [];
  const disabled: string[] = [];
  const warnings: string[] = [];
  let openings = 0;
  const sinks = startWebhookSinks({
    relay: {
      add(sink) {
        added.push(sink.name);
        running.set(sink.name, sink);
        sink.start(() => (openings += 1));
      },
      remove(name) {
        running.get(name)?.stop();
        running.delete(name);
        return Promise.resolve();
      },
    },
    store: {
      list: () => stage.list(),
      async disable(_webhook, reason) {
        disabled.push(reason);
        return await stage.disable();
      },
    },
    sender: {
      send(message) {
        sent.push(message);
        return Promise.resolve(stage.answer);
      },
      close: () => undefined,
    },
    time: time as Time,
    random: () => random,
    log: { warn: (text) => void warnings.push(text) },
  });
  await turn();
  async function pass(ms: number): Promise<void> {
    nowMs += ms;
    const due = timers.filter(({ atMs }) => atMs <= nowMs);
    timers = timers.filter(({ atMs }) => atMs > nowMs);
    for (const { task } of due) task();
    await turn();
  }
  return {
    stage,
    sinks,
    running,
    added,
    sent,
    disabled,
    warnings,
    pass,
    openings: () => openings,
    timers: () => timers.length,
    only: () => [...running.values()][0]!,
  };
}

it("gives the relay one sink for each run of an active webhook, and takes it away with the run", async () => {
  const [one, other] = [webhookOf("one"), webhookOf("other")];
  const ended = webhookOf("ended", { status: "DISABLED" });
  const { stage, sinks, running, added, pass } = await start([one, other, ended]);
  const names = ["webhook:one:run-1", "webhook:other:run-1"];
  expect([[...running.keys()], sinks.disabled]).toEqual([names, 1]);
  // When one is replayed, and the other is disabled
  stage.webhooks = [{ ...one, run: "run-2" }, { ...other, status: "DISABLED" }, ended];
  await pass(LIMITS.webhookLookMs);
  expect([[...running.keys()], sinks.disabled]).toEqual([["webhook:one:run-2"], 2]);
  // When nothing changes, or nobody knows
  await pass(LIMITS.webhookLookMs);
  stage.list = () => Promise.reject(new Error("away"));
  await pass(LIMITS.webhookLookMs);
  expect([...running.keys()]).toEqual(["webhook:one:run-2"]);
  // And a run that was taken away may come again
  stage.list = () => Promise.resolve([{ ...one, run: "run-2" }, other]);
  await pass(LIMITS.webhookLookMs);
  expect(added).toEqual([...names, "webhook:one:run-2", "webhook:other:run-1"]);
});

it.each([
  ["that finds one", () => Promise.resolve([webhookOf("late")])],
  ["that fails", () => Promise.reject(new Error("away"))],
])(
  "gives the relay nothing more when it has ended, also of a look under way %s",
  async (_, end) => {
    const { stage, sinks, added, pass, timers } = await start([]);
    let tell: (found: Promise<Webhook[]>) => void = () => undefined;
    stage.list = () => new Promise((resolve) => (tell = resolve));
    await pass(LIMITS.webhookLookMs);
    sinks.stop();
    tell(end());
    await turn();
    expect([added, timers()]).toEqual([[], 0]);
  },
);

it("looks no more when it has ended", async () => {
  const { sinks, timers } = await start([]);
  expect(timers()).toBe(1);
  sinks.stop();
  expect(timers()).toBe(0);
});

it("gets one shard's events at a time while an endpoint takes nothing, and never two of one shard", async () => {
  const { stage, only } = await start([webhookOf("one")]);
  const sink = only();
  const bounds = () => [sink.shardsAtOnceMax, sink.shardRowsMax, sink.windowMax];
  const many = [LIMITS.webhookShardsAtOnceMax, LIMITS.webhookShardRowsMax, 1];
  expect(bounds()).toEqual(many);
  stage.answer = refused;
  await sink.deliver(EVENT, null);
  expect([bounds(), sink.state]).toEqual([[1, LIMITS.webhookShardRowsMax, 1], "failing"]);
  stage.answer = { type: "taken" };
  await sink.deliver(EVENT, null);
  expect([bounds(), sink.state]).toEqual([many, "open"]);
});

it("waits twice as long after each attempt, up to the bound, and a quarter more by chance", async () => {
  const { stage, only, sent } = await start([webhookOf("one")], 0.5);
  stage.answer = refused;
  const pauses: number[] = [];
  for (const attempts of [0, 1, 2, 9, 10, 5_000]) {
    const delivery = await only().deliver(EVENT, attempts === 0 ? null : troubleOf(attempts));
    expect(delivery).toMatchObject({ type: "failed", reason: "answered 500" });
    if (delivery.type === "failed") pauses.push(delivery.retryInMs);
  }
  const seconds = [1, 2, 4, 512, 600, 600];
  expect(pauses).toEqual(seconds.map((pause) => pause * 1_000 * 1.125));
  expect(sent.map(({ attempt }) => attempt)).toEqual([1, 2, 3, 10, 11, 5_001]);
});

it("ends when an event was refused for as long as the bound, not before, and takes nothing more", async () => {
  const { stage, only, disabled, sent, warnings } = await start([webhookOf("one")]);
  stage.answer = refused;
  const sink = only();
  const early = await sink.deliver(EVENT, troubleOf(400, LIMITS.webhookGiveUpMs - 1));
  expect([early.type, disabled, sink.isOpen]).toEqual(["failed", [], true]);
  // Race: two events are under way when the end comes
  const ends = [1, 2].map(() => sink.deliver(EVENT, troubleOf(401, LIMITS.webhookGiveUpMs)));
  expect(await Promise.all(ends)).toEqual([{ type: "closed" }, { type: "closed" }]);
  expect(disabled).toEqual(["it did not take w1:1 in 402 attempts over 72 hours: answered 500"]);
  expect([sink.isOpen, sink.state, warnings.length]).toEqual([false, "disabled", 1]);
  const before = sent.length;
  expect(await sink.deliver(EVENT, null)).toEqual({ type: "closed" });
  expect(sent).toHaveLength(before);
});

it("says nothing of an end that is not its own: the run has ended already", async () => {
  const { stage, only, warnings } = await start([webhookOf("one")]);
  stage.answer = { type: "gone" };
  stage.disable = () => Promise.resolve(false);
  expect(await only().deliver(EVENT, null)).toEqual({ type: "closed" });
  expect(warnings).toEqual([]);
});

it("is open again after a pause when its end cannot be written down, unless it was stopped", async () => {
  const { stage, only, pass, openings } = await start([webhookOf("one")]);
  const sink = only();
  stage.answer = { type: "gone" };
  stage.disable = () => Promise.reject(new Error("away"));
  await sink.deliver(EVENT, null);
  expect(sink.isOpen).toBe(false);
  await pass(LIMITS.webhookRetryMs);
  expect([sink.isOpen, openings()]).toEqual([true, 1]);
  await sink.deliver(EVENT, null);
  sink.stop();
  await pass(LIMITS.webhookRetryMs);
  expect([sink.isOpen, openings()]).toEqual([false, 1]);
});

it("tells which shards it has lost its place in, and ends", async () => {
  const { only, disabled, pass } = await start([webhookOf("one")]);
  const sink = only();
  expect(sink.beginsAtFirst).toBe(false);
  sink.lost!([3, 4]);
  await pass(0);
  expect(disabled).toEqual([
    "how far it is in 2 of its shards is lost (3, 4): replay it from a time",
  ]);
  expect(sink.isOpen).toBe(false);
});

it("sends only events of the types and wallets that are wanted", async () => {
  const webhook = webhookOf("one", { eventTypes: ["WalletCredited"], walletIds: ["w1", "w2"] });
  const { only, sent } = await start([webhook]);
  const others: Partial<RelayEvent>[] = [{ type: "WalletDebited" }, { walletId: "w3" }];
  for (const other of others) {
    expect(await only().deliver({ ...EVENT, ...other }, null)).toEqual({ type: "passed" });
  }
  expect(sent).toEqual([]);
  expect(await only().deliver({ ...EVENT, walletId: "w2" }, null)).toEqual({ type: "delivered" });
  expect(sent).toHaveLength(1);
});

it("sends nothing when it was stopped", async () => {
  const { only, sent } = await start([webhookOf("one")]);
  const sink = only();
  sink.stop();
  expect(await sink.deliver(EVENT, null)).toEqual({ type: "closed" });
  expect(sent).toEqual([]);
});
