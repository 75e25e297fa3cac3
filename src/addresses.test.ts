/** Which addresses count as public, as a table, and that a name is judged by where it points. */
import { describe, expect, it } from "vitest";
import { isPublicAddress, literalAddress, lookupPublic } from "./addresses.ts";

describe("isPublicAddress", () => {
  it.each([
    "8.8.8.8",
    "172.15.0.1",
    "172.32.0.1",
    "100.63.0.1",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
  ])("says yes to %s", (address) => expect(isPublicAddress(address)).toBe(true));

  it.each([
    "127.0.0.1",
    "10.1.2.3",
    "172.16.0.1",
    "192.168.1.1",
    "169.254.169.254",
    "100.64.0.1",
    "0.0.0.0",
    "224.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "fe80::1",
    "fec0::1",
    "::127.0.0.1",
    "fd00::1",
    "64:ff9b::7f00:1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "localhost",
    "",
  ])("says no to %s", (address) => expect(isPublicAddress(address)).toBe(false));
});

it("a URL's host is an address in every spelling that reaches one", () => {
  const addressOf = (url: string): string | null => literalAddress(new URL(url));
  expect(addressOf("http://127.1/")).toBe("127.0.0.1");
  expect(addressOf("http://2130706433/")).toBe("127.0.0.1");
  expect(addressOf("http://0x7f.0.0.1/")).toBe("127.0.0.1");
  expect(addressOf("http://[::1]:80/")).toBe("::1");
  expect(addressOf("http://shop.example/")).toBe(null);
});

it("a name that points to this machine is not found", async () => {
  const error = await new Promise<Error | null>((resolve) => {
    lookupPublic("localhost", {}, (found) => resolve(found));
  });
  expect(error?.message).toContain("localhost is at a private address");
});
