import { fileURLToPath } from "node:url";
import { afterEach, describe, expect, it, vi } from "vitest";
import {
  UsageError,
  parseBenchOptions,
  parseLoadOptions,
  parseMemoryOptions,
  parseReadsOptions,
  parseSeedOptions,
} from "./options.ts";

describe("the command line of the benchmark", () => {
  it("has defaults for everything", () => {
    expect(parseBenchOptions([])).toEqual({
      seconds: 8,
      rounds: 3,
      connections: 128,
      shapes: [
        "credits",
        "hot-credits",
        "transfers",
        "hot-transfers",
        "latency",
        "batch",
        "cluster",
      ],
      cpuProf: false,
      rivals: true,
      generator: "auto",
      poolSize: 20,
    });
  });

  it("takes every option, and shapes in their own order", () => {
    const args = [
      "--seconds=2",
      "--rounds",
      "1",
      "--connections",
      "16",
      "--no-rivals",
      "--cpu-prof",
    ];
    args.push("--only", "latency, credits", "--generator", "node", "--pool-size", "32");
    args.push("--database-url", "postgres://u:p@localhost:5432/x");
    expect(parseBenchOptions(args)).toEqual({
      seconds: 2,
      rounds: 1,
      connections: 16,
      shapes: ["credits", "latency"],
      cpuProf: true,
      rivals: false,
      generator: "node",
      poolSize: 32,
      databaseUrl: "postgres://u:p@localhost:5432/x",
    });
  });

  it.each([
    [["--seconds", "0"], '--seconds must be a whole number from 1 to 600, not "0"'],
    [["--seconds", "1.5"], '"1.5"'],
    [["--rounds", "51"], "from 1 to 50"],
    [["--connections", "many"], '"many"'],
    [["--connections", ""], '""'],
    [["--only", "credits,debits"], 'not "debits"'],
    [["--generator", "ab"], "wrk or node"],
    [["--database-url", "mysql://x"], "--database-url"],
    [["--no-such-option"], "--no-such-option"],
    [["extra"], "extra"],
  ])("refuses %j", (args, message) => {
    expect(() => parseBenchOptions(args)).toThrow(UsageError);
    expect(() => parseBenchOptions(args)).toThrow(message);
  });

  it("gives help when asked", () => {
    expect(parseBenchOptions(["--help"])).toBe("help");
    expect(parseLoadOptions(["--help", "--seed", "1"])).toBe("help");
  });
});

describe("the command line of the load", () => {
  it("has defaults, and a random seed", () => {
    expect(parseLoadOptions([])).toEqual({
      url: new URL("http://127.0.0.1:3000"),
      wallets: 1_000,
      operations: 20_000,
      workers: 20,
      seed: expect.any(Number),
    });
  });

  it("takes the seed back", () => {
    expect(parseLoadOptions(["--seed", "4294967295"])).toMatchObject({ seed: 4_294_967_295 });
  });

  it.each([
    [["--wallets", "1"], "from 2 to 100000"],
    [["--operations", "-5"], "--operations"],
    [["--workers", "1e3"], '"1e3"'],
    [["--seed", "4294967296"], "--seed"],
    [["--url", "localhost:3000"], "--url"],
    [["--url", "https://localhost"], "http://"],
    [["--url", "http://localhost/api"], "without a path"],
  ])("refuses %j", (args, message) => {
    expect(() => parseLoadOptions(args)).toThrow(UsageError);
    expect(() => parseLoadOptions(args)).toThrow(message);
  });
});

describe("bench:seed", () => {
  it("has sizes and a folder of its own without arguments", () => {
    expect(parseSeedOptions([])).toEqual({
      wallets: 100_000,
      events: 1_000_000,
      dataDir: ".coffer-seed",
    });
  });

  it.each([
    [["--wallets", "3"], "even"],
    [["--wallets", "0"], "from 2"],
    [["--wallets", "10", "--events", "19"], "from 20"],
    [["--events", "1e6"], '"1e6"'],
    [["--database-url", "mysql://x"], "postgresql://"],
  ])("refuses %j", (args, message) => {
    expect(() => parseSeedOptions(args)).toThrow(UsageError);
    expect(() => parseSeedOptions(args)).toThrow(message);
  });
});

describe("the command line of the reads", () => {
  it("has defaults, and takes every option", () => {
    expect(parseReadsOptions([])).toEqual({ repeats: 11, only: "", dataDir: ".coffer-seed" });
    const args = ["--repeats", "2", "--only=wallets", "--data-dir", "d"];
    args.push("--database-url", "postgres://u:p@localhost:5432/x");
    expect(parseReadsOptions(args)).toEqual({
      repeats: 2,
      only: "wallets",
      dataDir: "d",
      databaseUrl: "postgres://u:p@localhost:5432/x",
    });
    expect(parseReadsOptions(["--help", "--repeats", "0"])).toBe("help");
  });

  it.each([
    [["--repeats", "1"], '--repeats must be a whole number from 2 to 1000, not "1"'],
    [["--repeats", ""], '""'],
    [["--database-url", "nope"], "--database-url must be a URL with postgres: or postgresql://"],
    [["extra"], "extra"],
  ])("refuses %j", (args, message) => {
    expect(() => parseReadsOptions(args)).toThrow(UsageError);
    expect(() => parseReadsOptions(args)).toThrow(message);
  });
});

describe("the command line of the memory benchmark", () => {
  it("has a default, and takes how many wallets", () => {
    expect(parseMemoryOptions([])).toEqual({ wallets: 100_000 });
    expect(parseMemoryOptions(["--wallets", "1"])).toEqual({ wallets: 1 });
    expect(parseMemoryOptions(["--help", "--wallets", "0"])).toBe("help");
  });

  it.each([
    [["--wallets", "0"], '--wallets must be a whole number from 1 to 10000000, not "0"'],
    [["--wallets", "1e5"], '"1e5"'],
    [["50000"], "50000"],
  ])("refuses %j", (args, message) => {
    expect(() => parseMemoryOptions(args)).toThrow(UsageError);
    expect(() => parseMemoryOptions(args)).toThrow(message);
  });
});

describe("a bad argument", () => {
  const before = process.argv;
  afterEach(() => {
    process.argv = before;
    process.exitCode = undefined;
    vi.restoreAllMocks();
  });

  it.each([
    ["bench", () => import("./bench.ts")],
    ["bench:load", () => import("./load.ts")],
    ["bench:seed", () => import("./seed.ts")],
    ["bench:reads", () => import("./reads.ts")],
  ])("ends %s with code 2, the reason and the usage", async (entry, start) => {
    const written = vi.spyOn(console, "error").mockImplementation(() => {});
    process.argv = ["node", entry, "--nonsense"];
    await start();
    expect(process.exitCode).toBe(2);
    const text = written.mock.calls.flat().join("\n");
    expect(text).toContain("--nonsense");
    expect(text).toContain("Usage: npm run bench");
  });

  it("ends the memory benchmark, which is also preloaded elsewhere, in the same way", async () => {
    const written = vi.spyOn(console, "error").mockImplementation(() => {});
    process.argv = ["node", fileURLToPath(new URL("./memory.ts", import.meta.url)), "50000"];
    await import("./memory.ts");
    expect(process.exitCode).toBe(2);
    const text = written.mock.calls.flat().join("\n");
    expect(text).toContain("50000");
    expect(text).toContain("Usage: node --expose-gc dist/bench/memory.js");
  });
});
