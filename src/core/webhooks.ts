/**
 * Webhooks, and the port to where they are kept (`postgres/webhooks.ts`): the gateway writes down
 * what there is to be, the hosts find it there and send. Where a webhook stands is kept as the
 * relay's cursors of one _run_ of it; a replay is a new run under a new name, which a host sees
 * complete or not at all.
 */

export interface Webhook {
  readonly webhookId: string;
  readonly url: string;
  readonly secret: string;
  /** Null: all. */
  readonly eventTypes: readonly string[] | null;
  readonly walletIds: readonly string[] | null;
  readonly description: string | null;
  readonly status: "ACTIVE" | "DISABLED";
  readonly disabledReason: string | null;
  readonly disabledAtMs: number | null;
  readonly run: string;
  readonly createdAtMs: number;
}

export interface NewWebhook extends Pick<
  Webhook,
  "webhookId" | "url" | "secret" | "eventTypes" | "walletIds" | "description"
> {
  readonly idempotencyKey: string | null;
  readonly fingerprint: string | null;
}

/**
 * Where a run begins: with what is committed from now on, with the events since a time, or where
 * the run before stands.
 */
export type Beginning =
  | { readonly type: "now" }
  | { readonly type: "time"; readonly atMs: number }
  | { readonly type: "here" };

export type Created =
  | { readonly type: "created"; readonly webhook: Webhook; readonly isReplay: boolean }
  /** The key was used before with another input. */
  | { readonly type: "conflict" }
  /** There are `LIMITS.webhooksMax` already. */
  | { readonly type: "full" };

/** What keeps a webhook's events, over all shards. */
export interface WebhookTrouble {
  readonly shards: number;
  readonly sinceMs: number;
  readonly retryAtMs: number;
  readonly reason: string;
}

/**
 * Every question rejects with `ReadUnavailable` when a database that it needs does not answer; then
 * nothing has changed that anybody sees, but that `disable` may have happened. `create`, `replay` and
 * `remove` reject with `OutcomeUnknown` when they may have.
 */
export interface WebhookStore {
  list(): Promise<Webhook[]>;
  get(webhookId: string): Promise<Webhook | null>;
  trouble(webhook: Webhook): Promise<WebhookTrouble | null>;
  create(webhook: NewWebhook, beginning: Beginning): Promise<Created>;
  /** A new run, active; null when there is no such webhook. */
  replay(webhookId: string, beginning: Beginning): Promise<Webhook | null>;
  /** Ends a run; false, and nothing, when it has ended or another one has begun. */
  disable(webhook: Pick<Webhook, "webhookId" | "run">, reason: string): Promise<boolean>;
  /** False: there was none. */
  remove(webhookId: string): Promise<boolean>;
  close(): Promise<void>;
}

/** Names the cursors of a run. */
export function sinkOf({ webhookId, run }: Pick<Webhook, "webhookId" | "run">): string {
  return `webhook:${webhookId}:${run}`;
}
