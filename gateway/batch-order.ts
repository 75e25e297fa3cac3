/**
 * Keeps the commands of one batch in their order where it matters. Commands that go to one wallet
 * reach its actor in the order in which they are submitted, so most need no care. A transfer does:
 * it is decided at its payer only after the payee was asked, so what follows could overtake it.
 * Here a command learns what it has to wait for; it costs nothing in a batch without transfers.
 * Transfers out of one wallet, or into one, do not wait for each other: they may change places, and
 * thousands of them run side by side. One into a wallet waits for those out of it, and the other
 * way round.
 */
import { buildTransitMap } from "../src/transit-map.ts";

/** Commands of one kind that a wallet has under way. */
interface UnderWay {
  count: number;
  /** How many of them have not been submitted, as they wait themselves. */
  waiting: number;
  /** Resolves when all so far are answered. */
  done: Promise<unknown>;
}

interface WalletUse {
  readonly out: UnderWay;
  readonly into: UnderWay;
  /** All that is no transfer. */
  readonly own: UnderWay;
}

export interface BatchOrder {
  /**
   * What has to be answered before this command is submitted: null for nothing. `payeeId` is null
   * unless it pays a wallet. The returned `ended` is to be called when it is answered.
   */
  enter(
    walletId: string,
    payeeId: string | null,
  ): { readonly before: Promise<unknown> | null; readonly ended: () => void };
}

function none(): UnderWay {
  return { count: 0, waiting: 0, done: Promise.resolve() };
}

export function buildBatchOrder(): BatchOrder {
  /** Wallets that have something under way: no more than the batch's window. */
  const uses = buildTransitMap<string, WalletUse>();

  function useOf(walletId: string): WalletUse {
    let use = uses.get(walletId);
    if (use === undefined) {
      use = { out: none(), into: none(), own: none() };
      uses.set(walletId, use);
    }
    return use;
  }

  function forgetIfIdle(walletId: string, { out, into, own }: WalletUse): void {
    if (out.count + into.count + own.count === 0) uses.delete(walletId);
  }

  return {
    enter(walletId, payeeId) {
      const payer = useOf(walletId);
      const payee = payeeId === null ? null : useOf(payeeId);
      const before = payee === null ? beforeOwn(payer) : beforeTransfer(payer, payee);
      const joined = payee === null ? [payer.own] : [payer.out, payee.into];
      let end = (): void => undefined;
      const answered = new Promise<void>((resolve) => {
        end = resolve;
      });
      for (const group of joined) {
        group.done = group.count === 0 ? answered : Promise.all([group.done, answered]);
        group.count += 1;
        if (before.length > 0) group.waiting += 1;
      }
      return {
        before: before.length === 0 ? null : Promise.all(before),
        ended() {
          end();
          for (const group of joined) {
            group.count -= 1;
            if (before.length > 0) group.waiting -= 1;
          }
          forgetIfIdle(walletId, payer);
          if (payeeId !== null && payee !== null) forgetIfIdle(payeeId, payee);
        },
      };
    },
  };
}

/** Transfers are decided late; of its own kind, only what has not left yet could be overtaken. */
function beforeOwn({ out, into, own }: WalletUse): Promise<unknown>[] {
  const before: Promise<unknown>[] = [];
  if (out.count > 0) before.push(out.done);
  if (into.count > 0) before.push(into.done);
  if (own.waiting > 0) before.push(own.done);
  return before;
}

/**
 * Money that is on its way to the payer may be what it pays with, the payee may be in the making,
 * and what the payee pays before must neither be paid with this money nor be in its way.
 */
function beforeTransfer(payer: WalletUse, payee: WalletUse): Promise<unknown>[] {
  const before: Promise<unknown>[] = [];
  if (payer.into.count > 0) before.push(payer.into.done);
  if (payer.own.waiting > 0) before.push(payer.own.done);
  if (payee.own.count > 0) before.push(payee.own.done);
  if (payee.out.count > 0) before.push(payee.out.done);
  return before;
}
