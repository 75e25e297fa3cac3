/** Whatever is thrown is told in words. */
import { expect, it } from "vitest";
import { messageOf } from "./message-of.ts";

it.each([
  [new Error("no such host"), "no such host"],
  ["a text", "a text"],
  [new TypeError(), "TypeError"],
  // What Node makes of a name with two addresses that both refuse: a message that is empty.
  [
    new AggregateError([
      new Error("connect ECONNREFUSED ::1:5432"),
      new Error("connect ECONNREFUSED 127.0.0.1:5432"),
    ]),
    "connect ECONNREFUSED ::1:5432; connect ECONNREFUSED 127.0.0.1:5432",
  ],
  [new AggregateError([new Error("away"), new Error("away")]), "away"],
  [new AggregateError([], "none"), "none"],
  // A transaction of Redis
  [
    Object.assign(new Error("EXECABORT"), { previousErrors: [new Error("OOM"), new Error("OOM")] }),
    "OOM",
  ],
])("the words of %o", (error, reason) => {
  expect(messageOf(error)).toBe(reason);
});
