/** Deployments that meet on one bus, by guards on an in-process one. */
import { setTimeout as realSleep } from "node:timers/promises";
import { beforeEach, describe, expect, it, onTestFinished, vi } from "vitest";
import { buildBusGuard } from "./bus-guard.ts";
import { LIMITS } from "../limits.ts";
import { buildMemoryBus } from "./memory-bus.ts";
import { SUBJECTS } from "../core/protocol.ts";

function buildScene() {
  const bus = buildMemoryBus();
  return {
    bus,
    async join(name: string, deploymentId: string) {
      const ended: string[] = [];
      const logged: string[] = [];
      const guard = buildBusGuard({
        bus,
        name,
        log: { error: (text) => void logged.push(text) },
        onForeign: (reason) => void ended.push(reason),
      });
      onTestFinished(() => guard.close());
      await guard.join(deploymentId);
      // Once more behind the answers.
      await bus.ping(100);
      await new Promise((resolve) => setTimeout(resolve, 5));
      return { ended, logged, guard };
    },
  };
}

it("processes of one deployment say nothing of each other", async () => {
  const { join } = buildScene();
  const all = [await join("a", "one"), await join("b", "one"), await join("c", "one")];
  expect(all.map(({ ended, logged }) => [ended, logged])).toEqual(all.map(() => [[], []]));
});

it("who comes to another deployment's bus ends, and who was there goes on and says so", async () => {
  const { join } = buildScene();
  const first = await join("a", "one");
  const second = await join("b", "two");
  expect(second.ended).toEqual([
    expect.stringMatching(/^NATS_URL: deployment one \(a\) is on this/),
  ]);
  expect(first.ended).toEqual([]);
  expect(first.logged).toEqual([expect.stringContaining("deployment two (b) has come")]);
});

it("nobody takes anything from the bus before the answers could be here", async () => {
  // Given a bus whose server answers at once, and a process that answers a moment later
  const ended: string[] = [];
  let hear: (message: unknown) => void = () => undefined;
  const answer = { name: "a", deploymentId: "one", isAnswer: true };
  const guard = buildBusGuard({
    bus: {
      publish: () => void setTimeout(() => hear(answer), 50),
      subscribe(_subject, handler) {
        hear = handler as typeof hear;
        return () => undefined;
      },
      onReconnect: () => () => undefined,
      ping: () => Promise.resolve(0),
    },
    name: "b",
    log: { error: () => undefined },
    onForeign: (reason) => void ended.push(reason),
  });
  onTestFinished(() => guard.close());
  await guard.join("two");
  expect(ended).toHaveLength(1);
});

it("who has been there for long ends for nobody's word, and for no junk", async () => {
  const { bus, join } = buildScene();
  const { ended, logged } = await join("a", "one");
  for (const junk of [null, 1, "two", {}, { deploymentId: 2 }, { deploymentId: "one" }]) {
    bus.publish(SUBJECTS.deployment, junk);
  }
  bus.publish(SUBJECTS.deployment, { name: "b", deploymentId: "two", isAnswer: false });
  await bus.ping(100);
  await new Promise((resolve) => setTimeout(resolve, 5));
  expect(ended).toEqual([]);
  expect(logged).toEqual([expect.stringContaining("deployment two (b) has come")]);
});

