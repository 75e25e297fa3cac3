/**
 * Pools before a server that takes connections and then says nothing, or goes: nobody waits for it
 * without end. With a real one: `test/database-settings.test.ts`.
 */
import { once } from "node:events";
import { createServer, type AddressInfo, type Socket } from "node:net";

import { expect, it, onTestFinished } from "vitest";

import { buildPool, type PoolOptions } from "./connection.ts";

/** `AuthenticationOk` and `ReadyForQuery`. */
const WELCOME = Buffer.from([0x52, 0, 0, 0, 8, 0, 0, 0, 0, 0x5a, 0, 0, 0, 5, 0x49]);

async function poolBefore(options: Partial<PoolOptions>) {
  const sockets: Socket[] = [];
  const server = createServer((socket) => {
    sockets.push(socket);
    socket.on("error", () => undefined);
    socket.once("data", () => socket.write(WELCOME));
  }).listen(0, "127.0.0.1");
  await once(server, "listening");
  const pool = buildPool(`postgres://me@127.0.0.1:${(server.address() as AddressInfo).port}/none`, {
    name: "test",
    connectMs: 10_000,
    settings: [],
    connectionsMax: 1,
    answerMs: 10_000,
    ...options,
  });
  onTestFinished(async () => {
    for (const socket of sockets) socket.destroy();
    server.close();
    await pool.end();
  });
  return { pool, sockets };
}

it("a question that the server never answers fails after answerMs", async () => {
  const { pool } = await poolBefore({ answerMs: 50 });
  await expect(pool.query("SELECT 1")).rejects.toThrow("timeout");
});

it("there are no more connections than connectionsMax, and the loss of an idle one is told", async () => {
  const lost: Error[] = [];
  const { pool, sockets } = await poolBefore({ onLost: (error) => void lost.push(error) });
  const first = await pool.connect();
  const second = pool.connect();
  expect([pool.totalCount, pool.waitingCount]).toEqual([1, 1]);
  first.release();
  (await second).release();
  expect(sockets).toHaveLength(1);
  sockets[0]!.destroy();
  await expect.poll(() => lost.length).toBe(1);
});
