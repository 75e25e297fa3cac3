/**
 * Batches: up to `LIMITS.batchCommandsMax` commands in one request, each on its own, with an
 * outcome of its own. It hides how they are streamed: a window of them is under way at the command
 * desk, and as outcomes come in, more begin and the text of those that are answered goes out in
 * order, so that neither a lane nor this process ever holds a whole batch. All batches of a process
 * share one window and one bound of bytes, so that they leave room for single commands. What the
 * desk has no room for waits here.
 *
 *     running --deadline over, process ends, caller gone--> ending
 *     ending  --all that began is answered----------------> over
 *
 * running: commands begin as the window allows. ending: none begins; those that never did get
 * `unavailable`. Invariant: a command without an outcome in the text was never submitted, or its
 * caller is gone.
 */
import { systemTime, type Time } from "../src/clock.ts";
import { LIMITS } from "../src/limits.ts";
import type { Metrics } from "../src/telemetry/metrics.ts";
import type { Command, Outcome } from "../src/core/protocol.ts";
import { ReadUnavailable } from "../src/core/read-model.ts";
import { payeeOf } from "../src/core/wallet.ts";
import { answerBody, type Answer, type GiveAnswer } from "./answers.ts";
import { buildBatchOrder, type BatchOrder } from "./batch-order.ts";
import {
  isLongerThan,
  keyOf,
  problemOfKey,
  type Intake,
  type RequestFields,
  type TakeIn,
} from "./command-intake.ts";
import type { CommandDesk } from "./commands.ts";
import {
  BATCH_KEY_LENGTH_MAX,
  BATCH_REQUESTS,
  BatchEnvelope,
  type BatchCommandType,
} from "./routes/batch-schemas.ts";
import { apiError, readError, statusOf, validationFailed, type ApiError } from "./errors.ts";
import { checkOf, type Check } from "./validation.ts";

/** What all commands of a batch have in common. */
export interface BatchOrigin {
  readonly correlationId: string;
  /**
   * `Idempotency-Key`, as a header or in the body: a command without a key of its own gets it,
   * followed by its place: `<key>/<index>`.
   */
  readonly key: string | undefined;
  /** Of the request's span, when it is traced. */
  readonly traceparent?: string | undefined;
  /** Whether nobody waits for the answer any more; then no further command begins. */
  readonly isGone: () => boolean;
}

/**
 * Room that a batch has in this process, from before its body is read until its answer has left.
 */
export interface BatchPlace {
  /** Gives the room back; more calls do nothing. */
  leave(): void;
}

export interface Batches {
  /** Room for a batch whose body has so many bytes, or why there is none. */
  enter(bytes: number): BatchPlace | "overloaded" | "unavailable";
  /**
   * Carries the commands out, whatever they are, and gives the JSON text `{"outcomes":[...]}` in
   * pieces. While nobody asks for the next piece, no further commands begin. Never throws for a
   * command.
   */
  run(commands: readonly unknown[], origin: BatchOrigin): AsyncGenerator<string, void>;
  /**
   * Begins no more commands and no more batches; resolves when all that are under way have their
   * outcomes.
   */
  drain(): Promise<void>;
}

export interface BatchesDeps {
  readonly commands: Pick<CommandDesk, "submit">;
  readonly takeIn: TakeIn;
  readonly answer: GiveAnswer;
  readonly log: { error(details: object, message: string): void };
  /** Counts the errors that are outcomes. */
  readonly metrics?: Pick<Metrics, "error">;
  /** Milliseconds that never go back. */
  readonly clock?: { nowMs(): number };
  /** When things happen; a simulator brings its own. */
  readonly schedule?: Pick<Time, "soon" | "after">;
}

const systemClock = { nowMs: () => performance.now() };

/** A command that passed its checks. */
interface Taken {
  readonly command: Command;
  readonly type: BatchCommandType;
  readonly isKeyed: boolean;
}

const CHECKS = Object.fromEntries(
  Object.entries(BATCH_REQUESTS).map(([type, { schema }]) => [type, checkOf(schema)]),
) as Record<BatchCommandType, Check>;

