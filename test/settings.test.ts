/**
 * Bad settings as an operator meets them: the process ends at once, by itself, with a code that is
 * not 0 and one message that names the variable, what was given and what is allowed. A variable
 * that is wrong by itself opens nothing: the addresses of those lead nowhere.
 */
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync, rmdirSync } from "node:fs";
import { join } from "node:path";
import { readFile } from "node:fs/promises";
import { connect, createServer, type AddressInfo } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { expect, inject, it, onTestFinished } from "vitest";
import { withClient } from "../src/database.ts";
import { prepareDatabases } from "../src/deployment.ts";
import { LIMITS } from "../src/limits.ts";
import { askJson } from "./stage/json.ts";
import { freePort } from "./stage/free-port.ts";
import { dataFolder, runCoffer, startCoffer } from "./stage/process.ts";
import { createDatabase, dropDatabase } from "./stage/servers.ts";
import { until } from "./stage/stack.ts";

/** Nearly all of it is Node's own start, with room for a busy machine. */
const AT_ONCE_MS = 10_000;

const postgres = "postgres://coffer:secret@127.0.0.1:1/coffer";
const nats = "nats://127.0.0.1:1";
const redis = "redis://127.0.0.1:1";

type Row = readonly [env: Record<string, string>, lines: readonly string[]];

const rows: readonly Row[] = [
  [{ PORT: "70000" }, ['PORT: got "70000", allowed: a whole number from 0 to 65535']],
  [{ HOST: "a b" }, ['HOST: got "a b", allowed: an IP address or host name to listen on']],
  [{ ROLE: "leader" }, ['ROLE: got "leader", allowed: all, gateway, host']],
  [{ LANES: "0" }, ['LANES: got "0", allowed: a whole number from 1 to 64']],
  [{ HOST_ID: "a.b" }, ['HOST_ID: got "a.b", allowed: 1 to 64 letters, digits, - and _']],
  [
    { LOG_LEVEL: "loud" },
    ['LOG_LEVEL: got "loud", allowed: trace, debug, info, warn, error, fatal, silent'],
  ],
  [
    { DATABASE_URL: "mysql://u:secret@db/x" },
    [
      'DATABASE_URL: got "mysql://u:***@db/x", allowed: postgres://user:password@host:port/database',
    ],
  ],
  [
    { DATABASE_URL: `${postgres},${postgres}` },
    [
      'DATABASE_URL: got "postgres://coffer:***@127.0.0.1:1/coffer,postgres://coffer:***@127.0.0.1:1/coffer", ' +
        "allowed: each database once, not 127.0.0.1:1/coffer twice",
    ],
  ],
  [{ NATS_URL: "bus:4222" }, ['NATS_URL: got "bus:4222", allowed: nats://host:port']],
  [{ REDIS_URL: "http://r" }, ['REDIS_URL: got "http://r", allowed: redis://host:port']],
  [
    { ROLE: "gateway", DATABASE_URL: postgres },
    ["NATS_URL: is not set, allowed: nats://host:port (needed when ROLE is gateway or host, and"],
  ],
  [
    { ROLE: "gateway", NATS_URL: nats },
    ["DATABASE_URL: is not set, allowed: postgres://user:password@host:port/database (needed when"],
  ],
  [
    { ROLE: "host", DATABASE_URL: postgres, REDIS_URL: redis },
    ["NATS_URL: is not set, allowed: nats://host:port (needed when ROLE is gateway or host, and"],
  ],
  [
    { ROLE: "host", DATABASE_URL: postgres, NATS_URL: nats },
    ["REDIS_URL: is not set, allowed: redis://host:port (needed when ROLE is host)"],
  ],
  [
    { ROLE: "host", PORT: "x", LANES: "many" },
    ['PORT: got "x"', "DATABASE_URL: is", "NATS_URL: is", "REDIS_URL: is", 'LANES: got "many"'],
  ],
];

