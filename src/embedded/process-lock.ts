/**
 * Who is at work on a data folder: the Coffer that holds its lock, and the PostgreSQL processes
 * that an earlier one left. A process number alone proves nothing, since the system gives it to a
 * stranger sooner or later; so a process is told by its number and start time, or by what it works
 * on. Linux answers from /proc, other systems through `ps`. No lock of the kernel's is used,
 * because Node has none; a file whose owner is dead is taken over instead.
 */
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import * as fs from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";
import { LIMITS } from "../limits.ts";

// --- The lock ------------------------------------------------------------------------------------

/**
 * `heldBy` is the process id of the living owner. `release` removes the file if it is still ours.
 */
export type LockAttempt = { release: () => void } | { heldBy: number };

/**
 * The file holds our process id and start time; the time tells a living owner from a stranger that
 * got the same number. It appears complete or not at all (a link). A stale one is removed by one
 * process at a time, who looks again before: otherwise what one has found stale could be another's
 * by the time it is removed. Whose turn that is says a lock beside it, taken the same way, so that
 * nobody who dies in between is in the way. Whoever has the turn is named as owner: it is about to
 * be, or gives way to one that is.
 */
export function takeLock(file: string): LockAttempt {
  const mine = `${file}.${process.pid}-${randomBytes(4).toString("hex")}`;
  const text = `${process.pid}\n${inspect(process.pid)?.startedAt ?? ""}\n${randomBytes(8).toString("hex")}\n`;
  try {
    fs.writeFileSync(mine, text, { mode: 0o644 });
    while (!linkIfAbsent(mine, file)) {
      const held = readIfPresent(file);
      if (held === undefined) continue;
      const heldBy = livingHolder(held);
      if (heldBy !== undefined) return { heldBy };
      const turn = takeLock(`${file}.stale`);
      if ("heldBy" in turn) return turn;
      try {
        if (readIfPresent(file) === held) fs.rmSync(file, { force: true });
      } finally {
        turn.release();
      }
    }
  } finally {
    fs.rmSync(mine, { force: true });
  }
  const release = (): void => {
    if (readIfPresent(file) === text) fs.rmSync(file, { force: true });
  };
  return { release };
}

/** Undefined when the lock is stale: its owner is gone, or another process has its number now. */
function livingHolder(lockText: string): number | undefined {
  const [pidText = "", startedAt = ""] = lockText.split("\n");
  const pid = Number.parseInt(pidText, 10);
  const holder = Number.isInteger(pid) && pid > 0 ? inspect(pid) : undefined;
  if (holder === undefined) return undefined;
  const isStranger = startedAt !== "" && holder.startedAt !== "" && holder.startedAt !== startedAt;
  return isStranger ? undefined : pid;
}

function linkIfAbsent(from: string, to: string): boolean {
  try {
    fs.linkSync(from, to);
    return true;
  } catch (error) {
    if (codeOf(error) === "EEXIST") return false;
    throw error;
  }
}

function readIfPresent(file: string): string | undefined {
  try {
    return fs.readFileSync(file, "utf8");
  } catch (error) {
    if (codeOf(error) === "ENOENT") return undefined;
    throw error;
  }
}

// --- Processes -----------------------------------------------------------------------------------

export interface ProcessInfo {
  pid: number;
  parentPid: number;
  /** Same text for the same process only; empty when the system does not tell. */
  startedAt: string;
  command: string;
}

/**
 * What the system says about a process; undefined when it is gone or only waits to be buried by its
 * parent.
 */
export function inspect(pid: number): ProcessInfo | undefined {
  if (process.platform !== "linux") return listWithPs(["-p", String(pid)])[0];
  try {
    const stat = fs.readFileSync(`/proc/${pid}/stat`, "utf8");
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    if (fields[0] === "Z" || fields[0] === "X") return undefined;
    const boot = fs.readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    const command = fs.readFileSync(`/proc/${pid}/cmdline`, "utf8").replaceAll("\0", " ");
    const startedAt = `${boot} ${fields[19]}`;
    return { pid, parentPid: Number(fields[1]), startedAt, command };
  } catch {
    return signal(pid, 0) ? { pid, parentPid: 0, startedAt: "", command: "" } : undefined;
  }
}

function listProcesses(): ProcessInfo[] {
  if (process.platform !== "linux") return listWithPs(["-A"]);
  const pids = fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  return pids.flatMap((pid) => inspect(Number(pid)) ?? []);
}

function listWithPs(which: string[]): ProcessInfo[] {
  let text = "";
  try {
    const args = [...which, "-o", "pid=,ppid=,stat=,lstart=,command="];
    text = execFileSync("ps", args, {
      encoding: "utf8",
      env: { PATH: "/usr/bin:/bin", LC_ALL: "C" },
    });
  } catch {
    // ps exits with 1 when there is no such process.
  }
  const row = /^\s*(\d+)\s+(\d+)\s+(\S+)\s+(\S+\s+\S+\s+\S+\s+\S+\s+\S+)\s+(.*)$/;
  return text.split("\n").flatMap((line) => {
    const [, pid, parentPid, state, startedAt = "", command = ""] = row.exec(line) ?? [];
    if (state === undefined || state.startsWith("Z")) return [];
    return { pid: Number(pid), parentPid: Number(parentPid), startedAt, command };
  });
}

/**
 * A postmaster names its cluster in its command; its children rename themselves and keep the
 * cluster as working folder. A person's shell that stands in the folder is neither.
 */
export function worksOn({ pid, command }: ProcessInfo, cluster: string): boolean {
  if (command.includes(`-D ${cluster} -p `)) return true;
  try {
    return command.startsWith("postgres: ") && fs.readlinkSync(`/proc/${pid}/cwd`) === cluster;
  } catch {
    return false;
  }
}

export function membersOf(postmasterPid: number, cluster: string): number[] {
  const others = listProcesses().filter(({ pid }) => pid !== process.pid && pid !== postmasterPid);
  const members = others.filter(
    (it) => (postmasterPid > 0 && it.parentPid === postmasterPid) || worksOn(it, cluster),
  );
  return members.map(({ pid }) => pid);
}

export async function isGoneWithin(pids: number[], boundMs: number): Promise<boolean> {
  const deadlineMs = performance.now() + boundMs;
  while (pids.some((pid) => inspect(pid) !== undefined)) {
    if (performance.now() > deadlineMs) return false;
    await sleep(LIMITS.processPollMs);
  }
  return true;
}

/**
 * Whether it has ended by then; for an exit handler, in which nothing asynchronous happens any
 * more, so it blocks the thread.
 */
export function blockUntilGone(pid: number, deadlineMs: number): boolean {
  while (inspect(pid) !== undefined) {
    if (performance.now() >= deadlineMs) return false;
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, LIMITS.postgresExitPollMs);
  }
  return true;
}

/** True when the process exists, also when it is another user's. */
export function signal(pid: number, name: NodeJS.Signals | 0): boolean {
  if (pid <= 0) return false;
  try {
    process.kill(pid, name);
    return true;
  } catch (error) {
    return codeOf(error) === "EPERM";
  }
}

/** SIGKILL to a process that was started with a group of its own, and to all that it started. */
export function killGroup(leaderPid: number): void {
  try {
    process.kill(-leaderPid, "SIGKILL");
  } catch {
    // All of them have ended.
  }
}

function codeOf(error: unknown): string | undefined {
  return (error as NodeJS.ErrnoException).code;
}
