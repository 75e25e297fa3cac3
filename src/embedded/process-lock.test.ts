/**
 * The lock of a data folder: that of two processes one has it, whatever was left behind, and
 * whatever happens between two looks at the file.
 */
import { spawn, spawnSync } from "node:child_process";
import builtin, * as fs from "node:fs";
import { syncBuiltinESMExports } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { beforeEach, describe, expect, it, onTestFinished } from "vitest";
import { inspect, killGroup, signal, takeLock, type LockAttempt } from "./process-lock.ts";

let folder: string;
let file: string;

beforeEach(() => {
  folder = fs.mkdtempSync(join(tmpdir(), "coffer-lock-"));
  onTestFinished(() => fs.rmSync(folder, { recursive: true, force: true }));
  file = join(folder, "coffer.pid");
});

/** Nothing but the lock itself may stay in the folder. */
const left = (): string[] => fs.readdirSync(folder);

function taken(attempt: LockAttempt): () => void {
  if (!("release" in attempt)) throw new Error(`held by ${attempt.heldBy}`);
  return attempt.release;
}

/** A process that certainly was, and certainly is no more. */
const deadPid = (): number => spawnSync("true").pid;

describe("a lock", () => {
  it("is had by one, and by the next one when it is released", () => {
    const release = taken(takeLock(file));
    const [pid, startedAt] = fs.readFileSync(file, "utf8").split("\n");
    expect([pid, startedAt]).toEqual([String(process.pid), inspect(process.pid)?.startedAt]);
    expect(takeLock(file)).toEqual({ heldBy: process.pid });
    expect(left()).toEqual(["coffer.pid"]);
    release();
    expect(left()).toEqual([]);
    taken(takeLock(file))();
  });

  it("of another living process is not touched", () => {
    const other = spawn("sleep", ["60"], { stdio: "ignore" });
    onTestFinished(() => void other.kill());
    const pid = other.pid!;
    for (const startedAt of [inspect(pid)!.startedAt, ""]) {
      const text = `${pid}\n${startedAt}\nabc\n`;
      fs.writeFileSync(file, text);
      expect(takeLock(file)).toEqual({ heldBy: pid });
      expect(fs.readFileSync(file, "utf8")).toBe(text);
    }
    expect(left()).toEqual(["coffer.pid"]);
  });

  it.each<[whose: string, text: () => string]>([
    ["a dead process", () => `${deadPid()}\nsome boot 1\nabc\n`],
    ["a dead process whose start nobody knew", () => `${deadPid()}\n\nabc\n`],
    ["a process whose number is a stranger's now", () => `${process.ppid}\nsome boot 1\nabc\n`],
    ["nobody: it is empty", () => ""],
    ["nobody: it is no number", () => "coffer\n"],
    ["nobody: it is every process", () => "0\n"],
    ["nobody: it is a group of processes", () => `-${process.pid}\n`],
  ])("of %s is taken over", (_whose, text) => {
    fs.writeFileSync(file, text());
    const release = taken(takeLock(file));
    expect(fs.readFileSync(file, "utf8").split("\n")[0]).toBe(String(process.pid));
    expect(left()).toEqual(["coffer.pid"]);
    release();
    expect(left()).toEqual([]);
  });

  it("is not released by one that has lost it", () => {
    const release = taken(takeLock(file));
    fs.rmSync(file);
    const next = taken(takeLock(file));
    release();
    expect(left()).toEqual(["coffer.pid"]);
    next();
    expect(left()).toEqual([]);
  });

  it("is not to be had in a folder that is not there", () => {
    expect(() => takeLock(join(folder, "none", "coffer.pid"))).toThrow("ENOENT");
  });

  it("is not to be had where a file cannot be linked", () => {
    beforeNext("linkSync", () => {
      throw new Error("EPERM: no links here");
    });
    expect(() => takeLock(file)).toThrow("EPERM");
    expect(left()).toEqual([]);
  });

  it("race: of three that find a dead one's at one moment exactly one has it", () => {
    // Given a first one, a second at any step of it, and a third at any later one of either
    const dead = deadPid();
    const tryOut = (second: number, third: number): { steps: number } => {
      fs.writeFileSync(file, `${dead}\n\nabc\n`);
      const others: LockAttempt[] = [];
      const { value: first, steps } = atEachStep(
        () => takeLock(file),
        (step) => {
          if (step === second || step === third) others.push(takeLock(file));
        },
      );
      const owners = [first, ...others].filter((attempt) => "release" in attempt);
      const next = takeLock(file);
      owners[0]?.release();
      expect({ second, third, owners: owners.length, next, left: left() }).toEqual({
        second,
        third,
        owners: 1,
        next: { heldBy: process.pid },
        left: [],
      });
      return { steps };
    };
    const { steps: aloneSteps } = tryOut(0, 0);
    for (let second = 1; second <= aloneSteps; second += 1) {
      const { steps } = tryOut(second, 0);
      for (let third = second + 1; third <= steps; third += 1) tryOut(second, third);
    }
  });

  it("race: that somebody takes over just before is theirs", () => {
    // Given a dead one's, and somebody who has it between our look at it and our turn to remove it
    fs.writeFileSync(file, `${deadPid()}\n\nabc\n`);
    const { pid, text } = livingOther();
    beforeNext("linkSync", (_mine, lock) => {
      const isTurn = lock !== file;
      if (isTurn) fs.writeFileSync(file, text);
      return isTurn;
    });
    // Then it is left to them
    expect(takeLock(file)).toEqual({ heldBy: pid });
    expect(fs.readFileSync(file, "utf8")).toBe(text);
    expect(left()).toEqual(["coffer.pid"]);
  });

  it("of a dead one is taken over also behind others that died as they did so", () => {
    for (const lock of [file, `${file}.stale`, `${file}.stale.stale`]) {
      fs.writeFileSync(lock, `${deadPid()}\n\n${lock}\n`);
    }
    taken(takeLock(file))();
    expect(left()).toEqual([]);
  });

  it("of a dead one is left to a living one whose turn it is", () => {
    const dead = `${deadPid()}\n\nabc\n`;
    const { pid, text } = livingOther();
    fs.writeFileSync(file, dead);
    fs.writeFileSync(`${file}.stale`, text);
    expect(takeLock(file)).toEqual({ heldBy: pid });
    expect(fs.readFileSync(file, "utf8")).toBe(dead);
    expect(left()).toHaveLength(2);
  });

  it.each<
    [moment: string, name: Step, whose: () => string, isThen: (...paths: string[]) => boolean]
  >([
    [
      "while we take it over from a dead one",
      "linkSync",
      () => `${deadPid()}\n\nabc\n`,
      (_from, to) => to !== file,
    ],
    [
      "before we look whose it is",
      "readFileSync",
      () => livingOther().text,
      (path) => path === file,
    ],
  ])("race: is had when it goes away %s", (_moment, name, whose, isThen) => {
    fs.writeFileSync(file, whose());
    beforeNext(name, (...paths) => {
      if (isThen(...paths)) fs.rmSync(file);
      return isThen(...paths);
    });
    taken(takeLock(file))();
    expect(left()).toEqual([]);
  });
});

