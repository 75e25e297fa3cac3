/** The wall clock is set while somebody waits. */
import { afterEach, expect, it, vi } from "vitest";

import { nowMs, wallMs } from "./clock.ts";

const HOUR_MS = 3_600_000;

afterEach(() => {
  vi.useRealTimers();
});

it.each([
  ["ahead", HOUR_MS],
  ["back", -HOUR_MS],
])("waits go on when the clock is set %s, and what is written down follows it", (_, stepMs) => {
  const [beforeMs, startMs] = [nowMs(), Date.now()];
  vi.useFakeTimers({ toFake: ["Date"], now: startMs + stepMs });
  expect(wallMs() - startMs).toBe(stepMs);
  expect(nowMs()).toBeGreaterThanOrEqual(beforeMs);
  expect(nowMs() - beforeMs).toBeLessThan(60_000);
  // Set right again
  vi.setSystemTime(startMs);
  expect(wallMs()).toBe(startMs);
});
