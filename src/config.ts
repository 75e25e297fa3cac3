/**
 * The settings: the environment, read once with envalid into a typed, frozen object. A bad setting
 * ends the start with one message that lists every bad variable: its name, what was given, what is
 * allowed. An empty value counts as unset, since that is what an unfilled line of an env file or a
 * compose file gives. Passwords in addresses are never printed.
 */
import { isIP } from "node:net";
import { availableParallelism, hostname } from "node:os";
import { cleanEnv, makeExactValidator } from "envalid";
import { isLoopbackName } from "./addresses.ts";
import { LIMITS } from "./limits.ts";

const roles = ["all", "gateway", "host"] as const;
export type Role = (typeof roles)[number];

const logLevels = ["trace", "debug", "info", "warn", "error", "fatal", "silent"] as const;
export type LogLevel = (typeof logLevels)[number];

export interface Config {
  /** 0: any free port. */
  readonly port: number;
  readonly host: string;
  readonly role: Role;
  /**
   * The shards are spread over them, shard modulo count. Empty: the embedded PostgreSQL under
   * `dataDir`.
   */
  readonly databaseUrls: readonly string[];
  readonly dataDir: string;
  /** Empty: the in-process bus. */
  readonly natsUrls: readonly string[];
  readonly redisUrl: string | undefined;
  /** Worker threads that run actors. */
  readonly lanes: number;
  /** Whether a transfer within one lane is one commit. */
  readonly transferShortcut: boolean;
  readonly hostId: string;
  readonly logLevel: LogLevel;
  /** HTTP requests of one client address per second; undefined: no limit. */
  readonly rateLimitPerSecond: number | undefined;
  /** Proxies whose `X-Forwarded-For` names the client: addresses and subnets. */
  readonly trustProxy: readonly string[];
  /** Origins of pages on other servers that may open a feed; `*`: all. */
  readonly feedOrigins: readonly string[];
  /** Whether spans are exported, by OpenTelemetry's own variables, which its libraries read. */
  readonly isTraced: boolean;
  /** Pause between two reconciliations of a host, in minutes; 0: none. */
  readonly verifyIntervalMinutes: number;
  /** Events, and transfers, that a reconciliation reads per second at most. */
  readonly verifyRowsPerSecond: number;
  /** Whether committed events go to the stream in JetStream. */
  readonly events: boolean;
  /**
   * Of the stream, when Coffer makes it: days that it keeps events (0: for ever), and bytes that it
   * holds (0: no bound).
   */
  readonly eventsMaxAgeDays: number;
  readonly eventsMaxBytes: number;
  /** Servers of a NATS cluster that keep a copy each. */
  readonly eventsReplicas: number;
  /** Whether webhooks may go to private and loopback addresses. */
  readonly webhookPrivate: boolean;
}

/** Its message is meant for the person who started Coffer: one line for each bad variable. */
export class ConfigError extends Error {
  override readonly name = "ConfigError";
}

/**
 * @param env usually `process.env`
 * @throws ConfigError that lists every bad variable
 */
