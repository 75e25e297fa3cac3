/**
 * What the command desk is told late, twice or of an older sending: it neither answers by it what
 * nobody can know, nor sends a command once more than it has to.
 */
import { describe, expect, it } from "vitest";

import { LIMITS } from "../src/limits.ts";
import { commandFor, faultOf, peek, rejected, setUp } from "../test/stage/desk.ts";

const { commandAttemptMs, commandDeadlineMs, commandRetryPauseMs } = LIMITS;

/** A command whose first sending got no answer in its time, and the second of which is under way. */
async function sentTwice() {
  const setting = setUp();
  const owner = setting.own(() => null);
  const outcome = setting.desk.submit(commandFor("a"));
  await setting.settle();
  await setting.pass(commandAttemptMs);
  expect(owner.deliveries).toHaveLength(2);
  return { ...setting, ...owner, outcome };
}

describe("a sending that reached nobody, told late,", () => {
  it("says nothing about the one that is under way", async () => {
    // Given a command that was lost on its way, and whose next sending has arrived
    const { desk, own, lose, settle, pass } = setUp();
    const find = lose();
    const outcome = desk.submit(commandFor("a"));
    await settle();
    const lost = find();
    const { deliveries } = own(() => null);
    await pass(commandAttemptMs);

    // When the bus says so of the first one only now
    for (const tell of lost) tell();

    // Then the second has all its time, and is still in doubt at the end
    await pass(commandAttemptMs - 1);
    expect(deliveries).toHaveLength(1);
    await pass(commandDeadlineMs);
    expect(await outcome).toEqual(faultOf("unknown"));
  });

  it("does not bring a command back that is answered", async () => {
    const { desk, own, lose, reply, settle, pass } = setUp();
    const first = own(() => null);
    const outcome = desk.submit(commandFor("a"));
    await settle();
    const find = lose();
    await pass(commandAttemptMs);
    const lost = find();
    reply(first.deliveries[0]!.seq, rejected);
    expect(await outcome).toEqual(rejected);
    expect(lost).toHaveLength(1);
    for (const tell of lost) tell();
    await pass(commandRetryPauseMs);
    expect(first.deliveries).toHaveLength(1);
  });
});

describe("a refusal", () => {
  it("of an older sending leaves the one that is under way its time", async () => {
    const { deliveries, reply, settle, pass } = await sentTwice();
    reply(deliveries[0]!.seq, faultOf("unavailable"));
    await settle();
    await pass(commandAttemptMs - 1);
    expect(deliveries).toHaveLength(2);
  });

  it("that is told twice makes one pause, as short as any first one", async () => {
    const { deliveries, reply, settle, pass } = await sentTwice();
    for (const { seq } of [deliveries[1]!, deliveries[1]!]) reply(seq, faultOf("unavailable"));
    await settle();
    await pass(commandRetryPauseMs);
    expect(deliveries).toHaveLength(3);
  });

  it("is forgotten with its command: what is answered in the pause is not sent again", async () => {
    const { deliveries, outcome, reply, settle, pass } = await sentTwice();
    reply(deliveries[1]!.seq, faultOf("unavailable"));
    await settle();
    reply(deliveries[0]!.seq, rejected);
    expect(await outcome).toEqual(rejected);
    await pass(commandRetryPauseMs);
    expect(deliveries).toHaveLength(2);
  });
});

it("A reconnect at the moment when an attempt is over sends a command once, not twice.", async () => {
  const { desk, own, reconnect, settle, pass } = setUp();
  const { deliveries } = own(() => null);
  void desk.submit(commandFor("a"));
  await settle();
  const reconnected = reconnect();
  await pass(commandAttemptMs);
  await reconnected;
  expect(deliveries.map(({ attempt }) => attempt)).toEqual([1, 2]);
});

it("Silent owners count as lost ones do: a command that meets both is given up all the same.", async () => {
  // Given an owner that is silent twice, and then ends over the command each time
  const { desk, own, settle, pass } = setUp();
  const { deliveries } = own((_message, delivery) => (delivery <= 2 ? null : faultOf("unknown")));
  const outcome = desk.submit(commandFor("a"));
  await settle();
  await pass(commandAttemptMs);
  await pass(commandAttemptMs);
  expect(await peek(outcome)).toBe("open");
  for (let times = 0; times < LIMITS.commandLossesMax; times += 1) {
    await pass(LIMITS.commandRetryPauseMsMax);
  }
  expect(await outcome).toEqual(faultOf("unknown"));
  expect(deliveries).toHaveLength(LIMITS.commandLossesMax);
});