function livingOther(): { pid: number; text: string } {
  const other = spawn("sleep", ["60"], { stdio: "ignore" });
  onTestFinished(() => void other.kill());
  const pid = other.pid!;
  return { pid, text: `${pid}\n${inspect(pid)!.startedAt}\nabc\n` };
}

/** How the lock touches files. */
const STEPS = ["writeFileSync", "linkSync", "readFileSync", "renameSync", "rmSync"] as const;
type Step = (typeof STEPS)[number];

/**
 * What another process does between two calls of ours, before the next one of the function; with
 * `false` it waits for a later one.
 */
function beforeNext(name: Step, happens: (...paths: string[]) => boolean): void {
  const original = builtin[name] as (...values: unknown[]) => unknown;
  const restore = (): void => replaceSteps({ [name]: original });
  const replaced = (...values: unknown[]): unknown => {
    restore();
    if (!happens(...values.map(String))) replaceSteps({ [name]: replaced });
    return original(...values);
  };
  replaceSteps({ [name]: replaced });
  onTestFinished(restore);
}

/** Before each step of `work`, what others do at it; their steps are counted along. */
function atEachStep<T>(
  work: () => T,
  happens: (step: number) => void,
): { value: T; steps: number } {
  const originals = STEPS.map((name) => [name, builtin[name]] as const);
  let steps = 0;
  const counted = originals.map(([name, original]) => {
    const replaced = (...values: unknown[]): unknown => {
      steps += 1;
      happens(steps);
      return (original as (...given: unknown[]) => unknown)(...values);
    };
    return [name, replaced] as const;
  });
  replaceSteps(Object.fromEntries(counted));
  try {
    return { value: work(), steps };
  } finally {
    replaceSteps(Object.fromEntries(originals));
  }
}

function replaceSteps(steps: Partial<Record<Step, unknown>>): void {
  Object.assign(builtin, steps);
  syncBuiltinESMExports();
}

describe("a process", () => {
  it("is there until it has ended, and not while it only waits to be buried", async () => {
    // Given one whose parent does not ask what became of it
    const script = "sleep 0 & echo $!; exec sleep 60";
    const parent = spawn("sh", ["-c", script], {
      stdio: ["ignore", "pipe", "ignore"],
      detached: true,
    });
    onTestFinished(() => killGroup(parent.pid!));
    const text = await new Promise<string>((resolve) =>
      parent.stdout.once("data", (data: Buffer) => resolve(data.toString())),
    );
    const child = Number(text);
    await expect.poll(() => inspect(child)).toBe(undefined);
    // It has its number still
    expect(signal(child, 0)).toBe(true);
    expect(inspect(parent.pid!)).toMatchObject({ pid: parent.pid, parentPid: process.pid });
  });

  it("is told from a later one with its number by its start", () => {
    const [one, other] = [process.pid, process.ppid].map((pid) => inspect(pid)!);
    expect(one!.startedAt).not.toBe(other!.startedAt);
    // Numbers and times begin anew with the system
    const boot = fs.readFileSync("/proc/sys/kernel/random/boot_id", "utf8").trim();
    expect(one!.startedAt).toContain(boot);
    expect(inspect(process.pid)).toEqual(one);
    expect(one!.parentPid).toBe(process.ppid);
  });

  it("with a number that none has gets no signal", () => {
    expect([0, -1, deadPid()].map((pid) => signal(pid, 0))).toEqual([false, false, false]);
  });
});
