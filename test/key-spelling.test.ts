/**
 * One idempotency key is one key wherever it stands: in a header over HTTP or NATS, in a body, in
 * front of a batch, and in the path of /operations.
 */
import { request } from "node:http";
import { headers as natsHeaders, type NatsConnection } from "nats";
import { afterAll, beforeAll, expect, it } from "vitest";
import { LIMITS } from "../src/limits.ts";
import { askJson } from "./stage/json.ts";
import { unique } from "./stage/ids.ts";
import { startStack, type Stack } from "./stage/stack.ts";

let stack: Stack;
let nats: NatsConnection;

beforeAll(async () => {
  stack = await startStack({ overNats: true });
  nats = await stack.connectNats();
});

afterAll(async () => {
  await stack.close();
});

/** `fetch` writes headers as Latin-1, so this becomes the bytes of UTF-8, as most clients send. */
function inHeader(key: string): string {
  return Buffer.from(key).toString("latin1");
}

async function post(path: string, json: object, key?: string) {
  const { headers, ...answer } = await askJson(`${stack.url}${path}`, json, { key });
  return { ...answer, isReplay: headers.get("idempotent-replayed") === "true" };
}

async function overNats(body: object, key: string): Promise<unknown> {
  const given = natsHeaders();
  given.set("Idempotency-Key", key);
  const options = { timeout: 5_000, headers: given };
  const message = await nats.request("wallets.v1.credit", JSON.stringify(body), options);
  expect(message.headers?.get("Idempotent-Replayed")).toBe("true");
  return message.json<{ data: unknown }>().data;
}

it.each(["z", "ü", "ключ", "鍵", "🗝"])(
  "a key that ends with %s names one outcome, wherever it stands",
  async (end) => {
    const { id: walletId } = await stack.open({ initialBalance: 10 });
    const key = `${unique("key")}-${end}`;
    const path = `/wallets/${walletId}/credit`;
    const first = await post(path, { amount: 1 }, inHeader(key));
    expect([first.status, first.isReplay, first.body.balance]).toEqual([200, false, 11]);
    for (const again of [
      await post(path, { amount: 1 }, inHeader(key)),
      await post(path, { amount: 1, idempotencyKey: key }),
      await post(path, { amount: 1, idempotencyKey: key }, inHeader(key)),
    ]) {
      expect([again.text, again.isReplay]).toEqual([first.text, true]);
    }
    expect(await overNats({ walletId, amount: 1 }, key)).toEqual(first.body);
    const about = `/operations/${encodeURIComponent(key)}?walletId=${walletId}`;
    expect((await stack.get(about)).body).toMatchObject({ outcome: "done", version: 2 });
    expect(await stack.wallet(walletId)).toMatchObject({ balance: 11, version: 2 });
  },
);

it("the longest key there is has as many characters as it may, whatever they are", async () => {
  const { id: walletId } = await stack.open({ initialBalance: 10 });
  const key = `${unique("key")}-`.padEnd(LIMITS.keyLengthMax, "k").replaceAll("k", "🗝");
  const path = `/wallets/${walletId}/credit`;
  const first = await post(path, { amount: 1, idempotencyKey: key });
  expect([first.status, first.body.balance]).toEqual([200, 11]);
  const again = await post(path, { amount: 1 }, inHeader(key));
  expect([again.text, again.isReplay]).toEqual([first.text, true]);
  expect(await overNats({ walletId, amount: 1 }, key)).toEqual(first.body);
  const about = await stack.get(`/operations/${encodeURIComponent(key)}`);
  expect(about.body).toMatchObject({ outcome: "done", walletId, version: 2 });
  const ofBatch = Array.from(key).slice(0, -5).join("");
  const commands = [{ type: "credit", walletId, amount: 1 }];
  await post("/batch", { commands }, inHeader(ofBatch));
  const keyed = { commands, idempotencyKey: ofBatch };
  const replayed = { outcomes: [{ ok: true, replayed: true }] };
  expect((await post("/batch", keyed)).body).toMatchObject(replayed);
  const refused = await post(path, { amount: 1 }, inHeader(`${key}🗝`));
  expect([refused.status, refused.body.code]).toEqual([422, "validation_failed"]);
  expect(await stack.wallet(walletId)).toMatchObject({ balance: 12 });
});

it("the key of a batch is the same in its header, in its body and behind it, in a command's own", async () => {
  const { id: walletId } = await stack.open();
  const key = `${unique("payday")}-ü`;
  const command = { type: "credit", walletId, amount: 1 };
  await post("/batch", { commands: [command] }, inHeader(key));
  const named = { ...command, idempotencyKey: `${key}/0` };
  const replayed = { outcomes: [{ ok: true, replayed: true }] };
  expect((await post("/batch", { commands: [named] })).body).toMatchObject(replayed);
  const keyed = { commands: [command], idempotencyKey: key };
  expect((await post("/batch", keyed)).body).toMatchObject(replayed);
  const message = await nats.request("wallets.v1.batch", JSON.stringify(keyed), { timeout: 5_000 });
  expect(message.json()).toMatchObject({ ok: true, data: replayed });
  expect(await stack.wallet(walletId)).toMatchObject({ balance: 1, version: 1 });
});

