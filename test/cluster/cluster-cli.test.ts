/**
 * `npm run cluster`, run as the file it is, with commands that come all at once, as from a paste or
 * a pipe: each has its effect before the next one begins.
 */
import { spawn } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";
import { text } from "node:stream/consumers";
import { expect, it, onTestFinished } from "vitest";

import { packageRoot } from "../../src/package-root.ts";

const cli = join(packageRoot, "dist", "test", "cluster", "cluster-cli.js");

it(
  "carries out commands one after the other, and ends behind the last",
  { timeout: 120_000 },
  async () => {
    // Given a small cluster, and commands of which each needs the one before
    const args = ["--hosts", "1", "--gateways", "1", "--port", "0"];
    const child = spawn(process.execPath, [cli, ...args], { stdio: ["pipe", "pipe", "inherit"] });
    const ended = once(child, "exit");
    onTestFinished(async () => {
      child.kill();
      await ended;
    });
    const commands = ["kill nats", "start nats", "kill redis", "start redis", "log host-9"];
    child.stdin.end([...commands, "quit", "kill gateway-1", ""].join("\n"));
    // Then each has said what it did, in that order, and nothing is done behind the end
    const said = await text(child.stdout);
    expect(await ended).toEqual([0, null]);
    const effects = /\w+ was killed|\w+ is there again|no host-9/g;
    expect(said.match(effects)).toEqual([
      "nats was killed",
      "nats is there again",
      "redis was killed",
      "redis is there again",
      "no host-9",
    ]);
    expect(said).toContain("everything has ended");
  },
);