const checkEnvelope = checkOf(BatchEnvelope);
const NOT_ATOMIC = "does not exist yet: each command of a batch is carried out on its own";

/** What is wrong with a batch as a whole; null when its commands may begin. */
export function checkBatch(body: unknown): ApiError | null {
  if (typeof body === "object" && body !== null && Object.hasOwn(body, "atomic")) {
    return validationFailed([{ field: "atomic", message: NOT_ATOMIC }]);
  }
  return checkEnvelope(withoutRest(body));
}

/**
 * Leaves out what is behind the first command that is too many. The validator looks at each of
 * them, and there can be millions: seconds in which nobody else is served.
 */
function withoutRest(body: unknown): unknown {
  if (typeof body !== "object" || body === null || !("commands" in body)) return body;
  const { commands } = body;
  if (!Array.isArray(commands) || commands.length <= LIMITS.batchCommandsMax) return body;
  return { ...body, commands: commands.slice(0, LIMITS.batchCommandsMax + 1) as unknown[] };
}

const KEY_TOO_LONG = `must not exceed ${BATCH_KEY_LENGTH_MAX} characters, as each command has its number behind it`;

/** The key that names the commands of a batch, if it has one, or why it cannot. */
export function batchKeyOf(
  inBody: string | undefined,
  inHeader: string | undefined,
): string | undefined | ApiError {
  return keyOf(inBody, inHeader, problemOfBatchKey) ?? undefined;
}

function problemOfBatchKey(key: string): string | null {
  if (isLongerThan(key, BATCH_KEY_LENGTH_MAX)) return KEY_TOO_LONG;
  // A blank at its end is not the end of a command's key.
  return problemOfKey(key === "" ? key : `${key}/0`);
}

