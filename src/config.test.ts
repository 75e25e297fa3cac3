/** The settings as tables: what is read from what, and what a person is told about a bad one. */
import { availableParallelism } from "node:os";
import { describe, expect, it } from "vitest";
import { ConfigError, databaseName, maskPasswords, readConfig } from "./config.ts";

const postgres = "postgres://coffer:secret@db:5432/coffer";
const cluster = {
  DATABASE_URL: postgres,
  NATS_URL: "nats://bus:4222",
  REDIS_URL: "redis://r:6379",
};

function listOf(count: number): string {
  return Array.from({ length: count }, (_, nth) => `postgres://db/coffer-${nth}`).join(",");
}

function messageFor(env: Record<string, string>): string {
  try {
    readConfig(env);
  } catch (error) {
    expect(error).toBeInstanceOf(ConfigError);
    return (error as ConfigError).message;
  }
  return "";
}

describe("readConfig", () => {
  it("has a default for everything", () => {
    const { hostId, lanes, ...rest } = readConfig({});
    expect(rest).toEqual({
      port: 3_000,
      host: "127.0.0.1",
      role: "all",
      databaseUrls: [],
      dataDir: ".coffer",
      natsUrls: [],
      redisUrl: undefined,
      logLevel: "info",
      rateLimitPerSecond: undefined,
      trustProxy: [],
      feedOrigins: [],
      isTraced: false,
      verifyIntervalMinutes: 60,
      verifyRowsPerSecond: 2_000,
      events: false,
      eventsMaxAgeDays: 7,
      eventsMaxBytes: 0,
      eventsReplicas: 1,
      webhookPrivate: true,
      transferShortcut: true,
    });
    expect(lanes).toBe(Math.min(Math.max(availableParallelism() - 1, 1), 64));
    expect(hostId).toMatch(/^[A-Za-z0-9_-]{1,64}$/);
    expect(hostId).toContain(String(process.pid));
  });

  it("is frozen, lists included", () => {
    const config = readConfig(cluster);
    expect(Object.isFrozen(config)).toBe(true);
    expect(Object.isFrozen(config.databaseUrls)).toBe(true);
  });

  it("takes an empty or blank value for an unset one", () => {
    const blank = { PORT: "", ROLE: "  ", DATABASE_URL: "", NATS_URL: " ", LANES: "" };
    expect(readConfig({ ...blank, HOST_ID: "h" })).toEqual(readConfig({ HOST_ID: "h" }));
  });

  it.each([
    [{ PORT: "0" }, { port: 0 }],
    [{ PORT: "65535" }, { port: 65_535 }],
    [{ HOST: "::1" }, { host: "::1" }],
    [{ LANES: "64" }, { lanes: 64 }],
    [{ NATS_URL: "nats://bus" }, { events: true }],
    [{ NATS_URL: "nats://bus", EVENTS: "off" }, { events: false }],
    [{ EVENTS_MAX_AGE_DAYS: "0" }, { eventsMaxAgeDays: 0 }],
    [{ EVENTS_MAX_BYTES: "10737418240" }, { eventsMaxBytes: 10_737_418_240 }],
    [{ EVENTS_REPLICAS: "3" }, { eventsReplicas: 3 }],
    [{ HOST: "0.0.0.0" }, { webhookPrivate: false }],
    [{ HOST: "0.0.0.0", WEBHOOK_PRIVATE: "on" }, { webhookPrivate: true }],
    [{ HOST: "::1" }, { webhookPrivate: true }],
    [{ HOST: "localhost" }, { webhookPrivate: true }],
    [{ HOST: "127.0.0.2" }, { webhookPrivate: true }],
    [{ HOST: "127.example.com" }, { webhookPrivate: false }],
    [{ ...cluster, ROLE: "host" }, { webhookPrivate: false }],
    [{ ...cluster, ROLE: "gateway" }, { webhookPrivate: false }],
    [{ HOST: "127.0.0.1", WEBHOOK_PRIVATE: "off" }, { webhookPrivate: false }],
    [{ HOST_ID: "host-1_b" }, { hostId: "host-1_b" }],
    [{ VERIFY_INTERVAL_MINUTES: "0" }, { verifyIntervalMinutes: 0 }],
    [{ VERIFY_ROWS_PER_SECOND: "500" }, { verifyRowsPerSecond: 500 }],
    [{ TRANSFER_SHORTCUT: "on" }, { transferShortcut: true }],
    [{ TRANSFER_SHORTCUT: "off" }, { transferShortcut: false }],
    [{ LOG_LEVEL: "silent" }, { logLevel: "silent" }],
    [{ RATE_LIMIT_PER_SECOND: "50" }, { rateLimitPerSecond: 50 }],
    [{ TRUST_PROXY: "10.0.0.0/8, ::1" }, { trustProxy: ["10.0.0.0/8", "::1"] }],
    [{ TRUST_PROXY: "10.0.0.1/32,::1/128" }, { trustProxy: ["10.0.0.1/32", "::1/128"] }],
    [
      { FEED_ORIGINS: "https://shop.example, http://10.0.0.5:8080" },
      { feedOrigins: ["https://shop.example", "http://10.0.0.5:8080"] },
    ],
    [{ FEED_ORIGINS: "*" }, { feedOrigins: ["*"] }],
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: "http://c:4318" }, { isTraced: true }],
    [{ OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: "https://c/v1/traces" }, { isTraced: true }],
    [{ OTEL_EXPORTER_OTLP_ENDPOINT: "http://c", OTEL_SDK_DISABLED: "true" }, { isTraced: false }],
    [
      { OTEL_EXPORTER_OTLP_ENDPOINT: "http://c", OTEL_TRACES_EXPORTER: "none" },
      { isTraced: false },
    ],
    [{ OTEL_TRACES_SAMPLER: "traceidratio", OTEL_TRACES_SAMPLER_ARG: "0.25" }, { isTraced: false }],
    [{ OTEL_TRACES_SAMPLER_ARG: "0" }, { isTraced: false }],
    [{ OTEL_TRACES_SAMPLER_ARG: "1" }, { isTraced: false }],
    [{ DATA_DIR: "/var/lib/coffer" }, { dataDir: "/var/lib/coffer" }],
    [{ DATABASE_URL: listOf(16) }, { databaseUrls: listOf(16).split(",") }],
    [{ DATABASE_URL: "postgres://db/x?ssl=1" }, { databaseUrls: ["postgres://db/x?ssl=1"] }],
    [{ NATS_URL: "nats://a:1, tls://b:2" }, { natsUrls: ["nats://a:1", "tls://b:2"] }],
    [
      { ...cluster, ROLE: "host" },
      { role: "host", redisUrl: "redis://r:6379" },
    ],
    [
      { ...cluster, ROLE: "gateway", REDIS_URL: "" },
      { role: "gateway", redisUrl: undefined },
    ],
  ])("reads %j", (env, expected) => {
    expect(readConfig(env)).toMatchObject(expected);
  });

  it.each([
    [{ PORT: "70000" }, 'PORT: got "70000", allowed: a whole number from 0 to 65535'],
    [
      { RATE_LIMIT_PER_SECOND: "0" },
      'RATE_LIMIT_PER_SECOND: got "0", allowed: a whole number from 1 to 1000000',
    ],
    [
      { TRUST_PROXY: "10.0.0.0/33" },
      'TRUST_PROXY: got "10.0.0.0/33", allowed: addresses and subnets of proxies',
    ],
    [
      { FEED_ORIGINS: "shop.example" },
      'FEED_ORIGINS: got "shop.example", allowed: origins of pages with commas between them',
    ],
    [{ FEED_ORIGINS: "https://shop.example/" }, 'FEED_ORIGINS: got "https://shop.example/"'],
    [{ TRUST_PROXY: "true" }, 'TRUST_PROXY: got "true", allowed: addresses and subnets'],
    ...[",", "10.0.0.1,true", "10.0.0.0/", "10.0.0.0/8/8", "::1/129"].map(
      (list): [Record<string, string>, string] => [
        { TRUST_PROXY: list },
        `TRUST_PROXY: got "${list}", allowed: addresses and subnets`,
      ],
    ),
    [{ FEED_ORIGINS: "," }, 'FEED_ORIGINS: got ",", allowed: origins of pages'],
    [{ FEED_ORIGINS: "ftp://shop.example" }, "allowed: origins of pages"],
    [
      { OTEL_EXPORTER_OTLP_ENDPOINT: "collector:4318" },
      'OTEL_EXPORTER_OTLP_ENDPOINT: got "collector:4318", allowed: http://host:port of a collector',
    ],
    [{ OTEL_TRACES_SAMPLER: "often" }, 'OTEL_TRACES_SAMPLER: got "often", allowed: always_on,'],
    [
      { OTEL_TRACES_SAMPLER_ARG: "1.5" },
      'OTEL_TRACES_SAMPLER_ARG: got "1.5", allowed: a share from 0 to 1',
    ],
    [{ OTEL_TRACES_SAMPLER_ARG: "1e-1" }, "allowed: a share from 0 to 1"],
    [{ PORT: "-1" }, 'PORT: got "-1", allowed: a whole number from 0 to 65535'],
    [{ PORT: "80.5" }, 'PORT: got "80.5", allowed: a whole number from 0 to 65535'],
    [{ PORT: "0x50" }, 'PORT: got "0x50", allowed: a whole number from 0 to 65535'],
    [{ HOST: "a b" }, 'HOST: got "a b", allowed: an IP address or host name to listen on'],
    [{ ROLE: "server" }, 'ROLE: got "server", allowed: all, gateway, host'],
    [{ TRANSFER_SHORTCUT: "no" }, 'TRANSFER_SHORTCUT: got "no", allowed: on, off'],
    [{ LANES: "0" }, 'LANES: got "0", allowed: a whole number from 1 to 64'],
    [{ LANES: "65" }, 'LANES: got "65", allowed: a whole number from 1 to 64'],
    [{ HOST_ID: "a.b" }, 'HOST_ID: got "a.b", allowed: 1 to 64 letters, digits, - and _'],
    [{ HOST_ID: "h".repeat(65) }, "allowed: 1 to 64 letters, digits, - and _"],
    [{ LOG_LEVEL: "loud" }, "allowed: trace, debug, info, warn, error, fatal, silent"],
    [{ DATABASE_URL: "mysql://db" }, "allowed: postgres://user:password@host:port/database"],
    [{ DATABASE_URL: "postgres://u:12/34@db/x" }, 'got "postgres://u:***@db/x", allowed: postgres'],
    [{ DATABASE_URL: "postgres://u:12?34@db/x" }, 'got "postgres://u:***@db/x", allowed: postgres'],
    [{ NATS_URL: "nats://u:12/34@bus" }, 'got "nats://u:***@bus", allowed: nats://host:port'],
    [{ NATS_URL: "nats://u:5%off@bus" }, "a % in a password is %25"],
    [{ NATS_URL: "nats://a,nats://u:5%off@b" }, "a % in a password is %25"],
    [{ REDIS_URL: "redis://:5%off@r" }, "a % in a password is %25"],
    // The driver would take its own default in the place of a host.
    [{ DATABASE_URL: "postgres:///coffer" }, 'got "postgres:///coffer", allowed: postgres://user'],
    [{ DATABASE_URL: "," }, "allowed: postgres://user:password@host:port/database"],
    [{ DATABASE_URL: "postgres://a/x,,postgres://b/x" }, "commas between them, and no empty place"],
    [{ DATABASE_URL: "postgres://a/x, " }, "commas between them, and no empty place"],
    [{ DATABASE_URL: `${postgres},postgres://db/coffer?a=b` }, "not db:5432/coffer twice"],
    [{ DATABASE_URL: listOf(17) }, "allowed: at most 16 databases, not 17"],
    [{ DATABASE_URL: `${postgres}?options=-c%20a%3Db` }, "an address without options, which"],
    [
      { DATABASE_URL: `postgres://db/y,${postgres}?sslmode=require&statement_timeout=0` },
      "an address without statement_timeout, which Coffer sets itself",
    ],
    [
      { DATABASE_URL: `${postgres}?host=other` },
      "/database, or several with commas between them, and no host behind it",
    ],
    [{ NATS_URL: "bus:4222" }, "allowed: nats://host:port, or several"],
    [{ NATS_URL: "," }, "allowed: nats://host:port, or several"],
    [{ REDIS_URL: "http://r" }, "allowed: redis://host:port"],
    [{ REDIS_URL: "cache" }, "allowed: redis://host:port"],
    [{ ROLE: "gateway", NATS_URL: "nats://b" }, "DATABASE_URL: is not set"],
    [{ ROLE: "gateway", DATABASE_URL: postgres }, "NATS_URL: is not set"],
    [{ EVENTS: "on" }, "NATS_URL: is not set"],
    [{ EVENTS: "yes" }, 'EVENTS: got "yes", allowed: on, off'],
    [{ WEBHOOK_PRIVATE: "1" }, "allowed: on, off"],
    [{ EVENTS_MAX_BYTES: "10GB" }, "allowed: a whole number from 0"],
    [{ EVENTS_REPLICAS: "6" }, "allowed: a whole number from 1 to 5"],
    [{ ...cluster, ROLE: "host", REDIS_URL: "" }, "REDIS_URL: is not set"],
  ])("refuses %j", (env, expected) => {
    expect(messageFor(env)).toContain(expected);
  });

  it("lists every bad variable, a line each", () => {
    const message = messageFor({ PORT: "x", LANES: "y", LOG_LEVEL: "z", ROLE: "host" });
    const names = message.split("\n").map((line) => line.trim().split(":")[0]);
    const bad = ["PORT", "DATABASE_URL", "NATS_URL", "REDIS_URL", "LANES", "LOG_LEVEL"];
    expect(names).toHaveLength(1 + bad.length);
    expect(new Set(names.slice(1))).toEqual(new Set(bad));
  });

  it("never shows a password", () => {
    const message = messageFor({
      DATABASE_URL: `${postgres},${postgres}`,
      NATS_URL: "nat://u:secret@bus",
      REDIS_URL: "redi://:secret@r",
    });
    expect(message.split("\n")).toHaveLength(4);
    expect(message).not.toContain("secret");
  });
});

describe("databaseName", () => {
  it.each([
    ["postgres://u:p@db:6543/x?sslmode=require", "db:6543/x"],
    ["postgresql://[::1]/x", "[::1]:5432/x"],
  ])("%s is %s", (url, name) => {
    expect(databaseName(url)).toBe(name);
  });
});

describe("maskPasswords", () => {
  it.each([
    ["postgres://u:p@db/x", "postgres://u:***@db/x"],
    ["postgres://u:p@ss,w/o:rd@db/x", "postgres://u:***@db/x"],
    ["postgres://u:p@a/x,postgres://u:q@b/x", "postgres://u:***@a/x,postgres://u:***@b/x"],
    ["redis://:p@r:6379", "redis://:***@r:6379"],
    ["nats://token@bus:4222", "nats://***@bus:4222"],
    ["u:p@db", "u:***@db"],
    ["postgres://db/x?user=u&password=p&a=b", "postgres://db/x?user=u&password=***&a=b"],
    ["nats://a:4222,nats://b:4222", "nats://a:4222,nats://b:4222"],
  ])("%s becomes %s", (text, masked) => {
    expect(maskPasswords(text)).toBe(masked);
  });
});
