/**
 * What callers of the chaos bank do next: every kind of command there is, one by one, in batches,
 * as dry runs and again. It keeps what callers know of holds and wallets, so that most commands
 * have something to meet: holds are captured in parts, to the end and to other wallets, short-lived
 * wallets are opened, emptied and closed while others pay them, users' wallets are made by several
 * first uses at once.
 */
import type { BankAnswer } from "../stage/bank-check.ts";
import { GAME_ASSET, isGame, type BankCommand } from "../stage/bank-wire.ts";
import type { BankView, Turn } from "../stage/workload.ts";

/** Holds that callers know of; the latest ones. */
const HOLDS_MAX = 60;
const BRIEF_MAX = 4;
/** First uses of a user's wallet come about so many at a time. */
const USES_PER_USER = 5;
const BATCH_MIN = 2;
const BATCH_MAX = 12;

export const COMMAND_KINDS = [
  "open",
  "credit",
  "debit",
  "transfer",
  "hold",
  "capture",
  "release",
  "topup",
  "spend",
  "suspend",
  "activate",
  "close",
] as const satisfies ReadonlyArray<BankCommand["kind"]>;

interface KnownHold {
  readonly walletId: string;
  readonly holdId: string;
  readonly amountMinor: number;
}

export interface Teller {
  /** Kinds of commands that have been carried out. */
  readonly done: ReadonlySet<BankCommand["kind"]>;
  nextTurn(view: BankView): Turn;
  learn(command: BankCommand, answer: BankAnswer): void;
}

