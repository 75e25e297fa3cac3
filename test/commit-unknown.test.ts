/**
 * The connection to PostgreSQL is lost in the middle of a commit. A proxy between lane and server
 * knows the lane's append statement and cuts the connection (a) before the server gets it, (b)
 * after the server has committed and before the lane hears of it, or (c) goes silent without
 * closing. For the lane all look alike; callers must get the one right outcome each time: after (b)
 * a credit with a condition does not meet its own effect, and a debit of everything does not find
 * the wallet empty.
 */
import { connect, createServer, type AddressInfo, type Server, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, inject, it } from "vitest";
import { buildCommandDesk, type CommandDesk } from "../gateway/commands.ts";
import { LIMITS } from "../src/limits.ts";
import { buildMemoryBus } from "../src/bus/memory-bus.ts";
import { createMigratedDatabase } from "./stage/migrated-database.ts";
import { dropDatabase } from "./stage/servers.ts";
import { buildTestHost } from "./stage/stack.ts";
import { commandOf as laneCommand, transfer } from "./stage/staged-commands.ts";
import {
  askDesk,
  buildWorkload,
  checkBank,
  type Ask,
  type BankAnswer,
  type BankCommand,
  type Entry,
} from "./stage/workload.ts";

// --- The proxy -----------------------------------------------------------------------------------

type Where = "before the server has it" | "after its commit" | "silently";
const BEFORE: Where = "before the server has it";
const AFTER: Where = "after its commit";

interface Proxy {
  readonly url: string;
  /** Cuts at the next append that carries the text; resolves when it is done. */
  cut(where: Where, text: string): Promise<void>;
  /** Forgets a cut that has not come. */
  disarm(): void;
  close(): void;
}

interface Trap {
  readonly where: Where;
  readonly text: string;
  readonly sprung: () => void;
}

