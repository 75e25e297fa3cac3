/**
 * The log: JSON lines on standard error by pino. It hides that nothing secret may get there:
 * passwords in addresses are masked in the finished line, wherever in it they are, and what
 * libraries put beside an error of theirs (the arguments of a Redis command, a client's password)
 * is cut out.
 */
import { pino, type DestinationStream, type Logger } from "pino";
import type { LogLevel } from "./config.ts";
import { LIMITS } from "./limits.ts";

/** `scheme://user:password@` and `scheme://token@`, as they stand in a JSON string. */
const CREDENTIALS = /\b([a-z][a-z0-9+.-]*:\/\/)(?:([^\s:/@"\\]*):)?[^\s/@"\\]+@/gi;
const PASSWORD_PARAMETER = /([?&](?:ssl)?password=)[^&\s"\\]*/gi;

/**
 * Where libraries keep secrets in objects that reach the log: ioredis errors, pg clients,
 * connection options.
 */
const SECRET_PATHS = [
  "err.command.args",
  "err.password",
  "err.connectionString",
  "password",
  "pass",
  "token",
  "connectionString",
  "*.password",
  "*.pass",
  "*.token",
  "*.connectionString",
];

export function maskLine(line: string): string {
  if (!line.includes("://") && !line.includes("password=")) return line;
  return line
    .replaceAll(CREDENTIALS, (_, scheme: string, user: string | undefined) =>
      user === undefined ? `${scheme}***@` : `${scheme}${user}:***@`,
    )
    .replaceAll(PASSWORD_PARAMETER, "$1***");
}

/**
 * A log that cannot be written, as when its terminal was closed or its disk is full, ends nothing:
 * lines wait up to a bound for the disk, further ones are dropped, and none is waited for when the
 * process exits. Without this the first error would end the process, and pino, which writes what
 * waits at the exit, would try for ever, with the embedded PostgreSQL still there. So it would for
 * a reader who is there and does not read.
 */
export function openDestination(fd: number): ReturnType<typeof pino.destination> {
  /** Until when a full pipe is tried again; only the end of the process cannot try for ever. */
  let triesUntilMs = Infinity;
  const destination = pino.destination({
    dest: fd,
    maxLength: LIMITS.logWaitingCharsMax,
    retryEAGAIN: () => performance.now() < triesUntilMs,
  });
  const write = destination.write.bind(destination);
  const flushSync = destination.flushSync.bind(destination);
  let isFailing = false;
  /** When the write under way began; null: none is. */
  let sinceMs: number | null = null;
  destination.on("error", () => (isFailing = true));
  destination.on("write", () => {
    isFailing = false;
    sinceMs = performance.now();
  });
  destination.on("drain", () => (sinceMs = null));
  destination.write = (line) => {
    sinceMs ??= performance.now();
    return write(line);
  };
  destination.flushSync = () => {
    const isStuck = sinceMs !== null && performance.now() - sinceMs > LIMITS.logWriteMs;
    if (isFailing || isStuck) return;
    triesUntilMs = performance.now() + LIMITS.logWriteMs;
    try {
      flushSync();
    } catch {
      // Nobody reads what is left, and there is no other place to say so.
    } finally {
      triesUntilMs = Infinity;
    }
  };
  return destination;
}

/** `hostId` stands in every line: it names the process. */
export function buildLog(
  { level, hostId }: { readonly level: LogLevel; readonly hostId: string },
  destination: DestinationStream = openDestination(2),
): Logger {
  return pino(
    { level, base: { hostId }, redact: { paths: SECRET_PATHS, censor: "***" } },
    { write: (line: string) => destination.write(maskLine(line)) },
  );
}