export function readConfig(env: Readonly<Record<string, string | undefined>>): Config {
  const given: Record<string, string> = {};
  for (const name of Object.keys(specification)) {
    const value = env[name]?.trim() ?? "";
    if (value !== "") given[name] = value;
  }
  const problems: string[] = [];
  const settings = cleanEnv(given, specification, {
    reporter: ({ errors }) => {
      for (const [name, error] of Object.entries(errors)) {
        const value = given[name];
        const got = value === undefined ? "is not set" : `got "${maskPasswords(value)}"`;
        problems.push(`\n  ${name}: ${got}, allowed: ${error.message}`);
      }
    },
  });
  if (problems.length > 0) {
    throw new ConfigError(`Coffer cannot start with these settings:${problems.join("")}`);
  }
  return Object.freeze({
    port: settings.PORT,
    host: settings.HOST,
    role: settings.ROLE,
    databaseUrls: Object.freeze(settings.DATABASE_URL ?? []),
    dataDir: settings.DATA_DIR,
    natsUrls: Object.freeze(settings.NATS_URL ?? []),
    redisUrl: settings.REDIS_URL,
    lanes: settings.LANES ?? Math.min(Math.max(availableParallelism() - 1, 1), LIMITS.lanesMax),
    transferShortcut: settings.TRANSFER_SHORTCUT === "on",
    hostId: settings.HOST_ID ?? defaultHostId(),
    logLevel: settings.LOG_LEVEL,
    rateLimitPerSecond: settings.RATE_LIMIT_PER_SECOND,
    trustProxy: Object.freeze(settings.TRUST_PROXY ?? []),
    feedOrigins: Object.freeze(settings.FEED_ORIGINS ?? []),
    isTraced:
      settings.OTEL_SDK_DISABLED !== "true" &&
      settings.OTEL_TRACES_EXPORTER !== "none" &&
      (settings.OTEL_EXPORTER_OTLP_ENDPOINT ?? settings.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT) !==
        undefined,
    verifyIntervalMinutes: settings.VERIFY_INTERVAL_MINUTES,
    verifyRowsPerSecond: settings.VERIFY_ROWS_PER_SECOND,
    events: (settings.EVENTS ?? "on") === "on" && settings.NATS_URL !== undefined,
    eventsMaxAgeDays: settings.EVENTS_MAX_AGE_DAYS,
    eventsMaxBytes: settings.EVENTS_MAX_BYTES,
    eventsReplicas: settings.EVENTS_REPLICAS,
    webhookPrivate: (settings.WEBHOOK_PRIVATE ?? privateByDefault(settings)) === "on",
  });
}

/**
 * For every line that shows an address, or a comma-separated list of them, to a person. A user
 * without a password goes too: NATS puts its token there. Rather hides too much than too little.
 */
export function maskPasswords(text: string): string {
  const entries = text.split(/,(?=\s*[a-z][a-z0-9+.-]*:\/\/)/i);
  const masked = entries.map((entry) =>
    entry
      .replace(/^(\s*(?:[a-z][a-z0-9+.-]*:\/\/)?)(?:([^:/@]*):.*|[^:/@]*)@/is, (_, scheme, user) =>
        user === undefined ? `${scheme}***@` : `${scheme}${user}:***@`,
      )
      .replaceAll(/([?&](?:ssl)?password=)[^&]*/gi, "$1***"),
  );
  return masked.join(",");
}

/**
 * Who reaches a whole Coffer that listens on loopback alone is on this machine already; parts of a
 * cluster are reached from elsewhere.
 */
function privateByDefault({ ROLE, HOST }: { ROLE: Role; HOST: string }): "on" | "off" {
  return ROLE === "all" && isLoopbackName(HOST) ? "on" : "off";
}

/** A database for a person: where it is, without user, password and settings. */
export function databaseName(databaseUrl: string): string {
  const { hostname, port, pathname } = new URL(databaseUrl);
  return `${hostname}:${port === "" ? 5_432 : port}${pathname}`;
}

/** The entries of a comma-separated list; empty ones are left out. */
function splitList(text: string): string[] {
  const entries = text.split(",").map((entry) => entry.trim());
  return entries.filter((entry) => entry !== "");
}

// --- What is allowed: each parser throws an Error whose message says it --------------------------

const integer = (lowest: number, highest: number) =>
  makeExactValidator<number>((text) => {
    const value = /^\d{1,15}$/.test(text) ? Number(text) : Number.NaN;
    if (value >= lowest && value <= highest) return value;
    throw new Error(`a whole number from ${lowest} to ${highest}`);
  });

const matching = (pattern: RegExp, allowed: string) =>
  makeExactValidator<string>((text) => {
    if (pattern.test(text)) return text;
    throw new Error(allowed);
  });

const oneOf = <T extends string>(values: readonly T[]) =>
  makeExactValidator<T>((text) => {
    const found = values.find((value) => value === text);
    if (found !== undefined) return found;
    throw new Error(values.join(", "));
  });

function parseAddress(text: string, schemes: string[], allowed: string): string {
  const url = URL.canParse(text) ? new URL(text) : undefined;
  const isAllowed = url !== undefined && schemes.includes(url.protocol) && url.hostname !== "";
  if (isAllowed && !isCutShort(url)) return text;
  throw new Error(allowed);
}

