/** What the Dockerfile promises of the image, where there are no packages for development. */
import { spawnSync } from "node:child_process";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { expect, it, onTestFinished } from "vitest";
import { packageRoot } from "../src/package-root.ts";

/** As in the image: `npm run` finds no compiler. */
const PATH = (process.env["PATH"] ?? "")
  .split(":")
  .filter((folder) => !folder.includes("node_modules"))
  .join(":");

it.each(["migrate", "verify"])("npm run %s needs no compiler in the image", (script) => {
  // Given what the image has of the package, changed as the Dockerfile changes it
  const folder = mkdtempSync(join(tmpdir(), "coffer-image-"));
  onTestFinished(() => rmSync(folder, { recursive: true }));
  copyFileSync(join(packageRoot, "package.json"), join(folder, "package.json"));
  symlinkSync(join(packageRoot, "dist"), join(folder, "dist"));
  const env = { ...process.env, PATH };
  // A test that is blocked is out of reach of its own time limit.
  const options = { cwd: folder, env, encoding: "utf8", timeout: 25_000 } as const;
  const dockerfile = readFileSync(join(packageRoot, "Dockerfile"), "utf8");
  for (const [, command] of dockerfile.matchAll(/^RUN (npm pkg .+)$/gm)) {
    expect(spawnSync("sh", ["-c", command!], options).status).toBe(0);
  }

  // When somebody runs the script there
  const args = ["run", script, "--", "--help"];
  const { status, stdout } = spawnSync("npm", args, options);

  // Then it is run
  expect(stdout).toContain("Usage:");
  expect(status).toBe(0);
});
