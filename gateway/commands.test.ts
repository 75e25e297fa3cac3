/**
 * The command desk on the real in-process bus, with small owners that answer, refuse or stay
 * silent, and a clock that the test moves. What matters most: no answer ever says "nothing
 * happened" while a sending may have done something.
 */
import { MessageChannel } from "node:worker_threads";
import { describe, expect, it } from "vitest";

import { LIMITS } from "../src/limits.ts";
import { buildMemoryBus } from "../src/bus/memory-bus.ts";
import type { CommandMeter } from "../src/telemetry/metrics.ts";
import { SUBJECTS } from "../src/core/protocol.ts";
import type { Command, CommandMessage, Reply } from "../src/core/protocol.ts";
import { shardOf } from "../src/core/shard.ts";
import { commandFor, faultOf, fullFor, peek, rejected, setUp } from "../test/stage/desk.ts";
import { withLimits } from "../test/stage/lanes.ts";
import { buildCommandDesk } from "./commands.ts";

const { commandAttemptMs, commandDeadlineMs, commandRetryPauseMs, gatewayCommandsMax } = LIMITS;

describe("batching", () => {
  it("sends what one turn brings for a shard as one message, and each shard its own", async () => {
    const { desk, own } = setUp();
    const { batches } = own(() => rejected);
    const ids = ["a", "a", "b", "a"];
    const outcomes = await Promise.all(
      ids.map((id, nth) => desk.submit(commandFor(id, `c${nth}`))),
    );
    expect(outcomes).toEqual(ids.map(() => rejected));
    expect(shardOf("a")).not.toBe(shardOf("b"));
    expect(batches.map((batch) => batch.map(({ command }) => command.commandId))).toEqual([
      ["c0", "c1", "c3"],
      ["c2"],
    ]);
  });

  // Each unit takes six bytes of JSON, so that what goes together does not fit.
  const text = "\u0001".repeat(LIMITS.metadataBytesMax);
  const asset = { currency: "USD", decimalPlaces: 2, ownerId: null };
  it.each<[where: string, over: Partial<Command>]>([
    [
      "description and metadata",
      { description: "\u0001".repeat(LIMITS.descriptionLengthMax), metadata: text },
    ],
    [
      "a new wallet's metadata",
      { body: { type: "create", ...asset, initialBalance: null, metadata: text } },
    ],
    ["a change of metadata", { body: { type: "update", patch: text } }],
  ])("splits a batch that would be too large for the bus by %s", async (_where, over) => {
    const { desk, own } = setUp();
    const { batches } = own(() => rejected);
    const commands = Array.from({ length: LIMITS.commandBatchMax }, (_, nth) => {
      return { ...commandFor("a", `c${nth}`), ...over };
    });
    await Promise.all(commands.map((command) => desk.submit(command)));
    const bytesOf = (messages: unknown): number => Buffer.byteLength(JSON.stringify(messages));
    for (const batch of batches) expect(bytesOf(batch)).toBeLessThan(LIMITS.busMessageBytesMax);
    const most = Math.floor(LIMITS.busMessageBytesMax / bytesOf(batches[0]?.[0]));
    expect(most).toBeLessThan(commands.length);
    // As few as it takes, and what is estimated is somewhat more than what is sent.
    expect(batches.length).toBeLessThanOrEqual(Math.ceil(commands.length / (most - 1)));
    const ids = batches.flat().map(({ command }) => command.commandId);
    expect(ids).toEqual(commands.map(({ commandId }) => commandId));
  });

  it("sends as many as may go together at once, and the rest when the turn ends", async () => {
    const { desk, own, settle } = setUp();
    const { batches } = own(() => rejected);
    const sizes = (): number[] => batches.map(({ length }) => length);
    for (let nth = 0; nth <= LIMITS.commandBatchMax; nth += 1) {
      void desk.submit(commandFor("a", `c${nth}`));
    }
    await Promise.resolve();
    expect(sizes()).toEqual([LIMITS.commandBatchMax]);
    await settle();
    expect(sizes()).toEqual([LIMITS.commandBatchMax, 1]);
  });

  it("gives each sending the same time for an answer, however old its command is", async () => {
    const { desk, own, settle, pass } = setUp();
    const { deliveries } = own(() => null);
    void desk.submit(commandFor("a"));
    await settle();
    for (const [ms, sendings] of [
      [commandAttemptMs - 1, 1],
      [1, 2],
      [commandAttemptMs - 1, 2],
      [1, 3],
    ] as const) {
      await pass(ms);
      expect(deliveries).toHaveLength(sendings);
    }
  });

  it("does not send again what is answered before its turn comes, and sends its neighbours", async () => {
    // Given two commands without an answer, which are due again in the next turn
    const { desk, own, reply, settle, pass } = setUp();
    const { batches, deliveries } = own(() => null);
    const first = desk.submit(commandFor("a", "c1"));
    void desk.submit(commandFor("a", "c2"));
    await settle();
    const passing = pass(LIMITS.commandAttemptMs);

    // When the first is answered before that turn, as the answer was only late
    reply(deliveries[0]!.seq, rejected);
    await passing;

    // Then only the second goes again
    expect(await first).toEqual(rejected);
    const ids = batches.map((batch) => batch.map(({ command }) => command.commandId));
    expect(ids).toEqual([["c1", "c2"], ["c2"]]);
  });

  it("tells the owner how much time is left, and which attempt this is", async () => {
    const { desk, own, settle, pass } = setUp();
    const { deliveries } = own(() => null);
    void desk.submit(commandFor("a"));
    await settle();
    await pass(commandAttemptMs);
    expect(deliveries.map(({ attempt }) => attempt)).toEqual([1, 2]);
    expect(deliveries.map(({ budgetMs }) => budgetMs)).toEqual([
      commandDeadlineMs,
      commandDeadlineMs - commandAttemptMs,
    ]);
    expect(deliveries[1]!.command).toBe(deliveries[0]!.command);
  });
});

