/**
 * What the simulated database adds to the journal's contract: time, faults at each step, hosts that
 * die meanwhile, several databases, and the guards that can be left out. The tests are its clock.
 */
import { describe, expect, it } from "vitest";
import type { AppendResult, Journal } from "../../src/core/journal.ts";
import { ALL_SHARDS, shardOf } from "../../src/core/shard.ts";
import type { WalletState } from "../../src/core/wallet.ts";
import { buildVirtualTime } from "../stage/feed-world.ts";
import {
  draft,
  metadataChanged,
  put,
  putCredit,
  putWallet,
  type Draft,
} from "../stage/journal-drafts.ts";
import { unique } from "../stage/ids.ts";
import {
  buildSimulatedDatabase,
  buildSimulatedShardTable,
  type Call,
  type CallPlan,
  type Plants,
  type SimulatedDatabase,
} from "./database.ts";
import { buildSimulatedReads } from "./reads.ts";
import { buildSimulatedRelayStore } from "./relay-store.ts";

const OWNER = "host-1";
const AT_ONCE: CallPlan = { requestMs: 0, commitMs: 0, answerMs: 0, fault: null };
const STEPS: CallPlan = { requestMs: 10, commitMs: 5, answerMs: 20, fault: null };

interface Setting {
  readonly database: SimulatedDatabase;
  readonly journal: Journal;
  readonly advance: (ms: number) => Promise<void>;
  /** How calls go from now on. */
  plan: (call: Call) => CallPlan;
  /** A wallet with 100.00, under epochs of now. */
  open(): Promise<WalletState>;
  creditOf(wallet: WalletState, commandId?: string): Draft;
  claim(): Promise<void>;
}

async function buildSetting(plants: Plants = {}): Promise<Setting> {
  const { clock, timers, advance } = buildVirtualTime();
  const database = buildSimulatedDatabase({
    name: "database-0",
    time: { nowMs: clock.nowMs, after: timers.after },
    plan: (call) => setting.plan(call),
    plants,
  });
  const caller = { name: "host", deliver: (answer: () => void) => answer() };
  const journal = database.journal(caller);
  let epochs = new Map<number, number>();
  const setting: Setting = {
    database,
    journal,
    advance,
    plan: () => AT_ONCE,
    async open() {
      const writes = draft(epochs);
      const wallet = putWallet(writes, unique("w"), 10_000, unique("command"));
      expect(await soon(setting, journal.append(writes))).toEqual({ type: "committed" });
      return wallet;
    },
    creditOf(wallet, commandId = unique("command")) {
      const writes = draft(epochs);
      putCredit(writes, wallet, 1, commandId);
      return writes;
    },
    async claim() {
      epochs = await soon(setting, journal.claim(OWNER, ALL_SHARDS));
    },
  };
  const table = buildSimulatedShardTable([database], caller);
  await soon(setting, table.take(OWNER, new Map(ALL_SHARDS.map((shard) => [shard, null]))));
  await setting.claim();
  return setting;
}

/** What comes of it when time passes. */
async function soon<T>({ advance }: Pick<Setting, "advance">, promise: Promise<T>): Promise<T> {
  await advance(1_000);
  return await promise;
}

function versionIn({ database }: Setting, { walletId }: WalletState): number | undefined {
  return database.tables.wallets.get(walletId)?.version;
}

// --- One call ------------------------------------------------------------------------------------

