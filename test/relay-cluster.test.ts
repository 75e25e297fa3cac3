/** The relay over a cluster of NATS servers that loses its majority. */
import { expect, it, onTestFinished } from "vitest";

import { EVENT_STREAM } from "../src/core/event-stream.ts";
import { withLimits } from "./stage/lanes.ts";
import {
  addStream,
  busOf,
  committedIds,
  follow,
  openWallets,
  problemsOf,
  relayOf,
  write,
} from "./stage/relay.ts";
import { startNatsCluster } from "./stage/servers.ts";
import { eventually, startStack, until } from "./stage/stack.ts";

/** NATS elects within seconds, and on a busy machine not at the first attempt. */
const ELECTED_MS_MAX = 90_000;

it(
  "over three servers, two of which are away, is no leader and no flicker, and nothing is lost",
  async () => {
    // Given a stream that was made with three replicas
    const stack = await startStack();
    onTestFinished(() => stack.close());
    withLimits({ relayRetryMsMax: 500 });
    const servers = await startNatsCluster(3);
    onTestFinished(async () => void (await Promise.all(servers.map((server) => server.stop()))));
    const bus = await busOf(servers.map(({ url }) => url).join());
    const relay = relayOf(stack);
    const warnings = addStream(relay, bus, servers.length);
    const [walletId = ""] = await openWallets(stack, 1);
    await until("it is told", () => relay.status()[0]!.delivered === 1, ELECTED_MS_MAX);
    const manager = await (await bus.connection).jetstreamManager({ checkAPI: false });
    const { config } = await eventually(() => manager.streams.info(EVENT_STREAM));
    expect(config.num_replicas).toBe(servers.length);

    // When two of them die
    const [, ...others] = servers;
    await Promise.all(others.map((server) => server.kill()));
    await until("the bus is there", () => bus.state === "connected", 15_000);
    await write(stack, [walletId], 5);
    await until("it is known", () => relay.status()[0]!.state === "no leader", ELECTED_MS_MAX);
    const known = warnings.length;
    const states = new Set<string>();
    for (let look = 0; look < 100; look += 1) {
      states.add(relay.status()[0]!.state);
      await new Promise((resolve) => setTimeout(resolve, 20));
    }

    // Then that stays so, and nothing is published in vain
    expect([...states]).toEqual(["no leader"]);
    expect(warnings).toHaveLength(known);
    expect(warnings.at(-1)).toContain("has no leader");

    // And when they are back, everything follows in order
    await Promise.all(others.map((server) => server.restart()));
    await until("all are told", () => relay.status()[0]!.delivered === 6, ELECTED_MS_MAX);
    const messages = await follow(servers.map(({ url }) => url).join());
    await until("all are there", () => messages.length === 6);
    const events = messages.map(({ event }) => event);
    expect(problemsOf(events, await committedIds(stack))).toEqual([]);
  },
  4 * ELECTED_MS_MAX,
);
