/** Nothing secret gets into the log, whatever is logged. */
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import * as fs from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { describe, expect, it, onTestFinished } from "vitest";
import { LIMITS } from "./limits.ts";
import { buildLog, maskLine, openDestination } from "./log.ts";

describe("a finished line", () => {
  it.each([
    ["postgres://coffer:hush@db:5432/coffer", "postgres://coffer:***@db:5432/coffer"],
    ["nats://hush@a:1,nats://u:hush@b:2", "nats://***@a:1,nats://u:***@b:2"],
    ["redis://:hush@r:6379/0", "redis://:***@r:6379/0"],
    ["postgres://db/c?sslpassword=hush&x=1", "postgres://db/c?sslpassword=***&x=1"],
    ['{"msg":"at postgres://u:hush@db/c","n":1}', '{"msg":"at postgres://u:***@db/c","n":1}'],
    ["http://127.0.0.1:3000/wallets/a@b", "http://127.0.0.1:3000/wallets/a@b"],
    ["a@b: see https://example.com/x", "a@b: see https://example.com/x"],
    ["/wallets/user:1@x", "/wallets/user:1@x"],
  ])("%s becomes %s", (line, expected) => {
    expect(maskLine(line)).toBe(expected);
  });
});

describe("the log", () => {
  function linesOf(write: (log: ReturnType<typeof buildLog>) => void): string[] {
    const lines: string[] = [];
    write(buildLog({ level: "debug", hostId: "h1" }, { write: (line) => void lines.push(line) }));
    return lines;
  }

  it("names the process and leaves the rest as it is", () => {
    const [line = ""] = linesOf((log) => log.warn({ correlationId: "c1", n: 1 }, "text"));
    expect(JSON.parse(line)).toMatchObject({
      level: 40,
      hostId: "h1",
      correlationId: "c1",
      n: 1,
      msg: "text",
    });
  });

  it("that cannot be written does not end the process, nor keep it from its end", async () => {
    const full = fs.openSync("/dev/full", "w");
    onTestFinished(() => fs.closeSync(full));
    const destination = openDestination(full);
    const failed = once(destination, "error");
    const log = buildLog({ level: "info", hostId: "h1" }, destination);
    log.info("first");
    await failed;
    log.info("second");
    // As pino does when the process exits; by itself it would try for ever
    expect(() => destination.flushSync()).not.toThrow();
  });

  // The first write waits in the kernel; the second, as to a pipe of the process's own, is refused.
  it.each([
    ["for a while", 0, LIMITS.logWriteMs + 10],
    ["from this moment on", fs.constants.O_NONBLOCK, 0],
  ])(
    "that nobody reads %s does not keep the process from its end",
    async (_, flags, waitMs) => {
      // Given a pipe that is full, and one line more
      const folder = fs.mkdtempSync(join(tmpdir(), "coffer-log-"));
      onTestFinished(() => fs.rmSync(folder, { recursive: true }));
      const pipe = join(folder, "pipe");
      execFileSync("mkfifo", [pipe]);
      const reader = fs.openSync(pipe, fs.constants.O_RDWR);
      const log = fs.openSync(pipe, fs.constants.O_WRONLY | flags);
      const destination = openDestination(log);
      const drained = once(destination, "drain").finally(() => fs.closeSync(log));
      destination.write("x".repeat(1_000_000));
      destination.write("more");
      if (waitMs > 0) await sleep(waitMs);
      // And somebody who would end a wait for it
      const script = "setTimeout(() => fs.createReadStream(process.argv[1]).resume(), 10_000)";
      const rescue = spawn(process.execPath, ["-e", script, pipe]);
      onTestFinished(() => void rescue.kill());
      // When pino writes what waits, as it does when the process exits
      const beganMs = performance.now();
      destination.flushSync();
      // Then it is not held up, and whoever reads after all gets it
      expect(performance.now() - beganMs).toBeLessThan(5_000);
      const read = fs.createReadStream(pipe, { fd: reader }).resume();
      await drained;
      read.destroy();
    },
    30_000,
  );

  it("drops lines past its bound while it cannot be written", async () => {
    const full = fs.openSync("/dev/full", "w");
    onTestFinished(() => fs.closeSync(full));
    const destination = openDestination(full);
    let dropped = 0;
    destination.on("drop", () => (dropped += 1));
    const log = buildLog({ level: "info", hostId: "h1" }, destination);
    for (let line = 0; line < 20; line += 1) log.info("x".repeat(LIMITS.logWaitingCharsMax / 10));
    expect(dropped).toBeGreaterThanOrEqual(10);
  });

  it("cuts out what libraries put beside their errors", () => {
    const failure = Object.assign(new Error("WRONGPASS at redis://u:hush@r:1"), {
      command: { name: "auth", args: ["u", "hush"] },
      password: "hush",
      connectionString: "postgres://u:hush@db/c",
    });
    const lines = linesOf((log) => {
      log.error({ err: failure }, "failed");
      log.error({ options: { password: "hush", token: "hush", user: "u" } }, "options");
      log.info({ password: "hush" }, "at nats://hush@n:1");
    });
    expect(lines).toHaveLength(3);
    expect(lines.join("\n")).not.toContain("hush");
    expect(JSON.parse(lines[1]!)).toMatchObject({ options: { user: "u", password: "***" } });
  });

  it("keeps its level", () => {
    const lines: string[] = [];
    const log = buildLog(
      { level: "warn", hostId: "h" },
      { write: (line) => void lines.push(line) },
    );
    log.info("quiet");
    log.warn("loud");
    expect(lines).toHaveLength(1);
  });
});
