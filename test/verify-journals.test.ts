/**
 * The reconciliation of what journals write into books in order, also while it looks: transfers
 * between its views, assets of one's own, and captures that pay a wallet.
 */
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import type { Journal } from "../src/core/journal.ts";
import { LIMITS } from "../src/limits.ts";
import { buildPostgresJournal } from "../src/postgres/journal.ts";
import { shardOf } from "../src/core/shard.ts";
import type { Transfer } from "../src/core/transfer.ts";
import { verify, type VerifyReport } from "../src/verify/verify.ts";
import type { WalletState } from "../src/core/wallet.ts";
import { ask, buildWorld, placesIn, tamper, type Copy, type World } from "./stage/books.ts";
import { EVEN, idIn, ODD } from "./stage/ids.ts";
import {
  captured,
  CREATED,
  draft,
  holdOf,
  NOW_MS,
  placed,
  put,
  putCredit,
  putPosted,
  putReceipt,
  putRefusal,
  putReserve,
  putReturn,
  putWallet,
  released,
  transferBetween,
  type Draft,
} from "./stage/journal-drafts.ts";
import { withLimits } from "./stage/lanes.ts";
import { until } from "./stage/stack.ts";

let world: World;

beforeAll(async () => {
  world = await buildWorld("verify_journals");
});

afterAll(() => world.close());

const placesOf = (report: VerifyReport): string[] => placesIn(world, report);

async function freshCopy(): Promise<Copy> {
  const copy = await world.copy();
  onTestFinished(() => copy.close());
  return copy;
}

/** The database behind a port that takes connections and passes nothing on before `letGo`. */
async function holdBack(url: string): Promise<{ url: string; letGo(): void }> {
  const target = new URL(url);
  let letGo = (): void => undefined;
  const isOpen = new Promise<void>((resolve) => (letGo = resolve));
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    socket.pause();
    void isOpen.then(() => {
      const onward = connect(Number(target.port), target.hostname);
      for (const one of [socket, onward]) {
        sockets.add(one);
        one.on("error", () => undefined);
      }
      socket.pipe(onward).pipe(socket);
    });
  });
  await new Promise<void>((done) => server.listen(0, "127.0.0.1", done));
  onTestFinished(() => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
  const { port } = server.address() as AddressInfo;
  return { url: Object.assign(new URL(url), { port: String(port) }).href, letGo };
}

type Commit = <T>(database: number, fill: (writes: Draft) => T) => Promise<T>;

/** Commits by a host that has claimed all shards. */
async function onJournals<T>(
  urls: readonly string[],
  work: (commit: Commit, journals: readonly Journal[]) => Promise<T>,
): Promise<T> {
  const journals = urls.map((url) => buildPostgresJournal(url));
  try {
    const epochs = new Map<number, number>();
    for (const [index, journal] of journals.entries()) {
      const claimed = await journal.claim("host", index === 0 ? EVEN : ODD);
      for (const [shard, epoch] of claimed) epochs.set(shard, epoch);
    }
    const commit: Commit = async (index, fill) => {
      const writes = draft(epochs);
      const filled = fill(writes);
      expect(await journals[index]!.append(writes)).toEqual({ type: "committed" });
      return filled;
    };
    return await work(commit, journals);
  } finally {
    await Promise.all(journals.map((journal) => journal.close()));
  }
}

function performTransfer(
  urls: readonly string[],
  fromWalletId: string,
  toWalletId: string,
): Promise<string> {
  return onJournals(urls, async (commit, journals) => {
    const load = async (walletId: string, index: number): Promise<WalletState> =>
      (await journals[index]!.loadWallets([walletId])).wallets.get(walletId)!.state!;
    const [from, to] = [await load(fromWalletId, 0), await load(toWalletId, 1)];
    const transfer = transferBetween(from, toWalletId, 77);
    await commit(0, (writes) => putReserve(writes, from, transfer));
    await commit(1, (writes) => putReceipt(writes, transfer, to));
    await commit(0, (writes) => putPosted(writes, transfer, to.version + 1));
    return transfer.transferId;
  });
}