describe("an owner that is away", () => {
  it("gets the command when it comes back", async () => {
    const { desk, own, settle, pass } = setUp();
    const outcome = desk.submit(commandFor("a"));
    await settle();
    expect(await peek(outcome)).toBe("open");
    own(() => rejected);
    await pass(commandRetryPauseMs);
    expect(await outcome).toEqual(rejected);
  });

  it("for the whole time means unavailable: nothing was ever delivered", async () => {
    const { desk, settle, pass } = setUp();
    const outcome = desk.submit(commandFor("a"));
    await settle();
    for (let ms = 0; ms < commandDeadlineMs - 500; ms += 250) await pass(250);
    expect(await peek(outcome)).toBe("open");
    await pass(500);
    expect(await outcome).toEqual(faultOf("unavailable"));
    expect(desk.pending).toBe(0);
  });
});

describe("an owner that refuses", () => {
  it("is asked less and less often: pauses double, up to the longest", async () => {
    const { desk, own, settle, pass } = setUp();
    const { deliveries } = own(() => faultOf("unavailable"));
    void desk.submit(commandFor("a"));
    await settle();
    const longest = LIMITS.commandRetryPauseMsMax;
    for (const pauseMs of [1, 2, 4, 8].map((times) => times * commandRetryPauseMs)) {
      expect(pauseMs).toBeLessThan(longest);
      const before = deliveries.length;
      await pass(pauseMs - 1);
      expect(deliveries).toHaveLength(before);
      await pass(1);
      expect(deliveries).toHaveLength(before + 1);
    }
    for (let turn = 0; turn < 2; turn += 1) {
      const before = deliveries.length;
      await pass(longest - 1);
      expect(deliveries).toHaveLength(before);
      await pass(1);
      expect(deliveries).toHaveLength(before + 1);
    }
  });
});

