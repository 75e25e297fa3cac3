/**
 * Before the integration tests: builds `dist/`, because hosts, lanes and gateways run as real processes and threads from
 * there, and starts one PostgreSQL, one NATS with JetStream and one Redis for the whole run. Test files get the addresses by
 * `inject("postgresUrl")` and so on, and make a database of their own. A failed build fails the run at once.
 */
import { spawnSync } from "node:child_process";
import type { TestProject } from "vitest/node";
import { packageRoot } from "../src/package-root.ts";
import { startNats, startPostgres, startRedis } from "./servers.ts";

declare module "vitest" {
  export interface ProvidedContext {
    postgresUrl: string;
    natsUrl: string;
    redisUrl: string;
  }
}

export default async function setup(project: TestProject): Promise<() => Promise<void>> {
  build();
  const starting = await Promise.allSettled([
    startPostgres({ shared: true }),
    startNats({ shared: true, jetstream: true }),
    startRedis({ shared: true }),
  ]);
  const stopAll = async (): Promise<void> => {
    const started = starting.filter((it) => it.status === "fulfilled");
    await Promise.all(started.map((it) => it.value.stop()));
  };
  const [postgres, nats, redis] = starting;
  if (postgres.status === "rejected" || nats.status === "rejected" || redis.status === "rejected") {
    await stopAll();
    const failed = starting.filter((it) => it.status === "rejected");
    throw new Error(failed.map(({ reason }) => String(reason)).join("\n"));
  }
  project.provide("postgresUrl", postgres.value.url);
  project.provide("natsUrl", nats.value.url);
  project.provide("redisUrl", redis.value.url);
  return stopAll;
}

function build(): void {
  const { status, stdout, stderr } = spawnSync("npm", ["run", "build"], {
    cwd: packageRoot,
    encoding: "utf8",
    maxBuffer: 64 * 1_024 * 1_024,
  });
  if (status === 0) return;
  throw new Error(`npm run build failed, and the tests run what it builds:\n${stdout}${stderr}`);
}