describe("a call", () => {
  it("is nothing until its commit, visible from then on, and answered later", async () => {
    const setting = await buildSetting();
    const wallet = await setting.open();
    setting.plan = () => STEPS;
    let result: AppendResult | null = null;
    void setting.journal.append(setting.creditOf(wallet)).then((answer) => (result = answer));
    await setting.advance(14);
    expect(versionIn(setting, wallet)).toBe(1);
    await setting.advance(1);
    expect(versionIn(setting, wallet)).toBe(2);
    await setting.advance(19);
    expect(result).toBeNull();
    await setting.advance(1);
    expect(result).toEqual({ type: "committed" });
  });

  it.each([
    ["refused", "refused", false],
    ["lost before commit", "unknown", false],
    ["lost after commit", "unknown", true],
  ] as const)("that is %s is told as %s; written: %s", async (fault, type, isWritten) => {
    const setting = await buildSetting();
    const wallet = await setting.open();
    setting.plan = () => ({ ...STEPS, fault });
    const append = setting.journal.append(setting.creditOf(wallet));
    expect(await soon(setting, append)).toMatchObject({ type });
    expect(versionIn(setting, wallet)).toBe(isWritten ? 2 : 1);
    // What only reads rejects; so does a claim, which may have been made
    const [row] = setting.database.tables.shards;
    const claim = setting.journal.claim(OWNER, [0]).catch(String);
    expect(await soon(setting, claim)).toMatch(/ReadUnavailable/);
    expect(setting.database.tables.shards[0]!.epoch).toBe(row!.epoch + (isWritten ? 1 : 0));
  });

  it("meets at the server what happened while it travelled", async () => {
    const setting = await buildSetting();
    const wallet = await setting.open();
    setting.plan = ({ kind }) => (kind === "append" ? { ...STEPS, requestMs: 500 } : AT_ONCE);
    const append = setting.journal.append(setting.creditOf(wallet));
    await setting.claim();
    expect(await append).toEqual({ type: "fenced", shards: [shardOf(wallet.walletId)] });
    expect(versionIn(setting, wallet)).toBe(1);
  });

  it("never ends for a caller that has crashed, but what is under way is committed", async () => {
    const setting = await buildSetting();
    const wallet = await setting.open();
    const undelivered: (() => void)[] = [];
    let isCrashed = false;
    const caller = {
      name: "crashed",
      deliver: (answer: () => void) => (isCrashed ? void undelivered.push(answer) : answer()),
    };
    setting.plan = ({ kind }) => {
      isCrashed = kind === "append";
      return AT_ONCE;
    };
    let isAnswered = false;
    const append = setting.database.journal(caller).append(setting.creditOf(wallet));
    void append.then(() => (isAnswered = true));
    await setting.advance(1_000);
    expect(versionIn(setting, wallet)).toBe(2);
    expect(isAnswered).toBe(false);
    // One that only stood still gets it when it goes on
    for (const answer of undelivered) answer();
    expect(await append).toEqual({ type: "committed" });
  });

  it("is a broken invariant when it writes outside its fence", async () => {
    const setting = await buildSetting();
    const writes = setting.creditOf(await setting.open());
    writes.fence.clear();
    const append = setting.journal.append(writes).catch(String);
    expect(await soon(setting, append)).toMatch(/outside the fence/);
  });
});

// --- A database that is away ---------------------------------------------------------------------

describe("a database that goes away", () => {
  it.each([
    ["before it got there", 5, "unknown", 1],
    ["before the commit", 12, "unknown", 1],
    ["after the commit", 20, "unknown", 2],
  ])("cuts a call %s", async (_when, afterMs, type, version) => {
    const setting = await buildSetting();
    const wallet = await setting.open();
    setting.plan = () => STEPS;
    const append = setting.journal.append(setting.creditOf(wallet));
    await setting.advance(afterMs);
    setting.database.goAway();
    setting.database.comeBack();
    expect(await soon(setting, append)).toMatchObject({ type });
    expect(versionIn(setting, wallet)).toBe(version);
  });

  it("fails what is called meanwhile, and serves again when it is back", async () => {
    const setting = await buildSetting();
    const wallet = await setting.open();
    setting.database.goAway();
    const append = setting.journal.append(setting.creditOf(wallet));
    const load = setting.journal.loadWallets([wallet.walletId]).catch(String);
    expect(await soon(setting, append)).toMatchObject({ type: "refused" });
    expect(await load).toMatch(/nobody listens/);
    setting.database.comeBack();
    const again = setting.journal.append(setting.creditOf(wallet));
    expect(await soon(setting, again)).toEqual({ type: "committed" });
  });

  it("lets go of what was locked", async () => {
    const setting = await buildSetting();
    const wallet = await setting.open();
    setting.plan = ({ kind }) => (kind === "append" ? { ...STEPS, commitMs: 50_000 } : AT_ONCE);
    void setting.journal.append(setting.creditOf(wallet));
    await setting.advance(100);
    const waiting = setting.journal.claim(OWNER, ALL_SHARDS).catch(String);
    await setting.advance(100);
    setting.database.goAway();
    setting.database.comeBack();
    await setting.claim();
    await setting.advance(50_000);
    expect(await waiting).toMatch(/connection .* was lost/);
    expect(versionIn(setting, wallet)).toBe(1);
  });
});

// --- Several databases ---------------------------------------------------------------------------