describe("after a reconnect", () => {
  it("what has no answer goes again, and what waits for its time does not", async () => {
    const { desk, own, settle, reconnect } = setUp();
    const { deliveries } = own(({ command }) => {
      return command.walletId === "paused" ? faultOf("unavailable") : null;
    });
    void desk.submit(commandFor("sent"));
    void desk.submit(commandFor("paused"));
    await settle();
    await reconnect();
    const ids = deliveries.map(({ command }) => command.walletId);
    expect(ids.toSorted()).toEqual(["paused", "sent", "sent"]);
  });

  it("and another, a command goes no more often than it can be known which sending is in doubt", async () => {
    const { desk, own, settle, pass, reconnect, reply } = setUp();
    const { deliveries } = own(() => null);
    const outcome = desk.submit(commandFor("a"));
    await settle();
    for (let times = 0; times < 2 * LIMITS.commandSendsMax; times += 1) await reconnect();
    expect(deliveries).toHaveLength(LIMITS.commandSendsMax);
    // All but the first did not arrive; the first may have.
    for (const { seq } of deliveries.slice(1)) reply(seq, faultOf("unavailable"));
    await settle();
    await pass(commandDeadlineMs);
    expect(await outcome).toEqual(faultOf("unknown"));
  });
});

describe("silence", () => {
  it("makes the desk send the same command again", async () => {
    const { desk, own, settle, pass } = setUp();
    own((_message, delivery) => (delivery === 1 ? null : rejected));
    const outcome = desk.submit(commandFor("a"));
    await settle();
    await pass(commandAttemptMs - 1);
    expect(await peek(outcome)).toBe("open");
    await pass(1);
    expect(await outcome).toEqual(rejected);
  });

  it("until the deadline means unknown: it may have happened", async () => {
    const { desk, own, settle, pass } = setUp();
    own(() => null);
    const outcome = desk.submit(commandFor("a"));
    await settle();
    await pass(commandDeadlineMs);
    expect(await outcome).toEqual(faultOf("unknown"));
  });

  it("is ended by the late reply to an earlier sending", async () => {
    const { desk, own, reply, settle, pass } = setUp();
    const { deliveries } = own(() => null);
    const outcome = desk.submit(commandFor("a"));
    await settle();
    await pass(commandAttemptMs);
    expect(deliveries).toHaveLength(2);
    reply(deliveries[0]!.seq, rejected);
    expect(await outcome).toEqual(rejected);
  });
});