it("a reference may stand in the header too", async () => {
  const reference = `${unique("order")}-ü`;
  const body = { user_id: unique("u"), asset_code: "USD", amount: 1, reference_id: reference };
  for (const header of [undefined, inHeader(reference)]) {
    const given = await post("/api/v1/wallets/topup", body, header);
    expect([given.status, given.body.balance]).toEqual([200, 1]);
  }
});

it.each([
  ["in Latin-1", (key: string) => ({ header: `${key}-ü` })],
  ["with a blank before it", (key: string) => ({ inBody: ` ${key}` })],
  ["with a blank behind it", (key: string) => ({ inBody: `${key} ` })],
])("a key %s is refused, since it would be another one elsewhere", async (_how, spell) => {
  const { id } = await stack.open();
  const { header, inBody }: { header?: string; inBody?: string } = spell(unique("key"));
  const body = { amount: 1, ...(inBody !== undefined && { idempotencyKey: inBody }) };
  const given = await post(`/wallets/${id}/credit`, body, header);
  expect([given.status, given.body.code]).toEqual([422, "validation_failed"]);
  expect(await stack.wallet(id)).toMatchObject({ balance: 0, version: 0 });
});

it("two keys in the headers are refused, and not joined into a third one", async () => {
  const { id } = await stack.open();
  const json = Buffer.from('{"amount":1}');
  const headers = { "content-type": "application/json", "content-length": json.length };
  const ask = (keys: string[]) =>
    new Promise<number | undefined>((resolve, reject) => {
      const options = { method: "POST", headers: { ...headers, "idempotency-key": keys } };
      request(`${stack.url}/wallets/${id}/credit`, options, (reply) => {
        reply.resume().once("end", () => resolve(reply.statusCode));
      })
        .once("error", reject)
        .end(json);
    });
  expect(await ask(["one", "another"])).toBe(422);
  expect(await ask(["one", "one"])).toBe(422);
  expect(await stack.wallet(id)).toMatchObject({ balance: 0, version: 0 });
  // A key may have a comma of its own.
  expect(await ask(["one, another"])).toBe(200);
});

it("two keys in the headers of a NATS message are refused", async () => {
  const { id } = await stack.open();
  const given = natsHeaders();
  given.append("Idempotency-Key", "one");
  given.append("idempotency-key", "another");
  const body = JSON.stringify({ walletId: id, amount: 1 });
  const message = await nats.request("wallets.v1.credit", body, { headers: given, timeout: 5_000 });
  expect(message.json()).toMatchObject({ ok: false, error: { code: "validation_failed" } });
  expect(await stack.wallet(id)).toMatchObject({ balance: 0, version: 0 });
});

// --- What is no UTF-8 ----------------------------------------------------------------------------

/** "ü" and "ö" in Latin-1, and two emojis that were cut short. */
const BROKEN = [[0xfc], [0xf6], [0xf0, 0x9f, 0x97], [0xf0, 0x9f, 0x98]];

it("keys that differ only in bytes that are no UTF-8 are refused, and not taken for one", async () => {
  const { id: walletId } = await stack.open();
  const key = unique("key");
  const bodies = BROKEN.map((bytes) => {
    const text = JSON.stringify({ walletId, amount: 1, idempotencyKey: `${key}?` });
    const [before, behind] = text.split("?");
    return Buffer.concat([Buffer.from(before!), Buffer.from(bytes), Buffer.from(behind!)]);
  });
  for (const body of bodies) {
    const headers = { "content-type": "application/json" };
    const reply = await fetch(`${stack.url}/wallets/fund`, { method: "POST", headers, body });
    expect([reply.status, await reply.json()]).toMatchObject([400, { code: "invalid_json" }]);
    const message = await nats.request("wallets.v1.credit", body, { timeout: 5_000 });
    expect(message.json()).toMatchObject({ ok: false, error: { code: "invalid_json" } });
  }
  expect(await stack.wallet(walletId)).toMatchObject({ balance: 0, version: 0 });
});

it("nor is a key over NATS whose header lost its bytes on the way", async () => {
  const { id: walletId } = await stack.open();
  const given = natsHeaders();
  given.set("Idempotency-Key", `${unique("key")}\ufffd`);
  const options = { timeout: 5_000, headers: given };
  const body = JSON.stringify({ walletId, amount: 1 });
  const message = await nats.request("wallets.v1.credit", body, options);
  expect(message.json()).toMatchObject({ ok: false, error: { code: "validation_failed" } });
  expect(await stack.wallet(walletId)).toMatchObject({ balance: 0 });
});