describe("two databases", () => {
  const caller = { name: "host", deliver: (answer: () => void) => answer() };
  function buildTwo() {
    const { clock, timers, advance } = buildVirtualTime();
    const time = { nowMs: clock.nowMs, after: timers.after };
    const [even, odd] = ["even", "odd"].map((name) =>
      buildSimulatedDatabase({ name, time, plan: () => AT_ONCE }),
    ) as [SimulatedDatabase, SimulatedDatabase];
    const table = buildSimulatedShardTable([even, odd], caller);
    return { even, odd, table, advance };
  }

  it("keep each shard's owner where its wallets are; one that is away costs its own shards", async () => {
    const { even, odd, table, advance } = buildTwo();
    const free = new Map([4, 5, 6, 7].map((shard) => [shard, null]));
    expect(await soon({ advance }, table.take(OWNER, free))).toEqual([4, 5, 6, 7]);
    expect(even.tables.shards[4]).toMatchObject({ owner: OWNER });
    expect(even.tables.shards[5]).toMatchObject({ owner: null });
    odd.goAway();
    const rows = await soon({ advance }, table.read());
    expect(rows.map(({ shard }) => shard)).toEqual(ALL_SHARDS.filter((shard) => shard % 2 === 0));
    const more = new Map([8, 9].map((shard) => [shard, null]));
    expect(await soon({ advance }, table.take(OWNER, more))).toEqual([8]);
    const release = table.release(OWNER, [4, 5]).catch(String);
    expect(await soon({ advance }, release)).toMatch(/nobody listens at odd/);
    expect(even.tables.shards[4]).toMatchObject({ owner: null });
    even.goAway();
    expect(await soon({ advance }, table.read().catch(String))).toMatch(/nobody listens/);
  });

  it("are read as one", async () => {
    const { even, odd, table, advance } = buildTwo();
    const free = new Map(ALL_SHARDS.map((shard) => [shard, null]));
    await soon({ advance }, table.take(OWNER, free));
    const states: WalletState[] = [];
    for (const database of [even, odd]) {
      const journal = database.journal(caller);
      const epochs = await soon({ advance }, journal.claim(OWNER, ALL_SHARDS));
      const isHere = (id: string): boolean => shardOf(id) % 2 === (database === even ? 0 : 1);
      let walletId = unique("w");
      while (!isHere(walletId)) walletId = unique("w");
      const writes = draft(
        new Map([...free.keys()].map((shard) => [shard, epochs.get(shard) ?? 0])),
      );
      putWallet(writes, walletId, 500, unique("command"));
      states.push(put(writes, walletId, metadataChanged('{"tier":"blue"}')));
      await soon({ advance }, journal.append(writes));
    }
    const reads = buildSimulatedReads([even, odd], caller);
    const ids = states.map(({ walletId }) => walletId);
    expect(await soon({ advance }, reads.walletsById(ids))).toEqual(states);
    expect(await soon({ advance }, reads.walletIdsOfOwner("owner", 10))).toEqual(ids.toSorted());
    for (const state of states) {
      const { walletId } = state;
      expect(await soon({ advance }, reads.wallet(walletId))).toEqual(state);
      expect(await soon({ advance }, reads.walletAt(walletId, 2))).toEqual(state);
      expect(await soon({ advance }, reads.walletAt(walletId, 3))).toBeNull();
      const past = { metadata: '{"tier":"gold"}', version: 1 };
      expect(await soon({ advance }, reads.walletAt(walletId, 1))).toEqual({ ...state, ...past });
      const created = await soon({ advance }, reads.walletAt(walletId, 0));
      expect(created).toMatchObject({ ...past, balanceMinor: 0, version: 0 });
      const events = await soon({ advance }, reads.events(walletId, 1, 10));
      expect(events).toMatchObject([
        { version: 1, type: "WalletCredited", balanceMinor: 500 },
        { version: 2, type: "WalletMetadataChanged", data: { walletMetadata: { tier: "blue" } } },
      ]);
    }
  });
});

// --- Guards left out -----------------------------------------------------------------------------

describe("a planted bug", () => {
  it("of look-ups outside the transaction carries a command out twice", async () => {
    for (const lookupOutsideTransaction of [false, true]) {
      const setting = await buildSetting({ lookupOutsideTransaction });
      const wallet = await setting.open();
      const { walletId } = wallet;
      // Given a command whose first sending is still on its way when the second is made, on the
      // state that will be
      setting.plan = () => ({ ...STEPS, requestMs: 1 });
      const first = setting.journal.append(setting.creditOf(wallet, "command"));
      setting.plan = () => STEPS;
      const second = setting.journal.append(setting.creditOf({ ...wallet, version: 2 }, "command"));
      expect(await soon(setting, first)).toEqual({ type: "committed" });
      const type = lookupOutsideTransaction ? "committed" : "known";
      expect(await second).toMatchObject({ type });
      const events = setting.database.tables.eventsOf.get(walletId)!;
      expect(events.filter(({ commandId }) => commandId === "command").length).toBe(
        lookupOutsideTransaction ? 2 : 1,
      );
    }
  });

  it("of a fence that is not looked at lets a superseded owner write", async () => {
    for (const noEpochCheck of [false, true]) {
      const setting = await buildSetting({ noEpochCheck });
      const wallet = await setting.open();
      const writes = setting.creditOf(wallet);
      await setting.claim();
      const { type } = await soon(setting, setting.journal.append(writes));
      expect(type).toBe(noEpochCheck ? "committed" : "fenced");
    }
  });
});

