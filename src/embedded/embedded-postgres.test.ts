/**
 * Real starts of the embedded PostgreSQL in temporary folders. One folder serves most tests in
 * turn, since initdb is what takes the time; each test leaves it stopped.
 */
import { execFileSync, spawn, spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { createRequire } from "node:module";
import { createServer, type AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { basename, dirname, join } from "node:path";
import pg from "pg";
import { afterAll, beforeAll, describe, expect, it, onTestFinished } from "vitest";
import { openDatabases } from "../database.ts";
import {
  EmbeddedPostgresError,
  isWorthQuoting,
  startEmbeddedPostgres,
  useEmbeddedPostgres,
  type EmbeddedPostgres,
  type EmbeddedPostgresOptions,
} from "./embedded-postgres.ts";

const settings = { shared_buffers: "16MB", max_connections: "10" };
const isRoot = process.getuid?.() === 0;
let folder: string;
let dataDir: string;

beforeAll(() => {
  folder = fs.mkdtempSync(join(tmpdir(), "coffer-postgres-"));
  fs.chmodSync(folder, 0o755);
  dataDir = join(folder, "data");
});

afterAll(() => fs.rmSync(folder, { recursive: true, force: true }));

async function start(options: Partial<EmbeddedPostgresOptions> = {}): Promise<EmbeddedPostgres> {
  const server = await startEmbeddedPostgres({ dataDir, settings, ...options });
  onTestFinished(() => server.stop());
  return server;
}

async function query(url: string, sql: string): Promise<unknown[]> {
  const client = new pg.Client({ connectionString: url });
  client.on("error", () => {});
  await client.connect();
  try {
    const { rows } = await client.query<unknown[]>({ text: sql, rowMode: "array" });
    return rows.map((row) => (row.length === 1 ? row[0] : row));
  } finally {
    await client.end();
  }
}

async function failure(starting: Promise<unknown>): Promise<EmbeddedPostgresError> {
  const error = await starting.then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toBeInstanceOf(EmbeddedPostgresError);
  return error as EmbeddedPostgresError;
}

const isAlive = (pid: number): boolean => spawnSync("kill", ["-0", String(pid)]).status === 0;
const lockFile = (): string => join(dataDir, "coffer.pid");

/** A process id that certainly belonged to somebody and certainly no longer does. */
const deadPid = (): number => spawnSync("true").pid;

describe("embedded PostgreSQL", { timeout: 20_000 }, () => {
  it("makes a cluster past the remains of an interrupted initdb, and keeps the data over a restart", async () => {
    const remains = join(dataDir, "postgres.init-0123");
    fs.mkdirSync(join(remains, "base"), { recursive: true });

    const first = await start({ settings: { ...settings, fsync: "off" } });
    expect(fs.existsSync(remains)).toBe(false);
    expect(await query(first.url, "SHOW fsync")).toEqual(["on"]);
    expect(await query(first.url, "SHOW unix_socket_directories")).toEqual([""]);
    expect(await query(first.url, "SHOW listen_addresses")).toEqual(["127.0.0.1"]);
    expect(await query(first.url, "SELECT current_database()")).toEqual(["coffer"]);
    await query(first.url, "CREATE TABLE kept AS SELECT 42 AS answer");
    await first.stop();
    expect(await first.exited).toEqual({ code: 0, signal: null, expected: true });
    expect(fs.existsSync(lockFile())).toBe(false);

    const second = await start();
    expect(await query(second.url, "SELECT answer FROM kept")).toEqual([42]);
    const passwordFile = join(dataDir, "postgres", "coffer.password");
    expect(fs.statSync(passwordFile).mode & 0o777).toBe(0o600);
    const stranger = second.url.replace(/coffer:[^@]*@/, "coffer:guess@");
    await expect(query(stranger, "SELECT 1")).rejects.toThrow("password authentication failed");
  });

  it("refuses a folder that a living Coffer uses, and says which process that is", async () => {
    const owner = await start();
    const error = await failure(startEmbeddedPostgres({ dataDir }));
    expect(error.code).toBe("data_dir_in_use");
    expect(error.message).toBe(
      `DATA_DIR ${dataDir} is in use by process ${process.pid}; stop it, or set DATA_DIR to another folder`,
    );
    expect(await query(owner.url, "SELECT 1")).toEqual([1]);
  });

  it("stops the PostgreSQL that a killed Coffer left behind, and starts its own", async () => {
    const orphan = await start();
    await query(orphan.url, "CREATE TABLE committed AS SELECT 7 AS n");
    fs.writeFileSync(lockFile(), `${deadPid()}\nsome boot 1\n`);

    const server = await start();
    expect((await orphan.exited).expected).toBe(false);
    expect(isAlive(orphan.pid)).toBe(false);
    expect(await query(server.url, "SELECT n FROM committed")).toEqual([7]);
  });

  it("refuses a copy that was made while PostgreSQL ran, and takes one that was made after", async () => {
    // Given a server at work, and a copy of its folder
    const owner = await start();
    await query(owner.url, "CREATE TABLE copied AS SELECT 3 AS n");
    const copy = `${dataDir}-copy`;
    onTestFinished(() => fs.rmSync(copy, { recursive: true, force: true }));
    // `cp -a` keeps whose the files are: as root, PostgreSQL has a user of its own.
    const copyNow = (): unknown => execFileSync("cp", ["-a", dataDir, copy]);
    copyNow();

    // Then the copy is refused, by a verify too, whether the original still runs or not
    const pidFile = join(copy, "postgres", "postmaster.pid");
    const message = `DATA_DIR ${copy} was copied from ${dataDir}/postgres while PostgreSQL ran there, so it may be torn; copy it again with Coffer stopped (if nothing ran there after a crash, remove ${pidFile})`;
    const refused = async (): Promise<void> => {
      const error = await failure(startEmbeddedPostgres({ dataDir: copy }));
      expect(error).toMatchObject({ code: "data_dir_copied", message });
      expect(await failure(useEmbeddedPostgres(copy))).toMatchObject({ message });
    };
    await refused();
    expect(await query(owner.url, "SELECT n FROM copied")).toEqual([3]);
    await owner.stop();
    await refused();

    // Also where what it was copied from cannot be looked at
    const copiedPidFile = fs.readFileSync(pidFile, "utf8");
    fs.writeFileSync(pidFile, copiedPidFile.replace(`${dataDir}/postgres`, "/dev/null/postgres"));
    const error = await failure(startEmbeddedPostgres({ dataDir: copy }));
    expect(error.message).toContain("was copied from /dev/null/postgres while");

    // And one that is made now is not, nor is the folder by another name
    fs.rmSync(copy, { recursive: true });
    copyNow();
    const restored = await start({ dataDir: copy });
    expect(await query(restored.url, "SELECT n FROM copied")).toEqual([3]);
    await restored.kill();
    const link = `${dataDir}-link`;
    onTestFinished(() => fs.rmSync(link, { force: true }));
    fs.symlinkSync(copy, link);
    const again = await start({ dataDir: link });
    expect(await query(again.url, "SELECT n FROM copied")).toEqual([3]);
    await again.stop();
  });

  it("takes over a lock whose process number now belongs to another process", async () => {
    fs.writeFileSync(lockFile(), `${process.ppid}\nsome boot 1\n`);
    await start();
    expect(fs.readFileSync(lockFile(), "utf8")).toMatch(new RegExp(`^${process.pid}\n`));
  });

  it("starts over a postmaster.pid whose number now belongs to another process", async () => {
    // PostgreSQL itself only minds a process of its own user.
    const { uid, gid } = fs.statSync(join(dataDir, "postgres"));
    const stranger = spawn("sleep", ["60"], { stdio: "ignore", ...(isRoot ? { uid, gid } : {}) });
    onTestFinished(() => void stranger.kill());
    const pidFile = join(dataDir, "postgres", "postmaster.pid");
    const text = `${stranger.pid}\n${dataDir}/postgres\n1\n5432\n\n127.0.0.1\n`;
    fs.writeFileSync(pidFile, text);

    const server = await start();
    expect(await query(server.url, "SELECT 1")).toEqual([1]);
    expect(stranger.exitCode ?? stranger.signalCode).toBe(null);
  });

  it("loses no commit in a crash, and starts again on the same port", async () => {
    const crashed = await start();
    await query(crashed.url, "CREATE TABLE durable AS SELECT 1 AS n");
    await crashed.kill();
    expect(await crashed.exited).toEqual({ code: null, signal: "SIGKILL", expected: true });

    const again = await start({ port: crashed.port });
    expect(again.url).toBe(crashed.url);
    expect(await query(again.url, "SELECT n FROM durable")).toEqual([1]);
  });

  it("tells its caller when PostgreSQL dies by itself", async () => {
    const server = await start();
    process.kill(server.pid, "SIGKILL");
    expect(await server.exited).toEqual({ code: null, signal: "SIGKILL", expected: false });
  });

  it("is started again when it dies, as soon as it can be, and the log says why it cannot yet", async () => {
    const lines: string[] = [];
    const tell = (line: string): void => void lines.push(line);
    const { urls, stop } = await openDatabases([], dataDir, { warn: tell, error: tell });
    onTestFinished(stop);
    const cluster = join(dataDir, "postgres");
    const password = join(cluster, "coffer.password");

    // When it dies while something that it needs is not there
    fs.renameSync(password, `${password}.away`);
    const pid = fs.readFileSync(join(cluster, "postmaster.pid"), "utf8").split("\n")[0];
    process.kill(Number(pid), "SIGKILL");
    await expect.poll(() => lines.length).toBeGreaterThan(1);
    fs.renameSync(`${password}.away`, password);
    await expect.poll(() => lines.at(-1)).toBe("the embedded PostgreSQL runs again");

    // Then it is back, where it was
    expect(await query(urls[0]!, "SELECT 1")).toEqual([1]);
    expect(lines[0]).toBe("the embedded PostgreSQL ended (SIGKILL), starting it again");
    expect(lines[1]).toMatch(
      /^the embedded PostgreSQL does not start: \/.*coffer\.password, the password of the embedded PostgreSQL, cannot be read: ENOENT/,
    );
  });

  it("names an occupied port", async () => {
    const occupant = createServer();
    await new Promise<void>((done) => occupant.listen(0, "127.0.0.1", done));
    onTestFinished(() => void occupant.close());
    const { port } = occupant.address() as AddressInfo;

    const startedAtMs = Date.now();
    const error = await failure(startEmbeddedPostgres({ dataDir, port }));
    expect(Date.now() - startedAtMs).toBeLessThan(3_000);
    expect(error.code).toBe("port_in_use");
    expect(error.message).toContain(`Port ${port} on 127.0.0.1 is already in use`);
    expect(fs.existsSync(lockFile())).toBe(false);
  });

  it("quotes PostgreSQL when it cannot start", async () => {
    const error = await failure(
      startEmbeddedPostgres({ dataDir, settings: { shared_bufers: "1" } }),
    );
    expect(error.code).toBe("start_failed");
    expect(error.message).toContain('unrecognized configuration parameter "shared_bufers"');
  });

  it.each([
    ["[7] PANIC:  could not write to file: No space left on device", true],
    ["[7] FATAL:  could not write lock file", true],
    ["[7] FATAL:  the database system is not yet accepting connections", false],
    ["[7] FATAL:  the database system is starting up", false],
    ["[7] DETAIL:  Consistent recovery state has not been yet reached.", false],
  ])("quotes %j: %s", (line, expected) => {
    expect(isWorthQuoting(line)).toBe(expected);
  });

  it("says which parent folder of DATA_DIR is closed to the user who runs PostgreSQL", async () => {
    const closed = join(folder, "closed");
    fs.mkdirSync(closed, { mode: 0o000 });
    onTestFinished(() => fs.chmodSync(closed, 0o755));
    const inside = join(closed, "data");
    const error = await failure(startEmbeddedPostgres({ dataDir: inside }));
    expect(error.code).toBe("no_access");
    // As root we get in ourselves, but the user postgres does not.
    const complaint = isRoot ? `may not enter ${closed} ` : `DATA_DIR ${inside} cannot be written`;
    expect(error.message).toContain(complaint);
  });

  it("says that DATA_DIR is a file, and leaves the file as it is", async () => {
    const file = join(folder, "file");
    fs.writeFileSync(file, "mine", { mode: 0o600 });
    const error = await failure(startEmbeddedPostgres({ dataDir: file }));
    expect(error.code).toBe("no_access");
    const told = `DATA_DIR ${file} cannot be written: it is no folder; set DATA_DIR to another folder`;
    expect(error.message).toBe(told);
    expect(fs.statSync(file).mode & 0o777).toBe(0o600);
  });

  describe("with a package whose library links were never made", () => {
    let packageFolder: string;
    const links = (): string[] => {
      const list = fs.readFileSync(join(packageFolder, "native", "pg-symlinks.json"), "utf8");
      return (JSON.parse(list) as { target: string }[]).map((it) => join(packageFolder, it.target));
    };

    beforeAll(() => {
      packageFolder = join(folder, "package");
      const name = `@embedded-postgres/${process.platform}-${process.arch}`;
      const installed = dirname(dirname(createRequire(import.meta.url).resolve(name)));
      const filter = (source: string): boolean => !source.endsWith(".a");
      fs.cpSync(installed, packageFolder, { recursive: true, filter, verbatimSymlinks: true });
      for (const link of links()) fs.rmSync(link, { force: true });
    });

    it("links them under DATA_DIR when the package cannot take them", async () => {
      // A folder's mode does not keep root out. A file in the folder's place keeps everybody out.
      const made = links();
      const list = join(packageFolder, "native", "pg-symlinks.json");
      const text = fs.readFileSync(list, "utf8");
      onTestFinished(() => fs.writeFileSync(list, text));
      fs.writeFileSync(list, text.replaceAll('"target":"native/lib/', '"target":"native/closed/'));
      fs.writeFileSync(join(packageFolder, "native", "closed"), "");
      expect(links().every((link) => dirname(link).endsWith("closed"))).toBe(true);

      const server = await start({ packageFolder });
      expect(await query(server.url, "SELECT 1")).toEqual([1]);
      const linked = fs.readdirSync(join(dataDir, "postgres-libraries"));
      expect(linked.toSorted()).toEqual(made.map((link) => basename(link)).toSorted());
      expect(made.some((link) => fs.existsSync(link))).toBe(false);
    });

    it("makes them, and the binaries executable", async () => {
      fs.chmodSync(join(packageFolder, "native", "bin", "postgres"), 0o644);
      const server = await start({ packageFolder });
      expect(await query(server.url, "SELECT 1")).toEqual([1]);
      expect(links().every((link) => fs.existsSync(link))).toBe(true);
    });
  });
});
