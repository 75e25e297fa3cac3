/**
 * Two deployments on one NATS, as real processes: the second one must not serve, since each would
 * carry out the other's commands. On one Redis they may be.
 */
import { afterAll, beforeAll, expect, inject, it, onTestFinished } from "vitest";
import { askJson } from "./stage/json.ts";
import { createDatabase, dropDatabase, startNats, type TestServer } from "./stage/servers.ts";
import { runCoffer, startCoffer, type Environment } from "./stage/process.ts";

const NAMES = ["bus_guard_one", "bus_guard_two"];
let nats: TestServer;
let urls: string[];

beforeAll(async () => {
  nats = await startNats();
  urls = await Promise.all(NAMES.map((name) => createDatabase(inject("postgresUrl"), name)));
});

afterAll(async () => {
  for (const name of NAMES) await dropDatabase(inject("postgresUrl"), name);
  await nats?.stop();
});

it("the second deployment on a NATS ends, whatever its role, and the first one serves on", async () => {
  // Given a deployment at work, and the databases of another one
  const env: Environment = { NATS_URL: nats.url, EVENTS: "off", LOG_LEVEL: "error" };
  const alone = await startCoffer({ DATABASE_URL: urls[1]! });
  await alone.stop();
  const first = await startCoffer({ ...env, DATABASE_URL: urls[0]!, HOST_ID: "first" });
  onTestFinished(async () => void (await first.kill()));
  await first.untilReady();

  // When the other one comes to its NATS
  for (const role of [{}, { ROLE: "gateway" }, { ROLE: "host", REDIS_URL: inject("redisUrl") }]) {
    const { code, output } = await runCoffer({ ...env, ...role, DATABASE_URL: urls[1]! });
    // Then it ends, and says what is wrong
    expect(code).toBe(1);
    expect(output).toMatch(/NATS_URL: deployment [\da-f-]{36} \(first\) is on this NATS/);
  }

  // And the first one has heard of it, and serves
  expect(first.output).toMatch(/deployment [\da-f-]{36} \(.+\) has come to the NATS of this one/);
  expect((await askJson(`${first.baseUrl}/wallets`, {})).status).toBe(201);
});

it("hosts of two deployments that share a Redis do not take each other for theirs", async () => {
  // Given a host each, on a NATS of its own
  const other = await startNats();
  onTestFinished(() => other.stop());
  const hosts = await Promise.all(
    [nats, other].map(async ({ url }, index) => {
      const host = await startCoffer({
        ROLE: "host",
        NATS_URL: url,
        EVENTS: "off",
        REDIS_URL: inject("redisUrl"),
        DATABASE_URL: urls[index]!,
        HOST_ID: `guarded-${index}`,
        LOG_LEVEL: "warn",
      });
      onTestFinished(async () => void (await host.kill()));
      return host;
    }),
  );
  // Then each comes to serve all shards
  for (const host of hosts) {
    await expect
      .poll(async () => await (await fetch(`${host.baseUrl}/metrics`)).text(), { timeout: 20_000 })
      .toMatch(/^coffer_host_shards 256$/m);
  }
});
