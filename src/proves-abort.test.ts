import pg from "pg";
import { describe, expect, it } from "vitest";
import { provesAbort } from "./proves-abort.ts";

function answer(code: string, severity: string): pg.DatabaseError {
  return Object.assign(new pg.DatabaseError("no", 2, "error"), { code, severity });
}

describe("provesAbort", () => {
  it.each([
    ["a row that must not be", answer("23505", "ERROR")],
    ["canceled", answer("57014", "ERROR")],
    ["the disk is full", answer("53100", "ERROR")],
  ])("is true: %s", (_what, error) => {
    expect(provesAbort(error)).toBe(true);
  });

  it.each([
    ["no log can be written", answer("53100", "PANIC")],
    ["an operator ends the session", answer("57P01", "FATAL")],
    ["the same as an ERROR", answer("57P01", "ERROR")],
    ["idle for too long", answer("25P03", "FATAL")],
    ["too long in a transaction", answer("25P04", "ERROR")],
    ["a connection failure", answer("08006", "ERROR")],
    ["an error in another language", answer("23505", "FEHLER")],
    ["no answer", new Error("Connection terminated unexpectedly")],
    ["no error", "ERROR"],
  ])("is false: %s", (_what, error) => {
    expect(provesAbort(error)).toBe(false);
  });
});
