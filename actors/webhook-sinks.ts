/**
 * Webhooks as sinks of the relay: looks again and again which there are, and gives the relay one
 * sink for each run of one. The sink decides what a webhook gets and what follows from its answers:
 * an event that is not taken is tried again in growing pauses and holds up the later ones of its
 * shard; one that was not taken for too long, or an answer that the receiver wants no more,
 * disables the webhook, whose cursors stay where they are. So does the loss of a cursor: nobody can
 * say then which events it has had, so it ends until somebody says from when on it shall have them,
 * rather than leave some out. While an endpoint takes nothing it gets one request at a time.
 */
import { eventBody, eventId } from "../src/event-body.ts";
import type { Time } from "../src/clock.ts";
import { LIMITS } from "../src/limits.ts";
import { messageOf } from "../src/message-of.ts";
import type { RelayEvent, Trouble } from "../src/core/relay-store.ts";
import { sinkOf, type Webhook, type WebhookStore } from "../src/core/webhooks.ts";
import type { WebhookSender } from "../src/webhook-sender.ts";
import type { Delivery, RelaySink } from "./relay-sink.ts";
import type { Relay } from "./relay.ts";

/** The pauses of a webhook; only tests have others. */
export interface WebhookPauses {
  readonly lookMs: number;
  readonly retryMs: number;
  readonly retryMsMax: number;
  readonly giveUpMs: number;
}

const PAUSES: WebhookPauses = {
  lookMs: LIMITS.webhookLookMs,
  retryMs: LIMITS.webhookRetryMs,
  retryMsMax: LIMITS.webhookRetryMsMax,
  giveUpMs: LIMITS.webhookGiveUpMs,
};

export interface WebhookSinksDeps {
  readonly relay: Pick<Relay, "add" | "remove">;
  readonly store: Pick<WebhookStore, "list" | "disable">;
  readonly sender: WebhookSender;
  readonly time: Time;
  /** From 0 to below 1: spreads retries. */
  readonly random: () => number;
  readonly log: { warn(text: string): void };
  readonly pauses?: Partial<WebhookPauses>;
}

export interface WebhookSinks {
  /** Webhooks that are disabled, as the latest look has found; null before the first. */
  readonly disabled: number | null;
  stop(): void;
}

export function startWebhookSinks(deps: WebhookSinksDeps): WebhookSinks {
  const { relay, store, time, log } = deps;
  const pauses = { ...PAUSES, ...deps.pauses };
  const running = new Set<string>();
  let isStopped = false;
  let disabled: number | null = null;
  let quietUntilMs = 0;
  let cancel = (): void => undefined;

  async function look(): Promise<void> {
    try {
      const webhooks = await store.list();
      if (isStopped) return;
      const active = webhooks.filter(({ status }) => status === "ACTIVE");
      disabled = webhooks.length - active.length;
      const wanted = new Map(active.map((webhook) => [sinkOf(webhook), webhook]));
      for (const name of running) {
        if (wanted.has(name)) continue;
        running.delete(name);
        void relay.remove(name);
      }
      for (const [name, webhook] of wanted) {
        if (running.has(name)) continue;
        running.add(name);
        relay.add(buildWebhookSink(webhook, { ...deps, pauses }));
      }
    } catch (error) {
      // Those that are known go on.
      if (time.nowMs() >= quietUntilMs) {
        quietUntilMs = time.nowMs() + LIMITS.troubleLogMs;
        log.warn(`cannot see which webhooks there are: ${messageOf(error)}`);
      }
    }
    if (!isStopped) cancel = time.after(pauses.lookMs, () => void look());
  }

  void look();
  return {
    get disabled() {
      return disabled;
    },
    stop() {
      isStopped = true;
      cancel();
    },
  };
}

interface SinkDeps extends Pick<WebhookSinksDeps, "store" | "sender" | "time" | "random" | "log"> {
  readonly pauses: WebhookPauses;
}

function buildWebhookSink(webhook: Webhook, deps: SinkDeps): RelaySink {
  const { store, sender, time, log, pauses } = deps;
  const { webhookId, url, secret } = webhook;
  const types = webhook.eventTypes === null ? null : new Set(webhook.eventTypes);
  const wallets = webhook.walletIds === null ? null : new Set(webhook.walletIds);
  let isOpen = true;
  let isStopped = false;
  let isRefusing = false;
  let onOpen = (): void => undefined;

  function wants({ type, walletId }: RelayEvent): boolean {
    return (types === null || types.has(type)) && (wallets === null || wallets.has(walletId));
  }

  /** Closed at once; if it cannot be written down now, the next try ends here again. */
  async function disable(reason: string): Promise<Delivery> {
    if (!isOpen) return { type: "closed" };
    isOpen = false;
    try {
      const isOurs = await store.disable(webhook, reason);
      if (isOurs) log.warn(`webhook ${webhookId} is disabled: ${reason}`);
    } catch (error) {
      // It may be disabled, which the next try does not tell.
      log.warn(
        `webhook ${webhookId} is to be disabled: ${reason}; trying again: ${messageOf(error)}`,
      );
      time.after(pauses.retryMs, () => {
        if (isStopped) return;
        isOpen = true;
        onOpen();
      });
    }
    return { type: "closed" };
  }

  function pauseMs(attempts: number): number {
    const pause = Math.min(pauses.retryMs * 2 ** attempts, pauses.retryMsMax);
    return pause * (1 + deps.random() / 4);
  }

  async function deliver(event: RelayEvent, trouble: Trouble | null): Promise<Delivery> {
    if (!wants(event)) return { type: "passed" };
    if (!isOpen) return { type: "closed" };
    const attempts = trouble?.attempts ?? 0;
    const answer = await sender.send({
      webhookId,
      url,
      secret,
      eventId: eventId(event),
      eventType: event.type,
      correlationId: event.correlationId,
      attempt: attempts + 1,
      body: JSON.stringify(eventBody(event, event.decimalPlaces)),
    });
    isRefusing = answer.type !== "taken";
    switch (answer.type) {
      case "taken":
        return { type: "delivered" };
      case "gone":
        return await disable(`it answered 410 to ${eventId(event)}: it wants no more`);
      case "refused": {
        const wallMs = time.wallMs();
        const failingMs = wallMs - (trouble?.failingSinceMs ?? wallMs);
        if (failingMs >= pauses.giveUpMs) {
          const hours = Math.round(failingMs / 3_600_000);
          return await disable(
            `it did not take ${eventId(event)} in ${attempts + 1} attempts over ${hours} hours: ${answer.reason}`,
          );
        }
        return { type: "failed", reason: answer.reason, retryInMs: pauseMs(attempts) };
      }
      default:
        return answer satisfies never;
    }
  }

  return {
    name: sinkOf(webhook),
    label: `webhook:${webhookId}`,
    beginsAtFirst: false,
    get shardsAtOnceMax() {
      return isRefusing ? 1 : LIMITS.webhookShardsAtOnceMax;
    },
    shardRowsMax: LIMITS.webhookShardRowsMax,
    windowMax: 1,
    get isOpen() {
      return isOpen;
    },
    get state() {
      if (!isOpen) return "disabled";
      return isRefusing ? "failing" : "open";
    },
    start(listener) {
      onOpen = listener;
    },
    deliver,
    lost(shards) {
      const [few, more] = [shards.slice(0, 5).join(", "), shards.length > 5 ? " and more" : ""];
      void disable(
        `how far it is in ${shards.length} of its shards is lost (${few}${more}): replay it from a time`,
      );
    },
    stop() {
      isStopped = true;
      isOpen = false;
    },
  };
}
