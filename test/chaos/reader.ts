/**
 * Somebody who reads over one gateway what others write over any, while faults go on. Whatever a
 * caller was told or a feed has shown before a question was sent, the answer to it must know: the
 * wallet is no older, its history reaches as far, and a command that has an outcome is not unknown.
 * What a wallet read says besides is held against the journal by `history-check.ts`. A read may
 * fail while something is away; it may never look back.
 */
import { setTimeout as sleep } from "node:timers/promises";
import { fateOf } from "../stage/bank-check.ts";
import type { Entry, Workload } from "../stage/workload.ts";
import type { FeedRecorder } from "./feed-recorder.ts";
import type { ReadSample } from "./history-check.ts";

const PAUSE_MS = 40;
const ANSWER_MS_MAX = 15_000;
/** Among so many of the latest commands one is asked for. */
const RECENT = 64;

export interface ReaderOptions {
  readonly port: number;
  readonly bank: Pick<Workload, "walletIds" | "entries" | "told">;
  readonly feeds: ReadonlyArray<Pick<FeedRecorder, "last">>;
}

export interface Reader {
  /** Of wallets. */
  readonly samples: readonly ReadSample[];
  /** Answers of every kind that were held against what had been told. */
  readonly answered: number;
  readonly problems: readonly string[];
  stop(): Promise<void>;
}

interface OperationText {
  readonly outcome: "done" | "pending" | "rejected";
  readonly version: number | null;
}

/** Reads one wallet after the other until it is stopped. */
export function startReader({ port, bank, feeds }: ReaderOptions): Reader {
  const samples: ReadSample[] = [];
  const problems: string[] = [];
  let answered = 0;
  let isStopping = false;

  /** The newest version that anybody has seen. */
  function floorOf(walletId: string): number {
    return Math.max(bank.told(walletId), ...feeds.map(({ last }) => last(walletId) ?? -1));
  }

  /** Null: nobody could answer. */
  async function get<Body>(path: string): Promise<Body | null> {
    let answer: Response;
    let text: string;
    try {
      answer = await fetch(`http://127.0.0.1:${port}${path}`, {
        signal: AbortSignal.timeout(ANSWER_MS_MAX),
      });
      text = await answer.text();
    } catch (error) {
      const isLate = error instanceof Error && error.name === "TimeoutError";
      if (isLate) problems.push(`GET ${path}: no answer within ${ANSWER_MS_MAX} ms`);
      return null;
    }
    if (answer.status === 200) {
      answered += 1;
      return JSON.parse(text) as Body;
    }
    if (answer.status !== 503) problems.push(`GET ${path}: ${answer.status} ${text}`);
    return null;
  }

  async function readWallet(walletId: string): Promise<void> {
    const floor = floorOf(walletId);
    const wallet = await get<Omit<ReadSample, "walletId" | "floor">>(`/wallets/${walletId}`);
    if (wallet === null) return;
    const { version, balance, held } = wallet;
    samples.push({ walletId, version, balance, held, floor });
  }

  async function readHistory(walletId: string): Promise<void> {
    const floor = Math.max(0, floorOf(walletId));
    const path = `/wallets/${walletId}/events?fromVersion=${floor}&limit=1`;
    const events = await get<ReadonlyArray<{ readonly version: number }>>(path);
    if (events === null || events[0]?.version === floor) return;
    problems.push(`GET ${path}: version ${floor} had been seen, got ${JSON.stringify(events)}`);
  }

  async function readOperation({ command, answers }: Entry): Promise<void> {
    const fate = fateOf({ answers });
    if (fate === "absent" || fate === "unresolved") return;
    const told = answers.find((answer) => answer.type === "acknowledged")?.version ?? null;
    const { key, walletId, toWalletId } = command;
    const path = `/operations/${encodeURIComponent(key)}?walletId=${walletId}`;
    const operation = await get<OperationText>(path);
    if (operation === null) return;
    const { outcome, version } = operation;
    // A transfer is pending by its payer's record while its payee's database is away.
    const isOpen = outcome === "pending" && toWalletId !== null;
    const isFitting =
      fate === "pending" || isOpen || outcome === (fate === "rejected" ? "rejected" : "done");
    if (isFitting && (told === null || version === told)) return;
    problems.push(`GET ${path}: ${JSON.stringify(operation)}, told ${JSON.stringify(answers)}`);
  }

  async function work(): Promise<void> {
    for (let turn = 0; !isStopping; turn += 1) {
      const walletId = bank.walletIds[turn % bank.walletIds.length]!;
      const entry = bank.entries.at(-1 - (turn % RECENT));
      await readWallet(walletId);
      await readHistory(walletId);
      if (entry !== undefined) await readOperation(entry);
      await sleep(PAUSE_MS);
    }
  }

  const working = work();
  return {
    samples,
    problems,
    get answered() {
      return answered;
    },
    async stop() {
      isStopping = true;
      await working;
    },
  };
}