describe("honest outcomes", () => {
  it("answers overloaded at once when nothing is in doubt", async () => {
    const { desk, own } = setUp();
    own(() => faultOf("overloaded"));
    expect(await desk.submit(commandFor("a"))).toEqual(faultOf("overloaded"));
  });

  it.each(["overloaded", "unavailable"] as const)(
    "does not let a later %s hide an earlier sending in doubt",
    async (fault) => {
      const { desk, own, settle, pass } = setUp();
      own((_message, delivery) => (delivery === 1 ? null : faultOf(fault)));
      const outcome = desk.submit(commandFor("a"));
      await settle();
      await pass(commandAttemptMs);
      expect(await peek(outcome)).toBe("open");
      for (let ms = commandAttemptMs; ms < commandDeadlineMs; ms += 500) await pass(500);
      expect(await outcome).toEqual(faultOf("unknown"));
    },
  );

  it("in a cluster believes a full host for what comes next, and not for what was sent", async () => {
    // Given a full owner: another host may have received what it refused
    const { desk, own, settle, pass } = setUp({ deliversOnce: false });
    const owner = own(() => fullFor("a"));
    const sent = desk.submit(commandFor("a"));
    await settle();
    expect(await peek(sent)).toBe("open");

    // When more comes for its shard, then it is refused before anybody gets it; other shards are
    // not concerned
    expect(await desk.submit(commandFor("a", "next"))).toEqual(faultOf("overloaded"));
    const elsewhere = desk.submit(commandFor("b"));
    await settle();
    const received = new Set(owner.deliveries.map(({ command }) => command.commandId));
    expect(received).toEqual(new Set(["c-a", "c-b"]));

    // When it has room again, what was sent is carried out first, and then what comes is sent again
    owner.unsubscribe();
    own(() => rejected);
    await pass(LIMITS.commandRetryPauseMsMax);
    expect(await sent).toEqual(rejected);
    expect(await elsewhere).toEqual(rejected);
    expect(await desk.submit(commandFor("a", "early"))).toEqual(faultOf("overloaded"));
    await pass(LIMITS.commandShedMs - LIMITS.commandRetryPauseMsMax);
    expect(await desk.submit(commandFor("a", "late"))).toEqual(rejected);
  });

  it.each([
    ["one wallet's mailbox, or transfers under way", faultOf("overloaded"), "nobody"],
    ["the payee's shard", fullFor("b"), "b"],
  ])("in a cluster refuses for what is full and nothing else: %s", async (_, outcome, full) => {
    const { desk, own, settle } = setUp({ deliversOnce: false });
    const { deliveries } = own(() => outcome);
    void desk.submit(commandFor("a"));
    await settle();

    const next = desk.submit(commandFor("a", "next"));
    const atThePayee = desk.submit(commandFor("b"));
    await settle();
    const received = new Set(deliveries.map(({ command }) => command.commandId));
    expect(received.has("next")).toBe(true);
    expect(received.has("c-b")).toBe(full !== "b");
    expect(await peek(next)).toBe("open");
    expect(await peek(atThePayee)).toEqual(full === "b" ? faultOf("overloaded") : "open");
  });

  it.each([
    ["in one process, where the refusal is the whole truth", true, "overloaded"],
    ["in a cluster, by an outcome that is unknown", false, "unknown"],
  ] as const)("keeps nothing from its owner %s", async (_, deliversOnce, fault) => {
    const { desk, own, settle } = setUp({ deliversOnce });
    const { deliveries } = own(() => ({ type: "fault", fault, fullShard: shardOf("a") }));
    void desk.submit(commandFor("a"));
    await settle();
    void desk.submit(commandFor("a", "next"));
    await settle();
    expect(deliveries.map(({ command }) => command.commandId)).toContain("next");
  });

  it("in a cluster sends no transfer to a payee whose shard is full", async () => {
    const { desk, own, settle } = setUp({ deliversOnce: false });
    const { deliveries } = own(() => fullFor("b"));
    void desk.submit(commandFor("a"));
    await settle();
    const money = { amount: "1", transferId: "t" };
    const to = { transferId: "t", walletId: "b" };
    const bodies: Command["body"][] = [
      { type: "transfer", toWalletId: "b", ...money },
      { type: "capture", holdId: "h", amount: null, final: true, to },
      { type: "transfer", toWalletId: "a", ...money },
      { type: "capture", holdId: "h", amount: null, final: true, to: null },
    ];
    const [toFull, capturedForFull, toAnother, captured] = bodies.map((body, nth) =>
      desk.submit({ ...commandFor("a", `t${nth}`), body }),
    );
    await settle();
    expect(await peek(toFull!)).toEqual(faultOf("overloaded"));
    expect(await peek(capturedForFull!)).toEqual(faultOf("overloaded"));
    expect([await peek(toAnother!), await peek(captured!)]).toEqual(["open", "open"]);
    expect(deliveries.map(({ command }) => command.commandId)).toEqual(["c-a", "t2", "t3"]);
  });

  it("in a cluster tells unknown of a command that full hosts refused until its deadline", async () => {
    const { desk, own, pass } = setUp({ deliversOnce: false });
    own(() => faultOf("overloaded"));
    const outcome = desk.submit(commandFor("a"));
    for (let ms = 0; ms <= commandDeadlineMs; ms += 500) await pass(500);
    expect(await outcome).toEqual(faultOf("unknown"));
  });

  it.each(["overloaded", "unavailable"] as const)(
    "does not take the %s of one copy for the fate of another that the bus brings late",
    async (fault) => {
      // Given the only host there is, which refuses what it gets, and then is away
      const { bus, desk, own, settle, pass } = setUp({ deliversOnce: false });
      const full = own(() => faultOf(fault));
      const outcome = desk.submit(commandFor("a"));
      await settle();
      full.unsubscribe();

      // When the deadline comes, and behind it a copy of what was refused, for which there is room
      for (let ms = 0; ms < commandDeadlineMs; ms += 500) await pass(500);
      const { deliveries } = own(() => rejected);
      bus.publish(SUBJECTS.shard(shardOf("a")), full.batches[0]);
      await settle();

      // Then the copy was carried out, and nobody was told that nothing happened
      expect(full.deliveries).toHaveLength(1);
      expect(deliveries).toEqual(full.deliveries);
      expect(await outcome).toEqual(faultOf("unknown"));
    },
  );

  it("does not let an owner that left hide an earlier sending in doubt", async () => {
    const { desk, own, settle, pass } = setUp();
    const owner = own(() => null);
    const outcome = desk.submit(commandFor("a"));
    await settle();
    owner.unsubscribe();
    for (let ms = 0; ms < commandDeadlineMs; ms += 500) await pass(500);
    expect(await outcome).toEqual(faultOf("unknown"));
  });

  it("reads one refusal told twice as the fate of one sending only", async () => {
    const { desk, own, reply, settle, pass } = setUp();
    const { deliveries } = own(() => null);
    const outcome = desk.submit(commandFor("a"));
    await settle();
    await pass(commandAttemptMs);
    reply(deliveries[1]!.seq, faultOf("unavailable"));
    reply(deliveries[1]!.seq, faultOf("overloaded"));
    await settle();
    expect(await peek(outcome)).toBe("open");
    await pass(commandDeadlineMs);
    expect(await outcome).toEqual(faultOf("unknown"));
  });

  it("asks again after unknown, and takes the answer", async () => {
    const { desk, own, settle, pass } = setUp();
    own((_message, delivery) => (delivery === 1 ? faultOf("unknown") : rejected));
    const outcome = desk.submit(commandFor("a"));
    await settle();
    await pass(commandRetryPauseMs);
    expect(await outcome).toEqual(rejected);
  });

  it("gives up a command that ends as unknown each time it arrives", async () => {
    const { desk, own, settle, pass } = setUp();
    const { deliveries } = own(() => faultOf("unknown"));
    const outcome = desk.submit(commandFor("a"));
    await settle();
    for (let ms = 0; ms < commandDeadlineMs / 2; ms += 500) await pass(500);
    expect(await outcome).toEqual(faultOf("unknown"));
    expect(deliveries).toHaveLength(LIMITS.commandLossesMax);
  });
});