/**
 * A password such as `12/34` ends the host and port of an address that begins with its user, and
 * the rest of it would be shown as the path.
 */
function isCutShort({ pathname, search, hash }: URL): boolean {
  return `${pathname}${search}${hash}`.includes("@");
}

/** Its reader decodes user and password, and knows no other way. */
function isDecodable(text: string): boolean {
  const { username, password } = new URL(text);
  try {
    decodeURIComponent(`${username}${password}`);
    return true;
  } catch {
    return false;
  }
}

const databases = makeExactValidator<string[]>((text) => {
  const urls = splitList(text);
  const allowed =
    "postgres://user:password@host:port/database, or several with commas between them";
  for (const url of urls) parseAddress(url, ["postgres:", "postgresql:"], allowed);
  // A place in the list decides where wallets live: an empty one, as of a variable that was not set
  // in a template, must not move the others up.
  if (urls.length < text.split(",").length) throw new Error(`${allowed}, and no empty place`);
  for (const parameter of urls.flatMap((url) => [...new URL(url).searchParams.keys()])) {
    if (SET_BY_COFFER.has(parameter)) {
      throw new Error(`an address without ${parameter}, which Coffer sets itself`);
    }
    if (SAID_BEFORE.has(parameter)) throw new Error(`${allowed}, and no ${parameter} behind it`);
  }
  const names = urls.map(databaseName);
  const twice = names.find((name, index) => names.indexOf(name) < index);
  if (twice !== undefined) throw new Error(`each database once, not ${twice} twice`);
  if (urls.length <= LIMITS.databasesMax) return urls;
  throw new Error(`at most ${LIMITS.databasesMax} databases, not ${urls.length}`);
});

/**
 * The driver takes these from an address in place of what it is told: with `options` there, nothing
 * of what commits and the fence rest on would be set (`synchronous_commit`, the isolation, bounds).
 */
const SET_BY_COFFER = new Set([
  "options",
  "statement_timeout",
  "lock_timeout",
  "idle_in_transaction_session_timeout",
  "query_timeout",
  "connectionTimeoutMillis",
]);

/** What the driver would take from behind an address in place of what names the database here. */
const SAID_BEFORE = new Set(["host", "port"]);

const natsServers = makeExactValidator<string[]>((text) => {
  const allowed = "nats://host:port, or several such addresses with commas between them";
  const urls = splitList(text);
  for (const url of urls) parseAddress(url, ["nats:", "tls:"], allowed);
  if (urls.length === 0) throw new Error(allowed);
  if (!urls.every(isDecodable)) throw new Error(`${allowed}; a % in a password is %25`);
  return urls;
});

const redisServer = makeExactValidator<string>((text) => {
  const allowed = "redis://host:port, or rediss:// for TLS";
  const url = parseAddress(text, ["redis:", "rediss:"], allowed);
  if (!isDecodable(url)) throw new Error(`${allowed}; a % in a password is %25`);
  return url;
});

const proxies = makeExactValidator<string[]>((text) => {
  const allowed = "addresses and subnets of proxies with commas between them, such as 10.0.0.0/8";
  const entries = splitList(text);
  if (entries.length === 0 || !entries.every(isSubnet)) throw new Error(allowed);
  return entries;
});

const origins = makeExactValidator<string[]>((text) => {
  const allowed = "origins of pages with commas between them, such as https://shop.example, or *";
  const entries = splitList(text);
  for (const entry of entries) {
    if (entry === "*") continue;
    const url = URL.canParse(entry) ? new URL(entry) : undefined;
    const isOrigin = url?.origin === entry && ["http:", "https:"].includes(url.protocol);
    if (!isOrigin) throw new Error(allowed);
  }
  if (entries.length === 0) throw new Error(allowed);
  return entries;
});

function isSubnet(text: string): boolean {
  const [address = "", bits, ...more] = text.split("/");
  const version = isIP(address);
  if (version === 0 || more.length > 0) return false;
  return (
    bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= (version === 4 ? 32 : 128))
  );
}

