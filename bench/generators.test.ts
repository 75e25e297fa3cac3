import { describe, expect, it } from "vitest";
import { fixedWalletOf, luaOf, partsOf, readWrk } from "./generators.ts";
import { SHAPES } from "./shapes.ts";

const measurement = {
  answers: 8_000,
  refused: 0,
  faults: 0,
  elapsedMs: 8_000,
  p50Ms: 1,
  p90Ms: 2,
  p99Ms: 3,
  maxMs: 4,
};

describe("the wrk script", () => {
  it.each(SHAPES.map((shape) => shape.traffic))(
    "declares the length that the body of %j has",
    (traffic) => {
      const lua = luaOf({ port: 3_000, traffic, connections: 1, seconds: 1, seed: 1 });
      const length = Number(/Content-Length: (\d+)/.exec(lua)?.[1]);
      expect(length).toBe(partsOf(traffic).body("bench-01234").length);
      const fixed = fixedWalletOf(traffic);
      expect(lua.includes(`POST /wallets/${fixed ?? '" .. id(n) .. "'}/`)).toBe(true);
    },
  );

  it("gives its result as a line among others", () => {
    expect(readWrk(`Running 1s test\n${JSON.stringify(measurement)}\nRequests/sec: 1\n`)).toEqual(
      measurement,
    );
    expect(() => readWrk("unable to connect")).toThrow("unable to connect");
  });
});
