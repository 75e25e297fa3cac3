/**
 * Which addresses are this machine, and which ones a webhook may go to. An address that only this
 * machine or its network can reach would let whoever may make webhooks knock on doors that are
 * closed to him (SSRF), so they are refused unless the operator allows them. It is the address that
 * counts, at the moment of the connection: a public name may point anywhere, and elsewhere the next
 * time.
 */
import { lookup, type LookupAddress } from "node:dns";
import { BlockList, isIP, type LookupFunction } from "node:net";

/**
 * IANA's special-purpose registries, IPv4 and IPv6, as far as they are not reachable from
 * everywhere.
 */
const NOT_PUBLIC = new BlockList();
for (const [net, prefix] of [
  ["0.0.0.0", 8],
  ["10.0.0.0", 8],
  ["100.64.0.0", 10],
  ["127.0.0.0", 8],
  ["169.254.0.0", 16],
  ["172.16.0.0", 12],
  ["192.0.0.0", 24],
  ["192.0.2.0", 24],
  ["192.168.0.0", 16],
  ["198.18.0.0", 15],
  ["198.51.100.0", 24],
  ["203.0.113.0", 24],
  ["224.0.0.0", 3],
] as const) {
  NOT_PUBLIC.addSubnet(net, prefix, "ipv4");
}
for (const [net, prefix] of [
  ["::", 96],
  ["64:ff9b::", 96],
  ["64:ff9b:1::", 48],
  ["100::", 64],
  ["2001::", 23],
  ["2001:db8::", 32],
  ["2002::", 16],
  ["fc00::", 7],
  ["fe80::", 10],
  ["fec0::", 10],
  ["ff00::", 8],
] as const) {
  NOT_PUBLIC.addSubnet(net, prefix, "ipv6");
}

/**
 * Whether everybody can reach this address. An IPv4 address inside an IPv6 one is judged as the
 * former.
 */
export function isPublicAddress(address: string): boolean {
  const family = isIP(address);
  if (family === 0) return false;
  return !NOT_PUBLIC.check(address, family === 4 ? "ipv4" : "ipv6");
}

/** Whether a host, as it stands in an address, is the machine that one is on. */
export function isLoopbackName(host: string): boolean {
  if (host === "localhost" || host === "::1" || host === "[::1]") return true;
  return isIP(host) === 4 && host.startsWith("127.");
}

/** The host of a URL as an address, if it is one; a URL has brackets around IPv6. */
export function literalAddress(url: URL): string | null {
  const host = url.hostname.replace(/^\[(.*)\]$/, "$1");
  return isIP(host) === 0 ? null : host;
}

/**
 * A look-up for `http.request` that finds public addresses only. Literal addresses do not pass
 * through look-ups.
 */
export const lookupPublic: LookupFunction = (hostname, options, callback) => {
  lookup(hostname, { ...options, all: true }, (error, addresses: LookupAddress[]) => {
    if (error !== null) return callback(error, "", 0);
    const found = addresses.filter(({ address }) => isPublicAddress(address));
    const [first] = found;
    if (first === undefined) {
      const refusal = new Error(`${hostname} is at a private address (see WEBHOOK_PRIVATE)`);
      return callback(refusal, "", 0);
    }
    if (options.all === true) callback(null, found);
    else callback(null, first.address, first.family);
  });
};
