/**
 * What every part of a process is made from, and how all of them end: each puts its end into
 * `closing` when it begins, and they end in the opposite order, so that nothing is closed under a
 * part that still needs it.
 */
import type { Logger } from "pino";
import type { Bus } from "./core/bus.ts";
import type { Config } from "./config.ts";
import type { Databases } from "./database.ts";
import type { Metrics } from "./telemetry/metrics.ts";
import type { NatsBus } from "./bus/nats-bus.ts";
import type { Tracing } from "./telemetry/tracing.ts";

/** What has to be closed, last opened first. */
export type Closing = Array<{ name: string; close: () => Promise<void> }>;

export interface Parts {
  readonly config: Config;
  readonly version: string;
  readonly log: Logger;
  readonly databases: Databases;
  /** Which one this is; null as long as no database has said it. */
  readonly deployment: { id: string | null };
  readonly bus: Bus;
  /** The same bus, when it is NATS. */
  readonly natsBus: NatsBus | null;
  readonly metrics: Metrics;
  readonly tracing: Tracing | null;
  readonly closing: Closing;
}

/** Closes everything, last opened first; what fails to close does not keep the rest open. */
export async function closeAll(closing: Closing, log: Logger): Promise<void> {
  for (const { name, close } of closing.splice(0).toReversed()) {
    await close().catch((error: unknown) => log.error({ err: error }, `${name} did not close`));
  }
}
