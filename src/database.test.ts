import pg from "pg";
import { describe, expect, it } from "vitest";
import { isAway } from "./database.ts";

function answer(code: string): Error {
  return Object.assign(new pg.DatabaseError("no", 2, "error"), { code });
}

describe("isAway", () => {
  it.each([
    ["nobody listens", Object.assign(new Error("connect"), { code: "ECONNREFUSED" })],
    ["the driver gave up", new Error("timeout expired")],
    ["starting", answer("57P03")],
    ["terminated by an operator", answer("57P01")],
    ["canceled", answer("57014")],
    ["others have all connections", answer("53300")],
    ["the disk is full", answer("53100")],
    ["locked", answer("55P03")],
    ["read-only", answer("25006")],
  ])("is true: %s", (_what, error) => {
    expect(isAway(error)).toBe(true);
  });

  it.each([
    ["a wrong password", answer("28P01")],
    ["no such database", answer("3D000")],
    ["no such table", answer("42P01")],
    ["a row that must not be", answer("23505")],
    ["not an error", "timeout"],
  ])("is false: %s", (_what, error) => {
    expect(isAway(error)).toBe(false);
  });
});
