/**
 * A bank's commands over HTTP. What a lost connection means for money is decided here: a request
 * that was written is unknown, one that never found a connection is unavailable, and a status that
 * does not belong to its answer is wrong.
 */
import { HttpConnection, HttpFault, headerOf, type HttpAnswer } from "../../bench/http-client.ts";
import type { BankAnswer } from "./bank-check.ts";
import {
  batchBody,
  httpRequest,
  readBatch,
  readNo,
  readYes,
  type Ask,
  type AskBatch,
  type BankBatch,
  type BankCommand,
  type ErrorText,
} from "./bank-wire.ts";

/** Longer than a command's deadline: who gives up earlier sees nothing of honest answers. */
const silenceMsMax = 20_000;

/** Each caller has a connection of its own; several ports: the callers take turns. */
export function askOverHttp(
  ...ports: readonly number[]
): Ask & { readonly batch: AskBatch; close(): void } {
  const connections = new Map<number, HttpConnection>();
  const connectionOf = (caller: number): HttpConnection => {
    let connection = connections.get(caller);
    if (connection === undefined) {
      const port = ports[caller % ports.length]!;
      connection = new HttpConnection("127.0.0.1", port, silenceMsMax);
      connections.set(caller, connection);
    }
    return connection;
  };
  const ask: Ask = (command, caller) => askOnce(connectionOf(caller), command);
  const batch: AskBatch = (commands, caller) => askBatchOnce(connectionOf(caller), commands);
  return Object.assign(ask, {
    batch,
    close() {
      for (const connection of connections.values()) connection.close();
      connections.clear();
    },
  });
}

async function askOnce(connection: HttpConnection, command: BankCommand): Promise<BankAnswer> {
  const { path, body } = httpRequest(command);
  try {
    return readAnswer(
      command,
      await connection.post(path, JSON.stringify(body), `Idempotency-Key: ${command.key}\r\n`),
    );
  } catch (error) {
    return answerOfFault(error);
  }
}

async function askBatchOnce(connection: HttpConnection, batch: BankBatch): Promise<BankAnswer[]> {
  const { commands, key } = batch;
  const header = key === null ? "" : `Idempotency-Key: ${key}\r\n`;
  try {
    const answer = await connection.post("/batch", batchBody(batch), header);
    const text = answer.body.toString();
    if (answer.status === 200) return readBatch(batch, text);
    const refused: BankAnswer =
      answer.status === 503
        ? { type: "unavailable", reason: text }
        : { type: "wrong", reason: `${answer.status} ${text}` };
    return commands.map(() => refused);
  } catch (error) {
    const answer = answerOfFault(error);
    return commands.map(() => answer);
  }
}

function answerOfFault(error: unknown): BankAnswer {
  if (!(error instanceof HttpFault)) throw error;
  if (error.kind === "unreachable") return { type: "unavailable", reason: error.message };
  if (error.kind === "lost") return { type: "unknown", reason: error.message };
  return { type: "wrong", reason: `${error.kind} ${error.message}` };
}

const STATUSES_OF_NO: Readonly<Record<BankAnswer["type"], readonly number[]>> = {
  acknowledged: [],
  rejected: [400, 404, 409],
  unavailable: [503],
  unknown: [504],
  wrong: [],
};

function readAnswer(command: BankCommand, answer: HttpAnswer): BankAnswer {
  const { status, head } = answer;
  const text = answer.body.toString();
  const wrong: BankAnswer = { type: "wrong", reason: `${head}\n${text}` };
  if (status < 300) {
    const isReplay = headerOf(answer, "idempotent-replayed") === "true";
    const told = readYes(command, text, isReplay);
    const isPending = told.type === "acknowledged" && told.isPending;
    const isDry = headerOf(answer, "dry-run") === "true";
    return (status === 202) === isPending && isDry === (command.isDry === true) ? told : wrong;
  }
  const told = readNo(command, JSON.parse(text) as ErrorText);
  const isFitting = STATUSES_OF_NO[told.type].includes(status);
  const saysWhen = status !== 503 || Number(headerOf(answer, "retry-after")) > 0;
  return isFitting && saysWhen ? told : wrong;
}