/** Carries PostgreSQL's protocol and reads what the client says, message by message. */
async function startProxy(databaseUrl: string): Promise<Proxy> {
  const { hostname, port } = new URL(databaseUrl);
  const sockets = new Set<Socket>();
  let trap: Trap | null = null;

  const server: Server = createServer((client) => {
    const upstream = connect(Number(port), hostname);
    let fate: Trap | null = null;
    const end = (): void => {
      client.destroy();
      upstream.destroy();
    };
    for (const socket of [client, upstream]) {
      sockets.add(socket);
      socket.setNoDelay(true);
      socket.on("error", end);
      socket.on("close", () => {
        sockets.delete(socket);
        end();
      });
    }
    const read = messageReader((message) => {
      if (fate?.where === "silently") return;
      if (fate === null && trap !== null && isAppendWith(message, trap.text)) {
        fate = trap;
        trap = null;
        if (fate.where !== AFTER) {
          fate.sprung();
          if (fate.where === BEFORE) end();
          return;
        }
      }
      upstream.write(message);
    });
    client.on("data", read);
    upstream.on("data", (bytes) => {
      if (fate === null) client.write(bytes);
      else if (isReadyForQuery(bytes)) {
        fate.sprung();
        end();
      }
    });
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  const url = new URL(databaseUrl);
  url.port = String((server.address() as AddressInfo).port);
  return {
    url: url.href,
    cut: (where, text) =>
      new Promise((sprung) => {
        trap = { where, text, sprung };
      }),
    disarm() {
      trap = null;
    },
    close() {
      server.close();
      for (const socket of sockets) socket.destroy();
    },
  };
}

/** The first message of a connection has no type byte before its length, all others have. */
function messageReader(take: (message: Buffer) => void): (bytes: Buffer) => void {
  let rest: Buffer = Buffer.alloc(0);
  let isStarted = false;
  return (bytes) => {
    rest = Buffer.concat([rest, bytes]);
    for (;;) {
      const typeBytes = isStarted ? 1 : 0;
      if (rest.length < typeBytes + 4) return;
      const length = typeBytes + rest.readInt32BE(typeBytes);
      if (rest.length < length) return;
      isStarted = true;
      take(rest.subarray(0, length));
      rest = rest.subarray(length);
    }
  };
}

/**
 * Bind ("B") of a prepared statement `append`, `append-transfers` and so on, whose parameters are
 * text.
 */
function isAppendWith(message: Buffer, text: string): boolean {
  const isAppend = message[0] === 0x42 && message.subarray(5, 12).equals(Buffer.from("\0append"));
  return isAppend && message.includes(text);
}

/** The server's last word on a statement: its implicit transaction is over. */
function isReadyForQuery(bytes: Buffer): boolean {
  return bytes.length >= 6 && bytes.subarray(-6, -1).equals(Buffer.from("Z\0\0\0\x05"));
}

// --- The setting ---------------------------------------------------------------------------------

interface Setting {
  readonly proxy: Proxy;
  readonly databaseUrl: string;
  readonly ask: Ask;
  readonly desk: CommandDesk;
  close(): Promise<void>;
}

async function open(name: string, shortcut = true): Promise<Setting> {
  const serverUrl = inject("postgresUrl");
  const databaseUrl = await createMigratedDatabase(name);
  const proxy = await startProxy(databaseUrl);
  const bus = buildMemoryBus();
  const fatal: string[] = [];
  const running = buildTestHost({
    bus,
    databaseUrl: proxy.url,
    shortcut,
    laneCount: 1,
    log: {
      info: () => undefined,
      warn: () => undefined,
      error: () => undefined,
      fatal: (text) => fatal.push(text),
    },
    onFatal: (reason) => fatal.push(reason),
  });
  await running.host.start();
  const desk = buildCommandDesk({ bus, gatewayId: name });
  return {
    proxy,
    databaseUrl,
    ask: askDesk(desk),
    desk,
    async close() {
      await desk.drain();
      await running.close();
      proxy.close();
      await dropDatabase(serverUrl, name);
      expect(fatal).toEqual([]);
    },
  };
}

let lastNumber = 0;

function commandOf(
  kind: BankCommand["kind"],
  walletId: string,
  amountMinor: number,
  rest: Partial<BankCommand> = {},
): BankCommand {
  lastNumber += 1;
  const key = `${kind}-${lastNumber}`;
  return { key, kind, walletId, toWalletId: null, amountMinor, expectedVersion: null, ...rest };
}

/** A wallet of its own for each test, with 100.00. */
async function openWallet(ask: Ask): Promise<Entry> {
  lastNumber += 1;
  const command = commandOf("open", `w-${lastNumber}`, 10_000);
  return entryOf(command, await ask(command, 0));
}

function entryOf(command: BankCommand, ...answers: BankAnswer[]): Entry {
  return { command, answers, floor: -1, toFloor: -1 };
}

// --- The tests -----------------------------------------------------------------------------------

describe.each([BEFORE, AFTER])("when the connection is cut %s", (where) => {
  let setting: Setting;
  beforeAll(async () => {
    setting = await open(where === BEFORE ? "cut_before" : "cut_after");
  });
  afterAll(() => setting.close());

  /**
   * Asks while the next append with the command's key is cut; the answer and the books must be
   * right.
   */
  async function askCut(command: BankCommand, ...earlier: Entry[]): Promise<BankAnswer> {
    const { proxy, ask, databaseUrl } = setting;
    const cut = proxy.cut(where, command.key);
    const answer = await ask(command, 0);
    await cut;
    const entries = [...earlier, entryOf(command, answer)];
    expect(await checkBank(databaseUrl, { entries, seed: 0 })).toEqual([]);
    return answer;
  }

  it("a credit that demands a version does not meet its own effect", async () => {
    const wallet = await openWallet(setting.ask);
    const { walletId } = wallet.command;
    const answer = await askCut(commandOf("credit", walletId, 500, { expectedVersion: 1 }), wallet);
    expect(answer).toMatchObject({ type: "acknowledged", version: 2 });
  });

  it("a debit of everything does not find the wallet emptied by itself", async () => {
    const wallet = await openWallet(setting.ask);
    const answer = await askCut(commandOf("debit", wallet.command.walletId, 10_000), wallet);
    expect(answer).toMatchObject({ type: "acknowledged", version: 2 });
  });

  it("a creation does not find the wallet that it made itself", async () => {
    const answer = await askCut(commandOf("open", `created-${where.length}`, 500));
    expect(answer).toMatchObject({ type: "acknowledged", version: 1 });
  });

  it("a rejection is recorded once and told as such", async () => {
    const wallet = await openWallet(setting.ask);
    const answer = await askCut(commandOf("debit", wallet.command.walletId, 10_001), wallet);
    expect(answer).toMatchObject({ type: "rejected", code: "insufficient_funds" });
  });

  it("a transfer in one commit arrives once", async () => {
    const [payer, payee] = [await openWallet(setting.ask), await openWallet(setting.ask)];
    const { walletId: toWalletId } = payee.command;
    const command = commandOf("transfer", payer.command.walletId, 4_000, { toWalletId });
    const answer = await askCut(command, payer, payee);
    expect(answer).toMatchObject({ type: "acknowledged", version: 2, isPending: false });
  });

  it("a transfer of everything, by its own condition, is not refused for its own reservation", async () => {
    const [payer, payee] = [await openWallet(setting.ask), await openWallet(setting.ask)];
    const { walletId: toWalletId } = payee.command;
    const rest = { toWalletId, expectedVersion: 1 };
    const command = commandOf("transfer", payer.command.walletId, 10_000, rest);
    const answer = await askCut(command, payer, payee);
    expect(answer).toMatchObject({ type: "acknowledged", version: 2 });
  });
});

describe.each([BEFORE, AFTER])("by the protocol, when the connection is cut %s", (where) => {
  let setting: Setting;
  beforeAll(async () => {
    setting = await open(where === BEFORE ? "cut_steps_before" : "cut_steps_after", false);
  });
  afterAll(() => setting.close());

  it.each([
    ["reserves the money", "TransferSent"],
    ["delivers it", "TransferReceived"],
    ["settles the record", '{"posted"}'],
  ])("a transfer arrives once when the commit that %s is cut", async (_step, text) => {
    // Given two wallets
    const { ask, proxy, databaseUrl } = setting;
    const [payer, payee] = [await openWallet(ask), await openWallet(ask)];
    const { walletId: toWalletId } = payee.command;

    // When one commit of a transfer is cut
    const cut = proxy.cut(where, text);
    const command = commandOf("transfer", payer.command.walletId, 4_000, { toWalletId });
    const answer = await ask(command, 0);
    await cut;

    // Then it is told as posted at once, and the money has arrived once
    expect(answer).toMatchObject({ type: "acknowledged", version: 2, isPending: false });
    const entries = [payer, payee, entryOf(command, answer)];
    expect(await checkBank(databaseUrl, { entries, seed: 0 })).toEqual([]);
  });
});

it("commands under load meet cuts on both sides of their commits and happen once", async ({
  onTestFinished,
}) => {
  // Given a bank at work
  const { proxy, ask, databaseUrl, close } = await open("cut_under_load");
  onTestFinished(close);
  const bank = buildWorkload({ ask, name: "cut", callers: 12 });
  await bank.open();
  bank.start();

  // When the connection is cut again and again, by turns before and after the server has committed
  for (let turn = 0; turn < 16; turn += 1) {
    await bank.progress(15);
    const text = turn % 4 < 2 ? "Transfer" : "cut-";
    await proxy.cut(turn % 2 === 0 ? BEFORE : AFTER, text);
  }
  await bank.progress(50);
  await bank.stop();

  // Then nobody was told anything wrong
  await bank.resolve();
  expect(bank.count("wrong") + bank.count("unavailable")).toBe(0);
  expect(await checkBank(databaseUrl, bank)).toEqual([]);
});

it("who waits for a transfer that comes back hears of it, though that commit was not heard of", async ({
  onTestFinished,
}) => {
  // Given a transfer that is being reserved while its payee is suspended behind it
  const { proxy, ask, desk, databaseUrl, close } = await open("cut_return", false);
  onTestFinished(close);
  const [payer, payee] = [await openWallet(ask), await openWallet(ask)];
  const session = new pg.Client({ connectionString: databaseUrl });
  await session.connect();
  await session.query("BEGIN");
  const { walletId } = payer.command;
  await session.query("SELECT FROM wallets WHERE wallet_id = $1 FOR UPDATE", [walletId]);
  const answer = desk.submit(transfer(walletId, payee.command.walletId, "5"));
  await sleep(300);
  const suspended = desk.submit(laneCommand(payee.command.walletId, { type: "suspend" }));
  await sleep(100);

  // When the connection is cut behind the commit with the return
  const cut = proxy.cut(AFTER, "TransferReturned");
  await session.end();
  await cut;
  const cutMs = performance.now();

  // Then its caller is told before anybody would have asked again
  expect(await answer).toMatchObject({ type: "replayed", walletId, version: 2 });
  expect(performance.now() - cutMs).toBeLessThan(LIMITS.commandAttemptMs / 2);
  expect(await suspended).toMatchObject({ type: "done" });
});

it("what ends each session at its commit is left alone for longer each time", async ({
  onTestFinished,
}) => {
  // Given a wallet, and a credit whose commits are all cut
  const { proxy, ask, databaseUrl, close } = await open("cut_each");
  onTestFinished(close);
  const wallet = await openWallet(ask);
  const credit = commandOf("credit", wallet.command.walletId, 500, { expectedVersion: 1 });
  const answer = ask(credit, 0);

  // When that goes on for two seconds
  const untilMs = performance.now() + 2_000;
  let cuts = 0;
  while (performance.now() < untilMs) {
    const cut = proxy.cut(BEFORE, credit.key).then(() => (cuts += 1));
    await Promise.race([cut, sleep(Math.max(0, untilMs - performance.now()))]);
  }
  proxy.disarm();

  // Then there were few attempts, and the credit happens once as soon as one may
  expect(cuts).toBeGreaterThanOrEqual(3);
  expect(cuts).toBeLessThanOrEqual(8);
  expect(await answer).toMatchObject({ type: "acknowledged", version: 2 });
  const entries = [wallet, entryOf(credit, await answer)];
  expect(await checkBank(databaseUrl, { entries, seed: 0 })).toEqual([]);
});

it(
  "a server that goes silent leaves the outcome unknown, and the key resolves it",
  {
    timeout: 60_000,
  },
  async ({ onTestFinished }) => {
    // Given a wallet, and a connection that will say nothing any more, nor close
    const { proxy, ask, databaseUrl, close } = await open("cut_silently");
    onTestFinished(close);
    const wallet = await openWallet(ask);
    const { walletId } = wallet.command;
    const credit = commandOf("credit", walletId, 500, { expectedVersion: 1 });
    const silence = proxy.cut("silently", credit.key);

    // When a command's commit falls into the silence
    const first = await ask(credit, 0);
    await silence;

    // Then its outcome is unknown, and the same key has it executed once the lane has given up on
    // the connection
    expect(first).toMatchObject({ type: "unknown" });
    const answers = [first];
    while (answers.at(-1)!.type !== "acknowledged" && answers.length < 20) {
      await sleep(250);
      answers.push(await ask(credit, 0));
    }
    expect(answers.at(-1)).toMatchObject({ type: "acknowledged", version: 2 });
    const entries = [wallet, entryOf(credit, ...answers)];
    expect(await checkBank(databaseUrl, { entries, seed: 0 })).toEqual([]);
  },
);
