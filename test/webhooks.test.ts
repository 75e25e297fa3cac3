/**
 * Webhooks on real servers, with an endpoint of the test's own that answers what the test wants:
 * the signature, order, what a failing endpoint gets and when, restarts in the middle of a failure,
 * the end of a webhook, and that nothing is lost by it.
 */
import { createHmac, timingSafeEqual } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

import pg from "pg";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";

import { startWebhookSinks, type WebhookPauses } from "../actors/webhook-sinks.ts";
import { systemTime } from "../src/clock.ts";
import type { EventBody } from "../src/event-body.ts";
import { buildPostgresWebhooks } from "../src/postgres/webhooks.ts";
import { shardOf } from "../src/core/shard.ts";
import { buildWebhookSender } from "../src/webhook-sender.ts";
import { keepWarnings, relayOf, write } from "./stage/relay.ts";
import { unique } from "./stage/ids.ts";
import { startStack, until, type Stack } from "./stage/stack.ts";
import { withLimits } from "./stage/lanes.ts";
import {
  openEndpoint,
  versionsOf,
  webhooksOf,
  type Answer,
  type Call,
  type WebhookAnswer,
} from "./stage/webhooks.ts";

let stack: Stack;

beforeAll(async () => {
  stack = await startStack();
});
afterAll(() => stack?.close());

const { makeWebhook, look } = webhooksOf(() => stack);

/** A host's relay with webhooks; ends with the test, or as a crash would. */
function startRelay(pauses: Partial<WebhookPauses> = {}, answerMs = 2_000) {
  const { log, warnings } = keepWarnings();
  const relay = relayOf(stack);
  const store = buildPostgresWebhooks([stack.databaseUrl]);
  const sender = buildWebhookSender({ allowsPrivate: true, answerMs });
  const sinks = startWebhookSinks({
    relay,
    store,
    sender,
    time: systemTime,
    random: () => 0,
    log,
    pauses: { lookMs: 30, retryMs: 50, retryMsMax: 200, ...pauses },
  });
  let stopped: Promise<void> | undefined;
  const stop = (): Promise<void> => {
    stopped ??= (async () => {
      sinks.stop();
      await relay.stop();
      sender.close();
      await store.close();
    })();
    return stopped;
  };
  onTestFinished(stop);
  return { relay, warnings, stop };
}

/** Two wallets of one shard, and one of another. */
async function openNeighbours() {
  const first = unique("n");
  let second = unique("n");
  while (shardOf(second) !== shardOf(first)) second = unique("n");
  let other = unique("n");
  while (shardOf(other) === shardOf(first)) other = unique("n");
  for (const walletId of [first, second, other]) await stack.open({ walletId });
  return { first, second, other };
}

/** As docs/events.md tells receivers to do it. */
function isSigned(
  { headers, text }: Call,
  secret: string,
  nowSeconds = Date.now() / 1_000,
): boolean {
  const [, time = "", mac = ""] =
    /^t=(\d+),v1=([0-9a-f]{64})$/.exec(String(headers["coffer-signature"])) ?? [];
  const right = createHmac("sha256", secret).update(`${time}.${text}`).digest();
  const isRight = mac !== "" && timingSafeEqual(Buffer.from(mac, "hex"), right);
  return isRight && Math.abs(nowSeconds - Number(time)) < 300;
}