it.each(rows)("ends at once with %j, and says what is allowed", async (env, lines) => {
  // When Coffer starts with it
  const { code, signal, output, elapsedMs } = await runCoffer(env);

  // Then it has ended by itself, and each bad variable has its line, and nothing else is said
  expect({ code, signal }).toEqual({ code: 1, signal: null });
  expect(elapsedMs).toBeLessThan(AT_ONCE_MS);
  const [title, ...told] = output.trimEnd().split("\n");
  expect(title).toBe("Coffer cannot start with these settings:");
  expect(told).toHaveLength(lines.length);
  for (const line of lines) {
    expect(told.filter((one) => one.trimStart().startsWith(line))).toHaveLength(1);
  }
  expect(output).not.toContain("secret");
});

it("names the Node that it needs where an older one runs it", async () => {
  // Given a process that takes itself for Node 18
  const older = "Object.defineProperty(process.versions, 'node', { value: '18.20.8' })";
  const NODE_OPTIONS = `--import=data:text/javascript,${encodeURIComponent(older)}`;
  // When Coffer starts in it
  const { code, output } = await runCoffer({ NODE_OPTIONS });
  // Then it ends, and that is all it says
  expect({ code, output }).toEqual({
    code: 1,
    output: "Coffer needs Node 20.19 or later, and this is 18.20.8\n",
  });
});

it.each(["SIGINT", "SIGTERM", "SIGHUP"] as const)(
  "ends in order at a %s that comes twice",
  async (signal) => {
    const name = `settings_twice_${signal}`;
    const DATABASE_URL = await createDatabase(inject("postgresUrl"), name);
    onTestFinished(() => dropDatabase(inject("postgresUrl"), name));
    const coffer = await startCoffer({ DATABASE_URL });
    // Given one that has heard it from whoever tells all processes
    process.kill(coffer.pid, signal);
    const told = `${signal}: finishing`;
    await until("it ends", () => coffer.output.includes(told));
    // When npm, or the system for a shell that has gone, says so too
    process.kill(coffer.pid, signal);
    // Then it hands its shards over all the same
    expect(await coffer.exited).toEqual({ code: 0, signal: null });
    expect(coffer.output).toContain("256 shards handed over");
    expect(coffer.output.split(told)).toHaveLength(2);
  },
  30_000,
);

it("ends at once when somebody asks again, later than a copy comes", async () => {
  const DATABASE_URL = await createDatabase(inject("postgresUrl"), "settings_again");
  onTestFinished(() => dropDatabase(inject("postgresUrl"), "settings_again"));
  const coffer = await startCoffer({ DATABASE_URL });
  // Given one that waits for a request whose body does not come
  const client = connect(coffer.port, "127.0.0.1");
  onTestFinished(() => void client.destroy());
  client.on("error", () => undefined);
  client.write("POST /wallets HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\n");
  await sleep(200);
  process.kill(coffer.pid, "SIGTERM");
  await sleep(LIMITS.endCopyMs + 200);
  expect(existsSync(`/proc/${coffer.pid}`)).toBe(true);
  // When it is asked again
  process.kill(coffer.pid, "SIGTERM");
  // Then it waits no longer
  const askedMs = performance.now();
  expect(await coffer.exited).toEqual({ code: 1, signal: null });
  expect(performance.now() - askedMs).toBeLessThan(LIMITS.httpClosingMs / 2);
}, 30_000);

/** Something else that listens, until the test is over. */
async function occupy(port: number): Promise<number> {
  const other = createServer();
  await new Promise<void>((done, fail) => {
    other.once("error", fail);
    other.listen(port, "127.0.0.1", done);
  });
  onTestFinished(() => new Promise<void>((done) => other.close(() => done())));
  return (other.address() as AddressInfo).port;
}

function portInUse(port: number): string {
  return `PORT ${port} on 127.0.0.1 is in use; stop what uses it, or set PORT\n`;
}

it("names the port when something else listens there, before it makes a database", async () => {
  // Given a port that is taken, and no data folder yet
  const port = await occupy(0);
  const folder = dataFolder();
  onTestFinished(() => folder.remove());
  rmdirSync(folder.path);

  // When Coffer starts on it
  const env = { PORT: String(port), DATA_DIR: folder.path, LOG_LEVEL: "error" };
  const { code, output } = await runCoffer(env);

  // Then it ends, the one thing it says is what to do, and it leaves nothing behind
  expect(code).toBe(1);
  expect(output).toBe(portInUse(port));
  expect(existsSync(folder.path)).toBe(false);
});