export function buildBatches(deps: BatchesDeps): Batches {
  const { takeIn, log, clock = systemClock, schedule = systemTime } = deps;
  let places = 0;
  let bytesHeld = 0;
  let running = 0;
  let reads = 0;
  /** Bounded by the window. */
  const readers: (() => void)[] = [];
  let isDraining = false;
  let drained: Promise<void> | undefined;
  let onQuiet: (() => void) | undefined;

  /** Commands that one batch may have under way: its share of what all of them may. */
  function share(): number {
    return Math.min(LIMITS.batchWindowMax, Math.ceil(LIMITS.batchesWindowMax / running));
  }

  function take(
    given: unknown,
    index: number,
    origin: BatchOrigin,
  ): Taken | ApiError | Promise<Taken | ApiError> {
    if (typeof given !== "object" || given === null || Array.isArray(given)) {
      return validationFailed([{ field: "command", message: "must be an object" }]);
    }
    const { type, walletId = null } = given as { type?: unknown; walletId?: string | null };
    if (!isBatchCommandType(type)) {
      const message = `must be one of ${Object.keys(BATCH_REQUESTS).join(", ")}`;
      return validationFailed([{ field: "type", message }]);
    }
    const problem = CHECKS[type](given);
    if (problem !== null) return problem;
    const fields = fieldsOf(type, given);
    const { correlationId, key, traceparent } = origin;
    const isNamed = fields.idempotencyKey !== undefined || key === undefined;
    const intake = takeIn(type, walletId, fields, {
      correlationId,
      isCorrelationNew: false,
      key: isNamed ? undefined : `${key}/${index}`,
      traceparent,
    });
    const taken = (it: Intake): Taken | ApiError =>
      it.ok ? { command: it.command, type, isKeyed: it.isKeyed } : it.error;
    return intake instanceof Promise ? intake.then(taken) : taken(intake);
  }

  async function* run(
    commands: readonly unknown[],
    origin: BatchOrigin,
  ): AsyncGenerator<string, void> {
    const deadlineMs = clock.nowMs() + LIMITS.batchDeadlineMs;
    const order = needsOrder(commands) ? buildBatchOrder() : null;
    /** By place in the batch; emptied as they go out. */
    const texts: (string | undefined)[] = Array.from({ length: commands.length });
    let next = 0;
    let sent = 0;
    let underWay = 0;
    let isLookingUp = false;
    let unsentChars = 0;
    let wake: (() => void) | undefined;

    const isEnding = (): boolean => isDraining || origin.isGone() || clock.nowMs() >= deadlineMs;

    function settle(index: number, text: string): void {
      texts[index] = text;
      unsentChars += text.length;
      // In order, so what this one has to wait for may be what the reader waits for.
      if (index === sent || unsentChars >= LIMITS.batchPieceChars) wake?.();
    }

    function begin(index: number): void {
      const taken = take(commands[index], index, origin);
      if (taken instanceof Promise) {
        // An asset is looked up. Whether it may still begin, it is asked afterwards; until then
        // none begins, or it would overtake.
        underWay += 1;
        isLookingUp = true;
        void taken
          .catch((error: unknown): ApiError => {
            // Nobody can say which asset it is: nothing has happened, and later it may.
            if (error instanceof ReadUnavailable) return readError(error.reason);
            log.error({ err: error, index }, "a command of a batch failed");
            return apiError("internal_error");
          })
          .then((it) => {
            underWay -= 1;
            isLookingUp = false;
            if ("command" in it && isEnding()) settle(index, UNAVAILABLE);
            else beginTaken(index, it);
            wake?.();
          });
      } else beginTaken(index, taken);
    }

    function beginTaken(index: number, taken: Taken | ApiError): void {
      if (!("command" in taken)) {
        deps.metrics?.error(taken.code);
        return settle(index, errorText(taken, false));
      }
      underWay += 1;
      const answered = (text: string): void => {
        underWay -= 1;
        settle(index, text);
      };
      carryOut(taken, order, isEnding, answered).catch((error: unknown) => {
        log.error({ err: error, index }, "a command of a batch failed");
        answered(errorText(apiError("internal_error"), false));
      });
    }

    /**
     * Some at a time: between them the event loop serves everybody else. Says whether more could
     * begin now.
     */
    function fill(): boolean {
      if (isEnding()) {
        while (next < commands.length) settle(next++, UNAVAILABLE);
        return false;
      }
      const most = next + LIMITS.batchStepCommands;
      const window = share();
      while (next < commands.length && underWay < window && next < most) {
        if (isLookingUp || unsentChars >= LIMITS.batchUnsentCharsMax) return false;
        begin(next++);
      }
      return next === most && next < commands.length && underWay < window;
    }

    /** What can go out now. */
    function piece(): string {
      const from = sent;
      let chars = 0;
      while (texts[sent] !== undefined && chars < LIMITS.batchPieceChars) {
        chars += texts[sent]!.length;
        sent += 1;
      }
      const text = texts.slice(from, sent).join(",");
      texts.fill(undefined, from, sent);
      unsentChars -= chars;
      return from === 0 || text === "" ? text : `,${text}`;
    }

    running += 1;
    try {
      yield '{"outcomes":[';
      while (sent < commands.length) {
        const isMore = fill();
        const text = piece();
        if (text !== "") yield text;
        if (isMore) await new Promise<void>((resolve) => schedule.soon(resolve));
        else if (text === "") await new Promise<void>((resolve) => (wake = resolve));
      }
      yield "]}";
    } finally {
      running -= 1;
      if (running === 0) onQuiet?.();
    }
  }

  /**
   * Never outlasts its deadlines: the batch's to begin, the desk's to be answered. Tells the
   * outcome's text to `answered`, which costs a command fewer promises than a result would.
   */
  async function carryOut(
    taken: Taken,
    order: BatchOrder | null,
    isEnding: () => boolean,
    answered: (text: string) => void,
  ): Promise<void> {
    const { command } = taken;
    const payeeId = payeeOf(command.body);
    const turn = order === null ? null : order.enter(command.walletId, payeeId);
    let outcome: Outcome;
    try {
      if (turn !== null && turn.before !== null) {
        await turn.before;
        if (isEnding()) return answered(UNAVAILABLE);
      }
      const submission = deps.commands.submit(command);
      turn?.submitted();
      outcome = await submission;
      for (let pauseMs: number = LIMITS.commandRetryPauseMs; isFull(outcome) && !isEnding();) {
        // No room at the desk or in the lane: it waits here, as long as the batch may begin
        // commands.
        const waitMs = pauseMs;
        await new Promise<void>((resolve) => void schedule.after(waitMs, resolve));
        pauseMs = Math.min(pauseMs * 2, LIMITS.commandRetryPauseMsMax);
        outcome = await deps.commands.submit(command);
      }
    } finally {
      // Before its answer is read back: others wait for what it does, not for its text.
      turn?.ended();
    }
    const isTransfer = payeeId !== null && outcome.type !== "rejected";
    const given = isTransfer ? readBack(command, outcome) : deps.answer(outcome, command);
    const told = given instanceof Promise ? await given : given;
    if (told.type === "error") deps.metrics?.error(told.error.code);
    answered(textOf(taken, told));
  }

  /**
   * An answer that is read back takes its turn when there are many. A repeated wallet does not:
   * those are read together.
   */
  async function readBack(command: Command, outcome: Outcome): Promise<Answer> {
    while (reads >= LIMITS.batchesReadsMax) await new Promise<void>((go) => readers.push(go));
    reads += 1;
    try {
      return await deps.answer(outcome, command);
    } finally {
      reads -= 1;
      readers.shift()?.();
    }
  }

  return {
    enter(bytes) {
      if (isDraining) return "unavailable";
      if (places >= LIMITS.batchesMax || bytesHeld + bytes > LIMITS.batchesBytesMax) {
        return "overloaded";
      }
      places += 1;
      bytesHeld += bytes;
      let hasLeft = false;
      return {
        leave() {
          if (hasLeft) return;
          hasLeft = true;
          places -= 1;
          bytesHeld -= bytes;
        },
      };
    },
    run,
    drain() {
      isDraining = true;
      drained ??=
        running === 0
          ? Promise.resolve()
          : new Promise((resolve) => {
              onQuiet = resolve;
            });
      return drained;
    },
  };
}