export function buildTeller(name: string, initialMinor: number): Teller {
  const done = new Set<BankCommand["kind"]>();
  const holds: KnownHold[] = [];
  /** As last told. */
  const balances = new Map<string, number>();
  const suspended = new Set<string>();
  let brief: string[] = [];
  /** Wallets that only dry runs name. */
  let ghosts = 0;
  let briefs = 0;
  let uses = 0;

  function learn(command: BankCommand, answer: BankAnswer): void {
    if (answer.type !== "acknowledged" || command.isDry === true) return;
    const { kind, walletId } = command;
    done.add(kind);
    if (answer.balanceMinor !== null) balances.set(walletId, answer.balanceMinor);
    if (kind === "suspend") suspended.add(walletId);
    if (kind === "activate") suspended.delete(walletId);
    if (kind === "hold" && answer.hold !== undefined && !answer.isReplay) {
      const { holdId, amountMinor } = answer.hold;
      holds.push({ walletId, holdId, amountMinor });
      if (holds.length > HOLDS_MAX) holds.shift();
    }
  }

  function nextTurn(view: BankView): Turn {
    const { below, entries } = view;
    const draw = below(100);
    if (draw < 10) {
      const isKeyed = below(2) === 0;
      const count = BATCH_MIN + below(BATCH_MAX - BATCH_MIN + 1);
      const commands = Array.from({ length: count }, () => forBatch(view));
      return { type: "batch", commands, isKeyed };
    }
    if (draw < 16) return dryRun(view);
    if (draw < 22) return { type: "repeat", entry: entries[below(entries.length)]! };
    return { type: "command", command: nextCommand(view) };
  }

  function dryRun(view: BankView): Turn {
    if (view.below(4) > 0) {
      return { type: "dry run", command: nextCommand(view), isDoneThen: view.below(2) === 0 };
    }
    const walletId = `${name}-ghost-${ghosts}:${GAME_ASSET}`;
    ghosts += 1;
    const command = { ...plain(view, "topup", walletId), amountMinor: 1 + view.below(1_000) };
    return { type: "dry run", command, isDoneThen: false };
  }

  function forBatch(view: BankView): BankCommand {
    for (;;) {
      const command = nextCommand(view);
      if (!isGame(command)) return command;
    }
  }

  function plain(view: BankView, kind: BankCommand["kind"], walletId: string): BankCommand {
    const key = view.newKey();
    return { key, kind, walletId, toWalletId: null, amountMinor: 0, expectedVersion: null };
  }

  function nextCommand(view: BankView): BankCommand {
    const { below, walletIds } = view;
    const some = (): string => walletIds[below(3) === 0 ? 0 : below(walletIds.length)]!;
    const [stopped] = suspended;
    if (stopped !== undefined && below(4) === 0) return plain(view, "activate", stopped);
    const draw = below(100);
    const walletId = some();
    const told = view.told(walletId);
    const expectedVersion = below(8) === 0 && told >= 0 ? told : null;
    const amountMinor = 1 + below(initialMinor * 0.6);
    if (draw < 14) return { ...plain(view, "credit", walletId), amountMinor, expectedVersion };
    if (draw < 25) return { ...plain(view, "debit", walletId), amountMinor, expectedVersion };
    if (draw < 44) {
      const toWalletId = payee(view, walletId);
      return { ...plain(view, "transfer", walletId), toWalletId, amountMinor, expectedVersion };
    }
    if (draw < 58) return hold(view, walletId, expectedVersion);
    if (draw < 76) return captureOrRelease(view, walletId);
    if (draw < 86) return gameUse(view);
    if (draw < 88) return plain(view, "suspend", walletId);
    if (draw < 89) return plain(view, "close", walletId);
    return briefLife(view);
  }

  function payee({ below, walletIds }: BankView, payer: string): string {
    const others = [...walletIds, ...brief].filter((id) => id !== payer);
    return others[below(others.length)]!;
  }

  function hold(view: BankView, walletId: string, expectedVersion: number | null): BankCommand {
    const { below } = view;
    const amountMinor = 1 + below(initialMinor * 0.4);
    const command = { ...plain(view, "hold", walletId), amountMinor, expectedVersion };
    // Some end by themselves soon, some in a while, most never.
    const draw = below(10);
    if (draw < 4) return { ...command, expiresInSeconds: 1 + below(4) };
    return draw === 4 ? { ...command, expiresInSeconds: 86_400 } : command;
  }

  function captureOrRelease(view: BankView, walletId: string): BankCommand {
    const { below } = view;
    const known = holds[below(holds.length)];
    if (known === undefined) return hold(view, walletId, null);
    const { holdId } = known;
    if (below(5) === 0) return { ...plain(view, "release", known.walletId), holdId };
    const isAmountOpen = below(3) === 0;
    // Sometimes more than there is.
    const amountMinor = isAmountOpen ? 0 : 1 + below(known.amountMinor * 0.7);
    return {
      ...plain(view, "capture", known.walletId),
      holdId,
      amountMinor,
      isAmountOpen,
      isFinal: below(3) === 0,
      toWalletId: below(2) === 0 ? payee(view, known.walletId) : null,
    };
  }

  function gameUse(view: BankView): BankCommand {
    const { below } = view;
    uses += 1;
    const latest = Math.floor(uses / USES_PER_USER);
    const user = below(3) === 0 ? below(latest + 1) : latest;
    const kind = below(5) < 2 ? "spend" : "topup";
    const walletId = `${name}-user-${user}:${GAME_ASSET}`;
    const most = kind === "spend" ? initialMinor * 0.4 : initialMinor;
    return { ...plain(view, kind, walletId), amountMinor: 1 + below(most) };
  }

  /** Opened, paid, emptied and closed, by whoever comes by. */
  function briefLife(view: BankView): BankCommand {
    const { below, walletIds } = view;
    if (brief.length === 0 || below(5) === 0) {
      const walletId = `${name}-brief-${briefs}`;
      briefs += 1;
      brief = [...brief, walletId].slice(-BRIEF_MAX);
      return { ...plain(view, "open", walletId), amountMinor: 1 + below(500) };
    }
    const walletId = brief[below(brief.length)]!;
    const amountMinor = balances.get(walletId) ?? 0;
    const draw = below(6);
    if (amountMinor === 0 || draw === 0) return plain(view, "close", walletId);
    if (draw === 1) {
      const toWalletId = walletIds[below(walletIds.length)]!;
      return { ...plain(view, "transfer", walletId), amountMinor, toWalletId };
    }
    if (draw === 2) return hold(view, walletId, null);
    return { ...plain(view, "debit", walletId), amountMinor };
  }

  return { done, nextTurn, learn };
}