it("serves on beside a second one on its database that cannot start, and again after one that took over", async () => {
  // Given a Coffer that serves
  const DATABASE_URL = await createDatabase(inject("postgresUrl"), "settings_twice");
  onTestFinished(() => dropDatabase(inject("postgresUrl"), "settings_twice"));
  const first = await startCoffer({ DATABASE_URL, HOST_ID: "first" });
  onTestFinished(async () => void (await first.stop()));
  const credit = async (amount: number): Promise<number> =>
    (await askJson(`${first.baseUrl}/wallets/w/credit`, { amount })).status;
  const opened = await askJson(`${first.baseUrl}/wallets`, { walletId: "w" });
  expect(opened.status).toBe(201);

  // When another one is started by mistake on its port, or on one that is taken while it prepares
  // the database
  const second = { DATABASE_URL, HOST_ID: "second" };
  const codes = [(await runCoffer({ ...second, PORT: String(first.port) })).code];
  const port = await freePort();
  const late = await withClient(DATABASE_URL, async (client) => {
    await client.query("BEGIN; LOCK TABLE deployment");
    const ended = runCoffer({ ...second, PORT: String(port), LOG_LEVEL: "error" });
    const waiting = "SELECT FROM pg_locks WHERE relation = 'deployment'::regclass AND NOT granted";
    await until("it prepares", async () => (await client.query(waiting)).rowCount === 1);
    await occupy(port);
    await client.query("COMMIT");
    return await ended;
  });

  // Then they end, and have taken nothing away
  expect([...codes, late.code]).toEqual([1, 1]);
  expect(late.output).toBe(portInUse(port));
  expect(await credit(1)).toBe(200);
  expect(first.output).not.toContain("shards lost");

  // And when one on another port takes over, and ends, then the first has its shards again
  const other = await startCoffer(second);
  await other.stop();
  expect(await credit(2)).toBe(200);
  expect(first.output).toContain("256 shards lost");
  const wallet = await fetch(`${first.baseUrl}/wallets/w`);
  expect(await wallet.json()).toMatchObject({ balance: 3, version: 2 });
}, 60_000);

it("lets many connections wait to be accepted while it is busy", async () => {
  const systemMax = await readFile("/proc/sys/net/core/somaxconn", "utf8").catch(() => "128");
  const connections = Math.min(1_000, Number(systemMax));
  const databaseUrl = await createDatabase(inject("postgresUrl"), "settings_backlog");
  onTestFinished(() => dropDatabase(inject("postgresUrl"), "settings_backlog"));
  const coffer = await startCoffer({ DATABASE_URL: databaseUrl });
  onTestFinished(async () => {
    coffer.resume();
    await coffer.stop();
  });
  // Given one that has no time
  coffer.pause();
  // When many connect
  let connected = 0;
  for (let count = 0; count < connections; count += 1) {
    const socket = connect(coffer.port, "127.0.0.1", () => (connected += 1));
    socket.on("error", () => undefined);
    onTestFinished(() => void socket.destroy());
  }
  // Then each is let in, as far as its client can see
  await expect.poll(() => connected, { timeout: 3_000 }).toBe(connections);
}, 20_000);

it("names the host when there is no such address", async () => {
  const databaseUrl = await createDatabase(inject("postgresUrl"), "settings_host");
  onTestFinished(() => dropDatabase(inject("postgresUrl"), "settings_host"));
  const env = { HOST: "nowhere.invalid", DATABASE_URL: databaseUrl, LOG_LEVEL: "error" };
  const { code, output } = await runCoffer({ ...env, PORT: "0" });
  expect(output).toMatch(
    /^HOST nowhere\.invalid, PORT 0: cannot listen there \(getaddrinfo .*\)\n$/,
  );
  expect(code).toBe(1);
});

it("names the data folder when it cannot be made", async () => {
  const { code, output } = await runCoffer({ DATA_DIR: "/proc/coffer/data", LOG_LEVEL: "error" });
  expect(output).toMatch(
    /^DATA_DIR \/proc\/coffer\/data cannot be written: .*; set DATA_DIR .*\n$/,
  );
  expect(code).toBe(1);
});

