/** Deployments that meet on one bus, by guards on an in-process one. */
import { expect, it, onTestFinished } from "vitest";
import { buildBusGuard } from "./bus-guard.ts";
import { buildMemoryBus } from "./memory-bus.ts";
import { SUBJECTS } from "./protocol.ts";

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
  expect(logged).toHaveLength(1);
});
