/** What is measured is what people start. */
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { expect, it } from "vitest";
import { packageRoot } from "../src/package-root.ts";
import { NODE_FLAGS } from "./processes.ts";

it.each(["start", "dev"])("npm run %s gives Node the flags of the benchmark", (script) => {
  const { scripts } = JSON.parse(readFileSync(join(packageRoot, "package.json"), "utf8")) as {
    scripts: Record<string, string>;
  };
  expect(scripts[script]).toContain(`${NODE_FLAGS.join(" ")} dist/src/main.js`);
});

it("the image gives Node the flags of the benchmark", () => {
  const dockerfile = readFileSync(join(packageRoot, "Dockerfile"), "utf8");
  const flags = NODE_FLAGS.map((flag) => `"${flag}", `).join("");
  expect(dockerfile).toContain(`${flags}"dist/src/main.js"]`);
});
