/**
 * What goes wrong behind the scenes is told in words: a line of the log, or what a sink shows, says
 * what failed and why. The error here is what Node makes of a name with two addresses that both
 * refuse: its own message is empty, so that only the errors inside say anything.
 */
import { expect, it, onTestFinished } from "vitest";
import { systemTime, type Time } from "../src/clock.ts";
import type { RelayStore } from "../src/core/relay-store.ts";
import { relaySink, relayStore } from "../test/stage/relay-parts.ts";
import { buildLaneShards } from "./lane-shards.ts";
import { buildOwnership } from "./ownership.ts";
import { buildReconciliation } from "./reconciliation.ts";
import { buildPump } from "./relay-pump.ts";
import { buildRelay } from "./relay.ts";
import type { RelaySink } from "./relay-sink.ts";
import { startWebhookSinks } from "./webhook-sinks.ts";

const WORDS = "connect ECONNREFUSED ::1:5432; connect ECONNREFUSED 127.0.0.1:5432";

const away = (): Promise<never> =>
  Promise.reject(new AggregateError(WORDS.split("; ").map((text) => new Error(text))));
const ignored = (): void => undefined;

/** What comes every second comes at once, and once. */
const time: Time = { ...systemTime, every: (_, task) => systemTime.after(0, task) };

const store = relayStore();
const sink = relaySink();

interface Log {
  info(text: string): void;
  warn(text: string): void;
  error(text: string): void;
}

function startPump(
  log: Log,
  stores: Partial<RelayStore>,
  deliver: RelaySink["deliver"] = sink.deliver,
) {
  const pump = buildPump({ sink: { ...sink, deliver }, store: { ...store, ...stores }, time, log });
  onTestFinished(() => pump.stop());
  pump.own([7]);
  return pump;
}

const sets: Array<[told: string, setOff: (log: Log) => void]> = [
  [
    "the relay cannot see what is committed",
    (log) => {
      const relay = buildRelay({ stores: [{ ...store, lastPositions: away }], time, log });
      onTestFinished(() => relay.stop());
      relay.own([7]);
      relay.add({ ...sink, isOpen: false });
    },
  ],
  ["cannot read events for the sink", (log) => startPump(log, { read: away })],
  ["cannot save how far the sink is", (log) => startPump(log, { save: away })],
  [
    "cannot see which webhooks there are",
    (log) => {
      const sinks = startWebhookSinks({
        relay: { add: ignored, remove: () => Promise.resolve() },
        store: { list: away, disable: away },
        sender: { send: away, close: ignored },
        time,
        random: () => 0,
        log,
      });
      onTestFinished(() => sinks.stop());
    },
  ],
  [
    "ownership",
    (log) => {
      const shardTable = {
        read: () => Promise.resolve([{ shard: 7, owner: null, epoch: 1, claimedAtMs: 0 }]),
        take: away,
        release: away,
        close: () => Promise.resolve(),
      };
      const ownership = buildOwnership({
        shardTable,
        membership: null,
        self: { hostId: "a", owner: "a:1", startedAtMs: 0 },
        time,
        log,
        isReachable: () => true,
        open: ignored,
        leave: ignored,
        drop: ignored,
        announce: ignored,
      });
      onTestFinished(() => ownership.drain(0));
      void ownership.start();
    },
  ],
  [
    "cannot claim shards",
    (log) => {
      const shards = buildLaneShards({
        journal: { claim: away, loadPendingTransfers: () => Promise.resolve([]) },
        owner: "a:1",
        log: ignored,
        crash: ignored,
        isPaused: () => false,
        isRecovering: () => false,
        recovered: ignored,
        adopted: ignored,
        onFailed: (reason) => log.warn(reason),
        onLost: ignored,
        forget: ignored,
        dealWithBacklog: ignored,
        dealWithWaiting: ignored,
      });
      shards.assign([7], 0);
      shards.adopt();
    },
  ],
];

it.each(sets)('the log says why, after "%s"', async (told, setOff) => {
  const log: string[] = [];
  const keep = (text: string): void => void log.push(text);
  setOff({ info: keep, warn: keep, error: keep });
  await expect.poll(() => log).toContain(`${told}: ${WORDS}`);
});

it("a sink that breaks shows why", async () => {
  const pump = startPump({ info: ignored, warn: ignored, error: ignored }, {}, away);
  await expect.poll(() => pump.stats().reason).toBe(WORDS);
});

it("a reconciliation whose database is away says where that is", async () => {
  const log: string[] = [];
  const keep = (text: string): void => void log.push(text);
  const reconciliation = buildReconciliation({
    databaseUrls: ["postgres://u:secret@127.0.0.1:1/away"],
    intervalMs: 60_000,
    firstMs: 0,
    rowsPerSecond: 1,
    shards: () => [7],
    time,
    log: { info: keep, warn: keep, error: keep },
  });
  onTestFinished(() => reconciliation.stop());
  reconciliation.start();
  await expect
    .poll(() => log)
    .toEqual([
      "books: the reconciliation failed, it begins anew later: connect ECONNREFUSED 127.0.0.1:1",
    ]);
});
