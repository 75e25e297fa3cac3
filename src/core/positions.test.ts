import { expect, it } from "vitest";
import { buildPositions, positionsMemory } from "./positions.ts";

it("a position is what anybody has raised it to, and is never lowered", () => {
  const memory = positionsMemory();
  const [one, other] = [buildPositions(memory), buildPositions(memory)];
  one.raise(7, 5);
  other.raise(7, 3);
  expect([one.get(7), other.get(7), other.get(8)]).toEqual([5, 5, 0]);
  expect(one.snapshot()[7]).toBe(5);
  expect(one.snapshot()).toHaveLength(256);
});
