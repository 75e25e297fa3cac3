/**
 * Dry runs: what would happen is told as it would be, and nothing happens. First on lanes whose
 * commits the test holds, since the answer must not be decided on a state that never comes to be;
 * then over HTTP and NATS for every write, with the rows of every table counted and every subject
 * of the feed listened to; last among real commands under load.
 */
import { headers as newHeaders, type NatsConnection } from "nats";
import { afterAll, beforeAll, beforeEach, describe, expect, it } from "vitest";

import { LIMITS } from "../src/limits.ts";
import { SUBJECTS, type Change, type Command } from "../src/core/protocol.ts";
import { ALL_SHARDS } from "../src/core/shard.ts";
import { unique } from "./stage/ids.ts";
import { database, gateOf, stage, TWO_HOSTS, useLaneStage } from "./stage/lane.ts";
import { startStack, until, type AnyBody, type Stack } from "./stage/stack.ts";
import { commandOf, creation, credit, debit, transfer } from "./stage/staged-commands.ts";
import { onlyOutcome } from "./stage/lanes.ts";
import { openStake, WRITES, type Stake } from "./stage/write-routes.ts";

const TABLES = [
  "events",
  "wallets",
  "rejections",
  "transfers",
  "transfer_verdicts",
  "assets",
  "asset_keys",
];
const COUNTS = `SELECT ${TABLES.map((name) => `(SELECT count(*) FROM ${name})::int AS ${name}`).join(", ")}`;

const dry = (command: Command): Command => ({ ...command, fingerprint: null, dryRun: true });

describe("at the actor", () => {
  useLaneStage("dry_run_test", TWO_HOSTS);

  const counts = async () => (await database.query(COUNTS))[0];

  it("a yes on state that is not committed waits for it", async () => {
    const walletId = await stage.open("a", "10");
    const gate = gateOf();

    // Given a credit whose commit is under way, and a debit that only it makes possible
    const [real] = stage.send(credit(walletId, "5"));
    await stage.quiet();
    const [asked] = stage.send(dry(debit(walletId, "12")));
    await stage.quiet();
    expect([real!.outcomes, asked!.outcomes]).toEqual([[], []]);

    // When the credit is committed, the answer still waits for a commit of its own, which checks
    // the fence
    await gate.pass("committed");
    expect(real!.outcomes.length).toBe(1);
    expect(asked!.outcomes).toEqual([]);
    await gate.pass("committed");

    // Then it is true, and nothing was taken
    expect(onlyOutcome(asked!)).toMatchObject({ type: "done", wallet: { balanceMinor: 300 } });
    delete stage.lane("a").hooks.append;
    expect(await stage.perform(credit(walletId, "1"))).toMatchObject({
      wallet: { balanceMinor: 1600, version: 3 },
    });
  });

  it("a yes on state that never came to be is decided again", async () => {
    const walletId = await stage.open("a", "10");
    gateOf();
    const [real] = stage.send(credit(walletId, "5"));
    await stage.quiet();
    const [asked] = stage.send(dry(debit(walletId, "12")));
    await stage.quiet();

    // When the commit with the credit is lost, another owner takes the wallet's shards, and the
    // credit is never sent again
    stage.kill("a");
    await stage.replace("a", "host-3");
    const [again] = stage.send({ ...asked!.message.command });
    await stage.quiet();

    // Then whoever asks there is told what is true there
    expect(onlyOutcome(again!)).toMatchObject({
      type: "rejected",
      rejection: { code: "insufficient_funds", availableMinor: 1000 },
      replayed: false,
    });
    expect([real!.outcomes, asked!.outcomes]).toEqual([[], []]);
  });

  it.each(["yes", "no"])(
    "a %s whose commit has an unknown outcome is decided again, and leaves nothing",
    async (answer) => {
      const walletId = await stage.open("a", "10");
      const before = await counts();
      const gate = gateOf();
      const [asked] = stage.send(dry(debit(walletId, answer === "yes" ? "4" : "40")));
      await stage.quiet();
      delete stage.lane("a").hooks.append;
      await gate.pass("unknown, not written");
      await stage.settle();
      expect(onlyOutcome(asked!).type).toBe(answer === "yes" ? "done" : "rejected");
      expect(await counts()).toEqual(before);
    },
  );

  it("neither takes nor waits for the outcome of a command with its id", async () => {
    const walletId = await stage.open("a", "10");
    const gate = gateOf();
    const real = debit(walletId, "4");
    const [first] = stage.send(real);
    await stage.quiet();
    const [dryRun] = stage.send(dry(real));
    const [second] = stage.send(real);
    await stage.quiet();
    delete stage.lane("a").hooks.append;
    await gate.pass("committed");
    await stage.quiet();
    expect(onlyOutcome(first!)).toMatchObject({ type: "done", wallet: { balanceMinor: 600 } });
    expect(onlyOutcome(dryRun!)).toMatchObject({ type: "done", wallet: { balanceMinor: 200 } });
    expect(onlyOutcome(second!)).toMatchObject({ type: "replayed", version: 2 });
  });

  it("never writes, however often and late its message comes", async () => {
    const [walletId, other] = [await stage.open("a", "10"), await stage.open("b", "10")];
    const before = await counts();
    const commands = [
      debit(walletId, "4"),
      debit(walletId, "40"),
      transfer(walletId, other, "4"),
      transfer(walletId, "nobody", "4"),
      commandOf(stage.idIn("a"), creation("5")),
      commandOf(walletId, { type: "close" }),
    ].map(dry);
    stage.wire = () => "twice";
    for (const command of commands) {
      for (const attempt of [1, 2, 3]) stage.sendAs(command, { attempt });
      await stage.quiet();
    }
    await stage.settle();
    expect(await counts()).toEqual(before);
    expect(stage.changes.filter(({ wallet }) => wallet.version > 1)).toEqual([]);
  });

  it.each([
    ["two lanes", "b"],
    ["one lane", "a"],
  ])("of a transfer in %s tells how both would stand", async (_name, payeeLane) => {
    const [from, to] = [await stage.open("a", "10"), await stage.open(payeeLane, "1")];
    const before = await counts();
    expect(await stage.perform(dry(transfer(from, to, "4")))).toMatchObject({
      type: "transferred",
      transfer: {
        status: "posted",
        from: { walletId: from, balanceMinor: 600, version: 2 },
        to: { walletId: to, balanceMinor: 500, version: 2 },
      },
    });
    expect(await counts()).toEqual(before);
  });

  it("of a transfer waits for what its payee decides on", async () => {
    const [from, to] = [await stage.open("a", "10"), await stage.open("b", "1")];
    const gate = gateOf(stage.lane("b"));
    const [real] = stage.send(credit(to, "5"));
    await stage.quiet();
    const [asked] = stage.send(dry(transfer(from, to, "4")));
    await stage.quiet();
    expect(asked!.outcomes).toEqual([]);
    await gate.pass("committed");
    expect(real!.outcomes.length).toBe(1);
    expect(asked!.outcomes).toEqual([]);
    await gate.pass("committed");
    expect(onlyOutcome(asked!)).toMatchObject({ transfer: { to: { balanceMinor: 1000 } } });
  });

  it("of a transfer whose payee says no is rejected without a record", async () => {
    const from = await stage.open("a", "10");
    const before = await counts();
    const outcome = await stage.perform(dry(transfer(from, stage.idIn("b"), "4")));
    expect(outcome).toMatchObject({ type: "rejected", rejection: { code: "wallet_not_found" } });
    expect(await counts()).toEqual(before);
  });
});

