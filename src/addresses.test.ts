/** Which addresses count as public, as a table, and that a name is judged by where it points. */
import dns from "node:dns";
import { syncBuiltinESMExports } from "node:module";
import { describe, expect, it, onTestFinished } from "vitest";
import { isLoopbackName, isPublicAddress, literalAddress, lookupPublic } from "./addresses.ts";

describe("isPublicAddress", () => {
  it.each([
    "8.8.8.8",
    "172.15.0.1",
    "172.32.0.1",
    "100.63.0.1",
    "2606:4700::1111",
    "::ffff:8.8.8.8",
    // Next to what is not.
    "1.0.0.0",
    "9.255.255.255",
    "11.0.0.0",
    "100.63.255.255",
    "100.128.0.0",
    "126.255.255.255",
    "128.0.0.0",
    "169.253.255.255",
    "169.255.0.0",
    "172.15.255.255",
    "191.255.255.255",
    "192.0.1.0",
    "192.0.1.255",
    "192.0.3.0",
    "192.167.255.255",
    "192.169.0.0",
    "198.17.255.255",
    "198.20.0.0",
    "198.51.99.255",
    "198.51.101.0",
    "203.0.112.255",
    "203.0.114.0",
    "223.255.255.255",
    "64:ff9a:ffff::",
    "64:ff9b:2::",
    "100:0:0:1::",
    "2000:ffff::",
    "2001:200::",
    "2001:db7:ffff::",
    "2001:db9::",
    "2001:ffff::",
    "2003::",
    "fbff:ffff::",
    "fe7f:ffff::",
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
    // The last ones of their ranges.
    "0.255.255.255",
    "10.255.255.255",
    "100.127.255.255",
    "127.255.255.255",
    "169.254.255.255",
    "172.31.255.255",
    "192.0.0.255",
    "192.0.2.255",
    "192.168.255.255",
    "198.19.255.255",
    "198.51.100.255",
    "203.0.113.255",
    "::255.255.255.255",
    "64:ff9b::ffff:ffff",
    "64:ff9b:1:ffff:ffff:ffff:ffff:ffff",
    "100::ffff:ffff:ffff:ffff",
    "2001:1ff:ffff::",
    "2001:db8:ffff::",
    "2002:ffff::",
    "fdff:ffff::",
    "febf:ffff::",
    "feff:ffff::",
    "ffff:ffff::",
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

it.each([
  ["localhost", true],
  ["127.0.0.1", true],
  ["127.1.2.3", true],
  ["::1", true],
  ["[::1]", true],
  ["127.example.com", false],
  ["128.0.0.1", false],
  ["0.0.0.0", false],
  ["::", false],
])("whether %s is this machine alone: %s", (host, isLoopback) => {
  expect(isLoopbackName(host)).toBe(isLoopback);
});

describe("lookupPublic", () => {
  const look = (name: string, options: { all?: boolean } = {}) =>
    new Promise<unknown[]>((resolve) => {
      lookupPublic(name, options, (...found) => resolve(found));
    });

  it("does not find a name that points to this machine", async () => {
    const [error] = await look("localhost");
    expect((error as Error).message).toContain("localhost is at a private address");
  });

  it("finds what is public, one or all, as it is asked", async () => {
    expect(await look("8.8.8.8")).toEqual([null, "8.8.8.8", 4]);
    expect(await look("8.8.8.8", { all: true })).toEqual([
      null,
      [{ address: "8.8.8.8", family: 4 }],
    ]);
  });

  it("finds of a name with several addresses those that are public, wherever they stand", async () => {
    const { lookup } = dns;
    onTestFinished(() => {
      dns.lookup = lookup;
      syncBuiltinESMExports();
    });
    const hidden = ["127.0.0.1", "10.0.0.1"].map((address) => ({ address, family: 4 }));
    const shown = [
      { address: "8.8.8.8", family: 4 },
      { address: "2606:4700::1111", family: 6 },
    ];
    const mixed = (...[, , callback]: Parameters<typeof lookupPublic>): void =>
      callback(null, [hidden[0]!, ...shown, hidden[1]!]);
    dns.lookup = mixed as typeof dns.lookup;
    syncBuiltinESMExports();
    expect(await look("shop.example", { all: true })).toEqual([null, shown]);
    expect(await look("shop.example")).toEqual([null, "8.8.8.8", 4]);
  });

  it("tells why a name has no address at all", async () => {
    const [error] = await look("no..name");
    expect(error).toMatchObject({ syscall: "getaddrinfo", hostname: "no..name" });
  });
});