describe("a delivery", () => {
  it("is the event as GET gives it, signed with the webhook's secret, in order per wallet", async () => {
    const endpoint = await openEndpoint();
    const { body: webhook, headers } = await makeWebhook({ url: endpoint.url });
    expect(webhook.secret).toMatch(/^whsec_[\w-]{43}$/);
    expect(headers.location).toBe(`/webhooks/${webhook.id}`);
    startRelay();
    const wallets = await Promise.all(Array.from({ length: 6 }, () => stack.open()));
    const ids = wallets.map(({ id }) => id);
    await write(stack, ids, 10);
    await until("all are told", () => endpoint.calls.length === 66);

    for (const walletId of ids) {
      const { body } = await stack.get<EventBody[]>(`/wallets/${walletId}/events`);
      const told = endpoint.calls.filter(({ event }) => event.walletId === walletId);
      expect(told.map(({ event }) => event)).toEqual(body);
    }
    for (const call of endpoint.calls) {
      const { id, type, metadata } = call.event;
      expect(call.headers).toMatchObject({
        "content-type": "application/json",
        "coffer-webhook-id": webhook.id,
        "coffer-event-id": id,
        "coffer-event-type": type,
        "coffer-attempt": "1",
        "x-correlation-id": metadata.correlationId,
      });
      expect(isSigned(call, webhook.secret)).toBe(true);
    }
    const [call] = endpoint.calls;
    expect(isSigned(call!, `${webhook.secret}x`)).toBe(false);
    expect(isSigned({ ...call!, text: `${call!.text} ` }, webhook.secret)).toBe(false);
    expect(isSigned(call!, webhook.secret, Date.now() / 1_000 + 3_600)).toBe(false);
  });

  it("is made only of the types and wallets that the webhook asks for", async () => {
    const endpoint = await openEndpoint();
    const [wanted, unwanted] = [unique("f"), unique("f")];
    await makeWebhook({
      url: endpoint.url,
      events: ["WalletDebited", "WalletCreated"],
      wallets: [wanted],
      secret: "a-secret-of-my-own",
    });
    startRelay();
    for (const walletId of [wanted, unwanted]) {
      await stack.open({ walletId, initialBalance: 10 });
      await stack.post(`/wallets/${walletId}/debit`, { amount: 1 });
    }
    await until("both are told", () => endpoint.calls.length === 2);
    await sleep(200);
    expect(endpoint.calls.map(({ event }) => event.id)).toEqual([`${wanted}:0`, `${wanted}:2`]);
    expect(isSigned(endpoint.calls[0]!, "a-secret-of-my-own")).toBe(true);
  });
});

describe("an endpoint that fails", () => {
  it("gets the event again in growing pauses; its shard waits, the others do not", async () => {
    const endpoint = await openEndpoint();
    const { body: webhook } = await makeWebhook({ url: endpoint.url });
    const { first, second, other } = await openNeighbours();
    startRelay({ retryMs: 100, retryMsMax: 400 });
    await until("they are told", () => endpoint.calls.length === 3);
    endpoint.calls.length = 0;
    let isBroken = true;
    const triedAt: number[] = [];
    endpoint.answer = ({ event }) => {
      if (event.walletId !== first || event.version !== 1 || !isBroken) return 200;
      triedAt.push(Date.now());
      return 500;
    };

    // When one event is not taken
    await write(stack, [first], 2);
    await until("it was tried", () => triedAt.length > 0);
    await write(stack, [second, other], 1);
    await until("it was tried five times", () => triedAt.length === 5);

    // Then nothing of its shard was told meanwhile, and the other shard was
    expect(versionsOf(endpoint.calls, first)).toEqual([1, 1, 1, 1, 1]);
    expect(versionsOf(endpoint.calls, second)).toEqual([]);
    expect(versionsOf(endpoint.calls, other)).toEqual([1]);
    expect(
      endpoint.calls
        .filter(({ event }) => event.walletId === first)
        .map((call) => call.headers["coffer-attempt"]),
    ).toEqual(["1", "2", "3", "4", "5"]);
    const pauses = triedAt.slice(1).map((at, index) => at - triedAt[index]!);
    for (const [index, least] of [100, 200, 400, 400].entries()) {
      expect(pauses[index]).toBeGreaterThanOrEqual(least - 5);
    }
    await until("it is told of", async () => (await look(webhook.id)).failing !== null);
    expect((await look(webhook.id)).failing).toMatchObject({ shards: 1, reason: "answered 500" });

    // And when it is taken, everything follows, in order
    isBroken = false;
    await until("all are told", () => versionsOf(endpoint.calls, second).length === 1);
    expect(versionsOf(endpoint.calls, first).slice(5)).toEqual([1, 2]);
    await until("nothing fails", async () => (await look(webhook.id)).failing === null);
  });

  it("gets one request at a time while it takes nothing", async () => {
    const endpoint = await openEndpoint();
    endpoint.answer = () => 503;
    endpoint.holdMs = 10; // long enough for another request to come meanwhile
    await makeWebhook({ url: endpoint.url });
    startRelay({ retryMs: 20, retryMsMax: 20 });
    const wallets = await Promise.all(Array.from({ length: 30 }, () => stack.open()));
    await until("it is failing", () => endpoint.calls.length > 20);
    endpoint.underWayMost = 0;
    const before = endpoint.calls.length;
    await until("it was tried more", () => endpoint.calls.length > before + 40);
    expect(endpoint.underWayMost).toBe(1);
    endpoint.answer = () => 200;
    const ids = new Set(wallets.map(({ id }) => id));
    const told = () => new Set(endpoint.calls.map(({ event }) => event.walletId));
    await until("all are told", () => [...ids].every((id) => told().has(id)));
  });

  it.each<[string, Answer, RegExp]>([
    ["that answers nothing", () => "nothing", /^no answer within 150 ms$/],
    [
      "that sends it elsewhere",
      () => ({ status: 307, location: "http://127.0.0.1:1/" }),
      /^answered 307, and redirects are not followed$/,
    ],
    ["that says no", () => 404, /^answered 404$/],
  ])("%s is tried again, and the reason can be read", async (_, answer, reason) => {
    const endpoint = await openEndpoint();
    endpoint.answer = answer;
    const { body: webhook } = await makeWebhook({ url: endpoint.url });
    startRelay({}, 150);
    await stack.open();
    await until("it was tried again", () => endpoint.calls.length > 1);
    await until("it is told of", async () => (await look(webhook.id)).failing !== null);
    expect((await look(webhook.id)).failing!.reason).toMatch(reason);
  });

  it("is remembered through a restart: attempts and pauses go on", async () => {
    // Race: the host dies between two attempts
    const endpoint = await openEndpoint();
    endpoint.answer = () => 500;
    await makeWebhook({ url: endpoint.url });
    const { id } = await stack.open();
    const first = startRelay();
    await until("it was tried three times", () => endpoint.calls.length === 3);
    await first.stop();
    const before = endpoint.calls.length;
    endpoint.answer = () => 200;
    startRelay();
    await until("it is told", () => endpoint.calls.length === before + 1);
    const last = endpoint.calls.at(-1)!;
    expect(last.event.id).toBe(`${id}:0`);
    expect(Number(last.headers["coffer-attempt"])).toBe(before + 1);
  });
});