// --- From outside --------------------------------------------------------------------------------

describe("from outside", () => {
  let stack: Stack;
  let nats: NatsConnection;
  let stake: Stake;
  const changes: Change[] = [];
  /** Wallets that were opened to see that the feed has told of all before them. */
  let markers = 0;

  beforeAll(async () => {
    stack = await startStack({ overNats: true });
    nats = await stack.connectNats();
    for (const shard of ALL_SHARDS) {
      stack.bus.subscribe<Change[]>(SUBJECTS.changes(shard), (batch) => changes.push(...batch));
      stack.bus.subscribe<Change[]>(SUBJECTS.owners(shard), (batch) => changes.push(...batch));
    }
  });

  afterAll(async () => {
    await stack.close();
    expect(stack.errors).toEqual([]);
  });

  beforeEach(async () => {
    stake = await openStake(stack);
  });

  /** Everything that could have been left behind, once the feed has told of all that there is. */
  async function traces() {
    const { id } = await stack.open();
    markers += 1;
    await until("the feed has told of the marker", () =>
      changes.some(({ wallet }) => wallet.walletId === id),
    );
    const [{ events, wallets, ...rest }] = (await stack.sql<Record<string, number>>(COUNTS)) as [
      Record<string, number>,
    ];
    const told = changes.length - markers;
    return { ...rest, events: events! - markers, wallets: wallets! - markers, changes: told };
  }

  async function expectNoTrace(ask: () => Promise<unknown>): Promise<void> {
    const before = await traces();
    await ask();
    expect(await traces()).toEqual(before);
  }

  /**
   * What differs between a foretold answer and the real one: times, and ids that did not exist yet.
   */
  function foretold(text: string): unknown {
    return JSON.parse(text, (name, value: unknown) =>
      ["updatedAt", "createdAt", "transferId"].includes(name) ? null : value,
    );
  }

  it.each(WRITES)("$name tells over HTTP what the same command then does", async (route) => {
    const [path, body] = [route.path(stake), route.body(stake)];
    const ask = (json: object) => stack.ask(route.method, path, { json, key: "the key" });
    let told: Awaited<ReturnType<typeof ask>> | undefined;
    await expectNoTrace(async () => {
      told = await ask({ ...body, dryRun: true });
      expect(await ask({ ...body, dryRun: true })).toMatchObject({ status: route.status });
    });
    expect(told!.headers["dry-run"]).toBe("true");
    expect(told!.headers["idempotent-replayed"]).toBeUndefined();
    expect(told!.headers["location"]).toBeUndefined();

    // The key is free
    const real = await ask({ ...body, dryRun: false });
    expect(real.headers["dry-run"]).toBeUndefined();
    expect(real.headers["idempotent-replayed"]).toBeUndefined();
    expect([told!.status, foretold(told!.text)]).toEqual([real.status, foretold(real.text)]);
    expect(real.status).toBe(route.status);
    if ("transferId" in real.body) expect(told!.body.transferId).toBeNull();

    // And a dry run does not care that it is taken now
    const later = await ask({ ...route.other(stake), dryRun: true });
    expect(later.body.code).not.toBe("idempotency_conflict");
    expect(later.headers["idempotent-replayed"]).toBeUndefined();
  });

  it.each(WRITES)("$name that would be refused leaves no rejection", async (route) => {
    const json = { ...route.body(stake), expectedVersion: 77, dryRun: true };
    await expectNoTrace(async () => {
      const { status, headers, body } = await stack.ask(route.method, route.path(stake), {
        json,
        key: "refused",
      });
      expect(status).toBe(route.name === "create" ? 404 : 409);
      expect(body.code).toBe(route.name === "create" ? "wallet_not_found" : "version_conflict");
      expect(headers["dry-run"]).toBe("true");
    });
    const real = await stack.ask(route.method, route.path(stake), {
      json: { ...route.body(stake) },
      key: "refused",
    });
    expect(real.status).toBe(route.status);
  });

  it("what is wrong at the door is refused as always, and marked", async () => {
    const path = `/wallets/${stake.from}/credit`;
    const wrong = await stack.post(path, { amount: 1, dryRun: "yes" });
    expect([wrong.status, wrong.body.details[0]?.field]).toEqual([422, "dryRun"]);
    const key = await stack.post(path, { amount: 1, dryRun: true, idempotencyKey: "a\u0007" });
    expect([key.status, key.headers["dry-run"]]).toEqual([422, "true"]);
  });

  it("a creation with a key and no id is foretold under some id, and the key makes another", async () => {
    const foretold = await stack.post("/wallets", { initialBalance: 5, dryRun: true }, "no id");
    const made = await stack.post("/wallets", { initialBalance: 5 }, "no id");
    expect([foretold.status, made.status]).toEqual([201, 201]);
    expect(made.body.id).not.toBe(foretold.body.id);
    expect((await stack.get(`/wallets/${foretold.body.id}`)).status).toBe(404);
  });

  const ENDPOINTS: Array<[string, (stake: Stake) => object]> = [
    ["create", ({ to }) => ({ walletId: `${to}-new`, initialBalance: 10 })],
    ["credit", ({ from }) => ({ walletId: from, amount: 10 })],
    ["debit", ({ from }) => ({ walletId: from, amount: 10 })],
    ["transfer", ({ from, to }) => ({ walletId: from, toWalletId: to, amount: 10 })],
    ["update", ({ from }) => ({ walletId: from, metadata: { a: 1 } })],
    ["suspend", ({ empty }) => ({ walletId: empty })],
    ["activate", ({ empty }) => ({ walletId: empty })],
    ["close", ({ empty }) => ({ walletId: empty })],
  ];

  async function overNats(endpoint: string, body: object) {
    const headers = newHeaders();
    headers.set("Idempotency-Key", "by nats");
    const message = await nats.request(`wallets.v1.${endpoint}`, JSON.stringify(body), {
      timeout: 5_000,
      headers,
    });
    type Reply = { ok: boolean; dryRun?: boolean; data?: AnyBody; error?: { code: string } };
    return { mark: message.headers?.get("Dry-Run"), reply: message.json<Reply>() };
  }

  it.each(ENDPOINTS)("%s tells over NATS what the same command then does", async (name, of) => {
    const body = of(stake);
    let told: Awaited<ReturnType<typeof overNats>> | undefined;
    await expectNoTrace(async () => {
      told = await overNats(name, { ...body, dryRun: true });
      const refused = await overNats(name, { ...body, expectedVersion: 77, dryRun: true });
      expect(refused).toMatchObject({ mark: "true", reply: { ok: false, dryRun: true } });
    });
    expect(told).toMatchObject({ mark: "true", reply: { ok: true, dryRun: true } });
    const real = await overNats(name, body);
    expect(real.reply.ok).toBe(true);
    expect(real.reply).not.toHaveProperty("dryRun");
    expect(foretold(JSON.stringify(told!.reply.data))).toEqual(
      foretold(JSON.stringify(real.reply.data)),
    );
  });

  it("POST /assets tells what it would make, and makes nothing", async () => {
    const asset = { code: unique("DRY"), name: "Dry", decimalPlaces: 1 };
    await expectNoTrace(async () => {
      const { status, headers, body } = await stack.post("/assets", { ...asset, dryRun: true });
      expect([status, headers["dry-run"]]).toEqual([201, "true"]);
      expect(body).toEqual({ ...asset, isOwn: true });
      expect((await stack.post("/wallets", { currency: asset.code })).body.code).toBe(
        "asset_not_found",
      );
    });
  });

  it("POST /assets does not ask what became of its key, as all dry runs", async () => {
    const asset = () => ({ code: unique("DRY"), name: "Dry", decimalPlaces: 1 });
    const ask = (json: object, key: string) => stack.ask("POST", "/assets", { json, key });
    const [used, free] = [unique("k"), unique("k")];
    expect((await ask(asset(), used)).status).toBe(201);
    for (const key of [used, free]) {
      const wished = asset();
      const { status, body } = await ask({ ...wished, dryRun: true }, key);
      expect([status, body]).toEqual([201, { ...wished, isOwn: true }]);
    }
    // And leaves it to a real one
    expect((await ask(asset(), free)).status).toBe(201);
    expect((await ask(asset(), used)).body.code).toBe("idempotency_conflict");
  });

  it(
    "among real commands under load money stays what the real ones made it",
    { timeout: 60_000 },
    async () => {
      // Given wallets, and callers of whose commands half are dry runs
      const ids = (
        await Promise.all([1, 2, 3, 4].map(() => stack.open({ initialBalance: 100 })))
      ).map(({ id }) => id);
      const expected = new Map(ids.map((id) => [id, 100]));
      const shift = (id: string, by: number) => expected.set(id, expected.get(id)! + by);
      let [reals, dries] = [0, 0];
      const caller = async (nth: number): Promise<void> => {
        for (let round = 0; round < 40; round += 1) {
          const dryRun = (nth + round) % 2 === 0;
          const [from, to] = [ids[(nth + round) % 4]!, ids[(nth + round * 3 + 1) % 4]!];
          const kind = round % 3;
          const path = ["credit", "debit", "transfer"][kind]!;
          const json = { amount: 7, dryRun, ...(kind === 2 && { toWalletId: to }) };
          const { status } = await stack.post(`/wallets/${from}/${path}`, json);
          expect([200, 400]).toContain(status);
          if (dryRun) dries += 1;
          if (dryRun || status !== 200) continue;
          reals += 1;
          if (kind === 0) shift(from, 7);
          else shift(from, -7);
          if (kind === 2) shift(to, 7);
        }
      };
      await Promise.all(Array.from({ length: 24 }, (_, nth) => caller(nth)));

      // Then each wallet has what the real ones gave and took, and the books balance
      expect([reals > 100, dries > 100]).toEqual([true, true]);
      for (const id of ids) expect((await stack.wallet(id)).balance).toBe(expected.get(id));
      const sums = await stack.sql<{ sum: string }>(
        "SELECT sum(balance)::text AS sum FROM trial_balance GROUP BY currency HAVING sum(balance) <> 0",
      );
      expect(sums).toEqual([]);
    },
  );

  it("past a deadline it is unavailable, never unknown: nothing can have happened", async () => {
    // Given a gateway whose hosts never answer
    const deadline = LIMITS.commandDeadlineMs;
    Object.assign(LIMITS, { commandDeadlineMs: 300, commandAttemptMs: 100 });
    try {
      const besides = await startStack({ besides: stack });
      const silence = besides.bus.publish;
      besides.bus.publish = () => undefined;
      try {
        const path = `/wallets/${stake.from}/credit`;
        const real = await besides.post(path, { amount: 1 }, "unheard");
        const told = await besides.post(path, { amount: 1, dryRun: true }, "unheard");
        expect([real.body.code, told.body.code]).toEqual(["outcome_unknown", "unavailable"]);
        expect(told.headers["dry-run"]).toBe("true");
      } finally {
        besides.bus.publish = silence;
        await besides.close();
      }
    } finally {
      Object.assign(LIMITS, { commandDeadlineMs: deadline, commandAttemptMs: 3_000 });
    }
  });
});