describe("in the course of time", () => {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "performance"] });
    onTestFinished(() => void vi.useRealTimers());
  });

  /** A guard of deployment "two" on a bus by hand: what it says, and what it is told. */
  function guardByHand(ping: () => Promise<number> = () => Promise.resolve(0)) {
    const said: Array<{ readonly isAnswer: boolean; readonly onUndelivered?: () => void }> = [];
    const ended: string[] = [];
    const logged: string[] = [];
    const told = new Set<(message: unknown) => void>();
    const onReconnect = new Set<() => void>();
    const guard = buildBusGuard({
      bus: {
        publish(_subject, message, onUndelivered) {
          const { isAnswer } = message as { isAnswer: boolean };
          said.push({ isAnswer, ...(onUndelivered !== undefined && { onUndelivered }) });
        },
        subscribe(_subject, handler) {
          told.add(handler as (message: unknown) => void);
          return () => void told.delete(handler as (message: unknown) => void);
        },
        onReconnect(listener) {
          onReconnect.add(listener);
          return () => void onReconnect.delete(listener);
        },
        ping,
      },
      name: "b",
      log: { error: (text) => void logged.push(text) },
      onForeign: (reason) => void ended.push(reason),
    });
    onTestFinished(() => guard.close());
    return {
      guard,
      said,
      ended,
      logged,
      hear(isAnswer: boolean) {
        for (const tell of told) tell({ name: "a", deploymentId: "one", isAnswer });
      },
      reconnect() {
        for (const listener of onReconnect) listener();
      },
    };
  }

  it("an answer ends who has just come, and is another's arrival later", () => {
    const scene = guardByHand();
    void scene.guard.join("two");
    vi.advanceTimersByTime(LIMITS.busGuardMs - 1);
    scene.hear(true);
    expect([scene.ended.length, scene.logged.length]).toEqual([1, 0]);
    vi.advanceTimersByTime(1);
    scene.hear(true);
    expect([scene.ended.length, scene.logged.length]).toEqual([1, 1]);
    expect(scene.said.map(({ isAnswer }) => isAnswer)).toEqual([false]);
  });

  it("each question is answered, and told once in a while", () => {
    const scene = guardByHand();
    void scene.guard.join("two");
    for (const [afterMs, logged] of [
      [0, 1],
      [1, 1],
      [LIMITS.troubleLogMs - 2, 1],
      [1, 2],
      [1, 2],
    ] as const) {
      vi.advanceTimersByTime(afterMs);
      scene.hear(false);
      expect(scene.logged).toHaveLength(logged);
    }
    expect(scene.said.map(({ isAnswer }) => isAnswer)).toEqual([false, ...Array(5).fill(true)]);
  });

  it("after a reconnect the others are told again, and nobody ends for what they say", () => {
    const scene = guardByHand();
    void scene.guard.join("two");
    vi.advanceTimersByTime(LIMITS.busGuardMs);
    scene.reconnect();
    expect(scene.said.map(({ isAnswer }) => isAnswer)).toEqual([false, false]);
    scene.hear(true);
    expect([scene.ended.length, scene.logged.length]).toEqual([0, 1]);
  });

  it("a question that reached nobody is asked again, and may be answered for as long again", () => {
    const scene = guardByHand();
    void scene.guard.join("two");
    scene.said[0]!.onUndelivered!();
    vi.advanceTimersByTime(LIMITS.busGuardRetryMs - 1);
    expect(scene.said).toHaveLength(1);
    scene.said[0]!.onUndelivered!();
    vi.advanceTimersByTime(LIMITS.busGuardRetryMs);
    expect(scene.said).toHaveLength(2);
    vi.advanceTimersByTime(LIMITS.busGuardMs - 1);
    scene.hear(true);
    expect(scene.ended).toHaveLength(1);
  });

  it("a guard that is closed neither hears, nor asks, nor says anything", () => {
    const scene = guardByHand();
    void scene.guard.join("two");
    scene.said[0]!.onUndelivered!();
    scene.guard.close();
    scene.hear(false);
    scene.reconnect();
    vi.advanceTimersByTime(LIMITS.busGuardRetryMs);
    expect([scene.said.length, scene.logged.length]).toEqual([1, 0]);
  });

  it("who comes joins when the bus has answered, or at once while the bus is away", async () => {
    let answer = (): void => undefined;
    const present = guardByHand(() => new Promise((resolve) => (answer = () => resolve(0))));
    let isJoined = false;
    const joining = present.guard.join("two").then(() => (isJoined = true));
    await realSleep(LIMITS.busGuardAnswerMs + 50);
    expect(isJoined).toBe(false);
    answer();
    await joining;
    const startedAtMs = Date.now();
    await guardByHand(() => Promise.reject(new Error("away"))).guard.join("two");
    expect(Date.now() - startedAtMs).toBeLessThan(LIMITS.busGuardAnswerMs);
  });
});