describe("the end of a webhook", () => {
  it("comes after the bound: it is disabled with the reason, and a replay goes on without a loss", async () => {
    const endpoint = await openEndpoint();
    endpoint.answer = () => 500;
    const { body: webhook } = await makeWebhook({ url: endpoint.url });
    const { id: walletId } = await stack.open();
    const { warnings } = startRelay({ giveUpMs: 400 });
    await until("it is disabled", async () => (await look(webhook.id)).status === "DISABLED");
    const { disabledReason } = await look(webhook.id);
    expect(disabledReason).toMatch(
      new RegExp(`did not take ${walletId}:0 in \\d+ attempts .*answered 500`),
    );
    expect(warnings.join()).toContain(`webhook ${webhook.id} is disabled`);

    // When events go on, nothing is sent
    const before = endpoint.calls.length;
    await write(stack, [walletId], 3);
    await sleep(300);
    expect(endpoint.calls).toHaveLength(before);

    // And when the endpoint is mended, a replay brings all of them
    endpoint.answer = () => 200;
    const { status, body } = await stack.post<WebhookAnswer>(`/webhooks/${webhook.id}/replay`, {});
    expect([status, body.status, body.disabledReason]).toEqual([200, "ACTIVE", null]);
    await until("all are told", () => endpoint.calls.length === before + 4);
    expect(versionsOf(endpoint.calls, walletId).slice(before)).toEqual([0, 1, 2, 3]);
  });

  it("comes at once when the endpoint answers 410", async () => {
    const endpoint = await openEndpoint();
    endpoint.answer = () => 410;
    const { body: webhook } = await makeWebhook({ url: endpoint.url });
    startRelay();
    await stack.open();
    await until("it is disabled", async () => (await look(webhook.id)).status === "DISABLED");
    expect(endpoint.calls).toHaveLength(1);
    expect((await look(webhook.id)).disabledReason).toContain("410");
  });

  it("that cannot be written down now is told, and tried again", async () => {
    withLimits({ relayStatementMs: 200 });
    const endpoint = await openEndpoint();
    endpoint.answer = () => 410;
    const { body: webhook } = await makeWebhook({ url: endpoint.url });
    const other = new pg.Client({ connectionString: stack.databaseUrl });
    await other.connect();
    onTestFinished(() => other.end());
    // Readers go on, writers wait.
    await other.query("BEGIN");
    await other.query("LOCK TABLE webhooks IN SHARE MODE");
    const { warnings } = startRelay();
    await stack.open();
    const told = `webhook ${webhook.id} is to be disabled: it answered 410`;
    await until("it is told", () => warnings.some((text) => text.includes(told)));
    expect((await look(webhook.id)).status).toBe("ACTIVE");
    await other.query("ROLLBACK");
    await until("it is disabled", async () => (await look(webhook.id)).status === "DISABLED");
  });

  it("is its removal: nothing is sent any more, and nothing of it stays", async () => {
    const endpoint = await openEndpoint();
    const { body: webhook } = await makeWebhook({ url: endpoint.url });
    startRelay();
    const { id } = await stack.open();
    await until("it is told", () => endpoint.calls.length === 1);
    expect((await stack.ask("DELETE", `/webhooks/${webhook.id}`)).status).toBe(204);
    await sleep(150);
    await write(stack, [id], 2);
    await sleep(300);
    expect(endpoint.calls).toHaveLength(1);
    const rows = await stack.sql("SELECT FROM relay_cursors WHERE sink LIKE $1", [
      `webhook:${webhook.id}:%`,
    ]);
    expect(rows).toEqual([]);
    const gone = await stack.get(`/webhooks/${webhook.id}`);
    expect([gone.status, gone.body.code]).toEqual([404, "webhook_not_found"]);
  });
});

