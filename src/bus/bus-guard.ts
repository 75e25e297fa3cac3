/**
 * Sees that all who share a bus belong to one deployment. Subjects do not say whose shard a message
 * is for, so two deployments on one NATS would carry out each other's commands, and callers would
 * hear of wallets that are not theirs. Who starts tells the others which deployment it is of, and
 * ends when one of another answers; who serves already goes on, and says so in its log. It traded
 * certainty for simplicity: a copy of a database is of the same deployment, and processes of
 * versions before this one do not answer.
 */
import { setTimeout as sleep } from "node:timers/promises";
import type { Bus } from "../core/bus.ts";
import { LIMITS } from "../limits.ts";
import { SUBJECTS } from "../core/protocol.ts";

export interface BusGuardOptions {
  readonly bus: Pick<Bus, "publish" | "subscribe" | "onReconnect" | "ping">;
  /** This process, for people. */
  readonly name: string;
  readonly log: { error(text: string): void };
  /** Another deployment was here first: this process must end. */
  readonly onForeign: (reason: string) => void;
}

export interface BusGuard {
  /**
   * To be called once: by hosts before anything is taken from the bus, by gateways as soon as a
   * database says whose they are. Resolves when those who are there could answer, within
   * `LIMITS.busGuardAnswerMs`, or within `LIMITS.healthCheckMs` while the bus is away; then it asks
   * later.
   */
  join(deploymentId: string): Promise<void>;
  close(): void;
}

/** From everybody to everybody; an answer goes to whoever asked and is of another deployment. */
interface Presence {
  readonly name: string;
  readonly deploymentId: string;
  readonly isAnswer: boolean;
}

export function buildBusGuard({ bus, name, log, onForeign }: BusGuardOptions): BusGuard {
  /** Until then an answer means that others were here before. */
  let isNewUntilMs = 0;
  let quietUntilMs = 0;
  let retry: NodeJS.Timeout | undefined;
  const closing: Array<() => void> = [];

  function say(deploymentId: string, isAnswer: boolean, onUndelivered?: () => void): void {
    const presence: Presence = { name, deploymentId, isAnswer };
    bus.publish(SUBJECTS.deployment, presence, onUndelivered);
  }

  function ask(deploymentId: string): void {
    isNewUntilMs = performance.now() + LIMITS.busGuardMs;
    say(deploymentId, false, () => {
      clearTimeout(retry);
      retry = setTimeout(ask, LIMITS.busGuardRetryMs, deploymentId);
    });
  }

  function hear(own: string, message: unknown): void {
    const { name: from, deploymentId, isAnswer } = (message ?? {}) as Partial<Presence>;
    if (typeof deploymentId !== "string" || deploymentId === own) return;
    if (isAnswer !== true) say(own, true);
    const nowMs = performance.now();
    const who = `deployment ${deploymentId} (${String(from)})`;
    if (isAnswer === true && nowMs < isNewUntilMs) {
      onForeign(
        `NATS_URL: ${who} is on this NATS, and this is ${own}; each deployment needs a NATS, or an account there, of its own`,
      );
    } else if (nowMs >= quietUntilMs) {
      quietUntilMs = nowMs + LIMITS.troubleLogMs;
      log.error(`${who} has come to the NATS of this one, ${own}; it must not serve there`);
    }
  }

  return {
    async join(deploymentId) {
      closing.push(
        bus.subscribe(SUBJECTS.deployment, (message) => hear(deploymentId, message)),
        bus.onReconnect(() => say(deploymentId, false)),
      );
      ask(deploymentId);
      try {
        await bus.ping(LIMITS.healthCheckMs);
      } catch {
        return; // The bus is away, and with it everybody who could answer.
      }
      // Only its server has answered so far.
      await sleep(LIMITS.busGuardAnswerMs);
    },
    close() {
      clearTimeout(retry);
      for (const close of closing.splice(0)) close();
    },
  };
}
