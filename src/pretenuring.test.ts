import { getHeapSpaceStatistics, setFlagsFromString } from "node:v8";
import { runInNewContext } from "node:vm";
import { expect, test } from "vitest";
import "./pretenuring.ts";

test("what a function makes is young, also after much that it made has lived long", () => {
  // Given 400,000 objects that outlive many collections
  const kept: object[] = [];
  for (let number = 0; number < 400_000; number++) kept.push(make(number));
  kept.length = 0;
  collectAll();
  // When it makes as many more, which nobody keeps
  let grownBytes = 0;
  let lastBytes = oldBytes();
  for (let number = 0; number < 400_000; number++) {
    make(number);
    if (number % 20_000 > 0) continue;
    const bytes = oldBytes();
    grownBytes += Math.max(0, bytes - lastBytes);
    lastBytes = bytes;
  }
  // Then they are not among the old ones, where V8 would put 3 MB and more of them
  expect(grownBytes).toBeLessThan(1e6);
});

setFlagsFromString("--expose-gc");
const collectAll = runInNewContext("gc") as () => void;

function make(number: number): { list: number[] } {
  return { list: [number, number, number, number] };
}

function oldBytes(): number {
  const spaces = getHeapSpaceStatistics();
  return spaces.find(({ space_name: name }) => name === "old_space")!.space_used_size;
}
