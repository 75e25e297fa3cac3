/** Times as callers write them in a query, and what is said of those that are none. */
import { expect, it } from "vitest";

import { ApiException } from "./errors.ts";
import { timeOf } from "./pages.ts";

function refusal(text: string): string {
  try {
    timeOf("from", text);
    return "taken";
  } catch (error) {
    return error instanceof ApiException ? error.apiError.message : String(error);
  }
}

it.each([
  ["2026-11-23", "2026-11-23T00:00:00.000Z"],
  ["2026-11-23T10:00", "2026-11-23T10:00:00.000Z"],
  ["2026-11-23T10:00:00+02:00", "2026-11-23T08:00:00.000Z"],
  ["2026-11-23T10:00:00.123456789-05:30", "2026-11-23T15:30:00.123Z"],
])("%s is a time", (text, meant) => {
  expect(new Date(timeOf("from", text)).toISOString()).toBe(meant);
});

it.each(["2026-02-30", "2016-12-31T23:59:60Z", "2026-11-23 10:00:00Z", "yesterday"])(
  "%s is none",
  (text) => {
    expect(refusal(text)).toBe("from must be an ISO 8601 date or time");
  },
);

it("an offset whose + the URL has turned into a blank is refused with what mends it", () => {
  const sent = new URLSearchParams("from=2026-11-23T10:00:00+02:00").get("from")!;
  expect(refusal(sent)).toBe("from must be an ISO 8601 date or time; a + in a URL is %2B");
});