it("books in order have one transfer where it left in one chunk of events and came back in the next", async () => {
  const { urls } = await freshCopy();
  const walletId = idIn(EVEN);
  await onJournals(urls, async (commit) => {
    let payer = await commit(0, (one) => {
      putWallet(one, walletId, 100, "open");
      let state = one.wallets.get(walletId)!.state;
      while (state.version < LIMITS.verifyPacedChunkEvents - 2) state = putCredit(one, state, 1);
      return state;
    });
    const transfer = transferBetween(payer, world.nobody, 50);
    payer = await commit(0, (one) => putReserve(one, payer, transfer));
    await commit(1, (one) => putRefusal(one, transfer));
    await commit(0, (one) => putReturn(one, transfer, payer));
  });
  const pace = { isOurs: () => true, spend: () => Promise.resolve() };
  const report = await verify({ databaseUrls: urls, walletId, pace });
  expect(report.named).toEqual([]);
  const events = LIMITS.verifyPacedChunkEvents + 1;
  expect(report).toMatchObject({ wallets: 1, events, transfers: 1 });
});

describe("views of two moments", () => {
  it.each([
    ["the payer's, before the transfer began, and the payee's, after it", 1],
    ["the payee's, before the transfer arrived, and the payer's, after that", 0],
  ])("do not make a difference: %s", async (_, late) => {
    // Given a reconciliation that has its view of one database, and waits for the other
    const { urls } = await freshCopy();
    const gate = await holdBack(urls[late]!);
    const databaseUrls = urls.map((url, index) => (index === late ? gate.url : url));
    const verifying = verify({ databaseUrls });
    await until("the other view is taken", async () => {
      const [row] = await ask<{ views: number }>(
        urls[1 - late]!,
        `SELECT count(*)::int AS views FROM pg_stat_activity WHERE datname = current_database()
           AND application_name = 'coffer-verify' AND state = 'idle in transaction' AND backend_xmin IS NOT NULL`,
      );
      return row?.views === 1;
    });

    // When a transfer begins, arrives and is settled between the two
    const transferId = await performTransfer(urls, world.anna, world.bert);
    gate.letGo();

    // Then nothing is wrong, though the two views do not agree
    expect((await verifying).named).toEqual([]);

    // And it is no blind spot: what stays so is named
    await tamper(urls[1]!, "DELETE FROM transfer_verdicts WHERE transfer_id = $1", [transferId]);
    const after = await verify({ databaseUrls: urls });
    expect(after.named.map(({ kind }) => kind)).toEqual(["verdict_missing"]);
  });
});

describe("a step of a transfer that happened twice", () => {
  it.each<{
    what: string;
    event: "TransferSent" | "TransferReceived" | "TransferReturned";
    of(world: World): { transfer: Transfer; walletId: string; counterpartyId: string };
    expected: readonly string[];
  }>([
    {
      what: "sent, by another wallet",
      event: "TransferSent",
      of: ({ posted, carl, bert }) => ({ transfer: posted, walletId: carl, counterpartyId: bert }),
      expected: ["transfer_sent carl:3 posted", "transit (USD)"],
    },
    {
      what: "arrived",
      event: "TransferReceived",
      of: ({ posted, bert, anna }) => ({ transfer: posted, walletId: bert, counterpartyId: anna }),
      expected: ["transfer_received bert:4 posted", "transit (USD)"],
    },
    {
      what: "arrived, at a wallet of another database",
      event: "TransferReceived",
      of: ({ posted, carl, anna }) => ({ transfer: posted, walletId: carl, counterpartyId: anna }),
      expected: ["transit (USD)", "verdict_missing carl:3 posted"],
    },
    {
      what: "come back",
      event: "TransferReturned",
      of: ({ returned, anna, nobody }) => ({
        transfer: returned,
        walletId: anna,
        counterpartyId: nobody,
      }),
      expected: ["transfer_returned anna:11 returned"],
    },
  ])("is named: $what", async ({ event: type, of, expected }) => {
    const { urls } = await freshCopy();
    const { transfer, walletId, counterpartyId } = of(world);
    const { transferId, amountMinor } = transfer;
    await onJournals(urls, async (commit, journals) => {
      const index = shardOf(walletId) % 2;
      const { wallets } = await journals[index]!.loadWallets([walletId]);
      const { state } = wallets.get(walletId)!;
      const event = {
        type,
        amountMinor,
        transferId,
        counterpartyId,
        occurredAtMs: NOW_MS,
      } as const;
      await commit(index, (one) => put(one, walletId, event, {}, state));
    });
    expect(placesOf(await verify({ databaseUrls: urls }))).toEqual(expected);
  });
});

