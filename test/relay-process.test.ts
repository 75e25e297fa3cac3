/**
 * The event stream of whole processes: how soon an event is in it, how a process tells how it
 * stands, and that one which is killed at any moment loses nothing.
 */
import pg from "pg";
import {
  afterAll,
  beforeAll,
  beforeEach,
  describe,
  expect,
  inject,
  it,
  onTestFinished,
} from "vitest";

import { unique } from "./stage/ids.ts";
import { askJson } from "./stage/json.ts";
import { startCoffer } from "./stage/process.ts";
import { follow, problemsOf, removeStream } from "./stage/relay.ts";
import { createDatabase, dropDatabase, startNats, type TestServer } from "./stage/servers.ts";
import { until } from "./stage/stack.ts";

let nats: TestServer;

beforeAll(async () => {
  nats = await startNats({ jetstream: true });
});
afterAll(() => nats?.stop());

beforeEach(() => removeStream(nats.url));

describe("a process", () => {
  async function startOn(env: Record<string, string> = {}) {
    const name = unique("relay").replaceAll("-", "_");
    const databaseUrl = await createDatabase(inject("postgresUrl"), name);
    onTestFinished(() => dropDatabase(inject("postgresUrl"), name));
    const start = async (more: Record<string, string> = {}) => {
      const coffer = await startCoffer({
        DATABASE_URL: databaseUrl,
        NATS_URL: nats.url,
        LOG_LEVEL: "warn",
        ...env,
        ...more,
      });
      onTestFinished(async () => void (await coffer.kill()));
      await coffer.untilReady();
      return coffer;
    };
    return { start, databaseUrl };
  }

  async function post(baseUrl: string, path: string, json: object): Promise<void> {
    const { status, text } = await askJson(`${baseUrl}${path}`, json);
    if (status >= 300) throw new Error(text);
  }

  it("has an event in the stream within 100 ms of its commit, in the median", async () => {
    const { start } = await startOn();
    const coffer = await start();
    const messages = await follow(nats.url);
    const walletId = unique("swift");
    await post(coffer.baseUrl, "/wallets", { walletId });
    const answered: number[] = [];
    for (let number = 0; number < 60; number += 1) {
      await post(coffer.baseUrl, `/wallets/${walletId}/credit`, { amount: 1 });
      answered.push(Date.now());
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await until("all are there", () => messages.length === 61);
    // The answer leaves after the commit, so this is a little less; the event's own time is before
    // it, so that is a little more.
    const byVersion = messages.slice(1).map(({ atMs }, index) => atMs - answered[index]!);
    const sinceDecision = messages
      .slice(1)
      .map(({ atMs, event }) => atMs - Date.parse(event.metadata.occurredAt));
    const median = (values: number[]): number =>
      values.toSorted((a, b) => a - b)[values.length >> 1]!;
    console.log(
      `commit to stream: median ${median(byVersion)} ms after the answer, ${median(sinceDecision)} ms after the decision, ` +
        `worst ${Math.max(...sinceDecision)} ms`,
    );
    expect(median(sinceDecision)).toBeLessThan(100);

    // And says how it stands
    const answer = await fetch(`${coffer.baseUrl}/health/nats/stats`);
    const stats = (await answer.json()) as { relay: unknown };
    expect(stats.relay).toMatchObject([{ sink: "stream", state: "open", delivered: 61 }]);
  });

  it("asks for as many replicas as its setting says, and tells when the servers are fewer", async () => {
    const { start } = await startOn({ EVENTS_REPLICAS: "3" });
    const { baseUrl } = await start();
    const state = async (): Promise<unknown> => {
      const answer = await fetch(`${baseUrl}/health/nats/stats`);
      return ((await answer.json()) as { relay: Array<{ state: string }> }).relay[0]?.state;
    };
    await expect.poll(state).toBe("refused");
  });

  it("that is killed after commits and before any publish loses none of them", async () => {
    // Given a process that has committed and published nothing: the setting stands in for a crash
    // right after the commit
    const { start } = await startOn();
    const silent = await start({ EVENTS: "off" });
    const wallets = ["a", "b", "c"].map(() => unique("silent"));
    for (const walletId of wallets) {
      await post(silent.baseUrl, "/wallets", { walletId, initialBalance: 5 });
    }
    expect((await silent.kill()).signal).toBe("SIGKILL");

    // When the next one starts
    await start();

    // Then they are in the stream
    const messages = await follow(nats.url);
    await until("all are there", () => messages.length === 6);
    expect(
      problemsOf(
        messages.map(({ event }) => event),
        wallets.flatMap((walletId) => [`${walletId}:0`, `${walletId}:1`]),
      ),
    ).toEqual([]);
  });

  it(
    "that is killed under load, twice, tells every event, each wallet's in order",
    { timeout: 90_000 },
    async () => {
      const { start, databaseUrl } = await startOn();
      let coffer = await start();
      const messages = await follow(nats.url);
      const wallets = Array.from({ length: 12 }, () => unique("killed"));
      for (const walletId of wallets) await post(coffer.baseUrl, "/wallets", { walletId });
      for (let round = 0; round < 2; round += 1) {
        const { baseUrl } = coffer;
        const before = messages.length;
        const writing = Promise.allSettled(
          wallets.map(async (walletId) => {
            for (;;) await post(baseUrl, `/wallets/${walletId}/credit`, { amount: 1 });
          }),
        );
        await until("some are told", () => messages.length > before + 150);
        // The race: some events are committed, some published, some acknowledged, some cursors
        // saved
        await coffer.kill();
        await writing;
        coffer = await start();
      }
      await post(coffer.baseUrl, `/wallets/${wallets[0]}/credit`, { amount: 1 });
      const client = new pg.Client({ connectionString: databaseUrl });
      await client.connect();
      onTestFinished(() => client.end());
      const { rows } = await client.query<{ id: string }>(
        "SELECT wallet_id || ':' || version AS id FROM events",
      );
      const committed = rows.map(({ id }) => id);
      await until(
        "all are there",
        () => new Set(messages.map(({ id }) => id)).size === committed.length,
      );
      expect(
        problemsOf(
          messages.map(({ event }) => event),
          committed,
        ),
      ).toEqual([]);
    },
  );
});