it("leaves nothing of a first start that SIGTERM ends while its database is being made", async () => {
  const folder = dataFolder();
  onTestFinished(() => folder.remove());
  const isBeingMade = (): boolean =>
    readdirSync(folder.path).some(
      (name) => !name.endsWith(".password") && existsSync(join(folder.path, name, "PG_VERSION")),
    );
  const { code, output } = await runCoffer({ DATA_DIR: folder.path, LOG_LEVEL: "warn" }, () =>
    until("initdb is at work", isBeingMade),
  );
  expect({ code, output }).toEqual({ code: 0, output: "" });
  expect(readdirSync(folder.path)).toEqual([]);
  const { stdout } = spawnSync("pgrep", ["-af", folder.path], { encoding: "utf8" });
  expect(stdout).toBe("");
});

it("ends in order, without an error line, when its NATS has never come", async () => {
  const url = await createDatabase(inject("postgresUrl"), "settings_no_nats");
  onTestFinished(() => dropDatabase(inject("postgresUrl"), "settings_no_nats"));
  await prepareDatabases([url], () => undefined);
  const gateway = await startCoffer({ ROLE: "gateway", DATABASE_URL: url, NATS_URL: nats });
  await gateway.untilReady(503);
  expect(await gateway.stop()).toEqual({ code: 0, signal: null });
  expect(gateway.output).toContain("SIGTERM");
  expect(gateway.output).not.toContain('"level":50');
});

it("has what Node and the driver warn of in its log", async () => {
  const env = { DATABASE_URL: `${inject("postgresUrl")}?sslmode=require`, LOG_LEVEL: "warn" };
  const { output } = await runCoffer(env);
  const lines = output.split("\n").filter((line) => line.includes("SECURITY WARNING"));
  expect(lines).toHaveLength(1);
  expect(JSON.parse(lines[0]!)).toMatchObject({ level: 40, hostId: expect.any(String) as string });
});

it("warns of migrations of a newer version, and starts all the same", async () => {
  const url = await createDatabase(inject("postgresUrl"), "settings_newer");
  onTestFinished(() => dropDatabase(inject("postgresUrl"), "settings_newer"));
  await prepareDatabases([url], () => undefined);
  await withClient(url, (client) =>
    client.query(
      "INSERT INTO migrations (name, run_on) VALUES ('9998_more', now()), ('9999_most', now())",
    ),
  );
  const coffer = await startCoffer({ DATABASE_URL: url, LOG_LEVEL: "warn" });
  await coffer.untilReady();
  await coffer.stop();
  const lines = coffer.output.split("\n").filter((line) => line.includes("9999_most"));
  expect(lines).toHaveLength(1);
  expect(JSON.parse(lines[0]!)).toMatchObject({
    level: 40,
    msg: expect.stringMatching(/settings_newer.* newer version.*: 9998_more, 9999_most/) as string,
  });
});

it("names the databases that are not in their places", async () => {
  // Given two databases of one deployment
  const names = ["settings_a", "settings_b"];
  const urls = await Promise.all(names.map((name) => createDatabase(inject("postgresUrl"), name)));
  onTestFinished(async () => {
    await Promise.all(names.map((name) => dropDatabase(inject("postgresUrl"), name)));
  });
  await prepareDatabases(urls, () => undefined);

  // When Coffer starts with the list the other way round
  const env = { PORT: "0", DATABASE_URL: urls.toReversed().join(","), LOG_LEVEL: "error" };
  const { code, output } = await runCoffer(env);

  // Then it ends, and the one thing it says is where each belongs
  expect(code).toBe(1);
  const [title, ...lines] = output.trimEnd().split("\n");
  expect(title).toBe(
    "DATABASE_URL must list all databases of one deployment in their order, or wallets would not be found:",
  );
  expect(lines).toEqual([
    expect.stringMatching(/^ {2}number 1 of 2, .*settings_b, is number 2 of 2 in deployment /),
    expect.stringMatching(/^ {2}number 2 of 2, .*settings_a, is number 1 of 2 in deployment /),
  ]);
});
