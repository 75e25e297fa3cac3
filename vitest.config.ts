/**
 * Two projects. `unit` stands beside the sources and needs no server (the embedded PostgreSQL's own test starts one).
 * `integration` runs against real servers that the global setup starts, three files at a time: they share the cores with the
 * servers and measure deadlines, and much of their time they wait for one.
 */
import { defineConfig } from "vitest/config";

export default defineConfig({
  test: {
    pool: "forks",
    maxWorkers: 3,
    // Looked at again and again until it holds; a busy machine needs more than a second.
    expect: { poll: { timeout: 10_000 } },
    coverage: {
      provider: "v8",
      include: ["src/**/*.ts", "actors/**/*.ts", "gateway/**/*.ts"],
      exclude: ["**/*.test.ts", "src/wallet-{fixtures,model}.ts"],
    },
    projects: [
      {
        extends: true,
        test: {
          name: "unit",
          include: ["{src,actors,gateway,bench}/**/*.test.ts"],
          testTimeout: 15_000,
        },
      },
      {
        extends: true,
        test: {
          name: "integration",
          include: ["test/**/*.test.ts"],
          globalSetup: ["test/global-setup.ts"],
          testTimeout: 30_000,
          hookTimeout: 60_000,
        },
      },
    ],
  },
});
