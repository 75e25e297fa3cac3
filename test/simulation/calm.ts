/**
 * What a cluster owes its callers while nothing goes wrong: an answer to each sending of a command,
 * soon. A gateway sends again what is not answered, so that a reply which never leaves, or a
 * message that nobody deals with, ends well all the same, only late; before the faults begin it is
 * found here.
 */
import type { Bus } from "../../src/core/bus.ts";
import type { CommandMessage, Reply } from "../../src/core/protocol.ts";
import type { Scheduler } from "./scheduler.ts";

/** Shards find their hosts, and callers begin. */
const FROM_MS = 400;
/** Longer than a commit that waits for another, a wallet to be read, and a hold. */
const ANSWER_MS = 400;
/** The same with a post that is lost where a shard moves, and is repeated. */
const TRANSFER_MS = 1_500;

export interface CalmDeps {
  readonly bus: Bus;
  readonly scheduler: Pick<Scheduler, "nowMs" | "after">;
  /** The first fault may come. */
  readonly untilMs: number;
  readonly onProblem: (text: string) => void;
}

type Calm = Pick<Bus, "publish" | "subscribe">;

interface Sending {
  readonly what: string;
  readonly dueMs: number;
}

/** The bus of a command desk, which it watches until the calm is over. */
export function watchCalm({ bus, scheduler, untilMs, onProblem }: CalmDeps): Calm {
  const sendings = new Map<number, Sending>();

  function sent({ seq, command }: CommandMessage): void {
    const { commandId, walletId, body } = command;
    const isTransfer = body.type === "transfer" || (body.type === "capture" && body.to !== null);
    const dueMs = scheduler.nowMs + (isTransfer ? TRANSFER_MS : ANSWER_MS);
    if (scheduler.nowMs < FROM_MS || dueMs >= untilMs) return;
    sendings.set(seq, { what: `${commandId}, ${body.type} of ${walletId}`, dueMs });
  }

  function ended(seq: number): void {
    const sending = sendings.get(seq);
    if (sending === undefined) return;
    sendings.delete(seq);
    if (scheduler.nowMs > sending.dueMs) tell(sending);
  }

  function tell({ what, dueMs }: Sending): void {
    onProblem(`in the calm nobody answered ${what} by ${dueMs.toFixed(0)} ms`);
  }

  scheduler.after(Math.max(0, untilMs - scheduler.nowMs), "the calm ends", () => {
    for (const sending of sendings.values()) tell(sending);
    sendings.clear();
  });

  return {
    publish(subject, message, onUndelivered) {
      const messages = message as readonly CommandMessage[];
      for (const each of messages) sent(each);
      bus.publish(subject, message, () => {
        for (const { seq } of messages) ended(seq);
        onUndelivered?.();
      });
    },
    subscribe: (subject, handler) =>
      bus.subscribe(subject, (message, from) => {
        for (const { seq } of message as readonly Reply[]) ended(seq);
        handler(message as never, from);
      }),
  };
}