export function isBatchCommandType(type: unknown): type is BatchCommandType {
  return typeof type === "string" && Object.hasOwn(BATCH_REQUESTS, type);
}

/** Only a command that pays a wallet can be overtaken. */
function needsOrder(commands: readonly unknown[]): boolean {
  return commands.some(
    (command) => typeof command === "object" && command !== null && "toWalletId" in command,
  );
}

function isFull(outcome: Outcome): boolean {
  return outcome.type === "fault" && outcome.fault === "overloaded";
}

/** A hold has a type of its own, which goes by another name here. */
function fieldsOf(type: BatchCommandType, given: object): RequestFields {
  if (type !== "hold") return given;
  const { type: _, holdType, ...fields } = given as { type: string; holdType?: string };
  return (holdType === undefined ? fields : { ...fields, type: holdType }) as RequestFields;
}

function textOf({ type, isKeyed }: Taken, answer: Answer): string {
  const isReplay = answer.isReplay && isKeyed;
  if (answer.type === "error") return errorText(answer.error, isReplay);
  const isPending = answer.type === "transfer" && answer.transfer.status === "pending";
  const statusCode = isPending ? 202 : BATCH_REQUESTS[type].statusCode;
  const end = isReplay ? ',"replayed":true}' : "}";
  return `{"ok":true,"statusCode":${statusCode},"data":${JSON.stringify(answerBody(type, answer))}${end}`;
}

function errorText({ code, message, details }: ApiError, isReplay: boolean): string {
  const error = details === undefined ? { code, message } : { code, message, details };
  const end = isReplay ? ',"replayed":true}' : "}";
  return `{"ok":false,"statusCode":${statusOf(code)},"error":${JSON.stringify(error)}${end}`;
}

/** What a command gets that was never submitted. */
const UNAVAILABLE = errorText(apiError("unavailable"), false);
