/**
 * What every command line has to get right for the person who started it: how far it is, lists that
 * can be read, and that Ctrl-C ends all of it. On a terminal progress is a bar on standard error;
 * in a pipe or a file it is a plain line now and then, and one for how far it came. An interrupted
 * process exits instead of being killed, so that exit handlers run: they give the terminal back and
 * stop an embedded PostgreSQL, which no signal of the terminal reaches.
 */
import { SingleBar } from "cli-progress";

const BAR_MS = 100;
/** Without a terminal. */
const LINE_MS = 5_000;

const COUNT = new Intl.NumberFormat("en-US");

export interface Progress {
  /** So much is done, and of so much, if that has changed. May be called as often as one likes. */
  show(done: number, total?: number): void;
  /** Shows how far it came, once. */
  stop(): void;
}

/** @param unit what is counted, to show how many there are in a second */
export function startProgress(
  what: string,
  total: number,
  { unit, stream = process.stderr }: { unit?: string; stream?: NodeJS.WriteStream } = {},
): Progress {
  const startedAtMs = performance.now();
  let [done, all] = [0, total];
  const count = (): string => `${COUNT.format(done)}/${COUNT.format(all)}`;
  const pace = (): string => {
    const seconds = (performance.now() - startedAtMs) / 1_000;
    const rate = seconds > 0 ? Math.round(done / seconds) : 0;
    const isUnderWay = done > 0 && done < all;
    return (
      (unit === undefined ? "" : `  ${COUNT.format(rate)} ${unit}/s`) +
      (isUnderWay ? `  ${durationOf((seconds * (all - done)) / done)} left` : "")
    );
  };
  const name = what.padEnd(10);
  const shown = stream.isTTY
    ? startBar(stream, `${name} |{bar}| {percentage}%  {count}{pace}`, () => ({
        // Of nothing all is done.
        value: all > 0 ? done : 1,
        total: all > 0 ? all : 1,
        texts: { count: count(), pace: pace() },
      }))
    : startLines(stream, () => [`${name} ${count()}`, pace()]);
  const stop = (): void => {
    process.off("exit", stop);
    shown.stop();
  };
  process.on("exit", stop);
  return {
    show(doneNow, of) {
      done = doneNow;
      all = Math.max(of ?? all, done);
    },
    stop,
  };
}

function durationOf(seconds: number): string {
  const whole = Math.ceil(seconds);
  return whole < 60 ? `${whole} s` : `${COUNT.format(Math.floor(whole / 60))} min ${whole % 60} s`;
}

function startLines(
  stream: NodeJS.WriteStream,
  line: () => readonly [count: string, pace: string],
): { stop(): void } {
  let told = "";
  const tell = (): void => {
    const [count, pace] = line();
    // What stands still is told once.
    if (count !== told) stream.write(`${count}${pace}\n`);
    told = count;
  };
  const timer = setInterval(tell, LINE_MS).unref();
  return {
    stop() {
      clearInterval(timer);
      tell();
    },
  };
}

interface BarState {
  readonly value: number;
  readonly total: number;
  readonly texts: Readonly<Record<string, string>>;
}

function startBar(
  stream: NodeJS.WriteStream,
  format: string,
  state: () => BarState,
): { stop(): void } {
  const bar = new SingleBar({ stream, format, hideCursor: true });
  const first = state();
  bar.start(first.total, first.value, first.texts);
  const update = (): void => {
    const { value, total, texts } = state();
    bar.setTotal(total);
    bar.update(value, texts);
  };
  const timer = setInterval(update, BAR_MS).unref();
  return {
    stop() {
      clearInterval(timer);
      update();
      bar.stop();
    },
  };
}

const COLUMNS = 100;

/**
 * Items behind a head, with commas between them, in lines of at most 100 columns; the second and
 * all further lines begin `indent` columns in.
 */
export function listText(head: string, items: readonly string[], indent: number): string {
  const lines: string[] = [];
  let line = head;
  for (const [index, item] of items.entries()) {
    const next = index < items.length - 1 ? `${item},` : item;
    if (line.length + 1 + next.length > COLUMNS) {
      lines.push(line);
      line = " ".repeat(indent) + next;
    } else line += ` ${next}`;
  }
  return [...lines, line].join("\n");
}

/** The code of a process that such a signal has ended, by the shells' custom. */
const SIGNAL_CODES = { SIGHUP: 129, SIGINT: 130, SIGTERM: 143 } as const;

/**
 * From here on these signals exit, at once and with their own code. For processes that have nothing
 * to end in order but what exit handlers end.
 */
export function exitOnSignals(): void {
  for (const [signal, code] of Object.entries(SIGNAL_CODES)) {
    process.once(signal, () => process.exit(code));
  }
}
