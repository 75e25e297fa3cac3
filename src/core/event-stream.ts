/**
 * The names of the event stream, as consumers know them: `WALLET_EVENTS`, one subject per wallet
 * and event type. Ids may contain dots, which part the tokens of a subject, so they are
 * percent-encoded there; all other characters of an id are plain ones to NATS.
 */
export const EVENT_STREAM = "WALLET_EVENTS";
export const EVENT_SUBJECTS = "wallets.events.>";

/** `wallets.events.<walletId>.<EventType>`; `decodeURIComponent` gives the wallet id back. */
export function eventSubject(walletId: string, type: string): string {
  return `wallets.events.${walletId.replaceAll(".", "%2E")}.${type}`;
}