describe("the inbox", () => {
  it("drops replies to forgotten, foreign and never sent numbers, and junk", async () => {
    const { bus, desk, own, reply, settle, pass } = setUp();
    const { deliveries } = own(() => null);
    const outcome = desk.submit(commandFor("a"));
    await settle();
    const { seq } = deliveries[0]!;
    reply(seq + 1, rejected);
    reply(seq + 3_200, rejected);
    for (const junk of [null, 1, "x", {}, [null, 1, {}, { seq }, { seq, outcome: {} }]]) {
      bus.publish(SUBJECTS.inbox("g1"), junk);
    }
    bus.publish(SUBJECTS.inbox("g1"), [{ seq, outcome: { type: "done" } }]);
    bus.publish(SUBJECTS.inbox("g1"), [{ seq, outcome: { type: "fault", fault: "odd" } }]);
    const noVersion = { type: "replayed", walletId: "a", version: "1", transferId: null };
    bus.publish(SUBJECTS.inbox("g1"), [{ seq, outcome: noVersion }]);
    for (const fullShard of [null, "1", -1, 1.5, LIMITS.shardCount]) {
      const outcome = { type: "fault", fault: "overloaded", fullShard };
      bus.publish(SUBJECTS.inbox("g1"), [{ seq, outcome }]);
    }
    await settle();
    await pass(commandRetryPauseMs);
    expect(await peek(outcome)).toBe("open");
    // Nor does junk speak for what was sent: it is as much under way as before.
    expect(deliveries).toHaveLength(1);
    reply(seq, rejected);
    reply(seq, faultOf("unknown"));
    await settle();
    expect(await outcome).toEqual(rejected);
  });
});

