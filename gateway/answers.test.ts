/** What answers are made of, by itself; whole answers are seen through HTTP. */
import fc from "fast-check";
import { expect, it } from "vitest";

import { isoTime } from "./answers.ts";

it("a time is told as a Date tells it", () => {
  const property = fc.property(fc.date({ noInvalidDate: true }), (date) => {
    expect(isoTime(date.getTime())).toBe(date.toISOString());
  });
  fc.assert(property);
});

it("days that are kept in the same place do not get in each other's way", () => {
  const someDay = fc.integer({ min: 0, max: 4e9 });
  const laterDays = fc.integer({ min: -3, max: 3 });
  const property = fc.property(someDay, laterDays, (atSeconds, turns) => {
    const times = [atSeconds, atSeconds + turns * 64 * 86_400, atSeconds].map((at) => at * 1_000);
    expect(times.map(isoTime)).toEqual(times.map((atMs) => new Date(atMs).toISOString()));
  });
  fc.assert(property);
});
