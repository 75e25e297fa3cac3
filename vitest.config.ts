/**
 * Two projects. `unit` stands beside the sources and needs no server (the embedded PostgreSQL's own
 * test starts one). `integration` runs against real servers that the global setup starts, three
 * files at a time: they share the cores with the servers and measure deadlines, but much of their
 * time they wait for one.
 */
import { defineConfig } from "vitest/config";
import { BaseSequencer, type TestSpecification } from "vitest/node";

/**
 * The files that take longest, in the order in which they begin: one that waits most of its time
 * beside two that compute, and none of them alone at the end.
 */
const FIRST = [
  "relay",
  "simulation",
  "batch",
  "roles",
  "cluster",
  "database-loss",
  "relay-cluster",
  "verify-traffic",
  "chaos",
  "verify",
  "error-codes",
  "transfer-chance",
  "relay-process",
  "commit-unknown",
  "crash",
  "databases",
  "nats-bus",
  "transfers",
  "rebuild",
  "snapshots",
  "traces",
  "transfer-crashes",
  "lane-crash",
  "assets",
  "webhooks",
  "http-keys",
  "game-api",
  "http-errors",
  "feed",
  "nats-service",
  "migrate",
  "verify-cli",
];

class InOrder extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const rank = ({ moduleId }: TestSpecification): number => {
      const place = FIRST.findIndex((name) => moduleId.endsWith(`/test/${name}.test.ts`));
      return place < 0 ? FIRST.length : place;
    };
    const sorted = await super.sort(files);
    return sorted.toSorted((one, other) => rank(one) - rank(other));
  }
}

export default defineConfig({
  test: {
    pool: "forks",
    maxWorkers: 3,
    sequence: { sequencer: InOrder },
    // Looked at again and again until it holds; a busy machine needs more than a second.
    expect: { poll: { timeout: 10_000 } },
    coverage: {
      provider: "v8",
      include: ["src/**/*.ts", "actors/**/*.ts", "gateway/**/*.ts"],
      exclude: ["**/*.test.ts"],
    },
    projects: [
      {
        extends: true,
        test: {
          name: "unit",
          // They leave nothing behind in a module, and loading everything anew for each file took
          // as long as running it.
          isolate: false,
          include: ["{src,actors,gateway,bench}/**/*.test.ts"],
          testTimeout: 15_000,
        },
      },
      {
        extends: true,
        test: {
          name: "integration",
          // Three processes load everything once, instead of one for each file; what a file leaves
          // in a shared module is its own to undo.
          isolate: false,
          include: ["test/**/*.test.ts"],
          globalSetup: ["test/stage/global-setup.ts"],
          setupFiles: ["test/stage/each-file.ts"],
          testTimeout: 30_000,
          hookTimeout: 60_000,
        },
      },
    ],
  },
});
