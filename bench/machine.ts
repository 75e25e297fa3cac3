/**
 * What a reader needs beside the figures to judge them: the machine, the versions, the commit that
 * was measured, and what the database was told about durability, asked from the running server. The
 * commit latency of the disk is measured too, since a disk that does not really write flatters
 * everything that waits for it.
 */
import { execFileSync } from "node:child_process";
import { availableParallelism, cpus, release, totalmem, type } from "node:os";
import type { Client } from "pg";
import { median } from "./statistics.ts";

export interface Machine {
  cpu: string;
  cores: number;
  memoryGb: number;
  system: string;
  node: string;
  postgres: string;
  generator: string;
}

export interface Durability {
  fsync: string;
  synchronousCommit: string;
  fullPageWrites: string;
  /** Median of small commits, one after the other. */
  commitMs: number;
}

export interface Commit {
  /** Short hash, or `uncommitted` where there is none. */
  id: string;
  /** True when the working tree differs from the commit. */
  dirty: boolean;
}

const PROBE_COMMITS = 200;

export async function describeMachine(client: Client, generator: string): Promise<Machine> {
  return {
    cpu: cpus()[0]?.model.trim() ?? "unknown",
    cores: availableParallelism(),
    memoryGb: Math.round(totalmem() / 2 ** 30),
    system: `${type()} ${release()}`,
    node: process.versions.node,
    postgres: (await show(client, "server_version")).split(" ")[0] ?? "unknown",
    generator,
  };
}

/** Commits `PROBE_COMMITS` rows of a table of its own, one by one. */
export async function describeDurability(client: Client): Promise<Durability> {
  await client.query("CREATE TABLE commit_probe (n integer)");
  const timesMs: number[] = [];
  for (let n = 0; n < PROBE_COMMITS; n += 1) {
    const startMs = performance.now();
    await client.query("INSERT INTO commit_probe VALUES ($1)", [n]);
    timesMs.push(performance.now() - startMs);
  }
  await client.query("DROP TABLE commit_probe");
  return {
    fsync: await show(client, "fsync"),
    synchronousCommit: await show(client, "synchronous_commit"),
    fullPageWrites: await show(client, "full_page_writes"),
    commitMs: median(timesMs),
  };
}

async function show(client: Client, setting: string): Promise<string> {
  const result = await client.query<Record<string, string>>(`SHOW ${setting}`);
  return result.rows[0]?.[setting] ?? "unknown";
}

export function describeCommit(folder: string): Commit {
  const git = (...args: string[]) =>
    execFileSync("git", args, {
      cwd: folder,
      encoding: "utf8",
      stdio: ["ignore", "pipe", "ignore"],
    });
  try {
    return {
      id: git("rev-parse", "--short", "HEAD").trim(),
      dirty: git("status", "--porcelain").trim() !== "",
    };
  } catch {
    return { id: "uncommitted", dirty: true };
  }
}

/** `Intel Xeon, 2 cores, 24 GB; Node 20.20.2, PostgreSQL 18.4, wrk 4.1.0` */
export function machineLine(machine: Machine): string {
  const { cpu, cores, memoryGb, node, postgres, generator } = machine;
  return `${cpu}, ${cores} cores, ${memoryGb} GB; Node ${node}, PostgreSQL ${postgres}, ${generator}`;
}
