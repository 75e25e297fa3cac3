/**
 * Keeps the commands of one batch in their order where it matters. Commands that go to one wallet
 * reach its actor in the order in which they are submitted, so most need no care. A transfer does:
 * it is decided at its payer only after the payee was asked, so what follows could overtake it.
 * Here a command learns what it has to wait for; it costs nothing in a batch without transfers.
 * Transfers out of one wallet, or into one, do not wait for each other: they may change places, and
 * thousands of them run side by side. One into a wallet waits for those out of it, and the other
 * way round. Behind what waits itself, a command waits until that is submitted, not for its answer:
 * what follows one transfer on a hot wallet then goes together again.
 */
import { buildTransitMap } from "../src/transit-map.ts";

/** Commands that others wait for. */
interface Group {
  count: number;
  /** Resolves when all so far have left. */
  left: Promise<unknown>;
}

interface WalletUse {
  /** Transfers out of it, and into it, that are not answered. */
  readonly out: Group;
  readonly into: Group;
  /** All that is no transfer, and is not answered. */
  readonly own: Group;
  /** Those of `own` that are not even submitted, as they wait themselves. */
  readonly waiting: Group;
}

/** A command's place in the order. */
export interface Turn {
  /** What has to happen before this command is submitted: null for nothing. */
  readonly before: Promise<unknown> | null;
  /** To be called right after it was submitted. */
  submitted(): void;
  /** To be called when it is answered, or when it never will be submitted. */
  ended(): void;
}

export interface BatchOrder {
  /** `payeeId` is null unless the command pays a wallet. */
  enter(walletId: string, payeeId: string | null): Turn;
}

function none(): Group {
  return { count: 0, left: Promise.resolve() };
}

/**
 * What is returned lets it leave; more calls do nothing, as what was submitted leaves once more when
 * it is answered.
 */
function join(group: Group): () => void {
  let leave!: () => void;
  const hasLeft = new Promise<void>((resolve) => {
    leave = resolve;
  });
  group.left = group.count === 0 ? hasLeft : Promise.all([group.left, hasLeft]);
  group.count += 1;
  let isIn = true;
  return () => {
    if (!isIn) return;
    isIn = false;
    group.count -= 1;
    leave();
  };
}

export function buildBatchOrder(): BatchOrder {
  /** Wallets that have something under way: no more than the batch's window. */
  const uses = buildTransitMap<string, WalletUse>();

  function useOf(walletId: string): WalletUse {
    let use = uses.get(walletId);
    if (use === undefined) {
      use = { out: none(), into: none(), own: none(), waiting: none() };
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
      const leaves = (payee === null ? [payer.own] : [payer.out, payee.into]).map(join);
      const submitted =
        payee === null && before.length > 0 ? join(payer.waiting) : (): void => undefined;
      return {
        before: before.length === 0 ? null : Promise.all(before),
        submitted,
        ended() {
          submitted();
          for (const leave of leaves) leave();
          forgetIfIdle(walletId, payer);
          if (payeeId !== null && payee !== null) forgetIfIdle(payeeId, payee);
        },
      };
    },
  };
}

/** Transfers are decided late; of its own kind, only what is not submitted could be overtaken. */
function beforeOwn({ out, into, waiting }: WalletUse): Promise<unknown>[] {
  return leftOf(out, into, waiting);
}

/**
 * Money that is on its way to the payer may be what it pays with, the payee may be in the making,
 * and what the payee pays before must neither be paid with this money nor be in its way.
 */
function beforeTransfer(payer: WalletUse, payee: WalletUse): Promise<unknown>[] {
  return leftOf(payer.into, payer.waiting, payee.own, payee.out);
}

function leftOf(...groups: readonly Group[]): Promise<unknown>[] {
  return groups.filter(({ count }) => count > 0).map(({ left }) => left);
}
