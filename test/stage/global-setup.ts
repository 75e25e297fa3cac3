/**
 * Before the integration tests: builds `dist/`, because hosts, lanes and gateways run as real
 * processes and threads from there, and starts one PostgreSQL, one NATS with JetStream and one
 * Redis for the whole run. Test files get the addresses by `inject("postgresUrl")` and so on, and
 * make databases of their own, mostly as copies of one that is migrated here. A failed build fails
 * the run at once.
 */
import { spawnSync } from "node:child_process";
import type { TestProject } from "vitest/node";
import { migrateUp } from "../../src/postgres/migrate.ts";
import { packageRoot } from "../../src/package-root.ts";
import { createDatabase, dropDatabase, startNats, startPostgres, startRedis } from "./servers.ts";

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
  const migrated = `migrated_${process.pid}`;
  if (postgres.status === "rejected" || nats.status === "rejected" || redis.status === "rejected") {
    await stopAll();
    const failed = starting.filter((it) => it.status === "rejected");
    throw new Error(failed.map(({ reason }) => String(reason)).join("\n"));
  }
  const { url } = postgres.value;
  try {
    await migrateUp(await createDatabase(url, migrated));
  } catch (error) {
    await stopAll();
    throw error;
  }
  project.provide("postgresUrl", url);
  project.provide("migratedDatabase", migrated);
  project.provide("natsUrl", nats.value.url);
  project.provide("redisUrl", redis.value.url);
  return async () => {
    // The server may be one that stays.
    await dropDatabase(url, migrated);
    await stopAll();
  };
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