describe("a wallet's holds", () => {
  /** Anna with a hold, as her version 11. */
  async function withHold(): Promise<{ copy: Copy; holdId: string }> {
    const copy = await freshCopy();
    const { anna } = world;
    const hold = holdOf(anna, 100);
    await onJournals(copy.urls, async (commit, journals) => {
      const { state } = (await journals[0]!.loadWallets([anna])).wallets.get(anna)!;
      await commit(0, (one) => put(one, anna, placed(hold), {}, state));
    });
    return { copy, holdId: hold.holdId };
  }

  // Her 12 events together with those of another wallet, alone as many as are read at once, in whole
  // reads, and with a rest.
  it.each([1_000, 12, 6, 5])(
    "are compared with the events, of which %i are read at a time",
    async (verifyChunkEvents) => {
      withLimits({ verifyChunkEvents, verifyPageRows: verifyChunkEvents > 12 ? 2 : 1 });
      const { copy, holdId } = await withHold();
      const { urls: databaseUrls } = copy;
      const inOrder = await verify({ databaseUrls });
      expect(placesOf(inOrder)).toEqual([]);
      expect(inOrder).toMatchObject({ wallets: 3, events: 19, transfers: 3 });

      await copy.tamper(0, "UPDATE holds SET captured = 1");
      const changed = await verify({ databaseUrls });
      expect(placesOf(changed)).toEqual([`hold_row anna:11 (${holdId} captured)`]);
      await copy.tamper(0, "DELETE FROM holds");
      const gone = await verify({ databaseUrls });
      expect(placesOf(gone)).toEqual([`hold_missing anna:11 (${holdId})`]);
    },
  );
});

it("a transfer's record in another database than its payer's is named", async () => {
  const copy = await freshCopy();
  const { transferId } = world.posted;
  const [row] = await ask<{ text: string }>(
    copy.urls[0]!,
    "SELECT row_to_json(t)::text AS text FROM transfers t WHERE transfer_id = $1",
    [transferId],
  );
  await copy.tamper(0, "DELETE FROM transfers WHERE transfer_id = $1", [transferId]);
  await copy.tamper(
    1,
    "INSERT INTO transfers SELECT * FROM json_populate_record(NULL::transfers, $1::json)",
    [row!.text],
  );
  expect(placesOf(await verify({ databaseUrls: copy.urls }))).toEqual([
    "transfer_missing anna:8 posted",
    "transfer_place anna: posted",
  ]);
});

describe("wallet by wallet", () => {
  it("a transfer's verdict that is gone is named by either side, and by nobody else", async () => {
    const copy = await freshCopy();
    const { anna, bert, carl, posted } = world;
    await copy.tamper(1, "DELETE FROM transfer_verdicts WHERE transfer_id = $1", [
      posted.transferId,
    ]);
    const named = async (walletId: string): Promise<string[]> =>
      placesOf(await verify({ databaseUrls: copy.urls, walletId }));
    expect(await named(anna)).toEqual(["verdict_missing bert:2 posted"]);
    expect(await named(bert)).toEqual(["verdict_missing bert:2 posted"]);
    expect(await named(carl)).toEqual([]);
  });
});