describe("a webhook that has lost its place in a shard", () => {
  const lose = (id: string, shards: string): Promise<object[]> =>
    stack.sql(`DELETE FROM relay_cursors WHERE sink LIKE $1 AND shard ${shards}`, [
      `webhook:${id}:%`,
    ]);

  it.each([
    [
      "one shard, before it began",
      "= 7",
      /in 1 of its shards is lost \(7\): replay it from a time/,
    ],
    [
      "all shards, while it was at work",
      ">= 0",
      /in 256 of its shards is lost \(0, 1, 2, 3, 4 and more/,
    ],
  ])(
    "(%s) says so and ends, and a replay from a time brings what it missed",
    async (when, shards, reason) => {
      withLimits({ relayCompareMs: 50 });
      const endpoint = await openEndpoint();
      const { body: webhook } = await makeWebhook({ url: endpoint.url });
      const from = new Date().toISOString();
      const { id: walletId } = await stack.open();
      if (when.startsWith("one")) await lose(webhook.id, shards);
      const { warnings, relay } = startRelay();
      if (when.startsWith("all")) {
        await until("it is told", () => endpoint.calls.length === 1);
        await lose(webhook.id, shards);
      }
      await until("it has ended", async () => (await look(webhook.id)).status === "DISABLED");
      expect((await look(webhook.id)).disabledReason).toMatch(reason);
      expect(
        warnings.filter((text) => text.includes(`webhook ${webhook.id} is disabled`)),
      ).toHaveLength(1);
      await until("its sink is gone", () =>
        relay.status().every(({ sink }) => !sink.endsWith(webhook.id)),
      );

      // Going on where it stands is no way: that is not known
      await stack.post(`/webhooks/${webhook.id}/replay`, {});
      await until("it ends again", async () => (await look(webhook.id)).status === "DISABLED");

      // From a time it is
      await write(stack, [walletId], 3);
      endpoint.calls.length = 0;
      const { body } = await stack.post<WebhookAnswer>(`/webhooks/${webhook.id}/replay`, { from });
      expect([body.status, body.disabledReason]).toEqual(["ACTIVE", null]);
      await until("all are told", () => versionsOf(endpoint.calls, walletId).length === 4);
      await sleep(200);
      expect(versionsOf(endpoint.calls, walletId)).toEqual([0, 1, 2, 3]);
      expect((await look(webhook.id)).status).toBe("ACTIVE");
    },
  );

  it("since it was replayed or removed meanwhile has lost nothing", async () => {
    // Race: a host that has not looked yet goes on with the run that has just ended, whose cursors
    // are gone
    withLimits({ relayCompareMs: 50 });
    const endpoint = await openEndpoint();
    const { body: webhook } = await makeWebhook({ url: endpoint.url });
    const { warnings } = startRelay({ lookMs: 1_000 });
    await stack.open();
    await until("it is told", () => endpoint.calls.length === 1);
    await stack.post(`/webhooks/${webhook.id}/replay`, {});
    await sleep(1_300);
    expect(await look(webhook.id)).toMatchObject({ status: "ACTIVE", disabledReason: null });
    await stack.open();
    await until("the next is told", () => endpoint.calls.length === 2);
    await stack.ask("DELETE", `/webhooks/${webhook.id}`);
    await sleep(1_300);
    expect(warnings).toEqual([]);
  });
});

describe("a replay", () => {
  it("from a time sends everything since then once more, each wallet's in order", async () => {
    const endpoint = await openEndpoint();
    const { body: webhook } = await makeWebhook({ url: endpoint.url });
    startRelay();
    const { id: old } = await stack.open();
    await sleep(30);
    const from = new Date().toISOString();
    const wallets = (await Promise.all([stack.open(), stack.open()])).map(({ id }) => id);
    await write(stack, [...wallets, old], 5);
    await until("all are told", () => endpoint.calls.length === 18);
    endpoint.calls.length = 0;
    await stack.post(`/webhooks/${webhook.id}/replay`, { from });
    await until("all are told again", () => endpoint.calls.length === 17);
    await sleep(200);
    expect(endpoint.calls).toHaveLength(17);
    expect(versionsOf(endpoint.calls, old)).toEqual([1, 2, 3, 4, 5]);
    for (const id of wallets) expect(versionsOf(endpoint.calls, id)).toEqual([0, 1, 2, 3, 4, 5]);
  });

  it("is not undone by what the run before still saves", async () => {
    // Race: the host has an event of the old run under way while the replay begins, and saves its
    // cursor afterwards
    const endpoint = await openEndpoint();
    const { body: webhook } = await makeWebhook({ url: endpoint.url });
    const { id } = await stack.open();
    startRelay();
    await until("it is told", () => endpoint.calls.length === 1);
    endpoint.answer = () => "nothing";
    await write(stack, [id], 1);
    await until("one is under way", () => endpoint.calls.length === 2);
    endpoint.answer = () => 200;
    await stack.post(`/webhooks/${webhook.id}/replay`, { from: "2000-01-01" });
    await until("all are told from the beginning", () => {
      return versionsOf(endpoint.calls, id).length === 4;
    });
    // And stays so when the old run has given up and saved
    await sleep(2_200);
    expect(versionsOf(endpoint.calls, id)).toEqual([0, 1, 0, 1]);
  });

  it("that goes on where another one has just ended the run loses nothing", async () => {
    // Given a webhook, and two gateways that are told to go on with it at the same moment
    const endpoint = await openEndpoint();
    const { body: webhook } = await makeWebhook({ url: endpoint.url });
    const store = buildPostgresWebhooks([stack.databaseUrl]);
    onTestFinished(() => store.close());
    const other = new pg.Client({ connectionString: stack.databaseUrl });
    await other.connect();
    onTestFinished(() => other.end());

    // Race: one of them has read which run there is, and before it copies the cursors the other one
    // does all that it has to do
    await other.query("BEGIN; LOCK TABLE relay_cursors");
    const replay = store.replay(webhook.id, { type: "here" });
    await until("it waits for the cursors", async () => {
      const waiting = await stack.sql("SELECT FROM pg_locks WHERE NOT granted");
      return waiting.length > 0;
    });
    const [sink, run] = [`webhook:${webhook.id}:`, "another-run"];
    await other.query(
      `INSERT INTO relay_cursors (sink, shard, position)
       SELECT $1 || $2, shard, position FROM relay_cursors WHERE sink LIKE $1 || '%'`,
      [sink, run],
    );
    await other.query("UPDATE webhooks SET run = $2 WHERE webhook_id = $1", [webhook.id, run]);
    await other.query("DELETE FROM relay_cursors WHERE sink LIKE $1 || '%' AND sink <> $1 || $2", [
      sink,
      run,
    ]);
    await other.query("COMMIT");
    await replay;

    // Then events arrive
    startRelay();
    const { id } = await stack.open();
    await until("it is told", () => versionsOf(endpoint.calls, id).length === 1);
    expect(await store.get(webhook.id)).toMatchObject({ status: "ACTIVE" });
  });

  it("of the past can begin with the webhook", async () => {
    const { id } = await stack.open();
    await write(stack, [id], 2);
    const endpoint = await openEndpoint();
    await makeWebhook({ url: endpoint.url, wallets: [id], from: "2000-01-01" });
    startRelay();
    await until("all are told", () => endpoint.calls.length === 3);
    expect(versionsOf(endpoint.calls, id)).toEqual([0, 1, 2]);
  });
});
