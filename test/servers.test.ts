/** The provisioning itself: crash and restart on the same port, and nothing left behind. */
import { existsSync, readlinkSync } from "node:fs";
import { connect } from "node:net";
import pg from "pg";
import { expect, it, onTestFinished } from "vitest";
import { startNats, startPostgres, startRedis } from "./stage/servers.ts";

function isListening(port: number): Promise<boolean> {
  return new Promise((done) => {
    const socket = connect({ host: "127.0.0.1", port });
    socket.once("connect", () => (socket.destroy(), done(true)));
    socket.once("error", () => done(false));
  });
}

it.each([
  ["nats-server", () => startNats({ jetstream: true })],
  ["redis-server", () => startRedis()],
])("kills %s, restarts it on its port and stops it for good", async (name, start) => {
  const server = await start();
  onTestFinished(() => server.stop());
  const firstPid = server.pid;
  await server.kill();
  expect(server.pid).toBe(0);
  expect(await isListening(server.port)).toBe(false);

  await server.restart();
  expect(server.pid).not.toBe(firstPid);
  expect(await isListening(server.port)).toBe(true);

  const { pid } = server;
  const folder = readlinkSync(`/proc/${pid}/cwd`);
  expect(folder).toContain(`/coffer-${name}-`);
  await server.stop();
  expect(existsSync(`/proc/${pid}`)).toBe(false);
  expect(existsSync(folder)).toBe(false);
});

it("says that a given port is taken", async () => {
  const server = await startRedis();
  onTestFinished(() => server.stop());
  await expect(startNats({ port: server.port })).rejects.toThrow(/NATS .* port \d+/);
});

it("crashes PostgreSQL and starts it again on the same port and data", async () => {
  const server = await startPostgres();
  onTestFinished(() => server.stop());
  const query = async (sql: string): Promise<unknown> => {
    const client = new pg.Client({ connectionString: server.url });
    await client.connect();
    const { rows } = await client.query<unknown[]>({ text: sql, rowMode: "array" });
    await client.end();
    return rows[0]?.[0];
  };
  await query("CREATE TABLE kept AS SELECT 42 AS n");
  await server.kill();
  await expect(query("SELECT 1")).rejects.toThrow();
  await server.restart();
  expect(await query("SELECT n FROM kept")).toBe(42);
});
