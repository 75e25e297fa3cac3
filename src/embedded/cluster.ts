/**
 * A new PostgreSQL cluster in a data folder, by initdb, and the password that lies in it. It hides
 * that initdb may be cut off at any moment: it works in a folder of its own that is renamed when it
 * is complete, so an interrupted one leaves no half cluster, and when this process ends meanwhile,
 * so does initdb.
 */
import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import * as fs from "node:fs";
import { join } from "node:path";
import { LIMITS } from "../limits.ts";
import { messageOf } from "../message-of.ts";
import { EmbeddedPostgresError, identityOf, startFailed, type Runtime } from "./binaries.ts";
import { blockUntilGone, killGroup } from "./process-lock.ts";

export const SUPERUSER = "coffer";

/**
 * Only called under the lock of `dataDir`: what an interrupted one has left there goes first.
 * @throws EmbeddedPostgresError with the last words of an initdb that failed
 */
export async function createCluster(
  runtime: Runtime,
  dataDir: string,
  cluster: string,
): Promise<void> {
  for (const name of fs.readdirSync(dataDir)) {
    if (!name.startsWith("postgres.init-")) continue;
    fs.rmSync(join(dataDir, name), { recursive: true, force: true, maxRetries: 5 });
  }
  const fresh = join(dataDir, `postgres.init-${randomBytes(6).toString("hex")}`);
  const passwordFile = `${fresh}.password`;
  fs.mkdirSync(fresh, { mode: 0o700 });
  fs.writeFileSync(passwordFile, randomBytes(24).toString("hex"), { mode: 0o600 });
  if (runtime.account !== undefined) {
    fs.chownSync(fresh, runtime.account.uid, runtime.account.gid);
    fs.chownSync(passwordFile, runtime.account.uid, runtime.account.gid);
  }
  const args = ["-D", fresh, "-U", SUPERUSER, `--pwfile=${passwordFile}`, "-A", "scram-sha-256"];
  args.push("-E", "UTF8", "--locale=C", "--locale-provider=builtin", "--builtin-locale=C.UTF-8");
  args.push("--no-instructions");
  const child = spawn(join(runtime.bin, "initdb"), args, {
    ...identityOf(runtime.account),
    env: runtime.env,
    cwd: dataDir,
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
  });
  const discard = (): void => {
    fs.rmSync(fresh, { recursive: true, force: true, maxRetries: 5 });
    fs.rmSync(passwordFile, { force: true });
  };
  const abandon = (): void => {
    // The group that it leads: it has others work for it. Without a number it never began.
    if (child.pid !== undefined) killGroup(child.pid);
    blockUntilGone(child.pid ?? 0, performance.now() + LIMITS.postgresImmediateShutdownMs);
    discard();
  };
  // Before the lock is given back.
  process.prependListener("exit", abandon);
  let output = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.on(
      "data",
      (chunk: Buffer) =>
        (output = (output + chunk.toString()).slice(-LIMITS.postgresInitOutputCharsMax)),
    );
  }
  const code = await new Promise<number | null>((done) => {
    child.once("error", (error) => ((output += error.message), done(null)));
    child.once("close", done);
  });
  process.off("exit", abandon);
  if (code !== 0) {
    discard();
    throw startFailed("initdb could not create the database", output.trim().split("\n"));
  }
  fs.renameSync(passwordFile, join(fresh, "coffer.password"));
  fs.renameSync(fresh, cluster);
}

/** @throws EmbeddedPostgresError when it cannot be read */
export function readPassword(cluster: string): string {
  const file = join(cluster, "coffer.password");
  try {
    return fs.readFileSync(file, "utf8").trim();
  } catch (error) {
    throw new EmbeddedPostgresError(
      "no_access",
      `${file}, the password of the embedded PostgreSQL, cannot be read: ${messageOf(error)}`,
    );
  }
}