const otlpServer = makeExactValidator<string>((text) =>
  parseAddress(text, ["http:", "https:"], "http://host:port of a collector that takes OTLP"),
);

const ratio = makeExactValidator<number>((text) => {
  const value = /^(0|1|[01]?\.\d{1,15})$/.test(text) ? Number(text) : Number.NaN;
  if (value >= 0 && value <= 1) return value;
  throw new Error("a share from 0 to 1");
});

const samplers = [
  "always_on",
  "always_off",
  "traceidratio",
  "parentbased_always_on",
  "parentbased_always_off",
  "parentbased_traceidratio",
] as const;

const anyText = matching(/^[^\0]+$/, "a folder");
const hostName = matching(/^[A-Za-z0-9.:_%-]+$/, "an IP address or host name to listen on");
const hostId = matching(/^[A-Za-z0-9_-]{1,64}$/, "1 to 64 letters, digits, - and _");

/** When a variable must be set, and the text for a person who did not. */
const neededBy = (needing: readonly Role[], example: string) => ({
  requiredWhen: (env: Record<string, unknown>) => needing.includes(env["ROLE"] as Role),
  desc: `${example} (needed when ROLE is ${needing.join(" or ")})`,
});

const onOff = oneOf(["on", "off"] as const);

/** ROLE and EVENTS stand first: the others ask for them. */
const specification = {
  ROLE: oneOf(roles)({ default: "all" }),
  EVENTS: onOff({ default: undefined }),
  EVENTS_MAX_AGE_DAYS: integer(0, 36_500)({ default: 7 }),
  EVENTS_MAX_BYTES: integer(0, 999_999_999_999_999)({ default: 0 }),
  // JetStream takes no more.
  EVENTS_REPLICAS: integer(1, 5)({ default: 1 }),
  WEBHOOK_PRIVATE: onOff({ default: undefined }),
  PORT: integer(0, 65_535)({ default: 3_000 }),
  HOST: hostName({ default: "127.0.0.1" }),
  DATABASE_URL: databases({
    default: undefined,
    ...neededBy(["gateway", "host"], "postgres://user:password@host:port/database"),
  }),
  DATA_DIR: anyText({ default: ".coffer" }),
  NATS_URL: natsServers({
    default: undefined,
    requiredWhen: (env: Record<string, unknown>) =>
      env["ROLE"] === "gateway" || env["ROLE"] === "host" || env["EVENTS"] === "on",
    desc: "nats://host:port (needed when ROLE is gateway or host, and when EVENTS is set to on)",
  }),
  REDIS_URL: redisServer({ default: undefined, ...neededBy(["host"], "redis://host:port") }),
  LANES: integer(1, LIMITS.lanesMax)({ default: undefined }),
  TRANSFER_SHORTCUT: onOff({ default: "on" }),
  HOST_ID: hostId({ default: undefined }),
  LOG_LEVEL: oneOf(logLevels)({ default: "info" }),
  RATE_LIMIT_PER_SECOND: integer(1, 1_000_000)({ default: undefined }),
  TRUST_PROXY: proxies({ default: undefined }),
  FEED_ORIGINS: origins({ default: undefined }),
  OTEL_SDK_DISABLED: oneOf(["true", "false"])({ default: undefined }),
  OTEL_TRACES_EXPORTER: oneOf(["otlp", "none"])({ default: undefined }),
  OTEL_EXPORTER_OTLP_ENDPOINT: otlpServer({ default: undefined }),
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: otlpServer({ default: undefined }),
  OTEL_TRACES_SAMPLER: oneOf(samplers)({ default: undefined }),
  OTEL_TRACES_SAMPLER_ARG: ratio({ default: undefined }),
  VERIFY_INTERVAL_MINUTES: integer(0, 43_200)({ default: 60 }),
  VERIFY_ROWS_PER_SECOND: integer(1, 1_000_000)({ default: 2_000 }),
};

/** Another one for each process, readable in logs. */
function defaultHostId(): string {
  const name = hostname().replaceAll(/[^A-Za-z0-9_-]/g, "-");
  return `${name.slice(0, 50)}-${process.pid}`;
}
