/** What a person sees of a command's progress, with a terminal and without one, and of its end. */
import { PassThrough } from "node:stream";
import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { listText, startProgress } from "./command-line.ts";

/** Standard error as it is in a pipe, or on a terminal. */
function stageStream(isTTY: boolean): { stream: NodeJS.WriteStream; written(): string } {
  const stream = Object.assign(new PassThrough(), { isTTY, columns: 120, rows: 40 });
  let text = "";
  stream.on("data", (chunk: Buffer) => (text += chunk.toString()));
  return { stream: stream as unknown as NodeJS.WriteStream, written: () => text };
}

describe("a list", () => {
  it.each<[why: string, last: readonly string[], text: string]>([
    ["fits with 100 columns", ["xx"], "h: 1, xx"],
    ["does not fit with 101", ["xxx"], "h: 1,\n    xxx"],
    ["counts its comma", ["xx", "y"], "h: 1,\n    xx, y"],
    ["fits with its comma", ["x", "y"], "h: 1, x,\n    y"],
  ])("goes on in the next line, further in: what %s", (_, last, text) => {
    // Given a first item with which three columns of the first line are left
    const first = "1".repeat(93);
    const told = listText("h:", [first, ...last], 4);
    expect(told.replace(first, "1")).toBe(text);
  });

  it("of nothing is its head", () => {
    expect(listText("only these:", [], 4)).toBe("only these:");
  });
});

describe("progress", () => {
  beforeEach(() => void vi.useFakeTimers());
  afterEach(() => void vi.useRealTimers());

  it("is a plain line now and then where there is no terminal, and how far it came", () => {
    const { stream, written } = stageStream(false);
    const progress = startProgress("operations", 20_000, { unit: "ops", stream });
    progress.show(1_000);
    vi.advanceTimersByTime(4_999);
    expect(written()).toBe("");
    vi.advanceTimersByTime(1);
    expect(written()).toBe("operations 1,000/20,000  200 ops/s  1 min 35 s left\n");
    vi.advanceTimersByTime(60_000);
    // It stands still: nothing to tell.
    expect(written().match(/\n/g)).toHaveLength(1);
    progress.show(20_000);
    progress.stop();
    expect(written().split("\n").slice(1)).toEqual(["operations 20,000/20,000  308 ops/s", ""]);
    vi.advanceTimersByTime(60_000);
    expect(written().match(/\n/g)).toHaveLength(2);
  });

  it("never shows more than all, and has all of nothing", () => {
    const { stream, written } = stageStream(false);
    const growing = startProgress("events", 10, { stream });
    growing.show(12, 11);
    growing.stop();
    startProgress("transfers", 0, { stream }).stop();
    expect(written()).toBe("events     12/12\ntransfers  0/0\n");
  });

  it("is a bar on a terminal, which gets its cursor and its line breaks back", () => {
    const { stream, written } = stageStream(true);
    const progress = startProgress("events", 10, { stream });
    progress.show(5);
    vi.advanceTimersByTime(1_000);
    expect(written()).toMatch(/events +\|=+-+\| 50% {2}5\/10 {2}1 s left/);
    expect(written().endsWith("\n")).toBe(false);
    progress.show(10);
    progress.stop();
    const last = written().slice(written().lastIndexOf("| 100%  10/10"));
    expect(last.replaceAll("\u001b", "ESC")).toMatch(/ESC\[\?25hESC\[\?7h.*\n$/);
  });

  it("gives the terminal back also when the process exits in the middle", () => {
    const before = process.listeners("exit");
    const { stream, written } = stageStream(true);
    const progress = startProgress("events", 10, { stream });
    const [atExit, ...others] = process.listeners("exit").filter((one) => !before.includes(one));
    expect(others).toEqual([]);
    atExit!(130);
    expect(written()).toContain("\u001b[?25h");
    expect(process.listeners("exit")).toEqual(before);
    progress.stop();
    expect(written().match(/\n/g)).toHaveLength(1);
  });
});
