/**
 * Where the package lies. The same file runs from `src/` under the tests and from `dist/src/` after
 * a build, so files that are not compiled (migrations, package.json) are found from the folder
 * whose package.json says `coffer`.
 */
import { existsSync, readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const packageRoot: string = findPackageRoot();

function findPackageRoot(): string {
  const start = dirname(fileURLToPath(import.meta.url));
  for (let folder = start; ; folder = dirname(folder)) {
    const file = join(folder, "package.json");
    if (existsSync(file)) {
      const { name } = JSON.parse(readFileSync(file, "utf8")) as { name?: unknown };
      if (name === "coffer") return folder;
    }
    if (folder === dirname(folder)) throw new Error(`No package.json of coffer above ${start}`);
  }
}