describe("bounds", () => {
  it("refuses more commands than it may have under way, at once", async () => {
    const { desk } = setUp();
    for (let nth = 0; nth < gatewayCommandsMax; nth++) void desk.submit(commandFor(`w${nth}`));
    expect(await desk.submit(commandFor("one more"))).toEqual(faultOf("overloaded"));
    expect(desk.pending).toBe(gatewayCommandsMax);
  });

  it("drains: refuses new commands, answers the old ones, and then sweeps no more", async () => {
    const { bus, desk, own, reply, settle, isSweeping, listens } = setUp();
    const { deliveries } = own(() => null);
    const outcomes = ["c1", "c2"].map((id) => desk.submit(commandFor("a", id)));
    await settle();
    const drained = desk.drain();
    expect(await desk.submit(commandFor("b"))).toEqual(faultOf("unavailable"));
    for (const { seq } of deliveries) {
      expect(isSweeping()).toBe(true);
      reply(seq, rejected);
      await settle();
    }
    await drained;
    expect(await Promise.all(outcomes)).toEqual([rejected, rejected]);
    expect([isSweeping(), listens()]).toEqual([false, 0]);
    expect(desk.drain()).toBe(desk.drain());
    // Nor does it hear anything more
    let isHeard = true;
    bus.publish(SUBJECTS.inbox("g1"), [], () => (isHeard = false));
    await settle();
    expect(isHeard).toBe(false);
  });

  it("counts what it answers, with the time that it took, and what it sends again", async () => {
    const counted: unknown[] = [];
    const meter: CommandMeter = {
      answered: (type, outcome, ms) => void counted.push([type, outcome, ms]),
      resent: () => void counted.push("resent"),
    };
    const { desk, own, settle, pass } = setUp({ meter });
    own((_message, delivery) => (delivery === 1 ? null : rejected));
    const outcome = desk.submit(commandFor("a"));
    await settle();
    await pass(commandAttemptMs);
    await outcome;
    await desk.drain();
    await desk.submit(commandFor("b"));
    expect(counted).toEqual([
      "resent",
      ["credit", rejected, commandAttemptMs],
      ["credit", faultOf("unavailable"), 0],
    ]);
  });
});

it("reads what came in while the process had no time before it gives anybody up", async () => {
  // Given an owner on another thread, whose answer comes while this one is busy past the deadline
  withLimits({ commandAttemptMs: 60, commandDeadlineMs: 150, commandSweepMs: 10 });
  const bus = buildMemoryBus();
  const desk = buildCommandDesk({ bus, gatewayId: "g1" });
  const { port1: here, port2: there } = new MessageChannel();
  here.on("message", (seq: number) => {
    bus.publish(SUBJECTS.inbox("g1"), [{ inbox: "", seq, outcome: rejected } satisfies Reply]);
    here.close();
  });
  bus.subscribe<CommandMessage[]>("coffer.shard.*", ([message]) => {
    there.postMessage(message!.seq);
    const untilMs = performance.now() + 200;
    while (performance.now() < untilMs);
  });
  // Then that is the outcome
  expect(await desk.submit(commandFor("w"))).toEqual(rejected);
  await desk.drain();
});