// --- Places --------------------------------------------------------------------------------------

describe("an event's place in its shard", () => {
  it("is looked up again when nobody knows what became of an append, and left by none", async () => {
    const setting = await buildSetting();
    const wallet = await setting.open();
    // Given one append that is lost before its commit, and one that is lost after it
    for (const [fault, version] of [
      ["lost before commit", 1],
      ["lost after commit", 1],
      [null, 2],
    ] as const) {
      setting.plan = ({ kind }) => (kind === "append" ? { ...AT_ONCE, fault } : AT_ONCE);
      const append = setting.journal.append(setting.creditOf({ ...wallet, version }));
      const type = fault === null ? "committed" : "unknown";
      expect(await soon(setting, append)).toMatchObject({ type });
    }
    // Then the places follow each other
    const events = setting.database.tables.eventsOf.get(wallet.walletId)!;
    expect(events.map(({ position }) => position)).toEqual([1, 2, 3, 4]);
  });

  it("makes an append refused, when it cannot be looked up", async () => {
    const setting = await buildSetting();
    const wallet = await setting.open();
    setting.plan = () => ({ ...AT_ONCE, fault: "lost before commit" });
    await soon(setting, setting.journal.append(setting.creditOf(wallet)));
    const append = setting.journal.append(setting.creditOf(wallet));
    expect(await soon(setting, append)).toMatchObject({ type: "refused" });
  });
});

// --- What the relay asks -------------------------------------------------------------------------

describe("the relay's store", () => {
  async function buildStored() {
    const setting = await buildSetting();
    const wallet = await setting.open();
    const shard = shardOf(wallet.walletId);
    const caller = { name: "host", deliver: (answer: () => void) => answer() };
    const saved: number[] = [];
    const store = buildSimulatedRelayStore(setting.database, caller, ({ position }) =>
      saved.push(position),
    );
    await soon(setting, store.cursors("stream", [shard], true));
    const save = (position: number) =>
      soon(setting, store.save("stream", [{ shard, position, trouble: null }]));
    const positionNow = async () =>
      (await soon(setting, store.cursors("stream", [shard], false)))[0]?.position;
    return { setting, wallet, shard, store, saved, save, positionNow };
  }

  it("reads what is behind a position, in order and no more than asked", async () => {
    const { setting, wallet, shard, store } = await buildStored();
    await soon(setting, setting.journal.append(setting.creditOf(wallet)));
    const read = (position: number, rows: number) =>
      soon(setting, store.read([{ shard, position }], rows));
    expect((await read(0, 2)).map(({ version }) => version)).toEqual([0, 1]);
    expect(await read(1, 9)).toMatchObject([
      { version: 1, position: 2, decimalPlaces: 2 },
      { version: 2, position: 3 },
    ]);
    expect(await read(3, 9)).toEqual([]);
    expect(await soon(setting, store.lastPositions([shard]))).toEqual([{ shard, position: 3 }]);
  });

  it("moves cursors that exist, and only forward", async () => {
    const { setting, store, saved, save, positionNow } = await buildStored();
    await save(2);
    await save(1);
    expect(await positionNow()).toBe(2);
    await soon(setting, store.save("other", [{ shard: 1, position: 2, trouble: null }]));
    expect(await soon(setting, store.cursors("other", [1], false))).toEqual([]);
    expect(saved).toEqual([2]);
  });

  it("has what a crash takes back of its cursors: the latest, and not what is on the disk", async () => {
    const { setting, save, positionNow } = await buildStored();
    await save(1);
    const saving = save(2);
    await saving;
    await setting.advance(5_000);
    setting.database.goAway();
    setting.database.comeBack();
    expect(await positionNow()).toBe(2);
    setting.plan = () => AT_ONCE;
    const late = save(3);
    await setting.advance(10);
    setting.database.goAway();
    setting.database.comeBack();
    await late;
    expect(await positionNow()).toBe(2);
  });
});