describe("an own asset", () => {
  const code = "GOLD_COINS";

  /** A wallet of it in each of two databases, and what one of them is named as. */
  async function world(): Promise<{ copy: Copy; home: number; wallets: readonly string[] }> {
    const copy = await freshCopy();
    const home = shardOf(code) % 2;
    await copy.tamper(home, "INSERT INTO assets (code, name, decimal_places) VALUES ($1, $1, 2)", [
      code,
    ]);
    const wallets = [idIn(EVEN), idIn(ODD)];
    await onJournals(copy.urls, async (commit) => {
      for (const [index, walletId] of wallets.entries()) {
        await commit(index, (one) => put(one, walletId, { ...CREATED, currency: code }));
      }
    });
    return { copy, home, wallets };
  }

  it("is found in order, with its wallets in all databases", async () => {
    const { copy } = await world();
    expect((await verify({ databaseUrls: copy.urls })).named).toEqual([]);
  });

  it.each([
    ["that counts in other units", "UPDATE assets SET decimal_places = 0", 0],
    ["that is gone", "DELETE FROM assets", null],
  ])("%s is named with a wallet of it, also by a host", async (_, sql, found) => {
    const { copy, home, wallets } = await world();
    await copy.tamper(home, sql);
    const named = [
      expect.objectContaining({
        kind: "asset_row",
        walletId: wallets[0],
        field: code,
        expected: 2,
        found,
      }),
    ];
    expect((await verify({ databaseUrls: copy.urls })).named).toEqual(named);
    const pace = { isOurs: () => true, spend: () => Promise.resolve() };
    expect((await verify({ databaseUrls: copy.urls, pace })).named).toEqual(named);
  });

  it.each([
    ["with the decimal places of ISO 4217, under a code that it has too", "EUR", 2],
    ["of an asset that ISO 4217 has no longer", "HRK", 2],
  ])("is not missed for a wallet %s", async (_, currency, decimalPlaces) => {
    const copy = await freshCopy();
    for (const database of [0, 1]) {
      await copy.tamper(
        database,
        "INSERT INTO assets (code, name, decimal_places) VALUES ('EUR', 'own', 4)",
      );
    }
    await onJournals(copy.urls, async (commit) => {
      await commit(0, (one) => put(one, idIn(EVEN), { ...CREATED, currency, decimalPlaces }));
    });
    expect((await verify({ databaseUrls: copy.urls })).named).toEqual([]);
  });
});

describe("a capture of a hold to another wallet", () => {
  /** Bert is paid out of a hold of Anna's, of which something is left. */
  async function captureFor(isHoldFinal: boolean): Promise<{ copy: Copy; transferId: string }> {
    const copy = await freshCopy();
    const { anna, bert } = world;
    const transferId = await onJournals(copy.urls, async (commit, journals) => {
      const load = async (walletId: string, index: number): Promise<WalletState> =>
        (await journals[index]!.loadWallets([walletId])).wallets.get(walletId)!.state!;
      let payer = await load(anna, 0);
      const payee = await load(bert, 1);
      const before = holdOf(anna, 100);
      payer = await commit(0, (one) => put(one, anna, placed(before), {}, payer));
      const hold = captured(before, 60).hold;
      const transfer = {
        ...transferBetween(payer, bert, 60),
        holdId: hold.holdId,
        isHoldFinal,
      };
      const { commandId, description } = transfer;
      payer = await commit(0, (one) => {
        one.transfers.push(transfer);
        const sent = {
          type: "TransferSent",
          amountMinor: transfer.amountMinor,
          transferId: transfer.transferId,
          counterpartyId: bert,
          hold,
          occurredAtMs: NOW_MS,
        } as const;
        return put(one, anna, sent, { commandId, description }, payer);
      });
      await commit(1, (one) => putReceipt(one, transfer, payee));
      await commit(0, (one) => {
        putPosted(one, transfer, payee.version + 1);
        if (isHoldFinal) put(one, anna, released(hold), { causationId: commandId }, payer);
      });
      return transfer.transferId;
    });
    return { copy, transferId };
  }

  async function flip(isFinal: boolean): Promise<VerifyReport> {
    const { copy, transferId } = await captureFor(isFinal);
    expect((await verify({ databaseUrls: copy.urls })).named).toEqual([]);
    const flipping = "UPDATE transfers SET hold_final = NOT hold_final WHERE transfer_id = $1";
    await copy.tamper(0, flipping, [transferId]);
    return await verify({ databaseUrls: copy.urls });
  }

  it("that is final is known by the rest that it let go", async () => {
    expect((await flip(true)).named).toMatchObject([
      { kind: "transfer_record", field: "hold_final", expected: true, found: false },
    ]);
  });

  it("may be final and its hold be active: former versions left it so", async () => {
    expect((await flip(false)).named).toEqual([]);
  });
});
